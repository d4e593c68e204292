import re

import keras
import pytest
from conftest import SETTINGS
from matplotlib.text import Annotation

from model import build_network
from reporting import charts, network_figure
from reporting.network_figure import list_blocks, text_of

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
    blocks = list_blocks(model, 3, 6)
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


def test_the_figure_says_every_block_and_what_the_network_costs(monkeypatch):
    figures = []
    monkeypatch.setattr(network_figure, "save", lambda figure, path: figures.append(figure))
    model = {**SETTINGS["model"], "stem": 2, "local_contrast": [8, 32]}
    facts = {
        "bands": [1, 2, 3],
        "extra": True,
        "classes": dict.fromkeys("abcdef"),
        "parameters": 12345,
        "gflop_per_patch": 0.5,
    }
    with charts.style():
        network_figure.draw_network("", model, facts)
    texts = [text.get_text() for text in figures[0].axes[0].texts]
    assert (
        "pixels\nlocal contrast\n8 and 32 px\n12 channels" in texts
        and "1 x 1 conv\nsoftmax\n6 classes" in texts
    )
    assert all(text_of(block) in texts for block in list_blocks(model, 4, 6))
    assert "12,345 parameters\n0.50 GFLOP a patch" in texts
    arrows = [text for text in figures[0].axes[0].texts if isinstance(text, Annotation)]
    assert len(arrows) == len(list_blocks(model, 4, 6)) - 1 + model["depth"]  # and the skips
