"""What make goes by: stamps under runs/<run>/.make, each rewritten only when what it stands for changes.

    python stamps.py --params demo.yaml --announce   first of all; announces a training that is made anew
    python stamps.py --params demo.yaml --weights    asks for the encoder's weights before a first training
    python stamps.py --params demo.yaml --keep       refuses a finished model that is not of these settings

Writes a stamp for each section of the settings and the file of first weights that it names, for the code of
each step, for the raw files; <run>.yaml, the whole settings, which every step of that make reads, whatever is
edited meanwhile; and settings.mk, which the Makefile includes. So a step reruns when something that it reads
has changed, and not when a file was touched or a comment edited; and when what it made is gone. seen.json
remembers the size, time and digest of each raw file: only a file of another size or time is read again.
"""
import contextlib
import json
import os
import shlex
import sys
from pathlib import Path

from base.blocks import drawn
from base.code import code_of, code_sha256
from base.command import command
from base.files import only_one, sha256
from base.keys import SECTIONS
from base.problem import Problem, first_of
from base.strict_yaml import yaml_text
from base.tables import read_facts, write_text
from imagery.raw_tiles import watched_files
from imagery.tiles import read_manifest, tiles_stand
from learning.beginnings import weights_at_hand
from learning.records import changes_upstream, finder_stands, training_stands, why_anew
from learning.weight_files import is_file_of_weights
from mapping.maps import maps_stand
from reporting.metrics import page_stands, scores_stand

STEPS = ("prepare_data", "lr_find", "train", "predict", "evaluate", "report")
STANDS = {"prepared": tiles_stand, "finder": finder_stands, "model": training_stands, "predicted": maps_stand,
          "scores": scores_stand, "page": page_stands}
MODEL = ("prepare_data.code", "train.code", "data", "split", "raw", "prepared", "input", "augment", "model",
         "train", "seed")  # stamps of all that a model is made from
FINDER = "lr_find.code", "lr_find"  # the same of the finder, where train.max_lr is auto
SMALL = 2**16  # bytes of a file that is read at every look: a world file, or a tile of a test


def prepared_from(settings, stamp, before):
    """({path: SHA-256}, digest of the manifest): what is known of the raw files, by which one that was only
    touched is recognised.

    Nothing is known, ({}, `before`), before the first preparation, and where another run has prepared the
    tiles since make last looked here (`before` is the digest that the manifest had then): it may have read
    other bytes.
    """
    manifest = Path(settings["data"]["prepared"]) / "manifest.json"
    try:
        digest = sha256(manifest)
        if os.stat(manifest).st_mtime_ns > os.stat(stamp).st_mtime_ns and digest != before:
            return {}, before
        rows = read_manifest(manifest.parent)["tiles"].values()
        return {file["path"]: file["sha256"] for row in rows for file in row["raw"].values()}, digest
    except (Problem, OSError):  # prepare_data.py says what is wrong with it
        return {}, before


def look(path, before, known):
    """[size, time, content] of a raw file now: `content` is the digest of a small one, of another the time
    when its bytes last changed. `before` is what the last look gave; a file of another time whose bytes, or
    whose members' bytes, are those of `known` ({path: SHA-256}) has not changed."""
    about = os.stat(path)
    now = [about.st_size, about.st_mtime_ns]
    if before and before[:2] == now:
        return before
    if about.st_size < SMALL:
        return [*now, sha256(path)]
    names = [str(path)] if str(path) in known else []
    if str(path).lower().endswith(".zip"):
        names = [name for name in known if name.startswith(f"{path}/")]
    own = {name: known[name] for name in names}
    try:
        same = before and own and before[0] == now[0] and all(sha256(name) == own[name] for name in own)
    except (OSError, Problem):
        same = False
    return [*now, before[2] if same else now[1]]


def look_at_raw_files(settings, folder):
    """({path: `look`}, the manifest's digest), by what the last look left in seen.json."""
    try:
        seen = json.loads((folder / "seen.json").read_text(encoding="utf-8"))
        before, manifest = dict(seen["raw"]), seen["manifest"]
    except (OSError, ValueError, KeyError, TypeError):
        before, manifest = {}, None
    known, manifest = prepared_from(settings, folder / "prepared", manifest)
    raw = {}
    for path, text in watched_files(settings).items():
        raw[str(path)] = look(path, before.get(str(path)), known) if text is None else [0, 0, text]
    return raw, manifest


