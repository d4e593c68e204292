# ruff: noqa: F811  a test takes the fixture that it imports
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import types
import xml.etree.ElementTree as ET
import zipfile

import by_pixel
import numpy as np
import pytest
import rasterio
from conftest import COLOURS, ROOT, save_settings, write_raster
from rasterio.control import GroundControlPoint
from rasterio.transform import from_origin
from skimage.io import imread
from untrained import ortho, read_map, run, write_run  # noqa: F401  a fixture among them

import predict
from base.files import sha256
from base.problem import Problem
from imagery.arrays import IGNORE
from mapping import blending, maps, memory, one_raster, sources


def test_a_map_has_the_inputs_georeference_colours_names_and_nodata(run, settings, tmp_path):
    transform = from_origin(366976.75, 5808000.25, 0.05, 0.05)
    ortho(tmp_path / "my ortho.tif", (700, 301), crs="EPSG:25833", transform=transform)
    predict.main(settings, run, "my ortho.tif")
    path = run / "predictions/my ortho.tif"
    with rasterio.open(path) as source:
        assert (source.count, source.dtypes[0], source.nodata, source.shape) == (1, "uint8", 255, (700, 301))
        assert source.crs == "EPSG:25833" and source.transform == transform
        assert (
            source.profile["tiled"] and source.compression.value == "DEFLATE" and source.overviews(1) == [2]
        )
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


def test_a_map_that_stands_is_left_alone_and_a_changed_raster_is_not(run, settings, tmp_path, capsys):
    ortho(tmp_path / "a.tif")
    predict.main(settings, run, "a.tif")
    before = (run / "predictions/a.tif").stat().st_mtime_ns
    predict.main(settings, run, "a.tif")
    assert (
        "stands already" in capsys.readouterr().out
        and (run / "predictions/a.tif").stat().st_mtime_ns == before
    )
    settings["predict"]["views"] = [0]
    predict.main(settings, run, "a.tif")
    assert (run / "predictions/a.tif").stat().st_mtime_ns != before


def test_a_failure_half_way_leaves_the_old_map(run, settings, tmp_path, monkeypatch):
    ortho(tmp_path / "a.tif", (200, 60))
    predict.main(settings, run, "a.tif")
    before = {p.name: p.read_bytes() for p in (run / "predictions").iterdir()}
    settings["predict"]["views"] = [3]
    calls = []

    def failing(*arguments):
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("the reason")
        return original(*arguments)

    original = sources.Layers.read
    monkeypatch.setattr(sources.Layers, "read", failing)
    with pytest.raises(Problem, match="raster a.tif: RuntimeError the reason .*, line") as caught:
        predict.main(settings, run, "a.tif")
    assert caught.value.code == 3
    assert {p.name: p.read_bytes() for p in (run / "predictions").iterdir()} == before


BY_PIXEL = [sys.executable, str(ROOT / "tests/by_pixel.py")]


def with_room(blocks):
    """predict.py on a.tif, with a stand-in for the network, where no file can have more than so many kB."""
    command = shlex.join([*BY_PIXEL, "0", "predict.py", "--params", "tiny.yaml", "--tile", "a.tif"])
    return subprocess.run(
        ["bash", "-c", f"ulimit -f {blocks}; exec {command}"], capture_output=True, text=True
    )


def test_a_disk_that_is_full_is_exit_code_4_and_leaves_nothing(run, settings, tmp_path):
    ortho(tmp_path / "a.tif", (600, 700))
    save_settings(tmp_path, settings)
    done = with_room(20)
    assert done.returncode == 4 and "error: class map runs/tiny/predictions/a.tif: not written" in done.stderr
    assert "Traceback" not in done.stderr and not list((run / "predictions").iterdir())


@pytest.mark.parametrize("missing", [1, 40_000])
def test_a_disk_that_fills_up_late_is_noticed_too(run, settings, tmp_path, monkeypatch, missing):
    """So many bytes before the map is whole: in its overview, which GDAL flushes as it closes the file."""
    monkeypatch.setattr(one_raster, "start_engine", by_pixel.start)
    ortho(tmp_path / "a.tif", (600, 520))
    save_settings(tmp_path, settings)
    predict.main(settings, run, "a.tif")
    limit = ((run / "predictions/a.tif").stat().st_size - missing) // 1024
    shutil.rmtree(run / "predictions")
    done = with_room(limit)
    assert done.returncode == 4 and "Traceback" not in done.stderr, done.stderr
    assert not list((run / "predictions").iterdir())


