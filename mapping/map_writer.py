"""A class map written from predicted rows, and what goes with it drawn from the map that stands."""
import contextlib
import math
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError

from base.files import replacing
from base.problem import Problem, shown
from base.tables import write_rows, write_text
from imagery.arrays import IGNORE
from imagery.ground import georeference, georeference_options, other_ground, pixel_size
from imagery.labels import palette
from imagery.rasters import open_raster, without_place_allowed, writing
from mapping.maps import ALONG, ALSO, CERTAIN, PREDICTED, WHOLE, beside, is_made, pam, sidecars, style_of
from mapping.polygons import write_polygons

PREVIEW = 1500  # pixels: longest side of the .png
BLOCK = 256  # pixels: side of a raster's tiles
COMPRESSION = {"compress": "DEFLATE", "zlevel": 3}  # of maps and their overviews
AREAS = ["class", "pixels", "expected_pixels", "square_metres", "expected_square_metres"]
ALONE = {"GDAL_PAM_ENABLED": "NO"}  # a GeoTIFF as it is without the .aux.xml beside it


class Wanted(NamedTuple):
    """What a map is to say of itself, and what is to stand beside it."""
    classes: dict  # {name: colour}
    georeference: dict  # imagery.ground.georeference
    tags: dict  # {key: text}
    also: list  # of maps.ALSO
    sieve: int  # pixels: smaller areas are left out of the polygons
    simplify: float  # metres: as of mapping.polygons


@contextlib.contextmanager
def new_raster(path, shape, wanted, name):
    """Opens the raster of the map, or of one of `ALSO` beside it, for writing, described. On leaving, it has
    overviews, and all of it was read again: GDAL tells nobody when a disk is full while it closes a file."""
    (height, width), count = shape, {"probabilities": len(wanted.classes), "colours": 4}.get(name, 1)
    overviews = {"map": Resampling.mode, "colours": Resampling.nearest}.get(name, Resampling.average)
    factors = [2**i for i in range(1, 12) if max(height, width) >> i >= 256]
    options = dict(driver="GTiff", height=height, width=width, count=count, dtype="uint8",
                   nodata=None if name == "colours" else IGNORE, tiled=True, blockxsize=BLOCK,
                   blockysize=BLOCK, bigtiff="if_safer", **COMPRESSION,
                   **georeference_options(wanted.georeference))
    with writing_alone():  # not while it is written: others may be opened, and closed, meanwhile
        target = rasterio.open(path, "w", **options)
    try:
        with writing_alone():
            target.update_tags(**wanted.tags)
            describe_bands(target, name, wanted.classes)
        yield target
    finally:
        with writing_alone():
            target.close()
    with writing_alone():
        with rasterio.open(path, "r+", driver="GTiff") as target:
            target.build_overviews(factors, overviews)
        with rasterio.open(path, driver="GTiff") as source:
            if len(source.overviews(1)) != len(factors):  # which are rounded where the raster is narrow
                raise RasterioError(f"overviews {source.overviews(1)} instead of {factors}")
        for level in (None, *range(len(factors))):
            with rasterio.open(path, driver="GTiff", overview_level=level) as source:
                for band in source.indexes:
                    source.checksum(band)


def writing_alone():
    """GDAL's options for a GeoTIFF that is written without a file beside it; a context."""
    return rasterio.Env(GDAL_CACHEMAX=0, COMPRESS_OVERVIEW=COMPRESSION["compress"], **ALONE)


def describe_bands(target, name, classes):
    """Colours, names and scales of the bands of the map, or of a raster of `ALSO` beside it."""
    if name == "map":
        colours = {i: (*map(int, colour), 255) for i, colour in enumerate(palette(classes)[: len(classes)])}
        target.write_colormap(1, {**colours, IGNORE: (0, 0, 0, 0)})
    elif name == "colours":
        target.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    else:
        target.scales = [1 / CERTAIN] * target.count
        target.descriptions = list(classes) if name == "probabilities" else [name]


