import json
import os
import zipfile

import h5py
import numpy as np
import pytest
import rasterio
from conftest import SIZES, write_tile
from untrained import ortho, read_map, write_run

import predict
import prepare_data
from base.files import sha256
from base.problem import Problem
from base.tables import read_facts, read_record, write_record
from mapping import engines, translate
from model import build_network, keras

SMALL = {"width": 4, "depth": 2, "residual": "add", "centre": "plain", "stem": 2, "local_contrast": [8]}


@pytest.fixture
def run(tmp_path, monkeypatch, settings):
    """An untrained run with the parts that engines translate differently, and prepared tiles."""
    monkeypatch.chdir(tmp_path)
    settings["model"] = SMALL
    for tile, shape in SIZES.items():
        write_tile(tmp_path / "raw", tile, shape)
    prepare_data.main(settings, tmp_path / "runs/tiny")
    return write_run(tmp_path / "runs/tiny", settings)


def answers(engine, side=64, count=5):
    rng = np.random.default_rng(0)
    patches = [rng.integers(0, 256, (side, side, 3)).astype(np.uint8) for _ in range(count)]
    return patches, np.stack([planes.copy() for planes in engine(iter(patches))])


def test_tensorflow_answers_as_the_network_in_order_whatever_the_batch(run):
    network = engines.load_network(run, read_facts(run))
    for batch_size in (1, 2, 5, 8):
        patches, found = answers(engines.tensorflow_engine(network, batch_size))
        expected = np.moveaxis(network(np.stack(patches)).numpy(), -1, 1)
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_auto_takes_openvino_on_a_cpu_where_it_is_installed(monkeypatch):
    installed = set()
    monkeypatch.setattr(engines, "find_spec", lambda name: name if name in installed else None)
    monkeypatch.setattr(engines.os.path, "exists", lambda path: False)
    auto = {"engine": "auto", "precision": "float32"}
    assert engines.choose_engine(auto) == "tensorflow"
    with pytest.raises(Problem, match="package openvino: not installed.*make extras") as caught:
        engines.choose_engine({"engine": "openvino", "precision": "float32"})
    assert caught.value.code == 4
    installed.add("openvino")
    assert engines.choose_engine(auto) == "openvino"
    with pytest.raises(Problem, match="package nncf: not installed"):
        engines.choose_engine({"engine": "auto", "precision": "int8"})
    monkeypatch.setattr(engines.os.path, "exists", lambda path: path == "/proc/driver/nvidia/version")
    assert engines.choose_engine(auto) == "tensorflow"


def test_a_raster_that_fails_half_way_leaves_openvino_ready_for_the_next(run):
    ov = pytest.importorskip("openvino")
    network = engines.load_network(run, read_facts(run))
    engine = engines.openvino_engine(ov.convert_model(engines.graph_of(network, 1, 512, 512, 3)), 2)
    patches, expected = answers(engine, 512, 4)

    def broken():
        yield from patches[:3]
        raise OSError

    with pytest.raises(OSError):
        list(engine(broken()))
    np.testing.assert_array_equal(answers(engine, 512, 4)[1], expected)


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
    nodes = model.get_ordered_ops()
    fed = [node.input_value(0).get_node().get_type_name() for node in nodes if node.get_type_name() == "Convolution"]
    assert "Concat" not in fed and len(fed) > 8
    (softmax,) = (node for node in nodes if node.get_type_name() == "Softmax")
    assert softmax.get_attributes()["axis"] == 1
    np.testing.assert_allclose(answers(engines.openvino_engine(model, 1))[1], expected, atol=1e-4)
    assert expected.std() > 0.01


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_openvino_takes_a_network_that_was_trained_in_mixed_precision(run, settings, tmp_path, policy):
    pytest.importorskip("openvino")
    write_run(run, settings, policy=policy)
    ortho(tmp_path / "a.tif", (70, 64))
    maps = []
    for engine in ("tensorflow", "openvino"):
        settings["predict"]["engine"] = engine
        predict.main(settings, run, "a.tif")
        maps.append(read_map(run, "a"))
    assert (maps[0] == maps[1]).mean() > 0.95 and len(np.unique(maps[0])) > 1


def test_openvino_gives_tensorflows_map_and_needs_no_tensorflow(run, settings, tmp_path, capsys):
    pytest.importorskip("openvino")
    ortho(tmp_path / "a.tif", (150, 200))
    maps = {}
    for engine in ("tensorflow", "openvino"):
        settings["predict"].update(engine=engine, also=["probabilities"])
        predict.main(settings, run, "a.tif")
        with rasterio.open(run / "predictions/a.probabilities.tif") as source:
            maps[engine] = read_map(run, "a"), source.read().astype(int)
    assert (maps["tensorflow"][0] == maps["openvino"][0]).mean() > 0.999
    assert abs(maps["tensorflow"][1] - maps["openvino"][1]).max() <= 1
    assert capsys.readouterr().out.count("translating the network") == 1
    before = (run / "predictions/a.tif").read_bytes()
    (run / "predictions/a.tif").unlink()
    predict.main(settings, run, "a.tif")  # from the files under engine/
    assert "translating" not in capsys.readouterr().out and (run / "predictions/a.tif").read_bytes() == before
    settings["predict"]["precision"] = "bfloat16"  # the same files
    predict.main(settings, run, "a.tif")
    assert "translating" not in capsys.readouterr().out and (read_map(run, "a") == maps["openvino"][0]).mean() > 0.95
    with rasterio.open(run / "predictions/a.tif") as source:
        assert source.tags()["ENGINE"].endswith(" bfloat16")
    settings["predict"]["precision"] = "float32"
    with open(run / "engine/float32_64.bin", "r+b") as file:
        file.write(b"damage")
    (run / "predictions/a.tif").unlink()
    predict.main(settings, run, "a.tif")
    assert "translating" in capsys.readouterr().out and (run / "predictions/a.tif").read_bytes() == before


