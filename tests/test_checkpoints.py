import contextlib
import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from conftest import ROOT, read_history, run_script, save_settings, write_tile

import prepare_data
import train
from base.problem import Problem
from base.tables import parse_record, read_facts, record_text
from learning.checkpoints import load_checkpoint, save_checkpoint, take_over, work_folder


def final_weights(run):
    _, arrays, _ = load_checkpoint(run / "checkpoints")
    return arrays


def test_a_stopped_run_goes_on_to_the_same_bits(prepared, settings, monkeypatch, capsys):
    settings["train"]["epochs"] = 4
    whole, parts = prepared / "runs/whole", prepared / "runs/parts"
    keras.utils.clear_session()  # which counts what it has named
    train.main(settings, whole)
    keras.utils.clear_session()
    stop_after(monkeypatch, 2, settings, parts)
    assert not (parts / "model.json").exists()
    keras.utils.clear_session()
    train.main(settings, parts)
    assert "going on after epoch 2 of 4" in capsys.readouterr().out
    expected, found = final_weights(whole), final_weights(parts)
    assert all(np.array_equal(expected[name], found[name]) for name in expected) and len(expected) == len(
        found
    )
    assert (whole / "model.keras").read_bytes() == (
        parts / "model.keras"
    ).read_bytes()  # no time of day, no address
    scores = ["epoch", "learning_rate", "momentum", "loss", "mean_iou", "val_loss", "val_mean_iou"]
    assert [[row[s] for s in scores] for row in read_history(whole)] == [
        [row[s] for s in scores] for row in read_history(parts)
    ]


