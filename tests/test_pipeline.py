import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline import batches, cut_batch, patches_per_epoch, random_starts, training_plan, validation_plan
from tiles import IGNORE, view

SHAPES = st.lists(st.tuples(st.integers(1, 200), st.integers(1, 200)), min_size=1, max_size=3)


def marker_tiles(*shapes):
    """Tiles whose image says, pixel by pixel, what the labels are, and where they lie."""
    tiles = []
    for shape in shapes:
        rows, cols = np.indices(shape)
        labels = ((rows * 7 + cols * 3) % 6).astype(np.uint8)
        tiles.append((np.stack([labels, rows % 256, cols % 256], -1).astype(np.uint8), labels))
    return tiles


@given(SHAPES, st.sampled_from([16, 32, 64]), st.integers(0, 5))
def test_a_training_epoch_has_one_window_per_cell_inside_its_tile(shapes, patch, epoch):
    plan = training_plan(shapes, patch, True, 1, epoch)
    assert len(plan) == patches_per_epoch(shapes, patch)
    for tile, (height, width) in enumerate(shapes):
        part = plan[plan[:, 0] == tile]
        assert (
            (part[:, 1:3] >= 0).all()
            and (part[:, 1] <= max(height - patch, 0)).all()
            and (part[:, 2] <= max(width - patch, 0)).all()
        )
    assert ((plan[:, 3] >= 0) & (plan[:, 3] < 8)).all()


@given(st.integers(1, 500), st.sampled_from([16, 32, 64]), st.integers(0, 99))
def test_each_random_start_is_drawn_from_its_own_stretch(size, patch, seed):
    drawn = random_starts(np.random.default_rng(seed), size, patch, 5)
    possible = max(size - patch, 0) + 1
    ends = np.arange(len(drawn) + 1)[:, None] * possible // len(drawn)
    assert len(drawn) == -(-size // patch)
    assert (drawn >= ends[:-1]).all() and (drawn <= np.minimum(ends[1:], possible - 1)).all()


def test_order_and_views_come_from_seed_and_epoch_alone():
    shapes = [(500, 400), (300, 600)]
    first = training_plan(shapes, 32, True, 1, 1)
    np.testing.assert_array_equal(first, training_plan(shapes, 32, True, 1, 1))
    assert (first != training_plan(shapes, 32, True, 1, 2)).any() and (
        first != training_plan(shapes, 32, True, 2, 1)
    ).any()
    assert set(first[:, 3]) == set(range(8)) and set(training_plan(shapes, 32, False, 1, 1)[:, 3]) == {0}
    places = np.flatnonzero(np.diff(first[:, 0]))
    assert len(places) > len(first) / 4  # tiles are mixed, not one after the other


def test_many_epochs_reach_every_pixel():
    seen = np.zeros((70, 50), bool)
    for epoch in range(200):
        for _, row, col, *_ in training_plan([seen.shape], 32, False, 1, epoch):
            seen[row : row + 32, col : col + 32] = True
    assert seen.all()


@given(SHAPES, st.sampled_from([16, 32]), st.integers(1, 7))
def test_validation_counts_every_pixel_once_in_order(shapes, patch, batch_size):
    plan = validation_plan(shapes, patch, batch_size)
    assert len(plan) % batch_size == 0
    counts = [np.zeros(shape, int) for shape in shapes]
    for tile, row, col, number, rows, cols in plan:
        assert number == 0
        counts[tile][row + rows : row + patch, col + cols : col + patch] += 1
    assert all((count == 1).all() for count in counts)
    _, labels = cut_batch(marker_tiles(*shapes), plan, patch)
    assert (labels != IGNORE).sum() == sum(h * w for h, w in shapes)


def test_labels_stay_aligned_with_the_image_in_every_view():
    tiles = marker_tiles((80, 90), (20, 33))
    plan = np.array(
        [(tile, row, col, number, 0, 0) for tile, row, col in ((0, 11, 7), (1, 0, 1)) for number in range(8)]
    )
    images, labels = cut_batch(tiles, plan, 32)
    assert images.dtype == labels.dtype == np.uint8
    inside = labels != IGNORE
    np.testing.assert_array_equal(images[..., 0][inside], labels[inside])
    assert inside[:8].all() and inside[8:].sum() == 8 * 20 * 32  # the second tile is lower than a patch
    for i, number in enumerate(range(8)):  # the views are those of prediction
        np.testing.assert_array_equal(images[i], view(tiles[0][0][11:43, 7:39], number))


def test_batches_come_in_the_plans_order_and_are_whole():
    tiles = marker_tiles((100, 130))
    plan = training_plan([(100, 130)], 16, True, 1, 1)
    images, labels = cut_batch(tiles, plan, 16)
    for _ in range(2):
        got = list(batches(tiles, plan, 16, 4))
        assert len(got) == len(plan) // 4
        for i, (batch_images, batch_labels) in enumerate(got):
            np.testing.assert_array_equal(batch_images.numpy(), images[4 * i : 4 * i + 4])
            np.testing.assert_array_equal(batch_labels.numpy(), labels[4 * i : 4 * i + 4])
