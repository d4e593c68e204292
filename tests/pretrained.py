"""A small encoder in the place of EfficientNet-Lite0, and its weights as PyTorch writes them."""

import math
import zlib
from pathlib import Path

import numpy as np
from test_torch_files import state_of, tensor, write

from learning.encoder_tables import INVERTED, Inverted, Stage

LITE0 = "efficientnet_lite0"
STAGES = [  # of kind, expansion, filters, repeats, kernel, stride, activation
    Stage("plain", 1, 8, 1, 3, 1, "relu6"),
    Stage("plain", 2, 8, 2, 3, 2, "relu6"),
    *(Stage("plain", 1, 8, 1, 3, 2, "relu6") for _ in range(3)),
]
SMALL = Inverted(None, (127,) * 3, (128,) * 3, 8, "relu6", (), STAGES)


def blocks():
    """(expands, inputs, inside, filters, kernel) of each block of the small encoder."""
    inputs = SMALL.stem
    for stage in STAGES:
        for _ in range(stage.repeats):
            yield stage.expansion > 1, inputs, inputs * stage.expansion, stage.filters, stage.kernel
            inputs = stage.filters


def shapes_of_norm(name, filters):
    return {f"{name}.{part}": (filters,) for part in ("weight", "bias", "running_mean", "running_var")}


def shapes_of_small():
    """{tensor: shape} of the state dict of the small encoder, as its authors' PyTorch code has them."""
    shapes = {"_conv_stem.weight": (SMALL.stem, 3, 3, 3), **shapes_of_norm("_bn0", SMALL.stem)}
    for i, (expands, inputs, inside, filters, kernel) in enumerate(blocks()):
        block = f"_blocks.{i}"
        if expands:
            shapes |= {f"{block}._expand_conv.weight": (inside, inputs, 1, 1)}
            shapes |= shapes_of_norm(f"{block}._bn0", inside)
        shapes |= {f"{block}._depthwise_conv.weight": (inside, 1, kernel, kernel)}
        shapes |= shapes_of_norm(f"{block}._bn1", inside)
        shapes |= {f"{block}._project_conv.weight": (filters, inside, 1, 1)}
        shapes |= shapes_of_norm(f"{block}._bn2", filters)
    return shapes


def write_small_encoder(path, seed=0):
    """Writes a state dict of random numbers. Returns {tensor: array}."""
    rng, state, storages = np.random.default_rng(seed), {}, {}
    for name, shape in shapes_of_small().items():
        numbers = rng.normal(0, 0.3, shape).astype("<f4")
        if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            numbers = 1 + abs(numbers)
        key = str(zlib.crc32(name.encode()))
        strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
        state[name] = tensor("Float", key, numbers.size, 0, shape, strides)
        storages[key] = numbers
    write(Path(path), state_of(state), {key: numbers.ravel() for key, numbers in storages.items()})
    return dict(zip(state, storages.values()))


def on_small_encoder(monkeypatch, settings):
    """Settings of a network on the small encoder, drawn at random."""
    monkeypatch.setitem(INVERTED, LITE0, SMALL)
    settings["model"].update(encoder=LITE0, weights="none", stem=4)
    settings["train"].update(optimizer="adamw", max_lr=0.01, weight_decay=0.05)
    return settings
