"""Prepared tiles to shuffled, augmented batches of patches (tf.data).

An epoch is a plan: an array with one row per patch, made by NumPy from (seed, epoch) alone. tf.data then cuts the
planned patches out of memory-mapped tiles, in the plan's order whatever the number of parallel calls, so that an
epoch can be repeated, or gone on with, to the bit. Batches stay uint8: the network scales them.
"""
import os

import numpy as np

from files import quiet_stderr
from tiles import IGNORE, open_prepared, starts, view

with quiet_stderr():
    import tensorflow as tf

PARALLEL = min(8, os.cpu_count() or 1)  # batches cut at a time; twice as many wait ready

def open_tiles(data, names):
    """[(image uint8 [H, W, B], labels uint8 [H, W])] of prepared tiles, memory-mapped."""
    return [tuple(open_prepared(data, name, "image", "labels")) for name in names]


def patches_per_epoch(shapes, patch_size):
    """Patches in an epoch over tiles of these shapes: one for every patch-sized cell begun."""
    return sum(-(-rows // patch_size) * -(-cols // patch_size) for rows, cols in shapes)


def random_starts(rng, size, patch_size, count):
    """Random window starts along an axis (int64 [cells, count]): one row for each patch-sized cell begun.

    Each is drawn from its cell's own stretch of the possible starts, and all stretches are equally long: every epoch
    covers the axis about evenly, its ends included, and no two epochs cut alike.
    """
    cells, last = -(-size // patch_size), max(size - patch_size, 0)
    drawn = (np.arange(cells)[:, None] + rng.random((cells, count))) / cells * (last + 1)
    return np.minimum(drawn.astype(np.int64), last)


def training_plan(shapes, patch_size, views, seed, epoch):
    """The patches of one training epoch, exactly shuffled over all tiles: int64 [N, 6].

    The columns of a plan: tile, row and column of the patch, its view (0..7), and how many rows and columns of its
    labels are ignored at the top and left. `shapes` lists (H, W) of the tiles; `views` False keeps view 0. The same
    (seed, epoch) gives the same plan.
    """
    rng = np.random.default_rng([seed, epoch])
    plan = []
    for tile, (height, width) in enumerate(shapes):
        across = -(-width // patch_size)
        rows = random_starts(rng, height, patch_size, across)
        cols = random_starts(rng, width, patch_size, len(rows)).T
        number = rng.integers(8, size=rows.shape) if views else np.zeros_like(rows)
        zero = np.zeros_like(rows)
        plan.append(np.stack([np.full_like(rows, tile), rows, cols, number, zero, zero], -1).reshape(-1, 6))
    return rng.permutation(np.concatenate(plan))


def validation_plan(shapes, patch_size, batch_size):
    """Windows in order that cover every tile, each pixel counted once: a plan (int64 [N, 6]) as `training_plan`'s.

    Where windows overlap at a tile's far edges, only the first counts. N is filled up to whole batches with patches
    that count nothing.
    """
    plan = []
    for tile, shape in enumerate(shapes):
        first = [starts(size, patch_size, patch_size) for size in shape]
        covered = [np.maximum(patch_size - np.diff(s, prepend=-patch_size), 0) for s in first]
        plan += [(tile, row, col, 0, rows, cols) for row, rows in zip(first[0], covered[0])
                 for col, cols in zip(first[1], covered[1])]
    plan += [(0, 0, 0, 0, patch_size, patch_size)] * (-len(plan) % batch_size)
    return np.array(plan, np.int64)


def cut(array, row, col, patch_size):
    """A patch of an array [H, W, ...]; a view where it lies inside, else mirrored at the far edges."""
    patch = array[row: row + patch_size, col: col + patch_size]
    missing = [(0, patch_size - patch.shape[0]), (0, patch_size - patch.shape[1])] + [(0, 0)] * (array.ndim - 2)
    return np.pad(patch, missing, mode="symmetric") if missing[0][1] or missing[1][1] else patch


def cut_batch(tiles, plan, patch_size):
    """Images (uint8 [N, P, P, B]) and labels (uint8 [N, P, P]) of the patches of a plan (int64 [N, 6]).

    Where a patch reaches past its tile the image is mirrored and labels are IGNORE.
    """
    images = np.empty((len(plan), patch_size, patch_size, tiles[0][0].shape[2]), np.uint8)
    labels = np.empty((len(plan), patch_size, patch_size), np.uint8)
    for i, (tile, row, col, number, rows, cols) in enumerate(plan):
        image, classes = tiles[tile]
        images[i] = view(cut(image, row, col, patch_size), number)
        patch = np.full((patch_size, patch_size), IGNORE, np.uint8)
        counted = classes[row + rows: row + patch_size, col + cols: col + patch_size]
        patch[rows: rows + counted.shape[0], cols: cols + counted.shape[1]] = counted
        labels[i] = view(patch, number)
    return images, labels


def batches(tiles, plan, patch_size, batch_size):
    """A tf.data.Dataset of (images uint8 [N, P, P, B], labels uint8 [N, P, P]) in the plan's order.

    A last batch that is not full is dropped (`validation_plan` never leaves one).
    """
    bands = tiles[0][0].shape[2]

    def load(rows):
        images, labels = tf.numpy_function(lambda part: cut_batch(tiles, part, patch_size), [rows],
                                           (tf.uint8, tf.uint8), stateful=False)
        images.set_shape((batch_size, patch_size, patch_size, bands))
        labels.set_shape((batch_size, patch_size, patch_size))
        return images, labels

    options = tf.data.Options()
    options.autotune.enabled = False  # its thread sleeps up to a minute, and an epoch does not end before it wakes
    plans = tf.data.Dataset.from_tensor_slices(plan).batch(batch_size, drop_remainder=True)
    loaded = plans.map(load, num_parallel_calls=PARALLEL, deterministic=True).prefetch(2 * PARALLEL)
    return loaded.with_options(options)
