import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from imagery.arrays import IGNORE
from imagery.scores import (
    accuracy,
    boundary_distance,
    class_scores,
    confusion_matrix,
    mean_iou,
)

# 3 x 4 pixels by hand: labels, predicted
LABELS = np.array([[0, 0, 0, 1], [0, 1, 1, 1], [2, 2, IGNORE, 1]], np.uint8)
PREDICTED = np.array([[0, 0, 1, 1], [0, 1, 1, 0], [2, 0, 1, 1]], np.uint8)
CONFUSION = np.array([[3, 1, 0], [1, 4, 0], [1, 0, 1]])


def test_confusion_and_scores_by_hand():
    confusion = confusion_matrix(LABELS, PREDICTED, 3)
    np.testing.assert_array_equal(confusion, CONFUSION)
    scores = class_scores(confusion)
    np.testing.assert_allclose(scores["iou"], [3 / 6, 4 / 6, 1 / 2])
    np.testing.assert_allclose(scores["f1"], [6 / 9, 8 / 10, 2 / 3])
    np.testing.assert_allclose(scores["precision"], [3 / 5, 4 / 5, 1])
    np.testing.assert_allclose(scores["recall"], [3 / 4, 4 / 5, 1 / 2])
    assert accuracy(confusion) == 8 / 11 and mean_iou(confusion) == pytest.approx((3 / 6 + 4 / 6 + 1 / 2) / 3)


@given(
    arrays(
        np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.sampled_from([0, 1, 2, 255])
    ),
    st.data(),
)
def test_the_confusion_matrix_equals_counting_pair_by_pair(labels, data):
    predicted = data.draw(arrays(np.uint8, labels.shape, elements=st.integers(0, 2)))
    expected = np.zeros((3, 3), int)
    for truth, guess in zip(labels.ravel(), predicted.ravel()):
        if truth != IGNORE:
            expected[truth, guess] += 1
    confusion = confusion_matrix(labels, predicted, 3)
    np.testing.assert_array_equal(confusion, expected)
    scores = class_scores(confusion)
    for iou, f1 in zip(scores["iou"], scores["f1"]):
        assert math.isnan(iou) and math.isnan(f1) or f1 == pytest.approx(2 * iou / (1 + iou))


@settings(max_examples=50)  # the first one imports scikit-learn
@given(
    st.tuples(st.integers(1, 30), st.integers(1, 30)).flatmap(
        lambda shape: st.tuples(*[arrays(np.uint8, shape, elements=st.integers(0, 4))] * 2)
    )
)
def test_scores_equal_those_of_scikit_learn(both):
    metrics = pytest.importorskip("sklearn.metrics")
    truth, guess = (each.ravel() for each in both)
    confusion = confusion_matrix(*both, 5)
    np.testing.assert_array_equal(confusion, metrics.confusion_matrix(truth, guess, labels=range(5)))
    assert accuracy(confusion) == metrics.accuracy_score(truth, guess)
    ours, options = class_scores(confusion), {"labels": range(5), "average": None, "zero_division": np.nan}
    np.testing.assert_array_equal(
        ours["iou"][ours["iou"] > 0],
        metrics.jaccard_score(truth, guess, labels=np.flatnonzero(ours["iou"] > 0), average=None),
    )
    for name in ("f1", "precision", "recall"):
        np.testing.assert_allclose(ours[name], getattr(metrics, f"{name}_score")(truth, guess, **options))


def test_groups_of_pixels_have_matrices_of_their_own_that_add_up():
    groups = np.array([[0, 0, 2, 2], [0, 2, 2, 2], [0, 0, 0, 2]], np.uint8)
    matrices = confusion_matrix(LABELS, PREDICTED, 3, groups, 3)
    np.testing.assert_array_equal(matrices[0], [[3, 0, 0], [0, 0, 0], [1, 0, 1]])
    assert matrices[1].sum() == 0
    np.testing.assert_array_equal(matrices.sum(0), CONFUSION)


def test_a_class_past_the_last_is_refused():
    for labels, predicted in ((0, 3), (3, 0), (0, IGNORE)):
        with pytest.raises(ValueError):
            confusion_matrix(np.array([[labels]], np.uint8), np.array([[predicted]], np.uint8), 3)


@given(
    arrays(
        np.uint8, st.tuples(st.integers(1, 15), st.integers(1, 15)), elements=st.sampled_from([0, 1, 255])
    ),
    st.integers(1, 6),
)
def test_the_distance_to_the_boundary_equals_its_definition(labels, reach):
    places = np.indices(labels.shape).reshape(2, -1).T
    apart = np.hypot(*(places[:, None] - places).transpose(2, 0, 1))
    apart[labels.ravel()[:, None] == labels.ravel()] = np.inf
    expected = np.minimum(np.ceil(apart.min(1)), reach + 1).reshape(labels.shape)
    np.testing.assert_array_equal(boundary_distance(labels, reach), expected)
