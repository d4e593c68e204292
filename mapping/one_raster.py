"""One raster, or several that are predicted as one, to class maps: do these stand, else make them."""
import contextlib
import functools
import hashlib
import json
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
from imagery.arrays import strips
from imagery.collars import advice, likely_collar
from imagery.rasters import validity
from imagery.raw_tiles import MASK, digest_of
from imagery.remote import address_of, fingerprint
from imagery.virtual import parts_of
from mapping.blending import Windows, predict_rows
from mapping.engines import Engine, engine_files, start_engine
from mapping.map_writer import Wanted, write_beside
from mapping.maps import (
    POLYGONS,
    PREDICTED,
    is_made,
    map_of,
    not_made,
    options_of,
    place_of,
    temperature_of,
)
from mapping.memory import allow_open_files, check_memory, needed
from mapping.mosaic import Mosaic, Output, noting, title, write_maps
from mapping.neighbours import in_groups
from mapping.sources import open_source, possible, settle_scale, warn_of_scale

code_version = functools.cache(code_of)


class Job(NamedTuple):
    """A raster, and how its map is to be made."""
    name: str
    path: Path
    extra: Path | None  # the extra raster beside it
    settings: dict
    run: Path
    engine: str  # tensorflow or openvino
    area: Path | None = None  # a file of polygons outside of which the map has no data
    only_seen: bool = False  # by the windows of its neighbours: it gets no map
    corner: tuple = (0, 0)  # its first pixel, row and column, among the rasters that are predicted as one
    window: list | None = None  # of a block: [first row, first column, height, width] of the raster
    digest: str | None = None  # SHA-256 of its map by predict.csv
    shape: tuple | None = None  # height and width of what is predicted, where they are known
    side: int | None = None  # pixels: OpenVINO's windows where they are smaller than predict.window

    @property
    def window_side(self):
        return self.side or self.settings["predict"]["window"]

    @property
    def map(self):
        return map_of(self.run, self.name)


def attempt(jobs, threads=0, show=None):
    """(rows of predict.csv, Problem or None, lines still to be shown: all where `show` is None) of jobs whose
    rasters are predicted as one. A bad one stops no other: these are predicted as if it were not there."""
    rows, problems, lines, waiting = [], [], [], [jobs]
    keep = show or (lambda line, last=False: lines.extend([line] if last else []))
    while waiting:
        group = waiting.pop(0)
        try:
            with own_fault(group[0].path, group[0].extra):
                made, faults = predict_group(group, threads, keep)
        except Problem as problem:
            made, faults = [], damaged(group) if problem.code == 3 and len(group) > 1 else {}
            faults = faults or {job.name: problem for job in group}
        rows += made
        problems += faults.values()
        if any(problem.code != 3 for problem in problems):
            break
        left = [job for job in group if job.name not in {*faults, *(row["map"] for row in made)}]
        if not all(job.only_seen for job in left):
            waiting += in_groups(left, read_facts(jobs[0].run), keep)
    texts = dict.fromkeys(line for problem in problems for line in problem.lines)  # without GDAL's own error
    return rows, Problem(*texts, code=problems[-1].code) if problems else None, lines  # for Dask to hand over


def damaged(jobs):
    """{name of the job: Problem} of rasters that cannot be opened, or not be read to their end."""
    facts, faults = read_facts(jobs[0].run), {}
    for job in jobs:
        with noting(job, faults), open_source(job, facts, lambda line, last: None) as source:
            for start, stop in strips(*source.layers.shape):
                source.layers.planes(start, stop)
    return faults


