"""What make would rerun, asked of make itself (-n) after everything was marked as made (-t)."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import (
    ROOT,
    SIZES,
    save_settings,
    stand_in,
    warm_python,
    whole_demo,
    without_make,
    write_tile,
)

import stamps
from base.files import only_one

STEPS = ["prepare_data", "lr_find", "train", "predict", "evaluate", "report"]
EDITS = {  # one edit of demo.yaml per section: the first step that it reruns, and the steps that it does not
    "seed: 1": ("seed: 2", STEPS[1:]),
    "  tolerance: 48": ("  tolerance: 40", STEPS),
    "  val: [2_10]": ("  val: [3_11]", STEPS),
    "  batch_size: 8\n  stride": ("  batch_size: 4\n  stride", STEPS[1:]),
    "  views: true": ("  views: false", STEPS[1:]),
    "  width: 16": ("  width: 8", STEPS[1:]),
    "  steps: 100": ("  steps: 50", STEPS[1:]),  # max_lr: auto, so the finder is upstream of the training
    "  epochs: 18": ("  epochs: 3", STEPS[1:]),
    "  overlap: 0.25": ("  overlap: 0.5", STEPS[3:]),
    "  erode: 3": ("  erode: 5", STEPS[4:]),
    "  max_pixels: 1400": ("  max_pixels: 700", STEPS[5:]),
    "seed: 1\n": ("seed: 1  # a comment\n", []),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A copy of the project that needs no environment of its own, with everything marked as made."""
    folder = tmp_path_factory.mktemp("made")
    kinds = ("*.py", "*.yaml", "Makefile", "requirements.txt")
    for path in (path for kind in kinds for path in ROOT.glob(kind)):
        shutil.copy(path, folder)
    for wing in ("base", "imagery", "learning", "mapping", "reporting"):
        shutil.copytree(ROOT / wing, folder / wing, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "demo.yaml").write_text(whole_demo())
    (folder / ".venv").mkdir()
    shutil.copy(ROOT / "requirements.txt", folder / ".venv/.installed")
    stand_in(folder)
    make(folder, "-t", "report", "PARAMS=demo.yaml")
    assert would_run(folder) == []
    return folder


@pytest.fixture
def project(made, tmp_path):
    """A copy of `made`, free to be changed."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)  # times and all
    return tmp_path


def make(folder, *arguments, check=True, own_environment=True):
    """make, by the Python of these tests, or by that of the project's own environment."""
    environment = without_make(os.environ)
    return subprocess.run(
        ["make", *([f"PY={warm_python()}"] if own_environment else []), *arguments],
        cwd=folder,
        check=check,
        capture_output=True,
        text=True,
        env=environment,
    )


def would_run(folder, *arguments):
    out = make(folder, "-n", "report", "PARAMS=demo.yaml", *arguments).stdout
    return [step for step in re.findall(r"(\w+)\.py --params", out) if step != "params"]


@pytest.mark.parametrize("before", EDITS)
def test_an_edit_reruns_what_reads_it_and_what_follows(project, before):
    after, expected = EDITS[before]
    text = (project / "demo.yaml").read_text()
    assert before in text
    (project / "demo.yaml").write_text(text.replace(before, after, 1))
    assert would_run(project) == expected


@pytest.mark.parametrize("section, key", [("train", "start_from"), ("model", "weights")])
def test_the_stamp_of_a_section_changes_with_the_first_weights_that_it_names(
    tmp_path, settings, section, key
):
    """And not when they are gone: what was made with them stands."""
    file, stamp = tmp_path / "first", tmp_path / section
    settings["model"]["encoder"], settings[section][key] = "efficientnet_lite0", str(file)
    assert stamps.with_weights(section, settings, stamp) == json.dumps(settings[section], indent=1)
    contents = []
    for content in (b"weights", b"WEIGHTS"):
        file.write_bytes(content)
        contents.append(stamps.with_weights(section, settings, stamp))
    assert len(set(contents)) == 2 and all(json.dumps(settings[section], indent=1) in c for c in contents)
    stamp.write_text(contents[1])
    file.unlink()
    assert stamps.with_weights(section, settings, stamp) == contents[1]
    settings[section][key] += "other"
    assert stamps.with_weights(section, settings, stamp) == json.dumps(settings[section], indent=1)


