"""Polygons burnt on a grid by strips of rows: which pixels each covers, as gdal_rasterize has it.

A polygon covers the pixels whose middle lies inside of its outer ring and of none of its holes, by the
even-odd rule; where `all_touched`, also those that its rings pass through. A middle on a border belongs to
what lies right of it or below, so that polygons that share a border share no pixel; GDAL gives it to both
where it is a hole's level upper border.
"""
from typing import NamedTuple

import numpy as np

from base.problem import Problem

ROOM = 2**22  # crossings, or pixels of spans, at once: memory does not depend on how many there are
FEW = 3e7  # crossings, or covered pixels, that are no burden
TANGLE = 64  # times as many of them as pixels: no drawing of anything
TOUCH = 1e-6  # pixels: a ring that is nearer to a pixel's border does not pass through the pixel


class Polygons(NamedTuple):
    """Polygons of features; one feature may have several, each with its holes.

    x, y      float64 [N]: corners in a coordinate system or, on a grid, columns and rows from its corner
    ends      bool [N]: True at the last corner of a ring, which is its first again
    starts    int64 [P + 1]: the first corner of each polygon, and N
    features  int32 [P]: number of the feature of each polygon
    """
    x: np.ndarray
    y: np.ndarray
    ends: np.ndarray
    starts: np.ndarray
    features: np.ndarray

    def boxes(self):
        """Of the polygons the least and the greatest x and y, four float64 [P]: left, low, right, high."""
        first = self.starts[:-1]
        if not len(first):
            return np.empty((4, 0))
        return [extreme.reduceat(axis, first) for extreme in (np.minimum, np.maximum)
                for axis in (self.x, self.y)]

    def turns(self):
        """Of each ring whether its polygon is to the left of edges that lead to greater y: bool [R]."""
        starts = ring_starts(self.ends)
        areas = np.zeros(len(self.x))
        for start in range(0, len(areas), ROOM):
            x, y = (axis[start: start + ROOM + 1] for axis in (self.x, self.y))
            areas[start: start + len(x) - 1] = x[:-1] * y[1:] - x[1:] * y[:-1]
        areas[self.ends] = 0
        sums = np.add.reduceat(areas, starts[:-1]) if len(starts) > 1 else areas
        hole = np.ones(len(sums), bool)
        hole[np.searchsorted(starts, self.starts[:-1])] = False
        return (sums > 0) != hole

    def take(self, chosen):
        """The polygons that are chosen (bool [P])."""
        if chosen.all():
            return self
        lengths = np.diff(self.starts)[chosen]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        corners = np.repeat(self.starts[:-1][chosen] - starts[:-1], lengths) + np.arange(starts[-1])
        return Polygons(self.x[corners], self.y[corners], self.ends[corners], starts, self.features[chosen])


class Spans(NamedTuple):
    """Pixels start..stop of a row that a polygon covers, one entry each (int64 [S])."""
    polygons: np.ndarray
    rows: np.ndarray
    starts: np.ndarray
    stops: np.ndarray


class Edges(NamedTuple):
    """Edges of rings from x1, y1 to x2, y2 (float64 [E]), the number of each one's polygon, and whether the
    polygon is to the left of an edge that leads down (bool [E])."""
    x1: np.ndarray
    y1: np.ndarray
    x2: np.ndarray
    y2: np.ndarray
    polygons: np.ndarray
    left: np.ndarray

    def take(self, chosen):
        return Edges(*(part[chosen] for part in self))


