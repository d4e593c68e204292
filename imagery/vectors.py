"""Files of vectors (GeoJSON, GeoPackage, Shapefile, FlatGeobuf): their polygons and an attribute, as arrays.

Read by pyogrio, which has a GDAL of its own, with the driver of a file's first bytes alone: another text
under the name of a GeoJSON may lead to other files or into the network.
"""
import contextlib
import functools
import gc
import os
import re
import shlex
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rasterio._err import CPLE_BaseError
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform

from base.problem import Problem, shown
from base.zips import check_member, gdal_name, is_file, written
from imagery.burning import Polygons
from imagery.formats import AGAIN, absence, ask_geopackage, binary
from imagery.ground import bounds, same_crs
from imagery.wkb import parse, whole

HEAD = 2**16  # bytes that tell a format
DRIVERS = {b"\0\0\x27\x0a": "ESRI Shapefile", b"fgb\x03": "FlatGeobuf", b"SQLite format 3\0": "GPKG"}
GEOJSON = ("FeatureCollection", "Feature", "GeometryCollection", "Point", "MultiPoint", "LineString",
           "MultiLineString", "Polygon", "MultiPolygon")
LONGEST = 2**26  # bytes: longest first line of a sequence of GeoJSON features
CORNERS = 2**18  # of polygons at once
DEGREES = "EPSG:4326"


class Vectors(NamedTuple):
    """What a file of vectors holds.

    polygons  Polygons in its coordinate system
    dropped   {why: how many features have no polygon here}
    values    the attribute of each feature, object [F]; None where none was asked for
    crs       the coordinate system, as text; None where the file names none
    boxes     as of Polygons.boxes
    """
    polygons: Polygons
    dropped: dict
    values: np.ndarray
    crs: str
    boxes: list


# -- what a file is ---------------------------------------------------------------------------------------

def driver_of(path):
    """The driver of a file of vectors by its first bytes (of a GeoPackage, where it has any); else None."""
    with binary(path) as file:
        head = file.read(HEAD)
    for start, driver in DRIVERS.items():
        if head.startswith(start):
            return driver if driver != "GPKG" or has_features(path) else None
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    kinds = re.findall(rb'"type"\s*:\s*"(\w+)"', text) if text.startswith(b"{") else []
    kind = next((kind.decode() for kind in kinds if kind != b"name"), None)  # a coordinate system's
    if kind not in GEOJSON:
        return None
    return "GeoJSONSeq" if kind != GEOJSON[0] and is_sequence(path) else "GeoJSON"


def has_features(path):
    """True where a GeoPackage has a layer of vectors, not of rasters alone, or does not tell."""
    kinds = ask_geopackage(path, "SELECT DISTINCT data_type FROM gpkg_contents LIMIT 10")
    return kinds is None or "features" in kinds


def is_sequence(path):
    """True where the first line of a text is one object and the second begins another."""
    with binary(path) as file:
        first, second = file.readline(LONGEST).strip(), file.readline(HEAD).strip()
    return first.endswith(b"}") and second.startswith(b"{")


def source_of(path):
    """(what pyogrio opens for a path, its driver): no other driver than that of its first bytes takes it."""
    driver = driver_of(path)
    if driver is None:
        raise Problem(f"vectors {path}: no known format, expected GeoJSON, a GeoPackage, a shapefile (.shp) "
                      "or FlatGeobuf; convert it (ogr2ogr labels.gpkg ...), or name what is in a .zip "
                      "(ARCHIVE.zip/NAME.shp)", code=3)
    source = gdal_name(path)
    return f"{driver}:{source}" if driver in ("GeoJSON", "GeoJSONSeq") else source, driver


@contextlib.contextmanager
def reading_vectors(path):
    """Turns pyogrio's failures into a Problem (exit 3) that names the file; silences its warnings, such as of
    rings that it closes."""
    from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError, ValueError,
            RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise Problem(f"vectors {path}: {reason}, expected a whole, readable file; {AGAIN}", code=3) from None


def check_companions(path, driver):
    """Problem (exit 3) where changes of a GeoPackage lie beside it, which SQLite would write into it, or a
    shapefile is cut short or lacks its .shx, without which its parts are not found."""
    changes = Path(f"{path}-wal")
    if driver == "GPKG" and changes.is_file() and changes.stat().st_size:
        raise Problem(f"GeoPackage {path}: changes of a program that has it open in {changes.name}, expected "
                      "it closed; save and close it there (QGIS: remove the layer)", code=3)
    if driver != "ESRI Shapefile":
        return
    shx = [Path(path).with_suffix(suffix) for suffix in (".shx", ".SHX")]
    if not any(map(is_file, shx)):
        raise Problem(f"shapefile {path}: no {shx[0].name} beside it, expected the files .shp, .shx, .dbf "
                      "and .prj together; copy it too, or rebuild it: ogrinfo --config SHAPE_RESTORE_SHX YES "
                      f"{shlex.quote(str(path))}", code=3)
    with binary(path) as file:
        size = 2 * int.from_bytes(file.read(28)[24:], "big")  # its header counts words of 16 bit
        there = file.seek(0, os.SEEK_END)
    if there < size:
        raise Problem(f"shapefile {path}: {there} bytes, expected {size} as it says; {AGAIN}", code=3)


