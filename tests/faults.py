"""Every step killed, and its disk filled, at every write: the same command afterwards ends with the same
bytes.

    python tests/faults.py                        all steps, about 25 minutes on 2 cores (make faults)
    python tests/faults.py prepare_data report    some of them

A point is where a step is about to open a file for writing, to rename, remove or make one, anywhere in its
folder. At each the step is killed (kill -9), and in another try refused any room on the disk from there on.
In further tries no file may grow beyond a limit (RLIMIT_FSIZE), for every file of a step its size less one
byte, so that also GDAL's and other libraries' own writes fail, the last one of a file too. Then the same
command runs undisturbed. The tries must leave no half-written file under a final name (the disturbed step's
own earlier results stand, or its new ones do), the second run must succeed, what it leaves must equal an
undisturbed run's, and no temporary file may be left. Prints the points and tries of each step. Steps run in
forks of this process, which has loaded the libraries once.
"""

import contextlib
import errno
import json
import os
import resource
import runpy
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.update(CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="2")

STEPS = ["prepare_data", "lr_find", "train", "predict", "evaluate", "report"]
CHANGING = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}
FREEING = {"os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"}  # what a full disk allows
CLOCK = {
    "outputs",
    "started",
    "finished",
    "training_seconds",
    "seconds",
    "seconds_per_tile",
    "digest",
    "patches_per_second",
    "waiting",
}
TIMED = {"report.html", "gains.png"}  # they show how long something took
LIMIT = 300  # seconds
LEAST = 8192  # bytes: what a step says goes to a file too


def watch(folder, count, at, deed):
    """Calls `deed` when this process is about to do its `at`-th write below a folder, and ever after; `count`
    is a list to which each is added."""

    def hook(event, arguments):
        if event == "open":
            path, mode, flags = arguments
            if not isinstance(path, (str, bytes, os.PathLike)) or not flags & (
                os.O_WRONLY | os.O_RDWR | os.O_CREAT
            ):
                return
        elif event in CHANGING:
            path = arguments[0]
        else:
            return
        path = os.path.abspath(os.fsdecode(path))
        if path.startswith(f"{folder}/") and "__pycache__" not in path and not path.endswith("/.lock"):
            count.append(f"{event} {path}")
            if len(count) >= at and not (deed is fill and event in FREEING):
                deed(path)

    sys.addaudithook(hook)


def kill(path):
    os.kill(os.getpid(), signal.SIGKILL)


