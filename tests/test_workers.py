"""One loop on one device, on two devices of a machine, and on two processes that talk over the loopback."""

import contextlib
import copy
import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, SETTINGS, SIZES, save_settings, write_tile

import prepare_data
import train
from base.problem import Problem
from learning import workers
from learning.checkpoints import load_checkpoint
from trainer import Trainer

SCRIPT = """
import hashlib, json, sys
devices = int(sys.argv[1])
import train
from trainer import tf
from base.command import command
if devices > 1:
    cpu, = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
made, Trainer = [], train.Trainer
train.Trainer = lambda *arguments: made.append(Trainer(*arguments)) or made[0]
del sys.argv[1]
command(train.main, "")
weights = b"".join(v.numpy().tobytes() for v in made[0].variables().values())
print("WEIGHTS", made[0].devices, hashlib.sha256(weights).hexdigest(), file=sys.stderr)
"""


EPOCHS = 5


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A folder with prepared tiles, tiny.yaml and runs/one, trained by them on one device."""
    folder, settings = tmp_path_factory.mktemp("workers"), copy.deepcopy(SETTINGS)
    loss = {"ce": 1, "dice": 0.5, "lovasz": 0.5}
    settings["train"].update(epochs=EPOCHS, max_lr=0.005, loss=loss, ema=0.9, clip_norm=0.5)
    settings["train"].update(label_smoothing=0.1, class_weights=0.5)
    with contextlib.chdir(folder):
        for tile, shape in SIZES.items():
            write_tile(folder / "raw", tile, shape)
        save_settings(folder, settings)
        prepare_data.main(settings, folder / "runs/tiny")
        train.main(settings, folder / "runs/one")
    return folder


@pytest.fixture
def prepared(alone, tmp_path, monkeypatch):
    """A copy of it, free to be changed; the current folder."""
    monkeypatch.chdir(shutil.copytree(alone, tmp_path / "project"))
    return tmp_path / "project"


def start(folder, name, devices=1, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(devices), "--params", name],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def finish(*processes):
    """[(exit code, stdout, stderr)], after at most three minutes."""
    ended = []
    for process in processes:
        out, err = process.communicate(timeout=180)
        ended.append((process.returncode, out, err))
    return ended


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def two_workers(folder, name):
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    return [
        start(
            folder,
            name,
            TF_CONFIG=json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}),
        )
        for index in range(2)
    ]


def two_tasks(folder, name):
    """The same as tasks of a SLURM step on one node; its `scontrol` is a stand-in."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin/scontrol").write_text("#!/bin/sh\necho 127.0.0.1\n")
    (folder / "bin/scontrol").chmod(0o755)
    step = {"NODELIST": "node7", "TASKS_PER_NODE": "2", "NUM_TASKS": "2"}
    step = {f"SLURM_STEP_{key}": value for key, value in step.items()}
    job = str(free_ports(1)[0] % 10_000)
    path = f"{folder}/bin:{os.environ['PATH']}"
    return [start(folder, name, PATH=path, SLURM_JOB_ID=job, SLURM_PROCID=str(i), **step) for i in range(2)]


def weights_of(ended):
    return [
        line.split()[1:] for _, _, err in ended for line in err.splitlines() if line.startswith("WEIGHTS")
    ]


def history(run):
    with open(run / "history.csv", newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def assert_same_training(run, other):
    """The same losses to 1e-4 for as long as rounding has not grown, two epochs; within 1e-3 after."""
    for row, twin in zip(history(run), history(other), strict=True):
        for loss in ("loss", "val_loss"):
            near = {"abs": 1e-4} if row["epoch"] <= 2 else {"rel": 1e-3}
            assert twin[loss] == pytest.approx(row[loss], **near)
        assert twin["learning_rate"] == row["learning_rate"]


def test_two_devices_train_as_one(prepared):
    ((code, out, err),) = finish(start(prepared, "tiny.yaml", devices=2))
    assert code == 0 and weights_of([(code, out, err)])[0][0] == "2", out + err
    one, two = prepared / "runs/one", prepared / "runs/tiny"
    assert_same_training(one, two)
    expected, found = (load_checkpoint(each / "checkpoints")[1] for each in (one, two))
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-3, err_msg=name)


