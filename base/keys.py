"""What each key of a settings file may be. A kind of value is a pair: what is expected, in words, and whether
a value is that.
"""
import re
import sys
from pathlib import Path

# -- kinds of values --------------------------------------------------------------------------------------

def is_number(value, kinds=(int, float)):
    return isinstance(value, kinds) and not isinstance(value, bool)


def whole(low, high):
    return f"a whole number from {low} to {high}", lambda v: is_number(v, int) and low <= v <= high


def number(low, high):
    return f"a number from {low:g} to {high:g}", lambda v: is_number(v) and low <= v <= high


def one_of(*choices):
    kind = type(choices[0])
    return f"one of {', '.join(map(str, choices))}", lambda v: type(v) is kind and v in choices


def list_of(kind, low=0, unique=True):
    what, fits = kind
    several = f"at least {low} " if low else ""
    return (f"a list of {several}{'different ' if unique else ''}entries, each {what}",
            lambda v: isinstance(v, list) and len(v) >= low and all(map(fits, v))
            and (not unique or len(set(map(str, v))) == len(v)))


def either(word, kind):
    return f"{word} or {kind[0]}", lambda v: v == word or kind[1](v)


def optional(kind):
    return f"null or {kind[0]}", lambda v: v is None or kind[1](v)


def map_of(names, kind, low=1):
    return (f"a mapping of {names[0]} to {kind[0]}",
            lambda v: isinstance(v, dict) and len(v) >= low
            and all(map(names[1], v)) and all(map(kind[1], v.values())))


def two(kind, low_high=lambda low, high: low < high):
    """[low, high], both of a kind, in their order."""
    return lambda v: isinstance(v, list) and len(v) == 2 and all(map(kind[1], v)) and low_high(*v)


def is_text(value):
    return isinstance(value, str) and value.strip() != "" and re.search("[\0\ud800-\udfff]", value) is None


def is_pattern(value):
    return (is_text(value) and ("{tile}" in value or "{padded}" in value) and not Path(value).is_absolute()
            and ".." not in Path(value).parts)


def is_tile(value):
    return is_text(value) and re.fullmatch(r"[^/\\.\-\x00-\x1f][^/\\\x00-\x1f]*", value) is not None


def is_colour(value):
    return isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value) is not None


TEXT = "text", is_text
PATTERN = "a path below data.raw with {tile} or {padded} in it", is_pattern
TILE = "a tile name (no slash, no leading dot or dash)", is_tile
COLOUR = 'a colour as "#rrggbb"', is_colour
SWITCH = "true or false", lambda v: isinstance(v, bool)
VALUE = whole(0, 65_535)
COLOUR_OR_VALUE = 'a colour as "#rrggbb" or a value from 0 to 65535', lambda v: is_colour(v) or VALUE[1](v)
COLOUR_OR_NUMBER = ('a colour as "#rrggbb" or a finite number (NaN is no data anyway)',
                    lambda v: is_colour(v) or is_number(v) and abs(v) <= sys.float_info.max)
LIMITS = "[low, high], two rising numbers", two(number(-1e9, 1e9))
LIMITS_OF_BANDS = list_of(optional(LIMITS), low=1, unique=False)
SCALE = ("null, [low, high] in rising order, or a list of these, one for each band",
         lambda v: v is None or LIMITS[1](v) or LIMITS_OF_BANDS[1](v))
SCALE_OR_AUTO = (f"auto, {SCALE[0]}",
                 lambda v: v == "auto" or SCALE[1](v)
                 or list_of(either("auto", optional(LIMITS)), low=1, unique=False)[1](v))
WEIGHTS = map_of(TEXT, number(0, 1e6))
POWER_OR_WEIGHTS = ("a number from 0 to 1 or a mapping of every class to its weight",
                    lambda v: number(0, 1)[1](v) or WEIGHTS[1](v))
