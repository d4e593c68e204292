"""Tiles that show the same ground: told by their places or, where one has none, by blocks of their pixels."""
import hashlib
import itertools
import math
from collections import Counter

import numpy as np
import rasterio

from base.blocks import raster_of
from base.settings import roles_of
from imagery.ground import bounds
from imagery.tiles import CELL

TEXTURE = 0.1  # share of a block's values that differ from their neighbour; flat colours have less
MOST = 100  # pairs of tiles that are named; more say nothing new
SHARED = 32  # tiles with the same block, of which every two are compared; of more, neighbours
NOTICEABLE = 0.01  # share of a tile's blocks; less may be a logo that is printed on every image


def common_shares(box, boxes, pixel):
    """Share of the smaller of two boxes that the other covers too (0..1, NaN of boxes that are NaN): float64
    [N], of a box [4] with each of `boxes` [N, 4]. Less than a pixel in common, as neighbours have by
    rounding, is 0."""
    wide, high = np.minimum(box[2:], boxes[:, 2:]).T - np.maximum(box[:2], boxes[:, :2]).T
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = wide * high / np.minimum(areas, np.prod(box[2:] - box[:2]))
    return np.where((wide < pixel) | (high < pixel), 0, shares)


def near(boxes):
    """Yields (a box's number, those of the boxes that it may overlap, int64 [N]) for boxes [N, 4], along the
    axis on which they are spread more widely; boxes that are NaN may overlap every other."""
    unknown, known = np.flatnonzero(np.isnan(boxes[:, 0])), np.flatnonzero(~np.isnan(boxes[:, 0]))
    for number in unknown:
        yield number, np.arange(len(boxes))
    if not len(known):
        return
    low, high = boxes[known, :2], boxes[known, 2:]
    widest = np.maximum((high - low).max(0), np.finfo(float).tiny)
    axis = int(np.argmax(np.ptp(low, axis=0) / widest))
    order = np.argsort(low[:, axis], kind="stable")
    begins = low[order, axis]
    first = np.searchsorted(begins, low[:, axis] - widest[axis])
    last = np.searchsorted(begins, high[:, axis], "right")
    for number, start, stop in zip(known, first, last):
        yield number, np.sort(np.concatenate([known[order[start: stop]], unknown]))


def common_ground(headers, apart_from):
    """{(number, other number): share of the smaller one's bounding box, or NaN} of the tiles whose boxes
    overlap in the coordinate system of one of them; `headers`: a list. Only of those that may not:
    `apart_from(number, others)` is bool [N]. The search ends with more than MOST."""
    georeferences = [header["georeference"] for header in headers]
    placed = [number for number, georeference in enumerate(georeferences) if georeference["transform"]]
    common = {}
    for crs in dict.fromkeys(georeferences[number]["crs"] for number in placed):
        group = np.array([n for n in placed if (georeferences[n]["crs"] is None) == (crs is None)])
        with rasterio.Env():
            boxes = np.array([bounds(headers[n]["shape"], georeferences[n], crs) for n in group])
        for index, others in near(boxes):
            number, others = group[index], others[apart_from(group[index], group[others])]
            if georeferences[number]["crs"] == crs and len(common) <= MOST:
                a, b = georeferences[number]["transform"][:2]
                shares = common_shares(boxes[index], boxes[others], abs(a) + abs(b))
                for other, share in zip(group[others[shares != 0]], shares[shares != 0]):
                    common.setdefault((min(number, other), max(number, other)), share)
    return common


def without_place(headers):
    """The tiles, of {tile: header}, whose place is not known: without a transform, or without a coordinate
    system where others have one."""
    georeferences = {tile: header["georeference"] for tile, header in headers.items()}
    named = any(georeference["crs"] for georeference in georeferences.values())
    return [tile for tile, georeference in georeferences.items()
            if not georeference["transform"] or (named and not georeference["crs"])]


