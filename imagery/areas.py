"""Areas of interest: the pixels of a grid whose middles lie inside of a file's polygons."""
import functools
import hashlib

import numpy as np

from base.problem import Problem
from base.zips import written
from imagery.arrays import IGNORE, strips
from imagery.burning import Burner
from imagery.vectors import on_grid, read_vectors


class Area:
    """The pixels of a grid inside of polygons (uint8 [H, (W + 7) // 8], a bit each)."""

    def __init__(self, bits, width):
        self.bits, self.width = bits, width

    @property
    def pixels(self):
        """How many lie inside."""
        return int(np.bitwise_count(self.bits).sum(dtype=np.int64))

    @property
    def digest(self):
        """SHA-256 of the pixels: another file of the same ones is the same area."""
        return hashlib.sha256(str((self.bits.shape, self.width)).encode() + self.bits.tobytes()).hexdigest()

    def rows(self, start, stop):
        """True (bool [rows, W]) inside, in rows start..stop of the grid."""
        return np.unpackbits(self.bits[start:stop], 1, self.width).view(bool)


def check_area(_, path, grid, data):
    """As `imagery.label_sources.check_labels`, of the area of a tile: nothing but its bytes decides."""
    if grid:
        on_grid(vectors_of(path, written(path)), grid, path, data["assume_crs"])
    return "", None, []


def read_area(path, grid, assume_crs):
    """The Area of a file of polygons on a ground.Grid, perhaps empty. `assume_crs`: of a file that names no
    coordinate system. Problem (exit 3) where it holds lines or points, or no polygon."""
    polygons = on_grid(vectors_of(path, written(path)), grid, path, assume_crs)
    ranks, values = polygons.features * 0, np.zeros(len(polygons.features), np.uint8)
    burner = Burner(polygons, grid.shape, False, path)
    bits = np.empty((grid.height, -(-grid.width // 8)), np.uint8)
    for start, stop in strips(*grid.shape):
        bits[start:stop] = np.packbits(burner.paint(ranks, values, start, stop)[0] != IGNORE, 1)
    return Area(bits, grid.width)


@functools.lru_cache(maxsize=1)
def vectors_of(path, _):
    """The Vectors of an area's file, kept from raster to raster while it is not written to."""
    try:
        vectors = read_vectors(path)
    except Problem as problem:
        lines = [line.replace("name it in data.label_layer", "copy it into a file of its own")
                 for line in problem.lines]
        raise Problem(*lines, code=problem.code) from None
    others = vectors.dropped.get("lines or points", 0)
    if others or not len(vectors.polygons.features):
        wrong = f"{others} lines or points" if others else "no polygon"
        raise Problem(f"area {path}: {wrong}, expected polygons alone; close the lines in a GIS, or copy the "
                      "polygons into a file of their own", code=3)
    return vectors
