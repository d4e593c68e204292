"""The one-cycle run: trains the network, keeps the best by validation mean IoU, goes on where it was stopped.

    python train.py --params demo.yaml

Reads the prepared tiles of split.train and split.val (and lr_find.json where train.max_lr is auto). Writes
under runs/<run>: params.yaml, run.json, schedule.csv, history.csv after every epoch, checkpoints/ (the last
two epochs), model.keras whenever validation improves, and at the very end model.json, which says that the run
is finished. Stopped at any moment, the same command goes on after the last whole epoch. A finished run is
left alone while settings, tiles and code are the same; a new one is made beside it, in next."""
import statistics
import time

import numpy as np

from base.blocks import drawn
from base.code import code_of
from base.command import command, progress
from base.files import sha256
from base.problem import Problem
from base.settings import coarsest
from base.strict_yaml import yaml_text
from base.tables import read_finder, read_record, write_record, write_rows, write_text
from imagery.calibration import LEAST
from imagery.ground import pixel_size, plain_size
from imagery.rasters import scales
from imagery.scales import learned_levels
from imagery.scores import accuracy, mean_iou
from imagery.tiles import read_manifest
from learning import beginnings, records
from learning.checkpoints import checkpoints_in, save_checkpoint, save_results, start, take_over, work_folder
from learning.optimizers import schedules
from learning.plans import plan_epoch
from learning.records import COLUMNS
from learning.temperatures import fit_temperatures
from learning.workers import choose_strategy, first_says, working_in
from trainer import Timed, Trainer, answer_of, check_finite, open_roles, train_epoch


def peak_rate(train, run):
    """train.max_lr, or the finder's suggestion where it is auto."""
    if train["max_lr"] != "auto":
        return train["max_lr"]
    if not (run / "lr_find.json").exists():
        raise Problem(f"learning rate in {run / 'lr_find.json'}: missing, expected the finder's suggestion "
                      "since train.max_lr is auto; run lr_find.py first", code=3)
    return float(read_finder(run)["suggestion"])


def write_beginnings(folder, trainer, fresh):
    """Writes what is known before the first epoch: params.yaml, schedule.csv (at no more than 1,000 steps)
    and run.json, which stays as it is where a training goes on."""
    write_text(folder / "params.yaml", yaml_text(trainer.settings))
    steps, columns = trainer.rate.steps, ["step", "learning_rate", "momentum"]
    rows = [dict(zip(columns, (step, float(trainer.rate(step)), float(trainer.momentum(step)))))
            for step in np.unique(np.linspace(0, steps - 1, min(steps, 1000)).astype(int)).tolist()]
    write_rows(folder / "schedule.csv", columns, rows)
    if fresh or not (folder / "run.json").exists():
        write_record(folder / "run.json", records.describe_run(trainer.settings))


def stops_early(state, train):
    """True where the validation mean IoU has not risen for train.early_stopping epochs."""
    return 0 < train["early_stopping"] <= state["epoch"] - state["best_epoch"]


def run_epoch(trainer, epoch, tiles, steps, head):
    """Trains and validates one epoch, of so many `steps`. Returns its row of the history."""
    started, last = time.monotonic(), epoch * steps - 1
    feed = Timed(trainer.training_batches(tiles["train"], epoch))
    planned = time.monotonic() - started
    trainer.frozen = epoch <= trainer.train["freeze_epochs"]
    loss, confusion = train_epoch(trainer, feed, epoch, steps, trainer.rate, head)
    seconds = time.monotonic() - started
    val_loss, val_confusion = trainer.validate(trainer.validation_batches(tiles["val"]))
    check_finite(val_loss, "validation loss", epoch, last, trainer.rate)
    speed = steps * trainer.patch["batch_size"] / seconds
    return dict(zip(COLUMNS, [
        epoch, float(trainer.rate(last)), float(trainer.momentum(last)),
        loss, accuracy(confusion), mean_iou(confusion),
        val_loss, accuracy(val_confusion), mean_iou(val_confusion),
        round(seconds, 3), round(speed, 3), round((planned + feed.waited) / seconds, 4)]))