def test_kill_minus_nine_loses_at_most_the_epoch_in_progress(prepared, settings):
    settings["train"]["epochs"] = 6
    save_settings(prepared, settings)
    train.main(settings, prepared / "runs/whole")
    command = [sys.executable, str(ROOT / "train.py"), "--params", "tiny.yaml"]
    process = subprocess.Popen(command, cwd=prepared, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run, deadline = prepared / "runs/tiny", time.monotonic() + 120
    while not list(run.glob("checkpoints/epoch_00002.npz")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (run / "checkpoints/.epoch_00009.tmp123.npz").write_bytes(b"left by a crash")
    assert load_checkpoint(run / "checkpoints")[2]["epoch"] >= 2
    assert run_script("train.py", "--params", "tiny.yaml", cwd=prepared).returncode == 0
    expected, found = final_weights(prepared / "runs/whole"), final_weights(run)
    assert all(np.array_equal(expected[name], found[name]) for name in expected) and len(expected) == len(
        found
    )
    assert [row["epoch"] for row in read_history(run)] == [1, 2, 3, 4, 5, 6]
    assert (run / "model.keras").exists() and not list(run.rglob("*.tmp*"))


def test_what_a_crash_left_undone_after_a_checkpoint_is_made_up_for(prepared, settings, monkeypatch, capsys):
    settings["train"]["epochs"] = 1
    run = prepared / "runs/tiny"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(train, "save_results", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        train.main(settings, run)
    assert not (run / "model.keras").exists() and not (run / "history.csv").exists()
    (run / "model.json").touch()  # as make -t leaves it: no finished run's, whose checkpoints would go
    alter_state(run / "checkpoints/epoch_00001.npz", made_from="another code's")
    train.main(settings, run)
    assert json.loads((run / "model.json").read_text())["epoch"] == 1 and len(read_history(run)) == 1
    assert "going on after epoch 1 of 1; the code has changed" in capsys.readouterr().out


def test_a_damaged_checkpoint_falls_back_to_the_one_before(trained, settings, capsys):
    run = trained / "runs/tiny"
    newest = run / "checkpoints/epoch_00002.npz"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 600] = bytes(600)
    newest.write_bytes(content)
    path, _, state = load_checkpoint(run / "checkpoints")
    assert path.name == "epoch_00001.npz" and state["epoch"] == 1 and "damaged" in capsys.readouterr().out


@pytest.mark.parametrize("at, value", [(6, 209), (8, 1)], ids=["a later version", "a password"])
def test_a_zip_that_claims_what_python_cannot_read_is_a_damaged_checkpoint(tmp_path, at, value):
    path = tmp_path / "epoch_00001.npz"
    np.savez(path, state=np.zeros(3, np.uint8))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + at] = value
    path.write_bytes(content)
    with pytest.raises(Problem, match="all 1 damaged"):
        load_checkpoint(tmp_path)


def test_two_damaged_checkpoints_are_refused_and_nothing_is_lost(trained, settings):
    run = trained / "runs/tiny"
    (run / "model.json").unlink()
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(Problem, match="all 2 damaged") as caught:
        train.main(settings, run)
    assert caught.value.code == 3 and {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_a_checkpoint_of_other_settings_is_refused_by_name(trained, settings):
    run = trained / "runs/tiny"
    (run / "model.json").unlink()  # as if it had been stopped just before the end
    settings["train"]["loss"] = {"focal": 1}
    with pytest.raises(Problem) as caught:
        train.main(settings, run)
    assert caught.value.code == 2
    told = "\n".join(caught.value.lines)
    assert "train.loss.ce: 1 then, null now" in told and "train.loss.focal: null then, 1 now" in told


def test_a_checkpoint_of_other_tiles_is_refused_by_name(trained, settings):
    run = trained / "runs/tiny"
    (run / "model.json").unlink()
    write_tile(trained / "raw", "3_10", (64, 101), seed=3)
    prepare_data.main(settings, run)
    with pytest.raises(Problem, match="tiles.3_10.pixels"):
        train.main(settings, run)


def alter_state(path, **changes):
    """Rewrites a checkpoint with another state."""
    with np.load(path) as file:
        arrays = dict(file)
    state = {**parse_record(arrays["state"].tobytes().decode()), **changes}
    arrays["state"] = np.frombuffer(record_text(state).encode(), np.uint8)
    np.savez(path, **arrays)


def test_where_the_best_epochs_checkpoint_is_damaged_the_one_before_takes_its_place(
    prepared, settings, capsys
):
    run = prepared / "runs/tiny"
    settings["train"]["epochs"] = 3
    train.main(settings, run)
    (run / "model.json").unlink()
    alter_state(run / "checkpoints/epoch_00002.npz", best_epoch=1, best=2.0)
    (run / "checkpoints/epoch_00003.npz").write_bytes(b"PK damaged")
    (run / "model.keras").write_bytes(b"the lost epoch's")
    train.main(settings, run)
    assert "going back to the one before" in capsys.readouterr().out
    scores = [row["val_mean_iou"] for row in read_history(run)]
    about = json.loads((run / "model.json").read_text())
    assert about["val_mean_iou"] == max(scores[1:]) and about["epoch"] == 2 + (scores[2] > scores[1])
    keras.models.load_model(run / "model.keras", compile=False)


@pytest.mark.parametrize("state", [b"[]", b'{"epoch": 1}', b"7", b""])
def test_a_checkpoint_of_something_else_counts_as_damaged(tmp_path, state):
    np.savez(tmp_path / "epoch_00001.npz", state=np.frombuffer(state, np.uint8))
    with pytest.raises(Problem, match="all 1 damaged"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"junk")])
def test_a_best_model_that_went_missing_is_not_signed(trained, settings, damage):
    run = trained / "runs/tiny"
    (run / "model.json").unlink()
    alter_state(
        max((run / "checkpoints").glob("epoch_*.npz")), best_epoch=1
    )  # as if the last had not been the best
    damage(run / "model.keras")
    with pytest.raises(Problem, match="missing or changed, expected the best so far") as caught:
        train.main(settings, run)
    assert caught.value.code == 3 and not (run / "model.json").exists()


# -- beside a finished training


