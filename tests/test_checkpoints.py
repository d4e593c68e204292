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
from conftest import ROOT, run_script, save_settings, write_tile
from hypothesis import given
from hypothesis import strategies as st

import lr_find
import prepare_data
import train
import trainer
from base.problem import Problem
from imagery.tiles import manifest_text, pack, read_manifest
from learning import records
from learning.checkpoints import load_checkpoint, save_checkpoint
from learning.workers import choose_strategy
from trainer import Trainer, class_weights, tf


@pytest.fixture
def prepared(project, settings):
    prepare_data.main(settings, project / "runs/tiny")
    return project


def read_history(run):
    with open(run / "history.csv", newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def final_weights(run):
    _, arrays, _ = load_checkpoint(run / "checkpoints")
    return arrays


def test_the_network_learns_one_batch_by_heart(settings):
    settings["train"].update(optimizer="adamw", loss={"ce": 1, "jaccard": 1})
    trainer = Trainer(settings, 0.01, 0.9, choose_strategy())
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    labels = (images[..., 0] // 43).clip(0, 5).astype(np.uint8)
    pixels = pack(images.reshape(32, 16, 3), labels.reshape(32, 16)).reshape(2, 16, 16, 4)
    for _ in range(150):
        loss, confusion = trainer.train_step(pixels)
    assert np.trace(confusion.numpy()) / confusion.numpy().sum() > 0.98


def test_a_run_writes_what_it_promises_and_ends_with_model_json(prepared, settings):
    run = prepared / "runs/tiny"
    train.main(settings, run)
    rows = read_history(run)
    assert list(rows[0]) == train.COLUMNS and [row["epoch"] for row in rows] == [1, 2]
    assert all(np.isfinite(list(row.values())).all() and 0 <= row["waiting"] <= 1 for row in rows)
    facts = json.loads((run / "model.json").read_text())
    assert facts["classes"] == settings["data"]["classes"] and facts["ground_sample_distance"] == pytest.approx(0.05)
    assert facts["val_mean_iou"] == max(row["val_mean_iou"] for row in rows)
    assert len(list((run / "checkpoints").glob("*.npz"))) == 2
    about = json.loads((run / "run.json").read_text())
    assert about["seed"] == 1 and set(about["tiles"]) == {"2_11", "3_10", "2_10"} and about["versions"]["keras"]
    with open(run / "schedule.csv", newline="") as file:
        schedule = list(csv.DictReader(file))
    assert float(schedule[0]["learning_rate"]) == pytest.approx(0.05 / 25) and float(
        schedule[0]["momentum"]
    ) == pytest.approx(0.95)


def test_a_stopped_run_goes_on_to_the_same_bits(prepared, settings, monkeypatch, capsys):
    settings["train"]["epochs"] = 4
    whole, parts = prepared / "runs/whole", prepared / "runs/parts"
    keras.utils.clear_session()  # which counts what it has named
    train.main(settings, whole)
    keras.utils.clear_session()
    saved = []

    def stop_after_two(*arguments):
        save_checkpoint(*arguments)
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(train, "save_checkpoint", stop_after_two)
        train.main(settings, parts)
    assert not (parts / "model.json").exists()
    keras.utils.clear_session()
    train.main(settings, parts)
    assert "going on after epoch 2 of 4" in capsys.readouterr().out
    expected, found = final_weights(whole), final_weights(parts)
    assert all(np.array_equal(expected[name], found[name]) for name in expected) and len(expected) == len(found)
    assert (whole / "model.keras").read_bytes() == (parts / "model.keras").read_bytes()  # no time of day, no address
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
    assert all(np.array_equal(expected[name], found[name]) for name in expected) and len(expected) == len(found)
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
    alter_state(run / "checkpoints/epoch_00001.npz", stamp="another code's")
    train.main(settings, run)
    assert json.loads((run / "model.json").read_text())["epoch"] == 1 and len(read_history(run)) == 1
    assert "going on after epoch 1 of 1; the code has changed" in capsys.readouterr().out


@pytest.mark.parametrize("sign, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_sigterm_and_ctrl_c_keep_the_last_epoch_and_say_how_to_go_on(prepared, settings, sign, code):
    settings["train"]["epochs"] = 200
    save_settings(prepared, settings)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which whoever started the tests may have ignored
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


def test_a_damaged_checkpoint_falls_back_to_the_one_before(prepared, settings, capsys):
    run = prepared / "runs/tiny"
    train.main(settings, run)
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


def test_two_damaged_checkpoints_are_refused_and_nothing_is_lost(prepared, settings):
    run = prepared / "runs/tiny"
    train.main(settings, run)
    (run / "model.json").unlink()
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(Problem, match="all 2 damaged") as caught:
        train.main(settings, run)
    assert caught.value.code == 3 and {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_a_checkpoint_of_other_settings_is_refused_by_name(prepared, settings):
    run = prepared / "runs/tiny"
    train.main(settings, run)
    (run / "model.json").unlink()  # as if it had been stopped just before the end
    settings["train"]["loss"] = {"focal": 1}
    with pytest.raises(Problem) as caught:
        train.main(settings, run)
    assert caught.value.code == 2
    told = "\n".join(caught.value.lines)
    assert "train.loss.ce: 1 then, null now" in told and "train.loss.focal: null then, 1 now" in told


def test_a_checkpoint_of_other_tiles_is_refused_by_name(prepared, settings):
    run = prepared / "runs/tiny"
    train.main(settings, run)
    (run / "model.json").unlink()
    write_tile(prepared / "raw", "3_10", (64, 101), seed=3)
    prepare_data.main(settings, run)
    with pytest.raises(Problem, match="tiles.3_10.pixels"):
        train.main(settings, run)


def alter_state(path, **changes):
    """Rewrites a checkpoint with another state."""
    with np.load(path) as file:
        arrays = dict(file)
    state = {**json.loads(arrays["state"].tobytes()), **changes}
    arrays["state"] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    np.savez(path, **arrays)


def test_where_the_best_epochs_checkpoint_is_damaged_the_one_before_takes_its_place(prepared, settings, capsys):
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
    train.tf.keras.models.load_model(run / "model.keras", compile=False)


@pytest.mark.parametrize("state", [b"[]", b'{"epoch": 1}', b"7", b""])
def test_a_checkpoint_of_something_else_counts_as_damaged(tmp_path, state):
    np.savez(tmp_path / "epoch_00001.npz", state=np.frombuffer(state, np.uint8))
    with pytest.raises(Problem, match="all 1 damaged"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("role, script", [("train", train), ("val", train), ("train", lr_find)])
def test_tiles_without_a_label_are_not_trained_on(prepared, settings, role, script):
    path = prepared / "prepared/manifest.json"
    manifest = json.loads(path.read_text())
    for tile in settings["split"][role]:
        manifest["tiles"][tile]["classes"] = dict.fromkeys(settings["data"]["classes"], 0)
    path.write_text(manifest_text(manifest["tiles"]))
    with pytest.raises(Problem, match=f"split.{role} .*: no pixel of any class"):
        script.main(settings, prepared / "runs/tiny")


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"junk")])
def test_a_best_model_that_went_missing_is_not_signed(prepared, settings, damage):
    run = prepared / "runs/tiny"
    train.main(settings, run)
    (run / "model.json").unlink()
    alter_state(max((run / "checkpoints").glob("epoch_*.npz")), best_epoch=1)  # as if the last had not been the best
    damage(run / "model.keras")
    with pytest.raises(Problem, match="missing or changed, expected the best so far") as caught:
        train.main(settings, run)
    assert caught.value.code == 3 and not (run / "model.json").exists()


@pytest.mark.parametrize("content", ["[]", '{"suggestion": null}', '{"suggestion": NaN}', '{"suggestion": -1}', ""])
def test_a_damaged_suggestion_is_one_line(prepared, settings, content):
    settings["train"]["max_lr"] = "auto"
    run = prepared / "runs/tiny"
    run.mkdir(parents=True)
    (run / "lr_find.json").write_text(content)
    with pytest.raises(Problem, match="remove it and run lr_find.py again"):
        train.main(settings, run)


def test_a_finished_run_is_left_alone_until_something_changed(prepared, settings, capsys):
    run = prepared / "runs/tiny"
    train.main(settings, run)
    before = (run / "model.keras").stat().st_mtime_ns
    train.main(settings, run)
    assert "finished already" in capsys.readouterr().out and (run / "model.keras").stat().st_mtime_ns == before
    settings["train"]["epochs"] = 1
    train.main(settings, run)
    assert len(read_history(run)) == 1 and [p.name for p in (run / "checkpoints").iterdir()] == ["epoch_00001.npz"]


def test_a_refused_setting_leaves_a_finished_run_whole(prepared, settings):
    run = prepared / "runs/tiny"
    train.main(settings, run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}
    for changes in (
        {"input": {"patch_size": 32, "batch_size": 400, "stride": "random", "aim": {}}},
        {"train": {**settings["train"], "max_lr": "auto"}},
    ):
        with pytest.raises(Problem):
            train.main({**settings, **changes}, run)
        assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"} == before


def test_divergence_is_exit_code_5_and_leaves_the_best_model(prepared, settings):
    run = prepared / "runs/tiny"
    train.main(settings, run)
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
    assert train.stops_early(state, {"early_stopping": 3}) and not train.stops_early(state, {"early_stopping": 4})
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


# -- what settings add to an update


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    labels = (images[..., 0] // 43).clip(0, 5).astype(np.uint8)
    return pack(images.reshape(64, 16, 3), labels.reshape(64, 16)).reshape(4, 16, 16, 4)


def test_the_average_follows_the_weights_and_is_what_validates_and_is_saved(prepared, settings, batch, monkeypatch):
    settings["train"]["ema"] = 0.5
    trainer = Trainer(settings, 0.05, 0.9, choose_strategy())
    mean = [variable.numpy() for variable in trainer.network.variables]
    for step in range(1, 13):
        trainer.train_step(batch)
        keep = min(0.5, (1 + step) / (10 + step))
        mean = [keep * m + (1 - keep) * v.numpy() for m, v in zip(mean, trainer.network.variables)]
    for expected, found in zip(mean, trainer.averaged.variables):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    shown = np.argmax(trainer.averaged(batch[..., :3]), -1)
    counts = np.zeros((6, 6), int)
    np.add.at(counts, (batch[..., 3], shown), 1)
    np.testing.assert_array_equal(trainer.validate([batch])[1], counts)
    assert (np.argmax(trainer.network(batch[..., :3]), -1) != shown).any()
    monkeypatch.setattr(train, "Trainer", lambda *_: trainer)
    train.main(settings, prepared / "runs/tiny")
    loaded = train.tf.keras.models.load_model(prepared / "runs/tiny/model.keras", compile=False)
    arrays = load_checkpoint(prepared / "runs/tiny/checkpoints")[1]
    best = json.loads((prepared / "runs/tiny/model.json").read_text())["epoch"]
    if best == settings["train"]["epochs"]:
        assert all(np.array_equal(w, arrays[f"averaged_{i}"]) for i, w in enumerate(loaded.get_weights()))


def test_the_norm_of_all_gradients_together_is_clipped(settings, batch):
    settings["train"].update(clip_norm=1e-3)
    trainer = Trainer(settings, 1.0, 0.0, choose_strategy())
    before = [variable.numpy() for variable in trainer.network.trainable_variables]
    trainer.train_step(batch)
    moved = [v.numpy() - b for v, b in zip(trainer.network.trainable_variables, before)]
    assert np.sqrt(sum((m.astype(float) ** 2).sum() for m in moved)) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("precision", [True, "bfloat16"])
def test_every_loss_is_finite_in_mixed_precision(settings, batch, precision):
    losses = {name: 1 for name in ("ce", "focal", "jaccard", "dice", "lovasz")}
    settings["train"].update(mixed_precision=precision, loss=losses, clip_norm=1, ema=0.9, max_lr=0.01)
    trainer = Trainer(settings, 0.01, 0.9, choose_strategy())
    values = [float(trainer.train_step(batch)[0]) for _ in range(8)]
    tf.keras.mixed_precision.set_global_policy("float32")
    assert np.isfinite(values).all() and values[-1] < values[0]
    assert all(np.isfinite(variable.numpy()).all() for variable in trainer.network.variables)
    assert trainer.network.output.dtype == "float32"


def test_class_weights_come_from_the_training_tiles_or_from_the_settings(prepared, settings):
    assert class_weights(settings) is None
    settings["train"]["class_weights"] = 1
    tiles = read_manifest("prepared")["tiles"]
    counts = [tiles["2_11"]["classes"][name] + tiles["3_10"]["classes"][name] for name in settings["data"]["classes"]]
    products = np.multiply(class_weights(settings), counts)
    np.testing.assert_allclose(products, products[0])
    settings["train"]["class_weights"] = {name: i for i, name in enumerate(settings["data"]["classes"])}
    assert class_weights(settings) == [0, 1, 2, 3, 4, 5]


def test_tensorboard_is_asked_for_by_name_where_it_is_missing_and_changes_no_training(prepared, settings, monkeypatch):
    run = prepared / "runs/tiny"
    settings["train"]["tensorboard"] = True
    with monkeypatch.context() as patched, pytest.raises(Problem, match="package tensorboard: not installed") as caught:
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
        "import sys, train\n"
        "from command import command\n"
        "def full(*_):\n    raise train.tf.errors.ResourceExhaustedError(None, None, 'OOM when allocating tensor')\n"
        "train.Trainer.train_step = full\ncommand(train.main, '')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "oom.py", "--params", "tiny.yaml"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 4 and done.stderr.count("\n") == 1 and "input.batch_size" in done.stderr


# -- the finder


def test_smoothing_does_not_lag():
    np.testing.assert_allclose(lr_find.smooth([2.0, 2.0, 2.0], 1), 2.0)
    np.testing.assert_allclose(lr_find.smooth(np.arange(50.0), 2)[10:-10], np.arange(50.0)[10:-10])
    near, far = np.exp(-1 / 2), np.exp(-4 / 2)
    np.testing.assert_allclose(lr_find.smooth([1.0, 3.0, 7.0], 1)[0], (1 + 3 * near + 7 * far) / (1 + near + far))
    assert lr_find.smooth([1.0, 2.0], 9).shape == (2,)


def test_suggestions_on_a_curve_known_by_hand():
    rates = np.logspace(-4, 1, 101)
    decade = np.log10(rates)
    loss = 2 - np.tanh(3 * (decade + 2)) + 4 * np.maximum(decade - 0, 0)  # steepest at 1e-2, lowest at 1
    steepest, tenth = lr_find.suggest(rates, loss)
    end = -2 + np.arctanh(0.9) / 3  # the valley ends a twentieth of the fall, of 2, above its lowest point
    assert steepest == pytest.approx(1e-2, rel=0.15)
    assert np.log10(tenth) == pytest.approx((end + 0.1 / 4) / 2 - 1, abs=0.05)


@given(st.integers(0, 1000))
def test_the_suggestion_hardly_moves_with_the_chance_in_a_flat_valley(seed):
    rates = np.logspace(-4, 1, 100)
    decade = np.log10(rates)
    clean = np.where(decade < -1.5, 1.5 - 1.2 * np.tanh(2 * (decade + 2.5)), 0.34) + 9 * np.maximum(decade - 0.3, 0)
    noisy = clean + np.random.default_rng(seed).normal(scale=0.03, size=100)
    suggestions = [lr_find.suggest(rates, lr_find.smooth(loss, 3))[1] for loss in (clean, noisy)]
    assert 0.8 < suggestions[1] / suggestions[0] < 1.25


@pytest.mark.parametrize("loss", [np.linspace(1, 9, 50), np.full(50, 1.79), 1.79 + 0.02 * np.sin(np.arange(50))])
def test_a_loss_that_does_not_fall_gives_no_suggestion(loss):
    with pytest.raises(Problem, match="hardly fell"):
        lr_find.suggest(np.logspace(-4, 0, 50), lr_find.smooth(loss, 2))


@pytest.mark.parametrize("loss", ["focal", "jaccard", "dice", "lovasz"])
def test_the_finder_works_for_every_loss(prepared, settings, loss):
    settings["train"]["loss"] = {loss: 1}
    settings["input"]["patch_size"] = 16
    lr_find.main(settings, prepared / "runs/tiny")
    assert 1e-5 < json.loads((prepared / "runs/tiny/lr_find.json").read_text())["suggestion"] < 1


def test_the_finder_is_repeatable_and_writes_curve_suggestion_and_picture(prepared, settings):
    first, second = prepared / "runs/a", prepared / "runs/b"
    for run in (first, second):
        lr_find.main(settings, run)
    before = (first / "lr_find.csv").stat().st_mtime_ns
    lr_find.main(settings, first)  # stands already
    assert (first / "lr_find.csv").stat().st_mtime_ns == before
    assert (first / "lr_find.csv").read_bytes() == (second / "lr_find.csv").read_bytes()
    rows = (first / "lr_find.csv").read_text().splitlines()
    assert rows[0] == "learning_rate,loss,smoothed" and len(rows) > 10
    assert 1e-5 < json.loads((first / "lr_find.json").read_text())["suggestion"] < 1
    assert (first / "lr_find.png").read_bytes().startswith(b"\x89PNG")


def test_only_the_time_spent_waiting_for_data_is_counted():
    def slow():
        for item in range(3):
            time.sleep(0.05)
            yield item

    feed = trainer.Timed(slow())
    for _ in feed:
        time.sleep(0.1)
    assert 0.15 <= feed.waited < 0.3


def test_few_updates_are_under_way_at_a_time():
    """Else the time that the loop waits for data would say nothing about the device."""
    under_way, most = [], []

    class Later:
        def numpy(self):
            del under_way[: under_way.index(self) + 1]
            return 1.0

        def __float__(self):
            return 1.0

    class Device:
        classes = 2

        def train_step(self, pixels):
            under_way.append(Later())
            most.append(len(under_way))
            return under_way[-1], np.zeros((2, 2), np.int64).view(Counts)

    class Counts(np.ndarray):
        def numpy(self):
            return np.asarray(self)

    trainer.train_epoch(Device(), range(20), 1, 20, lambda step: 0.1, "")
    assert max(most) <= trainer.AHEAD + 1