def test_weights_that_are_nowhere_are_told_before_any_tile_is_read(project):
    """But not where nothing is made, or nothing trained."""
    text = (project / "demo.yaml").read_text().replace("encoder: none", "encoder: efficientnet_lite0")
    (project / "a.yaml").write_text(text.replace("weights: imagenet", "weights: nowhere.pth"))
    for goal in ("train", "lr_find", "predict", "report"):
        done = make(project, goal, "PARAMS=a.yaml", check=False)
        assert done.returncode == 2 and "key model.weights: nowhere.pth" in done.stderr
        assert "prepare_data.py" not in done.stdout
    assert "train.py" in make(project, "-n", "report", "PARAMS=a.yaml").stdout
    assert "prepare_data.py" in make(project, "-n", "prepare", "PARAMS=a.yaml").stdout


def test_a_file_of_weights_that_no_network_takes_is_in_no_stamp(tmp_path, settings):
    (tmp_path / "first").write_bytes(b"weights")
    settings["model"]["weights"] = str(tmp_path / "first")
    text = stamps.with_weights("model", settings, tmp_path / "model")
    assert settings["model"]["encoder"] == "none" and json.loads(text) == settings["model"]


def test_without_auto_the_finder_is_not_upstream_of_the_training(project):
    text = (project / "demo.yaml").read_text().replace("max_lr: auto", "max_lr: 0.05")
    (project / "demo.yaml").write_text(text)
    make(project, "-t", "report", "PARAMS=demo.yaml")
    (project / "demo.yaml").write_text(text.replace("steps: 100", "steps: 50"))
    assert would_run(project) == ["lr_find", "report"]  # which shows the test that was made
    (project / "runs/demo/lr_find.json").unlink()
    assert would_run(project) == []


def test_touching_the_settings_reruns_nothing(project):
    (project / "demo.yaml").touch()
    assert would_run(project) == []


@pytest.mark.parametrize(
    "script, expected",
    [
        ("prepare_data.py", STEPS),
        ("pipeline.py", STEPS[1:]),
        ("lr_find.py", STEPS[1:]),
        ("train.py", STEPS[2:]),
        ("predict.py", STEPS[3:]),
        ("evaluate.py", STEPS[4:]),
        ("report.py", STEPS[5:]),
        ("reporting/page.html", STEPS[5:]),
    ],
)
def test_a_changed_script_reruns_its_step_and_what_follows(project, script, expected):
    text = (project / script).read_text()
    (project / script).write_text(text + "\nchanged = True\n")
    assert would_run(project) == expected
    (project / script).write_text(text)
    make(project, "-t", "report", "PARAMS=demo.yaml")
    assert would_run(project) == []


def test_a_touched_script_and_one_with_another_comment_rerun_nothing(project):
    for script in project.glob("*.py"):
        script.touch()
    assert would_run(project) == []
    text = (project / "trainer.py").read_text()
    (project / "trainer.py").write_text(
        text.replace("\nAHEAD = 2  #", "\n# A comment.\nAHEAD = 2  # more of")
    )
    assert (project / "trainer.py").read_text() != text and would_run(project) == []
    (project / "trainer.py").write_text(text.replace("\n\ndef ", "\n\n# Set off.\n\n\ndef "))
    assert would_run(project) == []
    (project / "trainer.py").write_text(text.replace("\nAHEAD = 2  #", "\nAHEAD = 3  #"))
    assert would_run(project) == STEPS[1:]


def test_another_run_shares_nothing_but_prepared_tiles(project):
    shutil.copy(project / "demo.yaml", project / "wide.yaml")
    make(project, "-n", "report", "PARAMS=wide.yaml")
    assert {p.name for p in (project / "runs").iterdir()} == {"demo", "wide"}
    assert would_run(project) == []


