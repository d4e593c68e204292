"""How the network is run on windows of an image: by TensorFlow, or on CPUs faster by OpenVINO, also in 8 bit.

The network is translated once, into runs/<run>/engine/<precision>_<window>.xml, .bin and .json, and from then on run
without TensorFlow, in less memory (benchmarks/predict.py). For 8 bit its ranges are calibrated on windows of the
training tiles, and windows of the validation tiles say what it costs.

A `run` takes an iterable of patches (uint8 [S, S, B]) and yields, in their order, probabilities (float32 [C, S, S],
valid until the next). Method of the 8 bit: post-training quantisation by NNCF, with its defaults.
"""
import contextlib
import functools
import io
import json
import logging
import os
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import get_context

import numpy as np

from files import Problem, code_sha256, quiet_stderr, replacing, sha256
from patches import cut
from results import not_readable, read_facts
from scores import confusion_matrix, mean_iou
from tiles import IGNORE, open_prepared, starts

CALIBRATION = 24  # windows at most, to calibrate on and to compare on
FIXED = ["AvgPool", "Divide", "Power", "Subtract", "ReduceMean", "Interpolate"]  # local contrast, logits: in float32


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


def in_float32(network):
    """The same network, computing in float32 also if it was trained in mixed precision: OpenVINO does not take a graph
    in bfloat16."""
    import keras

    def anew(layer):
        config = layer.get_config()
        return type(layer).from_config({key: "float32" if key == "dtype" else config[key] for key in config})

    copy = keras.models.clone_model(network, clone_function=anew)
    copy.set_weights(network.get_weights())
    return copy


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


def made_from(facts, precision):
    """What decides a translation: the model, whose hash stands for its settings and tiles too, the tools, this code."""
    tools = ["openvino", "nncf"] if precision == "int8" else ["openvino"]
    return [facts["sha256"], *map(version, tools), code_sha256(__file__)]


def is_translated(run, facts, precision, window):
    """True where a translated network stands: whole, and this model's."""
    xml, weights, about = engine_files(run, precision, window)
    try:
        found = json.loads(about.read_text(encoding="utf-8"))
        whole = [found["xml"], found["bin"]] == [sha256(xml), sha256(weights)]
        return whole and found["made_from"] == made_from(facts, precision) and found["activation_bytes"] > 0
    except (OSError, ValueError, KeyError, TypeError):
        return False


def ensure_engine(run, facts, settings):
    """Makes the translated network where it is missing: in a process of its own, with which TensorFlow's memory goes.
    """
    options = settings["predict"]
    if not is_translated(run, facts, options["precision"], options["window"]):
        print(f"translating the network for OpenVINO, {options['precision']}, windows of {options['window']} px",
              flush=True)
        pool = ProcessPoolExecutor(1, get_context("spawn"))
        try:
            said = pool.submit(translate, run, facts, settings).result()
        except BrokenProcessPool:
            raise Problem(f"engine in {run / 'engine'}: its making was killed, expected enough free memory; lower "
                          "predict.window", code=4) from None
        except BaseException:
            for process in pool._processes.values():  # a translation that goes on would hold up whoever stops this
                process.kill()
            raise
        finally:
            pool.shutdown(wait=True)
        print(said, flush=True)


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


def without_concatenations(model):
    """Rewrites a translated network in place: a convolution of concatenated planes becomes the sum of the parts'
    convolutions, and the softmax is taken of planes, as they are wanted. The same probabilities but for rounding, a few
    per cent sooner: OpenVINO copies what it concatenates."""
    from openvino import opset13 as op

    def parts_of(planes):
        node = planes.get_node()
        joined = node.get_type_name() == "Concat" and node.get_attributes()["axis"] == 1
        return [part for each in node.input_values() for part in parts_of(each)] if joined else [planes]

    for node in model.get_ordered_ops():
        if node.get_type_name() == "Convolution" and len(parts := parts_of(node.input_value(0))) > 1:
            how = [node.get_attributes()[key] for key in ("strides", "pads_begin", "pads_end", "dilations", "auto_pad")]
            kernels = op.variadic_split(node.input_value(1), 1, [part.get_shape()[1] for part in parts]).outputs()
            total = functools.reduce(op.add, (op.convolution(*pair, *how) for pair in zip(parts, kernels)))
            node.output(0).replace(total.output(0))
        elif node.get_type_name() == "Softmax":
            back, = (user.get_node() for user in node.output(0).get_target_inputs())  # graph_of's, to planes
            planes = op.transpose(node.input_value(0), back.input_value(1))
            back.output(0).replace(op.softmax(planes, 1).output(0))


