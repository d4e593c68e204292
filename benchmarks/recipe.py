"""The recipe of params.yaml against the notebook's, trained for the same time on real tiles; validation mean IoU.

    python benchmarks/recipe.py --rounds 1                  all of it: about 3 hours on 2 cores
    python benchmarks/recipe.py --only "ours dubai 1"       one training

Trains through train.py, 20 minutes on Dubai with each of two seeds, 10 minutes on the DroneDeploy scene, 5 on the
made-up tiles, at widths that two cores can train: the number of epochs is what fits, from the time of a step measured
first, both recipes in turn. A training that was stopped goes on, one that is finished is not made again, as long as
settings and code are the same. Views at test time: one. The score is that of the kept model, the best epoch's.

Dubai's and DroneDeploy's tiles are read from where tests/settings/*.yaml say; a set that is not there is left out.
What was tried on the way is in benchmarks/recipe.md.
"""
import json
import statistics
import time
from pathlib import Path

import bench
import numpy as np

RECIPES = {"ours": "params.yaml", "notebook": "notebook.yaml"}
FOR_TWO_CORES = {  # what the machine decides, not the recipe
    "ours": {"model": {"width": 16}, "input": {"batch_size": 8}},
    "notebook": {"model": {"width": 8}, "input": {"batch_size": 8}, "train": {"max_lr": 0.07}},  # that of its trials
}
SETS = {  # minutes, seeds, settings of the data, tiles to train and to validate on
    "dubai": (20, (1, 2), "tests/settings/dubai.yaml", ["tile4", "tile7", "tile8"], ["tile1", "tile3"]),
    "dronedeploy": (10, (1,), "tests/settings/dronedeploy.yaml", ["west"], ["east"]),
    "sample": (5, (1,), "demo.yaml", ["2_11", "3_10", "4_11", "5_12", "6_7"], ["2_10"]),
}
CASES = [(recipe, data, seed) for data, (_, seeds, *_) in SETS.items() for seed in seeds for recipe in RECIPES]


def settings_of(recipe, data, seed, folder):
    """The settings of one training: the recipe's sections, the data set's tiles."""
    from params import read_settings
    _, _, of_data, train, val = SETS[data]
    settings, tiles = read_settings(bench.ROOT / RECIPES[recipe]), read_settings(bench.ROOT / of_data)
    settings.update(data=tiles["data"], split={"train": train, "val": val, "test": []}, seed=seed)
    settings["data"].update(prepared=str(folder / f"prepared/{data}"))
    if not Path(settings["data"]["raw"]).is_absolute():
        settings["data"]["raw"] = str(bench.ROOT / settings["data"]["raw"])
    for section, values in FOR_TWO_CORES[recipe].items():
        settings[section].update(values)
    settings["train"].update(early_stopping=0, mixed_precision=False, jit=False, tensorboard=False)
    return settings


def make(folder):
    """The prepared tiles of every set that is at hand, and how many epochs of each fit into its minutes."""
    import prepare_data
    import sample_tiles
    from params import read_settings
    folder = folder / "recipe"
    for data, (_, _, of_data, train, val) in SETS.items():
        settings = settings_of("ours", data, 1, folder)
        if data == "sample" and not Path(settings["data"]["raw"]).exists():
            sample_tiles.main(Path(settings["data"]["raw"]), seed=1)
        if Path(settings["data"]["raw"]).exists():
            every = {tile for role in read_settings(bench.ROOT / of_data)["split"].values() for tile in role}
            rest = sorted(every.union(val[1:]) - {*train, val[0]})  # no role may be empty
            prepare_data.main({**settings, "split": {"train": train, "val": val[:1], "test": rest}}, folder)
            count_epochs(data, folder)


def count_epochs(data, folder):
    """Writes the epochs that fit into the set's minutes, for both recipes, from steps timed in turn."""
    from patches import plan_epoch
    from pipeline import open_tiles
    from training import Trainer
    from workers import choose_strategy
    target = folder / f"epochs_{data}.json"
    if target.exists():
        return
    steps, seconds = {}, {recipe: [] for recipe in RECIPES}
    trainers, pixels = {}, {}
    for recipe in RECIPES:
        settings = settings_of(recipe, data, 1, folder)
        tiles, patch = open_tiles(settings["data"], settings["split"]["train"]), settings["input"]
        plan = plan_epoch(tiles, settings, 1)
        steps[recipe] = len(plan) // patch["batch_size"]
        trainers[recipe] = Trainer(settings, 1e-4, 0.9, choose_strategy())
        pixels[recipe] = next(iter(trainers[recipe].feed(tiles, plan[: patch["batch_size"]])))
    for turn in range(12):
        for recipe, trainer in trainers.items():
            started = time.perf_counter()
            float(trainer.train_step(pixels[recipe])[0])
            seconds[recipe] += [time.perf_counter() - started] if turn > 1 else []
    epochs = {recipe: round(60 * SETS[data][0] / steps[recipe] / statistics.median(seconds[recipe]))
              for recipe in RECIPES}
    target.write_text(json.dumps(epochs))


def train(recipe, data, seed, folder):
    import lr_find
    import train
    folder, run = folder / "recipe", folder / f"recipe/{recipe}_{data}_{seed}"
    if not (folder / f"epochs_{data}.json").exists():
        raise ModuleNotFoundError(f"the tiles of {data} are not at hand")
    settings = settings_of(recipe, data, seed, folder)
    settings["train"]["epochs"] = json.loads((folder / f"epochs_{data}.json").read_text())[recipe]
    if settings["train"]["max_lr"] == "auto":
        lr_find.main(settings, run)
    train.main(settings, run)
    rows = np.genfromtxt(run / "history.csv", delimiter=",", names=True)
    return {"mean_iou": rows["val_mean_iou"].max(), "mean_iou_last": rows["val_mean_iou"][-1],
            "minutes": rows["seconds"].sum() / 60, "epochs": len(rows)}


def summarise(medians):
    def mean(recipe, data, key):
        found = [figures[key] for name, figures in medians.items() if name.startswith(f"{recipe} {data} ")]
        return statistics.mean(found) if found else None

    figures = {"mean_iou": mean("ours", "dubai", "mean_iou"),
               "mean_iou_notebook": mean("notebook", "dubai", "mean_iou")}
    for data in SETS:
        for recipe in RECIPES:
            figures.update({f"{key}_{data}_{recipe}": mean(recipe, data, key)
                            for key in ("mean_iou", "mean_iou_last", "minutes", "epochs")})
    return {key: value for key, value in figures.items() if value is not None}


if __name__ == "__main__":
    bench.main(__file__, __doc__, {" ".join(map(str, case)): lambda folder, case=case: train(*case, folder)
                                   for case in CASES}, make, summarise, rounds=1)