ENCODER = """
import sys
import numpy as np
from learning.optimizers import build_optimizer
from trainer import Trainer, keras, tf
cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from conftest import SETTINGS as settings
from learning.encoder_tables import INVERTED
from learning.workers import choose_strategy
from pretrained import LITE0, SMALL
INVERTED[LITE0] = SMALL
settings["model"].update(encoder=LITE0, stem=4)
settings["train"].update(optimizer="sgd", weight_decay=0.05)  # AdamW would enlarge rounding
pixels = np.random.default_rng(0).integers(0, 6, (4, 64, 64, 4)).astype("uint8")
values = []
for strategy in (tf.distribute.get_strategy(), choose_strategy()):
    trainer = Trainer(settings, 0.01, 0.9, strategy)
    trainer.frozen, feed = True, tf.data.Dataset.from_tensors((pixels,)).repeat(2)
    if trainer.devices == 2:
        feed = strategy.experimental_distribute_dataset(feed.unbatch().batch(4))
    for part in feed:
        trainer.train_step(part)
    assert all(layer.trainable for layer in trainer.network.layers)
    values.append([variable.numpy() for variable in trainer.variables().values()])
for one, two in zip(*values, strict=True):
    np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-3)
with strategy.scope():
    variables = [keras.Variable([1.0], name=name) for name in ("kernel", "bias")]
    optimizer = build_optimizer("adamw", 0.5, 0.0, 0.1, {"kernel": 0.25})
    optimizer.build(variables)
tf.function(strategy.run)(lambda: optimizer.apply([tf.ones(1)] * 2, variables))
for variable, value in zip(variables, (0.9875 - 0.125, 0.5)):  # a kernel decays, and goes its share
    np.testing.assert_allclose(variable.numpy(), value, rtol=1e-5)
print("devices", trainer.devices)
"""


def test_two_devices_train_a_frozen_encoder_as_one(tmp_path):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", ENCODER],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=300,
    )
    assert done.stdout == "devices 2\n", done.stderr


def test_two_processes_train_as_one_although_one_is_lost_on_the_way(prepared):
    started, run = two_workers(prepared, "tiny.yaml"), prepared / "runs/tiny"
    deadline = time.monotonic() + 240
    while not list(run.glob("checkpoints/epoch_*.npz")) and time.monotonic() < deadline:
        time.sleep(0.02)
    started[1].kill()
    (code, out, err), _ = finish(*started)
    assert code == 4 and "another one is gone" in err and "Traceback" not in err, err
    assert "start all workers again" in err
    kept = len(history(run))
    assert 1 <= kept < EPOCHS
    ended = finish(*two_tasks(prepared, "tiny.yaml"))
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert (
        f"going on after epoch {kept} of {EPOCHS}" in ended[0][1] and ended[1][1] == ""
    )  # only the first worker speaks
    (devices, first), (_, second) = weights_of(ended)
    assert devices == "2" and first == second
    assert_same_training(prepared / "runs/one", run)


def test_workers_of_a_slurm_step(monkeypatch):
    nodes = subprocess.CompletedProcess([], 0, stdout="gpu03\ngpu04\ngpu11\n")
    monkeypatch.setattr(workers.subprocess, "run", lambda *_, **__: nodes)
    assert workers.slurm_step() == {}
    variables = {"STEP_NUM_TASKS": 5, "STEP_NODELIST": "gpu[03-04,11]", "STEP_TASKS_PER_NODE": "2(x2),1"}
    for key, value in {**variables, "JOB_ID": 1234567, "PROCID": 3}.items():
        monkeypatch.setenv(f"SLURM_{key}", str(value))
    assert workers.slurm_step() == {
        "cluster": {"worker": ["gpu03:24567", "gpu03:24568", "gpu04:24567", "gpu04:24568", "gpu11:24567"]},
        "task": {"type": "worker", "index": 3},
    }


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[1]",
        '{"cluster": {"worker": ["a:1", "b:2"]}}',
        '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 2}}',
    ],
)
def test_a_senseless_tf_config_is_one_line(monkeypatch, config):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(Problem, match="TF_CONFIG") as caught:
        workers.choose_strategy()
    assert caught.value.code == 4 and len(caught.value.lines) == 1


def test_a_batch_has_to_divide_and_jit_is_for_one_device(settings):
    class Two:
        num_replicas_in_sync = 2

    settings["input"]["batch_size"] = 5
    with pytest.raises(Problem, match="a multiple of the 2 devices"):
        Trainer(settings, 0.1, 0.9, Two())
    settings["input"]["batch_size"], settings["train"]["jit"] = 4, True
    with pytest.raises(Problem, match="expected false on 2 devices"):
        Trainer(settings, 0.1, 0.9, Two())