def bytes_of(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def stop_after(monkeypatch, epochs, *arguments):
    """Trains, and stops after so many epochs."""
    saved = []

    def save(*its):
        save_checkpoint(*its)
        saved.append(1)
        if len(saved) == epochs:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(train, "save_checkpoint", save)
        train.main(*arguments)


def test_a_finished_training_stays_until_the_new_one_is_finished(trained, settings, monkeypatch, capsys):
    run, other = trained / "runs/tiny", copy.deepcopy(settings)
    before = bytes_of(run)
    other["train"].update(epochs=3, loss={"focal": 1})
    capsys.readouterr()
    keras.utils.clear_session()
    stop_after(monkeypatch, 1, other, run)
    told = capsys.readouterr().out
    assert (
        "to be made anew, since train.epochs: 2 then, 3 now" in told
        and "stopped after 1 whole epochs" in told
    )
    assert {path: content for path, content in bytes_of(run).items() if "next" not in path.parts} == before
    train.main(settings, run)  # set back
    assert re.search("finished already.*\nan unfinished training .*next", capsys.readouterr().out)
    third = copy.deepcopy(other)
    third["train"]["epochs"] = 4
    with pytest.raises(Problem, match="train.epochs: 3 then, 4 now(.|\n)*remove .*runs/tiny/next$") as caught:
        train.main(third, run)
    assert caught.value.code == 2
    assert {path: content for path, content in bytes_of(run).items() if "next" not in path.parts} == before
    keras.utils.clear_session()
    train.main(other, run)
    assert "going on after epoch 1 of 3" in capsys.readouterr().out and not (run / "next").exists()
    assert [row["epoch"] for row in read_history(run)] == [1, 2, 3]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "epoch_00002.npz",
        "epoch_00003.npz",
    ]
    keras.utils.clear_session()
    train.main(other, trained / "runs/fresh")
    assert (run / "model.keras").read_bytes() == (trained / "runs/fresh/model.keras").read_bytes()
    assert read_facts(run)["made_from"] == read_facts(trained / "runs/fresh")["made_from"]


def test_a_finished_training_of_an_earlier_version_stays_too(tmp_path):
    path = tmp_path / "model.json"
    path.write_text(json.dumps({"sha256": "0" * 64, "made_from": "1"}))  # without a digest of its own
    assert work_folder(tmp_path, "2") == tmp_path / "next"
    for nothing in ("", "{", "[]"):  # make -t, say
        path.write_text(nothing)
        assert work_folder(tmp_path, "2") == tmp_path


@pytest.mark.parametrize("board", [True, False])
@pytest.mark.parametrize("at", range(1, 8))
def test_a_new_training_takes_the_place_of_the_old_one_although_it_is_killed_on_the_way(
    tmp_path, monkeypatch, at, board
):
    for folder, content in ((tmp_path, "old"), (tmp_path / "next", "new")):
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "tensorboard").mkdir()
        parts = (f"checkpoints/{content}", "tensorboard/events")
        for name in ("model.keras", "history.csv", "model.json", *parts):
            (folder / name).write_text(content)
    if not board:
        shutil.rmtree(tmp_path / "next/tensorboard")
    left, do = [at], os.replace

    def killed(*paths):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        do(*paths)

    with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
        patched.setattr(os, "replace", killed)
        take_over(tmp_path)
    whole = (tmp_path / "model.json").read_text() == "new"  # it comes last
    assert not whole or not (tmp_path / "next").exists()
    take_over(tmp_path)
    assert {path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == {"new"}
    assert not (tmp_path / "next").exists() and (tmp_path / "checkpoints/new").exists()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.glob("tensorboard*/*")] == ["events"] * board
    assert (tmp_path / "tensorboard").exists() == board


def test_what_is_not_finished_takes_no_place(tmp_path):
    (tmp_path / "next").mkdir()
    (tmp_path / "next/model.keras").write_text("new")
    take_over(tmp_path)
    assert (tmp_path / "next/model.keras").exists() and not (tmp_path / "model.keras").exists()