def layer_of(path, source, layer):
    """The layer's name: the one given, else the only one with geometries; Problem (exit 3) that lists them
    where there are several or none of that name."""
    import pyogrio

    layers = [name for name, kind in pyogrio.list_layers(source).tolist() if kind is not None]
    if layer in layers or (layer is None and len(layers) == 1):
        return layer or layers[0]
    if not layers:
        raise Problem(f"vectors {path}: no layer with geometries, expected one; {AGAIN}", code=3)
    names = ", ".join(layers[:10])
    got = f"no layer {shown(layer)}" if layer else f"{len(layers)} layers"
    raise Problem(f"vectors {path}: {got} ({names}), expected one to read; name it in data.label_layer",
                  code=3)


# -- reading ----------------------------------------------------------------------------------------------

class Opened(NamedTuple):
    """A layer of a file of vectors: what pyogrio opens, the layer's name, and what it says of itself."""
    source: str
    layer: str
    about: dict


def open_vectors(path, layer=None):
    """The Opened layer of a file, `layer` where it has several. Problem (exit 3) where it cannot be read."""
    path = os.path.abspath(path)
    if not is_file(path):
        raise Problem(f"vectors {path}: {absence(path)}, expected a file", code=3)
    check_member(path)
    source, driver = source_of(path)
    check_companions(path, driver)
    return _open(path, source, layer, written(path))


@functools.lru_cache(maxsize=256)
def _open(path, source, layer, *_):
    import pyogrio

    with reading_vectors(path):
        if layer or not source.startswith("GeoJSON"):  # it has one; to ask costs a look at all of it
            layer = layer_of(path, source, layer)
        about = pyogrio.read_info(source, layer=layer)
    if about["driver"] not in (*DRIVERS.values(), "GeoJSON", "GeoJSONSeq"):
        raise Problem(f"vectors {path}: {about['driver']} by its content, expected GeoJSON, a GeoPackage, a "
                      "shapefile or FlatGeobuf; convert it (ogr2ogr labels.gpkg ...)", code=3)
    return Opened(source, layer or about["layer_name"], about)


def read_vectors(path, field=None, layer=None, box=None):
    """The Vectors of a file. `field`: the attribute to read; `layer`: its layer, of several; `box` (left,
    low, right, high in its coordinate system): only features that reach it. Problem (exit 3) where the file
    cannot be read or lacks the attribute."""
    from pyogrio.raw import read

    opened = open_vectors(path, layer)
    check_field(path, opened.about, field)
    columns = [field] if field in opened.about["fields"].tolist() else []
    with reading_vectors(path):
        meta, _, blobs, values = read(opened.source, layer=opened.layer, columns=columns, force_2d=True,
                                      bbox=box)
    gc.collect(1)  # where there is a box, pyogrio leaves all that it read in a cycle
    values = values[0] if columns else np.empty(len(blobs), object)
    polygons, dropped = parse(blobs)
    return Vectors(polygons, dropped, values if field else None, crs_of(meta["crs"]), polygons.boxes())


@functools.lru_cache(maxsize=2)  # of labels and eroded labels in turn
def _read_whole(path, field, layer, *_):
    return read_vectors(path, field, layer)


def read_near(path, field, layer, grid, assume_crs=None):
    """As `read_vectors`, of the features near a Grid where the file has an index to find them; else of all,
    which the next call for the same file finds read."""
    about = open_vectors(path, layer).about
    crs = system_of(crs_of(about["crs"]), about["total_bounds"], grid, assume_crs)
    if about["capabilities"]["fast_spatial_filter"]:
        return read_vectors(path, field, layer, box_of(grid, crs))._replace(crs=crs)
    return _read_whole(os.path.abspath(path), field, layer, written(path))._replace(crs=crs)


def crs_of(name):
    """A coordinate system as rasterio's GDAL names it, without heights; None of none."""
    return DEGREES if name == "EPSG:4979" else name or None


def check_field(path, about, field):
    """Problem (exit 3) where a layer that has features lacks an attribute."""
    fields = about["fields"].tolist()
    if field and field not in fields and about["features"]:
        names = ", ".join(map(shown, fields[:20])) or "none; of a shapefile they lie in the .dbf beside it"
        raise Problem(f"vectors {path}: no attribute {shown(field)}, expected one of its attributes "
                      f"({names}); see data.label_field", code=3)


# -- on a grid --------------------------------------------------------------------------------------------

