"""Labels as people's programs write them; what becomes of them is read by NumPy and json alone."""

import copy
import json
import shlex

import numpy as np
import pytest
import rasterio
from conftest import COLOURS, SETTINGS, SIZES, write_tile
from rasterio.enums import ColorInterp
from rasterio.transform import Affine, from_origin
from test_prepare_data import pixels_of, raster_of, refused

import prepare_data
from base.problem import Problem
from imagery.arrays import IGNORE
from imagery.label_rasters import LabelReader, check_label
from imagery.labels import build_decoder

NAMES = list(SETTINGS["data"]["classes"])
VALUES = {"label_values": dict(zip(NAMES, range(6))), "ignore_colours": [99]}
GREY, ALPHA = ColorInterp.gray, ColorInterp.alpha
ROWS = 20  # unlabelled ones at the top


def one_hot(labels, count=6, value=255, dtype=np.uint8):
    """A band for each class, [H, W, count]."""
    return (value * (labels[..., None] == np.arange(count))).astype(dtype)


def beside(pixels, band):
    return np.concatenate([pixels.reshape(*band.shape, -1), band[..., None].astype(pixels.dtype)], -1)


def write(path, pixels, colorinterp=None, mask=None, internal=True, **profile):
    """A GeoTIFF (or what `driver` says) with these colour interpretations and this mask, by rasterio."""
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = dict(zip(("height", "width", "count"), pixels.shape))
    profile = {"driver": "GTiff", "dtype": pixels.dtype, **shape, **profile}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "w", **profile) as target:
        if colorinterp:
            target.colorinterp = colorinterp
        target.write(np.moveaxis(pixels, -1, 0))
        if mask is not None:
            target.write_mask(mask)


def write_all(project, form, kind="label", **options):
    """The labels of all tiles as `form` makes them of the class indices; those of 2_11, without its first
    rows."""
    for tile, shape in SIZES.items():
        labels = write_tile(project / "raw", tile, shape)
        kept = np.full(shape, 255, np.uint8)
        kept[:ROWS] = 0
        with_options = {key: kept if key == "mask" else value for key, value in options.items()}
        path = raster_of(project, kind, tile) if kind == "label" else project / f"raw/{kind}/{tile}.tif"
        write(path, form(labels, kept), **with_options)
        if tile == "2_11":
            expected = np.where(kept > 0, labels, IGNORE)
    return expected


def prepared_row(project, settings):
    prepare_data.main(settings, project / "runs/tiny")
    return json.loads((project / "prepared/manifest.json").read_text())["tiles"]["2_11"]


def white_where(labels, kept):
    """Painted labels whose unlabelled pixels are white, as is the first class."""
    return np.where(kept[..., None] > 0, COLOURS[labels], 255).astype(np.uint8)


def with_value(value, dtype):
    return lambda labels, kept: np.where(kept > 0, labels.astype(dtype), dtype(value))


