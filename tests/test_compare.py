import csv

import numpy as np
import pytest
import rasterio
from conftest import ROOT, run_script

import compare
from base.files import sha256
from base.problem import Problem
from base.settings import read_settings
from base.tables import read_facts, write_record
from reporting.metrics import describe


def write_run(folder, settings, **changes):
    """A finished run of these settings, `changes` in its model; nothing is trained."""
    folder.mkdir(parents=True)
    scores = describe(np.array([[5, 1], [2, 4]]), ["a", "b"], ["b"])
    protocol = {"views": [0], "window": 64, "overlap": 0.25, "engine": "by hand", "tiles": ["2_13"]}
    each = [np.array([[5, number], [2, 4]]) for number in range(6)]
    tiles = {f"2_{number}": {"full": describe(one, ["a", "b"], [])} for number, one in enumerate(each)}
    write_record(
        folder / "metrics.json", {"protocol": protocol, "full": scores, "eroded": scores, "tiles": tiles}
    )
    (folder / "model.keras").write_bytes(b"weights")
    write_record(
        folder / "model.json",
        {
            "sha256": sha256(folder / "model.keras"),
            "classes": {},
            "parameters": 1000,
            "gflop_per_patch": 0.5,
            "epoch": 3,
        },
    )
    settings = {**settings, "model": {**settings["model"], **changes}}
    write_record(folder / "run.json", {"settings": settings, "commit": "abc", "training_seconds": 90.0})


def test_runs_stand_side_by_side_with_what_differs(tmp_path, monkeypatch, settings, capsys):
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    write_run(runs / "tiny", settings)
    write_run(runs / "<b>wide", {**settings, "report": {"title": "other"}}, width=8)
    (runs / "new").mkdir()
    compare.main(settings, runs / "tiny", show=False)
    output = capsys.readouterr().out
    assert f"not evaluated yet: {runs / 'new'}" in output and "model.width" in output
    assert [line.split() for line in output.splitlines() if line.startswith("tiny")] == [
        ["tiny", "59.82", "74.83", "75.00", "59.82", "62.50", "0.50", "1.5", "none"]
    ]
    rows = list(csv.DictReader((runs / "compare.csv").open()))
    assert [row["run"] for row in rows] == ["<b>wide", "tiny"]
    assert [row["model.width"] for row in rows] == ["8", "4"]
    assert "model.depth" not in rows[0] and "report.title" not in rows[0]
    assert float(rows[0]["full mean_iou"]) == pytest.approx((5 / 8 + 4 / 7) / 2)
    with rasterio.open(runs / "compare.png") as source:
        assert source.width == 1480


def test_a_run_that_began_with_pretrained_weights_is_told_from_one_that_did_not(tmp_path, settings, capsys):
    runs = tmp_path / "runs"
    write_run(runs / "tiny", settings)
    write_run(runs / "lite", settings, encoder="efficientnet_lite0")
    facts = {**read_facts(runs / "lite"), "encoder": "efficientnet_lite0", "rgb": [1, 2, 3]}
    write_record(runs / "lite/model.json", {**facts, "weights": {"source": "imagenet", "sha256": "0"}})
    compare.main(settings, runs / "tiny", show=False)
    lines = capsys.readouterr().out.splitlines()
    lite, tiny = ([line for line in lines if line.startswith(name)][0] for name in ("lite", "tiny"))
    assert lite.endswith("  efficientnet_lite0, pretrained on ImageNet") and tiny.endswith("  none")
    rows = list(csv.DictReader((runs / "compare.csv").open()))
    assert [row["encoder"] for row in rows] == ["efficientnet_lite0, pretrained on ImageNet", ""]


