"""Raw tiles and other rasters: where they lie (below data.raw, in folders or zip archives, or wherever a path
leads), and whether they are fit."""
import itertools
import os
import re
from pathlib import Path

from base.files import sha256
from base.keys import BESIDE, TILE
from base.problem import Problem, shown
from base.settings import all_tiles, count_bands
from base.zips import is_file, members
from imagery.formats import OTHERS, SUFFIXES, absence, command_to, what_is
from imagery.ground import georeference, off_its_image
from imagery.label_rasters import check_label
from imagery.rasters import check_bands, open_raster, reading, scales, validity
from imagery.tiles import made_with

PATTERNS = {"image": "image", "extra": "extra", "labels": "label", "eroded": "eroded_label"}  # keys of data
WORLD_FILES = (".tfw", ".tifw", ".pgw", ".pngw", ".jgw", ".jpgw", ".jpegw", ".wld", ".tab", ".prj")
MASK, AUXILIARY = ".msk", ".aux.xml"  # which pixels of a raster have data; what GDAL was told of it
TO_SIZE = "gdal_translate -r nearest -outsize"
RPCS = ".rpb", "_rpc.txt"  # what says where a raster lies, beside these
ASIDE = (*WORLD_FILES, *RPCS, MASK, AUXILIARY, ".ovr", ".xml", ".aux", ".rrd", ".imd", ".qpj", ".qml", ".sld")
DECISIVE = re.compile(r"<(NoDataValue|ColorInterp|ColorTable|SRS|GeoTransform|GCPList)\b.*?</\1>|"
                      '<Metadata domain="RPC".*?</Metadata>', re.DOTALL)


def fill(pattern, tile):
    """The path of a tile: {tile} is its name, {padded} its name with numbers of two digits (2_10: 02_10)."""
    padded = re.sub(r"(?<!\d)\d(?!\d)", r"0\g<0>", tile)
    return Path(pattern.replace("{padded}", padded).replace("{tile}", tile))


def usual_paths(pattern, tile):
    """Where a tile's file may lie: as the pattern says, in a doubled folder or at the root, as the official
    archives of images and of labels unzip."""
    path = fill(pattern, tile)
    return [path, path.parent / path.parent.name / path.name, Path(path.name)]


def unpacked(raw, pattern, tile):
    """{path: True where it is as the pattern says} of a tile's files below `raw`."""
    paths = usual_paths(pattern, tile)
    return {Path(raw) / path: path == paths[0] for path in paths if is_file(Path(raw) / path)}


def archives(raw):
    return sorted(Path(raw).glob("*.[zZ][iI][pP]"))


def zipped(raw, pattern, tile):
    """As `unpacked`, of paths that lead through the .zip files of `raw`. The root of the one that is named
    as the pattern's folder is as the pattern says, too."""
    (path, doubled, name), paths = usual_paths(pattern, tile), {}
    for archive in archives(raw):
        own = archive.stem == path.parent.name
        try:
            names = members(archive) if archive.is_file() else {}
        except Problem:  # of consequence only where the tile should be in it
            if own:
                raise
            continue
        inside = {path: path != name, doubled: False, **({name: True} if own else {})}
        paths.update({archive / inner: exact for inner, exact in inside.items() if inner.as_posix() in names})
    return paths


def find_raw(data, key, tile):
    """Every path where a tile's file of the pattern data[key] lies; in archives only where it lies in no
    folder. A path that is not as the pattern says does not count where another pattern names it too."""
    for look in (unpacked, zipped) if data[key] else ():
        paths = look(data["raw"], data[key], tile)
        if not all(paths.values()):
            patterns = {data[other] for other in PATTERNS.values()} - {data[key], None}
            others = {path for pattern in patterns for path in look(data["raw"], pattern, tile)}
            paths = [path for path, exact in paths.items() if exact or path not in others]
        if paths:
            return list(paths)
    return []


def watched_files(settings):
    """Every file below data.raw that the settings may name (rasters, what beside them says where they lie or
    have data, archives): {path: None} where its bytes count, {path: text} of an .aux.xml, whose statistics
    make no difference. One that holds nothing else is left out."""
    data, paths = settings["data"], {}
    patterns = [data[key] for key in PATTERNS.values() if data[key]]
    for tile, pattern in itertools.product(all_tiles(settings["split"]), patterns):
        for raster in (Path(data["raw"]) / path for path in usual_paths(pattern, tile)):
            beside = [raster.with_name(raster.name + ending) for ending in (MASK, AUXILIARY)]
            for ending in (*WORLD_FILES, *RPCS):
                beside += [raster.with_name(raster.stem + each) for each in (ending, ending.upper())]
            paths.update(dict.fromkeys([raster, *beside]))
    there = {path for folder in {path.parent for path in paths} for path in folder.glob("*")}
    files = [path for path in paths if path in there] + archives(data["raw"])
    files = {path: None for path in files if path.is_file()}
    for path in [path for path in files if path.name.endswith(AUXILIARY)]:
        text = path.read_text(encoding="utf-8", errors="replace")
        files[path] = "".join(part[0] for part in DECISIVE.finditer(text))
    return {path: text for path, text in files.items() if text != ""}


