import json
import sqlite3

import numpy as np
import pyogrio
import pyogrio.raw
import pytest
import rasterio
from conftest import write_raster
from rasterio.transform import from_origin

from base.problem import Problem
from imagery.arrays import IGNORE
from mapping import map_writer, polygons

shapely = pytest.importorskip("shapely")

CLASSES = {"road": "#ffffff", "house & <garden>": "#0000ff", "tree": "#00ff00"}
CRS = "EPSG:32633"
PLACE = from_origin(366976, 5808000, 0.5, 0.5)
BOTH = ["polygons", "geopackage"]


def wanted(simplify=0, sieve=0):
    return map_writer.Wanted(CLASSES, {}, {}, BOTH, sieve, simplify)


def written(folder, found, simplify=0, crs=CRS, transform=PLACE, sieve=0):
    """(features of the GeoJSON, polygons of the GeoPackage, their classes and areas)."""
    write_raster(folder / "map.tif", found[..., None], crs=crs, transform=transform, nodata=IGNORE)
    polygons.write_polygons(folder / "map.tif", wanted(simplify, sieve))
    features = json.loads((folder / "map.polygons.geojson").read_text())["features"]
    meta, _, blobs, (names, index, colours, areas) = pyogrio.raw.read(
        folder / "map.polygons.gpkg", layer="polygons"
    )
    assert meta["crs"] == crs and list(meta["fields"]) == ["class", "index", "colour", "area_m2"]
    assert [CLASSES[name] for name in names] == list(colours) and [list(CLASSES)[i] for i in index] == list(
        names
    )
    assert [f["properties"]["area_m2"] for f in features] == list(areas)
    return features, shapely.from_wkb(blobs), np.array(index), areas


