"""Where raw tiles and other rasters lie: below data.raw as the patterns say, in zip archives, or wherever a path leads.

    python raw_files.py --tile=2_13     a refusal where there is no such tile or raster, before anything is made for it
"""
import os
import re
from pathlib import Path

from command import command
from files import Problem, is_file, members
from params import BESIDE, TILE, shown

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


def main(settings, run, tile, extra):
    name, _ = find_rasters(tile, settings)[0]
    if extra and (settings["data"]["extra"] is None or name in sum(settings["split"].values(), [])):
        raise Problem(f"EXTRA {shown(extra)}: given for {shown(tile)}, expected only where data.extra is set and for a "
                      "raster outside the split; leave it out", code=2)
    if extra and not is_file(extra) and not (Path(extra).is_dir() and Path(tile).is_dir()):
        raise Problem(f"EXTRA {shown(extra)}: no such file, expected the extra raster of {shown(tile)}", code=3)


if __name__ == "__main__":
    command(main, __doc__, tile="NAME or path of a raster to look for, or a folder",
            extra="NAME of the file of its extra raster, likewise")
