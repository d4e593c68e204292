"""The residual U-Net, its losses, the one-cycle schedules and the optimiser.

Only `keras` and `keras.ops`: runs on any Keras backend, and a saved network loads anywhere as stock layers.

    python model.py --params demo.yaml     prints parameters and GFLOP per patch of that file's network
"""
import json
import math

from command import command
from files import quiet_stderr
from params import count_bands

with quiet_stderr():
    import keras
    from keras import layers, ops

BN_MOMENTUM = 0.9  # moving statistics follow about the last ten batches: schedules end with tiny steps, so these fit
DILATIONS = (1, 2, 4, 8)


# -- the network ------------------------------------------------------------------------------------------------------

def convolve(x, filters, name, dilation=1, synchronized=False):
    """3 x 3 convolution, ReLU, batch normalisation."""
    x = layers.Conv2D(filters, 3, padding="same", dilation_rate=dilation, activation="relu",
                      kernel_initializer="he_normal", name=f"{name}_conv")(x)
    return layers.BatchNormalization(momentum=BN_MOMENTUM, synchronized=synchronized, name=f"{name}_norm")(x)


def residual_block(x, filters, name, residual, synchronized):
    """Two convolutions whose result is joined to the block's input: concatenated, or added (He et al. 2016), then
    with a 1 x 1 projection where the widths differ."""
    inside = convolve(x, filters, f"{name}a", synchronized=synchronized)
    inside = convolve(inside, filters, f"{name}b", synchronized=synchronized)
    if residual == "concat":
        return layers.Concatenate(name=f"{name}_join")([x, inside])
    if x.shape[-1] != filters:
        x = layers.Conv2D(filters, 1, kernel_initializer="he_normal", name=f"{name}_project")(x)
    return layers.Add(name=f"{name}_join")([x, inside])


def centre_block(x, filters, centre, residual, synchronized):
    """The lowest level: a plain residual block, or dilated convolutions one after the other (`serial`) or side by
    side (`parallel`), whose outputs are all concatenated (multi-scale context: Yu & Koltun 2016, Chen et al. 2017)."""
    if centre == "plain":
        return residual_block(x, filters, "centre", residual, synchronized)
    outputs = []
    for dilation in DILATIONS:
        source = outputs[-1] if outputs and centre == "serial" else x
        outputs.append(convolve(source, filters, f"centre{dilation}", dilation, synchronized))
    return layers.Concatenate(name="centre_join")(outputs)


def build_network(bands, classes, width, depth, residual, centre, synchronized=False, size=None):
    """The residual U-Net as a stock functional model (Ronneberger et al. 2015, with residual blocks).

    Takes raw pixels [N, H, W, bands], 0..255 (uint8 or float); H and W must be multiples of 2**depth. Returns
    float32 probabilities [N, H, W, classes] that sum to 1. `size` fixes H = W. Width 32, depth 4, concat, serial,
    three bands and six classes give the published network: 16,533,368 parameters.
    """
    inputs = keras.Input((size, size, bands), dtype="uint8", name="pixels")
    x = layers.Rescaling(1 / 127.5, offset=-1, name="scale")(inputs)
    skips = []
    for level in range(depth):
        x = residual_block(x, width * 2**level, f"down{level}", residual, synchronized)
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"pool{level}")(x)
    x = centre_block(x, width * 2**depth, centre, residual, synchronized)
    for level in reversed(range(depth)):
        x = layers.Conv2DTranspose(width * 2**level, 2, strides=2, kernel_initializer="he_normal",
                                   name=f"grow{level}")(x)
        x = layers.Concatenate(name=f"skip{level}")([x, skips[level]])
        x = residual_block(x, width * 2**level, f"up{level}", residual, synchronized)
    x = layers.Conv2D(classes, 1, name="logits", dtype="float32")(x)
    return keras.Model(inputs, layers.Softmax(name="probabilities", dtype="float32")(x), name="residual_unet")


def logits_of(network):
    """The same network, sharing its weights, up to the logits before the softmax: what the losses take."""
    return keras.Model(network.input, network.get_layer("logits").output)


