"""The network drawn from the settings of its training."""
import itertools
import math
from typing import NamedTuple

import matplotlib
import matplotlib.pyplot as plt

from reporting.charts import BLUE, GREY, RED, save

WIDE, HIGH = 1.75, 0.7  # of a block
STEPS = {"pool": ("max pooling", GREY, "-"), "grow": ("transposed convolution", BLUE, "-"),
         "skip": ("concatenated", RED, "--")}


class Block(NamedTuple):
    """A block of the network: what is done there, and what comes out."""
    name: str  # of its layers in model.py
    done: list  # lines of text
    channels: int
    scale: int  # pixels of the image to one of the block, along an axis
    step: str | None = None  # from the block before: a key of STEPS; None for the next convolution


def list_blocks(model, bands, classes):
    """The blocks, in order, that model.py builds from settings["model"] for so many bands and classes."""
    stem, cells, concat = model["stem"], model["local_contrast"], model["residual"] == "concat"
    widths = [model["width"] * 2**level for level in range(model["depth"] + 1)]
    pair = ["two 3 x 3 conv", "joined" if concat else "residual added"]
    contrast = ["local contrast", f"{' and '.join(map(str, cells))} px"] if cells else []
    blocks = [Block("input", ["pixels", *contrast], bands * (1 + len(cells)), 1)]
    if stem > 1:
        blocks.append(Block("stem", [f"{2 * stem} x {2 * stem} conv", f"strides {stem}"], widths[0], stem))
    for level, width in enumerate(widths[:-1]):
        channels = blocks[-1].channels + width if concat else width
        blocks.append(Block(f"down{level}", pair, channels, stem * 2**level, "pool" if level else None))
    skips = [block.channels for block in blocks if block.name.startswith("down")]
    channels = blocks[-1].channels + widths[-1] if concat else widths[-1]
    dilated = ["four 3 x 3 conv", "dilated 1, 2, 4, 8", "joined"], 4 * widths[-1]
    done, channels = (pair, channels) if model["centre"] == "plain" else dilated
    blocks.append(Block("centre", done, channels, stem * 2 ** model["depth"], "pool"))
    for level in reversed(range(model["depth"])):
        channels = 2 * widths[level] + skips[level] if concat else widths[level]
        blocks.append(Block(f"up{level}", pair, channels, stem * 2**level, "grow"))
    return [*blocks, Block("head", ["1 x 1 conv", "softmax"], classes, 1)]


def text_of(block):
    """A block in three or four lines."""
    unit = {"input": "channels", "head": "classes"}.get(block.name, f"channels, 1/{block.scale}")
    return "\n".join([*block.done, f"{block.channels} {unit}"])


def draw_arrow(axes, one, other, step=None):
    """An arrow between the blocks at two centres: across where both are as high, else up or down."""
    (x, y), (u, v) = one, other
    if y == v:
        start, end = (x + WIDE / 2, y), (u - WIDE / 2, v)
    else:
        side = math.copysign(HIGH / 2, v - y)
        start, end = ((x + u) / 2, y + side), ((x + u) / 2, v - side)
    _, colour, line = STEPS.get(step, (None, "0.35", "-"))
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": colour, "linestyle": line,
                                              "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0})


def draw_network(path, model, facts):
    """The network of settings["model"], whose parameters and operations model.json (`facts`) counts."""
    blocks = list_blocks(model, len(facts["bands"]) + facts["extra"], len(facts["classes"]))
    steps = [2.1 if block.scale == before.scale else 1.1 for before, block in zip(blocks, blocks[1:])]
    centres = {block.name: (x, -math.log2(block.scale))  # from left to right, coarser ones lower
               for block, x in zip(blocks, itertools.accumulate(steps, initial=0))}
    right, bottom = centres["head"][0], centres["centre"][1]
    figure, axes = plt.subplots(figsize=(7.4, 0.8 - 0.66 * bottom))
    for block in blocks:
        (x, y), colour = centres[block.name], "#eef2f8" if block.name in ("input", "head") else "white"
        axes.add_patch(matplotlib.patches.FancyBboxPatch(
            (x - WIDE / 2, y - HIGH / 2), WIDE, HIGH, boxstyle="round,pad=0,rounding_size=0.08",
            linewidth=0.8, edgecolor="0.35", facecolor=colour))
        axes.text(x, y, text_of(block), ha="center", va="center", fontsize=5, linespacing=1.1)
    for before, block in zip(blocks, blocks[1:]):
        draw_arrow(axes, centres[before.name], centres[block.name], block.step)
    for level in range(model["depth"]):
        draw_arrow(axes, centres[f"down{level}"], centres[f"up{level}"], "skip")
    handles = [matplotlib.lines.Line2D([], [], color=colour, linestyle=line, label=label)
               for label, colour, line in STEPS.values()]
    axes.legend(handles=handles, loc="lower left", fontsize=6.5)
    cost = f"{facts['parameters']:,} parameters\n{facts['gflop_per_patch']:.2f} GFLOP a patch"
    axes.text(right + WIDE / 2, bottom - HIGH / 2, cost, ha="right", va="bottom", fontsize=7)
    axes.set(xlim=(-WIDE / 2 - 0.1, right + WIDE / 2 + 0.1), ylim=(bottom - HIGH / 2 - 0.1, HIGH / 2 + 0.1))
    axes.set_axis_off()
    return save(figure, path)
