"""What the benchmarks share: contenders run in turn, each in a process of its own; medians; results with the
machine.

A contender is a function that returns {figure: number}; `main` runs every one of them once per
round, so that a slow minute of the machine falls on all, and hands the medians to the script's `summarise`.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the project's own modules


def settings_of(recipe):
    """The settings of params.yaml or demo.yaml, or of a file in settings/, by its name without suffix."""
    from base.settings import read_settings
    path = ROOT / f"{recipe}.yaml"
    return read_settings(path if path.exists() else ROOT / f"settings/{recipe}.yaml")


def machine():
    """What the figures were measured on."""
    def first_value(path, word):
        lines = Path(path).read_text().splitlines() if Path(path).exists() else []
        return next((line.split(":")[1].strip() for line in lines if line.startswith(word)), None)

    versions = {}
    for name in ("tensorflow", "keras", "jax", "numpy", "rasterio", "torch", "albumentations", "openvino",
                 "nncf"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            pass
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {"processor": first_value("/proc/cpuinfo", "model name") or platform.processor(),
            "cores": os.cpu_count(), "memory": first_value("/proc/meminfo", "MemTotal"),
            "system": platform.system(),
            "python": platform.python_version(), **versions, "commit": commit.stdout.strip() or None}


def resident():
    """MB of memory resident in this process: now, and at most so far (Linux)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(status[key].split()[0]) * 1024 / 1e6 for key in ("VmRSS", "VmHWM"))


def digits(value):
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3f}"


def run_one(script, name, folder):
    """The figures of a contender, run in a process of its own; None where a package that it needs is not
    installed."""
    environment = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}
    done = subprocess.run([sys.executable, script, "--only", name, "--folder", str(folder)],
                          capture_output=True, text=True, env=environment)
    if done.returncode == 3:
        return None
    if done.returncode:
        sys.exit(f"error: benchmark {name}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(script, doc, contenders, make, summarise, rounds=3, once=()):
    """The command line of a benchmark: makes its input in a folder, runs the contenders in turn (those of
    `once` in the first round only), prints a table and writes benchmarks/results/<script>.json."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--folder", type=Path, default=ROOT / "data/benchmark",
                        help="where its input is made and kept")
    parser.add_argument("--only", choices=contenders, help="run one contender once and print its figures")
    options = parser.parse_args()
    if options.only:
        try:
            print(json.dumps(contenders[options.only](options.folder)))
        except ModuleNotFoundError as missing:
            print(missing, file=sys.stderr)
            sys.exit(3)
        return
    make(options.folder)
    results = {name: [] for name in contenders}
    for number in range(options.rounds):
        for name in (name for name in contenders if number == 0 or name not in once):
            figures = run_one(script, name, options.folder)
            results[name] += [figures] if figures else []
            print(f"round {number + 1}/{options.rounds}  {name:>24}  "
                  + ("  ".join(f"{key} {digits(value)}" for key, value in figures.items()) if figures else
                     "not run: packages (benchmarks/requirements.txt) or tiles missing"), flush=True)
    medians = {}
    for name, each in results.items():
        if each:
            medians[name] = {key: statistics.median(figures[key] for figures in each) for key in each[0]}
    figures = {key: round(value, 4) for key, value in summarise(medians).items()}
    target = ROOT / "benchmarks/results" / f"{Path(script).stem}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=1) + "\n")
    lines = [f"{key:>36} {digits(value):>12}" for key, value in figures.items()]
    print("\n".join(["\nmedians", *lines, str(target)]))
