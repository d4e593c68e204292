"""Raw tiles and other rasters: where they lie (below data.raw, in folders or zip archives, or wherever a path
leads), and whether they are fit."""
import contextlib
import functools
import glob
import itertools
import os
import re
from pathlib import Path

from base.blocks import raster_of, rasters_of
from base.files import sha256
from base.keys import BESIDE, TILE
from base.names import read_list
from base.patterns import PATTERNS, archives, fill, find_raw, usual_paths
from base.problem import Problem, shown
from base.settings import all_tiles, count_bands, is_drawn
from base.zips import is_file, written
from imagery.areas import check_area
from imagery.formats import OTHERS, SUFFIXES, absence, is_of_folder, what_is
from imagery.grids import described, find_place
from imagery.ground import Grid, georeference
from imagery.label_sources import check_labels
from imagery.rasters import check_bands, open_raster, reading, scales, validity
from imagery.remote import address_of, check_address
from imagery.tiles import made_with
from imagery.virtual import members_of, parts_of

WORLD_FILES = (".tfw", ".tifw", ".pgw", ".pngw", ".jgw", ".jpgw", ".jpegw", ".j2w", ".wld", ".tab", ".prj")
PARTS = ".hdr", ".ige"  # of an ENVI raster and of a large .img
MASK, AUXILIARY = ".msk", ".aux.xml"  # which pixels of a raster have data; what GDAL was told of it
CHANGES = "-wal"  # of a GeoPackage that a program has open
SHAPEFILE = ".shx", ".dbf", ".cpg"  # what belongs to a .shp, beside its .prj
RPCS = ".rpb", "_rpc.txt"  # what says where a raster lies, beside these
ASIDE = (*WORLD_FILES, *RPCS, *PARTS, MASK, AUXILIARY, ".ovr", ".xml", ".aux", ".rrd", ".imd", ".qpj", ".qml",
         ".sld")
DECISIVE = re.compile(r"<(NoDataValue|ColorInterp|ColorTable|SRS|GeoTransform|GCPList)\b.*?</\1>|"
                      '<Metadata domain="RPC".*?</Metadata>', re.DOTALL)


def watched_files(settings):
    """Every file below data.raw that the settings may name (rasters, what beside them says where they lie or
    have data, archives): {path: None} where its bytes count, {path: text} of an .aux.xml, whose statistics
    make no difference. One that holds nothing else is left out."""
    data, rasters = settings["data"], {}
    patterns = [data[key] for key in PATTERNS.values() if data[key]]
    for tile, pattern in itertools.product(rasters_of(settings["split"]), patterns):
        for path in usual_paths(pattern, tile):
            folder, name = os.path.split(path)
            rasters.setdefault(folder, {})[name] = os.path.splitext(name)[0]
    files = archives(data["raw"])
    for folder, names in rasters.items():
        stems = set(names.values())
        files += [path for path in Path(data["raw"], folder).glob("*") if is_beside(path.name, names, stems)]
    for path in [path for path in files if path.suffix.lower() == ".vrt"]:
        with contextlib.suppress(Problem):  # prepare_data.py says what is wrong with it
            files += members_of(path, data["raw"])
    files = dict.fromkeys(filter(Path.is_file, files))
    for path in [path for path in files if path.name.endswith(AUXILIARY)]:
        text = path.read_text(encoding="utf-8", errors="replace")
        files[path] = "".join(part[0] for part in DECISIVE.finditer(text))
    files |= {path: "" for path in files if path.name.endswith(CHANGES) and not path.stat().st_size}
    return {path: text for path, text in files.items() if text != ""}


def is_beside(name, names, stems):
    """True where a file of this name is a raster of these names or, of their stems, goes with one."""
    ends = [ending for ending in (MASK, AUXILIARY, CHANGES) if name.endswith(ending)]
    if name in names or any(name.removesuffix(ending) in names for ending in ends):
        return True
    beside = *WORLD_FILES, *RPCS, *PARTS, *SHAPEFILE
    ends = [ending for ending in beside if name.endswith((ending, ending.upper()))]
    return any(name[: -len(ending)] in stems or name[: -len(ending)] in names for ending in ends)


