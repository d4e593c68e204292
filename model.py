"""The networks, a residual U-Net or a lean decoder on a pretrained encoder, and their losses, in `keras` and
`keras.ops` alone: they run on any Keras backend, and a saved one loads wherever Keras is, without this code.
What keras.models.load_model("model.keras") gives predicts patches of any size (of the multiple in
model.json), and exports: export("folder") for a SavedModel; for ONNX export("model.onnx", format="onnx"),
once it was called.

    python model.py --params demo.yaml     prints parameters and GFLOP per patch, with each encoder
"""
import json
import math

import numpy as np

from base.command import command, quiet_stderr
from base.keys import ENCODERS
from base.settings import coarsest, count_bands
from learning.encoder_tables import DECODER
from learning.encoders import build_encoder
from learning.weight_files import about_weights

with quiet_stderr():
    import keras
    from keras import layers, ops

BN_MOMENTUM = 0.95  # moving statistics follow about the last twenty batches; a schedule ends with tiny steps
DILATIONS = (1, 2, 4, 8)
LEAST_VARIANCE = 0.01  # added to the local variance of pixels in -1..1 (13 grey levels): noise stays small


def enlarge(x, factor, name):
    """Bilinear interpolation of x, float32 [N, H, W, B], to `factor` times the height and width. It equals
    UpSampling2D's, with which Keras on TensorFlow predicts and exports for one size alone. A convolution
    takes any: it weighs a pixel and its neighbours for each of the pixels in its place. Most even factors
    take two, of fewer numbers: for the ends of a pixel's parts, between which it is linear, then within."""

    def spread(x, weights):
        """Each pixel becomes a square of pixels, by weights [neighbours, ends, pixels of a side, their ends]
        along rows and columns alike."""
        neighbours, ends = weights.shape[:2]
        bands = np.eye(x.shape[-1] // ends**2)
        kernel = np.einsum("ydip,xejq,bo->yxdebijpqo", weights, weights, bands).astype("float32")
        kernel = kernel.reshape(neighbours, neighbours, x.shape[-1], -1)
        return ops.depth_to_space(ops.conv(x, kernel), weights.shape[2])

    def between(at):
        """Weights of the pixel before, the pixel and the next, `at` pixels from its centre, -0.5..0.5."""
        return np.maximum([-at, 1 - abs(at), at], 0)[:, None]

    if factor > 1:
        x = ops.concatenate([x[:, :1], x, x[:, -1:]], axis=1)
        x = ops.concatenate([x[:, :, :1], x, x[:, :, -1:]], axis=2)
        parts = max((n for n in range(2, math.isqrt(factor) + 1, 2) if factor % n == 0), default=factor)
        along = (np.arange(parts)[:, None] + [0, 1]) / parts - 0.5
        x = spread(x, between(along if parts < factor else along.mean(1, keepdims=True)))
        if parts < factor:
            along = (np.arange(factor // parts)[:, None] + 0.5) * parts / factor
            x = spread(x, np.array([1 - along, along])[None])
    return layers.Identity(name=name, dtype="float32")(x)


def add_local_contrast(x, cells):
    """The bands and, for each of `cells` (pixels) beside them, the same less their local mean, over the local
    standard deviation of all bands together (local contrast normalisation, Jarrett et al. 2009). Local is
    about three cells wide. In float32, for faint contrasts."""

    def local_mean(x, cell, name):
        x = layers.AveragePooling2D(cell, name=f"{name}_cells", dtype="float32")(x)
        x = layers.AveragePooling2D(3, strides=1, padding="same", name=f"{name}_mean", dtype="float32")(x)
        return enlarge(x, cell, f"{name}_grow")

    bands = [x]
    for cell in cells:
        rest = layers.Subtract(name=f"rest{cell}", dtype="float32")([x, local_mean(x, cell, f"bright{cell}")])
        variance = local_mean(ops.mean(ops.square(rest), axis=-1, keepdims=True), cell, f"contrast{cell}")
        bands.append(rest / ops.sqrt(variance + LEAST_VARIANCE))
    return layers.Concatenate(name="contrast_join")(bands)


class Blocks:
    """What the network is made of, by `residual`. concat: convolution, ReLU, normalisation; a block's result
    is concatenated to its input, as in the published network. add: convolution, normalisation, ReLU, so that
    the normalisation can be folded into the convolution; the result is added to the input, which a 1 x 1
    convolution first brings to its width (He et al. 2016)."""

    def __init__(self, residual, synchronized):
        self.residual, self.synchronized = residual, synchronized

    def convolve(self, x, filters, name, linear=False, **options):
        """A convolution with normalisation and ReLU; without the ReLU where it is `linear`."""
        early = self.residual == "concat"
        options = {"kernel_size": 3, "padding": "same", "kernel_initializer": "he_normal", **options}
        x = layers.Conv2D(filters, use_bias=early, activation="relu" if early else None, name=f"{name}_conv",
                          **options)(x)
        x = layers.BatchNormalization(momentum=BN_MOMENTUM, synchronized=self.synchronized,
                                      name=f"{name}_norm")(x)
        return x if early or linear else layers.ReLU(name=f"{name}_relu")(x)

    def residual_block(self, x, filters, name):
        """Two convolutions whose result is joined to the block's input."""
        inside = self.convolve(x, filters, f"{name}a")
        inside = self.convolve(inside, filters, f"{name}b", linear=True)
        if self.residual == "concat":
            return layers.Concatenate(name=f"{name}_join")([x, inside])
        if x.shape[-1] != filters:
            x = layers.Conv2D(filters, 1, kernel_initializer="he_normal", name=f"{name}_project")(x)
        return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_join")([x, inside]))

    def centre_block(self, x, filters, centre):
        """The lowest level: a plain residual block, or dilated convolutions one after the other (serial: Yu &
        Koltun 2016) or side by side (parallel: Chen et al. 2017), whose outputs are all concatenated."""
        if centre == "plain":
            return self.residual_block(x, filters, "centre")
        outputs = []
        for dilation in DILATIONS:
            source = outputs[-1] if outputs and centre == "serial" else x
            outputs.append(self.convolve(source, filters, f"centre{dilation}", dilation_rate=dilation))
        return layers.Concatenate(name="centre_join")(outputs)


def residual_unet(x, blocks, model):
    """The residual U-Net (Ronneberger et al. 2015, with residual blocks): pixels -1..1 to features, at the
    stride of the stem."""
    width, depth, stem = model["width"], model["depth"], model["stem"]
    if stem > 1:
        x = blocks.convolve(x, width, "stem", kernel_size=2 * stem, strides=stem)
    skips = []
    for level in range(depth):
        x = blocks.residual_block(x, width * 2**level, f"down{level}")
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"pool{level}")(x)
    x = blocks.centre_block(x, width * 2**depth, model["centre"])
    for level in reversed(range(depth)):
        x = layers.Conv2DTranspose(width * 2**level, 2, strides=2, kernel_initializer="he_normal",
                                   name=f"grow{level}")(x)
        x = layers.Concatenate(name=f"skip{level}")([x, skips[level]])
        x = blocks.residual_block(x, width * 2**level, f"up{level}")
    return x


def encoder_decoder(inputs, contrast, blocks, model):
    """A pretrained encoder under a lean decoder: raw pixels to features, at the stride of the stem. From the
    coarsest level up, features grow by a transposed convolution, the encoder's of that stride, and local
    contrast at the last, are added by 1 x 1 convolutions, and one convolution mixes them."""
    stem, width = model["stem"], model["width"]
    features = build_encoder(model["encoder"], inputs, model["rgb"], blocks.synchronized)
    x = features[32]
    for stride in (stride for stride in (16, 8, 4, 2) if stride >= stem):
        filters = int(width * DECODER[stride])
        parts = [layers.Conv2DTranspose(filters, 2, strides=2, kernel_initializer="he_normal",
                                        name=f"grow{stride}")(x)]
        if stride in features:
            parts.append(layers.Conv2D(filters, 1, kernel_initializer="he_normal", name=f"skip{stride}")(
                features[stride]))
        if contrast is not None and stride == stem:
            parts.append(layers.Conv2D(filters, 2 * stem, strides=stem, padding="same",
                                       kernel_initializer="he_normal", name="contrast")(contrast))
        x = layers.Add(name=f"join{stride}")(parts) if len(parts) > 1 else parts[0]
        x = blocks.convolve(layers.ReLU(name=f"join{stride}_relu")(x), filters, f"mix{stride}")
    return x


def build_network(bands, classes, synchronized=False, size=None, **model):
    """A network, by the settings `model`: the residual U-Net, or a decoder on a pretrained encoder.

    Takes raw pixels [N, H, W, bands], 0..255 (uint8 or float); H and W, which `size` fixes, are multiples of
    stem * 2**depth, or with an encoder of 32, and of each cell of local_contrast. Returns float32
    probabilities [N, H, W, classes] that sum to 1. With a `stem` of 2 or 4 the logits are at that stride, and
    interpolated back, which spares most of the work at full resolution. The published network, of 16,533,368
    parameters, has width 32, depth 4, concat, serial, stem 1, no local contrast, three bands, six classes."""
    stem, cells = model["stem"], model["local_contrast"]
    blocks = Blocks("add" if model["encoder"] != "none" else model["residual"], synchronized)
    inputs = keras.Input((size, size, bands), dtype="uint8", name="pixels")
    if model["encoder"] == "none":
        x = layers.Rescaling(1 / 127.5, offset=-1, name="scale", dtype="float32")(inputs)
        x = residual_unet(add_local_contrast(x, cells) if cells else x, blocks, model)
    else:
        contrast = None
        if cells:
            x = layers.Rescaling(1 / 127.5, offset=-1, name="bright", dtype="float32")(inputs)
            contrast = add_local_contrast(x, cells)
        x = encoder_decoder(inputs, contrast, blocks, model)
    x = layers.Conv2D(classes, 1, name="scores" if stem > 1 else "logits", dtype="float32")(x)
    if stem > 1:
        x = enlarge(x, stem, "logits")
    return keras.Model(inputs, layers.Softmax(name="probabilities", dtype="float32")(x),
                       name="residual_unet" if model["encoder"] == "none" else model["encoder"])


def logits_of(network):
    """The same network, sharing its weights, up to the logits before the softmax: what the losses take."""
    return keras.Model(network.input, network.get_layer("logits").output)


def count_operations(patch_size, **network):
    """(parameters, floating-point operations) of one forward pass over a square patch, an addition and a
    multiplication counted as two. Only convolutions and dense layers count; the rest is under one per cent,
    of an encoder's network under four."""
    built = build_network(**network, size=patch_size)
    operations = 0
    for layer in built.layers:
        if isinstance(layer, layers.Conv2DTranspose):  # each input pixel meets the whole kernel
            operations += 2 * math.prod(layer.kernel.shape) * math.prod(layer.input.shape[1:3])
        elif isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)):
            operations += 2 * math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:3])
    return built.count_params(), operations