def test_each_rule_names_the_sections_that_its_script_reads():
    rules = re.findall(r"^\$\(\w+\)/\S+: \$\(S\)/(\w+)\.code(.*)$", (ROOT / "Makefile").read_text(), re.M)
    sections = {step: set(re.findall(r"\$\(S\)/(\w+)", rest)) for step, rest in rules}
    assert list(sections) == STEPS
    for step in STEPS:
        read = set(re.findall(r'settings\["(\w+)"\]', (ROOT / f"{step}.py").read_text()))
        inherited = {"prepared", "predicted", "data", "split"}  # by way of the steps before
        if step in ("evaluate", "report"):
            inherited |= {"predict"}
        if step == "report":
            inherited |= {"evaluate", "model", "train"}
        if step in ("lr_find", "train"):
            read |= set(re.findall(r'settings\["(\w+)"\]', (ROOT / "trainer.py").read_text()))
        assert read - inherited <= sections[step], step


def test_wrong_settings_stop_make_at_once(project):
    text = (project / "demo.yaml").read_text()
    (project / "demo.yaml").write_text(text.replace("epochs: 18", "epochs: many"))
    done = make(project, "report", "PARAMS=demo.yaml", check=False)
    assert (
        done.returncode != 0
        and "error: settings in demo.yaml" in done.stderr
        and "train.epochs" in done.stderr
    )


def test_steps_stay_in_order_under_many_jobs(project):
    (project / "demo.yaml").write_text(
        (project / "demo.yaml").read_text().replace("tolerance: 48", "tolerance: 40")
    )
    assert would_run(project, "-j4") == STEPS


def test_a_second_make_in_a_folder_that_is_in_use_is_told_so_and_changes_nothing(project):
    prepared = project / "data/prepared/sample"
    (project / "data/raw/sample").mkdir(parents=True)
    (project / "demo.yaml").write_text(
        (project / "demo.yaml").read_text().replace("tolerance: 48", "tolerance: 40")
    )
    with only_one(prepared):
        done = make(project, "prepare", "PARAMS=demo.yaml", check=False)
    assert "error: busy folder data/prepared/sample: another process is writing there" in done.stderr
    assert "Error 75" in done.stderr
    assert sorted(path.name for path in prepared.iterdir()) == [".lock", "all.npy", "manifest.json"]


@pytest.mark.parametrize("folder", ["runs/demo", "data/prepared/sample"])
def test_an_edit_while_a_step_runs_is_not_lost_although_make_was_asked_meanwhile(project, folder):
    text = (project / "demo.yaml").read_text()
    with only_one(project / folder):
        (project / "demo.yaml").write_text(text.replace("epochs: 18", "epochs: 14"))
        assert "busy folder" in make(project, "-n", "report", "PARAMS=demo.yaml", check=False).stderr
        for name in ("lr_find.json", "model.json"):
            (project / "runs/demo" / name).touch()  # the steps end with what they read before
    assert would_run(project) == STEPS[1:]


def test_an_interrupted_make_goes_on_where_it_was(project, settings):
    for tile, shape in SIZES.items():
        write_tile(project / "raw", tile, shape)
    settings["train"]["epochs"] = 12
    save_settings(project, settings)
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # which whoever started the tests may have ignored
    command = ["make", "-j4", "train", "PARAMS=tiny.yaml", f"PY={sys.executable}"]
    interrupted = subprocess.Popen(
        command, cwd=project, stdout=subprocess.DEVNULL, start_new_session=True, env=without_make(os.environ)
    )
    while not list(project.glob("runs/tiny/checkpoints/epoch_*.npz")):
        assert interrupted.poll() is None
        time.sleep(0.01)
    while interrupted.poll() is None:  # Python loses one that comes while it collects garbage
        os.killpg(interrupted.pid, signal.SIGINT)  # as a terminal does
        time.sleep(1)
    assert interrupted.returncode != 0 and not (project / "runs/tiny/model.json").exists()
    told = make(project, "-j4", "train", "PARAMS=tiny.yaml").stdout
    assert "going on after epoch" in told and "prepare_data.py" not in told
    assert (project / "runs/tiny/model.json").exists() and not list(project.rglob(".*.tmp*"))


