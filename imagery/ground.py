"""Where a raster lies: its coordinate system, transform and control points, the size of its pixels on the
ground."""
import contextlib
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import CRSError, RasterioError
from rasterio.rpc import RPC
from rasterio.transform import array_bounds
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform, transform_bounds

from base.problem import Problem, shown
from base.zips import is_file
from imagery.formats import binary

IN_PIXELS = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, -1, 0]  # transforms that say nothing of the ground


class Grid(NamedTuple):
    """The pixels that all files of a tile share: those of its image."""
    height: int
    width: int
    georeference: dict  # as of `georeference`
    path: str = ""  # of the image

    @property
    def shape(self):
        return self.height, self.width


def georeference(raster, path, assume_crs):
    """Where an open raster lies, as JSON holds it: {"crs": text or None, "transform": six numbers or None}
    and, where it has them, "control_points" ({"crs": text or None, "points": lists of row, column, x, y, z})
    and "rpcs" ({name: numbers}). The coordinate system is the raster's own, else that of a .prj beside its
    `path`, else, of one with a transform alone, `assume_crs`."""
    points, crs_of_points = raster.gcps
    transform = None if raster.transform.is_identity else list(raster.transform)[:6]
    crs, crs_of_points = text_of(raster.crs), text_of(crs_of_points)
    if not crs and not crs_of_points:
        named = crs_beside(path)
        crs, crs_of_points = (None, named) if points and not transform else (named, None)
    if not crs and transform and not points:
        crs = assume_crs
    ground = {"crs": crs, "transform": transform}
    if points:
        points = [[point.row, point.col, point.x, point.y, point.z] for point in points]
        ground["control_points"] = {"crs": crs_of_points, "points": points}
    with contextlib.suppress(KeyError, ValueError):  # of RPCs that GDAL does not take either
        if raster.rpcs:
            ground["rpcs"] = raster.rpcs.to_dict()
    return ground


def moved(georeference, row, col):
    """The georeference of a part of a raster whose first pixel is the raster's at `row` and `col`."""
    part = dict(georeference)
    if part["transform"]:
        a, b, c, d, e, f = part["transform"]
        part["transform"] = [a, b, c + a * col + b * row, d, e, f + d * col + e * row]
    if "control_points" in part:
        points = [[point[0] - row, point[1] - col, *point[2:]] for point in part["control_points"]["points"]]
        part["control_points"] = {**part["control_points"], "points": points}
    if "rpcs" in part:
        rpcs = part["rpcs"]
        part["rpcs"] = {**rpcs, "line_off": rpcs["line_off"] - row, "samp_off": rpcs["samp_off"] - col}
    return part


def text_of(crs):
    """A coordinate system (rasterio CRS or None) as text that says all of it; None of none."""
    if not crs:
        return None
    name = crs.to_string()
    return name if CRS.from_string(name) == crs else crs.to_wkt()


def crs_beside(path):
    """The coordinate system, as text, that a .prj beside a raster names; None where there is none, or where
    it is a shapefile's. Problem (exit 3) where it cannot be read."""
    prj, shapefile = ([Path(path).with_suffix(suffix) for suffix in pair]
                      for pair in ((".prj", ".PRJ"), (".shp", ".SHP")))
    named = next(filter(is_file, prj), None)
    if named is None or any(map(is_file, shapefile)):
        return None
    with binary(named) as file:
        text = file.read(2**16).decode("utf-8", "replace").strip("\ufeff\0 \t\r\n")
    try:
        wkt = "[" in text  # else a name
        return text_of(CRS.from_wkt(text, morph_from_esri_dialect=True) if wkt else CRS.from_string(text))
    except (CRSError, ValueError):
        raise Problem(f"coordinate system in {named}: {shown(text)}, expected WKT or a name such as "
                      "EPSG:2154; write the raster's own there or remove the file", code=3) from None


def georeference_options(georeference):
    """Options by which rasterio writes a GeoTIFF where a `georeference` says."""
    crs, transform, points = (georeference.get(key) for key in ("crs", "transform", "control_points"))
    options = {"crs": crs, "transform": rasterio.Affine(*transform) if transform else None}
    if points and not transform:
        points = [GroundControlPoint(*point) for point in points["points"]]
        options = {"crs": georeference["control_points"]["crs"] or CRS(), "gcps": points}
    if "rpcs" in georeference:
        options["rpcs"] = RPC(**georeference["rpcs"])
    return options


def other_ground(own, wanted):
    """(what, own, wanted) of the first part in which two georeferences differ; None where they say the same.
    Coefficients of RPCs may differ in their last digits, which GDAL rounds, and in errors, which it adds."""
    for key in ("crs", "transform", "control_points", "rpcs"):
        one, other = own.get(key), wanted.get(key)
        if key == "rpcs" and one and other:
            same = all(np.allclose(one[name], other[name], 1e-12, 0) for name in one if name[:3] != "err")
        elif key == "control_points" and one and other:
            same = one["points"] == other["points"] and same_crs(one["crs"], other["crs"])
        else:
            same = same_crs(one, other) if key == "crs" else one == other
        if not same:
            return key, one, other
    return None