def count_operations(patch_size, **network):
    """(parameters, floating-point operations) of one forward pass over a square patch, an addition and a
    multiplication counted as two. Only convolutions count; the rest is under one per cent."""
    built = build_network(**network, size=patch_size)
    operations = 0
    for layer in built.layers:
        if isinstance(layer, layers.Conv2DTranspose):  # each input pixel meets the whole kernel
            operations += 2 * math.prod(layer.kernel.shape) * math.prod(layer.input.shape[1:3])
        elif isinstance(layer, layers.Conv2D):
            operations += 2 * math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:3])
    return built.count_params(), operations


# -- losses: logits (float32 [N, H, W, C]) and labels (uint8 [N, H, W]) to a scalar; IGNORE counts nothing ------------

def split_ignored(logits, labels):
    """(log-probabilities [N, H, W, C], one-hot labels [N, H, W, C], all zero where the label is IGNORE)."""
    labels = ops.cast(labels, "int32")
    return ops.log_softmax(logits, axis=-1), ops.one_hot(labels, logits.shape[-1], dtype="float32")


def cross_entropy(logits, labels):
    """Mean over the labelled pixels of -log p(label); 0 where no pixel is labelled."""
    logs, truth = split_ignored(logits, labels)
    return -ops.sum(truth * logs) / ops.maximum(ops.sum(truth), 1.0)


def focal(logits, labels, gamma=2.0):
    """Cross entropy weighted by (1 - p(label))**gamma, so that easy pixels count little (Lin et al. 2017)."""
    logs, truth = split_ignored(logits, labels)
    return -ops.sum(truth * (1 - ops.exp(logs)) ** gamma * logs) / ops.maximum(ops.sum(truth), 1.0)


def jaccard(logits, labels):
    """1 - soft intersection over union, over the batch, mean of the classes present in its labels
    (Rahman & Wang 2016); 0 where no pixel is labelled."""
    logs, truth = split_ignored(logits, labels)
    labelled = ops.sum(truth, axis=-1, keepdims=True)
    probabilities = ops.exp(logs) * labelled
    both = ops.sum(truth * probabilities, axis=(0, 1, 2))
    pixels = ops.sum(truth, axis=(0, 1, 2))
    union = pixels + ops.sum(probabilities, axis=(0, 1, 2)) - both
    present = ops.cast(pixels > 0, "float32")
    return ops.sum(present * (1 - both / ops.maximum(union, 1e-7))) / ops.maximum(ops.sum(present), 1.0)


LOSSES = {"ce": cross_entropy, "focal": focal, "jaccard": jaccard}


def build_loss(weights):
    """The weighted sum of losses, from {name: weight}."""
    return lambda logits, labels: sum(weight * LOSSES[name](logits, labels) for name, weight in weights.items())


# -- schedules and optimiser ------------------------------------------------------------------------------------------

@keras.saving.register_keras_serializable("potsdam")
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """Cosine from `start` to `peak` over the first 30 % of `steps` updates, then cosine to `end` (Smith 2018, as in
    fastai's fit_one_cycle). A pure function of the step: a resumed run goes on exactly. Past the last step: `end`."""

    def __init__(self, start, peak, end, steps, rise=0.3):
        self.start, self.peak, self.end, self.steps, self.rise = start, peak, end, steps, rise

    def __call__(self, step):
        part = ops.clip(ops.cast(step, "float32") / max(self.steps - 1, 1), 0.0, 1.0)
        up = self.start + (self.peak - self.start) * (1 - ops.cos(math.pi * part / self.rise)) / 2
        down = self.peak + (self.end - self.peak) * (1 - ops.cos(math.pi * (part - self.rise) / (1 - self.rise))) / 2
        return ops.where(part < self.rise, up, down)

    def get_config(self):
        return {"start": self.start, "peak": self.peak, "end": self.end, "steps": self.steps, "rise": self.rise}


@keras.saving.register_keras_serializable("potsdam")
class Exponential(keras.optimizers.schedules.LearningRateSchedule):
    """From `start` to `end` by the same factor at every one of `steps` updates (the range test of Smith 2017)."""

    def __init__(self, start, end, steps):
        self.start, self.end, self.steps = start, end, steps

    def __call__(self, step):
        part = ops.cast(step, "float32") / max(self.steps - 1, 1)
        return self.start * ops.exp(part * math.log(self.end / self.start))

    def get_config(self):
        return {"start": self.start, "end": self.end, "steps": self.steps}