def train_network(trainer, state, folder, tiles, steps):
    """Trains from the state's epoch to the last, or until early stopping; every epoch leaves a checkpoint."""
    train = trainer.train
    add_to_board = records.open_board(folder, state["history"]) if train["tensorboard"] else None
    while state["epoch"] < train["epochs"] and not stops_early(state, train):
        epoch = state["epoch"] + 1
        head = f"epoch {epoch:3d}/{train['epochs']}"
        row = run_epoch(trainer, epoch, tiles, steps, head)
        state["epoch"] = epoch
        state["history"].append(row)
        if row["val_mean_iou"] > state["best"]:
            state.update(best=row["val_mean_iou"], best_epoch=epoch)
        save_checkpoint(folder / "checkpoints", trainer, state)
        save_results(folder, trainer, state)
        if add_to_board:
            add_to_board(row)
        star = "*" if epoch == state["best_epoch"] else " "
        progress(f"{head}  loss {row['loss']:.4f}  accuracy {row['accuracy']:.4f}  mean IoU "
                 f"{row['mean_iou']:.4f}  |  validation loss {row['val_loss']:.4f}  accuracy "
                 f"{row['val_accuracy']:.4f}  mean IoU {row['val_mean_iou']:.4f} {star} |  "
                 f"{row['seconds']:.0f} s, {row['patches_per_second']:.1f} patches/s, "
                 f"{100 * row['waiting']:.1f} % waiting for data", last=True)


def sample_distance(rows):
    """The pixel size of these rows of the manifest, as imagery.ground.plain_size gives it: the middle one,
    each direction for itself. None where none is known."""
    sizes = [pixel_size(row["georeference"], row["shape"]) for row in rows]
    both = [statistics.median_low(each) for each in zip(*filter(None, sizes))]
    return plain_size(both) if both else None


def finish(settings, folder, state, more):
    """Completes run.json and writes model.json (with `more` facts): the training is finished."""
    data, split = settings["data"], settings["split"]
    manifest = read_manifest(data["prepared"])["tiles"]
    cuts = {tile: manifest[tile]["cut"] for tile in split["train"] + split["val"] if "cut" in manifest[tile]}
    outputs = {name: sha256(folder / name) for name in ("model.keras", "history.csv", "schedule.csv")}
    write_record(folder / "run.json", {
        **read_record(folder / "run.json", "train.py"), "finished": records.time_now(),
        "training_seconds": round(sum(row["seconds"] for row in state["history"]), 1),
        "model_sha256": outputs["model.keras"], "code": code_of("train.py"), "outputs": outputs})
    earlier, seen = settings["train"]["start_from"], beginnings.about_encoder(settings, folder)
    if earlier:
        seen |= {"start_from": earlier, "first_weights": state["inputs"]["first weights"],
                "started_on": beginnings.tiles_behind(earlier)}
        cuts |= beginnings.cuts_behind(earlier)
    write_record(folder / "model.json", {
        "raw": data["raw"], "classes": data["classes"], "bands": data["bands"],
        "extra": data["extra"] is not None, "scale": scales(data),
        "chosen_by": "highest mean IoU on split.val",
        "ground_sample_distance": sample_distance([manifest[tile] for tile in split["train"]]),
        "patch_size": settings["input"]["patch_size"], "multiple": coarsest(settings["model"]),
        "epoch": state["best_epoch"], "val_mean_iou": state["best"],
        "trained_on": {tile: manifest[tile]["pixels_sha256"] for tile in split["train"]},
        "chosen_on": {tile: manifest[tile]["pixels_sha256"] for tile in split["val"]},
        "cut": cuts, **seen, **more, "made_from": state["made_from"], "sha256": outputs["model.keras"]})


