import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learning import optimizers
from model import keras


@settings(max_examples=30)
@given(st.integers(2, 100_000), st.floats(1e-5, 10))
def test_one_cycle_rises_to_its_peak_and_falls_to_its_end(steps, peak):
    schedule = optimizers.OneCycle(peak / 25, peak, peak / 25_000, steps)
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
    schedule = optimizers.OneCycle(1, 25, 0.001, 1001)
    assert float(schedule(150)) == pytest.approx(13, rel=1e-5)  # half way up
    assert float(schedule(300)) == pytest.approx(25, rel=1e-5)  # 30 %
    assert float(schedule(650)) == pytest.approx(12.5005, rel=1e-4)  # half way down


def test_exponential_multiplies_by_the_same_factor():
    schedule = optimizers.Exponential(1e-4, 10, 6)
    np.testing.assert_allclose(
        [float(schedule(s)) for s in range(6)], [1e-4, 1e-3, 1e-2, 0.1, 1, 10], rtol=1e-5
    )


def numpy_sgd(w, gradients, rate, momentum):
    """Every value of w, by Nesterov's momentum as Sutskever et al. (2013) write it."""
    velocity, path = np.zeros_like(w), []
    for step, g in enumerate(gradients):
        mu, lr = momentum(step), rate(step)
        velocity = mu * velocity - lr * g
        w = w + mu * velocity - lr * g
        path.append(w)
    return path


def numpy_adamw(w, gradients, rate, momentum, decay=0.01, beta_2=0.999, epsilon=1e-7):
    mean, square, path = np.zeros_like(w), np.zeros_like(w), []
    for step, g in enumerate(gradients):
        beta, lr = momentum(step), rate(step)
        w = w - lr * decay * w
        mean, square = beta * mean + (1 - beta) * g, beta_2 * square + (1 - beta_2) * g * g
        w = w - lr * np.sqrt(1 - beta_2 ** (step + 1)) / (1 - beta ** (step + 1)) * mean / (
            np.sqrt(square) + epsilon
        )
        path.append(w)
    return path


def numpy_cycle(start, peak, end, steps):
    """The one-cycle schedule in float64, written down anew."""

    def value(step):
        part = step / (steps - 1)
        if part < 0.3:
            return start + (peak - start) * 0.5 * (1 - np.cos(np.pi * part / 0.3))
        return peak + (end - peak) * 0.5 * (1 - np.cos(np.pi * (part - 0.3) / 0.7))

    return value


@pytest.mark.parametrize(
    "kind, by_hand, decay, peak", [("sgd", numpy_sgd, 0, 0.2), ("adamw", numpy_adamw, 0.01, 0.02)]
)
def test_twenty_updates_follow_both_schedules_and_so_do_those_of_a_resumed_run(kind, by_hand, decay, peak):
    cycles = (peak / 25, peak, peak / 25_000, 20), (0.95, 0.8, 0.95, 20)
    start = np.array([0.5, -0.25, 0.75], np.float32)
    gradients = np.random.default_rng(0).normal(0, 0.3, (20, 3)).astype(np.float32)

    def begin():
        optimizer = optimizers.build_optimizer(
            kind, *(optimizers.OneCycle(*cycle) for cycle in cycles), decay
        )
        variable = keras.Variable(start, name="kernel")
        optimizer.build([variable])
        return optimizer, variable

    expected = by_hand(
        start.astype(float), gradients.astype(float), *(numpy_cycle(*cycle) for cycle in cycles)
    )
    optimizer, variable = begin()
    for step, gradient in enumerate(gradients):
        if step == 11:  # a process that knows the weights and the optimiser's variables, and nothing else
            resumed, other = begin()
            for mine, theirs in zip(
                [other, *resumed.variables], [variable, *optimizer.variables], strict=True
            ):
                mine.assign(theirs)
            optimizer, variable = resumed, other
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), expected[step], rtol=0, atol=1e-6)
    rate, momentum = (numpy_cycle(*cycle) for cycle in cycles)
    constant = by_hand(start.astype(float), gradients.astype(float), rate, lambda step: 0.95)
    assert np.abs(constant[-1] - expected[-1]).max() > 1e-3  # momentum really moved


# -- shares of a step, and decay ----------------------------------------------------------------------------

START, GRADIENT, RATE, SHARE, DECAY = 0.8, -0.3, 0.5, 0.25, 0.1


def variables_of_two_layers():
    """A layer that goes a share of each step, and one that goes all of it; of each a kernel and more."""
    found = []
    for layer, names in {"encoder_a": ("kernel", "bias"), "b": ("kernel", "gamma")}.items():
        with keras.name_scope(layer):
            found += [keras.Variable([START], name=name) for name in names]
    return found


def expected_after_one_step(kind):
    """By hand: a first step of AdamW without momentum is the rate itself, of SGD the rate times the
    gradient; a kernel first loses the rate times the decay of itself."""
    length = -RATE * GRADIENT if kind == "sgd" else RATE
    for rate in (SHARE, 1):
        for decay in (DECAY, 0):
            yield START * (1 - rate * RATE * decay) + rate * length


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_an_encoder_goes_its_share_of_a_step_and_kernels_alone_decay(kind, scaled):
    variables = variables_of_two_layers()
    shares = {variable.path: SHARE for variable in variables if variable.path.startswith("encoder_a/")}
    optimizer = optimizers.build_optimizer(kind, RATE, 0.0, DECAY, shares)
    if scaled:  # as for float16
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(variables)
    gradients = [optimizer.scale_loss(keras.ops.convert_to_tensor([GRADIENT])) for _ in variables]
    optimizer.apply(gradients, variables)
    found = [float(variable.numpy()[0]) for variable in variables]
    np.testing.assert_allclose(found, [*expected_after_one_step(kind)], rtol=1e-5)


def test_after_a_rest_adam_begins_afresh():
    """The second update of gradients 1 and 3, beta_1 0, is that of any Adam: their running mean of squares
    is (.999 * 1 + 9) / 1.999."""
    variables = variables_of_two_layers()
    own, others = variables[:2], variables[2:]
    optimizer = optimizers.build_optimizer("adamw", RATE, 0.0, 0, {v.path: SHARE for v in own}, rest=20)
    optimizer.build(variables)
    for _ in range(20):
        optimizer.apply([keras.ops.ones(1)] * 2, others)
    for gradient, length in ((1.0, 1), (3.0, 3 / np.sqrt((0.999 + 9) / 1.999))):
        before = [variable.numpy()[0] for variable in own]
        optimizer.apply([keras.ops.convert_to_tensor([gradient])] * 4, variables)
        for variable, value in zip(own, before):
            assert value - variable.numpy()[0] == pytest.approx(RATE * SHARE * length, rel=1e-3)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_share_of_nothing_leaves_a_variable_to_the_bit(kind):
    variables = variables_of_two_layers()
    optimizer = optimizers.build_optimizer(kind, RATE, 0.9, DECAY, {v.path: 0 for v in variables[:2]})
    optimizer.build(variables)
    for gradient in (0.7, -1e-3, 1e30):
        optimizer.apply([keras.ops.convert_to_tensor([gradient])] * 4, variables)
    assert [variable.numpy()[0] for variable in variables[:2]] == [np.float32(START)] * 2
    assert all(variable.numpy()[0] != np.float32(START) for variable in variables[2:])
