import numpy as np
import pytest
import rasterio.features
from hypothesis import given, settings
from hypothesis import strategies as st

from base.problem import Problem
from imagery.burning import Burner, Polygons


def polygons_of(*shapes):
    """Polygons of lists of rings, each a list of corners, one feature each."""
    points, ends, starts = [], [], [0]
    for rings in shapes:
        for ring in rings:
            points += [*ring, ring[0]]
            ends += [False] * len(ring) + [True]
        starts.append(len(points))
    features = np.arange(len(shapes), dtype=np.int32)
    return Polygons(*np.array(points, float).T, np.array(ends), np.array(starts), features)


def square(left, top, right, bottom):
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def covered(shapes, shape, all_touched=False):
    return Burner(polygons_of(*shapes), shape, all_touched, "a.gpkg").covered(0, shape[0])


def of_gdal(shapes, shape, all_touched=False):
    geometries = [
        {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in rings]} for rings in shapes
    ]
    burnt = rasterio.features.rasterize(geometries, shape, all_touched=all_touched, dtype="uint8")
    return burnt > 0


HALF = st.integers(-6, 40).map(lambda n: n / 2)
QUARTER = HALF.map(lambda n: n + 0.25)  # no level border through the middles of pixels
RING = st.lists(st.tuples(HALF, QUARTER), min_size=3, max_size=8)


@settings(max_examples=60)
@given(st.lists(st.lists(RING, min_size=1, max_size=3), min_size=1, max_size=3))
def test_the_same_pixels_as_gdal_burns(shapes):
    assert np.array_equal(covered(shapes, (13, 17)), of_gdal(shapes, (13, 17)))


@settings(max_examples=50)
@given(st.lists(RING, min_size=1, max_size=3), st.integers(1, 8), st.booleans())
def test_burnt_by_strips_is_burnt_at_once(rings, rows, all_touched):
    burner = Burner(polygons_of(rings), (13, 17), all_touched, "a.gpkg")
    strips = [burner.covered(start, min(start + rows, 13)) for start in range(0, 13, rows)]
    assert np.array_equal(np.concatenate(strips), burner.covered(0, 13))


def test_touched_pixels_are_those_that_a_ring_passes_through():
    rng = np.random.default_rng(1)
    shapes = [[rng.uniform(-5, 25, (5, 2)).tolist()] for _ in range(20)]
    for shape in shapes:  # in general position, where no corner of a pixel is met
        assert np.array_equal(covered([shape], (20, 21), True), of_gdal([shape], (20, 21), True))
    assert covered([[square(1.9, 1.9, 2.1, 3.1)]], (5, 5), True).sum() == 6
    assert covered([[square(1.9, 1.9, 2.1, 3.1)]], (5, 5)).sum() == 0
    on_borders = covered([[square(1, 1, 3, 4)]], (5, 5), True)
    assert on_borders.sum() == 6 and on_borders[1:4, 1:3].all()


def test_a_hole_is_a_hole_and_an_island_in_it_is_covered():
    rings = [square(0, 0, 9, 9), square(2, 2, 7, 7), square(4, 4, 5, 5)]
    assert covered([rings], (9, 9)).sum() == 81 - 25 + 1


def test_polygons_that_share_a_border_through_middles_share_no_pixel():
    parts = [square(0, 0, 2.5, 6), square(2.5, 0, 6, 1.5), square(2.5, 1.5, 6, 6), square(3.5, 2.5, 4.5, 4.5)]
    burner = Burner(polygons_of(parts[:1], parts[1:2], parts[2:], parts[3:]), (6, 6), False, "a.gpkg")
    painted, others = burner.paint(np.arange(4), np.arange(4, dtype=np.uint8), 0, 6)
    assert not others.any() and painted.max() == 3


def test_the_highest_rank_covers_the_others_and_pixels_of_two_values_are_told():
    shapes = [[square(0, 0, 4, 4)], [square(2, 2, 6, 6)], [square(5, 5, 6, 6)]]
    burner = Burner(polygons_of(*shapes), (6, 6), False, "a.gpkg")
    values = np.array([7, 3, 3], np.uint8)
    painted, others = burner.paint(np.array([0, 1, 2]), values, 0, 6)
    assert (painted == 7).sum() == 12 and (painted == 3).sum() == 16 and (painted == 255).sum() == 8
    assert others.sum() == 4 and others[2:4, 2:4].all()
    painted, others = burner.paint(np.array([2, 1, 0]), values, 0, 6)
    assert (painted == 7).sum() == 16 and others.sum() == 4


def test_a_tangle_is_refused_before_it_is_burnt():
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 400, (2, 400_000))
    ends = np.arange(400_000) == 399_999
    tangle = Polygons(x, y, ends, np.array([0, 400_000]), np.zeros(1, np.int32))
    with pytest.raises(
        Problem, match=r"^polygons in a.gpkg: their edges cross rows .* expected at most 64 times"
    ):
        Burner(tangle, (400, 400), False, "a.gpkg")


def test_rings_that_cross_are_told():
    bow_tie = [[(0, 0), (8, 8), (8, 0), (0, 8)]]
    twice = [[*square(0, 0, 6, 6), *square(0, 0, 6, 6)]]
    hole_outside = [square(0, 0, 3, 3), square(2, 2, 6, 6)]
    good = [square(0, 0, 7, 7), square(2, 2, 4, 4), square(4, 4, 6, 6)[::-1]]
    shapes = [bow_tie, good, twice, hole_outside, [good[0][::-1], *good[1:]]]
    burner = Burner(polygons_of(*shapes), (9, 9), False, "a.gpkg")
    for start in range(0, 9, 3):
        burner.covered(start, start + 3)
    assert burner.crossed().tolist() == [0, 2, 3]
