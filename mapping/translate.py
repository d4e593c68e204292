"""The network made OpenVINO's, once, into runs/<run>/engine/<precision>_<window>.xml, .bin and .json.

From then on it runs without TensorFlow, in less memory. For 8 bit its ranges are calibrated on windows of the training
tiles, and windows of the validation tiles say what it costs (post-training quantisation by NNCF, with its defaults).
"""
import contextlib
import functools
import io
import json
import logging
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from multiprocessing import get_context

import numpy as np

from base.code import code_sha256
from base.command import quiet_stderr
from base.files import replacing, sha256
from base.problem import Problem
from imagery.arrays import IGNORE, cut, starts
from imagery.scores import confusion_matrix, mean_iou
from imagery.tiles import open_prepared
from mapping.engines import (
    activation_bytes,
    engine_files,
    graph_of,
    load_network,
    openvino_engine,
)

CALIBRATION = 24  # windows at most, to calibrate on and to compare on
FIXED = ["AvgPool", "Divide", "Power", "Subtract", "ReduceMean", "Interpolate"]  # local contrast, logits: in float32


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
