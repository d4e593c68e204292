"""The whole chain once, as a user runs it: raw tiles to a report, on made-up tiles."""

import csv
import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import rasterio
import yaml
from conftest import COLOURS, SIZES, run_script, save_settings

from base.files import sha256
from imagery.tiles import manifest_text
from reporting import charts, network_figure, page, pictures
from reporting.metrics import card, describe


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
    settings["predict"].update(compare=True, also=["confidence"])
    settings["report"]["title"] = "<script>alert(1)</script> & title"
    save_settings(folder, settings)
    for script in ("prepare_data.py", "lr_find.py", "train.py", "predict.py", "evaluate.py", "report.py"):
        done = run_script(script, "--params", "tiny.yaml", cwd=folder)
        assert done.returncode == 0 and done.stderr == "", f"{script}: {done.stderr}"  # no noise either
    return folder


def test_the_same_settings_on_the_same_tiles_give_the_same_bytes_again(finished, tmp_path):
    (tmp_path / "runs/tiny").mkdir(parents=True)
    for name in ("raw", "prepared", "tiny.yaml", "runs/tiny/lr_find.json"):
        (tmp_path / name).symlink_to(finished / name)
    for script in ("train.py", "predict.py"):
        done = run_script(script, "--params", "tiny.yaml", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
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
        "settings",
    }
    for scores in (metrics["full"], metrics["eroded"], metrics["tiles"]["2_13"]["eroded"]):
        assert set(scores) == {"accuracy", "mean_iou", "mean_f1", "left_out", "classes", "confusion"}
        assert set(scores["left_out"]) == {"accuracy", "mean_iou", "mean_f1"}
        assert set(scores["classes"]["car"]) == {"iou", "f1", "precision", "recall", "pixels"}
    protocol = metrics["protocol"]
    assert protocol["tiles"] == ["2_13"] and protocol["views"] == [0, 5] and protocol["eroded_labels"] == "disc of 3 px"
    rows = (finished / "runs/tiny/confusion.csv").read_text().splitlines()
    assert rows[0] == "label \\ predicted,impervious,building,low vegetation,tree,car,clutter" and len(rows) == 7


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
    import keras

    network = keras.models.load_model(finished / "runs/tiny/model.keras", compile=False)
    image = np.load(finished / "prepared/2_13.pixels.npy")[32:64, :32, :3]
    expected = np.asarray(network(image[None]))[0].argmax(-1)
    found = read_band(finished / "runs/tiny/predictions/2_13.side_by_side.tif")[32:64, :32]
    np.testing.assert_array_equal(found, expected)


def test_the_curve_passes_through_the_eroded_scores_and_confidence_through_the_accuracy(finished):
    metrics = json.loads((finished / "runs/tiny/metrics.json").read_text())
    at = {row["pixels"]: row for row in metrics["boundary"]}
    assert at[0]["accuracy_beyond"] == metrics["full"]["accuracy"] and at[0]["mean_iou_beyond"] == pytest.approx(
        metrics["full"]["mean_iou"]
    )
    assert at[3]["accuracy_beyond"] == metrics["eroded"]["accuracy"] and max(at) == 20
    bins = metrics["calibration"]["bins"]
    assert sum(row["pixels"] for row in bins) == np.sum(metrics["full"]["confusion"])
    right = sum(row["pixels"] * row["accuracy"] for row in bins if row["pixels"])
    assert right == pytest.approx(np.trace(metrics["full"]["confusion"]))


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
    assert f"{100 * metrics['full']['mean_iou']:.2f}" in page and metrics["protocol"]["text"].split(";")[0] in page


