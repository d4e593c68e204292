"""What several tests share: tiny tiles in the Potsdam layout, settings for them, scripts run as users run
them."""

import contextlib
import copy
import csv
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from hypothesis import settings as hypothesis_settings
from rasterio.transform import from_origin

import prepare_data
from base.code import code_of
from base.files import sha256
from base.problem import Problem
from base.settings import all_tiles, read_settings
from base.tables import read_facts, write_record
from imagery.tiles import made_with, manifest_text
from learning.records import RECORDS, finder_inputs, fingerprint, tile_digests
from mapping import one_raster
from mapping.maps import expected_maps, files_of

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
hypothesis_settings.register_profile("any machine", deadline=None)  # a slow one is no failure
hypothesis_settings.load_profile("any machine")
ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"  # real crops, where they are at hand
collect_ignore = [] if SHARED.is_dir() else ["test_real_tiles.py"]

LONG = ["checkpoints", "makefile", "chain", "workers", "train", "real_tiles", "trainer", "translate", "model"]


def pytest_collection_modifyitems(items):
    """Has the files that take longest begin first, so that several processes end together."""
    names = [f"test_{name}" for name in LONG]
    items.sort(key=lambda item: names.index(item.path.stem) if item.path.stem in names else len(names))


COLOURS = np.array(
    [(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)], np.uint8
)
SETTINGS = read_settings(ROOT / "demo.yaml")
SETTINGS.update(
    split={"train": ["2_11", "3_10"], "val": ["2_10"], "test": ["2_13"], "blocks": None},
    input={"patch_size": 32, "batch_size": 4, "stride": "random", "aim": {}},
    model={
        **{"encoder": "none", "weights": "none", "rgb": [1, 2, 3], "width": 4, "depth": 1},
        **{"residual": "add", "centre": "plain", "stem": 1, "local_contrast": []},
    },
    lr_find={"start": 1e-4, "end": 10, "steps": 30},
)
SETTINGS["data"].update(raw="raw", prepared="prepared")
SETTINGS["train"].update(epochs=2, max_lr=0.05, optimizer="sgd", weight_decay=0, class_weights=0)
SETTINGS["predict"].update(window=64, views=[0, 5], engine="tensorflow", compare=False, also=[])
SIZES = {"2_11": (70, 93), "3_10": (64, 101), "2_10": (50, 75), "2_13": (83, 66)}


@pytest.fixture(scope="session", autouse=True)
def traced_once():
    """Has TensorFlow load and trace a network once for all tests of this process, in whichever folder it
    stands: two seconds each time."""
    started, start = {}, one_raster.start_engine

    def start_once(run, model, engine):
        facts = read_facts(run)
        key = model, engine, facts["multiple"], len(facts["scale"]), len(facts["classes"])
        if engine.name != "tensorflow":
            return start(run, model, engine)
        if key not in started:
            started[key] = start(run, model, engine)
        return started[key]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(one_raster, "start_engine", start_once)
        yield


@pytest.fixture
def settings():
    """Settings of the tiny tiles, free to be changed."""
    return copy.deepcopy(SETTINGS)


def write_raster(path, pixels, **profile):
    """Writes uint8 [H, W, B] (or [H, W]) as a GeoTIFF with rasterio alone."""
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {
        "driver": "GTiff",
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "count": pixels.shape[2],
        "dtype": pixels.dtype,
        **profile,
    }
    with rasterio.open(path, "w", **profile) as target:
        target.write(np.moveaxis(pixels, -1, 0))


