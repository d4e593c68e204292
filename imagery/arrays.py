"""Arrays of pixels, [row, col, band]: windows that cover them, their eight views, squares cut from them."""
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

IGNORE = 255  # the label of pixels that are not scored


def cut(array, row, col, side):
    """A square of an array [H, W, ...]; a view where it lies inside, else mirrored at the far edges."""
    part = array[row: row + side, col: col + side]
    missing = [(0, side - part.shape[0]), (0, side - part.shape[1])] + [(0, 0)] * (array.ndim - 2)
    return np.pad(part, missing, mode="symmetric") if missing[0][1] or missing[1][1] else part


def starts(size, window, step):
    """First pixels (int64 [N]) of the fewest evenly spread windows that cover an axis of `size` pixels, at
    most `step` apart (0 < step <= window). The last one ends with the axis; one longer than it, past it."""
    count = 1 + max(0, -(-(size - window) // step))
    return np.rint(np.linspace(0, max(size - window, 0), count)).astype(np.int64)


def strips(height, width):
    """[(start, stop)] of strips of rows that cover an array: about 2**22 pixels each, in multiples of 128
    rows."""
    rows = max(1, 2**22 // width // 128) * 128
    return [(start, min(start + rows, height)) for start in range(0, height, rows)]


def view(array, number):
    """View 0..7 of an array [N, N, ...], the symmetries of the square (D4): quarter turns 0..3, 4..7 mirrored
    after. `unview` undoes it exactly."""
    turned = np.rot90(array, number % 4)
    return turned[:, ::-1] if number >= 4 else turned


def unview(array, number):
    """The array of which `array` is the view of that number."""
    turned = array[:, ::-1] if number >= 4 else array
    return np.rot90(turned, -(number % 4))


def in_pieces(work, size, piece):
    """Yields work(start, stop) for pieces of `size` items, in their order, on all cores at once: NumPy works
    without the interpreter's lock, and fastest on what stays in a core's cache."""
    begins = range(0, size, piece)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(work, begins, [min(begin + piece, size) for begin in begins])
