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
import hashlib
import json
import os
import re
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from cluster import over_dask
from command import command, progress
from engines import choose_engine, engine_files, engine_of, ensure_engine
from files import Problem, clear_temporaries, code_sha256, is_file, only_one, replacing, sha256
from maps import CERTAIN, options_of, stands, ways, write_beside, write_map
from patches import cut
from rasters import (
    CACHE,
    Layers,
    check_bands,
    check_crs,
    control_points,
    georeference,
    in_degrees,
    open_raster,
    pixel_size,
    resampled,
    same_place,
)
from raw_files import SUFFIXES, check_name, find_rasters, find_raw
from results import read_facts, read_table
from tiles import starts, unview, view

CODE = ("predict.py", "engines.py", "maps.py", "patches.py", "rasters.py", "tiles.py")  # what makes a map what it is


# -- the map as it forms ----------------------------------------------------------------------------------------------

def blend_weights(window):
    """How much each pixel of a window counts: float32 [window, window], highest in the middle, never zero, the same in
    all eight views."""
    rise = np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2 + 1e-3
    return np.outer(rise, rise).astype(np.float32)


def patches_of(read, height, window, rows, columns, views):
    """Yields every view (uint8 [window, window, B]) of every window, from the top down."""
    for row in rows:
        strip = read(row, min(row + window, height))
        for col in columns:
            patch = cut(strip, 0, col, window)
            for number in views:
                yield np.ascontiguousarray(view(patch, number))


def turned_back(planes, number):
    """The planes [C, S, S] of which `planes` are the view of that number."""
    return np.moveaxis(unview(np.moveaxis(planes, 0, -1), number), -1, 0)


def decide(sums, out):
    """Fills `out` (uint8 [H, W, 1, 2 or 2 + C]) from sums of weighted probabilities (float32 [C, H, W]): the class, its
    probability times 200, that of each class."""
    best, index = sums[0].copy(), np.zeros(sums.shape[1:], np.uint8)
    for i in range(1, len(sums)):  # ten times as fast as argmax, which takes each pixel by itself
        np.maximum(index, np.uint8(i) * (sums[i] > best), out=index)
        np.maximum(best, sums[i], out=best)
    out[..., 0] = index
    if out.shape[-1] > 1:
        share = CERTAIN / sums.sum(0)
        out[..., 1] = np.rint(best * share)
        out[..., 2:] = np.rint(np.moveaxis(sums * share, 0, -1))[..., : out.shape[-1] - 2]


