"""Class maps of whole rasters, whatever their size: blended windows, eight views, no unpredicted border.

    python predict.py --params demo.yaml                   every test tile
    python predict.py --params demo.yaml --tile 2_13       one tile by name
    python predict.py --params demo.yaml --tile "/some/where/my ortho.tif"   (--extra its height model, where the
                                                                              network was trained with data.extra)
    python predict.py --params demo.yaml --tile /some/folder --scheduler local:4   all rasters of a folder, by Dask

Reads model.keras and model.json of the run and the raster, window by window. Writes predictions/<name>.tif (class
index, nodata 255, colours, names, the input's georeference), .qml for QGIS, a .png to look at, and what predict.also
names (maps.py), and for test tiles, where predict.compare is on, maps in other ways beside it; predict.csv holds the
seconds of each. A map that stands already, from the same model, settings, raster and code, is left alone. Of several
rasters a bad one does not stop the rest: it is named at the end, with exit code 3. Memory depends on the raster's width
and the window, not on its height, and is stated first.
"""
import contextlib
import csv
import errno
import functools
import logging
import os
import re
from pathlib import Path

from base.command import command, progress
from base.files import clear_temporaries, only_one, replacing
from base.problem import Problem, shown
from base.tables import read_facts, read_table
from base.zips import is_file
from imagery.rasters import check_crs
from imagery.raw_tiles import SUFFIXES, check_name, find_rasters, find_raw
from mapping.engines import choose_engine
from mapping.maps import ways
from mapping.one_raster import attempt, check_raster
from mapping.translate import ensure_engine


def find_extra(name, given, facts, settings):
    """The path of the extra raster of a tile or raster, None where the network needs none; Problem (exit 3) where it
    needs one and there is none. `given`: a file, or a folder with files of the rasters' names."""
    if not facts["extra"]:
        return None
    if given and Path(given).is_dir():
        places = sorted(path for path in Path(given).iterdir()
                        if path.stem == name and path.suffix.lower() in SUFFIXES)
    else:
        places = [given] if given else find_raw(settings["data"], "extra", name)
    if not places:
        raise Problem(f"raster {name}: no extra raster, expected one as the network was trained with data.extra; name "
                      "it by --extra (EXTRA= for make)", code=3)
    return places[0]


@contextlib.contextmanager
def naming(path):
    """Turns the refusal of a name as too long into a Problem of that raster (exit 3)."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise Problem(f"raster {path}: its name is too long for the files beside its map, expected a shorter one; "
                      "rename it", code=3) from None


def main(settings, run, tile, extra=None, scheduler=None, check=False):
    if check:
        check_tile(settings, tile, extra)
        return
    split, options = settings["split"], settings["predict"]
    if scheduler and not re.match(r"^(local:[1-9][0-9]?|tcp://.+:[0-9]+)$", scheduler):
        raise Problem(f"option --scheduler {scheduler}: expected local:N, N workers on this machine, or tcp://host:port",
                      code=2)
    rasters, problems, jobs, others = [], [], [], []
    for name in split["test"] if tile is None else [tile]:
        try:
            rasters += find_rasters(name, settings)
        except Problem as problem:
            problems += problem.lines
    if not rasters:
        raise Problem(*problems, code=3)
    facts = read_facts(run, settings["data"]["classes"])
    for key, window in (("predict.window", options["window"]), ("input.patch_size", settings["input"]["patch_size"])):
        if window % facts["multiple"]:
            raise Problem(f"settings, key {key}: {window}, expected a multiple of {facts['multiple']}, as the trained "
                          "network takes it; run train.py again after an edit of model", code=2)
    if settings["data"]["assume_crs"] is not None:
        check_crs(settings["data"]["assume_crs"])
    if extra and (tile is None or rasters[0][0] in sum(split.values(), []) or not facts["extra"]):
        raise Problem(f"option --extra (EXTRA= for make) {extra}: given for "
                      + ("no --tile" if tile is None else f"{tile}, a tile of the split" if facts["extra"] else
                         "a network without an extra band")
                      + ", expected with --tile of a raster outside the split, for a network trained with data.extra; "
                      "leave it out", code=2)
    engine = choose_engine(options)
    for name, path in rasters:
        try:
            if tile is not None and os.path.isdir(tile):
                check_name(path, settings)
            with naming(path):
                (run / f".{name}.probabilities.tmp9999999.tif.aux.xml").exists()  # the longest there is
            extra_path = find_extra(name, extra, facts, settings)
            check_raster(path, extra_path, facts)
            jobs.append((name, path, extra_path, settings, run, engine))
            others += [(f"{name}.{way}", path, extra_path, {**settings, "predict": chosen}, run, engine)
                       for way, chosen in ways(settings).items() if tile is None]
        except Problem as problem:
            problems += problem.lines
    if jobs:
        others.sort(key=lambda job: job[3]["predict"]["window"])  # a network is loaded for each size of windows
        predict_all(jobs + others, scheduler, facts, problems)
    if problems:
        raise Problem(*dict.fromkeys(problems), code=3)


def record(path, row):
    """Writes a map's row into predict.csv, in place of an earlier one; a map that stood keeps its own."""
    before = read_table(path) if path.exists() else []
    rows = [earlier for earlier in before if earlier.get("map") != row["map"]]
    if row["seconds"] is None and row["sha256"] in [earlier.get("sha256") for earlier in before if earlier not in rows]:
        return
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row), extrasaction="ignore")
        writer.writeheader()
        writer.writerows([*rows, row])


