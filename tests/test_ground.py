import numpy as np
import pytest
import rasterio
from conftest import write_raster

from imagery.ground import georeference, pixel_size, plain_size
from imagery.rasters import open_raster

UTM = [366976, 5808000]  # Potsdam, in EPSG:32633


def test_georeference_from_a_world_file_takes_the_assumed_system(tmp_path):
    write_raster(tmp_path / "a.tif", np.ones((5, 6, 3), np.uint8))
    with open_raster(tmp_path / "a.tif") as raster:
        assert georeference(raster, "EPSG:32633") == {"crs": None, "transform": None}
    (tmp_path / "a.tfw").write_text("0.05\n0\n0\n-0.05\n366000.025\n5807999.975\n")
    with open_raster(tmp_path / "a.tif") as raster:
        place = georeference(raster, "EPSG:32633")
    assert place["crs"] == "EPSG:32633"
    assert rasterio.Affine(*place["transform"]).almost_equals(
        rasterio.Affine(0.05, 0, 366000, 0, -0.05, 5808000)
    )


@pytest.mark.parametrize(
    "crs, middle, step, expected",
    [
        ("EPSG:4326", [7, 0], [1e-6, 1e-6], (0.111320, 0.110574)),  # tables of a degree's length (WGS84)
        ("EPSG:4326", [7, 45], [1e-6, 1e-6], (0.078847, 0.111132)),
        ("EPSG:4326", [7, -60], [1e-6, 1e-6], (0.055800, 0.111412)),
        ("EPSG:4326", [179.999999, 0], [1e-4, 1e-4], (11.1320, 11.0574)),  # over the antimeridian
        ("EPSG:4326", [7, 89.9999], [1e-3, 1e-6], (1.9494e-4, 0.111694)),
        ("EPSG:4807", [5, 50], [1e-6, 1e-6], (0.9 * 0.078847, 0.9 * 0.111132)),  # 400 to a circle
        ("EPSG:3857", [779236, 5621521], [0.1, 0.2], (0.070830, 0.141180)),  # 45 degrees north
        ("EPSG:32633", [500000, 5808000], [0.05, 0.1], (0.05 / 0.9996, 0.1 / 0.9996)),
        ("EPSG:32633+4979", [500000, 5808000], [0.05, 0.1], (0.05 / 0.9996, 0.1 / 0.9996)),
        ("EPSG:2263", [984250, 200000], [0.16404, 0.16404], (0.05, 0.05)),  # New York, US feet
        ("EPSG:3035", [4321000, 3210000], [0.05, 0.05], (0.05, 0.05)),  # LAEA, where it is true
        ("EPSG:3413", [0, 0], [10, 10], (10.3108, 10.3108)),  # the pole itself, in a plane true at 70 degrees
        ("EPSG:31468", [4500000, 5800000], [0.05, 0.05], (0.05, 0.05)),  # Bessel's ellipsoid
        ('LOCAL_CS["plant",UNIT["foot",0.3048]]', [0, 0], [0.5, 1], (0.1524, 0.3048)),
        ("+proj=eqc +R=1737400 +units=km", [0, 0], [0.5, 0.5], (500, 500)),  # the moon
        ("EPSG:32633", [1e9, 1e9], [0.05, 0.05], (0.05, 0.05)),  # nowhere
        (None, [*UTM], [0.05, 0.1], (0.05, 0.1)),
        (None, [0, 0], [0.05, 0.05], (0.05, 0.05)),
        (None, [13.06, 52.39], [7e-7, 4.5e-7], None),  # can only be degrees
        ('LOCAL_CS["plant",UNIT["degree",0.0174532925199433]]', [13, 52], [7e-7, 4.5e-7], None),
        ("IAU_2015:30100", [13, 52], [1e-5, 1e-5], None),  # degrees on the moon
        ("EPSG:4326", [*UTM], [0.05, 0.05], None),
        ("EPSG:32633", [*UTM], [0, 0], None),
        ("EPSG:32633", [np.nan, 0], [0.05, 0.05], None),
    ],
)
def test_pixel_sizes_are_metres_on_the_ground_in_both_directions(crs, middle, step, expected):
    (x, y), (wide, high) = middle, step
    for turned in (False, True):
        for up in (-1, 1):  # north or south is up
            (a, d), (b, e) = [(0, up * high), (wide, 0)] if turned else [(wide, 0), (0, up * high)]
            transform = [a, b, x - 2 * a - b, d, e, y - 2 * d - e]  # the place is the middle of 2 x 4 px
            found = pixel_size({"crs": crs, "transform": transform}, (2, 4, 3))
            assert found is expected is None or found == pytest.approx(
                expected[:: -1 if turned else 1], rel=4e-4
            )


def test_a_picture_without_a_place_has_no_pixel_size():
    assert pixel_size({"crs": None, "transform": None}, (4, 5)) is None


@pytest.mark.parametrize("angle", [0, 17, 45, 133, 270])
def test_pixels_are_measured_along_rows_and_columns_however_the_raster_is_turned(angle):
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    transform = [0.05 * cos, 0.1 * sin, UTM[0], 0.05 * sin, -0.1 * cos, UTM[1]]
    found = pixel_size({"crs": "EPSG:32633", "transform": transform}, (400, 300))
    assert found == pytest.approx((0.05, 0.1), rel=3e-4)


def test_a_size_in_model_json_is_a_plain_number_for_square_pixels():
    assert plain_size((0.0500091, 0.0500092)) == plain_size((0.0501123, 0.0499867)) == 0.05
    assert plain_size((0.05, 0.0506)) == [0.05, 0.0506] and plain_size((1234.5, 1234.5)) == 1230
