"""Class maps of whole rasters, whatever their size: blended windows, eight views, no unpredicted border.

    python predict.py --params demo.yaml                   every test tile
    python predict.py --params demo.yaml --tile 2_13       one tile by name
    python predict.py --params demo.yaml --tile "/some/where/my ortho.tif"   (--extra its height model, where the
                                                                              network was trained with data.extra)

Reads model.keras and model.json of the run and the raster, window by window. Writes predictions/<name>.tif (class
index, nodata 255, colours, names, the input's georeference), .qml for QGIS, and a .png to look at. A map that stands
already, from the same model, settings and raster, is left alone. Memory depends on the raster's width and the window,
not on its height.
"""
import functools
import json
import math
import time
from contextlib import nullcontext
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from skimage.io import imsave

from command import command, progress
from files import Problem, only_one, quiet_stderr, replacing, sha256
from params import find_raster, find_raw
from patches import cut
from rasters import Layers, check_bands, georeference, open_raster, same_place, without_place_allowed
from tiles import IGNORE, palette, starts, unview, view

with quiet_stderr():
    import keras
    import tensorflow as tf

PREVIEW = 1500  # pixels: longest side of the .png


# -- the map as it forms ----------------------------------------------------------------------------------------------

def blend_weights(window):
    """How much each pixel of a window counts: float32 [window, window, 1], highest in the middle, never zero."""
    rise = np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2 + 1e-3
    return np.outer(rise, rise).astype(np.float32)[..., None]


def predict_windows(predict, strip, columns, window, views, batch_size):
    """Yields (column, probabilities float32 [window, window, C]), the mean of the views, for each window of a strip of
    rows (uint8 [H, W, B]); `predict` takes uint8 [N, window, window, B] and returns float32 [N, window, window, C]."""
    jobs = [(col, number) for col in columns for number in views]
    total = 0
    for start in range(0, len(jobs), batch_size):
        part = jobs[start: start + batch_size]
        patches = np.stack([view(cut(strip, 0, col, window), number) for col, number in part])
        for (col, number), probabilities in zip(part, np.asarray(predict(patches))):
            total = total + unview(probabilities, number)
            if number == views[-1]:
                yield col, total / len(views)
                total = 0