FORMS = {
    "painted with alpha": (lambda labels, kept: beside(white_where(labels, kept), kept), {}, {}),
    "painted": (white_where, {"mask": None, "internal": True}, {}),
    "painted ": (white_where, {"mask": None, "internal": False}, {}),
    "painted  ": (lambda a, kept: np.where(kept[..., None] > 0, COLOURS[a], 7), {"nodata": 7}, {}),
    "values with alpha": (
        lambda labels, kept: beside(with_value(0, np.uint8)(labels, kept), kept),
        {"driver": "PNG"},
        VALUES,
    ),
    "values": (with_value(np.nan, np.float32), {}, VALUES),
    "values ": (with_value(-9999, np.int16), {"nodata": -9999}, VALUES),
    "one-hot": (lambda labels, kept: one_hot(labels) * (kept[..., None] > 0), {}, {}),
    "one-hot ": (lambda a, kept: one_hot(a, 6, 1, np.float32), {"mask": None}, VALUES),
    "one-hot with alpha": (
        lambda labels, kept: beside(one_hot(labels), kept),
        {"colorinterp": [GREY] * 6 + [ALPHA]},
        {},
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_tile_is_prepared_from_labels_of_any_layout(project, settings, capsys, name):
    form, options, data = FORMS[name]
    settings["data"].update(data)
    expected = write_all(project, form, **options)
    row = prepared_row(project, settings)
    np.testing.assert_array_equal(np.load(project / "prepared/2_11.pixels.npy")[..., 3], expected)
    assert list(row["classes"].values()) == np.bincount(expected.ravel(), minlength=256)[:6].tolist()
    pixels = row["pixels"]["labels"]
    assert pixels["ignored"] == ROWS * SIZES["2_11"][1] and pixels["exact"] == (expected != IGNORE).sum()
    assert pixels["unknown"] == pixels["repaired"] == 0 and pixels["layout"] == name.strip()
    printed = capsys.readouterr().out
    assert (f"; labels {name.strip()}, labels repaired" in printed) == (" " in name.strip() or "one" in name)
    assert "ignored 28.57 %" in printed and "warning" not in printed


def test_eroded_labels_go_the_same_ways(project, settings):
    settings["data"]["eroded_label"] = "eroded/{tile}.tif"
    expected = write_all(project, lambda labels, kept: beside(white_where(labels, kept), kept), "eroded")
    row = prepared_row(project, settings)
    np.testing.assert_array_equal(np.load(project / "prepared/2_11.eroded.npy"), expected)
    assert row["pixels"]["eroded"]["layout"] == "painted with alpha"
    assert row["pixels"]["labels"]["layout"] == "painted" and row["pixels"]["labels"]["ignored"] == 0


# -- read alone --------------------------------------------------------------------------------------------


def read(path, step=5, classes=None, **data):
    """Labels, outcomes, unknown values and the reader of a raster, `step` rows at a time."""
    data = {**copy.deepcopy(SETTINGS["data"]), **data}
    data["classes"] = classes or data["classes"]
    with rasterio.open(path) as raster:
        assert check_label(raster, data) is None
        reader = LabelReader(raster, data, build_decoder(data))
        parts = [reader.read(at, min(at + step, raster.height)) for at in range(0, raster.height, step)]
    labels, outcomes, unknown = zip(*parts)
    return (
        np.concatenate(labels),
        sum(outcomes).tolist(),
        {k: n for each in unknown for k, n in each.items()},
        reader,
    )


@pytest.fixture
def labels():
    return np.arange(12 * 7, dtype=np.uint8).reshape(12, 7) % 6


DTYPES = "uint8 uint16 int8 int16 int32 uint32 int64 float32 float64".split()


@pytest.mark.parametrize("dtype", DTYPES)
def test_whole_numbers_of_any_type_are_values(tmp_path, labels, dtype):
    values = labels.astype(dtype)
    values[0, :3], values[11, 6] = 120, 99
    write(tmp_path / "a.tif", values, nodata=120)
    decoded, outcomes, unknown, reader = read(tmp_path / "a.tif", **VALUES)
    labels[0, :3] = labels[11, 6] = IGNORE
    np.testing.assert_array_equal(decoded, labels)
    assert outcomes == [80, 0, 4, 0] and not unknown and not reader.hidden


@pytest.mark.parametrize(
    "dtype, value", [("int16", -9999), ("float32", 1e6), ("uint32", 2**32 - 1), ("int8", -1)]
)
def test_numbers_that_no_class_can_have_are_unknown_by_their_name(tmp_path, labels, dtype, value):
    values = labels.astype(dtype)
    values[2, 2:5], values[3, 3] = value, 77
    write(tmp_path / "a.tif", values)
    decoded, outcomes, unknown, _ = read(tmp_path / "a.tif", **VALUES)
    labels[2, 2:5] = labels[3, 3] = IGNORE
    np.testing.assert_array_equal(decoded, labels)
    assert outcomes == [80, 0, 0, 4] and unknown == {f"{value:.12g}": 3, "77": 1}


@pytest.mark.parametrize("nodata", [-3.4028234663852886e38, float("nan"), float("inf"), 0.1])
def test_nodata_of_real_numbers(tmp_path, labels, nodata):
    values = np.where(labels == 3, nodata, labels).astype(np.float32)
    write(tmp_path / "a.tif", values, nodata=nodata)
    decoded, outcomes, _, _ = read(tmp_path / "a.tif", **VALUES)
    np.testing.assert_array_equal(decoded, np.where(labels == 3, IGNORE, labels))
    assert outcomes == [70, 0, 14, 0]


def test_alpha_and_mask_count_beside_a_nodata_value(tmp_path, labels):
    kept = np.full(labels.shape, 255, np.uint8)
    kept[:2] = 0
    write(tmp_path / "mask.tif", np.where(labels == 3, 9, labels), nodata=9, mask=kept)
    write(tmp_path / "alpha.tif", beside(COLOURS[labels], kept), nodata=9)
    decoded, *_ = read(tmp_path / "mask.tif", **VALUES)
    np.testing.assert_array_equal(decoded, np.where((kept == 0) | (labels == 3), IGNORE, labels))
    decoded, *_ = read(tmp_path / "alpha.tif")
    np.testing.assert_array_equal(decoded, np.where(kept == 0, IGNORE, labels))


def test_only_where_all_bands_have_the_nodata_value_is_paint_unlabelled(tmp_path, labels):
    write(
        tmp_path / "a.tif", np.where((labels == 2)[..., None], 0, COLOURS[labels]).astype(np.uint8), nodata=0
    )
    decoded, outcomes, _, reader = read(tmp_path / "a.tif", ignore_colours=[])
    np.testing.assert_array_equal(decoded, np.where(labels == 2, IGNORE, labels))
    assert outcomes == [70, 0, 14, 0] and not reader.hidden


THREE = {"road": "#ffffff", "roof": "#ff0000", "tree": "#00ff00"}
PURE = {"a": "#0000ff", "b": "#ff0000", "c": "#00ff00"}


@pytest.mark.parametrize(
    "classes, bands, present, expected",
    [
        (THREE, 3, [0, 1, 2], "one-hot"),  # blue is no colour of a class
        (THREE, 3, [0, 1], "painted"),  # red and green are
        (PURE, 3, [0, 1, 2], "painted"),
        ({**THREE, "car": "#ffff00"}, 4, [0, 1, 2, 3], "one-hot"),  # to GDAL the fourth is an alpha
        ({**THREE, "car": "#ffff00"}, 4, [0, 1], "one-hot"),
        ({**THREE, "car": "#000000"}, 4, [3], "painted with alpha"),
    ],
)
def test_as_many_bands_as_classes_may_be_paint(tmp_path, labels, classes, bands, present, expected):
    index = np.array(present, np.uint8)[labels % len(present)]
    write(tmp_path / "a.tif", one_hot(index, bands))
    decoded, outcomes, unknown, reader = read(tmp_path / "a.tif", classes=classes)
    assert str(reader.layout) == expected and outcomes == [84, 0, 0, 0] and not unknown
    colours = list(classes.values())
    pure = ["#ff0000", "#00ff00", "#0000ff", "#000000"]
    painted = [colours.index(colour) if colour in colours else IGNORE for colour in pure]
    np.testing.assert_array_equal(decoded, index if "one" in expected else np.uint8(painted)[index])


@pytest.mark.parametrize("value, dtype", [(1, np.uint8), (1, np.float32), (255, np.uint16)])
@pytest.mark.parametrize("classes", [PURE, {**PURE, "d": "#ffffff"}])
def test_stacks_that_can_be_no_paint_are_one_hot(tmp_path, labels, classes, value, dtype):
    index = labels % len(classes)
    write(tmp_path / "a.tif", one_hot(index, len(classes), value, dtype), nodata=0)
    decoded, outcomes, _, reader = read(tmp_path / "a.tif", classes=classes)
    np.testing.assert_array_equal(decoded, index)
    assert str(reader.layout) == "one-hot" and outcomes == [84, 0, 0, 0]


def test_three_and_four_classes_are_painted_as_ever(tmp_path, labels):
    for classes in (THREE, {**THREE, "car": "#ffff00"}):
        colours = np.array([tuple(bytes.fromhex(colour[1:])) for colour in classes.values()], np.uint8)
        index = labels % len(classes)
        alpha = np.where(np.arange(7) < 2, 0, 255) + 0 * index
        for name, pixels in (("rgb", colours[index]), ("rgba", beside(colours[index], alpha))):
            write(tmp_path / f"{name}.tif", pixels)
            decoded, _, _, reader = read(tmp_path / f"{name}.tif", classes=classes)
            expected = index if name == "rgb" else np.where(alpha > 0, index, IGNORE)
            np.testing.assert_array_equal(decoded, expected)
            assert reader.layout.kind == "painted"


@pytest.mark.parametrize("ground, black", [("#000000", []), ("#ffffff", ["#000000"])])
def test_stray_pixels_of_an_unknown_pure_colour_do_not_make_paint_one_hot(tmp_path, ground, black):
    classes = {"ground": ground, "building": "#ff0000", "road": "#00ff00"}
    paint = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)[np.arange(2000).reshape(40, 50) % 3]
    paint[0, 0] = 0, 0, 255
    write(tmp_path / "a.tif", paint)
    decoded, outcomes, unknown, reader = read(tmp_path / "a.tif", classes=classes, ignore_colours=black)
    expected = np.arange(2000).reshape(40, 50) % 3
    expected[(paint == 0).all(-1)] = IGNORE if black else 0
    expected[0, 0] = IGNORE
    np.testing.assert_array_equal(decoded, expected)
    assert str(reader.layout) == "painted" and unknown == {"#0000ff": 1} and outcomes[3] == 1


def test_one_hot_of_two_classes(tmp_path, labels):
    write(tmp_path / "a.tif", one_hot(labels % 2, 2, 1))
    decoded, *_ = read(tmp_path / "a.tif", classes={"ground": "#000000", "building": "#ffffff"})
    np.testing.assert_array_equal(decoded, labels % 2)


def test_of_a_number_that_no_setting_can_name_the_advice_is_its_nodata_tag(project, settings):
    settings["data"].update(VALUES, eroded_label=None)
    form = lambda labels, kept: np.where(kept > 0, labels.astype(np.int16), -1)  # noqa: E731
    write_all(project, form)
    lines = refused(settings, project)
    assert (
        len(lines) == len(SIZES) and "(most often -1 (" in lines[0] and "data.ignore_colours" not in lines[0]
    )
    *_, old, new = shlex.split(lines[0].split("put that in its place: ")[1])
    assert lines[0].split("place: ")[1].startswith("gdal_translate -a_nodata -1 ") and old != new
    write_all(project, form, nodata=-1)
    assert prepared_row(project, settings)["pixels"]["labels"]["unknown"] == 0


def test_labels_of_four_classes_are_all_paint_or_all_one_hot(project, settings):
    settings["data"].update(classes={**THREE, "car": "#ffff00"}, eroded_label=None)
    settings["evaluate"]["leave_out"] = []
    for tile, shape in SIZES.items():
        index = write_tile(project / "raw", tile, shape) % 4
        index = (
            index if tile != "2_11" else np.full_like(index, 3)
        )  # (0, 0, 0, 255): to GDAL opaque black, which is ignored
        write(raster_of(project, "label", tile), one_hot(index, 4))
    (told,) = refused(settings, project)
    assert told.startswith("labels of 2_11 (labels): painted, while those of 3_10 (labels), 2_10 (labels), ")


def test_labels_of_three_classes_are_all_paint_or_all_one_hot(project, settings):
    settings["data"].update(classes=THREE, eroded_label=None)
    settings["evaluate"]["leave_out"] = []
    for tile, shape in SIZES.items():
        index = write_tile(project / "raw", tile, shape) % 3
        index[index == 2] = 0 if tile == "2_11" else 2
        write(raster_of(project, "label", tile), one_hot(index, 3))
    (told,) = refused(settings, project)
    assert told.startswith("labels of 2_11 (labels): painted, while those of 3_10 (labels), 2_10 (labels), ")
    write(raster_of(project, "label", "2_11"), pixels_of(raster_of(project, "label", "2_11")) // 255)
    assert prepared_row(project, settings)["pixels"]["labels"]["layout"] == "one-hot"


# -- refused -----------------------------------------------------------------------------------------------


def stack(labels, count):
    return np.arange(labels.size * count).reshape(*labels.shape, count).astype(np.uint8)


@pytest.mark.parametrize(
    "make, data, options, told",
    [
        (lambda a: stack(a, 2), {}, {}, "2 bands, expected three of colours"),
        (lambda a: stack(a, 2), VALUES, {}, "if the last is an alpha, say so"),
        (lambda a: stack(a, 2), {}, {"driver": "PNG"}, "for labels of one band set data.label_values"),
        (lambda a: stack(a, 4), {}, {"photometric": "RGB"}, "gdal_edit.py -colorinterp_4 alpha "),
        (
            lambda a: stack(a, 5),
            {},
            {},
            "5 bands, expected three of colours (data.classes), perhaps with alpha",
        ),
        (lambda a: stack(a, 3), VALUES, {}, "for painted labels set data.label_values: null"),
        (lambda a: COLOURS[a].astype(np.uint16), {}, {}, "uint16 colours, expected uint8"),
        (lambda a: a.astype(np.complex64), VALUES, {}, "complex64 labels, expected whole numbers"),
    ],
)
def test_bands_that_are_no_labels_are_named_for_what_they_are(tmp_path, labels, make, data, options, told):
    write(tmp_path / "a.tif", make(labels), **options)
    with rasterio.open(tmp_path / "a.tif") as raster:
        assert told in check_label(raster, {**SETTINGS["data"], **data})


def test_what_gdal_edit_is_advised_for_makes_labels_of_four_bands_readable(tmp_path, labels):
    write(tmp_path / "a.tif", beside(COLOURS[labels], np.full_like(labels, 255)), photometric="RGB")
    with rasterio.open(tmp_path / "a.tif") as raster:
        assert "if the last is an alpha" in check_label(raster, SETTINGS["data"])
    with rasterio.open(tmp_path / "a.tif", "r+") as raster:
        raster.colorinterp = [*raster.colorinterp[:3], ALPHA]
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], labels)


