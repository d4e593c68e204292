import json
import zipfile

import numpy as np
import pyogrio.raw
import pytest
import rasterio.features
import rasterio.warp
from rasterio.transform import from_origin

from base.problem import Problem
from imagery.burning import Burner
from imagery.ground import Grid
from imagery.vectors import box_of, on_grid, read_vectors

shapely = pytest.importorskip("shapely")

UTM = "EPSG:32633"
TRANSFORM = from_origin(365700, 5810000, 0.5, 0.5)
GRID = Grid(40, 50, {"crs": UTM, "transform": list(TRANSFORM)[:6]})
FORMS = {"gpkg": "GPKG", "shp": "ESRI Shapefile", "fgb": "FlatGeobuf", "geojson": "GeoJSON"}


def on_ground(*corners):
    """A polygon of corners given as column, row."""
    return shapely.Polygon([TRANSFORM @ corner for corner in corners])


SQUARE = on_ground((2, 3), (10, 3), (10, 9), (2, 9)).difference(on_ground((4, 5), (6, 5), (6, 7), (4, 7)))
TWO = shapely.union(on_ground((20, 20), (30, 20), (30, 30)), on_ground((40, 1), (45, 1), (45, 6), (40, 6)))


def write(path, geometries, values, crs=UTM, driver="GPKG", **options):
    """Writes polygons and their attribute `class`, with pyogrio alone."""
    blobs = np.array(
        [None if geometry is None else shapely.to_wkb(geometry) for geometry in geometries], object
    )
    options = {"geometry_type": "Unknown", **options}
    if driver == "ESRI Shapefile":
        options["geometry_type"] = "Polygon"
    pyogrio.raw.write(
        path, blobs, [np.array(values)], ["class"], crs=crs, driver=driver, promote_to_multi=False, **options
    )
    return path


def burnt(path, grid=GRID, **options):
    """The class attribute at each pixel, "" where there is none (str [H, W])."""
    vectors = read_vectors(path, "class")
    polygons = on_grid(vectors, grid, path, **options)
    labels, _ = Burner(polygons, grid.shape, False, path).paint(
        polygons.features, polygons.features.astype(np.uint8), 0, grid.height
    )
    return np.array([*vectors.values, *[""] * (256 - len(vectors.values))])[labels]


def expected():
    labels = np.full(GRID.shape, "", "<U1")
    for geometry, value in ((SQUARE, "a"), (TWO, "b")):
        labels[rasterio.features.rasterize([geometry], GRID.shape, transform=TRANSFORM) == 1] = value
    return labels


@pytest.mark.parametrize("suffix", FORMS)
def test_every_form_holds_the_same_pixels(suffix, tmp_path):
    path = write(tmp_path / f"a.{suffix}", [SQUARE, TWO], ["a", "b"], driver=FORMS[suffix])
    assert np.array_equal(burnt(path), expected())
    near = read_vectors(path, "class", box=box_of(GRID, UTM))
    assert near.crs == UTM and {*near.values} == {"a", "b"} and near.dropped == {}


def test_longitude_and_latitude_are_brought_to_the_image(tmp_path):
    plain = write(tmp_path / "a.gpkg", [SQUARE, TWO], ["a", "b"])
    degrees = {"driver": "GeoJSON", "crs": "EPSG:4326", "COORDINATE_PRECISION": "12"}
    moved = [
        shapely.transform(
            shape, lambda points: np.transpose(rasterio.warp.transform(UTM, "EPSG:4326", *points.T))
        )
        for shape in (SQUARE, TWO)
    ]
    path = write(tmp_path / "a.geojson", moved, ["a", "b"], **degrees)
    assert "crs" not in json.loads(path.read_text()) or read_vectors(path).crs == "EPSG:4326"
    assert np.array_equal(burnt(path), burnt(plain))


def test_other_geometries_are_dropped_and_counted(tmp_path):
    shapes = [
        SQUARE,
        None,
        shapely.Point(3, 4),
        shapely.LineString([(1, 2), (3, 4)]),
        shapely.Polygon(),
        shapely.GeometryCollection([shapely.Point(1, 2), TWO]),
    ]
    vectors = read_vectors(write(tmp_path / "a.gpkg", shapes, [*"abcdef"]), "class")
    assert vectors.dropped == {"without geometry": 1, "lines or points": 2, "empty": 1}
    assert vectors.polygons.features.tolist() == [0, 5, 5]


