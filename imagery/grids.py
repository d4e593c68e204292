"""Rasters on another grid than the image that they belong to (another coordinate system, resolution, extent,
orientation), brought to its pixels: labels by the nearest pixel, heights by their bilinear mean."""
import math
import shlex
from typing import NamedTuple

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import CRSError, RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform

from imagery.formats import command_to
from imagery.ground import IN_PIXELS, crs_beside, pixel_size, plain_size, same_crs, text_of

TINY = 0.01  # share of an image; a raster that covers less shows another ground
OWN = 0.51  # pixels: a raster that lies no farther off has its own pixel as the nearest
LATTICE = 64  # points along a row and along a column at which two grids are compared
STEP = 16  # pixels between the points whose place is computed; between them it is interpolated
BLOCK = 2**20  # pixels that are looked up at once, of the image or of the raster
METHODS = {"labels": "nearest", "eroded": "nearest", "extra": "bilinear"}


class Place(NamedTuple):
    """How a raster lies that is on another grid than its image."""
    crs: str | None
    transform: list
    shape: tuple
    covered: float  # about which share of the image, 0..1

    def pixels(self, grid, rows, cols):
        """Where the points of a Grid's rows and columns (float64 [R], [C]; 0.5 is the middle of the first)
        lie in the raster: float64 [2, R, C], rows and columns; NaN where they have no place there."""
        points = [each.ravel() for each in np.meshgrid(cols, rows)] + [np.ones(len(rows) * len(cols))]
        x, y = np.reshape(grid.georeference["transform"], (2, 3)) @ points
        crs = grid.georeference["crs"]
        if None not in (crs, self.crs) and not same_crs(crs, self.crs):
            try:
                x, y = np.array(transform(crs, self.crs, x, y))
            except (RasterioError, CRSError, CPLE_BaseError):
                x, y = np.full((2, x.size), np.nan)
        with np.errstate(invalid="ignore", over="ignore"):
            a, b, c, d, e, f = self.transform
            x, y = x - c, y - f
            found = np.array([a * y - d * x, e * x - b * y]) / (a * e - b * d)
        return np.where(np.isfinite(found), found, np.nan).reshape(2, len(rows), len(cols))


def find_place(raster, path, grid, assume_crs):
    """(the Place of an open raster on another grid than a Grid, why it cannot be brought there, as a line):
    both None where it lies pixel on pixel. One without a coordinate system is in that of the image or, where
    it would lie elsewhere by that, in `assume_crs`."""
    ground, own = grid.georeference, list(raster.transform)[:6]
    if ground["transform"] in (None, *IN_PIXELS) or own in IN_PIXELS:
        return None, other_size(raster, grid)
    named = text_of(raster.crs) or crs_beside(path)
    if own == ground["transform"] and raster.shape == grid.shape and (not named or named == ground["crs"]):
        return None, None
    best = None
    for crs in dict.fromkeys([named, ground["crs"]] if named else [ground["crs"], assume_crs]):
        place, distance = compare(Place(crs, own, raster.shape, 0), grid)
        if raster.shape == grid.shape and distance <= OWN:
            return None, None
        if best is None or math.isnan(best.covered) or place.covered >= TINY > best.covered:
            best = place
        if named and not math.isnan(place.covered):
            break
    return (best, None) if best.covered >= TINY else (None, elsewhere(raster, best, grid))


