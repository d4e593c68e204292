import contextlib
import json

import numpy as np
import pytest
import rasterio
from conftest import SETTINGS, write_raster, write_tile

import evaluate
import prepare_data
from base.files import sha256
from base.problem import Problem
from base.tables import read_record, write_record, write_rows
from imagery.arrays import IGNORE
from imagery.tiles import manifest_text, open_prepared, prepared_rows
from mapping.maps import beside, maps_of, options_of, read_areas, ways
from reporting.metrics import describe

SIZES = {"2_11": (40, 48), "2_10": (32, 40), "2_13": (50, 45), "3_13": (33, 40)}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """(settings, run) of two test tiles whose maps say what their labels say; nothing is trained."""
    folder = tmp_path_factory.mktemp("evaluate")
    settings = json.loads(json.dumps(SETTINGS))
    settings["split"] = {"train": ["2_11"], "val": ["2_10"], "test": ["2_13", "3_13"]}
    settings["data"].update(raw=str(folder / "raw"), prepared=str(folder / "prepared"))
    settings["predict"].update(compare=True, also=["confidence"])
    for tile, shape in SIZES.items():
        write_tile(folder / "raw", tile, shape)
    run = folder / "runs/tiny"
    prepare_data.main(settings, run)
    rows = prepared_rows(settings["data"], SIZES)
    run.mkdir(parents=True)
    (run / "model.keras").write_bytes(b"weights")
    write_record(
        run / "model.json",
        {
            "classes": settings["data"]["classes"],
            "sha256": sha256(run / "model.keras"),
            "epoch": 3,
            "chosen_by": "highest mean IoU on split.val",
            "trained_on": {"2_11": rows["2_11"]["pixels_sha256"]},
            "chosen_on": {"2_10": rows["2_10"]["pixels_sha256"]},
        },
    )
    predict = {"map": settings["predict"], **ways(settings)}
    for tile in settings["split"]["test"]:
        labels = open_prepared(settings["data"], tile).labels
        for way, path in maps_of(tile, settings, run).items():
            tags = {
                "MODEL": sha256(run / "model.keras"),
                "PREDICT": options_of(predict[way]),
                "ENGINE": "by hand",
                "SOURCE": rows[tile]["raw"]["image"]["sha256"],
            }
            write_map(path, labels, tags)
            if way == "map":
                write_map(beside(path, "confidence"), np.full_like(labels, 190), tags)
                write_map(beside(path, "uncalibrated"), np.full_like(labels, 150), tags)
                write_areas(beside(path, "areas"), labels, settings["data"]["classes"])
    return settings, run


def write_areas(path, labels, classes):
    """A table as predict.py writes it, that expects half a pixel more of each class."""
    counts = np.bincount(labels[labels != IGNORE], minlength=len(classes)).tolist()
    rows = [{"class": name, "pixels": n, "expected_pixels": n + 0.5} for name, n in zip(classes, counts)]
    write_rows(path, list(rows[0]), rows)


def write_map(path, pixels, tags):
    write_raster(path, np.ascontiguousarray(pixels))
    with rasterio.open(path, "r+") as target:
        target.update_tags(**tags)


def refused(scored, **changes):
    """The lines with which evaluate.py refuses this run; `changes`: sections of the settings."""
    settings, run = scored
    with pytest.raises(Problem) as caught:
        evaluate.main({**settings, **changes}, run)
    assert caught.value.code == 3
    return caught.value.lines


@contextlib.contextmanager
def changed(path, edit):
    """Inside, a file is as `edit` leaves it; afterwards as before."""
    before = path.read_bytes()
    edit(path)
    yield
    path.write_bytes(before)


def edit_facts(edit):
    def write(path):
        facts = json.loads(path.read_text())
        facts.pop("digest")
        edit(facts)
        write_record(path, facts)

    return write


def test_the_protocol_names_the_tiles_that_the_model_was_trained_and_chosen_on(scored):
    settings, run = scored
    evaluate.main({**settings, "split": {**settings["split"], "train": ["9_9"], "val": ["8_8"]}}, run)
    metrics = json.loads((run / "metrics.json").read_text())
    protocol = metrics["protocol"]
    assert protocol["trained_on"] == ["2_11"] and protocol["checkpoint_chosen_on"] == ["2_10"]
    assert protocol["tiles"] == ["2_13", "3_13"] and "on split.val (2_10)" in protocol["text"]
    assert (
        metrics["full"]["accuracy"] == 1
        and metrics["ways"]["one_view"]["tiles"]["3_13"]["full"]["accuracy"] == 1
    )
    assert set(metrics["tiles"]) == {"2_13", "3_13"} and metrics["protocol"]["engine"] == "by hand"
    assert [step["way"] for step in metrics["gains"]] == ["uncovered", "side_by_side", "one_view", "map"]


