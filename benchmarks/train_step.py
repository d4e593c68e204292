"""The training step: patches/s, GFLOP/s and the share of the matrix product's peak, by backend, precision and
batch.

    python benchmarks/train_step.py                          on the CPU, about 15 minutes on 2 cores
    CUDA_VISIBLE_DEVICES=0 python benchmarks/train_step.py   on a GPU; every backend that is installed and
    sees it

Measures the network of settings/notebook.yaml, 33.8 GFLOP forward for a patch of 256 px, and that of
params.yaml, at full width. The floor of a step's time is three forward passes (one forward, two backward) at
the speed of the device's best matrix product in the step's own precision (4096 x 4096, on a GPU 8192 x 8192),
measured in the same process. `share_of_peak` and `patches_per_second` are TensorFlow's in float32 on the CPU
with the notebook's network, the others carry their names. With TensorFlow it is the project's own step,
confusion matrix included; with JAX the same network, loss and optimiser. one_kernel: what batch normalisation
in one kernel gains, and how far the step is from its floor, operations and memory one after the other."""
import os
import shutil
import time

import bench
import numpy as np

GPU = os.environ.get("CUDA_VISIBLE_DEVICES", "-1") != "-1" and shutil.which("nvidia-smi") is not None
PATCH = 256
REPEATS = 20 if GPU else 4
ON_GPU = (("float32", 16), ("bfloat16", 16), ("bfloat16", 64), ("float16", 64))
ON_CPU = (("float32", 2), ("float32", 8), ("bfloat16", 2))
CASES = [(recipe, backend, precision, batch) for recipe in ("notebook", "params")
         for backend in ("tensorflow", "jax") for precision, batch in (ON_GPU if GPU else ON_CPU)
         if ((backend, precision) != ("jax", "float16") if GPU else (recipe, backend) != ("params", "jax"))]
LITE = {"encoder": "efficientnet_lite0", "weights": "none", "stem": 4, "local_contrast": []}
NETWORKS = {"params": {}, "efficientnet_lite0": LITE}  # of one_kernel
POLICIES = {"float32": False, "float16": True, "bfloat16": "bfloat16"}


def tensorflow_step(settings, pixels):
    """A function that makes one update and waits for it."""
    import tensorflow as tf

    from learning.workers import choose_strategy
    from trainer import Trainer
    trainer, pixels = Trainer(settings, 1e-3, 0.9, choose_strategy()), tf.constant(pixels)
    return lambda: float(trainer.train_step((pixels,))[0])


def jax_step(settings, pixels):
    import jax
    import keras

    if GPU and jax.default_backend() != "gpu":
        raise ModuleNotFoundError("jax with a GPU")
    from learning.optimizers import build_optimizer
    from model import build_loss, build_network, logits_of
    train, classes = settings["train"], len(settings["data"]["classes"])
    keras.mixed_precision.set_global_policy("float32" if train["mixed_precision"] is False else "mixed_"
                                            + {True: "float16"}.get(train["mixed_precision"], "bfloat16"))
    logits = logits_of(build_network(3, classes, **settings["model"]))
    loss = build_loss(train["loss"], train["label_smoothing"])
    optimizer = build_optimizer(train["optimizer"], 1e-3, 0.9, train["weight_decay"])
    optimizer.build(logits.trainable_variables)
    images, labels = jax.numpy.asarray(pixels[..., :3]), jax.numpy.asarray(pixels[..., 3])

    def lose(weights, statistics):
        answers, statistics = logits.stateless_call(weights, statistics, images, training=True)
        return loss(answers, labels), statistics

    @jax.jit
    def update(weights, statistics, slots):
        (value, statistics), gradients = jax.value_and_grad(lose, has_aux=True)(weights, statistics)
        weights, slots = optimizer.stateless_apply(slots, gradients, weights)
        return value, weights, statistics, slots

    groups = logits.trainable_variables, logits.non_trainable_variables, optimizer.variables
    state = [[v.value for v in group] for group in groups]

    def step():
        value, *state[:] = update(*state)
        jax.block_until_ready(state)
        return float(value)
    return step


def peak(precision):
    """GFLOP/s of the best of ten matrix products, in this process, on its device."""
    from model import keras, ops
    size, times = 8192 if GPU else 4096, []
    left, right = (ops.cast(keras.random.normal((size, size), seed=seed), precision) for seed in (1, 2))
    if keras.backend.backend() == "jax":
        import jax
        product = jax.jit(ops.matmul)
    else:
        product = ops.matmul
    for _ in range(10):
        started = time.perf_counter()
        float(product(left, right)[0, 0])
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times) / 1e9


