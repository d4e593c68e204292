"""What a training is made from, whether it stands, and what it says of itself."""
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

from base.code import ROOT, code_of
from base.command import visible
from base.files import sha256
from base.problem import Problem, first_of, shown
from base.settings import differences, is_drawn
from base.tables import read_facts, read_finder, read_record
from base.zips import is_file
from imagery.tiles import made_with, read_manifest
from learning.beginnings import encoder_digest, start_digest, weights_at_hand

COLUMNS = ["epoch", "learning_rate", "momentum", "loss", "accuracy", "mean_iou", "val_loss", "val_accuracy",
           "val_mean_iou", "seconds", "patches_per_second", "waiting"]  # of a run's history
RECORDS = ("params.yaml", "run.json", "history.csv", "schedule.csv")  # of a training, beside its model
ELSEWHERE = ("epochs", "max_lr", "early_stopping", "ema", "freeze_epochs")  # of train: change no range test
APART = "tensorboard", "start_from"  # settings of train: changes nothing; told by the digest of its weights
OF_ENCODERS = ("weights", "rgb", "encoder_rate", "freeze_epochs")  # of model and train: a network without one
OF_THE_OTHER = ("depth", "residual", "centre")  # reads none of these, one with an encoder none of these
TOLD = ("raw", "nodata")  # settings of data of which the tiles' digests tell all
OF_ENCODER = "weights of the encoder"  # among the inputs of a training
DAMAGED = (Problem, OSError, LookupError, ValueError, TypeError, AttributeError)  # or of another version


def tile_digests(settings):
    """{tile: {kind: SHA-256}} of the prepared tiles of split.train and split.val."""
    manifest = read_manifest(settings["data"]["prepared"])["tiles"]
    return {tile: {kind: file["sha256"] for kind, file in manifest[tile]["files"].items()}
            for tile in settings["split"]["train"] + settings["split"]["val"] if tile in manifest}


def training_inputs(settings, tiles=None):
    """What a training is made from: its settings and its tiles' digests, those of now or `tiles`."""
    model, train = settings["model"], settings["train"]
    unread = OF_ENCODERS if model.get("encoder", "none") == "none" else OF_THE_OTHER
    return {**{section: settings[section] for section in ("seed", "input", "augment")},
            "model": {key: value for key, value in model.items() if key not in unread},
            "train": {key: value for key, value in train.items() if key not in (*APART, *unread)},
            "first weights": start_digest(train),
            OF_ENCODER: encoder_digest(settings),
            "data": {key: value for key, value in made_with(settings["data"]).items() if key not in TOLD},
            "split": {role: settings["split"][role] for role in ("train", "val")},
            "tiles": tile_digests(settings) if tiles is None else tiles}


def as_then(inputs, settings, run):
    """The inputs of a training; of first weights that are gone by now as the finished training of a run had
    them: it is no other one for that."""
    try:
        about = read_record(run / "run.json", "train.py")
    except Problem:
        return inputs
    if settings["train"]["start_from"] and not inputs["first weights"]:
        inputs = {**inputs, "first weights": about.get("first_weights")}
    return {**inputs, OF_ENCODER: inputs[OF_ENCODER] or about.get("encoder_weights")}


def finder_inputs(settings, run):
    """What a range test is made from: it validates nothing."""
    train = {key: value for key, value in settings["train"].items() if key not in ELSEWHERE}
    inputs, names = training_inputs({**settings, "train": train}), settings["split"]["train"]
    inputs = as_then(inputs, settings, run)
    tiles = {tile: inputs["tiles"][tile] for tile in names if tile in inputs["tiles"]}
    return {**inputs, "split": names, "tiles": tiles, "lr_find": settings["lr_find"]}


def fingerprint(inputs, script):
    """The `made_from` of a result: SHA-256 of its inputs and of a script with all that it imports."""
    return hashlib.sha256(json.dumps([inputs, code_of(script)], sort_keys=True).encode()).hexdigest()


def finder_stands(settings, run, made_from=None):
    """True where the range test of a run is whole, and made from `made_from` where that is given."""
    try:
        made = read_finder(run).get("made_from")
    except Problem:
        return False
    return made_from in (None, made) and all((run / name).exists() for name in ("lr_find.csv", "lr_find.png"))


def training_stands(settings, run, made_from=None):
    """True where a training is finished and whole, and made from `made_from` where that is given."""
    try:
        made = read_facts(run).get("made_from")
    except Problem:
        return False
    return made_from in (None, made) and all((run / name).exists() for name in RECORDS)


def changes(settings, run, suggestion=None):
    """([text], text): in what the finished training of a run differs from one of now, and how long it took.
    One of DAMAGED where there is none, or its records do not tell. `suggestion`: the finder's, where
    train.max_lr is auto."""
    facts, about = read_facts(run), read_record(run / "run.json", "train.py")
    before = {**training_inputs(about["settings"], about["tiles"]), "code": about["code"],
              "first weights": about.get("first_weights"), OF_ENCODER: about.get("encoder_weights")}
    current = {**as_then(training_inputs(settings), settings, run), "code": code_of("train.py")}
    if not is_drawn(settings["split"]):  # which tiles its blocks are is not known yet
        for inputs, split in ((before, about["settings"]["split"]), (current, settings["split"])):
            inputs["split"] = {"blocks": split.get("blocks")}
    both = before["tiles"].keys() & current["tiles"].keys()  # of others the split tells
    for inputs in (before, current):
        inputs["tiles"] = {tile: inputs["tiles"][tile] for tile in sorted(both)}
    if suggestion is not None and before["train"]["max_lr"] == "auto":
        name = "suggestion of lr_find.json"
        before[name], current[name] = facts["max_lr"], suggestion
    return spelt(before, current), spell(about["training_seconds"])


