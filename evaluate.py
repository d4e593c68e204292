"""Class maps against labels: metrics.json and confusion.csv.

    python evaluate.py --params demo.yaml

Reads predictions/<tile>.tif of every test tile, the maps in other ways beside it (mapping/maps.py),
predict.csv, model.json, the prepared labels, and the official eroded labels where the data set has them;
elsewhere a disc of evaluate.erode pixels around class boundaries is left out. A test tile on which the model
was trained or chosen is refused. All scores come from confusion matrices (rows labels, columns predictions),
summed over the tiles: on all labelled pixels and without class boundaries, over all classes, without
evaluate.leave_out and with its labels ignored, in all views and in one. Beside them the gain of each way of
predicting, errors by distance to the class boundary, the calibration of the confidence with and without the
network's temperature, and the expected area of each class beside the counted one. About 4 s a
6000 x 6000 tile.
"""
from typing import NamedTuple

import numpy as np

from base.blocks import drawn
from base.command import command
from base.files import only_one, sha256
from base.problem import Problem
from base.tables import read_facts, write_record, write_rows
from imagery.arrays import IGNORE
from imagery.leaks import seen_tiles
from imagery.scores import boundary_distance, confusion_matrix
from imagery.tiles import open_prepared, prepared_rows, read_manifest
from mapping.journal import recorded
from mapping.maps import (
    CERTAIN,
    also_of,
    beside,
    map_of,
    maps_of,
    name_of,
    options_of,
    read_areas,
    read_map,
    temperature_of,
    ways,
)
from reporting import metrics as scoring

CONFIDENCE = "confidence", "uncalibrated"  # beside the map: at the network's temperature, and at 1


class Counts(NamedTuple):
    """What one tile adds to the scores."""
    maps: dict  # {way: {"full", "eroded": confusion matrix}}; "uncovered": see there
    distances: np.ndarray  # int64 [reach + 2, C, C]: the map's matrix at each distance to the boundary
    confidence: dict  # {name: int64 [CERTAIN + 1, 2]}: wrong and right pixels of each level of CONFIDENCE
    areas: dict  # {class: (pixels of the map, expected pixels)}, {} without confidence
    official: bool  # the eroded labels are the data set's own
    engine: str  # what made the map


def check_unseen(settings, rows, run, facts):
    """Problem (exit 3) that names every test tile that the model, or one that it started from, was trained or
    chosen on, by name, pixels or, of blocks, place. `rows`: {tile: its row of the manifest}; `facts`:
    model.json."""
    if not {"trained_on", "chosen_on"} <= facts.keys():
        raise Problem(f"model {run / 'model.json'}: of an earlier version, expected the tiles that it was "
                      "trained and chosen on; run train.py again", code=3)
    verbs = {"trained_on": "was trained on it", "chosen_on": "was chosen on it",
             "started_on": "started from weights that were trained or chosen on it"}
    tiles = {tile: rows[tile] for tile in settings["split"]["test"]}
    problems = []
    for tile, role, name in seen_tiles(tiles, settings["data"]["raw"], facts):
        known_as = "" if name == tile else f" as tile {name}"
        others = "" if role == "started_on" else ", or run train.py again"
        problems.append(f"tile {tile} in split.test: the model in {run} {verbs[role]}{known_as}, "
                        f"expected a tile that it has not seen; take it out{others}")
    if problems:
        raise Problem(*problems, code=3)


def read_seconds(settings, run):
    """{way: mean seconds that a test tile's map took, None where not known of all} of predict.csv. Problem
    (exit 3) where a map is another file than predict.csv names."""
    table, seconds, rows = run / "predict.csv", {}, recorded(run)
    for tile in settings["split"]["test"]:
        for way, path in maps_of(tile, settings, run).items():
            name = name_of(run, path)
            row = rows.get(name, {"seconds": None})
            if name in rows and path.exists() and sha256(path) != row.get("sha256"):
                raise Problem(f"class map {path}: other bytes than predict.csv names, expected the file that "
                              "was written; run predict.py again", code=3)
            try:
                seconds.setdefault(way, []).append(float(row["seconds"] or "nan"))
            except (KeyError, ValueError) as error:
                raise Problem(f"table {table}: {error}, expected columns map and seconds; remove it",
                              code=3) from None
    return scoring.numbers(**{way: np.mean(of_tiles) for way, of_tiles in seconds.items()})