def test_calibration_and_areas_are_told_of_all_test_tiles_together(scored):
    settings, run = scored
    facts = read_record(run / "model.json", "train.py")
    hot = {"one_view": 2, "eight_views": 0.8}
    with changed(run / "model.json", edit_facts(lambda facts: facts.update(temperature=hot))):
        evaluate.main(settings, run)
    metrics = json.loads((run / "metrics.json").read_text())
    told = metrics["calibration"]
    assert told["expected_calibration_error"] == pytest.approx(1 - 190 / 200)  # every pixel is right
    assert told["before"]["expected_calibration_error"] == pytest.approx(1 - 150 / 200)
    assert told["temperature"] == 0.8 and "temperature" not in facts
    tables = [read_areas(run / f"predictions/{tile}.tif", facts["classes"]) for tile in ("2_13", "3_13")]
    pixels = {name: sum(table[name][0] for table in tables) for name in facts["classes"]}
    for name, shares in metrics["areas"].items():
        assert shares["labelled"] == shares["predicted"] == pytest.approx(pixels[name] / sum(pixels.values()))
        expected = (pixels[name] + 2 * 0.5) / (sum(pixels.values()) + 2 * 6 * 0.5)
        assert shares["expected"] == pytest.approx(expected)


def test_the_card_says_accuracy_or_recall_and_of_which_classes(capsys):
    scores = describe(np.array([[3, 1, 1], [1, 4, 0], [0, 0, 0]]), ["a", "b", "c"], ["b"])
    protocol = {"leave_out": ["b"], "views": [0]}
    evaluate.print_scores({"protocol": protocol, "full": scores, "eroded": scores, "ways": {}})
    lines = [line.split(maxsplit=2)[2] for line in capsys.readouterr().out.splitlines() if " full " in line]
    never = "(c predicted, never labelled: IoU 0)"
    assert [" ".join(line.split()) for line in lines[1:]] == [
        f"0.7000 0.3889 0.4889 all 3 {never}",  # 7 of 10; 3/6, 4/6 and 0; 6/9, 8/10 and 0
        f"recall 0.6000 0.2500 0.3333 without b {never}",  # 3 of 5; 3/6 and 0; 6/9 and 0
        f"0.6000 0.3000 0.3750 labels of b ignored {never}",  # 3 of 5; 3/5 and 0; 6/8 and 0
    ]


def test_test_tiles_that_the_model_was_trained_or_chosen_on_are_refused_all_at_once(scored):
    settings, run = scored
    split = {"train": ["3_13"], "val": ["9_9"], "test": ["2_11", "2_13", "2_10"]}
    lines = refused(scored, split=split)
    assert len(lines) == 2
    assert lines[0].startswith(
        f"tile 2_11 in split.test: the model in {run} was trained on it, expected a tile"
    )
    assert lines[1].startswith(
        f"tile 2_10 in split.test: the model in {run} was chosen on it, expected a tile"
    )


@pytest.mark.parametrize("role", ["trained", "chosen"])
def test_a_test_tile_with_the_pixels_of_one_that_the_model_has_seen_is_refused(scored, role):
    settings, run = scored
    pixels = prepared_rows(settings["data"], SIZES)["3_13"]["pixels_sha256"]
    with changed(run / "model.json", edit_facts(lambda facts: facts[f"{role}_on"].update({"7_7": pixels}))):
        lines = refused(scored)
    assert len(lines) == 1
    assert lines[0].startswith(
        f"tile 3_13 in split.test: the model in {run} was {role} on it as tile 7_7, expected"
    )


@pytest.mark.parametrize("name, pixels", [("raw/3_13", "0" * 64), ("other/7_7", None)])
def test_a_test_tile_behind_the_first_weights_is_refused(scored, name, pixels):
    settings, run = scored
    pixels = pixels or prepared_rows(settings["data"], SIZES)["3_13"]["pixels_sha256"]
    seen = {
        name.replace("raw", settings["data"]["raw"]): pixels,
        "other/2_13": "1" * 64,
    }  # another folder's tile of the same name is another tile
    with changed(run / "model.json", edit_facts(lambda facts: facts.update(started_on=seen))):
        lines = refused(scored)
    assert len(lines) == 1 and "started from weights that were trained or chosen on it" in lines[0]
    assert lines[0].startswith("tile 3_13 in split.test")


