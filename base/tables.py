"""The files of a run: JSON that carries its own digest, and CSV tables; written whole, read strictly.

No step works on a file that is not as a script wrote it: Problem (exit 3) names the file and the script to
run again.
"""
import csv
import functools
import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np

from base.files import replacing, sha256
from base.problem import Problem

AGAIN = "the script that writes it, train.py, lr_find.py or predict.py, again"


# -- JSON -----------------------------------------------------------------------------------------------

def write_text(path, text):
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def record_text(content):
    """A mapping (names to what JSON can hold) as JSON, its own SHA-256 as the last entry, "digest"."""
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps({**content, "digest": digest}, indent=1, allow_nan=False) + "\n"


def parse_record(text):
    """The mapping of which `record_text` made this text. ValueError where it is not that, to the letter."""
    try:
        content = json.loads(text)
        content.pop("digest")
        if record_text(content) == text:
            return content
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise ValueError("damaged, edited or of an earlier version")


def write_record(path, content):
    """Writes a mapping as JSON with its own digest, so that a reader notices an edit or a damage."""
    write_text(path, record_text(content))


def read_record(path, writer):
    """The mapping that a script, `writer`, gave to `write_record`."""
    try:
        return parse_record(path.read_text(encoding="utf-8"))
    except OSError as error:
        found = error.strerror.lower()
    except ValueError as error:  # a UnicodeDecodeError too
        found = str(error)
    raise Problem(f"file {path}: {found}, expected it as {writer} writes it; run {writer} again", code=3)


# -- CSV ------------------------------------------------------------------------------------------------

def write_rows(path, columns, rows):
    """A CSV file of rows, each {column: value}."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def read_table(path):
    """The rows of a CSV file with a header, each {column: text}."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
    except FileNotFoundError:
        raise Problem(f"table {path}: no such file, expected that of an earlier step; run "
                      f"{AGAIN}", code=3) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise Problem(f"table {path}: {error}, expected a CSV file; remove it and run "
                      f"{AGAIN}", code=3) from None
    if any(None in row or None in row.values() for row in rows):
        raise Problem(f"table {path}: a row of another length than the header, expected a CSV file; remove "
                      f"it and run {AGAIN}", code=3)
    return rows


def read_columns(path, *columns):
    """{column: float64 [N]} of a CSV file with at least one row, all finite numbers."""
    rows = read_table(path)
    if not rows:
        raise Problem(f"table {path}: no rows, expected some; remove it and run {AGAIN}", code=3)
    for line, row in enumerate(rows, 2):
        for name in columns:
            try:
                number = float(row[name])
            except (KeyError, ValueError):
                number = math.nan
            if not math.isfinite(number):
                raise Problem(f"table {path}: {row.get(name)!r} in line {line}, column {name}, expected a "
                              f"finite number; remove it and run {AGAIN}", code=3)
    return {name: np.array([float(row[name]) for row in rows]) for name in columns}


# -- the two records that several steps read ------------------------------------------------------------

def read_finder(run):
    """lr_find.json of a run: "suggestion" and "steepest_descent", learning rates; "made_from", a digest."""
    return read_record(run / "lr_find.json", "lr_find.py")


def not_readable(run, error):
    return Problem(f"model in {run}: not readable ({' '.join(str(error).split())[:200]}), expected "
                   "model.keras and model.json as train.py writes them; run it again", code=3)


@functools.lru_cache(maxsize=2)  # one raster after the other asks for it
def _read_facts(run, *_):
    facts = parse_record(Path(run, "model.json").read_text(encoding="utf-8"))
    return facts, sha256(Path(run, "model.keras")) == facts["sha256"]


def read_facts(run, classes=None):
    """model.json of a finished run, whose model.keras is the file that it names, and whose classes, in their
    order and colours, are `classes` where these are given."""
    try:
        looks = [os.stat(run / name) for name in ("model.json", "model.keras")]
        seen = ((look.st_ino, look.st_size, look.st_mtime_ns, look.st_ctime_ns) for look in looks)
        facts, whole = _read_facts(os.path.abspath(run), *seen)
    except FileNotFoundError as missing:
        raise Problem(f"model {missing.filename}: no such file, expected a finished training; run train.py "
                      "first", code=3) from None
    except (OSError, ValueError, KeyError) as error:
        raise not_readable(run, error) from None
    if not whole:
        raise Problem(f"model {run / 'model.keras'}: other bytes than model.json names, expected the file of "
                      "that run; run train.py again", code=3)
    own = facts["classes"]
    if classes is not None and list(own.items()) != list(classes.items()):
        raise Problem(f"model {run / 'model.keras'}: of the classes {', '.join(own)}, expected those of "
                      f"data.classes: {', '.join(classes)}, in this order and these colours; run train.py "
                      "again", code=3)
    return {**facts}  # the reader's own
