import numpy as np
import pytest

from reporting.metrics import (
    card,
    describe,
    describe_areas,
    describe_boundary,
    describe_calibration,
    describe_erosion,
    describe_gains,
    describe_protocol,
    describe_temperature,
    describe_way,
)

CONFUSION = np.array([[3, 1, 0], [1, 4, 0], [1, 0, 1]])


def test_the_description_by_hand_with_and_without_a_class():
    scores = describe(CONFUSION, ["a", "b", "c"], ["c"])
    assert scores["left_out"]["mean_iou"] == pytest.approx((3 / 6 + 4 / 6) / 2)
    assert scores["left_out"]["recall"] == 7 / 9 and scores["accuracy"] == 8 / 11
    assert scores["left_out_ignored"]["accuracy"] == 7 / 9
    assert scores["left_out_ignored"]["mean_iou"] == pytest.approx((3 / 5 + 4 / 6) / 2)  # a: 3 + 1 + 1 pixels
    assert scores["left_out_ignored"]["mean_f1"] == pytest.approx((6 / 8 + 8 / 10) / 2)
    assert scores["classes"]["c"] == {
        "iou": 0.5,
        "f1": pytest.approx(2 / 3),
        "precision": 1.0,
        "recall": 0.5,
        "pixels": 2,
    }
    assert scores["confusion"] == CONFUSION.tolist()


def test_a_class_in_neither_is_none_and_out_of_the_mean():
    confusion = np.array([[5, 0, 0], [0, 0, 5], [0, 0, 0]])
    scores = describe(confusion, ["a", "b", "c"], [])
    assert (
        scores["classes"]["b"]["iou"] == 0
        and scores["classes"]["c"]["iou"] == 0
        and scores["mean_iou"] == pytest.approx(1 / 3)
    )
    absent = describe(np.array([[5, 0], [0, 0]]), ["a", "b"], [])
    assert absent["classes"]["b"]["iou"] is None and absent["mean_iou"] == 1.0
    assert describe(np.zeros((2, 2), int), ["a", "b"], [])["mean_iou"] is None


def test_the_curve_of_errors_and_the_calibration_by_hand():
    near, far = np.array([[2, 2], [0, 4]]), np.array([[6, 0], [1, 5]])
    rows = describe_boundary(np.stack([0 * near, near, far]))
    assert rows[0]["error"] is None and rows[0]["share"] == 0 and rows[0]["accuracy_beyond"] == 17 / 20
    assert rows[1]["error"] == pytest.approx(2 / 8) and rows[1]["share"] == 8 / 20
    assert rows[1]["accuracy_beyond"] == 11 / 12
    assert rows[1]["mean_iou_beyond"] == pytest.approx((6 / 7 + 5 / 6) / 2)
    levels = np.zeros((201, 2), np.int64)
    levels[100], levels[109], levels[200] = (
        (1, 1),
        (0, 2),
        (1, 5),
    )  # wrong and right pixels; .5 and .545 share a bin
    scores = describe_calibration(levels)
    assert [row["pixels"] for row in scores["bins"]] == [0] * 10 + [4] + [0] * 8 + [6]
    assert (
        scores["bins"][10]["confidence"] == pytest.approx(0.5225) and scores["bins"][10]["accuracy"] == 0.75
    )
    assert scores["expected_calibration_error"] == pytest.approx((4 * (0.75 - 0.5225) + 6 * (1 - 5 / 6)) / 10)


def test_areas_are_shares_of_what_is_labelled_and_of_what_is_predicted():
    scores = describe(np.array([[3, 1], [0, 4]]), ["a", "b"], [])
    tables = [{"a": (6, 7.5), "b": (4, 2.5)}, {"a": (4, 2.5), "b": (6, 7.5)}]
    assert describe_areas(tables, scores) == {
        "a": {"labelled": 0.5, "predicted": 0.5, "expected": 0.5},
        "b": {"labelled": 0.5, "predicted": 0.5, "expected": 0.5},
    }
    assert describe_areas([*tables, {}], scores) == {}
    one = describe_areas(tables[:1], scores)
    assert one["a"] == {"labelled": 0.5, "predicted": 0.6, "expected": 0.75}


def test_the_calibration_is_told_with_and_without_the_temperature():
    levels = {"confidence": np.zeros((201, 2), np.int64), "uncalibrated": np.zeros((201, 2), np.int64)}
    levels["confidence"][150], levels["uncalibrated"][200] = (25, 75), (25, 75)
    told = describe_temperature(levels, 1.7)
    assert told["temperature"] == 1.7 and told["expected_calibration_error"] == pytest.approx(0)
    assert told["before"]["expected_calibration_error"] == pytest.approx(0.25)
    assert describe_temperature({"confidence": levels["confidence"]}, 1)["before"] is None


def test_means_say_how_many_classes_they_are_over():
    full = describe(np.array([[5, 1, 0], [0, 4, 0], [0, 0, 0]]), ["a", "b", "c"], ["c"])
    metrics = {"protocol": {"leave_out": ["c"], "views": [0]}, "full": full, "eroded": full, "ways": {}}
    names = ["all 2 that occur, of 3", "without c", "labels of c ignored"]
    assert [row[2] for row in card(metrics)] == names * 2
    assert [set(row[3]) & {"accuracy", "recall"} for row in card(metrics)[:3]] == [
        {"accuracy"},
        {"recall"},
        {"accuracy"},
    ]


