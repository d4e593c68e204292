"""What a file is, by its first bytes: a raster that is read here, or another, and how that becomes one.

Nothing is opened by GDAL to find out: a VRT or a service's description may name files of the network.
"""
import contextlib
import os
import shlex
import sqlite3
import struct
import zipfile
import zlib
from pathlib import Path

from base.problem import Problem
from base.zips import gdal_name, open_zip, split_zip

DRIVERS = {b"II*\0": "GTiff", b"MM\0*": "GTiff", b"II+\0": "GTiff", b"MM\0+": "GTiff",  # BigTIFF the last two
           b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG",
           b"\0\0\0\x0cjP  ": "JP2OpenJPEG", b"\xff\x4f\xff\x51": "JP2OpenJPEG", b"EHFA_HEADER_TAG": "HFA"}
SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".j2k", ".vrt", ".img")  # of a folder's rasters
OTHERS = (".gpkg", ".bmp", ".gif", ".webp", ".geojson", ".shp")  # in their place
READ = "a GeoTIFF, PNG, JPEG, JPEG 2000, ERDAS Imagine, ENVI, GeoPackage or VRT"
ENVI = "ENVI"  # a driver whose files only a header beside them tells
HEAD = 512  # bytes that tell a format

OF_ENVI = ("", ".dat", ".bin", ".raw", ".bsq", ".bil", ".bip", ".envi")  # usual suffixes of these files

AGAIN = "it may be damaged or cut short: copy or fetch it again"
CONVERT = "convert it and name the new file: {command}"
VARIABLE = "convert one of its variables, as gdalinfo names them: gdal_translate NAME {target}"
EXPORT = "export it as a GeoTIFF by a program that reads it"
BURN = "it holds no image; labels of this form are named in data.label"
TABLES = "its polygons are labels where data.label names it; of MBTiles: {command}"
ANNOTATED = "as labels, in data.label, GeoJSON, COCO and LabelMe are read: see which program wrote it"
TO_LABELS = "as labels, convert it to a GeoPackage: ogr2ogr labels.gpkg FILE"
UNPACK = "unpack it and name the raster inside"
SIGN_IN = "fetch the raster itself, signed in"
SIGNATURES = (  # (first bytes, or of a text the first letters in lower case; what they tell; what to do)
    (b"BM", "a BMP file", CONVERT),
    (b"GIF8", "a GIF file", CONVERT),
    (b"RIFF", "a WebP file", CONVERT),
    (b"SQLite format 3\0", "a GeoPackage without rasters, or another SQLite file", TABLES),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 or NetCDF file", VARIABLE),
    (b"CDF", "a NetCDF file", VARIABLE),
    (b"ncols", "an ASCII grid", CONVERT),
    (b"msid", "a MrSID file", EXPORT),
    (b"\x93NUMPY", "a NumPy array", "write it as a GeoTIFF, by rasterio"),
    (b"\0\0\x27\x0a", "a shapefile", BURN),
    (b"fgb\x03", "a FlatGeobuf file", BURN),
    (b"{", "GeoJSON or another JSON text", ANNOTATED),
    (b"PK\3\4", "a zip archive", "unzip it, or name the raster inside it (ARCHIVE.zip/RASTER.tif)"),
    (b"\x1f\x8b", "a gzip archive", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"version https://git-lfs", "a Git LFS pointer in the file's place", "run git lfs pull"),
    (b"<vrtdataset", "a VRT, which names other rasters, under another suffix", "rename it to .vrt"),
    (b"envi", "the header of an ENVI raster", "name the file beside it that holds its pixels"),
    (b"<gdal_wm", "the description of a map service", CONVERT),
    (b"<!doctype html", "a page of HTML, as of a login", SIGN_IN),
    (b"<html", "a page of HTML, as of a login", SIGN_IN),
    (b"<kml", "vectors (KML)", TO_LABELS),
    (b"<", "XML, as a server's refusal or GML", "look into it, and fetch the raster itself"),
)


def command_to(convert, path):
    """A command that makes a GeoTIFF of a file, beside it; of a member of a zip, in the current folder."""
    source = gdal_name(path)
    return f"{convert} {shlex.quote(source)} {target_of(source)}"


def target_of(source):
    """Where a file converted to GeoTIFF goes, quoted for the shell: over no raster that is there."""
    path = Path(Path(source).name if source.startswith("/vsizip/") else source)
    target = path if path.suffix.lower() in (".tif", ".tiff") else path.with_suffix(".tif")
    taken = target == path or target.exists()
    return shlex.quote(str(target.with_stem(f"{path.stem}_new") if taken else target))


def absence(path):
    """Why there is no file at a path, in words."""
    if os.path.islink(path) and not os.path.exists(path):
        return f"a link to {os.readlink(path)}, which is not there"
    if os.path.isdir(path):
        return "a folder"
    return "neither a file nor a folder" if os.path.exists(path) else "no such file"