def find_rasters(tile, settings):
    """[(name, path)] of a tile by name, of a raster by path, or of every raster in a folder, whose names are
    None; Problem (exit 3) where there is none."""
    data, path = settings["data"], Path(tile)
    if TILE[1](tile) and (paths := find_raw(data, "image", tile)):
        return [(tile, paths[0])]
    if is_file(path):
        return [(None, path)]
    if not tile or not os.path.isdir(tile):
        reason = absence(tile) if os.path.lexists(tile) else "no such tile or file"
        raise Problem(f"TILE {shown(tile)}: {reason}, expected a tile whose image lies in "
                      f"{data['raw']} (such as {all_tiles(settings['split'])[-1]}) or the path of a "
                      "GeoTIFF", code=3)
    paths = sorted(path for path in path.iterdir() if is_raster(path))
    if not paths:
        raise Problem(f"TILE {shown(tile)}: a folder without rasters, expected files with one of the "
                      f"suffixes {', '.join(SUFFIXES)}", *passed_over(tile), code=3)
    return [(None, path) for path in paths]


def is_raster(path):
    """True where an entry of a folder is one of its rasters, by its name."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()


def passed_over(folder):
    """Yields a line for each kind of entry of a folder that is no raster of it and does not go with one.
    Hidden ones are not looked at."""
    entries = sorted(path for path in Path(folder).iterdir() if not path.name.startswith("."))
    owners = {name for path in entries if is_raster(path) for name in (path.name, path.stem)}
    kinds = {}
    for path in entries:
        ends = [ending for ending in ASIDE if path.name.lower().endswith(ending)]
        if not is_raster(path) and not any(path.name[: -len(ending)] in owners for ending in ends):
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
    inner = fill(data[key], tile)
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
    """({"image", "extra", "labels", "eroded": path}, problems) of a tile's raw files."""
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


def hash_files(files):
    """{kind: {"path", "sha256"}} of a tile's raw files, {kind: path}, and of the masks beside them."""
    masks = {f"{kind} mask": path.with_name(path.name + MASK) for kind, path in files.items()}
    every = {**files, **{kind: path for kind, path in masks.items() if is_file(path)}}
    return {kind: {"path": str(path), "sha256": sha256(path)} for kind, path in every.items()}


def check_raster(kind, raster, header, data):
    """Yields why an open raster cannot be this kind of a tile's files; `header` as of the image, None where
    that cannot be read."""
    if kind == "image":
        wrong = check_bands(raster, data["bands"], scales(data), f"data.bands: {data['bands']}")
    elif kind == "extra":
        wrong = check_bands(raster, [1], scales(data)[-1:], "data.extra")
    else:
        wrong = check_label(raster, data)
    off = off_its_image(raster, header, "bilinear" if kind == "extra" else "near") if header else None
    if wrong or off:
        yield wrong or off
    height, width = header["shape"][:2] if header else raster.shape
    if raster.shape != (height, width) and (wrong or not off):
        scaled = raster.height * width == raster.width * height
        yield (f"{raster.height} x {raster.width} pixels, expected {height} x {width} as its image"
               + (f"; if it shows the same ground: {command_to(f'{TO_SIZE} {width} {height}', raster.name)}"
                  if scaled else ""))


def read_header(tile, files, data):
    """(header, problems) of a tile's files, without reading pixels. The header is None where the image cannot
    be read, else all that the manifest says of the tile before: {"shape": [H, W, B], "dtype", "georeference",
    "made_with", "validity": {kind: text}}."""
    header, problems = None, []
    for kind, path in files.items():
        try:
            with open_raster(path) as raster, reading(path):
                if kind == "image":
                    header = {"shape": [raster.height, raster.width, count_bands(data)],
                              "dtype": raster.dtypes[0], "made_with": made_with(data), "validity": {},
                              "georeference": georeference(raster, path, data["assume_crs"])}
                if header:
                    header["validity"][kind] = validity(raster)
                problems += [f"tile {tile}, {kind} in {path}: {wrong}"
                             for wrong in check_raster(kind, raster, header, data)]
        except Problem as problem:
            problems += problem.lines
    return header, problems
