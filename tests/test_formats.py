import gzip
import os
import shutil
import sqlite3
import zipfile
from pathlib import Path

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
from imagery.raw_tiles import find_rasters, passed_over
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


def as_raw(header):
    """Pixels without a header, and one beside them."""

    def make(path):
        path.write_bytes(bytes(range(50)))
        path.with_suffix(".hdr").write_bytes(header)

    return make


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
    "vrt.tif": (as_bytes(VRT.encode()), "a VRT, which names other rasters, under another suffix", ".vrt"),
    "bom.tif": (as_bytes(b'\xef\xbb\xbf<?xml version="1.0"?>\n' + VRT.encode()), "a VRT", "rename it"),
    "a.img": (as_bytes(b"EHFA_HEADER_TAG\0\1\0\0\0"), "HFA", AGAIN),
    "a.jp2": (as_bytes(b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99)), "a.jp2", AGAIN),
    "a.hdr": (as_bytes(b"ENVI\nsamples = 5\n"), "the header of an ENVI raster", "the file beside it"),
    "a.bil": (as_raw(b"NROWS 5\nNCOLS 5\n"), "a raw raster with a header (.hdr) beside it", CONVERT),
    "cut.dat": (as_raw(b"ENVI\nsamples = 50\nlines = 40\nbands = 3\ndata type = 1\n"), "cut.dat", AGAIN),
    "a.mbtiles": (as_sqlite, "SQLite", "of MBTiles: gdal_translate "),
    "a.nc": (as_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "an HDF5 or NetCDF file", "gdal_translate NAME "),
    "old.nc": (as_bytes(b"CDF\1" + bytes(99)), "a NetCDF file", "gdalinfo"),
    "a.bmp": (as_driver("BMP"), "a BMP file", CONVERT),
    "a.gif": (as_bytes(b"GIF89a\1\0\1\0"), "a GIF file", CONVERT),
    "a.webp": (as_copy("WEBP"), "a WebP file", CONVERT),
    "a.sid": (as_bytes(b"msid\1\0"), "a MrSID file", "export it as a GeoTIFF"),
    "a.ecw": (as_bytes(b"e\2\1\0\xff\xfe"), "an ECW file", "export it as a GeoTIFF"),
    "a.asc": (as_bytes(b"NCOLS 4\nNROWS 4\n"), "an ASCII grid", CONVERT),
    "a.geojson": (as_bytes(b'{"type": "FeatureCollection", "features": []}'), "GeoJSON", "COCO"),
    "a.shp": (as_bytes(b"\0\0\x27\x0a" + bytes(96)), "a shapefile", "data.label"),
    "a.kml": (as_bytes(b'<?xml version="1.0"?><kml></kml>'), "KML", "ogr2ogr"),
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


@pytest.mark.parametrize("name", ["a.bmp", "a.webp"])
def test_a_converted_file_is_opened(tmp_path, name):
    OWN_FILES[name][0](tmp_path / name)
    with pytest.raises(Problem) as caught, open_raster(tmp_path / name):
        pass
    source, target = str(caught.value).rpartition("gdal_translate ")[2].split()
    assert source == str(tmp_path / name) and not os.path.exists(target)
    rasterio.shutil.copy(source, target, driver="GTiff")  # which is gdal_translate
    with open_raster(target) as raster:
        assert raster.shape == (40, 50)


FORMS = {  # of one raster: {name: (driver, options)}
    "a.jp2": ("JP2OpenJPEG", {"QUALITY": "100", "REVERSIBLE": "YES"}),
    "b.j2k": ("JP2OpenJPEG", {"QUALITY": "100", "REVERSIBLE": "YES", "CODEC": "J2K"}),
    "a.img": ("HFA", {}),
    "large.img": ("HFA", {"USE_SPILL": "YES"}),
    "a.dat": ("ENVI", {}),
    "a.raw": ("ENVI", {"INTERLEAVE": "BIL", "SUFFIX": "ADD"}),
    "plain": ("ENVI", {"INTERLEAVE": "BIP"}),
    "a.gpkg": ("GPKG", {"TILE_FORMAT": "PNG"}),
    "a.vrt": ("VRT", {}),
}
PLACE = {"crs": "EPSG:32633", "transform": from_origin(4e5, 5e6, 0.5, 0.5)}


def write_forms(folder, pixels=PIXELS):
    """The same raster in every form, and as source.tif beside them."""
    write_raster(folder / "source.tif", pixels, **PLACE)
    for name, (driver, options) in FORMS.items():
        rasterio.shutil.copy(folder / "source.tif", folder / name, driver=driver, **options)


