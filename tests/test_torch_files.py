"""Weights in PyTorch's format before 1.6: the real file, files written here byte by byte, hostile ones."""

import math
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from base.problem import Problem
from learning.torch_files import read_torch
from learning.weight_files import weights_file

KINDS = {
    "Float": "<f4",
    "Double": "<f8",
    "Half": "<f2",
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "?",
}
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def text(value):
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def number(value):
    """A whole number as a pickle of protocol 2 spells it."""
    return pickle.dumps(value, protocol=2)[2:-1]


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(kind, key, count, offset, sizes, strides):
    """The steps of a pickle that make a tensor, as torch 1.0 writes them."""
    about = text("storage") + f"ctorch\n{kind}Storage\n".encode() + text(key) + text("cpu") + number(count)
    storage = b"(" + about + b"NtQ"
    about = (
        storage + number(offset) + numbers(sizes) + numbers(strides) + b"\x89ccollections\nOrderedDict\n)R"
    )
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + about + b"tR"


def state_of(tensors):
    """The pickle of a state dict of {name: steps}, with the versions of its layers."""
    entries = b"".join(text(name) + steps for name, steps in tensors.items())
    about = b"}X\x09\x00\x00\x00_metadataccollections\nOrderedDict\n)Rsb"
    return b"\x80\x02ccollections\nOrderedDict\n)Rq\x00(" + entries + b"u" + about + b"."


def write(path, state, storages, system=SYSTEM, protocol=1001, keys=None):
    """A whole file of a state's pickle and {key: array}."""
    parts = [pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, protocol, system)]
    keys = pickle.dumps(list(storages) if keys is None else keys, protocol=2)
    rows = [len(array).to_bytes(8, "little") + array.tobytes() for array in storages.values()]
    path.write_bytes(b"".join([*parts, state, keys, *rows]))
    return path


STORED = np.arange(12, dtype="<f4")
SMALL = {"w": tensor("Float", "7", 12, 1, (2, 3), (1, 4)), "n": tensor("Long", "8", 1, 0, (), ())}


def write_small(path, **changes):
    parts = {"state": state_of(SMALL), "storages": {"7": STORED, "8": np.array([5])}, **changes}
    return write(path, **parts)


def refused(path):
    """The one line of a refusal."""
    with pytest.raises(Problem) as caught:
        read_torch(path)
    assert caught.value.code == 3 and len(caught.value.lines) == 1
    line = caught.value.lines[0]
    assert line.startswith(f"weights {path}: ") and "expected" in line and "torch.save(" in line
    return line


def test_the_file_of_efficientnet_lite0_is_read_with_its_strides():
    state = read_torch(weights_file("efficientnet_lite0", "imagenet"))
    assert len(state) == 296 and sum(not array.flags.c_contiguous for array in state.values()) == 50
    assert next(iter(state)) == "_conv_stem.weight" and list(state)[-1] == "_fc.bias"
    assert state["_conv_stem.weight"].shape == (32, 3, 3, 3) and state["_fc.weight"].shape == (1000, 1280)
    assert state["_bn0.num_batches_tracked"].shape == () and state["_bn0.running_var"].min() >= 0
    trained = [array for name, array in state.items() if name.endswith((".weight", ".bias"))]
    assert sum(array.size for array in trained) == 4_652_008  # of EfficientNet-Lite0, as published
    stem = state["_conv_stem.weight"]  # neighbours in an edge filter are alike; read without strides: .005
    assert np.corrcoef(stem[..., :-1].ravel(), stem[..., 1:].ravel())[0, 1] > 0.4


def test_a_file_by_hand_gives_its_numbers(tmp_path):
    state = read_torch(write_small(tmp_path / "small.pth"))
    assert list(state) == ["w", "n"] and state["n"] == 5 and state["n"].dtype == np.int64
    np.testing.assert_array_equal(state["w"], [[1, 5, 9], [2, 6, 10]])
    assert state["w"].dtype == np.float32 and not state["w"].flags.writeable


@pytest.mark.parametrize("kind", KINDS)
def test_each_type_of_numbers(tmp_path, kind):
    stored = np.array([0, 1, 1], KINDS[kind])
    steps = {"a": tensor(kind, "k", 3, 1, (2,), (1,)), "empty": tensor(kind, "k", 3, 3, (0, 9), (9, 1))}
    state = read_torch(write(tmp_path / "a.pth", state_of(steps), {"k": stored}))
    np.testing.assert_array_equal(state["a"], stored[1:])
    assert state["a"].dtype == stored.dtype and state["empty"].shape == (0, 9)


