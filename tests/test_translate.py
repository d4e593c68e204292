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
from learning import encoder_tables, encoders
from mapping import engines, translate
from mapping.engines import load_network
from model import build_network, enlarge, keras


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
    np.testing.assert_allclose(answers(engines.openvino_engine(model, 1))[1], expected, atol=1e-4)
    assert expected.std() > 0.01


def test_a_transposed_convolution_whose_kernels_overlap_stays_one():
    ov = pytest.importorskip("openvino")
    for size, strides, left in ((2, 2, 0), (4, 2, 1)):
        inputs = keras.Input((None, None, 3), dtype="uint8")
        x = keras.layers.Rescaling(1 / 255)(inputs)
        x = keras.layers.Conv2DTranspose(5, size, strides=strides, padding="same")(x)
        network = keras.Model(inputs, x)
        model = ov.convert_model(engines.graph_of(network, 1, 64, 64, 3))
        expected = answers(engines.openvino_engine(model, 1), count=1)[1]
        translate.without_transposed(model)
        kinds = [node.get_type_name() for node in model.get_ordered_ops()]
        assert kinds.count("ConvolutionBackpropData") == left and expected.std() > 0.1
        assert translate.interpolations(model) == []
        np.testing.assert_allclose(
            answers(engines.openvino_engine(model, 1), count=1)[1], expected, atol=1e-6
        )


def of_every_operation(policy="float32"):
    """A network of each operation that the encoders have, small; its answers differ from pixel to pixel."""
    keras.utils.set_random_seed(0)
    keras.mixed_precision.set_global_policy(policy)
    inputs, build = keras.Input((None, None, 3), dtype="uint8"), encoders.Parts(False)
    x = keras.layers.Rescaling(1 / 64, -2, dtype="float32")(inputs)
    x = build.convolve(x, "first", 8, "relu6", kernel=3, stride=2)
    stages = encoder_tables.stages("relu6", ("plain", 2, 8, 1, 3, 1))
    stages += encoder_tables.stages("hard_swish", ("squeezed", 2, 8, 1, 5, 1))
    stages += encoder_tables.stages("swish", ("squeezed", 2, 8, 1, 3, 1), ("fused", 2, 8, 1, 3, 1))
    gates = [(), ("relu", "hard_sigmoid"), ("swish", "sigmoid"), ()]
    for name, stage, gate in zip("abcd", stages, gates):
        x = build.inverted_residual(x, name, stage, 1, gate)
    x = build.convnext(x, [12], [1])[4]
    x = keras.layers.Conv2DTranspose(8, 2, strides=2, activation="relu")(x)
    x = keras.layers.Conv2D(4, 1, name="scores", dtype="float32")(x)
    x = enlarge(x, 4, "logits")
    network = keras.Model(inputs, keras.layers.Softmax(dtype="float32")(x))
    keras.mixed_precision.set_global_policy("float32")
    for weights in network.weights:  # not all zero or one
        weights.assign(weights + 0.1 * keras.random.uniform(weights.shape, seed=1))
    return network


def kinds_of(model):
    return [node.get_type_name() for node in model.get_ordered_ops()]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_every_operation_of_the_encoders_is_translated_in_float32(policy):
    pytest.importorskip("openvino")
    exact, network = of_every_operation(), of_every_operation(policy)
    model = translate.without_concatenations(translate.convert(network, 64))
    patches, found = answers(engines.openvino_engine(model, 1), count=2)
    expected = np.moveaxis(exact(np.stack(patches)).numpy(), -1, 1)
    assert expected.std() > 0.02
    np.testing.assert_allclose(found, expected, atol=1e-4)
    kinds = kinds_of(model)
    assert not {"ConvolutionBackpropData", "MatMul"} & {*kinds} and "Interpolate" in kinds
    (softmax,) = (node for node in model.get_ordered_ops() if node.get_type_name() == "Softmax")
    assert softmax.get_attributes()["axis"] == 1 and list(softmax.get_output_shape(0)) == [1, 4, 64, 64]
    types = {node.get_output_element_type(0).get_type_name() for node in model.get_ordered_ops()}
    assert "f32" in types and not {"bf16", "f16"} & types


def test_in_eight_bit_every_convolution_of_the_encoders_is(monkeypatch):
    pytest.importorskip("nncf")
    exact = translate.convert(of_every_operation(), 64)
    patches, expected = answers(engines.openvino_engine(exact, 1), count=3)
    monkeypatch.setattr(translate, "windows_of", lambda *_: [(patch, None) for patch in patches])
    model = translate.quantise(exact.clone(), {"predict": {"window": 64}})
    convolutions = [node for node in model.get_ordered_ops() if "Convolution" in node.get_type_name()]
    assert len(convolutions) == kinds_of(exact).count("Convolution") + kinds_of(exact).count(
        "GroupConvolution"
    )
    large = [node for node in convolutions if list(node.get_output_shape(0))[2:] != [1, 1]]
    assert len(large) == len(convolutions) - 4  # of means over the whole patch
    for node in large:
        assert node.input_value(1).get_node().get_type_name() != "Constant", node  # its weights in 8 bit
    found = answers(engines.openvino_engine(model, 1), count=3)[1]
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.3 * expected.std()


