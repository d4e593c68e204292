"""Blocks of one orthophoto: their roles, the guard between them, their files; read back with rasterio."""

import json
import re

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import rasterio
from conftest import COLOURS, problems_of, save_settings, whole_demo, write_raster, write_tile
from hypothesis import assume, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from untrained import write_run

import predict
import prepare_data
from base.blocks import drawn, raster_of, rasters_of, uncut
from base.problem import Problem
from base.settings import read_settings
from evaluate import check_unseen
from imagery.blocks import count_cores, draw_roles, edges, guarded
from imagery.collars import Collar
from imagery.ground import moved
from imagery.leaks import check_guards, distances
from imagery.rasters import Layers, Part, open_raster
from imagery.tiles import Tile, count_cells, open_prepared, pack
from learning.patches import cut_batch
from learning.plans import plan_epoch
from reporting import charts
from reporting.pictures import draw_blocks

BLOCKS = {"side": 96, "shares": [0.6, 0.2, 0.2], "seed": 1, "guard": 16}
SHAPE = 400, 330


@st.composite
def cut_rasters(draw, most=60):
    """(roles [rows, cols], shape, split.blocks) of a raster."""
    rows, cols = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    guard = draw(st.integers(0, 24))
    side = draw(st.integers(guard + 1, guard + most))
    shape = [count * side + draw(st.integers(0, side - 1)) for count in (rows, cols)]
    roles = draw(st.lists(st.integers(-1, 2), min_size=rows * cols, max_size=rows * cols))
    return np.reshape(roles, (rows, cols)), shape, {"side": side, "guard": guard}


def test_an_axis_is_cut_into_blocks_of_at_least_a_side():
    assert edges(100, 32).tolist() == [0, 33, 67, 100]
    assert edges(96, 32).tolist() == [0, 32, 64, 96]
    assert edges(31, 32).tolist() == [0, 31]


def test_blocks_of_two_roles_are_pulled_in_where_they_meet():
    roles = np.array([[0, 0], [0, 2]])
    assert guarded(roles, (20, 20), {"side": 10, "guard": 3}) == {
        (0, 0): [0, 0, 9, 10],  # which meets block 1, 1 at a corner alone
        (0, 1): [0, 10, 9, 10],
        (1, 0): [10, 0, 10, 9],
        (1, 1): [12, 12, 8, 8],
    }
    assert guarded(np.array([[0, -1, 1]]), (10, 30), {"side": 10, "guard": 4}) == {
        (0, 0): [0, 0, 10, 10],
        (0, 2): [0, 20, 10, 10],
    }


@given(cut_rasters())
def test_between_pixels_of_two_roles_there_is_always_the_guard(raster):
    roles, shape, blocks = raster
    places = guarded(roles, shape, blocks)
    owner, windows = np.full(shape, -1), np.array(list(places.values())).reshape(-1, 4)
    for number, (row, col, height, width) in enumerate(windows):
        part = owner[row : row + height, col : col + width]
        assert part.shape == (height, width) and (part == -1).all()  # inside, and no pixel twice
        part[:] = number
    own = np.array([roles[place] for place in places])
    for number, window in enumerate(windows):
        row, col, height, width = window
        top, left = max(row - blocks["guard"], 0), max(col - blocks["guard"], 0)
        near = owner[top : row + height + blocks["guard"], left : col + width + blocks["guard"]]
        assert (own[np.unique(near[near >= 0])] == own[number]).all()
        assert (distances(window, windows)[own != own[number]] >= blocks["guard"]).all()
        assert min(height, width) >= blocks["side"] - blocks["guard"]  # a patch, as the settings are checked
    assert set(places) == set(map(tuple, np.argwhere(roles >= 0).tolist()))


