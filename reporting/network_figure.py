"""The network drawn from the configuration inside model.keras.
"""
import json
import re
import zipfile
import zlib

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from base.problem import Problem
from reporting.charts import BLUE, GREY, RED, save

BLOCK = re.compile(r"^(stem|down\d+|centre|up\d+|pool\d+|grow\d+|skip\d+)")  # as model.py names its layers
STEPS = {"pool": ("max pooling", GREY, "-"), "grow": ("transposed convolution", BLUE, "-"),
         "skip": ("concatenated", RED, "--")}


def sources_of(nodes):
    """[(layer, channels)] of the tensors that a layer of a Keras configuration is called on."""
    if isinstance(nodes, dict) and nodes.get("class_name") == "__keras_tensor__":
        return [(nodes["config"]["keras_history"][0], nodes["config"]["shape"][-1])]
    parts = nodes.values() if isinstance(nodes, dict) else nodes if isinstance(nodes, list) else []
    return [source for part in parts for source in sources_of(part)]


def read_network(path):
    """The blocks of a model.keras in their order, {name: {"scale", "channels", "parameters", "layers"}}, from the
    configuration inside: no Keras. `scale` is how many pixels of the image one of the block covers along an axis.
    Problem (exit 3) where the file is damaged or no network of model.py."""
    try:
        with zipfile.ZipFile(path) as whole:
            layers = json.loads(whole.read("config.json"))["config"]["layers"]
        scale, channels, blocks = {}, {}, {}
        for layer in layers:
            kind, name, config, sources = (layer["class_name"], layer["name"], layer["config"],
                                           sources_of(layer["inbound_nodes"]))
            channels.update(sources)
            scale[name] = max((scale[source] for source, _ in sources), default=1)
            if kind in ("Conv2D", "MaxPooling2D", "AveragePooling2D"):
                scale[name] *= config["strides"][0]
            if kind in ("Conv2DTranspose", "UpSampling2D"):
                scale[name] /= config.get("strides", config.get("size"))[0]
            parameters = 0
            if kind in ("Conv2D", "Conv2DTranspose"):
                inside = layer["build_config"]["input_shape"][-1]
                parameters = config["filters"] * (int(np.prod(config["kernel_size"])) * inside + config["use_bias"])
            elif kind == "BatchNormalization":
                parameters = 4 * layer["build_config"]["input_shape"][-1]
            found = BLOCK.match(name)
            block = found[0] if found else "head" if blocks.keys() & {"up0"} else "input"
            about = blocks.setdefault(block, {"parameters": 0, "layers": []})
            about["parameters"] += parameters
            about["layers"].append({"class": kind, "name": name, **config})
        for about in blocks.values():
            last = about["layers"][-1]
            about.update(scale=scale[last["name"]], channels=channels.get(last["name"], last.get("filters")))
        blocks["head"]["channels"] = channels["logits"]
        return blocks
    except FileNotFoundError:
        raise Problem(f"model {path}: no such file, expected a finished training; run train.py", code=3) from None
    # NotImplementedError, RuntimeError: zipfile, of a format that it does not know and of a password
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, ValueError, KeyError, TypeError,
            IndexError, AttributeError):
        raise Problem(f"model {path}: damaged, or not a network of model.py, expected one; run train.py again",
                      code=3) from None


def describe_block(name, about):
    """A block in four lines: what is done, and what comes out."""
    convolutions = [layer for layer in about["layers"] if layer["class"] == "Conv2D"
                    and not layer["name"].endswith("_project")]
    if name == "input":
        cells = [layer["pool_size"][0] for layer in about["layers"] if re.match(r"^bright\d+_cells$", layer["name"])]
        return ["pixels", *(["local contrast", " and ".join(map(str, cells)) + " px"] if cells else []),
                f"{about['channels']} channels"]
    if name == "head":
        return ["1 x 1 conv", "softmax", f"{about['channels']} classes"]
    size = " x ".join(map(str, convolutions[0]["kernel_size"]))
    dilations = [layer["dilation_rate"][0] for layer in convolutions]
    text = [{1: "", 2: "two ", 4: "four "}[len(convolutions)] + f"{size} conv"]
    if max(dilations) > 1:
        text.append("dilated " + ", ".join(map(str, dilations)))
    strides = max(layer["strides"][0] for layer in convolutions)
    joins = {layer["class"] for layer in about["layers"] if layer["name"].endswith("_join")}
    text += [f"strides {strides}"] * (strides > 1) + ["residual added"] * ("Add" in joins) + (
        ["joined"] * ("Concatenate" in joins))
    return [*text, f"{about['channels']} channels, 1/{about['scale']:g}"]


def draw_network(path, network):
    """The network as its file has it: blocks in order from left to right, coarser ones lower."""
    blocks = {name: about for name, about in network.items() if not re.match(r"^(pool|grow|skip)", name)}
    order = ["input", *(["stem"] if "stem" in blocks else []), *sorted(b for b in blocks if b.startswith("down")),
             "centre", *sorted((b for b in blocks if b.startswith("up")), reverse=True), "head"]
    place, wide, high = {}, 1.75, 0.7
    for before, name in zip([None, *order], order):
        y = -np.log2(blocks[name]["scale"])
        x = 0 if before is None else place[before][0] + (1.1 if y != place[before][1] else 2.1)
        place[name] = x, y
    right, bottom = place["head"][0], min(y for _, y in place.values())
    figure, axes = plt.subplots(figsize=(7.4, 0.8 - 0.66 * bottom))
    for name, (x, y) in place.items():
        axes.add_patch(matplotlib.patches.FancyBboxPatch((x - wide / 2, y - high / 2), wide, high, linewidth=0.8,
                                                         boxstyle="round,pad=0,rounding_size=0.08", edgecolor="0.35",
                                                         facecolor="#eef2f8" if name in ("input", "head") else "white"))
        axes.text(x, y, "\n".join(describe_block(name, blocks[name])), ha="center", va="center", fontsize=5,
                  linespacing=1.1)

    def arrow(start, end, kind=None):
        _, colour, line = STEPS.get(kind, (None, "0.35", "-"))
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": colour, "linestyle": line,
                                                  "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0})

    for one, other in zip(order, order[1:]):
        (x, y), (u, v) = place[one], place[other]
        if y == v:
            arrow((x + wide / 2, y), (u - wide / 2, v))
        else:
            kind = "grow" if other.startswith("up") else "pool" if one.startswith("down") else None
            side = np.sign(v - y) * high / 2
            arrow(((x + u) / 2, y + side), ((x + u) / 2, v - side), kind)
        if one.startswith("down"):
            u = place[one.replace("down", "up")][0]
            arrow((x + wide / 2, y), (u - wide / 2, y), "skip")
    handles = [matplotlib.lines.Line2D([], [], color=colour, linestyle=line, label=label)
               for label, colour, line in STEPS.values()]
    axes.legend(handles=handles, loc="lower left", fontsize=6.5)
    total = sum(about["parameters"] for about in network.values())
    axes.text(right + wide / 2, bottom - high / 2, f"{total:,} parameters", ha="right", va="bottom", fontsize=7)
    axes.set(xlim=(-wide / 2 - 0.1, right + wide / 2 + 0.1), ylim=(bottom - high / 2 - 0.1, high / 2 + 0.1))
    axes.set_axis_off()
    save(figure, path)
