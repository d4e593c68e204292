"""A raw tile read by strips of rows: its pixels, its labels, and what the manifest says of both."""
import contextlib
import hashlib
from collections import Counter
from typing import NamedTuple

import numpy as np

from imagery.areas import read_area
from imagery.arrays import IGNORE, strips
from imagery.collars import Collar, likely_collar
from imagery.grids import Place, blocks, heights_on, inside
from imagery.ground import Grid
from imagery.label_sources import open_labels
from imagery.labels import OUTCOMES
from imagery.leaks import digest_blocks
from imagery.rasters import Layers, open_raster, scales
from imagery.scales import levels_of
from imagery.tiles import count_cells, pack


class Source(NamedTuple):
    """A raw tile: {kind: path}, its header as of `read_header`, its paths and hashes as of `hash_files`."""
    files: dict
    header: dict
    raw: dict

    @property
    def grid(self):
        return Grid(*self.header["shape"][:2], self.header["georeference"], self.files["image"])

    @property
    def place(self):
        """The Place of an extra raster that lies on another grid; else None."""
        told = self.header["grids"].get("extra")
        return Place(told["crs"], told["transform"], told["shape"], 1) if told else None


class Audit:
    """What the manifest says of a tile's pixels, gathered from its strips of rows."""

    def __init__(self, shape, kinds):
        self.digest, self.outside, self.levels = hashlib.sha256(str(shape).encode()), [], []
        self.nodata, self.collar, self.cells, self.blocks = 0, None, [], []
        self.outcomes = {kind: np.zeros(len(OUTCOMES), np.int64) for kind in kinds}
        self.unknown = {kind: Counter() for kind in kinds}
        self.readers, self.off_grid, self.outside_area = {}, Counter(), 0

    def add_image(self, image, valid):
        self.digest.update(image)
        self.nodata += valid.size - np.count_nonzero(valid)
        self.blocks.append(digest_blocks(image, valid))

    def add_labels(self, kind, outcomes, unknown):
        self.outcomes[kind] += outcomes
        self.unknown[kind].update(unknown)
        if len(self.unknown[kind]) > 2**17:  # a photograph in a label's place: keep its most frequent colours
            self.unknown[kind] = Counter(dict(self.unknown[kind].most_common(2**12)))

    def row(self, classes):
        cells = np.concatenate(self.cells)
        pixels = {kind: dict(zip(OUTCOMES, outcomes.tolist())) for kind, outcomes in self.outcomes.items()}
        for kind, unknown in self.unknown.items():
            pixels[kind]["unknown_colours"] = dict(unknown.most_common(5))
        for kind, reader in self.readers.items():
            pixels[kind] |= {"layout": str(reader.layout), "hidden": dict(+reader.hidden), **reader.counts}
            self.off_grid[kind] += reader.outside
        return {"nodata": int(self.nodata), "likely_collar": self.collar,
                "outside_scale": self.outside, "levels": self.levels, "pixels": pixels,
                "off_grid": dict(self.off_grid), "outside_area": self.outside_area,
                "pixels_sha256": self.digest.hexdigest(),
                "blocks": np.unique(np.concatenate(self.blocks)).tobytes().hex(),
                "classes": dict(zip(classes, cells.sum((0, 1)).tolist())), "cells": cells.tolist()}


@contextlib.contextmanager
def opened(source, data):
    """(the open image, the Layers of image and extra raster) of a raw tile."""
    with contextlib.ExitStack() as entered:
        image, *extra = [entered.enter_context(open_raster(source.files[kind], data["raw"]))
                         for kind in ("image", "extra") if kind in source.files]
        if source.place:
            extra = [entered.enter_context(heights_on(source.grid, *extra, source.place))]
        bands, nodata = data["bands"], data["nodata"]
        collar = None if nodata is None else Collar(image, bands, nodata)
        yield image, Layers(image, extra[0] if extra else None, bands, scales(data), collar)


def read_tile(source, data, decoder, audit):
    """Yields a tile by strips of rows, {"pixels": uint8 [rows, W, pixel_bytes], and perhaps "eroded": uint8
    [rows, W]}, and adds them to its audit. Pixels without data in the image, or outside of data.area, become
    IGNORE in the labels."""
    with contextlib.ExitStack() as entered:
        image, layers = entered.enter_context(opened(source, data))
        if not layers.collar and (likely := likely_collar(image, data["bands"])):
            audit.collar = [likely.nodata, likely.share]
        for kind in audit.outcomes:
            labels = open_labels(source.files[kind], source.grid, data, decoder)
            audit.readers[kind] = entered.enter_context(labels)
        area = source.files.get("area")
        area = read_area(area, source.grid, data["assume_crs"]) if area else None
        for start, stop in strips(*layers.shape):  # of whole cells
            image, valid = layers.read(start, stop)
            audit.add_image(image, valid)
            if source.place:
                seen = inside(blocks(source.place, source.grid, start, stop), valid.shape)
                audit.off_grid["extra"] += int(np.count_nonzero(~seen))
            if area:
                learned = area.rows(start, stop)
                audit.outside_area += int(np.count_nonzero(~learned))
                valid = valid & learned
            labels = {}
            for kind, reader in audit.readers.items():
                labels[kind], *counts = reader.read(start, stop)
                labels[kind][~valid] = IGNORE
                audit.add_labels(kind, *counts)
            audit.cells.append(count_cells(labels["labels"], len(data["classes"])))
            yield {"pixels": pack(image, labels.pop("labels")), **labels}
        audit.outside, audit.levels = layers.outside.tolist(), list(map(levels_of, layers.histograms))
