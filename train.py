"""The one-cycle run: trains the network, keeps the best by validation mean IoU, goes on where it was stopped.

    python train.py --params demo.yaml

Reads the prepared tiles of split.train and split.val (and lr_find.json where train.max_lr is auto). Writes under
runs/<run>: params.yaml, run.json, schedule.csv, history.csv after every epoch, checkpoints/ (the last two epochs),
model.keras whenever validation improves, and at the very end model.json, which says that the run is finished.
Stopped at any moment, the same command goes on after the last whole epoch. A finished run is left alone as long as
settings, tiles and code are the same, and else made anew.
"""
import time

import numpy as np

from base.command import command, progress
from base.files import sha256
from base.problem import Problem
from base.settings import coarsest, count_bands
from base.tables import read_facts, read_finder, read_record, write_record, write_rows
from imagery.rasters import pixel_size, scales
from imagery.scores import accuracy, mean_iou
from imagery.tiles import check_roles, open_tiles, read_manifest
from learning.checkpoints import load_checkpoint, save_checkpoint, save_results, start
from learning.optimizers import schedules
from learning.patches import changes_of, plan_epoch, validation_plan
from learning.records import (
    COLUMNS,
    describe_run,
    fingerprint,
    identity,
    now,
    open_board,
    write_scalars,
    write_settings,
)
from learning.workers import choose_strategy, first_says, leads, working_in
from model import count_operations
from trainer import Timed, Trainer, check_finite, train_epoch


def peak_rate(train, run):
    """train.max_lr, or the finder's suggestion where it is auto."""
    if train["max_lr"] != "auto":
        return train["max_lr"]
    if not (run / "lr_find.json").exists():
        raise Problem(f"learning rate in {run / 'lr_find.json'}: missing, expected the finder's suggestion since "
                      "train.max_lr is auto; run lr_find.py first", code=3)
    return float(read_finder(run)["suggestion"])


def write_schedule(run, rate, momentum, steps):
    """schedule.csv: step, learning_rate, momentum, at no more than 1,000 steps."""
    shown = np.unique(np.linspace(0, steps - 1, min(steps, 1000)).astype(int)).tolist()
    write_rows(run / "schedule.csv", ["step", "learning_rate", "momentum"],
               [{"step": s, "learning_rate": float(rate(s)), "momentum": float(momentum(s))} for s in shown])


def is_finished(run, made_from):
    """True where the run was finished from the same settings, tiles and code, and its model is whole."""
    try:
        return read_facts(run)["made_from"] == made_from
    except Problem:
        return False


def restore_records(run, settings, steps, max_lr):
    """Writes what was removed of a finished run's tables anew: the history from the last checkpoint, the schedule from
    the settings, and run.json, without the times of its training."""
    found = None if (run / "history.csv").exists() else load_checkpoint(run / "checkpoints")
    if found:
        write_rows(run / "history.csv", COLUMNS, found[2]["history"])
    if not (run / "schedule.csv").exists():
        write_schedule(run, *schedules(settings["train"], max_lr, steps), steps)
    if not (run / "run.json").exists():
        write_record(run / "run.json", {**describe_run(settings), "started": None})
    if not (run / "params.yaml").exists():
        write_settings(run, settings)


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
        stamp = fingerprint(made_from, "train.py")
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
            write_record(run / "run.json", describe_run(settings))
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
    rows = read_manifest(data["prepared"])["tiles"]
    place = rows[settings["split"]["train"][0]]["georeference"]
    seen = {key: {tile: rows[tile]["pixels_sha256"] for tile in settings["split"][role]}
            for key, role in (("trained_on", "train"), ("chosen_on", "val"))}
    model = sha256(run / "model.keras")
    try:
        about = read_record(run / "run.json", "train.py")
    except Problem:
        about = describe_run(settings)
    about.update(finished=now(), training_seconds=round(sum(row["seconds"] for row in state["history"]), 1),
                 model_sha256=model,
                 outputs={name: sha256(run / name) for name in ("model.keras", "history.csv", "schedule.csv")})
    write_record(run / "run.json", about)
    write_record(run / "model.json", {
        "classes": data["classes"], "bands": data["bands"], "extra": data["extra"] is not None, "scale": scales(data),
        "ground_sample_distance": pixel_size(place),
        "patch_size": settings["input"]["patch_size"], "multiple": coarsest(settings["model"]),
        "epoch": state["best_epoch"], "val_mean_iou": state["best"], "chosen_by": "highest mean IoU on split.val",
        **seen, **facts, "sha256": model})


if __name__ == "__main__":
    command(main, __doc__)