@pytest.mark.parametrize(
    "at, values, told",
    [
        ((7, 4), [255, 0, 255, 0, 0, 0], "255, 0, 255, 0, 0, 0 in row 7, column 4 .from 0., expected one of"),
        ((7, 4), [0, 9, 0, 0, 0, 0], "an image, or labels of other classes"),
        ((0, 0), [0.2, 0.8, 0, 0, 0, 0], "of probabilities, write the most probable class"),
    ],
)
def test_a_pixel_without_one_class_is_refused_with_its_place(tmp_path, labels, at, values, told):
    pixels = one_hot(labels).astype(np.float32)
    pixels[at] = values
    write(tmp_path / "a.tif", pixels)
    with pytest.raises(Problem, match=told) as caught:
        read(tmp_path / "a.tif")
    assert caught.value.code == 3 and str(tmp_path / "a.tif") in caught.value.lines[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_fraction_is_refused_with_its_place(tmp_path, labels, dtype):
    values = labels.astype(dtype)
    values[8, 5], values[1, 1] = 2.5, np.nan
    write(tmp_path / "a.tif", values)
    with pytest.raises(Problem, match="2.5 in row 8, column 5 .from 0., expected whole numbers"):
        read(tmp_path / "a.tif", **VALUES)


def test_the_transparent_colour_of_a_png_is_a_nodata_value(tmp_path, labels):
    write(tmp_path / "a.png", COLOURS[labels], driver="PNG", nodata=255)
    with rasterio.open(tmp_path / "a.png") as raster:
        assert raster.nodatavals == (255, 255, 255)
    decoded, outcomes, _, reader = read(tmp_path / "a.png")
    np.testing.assert_array_equal(decoded, np.where(labels == 0, IGNORE, labels))
    assert outcomes == [70, 0, 14, 0] and reader.hidden == {"impervious": 14}


@pytest.mark.parametrize("data, nodata", [({}, 255), (VALUES, 0)])
def test_a_nodata_value_that_is_a_class_is_said(project, settings, capsys, data, nodata):
    settings["data"].update(data)
    write_all(project, lambda labels, kept: labels if data else COLOURS[labels])
    path, labels = raster_of(project, "label", "2_11"), write_tile(project / "again", "2_11", SIZES["2_11"])
    with rasterio.open(path, "r+") as raster:
        raster.nodata = nodata
    row, count = prepared_row(project, settings), int((labels == 0).sum())
    assert row["classes"]["impervious"] == 0 and row["pixels"]["labels"]["hidden"] == {"impervious": count}
    assert row["pixels"]["labels"]["ignored"] == count
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert f"{100 * count / labels.size:.1f} % of the pixels unlabelled" in line and "of impervious" in line
    assert "gdal_translate -a_nodata none raw/5_Labels_all/top_potsdam_2_11_label.tif " in line
    with rasterio.open(path, "r+") as raster:
        raster.nodata = None
    row = prepared_row(project, settings)
    assert row["classes"]["impervious"] == count and row["pixels"]["labels"]["hidden"] == {}
    assert "warning" not in capsys.readouterr().out


# -- their place -------------------------------------------------------------------------------------------

LEFT, TOP = 365700 + 300 * 11, 5810000 - 300 * 2  # of the image of 2_11, whose pixels are 5 cm
HERE = from_origin(LEFT, TOP, 0.05, 0.05)


@pytest.mark.parametrize(
    "place, told",
    [
        (from_origin(LEFT + 50, TOP, 0.05, 0.05), "an upper left corner at 369050, 5809400, 0 % of its"),
        (Affine(0.05, 0, LEFT, 0, 0.05, TOP), "south-up, 0 % of its image covered, expected north-up"),
    ],
)
def test_labels_elsewhere_are_taken_without_the_georeference(project, settings, place, told):
    path, labels = raster_of(project, "label", "2_11"), write_tile(project / "raw", "2_11", SIZES["2_11"])
    write(path, COLOURS[labels], transform=place, crs="EPSG:32633")
    (line,) = refused(settings, project)
    assert f"lies elsewhere than its image's: {told}" in line and f"gdal_edit.py -unsetgt {path}" in line
    write(path, COLOURS[labels])
    prepared_row(project, settings)
    np.testing.assert_array_equal(np.load(project / "prepared/2_11.pixels.npy")[..., 3], labels)


def test_labels_of_another_size_without_a_place(project, settings):
    path, labels = raster_of(project, "label", "2_11"), write_tile(project / "raw", "2_11", SIZES["2_11"])
    write(path, COLOURS[labels].repeat(2, 0).repeat(2, 1))
    (line,) = refused(settings, project)
    told = "140 x 186 pixels, expected 70 x 93 as its image; if it shows the same ground: gdal_translate"
    assert told in line and f"-outsize 93 70 {path} " in line
    write(path, COLOURS[labels][:, :-1])
    (line,) = refused(settings, project)
    assert "70 x 92 pixels, expected 70 x 93 as its image; say in both where they lie" in line
    write(path, COLOURS[labels][:, :-1], crs="EPSG:32633", transform=HERE)  # the advice is obeyed
    assert prepared_row(project, settings)["off_grid"]["labels"] == 70


TABLE = {3: COLOURS[0], 7: COLOURS[1], 8: COLOURS[2], 20: COLOURS[3], 21: COLOURS[4], 255: COLOURS[5]}


def write_palette(path, labels, kept=None, clear=(), driver="GTiff", **profile):
    """Labels whose classes are the values of TABLE, its colours in the file's colour table."""
    values = np.array(list(TABLE), np.uint8)[labels]
    entries = {value: (*map(int, colour), 0 if value in clear else 255) for value, colour in TABLE.items()}
    entries[0] = (0, 0, 0, 255)
    if kept is not None:
        values[kept == 0] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = dict(zip(("height", "width"), values.shape))
    with rasterio.open(path, "w", driver=driver, count=1, dtype="uint8", **shape, **profile) as target:
        target.write_colormap(1, entries)
        target.write(values, 1)


@pytest.mark.parametrize("driver", ["GTiff", "PNG"])
def test_a_palette_is_read_by_its_colours_or_by_its_values(project, settings, driver):
    for tile, shape in SIZES.items():
        labels = write_tile(project / "raw", tile, shape)
        kept = np.full(shape, 255, np.uint8)
        kept[:ROWS] = 0
        write_palette(raster_of(project, "label", tile), labels, kept, driver=driver)
        if tile == "2_11":
            expected = np.where(kept > 0, labels, IGNORE)
    settings["data"]["ignore_colours"] = ["#000000"]
    row = prepared_row(project, settings)
    assert (np.load(project / "prepared/2_11.pixels.npy")[..., 3] == expected).all()
    assert row["pixels"]["labels"]["layout"] == "palette"
    assert row["pixels"]["labels"]["ignored"] == ROWS * SIZES["2_11"][1]
    values = {name: [value, 200 + value % 7] for name, value in zip(NAMES, TABLE)}
    settings["data"].update(label_values=values, ignore_colours=[0], prepared="by_values")
    prepare_data.main(settings, project / "runs/tiny")
    assert (np.load(project / "by_values/2_11.pixels.npy")[..., 3] == expected).all()


@pytest.mark.parametrize("options, lost", [({"nodata": 7}, 1), ({"clear": [20], "driver": "PNG"}, 3)])
def test_what_a_palette_hides_is_unlabelled(tmp_path, options, lost):
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    write_palette(tmp_path / "a.tif", labels, **options)
    data = SETTINGS["data"]
    with rasterio.open(tmp_path / "a.tif") as raster:
        assert check_label(raster, data) is None
        reader = LabelReader(raster, data, build_decoder(data))
        decoded, outcomes, _ = reader.read(0, 2)
    assert (decoded == np.where(labels == lost, IGNORE, labels)).all() and outcomes.tolist() == [5, 0, 1, 0]
    assert reader.hidden == ({NAMES[1]: 1} if "nodata" in options else {})


def test_one_band_without_a_palette_needs_values(tmp_path):
    write(tmp_path / "a.tif", np.zeros((2, 3), np.uint8))
    with rasterio.open(tmp_path / "a.tif") as raster:
        assert "1 bands without a palette, expected the classes' colours" in check_label(
            raster, SETTINGS["data"]
        )