@given(cut_rasters(), st.sampled_from([[1, 1], [0.75, 1.5], [0.25, 0.5]]), st.sampled_from(["random", 8]))
@hypothesis_settings(max_examples=25)
def test_no_patch_of_training_comes_nearer_than_the_guard_to_another_role(raster, scale, stride):
    roles, shape, blocks = raster
    assume((roles == 0).any())
    owner = np.full(shape, 3, np.uint8)  # whose a pixel is, as the first band of the raster
    windows = {place: window for place, window in guarded(roles, shape, blocks).items()}
    for place, (row, col, height, width) in windows.items():
        owner[row : row + height, col : col + width] = roles[place]
    pixels = pack(np.stack([owner] * 3, -1), np.zeros(shape, np.uint8))
    own, tiles = [window for place, window in windows.items() if roles[place] == 0], []
    for row, col, height, width in own:
        part = np.ascontiguousarray(pixels[row : row + height, col : col + width])
        tiles.append(Tile(part, 3, count_cells(part[..., 3], 2)))
    options = {
        "seed": 1,
        "input": {"patch_size": 16, "stride": stride, "aim": {"a": 0.3}},
        "augment": {"scale": scale, "views": True},
        "data": {"classes": {"a": "#000000", "b": "#ffffff"}},
    }
    others = [window for place, window in windows.items() if roles[place] > 0]
    plan = plan_epoch(tiles, options, epoch=1)
    assert (cut_batch(tiles, plan, 16)[..., :3] == 0).all()
    for number, row, col, side in plan[["tile", "row", "col", "side"]].tolist():
        top, left, height, width = own[number]
        assert 0 <= row < height and 0 <= col < width
        drawn_window = [top + row, left + col, min(side, height - row), min(side, width - col)]
        if others:  # a window that is larger than its block ends with it
            assert distances(drawn_window, others).min() >= blocks["guard"]


def test_a_block_nearer_than_the_guard_is_noticed():
    split = {"train": ["a/00_00"], "val": ["a/00_01"], "test": ["b/00_00"], "blocks": BLOCKS}
    rows = {
        "a/00_00": {"cut": {"raster": "a", "window": [0, 0, 50, 50]}},
        "a/00_01": {"cut": {"raster": "a", "window": [30, 66, 50, 50]}},
        "b/00_00": {"cut": {"raster": "b", "window": [0, 0, 50, 50]}},
    }
    assert list(check_guards(split, rows)) == []
    rows["a/00_01"]["cut"]["window"][1] = 65
    (line,) = check_guards(split, rows)
    assert "blocks a/00_00 (split.train) and a/00_01 (split.val)" in line and "16 px" in line
    split["val"], split["train"] = [], ["a/00_00", "a/00_01"]
    assert list(check_guards(split, rows)) == []


def test_only_the_core_of_a_block_counts():
    labels = np.zeros((20, 20), np.uint8)
    labels[:, 10:] = 1
    labels[9:12, 9:12] = 2  # where four blocks meet
    labels[0, 0] = 255
    counts = count_cores(labels, {"side": 10, "guard": 4}, 3)
    assert counts.tolist() == [[[63, 0, 0], [0, 64, 0]], [[64, 0, 0], [0, 64, 0]]]


@given(st.integers(0, 1000), st.integers(9, 60))
@example(0, 9)
@hypothesis_settings(max_examples=30)
def test_every_class_is_in_every_role_and_the_shares_are_met(seed, count):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 1000, (count, 4)) * (rng.random((count, 4)) < [1, 1, 0.5, 0.1])
    counts[:3, 3] = counts[3:6, 2] = 10  # at least three blocks have each
    counts[-1] = 0
    roles = draw_roles(counts, [0.6, 0.2, 0.2], seed)
    assert ((roles == -1) == (counts.sum(1) == 0)).all()
    for role in range(3):
        assert counts[roles == role].any(0)[counts.any(0)].all()
    largest = counts.sum(1).max() / counts.sum()
    shares = [counts[roles == role].sum() / counts.sum() for role in range(3)]
    assert np.abs(np.subtract(shares, [0.6, 0.2, 0.2])).max() < 0.1 + largest
    assert (roles == draw_roles(counts, [0.6, 0.2, 0.2], seed)).all()


def test_a_class_in_fewer_blocks_than_roles_is_trained_first_and_tested_next():
    counts = np.full((12, 2), [50, 0])
    counts[4, 1] = 9
    assert draw_roles(counts, [0.6, 0.2, 0.2], 0)[4] == 0
    counts[7, 1] = 9
    assert sorted(draw_roles(counts, [0.6, 0.2, 0.2], 0)[[4, 7]]) == [0, 2]
    assert set(draw_roles(counts, [0.7, 0, 0.3], 0)) == {0, 2}
    seeds = {tuple(draw_roles(counts, [0.6, 0.2, 0.2], seed)) for seed in range(4)}
    assert len(seeds) > 1


