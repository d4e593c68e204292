import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
import xml.etree.ElementTree as ET
import zipfile

import numpy as np
import pytest
import rasterio
from conftest import COLOURS, ROOT, save_settings, stand_in, without_make, write_raster
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.transform import from_origin
from skimage.io import imread

import predict
from base.files import sha256
from base.problem import Problem
from base.tables import read_table
from imagery.arrays import IGNORE
from imagery.rasters import pixel_size
from mapping import blending, one_raster
from model import build_network, keras


def per_pixel(patches):
    """A stand-in engine that answers from each pixel alone: class = value of the first band modulo 6."""
    for patch in patches:
        yield 0.1 + 0.4 * np.moveaxis(np.eye(6, dtype=np.float32)[patch[..., 0] % 6], -1, 0)


@hypothesis_settings(max_examples=60)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([16, 32, 48]),
    st.floats(0, 0.9),
    st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True),
    st.sampled_from([1, 2, 8]),
)
def test_the_stitched_answer_equals_the_direct_one(height, width, window, overlap, views, depth):
    raster = np.random.default_rng(height * 100 + width).integers(0, 256, (height, width, 3)).astype(np.uint8)
    reads, parts = [], []

    def read(start, stop):
        reads.append(stop - start)
        return raster[start:stop]

    for row, found in blending.predict_rows(
        per_pixel, read, (height, width), 6, window, overlap, views, multiple=16, depth=depth
    ):
        assert row == sum(map(len, parts))
        parts.append(found)
    whole, classes = np.concatenate(parts), raster[..., 0] % 6
    np.testing.assert_array_equal(whole[..., 0], classes)
    if depth > 1:
        assert (whole[..., 1] == 100).all()  # 200 * 0.5
    if depth == 8:
        np.testing.assert_array_equal(whole[..., 2:], np.where(np.eye(6, dtype=bool)[classes], 100, 20))
    assert max(reads) <= window  # never more than a window's rows at once


def test_memory_depends_on_width_and_window_not_on_height():
    """A raster 50 times as high as its window needs no more than one twice as high."""

    def measured(height):
        tracemalloc.start()
        try:
            rows = blending.predict_rows(
                per_pixel,
                lambda start, stop: np.zeros((stop - start, 3000, 3), np.uint8),
                (height, 3000),
                classes=6,
                window=64,
                overlap=0.25,
                views=[0],
                multiple=16,
            )
            for _ in rows:
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    low, high = measured(128), measured(3200)
    assert high < 1.2 * low and low < 3 * 64 * 3000 * 6 * 4  # a few bands of sums
    assert measured(20) < 64 * 3000 * 6 * 4 / 3  # one row of windows shares no rows with another


def test_views_are_averaged_each_turned_back():
    """An engine that answers by place in the patch shows whether views are undone: the mean of eight is symmetric."""
    place = np.random.default_rng(0).random((2, 16, 16)).astype(np.float32)
    rows = blending.predict_rows(
        lambda patches: (place for _ in patches),
        lambda start, stop: np.zeros((stop - start, 16, 3), np.uint8),
        (16, 16),
        classes=2,
        window=16,
        overlap=0,
        views=range(8),
        multiple=16,
        depth=4,
    )
    mean = next(rows)[1][..., 2:].astype(int)
    for number in range(8):
        np.testing.assert_allclose(
            blending.turned_back(np.moveaxis(mean, -1, 0), number), np.moveaxis(mean, -1, 0), atol=1
        )
    shares = sum(blending.turned_back(place, number) for number in range(8))
    np.testing.assert_allclose(mean, np.moveaxis(200 * shares / shares.sum(0), 0, -1), atol=0.51)


def test_windows_count_most_in_their_middle_and_everywhere_a_little():
    weights = blending.blend_weights(32)
    assert weights.min() > 0 and weights.max() == weights[15:17, 15:17].max() and (np.diff(weights[16, :16]) > 0).all()


