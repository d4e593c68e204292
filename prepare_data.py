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
import os
import shutil
from pathlib import Path

import numpy as np

from base.blocks import note, record_of, uncut
from base.code import code_of
from base.command import command, progress
from base.files import only_one, replacing, sha256
from base.problem import Problem, shown
from base.settings import all_tiles, is_drawn
from imagery.audits import Audit, Source, opened, read_tile
from imagery.blocks import begin_row, describe_blocks, draw, read_block
from imagery.collars import advice
from imagery.formats import command_to
from imagery.grids import in_words
from imagery.ground import check_crs
from imagery.labels import build_decoder
from imagery.leaks import check_guards, check_pixels, check_places, without_place
from imagery.raw_tiles import find_files, hash_files, read_header
from imagery.roles import doubts
from imagery.scales import check_scale
from imagery.tiles import check_roles, manifest_text, open_prepared, pixel_bytes, read_manifest

OF_BLOCK = "files", "pixels_sha256", "blocks", "classes", "cells"  # of the manifest: a block's own


def write_tile(tile, source, data, decoder, passed):
    """Writes a tile's arrays, as `write_arrays` does. Returns the tile's row of the manifest."""
    audit = Audit(source.header["shape"], [kind for kind in ("labels", "eroded") if kind in source.files])
    kinds = [kind for kind in ("pixels", "eroded") if kind == "pixels" or kind in source.files]
    shapes = {kind: shape_of(kind, source.header["shape"]) for kind in kinds}
    strips = read_tile(source, data, decoder, audit)
    files = write_arrays(data["prepared"], tile, shapes, strips, passed)
    return {**source.header, "raw": source.raw, "files": files, **audit.row(data["classes"])}


def write_blocks(blocks, rows, data, passed):
    """Writes the arrays of some blocks, as `write_arrays` does. Returns {block: its row of the manifest};
    `rows`: as of `begin_row`."""
    tiles, written = {}, {}
    for block in blocks:
        raster = rows[block]["cut"]["raster"]
        if raster not in tiles:
            tiles[raster] = open_prepared(data, raster, checked=False)
        written[block] = write_block(block, rows[block], tiles[raster], data, passed)
        progress(f"{raster:>12}  {len(written)} of {len(blocks)} blocks written")
    return written


def write_block(block, row, tile, data, passed):
    """The same of a block of a prepared Tile."""
    window = row["cut"]["window"]
    audit = Audit([*window, tile.bands], [])  # the window: blocks of one colour are not the same
    shapes = {kind: shape_of(kind, row["shape"]) for kind in row["files"]}
    strips = read_block(tile, window, audit, len(data["classes"]))
    files = write_arrays(data["prepared"], block, shapes, strips, passed)
    own = {"files": files, **audit.row(data["classes"])}
    return {**row, **{key: own[key] for key in OF_BLOCK}}


def shape_of(kind, shape):
    """The shape of a tile's array, "pixels" or "eroded"; `shape`: height, width and bands of the tile."""
    height, width, bands = shape
    return (height, width, pixel_bytes(bands)) if kind == "pixels" else (height, width)


def write_arrays(folder, tile, shapes, strips, passed):
    """Writes a tile's arrays (uint8) of these shapes from strips of rows, {kind: rows} each, under temporary
    names, which become their own when the ExitStack `passed` is left without an error. Returns {kind:
    {"name", "sha256"}}."""
    names = {kind: f"{tile}.{kind}.npy" for kind in shapes}
    temporaries = {kind: passed.enter_context(replacing(Path(folder) / name)) for kind, name in names.items()}
    with contextlib.ExitStack() as opened:
        arrays = {kind: opened.enter_context(open(path, "wb")) for kind, path in temporaries.items()}
        for kind, shape in shapes.items():
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(arrays[kind], header)
        for rows in strips:
            for kind, pixels in rows.items():
                arrays[kind].write(np.ascontiguousarray(pixels))
    return {kind: {"name": name, "sha256": sha256(temporaries[kind])} for kind, name in names.items()}


