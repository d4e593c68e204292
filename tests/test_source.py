# ruff: noqa: F811  a test takes the fixture that it imports
import zipfile

import numpy as np
import pytest
import rasterio
from conftest import write_raster
from rasterio.control import GroundControlPoint
from rasterio.transform import from_origin
from untrained import ortho, read_map, run, write_run  # noqa: F401  a fixture among them

import predict
from base.problem import Problem
from imagery.arrays import IGNORE
from imagery.rasters import pixel_size
from mapping import one_raster


def test_deep_pixels_and_the_extra_raster_are_scaled_as_in_training(tmp_path, monkeypatch, settings):
    monkeypatch.chdir(tmp_path)
    settings["data"].update(raw="raw", extra="dsm/{padded}.tif", image="rgb/{tile}.tif")
    scale = [[100, 1120], [100, 1120], [100, 1120], [0, 20]]
    run = write_run(tmp_path / "runs/tiny", settings, 4, True, scale)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 1200, (70, 50, 3)).astype(np.uint16)
    height = rng.uniform(-2, 25, (70, 50)).astype(np.float32)
    height[:4, :5] = np.nan
    write_raster(tmp_path / "raw/rgb/2_13.tif", image)
    write_raster(tmp_path / "raw/dsm/02_13.tif", height)
    predict.main(settings, run, "2_13")
    found = read_map(run, "2_13")
    assert (found[:4, :5] == IGNORE).all() and (found != IGNORE).sum() == 70 * 50 - 20

    # the same bytes by hand, for a network that needs no scaling
    layers = np.concatenate([(image - 100.0) / 4, height[..., None] * (255 / 20)], -1)
    layers = np.nan_to_num(np.clip(np.rint(layers), 0, 255)).astype(np.uint8)
    plain = write_run(tmp_path / "runs/plain", settings, 4, True, [None] * 4)
    write_raster(tmp_path / "raw/rgb/2_13.tif", layers[..., :3])
    write_raster(tmp_path / "raw/dsm/02_13.tif", layers[..., 3])
    predict.main(settings, plain, "2_13")
    seen = found != IGNORE
    assert (found[seen] == read_map(plain, "2_13")[seen]).mean() > 0.995  # halves may round the other way

    write_raster(tmp_path / "my.tif", layers[..., :3])
    with pytest.raises(Problem, match="raster my: no extra raster, expected one .* --extra"):
        predict.main(settings, plain, "my.tif")
    predict.main(settings, plain, "my.tif", extra="raw/dsm/02_13.tif")
    for tile in (None, "2_13"):  # no tile of the split is scored with another's extra raster
        with pytest.raises(Problem, match="--extra .*, expected only where data.extra is set") as caught:
            predict.main(settings, plain, tile, extra="raw/dsm/02_13.tif")
        assert caught.value.code == 2
    settings["data"]["extra"] = None
    with pytest.raises(Problem, match="raster 2_13: no extra raster"):
        predict.main(settings, plain, "2_13")
    np.testing.assert_array_equal(read_map(plain, "my"), read_map(plain, "2_13"))
    places = {
        name: {"crs": "EPSG:32633", "transform": from_origin(east, 0, 1, 1)}
        for name, east in (("my", 0), ("off", 9))
    }
    write_raster(tmp_path / "my.tif", layers[..., :3], **places["my"])
    write_raster(tmp_path / "off.tif", layers[..., 3], **places["off"])
    with pytest.raises(Problem, match="its georeference lies elsewhere"):
        predict.main(settings, plain, "my.tif", extra="off.tif")
    settings["data"]["extra"] = "dsm/{padded}.tif"
    write_raster(tmp_path / "small.tif", layers[:9, :, 3])
    with pytest.raises(Problem, match="9 x 50 pixels, expected 70 x 50"):
        predict.main(settings, plain, "my.tif", extra="small.tif")


@pytest.mark.parametrize("suffix, driver", [("png", "PNG"), ("tif", "GTiff")])
def test_png_and_members_of_archives_are_predicted_alike(run, settings, tmp_path, suffix, driver):
    image = ortho(tmp_path / "a.tif")
    predict.main(settings, run, "a.tif")
    write_raster(tmp_path / f"b.{suffix}", image, driver=driver)
    predict.main(settings, run, f"b.{suffix}")
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as target:
        target.write(tmp_path / f"b.{suffix}", f"folder/c.{suffix}")
    predict.main(settings, run, f"many.zip/folder/c.{suffix}")
    for name in "bc":
        np.testing.assert_array_equal(read_map(run, name), read_map(run, "a"))
    with pytest.raises(Problem, match="no such tile or file"):
        predict.main(settings, run, "many.zip/folder/d.tif")


