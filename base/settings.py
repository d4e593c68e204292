"""The settings of a run: what each key may be, and what keys may be together; refused with line numbers.

A settings file is a run: demo.yaml writes under runs/demo. Every key is required, none is guessed.
"""
import difflib
import math
import re
from pathlib import Path

from base.problem import Problem, shown
from base.strict_yaml import read_yaml


def whole(low, high):
    return (f"a whole number from {low} to {high}",
            lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high)


def number(low, high):
    return (f"a number from {low:g} to {high:g}",
            lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and low <= v <= high)


def one_of(*choices):
    return f"one of {', '.join(map(str, choices))}", lambda v: isinstance(v, str) and v in choices


def one_number_of(*choices):
    return (f"one of {', '.join(map(str, choices))}",
            lambda v: isinstance(v, int) and not isinstance(v, bool) and v in choices)


def list_of(check, low=0, unique=True):
    what, fits = check
    return (f"a list of {f'at least {low} ' if low else ''}{'different ' if unique else ''}entries, each {what}",
            lambda v: isinstance(v, list) and len(v) >= low and all(map(fits, v))
            and (not unique or len(set(map(str, v))) == len(v)))


def either(word, check):
    return f"{word} or {check[0]}", lambda v: v == word or check[1](v)


def optional(check):
    return f"null or {check[0]}", lambda v: v is None or check[1](v)


def map_of(names, check, low=1):
    return (f"a mapping of {names[0]} to {check[0]}",
            lambda v: isinstance(v, dict) and len(v) >= low and all(names[1](k) and check[1](x) for k, x in v.items()))


TEXT = "text", lambda v: isinstance(v, str) and v.strip() != "" and re.search("[\0\ud800-\udfff]", v) is None
PATTERN = ("a path below data.raw with {tile} or {padded} in it",
           lambda v: TEXT[1](v) and ("{tile}" in v or "{padded}" in v) and not Path(v).is_absolute()
           and ".." not in Path(v).parts)
TILE = ("a tile name (no slash, no leading dot or dash)",
        lambda v: TEXT[1](v) and re.fullmatch(r"[^/\\.\-\x00-\x1f][^/\\\x00-\x1f]*", v) is not None)