def test_seeds_are_runs_of_their_own_and_compared_at_the_end(project, settings):
    for tile, shape in SIZES.items():
        write_tile(project / "raw", tile, shape)
    settings["train"]["epochs"] = 1
    save_settings(project, settings)
    shutil.rmtree(project / "runs")
    refused = make(project, "seeds", "N=1", "PARAMS=tiny.yaml", check=False)
    assert refused.returncode == 2 and "expected how many runs" in refused.stderr
    assert not (project / "runs/tiny/model.json").exists()
    told = make(project, "seeds", "N=2", "PARAMS=tiny.yaml").stdout
    assert told.count("train.py --params") == 2 and "runs that differ in their seed alone" in told
    (row,) = (project / "runs/seeds.csv").read_text().splitlines()[1:]
    assert row.startswith("tiny,2,")
    models = [(project / f"runs/{name}/model.keras").read_bytes() for name in ("tiny", "tiny-seed2")]
    assert models[0] != models[1]
    again = make(project, "seeds", "N=2", "PARAMS=tiny.yaml").stdout
    assert ".py --params" not in again and "runs that differ" in again  # nothing is made twice


@pytest.mark.parametrize(
    "gone, expected",
    [
        ("data/prepared/sample/manifest.json", STEPS),
        ("data/prepared/sample/all.npy", STEPS),
        ("runs/demo/lr_find.csv", STEPS[1:]),
        ("runs/demo/model.keras", STEPS[2:]),
        ("runs/demo/history.csv", STEPS[2:]),
        ("runs/demo/predictions/2_13.tif", STEPS[3:]),
        ("runs/demo/predictions/2_13.png", STEPS[3:]),
        ("runs/demo/predictions/2_13.one_view.tif", STEPS[3:]),
        ("runs/demo/predict.csv", STEPS[3:]),
        ("runs/demo/confusion.csv", STEPS[4:]),
        ("runs/demo/metrics.json", STEPS[4:]),
        ("runs/demo/figures/a.png", STEPS[5:]),
        ("runs/demo/report.html", STEPS[5:]),
    ],
)
def test_what_is_gone_is_made_again(project, gone, expected):
    (project / gone).unlink()
    assert would_run(project) == expected


@pytest.mark.parametrize(
    "damaged, expected", [("model.keras", STEPS[2:]), ("predictions/2_13.tif", STEPS[3:])]
)
def test_what_is_damaged_is_made_again(project, damaged, expected):
    (project / "runs/demo" / damaged).write_text("cut off")
    assert would_run(project) == expected


def test_every_step_of_one_make_reads_the_settings_that_make_looked_at(project):
    text = (project / "demo.yaml").read_text()
    (project / "evaluate.py").write_text(
        "from base.command import command\n"
        "command(lambda settings, run: print('eroded by', settings['evaluate']['erode'], 'in', run), '')\n"
    )
    make(project, "-t", "report", "PARAMS=demo.yaml")
    (project / "predict.py").write_text(  # while this runs, the settings of a later step are edited
        "from pathlib import Path\npath = Path('demo.yaml')\n"
        "path.write_text(path.read_text().replace('erode: 3', 'erode: 7'))\n"
    )
    told = make(project, "evaluate", "PARAMS=demo.yaml").stdout
    assert "predict.py" in told and "eroded by 3 in runs/demo\n" in told
    assert "erode: 7" in (project / "demo.yaml").read_text()
    for name in ("metrics.json", "report.html"):
        (project / "runs/demo" / name).touch()
    edited = (project / "demo.yaml").read_text()
    (project / "demo.yaml").write_text(text)  # taken back before make looked again: no step has read it
    assert would_run(project) == []
    (project / "demo.yaml").write_text(edited)
    assert would_run(project) == STEPS[4:]


def test_two_settings_files_of_one_name_do_not_share_a_run(project):
    (project / "a").mkdir()
    shutil.copy(project / "demo.yaml", project / "a")
    done = make(project, "-n", "report", "PARAMS=a/demo.yaml", check=False)
    assert "error: settings file a/demo.yaml: its run, runs/demo, is that of demo.yaml" in done.stderr
    assert would_run(project) == []


def test_an_environment_of_ones_own_needs_no_venv(project):
    shutil.rmtree(project / ".venv")
    assert would_run(project) == []
    assert "pip" not in make(project, "-n", "test").stdout and not (project / ".venv").exists()


def test_tiles_that_were_prepared_for_another_run_are_prepared_again(project):
    stand_in(project, **{"2_13": {"made_with": {}}})
    assert would_run(project) == STEPS


