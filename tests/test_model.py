import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import model
from model import build_network as build
from model import keras

NOTEBOOK = dict(
    encoder="none",
    bands=3,
    classes=6,
    width=32,
    depth=4,
    residual="concat",
    centre="serial",
    stem=1,
    local_contrast=[],
)
SMALL = dict(encoder="none", bands=3, classes=6, width=4, depth=2)
LOGITS = np.log(
    np.array([[[[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], [[0.3, 0.3, 0.4], [0.25, 0.25, 0.5]]]], np.float32)
)
LABELS = np.array([[[0, 1], [0, 255]]], np.uint8)


def test_the_notebooks_network_has_its_size():
    parameters, operations = model.count_operations(256, **NOTEBOOK)
    assert parameters == 16_533_368
    assert operations / 1e9 == pytest.approx(33.81, abs=0.005)


def test_operations_of_a_network_counted_by_hand():
    parameters, operations = model.count_operations(
        8,
        **dict(encoder="none", bands=1, classes=2, width=1, depth=1),
        **dict(residual="add", centre="plain", stem=1, local_contrast=[]),
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


@pytest.fixture
def forgotten():
    """Networks whose weights were not drawn are forgotten, or the next test would draw them."""
    yield
    keras.utils.clear_session()


def test_make_model_tells_cost_and_weights_of_every_encoder(settings, monkeypatch, capsys, forgotten):
    """One band, no red, green and blue, stem 1: settings of the U-Net under which encoders are counted."""
    counted = []
    monkeypatch.setattr(model, "ENCODERS", ("efficientnet_lite0", "convnext_tiny"))
    monkeypatch.setattr(model, "build_network", lambda **k: counted.append(build(**k)) or counted[-1])
    settings["input"]["patch_size"], settings["data"]["bands"] = 64, [1]
    settings["model"].update(width=8, depth=2, stem=1, local_contrast=[])
    model.main(settings, None)
    first, _, head, *rows = capsys.readouterr().out.splitlines()
    assert json.loads(first) == settings["model"] and head.endswith("per patch of 64 px")
    assert [row.split()[0] for row in rows] == ["none", "efficientnet_lite0", "convnext_tiny"]
    for row, network in zip(rows, counted, strict=True):
        assert int(row.split()[1].replace(",", "")) == network.count_params()
    assert [network.output.shape for network in counted] == [(None, 64, 64, 6)] * 3
    gflop, to_train = (float(number) for number in rows[1].split()[2:4])
    assert 0 < gflop < 0.1 and to_train == pytest.approx(3 * gflop, abs=0.05)
    assert rows[0].endswith("  first weights at random")
    assert "efficientnet-lite0-57934424.pth, 19 MB, Apache 2.0, in package" in rows[1]
    assert "convnext_tiny_notop.h5, 112 MB, MIT, " in rows[2]


def test_make_model_counts_the_own_network_and_passes_over_what_its_patches_do_not_fit(
    settings, monkeypatch, capsys, forgotten
):
    monkeypatch.setattr(model, "ENCODERS", ("efficientnet_lite0",))
    settings["input"]["patch_size"] = 48
    model.main(settings, None)
    *_, own, encoder = capsys.readouterr().out.splitlines()
    expected = model.count_operations(48, bands=3, classes=6, **settings["model"])
    assert own.split()[:2] == ["none", f"{expected[0]:,}"]
    assert encoder.split(maxsplit=4)[1:] == ["-", "-", "-", "needs patches of a multiple of 32 px"]


@pytest.mark.parametrize("residual", ["concat", "add"])
@pytest.mark.parametrize(
    "centre, stem, local_contrast", [("plain", 1, []), ("serial", 2, []), ("parallel", 4, [4, 16])]
)
def test_any_size_gives_probabilities_and_loads_without_this_code(
    tmp_path, residual, centre, stem, local_contrast
):
    network = model.build_network(
        **SMALL, residual=residual, centre=centre, stem=stem, local_contrast=local_contrast
    )
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 48, 3)).astype(np.uint8)
    probabilities = keras.ops.convert_to_numpy(network(pixels))
    assert probabilities.shape == (2, 16, 48, 6) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    network.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(loaded(pixels)), probabilities)
    modules = {layer["module"] for layer in json.loads(loaded.to_json())["config"]["layers"]}
    assert modules <= {"keras.layers", "keras.src.ops.numpy", "keras.src.ops.nn"}


