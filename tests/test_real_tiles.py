"""The chain on real imagery, where ../shared/data holds it; absent elsewhere (conftest.py).

Two of the settings also serve by hand: make report PARAMS=tests/settings/potsdam.yaml (or dubai.yaml); the others
need the folder that a test gathers.
"""

import json

import numpy as np
import pytest
import rasterio
from conftest import ROOT, SHARED, run_script, save_settings

import prepare_data
from params import read_settings
from tiles import ColourDecoder, open_prepared


def gather(folder, **sources):
    """Links files of the shared data under the official names: {kind: {tile: path below SHARED}}."""
    kinds = {
        "image": ("2_Ortho_RGB", "RGB"),
        "label": ("5_Labels_all", "label"),
        "eroded": ("5_Labels_all_noBoundary", "label_noBoundary"),
    }
    for kind, tiles in sources.items():
        for tile, source in tiles.items():
            target = folder / kinds[kind][0] / f"top_potsdam_{tile}_{kinds[kind][1]}.tif"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(SHARED / source)


def start(name, tmp_path, monkeypatch):
    """The settings of tests/settings/<name>.yaml, their paths made to hold in an empty folder, the current one."""
    monkeypatch.chdir(tmp_path)
    settings = read_settings(ROOT / f"tests/settings/{name}.yaml")
    settings["data"]["raw"] = settings["data"]["raw"].replace("../shared/data", str(SHARED))
    save_settings(tmp_path, settings, f"{name}.yaml")
    return settings


def run_chain(name, steps=("prepare_data", "train", "predict", "evaluate", "report")):
    for step in steps:
        done = run_script(f"{step}.py", "--params", f"{name}.yaml")
        assert done.returncode == 0 and done.stderr == "", f"{step}: {done.stderr}"
    return json.loads(open(f"runs/{name}/metrics.json").read())


def official(kind, tile):
    folder, name = {"image": ("2_Ortho_RGB", "RGB"), "label": ("5_Labels_all", "label")}[kind]
    return f"potsdam/{folder}/top_potsdam_{tile}_{name}.tif"


def test_the_chain_on_potsdam_crops(tmp_path, monkeypatch):
    start("potsdam", tmp_path, monkeypatch)
    metrics = run_chain("potsdam", ("prepare_data", "lr_find", "train", "predict", "evaluate", "report"))
    with (
        rasterio.open("runs/potsdam/predictions/7_7.tif") as predicted,
        rasterio.open(SHARED / official("image", "7_7")) as image,
    ):
        assert predicted.crs == image.crs == "EPSG:32633" and predicted.transform == image.transform
        assert predicted.read(1).max() < 6
    assert metrics["full"]["accuracy"] > 0.5 and np.sum(metrics["full"]["confusion"]) == 512 * 512


def test_faulty_label_files_decode_to_the_clean_labels(tmp_path, monkeypatch):
    settings = start("potsdam_oddities", tmp_path, monkeypatch)
    gather(
        tmp_path / "data/raw/potsdam_oddities",
        image={
            **{t: f"potsdam_oddities/2_Ortho_RGB/top_potsdam_{t}_RGB.tif" for t in ("4_12", "6_7")},
            "7_7": official("image", "7_7"),
        },
        label={
            **{t: f"potsdam_oddities/5_Labels_all/top_potsdam_{t}_label.tif" for t in ("4_12", "6_7")},
            "7_7": official("label", "7_7"),
        },
    )
    prepare_data.main(settings, tmp_path / "runs/potsdam_oddities")
    with rasterio.open(SHARED / official("label", "3_12")) as source:
        clean, _, _ = ColourDecoder(settings["data"]["classes"], [], 0).decode(np.moveaxis(source.read(), 0, -1))
    for tile, repaired in (("4_12", 512 * 512), ("6_7", int((clean == 4).sum()))):
        (labels,) = open_prepared(settings["data"], tile, "labels")
        assert (labels != clean).mean() < 0.005
        row = json.loads(open("data/prepared/potsdam_oddities/manifest.json").read())["tiles"][tile]
        assert row["pixels"]["labels"]["repaired"] == pytest.approx(repaired, rel=0.02)
    metrics = run_chain("potsdam_oddities")
    assert metrics["protocol"]["tiles"] == ["7_7"]


def test_official_eroded_labels_are_scored_as_they_are(tmp_path, monkeypatch):
    start("potsdam_eroded", tmp_path, monkeypatch)
    eroded = "potsdam_eroded/5_Labels_all_noBoundary/top_potsdam_2_10_label_noBoundary.tif"
    gather(
        tmp_path / "data/raw/potsdam_eroded",
        image={
            "2_10": "potsdam_eroded/2_Ortho_RGB/top_potsdam_2_10_RGB.tif",
            **{t: official("image", t) for t in ("3_12", "7_7")},
        },
        label={"2_10": eroded, **{t: official("label", t) for t in ("3_12", "7_7")}},
        eroded={"2_10": eroded},
    )
    metrics = run_chain("potsdam_eroded")
    with rasterio.open(SHARED / eroded) as source:
        black = (source.read() == 0).all(0)
    assert (
        np.sum(metrics["eroded"]["confusion"]) == (~black).sum() and metrics["protocol"]["eroded_labels"] == "official"
    )


def test_another_data_set_is_another_settings_file(tmp_path, monkeypatch):
    start("dubai", tmp_path, monkeypatch)
    metrics = run_chain("dubai")
    assert list(metrics["full"]["classes"]) == ["building", "land", "road", "vegetation", "water"]
    assert metrics["full"]["accuracy"] > 0.3
    with rasterio.open("runs/dubai/predictions/tile1.tif") as predicted:
        assert predicted.shape == (1931, 2391) and predicted.crs is None