def test_the_order_of_keys_reruns_nothing(project):
    text = (project / "demo.yaml").read_text()
    (line,) = re.findall(r"^  epochs: 18.*\n", text, re.M)
    text = text.replace(line, "")
    (project / "demo.yaml").write_text(text.replace("\ntrain:\n", f"\ntrain:\n{line}", 1))
    assert would_run(project) == []


def test_a_stray_script_breaks_nothing(project):
    (project / ".#train.py").symlink_to("nobody@nowhere")
    (project / "scratch.py").write_bytes(b"name = '\xe9'\n")
    assert would_run(project) == []


def test_clean_goes_alone(project):
    done = make(project, "clean", "report", "PARAMS=demo.yaml", check=False)
    assert "error: clean beside other targets" in done.stderr and (project / "runs/demo/report.html").exists()


def test_the_lock_is_installed_where_other_packages_stand(project):
    shutil.copy(ROOT / "requirements.lock", project)
    assert "requirements.lock" in make(project, "-n", "test", "LOCKED=1", own_environment=False).stdout
    assert "pip" not in make(project, "-n", "test", own_environment=False).stdout
    shutil.copy(ROOT / "requirements.lock", project / ".venv/.installed")
    assert "pip" not in make(project, "-n", "test", "LOCKED=1", own_environment=False).stdout


def test_a_registry_out_of_reach_is_one_clear_line_after_pips_own(tmp_path, monkeypatch):
    for name in ("Makefile", "requirements.txt", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    for name, value in {
        "INDEX_URL": "http://127.0.0.1:9",
        "EXTRA_INDEX_URL": "",
        "FIND_LINKS": "",
        "RETRIES": "0",
    }.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    for locked, file in (("", "requirements.txt"), ("1", "requirements.lock")):
        done = make(
            tmp_path,
            "test",
            f"PYTHON={sys.executable}",
            f"LOCKED={locked}",
            check=False,
            own_environment=False,
        )
        assert f"error: {file}: not installed, expected a package registry within reach" in done.stderr
        assert "Error 4" in done.stderr and not (tmp_path / ".venv/.installed").exists()


def test_the_lock_holds_what_is_required_by_hash_and_names_no_registry():
    lock = (ROOT / "requirements.lock").read_text()
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+) \\$", lock, re.M))
    wanted = [
        line.split("#")[0].strip()
        for name in ("requirements.txt", "requirements-extras.txt")
        for line in (ROOT / name).read_text().splitlines()
        if line.split("#")[0].strip()
    ]
    for line in wanted:
        name, floor = line.split(">=")
        assert tuple(map(int, pinned[name].split(".")[:3])) >= tuple(map(int, floor.split("."))), line
    assert lock.count("--hash=sha256:") >= len(pinned) > 50 and "http" not in lock


def test_help_and_clean_need_no_environment(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    told = make(tmp_path, "help").stdout
    for target in ("demo", "report", "train", "predict", "test", "clean"):
        assert f"make {target} " in told
    assert make(tmp_path).stdout == told
    (tmp_path / "runs/params").mkdir(parents=True)
    (tmp_path / "runs/other").mkdir()
    make(tmp_path, "clean")
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["other"]


def test_an_old_python_is_one_clear_line(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.txt").touch()
    done = make(tmp_path, "test", "PYTHON=false", check=False, own_environment=False)
    assert "error: false: not Python 3.11 or newer" in done.stderr and not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b.yaml",
        "x$(shell touch canary).yaml",
        "x`touch${IFS}canary`.yaml",
        "x;canary.yaml",
        ".yaml",
        "..yaml",
        "runs/demo/",
        ".",
        "demo",
        "u(.yaml",
        "-x.yaml",
    ],
)
def test_a_hostile_or_empty_params_name_is_refused(project, name):
    done = make(project, "clean", f"PARAMS={name}", check=False)
    assert done.returncode != 0 and "error: PARAMS: expected the name of one .yaml file" in done.stderr
    assert (project / "runs/demo").exists() and not list(project.rglob("*canary*"))


def test_a_settings_file_that_is_not_there_is_one_line(project):
    done = make(project, "report", "PARAMS=nosuch.yaml", check=False)
    assert "error: settings file nosuch.yaml: no such file" in done.stderr and done.stderr.count("\n") == 1


