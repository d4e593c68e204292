"""Every step killed, and its disk filled, at every write: the same command afterwards ends with the same
bytes.

    python tests/faults.py                        all steps, about 25 minutes on 2 cores (make faults)
    python tests/faults.py prepare_data report    some of them
    python tests/faults.py encoders               what is about pretrained encoders alone

A point is where a step is about to open a file for writing, to rename, remove or make one, anywhere in its
folder. At each the step is killed (kill -9), and in another try refused any room on the disk from there on.
In further tries no file may grow beyond a limit (RLIMIT_FSIZE), for every file of a step its size less one
byte, so that also GDAL's and other libraries' own writes fail, the last one of a file too. Then the same
command runs undisturbed. The tries must leave no half-written file under a final name (the disturbed step's
own earlier results stand, or its new ones do), the second run must succeed, what it leaves must equal an
undisturbed run's, and no temporary file may be left. Prints the points and tries of each step. Steps run in
forks of this process, which has loaded the libraries once.

With a pretrained encoder the training is disturbed at some points by chance; first weights that are no such
weights must be refused in one line, and nothing be written; and with each of the four encoders whose weights
Keras reads, from a file of random ones, a short chain must end with a report that draws it.
"""

import contextlib
import errno
import json
import os
import pickle
import random
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
OF_KERAS = {
    "mobilenet_v3_large": "MobileNetV3Large",
    "efficientnet_v2_b0": "EfficientNetV2B0",
    "efficientnet_v2_b3": "EfficientNetV2B3",
    "convnext_tiny": "ConvNeXtTiny",
}
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
LIMIT = 600  # seconds
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


def build(folder, epochs=2, **model):
    """A project with tiny tiles in a folder; nothing has run in it. `model`: of an encoder's settings."""
    from conftest import SETTINGS, SIZES, save_settings, write_tile

    folder.mkdir(parents=True)
    settings = json.loads(json.dumps(SETTINGS))
    settings["train"].update(max_lr="auto")
    settings["predict"].update(compare=True, also=["confidence", "polygons"])
    if model:
        settings["model"].update(model, width=8, stem=4)
        settings["train"].update(max_lr=0.005, optimizer="adamw", epochs=epochs, freeze_epochs=epochs - 1)
        settings["predict"].update(compare=False, also=[])
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


class Harm:
    """A pickle of this makes a file."""

    def __reduce__(self):
        return open, ("canary", "w")