@pytest.fixture
def saved(tmp_path):
    """(path of a network that interpolates by 2, 4, 5 and 8, pixels of three sizes, what it answers)."""
    keras.utils.set_random_seed(0)
    network = model.build_network(
        **{**SMALL, "depth": 1}, residual="add", centre="plain", stem=2, local_contrast=[4, 5, 8]
    )
    network.save(tmp_path / "model.keras")
    rng = np.random.default_rng(0)
    sizes = (1, 80, 80), (2, 40, 120), (1, 40, 40)
    pixels = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]
    return tmp_path / "model.keras", pixels, [network(each).numpy() for each in pixels]


def test_a_saved_network_answers_one_size_after_another(saved):
    path, pixels, expected = saved
    network = keras.models.load_model(path, safe_mode=True)
    for each, right in zip(pixels, expected):
        np.testing.assert_allclose(network.predict(each, verbose=0), right, atol=1e-5)


WITH_KERAS_ALONE = """
import keras, numpy, sys
path, pixels, answers = sys.argv[1:]
network = keras.models.load_model(path, safe_mode=True)
given = numpy.load(pixels)
numpy.savez(answers, *(network.predict(given[name], verbose=0) for name in given.files))
"""


def test_a_saved_network_answers_the_same_on_jax(saved, tmp_path):
    pytest.importorskip("jax")
    path, pixels, expected = saved
    given, answers = tmp_path / "pixels.npz", tmp_path / "answers.npz"
    np.savez(given, *pixels)
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    command = [sys.executable, "-c", WITH_KERAS_ALONE, path, given, answers]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True)
    with np.load(answers) as found:
        for each, right in zip(found.values(), expected, strict=True):
            np.testing.assert_allclose(each, right, atol=1e-5)


def test_a_saved_network_exports_as_it_is_to_a_saved_model_of_any_size(saved, tmp_path):
    path, pixels, expected = saved
    keras.models.load_model(path, safe_mode=True).export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    for each, right in zip(pixels, expected):
        np.testing.assert_allclose(exported.serve(each), right, atol=1e-5)


