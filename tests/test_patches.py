import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.problem import Problem
from imagery.arrays import IGNORE, starts, view
from imagery.tiles import Tile, count_cells, pack
from learning.patches import Colours, colours_of, cut_batch, draw_colours, resize
from learning.plans import (
    PLAN,
    aim,
    draw_shares,
    hold_labels,
    plan_epoch,
    shard,
    validation_plan,
)
from reporting.patch_pictures import recolour

SHAPES = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=3)
STRIDES = st.sampled_from(["random", 7, 16])


def tile_of(image, labels, classes=6):
    return Tile(pack(image, labels), image.shape[2], count_cells(labels, classes))


def marker_tiles(*shapes):
    """Tiles whose image says, pixel by pixel, what the labels are, and where they lie."""
    tiles = []
    for shape in shapes:
        rows, cols = np.indices(shape)
        labels = ((rows * 7 + cols * 3) % 6).astype(np.uint8)
        tiles.append(tile_of(np.stack([labels, rows % 256, cols % 256], -1).astype(np.uint8), labels))
    return tiles


def plan_of(tiles, patch=32, stride="random", targets=None, views=True, scale=(1, 1), seed=1, epoch=1):
    settings = {
        "seed": seed,
        "data": {"classes": dict.fromkeys("012345")},
        "input": {
            "patch_size": patch,
            "stride": stride,
            "aim": {str(k): v for k, v in (targets or {}).items()},
        },
        "augment": {"views": views, "scale": scale},
    }
    return plan_epoch(tiles, settings, epoch)


def windows_of(plan):
    """Tile, row and column of a plan: int32 [N, 3]."""
    return np.stack([plan["tile"], plan["row"], plan["col"]], -1)