def same_crs(one, other):
    """True where two texts, or None, name one coordinate system."""
    return one == other or (None not in (one, other) and CRS.from_string(one) == CRS.from_string(other))


def resampled(raster, ratios):
    """An open raster on a grid of other pixels, `ratios` (along a row, along a column) of them to one of its
    own; a context. The grid covers the same ground; averaged where no direction gets more pixels, else cubic,
    which takes the mean in the other one, too. A mask of its own becomes an alpha band."""
    width, height = (max(1, round(ratio * size)) for ratio, size in zip(ratios, raster.shape[::-1]))
    masked = any(MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
                 for flags in raster.mask_flag_enums)
    x, y = raster.width / width, raster.height / height
    a, b, c, d, e, f = list(raster.transform)[:6]
    crs = "EPSG:32633"  # whichever: it does not change
    return WarpedVRT(raster, src_crs=crs, crs=crs, height=height, width=width, add_alpha=masked,
                     transform=rasterio.Affine(a * x, b * y, c, d * x, e * y, f),
                     resampling=Resampling.average if max(ratios) <= 1 else Resampling.cubic)


def check_crs(name):
    """Problem (exit 2) where data.assume_crs is no coordinate system."""
    try:
        CRS.from_user_input(name)
    except (CRSError, ValueError) as error:
        raise Problem(f"settings, key data.assume_crs: {shown(name)}, expected a coordinate system such as "
                      f"EPSG:32633 ({' '.join(str(error).split())})", code=2) from None


def pixel_size(georeference, shape):
    """(along a row, along a column): metres on the ground from one pixel to the next, in the middle of a
    raster of `shape` (height, width). None where they are not known: without a transform, and where they are
    degrees of no coordinate system or of another celestial body."""
    numbers = georeference["transform"]
    if numbers is None or not np.isfinite(numbers).all():
        return None
    steps = [[-0.5, 0.5, 0, 0], [0, 0, -0.5, 0.5]]  # half a pixel back and on, along a row, along a column
    middle = np.add(steps, [[shape[1] / 2], [shape[0] / 2]])
    points = in_metres(georeference["crs"], *np.reshape(numbers, (2, 3)) @ [*middle, [1] * 4])
    sizes = 0 if points is None else np.linalg.norm(points[:, 1::2] - points[:, ::2], axis=0)
    return tuple(sizes.tolist()) if np.all(sizes) and np.isfinite(sizes).all() else None


def plain_size(size):
    """A pixel size, (along a row, along a column), as model.json holds it: in three digits, and one number
    where the two differ by no more than 1 %."""
    square = max(size) <= 1.01 * min(size)
    plain = [float(f"{metres:.3g}") for metres in ([math.sqrt(size[0] * size[1])] if square else size)]
    return plain[0] if square else plain


def metres(size):
    """A `plain_size` as text."""
    return f"{size[0]:g} m along rows, {size[1]:g} m along columns" if np.ndim(size) else f"{size:g} m"


def in_metres(crs, x, y):
    """Points of a coordinate system, or None, in metres: from the middle of the earth, float64 [3, N] or,
    where they have no place there, in their plane [2, N]. None where they can only be degrees."""
    unit = 1
    if crs is not None:
        crs = CRS.from_user_input(crs)
        with contextlib.suppress(RasterioError, CRSError, CPLE_BaseError):
            points = np.array(transform(crs, "EPSG:4978", x, y, np.zeros(len(x))))
            if np.isfinite(points).all():
                return points
        if crs.is_geographic:
            return None
        unit = crs.units_factor[1]
    plane = unit * np.array([x, y])
    degrees = (np.abs(plane) <= [[360], [90]]).all() and np.ptp(plane, axis=1).max() < 0.001  # 1 mm: too fine
    return None if degrees else plane


def bounds(shape, georeference, crs):
    """Left, bottom, right, top in a coordinate system; NaN where a georeference makes no sense there."""
    box = array_bounds(*shape[:2], rasterio.Affine(*georeference["transform"]))
    try:
        if georeference["crs"] != crs:
            box = transform_bounds(georeference["crs"], crs, *box)
    except (RasterioError, CRSError, CPLE_BaseError):
        box = [math.nan] * 4
    left, bottom, right, top = box if np.isfinite(box).all() else [math.nan] * 4
    return min(left, right), min(bottom, top), max(left, right), max(bottom, top)


def in_degrees(raster, georeference):
    """True where an open raster with this georeference can be placed in longitude and latitude: at 400 points
    from corner to corner."""
    if None in (georeference["crs"], georeference["transform"]):
        return False
    cols, rows = (grid.ravel() for grid in np.mgrid[0: raster.width: 20j, 0: raster.height: 20j])
    x, y = np.reshape(georeference["transform"], (2, 3)) @ [cols, rows, np.ones(cols.size)]
    try:
        points = transform(georeference["crs"], "EPSG:4326", x, y)
    except (RasterioError, CRSError, CPLE_BaseError):
        return False
    return bool((np.abs(points) <= [[361], [91]]).all())  # a degree for the edges of a world's grid
