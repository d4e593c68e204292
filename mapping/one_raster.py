"""One raster to its class map: does the map stand, how much memory would it take, go.
"""
import functools
import hashlib
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from base.files import code_of, sha256
from base.problem import Problem
from base.tables import read_facts
from imagery.rasters import in_degrees
from mapping import memory
from mapping.blending import Windows, predict_rows
from mapping.engines import Engine, engine_files, start_engine
from mapping.map_writer import Wanted, write_beside, write_map
from mapping.maps import ALSO, beside, is_made, options_of, recorded
from mapping.source import open_source


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
        return self.run / "predictions" / f"{self.name}.tif"


class Outcome(NamedTuple):
    """What has become of a job."""
    row: dict | None  # of predict.csv
    lines: list  # still to be shown
    problem: Problem | None


def attempt(job, threads=0, show=None):
    """The Outcome of a job. `show`: as `predict_raster` takes it; without one the lines are in the
    outcome."""
    lines = []

    def keep(line, last=False):
        lines.extend([line] if last else [])

    try:
        return Outcome(predict_raster(job, threads, show or keep), lines, None)
    except Problem as problem:
        return Outcome(None, lines, problem)


def predict_raster(job, threads, show):
    """Writes a raster's class map, unless the same map stands. Returns its row of predict.csv, without
    seconds where the map stood. `threads` 0: as many as there are cores. `show`: base.command.progress, or as
    that."""
    facts, options = read_facts(job.run), job.settings["predict"]
    with open_source(job, facts, show) as source:
        wanted = Wanted(facts["classes"], source.georeference, tags_of(job, facts, source),
                        possible(options["also"], source, show), options["sieve"])
        if map_stands(job, wanted, show):
            write_beside(job.map, wanted)
            show(f"{job.name:>12}  stands already  {job.map}", last=True)
            return row_of(job, source, wanted)
        engine = Engine(job.engine, options["precision"], options["window"], options["batch_size"], threads)
        answer, engine_bytes = start_engine(job.run, facts["sha256"], engine)
        windows = windows_for(job, source.shape, facts["multiple"])
        size = f"{job.name:>12}  {source.height} x {source.width} px"
        needed = memory.needed(source.shape, facts, windows, engine_bytes, wanted.also)
        show(f"{size}, windows of {options['window']}, views: {len(windows.views)}, {wanted.tags['ENGINE']}: "
             f"about {needed / 1e9:.1f} GB of memory", last=True)
        check_memory(job, source, needed)
        started = time.monotonic()
        rows = predict_rows(answer, source.read, source.shape, len(facts["classes"]), windows, channels_for(wanted))
        write_map(job.map, source.layers, watched(rows, job, source.height, show), wanted)
    seconds = time.monotonic() - started
    source.warn_of_scale(show)
    speed = source.height * source.width * len(windows.views) / seconds / 1e6
    show(f"{size}, views: {len(windows.views)}: {seconds:.0f} s, {speed:.2f} Mpx/s per view  {job.map}", last=True)
    return row_of(job, source, wanted, f"{seconds:.2f}")


def possible(also, source, show):
    """The forms of `also` in which a raster's map can be given: polygons only where its place is known."""
    if "polygons" not in also or in_degrees(source.rasters[0], source.georeference):
        return also
    reason = ("placed by control points alone; warp it first (gdalwarp)" if "control_points" in source.georeference
              else "no place in longitude and latitude is known")
    show(f"warning: {source.paths[0]}: {reason}, so no polygons", last=True)
    return [name for name in also if name != "polygons"]


@functools.cache
def code_version():
    """What stands for the code that makes maps, in their tags."""
    return code_of("mapping/one_raster.py")[:16]


def tags_of(job, facts, source):
    """The tags of a map: what it was made from and by. The same tags, the same map."""
    options = job.settings["predict"]
    seen = {key: facts[key] for key in ("bands", "extra", "scale", "ground_sample_distance", "multiple")}
    seen["classes"] = list(facts["classes"].items())
    tool = f"{job.engine} {version(job.engine)} {options['precision']}"
    if options["precision"] == "int8":  # other weights, by its calibration
        tool += " " + sha256(engine_files(job.run, "int8", options["window"])[1])[:16]
    read = json.dumps([options_of(options), seen], sort_keys=True)
    return {"MODEL": facts["sha256"], "SETTINGS": hashlib.sha256(read.encode()).hexdigest(),
            "PREDICT": options_of(options), "PLACE": json.dumps(source.georeference),
            "VIEWS": " ".join(map(str, options["views"])), "WINDOW": str(options["window"]),
            "OVERLAP": str(options["overlap"]), "ENGINE": tool, "VERSION": code_version(),
            "MASKS": source.masks, "SOURCE": " ".join(map(sha256, source.paths))}


def map_stands(job, wanted, show):
    """True where a job's map need not be predicted; says why an earlier one is."""
    if not job.map.exists():
        return False
    same = is_made(job.map, wanted.tags) and recorded(job.run).get(job.name) in (None, sha256(job.map))
    lacking = [name for name in wanted.also if ALSO[name].predicted and not is_made(beside(job.map, name), wanted.tags)]
    if not same:
        show(f"{job.name:>12}  replaces the map of another raster, model, setting or version, or a damaged one",
             last=True)
    elif lacking:
        show(f"{job.name:>12}  is predicted again: {' and '.join(lacking)} cannot be made from the map", last=True)
    return same and not lacking


def windows_for(job, shape, multiple):
    """The Windows of a job on a raster of this shape. TensorFlow takes any size: no larger than the
    raster."""
    options = job.settings["predict"]
    window = options["window"]
    if job.engine == "tensorflow":
        window = min(window, -(-max(shape) // multiple) * multiple)
    return Windows(window, options["overlap"], options["views"], multiple)


def channels_for(wanted):
    """How many channels of `blending.decide` a map takes."""
    if "probabilities" in wanted.also:
        return 2 + len(wanted.classes)
    return 2 if "confidence" in wanted.also else 1


def check_memory(job, source, needed):
    """Problem (exit 3) where a raster needs more memory than there is."""
    installed = memory.installed()
    if needed > installed:
        raise Problem(f"raster {job.path}: {source.height} x {source.width} pixels need about {needed / 1e9:.1f} GB of "
                      f"memory, expected at most the {installed / 1e9:.1f} GB of this machine or container; lower "
                      "predict.window or predict.batch_size, or cut it into narrower ones", code=3)


def watched(rows, job, height, show):
    """The same rows, with the share that is done shown as they come."""
    for row, pixels in rows:
        yield row, pixels
        show(f"{job.name:>12}  {100 * (row + len(pixels)) // height:3d} %")


def row_of(job, source, wanted, seconds=None):
    """A map's row of predict.csv."""
    options = job.settings["predict"]
    return {"map": job.name, "height": source.height, "width": source.width, "views": len(options["views"]),
            "window": options["window"], "overlap": options["overlap"], "engine": wanted.tags["ENGINE"],
            "seconds": seconds, "sha256": sha256(job.map)}
