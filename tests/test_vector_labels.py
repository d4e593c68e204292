import json
import re

import numpy as np
import pyogrio.raw
import pytest
import rasterio.features
from conftest import SETTINGS, SIZES
from test_burning import polygons_of, square

import prepare_data
from base.problem import Problem
from imagery.annotations import BOX
from imagery.vector_labels import PolygonReader

shapely = pytest.importorskip("shapely")

DATA = {
    **SETTINGS["data"],
    "classes": {"ground": "#ffffff", "house": "#0000ff", "tree": "#00ff00"},
    "label_values": None,
    "ignore_colours": [],
    "label_field": "kind",
}
SHAPES = [[square(0, 0, 4, 4)], [square(2, 2, 6, 6)], [square(5, 0, 6, 1)]]


def read(values, shapes=SHAPES, **data):
    """(labels, outcomes, unknown values, what the manifest says) of polygons of these values, 6 x 6 px."""
    values = None if values is None else np.array(values, object)
    reader = PolygonReader((polygons_of(*shapes), values, {}), (6, 6), {**DATA, **data}, "a.gpkg")
    labels, outcomes, unknown = reader.read(0, 6)
    return labels, outcomes.tolist(), unknown, reader.counts


def test_values_are_names_of_classes_and_the_later_class_covers_the_earlier():
    labels, outcomes, unknown, counts = read(["tree", "house", "ground"])
    assert (labels == 2).sum() == 16 and (labels == 1).sum() == 12 and labels[0, 5] == 0
    assert outcomes == [29, 0, 7, 0] and unknown == {} and counts["overlaps"] == 4


@pytest.mark.parametrize("order", ["file", ["ground", "tree", "house"]])
def test_another_order_of_covering(order):
    assert (read(["tree", "house", "ground"], label_order=order)[0] == 1).sum() == 16


def test_the_background_is_what_no_polygon_covers():
    labels, outcomes, _, _ = read(["tree", "house", "house"], background="ground")
    assert (labels == 0).sum() == 7 and outcomes == [36, 0, 0, 0]


def test_without_an_attribute_all_polygons_are_of_the_one_class_beside_the_background():
    two = {"classes": {"ground": "#ffffff", "house": "#0000ff"}, "background": "ground", "label_field": None}
    labels, *_ = read(None, **two)
    assert (labels == 1).sum() == 29 and (labels == 0).sum() == 7
    with pytest.raises(
        Problem, match="no attribute tells whether a polygon is house or tree, expected its name"
    ):
        read(None, background="ground", label_field=None)


def test_several_values_of_a_class_numbers_or_texts():
    values = {"ground": 3, "house": [111, "hut "], "tree": "true"}
    assert (read([111.0, "hut", "x"], label_values=values)[0] == 1).sum() == 28
    assert (read(["111", " hut", "3"], label_values=values)[0] == 1).sum() == 28
    assert (read([True, 3, 3], label_values=values)[0] == 2).sum() == 16
    assert read([["hut"], 3, 3], label_values=values)[2] == {"['hut']": 12}


def test_unknown_values_count_where_no_other_covers_them_and_ignored_ones_cover_all():
    labels, outcomes, unknown, counts = read(["tree", "lawn", None], background="ground")
    assert (labels == 2).sum() == 16 and (labels == 255).sum() == 13 and (labels == 0).sum() == 7
    assert outcomes == [23, 0, 0, 13] and unknown == {"lawn": 12, "null": 1}
    assert counts["unknown_values"] == {"lawn": 1, "null": 1} and counts["polygons"] == 3
    labels, outcomes, unknown, _ = read(
        ["tree", "lawn", "tree"], ignore_colours=["lawn"], background="ground"
    )
    assert (labels == 255).sum() == 16 and outcomes == [20, 0, 16, 0] and unknown == {}