def find_rasters(tile, settings):
    """[(name, path)] of a tile by name, of a raster by path, or of every raster in a folder, of a list file
    (@files.txt) or that a glob pattern names, whose names are None; Problem (exit 3) where there is none."""
    data, path, raster = settings["data"], Path(tile), raster_of(tile, settings["split"])
    if TILE[1](tile) and (paths := find_raw(data, "image", tile)):
        return [(tile, paths[0])]
    if raster != tile and (paths := find_raw(data, "image", raster)):
        check_block(tile, raster, settings["split"])
        return [(tile, paths[0])]
    if is_file(path):
        return [(None, path)]
    if address := address_of(tile):
        check_address(address, data["remote"])
        return [(None, path)]
    if tile.startswith("@"):
        return listed(Path(tile[1:]), settings)
    if glob.has_magic(tile) and not os.path.lexists(tile):
        fitting = filter(is_of_folder, map(Path, glob.iglob(tile, recursive=True)))
        if paths := sorted(fitting):
            return [(None, path) for path in paths]
        others = sorted(map(Path, glob.iglob(tile, recursive=True)))[:3]
        told = [f"{path}: {why_passed_over(path)}" for path in others]
        raise Problem(f"TILE {shown(tile)}: a pattern that fits no raster, expected one of rasters "
                      f"({', '.join(SUFFIXES)}); see its folder", *told, code=3)
    if not tile or not os.path.isdir(tile):
        reason = absence(tile) if os.path.lexists(tile) else "no such tile or file"
        raise Problem(f"TILE {shown(tile)}: {reason}, expected a tile whose image lies in "
                      f"{data['raw']} (such as {all_tiles(settings['split'])[-1]}) or the path of a "
                      "GeoTIFF", code=3)
    paths = sorted(path for path in path.iterdir() if is_of_folder(path))
    if not paths:
        raise Problem(f"TILE {shown(tile)}: a folder without rasters, expected files with one of the "
                      f"suffixes {', '.join(SUFFIXES)}", *passed_over(tile), code=3)
    return [(None, path) for path in paths]


def listed(path, settings):
    """As `find_rasters`, of every line of a list file: a path seen from the list's folder, a tile's name or a
    pattern. Problem (exit 3) that tells all lines that name no raster."""
    rasters, problems = {}, []
    for number, line in read_list(path):
        seen = near = os.path.join(path.parent, line)
        if not os.path.lexists(near):  # a pattern there, or a tile
            seen = os.path.join(glob.escape(str(path.parent)), line) if glob.has_magic(line) else line
        try:
            rasters |= dict.fromkeys(find_rasters(seen, settings))
        except Problem as problem:
            problems += [f"{path}, line {number}: {text}" for text in problem.lines]
    if problems or not rasters:
        raise Problem(*problems or [f"list file {path}: no line, expected a raster a line"], code=3)
    return list(rasters)


def check_block(tile, raster, split):
    """Problem (exit 3) where a raster has no block of this name that has a role."""
    if is_drawn(split) and tile not in all_tiles(split):
        raise Problem(f"TILE {shown(tile)}: no block of {raster} with a role, expected one of split in "
                      f"data.prepared/blocks.json, or {raster}, the whole", code=3)


def passed_over(folder):
    """Yields a line for each kind of entry of a folder that is no raster of it and does not go with one.
    Hidden ones are not looked at."""
    entries = sorted(path for path in Path(folder).iterdir() if not path.name.startswith("."))
    owners = {name for path in entries if is_of_folder(path) for name in (path.name, path.stem)}
    kinds = {}
    for path in entries:
        ends = [ending for ending in ASIDE if path.name.lower().endswith(ending)]
        if not is_of_folder(path) and not any(path.name[: -len(ending)] in owners for ending in ends):
            kinds.setdefault(path.suffix.lower() if path.is_file() else absence(path), []).append(path)
    for paths in kinds.values():
        more = f", ... ({len(paths)} of them)" if len(paths) > 3 else ""
        yield f"passed over: {', '.join(path.name for path in paths[:3])}{more}: {why_passed_over(paths[0])}"


def why_passed_over(path):
    """Why an entry of a folder is not predicted with it, and what to do."""
    if path.is_dir():
        return "a folder, expected rasters; for those inside it give it as TILE"
    if not path.is_file():
        return f"{absence(path)}, expected a raster"
    try:
        driver, wrong = what_is(path)
    except Problem as problem:
        return str(problem)
    return wrong or f"a {driver} by its content, expected a suffix of {', '.join(SUFFIXES)}; rename it"


def check_name(path):
    """Problem (exit 3) where a raster's map would take the name of a file beside another map."""
    if Path(path.stem).suffix in BESIDE:
        raise Problem(f"TILE {shown(str(path))}: a name that ends in {Path(path.stem).suffix}, as files "
                      "beside a map do, expected another; rename it", code=3)


def is_image_of(path, tiles, data):
    """True where a file is the image of one of these tiles."""
    try:
        images = itertools.chain(*(find_raw(data, "image", tile) for tile in tiles))
        return path.resolve() in [image.resolve() for image in images]
    except Problem:  # of a damaged archive
        return False


