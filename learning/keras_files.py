"""What a file of Keras's weights is, looked at before Keras reads it.

HDF5 can lead out of a file (links, external and virtual datasets) and back to where one came from, and
declare a million times the numbers that it stores; Keras follows much of that, and admits any 4 GiB
(keras/src/saving/saving_lib.py, safe_get_h5_dataset). Its two formats, and which of them a file's name stands
for: keras/src/saving/saving_api.py (load_weights).
"""
import contextlib
import math
import os
import tempfile
from pathlib import Path

import h5py
import numpy as np

from learning.torch_files import ROOM, what_else

HDF5 = b"\x89HDF\r\n\x1a\n"
LEGACY, CURRENT = ".h5", ".weights.h5"  # the endings by which Keras tells its formats
MOST_OBJECTS = 20_000  # the largest encoder, with an optimiser's numbers, has 5,000
MOST_BYTES = 1_000_000_000  # of all numbers together, of one chunk: 4 times the largest, with an optimiser's
MOST_NAMES = 1 << 16  # bytes of an attribute: Keras divides longer lists of names
CLASSIFIED = 1000  # ImageNet's classes: no layer of an encoder has so many filters


@contextlib.contextmanager
def for_keras(path):
    """Yields (a path from which Keras reads this file's weights, True where they are those of a network with
    its classifier). The path is the file's own, or, where its name does not tell its format, a link to it in
    a temporary folder. ValueError that says what was found where it is another file, is cut, or leads out
    of itself; nothing but that file has been read then, and none of its numbers."""
    try:
        with h5py.File(path, "r") as file:
            shapes, format_of_file = shapes_in(file), format_of(file)
    except (OSError, LookupError, RuntimeError) as error:  # of h5py, as of damaged parts
        raise ValueError(what_instead(path, error)) from None
    with tempfile.TemporaryDirectory() as folder:
        named = Path(path)
        if format_by_name(named) != format_of_file:
            named = Path(folder, f"weights{format_of_file}")
            named.symlink_to(os.path.abspath(path))
        yield named, any(shape[-1:] == (CLASSIFIED,) for shape in shapes)


def format_by_name(path):
    return next((ending for ending in (CURRENT, LEGACY) if path.name.endswith(ending)), None)


def format_of(file):
    """The format of an open HDF5 file of Keras's weights, or of a whole model."""
    if {"layer_names", "layer_names0"} & {*file.attrs} or "model_weights" in file:
        return LEGACY
    if {"layers", "_layer_checkpoint_dependencies"} & {*file}:
        return CURRENT
    raise ValueError("an HDF5 file, and not of Keras's weights")


def what_instead(path, error):
    """What a file is that cannot be opened as HDF5."""
    with open(path, "rb") as file:
        head, size = file.read(ROOM), os.fstat(file.fileno()).st_size
        if head.startswith(HDF5):
            return f"an HDF5 file of {size:,} bytes, cut or damaged ({' '.join(str(error).split())[:120]})"
        return what_else(file, head, size)


def shapes_in(file):
    """The shapes of all datasets of an open HDF5 file; ValueError as of `for_keras`."""
    todo, seen, shapes, declared = [file], {address(file)}, [], 0
    while todo:
        group = todo.pop()
        check_names(group)
        if len(seen) + len(group) > MOST_OBJECTS:
            raise ValueError(f"an HDF5 file of more than {MOST_OBJECTS:,} objects")
        for name in group:
            if type(group.get(name, getlink=True)) is not h5py.HardLink:
                raise ValueError("an HDF5 file with a link to elsewhere")
            item = group[name]
            if address(item) in seen:
                raise ValueError("an HDF5 file with two names for the same")
            seen.add(address(item))
            if isinstance(item, h5py.Group):
                todo.append(item)
            else:
                declared += size_of(item)
                shapes.append(item.shape)
            if declared > MOST_BYTES:
                raise ValueError(f"an HDF5 file that declares more than {MOST_BYTES:,} bytes of numbers")
    return shapes


def address(item):
    return h5py.h5o.get_info(item.id).addr


def size_of(item):
    """Bytes that reading an item of a group takes at least; ValueError where it is no array of numbers."""
    if not isinstance(item, h5py.Dataset) or item.shape is None or item.dtype.kind not in "fiubV":
        raise ValueError("an HDF5 file with something else than numbers")
    if item.external or item.is_virtual:
        raise ValueError("an HDF5 file with numbers of another file")
    check_names(item)
    return max(math.prod(item.shape), math.prod(item.chunks or ())) * item.dtype.itemsize


def check_names(item):
    """ValueError where the attributes of an item are more than lists of names of layers and weights."""
    if len(item.attrs) > MOST_OBJECTS:
        raise ValueError("an HDF5 file with too many attributes")
    for key in item.attrs:
        about = item.attrs.get_id(key)
        if math.prod(about.shape) * about.dtype.itemsize > MOST_NAMES:
            raise ValueError(f"an HDF5 file with an attribute of more than {MOST_NAMES:,} bytes")
        if key.startswith(("layer_names", "weight_names")):
            names = [part.decode() if isinstance(part, bytes) else str(part)
                     for part in np.ravel(item.attrs[key])]
            if len({*names}) < len(names) or any("." in name.split("/") for name in names):
                raise ValueError("an HDF5 file that names a layer or weight twice")
