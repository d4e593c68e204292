import itertools
import re

import keras
import pytest
from conftest import SETTINGS
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Annotation

import model as model_py
from base.keys import ENCODERS
from learning.weight_files import FILES
from model import build_network
from reporting import charts, network_figure
from reporting.network_figure import describe_network, list_arrows, list_blocks, text_of

MODELS = {
    "as published": {},
    "added, strided, local contrast": {
        "residual": "add",
        "centre": "plain",
        "stem": 2,
        "local_contrast": [4, 8],
    },
    "side by side": {"centre": "parallel", "stem": 4, "depth": 3},
    "joined": {"centre": "plain", "depth": 1},
    "added, dilated": {"residual": "add", "depth": 3, "local_contrast": [4]},
}


def output_of(network, block):
    """The last layer of a block in the built network."""
    layers = [layer.name for layer in network.layers]
    if block == "head":
        return network.get_layer("logits")
    if block == "input":
        return network.get_layer("contrast_join" if "contrast_join" in layers else "scale")
    own = [name for name in layers if re.fullmatch(rf"{block}([ab]|[1248])?_(join|relu|norm)", name)]
    return network.get_layer(own[-1])


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_the_diagram_says_what_the_built_network_is(changes):
    model = {**SETTINGS["model"], **changes}
    network = build_network(3, 6, **model, size=64)
    blocks = list_blocks(model, [1, 2, 3], 6)
    for block in blocks:
        shape = output_of(network, block.name).output.shape
        assert (block.name, shape[1], shape[3]) == (block.name, 64 / block.scale, block.channels)
    for block in blocks[1:-1]:
        own = [
            layer for layer in network.layers if re.fullmatch(rf"{block.name}([ab]|[1248])?_conv", layer.name)
        ]
        size, dilations = own[0].kernel_size[0], [layer.dilation_rate[0] for layer in own]
        expected = [{1: "", 2: "two ", 4: "four "}[len(own)] + f"{size} x {size} conv"]
        expected += [f"dilated {', '.join(map(str, dilations))}"] if max(dilations) > 1 else []
        expected += [f"strides {own[0].strides[0]}"] if own[0].strides[0] > 1 else []
        if block.name != "stem":
            join = network.get_layer(f"{block.name}_join")
            expected.append("residual added" if isinstance(join, keras.layers.Add) else "joined")
        assert block.done == expected
    steps = {block.name: block.step for block in blocks if block.step}
    assert [name for name in steps if steps[name] == "grow"] == [
        block.name for block in blocks if "up" in block.name
    ]
    pools = [layer for layer in network.layers if layer.name.startswith("pool")]
    assert [steps[name] for name in steps if steps[name] != "grow"] == ["pool"] * len(pools)


PRETRAINED = {
    "efficientnet_lite0": {"local_contrast": [8]},
    "mobilenet_v3_large": {"local_contrast": [8, 32], "stem": 4},
    "efficientnet_v2_b0": {},
    "efficientnet_v2_b3": {"stem": 4},
    "convnext_tiny": {"local_contrast": [8], "width": 6},
}
WORDS = {"plain": "inverted residual", "fused": "fused inverted residual", "squeezed": "inverted residual"}


