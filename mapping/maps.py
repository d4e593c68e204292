"""The files of a class map: how they are called, what each holds, and whether they stand.

<name>.tif               class index, nodata 255, overviews by mode; its .aux.xml holds class names for GDAL
                         and, as those of the other rasters, what GeoTIFF cannot say of its place
<name>.qml, <name>.png   names and colours for QGIS; a picture of the map
<name>.confidence.tif    where asked for: the class's probability times 200, uint8
<name>.uncalibrated.tif  beside the confidence of a test tile, with predict.compare: at temperature 1
<name>.probabilities.tif where asked for: each class's probability times 200, a band of uint8 each
<name>.areas.csv         with confidence or probabilities: the area of each class as counted, and as expected
<name>.colours.tif       where asked for: the map in the classes' colours, RGB and alpha
<name>.polygons.geojson  where asked for: polygons with class and square metres, in longitude and latitude
<name>.polygons.gpkg     where asked for: the same in the map's coordinate system; .polygons.qml draws both
<name>.<way>.tif         a test tile's map made in one of the other `ways`

A tile's name may have folders: so have its files.
"""
import json
import os
from pathlib import Path

from base.files import sha256
from base.keys import BESIDE
from base.problem import Problem
from base.tables import read_table
from base.zips import is_file
from imagery.rasters import open_raster, reading
from imagery.raw_tiles import check_name, is_image_of
from imagery.remote import address_of, plain
from mapping.journal import recorded

CERTAIN = 200  # what a probability of 1 is written as
WHOLE = 320 * CERTAIN  # what it is until then, so that faint ones can be summed
PIXELS = ("window", "overlap", "views", "precision", "mosaic")  # predict settings that decide a map's pixels
PREDICTED = "confidence", "uncalibrated", "probabilities"  # beside the map: written with it
POLYGONS = "polygons", "geopackage"  # of predict.also: the files that hold the map's areas
ALSO = "confidence", "probabilities", "colours", *POLYGONS  # the last three are drawn from a map that stands
ALONG = "uncalibrated", "areas"  # what comes along with the confidence


def ways(settings):
    """{way: predict settings} in which test tiles are predicted too, where predict.compare is on: "one_view",
    where the map itself is made in several, and "side_by_side", as patches are cut for training."""
    options = settings["predict"]
    if not options["compare"]:
        return {}
    one = {**options, "views": options["views"][:1], "also": [], "scale": None}  # as the tiles themselves
    return {**({"one_view": one} if len(options["views"]) > 1 else {}),
            "side_by_side": {**one, "window": settings["input"]["patch_size"], "overlap": 0, "mosaic": False}}


def options_of(predict):
    """The predict settings that decide a map's pixels, as its tag PREDICT holds them; what decides them
    beside these stands in the tags ENGINE (predict.engine may be auto) and PLACE (predict.resample)."""
    return json.dumps({key: predict[key] for key in PIXELS}, sort_keys=True)


def pam(path):
    """Where GDAL keeps what it knows of a raster beside it (its PAM)."""
    return path.with_name(path.name + ".aux.xml")


def sidecars(path):
    """What always goes with a map: its .aux.xml for GDAL, .qml for QGIS and .png to look at."""
    return pam(path), path.with_suffix(".qml"), path.with_suffix(".png")


def beside(path, name):
    """The file of one of `ALSO`, or the map made in one of the `ways`, beside a map."""
    ends = {"polygons": ".polygons.geojson", "geopackage": ".polygons.gpkg", "areas": ".areas.csv"}
    return path.with_suffix(ends.get(name, f".{name}.tif"))


def style_of(path):
    """The style for QGIS of the polygons beside a map, apart from the map's own."""
    return path.with_suffix(".polygons.qml")


def files_of(path, also):
    """The files of a whole map: itself, its sidecars, and what `also` brings along, [] for one of the `ways`.
    Polygons are not counted: a map without a place on the ground has none."""
    names = [name for name in also if name not in POLYGONS]
    names += ["areas"] if any(name in PREDICTED for name in also) else []
    return [path, *sidecars(path), *(beside(path, name) for name in names)]


def also_of(predict):
    """What goes beside the map of a test tile, by the predict settings: of `ALSO`."""
    uncalibrated = predict["compare"] and "confidence" in predict["also"]
    return [*predict["also"], *(["uncalibrated"] if uncalibrated else [])]


def map_of(run, name):
    """The path of a raster's map."""
    return run / "predictions" / f"{name}.tif"


def name_of(run, path):
    """The name of a map by its path, as `map_of` made it, with the way that it was made in."""
    return path.relative_to(run / "predictions").as_posix().removesuffix(".tif")


def place_of(path):
    """The path of a raster as predict.csv holds it: below this folder seen from here, so that a project may
    move, else whole; through all links to its folders. A link to a raster is a raster of its own."""
    if address := address_of(path):
        return plain(address)
    folder, name = os.path.split(os.path.abspath(path))
    whole = os.path.join(os.path.realpath(folder), name)
    near = os.path.relpath(whole)
    return whole if near.startswith(os.pardir) else near