def translate(run, facts, settings):
    """Writes the network as OpenVINO's files, for windows of predict.window; returns a line that says what it is."""
    import openvino as ov
    options = settings["predict"]
    side, precision = options["window"], options["precision"]
    network = in_float32(load_network(run, facts))
    with quiet_stderr():
        model = ov.convert_model(graph_of(network, 1, side, side, network.input_shape[-1]))
    said = {"activation_bytes": activation_bytes(network, side)}
    text = f"translated: {engine_files(run, precision, side)[0]}"
    if precision == "int8":
        exact = model.clone()
        model = quantise(model, settings)
        said["check"] = check = compare(exact, model, settings)
        text = (f"int8: mean IoU {100 * check['mean_iou']:.2f} % in float32, {100 * check['mean_iou_int8']:.2f} % in "
                f"int8, on {check['windows']} windows of the validation tiles; {100 * check['same']:.1f} % of their "
                "pixels are given the same class")
    else:
        without_concatenations(model)
    xml, weights, about = engine_files(run, precision, side)
    about.unlink(missing_ok=True)
    with replacing(xml) as temporary, replacing(weights):  # whose temporary names differ in the suffix alone
        try:
            ov.save_model(model, temporary, compress_to_fp16=False)
        except RuntimeError as error:  # all that OpenVINO says of a disk
            raise Problem(f"engine {xml}: not written ({' '.join(str(error).split())}), expected room on the disk; "
                          "free some space and run the same command again", code=4) from None
    said.update(xml=sha256(xml), bin=sha256(weights), made_from=made_from(facts, precision))
    with replacing(about) as temporary:
        temporary.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    return text


def windows_of(settings, role, side, count):
    """Yields (pixels uint8 [S, S, B], labels uint8 [S, S]) of at most `count` windows, evenly drawn from those that
    cover a role's tiles."""
    places = []
    for name in settings["split"][role]:
        tile = open_prepared(settings["data"], name)
        places += [(tile, row, col) for row in starts(tile.labels.shape[0], side, side)
                   for col in starts(tile.labels.shape[1], side, side)]
    for number in np.unique(np.linspace(0, len(places) - 1, min(count, len(places))).astype(int)):
        tile, row, col = places[number]
        labels = cut(tile.labels, row, col, side).copy()
        inside = tile.labels.shape[0] - row, tile.labels.shape[1] - col
        labels[inside[0]:] = labels[:, inside[1]:] = IGNORE  # mirrored there
        yield np.ascontiguousarray(cut(tile.image, row, col, side)), labels


def quantise(model, settings):
    """The model in 8 bit, its ranges taken from windows of the training tiles."""
    import nncf
    logging.getLogger("nncf").setLevel(logging.ERROR)
    side = settings["predict"]["window"]
    patches = [pixels[None] for pixels, _ in windows_of(settings, "train", side, CALIBRATION)]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # its progress bars
        return nncf.quantize(model, nncf.Dataset(patches), subset_size=len(patches),
                             ignored_scope=nncf.IgnoredScope(types=FIXED, validate=False))


def compare(exact, quantised, settings):
    """Mean IoU of both models on windows of the validation tiles, and the share of pixels of the same class."""
    classes, side = len(settings["data"]["classes"]), settings["predict"]["window"]
    windows = list(windows_of(settings, "val", side, CALIBRATION))
    predicted = [[planes.argmax(0).astype(np.uint8) for planes in
                  openvino_engine(model, 1)(pixels for pixels, _ in windows)] for model in (exact, quantised)]
    confusions = [sum(confusion_matrix(labels, found, classes) for (_, labels), found in zip(windows, each))
                  for each in predicted]
    return {"windows": len(windows), "mean_iou": float(mean_iou(confusions[0])),
            "mean_iou_int8": float(mean_iou(confusions[1])),
            "same": float(np.mean([one == other for one, other in zip(*predicted)]))}
