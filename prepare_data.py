"""Raw tiles to checked, class-indexed tiles and a manifest.

    python prepare_data.py --params demo.yaml

Reads data.raw: images and colour-coded labels in the official folders, as they unzip. Writes to data.prepared, for
each tile of the split, <tile>.image.npy, <tile>.labels.npy, <tile>.eroded.npy where official eroded labels exist,
and manifest.json. Every tile is checked, pixels included, before the first is written; all that is wrong is listed
at once (exit 3). A tile already prepared from the same bytes with the same settings is left alone.
A 6000 x 6000 tile takes about 3 s.
"""
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import CRSError

from command import command
from files import Problem, only_one, replacing, sha256
from params import find_raw, shown
from tiles import (
    BAND_ROWS,
    ColourDecoder,
    check_bands,
    georeference,
    made_with,
    open_raster,
    read_manifest,
    read_rows,
)


def find_files(tile, raw, image, label, eroded_label, **_):
    """({"image", "labels", "eroded": path}, problems) of a tile's raw files."""
    files, problems = {}, []
    for kind, pattern in (("image", image), ("labels", label), ("eroded", eroded_label)):
        places = find_raw(raw, pattern, tile) if pattern else []
        if len(places) > 1:
            problems.append(f"tile {tile}, {kind}: found as {places[0]} and {places[1]}, expected one; remove one")
        elif places:
            files[kind] = places[0]
        elif kind != "eroded":
            expected = Path(raw) / pattern.replace("{tile}", tile)
            problems.append(f"tile {tile}, {kind}: no file, expected {expected}; add it or take {tile} out of split")
    return files, problems


def check_headers(tile, files, bands):
    """(shape [H, W, B], problems) of a tile's files, without reading pixels."""
    shape, problems = None, []
    for kind, path in files.items():
        try:
            with open_raster(path) as raster:
                wrong = (check_bands(raster, bands, f"data.bands: {bands}") if kind == "image"
                         else check_bands(raster, [1, 2, 3], "labels are painted in red, green and blue"))
                if wrong:
                    problems.append(f"tile {tile}, {kind} in {path}: {wrong}")
                if kind == "image":
                    shape = [raster.height, raster.width, len(bands)]
                elif shape and [raster.height, raster.width] != shape[:2]:
                    problems.append(f"tile {tile}, {kind} in {path}: {raster.height} x {raster.width} pixels, expected "
                                    f"{shape[0]} x {shape[1]} as its image")
        except Problem as problem:
            problems += problem.lines
    return shape, problems


def check_pixels(tile, files, bands, decoder, max_unknown):
    """Problems met when every pixel is read: unreadable parts, and unknown colours above the limit."""
    problems = []
    for kind, path in files.items():
        try:
            with open_raster(path) as raster:
                if kind == "image":
                    for row in range(0, raster.height, BAND_ROWS):
                        read_rows(raster, bands, row, min(row + BAND_ROWS, raster.height))
                    continue
                counts, unknown = decode_raster(raster, decoder)
                share = counts[3] / (raster.height * raster.width)
                if share > max_unknown:
                    colours = ", ".join(f"{colour} ({n})" for colour, n in unknown.most_common(3))
                    problems.append(
                        f"tile {tile}, {kind} in {path}: {100 * share:.2f} % of pixels have no known colour (most "
                        f"often {colours}), expected at most {100 * max_unknown:g} %; see data.classes, data.tolerance "
                        "and data.max_unknown")
        except Problem as problem:
            problems += problem.lines
    return problems


def decode_raster(raster, decoder, target=None):
    """(pixels of each kind int64 [4], unknown colours) of a whole label raster; labels go to `target` [H, W]."""
    counts, unknown = np.zeros(4, np.int64), Counter()
    for row in range(0, raster.height, BAND_ROWS):
        colours = read_rows(raster, [1, 2, 3], row, min(row + BAND_ROWS, raster.height))
        labels, band_counts, band_unknown = decoder.decode(colours)
        counts += band_counts
        unknown.update(band_unknown)
        if target is not None:
            target[row: row + len(labels)] = labels
    return counts, unknown


def prepare_tile(tile, files, hashes, shape, data, decoder):
    """Writes a tile's arrays and returns its row of the manifest."""
    folder = Path(data["prepared"])
    row = {"shape": shape, "made_with": made_with(data), "raw": {}, "files": {}, "pixels": {}}
    for kind, path in files.items():
        name = f"{tile}.{kind}.npy"
        with replacing(folder / name) as temporary, open_raster(path) as raster:
            array = np.lib.format.open_memmap(temporary, "w+", np.uint8, tuple(shape if kind == "image" else shape[:2]))
            if kind == "image":
                row["georeference"] = georeference(raster, data["assume_crs"])
                for start in range(0, shape[0], BAND_ROWS):
                    stop = min(start + BAND_ROWS, shape[0])
                    array[start:stop] = read_rows(raster, data["bands"], start, stop)
            else:
                counts, unknown = decode_raster(raster, decoder, array)
                row["pixels"][kind] = dict(zip(decoder.KINDS, map(int, counts)))
                row["pixels"][kind]["unknown_colours"] = dict(unknown.most_common(5))
                if kind == "labels":
                    per_class = np.bincount(np.ravel(array), minlength=256)
                    row["classes"] = {name: int(per_class[i]) for i, name in enumerate(data["classes"])}
            array.flush()
            del array
        row["raw"][kind] = {"path": str(path), "sha256": hashes[kind]}
        row["files"][kind] = {"name": name, "sha256": sha256(folder / name)}
    return row


