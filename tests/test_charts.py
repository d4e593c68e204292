import numpy as np
import pytest

from reporting import charts, pictures


def test_no_figure_shows_raw_formulas(monkeypatch):
    kept = []
    monkeypatch.setattr(charts, "save", lambda figure, path: kept.append(figure))
    steps = np.arange(1, 100)
    with charts.style():
        charts.draw_one_cycle(
            "", {"step": steps, "learning_rate": 10.0 ** (-steps / 20), "momentum": steps / 100}
        )
        kept[0].canvas.draw()
    texts = [
        label.get_text() for axes in kept[0].axes for label in axes.get_xticklabels() + axes.get_yticklabels()
    ]
    assert "0.001" in texts and not any("$" in text for text in texts)


def test_the_audit_counts_what_the_manifest_says_whatever_the_names(tmp_path):
    row = {
        "shape": [10, 20, 3],
        "pixels": {"labels": {"repaired": 20, "ignored": 40, "unknown": 2}},
        "nodata": 10,
        "outside_scale": [0, 4, 1],
        "off_grid": {"labels": 60, "extra": 7},
        "classes": {"$x_$": 100, "b": 60},
    }
    expected = {"repaired": 0.1, "ignored": 0.2, "unknown": 0.01, "no data": 0.05, "outside scale": 0.02}
    expected["outside labels"] = 0.3
    assert charts.faults(row) == pytest.approx(expected)
    split, classes = {"train": ["a$^$b"], "val": ["c"], "test": ["d"]}, {"$x_$": "#ff0000", "b": "#00ff00"}
    with charts.style():
        charts.draw_audit(tmp_path / "audit.png", split, {tile: row for tile in ("a$^$b", "c", "d")}, classes)
    assert (tmp_path / "audit.png").stat().st_size > 10_000


def test_a_legend_has_as_many_columns_as_fit_below_a_figure():
    assert charts.legend_columns(["a"]) == 1 and charts.legend_columns(["a" * 200, "b"]) == 1
    assert charts.legend_columns(["short"] * 6) == 6 and charts.legend_columns(["a" * 40] * 6) == 2


def test_a_class_that_does_not_occur_has_no_bar_and_a_step_no_gain(monkeypatch):
    kept = []
    monkeypatch.setattr(charts, "save", lambda figure, path: kept.append(figure))
    classes = {"a": "#ff0000", "b": "#00ff00"}
    scores = {"classes": {"a": {"iou": 0.5, "f1": 2 / 3}, "b": {"iou": None, "f1": None}}}
    steps = [
        {"step": "first", "classes": {"a": 0.25, "b": None}, "seconds_per_tile": None},
        {"step": "second", "classes": {"a": 0.5, "b": None}, "seconds_per_tile": 2.0},
    ]
    with charts.style():
        charts.draw_classes("", {"full": scores, "eroded": scores}, classes)
        charts.draw_gains("", steps, classes)
    bars, table = kept
    assert [text.get_text() for text in bars.axes[0].texts] == ["0.500", "-"] * 2
    assert [text.get_text() for text in table.axes[0].texts] == [
        "25.00",
        "+25.00",
        "50.00",
        "-",
        "-",
        "-",
        "25.00",
        "+25.00",
        "50.00",
    ]
    heads = [label.get_text() for label in table.axes[0].get_xticklabels()]
    assert heads == ["first", "+ second\n(2 s a tile)", "together"]
    assert table.axes[0].get_yticklabels()[-1].get_text() == "mean of 1"


def test_a_picture_of_any_size_has_no_dark_edge():
    small, step = pictures.shrink(np.full((101, 30, 3), 200, np.uint8), 25)
    assert step == 5 and small.shape == (21, 6, 3) and (small == 200).all()
