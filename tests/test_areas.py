# ruff: noqa: F811  a test takes the fixture that it imports
import json
from pathlib import Path

import numpy as np
import pyogrio.raw
import pytest
import rasterio
from conftest import SIZES
from rasterio.transform import from_origin
from rasterio.warp import transform_geom
from untrained import ortho, read_map, run  # noqa: F401  a fixture among them

import predict
import prepare_data
from base.problem import Problem
from mapping import blending, one_raster

shapely = pytest.importorskip("shapely")

CRS = "EPSG:32633"
PLACE = from_origin(366976, 5808000, 0.05, 0.05)
HOLE = shapely.Polygon([(30, 34), (44, 34), (44, 46), (30, 46)])
AREA = shapely.union(
    shapely.Polygon([(3.2, 2.1), (52.3, 5.2), (50, 60), (9, 50)]).difference(HOLE),
    shapely.box(90, 60, 200, 99),
)  # in pixels: column, row


def on_ground(area):
    return shapely.transform(area, lambda points: np.column_stack(PLACE @ points.T))


def write_area(path, area=AREA, driver="GeoJSON", crs="EPSG:4326", kind="Unknown"):
    outline = shapely.geometry.mapping(on_ground(area))
    geometry = shapely.geometry.shape(transform_geom(CRS, crs, outline))
    options = {"layer": "area", "promote_to_multi": False} if driver == "GPKG" else {}
    blobs = np.array([shapely.to_wkb(geometry)], object)
    pyogrio.raw.write(path, blobs, [], [], crs=crs, driver=driver, geometry_type=kind, **options)
    return str(path)


def inside(area=AREA, shape=(70, 101)):
    """Pixels whose middles lie inside, by shapely."""
    rows, cols = np.indices(shape) + 0.5
    return shapely.contains_xy(area, cols, rows)


@pytest.fixture
def whole(run, settings, tmp_path):
    """A raster with a corner of nodata, and its map without an area."""
    ortho(tmp_path / "a.tif", crs=CRS, transform=PLACE, nodata=0)
    with rasterio.open("a.tif", "r+") as raster:
        raster.write(np.zeros((3, 9, 12), np.uint8), window=((0, 9), (0, 12)))
    settings["predict"].update(window=32, overlap=0.25, views=[0, 3], also=["confidence"])
    predict.main(settings, run, "a.tif")
    return read_map(run, "a"), read_map(run, "a.confidence")


def test_a_map_of_an_area_is_the_map_without_it_cut_out(run, settings, whole, monkeypatch, capsys):
    patches = []
    given = blending.patches_of
    monkeypatch.setattr(
        blending, "patches_of", lambda *all: (patches.append(each) or each for each in given(*all))
    )
    expected = [np.where(inside(), each, 255) for each in whole]
    forms = [
        ("a.geojson", "GeoJSON", "EPSG:4326"),
        ("a.gpkg", "GPKG", "EPSG:25833"),
        ("a.fgb", "FlatGeobuf", CRS),
    ]
    for number, (name, driver, crs) in enumerate(forms):
        patches.clear()
        predict.main(settings, run, "a.tif", aoi=write_area(name, driver=driver, crs=crs))
        for map_, wanted in zip(("a", "a.confidence"), expected):
            np.testing.assert_array_equal(read_map(run, map_), wanted)
        said = capsys.readouterr().out
        assert ("stands already" if number else "replaces the map") in said
        if number == 0:
            windows = blending.Windows(32, 0.25, [0, 3], 4)
            corners = [(row, col) for row in windows.along(70) for col in windows.along(101)]
            with_data = inside() & (whole[0] != 255)
            count = sum(with_data[row : row + 32, col : col + 32].any() for row, col in corners)
            assert 0 < len(patches) == 2 * count < 2 * len(corners)
    predict.main(settings, run, "a.tif", aoi=write_area("b.geojson", shapely.box(5, 5, 20, 20)))
    assert "replaces the map" in capsys.readouterr().out
    np.testing.assert_array_equal(
        read_map(run, "a"), np.where(inside(shapely.box(5, 5, 20, 20)), whole[0], 255)
    )
    predict.main(settings, run, "a.tif")
    np.testing.assert_array_equal(read_map(run, "a"), whole[0])


def test_rasters_outside_of_an_area_are_named_and_passed_over(run, settings, tmp_path, capsys):
    (tmp_path / "many").mkdir()
    for number, name in enumerate("abc"):  # side by side
        place = PLACE @ rasterio.Affine.translation(101 * number, 0)
        ortho(tmp_path / f"many/{name}.tif", crs=CRS, transform=place)
    settings["predict"].update(window=32, overlap=0.25, views=[0], also=[])
    area = write_area("area.geojson", shapely.box(60, 10, 150, 40))
    for mosaic in (False, True):
        settings["predict"]["mosaic"] = mosaic
        predict.main(settings, run, "many")
        before = {name: read_map(run, name) for name in "abc"}
        capsys.readouterr()
        predict.main(settings, run, "many", aoi=area)
        assert "many/c.tif: outside of area.geojson, passed over" in capsys.readouterr().out
        for number, name in enumerate("abc"):
            own = inside(shapely.box(60 - 101 * number, 10, 150 - 101 * number, 40))
            wanted = np.where(own, before[name], 255) if own.any() else before[name]
            np.testing.assert_array_equal(read_map(run, name), wanted)


