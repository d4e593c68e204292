"""Quality per hour: the networks and recipes that one may choose, trained for the same time on real tiles.

    python benchmarks/recipe.py --rounds 1                    all of it: some 7 hours on 2 cores
    python benchmarks/recipe.py --only "ours dubai 1"         one training
    RECIPE_SHARE=0.5 python benchmarks/recipe.py --rounds 1   the same in half of the minutes
    python benchmarks/recipe.py --draw                        docs/quality.png of those that are finished

Trains through train.py, 20 minutes on Dubai, 10 on one of its three training tiles alone (few) and on the
DroneDeploy scene, each with two seeds, 5 minutes on the made-up tiles, at widths that two cores can train:
the number of epochs is what fits, from the time of a step measured first, all networks in turn. A training
that was stopped goes on, one that is finished is not made again, as long as settings and code are the same;
history.csv in data/benchmark/recipe/<training> shows how far it is. Pretrained encoders whose weights are not
at hand are left out.

`mean_iou` is that of the kept model, the best epoch's, on the validation tile, `mean_iou_last` that of the
last epoch; `test_mean_iou`, `accuracy` and the expected calibration error, after the temperature and before,
are those of one view of the test tile, which chose nothing: no epoch, no recipe.

Dubai's and DroneDeploy's tiles are read from where settings/*.yaml say; a set that is not there is left
out. What was tried on the way is in benchmarks/recipe.md."""
import json
import os
import statistics
import sys
import time
from pathlib import Path

import bench
import numpy as np

SHARE = float(os.environ.get("RECIPE_SHARE", 1))  # of the minutes

NETWORKS = {  # settings, and what two cores can train of them; the notebook's rate is that of its trials
    "ours": ("params", {"model": {"width": 16}}),
    "notebook": ("notebook", {"model": {"width": 8}, "train": {"max_lr": 0.07}}),
    **{name: ("pretrained", {"model": {"encoder": name}})
       for name in ("efficientnet_lite0", "mobilenet_v3_large", "efficientnet_v2_b0", "efficientnet_v2_b3",
                    "convnext_tiny")},
}
CALLED = {"ours": "residual U-Net (params.yaml)", "notebook": "the notebook's"}  # in the figure
SETS = {  # minutes, seeds, settings of the data, tiles to train, to validate and to test on
    "dubai": (20, (1, 2), "dubai", ["tile4", "tile7", "tile8"], ["tile3"], ["tile1"]),
    "few": (10, (1, 2), "dubai", ["tile4"], ["tile3"], ["tile1"]),
    "dronedeploy": (10, (1, 2), "dronedeploy", ["west"], ["east"], ["mid"]),
    "sample": (5, (1,), "demo", ["2_11", "3_10", "4_11", "5_12", "6_7"], ["2_10"], ["2_13"]),
}
CASES = [(name, data, seed) for data, (_, seeds, *_) in SETS.items() for seed in seeds for name in NETWORKS]


def settings_of(name, data, seed, folder):
    """The settings of one training: the recipe's sections, the data set's tiles."""
    _, _, of_data, *roles = SETS[data]
    recipe, changes = NETWORKS[name]
    settings, tiles = bench.settings_of(recipe), bench.settings_of(of_data)
    split = dict(zip(("train", "val", "test"), roles), blocks=None)
    settings.update(data=tiles["data"], split=split, seed=seed)
    settings["data"].update(prepared=str(folder / f"prepared/{data}"))
    if not Path(settings["data"]["raw"]).is_absolute():
        settings["data"]["raw"] = str(bench.ROOT / settings["data"]["raw"])
    for section, values in changes.items():
        settings[section].update(values)
    settings["input"].update(batch_size=8)
    settings["train"].update(early_stopping=0, mixed_precision=False, jit=False, tensorboard=False)
    settings["predict"].update(views=[0], compare=True, also=["confidence"])
    return settings


def make(folder):
    for data in SETS:
        ready(data, folder / "recipe")


def ready(data, folder):
    """Prepares the tiles of a set; {network: epochs that fit into its minutes}, or None where the set is not
    at hand."""
    import prepare_data
    from imagery import sample_tiles
    minutes = SETS[data][0] * SHARE
    settings = {name: settings_of(name, data, 1, folder) for name in NETWORKS}
    ours, raw = settings["ours"], Path(settings["ours"]["data"]["raw"])
    if data == "sample" and not raw.exists():
        sample_tiles.main(raw, seed=1)
    if not raw.exists():
        return None
    target = folder / f"epochs_{data}.json"
    counted_for = {name: [own["model"], own["input"], minutes] for name, own in settings.items()}
    found = json.loads(target.read_text()) if target.exists() else {}
    if found.get("counted_for") != counted_for:
        prepare_data.main(ours, folder)
        found = {"counted_for": counted_for, **count_epochs(settings, minutes)}
        target.write_text(json.dumps(found))
    return found


