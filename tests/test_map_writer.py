import json

import numpy as np
import pytest
import rasterio
from conftest import COLOURS, write_raster
from rasterio.transform import from_origin
from rasterio.warp import transform
from skimage.io import imread

from imagery.arrays import IGNORE
from imagery.rasters import Layers, open_raster
from mapping import map_writer, maps

CLASSES = {"road": "#ffffff", "house": "#0000ff"}
CRS = "EPSG:32633"
STEP = maps.WHOLE // maps.CERTAIN
PLACE = {"crs": CRS, "transform": [0.5, 0, 366976, 0, -0.5, 5808000]}
ALL = ["confidence", "uncalibrated", "probabilities", "colours", "polygons", "geopackage"]


@pytest.fixture
def drawn(tmp_path):
    """A map of a house (3 x 4 px) and a speck on a road, with a corner of nodata; and what it was drawn
    from."""
    image = np.full((20, 30, 1), 9, np.uint8)
    image[:5, :5] = 0
    write_raster(
        tmp_path / "image.tif", image, nodata=0, crs=CRS, transform=from_origin(366976, 5808000, 0.5, 0.5)
    )
    found = np.zeros((20, 30, 4), np.uint16)
    found[10:13, 8:12, 0] = found[17, 17, 0] = 1
    found[..., 1] = 140 * STEP
    found[..., 2], found[..., 3] = np.where(found[..., 0], 50, 150), np.where(found[..., 0], 150, 50)
    found[..., 2:] *= STEP

    def write(also, tags={"MODEL": "a"}, least=2):
        with open_raster(tmp_path / "image.tif") as source:
            rows = ((start, np.moveaxis(found[start : start + 8], -1, 0)) for start in (0, 8, 16))
            wanted = map_writer.Wanted(CLASSES, PLACE, tags, also, least, 0)
            layers = Layers(source, None, [1], [None])
            with map_writer.open_map(tmp_path / "map.tif", layers, wanted) as write:
                for row, pixels in rows:
                    write(row, pixels)
        return tmp_path / "map.tif"

    return found, write