def test_a_saved_network_exports_as_it_is_to_onnx_of_any_size(saved, tmp_path):
    pytest.importorskip("tf2onnx")
    runtime = pytest.importorskip("onnxruntime")
    path, pixels, expected = saved
    network = keras.models.load_model(path, safe_mode=True)
    network(pixels[0])  # Keras wants it called once
    network.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    for each, right in zip(pixels, expected):
        (found,) = session.run(None, {session.get_inputs()[0].name: each})
        np.testing.assert_allclose(found, right, atol=1e-5)


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5, 6, 8, 32, 256])
def test_enlarging_is_kerass_bilinear_interpolation(factor):
    inputs = keras.Input((None, None, 2))
    enlarging = keras.Model(inputs, model.enlarge(inputs, factor, "enlarged"))
    usual = keras.layers.UpSampling2D(factor, interpolation="bilinear")
    for shape in ((1, 1), (1, 3), (4, 1), (5, 4)):
        pixels = np.random.default_rng(0).uniform(-1, 1, (2, *shape, 2)).astype(np.float32)
        np.testing.assert_allclose(enlarging(pixels), usual(pixels), atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_interpolates_in_float32(policy):
    keras.mixed_precision.set_global_policy(policy)
    try:
        network = model.build_network(**SMALL, residual="add", centre="plain", stem=2, local_contrast=[8])
    finally:
        keras.mixed_precision.set_global_policy("float32")
    enlarged = [layer for layer in network.operations if type(layer).__name__ in ("Conv", "DepthToSpace")]
    assert len(enlarged) == 10 and {layer.output.dtype for layer in enlarged} == {"float32"}
    assert network.get_layer("logits").output.dtype == "float32"


def test_logits_share_weights_with_the_network():
    network = model.build_network(**SMALL, residual="add", centre="serial", stem=2, local_contrast=[])
    pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
    softmax = keras.ops.softmax(model.logits_of(network)(pixels))
    np.testing.assert_allclose(softmax, network(pixels), atol=1e-6)


def test_local_contrast_by_hand():
    """Cells of one pixel: local is 3 x 3, at the edges what there is of it."""
    pixels = np.random.default_rng(0).normal(size=(5, 6, 2)).astype(np.float32)

    def local_mean(x):
        return np.array(
            [
                [x[max(r - 1, 0) : r + 2, max(c - 1, 0) : c + 2].mean((0, 1)) for c in range(6)]
                for r in range(5)
            ]
        )

    rest = pixels - local_mean(pixels)
    expected = rest / np.sqrt(local_mean((rest**2).mean(-1, keepdims=True)) + 0.01)
    inputs = keras.Input((None, None, 2))
    found = keras.Model(inputs, model.add_local_contrast(inputs, [1]))(pixels[None])[0]
    np.testing.assert_allclose(found, np.concatenate([pixels, expected], -1), atol=1e-5)


def test_local_contrast_does_not_see_exposure():
    inputs = keras.Input((None, None, 3))
    normal = keras.Model(inputs, model.add_local_contrast(inputs, [4, 8]))
    pixels = np.random.default_rng(0).normal(scale=2, size=(1, 32, 48, 3)).astype(np.float32)
    for gain, offset in ((0.5, 0), (1, 0.7), (2, -1)):
        np.testing.assert_allclose(
            normal(gain * pixels + offset)[..., 3:], normal(pixels)[..., 3:], atol=0.03
        )


# -- losses, by hand: two labelled pixels right with .7 and .8, one wrong with .3, one ignored


def test_cross_entropy_by_hand():
    assert float(model.cross_entropy(LOGITS, LABELS)) == pytest.approx(
        -np.log([0.7, 0.8, 0.3]).mean(), rel=1e-5
    )


def test_focal_by_hand():
    p = np.array([0.7, 0.8, 0.3])
    assert float(model.focal(LOGITS, LABELS)) == pytest.approx((-((1 - p) ** 2) * np.log(p)).mean(), rel=1e-5)


def test_jaccard_by_hand():
    first = (0.7 + 0.3) / (2 + (0.7 + 0.1 + 0.3) - (0.7 + 0.3))  # class 0: two pixels; class 2 is in no label
    second = 0.8 / (1 + (0.2 + 0.8 + 0.3) - 0.8)
    assert float(model.jaccard(LOGITS, LABELS)) == pytest.approx(1 - (first + second) / 2, rel=1e-5)


def test_dice_by_hand():
    first, second = 2 * (0.7 + 0.3) / (2 + 0.7 + 0.1 + 0.3), 2 * 0.8 / (1 + 0.2 + 0.8 + 0.3)
    assert float(model.dice(LOGITS, LABELS)) == pytest.approx(1 - (first + second) / 2, rel=1e-5)


def test_lovasz_by_hand():
    """Errors of class 0, sorted: .7 (a label missed), .3 (the other one), .1 (a false one); each times what
    the loss 1 - intersection / union grows when this pixel is wrong too: 1/2, then 1/2, then nothing. Of
    class 1, one label: .3 (false, 1/2), .2 (the label, 1/2), .2 (false, nothing)."""
    first, second = 0.7 * 0.5 + 0.3 * 0.5 + 0.1 * 0, 0.3 * 0.5 + 0.2 * 0.5 + 0.2 * 0
    assert float(model.lovasz(LOGITS, LABELS)) == pytest.approx((first + second) / 2, rel=1e-5)


def test_lovasz_of_certain_answers_is_the_jaccard_distance():
    rng = np.random.default_rng(3)
    labels, answers = rng.integers(0, 4, (2, 1, 8, 8)).astype(np.uint8)
    labels[0, 0] = 255
    certain = 100 * np.eye(4, dtype=np.float32)[answers]
    known = labels < 4
    distances = [
        1 - ((labels == c) & (answers == c)).sum() / (((labels == c) | (answers == c)) & known).sum()
        for c in range(4)
    ]
    assert float(model.lovasz(certain, labels)) == pytest.approx(np.mean(distances), rel=1e-5)


def test_lovasz_is_a_mean_over_patches_with_labels():
    rng = np.random.default_rng(4)
    logits, labels = (
        rng.normal(0, 2, (3, 5, 5, 4)).astype(np.float32),
        rng.integers(0, 4, (3, 5, 5)).astype(np.uint8),
    )
    labels[1] = 255
    alone = [float(model.lovasz(logits[i : i + 1], labels[i : i + 1])) for i in (0, 2)]
    assert float(model.lovasz(logits, labels)) == pytest.approx(np.mean(alone), rel=1e-5)


def test_class_weights_and_label_smoothing_by_hand():
    weights, logs = np.array([1.0, 4.0, 0.5]), LOGITS[0].reshape(-1, 3)[:3]
    labels = LABELS[0].ravel()[:3]
    own = -weights[labels] * logs[range(3), labels]
    even = -(weights * logs).sum(1) / 3
    for smoothing in (0, 0.3):
        expected = ((1 - smoothing) * own + smoothing * even).sum() / weights[labels].sum()  # as in PyTorch
        assert float(model.cross_entropy(LOGITS, LABELS, weights, smoothing)) == pytest.approx(
            expected, rel=1e-5
        )
    easy = (1 - np.exp(logs[range(3), labels])) ** 2
    assert float(model.focal(LOGITS, LABELS, weights)) == pytest.approx(
        (easy * own).sum() / weights[labels].sum(), rel=1e-5
    )


def test_labels_of_a_class_that_weighs_nothing_count_nothing_also_where_labels_are_smoothed():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(1, 4, 4, 3)).astype(np.float32), np.full((1, 4, 4), 2, np.uint8)
    weights = model.balance([10, 30, 0], 0.75)
    assert float(model.cross_entropy(logits, labels, weights, 0.1)) == 0
    labels[0, 0, 0] = 1
    ignored = np.where(labels == 2, 255, labels)
    alone = float(model.cross_entropy(logits, ignored, weights, 0.1))
    assert float(model.cross_entropy(logits, labels, weights, 0.1)) == pytest.approx(alone) and 0 < alone < 9


