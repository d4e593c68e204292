import pytest

from base.files import sha256
from base.tables import write_record
from imagery.tiles import manifest_text
from learning import records, weight_files


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
    assert line.startswith(
        f"training of {finished}: to be made anew, since train.epochs: 2 then, 20 now; "
        "the last one took 1 h 12 min; its model stays until the new one is finished; another number of"
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


@pytest.mark.parametrize(
    "now, expected",
    [
        (["b", "c", "d"], "now without a and now with c, d"),
        (["b", "a"], "now in another order"),
        (["a", "b", *map(str, range(5))], "now with 0, 1, 2, and 2 more"),
    ],
)
def test_of_tiles_that_come_or_go_only_these_are_named(now, expected):
    before, current = ({"split": {"train": tiles}} for tiles in (["a", "b"], now))
    assert records.spelt(before, current) == [f"split.train: {expected}"]


def test_a_range_test_is_of_an_encoders_rate_but_not_of_its_frozen_epochs(finished, settings):
    settings = edited(settings, model={"encoder": "efficientnet_lite0"})
    before = records.finder_inputs(settings, finished)
    frozen = edited(settings, train={"freeze_epochs": 5})
    assert records.finder_inputs(frozen, finished) == before
    assert records.training_inputs(frozen) != records.training_inputs(settings)
    slower = edited(settings, train={"encoder_rate": 0.5})
    assert records.finder_inputs(slower, finished) != before


@pytest.mark.parametrize("encoder", ["efficientnet_lite0", "convnext_tiny"])
def test_first_weights_of_an_encoder_are_an_input_of_a_training(finished, settings, encoder):
    def told(weights):
        return records.training_inputs(edited(settings, model={"encoder": encoder, "weights": weights}))[
            records.OF_ENCODER
        ]

    (finished / "a.pth").write_bytes(b"weights")
    assert told("imagenet") == weight_files.FILES[encoder].digest
    assert told(str(finished / "a.pth")) == sha256(finished / "a.pth")
    assert told("none") is told("gone.pth") is records.training_inputs(settings)[records.OF_ENCODER] is None


def test_a_setting_that_the_network_does_not_read_is_no_reason(finished, settings):
    unread = edited(settings, model={"weights": "none", "rgb": [3, 2, 1]}, train={"freeze_epochs": 3})
    assert records.why_anew(unread, finished) is None
    assert "model.width: 4 then, 5 now" in records.why_anew(edited(unread, model={"width": 5}), finished)
