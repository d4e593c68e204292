import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from imagery.scores import mean_iou
from reporting.spread import compare_groups, describe_group, group_by_seed, mean_ious, resample


def metrics(*matrices, names="abcdefghijklmnop"):
    """metrics.json of a run by the confusion matrix of each of its test tiles."""
    tiles = {name: {"full": {"confusion": np.array(each).tolist()}} for name, each in zip(names, matrices)}
    return {"tiles": tiles, "full": {"classes": {str(i): {} for i in range(len(matrices[0]))}}}


def random_run(seed, tiles, quality=0.7):
    rng = np.random.default_rng(seed)
    right = np.diag(rng.integers(1000, 2000, 3) * quality).astype(int)
    return metrics(*(right + rng.integers(0, 300, (3, 3)) for _ in range(tiles)))


def test_runs_are_of_one_group_where_the_seed_alone_differs():
    runs = {
        "a": {"seed": 1, "model.width": 8},
        "b": {"seed": 1, "model.width": 16},
        "a2": {"seed": 2, "model.width": 8},
        "c": {"model.width": 8, "seed": 3},
        "copy of a": {"model.width": 8, "seed": 1},
    }
    assert group_by_seed(runs) == {"a": ["a", "a2", "c"], "b": ["b"]}


def test_the_mean_and_the_deviation_by_hand():
    names = ("full mean_iou", "full mean_f1", "full accuracy", "eroded mean_iou")
    rows = [dict(zip(names, values)) for values in ((0.5, 0.6, 0.7, None), (0.7, 0.6, 0.7, None))]
    told = describe_group(rows)
    assert told["full mean_iou"] == pytest.approx((0.6, math.sqrt(0.02)))
    assert told["full mean_f1"] == (0.6, 0) and "eroded mean_iou" not in told
    assert describe_group(rows[:1])["full accuracy"] == (0.7, None)


@given(st.integers(0, 99), st.integers(1, 4))
def test_mean_ious_are_those_of_each_matrix(seed, classes):
    matrices = np.random.default_rng(seed).integers(0, 2, (5, 2, classes, classes))
    matrices[..., 0, 0] += 1
    expected = [[mean_iou(matrix) for matrix in row] for row in matrices]
    np.testing.assert_allclose(mean_ious(matrices), expected)


def test_a_draw_of_every_tile_once_is_the_score_of_all():
    run = random_run(0, 6)
    whole = sum(np.array(tile["full"]["confusion"]) for tile in run["tiles"].values())
    assert resample([run], np.ones((1, 6), int)) == pytest.approx(mean_iou(whole))
    second = np.array(run["tiles"]["b"]["full"]["confusion"])
    assert resample([run], np.array([[0, 6, 0, 0, 0, 0]])) == pytest.approx(mean_iou(second))


def test_groups_with_themselves_differ_by_nothing_and_a_clear_gain_lies_above_zero():
    good, bad = [random_run(seed, 12, 0.9) for seed in (1, 2)], [random_run(seed, 12, 0.5) for seed in (3, 4)]
    (same,) = compare_groups({"a": good, "b": good})
    assert (same["difference"], same["low"], same["high"], same["tiles"]) == (0, 0, 0, 12)
    (clear,) = compare_groups({"good": good, "bad": bad})
    assert 0 < clear["low"] < clear["difference"] < clear["high"] < 1
    (other,) = compare_groups({"bad": bad, "good": good})
    assert other["difference"] == pytest.approx(-clear["difference"])


def test_the_interval_covers_as_often_as_it_says():
    """Two networks of the same quality on 24 tiles: about one interval in twenty lies beside zero."""
    beside, rng, right = 0, np.random.default_rng(0), np.diag([900, 700, 500])
    for _ in range(100):
        runs = [metrics(*(right + rng.integers(0, 300, (3, 3)) for _ in range(16))) for _ in range(2)]
        (row,) = compare_groups({"a": runs[:1], "b": runs[1:]})
        beside += not row["low"] <= 0 <= row["high"]
    assert 1 <= beside <= 14


@hypothesis_settings(max_examples=20)
@given(st.integers(1, 4))
def test_few_tiles_give_a_difference_and_no_interval(tiles):
    (row,) = compare_groups({"a": [random_run(0, tiles)], "b": [random_run(1, tiles)]})
    assert row["low"] is row["high"] is None and row["difference"] != 0 and row["tiles"] == tiles


def test_tiles_in_another_order_are_the_same_tiles():
    one, two = random_run(0, 6), random_run(1, 6)
    turned = {**two, "tiles": dict(reversed(two["tiles"].items()))}
    assert compare_groups({"a": [one], "b": [turned]}) == compare_groups({"a": [one], "b": [two]})


def test_runs_on_other_tiles_or_classes_are_not_compared():
    one, two = random_run(0, 6), metrics(*[np.eye(3, dtype=int)] * 6, names="pqrstu")
    assert compare_groups({"a": [one], "b": [two]}) == []
    assert compare_groups({"a": [one], "b": [metrics(*[np.eye(2, dtype=int)] * 6)]}) == []
    rows = compare_groups({"a": [one], "b": [two], "c": [random_run(1, 6)]})
    assert [(row["run"], row["other"]) for row in rows] == [("a", "c")]
