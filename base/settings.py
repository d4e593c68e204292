"""The settings of a run, read strictly: all that is wrong is refused with line numbers.

A settings file is a run: demo.yaml writes under runs/demo. Every key is required, none is guessed. A file
that begins with `base: params.yaml` holds only what differs from that file, which lies beside it or above.
"""
import math
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from base.keys import (
    BESIDE,
    BLOCK,
    KEYS,
    LIMITS,
    SECTIONS,
    is_colour,
    is_text,
    problem_of,
)
from base.names import Raw, name_tiles
from base.problem import Problem, shown
from base.strict_yaml import read_yaml

# -- what single keys cannot show: (key, problem) ---------------------------------------------------------


def check_sizes(settings):
    """Patches and windows against the network, the stride, the bands."""
    data, step = settings["data"], coarsest(settings["model"])
    for section, name in (("input", "patch_size"), ("predict", "window")):
        if settings[section][name] % step:
            yield (f"{section}.{name}", f"{settings[section][name]}, expected a multiple of {step} (of "
                   "model.stem times 2 to the power of model.depth, or with an encoder of 32, and of each "
                   "cell of model.local_contrast)")
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


def check_encoder(settings):
    """What a pretrained encoder cannot do."""
    model, bands = settings["model"], len(settings["data"]["bands"])
    if model["encoder"] == "none":
        return
    if model["stem"] == 1:
        yield "model.stem", "1, expected 2 or 4 with an encoder: its finest features are at a stride of 2"
    if max(filter(None, model["rgb"]), default=0) > bands:
        yield ("model.rgb", f"{shown(model['rgb'])}, expected places in data.bands, 1 to {bands}, or null "
               "for a colour that is not among them")
    if settings["train"]["mixed_precision"] is True:
        yield ("train.mixed_precision", "true, expected false or bfloat16 with an encoder: gradients of its "
               "normalisation are no numbers in float16")


def check_split(settings):
    """No tile is named as what lies beside another's map, or as the folder of others."""
    roles = {tile: role for role, tiles in roles_of(settings["split"]).items() for tile in tiles}
    for tile, role in roles.items():
        for ending in BESIDE:
            other = tile.removesuffix(ending)
            if other != tile and other in roles:
                yield (f"split.{role}", f"tile {tile}, expected no name that another tile's map in another "
                       f"form has ({other} with {ending}); rename it")
    for folder in dict.fromkeys(tile.rpartition("/")[0] for tile in roles):
        for dot in re.finditer(r"\.", folder):
            tile = folder[: dot.start()]
            if tile in roles:
                yield (f"split.{roles[tile]}", f"tile {tile}, expected no name that with an ending is "
                       f"a folder of tiles ({folder}): its own files may be called so; rename one of the two")


def check_blocks(settings):
    """Every role has tiles, or a share of the blocks; each block holds a patch."""
    split, patch = settings["split"], settings["input"]["patch_size"]
    blocks, cuts = split["blocks"], not is_drawn(split)
    for number, (role, tiles) in enumerate(roles_of(split).items()):
        if cuts and not blocks["shares"][number] and (role == "train" or not tiles):
            yield "split.blocks", f"a share of 0 for {role}, expected more (val, test: or whole tiles there)"
        if not cuts and not tiles:
            yield f"split.{role}", "[], expected at least one tile, unless split.blocks cuts some for it"
    if blocks and blocks["side"] < patch + blocks["guard"]:
        yield ("split.blocks", f"a side of {blocks['side']}, expected at least {patch + blocks['guard']}, "
               "input.patch_size and guard together")


def check_labels(settings):
    """Classes, colours and values of the labels."""
    data = settings["data"]
    values, ignored, names = data["label_values"], data["ignore_colours"], ", ".join(data["classes"])
    colours = [*data["classes"].values(), *(filter(is_colour, ignored) if values is None else [])]
    if len(set(map(str.lower, colours))) < len(colours):
        yield ("data.classes", "a colour that stands twice in data.classes and data.ignore_colours, expected "
               "different ones")
    if values is None:
        if not all(map(is_colour, ignored)) and data["label_field"] is None:
            yield "data.ignore_colours", f"{shown(ignored)}, expected colours, as data.label_values is null"
        return
    together = [value for several in values.values() for value in as_list(several)]
    texts, painted = any(isinstance(value, str) for value in together), colours_of_labels(data)
    if painted and not all(map(is_colour, ignored)):
        yield ("data.ignore_colours", f"{shown(ignored)}, expected colours, as data.label_values are colours")
    if data["label_field"] is None and 0 < len(list(filter(is_colour, together))) < len(together):
        yield "data.label_values", "colours beside other values, expected either of these alone"
    if any(isinstance(value, str) for value in ignored) and not texts:
        yield "data.ignore_colours", f"{shown(ignored)}, expected values, as data.label_values is set"
    if {*values, data["background"]} - {None} != set(data["classes"]):
        yield "data.label_values", f"values of {', '.join(values)}, expected one for each of {names}"
    together += ignored
    if len({str(value).lower() if painted else str(value) for value in together}) < len(together):
        yield ("data.label_values", "a value that stands twice in data.label_values and data.ignore_colours, "
               "expected different ones")