@pytest.mark.parametrize("check", [True, False])
def test_an_area_that_cannot_be_is_one_line(run, settings, tmp_path, check):
    ortho(tmp_path / "a.tif", crs=CRS, transform=PLACE)
    (tmp_path / "text.geojson").write_text("no area")
    (tmp_path / "none.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    write_area("far.geojson", shapely.box(1000, 1000, 1100, 1100))
    write_area("lines.geojson", AREA.boundary)
    for tile, aoi, code, line in [
        ("a.tif", "no.geojson", 3, 'AOI "no.geojson": no such file, expected polygons'),
        ("a.tif", "text.geojson", 3, "no known format"),
        ("a.tif", "none.geojson", 3, "area none.geojson: no polygon, expected polygons alone"),
        ("a.tif", "lines.geojson", 3, "area lines.geojson: 1 lines or points, expected polygons alone"),
        ("a.tif", "far.geojson", 3, "area far.geojson: no pixel of .*a.tif lies inside"),
    ]:
        with pytest.raises(Problem, match=line) as caught:
            predict.main(settings, run, tile, aoi=aoi, check=check)
        assert caught.value.code == code and len(caught.value.lines) == 1
    assert not (run / "predictions").exists()


def test_an_area_for_tiles_that_are_scored_is_refused(run, settings):
    for tile, rasters, line in [
        (None, [], "given for no --tile"),
        ("2_13", [("2_13", None)], "given for 2_13, of the split"),
    ]:
        with pytest.raises(Problem, match=line) as caught:
            predict.check_aoi("a.geojson", tile, rasters, settings["split"])
        assert caught.value.code == 2
    predict.check_aoi(None, None, [("2_13", None)], settings["split"])
    assert one_raster.Job("a", None, None, settings, run, "").area is None


@pytest.mark.parametrize("name, driver", [("area.gpkg", "GPKG"), ("areas/{tile}.geojson", "GeoJSON")])
def test_outside_of_an_area_nothing_is_labelled_and_the_image_stays(project, settings, name, driver, capsys):
    prepare_data.main(settings, None)
    before = {tile: np.load(f"prepared/{tile}.pixels.npy") for tile in SIZES}
    settings["data"].update(area=name, prepared="again")
    with pytest.raises(Problem, match="tile 2_11, area: no file, expected raw/area"):
        prepare_data.main(settings, None)
    origin = from_origin(365700 + 300 * 11, 5810000 - 300 * 2, 0.05, 0.05)  # of tile 2_11
    square = shapely.box(10, 20, 60, 50)  # columns, rows
    for tile in SIZES if "{tile}" in name else ["2_11"]:
        path = project / "raw" / name.replace("{tile}", tile)
        path.parent.mkdir(exist_ok=True)
        row, col = map(int, tile.split("_"))
        place = from_origin(365700 + 300 * col, 5810000 - 300 * row, 0.05, 0.05)
        everywhere = shapely.box(365000, 5800000, 380000, 5811000).difference(shapely.box(*[0] * 4))
        here = square if tile == "2_11" else shapely.box(0, 0, 300, 300)
        geometry = shapely.transform(here, lambda points: np.column_stack(place @ points.T))
        if "{tile}" not in name:  # one file of all tiles
            rest = shapely.transform(
                shapely.box(0, 0, 93, 70), lambda points: np.column_stack(origin @ points.T)
            )
            geometry = shapely.union(everywhere.difference(rest), geometry)
        blobs = np.array([shapely.to_wkb(geometry)], object)
        pyogrio.raw.write(path, blobs, [], [], crs=CRS, driver=driver, geometry_type="Unknown")
    capsys.readouterr()
    prepare_data.main(settings, None)
    assert "outside data.area 76.96 %" in capsys.readouterr().out
    for tile, pixels in before.items():
        labels = np.load(f"again/{tile}.pixels.npy")
        np.testing.assert_array_equal(labels[..., :3], pixels[..., :3])
        expected = pixels[..., 3].copy()
        if tile == "2_11":
            outside = np.ones(expected.shape, bool)
            outside[20:50, 10:60] = False
            expected[outside] = 255
        np.testing.assert_array_equal(labels[..., 3], expected)
    row = json.loads(Path("again/manifest.json").read_text())["tiles"]["2_11"]
    assert row["outside_area"] == 70 * 93 - 30 * 50 and "area" in row["raw"]
