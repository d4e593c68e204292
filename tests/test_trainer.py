import json
import time
from pathlib import Path

import numpy as np
import pytest
from pretrained import LITE0, on_small_encoder, write_small_encoder
from untrained import write_run

import prepare_data
import train
import trainer
from base.problem import Problem
from base.tables import write_record
from imagery.tiles import manifest_text, pack, read_manifest
from learning.checkpoints import load_checkpoint
from learning.encoders import is_encoders
from learning.optimizers import OneCycle
from learning.workers import choose_strategy
from pipeline import repaint
from trainer import Trainer, class_weights, keras, tf


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
        loss, confusion = trainer.train_step((pixels,))
    assert np.trace(confusion.numpy()) / confusion.numpy().sum() > 0.98


def four_patches(side):
    """A batch of four patches of noise, labelled by the brightness of their red."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, side, side, 3)).astype(np.uint8)
    labels = (images[..., 0] // 43).clip(0, 5).astype(np.uint8)
    return pack(images.reshape(-1, side, 3), labels.reshape(-1, side)).reshape(4, side, side, 4)


@pytest.fixture
def batch():
    return four_patches(16)


def test_the_average_follows_the_weights_and_is_what_validates_and_is_saved(
    prepared, settings, batch, monkeypatch
):
    settings["train"]["ema"] = 0.5
    trainer = Trainer(settings, OneCycle(*[0.05] * 3, 8), OneCycle(*[0.9] * 3, 8), choose_strategy())
    mean = [variable.numpy() for variable in trainer.network.variables]
    for step in range(1, 13):
        trainer.train_step((batch,))
        keep = min(0.5, (1 + step) / (10 + step))
        mean = [keep * m + (1 - keep) * v.numpy() for m, v in zip(mean, trainer.network.variables)]
    for expected, found in zip(mean, trainer.averaged.variables):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    shown = np.argmax(trainer.averaged(batch[..., :3]), -1)
    counts = np.zeros((6, 6), int)
    np.add.at(counts, (batch[..., 3], shown), 1)
    np.testing.assert_array_equal(trainer.validate([(batch,)])[1], counts)
    assert (np.argmax(trainer.network(batch[..., :3]), -1) != shown).any()
    monkeypatch.setattr(train, "Trainer", lambda *_: trainer)
    train.main(settings, prepared / "runs/tiny")
    loaded = tf.keras.models.load_model(prepared / "runs/tiny/model.keras", compile=False)
    arrays = load_checkpoint(prepared / "runs/tiny/checkpoints")[1]
    best = json.loads((prepared / "runs/tiny/model.json").read_text())["epoch"]
    if best == settings["train"]["epochs"]:
        assert all(np.array_equal(w, arrays[f"averaged_{i}"]) for i, w in enumerate(loaded.get_weights()))


def test_colours_are_changed_before_the_network_sees_a_patch(settings, batch):
    """A step with matrices and offsets is that of the patches as they are then."""
    rng = np.random.default_rng(0)
    colours = rng.uniform(0, 0.5, (4, 3, 3)).astype(np.float32), rng.uniform(0, 9, (4, 3)).astype(np.float32)
    values = []
    for parts in ((batch, *colours), (repaint(batch, *colours).numpy(),), (batch,)):
        trainer = Trainer(settings, 0.01, 0.9, choose_strategy())
        values.append([float(trainer.train_step(parts)[0]) for _ in range(2)])
    assert values[0] == pytest.approx(values[1], rel=1e-5) != pytest.approx(values[2], rel=1e-3)


def test_the_norm_of_all_gradients_together_is_clipped(settings, batch):
    settings["train"].update(clip_norm=1e-3)
    trainer = Trainer(settings, 1.0, 0.0, choose_strategy())
    before = [variable.numpy() for variable in trainer.network.trainable_variables]
    trainer.train_step((batch,))
    moved = [v.numpy() - b for v, b in zip(trainer.network.trainable_variables, before)]
    assert np.sqrt(sum((m.astype(float) ** 2).sum() for m in moved)) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("precision", [True, "bfloat16"])
def test_every_loss_is_finite_in_mixed_precision(settings, batch, precision):
    losses = {name: 1 for name in ("ce", "focal", "jaccard", "dice", "lovasz")}
    settings["train"].update(mixed_precision=precision, loss=losses, clip_norm=1, ema=0.9, max_lr=0.01)
    trainer = Trainer(settings, 0.01, 0.9, choose_strategy())
    values = [float(trainer.train_step((batch,))[0]) for _ in range(8)]
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


# -- first weights from another run -----------------------------------------------------------------------


@pytest.fixture
def earlier(tmp_path, monkeypatch, settings):
    """Settings that start from a run of the same bands and classes, and that run's network."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs/a", settings)
    settings["train"]["start_from"] = "runs/a/model.keras"
    return settings, keras.models.load_model("runs/a/model.keras", compile=False)


