import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from imagery.arrays import starts, unview, view


@given(st.integers(1, 3000), st.integers(1, 600), st.data())
def test_windows_cover_an_axis_and_stay_on_it(size, window, data):
    step = data.draw(st.integers(1, window))
    first = starts(size, window, step)
    assert first[0] == 0 and first[-1] == max(size - window, 0)
    assert (np.diff(first) > 0).all() and (np.diff(first) <= step).all()
    assert len(first) == 1 + max(0, -(-(size - window) // step))  # no more than needed


def test_the_eight_views_differ_and_are_undone():
    marker = np.arange(9).reshape(3, 3)
    views = [view(marker, number) for number in range(8)]
    assert len({v.tobytes() for v in map(np.ascontiguousarray, views)}) == 8
    for number, turned in enumerate(views):
        np.testing.assert_array_equal(unview(turned, number), marker)
    assert view(marker, 1).tolist() == [[2, 5, 8], [1, 4, 7], [0, 3, 6]]  # a quarter turn to the left
    assert view(marker, 4).tolist() == [[2, 1, 0], [5, 4, 3], [8, 7, 6]]  # mirrored
