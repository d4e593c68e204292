"""How patches of prepared tiles are cut, turned, scaled and recoloured (NumPy alone). A pixel, bands and
label, is one machine word of a memory map, so that any view of a patch is one strided copy."""
import functools
import math
import threading
from collections import namedtuple

import numpy as np

from imagery.arrays import IGNORE, cut, view


def cut_batch(tiles, plan, patch_size):
    """The patches of a plan (PLAN [N]) as pixels: uint8 [N, P, P, bytes], bands, then the label, then zeros.
    Where a patch reaches past its tile the image is mirrored and labels are IGNORE."""
    words, bands = tiles[0].words, tiles[0].bands
    batch = np.empty((len(plan), patch_size, patch_size, words.shape[2]), words.dtype)
    pixels = batch.view(np.uint8)
    for i, (number, row, col, side, turn, _, rows, cols) in enumerate(plan.tolist()):
        patch = cut(tiles[number].words, row, col, side)
        high, wide = tiles[number].shape[0] - row, tiles[number].shape[1] - col
        if high < side or wide < side:  # then it is a copy
            labels = patch.view(np.uint8)[..., bands]
            labels[high:] = labels[:, wide:] = IGNORE
        if side != patch_size:
            patch = resize(patch.view(np.uint8), patch_size, bands).view(words.dtype)
        batch[i] = view(patch, turn)
        pixels[i, :rows, :, bands] = pixels[i, :, :cols, bands] = IGNORE
    return pixels


_kept = threading.local()


def scratch(name, shape):
    """An int16 array of this thread's own, kept for the next call: fresh memory costs more than sums."""
    size = math.prod(shape)
    if getattr(_kept, name, np.empty(0)).size < size:
        setattr(_kept, name, np.empty(size, np.int16))
    return getattr(_kept, name)[:size].reshape(shape)


@functools.lru_cache(maxsize=4096)
def neighbours(side, size):
    """For each pixel of an axis of `side` pixels resized to `size`: the old pixels before and after its
    centre (int64 [N]), the weight of the latter in 128ths (int16 [N]), and the nearest one (int64 [N])."""
    centres = (np.arange(size) + 0.5) * side / size - 0.5
    before = np.clip(np.floor(centres), 0, side - 1).astype(np.int64)
    weights = np.clip(np.rint((centres - before) * 128), 0, 128).astype(np.int16)
    nearest = (2 * np.arange(size) + 1) * side // (2 * size)  # a tie goes to the later pixel
    return before, np.minimum(before + 1, side - 1), weights, nearest


def resize(pixels, size, bands):
    """Pixels (uint8 [S, S, bytes]) resized to [size, size, bytes]: bands bilinearly, labels to the nearest.
    Pixel centres correspond, as in OpenCV's INTER_LINEAR; in whole numbers, weights in 128ths."""
    side, channels = pixels.shape[1:]
    before, after, weights, nearest = neighbours(side, size)
    source = scratch("source", pixels.shape)
    source[:] = pixels

    def between(array, axis, weights):
        """low + (high - low) * weights / 128, rounded, of the neighbours along one axis."""
        shape = (size, side, channels) if axis == 0 else (size, size, channels)
        # "clip" takes without a buffer
        low = array.take(before, axis, scratch(f"low{axis}", shape), "clip").reshape(size, -1)
        high = array.take(after, axis, scratch(f"high{axis}", shape), "clip").reshape(size, -1)
        high -= low
        high *= weights
        high += 64
        high >>= 7
        high += low
        return high.reshape(shape)

    rows = between(source, 0, weights[:, None])
    result = between(rows, 1, np.repeat(weights, channels)).astype(np.uint8)
    result[..., bands] = pixels[..., bands].take(nearest, 0).take(nearest, 1)
    return result


# How far the colours of the first so many bands are changed: the settings of `augment`.
Colours = namedtuple("Colours", "bands brightness contrast saturation hue")


def colours_of(settings):
    """The Colours of a run, or None where none is changed. The extra raster's band is no colour."""
    chosen = [settings["augment"][name] for name in Colours._fields[1:]]
    return Colours(len(settings["data"]["bands"]), *chosen) if any(chosen) else None


def draw_colours(pixels, seeds, colours):
    """Random changes of colour for N patches (uint8 [N, P, P, bytes]), one matrix and offset each: float32
    [N, B, B] and [N, B]; the pipeline applies them.

    Each change is drawn evenly: factors of brightness, contrast and saturation from 1 - s to 1 + s, hue as a
    turn around the grey axis by at most that share of a full circle. Contrast is about the mean of the patch,
    saturation about the mean of a pixel's bands."""
    bands, *reaches, hue = colours
    matrices = np.empty((len(seeds), bands, bands), np.float32)
    offsets = np.empty((len(seeds), bands), np.float32)
    for i, seed in enumerate(seeds.tolist()):
        rng = np.random.default_rng([seed, 0])
        gain, sharp, colourful = (1 + rng.uniform(-reach, reach) for reach in reaches)
        matrix = colourful * np.eye(bands) + (1 - colourful) / bands
        if hue:
            angle = 2 * np.pi * rng.uniform(-hue, hue)
            axis = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
            cosine, sine = np.cos(angle), np.sin(angle)
            matrix = (cosine * np.eye(3) + sine * axis + (1 - cosine) / 3) @ matrix  # Rodrigues' formula
        matrices[i] = gain * sharp * matrix
        offsets[i] = gain * (1 - sharp) * pixels[i, ::8, ::8, :bands].mean()
    return matrices, offsets