def changes_upstream(settings, run, raw_too):
    """As `changes`, and of all that tiles and suggestion come from, so that they may be others once they are
    made anew: code, settings of the finder and, if `raw_too`, the bytes of the training's raw tiles."""
    finder, suggestion = settings["train"]["max_lr"] == "auto", None
    if finder and finder_stands(settings, run, fingerprint(finder_inputs(settings, run), "lr_find.py")):
        finder, suggestion = False, read_finder(run)["suggestion"]
    reasons, took = changes(settings, run, suggestion)
    rows, split = read_manifest(settings["data"]["prepared"])["tiles"], settings["split"]
    rows = [rows[tile] for tile in split["train"] + split["val"] if tile in rows]
    if any(row.get("code") != code_of("prepare_data.py") for row in rows):
        reasons.append("code of prepare_data.py changed")
    raw = [file for row in rows for file in row["raw"].values() if raw_too and is_file(file["path"])]
    reasons += [f"{file['path']} changed" for file in raw if sha256(file["path"]) != file["sha256"]]
    if finder:
        then = read_record(run / "run.json", "train.py")["settings"]
        reasons += spelt({"lr_find": then["lr_find"]}, {"lr_find": settings["lr_find"]})
    if finder and rows and not reasons and (run / "lr_find.json").exists():  # its code changed
        reasons = ["lr_find.json is to be made anew"]
    return reasons, took


def spelt(before, current):
    """[text] of the keys in which two mappings differ."""
    texts = []
    for key, then, now in differences(before, current):
        if key in ("code", "first weights", OF_ENCODER) or key.startswith("tiles."):
            texts.append(f"{key} changed")
        elif key.startswith("split") and isinstance(then, list) and isinstance(now, list):
            parts = {"now without": set(then) - set(now), "now with": set(now) - set(then)}
            parts = [f"{how} {first_of(sorted(names))}" for how, names in parts.items() if names]
            texts.append(f"{key}: {' and '.join(parts) or 'now in another order'}")
        else:
            texts.append(f"{key}: {shown(then)} then, {shown(now)} now")
    return texts


def why_anew(settings, run, suggestion=None):
    """One line of ASCII: why the finished training of a run has to be made anew, and how long it took. None
    where there is none, or it is current. `suggestion`: the finder's, where train.max_lr is auto."""
    try:
        reasons, took = changes(settings, run, suggestion)
    except DAMAGED:
        return None
    if not reasons:
        return None
    line = (f"training of {run}: to be made anew, since {first_of(reasons)}; the last one took {took}; its "
            "model stays until the new one is finished")
    if any(reason.startswith("train.epochs") for reason in reasons):
        line += ("; another number of epochs is another cycle, from its first rate: to train on from this "
                 f"model's weights, name it as train.start_from ({run}/model.keras) in another settings file")
    return visible(line).encode("ascii", "backslashreplace").decode()


def spell(seconds):
    """A duration for a person: 45 s, 12 min, 1 h 5 min."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def time_now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def git(*words):
    """What git answers in the project's folder; None where it has no answer or there is no git."""
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def describe_run(settings):
    """run.json: what this run was made from, and on."""
    path = weights_at_hand(settings)
    import tensorflow as tf
    gpus = [tf.config.experimental.get_device_details(device).get("device_name", device.name)
            for device in tf.config.list_physical_devices("GPU")]
    changes = git("status", "--porcelain")
    return {"command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]), "seed": settings["seed"],
            "commit": git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes),
            "settings": settings, "tiles": tile_digests(settings),
            "first_weights": start_digest(settings["train"]),
            "encoder_weights": encoder_digest(settings),
            "weights": path and {"source": settings["model"]["weights"], "sha256": sha256(path)},
            "versions": {"python": platform.python_version(),
                         **{name: version(name) for name in ("tensorflow", "keras", "numpy", "rasterio")}},
            "machine": {"system": platform.platform(), "gpus": gpus,
                        "processor": platform.processor() or platform.machine()},
            "started": time_now()}


def open_board(run, history):
    """Begins run/tensorboard anew with the history so far. Returns a function that adds an epoch's row."""
    if find_spec("tensorboard") is None:
        raise Problem("package tensorboard: not installed, expected it since train.tensorboard is true; "
                      ".venv/bin/pip install tensorboard, or set it to false", code=4)
    import tensorflow as tf
    shutil.rmtree(run / "tensorboard", ignore_errors=True)
    board = tf.summary.create_file_writer(str(run / "tensorboard"))

    def add(row):
        with board.as_default():
            for name in COLUMNS[1:]:
                tf.summary.scalar(name, row[name], step=row["epoch"])
        board.flush()

    for row in history:
        add(row)
    return add