def test_eight_bit_is_calibrated_on_training_windows_and_says_what_it_costs(run, settings, tmp_path, capsys):
    pytest.importorskip("nncf")
    ortho(tmp_path / "a.tif", (150, 200))
    settings["predict"].update(precision="int8", engine="auto")
    predict.main(settings, run, "a.tif")
    assert "int8: mean IoU" in capsys.readouterr().out
    check = read_record(run / "engine/int8_64.json", "predict.py")["check"]
    assert check["windows"] == 2 and 0 <= check["mean_iou_int8"] <= 1 and check["same"] > 0.8
    with rasterio.open(run / "predictions/a.tif") as source:
        assert " int8 " in source.tags()["ENGINE"]
    settings["predict"]["window"] = 32  # another window, another translation, for which the tiles are needed again
    (tmp_path / "prepared/manifest.json").unlink()
    with pytest.raises(Problem, match="manifest.json") as caught:
        predict.main(settings, run, "a.tif")
    assert caught.value.code == 3
    settings["data"]["prepared"] = str(tmp_path / "again")
    prepare_data.main(settings, tmp_path / "prepare")
    windows = list(translate.windows_of(settings, "train", 64, 3))
    assert len(windows) == 3 and all(pixels.shape == (64, 64, 3) for pixels, _ in windows)


def hostile_models(folder):
    """A Lambda layer whose code makes a file; a function of os in place of a layer; weights that are read from a file
    of the machine."""
    pixels = keras.Input((None, None, 3), dtype="uint8")
    code = f"open({str(folder / 'canary')!r}, 'w')"
    lambda_layer = keras.layers.Lambda(eval(f"lambda x: ({code}, x)[1]"), name="harm")
    x = keras.layers.Rescaling(1 / 255)(pixels)
    keras.Model(pixels, keras.layers.Conv2D(6, 1, activation="softmax")(lambda_layer(x))).save(folder / "lambda.keras")
    (folder / "canary").unlink(missing_ok=True)
    yield folder / "lambda.keras"
    build_network(3, 6, **SMALL).save(folder / "plain.keras")
    with zipfile.ZipFile(folder / "plain.keras") as source, zipfile.ZipFile(folder / "module.keras", "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name == "config.json":
                data = data.replace(b'"keras.src.models.functional"', b'"os"').replace(b'"Functional"', b'"system"')
            target.writestr(name, data)
    yield folder / "module.keras"
    (folder / "secret").write_bytes(bytes(4096))
    with zipfile.ZipFile(folder / "plain.keras") as source:
        (folder / "weights.h5").write_bytes(source.read("model.weights.h5"))
        with h5py.File(folder / "weights.h5", "r+") as file:
            names = []
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            shape = file[names[0]].shape
            del file[names[0]]
            file.create_dataset(names[0], shape, "float32", external=[(str(folder / "secret"), 0, 4096)])
        with zipfile.ZipFile(folder / "external.keras", "w") as target:
            for name in source.namelist():
                data = (folder / "weights.h5").read_bytes() if name == "model.weights.h5" else source.read(name)
                target.writestr(name, data)
    yield folder / "external.keras"


def test_a_hostile_model_is_refused_and_does_no_harm(run, settings, tmp_path):
    ortho(tmp_path / "a.tif")
    for path in hostile_models(tmp_path):
        os.replace(path, run / "model.keras")
        facts = read_record(run / "model.json", "train.py")
        write_record(run / "model.json", {**facts, "sha256": sha256(run / "model.keras")})
        with pytest.raises(Problem, match="not readable") as caught:
            predict.main(settings, run, "a.tif")
        assert caught.value.code == 3 and len(caught.value.lines) == 1 and not (tmp_path / "canary").exists()


def test_a_model_of_other_classes_or_bands_is_refused(run, settings, tmp_path):
    ortho(tmp_path / "a.tif")
    classes = settings["data"]["classes"]
    settings["data"]["classes"] = dict(reversed(classes.items()))  # in another order they are others
    with pytest.raises(Problem, match="in this order"):
        predict.main(settings, run, "a.tif")
    settings["data"]["classes"] = {"road": "#ffffff", "rest": "#000001"}
    with pytest.raises(Problem, match="of the classes impervious, .*, expected those of data.classes: road, rest"):
        predict.main(settings, run, "a.tif")
    facts = read_record(run / "model.json", "train.py")
    write_record(run / "model.json", {**facts, "classes": settings["data"]["classes"]})
    with pytest.raises(Problem, match="3 bands to 6 classes, expected 3 to 2"):
        predict.main(settings, run, "a.tif")
