"""One raster to its class map: does the map stand, how much memory would it take, go."""
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
from base.problem import Problem, own_fault
from base.tables import read_facts
from base.zips import is_file
from imagery.collars import advice, likely_collar
from imagery.rasters import CACHE, validity
from imagery.raw_tiles import MASK
from mapping.blending import Windows, predict_rows
from mapping.engines import Engine, engine_files, start_engine
from mapping.map_writer import Wanted, write_beside, write_map
from mapping.maps import PREDICTED, beside, is_made, map_of, options_of, place_of, recorded
from mapping.sources import open_source, possible, warn_of_scale

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
    except Problem as problem:  # without GDAL's own error behind it, which Dask cannot hand over
        return None, Problem(*problem.lines, code=problem.code), lines


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
    return {"map": job.name, "raster": place_of(job.path), "height": height, "width": width,
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
    warn_of_scale(job, source, facts, show)
    show(f"{job.name:>12}  {height} x {width} px, views: {len(views)}: {seconds:.0f} s, "
         f"{height * width * len(views) / seconds / 1e6:.2f} Mpx/s per view  {job.map}", last=True)
    return f"{seconds:.2f}"


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
    digest = recorded(job.run).get(job.name, {}).get("sha256")
    if is_made(job.map, wanted.tags) and digest in (None, sha256(job.map)):
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