def count_epochs(settings, minutes):
    """{network: epochs that fit into so many minutes}, from steps of all timed in turn; without those whose
    weights are not at hand."""
    from base.problem import Problem
    from imagery.tiles import open_tiles
    from learning.plans import plan_epoch
    from learning.workers import choose_strategy
    from trainer import Trainer
    seconds, updates, trainers, pixels = {}, {}, {}, {}
    for name, own in settings.items():
        tiles, batch_size = open_tiles(own["data"], own["split"]["train"]), own["input"]["batch_size"]
        try:
            trainers[name] = Trainer(own, 1e-4, 0.9, choose_strategy())
        except Problem as problem:
            print(*problem.lines, sep="\n")
            continue
        updates[name], seconds[name] = len(plan_epoch(tiles, own, 1)) // batch_size, []
        pixels[name] = next(iter(trainers[name].training_batches(tiles, 1)))
    for turn in range(12):
        for name, trainer in trainers.items():
            started = time.perf_counter()
            float(trainer.train_step(pixels[name])[0])
            seconds[name] += [time.perf_counter() - started] if turn > 1 else []
    return {name: max(1, round(60 * minutes / updates[name] / statistics.median(each)))
            for name, each in seconds.items()}


def train(name, data, seed, folder):
    """Trains one network to its end and scores it: its figures."""
    import evaluate
    import predict
    import train
    folder, run = folder / "recipe", folder / f"recipe/{name}_{data}_{seed}"
    epochs = ready(data, folder)
    if epochs is None or name not in epochs:
        raise ModuleNotFoundError(f"the tiles of {data} or the weights of {name}")
    settings = settings_of(name, data, seed, folder)
    settings["train"]["epochs"] = epochs[name]
    train.main(settings, run)
    predict.main(settings, run, None)
    evaluate.main(settings, run)
    rows = np.genfromtxt(run / "history.csv", delimiter=",", names=True)
    facts, metrics = (json.loads((run / file).read_text()) for file in ("model.json", "metrics.json"))
    told = metrics["calibration"]
    return {"mean_iou": rows["val_mean_iou"].max(), "mean_iou_last": rows["val_mean_iou"][-1],
            "test_mean_iou": metrics["full"]["mean_iou"], "accuracy": metrics["full"]["accuracy"],
            "calibration_error": told["expected_calibration_error"],
            "calibration_error_before": told["before"]["expected_calibration_error"],
            "million_parameters": facts["parameters"] / 1e6, "gflop_per_patch": facts["gflop_per_patch"],
            "patches_per_second": statistics.median(rows["patches_per_second"]),
            "minutes": rows["seconds"].sum() / 60, "epochs": len(rows)}


def summarise(medians):
    """{figure_set_network: its mean over the seeds}."""
    figures = {"share_of_minutes": SHARE}
    for data in SETS:
        for name in NETWORKS:
            runs = [each for case, each in medians.items() if case.startswith(f"{name} {data} ")]
            figures.update({f"{key}_{data}_{name}": statistics.mean(run[key] for run in runs)
                            for key in (runs[0] if runs else ())})
    return figures


def draw(folder, path, of=("dubai", "few", "dronedeploy")):
    """Draws the trainings that are finished: validation mean IoU against minutes, one line for each network
    and seed; mean IoU of the test tile against the operations for a Mpx. `of`: sets, those without a training
    are left out."""
    from reporting.charts import MARKS, add_legend, plt, save, style
    found = {data: {name: [run for run in sorted((folder / "recipe").glob(f"{name}_{data}_*"))
                           if (run / "metrics.json").exists()] for name in NETWORKS} for data in of}
    found = {data: runs for data, runs in found.items() if any(runs.values())}
    with style():
        figure, rows = plt.subplots(2, len(found), figsize=(7.4, 4.6), squeeze=False, sharey="row")
        for (data, runs), (top, bottom) in zip(found.items(), rows.T):
            for (name, own), (colour, mark) in zip(runs.items(), MARKS):
                for number, run in enumerate(own):
                    history = np.genfromtxt(run / "history.csv", delimiter=",", names=True)
                    minutes = SETS[data][0] * SHARE * history["epoch"] / history["epoch"][-1]
                    label = CALLED.get(name, name) if number == 0 else None
                    top.plot(minutes, 100 * history["val_mean_iou"], color=colour, label=label, linewidth=1.1,
                             alpha=0.9)
                    facts, metrics = (json.loads((run / file).read_text())
                                      for file in ("model.json", "metrics.json"))
                    cost = facts["gflop_per_patch"] * 1e6 / 256**2
                    bottom.plot(cost, 100 * metrics["full"]["mean_iou"], mark, color=colour)
            top.set(title=f"{SETS[data][2]}, trained on {', '.join(SETS[data][3])}", xlabel="minutes")
            bottom.set(xlabel="GFLOP forward for a Mpx", xlim=(0, 1.1 * bottom.get_xlim()[1]))
        rows[0, 0].set_ylabel("validation mean IoU, %")
        rows[1, 0].set_ylabel("test mean IoU, %, one view")
        add_legend(figure, rows[0, 0].get_legend_handles_labels()[0])
        save(figure, path)


if __name__ == "__main__":
    if "--draw" in sys.argv:
        draw(bench.ROOT / "data/benchmark", bench.ROOT / "docs/quality.png")
        sys.exit()
    bench.main(__file__, __doc__, {" ".join(map(str, case)): lambda folder, case=case: train(*case, folder)
                                   for case in CASES}, make, summarise, rounds=1)
