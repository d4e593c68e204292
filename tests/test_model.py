import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import model
from model import keras

NOTEBOOK = dict(bands=3, classes=6, width=32, depth=4, residual="concat", centre="serial")
SMALL = dict(bands=3, classes=6, width=4, depth=2)
LOGITS = np.log(np.array([[[[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], [[0.3, 0.3, 0.4], [0.25, 0.25, 0.5]]]], np.float32))
LABELS = np.array([[[0, 1], [0, 255]]], np.uint8)


def test_the_notebooks_network_has_its_size():
    parameters, operations = model.count_operations(256, **NOTEBOOK)
    assert parameters == 16_533_368
    assert operations / 1e9 == pytest.approx(33.81, abs=0.005)


def test_operations_of_a_network_counted_by_hand():
    parameters, operations = model.count_operations(
        8, bands=1, classes=2, width=1, depth=1, residual="add", centre="plain"
    )
    convolutions = [
        (64, 9),
        (64, 9),
        (16, 9 * 2),
        (16, 9 * 2 * 2),
        (16, 2),
        (16, 4 * 2),  # down a, b; centre a, b, project; grow
        (64, 9 * 2),
        (64, 9),
        (64, 2),
        (64, 2),
    ]  # up a, b, project; logits
    assert operations == 2 * sum(pixels * weights for pixels, weights in convolutions)


@pytest.mark.parametrize("residual", ["concat", "add"])
@pytest.mark.parametrize("centre", ["plain", "serial", "parallel"])
def test_any_size_gives_probabilities_and_loads_as_stock_layers(tmp_path, residual, centre):
    network = model.build_network(**SMALL, residual=residual, centre=centre)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 12, 20, 3)).astype(np.uint8)
    probabilities = keras.ops.convert_to_numpy(network(pixels))
    assert probabilities.shape == (2, 12, 20, 6) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    network.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(loaded(pixels)), probabilities)
    modules = {layer["module"] for layer in json.loads(loaded.to_json())["config"]["layers"]}
    assert modules == {"keras.layers"}


def test_logits_share_weights_with_the_network():
    network = model.build_network(**SMALL, residual="concat", centre="serial")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
    softmax = keras.ops.softmax(model.logits_of(network)(pixels))
    np.testing.assert_allclose(softmax, network(pixels), atol=1e-6)


# -- losses, by hand: two labelled pixels right with .7 and .8, one wrong with .3, one ignored


def test_cross_entropy_by_hand():
    assert float(model.cross_entropy(LOGITS, LABELS)) == pytest.approx(-np.log([0.7, 0.8, 0.3]).mean(), rel=1e-5)


def test_focal_by_hand():
    p = np.array([0.7, 0.8, 0.3])
    assert float(model.focal(LOGITS, LABELS)) == pytest.approx((-((1 - p) ** 2) * np.log(p)).mean(), rel=1e-5)


def test_jaccard_by_hand():
    first = (0.7 + 0.3) / (2 + (0.7 + 0.1 + 0.3) - (0.7 + 0.3))  # class 0: two pixels; class 2 is in no label
    second = 0.8 / (1 + (0.2 + 0.8 + 0.3) - 0.8)
    assert float(model.jaccard(LOGITS, LABELS)) == pytest.approx(1 - (first + second) / 2, rel=1e-5)


@pytest.mark.parametrize("loss", model.LOSSES.values())
def test_losses_skip_ignored_pixels_and_are_finite(loss):
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(0, 3, (2, 6, 6, 4)).astype(np.float32), rng.integers(0, 4, (2, 6, 6)).astype(np.uint8)
    labels[:, :2] = 255
    changed = logits.copy()
    changed[:, :2] = rng.normal(0, 30, (2, 2, 6, 4))
    assert float(loss(changed, labels)) == pytest.approx(float(loss(logits, labels)), rel=1e-6)
    assert float(loss(logits, np.full_like(labels, 255))) == 0
    assert np.isfinite(float(loss(logits * 1e4, labels)))
    perfect = 50 * np.eye(4, dtype=np.float32)[np.minimum(labels, 3)]
    assert float(loss(perfect, labels)) == pytest.approx(0, abs=1e-5)