def test_a_damaged_run_is_named_and_the_others_are_compared(tmp_path, settings, capsys):
    runs = tmp_path / "runs"
    write_run(runs / "tiny", settings)
    write_run(runs / "old", settings)
    write_record(runs / "old/run.json", {"settings": settings})
    (runs / "new").mkdir()
    (runs / "new/metrics.json").write_text("{")
    with pytest.raises(Problem) as caught:
        compare.main(settings, runs / "tiny", show=False)
    assert caught.value.code == 3 and len(caught.value.lines) == 2
    assert caught.value.lines[0].startswith(f"file {runs / 'new/metrics.json'}: damaged")
    assert caught.value.lines[1].startswith(
        f"run {runs / 'old'}: 'commit', expected the files of a finished run"
    )
    assert (runs / "compare.csv").exists() and "tiny" in capsys.readouterr().out


def test_runs_that_differ_in_their_seed_alone_are_told_together(tmp_path, settings, capsys):
    runs = tmp_path / "runs"
    for name, seed, width in (("tiny", 1, 4), ("tiny-seed2", 2, 4), ("wide", 1, 8)):
        write_run(runs / name, {**settings, "seed": seed}, width=width)
    compare.main(settings, runs / "tiny", show=False)
    told = capsys.readouterr().out
    assert "model.width" in told and "\nseed" in told
    rows = list(csv.DictReader((runs / "seeds.csv").open()))
    assert [(row["run"], row["seeds"]) for row in rows] == [("tiny", "2"), ("wide", "1")]
    assert float(rows[0]["full accuracy"]) == 0.75 and float(rows[0]["full accuracy, deviation"]) == 0
    assert rows[1]["full accuracy, deviation"] == ""
    (row,) = csv.DictReader((runs / "differences.csv").open())
    assert (row["run"], row["other"], row["tiles"]) == ("tiny", "wide", "6")
    assert float(row["difference"]) == float(row["low"]) == float(row["high"]) == 0
    assert [line.split() for line in told.splitlines() if line.startswith("tiny ")][-1] == [
        *("tiny", "wide", "+0.00", "+0.00", "+0.00", "6")
    ]


def test_seeds_are_settings_files_of_their_own_and_what_lay_there_goes(tmp_path, settings, capsys):
    run = tmp_path / "runs/tiny"
    compare.main({**settings, "seed": 5}, run, show=False, seeds="4")
    names = [f"tiny-seed{seed}.yaml" for seed in (6, 7, 8)]
    assert sorted(path.name for path in (run / "seeds").iterdir()) == names
    assert capsys.readouterr().out.split() == [str(run / "seeds" / name) for name in names]
    for seed, name in zip((6, 7, 8), names):
        assert read_settings(run / "seeds" / name) == {**settings, "seed": seed}
    compare.main({**settings, "seed": 5}, run, show=False, seeds="2")
    assert [path.name for path in (run / "seeds").iterdir()] == names[:1]


@pytest.mark.parametrize("count", ["1", "0", "-3", "", "two", "2.5", "101", "\u0663"])
def test_a_number_of_seeds_that_is_none_is_one_line(tmp_path, settings, count):
    with pytest.raises(Problem, match="expected how many runs, a whole number from 2 to 100") as caught:
        compare.main(settings, tmp_path / "runs/tiny", show=False, seeds=count)
    assert caught.value.code == 2 and not (tmp_path / "runs").exists()


def test_seeds_past_the_highest_are_refused_before_any_training(tmp_path, settings):
    with pytest.raises(Problem, match="of which 3 runs would have 2147483648 too") as caught:
        compare.main({**settings, "seed": 2**31 - 2}, tmp_path / "runs/tiny", show=False, seeds="3")
    assert caught.value.code == 2 and not (tmp_path / "runs").exists()


def test_no_run_to_compare_is_one_line(tmp_path, settings):
    with pytest.raises(Problem, match="no evaluated run, expected one; make report"):
        compare.main(settings, tmp_path / "runs/tiny", show=False)


def test_as_a_user_runs_it_the_settings_alone(tmp_path):
    done = run_script("compare.py", "--show", "--params", str(ROOT / "params.yaml"), cwd=tmp_path)
    assert (
        done.returncode == 0 and done.stderr == "" and "\n# 0 keys differ from params.yaml\n" in done.stdout
    )
    assert (
        list(tmp_path.iterdir()) == []
        and f"epochs: {read_settings(ROOT / 'params.yaml')['train']['epochs']}" in done.stdout
    )