def test_names_of_blocks():
    split = {"train": ["a", "x/b"], "val": ["c"], "test": [], "blocks": BLOCKS}
    names = {
        "train": ["a/00_01", "x/b/03_104"],
        "val": ["a/00_00", "c"],
        "test": ["a/01_00"],
        "blocks": BLOCKS,
    }
    for each in (split, names):
        assert rasters_of(each) == (["a", "x/b", "c"] if each is split else ["a", "x/b", "c"])
        assert uncut(each) == {"train": ["a", "x/b"], "val": ["c"], "test": []}
    assert raster_of("x/b/03_104", names) == "x/b"
    assert raster_of("x/10_12", {**names, "blocks": None}) == "x/10_12"


# -- through prepare_data.py ------------------------------------------------------------------------------


@pytest.fixture
def cut(project, settings):
    """Tile 2_11, larger, cut into blocks; its labels."""
    labels = write_tile(project / "raw", "2_11", SHAPE)
    settings["split"] = {"train": ["2_11"], "val": [], "test": [], "blocks": BLOCKS}
    save_settings(project, settings)
    prepare_data.main(settings, project / "runs/tiny")
    return labels


def test_a_block_is_a_tile_of_its_own(cut, settings):
    split = drawn(settings)["split"]
    rows = json.loads(open("prepared/manifest.json").read())["tiles"]
    with rasterio.open("raw/2_Ortho_RGB/top_potsdam_2_11_RGB.tif") as source:
        image, transform = np.moveaxis(source.read(), 0, -1), source.transform
    for role in ("train", "val", "test"):
        assert {label for name in split[role] for label in np.unique(open_block(name)[..., 3])} == {*range(6)}
        for name in split[role]:
            row, col, height, width = rows[name]["cut"]["window"]
            part = slice(row, row + height), slice(col, col + width)
            assert np.array_equal(open_block(name)[..., :3], image[part])
            assert np.array_equal(open_block(name)[..., 3], cut[part])
            assert rows[name]["georeference"]["transform"][2] == transform.c + 0.05 * col
            assert rows[name]["georeference"]["transform"][5] == transform.f - 0.05 * row
            assert sum(rows[name]["classes"].values()) == height * width
            assert rows[name]["audited"] == list(SHAPE)
    assert len(rows) == 1 + 4 * 3 and "2_11" not in split["train"]
    assert open_prepared(settings["data"], split["val"][0]).shape == tuple(rows[split["val"][0]]["shape"][:2])


def open_block(name):
    return np.load(f"prepared/{name}.pixels.npy", mmap_mode="r")


def test_the_same_command_leaves_blocks_alone_and_another_seed_cuts_anew(cut, project, settings, capsys):
    files = sorted((project / "prepared/2_11").glob("*.npy"))
    before, names = [path.stat().st_mtime_ns for path in files], drawn(settings)["split"]
    prepare_data.main(settings, project / "runs/tiny")
    assert [path.stat().st_mtime_ns for path in files] == before
    files[0].write_bytes(files[1].read_bytes())
    prepare_data.main(settings, project / "runs/tiny")
    assert files[0].read_bytes() != files[1].read_bytes()
    settings["split"]["blocks"] = {**BLOCKS, "seed": 3}
    with pytest.raises(Problem, match="of another split, expected this run's; run prepare_data.py"):
        drawn(settings)
    prepare_data.main(settings, project / "runs/tiny")
    assert drawn(settings)["split"]["train"] != names["train"]
    settings["split"] = names  # as a run's own params.yaml has them
    assert drawn(settings) is settings
    save_settings(project, settings)
    assert read_settings("tiny.yaml")["split"] == names
    prepare_data.main(settings, project / "runs/tiny")
    assert "train 5" in capsys.readouterr().out.splitlines()[-2]


def test_blocks_that_are_not_drawn_are_one_line(project, settings):
    settings["split"] = {"train": ["2_11"], "val": [], "test": [], "blocks": BLOCKS}
    with pytest.raises(
        Problem, match="blocks.json: no such file or directory, .*; run prepare_data.py again"
    ):
        drawn(settings)
    assert drawn(settings, needed=False) is settings
    with pytest.raises(Problem) as caught:  # 70 x 93 px are one block
        prepare_data.main(settings, project / "runs/tiny")
    assert "blocks of 2_11: 1 with labels" in str(caught.value) and caught.value.code == 3
    settings["split"].update(train=["2_11/00_00"], val=["2_11/00_01"], test=["2_13"])
    with pytest.raises(
        Problem, match="block 2_11/00_01 in split.val: not there, expected one of 1 rows and 1"
    ):
        prepare_data.main(settings, project / "runs/tiny")


