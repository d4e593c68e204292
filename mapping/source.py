"""A raster, and perhaps an extra raster beside it, as the network sees them: checked, of its pixel size, in
bytes."""
import contextlib
import json

import numpy as np

from base.files import is_file, sha256
from base.problem import Problem
from base.settings import all_tiles
from imagery.rasters import (
    Layers,
    check_bands,
    control_points,
    georeference,
    open_raster,
    pixel_size,
    resampled,
    same_place,
)
from imagery.raw_tiles import MASK


def check_raster(path, extra_path, facts):
    """Problem (exit 3) where a raster, or the extra raster beside it, is not what the network takes."""
    with open_raster(path) as raster, open_raster(extra_path or path) as extra:
        wrong = check_bands(raster, facts["bands"], facts["scale"], f"the network's bands: {facts['bands']}")
        if wrong:
            raise Problem(f"raster {path}: {wrong}", code=3)
        if not extra_path:
            return
        wrong = check_bands(extra, [1], facts["scale"][-1:], "the network's extra band")
        if not wrong and not same_place(extra, georeference(raster, None)["transform"]):
            wrong = f"its georeference lies elsewhere than that of {path}, expected the same ground"
        if extra.shape != raster.shape:
            wrong = (f"{extra.height} x {extra.width} pixels, expected {raster.height} x {raster.width} "
                     f"as {path}")
        if wrong:
            raise Problem(f"extra raster {extra.name}: {wrong}", code=3)


class Source:
    """A raster to predict, and the extra raster where there is one, open and of the network's pixel size.

    paths, rasters       of both; `layers` are the bands that the network sees
    height, width        of both, in pixels
    georeference         imagery.rasters.georeference, with "control_points" where these place it
    """

    def __init__(self, paths, rasters, ground, facts):
        self.paths, self.rasters, self.georeference = paths, rasters, ground
        self.layers = Layers(rasters[0], (rasters + [None])[1], facts["bands"], facts["scale"])
        self.shape = self.height, self.width = self.layers.shape
        self.pixels, self.outside = 0, np.zeros(len(facts["scale"]), np.int64)  # read; beyond the scale

    def read(self, start, stop):
        """Rows of pixels: uint8 [rows, W, B]."""
        valid = self.layers.valid(start, stop)
        pixels, outside = self.layers.read(start, stop, valid)
        self.pixels += np.count_nonzero(valid)
        self.outside += outside
        return pixels

    def warn_of_scale(self, show):
        """Says so where much of what was read lay outside the scale of the training."""
        if self.outside.max() > 0.2 * self.pixels:
            share = 100 * self.outside.max() / self.pixels
            show(f"warning: {self.paths[0]}: {share:.0f} % of a band outside the scale that the network was "
                 f"trained with ({self.layers.scale}); see data.scale", last=True)

    def masks(self):
        """What decides which pixels have no data, with the bytes of the masks beside the rasters, as text;
        not the statistics that programs leave in an .aux.xml."""
        texts = []
        for path, raster in zip(self.paths, self.rasters):
            mask, kinds = f"{path}{MASK}", [kind.name for kind in raster.colorinterp]
            texts.append(json.dumps([raster.nodatavals, raster.mask_flag_enums, kinds,
                                     sha256(mask) if is_file(mask) else None]))
        return " ".join(texts)


@contextlib.contextmanager
def open_source(job, facts, show):
    """The Source of a job (mapping/one_raster.py), brought to the network's pixel size where predict.resample
    asks for it."""
    paths = [job.path, job.extra] if job.extra else [job.path]
    of_split = job.name in all_tiles(job.settings["split"])  # compared with labels, pixel by pixel
    resample = job.settings["predict"]["resample"] and not of_split
    with contextlib.ExitStack() as opened:
        rasters = [opened.enter_context(open_raster(path)) for path in paths]
        ground = georeference(rasters[0], job.settings["data"]["assume_crs"])
        if points := control_points(rasters[0]):
            ground["control_points"] = points
        scale, warning = scale_to(ground, facts["ground_sample_distance"], resample, job.path)
        if warning:
            show(f"warning: {job.path}: {warning}", last=True)
        if scale != 1:
            rasters = [opened.enter_context(resampled(raster, scale)) for raster in rasters]
            ground["transform"] = list(rasters[0].transform)[:6]
        yield Source(paths, rasters, ground, facts)


def scale_to(ground, trained, resample, path):
    """(how many of the map's pixels to one of the raster's, a warning or None): 1 unless `resample`, and
    where the sizes are the same or one of them is not known. Problem (exit 3) where they have nothing in
    common."""
    own = pixel_size(ground)
    if trained is None or (own is None and not ground["transform"] and not resample):
        return 1, None  # a picture without a place has no size
    if own is None:
        return 1, ("its pixel size in metres is not known, so it is not resampled; the network was trained "
                   f"on {trained:g} m")
    ratio = own / trained
    if resample and not 1 / 32 < ratio < 32:
        raise Problem(f"raster {path}: pixels of {own:g} m, expected about {trained:g} m, on which the "
                      "network was trained; look at its georeference, or set predict.resample to false",
                      code=3)
    if resample and abs(ratio - 1) > 0.01:
        return ratio, None
    if resample or 0.8 < ratio < 1.25:
        return 1, None
    return 1, (f"pixels of {own:g} m, the network was trained on {trained:g} m; set predict.resample to true "
               "for good results")
