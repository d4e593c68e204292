# ruff: noqa: F811  a test takes the fixture that it imports
from unittest import mock

import numpy as np
import pytest
from conftest import SIZES, write_raster
from hypothesis import given
from hypothesis import strategies as st
from rasterio.transform import from_origin
from skimage.measure import label
from test_prepare_data import pixels_of, place_of, raster_of
from untrained import read_map, run  # noqa: F401  a fixture among them

import predict
import prepare_data
from base.problem import Problem
from base.settings import read_settings
from imagery import collars
from imagery.arrays import IGNORE
from imagery.collars import Collar, likely_collar
from imagery.ground import resampled
from imagery.rasters import Layers, open_raster
from imagery.tiles import open_prepared, read_manifest
from learning.records import training_inputs


def drawn(text):
    """The pixels # of a drawing, bool [H, W]."""
    return np.array([[sign == "#" for sign in row] for row in text.split()])


def reaching(mask, rows=1000):
    """What of a mask (bool [H, W]) hangs together with the border, by bands of so many rows."""
    bands = [(start, min(start + rows, len(mask))) for start in range(0, len(mask), rows)]
    with mock.patch.object(collars, "strips", lambda *_: bands):
        bits = collars.reaching_the_border(np.packbits(mask, 1), mask.shape[1])
    return np.unpackbits(bits, 1, mask.shape[1]).view(bool)


SPIRAL = """
#########
........#
.######.#
.#....#.#
.#.##.#.#
.#.#..#.#
.#.####.#
.#......#
.########"""
ISLAND = """
##......
#..##...
...##..#
.......#
..#....#
.#.....#"""
DIAMOND = """
###.###
##...##
#..#..#
.......
#.....#
##...##
###.###"""


@pytest.mark.parametrize("rows", [1, 2, 3, 1000])
def test_known_answers(rows):
    spiral, island, diamond = map(drawn, (SPIRAL, ISLAND, DIAMOND))
    assert (reaching(spiral, rows) == spiral).all()  # which winds inwards from the first pixel
    cut = spiral.copy()
    cut[0, 8] = cut[8, 1:] = False
    cut[:, 8] = False  # neither corner nor side: the inner windings hang together with nothing
    assert (reaching(cut, rows) == (cut & (np.arange(9) < 8) & (np.arange(9)[:, None] < 1))).all()
    alone = np.zeros_like(island)
    alone[1:3, 3:5] = alone[4, 2] = True  # touches another by a corner only
    alone[5, 1] = False
    assert (reaching(island, rows) == island & ~alone).all()
    inside = np.zeros_like(diamond)
    inside[2, 3] = True
    assert (reaching(diamond, rows) == diamond & ~inside).all()
    for pixel in (True, False):
        assert reaching(np.full((1, 1), pixel), rows).item() is pixel


@given(st.data())
def test_what_hangs_together_with_the_border_is_what_labelling_the_whole_says(data):
    height, width = data.draw(st.integers(1, 25)), data.draw(st.integers(1, 25))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    mask = rng.random((height, width)) < data.draw(st.sampled_from([0.3, 0.5, 0.6, 0.7, 0.9]))
    areas = label(mask, connectivity=1)
    edge = np.unique(np.concatenate([areas[0], areas[-1], areas[:, 0], areas[:, -1]]))
    expected = np.isin(areas, edge[edge > 0])
    np.testing.assert_array_equal(reaching(mask, data.draw(st.integers(1, 9))), expected)


def scene(shape=(120, 170), seed=4):
    """Pixels without any flat part, uint8 [H, W, 3]."""
    return np.random.default_rng(seed).integers(1, 255, (*shape, 3)).astype(np.uint8)


def footprint(shape):
    """True outside of a scene that lies askew in its raster."""
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    return np.abs(rows / shape[0] - 0.5) + np.abs(cols / shape[1] - 0.5) > 0.5


@pytest.mark.parametrize(
    "dtype, value, nodata",
    [
        ("uint8", (0, 0, 0), 0),
        ("uint8", (0, 0, 0), "#000000"),
        ("uint8", (255, 254, 253), "#fffefd"),
        ("uint16", (65535,) * 3, 65535),
        ("int16", (-32768,) * 3, -32768),
        ("float32", (-3.4028234663852886e38,) * 3, -3.4028234663852886e38),
        ("float32", (0.1, 0.1, 0.1), 0.1),
    ],
)
def test_values_are_the_files_own(tmp_path, dtype, value, nodata):
    image, outside = scene().astype(dtype), footprint((120, 170))
    image[outside] = value
    image[60:64, 80:90] = value  # a car's roof
    image[:3, 0, 0] = 7  # of one band alone another: data
    write_raster(tmp_path / "a.tif", image)
    with open_raster(tmp_path / "a.tif") as raster:
        collar = Collar(raster, [1, 2, 3], nodata)
        layers = Layers(raster, None, [1, 2, 3], [[0, 1]] * 3, collar)
        valid = np.concatenate([layers.valid(start, start + 40) for start in (0, 40, 80)])
    outside[:3, 0] = False
    np.testing.assert_array_equal(valid, ~outside)
    assert collar.share == pytest.approx(outside.mean())


