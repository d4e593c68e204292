"""The training and validation step, on one device or many, and checkpoints: what the finder and the run share."""
import hashlib
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np

from files import Problem, quiet_stderr, replacing, sha256
from model import build_loss, build_network, build_optimizer, logits_of
from params import count_bands
from tiles import made_with, read_manifest

with quiet_stderr():
    import keras
    import tensorflow as tf


def choose_strategy():
    """All GPUs of this machine together where there are several, else the one device."""
    several = len(tf.config.list_physical_devices("GPU")) > 1
    return tf.distribute.MirroredStrategy() if several else tf.distribute.get_strategy()


class Trainer:
    """A network with its optimiser and loss, and the two compiled steps.

    `learning_rate` and `momentum` are schedules of the step or constants. The loss of a step is the mean of the
    replicas' losses; gradients are summed over replicas, so one update sees the whole batch.
    """

    def __init__(self, settings, learning_rate, momentum):
        train, data = settings["train"], settings["data"]
        self.settings, self.classes, self.bands = settings, len(data["classes"]), count_bands(data)
        self.strategy = choose_strategy()
        if settings["input"]["batch_size"] % self.strategy.num_replicas_in_sync:
            raise Problem(f"settings, key input.batch_size: {settings['input']['batch_size']}, expected a multiple of "
                          f"the {self.strategy.num_replicas_in_sync} devices", code=2)
        keras.utils.set_random_seed(settings["seed"])
        keras.mixed_precision.set_global_policy("mixed_float16" if train["mixed_precision"] else "float32")
        with self.strategy.scope():
            self.network = build_network(self.bands, self.classes, **settings["model"],
                                         synchronized=self.strategy.num_replicas_in_sync > 1)
            self.logits = logits_of(self.network)
            self.optimizer = build_optimizer(train["optimizer"], learning_rate, momentum, train["weight_decay"])
            if train["mixed_precision"]:
                self.optimizer = keras.optimizers.LossScaleOptimizer(self.optimizer)
            self.optimizer.build(self.network.trainable_variables)
        self.loss = build_loss(train["loss"])
        self._train = tf.function(self._train_replicas, jit_compile=train["jit"], reduce_retracing=True)
        self._validate = tf.function(self._validate_replicas, jit_compile=train["jit"], reduce_retracing=True)

    def _part(self, pixels):
        """Images (uint8 [N, P, P, B]) and labels (uint8 [N, P, P]) of a batch."""
        return pixels[..., : self.bands], pixels[..., self.bands]

    def _count(self, logits, labels):
        """Confusion matrix (int32 [C, C]) of a batch; IGNORE is counted in a row of its own, which is cut off."""
        truth = tf.minimum(tf.cast(labels, tf.int32), self.classes)
        predicted = tf.argmax(logits, -1, output_type=tf.int32)
        counts = tf.math.confusion_matrix(tf.reshape(truth, [-1]), tf.reshape(predicted, [-1]), self.classes + 1)
        return counts[: self.classes, : self.classes]

    def _train_replica(self, pixels):
        images, labels = self._part(pixels)
        with tf.GradientTape() as tape:
            logits = self.logits(images, training=True)
            loss = self.loss(logits, labels)
            scaled = self.optimizer.scale_loss(loss / self.strategy.num_replicas_in_sync)
        variables = self.network.trainable_variables
        self.optimizer.apply(tape.gradient(scaled, variables), variables)
        return loss, self._count(logits, labels)

    def _validate_replica(self, pixels):
        images, labels = self._part(pixels)
        logits = self.logits(images, training=False)
        return self.loss(logits, labels), self._count(logits, labels)

    def _train_replicas(self, pixels):
        return self._together(self.strategy.run(self._train_replica, (pixels,)))

    def _validate_replicas(self, pixels):
        return self._together(self.strategy.run(self._validate_replica, (pixels,)))

    def _together(self, result):
        loss, confusion = result
        return (self.strategy.reduce("MEAN", loss, axis=None),
                self.strategy.reduce("SUM", confusion, axis=None))

    def spread(self, dataset):
        """The dataset with its batches divided over the devices."""
        one = self.strategy.num_replicas_in_sync == 1
        return dataset if one else self.strategy.experimental_distribute_dataset(dataset)

    def train_step(self, pixels):
        """One update by a batch of `pipeline.batches`; (loss float32, confusion int32 [C, C]) as tensors, not yet
        waited for."""
        return self._train(pixels)

    def validate(self, dataset):
        """(loss, confusion int64 [C, C]) over a whole dataset; the loss is a mean weighted by labelled pixels."""
        total, confusion = 0.0, np.zeros((self.classes, self.classes), np.int64)
        for pixels in self.spread(dataset):
            loss, counts = self._validate(pixels)
            counts = counts.numpy()
            total += float(loss) * counts.sum()
            confusion += counts
        return total / max(confusion.sum(), 1), confusion


# -- what a result was made from ------------------------------------------------------------------------------------

def identity(settings):
    """What a training is made from: the settings that it reads and the bytes of its tiles."""
    manifest = read_manifest(settings["data"]["prepared"])["tiles"]
    tiles = settings["split"]["train"] + settings["split"]["val"]
    return {**{section: settings[section] for section in ("seed", "input", "augment", "model", "train")},
            "data": {key: value for key, value in made_with(settings["data"]).items() if key != "raw"},
            "split": {role: settings["split"][role] for role in ("train", "val")},
            "tiles": {tile: {kind: file["sha256"] for kind, file in manifest[tile]["files"].items()} for tile in tiles
                      if tile in manifest}}


def fingerprint(made_from, *scripts):
    """SHA-256 of what a result was made from and of the code that made it: these scripts and what they share."""
    shared = ("training.py", "model.py", "pipeline.py", "patches.py", "tiles.py")
    code = [sha256(Path(__file__).parent / name) for name in (*scripts, *shared)]
    return hashlib.sha256(json.dumps([made_from, code]).encode()).hexdigest()


# -- checkpoints ------------------------------------------------------------------------------------------------------

def save_checkpoint(folder, trainer, state):
    """Writes epoch_<n>.npz: every weight, the optimiser's variables and `state` (JSON); keeps the last two."""
    arrays = {f"network_{i}": v.numpy() for i, v in enumerate(trainer.network.variables)}
    arrays.update({f"optimizer_{i}": v.numpy() for i, v in enumerate(trainer.optimizer.variables)})
    arrays["state"] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    with replacing(folder / f"epoch_{state['epoch']:05d}.npz") as temporary:
        np.savez(temporary, **arrays)
    for old in sorted(folder.glob("epoch_*.npz"))[:-2]:
        old.unlink()


def load_checkpoint(folder):
    """(path, arrays, state) of the newest checkpoint that is whole, or None; says which damaged one is passed over."""
    for path in sorted(folder.glob("epoch_*.npz"), reverse=True):
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}  # reading checks the zip's CRCs
            return path, arrays, json.loads(arrays.pop("state").tobytes())
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            print(f"checkpoint {path}: damaged ({error}); going back to the one before", flush=True)
    return None


def restore(trainer, path, arrays):
    """Puts a checkpoint's arrays into the network and the optimiser."""
    for prefix, variables in (("network", trainer.network.variables), ("optimizer", trainer.optimizer.variables)):
        for i, variable in enumerate(variables):
            array = arrays.get(f"{prefix}_{i}")
            if array is None or array.shape != tuple(variable.shape):
                raise Problem(f"checkpoint {path}: not of this network, expected {variable.path} "
                              f"{tuple(variable.shape)}; remove the folder to start anew", code=2)
            variable.assign(array)