def write_tile(raw, tile, shape, seed=0):
    """A tile whose class is readable from its colour alone, with noise; returns its labels."""
    rng = np.random.default_rng([seed, *map(int, tile.split("_"))])
    labels = (
        rng.integers(0, 6, (-(-shape[0] // 16), -(-shape[1] // 16)))
        .astype(np.uint8)
        .repeat(16, 0)
        .repeat(16, 1)
    )
    labels = np.ascontiguousarray(labels[: shape[0], : shape[1]])
    image = np.clip(COLOURS[labels] * 0.5 + 50 + rng.normal(0, 12, (*shape, 3)), 0, 255).astype(np.uint8)
    row, col = map(int, tile.split("_"))
    write_raster(
        raw / f"2_Ortho_RGB/top_potsdam_{tile}_RGB.tif",
        image,
        crs="EPSG:32633",
        transform=from_origin(365700 + 300 * col, 5810000 - 300 * row, 0.05, 0.05),
    )
    write_raster(raw / f"5_Labels_all/top_potsdam_{tile}_label.tif", COLOURS[labels])
    return labels


@pytest.fixture
def project(tmp_path, monkeypatch, settings):
    """An empty folder to work in, with raw tiles and tiny.yaml; the current folder."""
    monkeypatch.chdir(tmp_path)
    for tile, shape in SIZES.items():
        write_tile(tmp_path / "raw", tile, shape)
    save_settings(tmp_path, settings)
    return tmp_path


@pytest.fixture
def prepared(project, settings):
    prepare_data.main(settings, project / "runs/tiny")
    return project


def read_history(run):
    """The rows of a run's history, as numbers."""
    with open(run / "history.csv", newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def problems_of(tmp_path, text):
    """What a settings file of this text is refused for."""
    path = tmp_path / "settings.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Problem) as caught:
        read_settings(path)
    assert caught.value.code == 2
    return "\n".join(caught.value.lines)


def whole_demo():
    """demo.yaml with every key of its base written out, a key a line, without comments: for tests to edit."""
    own, section = {}, None
    for line in (ROOT / "demo.yaml").read_text().splitlines():
        section = line.partition(":")[0] if re.match(r"\w", line) else section
        own[section, line.partition(":")[0]] = line
    lines, keep = [], True
    for line in (ROOT / "params.yaml").read_text().splitlines():
        line = re.sub(r"(^|\s+)#( .*|-.*)?$", "", line)
        section = line.partition(":")[0] if re.match(r"\w", line) else section
        if re.match(r"(  )?\w", line):
            keep = (section, line.partition(":")[0]) not in own or not line.startswith(" ")
            lines.append(line if keep else own[section, line.partition(":")[0]])
        elif line.strip() and keep:  # the rest of a value of several lines
            lines.append(line)
    return "\n".join(lines) + "\n"


def save_settings(folder, settings, name="tiny.yaml"):
    settings["split"].setdefault("blocks", None)
    (folder / name).write_text(yaml.safe_dump(settings, sort_keys=False))


def stand_in(folder, name="demo", **rows):
    """Puts files where make looks for what the steps made; `rows`: more of a tile's row of the manifest."""
    settings, run = read_settings(folder / f"{name}.yaml"), folder / "runs" / name
    (run / "predictions").mkdir(parents=True, exist_ok=True)
    (run / "figures").mkdir(exist_ok=True)
    maps = expected_maps(settings, run)
    parts = [part for path, also in maps for part in files_of(path, also)]
    records = ("model.keras", *RECORDS, "lr_find.csv", "lr_find.png", "confusion.csv", "figures/a.png")
    for part in (*parts, *(run / record for record in records)):
        part.touch()
    nothing = sha256(run / "model.keras")
    facts = {"sha256": nothing, "classes": settings["data"]["classes"], "multiple": 32, "max_lr": 0.05}
    write_record(run / "model.json", facts)
    write_record(run / "metrics.json", {})
    (run / "predict.csv").write_text("map,sha256\n" + "".join(f"{path.stem},{nothing}\n" for path, _ in maps))
    tiles = all_tiles(settings["split"])
    prepared = folder / settings["data"]["prepared"]
    prepared.mkdir(parents=True, exist_ok=True)
    row = {
        "made_with": made_with(settings["data"]),
        "code": code_of("prepare_data.py"),
        "raw": {},
        "files": {"pixels": {"name": "all.npy", "sha256": nothing}},
    }
    (prepared / "all.npy").touch()
    (prepared / "manifest.json").write_text(
        manifest_text({tile: {**row, **rows.get(tile, {})} for tile in tiles})
    )
    with contextlib.chdir(folder):
        about = {"settings": settings, "tiles": tile_digests(settings), "code": code_of("train.py")}
        made_from = fingerprint(finder_inputs(settings, run), "lr_find.py")
    write_record(run / "run.json", {**about, "training_seconds": 4321})
    write_record(run / "lr_find.json", {"suggestion": facts["max_lr"], "made_from": made_from})


def without_make(environment):
    """The environment as it was before make started the tests."""
    own = ("PARAMS", "TILE", "EXTRA", "SCHEDULER", "LOCKED")
    return {key: value for key, value in environment.items() if not key.startswith("MAKE") and key not in own}


@functools.cache
def warm_python():
    """A command that does what Python does with a script, but starts sooner (warm.py)."""
    path = f"{tempfile.mkdtemp()}/socket"
    warm = f"{ROOT}/tests/warm.py"
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    warm_python.server = subprocess.Popen([sys.executable, warm, path], **streams)  # ends with this process
    assert warm_python.server.stdout.readline() == b"ready\n"
    return f"{sys.executable} -S {warm} {path}"


def run_script(name, *arguments, cwd=None, **environment):
    """A finished subprocess of one script, as a user starts it."""
    return subprocess.run(
        [sys.executable, str(ROOT / name), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
    )


@pytest.fixture
def undrawn():
    """Networks of which no weight is drawn at random, to be looked at alone: soon built."""
    import keras

    with keras.StatelessScope(initialize_variables=False):
        yield
    keras.utils.clear_session()  # or the next test would draw them


@pytest.fixture
def eagerly():
    """Steps of TensorFlow one by one: a few are sooner done than traced."""
    import tensorflow

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*run_functions_eagerly.*")
        tensorflow.config.run_functions_eagerly(True)
        yield
        tensorflow.config.run_functions_eagerly(False)


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    """A project whose run tiny is trained with SETTINGS; not to be changed."""
    import keras

    import prepare_data
    import train

    folder, settings = tmp_path_factory.mktemp("trained"), copy.deepcopy(SETTINGS)
    with contextlib.chdir(folder):
        for tile, shape in SIZES.items():
            write_tile(folder / "raw", tile, shape)
        save_settings(folder, settings)
        prepare_data.main(settings, Path("runs/tiny"))
        keras.utils.clear_session()  # which counts what it has named
        train.main(settings, Path("runs/tiny"))
    return folder


@pytest.fixture
def trained(trained_once, tmp_path, monkeypatch):
    """A copy of it, free to be changed; the current folder."""
    folder = tmp_path / "project"
    shutil.copytree(trained_once, folder)
    monkeypatch.chdir(folder)
    return folder
