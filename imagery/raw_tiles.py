"""Raw tiles and other rasters: where they lie (below data.raw as the patterns say, in zip archives, or wherever a path
leads), and whether they are fit.
"""
import os
import re
from pathlib import Path

from rasterio.enums import ColorInterp

from base.keys import BESIDE, TILE
from base.problem import Problem, shown
from base.settings import count_bands
from base.zips import is_file, members
from imagery.rasters import check_bands, georeference, open_raster, same_place, scales

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")  # of the rasters in a folder
WORLD_FILES = (".tfw", ".pgw", ".jgw", ".wld")  # what GDAL reads a raster's place from, beside it
MASK = ".msk"  # after a raster's name: which of its pixels have data


def fill(pattern, tile):
    """The path of a tile: {tile} is its name, {padded} its name with numbers of two digits (2_10: 02_10)."""
    padded = re.sub(r"(?<!\d)\d(?!\d)", r"0\g<0>", tile)
    return Path(pattern.replace("{padded}", padded).replace("{tile}", tile))


def places_of(raw, pattern, tile):
    """Where a tile's raw file may lie: as the pattern says, in a doubled folder, or at the root of `raw`.

    The official image archives unzip into a folder within a folder of the same name, the label archives into none.
    """
    path = fill(pattern, tile)
    doubled = path.parent / path.parent.name / path.name
    return [Path(raw) / place for place in dict.fromkeys((path, doubled, Path(path.name)))]


def zipped_places(raw, pattern, tile):
    """Where it may lie in the .zip files of `raw`, as paths that lead through them: in any as the pattern says, or
    doubled; at the root of the one that has the name of the pattern's folder."""
    path = fill(pattern, tile)
    for archive in sorted(Path(raw).glob("*.[zZ][iI][pP]")):
        own, inside = archive.stem == path.parent.name, [path, path.parent / path.parent.name / path.name]
        try:
            names = members(archive) if archive.is_file() else {}
        except Problem:  # of consequence only where the tile should be in it
            if own:
                raise
            names = {}
        yield from (archive / place for place in dict.fromkeys(inside + [Path(path.name)] * own)
                    if place.as_posix() in names)


def find_raw(raw, pattern, tile):
    """Every place where a tile's raw file lies; inside zip archives only where it lies in no folder."""
    unpacked = [place for place in places_of(raw, pattern, tile) if is_file(place)]
    return unpacked or list(zipped_places(raw, pattern, tile))


def find_rasters(tile, settings):
    """[(name, path)] of a tile by name, of a raster by path, or of every raster in a folder; Problem (exit 3) where
    there is none, or two would give maps of one name."""
    named = TILE[1](tile) and find_raw(settings["data"]["raw"], settings["data"]["image"], tile)
    if named or not tile or not os.path.isdir(tile):
        return [find_raster(tile, settings)]
    paths = sorted(path for path in Path(tile).iterdir()
                   if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir())
    found = [(path.stem, path) for path in paths]
    twice = [path for i, path in enumerate(paths) if path.stem in {other.stem for other in paths[:i]}]
    if twice or not paths:
        raise Problem(*(f"TILE {shown(tile)}: {path.name} beside another file of that name, expected one, so that the "
                        "maps are not confused; rename one" for path in twice),
                      *([] if paths else [f"TILE {shown(tile)}: a folder without rasters, expected files with one of "
                                          f"the suffixes {', '.join(SUFFIXES)}"]), code=3)
    return found


def find_raster(tile, settings):
    """(name, path) of the image of a tile by name, or of a raster by path; Problem (exit 3) where it is neither."""
    data = settings["data"]
    names = [name for role in settings["split"].values() for name in role]
    if TILE[1](tile):
        places = find_raw(data["raw"], data["image"], tile)
        if places:
            return tile, places[0]
    path = Path(tile)
    if is_file(path):
        check_name(path, settings)
        return path.stem, path
    raise Problem(f"TILE {shown(tile)}: no such tile or file, expected a tile whose image lies in {data['raw']} (such "
                  f"as {names[-1]}) or the path of a GeoTIFF", code=3)