def is_prepared(row, hashes, image, data):
    """True where a manifest row stands for these raw bytes, this georeference and settings and its files are whole."""
    folder = Path(data["prepared"])
    if row is None or row["made_with"] != made_with(data):
        return False
    with open_raster(image) as raster:
        place = georeference(raster, data["assume_crs"])
    same = (place == row["georeference"] and row["files"].keys() == hashes.keys()
            and row["classes"].keys() == data["classes"].keys()
            and {kind: raw["sha256"] for kind, raw in row["raw"].items()} == hashes)
    return same and all((folder / file["name"]).is_file() and sha256(folder / file["name"]) == file["sha256"]
                        for file in row["files"].values())


def check_tiles(tiles, data, manifest, decoder):
    """{tile: (files, hashes, shape)} of the tiles to prepare. Problem lists all that is wrong in names and headers
    of any tile or, where nothing is, in its pixels."""
    found, problems = {}, []
    for tile in tiles:
        files, wrong = find_files(tile, **data)
        shape, in_headers = check_headers(tile, files, data["bands"])
        found[tile] = files, shape
        problems += wrong + in_headers
    if problems:
        raise Problem(*problems, code=3)
    todo = {}
    for tile, (files, shape) in found.items():
        hashes = {kind: sha256(path) for kind, path in files.items()}
        if is_prepared(manifest["tiles"].get(tile), hashes, files["image"], data):
            continue
        todo[tile] = files, hashes, shape
        print(f"{tile:>12}  checking {shape[0]} x {shape[1]} px", flush=True)
        problems += check_pixels(tile, files, data["bands"], decoder, data["max_unknown"])
    if problems:
        raise Problem(*problems, code=3)
    return todo


def check_crs(name):
    """Problem (exit 2) where data.assume_crs is no coordinate system."""
    try:
        CRS.from_user_input(name)
    except (CRSError, ValueError) as error:
        raise Problem(f"settings, key data.assume_crs: {shown(name)}, expected a coordinate system such as EPSG:32633 "
                      f"({' '.join(str(error).split())})", code=2) from None


def check_roles(split, manifest):
    """Problem (exit 3) where the tiles of a role have no labelled pixel: nothing could be learned or scored."""
    empty = [f"split.{role} ({', '.join(tiles)}): no pixel of any class in its labels, expected some; see data.classes"
             for role, tiles in split.items() if not sum(sum(manifest["tiles"][t]["classes"].values()) for t in tiles)]
    if empty:
        raise Problem(*empty, code=3)


def main(settings, run):
    data = settings["data"]
    if data["assume_crs"] is not None:
        check_crs(data["assume_crs"])
    folder = Path(data["prepared"])
    tiles = [tile for role in settings["split"].values() for tile in role]
    decoder = ColourDecoder(data["classes"], data["ignore_colours"], data["tolerance"])
    if not Path(data["raw"]).is_dir():
        raise Problem(f"data folder {data['raw']} (data.raw): not found, expected the folder with the unzipped tiles; "
                      "the README says how to get them", code=3)
    with only_one(folder):
        manifest = read_manifest(folder)
        todo = check_tiles(tiles, data, manifest, decoder)
        needed = sum(shape[0] * shape[1] * (shape[2] + 2) for _, _, shape in todo.values())
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise Problem(f"disk at {folder}: {free / 1e9:.1f} GB free, expected {needed / 1e9:.1f} GB for "
                          f"{len(todo)} tiles; free some space", code=4)
        for tile, (files, hashes, shape) in todo.items():
            row = prepare_tile(tile, files, hashes, shape, data, decoder)
            manifest["tiles"][tile] = row
            with replacing(folder / "manifest.json") as temporary:
                temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
            pixels, total = row["pixels"]["labels"], shape[0] * shape[1]
            print(f"{tile:>12}  prepared; labels repaired {100 * pixels['repaired'] / total:.2f} %, "
                  f"ignored {100 * pixels['ignored'] / total:.2f} %, unknown {100 * pixels['unknown'] / total:.2f} %",
                  flush=True)
        check_roles(settings["split"], manifest)
    print(f"{len(tiles) - len(todo)} tiles were prepared already, {len(todo)} are new: {folder}{os.sep}manifest.json")


if __name__ == "__main__":
    command(main, __doc__)
