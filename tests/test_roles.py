"""What is said of a split's labels and pixel sizes; rows as the manifest holds them."""

import pytest

from imagery.roles import doubts

SPLIT = {"train": ["2_11", "3_10"], "val": ["2_10"], "test": ["2_13"]}
ALL = {"building": 10, "tree": 4, "car": 1}


def told(sizes=(), **classes):
    """The doubts about SPLIT; `classes`: of a role's tiles, ALL unless given; `sizes`: {tile: metres}."""
    rows = {}
    for role, tiles in SPLIT.items():
        for tile in tiles:
            size = dict(sizes).get(tile, 0.05)
            wide, high = size if isinstance(size, tuple) else (size, size)
            transform = size and [wide, 0, 300000, 0, -high, 5800000]
            rows[tile] = {
                "classes": classes.get(role, ALL),
                "georeference": {"crs": size and "EPSG:32633", "transform": transform},
                "shape": [100, 80, 3],
                "pixels": {},
                "grids": {},
            }
    return list(doubts(SPLIT, rows))


def test_tiles_like_each_other_are_not_in_doubt():
    assert told() == []
    assert told(sizes={"2_13": 0.0625, "2_10": None, "3_10": 0.06}) == []
    for size in (None, (0.05, 0.1)):  # metres wide and high
        assert told(sizes=dict.fromkeys(["2_11", "3_10", "2_10", "2_13"], size)) == []


def test_a_class_that_its_own_nodata_value_hides_is_named_once():
    nowhere = {"crs": None, "transform": None}
    row = {"classes": ALL, "georeference": nowhere, "shape": [10, 20, 3], "grids": {}}
    rows = {
        tile: row
        | {"pixels": {"labels": {"hidden": hidden}}, "raw": {"labels": {"path": f"raw/{tile} of mine.tif"}}}
        for tile, hidden in {"a": {}, "b": {"tree": 50}, "c": {"tree": 101}}.items()
    }
    (line,) = doubts({"train": ["a"], "val": ["b"], "test": ["c"]}, rows)
    assert line.startswith("labels raw/c of mine.tif: 50.5 % of the pixels (and less of 1 more) unlabelled")
    assert "that of tree, expected" in line
    command = "gdal_translate -a_nodata none 'raw/c of mine.tif' 'raw/c of mine_new.tif'"
    assert line.endswith(f"where they are tree, write a copy without it and put that in its place: {command}")


def test_a_class_without_training_pixels_is_named_once_wherever_else_it_is():
    without = ALL | {"car": 0}
    (line,) = told(train=without)
    assert line.startswith("labels of split.train: no pixel of car, expected some of every class; ")
    assert "train on a tile that has it" in line and "data.ignore_colours" in line
    assert told(train=without, val=without, test=without) == [line]
    (line,) = told(train={"building": 1, "tree": 1, "car": 0, "water": 0})
    assert "no pixel of car, water, expected" in line


def test_a_class_that_no_training_tile_lacks_alone_is_learned():
    rows = {"a": {"building": 1, "tree": 0}, "b": {"building": 0, "tree": 1}}
    rows = {
        tile: {
            "classes": classes,
            "georeference": {"crs": None, "transform": None},
            "shape": [1, 1, 3],
            "pixels": {},
            "grids": {},
        }
        for tile, classes in rows.items()
    }
    assert list(doubts({"train": ["a", "b"], "val": ["a", "b"], "test": ["b", "a"]}, rows)) == []


def test_roles_of_one_class_are_named_in_one_line():
    (line,) = told(val={"building": 0, "tree": 9, "car": 0})
    assert line.startswith("labels of one class alone: split.val (tree), expected two or more in every role")
    (line,) = told(val={"building": 0, "tree": 9, "car": 0}, test={"building": 7, "tree": 0, "car": 0})
    assert "split.val (tree), split.test (building), expected" in line
    lines = told(train={"building": 7, "tree": 0, "car": 0})
    assert [line.partition(":")[0] for line in lines] == [
        "labels of split.train",
        "labels of one class alone",
    ]


def test_a_class_that_is_trained_and_not_scored_is_named_with_its_role():
    (line,) = told(val=ALL | {"car": 0})
    assert line.startswith("labels without a class that is trained: split.val (car), expected every class")
    (line,) = told(val=ALL | {"car": 0}, test=ALL | {"tree": 0})
    assert "split.val (car), split.test (tree), expected" in line


@pytest.mark.parametrize(
    "sizes, expected",
    [
        ({"2_13": 0.0626}, "0.05 m (2_11) and 0.0626 m (2_13), expected"),
        ({"2_11": 0.2, "2_10": None}, "0.05 m (3_10) and 0.2 m (2_11), expected"),
        ({"2_13": (0.05, 0.1)}, "0.05 m (2_11) and 0.05 m along rows, 0.1 m along columns (2_13), expected"),
        ({"2_10": 0.039}, "0.039 m (2_10) and 0.05 m (2_13), expected"),
    ],
)
def test_pixel_sizes_more_than_a_quarter_apart_are_said_with_their_tiles(sizes, expected):
    (line,) = told(sizes=sizes)
    assert line.startswith(f"pixel sizes: {expected}") and "gdalwarp -tr" in line


def test_labels_of_far_larger_pixels_or_beside_their_image_are_named_once():
    utm = {"crs": "EPSG:32633", "transform": [0.05, 0, 500000, 0, -0.05, 5800000]}
    row = {"classes": ALL, "shape": [10, 20, 3], "pixels": {}, "georeference": utm}
    rows = {
        tile: row
        | {"grids": {"labels": {"pixel_size": size}}, "off_grid": {"labels": outside}}
        | {"raw": {"labels": {"path": f"{tile}.tif"}}}
        for tile, size, outside in (("a", 0.1, 100), ("b", 10, 0), ("c", [0.05, 0.3], 0), ("d", None, 170))
    }
    rows |= {  # blocks, whose counts are those of the whole
        f"{tile}/00_0{number}": rows[tile] | {"shape": [5, 10, 3], "audited": [10, 20]}
        for tile in "ad"
        for number in (0, 1)
    }
    sizes, covered = doubts({"train": ["a", "b", "c", "d"], "val": ["a"], "test": ["b"]}, rows)
    assert "labels b.tif: pixels of 10 m, their image's 0.05 m (and 1 more), expected at most 4" in sizes
    assert "labels d.tif: 15.0 % of its image covered, expected most of it" in covered
