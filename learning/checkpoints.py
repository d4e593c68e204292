"""A run that is stopped goes on to the bit: checkpoints, the best model so far, and where to start from.
"""
import json
import re
import shutil
import zipfile
import zlib

import numpy as np

from base.files import replacing, sha256
from base.problem import Problem
from base.settings import differences
from base.tables import parse_record, record_text, write_rows
from learning.records import COLUMNS
from learning.workers import agree, first_says, leads


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


def save_checkpoint(folder, trainer, state):
    """Writes epoch_<n>.npz: everything that an update changes, and `state` (JSON); keeps the last two."""
    arrays = {name: variable.numpy() for name, variable in trainer.variables().items()}
    arrays["state"] = np.frombuffer(record_text(state).encode(), np.uint8)
    with replacing(folder / f"epoch_{state['epoch']:05d}.npz") as temporary:
        np.savez(temporary, **arrays)
    for old in sorted(folder.glob("epoch_*.npz"))[:-2]:
        old.unlink()


def load_checkpoint(folder):
    """(path, arrays, state) of the newest checkpoint that is whole, or None where there is none; says which damaged one
    is passed over. Problem (exit 3) where all are damaged."""
    paths = sorted(folder.glob("epoch_*.npz"), reverse=True)
    for path in paths:
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}  # reading checks the zip's CRCs
            return path, arrays, parse_record(arrays.pop("state").tobytes().decode())
        except (OSError, ValueError, KeyError, TypeError, EOFError, NotImplementedError, RuntimeError,
                zipfile.BadZipFile, zlib.error) as error:  # NotImplementedError, RuntimeError: zipfile, of a format
            # that it does not know and of a password
            print(f"checkpoint {path}: damaged ({error}); going back to the one before", flush=True)
    if paths:
        raise Problem(f"checkpoints in {folder}: all {len(paths)} damaged, expected one that can be read; remove the "
                      "folder to start anew", code=3)
    return None


def restore(trainer, path, arrays):
    """Puts a checkpoint's arrays into the network, its average and the optimiser, on every worker: the first one's,
    None elsewhere."""
    variables = trainer.variables()
    for name, variable in variables.items():
        array = (arrays or {}).get(name)
        if arrays is not None and (array is None or array.shape != tuple(variable.shape)):
            raise Problem(f"checkpoint {path}: not of this network, expected {variable.path} {tuple(variable.shape)}; "
                          "remove the folder to start anew", code=2)
    mine = [variable.numpy() if arrays is None else arrays[name] for name, variable in variables.items()]
    for variable, array in zip(variables.values(), agree(trainer.strategy, mine)):
        variable.assign(array)