@given(st.lists(st.integers(1, 4), max_size=4).flatmap(lambda s: st.tuples(st.just(s), st.permutations(s))))
def test_turned_axes_are_read_as_numpy_turns_them(tmp_path_factory, drawn):
    sizes = drawn[0]
    turn = np.argsort(drawn[1], kind="stable")
    stored = np.arange(math.prod(sizes), dtype="<f4")
    turned = stored.reshape(sizes).transpose(turn)
    strides = [stride // 4 for stride in turned.strides]
    steps = {"t": tensor("Float", "k", stored.size, 0, turned.shape, strides)}
    path = write(tmp_path_factory.mktemp("turned") / "t.pth", state_of(steps), {"k": stored})
    np.testing.assert_array_equal(read_torch(path)["t"], turned)


@pytest.mark.parametrize(
    "offset, sizes, strides",
    [
        (0, (13,), (1,)),
        (6, (7,), (1,)),
        (1, (2, 3), (2, 5)),
        (-1, (2,), (1,)),
        (0, (-2,), (1,)),
        (0, (2,), (-1,)),
        (13, (1,), (1,)),
        (0, (2, 2), (1,)),
        (0, (10**6, 10**6), (0, 0)),
        (0, (2**62,), (0,)),
        (0, (2**70,), (2**70,)),
        (0, (2,), (2**62,)),
        (0, (1,) * 70, (1,) * 70),
        (None, (2,), (1,)),
        (True, (2,), (1,)),
        (0, (None,), (1,)),
        (0, ("2",), (1,)),
        (0, (2,), ((1,),)),
    ],
)
def test_a_tensor_that_reaches_past_its_storage_is_refused(tmp_path, offset, sizes, strides):
    steps = {"w": tensor("Float", "k", 12, offset, sizes, strides)}
    assert 'its tensor "w" ' in refused(write(tmp_path / "a.pth", state_of(steps), {"k": STORED}))


WRONG = {
    "its entry \"a\" is a dict, no tensor": {"state": state_of({"a": b"}"})},
    "its entry \"a\" is a int, no tensor": {"state": state_of({"a": number(3)})},
    "a dict without tensors": {"state": state_of({})},
    "a list": {"state": pickle.dumps([1], protocol=2)},
    "its keys of storages are not those of its tensors": {"keys": ["7"]},
    "its keys of storages are not": {"keys": ["7", "7", "8"]},
    "its keys of storages are": {"keys": ["7", 8]},
    "its keys of": {"keys": 3},
    "not of protocol 1001 with little-endian": {"system": {"little_endian": False}},
    "not of protocol 1001": {"protocol": 1002},
    "its storage 1 of 2 has another size": {"storages": {"7": STORED[:9], "8": np.array([5])}},
    "8 bytes longer than its tensors": {"more": bytes(8)},
    "names \"torch.BFloat16Storage\"": {"state": state_of({"a": tensor("BFloat16", "7", 1, 0, (), ())})},
    "shares a storage of another type": {
        "state": state_of({**SMALL, "x": tensor("Long", "7", 6, 0, (), ())})
    },
}  # fmt: skip


@pytest.mark.parametrize("found", WRONG)
def test_what_a_file_may_lack_is_said(tmp_path, found):
    changes = dict(WRONG[found])
    more = changes.pop("more", b"")
    path = write_small(tmp_path / "a.pth", **changes)
    path.write_bytes(path.read_bytes() + more)
    assert found in refused(path)


def test_other_files_are_told_apart(tmp_path):
    path = tmp_path / "a.pth"
    assert "no such file" in refused(path)
    assert "a folder or device" in refused(tmp_path)
    assert "a folder or device" in refused("/dev/zero")
    for content, found in {
        b"": "empty",
        b"\x89HDF\r\n\x1a\n" + bytes(99): "an HDF5 file",
        b"\x80\x02\x8a\x0al": "cut after 5 bytes",
        b"PK\x03\x04" + bytes(99): "a zip file, and cut",
        b"<html>404": "another format, beginning with the bytes 3c 68 74 6d 6c 3e 34 30",
    }.items():
        path.write_bytes(content)
        assert found in refused(path)
    for member, found in {
        "net/data.pkl": "torch.save writes since release 1.6",
        "a": "not of PyTorch",
    }.items():
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, b"")
        assert found in refused(path)


