"""predict.csv, of which raster each map is and what it took, and the journal in which its rows are noted
while rasters are predicted."""
import contextlib
import json
import os

from base.tables import read_table, write_rows


def journal_of(run):
    """Where predict.py notes the row of each map until it writes predict.csv: a line of JSON each."""
    return run / ".predict.jsonl"


def recorded(run):
    """{map: its row} of predict.csv, and of the journal that a killed predict.py left; a last line that was
    not wholly written counts for nothing, as its map stands and tells the same."""
    path, journal, rows = run / "predict.csv", journal_of(run), {}
    if path.exists():
        rows = {row.get("map"): row for row in read_table(path)}
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
    for line in lines:
        with contextlib.suppress(ValueError, LookupError, TypeError):  # of a disk that failed
            row = json.loads(line)
            rows.pop(row["map"], None)
            rows[row["map"]] = row
    return rows


def record(run, row, rows):
    """Notes a map's row in the journal and in `rows`, in place of an earlier one; a map that stood keeps its
    own. predict.csv is written once, at the end: with each row it would take as long as all before it."""
    before = rows.get(row["map"], {})
    if row["seconds"] is None and before.get("sha256") == row["sha256"]:
        if before.get("raster") == row["raster"]:
            return
        row = {**row, **before, "raster": row["raster"]}  # as of a raster that was moved
    rows.pop(row["map"], None)
    rows[row["map"]] = row
    with open(journal_of(run), "ab") as journal:
        journal.write(json.dumps(row).encode() + b"\n")
        journal.flush()
        os.fsync(journal.fileno())


def write_recorded(run, rows):
    """Writes predict.csv of {map: its row}, where a journal says more than it, and removes the journal."""
    if journal_of(run).exists():
        columns = list(next(reversed(rows.values()))) if rows else []
        if rows:
            rows = [dict(zip(columns, map(row.get, columns))) for row in rows.values()]
            write_rows(run / "predict.csv", columns, rows)
        journal_of(run).unlink()
