"""Planned patches to batches that wait before they are asked for: tf.data cuts them out of memory-mapped
tiles, several batches at a time, and hands them on in the plan's order whatever the number of parallel calls,
so that an epoch can be repeated to the bit. Batches stay uint8: the network scales them. Colours are changed
in the training step, on its device: on two cores that took five times as long as cutting."""
import itertools
import mmap
import os

import numpy as np

from base.command import quiet_stderr
from imagery.tiles import DistantTile, mapped
from learning.patches import cut_batch, draw_colours
from learning.plans import PLAN

with quiet_stderr():
    import tensorflow as tf

PARALLEL = min(8, os.cpu_count() or 1)  # batches cut at a time; twice as many wait ready
MAPPED = 3 * 2**28  # bytes of tiles that may stay in this process's resident memory
AROUND = 2**16  # bytes that the system maps around a page it is asked for: at most these for a patch's row


def let_go(tiles):
    """Takes tiles out of this process's resident memory. The system's cache keeps them: a page that is
    needed again costs a fault, no disk; on two cores that halves the rate, which no network notices."""
    mapped.cache_clear()  # of distant ones
    for tile in tiles:
        owner = None if isinstance(tile, DistantTile) else tile.pixels
        while isinstance(owner, np.ndarray):
            owner = owner.base
        if isinstance(owner, mmap.mmap):
            owner.madvise(mmap.MADV_DONTNEED)


@tf.function(jit_compile=True)  # one pass over the pixels
def repaint(pixels, matrices, offsets):
    """Pixels (uint8 [N, P, P, bytes]) with their first bands as matrix @ bands + offset, rounded, clipped."""
    bands = offsets.shape[1]
    before = [tf.cast(pixels[..., i], tf.float32) for i in range(bands)]
    after = [sum(before[i] * matrices[:, j, i, None, None] for i in range(bands)) + offsets[:, j, None, None]
             for j in range(bands)]
    colours = tf.cast(tf.clip_by_value(tf.round(tf.stack(after, -1)), 0, 255), tf.uint8)
    return tf.concat([colours, pixels[..., bands:]], -1)


def batches(tiles, plan, patch_size, colours=None):
    """A tf.data.Dataset of the batches of a plan (PLAN [batches, N]), in its order: a tuple of pixels (uint8
    [N, P, P, bytes]: bands, label, zeros) and, where their colours are to change (`patches.Colours`), the
    matrices and offsets of `repaint`. The training step parts image and label on its device: here that would
    cost more than cutting."""
    batch_size, stored = plan.shape[1], tiles[0].pixels.shape[2]
    large = sum(tile.nbytes for tile in tiles) > MAPPED
    often = max(1, MAPPED // (batch_size * patch_size * AROUND))  # batches
    done = itertools.count()

    def cut_rows(rows):  # TensorFlow keeps it for ever: it must not hold the plan
        rows = rows.view(PLAN)[:, 0]
        pixels = cut_batch(tiles, rows, patch_size)
        if large and next(done) % often == 0:
            let_go(tiles)
        return [pixels, *(draw_colours(pixels, rows["seed"], colours) if colours else ())]

    def load(rows):
        kinds, shapes = [tf.uint8], [(batch_size, patch_size, patch_size, stored)]
        if colours:
            kinds += [tf.float32, tf.float32]
            shapes += [(batch_size, colours.bands, colours.bands), (batch_size, colours.bands)]
        parts = tf.numpy_function(cut_rows, [rows], kinds, stateful=False)
        for part, shape in zip(parts, shapes):
            part.set_shape(shape)
        return tuple(parts)

    options = tf.data.Options()
    options.autotune.enabled = False  # its thread sleeps up to a minute, and an epoch waits until it wakes
    numbers = np.ascontiguousarray(plan).view(np.int32).reshape(*plan.shape, len(PLAN))
    planned = tf.data.Dataset.from_tensor_slices(numbers)
    loaded = planned.map(load, num_parallel_calls=PARALLEL, deterministic=True).prefetch(2 * PARALLEL)
    return loaded.with_options(options)