def test_whole_tiles_stand_beside_blocks_but_not_on_their_ground(cut, project, settings):
    settings["split"].update(val=["2_10"], blocks={**BLOCKS, "shares": [0.75, 0, 0.25]})
    prepare_data.main(settings, project / "runs/tiny")
    split = drawn(settings)["split"]
    assert split["val"] == ["2_10"] and len(split["train"]) + len(split["test"]) == 12
    image = f"{project}/raw/2_Ortho_RGB/top_potsdam_2_10_RGB.tif"
    with rasterio.open(image) as source, rasterio.open(image.replace("2_10", "2_11")) as other:
        pixels, place = np.moveaxis(source.read(), 0, -1), {"crs": other.crs, "transform": other.transform}
    write_raster(project / "raw/2_Ortho_RGB/top_potsdam_2_10_RGB.tif", pixels, **place)
    with pytest.raises(Problem, match=r"tiles 2_11 \(split.train\) and 2_10 \(split.val\): .* bounding box"):
        prepare_data.main(settings, project / "runs/tiny")


def test_blocks_of_a_flat_raster_without_a_place_are_not_taken_for_one(project, settings):
    labels = np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) // 7 % 6
    write_raster(project / "raw/2_Ortho_RGB/top_potsdam_2_11_RGB.tif", np.full((*SHAPE, 3), 90, np.uint8))
    write_raster(project / "raw/5_Labels_all/top_potsdam_2_11_label.tif", COLOURS[labels])
    settings["split"] = {"train": ["2_11"], "val": [], "test": [], "blocks": BLOCKS}
    prepare_data.main(settings, project / "runs/tiny")
    assert len(drawn(settings)["split"]["train"]) >= 6


# -- after prepare_data.py --------------------------------------------------------------------------------


def test_a_test_block_is_predicted_from_its_own_pixels_and_lies_where_it_was_cut(
    cut, project, settings, capsys
):
    run, split = write_run(project / "runs/tiny", settings), drawn(settings)["split"]
    tile, raster = split["test"][0], project / "raw/2_Ortho_RGB/top_potsdam_2_11_RGB.tif"
    predict.main(settings, run, tile=tile)
    with rasterio.open(raster) as source, rasterio.open(run / f"predictions/{tile}.tif") as map_of_block:
        first = ~source.transform @ (map_of_block.transform.c, map_of_block.transform.f)
        window = rasterio.windows.Window(*first, map_of_block.width, map_of_block.height)
        alone = np.moveaxis(source.read(window=window), 0, -1)
        block, transform, crs = map_of_block.read(1), source.window_transform(window), source.crs
    write_raster(project / "alone.tif", alone, crs=crs, transform=transform)
    predict.main(settings, run, tile="alone.tif")
    with rasterio.open(run / "predictions/alone.tif") as target:
        assert np.array_equal(target.read(1), block) and target.transform == transform
    assert np.array_equal(alone, open_block(tile)[..., :3]) and len(np.unique(block)) > 1
    with pytest.raises(Problem, match="no block of 2_11 with a role"):
        predict.main(settings, run, tile="2_11/77_00")
    capsys.readouterr()
    with_facts = {"trained_on": dict.fromkeys(split["train"], "?"), "cut": {}}
    with_facts["cut"] = {name: {"raster": "2_11", "window": [0, 0, 9, 9]} for name in split["train"]}
    write_run(run, settings, **with_facts)
    predict.main(settings, run, tile="2_11")
    assert f"2_11: the network was trained on {len(split['train'])} blocks of it" in capsys.readouterr().out
    with rasterio.open(run / "predictions/2_11.tif") as target:
        assert target.shape == SHAPE