def test_a_colour_is_that_of_the_first_three_bands(tmp_path):
    image = np.concatenate([scene(), scene(seed=5)], -1)[..., :4]
    image[:9, :, :3] = 0
    write_raster(tmp_path / "a.tif", image, photometric="minisblack")
    with open_raster(tmp_path / "a.tif") as raster:
        for bands, nodata, rows in (([1, 2, 3, 4], "#000000", 9), ([3, 2, 1, 4], 0, 0), ([2, 1], 0, 9)):
            expected = np.zeros((120, 170), bool)
            expected[:rows] = True
            np.testing.assert_array_equal(Collar(raster, bands, nodata).rows(0, 120), expected)


@pytest.mark.parametrize("scale", [(0.1, 0.1), (0.31, 0.5), (0.77, 0.77), (2, 3.7), (0.3, 1.4), (1, 0.4)])
def test_a_resampled_pixel_has_no_data_where_a_pixel_without_has_a_part_in_it(tmp_path, scale):
    place = {"crs": "EPSG:32633", "transform": from_origin(4e5, 5e6, 0.1, 0.1)}
    outside = footprint((120, 170))
    write_raster(tmp_path / "mask.tif", outside[..., None].astype(np.float32), **place)
    image = scene()
    image[outside] = 0
    write_raster(tmp_path / "a.tif", image, **place)
    with open_raster(tmp_path / "mask.tif") as raster, resampled(raster, scale) as grid:
        part = grid.read(1) != 0  # GDAL's own share of such pixels
    with open_raster(tmp_path / "a.tif") as raster, resampled(raster, scale) as grid:
        collar = Collar(raster, [1, 2, 3], 0, grid).rows(0, grid.height)
    assert collar.shape == part.shape and not (part & ~collar).any()
    assert collar.mean() < part.mean() + 2.5 / min(collar.shape) * 2  # and hardly a pixel more


# -- likely ones -------------------------------------------------------------------------------------------


def likely_of(path, image, bands, **profile):
    write_raster(path, image, **profile)
    with open_raster(path) as raster:
        collar = likely_collar(raster, bands)
        return collar and (collar.nodata, round(collar.share, 3))


def likely(path, image, **profile):
    return likely_of(path, image, [1, 2, 3] if image.ndim == 3 else [1], **profile)


@pytest.mark.parametrize("value", [np.finfo(np.float32).min, 1e20, 0.1, -9999, 16_777_213])
def test_the_value_that_the_advice_names_is_the_collars(tmp_path, value):
    image = scene()[..., 0].astype(np.float32)
    image[:, :20] = value
    write_raster(tmp_path / "a.tif", image)
    with open_raster(tmp_path / "a.tif") as raster:
        collar = likely_collar(raster, [1])
        told = collars.advice(collar.nodata, collar.share)
        named = float(told.split("data.nodata: ")[1].split(" ")[0])
        np.testing.assert_array_equal(Collar(raster, [1], named).rows(0, 120), collar.rows(0, 120))
    assert collar.share == 20 / 170


def test_a_likely_collar_is_told_with_value_and_share(tmp_path):
    path, outside = tmp_path / "a.tif", footprint((120, 170))
    image = scene()
    image[outside] = 0
    assert likely(path, image) == ("#000000", round(float(outside.mean()), 3))
    image[outside] = (255, 255, 255)
    assert likely(path, image) == ("#ffffff", round(float(outside.mean()), 3))
    deep = scene().astype(np.uint16)
    deep[:, :20] = 65535
    assert likely(path, deep) == (65535, round(20 / 170, 3))
    assert likely(path, deep[..., 0]) == (65535, round(20 / 170, 3))
    assert likely(path, deep, nodata=65535) is None  # the file says it
    corner = scene((200, 200))
    corner[np.add.outer(np.arange(200), np.arange(200)) < 35] = 0
    assert likely(path, corner)[0] == "#000000"


