"""The network made OpenVINO's, once, into runs/<run>/engine/<precision>_<window>.xml, .bin and .json: it then
runs without TensorFlow, in less memory. For 8 bit (NNCF's post-training quantisation, its defaults) ranges
are calibrated on windows of the training tiles; windows of the validation tiles say what it costs."""
import contextlib
import functools
import hashlib
import io
import itertools
import logging
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from multiprocessing import get_context

import numpy as np

from base.code import code_of
from base.command import quiet_stderr
from base.files import replacing, sha256
from base.problem import Problem
from base.tables import read_record, write_record
from imagery.arrays import IGNORE, cut, starts
from imagery.scores import confusion_matrix, mean_iou
from imagery.tiles import open_prepared
from mapping.engines import answer_one, engine_files, graph_of, growth, load_network, openvino_engine

CALIBRATION = 24  # windows at most, to calibrate on and to test on
FIXED = ["AvgPool", "Divide", "Power", "Subtract", "ReduceMean", "Interpolate"]  # these in float32


def made_from(facts, precision):
    """Digest of what decides a translation: the model (with its settings and tiles), tools, code."""
    tools = ["openvino", "nncf"] if precision == "int8" else ["openvino"]
    parts = [facts["sha256"], *map(version, tools), code_of("mapping/translate.py")]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def is_translated(run, facts, precision, window):
    """True where a translated network stands: whole, and this model's."""
    xml, weights, about = engine_files(run, precision, window)
    try:
        record = read_record(about, "predict.py")
        own = [record[key] for key in ("made_from", "xml", "bin")]
        return own == [made_from(facts, precision), sha256(xml), sha256(weights)]
    except (Problem, OSError, KeyError):
        return False


def ensure_engine(run, facts, settings):
    """Makes the translated network where it is missing, in a process with which TensorFlow's memory goes."""
    window, precision = settings["predict"]["window"], settings["predict"]["precision"]
    if is_translated(run, facts, precision, window):
        return
    print(f"translating the network for OpenVINO, {precision}, windows of {window} px", flush=True)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            line = pool.submit(translate, run, facts, settings).result()
        except BrokenProcessPool:
            raise Problem(f"engine in {run / 'engine'}: its making was killed, expected enough free memory; "
                          "lower predict.window", code=4) from None
        except BaseException:
            for process in pool._processes.values():
                process.kill()  # a translation that goes on would hold up whoever stops this
            raise
    print(line, flush=True)


def translate(run, facts, settings):
    """Writes the network as OpenVINO's files, for windows of predict.window; returns a line about it."""
    import openvino as ov
    side, precision = settings["predict"]["window"], settings["predict"]["precision"]
    xml, weights, about = engine_files(run, precision, side)
    exact = convert(load_network(run, facts), side)
    model = quantise(exact.clone(), settings) if precision == "int8" else without_concatenations(exact)
    window_bytes = growth(lambda: answer_one(openvino_engine(model, 1), side, len(facts["scale"])))
    record = {"made_from": made_from(facts, precision), "window_bytes": window_bytes}
    line = f"translated: {xml}"
    if precision == "int8":
        record["check"] = price = measure_price(exact, model, settings)
        line = (f"int8: mean IoU {100 * price['mean_iou']:.2f} % in float32, "
                f"{100 * price['mean_iou_int8']:.2f} % in int8, on {price['windows']} windows of the "
                f"validation tiles; {100 * price['same']:.1f} % of their pixels are given the same class")
    about.unlink(missing_ok=True)
    with replacing(xml) as temporary, replacing(weights):  # OpenVINO writes both
        try:
            ov.save_model(model, temporary, compress_to_fp16=False)
        except RuntimeError as error:  # all that OpenVINO says of a disk
            raise Problem(f"engine {xml}: not written ({' '.join(str(error).split())}), expected room on the "
                          "disk; free some space and run the same command again", code=4) from None
    write_record(about, {"xml": sha256(xml), "bin": sha256(weights), **record})
    return line


def convert(network, side):
    """The Keras network as OpenVINO's model, for patches of this side, in float32 also if it was trained in
    mixed precision: OpenVINO does not take a graph in bfloat16."""
    import keras
    import openvino as ov

    def anew(layer):
        config = layer.get_config()
        return type(layer).from_config({key: "float32" if key == "dtype" else config[key] for key in config})

    in_float32 = keras.models.clone_model(network, clone_function=anew)
    in_float32.set_weights(network.get_weights())
    with quiet_stderr():
        return ov.convert_model(graph_of(in_float32, 1, side, side, network.input_shape[-1]))


