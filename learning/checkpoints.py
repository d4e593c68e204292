"""The one-cycle run: trains the network, keeps the best by validation mean IoU, goes on where it was stopped.

    python train.py --params demo.yaml

Reads the prepared tiles of split.train and split.val (and lr_find.json where train.max_lr is auto). Writes under
runs/<run>: params.yaml, run.json, schedule.csv, history.csv after every epoch, checkpoints/ (the last two epochs),
model.keras whenever validation improves, and at the very end model.json, which says that the run is finished.
Stopped at any moment, the same command goes on after the last whole epoch. A finished run is left alone as long as
settings, tiles and code are the same, and else made anew.
"""
import json
import math
import re
import shutil
import time
import zipfile
from importlib.util import find_spec

import numpy as np
import yaml

from command import command, progress
from files import Problem, quiet_stderr, replacing, sha256
from model import count_operations
from optimizers import OneCycle
from params import check_roles, coarsest, count_bands, differences
from patches import changes_of, plan_epoch, validation_plan
from pipeline import open_tiles
from rasters import pixel_size, scales
from records import describe_run, fingerprint, identity, now, write_rows, write_text
from results import read_finder
from scores import accuracy, mean_iou
from tiles import read_manifest
from training import COLUMNS, Trainer, load_checkpoint, restore, save_checkpoint
from workers import agree, choose_strategy, first_says, leads, working_in

with quiet_stderr():
    import tensorflow as tf

AHEAD = 2  # updates that may be under way at a time


def peak_rate(train, run):
    """train.max_lr, or the finder's suggestion where it is auto."""
    if train["max_lr"] != "auto":
        return train["max_lr"]
    if not (run / "lr_find.json").exists():
        raise Problem(f"learning rate in {run / 'lr_find.json'}: missing, expected the finder's suggestion since "
                      "train.max_lr is auto; run lr_find.py first", code=3)
    return float(read_finder(run / "lr_find.json")["suggestion"])


def schedules(train, max_lr, steps):
    """Learning rate (from max/25 to max to max/25,000) and momentum, which falls while the rate rises, as functions
    of the step (Smith 2018; the numbers are fastai's)."""
    high, low = train["momentum"]
    return OneCycle(max_lr / 25, max_lr, max_lr / 25_000, steps), OneCycle(high, low, high, steps)


def write_schedule(run, rate, momentum, steps):
    """schedule.csv: step, learning_rate, momentum, at no more than 1,000 steps."""
    shown = np.unique(np.linspace(0, steps - 1, min(steps, 1000)).astype(int)).tolist()
    write_rows(run / "schedule.csv", ["step", "learning_rate", "momentum"],
               [{"step": s, "learning_rate": float(rate(s)), "momentum": float(momentum(s))} for s in shown])