class Burner:
    """Polygons on a grid (corners as columns and rows), burnt on its pixels by strips of rows. `named`: the
    file, for a Problem.

    areas  int64 [2, P]: pixels of each polygon so far, and what its edges' directions make of them, which is
           another number where a ring crosses itself or others
    """

    def __init__(self, polygons, shape, all_touched, named):
        self.polygons, self.all_touched, self.named = polygons, all_touched, named
        self.height, self.width = shape
        y = polygons.y.astype(np.float32)
        self.low, self.high = (extreme(y[:-1], y[1:]) for extreme in (np.minimum, np.maximum))
        self.low[polygons.ends[:-1]] = np.inf  # from ring to ring there is no edge
        self.number = np.repeat(np.arange(len(polygons.features), dtype=np.int32), np.diff(polygons.starts))
        self.left = np.repeat(polygons.turns(), np.diff(ring_starts(polygons.ends)))
        self.areas = np.zeros((2, len(polygons.features)), np.int64)
        rows = np.clip(self.high, 0, self.height) - np.clip(self.low, 0, self.height)
        crossings = float(rows.clip(0).sum(dtype=np.float64))
        self.check(crossings, self.height, "their edges cross rows of the image")

    def check(self, count, rows, what):
        """Problem (exit 3) where there are so many crossings or pixels that burning would take minutes."""
        if count > max(FEW, TANGLE * rows * self.width):
            raise Problem(f"polygons in {self.named}: {what} {count:.3g} times, expected at most "
                          f"{TANGLE} times its pixels ({rows * self.width}); look at them in a GIS, and mend "
                          "or simplify them", code=3)

    def edges(self, start, stop):
        """The Edges that reach rows start..stop, downwards where they are not level."""
        near = np.flatnonzero((self.high >= start - 1) & (self.low <= stop + 1))  # float32 may be off by less
        x, y = self.polygons.x, self.polygons.y
        return Edges(x[near], y[near], x[near + 1], y[near + 1], self.number[near], self.left[near])

    def spans(self, start, stop):
        """Yields Spans that cover rows start..stop, for pieces of these rows."""
        edges = self.edges(start, stop)
        crossings = np.abs(np.clip(edges.y2, start, stop) - np.clip(edges.y1, start, stop)).sum()
        if crossings > ROOM and stop - start > 1:
            middle = (start + stop) // 2
            yield from self.spans(start, middle)
            yield from self.spans(middle, stop)
            return
        parts = [inside(edges, start, stop, self.width, self.areas)]
        if self.all_touched:
            parts.append(touched(edges, start, stop, self.width))
        polygons, rows, starts, stops = (np.concatenate(part) for part in zip(*parts))
        kept = stops > starts
        yield Spans(*(part[kept] for part in (polygons, rows, starts, stops)))

    def paint(self, ranks, values, start, stop):
        """Rows start..stop as (uint8 [rows, W], bool [rows, W]): the value of the polygon that covers each
        pixel, of several the one of highest rank; 255 where there is none; and True where polygons of other
        values cover it, too. `ranks` (int [P]) and `values` (uint8 [P], below 255) are the polygons'."""
        painted = np.full((stop - start) * self.width, 255, np.uint8)
        others = np.zeros(painted.size, bool)
        for spans in self.spans(start, stop):
            order = np.argsort(ranks[spans.polygons], kind="stable")
            spans = Spans(*(part[order] for part in spans))
            self.check(int((spans.stops - spans.starts).sum()), stop - start, "they cover pixels of a strip")
            for polygons, pixels in self.pixels(spans, start):
                before, value = painted[pixels], values[polygons]
                painted[pixels] = value  # of pixels named twice the last one counts
                others[pixels[((before != 255) & (before != value)) | (painted[pixels] != value)]] = True
        return painted.reshape(-1, self.width), others.reshape(-1, self.width)

    def pixels(self, spans, start):
        """Yields (polygons, pixels) of spans (int64 [M] both), in their order: pixels counted from the first
        of row `start`, about ROOM at a time."""
        lengths = spans.stops - spans.starts
        ends = np.cumsum(lengths)
        pieces = np.searchsorted(ends, np.arange(ROOM, ends[-1] if len(ends) else 0, ROOM), "right")
        firsts = (spans.rows - start) * self.width + spans.starts
        for piece in np.split(np.arange(len(lengths)), pieces):
            count, first = lengths[piece], firsts[piece]
            offset = np.cumsum(count) - count
            yield (np.repeat(spans.polygons[piece], count),
                   np.repeat(first - offset, count) + np.arange(count.sum()))

    def crossed(self):
        """Features (int [F]) whose rings cross themselves or each other, so far as that changes pixels of the
        rows that were burnt."""
        return np.unique(self.polygons.features[self.areas[0] != self.areas[1]])

    def covered(self, start, stop):
        """True where a polygon covers a pixel of rows start..stop (bool [rows, W])."""
        count = len(self.polygons.features)
        return self.paint(np.zeros(count, np.int8), np.zeros(count, np.uint8), start, stop)[0] == 0