def predict_group(jobs, threads, show):
    """Writes the class maps of rasters that are predicted as one, unless the same maps stand. Returns their
    rows of predict.csv, without seconds where a map stood, and {name: Problem} of those that failed; where
    one is damaged, nothing is written. `threads` 0: one for each core. `show`: base.command.progress, or as
    that."""
    facts, rows, faults = read_facts(jobs[0].run), [], {}
    with contextlib.ExitStack() as opened:
        allow_open_files(jobs)
        sources = [opened.enter_context(open_source(job, facts, show)) for job in jobs]
        layers = [source.layers for source in sources]
        layers = layers[0] if len(jobs) == 1 else Mosaic(layers, [job.corner for job in jobs])
        settle_scale(jobs[0], layers, facts, show)
        facts["scale"] = layers.scale  # of these rasters, from here on
        outputs = outputs_of(jobs, sources, facts, show)
        if not all(output.stands for output in outputs):
            if len(jobs) > 1:
                layers.asked = {number for number, output in enumerate(outputs) if not output.stands}
                faults = damaged(jobs)
            if faults:
                return [], faults
            faults = make_maps(outputs, facts, layers, threads, show)
        for output in [output for output in outputs if output.job.name not in faults]:
            if output.job.only_seen:
                continue
            with noting(output.job, faults):
                rows.append(row_of(output, show))
    return rows, faults


def outputs_of(jobs, sources, facts, show):
    """The Output of each job, with what its map is to say of itself: of one of several also what all are made
    from, as each depends on it."""
    every, tags = [], [tags_of(job, facts, source) for job, source in zip(jobs, sources)]
    parts = [[job.corner, *map(own.get, ("SOURCE", "MASKS", "PLACE"))] for job, own in zip(jobs, tags)]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    for job, source, own in zip(jobs, sources, tags):
        options = job.settings["predict"]
        own["AREA"] = source.layers.area.digest if job.area else ""
        own["MOSAIC"] = f"{len(jobs)} rasters {digest}" if len(jobs) > 1 else ""
        also = possible(options["also"], source, show)
        wanted = Wanted(facts["classes"], source.georeference, own, also, options["sieve"],
                        options["simplify"])
        every.append(Output(job, source, wanted, job.only_seen or map_stands(job, wanted, show)))
    return every


def row_of(output, show):
    """The row of predict.csv of a job whose map is there; of one that stood, with what goes beside it now."""
    job, options, tags = output.job, output.job.settings["predict"], output.wanted.tags
    height, width = output.source.layers.shape
    if output.stands:
        write_beside(job.map, output.wanted)
        show(f"{job.name:>12}  stands already  {job.map}", last=True)
    return {"map": job.name, "raster": place_of(job.path), "height": height, "width": width,
            "views": len(options["views"]), "window": job.window_side, "overlap": options["overlap"],
            "engine": tags["ENGINE"], "seconds": output.seconds, "sha256": sha256(job.map)}