@contextlib.contextmanager
def open_map(path, layers, wanted):
    """Opens a class map, and what is `wanted` beside it: yields `write(row, pixels)`, which takes rows from
    the top down (uint16 [1 or 2 + C, rows, W], as of mapping.blending.decide; written as nodata where the
    input `layers` have none, or are not asked for). On leaving, rasters are whole before one takes its name,
    the map last. Problem (exit 4) where the disk does not take them."""
    paths = {"map": path, **{name: beside(path, name) for name in wanted.also if name in PREDICTED}}
    areas = Areas(len(wanted.classes))
    with contextlib.ExitStack() as named:
        named.enter_context(without_place_allowed())
        temporary = {name: named.enter_context(replacing(final)) for name, final in paths.items()}
        with writing(f"class map {path}"), contextlib.ExitStack() as opened:
            targets = {name: opened.enter_context(new_raster(final, layers.shape, wanted, name))
                       for name, final in temporary.items()}

            def write(row, pixels):
                stop = row + pixels.shape[1]
                inside = layers.inside(row, stop)
                valid = inside & layers.valid(row, stop) if inside.any() else inside
                areas.add(pixels, valid)
                with rasterio.Env(GDAL_CACHEMAX=0):  # blocks in their order, whatever else is kept
                    for name, target in targets.items():
                        planes = np.where(valid, part(name, pixels), np.uint8(IGNORE))
                        target.write(planes, window=((row, stop), (0, layers.shape[1])))

            yield write
        texts = {name: checked_pam(temporary[name], final, name, wanted) for name, final in paths.items()}
        others = [beside(path, name) for name in (*ALSO, *ALONG)]
        for old in (*sidecars(path), *others, *map(pam, others), style_of(path)):
            old.unlink(missing_ok=True)  # they describe the map that is about to be replaced
        if len(paths) > 1:
            areas.write(beside(path, "areas"), wanted, layers.shape)
        for name, text in texts.items():
            write_pam(paths[name], text)  # first, so that no map stands without a part of its place
    write_beside(path, wanted)


