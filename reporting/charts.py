"""Charts from the numbers that the steps wrote, as wide as a page. Each `draw_` function writes one PNG and
returns its path. Classes have the colours of the settings; all else is told apart by form too.
"""
import math
import textwrap

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from base.files import replacing

matplotlib.use("Agg")
BLUE, RED, GREY = "#1f4e8c", "#b5452c", "#8a8f98"
STYLE = {"text.parse_math": False, "font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8,
         "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
         "grid.color": "0.92", "axes.axisbelow": True, "figure.constrained_layout.use": True}
MARKS = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "D"), ("#cc79a7", "^"), ("#e69f00", "v"),
         ("#56b4e9", "P"), ("#000000", "X"))  # of runs: Okabe and Ito's colours
FAULTS = {"repaired": (BLUE, "o"), "ignored": ("0.15", "s"), "unknown": (RED, "D"),
          "no data": ("#b98a00", "^"), "outside scale": ("#2f7d4f", "v"), "outside labels": ("#7a4fa3", "P")}


def style():
    """A context in which every figure looks alike, and no name is read as a formula."""
    return plt.rc_context(STYLE)


def save(figure, path):
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=200)
    plt.close(figure)
    return path


def percent(value):
    return "-" if value is None else f"{100 * value:.2f}"


def shorten_name(name, letters=24):
    """A name of at most so many letters: of a longer one both ends, where names in folders differ."""
    end = (letters - 3) // 2
    return name if len(name) <= letters else f"{name[:letters - 3 - end]}...{name[-end:]}"


def legible(name):
    """A name as a legend's label: matplotlib leaves out those that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name


def legend_columns(names):
    """How many columns of a legend fit the page's width, 115 letters; a sign and its gaps count as 7."""
    lengths, columns = [len(name) + 7 for name in names], len(names)
    while columns > 1 and sum(map(max, np.array_split(lengths, columns))) > 115:
        columns -= 1
    return columns


def add_legend(figure, handles):
    columns = legend_columns([handle.get_label() for handle in handles])
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def draw_pairs(axes, names, colours, values, form):
    """Two bars for each name, the second hatched, and their values in a `form`: float [2, N], NaN: no bar."""
    rows, gap = np.arange(len(names)), 0.009 * axes.get_xlim()[1]
    for lengths, offset, look in zip(values, (-0.19, 0.19), ({}, {"hatch": "////", "alpha": 0.75})):
        axes.barh(rows + offset, lengths, 0.36, color=colours, edgecolor="0.35", linewidth=0.6, **look)
        for y, value in zip(rows + offset, lengths):
            text = form.format(value) if np.isfinite(value) else "-"
            axes.text(np.nan_to_num(value) + gap, y, text, va="center", fontsize=6.5)
    axes.set_yticks(rows, names)
    axes.grid(axis="y", visible=False)


def pair_keys(full, eroded):
    """Legend patches of the two bars of `draw_pairs`."""
    return [matplotlib.patches.Patch(facecolor="white", edgecolor="0.35", hatch=hatch, label=label)
            for hatch, label in (("", full), ("////", eroded))]


# -- training --------------------------------------------------------------------------------------

def draw_finder(path, rates, losses, smoothed, steepest, suggestion):
    """The learning-rate range test: the loss of each update, smoothed, and both suggestions."""
    figure, axes = plt.subplots(figsize=(5.2, 3.5))
    axes.plot(rates, losses, color="0.8", linewidth=0.8, label="loss of each update")
    axes.plot(rates, smoothed, color=BLUE, linewidth=1.8, label="smoothed")
    axes.axvline(suggestion, color=RED, linewidth=1.2, label=f"suggested: {suggestion:.2g}")
    axes.axvline(steepest, color=RED, linestyle=":", linewidth=1.2, label=f"steepest descent: {steepest:.2g}")
    low, high = min(losses.min(), smoothed.min()), losses[: len(losses) // 2 + 1].max()
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss",
             ylim=(low - 0.06 * (high - low), high + 0.15 * (high - low)))
    axes.xaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside lower center", ncols=2)
    return save(figure, path)