def measure(recipe, backend, precision, batch):
    os.environ["KERAS_BACKEND"] = backend
    __import__(backend)  # passed over where it is missing
    from model import count_operations
    settings = bench.settings_of(recipe)
    settings["input"].update(patch_size=PATCH, batch_size=batch)
    settings["train"].update(mixed_precision=POLICIES[precision], class_weights=0)  # no prepared tiles here
    _, operations = count_operations(PATCH, bands=3, classes=len(settings["data"]["classes"]),
                                     **settings["model"])
    pixels = np.random.default_rng(0).integers(0, 6, (batch, PATCH, PATCH, 4)).astype(np.uint8)
    step = {"tensorflow": tensorflow_step, "jax": jax_step}[backend](settings, pixels)
    for _ in range(2):
        step()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    rate = batch / sorted(times)[len(times) // 2]
    gflops, best = rate * 3 * operations / 1e9, peak(precision)
    return {"patches_per_second": rate, "gflops": gflops, "peak_gflops": best, "share_of_peak": gflops / best}


def one_kernel(network):
    """How many times faster a step is whose normalisation is one kernel (learning/normalization.py) than
    Keras's own, of a network at a batch of 8, both in turn; and the floor of such a step: operations over
    peak, bytes of the activations, written once and read once forward and back, over the memory's speed."""
    import contextlib

    import tensorflow as tf

    import trainer as trainers
    from learning.workers import choose_strategy
    settings = bench.settings_of("params")
    settings["input"].update(patch_size=PATCH, batch_size=8)
    settings["train"].update(class_weights=0)
    settings["model"].update(NETWORKS[network])
    pixels = tf.constant(np.random.default_rng(0).integers(0, 6, (8, PATCH, PATCH, 4)).astype(np.uint8))
    ours, made, times = trainers.in_one_kernel, {}, {"plain": [], "ours": []}
    for name, how in (("plain", contextlib.nullcontext), ("ours", ours)):
        trainers.in_one_kernel = how
        made[name] = trainers.Trainer(settings, 1e-4, 0.9, choose_strategy())
        made[name].train_step((pixels,))[0].numpy()  # traced
    for turn in range(9):
        for name, trainer in made.items():
            started = time.perf_counter()
            trainer.train_step((pixels,))[0].numpy()
            times[name] += [time.perf_counter() - started] if turn > 1 else []
    plain, own = (float(np.median(each)) for each in times.values())
    numbers = count_numbers(made["ours"].network)
    source, target, copied = np.ones(2**27, np.uint8), np.empty(2**27, np.uint8), []
    for _ in range(5):
        started = time.perf_counter()
        np.copyto(target, source)
        copied.append(2 * source.nbytes / (time.perf_counter() - started))
    floor = 3 * 8 * made["ours"].cost()[1] / 1e9 / peak("float32") + 4 * 4 * 8 * numbers / max(copied)
    return {"gain": plain / own, "patches_per_second": 8 / own, "floor_patches_per_second": 8 / floor,
            "share_of_floor": floor / own}


def count_numbers(network):
    """Numbers that the layers of a network with weights, and their activations, write for a patch."""
    from model import keras
    grown = keras.Model(network.inputs, [layer.output for layer in network.layers
                                         if layer.weights or "relu" in layer.name])
    shapes = [shape.shape for shape in grown.compute_output_spec(
        keras.KerasTensor((1, PATCH, PATCH, 3), "uint8"))]
    return sum(int(np.prod(shape)) for shape in shapes)


def summarise(medians):
    figures = {f"{key}_{name.replace(' ', '_')}": value for name, found in medians.items()
               for key, value in found.items()}
    best = max((name for name in medians if name.startswith("notebook tensorflow float32")),
               key=lambda name: medians[name]["patches_per_second"], default=None)
    for key in ("share_of_peak", "patches_per_second") if best else ():
        figures[key] = medians[best][key]
    return figures


if __name__ == "__main__":
    contenders = {" ".join(map(str, case)): lambda folder, case=case: measure(*case) for case in CASES}
    contenders |= {f"one_kernel {name}": lambda folder, name=name: one_kernel(name) for name in NETWORKS}
    bench.main(__file__, __doc__, contenders, lambda folder: None, summarise)