def names_of(confusion, leave_out):
    scores = describe(np.array(confusion), ["a", "b", "c"], leave_out)
    protocol = {"leave_out": leave_out, "views": [0]}
    rows = card({"protocol": protocol, "full": scores, "eroded": scores, "ways": {}})
    return [row[2] for row in rows if row[1] == "full"]


def test_means_say_which_classes_are_predicted_and_never_labelled():
    never = " (c predicted, never labelled: IoU 0)"
    assert names_of([[5, 1, 1], [0, 4, 0], [0, 0, 0]], []) == [f"all 3{never}"]
    assert names_of([[5, 0, 1], [0, 0, 0], [0, 0, 0]], []) == [f"all 2 that occur, of 3{never}"]
    confusion = [[5, 1, 0], [2, 4, 1], [0, 0, 0]]  # c is predicted, but only where b is labelled
    assert names_of(confusion, ["b"]) == [
        f"all 3{never}",
        f"without b{never}",
        "labels of b ignored, 1 that occur, of 2",
    ]
    ignored = describe(np.array(confusion), ["a", "b", "c"], ["b"])["left_out_ignored"]
    assert ignored == {"accuracy": 5 / 6, "mean_iou": 5 / 6, "mean_f1": 10 / 11}


def test_predictions_of_a_left_out_class_on_other_pixels_stay_errors():
    scores = describe(np.array([[3, 1, 2], [1, 4, 0], [1, 0, 1]]), ["a", "b", "c"], ["c"])
    assert scores["left_out_ignored"]["accuracy"] == scores["left_out"]["recall"] == 7 / 11
    assert scores["left_out_ignored"]["mean_iou"] == pytest.approx((3 / 7 + 4 / 6) / 2)
    assert scores["left_out"]["mean_iou"] == pytest.approx((3 / 8 + 4 / 6) / 2)


def test_without_a_class_to_leave_out_the_means_are_the_same_three_times():
    scores = describe(CONFUSION, ["a", "b", "c"], [])
    assert scores["left_out_ignored"] == {key: scores[key] for key in ("accuracy", "mean_iou", "mean_f1")}
    assert scores["left_out"]["recall"] == scores["accuracy"]
    assert names_of(CONFUSION, []) == ["all 3"]


def test_a_way_is_scored_in_total_and_by_tile():
    scores = describe_way(
        {
            "a": {"full": CONFUSION, "eroded": CONFUSION // 2},
            "b": {"full": 2 * CONFUSION, "eroded": CONFUSION},
        },
        ["a", "b", "c"],
        [],
    )
    assert scores["full"]["confusion"] == (3 * CONFUSION).tolist()
    assert scores["eroded"] == describe(CONFUSION // 2 + CONFUSION, ["a", "b", "c"], [])
    assert scores["tiles"]["b"] == {
        "full": describe(2 * CONFUSION, ["a", "b", "c"], []),
        "eroded": scores["tiles"]["a"]["full"],
    }


def test_the_gain_ledger_has_a_step_for_the_views_where_there_are_several(settings):
    settings["predict"].update(views=[0], window=64, overlap=0.25)
    scores = {
        way: {"full": describe(CONFUSION, ["a", "b", "c"], [])}
        for way in ("uncovered", "side_by_side", "map")
    }
    windows = "windows of 64 px that overlap by 0.25, blended"
    rows = describe_gains(scores, {"map": 2.5}, settings)
    assert [(row["way"], row["seconds_per_tile"]) for row in rows] == [
        ("uncovered", None),
        ("side_by_side", None),
        ("map", 2.5),
    ]
    assert rows[-1]["step"] == windows and rows[0]["step"].endswith("at the bottom impervious")
    settings["predict"]["views"] = [0, 5]
    rows = describe_gains({**scores, "one_view": scores["map"]}, {}, settings)
    assert [row["way"] for row in rows] == ["uncovered", "side_by_side", "one_view", "map"]
    assert [row["step"] for row in rows[2:]] == [windows, "2 views averaged"]


def test_eroded_labels_are_named_as_they_are_given():
    assert describe_erosion([True, True], 3) == "official" and describe_erosion([False], 3) == "disc of 3 px"
    assert describe_erosion([True, False], 3) == "official where given, else disc of 3 px"


@pytest.mark.parametrize(
    "weights, words",
    [
        ({"source": "imagenet", "sha256": "0"}, "; encoder convnext_tiny, pretrained on ImageNet; windows"),
        ({"source": "a.h5", "sha256": "0"}, "; encoder convnext_tiny, first weights from a.h5; windows"),
        (None, "; encoder convnext_tiny, first weights at random; windows"),
    ],
)
def test_the_sentence_to_quote_says_what_the_encoder_was_trained_on_before(settings, weights, words):
    facts = {"trained_on": {"a": ""}, "chosen_on": {"b": ""}, "epoch": 3, "chosen_by": "luck", "sha256": "0"}
    before = describe_protocol(settings, facts, "by hand", [True])  # of a version without encoders
    assert "encoder" not in before["text"] and before["encoder"] == "none" and before["weights"] is None
    told = describe_protocol(
        settings, {**facts, "encoder": "convnext_tiny", "weights": weights}, "by hand", [True]
    )
    assert words in told["text"] and told["text"].replace(words, "; windows") == before["text"]
    assert (told["encoder"], told["weights"]) == ("convnext_tiny", weights)
