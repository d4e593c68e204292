import numpy as np
import pytest
from conftest import COLOURS, SIZES, write_raster, write_tile
from rasterio._err import CPLE_AppDefinedError
from test_prepare_data import pixels_of, place_of, raster_of, refused

import prepare_data
from base.problem import Problem
from imagery.arrays import IGNORE
from imagery.rasters import Layers, check_bands, open_raster, reading
from imagery.tiles import open_prepared, read_manifest


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>not found</html>", b"II*\0\x08\0\0\0", b'<VRTDataset rasterXSize="9" rasterYSize="9"/>'],
)
def test_what_is_no_geotiff_is_refused(tmp_path, content):
    path = tmp_path / "tile.tif"
    path.write_bytes(content)
    with pytest.raises(Problem) as caught, open_raster(path):
        pass
    assert caught.value.code == 3 and str(path) in str(caught.value)


def test_a_truncated_geotiff_is_refused(tmp_path):
    path = tmp_path / "tile.tif"
    write_raster(path, np.full((200, 300, 3), 7, np.uint8))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(Problem), open_raster(path) as raster:
        Layers(raster, None, [1, 2, 3], [None] * 3).read(0, 200)


def test_network_addresses_and_archives_are_not_opened(tmp_path):
    for name in ("/vsicurl/http://127.0.0.1/a.tif", "zip:a.tif", str(tmp_path / "missing.tif")):
        with pytest.raises(Problem, match="no such file"), open_raster(name):
            pass


def test_rasters_that_are_no_plain_image_are_told_apart(tmp_path):
    cases = {
        "grey": (np.ones((5, 6, 1), np.uint8), {}, "1 bands"),
        "deep": (np.ones((5, 6, 3), np.uint16), {}, "uint16"),
        "alpha": (np.ones((5, 6, 4), np.uint8), {"photometric": "RGB", "alpha": "yes"}, None),
    }
    for name, (pixels, profile, expected) in cases.items():
        write_raster(tmp_path / f"{name}.tif", pixels, **profile)
        with open_raster(tmp_path / f"{name}.tif") as raster:
            wrong = check_bands(raster, [1, 2, 3], [None] * 3, "data.bands")
            assert wrong is None if expected is None else expected in wrong
    with open_raster(tmp_path / "alpha.tif") as raster:
        assert "alpha band" in check_bands(raster, [1, 2, 4], [None] * 3, "data.bands")


def test_what_gdal_complains_of_late_is_a_problem_too():
    with pytest.raises(Problem, match="raster a.tif: an odd tag, expected a whole, readable file") as caught:
        with reading("a.tif"):
            raise CPLE_AppDefinedError(3, 1, "an odd tag")
    assert caught.value.code == 3


# -- what people have --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "compression, options",
    [
        ("none", {}),
        ("lzw", {"predictor": 2}),
        ("deflate", {"tiled": True, "blockxsize": 32, "blockysize": 16}),
        ("jpeg", {"photometric": "YCBCR", "jpeg_quality": 95}),
    ],
)
def test_tiff_of_every_compression(project, settings, compression, options):
    for tile in SIZES:
        path = raster_of(project, "image", tile)
        before = pixels_of(path)
        write_raster(path, before, **place_of(tile), compress=compression, **options)
        kept = pixels_of(path)
        assert (kept == before).all() or compression == "jpeg"
    prepare_data.main(settings, project / "runs/tiny")
    np.testing.assert_array_equal(open_prepared(settings["data"], tile).image, kept)


@pytest.mark.parametrize(
    "driver, suffix, world", [("PNG", "png", "pgw"), ("JPEG", "jpg", "jgw"), ("JPEG", "jpeg", "wld")]
)
def test_png_and_jpeg_with_world_files(project, settings, driver, suffix, world):
    settings["data"].update(image=f"images/{{tile}}.{suffix}", label="labels/{tile}.png")
    for tile in SIZES:
        for kind, target, its_driver in (
            ("image", f"images/{tile}.{suffix}", driver),
            ("label", f"labels/{tile}.png", "PNG"),
        ):
            write_raster(
                project / "raw" / target, pixels_of(raster_of(project, kind, tile)), driver=its_driver
            )
        (project / f"raw/images/{tile}.{world}").write_text("0.05\n0\n0\n-0.05\n366000.025\n5807999.975\n")
    settings["data"]["allow_overlap"] = list(SIZES)
    prepare_data.main(settings, project / "runs/tiny")
    place = read_manifest(project / "prepared")["tiles"]["2_13"]["georeference"]
    assert place["crs"] == "EPSG:32633" and place["transform"] == pytest.approx(
        [0.05, 0, 366000, 0, -0.05, 5808000]
    )
    np.testing.assert_array_equal(
        open_prepared(settings["data"], "2_13").labels, write_tile(project / "again", "2_13", SIZES["2_13"])
    )