def draw_one_cycle(path, schedule):
    """Learning rate, its logarithm, and momentum at every update."""
    figure, panels = plt.subplots(1, 3, figsize=(7.4, 2.4))
    for axes, column, name in zip(panels, ("learning_rate", "learning_rate", "momentum"),
                                  ("learning rate", "learning rate, logarithmic", "momentum")):
        axes.plot(schedule["step"] + 1, schedule[column], color=BLUE)
        axes.set(title=name, xlabel="update")
    panels[1].set_yscale("log")
    panels[1].yaxis.set_major_formatter("{x:g}")  # powers of ten need the mathematics that STYLE switches off
    return save(figure, path)


def draw_training(path, history, best_epoch):
    """Loss, accuracy and mean IoU of every epoch, for training and validation patches."""
    figure, panels = plt.subplots(1, 3, figsize=(7.4, 2.5))
    for axes, column, name in zip(panels, ("loss", "accuracy", "mean_iou"), ("loss", "accuracy", "mean IoU")):
        for key, colour, label in ((column, GREY, "training"), ("val_" + column, BLUE, "validation")):
            axes.plot(history["epoch"], history[key], color=colour, marker="o", markersize=2, label=label)
        axes.axvline(best_epoch, color=RED, linewidth=1, linestyle=":", label="checkpoint")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        axes.set(title=name, xlabel="epoch", ylim=(0, 1) if column != "loss" else (0, None))
    panels[0].legend()
    return save(figure, path)


# -- scores ----------------------------------------------------------------------------------------

def draw_confusion(path, scores, names):
    """The confusion matrix: share of each row's labels, and pixels."""
    counts = np.array(scores["confusion"], float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 1.6 + 0.72 * len(names)
    figure, axes = plt.subplots(figsize=(side + 0.6, side - 0.2))
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    middle = {"ha": "center", "va": "center"}
    for (row, col), share in np.ndenumerate(shares):
        strong, faint = ("white", "white") if share > 0.55 else ("black", "0.4")
        axes.text(col, row, f"{100 * share:.1f}\n", fontsize=8, color=strong, **middle)
        axes.text(col, row, f"\n{shorten(counts[row, col])}", fontsize=6, color=faint, **middle)
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="label")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    figure.colorbar(picture, shrink=0.7, label="share of the label's pixels")
    return save(figure, path)


