"""The JSON and CSV files of a run: written whole, and read as strictly as settings are.

No step works on a file that is not as it should be: Problem (exit 3) names the file and the step that writes it.
"""
import csv
import json
import math
import sys

import numpy as np

from base.files import replacing, sha256
from base.problem import Problem


def fits(value, like):
    """True where a value of JSON is built like another: the same keys, lists of things like its only item; a float
    stands for a finite number or null, an int for a whole number that is not negative."""
    if isinstance(like, dict):
        return isinstance(value, dict) and value.keys() == like.keys() and all(fits(value[k], like[k]) for k in like)
    if isinstance(like, list):
        return isinstance(value, list) and all(fits(item, like[0]) for item in value)
    if isinstance(like, float):
        return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)
                                 and abs(value) <= sys.float_info.max)
    return type(value) is type(like) and (not isinstance(like, int) or value >= 0)


def read_json(path, writer="train.py"):
    """A mapping from the JSON file that a script, `writer`, has written."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return value
        told = "no mapping"
    except OSError as error:
        told = error.strerror
    except (ValueError, RecursionError):
        told = "no JSON"
    raise Problem(f"file {path}: {told}, expected that of an earlier step; remove it and run {writer} again", code=3)


AGAIN = "remove it and run the script that writes it, train.py, lr_find.py or predict.py, again"


def read_table(path):
    """The rows of a CSV file with a header, each {column: text}; Problem (exit 3) where there is no such table."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
    except FileNotFoundError:
        raise Problem(f"table {path}: no such file, expected that of an earlier step; run the script that writes it, "
                      "train.py, lr_find.py or predict.py, again", code=3) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise Problem(f"table {path}: {error}, expected a CSV file; {AGAIN}", code=3) from None
    if any(None in row or None in row.values() for row in rows):
        raise Problem(f"table {path}: a row of another length than the header, expected a CSV file; {AGAIN}", code=3)
    return rows


def read_columns(path, *columns):
    """{column: float64 [N]} of a CSV file with at least one row, all finite numbers."""
    rows, found = read_table(path), {name: [] for name in columns}
    for line, row in enumerate(rows, 2):
        for name in columns:
            try:
                found[name].append(float(row[name]))
                if math.isfinite(found[name][-1]):
                    continue
            except (KeyError, ValueError):
                pass
            raise Problem(f"table {path}: {row.get(name)!r} in line {line}, column {name}, expected a finite number; "
                          f"{AGAIN}", code=3)
    if not rows:
        raise Problem(f"table {path}: no rows, expected some; {AGAIN}", code=3)
    return {name: np.array(values) for name, values in found.items()}


def read_finder(path):
    """lr_find.json of a run: {"suggestion": a learning rate, "steepest_descent": another, and more}."""
    found = read_json(path, "lr_find.py")
    rates = [found.get(key) for key in ("suggestion", "steepest_descent")]
    if not fits(rates, [1.0]) or not all(rate is not None and rate > 0 for rate in rates):
        raise Problem(f"learning rates in {path}: {rates}, expected two above zero, as lr_find.py writes them; remove "
                      "it and run lr_find.py again", code=3)
    return found


FACTS = {"bands": [1], "extra": True, "ground_sample_distance": 1.0, "multiple": 1, "epoch": 1, "chosen_by": "",
         "sha256": ""}  # what predict.py and those after it need of model.json, and classes and scale


def not_readable(run, error):
    return Problem(f"model in {run}: not readable ({' '.join(str(error).split())[:200]}), expected model.keras and "
                   "model.json as train.py writes them; run it again", code=3)


def read_facts(run, classes=None):
    """model.json of a finished run, whose model.keras is the file that it names, and whose classes, in their order and
    colours, are `classes` where these are given."""
    path = run / "model.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        own, scale = facts["classes"], facts["scale"]
        known = fits({key: facts[key] for key in FACTS}, FACTS) and fits(own, dict.fromkeys(own, ""))
        if not known or facts["multiple"] < 1 or min(facts["bands"]) < 1 or len(own) < 2:
            raise ValueError("model.json is not built as train.py builds it")
        if len(scale) != len(facts["bands"]) + facts["extra"] or not all(
                limits is None or (fits(limits, [1.0]) and limits[0] < limits[1]) for limits in scale):
            raise ValueError("model.json has no scale for each band")
        whole = sha256(run / "model.keras") == facts["sha256"]
    except FileNotFoundError as missing:
        raise Problem(f"model {missing.filename}: no such file, expected a finished training; run train.py first",
                      code=3) from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OSError) as error:
        raise not_readable(run, error) from None
    if not whole:
        raise Problem(f"model {run / 'model.keras'}: other bytes than model.json names, expected the file of that run; "
                      "run train.py again", code=3)
    if classes is not None and list(own.items()) != list(classes.items()):
        raise Problem(f"model {run / 'model.keras'}: of the classes {', '.join(own)}, expected those of data.classes: "
                      f"{', '.join(classes)}, in this order and these colours; run train.py again", code=3)
    return facts


def write_text(path, text):
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_rows(path, columns, rows):
    """A CSV file of rows, each {column: value}."""
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
