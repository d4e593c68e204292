"""The training and validation step and the epoch, on one device or many: what finder and run share."""
import contextlib
import functools
import math
import time
from pathlib import Path

import numpy as np

from base.command import progress, quiet_stderr
from base.problem import Problem
from base.settings import count_bands, name_colours
from base.tables import not_readable, read_facts
from imagery.scores import accuracy, mean_iou
from imagery.tiles import check_roles, open_tiles, read_manifest
from learning.beginnings import same_bands, weights_at_hand
from learning.encoders import is_encoders, load_weights
from learning.normalization import in_one_kernel
from learning.optimizers import build_optimizer
from learning.patches import colours_of
from learning.plans import plan_epoch, shard, validation_plan
from learning.workers import agree
from model import balance, build_loss, build_network, count_operations, logits_of
from pipeline import batches, repaint

with quiet_stderr():
    import keras
    import tensorflow as tf

POLICIES = {False: "float32", True: "mixed_float16", "bfloat16": "mixed_bfloat16"}  # of train.mixed_precision
AHEAD = 2  # updates that may be under way at a time


def shapes_of(network):
    """{layer: shapes of its weights} of a network's layers that have some."""
    return {layer.name: [tuple(weight.shape) for weight in layer.weights]
            for layer in network.layers if layer.weights}


def first_weights(network, settings):
    """Gives a fresh network its first weights where it does not keep those drawn at random: the encoder's,
    then those of the model train.start_from, which leaves an encoder of other bands its first kernel. Returns
    the lines that say so. Problem as of weights_at_hand, load_weights, start_from."""
    model, start = settings["model"], settings["train"]["start_from"]
    path, lines = weights_at_hand(settings), []
    if path:
        load_weights(network, model["encoder"], path, model["rgb"])
        lines = [f"first weights of {'encoder_stem' if start else 'the encoder'} from {path}; it sees bands "
                 f"{name_colours(settings['data']['bands'], model['rgb'])} as red, green, blue"]
    return [start_from(network, settings), *lines] if start else lines


def start_from(network, settings):
    """Gives a fresh network the weights of the model train.start_from, but for the layers that depend on the
    bands or the classes where these are others. Returns a line that says so. Problem where there is no such
    model (exit 3), or it is another network (exit 2)."""
    path = Path(settings["train"]["start_from"])
    facts, shapes = read_facts(path.parent), shapes_of(network)
    try:
        earlier = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras has no type of its own for what a file can do to it
        raise not_readable(path.parent, error) from None
    fresh = fresh_layers(shapes, settings, facts)
    changed = {layer for layers in fresh.values() for layer in layers}
    for layer in (layer for layer in shapes if layer not in changed):
        before = shapes_of(earlier).get(layer)
        if before != shapes[layer]:
            raise Problem(f"settings, key train.start_from: {path}, whose layer {layer} has weights of "
                          f"{before}, expected {shapes[layer]}; set model as in "
                          f"{path.with_name('params.yaml')}", code=2)
        network.get_layer(layer).set_weights(earlier.get_layer(layer).get_weights())
    return "; ".join([f"first weights from {path}", *(f"new {', '.join(layers)}, of other {what}"
                                                      for what, layers in fresh.items())])


def fresh_layers(shapes, settings, facts):
    """{"bands" or "classes": layers} of a network, of these `shapes`, that depend on the bands or classes
    which the settings do not share with an earlier model, of these `facts`."""
    data, fresh = settings["data"], {}
    bands, classes = count_bands(data), len(data["classes"])
    same = {"bands": same_bands(settings, facts), "classes": [*data["classes"]] == [*facts["classes"]]}
    for what, sizes in {"bands": (bands + 1, classes), "classes": (bands, classes + 1)}.items():
        if not same[what]:
            larger = shapes_of(build_network(*sizes, **settings["model"]))
            fresh[what] = [layer for layer in shapes if shapes[layer] != larger[layer]]
    return fresh


