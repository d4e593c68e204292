"""Class maps of whole rasters, whatever their size: blended windows, eight views, no unpredicted border.

    python predict.py --params demo.yaml                   every test tile
    python predict.py --params demo.yaml --tile 2_13       one tile by name
    python predict.py --params demo.yaml --tile "/some/where/my ortho.tif"   (--extra its height model, where the
                                                                              network was trained with data.extra)
    python predict.py --params demo.yaml --tile /some/folder --scheduler local:4   all rasters of a folder, by Dask

Reads model.keras and model.json of the run and the raster, window by window. Writes predictions/<name>.tif (class
index, nodata 255, colours, names, the input's georeference), .qml for QGIS, a .png to look at, and what predict.also
names (maps.py). A map that stands already, from the same model, settings, raster and code, is left alone. Of several
rasters a bad one does not stop the rest: it is named at the end, with exit code 3. Memory depends on the raster's width
and the window, not on its height, and is stated first.
"""
import contextlib
import hashlib
import json
import logging
import math
import os
import re
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from command import command, progress
from engines import choose_engine, engine_of, ensure_engine, read_facts
from files import Problem, clear_temporaries, only_one, sha256
from maps import CERTAIN, stands, write_map
from params import find_rasters, find_raw
from patches import cut
from rasters import Layers, check_bands, georeference, open_raster, resampled, same_place
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


