"""The network made OpenVINO's, once, into runs/<run>/engine/<precision>_<window>.xml, .bin and .json: it then
runs without TensorFlow, in less memory. For 8 bit (NNCF's post-training quantisation, its defaults) ranges
are calibrated on windows of the training tiles; windows of the validation tiles say what it costs, and where
that is too much, it is refused."""
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
from imagery.tiles import open_tiles
from mapping.engines import answer_one, engine_files, graph_of, growth, load_network, openvino_engine

CALIBRATION = 24  # windows at most, to calibrate on
TESTED = 24 * 512**2  # pixels, to test on: of small windows more are taken, of large ones no fewer than 24
DEAREST = 0.01  # of mean IoU: what 8 bit may cost
FIXED = ["AvgPool", "Divide", "Power", "Subtract", "ReduceMean", "Interpolate"]  # these in float32
GROWS = "grows_"  # before the name of a convolution that stands for a transposed one


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
    """Makes the translated network where it is missing. Problem (exit 2) where 8 bit costs too much of it."""
    window, precision = settings["predict"]["window"], settings["predict"]["precision"]
    if not is_translated(run, facts, precision, window):
        translate_apart(run, facts, settings)
    if precision == "int8" and not settings["predict"]["force"]:
        check_price(read_record(engine_files(run, precision, window)[2], "predict.py")["check"])


def check_price(price):
    """Problem (exit 2) where 8 bit costs more than DEAREST, by what `measure_price` found."""
    lost = price["mean_iou"] - price["mean_iou_int8"]
    if lost > DEAREST:
        exact, own = 100 * price["mean_iou"], 100 * price["mean_iou_int8"]
        raise Problem(f"settings, key predict.precision: int8, which costs {100 * lost:.2f} points of mean "
                      f"IoU ({exact:.2f} % in float32, {own:.2f} % in int8, on {price['windows']} windows of "
                      f"the validation tiles), expected {100 * DEAREST:g} point at most; set "
                      "predict.precision to float32 or bfloat16, or predict.force to true", code=2)


def translate_apart(run, facts, settings):
    """Translates in a process with which TensorFlow's memory goes."""
    window, precision = settings["predict"]["window"], settings["predict"]["precision"]
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
    mixed precision: OpenVINO does not take a graph in bfloat16. Dense layers become the convolutions that
    they are, in 8 bit much sooner. What follows the scores, interpolation and softmax, is OpenVINO's own, of
    planes."""
    import keras
    import openvino as ov
    from openvino import opset13 as op

    def anew(layer):
        config = layer.get_config()
        if isinstance(layer, keras.layers.Dense):
            same = {key: config[key] for key in ("name", "activation", "use_bias")}
            return keras.layers.Conv2D(layer.units, 1, dtype="float32", **same)
        return type(layer).from_config({key: "float32" if key == "dtype" else config[key] for key in config})

    in_float32 = keras.models.clone_model(network, clone_function=anew)
    in_float32.set_weights([array.reshape(own.shape) for own, array in
                            zip(in_float32.weights, network.get_weights(), strict=True)])
    last = "scores" if any(layer.name == "scores" for layer in network.layers) else "logits"
    in_float32 = keras.Model(in_float32.input, in_float32.get_layer(last).output)
    with quiet_stderr():
        model = ov.convert_model(graph_of(in_float32, 1, side, side, network.input_shape[-1]))
    scores = interpolated(model.get_results()[0].input_value(0), side)
    return without_transposed(ov.Model([op.softmax(scores, 1)], model.get_parameters()))


def interpolated(scores, side):
    """An output float32 [1, C, s, s] as [1, C, side, side], as model.enlarge interpolates, and sooner. The
    classes stand there as patches of one plane each, or OpenVINO puts them side by side before it begins."""
    from openvino import opset13 as op
    _, classes, small, _ = scores.get_shape()
    if small == side:
        return scores
    planes = op.reshape(scores, np.array([classes, 1, small, small]), False)
    large = op.interpolate(planes, np.array([side, side]), "linear_onnx", "sizes", axes=np.array([2, 3]),
                           coordinate_transformation_mode="half_pixel")
    return op.reshape(large, np.array([1, classes, side, side]), False).output(0)


def without_transposed(model):
    """A translated network, rewritten in place: a transposed convolution whose kernels, of 2 x 2, do not
    overlap becomes a convolution of single pixels to four times the filters, which are then put beside each
    other. The same numbers, sooner, and in 8 bit, in which OpenVINO has few transposed ones."""
    from openvino import opset13 as op
    for node in model.get_ordered_ops():
        if node.get_type_name() != "ConvolutionBackpropData":
            continue
        constant, strides = node.input_value(1).get_node(), node.get_attributes()["strides"]
        sizes = [*constant.get_output_shape(0)[2:], *strides]
        if constant.get_type_name() == "Constant" and sizes == [2, 2, 2, 2]:
            kernel = constant.get_data().transpose(2, 3, 1, 0)  # [row, column, filter, input]
            kernel = kernel.reshape(-1, kernel.shape[-1], 1, 1)
            single = op.convolution(node.input_value(0), np.ascontiguousarray(kernel), [1, 1], [0, 0], [0, 0],
                                    [1, 1])
            single.set_friendly_name(GROWS + node.get_friendly_name())
            node.output(0).replace(op.depth_to_space(single, "blocks_first", 2).output(0))
    return model


def without_concatenations(model):
    """A translated network, rewritten in place: a convolution of concatenated planes becomes the sum of the
    parts' convolutions, since OpenVINO copies what it concatenates. The same probabilities but for rounding,
    a few per cent sooner."""
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
    return model


def windows_of(settings, role, side, count):
    """Yields (pixels uint8 [S, S, B], labels uint8 [S, S]) of at most `count` of a role's windows, evenly."""
    corners = []
    for tile in open_tiles(settings["data"], settings["split"][role]):
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
    names = [node.get_friendly_name() for node in fed if node.get_type_name() == "Convolution"]
    return [name for name in names if not name.startswith(GROWS)]


def quantise(model, settings):
    """The model in 8 bit, its ranges taken from windows of the training tiles. Weights take half of the 8
    bit's range (overflow_fix): processors without VNNI add the products of two in 16 bit, which overflows
    otherwise, and so all processors give the same map."""
    import nncf
    logging.getLogger("nncf").setLevel(logging.ERROR)
    side = settings["predict"]["window"]
    patches = [pixels[None] for pixels, _ in windows_of(settings, "train", side, CALIBRATION)]
    silent = io.StringIO()  # its progress bars
    with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
        return nncf.quantize(
            model, nncf.Dataset(patches), subset_size=len(patches),
            ignored_scope=nncf.IgnoredScope(types=FIXED, names=interpolations(model), validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE))


def measure_price(exact, quantised, settings):
    """What 8 bit costs on windows of the validation tiles: {"windows": how many, "mean_iou", "mean_iou_int8":
    0..1, "same": share of the pixels that both models give the same class}."""
    classes, side = len(settings["data"]["classes"]), settings["predict"]["window"]
    pixels, labels = zip(*windows_of(settings, "val", side, max(CALIBRATION, TESTED // side**2)))
    predicted = []
    for model in (exact, quantised):
        answers = openvino_engine(model, 1)(pixels)
        predicted.append(np.stack([planes.argmax(0) for planes in answers]).astype(np.uint8))
    scores = [float(mean_iou(confusion_matrix(np.stack(labels), each, classes))) for each in predicted]
    return {"windows": len(pixels), "mean_iou": scores[0], "mean_iou_int8": scores[1],
            "same": float(np.mean(predicted[0] == predicted[1]))}
