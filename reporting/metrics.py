"""metrics.json: what the scores mean, built from confusion matrices, and read back.
"""
import math

import numpy as np

from base.problem import Problem
from base.tables import read_record
from imagery.scores import accuracy, class_scores, divide, mean_iou, mean_of
from mapping.maps import CERTAIN

BINS = 20  # of confidence, equally wide


def plain(value):
    """A float as JSON can hold it: None for NaN."""
    return None if math.isnan(value) else float(value)


def describe(confusion, classes, leave_out):
    """The scores of a confusion matrix, as metrics.json holds them."""
    each = class_scores(confusion)
    kept = [i for i, name in enumerate(classes) if name not in leave_out]
    return {"accuracy": plain(accuracy(confusion)),
            "mean_iou": plain(mean_of(each["iou"])), "mean_f1": plain(mean_of(each["f1"])),
            "left_out": {"accuracy": plain(float(divide(np.diag(confusion)[kept].sum(), confusion[kept].sum()))),
                         "mean_iou": plain(mean_of(each["iou"], kept)), "mean_f1": plain(mean_of(each["f1"], kept))},
            "classes": {name: {**{score: plain(each[score][i]) for score in ("iou", "f1", "precision", "recall")},
                               "pixels": int(each["pixels"][i])} for i, name in enumerate(classes)},
            "confusion": confusion.tolist()}


def describe_boundary(distances):
    """Errors by distance to the class boundary, from a confusion matrix of each distance (the last: all beyond): for
    each the share of the scored pixels that lie there and of these the share that is wrong, and the scores of what
    lies farther."""
    total, rows = distances.sum(), []
    for pixels in range(len(distances) - 1):
        there, beyond = distances[pixels], distances[pixels + 1:].sum(0)
        rows.append({"pixels": pixels, "share": plain(float(divide(there.sum(), total))),
                     "error": plain(1 - accuracy(there)), "accuracy_beyond": plain(accuracy(beyond)),
                     "mean_iou_beyond": plain(mean_iou(beyond))})
    return rows


def describe_calibration(levels):
    """How sure the network is against how often it is right, from wrong and right pixels of each confidence: the bins
    of a reliability diagram, and the expected calibration error (Guo et al., On Calibration of Modern Neural Networks,
    2017), the mean of their differences weighted by their pixels."""
    level = np.arange(CERTAIN + 1)
    place = np.minimum(level * BINS // CERTAIN, BINS - 1)
    pixels, right, sure = (np.bincount(place, weights, BINS)
                           for weights in (levels.sum(1), levels[:, 1], levels.sum(1) * level / CERTAIN))
    rows = [{"low": i / BINS, "high": (i + 1) / BINS, "pixels": int(pixels[i]),
             "confidence": plain(float(divide(sure[i], pixels[i]))),
             "accuracy": plain(float(divide(right[i], pixels[i])))} for i in range(BINS)]
    return {"expected_calibration_error": plain(float(divide(np.abs(sure - right).sum(), pixels.sum()))), "bins": rows}


def describe_gains(maps, seconds, settings):
    """The gain ledger: what each step from the notebook's way of predicting to this one adds, all test tiles
    together."""
    options, size = settings["predict"], settings["input"]["patch_size"]
    first = next(iter(settings["data"]["classes"]))
    steps = {"uncovered": f"patches of {size} px side by side, what is left at the right and at the bottom {first}",
             "side_by_side": "every pixel predicted",
             "one_view": f"windows of {options['window']} px that overlap by {options['overlap']:g}, blended",
             None: f"{len(options['views'])} views averaged"}
    if "one_view" not in maps:  # the map itself is in one
        steps[None] = steps.pop("one_view")
    return [{"step": text, "way": way or "map", "accuracy": maps[way]["full"]["accuracy"],
             "mean_iou": maps[way]["full"]["mean_iou"],
             "classes": {name: scores["iou"] for name, scores in maps[way]["full"]["classes"].items()},
             "seconds_per_tile": seconds.get(way)} for way, text in steps.items() if way in maps]


def describe_protocol(settings, facts, tags, official):
    """What the numbers mean, in fields and in a sentence that a paper can quote."""
    options, evaluate, split = settings["predict"], settings["evaluate"], settings["split"]
    kinds = set(official)
    eroded = ("official" if kinds == {True} else f"disc of {evaluate['erode']} px" if kinds == {False}
              else f"official where given, else disc of {evaluate['erode']} px")
    protocol = {"tiles": split["test"], "trained_on": split["train"], "checkpoint_chosen_on": split["val"],
                "checkpoint": f"epoch {facts['epoch']}: {facts['chosen_by']}", "views": options["views"],
                "window": options["window"], "overlap": options["overlap"], "engine": tags["ENGINE"],
                "eroded_labels": eroded, "leave_out": evaluate["leave_out"], "model_sha256": facts["sha256"]}
    views = len(options["views"])
    protocol["text"] = (
        f"{len(split['test'])} test tile(s), none of which was trained on or chose anything; checkpoint of epoch "
        f"{facts['epoch']}, {facts['chosen_by']} ({', '.join(split['val'])}); windows of {options['window']} px, "
        f"overlapping by {options['overlap']:g}, {f'{views} views averaged' if views > 1 else 'one view'}, "
        f"{tags['ENGINE']}; every labelled pixel scored (full) and without class boundaries ({eroded}, eroded); means "
        f"over the {len(settings['data']['classes'])} classes, as far as they occur"
        + (f", and again without {', '.join(evaluate['leave_out'])}." if evaluate["leave_out"] else "."))
    return protocol


def count_classes(classes):
    """How many classes a mean is over, from {class: {"iou", ...}}: those that occur in labels or predictions."""
    known = sum(each["iou"] is not None for each in classes.values())
    return str(known) if known == len(classes) else f"{known} that occur, of {len(classes)}"


def card(metrics):
    """The protocol card of metrics.json, (views, labels, classes, accuracy, mean IoU, mean F1) a row: every common
    meaning of "the score"."""
    protocol, rows = metrics["protocol"], []
    maps = {len(protocol["views"]): metrics}
    if "one_view" in metrics["ways"]:
        maps[1] = metrics["ways"]["one_view"]
    for views, scores in maps.items():
        for kind in ("full", "eroded"):
            classes, left_out = scores[kind]["classes"], protocol["leave_out"]
            means = [(f"all {count_classes(classes)}", scores[kind])]
            if left_out:
                rest = {name: each for name, each in classes.items() if name not in left_out}
                few = "" if None not in (each["iou"] for each in rest.values()) else f", {count_classes(rest)}"
                means.append((f"without {', '.join(left_out)}{few}", scores[kind]["left_out"]))
            rows += [(views, kind, name, *(mean[key] for key in ("accuracy", "mean_iou", "mean_f1")))
                     for name, mean in means]
    return rows


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
