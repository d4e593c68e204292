"""Labels and heights on another grid than their image's; what becomes of them is read by NumPy and json, and
compared with GDAL's."""

import json

import numpy as np
import pytest
import rasterio
from conftest import COLOURS, SETTINGS, SIZES, write_raster, write_tile
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile
from rasterio.transform import Affine, from_origin
from rasterio.vrt import WarpedVRT
from test_label_rasters import LEFT, TOP, prepared_row, write
from test_prepare_data import raster_of

from imagery import grids
from imagery.arrays import IGNORE
from imagery.grids import Nearest, find_place, heights_on
from imagery.ground import Grid
from imagery.label_sources import open_labels
from imagery.labels import build_decoder

HERE = from_origin(LEFT, TOP, 0.05, 0.05)
SHAPE = (70, 93)  # of tile 2_11
UTM = "EPSG:32633"
GRID = Grid(*SHAPE, {"crs": UTM, "transform": list(HERE)[:6]})
PADDED = ((5, 9), (7, 2))
VALUES = {"label_values": dict(zip(SETTINGS["data"]["classes"], range(6))), "ignore_colours": [99]}


def padded(labels):
    return np.pad(labels, PADDED, constant_values=3)


WITHOUT_LOSS = {  # how labels are written, and where their pixels lie as those of the image see it
    "a larger extent": (padded, Affine.translation(-7, -5)),
    "a larger extent, by a third of a pixel off": (padded, Affine.translation(-7.33, -4.67)),
    "south-up": (np.flipud, Affine.translation(0, 70) @ Affine.scale(1, -1)),
    "east to the left": (np.fliplr, Affine.translation(93, 0) @ Affine.scale(-1, 1)),
    "turned by a quarter": (np.rot90, Affine(0, -1, 93, 1, 0, 0)),
    "pixels of a third": (lambda labels: labels.repeat(3, 0).repeat(3, 1), Affine.scale(1 / 3)),
    "high pixels": (lambda labels: np.repeat(labels, 3, 1), Affine.scale(1 / 3, 1)),
    "less than half a pixel off": (lambda labels: labels, Affine.translation(0.5, -0.45)),
}


@pytest.mark.parametrize("name", WITHOUT_LOSS)
def test_a_form_that_loses_nothing_gives_the_same_pixels(project, settings, capsys, name):
    form, moved = WITHOUT_LOSS[name]
    path, labels = raster_of(project, "label", "2_11"), write_tile(project / "raw", "2_11", SIZES["2_11"])
    write(path, COLOURS[form(labels)], crs=UTM, transform=HERE @ moved)
    row = prepared_row(project, settings)
    np.testing.assert_array_equal(np.load(project / "prepared/2_11.pixels.npy")[..., 3], labels)
    assert row["off_grid"] == {"labels": 0} and row["pixels"]["labels"]["exact"] == labels.size
    told = "labels from another grid (" in capsys.readouterr().out
    assert told == ("labels" in row["grids"]) == (name != "less than half a pixel off")


def test_the_manifest_says_from_which_grid_and_how_much_lies_outside(project, settings, capsys):
    path, labels = raster_of(project, "label", "2_11"), write_tile(project / "raw", "2_11", SIZES["2_11"])
    settings["data"]["eroded_label"] = "eroded/{tile}.tif"
    for tile, shape in SIZES.items():
        write_raster(project / f"raw/eroded/{tile}.tif", COLOURS[write_tile(project / "raw", tile, shape)])
    for each in (path, project / "raw/eroded/2_11.tif"):
        write(
            each,
            COLOURS[labels[:, ::2]],
            crs=UTM,
            transform=HERE @ Affine.translation(20, 0) @ Affine.scale(2, 1),
        )
    row = prepared_row(project, settings)
    place = {
        "crs": UTM,
        "transform": [0.1, 0, LEFT + 1, 0, -0.05, TOP],
        "shape": [70, 47],
        "pixel_size": [0.1, 0.05],
        "method": "nearest",
        "differs": ["pixels of 0.1 x 0.05", "an upper left corner at 369001, 5809400", "70 x 47 pixels"],
    }
    assert row["grids"]["labels"]["transform"] == pytest.approx(place["transform"])
    assert row["grids"]["labels"] | {"transform": place["transform"]} == place
    assert row["grids"]["labels"] == row["grids"]["eroded"]
    assert row["off_grid"] == {"labels": 20 * 70, "eroded": 20 * 70}
    assert row["pixels"]["labels"]["ignored"] == 20 * 70
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "2_11  " in line]
    assert (
        "labels from another grid (pixels of 0.1 x 0.05, " in line and "by nearest, 21.51 % outside" in line
    )
    expected = np.full(SHAPE, IGNORE)
    expected[:, 20:] = labels[:, ::2].repeat(2, 1)[:, :73]
    np.testing.assert_array_equal(np.load(project / "prepared/2_11.pixels.npy")[..., 3], expected)
    np.testing.assert_array_equal(np.load(project / "prepared/2_11.eroded.npy"), expected)
    with rasterio.open(path, "r+") as raster:  # another place of the same pixels
        raster.transform = HERE @ Affine.translation(21, 0) @ Affine.scale(2, 1)
    assert prepared_row(project, settings)["off_grid"]["labels"] == 21 * 70