# The losses: logits (float32 [N, H, W, C]) and labels (uint8 [N, H, W]) to a scalar; a pixel of label IGNORE
# counts nothing, and where all are ignored the loss is 0. `total` sums a tensor over the devices that share a
# batch, so that the loss is the whole batch's on each of them; on one device it is the tensor itself.

def alone(tensor):
    return tensor


def split_ignored(logits, labels):
    """(log-probabilities [N, H, W, C], one-hot labels [N, H, W, C], all zero where the label is IGNORE)."""
    labels = ops.cast(labels, "int32")
    return ops.log_softmax(logits, axis=-1), ops.one_hot(labels, logits.shape[-1], dtype="float32")


def cross_entropy(logits, labels, weights=None, smoothing=0.0, total=alone):
    """Mean over the labelled pixels of -log p(label), weighted by `weights` (C numbers). `smoothing` spreads
    that share of every label evenly over the classes (Szegedy et al. 2016). Weights and smoothing together
    are PyTorch's: what a class adds is weighted by that class, and divided by the weights of the labels; but
    a label of weight 0 is not smoothed either, or a batch of such labels alone would divide by nothing."""
    logs, truth = split_ignored(logits, labels)
    weights = ops.ones(logits.shape[-1]) if weights is None else ops.convert_to_tensor(weights, "float32")
    truth = truth * ops.cast(weights > 0, "float32")
    target = (1 - smoothing) * truth + smoothing / logits.shape[-1] * ops.sum(truth, axis=-1, keepdims=True)
    return -total(ops.sum(weights * target * logs)) / ops.maximum(total(ops.sum(weights * truth)), 1e-7)


