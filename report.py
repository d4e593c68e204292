"""Figures and one HTML page from what the other steps wrote.

    python report.py --params demo.yaml

Reads lr_find.png, schedule.csv, history.csv, model.json, metrics.json, the class maps, and the prepared tiles with
their manifest. Writes figures/*.png (200 dpi) and report.html, which holds its pictures itself and opens from a file:
scores, test tiles, training, the audit of the tiles' labels, and patches as augmentation leaves them. No model, no
GPU. A few seconds a tile.
"""
import base64
import csv
import html
import json
from pathlib import Path

import matplotlib
import numpy as np
import yaml
from skimage.transform import downscale_local_mean

from command import command
from files import Problem, only_one, replacing
from patches import SEED, changes_of, cut_batch, draw_colours, plan_epoch, recolour
from rasters import open_raster
from tiles import IGNORE, open_prepared, palette, read_manifest

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

BLUE, RED, GREY = "#1f4e8c", "#b5452c", "#8a8f98"
STYLE = {"text.parse_math": False, "font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8, "legend.frameon": False,
         "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "axes.grid": True,
         "grid.color": "0.92", "axes.axisbelow": True, "figure.constrained_layout.use": True}


# -- what the steps wrote ---------------------------------------------------------------------------------------------

def unreadable(path):
    return Problem(f"report input {path}: missing or damaged, expected the file of an earlier step; run make report",
                   code=3)


def read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise unreadable(path) from None


def read_columns(path):
    """{column: float64 [N]} of a CSV file."""
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    except (OSError, ValueError, IndexError, TypeError):
        raise unreadable(path) from None


# -- figures ----------------------------------------------------------------------------------------------------------

def save(figure, path):
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=200)
    plt.close(figure)


def draw_one_cycle(path, schedule):
    """Learning rate, its logarithm, and momentum at every update."""
    figure, panels = plt.subplots(1, 3, figsize=(7.4, 2.4))
    for axes, column, name in zip(panels, ("learning_rate", "learning_rate", "momentum"),
                                  ("learning rate", "learning rate, logarithmic", "momentum")):
        axes.plot(schedule["step"] + 1, schedule[column], color=BLUE, linewidth=1.5)
        axes.set(title=name, xlabel="update")
    panels[1].set_yscale("log")
    panels[1].yaxis.set_major_formatter("{x:g}")  # powers of ten need the mathematics that STYLE switches off for names
    save(figure, path)


def draw_training(path, history, best_epoch):
    """Loss, accuracy and mean IoU of every epoch, for training and validation patches."""
    figure, panels = plt.subplots(1, 3, figsize=(7.4, 2.5))
    for axes, column, name in zip(panels, ("loss", "accuracy", "mean_iou"), ("loss", "accuracy", "mean IoU")):
        for key, colour, label in ((column, GREY, "training"), ("val_" + column, BLUE, "validation")):
            axes.plot(history["epoch"], history[key], color=colour, lw=1.5, marker="o", markersize=2, label=label)
        axes.axvline(best_epoch, color=RED, linewidth=1, linestyle=":", label="checkpoint")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        axes.set(title=name, xlabel="epoch", ylim=(0, 1) if column != "loss" else (0, None))
    panels[0].legend()
    save(figure, path)


def draw_confusion(path, scores, names):
    """The confusion matrix: share of each row's labels, and pixels."""
    counts = np.array(scores["confusion"], float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 1.6 + 0.72 * len(names)
    figure, axes = plt.subplots(figsize=(side + 0.6, side - 0.2))
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, col), share in np.ndenumerate(shares):
        dark, place = share > 0.55, {"ha": "center", "va": "center"}
        axes.text(col, row, f"{100 * share:.1f}\n", fontsize=8, color="white" if dark else "black", **place)
        axes.text(col, row, f"\n{shorten(counts[row, col])}", fontsize=6, color="white" if dark else "0.4", **place)
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="label")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    figure.colorbar(picture, shrink=0.7, label="share of the label's pixels")
    save(figure, path)