def predict_rows(predict, read, shape, classes, window, overlap, views, batch_size, multiple):
    """Yields (first row, predicted uint8 [rows, W]) from the top down, every row of a raster once.

    `read(start, stop)` returns rows of the raster as uint8 [rows, W, B]; `shape` is (H, W). Windows overlap by at
    least `overlap` of their side; where the raster is smaller, the window shrinks to a multiple of `multiple` and
    reaches past the edge, where the raster is mirrored. Sums stand in a band as high as a window, which slides down.
    """
    height, width = shape
    window = min(window, -(-max(height, width) // multiple) * multiple)
    step = max(1, int(window * (1 - overlap)))
    rows, columns = starts(height, window, step), starts(width, window, step)
    weights = blend_weights(window)
    band = np.zeros((window, max(width, window), classes), np.float32)
    for row, following in zip(rows, [*rows[1:], height]):
        strip = read(row, min(row + window, height))
        for col, probabilities in predict_windows(predict, strip, columns, window, views, batch_size):
            band[:, col: col + window] += weights * probabilities
        done = following - row
        yield row, band[:done, :width].argmax(-1).astype(np.uint8)
        band[: window - done] = band[done:].copy()
        band[window - done:] = 0


# -- the map on disk --------------------------------------------------------------------------------------------------

def sidecars(path):
    """What goes with a map: its .aux.xml for GDAL, .qml for QGIS and .png to look at."""
    return path.with_name(path.name + ".aux.xml"), path.with_suffix(".qml"), path.with_suffix(".png")


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
    with replacing(path) as temporary:
        imsave(temporary, palette(classes)[small], check_contrast=False)


def check_written(path, factors):
    """RasterioError where a written map or one of its overviews cannot be read: GDAL tells nobody when a disk is full
    while it closes a file."""
    with rasterio.open(path, driver="GTiff") as source:
        if source.overviews(1) != factors:
            raise RasterioError(f"overviews {source.overviews(1)} instead of {factors}")
        source.checksum(1)
    for level in range(len(factors)):
        with rasterio.open(path, driver="GTiff", overview_level=level) as source:
            source.checksum(1)


def write_map(path, layers, rows, classes, place, tags):
    """Writes a class map from `rows`, (first row, predicted) pairs from the top down; pixels that are nodata in the
    input `layers` become nodata. Problem (exit 4) where the disk does not take it."""
    height, width = layers.shape
    options = dict(driver="GTiff", height=height, width=width, count=1, dtype="uint8", nodata=IGNORE,
                   tiled=True, blockxsize=256, blockysize=256, compress="deflate", bigtiff="if_safer", crs=place["crs"],
                   transform=place["transform"] and rasterio.Affine(*place["transform"]))
    colours = {i: (*map(int, colour), 255) for i, colour in enumerate(palette(classes)[: len(classes)])}
    gdal = rasterio.Env(GDAL_CACHEMAX=128, COMPRESS_OVERVIEW="DEFLATE")
    with replacing(path) as temporary, gdal, without_place_allowed():
        try:
            with rasterio.open(temporary, "w", **options) as target:
                target.write_colormap(1, {**colours, IGNORE: (0, 0, 0, 0)})
                target.update_tags(**tags)
                for row, predicted in rows:
                    predicted[~layers.valid(row, row + len(predicted))] = IGNORE
                    target.write(predicted, 1, window=((row, row + len(predicted)), (0, width)))
            factors = [2**i for i in range(1, 12) if max(height, width) >> i >= 256]
            with rasterio.open(temporary, "r+", driver="GTiff") as target:
                target.build_overviews(factors, Resampling.mode)
            check_written(temporary, factors)
        except RasterioError as error:
            raise Problem(f"class map {path}: not written ({' '.join(str(error).split())}), expected room on the disk; "
                          "free some space and run the same command again", code=4) from None
        for old in sidecars(path):  # they describe the map that is about to be replaced
            old.unlink(missing_ok=True)
    write_sidecars(path, classes)


def stands(path, tags):
    """True where a whole map with these tags, and all that goes with it, is there."""
    if not all(part.exists() for part in (path, *sidecars(path))):
        return False
    try:
        with open_raster(path) as source:
            return all(source.tags().get(key) == value for key, value in tags.items())
    except Problem:
        return False


# -- one raster, one model ---------------------------------------------------------------------------------------------

def load_model(run):
    """(network, model.json) of a finished run; Problem (exit 3) where there is none."""
    try:
        facts = json.loads((run / "model.json").read_text(encoding="utf-8"))
        for key in ("classes", "bands", "extra", "scale", "multiple", "ground_sample_distance"):
            facts[key]  # KeyError: written by an earlier version
        if sha256(run / "model.keras") != facts["sha256"]:
            raise Problem(f"model {run / 'model.keras'}: other bytes than model.json names, expected the file of that "
                          "run; run train.py again", code=3)
        return keras.models.load_model(run / "model.keras", compile=False), facts
    except FileNotFoundError as missing:
        raise Problem(f"model {missing.filename}: no such file, expected a finished training; run train.py first",
                      code=3) from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise Problem(f"model in {run}: not readable ({' '.join(str(error).split())[:200]}), expected model.keras and "
                      "model.json as train.py writes them; run it again", code=3) from None


def predictor(network):
    """A function of patches (uint8 [N, H, W, B]) that returns their probabilities (float32 [N, H, W, C]), with one
    graph for each size of window: Keras interpolates only to sizes that the graph knows."""
    @functools.cache
    def graph(*shape):
        return tf.function(lambda patches: network(patches, training=False),
                           input_signature=[tf.TensorSpec((None, *shape), tf.uint8)])

    return lambda patches: graph(*patches.shape[1:])(patches)


def find_extra(name, given, facts, settings):
    """The path of the extra raster of a tile or raster, None where the network needs none; Problem (exit 3) where it
    needs one and there is none."""
    if not facts["extra"]:
        return None
    pattern = settings["data"]["extra"]
    places = [given] if given else find_raw(settings["data"]["raw"], pattern, name) if pattern else []
    if not places:
        raise Problem(f"raster {name}: no extra raster, expected one as the network was trained with data.extra; name "
                      "it by --extra (EXTRA= for make)", code=3)
    return places[0]


def check_raster(path, raster, extra, facts):
    """Problem (exit 3) where an open raster, or the open extra raster beside it, is not what the network takes."""
    wrong = check_bands(raster, facts["bands"], facts["scale"], f"the network's bands: {facts['bands']}")
    if wrong:
        raise Problem(f"raster {path}: {wrong}", code=3)
    if extra:
        wrong = check_bands(extra, [1], facts["scale"][-1:], "the network's extra band")
        if not wrong and not same_place(extra, georeference(raster, None)["transform"]):
            wrong = f"its georeference lies elsewhere than that of {path}, expected the same ground"
        if (extra.height, extra.width) != (raster.height, raster.width):
            wrong = f"{extra.height} x {extra.width} pixels, expected {raster.height} x {raster.width} as {path}"
        if wrong:
            raise Problem(f"extra raster {extra.name}: {wrong}", code=3)


def predict_raster(name, path, extra_path, predict, facts, settings, run):
    """Predicts one raster into runs/<run>/predictions/<name>.tif, unless the same map stands there."""
    options = settings["predict"]
    target = run / "predictions" / f"{name}.tif"
    with open_raster(path) as raster, open_raster(extra_path) if extra_path else nullcontext() as extra:
        check_raster(path, raster, extra, facts)
        place = georeference(raster, settings["data"]["assume_crs"])
        tags = {"MODEL": facts["sha256"], "PREDICT": json.dumps(options), "PLACE": json.dumps(place),
                "SOURCE": " ".join(sha256(source) for source in (path, extra_path) if source)}
        if stands(target, tags):
            print(f"{name:>12}  stands already  {target}", flush=True)
            return
        if target.exists():
            print(f"{name:>12}  replaces the map of another raster, model or setting", flush=True)
        pixel, trained = math.hypot(raster.transform.a, raster.transform.d), facts["ground_sample_distance"]
        in_metres = place["transform"] and not (raster.crs and raster.crs.is_geographic)
        if in_metres and trained and not 0.8 < pixel / trained < 1.25:
            print(f"warning: {path}: pixels of {pixel:g}, the network was trained on {trained:g}; resample it for good "
                  "results", flush=True)
        started, layers = time.monotonic(), Layers(raster, extra, facts["bands"], facts["scale"])
        read, outside = 0, np.zeros(len(facts["scale"]), np.int64)

        def read_rows(start, stop):
            nonlocal read, outside
            valid = layers.valid(start, stop)
            pixels, beyond = layers.read(start, stop, valid)
            read, outside = read + np.count_nonzero(valid), outside + beyond
            return pixels

        def rows():
            for row, predicted in predict_rows(predict, read_rows, layers.shape, len(facts["classes"]),
                                               multiple=facts["multiple"], **options):
                yield row, predicted
                progress(f"{name:>12}  {100 * (row + len(predicted)) // layers.shape[0]:3d} %")

        write_map(target, layers, rows(), facts["classes"], place, tags)
    if outside.max() > 0.2 * read:
        print(f"warning: {path}: {100 * outside.max() / read:.0f} % of a band outside the scale that the network was "
              f"trained with ({facts['scale']}); see data.scale", flush=True)
    seconds, (height, width) = time.monotonic() - started, layers.shape
    progress(f"{name:>12}  {height} x {width} px, {len(options['views'])} views: {seconds:.0f} s, "
             f"{height * width * len(options['views']) / seconds / 1e6:.2f} Mpx/s per view  {target}", last=True)


def main(settings, run, tile, extra=None):
    split = settings["split"]
    rasters = [find_raster(name, settings) for name in (split["test"] if tile is None else [tile])]
    network, facts = load_model(run)
    if extra and (tile is None or rasters[0][0] in sum(split.values(), []) or not facts["extra"]):
        raise Problem(f"option --extra (EXTRA= for make) {extra}: given for "
                      + ("no --tile" if tile is None else f"{tile}, a tile of the split" if facts["extra"] else
                         "a network without an extra band")
                      + ", expected with --tile of a raster outside the split, for a network trained with data.extra; "
                      "leave it out", code=2)
    extras = [find_extra(name, extra, facts, settings) for name, _ in rasters]
    predict = predictor(network)
    with only_one(run):
        for (name, path), extra_path in zip(rasters, extras):
            predict_raster(name, path, extra_path, predict, facts, settings, run)


if __name__ == "__main__":
    command(main, __doc__, tile="NAME or path of one raster; every test tile without it",
            extra="NAME of the extra raster's file beside --tile, where the network needs one")
