"""A run with an untrained network, and rasters for it, for the tests of predicting."""

import functools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import SIZES, write_raster, write_tile

import prepare_data
from base.files import sha256
from base.settings import coarsest
from base.tables import write_record
from model import build_network, keras


@functools.cache
def untrained(bands, classes, settings, policy):
    """A saved network, made once for all tests."""
    keras.utils.set_random_seed(0)
    keras.mixed_precision.set_global_policy(policy)
    network = build_network(bands, classes, **json.loads(settings))
    keras.mixed_precision.set_global_policy("float32")
    path = Path(tempfile.mkdtemp()) / "model.keras"
    network.save(path)
    content = path.read_bytes()
    shutil.rmtree(path.parent)
    return content


def write_run(folder, settings, bands=3, extra=False, scale=(None, None, None), policy="float32", **more):
    """A finished run with an untrained network; `more` of model.json."""
    folder.mkdir(parents=True, exist_ok=True)
    model = bands, len(settings["data"]["classes"]), json.dumps(settings["model"]), policy
    (folder / "model.keras").write_bytes(untrained(*model))
    facts = {
        "classes": settings["data"]["classes"],
        "bands": [1, 2, 3],
        "extra": extra,
        "scale": list(scale),
        "ground_sample_distance": 0.05,
        "multiple": coarsest(settings["model"]),
        "epoch": 1,
        "chosen_by": "nobody",
        "trained_on": {},
        "chosen_on": {},
        "sha256": sha256(folder / "model.keras"),
    }
    write_record(folder / "model.json", {**facts, **more})
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch, settings):
    """The same in the current folder."""
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path / "runs/tiny", settings)


def ortho(path, shape=(70, 101), **profile):
    """Writes a raster of noise, and returns it."""
    image = np.random.default_rng(1).integers(1, 256, (*shape, 3)).astype(np.uint8)
    write_raster(path, image, **profile)
    return image


def read_map(run, name):
    with rasterio.open(run / f"predictions/{name}.tif") as source:
        return source.read(1)


SMALL = {
    **{"encoder": "none", "weights": "none", "rgb": [1, 2, 3], "width": 4, "depth": 2},
    **{"residual": "add", "centre": "plain", "stem": 2, "local_contrast": [8]},
}


@pytest.fixture
def small(tmp_path, monkeypatch, settings):
    """An untrained run with the parts that engines translate differently, and prepared tiles."""
    monkeypatch.chdir(tmp_path)
    settings["model"] = SMALL
    for tile, shape in SIZES.items():
        write_tile(tmp_path / "raw", tile, shape)
    prepare_data.main(settings, tmp_path / "runs/tiny")
    return write_run(tmp_path / "runs/tiny", settings)


def answers(engine, side=64, count=5):
    rng = np.random.default_rng(0)
    patches = [rng.integers(0, 256, (side, side, 3)).astype(np.uint8) for _ in range(count)]
    return patches, np.stack([planes.copy() for planes in engine(iter(patches))])