def test_a_test_block_over_pixels_that_the_model_has_seen_is_refused(tmp_path):
    own = {"cut": {"raster": "a", "window": [0, 0, 50, 50]}, "pixels_sha256": "1"}
    rows = {"a/00_00": own, "a": {"pixels_sha256": "2"}}

    def refused(tile, **facts):
        settings = {"split": {"test": [tile]}, "data": {"raw": "raw"}}
        facts = {"trained_on": {}, "chosen_on": {}, **facts}
        try:
            check_unseen(settings, rows, tmp_path, facts)
        except Problem as problem:
            return str(problem)

    seen = {"trained_on": {"a/03_01": "3"}}
    over, beside = ({"a/03_01": {"raster": "a", "window": [49, col, 9, 9]}} for col in (49, 50))
    assert "was trained on it as tile a/03_01" in refused("a/00_00", **seen, cut=over)
    assert refused("a/00_00", **seen, cut=beside) is None
    assert "was trained on it as tile a/03_01" in refused("a", **seen, cut=beside)  # the whole
    assert "was chosen on it" in refused("a/00_00", chosen_on={"a": "3"})
    behind = {
        "started_on": {"raw/a/09_09": "3"},
        "cut": {"raw/a/09_09": {**over["a/03_01"], "raster": "raw/a"}},
    }
    assert "started from weights" in refused("a/00_00", **behind)
    behind["cut"]["raw/a/09_09"] |= {"raster": "/another/machines/a", "pixels_sha256": "2"}
    assert refused("a/00_00", **behind) is None
    own["cut"]["pixels_sha256"] = "2"
    assert "started from weights" in refused("a/00_00", **behind)


def test_a_part_of_a_raster_with_a_collar_has_that_of_the_whole(tmp_path):
    pixels = np.full((40, 50, 3), 9, np.uint8)
    pixels[:20] = pixels[25:30, 20:30] = 0  # the latter is no collar, nor is it at the border of the part
    write_raster(tmp_path / "a.tif", pixels)
    with open_raster(tmp_path / "a.tif") as raster:
        part = Part(raster, [10, 15, 22, 19])
        layers = Layers(part, None, [1, 2, 3], [None] * 3, Collar(raster, [1, 2, 3], "#000000", part))
        image, valid = layers.read(5, 22)
    assert np.array_equal(image, pixels[15:32, 15:34])
    assert not valid[:5].any() and valid[5:].all()


def test_a_part_is_placed_by_its_control_points_and_rpcs_too():
    ground = {
        "crs": "EPSG:32633",
        "transform": [2, 1, 100, 1, -2, 500],
        "control_points": {"crs": None, "points": [[10, 20, 1, 2, 3]]},
        "rpcs": {"line_off": 50.0, "samp_off": 60.0, "lat_off": 1.0},
    }
    part = moved(ground, 5, 7)
    assert part["transform"] == [2, 1, 100 + 2 * 7 + 5, 1, -2, 500 + 7 - 2 * 5]
    assert part["control_points"]["points"] == [[5, 13, 1, 2, 3]]
    assert part["rpcs"] == {"line_off": 45.0, "samp_off": 53.0, "lat_off": 1.0}
    assert (
        ground["rpcs"]["line_off"] == 50
        and moved({"crs": None, "transform": None}, 5, 7)["transform"] is None
    )


def test_the_blocks_are_drawn(cut, settings, tmp_path):
    settings = drawn(settings)
    rows = json.loads(open("prepared/manifest.json").read())["tiles"]
    with charts.style():
        draw_blocks(tmp_path / "blocks.png", "2_11", settings, rows)
    picture = plt.imread(tmp_path / "blocks.png")[..., :3]
    assert picture.shape[1] == 1480
    for colour in ("#0072b2", "#e69f00", "#cc79a7"):  # the edges of the blocks
        assert (np.abs(picture - matplotlib.colors.to_rgb(colour)).max(-1) < 0.02).sum() > 500


@pytest.mark.parametrize(
    "split, expected",
    [
        ({"shares": [0.7, 0.2, 0.2]}, "key split.blocks: {"),
        ({"side": 100}, "a side of 100, expected at least 144"),
        ({"shares": [0.8, 0, 0.2]}, "a share of 0 for val"),
        ({"shares": [0, 0.5, 0.5]}, "a share of 0 for train"),
        (None, "key split.val: [], expected at least one tile, unless split.blocks"),
    ],
)
def test_settings_of_blocks_that_cannot_be_are_refused(tmp_path, split, expected):
    blocks = split and {**BLOCKS, "side": 300, **split}
    text = whole_demo().replace("  blocks: null", f"  blocks: {json.dumps(blocks)}")
    text = re.sub("  val: .*", "  val: []", text)
    assert expected in problems_of(tmp_path, text)
