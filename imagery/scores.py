"""Scores from a confusion matrix, int64 [C, C] (rows: labels), and how far pixels lie from a boundary."""
import numpy as np

from imagery.arrays import IGNORE, in_pieces


def confusion_matrix(labels, predicted, classes, groups=None, count=1):
    """Pixels of every (label, predicted) pair: int64 [classes, classes], from two uint8 arrays of one shape;
    with `groups` (uint8 of that shape, below `count`) one such matrix for each: [count, classes, classes].

    Pixels labelled IGNORE count nowhere; a labelled pixel predicted IGNORE is a ValueError.
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
    """{"iou", "f1", "precision", "recall", "pixels"}, each [C]; NaN where a class is in neither labels nor
    predictions (recall and precision: where their own denominator is empty)."""
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


def boundary_distance(labels, reach):
    """Distance of every pixel to the nearest one of another label (uint8 [H, W]) in whole pixels, rounded up:
    uint8 [H, W], 1..reach, and reach + 1 where it is farther. The edge of the tile is no boundary.

    Exact Euclidean distances, first down the columns, then of those the least along each row, as Felzenszwalb
    and Huttenlocher (Distance Transforms of Sampled Functions, 2012), but for all labels at once: a column in
    which the label differs is at distance zero, in any other the nearest other label is its own.
    """
    height, width = labels.shape
    column = np.full(labels.shape, reach + 1, np.uint8)
    same = labels[1:] == labels[:-1]
    for here, there, between in (*((row, row - 1, row - 1) for row in range(1, height)),
                                 *((row, row + 1, row) for row in range(height - 2, -1, -1))):
        np.minimum(column[here], np.where(same[between], column[there] + 1, 1), out=column[here])
    rounded = np.ceil(np.sqrt(np.arange((reach + 1) ** 2 + 1))).astype(np.uint8)

    def across(start, stop):
        rows, down = labels[start:stop], column[start:stop].astype(np.uint16) ** 2
        squared = down.copy()
        for right in range(1, min(reach, width - 1) + 1):
            same = rows[:, right:] == rows[:, :-right]
            for one, other in ((np.s_[:, :-right], np.s_[:, right:]), (np.s_[:, right:], np.s_[:, :-right])):
                np.minimum(squared[one], down[other] * same + np.uint16(right**2), out=squared[one])
        column[start:stop] = rounded.take(squared)

    for _ in in_pieces(across, height, 128):
        pass
    return column