def test_what_goes_beside_a_map_says_the_same(drawn):
    found, write = drawn
    path = write(ALL)
    nodata = np.zeros((20, 30), bool)
    nodata[:5, :5] = True
    read = {}
    for what in (None, "confidence", "uncalibrated", "probabilities", "colours"):
        with rasterio.open(path if what is None else maps.beside(path, what)) as source:
            assert source.crs == CRS and list(source.transform)[:6] == PLACE["transform"]
            assert source.tags()["MODEL"] == "a"
            read[what] = np.moveaxis(source.read(), 0, -1)
            if what in maps.PREDICTED:
                assert source.scales == (0.005,) * source.count and source.nodata == IGNORE
                assert source.descriptions == (tuple(CLASSES) if source.count > 1 else (what,))
    np.testing.assert_array_equal(read[None][..., 0], np.where(nodata, IGNORE, found[..., 0]))
    np.testing.assert_array_equal(read["confidence"][..., 0], np.where(nodata, IGNORE, 150))
    np.testing.assert_array_equal(read["uncalibrated"][..., 0], np.where(nodata, IGNORE, 140))
    shares = np.where(nodata[..., None], IGNORE, found[..., 2:] // STEP)
    np.testing.assert_array_equal(read["probabilities"], shares)
    np.testing.assert_array_equal(read["colours"][..., 3], np.where(nodata, 0, 255))
    colours = np.array([(255, 255, 255), (0, 0, 255)])[found[..., 0]]
    np.testing.assert_array_equal(read["colours"][~nodata][:, :3], colours[~nodata])


def test_the_table_of_areas_counts_pixels_with_data_and_sums_their_probabilities(drawn):
    _, write = drawn
    areas = maps.read_areas(write(["confidence"]), CLASSES)
    house = 13  # pixels; the rest, but for 25 without data, is road
    road = 600 - 25 - house
    assert areas == {
        "road": (road, round(0.75 * road + 0.25 * house, 1)),
        "house": (house, round(0.25 * road + 0.75 * house, 1)),
    }
    text = maps.beside(write(["probabilities"]), "areas").read_text().splitlines()
    assert text[0] == "class,pixels,expected_pixels,square_metres,expected_square_metres"
    assert text[2].startswith("house,13,150.2,")
    metres = [float(cell) for cell in text[2].split(",")[3:]]
    assert metres == pytest.approx([13 * 0.25, 150.25 * 0.25], rel=2e-3)
    assert not maps.beside(write([]), "areas").exists()  # that of an earlier map would not be true


def test_polygons_are_in_longitude_and_latitude_with_their_areas_and_without_specks(drawn):
    found, write = drawn
    features = json.loads(maps.beside(write(ALL), "polygons").read_text())["features"]
    areas = {f["properties"]["class"]: f["properties"]["area_m2"] for f in features}
    assert areas == pytest.approx({"house": 12 * 0.25, "road": (600 - 25 - 12) * 0.25}, rel=1e-3)
    house = next(f for f in features if f["properties"]["class"] == "house")["geometry"]["coordinates"]
    expected = transform(CRS, "EPSG:4326", [366976 + 4, 366976 + 6], [5808000 - 5, 5808000 - 6.5])
    np.testing.assert_allclose(np.array(house[0])[:, 0].min(), expected[0][0], atol=3e-7)
    np.testing.assert_allclose(np.array(house[0])[:, 1].max(), expected[1][0], atol=3e-7)
    for feature in features:  # RFC 7946: outer rings counterclockwise, inner ones clockwise
        for i, ring in enumerate(feature["geometry"]["coordinates"]):
            x, y = (np.array(ring) - ring[0]).T
            assert (np.dot(x[:-1], y[1:]) > np.dot(x[1:], y[:-1])) == (i == 0)
    assert len(json.loads(maps.beside(write(ALL, least=0), "polygons").read_text())["features"]) == 3
    merged = json.loads(maps.beside(write(ALL, least=30), "polygons").read_text())["features"]
    areas = [f["properties"]["area_m2"] for f in merged]
    assert areas == pytest.approx([(600 - 25) * 0.25], rel=1e-3)  # nodata, 25 pixels, is given to nobody
    whole = json.loads(maps.beside(write(ALL, least=601), "polygons").read_text())["features"]
    assert len(whole) == 3  # none is large enough to be given any


def test_what_lay_beside_an_earlier_map_goes_with_it(drawn):
    _, write = drawn
    path = write(ALL)
    assert all(
        maps.is_made(part, {"MODEL": "a"}) for part in maps.files_of(path, ALL) if part.suffix == ".tif"
    )
    assert maps.beside(path, "areas") in maps.files_of(path, ALL)
    assert maps.not_made(path, {"MODEL": "a"}, ALL) == []
    assert maps.not_made(path, {"MODEL": "b"}, ["colours", "confidence"]) == ["confidence"]
    for damaged in ("", "class,pixels\n", "class,pixels\nroad\n"):
        maps.beside(path, "areas").write_text(damaged)
        assert maps.not_made(path, {"MODEL": "a"}, ALL) == ["areas"]
    maps.beside(path, "areas").unlink()
    maps.beside(path, "areas").mkdir()
    assert maps.not_made(path, {"MODEL": "a"}, ALL) == ["areas"]
    maps.beside(path, "areas").rmdir()
    assert not maps.is_made(path, {"MODEL": "b"}) and not maps.is_made(path.with_name("other.tif"), {})
    write([], tags={"MODEL": "b"})
    assert not any(maps.beside(path, what).exists() for what in ALL)  # of the earlier map


def test_colours_and_polygons_are_drawn_from_the_map_that_stands_where_they_are_not_as_wanted(drawn):
    _, write = drawn
    path = write(ALL)
    whole = {part: part.read_bytes() for part in path.parent.iterdir()}
    times = {part: part.stat().st_mtime_ns for part in whole}
    wanted = map_writer.Wanted(CLASSES, PLACE, {"MODEL": "a"}, ALL, 2, 0)
    map_writer.write_beside(path, wanted)
    assert times == {part: part.stat().st_mtime_ns for part in whole}
    for name in ("colours", "polygons", "geopackage"):
        maps.beside(path, name).unlink()
    map_writer.write_beside(path, wanted)
    assert whole == {part: part.read_bytes() for part in path.parent.iterdir()}
    map_writer.write_beside(path, wanted._replace(sieve=0))
    assert len(json.loads(maps.beside(path, "polygons").read_text())["features"]) == 3
    map_writer.write_beside(
        path, wanted._replace(also=[])
    )  # what is no longer asked for may stay: it is true
    assert len(list(path.parent.iterdir())) == len(whole)


def test_a_picture_of_a_map_has_its_colours(drawn):
    found, write = drawn
    picture = imread(write([]).with_suffix(".png"))
    assert (
        (picture[11, 9] == COLOURS[1]).all() and (picture[15, 20] == 255).all() and (picture[0, 0] == 0).all()
    )


def test_overviews_of_the_colours_hold_no_colour_that_is_no_class(tmp_path):
    write_raster(tmp_path / "image.tif", np.ones((700, 600, 1), np.uint8))
    classes = {f"class {i}": "#%02x%02x%02x" % tuple(colour) for i, colour in enumerate(COLOURS)}
    found = np.random.default_rng(0).integers(0, 6, (100, 86, 1), np.uint16)
    found = found.repeat(7, 0).repeat(7, 1)[:, :600]
    with open_raster(tmp_path / "image.tif") as source:
        wanted = map_writer.Wanted(classes, {"crs": None, "transform": None}, {}, ["colours"], 0, 0)
        layers = Layers(source, None, [1], [None])
        with map_writer.open_map(tmp_path / "map.tif", layers, wanted) as write:
            write(0, np.moveaxis(found, -1, 0))
    with rasterio.open(tmp_path / "map.colours.tif", overview_level=0) as source:
        seen = {tuple(colour) for colour in np.moveaxis(source.read(), 0, -1).reshape(-1, 4).tolist()}
    assert seen == {(*map(int, colour), 255) for colour in COLOURS}
    with rasterio.open(tmp_path / "map.tif", overview_level=0) as source:
        half = source.read(1)
    four = np.sort(found[..., 0].reshape(350, 2, 300, 2).swapaxes(1, 2).reshape(350, 300, 4), -1)
    clear = four[..., 1] == four[..., 2]  # at least three alike, or two and two others that are not
    np.testing.assert_array_equal(half[clear], four[clear, 1])