def focal(logits, labels, weights=None, gamma=2.0, total=alone):
    """Cross entropy weighted by (1 - p(label))**gamma, so that easy pixels count little (Lin et al. 2017)."""
    logs, truth = split_ignored(logits, labels)
    weights = ops.ones(logits.shape[-1]) if weights is None else ops.convert_to_tensor(weights, "float32")
    easy = (1 - ops.exp(logs)) ** gamma
    return -total(ops.sum(weights * truth * easy * logs)) / ops.maximum(total(ops.sum(weights * truth)), 1e-7)


def overlaps(logits, labels, total):
    """Of each class (float32 [C]): probability on its own pixels, on all labelled pixels; its pixels."""
    logs, truth = split_ignored(logits, labels)
    probabilities = ops.exp(logs) * ops.sum(truth, axis=-1, keepdims=True)
    sums = [ops.sum(part, axis=(0, 1, 2)) for part in (truth * probabilities, probabilities, truth)]
    return ops.unstack(total(ops.stack(sums)), num=3)


def mean_present(losses, pixels):
    """Mean of the losses (float32 [..., C]) of the classes that have pixels; 0 where none has."""
    present = ops.cast(pixels > 0, "float32")
    return ops.sum(present * losses, axis=-1) / ops.maximum(ops.sum(present, axis=-1), 1.0)