def part(name, pixels):
    """What goes into one raster (uint8 [bands, rows, W]) of predicted rows, by its name."""
    if name == "map":
        return pixels[:1].astype(np.uint8)
    shares = pixels[1:2] if name == "uncalibrated" else pixels[2:]
    if name == "confidence":
        shares = shares.max(0, keepdims=True)
    step = WHOLE // CERTAIN
    return ((shares + np.uint16(step // 2)) // np.uint16(step)).astype(np.uint8)


class Areas:
    """How much of a map each class covers: the pixels given to it, and those that are expected to be of it,
    the sum of its probabilities, in which a pixel that may be of two classes counts for both."""

    def __init__(self, classes):
        self.counted, self.summed = np.zeros(classes, np.int64), np.zeros(classes, np.int64)

    def add(self, pixels, valid):
        """Counts rows as `open_map` takes them, where they are valid (bool [rows, W])."""
        self.counted += np.bincount(pixels[0][valid], minlength=len(self.counted))
        if len(pixels) > 1:
            self.summed += [(plane * valid).sum(dtype=np.int64) for plane in pixels[2:]]

    def write(self, path, wanted, shape):
        """Writes the table of a map of `shape` (H, W); square metres by the pixel's size in its middle."""
        size = pixel_size(wanted.georeference, shape)
        rows = []
        for name, pixels, expected in zip(wanted.classes, self.counted, self.summed / WHOLE):
            metres = ["" if size is None else round(number * math.prod(size), 2)
                      for number in (pixels, expected)]
            rows.append(dict(zip(AREAS, (name, pixels, round(expected, 1), *metres))))
        write_rows(path, AREAS, rows)


def pam_of(path, name, wanted):
    """The .aux.xml (GDAL's PAM, as text) of the raster of the map, or of one of `ALSO`, that lies at `path`:
    class names and, where a GeoTIFF alone does not hold it, the georeference; "" where there is neither."""
    ground, points, parts = wanted.georeference, wanted.georeference.get("control_points"), ""
    with rasterio.Env(**ALONE), open_raster(path) as source:
        lacking = other_ground(georeference(source, path, None), ground)
    if lacking and ground["crs"]:
        parts = f"<SRS>{escape(ground['crs'])}</SRS>"
    if lacking and points:
        numbers = '<GCP Id="" Line="{}" Pixel="{}" X="{}" Y="{}" Z="{}"/>'
        parts += (f"<GCPList Projection={quoteattr(points['crs'] or '')}>"
                  + "".join(numbers.format(*point) for point in points["points"]) + "</GCPList>")
    if name == "map":
        names = "".join(f"<Category>{escape(name)}</Category>" for name in wanted.classes)
        parts += f'<PAMRasterBand band="1"><CategoryNames>{names}</CategoryNames></PAMRasterBand>'
    return f"<PAMDataset>{parts}</PAMDataset>\n" if parts else ""


def checked_pam(temporary, path, name, wanted):
    """`pam_of` a raster under its temporary name. Problem (exit 3) where GDAL, which reads both, would place
    it elsewhere than its input."""
    text, aside = pam_of(temporary, name, wanted), pam(temporary)
    try:
        if text:
            aside.write_text(text, encoding="utf-8")
        with open_raster(temporary) as source:
            difference = other_ground(georeference(source, temporary, None), wanted.georeference)
    finally:
        aside.unlink(missing_ok=True)
    if difference:
        key, own, expected = difference
        raise Problem(f"class map {path}: its {key.replace('_', ' ')} would be {shown(own)}, expected "
                      f"{shown(expected)}, as GDAL reads the input; warp the input first (gdalwarp)", code=3)
    return text


def write_pam(path, text):
    """Writes the .aux.xml of a raster, where it has one."""
    if text:
        write_text(pam(path), text)


def write_beside(path, wanted):
    """Writes what goes with a map and is not there as `wanted`: sidecars, the map in colours, polygons."""
    colours = beside(path, "colours")
    for name, part in {"map": path, **{name: beside(path, name) for name in (*PREDICTED, "colours")}}.items():
        if not pam(part).exists() and is_made(part, wanted.tags):
            write_pam(part, pam_of(part, name, wanted))
    if not all(part.exists() for part in sidecars(path)):
        write_sidecars(path, wanted)
    if "colours" in wanted.also and not is_made(colours, wanted.tags):
        write_colours(colours, path, wanted)
    write_polygons(path, wanted)


def write_sidecars(path, wanted):
    """Names and colours of a map for QGIS, and a picture."""
    (_, qgis, picture), classes = sidecars(path), wanted.classes
    entry = '<paletteEntry value="{}" color="{}" alpha="255" label={}/>'
    entries = "".join(entry.format(i, colour.lower(), quoteattr(name))
                      for i, (name, colour) in enumerate(classes.items()))
    write_text(qgis, '<!DOCTYPE qgis>\n<qgis version="3.0"><pipe><rasterrenderer type="paletted" band="1" '
                     f'opacity="1" alphaBand="-1"><colorPalette>{entries}</colorPalette></rasterrenderer>'
                     "</pipe></qgis>\n")
    with open_raster(path) as source:
        scale = max(1, max(source.shape) / PREVIEW)
        height, width = (max(1, round(size / scale)) for size in source.shape)
        small = source.read(1, out_shape=(height, width), resampling=Resampling.nearest)
    options = dict(driver="PNG", height=height, width=width, count=1, dtype="uint8", zlevel=3)
    with replacing(picture) as temporary, without_place_allowed(), writing(f"class map {picture}"):
        with rasterio.open(temporary, "w", **options) as target:
            target.write_colormap(1, dict(enumerate(map(tuple, palette(classes).tolist()))))
            target.write(small, 1)
        with rasterio.open(temporary) as source:  # of a disk that is full GDAL may say nothing
            source.checksum(1)


def write_colours(path, map_path, wanted):
    """The map in its classes' colours, RGB and alpha: 0 where the map has no data."""
    alpha = np.where(np.arange(256) == IGNORE, 0, 255)
    rgba = np.column_stack([palette(wanted.classes), alpha]).astype(np.uint8)
    with open_raster(map_path) as source, replacing(path) as temporary:
        with writing(f"class map {path}"), new_raster(temporary, source.shape, wanted, "colours") as target:
            for row in range(0, source.height, BLOCK):
                window = (row, min(row + BLOCK, source.height)), (0, source.width)
                target.write(np.moveaxis(rgba[source.read(1, window=window)], -1, 0), window=window)
        write_pam(path, checked_pam(temporary, path, "colours", wanted))
