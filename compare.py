"""All runs side by side: their scores, what they cost, and the settings in which they differ.

    python compare.py
    python compare.py --params demo.yaml --show     the settings alone

Reads metrics.json, model.json and run.json of every folder in runs. Writes runs/compare.csv, a row for each
run and a column for each score and each setting that is not the same in all, and runs/compare.png; prints
both as tables. A run that has not been evaluated yet is named.
"""
import json
from pathlib import Path
from typing import NamedTuple

from base.command import command
from base.files import only_one
from base.problem import Problem, shown
from base.settings import differences, read_settings
from base.strict_yaml import yaml_text
from base.tables import read_facts, read_record, write_rows
from reporting.charts import draw_runs, percent, shorten_name, style
from reporting.metrics import name_encoder

MEASURED = {"views", "window", "overlap", "engine", "eroded_labels", "leave_out", "tiles"}  # in the protocol


class Finished(NamedTuple):
    """A finished run."""
    metrics: dict  # metrics.json
    settings: dict  # "section.key": value; predict's and evaluate's are those of the scores, perhaps younger
    figures: dict  # scores and costs, columns of compare.csv


def flat(settings, path=""):
    """{"section.key": value} of nested settings; what is no mapping of names is a value."""
    if not isinstance(settings, dict):
        return {path: settings}
    values = {}
    for name, part in settings.items():
        values.update(flat(part, f"{path}.{name}" if path else str(name)))
    return values


def read_run(folder):
    """A Finished run; Problem (exit 3) where a file of it is missing, damaged or of an earlier version."""
    try:
        metrics, facts = read_record(folder / "metrics.json", "evaluate.py"), read_facts(folder)
        trained = read_record(folder / "run.json", "train.py")
        others = ("predict", "evaluate", "report")
        settings = flat({name: part for name, part in trained["settings"].items() if name not in others})
        del settings["data.prepared"]
        settings.update({key: value for key, value in metrics["protocol"].items() if key in MEASURED})
        full, eroded = metrics["full"], metrics["eroded"]
        return Finished(metrics, settings, {
            **{f"full {score}": full[score] for score in ("mean_iou", "mean_f1", "accuracy")},
            "eroded mean_iou": eroded["mean_iou"],
            "eroded mean_iou, left out": eroded["left_out"]["mean_iou"],
            **{cost: facts[cost] for cost in ("parameters", "gflop_per_patch", "epoch")},
            "training_seconds": trained.get("training_seconds"), "encoder": name_encoder(facts),
            "commit": trained["commit"]})
    except KeyError as error:
        raise Problem(f"run {folder}: {error}, expected the files of a finished run; make report with its "
                      "settings, or remove the folder", code=3) from None


def read_runs(folder):
    """({name: Finished run}, problems of others) in a folder; says which runs are not evaluated yet."""
    runs, problems = {}, []
    for run in sorted(path for path in folder.glob("*") if path.is_dir()):
        if not (run / "metrics.json").exists():
            print(f"not evaluated yet: {run}")
            continue
        try:
            runs[run.name] = read_run(run)
        except Problem as problem:
            problems += problem.lines
    if not runs:
        raise Problem(*problems, f"folder {folder}: no evaluated run, expected one; make report", code=3)
    return runs, problems


def print_table(rows):
    """Rows of texts, the first the header, in columns as wide as they need."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for first, *others in rows:
        cells = [text.rjust(width) for text, width in zip(others, widths[1:])]
        print("  ".join([first.ljust(widths[0]), *cells]).rstrip())


def print_runs(runs, differing):
    """The runs with their scores and costs, and the settings in which they differ."""
    rows = [["run", "mean IoU", "mean F1", "accuracy", "eroded mean IoU", "left out", "GFLOP", "minutes",
             "encoder"]]
    for name, run in runs.items():
        scores, seconds = list(run.figures.values())[:5], run.figures["training_seconds"] or 0
        gflop = run.figures["gflop_per_patch"]
        rows.append([name, *map(percent, scores), f"{gflop:.2f}", f"{seconds / 60:.1f}",
                     run.figures["encoder"] or "none"])
    print_table(rows)
    if differing:
        print("\nsettings that differ")
        rows = [["", *runs]]
        for key, texts in differing.items():
            rows.append([key, *(shorten_name(text, 40) for text in texts.values())])
        print_table(rows)


def show_settings(settings):
    """Prints the settings as resolved, and what differs from params.yaml."""
    print(yaml_text(settings), end="")
    default = Path(__file__).with_name("params.yaml")
    if default.exists():
        differing = differences(settings, read_settings(default))
        print(f"\n# {len(differing)} keys differ from {default.name}" + (":" if differing else ""))
        for key, value, other in differing:
            print(f"# {key}: {shown(value)}, there {shown(other)}")


def main(settings, run, show):
    if show:
        show_settings(settings)
        return
    folder = run.parent
    runs, problems = read_runs(folder)
    differing = {}  # {key: {run: value as JSON}} of the settings that are not the same in all runs
    for key in dict.fromkeys(key for one in runs.values() for key in one.settings):
        values = {name: json.dumps(one.settings.get(key)) for name, one in runs.items()}
        if len(set(values.values())) > 1:
            differing[key] = values
    rows = [{"run": name, **one.figures, **{key: texts[name] for key, texts in differing.items()}}
            for name, one in runs.items()]
    with only_one(folder), style():
        write_rows(folder / "compare.csv", list(rows[0]), rows)
        draw_runs(folder / "compare.png", {name: one.metrics for name, one in runs.items()})
    print_runs(runs, differing)
    print(f"\n{folder / 'compare.csv'}  {folder / 'compare.png'}")
    if problems:
        raise Problem(*problems, code=3)


if __name__ == "__main__":
    command(main, __doc__, switches={
        "show": "the settings alone, as resolved, and what differs from params.yaml"})
