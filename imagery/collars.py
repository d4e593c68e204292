"""Collars: pixels of a raster without data that only their value and their touching its border tell."""
import functools
import itertools

import numpy as np
from rasterio.enums import Resampling
from skimage.measure import label

from imagery.arrays import strips
from imagery.labels import parse_colour
from imagery.rasters import Part, reading

CORNER = 8  # pixels: side of the squares that tell whether a search for a collar is worth its while
MOST = 2**31  # pixels of a raster that is searched
LEAST = 0.01  # share of a raster below which a flat border is not spoken of
ALONG = 1 / 15  # share of the border that a collar takes at least; roofs and shadows take less


class Collar:
    """The pixels of an open raster whose `bands` all have the value `nodata` of data.nodata, of a colour the
    first three of them, and that hang together with the raster's border by their sides, through such pixels
    alone. Found out when first asked for, in one read of the raster and one bit a pixel. Asked for by rows of
    `grid`, the raster itself, a Part or one resampled from it: there a pixel counts that is made of one that
    does."""

    def __init__(self, raster, bands, nodata, grid=None):
        self.raster, self.grid, self.nodata = raster, grid or raster, nodata
        colour = isinstance(nodata, str)
        self.values = parse_colour(nodata) if colour else [nodata] * len(bands)
        self.bands = bands[:3] if colour else bands

    @property
    def packed(self):
        """About how many bytes of memory this takes."""
        return sum(raster.height * raster.width // 8 for raster in {self.raster, self.grid})

    @property
    def strip(self):
        """About how many bytes more its search takes, of a strip of rows."""
        return 14 * max(2**22, 128 * self.raster.width)

    def rows(self, start, stop):
        """True (bool [rows, W]) where rows start..stop of the grid have no data."""
        return np.unpackbits(self.bits[start:stop], 1, self.grid.width).view(bool)

    @functools.cached_property
    def share(self):
        """Of the grid's pixels, 0..1."""
        return float(np.bitwise_count(self.bits).sum(dtype=np.int64) / (self.grid.height * self.grid.width))

    @functools.cached_property
    def bits(self):
        """The rows of the grid, packed: uint8 [H, (W + 7) // 8]."""
        if isinstance(self.grid, Part):
            part, bits = self.grid, Collar(self.raster, self.bands, self.nodata).bits
            rows = np.unpackbits(bits[part.row: part.row + part.height], 1, self.raster.width)
            return np.packbits(rows[:, part.col: part.col + part.width], 1)
        bits = reaching_the_border(self.candidates(), self.raster.width)
        return bits if self.grid is self.raster else onto(bits, self.raster, self.grid)

    def candidates(self):
        """The pixels that have the value, wherever they lie, as `bits`."""
        height, width = self.raster.shape
        bits = np.empty((height, -(-width // 8)), np.uint8)
        for start, stop in strips(height, width):
            with reading(self.raster.name):
                planes = self.raster.read(self.bands, window=((start, stop), (0, width)))
            same = np.ones(planes.shape[1:], bool)
            for plane, value in zip(planes, self.values):
                same &= plane == value
            bits[start:stop] = np.packbits(same, 1)
        return bits


def reaching_the_border(bits, width):
    """Of packed rows (uint8 [H, (W + 7) // 8]) the pixels that hang together with the border, in place.

    Strips of rows are labelled each for itself. Areas at the edges of strips are the nodes of a graph, node 0
    the border; what is connected with it counts. So the way may wind as it likes, and beside a strip only the
    labels at the edges of strips are held.
    """
    all_strips = strips(len(bits), width)
    edges, pairs, nodes, below = [], [], 1, None
    for start, stop in all_strips:
        labels, border = labelled(bits, width, start, stop)
        own = np.unique(labels[[0, -1]])
        own = own[own > 0]
        at_border = nodes + np.flatnonzero(border[own])
        pairs.append([np.zeros_like(at_border), at_border])
        top, bottom = (np.where(row > 0, nodes + np.searchsorted(own, row), 0) for row in labels[[0, -1]])
        if below is not None:
            both = (below > 0) & (top > 0)
            pairs.append(np.unique([below[both], top[both]], axis=1))
        edges.append((own, nodes))
        nodes, below = nodes + len(own), bottom
    connected = connected_with_first(*np.concatenate(pairs, 1), nodes)
    for (start, stop), (own, first) in zip(all_strips, edges):
        labels, reached = labelled(bits, width, start, stop)
        reached[own] |= connected[first: first + len(own)]
        bits[start:stop] = np.packbits(reached[labels], 1)
    return bits


def connected_with_first(ones, others, nodes):
    """Which nodes (bool [nodes]) hang together with node 0, by the pairs of them (int64 [N] each) that do."""
    connected = np.arange(nodes) == 0
    while (connected[ones] != connected[others]).any():
        either = connected[ones] | connected[others]
        connected[ones[either]] = connected[others[either]] = True
    return connected


def labelled(bits, width, start, stop):
    """(labels, border) of rows start..stop of packed rows: areas that hang together by their sides, int64
    [rows, W] from 1, 0 elsewhere; for each label (bool) whether it touches the border of all rows."""
    labels, count = label(np.unpackbits(bits[start:stop], 1, width), connectivity=1, return_num=True)
    border = np.zeros(count + 1, bool)
    border[labels[:, [0, -1]]] = True
    if start == 0:
        border[labels[0]] = True
    if stop == len(bits):
        border[labels[-1]] = True
    border[0] = False
    return labels, border


def onto(bits, raster, grid):
    """Packed rows of `raster` on the grid of one resampled from it, from the same corner on: set where a
    pixel of the grid is made, by an average or a cubic of neighbours, of one that is set."""
    sizes = [np.hypot([t.a, t.b], [t.d, t.e]) for t in (raster.transform, grid.transform)]
    averaged, (along, down) = grid.resampling == Resampling.average, sizes[1] / sizes[0]
    columns = reach(along, averaged, grid.width, raster.width)
    new = np.empty((grid.height, -(-grid.width // 8)), np.uint8)
    for row, (first, last) in enumerate(zip(*reach(down, averaged, grid.height, raster.height))):
        source = np.unpackbits(np.bitwise_or.reduce(bits[first:last], 0), count=raster.width)
        sums = np.concatenate([[0], source.cumsum(dtype=np.int64)])
        new[row] = np.packbits(sums[columns[1]] > sums[columns[0]])
    return new


def reach(step, averaged, count, size):
    """(first, after the last), int64 [count] each, of a raster's `size` pixels of which each of a grid's
    `count` is made, `step` of them wide: those that it covers (`averaged`), or those around its centre."""
    centres = step * (np.arange(count) + 0.5)
    half = (step / 2 if averaged else 2 * max(1, step) - 0.5) - 1e-6  # of what a pixel of the grid is made of
    first = np.floor(centres - half).astype(np.int64).clip(0, size - 1)
    return first, np.ceil(centres + half).astype(np.int64).clip(first + 1, size)


def likely_collar(raster, bands):
    """The Collar of an open raster in which one value takes a corner, a good part of the border and more than
    LEAST of the raster, and the file counts that corner as data; else None. Cheap unless a corner is flat."""
    nodata = corner_value(raster, bands) if raster.height * raster.width <= MOST else None
    if nodata is None:
        return None
    collar = Collar(raster, bands, nodata)
    top, bottom = collar.rows(0, 1)[0], collar.rows(raster.height - 1, raster.height)[0]
    left, right = collar.bits[:, 0] >> 7, collar.bits[:, -1] >> (-raster.width % 8) & 1
    border = np.concatenate([top, bottom, left, right])
    return collar if collar.share > LEAST and border.mean() > ALONG else None


def advice(nodata, share):
    """What to say of a likely collar."""
    value = f'"{nodata}"' if isinstance(nodata, str) else f"{nodata:.17g}"
    return (f"{100 * share:.0f} % of it is {nodata} at its border and counts as data, expected pixels of a "
            f"scene; set data.nodata: {value} if that is no data")


def corner_value(raster, bands):
    """The one value, as data.nodata has it, of the corners that are flat and data; None where none is, or no
    setting could name it."""
    values = []
    height, width = (min(CORNER, size) for size in raster.shape)
    for row, col in itertools.product((0, raster.height - height), (0, raster.width - width)):
        window = (row, row + height), (col, col + width)
        with reading(raster.name):
            pixels = raster.read(bands, window=window)
            flat = (pixels == pixels[:, :1, :1]).all() and raster.dataset_mask(window=window).all()
        if flat:
            values.append(tuple(pixels[:, 0, 0].tolist()))
    value = max(values, key=values.count, default=None)
    if value is None:
        return None
    if len(bands) >= 3 and all(raster.dtypes[band - 1] == "uint8" for band in bands[:3]):
        return f"#{bytes(value[:3]).hex()}"
    return value[0] if len(set(value)) == 1 else None