def odd_weights(folder):
    """{path: what its refusal says}: files that are no first weights of efficientnet_lite0, in a folder."""
    from learning.weight_files import weights_file

    whole = weights_file("efficientnet_lite0", "imagenet").read_bytes()
    (folder / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (folder / "harm.pth").write_bytes(whole[:15] + pickle.dumps(Harm()))
    (folder / "model.keras").write_bytes(b"PK\x03\x04")
    (folder / "na\u00efve\nname.pth").write_bytes(b"")
    (folder / "folder.h5").mkdir()
    os.mkfifo(folder / "fifo.pth")
    with open(folder / "sparse.pth", "wb") as file:
        file.truncate(10 * 10**9)
    return {
        "cut.pth": "cut after",
        "harm.pth": "cannot be read",
        "model.keras": "a zip file, and cut",
        "na\u00efve\nname.pth": "empty",
        "folder.h5": "no file",
        "fifo.pth": "no file",
        "sparse.pth": "10,000,000,000 bytes, expected",
        "none.pth": "no such file",
    }


def try_odd_weights(top):
    """[what is wrong] of a training from each of the files of `odd_weights`; [] where all are refused."""
    from conftest import save_settings

    from base.settings import read_settings

    folder, wrong = top / "odd/project", []
    build(folder, encoder="efficientnet_lite0", weights="imagenet")
    assert run("prepare_data", folder)[0] == 0
    for name, told in odd_weights(folder).items():
        settings, before = read_settings(folder / "tiny.yaml"), sorted(folder.rglob("*"))
        settings["model"]["weights"] = name
        save_settings(folder, settings)
        started = time.monotonic()
        code, said, _ = run("train", folder)
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        made = {*folder.rglob("*")} - {*before, folder / "runs", folder / "runs/tiny"}
        left = [str(path) for path in made if not path.name.startswith(".")]
        if code != 3 or len(lines) != 1 or told not in lines[0] or "Traceback" in said or left:
            wrong.append(f"{name!r}: exit code {code}, {left}, {said[-300:]}")
        print(f"weights {name!r}: {time.monotonic() - started:.0f} s", flush=True)
    return wrong


def write_random_weights(encoder, path):
    """Writes a file of random weights of keras.applications, in a fork, as the steps run; in Keras's older
    format, and with the classifier, where its name does not end in .weights.h5."""
    process = os.fork()
    if process == 0:
        import h5py
        import keras
        from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

        build = getattr(keras.applications, OF_KERAS[encoder])
        if path.suffixes == [".weights", ".h5"]:
            build(include_top=False, weights=None, input_shape=(None, None, 3)).save_weights(path)
        else:
            with h5py.File(path, "w") as file:
                save_weights_to_hdf5_group(file, build(weights=None))
        os._exit(0)
    assert os.waitpid(process, 0)[1] == 0


def try_chain(encoder, name, top):
    """[what is wrong] of a short chain with an encoder, from a file of random weights of this name."""
    folder = top / encoder
    build(folder, epochs=1, encoder=encoder, weights=name)
    write_random_weights(encoder, folder / name)
    for step in (step for step in STEPS if step != "lr_find"):
        code, said, _ = run(step, folder)
        if code != 0:
            return [f"{encoder}, {step}: exit code {code}: {said[-400:]}"]
    drawn = (folder / "runs/tiny/figures/network.png").exists()
    page = (folder / "runs/tiny/report.html").read_text()
    return [] if drawn and encoder in page else [f"{encoder}: no figure of it in the report"]


def try_encoders(top, seed=1):
    """(tries, [what is wrong]) of all that is about pretrained encoders."""
    project, before, rng = top / "pretrained/project", top / "pretrained_before", random.Random(seed)
    build(project, encoder="efficientnet_lite0", weights="imagenet")
    assert run("prepare_data", project)[0] == 0
    shutil.copytree(project, before)
    code, said, points = run("train", project)
    assert code == 0, said
    after, wrong = look(project), []
    disturbed = [(at, deed) for at in rng.sample(range(1, len(points) + 1), 4) for deed in (kill, fill)]
    for at, deed in disturbed:
        found = try_point("train", before, after, top / "tried/project", at, deed)
        wrong += [f"encoder, {deed.__name__} at {at} ({points[at - 1]}): {found}"] if found else []
    wrong += try_odd_weights(top)
    for encoder, name in zip(OF_KERAS, ("a.weights.h5", "older.h5") * 2):
        wrong += try_chain(encoder, name, top)
        print(f"{encoder}: the chain, {len(wrong)} failed so far", flush=True)
    return len(disturbed) + 8 + len(OF_KERAS), wrong


def load_libraries():
    """Each once, before the forks."""
    import matplotlib  # noqa: F401
    import rasterio  # noqa: F401
    import skimage.transform  # noqa: F401

    from base.command import quiet_stderr

    with quiet_stderr():
        import keras  # noqa: F401
        import tensorflow  # noqa: F401


def main(wanted):
    load_libraries()
    failed, total = [], 0
    with tempfile.TemporaryDirectory() as top:
        project = Path(top).resolve() / "project"
        build(project)
        steps = [STEPS.index(step) for step in wanted if step in STEPS]
        for step in STEPS[: 1 + max(steps, default=-1)]:
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
        if "encoders" in wanted:
            tries, wrong = try_encoders(Path(top).resolve())
            print(*(f"FAILED {line}" for line in wrong), sep="\n", flush=True)
            total += tries
            failed += wrong
    print(f"{total - len(failed)} passed, {len(failed)} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or [*STEPS, "encoders"]))
