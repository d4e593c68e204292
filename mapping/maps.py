"""Class maps on disk: a GeoTIFF with colours, names and the input's georeference, and what goes with it.

<name>.tif               class index, nodata 255, overviews by mode; its .aux.xml holds class names for GDAL
<name>.qml, <name>.png   names and colours for QGIS; a picture of the map
<name>.confidence.tif    where asked for: the class's probability times 200, uint8
<name>.probabilities.tif where asked for: each class's probability times 200, a band of uint8 each
<name>.colours.tif       where asked for: the map in the classes' colours, RGB and alpha
<name>.geojson           where asked for: polygons with their class and area, longitude and latitude (WGS84)
<name>.<way>.tif         a test tile's map made in one of the other `ways`
"""
import contextlib
import itertools
import json
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.features import shapes, sieve
from rasterio.warp import transform_geom

from base.files import replacing, sha256
from base.problem import Problem
from base.tables import read_table
from imagery.arrays import IGNORE
from imagery.labels import palette
from imagery.rasters import CACHE, georeference_options, open_raster, reading, without_place_allowed, writing

PREVIEW = 1500  # pixels: longest side of the .png
ALSO = ("confidence", "probabilities", "colours", "polygons")
OVERVIEWS = {None: Resampling.mode, "colours": Resampling.nearest, "confidence": Resampling.average,
             "probabilities": Resampling.average}
CERTAIN = 200  # what a probability of 1 is written as


def ways(settings):
    """{way: predict settings} in which test tiles are predicted too, where predict.compare is on, so that what each
    part of predicting adds can be told: "one_view", where the map itself is made in several, and "side_by_side", as
    patches are cut for training, one view each, no overlap."""
    options = settings["predict"]
    if not options["compare"]:
        return {}
    one = {**options, "views": options["views"][:1], "also": [], "resample": False}
    return {**({"one_view": one} if len(options["views"]) > 1 else {}),
            "side_by_side": {**one, "window": settings["input"]["patch_size"], "overlap": 0}}


def options_of(predict):
    """The predict settings that make a map what it is, as its tag PREDICT holds them."""
    return json.dumps({key: value for key, value in predict.items() if key != "compare"}, sort_keys=True)


def sidecars(path):
    """What always goes with a map: its .aux.xml for GDAL, .qml for QGIS and .png to look at."""
    return path.with_name(path.name + ".aux.xml"), path.with_suffix(".qml"), path.with_suffix(".png")


def beside(path, what):
    """The file of one of `ALSO`, or the map made in one of the `ways`, beside a map."""
    return path.with_suffix(".geojson" if what == "polygons" else f".{what}.tif")


def write_sidecars(path, classes):
    """Class names for GDAL, names and colours for QGIS, and a picture, beside a map."""
    gdal, qgis, picture = sidecars(path)
    names = "".join(f"<Category>{escape(name)}</Category>" for name in classes)
    with replacing(gdal) as temporary:
        temporary.write_text(f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{names}</CategoryNames>'
                             "</PAMRasterBand></PAMDataset>\n", encoding="utf-8")
    entries = "".join(f'<paletteEntry value="{i}" color="{colour.lower()}" alpha="255" label={quoteattr(name)}/>'
                      for i, (name, colour) in enumerate(classes.items()))
    with replacing(qgis) as temporary:
        temporary.write_text('<!DOCTYPE qgis>\n<qgis version="3.0"><pipe><rasterrenderer type="paletted" band="1" '
                             f'opacity="1" alphaBand="-1"><colorPalette>{entries}</colorPalette></rasterrenderer>'
                             "</pipe></qgis>\n", encoding="utf-8")
    write_preview(picture, path, classes)


def write_preview(path, map_path, classes):
    """A picture of the map in the classes' colours, at most PREVIEW pixels long."""
    with open_raster(map_path) as source:
        scale = max(1, max(source.shape) / PREVIEW)
        shape = tuple(max(1, round(n / scale)) for n in source.shape)
        small = source.read(1, out_shape=shape, resampling=Resampling.nearest)
    options = dict(driver="PNG", height=shape[0], width=shape[1], count=1, dtype="uint8", zlevel=3)
    with replacing(path) as temporary, without_place_allowed(), writing(f"class map {path}"):
        with rasterio.open(temporary, "w", **options) as target:
            target.write_colormap(1, dict(enumerate(map(tuple, palette(classes).tolist()))))
            target.write(small, 1)


