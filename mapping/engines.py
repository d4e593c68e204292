"""How the network is run on windows of an image: by TensorFlow, or on CPUs faster by OpenVINO.

A `run` takes an iterable of patches (uint8 [S, S, B]) and yields, in their order, probabilities (float32 [C, S, S],
valid until the next).
"""
import contextlib
import functools
import json
import os
from collections import deque
from importlib.util import find_spec

import numpy as np

from base.command import quiet_stderr
from base.problem import Problem
from base.tables import not_readable, read_facts


def choose_engine(options):
    """"tensorflow" or "openvino", from predict.engine and predict.precision. auto: OpenVINO on a machine without an
    NVIDIA GPU where it is installed. Problem (exit 4) where a package is missing."""
    found, wanted = find_spec("openvino") is not None, options["engine"]
    if wanted == "auto" and options["precision"] == "float32":
        wanted = "openvino" if found and not os.path.exists("/proc/driver/nvidia/version") else "tensorflow"
    elif wanted == "auto":
        wanted = "openvino"
    missing = [name for name in ("openvino", *(["nncf"] if options["precision"] == "int8" else []))
               if find_spec(name) is None] if wanted == "openvino" else []
    if missing:
        raise Problem(f"package {' and '.join(missing)}: not installed, expected for predict.engine "
                      f"{options['engine']} with precision {options['precision']}; run make extras, or set engine: "
                      "tensorflow and precision: float32", code=4)
    return wanted


# -- TensorFlow -------------------------------------------------------------------------------------------------------

def load_network(run, facts):
    """The Keras network of a run. Only stock layers: what would run code while it loads is refused (exit 3)."""
    with quiet_stderr():
        import keras
    try:
        network = keras.models.load_model(run / "model.keras", compile=False, safe_mode=True)
    except Exception as error:  # Keras has no type of its own for what a file can do to it
        raise not_readable(run, error) from None
    expected = len(facts["bands"]) + bool(facts["extra"]), len(facts["classes"])
    if (network.input_shape[-1], network.output_shape[-1]) != expected:
        raise Problem(f"model {run / 'model.keras'}: {network.input_shape[-1]} bands to {network.output_shape[-1]} "
                      f"classes, expected {expected[0]} to {expected[1]} as model.json says; run train.py again",
                      code=3)
    return network


def graph_of(network, *shape):
    """The network as one graph for patches of this shape (uint8 [N, S, S, B]): Keras interpolates only to sizes that
    the graph knows. Returns planes, float32 [N, C, S, S]."""
    import tensorflow as tf
    return tf.function(lambda patches: tf.transpose(network(patches, training=False), (0, 3, 1, 2)),
                       input_signature=[tf.TensorSpec(shape, tf.uint8)])


def tensorflow_engine(network, batch_size, threads=0):
    """A `run` that calls the network with batches of so many patches. `threads`: 0, as many as there are cores."""
    import tensorflow as tf
    with contextlib.suppress(RuntimeError):  # TensorFlow is at work already
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    graphs = functools.cache(lambda *shape: graph_of(network, None, *shape))

    def run(patches):
        batch = []
        for patch in patches:
            batch.append(patch)
            if len(batch) == batch_size:
                yield from np.asarray(graphs(*patch.shape)(np.stack(batch)))
                batch = []
        if batch:
            yield from np.asarray(graphs(*batch[0].shape)(np.stack(batch)))

    return run


def activation_bytes(network, side):
    """Most bytes of activations that live together while the network answers one patch of `side`: each layer's output
    counts from its making to its last use."""
    import keras
    sized = keras.models.clone_model(network, input_tensors=keras.Input((side, side, network.input_shape[-1]),
                                                                        dtype="uint8"))
    nodes = [node for layer in sized.operations for node in layer._inbound_nodes
             if id(node) in {id(n) for depth in sized._nodes_by_depth.values() for n in depth}]
    last = {id(tensor): number for number, node in enumerate(nodes) for tensor in node.input_tensors}
    sizes = {id(tensor): 4 * int(np.prod([n or 1 for n in tensor.shape])) for node in nodes
             for tensor in node.output_tensors}
    alive, most = 0, 0
    for number, node in enumerate(nodes):
        alive += sum(sizes[id(tensor)] for tensor in node.output_tensors)
        most = max(most, alive)
        alive -= sum(sizes.get(i, 0) for i, use in last.items() if use == number)
    return most


# -- OpenVINO ---------------------------------------------------------------------------------------------------------

def engine_files(run, precision, window):
    """(.xml, .bin, .json) of a translated network; bfloat16 is float32's, run in less."""
    name = "int8" if precision == "int8" else "float32"
    return [run / "engine" / f"{name}_{window}.{kind}" for kind in ("xml", "bin", "json")]


def openvino_engine(model, streams, threads=0, precision="float32"):
    """A `run` that has `streams` patches under way at once, each in its own threads. `model`: a path or a model. In
    bfloat16 where that is the precision and the processor has it, else in float32 (what is 8 bit stays so)."""
    import openvino as ov
    compiled = ov.Core().compile_model(model, "CPU", {
        "NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32"})
    requests = [compiled.create_infer_request() for _ in range(streams + 1)]  # one waits, so that no stream does

    def run(patches):
        idle, busy = deque(requests), deque()
        try:
            for patch in patches:
                if not idle:
                    first = busy.popleft()
                    first.wait()
                    yield first.get_output_tensor().data[0]
                    idle.append(first)
                request = idle.popleft()
                request.start_async({0: np.ascontiguousarray(patch)[None]}, share_inputs=True)
                busy.append(request)
            for request in busy:
                request.wait()
                yield request.get_output_tensor().data[0]
        finally:  # the next raster finds them idle, though this one may have failed half-way
            for request in busy:
                request.wait()

    return run


@functools.lru_cache(maxsize=1)
def engine_of(run, model, engine, precision, window, batch_size, threads):
    """(engine, bytes of activations of a window) of a run whose model.keras has the hash `model`; kept from raster to
    raster."""
    facts = read_facts(run)
    if engine == "openvino":
        xml, _, about = engine_files(run, precision, window)
        return (openvino_engine(xml, batch_size, threads, precision),
                json.loads(about.read_text(encoding="utf-8"))["activation_bytes"])
    network = load_network(run, facts)
    return tensorflow_engine(network, batch_size, threads), activation_bytes(network, window)
