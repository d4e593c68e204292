"""A network's weights as PyTorch wrote them before release 1.6 (`torch.save` of a state dict), without torch.

Such a file is five pickles (a magic number, the protocol, the sizes of types, the state, the keys of its
storages) and then, for each key, an int64 count and that many numbers, little-endian
(torch/serialization.py, _legacy_save). A pickle is a small program, and Python's own reader runs whatever it
names; here only the few steps that a state dict is made of are known, so nothing of the file is executed.
"""
import io
import math
import os
import pickletools
import stat
import warnings
import zipfile
from typing import NamedTuple

import numpy as np

from base.problem import Problem, shown

MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the first pickle: 0x1950a86a20f9469cfc6c
PROTOCOL = 1001
PARTS = "magic number", "protocol", "sizes of types", "state", "keys of the storages"
ROOM = 1 << 19  # bytes of all five pickles: 300 tensors need 47,000, and what they make is 100 times as large
DTYPES = {"Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4", "Short": "<i2",
          "Char": "i1", "Byte": "u1", "Bool": "?"}  # of the storages
DTYPES = {f"torch {name}Storage": dtype for name, dtype in DTYPES.items()}
ORDERED, REBUILD = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE"}
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
LARGEST = 1 << 40  # of a size, stride or offset
GRIPES = (ValueError, LookupError, TypeError, AttributeError, OverflowError)  # of a pickle that is none
EXPECTED = "expected a state dict of tensors as PyTorch saved it before release 1.6"


class Storage(NamedTuple):
    """Where the numbers of tensors stand."""

    key: str
    dtype: str
    count: int


class Tensor(NamedTuple):
    """A window of a storage, offset and strides in numbers, not yet checked."""

    storage: Storage
    offset: int
    sizes: tuple
    strides: tuple


def read_torch(path):
    """{name: array} of a state dict in PyTorch's format before 1.6, in its order; read-only views of the
    numbers in the file, with its strides (not all C-contiguous), shapes and types. Problem (exit 3) where the
    file is another, cut, or names anything but tensors; then nothing has been executed, and no more memory
    taken than the size of the file and 100 MB."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("a folder or device, no file")
        with open(path, "rb") as file:
            return read_state(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        found = (error.strerror or str(error)).lower()
    except ValueError as error:
        found = str(error)
    raise Problem(f"weights {path}: {found}, {EXPECTED}; fetch the file again, or write it so in torch: "
                  "torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)", code=3)


def read_state(file, size):
    """As `read_torch`, of an open file of so many bytes. ValueError that says what was found."""
    head = io.BytesIO(file.read(ROOM))
    if not head.getvalue().startswith(MAGIC):
        raise ValueError(what_else(file, head.getvalue(), size))
    parts = []
    for part in PARTS:
        try:
            with warnings.catch_warnings(action="ignore"):  # of escapes in texts
                parts.append(Unpickler().run(head))
        except GRIPES as error:
            text = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(f"its pickle {len(parts) + 1}, the {part}, cannot be read ({text})") from None
    _, protocol, system, state, keys = parts
    if type(protocol) is not int or protocol != PROTOCOL or type(system) is not dict \
            or system.get("little_endian") is not True:
        raise ValueError(f"not of protocol {PROTOCOL} with little-endian numbers")
    file.seek(head.tell())
    storages = read_storages(file, size, keys, storages_of(state))
    return {name: window(name, tensor, storages) for name, tensor in state.items()}


def what_else(file, head, size):
    """What a file is that does not begin with PyTorch's magic number."""
    if not head:
        return "empty"
    if head.startswith(b"\x89HDF"):
        return "an HDF5 file, as Keras writes"
    if head.startswith(b"PK\x03\x04"):
        return what_zip(file)
    if head.startswith(MAGIC):
        return "a PyTorch file"
    if MAGIC.startswith(head):
        return f"cut after {size} bytes"
    return f"another format, beginning with the bytes {head[:8].hex(' ')}"


def what_zip(file):
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return "a zip file, and cut"
    if any(name.endswith("/data.pkl") for name in names):
        return "a zip file, as torch.save writes since release 1.6"
    if {"config.json", "metadata.json"} <= {*names}:
        return "a whole Keras model, which train.start_from takes if it is of a run of this project"
    return "a zip file, and not of PyTorch"


