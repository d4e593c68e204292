"""Blocks: an orthophoto cut into rectangles of the three roles, with a guard strip between roles. They are
drawn by the labels of the whole raster; a block that is drawn is a tile like any other."""
import numpy as np

from base.blocks import raster_of, uncut
from base.keys import BLOCK
from base.problem import Problem
from base.settings import is_drawn, roles_of
from imagery.arrays import IGNORE, strips
from imagery.ground import moved
from imagery.tiles import count_cells, open_prepared, read_manifest

LACKS = 40, 10, 20  # cost of a class that training, validation or test have no pixel of; shares cost up to 2
TRIES = 8  # random beginnings, of which the best end counts


def edges(size, side):
    """Where an axis of `size` pixels is cut into blocks of at least `side`, alike but for a pixel, from 0 to
    `size`: int64 [N + 1]. A shorter axis is one block."""
    return np.rint(np.linspace(0, size, max(1, size // side) + 1)).astype(np.int64)


def halves(guard):
    """(pixels before, after) an edge between two roles that no block has: together the guard."""
    return guard // 2, guard - guard // 2


def count_cores(labels, blocks, classes):
    """Labelled pixels of each class in each block's core, int64 [rows, cols, C]: in what the block keeps when
    all its neighbours have another role. `labels`: uint8 [H, W]; `blocks`: split.blocks."""
    before, after = halves(blocks["guard"])
    rows, cols = (edges(size, blocks["side"]) for size in labels.shape)
    counts = np.zeros((len(rows) - 1, len(cols) - 1, classes), np.int64)
    for row, col in np.ndindex(counts.shape[:2]):
        (top, bottom), (left, right) = ((first + after * (first > 0), last - before * (last < size))
                                        for first, last, size in zip((rows[row], cols[col]),
                                                                     (rows[row + 1], cols[col + 1]),
                                                                     labels.shape))
        core = np.bincount(labels[top:bottom, left:right].ravel(), minlength=IGNORE + 1)
        counts[row, col] = core[:classes]
    return counts


def draw_roles(counts, shares, seed):
    """The role of each block (int64 [N]: 0, 1, 2; -1 of one without a labelled pixel), of their pixels of
    each class (int64 [N, C]) and the roles' shares.

    As in iterative stratification (Sechidis, Tsoumakas and Vlahavas, On the Stratification of Multi-Label
    Data, 2011) every role is to have its share of each class, and of all pixels; and no class may be missing
    in a role where another draw has it. From random roles on, that block changes its role which brings these
    nearer most, until none does."""
    labelled, wanted = counts.any(1), np.array(shares, float)[:, None]
    amounts = np.column_stack([counts, counts.sum(1)])[labelled]
    parts = amounts / np.maximum(amounts.sum(0), 1)  # [N, C + 1]: of all that there is of a class
    roles, best = np.full(len(counts), -1), np.inf
    for attempt in range(TRIES if len(parts) else 0):
        order = np.random.default_rng([seed, attempt]).permutation(len(parts))
        middle = np.cumsum(parts[order, -1]) - parts[order, -1] / 2
        tried = np.searchsorted(np.cumsum(shares)[:-1], middle)[np.argsort(order)]
        cost = improve(tried, parts, wanted)
        if cost < best:
            best, roles[labelled] = cost, tried
    return roles


def improve(roles, parts, wanted):
    """Changes roles (int64 [N]) in place, one at a time, and returns what they cost at the end: by how much
    the roles' shares of `parts` [N, C + 1] differ from `wanted` [3, 1], and LACKS."""
    has, occurs = parts > 0, (parts > 0).any(0) & (wanted > 0)

    def cost(share, blocks):  # [..., 3, C + 1] each
        lacking = (blocks == 0) & occurs
        return np.abs(share - wanted).sum((-1, -2)) + lacking.sum(-1) @ np.array(LACKS, float)

    while True:
        member = np.eye(3)[roles]
        share, blocks = member.T @ parts, member.T @ has
        moves = (np.eye(3) - member[:, None])[..., None]  # [N, 3, 3, 1]: what each new role adds to each
        costs = cost(share + moves * parts[:, None, None], blocks + moves * has[:, None, None])
        block, role = np.unravel_index(costs.argmin(), costs.shape)
        if costs[block, role] > cost(share, blocks) - 1e-3:
            return float(cost(share, blocks))
        roles[block] = role


def guarded(roles, shape, blocks):
    """{(row, col): [first row, first column, height, width]} of the blocks that have a role (`roles`: int64
    [rows, cols]) in a raster of `shape`. Two blocks of different roles that meet at a side, or at nothing but
    a corner, are each pulled in by about half of the guard, so that so many pixels lie between them."""
    pulled = np.zeros((4, *roles.shape), bool)  # top, bottom, left, right
    top, bottom, left, right = pulled

    def differ(one, other):
        return (one != other) & (one >= 0) & (other >= 0)

    bottom[:-1] = top[1:] = differ(roles[:-1], roles[1:])
    right[:, :-1] = left[:, 1:] = differ(roles[:, :-1], roles[:, 1:])
    for row, col in np.ndindex(roles.shape[0] - 1, roles.shape[1] - 1):
        for one, other, sides in ((col, col + 1, (right, left)), (col + 1, col, (left, right))):
            apart = (bottom[row, one] and top[row + 1, other]) or all(
                side[place] for side, place in zip(sides, ((row, one), (row + 1, other))))
            if differ(roles[row, one], roles[row + 1, other]) and not apart:
                bottom[row, one] = top[row + 1, other] = True
    before, after = halves(blocks["guard"])
    rows, cols = (edges(size, blocks["side"]) for size in shape)
    windows = {}
    for row, col in np.argwhere(roles >= 0).tolist():
        first = rows[row] + after * top[row, col], cols[col] + after * left[row, col]
        last = rows[row + 1] - before * bottom[row, col], cols[col + 1] - before * right[row, col]
        windows[row, col] = [*map(int, first), *(int(b - a) for a, b in zip(first, last))]
    return windows


def draw(split, data, rasters):
    """(the section split with the names of blocks, {block: {"raster", "window"}}) of the prepared `rasters`;
    windows as of `guarded`. Problem (exit 3) where a role gets nothing, or split names no such block."""
    blocks, manifest = split["blocks"], read_manifest(data["prepared"])
    labels = {raster: open_prepared(data, raster, manifest, checked=False).labels for raster in rasters}
    counts = {raster: count_cores(own, blocks, len(data["classes"])) for raster, own in labels.items()}
    roles = named_roles(split, counts) if is_drawn(split) else drawn_roles(blocks, counts)
    names = {role: [tile for tile in tiles if role != "train" and raster_of(tile, split) == tile]
             for role, tiles in roles_of(split).items()}  # of tiles that are no blocks
    cuts = {}
    for raster, own in roles.items():
        for (row, col), window in guarded(own, labels[raster].shape, blocks).items():
            block = f"{raster}/{row:02d}_{col:02d}"
            names[list(names)[own[row, col]]].append(block)
            cuts[block] = {"raster": raster, "window": window}
    empty = [f"split.{role}" for role, tiles in names.items() if not tiles]
    if empty:
        raise Problem(f"blocks of {', '.join(rasters)}: {len(cuts)} with labels away from their border, none "
                      f"of them for {' and '.join(empty)}, expected more; lower split.blocks' side or guard",
                      code=3)
    return {**names, "blocks": blocks}, cuts


def drawn_roles(blocks, counts):
    """{raster: int64 [rows, cols]}: the roles of blocks as of `draw_roles`, of {raster: `count_cores`}."""
    every = np.concatenate([own.reshape(-1, own.shape[2]) for own in counts.values()])
    ends = np.cumsum([own[..., 0].size for own in counts.values()])[:-1]
    parts = np.split(draw_roles(every, blocks["shares"], blocks["seed"]), ends)
    return {raster: part.reshape(own.shape[:2]) for part, (raster, own) in zip(parts, counts.items())}


def named_roles(split, counts):
    """The same as split names them."""
    roles = {raster: np.full(own.shape[:2], -1) for raster, own in counts.items()}
    for number, (role, tiles) in enumerate(roles_of(split).items()):
        for tile in [tile for tile in tiles if raster_of(tile, split) != tile]:
            raster, row, col = BLOCK.fullmatch(tile).groups()
            rows, cols = roles[raster].shape
            if int(row) >= rows or int(col) >= cols:
                raise Problem(f"block {tile} in split.{role}: not there, expected one of {rows} rows and "
                              f"{cols} columns of blocks; see split.blocks", code=3)
            roles[raster][int(row), int(col)] = number
    return roles


def begin_row(cut, row):
    """A block's row of the manifest before its pixels are read, of that of its raster, whose counts of
    repaired and other pixels it keeps: "audited" is the size of what these are of."""
    first, size, digests = cut["window"][:2], cut["window"][2:], {}
    for kind, file in row["files"].items():
        digests[kind] = file["sha256"]
    return {**row, "shape": [*size, row["shape"][2]], "georeference": moved(row["georeference"], *first),
            "cut": {**cut, "sha256": digests, "pixels_sha256": row["pixels_sha256"]},
            "audited": row["shape"][:2]}


def read_block(tile, window, audit, classes):
    """Yields the part of a prepared Tile in a window by strips of rows, as imagery.audits.read_tile does, and
    adds them to its audit."""
    row, col, height, width = window
    for start, stop in strips(height, width):
        part = slice(row + start, row + stop), slice(col, col + width)
        image = np.ascontiguousarray(tile.image[part])
        audit.add_image(image, np.ones(image.shape[:2], bool))
        audit.cells.append(count_cells(tile.labels[part], classes))
        yield {"pixels": tile.pixels[part], **({} if tile.eroded is None else {"eroded": tile.eroded[part]})}


def describe_blocks(split, rasters, rows):
    """Yields a line for each raster that was cut: how much of it each role has, and what is in none.
    `rasters` and `rows`: {name: row of the manifest} of whole rasters, and of the tiles of `split`."""
    for raster in uncut(split)["train"]:
        labelled, parts, left = sum(rasters[raster]["classes"].values()), [], 100
        for role, tiles in roles_of(split).items():
            own = [tile for tile in tiles if tile != raster and raster_of(tile, split) == raster]
            share = 100 * sum(sum(rows[tile]["classes"].values()) for tile in own) / max(1, labelled)
            parts.append(f"{role} {share:.1f} % ({len(own)} blocks)")
            left -= share
        yield f"{raster:>12}  of its labelled pixels {', '.join(parts)}, left out {left:.1f} %"