def test_a_network_with_an_encoder_predicts_a_small_raster(
    small, settings, tmp_path, in_this_process, monkeypatch
):
    pytest.importorskip("nncf")
    settings["model"] = {**SMALL, "encoder": "efficientnet_lite0", "stem": 4, "local_contrast": []}
    write_run(small, settings)
    ortho(tmp_path / "a.tif", (70, 101))
    settings["predict"]["force"], maps = True, []
    convert, made = translate.convert, []
    once = lambda *given: (made or made.append(convert(*given)) or made)[0].clone()  # noqa: E731
    monkeypatch.setattr(translate, "convert", once)
    for engine, precision in (("tensorflow", "float32"), ("openvino", "float32"), ("openvino", "int8")):
        settings["predict"].update(engine=engine, precision=precision)
        predict.main(settings, small, "a.tif")
        maps.append(read_map(small, "a"))
    assert len(np.unique(maps[0])) > 1 and maps[0].shape == (70, 101)
    assert (maps[1] == maps[0]).mean() > 0.999 and (maps[2] == maps[0]).mean() > 0.6


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
    settings["predict"].update(precision="int8", engine="auto", force=True)
    predict.main(settings, small, "a.tif")
    assert "int8: mean IoU" in capsys.readouterr().out
    check = read_record(small / "engine/int8_64.json", "predict.py")["check"]
    model = pytest.importorskip("openvino").Core().read_model(small / "engine/int8_64.xml")
    names = translate.interpolations(model)
    assert len(names) == 3  # brightness and contrast by 8, in two steps; the last one's result is quantised
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


def test_eight_bit_that_costs_more_than_a_point_is_refused_unless_it_is_forced(
    small, settings, tmp_path, capsys, in_this_process, monkeypatch
):
    pytest.importorskip("nncf")
    price = {"windows": 3, "mean_iou": 0.62, "mean_iou_int8": 0.609, "same": 0.9}
    monkeypatch.setattr(translate, "measure_price", lambda *_: price)
    monkeypatch.setattr(translate, "quantise", lambda model, _: model)  # so that nothing is waited for
    ortho(tmp_path / "a.tif", (60, 64))
    settings["predict"].update(precision="int8", engine="auto", force=False)
    refused = (
        r"^settings, key predict.precision: int8, which costs 1.10 points of mean IoU \(62.00 % in float32, "
        r"60.90 % in int8, on 3 windows of the validation tiles\), expected 1 point at most; "
        "set predict.precision to float32 or bfloat16, or predict.force to true$"
    )
    for times in (1, 0):  # the network that was translated remembers its price
        with pytest.raises(Problem, match=refused) as caught:
            predict.main(settings, small, "a.tif")
        assert caught.value.code == 2 and len(caught.value.lines) == 1
        assert capsys.readouterr().out.count("translating") == times
        assert not list((small / "predictions").glob("a*"))
    settings["predict"]["force"] = True
    predict.main(settings, small, "a.tif")
    assert "translating" not in capsys.readouterr().out
    before = (small / "predictions/a.tif").read_bytes()
    settings["predict"]["force"] = False
    with pytest.raises(Problem, match=refused):
        predict.main(settings, small, "a.tif")
    assert (small / "predictions/a.tif").read_bytes() == before
    price["mean_iou_int8"] = 0.611
    translate.translate(small, read_facts(small), settings)
    predict.main(settings, small, "a.tif")


def test_the_price_is_counted_on_at_least_so_many_pixels(small, settings, monkeypatch):
    pytest.importorskip("openvino")
    model = translate.convert(load_network(small, read_facts(small)), 16)
    settings["predict"]["window"] = 16
    price = translate.measure_price(model, model, settings)
    assert price["windows"] == 4 * 5 and price["same"] == 1  # all there are of 50 x 75 pixels
    assert price["mean_iou"] == price["mean_iou_int8"] > 0
    asked, windows = [], list(translate.windows_of(settings, "val", 16, 1))
    monkeypatch.setattr(translate, "windows_of", lambda *given: asked.append(given[-1]) or windows)
    for side, count in ((16, 24 * 32**2), (512, 24), (1024, 24)):
        settings["predict"]["window"] = side
        assert translate.measure_price(model, model, settings)["windows"] == 1 and asked.pop() == count


def test_a_small_raster_has_a_small_window_of_openvino_as_of_tensorflow(
    small, settings, tmp_path, in_this_process
):
    pytest.importorskip("openvino")
    ortho(tmp_path / "a.tif", (30, 28))
    maps = {}
    for engine in ("tensorflow", "openvino"):
        settings["predict"].update(engine=engine, window=256)
        predict.main(settings, small, "a.tif")
        maps[engine] = read_map(small, "a")
    assert (maps["tensorflow"] == maps["openvino"]).mean() > 0.999
    with rasterio.open(small / "predictions/a.tif") as source:
        assert source.tags()["WINDOW"] == "32"
    assert [path.name for path in sorted((small / "engine").glob("*.xml"))] == ["float32_32.xml"]
