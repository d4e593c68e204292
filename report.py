"""Figures and one HTML page from what the other steps wrote.

    python report.py --params demo.yaml

Reads metrics.json, history.csv, schedule.csv, lr_find.csv, model.json, the configuration inside model.keras, the class
maps, and the prepared tiles with their manifest. Writes figures/*.png (200 dpi) and report.html, which holds its
pictures itself and opens from a file: scores with their protocol, every test tile under a slider, the figures, the
audit of the tiles' labels, settings and provenance. No model is loaded, no GPU used. A few seconds a tile.
"""
from pathlib import Path

from base.command import command
from base.files import only_one, replacing
from base.problem import Problem
from base.tables import read_columns, read_facts, read_finder, read_record
from imagery.tiles import read_manifest
from reporting import charts, network_figure, patch_pictures, pictures
from reporting.page import build_page, build_slider


def draw_tiles(settings, run, metrics):
    """Draws a figure of every test tile; returns their sliders, and the first figure for the page."""
    sliders, classes = [], settings["data"]["classes"]
    alone = metrics["ways"].get("one_view", {"tiles": {}})["tiles"]
    for tile in settings["split"]["test"]:
        layers, score = pictures.tile_pictures(tile, settings, run, bool(alone)), metrics["tiles"][tile]
        path = run / "figures" / f"tile_{tile}.png"
        pictures.draw_tile(path, tile, layers, classes, score["full"], alone.get(tile, {}).get("full"))
        sliders.append(build_slider(tile, layers, score))
        print(f"{tile:>12}  {path}", flush=True)
    first = settings["split"]["test"][0]
    return sliders, (run / "figures" / f"tile_{first}.png",
                     f"Tile {first}: image, labels, errors and prediction"
                     + (", in one view and in all" if alone else "") + "; the others' are in the folder figures.")


def draw_scores(settings, run, metrics):
    """Draws what metrics.json holds; [(path, caption)]."""
    folder, classes = run / "figures", settings["data"]["classes"]
    charts.draw_classes(folder / "classes.png", metrics, classes)
    charts.draw_confusion(folder / "confusion.png", metrics["full"], list(classes))
    charts.draw_boundary(folder / "boundary.png", metrics["boundary"], settings["evaluate"]["erode"])
    drawn = [(folder / "classes.png", "IoU and F1 of every class over all test tiles."),
             (folder / "confusion.png", "Confusion matrix over all test tiles: per cent of the label's pixels, and "
              "pixels."),
             (folder / "boundary.png", "Where the errors are. Left: of the pixels at each distance to another class, "
              "the share that is wrong, and how many they are. Right: the scores of what is left where a border of "
              "that width is not scored.")]
    if metrics["gains"]:
        charts.draw_gains(folder / "gains.png", metrics["gains"], list(classes))
        drawn.append((folder / "gains.png", "What each part of predicting adds, in per cent IoU and points of it: the "
                      "border that patches leave over, larger windows with overlap, and the views."))
    if metrics["calibration"]:
        charts.draw_reliability(folder / "reliability.png", metrics["calibration"])
        drawn.append((folder / "reliability.png", "How often pixels are right against how sure the network is of them, "
                      "and how many there are."))
    return drawn


def draw_run(settings, run, facts):
    """Draws the training and the network; [(path, caption)]."""
    folder, scored = run / "figures", [f"{prefix}{name}" for name in ("loss", "accuracy", "mean_iou")
                                       for prefix in ("", "val_")]
    history = read_columns(run / "history.csv", "epoch", *scored)
    schedule = read_columns(run / "schedule.csv", "step", "learning_rate", "momentum")
    charts.draw_training(folder / "training.png", history, facts["epoch"])
    charts.draw_one_cycle(folder / "one_cycle.png", schedule)
    network_figure.draw_network(folder / "network.png", network_figure.read_network(run / "model.keras"))
    drawn = [(folder / "training.png", "Loss, accuracy and mean IoU of every epoch; the checkpoint is epoch "
              f"{facts['epoch']}."),
             (folder / "one_cycle.png", "The one-cycle policy: learning rate and momentum at every update.")]
    if (run / "lr_find.json").exists():
        found, curve = read_finder(run), read_columns(run / "lr_find.csv", "learning_rate", "loss",
                                                                     "smoothed")
        charts.draw_finder(run / "lr_find.png", *curve.values(), found["steepest_descent"], found["suggestion"])
        drawn.append((run / "lr_find.png", "The learning-rate range test."))
    return [*drawn, (folder / "network.png", "The network: what each block does, its channels, and its resolution as a "
                     "share of the image's.")]


def draw_data(settings, run, manifest):
    """Draws the tiles that were trained on and scored; [(path, caption)]."""
    folder = run / "figures"
    pictures.draw_labels(folder / "labels.png", settings)
    charts.draw_audit(folder / "audit.png", settings["split"], manifest, settings["data"]["classes"])
    off = patch_pictures.draw_augmentation(folder / "augmentation.png", settings)
    return [(folder / "labels.png", "The first training tile and its labels."),
            (folder / "audit.png", "What is in the tiles: the classes of their labels (left), and the pixels that were "
             "repaired to the nearest class, are not to be scored, have no known colour, no data in the image, or a "
             "value outside data.scale (right; a tile without a mark has none, one at the left end stands for that "
             "much or less)."),
            (folder / "augmentation.png", "The first patches of an epoch and their labels, as cut and as augmented"
             + (f"; off in these settings: {', '.join(off)}." if off else "."))]


def main(settings, run):
    metrics, provenance = read_record(run / "metrics.json", "evaluate.py"), read_record(run / "run.json", "train.py")
    facts = read_facts(run, settings["data"]["classes"])
    if metrics["protocol"]["model_sha256"] != facts["sha256"]:
        raise Problem(f"scores {run / 'metrics.json'}: of another model than {run / 'model.keras'}, expected its own; "
                      "run predict.py and evaluate.py again", code=3)
    manifest = read_manifest(settings["data"]["prepared"])["tiles"]
    missing = [tile for role in settings["split"].values() for tile in role if tile not in manifest]
    if missing:
        raise Problem(f"tile {', '.join(missing)} in {settings['data']['prepared']}: not prepared, expected it in "
                      "manifest.json; run prepare_data.py again", code=3)
    if (set(metrics["tiles"]), list(metrics["full"]["classes"])) != (set(settings["split"]["test"]),
                                                                     list(settings["data"]["classes"])):
        raise Problem(f"scores {run / 'metrics.json'}: of other tiles or classes than the settings', expected those; "
                      "run evaluate.py again", code=3)
    with only_one(run), charts.style():
        sliders, first = draw_tiles(settings, run, metrics)
        groups = {"Scores": [first, *draw_scores(settings, run, metrics)],
                   "Training": draw_run(settings, run, facts), "Data": draw_data(settings, run, manifest)}
        drawn = {path for group in groups.values() for path, _ in group}
        drawn |= {run / "figures" / f"tile_{tile}.png" for tile in settings["split"]["test"]}
        for path in (run / "figures").glob("*.png"):
            if path not in drawn:  # of other settings
                path.unlink()
        page = build_page(settings, metrics, facts, provenance, manifest, sliders, groups)
        with replacing(run / "report.html") as temporary:
            temporary.write_text(page, encoding="utf-8")
    print(f"report: file://{Path(run / 'report.html').resolve()}")


if __name__ == "__main__":
    command(main, __doc__)