def test_an_image_of_other_bands_is_refused(run, settings, tmp_path):
    write_raster(tmp_path / "a.tif", np.ones((9, 9, 1), np.uint8))
    with pytest.raises(Problem, match="1 bands, expected at least 3"):
        predict.main(settings, run, "a.tif")


def test_pixels_beyond_the_scale_of_the_training_are_warned_of(tmp_path, monkeypatch, settings, capsys):
    monkeypatch.chdir(tmp_path)
    run = write_run(tmp_path / "runs/tiny", settings, scale=[[1000, 4000]] * 3)
    ortho(tmp_path / "a.tif")  # 8 bit
    predict.main(settings, run, "a.tif")
    assert "warning: a.tif: 100 % of a band outside the scale" in capsys.readouterr().out


def test_a_raster_of_other_pixels_is_resampled_where_that_is_asked_for(run, settings, tmp_path, capsys):
    """Blocks of 4 px at half the training's pixel size become 2 px; the map lies where the raster lies."""
    image = np.random.default_rng(0).integers(1, 256, (40, 30, 3)).astype(np.uint8)
    place = {"crs": "EPSG:25833", "transform": from_origin(1000, 2000, 0.05, 0.05)}
    write_raster(tmp_path / "right.tif", image, **place)
    fine = image.repeat(4, 0).repeat(4, 1)
    fine[:8, :16] = 0
    write_raster(
        tmp_path / "fine.tif",
        fine,
        nodata=0,
        crs="EPSG:25833",
        transform=from_origin(1000, 2000, 0.0125, 0.0125),
    )
    settings["predict"]["resample"] = True
    for name in ("right", "fine"):
        predict.main(settings, run, f"{name}.tif")
    assert "warning" not in capsys.readouterr().out
    with rasterio.open(run / "predictions/fine.tif") as source:
        assert source.crs == "EPSG:25833" and source.shape == (40, 30)
        assert list(source.transform) == pytest.approx(list(place["transform"]))
        found = source.read(1)
    assert (found[:2, :4] == IGNORE).all() and (found == IGNORE).sum() == 8
    assert (found == read_map(run, "right"))[
        found != IGNORE
    ].mean() > 0.8  # but beside the corner without data
    write_raster(tmp_path / "nowhere.tif", image)
    predict.main(settings, run, "nowhere.tif")
    assert "its pixel size in metres is not known" in capsys.readouterr().out


def test_a_mask_that_is_added_later_is_noticed(run, settings, tmp_path):
    ortho(tmp_path / "a.tif", (40, 50))
    predict.main(settings, run, "a.tif")
    assert (read_map(run, "a") != IGNORE).all()
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(tmp_path / "a.tif", "r+") as target:
        target.write_mask(np.repeat([[True], [False]], 20, 0).repeat(50, 1))
    assert (tmp_path / "a.tif.msk").exists()
    predict.main(settings, run, "a.tif")
    assert ((read_map(run, "a") == IGNORE) == (np.arange(40) >= 20)[:, None]).all()


@pytest.mark.parametrize(
    "crs, unit, expected",
    [
        ("EPSG:32633", 1, 0.05),
        ("EPSG:2263", 0.3048006096, 0.05 * 0.3048006096),
        ("EPSG:4326", 1, None),
        (None, 1, 0.05),
    ],
)
def test_pixel_sizes_are_in_metres_whatever_the_unit(crs, unit, expected):
    place = {"crs": crs, "transform": [0, 0.05, 10, 0.05, 0, 20]}
    found = pixel_size(place)
    assert found is expected is None or found == pytest.approx(expected, rel=1e-6)
    assert pixel_size({"crs": None, "transform": None}) is None


def test_sizes_that_have_nothing_in_common_are_refused_and_unknown_ones_said(run, settings, tmp_path, capsys):
    settings["predict"]["resample"] = True
    ortho(tmp_path / "far.tif", crs="EPSG:32633", transform=from_origin(0, 0, 500, 500))
    with pytest.raises(Problem, match="pixels of 500 m, expected about 0.05 m"):
        predict.main(settings, run, "far.tif")
    ortho(tmp_path / "degrees.tif", crs="EPSG:4326", transform=from_origin(13, 52, 1e-6, 1e-6))
    predict.main(settings, run, "degrees.tif")
    assert "its pixel size in metres is not known" in capsys.readouterr().out