@given(SHAPES, st.sampled_from([16, 32, 64]), STRIDES, st.sampled_from([(1, 1), (0.5, 2), (1.5, 1.5)]))
def test_windows_lie_in_their_tiles_as_many_in_every_epoch(shapes, patch, stride, scale):
    tiles = marker_tiles(*shapes)
    plan = plan_of(tiles, patch, stride, scale=scale, epoch=0)
    assert len(plan) == len(plan_of(tiles, patch, stride, scale=scale, epoch=5)) and plan.dtype == PLAN
    low, high = round(patch / scale[1]), round(patch / scale[0])
    for tile, row, col, side, number, *_ in plan:
        height, width = shapes[tile]
        assert 0 <= row <= max(height - side, 0) and 0 <= col <= max(width - side, 0)
        assert low <= side <= high and 0 <= number < 8
    if stride == "random":
        assert len(plan) == sum(-(-h // patch) * -(-w // patch) for h, w in shapes)


@given(st.integers(1, 500), st.sampled_from([16, 32, 64]), st.integers(0, 99))
def test_each_random_start_is_drawn_from_its_own_stretch(size, patch, seed):
    cells = -(-size // patch)
    drawn = draw_shares(np.random.default_rng(seed), (size, 5 * patch), patch, "random").reshape(cells, 5, 2)
    for axis, (number, count) in enumerate(zip(np.indices((cells, 5)), (cells, 5))):
        assert (drawn[..., axis] >= number / count).all() and (drawn[..., axis] < (number + 1) / count).all()


@given(SHAPES, st.sampled_from([16, 32]), st.integers(3, 16))
@settings(max_examples=40)
def test_a_grid_has_each_window_once_and_covers_every_pixel(shapes, patch, stride):
    tiles = marker_tiles(*shapes)
    plan = plan_of(tiles, patch, stride)
    assert len({tuple(window) for window in windows_of(plan).tolist()}) == len(plan)
    seen = [np.zeros(shape, bool) for shape in shapes]
    for tile, row, col, side, *_ in plan:
        seen[tile][row : row + side, col : col + side] = True
    assert all(part.all() for part in seen)
    other = plan_of(tiles, patch, stride, epoch=2)
    assert sorted(windows_of(other).tolist()) == sorted(windows_of(plan).tolist())
    assert len(plan) < 8 or (windows_of(other) != windows_of(plan)).any()


def test_order_and_views_come_from_seed_and_epoch_alone():
    tiles = marker_tiles((500, 400), (300, 600))
    first = plan_of(tiles)
    np.testing.assert_array_equal(first, plan_of(tiles))
    assert (first != plan_of(tiles, epoch=2)).any() and (first != plan_of(tiles, seed=2)).any()
    assert set(first["view"]) == set(range(8)) and set(plan_of(tiles, views=False)["view"]) == {0}
    mirrored = plan_of(tiles, views=[0, 4])
    assert set(mirrored["view"]) == {0, 4} and 0.3 < np.mean(mirrored["view"] == 4) < 0.7
    one = plan_of(tiles, views=[5])
    assert set(one["view"]) == {5} and sorted(windows_of(one).tolist()) == sorted(windows_of(first).tolist())
    places = np.flatnonzero(np.diff(first["tile"]))
    assert len(places) > len(first) / 4  # tiles are mixed, not one after the other


def test_the_shuffle_is_uniform():
    """Where the first window of a grid comes to lie, over many epochs: chi-squared against equal chances."""
    tiles, found = marker_tiles((64, 64)), np.zeros(16)
    for epoch in range(1600):
        plan = plan_of(tiles, 16, 16, epoch=epoch)
        found[np.flatnonzero((windows_of(plan)[:, 1:] == 0).all(1))[0]] += 1
    assert ((found - 100) ** 2 / 100).sum() < 37.7  # 15 degrees of freedom, p = 0.001


def test_many_epochs_reach_every_pixel():
    tiles = marker_tiles((70, 50))
    seen = np.zeros((70, 50), bool)
    for epoch in range(200):
        for _, row, col, *_ in plan_of(tiles, epoch=epoch):
            seen[row : row + 32, col : col + 32] = True
    assert seen.all()


def test_windows_without_a_label_are_never_drawn():
    rng = np.random.default_rng(0)
    labels = np.full((400, 500), IGNORE, np.uint8)
    labels[150:260, 300:310] = 2  # a strip, smaller than a cell
    labels[390, 20] = 1  # and a single pixel
    tiles = [tile_of(rng.integers(0, 256, (400, 500, 3)).astype(np.uint8), labels)]
    for stride, scale in (("random", (1, 1)), ("random", (0.5, 2)), (16, (1, 1)), (16, (2, 3))):
        plan = plan_of(tiles, stride=stride, scale=scale)
        assert len(plan) > 10
        for _, row, col, side, *_ in plan:
            assert (labels[row : row + side, col : col + side] != IGNORE).any()
    grid = plan_of(tiles, stride=16)
    windows = [(row, col) for row in starts(400, 32, 16) for col in starts(500, 32, 16)]
    assert len(grid) == sum((labels[r : r + 32, c : c + 32] != IGNORE).any() for r, c in windows)


@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 400), st.integers(1, 400)), st.integers(1, 200))
def test_hold_labels_agrees_with_a_look_at_the_pixels(seed, shape, side):
    rng = np.random.default_rng(seed)
    labels = np.full(shape, IGNORE, np.uint8)
    for _ in range(3):
        row, col = rng.integers(0, shape)
        labels[row : row + rng.integers(1, 200), col : col + rng.integers(1, 200)] = rng.integers(6)
    tile = tile_of(np.zeros((*shape, 3), np.uint8), labels)
    corners = rng.integers(0, shape, (20, 2))
    direct = [(labels[r : r + side, c : c + side] != IGNORE).any() for r, c in corners]
    assert hold_labels(tile, corners, side).tolist() == direct


