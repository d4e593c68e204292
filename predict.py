"""Class maps of whole rasters, whatever their size: blended windows, eight views, no unpredicted border.

    python predict.py --params demo.yaml                   every test tile
    python predict.py --params demo.yaml --tile 2_13       one tile by name
    python predict.py --params demo.yaml --tile "/some/where/my ortho.tif"   (--extra its height model, where
                                                           the network was trained with data.extra)
    python predict.py --params demo.yaml --tile /some/folder --scheduler local:4   a folder's rasters, by Dask

Reads model.keras and model.json of the run and the raster, window by window: memory depends on its width, not
on its height, and is stated first. Writes predictions/<name>.tif with what goes beside it (mapping/maps.py),
where predict.compare is on the test tiles' maps in other ways too, and predict.csv with the seconds of each.
A map that stands already, from the same model, settings, raster and code, is left alone. Of several rasters a
bad one does not stop the rest: it is named at the end, with exit code 3.
"""
import contextlib
import logging
import os
import re
from pathlib import Path

from base.command import command, progress
from base.files import clear_temporaries, only_one
from base.problem import Problem, own_fault, shown
from base.settings import all_tiles
from base.tables import read_facts, write_rows
from base.zips import is_file
from imagery.formats import SUFFIXES
from imagery.ground import check_crs, georeference, off_its_image
from imagery.rasters import check_bands, open_raster
from imagery.raw_tiles import find_rasters, find_raw, passed_over
from mapping.engines import choose_engine
from mapping.maps import check_length_of_name, name_map, place_of, recorded, ways
from mapping.one_raster import Job, attempt
from mapping.sources import asked_scale, scale_key
from mapping.translate import ensure_engine


def main(settings, run, tile, extra=None, scheduler=None, check=False):
    if check:
        check_tile(settings, run, tile, extra)
        return
    if scheduler and not re.match(r"^(local:[1-9][0-9]?|tcp://.+:[0-9]+)$", scheduler):
        raise Problem(f"option --scheduler {scheduler}: expected local:N, N workers on this machine, or "
                      "tcp://host:port", code=2)
    rasters, jobs, problems = [], [], []
    for name in settings["split"]["test"] if tile is None else [tile]:
        with noting(problems):
            rasters += find_rasters(name, settings)
    if not rasters:
        raise Problem(*problems, code=3)
    facts = read_facts(run, settings["data"]["classes"])
    check_settings(settings, facts["multiple"])
    rasters = name_rasters(rasters, settings, run, problems)
    check_extra(extra, tile, rasters[0][0] if rasters else None, facts["extra"], settings["split"])
    engine = choose_engine(settings["predict"])
    for line in passed_over(tile) if tile and os.path.isdir(tile) else []:
        progress(line, last=True)
    for name, path in rasters:
        with noting(problems), own_fault(path):
            extra_path = find_extra(name, path, extra, facts, settings["data"])
            if name.endswith(f".{path.stem}"):
                progress(f"{path}: its map is called {name}, as another's is called {path.stem}", last=True)
            check_length_of_name(run, name, path)
            scale = asked_scale(name, settings, facts)
            check_raster(path, extra_path, facts, scale, scale_key(name, settings))
            jobs.append(Job(name, path, extra_path, settings, run, engine))
    if jobs:
        warn_of_training(jobs, facts)
        predict_all(jobs + (other_ways(jobs) if tile is None else []), scheduler, facts, problems)
    if problems:
        raise Problem(*dict.fromkeys(problems), code=3)


@contextlib.contextmanager
def noting(problems):
    """Adds the lines of a Problem to `problems`, so that the other rasters go on."""
    try:
        yield
    except Problem as problem:
        problems += problem.lines


def name_rasters(rasters, settings, run, problems):
    """[(name, path)] of rasters as of `find_rasters`, those without a name named as their maps will be. Adds
    to `problems` why one cannot be."""
    owned, named = {name: row.get("raster") for name, row in recorded(run).items()}, []
    for name, path in rasters:
        with noting(problems):
            named.append((name or name_map(path, settings, owned), path))
            owned[named[-1][0]] = place_of(path)
    return named


