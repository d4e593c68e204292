"""Charts from the numbers that the steps wrote: curves, bars and diagrams, at 200 dpi, as wide as a page.

Each `draw_` function writes one PNG. Classes have the colours of the settings; all else is told apart by form too.
"""
import textwrap

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from base.files import replacing

matplotlib.use("Agg")
BLUE, RED, GREY = "#1f4e8c", "#b5452c", "#8a8f98"
STYLE = {"text.parse_math": False, "font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8, "legend.frameon": False,
         "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "axes.grid": True,
         "grid.color": "0.92", "axes.axisbelow": True, "figure.constrained_layout.use": True}


def style():
    """A context in which every figure looks alike, and no name is read as a formula."""
    return plt.rc_context(STYLE)


def save(figure, path):
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=200)
    plt.close(figure)


def percent(value):
    return "-" if value is None else f"{100 * value:.2f}"


def shorten_name(name, letters=24):
    return name if len(name) <= letters else name[: letters - 3] + "..."


def legible(name):
    """A name as a legend's label: matplotlib leaves out those that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name


def legend_columns(names):
    """In how many columns, filled one after the other, a legend of these names fits below a figure of the page's
    width: about 115 letters, a sign and its gaps counted as seven."""
    lengths = [len(name) + 7 for name in names]
    return max(columns for columns in range(1, len(names) + 1)
               if columns == 1 or sum(map(max, np.array_split(lengths, columns))) <= 115)


def add_legend(figure, handles):
    names = [handle.get_label() for handle in handles]
    figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns(names))


# -- training ---------------------------------------------------------------------------------------------------------

def draw_finder(path, rates, losses, smoothed, steepest, suggestion):
    """The learning-rate range test: the loss of each update, smoothed, and both suggestions."""
    figure, axes = plt.subplots(figsize=(5.2, 3.5))
    axes.plot(rates, losses, color="0.8", linewidth=0.8, label="loss of each update")
    axes.plot(rates, smoothed, color=BLUE, linewidth=1.8, label="smoothed")
    for rate, label, line in ((suggestion, "valley / 10, suggested", "-"), (steepest, "steepest descent", ":")):
        axes.axvline(rate, color=RED, linestyle=line, linewidth=1.2, label=f"{label}: {rate:.2g}")
    low, high = min(losses.min(), smoothed.min()), losses[: len(losses) // 2 + 1].max()
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss",
             ylim=(low - 0.06 * (high - low), high + 0.15 * (high - low)))
    axes.xaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside lower center", ncols=2)
    save(figure, path)


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


# -- scores -----------------------------------------------------------------------------------------------------------

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


def draw_gains(path, gains, classes):
    """The gain ledger as a table in colours: the first way's IoU, what each further step adds in points, the last's."""
    columns = np.array([[step["classes"][name] for name in classes] for step in gains], float).T
    common = np.isfinite(columns).all(1)  # in every step: the others would make the means differ by themselves
    columns = np.vstack([columns, columns[common].mean(0) if common.any() else np.full(len(gains), np.nan)])
    added = 100 * np.diff(columns)
    names = [*classes, "mean" if common.all() else f"mean of {common.sum()}"]
    steps = [step["step"] for step in gains]
    figure, axes = plt.subplots(figsize=(7.4, 1.5 + 0.3 * len(names)))
    shown = np.column_stack([np.full(len(names), np.nan), added, np.full(len(names), np.nan)])
    limit = max(1, np.nanmax(np.abs(added), initial=0))
    axes.imshow(np.ma.masked_invalid(shown), cmap="RdBu", vmin=-1.6 * limit, vmax=1.6 * limit, aspect="auto")
    for row, (values, differences) in enumerate(zip(100 * columns, added)):
        texts = [f"{values[0]:.2f}", *(f"{value:+.2f}" for value in differences), f"{values[-1]:.2f}"]
        for col, text in enumerate(texts):
            axes.text(col, row, text.replace("nan", "-").replace("+-", "-"), ha="center", va="center", fontsize=8,
                      fontweight="bold" if row == len(names) - 1 else "normal")
    labels = [textwrap.fill(("" if i == 0 else "+ ") + step, 124 // (len(steps) + 1)) for i, step in enumerate(steps)]
    seconds = [step["seconds_per_tile"] for step in gains]
    labels = [label + ("" if taken is None else f"\n({taken:.3g} s a tile)") for label, taken in zip(labels, seconds)]
    axes.set_xticks(range(len(steps) + 1), [*labels, "together"], fontsize=7)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(names)), names)
    axes.axhline(len(names) - 1.5, color="0.3", linewidth=0.8)
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    save(figure, path)


def draw_boundary(path, rows, radius):
    """Errors by distance to the class boundary, and the scores of what lies beyond each distance; `radius` is that of
    the eroded scores."""
    columns = {key: np.array([row[key] for row in rows], float) for key in rows[0]}
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 2.6))
    left.bar(columns["pixels"][1:], 100 * columns["share"][1:], color="0.85", width=0.8, label="of all pixels")
    left.plot(columns["pixels"][1:], 100 * columns["error"][1:], color=BLUE, marker="o", markersize=3,
              label="wrong, of the pixels there")
    left.set(xlabel="distance to the class boundary, px", ylabel="share, %", ylim=(0, None))
    for key, colour, marker, label in (("accuracy_beyond", GREY, "s", "accuracy"),
                                       ("mean_iou_beyond", BLUE, "o", "mean IoU")):
        right.plot(columns["pixels"], 100 * columns[key], color=colour, marker=marker, markersize=3, label=label)
    right.set(xlabel="border left out, px", ylabel="score, %")
    for axes in (left, right):
        axes.axvline(radius, color=RED, linestyle=":", linewidth=1, label=f"{radius} px, the eroded scores")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        axes.legend()
    save(figure, path)


def draw_reliability(path, calibration):
    """Share that is right of the pixels of each confidence, against the confidence, over how many they are."""
    bins = {key: np.array([row[key] for row in calibration["bins"]], float) for key in calibration["bins"][0]}
    width, middle = bins["high"] - bins["low"], (bins["low"] + bins["high"]) / 2
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(3.9, 4.1), sharex=True, height_ratios=[3, 1])
    top.bar(middle, bins["accuracy"], 0.94 * width, color=BLUE, label="right")
    top.plot([0, 1], [0, 1], color=RED, linewidth=1.2, linestyle="--", label="as sure as right")
    error = calibration["expected_calibration_error"]
    top.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1),
            title=f"expected calibration error {'-' if error is None else f'{100 * error:.2f} %'}")
    top.legend(loc="upper left")
    bottom.bar(middle, 100 * bins["pixels"] / max(1, bins["pixels"].sum()), 0.94 * width, color=GREY)
    bottom.set(xlabel="confidence: the probability of the predicted class", ylabel="pixels, %", yscale="symlog")
    bottom.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    save(figure, path)


MARKS = list(zip(("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"),  # Okabe and Ito's
                 "osD^vPX"))


def draw_runs(path, runs):
    """Scores of several runs, {name: metrics}: mean IoU of each, and IoU of every class on all labelled pixels."""
    names = list(dict.fromkeys(name for metrics in runs.values() for name in metrics["full"]["classes"]))
    rows = max(len(runs) + 1, len(names))
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 1.1 + 0.27 * rows), width_ratios=[1, 1.3])
    place = np.arange(len(runs))
    for kind, offset, look in (("full", -0.19, {}), ("eroded", 0.19, {"hatch": "////", "alpha": 0.75})):
        scores = [metrics[kind] if kind == "full" else metrics[kind]["left_out"] for metrics in runs.values()]
        values = 100 * np.array([score["mean_iou"] for score in scores], float)
        left.barh(place + offset, values, 0.36, color=[MARKS[i % len(MARKS)][0] for i in place], edgecolor="0.35",
                  linewidth=0.6, **look)
        for y, value in zip(place + offset, values):
            left.text(value + 1 if np.isfinite(value) else 1, y, f"{value:.2f}".replace("nan", "-"), va="center",
                      fontsize=6.5)
    left.set(xlim=(0, 118), xlabel="mean IoU, %", yticks=place, yticklabels=list(runs))
    left.grid(axis="y", visible=False)
    left.invert_yaxis()
    for i, (run, metrics) in enumerate(runs.items()):
        colour, mark = MARKS[i % len(MARKS)]
        values = [100 * metrics["full"]["classes"][name]["iou"] if metrics["full"]["classes"].get(name, {}).get("iou")
                  is not None else np.nan for name in names]
        right.plot(values, range(len(names)), mark, color=colour, markersize=5, label=legible(run), alpha=0.85)
    right.set(xlim=(0, 102), xlabel="IoU, %", yticks=range(len(names)), yticklabels=names)
    right.invert_yaxis()
    handles = [matplotlib.patches.Patch(facecolor="white", edgecolor="0.35", hatch=hatch, label=label) for hatch, label
               in (("", "all labelled pixels, all classes"), ("////", "without class boundaries and left-out classes"))]
    add_legend(figure, [*handles, *right.get_legend_handles_labels()[0]])
    save(figure, path)


# -- tiles ------------------------------------------------------------------------------------------------------------

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
        left.barh(place, share, 0.82, start, color=colour, edgecolor="0.45", linewidth=0.3, label=legible(name))
        start += share
    left.barh(place, 100 - start, 0.82, start, color="black", label="not scored")
    left.set(xlim=(0, 100), xlabel="share of the tile's pixels, %", yticks=place,
             yticklabels=[f"{shorten_name(tile, 40)}  {role}" for role, tile in tiles])
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
