"""Rasters on disk: opened without surprises, their bands as bytes, which of their pixels have data.

A path may lead through a zip archive, raw/2_Ortho_RGB.zip/tile.tif: it is read in place.
"""
import contextlib
import json
import os
import shlex
import warnings

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.env import getenv
from rasterio.errors import CRSError, NodataShadowWarning, NotGeoreferencedWarning, RasterioError

from base.problem import Problem
from base.settings import count_bands
from base.zips import check_member, gdal_name, is_file
from imagery.formats import AGAIN, READ, absence, command_to, rasters_in, what_is
from imagery.remote import ASK, address_of, source_of
from imagery.remote import OPTIONS as REMOTE
from imagery.virtual import check_beside, members_of

DTYPES = {"uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64"}  # that become bytes
OPTIONS = {"GPKG": {"IMMUTABLE": "YES"}}  # nothing is written beside the file
ONLY = "CPL_VSIL_CURL_ALLOWED_FILENAME"  # of GDAL: the one address that it may ask, whatever files name
CACHE = 2**27  # bytes of decoded blocks that GDAL keeps at most


@contextlib.contextmanager
def without_place_allowed():
    """Silences rasterio's warnings of no georeference, or nodata beside alpha: here cases, not surprises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        warnings.simplefilter("ignore", NodataShadowWarning)
        yield


@contextlib.contextmanager
def reading(path):
    """Turns GDAL's failure to read into a Problem (exit 3) that names the file."""
    try:
        yield
    except (RasterioError, CPLE_BaseError, CRSError, UnicodeDecodeError) as error:
        error = error.__cause__ or error  # "see previous exception", which nobody sees
        reason, advice = " ".join(str(error).split()), ASK if address_of(path) else AGAIN
        if "missing codec" in reason:
            advice = ("this GDAL lacks its compression: rewrite it by one that has it ("
                      + command_to("gdal_translate -co COMPRESS=DEFLATE", path) + ")")
        raise Problem(f"raster {path}: {reason}, expected a whole, readable file; {advice}",
                      code=3) from None


@contextlib.contextmanager
def writing(named):
    """Turns GDAL's failure to write into a Problem (exit 4) that names what was written."""
    try:
        yield
    except (RasterioError, CPLE_BaseError) as error:
        raise Problem(f"{named}: not written ({' '.join(str(error).split())}), expected a folder to write in "
                      "and room on the disk; see to both and run the same command again", code=4) from None


@contextlib.contextmanager
def open_raster(path, raw=None):
    """Opens a raster for reading (rasterio dataset), with the driver of its first bytes alone. `raw`:
    data.raw, where members of a VRT may lie, beside the VRT's own folder. Problem (exit 3) where it is no
    raster that is read, as a VRT or a network address under a .tif name."""
    if address := address_of(path):
        with open_remote(address) as raster:
            yield raster
        return
    path = os.path.abspath(path)
    if any("\ud800" <= sign <= "\udfff" for sign in path):
        raise Problem(f"raster {path}: a name that is no UTF-8, expected one; rename it", code=3)
    if not is_file(path):
        raise Problem(f"raster {path}: {absence(path)}, expected {READ}", code=3)
    check_member(path)
    driver, wrong = what_is(path)
    if wrong:
        raise Problem(f"raster {path}: {wrong}", code=3)
    check_beside(path)
    if driver == "VRT":
        members_of(path, raw)
    if driver == "GPKG" and len(tables := rasters_in(path)) > 1:
        names, first = ", ".join(tables[:10]), shlex.quote(f"GPKG:{path}:{tables[0]}")
        raise Problem(f"raster {path}: {len(tables)} rasters ({names}), expected one; take one out: "
                      f"gdal_translate {first} {shlex.quote(tables[0])}.tif", code=3)
    if driver == "GPKG" and os.path.isfile(log := f"{path}-wal") and os.path.getsize(log):
        raise Problem(f"raster {path}: {os.path.basename(log)} beside it holds changes of a program that has "
                      "it open, expected a closed one; close it there (QGIS: remove the layer)", code=3)
    local = {"RAW_CHECK_FILE_SIZE": True, ONLY: "none"}
    with rasterio.Env(**local), without_place_allowed():
        with reading(path):
            raster = rasterio.open(gdal_name(path), driver=driver, **OPTIONS.get(driver, {}))
        with raster, blocks_kept(raster):
            yield raster


