# ruff: noqa: F811  a test takes the fixture that it imports
import contextlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from conftest import SIZES, write_raster
from hypothesis import given
from hypothesis import strategies as st
from untrained import ortho, read_map, run, write_run  # noqa: F401  a fixture among them

import predict
import prepare_data
from base.problem import Problem
from imagery import scales
from imagery.rasters import Layers, open_raster
from mapping.sources import asked_scale

# -- which values a raster's own ask for ---------------------------------------------------------------------


def layers_of(path, bands=(1,)):
    opened = contextlib.ExitStack()
    return opened, Layers(opened.enter_context(open_raster(path)), None, list(bands), [None])


@pytest.mark.parametrize("shape", [(1, 1), (16, 40), (17, 3), (300, 200)])
def test_small_rasters_give_their_own_percentiles(tmp_path, shape):
    image = np.random.default_rng(0).integers(200, 4000, shape).astype(np.uint16)
    write_raster(tmp_path / "a.tif", image)
    opened, layers = layers_of(tmp_path / "a.tif")
    with opened:
        (band,) = scales.values(layers)
    low, high = scales.percentiles_of(band)
    assert set(band) == set(image.ravel())  # every row, some twice
    expected = np.percentile(image, [2, 98]) if image.size > 1 else [image[0, 0], image[0, 0] + 1]
    assert [low, high] == pytest.approx(list(expected), rel=0.05)


def test_only_valid_and_finite_values_count(tmp_path):
    image = np.full((60, 50), 7, np.float32)
    image[:20], image[20:30] = -9999, np.nan
    image[30, :3] = np.inf
    image[40:] = 9
    write_raster(tmp_path / "a.tif", image, nodata=-9999)
    opened, layers = layers_of(tmp_path / "a.tif")
    with opened:
        (band,) = scales.values(layers)
    assert set(band) == {7, 9} and scales.percentiles_of(band) == [7, 9]
    assert scales.percentiles_of(band[:0]) == [0, 1] and scales.percentiles_of(band[:5]) == [7, 8]


def test_of_a_large_raster_a_bounded_part_is_read_the_same_every_time():
    read = []

    def rows(start, stop):
        read.append((start, stop))
        return [np.arange(start, stop)[:, None] + np.zeros((1, 40_000), np.uint32)]

    layers = SimpleNamespace(
        shape=(40_000, 40_000), planes=rows, valid=lambda start, stop: np.ones((stop - start, 40_000), bool)
    )
    (band,) = scales.values(layers)
    assert sum(stop - start for start, stop in read) <= 33 * 16 and band.size <= 33 * 16 * 8192
    assert scales.percentiles_of(band) == pytest.approx([800, 39_200], abs=800)  # from top to bottom
    assert (scales.values(layers)[0] == band).all()


@given(st.floats(-1e4, 1e4), st.floats(1e-2, 1e6))
def test_rounded_limits_hold_what_they_were_made_of_and_little_more(low, width):
    rounded = scales.rounded(low, low + width)
    assert rounded[0] <= low + 1e-4 * width and rounded[1] >= (low + width) - 1e-4 * width
    assert rounded[1] - rounded[0] <= 1.25 * width


# -- predict.scale -------------------------------------------------------------------------------------------


def test_a_deep_raster_is_refused_with_advice_that_gives_the_map_of_its_bytes(
    run, settings, tmp_path, capsys
):
    image = ortho(tmp_path / "bytes.tif", (90, 80))
    write_raster(tmp_path / "deep.tif", image.astype(np.uint16) * 257)
    with pytest.raises(Problem) as caught:
        predict.main(settings, run, "deep.tif")
    assert caught.value.code == 3 and "data.scale" not in str(caught.value)
    assert "uint16 pixels in band 1" in str(caught.value)
    assert "set predict.scale to auto or [low, high], the values that become 0 and 255" in str(caught.value)
    settings["predict"]["scale"] = [0, 65535]
    predict.main(settings, run, "bytes.tif")  # squeezed, which is said
    assert "its values fill only 0..1 of 0..255 by predict.scale" in capsys.readouterr().out
    settings["predict"]["scale"] = None
    predict.main(settings, run, "bytes.tif")
    expected = read_map(run, "bytes")
    settings["predict"]["scale"] = [0, 65535]
    capsys.readouterr()
    predict.main(settings, run, "deep.tif")
    assert "warning" not in capsys.readouterr().out
    np.testing.assert_array_equal(read_map(run, "deep"), expected)
    settings["predict"]["scale"] = "auto"
    predict.main(settings, run, "deep.tif")
    low, high = scales.percentiles_of(image[..., 0].ravel() * 257.0)
    told = capsys.readouterr().out
    assert f"predict.scale auto, by percentiles 2 and 98: {low:g}..{high:g} become 0 and 255, " in told
    assert "model.json, of an earlier version, does not name the levels of the training tiles" in told
    with rasterio.open(run / "predictions/deep.tif") as source:
        assert json.loads(source.tags()["SCALE"])[0] == pytest.approx([low, high], rel=0.02)
    predict.main(settings, run, "bytes.tif")  # bytes stay where the network takes bytes
    np.testing.assert_array_equal(read_map(run, "bytes"), expected)
    told = capsys.readouterr().out
    assert "98: as it is, as it is, as it is\n" in told and "warning" not in told
    predict.main(settings, run, "deep.tif")
    assert "stands already" in capsys.readouterr().out