def shorten(count):
    """1234567 as 1.2M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f}{letter}"
    return f"{count:.0f}"


def draw_classes(path, metrics, classes):
    """IoU and F1 of every class, on all labelled pixels and without class boundaries."""
    figure, panels = plt.subplots(1, 2, figsize=(7.4, 0.9 + 0.36 * len(classes)), sharey=True)
    for axes, score, title in zip(panels, ("iou", "f1"), ("IoU", "F1")):
        values = [[metrics[kind]["classes"][name][score] for name in classes] for kind in ("full", "eroded")]
        axes.set(xlim=(0, 1.12), title=title)
        draw_pairs(axes, list(classes), list(classes.values()), np.array(values, float), "{:.3f}")
    panels[0].invert_yaxis()
    add_legend(figure, pair_keys("all labelled pixels", "without class boundaries"))
    return save(figure, path)


def draw_gains(path, gains, classes):
    """The gain ledger as a table in colours: the first IoU, the points that each step adds, the last IoU."""
    iou = 100 * np.array([[step["classes"][name] for step in gains] for name in classes], float)
    common = np.isfinite(iou).all(1)  # in every step: the others would make the means differ by themselves
    mean = iou[common].mean(0) if common.any() else np.full(len(gains), np.nan)
    iou = np.vstack([iou, mean])
    added = np.diff(iou)
    names = [*classes, "mean" if common.all() else f"mean of {common.sum()}"]
    figure, axes = plt.subplots(figsize=(7.4, 1.5 + 0.3 * len(names)))
    limit = 1.6 * max(1, np.nanmax(np.abs(added), initial=0))
    coloured = np.pad(added, ((0, 0), (1, 1)), constant_values=np.nan)
    axes.imshow(coloured, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for row, name in enumerate(names):
        numbers = [f"{iou[row, 0]:.2f}", *(f"{value:+.2f}" for value in added[row]), f"{iou[row, -1]:.2f}"]
        for col, number in enumerate(numbers):
            axes.text(col, row, "-" if "nan" in number else number, ha="center", va="center", fontsize=8,
                      fontweight="bold" if row == len(classes) else "normal")
    axes.set_xticks(range(len(gains) + 1), [*name_steps(gains), "together"], fontsize=7)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(names)), names)
    axes.axhline(len(classes) - 0.5, color="0.3", linewidth=0.8)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return save(figure, path)


def name_steps(gains):
    """The heads of the gain ledger's columns: what each step adds, and its seconds where they are known."""
    heads = []
    for step in gains:
        text = f"+ {step['step']}" if heads else step["step"]
        seconds = "" if step["seconds_per_tile"] is None else f"\n({step['seconds_per_tile']:.3g} s a tile)"
        heads.append(textwrap.fill(text, 124 // (len(gains) + 1)) + seconds)
    return heads


def draw_boundary(path, rows, radius):
    """Errors by distance to the class boundary, and the scores beyond it; `radius`: of the eroded scores."""
    pixels, keys = [row["pixels"] for row in rows], ("share", "error", "accuracy_beyond", "mean_iou_beyond")
    share, error, accuracy, mean_iou = 100 * np.array([[row[key] for row in rows] for key in keys], float)
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 2.6))
    left.bar(pixels[1:], share[1:], color="0.85", width=0.8, label="of all pixels")
    left.plot(pixels[1:], error[1:], color=BLUE, marker="o", markersize=3, label="wrong, of the pixels there")
    left.set(xlabel="distance to the class boundary, px", ylabel="share, %", ylim=(0, None))
    right.plot(pixels, accuracy, color=GREY, marker="s", markersize=3, label="accuracy")
    right.plot(pixels, mean_iou, color=BLUE, marker="o", markersize=3, label="mean IoU")
    right.set(xlabel="border left out, px", ylabel="score, %")
    for axes in (left, right):
        axes.axvline(radius, color=RED, linestyle=":", linewidth=1, label=f"{radius} px, the eroded scores")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        axes.legend()
    return save(figure, path)


def draw_reliability(path, calibration):
    """The share of right pixels against their confidence, over how many pixels there are; a line shows the
    same without the network's temperature, where that is known."""
    bins = {key: np.array([row[key] for row in calibration["bins"]], float) for key in calibration["bins"][0]}
    width, middle = bins["high"] - bins["low"], (bins["low"] + bins["high"]) / 2
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(3.9, 4.1), sharex=True, height_ratios=[3, 1])
    top.bar(middle, bins["accuracy"], 0.94 * width, color=BLUE, label="right")
    top.plot([0, 1], [0, 1], color=RED, linewidth=1.2, linestyle="--", label="as sure as right")
    title, before = f"expected calibration error {in_percent(calibration)}", calibration["before"]
    if before and calibration["temperature"] != 1:
        rows = [row for row in before["bins"] if row["pixels"]]
        top.plot([row["confidence"] for row in rows], [row["accuracy"] for row in rows], color="0.15",
                 marker="o", markersize=3, linewidth=1, label="at temperature 1")
        title += f"\nat temperature {calibration['temperature']:g}, {in_percent(before)} at 1"
    top.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title=title)
    top.legend(loc="upper left")
    bottom.bar(middle, 100 * bins["pixels"] / max(1, bins["pixels"].sum()), 0.94 * width, color=GREY)
    bottom.set(xlabel="confidence: the probability of the predicted class", ylabel="pixels, %",
               yscale="symlog")
    bottom.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    return save(figure, path)


def in_percent(calibration):
    """An expected calibration error as text."""
    error = calibration["expected_calibration_error"]
    return "-" if error is None else f"{100 * error:.2f} %"