def blocks_kept(raster):
    """An environment in which GDAL keeps two rows of an open raster's blocks beside those of others, so that
    strips of rows decode each block once; of a VRT, whose members tell, all that it may."""
    kept = getenv().get("GDAL_CACHEMAX", 0)
    for (height, width), dtype in zip(raster.block_shapes, raster.dtypes):
        size = np.dtype(dtype).itemsize if dtype in DTYPES else 16
        kept += 2 * height * (raster.width + width) * size
    return rasterio.Env(GDAL_CACHEMAX=CACHE if raster.driver == "VRT" else min(CACHE, kept))


@contextlib.contextmanager
def open_remote(address):
    """Opens a GeoTIFF on a server, as `open_raster`."""
    source = source_of(address)
    with rasterio.Env(**REMOTE, **{ONLY: source}), without_place_allowed():
        with reading(address):
            raster = rasterio.open(source, driver="GTiff")
        with raster, blocks_kept(raster):
            yield raster


# -- the bands that the network sees -----------------------------------------------------------------------

def scales(data):
    """For every band that the network sees, the values that become 0 and 255, (low, high), or None for bytes
    as they are. data.scale is one of these for all bands, or a list of one for each."""
    return data["scale"] if is_for_each(data["scale"]) else [data["scale"]] * count_bands(data)


def is_for_each(scale):
    """True where data.scale or predict.scale is a list of an entry for each band."""
    return isinstance(scale, list) and not isinstance(scale[0], (int, float))


def to_set(key):
    """What to do where a band needs a scale. `key`: data.scale where tiles are prepared, predict.scale where
    a raster is predicted, None of a tile of the split there."""
    if key is None:
        return "a tile of the split is read as the network was trained, so take it from where the others are"
    auto = "auto or " if key == "predict.scale" else ""
    return (f"set {key} to {auto}[low, high], the values that become 0 and 255, or, where bands differ, to a "
            "list of one entry for each band, such as [null, null, null, [low, high]]")


def check_bands(raster, bands, scale, named, key="data.scale"):
    """Why these bands of an open raster cannot be used, as a line; None where they can. `scale`: an entry of
    `scales` for each, or "auto"; `named`: where the bands come from; `key`: as of `to_set`."""
    if ColorInterp.palette in raster.colorinterp:
        return (f"a palette image ({named}), expected bands of brightness; convert it to RGB first "
                f"({command_to('gdal_translate -expand rgb', raster.name)})")
    if max(bands) > raster.count:
        return f"{raster.count} bands, expected at least {max(bands)} ({named})"
    alpha = next((band for band in bands if raster.colorinterp[band - 1] == ColorInterp.alpha), None)
    if alpha:
        return (f"an alpha band among {bands} ({named}), expected bands of brightness; leave number {alpha} "
                f"out or, if it is no alpha, say so in the file: gdal_edit.py -colorinterp_{alpha} undefined")
    for band, limits in zip(bands, scale):
        dtype = raster.dtypes[band - 1]
        if dtype not in DTYPES:
            whole = dtype in ("int64", "uint64")
            advice = (command_to("gdal_translate -ot Float64", raster.name) if whole else
                      "take their magnitude: gdal_calc.py --calc 'abs(A)'")
            return (f"{dtype} pixels in band {band}, expected whole numbers of at most 32 bits or real ones; "
                    f"convert them first ({advice})")
        if limits is None and dtype != "uint8":
            return f"{dtype} pixels in band {band} ({named}), expected uint8; {to_set(key)}"
        if key == "data.scale" and dtype == "uint8" and limits and limits[1] - limits[0] > 2 * 255:
            return (f"uint8 pixels in band {band} ({named}), which data.scale {limits} squeezes to less than "
                    "half of 0..255, expected null, bytes as they are; set it so (for predicting rasters of "
                    "more bits set predict.scale)")
    return None