def test_pictures_of_a_tile_show_errors_where_they_are(finished, monkeypatch):
    monkeypatch.chdir(finished)
    from base.settings import read_settings

    found = pictures.tile_pictures("2_13", read_settings("tiny.yaml"), finished / "runs/tiny", alone=True)
    wrong = (found["labels"] != found["prediction"]).any(-1)
    np.testing.assert_array_equal((found["errors"] == pictures.ERROR).all(-1), wrong)
    alone = (found["labels"] != found["one view"]).any(-1)
    change = found["what the views change"]
    np.testing.assert_array_equal((change == pictures.GAINED).all(-1), alone & ~wrong)
    np.testing.assert_array_equal((change == pictures.LOST).all(-1), wrong & ~alone)
    assert found["image"].shape == (*SIZES["2_13"], 3)


def test_the_diagram_knows_every_parameter_of_the_built_network(finished):
    network = network_figure.read_network(finished / "runs/tiny/model.keras")
    facts = json.loads((finished / "runs/tiny/model.json").read_text())
    assert sum(block["parameters"] for block in network.values()) == facts["parameters"]
    assert network["input"]["channels"] == 9 and network["head"]["channels"] == 6  # three bands, thrice
    assert [network[name]["scale"] for name in ("stem", "down0", "down1", "centre", "up0", "head")] == [
        2,
        2,
        4,
        8,
        2,
        1,
    ]
    assert network["centre"]["channels"] == 16


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHECKS = """<script>
addEventListener("load", () => setTimeout(() => {
  const said = [], ask = (what, answer) => said.push(what + ": " + answer);
  const pictures = [...document.images], swipe = document.querySelector(".swipe");
  const stage = swipe.querySelector(".stage"), range = swipe.querySelector("input");
  const [left, right] = swipe.querySelectorAll("select");
  const clip = () => getComputedStyle(stage.querySelector(".left")).clipPath;
  ask("pictures", pictures.every(picture => picture.complete && picture.naturalWidth > 0));
  const before = clip();
  range.value = 20; range.dispatchEvent(new Event("input"));
  ask("slider", before + " then " + clip());
  const box = stage.getBoundingClientRect();
  stage.setPointerCapture = () => {};
  stage.dispatchEvent(new PointerEvent("pointerdown", {clientX: box.left + 0.75 * box.width, clientY: box.top + 5}));
  ask("pointer", range.value);
  left.value = "errors"; left.dispatchEvent(new Event("input"));
  const shown = [...stage.children].filter(layer => getComputedStyle(layer).visibility === "visible");
  ask("shown", shown.map(layer => layer.dataset.layer).join(" and "));
  range.focus(); ask("focus", document.activeElement === range);
  ask("wide", document.documentElement.scrollWidth <= innerWidth);
  document.title = said.join("; ");
}, 100));
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_works_in_a_browser(finished, tmp_path, width):
    page = tmp_path / "page.html"
    page.write_text((finished / "runs/tiny/report.html").read_text().replace("</body>", CHECKS + "</body>"))
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'browser'}",
            f"--window-size={width},900",
            "--virtual-time-budget=5000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    title = re.search("<title>(.*?)</title>", done.stdout, re.S)[1]
    assert title == (
        "pictures: true; slider: inset(0px 50% 0px 0px) then inset(0px 80% 0px 0px); pointer: 75; "
        "shown: prediction and errors; focus: true; wide: true"
    )
    assert "CONSOLE" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    "name, edit, told",
    [
        ("history.csv", lambda text: text.splitlines()[0] + "\n", "history.csv: no rows"),
        ("history.csv", lambda text: re.sub(r"(?m)^(3,.*?,.*?,).*?,", r"\1nan,", text), "'nan' in line 4, column loss"),
        ("history.csv", lambda text: text + "1,2\n", "history.csv: a row of another length"),
        ("metrics.json", lambda text: text[:1000], "metrics.json: no JSON"),
        ("metrics.json", lambda text: text.replace('"2_13": {', '"2_14": {'), "of other tiles or classes"),
        ("model.keras", lambda text: "PK", "model.keras: other bytes than model.json names"),
    ],
)
def test_a_report_from_a_damaged_run_is_one_line_and_leaves_the_earlier_page(finished, name, edit, told):
    path, page = finished / "runs/tiny" / name, finished / "runs/tiny/report.html"
    before, earlier = path.read_bytes(), page.read_bytes()
    path.write_text(edit(before.decode("utf-8", "replace")))
    done = run_script("report.py", "--params", "tiny.yaml", cwd=finished)
    path.write_bytes(before)
    assert done.returncode == 3 and told in done.stderr and done.stderr.count("\n") == 1
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
    assert HOSTILE not in page and html.escape(HOSTILE) in page and "<img src=x" not in page
    (folder / "runs/tiny/predictions" / f"{HOSTILE}.tif").write_bytes(b"II*\0")
    done = run_script("evaluate.py", "--params", "tiny.yaml", cwd=folder, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 3 and done.stderr.isascii() and done.stderr.count("\n") == 1


def test_a_hostile_class_name_is_text_on_the_page():
    scores = dict.fromkeys(("iou", "f1", "precision", "recall"), 0.5) | {"pixels": 3}
    classes = {"<script>alert(1)</script>": "#ff0000", "$x_$ & b": "#00ff00"}
    metrics = {kind: {"classes": dict.fromkeys(classes, scores)} for kind in ("full", "eroded")}
    table = page.build_classes(metrics, classes)
    assert "<script>" not in table and "&lt;script&gt;alert(1)&lt;/script&gt;" in table and "$x_$ &amp; b" in table


def run_edited(finished, script, before, after):
    """A finished script, run while the settings say something else."""
    text = (finished / "tiny.yaml").read_text()
    assert before in text
    (finished / "tiny.yaml").write_text(text.replace(before, after, 1))
    done = run_script(script, "--params", "tiny.yaml", cwd=finished)
    (finished / "tiny.yaml").write_text(text)
    return done


def test_maps_of_a_model_with_the_classes_in_another_order_are_not_scored(finished):
    first, second = "    impervious: '#ffffff'\n", "    building: '#0000ff'\n"
    for script in ("evaluate.py", "report.py"):
        done = run_edited(finished, script, first + second, second + first)
        assert done.returncode == 3 and "in this order and these colours" in done.stderr


def test_the_page_is_drawn_again_from_the_results_whatever_the_settings_say_now(finished):
    page = finished / "runs/tiny/report.html"
    before = page.read_text()
    done = run_edited(finished, "report.py", "compare: true", "compare: false")
    assert done.returncode == 0 and page.read_text() == before
    done = run_edited(finished, "report.py", "epochs: 12", "epochs: 50")
    assert done.returncode == 0 and page.read_text() == before


def test_a_figure_of_earlier_settings_goes(finished):
    (finished / "runs/tiny/figures/old.png").write_bytes(b"")
    assert run_script("report.py", "--params", "tiny.yaml", cwd=finished).returncode == 0
    assert not (finished / "runs/tiny/figures/old.png").exists()


def test_lost_tables_of_a_finished_run_are_written_again_without_training(finished):
    run = finished / "runs/tiny"
    kept = {name: (run / name).read_bytes() for name in ("history.csv", "schedule.csv", "model.keras")}
    about = (run / "run.json").read_bytes()
    for name in ("history.csv", "schedule.csv", "run.json"):
        (run / name).unlink()
    done = run_script("train.py", "--params", "tiny.yaml", cwd=finished)
    assert "finished already" in done.stdout
    assert {name: (run / name).read_bytes() for name in kept} == kept and (run / "run.json").exists()
    (run / "run.json").write_bytes(about)


def test_a_confidence_past_certainty_is_one_line(finished):
    path = finished / "runs/tiny/predictions/2_13.confidence.tif"
    before = path.read_bytes()
    with rasterio.open(path, "r+") as target:
        target.write(np.full((1, 1), 230, np.uint8), 1, window=((0, 1), (0, 1)))
    done = run_script("evaluate.py", "--params", "tiny.yaml", cwd=finished)
    path.write_bytes(before)
    assert done.returncode == 3 and "values past 200" in done.stderr and done.stderr.count("\n") == 1


def test_a_picture_of_any_size_has_no_dark_edge():
    small, step = pictures.shrink(np.full((101, 30, 3), 200, np.uint8), 25)
    assert step == 5 and small.shape == (21, 6, 3) and (small == 200).all()


def test_means_say_how_many_classes_they_are_over():
    full = describe(np.array([[5, 1, 0], [0, 4, 0], [0, 0, 0]]), ["a", "b", "c"], ["c"])
    metrics = {"protocol": {"leave_out": ["c"], "views": [0]}, "full": full, "eroded": full, "ways": {}}
    assert [row[2] for row in card(metrics)] == ["all 2 that occur, of 3", "without c"] * 2


def test_runs_stand_side_by_side_with_what_differs(finished):
    shutil.copytree(finished / "runs/tiny", finished / "runs/<b>wide")
    (finished / "runs/new").mkdir()
    settings = (finished / "runs/tiny/params.yaml").read_text()
    (finished / "runs/<b>wide/params.yaml").write_text(settings.replace("width: 4", "width: 8"))
    done = run_script("compare.py", "--params", "tiny.yaml", cwd=finished)
    assert done.returncode == 0 and done.stderr == "" and "not evaluated yet: runs/new" in done.stdout
    rows = list(csv.DictReader((finished / "runs/compare.csv").open()))
    assert [row["run"] for row in rows] == ["<b>wide", "tiny"]
    assert [row["model.width"] for row in rows] == ["8", "4"] and "model.depth" not in rows[0]
    metrics = json.loads((finished / "runs/tiny/metrics.json").read_text())
    assert float(rows[0]["full mean_iou"]) == metrics["full"]["mean_iou"]
    with rasterio.open(finished / "runs/compare.png") as source:
        assert source.width == 1480
    (finished / "runs/new/metrics.json").write_text("{")
    done = run_script("compare.py", "--params", "tiny.yaml", cwd=finished)
    shutil.rmtree(finished / "runs/<b>wide")
    shutil.rmtree(finished / "runs/new")
    assert done.returncode == 3 and "error: scores runs/new/metrics.json: " in done.stderr
    assert "model.width" in done.stdout


def test_no_figure_shows_raw_formulas(finished, monkeypatch):
    kept = []
    monkeypatch.setattr(charts, "save", lambda figure, path: kept.append(figure))
    steps = np.arange(1, 100)
    with charts.style():
        charts.draw_one_cycle("", {"step": steps, "learning_rate": 10.0 ** (-steps / 20), "momentum": steps / 100})
        kept[0].canvas.draw()
    texts = [label.get_text() for axes in kept[0].axes for label in axes.get_xticklabels() + axes.get_yticklabels()]
    assert "0.001" in texts and not any("$" in text for text in texts)


def test_a_map_of_another_model_is_not_scored(finished):
    facts, model = finished / "runs/tiny/model.json", finished / "runs/tiny/model.keras"
    before = facts.read_text(), model.read_bytes()
    model.write_bytes(before[1] + b"\0")
    facts.write_text(json.dumps({**json.loads(before[0]), "sha256": sha256(model)}))
    done = run_script("evaluate.py", "--params", "tiny.yaml", cwd=finished)
    facts.write_text(before[0])
    model.write_bytes(before[1])
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
    assert charts.faults(row) == pytest.approx(expected)
    split, classes = {"train": ["a$^$b"], "val": ["c"], "test": ["d"]}, {"$x_$": "#ff0000", "b": "#00ff00"}
    with charts.style():
        charts.draw_audit(tmp_path / "audit.png", split, {tile: row for tile in ("a$^$b", "c", "d")}, classes)
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
