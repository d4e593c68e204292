import csv
import json
import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from conftest import ROOT, read_history, run_script, save_settings
from pretrained import LITE0, on_small_encoder, write_small_encoder

import lr_find
import prepare_data
import train
from base.files import sha256
from base.problem import Problem
from imagery.tiles import manifest_text, read_manifest
from learning import records
from learning.checkpoints import load_checkpoint
from trainer import Trainer


def test_a_run_writes_what_it_promises_and_ends_with_model_json(trained, settings):
    run = trained / "runs/tiny"
    rows = read_history(run)
    assert list(rows[0]) == train.COLUMNS and [row["epoch"] for row in rows] == [1, 2]
    assert all(np.isfinite(list(row.values())).all() and 0 <= row["waiting"] <= 1 for row in rows)
    facts = json.loads((run / "model.json").read_text())
    assert facts["classes"] == settings["data"]["classes"] and facts[
        "ground_sample_distance"
    ] == pytest.approx(0.05)
    assert facts["val_mean_iou"] == max(row["val_mean_iou"] for row in rows)
    tiles = read_manifest("prepared")["tiles"]
    assert facts["trained_on"] == {tile: tiles[tile]["pixels_sha256"] for tile in ("2_11", "3_10")}
    assert facts["chosen_on"] == {"2_10": tiles["2_10"]["pixels_sha256"]}
    assert len(list((run / "checkpoints").glob("*.npz"))) == 2
    about = json.loads((run / "run.json").read_text())
    assert (
        about["seed"] == 1 and set(about["tiles"]) == {"2_11", "3_10", "2_10"} and about["versions"]["keras"]
    )
    with open(run / "schedule.csv", newline="") as file:
        schedule = list(csv.DictReader(file))
    assert float(schedule[0]["learning_rate"]) == pytest.approx(0.05 / 25) and float(
        schedule[0]["momentum"]
    ) == pytest.approx(0.95)


@pytest.mark.parametrize("sign, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_sigterm_and_ctrl_c_keep_the_last_epoch_and_say_how_to_go_on(prepared, settings, sign, code):
    settings["train"]["epochs"] = 200
    save_settings(prepared, settings)
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # which whoever started the tests may have ignored
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "--params", "tiny.yaml"],
        cwd=prepared,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(prepared.glob("runs/tiny/checkpoints/epoch_*.npz")) and time.monotonic() < deadline:
        time.sleep(0.05)
    busy = run_script("train.py", "--params", "tiny.yaml", cwd=prepared) if code == 143 else None
    process.send_signal(sign)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code and "the same command goes on" in err and "Traceback" not in err
    kept = load_checkpoint(prepared / "runs/tiny/checkpoints")[2]["epoch"]
    assert f"stopped after {kept} whole epochs" in out and kept >= 1
    if busy:  # a second run in the same folder
        assert busy.returncode == 75 and "busy folder" in busy.stderr


@pytest.mark.parametrize("role, script", [("train", train), ("val", train), ("train", lr_find)])
def test_tiles_without_a_label_are_not_trained_on(prepared, settings, role, script):
    path = prepared / "prepared/manifest.json"
    manifest = json.loads(path.read_text())
    for tile in settings["split"][role]:
        manifest["tiles"][tile]["classes"] = dict.fromkeys(settings["data"]["classes"], 0)
    path.write_text(manifest_text(manifest["tiles"]))
    with pytest.raises(Problem, match=f"split.{role} .*: no pixel of any class"):
        script.main(settings, prepared / "runs/tiny")


@pytest.mark.parametrize(
    "content", ["[]", '{"suggestion": null}', '{"suggestion": NaN}', '{"suggestion": -1}', ""]
)
def test_a_damaged_suggestion_is_one_line(prepared, settings, content):
    settings["train"]["max_lr"] = "auto"
    run = prepared / "runs/tiny"
    run.mkdir(parents=True)
    (run / "lr_find.json").write_text(content)
    with pytest.raises(Problem, match="expected it as lr_find.py writes it; run lr_find.py again"):
        train.main(settings, run)