def why_missing(key, tile, data):
    """Why no file of the pattern data[key] was found, and what to do, as text."""
    inner = Path(fill(data[key], tile))
    path = Path(data["raw"]) / inner
    if os.path.lexists(path):
        return f"{path} is {absence(path)}, expected a file; mend it or take {tile} out of split"
    suffixes = *OTHERS, *SUFFIXES
    for other in map(path.with_suffix, (*suffixes, *map(str.upper, suffixes))):
        if other.is_file():
            what = what_is(other)[1] or f"rename it, or name it in data.{key}"
            return f"no file, expected {path}; {other.name} lies there: {what}"
    return (f"no file, expected {path}, or {path.name} in {inner.parent.name or 'an archive'}.zip there; add "
            f"it or take {tile} out of split")


def find_files(tile, data):
    """({"image", "extra", "labels", "eroded", "area": path}, problems) of a tile's raw files."""
    files, problems = {}, []
    for kind, key in PATTERNS.items():
        paths, wrong = find_raw(data, key, tile), None
        taken = [other for other in ("image", "extra") if files.get(other) in paths and kind != "extra"]
        if len(paths) > 1:
            wrong = f"found as {paths[0]} and {paths[1]}, expected one; remove one"
        elif taken:
            wrong = f"{paths[0]} is its {taken[0]}, expected another file; see data.{key}"
        elif paths:
            files[kind] = paths[0]
        elif data[key] and kind != "eroded":
            wrong = why_missing(key, tile, data)
        if wrong:
            problems.append(f"tile {tile}, {kind}: {wrong}")
    return files, problems


def hash_files(files, raw):
    """{kind: {"path", "sha256"}} of a tile's raw files, {kind: path}, and of masks, a shapefile's other
    files beside them and what else they consist of. `raw`: data.raw."""
    beside = {f"{kind} mask": path.with_name(path.name + MASK) for kind, path in files.items()}
    for kind, path in files.items():
        endings = (*SHAPEFILE, ".prj") if path.suffix.lower() == ".shp" else ()
        for ending in endings:
            pair = [path.with_suffix(each) for each in (ending, ending.upper())]
            beside[f"{kind} {ending[1:]}"] = next(filter(is_file, pair), pair[0])
        beside.update((f"{kind} part {n}", part) for n, part in enumerate(parts_of(path, raw)))
    every = {**files, **{kind: path for kind, path in beside.items() if is_file(path)}}
    return {kind: {"path": str(path), "sha256": digest_of(path)} for kind, path in every.items()}


def digest_of(path):
    """As `sha256`; a file of the labels of many tiles is read once."""
    return _digest(path, written(path))


@functools.lru_cache(maxsize=2**12)
def _digest(path, *_):
    return sha256(path)


def read_header(tile, files, data):
    """(header, problems) of a tile's files, without reading pixels. The header is None where the image cannot
    be read, else all that the manifest says of the tile before: {"shape": [H, W, B], "dtype", "georeference",
    "made_with", "validity": {kind: text}, "grids": {kind: as of `imagery.grids.described`}}."""
    header, grid, problems = None, None, []
    for kind, path in files.items():
        try:
            with reading(path):
                if kind == "image":
                    header, wrong = read_image_header(path, data)
                    grid = Grid(*header["shape"][:2], header["georeference"], path)
                else:
                    check = {"extra": check_extra, "area": check_area}.get(kind, check_labels)
                    told, place, wrong = check(kind, path, grid, data)
                    if header:
                        header["validity"][kind] = told
                        header["grids"] |= {kind: place} if place else {}
            problems += [f"tile {tile}, {kind} in {path}: {line}" for line in wrong]
        except Problem as problem:
            problems += problem.lines
    return header, problems


def read_image_header(path, data):
    """(header, why it cannot be used) of a tile's image, as of `read_header`."""
    with open_raster(path, data["raw"]) as raster:
        wrong = check_bands(raster, data["bands"], scales(data), f"data.bands: {data['bands']}")
        header = {"shape": [raster.height, raster.width, count_bands(data)],
                  "dtype": raster.dtypes[0], "made_with": made_with(data),
                  "validity": {"image": validity(raster)}, "grids": {},
                  "georeference": georeference(raster, path, data["assume_crs"])}
    return header, [wrong] if wrong else []


def check_extra(kind, path, grid, data):
    """As `imagery.label_sources.check_labels`, of the extra raster."""
    with open_raster(path, data["raw"]) as raster:
        wrong = check_bands(raster, [1], scales(data)[-1:], "data.extra")
        place, off = find_place(raster, path, grid, data["assume_crs"]) if grid else (None, None)
        problems = [line for line in (wrong, off) if line]
        return validity(raster), described(place, grid, kind) if place else None, problems
