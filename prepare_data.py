"""Raw tiles to checked, class-indexed tiles and a manifest that audits them.

    python prepare_data.py --params demo.yaml

Reads data.raw: images and labels in the official folders, as they unzip, or the official .zip files. Writes
to data.prepared, for each tile of the split, <tile>.pixels.npy (uint8 [H, W, bytes]: the bands, the class
index, zeros), <tile>.eroded.npy where official eroded labels exist, and manifest.json: what it was made from,
the pixels of each class, in all and in squares of 128 px, and what was repaired, ignored or without data.

Tiles are written under temporary names and take their own when all have passed; else everything that is
wrong is listed (exit 3), also tiles of different roles on the same ground and two tiles of the same pixels.
A tile already prepared from the same bytes with the same settings is left alone. Rasters are read by bands of
rows: memory does not depend on their height. A 6000 x 6000 tile takes about 2 s.
"""
import contextlib
import hashlib
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from base.code import code_of
from base.command import command, progress
from base.files import only_one, replacing, sha256
from base.problem import Problem
from base.settings import all_tiles
from imagery.arrays import IGNORE, strips
from imagery.collars import Collar, advice, likely_collar
from imagery.formats import command_to
from imagery.ground import check_crs
from imagery.label_rasters import LabelReader
from imagery.labels import OUTCOMES, build_decoder
from imagery.leaks import check_pixels, check_places, digest_blocks, without_place
from imagery.rasters import Layers, open_raster, scales
from imagery.raw_tiles import find_files, hash_files, read_header
from imagery.roles import doubts
from imagery.scales import check_scale, levels_of
from imagery.tiles import check_roles, count_cells, manifest_text, pack, pixel_bytes, read_manifest


class Source(NamedTuple):
    """A raw tile: {kind: path}, its header as of `read_header`, its paths and hashes as of `hash_files`."""
    files: dict
    header: dict
    raw: dict


class Audit:
    """What the manifest says of a tile's pixels, gathered from its strips of rows."""

    def __init__(self, shape, kinds):
        self.digest, self.outside, self.levels = hashlib.sha256(str(shape).encode()), [], []
        self.nodata, self.collar, self.cells, self.blocks = 0, None, [], []
        self.outcomes = {kind: np.zeros(len(OUTCOMES), np.int64) for kind in kinds}
        self.unknown = {kind: Counter() for kind in kinds}
        self.readers = {}

    def add_image(self, image, valid):
        self.digest.update(image)
        self.nodata += valid.size - np.count_nonzero(valid)
        self.blocks.append(digest_blocks(image, valid))

    def add_labels(self, kind, outcomes, unknown):
        self.outcomes[kind] += outcomes
        self.unknown[kind].update(unknown)
        if len(self.unknown[kind]) > 2**17:  # a photograph in a label's place: keep its most frequent colours
            self.unknown[kind] = Counter(dict(self.unknown[kind].most_common(2**12)))

    def row(self, classes):
        cells = np.concatenate(self.cells)
        pixels = {kind: dict(zip(OUTCOMES, outcomes.tolist())) for kind, outcomes in self.outcomes.items()}
        for kind, unknown in self.unknown.items():
            pixels[kind]["unknown_colours"] = dict(unknown.most_common(5))
        for kind, reader in self.readers.items():
            pixels[kind] |= {"layout": str(reader.layout), "hidden": dict(+reader.hidden)}
        return {"nodata": int(self.nodata), "likely_collar": self.collar,
                "outside_scale": self.outside, "levels": self.levels, "pixels": pixels,
                "pixels_sha256": self.digest.hexdigest(),
                "blocks": np.unique(np.concatenate(self.blocks)).tobytes().hex(),
                "classes": dict(zip(classes, cells.sum((0, 1)).tolist())), "cells": cells.tolist()}


@contextlib.contextmanager
def opened(source, data):
    """({kind: open raster}, the Layers of image and extra raster) of a raw tile."""
    with contextlib.ExitStack() as opened:
        rasters = {kind: opened.enter_context(open_raster(path)) for kind, path in source.files.items()}
        image, bands, nodata = rasters["image"], data["bands"], data["nodata"]
        collar = None if nodata is None else Collar(image, bands, nodata)
        yield rasters, Layers(image, rasters.get("extra"), bands, scales(data), collar)