@given(st.integers(1, 3000), st.integers(1, 20), st.just(0) | st.floats(0, 0.9), st.sampled_from([1, 4, 32]))
def test_windows_cover_an_axis_overlap_and_lie_on_the_networks_grid(size, cells, overlap, multiple):
    window = cells * multiple
    first = blending.place_windows(size, window, overlap, multiple)
    beyond = multiple if overlap and len(first) > 1 else window
    assert first[0] == 0 and size <= first[-1] + window < size + beyond
    assert (first % multiple == 0).all() and (np.diff(first) > 0).all()
    if overlap == 0:
        assert (np.diff(first) == window).all()
    elif len(first) > 1:
        assert np.diff(first).max() <= max(multiple, window * (1 - overlap))


def write_run(folder, settings, bands=3, extra=False, scale=(None, None, None)):
    """A finished run with an untrained network."""
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    build_network(bands, len(settings["data"]["classes"]), **settings["model"]).save(folder / "model.keras")
    facts = {
        "classes": settings["data"]["classes"],
        "bands": [1, 2, 3],
        "extra": extra,
        "scale": list(scale),
        "ground_sample_distance": 0.05,
        "multiple": 4,
        "epoch": 1,
        "chosen_by": "nobody",
        "sha256": sha256(folder / "model.keras"),
    }
    (folder / "model.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch, settings):
    """The same in the current folder."""
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path / "runs/tiny", settings)


def ortho(path, shape=(70, 101), **profile):
    image = np.random.default_rng(1).integers(1, 256, (*shape, 3)).astype(np.uint8)
    write_raster(path, image, **profile)
    return image