def test_losses_add_up():
    both = model.build_loss({"ce": 2.0, "jaccard": 0.5})
    assert float(both(LOGITS, LABELS)) == pytest.approx(
        2 * float(model.cross_entropy(LOGITS, LABELS)) + 0.5 * float(model.jaccard(LOGITS, LABELS)), rel=1e-6
    )


# -- schedules and optimisers


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 100_000), st.floats(1e-5, 10))
def test_one_cycle_rises_to_its_peak_and_falls_to_its_end(steps, peak):
    schedule = model.OneCycle(peak / 25, peak, peak / 25_000, steps)
    assert float(schedule(0)) == pytest.approx(peak / 25, rel=1e-4)
    assert float(schedule(steps - 1)) == pytest.approx(peak / 25_000, rel=1e-2, abs=peak * 1e-7)
    assert float(schedule(10 * steps)) == float(schedule(steps - 1))
    values = np.array([float(schedule(s)) for s in np.linspace(0, steps - 1, 41)])
    top = values.argmax()
    assert (
        (np.diff(values[: top + 1]) >= 0).all()
        and (np.diff(values[top:]) <= 0).all()
        and values.max() <= peak * (1 + 1e-6)
    )


def test_one_cycle_at_points_known_by_hand():
    schedule = model.OneCycle(1, 25, 0.001, 1001)
    assert float(schedule(150)) == pytest.approx(13, rel=1e-5)  # half way up
    assert float(schedule(300)) == pytest.approx(25, rel=1e-5)  # 30 %
    assert float(schedule(650)) == pytest.approx(12.5005, rel=1e-4)  # half way down


def test_exponential_multiplies_by_the_same_factor():
    schedule = model.Exponential(1e-4, 10, 6)
    np.testing.assert_allclose([float(schedule(s)) for s in range(6)], [1e-4, 1e-3, 1e-2, 0.1, 1, 10], rtol=1e-5)


def numpy_sgd(w, gradients, rate, momentum):
    velocity = np.zeros_like(w)
    for step, g in enumerate(gradients):
        mu, lr = float(momentum(step)), float(rate(step))
        velocity = mu * velocity - lr * g
        w = w + mu * velocity - lr * g
    return w


def numpy_adamw(w, gradients, rate, momentum, decay=0.01, beta_2=0.999, epsilon=1e-7):
    mean, square = np.zeros_like(w), np.zeros_like(w)
    for step, g in enumerate(gradients):
        beta, lr = float(momentum(step)), float(rate(step))
        w = w - lr * decay * w
        mean, square = beta * mean + (1 - beta) * g, beta_2 * square + (1 - beta_2) * g * g
        w = w - lr * np.sqrt(1 - beta_2 ** (step + 1)) / (1 - beta ** (step + 1)) * mean / (np.sqrt(square) + epsilon)
    return w


@pytest.mark.parametrize("kind, by_hand, decay", [("sgd", numpy_sgd, 0), ("adamw", numpy_adamw, 0.01)])
def test_twenty_updates_follow_both_schedules(kind, by_hand, decay):
    rate, momentum = model.OneCycle(0.01, 0.2, 0.0001, 20), model.OneCycle(0.95, 0.8, 0.95, 20)
    optimizer = model.build_optimizer(kind, rate, momentum, decay)
    optimizer = type(optimizer).from_config(optimizer.get_config())  # schedules survive their configuration
    start = np.array([1.0, -2.0, 3.0], np.float32)
    gradients = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    variable = keras.Variable(start)
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    expected = by_hand(start.astype(float), gradients.astype(float), rate, momentum)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), expected, rtol=2e-5)
    constant = by_hand(start.astype(float), gradients.astype(float), rate, lambda step: 0.95)
    assert np.abs(constant - expected).max() > 1e-3  # momentum really moved
