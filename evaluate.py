"""Class maps against labels: metrics.json and confusion.csv.

    python evaluate.py --params demo.yaml

Reads predictions/<tile>.tif of every test tile, the maps in other ways beside it (maps.py), predict.csv, the prepared
labels, and the official eroded labels where the data set has them; elsewhere a disc of evaluate.erode pixels around
class boundaries is left out. All scores come from confusion matrices (rows labels, columns predictions), summed over
the tiles: on all labelled pixels and without class boundaries, over all classes and without evaluate.leave_out, in all
views and in one. Beside them the gain of each way of predicting, errors by distance to the class boundary, and the
calibration of the confidence. About 4 s a 6000 x 6000 tile.
"""
import csv

import numpy as np

from base.command import command
from base.files import only_one, replacing, sha256
from base.problem import Problem
from base.tables import read_facts, read_table, write_record
from imagery.arrays import IGNORE
from imagery.rasters import open_raster, reading
from imagery.scores import boundary_distance, confusion_matrix
from imagery.tiles import open_prepared, read_manifest
from mapping.maps import CERTAIN, beside, options_of, ways
from reporting.metrics import (
    card,
    describe,
    describe_boundary,
    describe_calibration,
    describe_gains,
    describe_protocol,
    plain,
)


def read_band(path, shape, expected):
    """(uint8 [H, W], tags) of a map; Problem (exit 3) where it is not of this shape or lacks the `expected` tags."""
    if not path.exists():
        raise Problem(f"class map {path}: no such file, expected it of predict.py; run predict.py again", code=3)
    with open_raster(path) as source:
        if (source.count, source.dtypes[0], source.shape) != (1, "uint8", tuple(shape)):
            raise Problem(f"class map {path}: {source.count} bands of {source.dtypes[0]}, {source.shape}, expected one "
                          f"of uint8, {tuple(shape)}; run predict.py again", code=3)
        tags = source.tags()
        for key, what in (("MODEL", "by another model"), ("PREDICT", "with other predict settings"),
                          ("SOURCE", "from another image than the tile was prepared")):
            if tags.get(key) != expected[key]:
                raise Problem(f"class map {path}: made {what}, expected this run's; run prepare_data.py and predict.py "
                              "again", code=3)
        with reading(path):
            return source.read(1), tags


def read_map(path, shape, expected, classes):
    """`read_band` of class indices; Problem (exit 3) where one is past the last class."""
    predicted, tags = read_band(path, shape, expected)
    highest = predicted[predicted != IGNORE].max(initial=0)
    if highest >= classes:
        raise Problem(f"class map {path}: class {highest}, expected less than {classes}; run predict.py again", code=3)
    return predicted, tags


