"""The chain on real imagery, where ../shared/data holds it; absent elsewhere (conftest.py).

tests/settings/potsdam.yaml also serves by hand: make report PARAMS=tests/settings/potsdam.yaml; the others
need the folder that a test gathers.
"""

import csv
import json

import numpy as np
import pytest
import rasterio
from conftest import ROOT, SHARED, run_script, save_settings
from scipy.ndimage import distance_transform_edt
from untrained import write_run

import evaluate
import predict
import prepare_data
from base.problem import Problem
from base.settings import read_settings
from imagery.arrays import IGNORE
from imagery.labels import ColourDecoder
from imagery.scores import boundary_distance
from imagery.tiles import open_prepared, read_manifest
from learning.plans import plan_epoch


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


SMALL = {  # of settings that are meant for hours
    "input": {"patch_size": 128, "batch_size": 8},
    "model": {"width": 8, "depth": 3, "stem": 4, "local_contrast": []},
    "train": {"epochs": 1, "max_lr": 0.05, "class_weights": 0, "optimizer": "sgd", "weight_decay": 0},
    "predict": {"window": 256, "views": [0], "batch_size": 8, "compare": False, "also": []},
}


def start(name, tmp_path, monkeypatch):
    """The settings of tests/settings/<name>.yaml, or small ones of settings/<name>.yaml, their paths made to
    hold in an empty folder, the current one."""
    monkeypatch.chdir(tmp_path)
    own = ROOT / f"tests/settings/{name}.yaml"
    settings = read_settings(own if own.exists() else ROOT / f"settings/{name}.yaml")
    if not own.exists():
        settings["data"]["raw"] = str(SHARED / name)
        settings["split"]["train"] = settings["split"]["train"][:1]
        for section, values in SMALL.items():
            settings[section].update(values)
    settings["data"]["raw"] = settings["data"]["raw"].replace("../shared/data", str(SHARED))
    settings["predict"]["engine"] = "tensorflow"
    save_settings(tmp_path, settings, f"{name}.yaml")
    return settings


def run_chain(name, steps=("prepare_data", "train", "predict", "evaluate")):
    for step in steps:
        done = run_script(f"{step}.py", "--params", f"{name}.yaml")
        assert done.returncode == 0 and done.stderr == "", f"{step}: {done.stderr}"
    return json.loads(open(f"runs/{name}/metrics.json").read())


def official(kind, tile):
    folder, name = {"image": ("2_Ortho_RGB", "RGB"), "label": ("5_Labels_all", "label")}[kind]
    return f"potsdam/{folder}/top_potsdam_{tile}_{name}.tif"


def test_the_chain_on_potsdam_crops(tmp_path, monkeypatch):
    settings = start("potsdam", tmp_path, monkeypatch)
    settings["train"]["epochs"] = 8
    save_settings(tmp_path, settings, "potsdam.yaml")
    metrics = run_chain("potsdam", ("prepare_data", "train", "predict", "evaluate", "report"))
    with (
        rasterio.open("runs/potsdam/predictions/7_7.tif") as predicted,
        rasterio.open(SHARED / official("image", "7_7")) as image,
    ):
        assert predicted.crs == image.crs == "EPSG:32633" and predicted.transform == image.transform
        assert predicted.read(1).max() < 6
    with open("runs/potsdam/history.csv", newline="") as file:
        learned = float(list(csv.DictReader(file))[-1]["accuracy"])
    assert learned > 0.6 and metrics["full"]["accuracy"] > 0.3  # of one crop another; chance is a sixth
    assert np.sum(metrics["full"]["confusion"]) == 512 * 512


@pytest.mark.parametrize(
    "tile, faulty", [("4_12", lambda clean: clean.size), ("6_7", lambda clean: (clean == 4).sum())]
)
def test_a_faulty_label_file_decodes_to_the_clean_labels(tmp_path, monkeypatch, tile, faulty):
    settings = start("potsdam_oddities", tmp_path, monkeypatch)
    settings["split"]["train"] = [tile]
    save_settings(tmp_path, settings, "potsdam_oddities.yaml")
    tiles = ("2_10", "7_7")
    gather(
        tmp_path / "data/raw/potsdam_oddities",
        image={
            tile: f"potsdam_oddities/2_Ortho_RGB/top_potsdam_{tile}_RGB.tif",
            **{t: official("image", t) for t in tiles},
        },
        label={
            tile: f"potsdam_oddities/5_Labels_all/top_potsdam_{tile}_label.tif",
            **{t: official("label", t) for t in tiles},
        },
    )
    prepare_data.main(settings, tmp_path / "runs/potsdam_oddities")
    with rasterio.open(SHARED / official("label", "3_12")) as source:
        clean, _, _ = ColourDecoder(settings["data"]["classes"], [], 0).decode(
            np.moveaxis(source.read(), 0, -1)
        )
    assert (open_prepared(settings["data"], tile).labels != clean).mean() < 0.005
    row = read_manifest(settings["data"]["prepared"])["tiles"][tile]
    assert row["pixels"]["labels"]["repaired"] == pytest.approx(int(faulty(clean)), rel=0.02)