def jaccard(logits, labels, total=alone):
    """1 - soft intersection over union of the batch, mean of its labels' classes (Rahman & Wang 2016)."""
    both, predicted, pixels = overlaps(logits, labels, total)
    return mean_present(1 - both / ops.maximum(predicted + pixels - both, 1e-7), pixels)


def dice(logits, labels, total=alone):
    """1 - soft F1 score of the batch, mean of its labels' classes (Milletari et al. 2016)."""
    both, predicted, pixels = overlaps(logits, labels, total)
    return mean_present(1 - 2 * both / ops.maximum(predicted + pixels, 1e-7), pixels)


def lovasz(logits, labels, total=alone):
    """Lovasz-softmax (Berman et al. 2018): the convex extension of 1 - intersection over union of the errors,
    for every patch by itself, mean of the classes present in it, mean of the patches that have labels. Sorts
    the errors of every class and patch: many times the price of the other losses on a CPU."""
    logs, truth = split_ignored(logits, labels)
    patches, classes = ops.shape(logits)[0], logits.shape[-1]
    flat = ops.transpose(ops.reshape(truth, (patches, -1, classes)), (0, 2, 1))
    known = ops.sum(flat, axis=1, keepdims=True)
    probabilities = ops.transpose(ops.reshape(ops.exp(logs), (patches, -1, classes)), (0, 2, 1))
    errors = ops.abs(flat - probabilities) * known
    order = ops.argsort(ops.stop_gradient(-errors), axis=-1)
    errors, own = (ops.take_along_axis(x, order, axis=-1) for x in (errors, flat))
    others = ops.take_along_axis(known - flat, order, axis=-1)
    pixels = ops.sum(flat, axis=-1)
    union = ops.maximum(pixels[..., None] + ops.cumsum(others, axis=-1), 1.0)
    loss = 1 - (pixels[..., None] - ops.cumsum(own, axis=-1)) / union  # were all up to this error wrong
    rise = ops.concatenate([loss[..., :1], loss[..., 1:] - loss[..., :-1]], axis=-1)
    each = mean_present(ops.sum(errors * ops.stop_gradient(rise), axis=-1), pixels)
    labelled = ops.cast(ops.sum(pixels, axis=-1) > 0, "float32")
    return total(ops.sum(each * labelled)) / ops.maximum(total(ops.sum(labelled)), 1.0)


LOSSES = {"ce": cross_entropy, "focal": focal, "jaccard": jaccard, "dice": dice, "lovasz": lovasz}


def balance(pixels, power):
    """Class weights (list of C floats) from counts of labelled pixels: pixels ** -power, of mean 1 over the
    pixels. `power` 0 weighs all alike, 1 gives every class the same share of the loss; no pixels weigh 0."""
    shares = [count / sum(pixels) for count in pixels]
    raw = [share ** -power if share else 0.0 for share in shares]
    mean = sum(share * weight for share, weight in zip(shares, raw))
    return [weight / mean for weight in raw]


def build_loss(loss, label_smoothing=0.0, weights=None, total=alone):
    """The weighted sum of losses, from {name: weight}. Smoothing is the cross entropy's; class weights are
    the cross entropy's and the focal loss's: the others count all classes alike as they are."""
    options = {"ce": {"weights": weights, "smoothing": label_smoothing}, "focal": {"weights": weights}}
    return lambda logits, labels: sum(
        weight * LOSSES[name](logits, labels, total=total, **options.get(name, {}))
        for name, weight in loss.items())


def main(settings, run):
    patch, data, own = settings["input"]["patch_size"], settings["data"], settings["model"]
    row, per = "{:<20}{:>12}{:>8}{:>10}  {}".format, f"per patch of {patch} px"
    print(f"{json.dumps(own)}\n\n{row('model.encoder', 'parameters', 'GFLOP', 'to train', per)}")
    with keras.StatelessScope(initialize_variables=False):  # of networks that are only counted
        for encoder in ("none", *ENCODERS):
            like = {**own, "encoder": encoder, "stem": max(own["stem"], 1 if encoder == "none" else 2)}
            model = own if encoder == own["encoder"] else {**like, "weights": "imagenet", "rgb": [None] * 3}
            if patch % coarsest(model):
                print(row(encoder, "-", "-", "-", f"needs patches of a multiple of {coarsest(model)} px"))
                continue
            parameters, operations = count_operations(patch, bands=count_bands(data),
                                                      classes=len(data["classes"]), **model)
            cost = f"{parameters:,}", f"{operations / 1e9:.2f}", f"{3 * operations / 1e9:.1f}"
            print(row(encoder, *cost, about_weights(encoder, model["weights"])), flush=True)


if __name__ == "__main__":
    command(main, __doc__)