def test_a_finished_run_is_left_alone_until_something_changed(trained, settings, capsys):
    run = trained / "runs/tiny"
    before = (run / "model.keras").stat().st_mtime_ns
    train.main(settings, run)
    assert (
        "finished already" in capsys.readouterr().out and (run / "model.keras").stat().st_mtime_ns == before
    )
    settings["train"]["epochs"] = 1
    train.main(settings, run)
    assert len(read_history(run)) == 1 and [p.name for p in (run / "checkpoints").iterdir()] == [
        "epoch_00001.npz"
    ]


def test_what_has_no_data_elsewhere_is_no_reason_to_train_anew(trained, settings):
    run = trained / "runs/tiny"
    before = {name: (run / name).stat().st_mtime_ns for name in ("model.keras", "history.csv")}
    settings["data"]["nodata"] = "#000000"  # in no tile
    prepare_data.main(settings, run)
    assert records.why_anew(settings, run) is None
    train.main(settings, run)
    assert {name: (run / name).stat().st_mtime_ns for name in before} == before


def test_a_refused_setting_leaves_a_finished_run_whole(trained, settings):
    run = trained / "runs/tiny"
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}
    for changes in (
        {"input": {"patch_size": 32, "batch_size": 400, "stride": "random", "aim": {}}},
        {"train": {**settings["train"], "max_lr": "auto"}},
    ):
        with pytest.raises(Problem):
            train.main({**settings, **changes}, run)
        assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"} == before


def test_divergence_is_exit_code_5_and_leaves_the_best_model(trained, settings):
    run = trained / "runs/tiny"
    before = (run / "model.keras").read_bytes()
    settings["train"].update(max_lr=1000, momentum=[0.99, 0.99])
    with pytest.raises(Problem) as caught:
        train.main(settings, run)
    assert caught.value.code == 5
    assert "epoch 1, step" in caught.value.lines[0] and "learning rate" in caught.value.lines[0]
    assert (run / "model.keras").read_bytes() == before


def test_an_infinite_validation_loss_is_divergence_too(prepared, settings, monkeypatch):
    run = prepared / "runs/tiny"
    monkeypatch.setattr(Trainer, "validate", lambda *_: (float("nan"), np.eye(6, dtype=int)))
    with pytest.raises(Problem, match="validation loss nan in epoch 1"):
        train.main(settings, run)
    assert not (run / "model.keras").exists() and not list(run.glob("checkpoints/*"))


def test_a_machine_without_git_trains_all_the_same(prepared, settings, monkeypatch):
    monkeypatch.setenv("PATH", str(prepared / "empty"))
    train.main(settings, prepared / "runs/tiny")
    about = json.loads((prepared / "runs/tiny/run.json").read_text())
    assert about["commit"] is None and about["dirty"] is None and about["finished"] >= about["started"]


def test_early_stopping_counts_epochs_without_a_better_score():
    state = {"epoch": 7, "best_epoch": 4}
    assert train.stops_early(state, {"early_stopping": 3}) and not train.stops_early(
        state, {"early_stopping": 4}
    )
    assert not train.stops_early(state, {"early_stopping": 0})


def test_a_batch_larger_than_an_epoch_is_refused(prepared, settings):
    settings["input"]["batch_size"] = 1000
    with pytest.raises(Problem, match="expected at most the 17 patches"):
        train.main(settings, prepared / "runs/tiny")


def test_auto_without_the_finders_result_says_what_to_run(prepared, settings):
    settings["train"]["max_lr"] = "auto"
    save_settings(prepared, settings)
    done = run_script("train.py", "--params", "tiny.yaml", cwd=prepared)
    assert done.returncode == 3 and "lr_find.json: missing" in done.stderr and done.stderr.count("\n") == 1


def test_tensorboard_is_asked_for_by_name_where_it_is_missing_and_changes_no_training(
    prepared, settings, monkeypatch
):
    run = prepared / "runs/tiny"
    settings["train"]["tensorboard"] = True
    with (
        monkeypatch.context() as patched,
        pytest.raises(Problem, match="package tensorboard: not installed") as caught,
    ):
        patched.setattr(records, "find_spec", lambda name: None)
        train.main(settings, run)
    assert caught.value.code == 4 and not list(run.glob("checkpoints/*"))
    settings["train"]["tensorboard"] = False
    train.main(settings, run)
    settings["train"]["tensorboard"] = True
    before = (run / "model.keras").stat().st_mtime_ns
    train.main(settings, run)
    assert (run / "model.keras").stat().st_mtime_ns == before