def blocks_inside(network, size):
    """{stride: lines of text} of the blocks of an encoder, told by the layers that each of them has."""
    parts, kinds = {}, {}
    for layer in network.layers:
        match = re.fullmatch(r"encoder_(\d+[a-l])_(\w+)", layer.name)
        if match:
            parts.setdefault(match[1], {})[match[2]] = layer
    for part in parts.values():
        stride = size // part["project"].output.shape[1]
        kind = "fused" if "depthwise" not in part else "squeezed" if "squeeze" in part else "plain"
        kinds.setdefault(stride, []).append("convnext" if "gelu" in part else kind)
    lines = {stride: [] for stride in kinds}
    for stride, of_level in kinds.items():
        for kind, group in itertools.groupby(of_level):
            count = len(list(group))
            lines[stride].append(f"{count} {WORDS.get(kind, 'ConvNeXt block')}{'s' * (count > 1)}")
            lines[stride] += ["squeeze and excitation"] * (kind == "squeezed")
    for layer in network.layers:  # strided convolutions between the blocks
        if re.fullmatch(r"encoder_(stem|\d)", layer.name):
            kernel, strides = layer.kernel_size[0], layer.strides[0]
            lines[size // layer.output.shape[1]].insert(0, f"{kernel} x {kernel} conv, strides {strides}")
    return lines


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_diagram_says_what_encoder_and_decoder_are(encoder, undrawn, monkeypatch):
    model = {**SETTINGS["model"], "stem": 2, "encoder": encoder, **PRETRAINED[encoder], "rgb": [3, None, 1]}
    features, build = {}, model_py.build_encoder
    monkeypatch.setattr(model_py, "build_encoder", lambda *a: features.update(build(*a)) or features)
    network = build_network(4, 6, **model, size=64)
    blocks = {block.name: block for block in list_blocks(model, [4, 2, 1, "extra"], 6)}
    assert blocks["input"].done[:2] == ["red, green, blue:", "bands 1, none, 4"]
    layers, inside = {layer.name: layer for layer in network.layers}, blocks_inside(network, 64)
    assert [name for name in blocks if "encoder" in name] == [f"encoder{stride}" for stride in features]
    for stride, tensor in features.items():
        block = blocks[f"encoder{stride}"]
        assert (block.scale, block.channels) == (stride, tensor.shape[3]) and tensor.shape[1] == 64 / stride
        assert block.done == inside[stride]
    mixed = [name.removesuffix("_relu") for name in layers if re.fullmatch(r"mix\d+_relu", name)]
    assert [name for name in blocks if "mix" in name] == mixed
    for name in mixed:
        block, shape = blocks[name], layers[f"{name}_relu"].output.shape
        assert (64 / block.scale, block.channels) == (shape[1], shape[3])
        assert block.done == ["sum, ReLU" if name.replace("mix", "join") in layers else "ReLU", "3 x 3 conv"]
    arrows = list_arrows([*blocks.values()])
    skips = {f"encoder{name[4:]}" for name in layers if name.startswith("skip")}
    assert {one for one, _, step in arrows if step == "add"} == skips
    assert ("contrast" in layers) == ("contrast" in blocks)
    if "contrast" in layers:
        assert blocks["contrast"].channels == layers["contrast"].kernel.shape[2]
        assert ("contrast", f"mix{model['stem']}", "contrast") in arrows
    assert (blocks["head"].done[1], blocks["head"].channels) == ("interpolated", network.output.shape[3])


def facts_of(encoder="none", source=None):
    """model.json of a network, as far as the figure reads it."""
    cost = {"parameters": 12345678, "gflop_per_patch": 0.5}
    known = {"encoder": encoder, "weights": source and {"source": source, "sha256": "0"}, "rgb": [3, 2, 1]}
    return {"bands": [4, 2, 1], "extra": True, "classes": dict.fromkeys("abcdef"), **cost, **known}


def draw(monkeypatch, model, facts):
    """The axes of the figure, with what is drawn on them where it is drawn."""
    figures = []
    monkeypatch.setattr(network_figure, "save", lambda figure, path: figures.append(figure))
    with charts.style():
        network_figure.draw_network("", model, facts)
    return figures[0].axes[0]


@pytest.mark.parametrize("encoder", ["none", *ENCODERS])
def test_every_text_is_within_its_box_and_no_two_things_overlap(encoder, monkeypatch):
    model = {**SETTINGS["model"], "depth": 4, "local_contrast": [8, 32], "stem": 2, "width": 32}
    source = "/a/path/that/is/as/long/as/those/of/weights/are/lite0.pth" if "lite" in encoder else "imagenet"
    axes = draw(monkeypatch, {**model, "encoder": encoder}, facts_of(encoder, source))
    boxes = [patch.get_window_extent() for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    texts = [text.get_window_extent() for text in axes.texts if not isinstance(text, Annotation)]
    assert len(texts) == len(boxes) + 1  # what the network costs
    for box, text in zip(boxes, texts):
        assert box.x0 < text.x0 and text.x1 < box.x1 and box.y0 < text.y0 and text.y1 < box.y1
    things = [*boxes, texts[-1], axes.get_legend().get_window_extent()]
    assert not [pair for pair in itertools.combinations(things, 2) if pair[0].overlaps(pair[1])]
    assert axes.texts[0].get_fontsize() > 5


def test_the_figure_says_whose_weights_the_encoder_began_with(monkeypatch):
    model = {**SETTINGS["model"], "encoder": "convnext_tiny", "stem": 2, "local_contrast": []}
    axes = draw(monkeypatch, model, facts_of("convnext_tiny", "imagenet"))
    cost = [text.get_text() for text in axes.texts if "parameters" in text.get_text()]
    assert cost == ["convnext_tiny\npretrained on ImageNet\n12,345,678 parameters\n0.50 GFLOP a patch"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        *("strided convolution", "transposed convolution", "1 x 1 convolution, added", "encoder")
    ]
    known = FILES["convnext_tiny"]
    told = describe_network({**model, "rgb": [3, None, 2]}, facts_of("convnext_tiny", "imagenet"))
    assert told.endswith(
        f" Its encoder is convnext_tiny, pretrained on ImageNet ({known.name}, {known.licence}); "
        "it sees bands 1, none, 2 as red, green, blue."
    )
    told = describe_network({**model, "rgb": [3, 2, 1]}, facts_of("convnext_tiny", "own.h5"))
    assert "convnext_tiny, first weights from own.h5; it sees" in told
    told = describe_network({**model, "rgb": [3, 2, 1]}, facts_of("convnext_tiny"))
    assert "convnext_tiny, first weights at random; it sees" in told


def test_a_run_of_a_version_without_encoders_is_drawn(monkeypatch):
    model = {
        key: value for key, value in SETTINGS["model"].items() if key not in ("encoder", "weights", "rgb")
    }
    facts = {key: value for key, value in facts_of().items() if key not in ("encoder", "weights", "rgb")}
    axes = draw(monkeypatch, model, facts)
    assert axes.texts and "encoder" not in describe_network(model, facts)


def test_the_figure_says_every_block_and_what_the_network_costs(monkeypatch):
    model = {**SETTINGS["model"], "stem": 2, "local_contrast": [8, 32]}
    axes, blocks = draw(monkeypatch, model, facts_of()), list_blocks(model, [4, 2, 1, "extra"], 6)
    texts = [text.get_text() for text in axes.texts]
    assert "pixels\nlocal contrast\n8 and 32 px\n12 channels" in texts
    assert "1 x 1 conv\ninterpolated\nsoftmax\n6 classes" in texts
    assert all(text_of(block) in texts for block in blocks)
    assert "12,345,678 parameters\n0.50 GFLOP a patch" in texts
    arrows = [text for text in axes.texts if isinstance(text, Annotation)]
    assert len(arrows) == len(blocks) - 1 + model["depth"]  # and the skips
