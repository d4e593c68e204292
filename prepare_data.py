"""Raw tiles to checked, class-indexed tiles and a manifest that audits them.

    python prepare_data.py --params demo.yaml

Reads data.raw: images and labels in the official folders, as they unzip, or the official .zip files themselves.
Writes to data.prepared, for each tile of the split, <tile>.pixels.npy (uint8 [H, W, depth]: the bands, then the class
index, then zeros), <tile>.eroded.npy where official eroded labels exist, and manifest.json: per tile size, type,
hashes, georeference, pixels of each class, in all and in each square of 128 px, and what was repaired, ignored,
unknown or without data.

Every tile is checked, pixels included, before the first is written; all that is wrong is listed at once (exit 3).
Tiles of different roles that show the same ground are refused, and so are two tiles with the same pixels. A tile
already prepared from the same bytes with the same settings is left alone. Rasters are read by bands of rows: memory
does not depend on their height. A 6000 x 6000 tile takes about 5 s.
"""
import contextlib
import hashlib
import itertools
import math
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np

from base.command import command
from base.files import only_one, replacing, sha256
from base.problem import Problem
from imagery.arrays import IGNORE
from imagery.labels import KINDS, build_decoder
from imagery.rasters import Layers, check_crs, open_raster, overlap, reading, scales
from imagery.raw_tiles import check_headers, find_files, with_masks
from imagery.tiles import (
    CELL,
    check_roles,
    count_cells,
    depth,
    made_with,
    manifest_text,
    pack,
    read_manifest,
)

PIXELS_AT_ONCE = 2**22  # of a band of rows


# -- what is in it ----------------------------------------------------------------------------------------------------

