import base64
import json

import numpy as np
import pytest
from rasterio import MemoryFile

from base.problem import Problem
from imagery import annotations
from imagery.annotations import BOX, annotations_in, read_annotations
from imagery.burning import Burner
from imagery.ground import Grid

GRID = Grid(5, 6, {"crs": None, "transform": None}, "/raw/images/7.tif")
IMAGE = {"id": 3, "file_name": "images/7.tif", "height": 5, "width": 6}
CATEGORIES = [{"id": 0, "name": "objects"}, {"id": 1, "name": "house"}, {"id": 2, "name": "tree"}]


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def coco(*segmentations, images=(IMAGE,), **more):
    annotations = [
        {"id": number, "image_id": 3, "category_id": 1, "segmentation": segmentation, "iscrowd": 0, **more}
        for number, segmentation in enumerate(segmentations)
    ]
    return {"info": {}, "images": [*images], "annotations": annotations, "categories": CATEGORIES}


def labelme(*shapes, height=5, width=6):
    return {"version": "5.4.1", "shapes": [*shapes], "imageHeight": height, "imageWidth": width}


def shape(kind, points, label="house"):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}}


def drawn(path, grid=GRID, codes=()):
    """(bool [H, W] of pixels that a polygon covers, values, dropped) of a file."""
    polygons, values, dropped = read_annotations(path, grid, dict.fromkeys(codes))
    return Burner(polygons, grid.shape, False, path).covered(0, grid.height), values.tolist(), dropped


def rows(text):
    return np.array([[sign == "#" for sign in line] for line in text.split()])


def test_parts_of_a_polygon_are_joined_and_corners_count_from_the_pixels_corner(tmp_path):
    path = write(tmp_path / "a.json", coco([[0, 0, 2, 0, 2, 2, 0, 2], [1, 1, 4, 1, 4, 3, 1, 3]]))
    assert annotations_in(path) == "COCO"
    pixels, values, dropped = drawn(path)
    assert np.array_equal(pixels, rows("##.... ####.. .###.. ...... ......"))
    assert values == ["house"] and dropped == {}


@pytest.mark.parametrize("counts", [[2, 4, 1, 2, 3, 11, 7], [0, 5, 5, 10, 0, 0, 10]])
def test_runs_go_down_the_columns(counts, tmp_path):
    pixels, _, _ = drawn(write(tmp_path / "a.json", coco({"size": [5, 6], "counts": counts})))
    flat = np.repeat([0, 1, 0, 1, 0, 1, 0], counts).astype(bool)
    assert np.array_equal(pixels, flat.reshape(6, 5).T)


def test_compressed_runs(tmp_path):
    # as pycocotools 2.0.8 writes a mask of 5 x 6 whose runs are 6, 2, 3, 2, 17
    pixels, _, _ = drawn(write(tmp_path / "a.json", coco({"size": [5, 6], "counts": "6230>"})))
    assert np.array_equal(pixels.T.ravel(), np.repeat([0, 1, 0, 1, 0], [6, 2, 3, 2, 17]).astype(bool))


@pytest.mark.parametrize(
    "mask, message",
    [
        ({"size": [5, 6], "counts": [2, 4]}, "whose runs hold 6 pixels, expected 5 x 6"),
        ({"size": [5, 6], "counts": [40, -10]}, "whose runs hold 30 pixels"),
        ({"size": [100_000, 100_000], "counts": [10**10]}, "100000 x 100000 pixels, expected 5 x 6"),
        ({"size": [5, 6], "counts": "o" * 90}, "not in the form of COCO"),
        ({"size": [5, 6]}, "not in the form of COCO"),
        ([["a", 1, 2, 3, 4, 5]], "not in the form of COCO"),
    ],
)
def test_a_bad_mask_is_refused(mask, message, tmp_path):
    with pytest.raises(Problem, match=message):
        drawn(write(tmp_path / "a.json", coco(mask)))


def test_more_runs_than_a_drawing_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(annotations, "MOST", 4)
    path = write(tmp_path / "a.json", coco(*[{"size": [5, 6], "counts": [1, 1, 1, 1, 26]}] * 3))
    with pytest.raises(Problem, match="a.json: masks of more than 4 runs in an image, expected fewer"):
        drawn(path)


def test_a_category_is_known_by_name_or_number_and_boxes_alone_are_dropped(tmp_path):
    path = write(tmp_path / "a.json", coco([[0, 0, 2, 0, 2, 2]], [], [[1, 1, 2, 2]]))
    assert drawn(path)[1:] == (["house"], {"a box without polygon": 1, "without three corners": 1})
    assert drawn(path, codes=["1", "2"])[1] == ["1"]
    path = write(tmp_path / "b.json", coco([], bbox=[1, 2, 4, 1]))
    pixels, values, dropped = drawn(path)
    assert values == [BOX] and dropped == {BOX: 1}
    assert np.array_equal(pixels, rows("...... ...... .####. ...... ......"))


