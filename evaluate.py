"""Class maps against labels: metrics.json and confusion.csv.

    python evaluate.py --params demo.yaml

Reads predictions/<tile>.tif of every test tile, the prepared labels, and the official eroded labels where the data
set has them; elsewhere a disc of evaluate.erode pixels around class boundaries is left out. All scores come from one
confusion matrix (rows labels, columns predictions), summed over the tiles. About 1 s a 6000 x 6000 tile.
"""
import csv
import json
import math

import numpy as np

from command import command
from files import Problem, only_one, replacing
from rasters import open_raster, reading
from scores import accuracy, class_scores, confusion_matrix, divide, mean_of
from tiles import IGNORE, open_prepared, read_manifest


def erode(labels, radius):
    """Labels (uint8 [H, W]) with IGNORE wherever a pixel of another label lies within a disc of `radius` pixels.

    The field's custom for ISPRS scores, radius 3. The edge of the tile is no boundary.
    """
    height, width = labels.shape
    near = np.zeros(labels.shape, bool)
    for down in range(min(radius, height - 1) + 1):
        reach = min(math.isqrt(radius**2 - down**2), width - 1)
        for right in range(-reach if down else 1, reach + 1):
            here = np.s_[: height - down, max(-right, 0): width - max(right, 0)]
            there = np.s_[down:, max(right, 0): width - max(-right, 0)]
            differs = labels[here] != labels[there]
            near[here] |= differs
            near[there] |= differs
    return np.where(near, IGNORE, labels).astype(np.uint8)


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


def read_map(path, shape):
    """(predicted uint8 [H, W], tags) of a class map; Problem (exit 3) where it does not fit its labels."""
    with open_raster(path) as source:
        if (source.count, source.dtypes[0], source.shape) != (1, "uint8", tuple(shape)):
            raise Problem(f"class map {path}: {source.count} bands of {source.dtypes[0]}, {source.shape}, expected one "
                          f"of uint8, {tuple(shape)}; run predict.py again", code=3)
        with reading(path):
            return source.read(1), source.tags()


def evaluate_tile(tile, settings, run):
    """{"full", "eroded": confusion matrix}, the map's tags, and whether the eroded labels are the official ones."""
    data = settings["data"]
    prepared = open_prepared(data, tile)
    labels, official = np.ascontiguousarray(prepared.labels), prepared.eroded
    path = run / "predictions" / f"{tile}.tif"
    predicted, tags = read_map(path, labels.shape)
    seen = predicted != IGNORE  # nodata in the image: neither predicted nor scored
    highest = predicted[seen].max(initial=0)
    if highest >= len(data["classes"]):
        raise Problem(f"class map {path}: class {highest}, expected less than {len(data['classes'])}; run predict.py "
                      "again", code=3)
    eroded = official if official is not None else erode(labels, settings["evaluate"]["erode"])
    return ({name: confusion_matrix(np.where(seen, truth, IGNORE), predicted, len(data["classes"]))
             for name, truth in (("full", labels), ("eroded", eroded))}, tags, official is not None)


def describe_protocol(settings, facts, tags, official):
    """What the numbers mean, in fields and in a sentence that a paper can quote."""
    options, evaluate, split = json.loads(tags["PREDICT"]), settings["evaluate"], settings["split"]
    kinds = set(official)
    eroded = ("official" if kinds == {True} else f"disc of {evaluate['erode']} px" if kinds == {False}
              else f"official where given, else disc of {evaluate['erode']} px")
    protocol = {"tiles": split["test"], "trained_on": split["train"], "checkpoint_chosen_on": split["val"],
                "checkpoint": f"epoch {facts['epoch']}: {facts['chosen_by']}", "views": options["views"],
                "window": options["window"], "overlap": options["overlap"], "engine": tags["ENGINE"],
                "eroded_labels": eroded, "leave_out": evaluate["leave_out"], "model_sha256": facts["sha256"]}
    protocol["text"] = (
        f"{len(split['test'])} test tile(s), none of which was trained on or chose anything; checkpoint of epoch "
        f"{facts['epoch']}, {facts['chosen_by']} ({', '.join(split['val'])}); windows of {options['window']} px, "
        f"overlapping by {options['overlap']:g}, {len(options['views'])} view(s) averaged, {tags['ENGINE']}; every "
        f"labelled pixel scored (full) and without class boundaries ({eroded}, eroded); means over "
        f"{len(settings['data']['classes'])} classes"
        + (f", and again without {', '.join(evaluate['leave_out'])}." if evaluate["leave_out"] else "."))
    return protocol


def print_scores(metrics, classes):
    """The scores as a table."""
    print(f"{'':>16}{'full IoU':>10}{'F1':>8}{'eroded IoU':>13}{'F1':>8}")
    show = lambda value: "-" if value is None else f"{value:.4f}"  # noqa: E731
    both, means = (metrics["full"], metrics["eroded"]), ("mean_iou", "mean_f1")
    rows = [(name, *(scores["classes"][name][s] for scores in both for s in ("iou", "f1"))) for name in classes]
    rows.append(("mean", *(scores[s] for scores in both for s in means)))
    if metrics["protocol"]["leave_out"]:
        without = f"without {', '.join(metrics['protocol']['leave_out'])}"
        rows.append((without, *(scores["left_out"][s] for scores in both for s in means)))
    for name, *values in rows:
        print(f"{name:>16}{show(values[0]):>10}{show(values[1]):>8}{show(values[2]):>13}{show(values[3]):>8}")
    print(f"{'accuracy':>16}{show(metrics['full']['accuracy']):>10}{'':8}{show(metrics['eroded']['accuracy']):>13}")


def main(settings, run):
    classes, leave_out = list(settings["data"]["classes"]), settings["evaluate"]["leave_out"]
    try:
        facts = json.loads((run / "model.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise Problem(f"model {run / 'model.json'}: missing or damaged, expected a finished training; run train.py",
                      code=3) from None
    with only_one(run):
        total = {name: np.zeros((len(classes),) * 2, np.int64) for name in ("full", "eroded")}
        tiles, officials, manifest = {}, [], read_manifest(settings["data"]["prepared"])
        for tile in settings["split"]["test"]:
            confusions, tags, official = evaluate_tile(tile, settings, run)
            officials.append(official)
            if (tags.get("MODEL"), tags.get("PREDICT")) != (facts["sha256"], json.dumps(settings["predict"])):
                raise Problem(f"class map {run / 'predictions' / tile}.tif: made by another model or with other "
                              "predict settings, expected this run's; run predict.py again", code=3)
            raw = manifest["tiles"][tile]["raw"]
            if tags.get("SOURCE") != " ".join(raw[kind]["sha256"] for kind in ("image", "extra") if kind in raw):
                raise Problem(f"class map {run / 'predictions' / tile}.tif: made from another image than the tile was "
                              "prepared from, expected the same; run prepare_data.py and predict.py again", code=3)
            tiles[tile] = {name: describe(confusion, classes, leave_out) for name, confusion in confusions.items()}
            for name, confusion in confusions.items():
                total[name] += confusion
        metrics = {"protocol": describe_protocol(settings, facts, tags, officials),
                   **{name: describe(confusion, classes, leave_out) for name, confusion in total.items()},
                   "tiles": tiles}
        with replacing(run / "confusion.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["label \\ predicted", *classes],
                                        *([name, *row] for name, row in zip(classes, total["full"].tolist()))])
        with replacing(run / "metrics.json") as temporary:
            temporary.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    print_scores(metrics, classes)
    print(f"{metrics['protocol']['text']}\n{run / 'metrics.json'}")


if __name__ == "__main__":
    command(main, __doc__)
