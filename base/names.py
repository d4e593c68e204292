"""Names of tiles in the settings: plain ones, glob patterns of names (train/*) and list files (@train.txt),
all made plain names when the settings are loaded.
"""
import codecs
import fnmatch
import functools
import itertools
import os
import re
from pathlib import Path, PurePosixPath

from base.keys import is_glob, is_tile
from base.patterns import in_folders, tiles_below
from base.problem import Problem, shown

LONGEST = 2**26  # bytes of a list file
LONGEST_LINE = 4096  # letters: no path is longer


class Raw:
    """The tiles whose images lie below data.raw, looked for when a glob pattern or a list first asks."""

    def __init__(self, data):
        self.data = data

    def __str__(self):
        return f"{self.data['raw']} (data.raw) as {self.data['image']} (data.image)"

    @functools.cached_property
    def tiles(self):
        """{tile: its image's path} in natural order: 2 before 10."""
        return dict(sorted(tiles_below(self.data).items(), key=lambda pair: natural(pair[0])))

    @functools.cached_property
    def known_as(self):
        """{number of parts: [(tile, parts of its name or of its image's path, with or without suffix)]}."""
        known = {}
        for tile, path in self.tiles.items():
            image = PurePosixPath(path)
            for parts in {tuple(tile.split("/")), image.parts, image.with_suffix("").parts}:
                known.setdefault(len(parts), []).append((tile, parts))
        return known

    @functools.cache
    def ends(self, count, whole):
        """{so many last parts of what a tile is known as, or all of them where they are so many: [tile]}."""
        ends = {}
        for length in [length for length in self.known_as if length == count or length > count and not whole]:
            for tile, parts in self.known_as[length]:
                ends.setdefault(parts[-count:], {})[tile] = None
        return ends


def natural(name):
    """What names are sorted by, so that 2 comes before 10: folder by folder, a number by its length first."""
    return [[(len(part.lstrip("0")), part.lstrip("0")) if part.isdecimal() else part
             for part in re.split("([0-9]+)", folder)] for folder in name.split("/")], name


# -- glob patterns ------------------------------------------------------------------------------------------

def fits(glob, name):
    """True where a glob pattern fits a whole name: * ? and [a-c] within a part, ** any number of folders."""
    parts = glob.split("/")
    if parts[-1] == "**":
        parts.append("*")
    reached = {0}  # parts of the pattern that are used up
    for part in name.split("/"):
        reached = past_folders(reached, parts)
        kept = {at for at in reached if at < len(parts) and parts[at] == "**"}
        reached = kept | {at + 1 for at in reached - kept
                          if at < len(parts) and fnmatch.fnmatchcase(part, parts[at])}
    return len(parts) in reached


def past_folders(reached, parts):
    """The places reached in the parts of a glob pattern, and those behind a ** there."""
    for at in sorted(reached):
        while at < len(parts) and parts[at] == "**":
            at += 1
            reached = reached | {at}
    return reached


# -- list files ---------------------------------------------------------------------------------------------

def read_list(path):
    """[(line number, text)] of a list file, UTF-8 or, with its mark, UTF-16: blank lines and those that begin
    with # are left out. Problem (exit 2) where it is no text, or larger than LONGEST."""
    try:
        if not os.path.isfile(path):
            raise OSError(0, "no file" if os.path.exists(path) else "no such file")
        if path.stat().st_size > LONGEST:
            raise ValueError(f"{path.stat().st_size / 1e6:.0f} MB, expected at most {LONGEST / 1e6:.0f} MB")
        content = path.read_bytes()
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if wide else "utf-8-sig")
        if re.search(r"[\0-\x08\x0e-\x1f]", text):
            raise ValueError("control characters, as of a binary file, expected text")
    except OSError as error:
        raise Problem(f"list file {path}: {error.strerror.lower()}, expected a text file with a name a line",
                      code=2) from None
    except UnicodeDecodeError:
        raise Problem(f"list file {path}: not in UTF-8, expected a text file with a name a line; save it as "
                      "UTF-8", code=2) from None
    except ValueError as error:
        raise Problem(f"list file {path}: {error} with a name a line; see whether it is the right file",
                      code=2) from None
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def named_by(text, raw):
    """The tiles that a line of a list names: that of this very name, else those whose name, or the path of
    whose image with or without its suffix, is the end of this text or ends like it."""
    text = text.replace("\\", "/").strip("/")
    if text in raw.tiles:
        return [text]
    for written in (text, re.sub(r"\.[^./]*$", "", text)):
        if len(text) <= LONGEST_LINE and (written.rpartition("/")[2],) in raw.ends(1, whole=False):
            parts = tuple(part for part in written.split("/") if part != ".")
            for start in range(len(parts)):
                if tiles := raw.ends(len(parts) - start, whole=start > 0).get(parts[start:]):
                    return list(tiles)
    return []


