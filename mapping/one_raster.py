"""One raster to its class map: does the map stand, how much memory would it take, go.
"""
import functools
import hashlib
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from base.code import code_of
from base.files import sha256
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
        also = possible(options["also"], source, show)
        tags = tags_of(job, facts, source)
        wanted = Wanted(facts["classes"], source.georeference, tags, also, options["sieve"])
        if map_stands(job, wanted, show):
            write_beside(job.map, wanted)
            show(f"{job.name:>12}  stands already  {job.map}", last=True)
            return row_of(job, source, wanted, None)
        engine = Engine(job.engine, options["precision"], options["window"], options["batch_size"], threads)
        answer, engine_bytes = start_engine(job.run, facts["sha256"], engine)
        windows = windows_for(job, source.shape, facts["multiple"])
        check_memory(job, source, memory.needed(source.shape, facts, windows, engine_bytes, also), show)
        started, classes = time.monotonic(), len(facts["classes"])
        channels = 2 + classes if "probabilities" in also else 1 + ("confidence" in also)
        rows = predict_rows(answer, source.read, source.shape, classes, windows, channels)
        write_map(job.map, source.layers, watched(rows, job, source, show), wanted)
    seconds, views = time.monotonic() - started, len(options["views"])
    source.warn_of_scale(show)
    show(f"{job.name:>12}  {source.height} x {source.width} px, views: {views}: {seconds:.0f} s, "
         f"{source.height * source.width * views / seconds / 1e6:.2f} Mpx/s per view  {job.map}", last=True)
    return row_of(job, source, wanted, f"{seconds:.2f}")


def possible(also, source, show):
    """The forms of `also` that a raster's map can have: polygons only where its place on the ground is
    known."""
    if "polygons" not in also or in_degrees(source.rasters[0], source.georeference):
        return also
    reason = "no place in longitude and latitude is known"
    if "control_points" in source.georeference:
        reason = "placed by control points alone; warp it first (gdalwarp)"
    show(f"warning: {source.paths[0]}: {reason}, so no polygons", last=True)
    return [name for name in also if name != "polygons"]


@functools.cache
def code_version():
    """What stands for the code that makes maps, in their tags."""
    return code_of("mapping/one_raster.py")[:16]


def tags_of(job, facts, source):
    """The tags of a map: what it was made from and by. The same tags, the same pixels."""
    options = job.settings["predict"]
    seen = {key: facts[key] for key in ("bands", "extra", "scale", "ground_sample_distance", "multiple")}
    seen["classes"] = list(facts["classes"].items())
    read = json.dumps([options_of(options), seen], sort_keys=True)
    tool = f"{job.engine} {version(job.engine)} {options['precision']}"
    if options["precision"] == "int8":  # other weights, by its calibration
        tool += " " + sha256(engine_files(job.run, "int8", options["window"])[1])[:16]
    return {"MODEL": facts["sha256"], "SETTINGS": hashlib.sha256(read.encode()).hexdigest(),
            "PREDICT": options_of(options), "PLACE": json.dumps(source.georeference),
            "VIEWS": " ".join(map(str, options["views"])), "WINDOW": str(options["window"]),
            "OVERLAP": str(options["overlap"]), "ENGINE": tool, "VERSION": code_version(),
            "MASKS": source.masks(), "SOURCE": " ".join(map(sha256, source.paths))}


def map_stands(job, wanted, show):
    """True where a job's map need not be predicted; says why an earlier one is predicted again."""
    if not job.map.exists():
        return False
    same = is_made(job.map, wanted.tags) and recorded(job.run).get(job.name) in (None, sha256(job.map))
    predicted = [name for name in wanted.also if ALSO[name].predicted]
    lacking = [name for name in predicted if not is_made(beside(job.map, name), wanted.tags)]
    if same and not lacking:
        return True
    reason = f"is predicted again: {' and '.join(lacking)} cannot be made from the map"
    if not same:
        reason = "replaces the map of another raster, model, setting or version, or a damaged one"
    show(f"{job.name:>12}  {reason}", last=True)
    return False


def windows_for(job, shape, multiple):
    """The Windows of a raster of this shape: for TensorFlow, which takes any size, no larger than the
    raster."""
    options = job.settings["predict"]
    fitting = -(-max(shape) // multiple) * multiple if job.engine == "tensorflow" else options["window"]
    return Windows(min(options["window"], fitting), options["overlap"], options["views"], multiple)


def check_memory(job, source, needed, show):
    """Says how much memory a map takes; Problem (exit 3) where that is more than there is."""
    options, installed = job.settings["predict"], memory.installed()
    show(f"{job.name:>12}  {source.height} x {source.width} px, windows of {options['window']}, "
         f"views: {len(options['views'])}, {job.engine} {version(job.engine)} {options['precision']}: "
         f"about {needed / 1e9:.1f} GB of memory", last=True)
    if needed > installed:
        raise Problem(f"raster {job.path}: {source.height} x {source.width} pixels need about "
                      f"{needed / 1e9:.1f} GB of memory, expected at most the {installed / 1e9:.1f} GB of "
                      "this machine or container; lower predict.window or predict.batch_size, or cut it into "
                      "narrower ones", code=3)


def watched(rows, job, source, show):
    """The same rows; shows how far they have come."""
    for row, pixels in rows:
        yield row, pixels
        show(f"{job.name:>12}  {100 * (row + len(pixels)) // source.height:3d} %")


def row_of(job, source, wanted, seconds):
    """A map's row of predict.csv."""
    options = job.settings["predict"]
    return {"map": job.name, "height": source.height, "width": source.width, "views": len(options["views"]),
            "window": options["window"], "overlap": options["overlap"], "engine": wanted.tags["ENGINE"],
            "seconds": seconds, "sha256": sha256(job.map)}