def check_name(path, settings):
    """Problem (exit 3) where the map of a raster would take the name of a tile's map, or of what goes beside one."""
    data, names = settings["data"], [name for role in settings["split"].values() for name in role]
    if Path(path.stem).suffix in BESIDE:
        raise Problem(f"TILE {shown(str(path))}: a name that ends in {Path(path.stem).suffix}, as files beside a map "
                      "do, expected another; rename it", code=3)
    own = [place.resolve() for place in find_raw(data["raw"], data["image"], path.stem)]
    if path.stem in names and path.resolve() not in own:
        raise Problem(f"TILE {shown(str(path))}: named as the tile {path.stem} of the split, expected another name, so "
                      "that the maps are not confused; rename the file", code=3)


def find_files(tile, data):
    """({"image", "extra", "labels", "eroded": path}, problems) of a tile's raw files."""
    files, problems = {}, []
    for kind, key in (("image", "image"), ("extra", "extra"), ("labels", "label"), ("eroded", "eroded_label")):
        places = find_raw(data["raw"], data[key], tile) if data[key] else []
        if len(places) > 1:
            problems.append(f"tile {tile}, {kind}: found as {places[0]} and {places[1]}, expected one; remove one")
        elif places:
            files[kind] = places[0]
        elif data[key] and kind != "eroded":
            path = fill(data[key], tile)
            problems.append(f"tile {tile}, {kind}: no file, expected {Path(data['raw']) / path}, or {path.name} in "
                            f"{path.parent.name or 'an archive'}.zip there; add it or take {tile} out of split")
    return files, problems


def with_masks(files):
    """Raw files of a tile, {kind: path}, with the masks beside them, which say where they have data."""
    masks = {f"{kind} mask": path.with_name(path.name + MASK) for kind, path in files.items()}
    return {**files, **{kind: path for kind, path in masks.items() if is_file(path)}}


def check_label(raster, label_values):
    """What keeps an open raster from being labels, as one line; None where nothing does."""
    kinds = set(raster.dtypes)
    if label_values is None:
        if raster.count < 3 or ColorInterp.palette in raster.colorinterp:
            return (f"{'a palette image' if ColorInterp.palette in raster.colorinterp else f'{raster.count} bands'}, "
                    "expected the classes' colours in red, green and blue; for labels of one band set "
                    "data.label_values to the value of each class")
        return None if set(raster.dtypes[:3]) == {"uint8"} else f"{raster.dtypes[0]} colours, expected uint8"
    if raster.count != 1:
        return f"{raster.count} bands, expected one (data.label_values); for painted labels set data.label_values: null"
    return None if kinds <= {"uint8", "uint16"} else f"{raster.dtypes[0]} labels, expected uint8 or uint16"


def check_headers(tile, files, data):
    """(facts, problems) of a tile's files, without reading pixels: facts are shape [H, W, B], dtype, georeference."""
    facts, problems = None, []
    for kind, path in files.items():
        try:
            with open_raster(path) as raster:
                if kind == "image":
                    wrong = check_bands(raster, data["bands"], scales(data), f"data.bands: {data['bands']}")
                    facts = {"shape": [raster.height, raster.width, count_bands(data)], "dtype": raster.dtypes[0],
                             "georeference": georeference(raster, data["assume_crs"])}
                elif kind == "extra":
                    wrong = check_bands(raster, [1], scales(data)[-1:], "data.extra")
                else:
                    wrong = check_label(raster, data["label_values"])
                if not wrong and facts and not same_place(raster, facts["georeference"]["transform"]):
                    wrong = "its georeference lies elsewhere than its image's, expected the same ground"
                if wrong:
                    problems.append(f"tile {tile}, {kind} in {path}: {wrong}")
                if facts and [raster.height, raster.width] != facts["shape"][:2]:
                    problems.append(f"tile {tile}, {kind} in {path}: {raster.height} x {raster.width} pixels, expected "
                                    f"{facts['shape'][0]} x {facts['shape'][1]} as its image")
        except Problem as problem:
            problems += problem.lines
    return facts, problems