def box_of(grid, crs):
    """Left, low, right, high of a Grid and two pixels around it in a coordinate system; over the antimeridian
    all the way round. None where the Grid has no place there."""
    a, b, c, d, e, f = grid.georeference["transform"]
    wider = {**grid.georeference, "transform": [a, b, c - 2 * a - 2 * b, d, e, f - 2 * d - 2 * e]}
    own = grid.georeference["crs"]
    crs = own if crs is None or same_crs(own, crs) else crs
    box = bounds((grid.height + 4, grid.width + 4), wider, crs)
    return box if np.isfinite(box).all() else None


def apart(box, other):
    """True where two boxes, left, low, right, high, have no point in common; not of None."""
    return None not in (box, other) and (box[0] > other[2] or box[2] < other[0]
                                         or box[1] > other[3] or box[3] < other[1])


def system_of(named, box, grid, assume_crs):
    """The coordinate system, or None, of polygons within a box (None of none): the one that they name, unless
    that is of degrees, as of GeoJSON that names none, and they reach beyond these; else that of a Grid or,
    where they would lie elsewhere by that, `assume_crs`."""
    own, far = grid.georeference["crs"], box is not None and (np.abs(box) > [361, 91, 361, 91]).any()
    if named and not (named == DEGREES and far):
        return named
    if None in (own, assume_crs) or not grid.georeference["transform"]:
        return own or assume_crs
    return assume_crs if apart(box, box_of(grid, own)) and not apart(box, box_of(grid, assume_crs)) else own


def check_place(crs, grid, path):
    """Problem (exit 3) where polygons of this coordinate system, or None, cannot be brought to a Grid."""
    georeference = grid.georeference
    if georeference["transform"] is None:
        raise Problem(f"vectors {path}: its image has no georeference, expected one to burn polygons by; "
                      "give the image a world file and a .prj, or label it in pixels (LabelMe, COCO)", code=3)
    if (crs is None) != (georeference["crs"] is None):
        raise Problem(f"vectors {path}: its image names no coordinate system, expected one; put a .prj "
                      "beside the image or set data.assume_crs", code=3)


def check_vectors(path, grid, data):
    """Problem (exit 3) where a file of vectors cannot be the labels of a Grid, or None where the image cannot
    be read; without reading geometries."""
    opened = open_vectors(path, data["label_layer"])
    about, box = opened.about, opened.about["total_bounds"]
    check_field(path, about, data["label_field"])
    if not grid:
        return
    crs = system_of(crs_of(about["crs"]), box, grid, data["assume_crs"])
    check_place(crs, grid, path)
    own = box_of(grid, crs)
    may_be_empty = "{" not in data["label"] and data["background"]  # one file of many images
    if about["features"] and apart(box, own) and not may_be_empty:
        text = " ".join(f"{number:.9g}" for number in box)
        raise Problem(f"vectors {path}: polygons from {text}, expected some on its image, which lies at "
                      f"{' '.join(f'{number:.9g}' for number in own)} there; see the coordinate systems of "
                      "both (are x and y, or longitude and latitude, swapped?)", code=3)


def on_grid(vectors, grid, path, assume_crs=None):
    """The Polygons of Vectors near a Grid, their points as columns and rows from its upper left corner.
    `assume_crs`: of vectors that name no coordinate system. Problem (exit 3) where either has no place."""
    polygons, georeference = vectors.polygons, grid.georeference
    left, low, right, high = vectors.boxes
    every = (left.min(), low.min(), right.max(), high.max()) if len(left) else None
    crs = system_of(vectors.crs, every, grid, assume_crs)
    check_place(crs, grid, path)
    box = box_of(grid, crs)
    if box is not None:
        near = (right >= box[0]) & (left <= box[2]) & (high >= box[1]) & (low <= box[3])
        polygons = polygons.take(near)
    a, b, c, d, e, f = georeference["transform"]
    (a, b), (d, e) = np.linalg.inv([[a, b], [d, e]])
    x, y = np.empty(polygons.x.shape), np.empty(polygons.y.shape)
    same = crs is None or same_crs(crs, georeference["crs"])
    for start in range(0, len(x), CORNERS):
        part = slice(start, start + CORNERS)
        corners = polygons.x[part], polygons.y[part]
        if not same:
            corners = transformed(crs, georeference["crs"], corners, path)
        across, down = np.asarray(corners[0]) - c, np.asarray(corners[1]) - f
        x[part], y[part] = a * across + b * down, d * across + e * down
    return whole(polygons._replace(x=x, y=y))


def transformed(crs, target, corners, path):
    """x and y in another coordinate system. Problem (exit 3) where no way leads from one to the other."""
    try:
        return transform(crs, target, *corners)
    except (RasterioError, CRSError, CPLE_BaseError, ValueError) as error:
        raise Problem(f"vectors {path}: {' '.join(str(error).split())}, expected a coordinate system that "
                      "leads to its image's; write it with one of the ground (EPSG:4326)", code=3) from None