def evaluate_tile(tile, settings, run, facts, raw):
    """What one tile adds to the scores: {"maps": {way: {"full", "eroded": confusion matrix}}, "distances": a confusion
    matrix for each distance to the boundary, "confidence": int64 [CERTAIN + 1, 2], wrong and right pixels of each,
    "official": whether its eroded labels are, "tags": the map's}. The way of the map itself
    is None, and "uncovered" is side_by_side as it were without the windows that reach past the edge."""
    data, options, classes = settings["data"], settings["evaluate"], len(settings["data"]["classes"])
    prepared = open_prepared(data, tile)
    labels, official = np.ascontiguousarray(prepared.labels), prepared.eroded
    expected = {"MODEL": facts["sha256"],
                "SOURCE": " ".join(raw[kind]["sha256"] for kind in ("image", "extra") if kind in raw)}
    reach = max(options["reach"], options["erode"])
    distance = boundary_distance(labels, reach)
    found = {"maps": {}, "official": official is not None, "confidence": None}

    def count(way, predicted, seen):
        by_distance = confusion_matrix(np.where(seen, labels, IGNORE), predicted, classes, distance, reach + 2)
        eroded = (by_distance[options["erode"] + 1:].sum(0) if official is None else
                  confusion_matrix(np.where(seen, official, IGNORE), predicted, classes))
        found["maps"][way] = {"full": by_distance.sum(0), "eroded": eroded}
        return by_distance

    path = run / "predictions" / f"{tile}.tif"
    for way, predict in {None: settings["predict"], **ways(settings)}.items():
        expected["PREDICT"] = options_of(predict)
        predicted, tags = read_map(beside(path, way) if way else path, labels.shape, expected, classes)
        seen = predicted != IGNORE  # nodata in the image: neither predicted nor scored
        by_distance = count(way, predicted, seen)
        if way is None:
            found["distances"], found["tags"] = by_distance, tags
            if "confidence" in predict["also"]:
                confidence, _ = read_band(beside(path, "confidence"), labels.shape, expected)
                levels = np.where(seen & (labels != IGNORE), confidence, IGNORE)
                if ((levels > CERTAIN) & (levels < IGNORE)).any():
                    raise Problem(f"confidence {beside(path, 'confidence')}: values past {CERTAIN}, expected 0 to "
                                  f"{CERTAIN}; run predict.py again", code=3)
                found["confidence"] = confusion_matrix(levels, (predicted == labels).view(np.uint8),
                                                       CERTAIN + 1)[:, :2]
        elif way == "side_by_side":
            covered = [size // predict["window"] * predict["window"] for size in labels.shape]
            predicted[covered[0]:] = predicted[:, covered[1]:] = 0  # the class of the highest of so many zeros
            count("uncovered", predicted, seen)
    return found


def print_scores(metrics, classes):
    """The scores as tables: each class, then the protocol card."""
    print(f"{'':>16}{'full IoU':>10}{'F1':>8}{'eroded IoU':>13}{'F1':>8}")
    show = lambda value: "-" if value is None else f"{value:.4f}"  # noqa: E731
    for name in classes:
        values = [metrics[kind]["classes"][name][score] for kind in ("full", "eroded") for score in ("iou", "f1")]
        print(f"{name:>16}{show(values[0]):>10}{show(values[1]):>8}{show(values[2]):>13}{show(values[3]):>8}")
    print(f"\n{'views':>6}  {'labels':<8}{'classes':<28}{'accuracy':>10}{'mean IoU':>10}{'mean F1':>10}")
    for views, labels, counted, *values in card(metrics):
        print(f"{views:>6}  {labels:<8}{counted:<28}" + "".join(f"{show(value):>10}" for value in values))


def read_seconds(path):
    """{map: seconds that it took} of predict.csv; those of maps that it does not know are not told."""
    rows = read_table(path) if path.exists() else []
    try:
        return {row["map"]: float(row["seconds"] or "nan") for row in rows}
    except (KeyError, ValueError) as error:
        raise Problem(f"table {path}: {error}, expected columns map and seconds; remove it", code=3) from None


def evaluate_run(settings, run, facts):
    """metrics.json of a run."""
    classes, leave_out = list(settings["data"]["classes"]), settings["evaluate"]["leave_out"]
    manifest = read_manifest(settings["data"]["prepared"])["tiles"]
    found = {}
    for tile in settings["split"]["test"]:
        if tile not in manifest:
            raise Problem(f"tile {tile} in {settings['data']['prepared']}: not prepared, expected it in manifest.json; "
                          "run prepare_data.py again", code=3)
        found[tile] = evaluate_tile(tile, settings, run, facts, manifest[tile]["raw"])
    first, each = next(iter(found.values())), found.values()
    total = {way: {kind: describe(sum(one["maps"][way][kind] for one in each), classes, leave_out)
                   for kind in ("full", "eroded")} for way in first["maps"]}
    tiles = {way: {tile: {kind: describe(confusion, classes, leave_out) for kind, confusion in one["maps"][way].items()}
                   for tile, one in found.items()} for way in first["maps"]}
    taken = read_seconds(run / "predict.csv")
    for row in read_table(run / "predict.csv") if taken else []:
        path = run / f"predictions/{row['map']}.tif"
        if row["map"].removesuffix(".one_view").removesuffix(".side_by_side") in found and path.exists() and (
                sha256(path) != row.get("sha256")):
            raise Problem(f"class map {path}: other bytes than predict.csv names, expected the file that was written; "
                          "run predict.py again", code=3)
    seconds = {way: plain(float(np.mean([taken.get(f"{tile}.{way}" if way else tile, np.nan) for tile in found])))
               for way in first["maps"]}
    metrics = {"protocol": describe_protocol(settings, facts, first["tags"], [one["official"] for one in each]),
               **total.pop(None), "tiles": tiles.pop(None)}
    total[None] = {"full": metrics["full"]}
    metrics["settings"] = {section: settings[section] for section in ("predict", "evaluate")}
    metrics["ways"] = {way: {**total[way], "tiles": tiles[way]} for way in tiles}
    metrics["gains"] = describe_gains(total, seconds, settings) if tiles else []
    metrics["boundary"] = describe_boundary(sum(one["distances"] for one in each))
    metrics["calibration"] = (None if first["confidence"] is None else
                              describe_calibration(sum(one["confidence"] for one in each)))
    return metrics


def main(settings, run):
    classes = list(settings["data"]["classes"])
    facts = read_facts(run, settings["data"]["classes"])
    with only_one(run):
        metrics = evaluate_run(settings, run, facts)
        with replacing(run / "confusion.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["label \\ predicted", *classes],
                                        *([name, *row] for name, row in zip(classes, metrics["full"]["confusion"]))])
        write_record(run / "metrics.json", metrics)
    print_scores(metrics, classes)
    print(f"{metrics['protocol']['text']}\n{run / 'metrics.json'}")


if __name__ == "__main__":
    command(main, __doc__)
