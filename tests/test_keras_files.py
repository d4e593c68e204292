"""Files of Keras's weights, as h5py writes them here: both formats under any name, hostile ones, others."""

import os
import resource
import time
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest

from learning import keras_files
from learning.keras_files import MOST_BYTES, for_keras

KERNEL = np.arange(24, dtype="float32").reshape(2, 3, 4)


def write_legacy(file, names=("b", "a"), outputs=4):
    """Two layers as Keras 2 wrote them."""
    file.attrs["layer_names"] = np.array(names, "S9")
    for name in names:
        file.create_group(name).attrs["weight_names"] = np.array([f"{name}/kernel:0"], "S19")
        file[f"{name}/{name}/kernel:0"] = np.zeros((3, 3, 2, outputs), "float32")


def write_current(file):
    """A layer as Keras 3 writes it."""
    file["layers/conv2d/vars/0"] = KERNEL


def write(path, *writers):
    with h5py.File(path, "w", libver="latest") as file:
        for writer in writers:
            writer(file)
    return path


def refused(path):
    with pytest.raises(ValueError) as caught, for_keras(path):
        pass
    return str(caught.value)


@pytest.mark.parametrize("name", ["w.h5", "w.weights.h5", "w (1).h5.part", "w", "\u00fcn\n\U0001f5fa.h5"])
def test_a_file_is_read_by_what_it_holds_under_any_name(tmp_path, name):
    for writer, ending in ((write_legacy, ".h5"), (write_current, ".weights.h5")):
        path = write(tmp_path / name, writer)
        with for_keras(str(path)) as (named, classifies):
            assert named.samefile(path) and not classifies
            assert named.name.endswith(ending) and (ending == ".weights.h5") == (
                "weights" in named.suffixes[0]
            )
    assert [*tmp_path.iterdir()] == [path] and not os.path.exists(named) or named == path


def test_a_whole_model_of_the_older_format_and_a_classifier_are_told(tmp_path):
    path = write(tmp_path / "a.h5", lambda file: write_legacy(file.create_group("model_weights")))
    with for_keras(path) as (named, classifies):
        assert named == path and not classifies
    path = write(tmp_path / "b.h5", lambda file: write_legacy(file, outputs=1000))
    with for_keras(path) as (_, classifies):
        assert classifies


def soft(file):
    file["layers/dense/vars"] = h5py.SoftLink("/layers/conv2d/vars")


def soft_loop(file):
    file["layers/one"], file["layers/two"] = h5py.SoftLink("/layers/two"), h5py.SoftLink("/layers/one")


def outside(file):
    file["layers/dense"] = h5py.ExternalLink("/etc/passwd", "/")


def circle(file):
    file["layers/conv2d/layers"] = file["layers"]


def root_again(file):
    file["layers/root"] = file["/"]


def many_names(file):
    for i in range(9):
        file[f"layers/conv2d/vars/{i + 1}"] = file["layers/conv2d/vars/0"]


def passwd(file):
    file.create_dataset("layers/dense/vars/0", (4,), "float32", external=[("/etc/passwd", 0, 16)])


def virtual(file):
    layout = h5py.VirtualLayout((4,), "float32")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    file.create_virtual_dataset("layers/dense/vars/0", layout)


def bomb(file):
    file.create_dataset("layers/dense/vars/0", (10**12,), "float32", chunks=(10**6,), compression="gzip")


def many_bombs(file):
    for i in range(11):
        file.create_dataset(f"layers/dense/vars/{i}", (10**8 // 4,), "float32", chunks=True)


def wide_chunk(file):
    shape = {"maxshape": (None,), "chunks": (10**9,), "compression": "gzip"}
    file.create_dataset("layers/dense/vars/0", (4,), "float32", **shape)


def texts(file):
    file.create_dataset("layers/dense/vars/0", data=["a" * 9], dtype=h5py.string_dtype())


def a_type(file):
    file["layers/dense"] = np.dtype("float32")


def crowd(file):
    for i in range(101):
        file.create_group(f"layers/{i}")


def long_attribute(file):
    file["layers"].attrs.create("layer_names", np.zeros(2**16, "S9"))


def names_twice(file):
    file["layers"].attrs["weight_names"] = np.array([b"0", b"0"])


def names_by_detour(file):
    file["layers"].attrs["weight_names"] = np.array([b"0", b"./0"])


HOSTILE = {
    soft: "a link to elsewhere",
    soft_loop: "a link to elsewhere",
    outside: "a link to elsewhere",
    circle: "two names for the same",
    root_again: "two names for the same",
    many_names: "two names for the same",
    passwd: "numbers of another file",
    virtual: "numbers of another file",
    bomb: f"more than {MOST_BYTES:,} bytes",
    many_bombs: f"more than {MOST_BYTES:,} bytes",
    wide_chunk: f"more than {MOST_BYTES:,} bytes",
    texts: "something else than numbers",
    a_type: "something else than numbers",
    crowd: "more than 100 objects",
    long_attribute: "an attribute of more than",
    names_twice: "names a layer or weight twice",
    names_by_detour: "names a layer or weight twice",
}


@pytest.mark.parametrize("harm", HOSTILE, ids=lambda harm: harm.__name__)
def test_a_hostile_file_is_refused_before_any_number_is_read(tmp_path, monkeypatch, harm):
    monkeypatch.setattr(keras_files, "MOST_OBJECTS", 100)
    path = write(tmp_path / "a.weights.h5", write_current, harm)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    assert refused(path).startswith("an HDF5 file ") and HOSTILE[harm] in refused(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17  # KiB
    assert time.monotonic() - started < 5


def test_another_file_is_told_for_what_it_is(tmp_path):
    path = tmp_path / "a.h5"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", "{}")
    assert "train.start_from takes if it is of a run of this project" in refused(path)
    for name, told in (("archive/data.pkl", "as torch.save writes"), ("a.txt", "and not of PyTorch")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, "")
        assert told in refused(path)
    for content, told in (
        (b"", "empty"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." + b"...", "a PyTorch file"),
        (b"<html>sign in</html>", "another format, beginning with the bytes 3c 68"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file of 8 bytes, cut or damaged"),
    ):
        path.write_bytes(content)
        assert told in refused(path)
    assert "not of Keras's weights" in refused(write(path, lambda file: file.create_group("a")))


def test_a_cut_or_sparse_file_is_told_soon(tmp_path):
    path = write(tmp_path / "a.h5", write_legacy)
    content = path.read_bytes()
    for share in (0.1, 0.5, 0.99):
        path.write_bytes(content[: int(share * len(content))])
        assert "cut or damaged" in refused(path)
    with open(path, "wb") as file:
        file.truncate(10 * 10**9)
    tracemalloc.start()
    assert "another format, beginning with the bytes 00 00" in refused(path)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()