def test_tiles_of_the_split_are_read_as_they_were_prepared(run, settings, tmp_path, capsys):
    settings["data"].update(image="{tile}.tif", raw=".")
    settings["predict"].update(scale=[100, 120], compare=True)
    ortho(tmp_path / "2_13.tif", (70, 66))
    predict.main(settings, run, None)
    assert "warning" not in capsys.readouterr().out
    for name in ("2_13", "2_13.one_view", "2_13.side_by_side"):
        with rasterio.open(run / f"predictions/{name}.tif") as source:
            assert json.loads(source.tags()["SCALE"]) == [None] * 3
    write_raster(tmp_path / "2_13.tif", np.ones((70, 66, 3), np.uint16))
    with pytest.raises(
        Problem, match="uint16 pixels .*a tile of the split is read as the network was trained"
    ):
        predict.main(settings, run, None)


def test_the_extra_raster_stays_as_it_was_learned_unless_it_has_an_entry(settings):
    facts = {"bands": [1, 2, 3], "extra": True, "scale": [None, None, None, [0, 30]]}
    for scale, expected in [
        (None, facts["scale"]),
        ("auto", ["auto"] * 3 + [[0, 30]]),
        ([1, 2], [[1, 2]] * 3 + [[0, 30]]),
        ([None, [1, 2], None, "auto"], [None, [1, 2], None, "auto"]),
    ]:
        settings["predict"]["scale"] = scale
        assert asked_scale("a", settings, facts) == expected
        assert asked_scale("2_13", settings, facts) == facts["scale"]  # of the split
    settings["predict"]["scale"] = [None, None]
    with pytest.raises(Problem, match="predict.scale: 2 entries, expected one for each of the network's 4"):
        asked_scale("a", settings, facts)


def test_advice_after_predicting_names_predict_scale(tmp_path, monkeypatch, settings, capsys):
    monkeypatch.chdir(tmp_path)
    run = write_run(tmp_path / "runs/tiny", settings, scale=[[1000, 4000]] * 3)
    ortho(tmp_path / "a.tif")
    predict.main(settings, run, "a.tif")
    told = capsys.readouterr().out
    assert "100 % of a band outside the scale that the network was trained with" in told
    assert "set predict.scale to auto or [low, high]" in told and "data.scale" not in told
    run = write_run(tmp_path / "runs/tiny", settings, scale=[[0, 10_000]] * 3)
    predict.main(settings, run, "a.tif")  # none of its values is outside, all are black
    assert "its values fill only 0..6 of 0..255 by the scale that the network was trained with" in (
        capsys.readouterr().out
    )


# -- data.scale ----------------------------------------------------------------------------------------------


def prepare(project, settings, change, scale):
    """Prepares tiles whose images `change` made of their bytes; returns the lines of a refusal, or []."""
    for path in sorted(project.glob("raw/2_Ortho_RGB/*.tif")):
        with rasterio.open(path) as source:
            image, place = (
                np.moveaxis(source.read(), 0, -1),
                {"crs": source.crs, "transform": source.transform},
            )
        write_raster(path, change(image, path.name[12:16]), **place)
    settings["data"]["scale"] = scale
    try:
        prepare_data.main(settings, project / "runs/tiny")
    except Problem as problem:
        assert problem.code == 3 and not list(project.glob("prepared/*.npy"))
        return list(problem.lines)
    return []


def deep(factor):
    return lambda image, tile: (image.astype(float) * factor).astype(np.uint16)


@pytest.mark.parametrize("change", [deep(1), deep(16)], ids=["8 bit", "12 bit"])
def test_a_scale_of_the_type_squeezes_what_uses_little_of_it(project, settings, change):
    lines = prepare(project, settings, change, [0, 65535])
    assert len(lines) == 1 and "squeezes all tiles into less than 16 of 256 levels" in lines[0]
    fit = json.loads(lines[0].split("set data.scale to ")[1].split(", which")[0])
    assert len(fit) == 2 and fit[1] - fit[0] < (5000 if "16" in str(fit[1]) or fit[1] > 300 else 300)
    settings["data"]["scale"] = fit
    prepare_data.main(settings, project / "runs/tiny")  # the advice helps
    rows = json.loads((project / "prepared/manifest.json").read_text())["tiles"]
    assert max(high for _, high in rows["2_13"]["levels"]) > 200