def shorten(count):
    """1234567 as 1.2M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f}{letter}"
    return f"{count:.0f}"


def draw_classes(path, metrics, classes):
    """IoU and F1 of every class, on all labelled pixels and without class boundaries."""
    figure, panels = plt.subplots(1, 2, figsize=(7.4, 0.9 + 0.36 * len(classes)), sharey=True)
    place = np.arange(len(classes))
    for axes, score, title in zip(panels, ("iou", "f1"), ("IoU", "F1")):
        for kind, offset, style in (("full", -0.19, {}), ("eroded", 0.19, {"hatch": "////", "alpha": 0.75})):
            values = np.array([metrics[kind]["classes"][name][score] for name in classes], float)  # None becomes NaN
            axes.barh(place + offset, values, 0.36, color=list(classes.values()), edgecolor="0.35", lw=0.6, **style)
            for y, value in zip(place + offset, values):
                known = np.isfinite(value)
                axes.text((value if known else 0) + 0.01, y, f"{value:.3f}" if known else "-", va="center",
                          fontsize=6.5)
        axes.set(xlim=(0, 1.12), title=title, yticks=place, yticklabels=list(classes))
        axes.grid(axis="y", visible=False)
    panels[0].invert_yaxis()
    handles = [matplotlib.patches.Patch(facecolor="white", edgecolor="0.35", hatch=hatch, label=label)
               for hatch, label in (("", "all labelled pixels"), ("////", "without class boundaries"))]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    save(figure, path)


FAULTS = {"repaired": (BLUE, "o"), "ignored": ("0.15", "s"), "unknown": (RED, "D"), "no data": ("#b98a00", "^"),
          "outside scale": ("#2f7d4f", "v")}


def faults(row):
    """{kind of FAULTS: share of a tile's pixels} of its row of the manifest; outside scale: of its worst band."""
    pixels, total = row["pixels"]["labels"], row["shape"][0] * row["shape"][1]
    return {**{kind: pixels[kind] / total for kind in ("repaired", "ignored", "unknown")},
            "no data": row["nodata"] / total, "outside scale": max(row["outside_scale"]) / total}


def draw_audit(path, split, manifest, classes):
    """The classes of every tile, and the shares of its label pixels that were not simply one of them."""
    tiles = [(role, tile) for role, names in split.items() for tile in names]
    lines = -(-(len(classes) + 1 + len(FAULTS)) // legend_columns([*classes, "not scored", *FAULTS]))
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 0.9 + 0.19 * len(tiles) + 0.19 * lines), sharey=True,
                                         gridspec_kw={"width_ratios": [1.7, 1]})
    place = np.arange(len(tiles)) + 0.6 * np.array([list(split).index(role) for role, _ in tiles])  # roles apart
    counts = np.array([[manifest[tile]["classes"][name] for name in classes] for _, tile in tiles], float)
    sizes = np.array([np.prod(manifest[tile]["shape"][:2]) for _, tile in tiles], float)
    shares, start = 100 * counts.T / sizes, np.zeros(len(tiles))
    for (name, colour), share in zip(classes.items(), shares):
        left.barh(place, share, 0.82, start, color=colour, edgecolor="0.45", linewidth=0.3, label=name)
        start += share
    left.barh(place, 100 - start, 0.82, start, color="black", label="not scored")
    left.set(xlim=(0, 100), xlabel="share of the tile's pixels, %", yticks=place,
             yticklabels=[f"{tile if len(tile) <= 40 else tile[:37] + '...'}  {role}" for role, tile in tiles])
    left.invert_yaxis()
    for kind, (colour, marker) in FAULTS.items():
        found = np.array([100 * faults(manifest[tile])[kind] for _, tile in tiles])
        right.plot(np.where(found > 0, np.maximum(found, 1e-4), np.nan), place, marker, color=colour, markersize=4,
                   label=kind, markerfacecolor="none" if kind == "no data" else colour)
    right.set(xscale="log", xlim=(5e-5, 200), xlabel="share of the tile's pixels, %")
    figure.get_layout_engine().set(wspace=0.05)
    right.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    left.grid(axis="y", visible=False)
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
    handles = [*left.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    add_legend(figure, handles)
    save(figure, path)


def legend_columns(names):
    """In how many columns, filled one after the other, a legend of these names fits below a figure of the page's
    width: about 115 letters, a sign and its gaps counted as seven."""
    lengths = [len(name) + 7 for name in names]
    return max(columns for columns in range(1, len(names) + 1)
               if columns == 1 or sum(map(max, np.array_split(lengths, columns))) <= 115)


def add_legend(figure, handles):
    names = [handle.get_label() for handle in handles]
    figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns(names))


def with_only(settings, keys):
    """The settings with every augmentation off but those of `keys`."""
    off = {key: False if key == "views" else [1, 1] if key == "scale" else 0 for key in settings["augment"]}
    return {**settings, "augment": {**off, **{key: settings["augment"][key] for key in keys}}}


def is_on(augment, key):
    return augment[key] != [1, 1] if key == "scale" else bool(augment[key])