def test_tensorboard_gets_every_epoch_once(prepared, settings):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings["train"]["tensorboard"] = True
    train.main(settings, prepared / "runs/tiny")
    (prepared / "runs/tiny/model.json").unlink()  # stopped before its end: begun anew from the history
    events = EventAccumulator(str(prepared / "runs/tiny/tensorboard")).Reload()
    assert set(events.Tags()["tensors"]) == set(train.COLUMNS[1:])
    assert [event.step for event in events.Tensors("val_mean_iou")] == [1, 2]


def test_device_memory_that_runs_out_is_one_line(prepared, settings, monkeypatch):
    (prepared / "oom.py").write_text(
        "import sys, train, trainer\n"
        "from base.command import command\n"
        "def full(*_):\n    raise trainer.tf.errors.ResourceExhaustedError(None, None, 'OOM')\n"
        "train.Trainer.train_step = full\ncommand(train.main, '')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "oom.py", "--params", "tiny.yaml"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 4 and done.stderr.count("\n") == 1 and "input.batch_size" in done.stderr


@pytest.mark.parametrize("gone", [["history.csv"], ["params.yaml", "run.json", "schedule.csv"]])
def test_records_of_a_finished_run_come_back_from_its_last_checkpoint(trained, settings, gone):
    run = trained / "runs/tiny"
    keras.utils.clear_session()
    kept = {
        name: (run / name).read_bytes()
        for name in ("history.csv", "schedule.csv", "params.yaml", "model.keras")
    }
    for name in gone:
        (run / name).unlink()
    keras.utils.clear_session()
    train.main(settings, run)
    assert {name: (run / name).read_bytes() for name in kept} == kept and not (run / "next").exists()
    assert records.training_stands(settings, run)


# -- first weights from another run -----------------------------------------------------------------------


def test_a_training_from_another_runs_model_stands_and_names_the_tiles_behind_it(trained, settings, capsys):
    earlier, tiles = trained / "runs/tiny", read_manifest("prepared")["tiles"]
    settings["split"] = {"train": ["2_13"], "val": ["3_10"], "test": ["2_11"]}
    settings["train"].update(start_from="runs/tiny/model.keras", epochs=1)
    train.main(settings, trained / "runs/second")
    said = capsys.readouterr().out
    assert "warning: test tiles: 1 of 1 (2_11) trained or chose the weights of runs/tiny/model.keras" in said
    assert "first weights from runs/tiny/model.keras" in said
    facts = json.loads((trained / "runs/second/model.json").read_text())
    seen = ("2_11", "3_10", "2_10")  # of which one is a test tile now
    assert facts["started_on"] == {f"raw/{tile}": tiles[tile]["pixels_sha256"] for tile in seen}
    assert facts["first_weights"] == json.loads((earlier / "model.json").read_text())["sha256"]
    train.main(settings, trained / "runs/second")
    assert "finished already" in capsys.readouterr().out
    (earlier / "model.json").rename(trained / "away.json")  # gone: no reason to train anew
    assert records.why_anew(settings, trained / "runs/second") is None
    with pytest.raises(Problem, match="train.start_from: runs/tiny/model.keras, the model of this run"):
        train.main(settings, earlier)


def test_more_epochs_on_a_finished_run_say_what_happens_before_it_happens(trained, settings):
    settings["train"]["epochs"] = 9
    line = records.why_anew(settings, trained / "runs/tiny")
    assert "train.epochs: 2 then, 9 now" in line and "its model stays until the new one is finished" in line
    assert "name it as train.start_from" in line and "tiny/model.keras" in line


# -- a pretrained encoder ---------------------------------------------------------------------------------


@pytest.fixture
def on_encoder(prepared, monkeypatch, settings):
    """Settings of a training on the small encoder, from a file of weights, at first frozen."""
    write_small_encoder("a.pth")
    on_small_encoder(monkeypatch, settings)["model"]["weights"] = "a.pth"
    settings["train"].update(epochs=3, freeze_epochs=2, ema=0.5)
    settings["input"].update(patch_size=64)
    return settings


def train_afresh(settings, run):
    keras.utils.clear_session()  # which counts what it has named
    train.main(settings, run)


def test_a_frozen_training_that_was_stopped_goes_on_to_the_same_bits(
    prepared, on_encoder, monkeypatch, capsys, eagerly
):
    whole, parts, settings = prepared / "runs/whole", prepared / "runs/parts", on_encoder
    train_afresh(settings, whole)
    assert capsys.readouterr().out.count("first weights of the encoder from a.pth; it sees bands") == 1
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(train, "stops_early", lambda state, _: stop() if state["epoch"] == 1 else False)
        train_afresh(settings, parts)
    capsys.readouterr()
    train_afresh(settings, parts)
    said = capsys.readouterr().out
    assert "going on after epoch 1 of 3" in said and "first weights" not in said
    arrays = [load_checkpoint(run / "checkpoints")[1] for run in (whole, parts)]
    assert all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[0])
    assert (whole / "model.keras").read_bytes() == (parts / "model.keras").read_bytes()
    loaded = keras.models.load_model(whole / "model.keras", compile=False)
    assert all(layer.trainable for layer in loaded.layers)
    facts = json.loads((whole / "model.json").read_text())
    assert (facts["encoder"], facts["rgb"]) == (LITE0, [1, 2, 3])
    assert facts["weights"] == {"source": "a.pth", "sha256": sha256("a.pth")}
    check_file_of_finished(settings, whole, capsys)


