# ruff: noqa: F811  a test takes the fixture that it imports
import shutil

import numpy as np
import pytest
import rasterio
from conftest import write_raster
from rasterio.merge import merge
from rasterio.transform import from_origin
from untrained import read_map, run, write_run  # noqa: F401  a fixture among them

import predict
from base.problem import Problem
from mapping import memory, one_raster

GRID = from_origin(366976, 5808000, 0.05, 0.05)
PLACES = {  # of an image of 150 x 190: uneven, and one a row high
    "a": (slice(0, 70), slice(0, 100)),
    "b": (slice(0, 70), slice(100, 190)),
    "c": (slice(70, 71), slice(0, 190)),
    "d": (slice(71, 150), slice(0, 190)),
}


@pytest.fixture
def image(settings):
    settings["predict"].update(mosaic=True, views=[0], also=["confidence"])
    coarse = np.random.default_rng(1).integers(1, 255, (30, 38, 3)).astype(np.uint8)
    return coarse.repeat(5, 0).repeat(5, 1)


def cut_up(folder, image, places, **profile):
    """Writes the parts of an image [H, W, B], {name: its place}, where they lie in it."""
    for name, place in places.items():
        transform = GRID @ GRID.translation(place[1].start, place[0].start)
        profile = {"crs": "EPSG:32633", **profile, "transform": transform}
        write_raster(folder / f"{name}.tif", image[place], **profile)


def differing(run, places, whole="whole"):
    """How many pixels of the maps, and of their confidence, are not those of the map of the whole."""
    return sum(
        np.count_nonzero(read_map(run, name + way) != read_map(run, whole + way)[place])
        for name, place in places.items()
        for way in ("", ".confidence")
    )


def merged(paths, target, **options):
    """Writes what rasterio makes of these rasters together, the first uppermost."""
    pixels, transform = merge(sorted(paths), **options)
    nodata = options.get("nodata")
    write_raster(target, np.moveaxis(pixels, 0, -1), crs="EPSG:32633", transform=transform, nodata=nodata)


def bytes_of(run):
    return {path.name: path.read_bytes() for path in (run / "predictions").glob("[a-d].*")}


def times_of(run):
    return {path.name: path.stat().st_mtime_ns for path in (run / "predictions").glob("[a-d].tif")}


