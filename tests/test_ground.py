# ruff: noqa: F811  a test takes the fixture that it imports
import shutil
import zipfile

import numpy as np
import pytest
import rasterio
from conftest import write_raster
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC
from rasterio.transform import from_origin
from untrained import ortho, run  # noqa: F401  a fixture among them

import predict
from base.problem import Problem
from imagery.ground import georeference, in_degrees, pixel_size, plain_size
from imagery.rasters import open_raster
from mapping import one_raster, sources
from mapping.maps import pam

TRANSFORM = from_origin(366976, 5808000, 0.05, 0.05)
WORLD = "0.2\n0\n0\n-0.2\n652000.1\n6861999.9\n"  # as of an orthophoto of Paris
LAMBERT = (  # as ArcGIS and Pix4D write it
    'PROJCS["RGF_1993_Lambert_93",GEOGCS["GCS_RGF_1993",DATUM["D_RGF_1993",SPHEROID["GRS_1980",6378137.0,'
    '298.257222101]],PRIMEM["Greenwich",0.0],UNIT["Degree",0.0174532925199433]],PROJECTION'
    '["Lambert_Conformal_Conic"],PARAMETER["False_Easting",700000.0],PARAMETER["False_Northing",6600000.0],'
    'PARAMETER["Central_Meridian",3.0],PARAMETER["Standard_Parallel_1",44.0],PARAMETER["Standard_Parallel_2"'
    ',49.0],PARAMETER["Latitude_Of_Origin",46.5],UNIT["Meter",1.0]]'
)
ROTATED = "+proj=ob_tran +o_proj=longlat +lon_0=-162 +o_lat_p=39.25 +datum=WGS84 +to_meter=0.0174532925199433"
POINTS = [
    GroundControlPoint(row, col, 13 + 1e-6 * col, 52.1 - 1e-6 * row, 30)
    for row, col in ((0, 0), (0, 60), (40, 0), (40.5, 60.25))
]
MANY = [GroundControlPoint(i // 60, i % 60, 13 + 1e-6 * i, 52, 0) for i in range(12_000)]
ONES = [1.0] + [0.0] * 19
COEFFICIENTS = RPC(
    **{
        f"{name}_{part}": 3.25
        for name in ("height", "lat", "long", "line", "samp")
        for part in ("off", "scale")
    },
    **{
        "line_num_coeff": [1 / 3] * 20,
        "line_den_coeff": ONES,
        "samp_num_coeff": ONES,
        "samp_den_coeff": ONES,
    },
)
PLACES = {
    "in three dimensions": {"crs": "EPSG:32633+4979", "transform": TRANSFORM},
    "in degrees with a height": {"crs": "EPSG:4979", "transform": from_origin(13, 52, 1e-6, 1e-6)},
    "with heights of its own": {"crs": "EPSG:25833+5783", "transform": TRANSFORM},
    "about a turned pole": {"crs": ROTATED, "transform": from_origin(1, 2, 1e-6, 1e-6)},
    "on a site's own grid": {"crs": 'LOCAL_CS["Site",UNIT["metre",1]]', "transform": TRANSFORM},
    "on the moon": {"crs": "IAU_2015:30100", "transform": from_origin(1, 2, 1e-6, 1e-6)},
    "a system without a transform": {"crs": "EPSG:32633+4979"},
    "a transform without a system": {"transform": TRANSFORM},
    "south up": {"crs": "EPSG:32633", "transform": rasterio.Affine(0.05, 0, 366976.1, 0, 0.05, 5808000.3)},
    "sheared": {"crs": "EPSG:32633", "transform": rasterio.Affine(0.05, 0.01, 366976.1, 0.02, -0.05, 58e5)},
    "points": {"crs": "EPSG:25833", "gcps": POINTS},
    "points in three dimensions": {"crs": "EPSG:32633+4979", "gcps": POINTS},
    "points without a system": {"crs": CRS(), "gcps": POINTS},
    "more points than a GeoTIFF holds": {"crs": "EPSG:4326", "gcps": MANY},
    "RPCs": {"rpcs": COEFFICIENTS},
    "RPCs and a system": {"rpcs": COEFFICIENTS, "crs": "EPSG:32633+4979", "transform": TRANSFORM},
}
UTM = [366976, 5808000]  # Potsdam, in EPSG:32633


def where(path):
    """All that GDAL says of where a raster lies; of RPCs twelve digits, and not what GDAL adds."""
    with rasterio.open(path) as source:
        points, crs = source.gcps
        points = [(point.row, point.col, point.x, point.y, point.z) for point in points]
        rpcs = {name: np.atleast_1d(n) for name, n in (source.rpcs or COEFFICIENTS).to_dict().items()}
        rpcs = {name: [f"{n:.12g}" for n in each] for name, each in rpcs.items() if name[:3] != "err"}
        return source.crs, source.transform, points, crs, source.rpcs and rpcs


@pytest.mark.parametrize("name", PLACES)
def test_a_map_and_all_beside_it_lie_where_the_raster_lies(run, settings, tmp_path, monkeypatch, name):
    ortho(tmp_path / "a.tif", (41, 61), **PLACES[name])
    also = ["confidence", "probabilities", "colours"]
    settings["predict"].update(also=[*also, "polygons"], views=[0])
    predict.main(settings, run, "a.tif")
    maps = [run / "predictions/a.tif", *(run / f"predictions/a.{part}.tif" for part in also)]
    assert [where(path) for path in maps] == [where(tmp_path / "a.tif")] * 4
    whole = {path.name: path.read_bytes() for path in (run / "predictions").iterdir()}
    monkeypatch.setattr(one_raster, "start_engine", None)
    for path in maps:  # what GDAL keeps beside a map comes back without a prediction
        pam(path).unlink(missing_ok=True)
    predict.main(settings, run, "a.tif")
    assert {path.name: path.read_bytes() for path in (run / "predictions").iterdir()} == whole
    assert "<Category>car</Category>" in pam(maps[0]).read_text()


def test_a_system_that_only_gdals_file_beside_the_raster_holds_survives(run, settings, tmp_path):
    """As QGIS and gdal_edit.py leave it; GeoTIFF would make another of the second."""
    site = (
        'ENGCRS["Site",EDATUM["Datum"],CS[Cartesian,2],AXIS["(E)",east],AXIS["(N)",north],'
        'LENGTHUNIT["metre",1]]'
    )
    for system in ("EPSG:2154", site):
        ortho(tmp_path / "a.tif", (20, 30), transform=TRANSFORM)
        text = system.replace('"', "&quot;")
        (tmp_path / "a.tif.aux.xml").write_text(f"<PAMDataset><SRS>{text}</SRS></PAMDataset>")
        predict.main(settings, run, "a.tif")
        assert where(run / "predictions/a.tif") == where(tmp_path / "a.tif")
        assert where(run / "predictions/a.tif")[0] == CRS.from_string(system)


def test_pixels_that_are_points_do_not_shift_the_map(run, settings, tmp_path):
    ortho(tmp_path / "a.tif", (20, 30), crs="EPSG:32633", transform=TRANSFORM)
    with rasterio.open(tmp_path / "a.tif", "r+") as target:
        target.update_tags(AREA_OR_POINT="Point")
    predict.main(settings, run, "a.tif")
    assert where(run / "predictions/a.tif") == where(tmp_path / "a.tif")


def test_coefficients_in_a_file_beside_the_raster_are_carried_over(run, settings, tmp_path):
    ortho(tmp_path / "a.tif", (20, 30))
    lines = [f"{key}: {value}" for key, value in COEFFICIENTS.to_gdal().items() if "COEFF" not in key]
    for part in ("LINE_NUM", "LINE_DEN", "SAMP_NUM", "SAMP_DEN"):
        numbers = getattr(COEFFICIENTS, f"{part.lower()}_coeff")
        lines += [f"{part}_COEFF_{i}: {number}" for i, number in enumerate(numbers, 1)]
    (tmp_path / "a_RPC.TXT").write_text("\n".join(lines) + "\n")
    assert where(tmp_path / "a.tif")[4]
    predict.main(settings, run, "a.tif")
    assert where(run / "predictions/a.tif") == where(tmp_path / "a.tif")


def test_a_resampled_map_has_no_coefficients_of_other_pixels_and_says_so(run, settings, tmp_path, capsys):
    place = {"crs": "EPSG:32633", "transform": from_origin(366976, 5808000, 0.025, 0.025)}
    ortho(tmp_path / "a.tif", (40, 60), rpcs=COEFFICIENTS, **place)
    settings["predict"]["resample"] = True
    predict.main(settings, run, "a.tif")
    with rasterio.open(run / "predictions/a.tif") as source:
        assert source.shape == (20, 30) and source.rpcs is None
    assert "its rpcs count its own pixels" in capsys.readouterr().out


def test_a_map_that_would_lie_elsewhere_is_none(run, settings, tmp_path, monkeypatch):
    """As where GDAL wrote another transform than it was given."""
    ortho(tmp_path / "a.tif", (20, 30), crs="EPSG:32633", transform=TRANSFORM)
    original = sources.georeference

    def shifted(*arguments):
        return {**original(*arguments), "transform": [0.05, 0, float("nan"), 0, -0.05, 5808000]}

    monkeypatch.setattr(sources, "georeference", shifted)
    settings["predict"]["also"] = ["confidence"]
    with pytest.raises(
        Problem, match=r"a.tif: its transform would be \[0.05, 0.0, .*, expected \[0.05"
    ) as caught:
        predict.main(settings, run, "a.tif")
    assert caught.value.code == 3 and not list((run / "predictions").iterdir())


# -- rasters without a system of their own -----------------------------------------------------------------


def test_an_orthophoto_with_a_world_file_alone_gets_no_system_made_up(run, settings, tmp_path, capsys):
    assert settings["data"]["assume_crs"] == "EPSG:32633"
    ortho(tmp_path / "paris.tif", (20, 30))
    (tmp_path / "paris.tfw").write_text(WORLD)
    settings["predict"].update(also=["polygons"], resample=False)
    predict.main(settings, run, "paris.tif")
    with rasterio.open(run / "predictions/paris.tif") as source:
        assert source.crs is None and source.transform.almost_equals(from_origin(652000, 6862000, 0.2, 0.2))
    said = capsys.readouterr().out
    assert "paris.tif: no coordinate system is named, so its map has none; name it in paris.prj" in said
    (tmp_path / "paris.prj").write_text("EPSG:2154\n")  # the advice is obeyed
    predict.main(settings, run, "paris.tif")
    with rasterio.open(run / "predictions/paris.tif") as source:
        assert source.crs == "EPSG:2154" and source.transform.almost_equals(
            from_origin(652000, 6862000, 0.2, 0.2)
        )
    assert "no coordinate system" not in capsys.readouterr().out
    assert (run / "predictions/paris.polygons.geojson").exists()


def test_a_tile_of_the_split_has_the_assumed_system_in_every_way_and_by_its_path(run, settings, tmp_path):
    path = tmp_path / "raw/2_Ortho_RGB/top_potsdam_2_13_RGB.tif"
    ortho(path, (40, 50))
    path.with_suffix(".tfw").write_text(WORLD)
    settings["predict"].update(compare=True, views=[0, 1], resample=True)
    predict.main(settings, run, None)
    predict.main(settings, run, str(path.relative_to(tmp_path)))
    for name in ("2_13", "2_13.one_view", "2_13.side_by_side", "top_potsdam_2_13_RGB"):
        with rasterio.open(run / f"predictions/{name}.tif") as source:
            assert source.crs == "EPSG:32633"
            assert name.startswith("top") or source.shape == (
                40,
                50,
            )  # is compared with labels, pixel by pixel


@pytest.mark.parametrize("driver, name, world", [("PNG", "a.png", "a.pgw"), ("JPEG", "a.jpg", "a.jgw")])
@pytest.mark.parametrize(
    "text", [LAMBERT, "\ufeff" + LAMBERT, CRS.from_epsg(2154).to_wkt(version="WKT2_2019"), "epsg:2154"]
)
def test_a_prj_names_the_system_of_every_kind_of_raster_in_folders_and_archives(
    tmp_path, driver, name, world, text
):
    write_raster(tmp_path / name, np.ones((20, 30, 3), np.uint8), driver=driver)
    (tmp_path / world).write_text(WORLD)
    (tmp_path / "a.PRJ").write_text(text, encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as target:
        for member in (name, world, "a.PRJ"):
            target.write(tmp_path / member, f"photos/{member}")
    for path in (tmp_path / name, tmp_path / "all.zip/photos" / name):
        with open_raster(path) as raster:
            ground = georeference(raster, path, "EPSG:32633")
        assert CRS.from_string(ground["crs"]) == CRS.from_epsg(2154) and ground["transform"][2] == 652000


def test_a_prj_counts_only_where_it_is_needed_and_the_rasters_own(tmp_path):
    ortho(tmp_path / "a.tif", (20, 30), crs="EPSG:32633", transform=TRANSFORM)
    (tmp_path / "a.prj").write_text("no system")
    with open_raster(tmp_path / "a.tif") as raster:
        assert georeference(raster, tmp_path / "a.tif", None)["crs"] == "EPSG:32633"
    ortho(tmp_path / "a.tif", (20, 30), transform=TRANSFORM)
    for text in ("no system", "", "2154", "EPSG:999999", "Projection UTM\nZone 33\n", "PROJCS[", "\0\1\2"):
        (tmp_path / "a.prj").write_text(text)
        with (
            open_raster(tmp_path / "a.tif") as raster,
            pytest.raises(Problem, match="a.prj: .*, expected WKT.* the raster's own there") as caught,
        ):
            georeference(raster, tmp_path / "a.tif", None)
        assert caught.value.code == 3 and len(caught.value.lines) == 1
    (tmp_path / "a.shp").touch()  # whose .prj that is
    with open_raster(tmp_path / "a.tif") as raster:
        assert georeference(raster, tmp_path / "a.tif", None)["crs"] is None


def test_a_prj_names_the_system_of_control_points_too(run, settings, tmp_path):
    ortho(tmp_path / "a.tif", (41, 61), gcps=POINTS, crs=CRS())
    (tmp_path / "a.prj").write_text("EPSG:4326")
    predict.main(settings, run, "a.tif")
    assert where(run / "predictions/a.tif")[3] == CRS.from_epsg(4326)


def test_what_has_a_place_in_longitude_and_latitude(tmp_path):
    shutil.rmtree(tmp_path, ignore_errors=True)
    for crs, transform, expected in (
        ("EPSG:32633", TRANSFORM, True),
        ("EPSG:32633", from_origin(1e9, 1e12, 0.05, 0.05), False),
        ("EPSG:4326", TRANSFORM, False),  # metres, called degrees
        ("EPSG:4326", from_origin(-180.5, 90.5, 3.61, 1.81), True),
        (ROTATED, from_origin(1, 2, 1e-6, 1e-6), True),
        ("+proj=geos +h=35785831 +lon_0=0 +datum=WGS84", from_origin(-5.5e6, 5.5e6, 1.1e5, 1.1e5), False),
        ("IAU_2015:30100", from_origin(1, 2, 1e-6, 1e-6), False),
        (None, TRANSFORM, False),
        ("EPSG:32633", rasterio.Affine.identity(), False),
    ):
        write_raster(tmp_path / "a.tif", np.ones((100, 100, 1), np.uint8), crs=crs, transform=transform)
        with open_raster(tmp_path / "a.tif") as raster:
            assert in_degrees(raster, georeference(raster, tmp_path / "a.tif", None)) is expected


# -- the size of pixels -------------------------------------------------------------------------------------


def test_georeference_from_a_world_file_takes_the_assumed_system(tmp_path):
    write_raster(tmp_path / "a.tif", np.ones((5, 6, 3), np.uint8))
    with open_raster(tmp_path / "a.tif") as raster:
        assert georeference(raster, tmp_path / "a.tif", "EPSG:32633") == {"crs": None, "transform": None}
    (tmp_path / "a.tfw").write_text("0.05\n0\n0\n-0.05\n366000.025\n5807999.975\n")
    with open_raster(tmp_path / "a.tif") as raster:
        place = georeference(raster, tmp_path / "a.tif", "EPSG:32633")
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
