"""Class maps of whole rasters, whatever their size: blended windows, eight views, no unpredicted border.

    python predict.py --params demo.yaml                   every test tile
    python predict.py --params demo.yaml --tile 2_13       one tile by name
    python predict.py --params demo.yaml --tile "/some/where/my ortho.tif"   (--extra its height model, where
                                                           the network was trained with data.extra)
    python predict.py --params demo.yaml --tile /some/folder --scheduler local:4   a folder's rasters, by Dask

Reads model.keras and model.json of the run and the raster, window by window. Writes predictions/<name>.tif
(class index, nodata 255, colours, names, the input's georeference) with what goes beside it
(mapping/maps.py), for test tiles, where predict.compare is on, also maps in other ways; predict.csv holds the
seconds of each. A map that stands already, from the same model, settings, raster and code, is left alone. Of
several rasters a bad one does not stop the rest: it is named at the end, with exit code 3. Memory depends on
the raster's width and the window, not on its height, and is stated first.
"""
import contextlib
import functools
import logging
import os
import re
from pathlib import Path

from base.command import command, progress
from base.files import clear_temporaries, only_one
from base.problem import Problem, shown
from base.settings import all_tiles
from base.tables import read_facts, read_table, write_rows
from base.zips import is_file
from imagery.rasters import check_crs
from imagery.raw_tiles import SUFFIXES, check_name, find_rasters, find_raw
from mapping.engines import choose_engine
from mapping.maps import check_length_of_name, ways
from mapping.one_raster import Job, Outcome, attempt
from mapping.source import check_raster
from mapping.translate import ensure_engine


def main(settings, run, tile, extra=None, scheduler=None, check=False):
    if check:
        check_tile(settings, tile, extra)
        return
    if scheduler and not re.match(r"^(local:[1-9][0-9]?|tcp://.+:[0-9]+)$", scheduler):
        raise Problem(f"option --scheduler {scheduler}: expected local:N, N workers on this machine, or "
                      "tcp://host:port", code=2)
    tiles, problems = settings["split"]["test"] if tile is None else [tile], []
    rasters = sum(collect(lambda name: find_rasters(name, settings), tiles, problems), [])
    if not rasters:
        raise Problem(*problems, code=3)
    facts = read_facts(run, settings["data"]["classes"])
    check_settings(settings, facts["multiple"])
    check_extra(extra, tile, rasters[0][0], facts["extra"], settings["split"])
    engine = choose_engine(settings["predict"])

    def job_of(raster):
        name, path = raster
        if tile is not None and os.path.isdir(tile):
            check_name(path, settings)
        job = Job(name, path, find_extra(name, extra, facts, settings["data"]), settings, run, engine)
        check_length_of_name(run, name, path)
        check_raster(path, job.extra, facts)
        return job

    jobs = collect(job_of, rasters, problems)
    if jobs:
        warn_of_training(jobs, facts)
        predict_all(jobs + (other_ways(jobs) if tile is None else []), scheduler, facts, problems)
    if problems:
        raise Problem(*dict.fromkeys(problems), code=3)


def collect(work, items, problems):
    """What `work` returns for each of the items; adds the lines of its Problems with the others to
    `problems`."""
    results = []
    for item in items:
        try:
            results.append(work(item))
        except Problem as problem:
            problems += problem.lines
    return results


def check_tile(settings, tile, extra):
    """Problem where there is no such tile or extra raster, before a network is trained for it."""
    name, _ = find_rasters(tile, settings)[0]
    check_extra(extra, tile, name, settings["data"]["extra"] is not None, settings["split"])
    if extra and not is_file(extra) and not (Path(extra).is_dir() and Path(tile).is_dir()):
        raise Problem(f"EXTRA {shown(extra)}: no such file, expected the extra raster of {shown(tile)}",
                      code=3)


def why_no_extra(tile, name, wanted, split):
    """Why an extra raster is given in vain; None where the network has `wanted` one. `name`: of the first
    raster."""
    if tile is None:
        return "no --tile"
    if name in all_tiles(split):
        return f"{tile}, a tile of the split"
    return None if wanted else "a network without an extra band"


def check_extra(extra, tile, name, wanted, split):
    """Problem (exit 2) where an extra raster is given in vain."""
    reason = why_no_extra(tile, name, wanted, split)
    if extra and reason:
        raise Problem(f"option --extra (EXTRA= for make) {extra}: given for {reason}, expected only where "
                      "data.extra is set, with --tile of a raster outside the split; leave it out", code=2)


def check_settings(settings, multiple):
    """Problem (exit 2) where the settings do not suit the trained network, which takes multiples of so many
    pixels."""
    for section, key in (("predict", "window"), ("input", "patch_size")):
        if settings[section][key] % multiple:
            raise Problem(f"settings, key {section}.{key}: {settings[section][key]}, expected a multiple of "
                          f"{multiple}, as the trained network takes it; run train.py again after an edit of "
                          "model", code=2)
    if settings["data"]["assume_crs"] is not None:
        check_crs(settings["data"]["assume_crs"])


def find_extra(name, given, facts, data):
    """The path of the extra raster of a tile or raster, None where the network needs none; Problem (exit 3)
    where it needs one and there is none. `given`: a file, or a folder with files of the rasters' names."""
    if not facts["extra"]:
        return None
    if given and Path(given).is_dir():
        files = sorted(path for path in Path(given).iterdir() if path.suffix.lower() in SUFFIXES)
        paths = [path for path in files if path.stem == name]
    elif given:
        paths = [given]
    else:
        paths = find_raw(data, "extra", name)
    if not paths:
        raise Problem(f"raster {name}: no extra raster, expected one as the network was trained with "
                      "data.extra; name it by --extra (EXTRA= for make)", code=3)
    return paths[0]