def read_tile(files, data, decoder, shape, write=lambda **arrays: None):
    """Reads a whole tile, band of rows by band of rows, and returns what the manifest says of its pixels.

    `write` is called with every band: pixels (uint8 [rows, W, depth]) and, where the tile has them, eroded (uint8
    [rows, W]). Pixels that are nodata in the image become IGNORE in the labels.
    """
    rows = max(1, PIXELS_AT_ONCE // shape[1] // CELL) * CELL
    kinds = [kind for kind in ("labels", "eroded") if kind in files]
    counts, unknown = {kind: np.zeros(len(KINDS), np.int64) for kind in kinds}, {kind: Counter() for kind in kinds}
    cells, digest, nodata, outside = [], hashlib.sha256(str(shape).encode()), 0, np.zeros(shape[2], np.int64)
    with contextlib.ExitStack() as stack:
        rasters = {kind: stack.enter_context(open_raster(path)) for kind, path in files.items()}
        layers = Layers(rasters["image"], rasters.get("extra"), data["bands"], scales(data))
        for start in range(0, shape[0], rows):
            stop = min(start + rows, shape[0])
            valid = layers.valid(start, stop)
            image, beyond = layers.read(start, stop, valid)
            digest.update(image)
            outside += beyond
            nodata += valid.size - np.count_nonzero(valid)
            labels = {}
            for kind in kinds:
                with reading(rasters[kind].name):
                    raw = rasters[kind].read(decoder.bands, window=((start, stop), (0, shape[1])))
                labels[kind], band_counts, band_unknown = decoder.decode(np.moveaxis(raw, 0, -1))
                labels[kind][~valid] = IGNORE
                counts[kind] += band_counts
                unknown[kind].update(band_unknown)
                if len(unknown[kind]) > 2**17:  # a photograph in a label's place: keep what could be the most frequent
                    unknown[kind] = Counter(dict(unknown[kind].most_common(2**12)))
            cells.append(count_cells(labels["labels"], len(data["classes"])))
            write(pixels=pack(image, labels["labels"]), **{k: v for k, v in labels.items() if k == "eroded"})
    cells = np.concatenate(cells)
    return {"nodata": int(nodata), "outside_scale": outside.tolist(), "pixels_sha256": digest.hexdigest(),
            "pixels": {kind: {**dict(zip(KINDS, map(int, counts[kind]))),
                              "unknown_colours": dict(unknown[kind].most_common(5))} for kind in kinds},
            "classes": dict(zip(data["classes"], cells.sum((0, 1)).tolist())), "cells": cells.tolist()}


def check_unknown(tile, files, audit, shape, max_unknown):
    """A line for each label file with more pixels of no known class than data.max_unknown allows."""
    for kind, pixels in audit["pixels"].items():
        share = pixels["unknown"] / (shape[0] * shape[1])
        if share > max_unknown:
            often = ", ".join(f"{colour} ({n})" for colour, n in list(pixels["unknown_colours"].items())[:3])
            yield (f"tile {tile}, {kind} in {files[kind]}: {100 * share:.2f} % of pixels have no known colour (most "
                   f"often {often}), expected at most {100 * max_unknown:g} %; see data.classes, data.label_values, "
                   "data.tolerance and data.max_unknown")


# -- what may not be together -----------------------------------------------------------------------------------------

def check_leaks(split, found, allowed):
    """A line for each two tiles of different roles whose georeferenced footprints overlap, unless both are allowed."""
    roles = {tile: role for role, tiles in split.items() for tile in tiles}
    for one, other in itertools.combinations(found, 2):
        if roles[one] == roles[other] or {one, other} <= set(allowed):
            continue
        places = [(found[tile]["georeference"], found[tile]["shape"][:2]) for tile in (one, other)]
        share = overlap(*places) or overlap(*reversed(places))  # what one coordinate system hides the other may show
        if share:
            yield (f"tiles {one} (split.{roles[one]}) and {other} (split.{roles[other]}): "
                   + ("places that cannot be compared" if math.isnan(share) else
                      f"{100 * share:.1f} % of the smaller one's bounding box lies in the other's")
                   + ", expected different ground, or scores are no test; give both one role, or name both in "
                   "data.allow_overlap")


def check_twins(pixels):
    """A line for each tile whose image has the same pixels as an earlier one's; `pixels` is {tile: sha256}."""
    first = {}
    for tile, digest in pixels.items():
        if first.setdefault(digest, tile) != tile:
            yield (f"tiles {first[digest]} and {tile}: the same pixels, expected different images; take one out of "
                   "split or fetch the right file")


def check_disk(folder, shapes):
    """Problem (exit 4) where the prepared tiles would not fit the disk."""
    needed = sum(rows * cols * (depth(bands) + 1) for rows, cols, bands in shapes)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise Problem(f"disk at {folder}: {free / 1e9:.1f} GB free, expected {needed / 1e9:.1f} GB for {len(shapes)} "
                      "tiles; free some space, or see whether the tiles are as large as they say", code=4)


# -- the step ---------------------------------------------------------------------------------------------------------

def is_prepared(row, hashes, facts, data):
    """True where a manifest row stands for these raw bytes, this georeference and settings and its files are whole."""
    folder = Path(data["prepared"])
    return (row is not None and row["made_with"] == made_with(data) and row["georeference"] == facts["georeference"]
            and row["classes"].keys() == data["classes"].keys()
            and {kind: raw["sha256"] for kind, raw in row["raw"].items()} == hashes
            and all((folder / file["name"]).is_file() and sha256(folder / file["name"]) == file["sha256"]
                    for file in row["files"].values()))


def check_tiles(split, data, manifest, decoder):
    """{tile: (files, hashes, facts)} of the tiles to prepare. Problem lists all that is wrong in names and headers of
    any tile or, where nothing is, in its pixels."""
    tiles = [tile for role in split.values() for tile in role]
    files, found, problems = {}, {}, []
    for tile in tiles:
        files[tile], wrong = find_files(tile, data)
        facts, in_headers = check_headers(tile, files[tile], data)
        problems += wrong + in_headers
        if facts:
            found[tile] = facts
    problems += check_leaks(split, found, data["allow_overlap"])
    if problems:
        raise Problem(*problems, code=3)
    todo = {}
    for tile, facts in found.items():
        hashes = {kind: sha256(path) for kind, path in with_masks(files[tile]).items()}
        if not is_prepared(manifest["tiles"].get(tile), hashes, facts, data):
            todo[tile] = files[tile], hashes, facts
    check_disk(data["prepared"], [facts["shape"] for _, _, facts in todo.values()])
    pixels = {}
    for tile, facts in found.items():
        if tile not in todo:
            pixels[tile] = manifest["tiles"][tile]["pixels_sha256"]
            problems += check_unknown(tile, files[tile], manifest["tiles"][tile], facts["shape"], data["max_unknown"])
            continue
        print(f"{tile:>12}  checking {facts['shape'][0]} x {facts['shape'][1]} px", flush=True)
        try:
            audit = read_tile(files[tile], data, decoder, facts["shape"])
        except Problem as problem:
            problems += problem.lines
            continue
        pixels[tile] = audit["pixels_sha256"]
        problems += check_unknown(tile, files[tile], audit, facts["shape"], data["max_unknown"])
    problems += check_twins(pixels)
    if problems:
        raise Problem(*problems, code=3)
    return todo


def prepare_tile(tile, files, hashes, facts, data, decoder):
    """Writes a tile's arrays and returns its row of the manifest."""
    folder, shape = Path(data["prepared"]), facts["shape"]
    shapes = {"pixels": (*shape[:2], depth(shape[2])), "eroded": tuple(shape[:2])}
    names = {kind: f"{tile}.{kind}.npy" for kind in shapes if kind == "pixels" or kind in files}
    with contextlib.ExitStack() as stack:
        targets = {}
        for kind, name in names.items():
            targets[kind] = stack.enter_context(open(stack.enter_context(replacing(folder / name)), "wb"))
            np.lib.format.write_array_header_1_0(
                targets[kind], {"descr": "|u1", "fortran_order": False, "shape": shapes[kind]})

        def write(**arrays):
            for kind, array in arrays.items():
                targets[kind].write(np.ascontiguousarray(array))

        audit = read_tile(files, data, decoder, shape, write)
    return {**facts, "made_with": made_with(data),
            "raw": {kind: {"path": str(path), "sha256": hashes[kind]} for kind, path in with_masks(files).items()},
            "files": {kind: {"name": name, "sha256": sha256(folder / name)} for kind, name in names.items()}, **audit}


def main(settings, run):
    data, split = settings["data"], settings["split"]
    if data["assume_crs"] is not None:
        check_crs(data["assume_crs"])
    folder, decoder = Path(data["prepared"]), build_decoder(data)
    if not Path(data["raw"]).is_dir():
        raise Problem(f"data folder {data['raw']} (data.raw): not found, expected the folder with the unzipped tiles; "
                      "the README says how to get them", code=3)
    with only_one(folder):
        manifest = read_manifest(folder)
        todo = check_tiles(split, data, manifest, decoder)
        for tile, (files, hashes, facts) in todo.items():
            row = manifest["tiles"][tile] = prepare_tile(tile, files, hashes, facts, data, decoder)
            with replacing(folder / "manifest.json") as temporary:
                temporary.write_text(manifest_text(manifest["tiles"]), encoding="utf-8")
            pixels, total = row["pixels"]["labels"], facts["shape"][0] * facts["shape"][1]
            print(f"{tile:>12}  prepared; labels repaired {100 * pixels['repaired'] / total:.2f} %, ignored "
                  f"{100 * pixels['ignored'] / total:.2f} %, unknown {100 * pixels['unknown'] / total:.2f} %; image "
                  f"without data {100 * row['nodata'] / total:.2f} %"
                  + (f", outside data.scale {100 * max(row['outside_scale']) / total:.2f} % of a band"
                     if data["scale"] else ""), flush=True)
        check_roles(split, manifest)
    print(f"{sum(map(len, split.values())) - len(todo)} tiles were prepared already, {len(todo)} are new: "
          f"{folder}{os.sep}manifest.json")


if __name__ == "__main__":
    command(main, __doc__)