def test_the_maps_tags_say_what_it_was_made_from(run, settings, tmp_path):
    ortho(tmp_path / "a.tif")
    predict.main(settings, run, "a.tif")
    with rasterio.open(run / "predictions/a.tif") as source:
        tags = source.tags()
    assert tags["MODEL"] == sha256(run / "model.keras") and tags["SOURCE"] == sha256(tmp_path / "a.tif")
    assert (tags["VIEWS"], tags["WINDOW"], tags["OVERLAP"]) == ("0 5", "64", "0.25")
    assert (
        tags["ENGINE"].startswith("tensorflow 2.")
        and len(tags["SETTINGS"]) == 64
        and len(tags["VERSION"]) == 16
    )
    assert json.loads(tags["PREDICT"]) == {key: settings["predict"][key] for key in maps.PIXELS}


def test_killed_at_any_moment_the_same_command_writes_the_same_bytes(run, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(one_raster, "start_engine", by_pixel.start)
    ortho(tmp_path / "a.tif", (400, 300))
    settings["predict"]["also"] = ["confidence", "colours"]
    predict.main(settings, run, "a.tif")
    whole = {path.name: path.read_bytes() for path in (run / "predictions").iterdir()}
    save_settings(tmp_path, settings)
    for wanted in (".a.confidence", "a.tif"):  # begun, named
        shutil.rmtree(run / "predictions")
        process = subprocess.Popen(
            [*BY_PIXEL, "0.005", "predict.py", "--params", "tiny.yaml", "--tile", "a.tif"],
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
    settings["predict"]["also"] = ["polygons", "geopackage", "confidence"]
    predict.main(settings, run, "a.tif")
    whole = {path.name: path.read_bytes() for path in (run / "predictions").iterdir()}
    monkeypatch.setattr(one_raster, "start_engine", None)
    for name in ("a.png", "a.polygons.geojson", "a.polygons.gpkg", "a.polygons.qml", "a.qml"):
        (run / "predictions" / name).unlink()
        predict.main(settings, run, "a.tif")
        assert {path.name: path.read_bytes() for path in (run / "predictions").iterdir()} == whole


def test_more_memory_than_there_is_is_refused_before_the_work(run, settings, tmp_path, monkeypatch):
    ortho(tmp_path / "a.tif", (40, 50))
    monkeypatch.setattr(memory, "installed", lambda: 5e8)
    with pytest.raises(Problem, match="need about .* GB of memory, expected at most the 0.5 GB") as caught:
        predict.main(settings, run, "a.tif")
    assert caught.value.code == 3 and not (run / "predictions").exists()


def test_stated_memory_grows_with_the_width_and_not_with_the_height():
    facts = {"classes": dict.fromkeys("abcdef"), "scale": [None] * 3}
    windows = blending.Windows(512, 0.25, [0], 32)
    stated = [
        memory.needed(
            types.SimpleNamespace(shape=shape, collar=None, area=None),
            facts,
            windows,
            5e8,
            0,
        )
        for shape in ((6000, 6000), (48000, 6000), (6000, 48000))
    ]
    assert stated[0] == pytest.approx(stated[1], rel=0.05) and stated[2] > 1.5 * stated[0]


@pytest.mark.parametrize(
    "groups, limits, expected",
    [
        ("", {}, None),
        ("0::/\n", {"memory.max": "3000"}, 3000),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "5000", "memory.max": "9000"}, 5000),
        ("0::/a/b\n", {"a/b/memory.max": "max"}, None),
        (
            "0::/host/path/of/the/container\n",
            {"memory.max": "4000"},
            4000,
        ),  # which the container does not see
        ("5:cpu,memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "7000"}, 7000),
        ("4:memory:/a/b\n", {"memory/a/memory.limit_in_bytes": "6000"}, 6000),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": str(2**63 - 4096)}, None),
    ],
)
def test_the_memory_is_the_containers_where_that_is_less_than_the_machines(
    tmp_path, groups, limits, expected
):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, limit in limits.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{limit}\n")
    machine = memory.installed(tmp_path / "no such folder")
    assert machine > 2**28
    assert memory.installed(tmp_path) == (machine if expected is None else expected)


def contents(run):
    return {path.name: path.read_bytes() for path in (run / "predictions").iterdir()}


def test_a_map_is_kept_where_only_what_goes_with_it_changes(run, settings, tmp_path, capsys, monkeypatch):
    pytest.importorskip("shapely")
    ortho(tmp_path / "a.tif", (90, 80), crs="EPSG:25833", transform=from_origin(366976, 5808000, 0.05, 0.05))
    options = settings["predict"]
    options.update(also=["confidence", "colours", "polygons", "geopackage"], sieve=5, simplify=0.1)
    predict.main(settings, run, "a.tif")
    together = contents(run)
    shutil.rmtree(run / "predictions")
    options.update(also=[], sieve=0, simplify=0)
    predict.main(settings, run, "a.tif")
    stamp = (run / "predictions/a.tif").stat().st_mtime_ns
    monkeypatch.setattr(one_raster, "start_engine", None)
    changes = [
        {"batch_size": 3},
        {"also": ["colours"]},
        {"also": ["polygons", "geopackage"]},
        {"sieve": 5},
        {"simplify": 0.1},
        {"resample": True},
    ]
    for change in changes:  # resampled, its pixels would be as they are
        options.update(change)
        capsys.readouterr()
        predict.main(settings, run, "a.tif")
        assert "stands already" in capsys.readouterr().out
        assert (run / "predictions/a.tif").stat().st_mtime_ns == stamp
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    predicted = "a.areas.csv", "a.confidence.tif"
    rest = {name: content for name, content in together.items() if name not in predicted}
    assert contents(run) == rest  # also the colours, which are no longer asked for
    options.update(also=["confidence", "probabilities"])
    predict.main(settings, run, "a.tif")
    said = capsys.readouterr().out
    assert "is predicted again: confidence and probabilities cannot be made from the map" in said
    found = contents(run)
    assert all(found[name] == together[name] for name in ("a.tif", "a.confidence.tif"))
    assert not {"a.colours.tif", "a.polygons.geojson", "a.polygons.gpkg", "a.polygons.qml"} & set(
        found
    )  # they were another map's, for all that is known
    options.update(also=["confidence"])
    monkeypatch.setattr(one_raster, "start_engine", None)
    predict.main(settings, run, "a.tif")
    assert contents(run) == found


def test_the_stated_memory_is_what_a_map_takes(run, settings, tmp_path):
    ortho(tmp_path / "a.tif", (64, 2000))
    settings["predict"].update(window=512, batch_size=2, views=[0])
    write_run(run, {**settings, "model": {**settings["model"], "width": 16}})
    save_settings(tmp_path, settings)
    script = (
        "import predict; from base.settings import *; from mapping import engines; from pathlib import Path\n"
        "predict.main(read_settings('tiny.yaml'), Path('runs/tiny'), 'a.tif')\n"
        "print('peak', engines.resident('VmHWM'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    stated = 1e9 * float(re.search("about ([0-9.]+) GB of memory", done.stdout)[1])
    peak = int(re.search("peak ([0-9]+)", done.stdout)[1])
    assert 0.9 * peak < stated < 1.25 * peak, done.stdout


def test_deep_pixels_and_the_extra_raster_are_scaled_as_in_training(tmp_path, monkeypatch, settings, capsys):
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
        for name, east in (("my", 900), ("off", 909))
    }
    write_raster(tmp_path / "my.tif", layers[..., :3], **places["my"])
    write_raster(tmp_path / "off.tif", layers[..., 3], **places["off"])
    predict.main(settings, plain, "my.tif", extra="off.tif")
    told = (
        "extra raster from another grid (an upper left corner at 909, 0) by bilinear, about 83 % of the image"
    )
    assert told in capsys.readouterr().out
    assert (read_map(plain, "my")[:, :9] == IGNORE).all() and (read_map(plain, "my")[:, 9:] != IGNORE).any()
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


@pytest.mark.parametrize(
    "crs, corner, step, expected",  # pixels of 0.05 m are 4.493e-7 degrees high, 7.34e-7 wide
    [
        ("EPSG:25833", [366976, 5808000], (0.05, 0.1), (160, 60)),
        ("EPSG:25833", [366976, 5808000], (0.025, 0.2), (320, 30)),
        ("EPSG:4326", [13.06, 52.39], (2 * 4.493e-7, 2 * 4.493e-7), (160, 73)),
        ("EPSG:3857", [1453779, 6867000], (0.0819, 0.0819), (80, 60)),
        ("EPSG:3857", [1453779, 6867000], (0.0819, 2 * 0.0819), (160, 60)),
        ("+proj=utm +zone=33 +units=us-ft", [1203985, 19055049], (0.16404, 0.16404), (80, 60)),
    ],
)
def test_each_direction_is_resampled_by_its_own_size_and_the_map_covers_the_same_ground(
    run, settings, tmp_path, capsys, crs, corner, step, expected
):
    settings["predict"].update(resample=True, also=["confidence"])
    ortho(tmp_path / "a.tif", (80, 60), crs=crs, transform=from_origin(*corner, *step))
    predict.main(settings, run, "a.tif")
    assert "warning" not in capsys.readouterr().out
    with rasterio.open(tmp_path / "a.tif") as source:
        bounds, crs = source.bounds, source.crs
    for name in ("a", "a.confidence"):
        with rasterio.open(run / f"predictions/{name}.tif") as source:
            assert source.crs == crs and abs(source.height - expected[0]) < 2
            assert abs(source.width - expected[1]) < 2
            assert list(source.bounds) == pytest.approx(list(bounds), rel=1e-12)


def test_a_mask_that_is_added_later_is_noticed(run, settings, tmp_path):
    ortho(tmp_path / "a.tif", (40, 50))
    predict.main(settings, run, "a.tif")
    assert (read_map(run, "a") != IGNORE).all()
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(tmp_path / "a.tif", "r+") as target:
        target.write_mask(np.repeat([[True], [False]], 20, 0).repeat(50, 1))
    assert (tmp_path / "a.tif.msk").exists()
    predict.main(settings, run, "a.tif")
    assert ((read_map(run, "a") == IGNORE) == (np.arange(40) >= 20)[:, None]).all()


def test_sizes_that_have_nothing_in_common_are_refused_and_unknown_ones_said(run, settings, tmp_path, capsys):
    settings["predict"]["resample"] = True
    ortho(tmp_path / "far.tif", crs="EPSG:32633", transform=from_origin(5e5, 0, 500, 0.05))
    with pytest.raises(Problem, match="pixels of 500 m along rows, 0.05 m .*, expected about 0.05 m"):
        predict.main(settings, run, "far.tif")
    settings["predict"]["resample"] = False
    predict.main(settings, run, "far.tif")
    assert "on 0.05 m; look at its georeference\n" in capsys.readouterr().out  # not what is refused above
    settings["predict"]["resample"] = True
    ortho(tmp_path / "degrees.tif", transform=from_origin(13, 52, 7e-7, 4.5e-7))  # of no coordinate system
    ortho(tmp_path / "small.tif", (30, 40), crs="EPSG:4326", transform=from_origin(13, 52, 7e-7, 4.5e-7))
    predict.main({**settings, "data": {**settings["data"], "assume_crs": None}}, run, "degrees.tif")
    assert "its pixel size in metres is not known" in capsys.readouterr().out
    write_run(run, settings, ground_sample_distance=None)
    predict.main(settings, run, "small.tif")
    assert "the training's pixel size is not known, so it is not resampled" in capsys.readouterr().out


def test_pixels_of_another_size_are_warned_of_whatever_their_direction(run, settings, tmp_path, capsys):
    ortho(tmp_path / "turned.tif", transform=rasterio.Affine(0, 0.05, 0, 0.05, 0, 0), crs="EPSG:32633")
    ortho(tmp_path / "coarse.tif", transform=from_origin(5e5, 0, 0.2, 0.2), crs="EPSG:32633")
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
            assert source.transform.c == pytest.approx(west) and source.crs is None


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
    settings["predict"]["also"] = ["polygons", "geopackage"]
    ortho(tmp_path / "a.tif")
    ortho(tmp_path / "b.tif", crs="EPSG:32633", transform=from_origin(1e9, 1e12, 0.05, 0.05))
    for name in "ab":
        predict.main(settings, run, f"{name}.tif")
        assert "so no polygons" in capsys.readouterr().out and not list(run.glob("predictions/*.polygons*"))
        predict.main(settings, run, f"{name}.tif")
        assert "stands already" in capsys.readouterr().out
