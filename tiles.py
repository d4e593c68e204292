"""Tiles on disk: rasters and their windows, colours and class indices, the eight views, prepared tiles.

A tile is one raster with its labels. Arrays are [row, col, band]; labels are uint8 class indices, IGNORE where
nothing is scored.
"""
import contextlib
import json
import os
import warnings
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from files import Problem

IGNORE = 255
BAND_ROWS = 1024  # rows read at a time where a whole raster has to be read: memory depends on width, not on height


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


# -- rasters ----------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def without_place_allowed():
    """Silences rasterio's warning about rasters without georeference: here they are a case, not a surprise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextlib.contextmanager
def reading(path):
    """Turns GDAL's failure to read into a Problem (exit 3) that names the file."""
    try:
        yield
    except RasterioError as error:
        raise Problem(f"raster {path}: {' '.join(str(error).split())}, expected a whole, readable GeoTIFF; fetch it "
                      "again", code=3) from None


@contextlib.contextmanager
def open_raster(path):
    """Opens a GeoTIFF for reading (rasterio dataset). Problem (exit 3) where it is missing or not a plain GeoTIFF.

    Only the GeoTIFF driver on a file that exists: a VRT or a network address under a .tif name is refused.
    """
    path = os.path.abspath(path)
    if not os.path.isfile(path):
        raise Problem(f"raster {path}: no such file, expected a GeoTIFF", code=3)
    with without_place_allowed(), reading(path):
        raster = rasterio.open(path, driver="GTiff")
    with raster:
        yield raster


def check_bands(raster, bands, named):
    """What keeps these bands of an open raster from being used, as one line; None where nothing does. `named` says
    where the bands come from."""
    if max(bands) > raster.count:
        return f"{raster.count} bands, expected at least {max(bands)} ({named})"
    if any(raster.dtypes[band - 1] != "uint8" for band in bands):
        return f"{raster.dtypes[0]} pixels, expected uint8; convert it to 8 bit first"
    if rasterio.enums.ColorInterp.palette in raster.colorinterp:
        return "a palette image, expected bands of brightness; convert it to RGB first (gdal_translate -expand rgb)"
    if any(raster.colorinterp[band - 1] == rasterio.enums.ColorInterp.alpha for band in bands):
        return f"an alpha band among {bands} ({named}), expected bands of brightness; leave that number out"
    return None


def read_rows(raster, bands, start, stop):
    """Pixels of rows start..stop as uint8 [rows, W, B]."""
    with reading(raster.name):
        pixels = raster.read(bands, window=((start, stop), (0, raster.width)))
    return np.ascontiguousarray(np.moveaxis(pixels, 0, -1))


def georeference(raster, assume_crs):
    """{"crs": text or None, "transform": six numbers or None} of an open raster.

    A .tfw gives a transform without a coordinate system; `assume_crs` then names it. No transform, no georeference.
    """
    if raster.transform.is_identity:
        return {"crs": None, "transform": None}
    crs = raster.crs.to_string() if raster.crs else assume_crs
    return {"crs": crs, "transform": list(raster.transform)[:6]}


# -- colours and class indices ----------------------------------------------------------------------------------------

def parse_colour(text):
    """(red, green, blue), 0..255, of "#rrggbb"."""
    return tuple(bytes.fromhex(text[1:]))


