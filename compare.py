"""All runs side by side: their scores, what they cost, and the settings in which they differ.

    python compare.py
    python compare.py --params demo.yaml --show     the settings alone

Reads metrics.json, params.yaml, model.json and run.json of every folder in runs. Writes runs/compare.csv, a row for
each run and a column for each score and each setting that is not the same in all, and runs/compare.png; prints both as
tables. A run that has not been evaluated yet is named.
"""
import csv
import json
from pathlib import Path

import yaml

from base.command import command
from base.files import only_one, replacing
from base.problem import Problem, shown
from base.settings import differences, read_settings
from base.tables import read_facts, read_record
from reporting.charts import draw_runs, percent, style

MEASURED = {"views", "window", "overlap", "engine", "eroded_labels", "leave_out", "tiles"}  # as the maps were made


def flat(settings, path=""):
    """{"section.key": value} of nested settings; what is no mapping of names is a value."""
    if not isinstance(settings, dict):
        return {path: settings}
    return {key: value for name, part in settings.items()
            for key, value in flat(part, f"{path}.{name}" if path else str(name)).items()}


def read_run(folder):
    """(metrics, settings, costs) of a finished run. Settings of predict and evaluate are those of its scores, which may
    be younger than its training."""
    try:
        metrics = read_record(folder / "metrics.json", "evaluate.py")
        facts, about = read_facts(folder), read_record(folder / "run.json", "train.py")
        settings = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
        trained = {section: value for section, value in settings.items()
                   if section not in ("predict", "evaluate", "report")}
        trained["data"] = {key: value for key, value in trained["data"].items() if key != "prepared"}
        scored = {key: value for key, value in metrics["protocol"].items() if key in MEASURED}
        rows = ("full", "mean_iou"), ("full", "mean_f1"), ("full", "accuracy"), ("eroded", "mean_iou")
        scores = {f"{kind} {score}": metrics[kind][score] for kind, score in rows}
        scores["eroded mean_iou, left out"] = metrics["eroded"]["left_out"]["mean_iou"]
        costs = {"parameters": facts["parameters"], "gflop_per_patch": facts["gflop_per_patch"],
                 "epoch": facts["epoch"], "training_seconds": about.get("training_seconds"), "commit": about["commit"]}
        return metrics, {**flat(trained), **scored}, {**scores, **costs}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise Problem(f"run {folder}: {' '.join(str(error).split()) or type(error).__name__}, expected the files of a "
                      "finished run; make report with its settings, or remove the folder", code=3) from None


def print_table(rows):
    """Rows of texts, the first the header, in columns as wide as they need."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) if i == 0 else text.rjust(width)
                        for i, (text, width) in enumerate(zip(row, widths))).rstrip())


def main(settings, run, show):
    if show:
        show_settings(settings)
        return
    found, problems = {}, []
    for folder in sorted(path for path in run.parent.glob("*") if path.is_dir()):
        if not (folder / "metrics.json").exists():
            print(f"not evaluated yet: {folder}")
            continue
        try:
            found[folder.name] = read_run(folder)
        except Problem as problem:
            problems += problem.lines
    if not found:
        raise Problem(*problems, f"folder {run.parent}: no evaluated run, expected one; make report", code=3)
    keys = list(dict.fromkeys(key for _, chosen, _ in found.values() for key in chosen))
    chosen = {name: {key: json.dumps(settings.get(key)) for key in keys} for name, (_, settings, _) in found.items()}
    differing = [key for key in keys if len({row[key] for row in chosen.values()}) > 1]
    rows = [{"run": name, **costs, **{key: chosen[name][key] for key in differing}}
            for name, (_, _, costs) in found.items()]
    table = run.parent / "compare.csv"
    with only_one(run.parent):
        with replacing(table) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        with style():
            draw_runs(table.with_suffix(".png"), {name: metrics for name, (metrics, _, _) in found.items()})
    print_table([["run", "mean IoU", "mean F1", "accuracy", "eroded mean IoU", "left out", "GFLOP", "minutes"],
                 *([name, *map(percent, list(row.values())[1:6]), f"{row['gflop_per_patch'] or 0:.2f}",
                    f"{(row['training_seconds'] or 0) / 60:.1f}"] for name, row in zip(found, rows))])
    if differing:
        print("\nsettings that differ")
        print_table([["", *found], *([key, *(row[key] if len(row[key]) <= 40 else row[key][:37] + "..."
                                             for row in chosen.values())] for key in differing)])
    print(f"\n{table}  {table.with_suffix('.png')}")
    if problems:
        raise Problem(*problems, code=3)


def show_settings(settings):
    """Prints the settings as resolved, and what differs from params.yaml."""
    print(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), end="")
    default = Path(__file__).with_name("params.yaml")
    if default.exists():
        found = differences(settings, read_settings(default))
        print(f"\n# {len(found)} keys differ from {default.name}" + (":" if found else ""))
        for key, value, other in found:
            print(f"# {key}: {shown(value)}, there {shown(other)}")


if __name__ == "__main__":
    command(main, __doc__, switches={
        "show": "the settings alone, as resolved, and what differs from params.yaml"})