class Trainer:
    """A network with its optimiser and loss, and the two compiled steps; learning rate and momentum are
    schedules of the step or constants. However many devices share a batch, loss and normalisation are those
    of the whole batch, and gradients are summed: one update is the same as on one device. `network` is
    trained; `averaged` is validated and saved: the running mean of its weights, or, where train.ema is 0, the
    network itself. In the first `rest` updates the caller sets `frozen`, and the encoder stays as it is."""

    def __init__(self, settings, learning_rate, momentum, strategy, rest=0):
        train, patch, data = settings["train"], settings["input"], settings["data"]
        self.settings, self.train, self.patch = settings, train, patch
        self.classes, self.bands = len(data["classes"]), count_bands(data)
        self.rate, self.momentum = learning_rate, momentum
        self.strategy, self.devices = strategy, strategy.num_replicas_in_sync
        if patch["batch_size"] % self.devices:
            raise Problem(f"settings, key input.batch_size: {patch['batch_size']}, expected a multiple of "
                          f"the {self.devices} devices", code=2)
        if train["jit"] and self.devices > 1:
            raise Problem(f"settings, key train.jit: true, expected false on {self.devices} devices: "
                          "TensorFlow does not compile what they exchange", code=2)
        keras.utils.set_random_seed(settings["seed"])
        keras.mixed_precision.set_global_policy(POLICIES[train["mixed_precision"]])
        self.loss = build_loss(train["loss"], train["label_smoothing"], class_weights(settings), self._total)
        with strategy.scope():
            networks = [build_network(self.bands, self.classes, self.devices > 1, **settings["model"])
                        for _ in range(2 if train["ema"] else 1)]
            self.network, self.averaged = networks[0], networks[-1]
            self.begun = first_weights(self.network, settings)
            self.network.set_weights(agree(strategy, self.network.get_weights()))
            self.averaged.set_weights(self.network.get_weights())
            self.logits, self.judged = logits_of(self.network), logits_of(self.averaged)
            kind, decay = train["optimizer"], train["weight_decay"]
            shares = {variable.path: train["encoder_rate"] for layer in self.network.layers
                      if is_encoders(layer) for variable in layer.trainable_variables}
            self.optimizer = build_optimizer(kind, learning_rate, momentum, decay, shares, rest)
            if train["mixed_precision"] is True:
                self.optimizer = keras.optimizers.LossScaleOptimizer(self.optimizer)
            self.optimizer.build(self.network.trainable_variables)
        self._train = {frozen: tf.function(functools.partial(self._train_together, frozen),
                                           jit_compile=train["jit"], reduce_retracing=True)
                       for frozen in (False, True)}
        self.frozen = False
        self._validate = tf.function(lambda batch: self._together(self._validate_one, batch),
                                     jit_compile=train["jit"], reduce_retracing=True)

    def _total(self, tensor):
        """The sum of a tensor (or of each in a list) over the devices, inside a step."""
        return tensor if self.devices == 1 else tf.distribute.get_replica_context().all_reduce("SUM", tensor)

    def _count(self, logits, labels):
        """Confusion matrix (int32 [C, C]) of a batch; IGNORE has a row of its own, which is cut off."""
        truth = tf.reshape(tf.minimum(tf.cast(labels, tf.int32), self.classes), [-1])
        predicted = tf.reshape(tf.argmax(logits, -1, output_type=tf.int32), [-1])
        counts = tf.math.confusion_matrix(truth, predicted, self.classes + 1)
        return counts[: self.classes, : self.classes]

    def _train_one(self, pixels, *colours):
        if colours:
            pixels = repaint(pixels, *colours)
        images, labels = pixels[..., : self.bands], pixels[..., self.bands]
        with tf.GradientTape() as tape:
            logits = self.logits(images, training=True)
            loss = self.loss(logits, labels)
            scaled = self.optimizer.scale_loss(loss / self.devices)  # each device has the whole batch's
        variables = self.network.trainable_variables
        gradients = tape.gradient(scaled, variables)
        if self.train["clip_norm"]:  # of all gradients together, over all devices
            scale = getattr(self.optimizer, "dynamic_scale", 1.0)  # by which float16 training scaled the loss
            norm = tf.linalg.global_norm(self._total(gradients)) / tf.cast(scale, tf.float32)
            factor = tf.minimum(1.0, self.train["clip_norm"] / norm)
            gradients = [gradient * tf.cast(factor, gradient.dtype) for gradient in gradients]
        self.optimizer.apply(gradients, variables)
        return loss, self._count(logits, labels)

    def _validate_one(self, pixels):
        images, labels = pixels[..., : self.bands], pixels[..., self.bands]
        logits = self.judged(images, training=False)
        return self.loss(logits, labels), self._count(logits, labels)

    def _together(self, one, batch):
        """What `one` step returns on all devices together."""
        loss, confusion = self.strategy.run(one, batch)
        return self.strategy.reduce("MEAN", loss, None), self.strategy.reduce("SUM", confusion, None)

    def _train_together(self, frozen, batch):
        with encoder_at_rest(self.network, frozen), in_one_kernel(self.network):  # devices take turns
            result = self._together(self._train_one, batch)
        if self.averaged is not self.network:
            step = tf.cast(self.optimizer.iterations, tf.float32)
            keep = tf.minimum(self.train["ema"], (1 + step) / (10 + step))  # a short past at first
            for mean, variable in zip(self.averaged.variables, self.network.variables):
                mean.assign(keep * mean + (1 - keep) * variable)
        return result

    def training_batches(self, tiles, epoch):
        """A dataset of this process's part of an epoch's batches (`plan_epoch`), divided over its devices."""
        return self._feed(tiles, plan_epoch(tiles, self.settings, epoch), colours_of(self.settings))

    def validation_batches(self, tiles):
        """The same of batches that cover every tile (`validation_plan`)."""
        return self._feed(tiles, validation_plan(tiles, self.patch["patch_size"], self.patch["batch_size"]))

    def _feed(self, tiles, plan, colours=None):
        side, batch_size = self.patch["patch_size"], self.patch["batch_size"]

        def part(context):
            own = shard(plan, batch_size, context.input_pipeline_id, context.num_input_pipelines)
            return batches(tiles, own.reshape(-1, batch_size // self.devices), side, colours)

        return self.strategy.distribute_datasets_from_function(part)

    def train_step(self, batch):
        """One update by a batch, as of pipeline.batches; loss (float32), confusion (int32 [C, C]), not yet
        waited for."""
        return self._train[self.frozen](batch)

    def validate(self, dataset):
        """(loss, confusion int64 [C, C]) over a dataset; the loss is a mean weighted by labelled pixels."""
        total, confusion = 0.0, np.zeros((self.classes, self.classes), np.int64)
        for batch in dataset:
            loss, counts = self._validate(batch)
            counts = counts.numpy()
            total += float(loss) * counts.sum()
            confusion += counts
        return total / max(confusion.sum(), 1), confusion

    def cost(self):
        """(parameters, floating-point operations of a forward pass over one patch) of the network."""
        return count_operations(self.patch["patch_size"], bands=self.bands, classes=self.classes,
                                **self.settings["model"])

    def variables(self):
        """{name: variable} of everything that an update changes: what a checkpoint holds."""
        groups = {"network": self.network.variables, "optimizer": self.optimizer.variables}
        if self.averaged is not self.network:
            groups["averaged"] = self.averaged.variables
        return {f"{group}_{i}": variable for group in groups for i, variable in enumerate(groups[group])}


@contextlib.contextmanager
def encoder_at_rest(network, frozen):
    """Where it is `frozen`, the encoder of a network is not trainable meanwhile: a step traced here computes
    no gradients for it, and it normalises by its moving statistics, which stay."""
    own = [layer for layer in network.layers if frozen and is_encoders(layer)]
    for layer in own:
        layer.trainable = False
    try:
        yield
    finally:
        for layer in own:
            layer.trainable = True


def answer_of(path):
    """A function of patches (uint8 [N, P, P, B], N always alike) that gives the probabilities (float32 [N, P,
    P, C]) of the network in the file at `path`."""
    network = keras.models.load_model(path, compile=False, safe_mode=True)
    answer = tf.function(lambda patches: network(patches, training=False), reduce_retracing=True)
    return lambda patches: answer(patches).numpy()


def open_roles(settings, *roles):
    """{role: its prepared tiles}, memory-mapped; Problem (exit 3) where a role has no labelled pixel."""
    names = {role: settings["split"][role] for role in roles}
    tiles = {role: open_tiles(settings["data"], names[role]) for role in roles}
    check_roles(names, read_manifest(settings["data"]["prepared"]))
    return tiles


def class_weights(settings):
    """The weight of every class in the losses, by train.class_weights, or None where all weigh alike. Problem
    (exit 3) where only classes that are nowhere in the training tiles weigh something."""
    wanted, classes = settings["train"]["class_weights"], list(settings["data"]["classes"])
    if wanted == 0:
        return None
    tiles = read_manifest(settings["data"]["prepared"])["tiles"]
    counts = [sum(tiles[tile]["classes"][name] for tile in settings["split"]["train"]) for name in classes]
    if not isinstance(wanted, dict):
        return balance(counts, wanted)
    weights = [wanted[name] for name in classes]
    if not np.dot(weights, counts):
        raise Problem("settings, key train.class_weights: 0 for every class with labelled pixels in "
                      "split.train, expected more than 0 for one of them; raise it", code=3)
    return weights


def check_finite(loss, what, epoch, step, rate):
    """Problem (exit 5) where a loss is not finite; `step` counts from 0 over the whole run."""
    if not math.isfinite(loss):
        raise Problem(f"training diverged: {what} {loss} in epoch {epoch}, step {step + 1}, learning rate "
                      f"{float(rate(step)):.3g}, expected a finite one; lower train.max_lr"
                      + (" and remove the folder checkpoints; the best model of the earlier epochs is kept"
                         if epoch > 1 else ""), code=5)


class Timed:
    """Goes through an iterable and adds up the seconds spent waiting for its next item: with few updates
    under way an upper bound of what the device waits, and near it where the device is the slower one."""

    def __init__(self, items):
        self.items, self.waited = items, 0.0

    def __iter__(self):
        asked = time.monotonic()
        for item in self.items:
            self.waited += time.monotonic() - asked
            yield item
            asked = time.monotonic()


def train_epoch(trainer, dataset, epoch, steps, rate, head):
    """(loss, confusion int64 [C, C]) of one epoch; shows loss, accuracy and mean IoU while it runs."""
    confusion, losses, pending = np.zeros((trainer.classes,) * 2, np.int64), [], []

    def collect():
        for loss, counts in pending:
            check_finite(float(loss), "loss", epoch, (epoch - 1) * steps + len(losses), rate)
            losses.append(float(loss))
            np.add(confusion, counts.numpy(), out=confusion)
        pending.clear()

    seen = time.monotonic()
    for step, batch in enumerate(dataset, 1):
        pending.append(trainer.train_step(batch))
        if len(pending) > AHEAD:  # else the time waited for data would not be the device's
            pending[-AHEAD - 1][0].numpy()
        if time.monotonic() - seen > 0.5 or step == steps:  # between looks the device runs ahead
            collect()
            seen = time.monotonic()
            done = 20 * step // steps
            progress(f"{head} [{'=' * done}{'.' * (20 - done)}] {step}/{steps}  loss {np.mean(losses):.4f}  "
                     f"accuracy {accuracy(confusion):.4f}  mean IoU {mean_iou(confusion):.4f}")
    return float(np.mean(losses)), confusion
