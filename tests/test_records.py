import pytest

from base.files import sha256
from base.tables import write_record
from imagery.tiles import manifest_text
from learning import records


@pytest.fixture
def finished(tmp_path, settings, monkeypatch):
    """A finished training of two tiles, as it says of itself."""
    monkeypatch.chdir(tmp_path)
    rows = {
        tile: {"files": {"pixels": {"name": f"{tile}.npy", "sha256": tile}}}
        for tile in ("2_11", "3_10", "2_10")
    }
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared/manifest.json").write_text(manifest_text(rows))
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.keras").write_bytes(b"weights")
    write_record(run / "model.json", {"sha256": sha256(run / "model.keras"), "classes": {}, "max_lr": 0.05})
    inputs = {
        "settings": settings,
        "tiles": records.tile_digests(settings),
        "code": records.code_of("train.py"),
    }
    write_record(run / "run.json", {**inputs, "training_seconds": 4321})
    return run


def edited(settings, **changes):
    return {**settings, **{section: {**settings[section], **values} for section, values in changes.items()}}


def test_a_training_that_is_current_or_missing_is_not_made_anew(finished, settings, tmp_path):
    assert records.why_anew(settings, finished) is None
    assert (
        records.why_anew(edited(settings, train={"tensorboard": True}, report={"title": "another"}), finished)
        is None
    )
    assert records.why_anew(edited(settings, train={"epochs": 20}), tmp_path / "none") is None


def test_one_line_says_why_a_training_is_made_anew(finished, settings):
    line = records.why_anew(edited(settings, train={"epochs": 20}), finished)
    assert line == (
        f"training of {finished}: to be made anew, since train.epochs: 2 then, 20 now; "
        "the last one took 1 h 12 min; its model stays until the new one is finished"
    )
    changes = {"epochs": 20, "ema": 0.5, "optimizer": "adamw", "clip_norm": 3, "early_stopping": 7}
    line = records.why_anew(edited(settings, train=changes), finished)
    assert line.count(" then, ") == 3 and "now, and 2 more; the last one" in line
    renamed = edited(settings, data={"classes": {"M\u00fcll\x07": "#000000", "b": "#ffffff"}})
    assert records.why_anew(renamed, finished).isascii() and "\x07" not in records.why_anew(renamed, finished)


def test_other_tiles_code_and_suggestion_are_reasons_too(finished, settings, monkeypatch):
    rows = {tile: {"files": {"pixels": {"sha256": tile.replace("3", "4")}}} for tile in ("2_11", "3_10")}
    (finished.parent / "prepared/manifest.json").write_text(manifest_text(rows))
    monkeypatch.setattr(records, "code_of", lambda script: "other")
    assert "since tiles.3_10.pixels changed, code changed; the" in records.why_anew(settings, finished)
    settings["train"]["max_lr"] = "auto"
    write_record(
        finished / "run.json",
        {
            "settings": settings,
            "tiles": records.tile_digests(settings),
            "code": "other",
            "training_seconds": 7,
        },
    )
    assert records.why_anew(settings, finished) is None and records.why_anew(settings, finished, 0.05) is None
    line = records.why_anew(settings, finished, 0.02)
    assert "since suggestion of lr_find.json: 0.05 then, 0.02 now; the last one took 7 s" in line


@pytest.mark.parametrize("name", ["model.json", "run.json", "model.keras", "../prepared/manifest.json"])
def test_damaged_files_are_no_reason(finished, settings, name):
    (finished / name).write_text("{}")
    assert records.why_anew(edited(settings, train={"epochs": 20}), finished) is None


@pytest.mark.parametrize("about", [{}, {"settings": {}}, {"settings": {"train": 3}, "tiles": []}])
def test_a_record_of_another_version_is_no_reason(finished, settings, about):
    write_record(finished / "run.json", about)
    assert records.why_anew(settings, finished) is None


def test_durations():
    assert [records.spell(seconds) for seconds in (45, 700, 3599, 3900)] == [
        "45 s",
        "12 min",
        "1 h 0 min",
        "1 h 5 min",
    ]