def write_polygons(path, map_path, classes, least):
    """The map's areas as GeoJSON (RFC 7946: longitude and latitude, outer rings counterclockwise), areas of fewer than
    `least` pixels given to their largest neighbour, if they have one. `area` is in square units of the map's
    coordinate system, six digits of it. Holds the whole map in memory, three bytes a pixel."""
    with open_raster(map_path) as source:
        crs, transform, indices = source.crs, source.transform, source.read(1)
    if least > 1:
        indices = sieve(indices, least, mask=(indices != IGNORE).astype(np.uint8))
    found = shapes(indices, indices != IGNORE, transform=transform)
    with writing(f"class map {path}"), replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        comma = "\n"
        while batch := list(itertools.islice(found, 5000)):  # a call for each is thirty times slower
            placed = transform_geom(crs, "EPSG:4326", [shape for shape, _ in batch])
            for (shape, index), geometry in zip(batch, placed):
                file.write(comma + json.dumps(feature(shape, geometry, int(index), classes)))
                comma = ",\n"
        file.write("\n]}\n")


def enclosed(ring):
    """Twice the area inside a ring of points (float [N, 2], closed), negative where it turns right."""
    x, y = (np.array(ring) - ring[0]).T
    return np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])


def feature(shape, geometry, index, classes):
    """One polygon as GeoJSON: `shape` in the map's coordinates, whose area counts, `geometry` in degrees."""
    areas = [abs(enclosed(ring)) / 2 for ring in shape["coordinates"]]
    rings = [ring if (enclosed(ring) > 0) == (i == 0) else ring[::-1]
             for i, ring in enumerate(geometry["coordinates"])]
    name = list(classes)[index]
    return {"type": "Feature",
            "properties": {"class": name, "index": index, "colour": classes[name],
                           "area": float(f"{areas[0] - sum(areas[1:]):.6g}")},
            "geometry": {"type": "Polygon", "coordinates": [np.round(ring, 8).tolist() for ring in rings]}}


def check_written(path, factors):
    """RasterioError where a written map or one of its overviews cannot be read: GDAL tells nobody when a disk is full
    while it closes a file."""
    with rasterio.open(path, driver="GTiff") as source:
        if len(source.overviews(1)) != len(factors):  # their factors are rounded where the raster is narrow
            raise RasterioError(f"overviews {source.overviews(1)} instead of {factors}")
        for band in source.indexes:
            source.checksum(band)
    for level in range(len(factors)):
        with rasterio.open(path, driver="GTiff", overview_level=level) as source:
            for band in source.indexes:
                source.checksum(band)


def describe_bands(target, what, classes):
    """Colours, names and scales of the bands of the map (`what` None) or of a file beside it."""
    if what is None:
        colours = {i: (*map(int, colour), 255) for i, colour in enumerate(palette(classes)[: len(classes)])}
        target.write_colormap(1, {**colours, IGNORE: (0, 0, 0, 0)})
    elif what == "colours":
        target.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    else:
        target.scales = [1 / CERTAIN] * target.count
        target.descriptions = ["confidence"] if what == "confidence" else list(classes)