def is_finished(run, made_from):
    """True where the run was finished from the same settings, tiles and code, and its model is whole."""
    try:
        facts = json.loads((run / "model.json").read_text(encoding="utf-8"))
        return facts["made_from"] == made_from and facts["sha256"] == sha256(run / "model.keras")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_settings(run, settings):
    """The settings of a training, beside what they gave."""
    write_text(run / "params.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def restore_records(run, settings, steps, max_lr):
    """Writes what was removed of a finished run's tables anew: the history from the last checkpoint, the schedule from
    the settings, and run.json, without the times of its training."""
    found = None if (run / "history.csv").exists() else load_checkpoint(run / "checkpoints")
    if found:
        write_rows(run / "history.csv", COLUMNS, found[2]["history"])
    if not (run / "schedule.csv").exists():
        write_schedule(run, *schedules(settings["train"], max_lr, steps), steps)
    if not (run / "run.json").exists():
        write_text(run / "run.json", json.dumps({**describe_run(settings), "started": None}, indent=1) + "\n")
    if not (run / "params.yaml").exists():
        write_settings(run, settings)


def begin(run, made_from):
    """The checkpoint to go on from, (path, arrays, state), or None for a fresh start.

    Where an earlier training in this folder was finished, from other settings, tiles or code, its checkpoints and
    model.json go: the run is made anew. An unfinished one of other settings or tiles is refused (Problem, exit 2).
    """
    checkpoints = run / "checkpoints"
    if (run / "model.json").exists():
        try:
            finished = "made_from" in json.loads((run / "model.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):  # make -t made it, say: no reason to lose epochs
            finished = False
        if finished:
            shutil.rmtree(checkpoints, ignore_errors=True)
        (run / "model.json").unlink()
    found = load_checkpoint(checkpoints)
    if found:
        path, _, state = found
        changed = differences(state["made_from"], made_from)
        if changed:
            raise Problem(*(f"checkpoint {path}: made from other settings or tiles, {key}: {json.dumps(before)} then, "
                            f"{json.dumps(now)} now" for key, before, now in changed),
                          f"to go on, set these back; for another run, copy the settings file; to start anew, "
                          f"remove {checkpoints}", code=2)
        if path != max(checkpoints.glob("epoch_*.npz")) and not has_model(run, state):
            print(f"model.keras is a lost epoch's; that of epoch {state['epoch']} takes its place", flush=True)
            state.update(best=state["history"][-1]["val_mean_iou"], best_epoch=state["epoch"])
    return found


def has_model(run, state):
    """True where model.keras is the file that was saved at the state's best epoch."""
    path = run / "model.keras"
    return path.is_file() and sha256(path) == state["model_sha256"]


def check_finite(loss, what, epoch, step, rate):
    """Problem (exit 5) where a loss is not finite; `step` counts from 0 over the whole run."""
    if not math.isfinite(loss):
        raise Problem(f"training diverged: {what} {loss} in epoch {epoch}, step {step + 1}, learning rate "
                      f"{float(rate(step)):.3g}, expected a finite one; lower train.max_lr"
                      + (" and remove the folder checkpoints; the best model of the earlier epochs is kept"
                         if epoch > 1 else ""), code=5)


class Timed:
    """Goes through an iterable and adds up the seconds spent waiting for its next item. With few updates under way this
    is an upper bound of what the device waits, and near it where the device is the slower one."""

    def __init__(self, items):
        self.items, self.waited = items, 0.0

    def __iter__(self):
        asked = time.monotonic()
        for item in self.items:
            self.waited += time.monotonic() - asked
            yield item
            asked = time.monotonic()


def train_epoch(trainer, dataset, epoch, steps, rate, head):
    """(loss, confusion int64 [C, C]) of one epoch; shows loss, accuracy and mean IoU while it runs."""
    confusion, losses, pending = np.zeros((trainer.classes,) * 2, np.int64), [], []

    def collect():
        for loss, counts in pending:
            check_finite(float(loss), "loss", epoch, (epoch - 1) * steps + len(losses), rate)
            losses.append(float(loss))
            np.add(confusion, counts.numpy(), out=confusion)
        pending.clear()

    seen = time.monotonic()
    for step, pixels in enumerate(dataset, 1):
        pending.append(trainer.train_step(pixels))
        if len(pending) > AHEAD:  # else the time waited for data would not be the device's
            pending[-AHEAD - 1][0].numpy()
        if time.monotonic() - seen > 0.5 or step == steps:  # between looks the device runs ahead
            collect()
            seen = time.monotonic()
            done = 20 * step // steps
            progress(f"{head} [{'=' * done}{'.' * (20 - done)}] {step}/{steps}  loss {np.mean(losses):.4f}  "
                     f"accuracy {accuracy(confusion):.4f}  mean IoU {mean_iou(confusion):.4f}")
    return float(np.mean(losses)), confusion


def train_network(trainer, state, settings, run, train_tiles, val_tiles, steps, rate, momentum):
    """Trains from the state's epoch to the last, or until early stopping; every epoch leaves a checkpoint."""
    train, epochs, batch_size = settings["train"], settings["train"]["epochs"], settings["input"]["batch_size"]
    val_plan = validation_plan(val_tiles, settings["input"]["patch_size"], batch_size)
    board = open_board(run, state["history"]) if train["tensorboard"] and leads(trainer.strategy) else None
    while state["epoch"] < epochs and not stops_early(state, train):
        epoch = state["epoch"] + 1
        started, head, last = time.monotonic(), f"epoch {epoch:3d}/{epochs}", epoch * steps - 1
        plan = plan_epoch(train_tiles, settings, epoch)
        planned = time.monotonic() - started
        feed = Timed(trainer.feed(train_tiles, plan, **changes_of(settings)))
        loss, confusion = train_epoch(trainer, feed, epoch, steps, rate, head)
        seconds = time.monotonic() - started
        val_loss, val_confusion = trainer.validate(trainer.feed(val_tiles, val_plan))
        check_finite(val_loss, "validation loss", epoch, last, rate)
        score, speed = mean_iou(val_confusion), steps * batch_size / seconds
        waiting = (planned + feed.waited) / seconds
        state["epoch"] = epoch
        state["history"].append(dict(zip(COLUMNS, [
            epoch, float(rate(last)), float(momentum(last)), loss, accuracy(confusion), mean_iou(confusion),
            val_loss, accuracy(val_confusion), score, round(seconds, 3), round(speed, 3), round(waiting, 4)])))
        if score > state["best"]:
            state.update(best=score, best_epoch=epoch)
        if leads(trainer.strategy):
            save_checkpoint(run / "checkpoints", trainer, state)
            save_results(run, trainer, state)
        if board:
            write_scalars(board, state["history"][-1])
        progress(f"{head}  loss {loss:.4f}  accuracy {accuracy(confusion):.4f}  mean IoU {mean_iou(confusion):.4f}"
                 f"  |  validation loss {val_loss:.4f}  accuracy {accuracy(val_confusion):.4f}  mean IoU "
                 f"{score:.4f}{' *' if epoch == state['best_epoch'] else '  '} |  {seconds:.0f} s, "
                 f"{speed:.1f} patches/s, {100 * waiting:.1f} % waiting for data", last=True)


def open_board(run, history):
    """A writer of TensorBoard event files under run/tensorboard, made anew from the history so far."""
    if find_spec("tensorboard") is None:
        raise Problem("package tensorboard: not installed, expected it since train.tensorboard is true; "
                      ".venv/bin/pip install tensorboard, or set it to false", code=4)
    shutil.rmtree(run / "tensorboard", ignore_errors=True)
    board = tf.summary.create_file_writer(str(run / "tensorboard"))
    for row in history:
        write_scalars(board, row)
    return board


def write_scalars(board, row):
    """One epoch's row of the history, for TensorBoard."""
    with board.as_default():
        for name in COLUMNS[1:]:
            tf.summary.scalar(name, row[name], step=row["epoch"])
    board.flush()


def save_network(network, path):
    """Writes a network as .keras, without the time of day and the memory addresses that Keras puts in: the same
    weights, the same bytes."""
    numbers = {}

    def renumber(found):
        return f'"shared_object_id": {numbers.setdefault(found[1], len(numbers))}'

    with replacing(path) as temporary:
        network.save(temporary)
        with zipfile.ZipFile(temporary) as saved:
            parts = {name: saved.read(name) for name in saved.namelist()}
        about = json.loads(parts["metadata.json"])
        parts["metadata.json"] = json.dumps({**about, "date_saved": "1980-01-01@00:00:00"}).encode()
        parts["config.json"] = re.sub(r'"shared_object_id": (\d+)', renumber, parts["config.json"].decode()).encode()
        with zipfile.ZipFile(temporary, "w") as saved:
            for name, content in parts.items():
                saved.writestr(zipfile.ZipInfo(name), content)  # dated 1980


def save_results(run, trainer, state):
    """model.keras where the state's epoch is the best, and history.csv: all that follows from a checkpoint.

    Where the best epoch is an earlier one, model.keras must be the file that was saved then (Problem, exit 3).
    """
    path = run / "model.keras"
    if state["best_epoch"] == state["epoch"]:
        save_network(trainer.averaged, path)
        state["model_sha256"] = sha256(path)
    elif not has_model(run, state):
        raise Problem(f"model {path}: missing or changed, expected the best so far, of epoch {state['best_epoch']}; "
                      f"put it back, or remove {run / 'checkpoints'} to start anew", code=3)
    write_rows(run / "history.csv", COLUMNS, state["history"])


def start(trainer, run, settings, made_from, stamp):
    """The state to train on from: a checkpoint's, which is restored, or a fresh one. The first worker reads it; the
    others learn from it where they are. `stamp` stands for the code too, which may have been mended meanwhile."""
    found = begin(run, made_from) if leads(trainer.strategy) else None
    state = {"epoch": 0, "best": -1.0, "best_epoch": 0, "model_sha256": None, "history": [],
             "made_from": made_from, "stamp": stamp}
    if first_says(trainer.strategy, lambda: found is not None):
        path, arrays, state = found or (None, None, state)
        restore(trainer, path, arrays)
        epoch, best, best_epoch = agree(trainer.strategy, [np.float64(state[key]) for key in
                                                           ("epoch", "best", "best_epoch")])
        state.update(epoch=int(epoch), best=float(best), best_epoch=int(best_epoch))
        print(f"going on after epoch {state['epoch']} of {settings['train']['epochs']}"
              + ("" if state.get("stamp") in (stamp, None) else "; the code has changed, the epochs before are the "
                 "earlier code's"), flush=True)
        state["stamp"] = stamp
    if found:
        save_results(run, trainer, state)  # it may have been stopped before it could
    return state


def main(settings, run):
    train, patch, split = settings["train"], settings["input"], settings["split"]
    strategy = choose_strategy()
    with working_in(run, strategy):
        train_tiles, val_tiles = (open_tiles(settings["data"], split[role]) for role in ("train", "val"))
        trained = {role: split[role] for role in ("train", "val")}
        check_roles(trained, read_manifest(settings["data"]["prepared"]))
        patches = len(plan_epoch(train_tiles, settings, epoch=1))  # the same in every epoch
        steps = patches // patch["batch_size"]
        if steps == 0:
            raise Problem(f"settings, key input.batch_size: {patch['batch_size']}, expected at most the {patches} "
                          "patches of an epoch", code=2)
        max_lr = float(first_says(strategy, lambda: peak_rate(train, run)))
        suggested = {"suggestion of lr_find.json": max_lr} if train["max_lr"] == "auto" else {}
        made_from = {**identity(settings), **suggested}
        stamp = fingerprint(made_from, "train.py", "scores.py")
        if first_says(strategy, lambda: is_finished(run, stamp)):
            if leads(strategy):
                restore_records(run, settings, train["epochs"] * steps, max_lr)
                (run / "model.json").touch()
            print(f"finished already, from the same settings, tiles and code  {run / 'model.json'}")
            return
        rate, momentum = schedules(train, max_lr, train["epochs"] * steps)
        trainer = Trainer(settings, rate, momentum, strategy)
        parameters, operations = count_operations(patch["patch_size"], bands=count_bands(settings["data"]),
                                                  classes=trainer.classes, **settings["model"])
        state = start(trainer, run, settings, made_from, stamp)
        if state["epoch"] == 0 and leads(strategy):
            write_settings(run, settings)
            write_text(run / "run.json", json.dumps(describe_run(settings), indent=1) + "\n")
            write_schedule(run, rate, momentum, train["epochs"] * steps)
        print(f"{parameters:,} parameters, {operations / 1e9:.2f} GFLOP forward per patch; {patches} patches in "
              f"{steps} updates an epoch; peak learning rate {max_lr:.3g}"
              + (f"; {trainer.devices} devices" if trainer.devices > 1 else ""), flush=True)
        try:
            train_network(trainer, state, settings, run, train_tiles, val_tiles, steps, rate, momentum)
        except KeyboardInterrupt:
            kept = max((int(path.stem[-5:]) for path in (run / "checkpoints").glob("epoch_*.npz")), default=0)
            where = f", which are kept in {run / 'checkpoints'}" if kept else ""
            print(f"\nstopped after {kept} whole epochs{where}", flush=True)
            raise
        if leads(strategy):
            finish(settings, run, state, {"parameters": parameters, "gflop_per_patch": operations / 1e9,
                                          "max_lr": max_lr, "made_from": stamp})
        print(f"best validation mean IoU {state['best']:.4f}, epoch {state['best_epoch']}  {run / 'model.keras'}")


def stops_early(state, train):
    """True where the validation mean IoU has not risen for train.early_stopping epochs."""
    return 0 < train["early_stopping"] <= state["epoch"] - state["best_epoch"]


def finish(settings, run, state, facts):
    """Completes run.json and writes model.json, the word that the run is finished."""
    data = settings["data"]
    place = read_manifest(data["prepared"])["tiles"][settings["split"]["train"][0]]["georeference"]
    model = sha256(run / "model.keras")
    try:
        about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        about = describe_run(settings)
    about.update(finished=now(), training_seconds=round(sum(row["seconds"] for row in state["history"]), 1),
                 model_sha256=model,
                 outputs={name: sha256(run / name) for name in ("model.keras", "history.csv", "schedule.csv")})
    write_text(run / "run.json", json.dumps(about, indent=1) + "\n")
    write_text(run / "model.json", json.dumps({
        "classes": data["classes"], "bands": data["bands"], "extra": data["extra"] is not None, "scale": scales(data),
        "ground_sample_distance": pixel_size(place),
        "patch_size": settings["input"]["patch_size"], "multiple": coarsest(settings["model"]),
        "epoch": state["best_epoch"], "val_mean_iou": state["best"], "chosen_by": "highest mean IoU on split.val",
        **facts, "sha256": model}, indent=1) + "\n")


if __name__ == "__main__":
    command(main, __doc__)
