# ruff: noqa: F811  a test takes the fixture that it imports
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, save_settings, stand_in, without_make, write_raster
from untrained import ortho, read_map, run, write_run  # noqa: F401  a fixture among them

import predict
from base.problem import Problem
from mapping import one_raster

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
    subprocess.run(["make", "-t", "train", f"PY={sys.executable}"], check=True, **how_to_run(project))
    return project


def how_to_run(project):
    return dict(cwd=project, capture_output=True, text=True, env=without_make(os.environ))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_just_a_name(made, name):
    """What make hands over, seen by a stand-in; predict.py --check would have looked for the file."""
    (made / name).touch()
    (made / "got").unlink(missing_ok=True)
    done = subprocess.run(["make", "predict", f"PY={sys.executable}", f"TILE={name}"], **how_to_run(made))
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

    def full(job, *_):
        tried.append(job.name)
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


def test_two_dask_workers_write_the_same_bytes_and_a_killed_ones_rasters_are_done_by_another(
    run, settings, tmp_path
):
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
        for left in (run / "predictions").glob(
            ".*.tmp*.tif"
        ):  # a worker's number stands in its temporary files
            killed = int(re.search(r"tmp([0-9]+)", left.name)[1])
            os.kill(killed, signal.SIGKILL)
            break
    out, errors = done.communicate(timeout=240)
    assert killed and done.returncode == 3 and "many/broken.tif" in errors and "Traceback" not in errors, (
        errors
    )
    assert {path.name: path.read_bytes() for path in (run / "predictions").iterdir()} == alone


def test_an_address_of_the_network_is_no_file(run, settings):
    for tile in ("https://example.org/a.tif", "/vsicurl/https://example.org/a.tif", "s3://bucket/a.tif"):
        with pytest.raises(Problem, match="no such tile or file") as caught:
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
    assert len(caught.value.lines) == 2 and (run / "predictions/a.tif").exists()
    assert not (run / "predictions/2_13.tif").exists()


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
