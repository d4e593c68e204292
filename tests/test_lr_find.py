import json

import numpy as np
import pytest

import lr_find
import prepare_data
from base.problem import Problem


@pytest.fixture
def prepared(project, settings):
    prepare_data.main(settings, project / "runs/tiny")
    return project


def test_smoothing_does_not_lag():
    np.testing.assert_allclose(lr_find.smooth([2.0, 2.0, 2.0], 1), 2.0)
    np.testing.assert_allclose(lr_find.smooth(np.arange(50.0), 2)[10:-10], np.arange(50.0)[10:-10])
    near, far = np.exp(-1 / 2), np.exp(-4 / 2)
    np.testing.assert_allclose(
        lr_find.smooth([1.0, 3.0, 7.0], 1)[0], (1 + 3 * near + 7 * far) / (1 + near + far)
    )
    assert lr_find.smooth([1.0, 2.0], 9).shape == (2,)


def test_suggestions_on_a_curve_known_by_hand():
    rates = np.logspace(-4, 1, 101)
    decade = np.log10(rates)
    loss = 2 - np.tanh(3 * (decade + 2)) + 4 * np.maximum(decade - 0, 0)  # steepest at 1e-2, lowest at 1
    steepest, suggestion = lr_find.suggest(rates, loss)
    assert steepest == pytest.approx(1e-2, rel=0.15)
    assert np.log10(suggestion) == pytest.approx(-2 + np.arctanh(0.4) / 3, abs=0.05)  # 1.4 of its fall of 2


def test_what_the_loss_does_at_high_rates_moves_no_suggestion():
    rates = np.logspace(-4, 1, 101)
    loss = 2 - np.tanh(3 * (np.log10(rates) + 2))
    suggestions = []
    for end in (75, 85, 101):  # where it diverges
        suggestions.append(lr_find.suggest(rates[:end], np.where(np.arange(end) > end - 3, 9, loss[:end]))[1])
    assert suggestions[0] == suggestions[1] == suggestions[2]


def test_before_a_narrow_valley_the_suggestion_keeps_a_tenth_of_the_way():
    rates = np.logspace(-4, 1, 101)
    decade = np.log10(rates)
    loss = 2 - np.tanh(9 * (decade + 1)) + 9 * np.maximum(decade + 0.5, 0)  # lowest where that begins
    assert lr_find.suggest(rates, loss)[1] == pytest.approx(10**-1.5)


def test_the_suggestion_hardly_moves_with_the_chance_in_a_flat_valley():
    rates = np.logspace(-4, 1, 100)
    decade = np.log10(rates)
    falling = np.where(decade < -1.5, 1.5 - 1.2 * np.tanh(2 * (decade + 2.5)), 0.34)
    clean = falling + 9 * np.maximum(decade - 0.3, 0)
    noise = np.random.default_rng(1).normal(scale=0.03, size=(200, 100))
    curves = [lr_find.smooth(loss, 3) for loss in clean + noise]
    lowest = [rates[np.argmin(curve)] for curve in curves]
    suggestions = [lr_find.suggest(rates, curve)[1] for curve in curves]
    assert max(lowest) > 10 * min(lowest)
    assert max(suggestions) < 2 * min(suggestions)


@pytest.mark.parametrize(
    "loss", [np.linspace(1, 9, 50), np.full(50, 1.79), 1.79 + 0.02 * np.sin(np.arange(50))]
)
def test_a_loss_that_does_not_fall_gives_no_suggestion(loss):
    with pytest.raises(Problem, match="hardly fell"):
        lr_find.suggest(np.logspace(-4, 0, 50), lr_find.smooth(loss, 2))


@pytest.mark.parametrize("loss", ["focal", "jaccard", "dice", "lovasz"])
def test_the_finder_works_for_every_loss(prepared, settings, loss):
    settings["train"]["loss"] = {loss: 1}
    settings["input"]["patch_size"] = 16
    lr_find.main(settings, prepared / "runs/tiny")
    assert 1e-5 < json.loads((prepared / "runs/tiny/lr_find.json").read_text())["suggestion"] < 1


def test_the_finder_is_repeatable_and_writes_curve_suggestion_and_picture(prepared, settings):
    first, second = prepared / "runs/a", prepared / "runs/b"
    for run in (first, second):
        lr_find.main(settings, run)
    before = (first / "lr_find.csv").stat().st_mtime_ns
    lr_find.main(settings, first)  # stands already
    assert (first / "lr_find.csv").stat().st_mtime_ns == before
    assert (first / "lr_find.csv").read_bytes() == (second / "lr_find.csv").read_bytes()
    rows = (first / "lr_find.csv").read_text().splitlines()
    assert rows[0] == "learning_rate,loss,smoothed" and len(rows) > 10
    assert 1e-5 < json.loads((first / "lr_find.json").read_text())["suggestion"] < 1
    assert (first / "lr_find.png").read_bytes().startswith(b"\x89PNG")