def test_files_beside_the_raw_tiles_rerun_nothing_and_break_nothing(project):
    folder = project / "data/raw/sample/2_Ortho_RGB"
    folder.mkdir(parents=True)
    for name in ("my ortho.tif", "a:b.tif", "top_potsdam_9_9_RGB.tif"):
        (folder / name).touch()
    assert would_run(project) == []


@pytest.mark.parametrize("end", ["tif", "tfw", "tif.msk"])
def test_a_new_and_a_replaced_raw_file_are_noticed(project, end):
    folder, name = project / "data/raw/sample/5_Labels_all", f"top_potsdam_2_13_label.{end}"
    folder.mkdir(parents=True)
    (folder / name).write_text("one")
    assert would_run(project) == STEPS
    make(project, "-t", "report", "PARAMS=demo.yaml")
    assert would_run(project) == []
    (folder / name).write_text("two")
    assert would_run(project) == STEPS


def test_a_raw_file_of_any_name_is_watched_and_one_that_was_only_touched_reruns_nothing(project):
    text = (project / "demo.yaml").read_text()
    (project / "demo.yaml").write_text(text.replace("raw: data/raw/sample", "raw: my $(raw) tiles"))
    path = project / "my $(raw) tiles/5_Labels_all/top_potsdam_2_13_label.tif"
    path.parent.mkdir(parents=True)

    def prepare(content):
        about = {"path": str(path.relative_to(project)), "sha256": hashlib.sha256(content).hexdigest()}
        stand_in(project, **{"2_13": {"raw": {"label": about}}})

    for size in (6, 2**17):  # a small file is read, a large one only where its time has changed
        path.write_bytes(bytes(size))
        prepare(bytes(size))
        make(project, "-t", "report", "PARAMS=demo.yaml")
        assert would_run(project) == []
        os.utime(path, (1, 1))
        assert would_run(project) == [] and would_run(project) == []
        for touched in (path, project / "data/prepared/sample/manifest.json"):
            touched.touch()
        assert would_run(project) == [] and would_run(project) == []
        path.write_bytes(b"x" * size)
        prepare(b"x" * size)  # for another run, with the same prepared tiles
        assert would_run(project) == STEPS


def test_a_tile_that_is_not_there_is_refused_before_the_training(tmp_path, project):
    (project / "runs/demo/model.json").unlink()
    done = make(project, "predict", "PARAMS=demo.yaml", "TILE=typo", check=False)
    assert 'error: TILE "typo": no such tile or file' in done.stderr and "train.py" not in done.stdout


def test_an_extra_raster_is_looked_for_before_the_training_and_asks_for_a_tile(project):
    (project / "runs/demo/model.json").unlink()
    (project / "a.tif").touch()
    text = (project / "demo.yaml").read_text()
    done = make(project, "predict", "PARAMS=demo.yaml", "TILE=a.tif", "EXTRA=a.tif", check=False)
    assert "expected only where data.extra is set" in done.stderr and "train.py" not in done.stdout
    (project / "demo.yaml").write_text(text.replace("extra: null", "extra: dsm/{tile}.tif"))
    done = make(project, "predict", "PARAMS=demo.yaml", "TILE=a.tif", "EXTRA=no such.tif", check=False)
    assert 'error: EXTRA "no such.tif": no such file' in done.stderr and "train.py" not in done.stdout
    done = make(project, "predict", "PARAMS=demo.yaml", "EXTRA=a.tif", check=False)
    assert "error: EXTRA: expected TILE too" in done.stderr
    assert "make report" in make(project, "help", "EXTRA=a.tif").stdout  # of no concern to the others


def ask_for_maps(folder, *arguments):
    """(exit code, what make would run, error lines) of `make -n predict`."""
    done = make(folder, "-n", "predict", "PARAMS=demo.yaml", *arguments, check=False)
    steps = re.findall(r"(\w+)\.py --params", done.stdout)
    return done.returncode, steps, "".join(re.findall("^error: .*", done.stderr, re.M))


def edit(path, before, after):
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


LEARNED = {before: after for before, (after, steps) in EDITS.items() if "train" in steps}


