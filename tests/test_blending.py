import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mapping import blending
from mapping.maps import WHOLE


def per_pixel(patches):
    """A stand-in engine that answers from each pixel alone: class = value of the first band modulo 6."""
    for patch in patches:
        yield 0.1 + 0.4 * np.moveaxis(np.eye(6, dtype=np.float32)[patch[..., 0] % 6], -1, 0)


@hypothesis_settings(max_examples=60)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([16, 32, 48]),
    st.floats(0, 0.9),
    st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True),
    st.sampled_from([None, 1, 0.5, 2]),
)
def test_the_stitched_answer_equals_the_direct_one(height, width, window, overlap, views, temperature):
    raster = np.random.default_rng(height * 100 + width).integers(0, 256, (height, width, 3)).astype(np.uint8)
    reads, parts = [], []

    def read(start, stop):
        reads.append(stop - start)
        return raster[start:stop], np.ones((stop - start, width), bool)

    for row, found in blending.predict_rows(
        per_pixel, read, (height, width), 6, blending.Windows(window, overlap, views, 16), temperature
    ):
        assert row == sum(part.shape[1] for part in parts)
        parts.append(found)
    whole, classes = np.concatenate(parts, 1), raster[..., 0] % 6
    np.testing.assert_array_equal(whole[0], classes)
    if temperature is None:
        assert len(whole) == 1
    else:
        assert (whole[1] == WHOLE / 2).all()
        high, low = 0.5 ** (1 / temperature), 0.1 ** (1 / temperature)
        high, low = (WHOLE * each / (high + 5 * low) for each in (high, low))
        expected = np.where(np.arange(6)[:, None, None] == classes, high, low)
        np.testing.assert_allclose(whole[2:], expected, atol=0.6)
    assert max(reads) <= window  # never more than a window's rows at once


@hypothesis_settings(max_examples=40)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([0, 0.25, 0.6]),
    st.sampled_from([[0], [5, 2]]),
    st.lists(st.tuples(st.integers(0, 89), st.integers(0, 89)), max_size=3),
    st.integers(1, 4),
)
def test_windows_without_a_valid_pixel_are_not_predicted_and_valid_pixels_stay_as_they_were(
    height, width, overlap, views, areas, ahead
):
    """The stand-in answers from all pixels of a patch, some patches ahead, as engines do."""
    raster = np.random.default_rng(height * 100 + width).integers(0, 256, (height, width, 3)).astype(np.uint8)
    windows, asked = blending.Windows(16, overlap, views, 16), []

    def answer(patches):
        waiting = []
        for patch in patches:
            asked.append(patch)
            waiting.append(np.random.default_rng(patch.ravel()).random((3, 16, 16)).astype(np.float32))
            if len(waiting) > ahead:
                yield waiting.pop(0)
        yield from waiting

    def rows(valid):
        asked.clear()
        read = lambda start, stop: (raster[start:stop], valid[start:stop])  # noqa: E731
        parts = blending.predict_rows(answer, read, (height, width), 3, windows, 1.5)
        return np.concatenate([part for _, part in parts], 1), len(asked)

    valid = np.zeros((height, width), bool)
    for row, col in areas:
        valid[row : row + 7, col : col + 9] = True
    (some, count), (every, _) = rows(valid), rows(np.ones_like(valid))
    np.testing.assert_array_equal(some[:, valid], every[:, valid])
    corners = [(row, col) for row in windows.along(height) for col in windows.along(width)]
    with_data = [valid[row : row + 16, col : col + 16].any() for row, col in corners]
    assert count == sum(with_data) * len(views)


def test_memory_depends_on_width_and_window_not_on_height():
    """A raster 50 times as high as its window needs no more than one twice as high."""

    def measured(height):
        tracemalloc.start()
        try:
            rows = blending.predict_rows(
                per_pixel,
                lambda start, stop: (np.zeros((stop - start, 3000, 3), np.uint8), np.ones((1, 3000), bool)),
                (height, 3000),
                classes=6,
                windows=blending.Windows(64, 0.25, [0], 16),
            )
            for _ in rows:
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    low, high = measured(128), measured(3200)
    assert high < 1.2 * low and low < 3 * 64 * 3000 * 6 * 4  # a few bands of sums
    assert measured(20) < 64 * 3000 * 6 * 4 / 3  # one row of windows shares no rows with another


def test_views_are_averaged_each_turned_back():
    """An engine that answers by place in the patch shows whether views are undone: the mean of eight is
    symmetric."""
    planes = np.random.default_rng(0).random((2, 16, 16)).astype(np.float32)
    rows = blending.predict_rows(
        lambda patches: (planes for _ in patches),
        lambda start, stop: (np.zeros((stop - start, 16, 3), np.uint8), np.ones((1, 16), bool)),
        (16, 16),
        classes=2,
        windows=blending.Windows(16, 0, range(8), 16),
        temperature=1,
    )
    mean = next(rows)[1][2:].astype(int)
    for number in range(8):
        np.testing.assert_allclose(blending.turned_back(mean, number), mean, atol=2)
    shares = sum(blending.turned_back(planes, number) for number in range(8))
    np.testing.assert_allclose(mean, WHOLE * shares / shares.sum(0), atol=0.6)


def test_windows_count_most_in_their_middle_and_everywhere_a_little():
    weights = blending.blend_weights(32)
    assert (
        weights.min() > 0
        and weights.max() == weights[15:17, 15:17].max()
        and (np.diff(weights[16, :16]) > 0).all()
    )


@given(st.integers(1, 3000), st.integers(1, 20), st.just(0) | st.floats(0, 0.9), st.sampled_from([1, 4, 32]))
def test_windows_cover_an_axis_overlap_and_lie_on_the_networks_grid(size, cells, overlap, multiple):
    window = cells * multiple
    first = blending.Windows(window, overlap, [0], multiple).along(size)
    beyond = multiple if overlap and len(first) > 1 else window
    assert first[0] == 0 and size <= first[-1] + window < size + beyond
    assert (first % multiple == 0).all() and (np.diff(first) > 0).all()
    if overlap == 0:
        assert (np.diff(first) == window).all()
    elif len(first) > 1:
        assert np.diff(first).max() <= max(multiple, window * (1 - overlap))
