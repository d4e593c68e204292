"""metrics.json: scores from confusion matrices, and what they mean; whether a run's scores and page stand."""
import math

import numpy as np

from base.blocks import rasters_of
from base.problem import Problem
from base.tables import read_record
from imagery.scores import accuracy, class_scores, divide, mean_iou, mean_of
from mapping.maps import CERTAIN

BINS = 20  # of confidence, equally wide


def numbers(**values):
    """{name: number} as JSON can hold it: None for NaN."""
    return {name: None if math.isnan(value) else float(value) for name, value in values.items()}


def describe(confusion, classes, leave_out):
    """The scores of a confusion matrix (int64 [C, C]), as metrics.json holds them. "left_out": over the
    classes that are kept, "left_out_ignored": the same where labels of the others are not scored at all."""
    everything, kept = slice(None), keep(classes, leave_out)
    return {**describe_means(confusion, everything, "accuracy"),
            "left_out": describe_means(confusion, kept, "recall"),
            "left_out_ignored": describe_means(confusion * kept[:, None], kept, "accuracy"),
            "classes": describe_classes(confusion, classes), "confusion": confusion.tolist()}


def keep(classes, leave_out):
    """bool [C]: whether each class is none of those that are left out."""
    return np.array([name not in leave_out for name in classes])


def describe_means(confusion, kept, right):
    """Means over the classes that are `kept`, and, named `right`, the share of their pixels that is right:
    the recall of these pixels; the accuracy where no others are scored."""
    each, share = class_scores(confusion), divide(np.diag(confusion)[kept].sum(), confusion[kept].sum())
    return numbers(**{right: share}, mean_iou=mean_of(each["iou"], kept), mean_f1=mean_of(each["f1"], kept))


def describe_classes(confusion, classes):
    """{class: its scores and labelled pixels}."""
    each, by_class = class_scores(confusion), {}
    for i, name in enumerate(classes):
        by_class[name] = numbers(**{score: each[score][i] for score in ("iou", "f1", "precision", "recall")})
        by_class[name]["pixels"] = int(each["pixels"][i])
    return by_class


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


def describe_temperature(levels, temperature):
    """The calibration at the network's temperature and, as "before", without one. `levels`: as of
    describe_calibration, of "confidence" and perhaps "uncalibrated"."""
    before = describe_calibration(levels["uncalibrated"]) if "uncalibrated" in levels else None
    return {"temperature": temperature, **describe_calibration(levels["confidence"]), "before": before}


def describe_areas(tables, scores):
    """{class: shares of the area} as labelled, as predicted, and as expected by the probabilities: of the
    labelled pixels and, the others, of all that are predicted. `tables`: {class: (pixels, expected pixels)}
    of each tile; {} where there is none."""
    if not all(tables):
        return {}
    labelled = np.array([each["pixels"] for each in scores["classes"].values()])
    both = np.array([[*table.values()] for table in tables]).sum(0).T
    shares = [counts / max(counts.sum(), 1) for counts in (labelled, *both)]
    return {name: numbers(**dict(zip(("labelled", "predicted", "expected"), each)))
            for name, each in zip(scores["classes"], zip(*shares))}


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
                "leave_out": evaluate["leave_out"], "encoder": facts.get("encoder", "none"),
                "weights": facts.get("weights"), "model_sha256": facts["sha256"]}
    views, left_out = len(options["views"]), ", ".join(evaluate["leave_out"])
    encoder = name_encoder(facts)
    protocol["text"] = (
        f"{len(protocol['tiles'])} test tile(s), none of which was trained on or chose anything"
        f"{describe_blocks(settings['split'])}; checkpoint of epoch {facts['epoch']}, "
        f"{facts['chosen_by']} ({name_some(list(facts['chosen_on']))})"
        + (f", first weights from {facts['start_from']}" if "start_from" in facts else "")
        + (f"; encoder {encoder}" if encoder else "") + "; windows of "
        f"{options['window']} px, overlapping by {options['overlap']:g}, "
        + (f"{views} views averaged" if views > 1 else "one view")
        + f", {engine}; every labelled pixel scored (full) and without class boundaries "
        f"({protocol['eroded_labels']}, eroded); means over the {len(settings['data']['classes'])} classes, "
        "as far as they are labelled or predicted"
        + (f", again without {left_out}, and with labels of {left_out} ignored." if left_out else "."))
    return protocol


def name_encoder(facts):
    """A network's encoder and its first weights in words, by model.json; "" without an encoder."""
    if facts.get("encoder", "none") == "none":  # there is no such key in one of an earlier version
        return ""
    source = (facts.get("weights") or {}).get("source")
    words = {"imagenet": "pretrained on ImageNet", None: "first weights at random"}
    return f"{facts['encoder']}, {words.get(source, f'first weights from {source}')}"


def describe_blocks(split):
    """What is to be said of test tiles that are blocks."""
    blocks, rasters = split.get("blocks"), rasters_of(split)
    if not blocks:
        return ""
    return (f": blocks of about {blocks['side']} px of {name_some(rasters)}, each predicted from its own "
            f"pixels alone, {blocks['guard']} px and more from blocks of other roles in the same raster")


def name_some(names):
    """Names as text, of many the first three."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def count_classes(classes):
    """How many classes a mean of {class: {"iou", ...}} is over: those in labels or predictions."""
    occur = sum(each["iou"] is not None for each in classes.values())
    return str(occur) if occur == len(classes) else f"{occur} that occur, of {len(classes)}"


def name_unlabelled(classes):
    """Which classes count as IoU 0 because they are predicted and never labelled, as the end of a name."""
    names = [name for name, each in classes.items() if each["iou"] is not None and not each["pixels"]]
    return f" ({', '.join(names)} predicted, never labelled: IoU 0)" if names else ""


def card(metrics):
    """[(views, labels, classes, means)]: every common meaning of "the score"; means: {"accuracy" or "recall",
    "mean_iou", "mean_f1"}."""
    maps = {len(metrics["protocol"]["views"]): metrics}
    if "one_view" in metrics["ways"]:
        maps[1] = metrics["ways"]["one_view"]
    rows = []
    for views, scores in maps.items():
        for kind in ("full", "eroded"):
            means = means_of(scores[kind], metrics["protocol"]["leave_out"])
            rows += [(views, kind, name, each) for name, each in means.items()]
    return rows


def means_of(scores, leave_out):
    """{classes in words: their means}: over all classes and, where some are left out, over the others, and
    over the others with the labels of those left out ignored."""
    classes, names = scores["classes"], ", ".join(leave_out)
    means = {f"all {count_classes(classes)}{name_unlabelled(classes)}": scores}
    if leave_out:
        ignored = np.array(scores["confusion"]) * keep(classes, leave_out)[:, None]
        ignored = describe_classes(ignored, classes)
        means[f"without {names}{name_others(classes, leave_out)}"] = scores["left_out"]
        means[f"labels of {names} ignored{name_others(ignored, leave_out)}"] = scores["left_out_ignored"]
    return means


def name_others(classes, leave_out):
    """What is to be said of the classes that a mean is over, as the end of its name."""
    others = {name: each for name, each in classes.items() if name not in leave_out}
    counted = count_classes(others)
    few = "" if counted == str(len(others)) else f", {counted}"
    return few + name_unlabelled(others)


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
