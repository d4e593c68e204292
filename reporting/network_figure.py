"""The network drawn from the settings of its training."""
import itertools
import math
from typing import NamedTuple

import matplotlib
import matplotlib.pyplot as plt

from base.settings import name_colours
from learning.encoder_tables import DECODER, first_convolutions, levels
from learning.weight_files import FILES
from reporting.charts import BLUE, GREY, RED, save, shorten_name
from reporting.metrics import name_encoder

WIDE, HIGH = 1.9, 0.7  # of a block
LARGEST = 6  # points, of a block's text
TINTS = {"input": "#eef2f8", "head": "#eef2f8", "encoder": "#eef6ec"}  # of blocks, by their names' beginnings
STEPS = {"pool": ("max pooling", GREY, "-"), "stride": ("strided convolution", GREY, "-"),
         "grow": ("transposed convolution", BLUE, "-"), "skip": ("concatenated", RED, "--"),
         "add": ("1 x 1 convolution, added", RED, "--"),
         "contrast": ("strided convolution, added", "#2f7d4f", "--")}
KINDS = {"plain": ("inverted residual", []), "fused": ("fused inverted residual", []),
         "squeezed": ("inverted residual", ["squeeze and excitation"]),
         "convnext": ("ConvNeXt block", [])}  # of learning/encoder_tables.py


class Block(NamedTuple):
    """A block of the network: what is done there, and what comes out."""
    name: str  # of its layers in model.py
    done: list  # lines of text
    channels: int
    scale: int  # pixels of the image to one of the block, along an axis
    step: str | None = None  # from the block before: a key of STEPS; None for the next convolution


def list_blocks(model, bands, classes):
    """The blocks, from the input to the head, that model.py builds from settings["model"] for these bands, a
    list of names, and so many classes. Local contrast that joins a decoder on an encoder is the last."""
    enlarged = ["interpolated"] if model["stem"] > 1 else []
    head = Block("head", ["1 x 1 conv", *enlarged, "softmax"], classes, 1)
    if model.get("encoder", "none") == "none":  # there is no such key in settings of an earlier version
        return [*unet_blocks(model, bands), head]
    beside = []
    if model["local_contrast"]:
        channels = len(bands) * (1 + len(model["local_contrast"]))
        beside = [Block("contrast", ["bands and", *name_contrast(model)], channels, 1)]
    return [*encoder_blocks(model, bands), head, *beside]


def name_contrast(model):
    cells = model["local_contrast"]
    return ["local contrast", f"{' and '.join(map(str, cells))} px"] if cells else []


def unet_blocks(model, bands):
    """The blocks of the residual U-Net, up to the head."""
    stem, concat = model["stem"], model["residual"] == "concat"
    widths = [model["width"] * 2**level for level in range(model["depth"] + 1)]
    pair = ["two 3 x 3 conv", "joined" if concat else "residual added"]
    channels = len(bands) * (1 + len(model["local_contrast"]))
    blocks = [Block("input", ["pixels", *name_contrast(model)], channels, 1)]
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
    return blocks


def encoder_blocks(model, bands):
    """The blocks of a decoder on an encoder, up to the head."""
    encoder, first = levels(model["encoder"]), first_convolutions(model["encoder"])
    seen = f"bands {name_colours(bands, model['rgb'])}"
    blocks = [Block("input", ["red, green, blue:", seen, "normalised"], len(bands), 1)]
    for stride, stages in encoder.items():
        done = name_stages(stages)
        if stride in first:
            done.insert(0, "{0} x {0} conv, strides {1}".format(*first[stride]))
        blocks.append(Block(f"encoder{stride}", done, stages[-1].filters, stride, "stride"))
    for stride in (stride for stride in (16, 8, 4, 2) if stride >= model["stem"]):
        joined = stride in encoder or (stride == model["stem"] and model["local_contrast"])
        done = ["sum, ReLU" if joined else "ReLU", "3 x 3 conv"]
        blocks.append(Block(f"mix{stride}", done, int(model["width"] * DECODER[stride]), stride, "grow"))
    return blocks


def name_stages(stages):
    """The stages of a level in lines of text: how many blocks of each kind, one after the other."""
    lines = []
    for kind, group in itertools.groupby(stages, lambda stage: stage.kind):
        count, (name, more) = sum(stage.repeats for stage in group), KINDS[kind]
        lines += [f"{count} {name}{'s' if count > 1 else ''}", *more]
    return lines


def list_arrows(blocks):
    """[(from, to, step)]: names of blocks, and a key of STEPS or None."""
    way = [block for block in blocks if block.name != "contrast"]
    arrows = [(before.name, block.name, block.step) for before, block in zip(way, way[1:])]
    for begin, end, step in (("down", "up", "skip"), ("encoder", "mix", "add")):
        finer = [block for block in way if block.name.startswith(begin)]
        arrows += [(block.name, other.name, step) for block in finer for other in way
                   if other.name.startswith(end) and other.scale == block.scale]
    if way != blocks:
        arrows += [("input", "contrast", None), ("contrast", way[-2].name, "contrast")]
    return arrows