COLOUR = 'a colour as "#rrggbb"', lambda v: isinstance(v, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", v) is not None
SWITCH = "true or false", lambda v: isinstance(v, bool)
VALUE = whole(0, 65_535)
COLOUR_OR_VALUE = "a colour as \"#rrggbb\" or a value from 0 to 65535", lambda v: COLOUR[1](v) or VALUE[1](v)
LIMITS = ("[low, high], two rising numbers",
          lambda v: isinstance(v, list) and len(v) == 2 and all(map(number(-1e9, 1e9)[1], v)) and v[0] < v[1])
SCALE = ("null, [low, high] in rising order, or a list of these, one for each band",
         lambda v: v is None or LIMITS[1](v)
         or (isinstance(v, list) and len(v) > 0 and all(x is None or LIMITS[1](x) for x in v)))
POWER_OR_WEIGHTS = ("a number from 0 to 1 or a mapping of every class to its weight",
                    lambda v: number(0, 1)[1](v) or map_of(TEXT, number(0, 1e6))[1](v))
RANGE = ("[low, high] from 0.25 to 4",
         lambda v: isinstance(v, list) and len(v) == 2 and all(map(number(0.25, 4)[1], v)) and v[0] <= v[1])
KEYS = {
    "seed": whole(0, 2**31 - 1),
    "data.raw": TEXT, "data.prepared": TEXT, "data.image": PATTERN, "data.label": PATTERN,
    "data.eroded_label": optional(PATTERN), "data.extra": optional(PATTERN), "data.assume_crs": optional(TEXT),
    "data.bands": list_of(whole(1, 64), low=1), "data.scale": SCALE, "data.classes": map_of(TEXT, COLOUR, low=2),
    "data.label_values": optional(map_of(TEXT, VALUE)), "data.ignore_colours": list_of(COLOUR_OR_VALUE),
    "data.tolerance": whole(0, 255), "data.max_unknown": number(0, 1), "data.allow_overlap": list_of(TILE),
    "split.train": list_of(TILE, low=1), "split.val": list_of(TILE, low=1), "split.test": list_of(TILE, low=1),
    "input.patch_size": whole(16, 4096), "input.batch_size": whole(1, 4096),
    "input.stride": either("random", whole(1, 4096)), "input.aim": map_of(TEXT, number(0, 1), low=0),
    "augment.views": SWITCH, "augment.scale": RANGE, "augment.brightness": number(0, 0.9),
    "augment.contrast": number(0, 0.9), "augment.saturation": number(0, 1), "augment.hue": number(0, 0.5),
    "model.width": whole(1, 512), "model.depth": whole(1, 7), "model.residual": one_of("concat", "add"),
    "model.centre": one_of("plain", "serial", "parallel"), "model.stem": one_number_of(1, 2, 4),
    "model.local_contrast": list_of(whole(1, 256)),
    "lr_find.start": number(1e-10, 1), "lr_find.end": number(1e-8, 1000), "lr_find.steps": whole(10, 10_000),
    "train.epochs": whole(1, 99_999), "train.max_lr": either("auto", number(1e-10, 1000)),
    "train.momentum": list_of(number(0, 0.9999), low=2, unique=False),
    "train.loss": map_of(one_of("ce", "focal", "jaccard", "dice", "lovasz"), number(1e-6, 1e6)),
    "train.label_smoothing": number(0, 0.5), "train.class_weights": POWER_OR_WEIGHTS,
    "train.optimizer": one_of("sgd", "adamw"), "train.weight_decay": number(0, 1), "train.clip_norm": number(0, 1e6),
    "train.ema": number(0, 0.9999), "train.early_stopping": whole(0, 100_000),
    "train.mixed_precision": either("bfloat16", SWITCH), "train.jit": SWITCH, "train.tensorboard": SWITCH,
    "predict.window": whole(16, 8192), "predict.overlap": number(0, 0.9),
    "predict.views": list_of(whole(0, 7), low=1), "predict.batch_size": whole(1, 1024),
    "predict.engine": one_of("auto", "tensorflow", "openvino"),
    "predict.precision": one_of("float32", "bfloat16", "int8"),
    "predict.resample": SWITCH, "predict.compare": SWITCH, "predict.sieve": whole(0, 2**31 - 1),
    "predict.also": list_of(one_of("confidence", "probabilities", "colours", "polygons")),
    "evaluate.erode": whole(0, 100), "evaluate.reach": whole(1, 100), "evaluate.leave_out": list_of(TEXT),
    "report.title": TEXT, "report.max_pixels": whole(100, 10_000),
}
BESIDE = (".confidence", ".probabilities", ".colours", ".one_view", ".side_by_side")  # ends of maps' names
SECTIONS = list(dict.fromkeys(key.split(".")[0] for key in KEYS))


def check_labels(data):
    """[(key, problem)] of the ways in which classes, colours and values do not go together."""
    values, ignored = data["label_values"], data["ignore_colours"]
    colours = [c.lower() for c in [*data["classes"].values(), *(c for c in ignored if isinstance(c, str))]]
    problems = []
    if len(set(colours)) < len(colours):
        problems.append(("data.classes", "a colour that stands twice in data.classes and data.ignore_colours, expected "
                         "different ones"))
    if values is None and not all(isinstance(c, str) for c in ignored):
        problems.append(("data.ignore_colours", f"{shown(ignored)}, expected colours, as data.label_values is null"))
    if values is not None:
        if not all(isinstance(v, int) for v in ignored):
            problems.append(("data.ignore_colours", f"{shown(ignored)}, expected values, as data.label_values is set"))
        if set(values) != set(data["classes"]):
            problems.append(("data.label_values", f"values of {', '.join(values)}, expected one for each of "
                             f"{', '.join(data['classes'])}"))
        together = [*values.values(), *ignored]
        if len(set(together)) < len(together):
            problems.append(("data.label_values", "a value that stands twice in data.label_values and "
                             "data.ignore_colours, expected different ones"))
    return problems


def check_together(settings):
    """[(key, problem)] of what single keys cannot show."""
    data, split, step = settings["data"], settings["split"], coarsest(settings["model"])
    problems = []
    for key in ("input.patch_size", "predict.window"):
        section, name = key.split(".")
        if settings[section][name] % step:
            problems.append((key, f"{settings[section][name]}, expected a multiple of {step} (of model.stem "
                             "times 2 to the power of model.depth, and of each cell of model.local_contrast)"))
    roles = {}
    for role, tiles in split.items():
        for tile in tiles:
            if tile in roles:
                problems.append((f"split.{role}", f"tile {tile}, expected in one role only; it is in "
                                 f"split.{roles[tile]} too"))
            roles.setdefault(tile, role)
    for role, tiles in split.items():
        for tile in tiles:
            clash = [ending for ending in BESIDE if tile.endswith(ending) and tile[: -len(ending)] in roles]
            if clash:
                problems.append((f"split.{role}", f"tile {tile}, expected no name that another tile's map in another "
                                 f"form has ({tile[: -len(clash[0])]} with {clash[0]}); rename it"))
    weights = settings["train"]["class_weights"]
    if isinstance(weights, dict) and (set(weights) != set(data["classes"]) or not any(weights.values())):
        problems.append(("train.class_weights", f"weights of {', '.join(weights)}, expected one for each of "
                         f"{', '.join(data['classes'])}, and not all zero"))
    for name in settings["evaluate"]["leave_out"]:
        if name not in data["classes"]:
            problems.append(("evaluate.leave_out", f"{shown(name)}, expected names of data.classes"))
    if len(settings["evaluate"]["leave_out"]) >= len(data["classes"]):
        problems.append(("evaluate.leave_out", "every class, expected at least one to be left"))
    problems += check_labels(data)
    bands = count_bands(data)
    if data["scale"] and not LIMITS[1](data["scale"]) and len(data["scale"]) != bands:
        problems.append(("data.scale", f"{len(data['scale'])} entries, expected one for each of the {bands} bands of "
                         "data.bands and data.extra"))
    if settings["input"]["stride"] != "random" and settings["input"]["stride"] > settings["input"]["patch_size"]:
        problems.append(("input.stride", f"{settings['input']['stride']}, expected at most input.patch_size, or pixels "
                         "between the patches are never seen"))
    for name in settings["input"]["aim"]:
        if name not in data["classes"]:
            problems.append(("input.aim", f"{shown(name)}, expected names of data.classes"))
    if sum(settings["input"]["aim"].values()) > 1:
        problems.append(("input.aim", f"shares of {sum(settings['input']['aim'].values()):g} together, expected 1 at "
                         "most"))
    if settings["augment"]["hue"] and len(data["bands"]) != 3:
        problems.append(("augment.hue", f"{settings['augment']['hue']:g}, expected 0 unless data.bands are three"))
    if settings["predict"]["engine"] == "tensorflow" and settings["predict"]["precision"] != "float32":
        problems.append(("predict.precision", f"{shown(settings['predict']['precision'])}, expected float32 unless "
                         "predict.engine is openvino or auto"))
    if len(settings["train"]["momentum"]) != 2:
        problems.append(("train.momentum", f"{shown(settings['train']['momentum'])}, expected two numbers, [at the "
                         "ends, at the peak]"))
    if settings["lr_find"]["start"] > settings["lr_find"]["end"] / 10:
        problems.append(("lr_find.start", f"{settings['lr_find']['start']:g}, expected at most a tenth of lr_find.end"))
    return problems


def plainest(value):
    """A value whose whole numbers are written as such: 0.0 is 0."""
    if isinstance(value, dict):
        return {key: plainest(part) for key, part in value.items()}
    if isinstance(value, list):
        return [plainest(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def read_settings(path):
    """The settings {section: {key: value}} (and "seed"); Problem (exit 2) that lists everything wrong in the file."""
    value, lines, problems = read_yaml(path)
    found = {}
    for section, content in value.items():
        if isinstance(content, dict) and section in SECTIONS and section not in KEYS:
            found.update({f"{section}.{key}": (v, lines[section, key]) for key, v in content.items()})
        else:
            found[section] = (content, lines[section,])
    for key, (got, line) in found.items():
        if key in SECTIONS and key not in KEYS:
            problems.append((line, f"key {key}: {shown(got)}, expected its keys indented below it"))
        elif key in value and "." in key and key in KEYS:
            problems.append((line, f"key {key}: at the margin, expected {key.partition('.')[2]} indented below "
                             f"{key.partition('.')[0]}; move it there"))
        elif key not in KEYS:
            near = difflib.get_close_matches(key, [*KEYS, *SECTIONS], n=1, cutoff=0.5)
            problems.append((line, f"key {key}: unknown, expected "
                             + (f"{near[0]}?" if near else "a key of params.yaml") + "; rename or remove it"))
        elif not KEYS[key][1](got):
            problems.append((line, f"key {key}: {shown(got)}, expected {KEYS[key][0]}"))
    problems += [(1, f"key {key}: missing, expected {what}; add it (params.yaml shows every key)")
                 for key, (what, _) in KEYS.items() if key not in found]
    settings = None
    if not problems:
        settings = {section: {} for section in SECTIONS}
        for key in KEYS:  # in an order that is not the file's: the same settings, the same text of them
            section, _, name = key.partition(".")
            if name:
                settings[section][name] = plainest(found[key][0])
            else:
                settings[section] = plainest(found[key][0])
        problems = [(found[key][1], f"key {key}: {text}") for key, text in check_together(settings)]
    if problems:
        raise Problem(*(f"settings in {path}, line {line}, {text}" for line, text in sorted(problems)), code=2)
    return settings


# -- what the settings name -------------------------------------------------------------------------------------------

def run_folder(path):
    """runs/<name of the settings file without suffix>."""
    return Path("runs") / Path(path).stem


def all_tiles(split):
    """The tiles of every role, in the order of the settings."""
    return [tile for tiles in split.values() for tile in tiles]


def coarsest(model):
    """Pixels of the image to one of the network's lowest level, or to a cell of its local contrast: sides of patches
    and windows are multiples of all of these."""
    return math.lcm(model["stem"] * 2 ** model["depth"], *model["local_contrast"])


def count_bands(data):
    """How many bands the network sees: those of data.bands, and the extra raster's where there is one."""
    return len(data["bands"]) + (data["extra"] is not None)


def differences(settings, others, path=""):
    """[(key, value, other value)] of the keys in which two settings differ, one of them perhaps missing (None)."""
    if not (isinstance(settings, dict) and isinstance(others, dict)):
        return [] if settings == others else [(path, settings, others)]
    return [found for key in {**settings, **others} for found in
            differences(settings.get(key), others.get(key), f"{path}.{key}" if path else key)]
