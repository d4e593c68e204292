"""What a file is, by its first bytes: a raster that is read here, or another, and how that becomes one.

Nothing is opened by GDAL to find out: a VRT or a service's description may name files of the network.
"""
import contextlib
import os
import shlex
import struct
import zipfile
import zlib
from pathlib import Path

from base.problem import Problem
from base.zips import split_zip

DRIVERS = {b"II*\0": "GTiff", b"MM\0*": "GTiff", b"II+\0": "GTiff", b"MM\0+": "GTiff",  # BigTIFF the last two
           b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}
SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")  # of the rasters in a folder
OTHERS = (".jp2", ".vrt", ".img", ".gpkg", ".bmp", ".gif", ".webp", ".geojson", ".shp")  # in their place
HEAD = 512  # bytes that tell a format

AGAIN = "it may be damaged or cut short: copy or fetch it again"
CONVERT = "convert it and name the new file: {command}"
VARIABLE = "convert one of its variables, as gdalinfo names them: gdal_translate NAME {target}"
EXPORT = "export it as a GeoTIFF by a program that reads it"
BURN = "as labels, burn it into a raster of the image's size first (gdal_rasterize)"
UNPACK = "unpack it and name the raster inside"
SIGN_IN = "fetch the raster itself, signed in"
SIGNATURES = (  # (first bytes, or of a text the first letters in lower case; what they tell; what to do)
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 file", CONVERT),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 file", CONVERT),
    (b"EHFA_HEADER_TAG", "an ERDAS Imagine file", CONVERT),
    (b"BM", "a BMP file", CONVERT),
    (b"GIF8", "a GIF file", CONVERT),
    (b"RIFF", "a WebP file", CONVERT),
    (b"SQLite format 3\0", "a GeoPackage or another SQLite file", CONVERT),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 or NetCDF file", VARIABLE),
    (b"CDF", "a NetCDF file", VARIABLE),
    (b"ncols", "an ASCII grid", CONVERT),
    (b"msid", "a MrSID file", EXPORT),
    (b"\x93NUMPY", "a NumPy array", "write it as a GeoTIFF, by rasterio"),
    (b"\0\0\x27\x0a", "a shapefile", BURN),
    (b"{", "GeoJSON or another JSON text", BURN),
    (b"PK\3\4", "a zip archive", "unzip it, or name the raster inside it (ARCHIVE.zip/RASTER.tif)"),
    (b"\x1f\x8b", "a gzip archive", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"version https://git-lfs", "a Git LFS pointer in the file's place", "run git lfs pull"),
    (b"<vrtdataset", "a VRT, which names other rasters", CONVERT),
    (b"<gdal_wm", "the description of a map service", CONVERT),
    (b"<!doctype html", "a page of HTML, as of a login", SIGN_IN),
    (b"<html", "a page of HTML, as of a login", SIGN_IN),
    (b"<kml", "vectors (KML)", BURN),
    (b"<", "XML, as a server's refusal or GML", "look into it, and fetch the raster itself"),
)


def command_to(convert, path):
    """A command that makes a GeoTIFF of a file, beside it; of a member of a zip, in the current folder."""
    archive, member = split_zip(path)
    source = f"/vsizip/{{{archive}}}/{member}" if archive else str(path)
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
        with contextlib.ExitStack() as opened:
            whole = opened.enter_context(zipfile.ZipFile(archive)) if archive else None
            yield opened.enter_context(whole.open(member) if whole else open(path, "rb"))
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
    """(driver, None) of a GeoTIFF, PNG or JPEG, whatever its suffix; of another file (None, what it is and
    what to do with it)."""
    with binary(path) as file:
        head = file.read(HEAD)
        driver = next((driver for start, driver in DRIVERS.items() if head.startswith(start)), None)
        if driver == "PNG" and not has_end(file):
            return None, f"a PNG without its end, expected a whole one; {AGAIN}"
    if driver:
        return driver, None
    what, advice = described(Path(path), head)
    advice = advice.format(command=command_to("gdal_translate", path), target=target_of(str(path)))
    return None, f"{what}, expected a GeoTIFF, PNG or JPEG; {advice}"


def described(path, head):
    """(what a file with these first bytes is, what to do with it), of one that is no GeoTIFF, PNG or JPEG."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<?xml"):
        text = text.partition(b"?>")[2].lstrip() or b"<"
    for start, what, advice in SIGNATURES:
        if head.startswith(start) or text.lower().startswith(start):
            return what, advice
    if any(map(os.path.isfile, (path.with_suffix(".hdr"), path.with_suffix(".HDR"), f"{path}.hdr"))):
        return "a raw raster with its header (.hdr) beside it, as ENVI's", CONVERT
    if not any(head):
        return ("zeros at its beginning" if head else "an empty file"), AGAIN
    if head[257:262] == b"ustar":
        return "a tar archive", UNPACK
    if path.suffix.lower() == ".ecw":
        return "an ECW file", EXPORT
    if all(31 < byte < 127 or byte in b"\t\r\n" for byte in head):
        return f"a text that begins with {head[:30].decode()!r}", "see which program wrote it"
    return f"no known format (its first bytes are {head[:8].hex(' ')})", EXPORT
