"""Figures and one HTML page from what the other steps wrote.

    python report.py --params demo.yaml

Reads metrics.json, history.csv, schedule.csv, lr_find.csv, model.json, run.json, the class maps, and the
prepared tiles with their manifest. Writes figures/*.png (200 dpi) and report.html, which holds its pictures
itself and opens from a file: scores with their protocol, test tiles under a slider, the figures, the audit of
the tiles' labels, settings and provenance. Of many tiles a sample is shown, and how many there are is said.
No model is loaded, no GPU used. A few seconds a tile that is shown.
"""
import numpy as np

from base.blocks import drawn
from base.command import command
from base.files import only_one
from base.problem import Problem
from base.settings import all_tiles, roles_of
from base.tables import read_columns, read_facts, read_finder, read_record, write_text
from imagery.grids import in_words
from imagery.tiles import prepared_rows
from reporting import charts, network_figure, patch_pictures, pictures
from reporting.page import build_page, build_slider

MOST = 6  # rasters that are drawn as they are cut
SHOWN = 24  # tiles of a role at most, in pictures and tables


def sampled(tiles, value):
    """Tiles from the lowest value to the highest, SHOWN of them evenly; no more than that are all shown, in
    their own order."""
    if len(tiles) <= SHOWN:
        return tiles
    ranked = sorted(tiles, key=value)
    return [ranked[number] for number in np.linspace(0, len(tiles) - 1, SHOWN).round().astype(int)]


def worst_fault(row):
    return max(charts.faults(row).values())


def draw_tiles(settings, run, metrics):
    """Draws the test tiles that are shown; returns {tile: its slider}."""
    sliders, alone, each = {}, metrics["ways"].get("one_view"), metrics["tiles"]
    for tile in sampled(settings["split"]["test"], lambda tile: each[tile]["full"]["mean_iou"] or 0):
        layers, scores = pictures.tile_pictures(tile, settings, run), metrics["tiles"][tile]["full"]
        in_one_view = alone["tiles"][tile]["full"] if alone else None
        path = figure_of(run / "figures", tile)
        pictures.draw_tile(path, tile, layers, settings["data"]["classes"], scores, in_one_view)
        sliders[tile] = build_slider(layers)
        print(f"{tile:>12}  {path}", flush=True)
    return sliders


def figure_of(folder, tile):
    """The path of a test tile's figure: <folder>/tile_<tile>.png, in the folders of the tile's name."""
    path = folder / tile
    return path.with_name(f"tile_{path.name}.png")


def draw_scores(settings, folder, metrics, tile):
    """Draws metrics.json; yields (figure, caption), that of a test tile before all others."""
    classes = settings["data"]["classes"]
    ways = ", in one view and in all" if "one_view" in metrics["ways"] else ""
    yield figure_of(folder, tile), (
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
            "How often pixels are right against how sure the network is of them, and how many there are"
            + ("." if metrics["calibration"]["temperature"] == 1 else
               "; its temperature was fitted on the validation tiles, and changes no class."))


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
    yield (network_figure.draw_network(run / "figures/network.png", model, facts),
           network_figure.describe_network(model, facts))


def draw_data(settings, folder, shown, rows):
    """Draws the tiles that were trained on and scored; yields (figure, caption). `shown`: {role: tiles}."""
    yield pictures.draw_labels(folder / "labels.png", settings), "The first training tile and its labels."
    classes = settings["data"]["classes"]
    cut = list(dict.fromkeys(row["cut"]["raster"] for row in rows.values() if "cut" in row))
    for raster in cut[:MOST]:
        more = f", and {len(cut) - MOST} more rasters" if raster == cut[-1] and len(cut) > MOST else ""
        path = folder / f"blocks_{raster.replace('/', '.')}.png"
        yield pictures.draw_blocks(path, raster, settings, rows), (
            f"Raster {raster} as it is cut into blocks of the three roles{more}, with the guard between "
            "them, and the classes of each role's labelled pixels.")
    yield charts.draw_audit(folder / "audit.png", shown, rows, classes), (
        "What is in the tiles: the classes of their labels (left), and the pixels that were repaired to the "
        "nearest class, are not to be scored, have no known colour, no data in the image, a value outside "
        "data.scale, or lie outside of labels from another grid (right; a tile without a mark has none, one "
        f"at the left end stands for that much or less).{name_grids(rows)}")
    off = patch_pictures.draw_augmentation(folder / "augmentation.png", settings)
    names = f"; off in these settings: {', '.join(off)}" if off else ""
    yield folder / "augmentation.png", (
        f"The first patches of an epoch and their labels, as cut and as augmented{names}.")


def name_grids(rows):
    """A sentence on the labels and extra rasters that were on another grid than their image's; else ""."""
    moved = [f"{kind} of {row.get('cut', {}).get('raster', tile)} {in_words(place)}"
             for tile, row in rows.items() for kind, place in row["grids"].items()]
    moved = list(dict.fromkeys(moved))  # once of what many blocks share
    more = f" and {len(moved) - 5} more" if len(moved) > 5 else ""
    return f" Brought to the image's pixels: {'; '.join(moved[:5])}{more}." if moved else ""


def check_scores(settings, run, metrics, facts):
    """Problem (exit 3) where the scores are not those of this model, or not of these tiles and classes."""
    path = run / "metrics.json"
    if metrics["protocol"]["model_sha256"] != facts["sha256"]:
        raise Problem(f"scores {path}: of another model than {run / 'model.keras'}, expected its own; run "
                      "predict.py and evaluate.py again", code=3)
    if "areas" not in metrics:
        raise Problem(f"scores {path}: of an earlier version, expected those with the areas of the classes; "
                      "run evaluate.py again", code=3)
    scored = set(metrics["tiles"]), list(metrics["full"]["classes"])
    if scored != (set(settings["split"]["test"]), list(settings["data"]["classes"])):
        raise Problem(f"scores {path}: of other tiles or classes than the settings', expected those; run "
                      "evaluate.py again", code=3)


def main(settings, run):
    settings = drawn(settings)
    metrics = read_record(run / "metrics.json", "evaluate.py")
    trained = read_record(run / "run.json", "train.py")
    facts = read_facts(run, settings["data"]["classes"])
    check_scores(settings, run, metrics, facts)
    rows = prepared_rows(settings["data"], all_tiles(settings["split"]))
    settings = {**settings, **metrics["settings"]}  # of predict and evaluate as the maps were made and scored
    folder = run / "figures"
    with only_one(run), charts.style():
        sliders = draw_tiles(settings, run, metrics)
        shown = {role: sampled(tiles, lambda tile: worst_fault(rows[tile]))
                 for role, tiles in roles_of(settings["split"]).items()}
        groups = {"Scores": dict(draw_scores(settings, folder, metrics, next(iter(sliders)))),
                  "Training": dict(draw_run(run, facts, trained["settings"]["model"])),
                  "Data": dict(draw_data(settings, folder, shown, rows))}
        tiles = {figure_of(folder, tile) for tile in sliders}
        for path in set(folder.rglob("*.png")) - tiles.union(*groups.values()):
            path.unlink()  # of other settings
        provenance, audit = {**trained, "model": facts}, (shown, rows)
        page = build_page(settings, metrics, provenance, audit, sliders, groups)
        write_text(run / "report.html", page)
    print(f"report: file://{(run / 'report.html').resolve()}")


if __name__ == "__main__":
    command(main, __doc__)