def test_a_raster_is_the_same_in_every_form_and_nothing_is_written_beside_it(tmp_path):
    write_forms(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    for name, (driver, _) in FORMS.items():
        with open_raster(tmp_path / name) as raster:
            assert raster.driver == driver
            pixels, valid = Layers(raster, None, [1, 2, 3], [None] * 3).read(0, 40)
            np.testing.assert_array_equal(pixels, PIXELS, name)
            assert valid.all() and raster.crs == PLACE["crs"] and raster.transform == PLACE["transform"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_folder_a_pattern_and_a_list_name_rasters_of_every_form(tmp_path, settings, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in [a] folder").mkdir()
    write_forms(tmp_path / "in [a] folder")
    expected = {tmp_path / "in [a] folder" / name for name in [*FORMS, "source.tif"]}
    named = find_rasters(str(tmp_path / "in [a] folder"), settings)
    assert {path for _, path in named} == expected and {name for name, _ in named} == {None}
    assert not list(passed_over(tmp_path / "in [a] folder"))
    assert find_rasters("in [[]a] folder/*.jp2", settings) == [(None, Path("in [a] folder/a.jp2"))]
    with pytest.raises(Problem, match="a pattern that fits no raster"):
        find_rasters("in*/*.csv", settings)
    (tmp_path / "a*.tif").write_bytes((tmp_path / "in [a] folder/source.tif").read_bytes())
    assert find_rasters("a*.tif", settings) == [(None, Path("a*.tif"))]  # a file of this very name
    (tmp_path / "in [a] folder/files.txt").write_text("# two\n\na.jp2\r\n*.img\na.jp2\n")
    named = find_rasters("@in [a] folder/files.txt", settings)
    assert [path.name for _, path in named] == ["a.jp2", "a.img", "large.img"]
    (tmp_path / "bad.txt").write_text("none.tif\nb/*.tif\n")
    with pytest.raises(Problem, match="line 1: .*none.tif.*no such") as caught:
        find_rasters("@bad.txt", settings)
    assert len(caught.value.lines) == 2


def test_two_rasters_in_a_geopackage_are_named(tmp_path):
    write_raster(tmp_path / "a.tif", PIXELS, **PLACE)
    rasterio.shutil.copy(tmp_path / "a.tif", tmp_path / "a.gpkg", driver="GPKG", RASTER_TABLE="one")
    two = {"APPEND_SUBDATASET": "YES", "RASTER_TABLE": "two"}
    rasterio.shutil.copy(tmp_path / "a.tif", tmp_path / "a.gpkg", driver="GPKG", **two)
    with (
        pytest.raises(Problem, match=r"2 rasters \(ONE, TWO\), .*GPKG:.*:ONE ONE.tif"),
        open_raster(tmp_path / "a.gpkg"),
    ):
        pass


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
    write_raster(tmp_path / "a.bmp", PIXELS, driver="BMP")
    assert what_is(tmp_path / "a.bmp")[1].endswith(f"{tmp_path / 'a.bmp'} {tmp_path / 'a.tif'}")
    write_raster(tmp_path / "a.tif", PIXELS)
    assert what_is(tmp_path / "a.bmp")[1].endswith(f"{tmp_path / 'a.bmp'} {tmp_path / 'a_new.tif'}")


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
    rasterio.shutil.copy(path.with_suffix(".TIF"), path.with_suffix(".bmp"), driver="BMP")
    path.with_suffix(".TIF").unlink()
    (told,) = refused(settings, project)
    assert f"{path.stem}.bmp lies there: a BMP file" in told and "gdal_translate" in told
    path.symlink_to("gone.tif")
    assert "is a link to gone.tif, which is not there" in refused(settings, project)[0]
    path.unlink()
    write_raster(path, pixels, driver="PNG")  # under .tif
    prepare_data.main(settings, project / "runs/tiny")
    np.testing.assert_array_equal(open_prepared(settings["data"], "2_13").image, pixels)


def test_a_tile_to_predict_that_is_something_else_is_named(project, settings):
    (project / "link.tif").symlink_to("gone.tif")
    (project / "folder").mkdir()
    write_raster(project / "folder/a.bmp", PIXELS, driver="BMP")
    cases = {
        "link.tif": "a link to gone.tif, which is not there",
        "folder": "(?s)a folder without rasters.*a.bmp: a BMP file.*gdal_translate",
        "/dev/null": "neither a file nor a folder",
        "none": "no such tile or file",
    }
    for tile, reason in cases.items():
        with pytest.raises(Problem, match=reason):
            find_rasters(tile, settings)
    said = run_script("predict.py", "--check", "--params", "tiny.yaml", "--tile", "link.tif", cwd=project)
    assert said.returncode == 3 and said.stderr.count("error: ") == 1