def check_unknown(tile, files, row, max_unknown):
    """A line for each label file with more pixels of no known class than data.max_unknown allows."""
    for kind, pixels in row["pixels"].items():
        share = pixels["unknown"] / (row["shape"][0] * row["shape"][1])
        if share > max_unknown:
            most = list(pixels["unknown_colours"].items())[:3]
            of_polygons = pixels["layout"] == "polygons"
            often = ", ".join(f"{shown(value) if of_polygons else value} ({n})" for value, n in most)
            number, hint = most[0][0], ("see data.classes, data.label_values, data.ignore_colours, "
                                        "data.tolerance and data.max_unknown")
            can_be_named = of_polygons or number[0] == "#" or 0 <= float(number) <= 0xFFFF
            if not can_be_named:
                command = command_to(f"gdal_translate -a_nodata {number}", files[kind])
                hint = f"if {number} is no label, say so in the file, and put that in its place: {command}"
            yield (f"tile {tile}, {kind} in {files[kind]}: {100 * share:.2f} % of pixels have no known "
                   f"colour or value (most often {often}), expected at most {100 * max_unknown:g} %; {hint}")



def summary(tile, row, scale):
    """A line that says what is in a tile."""
    (height, width), labels = row["shape"][:2], row["pixels"]["labels"]
    unusual = [f"{kind} {layout_in_words(pixels)}" for kind, pixels in row["pixels"].items()
               if pixels["layout"] not in ("painted", "values")]
    counts = {"labels repaired": labels["repaired"], "ignored": labels["ignored"],
              "unknown": labels["unknown"], "image without data": row["nodata"]}
    if scale:
        counts["a band outside data.scale"] = max(row["outside_scale"])
    if row["made_with"]["area"]:
        counts["outside data.area"] = row["outside_area"]
    shares = [f"{name} {100 * count / (height * width):.2f} %" for name, count in counts.items()]
    moved = [f"{kind} {in_words(place)}, {100 * row['off_grid'][kind] / (height * width):.2f} % outside"
             for kind, place in row["grids"].items()]
    return f"{tile:>12}  {height} x {width} px; {', '.join([*unusual, *moved, *shares])}"


def layout_in_words(pixels):
    """How labels are drawn, as text; of polygons what is odd among them."""
    if pixels["layout"] != "polygons":
        return pixels["layout"]
    odd = {"that cross themselves": pixels["crossed"],
           "of unknown values": sum(pixels["unknown_values"].values()),
           **{f"dropped as {why}": count for why, count in pixels["dropped"].items()}}
    told = [f"{count} {what}" for what, count in odd.items() if count]
    if pixels["overlaps"]:
        told.append(f"{pixels['overlaps']} px in several classes")
    return f"{pixels['polygons']} polygons" + (f" ({', '.join(told)})" if told else "")


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


def check_drawn(audited):
    """A line where no image has one of the polygons that labels are drawn as: all would be background."""
    labels = {tile: row["pixels"]["labels"] for tile, row in audited.items()}
    drawn = {tile: pixels["polygons"] for tile, pixels in labels.items() if pixels["layout"] == "polygons"}
    if drawn and not any(drawn.values()):
        yield (f"labels of {', '.join(list(drawn)[:3])}: no polygon on any image, expected some; see "
               "data.label and the coordinate systems (are x and y, or longitude and latitude, swapped?)")


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
        raise Problem(*dict.fromkeys(problems), code=3)  # a file of many tiles is wrong once
    if unplaced := without_place(headers):
        names = ", ".join(unplaced[:3]) + (", ..." if len(unplaced) > 3 else "")
        print(f"{len(unplaced)} tiles have no place on the ground ({names}): only their pixels tell whether "
              "roles share ground", flush=True)
    return {tile: Source(files[tile], header, hash_files(files[tile], data["raw"]))
            for tile, header in headers.items()}