def test_aimed_windows_hold_their_class_and_their_share_is_kept():
    labels = np.zeros((600, 700), np.uint8)
    labels[431:434, 77:81] = 4  # one small car
    labels[10, 10] = 3
    tiles = [*marker_tiles((80, 90)), tile_of(np.zeros((600, 700, 3), np.uint8), labels)]
    tiles[0] = tile_of(tiles[0].image, np.zeros((80, 90), np.uint8))
    for scale in ((1, 1), (0.5, 2)):
        plan = plan_of(tiles, targets={4: 0.25, 3: 0.1}, scale=scale)
        held = {
            wanted: sum(
                (tiles[t].labels[row : row + side, col : col + side] == wanted).any()
                for t, row, col, side, *_ in plan
            )
            for wanted in (3, 4)
        }
        assert held[4] >= round(0.25 * len(plan)) and held[3] >= round(0.1 * len(plan))
        assert held[4] < 0.4 * len(plan)
    windows = aim(np.random.default_rng(0), tiles, np.full(300, 32), 4)
    assert (
        len(np.unique(windows[:, 1])) > 20 and len(np.unique(windows[:, 2])) > 20
    )  # it lies anywhere in them


def test_more_windows_than_memory_holds_are_refused(settings, monkeypatch):
    monkeypatch.setattr("learning.plans.MOST", 1000)
    settings["input"]["stride"] = 1
    with pytest.raises(Problem, match="input.stride: 1, about 5,000 patches an epoch") as caught:
        plan_epoch(marker_tiles((50, 100)), settings, 1)
    assert caught.value.code == 2


def test_an_aim_at_a_class_without_pixels_is_refused(settings):
    settings["input"]["aim"] = {"car": 0.5}
    tiles = [tile_of(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8))]
    with pytest.raises(Problem, match="input.aim: car") as caught:
        plan_epoch(tiles, settings, 1)
    assert caught.value.code == 3


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5))
def test_workers_together_cut_each_window_once_in_the_same_batches(workers, each, batches):
    batch = workers * each
    plan = np.zeros(batches * batch + batch - 1, PLAN)
    plan["seed"] = np.arange(len(plan))
    parts = [shard(plan, batch, worker, workers) for worker in range(workers)]
    for step in range(batches):
        together = np.concatenate([part[step] for part in parts])
        np.testing.assert_array_equal(together, plan[step * batch : (step + 1) * batch])
    assert all(part.shape == (batches, each) for part in parts)


@given(SHAPES, st.sampled_from([16, 32]), st.integers(1, 7))
def test_validation_counts_every_pixel_once_in_order(shapes, patch, batch_size):
    tiles = marker_tiles(*shapes)
    plan = validation_plan(tiles, patch, batch_size)
    assert len(plan) % batch_size == 0
    counts = [np.zeros(shape, int) for shape in shapes]
    for tile, row, col, side, number, _, rows, cols in plan:
        assert number == 0 and side == patch
        counts[tile][row + rows : row + patch, col + cols : col + patch] += 1
    assert all((count == 1).all() for count in counts)
    assert (cut_batch(tiles, plan, patch)[..., 3] != IGNORE).sum() == sum(h * w for h, w in shapes)


def test_labels_stay_aligned_with_the_image_in_every_view():
    tiles = marker_tiles((80, 90), (20, 33))
    plan = np.array(
        [
            (t, row, col, 32, number, 0, 0, 0)
            for t, row, col in ((0, 11, 7), (1, 0, 1))
            for number in range(8)
        ],
        PLAN,
    )
    pixels = cut_batch(tiles, plan, 32)
    images, labels = pixels[..., :3], pixels[..., 3]
    assert pixels.dtype == np.uint8
    inside = labels != IGNORE
    np.testing.assert_array_equal(images[..., 0][inside], labels[inside])
    assert inside[:8].all() and inside[8:].sum() == 8 * 20 * 32  # the second tile is lower than a patch
    for i, number in enumerate(range(8)):  # the views are those of prediction
        np.testing.assert_array_equal(images[i], view(tiles[0].image[11:43, 7:39], number))