def palette(classes):
    """The classes' colours (uint8 [256, 3]); IGNORE and unused indices are black."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(classes)] = [parse_colour(colour) for colour in classes.values()]
    return colours


class ColourDecoder:
    """Colours to class indices by the nearest palette colour, within a tolerance, over all 2**24 colours.

    Every colour is looked at once, when it is first met; a pixel then costs one table look-up. `classes` maps names
    to "#rrggbb", class index in that order; `ignore_colours` become IGNORE; so does a colour that differs from
    every palette colour by more than `tolerance` (0..255) in some channel: it is counted as unknown. Of several
    colours within the tolerance the nearest by Euclidean distance is taken.
    """

    KINDS = ("exact", "repaired", "ignored", "unknown")

    def __init__(self, classes, ignore_colours, tolerance):
        self.colours = np.array([parse_colour(c) for c in [*classes.values(), *ignore_colours]], np.int32)
        self.index = np.array([*range(len(classes)), *[IGNORE] * len(ignore_colours)], np.uint8)
        self.tolerance = tolerance
        self.labels = np.full(2**24, IGNORE, np.uint8)
        self.kinds = np.full(2**24, 255, np.uint8)  # 255: not met yet

    def _meet(self, codes):
        met = np.zeros(2**24, bool)
        met[codes] = True
        new = np.flatnonzero(met & (self.kinds == 255))
        for part in np.array_split(new, max(1, len(new) // 2**18)):
            rgb = np.stack([part >> 16, part >> 8 & 255, part & 255], -1).astype(np.int32)
            difference = rgb[:, None] - self.colours
            within = np.abs(difference).max(-1) <= self.tolerance
            nearest = np.where(within, (difference ** 2).sum(-1), 2**20).argmin(-1)
            known, off = within.any(-1), np.abs(rgb - self.colours[nearest]).max(-1)
            self.labels[part] = np.where(known, self.index[nearest], IGNORE)
            self.kinds[part] = np.where(~known, 3, np.where(self.index[nearest] == IGNORE, 2, (off > 0).astype(int)))

    def decode(self, colours):
        """(labels uint8 [H, W], pixels of each of KINDS int64 [4], {unknown "#rrggbb": pixels}) of uint8 [H, W, 3]."""
        codes = colours[..., 0].astype(np.uint32) << 16
        codes |= colours[..., 1].astype(np.uint32) << 8
        codes |= colours[..., 2]
        kinds = self.kinds[codes]
        if (kinds == 255).any():
            self._meet(codes[kinds == 255])
            kinds = self.kinds[codes]
        unknown, counts = np.unique(codes[kinds == 3], return_counts=True)
        return (self.labels[codes], np.bincount(kinds.ravel(), minlength=4),
                {f"#{code:06x}": int(count) for code, count in zip(unknown, counts)})


# -- prepared tiles ---------------------------------------------------------------------------------------------------

def read_manifest(prepared):
    """The manifest of a prepared folder, {"tiles": {name: row}}; {"tiles": {}} where there is none yet."""
    path = Path(prepared) / "manifest.json"
    needed = {"shape", "made_with", "raw", "files", "pixels", "georeference", "classes"}
    try:
        manifest = json.loads(path.read_bytes())
        for row in manifest["tiles"].values():
            if not (needed <= row.keys() and all(isinstance(row[key], dict) for key in needed - {"shape"})):
                raise KeyError
        return manifest
    except FileNotFoundError:
        return {"tiles": {}}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Problem(f"manifest {path}: damaged, expected JSON with tiles; remove it and run prepare_data.py again",
                      code=3) from None


def made_with(data):
    """The data settings that a prepared tile depends on; one prepared with others is not used."""
    return {"bands": data["bands"], "classes": [list(pair) for pair in data["classes"].items()],  # their order counts
            "ignore_colours": data["ignore_colours"], "tolerance": data["tolerance"], "assume_crs": data["assume_crs"]}


def open_prepared(data, tile, *kinds):
    """Memory maps of a prepared tile: `kinds` are "image" (uint8 [H, W, B]), "labels" and "eroded" (uint8 [H, W]).

    None stands for eroded labels that the data set does not have. Problem (exit 3) where the tile is not prepared,
    prepared with other settings, or its file is not as the manifest says.
    """
    folder = Path(data["prepared"])
    row = read_manifest(folder)["tiles"].get(tile)
    again = "run prepare_data.py again"
    if row is None:
        raise Problem(f"tile {tile} in {folder}: not prepared, expected it in manifest.json; {again}", code=3)
    if row["made_with"] != made_with(data):
        raise Problem(f"tile {tile} in {folder}: prepared with other data settings, expected this run's; {again}, or "
                      "give this run a data.prepared folder of its own", code=3)
    arrays = []
    for kind in kinds:
        file = row["files"].get(kind)
        if file is None:
            arrays.append(None)
            continue
        try:
            array = np.load(folder / file["name"], mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):
            raise Problem(f"prepared tile {folder / file['name']}: missing or damaged, expected a NumPy array; {again}",
                          code=3) from None
        expected = row["shape"] if kind == "image" else row["shape"][:2]
        if array.dtype != np.uint8 or list(array.shape) != expected:
            raise Problem(f"prepared tile {folder / file['name']}: {array.dtype} {array.shape}, expected uint8 "
                          f"{tuple(expected)}; {again}", code=3)
        arrays.append(array)
    return arrays
