"""Geometries as bytes (WKB) to polygons."""
import struct
from collections import Counter

import numpy as np

from imagery.burning import Polygons

PIECE = 2**16  # geometries at once
HEADER, COUNT = struct.Struct("<II").unpack_from, struct.Struct("<I").unpack_from
POINT, LINE, POLYGON, TRIANGLE = 1, 2, 3, 17  # in the others lie geometries


def parse(blobs):
    """(Polygons, dropped) of geometries as WKB (object [F] of bytes or None), little-endian and flat as
    pyogrio gives them (OGC 06-103r4, 8.2). Other geometries than polygons, empty ones and those with a
    coordinate that is not finite are dropped, rings are closed."""
    dropped, parts, end = Counter(), [], 0
    most = sum(len(blob) for blob in blobs if blob) // 8  # corners, of 16 bytes each; a ring has 4 more
    x, y, ends = np.empty(most), np.empty(most), np.zeros(most, bool)  # room that is not used is not taken
    for start in range(0, len(blobs), PIECE):
        rings = Rings()
        for number, blob in enumerate(blobs[start: start + PIECE], start):
            why = rings.add(blob, number) if blob else "without geometry"
            if why:
                dropped[why] += 1
        blobs[start: start + PIECE] = None  # makes room
        *corners, lengths, features = rings.arrays()
        parts.append((lengths, features))
        start, end = end, end + len(corners[0])
        x[start:end], y[start:end], ends[start:end] = corners
    lengths, features = (np.concatenate(part) for part in zip(*parts or [Rings().arrays()[3:]]))
    polygons = Polygons(x[:end], y[:end], ends[:end], np.concatenate([[0], np.cumsum(lengths)]), features)
    kept = whole(polygons)
    dropped["coordinates that are no numbers"] += len(polygons.features) - len(kept.features)
    return kept, dict(+dropped)


class Rings:
    """The rings of some geometries, gathered as bytes."""

    def __init__(self):
        self.rings, self.features, self.counts = [], [], []

    def add(self, blob, feature):
        """Adds the polygons of a geometry; returns why it has none, or None."""
        before, (_, others) = len(self.features), self.add_geometry(blob, 0, feature)
        if len(self.features) > before:
            return None
        return "lines or points" if others else "empty"

    def add_geometry(self, blob, at, feature):
        """(where the geometry at this byte ends, whether it has other parts than polygons)."""
        kind, count = HEADER(blob, at + 1)
        at += 9
        if kind in (POLYGON, TRIANGLE):
            return self.add_polygon(blob, at, count, feature), False
        if kind == POINT:
            return at + 12, True  # what was taken for a count are bytes of x
        if kind == LINE:
            return at + 16 * count, True
        others = False
        for _ in range(count):
            at, other = self.add_geometry(blob, at, feature)
            others |= other
        return at, others

    def add_polygon(self, blob, at, count, feature):
        rings = []
        for _ in range(count):
            points = COUNT(blob, at)[0]
            ring = blob[at + 4: at + 4 + 16 * points]
            at += 4 + 16 * points
            if ring:
                rings.append(ring if ring[:16] == ring[-16:] else ring + ring[:16])
        if rings:
            self.rings += rings
            self.counts.append(len(rings))
            self.features.append(feature)
        return at

    def arrays(self):
        """Corners x and y, ends of rings, corners of each polygon, its feature."""
        x, y = np.frombuffer(b"".join(self.rings), "<f8").reshape(-1, 2).T
        lengths, ends = np.array([len(ring) // 16 for ring in self.rings], np.int64), np.zeros(len(x), bool)
        ends[np.cumsum(lengths) - 1] = True
        first = np.cumsum(self.counts, dtype=np.int64) - self.counts
        of_polygons = np.add.reduceat(lengths, first) if len(first) else lengths
        return x, y, ends, of_polygons, np.array(self.features, np.int32)


def whole(polygons):
    """The Polygons whose coordinates are all finite."""
    finite = np.isfinite(polygons.x) & np.isfinite(polygons.y)
    if finite.all():
        return polygons
    return polygons.take(np.logical_and.reduceat(finite, polygons.starts[:-1]))
