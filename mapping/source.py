"""One raster to its class map: is it what the network takes, what would its map be made from, how much memory, go.
"""
import contextlib
import functools
import hashlib
import json
import os
import time
from importlib.metadata import version

import numpy as np

from base.command import progress
from base.files import code_of, is_file, sha256
from base.problem import Problem
from base.tables import read_facts, read_table
from imagery.rasters import (
    CACHE,
    Layers,
    check_bands,
    control_points,
    georeference,
    in_degrees,
    open_raster,
    pixel_size,
    resampled,
    same_place,
)
from mapping.blending import place_windows, predict_rows
from mapping.engines import engine_files, engine_of
from mapping.maps import options_of, stands, write_beside, write_map


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
    return code_of("mapping/one_raster.py")[:16]


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


def attempt(*job):
    """(exit code, lines, row) of predicting one raster: 0 and what predict_raster returns, or those of its Problem."""
    try:
        return 0, *predict_raster(*job)
    except Problem as problem:
        return problem.code, problem.lines, None


def recorded(run):
    """{map: SHA-256} of predict.csv."""
    path = run / "predict.csv"
    return {row.get("map"): row.get("sha256") for row in read_table(path)} if path.exists() else {}
