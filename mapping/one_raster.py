"""One raster, opened as the network sees it, to its class map: does the map stand, how much memory would it
take, go."""
import contextlib
import functools
import hashlib
import json
import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from base.code import code_of
from base.files import sha256
from base.keys import BESIDE
from base.problem import Problem, own_fault
from base.settings import all_tiles
from base.tables import read_facts
from base.zips import is_file
from imagery.collars import Collar, advice, likely_collar
from imagery.ground import georeference, in_degrees, pixel_size, plain_size, resampled
from imagery.rasters import CACHE, Layers, is_for_each, open_raster, to_set, validity
from imagery.raw_tiles import MASK, is_image_of
from imagery.scales import filled, is_squeezed, settled
from mapping.blending import Windows, predict_rows
from mapping.engines import Engine, engine_files, start_engine
from mapping.map_writer import Wanted, write_beside, write_map
from mapping.maps import PREDICTED, beside, is_made, map_of, options_of, recorded

code_version = functools.cache(code_of)


class Job(NamedTuple):
    """A raster, and how its map is to be made."""
    name: str
    path: Path
    extra: Path | None  # the extra raster beside it
    settings: dict
    run: Path
    engine: str  # tensorflow or openvino

    @property
    def map(self):
        return map_of(self.run, self.name)


def attempt(job, threads=0, show=None):
    """(row of predict.csv or None, Problem or None, lines still to be shown: all where `show` is None)."""
    lines = []
    keep = show or (lambda line, last=False: lines.extend([line] if last else []))
    try:
        with own_fault(job.path, job.extra):
            return predict_raster(job, threads, keep), None, lines
    except Problem as problem:
        return None, problem, lines


def predict_raster(job, threads, show):
    """Writes a raster's class map, unless the same map stands. Returns its row of predict.csv, without
    seconds where the map stood. `threads` 0: one for each core. `show`: base.command.progress, or as that."""
    facts, options = read_facts(job.run), job.settings["predict"]
    with open_source(job, facts, show) as source:
        facts["scale"] = source.layers.scale  # of this raster, from here on
        also, tags = possible(options["also"], source, show), tags_of(job, facts, source)
        wanted = Wanted(facts["classes"], source.georeference, tags, also, options["sieve"])
        if map_stands(job, wanted, show):
            seconds = None
            write_beside(job.map, wanted)
            show(f"{job.name:>12}  stands already  {job.map}", last=True)
        else:
            seconds = make_map(job, facts, source, wanted, threads, show)
        height, width = source.shape
    return {"map": job.name, "raster": os.path.realpath(job.path), "height": height, "width": width,
            "views": len(options["views"]), "window": options["window"], "overlap": options["overlap"],
            "engine": tags["ENGINE"], "seconds": seconds, "sha256": sha256(job.map)}


