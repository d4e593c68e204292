"""Tiles: windows and the eight views, colours and class indices, prepared tiles on disk.

A tile is one raster with its labels. Arrays are [row, col, band]; labels are uint8 class indices, IGNORE where
nothing is scored.
"""
import hashlib
import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from files import Problem, sha256
from params import count_bands

IGNORE = 255
CELL = 128  # pixels: side of the squares in which a prepared tile's classes are counted


# -- places in a raster -----------------------------------------------------------------------------------------------

def starts(size, window, step):
    """First pixels (int64 [N]) of the fewest evenly spread windows that cover an axis of `size` pixels.

    Neighbours are at most `step` apart (0 < step <= window); the last window ends with the axis. An axis no longer
    than the window has the one start 0, and the window then reaches past its end.
    """
    count = 1 + max(0, -(-(size - window) // step))
    return np.rint(np.linspace(0, max(size - window, 0), count)).astype(np.int64)


def view(array, number):
    """View 0..7 of an array [N, N, ...] or a stack of them [..., N, N, B]: quarter turns 0..3, 4..7 mirrored after.

    The first two axes turn; `unview` undoes it exactly. The eight views are the symmetries of the square (D4).
    """
    turned = np.rot90(array, number % 4)
    return turned[:, ::-1] if number >= 4 else turned


def unview(array, number):
    """The array of which `array` is the view of that number."""
    turned = array[:, ::-1] if number >= 4 else array
    return np.rot90(turned, -(number % 4))


def in_pieces(work, size, piece):
    """Yields work(start, stop) for pieces of `size` items, in their order, on all cores at once: NumPy works without
    the interpreter's lock, and fastest on what stays in a core's cache."""
    pieces = [(start, min(start + piece, size)) for start in range(0, size, piece)]
    if len(pieces) < 2:
        yield from itertools.starmap(work, pieces)
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(lambda place: work(*place), pieces)


# -- colours and class indices ----------------------------------------------------------------------------------------

def parse_colour(text):
    """(red, green, blue), 0..255, of "#rrggbb"."""
    return tuple(bytes.fromhex(text[1:]))


def palette(classes):
    """The classes' colours (uint8 [256, 3]); IGNORE and unused indices are black."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(classes)] = [parse_colour(colour) for colour in classes.values()]
    return colours


KINDS = ("exact", "repaired", "ignored", "unknown")  # of label pixels
NOT_MET = 0xFFFF


def build_decoder(data):
    """What turns the raw labels of these data settings into class indices."""
    if data["label_values"] is None:
        return ColourDecoder(data["classes"], data["ignore_colours"], data["tolerance"])
    return ValueDecoder(data["classes"], data["label_values"], data["ignore_colours"])


class ColourDecoder:
    """Colours to class indices by the nearest palette colour, within a tolerance, over all 2**24 colours.

    Every colour is looked at once, when it is first met; a pixel then costs one table look-up. `classes` maps names
    to "#rrggbb", class index in that order; `ignore_colours` become IGNORE; so does a colour that differs from
    every palette colour by more than `tolerance` (0..255) in some channel: it is counted as unknown. Of several
    colours within the tolerance the nearest by Euclidean distance is taken.
    """

    bands = [1, 2, 3]

    def __init__(self, classes, ignore_colours, tolerance):
        self.colours = np.array([parse_colour(c) for c in [*classes.values(), *ignore_colours]], np.int32)
        self.index = np.array([*range(len(classes)), *[IGNORE] * len(ignore_colours)], np.uint8)
        self.tolerance = tolerance
        self.table = np.full(2**24, NOT_MET, np.uint16)  # of each colour, its kind times 256 and its label

    def _meet(self, codes):
        new = np.unique(codes)
        for part in np.array_split(new, max(1, len(new) // 2**18)):
            rgb = np.stack([part >> 16, part >> 8 & 255, part & 255], -1).astype(np.int32)
            difference = rgb[:, None] - self.colours
            within = np.abs(difference).max(-1) <= self.tolerance
            nearest = np.where(within, (difference ** 2).sum(-1), 2**20).argmin(-1)
            known, off = within.any(-1), np.abs(rgb - self.colours[nearest]).max(-1)
            kinds = np.where(~known, 3, np.where(self.index[nearest] == IGNORE, 2, (off > 0).astype(int)))
            self.table[part] = kinds << 8 | np.where(known, self.index[nearest], IGNORE)

    def decode(self, colours):
        """(labels uint8 [H, W], pixels of each of KINDS int64 [4], {unknown "#rrggbb": pixels}) of uint8 [H, W, 3]."""
        labels, counts, unknown = np.empty(colours.shape[:2], np.uint8), np.zeros(4, np.int64), []

        def decode_rows(start, stop):
            codes = colours[start:stop, :, 0].astype(np.uint32)
            for band in (1, 2):
                codes <<= 8
                codes |= colours[start:stop, :, band]
            found = self.table.take(codes)
            highest = found.max(initial=0)
            if highest == NOT_MET:
                self._meet(codes[found == NOT_MET])
                found = self.table.take(codes)
            labels[start:stop] = found  # its lower byte
            if highest < 256:  # all exact
                return [found.size, 0, 0, 0], codes[:0, 0]
            kinds = found >> 8
            return np.bincount(kinds.ravel(), minlength=4), codes[kinds == 3]

        for some, off in in_pieces(decode_rows, labels.shape[0], max(1, 2**18 // max(1, labels.shape[1]))):
            counts += some
            unknown.append(off)
        codes, often = np.unique(np.concatenate([*unknown, np.empty(0, np.uint32)]), return_counts=True)
        return labels, counts, {f"#{code:06x}": int(count) for code, count in zip(codes, often)}


class ValueDecoder:
    """Values of single-band labels to class indices, by a table: `label_values` maps each class to its value, values
    in `ignore` become IGNORE, any other is unknown. Nothing is repaired: values have no nearest one."""

    bands = [1]

    def __init__(self, classes, label_values, ignore):
        self.labels, self.kinds = np.full(2**16, IGNORE, np.uint8), np.full(2**16, 3, np.uint8)
        for index, name in enumerate(classes):
            self.labels[label_values[name]], self.kinds[label_values[name]] = index, 0
        self.kinds[ignore] = 2

    def decode(self, values):
        """As ColourDecoder.decode, of uint8 or uint16 [H, W, 1]; unknown values are named as text."""
        values = values[..., 0]
        kinds = self.kinds[values]
        unknown, counts = np.unique(values[kinds == 3], return_counts=True)
        return (self.labels[values], np.bincount(kinds.ravel(), minlength=4),
                {str(value): int(count) for value, count in zip(unknown, counts)})


# -- prepared tiles ---------------------------------------------------------------------------------------------------

def depth(bands):
    """Bytes of a prepared pixel: its bands, then its label, filled up with zeros to 4 or a multiple of 8, so that a
    pixel is copied as one machine word or a few."""
    return 4 if bands < 4 else -(-(bands + 1) // 8) * 8


class Tile:
    """A prepared tile, memory-mapped: views of its pixels.

    pixels  uint8 [H, W, depth]: the bands, then the label, then zeros
    image   uint8 [H, W, B]
    labels  uint8 [H, W]
    words   the pixels as words: uint32 [H, W, 1] or uint64 [H, W, depth / 8]
    cells   int64 [rows, cols, C]: pixels of each class in each CELL x CELL square
    eroded  uint8 [H, W]: the official labels without class boundaries; None where there are none
    """

    def __init__(self, pixels, bands, cells=None, eroded=None):
        self.pixels, self.bands, self.cells, self.eroded = pixels, bands, cells, eroded
        self.image, self.labels = pixels[..., :bands], pixels[..., bands]
        self.words = pixels.view(np.uint32 if pixels.shape[2] == 4 else np.uint64)
        self.shape = self.labels.shape


def pack(image, labels):
    """Pixels (uint8 [H, W, depth]) of a Tile from its image (uint8 [H, W, B]) and labels (uint8 [H, W])."""
    bands = image.shape[2]
    pixels = np.zeros((*labels.shape, depth(bands)), np.uint8)
    pixels[..., :bands], pixels[..., bands] = image, labels
    return pixels


def count_cells(labels, classes):
    """Pixels of each class in each CELL x CELL square of labels (uint8 [H, W]) from the top left: int64 [.., .., C]."""
    rows, cols = (np.arange(0, size, CELL) for size in labels.shape)
    return np.stack([np.add.reduceat(np.add.reduceat(labels == index, rows, 0, np.int64), cols, 1)
                     for index in range(classes)], -1)


def manifest_text(tiles):
    """A manifest of {tile: row} as text: a line for each tile, and the SHA-256 of all, so that an edit is noticed."""
    lines = ",\n".join(f"{json.dumps(tile)}: {json.dumps(row)}" for tile, row in tiles.items())
    digest = hashlib.sha256(lines.encode()).hexdigest()
    return f'{{"sha256": "{digest}", "tiles": {{\n{lines}\n}}}}\n'


def read_manifest(prepared):
    """The manifest of a prepared folder, {"tiles": {name: row}}; {"tiles": {}} where there is none yet. Problem (exit
    3) where it is not, to the letter, what prepare_data.py wrote."""
    path = Path(prepared) / "manifest.json"
    try:
        text = path.read_text(encoding="utf-8")
        manifest = json.loads(text)
        if manifest_text(manifest["tiles"]) == text:
            return manifest
    except FileNotFoundError:
        return {"tiles": {}}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise Problem(f"manifest {path}: damaged, edited or of an earlier version, expected it as prepare_data.py wrote "
                  f"it; remove the folder {path.parent} and run prepare_data.py again", code=3)


def made_with(data):
    """The data settings that a prepared tile depends on; one prepared with others is not used."""
    keys = ("raw", "image", "label", "eroded_label", "extra", "bands", "scale", "label_values", "ignore_colours",
            "tolerance", "assume_crs")
    return {**{key: data[key] for key in keys},
            "classes": [list(pair) for pair in data["classes"].items()]}  # their order counts


def open_prepared(data, tile, manifest=None):
    """A prepared Tile. Problem (exit 3) where it is not prepared, was prepared with other settings, or its files are
    not, to the bit, what the manifest says. `manifest`: as read already."""
    folder = Path(data["prepared"])
    row = (manifest or read_manifest(folder))["tiles"].get(tile)
    again = "run prepare_data.py again"
    if row is None:
        raise Problem(f"tile {tile} in {folder}: not prepared, expected it in manifest.json; {again}", code=3)
    if row["made_with"] != made_with(data):
        raise Problem(f"tile {tile} in {folder}: prepared with other data settings, expected this run's; {again}, or "
                      "give this run a data.prepared folder of its own", code=3)
    bands, arrays = count_bands(data), {}
    for kind, file in row["files"].items():
        path = folder / file["name"]
        try:
            array, digest = np.asarray(open_memmap(path, mode="r")), sha256(path)
        except (OSError, ValueError, EOFError):
            raise Problem(f"prepared tile {path}: missing or damaged, expected a NumPy array; {again}",
                          code=3) from None
        expected = (*row["shape"][:2], depth(bands)) if kind == "pixels" else tuple(row["shape"][:2])
        if array.dtype != np.uint8 or array.shape != expected:
            raise Problem(f"prepared tile {path}: {array.dtype} {array.shape}, expected uint8 {expected}; {again}",
                          code=3)
        if digest != file["sha256"]:
            raise Problem(f"prepared tile {path}: other bytes than manifest.json names, expected those; {again}",
                          code=3)
        arrays[kind] = array
    return Tile(arrays["pixels"], bands, np.array(row["cells"], np.int64), arrays.get("eroded"))
