import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evaluate import describe, erode
from scores import accuracy, class_scores, confusion_matrix, mean_iou
from tiles import IGNORE

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


def test_the_description_by_hand_with_and_without_a_class():
    told = describe(CONFUSION, ["a", "b", "c"], ["c"])
    assert told["left_out"]["mean_iou"] == pytest.approx((3 / 6 + 4 / 6) / 2)
    assert told["left_out"]["accuracy"] == 7 / 9 and told["accuracy"] == 8 / 11
    assert told["classes"]["c"] == {
        "iou": 0.5,
        "f1": pytest.approx(2 / 3),
        "precision": 1.0,
        "recall": 0.5,
        "pixels": 2,
    }
    assert told["confusion"] == CONFUSION.tolist()


def test_a_class_in_neither_is_none_and_out_of_the_mean():
    confusion = np.array([[5, 0, 0], [0, 0, 5], [0, 0, 0]])
    told = describe(confusion, ["a", "b", "c"], [])
    assert (
        told["classes"]["b"]["iou"] == 0
        and told["classes"]["c"]["iou"] == 0
        and told["mean_iou"] == pytest.approx(1 / 3)
    )
    absent = describe(np.array([[5, 0], [0, 0]]), ["a", "b"], [])
    assert absent["classes"]["b"]["iou"] is None and absent["mean_iou"] == 1.0
    assert describe(np.zeros((2, 2), int), ["a", "b"], [])["mean_iou"] is None


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.sampled_from([0, 1, 2, 255])),
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


def test_a_class_past_the_last_is_refused():
    for labels, predicted in ((0, 3), (3, 0), (0, IGNORE)):
        with pytest.raises(ValueError):
            confusion_matrix(np.array([[labels]], np.uint8), np.array([[predicted]], np.uint8), 3)


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 15), st.integers(1, 15)), elements=st.sampled_from([0, 1, 255])),
    st.integers(0, 4),
)
def test_erosion_equals_its_definition(labels, radius):
    height, width = labels.shape
    expected = labels.copy()
    for row in range(height):
        for col in range(width):
            for r in range(max(0, row - radius), min(height, row + radius + 1)):
                for c in range(max(0, col - radius), min(width, col + radius + 1)):
                    if (r - row) ** 2 + (c - col) ** 2 <= radius**2 and labels[r, c] != labels[row, col]:
                        expected[row, col] = IGNORE
    np.testing.assert_array_equal(erode(labels, radius), expected)