def augmented(tiles, settings, plan, keys):
    """The patches of a plan (int32 [N, 8]) with only these augmentations: uint8 [N, P, P, depth], as training cuts
    them."""
    plan, size, chosen = plan.copy(), settings["input"]["patch_size"], with_only(settings, keys)
    if "views" in keys:
        plan[:, 4] = np.arange(len(plan)) % 8  # one of each, to be seen
    if "scale" in keys:
        plan[:, 3] = np.rint(size / np.geomspace(*settings["augment"]["scale"], len(plan)))
        shapes = np.array([tile.shape for tile in tiles])[plan[:, 0]]
        plan[:, 1:3] = np.clip(plan[:, 1:3] + (size - plan[:, 3:4]) // 2, 0, np.maximum(shapes - plan[:, 3:4], 0))
    changes = changes_of(chosen)
    pixels = cut_batch(tiles, plan, size, changes["texture"])
    return recolour(pixels, *draw_colours(pixels, plan[:, SEED], **changes["colour"])) if changes["colour"] else pixels


def draw_augmentation(path, settings):
    """The first eight patches of an epoch: as they are cut, under each augmentation that is on, and under all."""
    data, augment, classes = settings["data"], settings["augment"], settings["data"]["classes"]
    manifest = read_manifest(data["prepared"])
    tiles = [open_prepared(data, tile, manifest) for tile in settings["split"]["train"]]
    plan = plan_epoch(tiles, with_only(settings, ()), epoch=1)[:8]
    on = [key for key in augment if is_on(augment, key)]
    rows = [("as cut", ()), *((key, (key,)) for key in on), *([("all together", on)] if len(on) > 1 else [])]
    strips = []
    for name, keys in rows:
        pixels, bands = augmented(tiles, settings, plan, keys), tiles[0].bands
        strips.append((name, pixels[..., [0, 1, 2] if bands > 2 else [0, 0, 0]]))
        if not keys or "views" in keys or "scale" in keys:  # else the labels are those above
            strips.append(("labels", palette(classes)[pixels[..., bands]]))
    figure, panels = plt.subplots(len(strips), len(plan), figsize=(7.4, 0.9 * len(strips) + 0.4), squeeze=False)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    for panel, (name, pictures) in zip(panels, strips):
        for axes, picture in zip(panel, pictures):
            axes.imshow(picture, interpolation="antialiased")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, linewidth=0.4, color="0.5")
        panel[0].set_ylabel(name, fontsize=7)
    handles = [matplotlib.patches.Patch(facecolor=colour, edgecolor="0.5", label=name)
               for name, colour in {**classes, "not scored": "#000000"}.items()]
    add_legend(figure, handles)
    save(figure, path)
    return [key for key in augment if key not in on]