def blocky(shape):
    """Labels whose classes take squares of 16 pixels."""
    return (
        np.random.default_rng(1)
        .integers(0, 6, (9, 9))
        .astype(np.uint8)
        .repeat(16, 0)
        .repeat(16, 1)[: shape[0], : shape[1]]
    )


@limits(max_examples=40)
@given(
    turn=st.floats(0, 360),
    size=st.floats(0.4, 3),
    shift=st.tuples(st.floats(-30, 30), st.floats(-30, 30)),
    crs=st.sampled_from([UTM, "EPSG:25832", "EPSG:3857", "EPSG:4326"]),
)
def test_the_nearest_pixel_is_gdals(turn, size, shift, crs):
    pixels = np.arange(70 * 93, dtype=np.uint16).reshape(70, 93)
    own = HERE @ Affine.translation(*shift) @ Affine.rotation(turn, (46, 35)) @ Affine.scale(size, size)
    if crs != UTM:
        (x, x_right), (y, y_below) = rasterio.warp.transform(UTM, crs, *zip(own @ (0, 0), own @ (93, 70)))
        own = Affine((x_right - x) / 93, 0, x, 0, (y_below - y) / 70, y)
    with memory(pixels, crs, own) as raster:
        place, _ = find_place(raster, "a.tif", GRID, None)
        if not place:
            return
        near = Nearest(raster, place, GRID)
        found, inside = near.read(1, ((0, 70), (0, 93))), near.inside(((0, 70), (0, 93)))
        options = {"crs": UTM, "transform": HERE, "height": 70, "width": 93, "tolerance": 1e-9}
        with WarpedVRT(raster, add_alpha=True, **options) as warped:
            values, alpha = warped.read()
    middles = place.pixels(GRID, np.arange(70) + 0.5, np.arange(93) + 0.5)
    on_border = (np.abs(middles - np.rint(middles)) < 1e-4).any(0)  # of two pixels: either is as near
    assert ((found == values) & (inside == (alpha > 0)) | on_border).all()


def memory(pixels, crs, transform, **profile):
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    shape = dict(zip(("count", "height", "width"), pixels.shape))
    place = {"crs": crs, "transform": transform}
    file = MemoryFile()
    with file.open(driver="GTiff", dtype=pixels.dtype, **shape, **place, **profile) as target:
        target.write(pixels)
    return file.open()


def test_large_windows_are_read_in_pieces(monkeypatch):
    pixels = np.arange(70 * 93, dtype=np.uint16).reshape(70, 93)
    with memory(pixels, UTM, HERE @ Affine.rotation(50, (40, 30)) @ Affine.scale(0.7)) as raster:
        place, _ = find_place(raster, "a.tif", GRID, None)
        rows = ((3, 70), (0, 93))
        whole = Nearest(raster, place, GRID).read([1], rows)
        for block in (7, 300):
            monkeypatch.setattr(grids, "BLOCK", block)
            parts = Nearest(raster, place, GRID)
            np.testing.assert_array_equal(parts.read([1], rows), whole)
            assert max(np.prod(np.ptp(window, axis=1)) for _, window, *_ in parts.parts) <= 4 * block


# -- what the file itself hides ----------------------------------------------------------------------------


def read(path, data):
    """(labels, reader) of a file on GRID."""
    data = {**SETTINGS["data"], **data}
    with open_labels(path, GRID, data, build_decoder(data)) as reader:
        labels, outcomes, unknown = reader.read(0, 70)
    assert not unknown and outcomes.sum() == labels.size
    return labels, reader


LARGER = {"crs": UTM, "transform": HERE @ Affine.translation(-7, 5)}  # five rows and two columns less
FORMS = {
    "painted, black is none": (lambda labels, kept: COLOURS[labels] * kept[..., None], {}, {}),
    "alpha": (lambda labels, kept: np.dstack([COLOURS[labels], 255 * kept]), {}, {"alpha": "yes"}),
    "half transparent": (lambda labels, kept: np.dstack([COLOURS[labels], 90 * kept]), {}, {"alpha": "yes"}),
    "nodata": (lambda labels, kept: np.where(kept, labels, 77), VALUES, {"nodata": 77}),
    "float64": (lambda labels, kept: np.where(kept, labels, np.nan), VALUES, {}),
    "int64": (lambda labels, kept: np.where(kept, labels.astype(np.int64), -9), VALUES, {"nodata": -9}),
    "one-hot": (lambda labels, kept: (labels[..., None] == np.arange(6)) * kept[..., None], {}, {}),
    "mask": (lambda labels, kept: COLOURS[labels], {}, {"mask": True}),
}