@pytest.mark.parametrize("before", LEARNED)
def test_make_predict_trains_no_finished_model_anew(project, before):
    edit(project / "demo.yaml", before, LEARNED[before])
    code, steps, told = ask_for_maps(project)
    assert (code, steps) == (2, [])
    assert re.search(r"error: model runs/demo/model.keras: [\w.]+: .*now.*, expected", told)
    assert "make train PARAMS=demo.yaml trains anew (the last training took 1 h 12 min)" in told
    assert "predict.py --params=demo.yaml takes the model as it stands" in told


def test_make_predict_that_refuses_changes_nothing_and_takes_what_make_was_told_to_accept(project):
    edit(project / "demo.yaml", "  tolerance: 48", "  tolerance: 40")
    stands = {path: path.read_bytes() for path in project.glob("runs/demo/*") if path.is_file()}
    (project / "an ortho.tif").write_text("a raster")
    code, steps, told = ask_for_maps(project, "TILE=an ortho.tif")
    assert (code, steps) == (
        2,
        [],
    ) and ".venv/bin/python predict.py --params=demo.yaml '--tile=an ortho.tif'" in told
    done = make(project, "predict", "PARAMS=demo.yaml", check=False)
    assert done.returncode == 2 and "Error 2" in done.stderr and ".py" not in done.stdout
    assert stands == {path: path.read_bytes() for path in project.glob("runs/demo/*") if path.is_file()}
    assert would_run(project) == STEPS  # make report prepares and trains
    make(project, "-t", "report", "PARAMS=demo.yaml")
    assert ask_for_maps(project) == (0, [], "")  # taken as it stands


@pytest.mark.parametrize(
    "before, after",
    [
        ("  overlap: 0.25", "  overlap: 0.5"),
        ("  max_unknown: 0.005", "  max_unknown: 0.01"),
        ("  test: [2_13]", "  test: [2_14]"),
        ("  tensorboard: false", "  tensorboard: true"),
    ],
)
def test_make_predict_goes_on_where_an_edit_changes_no_model(project, before, after):
    edit(project / "demo.yaml", before, after)
    code, steps, told = ask_for_maps(project)
    assert (code, told) == (0, "") and set(steps) <= {"predict"}
    assert ask_for_maps(project, "TILE=a.tif") == (0, ["predict"], "")


@pytest.mark.parametrize(
    "script, told",
    [
        ("trainer.py", "code changed, expected"),
        ("prepare_data.py", "code of prepare_data.py changed, expected"),
        ("lr_find.py", "lr_find.json is to be made anew, expected"),
        ("predict.py", ""),
    ],
)
def test_make_predict_does_not_train_for_an_edit_of_the_code_either(project, script, told):
    (project / script).write_text((project / script).read_text() + "\nchanged = True\n")
    code, steps, line = ask_for_maps(project)
    assert told in line and (code, steps) == ((2, []) if told else (0, ["predict"]))


@pytest.mark.parametrize("tile, refused", [("2_11", True), ("2_13", False)])
def test_make_predict_prepares_nothing_and_refuses_a_model_of_other_raw_tiles(project, tile, refused):
    path = project / f"data/raw/sample/2_Ortho_RGB/top_potsdam_{tile}_RGB.tif"
    path.parent.mkdir(parents=True)
    path.write_text("one")
    about = {"path": str(path.relative_to(project)), "sha256": hashlib.sha256(b"one").hexdigest()}
    stand_in(project, **{tile: {"raw": {"image": about}}})
    make(project, "-t", "report", "PARAMS=demo.yaml")
    path.write_text("two")
    code, steps, told = ask_for_maps(project)
    assert (code, steps) == ((2, []) if refused else (0, ["predict"]))
    assert (f"{path.name} changed, expected" in told) == refused


def test_make_predict_does_what_other_goals_say(project):
    edit(project / "demo.yaml", "  epochs: 18", "  epochs: 3")
    for goal, steps in (("train", STEPS[1:4]), ("evaluate", STEPS[1:5]), ("report", STEPS[1:])):
        done = make(project, "-n", goal, "predict", "PARAMS=demo.yaml")
        assert re.findall(r"(\w+)\.py --params", done.stdout) == steps and "to be made anew" in done.stderr
    code, steps, told = ask_for_maps(project, "prepare")
    assert (code, steps) == (2, []) and "train.epochs: 18 then, 3 now" in told


