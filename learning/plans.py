"""Which patches an epoch trains on, which windows validation covers: plans (NumPy alone).

A plan is an array with a PLAN for each patch; that of an epoch follows from (seed, epoch) alone:

    tile, row, col   where the patch is cut
    side             pixels of the square that is cut there, and resized to the patch size
    view             0..7, one of the eight flips and quarter turns
    seed             of the patch's own random numbers, which change its colours
    rows, cols       at the top and left, where labels are not counted (windows of validation that overlap)

The shuffle is exact, over every window of every tile: 32 bytes a window, some 150 while it is drawn."""
import itertools
import math

import numpy as np

from base.problem import Problem
from imagery.arrays import IGNORE, starts
from imagery.tiles import CELL

PLAN = np.dtype([(name, np.int32) for name in ("tile", "row", "col", "side", "view", "seed", "rows", "cols")])
MOST = 50_000_000  # windows of an epoch


def draw_shares(rng, shape, patch_size, stride):
    """Where windows lie in a tile of this shape: shares 0..1 of the possible starts, float64 [N, 2].

    `stride` "random": one window for each patch-sized cell begun, its start drawn from that cell's own
    stretch of the starts, all equally long: no two epochs cut alike, and each covers the tile about evenly
    (its outermost pixels, which fewer windows can reach, less). Else: a grid, the windows of `starts`."""
    if stride == "random":
        cells = [-(-size // patch_size) for size in shape]
        axes = [(cell + rng.random(cells)) / count for cell, count in zip(np.indices(cells), cells)]
    else:
        axes = np.meshgrid(*((starts(size, patch_size, stride) + 0.5) / (max(size - patch_size, 0) + 1)
                             for size in shape), indexing="ij")
    return np.stack(axes, -1).reshape(-1, 2)


def corners_at(shares, shapes, sides):
    """First rows and columns (int64 [N, 2]) of windows of these sides (int or int [N]) in tiles of these
    shapes ([2] or [N, 2]), from their shares of the possible starts."""
    free = np.maximum(np.asarray(shapes) - np.reshape(sides, (-1, 1)), 0)
    return (shares * (free + 1)).astype(np.int64)


def hold_labels(tile, corners, sides):
    """bool [N]: whether windows of a tile, of these first rows and columns (int [N, 2]) and sides (int or
    [N]) hold a labelled pixel. Counts of the cells that they touch settle most; else the labels are read."""
    labelled, sides = tile.cells.sum(-1), np.broadcast_to(sides, len(corners))
    high, wide = (np.minimum(CELL, size - np.arange(0, size, CELL)) for size in tile.shape)
    ends = np.minimum(corners + sides[:, None], tile.shape)
    touched = corners // CELL, (ends - 1) // CELL + 1
    inside = -(-corners // CELL), np.where(ends == tile.shape, labelled.shape, ends // CELL)

    def any_cell(chosen, between):
        (top, left), (down, right) = (corner.T for corner in between)
        table = np.pad(chosen.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        count = table[down, right] - table[top, right] - table[down, left] + table[top, left]
        return (count > 0) & (down > top) & (right > left)

    held = any_cell(labelled == np.outer(high, wide), touched) | any_cell(labelled > 0, inside)
    for i in np.flatnonzero(any_cell(labelled > 0, touched) & ~held):
        (row, col), side = corners[i], sides[i]
        held[i] = (tile.labels[row: row + side, col: col + side] != IGNORE).any()
    return held


def aim(rng, tiles, sides, wanted):
    """Windows (int64 [N, 3]: tile, row, col) of these sides, each around a random pixel of the wanted class
    (an index) or of any (None): drawn are a cell, by its count of them, a pixel in it, a window that holds
    it."""
    counts = [tile.cells.sum(-1) if wanted is None else tile.cells[..., wanted] for tile in tiles]
    cells = [np.argwhere(table) for table in counts]
    cells = np.column_stack([np.repeat(np.arange(len(tiles)), list(map(len, cells))), np.concatenate(cells)])
    weights = np.concatenate([table[table > 0] for table in counts])
    windows = np.empty((len(sides), 3), np.int64)
    for i, drawn in enumerate(rng.choice(len(cells), len(sides), p=weights / weights.sum())):
        number, *cell = cells[drawn]
        tile, first = tiles[number], np.array(cell) * CELL
        labels = tile.labels[first[0]: first[0] + CELL, first[1]: first[1] + CELL]
        pixels = np.argwhere(labels != IGNORE if wanted is None else labels == wanted)
        pixel = first + pixels[rng.integers(len(pixels))]
        low = np.maximum(pixel - sides[i] + 1, 0)
        high = np.maximum(np.minimum(pixel, np.array(tile.shape) - sides[i]), low)
        windows[i] = number, *rng.integers(low, high + 1)
    return windows


def aims_of(tiles, settings):
    """{class index: share of the patches} of input.aim. Problem (exit 3) where a class has no pixel."""
    classes = list(settings["data"]["classes"])
    aims = {classes.index(name): share for name, share in settings["input"]["aim"].items()}
    missing = [classes[i] for i in aims if not any(tile.cells[..., i].any() for tile in tiles)]
    if missing:
        raise Problem(f"settings, key input.aim: {', '.join(missing)}, expected classes with labelled "
                      "pixels in split.train; leave it out", code=3)
    return aims


def draw_windows(rng, tiles, patch_size, stride):
    """Windows in random order over all tiles: their tiles (int64 [N]) and shares (float64 [N, 2]). Those of a
    grid all hold a label. Problem (exit 2) where a grid has more windows than memory holds."""
    if stride != "random":
        windows = sum(math.prod(-(-size // stride) for size in tile.shape) for tile in tiles)
        if windows > MOST:
            raise Problem(f"settings, key input.stride: {stride}, about {windows:,} patches an epoch, "
                          f"expected at most {MOST:,}; take a larger one", code=2)
    drawn = []
    for number, tile in enumerate(tiles):
        shares = draw_shares(rng, tile.shape, patch_size, stride)
        if stride != "random":
            shares = shares[hold_labels(tile, corners_at(shares, tile.shape, patch_size), patch_size)]
        drawn.append(np.column_stack([np.full(len(shares), number), shares]))
    drawn = rng.permutation(np.concatenate(drawn))
    return drawn[:, 0].astype(np.int64), drawn[:, 1:]


def replace_empty(rng, tiles, windows, sides, shares, patch):
    """Changes in place the windows (int64 [N, 3]: tile, row, col) and sides (int64 [N]) without a label."""
    by_tile = np.argsort(windows[:, 0], kind="stable")
    ends = np.searchsorted(windows[by_tile, 0], np.arange(1, len(tiles)))
    empty = np.concatenate([own[~hold_labels(tile, windows[own, 1:], sides[own])]
                            for tile, own in zip(tiles, np.split(by_tile, ends))])
    if patch["stride"] == "random":
        windows[empty] = aim(rng, tiles, sides[empty], None)
    else:  # the part of a window that is magnified has no label, the whole window has
        sides[empty] = patch["patch_size"]
        shapes = np.array([tile.shape for tile in tiles])[windows[empty, 0]]
        windows[empty, 1:] = corners_at(shares[empty], shapes, patch["patch_size"])


def plan_epoch(tiles, settings, epoch):
    """The patches of one training epoch (0, 1, ...), exactly shuffled over all tiles: PLAN [N], N the same in
    every epoch. Problem where input.aim (exit 3) or input.stride (exit 2) cannot be followed.

    `input.stride`: as in `draw_shares`. `input.aim`: shares of the patches, which are drawn around a pixel of
    that class instead. `augment.scale` [low, high]: every patch is magnified by a factor between them, drawn
    evenly on a logarithmic scale. No window without a labelled pixel is drawn: on a grid it is left out, a
    random one is drawn anew around a labelled pixel (a patch that is shrunk may still lose a lone one)."""
    patch_size, stride = settings["input"]["patch_size"], settings["input"]["stride"]
    aims = aims_of(tiles, settings)
    rng = np.random.default_rng([settings["seed"], epoch])
    numbers, shares = draw_windows(rng, tiles, patch_size, stride)
    count, shapes = len(numbers), np.array([tile.shape for tile in tiles])
    factors = np.exp(rng.uniform(*np.log(settings["augment"]["scale"]), count))
    sides = np.rint(patch_size / factors).astype(np.int64)
    windows = np.column_stack([numbers, corners_at(shares, shapes[numbers], sides)])
    done = 0
    for wanted, share in aims.items():
        chosen = slice(done, done + round(share * count))
        windows[chosen] = aim(rng, tiles, sides[chosen], wanted)
        done = chosen.stop
    replace_empty(rng, tiles, windows, sides, shares, settings["input"])
    plan = np.zeros(count, PLAN)
    plan["tile"], plan["row"], plan["col"] = windows.T
    plan["side"] = sides
    views = views_of(settings["augment"])
    plan["view"] = np.take(views, rng.integers(len(views), size=count)) if len(views) > 1 else views[0]
    plan["seed"] = rng.integers(2**31, size=count)
    return plan[rng.permutation(count)]


def views_of(augment):
    """The numbers of the views (`imagery.arrays.view`) that patches are shown in."""
    views = augment["views"]
    return views if isinstance(views, list) else list(range(8 if views else 1))


def validation_plan(tiles, patch_size, batch_size):
    """Windows in order that cover every tile, each pixel counted once: PLAN [N]. Where windows overlap at far
    edges, only the first counts. N is filled up to whole batches with patches that count nothing."""
    plan = []
    for number, tile in enumerate(tiles):
        axes = [starts(size, patch_size, patch_size) for size in tile.shape]
        axes = [zip(first, np.maximum(patch_size - np.diff(first, prepend=-patch_size), 0)) for first in axes]
        plan += [(number, row, col, patch_size, 0, 0, rows, cols)
                 for (row, rows), (col, cols) in itertools.product(*axes)]
    plan += [(0, 0, 0, patch_size, 0, 0, patch_size, patch_size)] * (-len(plan) % batch_size)
    return np.array(plan, PLAN)


def shard(plan, batch_size, worker=0, workers=1):
    """The part of a plan's whole batches that one of several workers cuts: an equal part of each, PLAN
    [batches, batch_size / workers], so that together they cut the same batches as one worker alone."""
    whole = plan[: len(plan) // batch_size * batch_size]
    return whole.reshape(-1, workers, batch_size // workers)[:, worker]
