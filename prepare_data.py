"""Raw tiles to checked, class-indexed tiles and a manifest that audits them.

    python prepare_data.py --params demo.yaml

Reads data.raw: images and labels in the official folders, as they unzip, or the official .zip files themselves.
Writes to data.prepared, for each tile of the split, <tile>.pixels.npy (uint8 [H, W, bytes]: the bands, then the
class index, then zeros), <tile>.eroded.npy where official eroded labels exist, and manifest.json: per tile size,
type, hashes, georeference, pixels of each class, in all and in each square of 128 px, and what was repaired,
ignored, unknown or without data.

Every tile is checked while it is written under a temporary name. When all tiles have passed they take their names;
before, all that is wrong is listed at once (exit 3). Tiles of different roles that show the same ground are refused,
and so are two tiles with the same pixels. A tile already prepared from the same bytes with the same settings is left
alone; tiles of an interrupted run are prepared again. Rasters are read once, by bands of rows: memory does not depend
on their height. A 6000 x 6000 tile takes about 3 s.
"""
import contextlib
import hashlib
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from base.command import command
from base.files import only_one, replacing, sha256
from base.problem import Problem
from base.settings import all_tiles
from imagery.arrays import IGNORE
from imagery.labels import OUTCOMES, build_decoder
from imagery.leaks import blocks_text, check_blocks, check_places, check_twins, digest_blocks, without_place
from imagery.rasters import Layers, check_crs, open_raster, reading, scales
from imagery.raw_tiles import find_files, read_header, with_masks
from imagery.tiles import CELL, check_roles, count_cells, made_with, manifest_text, pack, pixel_bytes, read_manifest

PIXELS_AT_ONCE = 2**22  # of a band of rows


class Source(NamedTuple):
    """A raw tile: its files {kind: path}, its header (`read_header`), the hashes of files and masks {kind: SHA-256}."""
    files: dict
    header: dict
    hashes: dict


# -- what is in a tile -------------------------------------------------------------------------------------

class Audit:
    """What the manifest says of a tile's pixels, gathered from its bands of rows."""

    def __init__(self, header, kinds):
        self.pixels, self.outside = hashlib.sha256(str(header["shape"]).encode()), np.zeros(header["shape"][2], int)
        self.nodata, self.cells, self.blocks = 0, [], []
        self.outcomes = {kind: np.zeros(len(OUTCOMES), np.int64) for kind in kinds}
        self.unknown = {kind: Counter() for kind in kinds}

    def add_image(self, image, outside, valid):
        self.pixels.update(image)
        self.outside += outside
        self.nodata += valid.size - np.count_nonzero(valid)
        self.blocks.append(digest_blocks(image, valid))

    def add_labels(self, kind, outcomes, unknown):
        self.outcomes[kind] += outcomes
        self.unknown[kind].update(unknown)
        if len(self.unknown[kind]) > 2**17:  # a photograph in a label's place: keep what could be the most frequent
            self.unknown[kind] = Counter(dict(self.unknown[kind].most_common(2**12)))

    def row(self, classes):
        """The tile's row of the manifest, as far as its pixels go."""
        cells = np.concatenate(self.cells)
        pixels = {kind: {**dict(zip(OUTCOMES, outcomes.tolist())),
                         "unknown_colours": dict(self.unknown[kind].most_common(5))}
                  for kind, outcomes in self.outcomes.items()}
        return {"nodata": int(self.nodata), "outside_scale": self.outside.tolist(), "pixels": pixels,
                "pixels_sha256": self.pixels.hexdigest(), "blocks": blocks_text(np.concatenate(self.blocks)),
                "classes": dict(zip(classes, cells.sum((0, 1)).tolist())), "cells": cells.tolist()}