def test_a_box_without_polygon_is_no_background_and_hides_no_polygon():
    labels, outcomes, unknown, counts = read(["tree", BOX, "house"], background="ground")
    assert (labels == 2).sum() == 16 and (labels == 255).sum() == 12 and (labels == 0).sum() == 7
    assert outcomes == [24, 0, 12, 0] and unknown == {} and counts["polygons"] == 2


def test_more_unknown_values_than_codes_are_counted_together():
    shapes = [[square(n % 6, n // 6, n % 6 + 1, n // 6 + 1)] for n in range(36)] * 8
    _, outcomes, unknown, counts = read([f"x{n}" for n in range(288)], shapes)
    assert outcomes[3] == 36 and sum(unknown.values()) == 36 and counts["polygons"] == 288


def test_crossed_polygons_are_counted():
    shapes = [[[(0, 0), (4, 4), (4, 0), (0, 4)]], [square(0, 0, 1, 1)]]
    assert read(["tree", "lawn"], shapes)[3]["crossed"] == 1


def polygonised(project, tiles, path, crs="EPSG:32633"):
    """Writes prepared labels of tiles as polygons of one GeoPackage whose attribute is the class's name."""
    geometries, names = [], []
    for tile in tiles:
        with rasterio.open(project / f"raw/2_Ortho_RGB/top_potsdam_{tile}_RGB.tif") as image:
            transform = image.transform
        labels = np.ascontiguousarray(np.load(project / f"prepared/{tile}.pixels.npy")[..., 3])
        for shape, value in rasterio.features.shapes(labels, transform=transform):
            geometries.append(shapely.to_wkb(shapely.geometry.shape(shape)))
            names.append([*SETTINGS["data"]["classes"]][int(value)])
    columns = {"geometry": np.array(geometries, object), "field_data": [np.array(names)], "fields": ["kind"]}
    pyogrio.raw.write(path, **columns, geometry_type="Polygon", crs=crs, driver="GPKG")


def test_one_geopackage_of_all_tiles_makes_the_same_prepared_pixels(prepared, settings, capsys):
    before = {path.name: path.read_bytes() for path in (prepared / "prepared").glob("*.pixels.npy")}
    polygonised(prepared, SIZES, prepared / "raw/labels.gpkg")
    settings["data"].update(label="labels.gpkg", label_field="kind", eroded_label=None, prepared="again")
    prepare_data.main(settings, prepared / "runs/tiny")
    for name, pixels in before.items():
        assert (prepared / "again" / name).read_bytes() == pixels
    row = json.loads((prepared / "again/manifest.json").read_text())["tiles"]["2_10"]
    assert row["pixels"]["labels"]["layout"] == "polygons" and row["pixels"]["labels"]["overlaps"] == 0
    assert row["pixels"]["labels"]["exact"] == 50 * 75
    assert re.search(
        r"2_10 +50 x 75 px; labels \d+ polygons, labels repaired 0.00 %", capsys.readouterr().out
    )


def test_texts_nobody_knows_are_refused_by_name(prepared, settings):
    polygonised(prepared, SIZES, prepared / "raw/labels.gpkg")
    values = {name: f"{name} x" for name in settings["data"]["classes"]} | {"car": "car"}
    settings["data"].update(label="labels.gpkg", label_field="kind", label_values=values, ignore_colours=[])
    settings["data"].update(eroded_label=None, prepared="again")
    with pytest.raises(Problem, match=r'have no known colour or value \(most often "[a-z ]+" \(\d+\)'):
        prepare_data.main(settings, prepared / "runs/tiny")


def test_polygons_of_another_place_are_not_all_background(prepared, settings):
    polygonised(prepared, ["2_10"], prepared / "raw/labels.gpkg", crs="EPSG:32632")
    settings["data"].update(label="labels.gpkg", label_field="kind", background="clutter")
    settings["data"].update(eroded_label=None, prepared="again")
    with pytest.raises(Problem, match="^labels of 2_11, .*: no polygon on any image, expected some"):
        prepare_data.main(settings, prepared / "runs/tiny")