def temperatures(folder, tiles, patch):
    """The temperatures of the model that a folder keeps, as of fit_temperatures, and a line about them."""
    fitted = fit_temperatures(answer_of(folder / "model.keras"), tiles, patch["patch_size"])
    if fitted["pixels"] < LEAST:
        print(f"warning: temperature of the network: 1, as the middles of the validation tiles' windows have "
              f"{fitted['pixels']} labelled pixels, expected {LEAST} to fit it; confidence stays as it is")
    else:
        print(f"temperature {fitted['one_view']:g} in one view, {fitted['eight_views']:g} in eight, fitted "
              f"on {fitted['pixels']:,} pixels of the validation tiles")
    return fitted


def train_in(folder, settings, strategy, inputs, max_lr):
    """Trains in a folder, from its last checkpoint or from the start. Returns the state at the end."""
    patch, train, tiles = settings["input"], settings["train"], open_roles(settings, "train", "val")
    patches = len(plan_epoch(tiles["train"], settings, epoch=1))  # the same in every epoch
    steps = patches // patch["batch_size"]
    if steps == 0:
        raise Problem(f"settings, key input.batch_size: {patch['batch_size']}, expected at most the "
                      f"{patches} patches of an epoch", code=2)
    cycle = schedules(train, max_lr, train["epochs"] * steps)
    trainer = Trainer(settings, *cycle, strategy, train["freeze_epochs"] * steps)
    parameters, operations = trainer.cost()
    state = start(trainer, folder, inputs, records.fingerprint(inputs, "train.py"))
    write_beginnings(folder, trainer, fresh=state["epoch"] == 0)
    print(f"{parameters:,} parameters, {operations / 1e9:.2f} GFLOP forward per patch; {patches} "
          f"patches in {steps} updates an epoch; peak learning rate {max_lr:.3g}"
          + (f"; {trainer.devices} devices" if trainer.devices > 1 else ""), flush=True)
    if state["epoch"] == 0:
        print(*trainer.begun, sep="\n", end="\n" if trainer.begun else "", flush=True)
    try:
        train_network(trainer, state, folder, tiles, steps)
    except KeyboardInterrupt:
        kept = [int(path.stem[-5:]) for path in checkpoints_in(folder / "checkpoints")]
        where = f", which are kept in {folder / 'checkpoints'}" if kept else ""
        print(f"\nstopped after {max(kept, default=0)} whole epochs{where}", flush=True)
        raise
    finish(settings, folder, state, {
        "parameters": parameters, "gflop_per_patch": operations / 1e9, "max_lr": max_lr,
        "levels": learned_levels(tiles["train"]),
        "temperature": temperatures(folder, tiles["val"], patch)})
    return state


def main(settings, run):
    settings = drawn(settings)
    beginnings.check_start(settings, run)
    strategy = choose_strategy()
    with working_in(run, strategy) as run:
        take_over(run)  # a training that was stopped between its end and this
        max_lr = float(first_says(strategy, lambda: peak_rate(settings["train"], run)))
        suggestion = max_lr if settings["train"]["max_lr"] == "auto" else None
        inputs = records.training_inputs(settings)
        if suggestion is not None:
            inputs["suggestion of lr_find.json"] = suggestion
        made_from = records.fingerprint(records.as_then(inputs, settings, run), "train.py")
        if first_says(strategy, lambda: records.training_stands(settings, run, made_from)):
            (run / "model.json").touch()  # for make
            print(f"finished already, from the same settings, tiles and code  {run / 'model.json'}")
            if checkpoints_in(run / "next/checkpoints"):
                print(f"an unfinished training of other settings, tiles or code lies in {run / 'next'}")
            return
        beginnings.weights_at_hand(settings)  # before any tile is read
        why = records.why_anew(settings, run, suggestion)
        for line in filter(None, [why, *(f"warning: {doubt}" for doubt in beginnings.doubt_start(settings))]):
            print(line, flush=True)
        state = train_in(work_folder(run, made_from), settings, strategy, inputs, max_lr)
        take_over(run)
        best = f"best validation mean IoU {state['best']:.4f}, epoch {state['best_epoch']}"
        print(f"{best}  {run / 'model.keras'}")


if __name__ == "__main__":
    command(main, __doc__)