def test_make_predict_trains_where_no_finished_model_is(project):
    (project / "runs/demo/model.keras").write_text("cut off")
    assert ask_for_maps(project) == (0, STEPS[2:4], "")
    (project / "runs/demo/model.json").unlink()
    edit(project / "demo.yaml", "  epochs: 18", "  epochs: 3")
    assert ask_for_maps(project) == (0, STEPS[1:4], "")


def test_make_predict_needs_the_model_alone(project):
    shutil.rmtree(project / "data")
    (project / "runs/demo/history.csv").unlink()
    assert ask_for_maps(project, "TILE=a.tif") == (0, ["predict"], "")
    shutil.rmtree(project / "runs/demo/.make")  # a run that another machine made
    assert ask_for_maps(project, "TILE=a.tif") == (0, ["predict"], "")


def test_a_runs_folder_is_enough_to_predict_whatever_the_code_is_now(project, tmp_path_factory):
    run = tmp_path_factory.mktemp("elsewhere") / "x"
    shutil.move(project / "runs/demo", run)
    shutil.rmtree(run / ".make")
    shutil.rmtree(project / "data")
    (project / "demo.yaml").rename(run / "params.yaml")
    edit(project / "trainer.py", "import math", "import math, this")
    done = make(project, "-n", "predict", f"PARAMS={run}/params.yaml", "TILE=a.tif")
    assert re.findall(r"(\w+)\.py --params=\"(.*?)\"", done.stdout) == [("predict", f"{run}/.make/x.yaml")]
    assert not (project / "runs/params").exists()


def test_make_predict_looks_for_the_tile_before_it_refuses_the_model(project):
    edit(project / "demo.yaml", "  epochs: 18", "  epochs: 3")
    done = make(project, "predict", "PARAMS=demo.yaml", "TILE=typo", check=False)
    assert 'error: TILE "typo": no such tile or file' in done.stderr and "epochs" not in done.stderr


def test_make_predict_says_of_damaged_records_that_they_are(project):
    edit(project / "demo.yaml", "  epochs: 18", "  epochs: 3")
    for name in ("runs/demo/run.json", "data/prepared/sample/manifest.json"):
        whole = (project / name).read_text()
        (project / name).write_text("{}")
        code, steps, told = ask_for_maps(project)
        assert (code, steps) == (2, []) and f"{name}: damaged, edited or of an earlier version" in told
        (project / name).write_text(whole)


def test_a_model_of_other_classes_is_not_offered_as_it_stands(project):
    edit(project / "demo.yaml", '  classes:\n    impervious: "#ffffff"', '  classes:\n    hard: "#ffffff"')
    _, _, told = ask_for_maps(project)
    assert "data.classes" in told and "make train" in told and "predict.py" not in told


def test_stamps_knows_what_make_makes_a_model_from():
    rules = re.findall(
        r"^(\$\((?:RUN|S)\)/\S+): (\$\(S\)/\w+\.code.*)$", (ROOT / "Makefile").read_text(), re.M
    )
    of = {target: set(re.findall(r"\$\(S\)/[\w.]+", rest)) for target, rest in rules}
    model, finder = of["$(RUN)/model.json"] | of["$(S)/prepared"], of["$(RUN)/lr_find.json"]
    assert {f"$(S)/{name}" for name in stamps.MODEL} == model
    assert {f"$(S)/{name}" for name in stamps.FINDER} == finder - model


def test_blocks_that_are_not_drawn_yet_are_no_failure_and_other_blocks_retrain(project):
    text = (project / "demo.yaml").read_text()
    blocks = "{side: 512, shares: [0.6, 0.2, 0.2], seed: 1, guard: 64}"
    (project / "demo.yaml").write_text(text.replace("  blocks: null", f"  blocks: {blocks}"))
    done = make(project, "-n", "report", "PARAMS=demo.yaml")
    assert "since split.blocks: null then" in done.stderr
    assert would_run(project) == STEPS
    shutil.rmtree(project / "runs")
    shutil.rmtree(project / "data")
    assert would_run(project) == STEPS
