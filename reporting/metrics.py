"""metrics.json: scores from confusion matrices, and what they mean; whether a run's scores and page stand."""
import math

import numpy as np

from base.problem import Problem
from base.tables import read_record
from imagery.scores import accuracy, class_scores, divide, mean_iou, mean_of
from mapping.maps import CERTAIN

BINS = 20  # of confidence, equally wide


def numbers(**values):
    """{name: number} as JSON can hold it: None for NaN."""
    return {name: None if math.isnan(value) else float(value) for name, value in values.items()}


def describe(confusion, classes, leave_out):
    """The scores of a confusion matrix (int64 [C, C]), as metrics.json holds them."""
    each = class_scores(confusion)

    def means(keep):
        right = divide(np.diag(confusion)[keep].sum(), confusion[keep].sum())
        return numbers(accuracy=right, mean_iou=mean_of(each["iou"], keep), mean_f1=mean_of(each["f1"], keep))

    by_class = {}
    for i, name in enumerate(classes):
        by_class[name] = numbers(**{score: each[score][i] for score in ("iou", "f1", "precision", "recall")})
        by_class[name]["pixels"] = int(each["pixels"][i])
    return {**means(slice(None)), "left_out": means([name not in leave_out for name in classes]),
            "classes": by_class, "confusion": confusion.tolist()}


def describe_way(tiles, classes, leave_out):
    """The scores of the maps made in one way, {"full", "eroded", "tiles"}: of all tiles together, of each.
    `tiles`: {tile: {"full", "eroded": confusion matrix}}."""
    scores = {tile: {kind: describe(confusion, classes, leave_out) for kind, confusion in matrices.items()}
              for tile, matrices in tiles.items()}
    total = {kind: describe(sum(matrices[kind] for matrices in tiles.values()), classes, leave_out)
             for kind in ("full", "eroded")}
    return {**total, "tiles": scores}


def describe_boundary(distances):
    """The pixels' share at each distance to the class boundary, their error, and the scores of those beyond.
    `distances`: int64 [distances, C, C], the confusion matrix of each, the last: of all beyond."""
    total, rows = distances.sum(), []
    for pixels in range(len(distances) - 1):
        there, beyond = distances[pixels], distances[pixels + 1:].sum(0)
        scores = numbers(share=divide(there.sum(), total), error=1 - accuracy(there),
                         accuracy_beyond=accuracy(beyond), mean_iou_beyond=mean_iou(beyond))
        rows.append({"pixels": pixels, **scores})
    return rows


