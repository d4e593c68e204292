"""Patches of prepared tiles: which ones an epoch draws, how they are cut, turned, scaled and recoloured (NumPy alone).

An epoch is a plan, an int32 array with one row of eight numbers for each patch, made from (seed, epoch) alone:

    tile, row, col   where the patch is cut
    side             pixels of the square that is cut there, and resized to the patch size
    view             0..7, one of the eight flips and quarter turns
    seed             of the patch's own random numbers: colours, blur, noise
    rows, cols       at the top and left, where labels are not counted (windows of validation that overlap)

The shuffle is exact, over every window of every tile; it costs 32 bytes a window, and some 150 while it is drawn.
Pixels are cut from memory maps, each with its bands and its label as one machine word, so that any view of a patch is
one strided copy.
"""
import functools
import math
import threading

import numpy as np

from base.problem import Problem
from imagery.arrays import IGNORE, cut, starts, view
from imagery.tiles import CELL

SEED = 5  # the column of a plan that holds it
MOST = 50_000_000  # windows of an epoch


# -- which patches ----------------------------------------------------------------------------------------------------

def draw_places(rng, shape, patch_size, stride):
    """Places of windows in a tile of this shape, as shares 0..1 of the possible starts along both axes: float64 [N, 2].

    `stride` "random": one window for each patch-sized cell begun, its start drawn from that cell's own stretch of the
    starts, all equally long: no two epochs cut alike, and each covers the tile about evenly (its outermost pixels,
    which fewer windows can reach, less). Else: the grid of evenly spread windows of `starts`.
    """
    if stride == "random":
        cells = [-(-size // patch_size) for size in shape]
        axes = [(cell + rng.random(cells)) / count for cell, count in zip(np.indices(cells), cells)]
    else:
        axes = np.meshgrid(*((starts(size, patch_size, stride) + 0.5) / (max(size - patch_size, 0) + 1)
                             for size in shape), indexing="ij")
    return np.stack(axes, -1).reshape(-1, 2)


def place(shares, shapes, sides):
    """First rows and columns (int64 [N, 2]) of windows of these sides (int or int [N]) in tiles of these shapes ([2] or
    [N, 2]), from their shares of the possible starts."""
    return (shares * (np.maximum(np.asarray(shapes) - np.reshape(sides, (-1, 1)), 0) + 1)).astype(np.int64)


def hold_labels(tile, corners, sides):
    """True for every window of a tile, given by first row and column (int [N, 2]) and side (int or int [N]), that holds
    a labelled pixel.

    The counts of the cells that a window touches settle most; at the labels themselves it looks only for the rest.
    """
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
    """Windows (int64 [N, 3]: tile, row, col) of these sides, each around a random pixel of the wanted class (an
    index), or of any class (None): first a cell by its count of them, then a pixel in it, then a window that holds it.
    """
    counts = [tile.cells[..., wanted].ravel() if wanted is not None else tile.cells.sum(-1).ravel() for tile in tiles]
    ends, counts = np.cumsum([len(part) for part in counts]), np.concatenate(counts)
    windows = np.empty((len(sides), 3), np.int64)
    for i, cell in enumerate(rng.choice(len(counts), len(sides), p=counts / counts.sum())):
        number = int(np.searchsorted(ends, cell, side="right"))
        labels = tiles[number].labels
        row, col = np.array(divmod(cell - (ends[number] - tiles[number].cells[..., 0].size),
                                   tiles[number].cells.shape[1])) * CELL
        part = labels[row: row + CELL, col: col + CELL]
        found = np.flatnonzero(part == wanted if wanted is not None else part != IGNORE)
        pixel = np.array([row, col]) + divmod(found[rng.integers(len(found))], part.shape[1])
        low = np.maximum(pixel - sides[i] + 1, 0)
        high = np.maximum(np.minimum(pixel, np.array(labels.shape) - sides[i]), low)
        windows[i] = number, *rng.integers(low, high + 1)
    return windows


def training_plan(tiles, patch_size, stride, targets, views, scale, seed, epoch):
    """The patches of one training epoch, exactly shuffled over all tiles: int32 [N, 8] (see above).

    `stride`: as in `draw_places`. `targets` maps class indices to shares of the patches, which are drawn around a pixel
    of that class instead. `views` False keeps view 0. `scale` (low, high): every patch is magnified by a factor drawn
    between them, evenly on a logarithmic scale. No window without a labelled pixel is drawn: on a grid it is left out,
    a random one is drawn anew around a labelled pixel (a patch that is shrunk may still lose a lone one). N is the same
    in every epoch.
    """
    rng = np.random.default_rng([seed, epoch])
    drawn = []
    for number, tile in enumerate(tiles):
        shares = draw_places(rng, tile.shape, patch_size, stride)
        if stride != "random":
            shares = shares[hold_labels(tile, place(shares, tile.shape, patch_size), patch_size)]
        drawn.append(np.column_stack([np.full(len(shares), number), shares]))
    drawn = rng.permutation(np.concatenate(drawn))
    count, shares, shapes = len(drawn), drawn[:, 1:], np.array([tile.shape for tile in tiles])
    sides = np.rint(patch_size / np.exp(rng.uniform(*np.log(scale), count))).astype(np.int64)
    windows = drawn.astype(np.int64)
    windows[:, 1:] = place(shares, shapes[windows[:, 0]], sides)
    done = 0
    for wanted, share in targets.items():
        chosen = slice(done, done + round(share * count))
        windows[chosen] = aim(rng, tiles, sides[chosen], wanted)
        done = chosen.stop
    for number, tile in enumerate(tiles):
        own = np.flatnonzero(windows[:, 0] == number)
        empty = own[~hold_labels(tile, windows[own, 1:], sides[own])]
        if stride == "random":
            windows[empty] = aim(rng, tiles, sides[empty], None)
        else:  # the part of a window that is magnified has no label, the whole window has
            sides[empty] = patch_size
            windows[empty, 1:] = place(shares[empty], tile.shape, patch_size)
    plan = np.zeros((count, 8), np.int32)
    plan[:, :3], plan[:, 3] = windows, sides
    plan[:, 4] = rng.integers(8, size=count) if views else 0
    plan[:, SEED] = rng.integers(2**31, size=count)
    return plan[rng.permutation(count)]


def plan_epoch(tiles, settings, epoch):
    """`training_plan` of an epoch (0, 1, ...) by the settings of a run. Problem (exit 3) where a class that input.aim
    names has no pixel in the training tiles."""
    patch, augment, classes = settings["input"], settings["augment"], list(settings["data"]["classes"])
    targets = {classes.index(name): share for name, share in patch["aim"].items()}
    missing = [classes[i] for i in targets if not any(tile.cells[..., i].any() for tile in tiles)]
    if missing:
        raise Problem(f"settings, key input.aim: {', '.join(missing)}, expected classes with labelled pixels in "
                      "split.train; leave it out", code=3)
    if patch["stride"] != "random":
        windows = sum(math.prod(-(-size // patch["stride"]) for size in tile.shape) for tile in tiles)
        if windows > MOST:
            raise Problem(f"settings, key input.stride: {patch['stride']}, about {windows:,} patches an epoch, "
                          f"expected at most {MOST:,}; take a larger one", code=2)
    return training_plan(tiles, patch["patch_size"], patch["stride"], targets, augment["views"], augment["scale"],
                         settings["seed"], epoch)


def validation_plan(tiles, patch_size, batch_size):
    """Windows in order that cover every tile, each pixel counted once: a plan (int32 [N, 8]) as `training_plan`'s.

    Where windows overlap at a tile's far edges, only the first counts. N is filled up to whole batches with patches
    that count nothing.
    """
    plan = []
    for number, tile in enumerate(tiles):
        first = [starts(size, patch_size, patch_size) for size in tile.shape]
        covered = [np.maximum(patch_size - np.diff(s, prepend=-patch_size), 0) for s in first]
        plan += [(number, row, col, patch_size, 0, 0, rows, cols) for row, rows in zip(first[0], covered[0])
                 for col, cols in zip(first[1], covered[1])]
    plan += [(0, 0, 0, patch_size, 0, 0, patch_size, patch_size)] * (-len(plan) % batch_size)
    return np.array(plan, np.int32)


def shard(plan, batch_size, worker=0, workers=1):
    """The part of a plan's whole batches that one of several workers cuts: an equal part of each, so that together they
    see each window once, and the same batches as one worker alone. `batch_size` must be a multiple of `workers`."""
    whole = plan[: len(plan) // batch_size * batch_size]
    return whole.reshape(-1, workers, batch_size // workers, plan.shape[1])[:, worker].reshape(-1, plan.shape[1])


def cut_batch(tiles, plan, patch_size, texture=None):
    """The patches of a plan (int32 [N, 8]) as pixels: uint8 [N, P, P, depth], bands, then the label, then zeros.

    Where a patch reaches past its tile the image is mirrored and labels are IGNORE. `texture` are the keyword
    arguments of `roughen`, None leaves the pixels as they are.
    """
    words, bands = tiles[0].words, tiles[0].bands
    batch = np.empty((len(plan), patch_size, patch_size, words.shape[2]), words.dtype)
    pixels = batch.view(np.uint8)
    for i, (number, row, col, side, turn, seed, rows, cols) in enumerate(plan.tolist()):
        tile = tiles[number]
        words = tile.words[row: row + side, col: col + side]
        if words.shape[:2] != (side, side):
            high, wide = words.shape[:2]
            words = cut(tile.words, row, col, side)
            labels = words.view(np.uint8)[..., bands]
            labels[high:] = labels[:, wide:] = IGNORE
        if side != patch_size:
            words = resize(words.view(np.uint8), patch_size, bands).view(words.dtype)
        batch[i] = view(words, turn)
        if rows or cols:
            pixels[i, :rows, :, bands] = pixels[i, :, :cols, bands] = IGNORE
        if texture:
            roughen(pixels[i], np.random.default_rng([seed, 1]), **texture)
    return pixels


_kept = threading.local()


def scratch(name, shape):
    """An int16 array of this thread's own, kept for the next call: fresh memory costs more than the arithmetic."""
    size = math.prod(shape)
    if getattr(_kept, name, np.empty(0)).size < size:
        setattr(_kept, name, np.empty(size, np.int16))
    return getattr(_kept, name)[:size].reshape(shape)


def blend(low, high, weights):
    """low + (high - low) * weights / 128, rounded, in place of `high`; all int16."""
    high -= low
    high *= weights
    high += 64
    high >>= 7
    high += low
    return high


@functools.lru_cache(maxsize=4096)
def neighbours(side, size):
    """Of an axis of `side` pixels resized to `size`: for each new pixel the old one before its centre and the one
    after it, the weight of the latter in 128ths (int16), and the nearest one."""
    at = (np.arange(size) + 0.5) * side / size - 0.5
    first = np.clip(np.floor(at), 0, side - 1).astype(np.int64)
    weights = np.clip(np.rint((at - first) * 128), 0, 128).astype(np.int16)
    return first, np.minimum(first + 1, side - 1), weights, (2 * np.arange(size) + 1) * side // (2 * size)


def resize(pixels, size, bands):
    """Pixels (uint8 [S, S, depth]) resized to [size, size, depth]: bands bilinearly, labels to the nearest pixel.

    Pixel centres correspond, as in OpenCV's INTER_LINEAR; in whole numbers, weights in 128ths.
    """
    side, depth = pixels.shape[1:]
    first, second, weights, nearest = neighbours(side, size)
    source = scratch("source", pixels.shape)
    source[:] = pixels

    def between(array, axis, weights):
        """Along one axis, what lies between its `first` and `second` elements."""
        shape = (size, *array.shape[1:]) if axis == 0 else (size, size, depth)
        low, high = (array.take(place, axis, scratch(f"{name}{axis}", shape), "clip")  # clip: no buffer in between
                     for name, place in (("low", first), ("high", second)))
        return blend(low.reshape(size, -1), high.reshape(size, -1), weights).reshape(shape)

    rows = between(source, 0, weights[:, None])
    result = between(rows, 1, np.repeat(weights, depth)).astype(np.uint8)
    result[..., bands] = pixels[..., bands].take(nearest, 0).take(nearest, 1)
    return result


def roughen(pixels, rng, bands, blur, noise):
    """Blurs and roughens the first `bands` bands of pixels (uint8 [P, P, depth]) in place.

    `blur`: at most so many passes, drawn evenly, of a 3 x 3 binomial filter (n passes: standard deviation sqrt(n / 2)
    pixels). `noise`: normal, its standard deviation drawn evenly up to so many grey levels. 2 to 3 ms a patch.
    """
    for _ in range(rng.integers(blur + 1) if blur else 0):
        for axis in (0, 1):
            wide = np.pad(pixels[..., :bands].astype(np.uint16), [(axis == 0,) * 2, (axis == 1,) * 2, (0, 0)], "edge")
            before, here, after = (wide.take(range(i, i + len(pixels)), axis) for i in range(3))
            pixels[..., :bands] = (before + 2 * here + after + 2) // 4
    if noise:
        grain = rng.standard_normal((*pixels.shape[:2], bands), np.float32) * np.float32(rng.uniform(0, noise))
        pixels[..., :bands] = np.clip(np.rint(pixels[..., :bands] + grain), 0, 255)


# -- their colours ----------------------------------------------------------------------------------------------------

def changes_of(settings):
    """The settings that change pixels: {"texture": arguments of `roughen`, "colour": arguments of `draw_colours`}, each
    None where none of its own is on. The extra raster is no colour: its band stays as it is."""
    changes = {}
    for kind, keys in (("texture", ("blur", "noise")), ("colour", ("brightness", "contrast", "saturation", "hue"))):
        chosen = {key: settings["augment"][key] for key in keys}
        changes[kind] = {"bands": len(settings["data"]["bands"]), **chosen} if any(chosen.values()) else None
    return changes


def draw_colours(pixels, seeds, bands, brightness, contrast, saturation, hue):
    """Random changes of colour for N patches (uint8 [N, P, P, depth]), one matrix and offset each: float32 [N, B, B]
    and [N, B]; `recolour` applies them.

    Each change is drawn evenly: factors of brightness, contrast and saturation from 1 - s to 1 + s, hue as a turn
    around the grey axis by at most that share of a full circle. Contrast is about the mean of the patch, saturation
    about the mean of a pixel's bands.
    """
    matrices, offsets = np.empty((len(seeds), bands, bands), np.float32), np.empty((len(seeds), bands), np.float32)
    for i, seed in enumerate(seeds.tolist()):
        rng = np.random.default_rng([seed, 0])
        gain, sharp, colourful = (1 + rng.uniform(-reach, reach) for reach in (brightness, contrast, saturation))
        matrix = colourful * np.eye(bands) + (1 - colourful) / bands
        if hue:
            angle, axis = 2 * np.pi * rng.uniform(-hue, hue), np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
            turn = np.cos(angle) * np.eye(3) + np.sin(angle) * axis + (1 - np.cos(angle)) / 3  # Rodrigues' formula
            matrix = turn @ matrix
        matrices[i] = gain * sharp * matrix
        offsets[i] = gain * (1 - sharp) * pixels[i, ::8, ::8, :bands].mean()
    return matrices, offsets


def recolour(pixels, matrices, offsets):
    """Patches (uint8 [N, P, P, depth]) with their first B bands as matrix @ bands + offset, rounded and clipped.

    The pipeline does the same in one compiled pass."""
    bands, changed = offsets.shape[1], pixels.copy()
    colours = np.einsum("nhwi,nji->nhwj", pixels[..., :bands].astype(np.float32), matrices) + offsets[:, None, None]
    changed[..., :bands] = np.clip(np.rint(colours), 0, 255)
    return changed
