import gzip
import os
import shutil
import sqlite3
import zipfile

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from conftest import run_script, write_raster
from rasterio.transform import from_origin
from test_prepare_data import pixels_of, raster_of, refused

import prepare_data
from base.problem import Problem
from imagery.formats import what_is
from imagery.rasters import Layers, check_bands, open_raster
from imagery.raw_tiles import find_rasters
from imagery.tiles import open_prepared

PIXELS = np.random.default_rng(3).integers(0, 256, (40, 50, 3), np.uint8)
VRT = '<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand dataType="Byte" band="1"/></VRTDataset>'


def as_driver(driver, **options):
    """Makes a file of PIXELS by GDAL's driver."""
    return lambda path: write_raster(path, PIXELS, driver=driver, **options)


def as_copy(driver):
    """The same by a driver that only copies."""

    def make(path):
        write_raster(path.with_name("source.tif"), PIXELS)
        rasterio.shutil.copy(path.with_name("source.tif"), path, driver=driver)

    return make


def as_bytes(content):
    return lambda path: path.write_bytes(content)


def as_zip(path):
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("tile.tif", "x")


def as_sqlite(path):
    base = sqlite3.connect(path)
    base.execute("create table a (b)")
    base.commit()


def tiff(**options):
    def make(path):
        write_raster(path, PIXELS, **options)

    return make


def with_codec(code):
    """A TIFF that says to be compressed as `code`."""

    def make(path):
        write_raster(path, PIXELS, compress="lzw")
        content, entry = bytearray(path.read_bytes()), bytes([3, 1, 3, 0, 1, 0, 0, 0])  # tag 259, a short
        at = content.find(entry) + len(entry)
        content[at : at + 2] = code.to_bytes(2, "little")
        path.write_bytes(content)

    return make


def cut(length, **options):
    def make(path):
        write_raster(path, PIXELS, **options)
        path.write_bytes(path.read_bytes()[:length])

    return make