def test_an_extra_raster_of_metres_asks_for_a_scale_of_its_own(project, settings):
    settings["data"]["extra"] = "dsm/{tile}.tif"
    for tile, shape in SIZES.items():
        write_raster(project / f"raw/dsm/{tile}.tif", np.zeros(shape, np.float32))
    told = refused(settings, project)
    assert len(told) == 4 and "(data.extra)" in told[0] and "[null, null, null, [low, high]]" in told[0]


def test_deep_and_real_pixels_need_a_scale_and_take_it(project, settings):
    for tile, shape in SIZES.items():
        image = pixels_of(raster_of(project, "image", tile)).astype(np.uint16) * 10 + 100
        write_raster(raster_of(project, "image", tile), image, **place_of(tile))
    told = refused(settings, project)
    assert len(told) == 4 and "uint16 pixels in band 1" in told[0] and "data.scale to [low, high]" in told[0]
    settings["data"]["scale"] = [100, 2140]  # 204 steps of 10
    prepare_data.main(settings, project / "runs/tiny")
    expected = np.clip(np.rint((image.astype(float) - 100) / 8), 0, 255)
    assert np.abs(open_prepared(settings["data"], "2_13").image - expected).max() <= 1
    row = read_manifest(project / "prepared")["tiles"]["2_13"]
    assert row["dtype"] == "uint16" and row["outside_scale"] == (image > 2140).sum((0, 1)).tolist()


def test_an_extra_raster_is_the_last_band(project, settings):
    settings["data"].update(extra="dsm/height_{padded}.tif", scale=[None, None, None, [0, 20]])
    heights = {}
    for tile, shape in SIZES.items():
        heights[tile] = np.linspace(-1, 25, shape[0] * shape[1], dtype=np.float32).reshape(shape)
        row, col = tile.split("_")
        write_raster(project / f"raw/dsm/height_{int(row):02d}_{int(col):02d}.tif", heights[tile])
    prepare_data.main(settings, project / "runs/tiny")
    prepared = open_prepared(settings["data"], "2_13")
    assert prepared.image.shape == (*SIZES["2_13"], 4) and prepared.pixels.shape[2] == 8
    np.testing.assert_array_equal(
        prepared.image[..., 3],
        np.rint(np.clip(heights["2_13"], 0, 20) * np.float32(255 / 20)).astype(np.uint8),
    )
    write_raster(project / "raw/dsm/height_02_13.tif", heights["2_13"][:, :-1])  # the fault of the real 03_13
    with pytest.raises(Problem, match="83 x 65 pixels, expected 83 x 66 as its image"):
        prepare_data.main(settings, project / "runs/tiny")
    (project / "raw/dsm/height_02_13.tif").unlink()
    with pytest.raises(Problem, match="tile 2_13, extra: no file, expected raw/dsm/height_02_13.tif"):
        prepare_data.main(settings, project / "runs/tiny")


def test_pixels_without_data_are_not_scored_and_counted(project, settings):
    path = raster_of(project, "image", "2_13")
    image = np.maximum(pixels_of(path), 1)
    image[:7] = 0
    write_raster(path, image, **place_of("2_13"), nodata=0)
    alpha = pixels_of(raster_of(project, "image", "2_10"))
    opaque = np.full((*alpha.shape[:2], 1), 255, np.uint8)
    opaque[5:9, 10:20] = 0
    write_raster(
        raster_of(project, "image", "2_10"),
        np.concatenate([alpha, opaque], -1),
        **place_of("2_10"),
        photometric="RGB",
        alpha="yes",
    )
    prepare_data.main(settings, project / "runs/tiny")
    rows = read_manifest(project / "prepared")["tiles"]
    assert rows["2_13"]["nodata"] == 7 * 66 and rows["2_10"]["nodata"] == 40 and rows["2_11"]["nodata"] == 0
    labels = open_prepared(settings["data"], "2_13").labels
    assert (labels[:7] == IGNORE).all() and (labels[7:] != IGNORE).all()
    assert (open_prepared(settings["data"], "2_10").labels[5:9, 10:20] == IGNORE).all()


