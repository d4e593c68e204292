"""A run with an untrained network, and rasters for it, for the tests of predicting."""

import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import write_raster

from base.files import sha256
from base.settings import coarsest
from base.tables import write_record
from model import build_network, keras


@functools.cache
def untrained(*model):
    """A saved network of these (bands, classes, settings, policy), made once for all tests."""
    bands, classes, settings, policy = model
    keras.utils.set_random_seed(0)
    keras.mixed_precision.set_global_policy(policy)
    network = build_network(bands, classes, **{key: list(v) if isinstance(v, tuple) else v for key, v in settings})
    keras.mixed_precision.set_global_policy("float32")
    path = Path(tempfile.mkdtemp()) / "model.keras"
    network.save(path)
    content = path.read_bytes()
    shutil.rmtree(path.parent)
    return content


def write_run(folder, settings, bands=3, extra=False, scale=(None, None, None), policy="float32", **more):
    """A finished run with an untrained network; `more` of model.json."""
    folder.mkdir(parents=True, exist_ok=True)
    model = tuple((key, tuple(v) if isinstance(v, list) else v) for key, v in settings["model"].items())
    (folder / "model.keras").write_bytes(untrained(bands, len(settings["data"]["classes"]), model, policy))
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