def test_pixels_of_another_size_are_warned_of_whatever_their_direction(run, settings, tmp_path, capsys):
    ortho(tmp_path / "turned.tif", transform=rasterio.Affine(0, 0.05, 0, 0.05, 0, 0), crs="EPSG:32633")
    ortho(tmp_path / "coarse.tif", transform=from_origin(0, 0, 0.2, 0.2), crs="EPSG:32633")
    predict.main(settings, run, "turned.tif")
    assert "warning" not in capsys.readouterr().out
    predict.main(settings, run, "coarse.tif")
    assert "pixels of 0.2 m, the network was trained on 0.05 m" in capsys.readouterr().out


def test_a_changed_world_file_is_noticed(run, settings, tmp_path):
    ortho(tmp_path / "a.tif")
    for west in (1000, 2000):
        (tmp_path / "a.tfw").write_text(f"0.05\n0\n0\n-0.05\n{west}.025\n1999.975\n")
        predict.main(settings, run, "a.tif")
        with rasterio.open(run / "predictions/a.tif") as source:
            assert source.transform.c == pytest.approx(west) and source.crs == "EPSG:32633"


def test_statistics_beside_a_raster_change_nothing(run, settings, tmp_path, monkeypatch):
    ortho(tmp_path / "a.tif", (40, 50))
    predict.main(settings, run, "a.tif")
    monkeypatch.setattr(one_raster, "start_engine", None)
    (tmp_path / "a.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><Metadata><MDI key="STATISTICS_MEAN">128</MDI></Metadata>'
        "</PAMRasterBand></PAMDataset>"
    )
    predict.main(settings, run, "a.tif")


def test_nodata_stays_nodata(run, settings, tmp_path):
    image = np.random.default_rng(1).integers(1, 256, (80, 90, 3)).astype(np.uint8)
    image[10:20, 30:] = 0
    write_raster(tmp_path / "a.tif", image, nodata=0)
    predict.main(settings, run, "a.tif")
    with rasterio.open(run / "predictions/a.tif") as source:
        labels = source.read(1)
    np.testing.assert_array_equal(labels == IGNORE, (image == 0).all(-1))


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 40), (3, 200), (64, 64), (65, 63), (1280, 1), (2100, 9), (5, 1100)]
)
def test_every_pixel_of_any_size_is_predicted(run, settings, tmp_path, shape):
    ortho(tmp_path / "a.tif", shape)
    predict.main(settings, run, "a.tif")
    with rasterio.open(run / "predictions/a.tif") as source:
        assert (
            source.shape == shape
            and source.read(1).max() < 6
            and source.crs is None
            and source.transform.is_identity
        )


def test_a_raster_placed_by_ground_control_points_gives_a_map_placed_by_them(run, settings, tmp_path):
    points = [
        GroundControlPoint(row, col, 366000 + 0.07 * col, 5808000.1 - 0.06 * row, 30)
        for row, col in ((0, 0), (0, 101), (70, 0), (70.5, 100.25))
    ]
    ortho(tmp_path / "a.tif", gcps=points, crs="EPSG:25833")
    predict.main({**settings, "predict": {**settings["predict"], "also": ["confidence"]}}, run, "a.tif")
    for name in ("a.tif", "a.confidence.tif"):
        with rasterio.open(run / "predictions" / name) as source:
            found, crs = source.gcps
        assert crs == "EPSG:25833"
        assert [(p.row, p.col, p.x, p.y, p.z) for p in found] == [
            (p.row, p.col, p.x, p.y, p.z) for p in points
        ]


def test_polygons_where_there_is_no_longitude_are_left_out_with_a_word(run, settings, tmp_path, capsys):
    settings["predict"]["also"] = ["polygons"]
    ortho(tmp_path / "a.tif")
    ortho(tmp_path / "b.tif", crs="EPSG:32633", transform=from_origin(1e9, 1e12, 0.05, 0.05))
    for name in "ab":
        predict.main(settings, run, f"{name}.tif")
        assert (
            "so no polygons" in capsys.readouterr().out and not (run / f"predictions/{name}.geojson").exists()
        )
        predict.main(settings, run, f"{name}.tif")
        assert "stands already" in capsys.readouterr().out
