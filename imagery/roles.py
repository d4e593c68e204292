"""What is doubtful in the roles of a split: faults of labels and pixel sizes that stop neither training nor
scoring, and spoil both. Told from the manifest alone."""
import math
from collections import Counter

import numpy as np

from base.settings import all_tiles, roles_of
from imagery.formats import command_to
from imagery.ground import metres, pixel_size, plain_size

LARGER = 1.25  # times: pixels that differ by more look like another ground
COARSER = 4  # times: one pixel of labels then speaks for sixteen of the image, or is one of sixteen


def doubts(split, rows):
    """Yields a line for each kind of doubt about a split; `rows`: {tile: its row of the manifest}."""
    yield from doubt_nodata(rows)
    yield from doubt_grids(rows)
    yield from doubt_labels({role: count_pixels(tiles, rows) for role, tiles in roles_of(split).items()})
    yield from doubt_sizes({tile: rows[tile] for tile in all_tiles(split)})


def count_pixels(tiles, rows):
    """{class: its labelled pixels} in some tiles."""
    counts = Counter()
    for tile in tiles:
        counts.update(rows[tile]["classes"])
    return counts


def doubt_nodata(rows):
    """Yields a line for each class whose value or colour is the nodata value of some labels, too."""
    hidden = {}  # {class: {path: per cent}}; blocks share a file
    for row in rows.values():
        for kind, pixels in row["pixels"].items():
            for name, count in pixels["hidden"].items():
                share = 100 * count / math.prod(row.get("audited", row["shape"][:2]))
                hidden.setdefault(name, {})[row["raw"][kind]["path"]] = share
    for name, files in hidden.items():
        share, path = max((share, path) for path, share in files.items())
        more = f" (and less of {len(files) - 1} more)" if len(files) > 1 else ""
        yield (f"labels {path}: {share:.1f} % of the pixels{more} unlabelled, as the nodata value is that of "
               f"{name}, expected one that no class has; where they are {name}, write a copy without it and "
               f"put that in its place: {command_to('gdal_translate -a_nodata none', path)}")


def doubt_grids(rows):
    """Yields a line for each kind of doubt about labels and extra rasters on another grid than their image's:
    of much larger or smaller pixels, or beside it for the most part."""
    sizes, shares = {}, {}  # by file, which blocks share
    for row in rows.values():
        image = pixel_size(row["georeference"], row["shape"])
        for kind, place in row["grids"].items():
            named = f"{kind} {row['raw'][kind]['path']}"
            share = row["off_grid"][kind] / math.prod(row.get("audited", row["shape"][:2]))
            shares[named] = max((share, named), shares.get(named, (0, named)))
            if image and place["pixel_size"]:
                ratios = np.divide(place["pixel_size"], image)
                pixels = f"pixels of {metres(place['pixel_size'])}, their image's {metres(plain_size(image))}"
                sizes[named] = max(*ratios, *(1 / ratios)), f"{named}: {pixels}"
    far = [size for size in sizes.values() if size[0] > COARSER]
    bare = [share for share in shares.values() if share[0] > 0.5]
    if far:
        yield (f"{max(far)[1]}{and_more(far)}, expected at most {COARSER} times as large or small; one pixel "
               "then speaks for many: borders are as coarse as the larger one's")
    if bare:
        share, named = max(bare)
        yield (f"{named}: {100 * (1 - share):.1f} % of its image covered{and_more(bare)}, expected most of "
               "it; what is outside is not scored: see whether it is the raster of this ground")


def and_more(doubtful):
    return f" (and {len(doubtful) - 1} more)" if len(doubtful) > 1 else ""


def doubt_labels(counts):
    """Yields a line for each kind of doubt about labels, of {role: {class: pixels}}."""
    present = {role: [name for name in pixels if pixels[name]] for role, pixels in counts.items()}
    unlearned = [name for name in counts["train"] if name not in present["train"]]
    alone = {role: names for role, names in present.items() if len(names) < 2}
    unscored = {role: [name for name in present["train"] if name not in present[role]]
                for role in ("val", "test") if role not in alone}
    if unlearned:
        yield (f"labels of split.train: no pixel of {', '.join(unlearned)}, expected some of every class; "
               "such a class is not learned: train on a tile that has it, or take it out of data.classes and "
               "name its colour or value in data.ignore_colours")
    if alone:
        yield (f"labels of one class alone: {name_roles(alone)}, expected two or more in every role; the "
               "mean IoU of one class chooses no checkpoint and says little of a map: add tiles that have "
               "others")
    if any(unscored.values()):
        yield (f"labels without a class that is trained: {name_roles(unscored)}, expected every class in "
               "every role; such a class counts as IoU 0 there if it is predicted anywhere, else not at all: "
               "add tiles that have it")


def name_roles(named):
    """{role: names} as text; a role without names is left out."""
    return ", ".join(f"split.{role} ({', '.join(names)})" for role, names in named.items() if names)


def doubt_sizes(rows):
    """Yields a line where some tile's pixels are by more than a quarter larger than another's."""
    sizes = {tile: pixel_size(row["georeference"], row["shape"]) for tile, row in rows.items()}
    known = [tile for tile, size in sizes.items() if size is not None]
    for axis in (0, 1):  # along rows, along columns
        tiles = sorted(known, key=lambda tile: sizes[tile][axis])
        if tiles and sizes[tiles[-1]][axis] > LARGER * sizes[tiles[0]][axis]:
            ends = [f"{metres(plain_size(sizes[tile]))} ({tile})" for tile in (tiles[0], tiles[-1])]
            yield (f"pixel sizes: {' and '.join(ends)}, expected all within a quarter of each other; the "
                   "same thing looks different at another size: resample images and labels to one size "
                   "(gdalwarp -tr)")
            return