def read_own(path, shape, expected, highest):
    """`read_map` of a map of this run; Problem (exit 3) where its tags are not the `expected` ones or where
    values lie past the `highest` one and below IGNORE."""
    pixels, tags = read_map(path, shape)
    for key, made in (("MODEL", "by another model"), ("PREDICT", "with other predict settings"),
                      ("SOURCE", "from another image than the tile was prepared"),
                      ("BLOCK", "of another part of the image")):
        if tags.get(key, "") != expected[key]:
            raise Problem(f"class map {path}: made {made}, expected this run's; run prepare_data.py and "
                          "predict.py again", code=3)
    if ((pixels > highest) & (pixels < IGNORE)).any():
        raise Problem(f"class map {path}: values past {highest}, expected 0 to {highest}; run predict.py "
                      "again", code=3)
    return pixels, tags


def uncovered(predicted, window):
    """The map as the notebook makes it, from that of windows side by side: only whole windows are predicted.
    The border left over keeps probabilities of zero, and the highest of zeros is the first: class 0."""
    rows, cols = (size // window * window for size in predicted.shape)
    covered = predicted * (predicted == IGNORE)
    covered[:rows, :cols] = predicted[:rows, :cols]
    return covered


def count(predicted, prepared, distance, settings):
    """Confusion matrices of a map: int64 [reach + 2, C, C], at each distance to the class boundary; {"full",
    "eroded": int64 [C, C]}, on all labelled pixels and without class boundaries."""
    classes, options = len(settings["data"]["classes"]), settings["evaluate"]
    seen = predicted != IGNORE  # nodata in the image is neither predicted nor scored
    labels, groups = np.where(seen, prepared.labels, IGNORE), max(options["reach"], options["erode"]) + 2
    distances = confusion_matrix(labels, predicted, classes, distance, groups)
    eroded = distances[options["erode"] + 1:].sum(0)
    if prepared.eroded is not None:
        eroded = confusion_matrix(np.where(seen, prepared.eroded, IGNORE), predicted, classes)
    return distances, {"full": distances.sum(0), "eroded": eroded}


def count_confidence(path, predicted, labels, expected, also):
    """{name: int64 [CERTAIN + 1, 2]}: wrong and right pixels of a map at each level of CONFIDENCE beside it,
    as far as that is among what goes there, `also`. `expected`: its tags."""
    counts = {}
    for name in [name for name in CONFIDENCE if name in also]:
        levels, _ = read_own(beside(path, name), labels.shape, expected, CERTAIN)
        levels[(predicted == IGNORE) | (labels == IGNORE)] = IGNORE
        right = (predicted == labels).view(np.uint8)
        counts[name] = confusion_matrix(levels, right, CERTAIN + 1)[:, :2].copy()  # of 0.3 MB
    return counts


def evaluate_tile(tile, settings, run, facts, manifest):
    """The Counts of a test tile."""
    prepared, options = open_prepared(settings["data"], tile, manifest), settings["evaluate"]
    row = manifest["tiles"][tile]
    labels, last = np.ascontiguousarray(prepared.labels), len(settings["data"]["classes"]) - 1
    distance = boundary_distance(labels, max(options["reach"], options["erode"]))
    source = " ".join(row["raw"][kind]["sha256"] for kind in ("image", "extra") if kind in row["raw"])
    block = str(row["cut"]["window"]) if "cut" in row else ""
    predict, maps = {"map": settings["predict"], **ways(settings)}, {}
    for way, path in maps_of(tile, settings, run).items():
        expected = {"MODEL": facts["sha256"], "SOURCE": source, "BLOCK": block,
                    "PREDICT": options_of(predict[way])}
        predicted, tags = read_own(path, labels.shape, expected, last)
        by_distance, maps[way] = count(predicted, prepared, distance, settings)
        if way == "map":
            distances, engine = by_distance, tags["ENGINE"]
            confidence = count_confidence(path, predicted, labels, expected, also_of(settings["predict"]))
        if way == "side_by_side":
            covered = uncovered(predicted, predict[way]["window"])
            maps["uncovered"] = count(covered, prepared, distance, settings)[1]
    areas = read_areas(map_of(run, tile), settings["data"]["classes"]) if confidence else {}
    return Counts(maps, distances, confidence, areas, prepared.eroded is not None, engine)


def evaluate_run(settings, run, facts):
    """metrics.json of a run."""
    tiles, classes = settings["split"]["test"], list(settings["data"]["classes"])
    manifest = read_manifest(settings["data"]["prepared"])
    check_unseen(settings, prepared_rows(settings["data"], tiles, manifest), run, facts)
    seconds = read_seconds(settings, run)
    counts = {tile: evaluate_tile(tile, settings, run, facts, manifest) for tile in tiles}
    each, scores, calibration = list(counts.values()), {}, None
    for way in each[0].maps:
        of_way = {tile: one.maps[way] for tile, one in counts.items()}
        scores[way] = scoring.describe_way(of_way, classes, settings["evaluate"]["leave_out"])
    if each[0].confidence:
        levels = {name: sum(one.confidence[name] for one in each) for name in each[0].confidence}
        temperature = temperature_of(facts, settings["predict"]["views"])
        calibration = scoring.describe_temperature(levels, temperature)
    official = [one.official for one in each]
    return {"protocol": scoring.describe_protocol(settings, facts, each[0].engine, official), **scores["map"],
            "settings": {section: settings[section] for section in ("predict", "evaluate")},
            "ways": {way: of_way for way, of_way in scores.items() if way != "map"},
            "gains": scoring.describe_gains(scores, seconds, settings) if len(scores) > 1 else [],
            "boundary": scoring.describe_boundary(sum(one.distances for one in each)),
            "calibration": calibration,
            "areas": scoring.describe_areas([one.areas for one in each], scores["map"]["full"])}


def print_scores(metrics):
    """The scores as tables: each class, then the protocol card."""
    def text(value):
        return "-" if value is None else f"{value:.4f}"

    line = "{:>16}{:>10}{:>8}{:>13}{:>8}".format
    print(line("", "full IoU", "F1", "eroded IoU", "F1"))
    for name, full in metrics["full"]["classes"].items():
        eroded = metrics["eroded"]["classes"][name]
        print(line(name, *map(text, (full["iou"], full["f1"], eroded["iou"], eroded["f1"]))))
    line = "{:>6}  {:<6}{:>15}{:>10}{:>10}  {}".format
    print("\n" + line("views", "labels", "accuracy", "mean IoU", "mean F1", "classes"))
    for views, labels, counted, means in scoring.card(metrics):
        right = f"recall {text(means['recall'])}" if "recall" in means else text(means["accuracy"])
        print(line(views, labels, right, text(means["mean_iou"]), text(means["mean_f1"]), counted))


def main(settings, run):
    settings = drawn(settings)
    classes, corner = list(settings["data"]["classes"]), "label \\ predicted"
    facts = read_facts(run, settings["data"]["classes"])
    with only_one(run):
        metrics = evaluate_run(settings, run, facts)
        rows = [dict(zip([corner, *classes], [name, *pixels]))
                for name, pixels in zip(classes, metrics["full"]["confusion"])]
        write_rows(run / "confusion.csv", [corner, *classes], rows)
        write_record(run / "metrics.json", metrics)
    print_scores(metrics)
    print(f"{metrics['protocol']['text']}\n{run / 'metrics.json'}")


if __name__ == "__main__":
    command(main, __doc__)