def carried(trainer, earlier):
    """The layers with weights whose weights are those of an earlier network, and those that are not."""
    layers = [layer for layer in trainer.network.layers if layer.weights]
    same = {}
    for layer in layers:
        pairs = zip(layer.get_weights(), earlier.get_layer(layer.name).get_weights())
        same.setdefault(all(np.array_equal(*pair) for pair in pairs), []).append(layer.name)
    return same.get(True, []), same.get(False, [])


def test_a_training_starts_from_all_weights_of_an_earlier_one(earlier):
    settings, network = earlier
    settings["seed"], settings["train"]["ema"] = 7, 0.9
    trainer = Trainer(settings, 0.01, 0.9, choose_strategy())
    assert carried(trainer, network)[1] == [] and trainer.begun == ["first weights from runs/a/model.keras"]
    for mean, own in zip(trainer.averaged.get_weights(), trainer.network.get_weights()):
        np.testing.assert_array_equal(mean, own)


@pytest.mark.parametrize("residual, stem", [("concat", 1), ("add", 2)])
def test_other_classes_or_bands_get_new_layers_that_are_named(
    tmp_path, monkeypatch, settings, residual, stem
):
    monkeypatch.chdir(tmp_path)
    settings["model"].update(residual=residual, stem=stem, depth=1)
    write_run(tmp_path / "runs/a", settings)
    network = keras.models.load_model("runs/a/model.keras", compile=False)
    settings["seed"], settings["train"]["start_from"] = 7, "runs/a/model.keras"
    settings["data"]["classes"] = dict(
        reversed(settings["data"]["classes"].items())
    )  # as many, in another order
    trainer = Trainer(settings, 0.01, 0.9, choose_strategy())
    last = "logits" if stem == 1 else "scores"
    assert last in trainer.begun[0] and trainer.begun[0].endswith("of other classes")
    assert carried(trainer, network)[1] == [last]
    settings["data"]["bands"] = [4, 1, 2]
    trainer = Trainer(settings, 0.01, 0.9, choose_strategy())
    first = ["down0a_conv", "down1a_conv", "centrea_conv"] if stem == 1 else ["stem_conv"]
    fresh = carried(trainer, network)[1]
    assert fresh[0] == first[0] and last in fresh and "of other bands" in trainer.begun[0]


def test_a_model_of_another_network_is_refused_by_its_key(earlier):
    settings, _ = earlier
    settings["model"]["width"] = 8
    with pytest.raises(
        Problem, match="train.start_from: runs/a/model.keras, whose layer .* set model as"
    ) as one:
        Trainer(settings, 0.01, 0.9, choose_strategy())
    assert one.value.code == 2
    settings["train"]["start_from"] = "runs/b/model.keras"
    with pytest.raises(Problem, match="model runs/b/model.json: no such file, expected a finished training"):
        Trainer(settings, 0.01, 0.9, choose_strategy())


# -- a pretrained encoder ---------------------------------------------------------------------------------


@pytest.fixture
def small_encoder(tmp_path, monkeypatch, settings):
    monkeypatch.chdir(tmp_path)
    return on_small_encoder(monkeypatch, settings)


@pytest.fixture
def patches():
    return four_patches(32)


def changed(trainer, before):
    """{(of the encoder, trainable)} of the variables that are no longer as they were `before`."""
    encoders = {id(v) for layer in trainer.network.layers if is_encoders(layer) for v in layer.variables}
    moves = {id(variable) for variable in trainer.network.trainable_variables}
    return {
        (id(variable) in encoders, id(variable) in moves)
        for variable, value in zip(trainer.network.variables, before, strict=True)
        if not np.array_equal(variable.numpy(), value)
    }


def weights_now(trainer):
    return [variable.numpy() for variable in trainer.network.variables]


def test_a_frozen_encoder_stays_as_it_is_and_then_learns(small_encoder, patches):
    trainer = Trainer(small_encoder, 0.01, 0.9, choose_strategy())
    before, count = weights_now(trainer), len(trainer.network.trainable_variables)
    trainer.frozen = True
    for _ in range(2):
        trainer.train_step((patches,))
    assert changed(trainer, before) == {(False, True), (False, False)}  # its moving statistics neither
    trainer.frozen, before = False, weights_now(trainer)
    trainer.train_step((patches,))
    assert changed(trainer, before) == {(own, moves) for own in (True, False) for moves in (True, False)}
    assert len(trainer.network.trainable_variables) == count
    assert all(layer.trainable for layer in trainer.network.layers)