@pytest.mark.parametrize("side", [11, 20, 32, 40, 64])
def test_a_scaled_patch_keeps_its_labels_discrete_and_in_place(side):
    """A marker: the image says where its pixel lay, the label which of five squares it belongs to."""
    rows, cols = np.indices((64, 64))
    labels = ((rows // 13 + cols // 13) % 5).astype(np.uint8)
    labels[labels == 4] = IGNORE
    tile = tile_of(np.stack([rows * 3, cols * 3, rows + cols], -1).astype(np.uint8), labels)
    for number in range(8):
        plan = np.array([(0, 0, 0, side, number, 0, 0, 0)], PLAN)
        (patch,) = cut_batch([tile], plan, 32)
        assert set(np.unique(patch[..., 3])) <= {0, 1, 2, 3, IGNORE}
        at = (np.arange(32) + 0.5) * side / 32 - 0.5  # where its pixels' centres lay, before the view
        where = np.stack(np.meshgrid(at, at, indexing="ij"), -1)
        where = view(where, number) if side == 32 else np.rot90(where, number % 4)
        where = where[:, ::-1] if side != 32 and number >= 4 else where
        expected = np.clip(where, 0, side - 1) * 3
        assert np.abs(patch[..., :2] - expected).max() <= 2.1  # rounding of weights in 128ths, and of bytes
        same = np.zeros((32, 32), bool)
        for tie in np.ndindex(2, 2):  # a centre between two pixels may fall to either
            nearest = np.clip(np.floor(where + 0.5 + 1e-6 * (2 * np.array(tie) - 1)), 0, side - 1).astype(int)
            same |= patch[..., 3] == labels[nearest[..., 0], nearest[..., 1]]
        assert same.all()


def test_resizing_to_the_same_size_changes_nothing_and_a_constant_stays():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 40, 4)).astype(np.uint8)
    np.testing.assert_array_equal(resize(pixels, 40, 3), pixels)
    flat = np.full((23, 23, 4), 201, np.uint8)
    assert (resize(flat, 64, 3) == 201).all() and (resize(flat, 8, 3) == 201).all()


def test_resizing_is_bilinear():
    from skimage.transform import resize as reference

    rng = np.random.default_rng(1)
    for side, size in ((20, 32), (50, 32)):
        pixels = rng.integers(0, 256, (side, side, 4)).astype(np.uint8)
        expected = reference(
            pixels[..., :3].astype(float), (size, size), order=1, mode="edge", anti_aliasing=False
        )
        difference = resize(pixels, size, 3)[..., :3] - expected
        assert (
            abs(difference.mean()) < 0.1 and np.abs(difference).max() <= 3
        )  # whole numbers, weights in 128ths


def recoloured(pixels, bands=3, seed=0, brightness=0, contrast=0, saturation=0, hue=0):
    colours = Colours(bands, brightness, contrast, saturation, hue)
    return recolour(pixels[None], *draw_colours(pixels[None], np.array([seed]), colours))[0]


def test_changes_leave_labels_and_further_bands_alone():
    rng = np.random.default_rng(0)
    for bands, depth in ((3, 4), (3, 8), (5, 8)):
        pixels = rng.integers(0, 256, (48, 48, depth)).astype(np.uint8)
        changed = recoloured(pixels, bands, brightness=0.5, contrast=0.5, saturation=0.5)
        np.testing.assert_array_equal(changed[..., bands:], pixels[..., bands:])
        assert (changed[..., :bands] != pixels[..., :bands]).mean() > 0.5


def test_changing_by_nothing_is_nothing():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 4)).astype(np.uint8)
    np.testing.assert_array_equal(recoloured(pixels), pixels)


def test_each_colour_change_does_what_its_name_says():
    rng = np.random.default_rng(3)
    pixels = rng.integers(60, 130, (64, 64, 4)).astype(np.uint8)
    before = pixels[..., :3].astype(float)
    for seed in range(5):
        bright = recoloured(pixels, brightness=0.4, seed=seed)[..., :3] / before
        assert bright.std() < 0.01 and 0.6 <= bright.mean() <= 1.4  # one factor for all
        contrast = recoloured(pixels, contrast=0.4, seed=seed)[..., :3].astype(float)
        factor = contrast.std() / before.std()
        assert abs(contrast.mean() - before.mean()) < 1.5 and 0.58 < factor < 1.42
        grey = recoloured(pixels, saturation=1, seed=seed)[..., :3].astype(float)
        assert np.abs(grey.mean(-1) - before.mean(-1)).max() < 1.5 and abs(grey.mean() - before.mean()) < 1
        hue = recoloured(pixels, hue=0.5, seed=seed)[..., :3].astype(float)
        assert np.abs(hue.mean(-1) - before.mean(-1)).max() < 1.5  # a turn around the grey axis
        assert np.abs(hue.std(-1) - before.std(-1)).max() < 1.5


