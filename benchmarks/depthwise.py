"""The depthwise convolutions of EfficientNet-Lite0, forward and back, in several ways: milliseconds of all.

    python benchmarks/depthwise.py           about 4 minutes on 2 cores

A batch of 8 patches of 256 px goes through each of the encoder's depthwise convolutions alone, with the
gradients of its input and its kernel. native: TensorFlow's operation, on CPUs oneDNN's. shifted: the sum of
the planes, shifted and weighted, one for each weight of the kernel; shifted_xla, native_xla: the same
compiled by XLA. `gflops`: operations a second, beside those of a product of two matrices (peak_gflops)."""
import time

import bench

BATCH, REPEATS = 8, 3
LAYERS = [  # side of the input, channels, side of the kernel, stride, how many of these
    (128, 32, 3, 1, 1), (128, 96, 3, 2, 1), (64, 144, 3, 1, 1), (64, 144, 5, 2, 1), (32, 240, 5, 1, 1),
    (32, 240, 3, 2, 1), (16, 480, 3, 1, 2), (16, 480, 5, 1, 1), (16, 672, 5, 1, 2), (16, 672, 5, 2, 1),
    (8, 1152, 5, 1, 3), (8, 1152, 3, 1, 1)]


def native(images, kernel, stride):
    import tensorflow as tf
    return tf.nn.depthwise_conv2d(images, kernel, [1, stride, stride, 1], "SAME")


def shifted(images, kernel, stride):
    import tensorflow as tf
    side, size = images.shape[1], kernel.shape[0]
    wide = (-(-side // stride) - 1) * stride + 1  # from the first to the last pixel that is taken
    beyond = max(wide - 1 + size - side, 0)
    edge = [beyond // 2, beyond - beyond // 2]
    padded, result = tf.pad(images, [[0, 0], edge, edge, [0, 0]]), 0
    for row in range(size):
        for col in range(size):
            plane = padded[:, row: row + wide: stride, col: col + wide: stride]
            result += plane * kernel[row, col, :, 0]
    return result


def measure(convolve, compiled):
    import tensorflow as tf
    total, operations = 0, 0
    for side, channels, size, stride, count in LAYERS:
        images = tf.random.normal((BATCH, side, side, channels))
        kernel, out = tf.random.normal((size, size, channels, 1)), -(-side // stride)
        upstream, times = tf.random.normal((BATCH, out, out, channels)), []

        @tf.function(jit_compile=compiled)
        def there_and_back(images, kernel, upstream, stride=stride):
            with tf.GradientTape() as tape:
                tape.watch([images, kernel])
                result = convolve(images, kernel, stride)
            return [result, *tape.gradient(result, [images, kernel], upstream)]

        for _ in range(1 + REPEATS):
            started = time.perf_counter()
            for part in there_and_back(images, kernel, upstream):
                part.numpy()
            times.append(time.perf_counter() - started)
        total += count * min(times[1:])
        operations += count * 3 * 2 * BATCH * out**2 * channels * size**2
    return {"milliseconds": 1000 * total, "gflops": operations / total / 1e9}


def product():
    import tensorflow as tf
    left, right, times = tf.random.normal((2048, 2048)), tf.random.normal((2048, 2048)), []
    for _ in range(10):
        started = time.perf_counter()
        (left @ right).numpy()
        times.append(time.perf_counter() - started)
    return {"gflops": 2 * 2048**3 / min(times) / 1e9}


WAYS = {"native": lambda folder: measure(native, False), "native_xla": lambda folder: measure(native, True),
        "shifted": lambda folder: measure(shifted, False),
        "shifted_xla": lambda folder: measure(shifted, True), "product": lambda folder: product()}


def summarise(medians):
    figures = {f"{key}_{name}": value for name, found in medians.items() for key, value in found.items()}
    figures["peak_gflops"] = figures.pop("gflops_product")
    best = figures["milliseconds_native"]
    return figures | {f"{name}_times_native": figures[f"milliseconds_{name}"] / best
                      for name in WAYS if name not in ("native", "product")}


if __name__ == "__main__":
    bench.main(__file__, __doc__, WAYS, lambda folder: None, summarise)