def to_bytes(plane, limits):
    """One band (any numbers [H, W]) as uint8: limits (low, high) become 0 and 255, what lies outside becomes
    the nearer of them."""
    low, high = limits
    exact = np.float32 if plane.dtype.itemsize < 4 or plane.dtype == np.float32 else np.float64
    scaled = (np.nan_to_num(plane.astype(exact)).clip(low, high) - exact(low)) * exact(255 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


class Part:
    """A window of an open raster, [first row, first column, height, width], read as a raster of its own."""

    def __init__(self, raster, window):
        self.raster, (self.row, self.col, self.height, self.width) = raster, window
        self.shape = self.height, self.width

    def __getattr__(self, name):  # all else is as of the raster
        return getattr(self.raster, name)

    def within(self, window):
        """A window of this part as one of the raster."""
        (top, bottom), (left, right) = window
        return (self.row + top, self.row + bottom), (self.col + left, self.col + right)

    def read(self, bands, window):
        return self.raster.read(bands, window=self.within(window))

    def read_masks(self, bands, window):
        return self.raster.read_masks(bands, window=self.within(window))

    def dataset_mask(self, window):
        return self.raster.dataset_mask(window=self.within(window))


def validity(raster):
    """What decides which pixels of an open raster have data, beside their values and the .msk file, as text:
    no statistics that programs leave in an .aux.xml."""
    flags = [[flag.name for flag in flags] for flags in raster.mask_flag_enums]
    return json.dumps([raster.nodatavals, flags, [kind.name for kind in raster.colorinterp]])


class Layers:
    """The bands that the network sees, from the open image and the open extra raster beside it (or None).
    `collar`: the image's pixels without data that its file does not tell, as imagery.collars has them.
    Set later: `area`, an areas.Area outside of which nothing is asked for; None: everywhere.

    counted     how many pixels with data were read so far
    outside     of these, those outside of its scale in each band (int64 [B])
    histograms  of these, each byte of the bands that have a scale (int64 [B, 256])
    """

    def __init__(self, image, extra, bands, scale, collar=None):
        self.scale, self.shape, self.collar, self.area = scale, (image.height, image.width), collar, None
        self.sources = [(image, bands)] + ([(extra, [1])] if extra else [])
        self.dtypes = [raster.dtypes[band - 1] for raster, bands in self.sources for band in bands]
        self.counted, self.outside = 0, np.zeros(len(self.dtypes), np.int64)
        self.histograms = np.zeros((len(self.dtypes), 256), np.int64)

    def planes(self, start, stop):
        """The values of rows start..stop, an array [rows, W] of each band."""
        planes = []
        for raster, bands in self.sources:
            with reading(raster.name):
                planes += list(raster.read(bands, window=((start, stop), (0, raster.width))))
        return planes

    def read(self, start, stop):
        """Pixels of rows start..stop, uint8 [rows, W, B], and which of them have data and are asked for, bool
        [rows, W]. Rows of which none is asked for are not read."""
        inside = self.inside(start, stop)
        if not inside.any():
            return np.zeros((*inside.shape, len(self.dtypes)), np.uint8), inside
        valid, planes = self.valid(start, stop), self.planes(start, stop)
        self.counted += np.count_nonzero(valid)
        for band, limits in enumerate(self.scale):
            if limits is not None:
                beyond = (planes[band] < limits[0]) | (planes[band] > limits[1])
                self.outside[band] += np.count_nonzero(beyond & valid)
                planes[band] = to_bytes(planes[band], limits)
                self.histograms[band] += np.bincount(planes[band][valid], minlength=256)
        return np.stack(planes, -1), valid & inside

    def inside(self, start, stop):
        """True where rows start..stop are asked for (bool [rows, W])."""
        return self.area.rows(start, stop) if self.area else np.ones((stop - start, self.shape[1]), bool)

    def valid(self, start, stop):
        """True where image and extra raster have data, in rows start..stop (bool [rows, W]): where no mask or
        alpha hides the pixel, no band is NaN, and, where a value says nodata, not all bands have it (of real
        numbers: none); none of the collar."""
        valid, window = True, ((start, stop), (0, self.shape[1]))
        for raster, bands in self.sources:
            real = [band for band in bands if raster.dtypes[band - 1].startswith("float")]
            by_value = all(MaskFlags.nodata in raster.mask_flag_enums[band - 1] for band in bands)
            with reading(raster.name):
                seen = raster.read_masks(bands, window=window) > 0
                valid = valid & (seen.any(0) if by_value and len(real) < len(bands) else seen.all(0))
                if ColorInterp.alpha in raster.colorinterp:  # no mask to GDAL where a value says nodata, too
                    valid &= raster.read(raster.colorinterp.index(ColorInterp.alpha) + 1, window=window) > 0
                for band in real:
                    valid &= ~np.isnan(raster.read(band, window=window))
        return valid & ~self.collar.rows(start, stop) if self.collar else valid