def test_the_encoder_alone_goes_a_share_of_each_step(small_encoder):
    trainer = Trainer(small_encoder, 0.01, 0.9, choose_strategy())
    layers = [layer for layer in trainer.network.layers if is_encoders(layer)]
    paths = {variable.path for layer in layers for variable in layer.trainable_variables}
    assert trainer.optimizer.shares == dict.fromkeys(paths, 0.1) and "encoder_stem/kernel" in paths
    decoders = [v.path for v in trainer.network.trainable_variables if v.path not in paths]
    assert {path.partition("/")[0].rstrip("0123456789") for path in decoders} == {
        *("grow", "skip", "mix", "scores"),
        *("mix4_conv", "mix4_norm", "mix8_conv", "mix8_norm", "mix16_conv", "mix16_norm"),
    } - {"mix"}


def test_the_encoder_begins_with_a_files_weights_and_the_line_says_how_it_sees(small_encoder):
    state = write_small_encoder("a.pth")
    small_encoder["model"].update(weights="a.pth", rgb=[3, None, 1])
    small_encoder["data"]["bands"], small_encoder["train"]["ema"] = [4, 1, 2], 0.9
    trainer = Trainer(small_encoder, 0.01, 0.9, choose_strategy())
    line = "first weights of the encoder from a.pth; it sees bands 2, none, 4 as red, green, blue"
    assert trainer.begun == [line]
    for network in (trainer.network, trainer.averaged):
        blue = network.get_layer("encoder_stem").kernel.numpy()[:, :, 0]
        np.testing.assert_array_equal(blue, state["_conv_stem.weight"][:, 2].transpose(1, 2, 0))


@pytest.fixture
def earlier_encoder(small_encoder):
    """Settings that start from a run on the small encoder, and its network; no file of weights."""
    facts = {"encoder": LITE0, "rgb": [1, 2, 3], "weights": None}
    write_run(Path("runs/a"), small_encoder, **facts)
    small_encoder["model"]["weights"], small_encoder["seed"] = "a.pth", 7
    small_encoder["train"]["start_from"] = "runs/a/model.keras"
    return small_encoder, keras.models.load_model("runs/a/model.keras", compile=False)


def test_a_model_of_the_same_bands_needs_no_file_of_weights(earlier_encoder):
    settings, network = earlier_encoder
    trainer = Trainer(settings, 0.01, 0.9, choose_strategy())
    assert trainer.begun == ["first weights from runs/a/model.keras"] and carried(trainer, network)[1] == []


@pytest.mark.parametrize("change", [{"data": {"bands": [1, 2, 3, 4]}}, {"model": {"rgb": [3, 2, 1]}}])
def test_other_bands_begin_with_the_files_first_kernel_on_an_earlier_encoder(earlier_encoder, change):
    settings, network = earlier_encoder
    for section, values in change.items():
        settings[section].update(values)
    with pytest.raises(Problem, match="key model.weights: a.pth: no such file"):
        Trainer(settings, 0.01, 0.9, choose_strategy())
    state = write_small_encoder("a.pth")
    trainer = Trainer(settings, 0.01, 0.9, choose_strategy())
    places = settings["model"]["rgb"]
    assert trainer.begun == [
        "first weights from runs/a/model.keras; new encoder_stem, of other bands",
        f"first weights of encoder_stem from a.pth; it sees bands {places[0]}, {places[1]}, {places[2]} as "
        "red, green, blue",
    ]
    assert carried(trainer, network)[1] == ["encoder_stem"]
    red = trainer.network.get_layer("encoder_stem").kernel.numpy()[:, :, places[0] - 1]
    expected = state["_conv_stem.weight"][:, 0].transpose(1, 2, 0) * 3 / len(settings["data"]["bands"])
    np.testing.assert_allclose(red, expected, rtol=1e-6)


@pytest.mark.parametrize("own, other", [("none", LITE0), (LITE0, "convnext_tiny"), (LITE0, "none")])
def test_a_model_on_another_encoder_is_refused_in_one_line(earlier_encoder, own, other):
    settings, _ = earlier_encoder
    settings["model"]["encoder"] = own
    facts = json.loads(Path("runs/a/model.json").read_text())
    del facts["digest"]
    write_record(Path("runs/a/model.json"), {**facts, "encoder": other})
    with pytest.raises(Problem, match=f"start_from: runs/a/model.keras, of model.encoder {other}") as caught:
        Trainer(settings, 0.01, 0.9, choose_strategy())
    assert caught.value.code == 2 and len(caught.value.lines) == 1
