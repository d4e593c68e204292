"""A stopped run goes on to the bit: checkpoints, the best model so far, where to start from. A folder is the
one that a training works in: the run's, or run/next beside a finished training."""
import contextlib
import json
import os
import re
import shutil
import zipfile
import zlib

import numpy as np

from base.files import replacing, sha256
from base.problem import Problem
from base.settings import differences
from base.tables import parse_record, read_facts, read_record, record_text, write_rows
from learning.records import COLUMNS
from learning.workers import agree, first_says, leads


def checkpoints_in(folder):
    """The checkpoints' paths in a folder, oldest first."""
    return sorted(folder.glob("epoch_*.npz"))


def is_of_earlier_version(path):
    """True where a model.json carries no digest of its own: it says of a finished training all the same."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return "sha256" in facts and "digest" not in facts
    except (OSError, ValueError, TypeError):
        return False


def work_folder(run, made_from):
    """Where a training works: in run/next where a finished one stands, which is not lost before the new one
    is finished, too; else in the run's folder, also where only records of the same training are gone."""
    try:
        same = read_facts(run).get("made_from") == made_from
    except Problem:
        stays = checkpoints_in(run / "next/checkpoints") or is_of_earlier_version(run / "model.json")
        return run / "next" if stays else run
    return run if same and checkpoints_in(run / "checkpoints") else run / "next"


def take_over(run):
    """Puts what is finished in run/next in the place of the earlier training, model.json last. Killed in
    between, the next call goes on; where nothing is finished there, nothing happens."""
    made = run / "next"
    if not (made / "model.json").exists():
        return
    if (made / "checkpoints").exists():  # they go first: until then run/tensorboard is the earlier training's
        shutil.rmtree(run / "tensorboard", ignore_errors=True)
    for path in sorted(made.iterdir(), key=lambda path: (path.name == "model.json", path)):
        if path.is_dir():
            shutil.rmtree(run / path.name, ignore_errors=True)
        os.replace(path, run / path.name)
    made.rmdir()


def has_model(folder, state):
    """True where model.keras is the file that was saved at the state's best epoch."""
    path = folder / "model.keras"
    return path.is_file() and sha256(path) == state["model_sha256"]


def save_network(network, path):
    """Writes a network as .keras, without the time of day and the memory addresses that Keras puts in: the
    same weights, the same bytes. Returns their SHA-256."""
    numbers = {}

    def renumber(match):
        return b'"shared_object_id": %d' % numbers.setdefault(match[1], len(numbers))

    with replacing(path) as temporary:
        network.save(temporary)
        with zipfile.ZipFile(temporary) as saved:
            parts = {name: saved.read(name) for name in saved.namelist()}
        about = json.loads(parts["metadata.json"])
        parts["metadata.json"] = json.dumps({**about, "date_saved": "1980-01-01@00:00:00"}).encode()
        parts["config.json"] = re.sub(rb'"shared_object_id": (\d+)', renumber, parts["config.json"])
        with zipfile.ZipFile(temporary, "w") as saved:
            for name, content in parts.items():
                saved.writestr(zipfile.ZipInfo(name), content)  # dated 1980
    return sha256(path)


def save_results(folder, trainer, state):
    """Writes history.csv and, where the state's epoch is the best, model.keras, which must otherwise be the
    file that was saved at the best one (Problem, exit 3)."""
    path = folder / "model.keras"
    if state["best_epoch"] == state["epoch"]:
        state["model_sha256"] = save_network(trainer.averaged, path)
    elif not has_model(folder, state):
        raise Problem(f"model {path}: missing or changed, expected the best so far, of epoch "
                      f"{state['best_epoch']}; put it back, or remove {folder / 'checkpoints'} to start anew",
                      code=3)
    write_rows(folder / "history.csv", COLUMNS, state["history"])