class Unpickler:
    """Runs one pickle of a few kinds of steps: texts, whole numbers, lists, tuples, dicts of text keys, and
    `Tensor`. The names that it admits are looked up nowhere: they stand for themselves."""

    def __init__(self):
        self.stack, self.marks, self.memo = [], [], {}

    def run(self, file):
        """The value of the next pickle of a binary file. One of GRIPES where it is cut, senseless, or does
        more than a state dict needs."""
        for step, value, _ in pickletools.genops(file):
            name = step.name
            if name == "STOP":
                return self.stack.pop()
            if name in VALUES:
                self.stack.append(value)
            elif name in CONSTANTS:
                self.stack.append(CONSTANTS[name])
            elif name in EMPTY:
                self.stack.append(EMPTY[name]())
            elif name in TUPLES:
                self.stack.append(tuple(self.take(-TUPLES[name])))
            elif name in ("BINPUT", "LONG_BINPUT"):
                self.memo[value] = self.stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                self.stack.append(self.memo[value])
            elif name != "PROTO":
                self.change(name, value)
        raise ValueError("cut")

    def take(self, start):
        """The values of the stack from there on, taken off it."""
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def change(self, name, value):
        """The steps that put values together."""
        if name == "MARK":
            self.marks.append(len(self.stack))
        elif name == "TUPLE":
            self.stack.append(tuple(self.take(self.marks.pop())))
        elif name in ("APPEND", "APPENDS"):
            items = self.take(-1 if name == "APPEND" else self.marks.pop())
            checked(self.stack[-1], list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self.take(-2 if name == "SETITEM" else self.marks.pop())
            pairs = zip(items[::2], items[1::2], strict=True)
            checked(self.stack[-1], dict).update((checked(key, str), item) for key, item in pairs)
        elif name == "GLOBAL":
            if value not in (ORDERED, REBUILD, *DTYPES):
                raise ValueError(f"names {shown('.'.join(value.split()))}, which is not admitted")
            self.stack.append(value)
        elif name == "REDUCE":
            self.stack.append(called(*self.take(-2)))
        elif name == "BINPERSID":
            self.stack.append(storage_of(self.stack.pop()))
        elif name == "BUILD":  # of a state dict: the versions of its layers
            self.stack.pop()
        else:
            raise ValueError(f"step {name}, which no state dict needs")


def checked(value, kind):
    if type(value) is not kind:
        raise TypeError(f"a {type(value).__name__} in the place of a {kind.__name__}")
    return value


def called(name, arguments):
    """What one of the two admitted functions makes."""
    checked(arguments, tuple)
    if name == ORDERED and not arguments:
        return {}
    if name != REBUILD:
        raise ValueError("a call of what is no function of a state dict")
    storage, offset, sizes, strides, *_ = arguments
    return Tensor(checked(storage, Storage), offset, checked(sizes, tuple), checked(strides, tuple))


def storage_of(about):
    """The storage that a state names: ("storage", type, key, device, count, view), view always None."""
    _, kind, key, _, count, view = checked(about, tuple)
    if checked(kind, str) not in DTYPES or view is not None:
        raise ValueError(f"a storage of type {shown(kind)}, or of a view")
    if not 0 <= checked(count, int) <= LARGEST:
        raise ValueError("a storage of a senseless size")
    return Storage(checked(key, str), DTYPES[kind], count)


def storages_of(state):
    """{key: Storage} of a state. ValueError where it is no dict of tensors."""
    storages = {}
    if type(state) is not dict or not state:
        raise ValueError(f"a {type(state).__name__} without tensors" if not state
                         else f"a {type(state).__name__}")
    for name, tensor in state.items():
        if type(tensor) is not Tensor:
            raise ValueError(f"its entry {shown(name)} is a {type(tensor).__name__}, no tensor")
        if storages.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise ValueError(f"its entry {shown(name)} shares a storage of another type or size")
    return storages


def read_storages(file, size, keys, storages):
    """{key: bytes} of the numbers that follow the pickles to the end of a file of so many bytes."""
    if type(keys) is not list or any(type(key) is not str for key in keys) \
            or sorted(keys) != sorted(storages):
        raise ValueError("its keys of storages are not those of its tensors")
    numbers = {}
    for key in keys:
        length = storages[key].count * np.dtype(storages[key].dtype).itemsize
        count = file.read(8)
        which = f"storage {len(numbers) + 1} of {len(keys)}"
        if len(count) < 8 or file.tell() + length > size:
            raise ValueError(f"cut after {size} bytes, within its {which}")
        if int.from_bytes(count, "little") != storages[key].count:
            raise ValueError(f"its {which} has another size than the state says")
        numbers[key] = file.read(length)
    if file.tell() != size:
        raise ValueError(f"{size - file.tell()} bytes longer than its tensors")
    return numbers


def window(name, tensor, storages):
    """A tensor as an array. ValueError where it would reach past its storage, or repeat numbers of it."""
    storage, offset, sizes, strides = tensor
    dtype = np.dtype(storage.dtype)
    if (any(type(value) is not int or not 0 <= value <= LARGEST for value in (offset, *sizes, *strides))
            or math.prod(sizes) > storage.count or len(sizes) != len(strides)):
        raise ValueError(f"its tensor {shown(name)} is larger than its storage, or of senseless sizes")
    steps = [stride * dtype.itemsize if size > 1 else 0 for size, stride in zip(sizes, strides, strict=True)]
    try:
        return np.ndarray(sizes, dtype, storages[storage.key], offset * dtype.itemsize, steps)
    except ValueError:
        raise ValueError(f"its tensor {shown(name)} reaches past its {storage.count} numbers") from None