def test_a_model_that_does_not_say_what_it_was_trained_on_is_not_scored(scored):
    _, run = scored
    with changed(run / "model.json", edit_facts(lambda facts: facts.pop("chosen_on"))):
        lines = refused(scored)
    assert lines[0].startswith(f"model {run / 'model.json'}: of an earlier version")


def test_a_tile_that_is_not_prepared_is_named(scored):
    settings, _ = scored
    lines = refused(scored, split={**settings["split"], "test": ["2_13", "9_8", "9_9"]})
    assert [line[:26] for line in lines] == [
        f"tile 9_{i} in {settings['data']['prepared']}"[:26] for i in (8, 9)
    ]


@pytest.mark.parametrize(
    "name, edit, expected",
    [
        ("2_13.tif", lambda path: path.unlink(), "2_13.tif: no such file, expected it of predict.py"),
        (
            "2_13.tif",
            lambda path: write_raster(path, np.zeros((9, 9), np.uint8)),
            "expected one of uint8, (50, 45)",
        ),
        ("2_13.tif", lambda path: write_raster(path, np.zeros((50, 45), np.uint8)), "made by another model"),
        ("2_13.tif", lambda path: paint(path, 6), "values past 5, expected 0 to 5"),
        ("2_13.confidence.tif", lambda path: paint(path, 230), "values past 200, expected 0 to 200"),
        ("3_13.side_by_side.tif", lambda path: path.unlink(), "3_13.side_by_side.tif: no such file"),
        ("2_13.uncalibrated.tif", lambda path: path.unlink(), "2_13.uncalibrated.tif: no such file"),
        ("2_13.areas.csv", lambda path: path.unlink(), "2_13.areas.csv: no such file"),
        ("2_13.areas.csv", lambda path: path.write_text("class,pixels\na,1\n"), "expected pixels and"),
        ("2_13.areas.csv", lambda path: path.write_text("class\ncar,1\n"), "a row of another length"),
    ],
)
def test_a_map_that_is_missing_damaged_or_of_another_model_is_one_line(scored, name, edit, expected):
    _, run = scored
    with changed(run / "predictions" / name, edit):
        lines = refused(scored)
    assert len(lines) == 1 and expected in lines[0]


def paint(path, value):
    with rasterio.open(path, "r+") as target:
        target.write(np.full((1, 1), value, np.uint8), 1, window=((0, 1), (0, 1)))


def test_a_map_with_other_predict_settings_or_of_another_image_is_not_scored(scored):
    settings, run = scored
    assert (
        "with other predict settings" in refused(scored, predict={**settings["predict"], "overlap": 0.5})[0]
    )
    manifest = run.parents[1] / "prepared/manifest.json"
    rows = json.loads(manifest.read_text())["tiles"]
    rows["2_13"]["raw"]["image"]["sha256"] = "0" * 64
    with changed(manifest, lambda path: path.write_text(manifest_text(rows))):
        assert "made from another image" in refused(scored)[0]


def test_a_map_that_is_not_the_file_of_predict_csv_is_not_scored(scored):
    settings, run = scored
    path = run / "predictions/3_13.tif"
    table = run / "predict.csv"
    table.write_text(
        f"map,seconds,sha256\n3_13,2.5,{sha256(path)}\n2_13,,{sha256(run / 'predictions/2_13.tif')}\n"
    )
    evaluate.main(settings, run)
    assert (
        json.loads((run / "metrics.json").read_text())["gains"][-1]["seconds_per_tile"] is None
    )  # not known of all
    table.write_text(f"map,seconds,sha256\n3_13,2.5,{'0' * 64}\n")
    assert "3_13.tif: other bytes than predict.csv names" in refused(scored)[0]
    table.write_text(f"map,seconds,sha256\n3_13,soon,{sha256(path)}\n")
    assert "expected columns map and seconds" in refused(scored)[0]
    table.unlink()


def test_what_whole_windows_leave_over_is_the_first_class_but_without_data():
    predicted = np.full((5, 7), 3, np.uint8)
    predicted[4, 6] = IGNORE
    covered = evaluate.uncovered(predicted, 2)
    assert (covered[:4, :6] == 3).all() and covered.dtype == np.uint8
    assert (covered[4, :6] == 0).all() and (covered[:4, 6] == 0).all() and covered[4, 6] == IGNORE
