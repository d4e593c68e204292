"""Figures and one HTML page from what the other steps wrote.

    python report.py --params demo.yaml

Reads metrics.json, history.csv, schedule.csv, lr_find.csv, model.json, the configuration inside model.keras, the class
maps, and the prepared tiles with their manifest. Writes figures/*.png (200 dpi) and report.html, which holds its
pictures itself and opens from a file: scores with their protocol, every test tile under a slider, the figures, the
audit of the tiles' labels, settings and provenance. No model is loaded, no GPU used. A few seconds a tile.
"""
import base64
import html
import io
import json
import string
from pathlib import Path

import yaml

import figures
import pictures
from command import command
from figures import percent
from files import Problem, only_one, replacing
from results import read_columns, read_facts, read_finder, read_json, read_metrics
from scores import card, count_classes
from tiles import read_manifest

# -- the page ---------------------------------------------------------------------------------------------------------

def embed(path, caption):
    """A figure as HTML, as wide as on paper at 8 rem an inch, the page's width at most."""
    picture = base64.b64encode(path.read_bytes()).decode()
    inches = figures.plt.imread(path).shape[1] / 200
    text = html.escape(caption)
    return (f'<figure><img src="data:image/png;base64,{picture}" alt="{text}" style="width:{inches * 8:.0f}rem">'
            f"<figcaption>{text}</figcaption></figure>")


def embed_picture(name, picture):
    """A layer of a slider as HTML: photographs as JPEG, flat colours as PNG."""
    kind = "png" if name in ("labels", "prediction", "one view") else "jpeg"
    file = io.BytesIO()
    figures.plt.imsave(file, picture, format=kind, pil_kwargs={"quality": 88} if kind == "jpeg" else {"optimize": True})
    return (f'<img data-layer="{html.escape(name)}" alt="{html.escape(name)}" '
            f'src="data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}">')


def build_slider(tile, layers, score):
    """A test tile's pictures on top of each other, two of them shown, with what moves the border between them."""
    height, width = layers["image"].shape[:2]
    stack = "".join(embed_picture(name, picture) for name, picture in layers.items())

    def choice(side, chosen):
        options = "".join(f"<option{' selected' if name == chosen else ''}>{html.escape(name)}</option>"
                          for name in layers)
        return f'<select aria-label="{side} picture">{options}</select>'

    name = html.escape(tile)
    return (f'<figure class="swipe"><div class="stage" style="aspect-ratio: {width} / {height}; '
            f'max-width: calc(90vh * {width / height:.4f})">{stack}</div>'
            f'<div class="controls">{choice("left", "image")}<input type="range" min="0" max="100" step="0.5" '
            f'value="50" aria-label="border between the pictures of {name}">{choice("right", "prediction")}</div>'
            f"<figcaption>Tile {name}: mean IoU {percent(score['full']['mean_iou'])} %, accuracy "
            f"{percent(score['full']['accuracy'])} %; without class boundaries "
            f"{percent(score['eroded']['mean_iou'])} % and {percent(score['eroded']['accuracy'])} %.</figcaption>"
            "</figure>")


def build_table(header, rows):
    """A table; its cells are HTML."""
    cells = [("th", header), *(("td", row) for row in rows)]
    return "<table>" + "".join("<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in row) + "</tr>"
                               for tag, row in cells) + "</table>"


def build_headline(metrics):
    """The four scores that are asked for most."""
    left_out, full, eroded = metrics["protocol"]["leave_out"], metrics["full"], metrics["eroded"]
    without = f" without {', '.join(left_out)}" if left_out else ""
    return "".join(f"<div><b>{percent(value)}</b><span>{html.escape(name)}, %</span></div>" for name, value in (
        (f"mean IoU, {count_classes(full['classes'])} classes", full["mean_iou"]),
        (f"mean IoU{without}, boundaries eroded", eroded["left_out"]["mean_iou"]),
        (f"mean F1{without}, boundaries eroded", eroded["left_out"]["mean_f1"]), ("accuracy", full["accuracy"])))


def build_key(name, colour):
    return f'<i class="key" style="background:{html.escape(colour)}"></i>{html.escape(name)}'


def build_classes(metrics, classes):
    """The scores of every class, on all labelled pixels and without class boundaries."""
    each = ("IoU", "F1", "precision", "recall")
    return build_table(["class, %", *each, *(f"eroded {name}" for name in each), "pixels"], [
        [build_key(name, colour), *(percent(metrics[kind]["classes"][name][score.lower()])
                                    for kind in ("full", "eroded") for score in each),
         f'{metrics["full"]["classes"][name]["pixels"]:,}'] for name, colour in classes.items()])


def build_audit(settings, metrics, manifest):
    """Every tile with its role, its scores where it has any, and what is known of its files."""
    rows = []
    for tile, role in ((tile, role) for role, names in settings["split"].items() for tile in names):
        row, scores = manifest[tile], metrics["tiles"].get(tile)
        height, width, bands = row["shape"]
        unknown = row["pixels"]["labels"]["unknown_colours"]
        often = ", ".join(f"{colour} ({count:,})" for colour, count in unknown.items())
        rows.append([html.escape(tile), role,
                     *(percent(scores[kind]["mean_iou"]) if scores else "" for kind in ("full", "eroded")),
                     *("&lt;0.01" if 0 < share < 5e-5 else percent(share) for share in figures.faults(row).values()),
                     f"{height} x {width} x {bands}", row["dtype"],
                     html.escape(row["georeference"]["crs"] or "none"),
                     f"<code>{html.escape(row['raw']['image']['sha256'][:8])}</code>", html.escape(often) or "-"])
    return build_table(["tile", "role", "mean IoU", "eroded", *(f"{kind} %" for kind in figures.FAULTS), "pixels",
                        "type", "place", "sha256", "most frequent unknown colours"], rows)