def at(schedule, step):
    """The value of a schedule, or of a constant, at a step: a tensor where it is a schedule."""
    return schedule(step) if callable(schedule) else schedule


@keras.saving.register_keras_serializable("potsdam")
class ScheduledSGD(keras.optimizers.SGD):
    """SGD with Nesterov momentum in which the momentum, too, follows a schedule.

    Keras keeps `momentum` as a Python number that is fixed once the step is traced; here it is read in the graph,
    from `momentum_schedule` at the optimiser's own step.
    """

    def __init__(self, learning_rate, momentum_schedule, **options):
        super().__init__(learning_rate=learning_rate, momentum=0.9, nesterov=True, **options)  # 0.9: makes the slots
        self.momentum_schedule = from_config(momentum_schedule)

    def update_step(self, gradient, variable, learning_rate):
        rate = ops.cast(learning_rate, variable.dtype)
        momentum = ops.cast(at(self.momentum_schedule, self._iterations), variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        slot = self.momentums[self._get_variable_index(variable)]
        velocity = momentum * ops.cast(slot, variable.dtype) - rate * gradient
        self.assign(slot, velocity)
        self.assign_add(variable, momentum * velocity - rate * gradient)

    def get_config(self):
        return with_schedule(super().get_config(), self.momentum_schedule, "momentum", "nesterov")


@keras.saving.register_keras_serializable("potsdam")
class ScheduledAdamW(keras.optimizers.AdamW):
    """AdamW (Loshchilov & Hutter 2019) whose beta_1 follows a schedule, as the one-cycle policy asks.

    The bias correction takes the present beta_1 to the power of the step, as in PyTorch.
    """

    def __init__(self, learning_rate, momentum_schedule, **options):
        super().__init__(learning_rate=learning_rate, **options)
        self.momentum_schedule = from_config(momentum_schedule)

    def update_step(self, gradient, variable, learning_rate):
        rate, gradient = ops.cast(learning_rate, variable.dtype), ops.cast(gradient, variable.dtype)
        beta = ops.cast(at(self.momentum_schedule, self._iterations), variable.dtype)
        step = ops.cast(self._iterations + 1, variable.dtype)
        rate = rate * ops.sqrt(1 - ops.power(self.beta_2, step)) / (1 - ops.power(beta, step))
        index = self._get_variable_index(variable)
        mean, square = self._momentums[index], self._velocities[index]
        self.assign_add(mean, (gradient - mean) * (1 - beta))
        self.assign_add(square, (ops.square(gradient) - square) * (1 - self.beta_2))
        self.assign_sub(variable, mean * rate / (ops.sqrt(square) + self.epsilon))

    def get_config(self):
        return with_schedule(super().get_config(), self.momentum_schedule, "beta_1")


def from_config(schedule):
    """A schedule from its configuration; a schedule or a constant as it is."""
    return keras.saving.deserialize_keras_object(schedule) if isinstance(schedule, dict) else schedule


def with_schedule(config, schedule, *replaced):
    """An optimiser's configuration with its momentum schedule in place of the fixed values."""
    config = {key: value for key, value in config.items() if key not in replaced}
    config["momentum_schedule"] = keras.saving.serialize_keras_object(schedule) if callable(schedule) else schedule
    return config


def build_optimizer(optimizer, learning_rate, momentum, weight_decay):
    """`sgd` or `adamw` with schedules (or constants) for learning rate and momentum (adamw: beta_1)."""
    if optimizer == "adamw":
        return ScheduledAdamW(learning_rate, momentum, weight_decay=float(weight_decay))
    return ScheduledSGD(learning_rate, momentum, weight_decay=weight_decay or None)


def main(settings, run):
    patch, classes = settings["input"]["patch_size"], settings["data"]["classes"]
    parameters, operations = count_operations(patch, bands=count_bands(settings["data"]), classes=len(classes),
                                              **settings["model"])
    print(f"{json.dumps(settings['model'])}: {parameters:,} parameters, {operations / 1e9:.2f} GFLOP forward "
          f"per {patch} px patch, about {3 * operations / 1e9:.1f} to train on it")


if __name__ == "__main__":
    command(main, __doc__)