def read_tile(source, data, decoder, audit):
    """Yields a tile's {"pixels": uint8 [rows, W, pixel_bytes], and perhaps "eroded": uint8 [rows, W]} by bands of rows,
    which are added to the audit. Pixels that are nodata in the image become IGNORE in the labels."""
    height, width = source.header["shape"][:2]
    rows = max(1, PIXELS_AT_ONCE // width // CELL) * CELL
    with contextlib.ExitStack() as stack:
        rasters = {kind: stack.enter_context(open_raster(path)) for kind, path in source.files.items()}
        layers = Layers(rasters["image"], rasters.get("extra"), data["bands"], scales(data))
        for start in range(0, height, rows):
            stop = min(start + rows, height)
            valid = layers.valid(start, stop)
            image, outside = layers.read(start, stop, valid)
            audit.add_image(image, outside, valid)
            labels = {}
            for kind in audit.outcomes:
                with reading(rasters[kind].name):
                    raw = rasters[kind].read(decoder.bands, window=((start, stop), (0, width)))
                labels[kind], *counts = decoder.decode(np.moveaxis(raw, 0, -1))
                labels[kind][~valid] = IGNORE
                audit.add_labels(kind, *counts)
            audit.cells.append(count_cells(labels["labels"], len(data["classes"])))
            yield {"pixels": pack(image, labels.pop("labels")), **labels}


# -- what a tile becomes -----------------------------------------------------------------------------------

class Array:
    """A uint8 array that is written to an open file (.npy) from its first byte to its last, and their SHA-256."""

    def __init__(self, file, shape):
        self.file, self.digest = file, hashlib.sha256()
        np.lib.format.write_array_header_1_0(self, {"descr": "|u1", "fortran_order": False, "shape": shape})

    def write(self, content):
        self.file.write(content)
        self.digest.update(content)


def write_tile(tile, source, data, decoder, passed):
    """Writes a tile's arrays under temporary names, which become their own when the ExitStack `passed` is left
    without an error. Returns the tile's row of the manifest."""
    height, width, bands = source.header["shape"]
    shapes = {"pixels": (height, width, pixel_bytes(bands)), "eroded": (height, width)}
    names = {kind: f"{tile}.{kind}.npy" for kind in shapes if kind == "pixels" or kind in source.files}
    audit = Audit(source.header, [kind for kind in ("labels", "eroded") if kind in source.files])
    with contextlib.ExitStack() as opened:
        arrays = {}
        for kind, name in names.items():
            temporary = passed.enter_context(replacing(Path(data["prepared"]) / name))
            arrays[kind] = Array(opened.enter_context(open(temporary, "wb")), shapes[kind])
        for rows in read_tile(source, data, decoder, audit):
            for kind, array in rows.items():
                arrays[kind].write(np.ascontiguousarray(array))
    raw = {kind: {"path": str(path), "sha256": source.hashes[kind]}
           for kind, path in with_masks(source.files).items()}
    files = {kind: {"name": name, "sha256": arrays[kind].digest.hexdigest()} for kind, name in names.items()}
    return {**source.header, "made_with": made_with(data), "raw": raw, "files": files, **audit.row(data["classes"])}


def check_unknown(tile, files, row, max_unknown):
    """A line for each label file with more pixels of no known class than data.max_unknown allows."""
    for kind, pixels in row["pixels"].items():
        share = pixels["unknown"] / (row["shape"][0] * row["shape"][1])
        if share > max_unknown:
            often = ", ".join(f"{colour} ({n})" for colour, n in list(pixels["unknown_colours"].items())[:3])
            yield (f"tile {tile}, {kind} in {files[kind]}: {100 * share:.2f} % of pixels have no known colour (most "
                   f"often {often}), expected at most {100 * max_unknown:g} %; see data.classes, data.label_values, "
                   "data.tolerance and data.max_unknown")


def summary(tile, row, scaled):
    """A line that says what is in a tile."""
    height, width = row["shape"][:2]
    labels, percent = row["pixels"]["labels"], 100 / (height * width)
    line = (f"{tile:>12}  {height} x {width} px; labels repaired {percent * labels['repaired']:.2f} %, ignored "
            f"{percent * labels['ignored']:.2f} %, unknown {percent * labels['unknown']:.2f} %; image without data "
            f"{percent * row['nodata']:.2f} %")
    return f"{line}, outside data.scale {percent * max(row['outside_scale']):.2f} % of a band" if scaled else line


# -- the step ----------------------------------------------------------------------------------------------

def find_sources(split, data):
    """{tile: Source} of every tile. Problem (exit 3) lists all that is wrong in names, headers and places."""
    files, headers, problems = {}, {}, []
    for tile in all_tiles(split):
        files[tile], missing = find_files(tile, data)
        headers[tile], wrong = read_header(tile, files[tile], data)
        problems += missing + wrong
    headers = {tile: header for tile, header in headers.items() if header}
    problems += check_places(split, headers, data["allow_overlap"])
    if problems:
        raise Problem(*problems, code=3)
    unplaced = without_place(headers)
    if unplaced:
        print(f"{len(unplaced)} tiles have no place on the ground ({', '.join(unplaced[:3])}"
              f"{', ...' if len(unplaced) > 3 else ''}): only their pixels tell whether roles share ground", flush=True)
    return {tile: Source(files[tile], header, {kind: sha256(path) for kind, path in with_masks(files[tile]).items()})
            for tile, header in headers.items()}


def is_prepared(row, source, data):
    """True where a manifest row stands for these raw bytes, this header and settings and its files are whole."""
    folder = Path(data["prepared"])
    return (row is not None and row["made_with"] == made_with(data)
            and all(row.get(key) == value for key, value in source.header.items())
            and row["classes"].keys() == data["classes"].keys()
            and {kind: raw["sha256"] for kind, raw in row["raw"].items()} == source.hashes
            and all((folder / file["name"]).is_file() and sha256(folder / file["name"]) == file["sha256"]
                    for file in row["files"].values()))


def check_disk(folder, headers):
    """Problem (exit 4) where the prepared tiles of these headers would not fit the disk."""
    needed = sum(rows * cols * (pixel_bytes(bands) + 1) for rows, cols, bands in (h["shape"] for h in headers))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise Problem(f"disk at {folder}: {free / 1e9:.1f} GB free, expected {needed / 1e9:.1f} GB for "
                      f"{len(headers)} tiles; free some space, or see whether the tiles are as large as they say", code=4)


def prepare(split, data, sources, manifest, new):
    """{tile: row} of every tile. Those of `new` are written, and take their names when all tiles are as they should
    be; else Problem (exit 3) lists all that is wrong in their pixels."""
    decoder, rows, problems = build_decoder(data), {}, []
    with contextlib.ExitStack() as passed:
        for tile, source in sources.items():
            try:
                row = write_tile(tile, source, data, decoder, passed) if tile in new else manifest["tiles"][tile]
            except Problem as problem:
                problems += problem.lines
                continue
            if tile in new:
                print(summary(tile, row, data["scale"]), flush=True)
            problems += check_unknown(tile, source.files, row, data["max_unknown"])
            rows[tile] = row
        problems += check_twins({tile: row["pixels_sha256"] for tile, row in rows.items()})
        problems += check_blocks(split, rows, {tile: row["blocks"] for tile, row in rows.items()}, data["allow_overlap"])
        if problems:
            raise Problem(*problems, code=3)
        check_roles(split, {"tiles": rows})
    return rows


def main(settings, run):
    data, split = settings["data"], settings["split"]
    if data["assume_crs"] is not None:
        check_crs(data["assume_crs"])
    folder = Path(data["prepared"])
    if not Path(data["raw"]).is_dir():
        raise Problem(f"data folder {data['raw']} (data.raw): not found, expected the folder with the unzipped tiles; "
                      "the README says how to get them", code=3)
    with only_one(folder):
        manifest, sources = read_manifest(folder), find_sources(split, data)
        new = [tile for tile, source in sources.items() if not is_prepared(manifest["tiles"].get(tile), source, data)]
        check_disk(folder, [sources[tile].header for tile in new])
        rows = prepare(split, data, sources, manifest, new)
        if new:
            with replacing(folder / "manifest.json") as temporary:
                temporary.write_text(manifest_text({**manifest["tiles"], **rows}), encoding="utf-8")
    print(f"{len(sources) - len(new)} tiles were prepared already, {len(new)} are new: {folder}{os.sep}manifest.json")


if __name__ == "__main__":
    command(main, __doc__)