def write_map(path, layers, rows, classes, place, tags, also, least):
    """Writes a class map, and the rasters of `also` beside it, from `rows`, (first row, uint8 [rows, W, 1 and more]:
    class, confidence, probabilities) from the top down; pixels that are nodata in the input `layers` become nodata.
    All are whole before one takes its name, and the map is the last to. Polygons leave out areas of fewer than `least`
    pixels. Problem (exit 4) where the disk does not take them."""
    height, width = layers.shape
    options = dict(driver="GTiff", height=height, width=width, dtype="uint8", tiled=True, blockxsize=256,
                   blockysize=256, compress="deflate", zlevel=3, bigtiff="if_safer", **georeference_options(place))
    depths = {None: 1, "confidence": 1, "probabilities": len(classes), "colours": 4}
    written = [what for what in depths if what is None or what in also]
    paths = {what: path if what is None else beside(path, what) for what in written}
    factors = [2**i for i in range(1, 12) if max(height, width) >> i >= 256]
    rgba = np.column_stack([palette(classes), np.where(np.arange(256) == IGNORE, 0, 255)]).astype(np.uint8)
    gdal = rasterio.Env(GDAL_CACHEMAX=CACHE, COMPRESS_OVERVIEW="DEFLATE")
    with contextlib.ExitStack() as stack:
        stack.enter_context(without_place_allowed())
        temporary = {what: stack.enter_context(replacing(paths[what])) for what in written}
        stack.enter_context(gdal)
        with writing(f"class map {path}"):
            with contextlib.ExitStack() as opened:
                targets = {}
                for what in written:
                    nodata = {} if what == "colours" else {"nodata": IGNORE}
                    targets[what] = opened.enter_context(
                        rasterio.open(temporary[what], "w", count=depths[what], **nodata, **options))
                    describe_bands(targets[what], what, classes)
                    targets[what].update_tags(**tags)
                for row, found in rows:
                    found[~layers.valid(row, row + len(found))] = IGNORE
                    window = ((row, row + len(found)), (0, width))
                    for what, target in targets.items():
                        if what == "colours":
                            pixels = rgba[found[..., 0]]
                        else:
                            pixels = found[..., {None: slice(1), "confidence": slice(1, 2),
                                                 "probabilities": slice(2, None)}[what]]
                        target.write(np.moveaxis(pixels, -1, 0), window=window)
            for what in written:
                with rasterio.open(temporary[what], "r+", driver="GTiff") as target:
                    target.build_overviews(factors, OVERVIEWS[what])
                check_written(temporary[what], factors)
        for old in (*sidecars(path), *(beside(path, what) for what in ALSO)):
            old.unlink(missing_ok=True)  # they describe the map that is about to be replaced
    write_beside(path, classes, also, least)


def write_beside(path, classes, also, least, missing=False):
    """Writes what is made from a map that stands: its sidecars and, where `also` asks for them, its polygons; with
    `missing`, only what is not there, as after a full disk."""
    if not (missing and all(part.exists() for part in sidecars(path))):
        write_sidecars(path, classes)
    polygons = beside(path, "polygons")
    if "polygons" in also and not (missing and polygons.exists()):
        write_polygons(polygons, path, classes, least)


def stands(path, tags, also):
    """True where a whole map with these tags is there, and the rasters of `also` beside it."""
    try:
        for part in (path, *(beside(path, what) for what in also if what != "polygons")):
            if not part.exists():
                return False
            with open_raster(part) as source:
                if any(source.tags().get(key, "") != value for key, value in tags.items()):  # no empty ones are kept
                    return False
        return True
    except Problem:
        return False


def files_of(path, also):
    """The files of a whole map: itself, what always goes with it, and the rasters of `also`, [] for one of the `ways`."""
    return [path, *sidecars(path), *(beside(path, what) for what in also if what != "polygons")]


def maps_of(tile, settings, run):
    """{way: path} of a test tile's maps: "map", the map itself, and the map made in each of the `ways`."""
    path = run / "predictions" / f"{tile}.tif"
    return {"map": path, **{way: beside(path, way) for way in ways(settings)}}


def expected_maps(settings, run):
    """[(path, what goes beside it)] of the test tiles' maps, in every way."""
    also = {"map": settings["predict"]["also"]}
    return [(path, also.get(way, [])) for tile in settings["split"]["test"]
            for way, path in maps_of(tile, settings, run).items()]


def read_map(path, shape):
    """(uint8 [H, W], {tag: text}) of a map, or of its confidence; Problem (exit 3) where it is not there or has
    another shape."""
    if not path.exists():
        raise Problem(f"class map {path}: no such file, expected it of predict.py; run predict.py again", code=3)
    with open_raster(path) as source:
        if (source.count, source.dtypes[0], source.shape) != (1, "uint8", tuple(shape)):
            raise Problem(f"class map {path}: {source.count} bands of {source.dtypes[0]}, {source.shape}, expected "
                          f"one of uint8, {tuple(shape)}; run predict.py again", code=3)
        with reading(path):
            return source.read(1), source.tags()


def maps_stand(settings, run):
    """True where the maps of the test tiles are those that predict.csv names, with what goes beside them."""
    try:
        recorded = {row["map"]: row["sha256"] for row in read_table(run / "predict.csv")}
        return all(recorded.get(path.stem) == sha256(path) and all(part.exists() for part in files_of(path, also))
                   for path, also in expected_maps(settings, run))
    except (Problem, OSError, KeyError):
        return False
