import mmap

# ruff: noqa: F811  a test takes the fixture that it imports
import os
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
from conftest import ROOT
from untrained import SMALL, answers, ortho, small  # noqa: F401  a fixture among them

import predict
from base.files import sha256
from base.problem import Problem
from base.tables import read_facts, read_record, write_record
from mapping import engines
from model import build_network, keras


def test_tensorflow_answers_as_the_network_in_order_whatever_the_batch(small):
    network = engines.load_network(small, read_facts(small))
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


def test_a_raster_that_fails_half_way_leaves_openvino_ready_for_the_next(small):
    ov = pytest.importorskip("openvino")
    network = engines.load_network(small, read_facts(small))
    engine = engines.openvino_engine(ov.convert_model(engines.graph_of(network, 1, 512, 512, 3)), 2)
    patches, expected = answers(engine, 512, 4)

    def broken():
        yield from patches[:3]
        raise OSError

    with pytest.raises(OSError):
        list(engine(broken()))
    np.testing.assert_array_equal(answers(engine, 512, 4)[1], expected)


def take(size):
    """Takes memory of the system, and gives it back: a heap would keep it."""
    with mmap.mmap(-1, size) as memory:
        for start in range(0, size, mmap.PAGESIZE):
            memory[start] = 1


def test_growth_is_what_a_piece_of_work_takes_at_most_though_it_gives_it_back():
    take(2**26)  # a higher peak before
    for size in (2**24, 2**25):
        assert engines.growth(lambda: take(size)) == pytest.approx(size, rel=0.3)


def hostile_models(folder):
    """A Lambda layer whose code makes a file; a function of os in place of a layer; weights that are read
    from a file of the machine."""
    pixels = keras.Input((None, None, 3), dtype="uint8")
    code = f"open({str(folder / 'canary')!r}, 'w')"
    lambda_layer = keras.layers.Lambda(eval(f"lambda x: ({code}, x)[1]"), name="harm")
    x = keras.layers.Rescaling(1 / 255)(pixels)
    keras.Model(pixels, keras.layers.Conv2D(6, 1, activation="softmax")(lambda_layer(x))).save(
        folder / "lambda.keras"
    )
    (folder / "canary").unlink(missing_ok=True)
    yield folder / "lambda.keras"
    build_network(3, 6, **SMALL).save(folder / "plain.keras")
    with (
        zipfile.ZipFile(folder / "plain.keras") as source,
        zipfile.ZipFile(folder / "module.keras", "w") as target,
    ):
        for name in source.namelist():
            data = source.read(name)
            if name == "config.json":
                data = data.replace(b'"keras.src.models.functional"', b'"os"').replace(
                    b'"Functional"', b'"system"'
                )
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
                data = (
                    (folder / "weights.h5").read_bytes() if name == "model.weights.h5" else source.read(name)
                )
                target.writestr(name, data)
    yield folder / "external.keras"


def test_a_hostile_model_is_refused_and_does_no_harm(small, settings, tmp_path):
    ortho(tmp_path / "a.tif")
    for path in hostile_models(tmp_path):
        os.replace(path, small / "model.keras")
        facts = read_record(small / "model.json", "train.py")
        write_record(small / "model.json", {**facts, "sha256": sha256(small / "model.keras")})
        with pytest.raises(Problem, match="not readable") as caught:
            predict.main(settings, small, "a.tif")
        assert caught.value.code == 3 and len(caught.value.lines) == 1 and not (tmp_path / "canary").exists()


def test_a_model_of_other_classes_or_bands_is_refused(small, settings, tmp_path):
    ortho(tmp_path / "a.tif")
    classes = settings["data"]["classes"]
    settings["data"]["classes"] = dict(reversed(classes.items()))  # in another order they are others
    with pytest.raises(Problem, match="in this order"):
        predict.main(settings, small, "a.tif")
    settings["data"]["classes"] = {"road": "#ffffff", "rest": "#000001"}
    with pytest.raises(
        Problem, match="of the classes impervious, .*, expected those of data.classes: road, rest"
    ):
        predict.main(settings, small, "a.tif")
    facts = read_record(small / "model.json", "train.py")
    write_record(small / "model.json", {**facts, "classes": settings["data"]["classes"]})
    with pytest.raises(Problem, match="3 bands to 6 classes, expected 3 to 2"):
        predict.main(settings, small, "a.tif")


def test_openvinos_tools_tell_nobody_of_their_use():
    pytest.importorskip("openvino")
    code = "import mapping.engines, openvino.tools.ovc.telemetry_utils as told; print(told.tm.__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("telemetry_stub\n")


LEFT_IN_A_THREAD = """
import signal, threading
import numpy as np
from mapping import engines
import openvino as ov
from openvino import opset13 as op

pixels = op.parameter([1, 8], np.float32)
held = [engines.openvino_engine(ov.Model([op.softmax(pixels, 1)], [pixels], "small"), 1)]
thread = threading.Thread(target=held.clear)
thread.start()
thread.join()
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have switched off
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_is_no_segmentation_fault_after_an_engine_was_left_in_another_thread():
    pytest.importorskip("openvino")
    done = subprocess.run([sys.executable, "-c", LEFT_IN_A_THREAD], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