def begin(folder, inputs):
    """The checkpoint to go on from, (path, arrays, state), or None for a fresh start. An unfinished training
    from other inputs is refused (Problem, exit 2). One that was finished, but whose model is gone or damaged,
    is made anew; a model.json that no training wrote (make -t did, say) is no reason to: it goes alone."""
    try:
        read_facts(folder)
    except Problem:
        with contextlib.suppress(Problem):
            read_record(folder / "model.json", "train.py")
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        (folder / "model.json").unlink(missing_ok=True)
    checkpoint = load_checkpoint(folder / "checkpoints")
    if checkpoint is None:
        return None
    path, _, state = checkpoint
    changed = differences(state["inputs"], inputs)
    if changed:
        removed = folder if folder.name == "next" else folder / "checkpoints"
        raise Problem(*(f"checkpoint {path}: made from other settings or tiles, {key}: {json.dumps(before)} "
                        f"then, {json.dumps(now)} now" for key, before, now in changed),
                      f"to go on, set these back; for another run, copy the settings file; to start anew, "
                      f"remove {removed}", code=2)
    if path != checkpoints_in(folder / "checkpoints")[-1] and not has_model(folder, state):
        print(f"model.keras is a lost epoch's; that of epoch {state['epoch']} takes its place", flush=True)
        state.update(best=state["history"][-1]["val_mean_iou"], best_epoch=state["epoch"])
    return checkpoint


def start(trainer, folder, inputs, made_from):
    """The state to train on from: a checkpoint's, which is restored, or a fresh one. The first worker reads
    it, the others learn from it where they are. `made_from` is the code's too, which may have been mended."""
    checkpoint = begin(folder, inputs) if leads(trainer.strategy) else None
    state = {"epoch": 0, "best": -1.0, "best_epoch": 0, "model_sha256": None, "history": [],
             "inputs": inputs, "made_from": made_from}
    if not first_says(trainer.strategy, lambda: checkpoint is not None):
        return state
    path, arrays, state = checkpoint or (None, None, state)
    restore(trainer, path, arrays)
    names = ("epoch", "best", "best_epoch")
    epoch, best, best_epoch = agree(trainer.strategy, [np.float64(state[name]) for name in names])
    state.update(epoch=int(epoch), best=float(best), best_epoch=int(best_epoch))
    mended = "; the code has changed, the epochs before are the earlier code's"
    print(f"going on after epoch {state['epoch']} of {trainer.train['epochs']}"
          f"{mended if state['made_from'] != made_from else ''}", flush=True)
    state["made_from"] = made_from
    if checkpoint is None:  # nobody reads this worker's folder: any model will do there
        state["model_sha256"] = save_network(trainer.averaged, folder / "model.keras")
    save_results(folder, trainer, state)  # it may have been stopped before it could
    return state


def save_checkpoint(folder, trainer, state):
    """Writes epoch_<n>.npz: everything that an update changes, and `state` (JSON); keeps the last two."""
    arrays = {name: variable.numpy() for name, variable in trainer.variables().items()}
    arrays["state"] = np.frombuffer(record_text(state).encode(), np.uint8)
    with replacing(folder / f"epoch_{state['epoch']:05d}.npz") as temporary:
        np.savez(temporary, **arrays)
    for old in checkpoints_in(folder)[:-2]:
        old.unlink()


def load_checkpoint(folder):
    """(path, arrays, state) of the newest whole checkpoint, or None where there is none; says which damaged
    one is passed over. Problem (exit 3) where all are damaged."""
    paths = checkpoints_in(folder)
    for path in reversed(paths):
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}  # reading checks the zip's CRCs
            return path, arrays, parse_record(arrays.pop("state").tobytes().decode())
        except (OSError, ValueError, KeyError, TypeError, EOFError, NotImplementedError, RuntimeError,
                zipfile.BadZipFile, zlib.error) as error:  # some are zipfile's, of passwords, say
            print(f"checkpoint {path}: damaged ({error}); going back to the one before", flush=True)
    if paths:
        raise Problem(f"checkpoints in {folder}: all {len(paths)} damaged, expected one that can be read; "
                      "remove the folder to start anew", code=3)
    return None


def restore(trainer, path, arrays):
    """Puts the first worker's checkpoint (`arrays`, None on the others) into the trainer's variables."""
    variables = trainer.variables()
    if arrays is None:
        arrays = {name: variable.numpy() for name, variable in variables.items()}
    for name, variable in variables.items():
        if name not in arrays or arrays[name].shape != tuple(variable.shape):
            raise Problem(f"checkpoint {path}: not of this network, expected {variable.path} "
                          f"{tuple(variable.shape)}; remove the folder to start anew", code=2)
    first = agree(trainer.strategy, [arrays[name] for name in variables])
    for variable, array in zip(variables.values(), first):
        variable.assign(array)
