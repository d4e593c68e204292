"""Figures and one HTML page from what the other steps wrote.

    python report.py --params demo.yaml

Reads metrics.json, history.csv, schedule.csv, lr_find.csv, model.json, run.json, the class maps, and the
prepared tiles with their manifest. Writes figures/*.png (200 dpi) and report.html, which holds its pictures
itself and opens from a file: scores with their protocol, every test tile under a slider, the figures, the
audit of the tiles' labels, settings and provenance. No model is loaded, no GPU used. A few seconds a tile.
"""
from base.command import command
from base.files import only_one
from base.problem import Problem
from base.settings import all_tiles
from base.tables import read_columns, read_facts, read_finder, read_record, write_text
from imagery.tiles import prepared_rows
from reporting import charts, network_figure, patch_pictures, pictures
from reporting.page import build_page, build_slider


def draw_tiles(settings, run, metrics):
    """Draws every test tile, figures/tile_<tile>.png; returns {tile: its slider}."""
    sliders, alone = {}, metrics["ways"].get("one_view")
    for tile in settings["split"]["test"]:
        layers, scores = pictures.tile_pictures(tile, settings, run), metrics["tiles"][tile]["full"]
        in_one_view = alone["tiles"][tile]["full"] if alone else None
        path = run / "figures" / f"tile_{tile}.png"
        pictures.draw_tile(path, tile, layers, settings["data"]["classes"], scores, in_one_view)
        sliders[tile] = build_slider(layers)
        print(f"{tile:>12}  {path}", flush=True)
    return sliders


def draw_scores(settings, folder, metrics):
    """Draws metrics.json; yields (figure, caption), that of the first test tile before all others."""
    classes, tile = settings["data"]["classes"], settings["split"]["test"][0]
    ways = ", in one view and in all" if "one_view" in metrics["ways"] else ""
    yield folder / f"tile_{tile}.png", (
        f"Tile {tile}: image, labels, errors and prediction{ways}; the others' are in the folder figures.")
    yield charts.draw_classes(folder / "classes.png", metrics, classes), (
        "IoU and F1 of every class over all test tiles.")
    yield charts.draw_confusion(folder / "confusion.png", metrics["full"], list(classes)), (
        "Confusion matrix over all test tiles: per cent of the label's pixels, and pixels.")
    yield charts.draw_boundary(folder / "boundary.png", metrics["boundary"], settings["evaluate"]["erode"]), (
        "Where the errors are. Left: of the pixels at each distance to another class, the share that is "
        "wrong, and how many they are. Right: the scores of what is left where a border of that width is not "
        "scored.")
    if metrics["gains"]:
        yield charts.draw_gains(folder / "gains.png", metrics["gains"], list(classes)), (
            "What each part of predicting adds, in per cent IoU and points of it: the border that patches "
            "leave over, larger windows with overlap, and the views.")
    if metrics["calibration"]:
        yield charts.draw_reliability(folder / "reliability.png", metrics["calibration"]), (
            "How often pixels are right against how sure the network is of them, and how many there are.")


def draw_run(run, facts, model):
    """Draws the training and the network of settings["model"]; yields (figure, caption)."""
    scores = [f"{prefix}{name}" for name in ("loss", "accuracy", "mean_iou") for prefix in ("", "val_")]
    history = read_columns(run / "history.csv", "epoch", *scores)
    yield charts.draw_training(run / "figures/training.png", history, facts["epoch"]), (
        f"Loss, accuracy and mean IoU of every epoch; the checkpoint is epoch {facts['epoch']}.")
    schedule = read_columns(run / "schedule.csv", "step", "learning_rate", "momentum")
    yield charts.draw_one_cycle(run / "figures/one_cycle.png", schedule), (
        "The one-cycle policy: learning rate and momentum at every update.")
    if (run / "lr_find.json").exists():
        finder = read_finder(run)
        curve = read_columns(run / "lr_find.csv", "learning_rate", "loss", "smoothed").values()
        suggestions = finder["steepest_descent"], finder["suggestion"]
        yield charts.draw_finder(run / "lr_find.png", *curve, *suggestions), "The learning-rate range test."
    yield network_figure.draw_network(run / "figures/network.png", model, facts), (
        "The network: what each block does, its channels, and its resolution as a share of the image's.")


def draw_data(settings, folder, rows):
    """Draws the tiles that were trained on and scored; yields (figure, caption)."""
    yield pictures.draw_labels(folder / "labels.png", settings), "The first training tile and its labels."
    classes = settings["data"]["classes"]
    yield charts.draw_audit(folder / "audit.png", settings["split"], rows, classes), (
        "What is in the tiles: the classes of their labels (left), and the pixels that were repaired to the "
        "nearest class, are not to be scored, have no known colour, no data in the image, or a value outside "
        "data.scale (right; a tile without a mark has none, one at the left end stands for that much or "
        "less).")
    off = patch_pictures.draw_augmentation(folder / "augmentation.png", settings)
    names = f"; off in these settings: {', '.join(off)}" if off else ""
    yield folder / "augmentation.png", (
        f"The first patches of an epoch and their labels, as cut and as augmented{names}.")


def check_scores(settings, run, metrics, facts):
    """Problem (exit 3) where the scores are not those of this model, or not of these tiles and classes."""
    path = run / "metrics.json"
    if metrics["protocol"]["model_sha256"] != facts["sha256"]:
        raise Problem(f"scores {path}: of another model than {run / 'model.keras'}, expected its own; run "
                      "predict.py and evaluate.py again", code=3)
    if "left_out_ignored" not in metrics["full"]:
        raise Problem(f"scores {path}: of an earlier version, expected those with left-out labels ignored; "
                      "run evaluate.py again", code=3)
    scored = set(metrics["tiles"]), list(metrics["full"]["classes"])
    if scored != (set(settings["split"]["test"]), list(settings["data"]["classes"])):
        raise Problem(f"scores {path}: of other tiles or classes than the settings', expected those; run "
                      "evaluate.py again", code=3)


def main(settings, run):
    metrics = read_record(run / "metrics.json", "evaluate.py")
    trained = read_record(run / "run.json", "train.py")
    facts = read_facts(run, settings["data"]["classes"])
    check_scores(settings, run, metrics, facts)
    rows = prepared_rows(settings["data"], all_tiles(settings["split"]))
    settings = {**settings, **metrics["settings"]}  # of predict and evaluate as the maps were made and scored
    folder = run / "figures"
    with only_one(run), charts.style():
        sliders = draw_tiles(settings, run, metrics)
        groups = {"Scores": dict(draw_scores(settings, folder, metrics)),
                  "Training": dict(draw_run(run, facts, trained["settings"]["model"])),
                  "Data": dict(draw_data(settings, folder, rows))}
        tiles = {folder / f"tile_{tile}.png" for tile in sliders}
        for path in set(folder.glob("*.png")) - tiles.union(*groups.values()):
            path.unlink()  # of other settings
        provenance = {**trained, "model": facts}
        write_text(run / "report.html", build_page(settings, metrics, provenance, rows, sliders, groups))
    print(f"report: file://{(run / 'report.html').resolve()}")


if __name__ == "__main__":
    command(main, __doc__)
