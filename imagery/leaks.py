"""Tiles that show the same ground: told by their places or, where one has none, by blocks of the same pixels.
"""
import base64
import hashlib
import itertools
import math
from collections import Counter

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import CRSError, RasterioError
from rasterio.transform import array_bounds
from rasterio.warp import transform_bounds

BLOCK = 128  # pixels: side of the squares whose pixels are compared
TEXTURE = 0.1  # share of a block's values that differ from their neighbour, above which it is no flat colour
NOTICEABLE = 0.01  # share of a tile's blocks; fewer may be a logo that is printed on every image


def may_meet(one, other, roles, allowed):
    """True where two tiles may show the same ground: both have one role, or both are allowed by name."""
    return roles[one] == roles[other] or {one, other} <= set(allowed)


def leak(one, other, roles, common):
    return (f"tiles {one} (split.{roles[one]}) and {other} (split.{roles[other]}): {common}, expected different "
            "ground, or scores are no test; give both one role, or name both in data.allow_overlap")


# -- by place ----------------------------------------------------------------------------------------------

def bounding_box(header, crs):
    """A tile's left, bottom, right and top in a coordinate system; NaN where its place makes no sense
    there."""
    place = header["georeference"]
    box = array_bounds(*header["shape"][:2], rasterio.Affine(*place["transform"]))
    if place["crs"] != crs:
        try:
            box = transform_bounds(place["crs"], crs, *box)
        except (RasterioError, CRSError, CPLE_BaseError):
            return [math.nan] * 4
    if not np.isfinite(box).all():
        return [math.nan] * 4
    left, bottom, right, top = box
    return min(left, right), min(bottom, top), max(left, right), max(bottom, top)


def shares(box, boxes, pixel):
    """Share of the smaller of two bounding boxes that the other covers too, of a box [4] with each of `boxes`
    [N, 4]: float64 [N]. Less than a pixel's width in common, as neighbours have by rounding, is 0."""
    wide, high = (np.minimum(box[end], boxes[:, end]) - np.maximum(box[start], boxes[:, start])
                  for start, end in ((0, 2), (1, 3)))
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    smaller = np.minimum(areas, (box[2] - box[0]) * (box[3] - box[1]))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((wide < pixel) | (high < pixel), 0, wide * high / smaller)


def comparable(one, other):
    """True where the places of two tiles, by their headers, can be compared: both are known, and both name a
    coordinate system or neither does."""
    one, other = one["georeference"], other["georeference"]
    return bool(one["transform"] and other["transform"]) and (one["crs"] is None) == (other["crs"] is None)


def check_places(split, headers, allowed):
    """A line for each two tiles of different roles whose bounding boxes overlap; `headers` is {tile: header}.

    The boxes are compared in the coordinate system of either tile: one may show what the other hides.
    """
    roles = {tile: role for role, tiles in split.items() for tile in tiles}
    names = [tile for tile in headers if headers[tile]["georeference"]["transform"]]
    systems = [headers[tile]["georeference"]["crs"] for tile in names]
    found = {}
    for crs in dict.fromkeys(systems):
        group = [number for number, other in enumerate(systems) if (other is None) == (crs is None)]
        with rasterio.Env():
            boxes = np.array([bounding_box(headers[names[number]], crs) for number in group])
        for at, number in enumerate(group):
            if systems[number] == crs:
                transform = headers[names[number]]["georeference"]["transform"]
                row = shares(boxes[at], boxes, abs(transform[0]) + abs(transform[1]))
                found.update({(number, group[other]): row[other] for other in np.flatnonzero(row)})
    for first, second in sorted({(min(pair), max(pair)) for pair in found}):
        one, other = names[first], names[second]
        if first == second or may_meet(one, other, roles, allowed):
            continue
        share = found.get((first, second)) or found[second, first]
        yield leak(one, other, roles, "places that cannot be compared" if math.isnan(share) else
                   f"{100 * share:.1f} % of the smaller one's bounding box lies in the other's")


def without_place(headers):
    """The tiles whose place is not known: without a transform, or without a coordinate system where others
    have one."""
    places = {tile: header["georeference"] for tile, header in headers.items()}
    named = any(place["crs"] for place in places.values())
    return [tile for tile, place in places.items() if not place["transform"] or (named and not place["crs"])]


# -- by pixels ---------------------------------------------------------------------------------------------

def digest_blocks(image, valid):
    """Digests (uint64 [N]) of the whole BLOCK x BLOCK squares of an image (uint8 [H, W, B]) from the top left. Pixels
    without data (`valid`: bool [H, W]) are black; squares of flat colours, as such borders have, are left out."""
    if not valid.all():
        image = np.where(valid[..., None], image, 0)
    digests = []
    for row in range(0, image.shape[0] - BLOCK + 1, BLOCK):
        for col in range(0, image.shape[1] - BLOCK + 1, BLOCK):
            block = np.ascontiguousarray(image[row: row + BLOCK, col: col + BLOCK])
            if (block[:, 1:] != block[:, :-1]).mean() > TEXTURE:
                digests.append(hashlib.blake2b(block, digest_size=8).digest())
    return np.frombuffer(b"".join(digests), np.uint64)


def blocks_text(digests):
    """Digests (uint64 [N]) as the manifest holds them: each once, in rising order, base64."""
    return base64.b64encode(np.unique(digests).tobytes()).decode()


def common_blocks(blocks):
    """{(number, other number): how many blocks they share} of arrays of digests (uint64 [N], each once)."""
    together = np.concatenate(blocks)
    owners = np.repeat(np.arange(len(blocks)), [len(own) for own in blocks])[np.argsort(together, kind="stable")]
    _, counts = np.unique(together, return_counts=True)
    ends = np.cumsum(counts)
    common = Counter()
    for end, count in zip(ends[counts > 1], counts[counts > 1]):
        common.update(itertools.combinations(owners[end - count: end].tolist(), 2))
    return common


def check_blocks(split, headers, blocks, allowed):
    """A line for each two tiles of different roles that share blocks of pixels, where their places cannot
    tell; `blocks` is {tile: blocks_text}."""
    roles, names = {tile: role for role, tiles in split.items() for tile in tiles}, list(blocks)
    digests = [np.frombuffer(base64.b64decode(text), np.uint64) for text in blocks.values()]
    if not without_place(headers):
        return
    for (first, second), count in sorted(common_blocks(digests).items()):
        one, other = names[first], names[second]
        share = count / min(len(digests[first]), len(digests[second]))
        if (share >= NOTICEABLE and not may_meet(one, other, roles, allowed)
                and not comparable(headers[one], headers[other])):
            yield leak(one, other, roles, f"{100 * share:.1f} % of the smaller one's squares of {BLOCK} px have the "
                       "same pixels as the other's")


def check_twins(digests):
    """A line for each tile whose image has the same pixels as an earlier one's; `digests` is {tile:
    sha256}."""
    first = {}
    for tile, digest in digests.items():
        if first.setdefault(digest, tile) != tile:
            yield (f"tiles {first[digest]} and {tile}: the same pixels, expected different images; take one out of "
                   "split or fetch the right file")
