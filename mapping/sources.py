"""A raster to predict, opened as the network sees it: its bands, its place, its pixel size, its scale."""
import contextlib
import functools
from typing import NamedTuple

import numpy as np

from base.blocks import rasters_of
from base.keys import BESIDE
from base.problem import Problem, shown
from base.settings import all_tiles
from base.zips import is_file
from imagery.areas import read_area
from imagery.collars import Collar
from imagery.grids import Place, described, find_place, heights_on, in_words
from imagery.ground import Grid, georeference, in_degrees, metres, moved, pixel_size, plain_size, resampled
from imagery.rasters import Layers, Part, is_for_each, open_raster, to_set
from imagery.raw_tiles import find_raw, is_image_of
from imagery.scales import is_squeezed, joined, levels_of, settled
from mapping.maps import POLYGONS


class Source(NamedTuple):
    """A raster to predict, and the extra raster where there is one, open and of the network's pixel size."""
    paths: list
    rasters: list
    georeference: dict  # that of imagery.ground
    layers: Layers  # the bands that the network sees
    place: Place | None  # of an extra raster that lies on another grid than the image


@contextlib.contextmanager
def open_source(job, facts, show):
    """The Source of a job, resampled where predict.resample asks for it."""
    paths = [job.path, job.extra] if job.extra else [job.path]
    resample = job.settings["predict"]["resample"] and not is_tile(job.name, job.settings)
    with contextlib.ExitStack() as opened:
        raw = job.settings["data"]["raw"]
        rasters = [opened.enter_context(open_raster(path, raw)) for path in paths]
        image, nodata = rasters[0], job.settings["data"]["nodata"]
        ground = ground_of(job, image, show)
        place = place_of_extra(job, rasters[1:], Grid(*image.shape, ground), show)
        ratios, warning = ratios_to(facts["ground_sample_distance"], ground, image.shape, resample, job.path)
        if warning:
            show(f"warning: {job.path}: {warning}", last=True)
        extra = rasters[1:]
        if ratios != (1, 1):
            rasters = [opened.enter_context(resampled(raster, ratios)) for raster in rasters]
            for key in sorted({"control_points", "rpcs"} & ground.keys()):
                del ground[key]
                show(f"warning: {job.path}: its {key} count its own pixels, so its map has none", last=True)
            ground["transform"] = list(rasters[0].transform)[:6]
        if place:
            grid = Grid(*rasters[0].shape, ground)
            rasters[1] = opened.enter_context(heights_on(grid, *extra, place))
        if job.window:
            rasters, ground = [Part(raster, job.window) for raster in rasters], moved(ground, *job.window[:2])
        collar = None if nodata is None else Collar(image, facts["bands"], nodata, rasters[0])
        layers = Layers(rasters[0], rasters[1] if job.extra else None, facts["bands"], facts["scale"], collar)
        if job.area:
            layers.area = read_area(job.area, Grid(*layers.shape, ground), job.settings["data"]["assume_crs"])
        yield Source(paths, rasters, ground, layers, place)


class Own:
    """Settings with what is one raster's own of the split, so that among thousands of tiles a job carries and
    searches no others."""

    def __init__(self, settings):
        split = settings["split"]
        self.settings, self.names = settings, {*all_tiles(split), *rasters_of(split)}

    @functools.cached_property
    def images(self):
        """{path through all links: tile} of the images of the split, [] where an archive is damaged."""
        data, images = self.settings["data"], {}
        with contextlib.suppress(Problem):
            for tile in rasters_of(self.settings["split"]):
                images |= {image.resolve(): tile for image in find_raw(data, "image", tile)}
        return images

    def of(self, name, path):
        """The settings for the raster at a path: of the split its own name, or that of the tile whose image
        it is, which is asked only where it does not itself say where it lies, or none."""
        own = [name] if name in self.names else []
        if not own:
            with open_raster(path, self.settings["data"]["raw"]) as raster:
                unnamed = not raster.crs and not raster.transform.is_identity
            own = [self.images[path.resolve()]] if unnamed and path.resolve() in self.images else []
        return {**self.settings, "split": {**self.settings["split"], "train": [], "val": [], "test": own}}


