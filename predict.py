"""Class maps of whole rasters, whatever their size: blended windows, eight views, no unpredicted border.

    python predict.py --params demo.yaml                   every test tile
    python predict.py --params demo.yaml --tile 2_13       one tile by name
    python predict.py --params demo.yaml --tile ortho.tif --aoi area.geojson   inside of its polygons alone
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
import os
from collections import Counter
from pathlib import Path

from base.blocks import drawn, raster_of, rasters_of
from base.command import command, progress
from base.files import clear_temporaries, only_one
from base.problem import Problem, own_fault, shown
from base.settings import all_tiles
from base.tables import read_facts
from base.zips import is_file
from imagery.formats import is_of_folder
from imagery.grids import find_place
from imagery.ground import Grid, check_crs
from imagery.rasters import check_bands, open_raster
from imagery.raw_tiles import find_rasters, find_raw, passed_over
from imagery.tiles import prepared_rows
from mapping.cluster import check_scheduler, over_dask
from mapping.engines import choose_engine
from mapping.journal import record, recorded, write_recorded
from mapping.maps import also_of, check_length_of_name, name_map, place_of, ways
from mapping.neighbours import in_groups
from mapping.one_raster import Job, attempt
from mapping.polygons import check_simplify
from mapping.sources import Own, asked_scale, ground_of, scale_key, those_inside, within
from mapping.translate import ensure_engine


def main(settings, run, tile, extra=None, aoi=None, **how):
    check, scheduler = how.get("check"), how.get("scheduler")
    block = tile is not None and raster_of(tile, settings["split"]) != tile
    settings = drawn(settings, needed=not check and (tile is None or block))
    if check:
        return check_tile(settings, run, tile, extra, aoi)
    check_scheduler(scheduler)
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
    check_aoi(aoi, tile, rasters, settings["split"])
    engine, cuts = choose_engine(settings["predict"]), cuts_of(rasters, settings)
    check_simplify(settings["predict"])
    for line in passed_over(tile) if tile and os.path.isdir(tile) else []:
        progress(line, last=True)
    own, extras = Own(settings), extras_of(extra)
    for name, path in rasters:
        with noting(problems), own_fault(path):
            job = fit(Job(name, path, None, own.of(name, path), run, engine), extras, cuts, facts)
            jobs.append(within(job, aoi) if aoi else job)
    jobs = those_inside(jobs, aoi, problems, progress)
    if tile is None:
        jobs = [with_options(job, also=also_of(job.settings["predict"])) for job in jobs]
    if jobs:
        warn_of_training(jobs, facts)
        groups = in_groups(jobs, facts, progress)
        groups = [group for group in groups if not all(job.only_seen for job in group)]
        groups += other_ways(groups) if tile is None else []
        predict_all(groups, scheduler, facts, settings, problems)
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
    data, tiles = settings["data"], {*rasters_of(settings["split"])}
    for name, path in rasters:
        with noting(problems):
            named.append((name or name_map(path, data, tiles, owned), path))
            owned[named[-1][0]] = place_of(path)
    return named


def fit(job, extra, cuts, facts):
    """A job with its extra raster (`extra`: as of `extras_of`) and, of a block, its window, as of `cuts_of`.
    Problem (exit 3) where a raster is not what the network takes."""
    name, path = job.name, job.path
    extra_path = find_extra(name, path, extra, facts, job.settings)
    if name.endswith(f".{path.stem}"):
        progress(f"{path}: its map is called {name}, as another's is called {path.stem}", last=True)
    check_length_of_name(job.run, name, path)
    scale = asked_scale(name, job.settings, facts)
    job = job._replace(extra=extra_path, window=cuts[name]["window"] if name in cuts else None)
    shape = check_raster(job, facts, scale)
    resampled = job.settings["predict"]["resample"] and scale_key(name, job.settings)
    return job._replace(shape=None if resampled else job.window[2:] if job.window else shape)


def with_options(job, **options):
    """A job with other predict settings."""
    return job._replace(settings={**job.settings, "predict": {**job.settings["predict"], **options}})


def cuts_of(rasters, settings):
    """{name: "cut" of its row of the manifest} of the blocks among rasters, [(name, path)]."""
    split, tiles = settings["split"], {*all_tiles(settings["split"])}
    blocks = [name for name, _ in rasters if name in tiles and raster_of(name, split) != name]
    rows = prepared_rows(settings["data"], blocks) if blocks else {}
    return {name: row["cut"] for name, row in rows.items()}


def check_tile(settings, run, tile, extra, aoi):
    """Problem where there is no such tile, extra raster or area, before a network is trained for it."""
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
    check_aoi(aoi, tile, rasters, settings["split"])
    jobs, own = [], Own(settings)
    for name, path in rasters if aoi else []:
        with noting(problems):
            jobs.append(within(Job(name, path, None, own.of(name, path), run, ""), aoi))
    if aoi and not those_inside(jobs, aoi, problems, progress):
        raise Problem(*dict.fromkeys(problems), code=3)


def check_aoi(aoi, tile, rasters, split):
    """Problem (exit 2) where an area of interest is given in vain, or for tiles that are scored whole."""
    tiles = {*all_tiles(split)}
    own = [name for name, _ in rasters if name in tiles]
    reason = "no --tile" if tile is None else f"{', '.join(own[:5])}, of the split" if own else None
    if aoi and reason:
        raise Problem(f"option --aoi (AOI= for make) {aoi}: given for {reason}, expected only with --tile of "
                      "rasters outside the split, as its maps are scored whole; leave it out", code=2)


def check_extra(extra, tile, name, wanted, split):
    """Problem (exit 2) where an extra raster is given in vain; `name`: of the first raster."""
    reason = None if wanted else "a network without an extra band"
    if tile is None:
        reason = "no --tile"
    elif name in {*all_tiles(split), *rasters_of(split)}:
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


def extras_of(given):
    """What --extra names: a path as it is, of a folder {name without suffix: path}."""
    if not given or not Path(given).is_dir():
        return given
    files = filter(is_of_folder, sorted(Path(given).iterdir(), reverse=True))
    return {file.stem: file for file in files}  # of two with one name the first


def find_extra(name, path, given, facts, settings):
    """The path of a raster's extra raster, None where the network needs none. `given`: as of `extras_of`."""
    data, raster = settings["data"], raster_of(name, settings["split"])
    if not facts["extra"]:
        return None
    if isinstance(given, dict):
        paths = [given[path.stem]] if path.stem in given else []
    else:
        paths = [given] if given else find_raw(data, "extra", raster)
    if not paths:
        raise Problem(f"raster {name}: no extra raster, expected one as the network was trained with "
                      "data.extra; name it by --extra (EXTRA= for make)", code=3)
    return paths[0]


