"""The settings of a run, read strictly: all that is wrong is refused with line numbers.

A settings file is a run: demo.yaml writes under runs/demo. Every key is required, none is guessed. A file
that begins with `base: params.yaml` holds only what differs from that file, which lies beside it or above.
"""
import difflib
import math
from pathlib import Path
from typing import Any, NamedTuple

from base.keys import (
    BESIDE,
    KEYS,
    LIMITS,
    SECTIONS,
    TILE,
    is_colour,
    is_number,
    is_text,
)
from base.problem import Problem, shown
from base.strict_yaml import read_yaml

# -- what single keys cannot show: (key, problem) ---------------------------------------------------------


def check_sizes(settings):
    """Patches and windows against the network, the stride, the bands."""
    data, step = settings["data"], coarsest(settings["model"])
    for section, name in (("input", "patch_size"), ("predict", "window")):
        if settings[section][name] % step:
            yield (f"{section}.{name}", f"{settings[section][name]}, expected a multiple of {step} (of "
                   "model.stem times 2 to the power of model.depth, and of each cell of "
                   "model.local_contrast)")
    stride, size = settings["input"]["stride"], settings["input"]["patch_size"]
    if stride != "random" and stride > size:
        yield ("input.stride", f"{stride}, expected at most input.patch_size, or pixels between the patches "
               "are never seen")
    bands = count_bands(data)
    for key, scale in (("data.scale", data["scale"]), ("predict.scale", settings["predict"]["scale"])):
        if isinstance(scale, list) and not LIMITS[1](scale) and len(scale) != bands:
            yield (key, f"{len(scale)} entries, expected one for each of the {bands} bands of data.bands and "
                   "data.extra")
    if is_colour(data["nodata"]) and len(data["bands"]) < 3:
        yield "data.nodata", f"{shown(data['nodata'])}, expected a number unless data.bands are three or more"
    if settings["augment"]["hue"] and len(data["bands"]) != 3:
        yield "augment.hue", f"{settings['augment']['hue']:g}, expected 0 unless data.bands are three"


def check_split(settings):
    """Each tile in one role, and none named as what lies beside another's map."""
    roles = {}
    for role, tiles in settings["split"].items():
        for tile in tiles:
            if tile in roles:
                yield (f"split.{role}", f"tile {tile}, expected in one role only; it is in "
                       f"split.{roles[tile]} too")
            roles.setdefault(tile, role)
    for tile, role in roles.items():
        for ending in BESIDE:
            other = tile.removesuffix(ending)
            if other != tile and other in roles:
                yield (f"split.{role}", f"tile {tile}, expected no name that another tile's map in another "
                       f"form has ({other} with {ending}); rename it")


def check_labels(settings):
    """Classes, colours and values of the labels."""
    data = settings["data"]
    values, ignored, names = data["label_values"], data["ignore_colours"], ", ".join(data["classes"])
    colours = [colour.lower() for colour in [*data["classes"].values(), *filter(is_colour, ignored)]]
    if len(set(colours)) < len(colours):
        yield ("data.classes", "a colour that stands twice in data.classes and data.ignore_colours, expected "
               "different ones")
    if values is None:
        if not all(map(is_colour, ignored)):
            yield "data.ignore_colours", f"{shown(ignored)}, expected colours, as data.label_values is null"
        return
    if any(map(is_colour, ignored)):
        yield "data.ignore_colours", f"{shown(ignored)}, expected values, as data.label_values is set"
    if set(values) != set(data["classes"]):
        yield "data.label_values", f"values of {', '.join(values)}, expected one for each of {names}"
    together = [*values.values(), *ignored]
    if len(set(together)) < len(together):
        yield ("data.label_values", "a value that stands twice in data.label_values and data.ignore_colours, "
               "expected different ones")


def check_classes(settings):
    """Names of classes outside of data.classes."""
    classes, aim = settings["data"]["classes"], settings["input"]["aim"]
    weights, leave_out = settings["train"]["class_weights"], settings["evaluate"]["leave_out"]
    for key, names in (("input.aim", aim), ("evaluate.leave_out", leave_out)):
        for name in names:
            if name not in classes:
                yield key, f"{shown(name)}, expected names of data.classes"
    if sum(aim.values()) > 1:
        yield "input.aim", f"shares of {sum(aim.values()):g} together, expected 1 at most"
    if len(leave_out) >= len(classes):
        yield "evaluate.leave_out", "every class, expected at least one to be left"
    if isinstance(weights, dict) and (set(weights) != set(classes) or not any(weights.values())):
        yield ("train.class_weights", f"weights of {', '.join(weights)}, expected one for each of "
               f"{', '.join(classes)}, and not all zero")


def check_steps(settings):
    """The numbers of the finder and the engine."""
    find, predict = settings["lr_find"], settings["predict"]
    if find["start"] > find["end"] / 10:
        yield "lr_find.start", f"{find['start']:g}, expected at most a tenth of lr_find.end"
    if predict["engine"] == "tensorflow" and predict["precision"] != "float32":
        yield ("predict.precision", f"{shown(predict['precision'])}, expected float32 unless predict.engine "
               "is openvino or auto")