def ring_starts(ends):
    """The first corner of each ring, and the number of corners (int64 [R + 1])."""
    return np.concatenate([[0], np.flatnonzero(ends) + 1])


def inside(edges, start, stop, width, areas):
    """Spans of rows start..stop whose pixels' middles lie inside of the polygons of these Edges; adds them to
    `areas` as of Burner."""
    up = edges.y1 > edges.y2
    x1, x2 = np.where(up, edges.x2, edges.x1), np.where(up, edges.x1, edges.x2)
    y1, y2 = np.minimum(edges.y1, edges.y2), np.maximum(edges.y1, edges.y2)
    first, last = (np.ceil(y - 0.5).clip(start, stop).astype(np.int64) for y in (y1, y2))
    edge = np.repeat(np.arange(len(first)), last - first)
    rows = np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - last, last - first)
    x = (rows + 0.5 - y1[edge]) * (x2 - x1)[edge] / (y2 - y1)[edge] + x1[edge]
    cols = np.floor(x + 0.5).clip(0, width).astype(np.int64)
    polygons = edges.polygons[edge].astype(np.int64)
    areas[1] += signed(polygons, np.where((edges.left != up)[edge], cols, -cols), areas.shape[1])
    base = int(polygons.min(initial=2**31 - 1))
    lines = (polygons - base) * (stop - start) + rows - start
    keys = lines * (width + 1) + cols
    keys.sort()  # a closed ring crosses the middle of a row an even number of times
    lines, cols = np.divmod(keys, width + 1)
    polygons, rows = np.divmod(lines[::2], stop - start)
    polygons += base
    areas[0] += signed(polygons, cols[1::2] - cols[::2], areas.shape[1])
    return polygons, rows + start, cols[::2], cols[1::2]


def signed(polygons, numbers, count):
    """Sums of whole numbers by polygon (int64 [count])."""
    return np.rint(np.bincount(polygons, numbers, count)).astype(np.int64)


def touched(edges, start, stop, width):
    """Spans of the pixels of rows start..stop that Edges pass through."""
    y1, y2 = np.minimum(edges.y1, edges.y2), np.maximum(edges.y1, edges.y2)
    first = np.floor(y1 + TOUCH).clip(start, stop).astype(np.int64)
    last = np.ceil(y2 - TOUCH).clip(start, stop).astype(np.int64)
    count = (last - first).clip(0)
    edge = np.repeat(np.arange(len(first)), count)
    rows = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count - first, count)
    edges, slope = edges.take(edge), (edges.x2 - edges.x1) / np.where(y1 == y2, 1, edges.y2 - edges.y1)
    top, bottom = (np.clip(rows + side, y1[edge], y2[edge]) for side in (0, 1))
    ends = [edges.x1 + (y - edges.y1) * slope[edge] for y in (top, bottom)]
    same = edges.y1 == edges.y2
    ends = [np.where(same, whole, end) for whole, end in zip((edges.x1, edges.x2), ends)]
    cols = np.floor(np.minimum(*ends) + TOUCH), np.ceil(np.maximum(*ends) - TOUCH)
    return edges.polygons.astype(np.int64), rows, *(col.clip(0, width).astype(np.int64) for col in cols)