def make_map(job, facts, source, wanted, threads, show):
    """Predicts a raster and writes its map; returns how many seconds that took, as text."""
    options, (height, width), classes = job.settings["predict"], source.shape, len(facts["classes"])
    engine = Engine(job.engine, options["precision"], options["window"], options["batch_size"], threads)
    answer, engine_bytes = start_engine(job.run, facts["sha256"], engine)
    window, multiple, views = options["window"], facts["multiple"], options["views"]
    if job.engine == "tensorflow":  # which takes windows of any size: none larger than the raster
        window = min(window, -(-max(source.shape) // multiple) * multiple)
    windows = Windows(window, options["overlap"], views, multiple)
    check_memory(job, source, needed(source.layers, facts, windows, engine_bytes, wanted.also), show)
    collar = source.layers.collar or likely_collar(source.rasters[0], facts["bands"])
    if collar and not source.layers.collar:
        show(f"warning: {job.path}: {advice(collar.nodata, collar.share)}", last=True)
    started = time.monotonic()
    channels = 2 + classes if "probabilities" in wanted.also else 1 + ("confidence" in wanted.also)

    def rows():
        for row, pixels in predict_rows(answer, source.read, source.shape, classes, windows, channels):
            yield row, pixels
            show(f"{job.name:>12}  {100 * (row + len(pixels)) // height:3d} %")

    write_map(job.map, source.layers, rows(), wanted)
    seconds = time.monotonic() - started
    warn_of_scale(job, source, show)
    show(f"{job.name:>12}  {height} x {width} px, views: {len(views)}: {seconds:.0f} s, "
         f"{height * width * len(views) / seconds / 1e6:.2f} Mpx/s per view  {job.map}", last=True)
    return f"{seconds:.2f}"


def warn_of_scale(job, source, show):
    """Warns where the scale clips a band of a raster that was read, or squeezes the image's."""
    scale, key = source.layers.scale, scale_key(job.name, job.settings)
    own = job.settings["predict"]["scale"] is not None and key
    named = f"{'predict.scale' if own else 'the scale that the network was trained with'} ({scale})"
    levels = [filled(levels) for levels in source.layers.levels[:len(source.layers.sources[0][1])]]
    if source.outside.max() > 0.2 * source.pixels:
        wrong = f"{100 * source.outside.max() / source.pixels:.0f} % of a band outside {named}"
    elif is_squeezed(levels):
        low, high = np.min([pair[0] for pair in levels if pair]), np.max([pair[1] for pair in levels if pair])
        wrong = f"its values fill only {low}..{high} of 0..255 by {named}"
    else:
        return
    show(f"warning: {job.path}: {wrong}; {to_set(key, True)}", last=True)


# -- the raster as the network sees it -----------------------------------------------------------------------

class Source:
    """A raster to predict, and the extra raster where there is one, open and of the network's pixel size:
    `paths` and `rasters` of both; `layers`, the bands that the network sees; `shape`, (height, width);
    `georeference`, that of imagery.ground."""

    def __init__(self, paths, rasters, ground, facts, collar):
        self.paths, self.rasters, self.georeference = paths, rasters, ground
        self.layers = Layers(rasters[0], (rasters + [None])[1], facts["bands"], facts["scale"], collar)
        self.shape = self.layers.shape
        self.pixels, self.outside = 0, np.zeros(len(facts["scale"]), np.int64)  # read; beyond the scale

    def read(self, start, stop):
        """Rows of pixels: uint8 [rows, W, B]."""
        valid = self.layers.valid(start, stop)
        pixels, outside = self.layers.read(start, stop, valid)
        self.pixels += np.count_nonzero(valid)
        self.outside += outside
        return pixels


def is_tile(name, settings):
    """True where a map is a tile's of the split, in whatever way."""
    return any(name.removesuffix(end) in all_tiles(settings["split"]) for end in ("", *BESIDE))


def scale_key(name, settings):
    """The key that scales a raster, predict.scale; None for a tile of the split, read as it was prepared."""
    return None if is_tile(name, settings) else "predict.scale"


def asked_scale(name, settings, facts):
    """For every band of the network the values that become 0 and 255 in a raster: (low, high), None for bytes
    as they are, or "auto". As the network was trained where predict.scale is null or has no entry for a
    band, of one for all also the extra raster's. Problem (exit 2) where it is for other bands."""
    scale, trained = settings["predict"]["scale"], facts["scale"]
    if scale is None or not scale_key(name, settings):
        return trained
    each = scale if is_for_each(scale) else [scale] * len(facts["bands"]) + [None] * facts["extra"]
    if len(each) != len(trained):
        raise Problem(f"settings, key predict.scale: {len(each)} entries, expected one for each of the "
                      f"network's {len(trained)} bands; add or remove some", code=2)
    return [own if asked is None else asked for asked, own in zip(each, trained)]


@contextlib.contextmanager
def open_source(job, facts, show):
    """The Source of a job, resampled where predict.resample asks for it."""
    paths = [job.path, job.extra] if job.extra else [job.path]
    resample = job.settings["predict"]["resample"] and not is_tile(job.name, job.settings)
    with contextlib.ExitStack() as opened:
        rasters = [opened.enter_context(open_raster(path)) for path in paths]
        image, nodata = rasters[0], job.settings["data"]["nodata"]
        ground = ground_of(job, image, show)
        scales, warning = scales_to(facts["ground_sample_distance"], ground, image.shape, resample, job.path)
        if warning:
            show(f"warning: {job.path}: {warning}", last=True)
        if scales != (1, 1):
            rasters = [opened.enter_context(resampled(raster, scales)) for raster in rasters]
            for key in sorted({"control_points", "rpcs"} & ground.keys()):
                del ground[key]
                show(f"warning: {job.path}: its {key} count its own pixels, so its map has none", last=True)
            ground["transform"] = list(rasters[0].transform)[:6]
        collar = None if nodata is None else Collar(image, facts["bands"], nodata, rasters[0])
        asked = asked_scale(job.name, job.settings, facts)
        source = Source(paths, rasters, ground, facts, collar)
        learned = facts.get("levels") or [[0, 255]] * len(asked)  # of an earlier version it is not known
        source.layers.scale = settled(asked, source.layers, facts["scale"], learned)
        if "auto" in asked:
            limits = [f"{one[0]:g}..{one[1]:g}" if one else "as it is" for one in source.layers.scale]
            show(f"{job.name:>12}  predict.scale auto, from percentiles 2 and 98: {', '.join(limits)} become "
                 "0 and 255", last=True)
        yield source


def ground_of(job, image, show):
    """The georeference of a job's open image: data.assume_crs counts where it is that of a tile of the split;
    of any other without a coordinate system a line says so."""
    ground, data = georeference(image, job.path, None), job.settings["data"]
    if not ground["transform"] or ground["crs"] or "control_points" in ground:
        return ground
    if is_tile(job.name, job.settings) or is_image_of(job.path, all_tiles(job.settings["split"]), data):
        return {**ground, "crs": data["assume_crs"]}
    show(f"warning: {job.path}: no coordinate system is named, so its map has none; name it in "
         f"{job.path.with_suffix('.prj').name} beside it (as EPSG:...), or by gdal_edit.py -a_srs", last=True)
    return ground


def scales_to(trained, ground, shape, resample, path):
    """((along a row, along a column): how many of the map's pixels to one of the raster's, 1 unless
    `resample`; a warning or None). Problem (exit 3) where their sizes have nothing in common."""
    own = pixel_size(ground, shape)
    if trained is None:
        return (1, 1), "the training's pixel size is not known, so it is not resampled" if resample else None
    if own is None and not ground["transform"] and not resample:
        return (1, 1), None  # a picture without a place has no size
    if own is None:
        unnamed = ground["transform"] and not ground["crs"]
        hint = "; name its coordinate system (rio edit-info --crs EPSG:4326)" if unnamed else ""
        return (1, 1), ("its pixel size in metres is not known, so it is not resampled; the network was "
                        f"trained on {metres(trained)}{hint}")
    ratios, sizes = np.divide(own, trained), (metres(plain_size(own)), metres(trained))
    if resample and not ((1 / 32 < ratios) & (ratios < 32)).all():
        raise Problem(f"raster {path}: pixels of {sizes[0]}, expected about {sizes[1]}, on which the network "
                      "was trained; look at its georeference, or set predict.resample to false", code=3)
    if resample:
        return tuple(np.where(abs(ratios - 1) > 0.01, ratios, 1).tolist()), None
    if ((0.8 < ratios) & (ratios < 1.25)).all():
        return (1, 1), None
    return (1, 1), (f"pixels of {sizes[0]}, the network was trained on {sizes[1]}; set predict.resample to "
                    "true for good results")


def metres(size):
    """A plain pixel size as text."""
    return f"{size[0]:g} m along rows, {size[1]:g} m along columns" if np.ndim(size) else f"{size:g} m"


def possible(also, source, show):
    """What of `also` a raster's map can have: polygons only where its place on the ground is known."""
    if "polygons" not in also or in_degrees(source.rasters[0], source.georeference):
        return also
    reason = "no place in longitude and latitude is known"
    if "control_points" in source.georeference:
        reason = "placed by control points alone; warp it first (gdalwarp)"
    show(f"warning: {source.paths[0]}: {reason}, so no polygons", last=True)
    return [name for name in also if name != "polygons"]


def tags_of(job, facts, source):
    """The tags of a map: what it was made from and by. The same tags, the same pixels."""
    options = job.settings["predict"]
    seen = {key: facts[key] for key in ("bands", "extra", "scale", "ground_sample_distance", "multiple")}
    seen["classes"], seen["nodata"] = list(facts["classes"].items()), job.settings["data"]["nodata"]
    read = json.dumps([options_of(options), seen], sort_keys=True)
    masks = {f"{path}{MASK}": validity(raster) for path, raster in zip(source.paths, source.rasters)}
    masks = [f"{text} {sha256(mask) if is_file(mask) else None}" for mask, text in masks.items()]
    scripts = ["mapping/one_raster.py", *(["mapping/translate.py"] if job.engine == "openvino" else [])]
    tool = f"{job.engine} {version(job.engine)} {options['precision']}"
    if options["precision"] == "int8":  # other weights, by its calibration
        tool += " " + sha256(engine_files(job.run, "int8", options["window"])[1])[:16]
    return {"MODEL": facts["sha256"], "SETTINGS": hashlib.sha256(read.encode()).hexdigest(),
            "PREDICT": options_of(options), "SCALE": json.dumps(facts["scale"]),
            "PLACE": json.dumps(source.georeference),
            "VIEWS": " ".join(map(str, options["views"])), "WINDOW": str(options["window"]),
            "OVERLAP": str(options["overlap"]), "ENGINE": tool,
            "VERSION": " ".join(code_version(script)[:16] for script in scripts),
            "MASKS": " ".join(masks), "SOURCE": " ".join(map(sha256, source.paths))}


def map_stands(job, wanted, show):
    """True where a job's map need not be predicted; says why an earlier one is predicted again."""
    if not job.map.exists():
        return False
    reason = "replaces the map of another raster, model, setting or version, or a damaged one"
    if is_made(job.map, wanted.tags) and recorded(job.run).get(job.name) in (None, sha256(job.map)):
        predicted = [name for name in wanted.also if name in PREDICTED]
        lacking = [name for name in predicted if not is_made(beside(job.map, name), wanted.tags)]
        if not lacking:
            return True
        reason = f"is predicted again: {' and '.join(lacking)} cannot be made from the map"
    show(f"{job.name:>12}  {reason}", last=True)
    return False


def needed(layers, facts, windows, engine_bytes, also):
    """About how many bytes predicting a raster's `layers` takes: the process while the network answers, and,
    by the raster's size, GDAL's blocks, rows of pixels, sums, polygons' map, its collar."""
    (height, width), window, classes = layers.shape, windows.window, len(facts["classes"])
    wide, step = max(width, window), int(np.diff(windows.along(height)).min(initial=window))
    copies = [3 if limits is None else 16 for limits in facts["scale"]]  # of a band: bytes, or numbers too
    blocks = min(1e6 * CACHE, (len(copies) + 1) * height * width)
    rows = (sum(copies) + 2 + classes) * window * wide
    sums = 4 * classes * (2 * (window - step) * wide + 4 * window**2)
    collar = layers.collar.bytes if layers.collar else 0
    return engine_bytes + blocks + rows + sums + collar + 3 * height * width * ("polygons" in also)


def installed(root="/"):
    """Bytes that this process may have: those of the machine or, where it is lower, the lowest limit of its
    control group, of version 1 or 2, and of those around it. `root`: the folder of proc and sys."""
    top, own, paths = Path(root, "sys/fs/cgroup"), Path(root, "proc/self/cgroup"), []
    for line in own.read_text().splitlines() if own.exists() else []:
        _, controllers, group = line.split(":", 2)
        folders = [folder[1:] for folder in (group, *map(str, Path(group).parents))]
        if controllers == "":
            paths += [top / folder / "memory.max" for folder in folders]
        elif "memory" in controllers.split(","):
            paths += [top / "memory" / folder / "memory.limit_in_bytes" for folder in folders]
    limits = [path.read_text().strip() for path in paths if path.is_file()]
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *(int(limit) for limit in limits if limit != "max")])


def check_memory(job, source, needed_bytes, show):
    """Says how much memory a map takes; Problem (exit 3) where that is more than there is."""
    (height, width), options, available = source.shape, job.settings["predict"], installed()
    show(f"{job.name:>12}  {height} x {width} px, windows of {options['window']}, "
         f"views: {len(options['views'])}, {job.engine} {version(job.engine)} {options['precision']}: "
         f"about {needed_bytes / 1e9:.1f} GB of memory", last=True)
    if needed_bytes > available:
        raise Problem(f"raster {job.path}: {height} x {width} pixels need about "
                      f"{needed_bytes / 1e9:.1f} GB of memory, expected at most the {available / 1e9:.1f} GB "
                      "of this machine or container; lower predict.window or predict.batch_size, or cut it "
                      "into narrower ones", code=3)