def test_a_map_has_the_inputs_georeference_colours_names_and_nodata(run, settings, tmp_path):
    transform = from_origin(366976.75, 5808000.25, 0.05, 0.05)
    ortho(tmp_path / "my ortho.tif", (700, 301), crs="EPSG:25833", transform=transform)
    predict.main(settings, run, "my ortho.tif")
    path = run / "predictions/my ortho.tif"
    with rasterio.open(path) as source:
        assert (source.count, source.dtypes[0], source.nodata, source.shape) == (1, "uint8", 255, (700, 301))
        assert source.crs == "EPSG:25833" and source.transform == transform
        assert source.profile["tiled"] and source.compression.value == "DEFLATE" and source.overviews(1) == [2]
        assert [source.colormap(1)[i][:3] for i in range(6)] == [tuple(map(int, c)) for c in COLOURS]
        labels = source.read(1)
    assert labels.max() < 6
    names = [c.text for c in ET.parse(f"{path}.aux.xml").iter("Category")]
    assert names == list(settings["data"]["classes"])
    entries = list(ET.parse(path.with_suffix(".qml")).iter("paletteEntry"))
    assert [(e.get("value"), e.get("color"), e.get("label")) for e in entries][4] == ("4", "#ffff00", "car")
    np.testing.assert_array_equal(imread(path.with_suffix(".png")), COLOURS[labels])
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "my ortho.png",
        "my ortho.qml",
        "my ortho.tif",
        "my ortho.tif.aux.xml",
    ]


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 200), (64, 64), (65, 63), (1280, 1), (2100, 9), (5, 1100)])
def test_every_pixel_of_any_size_is_predicted(run, settings, tmp_path, shape):
    ortho(tmp_path / "a.tif", shape)
    predict.main(settings, run, "a.tif")
    with rasterio.open(run / "predictions/a.tif") as source:
        assert (
            source.shape == shape and source.read(1).max() < 6 and source.crs is None and source.transform.is_identity
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
        assert [(p.row, p.col, p.x, p.y, p.z) for p in found] == [(p.row, p.col, p.x, p.y, p.z) for p in points]


def test_nodata_stays_nodata(run, settings, tmp_path):
    image = np.random.default_rng(1).integers(1, 256, (80, 90, 3)).astype(np.uint8)
    image[10:20, 30:] = 0
    write_raster(tmp_path / "a.tif", image, nodata=0)
    predict.main(settings, run, "a.tif")
    with rasterio.open(run / "predictions/a.tif") as source:
        labels = source.read(1)
    np.testing.assert_array_equal(labels == IGNORE, (image == 0).all(-1))


def test_a_map_that_stands_is_left_alone_and_a_changed_raster_is_not(run, settings, tmp_path, capsys):
    ortho(tmp_path / "a.tif")
    predict.main(settings, run, "a.tif")
    before = (run / "predictions/a.tif").stat().st_mtime_ns
    predict.main(settings, run, "a.tif")
    assert "stands already" in capsys.readouterr().out and (run / "predictions/a.tif").stat().st_mtime_ns == before
    settings["predict"]["views"] = [0]
    predict.main(settings, run, "a.tif")
    assert (run / "predictions/a.tif").stat().st_mtime_ns != before


HOSTILE = [
    "a b.tif",
    "a'b.tif",
    'a"b.tif',
    "a;touch canary.tif",
    "$(touch canary).tif",
    "`touch canary`.tif",
    "cost$5.tif",
    "-rf.tif",
    "a\nb.tif",
    "a#b.tif",
    "a%b.tif",
    "Straße.tif",
    "a,b).tif",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_just_a_name(tmp_path, name):
    """What make hands over, seen by a stand-in for predict.py; params.py has looked for the file before."""
    project = tmp_path / "project"
    shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(".git", ".venv", "data", "runs", "tests"))
    (project / "predict.py").write_text("import sys\nopen('got', 'w').write(sys.argv[-1])\n")
    (project / name).touch()
    (project / ".venv").mkdir()
    shutil.copy(ROOT / "requirements.txt", project / ".venv/.installed")
    stand_in(project, "params")
    environment = without_make(os.environ)
    run = dict(cwd=project, capture_output=True, text=True, env=environment)
    subprocess.run(["make", "-t", "train", f"PY={sys.executable}"], check=True, **run)
    done = subprocess.run(["make", "predict", f"PY={sys.executable}", f"TILE={name}"], **run)
    assert done.returncode == 0, done.stderr
    assert (project / "got").read_text() == f"--tile={name}"
    assert not list(tmp_path.rglob("canary"))


@pytest.mark.parametrize("tile", ["9_99", "no/such.tif", "", "../x", "-rf", "$(touch canary)"])
def test_a_tile_that_does_not_exist_is_one_line(run, settings, tile):
    with pytest.raises(Problem) as caught:
        predict.main(settings, run, tile)
    assert caught.value.code == 3 and "no such tile or file" in str(caught.value) and not (run / "predictions").exists()


def test_a_foreign_file_with_a_tiles_name_is_refused(run, settings, tmp_path):
    ortho(tmp_path / "elsewhere/2_13.tif")
    with pytest.raises(Problem, match="named as the tile 2_13"):
        predict.main(settings, run, "elsewhere/2_13.tif")


def test_a_missing_or_changed_model_is_refused(run, settings, tmp_path):
    ortho(tmp_path / "a.tif")
    with open(run / "model.keras", "ab") as file:
        file.write(b"x")
    with pytest.raises(Problem, match="other bytes"):
        predict.main(settings, run, "a.tif")
    (run / "model.json").unlink()
    with pytest.raises(Problem, match="run train.py first"):
        predict.main(settings, run, "a.tif")


def test_an_image_of_other_bands_is_refused(run, settings, tmp_path):
    write_raster(tmp_path / "a.tif", np.ones((9, 9, 1), np.uint8))
    with pytest.raises(Problem, match="1 bands, expected at least 3"):
        predict.main(settings, run, "a.tif")


def read_map(run, name):
    with rasterio.open(run / f"predictions/{name}.tif") as source:
        return source.read(1)


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
        with pytest.raises(Problem, match="--extra .*, expected with --tile") as caught:
            predict.main(settings, plain, tile, extra="raw/dsm/02_13.tif")
        assert caught.value.code == 2
    settings["data"]["extra"] = None
    with pytest.raises(Problem, match="raster 2_13: no extra raster"):
        predict.main(settings, plain, "2_13")
    np.testing.assert_array_equal(read_map(plain, "my"), read_map(plain, "2_13"))
    places = {
        name: {"crs": "EPSG:32633", "transform": from_origin(east, 0, 1, 1)} for name, east in (("my", 0), ("off", 9))
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


def test_an_extra_raster_for_a_network_without_one_is_refused(run, settings, tmp_path):
    ortho(tmp_path / "a.tif")
    with pytest.raises(Problem, match="a network without an extra band"):
        predict.main(settings, run, "a.tif", extra="a.tif")


def test_pixels_beyond_the_scale_of_the_training_are_warned_of(tmp_path, monkeypatch, settings, capsys):
    monkeypatch.chdir(tmp_path)
    run = write_run(tmp_path / "runs/tiny", settings, scale=[[1000, 4000]] * 3)
    ortho(tmp_path / "a.tif")  # 8 bit
    predict.main(settings, run, "a.tif")
    assert "warning: a.tif: 100 % of a band outside the scale" in capsys.readouterr().out


def test_a_model_of_an_earlier_version_is_refused(run, settings, tmp_path):
    ortho(tmp_path / "a.tif")
    facts = json.loads((run / "model.json").read_text())
    del facts["scale"]
    (run / "model.json").write_text(json.dumps(facts))
    with pytest.raises(Problem, match="not readable .*scale") as caught:
        predict.main(settings, run, "a.tif")
    assert caught.value.code == 3


def test_a_failure_half_way_leaves_the_old_map(run, settings, tmp_path, monkeypatch):
    ortho(tmp_path / "a.tif", (200, 60))
    predict.main(settings, run, "a.tif")
    before = {p.name: p.read_bytes() for p in (run / "predictions").iterdir()}
    settings["predict"]["views"] = [3]
    calls = []

    def failing(*arguments):
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError
        return original(*arguments)

    original = one_raster.Layers.read
    monkeypatch.setattr(one_raster.Layers, "read", failing)
    with pytest.raises(RuntimeError):
        predict.main(settings, run, "a.tif")
    assert {p.name: p.read_bytes() for p in (run / "predictions").iterdir()} == before


def test_a_disk_that_is_full_is_exit_code_4_and_leaves_nothing(run, settings, tmp_path):
    ortho(tmp_path / "a.tif", (600, 700))
    save_settings(tmp_path, settings)
    script = f"ulimit -f 20; exec {sys.executable} {ROOT / 'predict.py'} --params tiny.yaml --tile a.tif"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 4 and "error: class map runs/tiny/predictions/a.tif: not written" in done.stderr
    assert "Traceback" not in done.stderr and not list((run / "predictions").iterdir())


def test_two_rasters_of_one_name_do_not_replace_each_other_in_silence(run, settings, tmp_path, capsys):
    ortho(tmp_path / "a.tif")
    ortho(tmp_path / "b/a.tif", (30, 40))
    predict.main(settings, run, "a.tif")
    predict.main(settings, run, "b/a.tif")
    assert "replaces the map of another raster" in capsys.readouterr().out


def test_a_changed_world_file_is_noticed(run, settings, tmp_path):
    ortho(tmp_path / "a.tif")
    for west in (1000, 2000):
        (tmp_path / "a.tfw").write_text(f"0.05\n0\n0\n-0.05\n{west}.025\n1999.975\n")
        predict.main(settings, run, "a.tif")
        with rasterio.open(run / "predictions/a.tif") as source:
            assert source.transform.c == pytest.approx(west) and source.crs == "EPSG:32633"


def test_pixels_of_another_size_are_warned_of_whatever_their_direction(run, settings, tmp_path, capsys):
    ortho(tmp_path / "turned.tif", transform=rasterio.Affine(0, 0.05, 0, 0.05, 0, 0), crs="EPSG:32633")
    ortho(tmp_path / "coarse.tif", transform=from_origin(0, 0, 0.2, 0.2), crs="EPSG:32633")
    predict.main(settings, run, "turned.tif")
    assert "warning" not in capsys.readouterr().out
    predict.main(settings, run, "coarse.tif")
    assert "pixels of 0.2 m, the network was trained on 0.05 m" in capsys.readouterr().out


@pytest.mark.parametrize("missing", [1, 40_000])
def test_a_disk_that_fills_up_late_is_noticed_too(run, settings, tmp_path, missing):
    """So many bytes before the map is whole: in its overview, which GDAL flushes as it closes the file."""
    ortho(tmp_path / "a.tif", (600, 520))
    save_settings(tmp_path, settings)
    predict.main(settings, run, "a.tif")
    limit = ((run / "predictions/a.tif").stat().st_size - missing) // 1024
    shutil.rmtree(run / "predictions")
    script = f"ulimit -f {limit}; exec {sys.executable} {ROOT / 'predict.py'} --params tiny.yaml --tile a.tif"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 4 and "Traceback" not in done.stderr, done.stderr
    assert not list((run / "predictions").iterdir())


# -- many rasters ------------------------------------------------------------------------------------------------------


def test_a_folder_is_predicted_whole_and_a_bad_raster_named_at_the_end(run, settings, tmp_path, capsys):
    folder = tmp_path / "it's a folder"
    for name in ("b c.tif", "d.tif"):
        ortho(folder / name, (40, 50))
    whole = (folder / "d.tif").read_bytes()
    (folder / "a.tif").write_bytes(whole[: len(whole) // 2])
    (folder / "page.tif").write_text("<html>not found</html>")
    (folder / "notes.txt").write_text("no raster")
    with pytest.raises(Problem) as caught:
        predict.main(settings, run, str(folder))
    assert caught.value.code == 3
    assert sorted(line.split(":")[0] for line in caught.value.lines) == [
        f"raster {folder}/a.tif",
        f"raster {folder}/page.tif",
    ]
    assert sorted(path.name for path in (run / "predictions").glob("*.tif")) == ["b c.tif", "d.tif"]
    (folder / "a.tif").write_bytes(whole)
    (folder / "page.tif").unlink()
    capsys.readouterr()
    predict.main(settings, run, str(folder))
    assert capsys.readouterr().out.count("stands already") == 2 and (run / "predictions/a.tif").exists()
    (folder / "a.png").write_bytes(b"")
    with pytest.raises(Problem, match="a.tif beside another file of that name"):
        predict.main(settings, run, str(folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(Problem, match="a folder without rasters"):
        predict.main(settings, run, "empty")


def test_a_full_disk_stops_at_once(run, settings, tmp_path, monkeypatch):
    for name in "ab":
        ortho(tmp_path / f"folder/{name}.tif", (40, 50))
    tried = []

    def full(name, *_):
        tried.append(name)
        raise Problem("class map: not written", code=4)

    monkeypatch.setattr(one_raster, "predict_raster", full)
    with pytest.raises(Problem) as caught:
        predict.main(settings, run, "folder")
    assert caught.value.code == 4 and tried == ["a"]


@pytest.mark.parametrize("scheduler", ["local:0", "local:x", "http://a:1", "tcp://a", "2"])
def test_a_scheduler_that_is_none_is_refused(run, settings, tmp_path, scheduler):
    ortho(tmp_path / "a.tif")
    with pytest.raises(Problem, match="expected local:N") as caught:
        predict.main(settings, run, "a.tif", scheduler=scheduler)
    assert caught.value.code == 2


def test_two_dask_workers_write_the_same_bytes_and_a_killed_ones_rasters_are_done_by_another(run, settings, tmp_path):
    pytest.importorskip("distributed")
    for number in range(5):
        ortho(tmp_path / f"many/{number}.tif", (500, 300 + number))
    (tmp_path / "many/broken.tif").write_bytes(b"II*\0")
    save_settings(tmp_path, settings)
    with pytest.raises(Problem):
        predict.main(settings, run, "many")
    alone = {path.name: path.read_bytes() for path in (run / "predictions").iterdir()}
    shutil.rmtree(run / "predictions")
    arguments = ["--params", "tiny.yaml", "--tile", "many", "--scheduler", "local:2"]
    done = subprocess.Popen(
        [sys.executable, str(ROOT / "predict.py"), *arguments],
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    killed = None
    while killed is None and done.poll() is None:
        time.sleep(0.02)
        for left in (run / "predictions").glob(".*.tmp*.tif"):  # a worker's number stands in its temporary files
            killed = int(re.search(r"tmp([0-9]+)", left.name)[1])
            os.kill(killed, signal.SIGKILL)
            break
    out, errors = done.communicate(timeout=240)
    assert killed and done.returncode == 3 and "many/broken.tif" in errors and "Traceback" not in errors, errors
    assert {path.name: path.read_bytes() for path in (run / "predictions").iterdir()} == alone


def test_a_raster_of_other_pixels_is_resampled_where_that_is_asked_for(run, settings, tmp_path, capsys):
    """Blocks of 4 px at half the training's pixel size become 2 px; the map lies where the raster lies."""
    image = np.random.default_rng(0).integers(1, 256, (40, 30, 3)).astype(np.uint8)
    place = {"crs": "EPSG:25833", "transform": from_origin(1000, 2000, 0.05, 0.05)}
    write_raster(tmp_path / "right.tif", image, **place)
    fine = image.repeat(4, 0).repeat(4, 1)
    fine[:8, :16] = 0
    write_raster(
        tmp_path / "fine.tif", fine, nodata=0, crs="EPSG:25833", transform=from_origin(1000, 2000, 0.0125, 0.0125)
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
    assert (found == read_map(run, "right"))[found != IGNORE].mean() > 0.8  # but beside the corner without data
    write_raster(tmp_path / "nowhere.tif", image)
    predict.main(settings, run, "nowhere.tif")
    assert "its pixel size in metres is not known" in capsys.readouterr().out


def test_the_maps_tags_say_what_it_was_made_from(run, settings, tmp_path):
    ortho(tmp_path / "a.tif")
    predict.main(settings, run, "a.tif")
    with rasterio.open(run / "predictions/a.tif") as source:
        tags = source.tags()
    assert tags["MODEL"] == sha256(run / "model.keras") and tags["SOURCE"] == sha256(tmp_path / "a.tif")
    assert (tags["VIEWS"], tags["WINDOW"], tags["OVERLAP"]) == ("0 5", "64", "0.25")
    assert tags["ENGINE"].startswith("tensorflow 2.") and len(tags["SETTINGS"]) == 64 and len(tags["VERSION"]) == 16
    assert {**json.loads(tags["PREDICT"]), "compare": False} == settings["predict"]


def test_an_address_of_the_network_is_no_file(run, settings):
    for tile in ("https://example.org/a.tif", "/vsicurl/https://example.org/a.tif", "s3://bucket/a.tif"):
        with pytest.raises(Problem, match="no such tile or file") as caught:
            predict.main(settings, run, tile)
        assert caught.value.code == 3


def test_killed_at_any_moment_the_same_command_writes_the_same_bytes(run, settings, tmp_path):
    ortho(tmp_path / "a.tif", (400, 300))
    settings["predict"]["also"] = ["confidence", "colours"]
    predict.main(settings, run, "a.tif")
    whole = {path.name: path.read_bytes() for path in (run / "predictions").iterdir()}
    save_settings(tmp_path, settings)
    for wanted in (".a.confidence", "a.tif"):  # begun, named
        shutil.rmtree(run / "predictions")
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "predict.py"), "--params", "tiny.yaml", "--tile", "a.tif"],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
        )
        while process.poll() is None and not any(
            path.name.startswith(wanted) for path in run.glob("predictions/*") if path.suffix == ".tif"
        ):
            pass
        process.kill()
        assert process.wait() == -signal.SIGKILL or wanted == "a.tif"
        if (run / "predictions/a.tif").exists():
            assert (run / "predictions/a.tif").read_bytes() == whole["a.tif"]
        predict.main(settings, run, "a.tif")
        assert {path.name: path.read_bytes() for path in (run / "predictions").iterdir()} == whole


def test_what_is_made_from_a_map_is_made_again_without_predicting(run, settings, tmp_path, monkeypatch):
    ortho(tmp_path / "a.tif", (90, 80), crs="EPSG:25833", transform=from_origin(366976, 5808000, 0.05, 0.05))
    settings["predict"]["also"] = ["polygons", "confidence"]
    predict.main(settings, run, "a.tif")
    whole = {path.name: path.read_bytes() for path in (run / "predictions").iterdir()}
    monkeypatch.setattr(one_raster, "engine_of", None)
    for name in ("a.png", "a.geojson", "a.qml"):
        (run / "predictions" / name).unlink()
        predict.main(settings, run, "a.tif")
        assert {path.name: path.read_bytes() for path in (run / "predictions").iterdir()} == whole


def test_statistics_beside_a_raster_change_nothing(run, settings, tmp_path, monkeypatch):
    ortho(tmp_path / "a.tif", (40, 50))
    predict.main(settings, run, "a.tif")
    monkeypatch.setattr(one_raster, "engine_of", None)
    (tmp_path / "a.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><Metadata><MDI key="STATISTICS_MEAN">128</MDI></Metadata>'
        "</PAMRasterBand></PAMDataset>"
    )
    predict.main(settings, run, "a.tif")


def test_the_table_of_maps_follows_the_map_that_stands(run, settings, tmp_path):
    ortho(tmp_path / "a.tif", (40, 50))
    predict.main(settings, run, "a.tif")
    table = run / "predict.csv"
    before, digest = table.read_text(), sha256(run / "predictions/a.tif")
    predict.main(settings, run, "a.tif")
    assert table.read_text() == before
    table.unlink()
    predict.main(settings, run, "a.tif")
    (row,) = read_table(table)
    assert row["sha256"] == digest and row["seconds"] == ""
    damaged = (run / "predictions/a.tif").read_bytes()
    (run / "predictions/a.tif").write_bytes(damaged[:-100] + bytes(100))
    predict.main(settings, run, "a.tif")
    assert sha256(run / "predictions/a.tif") == digest


def test_a_name_too_long_for_what_goes_beside_a_map_stops_no_other(run, settings, tmp_path):
    for name in ("a" * 250, "b" * 235, "c"):
        ortho(tmp_path / f"many/{name}.tif", (20, 20))
    with pytest.raises(Problem) as caught:
        predict.main(settings, run, "many")
    assert caught.value.code == 3 and len(caught.value.lines) == 2 and "its name is too long" in caught.value.lines[0]
    assert (run / "predictions/c.tif").exists()
    with pytest.raises(Problem, match="no such tile or file"):
        predict.main(settings, run, "x" * 5000)


def test_more_memory_than_there_is_is_refused_before_the_work(run, settings, tmp_path, monkeypatch):
    ortho(tmp_path / "a.tif", (40, 50))
    monkeypatch.setattr(one_raster, "installed_memory", lambda: 5e8)
    with pytest.raises(Problem, match="need about .* GB of memory, expected at most the 0.5 GB") as caught:
        predict.main(settings, run, "a.tif")
    assert caught.value.code == 3 and not (run / "predictions").exists()


def test_all_missing_test_tiles_are_named_and_the_others_predicted(run, settings, tmp_path):
    ortho(tmp_path / "raw/2_Ortho_RGB/top_potsdam_2_13_RGB.tif", (40, 50))
    settings["split"]["test"] = ["8_88", "2_13", "9_99"]
    with pytest.raises(Problem) as caught:
        predict.main(settings, run, None)
    assert [line.split()[1] for line in caught.value.lines] == ['"8_88":', '"9_99":']
    assert (run / "predictions/2_13.tif").exists()


@pytest.mark.parametrize("name", ["x.confidence.tif", "x.colours.tif", "x.probabilities.png"])
def test_a_raster_named_as_what_goes_beside_a_map_is_refused(run, settings, tmp_path, name):
    """Its map would be taken for a part of the map of x, and removed with it."""
    for each in ("x.tif", name):
        write_raster(
            tmp_path / f"folder/{each}", np.ones((20, 20, 3), np.uint8), driver="PNG" if "png" in each else "GTiff"
        )
    with pytest.raises(Problem, match="as files beside a map do"):
        predict.main(settings, run, f"folder/{name}")
    with pytest.raises(Problem, match="as files beside a map do"):
        predict.main(settings, run, "folder")
    assert (run / "predictions/x.tif").exists()


def test_one_odd_entry_does_not_stop_a_folder(run, settings, tmp_path):
    ortho(tmp_path / "folder/a.tif", (20, 20))
    ortho(tmp_path / "folder/2_13.tif", (20, 20))  # the name of a tile of the split
    (tmp_path / "folder/b.tif").mkdir()
    (tmp_path / "folder/c.tif").symlink_to("nowhere")
    with pytest.raises(Problem) as caught:
        predict.main(settings, run, "folder")
    assert len(caught.value.lines) == 2 and (run / "predictions/a.tif").exists()
    assert not (run / "predictions/2_13.tif").exists()


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


def test_the_windows_must_fit_the_trained_network(run, settings, tmp_path):
    ortho(tmp_path / "a.tif")
    settings["predict"]["window"] = 66
    with pytest.raises(Problem, match="predict.window: 66, expected a multiple of 4") as caught:
        predict.main(settings, run, "a.tif")
    assert caught.value.code == 2


def test_a_coordinate_system_that_is_none_is_refused(run, settings, tmp_path):
    ortho(tmp_path / "a.tif")
    settings["data"]["assume_crs"] = "EPSG:999999"
    with pytest.raises(Problem, match="data.assume_crs") as caught:
        predict.main(settings, run, "a.tif")
    assert caught.value.code == 2


def test_polygons_where_there_is_no_longitude_are_left_out_with_a_word(run, settings, tmp_path, capsys):
    settings["predict"]["also"] = ["polygons"]
    ortho(tmp_path / "a.tif")
    ortho(tmp_path / "b.tif", crs="EPSG:32633", transform=from_origin(1e9, 1e12, 0.05, 0.05))
    for name in "ab":
        predict.main(settings, run, f"{name}.tif")
        assert "so no polygons" in capsys.readouterr().out and not (run / f"predictions/{name}.geojson").exists()
        predict.main(settings, run, f"{name}.tif")
        assert "stands already" in capsys.readouterr().out


def test_stated_memory_grows_with_the_width_and_not_with_the_height():
    facts = {"classes": dict.fromkeys("abcdef"), "scale": [None] * 3, "multiple": 32}
    options = {"window": 512, "overlap": 0.25, "batch_size": 2, "precision": "float32", "also": []}
    stated = [
        one_raster.memory(shape, facts, options, "openvino", 1e8) for shape in ((6000, 6000), (48000, 6000), (6000, 48000))
    ]
    assert stated[0] == pytest.approx(stated[1], rel=0.05) and stated[2] > 1.5 * stated[0]
