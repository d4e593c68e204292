"""What a training is made from, and what it says of itself: settings, code, machine, TensorBoard.
"""
import datetime
import hashlib
import json
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import yaml

from base.code import ROOT, code_of
from base.problem import Problem
from base.tables import read_facts, read_finder, write_text
from imagery.tiles import made_with, read_manifest

COLUMNS = ["epoch", "learning_rate", "momentum", "loss", "accuracy", "mean_iou", "val_loss", "val_accuracy",
           "val_mean_iou", "seconds", "patches_per_second", "waiting"]  # of a run's history
RECORDS = ("params.yaml", "run.json", "history.csv", "schedule.csv")  # of a training, beside its model

def identity(settings):
    """What a training is made from: the settings that it reads and the bytes of its tiles."""
    manifest = read_manifest(settings["data"]["prepared"])["tiles"]
    tiles = settings["split"]["train"] + settings["split"]["val"]
    return {**{section: settings[section] for section in ("seed", "input", "augment", "model")},
            "train": {key: value for key, value in settings["train"].items() if key != "tensorboard"},
            "data": {key: value for key, value in made_with(settings["data"]).items() if key != "raw"},
            "split": {role: settings["split"][role] for role in ("train", "val")},
            "tiles": {tile: {kind: file["sha256"] for kind, file in manifest[tile]["files"].items()} for tile in tiles
                      if tile in manifest}}


def fingerprint(made_from, script):
    """SHA-256 of what a result was made from and of the code that made it: a script and all that it imports."""
    return hashlib.sha256(json.dumps([made_from, code_of(script)], sort_keys=True).encode()).hexdigest()


def now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def git(*words):
    """What git answers in the project's folder; None where it has no answer or there is no git."""
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def describe_run(settings):
    """run.json: what this run was made from, and on."""
    import tensorflow as tf
    gpus = [tf.config.experimental.get_device_details(device).get("device_name", device.name)
            for device in tf.config.list_physical_devices("GPU")]
    changes = git("status", "--porcelain")
    return {"command": " ".join(map(str, [Path(sys.argv[0]).name, *sys.argv[1:]])), "seed": settings["seed"],
            "commit": git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes),
            "settings": settings, "tiles": identity(settings)["tiles"],
            "versions": {"python": platform.python_version(),
                         **{name: version(name) for name in ("tensorflow", "keras", "numpy", "rasterio")}},
            "machine": {"system": platform.platform(), "processor": platform.processor() or platform.machine(),
                        "gpus": gpus},
            "started": now()}


def write_settings(run, settings):
    """The settings of a training, beside what they gave."""
    write_text(run / "params.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def open_board(run, history):
    """A writer of TensorBoard event files under run/tensorboard, made anew from the history so far."""
    if find_spec("tensorboard") is None:
        raise Problem("package tensorboard: not installed, expected it since train.tensorboard is true; "
                      ".venv/bin/pip install tensorboard, or set it to false", code=4)
    import tensorflow as tf
    shutil.rmtree(run / "tensorboard", ignore_errors=True)
    board = tf.summary.create_file_writer(str(run / "tensorboard"))
    for row in history:
        write_scalars(board, row)
    return board


def write_scalars(board, row):
    """One epoch's row of the history, for TensorBoard."""
    import tensorflow as tf
    with board.as_default():
        for name in COLUMNS[1:]:
            tf.summary.scalar(name, row[name], step=row["epoch"])
    board.flush()


def finder_stands(settings, run):
    """True where the range test of a run is whole: its suggestion, curve and picture."""
    try:
        read_finder(run)
    except Problem:
        return False
    return all((run / name).exists() for name in ("lr_find.csv", "lr_find.png"))


def training_stands(settings, run):
    """True where a training is finished and whole: its model is the one that model.json names, its records are there."""
    try:
        read_facts(run)
    except Problem:
        return False
    return all((run / name).exists() for name in RECORDS)
