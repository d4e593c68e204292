"""Scores from a confusion matrix: int64 [C, C], rows labels, columns predictions."""
import numpy as np

from tiles import IGNORE


def confusion_matrix(labels, predicted, classes):
    """Pixels of every (label, predicted) pair: int64 [classes, classes], from two uint8 arrays of one shape.

    Pixels labelled IGNORE count nowhere. Problem for the caller: a labelled pixel predicted IGNORE (ValueError).
    """
    pairs = np.zeros((256, 256), np.int64)
    for start in range(0, labels.size, 2**20):  # pieces that stay in the cache
        codes = labels.reshape(-1)[start: start + 2**20].astype(np.uint16) << 8
        codes |= predicted.reshape(-1)[start: start + 2**20]
        pairs += np.bincount(codes, minlength=2**16).reshape(256, 256)
    scored = pairs[:classes]
    if scored[:, classes:].any() or pairs[classes:IGNORE].any():
        raise ValueError("a class index past the last class")
    return scored[:, :classes].copy()


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
