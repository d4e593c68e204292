"""All runs side by side: their scores, what they cost, and the settings in which they differ.

    python compare.py
    python compare.py --params demo.yaml --show     the settings alone
    python compare.py --params demo.yaml --seeds 3  settings files of three runs that differ in their seed

Reads metrics.json, model.json and run.json of every folder in runs. Writes runs/compare.csv, a row for each
run and a column for each score and each setting that is not the same in all, runs/compare.png and, of runs
that differ in their seed alone, runs/seeds.csv: the mean and the standard deviation of their scores; and
runs/differences.csv: how much better each is than another, with an interval. Prints all as tables. A run that
has not been evaluated yet is named.
"""
import json
from pathlib import Path
from typing import NamedTuple

from base.command import command
from base.files import only_one
from base.problem import Problem, shown
from base.settings import differences, read_settings
from base.strict_yaml import yaml_text
from base.tables import read_facts, read_record, write_rows, write_text
from reporting.charts import draw_runs, percent, shorten_name, style
from reporting.metrics import name_encoder
from reporting.spread import COVERED, LEAST, SCORES, compare_groups, describe_group, group_by_seed

MOST = 15  # differences that are printed
HIGHEST = 2**31 - 1  # seed
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


def in_points(value):
    """A difference of scores in points of per cent, with its sign."""
    return "-" if value is None else f"{100 * value:+.2f}"


def tell_seeds(runs, groups, path):
    """Writes and prints mean and deviation of the scores of `groups`, {name: names of runs}."""
    rows = []
    for name, members in groups.items():
        told = describe_group([runs[member].figures for member in members])
        scores = {column: value for score, both in told.items()
                  for column, value in zip((score, f"{score}, deviation"), both)}
        rows.append({"run": name, "seeds": len(members), **scores})
    write_rows(path, ["run", "seeds", *(f"{score}{end}" for score in SCORES for end in ("", ", deviation"))],
               rows)
    if len(runs) > len(groups):
        print("\nruns that differ in their seed alone: mean and standard deviation, %")
        table = [["", "seeds", *SCORES]]
        for row in rows:
            both = [[percent(value) for value in (row.get(score), row.get(f"{score}, deviation"))
                     if value is not None] for score in SCORES]
            table.append([row["run"], str(row["seeds"]), *map(" +- ".join, both)])
        print_table(table)


def tell_differences(runs, groups, path):
    """Writes the differences between groups, each two, and prints the largest."""
    rows = compare_groups({name: [runs[member].metrics for member in members]
                           for name, members in groups.items()})
    columns = ["run", "other", "difference", "low", "high", "tiles"]
    write_rows(path, columns, rows)
    if rows:
        print(f"\nmean IoU of the first less that of the second, in points, and between what it would be in "
              f"{COVERED} % of other choices of the test tiles (from {LEAST} tiles on)")
        largest = sorted(rows, key=lambda row: -abs(row["difference"]))[:MOST]
        texts = [[row["run"], row["other"], *(in_points(row[key]) for key in columns[2:5]), str(row["tiles"])]
                 for row in largest]
        print_table([["", "", "points", "from", "to", "tiles"], *texts])
    if len(rows) > MOST:
        print(f"and {len(rows) - MOST} smaller ones: {path}")


def write_seeds(settings, run, count):
    """Writes runs/<run>/seeds/<run>-seed<n>.yaml, the settings with other seeds, of so many runs together
    with this one; what lay there goes."""
    if not count.isascii() or not count.isdigit() or not 2 <= int(count) <= 100:
        raise Problem(f"option --seeds (N= for make) {shown(count)}: expected how many runs, a whole number "
                      "from 2 to 100", code=2)
    folder, seeds = run / "seeds", range(settings["seed"] + 1, settings["seed"] + int(count))
    if seeds[-1] > HIGHEST:
        raise Problem(f"settings, key seed: {settings['seed']}, of which {count} runs would have {seeds[-1]} "
                      f"too, expected {HIGHEST} at most; lower it", code=2)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{run.name}-seed{seed}.yaml" for seed in seeds]
    for path in folder.glob("*.yaml"):
        if path.name not in names:
            path.unlink()
    for seed, name in zip(seeds, names):
        write_text(folder / name, yaml_text({**settings, "seed": seed}))
        print(folder / name)


def show_settings(settings):
    """Prints the settings as resolved, and what differs from params.yaml."""
    print(yaml_text(settings), end="")
    default = Path(__file__).with_name("params.yaml")
    if default.exists():
        differing = differences(settings, read_settings(default))
        print(f"\n# {len(differing)} keys differ from {default.name}" + (":" if differing else ""))
        for key, value, other in differing:
            print(f"# {key}: {shown(value)}, there {shown(other)}")


def main(settings, run, show, seeds=None):
    if show:
        show_settings(settings)
        return
    if seeds is not None:
        write_seeds(settings, run, seeds)
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
        groups = group_by_seed({name: one.settings for name, one in runs.items()})
        tell_seeds(runs, groups, folder / "seeds.csv")
        tell_differences(runs, groups, folder / "differences.csv")
    print(f"\n{folder / 'compare.csv'}  {folder / 'compare.png'}")
    if problems:
        raise Problem(*problems, code=3)


if __name__ == "__main__":
    command(main, __doc__, {"seeds": "so many runs that differ in their seed: their settings files"}, {
        "show": "the settings alone, as resolved, and what differs from params.yaml"})
