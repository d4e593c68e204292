"""Thousands of damaged files through all that reads them: an answer or one clean error, soon and in little
memory.

    python tests/fuzz.py            2,000 rasters and 2,000 other files, about 10 minutes (make faults)
    python tests/fuzz.py 100 7      100 of each, by seed 7

Rasters: images and labels (painted, with alpha, one-hot, of values, masked, with nodata), their bytes and
TIFF tags changed, or beside them a damaged world file, PAM file or .prj; some with a collar, by one
data.nodata or another; prepared as prepare_data.py does. Other files:
the manifest, records, tables and checkpoints, their bytes changed; records also as JSON, and a manifest that
is whole but another's; read as the steps read them. Each may take 10 s and 2 GB more than this process holds.
Prints how many were answered and refused, and what was wrong with the rest, with the seed that shows it.
"""
import collections
import contextlib
import io
import json
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.update(CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="2")
ODD_NUMBERS = (0, 1, 2, 3, 7, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
ODD_VALUES = (None, True, "", "x", "<script>", -1, 0, 1, 1.5, 1e308, float("nan"), float("inf"), [], {}, [[]],
              "9" * 99)
BATCH = 50  # mutations in one fork


def change_bytes(rng, content):
    """The content with a few of its bytes changed, cut out, doubled, or with its end cut off."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at, length = rng.randrange(len(content) + 1), rng.choice((1, 1, 2, 4, 16, 200))
        deed = rng.randrange(6)
        if deed == 0:
            del content[at:]
        elif deed == 1:
            del content[at: at + length]
        elif deed == 2:
            content[at:at] = content[at: at + length]
        elif deed == 3:
            content[at: at + length] = rng.randbytes(length)
        elif deed == 4:
            content[at: at + length] = bytes(min(length, len(content) - at))
        elif at < len(content):
            content[at] ^= 1 << rng.randrange(8)
    return bytes(content)


def change_tags(rng, content):
    """A TIFF (little-endian) with one field of one tag changed."""
    content = bytearray(content)
    first = struct.unpack_from("<I", content, 4)[0]
    entry = first + 2 + 12 * rng.randrange(struct.unpack_from("<H", content, first)[0])
    at, form = rng.choice(((0, "<H"), (2, "<H"), (4, "<I"), (8, "<I"), (8, "<I")))
    limit = 2 ** (8 * struct.calcsize(form))
    struct.pack_into(form, content, entry + at, rng.choice(ODD_NUMBERS) % limit)
    return bytes(content)


def change_json(rng, value):
    """A JSON value with one part of it removed, doubled, renamed or replaced by something odd."""
    value = json.loads(json.dumps(value))
    places, todo = [], [value]
    while todo:
        part = todo.pop()
        for key in (part if isinstance(part, dict) else range(len(part))):
            places.append((part, key))
            if isinstance(part[key], (dict, list)):
                todo.append(part[key])
    part, key = rng.choice(places)
    deed = rng.randrange(4)
    if deed == 0:
        del part[key]
    elif deed == 1 and isinstance(part, dict):
        part[rng.choice(("", "<b>", "x"))] = part.pop(key)
    elif deed == 1:
        part.append(part[key])
    else:
        part[key] = rng.choice(ODD_VALUES)
    return value


def finished(folder):
    """A project in which all steps have run; its settings."""
    import faults

    from base.settings import read_settings
    faults.build(folder)
    for step in faults.STEPS:
        code, said, _ = faults.run(step, folder)
        assert code == 0, said
    os.chdir(folder)
    return read_settings("tiny.yaml")


def write_beside(rng, path):
    """Puts a damaged file beside a raster, of those that say where it lies and what has no data."""
    world = b"0.05\n0\n0\n-0.05\n366000.025\n5807999.975\n"
    system = b'LOCAL_CS["made up",UNIT["metre",1]]' if rng.random() < 0.2 else b"EPSG:32633"
    pam = (b"<PAMDataset><SRS>EPSG:32633</SRS><GeoTransform>366000, 0.05, 0, 5808000, 0, -0.05</GeoTransform>"
           b'<GCPList Projection="EPSG:32633"><GCP Pixel="1" Line="2" X="366000" Y="5808000"/></GCPList>'
           b'<Metadata domain="RPC"><MDI key="LAT_OFF">52</MDI></Metadata><PAMRasterBand band="1">'
           b"<NoDataValue>0</NoDataValue></PAMRasterBand></PAMDataset>")
    place, content = rng.choice(((path.with_suffix(".tfw"), world), (path.with_suffix(".prj"), system),
                                 (path.with_name(path.name + ".aux.xml"), pam)))
    place.write_bytes(change_bytes(rng, content) if rng.random() < 0.8 else content)
    if place.suffix == ".prj":
        path.with_suffix(".tfw").write_bytes(world)


def add_collar(rng, path):
    """Gives a raster a flat corner or side, as one value, and perhaps odd holes."""
    import numpy as np
    import rasterio
    with rasterio.open(path, "r+") as raster:
        pixels, value = raster.read(), rng.choice((0, 255))
        high, wide = rng.randrange(1, raster.height + 1), rng.randrange(1, raster.width + 1)
        pixels[:, :high, :wide] = value
        noise = np.random.default_rng(rng.randrange(2**32)).random(pixels.shape[1:])
        pixels[:, noise < rng.choice((0, 0.1, 0.4))] = 7
        raster.write(pixels)


def rewrite_label(rng, path, classes):
    """A painted label written otherwise, as people's programs do: True where by its classes' values."""
    import numpy as np
    import rasterio
    from rasterio.enums import ColorInterp

    from imagery.labels import palette
    with rasterio.open(path) as source:
        colours = np.moveaxis(source.read(), 0, -1)
    index = (colours[..., None, :] == palette(classes)[: len(classes)]).all(-1)
    kind, dtype = rng.choice(("alpha", "one-hot", "values")), rng.choice(("uint8", "int16", "float32"))
    pixels = {"alpha": np.dstack([colours, np.full(index.shape[:2], 255, np.uint8)]),
              "one-hot": (index * rng.choice((1, 255))).astype(dtype),
              "values": index.argmax(-1, keepdims=True).astype(dtype)}[kind]
    hidden = (slice(rng.randrange(20)), slice(rng.randrange(20)))
    pixels[hidden] = rng.choice((0, 7, 1.5)) if rng.random() < 0.3 else 0
    profile = {"driver": "GTiff", "height": pixels.shape[0], "width": pixels.shape[1],
               "count": pixels.shape[2], "dtype": pixels.dtype}
    with rasterio.open(path, "w", **profile, nodata=rng.choice((None, None, 0, 7, 255))) as target:
        if kind == "one-hot":
            target.colorinterp = [ColorInterp.undefined] * target.count
        target.write(np.moveaxis(pixels, -1, 0))
        if rng.random() < 0.3:
            target.write_mask(index.any(-1) & (index.argmax(-1) > 0))
    return kind == "values"


def raster_case(rng, settings):
    """A damaged image or label, or one with a damaged file beside it or a collar, prepared with the others;
    what reads it."""
    import shutil

    import prepare_data
    shutil.rmtree("fuzz", ignore_errors=True)
    shutil.copytree("raw", "fuzz/raw")
    data = {**settings["data"], "raw": "fuzz/raw", "prepared": "fuzz/prepared"}
    target = rng.choice(sorted(Path("fuzz/raw").rglob("*.tif")))
    if rng.random() < 0.3:
        data["nodata"] = rng.choice((0, 255, -9999.5, 1e300, "#000000", "#ffffff"))
    if "label" in target.name and rng.random() < 0.7:
        seed = rng.random()
        if rewrite_label(random.Random(seed), target, data["classes"]):
            data.update(label_values={name: n for n, name in enumerate(data["classes"])}, ignore_colours=[7])
            for other in {*target.parent.glob("*.tif")} - {target}:
                rewrite_label(random.Random(seed), other, data["classes"])
    elif rng.random() < 0.3:
        add_collar(rng, target)
    if rng.random() < 0.3:
        write_beside(rng, target)
    elif rng.random() < 0.8:
        target.write_bytes((change_tags if rng.random() < 0.4 else change_bytes)(rng, target.read_bytes()))
    return lambda: prepare_data.main({**settings, "data": data}, Path("fuzz/runs"))


def spoil(rng, path):
    """Changes some of a file's bytes or, of JSON, perhaps one of its values."""
    content = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.5:
        path.write_text(json.dumps(change_json(rng, json.loads(content)), indent=1) + "\n")
    else:
        path.write_bytes(change_bytes(rng, content))


def manifest_case(rng, settings):
    """A damaged manifest, or one whose tiles are others."""
    import shutil

    from imagery.tiles import manifest_text, open_prepared, read_manifest
    shutil.copytree("prepared", "fuzz/prepared")
    path = Path("fuzz/prepared/manifest.json")
    if rng.random() < 0.5:
        tiles = json.loads(path.read_text())["tiles"]
        path.write_text(manifest_text(tiles if rng.random() < 0.1 else {"2_13": tiles["2_11"]}))
    else:
        path.write_bytes(change_bytes(rng, path.read_bytes()))
    data = {**settings["data"], "prepared": "fuzz/prepared"}
    return lambda: [open_prepared(data, tile) for tile in (*read_manifest("fuzz/prepared")["tiles"], "2_13")]


def checkpoint_case(rng, folder):
    """A damaged checkpoint, or one that is whole but says something else of itself."""
    import numpy as np

    from learning.checkpoints import load_checkpoint
    path = max(folder.glob("*.npz"))
    if rng.random() < 0.5:
        with np.load(path) as file:
            arrays = dict(file)
        state = change_json(rng, json.loads(arrays["state"].tobytes()))
        np.savez(path, **{**arrays, "state": np.frombuffer(json.dumps(state).encode(), np.uint8)})
    else:
        path.write_bytes(change_bytes(rng, path.read_bytes()))
    return lambda: load_checkpoint(folder)


def file_case(rng, settings):
    """A damaged file of a finished run; what reads it."""
    import shutil

    import compare
    import evaluate
    from base.tables import (
        read_columns,
        read_facts,
        read_finder,
        read_record,
        read_table,
    )
    from reporting.metrics import card
    run = Path("fuzz/run")
    shutil.rmtree("fuzz", ignore_errors=True)
    shutil.copytree("runs/tiny", run)
    name = rng.choice(("manifest", "checkpoint", "model.json", "metrics.json", "run.json", "lr_find.json",
                       "history.csv", "schedule.csv", "lr_find.csv", "predict.csv"))
    if name == "manifest":
        return manifest_case(rng, settings)
    if name == "checkpoint":
        return checkpoint_case(rng, run / "checkpoints")
    spoil(rng, run / name)
    column = "loss" if name == "history.csv" else "learning_rate"
    return {
        "model.json": lambda: read_facts(run),
        "metrics.json": lambda: (card(read_record(run / name, "evaluate.py")), compare.read_run(run)),
        "run.json": lambda: read_record(run / name, "train.py"),
        "lr_find.json": lambda: read_finder(run),
        "predict.csv": lambda: (read_table(run / name), evaluate.read_seconds(settings, run)),
    }.get(name, lambda: read_columns(run / name, column))


class Hung(BaseException):
    """A case took more than 10 s; no `except` of the readers catches it."""


def hung(*_):
    raise Hung


def run_batch(make, seeds, settings, out):
    """In a fork: every case, its outcome a line of `out`."""
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 2 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGALRM, hung)
    from base.problem import Problem
    for seed in seeds:
        read, said = make(random.Random(seed), settings), io.StringIO()
        signal.alarm(10)
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                read()
            outcome = "answered"
        except Problem as problem:
            clean = problem.code == 3 and all(line and "\n" not in line for line in problem.lines)
            outcome = "refused" if clean else f"WRONG seed {seed}: {problem.code} {problem.lines}"
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            outcome = (f"WRONG seed {seed}: {type(error).__name__} {' '.join(str(error).split())[:150]} "
                       f"at {Path(last.filename).name}:{last.lineno}")
        signal.alarm(0)
        with open(out, "a") as file:
            file.write(outcome + "\n")


