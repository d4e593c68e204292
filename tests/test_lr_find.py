import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    steepest, tenth = lr_find.suggest(rates, loss)
    end = -2 + np.arctanh(0.9) / 3  # the valley ends a twentieth of the fall, of 2, above its lowest point
    assert steepest == pytest.approx(1e-2, rel=0.15)
    assert np.log10(tenth) == pytest.approx((end + 0.1 / 4) / 2 - 1, abs=0.05)


@given(st.integers(0, 1000))
def test_the_suggestion_hardly_moves_with_the_chance_in_a_flat_valley(seed):
    rates = np.logspace(-4, 1, 100)
    decade = np.log10(rates)
    clean = np.where(decade < -1.5, 1.5 - 1.2 * np.tanh(2 * (decade + 2.5)), 0.34) + 9 * np.maximum(
        decade - 0.3, 0
    )
    noisy = clean + np.random.default_rng(seed).normal(scale=0.03, size=100)
    suggestions = [lr_find.suggest(rates, lr_find.smooth(loss, 3))[1] for loss in (clean, noisy)]
    assert 0.8 < suggestions[1] / suggestions[0] < 1.25


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