def test_the_colour_matrix_by_hand(monkeypatch):
    class Highest:
        def __init__(self, seed):
            pass

        def uniform(self, low, high):
            return high

    monkeypatch.setattr(np.random, "default_rng", Highest)
    pixels = np.full((1, 16, 16, 8), 100, np.uint8)
    for bands, change, matrix, offset in (
        (3, {"brightness": 0.5}, 1.5 * np.eye(3), 0),
        (3, {"contrast": 0.5}, 1.5 * np.eye(3), -50),  # c x + (1 - c) mean
        (4, {"saturation": 1}, 2 * np.eye(4) - 0.25, 0),
        (3, {"hue": 1 / 3}, np.eye(3)[[2, 0, 1]], 0),  # red to green to blue
    ):
        values = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, **change}
        matrices, offsets = draw_colours(pixels, np.array([7]), Colours(bands, **values))
        np.testing.assert_allclose(matrices, [matrix], atol=1e-6)
        np.testing.assert_allclose(offsets, np.full((1, bands), offset), atol=1e-4)


def test_the_extra_band_is_no_colour(settings):
    assert colours_of(settings) is None
    settings["augment"].update(brightness=0.2)
    settings["data"].update(extra="dsm/{tile}.tif", scale=[None, None, None, [0, 30]])
    assert colours_of(settings) == Colours(3, brightness=0.2, contrast=0, saturation=0, hue=0)


def test_order_views_and_colours_are_those_of_earlier_versions():
    """An epoch, and so a training, is the same to the bit whatever is written anew."""
    first = plan_of(marker_tiles((300, 190), (83, 66)), seed=7, epoch=3)
    assert [first[i].tolist() for i in (0, 1, -1)] == [
        (0, 122, 95, 32, 6, 553832331, 0, 0),
        (0, 109, 68, 32, 0, 825750951, 0, 0),
        (0, 6, 72, 32, 6, 1147836110, 0, 0),
    ]
    matrices, offsets = draw_colours(
        np.full((1, 8, 8, 4), 90, np.uint8), np.array([77]), Colours(3, 0.2, 0.2, 0.2, 0.05)
    )
    np.testing.assert_allclose(matrices[0, 0], [1.05583942, 0.1018571, -0.02051378], rtol=1e-6)


@pytest.mark.parametrize("bands", [1, 3, 4, 7, 8, 12])
def test_any_number_of_bands_is_cut_alike(bands):
    rng = np.random.default_rng(bands)
    image, labels = (
        rng.integers(0, 256, (50, 60, bands)).astype(np.uint8),
        rng.integers(0, 6, (50, 60)).astype(np.uint8),
    )
    plan = np.array([(0, 5, 9, 32, 3, 0, 0, 0), (0, 40, 40, 32, 0, 0, 0, 0)], PLAN)
    pixels = cut_batch([tile_of(image, labels)], plan, 32)
    np.testing.assert_array_equal(pixels[0, ..., :bands], view(image[5:37, 9:41], 3))
    np.testing.assert_array_equal(pixels[0, ..., bands], view(labels[5:37, 9:41], 3))
    assert (pixels[1, 10:, :, bands] == IGNORE).all() and (pixels[1, :, 20:, bands] == IGNORE).all()
    np.testing.assert_array_equal(pixels[1, :10, :20, :bands], image[40:, 40:])
    assert (pixels[..., bands + 1 :] == 0).all()
