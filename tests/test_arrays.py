import numpy as np
import pytest
import rasterio
from conftest import COLOURS, write_raster
from hypothesis import given
from hypothesis import strategies as st

from base.problem import Problem
from imagery.arrays import IGNORE, starts, unview, view
from imagery.labels import KINDS, ColourDecoder, palette
from imagery.rasters import Layers, check_bands, georeference, open_raster
from imagery.raw_tiles import find_raw

CLASSES = {
    "impervious": "#ffffff",
    "building": "#0000ff",
    "low vegetation": "#00ffff",
    "tree": "#00ff00",
    "car": "#ffff00",
    "clutter": "#ff0000",
}


@given(st.integers(1, 3000), st.integers(1, 600), st.data())
def test_windows_cover_an_axis_and_stay_on_it(size, window, data):
    step = data.draw(st.integers(1, window))
    first = starts(size, window, step)
    assert first[0] == 0 and first[-1] == max(size - window, 0)
    assert (np.diff(first) > 0).all() and (np.diff(first) <= step).all()
    assert len(first) == 1 + max(0, -(-(size - window) // step))  # no more than needed


def test_the_eight_views_differ_and_are_undone():
    marker = np.arange(9).reshape(3, 3)
    views = [view(marker, number) for number in range(8)]
    assert len({v.tobytes() for v in map(np.ascontiguousarray, views)}) == 8
    for number, turned in enumerate(views):
        np.testing.assert_array_equal(unview(turned, number), marker)
    assert view(marker, 1).tolist() == [[2, 5, 8], [1, 4, 7], [0, 3, 6]]  # a quarter turn to the left
    assert view(marker, 4).tolist() == [[2, 1, 0], [5, 4, 3], [8, 7, 6]]  # mirrored


@given(st.lists(st.integers(0, 5), min_size=1, max_size=50))
def test_palette_there_and_back(indices):
    labels = np.array([indices], np.uint8)
    decoded, counts, unknown = ColourDecoder(CLASSES, ["#000000"], 0).decode(palette(CLASSES)[labels])
    np.testing.assert_array_equal(decoded, labels)
    assert counts.tolist() == [len(indices), 0, 0, 0] and not unknown


def test_known_colours_repaired_ignored_and_unknown():
    colours = np.array(
        [[(255, 255, 0), (252, 255, 0), (207, 255, 0), (206, 255, 0), (0, 0, 0), (10, 9, 8), (128, 128, 128)]], np.uint8
    )
    decoded, counts, unknown = ColourDecoder(CLASSES, ["#000000"], 48).decode(colours)
    assert decoded.tolist() == [[4, 4, 4, IGNORE, IGNORE, IGNORE, IGNORE]]
    assert dict(zip(KINDS, counts)) == {"exact": 1, "repaired": 2, "ignored": 2, "unknown": 2}
    assert unknown == {"#ceff00": 1, "#808080": 1}


def test_decoding_by_table_equals_the_nearest_colour_computed_directly():
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    decoded, _, _ = ColourDecoder(CLASSES, [], 60).decode(colours)
    for colour, label in zip(colours.reshape(-1, 3).astype(int), decoded.ravel()):
        within = [i for i, c in enumerate(COLOURS.astype(int)) if np.abs(colour - c).max() <= 60]
        assert label == min(within, key=lambda i: ((colour - COLOURS[i]) ** 2).sum(), default=IGNORE)


def test_a_colour_within_the_tolerance_of_one_class_only_is_that_class():
    decoded, _, _ = ColourDecoder({"a": "#000000", "b": "#613030"}, [], 48).decode(np.full((1, 1, 3), 0x30, np.uint8))
    assert decoded.item() == 0  # b is nearer, but off by 49 in red


def test_raw_files_are_found_as_the_archives_unzip(tmp_path):
    pattern = "2_Ortho_RGB/{tile}.tif"
    for place in ("2_Ortho_RGB/2_Ortho_RGB/2_13.tif", "2_14.tif", "2_Ortho_RGB/3_13.tif"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    assert [len(find_raw(tmp_path, pattern, t)) for t in ("2_13", "2_14", "3_13", "4_13")] == [1, 1, 1, 0]


@pytest.mark.parametrize(
    "content", [b"", b"<html>not found</html>", b"II*\0\x08\0\0\0", b'<VRTDataset rasterXSize="9" rasterYSize="9"/>']
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
        Layers(raster, None, [1, 2, 3], [None] * 3).read(0, 200, True)


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


def test_georeference_from_a_world_file_takes_the_assumed_system(tmp_path):
    write_raster(tmp_path / "a.tif", np.ones((5, 6, 3), np.uint8))
    with open_raster(tmp_path / "a.tif") as raster:
        assert georeference(raster, "EPSG:32633") == {"crs": None, "transform": None}
    (tmp_path / "a.tfw").write_text("0.05\n0\n0\n-0.05\n366000.025\n5807999.975\n")
    with open_raster(tmp_path / "a.tif") as raster:
        place = georeference(raster, "EPSG:32633")
    assert place["crs"] == "EPSG:32633"
    assert rasterio.Affine(*place["transform"]).almost_equals(rasterio.Affine(0.05, 0, 366000, 0, -0.05, 5808000))
