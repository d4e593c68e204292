"""A map's areas as polygons, for GIS programs: GeoJSON, a GeoPackage, and how QGIS draws them."""
import contextlib
import itertools
import json
import sqlite3
import struct
from importlib.util import find_spec
from xml.sax.saxutils import quoteattr

import numpy as np
from rasterio._err import CPLE_BaseError
from rasterio.errors import CRSError, RasterioError
from rasterio.features import shapes, sieve
from rasterio.warp import transform_geom

from base.files import replacing
from base.problem import Problem
from base.tables import write_text
from imagery.arrays import IGNORE
from imagery.ground import georeference, pixel_size
from imagery.labels import palette
from imagery.rasters import open_raster, writing
from mapping.maps import POLYGONS, beside, style_of

ECCENTRICITY = 0.0818191908426215  # of the ellipsoid WGS84, which follows from its 1 / 298.257223563
SQUARE = 6378137.0**2 / 4 * (1 - ECCENTRICITY**2) / ECCENTRICITY * np.pi / 180  # its axis in metres, squared
HEAD = '{"type": "FeatureCollection", "sieve": %d, "simplify": %r, "features": ['  # how their GeoJSON begins
MADE = "sieve %d, simplify %r"  # how the polygons of a GeoPackage were made, as its contents say
BATCH = 5000  # areas at once: a call for each is thirty times slower
FIELDS = "class", "index", "colour", "area_m2"


def check_simplify(options):
    """Problem (exit 4) where predict.simplify lacks the package that it needs."""
    if options["simplify"] and {*POLYGONS} & {*options["also"]} and find_spec("shapely") is None:
        raise Problem("package shapely: not installed, expected for predict.simplify; run make extras, or "
                      "set simplify: 0", code=4)


def write_polygons(map_path, wanted):
    """Writes the polygons that are `wanted` (map_writer.Wanted) and not there so, and their style."""
    writers = {"polygons": (write_geojson, geojson_stands),
               "geopackage": (write_geopackage, geopackage_stands)}
    for name in [name for name in POLYGONS if name in wanted.also]:
        (write, stands), path = writers[name], beside(map_path, name)
        if not style_of(map_path).exists():
            write_text(style_of(map_path), style(wanted.classes))
        if not stands(path, wanted):
            with writing(f"class map {path}"), replacing(path) as temporary:
                write(temporary, map_path, wanted)


def style(classes):
    """The .qml of QGIS that draws polygons in the colours of their classes."""
    categories = "".join(f'<category render="true" symbol="{i}" type="string" value={quoteattr(name)} '
                         f"label={quoteattr(name)}/>" for i, name in enumerate(classes))
    numbers = palette(classes)[: len(classes)].tolist()
    fills = [{"color": f"{red},{green},{blue},255", "style": "solid", "outline_style": "no"}
             for red, green, blue in numbers]
    symbols = "".join(
        f'<symbol type="fill" name="{i}" alpha="1"><layer class="SimpleFill" enabled="1" locked="0" pass="0">'
        + '<Option type="Map">'
        + "".join(f'<Option type="QString" name="{key}" value="{value}"/>' for key, value in fill.items())
        + "</Option>" + "".join(f'<prop k="{key}" v="{value}"/>' for key, value in fill.items())
        + "</layer></symbol>" for i, fill in enumerate(fills))
    return ('<!DOCTYPE qgis>\n<qgis version="3.0" styleCategories="Symbology"><renderer-v2 '
            f'type="categorizedSymbol" attr="class"><categories>{categories}</categories>'
            f"<symbols>{symbols}</symbols></renderer-v2><layerGeometryType>2</layerGeometryType></qgis>\n")


# -- areas ---------------------------------------------------------------------------------------------------

def areas(source, wanted):
    """Yields batches ([Polygon as GeoJSON, in the map's coordinate system], [class index]) of an open map's
    areas, those of fewer than `sieve` pixels given to their largest neighbour, if they have one. Holds the
    map in memory, three bytes a pixel and, where borders are simplified, all polygons."""
    indices, transform = source.read(1), source.transform
    if wanted.sieve > 1:
        mask = (indices != IGNORE).astype(np.uint8)
        indices = sieve(indices, min(wanted.sieve, indices.size), mask=mask)
    if wanted.simplify:
        size = pixel_size(georeference(source, source.name, None), source.shape)
        each = simplified(shapes(indices, indices != IGNORE), source.shape, size, wanted.simplify, transform)
    else:
        each = shapes(indices, indices != IGNORE, transform=transform)
    while batch := list(itertools.islice(each, BATCH)):
        yield [geometry for geometry, _ in batch], [int(index) for _, index in batch]


