"""Where a raster lies: its coordinate system, transform and control points, the size of its pixels on the
ground."""
import contextlib
import math
import shlex

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import CRSError, RasterioError
from rasterio.transform import array_bounds
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform, transform_bounds

from base.problem import Problem, shown
from imagery.formats import command_to

IN_PIXELS = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, -1, 0]  # transforms that say nothing of the ground


def georeference(raster, assume_crs):
    """{"crs": text or None, "transform": six numbers or None} of an open raster; without a transform both
    None. `assume_crs` names the coordinate system where a .tfw alone gives the transform."""
    if raster.transform.is_identity:
        return {"crs": None, "transform": None}
    crs = raster.crs.to_string() if raster.crs else assume_crs
    if raster.crs and CRS.from_string(crs) != raster.crs:  # a short name that does not say all
        crs = raster.crs.to_wkt()
    return {"crs": crs, "transform": list(raster.transform)[:6]}


def control_points(raster):
    """{"crs": text or None, "points": lists of row, column, x, y, z}: the ground control points of an open
    raster without a transform; None where it has none."""
    points, crs = raster.gcps
    if not points or not raster.transform.is_identity:
        return None
    return {"crs": crs.to_wkt() if crs else None, "points": [[p.row, p.col, p.x, p.y, p.z] for p in points]}


def georeference_options(georeference):
    """Options by which rasterio writes a raster where a `georeference` or its `control_points` say."""
    if points := georeference.get("control_points"):
        return {"crs": points["crs"], "gcps": [GroundControlPoint(*point) for point in points["points"]]}
    transform = georeference["transform"]
    return {"crs": georeference["crs"], "transform": rasterio.Affine(*transform) if transform else None}


def resampled(raster, scales):
    """An open raster on a grid of other pixels, `scales` (along a row, along a column) of them to one of its
    own; a context. The grid covers the same ground. A mask of its own becomes an alpha band."""
    width, height = (max(1, round(scale * size)) for scale, size in zip(scales, raster.shape[::-1]))
    masked = any(MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
                 for flags in raster.mask_flag_enums)
    x, y = raster.width / width, raster.height / height
    a, b, c, d, e, f = list(raster.transform)[:6]
    crs = "EPSG:32633"  # whichever: it does not change
    return WarpedVRT(raster, src_crs=crs, crs=crs, height=height, width=width, add_alpha=masked,
                     transform=rasterio.Affine(a * x, b * y, c, d * x, e * y, f),
                     resampling=Resampling.average if max(scales) < 1 else Resampling.bilinear)


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
    """True where an open raster with this georeference can be placed in longitude and latitude."""
    named = georeference["crs"] is not None
    return named and not math.isnan(bounds(raster.shape, georeference, "EPSG:4326")[0])


def same_place(raster, transform):
    """True unless an open raster has a georeference of its own, most of a pixel or more off `transform`."""
    own = list(raster.transform)[:6]
    if transform is None or own in IN_PIXELS:
        return True
    opposite = [[0, raster.width], [0, raster.height], [1, 1]]  # corners: column, row, 1
    corners = [np.reshape(numbers, (2, 3)) @ opposite for numbers in (own, transform)]
    return np.abs(corners[0] - corners[1]).max() < 0.75 * max(map(abs, transform[:2]))


def aspects(crs, transform, shape):
    """Texts that tell a grid: its coordinate system, orientation, size of pixels, upper left corner, size."""
    a, b, c, d, e, f = transform
    orientation = f"rows and columns along {a:.6g} {d:.6g} and {b:.6g} {e:.6g}"
    if b == d == 0 and a > 0:
        orientation = "south-up" if e > 0 else "north-up"
    return (crs if crs is None or len(crs) < 40 else crs.split('"')[1], orientation,
            f"pixels of {math.hypot(a, d):.6g} x {math.hypot(b, e):.6g}",
            f"an upper left corner at {c:.12g}, {f:.12g}", f"{shape[0]} x {shape[1]} pixels")


def off_its_image(raster, header, method):
    """How an open raster lies otherwise than pixel on pixel on the image of this header, and how to bring it
    there (`method`: gdalwarp's), as a line; None where it lies there or one of the two has no place."""
    shape, crs, transform = header["shape"][:2], header["georeference"]["crs"], list(raster.transform)[:6]
    image = header["georeference"]["transform"]
    if same_place(raster, image) and (list(raster.shape) == shape or not image or transform in IN_PIXELS):
        return None
    same = not (raster.crs and crs) or CRS.from_user_input(crs) == raster.crs
    named = crs if same else raster.crs.to_string()
    whole = np.array(bounds(shape, header["georeference"], crs))
    box = np.array(bounds(raster.shape, {"crs": named, "transform": transform}, crs))
    sides = np.minimum(box[2:], whole[2:]) - np.maximum(box[:2], whole[:2])
    share = np.prod(sides / (whole[2:] - whole[:2])) if (sides > 0).all() else 0
    pairs = list(zip(aspects(named, transform, raster.shape), aspects(crs, image, shape)))
    got, expected = next((pair for pair in pairs if pair[0] != pair[1]), pairs[-1])
    if share == 0:
        lies = "cannot be compared with" if math.isnan(box[0]) else "lies elsewhere than"
        advice = ("take the raster of the same ground or, if only its georeference is wrong, take that out: "
                  f"gdal_edit.py -unsetgt {shlex.quote(raster.name)} (or remove its world file)")
        return f"its georeference {lies} its image's: {got}, expected {expected}; {advice}"
    command = f"gdalwarp -r {method} -dstalpha" + ("" if same else f" -t_srs {shlex.quote(crs)}")
    command += " -te " + " ".join(f"{number:.12g}" for number in whole) + f" -ts {shape[1]} {shape[0]}"
    advice = f"bring it to its image's pixels, and put that in its place: {command_to(command, raster.name)}"
    if image[1] or image[3] or image[0] < 0 or image[4] > 0:
        advice = "bring both to one north-up grid by gdalwarp -te -ts"
    return f"{got}, {100 * share:.1f} % of its image covered, expected {expected} as its image; {advice}"