def build_page(settings, metrics, facts, provenance, manifest, sliders, groups):
    """The page as text, from page.html. Every name in it is escaped."""
    classes = settings["data"]["classes"]
    described = {key: value for key, value in provenance.items() if key != "settings"}
    used = {**provenance.get("settings", settings), **metrics["settings"], "report": settings["report"]}
    page = string.Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    return page.substitute(
        title=html.escape(settings["report"]["title"]), protocol=html.escape(metrics["protocol"]["text"]),
        headline=build_headline(metrics), classes=build_classes(metrics, classes),
        card=build_table(["views", "labels", "classes", "accuracy, %", "mean IoU, %", "mean F1, %"],
                         [[views, labels, html.escape(counted), *map(percent, values)]
                          for views, labels, counted, *values in card(metrics)]),
        keys="".join(f"<span>{build_key(name, colour)}</span>" for name, colour in classes.items()),
        tiles="".join(sliders), audit=build_audit(settings, metrics, manifest),
        figures="".join(f"<h2>{html.escape(title)}</h2>" + "".join(embed(*picture) for picture in group)
                        for title, group in groups.items()),
        settings=html.escape(yaml.safe_dump(used, sort_keys=False, allow_unicode=True)),
        provenance=html.escape(json.dumps({**described, "model": facts}, indent=1, ensure_ascii=False)))


# -- all of it --------------------------------------------------------------------------------------------------------

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
    figures.draw_classes(folder / "classes.png", metrics, classes)
    figures.draw_confusion(folder / "confusion.png", metrics["full"], list(classes))
    figures.draw_boundary(folder / "boundary.png", metrics["boundary"], settings["evaluate"]["erode"])
    drawn = [(folder / "classes.png", "IoU and F1 of every class over all test tiles."),
             (folder / "confusion.png", "Confusion matrix over all test tiles: per cent of the label's pixels, and "
              "pixels."),
             (folder / "boundary.png", "Where the errors are. Left: of the pixels at each distance to another class, "
              "the share that is wrong, and how many they are. Right: the scores of what is left where a border of "
              "that width is not scored.")]
    if metrics["gains"]:
        figures.draw_gains(folder / "gains.png", metrics["gains"], list(classes))
        drawn.append((folder / "gains.png", "What each part of predicting adds, in per cent IoU and points of it: the "
                      "border that patches leave over, larger windows with overlap, and the views."))
    if metrics["calibration"]:
        figures.draw_reliability(folder / "reliability.png", metrics["calibration"])
        drawn.append((folder / "reliability.png", "How often pixels are right against how sure the network is of them, "
                      "and how many there are."))
    return drawn


def draw_run(settings, run, facts):
    """Draws the training and the network; [(path, caption)]."""
    folder, scored = run / "figures", [f"{prefix}{name}" for name in ("loss", "accuracy", "mean_iou")
                                       for prefix in ("", "val_")]
    history = read_columns(run / "history.csv", "epoch", *scored)
    schedule = read_columns(run / "schedule.csv", "step", "learning_rate", "momentum")
    figures.draw_training(folder / "training.png", history, facts["epoch"])
    figures.draw_one_cycle(folder / "one_cycle.png", schedule)
    figures.draw_network(folder / "network.png", figures.read_network(run / "model.keras"))
    drawn = [(folder / "training.png", "Loss, accuracy and mean IoU of every epoch; the checkpoint is epoch "
              f"{facts['epoch']}."),
             (folder / "one_cycle.png", "The one-cycle policy: learning rate and momentum at every update.")]
    if (run / "lr_find.json").exists():
        found, curve = read_finder(run / "lr_find.json"), read_columns(run / "lr_find.csv", "learning_rate", "loss",
                                                                     "smoothed")
        figures.draw_finder(run / "lr_find.png", *curve.values(), found["steepest_descent"], found["suggestion"])
        drawn.append((run / "lr_find.png", "The learning-rate range test."))
    return [*drawn, (folder / "network.png", "The network: what each block does, its channels, and its resolution as a "
                     "share of the image's.")]


def draw_data(settings, run, manifest):
    """Draws the tiles that were trained on and scored; [(path, caption)]."""
    folder = run / "figures"
    pictures.draw_labels(folder / "labels.png", settings)
    figures.draw_audit(folder / "audit.png", settings["split"], manifest, settings["data"]["classes"])
    off = pictures.draw_augmentation(folder / "augmentation.png", settings)
    return [(folder / "labels.png", "The first training tile and its labels."),
            (folder / "audit.png", "What is in the tiles: the classes of their labels (left), and the pixels that were "
             "repaired to the nearest class, are not to be scored, have no known colour, no data in the image, or a "
             "value outside data.scale (right; a tile without a mark has none, one at the left end stands for that "
             "much or less)."),
            (folder / "augmentation.png", "The first patches of an epoch and their labels, as cut and as augmented"
             + (f"; off in these settings: {', '.join(off)}." if off else "."))]


def main(settings, run):
    metrics, provenance = read_metrics(run / "metrics.json"), read_json(run / "run.json")
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
    with only_one(run), figures.style():
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