def test_reflectances_one_dark_tile_and_one_flat_band_are_fit(project, settings):
    def change(image, tile):
        return (image.astype(float) * (1 if tile == "2_10" else 10) + 200).astype(np.uint16)

    assert prepare(project, settings, change, [0, 10_000]) == []


def test_a_scale_that_clips_most_of_a_tile_is_refused_with_its_own_numbers(project, settings):
    def change(image, tile):
        return (image.astype(float) * 10 + (9000 if tile == "3_10" else 0)).astype(np.uint16)

    lines = prepare(project, settings, change, [0, 3000])
    assert len(lines) == 3 and all(line.startswith("tile 3_10, band") for line in lines)
    assert "most of it outside data.scale [0, 3000]" in lines[0]
    low, high = map(float, lines[0].split("percentiles 2 and 98: ")[1].split(";")[0].split(" to "))
    assert 9000 < low < high < 12_000
    settings["data"]["scale"] = json.loads(lines[0].split("set data.scale to ")[1].split(", which")[0])
    prepare_data.main(settings, project / "runs/tiny")


def test_bytes_under_a_scale_for_deeper_rasters_are_refused_at_once(project, settings):
    lines = prepare(project, settings, lambda image, tile: image, [0, 2040])
    assert len(lines) == 4 and "uint8 pixels in band 1" in lines[0]
    assert "squeezes to less than half of 0..255, expected null, bytes as they are" in lines[0]


@pytest.mark.parametrize("heights, refused", [((-0.2, 0.05), False), ((0, 0.4), False), ((80, 110), True)])
def test_flat_ground_is_no_reason_to_refuse_heights_and_another_datum_is(project, settings, heights, refused):
    settings["data"]["extra"] = "dsm/{tile}.tif"
    rng = np.random.default_rng(0)
    for tile, shape in SIZES.items():
        write_raster(project / f"raw/dsm/{tile}.tif", rng.uniform(*heights, shape).astype(np.float32))
    lines = prepare(project, settings, lambda image, tile: image, [None, None, None, [0, 30]])
    assert bool(lines) == refused
    if refused:
        assert "set data.scale to [null, null, null, [80, 110]], which holds" in lines[0]


def test_heights_under_the_scale_of_all_bands_are_refused_where_it_squeezes_them(project, settings):
    settings["data"]["extra"] = "dsm/{tile}.tif"
    rng = np.random.default_rng(0)
    for tile, shape in SIZES.items():
        write_raster(project / f"raw/dsm/{tile}.tif", rng.uniform(0, 30, shape).astype(np.float32))
    lines = prepare(project, settings, deep(16), [0, 4080])
    assert len(lines) == 1 and "squeezes their extra rasters into less than 16 of" in lines[0]
    settings["data"]["scale"] = json.loads(lines[0].split("set data.scale to ")[1].split(", which")[0])
    prepare_data.main(settings, project / "runs/tiny")
    rows = json.loads((project / "prepared/manifest.json").read_text())["tiles"]
    assert min(high - low for low, high in rows["2_13"]["levels"]) > 150


def test_pixels_that_a_scale_squeezed_to_the_same_are_no_copies(project, settings):
    lines = prepare(project, settings, lambda image, tile: image.astype(np.float32) / 255, [0, 10_000])
    assert len(lines) == 1 and "squeezes all tiles into" in lines[0]


def test_of_bytes_as_they_are_nothing_is_counted(project, settings):
    assert prepare(project, settings, lambda image, tile: image, None) == []
    rows = json.loads((project / "prepared/manifest.json").read_text())["tiles"]
    assert rows["2_13"]["levels"] == [None] * 3


def test_auto_brings_a_raster_to_the_levels_of_the_training(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(40, 121, (64, 64, 1)).astype(np.uint8)
    tile = SimpleNamespace(bands=1, image=image, labels=np.zeros((64, 64), np.uint8))
    tile.labels[:8] = 255
    image[:8] = 250  # not labelled, not counted
    ((dark, bright),) = learned = scales.learned_levels([tile, tile])
    assert 40 <= dark <= 46 and 114 <= bright <= 120
    write_raster(tmp_path / "a.tif", rng.integers(40, 121, (64, 64)).astype(np.uint16) * 257)
    opened, layers = layers_of(tmp_path / "a.tif")
    with opened:
        (limits,) = scales.settled(["auto"], layers, [None], learned)
    assert limits == pytest.approx([0, 65535], abs=2500)  # as if it were those bytes