@pytest.mark.parametrize("name", FORMS)
def test_what_a_file_hides_is_unlabelled_and_nothing_is_made_up(tmp_path, name):
    form, data, options = FORMS[name]
    labels = np.random.default_rng(0).integers(0, 6, (70, 95)).astype(np.uint8)
    kept = np.ones((70, 95), np.uint8)
    kept[30:40, 20:90] = 0
    pixels = form(labels, kept)
    pixels = pixels.astype(np.uint8) if pixels.dtype == bool or "one-hot" in name else pixels
    mask = {"mask": 255 * kept} if options.pop("mask", None) else {}
    write(tmp_path / "a.tif", pixels, **mask, **LARGER, **options)
    found, reader = read(tmp_path / "a.tif", data)
    expected = np.full(SHAPE, IGNORE)
    expected[5:, :88] = np.where(kept, labels, IGNORE)[:65, 7:]
    np.testing.assert_array_equal(found, expected)
    assert reader.outside == 5 * 93 + 65 * 5 and not reader.hidden


def test_a_fourth_band_of_one_hot_labels_is_no_alpha(tmp_path):
    """As GDAL calls it: its warper would take the classes of all pixels that are not of the fourth."""
    labels = np.random.default_rng(0).integers(0, 4, (70, 95))
    pixels = (labels[..., None] == np.arange(4)).astype(np.uint8)
    write(tmp_path / "a.tif", pixels, photometric="RGB", alpha="yes", **LARGER)
    with rasterio.open(tmp_path / "a.tif") as raster:
        assert ColorInterp.alpha in raster.colorinterp
    classes = dict(list(SETTINGS["data"]["classes"].items())[:4])
    found, reader = read(tmp_path / "a.tif", {"classes": classes, "ignore_colours": []})
    assert str(reader.layout) == "one-hot"
    np.testing.assert_array_equal(found[5:, :88], labels[:65, 7:])
    assert (found[:5] == IGNORE).all() and (found[:, 88:] == IGNORE).all()


def test_nodata_of_a_class_counts_only_inside(tmp_path):
    labels = np.random.default_rng(0).integers(0, 6, (70, 95)).astype(np.uint8)
    write(tmp_path / "a.tif", labels, nodata=0, **LARGER)
    _, reader = read(tmp_path / "a.tif", VALUES)
    assert reader.hidden == {"impervious": int((labels[:65, 7:] == 0).sum())}


# -- where labels lie --------------------------------------------------------------------------------------


def place_of(pixels, crs, transform, grid=GRID, assume=None, path="a.tif"):
    with memory(pixels, crs, transform) as raster:
        return find_place(raster, path, grid, assume)


def test_another_zone_of_the_same_numbers_is_another_ground():
    place, wrong = place_of(np.ones(SHAPE, np.uint8), "EPSG:32632", HERE)
    assert not place and "EPSG:32632, 0 % of its image covered, expected EPSG:32633 and at least 1 %" in wrong


@pytest.mark.parametrize(
    "crs",
    [UTM, None, "EPSG:25833", "EPSG:32633+5773", 'LOCAL_CS["site",UNIT["metre",1]]'],
)
def test_another_name_of_the_same_ground_is_no_other_grid(crs):
    assert place_of(np.ones(SHAPE, np.uint8), crs, HERE) == (None, None)


def test_a_system_that_is_not_named_is_the_images_or_else_the_assumed():
    labels = np.ones((700, 930), np.uint8)
    (x,), (y,) = rasterio.warp.transform(UTM, "EPSG:25832", [LEFT], [TOP])
    west = from_origin(x - 2, y + 2, 0.01, 0.01)
    assert place_of(labels, None, west)[1] and place_of(labels, None, west, assume=UTM)[1]
    assert place_of(labels, None, west, assume="EPSG:25832")[0].crs == "EPSG:25832"
    assert place_of(labels, None, HERE @ Affine.scale(0.1), assume="EPSG:25832")[0].crs == UTM
    unnamed = GRID._replace(georeference={"crs": None, "transform": list(HERE)[:6]})
    assert place_of(labels, "EPSG:25832", HERE @ Affine.scale(0.1), unnamed)[0].covered == 1