AGAIN, CONVERT = "copy or fetch it again", "convert it and name the new file: gdal_translate "
HTML = b"\n<!DOCTYPE html>\n<html><title>Sign in</title></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n"
OWN_FILES = {  # {name: (how it comes about, what is said of it, what is advised)}
    "a.vrt": (as_copy("VRT"), "a VRT, which names other rasters", CONVERT),
    "vrt.tif": (as_bytes(VRT.encode()), "a VRT", "vrt_new.tif"),
    "vrt.vrt": (as_bytes(b'\xef\xbb\xbf<?xml version="1.0"?>\n' + VRT.encode()), "a VRT", CONVERT),
    "a.jp2": (as_copy("JP2OpenJPEG"), "a JPEG 2000 file", CONVERT),
    "jp2.tif": (as_copy("JP2OpenJPEG"), "a JPEG 2000 file", "jp2_new.tif"),
    "a.img": (as_bytes(b"EHFA_HEADER_TAG\0\1\0\0\0"), "an ERDAS Imagine file", CONVERT),
    "envi.dat": (as_driver("ENVI"), "a raw raster with its header (.hdr) beside it", CONVERT),
    "a.gpkg": (
        as_driver("GPKG", crs="EPSG:32633", transform=from_origin(4e5, 5e6, 1, 1)),
        "a GeoPackage",
        CONVERT,
    ),
    "a.mbtiles": (as_sqlite, "SQLite", CONVERT),
    "a.nc": (as_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "an HDF5 or NetCDF file", "gdal_translate NAME "),
    "old.nc": (as_bytes(b"CDF\1" + bytes(99)), "a NetCDF file", "gdalinfo"),
    "a.bmp": (as_driver("BMP"), "a BMP file", CONVERT),
    "a.gif": (as_bytes(b"GIF89a\1\0\1\0"), "a GIF file", CONVERT),
    "a.webp": (as_copy("WEBP"), "a WebP file", CONVERT),
    "a.sid": (as_bytes(b"msid\1\0"), "a MrSID file", "export it as a GeoTIFF"),
    "a.ecw": (as_bytes(b"e\2\1\0\xff\xfe"), "an ECW file", "export it as a GeoTIFF"),
    "a.asc": (as_bytes(b"NCOLS 4\nNROWS 4\n"), "an ASCII grid", CONVERT),
    "a.geojson": (as_bytes(b'{"type": "FeatureCollection", "features": []}'), "GeoJSON", "gdal_rasterize"),
    "a.shp": (as_bytes(b"\0\0\x27\x0a" + bytes(96)), "a shapefile", "gdal_rasterize"),
    "a.kml": (as_bytes(b'<?xml version="1.0"?><kml></kml>'), "KML", "gdal_rasterize"),
    "zip.tif": (as_zip, "a zip archive", "unzip it"),
    "gz.tif": (as_bytes(gzip.compress(b"II*\0")), "a gzip archive", "unpack it"),
    "7z.tif": (as_bytes(b"7z\xbc\xaf\x27\x1c\0\4"), "a 7z archive", "unpack it"),
    "html.tif": (as_bytes(HTML), "a page of HTML", "signed in"),
    "xml.tif": (
        as_bytes(b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"),
        "XML",
        "look into",
    ),
    "lfs.tif": (as_bytes(POINTER), "a Git LFS pointer", "git lfs pull"),
    "empty.tif": (as_bytes(b""), "an empty file", AGAIN),
    "zeros.tif": (as_bytes(bytes(5000)), "zeros at its beginning", AGAIN),
    "text.tif": (as_bytes(b"x y z 1 2 3\n"), "a text that begins with 'x y z 1 2 3", "which program"),
    "odd.tif": (
        as_bytes(b"\x07\x08\xfe\xff"),
        "no known format (its first bytes are 07 08 fe ff)",
        "GeoTIFF",
    ),
    "cut.tif": (cut(100), "TIFFReadDirectory", AGAIN),
    "big.tif": (cut(12, bigtiff="yes"), "Cannot read TIFF header", AGAIN),
    "strips.tif": (cut(4000), "IReadBlock failed", AGAIN),
    "cut.png": (cut(-1000, driver="PNG"), "a PNG without its end", AGAIN),
    "cut.jpg": (cut(1000, driver="JPEG"), "Premature end of JPEG file", AGAIN),
    "jxl.tif": (with_codec(50002), "missing codec JXL", "gdal_translate -co COMPRESS=DEFLATE "),
    "dng.tif": (with_codec(34892), "missing codec of code 34892", "COMPRESS=DEFLATE"),
}


@pytest.mark.parametrize("name", OWN_FILES)
def test_peoples_own_files_are_refused_for_the_true_reason(tmp_path, name):
    make, reason, advice = OWN_FILES[name]
    path = tmp_path / name
    make(path)
    with pytest.raises(Problem) as caught, open_raster(path) as raster:
        Layers(raster, None, [1, 2, 3], [None] * 3).read(0, 40)
    (line,) = caught.value.lines
    assert caught.value.code == 3 and line.startswith(f"raster {path}: ")
    assert reason in line and advice in line
    assert (AGAIN in line) == (advice == AGAIN)


@pytest.mark.parametrize("name", ["a.vrt", "a.jp2", "jp2.tif", "envi.dat", "a.gpkg", "a.bmp", "a.webp"])
def test_a_converted_file_is_opened(tmp_path, name):
    OWN_FILES[name][0](tmp_path / name)
    with pytest.raises(Problem) as caught, open_raster(tmp_path / name):
        pass
    source, target = str(caught.value).rpartition("gdal_translate ")[2].split()
    assert source == str(tmp_path / name) and not os.path.exists(target)
    rasterio.shutil.copy(source, target, driver="GTiff")  # which is gdal_translate
    with open_raster(target) as raster:
        assert raster.shape == (40, 50)


@pytest.mark.parametrize(
    "driver, name", [("JPEG", "a.png"), ("PNG", "a.JPG"), ("GTiff", "a.jpg"), ("PNG", "A.TIF")]
)
def test_a_raster_is_opened_by_its_content_whatever_its_suffix(tmp_path, driver, name):
    write_raster(tmp_path / "right", PIXELS, driver=driver)
    shutil.copy(tmp_path / "right", tmp_path / name)
    with rasterio.open(tmp_path / name) as raster, open_raster(tmp_path / name) as own:
        np.testing.assert_array_equal(own.read(), raster.read())


def test_what_is_no_file_is_named(tmp_path):
    (tmp_path / "folder.tif").mkdir()
    (tmp_path / "link.tif").symlink_to("gone.tif")
    os.mkfifo(tmp_path / "pipe.tif")
    cases = {"folder": "a folder", "link": "a link to gone.tif, which is not there", "none": "no such file"}
    for name, reason in {**cases, "pipe": "neither a file nor a folder"}.items():
        with (
            pytest.raises(Problem, match=f"{name}.tif: {reason}, expected"),
            open_raster(tmp_path / f"{name}.tif"),
        ):
            pass


def test_a_file_without_permission_is_named(tmp_path, monkeypatch):
    write_raster(tmp_path / "a.tif", PIXELS)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with (
        pytest.raises(Problem, match="a.tif: permission denied, expected .*ls -l"),
        open_raster(tmp_path / "a.tif"),
    ):
        pass


def test_a_palette_image_of_one_band_is_named_as_such(tmp_path):
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=9, width=9, count=1, dtype="uint8"
    ) as target:
        target.write(np.ones((9, 9), np.uint8), 1)
        target.write_colormap(1, {1: (9, 8, 7, 255)})
    with open_raster(tmp_path / "a.tif") as raster:
        wrong = check_bands(raster, [1, 2, 3], [None] * 3, "data.bands: [1, 2, 3]")
    assert wrong.startswith("a palette image (data.bands: [1, 2, 3])")
    assert f"gdal_translate -expand rgb {tmp_path / 'a.tif'} {tmp_path / 'a_new.tif'}" in wrong


