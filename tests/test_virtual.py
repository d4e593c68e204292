"""VRTs name other rasters: those that are named are read, nothing else is."""

import hashlib
import re
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from conftest import SIZES, save_settings, write_raster
from rasterio.transform import from_origin
from test_prepare_data import raster_of

import prepare_data
from base.problem import Problem
from imagery.rasters import Layers, open_raster
from imagery.raw_tiles import watched_files
from imagery.tiles import open_prepared, read_manifest
from imagery.virtual import members_of, parts_of

PIXELS = np.random.default_rng(5).integers(1, 256, (20, 30, 3), np.uint8)


def vrt(*sources, size=(40, 30), head="", kind="", bands=3):
    """A VRT's text, as gdalbuildvrt writes it, of `sources`: (file, its attributes, first row)."""
    text = f'<VRTDataset rasterXSize="{size[1]}" rasterYSize="{size[0]}">{head}'
    for band in range(1, bands + 1):
        text += f'<VRTRasterBand dataType="Byte" band="{band}"{kind}><NoDataValue>0</NoDataValue>'
        for name, attributes, row in sources:
            text += (
                f"<ComplexSource><SourceFilename {attributes}>{name}</SourceFilename><SourceBand>{band}"
                '</SourceBand><SourceProperties RasterXSize="30" RasterYSize="20" DataType="Byte"/>'
                f'<SrcRect xOff="0" yOff="0" xSize="30" ySize="20"/><DstRect xOff="0" yOff="{row}" '
                'xSize="30" ySize="20"/><NODATA>0</NODATA></ComplexSource>'
            )
        text += "</VRTRasterBand>"
    return text + "</VRTDataset>"


NEAR = 'relativeToVRT="1" shared="0"'


def read(path, raw=None):
    with open_raster(path, raw) as raster:
        return Layers(raster, None, [1, 2, 3], [None] * 3).read(0, raster.height)


def refused(path, raw=None):
    started = time.monotonic()
    with pytest.raises(Problem) as caught:
        read(path, raw)
    assert caught.value.code == 3 and len(caught.value.lines) == 1 and time.monotonic() - started < 10
    return caught.value.lines[0]


def test_a_mosaic_is_read_and_its_gaps_have_no_data(tmp_path):
    write_raster(tmp_path / "parts/a.tif", PIXELS)
    (tmp_path / "mosaic.vrt").write_text(vrt(("parts/a.tif", NEAR, 20)))
    pixels, valid = read(tmp_path / "mosaic.vrt")
    np.testing.assert_array_equal(pixels[20:], PIXELS)
    assert not valid[:20].any() and valid[20:].all()
    assert members_of(tmp_path / "mosaic.vrt") == [tmp_path / "parts/a.tif"]
    (tmp_path / "outer.vrt").write_text(vrt(("mosaic.vrt", NEAR, 0)))  # one within another
    assert members_of(tmp_path / "outer.vrt") == [tmp_path / "mosaic.vrt", tmp_path / "parts/a.tif"]


def test_members_may_lie_in_the_folder_of_raw_tiles_too(tmp_path):
    write_raster(tmp_path / "raw/a.tif", PIXELS)
    (tmp_path / "vrt").mkdir()
    for name, attributes in (("../raw/a.tif", NEAR), (tmp_path / "raw/a.tif", "")):
        path = tmp_path / "vrt/a.vrt"
        path.write_text(vrt((name, attributes, 0)))
        assert "expected files in or below its own folder or data.raw" in refused(path)
        np.testing.assert_array_equal(read(path, tmp_path / "raw")[0][:20], PIXELS)


def test_make_watches_the_header_of_an_envi_raster_however_it_is_named(project, settings):
    for tile in SIZES:
        path = raster_of(project, "image", tile)
        rasterio.shutil.copy(path, project / f"raw/{tile}.raw", driver="ENVI", SUFFIX="ADD")
    settings["data"]["image"] = "{tile}.raw"
    assert project / "raw/2_13.raw.hdr" in {path.absolute() for path in watched_files(settings)}


