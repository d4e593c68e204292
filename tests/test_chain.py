"""The whole chain once, as a user runs it: raw tiles to a report, on made-up tiles."""

import contextlib
import csv
import functools
import html
import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import rasterio
import yaml
from conftest import COLOURS, SIZES, run_script, save_settings, write_tile

import evaluate
import predict
import prepare_data
import report
import train
from base.files import sha256
from base.problem import Problem
from base.settings import read_settings
from base.tables import parse_record, record_text
from imagery.tiles import manifest_text
from learning.torch_files import read_torch
from learning.weight_files import weights_file
from reporting import pictures


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which every step has run."""
    from conftest import SETTINGS

    folder = tmp_path_factory.mktemp("chain")
    for tile, shape in SIZES.items():
        write_tile(folder / "raw", tile, shape)
    settings = json.loads(json.dumps(SETTINGS))
    settings["model"].update(depth=2, residual="concat", centre="serial", stem=2, local_contrast=[4, 8])
    settings["train"].update(max_lr="auto", epochs=12, optimizer="adamw", class_weights=0.75)
    settings["predict"].update(compare=True, also=["confidence"])
    settings["report"]["title"] = "<script>alert(1)</script> & title"
    save_settings(folder, settings)
    for script in ("prepare_data.py", "lr_find.py", "train.py", "predict.py", "evaluate.py", "report.py"):
        done = run_script(script, "--params", "tiny.yaml", cwd=folder)
        assert done.returncode == 0 and done.stderr == "", f"{script}: {done.stderr}"  # no noise either
    return folder


def test_a_pretrained_encoder_goes_through_all_steps(project, settings, eagerly, capsys):
    settings["model"].update(encoder="efficientnet_lite0", weights="imagenet", width=8, stem=4)
    settings["train"].update(max_lr=0.01, epochs=2, optimizer="adamw", freeze_epochs=1)
    settings["input"]["batch_size"] = 8
    run = project / "runs/tiny"
    for step in (prepare_data, train, functools.partial(predict.main, tile=None), evaluate, report):
        getattr(step, "main", step)(settings, run)
    weights = weights_file("efficientnet_lite0", "imagenet")
    said = capsys.readouterr().out
    assert said.count(f"first weights of the encoder from {weights}") == 1
    kernel = read_torch(weights)["_conv_stem.weight"].transpose(2, 3, 1, 0)
    kernels = [np.load(path)["network_0"] for path in sorted((run / "checkpoints").glob("*.npz"))]
    np.testing.assert_array_equal(kernels[0], kernel)  # frozen
    assert 0 < np.abs(kernels[1] - kernel).max() < 0.1
    metrics = json.loads((run / "metrics.json").read_text())
    assert np.sum(metrics["full"]["confusion"]) == np.prod(SIZES["2_13"])
    assert "efficientnet_lite0, pretrained on ImageNet" in (run / "report.html").read_text()
    assert (run / "figures/network.png").exists()
    train.main(settings, run)
    assert "finished already" in capsys.readouterr().out


def test_the_same_settings_on_the_same_tiles_give_the_same_bytes_again(finished, tmp_path):
    (tmp_path / "runs/tiny").mkdir(parents=True)
    for name in ("raw", "prepared", "tiny.yaml", "runs/tiny/lr_find.json"):
        (tmp_path / name).symlink_to(finished / name)
    keras.utils.clear_session()  # which counts what it has named
    with contextlib.chdir(tmp_path):  # in another process than the first
        train.main(read_settings("tiny.yaml"), Path("runs/tiny"))
        predict.main(read_settings("tiny.yaml"), Path("runs/tiny"), None)
    made = ["runs/tiny/model.keras", "runs/tiny/predictions/*"]
    paths = [path.relative_to(finished) for pattern in made for path in sorted(finished.glob(pattern))]
    assert len(paths) > 10
    assert [path for path in paths if sha256(tmp_path / path) != sha256(finished / path)] == []


def test_scores_equal_those_computed_from_the_map_and_the_painted_labels(finished):
    metrics = json.loads((finished / "runs/tiny/metrics.json").read_text())
    with rasterio.open(finished / "runs/tiny/predictions/2_13.tif") as source:
        predicted = source.read(1)
    with rasterio.open(finished / "raw/5_Labels_all/top_potsdam_2_13_label.tif") as source:
        colours = np.moveaxis(source.read(), 0, -1)
    labels = (colours[:, :, None] == COLOURS).all(-1).argmax(-1)
    full = metrics["full"]
    assert full["accuracy"] == pytest.approx((labels == predicted).mean())
    for i, scores in enumerate(full["classes"].values()):
        both, either = ((labels == i) & (predicted == i)).sum(), ((labels == i) | (predicted == i)).sum()
        assert scores["iou"] == pytest.approx(both / either) and scores["pixels"] == (labels == i).sum()
    assert np.sum(full["confusion"]) == labels.size and np.sum(metrics["eroded"]["confusion"]) < labels.size
    assert metrics["tiles"]["2_13"]["full"] == full
    assert full["accuracy"] > 0.5  # it has learned; chance is a sixth


def test_metrics_have_their_fixed_shape(finished):
    metrics = json.loads((finished / "runs/tiny/metrics.json").read_text())
    assert set(metrics) == {
        "protocol",
        "full",
        "eroded",
        "tiles",
        "ways",
        "gains",
        "boundary",
        "calibration",
        "areas",
        "settings",
        "digest",
    }
    for scores in (metrics["full"], metrics["eroded"], metrics["tiles"]["2_13"]["eroded"]):
        assert set(scores) == {
            *("accuracy", "mean_iou", "mean_f1", "left_out", "left_out_ignored"),
            *("classes", "confusion"),
        }
        assert set(scores["left_out"]) == {"recall", "mean_iou", "mean_f1"}
        assert set(scores["left_out_ignored"]) == {"accuracy", "mean_iou", "mean_f1"}
        assert set(scores["classes"]["car"]) == {"iou", "f1", "precision", "recall", "pixels"}
    protocol = metrics["protocol"]
    assert (
        protocol["tiles"] == ["2_13"]
        and protocol["views"] == [0, 5]
        and protocol["eroded_labels"] == "disc of 3 px"
    )
    rows = (finished / "runs/tiny/confusion.csv").read_text().splitlines()
    assert (
        rows[0] == "label \\ predicted,impervious,building,low vegetation,tree,car,clutter" and len(rows) == 7
    )


def read_band(path):
    with rasterio.open(path) as source:
        return source.read(1)


def test_the_gain_ledger_counts_what_each_way_of_predicting_says(finished):
    metrics = json.loads((finished / "runs/tiny/metrics.json").read_text())
    labels = np.load(finished / "prepared/2_13.pixels.npy")[..., 3]
    folder = finished / "runs/tiny/predictions"
    maps = {way: read_band(folder / f"2_13.{way}.tif") for way in ("side_by_side", "one_view")}
    maps["uncovered"] = np.zeros_like(labels)  # 83 x 66 pixels hold 2 x 2 patches of 32
    maps["uncovered"][:64, :64] = maps["side_by_side"][:64, :64]
    maps["map"] = read_band(folder / "2_13.tif")
    assert [step["way"] for step in metrics["gains"]] == ["uncovered", "side_by_side", "one_view", "map"]
    for step in metrics["gains"]:
        assert step["accuracy"] == pytest.approx((maps[step["way"]] == labels).mean())
    assert metrics["gains"][0]["seconds_per_tile"] is None
    rows = list(csv.DictReader((finished / "runs/tiny/predict.csv").open()))
    taken = {row["map"]: float(row["seconds"]) for row in rows}
    assert all(row["sha256"] == sha256(folder / f"{row['map']}.tif") for row in rows)
    about = json.loads((finished / "runs/tiny/run.json").read_text())
    assert all(sha256(finished / "runs/tiny" / name) == digest for name, digest in about["outputs"].items())
    assert [step["seconds_per_tile"] for step in metrics["gains"][1:]] == [
        taken["2_13.side_by_side"],
        taken["2_13.one_view"],
        taken["2_13"],
    ]
    alone = metrics["ways"]["one_view"]["full"]["accuracy"]
    assert alone == pytest.approx((maps["one_view"] == labels).mean()) and alone > 0.5


def test_a_patch_beside_patches_is_predicted_as_if_alone(finished):
    network = keras.models.load_model(finished / "runs/tiny/model.keras", compile=False)
    image = np.load(finished / "prepared/2_13.pixels.npy")[32:64, :32, :3]
    expected = np.asarray(network(image[None]))[0].argmax(-1)
    layers = read_band(finished / "runs/tiny/predictions/2_13.side_by_side.tif")[32:64, :32]
    np.testing.assert_array_equal(layers, expected)


def test_the_curve_passes_through_the_eroded_scores_and_confidence_through_the_accuracy(finished):
    metrics = json.loads((finished / "runs/tiny/metrics.json").read_text())
    at = {row["pixels"]: row for row in metrics["boundary"]}
    assert at[0]["accuracy_beyond"] == metrics["full"]["accuracy"] and at[0][
        "mean_iou_beyond"
    ] == pytest.approx(metrics["full"]["mean_iou"])
    assert at[3]["accuracy_beyond"] == metrics["eroded"]["accuracy"] and max(at) == 20
    bins = metrics["calibration"]["bins"]
    assert sum(row["pixels"] for row in bins) == np.sum(metrics["full"]["confusion"])
    right = sum(row["pixels"] * row["accuracy"] for row in bins if row["pixels"])
    assert right == pytest.approx(np.trace(metrics["full"]["confusion"]))


def test_the_temperature_changes_confidence_alone_and_areas_are_the_maps(finished):
    facts = json.loads((finished / "runs/tiny/model.json").read_text())
    metrics = json.loads((finished / "runs/tiny/metrics.json").read_text())
    maps = finished / "runs/tiny/predictions"
    temperature = facts["temperature"]["eight_views"]
    assert facts["temperature"]["pixels"] >= 1000 and 0.25 <= temperature <= 4 and temperature != 1
    assert metrics["calibration"]["temperature"] == temperature  # of two views: that of eight
    classes, sure, before = (
        read_band(maps / f"2_13{way}.tif") for way in ("", ".confidence", ".uncalibrated")
    )
    assert (sure != before).any() and ((sure > before) == (temperature < 1))[sure != before].all()
    rows = (maps / "2_13.areas.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[1]) for row in rows] == np.bincount(classes.ravel(), minlength=6)[:6].tolist()
    expected = sum(float(row.split(",")[2]) for row in rows)
    assert expected == pytest.approx((classes != 255).sum(), rel=1e-3)


def test_the_page_holds_everything_itself_and_escapes_names(finished):
    page = (finished / "runs/tiny/report.html").read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)&lt;/script&gt; &amp; title" in page
    assert not re.findall(r'(?:src|href)="(?!data:image/(?:png|jpeg);base64,)', page)
    names = {p.name for p in (finished / "runs/tiny/figures").iterdir()}
    assert names == {
        "classes.png",
        "confusion.png",
        "training.png",
        "one_cycle.png",
        "audit.png",
        "augmentation.png",
        "labels.png",
        "tile_2_13.png",
        "boundary.png",
        "gains.png",
        "reliability.png",
        "network.png",
    }
    assert page.count("<img ") == len(names) + 1 + 6  # and the finder's curve, and the layers of the slider
    metrics = json.loads((finished / "runs/tiny/metrics.json").read_text())
    assert (
        f"{100 * metrics['full']['mean_iou']:.2f}" in page
        and metrics["protocol"]["text"].split(";")[0] in page
    )


def test_pictures_of_a_tile_show_errors_where_they_are(finished, monkeypatch):
    monkeypatch.chdir(finished)
    layers = pictures.tile_pictures("2_13", read_settings("tiny.yaml"), finished / "runs/tiny")
    wrong = (layers["labels"] != layers["prediction"]).any(-1)
    np.testing.assert_array_equal((layers["errors"] == pictures.ERROR).all(-1), wrong)
    alone = (layers["labels"] != layers["one view"]).any(-1)
    change = layers["what the views change"]
    np.testing.assert_array_equal((change == pictures.GAINED).all(-1), alone & ~wrong)
    np.testing.assert_array_equal((change == pictures.LOST).all(-1), wrong & ~alone)
    assert layers["image"].shape == (*SIZES["2_13"], 3)


def rename_tile(text):
    """metrics.json of another tile."""
    return record_text({**parse_record(text), "tiles": {"2_14": parse_record(text)["tiles"]["2_13"]}})


def forget_areas(text):
    """metrics.json as it was before there were areas of the classes."""
    return record_text({key: value for key, value in parse_record(text).items() if key != "areas"})


@pytest.mark.parametrize(
    "name, edit, expected",
    [
        ("history.csv", lambda text: text.splitlines()[0] + "\n", "history.csv: no rows"),
        (
            "history.csv",
            lambda text: re.sub(r"(?m)^(3,.*?,.*?,).*?,", r"\1nan,", text),
            "'nan' in line 4, column loss",
        ),
        ("history.csv", lambda text: text + "1,2\n", "history.csv: a row of another length"),
        ("metrics.json", lambda text: text[:1000], "metrics.json: damaged, edited or of an earlier version"),
        ("metrics.json", rename_tile, "of other tiles or classes"),
        (
            "metrics.json",
            forget_areas,
            "of an earlier version, expected those with the areas of the classes",
        ),
        ("model.keras", lambda text: "PK", "model.keras: other bytes than model.json names"),
    ],
)
def test_a_report_from_a_damaged_run_is_one_line_and_leaves_the_earlier_page(finished, name, edit, expected):
    path, page = finished / "runs/tiny" / name, finished / "runs/tiny/report.html"
    before, earlier = path.read_bytes(), page.read_bytes()
    path.write_text(edit(before.decode("utf-8", "replace")))
    lines = run_step(report, finished)
    path.write_bytes(before)
    assert len(lines) == 1 and expected in lines[0]
    assert page.read_bytes() == earlier


HOSTILE = 'Stra\u00dfe"><img src=x onerror=alert(1)>; $(touch canary) `touch canary` $x^2$'


def test_a_hostile_tile_name_is_text_everywhere_also_in_ascii(finished, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(finished, folder)
    for path in [*folder.glob("raw/*/*2_13*")]:
        path.rename(path.with_name(path.name.replace("2_13", HOSTILE)))
    settings = yaml.safe_load((folder / "tiny.yaml").read_text())
    settings["split"]["test"] = [HOSTILE]
    save_settings(folder, settings)
    for script in ("prepare_data.py", "predict.py", "evaluate.py", "report.py"):
        done = run_script(script, "--params", "tiny.yaml", cwd=folder, PYTHONIOENCODING="ascii", LC_ALL="C")
        assert done.returncode == 0 and done.stderr == "", f"{script}: {done.stderr}"
    assert (folder / f"runs/tiny/figures/tile_{HOSTILE}.png").exists() and not list(folder.rglob("canary*"))
    metrics = json.loads((folder / "runs/tiny/metrics.json").read_text())
    assert list(metrics["tiles"]) == [HOSTILE]
    page = (folder / "runs/tiny/report.html").read_text(encoding="utf-8")
    assert HOSTILE not in page and HOSTILE in html.unescape(page) and "<img src=x" not in page
    (folder / "runs/tiny/predictions" / f"{HOSTILE}.tif").write_bytes(b"II*\0")
    done = run_script(
        "evaluate.py", "--params", "tiny.yaml", cwd=folder, PYTHONIOENCODING="ascii", LC_ALL="C"
    )
    assert done.returncode == 3 and done.stderr.isascii() and done.stderr.count("\n") == 1


def run_step(step, folder, before="", after=""):
    """Runs a step in this process, with `after` for `before` in its settings; returns the lines of its
    Problem (exit 3), [] where it has none."""
    text = (folder / "tiny.yaml").read_text()
    assert before in text
    save_settings(folder, yaml.safe_load(text.replace(before, after, 1)), "edited.yaml")
    with contextlib.chdir(folder):
        try:
            step.main(read_settings("edited.yaml"), Path("runs/tiny"))
        except Problem as problem:
            assert problem.code == 3
            return list(problem.lines)
    return []


def test_maps_of_a_model_with_the_classes_in_another_order_are_not_scored(finished):
    first, second = "    impervious: '#ffffff'\n", "    building: '#0000ff'\n"
    for step in (evaluate, report):
        lines = run_step(step, finished, first + second, second + first)
        assert len(lines) == 1 and "in this order and these colours" in lines[0]


def test_the_page_is_drawn_again_from_the_results_whatever_the_settings_say_now(finished):
    page = finished / "runs/tiny/report.html"
    before = page.read_text()
    (finished / "runs/tiny/figures/old.png").write_bytes(b"")  # of earlier settings
    assert run_step(report, finished, "compare: true", "compare: false") == [] and page.read_text() == before
    assert not (finished / "runs/tiny/figures/old.png").exists()
    assert run_step(report, finished, "epochs: 12", "epochs: 50") == [] and page.read_text() == before


def test_lost_tables_of_a_finished_run_are_written_again_without_training(finished, capsys):
    run = finished / "runs/tiny"
    kept = {name: (run / name).read_bytes() for name in ("history.csv", "schedule.csv", "model.keras")}
    about = (run / "run.json").read_bytes()
    for name in ("history.csv", "schedule.csv", "run.json"):
        (run / name).unlink()
    keras.utils.clear_session()
    with contextlib.chdir(finished):
        train.main(read_settings("tiny.yaml"), Path("runs/tiny"))
    assert "going on after epoch" in capsys.readouterr().out
    assert {name: (run / name).read_bytes() for name in kept} == kept and (run / "run.json").exists()
    (run / "run.json").write_bytes(about)


def test_a_tile_that_was_trained_on_is_no_test_tile_later(finished, monkeypatch):
    monkeypatch.chdir(finished)
    settings = read_settings("tiny.yaml")
    settings["split"] = {"train": ["2_13"], "val": ["2_10"], "test": ["2_11", "3_10"]}
    with pytest.raises(Problem) as caught:
        evaluate.main(settings, Path("runs/tiny"))
    assert caught.value.code == 3 and [line[:24] for line in caught.value.lines] == [
        f"tile {tile} in split.test:" for tile in ("2_11", "3_10")
    ]
    assert all("the model in runs/tiny was trained on it, expected" in line for line in caught.value.lines)


def test_a_report_on_tiles_that_are_not_prepared_names_them(finished):
    path = finished / "prepared/manifest.json"
    before = path.read_text()
    rows = json.loads(before)["tiles"]
    path.write_text(manifest_text({"2_13": rows["2_13"], "2_10": rows["2_10"]}))
    lines = run_step(report, finished)
    path.write_text(before)
    assert [line[:35] for line in lines] == [
        f"tile {tile} in prepared: not prepared" for tile in ("2_11", "3_10")
    ]


def test_one_tile_is_predicted_by_name_and_a_missing_one_refused(finished):
    with contextlib.chdir(finished):
        predict.main(read_settings("tiny.yaml"), Path("runs/tiny"), "2_10")
    assert (finished / "runs/tiny/predictions/2_10.tif").exists()
    done = run_script("predict.py", "--params", "tiny.yaml", "--tile=9_9", cwd=finished)
    assert (
        done.returncode == 3
        and done.stderr.startswith('error: TILE "9_9": no such tile or file')
        and done.stderr.count("\n") == 1
    )