def without_concatenations(model):
    """A translated network, rewritten in place: a convolution of concatenated planes becomes the sum of the
    parts' convolutions, since OpenVINO copies what it concatenates, and the softmax is taken of planes, as
    they are wanted. The same probabilities but for rounding, a few per cent sooner."""
    from openvino import opset13 as op

    def parts_of(planes):
        node = planes.get_node()
        joined = node.get_type_name() == "Concat" and node.get_attributes()["axis"] == 1
        return sum(map(parts_of, node.input_values()), []) if joined else [planes]

    keys = ("strides", "pads_begin", "pads_end", "dilations", "auto_pad")
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Convolution" and len(parts := parts_of(node.input_value(0))) > 1:
            how = [node.get_attributes()[key] for key in keys]
            sizes = [part.get_shape()[1] for part in parts]
            kernels = op.variadic_split(node.input_value(1), 1, sizes).outputs()
            sums = [op.convolution(part, kernel, *how) for part, kernel in zip(parts, kernels)]
            node.output(0).replace(functools.reduce(op.add, sums).output(0))
        elif node.get_type_name() == "Softmax":
            back, = (user.get_node() for user in node.output(0).get_target_inputs())  # graph_of's, to planes
            planes = op.transpose(node.input_value(0), back.input_value(1))
            back.output(0).replace(op.softmax(planes, 1).output(0))
    return model


def windows_of(settings, role, side, count):
    """Yields (pixels uint8 [S, S, B], labels uint8 [S, S]) of at most `count` of a role's windows, evenly."""
    corners = []
    for tile in (open_prepared(settings["data"], name) for name in settings["split"][role]):
        along = (starts(size, side, side) for size in tile.labels.shape)
        corners += [(tile, row, col) for row, col in itertools.product(*along)]
    for number in np.unique(np.linspace(0, len(corners) - 1, min(count, len(corners))).astype(int)):
        tile, row, col = corners[number]
        labels = cut(tile.labels, row, col, side).copy()
        inside = tile.labels.shape[0] - row, tile.labels.shape[1] - col
        labels[inside[0]:] = labels[:, inside[1]:] = IGNORE  # mirrored there
        yield np.ascontiguousarray(cut(tile.image, row, col, side)), labels


def interpolations(model):
    """Names of the convolutions that model.enlarge interpolates by: each feeds pixels to their places."""
    fed = (node.input_value(0).get_node() for node in model.get_ordered_ops()
           if node.get_type_name() == "DepthToSpace")
    return [node.get_friendly_name() for node in fed if node.get_type_name() == "Convolution"]


def quantise(model, settings):
    """The model in 8 bit, its ranges taken from windows of the training tiles."""
    import nncf
    logging.getLogger("nncf").setLevel(logging.ERROR)
    side = settings["predict"]["window"]
    patches = [pixels[None] for pixels, _ in windows_of(settings, "train", side, CALIBRATION)]
    silent = io.StringIO()  # its progress bars
    with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
        return nncf.quantize(model, nncf.Dataset(patches), subset_size=len(patches),
                             ignored_scope=nncf.IgnoredScope(types=FIXED, names=interpolations(model),
                                                             validate=False))


def measure_price(exact, quantised, settings):
    """What 8 bit costs on windows of the validation tiles: {"windows": how many, "mean_iou", "mean_iou_int8":
    0..1, "same": share of the pixels that both models give the same class}."""
    classes, side = len(settings["data"]["classes"]), settings["predict"]["window"]
    pixels, labels = zip(*windows_of(settings, "val", side, CALIBRATION))
    predicted = []
    for model in (exact, quantised):
        answers = openvino_engine(model, 1)(pixels)
        predicted.append(np.stack([planes.argmax(0) for planes in answers]).astype(np.uint8))
    scores = [float(mean_iou(confusion_matrix(np.stack(labels), each, classes))) for each in predicted]
    return {"windows": len(pixels), "mean_iou": scores[0], "mean_iou_int8": scores[1],
            "same": float(np.mean(predicted[0] == predicted[1]))}
