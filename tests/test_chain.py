"""The whole chain once, as a user runs it: raw tiles to a report, on made-up tiles."""

import json
import re

import numpy as np
import pytest
import rasterio
from conftest import COLOURS, SIZES, run_script, save_settings

import report
from tiles import manifest_text


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which every step has run."""
    from conftest import SETTINGS, write_tile

    folder = tmp_path_factory.mktemp("chain")
    for tile, shape in SIZES.items():
        write_tile(folder / "raw", tile, shape)
    settings = json.loads(json.dumps(SETTINGS))
    settings["model"].update(residual="add", centre="plain", stem=2, local_contrast=[4, 8])
    settings["train"].update(max_lr="auto", epochs=12, optimizer="adamw", class_weights=0.75)
    settings["report"]["title"] = "<script>alert(1)</script> & title"
    save_settings(folder, settings)
    for script in ("prepare_data.py", "lr_find.py", "train.py", "predict.py", "evaluate.py", "report.py"):
        done = run_script(script, "--params", "tiny.yaml", cwd=folder)
        assert done.returncode == 0 and done.stderr == "", f"{script}: {done.stderr}"  # no noise either
    return folder


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
    assert set(metrics) == {"protocol", "full", "eroded", "tiles"}
    for scores in (metrics["full"], metrics["eroded"], metrics["tiles"]["2_13"]["eroded"]):
        assert set(scores) == {"accuracy", "mean_iou", "mean_f1", "left_out", "classes", "confusion"}
        assert set(scores["left_out"]) == {"accuracy", "mean_iou", "mean_f1"}
        assert set(scores["classes"]["car"]) == {"iou", "f1", "precision", "recall", "pixels"}
    protocol = metrics["protocol"]
    assert protocol["tiles"] == ["2_13"] and protocol["views"] == [0, 5] and protocol["eroded_labels"] == "disc of 3 px"
    rows = (finished / "runs/tiny/confusion.csv").read_text().splitlines()
    assert rows[0] == "label \\ predicted,impervious,building,low vegetation,tree,car,clutter" and len(rows) == 7


def test_the_page_holds_everything_itself_and_escapes_names(finished):
    page = (finished / "runs/tiny/report.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;alert(1)&lt;/script&gt; &amp; title" in page
    assert not re.findall(r'(?:src|href)="(?!data:image/png;base64,)', page)
    names = {p.name for p in (finished / "runs/tiny/figures").iterdir()}
    assert names == {
        "classes.png",
        "confusion.png",
        "training.png",
        "one_cycle.png",
        "audit.png",
        "augmentation.png",
        "tile_2_13.png",
    }
    assert page.count("<img ") == len(names) + 1  # and the finder's curve
    metrics = json.loads((finished / "runs/tiny/metrics.json").read_text())
    assert f"{100 * metrics['full']['mean_iou']:.2f}" in page and metrics["protocol"]["text"].split(";")[0] in page


def test_pictures_of_a_tile_show_errors_where_they_are(finished, monkeypatch):
    monkeypatch.chdir(finished)
    from params import read_settings

    settings = read_settings("tiny.yaml")
    pictures = report.tile_pictures("2_13", settings, finished / "runs/tiny")
    wrong = (pictures["labels"] != pictures["prediction"]).any(-1)
    np.testing.assert_array_equal((pictures["errors"] == (230, 0, 126)).all(-1), wrong)
    assert pictures["image"].shape == (*SIZES["2_13"], 3)


def test_no_figure_shows_raw_formulas(finished, monkeypatch):
    kept = []
    monkeypatch.setattr(report, "save", lambda figure, path: kept.append(figure))
    steps = np.arange(1, 100)
    with report.plt.rc_context(report.STYLE):
        report.draw_one_cycle("", {"step": steps, "learning_rate": 10.0 ** (-steps / 20), "momentum": steps / 100})
        kept[0].canvas.draw()
    texts = [label.get_text() for axes in kept[0].axes for label in axes.get_xticklabels() + axes.get_yticklabels()]
    assert "0.001" in texts and not any("$" in text for text in texts)


def test_a_map_of_another_model_is_not_scored(finished):
    path = finished / "runs/tiny/model.json"
    before = path.read_text()
    path.write_text(re.sub(r'"sha256": "\w+"', '"sha256": "0"', before))
    done = run_script("evaluate.py", "--params", "tiny.yaml", cwd=finished)
    path.write_text(before)
    assert done.returncode == 3 and "made by another model" in done.stderr and done.stderr.count("\n") == 1


def run_with_edited_tiles(folder, script, edit):
    """A finished script, run while the manifest's tiles are as `edit` leaves them."""
    path = folder / "prepared/manifest.json"
    before = path.read_text()
    tiles = json.loads(before)["tiles"]
    edit(tiles)
    path.write_text(manifest_text(tiles))
    done = run_script(script, "--params", "tiny.yaml", cwd=folder)
    path.write_text(before)
    assert done.returncode == 3 and done.stderr.count("\n") == 1
    return done.stderr


def test_a_map_of_another_image_than_the_prepared_one_is_not_scored(finished):
    told = run_with_edited_tiles(
        finished, "evaluate.py", lambda tiles: tiles["2_13"]["raw"]["image"].update(sha256="0" * 64)
    )
    assert "made from another image" in told


def test_a_report_on_tiles_that_are_not_prepared_is_one_line(finished):
    told = run_with_edited_tiles(finished, "report.py", lambda tiles: tiles.pop("2_11"))
    assert "tile 2_11 in prepared: not prepared" in told


def test_the_audit_counts_what_the_manifest_says_whatever_the_names(tmp_path):
    row = {
        "shape": [10, 20, 3],
        "pixels": {"labels": {"repaired": 20, "ignored": 40, "unknown": 2}},
        "nodata": 10,
        "outside_scale": [0, 4, 1],
        "classes": {"$x_$": 100, "b": 60},
    }
    expected = {"repaired": 0.1, "ignored": 0.2, "unknown": 0.01, "no data": 0.05, "outside scale": 0.02}
    assert report.faults(row) == pytest.approx(expected)
    split, classes = {"train": ["a$^$b"], "val": ["c"], "test": ["d"]}, {"$x_$": "#ff0000", "b": "#00ff00"}
    with report.plt.rc_context(report.STYLE):
        report.draw_audit(tmp_path / "audit.png", split, {tile: row for tile in ("a$^$b", "c", "d")}, classes)
    assert (tmp_path / "audit.png").stat().st_size > 10_000


def test_a_missing_map_is_one_line(finished):
    path = finished / "runs/tiny/predictions/2_13.tif"
    path.rename(path.with_suffix(".away"))
    done = run_script("evaluate.py", "--params", "tiny.yaml", cwd=finished)
    path.with_suffix(".away").rename(path)
    assert done.returncode == 3 and "2_13.tif: no such file" in done.stderr and done.stderr.count("\n") == 1


def test_one_tile_is_predicted_by_name_and_a_missing_one_refused(finished):
    done = run_script("predict.py", "--params", "tiny.yaml", "--tile=2_10", cwd=finished)
    assert done.returncode == 0 and (finished / "runs/tiny/predictions/2_10.tif").exists()
    done = run_script("predict.py", "--params", "tiny.yaml", "--tile=9_9", cwd=finished)
    assert (
        done.returncode == 3
        and done.stderr.startswith('error: TILE "9_9": no such tile or file')
        and done.stderr.count("\n") == 1
    )