def test_a_vrt_in_a_zip_archive_is_refused_as_such(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("m.vrt", vrt(("a.tif", NEAR, 0)))
    assert "a VRT in a zip archive" in refused(tmp_path / "a.zip/m.vrt")


def test_a_warped_raster_is_read(tmp_path):
    place = {"crs": "EPSG:32633", "transform": from_origin(4e5, 5.8e6, 1, 1)}
    write_raster(tmp_path / "a.tif", PIXELS, **place)
    with (
        rasterio.open(tmp_path / "a.tif") as source,
        rasterio.vrt.WarpedVRT(source, crs="EPSG:3857") as warped,
    ):
        rasterio.shutil.copy(warped, tmp_path / "b.vrt", driver="VRT")
        expected = warped.read()
    assert members_of(tmp_path / "b.vrt") == [tmp_path / "a.tif"]
    with open_raster(tmp_path / "b.vrt") as raster:
        np.testing.assert_array_equal(raster.read(), expected)


def test_a_link_to_a_vrt_is_that_vrt_and_what_belongs_to_members_is_watched(tmp_path):
    write_raster(tmp_path / "parts/a.tif", PIXELS)
    rasterio.shutil.copy(tmp_path / "parts/a.tif", tmp_path / "parts/a.dat", driver="ENVI")
    write_raster(tmp_path / "parts/a.dat.msk", PIXELS[..., :1])
    (tmp_path / "parts/m.vrt").write_text(vrt(("a.dat", NEAR, 0)))
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/m.vrt").symlink_to("../parts/m.vrt")
    names = [part.name for part in parts_of(tmp_path / "linked/m.vrt")]
    assert names == ["a.dat", "a.dat.msk", "a.hdr"]
    (tmp_path / "parts/a.dat.msk").unlink()
    np.testing.assert_array_equal(read(tmp_path / "linked/m.vrt")[0][:20], PIXELS)


FUNCTION = "<PixelFunctionType>sum</PixelFunctionType>"
HOSTILE = {  # {name: (text, what is said)}
    "network": (vrt(("/vsicurl/http://127.0.0.1:9/a.tif", NEAR, 0)), "expected files in or below"),
    "s3": (vrt(("/vsis3/bucket/a.tif", "", 0)), "expected files in or below"),
    "url": (vrt(("http://127.0.0.1:9/a.tif", NEAR, 0)), "a VRT with SourceFilename 1 0 http:"),
    "driver": (vrt(("HFA:a.tif", NEAR, 0)), "a VRT with SourceFilename 1 0 HFA:a.tif"),
    "near": (vrt(("a.tif", 'relativeToVRT="2"', 0)), "a VRT with SourceFilename 2 a.tif"),
    "attribute": (
        vrt().replace("<NoData", '<SimpleSource SourceFilename="/etc/x"/><NoData'),
        "SimpleSource /etc",
    ),
    "other case": (vrt(kind=' subclass="VRTRawRasterBand"'), "VRTRasterBand Byte 1 VRTRaw"),
    "overviews": (
        vrt(head='<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">/etc/x</MDI></Metadata>'),
        "Metadata OVERVIEWS",
    ),
    "comment": (vrt(("a.tif<!-- -->x", NEAR, 0)), "no VRT's XML"),
    "letters": ('<?xml version="1.0" encoding="latin-1"?>' + vrt(("\udce9.tif", NEAR, 0)), "no XML"),
    "above": (vrt(("../secret.tif", NEAR, 0)), "expected files in or below"),
    "absolute": (vrt(("/etc/passwd", "", 0)), "expected files in or below"),
    "link": (vrt(("link.tif", NEAR, 0)), "expected files in or below"),
    "missing": (vrt(("gone.tif", NEAR, 0)), "gone.tif, no such file"),
    "text": (vrt(("text.tif", NEAR, 0)), "a text that begins with"),
    "disguise": (vrt(("disguise.jpg", NEAR, 0)), "a VRT in disguise"),
    "itself": (vrt(("itself.vrt", NEAR, 0)), "a VRT within VRTs within itself"),
    "raw": (vrt(kind=' subClass="VRTRawRasterBand"'), "VRTRasterBand Byte 1 VRTRawRasterBand"),
    "python": (vrt(kind=' subClass="VRTDerivedRasterBand"'), "VRTDerivedRasterBand"),
    "geolocation": (
        vrt(head='<Metadata domain="GEOLOCATION"><MDI key="X_DATASET">/etc/x</MDI></Metadata>'),
        "GEOLOC",
    ),
    "dem": (vrt(head='<GDALWarpOptions><Option name="RPC_DEM">/etc/x</Option></GDALWarpOptions>'), "RPC_DEM"),
    "unknown": (vrt(head="<Elsewhere>/etc/passwd</Elsewhere>"), "a VRT with Elsewhere"),
    "bomb": ('<!DOCTYPE a [<!ENTITY b "c">]>' + vrt(), "XML, as a server|no VRT's XML"),
    "entity": (vrt(head='<SRS><!ENTITY b "c"></SRS>'), "no VRT's XML"),
    "cut": (vrt(("a.tif", NEAR, 0))[:-30], "no XML"),
    "deep": ("<VRTDataset>" + "<SRS>" * 10**5, "no XML"),
    "nothing": (vrt(bands=0), "VRT"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_else_is_read(tmp_path, name):
    text, reason = HOSTILE[name]
    folder, path = tmp_path / "own", tmp_path / f"own/{name}.vrt"
    write_raster(folder / "a.tif", PIXELS)
    write_raster(tmp_path / "secret.tif", PIXELS)
    (folder / "link.tif").symlink_to("../secret.tif")
    (folder / "text.tif").write_text("no raster")
    hidden = vrt(("/etc/passwd", "", 0)).encode()
    (folder / "disguise.jpg").write_bytes(b"\xff\xd8\xff\xfe~~" + hidden)
    path.write_text(text, errors="surrogateescape")
    path.with_suffix(".tif").open("a").close()  # as its own source, which no advice may overwrite
    line = refused(path)
    assert re.search(reason, line) and f"{path} {path.with_suffix('.tif')}" not in line


def test_masks_and_overviews_beside_a_raster_are_no_vrts(tmp_path):
    write_raster(tmp_path / "secret.tif", PIXELS)
    for ending in (".msk", ".ovr"):
        write_raster(tmp_path / "own/a.tif", PIXELS)
        beside = tmp_path / f"own/a.tif{ending}"
        beside.write_text(vrt((tmp_path / "secret.tif", "", 0)))
        assert f"{beside.name} beside it is a VRT" in refused(tmp_path / "own/a.tif")
        (tmp_path / "own/a.vrt").write_text(vrt(("a.tif", NEAR, 0)))
        assert f"{beside.name} beside it is a VRT" in refused(tmp_path / "own/a.vrt")
        beside.unlink()


def test_a_table_of_classes_in_a_vrt_names_no_file(tmp_path):
    write_raster(tmp_path / "a.tif", PIXELS)
    table = (
        '<GDALRasterAttributeTable Row0Min="0" BinSize="1" tableType="thematic"><FieldDefn index="0"><Name>v'
        '</Name><Type>0</Type><Usage>5</Usage></FieldDefn><Row index="0"><F>3</F></Row>'
        "</GDALRasterAttributeTable>"
    )
    (tmp_path / "a.vrt").write_text(vrt(("a.tif", NEAR, 0)).replace("<NoData", f"{table}<NoData"))
    np.testing.assert_array_equal(read(tmp_path / "a.vrt")[0][:20], PIXELS)


def test_what_members_consist_of_counts_too(tmp_path):
    write_raster(tmp_path / "a.dat", PIXELS, driver="ENVI")
    (tmp_path / "a.vrt").write_text(vrt(("a.dat", NEAR, 0)))
    assert parts_of(tmp_path / "a.vrt") == [tmp_path / "a.dat", tmp_path / "a.hdr"]


def test_a_size_that_no_raster_has_takes_no_memory(tmp_path):
    write_raster(tmp_path / "a.tif", PIXELS)
    (tmp_path / "huge.vrt").write_text(vrt(("a.tif", NEAR, 0), size=(2 * 10**9, 2 * 10**9)))
    with open_raster(tmp_path / "huge.vrt") as raster:
        assert raster.shape == (2 * 10**9, 2 * 10**9)


def test_tiles_as_vrts_are_those_of_their_members_which_make_watches(project, settings, monkeypatch):
    prepare_data.main(settings, None)
    before = open_prepared(settings["data"], "2_13").pixels.copy()
    for tile in SIZES:
        path = raster_of(project, "image", tile)
        (project / "raw/virtual").mkdir(exist_ok=True)
        rasterio.shutil.copy(path, project / f"raw/virtual/{tile}.vrt", driver="VRT")
    settings["data"].update(image="virtual/{tile}.vrt", prepared="again")
    prepare_data.main(settings, None)
    np.testing.assert_array_equal(open_prepared(settings["data"], "2_13").pixels, before)
    member = raster_of(project, "image", "2_13")
    raw = read_manifest("again")["tiles"]["2_13"]["raw"]
    parts = {Path(file["path"]).resolve(): file["sha256"] for kind, file in raw.items() if "part" in kind}
    assert parts == {member.resolve(): hashlib.sha256(member.read_bytes()).hexdigest()}
    save_settings(project, settings)
    assert member.resolve() in {path.resolve() for path in watched_files(settings)}
