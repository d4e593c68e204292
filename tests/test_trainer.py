import json
import time

import numpy as np
import pytest

import prepare_data
import train
import trainer
from base.problem import Problem
from imagery.tiles import manifest_text, pack, read_manifest
from learning.checkpoints import load_checkpoint
from learning.optimizers import OneCycle
from learning.workers import choose_strategy
from trainer import Trainer, class_weights, tf


@pytest.fixture
def prepared(project, settings):
    prepare_data.main(settings, project / "runs/tiny")
    return project


def test_the_network_learns_one_batch_by_heart(settings):
    settings["train"].update(optimizer="adamw", loss={"ce": 1, "jaccard": 1})
    trainer = Trainer(settings, 0.01, 0.9, choose_strategy())
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    labels = (images[..., 0] // 43).clip(0, 5).astype(np.uint8)
    pixels = pack(images.reshape(32, 16, 3), labels.reshape(32, 16)).reshape(2, 16, 16, 4)
    for _ in range(150):
        loss, confusion = trainer.train_step(pixels)
    assert np.trace(confusion.numpy()) / confusion.numpy().sum() > 0.98


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    labels = (images[..., 0] // 43).clip(0, 5).astype(np.uint8)
    return pack(images.reshape(64, 16, 3), labels.reshape(64, 16)).reshape(4, 16, 16, 4)


def test_the_average_follows_the_weights_and_is_what_validates_and_is_saved(
    prepared, settings, batch, monkeypatch
):
    settings["train"]["ema"] = 0.5
    trainer = Trainer(settings, OneCycle(*[0.05] * 3, 8), OneCycle(*[0.9] * 3, 8), choose_strategy())
    mean = [variable.numpy() for variable in trainer.network.variables]
    for step in range(1, 13):
        trainer.train_step(batch)
        keep = min(0.5, (1 + step) / (10 + step))
        mean = [keep * m + (1 - keep) * v.numpy() for m, v in zip(mean, trainer.network.variables)]
    for expected, found in zip(mean, trainer.averaged.variables):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    shown = np.argmax(trainer.averaged(batch[..., :3]), -1)
    counts = np.zeros((6, 6), int)
    np.add.at(counts, (batch[..., 3], shown), 1)
    np.testing.assert_array_equal(trainer.validate([batch])[1], counts)
    assert (np.argmax(trainer.network(batch[..., :3]), -1) != shown).any()
    monkeypatch.setattr(train, "Trainer", lambda *_: trainer)
    train.main(settings, prepared / "runs/tiny")
    loaded = tf.keras.models.load_model(prepared / "runs/tiny/model.keras", compile=False)
    arrays = load_checkpoint(prepared / "runs/tiny/checkpoints")[1]
    best = json.loads((prepared / "runs/tiny/model.json").read_text())["epoch"]
    if best == settings["train"]["epochs"]:
        assert all(np.array_equal(w, arrays[f"averaged_{i}"]) for i, w in enumerate(loaded.get_weights()))


def test_the_norm_of_all_gradients_together_is_clipped(settings, batch):
    settings["train"].update(clip_norm=1e-3)
    trainer = Trainer(settings, 1.0, 0.0, choose_strategy())
    before = [variable.numpy() for variable in trainer.network.trainable_variables]
    trainer.train_step(batch)
    moved = [v.numpy() - b for v, b in zip(trainer.network.trainable_variables, before)]
    assert np.sqrt(sum((m.astype(float) ** 2).sum() for m in moved)) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("precision", [True, "bfloat16"])
def test_every_loss_is_finite_in_mixed_precision(settings, batch, precision):
    losses = {name: 1 for name in ("ce", "focal", "jaccard", "dice", "lovasz")}
    settings["train"].update(mixed_precision=precision, loss=losses, clip_norm=1, ema=0.9, max_lr=0.01)
    trainer = Trainer(settings, 0.01, 0.9, choose_strategy())
    values = [float(trainer.train_step(batch)[0]) for _ in range(8)]
    tf.keras.mixed_precision.set_global_policy("float32")
    assert np.isfinite(values).all() and values[-1] < values[0]
    assert all(np.isfinite(variable.numpy()).all() for variable in trainer.network.variables)
    assert trainer.network.output.dtype == "float32"


def test_class_weights_come_from_the_training_tiles_or_from_the_settings(prepared, settings):
    assert class_weights(settings) is None
    settings["train"]["class_weights"] = 1
    tiles = read_manifest("prepared")["tiles"]
    counts = [
        tiles["2_11"]["classes"][name] + tiles["3_10"]["classes"][name]
        for name in settings["data"]["classes"]
    ]
    products = np.multiply(class_weights(settings), counts)
    np.testing.assert_allclose(products, products[0])
    settings["train"]["class_weights"] = {name: i for i, name in enumerate(settings["data"]["classes"])}
    assert class_weights(settings) == [0, 1, 2, 3, 4, 5]


def test_weights_of_classes_that_are_nowhere_in_the_training_tiles_are_refused(prepared, settings):
    text = (prepared / "prepared/manifest.json").read_text()
    tiles = json.loads(text)["tiles"]
    for tile in ("2_11", "3_10"):
        tiles[tile]["classes"]["car"] = 0
    (prepared / "prepared/manifest.json").write_text(manifest_text(tiles))
    weights = dict.fromkeys(settings["data"]["classes"], 0)
    settings["train"]["class_weights"] = {**weights, "car": 2}
    with pytest.raises(
        Problem, match="train.class_weights: 0 for every class with labelled pixels"
    ) as caught:
        class_weights(settings)
    assert caught.value.code == 3
    settings["train"]["class_weights"] = {**weights, "car": 2, "tree": 1}
    assert class_weights(settings) == [0, 0, 0, 1, 2, 0]


def test_only_the_time_spent_waiting_for_data_is_counted():
    def slow():
        for item in range(3):
            time.sleep(0.05)
            yield item

    feed = trainer.Timed(slow())
    for _ in feed:
        time.sleep(0.1)
    assert 0.15 <= feed.waited < 0.3


def test_few_updates_are_under_way_at_a_time():
    """Else the time that the loop waits for data would say nothing about the device."""
    under_way, most = [], []

    class Later:
        def numpy(self):
            del under_way[: under_way.index(self) + 1]
            return 1.0

        def __float__(self):
            return 1.0

    class Device:
        classes = 2

        def train_step(self, pixels):
            under_way.append(Later())
            most.append(len(under_way))
            return under_way[-1], np.zeros((2, 2), np.int64).view(Counts)

    class Counts(np.ndarray):
        def numpy(self):
            return np.asarray(self)

    trainer.train_epoch(Device(), range(20), 1, 20, lambda step: 0.1, "")
    assert max(most) <= trainer.AHEAD + 1
