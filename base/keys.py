"""What each key of a settings file may be. A kind of value is a pair: what is expected, in words, and whether
a value is that.
"""
import difflib
import re
import sys
from pathlib import Path

from base.problem import shown

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


def is_path(value):
    """True of a path below data.raw, whose fields, if any, are those of file patterns."""
    return (is_text(value) and not Path(value).is_absolute() and ".." not in Path(value).parts
            and set(re.findall(r"\{([a-z_]+)\}", value)) <= {"tile", "padded", "folder", "name"})


def is_pattern(value):
    """True of a path that tells each tile from the others."""
    return is_path(value) and ("{tile}" in value or "{padded}" in value
                               or "{folder}" in value and "{name}" in value)


def is_tile(value):
    part = r"[^/\\.@\-\x00-\x1f*?\[\]][^/\\\x00-\x1f*?\[\]]*"
    return is_text(value) and re.fullmatch(f"{part}(/{part})*", value) is not None


def is_glob(value):
    return re.search(r"[*?\[]", value) is not None


def is_entry(value):
    """True of a tile name, a glob pattern of tile names, and a list file, as entries of split are."""
    if not is_text(value) or re.search(r"[\x00-\x1f]", value):
        return False
    return is_tile(value) or (len(value) > 1 if value.startswith("@") else is_glob(value))


def is_colour(value):
    return isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value) is not None


def is_model(value):
    return is_text(value) and Path(value).name == "model.keras" and len(Path(value).parts) > 1


TEXT = "text", is_text
MODEL = "the path of another run's model, such as runs/x/model.keras", is_model
PATTERN = "a path below data.raw with {tile}, {padded}, or {folder} and {name} in it", is_pattern
PATH = "a path below data.raw, perhaps with {tile}, {padded}, {folder} or {name} in it", is_path
TILE = "a tile name (no * ? [ ], no part with a leading dot, dash or @)", is_tile
TILES = f'{TILE[0]}, a pattern of names ("train/*") or a list file ("@train.txt")', is_entry
COLOUR = 'a colour as "#rrggbb"', is_colour
SWITCH = "true or false", lambda v: isinstance(v, bool)
VALUE = whole(0, 65_535)
TEXT_OR_VALUE = "text or a value from 0 to 65535", lambda v: is_text(v) or VALUE[1](v)
VALUES = (f"{TEXT_OR_VALUE[0]}, or a list of these",
          lambda v: TEXT_OR_VALUE[1](v) or list_of(TEXT_OR_VALUE, low=1)[1](v))
ORDER = ("null (as in data.classes), file (as polygons stand there) or a list of all classes, lowest first",
         lambda v: v in (None, "file") or list_of(TEXT, low=1)[1](v))
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
BLOCK = re.compile(r"(.+)/([0-9]{2,})_([0-9]{2,})")  # the name of a block: raster, row and column
BLOCKS = ("a mapping of side and guard (pixels), shares (of train, val and test, together 1) and seed",
          lambda v: isinstance(v, dict) and set(v) == {"side", "shares", "seed", "guard"}
          and whole(32, 2**16)[1](v["side"]) and whole(0, 2**16)[1](v["guard"])
          and whole(0, 2**31 - 1)[1](v["seed"]) and list_of(number(0, 1), unique=False)[1](v["shares"])
          and len(v["shares"]) == 3 and abs(sum(v["shares"]) - 1) < 1e-6)
ENCODERS = ("efficientnet_lite0", "mobilenet_v3_large", "efficientnet_v2_b0", "efficientnet_v2_b3",
            "convnext_tiny")
PLACES = ("three entries, each null or another place in data.bands, counted from 1",
          lambda v: list_of(optional(whole(1, 64)), unique=False)[1](v) and len(v) == 3
          and len(set(filter(None, v))) == len(list(filter(None, v))))
VIEWS = ("true, false or a list of different numbers of views, 0 to 7",
         lambda v: isinstance(v, bool) or list_of(whole(0, 7), low=1)[1](v))
RANGE = "[low, high] from 0.25 to 4", two(number(0.25, 4), lambda low, high: low <= high)

# -- the keys ---------------------------------------------------------------------------------------------

