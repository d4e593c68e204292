# ruff: noqa: F811  a test takes the fixture that it imports
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
from untrained import (  # noqa: F401  a fixture among them
    SMALL,
    answers,
    ortho,
    read_map,
    small,
    untrained,
    write_run,
)

import predict
import prepare_data
from base.problem import Problem
from base.tables import read_facts, read_record
from mapping import engines, translate
from mapping.engines import load_network
from model import build_network, keras


class Here(ThreadPoolExecutor):
    """In place of a process of its own, which takes TensorFlow seconds to start in."""

    _processes = {}


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(translate, "ProcessPoolExecutor", Here)


def convolutions_of(model):
    return [node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"]


def fed_by(node):
    return node.input_value(0).get_node().get_type_name()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"residual": "concat", "centre": "serial", "stem": 1, "local_contrast": []},
        {"residual": "concat", "depth": 3, "centre": "parallel"},
    ],
)
def test_without_concatenations_before_convolutions_a_network_answers_the_same(changes):
    ov = pytest.importorskip("openvino")
    network = build_network(3, 4, **{**SMALL, **changes})
    model = ov.convert_model(engines.graph_of(network, 1, 64, 64, 3))
    _, expected = answers(engines.openvino_engine(model, 1))
    translate.without_concatenations(model)
    joined = [
        node
        for node in convolutions_of(model)
        if fed_by(node) == "Concat" and node.input_value(0).get_node().get_attributes()["axis"] == 1
    ]
    assert not joined and len(convolutions_of(model)) > 8
    (softmax,) = (node for node in model.get_ordered_ops() if node.get_type_name() == "Softmax")
    assert softmax.get_attributes()["axis"] == 1
    np.testing.assert_allclose(answers(engines.openvino_engine(model, 1))[1], expected, atol=1e-4)
    assert expected.std() > 0.01


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_openvino_takes_a_network_that_was_trained_in_mixed_precision(
    small, settings, tmp_path, policy, in_this_process
):
    pytest.importorskip("openvino")
    write_run(small, settings, policy=policy)
    ortho(tmp_path / "a.tif", (70, 64))
    maps = []
    for engine in ("tensorflow", "openvino"):
        settings["predict"]["engine"] = engine
        predict.main(settings, small, "a.tif")
        maps.append(read_map(small, "a"))
    assert (maps[0] == maps[1]).mean() > 0.95 and len(np.unique(maps[0])) > 1


def test_a_network_of_before_that_interpolates_by_upsampling_gives_the_same_map(
    small, settings, tmp_path, monkeypatch, in_this_process
):
    pytest.importorskip("openvino")
    ortho(tmp_path / "a.tif", (60, 100))
    settings["predict"]["engine"] = "tensorflow"
    predict.main(settings, small, "a.tif")
    expected = read_map(small, "a")

    def upsample(x, factor, name):
        return keras.layers.UpSampling2D(factor, interpolation="bilinear", name=name, dtype="float32")(x)

    monkeypatch.setattr("model.enlarge", upsample)
    untrained.cache_clear()
    write_run(small, settings)
    untrained.cache_clear()
    assert "UpSampling2D" in {type(layer).__name__ for layer in load_network(small, read_facts(small)).layers}
    for engine in ("tensorflow", "openvino"):
        settings["predict"]["engine"] = engine
        (small / "predictions/a.tif").unlink()
        predict.main(settings, small, "a.tif")
        assert (read_map(small, "a") == expected).mean() > 0.999 and len(np.unique(expected)) > 1


def test_openvino_gives_tensorflows_map_and_needs_no_tensorflow(small, settings, tmp_path, capsys):
    pytest.importorskip("openvino")
    ortho(tmp_path / "a.tif", (150, 200))
    maps = {}
    for engine in ("tensorflow", "openvino"):
        settings["predict"].update(engine=engine, also=["probabilities"])
        predict.main(settings, small, "a.tif")
        with rasterio.open(small / "predictions/a.probabilities.tif") as source:
            maps[engine] = read_map(small, "a"), source.read().astype(int)
    assert (maps["tensorflow"][0] == maps["openvino"][0]).mean() > 0.999
    assert abs(maps["tensorflow"][1] - maps["openvino"][1]).max() <= 1
    assert capsys.readouterr().out.count("translating the network") == 1
    assert read_record(small / "engine/float32_64.json", "predict.py")["window_bytes"] > 0
    before = (small / "predictions/a.tif").read_bytes()
    (small / "predictions/a.tif").unlink()
    predict.main(settings, small, "a.tif")  # from the files under engine/
    assert (
        "translating" not in capsys.readouterr().out and (small / "predictions/a.tif").read_bytes() == before
    )
    settings["predict"]["precision"] = "bfloat16"  # the same files
    predict.main(settings, small, "a.tif")
    assert (
        "translating" not in capsys.readouterr().out
        and (read_map(small, "a") == maps["openvino"][0]).mean() > 0.95
    )
    with rasterio.open(small / "predictions/a.tif") as source:
        assert source.tags()["ENGINE"].endswith(" bfloat16")
    settings["predict"]["precision"] = "float32"
    with open(small / "engine/float32_64.bin", "r+b") as file:
        file.write(b"damage")
    (small / "predictions/a.tif").unlink()
    predict.main(settings, small, "a.tif")
    assert "translating" in capsys.readouterr().out and (small / "predictions/a.tif").read_bytes() == before


def test_eight_bit_is_calibrated_on_training_windows_and_says_what_it_costs(
    small, settings, tmp_path, capsys, in_this_process
):
    pytest.importorskip("nncf")
    ortho(tmp_path / "a.tif", (150, 200))
    settings["predict"].update(precision="int8", engine="auto")
    predict.main(settings, small, "a.tif")
    assert "int8: mean IoU" in capsys.readouterr().out
    check = read_record(small / "engine/int8_64.json", "predict.py")["check"]
    model = pytest.importorskip("openvino").Core().read_model(small / "engine/int8_64.xml")
    names = translate.interpolations(model)
    assert len(names) >= 4  # brightness and contrast by 8, in two steps; the logits by 2
    fed = {node.get_friendly_name(): fed_by(node) for node in convolutions_of(model)}
    assert {fed.pop(name) for name in names} <= {"Concat", "DepthToSpace"}  # not quantised
    assert "FakeQuantize" in fed.values()
    assert check["windows"] == 2 and 0 <= check["mean_iou_int8"] <= 1 and check["same"] > 0.8
    with rasterio.open(small / "predictions/a.tif") as source:
        assert " int8 " in source.tags()["ENGINE"]
    settings["predict"]["window"] = (
        32  # another window, another translation, for which the tiles are needed again
    )
    (tmp_path / "prepared/manifest.json").unlink()
    with pytest.raises(Problem, match="manifest.json") as caught:
        predict.main(settings, small, "a.tif")
    assert caught.value.code == 3
    settings["data"]["prepared"] = str(tmp_path / "again")
    prepare_data.main(settings, tmp_path / "prepare")
    windows = list(translate.windows_of(settings, "train", 64, 3))
    assert len(windows) == 3 and all(pixels.shape == (64, 64, 3) for pixels, _ in windows)