def check_tile(settings, run, tile, extra):
    """Problem where there is no such tile or extra raster, before a network is trained for it."""
    if tile is None:
        raise Problem("option --check: without --tile, expected what to look for; give both", code=2)
    problems = []
    rasters = name_rasters(find_rasters(tile, settings), settings, run, problems)
    if not rasters:
        raise Problem(*problems, code=3)
    check_extra(extra, tile, rasters[0][0], settings["data"]["extra"] is not None, settings["split"])
    if extra and not is_file(extra) and not (Path(extra).is_dir() and Path(tile).is_dir()):
        raise Problem(f"EXTRA {shown(extra)}: no such file, expected the extra raster of {shown(tile)}",
                      code=3)


def check_extra(extra, tile, name, wanted, split):
    """Problem (exit 2) where an extra raster is given in vain; `name`: of the first raster."""
    reason = None if wanted else "a network without an extra band"
    if tile is None:
        reason = "no --tile"
    elif name in all_tiles(split):
        reason = f"{tile}, a tile of the split"
    if extra and reason:
        raise Problem(f"option --extra (EXTRA= for make) {extra}: given for {reason}, expected only where "
                      "data.extra is set, with --tile of a raster outside the split; leave it out", code=2)


def check_settings(settings, multiple):
    """Problem (exit 2) where the settings do not suit a network that takes multiples of so many pixels."""
    for section, key in (("predict", "window"), ("input", "patch_size")):
        if settings[section][key] % multiple:
            raise Problem(f"settings, key {section}.{key}: {settings[section][key]}, expected a multiple of "
                          f"{multiple}, as the trained network takes it; run train.py again after an edit of "
                          "model", code=2)
    if settings["data"]["assume_crs"] is not None:
        check_crs(settings["data"]["assume_crs"])


def find_extra(name, path, given, facts, data):
    """The path of a raster's extra raster, None where the network needs none. `given`: it, or its folder."""
    if not facts["extra"]:
        return None
    paths = [given] if given else find_raw(data, "extra", name)
    if given and Path(given).is_dir():
        files = sorted(file for file in Path(given).iterdir() if file.suffix.lower() in SUFFIXES)
        paths = [file for file in files if file.stem == path.stem]
    if not paths:
        raise Problem(f"raster {name}: no extra raster, expected one as the network was trained with "
                      "data.extra; name it by --extra (EXTRA= for make)", code=3)
    return paths[0]


def check_raster(path, extra_path, facts, scale, key):
    """Problem (exit 3) where a raster, or the extra raster beside it, is not what the network takes. `scale`:
    its `asked_scale`; `key`: its `scale_key`."""
    with open_raster(path) as raster, open_raster(extra_path or path) as extra:
        named = f"the network's bands: {facts['bands']}"
        wrong = check_bands(raster, facts["bands"], scale[:len(facts["bands"])], named, key)
        if wrong:
            raise Problem(f"raster {path}: {wrong}", code=3)
        if not extra_path:
            return
        header = {"shape": raster.shape, "georeference": georeference(raster, path, None)}
        wrong = (check_bands(extra, [1], scale[-1:], "the network's extra band", key)
                 or off_its_image(extra, header, "bilinear"))
        if not wrong and extra.shape != raster.shape:
            wrong = (f"{extra.height} x {extra.width} pixels, expected {raster.height} x {raster.width} "
                     f"as {path}")
        if wrong:
            raise Problem(f"extra raster {extra.name}: {wrong}", code=3)


def warn_of_training(jobs, facts):
    """Says of which tiles the maps are no test."""
    roles = {"trained_on": "the network was trained on it", "chosen_on": "its checkpoint was chosen on it"}
    for key, role in roles.items():
        for name in [job.name for job in jobs if job.name in facts[key]]:
            progress(f"warning: {name}: {role}, so its map is no test", last=True)


