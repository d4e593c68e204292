"""File patterns of the settings: the paths that they make of a tile's name, and the names in such paths.

A tile's name may have folders, Train/Urban/1366. In a pattern {tile} is the whole name, {folder} all before
the last slash, {name} the last part, {padded} the whole name with numbers of two digits (2_10: 02_10).
"""
import functools
import os
import re
from pathlib import Path

from base.problem import Problem
from base.zips import is_file, members

FIELD = re.compile(r"\{(tile|padded|name|folder)\}(/?)")
PATTERNS = {"image": "image", "extra": "extra", "labels": "label", "eroded": "eroded_label",
            "area": "area"}  # keys of data


def fill(pattern, tile):
    """The path of a tile, as text. The {folder} of a name without folders leaves no slash either."""
    folder, _, name = tile.rpartition("/")
    fields = {"tile": tile, "folder": folder, "name": name}
    if "{padded}" in pattern:
        fields["padded"] = re.sub(r"(?<!\d)\d(?!\d)", r"0\g<0>", tile)
    return FIELD.sub(lambda field: fields[field[1]] + (field[2] if fields[field[1]] else ""), pattern)


@functools.lru_cache(maxsize=64)
def usual_patterns(pattern):
    """Where a tile's file may lie: as the pattern says, in a doubled folder or, where the name alone tells
    the tile, at the root, as the official archives of images and of labels unzip."""
    pattern = Path(pattern).as_posix()
    folders, _, name = pattern.rpartition("/")
    doubled = f"{folders}/{folders.rpartition('/')[2]}/{name}" if folders else pattern
    return [pattern, doubled, name if FIELD.search(name) and "{folder}" not in folders else pattern]


def usual_paths(pattern, tile):
    """The `usual_patterns`, filled, as texts: a tile in a folder is not looked for at the root, where all
    folders' tiles of its name would lie."""
    *others, name = usual_patterns(pattern)
    return [fill(each, tile) for each in [*others, pattern if "/" in tile else name]]


def unpacked(raw, pattern, tile):
    """{path: True where it is as the pattern says} of a tile's files below `raw`."""
    paths = dict.fromkeys(usual_paths(pattern, tile))
    there = [path for path in paths if is_file(os.path.join(raw, path))]
    return {Path(raw, path): path == next(iter(paths)) for path in there}


def archives(raw):
    """The .zip files of a folder, looked for again when something in it comes or goes."""
    changed = os.stat(raw).st_mtime_ns if os.path.isdir(raw) else None
    return list(_archives(os.path.abspath(raw), raw, changed))


@functools.lru_cache(maxsize=4)
def _archives(_, raw, __):
    return sorted(Path(raw).glob("*.[zZ][iI][pP]"))


def zipped(raw, pattern, tile):
    """As `unpacked`, of paths that lead through the .zip files of `raw`. The root of the one that is named
    as one of the pattern's folders is that folder, too."""
    (path, doubled, _), paths = map(Path, usual_paths(pattern, tile)), {}
    for archive in archives(raw):
        own = archive.stem in path.parts[:-1]
        try:
            names = members(archive) if archive.is_file() else {}
        except Problem:  # of consequence only where the tile should be in it
            if own:
                raise
            continue
        inside = {path: len(path.parts) > 1, doubled: False}
        if own:
            inside[Path(*path.parts[path.parts.index(archive.stem) + 1:])] = True
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


# -- the names in paths -----------------------------------------------------------------------------------

@functools.lru_cache(maxsize=64)
def expression(pattern):
    """A regular expression of the paths that a pattern makes; its groups are the fields."""
    text, end, seen = "", 0, set()
    for field in FIELD.finditer(pattern):
        name, slash = field.groups()
        group = f"(?P<{name}>{'[^/]+' if name == 'name' else '.+'})"
        part = (f"(?P={name})" if name in seen else group) + slash
        seen.add(name)
        text += re.escape(pattern[end: field.start()]) + (f"(?:{part})?" if name == "folder" else part)
        end = field.end()
    return re.compile(text + re.escape(pattern[end:]), re.DOTALL)


def tile_of(pattern, path):
    """The name of which a pattern makes a path (text); None where there is none."""
    match = expression(pattern).fullmatch(path)
    if not match:
        return None
    fields = match.groupdict()
    unpadded = re.sub(r"(?<!\d)0(\d)(?!\d)", r"\1", fields.get("padded") or "")
    parts = filter(None, [fields.get("folder"), fields.get("name")])
    tile = fields.get("tile") or unpadded or "/".join(parts)
    return tile if fill(pattern, tile) == path else None


def in_folders(raw, pattern):
    """Yields the files (paths seen from `raw`, as text) at its root and below the folders that a pattern
    names without a field. Hidden folders are passed over, a link that leads in a circle is followed once."""
    fixed, seen = Path(pattern[: FIELD.search(pattern).start()] + "_").parent, set()
    yield from (path.name for path in raw.glob("*") if fixed.parts and path.is_file())
    for folder, folders, names in os.walk(raw / fixed, followlinks=True):
        inner, real = os.path.relpath(folder, raw), os.path.realpath(folder)
        folders[:] = [name for name in folders if not name.startswith(".") and real not in seen]
        yield from (name if inner == "." else f"{inner}/{name}" for name in names if real not in seen)
        seen.add(real)


def in_archives(raw, pattern):
    """Yields (path seen from `raw`, the same within the archive, the same within the folder of the pattern
    that the archive is named as), as text, of all members of its .zip files."""
    folders = pattern.split("/")[:-1]
    for archive in archives(raw):
        above = folders[: folders.index(archive.stem)] if archive.stem in folders else []
        for member in members(archive):
            yield f"{archive.name}/{member}", member, "/".join([*above, archive.stem, member])


def tiles_below(data):
    """{tile: its image's path seen from data.raw, as text} of every tile whose image lies there as
    `find_raw` finds it, in folders or in archives; not what is hidden, or another file of one of these tiles.
    Problem (exit 3) where an archive is damaged."""
    raw, pattern = Path(data["raw"]), Path(data["image"]).as_posix()
    _, *usual = usual_patterns(pattern)
    exact, loose = {}, {}
    for path, *texts in [*((path, path) for path in in_folders(raw, pattern)), *in_archives(raw, pattern)]:
        if "/." in f"/{path}":  # ._1.png, which a Mac writes beside 1.png
            continue
        if names := [name for text in texts if (name := tile_of(pattern, text))]:
            exact.setdefault(names[0], path)
        elif names := [name for text in texts for each in usual if (name := tile_of(each, text))]:
            loose.setdefault(names[0], path)
    tiles = {**{tile: path for tile, path in loose.items() if find_raw(data, "image", tile)}, **exact}
    for other in {data[key] for key in PATTERNS.values()} - {data["image"], None}:
        owners = {tile: tile_of(other, path) for tile, path in tiles.items()}
        tiles = {tile: path for tile, path in tiles.items()
                 if owners[tile] in (None, tile) or not (owners[tile] in tiles or owners[tile] == "")}
    return tiles