def test_what_people_build_and_the_sun_leaves_dark_is_no_collar(tmp_path):
    path = tmp_path / "a.tif"
    roof, shadow, opaque = scene((300, 300)), scene((300, 300)), np.full((120, 170, 1), 255, np.uint8)
    roof[:, 80:140][:90] = 255  # 6 % of the raster, at its border
    shadow[250:, 250:] = 0  # in a corner, 2.8 %
    shadow[255:290:5, 250::7] = 3
    assert likely(path, roof) is None and likely(path, scene()) is None
    roof = scene((300, 300))
    roof[:39, :39] = 255  # 1.7 %, in a corner
    assert likely(path, roof) is None
    shadow[:, :], shadow[270:, 270:] = scene((300, 300)), 0
    assert likely(path, shadow) is None
    hidden = np.concatenate([scene(), opaque], -1)
    hidden[:30] = 0
    assert likely(path, hidden, photometric="RGB", alpha="yes") is None
    hidden[..., 3] = 255  # which hides nothing
    assert likely_of(path, hidden, [1, 2, 3], photometric="RGB", alpha="yes") == ("#000000", 0.25)
    assert likely(path, np.full((1, 1, 3), 7, np.uint8)) == ("#070707", 1)


# -- in the steps ------------------------------------------------------------------------------------------


def with_collar(project, tile="2_13"):
    """Gives a tile a black canvas and a black roof inside; True in the canvas."""
    path = raster_of(project, "image", tile)
    image, outside = np.maximum(pixels_of(path), 1), footprint(SIZES[tile])
    image[outside] = 0
    image[40:44, 30:36] = 0
    write_raster(path, image, **place_of(tile))
    return outside


@pytest.mark.parametrize("nodata", [0, "#000000"])
def test_prepared_labels_of_a_collar_are_ignored_and_counted(project, settings, nodata, capsys):
    outside = with_collar(project)
    prepare_data.main(settings, project / "runs/tiny")
    row, said = read_manifest(project / "prepared")["tiles"]["2_13"], capsys.readouterr().out
    assert row["nodata"] == 0 and row["likely_collar"] == ["#000000", pytest.approx(outside.mean())]
    share = f"{100 * outside.mean():.0f} % of it is #000000 at its border"
    assert said.count("warning") == 1 and f"warning: tile 2_13: {share}" in said
    assert 'set data.nodata: "#000000" if' in said
    before, inputs = open_prepared(settings["data"], "2_13").labels.copy(), training_inputs(settings)
    settings["data"]["nodata"] = nodata
    with pytest.raises(Problem, match="prepared with other data settings"):
        open_prepared(settings["data"], "2_13")
    prepare_data.main(settings, project / "runs/tiny")
    row, said = read_manifest(project / "prepared")["tiles"]["2_13"], capsys.readouterr().out
    assert row["nodata"] == outside.sum() and row["likely_collar"] is None and "warning" not in said
    assert f"image without data {100 * outside.mean():.2f} %" in said
    before[outside] = IGNORE
    np.testing.assert_array_equal(open_prepared(settings["data"], "2_13").labels, before)
    assert training_inputs(settings) == inputs  # no tile that was trained on is another


def test_a_training_tile_with_a_collar_is_another_training(project, settings):
    with_collar(project, "2_11")
    prepare_data.main(settings, project / "runs/tiny")
    before = training_inputs(settings)
    settings["data"]["nodata"] = 0
    prepare_data.main(settings, project / "runs/tiny")
    after = training_inputs(settings)
    assert after != before and {**after, "tiles": 0} == {**before, "tiles": 0}


def test_a_map_has_no_class_in_a_collar(run, settings, tmp_path, capsys):
    image, outside = scene((150, 90)), footprint((150, 90))
    image[outside] = 0
    image[70:74, 40:50] = 0
    write_raster(tmp_path / "a.tif", image)
    predict.main(settings, run, "a.tif")
    before, said = read_map(run, "a"), capsys.readouterr().out
    assert (before < 6).all() and said.count("at its border") == 1
    assert f"a.tif: {100 * outside.mean():.0f} % of it is #000000 at its border" in said
    settings["data"]["nodata"] = "#000000"
    predict.main(settings, run, "a.tif")
    before[outside] = IGNORE
    np.testing.assert_array_equal(read_map(run, "a"), before)
    predict.main(settings, run, "a.tif")
    said = capsys.readouterr().out
    assert "at its border" not in said and said.count("stands already") == 1


def test_a_resampled_map_has_no_class_in_a_collar(run, settings, tmp_path):
    image, outside = scene((150, 90)), footprint((150, 90))
    image[outside] = 0
    write_raster(tmp_path / "a.tif", image, crs="EPSG:32633", transform=from_origin(4e5, 5e6, 0.025, 0.025))
    settings["predict"]["resample"] = True
    settings["data"]["nodata"] = 0
    predict.main(settings, run, "a.tif")
    some = outside.reshape(75, 2, 45, 2).any((1, 3))
    np.testing.assert_array_equal(read_map(run, "a") == IGNORE, some)


def test_a_colour_needs_three_bands(project, settings):
    from conftest import save_settings

    settings["data"].update(bands=[1, 2], nodata="#000000")
    save_settings(project, settings)
    with pytest.raises(Problem, match="key data.nodata: .#000000., expected a number unless data.bands"):
        read_settings(project / "tiny.yaml")