def other_ways(jobs):
    """The same jobs in the other `ways`, ordered by the size of the windows: a network is loaded for each."""
    others = [job._replace(name=f"{job.name}.{way}", settings={**job.settings, "predict": options})
              for job in jobs for way, options in ways(job.settings).items()]
    return sorted(others, key=lambda job: job.settings["predict"]["window"])


def predict_all(jobs, scheduler, facts, problems):
    """Predicts the rasters of `jobs`; adds to `problems`, ends at one that is not a raster's own (exit 3)."""
    run = jobs[0].run
    with only_one(run):
        recorded(run)  # a damaged predict.csv is refused before the work begins
        if jobs[0].engine == "openvino":
            for job in {job.settings["predict"]["window"]: job for job in jobs}.values():
                ensure_engine(run, facts, job.settings)
        outcomes = over_dask(jobs, scheduler) if scheduler else (attempt(job, show=progress) for job in jobs)
        try:
            with contextlib.closing(outcomes):  # however this ends, no worker writes on
                for row, problem, lines in outcomes:
                    for line in lines:
                        progress(line, last=True)
                    if problem is None:
                        record(run, row)
                        continue
                    if problem.code != 3:
                        raise Problem(*dict.fromkeys(problems), *problem.lines, code=problem.code)
                    problems += problem.lines
                    for line in problem.lines if len(jobs) > 1 else []:
                        progress(f"not predicted: {line}", last=True)
        finally:
            clear_temporaries(run)  # of lost workers


def record(run, row):
    """Writes a map's row into predict.csv, in place of an earlier one; a map that stood keeps its own."""
    rows = recorded(run)
    before = rows.pop(row["map"], {})
    if row["seconds"] is None and before.get("sha256") == row["sha256"]:
        if before.get("raster") == row["raster"]:
            return
        row = {**row, **before, "raster": row["raster"]}  # as of a raster that was moved
    others = [dict(zip(row, map(other.get, row))) for other in rows.values()]
    write_rows(run / "predict.csv", list(row), [*others, row])


def over_dask(jobs, scheduler):
    """Yields what `attempt` returns for the jobs, as Dask's workers finish; what a lost one was at, another
    does. `scheduler`: "local:N" starts N workers on this machine; "tcp://..." is a scheduler which, as its
    workers, runs in this folder. Problem (exit 4) where there are none."""
    try:
        from distributed import Client, LocalCluster, as_completed
    except ImportError:
        raise Problem("package distributed: not installed, expected for --scheduler; run make extras",
                      code=4) from None
    logging.getLogger("distributed").setLevel(logging.ERROR)
    count = int(scheduler.removeprefix("local:")) if scheduler.startswith("local:") else 0
    threads = max(1, (os.cpu_count() or 1) // count) if count else 0  # 0: one for each core
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
        futures = {client.submit(attempt, job, threads, pure=False): job for job in jobs}
        for future in as_completed(list(futures)):
            job = futures.pop(future)  # what has been read here is not done again when its worker is lost
            yield outcome_of(future, job, scheduler)


def outcome_of(future, job, scheduler):
    """What `attempt` returned for a job, or a Problem where its workers were lost."""
    try:
        return future.result()
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if type(error).__name__ != "KilledWorker":
            raise Problem(f"option --scheduler {scheduler}: {type(error).__name__} {error}, expected "
                          "scheduler and workers that run in this folder, with these packages",
                          code=4) from None
        lost = Problem(f"raster {job.path}: worker after worker was lost at it, expected one to finish; look "
                       "at their memory", code=3)
        return None, lost, []


if __name__ == "__main__":
    command(main, __doc__, texts={
        "tile": "name or path of one raster, or a folder; every test tile without it",
        "extra": "the extra raster's file beside --tile, where the network needs one; a folder for a folder",
        "scheduler": "name of a Dask cluster: local:N or tcp://host:port",
    }, switches={"check": "only see whether --tile is there"})
