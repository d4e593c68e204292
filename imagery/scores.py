"""Scores from a confusion matrix: int64 [C, C], rows labels, columns predictions."""
import numpy as np

from tiles import IGNORE, in_pieces


def confusion_matrix(labels, predicted, classes, groups=None, count=1):
    """Pixels of every (label, predicted) pair: int64 [classes, classes], from two uint8 arrays of one shape; with
    `groups` (uint8 of that shape, below `count`) one such matrix for each group: [count, classes, classes].

    Pixels labelled IGNORE count nowhere. Problem for the caller: a labelled pixel predicted IGNORE (ValueError).
    """
    pairs = np.full((256, 256), classes**2 + 1)  # of label and prediction, as one number; the last: no class
    pairs[IGNORE], pairs[:classes, :classes] = classes**2, np.arange(classes**2).reshape(classes, classes)
    arrays, pairs = [labels.reshape(-1), predicted.reshape(-1)], pairs.ravel()
    arrays += [] if groups is None else [groups.reshape(-1)]

    def count_piece(start, stop):
        truth, guess, *group = (array[start:stop] for array in arrays)
        codes = pairs.take(truth.astype(np.uint16) << 8 | guess)
        if group:
            codes += group[0] * np.int64(classes**2 + 2)
        return np.bincount(codes, minlength=count * (classes**2 + 2))

    total = sum(in_pieces(count_piece, labels.size, 2**18), np.zeros(count * (classes**2 + 2), np.int64))
    total = total.reshape(count, -1)
    if total[:, -1].any():
        raise ValueError("a class index past the last class")
    matrices = total[:, : classes**2].reshape(count, classes, classes)
    return matrices[0].copy() if groups is None else matrices.copy()


def divide(part, whole):
    """part / whole as float64, NaN where whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)


def class_scores(confusion):
    """{"iou", "f1", "precision", "recall", "pixels"}, each [C]; NaN where a class is in neither labels nor predictions
    (recall and precision: where their own denominator is empty)."""
    hits, labelled, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    return {"iou": divide(hits, labelled + predicted - hits), "f1": divide(2 * hits, labelled + predicted),
            "precision": divide(hits, predicted), "recall": divide(hits, labelled), "pixels": labelled}


def accuracy(confusion):
    """Share of the scored pixels that are right; NaN where there is none."""
    return float(divide(np.trace(confusion), confusion.sum()))


def mean_of(values, keep=slice(None)):
    """Mean of per-class values that are not NaN; NaN where all are."""
    values = np.asarray(values)[keep]
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def mean_iou(confusion):
    """Mean intersection over union of the classes that occur in labels or predictions."""
    return mean_of(class_scores(confusion)["iou"])


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