def fuzz(name, make, seeds, settings):
    """Prints what became of the cases; the number that were wrong."""
    counts, out = collections.Counter(), Path("fuzz.txt")
    while seeds:
        out.write_text("")
        process = os.fork()
        if process == 0:
            run_batch(make, seeds[:BATCH], settings, out)
            os._exit(0)
        written = time.monotonic(), 0
        while (done := os.waitpid(process, os.WNOHANG))[0] == 0:
            if out.stat().st_size > written[1]:
                written = time.monotonic(), out.stat().st_size
            elif time.monotonic() - written[0] > 30:  # in code that no signal interrupts
                os.kill(process, signal.SIGKILL)
            time.sleep(0.02)
        code = os.waitstatus_to_exitcode(done[1])
        lines = out.read_text().splitlines()
        if code:
            lines.append(f"WRONG seed {seeds[len(lines)]}: the process ended with {code}")
        for line in lines:
            counts[line.split()[0]] += 1
            if line.startswith("WRONG"):
                print(f"{name}: {line}", flush=True)
        seeds = seeds[len(lines):]
    print(f"{name}: {counts.total()} tried, {counts['answered']} answered, {counts['refused']} refused, "
          f"{counts['WRONG']} wrong", flush=True)
    return counts["WRONG"]


def main(count=2000, seed=1):
    import warnings
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        settings = finished(Path(folder).resolve() / "project")
        seeds = range(seed * 1_000_000, seed * 1_000_000 + count)
        wrong = fuzz("other files", file_case, seeds, settings)
        wrong += fuzz("rasters", raster_case, seeds, settings)
        os.chdir("/")
    print(f"{2 * count - wrong} passed, {wrong} failed")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