def simplified(polygons, shape, size, metres, transform):
    """Yields (Polygon as GeoJSON, class index), by a transform, of all areas of a raster of `shape`, given in
    pixels (`size`: their metres), with fewer corners, on borders that two areas share alone, so that these
    stay shared. A corner goes where its triangle (Visvalingam and Whyatt, 1993) is smaller than one on a
    pixel's side that is `metres` high. So a border moves by about `metres` at most: by less in 1,000 x 1,000
    made-up maps of smooth areas and turned rectangles, by 2.3 px for 2 in noise."""
    import shapely

    points, rings, indices, corners = [], [], [], np.zeros((shape[0] + 1, shape[1] + 1), bool)
    for geometry, index in polygons:
        own = [np.array(ring, np.int32) for ring in geometry["coordinates"]]
        points += own
        rings.append(len(own))
        indices.append(index)
        for ring in own:
            corners[ring[:, 1], ring[:, 0]] = True
    if not points:
        return
    coordinates, ends = noded(points, corners)
    del points
    parts = ends, np.cumsum([0, *rings])
    coverage = shapely.from_ragged_array(shapely.GeometryType.POLYGON, coordinates * np.array(size), parts)
    del coordinates
    coverage = shapely.coverage_simplify(coverage, np.sqrt(min(size) * metres / 2), simplify_boundary=False)
    _, coordinates, (ends, parts) = shapely.to_ragged_array(coverage)
    matrix = np.reshape(transform[:6], (2, 3))
    coordinates = coordinates / size @ matrix[:, :2].T + matrix[:, 2]
    for i, index in enumerate(indices):
        rings = [coordinates[ends[j]: ends[j + 1]].tolist() for j in range(parts[i], parts[i + 1])]
        yield {"type": "Polygon", "coordinates": rings}, index


def noded(rings, corners):
    """(points [N, 2], where each ring begins [R + 1]) of closed rings along pixels' sides (int32 [P, 2]:
    column, row) with all `corners` (bool [H + 1, W + 1]) on their way: where a neighbour turns."""
    begins = np.cumsum([0, *map(len, rings)])
    points = np.concatenate(rings)
    steps = np.diff(points, axis=0, append=points[-1:])
    steps[begins[1:] - 1] = 0  # from the end of a ring
    lengths = np.maximum(1, abs(steps).sum(1))
    kept, counts = [], []
    for start in range(0, len(points), 2**18):
        some = slice(start, start + 2**18)
        repeats = lengths[some]
        along = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        dense = np.repeat(points[some], repeats, 0)
        dense += np.repeat(np.sign(steps[some]), repeats, 0) * along[:, None].astype(np.int32)
        chosen = corners[dense[:, 1], dense[:, 0]]
        kept.append(dense[chosen])
        counts.append(np.add.reduceat(chosen, np.cumsum(repeats) - repeats, dtype=np.int64))
    total = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    return np.concatenate(kept), total[begins]


# -- files ---------------------------------------------------------------------------------------------------

def geojson_stands(path, wanted):
    """True where the polygons in a GeoJSON were made as `wanted`."""
    with contextlib.suppress(FileNotFoundError), open(path, errors="replace") as file:
        return file.readline(200).startswith(HEAD % (wanted.sieve, wanted.simplify))
    return False


def write_geojson(path, map_path, wanted):
    """A map's areas as GeoJSON (RFC 7946: longitude and latitude, outer rings counterclockwise). `area_m2` is
    on the ground, six digits of it."""
    with open_raster(map_path) as source, open(path, "w") as file:  # in ASCII
        file.write(HEAD % (wanted.sieve, wanted.simplify))
        comma = "\n"
        for geometries, indices in areas(source, wanted):
            for index, geometry in zip(indices, in_longitude(source.crs, geometries, map_path)):
                file.write(comma + json.dumps(feature(geometry, index, wanted.classes)))
                comma = ",\n"
        file.write("\n]}\n")


def geopackage_stands(path, wanted):
    """True where the polygons in a GeoPackage were made as `wanted`."""
    if not path.exists():
        return False
    with contextlib.closing(sqlite3.connect(path)) as base:
        try:
            made = base.execute("SELECT description FROM gpkg_contents "
                                "WHERE table_name = 'polygons'").fetchone()
        except sqlite3.Error:
            return False
    return made == (MADE % (wanted.sieve, wanted.simplify),)


def write_geopackage(path, map_path, wanted):
    """A map's areas as a GeoPackage in the map's own coordinate system, with their style, where QGIS looks
    for it, and the same attributes as in GeoJSON."""
    import pyogrio
    from pyogrio.errors import CRSError, DataLayerError, DataSourceError, FeatureError, GeometryError

    layer = {"layer": "polygons", "driver": "GPKG", "geometry_type": "Polygon", "promote_to_multi": False}
    try:
        with open_raster(map_path) as source:
            batches = itertools.chain(areas(source, wanted), [([], [])])  # the layer of a map without areas
            for geometries, indices in batches:
                placed = in_longitude(source.crs, geometries, map_path)
                rows = [feature(*each, wanted.classes)["properties"] for each in zip(placed, indices)]
                columns = [np.array([row[field] for row in rows], kind)
                           for field, kind in zip(FIELDS, (object, np.int32, object, float))]
                blobs = np.array([as_wkb(geometry["coordinates"]) for geometry in geometries], object)
                pyogrio.raw.write(path, blobs, columns, FIELDS, crs=source.crs.to_wkt(), append=path.exists(),
                                  **layer)
        with contextlib.closing(sqlite3.connect(path)) as base, base:
            finish(base, wanted)
        settle(path)
    except (CRSError, DataLayerError, DataSourceError, FeatureError, GeometryError, sqlite3.Error) as error:
        raise RasterioError(str(error)) from None