def describe_calibration(levels):
    """The bins of a reliability diagram, how sure the network is against how often it is right, and the mean
    of their differences weighted by pixels (Guo et al., On Calibration of Modern Neural Networks, 2017).
    `levels`: int64 [CERTAIN + 1, 2], wrong and right pixels of each confidence."""
    level, of_level = np.arange(CERTAIN + 1), levels.sum(1)
    bins = np.minimum(level * BINS // CERTAIN, BINS - 1)
    pixels, right, sure = (np.bincount(bins, counts, BINS)
                           for counts in (of_level, levels[:, 1], of_level * level / CERTAIN))
    confidences, accuracies = divide(sure, pixels), divide(right, pixels)
    rows = [{"low": i / BINS, "high": (i + 1) / BINS, "pixels": int(pixels[i]),
             **numbers(confidence=confidences[i], accuracy=accuracies[i])} for i in range(BINS)]
    error = divide(np.abs(sure - right).sum(), pixels.sum())
    return {**numbers(expected_calibration_error=error), "bins": rows}


def describe_gains(scores, seconds, settings):
    """The gain ledger: a row for each step from the notebook's way of predicting to this one, all test tiles
    together. `scores`: {way: its scores}; `seconds`: {way: seconds a tile, or None}."""
    options, size = settings["predict"], settings["input"]["patch_size"]
    first = next(iter(settings["data"]["classes"]))
    windows = f"windows of {options['window']} px that overlap by {options['overlap']:g}, blended"
    steps = {"uncovered": f"patches of {size} px side by side, what is left at the right and at the bottom "
                          f"{first}",
             "side_by_side": "every pixel predicted", "one_view": windows,
             "map": f"{len(options['views'])} views averaged"}
    if "one_view" not in scores:  # the map itself is in one view
        steps["map"] = steps.pop("one_view")
    return [{"step": step, "way": way, "accuracy": scores[way]["full"]["accuracy"],
             "mean_iou": scores[way]["full"]["mean_iou"],
             "classes": {name: each["iou"] for name, each in scores[way]["full"]["classes"].items()},
             "seconds_per_tile": seconds.get(way)} for way, step in steps.items()]


def describe_erosion(official, radius):
    """Which labels are without class boundaries; `official`: of each tile, whether its own are given."""
    disc = f"disc of {radius} px"
    if all(official):
        return "official"
    return f"official where given, else {disc}" if any(official) else disc


def describe_protocol(settings, facts, engine, official):
    """What the numbers mean, in fields and in a sentence that a paper can quote. `facts`: model.json."""
    options, evaluate = settings["predict"], settings["evaluate"]
    protocol = {"tiles": settings["split"]["test"], "trained_on": list(facts["trained_on"]),
                "checkpoint_chosen_on": list(facts["chosen_on"]),
                "checkpoint": f"epoch {facts['epoch']}: {facts['chosen_by']}", "views": options["views"],
                "window": options["window"], "overlap": options["overlap"], "engine": engine,
                "eroded_labels": describe_erosion(official, evaluate["erode"]),
                "leave_out": evaluate["leave_out"], "model_sha256": facts["sha256"]}
    views, left_out = len(options["views"]), ", ".join(evaluate["leave_out"])
    protocol["text"] = (
        f"{len(protocol['tiles'])} test tile(s), none of which was trained on or chose anything; checkpoint "
        f"of epoch {facts['epoch']}, {facts['chosen_by']} ({', '.join(facts['chosen_on'])}); windows of "
        f"{options['window']} px, overlapping by {options['overlap']:g}, "
        + (f"{views} views averaged" if views > 1 else "one view")
        + f", {engine}; every labelled pixel scored (full) and without class boundaries "
        f"({protocol['eroded_labels']}, eroded); means over the {len(settings['data']['classes'])} classes, "
        "as far as they occur" + (f", and again without {left_out}." if left_out else "."))
    return protocol


def count_classes(classes):
    """How many classes a mean of {class: {"iou", ...}} is over: those in labels or predictions."""
    occur = sum(each["iou"] is not None for each in classes.values())
    return str(occur) if occur == len(classes) else f"{occur} that occur, of {len(classes)}"


def card(metrics):
    """[(views, labels, classes, accuracy, mean IoU, mean F1)]: every common meaning of "the score"."""
    maps = {len(metrics["protocol"]["views"]): metrics}
    if "one_view" in metrics["ways"]:
        maps[1] = metrics["ways"]["one_view"]
    rows = []
    for views, scores in maps.items():
        for kind in ("full", "eroded"):
            for name, means in means_of(scores[kind], metrics["protocol"]["leave_out"]).items():
                rows.append((views, kind, name, means["accuracy"], means["mean_iou"], means["mean_f1"]))
    return rows


def means_of(scores, leave_out):
    """{classes in words: their means}: over all classes and, where some are left out, over the others."""
    means = {f"all {count_classes(scores['classes'])}": scores}
    if leave_out:
        others = {name: each for name, each in scores["classes"].items() if name not in leave_out}
        counted = count_classes(others)
        few = "" if counted == str(len(others)) else f", {counted}"
        means[f"without {', '.join(leave_out)}{few}"] = scores["left_out"]
    return means


def scores_stand(settings, run):
    """True where the scores of a run are whole."""
    try:
        read_record(run / "metrics.json", "evaluate.py")
    except Problem:
        return False
    return (run / "confusion.csv").exists()


def page_stands(settings, run):
    """True where the page of a run and its figures are there."""
    return (run / "report.html").exists() and any((run / "figures").glob("*.png"))
