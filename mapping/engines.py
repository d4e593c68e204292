"""How the network is run on windows of an image, by TensorFlow, or on CPUs faster by OpenVINO, and how much
memory that takes. An `answer` takes an iterable of patches (uint8 [S, S, B]) and yields, in their order,
probabilities (float32 [C, S, S], valid until the next)."""
import contextlib
import functools
import itertools
import os
import re
import resource
import sys
from collections import deque
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from base.command import quiet_stderr
from base.problem import Problem
from base.tables import not_readable, read_facts, read_record

sys.modules.setdefault("openvino_telemetry", None)  # its tools would tell their makers of every use
MEASURED = 512  # pixels: a window of about this side tells how much memory a larger one takes


class Engine(NamedTuple):
    """How a network is run."""
    name: str  # tensorflow or openvino
    precision: str  # float32; of OpenVINO also bfloat16 or int8
    window: int  # pixels: the largest side of a patch, of OpenVINO the only one
    batch_size: int  # patches under way at once
    threads: int  # 0: as many as there are cores


def choose_engine(options):
    """"tensorflow" or "openvino", from predict.engine and predict.precision. auto: OpenVINO on a machine
    without an NVIDIA GPU where it is installed. Problem (exit 4) where a package is missing."""
    wanted, precision = options["engine"], options["precision"]
    if wanted == "auto":
        on_cpu = find_spec("openvino") is not None and not os.path.exists("/proc/driver/nvidia/version")
        wanted = "openvino" if on_cpu or precision != "float32" else "tensorflow"
    packages = {"tensorflow": [], "openvino": ["openvino"] + ["nncf"] * (precision == "int8")}[wanted]
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise Problem(f"package {' and '.join(missing)}: not installed, expected for predict.engine "
                      f"{options['engine']} with precision {precision}; run make extras, or set engine: "
                      "tensorflow and precision: float32", code=4)
    return wanted


@functools.lru_cache(maxsize=1)
def start_engine(run, model, engine):
    """(answer, bytes of this process while it answers) of a run whose model.keras has the hash `model`; kept
    from raster to raster. TensorFlow's bytes grow with a window's area, and are measured on a small one."""
    facts = read_facts(run)
    if engine.name == "openvino":
        xml, _, about = engine_files(run, engine.precision, engine.window)
        answer = openvino_engine(xml, engine.batch_size, engine.threads, engine.precision)
        before, window_bytes = resident("VmRSS"), read_record(about, "predict.py")["window_bytes"]
    else:
        answer = tensorflow_engine(load_network(run, facts), engine.batch_size, engine.threads)
        before, multiple, bands = resident("VmRSS"), facts["multiple"], len(facts["scale"])
        answer_one(answer, multiple, bands)  # what TensorFlow takes once
        side = min(engine.window, -(-MEASURED // multiple) * multiple)
        window_bytes = growth(lambda: answer_one(answer, side, bands)) * (engine.window / side) ** 2
    return answer, before + engine.batch_size * window_bytes


def answer_one(answer, side, bands):
    """Has one black patch answered, which also makes an engine ready."""
    list(answer([np.zeros((side, side, bands), np.uint8)]))


def resident(name):
    """Bytes of this process in memory: "VmRSS" now, "VmHWM" at most since the last `growth` began; where no
    Linux says so, the most that there ever were."""
    try:
        return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    except (OSError, TypeError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if os.uname().sysname == "Darwin" else 1024 * most


def growth(work):
    """Most bytes by which this process grows while work() is done."""
    before = resident("VmRSS")
    with contextlib.suppress(OSError):  # else an earlier peak counts: too much rather than too little
        Path("/proc/self/clear_refs").write_text("5")
    work()
    return max(0, resident("VmHWM") - before)


# -- TensorFlow ----------------------------------------------------------------------------------------------

def load_network(run, facts):
    """The Keras network of a run; Problem (exit 3) where it would run code as it loads, or is another."""
    with quiet_stderr():
        import keras
    try:
        network = keras.models.load_model(run / "model.keras", compile=False, safe_mode=True)
    except Exception as error:  # Keras has no type of its own for what a file can do to it
        raise not_readable(run, error) from None
    sizes = network.input_shape[-1], network.output_shape[-1]
    expected = len(facts["scale"]), len(facts["classes"])
    if sizes != expected:
        raise Problem(f"model {run / 'model.keras'}: {sizes[0]} bands to {sizes[1]} classes, expected "
                      f"{expected[0]} to {expected[1]} as model.json says; run train.py again", code=3)
    return network


def graph_of(network, *shape):
    """The network as one graph for patches of this shape (uint8 [N, S, S, B]): UpSampling2D, which earlier
    networks have, interpolates only to sizes that the graph knows. Returns planes, float32 [N, C, S, S]."""
    import tensorflow as tf
    return tf.function(lambda patches: tf.transpose(network(patches, training=False), (0, 3, 1, 2)),
                       input_signature=[tf.TensorSpec(shape, tf.uint8)])


def tensorflow_engine(network, batch_size, threads=0):
    """An `answer` that calls the network with batches of so many patches. `threads` 0: one for each core."""
    import tensorflow as tf
    tf.get_logger().setLevel("ERROR")  # a graph for each size of window is meant
    with contextlib.suppress(RuntimeError):  # TensorFlow is at work already
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    graphs = functools.cache(lambda *shape: graph_of(network, None, *shape))

    def answer(patches):
        patches = iter(patches)
        while batch := list(itertools.islice(patches, batch_size)):
            yield from np.asarray(graphs(*batch[0].shape)(np.stack(batch)))

    return answer


# -- OpenVINO ------------------------------------------------------------------------------------------------

def engine_files(run, precision, window):
    """(.xml, .bin, .json) of a translated network; bfloat16 is float32's, run in less."""
    name = "int8" if precision == "int8" else "float32"
    return [run / "engine" / f"{name}_{window}.{kind}" for kind in ("xml", "bin", "json")]


@functools.cache
def openvino_core():
    """OpenVINO's core, one for as long as the process runs: the stack on which signals are handled belongs to
    it from then on, and without it Ctrl-C would be a segmentation fault."""
    import openvino as ov
    return ov.Core()


def openvino_engine(model, streams, threads=0, precision="float32"):
    """An `answer` that has `streams` patches under way at once, each in its own threads, of a model or its
    path. In bfloat16 where that is the precision and the processor has it, else in float32 or the 8 bit."""
    compiled = openvino_core().compile_model(model, "CPU", {
        "NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32"})
    requests = [compiled.create_infer_request() for _ in range(streams + 1)]  # one waits, no stream

    def answered(request):
        request.wait()
        return request.get_output_tensor().data[0]

    def answer(patches):
        busy = deque()
        try:
            for request, patch in zip(itertools.cycle(requests), patches):
                if len(busy) == len(requests):
                    yield answered(busy.popleft())
                request.start_async({0: np.ascontiguousarray(patch)[None]}, share_inputs=True)
                busy.append(request)
            yield from map(answered, busy)
        finally:  # the next raster finds them idle, though this one may have failed half-way
            for request in busy:
                request.wait()

    return answer