def check_raster(job, facts, scale):
    """(height, width) of a job's raster; Problem (exit 3) where it, or the extra raster beside it, is not
    what the network takes. `scale`: its `asked_scale`."""
    key = scale_key(job.name, job.settings)
    with open_raster(job.path, job.settings["data"]["raw"]) as raster:
        named = f"the network's bands: {facts['bands']}"
        wrong = check_bands(raster, facts["bands"], scale[:len(facts["bands"])], named, key)
        if wrong:
            raise Problem(f"raster {job.path}: {wrong}", code=3)
        if not job.extra:
            return raster.shape
        grid = Grid(*raster.shape, ground_of(job, raster, lambda line, last: None))
    with open_raster(job.extra, job.settings["data"]["raw"]) as extra:
        wrong = (check_bands(extra, [1], scale[-1:], "the network's extra band", key)
                 or find_place(extra, job.extra, grid, job.settings["data"]["assume_crs"])[1])
        if wrong:
            raise Problem(f"extra raster {extra.name}: {wrong}", code=3)
    return grid.shape


def warn_of_training(jobs, facts):
    """Says of which tiles the maps are no test."""
    roles = {"trained_on": "the network was trained on it", "chosen_on": "its checkpoint was chosen on it",
             "started_on": "the network started from weights that were trained or chosen on it"}
    for key, role in roles.items():
        names, raw = facts.get(key, {}), jobs[0].settings["data"]["raw"]
        for name in [job.name for job in jobs if job.name in names or f"{raw}/{job.name}" in names]:
            progress(f"warning: {name}: {role}, so its map is no test", last=True)
        rasters = Counter(cut["raster"] for block, cut in facts.get("cut", {}).items() if block in names)
        for name in [job.name for job in jobs if job.name in rasters]:
            blocks = f"{rasters[name]} blocks of it"
            progress(f"warning: {name}: {role.removesuffix('it')}{blocks}, so its map is no test", last=True)