def tile_pictures(tile, settings, run):
    """{"image", "labels", "prediction", "errors"}: uint8 [h, w, 3] pictures of a test tile, at most report.max_pixels
    long. Errors are magenta on the greyed image; what is not scored is black."""
    data, limit = settings["data"], settings["report"]["max_pixels"]
    prepared = open_prepared(data, tile)
    image, labels = prepared.image, prepared.labels
    step = max(1, -(-max(labels.shape) // limit))
    with open_raster(run / "predictions" / f"{tile}.tif") as source:
        predicted = source.read(1)[::step, ::step]
    labels = np.asarray(labels[::step, ::step])
    colours = palette(data["classes"])
    small = downscale_local_mean(image[..., [0, 1, 2] if image.shape[2] > 2 else [0, 0, 0]], (step, step, 1))
    small = np.clip(small[: labels.shape[0], : labels.shape[1]], 0, 255).astype(np.uint8)
    grey = (0.55 * small.mean(-1, keepdims=True) + 95).astype(np.uint8).repeat(3, -1)
    scored = (labels != IGNORE) & (predicted != IGNORE)
    grey[scored & (labels != predicted)] = (230, 0, 126)
    grey[~scored] = 0
    return {"image": small, "labels": colours[labels], "prediction": colours[predicted], "errors": grey}


def draw_tile(path, tile, pictures, classes, score):
    """Image, labels, prediction and errors of a tile side by side, with the classes' colours."""
    height, width = pictures["image"].shape[:2]
    figure, panels = plt.subplots(2, 2, figsize=(7.4, 7.4 * height / width + 0.75))
    for axes, (name, picture) in zip(panels.flat, pictures.items()):
        axes.imshow(picture, interpolation="antialiased")
        axes.set(xticks=[], yticks=[], title=name)
        axes.spines[:].set(visible=True, linewidth=0.5, color="0.5")
    panels[0, 0].set_title(f"image ({tile})")
    panels[1, 0].set_title(f"prediction: mean IoU {percent(score['mean_iou'])} %, accuracy "
                           f"{percent(score['accuracy'])} %")
    legend = {**classes, "error": "#e6007e"}
    if (pictures["errors"] == 0).all(-1).any():
        legend["not scored"] = "#000000"
    handles = [matplotlib.patches.Patch(facecolor=colour, edgecolor="0.5", label=name)
               for name, colour in legend.items()]
    add_legend(figure, handles)
    save(figure, path)


# -- the page ---------------------------------------------------------------------------------------------------------

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1b1e23; --paper: #fff; --soft: #f3f4f6; --line: #d9dce1; --quiet: #5d6470 }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e6e8eb; --paper: #16181c; --soft: #21242a; --line: #3a3f47; --quiet: #a2a9b4 }} }}
body {{ font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem;
       margin: 0 auto; padding: 1.5rem 1rem 4rem }}
h1 {{ font-size: 1.7rem; margin: 0 0 .3rem }} h2 {{ font-size: 1.2rem; margin: 2.4rem 0 .6rem }}
p.quiet, figcaption, td.quiet {{ color: var(--quiet); font-size: .9rem }}
.scores {{ display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0 }}
.scores div {{ background: var(--soft); border-radius: .5rem; padding: .7rem 1.1rem; flex: 1 1 9rem }}
.scores b {{ display: block; font-size: 1.6rem; font-variant-numeric: tabular-nums }}
.scores span {{ color: var(--quiet); font-size: .85rem }}
.wide {{ overflow-x: auto }}
table {{ border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums }}
th, td {{ text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap }}
th:first-child, td:first-child {{ text-align: left }}
i.key {{ display: inline-block; width: .85em; height: .85em; border: 1px solid #8888; border-radius: 2px;
        margin-right: .5em; vertical-align: -.08em }}
figure {{ margin: 1rem 0 }}
figure img {{ max-width: 100%; height: auto; display: block; margin: auto; background: #fff; border-radius: .4rem }}
pre {{ background: var(--soft); padding: 1rem; border-radius: .5rem; overflow-x: auto; font-size: .8rem }}
</style></head><body>
<h1>{title}</h1>
<p class="quiet">{protocol}</p>
<div class="scores">{headline}</div>
<h2>Scores by class</h2><div class="wide">{table}</div>
{figures}
<h2>Tiles</h2><div class="wide">{tiles}</div>
<h2>Settings</h2><pre>{settings}</pre>
<h2>Provenance</h2><pre>{provenance}</pre>
</body></html>
"""


def percent(value):
    return "-" if value is None else f"{100 * value:.2f}"


def embed(path, caption):
    """A figure as HTML, as wide as on paper at 8 rem an inch, the page's width at most."""
    picture = base64.b64encode(path.read_bytes()).decode()
    inches = plt.imread(path).shape[1] / 200
    text = html.escape(caption)
    return (f'<figure><img src="data:image/png;base64,{picture}" alt="{text}" style="width:{inches * 8:.0f}rem">'
            f"<figcaption>{text}</figcaption></figure>")


def build_table(header, rows):
    """A table; its cells are HTML."""
    cells = [("th", header), *(("td", row) for row in rows)]
    return "<table>" + "".join("<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in row) + "</tr>"
                               for tag, row in cells) + "</table>"


def build_page(settings, metrics, facts, provenance, manifest, pictures):
    """The page as text: headline, scores, figures, tiles, settings, provenance. Every name in it is escaped."""
    classes, left_out = settings["data"]["classes"], metrics["protocol"]["leave_out"]
    full, eroded = metrics["full"], metrics["eroded"]
    without = f" without {', '.join(left_out)}" if left_out else ""
    headline = "".join(f"<div><b>{percent(value)}</b><span>{html.escape(name)}</span></div>" for name, value in (
        (f"mean IoU, {len(classes)} classes", full["mean_iou"]),
        (f"mean IoU{without}, boundaries eroded", eroded["left_out"]["mean_iou"]),
        (f"mean F1{without}, boundaries eroded", eroded["left_out"]["mean_f1"]), ("accuracy", full["accuracy"])))
    each = ("IoU", "F1", "precision", "recall")
    table = build_table(["class, %", *each, *(f"eroded {name}" for name in each), "pixels"], [
        [f'<i class="key" style="background:{html.escape(colour)}"></i>{html.escape(name)}',
         *(percent(scores["classes"][name][score.lower()]) for scores in (full, eroded) for score in each),
         f'{full["classes"][name]["pixels"]:,}'] for name, colour in classes.items()])
    rows = []
    for tile, role in ((tile, role) for role, names in settings["split"].items() for tile in names):
        row, scores = manifest[tile], metrics["tiles"].get(tile)
        height, width, bands = row["shape"]
        unknown = row["pixels"]["labels"]["unknown_colours"]
        often = ", ".join(f"{colour} ({count:,})" for colour, count in unknown.items())
        rows.append([html.escape(tile), role,
                     *(percent(scores[kind]["mean_iou"]) if scores else "" for kind in ("full", "eroded")),
                     *("&lt;0.01" if 0 < share < 5e-5 else percent(share) for share in faults(row).values()),
                     f"{height} x {width} x {bands}", row["dtype"],
                     html.escape(row["georeference"]["crs"] or "none"),
                     f"<code>{html.escape(row['raw']['image']['sha256'][:8])}</code>", html.escape(often) or "-"])
    tiles = build_table(["tile", "role", "mean IoU", "eroded", *(f"{kind} %" for kind in FAULTS), "pixels", "type",
                         "place", "sha256", "most frequent unknown colours"], rows)
    described = {key: value for key, value in provenance.items() if key != "settings"}
    return PAGE.format(
        title=html.escape(settings["report"]["title"]), protocol=html.escape(metrics["protocol"]["text"]),
        headline=headline, table=table, tiles=tiles,
        figures="".join(f"<h2>{html.escape(title)}</h2>" + "".join(embed(*picture) for picture in group)
                        for title, group in pictures.items()),
        settings=html.escape(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)),
        provenance=html.escape(json.dumps({**described, "model": facts}, indent=1, ensure_ascii=False)))


def draw_figures(settings, run, metrics, facts, manifest):
    """Draws every figure; {heading: [(path, caption)]} in the order of the page."""
    folder, classes = run / "figures", settings["data"]["classes"]
    history, chosen = read_columns(run / "history.csv"), facts["epoch"]
    draw_classes(folder / "classes.png", metrics, classes)
    draw_confusion(folder / "confusion.png", metrics["full"], list(classes))
    draw_training(folder / "training.png", history, chosen)
    draw_one_cycle(folder / "one_cycle.png", read_columns(run / "schedule.csv"))
    figures = {
        "Test tiles": [],
        "Classes": [(folder / "classes.png", "IoU and F1 of every class over all test tiles."),
                    (folder / "confusion.png", "Confusion matrix over all test tiles: per cent of the label's pixels, "
                     "and pixels.")],
        "Training": [(folder / "training.png", "Loss, accuracy and mean IoU of every epoch; the checkpoint is epoch "
                      f"{chosen}."),
                     (folder / "one_cycle.png", "The one-cycle policy: learning rate and momentum at every update.")]}
    if (run / "lr_find.png").exists():
        figures["Training"].append((run / "lr_find.png", "The learning-rate range test."))
    draw_audit(folder / "audit.png", settings["split"], manifest, classes)
    off = draw_augmentation(folder / "augmentation.png", settings)
    figures["Data"] = [
        (folder / "audit.png", "What is in the tiles: the classes of their labels (left), and the pixels that were "
         "repaired to the nearest class, are not to be scored, have no known colour, no data in the image, or a value "
         "outside data.scale (right; a "
         "tile without a mark has none, one at the left end stands for that much or less)."),
        (folder / "augmentation.png", "The first patches of an epoch and their labels, as cut and as augmented"
         + (f"; off in these settings: {', '.join(off)}." if off else "."))]
    for tile in settings["split"]["test"]:
        path = folder / f"tile_{tile}.png"
        draw_tile(path, tile, tile_pictures(tile, settings, run), classes, metrics["tiles"][tile]["full"])
        figures["Test tiles"].append((path, f"Tile {tile}: image, labels, prediction, errors."))
        print(f"{tile:>12}  {path}", flush=True)
    return figures


def main(settings, run):
    metrics, facts, provenance = (read_json(run / name) for name in ("metrics.json", "model.json", "run.json"))
    manifest = read_manifest(settings["data"]["prepared"])["tiles"]
    missing = [tile for role in settings["split"].values() for tile in role if tile not in manifest]
    if missing:
        raise Problem(f"tile {', '.join(missing)} in {settings['data']['prepared']}: not prepared, expected it in "
                      "manifest.json; run prepare_data.py again", code=3)
    with only_one(run), plt.rc_context(STYLE):
        pictures = draw_figures(settings, run, metrics, facts, manifest)
        page = build_page(settings, metrics, facts, provenance, manifest, pictures)
        with replacing(run / "report.html") as temporary:
            temporary.write_text(page, encoding="utf-8")
    print(f"report: file://{Path(run / 'report.html').resolve()}")


if __name__ == "__main__":
    command(main, __doc__)
