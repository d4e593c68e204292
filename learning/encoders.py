"""Encoders that were trained on ImageNet, of stock Keras layers in one flat graph, and their first weights.

Each takes raw pixels of any number of bands, normalises them as it was trained, and gives features at strides
of 2 (but ConvNeXt) to 32 pixels. Four consist of inverted residuals (Sandler et al. 2018): EfficientNet-Lite0
(Liu 2020), MobileNetV3 (Howard et al. 2019) and two EfficientNetV2 (Tan & Le 2021); one is ConvNeXt (Liu et
al. 2022). Nothing is dropped at random, neither features nor whole blocks."""
import warnings

import numpy as np

from base.command import quiet_stderr
from base.problem import OUT_OF_MEMORY, Problem, shown
from learning.encoder_tables import CONVNEXT, IMAGENET, INVERTED
from learning.keras_files import for_keras
from learning.torch_files import read_torch

with quiet_stderr():
    import keras
    from keras import layers

BN_MOMENTUM = 0.95  # of moving statistics, as in model.py; MobileNetV3's own .999 would keep ImageNet's
TOPS = ("conv_1", "conv_1_bn", "conv_2", "logits", "top_conv", "top_bn", "predictions",
        "convnext_tiny_head_dense")  # of applications: the classifier, and what leads to it alone