def draw_runs(path, runs):
    """Several runs, {name: metrics}: mean IoU of each, and IoU of every class on all labelled pixels."""
    classes = list(dict.fromkeys(name for metrics in runs.values() for name in metrics["full"]["classes"]))
    rows = max(len(runs) + 1, len(classes))
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 1.1 + 0.27 * rows), width_ratios=[1, 1.3])
    looks = [MARKS[i % len(MARKS)] for i in range(len(runs))]
    means = [[metrics["full"]["mean_iou"] for metrics in runs.values()],
             [metrics["eroded"]["left_out"]["mean_iou"] for metrics in runs.values()]]
    left.set(xlim=(0, 118), xlabel="mean IoU, %")
    draw_pairs(left, list(runs), [colour for colour, _ in looks], 100 * np.array(means, float), "{:.2f}")
    left.invert_yaxis()
    for (name, metrics), (colour, mark) in zip(runs.items(), looks):
        scores = metrics["full"]["classes"]
        values = 100 * np.array([scores.get(each, {}).get("iou") for each in classes], float)  # None is NaN
        look = {"color": colour, "markersize": 5, "alpha": 0.85, "label": legible(name)}
        right.plot(values, range(len(classes)), mark, **look)
    right.set(xlim=(0, 102), xlabel="IoU, %", yticks=range(len(classes)), yticklabels=classes)
    right.invert_yaxis()
    keys = pair_keys("all labelled pixels, all classes", "without class boundaries and left-out classes")
    add_legend(figure, [*keys, *right.get_legend_handles_labels()[0]])
    return save(figure, path)


# -- tiles -----------------------------------------------------------------------------------------

def faults(row):
    """{kind of FAULTS: share of a tile's pixels, of a block's those of its raster} of its manifest row;
    outside scale: of the worst band."""
    pixels, total = row["pixels"]["labels"], math.prod(row.get("audited", row["shape"][:2]))
    return {**{kind: pixels[kind] / total for kind in ("repaired", "ignored", "unknown")},
            "outside labels": row["off_grid"].get("labels", 0) / total,
            "no data": row["nodata"] / total, "outside scale": max(row["outside_scale"]) / total}


def draw_audit(path, split, manifest, classes):
    """The classes of every tile, and the shares of its label pixels that were not simply one of them."""
    tiles = [(role, tile) for role, names in split.items() for tile in names]
    rows, roles = [manifest[tile] for _, tile in tiles], list(split)
    heights = np.array([i + 0.6 * roles.index(role) for i, (role, _) in enumerate(tiles)])  # roles apart
    entries = [*classes, "not scored", *FAULTS]
    lines = len(tiles) + math.ceil(len(entries) / legend_columns(entries))
    size = (7.4, 0.9 + 0.19 * lines)
    figure, (left, right) = plt.subplots(1, 2, figsize=size, sharey=True, width_ratios=[1.7, 1])
    draw_shares(left, heights, rows, classes)
    draw_faults(right, heights, rows)
    left.set_yticks(heights, [f"{shorten_name(tile, 40)}  {role}" for role, tile in tiles])
    left.invert_yaxis()
    left.grid(axis="y", visible=False)
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
    figure.get_layout_engine().set(wspace=0.05)
    add_legend(figure, [handle for axes in (left, right) for handle in axes.get_legend_handles_labels()[0]])
    return save(figure, path)


def draw_shares(axes, heights, rows, classes):
    """A bar for each tile: the shares of its classes, and of the pixels that are not scored."""
    start = np.zeros(len(rows))
    for name, colour in classes.items():
        share = np.array([100 * row["classes"][name] / (row["shape"][0] * row["shape"][1]) for row in rows])
        look = {"edgecolor": "0.45", "linewidth": 0.3, "label": legible(name)}
        axes.barh(heights, share, 0.82, start, color=colour, **look)
        start += share
    axes.barh(heights, 100 - start, 0.82, start, color="black", label="not scored")
    axes.set(xlim=(0, 100), xlabel="share of the tile's pixels, %")


def draw_faults(axes, heights, rows):
    """A mark for each tile and kind of FAULTS that it has."""
    for kind, (colour, marker) in FAULTS.items():
        shares = np.array([100 * faults(row)[kind] for row in rows])
        shares = np.where(shares > 0, np.maximum(shares, 1e-4), np.nan)
        axes.plot(shares, heights, marker, color=colour, markersize=4, label=kind,
                  markerfacecolor="none" if kind == "no data" else colour)
    axes.set(xscale="log", xlim=(5e-5, 200), xlabel="share of the tile's pixels, %")
    axes.xaxis.set_major_formatter("{x:g}")