def fill(path):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def run(step, folder, at=10**9, deed=None, size=None):
    """(exit code, what it said, points passed) of a step run in a fork; negative: the signal that ended it.
    `size`: how large a file may grow."""
    said, passed = folder.parent / "said.txt", folder.parent / "passed.txt"
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.chdir(folder)
            with open(said, "w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sys.argv, count = [str(ROOT / f"{step}.py"), "--params", "tiny.yaml"], []
            watch(folder, count, at, deed)
            if size:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            try:
                runpy.run_path(sys.argv[0], run_name="__main__")
                code = 0
            except SystemExit as stop:
                code = stop.code or 0
            passed.write_text("\n".join(count))
        except BaseException as error:
            print(f"TRACEBACK {type(error).__name__}: {error}", flush=True)
        finally:
            sys.stdout.flush()
            os._exit(code)
    deadline = time.monotonic() + LIMIT
    while (done := os.waitpid(process, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return None, f"still running after {LIMIT} s", []
        time.sleep(0.01)
    points = passed.read_text().splitlines() if passed.exists() else []
    passed.unlink(missing_ok=True)
    return os.waitstatus_to_exitcode(done[1]), said.read_text(errors="replace"), points


def timeless(value):
    """JSON without what a clock put in."""
    if isinstance(value, dict):
        return {key: timeless(part) for key, part in value.items() if key not in CLOCK}
    return [timeless(part) for part in value] if isinstance(value, list) else value


def content(path):
    """A file's bytes, without what a clock put in; a checkpoint's arrays and state."""
    if path.name in TIMED:
        return path.stat().st_size > 1000
    if path.suffix == ".json":
        return timeless(json.loads(path.read_bytes()))
    if path.suffix == ".csv":
        header, *rows = [line.split(",") for line in path.read_text().splitlines()]
        return [[cell for name, cell in zip(header, row) if name not in CLOCK] for row in (header, *rows)]
    if path.suffix == ".npz":
        import numpy as np

        with np.load(path) as file:
            arrays = {name: file[name].tobytes() for name in file.files if name != "state"}
            state = json.loads(file["state"].tobytes())
        return arrays, timeless(state)
    return path.read_bytes()


def look(folder):
    """{path: content} of a folder, locks left out."""
    return {
        str(path.relative_to(folder)): content(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def build(folder):
    """A project with tiny tiles in a folder; nothing has run in it."""
    from conftest import SETTINGS, SIZES, save_settings, write_tile

    folder.mkdir(parents=True)
    settings = json.loads(json.dumps(SETTINGS))
    settings["train"].update(max_lr="auto")
    settings["predict"].update(compare=True, also=["confidence", "polygons"])
    for tile, shape in SIZES.items():
        write_tile(folder / "raw", tile, shape)
    save_settings(folder, settings)


def try_point(step, before, after, place, at=10**9, deed=None, size=None):
    """What is wrong with a step that was disturbed at a point and run again: a text, or None."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(before, place)
    earlier = look(before)
    code, said, _ = run(step, place, at, deed, size)
    expected = -signal.SIGKILL if deed is kill else 4
    if code != expected:
        return f"exit code {code}, expected {expected}: {said[-400:]}"
    if deed is not kill and (said.count("error: ") != 1 or "Traceback" in said):
        return f"not one line: {said[-400:]}"
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(place / "runs/tiny/tensorboard")
    for path in sorted(place.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            name = str(path.relative_to(place))
            try:
                content(path)  # whole: JSON, tables and checkpoints can be read
            except Exception as error:
                return f"{name} is no whole file: {error}"
            if path.suffix in (".npy", ".tif", ".keras") and content(path) not in (
                earlier.get(name),
                after.get(name),
            ):
                if not (step == "train" and path.suffix == ".keras"):  # that of an earlier epoch
                    return f"{name} is neither what was there nor what should be"
    code, said, _ = run(step, place)
    if code != 0:
        return f"the same command again: exit code {code}: {said[-400:]}"
    found = look(place)
    wrong = [name for name in {**found, **after} if found.get(name) != after.get(name)]
    return f"other files than an undisturbed run's: {', '.join(wrong)}" if wrong else None


def main(wanted):
    import matplotlib  # noqa: F401  each once, before the forks
    import rasterio  # noqa: F401
    import skimage.transform  # noqa: F401

    from base.command import quiet_stderr

    if {"lr_find", "train", "predict"} & set(wanted):
        with quiet_stderr():
            import keras  # noqa: F401
            import tensorflow  # noqa: F401
    failed, total = [], 0
    with tempfile.TemporaryDirectory() as top:
        project = Path(top).resolve() / "project"
        build(project)
        for step in STEPS:
            before, started = Path(top).resolve() / f"before_{step}", time.monotonic()
            shutil.copytree(project, before)
            code, said, points = run(step, project)
            assert code == 0, f"{step}: {said}"
            if step not in wanted:
                continue
            after, tries = look(project), 0
            for at in range(1, len(points) + 1):
                for deed in (kill, fill):
                    tries += 1
                    wrong = try_point(step, before, after, Path(top).resolve() / "tried/project", at, deed)
                    if wrong:
                        failed.append(step)
                        print(
                            f"FAILED {step}, {deed.__name__} at {at} ({points[at - 1]}): {wrong}", flush=True
                        )
            paths = {
                path.relative_to(project): path.stat().st_size
                for path in project.rglob("*")
                if path.is_file()
            }
            made = {
                size
                for path, size in paths.items()
                if size > LEAST
                and not ((before / path).exists() and content(before / path) == content(project / path))
            }
            for size in sorted(made):
                tries += 1
                wrong = try_point(step, before, after, Path(top).resolve() / "tried/project", size=size - 1)
                if wrong:
                    failed.append(step)
                    print(f"FAILED {step}, no file above {size - 1} bytes: {wrong}", flush=True)
            total += tries
            print(
                f"{step}: {len(points)} points, {len(made)} sizes, {tries} tries, "
                f"{failed.count(step)} failed, "
                f"{time.monotonic() - started:.0f} s",
                flush=True,
            )
    print(f"{total - len(failed)} passed, {len(failed)} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or STEPS))