def place_windows(size, window, overlap, multiple):
    """First pixels (int64 [N]) of the windows that cover an axis: evenly spread, overlapping by at least `overlap` of
    their side, on multiples of `multiple`; side by side from the first pixel where `overlap` is 0. The network pools
    and averages cells so many pixels wide; cells that lie alike in every window make neighbours agree. The last may
    reach past the end."""
    if overlap == 0:
        return np.arange(0, size, window)
    step = max(1, int(window * (1 - overlap)) // multiple)
    return multiple * starts(-(-size // multiple), window // multiple, step)


def predict_rows(run, read, shape, classes, window, overlap, views, multiple, depth=1):
    """Yields (first row, uint8 [rows, W, depth] as `decide` fills it) from the top down, every row of a raster once.

    `run` is an engine; `read(start, stop)` returns rows of the raster as uint8 [rows, W, B]; `shape` is (H, W). Windows
    lie as `place_windows` says; past the raster's edge it is mirrored. Sums stand in one window that slides to the
    right, and below it, as wide as the raster, in the rows that it shares with the next row of windows.
    """
    height, width = shape
    rows, columns = (place_windows(size, window, overlap, multiple) for size in shape)
    answers, weights = run(patches_of(read, height, window, rows, columns, views)), blend_weights(window)
    mean, sums = np.empty((2, classes, window, window), np.float32)
    below = np.zeros((classes, 0, width), np.float32)
    for row, next_row in zip(rows, [*rows[1:], height]):
        done, above = next_row - row, below
        below = np.zeros((classes, window - done if next_row < height else 0, width), np.float32)
        out = np.empty((done, width, depth), np.uint8)
        sums[:] = 0
        for col, next_col in zip(columns, [*columns[1:], width]):
            mean[:] = turned_back(next(answers), views[0])
            for number in views[1:]:
                mean += turned_back(next(answers), number)
            sums += np.multiply(mean, weights, out=mean)
            ready = sums[:, :, : next_col - col]
            ready[:, : above.shape[1]] += above[:, :, col: next_col]
            decide(ready[:, :done], out[:, col: next_col])
            below[:, :, col: next_col] = ready[:, done: done + below.shape[1]]
            sums[:, :, : window - (next_col - col)] = sums[:, :, next_col - col:].copy()
            sums[:, :, window - (next_col - col):] = 0
        yield row, out


# -- one raster -------------------------------------------------------------------------------------------------------

def find_extra(name, given, facts, settings):
    """The path of the extra raster of a tile or raster, None where the network needs none; Problem (exit 3) where it
    needs one and there is none. `given`: a file, or a folder with files of the rasters' names."""
    if not facts["extra"]:
        return None
    pattern = settings["data"]["extra"]
    if given and Path(given).is_dir():
        places = sorted(path for path in Path(given).iterdir()
                        if path.stem == name and path.suffix.lower() in SUFFIXES)
    else:
        places = [given] if given else find_raw(settings["data"]["raw"], pattern, name) if pattern else []
    if not places:
        raise Problem(f"raster {name}: no extra raster, expected one as the network was trained with data.extra; name "
                      "it by --extra (EXTRA= for make)", code=3)
    return places[0]


def check_raster(path, extra_path, facts):
    """Problem (exit 3) where a raster, or the extra raster beside it, is not what the network takes."""
    with open_raster(path) as raster, open_raster(extra_path) if extra_path else contextlib.nullcontext() as extra:
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


def masks_of(path, raster):
    """What decides which pixels of an open raster have no data, with the bytes of the .msk beside it, as text; not the
    statistics that programs leave in its .aux.xml."""
    mask = f"{path}.msk"
    return json.dumps([raster.nodatavals, [[flag.name for flag in flags] for flags in raster.mask_flag_enums],
                       [kind.name for kind in raster.colorinterp], sha256(mask) if is_file(mask) else None])


@functools.cache
def code_version():
    """What stands for the code that makes maps, in their tags."""
    return hashlib.sha256("".join(code_sha256(Path(__file__).parent / name) for name in CODE).encode()).hexdigest()[:16]


def provenance(facts, settings, run, engine, place, sources):
    """The tags of a map of `sources`, {path: open raster}: what it was made from and by. The same tags, the same map.
    """
    options = settings["predict"]
    known = {key: facts[key] for key in ("bands", "extra", "scale", "ground_sample_distance", "multiple")}
    known["classes"] = list(facts["classes"].items())
    read = hashlib.sha256(json.dumps([options_of(options), known], sort_keys=True).encode()).hexdigest()
    tool = f"{engine} {version(engine)} {options['precision']}"
    if options["precision"] == "int8":  # other weights, by its calibration
        tool += " " + sha256(engine_files(run, "int8", options["window"])[1])[:16]
    return {"MODEL": facts["sha256"], "SETTINGS": read, "PREDICT": options_of(options), "PLACE": json.dumps(place),
            "VIEWS": " ".join(map(str, options["views"])), "WINDOW": str(options["window"]),
            "OVERLAP": str(options["overlap"]), "ENGINE": tool, "VERSION": code_version(),
            "MASKS": " ".join(masks_of(path, raster) for path, raster in sources.items()),
            "SOURCE": " ".join(map(sha256, sources))}


def memory(shape, facts, options, engine, activations):
    """About how many bytes predicting a raster of this shape takes, from what is held at once: the libraries, the
    activations of each window under way (TensorFlow keeps twice as much), GDAL's blocks, rows of pixels, sums; with
    polygons the map."""
    (height, width), window, classes = shape, options["window"], len(facts["classes"])
    wide, rows = max(width, window), place_windows(height, window, options["overlap"], facts["multiple"])
    shared = window - int(np.diff(rows).min(initial=window))  # of neighbours, which are spread evenly
    held = {"tensorflow": 2, "int8": 0.5}.get(engine if engine == "tensorflow" else options["precision"], 1)
    copies = [3 if limits is None else 16 for limits in facts["scale"]]  # of a pixel's bands, as bytes or as numbers
    return ((0.85e9 if engine == "tensorflow" else 0.3e9) + options["batch_size"] * activations * held
            + min(1e6 * CACHE, (len(copies) + 1) * height * width)
            + (sum(copies) + 2 + classes) * window * wide + 4 * classes * (2 * shared * wide + 4 * window**2)
            + ("polygons" in options["also"]) * 3 * height * width)


def installed_memory():
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def scale_to(place, trained, resample, path):
    """(how many of the map's pixels to one of the raster's, a warning or None): 1 unless predict.resample, and where
    the sizes are the same or one of them is not known. Problem (exit 3) where they have nothing in common."""
    own = pixel_size(place)
    if own is None or trained is None:
        silent = trained is None or not (place["transform"] or resample)  # a picture without a place has no size
        return 1, None if silent else (f"warning: {path}: its pixel size in metres is not known, so it is not "
                                       f"resampled; the network was trained on {trained:g} m")
    ratio = own / trained
    if resample and not 1 / 32 < ratio < 32:
        raise Problem(f"raster {path}: pixels of {own:g} m, expected about {trained:g} m, on which the network was "
                      "trained; look at its georeference, or set predict.resample to false", code=3)
    if resample:
        return (ratio if abs(ratio - 1) > 0.01 else 1), None
    return 1, None if 0.8 < ratio < 1.25 else (
        f"warning: {path}: pixels of {own:g} m, the network was trained on {trained:g} m; set predict.resample to true "
        "for good results")


def predict_raster(name, path, extra_path, settings, run, engine, threads=0, say=None):
    """Predicts one raster into runs/<run>/predictions/<name>.tif, unless the same map stands there. Returns the lines
    that say what it did, and the map's row of predict.csv, without seconds where it stood; where there is a `say`, that
    gets the lines as they come, and progress is shown. `threads` 0: as many as there are cores."""
    options, facts, lines = settings["predict"], read_facts(run), []
    say, live = say or lines.append, say is not None
    target = run / "predictions" / f"{name}.tif"
    with contextlib.ExitStack() as opened:
        raster = opened.enter_context(open_raster(path))
        extra = opened.enter_context(open_raster(extra_path)) if extra_path else None
        place = georeference(raster, settings["data"]["assume_crs"])
        if points := control_points(raster):
            place["control_points"] = points
        of_split = name in sum(settings["split"].values(), [])  # whose maps are compared with labels, pixel by pixel
        scale, warning = scale_to(place, facts["ground_sample_distance"], options["resample"] and not of_split, path)
        if warning:
            say(warning)
        if scale != 1:
            raster, extra = (source and opened.enter_context(resampled(source, scale)) for source in (raster, extra))
            place["transform"] = list(raster.transform)[:6]
        also = [what for what in options["also"] if what != "polygons" or in_degrees(raster, place)]
        if len(also) < len(options["also"]):
            say(f"warning: {path}: " + ("placed by control points alone; warp it first (gdalwarp)" if points else
                                        "no place in longitude and latitude is known") + ", so no polygons")
        tags = provenance(facts, settings, run, engine, place, {path: raster, **({extra_path: extra} if extra else {})})
        row = {"map": name, "height": raster.height, "width": raster.width, "views": len(options["views"]),
               "window": options["window"], "overlap": options["overlap"], "engine": tags["ENGINE"], "seconds": None}
        if stands(target, tags, also) and recorded(run).get(name) in (None, sha256(target)):
            write_beside(target, facts["classes"], also, options["sieve"], missing=True)
            say(f"{name:>12}  stands already  {target}")
            return lines, {**row, "sha256": sha256(target)}
        if target.exists():
            say(f"{name:>12}  replaces the map of another raster, model, setting or version, or a damaged one")
        layers = Layers(raster, extra, facts["bands"], facts["scale"])
        answer, activations = engine_of(run, facts["sha256"], engine, options["precision"], options["window"],
                                        options["batch_size"], threads)
        (height, width), classes, views = layers.shape, facts["classes"], len(options["views"])
        needed = memory(layers.shape, facts, {**options, "also": also}, engine, activations)
        say(f"{name:>12}  {height} x {width} px, windows of {options['window']}, views: {views}, {tags['ENGINE']}: "
            f"about {needed / 1e9:.1f} GB of memory")
        if needed > installed_memory():
            raise Problem(f"raster {path}: {height} x {width} pixels need about {needed / 1e9:.1f} GB of memory, "
                          f"expected at most the {installed_memory() / 1e9:.1f} GB of this machine; lower "
                          "predict.window or predict.batch_size, or cut it into narrower ones", code=3)
        read, outside = 0, np.zeros(len(facts["scale"]), np.int64)

        def read_rows(start, stop):
            nonlocal read, outside
            valid = layers.valid(start, stop)
            pixels, beyond = layers.read(start, stop, valid)
            read, outside = read + np.count_nonzero(valid), outside + beyond
            return pixels

        def rows():
            depth = 1 if not {"confidence", "probabilities"}.intersection(also) else 2 + len(classes) * (
                "probabilities" in also)
            for row, found in predict_rows(answer, read_rows, layers.shape, len(classes), window, options["overlap"],
                                           options["views"], facts["multiple"], depth):
                yield row, found
                if live:
                    progress(f"{name:>12}  {100 * (row + len(found)) // height:3d} %")

        window = options["window"]
        if engine == "tensorflow":  # which takes windows of any size: no larger than the raster
            window = min(window, -(-max(height, width) // facts["multiple"]) * facts["multiple"])
        started = time.monotonic()
        write_map(target, layers, rows(), classes, place, tags, also, options["sieve"])
    if outside.max() > 0.2 * read:
        say(f"warning: {path}: {100 * outside.max() / read:.0f} % of a band outside the scale that the network was "
            f"trained with ({facts['scale']}); see data.scale")
    seconds = time.monotonic() - started
    say(f"{name:>12}  {height} x {width} px, views: {views}: {seconds:.0f} s, "
        f"{height * width * views / seconds / 1e6:.2f} Mpx/s per view  {target}")
    return lines, {**row, "seconds": f"{seconds:.2f}", "sha256": sha256(target)}


# -- many rasters -----------------------------------------------------------------------------------------------------

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


def attempt(*job):
    """(exit code, lines, row) of predicting one raster: 0 and what predict_raster returns, or those of its Problem."""
    try:
        return 0, *predict_raster(*job)
    except Problem as problem:
        return problem.code, problem.lines, None


def main(settings, run, tile, extra=None, scheduler=None):
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


def recorded(run):
    """{map: SHA-256} of predict.csv."""
    path = run / "predict.csv"
    return {row.get("map"): row.get("sha256") for row in read_table(path)} if path.exists() else {}


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
            done = over_dask("predict", "attempt", jobs, scheduler) if scheduler else (
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


if __name__ == "__main__":
    command(main, __doc__, tile="NAME or path of one raster, or a folder; every test tile without it",
            extra="NAME of the extra raster's file beside --tile, where the network needs one; a folder for a folder",
            scheduler="NAME of a Dask cluster: local:N or tcp://host:port")