KEYS = {
    "seed": whole(0, 2**31 - 1),
    "data.raw": TEXT, "data.prepared": TEXT, "data.image": PATTERN, "data.label": PATH,
    "data.eroded_label": optional(PATH), "data.extra": optional(PATH),
    "data.assume_crs": optional(TEXT), "data.bands": list_of(whole(1, 64), low=1), "data.scale": SCALE,
    "data.nodata": optional(COLOUR_OR_NUMBER),
    "data.classes": map_of(TEXT, COLOUR, low=2), "data.label_values": optional(map_of(TEXT, VALUES)),
    "data.remote": SWITCH, "data.area": optional(PATH), "data.label_field": optional(TEXT),
    "data.label_layer": optional(TEXT), "data.label_order": ORDER,
    "data.background": optional(TEXT), "data.all_touched": SWITCH,
    "data.ignore_colours": list_of(TEXT_OR_VALUE), "data.tolerance": whole(0, 255),
    "data.max_unknown": number(0, 1), "data.allow_overlap": list_of(TILE),
    "split.train": list_of(TILES, low=1), "split.val": list_of(TILES), "split.test": list_of(TILES),
    "split.blocks": optional(BLOCKS),
    "input.patch_size": whole(16, 4096), "input.batch_size": whole(1, 4096),
    "input.stride": either("random", whole(1, 4096)), "input.aim": map_of(TEXT, number(0, 1), low=0),
    "augment.views": VIEWS, "augment.scale": RANGE, "augment.brightness": number(0, 0.9),
    "augment.contrast": number(0, 0.9), "augment.saturation": number(0, 1), "augment.hue": number(0, 0.5),
    "model.encoder": one_of("none", *ENCODERS), "model.weights": TEXT, "model.rgb": PLACES,
    "model.width": whole(1, 512), "model.depth": whole(1, 7), "model.residual": one_of("concat", "add"),
    "model.centre": one_of("plain", "serial", "parallel"), "model.stem": one_of(1, 2, 4),
    "model.local_contrast": list_of(whole(1, 256)),
    "lr_find.start": number(1e-10, 1), "lr_find.end": number(1e-8, 1000), "lr_find.steps": whole(10, 10_000),
    "train.epochs": whole(1, 99_999), "train.start_from": optional(MODEL),
    "train.encoder_rate": number(0, 1), "train.freeze_epochs": whole(0, 99_999),
    "train.max_lr": either("auto", number(1e-10, 1000)),
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
    "predict.precision": one_of("float32", "bfloat16", "int8"), "predict.force": SWITCH,
    "predict.scale": SCALE_OR_AUTO, "predict.resample": SWITCH, "predict.mosaic": SWITCH,
    "predict.compare": SWITCH,
    "predict.also": list_of(one_of("confidence", "probabilities", "colours", "polygons", "geopackage")),
    "predict.sieve": whole(0, 2**31 - 1), "predict.simplify": number(0, 1e6),
    "evaluate.erode": whole(0, 100), "evaluate.reach": whole(1, 100), "evaluate.leave_out": list_of(TEXT),
    "report.title": TEXT, "report.max_pixels": whole(100, 10_000),
}
SECTIONS = list(dict.fromkeys(key.split(".")[0] for key in KEYS))
BESIDE = (".confidence", ".uncalibrated", ".probabilities", ".colours", ".polygons", ".one_view",
          ".side_by_side")  # of names


def problem_of(key, value):
    """What is wrong with a key and its value, as text; None where nothing is."""
    if key in KEYS:
        what, fits = KEYS[key]
        if fits(value):
            return None
        wrong, hint = value, ""
        if isinstance(value, list) and any(what.endswith(kind[0]) for kind in (TILE, TILES)):
            wrong = [name for name in value if not is_entry(name)] or value
            hint = '; put a name that is a number in quotes: "12"' if any(map(is_number, wrong)) else ""
        return f"{shown(wrong)}, expected {what}{hint}"
    if key in SECTIONS:
        return f"{shown(value)}, expected its keys indented below it"
    if key == "base":
        return f"{shown(value)}, expected none in a file that is a base itself; name that other file instead"
    near = difflib.get_close_matches(key, [*KEYS, *SECTIONS, "base"], n=1, cutoff=0.5)
    return f"unknown, expected {f'{near[0]}?' if near else 'a key of params.yaml'}; rename or remove it"