def test_a_prj_beside_labels_names_their_system(tmp_path):
    (x,), (y,) = rasterio.warp.transform(UTM, "EPSG:25832", [LEFT], [TOP])
    write_raster(tmp_path / "a.png", np.ones((100, 120), np.uint8), driver="PNG")
    (tmp_path / "a.pgw").write_text(f"0.05\n0\n0\n-0.05\n{x - 1}\n{y + 1}\n")
    (tmp_path / "a.prj").write_text(CRS.from_epsg(25832).to_wkt())
    with rasterio.open(tmp_path / "a.png") as raster:
        assert find_place(raster, tmp_path / "a.png", GRID, None)[0].crs == "EPSG:25832"


@pytest.mark.parametrize("shift, taken", [((92, 0), True), ((88, 60), False), ((1e5, 0), False)])
def test_less_than_a_hundredth_of_the_image_is_another_ground(shift, taken):
    place, wrong = place_of(np.ones((80, 93), np.uint8), UTM, HERE @ Affine.translation(*shift))
    assert bool(place) is taken is not bool(wrong)


@pytest.mark.parametrize(
    "transform",
    [Affine(0, 0, LEFT, 0, 0, TOP), Affine(1e-300, 0, LEFT, 0, -1e-300, TOP), Affine(np.nan, 0, 0, 0, 1, 0)],
)
def test_a_transform_that_makes_no_sense_is_refused(transform):
    with memory(np.ones(SHAPE, np.uint8), UTM, HERE) as raster:
        place = grids.Place(UTM, list(transform)[:6], SHAPE, 0)
        assert not grids.compare(place, GRID)[0].covered >= grids.TINY
        assert "expected" in grids.elsewhere(raster, place, GRID)


def test_an_image_that_control_points_place_takes_labels_of_its_size_alone():
    points = {"crs": None, "transform": None, "control_points": {"crs": UTM, "points": [[0, 0, 1, 1, 0]]}}
    grid = GRID._replace(georeference=points)
    assert place_of(np.ones(SHAPE, np.uint8), UTM, HERE, grid) == (None, None)
    assert (
        "placed by control points or RPCs alone; warp the image"
        in place_of(np.ones((9, 9)), UTM, HERE, grid)[1]
    )


# -- heights -----------------------------------------------------------------------------------------------


def test_heights_of_larger_pixels_are_interpolated_and_what_has_no_data_is_not_mixed():
    heights = np.array([[0, 10, 20, 30]] * 3, np.float32)
    heights[0, 3] = -9999
    grid = Grid(6, 8, {"crs": UTM, "transform": [0.5, 0, LEFT, 0, -0.5, TOP]})
    with memory(heights, UTM, from_origin(LEFT, TOP, 1, 1), nodata=-9999) as raster:
        place, _ = find_place(raster, "a.tif", grid, None)
        with heights_on(grid, raster, place) as warped:
            found, seen = warped.read()
    assert found[5].tolist() == [0, 2.5, 7.5, 12.5, 17.5, 22.5, 27.5, 30]  # between the middles of its pixels
    assert (seen[2:] > 0).all() and not seen[0, 7]
    assert found[0, :6].max() == 20 and found[1, 5] == pytest.approx((0.75 * 20 + 0.0625 * 30) / 0.8125)
    assert (found[seen > 0] >= 0).all()


def test_an_extra_raster_on_another_grid_is_prepared_and_counted(project, settings, capsys):
    settings["data"].update(extra="dsm/{tile}.tif", scale=[None, None, None, [0, 255]])
    for tile, shape in SIZES.items():
        row, col = map(int, tile.split("_"))
        here = from_origin(365700 + 300 * col, 5810000 - 300 * row, 0.05, 0.05)
        heights = np.tile(np.arange(shape[1] + 10, dtype=np.float32), (shape[0], 1))
        place = here @ (Affine.translation(10, 0) if tile == "2_11" else Affine.translation(0, 0))
        write_raster(project / f"raw/dsm/{tile}.tif", heights[..., None], crs=UTM, transform=place)
    row = prepared_row(project, settings)
    assert row["grids"]["extra"]["method"] == "bilinear" and row["off_grid"]["extra"] == 10 * 70
    prepared = np.load(project / "prepared/2_11.pixels.npy")
    assert (prepared[:, 10:, 3] == np.arange(83)).all() and row["nodata"] == 10 * 70
    assert (prepared[:, :10, 4] == IGNORE).all() and (prepared[:, 10:, 4] != IGNORE).all()
    assert "extra from another grid (an upper left corner at 369000.5, 5809400, " in capsys.readouterr().out
    manifest = json.loads((project / "prepared/manifest.json").read_text())["tiles"]
    assert "extra" in manifest["2_10"]["grids"] and manifest["2_10"]["off_grid"]["extra"] == 0