def test_class_weights_from_counts():
    assert model.balance([10, 20, 70], 0) == [1, 1, 1]
    whole = model.balance([10, 20, 70, 0], 1)
    np.testing.assert_allclose(
        np.multiply(whole[:3], [10, 20, 70]), 100 / 3
    )  # the same share for every class
    root = model.balance([10, 20, 70], 0.5)
    assert root[0] / root[1] == pytest.approx(2**0.5) and np.dot(root, [0.1, 0.2, 0.7]) == pytest.approx(1)
    assert whole[3] == 0


@pytest.mark.parametrize("loss", model.LOSSES.values())
def test_gradients_are_finite_and_point_downhill(loss):
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 4, (2, 6, 6)).astype(np.uint8)
    labels[0, :2] = 255
    for spread in (1, 100, 1e4):  # up to the largest that float16 arithmetic could hand over
        logits = tf.Variable(rng.normal(0, spread, (2, 6, 6, 4)).astype(np.float32))
        with tf.GradientTape() as tape:
            value = loss(logits, labels)
        gradient = tape.gradient(value, logits).numpy()
        assert np.isfinite(gradient).all() and (gradient[0, :2] == 0).all()
        if spread == 1:
            assert float(loss(logits - 0.1 * gradient / np.abs(gradient).max(), labels)) < float(value)


@pytest.mark.parametrize("loss", model.LOSSES.values())
def test_losses_skip_ignored_pixels_and_are_finite(loss):
    rng = np.random.default_rng(1)
    logits, labels = (
        rng.normal(0, 3, (2, 6, 6, 4)).astype(np.float32),
        rng.integers(0, 4, (2, 6, 6)).astype(np.uint8),
    )
    labels[:, :2] = 255
    changed = logits.copy()
    changed[:, :2] = rng.normal(0, 30, (2, 2, 6, 4))
    assert float(loss(changed, labels)) == pytest.approx(float(loss(logits, labels)), rel=1e-6)
    assert float(loss(logits, np.full_like(labels, 255))) == 0
    assert np.isfinite(float(loss(logits * 1e4, labels)))
    perfect = 50 * np.eye(4, dtype=np.float32)[np.minimum(labels, 3)]
    assert float(loss(perfect, labels)) == pytest.approx(0, abs=1e-5)


def test_losses_add_up():
    weights = [1.0, 4.0, 0.5]
    both = model.build_loss({"ce": 2.0, "jaccard": 0.5}, label_smoothing=0.1, weights=weights)
    assert float(both(LOGITS, LABELS)) == pytest.approx(
        2 * float(model.cross_entropy(LOGITS, LABELS, weights, 0.1))
        + 0.5 * float(model.jaccard(LOGITS, LABELS)),
        rel=1e-6,
    )
