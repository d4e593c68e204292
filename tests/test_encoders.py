"""The encoders against their models elsewhere, the first kernel by hand, files that are none of theirs."""

import os
import pickle

import numpy as np
import pytest
from PIL import Image
from pretrained import LITE0, on_small_encoder, write_small_encoder
from skimage import data

from base.problem import Problem
from learning.encoder_tables import CONVNEXT, IMAGENET, INVERTED
from learning.encoders import BN_MOMENTUM, TOPS, build_encoder, is_encoders, keras, load_weights, per_band
from learning.torch_files import read_torch
from learning.weight_files import weights_file

RGB = [1, 2, 3]
FEATURES = {  # of keras.applications, at strides 2 to 32, or 4 to 32
    "mobilenet_v3_large": [
        *("expanded_conv_add", "expanded_conv_2_add", "expanded_conv_5_add", "expanded_conv_11_add"),
        "expanded_conv_14_add",
    ],
    "efficientnet_v2_b0": [
        *("block1a_project_activation", "block2b_add", "block3b_add", "block5e_add", "block6h_add")
    ],
    "efficientnet_v2_b3": ["block1b_add", "block2c_add", "block3c_add", "block5g_add", "block6l_add"],
    "convnext_tiny": [  # sums without names of their own, after these layers
        *("convnext_tiny_stage_0_block_2_identity", "convnext_tiny_stage_1_block_2_identity"),
        *("convnext_tiny_stage_2_block_8_identity", "last"),
    ],
}


@pytest.fixture
def small_encoder(monkeypatch, settings):
    on_small_encoder(monkeypatch, settings)


def encoder_alone(name, side=None, bands=3, rgb=RGB, synchronized=False):
    """A network of the features of an encoder, from fine to coarse."""
    inputs = keras.Input((side, side, bands), dtype="uint8")
    features = build_encoder(name, inputs, rgb, synchronized)
    return keras.Model(inputs, [features[stride] for stride in sorted(features)])


def photograph(image):
    """Its square middle, 224 pixels wide."""
    rows, columns = ((size - min(image.shape[:2])) // 2 for size in image.shape[:2])
    middle = image[rows : image.shape[0] - rows, columns : image.shape[1] - columns]
    return np.asarray(Image.fromarray(middle).resize((224, 224), Image.Resampling.BICUBIC))


def classified(features, state):
    """Probabilities of ImageNet's classes, by the head of EfficientNet-Lite0 on its coarsest features."""
    x = features @ state["_conv_head.weight"][:, :, 0, 0].T
    x = (x - state["_bn1.running_mean"]) / np.sqrt(state["_bn1.running_var"] + 1e-3)
    x = np.clip(x * state["_bn1.weight"] + state["_bn1.bias"], 0, 6).mean((1, 2))
    scores = np.exp(x @ state["_fc.weight"].T + state["_fc.bias"])
    return scores / scores.sum(1, keepdims=True)


def test_the_whole_classifier_names_cats_and_an_espresso():
    """ImageNet's 281, 282, 285: tabby, tiger cat, Egyptian cat; 967: espresso."""
    path, network = weights_file(LITE0, "imagenet"), encoder_alone(LITE0)
    load_weights(network, LITE0, path, RGB)
    images = np.stack([photograph(image) for image in (data.chelsea(), data.coffee())])
    cat, coffee = classified(network.predict(images, verbose=0)[-1], read_torch(path))
    assert np.argsort(cat)[::-1][:3].tolist() == [285, 282, 281]
    assert coffee.argmax() == 967 and coffee[967] > 0.9


def application_of(name):
    """The network of keras.applications, drawn at random."""
    build = getattr(keras.applications, {**INVERTED, **CONVNEXT}[name][0])
    options = {} if name == "mobilenet_v3_large" else {"include_preprocessing": False}
    return build(include_top=False, weights=None, input_shape=(64, 64, 3), **options)


def write_application(name, path):
    """Random weights, of statistics as trained ones have them, in a file; the network that has them."""
    network = application_of(name)
    rng = np.random.default_rng(0)
    for variable in network.variables:
        value = variable.numpy() if variable.name.endswith("kernel") else rng.normal(0, 0.1, variable.shape)
        if variable.name in ("moving_variance", "gamma"):
            value = 1 + abs(value)
        variable.assign(value)
    network.save_weights(path)
    return network


def features_of(network, layer):
    """What a layer of keras.applications puts out; of ConvNeXt what comes right after it."""
    operations = network.operations
    if layer == "last":
        return network.output
    place = [operation.name for operation in operations].index(layer)
    return operations[place + layer.startswith("convnext")].output


@pytest.mark.parametrize("name", [name for name in FEATURES if name != "efficientnet_v2_b3"])
def test_features_are_those_of_keras_applications(tmp_path, name):
    theirs = write_application(name, tmp_path / "a.weights.h5")
    outputs = [features_of(theirs, layer) for layer in FEATURES[name]]
    ours = encoder_alone(name, 64, synchronized=True)
    load_weights(ours, name, tmp_path / "a.weights.h5", RGB)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3)).astype("uint8")
    mean, deviation = IMAGENET if name != "mobilenet_v3_large" else (0, 1)  # which scales by itself
    scaled = ((pixels - np.array(mean)) / deviation).astype("float32")
    expected = keras.Model(theirs.input, outputs)(scaled)
    for one, other in zip(expected, ours(pixels), strict=True):
        one, other = one.numpy(), other.numpy()
        assert one.std() > 0.01 and abs(one - other).max() < 1e-4 * max(1, abs(one).max())
    norms = [layer for layer in ours.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert all(norm.synchronized and norm.momentum == BN_MOMENTUM == 0.95 for norm in norms)
    assert all(is_encoders(layer) for layer in ours.layers if layer.weights)


def test_the_larger_efficientnet_v2_has_all_shapes_of_keras_applications(undrawn):
    """It differs from the smaller one in numbers of filters and blocks alone."""
    name = "efficientnet_v2_b3"
    theirs, ours = application_of(name), encoder_alone(name, 64)
    shapes = [
        [variable.shape for layer in network.layers if layer.name not in TOPS for variable in layer.weights]
        for network in (theirs, ours)
    ]
    assert shapes[0] == shapes[1] and len(shapes[0]) > 500
    expected = [features_of(theirs, layer).shape for layer in FEATURES[name]]
    assert [output.shape for output in ours.outputs] == expected


# -- bands ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rgb, bands, expected",
    [
        ([1, 2, 3], 3, [3, 6, 18]),
        ([1, 2, 3], 4, [3, 6, 18, 9]),
        ([2, 3, None], 3, [9, 3, 6]),
        ([None, None, None], 1, [9]),
        ([None, 1, None], 1, [6]),
        ([5, 4, 2], 5, [9, 18, 9, 6, 3]),
    ],
)
def test_a_band_has_its_colours_number_and_others_the_mean(rgb, bands, expected):
    np.testing.assert_array_equal(per_band([3, 6, 18], rgb, bands), expected)
    kernels = per_band([np.full((2, 2), value) for value in (3, 6, 18)], rgb, bands)
    np.testing.assert_array_equal([kernel[0, 0] for kernel in kernels], expected)