MOMENTUM = ("two numbers from 0 to 0.9999, [at the ends, at the peak]",
            two(number(0, 0.9999), lambda *_: True))
RANGE = "[low, high] from 0.25 to 4", two(number(0.25, 4), lambda low, high: low <= high)

# -- the keys ---------------------------------------------------------------------------------------------

KEYS = {
    "seed": whole(0, 2**31 - 1),
    "data.raw": TEXT, "data.prepared": TEXT, "data.image": PATTERN, "data.label": PATTERN,
    "data.eroded_label": optional(PATTERN), "data.extra": optional(PATTERN),
    "data.assume_crs": optional(TEXT), "data.bands": list_of(whole(1, 64), low=1), "data.scale": SCALE,
    "data.nodata": optional(COLOUR_OR_NUMBER),
    "data.classes": map_of(TEXT, COLOUR, low=2), "data.label_values": optional(map_of(TEXT, VALUE)),
    "data.ignore_colours": list_of(COLOUR_OR_VALUE), "data.tolerance": whole(0, 255),
    "data.max_unknown": number(0, 1), "data.allow_overlap": list_of(TILE),
    "split.train": list_of(TILE, low=1), "split.val": list_of(TILE, low=1),
    "split.test": list_of(TILE, low=1),
    "input.patch_size": whole(16, 4096), "input.batch_size": whole(1, 4096),
    "input.stride": either("random", whole(1, 4096)), "input.aim": map_of(TEXT, number(0, 1), low=0),
    "augment.views": SWITCH, "augment.scale": RANGE, "augment.brightness": number(0, 0.9),
    "augment.contrast": number(0, 0.9), "augment.saturation": number(0, 1), "augment.hue": number(0, 0.5),
    "model.width": whole(1, 512), "model.depth": whole(1, 7), "model.residual": one_of("concat", "add"),
    "model.centre": one_of("plain", "serial", "parallel"), "model.stem": one_of(1, 2, 4),
    "model.local_contrast": list_of(whole(1, 256)),
    "lr_find.start": number(1e-10, 1), "lr_find.end": number(1e-8, 1000), "lr_find.steps": whole(10, 10_000),
    "train.epochs": whole(1, 99_999), "train.max_lr": either("auto", number(1e-10, 1000)),
    "train.momentum": MOMENTUM,
    "train.loss": map_of(one_of("ce", "focal", "jaccard", "dice", "lovasz"), number(1e-6, 1e6)),
    "train.label_smoothing": number(0, 0.5), "train.class_weights": POWER_OR_WEIGHTS,
    "train.optimizer": one_of("sgd", "adamw"), "train.weight_decay": number(0, 1),
    "train.clip_norm": number(0, 1e6), "train.ema": number(0, 0.9999),
    "train.early_stopping": whole(0, 100_000), "train.mixed_precision": either("bfloat16", SWITCH),
    "train.jit": SWITCH, "train.tensorboard": SWITCH,
    "predict.window": whole(16, 8192), "predict.overlap": number(0, 0.9),
    "predict.views": list_of(whole(0, 7), low=1), "predict.batch_size": whole(1, 1024),
    "predict.engine": one_of("auto", "tensorflow", "openvino"),
    "predict.precision": one_of("float32", "bfloat16", "int8"), "predict.scale": SCALE_OR_AUTO,
    "predict.resample": SWITCH, "predict.compare": SWITCH,
    "predict.also": list_of(one_of("confidence", "probabilities", "colours", "polygons")),
    "predict.sieve": whole(0, 2**31 - 1),
    "evaluate.erode": whole(0, 100), "evaluate.reach": whole(1, 100), "evaluate.leave_out": list_of(TEXT),
    "report.title": TEXT, "report.max_pixels": whole(100, 10_000),
}
SECTIONS = list(dict.fromkeys(key.split(".")[0] for key in KEYS))
BESIDE = (".confidence", ".probabilities", ".colours", ".one_view", ".side_by_side")  # ends of maps' names
