"""A raster predicted window by window, in several views, blended into rows that come from the top down: pure
arithmetic, which knows no files and no network, only an `answer` to patches (mapping/engines.py)."""
from collections import deque
from typing import NamedTuple

import numpy as np

from imagery.arrays import cut, starts, unview, view
from imagery.calibration import tempered
from mapping.maps import WHOLE


class Windows(NamedTuple):
    """How windows lie on a raster, and in which views each is answered."""
    window: int  # pixels: their side
    overlap: float  # 0..0.9: the least share of a window that its neighbour covers too
    views: list  # numbers 0..7, at least one
    multiple: int  # pixels: `window` is a multiple of it

    def along(self, size):
        """First pixels (int64 [N]) of the windows that cover an axis, the last of which may reach past its
        end: side by side where `overlap` is 0, else evenly spread on multiples of `multiple`. The network's
        cells are so many pixels wide; neighbours agree where these lie alike in every window."""
        if self.overlap == 0:
            return np.arange(0, size, self.window)
        step = max(1, int(self.window * (1 - self.overlap)) // self.multiple)
        return self.multiple * starts(-(-size // self.multiple), self.window // self.multiple, step)


def blend_weights(window):
    """Weights of a window's pixels, float32 [S, S]: highest in the middle, never zero, alike in all views."""
    rise = np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2 + 1e-3
    return np.outer(rise, rise).astype(np.float32)


def patches_of(read, shape, windows, corners):
    """Yields every view (uint8 [window, window, B]) of every window with a valid pixel, from the top down;
    before a window's first view adds its (row, col) to the deque `corners`."""
    height, width = shape
    for row in windows.along(height):
        strip, valid = read(row, min(row + windows.window, height))
        for col in windows.along(width):
            if not valid[:, col: col + windows.window].any():
                continue
            corners.append((row, col))
            patch = cut(strip, 0, col, windows.window)
            for number in windows.views:
                yield np.ascontiguousarray(view(patch, number))


def answered(answer, read, shape, windows):
    """Yields ((row, col), float32 [C, S, S], valid until the next) of every window with a valid pixel: the
    sum of its views' probabilities, each turned back."""
    corners, total = deque(), None
    answers = answer(patches_of(read, shape, windows, corners))
    for planes in answers:
        total = np.empty(planes.shape, np.float32) if total is None else total
        total[:] = turned_back(planes, windows.views[0])
        for number in windows.views[1:]:
            total += turned_back(next(answers), number)
        yield corners.popleft(), total


def turned_back(planes, number):
    """The planes [C, S, S] of which `planes` are the view of that number."""
    return np.moveaxis(unview(np.moveaxis(planes, 0, -1), number), -1, 0)


def decide(sums, temperature, out):
    """Fills `out` (uint16 [1 or 2 + C, H, W]) from sums of weighted probabilities (float32 [C, H, W]): the
    class, its probability times WHOLE, and those of all classes at a temperature (`tempered`)."""
    best, index = sums[0].copy(), np.zeros(sums.shape[1:], np.uint8)
    for i in range(1, len(sums)):  # ten times as fast as argmax, which takes each pixel by itself
        np.maximum(index, np.uint8(i) * (sums[i] > best), out=index)
        np.maximum(best, sums[i], out=best)
    out[0] = index
    if len(out) > 1:
        best /= np.maximum(sums.sum(0), 1e-9)
        out[1] = np.rint(np.multiply(best, WHOLE, out=best), out=best)
        shares = tempered(sums, temperature)
        out[2:] = np.rint(np.multiply(shares, WHOLE, out=shares), out=shares)


def predict_rows(answer, read, shape, classes, windows, temperature=None):
    """Yields (first row, uint16 [2 + classes, rows, W] as `decide` fills it, without a temperature [1, rows,
    W], the class alone) from the top down, every row of a raster of `shape` (H, W) once, mirrored past its
    edge. `read(start, stop)` returns its rows, uint8 [rows, W, B], and which of their pixels are valid,
    bool [rows, W]: a window without one is not predicted, so that invalid pixels may be of any class. Sums
    stand in one window that slides to the right, and below it, as wide as the raster, in the rows that it
    shares with the next row of windows."""
    (height, width), side = shape, windows.window
    rows, columns = windows.along(height), windows.along(width)
    answers, weights = answered(answer, read, shape, windows), blend_weights(side)
    sums, corner, total = np.empty((classes, side, side), np.float32), (-1, -1), None
    below, channels = np.zeros((classes, 0, width), np.float32), 1 if temperature is None else 2 + classes
    for row, next_row in zip(rows, [*rows[1:], height]):
        done, above = next_row - row, below
        below = np.zeros((classes, side - done if next_row < height else 0, width), np.float32)
        out = np.empty((channels, done, width), np.uint16)
        sums[:] = 0
        for col, next_col in zip(columns, [*columns[1:], width]):
            if corner < (row, col):
                corner, total = next(answers, ((height, 0), None))
            if corner == (row, col):
                sums += np.multiply(total, weights, out=total)
            step = next_col - col
            ready = sums[:, :, :step]
            ready[:, : above.shape[1]] += above[:, :, col: next_col]
            decide(ready[:, :done], temperature, out[:, :, col: next_col])
            below[:, :, col: next_col] = ready[:, done: done + below.shape[1]]
            sums[:, :, : side - step] = sums[:, :, step:].copy()
            sums[:, :, side - step:] = 0
        yield row, out