def name_map(path, data, tiles, owned):
    """The name of the map of a raster that is no tile by name: the file's or, where that is a tile's or that
    of another raster which is still there, the same after the name of its folder, and so on up. `owned`:
    {map: path of its raster}; `tiles`: the names of all. Problem (exit 3) where there is none."""
    path = Path(plain(str(path))) if address_of(path) else path
    check_name(path)
    path, own = Path(os.path.abspath(path)), place_of(path)
    folders = [folder.name.lstrip(".") for folder in path.parents if folder.name]
    names = [".".join([*reversed(folders[:count]), path.stem]) for count in range(len(folders) + 1)]
    names = [name for name in names if Path(name).suffix not in BESIDE
             and (name not in tiles or is_image_of(path, [name], data))]
    free = [name for name in names if not owned.get(name)
            or not is_file(owned[name]) and not address_of(owned[name])]
    for name in [name for name in names if owned.get(name) == own] + free:
        return name
    raise Problem(f"raster {path}: every name for its map is another's, expected one of its own; rename it",
                  code=3)


def maps_of(tile, settings, run):
    """{way: path} of a test tile's maps: "map", the map itself, and the map made in each of the `ways`."""
    path = map_of(run, tile)
    return {"map": path, **{way: beside(path, way) for way in ways(settings)}}


def expected_maps(settings, run):
    """[(path, what goes beside it)] of the test tiles' maps, in every way."""
    also = {"map": also_of(settings["predict"])}
    return [(path, also.get(way, [])) for tile in settings["split"]["test"]
            for way, path in maps_of(tile, settings, run).items()]


def read_map(path, shape):
    """(uint8 [H, W], {tag: text}) of a map, or its confidence; Problem (exit 3) where it is not there so."""
    if not path.exists():
        raise Problem(f"class map {path}: no such file, expected it of predict.py; run predict.py again",
                      code=3)
    with open_raster(path) as source:
        if (source.count, source.dtypes[0], source.shape) != (1, "uint8", tuple(shape)):
            raise Problem(f"class map {path}: {source.count} bands of {source.dtypes[0]}, {source.shape}, "
                          f"expected one of uint8, {tuple(shape)}; run predict.py again", code=3)
        with reading(path):
            return source.read(1), source.tags()


def temperature_of(facts, views):
    """The temperature of a network's probabilities, averaged over so many views, by model.json: of several
    that of eight."""
    return facts.get("temperature", {}).get("one_view" if len(views) == 1 else "eight_views", 1)


def read_areas(path, classes):
    """{class: (pixels, expected pixels)} of the table beside a map; Problem (exit 3) where it is not one of
    these classes."""
    table = beside(path, "areas")
    rows = {row.get("class"): row for row in read_table(table)}
    try:
        return {name: (int(rows[name]["pixels"]), float(rows[name]["expected_pixels"])) for name in classes}
    except (KeyError, ValueError) as error:
        raise Problem(f"table {table}: {error}, expected pixels and expected_pixels of every class; remove "
                      "it and run predict.py again", code=3) from None


def check_length_of_name(run, name, raster):
    """Problem (exit 3) where the name of a raster's map is too long for the files beside it."""
    longest = f".{Path(name).name}.probabilities.tmp9999999.tif.aux.xml"  # GDAL's, of a temporary file
    if len(os.fsencode(longest)) > os.pathconf(run, "PC_NAME_MAX"):
        raise Problem(f"raster {raster}: its name is too long for the files beside its map, expected a "
                      "shorter one; rename it", code=3)


def not_made(path, tags, also):
    """What of `also` was to be written with a map of these tags, and was not."""
    predicted = [name for name in also if name in PREDICTED]
    lacking = [name for name in predicted if not is_made(beside(path, name), tags)]
    return lacking or ["areas"] * (predicted != [] and not table_stands(beside(path, "areas")))


def table_stands(path):
    """True where a table is there and has rows."""
    try:
        return bool(read_table(path))
    except (Problem, OSError):
        return False


def is_made(path, tags):
    """True where a raster with these tags is there."""
    try:
        with open_raster(path) as source:
            own = source.tags()
    except Problem:
        return False
    return all(own.get(key, "") == value for key, value in tags.items())  # GeoTIFF keeps no empty tag


def maps_stand(settings, run):
    """True where the maps of the test tiles are those that predict.csv names, with what goes beside them."""
    try:
        digests = {name: row.get("sha256") for name, row in recorded(run).items()}
        return all(digests.get(name_of(run, path)) == sha256(path)
                   and all(map(Path.exists, files_of(path, also)))
                   for path, also in expected_maps(settings, run))
    except (Problem, OSError):
        return False