def with_weights(section, settings, stamp):
    """A section of the settings as text; and the digest of the file of first weights that it names. Where
    that is gone by now, what was made with it is no other for that: then the text that the `stamp` has."""
    text = json.dumps(settings[section], indent=1)
    encoder, weights = settings["model"]["encoder"], settings["model"]["weights"]
    named = {"train": settings["train"]["start_from"],
             "model": None if encoder == "none" or weights in ("imagenet", "none") else weights}
    if not named.get(section):
        return text
    with contextlib.suppress(OSError, Problem):
        if is_file_of_weights(named[section]):
            return f"{text}\n{sha256(named[section])}"
    before = stamp.read_text(encoding="utf-8") if stamp.exists() else ""
    return before if before.startswith(text) else text


def write_stamps(settings, run):
    """Looks at everything and writes the stamps of what has changed."""
    raw, manifest = look_at_raw_files(settings, run / ".make")
    lost = [step for step, stands in STANDS.items() if not stands(drawn(settings, needed=False), run)]
    auto = "yes" if settings["train"]["max_lr"] == "auto" else ""
    finished = "yes" if is_finished(run) else ""
    code = {f"{step}.code": code_of(f"{step}.py") for step in STEPS}
    code["report.code"] += code_sha256(Path(__file__).parent / "reporting/page.html")
    contents = {
        "seen.json": json.dumps({"raw": raw, "manifest": manifest}, indent=1),
        "raw": json.dumps({path: [size, content] for path, (size, _, content) in raw.items()}, indent=1),
        f"{run.name}.yaml": yaml_text(settings),
        "settings.mk": f"AUTO_LR := {auto}\nFINISHED := {finished}\nLOST := {' '.join(lost)}\n",
        **{section: with_weights(section, settings, run / ".make" / section) for section in SECTIONS},
        **code}
    for name, content in contents.items():
        path = run / ".make" / name
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            write_text(path, content)


def is_finished(run):
    """True where a run has a model that predict.py takes."""
    try:
        read_facts(run)
    except Problem:
        return False
    return True


def check_model(settings, run):
    """Problem (exit 2) where something that the finished model of a run is made from has changed, so that
    make train would train anew, or might. Nothing has where model.json is newer than all stamps of that:
    train.py left it so, or make -t. Of the settings that the training itself wrote, the model is asked for as
    it stands, on whatever machine."""
    if Path(os.environ.get("PARAMS", "")).resolve() == (run / "params.yaml").resolve():
        return
    made, auto = (run / "model.json").stat().st_mtime_ns, settings["train"]["max_lr"] == "auto"
    stamps = [run / ".make" / name for name in (*MODEL, *(FINDER if auto else ()))]
    renewed = [path.name for path in stamps if path.exists() and path.stat().st_mtime_ns > made]
    if not renewed:
        return
    try:
        reasons, took = changes_upstream(settings, run, raw_too="raw" in renewed)
    except (LookupError, ValueError, TypeError, AttributeError):
        reasons, took = ["run.json is of an earlier version"], "an unknown time"
    if reasons:
        refuse(settings, run, reasons, took)


def refuse(settings, run, reasons, took):
    """Problem (exit 2) that says what changed, what make train would do, and who takes the model as it is."""
    file = os.environ.get("PARAMS", f"{run.name}.yaml")  # make's
    facts = read_facts(run)
    same = list(facts["classes"].items()) == list(settings["data"]["classes"].items())
    taken = same and settings["predict"]["window"] % facts.get("multiple", 1) == 0
    words = [f"--params={file}", *(f"--{name.lower()}={os.environ[name]}" for name in ("TILE", "EXTRA")
                                   if os.environ.get(name))]
    kept = f", .venv/bin/python predict.py {shlex.join(words)} takes the model as it stands" if taken else ""
    raise Problem(f"model {run / 'model.keras'}: {first_of(reasons)}, expected the settings, tiles and code "
                  f"that it was trained with; make train PARAMS={file} trains anew (the last training took "
                  f"{took}){kept}", code=2)


def main(settings, run, announce=False, keep=False, weights=False):
    if keep:
        check_model(drawn(settings, needed=False), run)
        return
    prepared = settings["data"]["prepared"]
    with contextlib.ExitStack() as held:  # a stamp renewed while a step runs would be older than its result
        for folder in (run, *([prepared] if os.access(prepared, os.W_OK) else [])):
            held.enter_context(only_one(folder))
        write_stamps(settings, run)
    if announce and (reason := why_anew(drawn(settings, needed=False), run)):
        print(reason, file=sys.stderr)
    if weights and not is_finished(run):
        weights_at_hand(settings)  # before any tile is read


if __name__ == "__main__":
    command(main, __doc__, switches={
        "announce": "say what will be trained anew", "keep": "refuse a finished model of other settings",
        "weights": "ask for the encoder's weights where no model is finished"})