def predict_rows(run, read, shape, classes, window, overlap, views, multiple, depth=1):
    """Yields (first row, uint8 [rows, W, depth] as `decide` fills it) from the top down, every row of a raster once.

    `run` is an engine; `read(start, stop)` returns rows of the raster as uint8 [rows, W, B]; `shape` is (H, W). Windows
    overlap by at least `overlap` of their side; where the raster is smaller, the window shrinks to a multiple of
    `multiple` and reaches past the edge, where the raster is mirrored. Sums stand in one window that slides to the
    right, and below it, as wide as the raster, in the rows that it shares with the next row of windows.
    """
    height, width = shape
    window = min(window, -(-max(height, width) // multiple) * multiple)
    step = max(1, int(window * (1 - overlap)))
    rows, columns = starts(height, window, step), starts(width, window, step)
    answers, weights = run(patches_of(read, height, window, rows, columns, views)), blend_weights(window)
    mean, sums = np.empty((2, classes, window, window), np.float32)
    below = np.zeros((classes, 0, width), np.float32)
    for row, next_row in zip(rows, [*rows[1:], height]):
        done, above = next_row - row, below
        below = np.zeros((classes, window - done, width), np.float32)
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
            below[:, :, col: next_col] = ready[:, done:]
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
        places = sorted(path for path in Path(given).iterdir() if path.stem == name)
    else:
        places = [given] if given else find_raw(settings["data"]["raw"], pattern, name) if pattern else []
    if not places:
        raise Problem(f"raster {name}: no extra raster, expected one as the network was trained with data.extra; name "
                      "it by --extra (EXTRA= for make)", code=3)
    return places[0]


def check_raster(path, raster, extra, facts):
    """Problem (exit 3) where an open raster, or the open extra raster beside it, is not what the network takes."""
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


def provenance(facts, settings, engine, place, sources):
    """The tags of a map: what it was made from and by. The same tags, the same map."""
    options = settings["predict"]
    code = hashlib.sha256("".join(sha256(Path(__file__).parent / name) for name in CODE).encode()).hexdigest()
    read = hashlib.sha256(json.dumps([options, settings["data"]]).encode()).hexdigest()
    tool = f" {version(engine)} {options['precision']}"
    return {"MODEL": facts["sha256"], "SETTINGS": read, "PREDICT": json.dumps(options), "PLACE": json.dumps(place),
            "VIEWS": " ".join(map(str, options["views"])), "WINDOW": str(options["window"]),
            "OVERLAP": str(options["overlap"]), "ENGINE": engine + tool, "VERSION": code[:16],
            "SOURCE": " ".join(sha256(source) for source in sources if source)}


def memory(shape, bands, classes, options, engine, activations):
    """About how many bytes predicting a raster of this shape takes, from what is held at once: the libraries, the
    activations of each window under way (TensorFlow keeps twice as much), rows of pixels, and sums."""
    window, wide = options["window"], max(shape[1], options["window"])
    shared = int(window * options["overlap"]) + 1
    held = {"tensorflow": 2, "int8": 0.5}.get(engine if engine == "tensorflow" else options["precision"], 1)
    return ((0.85e9 if engine == "tensorflow" else 0.3e9) + options["batch_size"] * activations * held
            + 3 * bands * min(window, shape[0]) * wide + 4 * classes * (2 * shared * wide + 4 * window**2)
            + (2 + classes) * window * wide)


def scale_to(raster, place, trained, resample, path):
    """How many of the map's pixels to one of the raster's, 1 unless predict.resample: 1 too where the sizes are the
    same or one of them is not known. Prints a warning where the network will see objects of another size."""
    in_metres = place["transform"] and not (raster.crs and raster.crs.is_geographic)
    ratio = math.hypot(raster.transform.a, raster.transform.d) / trained if in_metres and trained else 1
    if resample and abs(ratio - 1) > 0.01:
        return ratio
    if resample and not (in_metres and trained):
        print(f"warning: {path}: not resampled, as its pixel size in metres or the network's is not known", flush=True)
    if not 0.8 < ratio < 1.25:
        print(f"warning: {path}: pixels of {ratio * trained:g}, the network was trained on {trained:g}; set "
              "predict.resample to true for good results", flush=True)
    return 1


def predict_raster(name, path, extra_path, settings, run, engine, threads=0, show=True):
    """Predicts one raster into runs/<run>/predictions/<name>.tif, unless the same map stands there; returns a line that
    says what it did. `threads` 0: as many as there are cores."""
    options, facts = settings["predict"], read_facts(run)
    target = run / "predictions" / f"{name}.tif"
    with contextlib.ExitStack() as opened:
        raster = opened.enter_context(open_raster(path))
        extra = opened.enter_context(open_raster(extra_path)) if extra_path else None
        check_raster(path, raster, extra, facts)
        place = georeference(raster, settings["data"]["assume_crs"])
        scale = scale_to(raster, place, facts["ground_sample_distance"], options["resample"], path)
        if scale != 1:
            raster, extra = (source and opened.enter_context(resampled(source, scale)) for source in (raster, extra))
            place["transform"] = list(raster.transform)[:6]
        also = [what for what in options["also"] if what != "polygons" or place["crs"]]
        if len(also) < len(options["also"]):
            print(f"warning: {path}: no coordinate system, so no polygons", flush=True)
        tags = provenance(facts, settings, engine, place, (path, extra_path))
        if stands(target, tags, also):
            return f"{name:>12}  stands already  {target}"
        if target.exists() and show:
            print(f"{name:>12}  replaces the map of another raster, model, setting or version", flush=True)
        started, layers = time.monotonic(), Layers(raster, extra, facts["bands"], facts["scale"])
        answer, activations = engine_of(run, facts["sha256"], engine, options["precision"], options["window"],
                                        options["batch_size"], threads)
        (height, width), classes = layers.shape, facts["classes"]
        if show:
            needed = memory(layers.shape, len(facts["scale"]), len(classes), options, engine, activations)
            print(f"{name:>12}  {height} x {width} px, windows of {options['window']}, {len(options['views'])} "
                  f"view(s), {tags['ENGINE']}: about {needed / 1e9:.1f} GB of memory", flush=True)
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
            for row, found in predict_rows(answer, read_rows, layers.shape, len(classes), options["window"],
                                           options["overlap"], options["views"], multiple, depth):
                yield row, found
                if show:
                    progress(f"{name:>12}  {100 * (row + len(found)) // height:3d} %")

        # OpenVINO's windows are all of one size
        multiple = facts["multiple"] if engine == "tensorflow" else options["window"]
        write_map(target, layers, rows(), classes, place, tags, also, options["sieve"])
    if outside.max() > 0.2 * read:
        print(f"warning: {path}: {100 * outside.max() / read:.0f} % of a band outside the scale that the network was "
              f"trained with ({facts['scale']}); see data.scale", flush=True)
    seconds = time.monotonic() - started
    return (f"{name:>12}  {height} x {width} px, {len(options['views'])} views: {seconds:.0f} s, "
            f"{height * width * len(options['views']) / seconds / 1e6:.2f} Mpx/s per view  {target}")


# -- one after the other, or over a Dask cluster ----------------------------------------------------------------------

def attempt(*job):
    """(exit code, lines) of predicting one raster: 0 and what predict_raster says, or those of its Problem."""
    try:
        return 0, [predict_raster(*job)]
    except Problem as problem:
        return problem.code, problem.lines


def over_dask(jobs, scheduler):
    """Yields what `attempt` returns for each job, as the workers of a Dask cluster finish: "local:N" starts N on this
    machine, "tcp://..." is a scheduler whose workers run in this folder. What a lost worker was at, another does."""
    try:
        from distributed import Client, LocalCluster, as_completed
    except ImportError:
        raise Problem("package distributed: not installed, expected for --scheduler; run make extras", code=4) from None
    import predict  # by its own name, which the workers know: this module may be __main__
    logging.getLogger("distributed").setLevel(logging.ERROR)
    count = int(scheduler.partition(":")[2]) if scheduler.startswith("local:") else 0
    threads = max(1, (os.cpu_count() or 1) // count) if count else 0
    with contextlib.ExitStack() as opened:
        if count:
            scheduler = opened.enter_context(LocalCluster(n_workers=count, threads_per_worker=1, memory_limit=0,
                                                          dashboard_address=None))
        try:
            client = opened.enter_context(Client(scheduler, timeout=20))
        except OSError as error:
            raise Problem(f"option --scheduler {scheduler}: {error}, expected a running Dask scheduler, or local:N",
                          code=4) from None
        futures = {client.submit(predict.attempt, *job, threads, False, pure=False): job[1] for job in jobs}
        for future in as_completed(futures):
            if future.status == "error" and type(future.exception()).__name__ == "KilledWorker":
                yield 3, [f"raster {futures[future]}: worker after worker was lost at it, expected one to finish; look "
                          "at their memory"]
            else:
                yield future.result()


def main(settings, run, tile, extra=None, scheduler=None):
    split, options = settings["split"], settings["predict"]
    if scheduler and not re.match(r"^(local:[1-9][0-9]?|tcp://.+:[0-9]+)$", scheduler):
        raise Problem(f"option --scheduler {scheduler}: expected local:N, N workers on this machine, or tcp://host:port",
                      code=2)
    rasters = [found for name in (split["test"] if tile is None else [tile]) for found in find_rasters(name, settings)]
    facts = read_facts(run)
    if facts["classes"] != settings["data"]["classes"]:
        raise Problem(f"model {run / 'model.keras'}: of the classes {', '.join(facts['classes'])}, expected those of "
                      f"data.classes: {', '.join(settings['data']['classes'])}, with the same colours; run train.py "
                      "again", code=3)
    if extra and (tile is None or rasters[0][0] in sum(split.values(), []) or not facts["extra"]):
        raise Problem(f"option --extra (EXTRA= for make) {extra}: given for "
                      + ("no --tile" if tile is None else f"{tile}, a tile of the split" if facts["extra"] else
                         "a network without an extra band")
                      + ", expected with --tile of a raster outside the split, for a network trained with data.extra; "
                      "leave it out", code=2)
    engine, problems, jobs = choose_engine(options), [], []
    for name, path in rasters:
        try:
            jobs.append((name, path, find_extra(name, extra, facts, settings), settings, run, engine))
        except Problem as problem:
            problems += problem.lines
    with only_one(run):
        if engine == "openvino":
            ensure_engine(run, facts, settings)
        for code, lines in over_dask(jobs, scheduler) if scheduler else (attempt(*job) for job in jobs):
            if code not in (0, 3):
                raise Problem(*lines, code=code)
            problems += lines if code else []
            progress(f"not predicted: {lines[0]}" if code else lines[0], last=True)
        clear_temporaries(run)  # of lost workers
    if problems:
        raise Problem(*problems, code=3)


if __name__ == "__main__":
    command(main, __doc__, tile="NAME or path of one raster, or a folder; every test tile without it",
            extra="NAME of the extra raster's file beside --tile, where the network needs one; a folder for a folder",
            scheduler="NAME of a Dask cluster: local:N or tcp://host:port")
