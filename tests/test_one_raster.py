# ruff: noqa: F811  a test takes the fixture that it imports
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import rasterio
from conftest import COLOURS, ROOT, save_settings
from rasterio.transform import from_origin
from skimage.io import imread
from untrained import ortho, read_map, run, write_run  # noqa: F401  a fixture among them

import predict
from base.files import sha256
from base.problem import Problem
from mapping import blending, maps, memory, one_raster, source


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
            raise RuntimeError
        return original(*arguments)

    original = source.Layers.read
    monkeypatch.setattr(source.Layers, "read", failing)
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


def test_two_rasters_of_one_name_do_not_replace_each_other_in_silence(run, settings, tmp_path, capsys):
    ortho(tmp_path / "a.tif")
    ortho(tmp_path / "b/a.tif", (30, 40))
    predict.main(settings, run, "a.tif")
    predict.main(settings, run, "b/a.tif")
    assert "replaces the map of another raster" in capsys.readouterr().out


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
    monkeypatch.setattr(one_raster, "start_engine", None)
    for name in ("a.png", "a.geojson", "a.qml"):
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
        memory.needed(shape, facts, windows, 5e8, [])
        for shape in ((6000, 6000), (48000, 6000), (6000, 48000))
    ]
    assert stated[0] == pytest.approx(stated[1], rel=0.05) and stated[2] > 1.5 * stated[0]


def contents(run):
    return {path.name: path.read_bytes() for path in (run / "predictions").iterdir()}


def test_a_map_is_kept_where_only_what_goes_with_it_changes(run, settings, tmp_path, capsys, monkeypatch):
    ortho(tmp_path / "a.tif", (90, 80), crs="EPSG:25833", transform=from_origin(366976, 5808000, 0.05, 0.05))
    options = settings["predict"]
    options.update(also=["confidence", "colours", "polygons"], sieve=5)
    predict.main(settings, run, "a.tif")
    together = contents(run)
    shutil.rmtree(run / "predictions")
    options.update(also=[], sieve=0)
    predict.main(settings, run, "a.tif")
    stamp = (run / "predictions/a.tif").stat().st_mtime_ns
    monkeypatch.setattr(one_raster, "start_engine", None)
    changes = [
        {"batch_size": 3},
        {"also": ["colours"]},
        {"also": ["polygons"]},
        {"sieve": 5},
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
    rest = {name: content for name, content in together.items() if "confidence" not in name}
    assert contents(run) == rest  # also the colours, which are no longer asked for
    options.update(also=["confidence", "probabilities"])
    predict.main(settings, run, "a.tif")
    said = capsys.readouterr().out
    assert "is predicted again: confidence and probabilities cannot be made from the map" in said
    found = contents(run)
    assert all(found[name] == together[name] for name in ("a.tif", "a.confidence.tif"))
    assert not {"a.colours.tif", "a.geojson"} & set(found)  # they were another map's, for all that is known
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
        "import predict; from base.settings import *; from mapping import memory; from pathlib import Path\n"
        "predict.main(read_settings('tiny.yaml'), Path('runs/tiny'), 'a.tif')\n"
        "print('peak', memory.resident('VmHWM'))"
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
