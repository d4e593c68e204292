# ruff: noqa: F811  a test takes the fixture that it imports
import csv
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import rasterio
from conftest import ROOT, save_settings, stand_in, warm_python, without_make, write_raster
from rasterio.errors import CRSError
from rasterio.transform import from_origin
from untrained import ortho, read_map, run, write_run  # noqa: F401  a fixture among them

import predict
from base.problem import Problem
from base.tables import write_rows
from mapping import one_raster, polygons, sources

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


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project whose steps are made, but for predict.py, which only writes down what it is given."""
    project = tmp_path_factory.mktemp("made") / "project"
    shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(".git", ".venv", "data", "runs", "tests"))
    (project / "predict.py").write_text("import sys\nopen('got', 'w').write(sys.argv[-1])\n")
    (project / ".venv").mkdir()
    shutil.copy(ROOT / "requirements.txt", project / ".venv/.installed")
    stand_in(project, "params")
    subprocess.run(["make", "-t", "train", f"PY={warm_python()}"], check=True, **how_to_run(project))
    return project


def how_to_run(project):
    return dict(cwd=project, capture_output=True, text=True, env=without_make(os.environ))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_just_a_name(made, name):
    """What make hands over, seen by a stand-in; predict.py --check would have looked for the file."""
    (made / name).touch()
    (made / "got").unlink(missing_ok=True)
    done = subprocess.run(["make", "predict", f"PY={warm_python()}", f"TILE={name}"], **how_to_run(made))
    assert done.returncode == 0, done.stderr
    assert (made / "got").read_text() == f"--tile={name}"
    assert not list(made.parent.rglob("canary"))


@pytest.mark.parametrize("tile", ["9_99", "no/such.tif", "", "../x", "-rf", "$(touch canary)"])
def test_a_tile_that_does_not_exist_is_one_line(run, settings, tile):
    with pytest.raises(Problem) as caught:
        predict.main(settings, run, tile)
    assert (
        caught.value.code == 3
        and "no such tile or file" in str(caught.value)
        and not (run / "predictions").exists()
    )


def shapes(run):
    """{name: shape} of the maps that GDAL reads."""
    found = {}
    for path in (run / "predictions").glob("*.tif"):
        with rasterio.open(path) as source:
            found[path.stem] = source.shape
    return found


def test_rasters_of_one_name_have_maps_of_their_own_whichever_comes_first(run, settings, tmp_path, capsys):
    names = ["a.tif", "b/a.tif", "c/b/a.tif", "c/a.tif", "elsewhere/2_13.tif"]
    sizes = {name: (20, 30 + number) for number, name in enumerate(names)}
    for name, shape in sizes.items():
        ortho(tmp_path / name, shape)
    for _ in range(2):
        for name in names:
            predict.main(settings, run, name)
        expected = {"a": 0, "b.a": 1, "c.b.a": 2, "c.a": 3, "elsewhere.2_13": 4}
        assert shapes(run) == {name: (20, 30 + number) for name, number in expected.items()}
        names.reverse()
    said = capsys.readouterr().out
    assert said.count("stands already") == 5
    assert "b/a.tif: its map is called b.a, as another's is called a" in said
    with open(run / "predict.csv", newline="") as file:
        rows = {row["map"]: row["raster"] for row in csv.DictReader(file)}
    assert rows["c.b.a"] == "c/b/a.tif" and len(rows) == 5


def test_a_raster_that_was_moved_keeps_its_name_and_map(run, settings, tmp_path, capsys):
    ortho(tmp_path / "one/a.tif", (20, 30))
    predict.main(settings, run, "one/a.tif")
    (tmp_path / "one").rename(tmp_path / "two")
    ortho(tmp_path / "three/a.tif", (20, 40))
    predict.main(settings, run, "two/a.tif")
    assert "stands already" in capsys.readouterr().out
    predict.main(settings, run, "three/a.tif")
    assert shapes(run) == {"a": (20, 30), "three.a": (20, 40)}
    with open(run / "predict.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["raster"] for row in rows] == ["two/a.tif", "three/a.tif"]
    assert float(rows[0]["seconds"]) >= 0 and rows[0]["views"] == "2"


def test_a_link_keeps_its_map_whichever_raster_it_leads_to(run, settings, tmp_path):
    (tmp_path / "there").symlink_to(".")
    for number in range(3):
        ortho(tmp_path / f"{number}.tif", (20, 30 + number))
        (tmp_path / "latest.tif").unlink(missing_ok=True)
        (tmp_path / "latest.tif").symlink_to(f"{number}.tif")
        predict.main(settings, run, ("latest.tif", "there/latest.tif")[number % 2])
        assert shapes(run) == {"latest": (20, 30 + number)}


def test_a_table_of_an_earlier_version_is_read(run, settings, tmp_path):
    ortho(tmp_path / "a.tif", (20, 30))
    predict.main(settings, run, "a.tif")
    with open(run / "predict.csv", newline="") as file:
        rows = [{key: row[key] for key in row if key != "raster"} for row in csv.DictReader(file)]
    write_rows(run / "predict.csv", list(rows[0]), rows)
    ortho(tmp_path / "b.tif", (20, 40))
    for name in ("b.tif", "a.tif"):
        predict.main(settings, run, name)
    assert shapes(run) == {"a": (20, 30), "b": (20, 40)}


def test_two_files_of_one_stem_in_a_folder_have_two_maps(run, settings, tmp_path):
    image = ortho(tmp_path / "many/a.tif", (20, 30))
    write_raster(tmp_path / "many/a.png", image[:10], driver="PNG")
    for _ in range(2):
        predict.main(settings, run, "many")
        assert shapes(run) == {"a": (10, 30), "many.a": (20, 30)}


def test_a_missing_or_changed_model_is_refused(run, settings, tmp_path):
    ortho(tmp_path / "a.tif")
    with open(run / "model.keras", "ab") as file:
        file.write(b"x")
    with pytest.raises(Problem, match="other bytes"):
        predict.main(settings, run, "a.tif")
    (run / "model.json").unlink()
    with pytest.raises(Problem, match="run train.py first"):
        predict.main(settings, run, "a.tif")


def test_an_extra_raster_for_a_network_without_one_is_refused(run, settings, tmp_path):
    ortho(tmp_path / "a.tif")
    with pytest.raises(Problem, match="a network without an extra band"):
        predict.main(settings, run, "a.tif", extra="a.tif")


def test_a_model_of_an_earlier_version_is_refused(run, settings, tmp_path):
    ortho(tmp_path / "a.tif")
    content = json.loads((run / "model.json").read_text())
    del content["digest"]
    (run / "model.json").write_text(json.dumps(content))
    with pytest.raises(Problem, match="not readable .*earlier version") as caught:
        predict.main(settings, run, "a.tif")
    assert caught.value.code == 3


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
    (tmp_path / "empty").mkdir()
    with pytest.raises(Problem, match="a folder without rasters"):
        predict.main(settings, run, "empty")


def test_whatever_happens_to_one_raster_stops_no_other_and_leaves_nothing(
    run, settings, tmp_path, monkeypatch
):
    for number in range(4):
        ortho(tmp_path / f"many/{number}.tif", (40, 50), crs="EPSG:32633", transform=from_origin(1, 1, 1, 1))
    ortho(tmp_path / "many/last.tif", (40, 50))
    errors = iter((CRSError("odd"), ValueError("odd\nlines"), RuntimeError(), KeyError("x")))

    def failing(*_):
        raise next(errors)

    monkeypatch.setattr(polygons, "enclosed", failing)
    settings["predict"]["also"] = ["polygons"]
    with pytest.raises(Problem) as caught:
        predict.main(settings, run, "many")
    assert caught.value.code == 3 and len(caught.value.lines) == 4
    texts = ("CRSError odd", "ValueError odd lines", "RuntimeError", "KeyError 'x'")
    for line, text in zip(caught.value.lines, texts):
        assert f".tif: {text} (test_predict.py, line " in line
    assert (run / "predictions/last.tif").exists()
    assert not [path for path in (run / "predictions").iterdir() if path.name.startswith(".")]
    assert not list((run / "predictions").glob("*.geojson"))


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(28, "No space left on device"), KeyboardInterrupt()]
)
def test_what_is_no_rasters_fault_stops_all(run, settings, tmp_path, monkeypatch, error):
    for name in "ab":
        ortho(tmp_path / f"many/{name}.tif", (40, 50))
    tried = []

    def failing(jobs, *_):
        tried.append(jobs[0].name)
        raise error

    monkeypatch.setattr(one_raster, "predict_group", failing)
    with pytest.raises(type(error)):
        predict.main(settings, run, "many")
    assert tried == ["a"]


def test_what_a_folder_holds_beside_its_rasters_is_named_with_the_reason(run, settings, tmp_path, capsys):
    folder = tmp_path / "many"
    ortho(folder / "a.tif", (20, 30))
    for name in (
        "a.tfw",
        "a.PRJ",
        "a.tif.aux.xml",
        "a.tif.ovr",
        "a.qml",
        "a_RPC.TXT",
        ".hidden.jp2",
        "sub/b.tif",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("" if name != "a.PRJ" else "EPSG:32633")
    (folder / "a.tif.aux.xml").write_text("<PAMDataset/>")
    (folder / "a.tif.ovr").unlink()
    for name in ("b.bmp", "c.bmp", "d.bmp", "e.bmp"):
        (folder / name).write_bytes(b"BM")
    (folder / "of another.tfw").write_text("1")
    (folder / "link.lnk").symlink_to("nowhere")
    shutil.copy(folder / "a.tif", folder / "b.geotiff")
    with zipfile.ZipFile(folder / "more.zip", "w") as target:
        target.write(folder / "a.tif", "b.tif")
    predict.main(settings, run, "many")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("passed over: ")]
    assert len(lines) == 6
    said = {line.split(": ")[1]: line for line in lines}
    assert "gdal_translate many/b.bmp many/b.tif" in said["b.bmp, c.bmp, d.bmp, ... (4 of them)"]
    assert "a GTiff by its content" in said["b.geotiff"] and "a link to nowhere" in said["link.lnk"]
    assert "name the raster inside it" in said["more.zip"] and "give it as TILE" in said["sub"]
    assert "of another.tfw" in said


def test_a_full_disk_stops_at_once(run, settings, tmp_path, monkeypatch):
    for name in "ab":
        ortho(tmp_path / f"folder/{name}.tif", (40, 50))
    tried = []

    def full(jobs, *_):
        tried.append(jobs[0].name)
        raise Problem("class map: not written", code=4)

    monkeypatch.setattr(one_raster, "predict_group", full)
    with pytest.raises(Problem) as caught:
        predict.main(settings, run, "folder")
    assert caught.value.code == 4 and tried == ["a"]


@pytest.mark.parametrize("scheduler", ["local:0", "local:x", "http://a:1", "tcp://a", "2"])
def test_a_scheduler_that_is_none_is_refused(run, settings, tmp_path, scheduler):
    ortho(tmp_path / "a.tif")
    with pytest.raises(Problem, match="expected local:N") as caught:
        predict.main(settings, run, "a.tif", scheduler=scheduler)
    assert caught.value.code == 2


def test_two_dask_workers_write_the_same_bytes_and_a_killed_ones_rasters_are_done_by_another(
    run, settings, tmp_path
):
    pytest.importorskip("distributed")
    for number in range(5):
        ortho(tmp_path / f"many/{number}.tif", (500, 300 + number))
    (tmp_path / "many/broken.tif").write_bytes(b"II*\0")
    whole = (tmp_path / "many/0.tif").read_bytes()
    (tmp_path / "many/cut.tif").write_bytes(whole[: len(whole) // 2])  # which a worker finds out
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
        for left in (run / "predictions").glob(
            ".*.tmp*.tif"
        ):  # a worker's number stands in its temporary files
            killed = int(re.search(r"tmp([0-9]+)", left.name)[1])
            os.kill(killed, signal.SIGKILL)
            break
    out, errors = done.communicate(timeout=240)
    assert killed and done.returncode == 3 and "Traceback" not in errors, errors
    assert "many/broken.tif" in errors and "many/cut.tif" in errors
    assert {path.name: path.read_bytes() for path in (run / "predictions").iterdir()} == alone


def test_an_address_of_the_network_is_no_file(run, settings):
    for tile in ("https://example.org/a.tif", "/vsicurl/https://example.org/a.tif", "s3://bucket/a.tif"):
        with pytest.raises(Problem, match="no such tile or file|a raster on a server") as caught:
            predict.main(settings, run, tile)
        assert caught.value.code == 3


def test_a_name_too_long_for_what_goes_beside_a_map_stops_no_other(run, settings, tmp_path):
    for name in ("a" * 250, "b" * 235, "c"):
        ortho(tmp_path / f"many/{name}.tif", (20, 20))
    with pytest.raises(Problem) as caught:
        predict.main(settings, run, "many")
    assert (
        caught.value.code == 3
        and len(caught.value.lines) == 2
        and "its name is too long" in caught.value.lines[0]
    )
    assert (run / "predictions/c.tif").exists()
    with pytest.raises(Problem, match="no such tile or file"):
        predict.main(settings, run, "x" * 5000)


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
            tmp_path / f"folder/{each}",
            np.ones((20, 20, 3), np.uint8),
            driver="PNG" if "png" in each else "GTiff",
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
    assert len(caught.value.lines) == 1 and set(shapes(run)) == {"a", "folder.2_13"}


def test_the_windows_must_fit_the_trained_network(run, settings, tmp_path):
    ortho(tmp_path / "a.tif")
    settings["predict"]["window"] = 65
    with pytest.raises(Problem, match="predict.window: 65, expected a multiple of 2") as caught:
        predict.main(settings, run, "a.tif")
    assert caught.value.code == 2


def test_a_coordinate_system_that_is_none_is_refused(run, settings, tmp_path):
    ortho(tmp_path / "a.tif")
    settings["data"]["assume_crs"] = "EPSG:999999"
    with pytest.raises(Problem, match="data.assume_crs") as caught:
        predict.main(settings, run, "a.tif")
    assert caught.value.code == 2


def test_maps_that_are_no_test_are_named_once(run, settings, tmp_path, capsys):
    write_run(run, settings, trained_on={"2_13": "a" * 64, "b": "b" * 64}, chosen_on={"c": "c" * 64})
    settings["predict"].update(compare=True, views=[0, 1])
    ortho(tmp_path / "raw/2_Ortho_RGB/top_potsdam_2_13_RGB.tif", (40, 50))
    predict.main(settings, run, None)
    assert capsys.readouterr().out.count("warning: ") == 1
    predict.main(settings, run, "2_13")
    trained = "warning: 2_13: the network was trained on it, so its map is no test"
    assert trained in capsys.readouterr().out
    for name in "bcd":
        ortho(tmp_path / f"folder/{name}.tif", (20, 30))
    predict.main(settings, run, "folder")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert lines == [
        "warning: b: the network was trained on it, so its map is no test",
        "warning: c: its checkpoint was chosen on it, so its map is no test",
    ]


def test_an_extra_raster_in_vain_is_refused_alike_before_and_after_the_training(run, settings, tmp_path):
    ortho(tmp_path / "a.tif", (20, 30))
    ortho(tmp_path / "raw/2_Ortho_RGB/top_potsdam_2_13_RGB.tif", (20, 30))
    for tile, reason in (("a.tif", "a network without an extra band"), ("2_13", "2_13, a tile of the split")):
        for check in (True, False):
            with pytest.raises(
                Problem, match=f"--extra .* given for {reason}, expected only where"
            ) as caught:
                predict.main(settings, run, tile, extra="a.tif", check=check)
            assert caught.value.code == 2


def test_a_job_carries_and_searches_no_other_tile_of_thousands(run, settings, tmp_path, monkeypatch):
    ortho(tmp_path / "a.tif")
    ortho(tmp_path / "unnamed.tif", transform=from_origin(9, 9, 1, 1))
    calls = []
    monkeypatch.setattr(
        sources, "find_raw", lambda data, key, tile: calls.append(tile) or [tmp_path / f"{tile}.tif"]
    )
    settings["split"]["train"] = [f"chip_{number}" for number in range(5000)] + ["unnamed"]
    own = sources.Own(settings)
    for name, path, tiles in [("chip_7", "none.tif", ["chip_7"]), ("a", "a.tif", [])]:
        job = one_raster.Job(name, tmp_path / path, None, own.of(name, tmp_path / path), run, "")
        assert job.settings["split"]["test"] == tiles and len(pickle.dumps(job)) < 10_000 and not calls
        assert sources.is_tile(name, job.settings) == bool(tiles)
    own.names.remove("unnamed")  # its image under another name
    for _ in range(3):
        assert own.of("other", tmp_path / "unnamed.tif")["split"]["test"] == ["unnamed"]
    assert len(calls) == len(set(calls))


def test_a_raster_alone_has_windows_no_larger_than_it_needs_of_few_sizes(settings, run):
    settings["predict"]["window"] = 1024
    sides = []
    for shape in [(512, 512), (40, 300), (3000, 20), (900, 4), None]:
        sides.append(one_raster.Job("a", None, None, settings, run, "openvino", shape=shape))
    groups = predict.by_window([[job] for job in sides] + [sides[:2]], 32)
    assert [group[0].window_side for group in groups] == [1024] * 4 + [512, 384]
    assert len(groups[3]) == 2  # of neighbours all