@pytest.mark.parametrize("name", ["7.png", "images\\0a1b2c3d-7.tif", "7_tif.rf.d2e3f4.jpg"])
def test_an_image_is_found_by_the_name_that_a_tool_gave_it(name, tmp_path):
    other = {**IMAGE, "id": "4", "file_name": "other/8.png"}
    content = coco([[0, 0, 2, 0, 2, 2]], images=[other, {**IMAGE, "id": "3", "file_name": name}])
    path = write(tmp_path / "a.json", {"tool": "1.0", **content})
    assert annotations_in(path) == "COCO" and drawn(path)[1] == ["house"]


def test_an_image_is_found_by_its_name_and_folders_and_must_be_of_the_annotated_size(tmp_path):
    other = {**IMAGE, "id": 4, "file_name": "other\\7.tif"}
    path = write(tmp_path / "a.json", coco([[0, 0, 2, 0, 2, 2]], images=[other, IMAGE]))
    assert drawn(path)[1] == ["house"]
    with pytest.raises(Problem, match="2 images of the name 7.tif"):
        drawn(path, GRID._replace(path="/raw/7.tif"))
    with pytest.raises(Problem, match=r"0 images of the name 8.tif \(there are"):
        drawn(path, GRID._replace(path="/raw/8.tif"))
    with pytest.raises(Problem, match="of an image of 5 x 6 pixels, expected 5 x 7 as /raw/images/7.tif"):
        drawn(path, GRID._replace(width=7))


def test_shapes_of_labelme(tmp_path):
    shapes = [
        shape("rectangle", [[4, 3], [2, 1]]),
        shape("linestrip", [[0, 0], [1, 1]]),
        shape("point", [[1, 1]]),
    ]
    path = write(
        tmp_path / "a.json", labelme(*shapes, shape("polygon", [[5, 0], [6, 0], [6, 5], [5, 5]], "tree"))
    )
    assert annotations_in(path) == "LabelMe"
    pixels, values, dropped = drawn(path)
    assert np.array_equal(pixels, rows(".....# ..##.# ..##.# .....# .....#"))
    assert values == ["house", "tree"] and dropped == {"a linestrip": 1, "a point": 1}
    box = shape("rectangle", [[1, 1], [3, 1], [3, 2], [1, 2]])  # as X-AnyLabeling writes it
    assert np.array_equal(
        drawn(write(tmp_path / "d.json", labelme(box)))[0], rows("...... .##... ...... ...... ......")
    )
    circle = write(tmp_path / "b.json", labelme(shape("circle", [[3, 2.5], [3, 4.1]])))
    assert np.array_equal(drawn(circle)[0], rows("...... ..##.. .####. ..##.. ......") | drawn(circle)[0])
    with pytest.raises(Problem, match="of an image of 9 x 6 pixels, expected 5 x 6"):
        drawn(write(tmp_path / "c.json", labelme(height=9)))


def test_a_mask_of_labelme_begins_at_its_first_point(tmp_path):
    mask = rows("##. #.# #..").astype(np.uint8) * 255
    with MemoryFile() as file:
        with file.open(driver="PNG", height=3, width=3, count=1, dtype="uint8") as png:
            png.write(mask, 1)
        text = base64.b64encode(file.read()).decode()
    own = {**shape("mask", [[2, 1], [4, 3]]), "mask": text}
    pixels, values, _ = drawn(write(tmp_path / "a.json", labelme(own)))
    assert np.array_equal(pixels, rows("...... ..##.. ..#.#. ..#... ......")) and values == ["house"]
    with pytest.raises(Problem, match="of an image of 3 x 3 pixels, expected 2 x 6"):
        drawn(write(tmp_path / "b.json", labelme(own, height=2)), GRID._replace(height=2))


@pytest.mark.parametrize(
    "text",
    [
        '{"shapes": ' + "[" * 100_000,
        '{"shapes": [',
        '{"shapes": {"a": 1}}',
        '{"shapes": 1}',
        '{"shapes": [{"shape_type": "mask", "points": [], "mask": "aaaa", "label": "a"}]}',
    ],
)
def test_a_damaged_text_is_one_line(text, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(Problem, match="^annotations .*a.json: ") as refused:
        drawn(path)
    assert len(refused.value.lines) == 1


def test_a_bomb_is_refused_before_it_is_parsed(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"shapes": [' + "{}," * 6_000_000 + "{}]}")
    with pytest.raises(Problem, match="18 MB of JSON, 1.6 GB in memory, expected at most 0.9 GB"):
        drawn(path)