def test_no_advice_converts_a_file_over_a_raster_that_is_there(tmp_path):
    (tmp_path / "a.vrt").write_text(VRT)
    assert what_is(tmp_path / "a.vrt")[1].endswith(f"{tmp_path / 'a.vrt'} {tmp_path / 'a.tif'}")
    write_raster(tmp_path / "a.tif", PIXELS)  # as the VRT's own source
    assert what_is(tmp_path / "a.vrt")[1].endswith(f"{tmp_path / 'a.vrt'} {tmp_path / 'a_new.tif'}")


def test_odd_numbers_are_named_with_what_makes_them_fit(tmp_path):
    for dtype, advice in (("complex64", "abs(A)"), ("int64", "-ot Float64"), ("uint64", "-ot Float64")):
        write_raster(tmp_path / "a.tif", PIXELS.astype(dtype))
        with open_raster(tmp_path / "a.tif") as raster:
            wrong = check_bands(raster, [1, 2, 3], [[0, 255]] * 3, "data.bands")
        assert f"{dtype} pixels in band 1" in wrong and advice in wrong


def test_tiles_under_another_suffix_or_in_another_format_are_found_out(project, settings):
    path = raster_of(project, "image", "2_13")
    pixels = pixels_of(path)
    path.rename(path.with_suffix(".TIF"))
    assert (
        f"no file, expected raw/{path.relative_to(project / 'raw')}; {path.stem}.TIF lies there: rename it"
        in (refused(settings, project)[0])
    )
    rasterio.shutil.copy(path.with_suffix(".TIF"), path.with_suffix(".jp2"), driver="JP2OpenJPEG")
    path.with_suffix(".TIF").unlink()
    (told,) = refused(settings, project)
    assert f"{path.stem}.jp2 lies there: a JPEG 2000 file" in told and "gdal_translate" in told
    path.symlink_to("gone.tif")
    assert "is a link to gone.tif, which is not there" in refused(settings, project)[0]
    path.unlink()
    write_raster(path, pixels, driver="PNG")  # under .tif
    prepare_data.main(settings, project / "runs/tiny")
    np.testing.assert_array_equal(open_prepared(settings["data"], "2_13").image, pixels)


def test_a_tile_to_predict_that_is_something_else_is_named(project, settings):
    (project / "link.tif").symlink_to("gone.tif")
    (project / "folder").mkdir()
    as_copy("JP2OpenJPEG")(project / "folder/a.jp2")
    (project / "folder/source.tif").unlink()
    cases = {
        "link.tif": "a link to gone.tif, which is not there",
        "folder": "(?s)a folder without rasters.*a.jp2: a JPEG 2000 file.*gdal_translate",
        "/dev/null": "neither a file nor a folder",
        "none": "no such tile or file",
    }
    for tile, reason in cases.items():
        with pytest.raises(Problem, match=reason):
            find_rasters(tile, settings)
    said = run_script("predict.py", "--check", "--params", "tiny.yaml", "--tile", "link.tif", cwd=project)
    assert said.returncode == 3 and said.stderr.count("error: ") == 1
