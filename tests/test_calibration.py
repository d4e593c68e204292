import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagery.calibration import LEAST, RANGE, fit_temperature, tempered

TEMPERATURES = st.floats(*RANGE)


def drawn(seed, pixels=20_000, classes=4):
    """(probabilities [N, C] that are true, labels drawn by them)."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(classes), pixels)
    labels = (rng.random((pixels, 1)) > probabilities.cumsum(1)).sum(1)
    return probabilities, np.minimum(labels, classes - 1)


def likelihood(probabilities, labels, temperature):
    """Mean logarithm of the labels' probabilities at a temperature, as it is defined."""
    powers = probabilities ** (1 / temperature)
    return np.log(powers / powers.sum(1, keepdims=True))[np.arange(len(labels)), labels].mean()


@given(st.integers(0, 99), TEMPERATURES)
def test_classes_stay_and_shares_sum_to_one(seed, temperature):
    sums = np.random.default_rng(seed).random((5, 30, 20)).astype(np.float32) * 9
    shares = tempered(sums, temperature)
    np.testing.assert_array_equal(shares.argmax(0), sums.argmax(0))
    np.testing.assert_allclose(shares.sum(0), 1, rtol=1e-5)
    powers = (sums / sums.sum(0)) ** (1 / temperature)
    np.testing.assert_allclose(shares, powers / powers.sum(0), rtol=1e-3, atol=1e-6)


def test_at_temperature_one_shares_are_as_they_were_and_certainty_stays_certain():
    sums = np.array([[3, 1, 0], [1, 0, 0]], np.float32)[:, None]
    np.testing.assert_array_equal(tempered(sums, 1), [[[0.75, 1, 0]], [[0.25, 0, 0]]])
    root = 3**0.5
    halved = [[root / (root + 1), 1], [1 / (root + 1), 0]]
    np.testing.assert_allclose(tempered(sums, 2)[:, 0, :2], halved, atol=1e-5)
    assert np.isfinite(tempered(sums, 0.25)).all()  # where no window lies, too


@given(st.integers(0, 99), st.floats(0.4, 2.5))
def test_the_temperature_by_which_a_network_is_too_sure_is_found(seed, temperature):
    """Probabilities that are true, sharpened by 1 / temperature: the temperature that undoes it."""
    probabilities, labels = drawn(seed)
    sharp = probabilities**temperature
    sharp /= sharp.sum(1, keepdims=True)
    found = fit_temperature(sharp, labels)
    assert found == pytest.approx(temperature, rel=0.08)
    best = likelihood(sharp, labels, found)
    assert all(best >= likelihood(sharp, labels, found * factor) for factor in (0.98, 1.02))


def test_a_network_that_is_always_right_or_knows_nothing_gets_no_temperature_past_the_range():
    probabilities, _ = drawn(0)
    low, high = RANGE
    assert fit_temperature(probabilities, probabilities.argmax(1)) == pytest.approx(low, rel=1e-3)
    worst = probabilities.argmin(1)
    assert fit_temperature(probabilities, worst) == pytest.approx(high, rel=1e-3)


def test_few_pixels_get_a_temperature_of_one():
    probabilities, labels = drawn(0, LEAST)
    assert fit_temperature(probabilities, labels) != 1
    assert fit_temperature(probabilities[1:], labels[1:]) == 1
    assert fit_temperature(np.empty((0, 4)), np.empty(0, int)) == 1


def test_zeros_are_no_infinities():
    probabilities, labels = np.tile(np.eye(3), (500, 1)), np.tile([0, 1, 1], 500)
    assert RANGE[0] <= fit_temperature(probabilities, labels) <= RANGE[1]
