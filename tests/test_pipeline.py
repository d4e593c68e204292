import gc
import weakref

import numpy as np
import pytest
from test_patches import marker_tiles, plan_of

import pipeline
from imagery.tiles import Tile
from learning.patches import Colours, cut_batch, draw_colours
from learning.plans import shard
from pipeline import batches, let_go
from reporting.patch_pictures import recolour

COLOURS = Colours(bands=3, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1)


@pytest.mark.parametrize("parallel", [1, 2, 7])
@pytest.mark.parametrize("colours", [None, COLOURS])
def test_batches_come_in_the_plans_order_whatever_the_number_of_parallel_calls(
    monkeypatch, parallel, colours
):
    monkeypatch.setattr(pipeline, "PARALLEL", parallel)
    tiles = marker_tiles((100, 130))
    plan = plan_of(tiles, 16, scale=(0.7, 1.4))
    pixels = cut_batch(tiles, plan, 16)
    expected = [pixels, *(draw_colours(pixels, plan["seed"], colours) if colours else ())]
    got = list(batches(tiles, shard(plan, 4), 16, colours))
    assert len(got) == len(plan) // 4
    for i, batch in enumerate(got):
        for part, whole in zip(batch, expected, strict=True):
            np.testing.assert_array_equal(part, whole[4 * i : 4 * i + 4])


def test_colours_are_changed_in_the_step_as_the_reports_picture_shows_them():
    tiles = marker_tiles((100, 130))
    plan = plan_of(tiles, 16)
    pixels = cut_batch(tiles, plan, 16)
    both = draw_colours(pixels, plan["seed"], COLOURS)
    difference = np.abs(pipeline.repaint(pixels, *both).numpy().astype(int) - recolour(pixels, *both))
    assert difference.max() <= 1 and difference.mean() < 0.001  # halves round either way
    assert (difference[..., 3] == 0).all()


def test_an_epoch_is_the_same_to_the_bit_however_often_and_by_however_many_calls_it_is_cut(monkeypatch):
    tiles = marker_tiles((100, 130))
    plan, found = plan_of(tiles, 16, scale=(0.7, 1.4)), []
    for parallel in (1, 2, 5):
        monkeypatch.setattr(pipeline, "PARALLEL", parallel)
        fed = batches(tiles, shard(plan, 4), 16, COLOURS)
        found.append([part.numpy().tobytes() for batch in fed for part in batch])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_get_the_parts_of_the_batches_of_one(workers):
    tiles = marker_tiles((100, 130))
    plan = plan_of(tiles, 16, scale=(0.7, 1.4))
    alone = list(batches(tiles, shard(plan, 8), 16, COLOURS))
    parts = [batches(tiles, shard(plan, 8, worker, workers), 16, COLOURS) for worker in range(workers)]
    together = [list(map(np.concatenate, zip(*step))) for step in zip(*parts)]
    assert len(together) == len(alone) == len(plan) // 8
    for own, whole in zip(together, alone):
        assert all(map(np.array_equal, own, whole)) and len(own) == len(whole) == 3


def test_a_batch_is_uint8_and_of_known_shape():
    tiles = marker_tiles((100, 130))
    for colours in (None, COLOURS):
        spec, *others = batches(tiles, shard(plan_of(tiles), 4), 32, colours).element_spec
        assert spec.shape == (4, 32, 32, 4) and spec.dtype == np.uint8
        assert [other.shape for other in others] == [(4, 3, 3), (4, 3)] * bool(colours)


def test_tiles_let_go_leave_memory_and_come_back_the_same(tmp_path, monkeypatch):
    whole = np.random.default_rng(0).integers(0, 256, (2000, 2000, 4)).astype(np.uint8)  # 16 MB
    np.save(tmp_path / "a.npy", whole)
    tile = Tile(np.asarray(np.load(tmp_path / "a.npy", mmap_mode="r")), 3, np.ones((16, 16, 6), np.int64))

    def mapped():
        return int(next(line for line in open("/proc/self/status") if line.startswith("RssFile")).split()[1])

    assert tile.pixels.sum(dtype=np.int64) == whole.sum(dtype=np.int64)
    before = mapped()
    let_go([tile])
    assert before - mapped() > 14_000  # kB
    np.testing.assert_array_equal(tile.pixels[::97], whole[::97])
    monkeypatch.setattr(pipeline, "MAPPED", 1)
    plan = plan_of([tile], 64)
    for batch, part in zip(batches([tile], shard(plan, 8), 64), shard(plan, 8)):
        np.testing.assert_array_equal(*batch, cut_batch([tile], part, 64))


def test_an_epochs_plan_is_forgotten_with_its_batches():
    class Plan(np.ndarray):
        pass

    seen, tiles = [], marker_tiles((100, 130))
    for _ in range(3):
        plan = shard(plan_of(tiles, 16), 4).copy().view(Plan)
        seen.append(weakref.ref(plan))
        for _ in batches(tiles, plan, 16):
            pass
    del plan
    gc.collect()
    assert [plan() for plan in seen] == [None] * 3