def test_a_sequence_of_features_and_a_single_geometry_are_geojson(tmp_path):
    feature = {"type": "Feature", "properties": {"class": "a"}, "geometry": SQUARE.__geo_interface__}
    lines = tmp_path / "a.geojsonl"
    lines.write_text(f"{json.dumps(feature)}\n{json.dumps(feature)}\n")
    assert len(read_vectors(lines, "class").values) == 2
    single = tmp_path / "b.geojson"
    single.write_text(json.dumps(SQUARE.__geo_interface__))
    assert read_vectors(single).polygons.features.tolist() == [0]
    of_python = {"crs": {"type": "name", "properties": {"name": "EPSG:32633"}}, "features": [feature] * 2}
    assert read_vectors(write(tmp_path / "a.gpkg", [SQUARE], ["a"], crs="EPSG:4326")).crs == "EPSG:4326"
    assert (burnt(tmp_path / "a.gpkg") == "a").sum() == 44  # which are no degrees, whatever it says
    single.write_text(json.dumps({**of_python, "type": "FeatureCollection"}, sort_keys=True))
    assert read_vectors(single, "class").crs == "EPSG:32633"


def test_a_text_that_leads_to_other_files_is_not_opened(tmp_path):
    write(tmp_path / "a.geojson", [SQUARE], ["a"], driver="GeoJSON")
    leading = tmp_path / "b.geojson"
    command = f"gdal vector pipeline ! read {tmp_path / 'a.geojson'}"
    leading.write_text(json.dumps({"type": "gdal_streamed_alg", "command_line": command}))
    with pytest.raises(Problem, match="no known format"):
        read_vectors(leading)
    leading.write_text(
        json.dumps({"a": {"type": "Feature"}, "type": "gdal_streamed_alg", "command_line": command})
    )
    with pytest.raises(Problem, match="expected a whole, readable file"):
        read_vectors(leading)


def test_several_layers_are_listed_and_one_is_named(tmp_path):
    path = write(tmp_path / "a.gpkg", [SQUARE], ["a"], layer="houses")
    write(path, [TWO], ["b"], layer="roads", append=True)
    with pytest.raises(Problem, match=r"2 layers \(houses, roads\), expected one .* data.label_layer"):
        read_vectors(path, "class")
    assert [*read_vectors(path, "class", "roads").values] == ["b"]
    with pytest.raises(Problem, match=r'no layer "trees" \(houses, roads\)'):
        read_vectors(path, "class", "trees")
    with pytest.raises(Problem, match=r'no attribute "kind", expected one of its attributes \("class"\)'):
        read_vectors(path, "kind", "roads")


def test_a_shapefile_lacks_its_index_or_its_coordinate_system(tmp_path):
    path = write(tmp_path / "a.shp", [SQUARE, TWO], ["a", "b"], driver="ESRI Shapefile")
    path.with_suffix(".prj").unlink()
    assert read_vectors(path).crs is None
    assert np.array_equal(burnt(path), expected())
    assert np.array_equal(burnt(path, assume_crs="EPSG:32632"), expected())
    path.with_suffix(".shx").unlink()
    with pytest.raises(Problem, match="no a.shx beside it, expected the files"):
        read_vectors(path)
    assert not path.with_suffix(".shx").exists()


def test_an_image_without_place_is_refused(tmp_path):
    path = write(tmp_path / "a.gpkg", [SQUARE], ["a"])
    with pytest.raises(Problem, match="its image has no georeference, expected one"):
        burnt(path, Grid(4, 5, {"crs": None, "transform": None}))


def test_a_shapefile_that_is_cut_short_or_of_no_earthly_place_is_refused(tmp_path):
    path = write(tmp_path / "a.shp", [SQUARE, TWO], ["a", "b"], driver="ESRI Shapefile")
    local = path.with_suffix(".prj")
    local.write_text(
        'GEOGCS["moon",DATUM["D",SPHEROID["S",1737400,0]],PRIMEM["Reference",0],UNIT["Degree",0.0174]]'
    )
    with pytest.raises(Problem, match="a.shp: .*expected"):
        burnt(path)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(Problem, match=r"a.shp: \d+ bytes, expected \d+ as it says; it may be damaged"):
        read_vectors(path)


def test_changes_beside_a_geopackage_are_not_written_into_it(tmp_path):
    path = write(tmp_path / "a.gpkg", [SQUARE], ["a"])
    before = path.read_bytes()
    (tmp_path / "a.gpkg-wal").write_bytes(b"x")
    with pytest.raises(Problem, match="changes of a program that has it open in a.gpkg-wal"):
        read_vectors(path)
    (tmp_path / "a.gpkg-wal").unlink()
    assert len(read_vectors(path).values or [1]) == 1 and path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.gpkg"]


def test_a_zip_member_is_read_in_place(tmp_path):
    path = write(tmp_path / "a.shp", [SQUARE, TWO], ["a", "b"], driver="ESRI Shapefile")
    with zipfile.ZipFile(tmp_path / "labels.zip", "w") as whole:
        for suffix in (".shp", ".shx", ".dbf", ".prj"):
            whole.write(path.with_suffix(suffix), f"in/a{suffix}")
    assert np.array_equal(burnt(tmp_path / "labels.zip/in/a.shp"), expected())