def test_only_the_chosen_bands_say_what_has_no_data(project, settings):
    path = raster_of(project, "image", "2_13")
    black = np.maximum(pixels_of(path), 1)
    black[:5] = 0
    black[10, :, 0] = 0  # black in one band alone is a colour
    infrared = np.full((*black.shape[:2], 1), 90, np.uint8)
    write_raster(
        path, np.concatenate([black, infrared], -1), **place_of("2_13"), nodata=0, photometric="minisblack"
    )
    prepare_data.main(settings, project / "runs/tiny")
    assert read_manifest(project / "prepared")["tiles"]["2_13"]["nodata"] == 5 * 66
    real = black.astype(np.float32)
    real[20, :7, 1] = -9999  # of measured values one is enough
    real[21, :3, 2] = np.nan
    write_raster(path, real, **place_of("2_13"), nodata=-9999)
    real[22, :4, 1] = 300
    write_raster(path, real, **place_of("2_13"), nodata=-9999)
    settings["data"]["scale"] = [0, 255]
    prepare_data.main(settings, project / "runs/tiny")
    row = read_manifest(project / "prepared")["tiles"]["2_13"]
    assert row["nodata"] == 10 and row["outside_scale"] == [0, 4, 0]  # what has no data is not outside


def test_alpha_hides_pixels_even_where_a_value_says_nodata_too(project, settings):
    path = raster_of(project, "image", "2_13")
    image = np.maximum(pixels_of(path), 1)
    opaque = np.full((*image.shape[:2], 1), 255, np.uint8)
    opaque[:6] = 0
    profile = {**place_of("2_13"), "photometric": "RGB", "alpha": "yes"}
    write_raster(path, np.concatenate([image, opaque], -1), **profile, nodata=0)
    prepare_data.main(settings, project / "runs/tiny")
    assert read_manifest(project / "prepared")["tiles"]["2_13"]["nodata"] == 6 * 66


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>404</html>", b"II*\0\x08\0\0\0", b'<VRTDataset rasterXSize="9" rasterYSize="9"/>'],
)
def test_what_is_no_raster_is_refused_by_name(project, settings, content):
    raster_of(project, "image", "2_13").write_bytes(content)
    told = refused(settings, project)
    assert any("top_potsdam_2_13_RGB.tif" in line for line in told)


def test_a_truncated_image_is_refused_though_its_header_is_whole(project, settings):
    path = raster_of(project, "image", "2_13")
    write_raster(path, pixels_of(path), **place_of("2_13"), compress="lzw")
    path.write_bytes(path.read_bytes()[:-3000])
    assert "top_potsdam_2_13_RGB.tif" in refused(settings, project)[0]


def test_every_kind_of_wrong_image_is_named(project, settings):
    image = pixels_of(raster_of(project, "image", "2_13"))
    cases = {
        "1 bands, expected at least 3": (image[..., :1], {}),
        "uint16 pixels": (image.astype(np.uint16), {}),
        "float32 pixels": (image.astype(np.float32), {}),
        "complex64 pixels": (image.astype(np.complex64), {}),
        "an alpha band among [1, 2, 4]": (
            np.concatenate([image] * 2, -1)[..., :4],
            {"photometric": "RGB", "alpha": "yes"},
        ),
    }
    for expected, (pixels, options) in cases.items():
        if "alpha" in expected:
            settings["data"]["bands"] = [1, 2, 4]
            for tile in ("2_11", "3_10", "2_10"):
                write_raster(
                    raster_of(project, "image", tile),
                    np.concatenate([pixels_of(raster_of(project, "image", tile))] * 2, -1)[..., :4],
                    **place_of(tile),
                )
        write_raster(raster_of(project, "image", "2_13"), pixels, **place_of("2_13"), **options)
        told = refused(settings, project)
        assert len([line for line in told if "2_13" in line and expected in line]) == 1, (expected, told)


def test_a_tile_of_one_pixel_and_one_without_any_place(project, settings):
    write_raster(raster_of(project, "image", "3_10"), np.full((1, 1, 3), 7, np.uint8))
    write_raster(raster_of(project, "label", "3_10"), COLOURS[np.full((1, 1), 2)])
    prepare_data.main(settings, project / "runs/tiny")
    tile = open_prepared(settings["data"], "3_10")
    assert tile.pixels.tolist() == [[[7, 7, 7, 2]]]
    assert read_manifest(project / "prepared")["tiles"]["3_10"]["georeference"] == {
        "crs": None,
        "transform": None,
    }
