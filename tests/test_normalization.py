import numpy as np
import pytest

from learning.normalization import in_one_kernel, keras, tf

BATCH = np.random.default_rng(0).normal(3, 2, (4, 9, 7, 5)).astype(np.float32)


def network(dtype="float32", **options):
    """(a layer of normalisation between two others, whose numbers are none of the usual; the layer)."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((None, None, 5))
    x = keras.layers.Conv2D(6, 3, padding="same", dtype=dtype)(inputs)
    x = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-3, name="norm", dtype=dtype, **options)(x)
    made = keras.Model(inputs, keras.layers.Conv2D(2, 1, dtype="float32")(x))
    layer, rng = made.get_layer("norm"), np.random.default_rng(2)
    layer.set_weights([rng.uniform(0.5, 2, 6) for _ in range(4)])
    return made, layer


def step(made, kernel):
    """(outputs, gradients) of a training step on BATCH, which moves the statistics."""
    with tf.GradientTape() as tape, in_one_kernel(made) if kernel else tf.name_scope("keras"):
        outputs = made(BATCH, training=True)
        loss = tf.reduce_sum(outputs * tf.cos(outputs))
    return [outputs, *tape.gradient(loss, made.trainable_variables)]


def test_outputs_gradients_and_statistics_are_those_of_keras():
    (one, first), (two, second) = network(), network()
    for ours, theirs in zip(step(one, True), step(two, False), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-3)
    for ours, theirs in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    moved = np.random.default_rng(2).uniform(0.5, 2, (4, 6))[2]
    assert (first.get_weights()[2] != moved).all()


def test_a_layer_is_kerass_own_again_afterwards_and_where_it_does_not_train(tmp_path):
    made, layer = network()
    before = layer.get_weights()
    with in_one_kernel(made):
        assert "call" in vars(layer)
        inside = made(BATCH, training=False)
    assert "call" not in vars(layer)
    np.testing.assert_array_equal(inside, made(BATCH, training=False))
    assert all(map(np.array_equal, before, layer.get_weights()))
    layer.trainable = False
    with in_one_kernel(made):
        assert "call" not in vars(layer)
    made.save(tmp_path / "a.keras")
    assert type(keras.models.load_model(tmp_path / "a.keras").get_layer("norm")) is type(layer)


def test_what_devices_share_is_left_to_keras():
    made, layer = network(synchronized=True)
    with in_one_kernel(made):
        assert "call" not in vars(layer)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_low_precision_has_statistics_in_full(precision):
    (one, first), (two, second) = network(precision), network(precision)
    for made, kernel in ((one, True), (two, False)):
        assert all(np.isfinite(part.numpy()).all() for part in step(made, kernel))
    for ours, theirs in zip(first.get_weights(), second.get_weights(), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=2e-2)