def list_centres(blocks):
    """{name: (x, y)}: from left to right, coarser ones lower; local contrast above what it joins."""
    way = [block for block in blocks if block.name != "contrast"]
    steps = [2.2 if block.scale == before.scale else 1.1 for before, block in zip(way, way[1:])]
    centres = {block.name: (x, -math.log2(block.scale))
               for block, x in zip(way, itertools.accumulate(steps, initial=0))}
    return centres if way == blocks else {**centres, "contrast": (centres[way[-2].name][0] - 1.1, 0)}


def text_of(block):
    """A block in a few lines."""
    unit = {"input": "channels", "contrast": "channels", "head": "classes"}
    return "\n".join([*block.done, f"{block.channels} {unit.get(block.name, f'channels, 1/{block.scale}')}"])


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


def draw_block(axes, block, centre):
    """A block as a box around its text, which is returned."""
    x, y = centre
    axes.add_patch(matplotlib.patches.FancyBboxPatch(
        (x - WIDE / 2, y - HIGH / 2), WIDE, HIGH, boxstyle="round,pad=0,rounding_size=0.08", linewidth=0.8,
        edgecolor="0.35", facecolor=TINTS.get(block.name.rstrip("0123456789"), "white")))
    return axes.text(x, y, text_of(block), ha="center", va="center", fontsize=LARGEST, linespacing=1.1)


def fit(axes, texts):
    """Makes the texts of all blocks so small that the widest and the highest fit into their boxes."""
    axes.figure.draw_without_rendering()
    extents = [text.get_window_extent() for text in texts]
    (left, low), (right, high) = axes.transData.transform([(0, 0), (WIDE, HIGH)])
    tight = max([extent.width / (right - left) for extent in extents]
                + [extent.height / (high - low) for extent in extents])
    for text in texts:
        text.set_fontsize(LARGEST * min(1, 0.9 / tight))


def draw_network(path, model, facts):
    """The network of settings["model"], whose parameters and operations model.json (`facts`) counts."""
    bands = [*facts["bands"], *(["extra"] if facts["extra"] else [])]
    blocks = list_blocks(model, bands, len(facts["classes"]))
    arrows, centres = list_arrows(blocks), list_centres(blocks)
    right, bottom = (pick(each) for pick, each in zip((max, min), zip(*centres.values())))
    figure, axes = plt.subplots(figsize=(7.4, 0.8 - 0.66 * bottom), dpi=200)
    texts = [draw_block(axes, block, centres[block.name]) for block in blocks]
    for one, other, step in arrows:
        draw_arrow(axes, centres[one], centres[other], step)
    add_key(axes, [STEPS[step] for step in STEPS if step in {step for _, _, step in arrows}],
            any(block.name.startswith("encoder") for block in blocks))
    lines = [shorten_name(words, 40) for words in name_encoder(facts).split(", ") if words]
    lines += [f"{facts['parameters']:,} parameters", f"{facts['gflop_per_patch']:.2f} GFLOP a patch"]
    axes.text(right + WIDE / 2, bottom - HIGH / 2, "\n".join(lines), ha="right", va="bottom", fontsize=7)
    axes.set(xlim=(-WIDE / 2 - 0.1, right + WIDE / 2 + 0.1), ylim=(bottom - HIGH / 2 - 0.1, HIGH / 2 + 0.1))
    axes.set_axis_off()
    fit(axes, texts)
    return save(figure, path)


def add_key(axes, steps, encoder):
    """What the lines of arrows mean and, where there is an `encoder`, the tint of its blocks."""
    handles = [matplotlib.lines.Line2D([], [], color=colour, linestyle=line, label=label)
               for label, colour, line in steps]
    if encoder:
        look = {"facecolor": TINTS["encoder"], "edgecolor": "0.35"}
        handles.append(matplotlib.patches.Patch(**look, label="encoder"))
    axes.legend(handles=handles, loc="lower left", fontsize=6.5)


def describe_network(model, facts):
    """The figure's caption; of an encoder it says which bands it sees, whose weights they were."""
    caption = "The network: what each block does, its channels, and its resolution as a share of the image's."
    encoder = name_encoder(facts)
    if not encoder:
        return caption
    known, seen = FILES[facts["encoder"]], name_colours(facts["bands"], model["rgb"])
    published = (facts.get("weights") or {}).get("source") == "imagenet"
    file = f" ({known.name}, {known.licence})" if published else ""
    return f"{caption} Its encoder is {encoder}{file}; it sees bands {seen} as red, green, blue."