def check_polygons(settings):
    """Names of classes in what only labels drawn as polygons need."""
    data = settings["data"]
    order, names = data["label_order"], ", ".join(data["classes"])
    if isinstance(order, list) and sorted(order) != sorted(data["classes"]):
        yield "data.label_order", f"{shown(order)}, expected each of {names} once"
    if data["background"] not in (None, *data["classes"]):
        yield "data.background", f"{shown(data['background'])}, expected null or one of {names}"


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


CHECKS = (check_sizes, check_encoder, check_split, check_blocks, check_labels, check_polygons, check_classes,
          check_steps)

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


def missing_from(entries, path):
    """A line for each key that a settings file and its base lack."""
    missing = {key: what for key, (what, _) in sorted(KEYS.items()) if key not in entries}
    rest = (f", or take all that is missing from there by a first line, "
            f"base: {os.path.relpath('params.yaml', path.parent)}")
    for key, what in missing.items():
        yield f"key {key}: missing, expected {what}; add it (params.yaml shows every key){rest}"
        rest = ""


def read_settings(path):
    """The settings {section: {key: value}} (and "seed"), keys in the order of KEYS, so that the same settings
    are the same text. Problem (exit 2) lists everything that is wrong in the file and in its base."""
    path = Path(path)
    entries, problems = read_entries(path)
    for key, entry in entries.items():
        text = problem_of(key, entry.value)
        if text:
            problems.append((entry.path, entry.line, f"key {key}: {text}"))
    if not any(text.startswith("key base:") for *_, text in problems):
        problems += [(path, 1, text) for text in missing_from(entries, path)]
    settings = {section: {} for section in SECTIONS}
    if not problems:
        for key in KEYS:
            section, _, name = key.partition(".")
            if name:
                settings[section][name] = plainest(entries[key].value)
            else:
                settings[section] = plainest(entries[key].value)
        split = settings["split"]
        folders = {role: entries[f"split.{role}"].path.parent for role in roles_of(split)}
        named, wrong = name_tiles(roles_of(split), folders, Raw(settings["data"]))
        split |= named
        for check in CHECKS:
            wrong += check(settings)
        problems = [(entries[key].path, entries[key].line, f"key {key}: {text}") for key, text in wrong]
    if problems:
        lines = (f"settings in {file}, line {line}, {text}" for file, line, text in sorted(problems))
        raise Problem(*lines, code=2)
    return settings


# -- what the settings name -------------------------------------------------------------------------------

def run_folder(path):
    """runs/<name of the settings file without suffix>; the folder itself of a params.yaml that a training
    wrote beside its run.json, wherever it lies, and of make's copy."""
    path = Path(path)
    if path.parent.name == ".make":
        return path.parent.parent
    if path.name == "params.yaml" and (path.parent / "run.json").exists():
        return path.parent
    return Path("runs") / path.stem


def roles_of(split):
    """{role: its tiles} of the section split, without split.blocks."""
    return {role: tiles for role, tiles in split.items() if role != "blocks"}


def is_drawn(split):
    """True where a split names its tiles: nothing is cut into blocks, or split.train names these already."""
    return not split.get("blocks") or all(BLOCK.fullmatch(tile) for tile in split["train"])


def all_tiles(split):
    """The tiles of every role, in the order of the settings."""
    return [tile for tiles in roles_of(split).values() for tile in tiles]


def coarsest(model):
    """Pixels of the image to one of the network's lowest level, or to a cell of its local contrast: sides of
    patches and windows are multiples of all of these."""
    lowest = model["stem"] * 2 ** model["depth"] if model["encoder"] == "none" else 32
    return math.lcm(lowest, *model["local_contrast"])


def name_colours(bands, rgb):
    """Which of `bands` stand for red, green and blue, as text; `rgb`: their places from 1, None for none."""
    return ", ".join(str(bands[place - 1]) if place else "none" for place in rgb)


def as_list(value):
    """A list as it stands, another value as a list of its own."""
    return value if isinstance(value, list) else [value]


def colours_of_labels(data):
    """{class: [colours]} in which labels are painted: those of data.label_values, where these are colours and
    no attribute's, or of data.classes, where there are none; None where labels hold values."""
    values = data["label_values"]
    several = {name: as_list(own) for name, own in (values or data["classes"]).items()}
    plain = data["label_field"] is None and all(is_colour(one) for own in several.values() for one in own)
    return several if values is None or plain else None


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