def warn_of_training(jobs, facts):
    """Says of which tiles the maps are no test."""
    roles = {"trained_on": "the network was trained on it", "chosen_on": "its checkpoint was chosen on it"}
    for key, role in roles.items():
        for job in jobs:
            if job.name in facts[key]:
                progress(f"warning: {job.name}: {role}, so its map is no test", last=True)


def other_ways(jobs):
    """The same jobs in the other `ways`, ordered by the size of the windows: a network is loaded for each."""
    others = []
    for job in jobs:
        for way, options in ways(job.settings).items():
            settings = {**job.settings, "predict": options}
            others.append(job._replace(name=f"{job.name}.{way}", settings=settings))
    return sorted(others, key=window_of)


def window_of(job):
    return job.settings["predict"]["window"]


def predict_all(jobs, scheduler, facts, problems):
    """Predicts the rasters of `jobs`, shows what is to be said, and adds the lines of those that failed to
    `problems`."""
    run = jobs[0].run
    with only_one(run):
        if (run / "predict.csv").exists():
            read_table(run / "predict.csv")  # a damaged one is refused before the work begins
        if jobs[0].engine == "openvino":
            for job in {window_of(job): job for job in jobs}.values():
                ensure_engine(run, facts, job.settings)
        alone = functools.partial(attempt, show=progress)
        outcomes = over_dask(attempt, jobs, scheduler) if scheduler else (alone(job) for job in jobs)
        try:
            with contextlib.closing(outcomes):  # however this ends, no worker writes on
                for outcome in outcomes:
                    take(outcome, run, len(jobs) > 1, problems)
        finally:
            clear_temporaries(run)  # of lost workers


def take(outcome, run, many, problems):
    """Shows and records what has become of a job; a Problem that is not its raster's (exit 3) ends the
    work."""
    for line in outcome.lines:
        progress(line, last=True)
    if outcome.problem is None:
        record(run / "predict.csv", outcome.row)
        return
    if outcome.problem.code != 3:
        raise Problem(*dict.fromkeys(problems), *outcome.problem.lines, code=outcome.problem.code)
    problems += outcome.problem.lines
    for line in outcome.problem.lines if many else []:
        progress(f"not predicted: {line}", last=True)


def record(path, row):
    """Writes a map's row into predict.csv, in place of an earlier one; a map that stood keeps its own."""
    rows = read_table(path) if path.exists() else []
    earlier = [other for other in rows if other.get("map") == row["map"]]
    if row["seconds"] is None and row["sha256"] in [other.get("sha256") for other in earlier]:
        return
    others = [dict(zip(row, map(other.get, row))) for other in rows if other not in earlier]
    write_rows(path, list(row), [*others, row])


@contextlib.contextmanager
def dask_client(scheduler, count):
    """A client of a Dask scheduler with workers: of `count` workers on this machine, or of the one at an
    address. Problem (exit 4) where there is none."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise Problem("package distributed: not installed, expected for --scheduler; run make extras",
                      code=4) from None
    logging.getLogger("distributed").setLevel(logging.ERROR)
    with contextlib.ExitStack() as opened:
        try:
            address = opened.enter_context(LocalCluster(
                n_workers=count, threads_per_worker=1, memory_limit=0, dashboard_address=None,
                silence_logs=logging.CRITICAL)) if count else scheduler  # else late workers show tracebacks
            client = opened.enter_context(Client(address, timeout=60))
            client.wait_for_workers(1, timeout=60)
        except OSError as error:  # a timeout too
            raise Problem(f"option --scheduler {scheduler}: {error}, expected a running Dask scheduler with "
                          "workers, or local:N", code=4) from None
        yield client


def over_dask(work, jobs, scheduler):
    """Yields the Outcome that work(job, threads) returns for each of the jobs, as the workers finish;
    `threads`: how many it may use, 0 for as many as there are cores. What a lost worker was at, another does.

    `scheduler`: "local:N" starts N workers on this machine; "tcp://..." is a scheduler which, as its workers,
    runs in this folder.
    """
    count = int(scheduler.removeprefix("local:")) if scheduler.startswith("local:") else 0
    threads = max(1, (os.cpu_count() or 1) // count) if count else 0
    with dask_client(scheduler, count) as client:
        from distributed import as_completed
        futures = {client.submit(work, job, threads, pure=False): job for job in jobs}
        for future in as_completed(list(futures)):
            job = futures.pop(future)  # what has been read here is not done again when its worker is lost
            try:
                yield future.result()
            except Exception as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                if type(error).__name__ != "KilledWorker":
                    raise Problem(f"option --scheduler {scheduler}: {type(error).__name__} {error}, expected "
                                  "scheduler and workers that run in this folder, with these packages",
                                  code=4) from None
                lost = Problem(f"raster {job.path}: worker after worker was lost at it, expected one to "
                               "finish; look at their memory", code=3)
                yield Outcome(None, [], lost)


if __name__ == "__main__":
    command(main, __doc__, texts={
        "tile": "name or path of one raster, or a folder; every test tile without it",
        "extra": "the extra raster's file beside --tile, where the network needs one; a folder for a folder",
        "scheduler": "name of a Dask cluster: local:N or tcp://host:port",
    }, switches={"check": "only see whether --tile is there"})
