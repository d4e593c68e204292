"""What a run's folder says of itself: tables, and what its results were made from, by what and on what."""
import csv
import datetime
import hashlib
import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from files import code_sha256, quiet_stderr, replacing
from tiles import made_with, read_manifest

with quiet_stderr():
    import tensorflow as tf


def write_text(path, text):
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_rows(path, columns, rows):
    """A CSV file of rows, each {column: value}."""
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


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


def fingerprint(made_from, *scripts):
    """SHA-256 of what a result was made from and of the code that made it: these scripts and what they share,
    without their comments."""
    shared = ("training.py", "model.py", "optimizers.py", "workers.py", "pipeline.py", "patches.py", "tiles.py")
    code = [code_sha256(Path(__file__).parent / name) for name in (*scripts, *shared)]
    return hashlib.sha256(json.dumps([made_from, code], sort_keys=True).encode()).hexdigest()


def now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def git(*words):
    """What git answers in the project's folder; None where it has no answer or there is no git."""
    try:
        done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def describe_run(settings):
    """run.json: what this run was made from, and on."""
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