@contextlib.contextmanager
def binary(path):
    """Opens a file or a zip's member for reading; Problem (exit 3) where that fails."""
    archive, member = split_zip(path)
    try:
        with open_zip(archive).open(member) if archive else open(path, "rb") as file:
            yield file
    except PermissionError:
        raise Problem(f"raster {path}: permission denied, expected a file that this user may read; look at "
                      "its permissions (ls -l) and its folder's", code=3) from None
    except (KeyError, ValueError, OSError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise Problem(f"raster {path}: {' '.join(str(error).split())}, expected a whole, readable file; "
                      f"{AGAIN}", code=3) from None


def has_end(file):
    """True where an open PNG has its last chunk. GDAL reads one that is cut short, at times, as noise."""
    file.seek(8)
    while len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        if kind == b"IEND":
            return True
        file.seek(length + 4, os.SEEK_CUR)
    return False


def what_is(path):
    """(driver, None) of a raster that is read here, whatever its suffix, but that of a VRT; of another file
    (None, what it is and what to do with it)."""
    with binary(path) as file:
        head = file.read(HEAD)
        driver = next((driver for start, driver in DRIVERS.items() if head.startswith(start)), None)
        if driver == "PNG" and not has_end(file):
            return None, f"a PNG without its end, expected a whole one; {AGAIN}"
    if driver := driver or by_more(Path(path), head):
        return driver, None
    what, advice = described(Path(path), head)
    if what == ENVI:
        return ENVI, None
    advice = advice.format(command=command_to("gdal_translate", path), target=target_of(str(path)))
    return None, f"{what}, expected {READ}; {advice}"


def by_more(path, head):
    """The driver of a VRT, by its suffix too, or of a GeoPackage, by its tables; else None."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    text = text.partition(b"?>")[2].lstrip() if text.startswith(b"<?xml") else text
    if text.startswith(b"<VRTDataset"):
        return "VRT" if path.suffix.lower() == ".vrt" else None
    return "GPKG" if head.startswith(b"SQLite format 3\0") and rasters_in(path) else None


def rasters_in(path):
    """The tables of rasters of a GeoPackage; [] where there is none, or it does not tell."""
    kinds = "('tiles', '2d-gridded-coverage')"
    names = f"SELECT table_name FROM gpkg_contents WHERE data_type IN {kinds} LIMIT 100"
    return ask_geopackage(path, names) or []


def ask_geopackage(path, query):
    """The first column of a query's answer; None where the file does not tell. Nothing is written beside
    it."""
    uri = f"{Path(path).absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as tables:
            return [first for first, in tables.execute(query)]
    except (sqlite3.Error, UnicodeDecodeError):
        return None


def header_of(path):
    """The header of an ENVI raster, beside it; None where there is none."""
    names = path.with_suffix(".hdr"), path.with_suffix(".HDR"), Path(f"{path}.hdr"), Path(f"{path}.HDR")
    for name in names if path.name else ():
        with contextlib.suppress(OSError), open(name, "rb") as file:
            if file.read(4) == b"ENVI":
                return name
    return None


def described(path, head):
    """(what a file with these first bytes is, what to do with it), of one that is no raster that is read."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<?xml"):
        text = text.partition(b"?>")[2].lstrip() or b"<"
    for start, what, advice in SIGNATURES:
        if head.startswith(start) or text.lower().startswith(start):
            return what, advice
    if header_of(path):
        return ENVI, None
    if any(map(os.path.isfile, (path.with_suffix(".hdr"), path.with_suffix(".HDR"), f"{path}.hdr"))):
        return "a raw raster with a header (.hdr) beside it that is not ENVI's", CONVERT
    if not any(head):
        return ("zeros at its beginning" if head else "an empty file"), AGAIN
    if head[257:262] == b"ustar":
        return "a tar archive", UNPACK
    if path.suffix.lower() == ".ecw":
        return "an ECW file", EXPORT
    if all(31 < byte < 127 or byte in b"\t\r\n" for byte in head):
        return f"a text that begins with {head[:30].decode()!r}", "see which program wrote it"
    return f"no known format (its first bytes are {head[:8].hex(' ')})", EXPORT


def is_of_folder(path):
    """True where an entry of a folder is one of its rasters, by its name or, of an ENVI raster and a
    GeoPackage, by what is there."""
    suffix = path.suffix.lower()
    if path.name.startswith(".") or not path.is_file():
        return suffix in SUFFIXES and not path.name.startswith(".") and not path.is_dir()
    return (suffix in SUFFIXES or suffix in OF_ENVI and header_of(path) is not None
            or suffix == ".gpkg" and bool(rasters_in(path)))