class Evil:
    """Runs a command where a pickle of it is loaded."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_nothing_in_a_file_is_executed(tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "a.pth"
    command = f"touch {canary}"
    calls = [pickle.dumps(Evil(command), protocol=version) for version in (0, 1, 2, 3, 4, 5)]
    calls += [f"(S'{command}'\nios\nsystem\n.".encode(), f"(cos\nsystem\nS'{command}'\no.".encode()]
    calls += [state_of({"a": f"cbuiltins\nexec\n(X{'':4}tR".encode()})]
    calls += [b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(ctorch\nFloatStorage\nK\x00)))tR."]
    calls += [b"\x80\x02ctorch\nFloatStorage\n)R.", b"\x80\x02ccollections\nOrderedDict\n)R}b."]
    for call in calls:
        refused(write_small(path, state=call))
        path.write_bytes(call)
        refused(path)
        whole = write_small(path).read_bytes()
        keys = pickle.dumps(["7", "8"], protocol=2)
        path.write_bytes(whole.replace(keys, call))
        refused(path)
    assert pickle.loads(calls[2]) == 0 and canary.exists()  # that it would have run
    assert 'names "posix.system"' in refused(write_small(path, state=calls[2]))


BOMBS = """
import resource, sys
sys.path.insert(0, "tests")
from pathlib import Path
from test_torch_files import *
path, steps = Path(sys.argv[1]), 1 << 15
pairs = b"(K\\x01K\\x02tq\\x00" + b"".join(b"h%ch%c\\x86q%c" % (i, i, i + 1) for i in range(90))
bombs = {
    "lists, as many as there is room for": b"(" + b"]" * (1 << 20),
    "marks": b"(" * steps,
    "a tuple in a tuple in a tuple": b")" + b"\\x85" * steps,
    "the same, as a key": b"})" + b"\\x85" * steps + b"Ns.",
    "pairs of pairs of pairs, as a key": b"}" + pairs + b"Ns.",
    "copies of a value": b"N" + b"2" * steps,
    "a number of 2 GB": b"\\x8b\\xff\\xff\\xff\\x7f",
    "a number of 32 kB": b"\\x8b\\x00\\x80\\x00\\x00" + b"\\x7f" * steps + b".",
    "a number of 32,000 digits": b"I" + b"9" * steps + b"\\n.",
    "a text of 2 GB": b"X\\xff\\xff\\xff\\x7f",
    "bytes without end": b"\\x8e" + b"\\xff" * 7 + b"\\x00",
    "an array without end": b"\\x96" + b"\\xff" * 7 + b"\\x00",
    "place 4,294,967,295 of the memo": b"Nr\\xff\\xff\\xff\\xff" * 9,
    "a dict in itself": b"}q\\x00X\\x01\\x00\\x00\\x00ah\\x00s.",
    "a list in itself": b"]q\\x00h\\x00a.",
}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for bomb in bombs.values():
    refused(write_small(path, state=b"\\x80\\x02" + bomb))
    if len(bomb) <= 2 * steps:
        refused(write_small(path, state=state_of({"a": bomb})))
huge = tensor("Float", "7", 2**39, 0, (2**39,), (1,))
refused(write_small(path, state=state_of({**SMALL, "w": huge})))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_bombs_take_no_memory_and_no_time(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BOMBS, tmp_path / "a.pth"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100  # MB


def spoilt(content):
    """Some content with bytes flipped, put in or left out."""
    places = st.integers(0, len(content) - 1)
    flips = st.lists(st.tuples(places, st.integers(1, 255)), min_size=1, max_size=4)

    def flipped(pairs):
        changed = bytearray(content)
        for place, value in pairs:
            changed[place] ^= value
        return bytes(changed)

    out = st.tuples(places, st.integers(1, 40)).map(lambda p: content[: p[0]] + content[p[0] + p[1] :])
    put = st.tuples(places, st.binary(max_size=6)).map(lambda p: content[: p[0]] + p[1] + content[p[0] :])
    return flips.map(flipped) | put | out


@pytest.fixture(scope="module")
def a_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("spoilt") / "a.pth"
    return path, write_small(path).read_bytes()


@hypothesis_settings(max_examples=200)
@given(st.data())
def test_a_spoilt_file_is_read_or_refused(a_file, data):
    path, content = a_file
    path.write_bytes(data.draw(spoilt(content)))
    try:
        state = read_torch(path)
    except Problem as problem:
        assert problem.code == 3 and len(problem.lines) == 1
    else:
        assert sum(array.size for array in state.values()) <= 2 * 13
        assert all(np.array(array).shape == array.shape for array in state.values())  # all can be read


def test_a_file_cut_anywhere_is_refused(a_file):
    path, content = a_file
    for length in range(len(content)):
        path.write_bytes(content[:length])
        refused(path)