def digest_blocks(image, valid):
    """Digests (uint64 [N]) of the whole CELL x CELL squares of an image (uint8 [H, W, B]) from the top
    left. Pixels without data (`valid`: bool [H, W]) are black; squares of flat colours, as such borders have,
    are left out."""
    if not valid.all():
        image = np.where(valid[..., None], image, 0)
    digests = []
    for row in range(0, image.shape[0] - CELL + 1, CELL):
        for col in range(0, image.shape[1] - CELL + 1, CELL):
            block = np.ascontiguousarray(image[row: row + CELL, col: col + CELL])
            if (block[:, 1:] != block[:, :-1]).mean() > TEXTURE:
                digests.append(hashlib.blake2b(block, digest_size=8).digest())
    return np.frombuffer(b"".join(digests), np.uint64)


def common_blocks(digests):
    """{(number, other number): share of the smaller one's blocks} of the tiles that have blocks in common, by
    their digests (uint64 [N], each once)."""
    together = np.concatenate(digests)
    owners = np.repeat(np.arange(len(digests)), [len(own) for own in digests])
    owners = owners[np.argsort(together, kind="stable")]
    _, counts = np.unique(together, return_counts=True)
    common = Counter()
    for end, count in zip(np.cumsum(counts)[counts > 1], counts[counts > 1]):
        own = owners[end - count: end].tolist()
        common.update(itertools.combinations(own, 2) if count <= SHARED else itertools.pairwise(own))
    return {(one, other): count / min(len(digests[one]), len(digests[other]))
            for (one, other), count in common.items()}


def distances(window, windows):
    """Pixels between a window, [first row, first column, height, width], and each of `windows` (int64
    [N, 4]), along rows or columns, whichever is more; below 0 where they overlap (int64 [N])."""
    window, windows = np.asarray(window), np.reshape(windows, (-1, 4))
    ends, others = window[:2] + window[2:], windows[:, :2] + windows[:, 2:]
    return np.maximum(windows[:, :2] - ends, window[:2] - others).max(1)


def check_guards(split, rows):
    """A line for each two blocks of one raster that have different roles and lie nearer to each other than
    the guard; `rows`: {tile: row of the manifest, or its "cut" alone}."""
    blocks = {tile: row["cut"] for tile, row in rows.items() if "cut" in row}
    roles = {tile: role for role, names in roles_of(split).items() for tile in names}
    of_raster = {}
    for tile in sorted(blocks, key=lambda tile: blocks[tile]["window"]):
        of_raster.setdefault(blocks[tile]["raster"], []).append(tile)
    for own in of_raster.values():
        windows = np.array([blocks[tile]["window"] for tile in own])
        reach = windows[:, 2].max() + split["blocks"]["guard"]
        first = np.searchsorted(windows[:, 0], windows[:, 0] - reach)  # of those whose rows may be near
        for number, tile in enumerate(own):
            others = windows[first[number]: number]
            near = np.flatnonzero(distances(windows[number], others) < split["blocks"]["guard"])
            for other in (own[first[number] + each] for each in near):
                if roles[other] == roles[tile]:
                    continue
                yield (f"blocks {other} (split.{roles[other]}) and {tile} (split.{roles[tile]}): nearer to "
                       f"each other than {split['blocks']['guard']} px, expected the guard between them; run "
                       "prepare_data.py again")


def apart(split, allowed, tiles, common):
    """A line for each two tiles of `common`, {(number, other number): what they share}, that have different
    roles, unless both are allowed or, as blocks, of one raster."""
    roles = {tile: role for role, names in roles_of(split).items() for tile in names}
    pairs, allowed = [], set(allowed)
    for pair, shared in sorted(common.items()):
        one, other = (tiles[number] for number in pair)
        rasters = {raster_of(one, split), raster_of(other, split)}
        if len(rasters) == 2 and roles[one] != roles[other] and not rasters <= allowed:
            pairs.append((one, other, shared))
    for one, other, shared in pairs[:MOST]:
        yield (f"tiles {one} (split.{roles[one]}) and {other} (split.{roles[other]}): {shared}, expected "
               "different ground, or scores are no test; give both one role, or name both in "
               "data.allow_overlap")
    if len(pairs) > MOST:
        yield (f"tiles: more than {MOST} pairs of different roles share ground, expected none; mend those "
               "above first")