def place_of_extra(job, extra, grid, show):
    """The Place of a job's extra raster, [] or a list of it, where it lies on another grid than the image,
    whose Grid this is; says so."""
    for raster in extra:
        place, _ = find_place(raster, job.extra, grid, job.settings["data"]["assume_crs"])
        if place:
            told = in_words(described(place, grid, "extra"))
            covered = f"about {100 * place.covered:.0f} % of the image covered"
            show(f"{job.name:>12}  extra raster {told}, {covered}", last=True)
            return place
    return None


def settle_scale(job, layers, facts, show):
    """Gives Layers the scale that is asked of them; says what `auto` came to."""
    asked = asked_scale(job.name, job.settings, facts)
    learned = facts.get("levels") or [[0, 255]] * len(asked)  # of an earlier version they are not known
    scale = layers.scale = settled(asked, layers, facts["scale"], learned)
    if "auto" not in asked:
        return
    limits = [f"{one[0]:g}..{one[1]:g} become 0 and 255" if one else "as it is" for one in scale]
    show(f"{job.name:>12}  predict.scale auto, by percentiles 2 and 98: {', '.join(limits)}", last=True)
    if any(scale) and "levels" not in facts:
        show(f"warning: {job.path}: model.json, of an earlier version, does not name the levels of the "
             "training tiles, so that auto filled 0..255; if the map is poor, set it to [low, high]",
             last=True)


def ground_of(job, image, show):
    """The georeference of a job's open image: data.assume_crs counts where it is that of a tile of the split;
    of any other without a coordinate system a line says so."""
    ground, data = georeference(image, job.path, None), job.settings["data"]
    if not ground["transform"] or ground["crs"] or "control_points" in ground:
        return ground
    if is_tile(job.name, job.settings) or is_image_of(job.path, rasters_of(job.settings["split"]), data):
        return {**ground, "crs": data["assume_crs"]}
    show(f"warning: {job.path}: no coordinate system is named, so its map has none; name it in "
         f"{job.path.with_suffix('.prj').name} beside it (as EPSG:...), or by gdal_edit.py -a_srs", last=True)
    return ground


def ratios_to(trained, ground, shape, resample, path):
    """((along a row, along a column): how many of the map's pixels to one of the raster's, 1 unless
    `resample`; a warning or None). Problem (exit 3) where their sizes have nothing in common."""
    own = pixel_size(ground, shape)
    if trained is None:
        return (1, 1), "the training's pixel size is not known, so it is not resampled" if resample else None
    if own is None and not ground["transform"] and not resample:
        return (1, 1), None  # a picture without a place has no size
    if own is None:
        unnamed = ground["transform"] and not ground["crs"]
        hint = "; name its coordinate system (rio edit-info --crs EPSG:4326)" if unnamed else ""
        return (1, 1), ("its pixel size in metres is not known, so it is not resampled; the network was "
                        f"trained on {metres(trained)}{hint}")
    ratios, sizes = np.divide(own, trained), (metres(plain_size(own)), metres(trained))
    far = not ((1 / 32 < ratios) & (ratios < 32)).all()
    if resample and far:
        raise Problem(f"raster {path}: pixels of {sizes[0]}, expected about {sizes[1]}, on which the network "
                      "was trained; look at its georeference, or set predict.resample to false", code=3)
    if resample:
        return tuple(np.where(abs(ratios - 1) > 0.01, ratios, 1).tolist()), None
    if ((0.8 < ratios) & (ratios < 1.25)).all():
        return (1, 1), None
    advice = "look at its georeference" if far else "set predict.resample to true for good results"
    return (1, 1), f"pixels of {sizes[0]}, the network was trained on {sizes[1]}; {advice}"


