"""Tiles that show the same ground: told by their places or, where one has none, by blocks of their pixels."""
import hashlib
import itertools
import math
from collections import Counter

import numpy as np
import rasterio

from imagery.ground import bounds
from imagery.tiles import CELL

TEXTURE = 0.1  # share of a block's values that differ from their neighbour; flat colours have less
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


def common_ground(headers):
    """{(number, other number): share of the smaller one's bounding box, or NaN} of the tiles whose boxes
    overlap in the coordinate system of one of them; `headers`: a list."""
    georeferences = [header["georeference"] for header in headers]
    placed = [number for number, georeference in enumerate(georeferences) if georeference["transform"]]
    common = {}
    for crs in dict.fromkeys(georeferences[number]["crs"] for number in placed):
        group = np.array([n for n in placed if (georeferences[n]["crs"] is None) == (crs is None)])
        with rasterio.Env():
            boxes = np.array([bounds(headers[n]["shape"], georeferences[n], crs) for n in group])
        for box, number in zip(boxes, group):
            if georeferences[number]["crs"] == crs:
                a, b = georeferences[number]["transform"][:2]
                shares = common_shares(box, boxes, abs(a) + abs(b))
                for other, share in zip(group[shares != 0], shares[shares != 0]):
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
        common.update(itertools.combinations(owners[end - count: end].tolist(), 2))
    return {(one, other): count / min(len(digests[one]), len(digests[other]))
            for (one, other), count in common.items()}


def apart(split, allowed, tiles, common):
    """A line for each two tiles of `common`, {(number, other number): what they share}, that have different
    roles, unless both are allowed."""
    roles = {tile: role for role, names in split.items() for tile in names}
    for pair, shared in sorted(common.items()):
        one, other = (tiles[number] for number in pair)
        if roles[one] != roles[other] and not {one, other} <= set(allowed):
            yield (f"tiles {one} (split.{roles[one]}) and {other} (split.{roles[other]}): {shared}, expected "
                   "different ground, or scores are no test; give both one role, or name both in "
                   "data.allow_overlap")


def check_places(split, headers, allowed):
    """A line for each two tiles of different roles whose bounding boxes overlap, of {tile: header}."""
    common = {pair: "places that cannot be compared" if math.isnan(share) else
              f"{100 * share:.1f} % of the smaller one's bounding box lies in the other's"
              for pair, share in common_ground(list(headers.values())).items()}
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