def test_maps_of_neighbours_are_cuts_of_the_map_of_the_whole(run, settings, tmp_path, image):
    cut_up(tmp_path, image, {"whole": (slice(0, 150), slice(0, 190))})
    cut_up(tmp_path / "parts", image, PLACES)
    predict.main(settings, run, "whole.tif")
    settings["predict"]["mosaic"] = False
    predict.main(settings, run, "parts")
    assert differing(run, PLACES) > 0
    settings["predict"]["mosaic"] = True
    predict.main(settings, run, "parts")
    assert differing(run, PLACES) == 0
    for name, (rows, columns) in PLACES.items():
        with rasterio.open(run / f"predictions/{name}.tif") as source:
            assert source.transform.almost_equals(GRID @ GRID.translation(columns.start, rows.start))
            assert source.crs == "EPSG:32633" and source.tags()["MOSAIC"].startswith("4 rasters ")
    rows = (run / "predict.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["map", "whole", "a", "b", "c", "d"]


def test_only_lacking_maps_are_made_and_a_changed_neighbour_makes_all_anew(run, settings, tmp_path, image):
    cut_up(tmp_path / "parts", image, PLACES)
    predict.main(settings, run, "parts")
    whole, times = bytes_of(run), times_of(run)
    predict.main(settings, run, "parts")
    assert times_of(run) == times
    (run / "predictions/b.tif").unlink()
    predict.main(settings, run, "parts")
    assert bytes_of(run) == whole
    assert [name for name, time in times_of(run).items() if time != times[name]] == ["b.tif"]
    cut_up(tmp_path / "parts", 255 - image, {"d": PLACES["d"]})
    predict.main(settings, run, "parts")
    assert not {*times_of(run).values()} & {*times.values()}


def test_where_rasters_overlap_the_first_that_has_data_is_seen(run, settings, tmp_path, image):
    """Two that overlap in other pixels, the first with a hole; the others leave a gap to the right below."""
    places = {**PLACES, "a": (slice(0, 70), slice(0, 120)), "d": (slice(65, 150), slice(0, 100))}
    del places["c"]
    cut_up(tmp_path / "parts", image, places, nodata=0)
    holed = 255 - image[places["a"]]
    holed[20:40, 90:115] = 0
    transform = GRID
    write_raster(tmp_path / "parts/a.tif", holed, crs="EPSG:32633", transform=transform, nodata=0)
    merged((tmp_path / "parts").glob("*.tif"), tmp_path / "whole.tif", nodata=0)
    predict.main(settings, run, "parts")
    predict.main(settings, run, "whole.tif")
    expected = read_map(run, "whole")
    assert (expected[80:, 110:] == 255).all()
    expected_a = np.where((holed == 0).all(-1), 255, expected[places["a"]])  # its own holes stay
    np.testing.assert_array_equal(read_map(run, "a"), expected_a)
    assert differing(run, {name: places[name] for name in "bd"}) == 0
    assert (read_map(run, "b")[20:40, :15] < 255).all()


def test_a_scale_of_its_own_is_the_same_for_all_and_collars_are_each_ones(run, settings, tmp_path, image):
    """uint16, of which predict.scale auto is found out together; 9 at a raster's border is no data."""
    settings["predict"].update(scale="auto")
    settings["data"]["nodata"] = 9
    deep = image.astype(np.uint16) * np.linspace(20, 200, 190).astype(np.uint16)[:, None]
    deep[:, :8] = 9
    cut_up(tmp_path, deep, {"whole": (slice(0, 150), slice(0, 190))})
    cut_up(tmp_path / "parts", deep, PLACES)
    for name in ("whole.tif", "parts"):
        predict.main(settings, run, name)
    tags = []
    for name in PLACES:
        with rasterio.open(run / f"predictions/{name}.tif") as source:
            tags.append(source.tags()["SCALE"])
    assert len({*tags}) == 1 and "null" not in tags[0]
    assert (read_map(run, "a")[:, :8] == 255).all()
    assert differing(run, PLACES) == 0


def test_a_bad_raster_is_named_and_the_others_are_predicted_as_without_it(run, settings, tmp_path, image):
    cut_up(tmp_path / "parts", image, PLACES)
    whole = (tmp_path / "parts/c.tif").read_bytes()
    (tmp_path / "parts/c.tif").unlink()
    predict.main(settings, run, "parts")
    expected, times = bytes_of(run), times_of(run)
    (tmp_path / "parts/c.tif").write_bytes(whole[:-200])
    for _ in range(2):
        with pytest.raises(Problem) as caught:
            predict.main(settings, run, "parts")
        (line,) = caught.value.lines
        assert caught.value.code == 3 and "parts/c.tif: " in line and "a whole, readable file" in line
        assert bytes_of(run) == expected and times_of(run) == times


def test_an_extra_raster_lies_beside_each(tmp_path, monkeypatch, settings, image):
    monkeypatch.chdir(tmp_path)
    settings["data"]["extra"] = "dsm/{tile}.tif"
    run = write_run(tmp_path / "runs/tiny", settings, bands=4, extra=True, scale=(None,) * 4)
    heights = image[..., :1] // 2
    for folder, pixels in (("parts", image), ("dsm", heights)):
        cut_up(tmp_path / folder, pixels, PLACES)
        cut_up(tmp_path / f"{folder}_whole", pixels, {"whole": (slice(0, 150), slice(0, 190))})
    predict.main(settings, run, "parts", extra="dsm")
    predict.main(settings, run, "parts_whole/whole.tif", extra="dsm_whole/whole.tif")
    assert differing(run, PLACES) == 0


def test_what_cannot_be_written_stops_no_other_and_leaves_nothing(
    run, settings, tmp_path, image, monkeypatch
):
    cut_up(tmp_path / "parts", image, PLACES)
    predict.main(settings, run, "parts")
    expected = {name: content for name, content in bytes_of(run).items() if name[0] != "b"}
    shutil.rmtree(run / "predictions")
    original = one_raster.Output.take

    def failing(output, row, pixels):
        original(output, row, pixels)
        if output.job.name == "b":
            with output.opened:
                raise ValueError("the reason")

    monkeypatch.setattr(one_raster.Output, "take", failing)
    with pytest.raises(Problem, match="raster parts/b.tif: ValueError the reason"):
        predict.main(settings, run, "parts")
    assert {path.name: path.read_bytes() for path in (run / "predictions").iterdir()} == expected


def test_a_mosaic_that_needs_too_much_names_the_setting(run, settings, tmp_path, image, monkeypatch):
    cut_up(tmp_path / "parts", image, PLACES)
    monkeypatch.setattr(memory, "installed", lambda: 5e8)
    with pytest.raises(Problem, match="mosaic of 4 rasters, among them .*a.tif.*predict.mosaic to false"):
        predict.main(settings, run, "parts")
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (100, 200))
    with pytest.raises(Problem, match="about 288 open files, expected at most 200"):
        predict.main(settings, run, "parts")