def compare(place, grid):
    """(the Place with its share covered, NaN where it cannot be compared; by how many pixels the raster's lie
    off those of a Grid, at most)."""
    rows, cols = (np.linspace(0.5, size - 0.5, LATTICE) for size in grid.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = place.pixels(grid, rows, cols)
    if np.isnan(found).all():
        return place._replace(covered=math.nan), math.inf
    inside = (found >= 0).all(0) & (found[0] < place.shape[0]) & (found[1] < place.shape[1])
    distance = np.abs(found - np.stack(np.meshgrid(rows, cols, indexing="ij"))).max()
    return place._replace(covered=float(inside.mean())), math.inf if np.isnan(distance) else float(distance)


def aspects(crs, transform, shape):
    """Texts that tell a grid: its coordinate system, orientation, size of pixels, upper left corner, size."""
    a, b, c, d, e, f = transform
    orientation = f"rows and columns along {a:.6g} {d:.6g} and {b:.6g} {e:.6g}"
    if b == d == 0 and a > 0:
        orientation = "south-up" if e > 0 else "north-up"
    return (crs if crs is None or len(crs) < 40 else crs.split('"')[1], orientation,
            f"pixels of {math.hypot(a, d):.6g} x {math.hypot(b, e):.6g}",
            f"an upper left corner at {c:.12g}, {f:.12g}", f"{shape[0]} x {shape[1]} pixels")


def elsewhere(raster, place, grid):
    """Why a raster at a Place shows another ground than a Grid, as a line."""
    ground = grid.georeference
    pairs = list(zip(aspects(place.crs, place.transform, place.shape),
                     aspects(ground["crs"], ground["transform"], grid.shape)))
    got, expected = next((pair for pair in pairs if pair[0] != pair[1]), pairs[-1])
    share = "no" if math.isnan(place.covered) else f"{100 * place.covered:.2g} %"
    return (f"its georeference lies elsewhere than its image's: {got}, {share} of its image covered, "
            f"expected {expected} and at least {100 * TINY:g} %; take the raster of the same ground or, if "
            "only its georeference is wrong, take that out: gdal_edit.py -unsetgt "
            f"{shlex.quote(raster.name)} (or remove its world file)")


def other_size(raster, grid):
    """Why a raster of another size than a Grid cannot be brought there where one of the two has no transform,
    as a line; None of one of the same size."""
    (height, width), ground = grid.shape, grid.georeference
    if raster.shape == grid.shape:
        return None
    wrong = f"{raster.height} x {raster.width} pixels, expected {height} x {width} as its image"
    if not ground["transform"] and {"control_points", "rpcs"} & ground.keys():
        return (f"{wrong}, placed by control points or RPCs alone; warp the image first, and put that in its "
                "place (gdalwarp -dstalpha)")
    if raster.height * width == raster.width * height:
        command = command_to(f"gdal_translate -r nearest -outsize {width} {height}", raster.name)
        return f"{wrong}; if it shows the same ground: {command}"
    return (f"{wrong}; say in both where they lie, and it is brought there: by a world file, or gdal_edit.py "
            f"-a_srs EPSG:... -a_ullr LEFT TOP RIGHT BOTTOM {shlex.quote(raster.name)}")


def described(place, grid, kind):
    """A Place as the manifest holds it, with what differs there from the Grid, in words."""
    own = {"crs": place.crs, "transform": place.transform}
    size, ground = pixel_size(own, place.shape), grid.georeference
    pairs = zip(aspects(place.crs, place.transform, place.shape),
                aspects(ground["crs"], ground["transform"], grid.shape))
    return {**own, "shape": list(place.shape), "pixel_size": size and plain_size(size),
            "method": METHODS[kind], "differs": [got for got, expected in pairs if got != expected]}


def in_words(place):
    """What to say of a raster brought to another grid, of its place as `described`."""
    return f"from another grid ({', '.join(place['differs'])}) by {place['method']}"


class Nearest:
    """An open raster by strips of rows of a Grid, with as much of a rasterio dataset as labels are read by. A
    pixel has the values, alpha and mask of the raster's that is nearest to its middle: nothing is mixed, as
    GDAL's warper mixes what is half transparent. Outside all of these are 0."""

    def __init__(self, raster, place, grid):
        self.raster, self.place, self.grid, self.rows, self.parts = raster, place, grid, None, []
        self.name, self.count, self.indexes = raster.name, raster.count, raster.indexes
        self.dtypes, self.nodatavals, self.colorinterp = raster.dtypes, raster.nodatavals, raster.colorinterp
        self.mask_flag_enums, self.shape, self.colormap = raster.mask_flag_enums, grid.shape, raster.colormap
        self.height, self.width = grid.shape

    def read(self, bands, window):
        """Values of bands, [B, rows, W] of a list and [rows, W] of a number."""
        return self.gathered(self.raster.read, bands, self.dtypes[np.ravel(bands)[0] - 1], window)

    def read_masks(self, band, window):
        """The mask of a band (uint8 [rows, W])."""
        return self.gathered(self.raster.read_masks, band, "uint8", window)

    def inside(self, window):
        """Which pixels lie in the raster (bool [rows, W])."""
        return inside(self.look_up(*window[0]), (window[0][1] - window[0][0], self.width))

    def gathered(self, read, bands, dtype, window):
        values = np.zeros((np.size(bands), window[0][1] - window[0][0], self.width), dtype)
        for block, part, places, seen in self.look_up(*window[0]):
            pixels = read(bands, window=part).reshape(np.size(bands), -1)
            values[:, *block] = pixels.take(places, 1) * seen
        return values if isinstance(bands, list) else values[0]

    def look_up(self, start, stop):
        """The `blocks` of these rows, found once for all that is read of them."""
        if self.rows != (start, stop):
            self.rows, self.parts = (start, stop), list(blocks(self.place, self.grid, start, stop))
        return self.parts


def inside(parts, shape):
    """Which pixels of rows (bool [rows, W], of this shape) lie in a raster, by their `blocks`."""
    whole = np.zeros(shape, bool)
    for block, _, _, seen in parts:
        whole[block] = seen
    return whole


def blocks(place, grid, start, stop):
    """Yields (where in these rows, window of the raster at a Place, numbers of its pixels there (int64 [R,
    C]), True inside (bool [R, C])) of blocks of rows of a Grid that have any inside. Neither they nor the
    windows are larger than BLOCK and 4 BLOCK pixels."""
    left_over = [(start, stop, 0, grid.width)]
    while left_over:
        top, bottom, left, right = left_over.pop()
        height, width = bottom - top, right - left
        if height * width <= BLOCK:
            found = nearest(place, grid, (top, left), (height, width))
            if not found:
                continue
            window, places, seen = found
            if np.prod(np.ptp(window, axis=1)) <= 4 * BLOCK or height * width == 1:
                yield np.s_[top - start: bottom - start, left:right], window, places, seen
                continue
        if height >= width:
            middle = top + height // 2
            left_over += [(middle, bottom, left, right), (top, middle, left, right)]
        else:
            middle = left + width // 2
            left_over += [(top, bottom, middle, right), (top, bottom, left, middle)]


def nearest(place, grid, first, shape):
    """(window of the raster at a Place, numbers of its pixels there, True inside) of the pixels that are
    nearest to the middles of a block of a Grid's; None where none is inside."""
    rows, cols = np.floor(interpolated(place, grid, first, shape) + 1e-6)  # where two are as near, the latter
    seen = (rows >= 0) & (rows < place.shape[0]) & (cols >= 0) & (cols < place.shape[1])
    if not seen.any():
        return None
    window = tuple((int(each.min(where=seen, initial=np.inf)), int(each.max(where=seen, initial=0)) + 1)
                   for each in (rows, cols))
    (top, _), (left, right) = window
    places = np.where(seen, (rows - top) * (right - left) + (cols - left), 0).astype(np.int64)
    return window, places, seen


def interpolated(place, grid, first, shape):
    """Where the middles of a block of a Grid's pixels lie in a raster, rows and columns (float64 [2, R, C]):
    as of `Place.pixels` at every STEP of them, linear between."""
    knots = [start + 0.5 + STEP * np.arange((size - 1) // STEP + 2) for start, size in zip(first, shape)]
    found = place.pixels(grid, *knots)
    for axis, size in ((2, shape[1]), (1, shape[0])):
        whole, part = divmod(np.arange(size), STEP)
        below, above = found.take(whole, axis), found.take(whole + 1, axis)
        found = below + (above - below) * (part / STEP if axis == 2 else part[:, None] / STEP)
    return found


def heights_on(grid, raster, place):
    """An open raster of heights at its Place as a dataset on a Grid; a context. A pixel has the mean of the
    raster's around its middle, of more of them where these are smaller, of none without data (GDAL's warper,
    bilinear). An alpha band hides what lies outside."""
    own, other = place.crs, grid.georeference["crs"]
    if None in (own, other) or same_crs(own, other):
        own = other = "EPSG:32633"  # whichever: it does not change
    return WarpedVRT(raster, src_crs=own, crs=other, height=grid.height, width=grid.width,
                     transform=rasterio.Affine(*grid.georeference["transform"]),
                     resampling=Resampling.bilinear, tolerance=0.01,
                     add_alpha=ColorInterp.alpha not in raster.colorinterp)