def from_list(entry, folder, raw):
    """The tiles of a list file, "@path" seen from `folder` or, where no file is there, from data.raw, in its
    order. Problem (exit 2) where it cannot be read, is empty, or a line names no tile or several."""
    near, below = folder / entry[1:], Path(raw.data["raw"]) / entry[1:]
    if not os.path.exists(near) and not os.path.exists(below):
        raise Problem(f"{shown(entry)}: no such file, expected {near} (beside the settings file) or {below} "
                      "(below data.raw), with a name a line", code=2)
    lines = read_list(near if os.path.exists(near) else below)
    named = {number: named_by(text, raw) for number, text in lines}
    none = [f"line {number}: {shown(text)}" for number, text in lines if not named[number]]
    several = [f"line {number}: {shown(text)} ({', '.join(named[number][:3])})" for number, text in lines
               if len(named[number]) > 1]
    if not lines:
        raise Problem(f"{shown(entry)}: no name in it, expected a name a line", code=2)
    if none:
        raise Problem(f"{shown(entry)}: {len(none)} of {len(lines)} lines name no tile ({first_of(none)}), "
                      f"expected names, or paths, of images in {raw}: {there(raw)}; add the images, or take "
                      "the lines out", code=2)
    if several:
        raise Problem(f"{shown(entry)}: {len(several)} of {len(lines)} lines name several tiles "
                      f"({first_of(several)}), expected one each; write the folders too", code=2)
    return [tile for number, _ in lines for tile in named[number]]


# -- all entries --------------------------------------------------------------------------------------------

def first_of(texts):
    return ", ".join([*texts[:3], *(["..."] if len(texts) > 3 else [])])


def there(raw):
    """Which tiles there are or, where there is none, which files, as text."""
    if not Path(raw.data["raw"]).is_dir():
        return "no such folder"
    if raw.tiles:
        return f"{first_of(list(raw.tiles))} ({len(raw.tiles)} tiles)"
    files = map(shown, sorted(in_folders(Path(raw.data["raw"]), raw.data["image"]), key=natural))
    return f"no tile, of files {first_of(list(files)) or 'none'}"


def from_glob(entry, raw):
    """The tiles whose names a glob pattern fits, in natural order. Problem (exit 2) where it fits none, or
    one that cannot be a tile's."""
    tiles = [tile for tile in raw.tiles if fits(entry, tile)]
    unfit = [shown(raw.tiles[tile]) for tile in tiles if not is_tile(tile)]
    if unfit:
        raise Problem(f"{shown(entry)}: fits {first_of(unfit)} in {raw.data['raw']}, expected names without "
                      "* ? [ ] and a leading dot, dash or @; rename these", code=2)
    if not tiles:
        raise Problem(f"{shown(entry)}: fits no tile, expected names of images in {raw}: {there(raw)}; * "
                      "stands for all within a folder, **/ for any folders", code=2)
    return tiles


def expand(entries, folder, raw):
    """{tile: the entry that names it} of plain names, glob patterns and list files, in their order.
    `folder`: that of the settings file. Problem (exit 2) lists what is wrong in them."""
    names, problems = {}, []
    for entry in entries:
        try:
            if entry.startswith("@"):
                tiles = from_list(entry, folder, raw)
            else:
                tiles = from_glob(entry, raw) if is_glob(entry) else [entry]
        except Problem as problem:
            problems += problem.lines
            continue
        for tile in tiles:
            names.setdefault(tile, entry)
    if problems:
        raise Problem(*problems, code=2)
    return names


def name_tiles(roles, folders, raw):
    """({role: plain names}, [(key, problem)]) of the entries of each role, {role: entries}: of those that
    name none, and of tiles in two roles. `folders`: {role: the folder of its settings file}."""
    by, problems = {}, []
    for role, entries in roles.items():
        try:
            by[role] = expand(entries, folders[role], raw)
        except Problem as problem:
            problems += [(f"split.{role}", line) for line in problem.lines]
    for role, other in itertools.combinations(by, 2):
        twice = [tile for tile in by[other] if tile in by[role]]
        if twice:
            tile, more = twice[0], f" and {len(twice) - 1} more" if twice[1:] else ""
            entries = [by[each][tile] for each in (other, role)]
            one, two = (f", by {shown(entry)}" if entry != tile else "" for entry in entries)
            problems.append((f"split.{other}", f"tile {tile}{more}{one}, expected in one role only; it is "
                             f"in split.{role} too{two}"))
    return {role: list(tiles) for role, tiles in by.items()}, problems