def rounded(filters):
    """To a multiple of 8, and no more than a tenth less (Howard et al. 2019)."""
    near = max(8, int(filters + 4) // 8 * 8)
    return near + 8 if near < 0.9 * filters else near


class Parts:
    """What an encoder is made of; its layers are named after it."""

    def __init__(self, synchronized):
        self.synchronized = synchronized

    def convolve(self, x, name, filters, activation=None, kernel=1, stride=1):
        """A convolution of `filters`, a depthwise one where these are None; normalisation, activation."""
        options = {"kernel_size": kernel, "strides": stride, "padding": "same", "use_bias": False}
        drawn = keras.initializers.VarianceScaling(2, "fan_out", "truncated_normal")
        if filters is None:
            x = layers.DepthwiseConv2D(depthwise_initializer=drawn, name=f"encoder_{name}", **options)(x)
        else:
            x = layers.Conv2D(filters, kernel_initializer=drawn, name=f"encoder_{name}", **options)(x)
        x = layers.BatchNormalization(momentum=BN_MOMENTUM, synchronized=self.synchronized,
                                      name=f"encoder_{name}_norm")(x)
        return self.activate(x, name, activation) if activation else x

    def activate(self, x, name, activation):
        return layers.Activation(activation, name=f"encoder_{name}_{activation}")(x)

    def squeeze(self, x, name, filters, gate):
        """Squeeze and excitation (Hu et al. 2018): channels are weighed by what the whole patch shows."""
        narrow, wide = gate
        weights = layers.GlobalAveragePooling2D(keepdims=True, name=f"encoder_{name}_mean")(x)
        weights = layers.Conv2D(filters, 1, activation=narrow, name=f"encoder_{name}_squeeze")(weights)
        weights = layers.Conv2D(x.shape[-1], 1, activation=wide, name=f"encoder_{name}_excite")(weights)
        return layers.Multiply(name=f"encoder_{name}_weigh")([x, weights])

    def inverted_residual(self, x, name, stage, stride, gate):
        """Expanded, convolved channel by channel, projected; added to its input where it is as large. Fused:
        expanded by the kernel itself."""
        inputs, inside, act = x, x.shape[-1] * stage.expansion, stage.activation
        if stage.kind == "fused":
            if stage.expansion > 1:
                x = self.convolve(x, f"{name}_expand", inside, act, stage.kernel, stride)
                x = self.convolve(x, f"{name}_project", stage.filters)
            else:
                x = self.convolve(x, f"{name}_project", stage.filters, act, stage.kernel, stride)
        else:
            if stage.expansion > 1:
                x = self.convolve(x, f"{name}_expand", rounded(inside), act)
            x = self.convolve(x, f"{name}_depthwise", None, act, stage.kernel, stride)
            if stage.kind == "squeezed":
                narrow = inputs.shape[-1] // 4 if gate[0] == "swish" else rounded(x.shape[-1] / 4)
                x = self.squeeze(x, name, narrow, gate)
            x = self.convolve(x, f"{name}_project", stage.filters)
        if inputs.shape[-1] == stage.filters and stride == 1:
            x = layers.Add(name=f"encoder_{name}_add")([inputs, x])
        return x

    def inverted(self, x, encoder):
        """{stride: features} of an encoder of inverted residuals."""
        x = self.convolve(x, "stem", encoder.stem, encoder.activation, kernel=3, stride=2)
        features, reached = {}, 2
        for i, stage in enumerate(encoder.stages):
            if stage.stride == 2:
                features[reached] = x
                reached *= 2
            for j in range(stage.repeats):
                stride = stage.stride if j == 0 else 1
                x = self.inverted_residual(x, f"{i}{'abcdefghijkl'[j]}", stage, stride, encoder.gate)
        return {**features, reached: x}

    def normalise(self, x, name):
        return layers.LayerNormalization(epsilon=1e-6, name=f"encoder_{name}_norm")(x)

    def convnext(self, x, widths, repeats):
        """{stride: features} of a ConvNeXt, whose scales of layers are part of the kernels before them."""
        features, reached = {}, 4
        for i, (width, times) in enumerate(zip(widths, repeats)):
            if i == 0:
                x = self.normalise(layers.Conv2D(width, 4, strides=4, name="encoder_stem")(x), "stem")
            else:
                features[reached] = x
                reached *= 2
                x = layers.Conv2D(width, 2, strides=2, name=f"encoder_{i}")(self.normalise(x, f"{i}"))
            for name in (f"{i}{letter}" for letter in "abcdefghi"[:times]):
                inside = layers.DepthwiseConv2D(7, padding="same", name=f"encoder_{name}_depthwise")(x)
                inside = layers.Dense(4 * width, name=f"encoder_{name}_expand")(self.normalise(inside, name))
                inside = self.activate(inside, name, "gelu")
                inside = layers.Dense(width, name=f"encoder_{name}_project")(inside)
                x = layers.Add(name=f"encoder_{name}_add")([x, inside])
        return {**features, reached: self.normalise(x, "last")}


def per_band(three, rgb, bands):
    """A number (or array) for each band from red's, green's and blue's: theirs for the bands that stand for
    them (`rgb`: places from 1, None where there is no such band), their mean for the others."""
    values = [np.mean(three, axis=0)] * bands
    for place, value in zip(rgb, three):
        if place:
            values[place - 1] = value
    return values


def build_encoder(name, x, rgb, synchronized=False):
    """{stride: features} of an encoder of this name on raw pixels x, [N, H, W, bands], 0..255; H and W are
    multiples of 32. `rgb` are the places, from 1, of the bands that stand for red, green and blue, or None.
    The weights are drawn at random; `load_weights` puts pretrained ones in."""
    mean, deviation = INVERTED[name][1:3] if name in INVERTED else IMAGENET
    mean, deviation = (np.array(per_band(three, rgb, x.shape[-1])) for three in (mean, deviation))
    x = layers.Rescaling((1 / deviation).tolist(), (-mean / deviation).tolist(), name="scale",
                         dtype="float32")(x)
    build = Parts(synchronized)
    return build.inverted(x, INVERTED[name]) if name in INVERTED else build.convnext(x, *CONVNEXT[name][1:])


def is_encoders(layer):
    """True of a network's layer that is its encoder's."""
    return layer.name.startswith("encoder_")


# -- weights: of each layer that has some, in the order in which pixels pass them ----------------------------

def lite0_weights(path):
    """The weights of EfficientNet-Lite0's layers, from a PyTorch file of the classifier."""
    state, weights = read_torch(path), []

    def tensor(name):
        if name not in state:
            raise ValueError(f"no tensor {name} among its {len(state)}, whose first is "
                             f"{shown(next(iter(state)))}")
        return state[name]

    def add(convolution, norm):
        kernel = tensor(f"{convolution}.weight")  # [filters, inputs or 1, rows, columns]
        depthwise = kernel.shape[1] == 1
        weights.append([kernel.transpose(2, 3, 0, 1) if depthwise else kernel.transpose(2, 3, 1, 0)])
        names = "weight", "bias", "running_mean", "running_var"
        weights.append([tensor(f"{norm}.{name}") for name in names])

    add("_conv_stem", "_bn0")
    blocks = sum(stage.repeats for stage in INVERTED["efficientnet_lite0"].stages)
    for block in (f"_blocks.{i}" for i in range(blocks)):
        if f"{block}._expand_conv.weight" in state:
            add(f"{block}._expand_conv", f"{block}._bn0")
        add(f"{block}._depthwise_conv", f"{block}._bn1")
        add(f"{block}._project_conv", f"{block}._bn2")
    return weights


def application_weights(application, path):
    """The weights of an encoder's layers, from a file of keras.applications. ValueError that says what was
    found where it is another."""
    build = getattr(keras.applications, application)
    options = {} if application == "MobileNetV3Large" else {"include_preprocessing": False}
    with for_keras(path) as (path, classifies):
        shape = None if classifies else (None, None, 3)  # None: ImageNet's, which a classifier wants
        reference = build(include_top=classifies, weights=None, input_shape=shape, **options)
        for variable in reference.weights:  # Keras passes over some of what a file lacks
            variable.assign(np.full(variable.shape, np.nan))
        try:
            with warnings.catch_warnings(action="ignore"):  # of that, and of what no layer needs
                reference.load_weights(str(path))
        except ValueError as error:
            found = " ".join(str(error).partition("\n")[0].split())[:150]
            raise ValueError(f"weights of another network ({found})") from None
    parts = [part for layer in reference.layers for part in getattr(layer, "layers", [layer])
             if layer.name not in TOPS]
    weights = []
    for layer in parts:
        own = layer.get_weights()
        if type(layer).__name__ == "LayerScale":  # of the dense layer before
            weights[-1] = [array * own[0] for array in weights[-1]]
        elif own:
            grouped = getattr(layer, "groups", 1) > 1  # a depthwise convolution by another name
            weights.append([own[0].swapaxes(2, 3), *own[1:]] if grouped else own)
    return weights


def load_weights(network, encoder, path, rgb):
    """Gives a network's encoder the weights of a file: a PyTorch file for efficientnet_lite0, for the others
    an HDF5 file of keras.applications without its top. Bands beyond red, green and blue get the mean of
    these in the first kernel, and that is scaled by 3 over the number of bands. Problem (exit 3) where the
    file is damaged or another network's; then the network is as it was."""
    application = {**INVERTED, **CONVNEXT}[encoder][0]
    own = [layer for layer in network.layers if is_encoders(layer) and layer.weights]
    try:
        weights = application_weights(application, path) if application else lite0_weights(path)
        check_weights(own, weights)
    except Problem:
        raise
    except Exception as error:  # Keras has no type of its own for what a file can do to it
        if type(error).__name__ in OUT_OF_MEMORY:
            raise
        raise Problem(f"weights {path}: {' '.join(str(error).split())[:200]}, expected those of {encoder}; "
                      "set model.weights to a file of this encoder, imagenet or none", code=3) from None
    kernel, bands = weights[0][0], own[0].kernel.shape[2]  # [rows, columns, red green blue, filters]
    spread = np.stack(per_band([*np.moveaxis(kernel, 2, 0)], rgb, bands), axis=2)
    weights[0][0] = spread * np.float32(3 / bands)
    for layer, arrays in zip(own, weights, strict=True):
        layer.set_weights(arrays)


def check_weights(own, weights):
    """ValueError where the arrays of a file are not those of an encoder's `own` layers on three bands."""
    shapes = [[tuple(variable.shape) for variable in layer.weights] for layer in own]
    shapes[0][0] = (*shapes[0][0][:2], 3, *shapes[0][0][3:])
    if len(weights) != len(own):
        raise ValueError(f"{len(weights)} layers with weights, not {len(own)}")
    for layer, expected, arrays in zip(own, shapes, weights):
        found = [array.shape for array in arrays]
        if found != expected:
            raise ValueError(f"in the place of {layer.name} weights of {found}, not {expected}")
        if not all(np.isfinite(array).all() for array in arrays):
            raise ValueError(f"numbers that are not finite, the first in layer {layer.name}")