def as_wkb(rings):
    """A polygon of rings as little-endian WKB (OGC 06-103r4, 8.2)."""
    parts = [struct.pack("<I", len(ring)) + np.array(ring, "<f8").tobytes() for ring in rings]
    return b"".join([struct.pack("<BII", 1, 3, len(rings)), *parts])


def finish(base, wanted):
    """Writes into an open GeoPackage its style, and how its polygons were made in place of when: the same
    polygons are the same bytes."""
    base.execute("CREATE TABLE layer_styles (id INTEGER PRIMARY KEY, f_table_catalog TEXT, "
                 "f_table_schema TEXT, f_table_name TEXT, f_geometry_column TEXT, styleName TEXT, "
                 "styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN, description TEXT, owner TEXT, ui TEXT, "
                 "update_time DATETIME)")
    base.execute("INSERT INTO layer_styles VALUES (1, '', '', 'polygons', 'geom', 'classes', ?, '', 1, '', "
                 "'', '', '2000-01-01T00:00:00.000Z')", [style(wanted.classes)])
    base.execute("INSERT INTO gpkg_contents (table_name, data_type, identifier, description) "
                 "VALUES ('layer_styles', 'attributes', 'layer_styles', '')")
    base.execute("UPDATE gpkg_contents SET last_change = '2000-01-01T00:00:00.000Z'")
    base.execute("UPDATE gpkg_contents SET description = ? WHERE table_name = 'polygons'",
                 [MADE % (wanted.sieve, wanted.simplify)])


def settle(path):
    """Gives a GeoPackage the bytes that its content alone decides: its pages in order, and SQLite's counters
    of changes at 1 (they tell connections that are open of a change, and there is none)."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as base:
        base.execute("VACUUM")
    with open(path, "r+b") as file:
        for counter in (24, 40, 92):  # of changes, of changes of the schema, of changes when this was written
            file.seek(counter)
            file.write(struct.pack(">I", 1))


# -- a feature -----------------------------------------------------------------------------------------------

def in_longitude(crs, geometries, path):
    """Geometries in longitude and latitude; Problem (exit 3) where one of them has no place there."""
    try:
        placed = transform_geom(crs, "EPSG:4326", geometries)
        polygons = itertools.chain.from_iterable(map(polygons_of, placed))
        whole = all(np.isfinite(ring).all() for rings in polygons for ring in rings)
    except (RasterioError, CPLE_BaseError, CRSError, ValueError):
        whole = False
    if not whole:
        raise Problem(f"polygons of {path}: no longitude and latitude in its coordinate system, expected "
                      "them; warp the raster first (gdalwarp -t_srs), or take polygons out of predict.also",
                      code=3)
    return placed


def polygons_of(geometry):
    """The polygons, lists of rings, of a geometry: more than one where the antimeridian cuts it."""
    return geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]


def feature(geometry, index, classes):
    """One area as GeoJSON, of a `geometry` in degrees; of several polygons where the antimeridian cuts it."""
    name = list(classes)[index]
    polygons = [[turned(ring, inner=i > 0) for i, ring in enumerate(rings)]
                for rings in polygons_of(geometry)]
    area = sum(square for rings in polygons for _, square in rings)
    coordinates, cut = [[ring for ring, _ in rings] for rings in polygons], len(polygons) > 1
    return {"type": "Feature",
            "properties": {"class": name, "index": index, "colour": classes[name],
                           "area_m2": float(f"{area:.6g}")},
            "geometry": {"type": "MultiPolygon" if cut else "Polygon",
                         "coordinates": coordinates if cut else coordinates[0]}}


def turned(ring, inner):
    """(points to eight digits, square metres) of a closed ring of degrees: counterclockwise or, an `inner`
    one, clockwise and its square metres negative."""
    ring = np.array(ring)
    square = enclosed(ring)
    wrong = (square < 0) != inner
    return np.round(ring[::-1] if wrong else ring, 8).tolist(), -square if wrong else square


def enclosed(ring):
    """Square metres on the ellipsoid WGS84 inside a closed ring of degrees (float64 [N, 2]), negative where
    it turns right: in the cylindrical equal-area projection (Snyder, Map Projections, 1987, 3-12 and 10)."""
    x = (ring[:, 0] - ring[0, 0] + 180) % 360 - 180  # over the antimeridian, too
    sine = ECCENTRICITY * np.sin(np.radians(ring[:, 1]))
    y = sine / (1 - sine * sine) + np.arctanh(sine)
    y -= y[0]
    return SQUARE * (np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]))