def check_places(split, headers, allowed):
    """A line for each two tiles of different roles whose bounding boxes overlap, of {tile: header}."""
    roles = {tile: number for number, names in enumerate(roles_of(split).values()) for tile in names}
    role, rasters = np.array([roles[tile] for tile in headers]), [raster_of(tile, split) for tile in headers]
    free, (_, raster) = np.isin(rasters, allowed), np.unique(rasters, return_inverse=True)

    def apart_from(number, others):
        different = (role[others] != role[number]) & (raster[others] != raster[number])
        return different & ~(free[others] & free[number])

    common = {pair: "places that cannot be compared" if math.isnan(share) else
              f"{100 * share:.1f} % of the smaller one's bounding box lies in the other's"
              for pair, share in common_ground(list(headers.values()), apart_from).items()}
    return apart(split, allowed, list(headers), common)


def check_pixels(split, rows, allowed):
    """A line for each two tiles with the same pixels and, where a place is not known, for each two of
    different roles with a noticeable share of their blocks in common; `rows`: {tile: row of the manifest}."""
    first, tiles, unplaced = {}, list(rows), without_place(rows)
    for tile, row in rows.items():
        other = first.setdefault(row["pixels_sha256"], tile)
        if other != tile:
            yield (f"tiles {other} and {tile}: the same pixels, expected different images; take one out of "
                   "split or fetch the right file")
    if unplaced:
        digests = [np.frombuffer(bytes.fromhex(row["blocks"]), np.uint64) for row in rows.values()]
        common = {pair: f"{100 * share:.1f} % of the smaller one's squares of {CELL} px have the same pixels "
                  "as the other's" for pair, share in common_blocks(digests).items()
                  if share >= NOTICEABLE and not {tiles[number] for number in pair}.isdisjoint(unplaced)}
        yield from apart(split, allowed, tiles, common)


def seen_tiles(rows, raw, facts):
    """Yields (tile, role, name) of each tile that a model (`facts`: its model.json), or one that it started
    from, has seen: its role there and its name, by name, pixels or, of blocks, place. `rows`: {tile: row of
    the manifest}; `raw`: the folder of these tiles."""
    for role in ("trained_on", "chosen_on", "started_on"):
        seen = facts.get(role, {})
        named = {pixels: name for name, pixels in reversed(seen.items())}  # the first that has them
        cuts = {name: cut for name, cut in facts.get("cut", {}).items() if name in seen}
        for tile, row in rows.items():
            own = row.get("cut", {"raster": tile, "pixels_sha256": row["pixels_sha256"]})
            both = tile, own["raster"]
            names = [name for name in (*both, *(f"{raw}/{name}" for name in both)) if name in seen]
            name = tile if names else named.get(row["pixels_sha256"], named.get(own.get("pixels_sha256")))
            if name is None:
                name = next((block for block, cut in cuts.items() if shares_pixels(cut, own, raw)), None)
            if name is not None:
                yield tile, role, name


def shares_pixels(cut, own, raw):
    """True where a block that a model has seen shares pixels with a tile; `cut`, `own`: what the two are of,
    {"raster", "pixels_sha256": of the raster} and, of blocks, "window"; `raw`: the folder of the tile's."""
    digest = own.get("pixels_sha256")
    same = digest is not None and cut.get("pixels_sha256") == digest  # the raster, wherever it lies
    if not same and cut["raster"] not in (own["raster"], f"{raw}/{own['raster']}"):
        return False
    return "window" not in own or distances(cut["window"], own["window"])[0] < 0