def within(job, aoi):
    """A job with its area of interest, only seen by its neighbours where the area does not meet its raster.
    Problem (exit 3) where the area cannot be read or has no place there."""
    if not is_file(aoi):
        raise Problem(f"AOI {shown(aoi)}: no such file, expected polygons in GeoJSON, a GeoPackage, a "
                      "shapefile or FlatGeobuf", code=3)
    with open_raster(job.path, job.settings["data"]["raw"]) as raster:
        grid = Grid(*raster.shape, ground_of(job, raster, lambda line, last: None))
    area = read_area(aoi, grid, job.settings["data"]["assume_crs"])
    return job._replace(area=aoi, only_seen=not area.pixels)


def those_inside(jobs, aoi, problems, show):
    """The jobs that an area of interest meets and, for predict.mosaic, the others. Names these; adds to
    `problems` where it meets none."""
    outside = [job for job in jobs if job.only_seen]
    if outside and len(outside) == len(jobs):
        names = ", ".join(str(job.path) for job in outside[:5])
        problems.append(f"area {aoi}: no pixel of {names} lies inside, expected polygons over it; look at "
                        "both and their coordinate systems in a GIS")
        return []
    for job in outside:
        show(f"{job.path}: outside of {aoi}, passed over", last=True)
    return [job for job in jobs if not job.only_seen or job.settings["predict"]["mosaic"]]


def is_tile(name, settings):
    """True where a map is that of a tile of the split, or of the raster of one, in whatever way."""
    tiles = {*all_tiles(settings["split"]), *rasters_of(settings["split"])}
    return any(name.removesuffix(end) in tiles for end in ("", *BESIDE))


def scale_key(name, settings):
    """The key that scales a raster, predict.scale; None for a tile of the split, read as it was prepared."""
    return None if is_tile(name, settings) else "predict.scale"


def asked_scale(name, settings, facts):
    """For every band of the network the values that become 0 and 255 in a raster: (low, high), None for bytes
    as they are, or "auto". As the network was trained where predict.scale is null or has no entry for a
    band, of one for all also the extra raster's. Problem (exit 2) where it is for other bands."""
    scale, trained = settings["predict"]["scale"], facts["scale"]
    if scale is None or not scale_key(name, settings):
        return trained
    each = scale if is_for_each(scale) else [scale] * len(facts["bands"]) + [None] * facts["extra"]
    if len(each) != len(trained):
        raise Problem(f"settings, key predict.scale: {len(each)} entries, expected one for each of the "
                      f"network's {len(trained)} bands; add or remove some", code=2)
    return [own if asked is None else asked for asked, own in zip(each, trained)]


def warn_of_scale(job, layers, facts, show):
    """Warns where the scale clips a band of Layers that were read, or squeezes the image's."""
    key = scale_key(job.name, job.settings)
    own = job.settings["predict"]["scale"] is not None and key
    named = f"{'predict.scale' if own else 'the scale that the network was trained with'} ({layers.scale})"
    levels = list(map(levels_of, layers.histograms[:len(facts["bands"])]))
    if layers.outside.max() > 0.2 * layers.counted:
        wrong = f"{100 * layers.outside.max() / layers.counted:.0f} % of a band outside {named}"
    elif is_squeezed(levels):
        low, high = joined(levels)
        wrong = f"its values fill only {low}..{high} of 0..255 by {named}"
    else:
        return
    show(f"warning: {job.path}: {wrong}; {to_set(key)}", last=True)


def possible(also, source, show):
    """What of `also` a raster's map can have: polygons only where its place on the ground is known."""
    if not {*POLYGONS} & {*also} or in_degrees(source.rasters[0], source.georeference):
        return also
    reason = "no place in longitude and latitude is known"
    if "control_points" in source.georeference:
        reason = "placed by control points alone; warp it first (gdalwarp)"
    show(f"warning: {source.paths[0]}: {reason}, so no polygons", last=True)
    return [name for name in also if name not in POLYGONS]
