import numpy as np
import pytest
from conftest import SIZES

import lr_find
import prepare_data
from base.problem import Problem
from imagery.arrays import IGNORE
from imagery.tiles import CELL, count_cells, mapped, open_prepared, open_tiles
from learning.patches import cut_batch
from learning.plans import PLAN


def test_a_bit_flipped_after_preparation_is_noticed_by_who_opens_it(project, settings):
    prepare_data.main(settings, project / "runs/tiny")
    path = project / "prepared/2_11.pixels.npy"
    whole = bytearray(path.read_bytes())
    whole[-100] ^= 1
    path.write_bytes(whole)
    with pytest.raises(Problem, match="2_11.pixels.npy: other bytes than manifest.json names") as caught:
        open_prepared(settings["data"], "2_11")
    assert caught.value.code == 3
    with pytest.raises(Problem, match="other bytes") as caught:
        lr_find.main(settings, project / "runs/tiny")
    assert caught.value.code == 3 and len(caught.value.lines) == 1
    prepare_data.main(settings, project / "runs/tiny")
    open_prepared(settings["data"], "2_11")


@pytest.mark.parametrize(
    "change",
    [
        {"tolerance": 40},
        {"bands": [3, 2, 1]},
        {"assume_crs": None},
        {"scale": [0, 200]},
        {"ignore_colours": []},
    ],
)
def test_tiles_prepared_with_other_settings_are_not_used(project, settings, change):
    prepare_data.main(settings, project / "runs/tiny")
    settings["data"].update(change)
    with pytest.raises(Problem, match="prepared with other data settings"):
        open_prepared(settings["data"], "2_11")
    prepare_data.main(settings, project / "runs/tiny")
    open_prepared(settings["data"], "2_11")


@pytest.mark.parametrize(
    "key, value", [("image", "3_Ortho_IRRG/{tile}.tif"), ("eroded_label", None), ("raw", "elsewhere")]
)
def test_a_run_of_other_rasters_does_not_use_the_prepared_tiles_of_this_one(project, settings, key, value):
    prepare_data.main(settings, project / "runs/tiny")
    settings["data"][key] = value
    with pytest.raises(Problem, match="prepared with other data settings"):
        open_prepared(settings["data"], "2_11")


@pytest.mark.parametrize(
    "before, after",
    [('"car": ', '"car": 1'), ("[[[", "[[[1"), ('"nodata": 0', '"nodata": 1'), ('"pixels"', '"pixel"')],
)
def test_an_edited_manifest_is_refused(project, settings, before, after):
    prepare_data.main(settings, project / "runs/tiny")
    path = project / "prepared/manifest.json"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(Problem, match="manifest.json: damaged, edited") as caught:
        open_prepared(settings["data"], "2_11")
    assert caught.value.code == 3


def test_the_order_of_classes_counts(project, settings):
    prepare_data.main(settings, project / "runs/tiny")
    settings["data"]["classes"] = dict(reversed(settings["data"]["classes"].items()))
    with pytest.raises(Problem, match="prepared with other data settings"):
        open_prepared(settings["data"], "2_10")
    prepare_data.main(settings, project / "runs/tiny")
    open_prepared(settings["data"], "2_10")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"tiles": 3}', '{"tiles": {"2_10": {}}}', '{"tiles": {"2_10": 5}}']
)
def test_a_damaged_manifest_is_one_line(project, settings, content):
    (project / "prepared").mkdir()
    (project / "prepared/manifest.json").write_text(content)
    with pytest.raises(Problem, match="manifest.json: damaged") as caught:
        prepare_data.main(settings, project / "runs/tiny")
    assert caught.value.code == 3


@pytest.mark.parametrize("shape", [(1, 1), (CELL, CELL), (CELL + 1, 3 * CELL - 1)])
def test_cells_count_each_class(shape):
    labels = np.random.default_rng(0).integers(0, 7, shape).astype(np.uint8)
    labels[labels == 6] = IGNORE
    cells = count_cells(labels, 6)
    assert cells.shape == (-(-shape[0] // CELL), -(-shape[1] // CELL), 6)
    for (row, col, index), count in np.ndenumerate(cells):
        part = labels[row * CELL : (row + 1) * CELL, col * CELL : (col + 1) * CELL]
        assert count == (part == index).sum()


def test_a_tile_is_opened_without_reading_its_bytes_where_they_are_not_to_be_checked(
    project, settings, monkeypatch
):
    prepare_data.main(settings, project / "runs/tiny")
    (checked,) = open_tiles(settings["data"], ["2_11"])
    monkeypatch.setattr("imagery.tiles.sha256", None)
    (tile,) = open_tiles(settings["data"], ["2_11"], checked=False)
    np.testing.assert_array_equal(tile.pixels, checked.pixels)
    path = project / "prepared/2_11.pixels.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Problem, match="2_11.pixels.npy: missing or damaged"):
        open_prepared(settings["data"], "2_11", checked=False)
    np.save(path, tile.labels.copy())
    with pytest.raises(Problem, match="2_11.pixels.npy: uint8 .70, 93., expected uint8"):
        open_prepared(settings["data"], "2_11", checked=False)


def test_of_many_tiles_few_are_open_at_a_time(prepared, settings, monkeypatch):
    """Patches of mapped tiles and of those that are mapped when they are asked for are the same."""
    names = settings["split"]["train"] * 40
    plan = np.zeros(len(names), PLAN)
    plan["tile"], plan["side"] = np.arange(len(names)), 32
    near = cut_batch(open_tiles(settings["data"], names), plan, 32)
    monkeypatch.setattr("imagery.tiles.MAPPED", 10)
    mapped.cache_clear()
    distant = open_tiles(settings["data"], names)
    np.testing.assert_array_equal(cut_batch(distant, plan, 32), near)
    assert mapped.cache_info().currsize == 2 < len(names)  # open files
    assert [tile.shape for tile in distant[:2]] == [SIZES[name] for name in names[:2]]