def stop():
    raise KeyboardInterrupt


def check_file_of_finished(settings, run, capsys):
    """What a training says of its file of weights afterwards."""
    os.rename("a.pth", "b.pth")  # gone: no reason to train anew
    assert records.why_anew(settings, run) is None
    train.main(settings, run)
    assert "finished already" in capsys.readouterr().out
    write_small_encoder("a.pth", seed=1)
    assert "since weights of the encoder changed; the last one" in records.why_anew(settings, run)
    settings["train"]["epochs"] = 1
    os.remove("a.pth")
    with pytest.raises(Problem, match="model.weights: a.pth: no such file") as caught:
        train.main(settings, run)
    assert caught.value.code == 3 and not (run / "next").exists()


def test_the_finder_sweeps_the_rate_of_a_network_on_an_encoder(prepared, on_encoder, eagerly, capsys):
    on_encoder["lr_find"].update(start=1e-4, end=1, steps=10)
    for said in ("first weights of the encoder from a.pth", "stands already"):
        lr_find.main(on_encoder, prepared / "runs/tiny")
        assert said in capsys.readouterr().out
    assert 1e-5 < json.loads((prepared / "runs/tiny/lr_find.json").read_text())["suggestion"] < 1


@pytest.mark.parametrize("script", [train, lr_find])
def test_a_file_that_is_no_weights_leaves_nothing_behind(prepared, on_encoder, script):
    (prepared / "a.pth").write_bytes((prepared / "a.pth").read_bytes()[:-10])
    with pytest.raises(Problem, match="weights a.pth: cut after") as caught:
        script.main(on_encoder, prepared / "runs/tiny")
    assert caught.value.code == 3 and [path.name for path in (prepared / "runs/tiny").iterdir()] == [".lock"]


@pytest.mark.parametrize("script", [train, lr_find])
def test_missing_weights_are_told_before_any_tile_is_read(project, monkeypatch, settings, script):
    on_small_encoder(monkeypatch, settings)["model"]["weights"] = "a.pth"
    with pytest.raises(Problem, match="settings, key model.weights: a.pth: no such file"):
        script.main(settings, project / "runs/tiny")  # where no tile is prepared


@pytest.mark.parametrize("pixels, told", [(999, "warning: temperature of the network: 1"), (1000, "1.5 in")])
def test_a_temperature_is_told_and_so_is_that_there_is_none(tmp_path, monkeypatch, capsys, pixels, told):
    fitted = {"one_view": 1.5, "eight_views": 1.2, "pixels": pixels}
    monkeypatch.setattr(train, "answer_of", lambda path: path)
    monkeypatch.setattr(train, "fit_temperatures", lambda answer, tiles, patch_size: fitted)
    assert train.temperatures(tmp_path, [], {"patch_size": 32}) == fitted
    line = capsys.readouterr().out
    assert told in line and f"{pixels:,}" in line and line.count("\n") == 1