def read_tile(source, data, decoder, audit):
    """Yields a tile by strips of rows, {"pixels": uint8 [rows, W, pixel_bytes], and perhaps "eroded": uint8
    [rows, W]}, and adds them to its audit. Pixels without data in the image become IGNORE in the labels."""
    with opened(source, data) as (rasters, layers):
        if not layers.collar and (likely := likely_collar(rasters["image"], data["bands"])):
            audit.collar = [likely.nodata, likely.share]
        audit.readers = {kind: LabelReader(rasters[kind], data, decoder) for kind in audit.outcomes}
        for start, stop in strips(*layers.shape):  # of whole cells
            image, valid = layers.read(start, stop)
            audit.add_image(image, valid)
            labels = {}
            for kind, reader in audit.readers.items():
                labels[kind], *counts = reader.read(start, stop)
                labels[kind][~valid] = IGNORE
                audit.add_labels(kind, *counts)
            audit.cells.append(count_cells(labels["labels"], len(data["classes"])))
            yield {"pixels": pack(image, labels.pop("labels")), **labels}
        audit.outside, audit.levels = layers.outside.tolist(), list(map(levels_of, layers.histograms))


def write_tile(tile, source, data, decoder, passed):
    """Writes a tile's arrays under temporary names, which become their own when the ExitStack `passed` is
    left without an error. Returns the tile's row of the manifest."""
    height, width, bands = source.header["shape"]
    shapes = {"pixels": (height, width, pixel_bytes(bands))}
    if "eroded" in source.files:
        shapes["eroded"] = (height, width)
    names = {kind: f"{tile}.{kind}.npy" for kind in shapes}
    folder = Path(data["prepared"])
    temporaries = {kind: passed.enter_context(replacing(folder / name)) for kind, name in names.items()}
    audit = Audit(source.header["shape"], [kind for kind in ("labels", "eroded") if kind in source.files])
    with contextlib.ExitStack() as opened:
        arrays = {kind: opened.enter_context(open(path, "wb")) for kind, path in temporaries.items()}
        for kind, shape in shapes.items():
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(arrays[kind], header)
        for rows in read_tile(source, data, decoder, audit):
            for kind, pixels in rows.items():
                arrays[kind].write(np.ascontiguousarray(pixels))
    files = {kind: {"name": name, "sha256": sha256(temporaries[kind])} for kind, name in names.items()}
    return {**source.header, "raw": source.raw, "files": files, **audit.row(data["classes"])}


def check_unknown(tile, files, row, max_unknown):
    """A line for each label file with more pixels of no known class than data.max_unknown allows."""
    for kind, pixels in row["pixels"].items():
        share = pixels["unknown"] / (row["shape"][0] * row["shape"][1])
        if share > max_unknown:
            most = list(pixels["unknown_colours"].items())[:3]
            often = ", ".join(f"{colour} ({n})" for colour, n in most)
            number, hint = most[0][0], ("see data.classes, data.label_values, data.ignore_colours, "
                                        "data.tolerance and data.max_unknown")
            if number[0] != "#" and not 0 <= float(number) <= 0xFFFF:  # which no setting can name
                command = command_to(f"gdal_translate -a_nodata {number}", files[kind])
                hint = f"if {number} is no label, say so in the file, and put that in its place: {command}"
            yield (f"tile {tile}, {kind} in {files[kind]}: {100 * share:.2f} % of pixels have no known "
                   f"colour or value (most often {often}), expected at most {100 * max_unknown:g} %; {hint}")



def summary(tile, row, scale):
    """A line that says what is in a tile."""
    (height, width), labels = row["shape"][:2], row["pixels"]["labels"]
    unusual = [f"{kind} {pixels['layout']}" for kind, pixels in row["pixels"].items()
               if pixels["layout"] not in ("painted", "values")]
    counts = {"labels repaired": labels["repaired"], "ignored": labels["ignored"],
              "unknown": labels["unknown"], "image without data": row["nodata"]}
    if scale:
        counts["a band outside data.scale"] = max(row["outside_scale"])
    shares = [f"{name} {100 * count / (height * width):.2f} %" for name, count in counts.items()]
    return f"{tile:>12}  {height} x {width} px; {', '.join([*unusual, *shares])}"


def check_layouts(audited, data):
    """A line where some labels of three or four classes were read as paint and others as one-hot: without a
    pixel of one class as many bands could be either."""
    tiles = {}
    for tile, row in audited.items():
        for kind, pixels in row["pixels"].items():
            tiles.setdefault(pixels["layout"].split()[0], []).append(f"{tile} ({kind})")
    if len(data["classes"]) in (3, 4) and {"painted", "one-hot"} <= set(tiles):
        yield (f"labels of {', '.join(tiles['painted'][:3])}: painted, while those of "
               f"{', '.join(tiles['one-hot'][:3])} are one-hot, expected all alike; write one-hot labels as "
               "0 and 1 (gdal_translate -scale 0 255 0 1)")