def is_prepared(row, source, data):
    """True where a manifest row stands for these raw bytes, this header and code, and its files are whole."""
    if row is None or any(row.get(key) != value for key, value in source.header.items()):
        return False
    before, now = ({kind: raw["sha256"] for kind, raw in every.items()} for every in (row["raw"], source.raw))
    return before == now and is_whole(row, data)


def is_whole(row, data):
    """True where the files of a manifest row are those that it names."""
    files = [(Path(data["prepared"]) / file["name"], file["sha256"]) for file in row["files"].values()]
    return all(path.is_file() and sha256(path) == digest for path, digest in files)


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
        problems += [*check_layouts(audited, data), *check_drawn(audited)]
        problems += (check_scale(data, audited, lambda tile: opened(sources[tile], data))
                     or check_pixels(split, audited, data["allow_overlap"]))  # squeezed, all pixels are alike
        if problems:
            raise Problem(*problems, code=3)
        check_roles(split, {"tiles": audited})
    return audited


def cut(settings, audited):
    """(the section split with the names of blocks, {tile: row}) of tiles that are prepared whole (`audited`).
    The blocks of split.blocks are drawn and, where they do not stand, written; which they are is noted."""
    data, asked, allowed = settings["data"], settings["split"], settings["data"]["allow_overlap"]
    split, cuts = draw(asked, data, uncut(asked)["train"])
    whole = {tile: audited[tile] for tile in all_tiles(split) if tile not in cuts}
    rows = {**whole, **{block: begin_row(one, audited[one["raster"]]) for block, one in cuts.items()}}
    if problems := [*check_places(split, rows, allowed), *check_guards(split, rows)]:
        raise Problem(*problems, code=3)
    before = read_manifest(data["prepared"])["tiles"]
    standing = {block: before[block] for block in cuts if stands(before.get(block), rows[block], data)}
    new = [block for block in cuts if block not in standing]
    check_disk(data["prepared"], [rows[block] for block in new])
    with contextlib.ExitStack() as passed:
        rows |= {**standing, **write_blocks(new, rows, data, passed)}
        if problems := list(check_pixels(split, rows, allowed)):
            raise Problem(*problems, code=3)
        if new:
            record_of(settings).unlink(missing_ok=True)  # roles of other pixels
    if new:
        write_manifest(data["prepared"], {**before, **rows})
    if not is_drawn(asked):
        note(settings, split)
    for line in describe_blocks(split, audited, rows):
        print(line, flush=True)
    return split, rows


def stands(before, row, data):
    """True where a block's row of the manifest begins as `row` does, and its files are whole."""
    same = before and all(before.get(key) == value for key, value in row.items() if key not in OF_BLOCK)
    return bool(same) and is_whole(before, data)


def write_manifest(folder, rows):
    with replacing(Path(folder) / "manifest.json") as temporary:
        temporary.write_text(manifest_text(rows), encoding="utf-8")


def main(settings, run):
    data, split, folder = settings["data"], settings["split"], Path(settings["data"]["prepared"])
    if data["assume_crs"] is not None:
        check_crs(data["assume_crs"])
    if not Path(data["raw"]).is_dir():
        raise Problem(f"data folder {data['raw']} (data.raw): not found, expected the folder with the "
                      "unzipped tiles; the README says how to get them", code=3)
    with only_one(folder, of_tiles=[""]):
        whole = uncut(split)
        before, sources = read_manifest(folder)["tiles"], find_sources(whole, data)
        rows = {tile: before[tile] for tile, source in sources.items()
                if is_prepared(before.get(tile), source, data)}
        check_disk(folder, [source.header for tile, source in sources.items() if tile not in rows])
        audited = prepare(whole, data, sources, rows)
        if len(rows) < len(audited):
            write_manifest(folder, {**before, **audited})
        new = len(audited) - len(rows)
        if split.get("blocks"):
            split, audited = cut(settings, audited)
    for doubt in doubts(split, audited):
        progress(f"warning: {doubt}", last=True)
    print(f"{len(rows)} tiles were prepared already, {new} are new: {folder}{os.sep}manifest.json")


if __name__ == "__main__":
    command(main, __doc__)
