"""What the encoders and the decoder over them are made of, in numbers, for what builds them and what draws
them. Four encoders consist of inverted residuals, one is a ConvNeXt. learning/encoders.py names the papers.
"""
from typing import NamedTuple

IMAGENET = (0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)
DECODER = {2: 1, 4: 1.5, 8: 2, 16: 3}  # filters of the decoder on an encoder at each stride, in widths


class Stage(NamedTuple):
    """Blocks in a row; the first one strides, and changes the number of filters."""
    kind: str  # plain: inverted residuals; squeezed: with squeeze and excitation; fused: expanded by a kernel
    expansion: float  # filters inside a block to those of its input
    filters: int
    repeats: int
    kernel: int
    stride: int
    activation: str


class Inverted(NamedTuple):
    """An encoder of inverted residuals."""
    application: str | None  # its name in keras.applications
    mean: tuple  # of red, green, blue, 0..255
    deviation: tuple
    stem: int  # filters
    activation: str  # of the stem
    gate: tuple  # activations of squeeze and excitation
    stages: list


def stages(activation, *rows):
    return [Stage(*row, activation) for row in rows]


def efficientnet_v2(application, stem, filters, repeats):
    rows = [("fused", 1, 3, 1), ("fused", 4, 3, 2), ("fused", 4, 3, 2),
            ("squeezed", 4, 3, 2), ("squeezed", 6, 3, 1), ("squeezed", 6, 3, 2)]
    rows = [(kind, expansion, width, times, kernel, stride)
            for (kind, expansion, kernel, stride), width, times in zip(rows, filters, repeats)]
    return Inverted(application, *IMAGENET, stem, "swish", ("swish", "sigmoid"), stages("swish", *rows))


INVERTED = {
    "efficientnet_lite0": Inverted(None, (127,) * 3, (128,) * 3, 32, "relu6", (), stages(
        "relu6", ("plain", 1, 16, 1, 3, 1), ("plain", 6, 24, 2, 3, 2), ("plain", 6, 40, 2, 5, 2),
        ("plain", 6, 80, 3, 3, 2), ("plain", 6, 112, 3, 5, 1), ("plain", 6, 192, 4, 5, 2),
        ("plain", 6, 320, 1, 3, 1))),
    "mobilenet_v3_large": Inverted(
        "MobileNetV3Large", (127.5,) * 3, (127.5,) * 3, 16, "hard_swish", ("relu", "hard_sigmoid"), [
            *stages("relu", ("plain", 1, 16, 1, 3, 1), ("plain", 4, 24, 1, 3, 2), ("plain", 3, 24, 1, 3, 1),
                    ("squeezed", 3, 40, 3, 5, 2)),
            *stages("hard_swish", ("plain", 6, 80, 1, 3, 2), ("plain", 2.5, 80, 1, 3, 1),
                    ("plain", 2.3, 80, 2, 3, 1), ("squeezed", 6, 112, 2, 3, 1),
                    ("squeezed", 6, 160, 3, 5, 2))]),
    "efficientnet_v2_b0": efficientnet_v2("EfficientNetV2B0", 32, (16, 32, 48, 96, 112, 192),
                                          (1, 2, 2, 3, 5, 8)),
    "efficientnet_v2_b3": efficientnet_v2("EfficientNetV2B3", 40, (16, 40, 56, 112, 136, 232),
                                          (2, 3, 3, 5, 7, 12))}
CONVNEXT = {"convnext_tiny": ("ConvNeXtTiny", (96, 192, 384, 768), (3, 3, 9, 3))}


def levels(encoder):
    """{stride: its stages} of an encoder, from fine to coarse; a ConvNeXt's are of kind convnext."""
    if encoder in CONVNEXT:
        _, widths, repeats = CONVNEXT[encoder]
        return {4 * 2**i: [Stage("convnext", 4, width, times, 7, 1, "gelu")]
                for i, (width, times) in enumerate(zip(widths, repeats))}
    by_stride, reached = {}, 2
    for stage in INVERTED[encoder].stages:
        reached *= stage.stride
        by_stride.setdefault(reached, []).append(stage)
    return by_stride


def first_convolutions(encoder):
    """{stride: (kernel, strides)} of the levels of an encoder that begin with a convolution of their own."""
    return {4: (4, 4), 8: (2, 2), 16: (2, 2), 32: (2, 2)} if encoder in CONVNEXT else {2: (3, 2)}