def blobs(seed=0, size=(120, 90)):
    """A map of winding areas with holes in them, specks, and nodata in a corner and inside."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 3, (size[0] // 10, size[1] // 10)).astype(np.uint8)
    found = coarse.repeat(10, 0).repeat(10, 1)
    rows, cols = np.indices(size)
    found = found[(rows + 4 * np.sin(cols / 7)).astype(int) % size[0], (cols + rows // 3) % size[1]]
    found[rng.random(size) < 0.02] = 1
    found[:15, :20] = found[60:66, 30:41] = IGNORE
    return found


def test_a_geopackage_holds_the_same_areas_in_the_maps_coordinate_system(tmp_path):
    found = blobs()
    features, areas, index, square = written(tmp_path, found)
    for i in range(3):  # burnt again, they are the map
        chosen = [area for area, own in zip(areas, index) if own == i]
        burnt = rasterio.features.rasterize(chosen, found.shape, transform=PLACE)
        np.testing.assert_array_equal(burnt == 1, found == i)
    assert sum(area.area for area in areas) == (found != IGNORE).sum() * 0.25
    assert sum(square) == pytest.approx((found != IGNORE).sum() * 0.25, rel=1e-3)
    assert any(area.interiors for area in areas) and shapely.is_valid(areas).all()
    assert len(features) == len(areas) > 50


def test_a_geopackage_is_the_same_bytes_however_often_sqlite_wrote_it(tmp_path, monkeypatch):
    written(tmp_path, blobs())
    first, finish = (tmp_path / "map.polygons.gpkg").read_bytes(), polygons.finish

    def finish_in_steps(base, wanted):
        for step in range(3):  # more transactions, and pages that lie elsewhere
            base.execute(f"CREATE TABLE other{step} (text TEXT)")
            base.execute(f"INSERT INTO other{step} VALUES (?)", ["x" * 20_000])
            base.commit()
            base.execute(f"DROP TABLE other{step}")
            base.commit()
        finish(base, wanted)

    (tmp_path / "map.polygons.gpkg").unlink()
    monkeypatch.setattr(polygons, "finish", finish_in_steps)
    written(tmp_path, blobs())
    assert (tmp_path / "map.polygons.gpkg").read_bytes() == first
    with sqlite3.connect(tmp_path / "map.polygons.gpkg") as base:
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_geopackage_carries_its_style_and_no_time(tmp_path):
    written(tmp_path, blobs())
    first = (tmp_path / "map.polygons.gpkg").read_bytes()
    with sqlite3.connect(tmp_path / "map.polygons.gpkg") as base:
        name, column, style, default = base.execute(
            "SELECT f_table_name, f_geometry_column, styleQML, useAsDefault FROM layer_styles"
        ).fetchone()
        assert base.execute("SELECT column_name FROM gpkg_geometry_columns").fetchall() == [(column,)]
    assert name == "polygons" and default == 1
    assert style == (tmp_path / "map.polygons.qml").read_text()
    assert "house &amp; &lt;garden&gt;" in style and 'value="0,0,255,255"' in style
    (tmp_path / "map.polygons.gpkg").unlink()
    written(tmp_path, blobs())
    assert (tmp_path / "map.polygons.gpkg").read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "map.polygons.geojson", "map.polygons.gpkg", "map.polygons.qml", "map.tif"
    ]  # fmt: skip


@pytest.mark.parametrize("metres", [1, 2, 50])
def test_simplified_areas_neither_gape_nor_overlap(tmp_path, metres):
    found = blobs()
    _, plain, index, _ = written(tmp_path, found)
    _, areas, simple_index, square = written(tmp_path, found, metres)
    np.testing.assert_array_equal(index, simple_index)
    assert shapely.is_valid(areas).all() and shapely.coverage_is_valid(areas)
    assert sum(area.area for area in areas) == pytest.approx((found != IGNORE).sum() * 0.25, abs=1e-6)
    assert sum(square) == pytest.approx((found != IGNORE).sum() * 0.25, rel=1e-3)
    tree = shapely.STRtree(areas)
    points = shapely.point_on_surface(areas)
    assert tree.query(points, "within")[1].tolist() == list(range(len(areas)))  # each in its own area alone
    assert shapely.get_num_coordinates(areas).sum() < 0.95 * shapely.get_num_coordinates(plain).sum()
    union, before = shapely.union_all(areas), shapely.union_all(plain)
    assert union.symmetric_difference(before).area < 1e-6  # the raster's border and that of nodata stay
    if metres < 50:
        moved = [shapely.hausdorff_distance(a.boundary, b.boundary, 0.1) for a, b in zip(plain, areas)]
        assert 0.2 < max(moved) <= metres + 1e-6


@pytest.mark.parametrize("crs, metre", [("EPSG:3857", 1 / 0.6134), ("EPSG:4326", 1 / 111272)])
def test_metres_of_simplify_are_metres_on_the_ground(tmp_path, crs, metre):
    """At latitude 52.2 a metre of Web Mercator is 0.61 m. Steps of 0.5 m go from 0.5 m on, not before."""
    step = np.array([0.5 * metre, 0.5 * metre])
    if crs == "EPSG:4326":
        step[0] = 0.5 / 68360
    place = from_origin(*((1453779, 6834000) if crs == "EPSG:3857" else (13.06, 52.2)), *step)
    found = np.tril(np.ones((40, 40), np.uint8))
    corners = []
    for simplify in (0, 0.45, 0.55):
        _, areas, _, _ = written(tmp_path, found, simplify, crs, place)
        corners.append(shapely.get_num_coordinates(areas).sum())
    assert corners[0] == corners[1] > 2 * corners[2]


def test_without_its_package_simplify_is_refused_before_the_prediction(monkeypatch):
    monkeypatch.setattr(polygons, "find_spec", lambda name: None)
    polygons.check_simplify({"simplify": 0, "also": BOTH})
    polygons.check_simplify({"simplify": 1, "also": []})
    with pytest.raises(Problem, match="package shapely: not installed, .*make extras, or set simplify: 0"):
        polygons.check_simplify({"simplify": 1, "also": ["geopackage"]})


def test_polygons_stand_only_as_wanted(tmp_path):
    found = blobs()
    written(tmp_path, found)
    paths = [tmp_path / f"map.polygons.{end}" for end in ("geojson", "gpkg", "qml")]
    times = [path.stat().st_mtime_ns for path in paths]
    polygons.write_polygons(tmp_path / "map.tif", wanted())
    assert times == [path.stat().st_mtime_ns for path in paths]
    for options in ({"simplify": 0.5}, {"sieve": 9}):
        polygons.write_polygons(tmp_path / "map.tif", wanted(**options))
        assert all(before != path.stat().st_mtime_ns for before, path in zip(times[:2], paths))
    for damaged in (b"SQLite format 3\0", b""):
        paths[1].write_bytes(damaged)
        polygons.write_polygons(tmp_path / "map.tif", wanted(sieve=9))
        assert len(pyogrio.raw.read(paths[1], layer="polygons")[2]) > 5


def test_a_map_without_data_has_no_areas(tmp_path):
    features, areas, _, _ = written(tmp_path, np.full((9, 7), IGNORE, np.uint8), 1)
    assert features == [] and len(areas) == 0


@pytest.mark.parametrize(
    "crs, middle, step",  # a step of 1.6 m on the ground, east and north
    [
        ("EPSG:32633", [366976, 5808000], (1.6 * 0.999816, 1.6 * 0.999816)),
        ("EPSG:3857", [1453779, 6867000], (2.615, 2.6215)),
        ("EPSG:4326", [13.06, 52.39], (2.34947e-5, 1.43783e-5)),
        ("+proj=utm +zone=33 +units=us-ft", [1203985, 19055049], (1.6 * 3.28023, 1.6 * 3.28023)),
        ("EPSG:3832", [3339584.72, -1908339.07], (1.67263, 1.67263)),  # cut by the antimeridian
        ("EPSG:4326", [180, -17], (1.50255e-5, 1.44575e-5)),
    ],
)
def test_areas_are_square_metres_on_the_ground_in_every_coordinate_system(tmp_path, crs, middle, step):
    found = np.zeros((20, 20), np.uint8)
    found[2:18, 2:18] = 1  # 25.6 m by 25.6 m
    found[9:11, 9:11] = 0
    grid = from_origin(middle[0] - 10 * step[0], middle[1] + 10 * step[1], *step)
    write_raster(tmp_path / "map.tif", found[..., None], crs=crs, transform=grid, nodata=IGNORE)
    polygons.write_polygons(tmp_path / "map.tif", wanted())
    features = json.loads((tmp_path / "map.polygons.geojson").read_text())["features"]
    areas = sorted(f["properties"]["area_m2"] for f in features)
    expected = [4 * 2.56, 400 * 2.56 - 655.36, 655.36 - 4 * 2.56]
    assert areas == pytest.approx(expected, rel=1e-3)
    for feature in features:
        cut = feature["geometry"]["type"] == "MultiPolygon"
        assert cut == (crs == "EPSG:3832")
        for rings in feature["geometry"]["coordinates"] if cut else [feature["geometry"]["coordinates"]]:
            for i, ring in enumerate(rings):
                x, y = (np.array(ring) - ring[0]).T
                assert (np.dot(x[:-1], y[1:]) > np.dot(x[1:], y[:-1])) == (i == 0)