def test_the_first_kernel_of_four_bands_by_hand(tmp_path, small_encoder):
    state = write_small_encoder(tmp_path / "a.pth")
    network = encoder_alone(LITE0, bands=4, rgb=[2, 3, None])
    load_weights(network, LITE0, tmp_path / "a.pth", [2, 3, None])
    red, green, blue = (state["_conv_stem.weight"][:, band].transpose(1, 2, 0) for band in range(3))
    mean, kernel = (red + green + blue) / 3, network.get_layer("encoder_stem").kernel.numpy()
    expected = np.stack([mean, red, green, mean], axis=2) * 3 / 4
    np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-7)
    names = "weight", "bias", "running_mean", "running_var"
    for name, found in zip(names, network.get_layer("encoder_stem_norm").get_weights(), strict=True):
        np.testing.assert_array_equal(found, state[f"_bn0.{name}"])


def test_bands_are_normalised_as_the_colours_that_they_stand_for():
    inputs, pixel = keras.Input((None, None, 4), dtype="uint8"), np.array([10, 20, 30, 40], "uint8")
    features = build_encoder("convnext_tiny", inputs, [3, None, 1])
    network = keras.Model(inputs, features[32])
    scaled = keras.Model(inputs, network.get_layer("scale").output)(pixel.reshape(1, 1, 1, 4)).numpy()
    red, blue = (30 / 255 - 0.485) / 0.229, (10 / 255 - 0.406) / 0.225
    mean, deviation = (0.485 + 0.456 + 0.406) / 3, (0.229 + 0.224 + 0.225) / 3
    others = [(value / 255 - mean) / deviation for value in (20, 40)]
    np.testing.assert_allclose(scaled.ravel(), [blue, others[0], red, others[1]], rtol=1e-5)


# -- files that are none ----------------------------------------------------------------------------------


class Touch:
    """A pickle that runs a command as it is read."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def write_other(path, kind):
    """A file that is no weights of the small encoder."""
    write_small_encoder(path)
    content = path.read_bytes()
    if kind == "cut":
        path.write_bytes(content[:-100])
    elif kind == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif kind == "hostile":
        head = b"".join(pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001))
        path.write_bytes(head + pickle.dumps(Touch(path.with_name("canary")), protocol=2))
    elif kind == "keras":
        keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)]).save_weights(
            path.with_suffix(".weights.h5")
        )
        path.with_suffix(".weights.h5").rename(path)
    elif kind == "not finite":
        path.write_bytes(content[:-4] + np.float32(np.nan).tobytes())
    elif kind == "renamed":
        path.write_bytes(content.replace(b"_conv_stem.weight", b"_conv_stam.weight"))
    elif kind == "another":  # a larger sister's, say: EfficientNet-Lite0 itself
        path.write_bytes(weights_file(LITE0, "imagenet").read_bytes())


SAID = {
    "cut": "cut after",
    "noise": "another format",
    "hostile": "posix.system",
    "keras": "an HDF5 file",
    "not finite": "numbers that are not finite",
    "renamed": "no tensor _conv_stem.weight among",
    "another": "36 layers with weights, not 30",
}


@pytest.mark.parametrize("kind", SAID)
def test_other_files_are_one_line_and_change_nothing(tmp_path, small_encoder, kind):
    write_other(tmp_path / "a.pth", kind)
    network = encoder_alone(LITE0)
    before = network.get_weights()
    with pytest.raises(Problem) as caught:
        load_weights(network, LITE0, tmp_path / "a.pth", RGB)
    assert caught.value.code == 3 and len(caught.value.lines) == 1 and SAID[kind] in caught.value.lines[0]
    assert not (tmp_path / "canary").exists()
    for array, own in zip(before, network.get_weights()):
        np.testing.assert_array_equal(array, own)


def test_keras_weights_of_another_network_are_refused(tmp_path):
    other = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(16, 3)])
    other.save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(Problem, match="expected those of mobilenet_v3_large; set model.weights") as caught:
        load_weights(other, "mobilenet_v3_large", tmp_path / "a.weights.h5", RGB)
    assert caught.value.code == 3 and len(caught.value.lines) == 1