def test_the_same_photograph_under_two_names_is_a_leak(tmp_path, monkeypatch):
    settings = start("potsdam_oddities", tmp_path, monkeypatch)
    names = {"4_12": "potsdam_oddities", "6_7": "potsdam_oddities", "7_7": "potsdam"}
    settings["split"] = {"train": ["4_12"], "val": ["6_7"], "test": ["7_7"]}
    gather(
        tmp_path / "data/raw/potsdam_oddities",
        image={t: f"{folder}/2_Ortho_RGB/top_potsdam_{t}_RGB.tif" for t, folder in names.items()},
        label={t: f"{folder}/5_Labels_all/top_potsdam_{t}_label.tif" for t, folder in names.items()},
    )
    with pytest.raises(Problem, match="tiles 4_12 .split.train. and 6_7 .split.val.: 100.0 %"):
        prepare_data.main(settings, tmp_path / "runs/potsdam_oddities")
    settings["data"]["allow_overlap"] = ["4_12", "6_7"]
    with pytest.raises(Problem, match="tiles 4_12 and 6_7: the same pixels"):
        prepare_data.main(settings, tmp_path / "runs/potsdam_oddities")


def window_of(tiles, patch):
    """The labels where a patch of a plan is cut."""
    row, col, side = patch["row"], patch["col"], patch["side"]
    return tiles[patch["tile"]].labels[row : row + side, col : col + side]


def test_empty_ground_is_never_drawn(tmp_path, monkeypatch):
    """A DroneDeploy scene, 35 % of it empty canvas: no window of an epoch lies there alone, and the car is
    aimed at."""
    settings = start("dronedeploy", tmp_path, monkeypatch)
    prepare_data.main(settings, tmp_path / "runs/dronedeploy")
    manifest = read_manifest(settings["data"]["prepared"])
    assert sum(row["pixels"]["labels"]["ignored"] for row in manifest["tiles"].values()) > 8_000_000
    nodata = {tile: row["nodata"] for tile, row in manifest["tiles"].items()}
    assert nodata == {"west": 6_975_574, "mid": 1_147_956, "east": 2_402_844}  # 98 % of what is drawn black
    tiles = [open_prepared(settings["data"], tile, manifest) for tile in settings["split"]["train"]]
    plan, car = plan_epoch(tiles, settings, 1), list(settings["data"]["classes"]).index("car")
    labels = [window_of(tiles, patch) for patch in plan]
    assert all((part != IGNORE).any() for part in labels)
    with_car = np.mean([(part == car).any() for part in labels])
    settings["input"]["aim"] = {"car": 0.3}
    plan = plan_epoch(tiles, settings, 1)
    aimed = np.mean([(window_of(tiles, patch) == car).any() for patch in plan])
    assert aimed >= 0.3 and aimed > with_car + 0.15


def test_official_eroded_labels_are_scored_as_they_are(tmp_path, monkeypatch):
    settings, run = start("potsdam_eroded", tmp_path, monkeypatch), tmp_path / "runs/potsdam_eroded"
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
    prepare_data.main(settings, run)
    write_run(run, settings)
    predict.main(settings, run, None)
    evaluate.main(settings, run)
    metrics = json.loads((run / "metrics.json").read_text())
    with rasterio.open(SHARED / eroded) as source:
        black = (source.read() == 0).all(0)
    assert (
        np.sum(metrics["eroded"]["confusion"]) == (~black).sum()
        and metrics["protocol"]["eroded_labels"] == "official"
    )


def test_our_borders_lie_in_the_official_ones_and_are_nearly_as_wide():
    """The crop has no labels below its official borders: the nearest ones stand in for them."""
    path = SHARED / "potsdam_eroded/5_Labels_all_noBoundary/top_potsdam_2_10_label_noBoundary.tif"
    classes = read_settings(ROOT / "params.yaml")["data"]["classes"]
    with rasterio.open(path) as source:
        labels, _, _ = ColourDecoder(classes, ["#000000"], 0).decode(np.moveaxis(source.read(), 0, -1))
    official = labels == IGNORE
    nearest = distance_transform_edt(official, return_distances=False, return_indices=True)
    ours = boundary_distance(labels[tuple(nearest)], 3) <= 3
    assert (ours == official).mean() > 0.98  # theirs are 7 px wide where ours are 6
    assert (ours & ~official).mean() < 0.001


def test_another_data_set_is_another_settings_file(tmp_path, monkeypatch):
    start("dubai", tmp_path, monkeypatch)
    metrics = run_chain("dubai", ("prepare_data", "train", "predict", "evaluate", "report"))
    assert list(metrics["full"]["classes"]) == ["building", "land", "road", "vegetation", "water"]
    assert metrics["full"]["accuracy"] > 0.3
    with rasterio.open("runs/dubai/predictions/tile1.tif") as predicted:
        assert predicted.shape == (1931, 2391) and predicted.crs is None