def other_ways(groups):
    """The same groups of jobs in the other `ways`, those without a mosaic each alone, ordered by the size of
    the windows: a network is loaded for each."""
    others = []
    for group in groups:
        for way, options in ways(group[0].settings).items():
            same = [job._replace(name=f"{job.name}.{way}", settings={**job.settings, "predict": options})
                    for job in group]
            others += [same] if options["mosaic"] else [[job._replace(corner=(0, 0))] for job in same]
    return sorted(others, key=lambda group: group[0].settings["predict"]["window"])


def by_window(groups, multiple):
    """The groups of jobs, for OpenVINO, which has a network for each size of window: a raster alone is given
    windows no larger than it needs, in eighths of predict.window; those of one size follow each other."""
    sized = []
    for group in groups:
        window, first = group[0].settings["predict"]["window"], group[0]
        step = -(-window // 8 // multiple) * multiple
        if len(group) == 1 and first.shape:
            group = [first._replace(side=min(window, -(-max(first.shape) // step) * step))]
        sized.append(group)
    return sorted(sized, key=lambda group: group[0].window_side, reverse=True)


def predict_all(groups, scheduler, facts, settings, problems):
    """Predicts the rasters of `groups` of jobs, each as one; adds to `problems`, ends at one that is not a
    raster's own (exit 3)."""
    run, jobs = groups[0][0].run, [group[0] for group in groups]
    with only_one(run):
        rows = recorded(run)  # a damaged predict.csv is refused before the work begins
        write_recorded(run, rows)
        groups = [[job._replace(digest=rows.get(job.name, {}).get("sha256")) for job in group]
                  for group in groups]
        if jobs[0].engine == "openvino":
            groups = by_window(groups, facts["multiple"])
            for job in {group[0].window_side: group[0] for group in groups}.values():
                options = {**job.settings["predict"], "window": job.window_side}
                ensure_engine(run, facts, {**settings, "predict": options})
        alone = (attempt(group, show=progress) for group in groups)
        outcomes = over_dask(groups, scheduler) if scheduler else alone
        try:
            with contextlib.closing(outcomes):  # however this ends, no worker writes on
                for made, problem, lines in outcomes:
                    for line in lines:
                        progress(line, last=True)
                    for row in made:
                        record(run, row, rows)
                    if problem is None:
                        continue
                    if problem.code != 3:
                        raise Problem(*dict.fromkeys(problems), *problem.lines, code=problem.code)
                    problems += problem.lines
                    for line in problem.lines if sum(map(len, groups)) > 1 else []:
                        progress(f"not predicted: {line}", last=True)
        finally:
            clear_temporaries(run)  # of lost workers
            write_recorded(run, rows)


if __name__ == "__main__":
    command(main, __doc__, texts={
        "tile": "name or path of one raster, or a folder; every test tile without it",
        "extra": "the extra raster's file beside --tile, where the network needs one; a folder for a folder",
        "aoi": "a file of polygons (GeoJSON, GeoPackage, ...) outside of which the map has no data",
        "scheduler": "name of a Dask cluster: local:N or tcp://host:port",
    }, switches={"check": "only see whether --tile is there"})