def predict_all(jobs, scheduler, facts, problems):
    """Predicts the rasters of `jobs`, prints what is to be said, and adds the lines of those that failed to `problems`.
    """
    (run, engine), say = jobs[0][4:6], functools.partial(progress, last=True)
    with only_one(run):
        if (run / "predict.csv").exists():
            read_table(run / "predict.csv")  # a damaged one is refused before the work begins
        if engine == "openvino":
            for settings in {job[3]["predict"]["window"]: job[3] for job in jobs}.values():
                ensure_engine(run, facts, settings)
        try:
            done = over_dask(attempt, jobs, scheduler) if scheduler else (
                attempt(*job, 0, say) for job in jobs)
            with contextlib.closing(done):  # however this ends, no worker writes on
                for code, lines, row in done:
                    if code not in (0, 3):
                        raise Problem(*dict.fromkeys(problems), *lines, code=code)
                    problems += lines if code else []
                    if row:
                        record(run / "predict.csv", row)
                    for line in lines if len(jobs) > 1 or not code else []:
                        say(f"not predicted: {line}" if code else line)
        finally:
            clear_temporaries(run)  # of lost workers


def check_tile(settings, tile, extra):
    """Problem where there is no such tile or extra raster, before a network is trained for it."""
    name, _ = find_rasters(tile, settings)[0]
    if extra and (settings["data"]["extra"] is None or name in sum(settings["split"].values(), [])):
        raise Problem(f"EXTRA {shown(extra)}: given for {shown(tile)}, expected only where data.extra is set and for a "
                      "raster outside the split; leave it out", code=2)
    if extra and not is_file(extra) and not (Path(extra).is_dir() and Path(tile).is_dir()):
        raise Problem(f"EXTRA {shown(extra)}: no such file, expected the extra raster of {shown(tile)}", code=3)


def over_dask(work, jobs, scheduler):
    """Yields what `work`, which returns (exit code, lines, row), returns for each of `jobs`, each a tuple
    whose second item is a path, as the workers finish. The function also takes how many threads it may use, 0 for as
    many as there are cores.

    `scheduler`: "local:N" starts N workers on this machine; "tcp://..." is a scheduler which, as its workers, runs in
    this folder. What a lost worker was at, another does. Problem (exit 4) where there is no cluster.
    """
    try:
        from distributed import Client, LocalCluster, as_completed
    except ImportError:
        raise Problem("package distributed: not installed, expected for --scheduler; run make extras", code=4) from None
    logging.getLogger("distributed").setLevel(logging.ERROR)
    count = int(scheduler.partition(":")[2]) if scheduler.startswith("local:") else 0
    threads = max(1, (os.cpu_count() or 1) // count) if count else 0
    with contextlib.ExitStack() as opened:
        try:
            address = opened.enter_context(LocalCluster(n_workers=count, threads_per_worker=1, memory_limit=0,
                                                        dashboard_address=None)) if count else scheduler
            client = opened.enter_context(Client(address, timeout=20))
            client.wait_for_workers(1, timeout=60)
        except OSError as error:  # a timeout too
            raise Problem(f"option --scheduler {scheduler}: {error}, expected a running Dask scheduler with workers, "
                          "or local:N", code=4) from None
        futures = {client.submit(work, *job, threads, pure=False): job[1] for job in jobs}
        for future in as_completed(list(futures)):
            path = futures.pop(future)  # what has been read here is not done again when its worker is lost
            try:
                yield future.result()
            except Exception as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                if type(error).__name__ != "KilledWorker":
                    raise Problem(f"option --scheduler {scheduler}: {type(error).__name__} {error}, expected scheduler "
                                  "and workers that run in this folder, with these packages", code=4) from None
                yield 3, [f"raster {path}: worker after worker was lost at it, expected one to finish; look at their "
                          "memory"], None


if __name__ == "__main__":
    command(main, __doc__, texts={
        "tile": "name or path of one raster, or a folder; every test tile without it",
        "extra": "the extra raster's file beside --tile, where the network needs one; a folder for a folder",
        "scheduler": "name of a Dask cluster: local:N or tcp://host:port",
    }, switches={"check": "only see whether --tile is there"})
