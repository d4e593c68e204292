"""Time and memory of every step on many chips: what a chip costs must not grow with their number.

    python benchmarks/chips.py                      300 and 1,200 chips of 64 px: about 10 minutes on 2 cores
    python benchmarks/chips.py --side 512 --counts 20000    about 3 hours, 60 GB of disk under data/benchmark

Made-up chips without a place, images and labels as PNG, are prepared, trained on for one epoch (0.6 of
them), predicted (0.3), scored and reported with a tiny network, so that the steps count, not its
operations; each step runs in a process of its own. `looked` is what make does before it does anything,
`again` a step whose result stands. Figures: CPU seconds a chip, which other work on the machine changes
little, and the peak of the memory; those of earlier calls stay.
"""
import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import bench
import numpy as np

CLASSES = {"street": "#ffffff", "house": "#0000ff", "grass": "#00ff00"}
STEPS = {"looked": "stamps", "prepared": "prepare_data", "looked again": "stamps",
         "prepared again": "prepare_data", "trained": "train", "predicted": "predict",
         "predicted again": "predict", "scored": "evaluate", "reported": "report", "looked last": "stamps"}


def make(folder, count, side):
    """Draws the chips that are not there yet."""
    from PIL import Image
    rng = np.random.default_rng(0)
    blobs = rng.integers(0, 3, (40, 40)).astype(np.uint8).repeat(32, 0).repeat(32, 1)
    noise = rng.integers(0, 8, (1280, 1280)).astype(np.uint8) * 8
    for kind in ("images", "masks"):
        (folder / "raw" / kind).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        name = f"chip_{number:05d}.png"
        if (folder / "raw/masks" / name).exists():
            continue
        row, col = np.random.default_rng([1, number]).integers(0, 1280 - side, 2)
        labels, grain = (plane[row: row + side, col: col + side] for plane in (blobs, noise))
        image = np.stack([70 * labels + grain, 200 - 60 * labels + grain // 2, grain + number % 128], -1)
        image[0, 0] = number % 256, number // 256, 0  # no two alike
        Image.fromarray(image.astype(np.uint8)).save(folder / "raw/images" / name, compress_level=1)
        Image.fromarray(labels).save(folder / "raw/masks" / name, compress_level=1)


def write_settings(path, count, side):
    """Settings of the run of these chips: the demo's with a tiny network."""
    from base.strict_yaml import yaml_text
    settings = bench.settings_of("demo")
    names, ends = [f"chip_{number:05d}" for number in range(count)], (6 * count // 10, 7 * count // 10)
    settings["data"].update(
        raw=str(path.parent / "raw"), prepared=f"prepared/{count}", image="images/{tile}.png",
        label="masks/{tile}.png", eroded_label=None, assume_crs=None, classes=CLASSES, ignore_colours=[],
        label_values={name: value for value, name in enumerate(CLASSES)})
    settings["split"].update(train=names[:ends[0]], val=names[ends[0]: ends[1]], test=names[ends[1]:])
    settings["input"].update(patch_size=min(side, 256), batch_size=16)
    settings["model"].update(width=4, depth=2, stem=4, local_contrast=[])
    settings["train"].update(epochs=1, max_lr=0.003)
    settings["predict"].update(window=side, overlap=0, views=[0], compare=False, also=["confidence"])
    settings["evaluate"]["leave_out"] = []
    path.write_text(yaml_text(settings), encoding="utf-8")


def work(step, params):
    """Runs a step in this process; its figures."""
    import importlib

    from base.settings import read_settings, run_folder
    started = time.process_time()
    settings, script = read_settings(params), importlib.import_module(STEPS[step])
    options = {"stamps": {"announce": True}, "predict": {"tile": None}}.get(STEPS[step], {})
    script.main(settings, run_folder(params), **options)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"seconds": time.process_time() - started + children.ru_utime + children.ru_stime,
            "resident_mb": bench.resident()[1]}


def measure(step, params):
    """`work` in a process of its own, in the folder of the settings."""
    words = [sys.executable, str(Path(__file__).resolve()), "--work", step, "--folder", params.name]
    done = subprocess.run(words, cwd=params.parent, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {step} of {params}: exit code {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def write_results(figures):
    target = bench.ROOT / "benchmarks/results/chips.json"
    before = json.loads(target.read_text())["figures"] if target.exists() else {}
    content = {"machine": bench.machine(), "figures": {**before, **figures}}
    target.write_text(json.dumps(content, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[300, 1200])
    parser.add_argument("--side", type=int, default=64, help="pixels of a chip")
    parser.add_argument("--folder", type=Path, default=bench.ROOT / "data/benchmark/chips")
    parser.add_argument("--work", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print("\n" + json.dumps(work(options.work, options.folder)))
        return
    folder = options.folder.resolve() / str(options.side)
    for count in options.counts:
        make(folder, count, options.side)
        params = (folder / f"chips_{count}").with_suffix(".yaml")
        write_settings(params, count, options.side)
        for left in ("prepared", "runs"):
            shutil.rmtree(folder / left, ignore_errors=True)
        for step in STEPS:
            figures = measure(step, params)
            milliseconds, megabytes = 1000 * figures["seconds"] / count, figures["resident_mb"]
            print(f"{count:>6} chips of {options.side} px  {step:>16}  {figures['seconds']:8.2f} s  "
                  f"{milliseconds:8.2f} ms a chip  {megabytes:7.0f} MB", flush=True)
            key = f"{step.replace(' ', '_')}_{count}_of_{options.side}"
            write_results({f"{key}_ms_a_chip": round(milliseconds, 4), f"{key}_mb": round(megabytes, 1)})


if __name__ == "__main__":
    main()