def find_sources(split, data):
    """{tile: Source} of every tile. Problem (exit 3) lists all that is wrong in names, headers and places."""
    files, headers, problems, code = {}, {}, [], code_of("prepare_data.py")
    for tile in all_tiles(split):
        files[tile], missing = find_files(tile, data)
        header, wrong = read_header(tile, files[tile], data)
        problems += missing + wrong
        if header:
            headers[tile] = {**header, "code": code}
    problems += check_places(split, headers, data["allow_overlap"])
    if problems:
        raise Problem(*problems, code=3)
    if unplaced := without_place(headers):
        names = ", ".join(unplaced[:3]) + (", ..." if len(unplaced) > 3 else "")
        print(f"{len(unplaced)} tiles have no place on the ground ({names}): only their pixels tell whether "
              "roles share ground", flush=True)
    return {tile: Source(files[tile], header, hash_files(files[tile])) for tile, header in headers.items()}


def is_prepared(row, source, data):
    """True where a manifest row stands for these raw bytes, this header and code, and its files are whole."""
    if row is None or any(row.get(key) != value for key, value in source.header.items()):
        return False
    before, now = ({kind: raw["sha256"] for kind, raw in every.items()} for every in (row["raw"], source.raw))
    files = [(Path(data["prepared"]) / file["name"], file["sha256"]) for file in row["files"].values()]
    return before == now and all(path.is_file() and sha256(path) == digest for path, digest in files)


def check_disk(folder, headers):
    """Problem (exit 4) where the prepared tiles of these headers would not fit the disk."""
    shapes = [header["shape"] for header in headers]
    needed = sum(rows * cols * (pixel_bytes(bands) + 1) for rows, cols, bands in shapes)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise Problem(f"disk at {folder}: {free / 1e9:.1f} GB free, expected {needed / 1e9:.1f} GB for "
                      f"{len(shapes)} tiles; free some space, or see whether the tiles are as large as they "
                      "say", code=4)


def prepare(split, data, sources, rows):
    """{tile: row} of every tile. `rows` holds those that are prepared; the others are written, and take their
    names when all tiles are as they should be; else Problem (exit 3) lists all that is wrong in them."""
    decoder, audited, problems = build_decoder(data), {}, []
    with contextlib.ExitStack() as passed:
        for tile, source in sources.items():
            try:
                row = rows.get(tile) or write_tile(tile, source, data, decoder, passed)
            except Problem as problem:
                problems += problem.lines
                continue
            audited[tile] = row
            problems += check_unknown(tile, source.files, row, data["max_unknown"])
            if tile not in rows:
                print(summary(tile, row, data["scale"]), flush=True)
                if row["likely_collar"]:
                    print(f"warning: tile {tile}: {advice(*row['likely_collar'])}", flush=True)
        problems += check_layouts(audited, data)
        problems += (check_scale(data, audited, lambda tile: opened(sources[tile], data))
                     or check_pixels(split, audited, data["allow_overlap"]))  # squeezed, all pixels are alike
        if problems:
            raise Problem(*problems, code=3)
        check_roles(split, {"tiles": audited})
    return audited


def main(settings, run):
    data, split, folder = settings["data"], settings["split"], Path(settings["data"]["prepared"])
    if data["assume_crs"] is not None:
        check_crs(data["assume_crs"])
    if not Path(data["raw"]).is_dir():
        raise Problem(f"data folder {data['raw']} (data.raw): not found, expected the folder with the "
                      "unzipped tiles; the README says how to get them", code=3)
    with only_one(folder):
        before, sources = read_manifest(folder)["tiles"], find_sources(split, data)
        rows = {tile: before[tile] for tile, source in sources.items()
                if is_prepared(before.get(tile), source, data)}
        check_disk(folder, [source.header for tile, source in sources.items() if tile not in rows])
        audited = prepare(split, data, sources, rows)
        if len(rows) < len(audited):
            with replacing(folder / "manifest.json") as temporary:
                temporary.write_text(manifest_text({**before, **audited}), encoding="utf-8")
    for doubt in doubts(split, audited):
        progress(f"warning: {doubt}", last=True)
    print(f"{len(rows)} tiles were prepared already, {len(audited) - len(rows)} are new: "
          f"{folder}{os.sep}manifest.json")


if __name__ == "__main__":
    command(main, __doc__)