CHECKS = check_sizes, check_split, check_labels, check_classes, check_steps

# -- reading ----------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """The value of a key, and where it stands."""
    value: Any
    path: Path
    line: int


def plainest(value):
    """A value whose whole numbers are written as such: 0.0 is 0."""
    if isinstance(value, dict):
        return {key: plainest(part) for key, part in value.items()}
    if isinstance(value, list):
        return [plainest(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def read_entries(path, may_have_base=True):
    """({"section.key": Entry}, [(path, line, problem)]) of a settings file, over the entries of its base
    where it has one. A key at the margin that is no section is an entry, too."""
    content, lines, problems = read_yaml(path)
    entries, problems = {}, [(path, line, text) for line, text in problems]
    if may_have_base and "base" in content:
        name, line = content.pop("base"), lines["base",]
        if not is_text(name) or not (path.parent / name).is_file():
            raise Problem(f"settings in {path}, line {line}, key base: {shown(name)}, expected the path of a "
                          f"settings file, seen from {path.parent.resolve()}", code=2)
        entries, of_base = read_entries(path.parent / name, may_have_base=False)
        problems += of_base
    for section, part in content.items():
        line = lines[section,]
        if isinstance(part, dict) and section in SECTIONS and section not in KEYS:
            for key, value in part.items():
                entries[f"{section}.{key}"] = Entry(value, path, lines[section, key])
            continue
        if section in KEYS and "." in section:
            parent, _, name = section.partition(".")
            problems.append((path, line, f"key {section}: at the margin, expected {name} indented below "
                             f"{parent}; move it there"))
        entries[section] = Entry(part, path, line)
    return entries, problems


def problem_of(key, value):
    """What is wrong with a key and its value, as text; None where nothing is."""
    if key in KEYS:
        what, fits = KEYS[key]
        if fits(value):
            return None
        number_for_name = what.endswith(TILE[0]) and isinstance(value, list) and any(map(is_number, value))
        hint = '; put a name that is a number in quotes: "12"' if number_for_name else ""
        return f"{shown(value)}, expected {what}{hint}"
    if key in SECTIONS:
        return f"{shown(value)}, expected its keys indented below it"
    if key == "base":
        return f"{shown(value)}, expected none in a file that is a base itself; name that other file instead"
    near = difflib.get_close_matches(key, [*KEYS, *SECTIONS, "base"], n=1, cutoff=0.5)
    return f"unknown, expected {f'{near[0]}?' if near else 'a key of params.yaml'}; rename or remove it"


def read_settings(path):
    """The settings {section: {key: value}} (and "seed"), keys in the order of KEYS, so that the same settings
    are the same text. Problem (exit 2) lists everything that is wrong in the file and in its base."""
    path = Path(path)
    entries, problems = read_entries(path)
    for key, entry in entries.items():
        text = problem_of(key, entry.value)
        if text:
            problems.append((entry.path, entry.line, f"key {key}: {text}"))
    problems += [(path, 1, f"key {key}: missing, expected {what}; add it (params.yaml shows every key)")
                 for key, (what, _) in KEYS.items() if key not in entries]
    settings = {section: {} for section in SECTIONS}
    if not problems:
        for key in KEYS:
            section, _, name = key.partition(".")
            if name:
                settings[section][name] = plainest(entries[key].value)
            else:
                settings[section] = plainest(entries[key].value)
        for check in CHECKS:
            for key, text in check(settings):
                problems.append((entries[key].path, entries[key].line, f"key {key}: {text}"))
    if problems:
        lines = (f"settings in {file}, line {line}, {text}" for file, line, text in sorted(problems))
        raise Problem(*lines, code=2)
    return settings


# -- what the settings name -------------------------------------------------------------------------------

def run_folder(path):
    """runs/<name of the settings file without suffix>."""
    return Path("runs") / Path(path).stem


def all_tiles(split):
    """The tiles of every role, in the order of the settings."""
    return [tile for tiles in split.values() for tile in tiles]


def coarsest(model):
    """Pixels of the image to one of the network's lowest level, or to a cell of its local contrast: sides of
    patches and windows are multiples of all of these."""
    return math.lcm(model["stem"] * 2 ** model["depth"], *model["local_contrast"])


def count_bands(data):
    """How many bands the network sees: those of data.bands, and the extra raster's where there is one."""
    return len(data["bands"]) + (data["extra"] is not None)


def differences(settings, others, path=""):
    """[(key, value, other value)] of the keys in which two settings differ; None where one is missing."""
    if not (isinstance(settings, dict) and isinstance(others, dict)):
        return [] if settings == others else [(path, settings, others)]
    found = []
    for key in {**settings, **others}:
        found += differences(settings.get(key), others.get(key), f"{path}.{key}" if path else key)
    return found
