"""What make goes by: stamps under runs/<run>/.make, each rewritten only when what it stands for changes.

    python stamps.py --params demo.yaml

Writes a stamp for each section of the settings, for each script (its code without comments), for the raw files, and
settings.mk, which the Makefile includes. So a step reruns when something that it reads has changed, and not when a file
was touched or a comment edited; and when what it made is gone. seen.json remembers each file's size, time and digest:
only what has another size or time is read again.
"""
import contextlib
import json
import os
from pathlib import Path

from base.command import command
from base.files import code_of, code_sha256, only_one, replacing, sha256
from base.problem import Problem
from base.settings import SECTIONS
from imagery.raw_tiles import watched_files
from imagery.tiles import read_manifest, tiles_stand
from learning.records import finder_stands, training_stands
from mapping.maps import maps_stand
from reporting.metrics import page_stands, scores_stand

HERE = Path(__file__).parent
STEPS = ("prepare_data", "lr_find", "train", "predict", "evaluate", "report")
STANDS = {"prepared": tiles_stand, "finder": finder_stands, "model": training_stands, "predicted": maps_stand,
          "scores": scores_stand, "page": page_stands}


def prepared_from(settings, stamp, before):
    """({path: SHA-256} of the raw files that the prepared tiles were made from, the manifest's digest); ({}, `before`)
    where there are none yet, or where they were made anew, for another run, since this run's `stamp` and since the
    manifest had the digest `before`."""
    manifest = Path(settings["data"]["prepared"]) / "manifest.json"
    try:
        digest = sha256(manifest)
        if os.stat(manifest).st_mtime_ns > os.stat(stamp).st_mtime_ns and digest != before:
            return {}, before
        rows = read_manifest(manifest.parent)["tiles"].values()
        return {file["path"]: file["sha256"] for row in rows for file in row["raw"].values()}, digest
    except (Problem, OSError, KeyError, TypeError):  # prepare_data.py says what is wrong with it
        return {}, before


def lost(settings, run):
    """The steps whose results make would take for made although they, or a part of them, are gone or damaged."""
    return [step for step, stands in STANDS.items() if not stands(settings, run)]


def look(path, before, known):
    """[size, time, since] of a file: its size and time now, and the time of its last change of content, of a small one
    the digest. A file of another time but the same bytes as `known`, {path: SHA-256} of it or of its members, has not
    changed."""
    about = os.stat(path)
    now = [about.st_size, about.st_mtime_ns]
    if before and before[:2] == now:
        return before
    if about.st_size < 2**16:  # a world file, or a tile of a test
        return [*now, sha256(path)]
    own = {name: digest for name, digest in known.items() if name == str(path) or name.startswith(f"{path}/")}
    try:
        same = before and own and before[0] == now[0] and all(sha256(name) == own[name] for name in own)
    except (OSError, Problem):
        same = False
    return [*now, before[2] if same else now[1]]


def write_stamps(settings, run):
    """Looks at everything and writes the stamps of what has changed."""
    folder = run / ".make"
    try:
        seen = json.loads((folder / "seen.json").read_text(encoding="utf-8"))
        raw_seen, manifest = dict(seen["raw"]), seen["manifest"]
    except (OSError, ValueError, KeyError, TypeError):
        raw_seen, manifest = {}, None
    known, manifest = prepared_from(settings, folder / "prepared", manifest)
    raw = {str(path): look(path, raw_seen.get(str(path)), known) for path in watched_files(settings)}
    code = {f"{step}.code": code_of(f"{step}.py") for step in STEPS}
    code["report.code"] += code_sha256(HERE / "reporting/page.html")
    auto = "yes" if settings["train"]["max_lr"] == "auto" else ""
    contents = {"seen.json": json.dumps({"raw": raw, "manifest": manifest}, indent=1),
                "settings.mk": f"AUTO_LR := {auto}\nLOST := {' '.join(lost(settings, run))}\n",
                "raw": json.dumps({path: [size, since] for path, (size, _, since) in raw.items()}, indent=1),
                **{section: json.dumps(settings[section], indent=1) for section in SECTIONS},
                **code}
    for name, content in contents.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            with replacing(path) as temporary:
                temporary.write_text(content, encoding="utf-8")


def main(settings, run):
    prepared = settings["data"]["prepared"]
    with contextlib.ExitStack() as held:  # a stamp that is renewed while a step runs would be older than its result
        for folder in (run, *([prepared] if os.access(prepared, os.W_OK) else [])):
            held.enter_context(only_one(folder))
        write_stamps(settings, run)


if __name__ == "__main__":
    command(main, __doc__)
