"""Runs that differ in their seed alone: how far chance moves their scores, and how sure a difference is."""
import itertools
import json
import statistics

import numpy as np

from imagery.scores import divide

SCORES = ("full mean_iou", "full mean_f1", "full accuracy", "eroded mean_iou")  # of a run
RESAMPLED = 2000  # times that test tiles are drawn
LEAST = 5  # test tiles from which an interval says something
COVERED = 95  # per cent of the draws that lie within an interval


def group_by_seed(settings):
    """{name of the first: names of all} of runs whose settings, {run: {"section.key": value}}, are alike but
    for the seed; of those with one seed, as copies, the first alone."""
    groups = {}
    for name, own in settings.items():
        group = groups.setdefault(json.dumps({**own, "seed": None}, sort_keys=True), {})
        group.setdefault(own.get("seed"), name)
    return {next(iter(group.values())): list(group.values()) for group in groups.values()}


def describe_group(figures):
    """{score: (mean, standard deviation)} over runs, [{score: value}]; the latter None of a single run."""
    columns = {score: [run[score] for run in figures if run[score] is not None] for score in SCORES}
    return {score: (statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)
            for score, values in columns.items() if values}


def tile_matrices(group):
    """int64 [runs, tiles, C, C]: the confusion matrices of each test tile, of runs of the same tiles and
    classes ([metrics.json])."""
    return np.array([[metrics["tiles"][tile]["full"]["confusion"] for tile in sorted(metrics["tiles"])]
                     for metrics in group])


def mean_ious(matrices):
    """Mean IoU (float64 [...]) of confusion matrices (int64 [..., C, C]), over the classes that occur."""
    hits = np.diagonal(matrices, axis1=-2, axis2=-1)
    iou = divide(hits, matrices.sum(-1) + matrices.sum(-2) - hits)
    return np.nansum(iou, -1) / np.maximum(np.isfinite(iou).sum(-1), 1)


def resample(group, draws):
    """Mean IoU (float64 [draws]) of the mean run of a group, from test tiles by how often each was drawn
    (int64 [draws, tiles])."""
    matrices = tile_matrices(group)
    runs, tiles, classes, _ = matrices.shape
    sums = draws @ matrices.reshape(runs, tiles, -1)
    return mean_ious(sums.reshape(runs, -1, classes, classes)).mean(0)


def compare_groups(groups):
    """[{"run", "other", "difference", "low", "high", "tiles"}]: how much higher the mean IoU of one group of
    runs is than another's, and the interval of it if test tiles had been others of their kind: both are
    scored on the same tiles, drawn with replacement (paired bootstrap, Efron & Tibshirani 1993); None with
    few tiles. Groups on other tiles or classes are not compared. `groups`: {name: [metrics.json]}."""
    rows = []
    for (one, first), (other, second) in itertools.combinations(groups.items(), 2):
        alike = {json.dumps([sorted(metrics["tiles"]), list(metrics["full"]["classes"])])
                 for metrics in [*first, *second]}
        if len(alike) > 1:
            continue
        tiles, low, high = len(first[0]["tiles"]), None, None
        whole = np.ones((1, tiles), np.int64)
        if tiles >= LEAST:
            draws = np.random.default_rng(0).multinomial(tiles, [1 / tiles] * tiles, RESAMPLED)
            ends = (100 - COVERED) / 2, (100 + COVERED) / 2
            low, high = np.percentile(resample(first, draws) - resample(second, draws), ends).tolist()
        difference = float((resample(first, whole) - resample(second, whole))[0])
        rows.append({"run": one, "other": other, "difference": difference, "low": low, "high": high,
                     "tiles": tiles})
    return rows