def make_maps(outputs, facts, layers, threads, show):
    """Predicts `layers` and writes the maps of `outputs` that do not stand. Returns {name: Problem} of those
    that could not be written."""
    job, options, classes = outputs[0].job, outputs[0].job.settings["predict"], len(facts["classes"])
    window, multiple, views = job.window_side, facts["multiple"], options["views"]
    engine = Engine(job.engine, options["precision"], window, options["batch_size"], threads)
    answer, engine_bytes = start_engine(job.run, facts["sha256"], engine)
    if job.engine == "tensorflow":  # which takes windows of any size: none larger than the raster
        window = min(window, -(-max(layers.shape) // multiple) * multiple)
    windows = Windows(window, options["overlap"], views, multiple)
    also = {name for output in outputs for name in output.wanted.also}
    of_polygons = (33 if options["simplify"] else 10) * bool(also.intersection(POLYGONS))
    check_memory(outputs, layers, needed(layers, facts, windows, engine_bytes, of_polygons), show)
    warn_of_collars(outputs, facts["bands"], show)
    temperature = temperature_of(facts, views) if also.intersection(PREDICTED) else None
    started, height = time.monotonic(), layers.shape[0]

    def rows():
        for row, pixels in predict_rows(answer, layers.read, layers.shape, classes, windows, temperature):
            yield row, pixels
            show(f"{title(outputs):>12}  {100 * (row + pixels.shape[1]) // height:3d} %")

    lacking = [output for output in outputs if not output.stands]
    faults = write_maps(lacking, rows())
    note_seconds(outputs, layers, time.monotonic() - started, show)
    warn_of_scale(job, layers, facts, show)
    return faults


def note_seconds(outputs, layers, seconds, show):
    """Gives the maps that were made the seconds of all, by their pixels, and says how fast it went."""
    (height, width), first = layers.shape, outputs[0]
    made = [output for output in outputs if not output.stands]
    sizes = [np.prod(output.source.layers.shape) for output in made]
    for output, size in zip(made, sizes):
        output.seconds = f"{seconds * size / sum(sizes):.2f}"
    views = len(first.job.settings["predict"]["views"])
    where = first.job.map if len(outputs) == 1 else first.job.map.parent
    show(f"{title(outputs):>12}  {height} x {width} px, views: {views}: {seconds:.0f} s, "
         f"{sum(sizes) * views / seconds / 1e6:.2f} Mpx/s per view  {where}", last=True)


def warn_of_collars(outputs, bands, show):
    """Says of which rasters a border of one value counts as data."""
    for job, source in [(output.job, output.source) for output in outputs]:
        collar = None if source.layers.collar else likely_collar(source.rasters[0], bands)
        if collar:
            show(f"warning: {job.path}: {advice(collar.nodata, collar.share)}", last=True)


def tags_of(job, facts, source):
    """The tags of a map: what it was made from and by. The same tags, the same pixels."""
    options = job.settings["predict"]
    seen = {key: facts[key] for key in ("bands", "extra", "scale", "ground_sample_distance", "multiple")}
    seen["classes"], seen["nodata"] = list(facts["classes"].items()), job.settings["data"]["nodata"]
    seen["temperature"] = temperature_of(facts, options["views"])
    read = json.dumps([options_of(options), seen], sort_keys=True)
    masks = {f"{path}{MASK}": validity(raster) for path, raster in zip(source.paths, source.rasters)}
    masks = [f"{text} {sha256(mask) if is_file(mask) else None}" for mask, text in masks.items()]
    raw = job.settings["data"]["raw"]
    masks += [digest_of(part) for path in source.paths for part in parts_of(path, raw)]
    scripts = ["mapping/one_raster.py", *(["mapping/translate.py"] if job.engine == "openvino" else [])]
    tool = f"{job.engine} {version(job.engine)} {options['precision']}"
    if options["precision"] == "int8":  # other weights, by its calibration
        tool += " " + sha256(engine_files(job.run, "int8", job.window_side)[1])[:16]
    return {"MODEL": facts["sha256"], "SETTINGS": hashlib.sha256(read.encode()).hexdigest(),
            "PREDICT": options_of(options), "SCALE": json.dumps(facts["scale"]),
            "PLACE": json.dumps(source.georeference),
            "BLOCK": str(job.window or ""), "VIEWS": " ".join(map(str, options["views"])),
            "WINDOW": str(job.window_side),
            "OVERLAP": str(options["overlap"]), "ENGINE": tool,
            "VERSION": " ".join(code_version(script)[:16] for script in scripts),
            "MASKS": " ".join(masks), "SOURCE": " ".join(map(known_by, source.paths, source.rasters)),
            **({"EXTRA": json.dumps(source.place)} if source.place else {})}


def known_by(path, raster):
    """SHA-256 of an open raster's file, or of a part of a remote one."""
    return fingerprint(raster) if address_of(path) else digest_of(path)


def map_stands(job, wanted, show):
    """True where a job's map need not be predicted; says why an earlier one is predicted again."""
    if not job.map.exists():
        return False
    reason = "replaces the map of another raster, model, setting or version, or a damaged one"
    if is_made(job.map, wanted.tags) and job.digest in (None, sha256(job.map)):
        lacking = not_made(job.map, wanted.tags, wanted.also)
        if not lacking:
            return True
        reason = f"is predicted again: {' and '.join(lacking)} cannot be made from the map"
    show(f"{job.name:>12}  {reason}", last=True)
    return False
