"""The recipe of params.yaml against the notebook's, trained for the same time on real tiles; validation mean
IoU.

    python benchmarks/recipe.py --rounds 1                  all of it: about 3 hours on 2 cores
    python benchmarks/recipe.py --only "ours dubai 1"       one training

Trains through train.py, 20 minutes on Dubai with each of two seeds, 10 minutes on the DroneDeploy scene, 5 on
the made-up tiles, at widths that two cores can train: the number of epochs is what fits, from the time of a
step measured first, both recipes in turn. A training that was stopped goes on, one that is finished is not
made again, as long as settings and code are the same; history.csv in data/benchmark/recipe/<training> shows
how far it is. Views at test time: one. `mean_iou` is that of the kept model, the best epoch's,
`mean_iou_last` that of the last epoch.

Dubai's and DroneDeploy's tiles are read from where settings/*.yaml say; a set that is not there is left
out. What was tried on the way is in benchmarks/recipe.md."""
import json
import statistics
import time
from pathlib import Path

import bench
import numpy as np

RECIPES = {"ours": "params.yaml", "notebook": "settings/notebook.yaml"}
FOR_TWO_CORES = {  # widths and batches that two cores can train; the notebook's rate is that of its trials
    "ours": {"model": {"width": 16}, "input": {"batch_size": 8}},
    "notebook": {"model": {"width": 8}, "input": {"batch_size": 8}, "train": {"max_lr": 0.07}},
}
SETS = {  # minutes, seeds, settings of the data, tiles to train and to validate on
    "dubai": (20, (1, 2), "settings/dubai.yaml", ["tile4", "tile7", "tile8"], ["tile1", "tile3"]),
    "dronedeploy": (10, (1,), "settings/dronedeploy.yaml", ["west"], ["east"]),
    "sample": (5, (1,), "demo.yaml", ["2_11", "3_10", "4_11", "5_12", "6_7"], ["2_10"]),
}
CASES = [(recipe, data, seed) for data, (_, seeds, *_) in SETS.items() for seed in seeds
         for recipe in RECIPES]


def settings_of(recipe, data, seed, folder):
    """The settings of one training: the recipe's sections, the data set's tiles."""
    from base.settings import read_settings
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
    for data in SETS:
        ready(data, folder / "recipe")


def ready(data, folder):
    """Prepares the tiles of a set; {recipe: epochs that fit into its minutes}, or None where the set is not
    at hand."""
    import prepare_data
    from base.settings import all_tiles, read_settings
    from imagery import sample_tiles
    _, _, of_data, train, val = SETS[data]
    settings = {recipe: settings_of(recipe, data, 1, folder) for recipe in RECIPES}
    ours, raw = settings["ours"], Path(settings["ours"]["data"]["raw"])
    if data == "sample" and not raw.exists():
        sample_tiles.main(raw, seed=1)
    if not raw.exists():
        return None
    target = folder / f"epochs_{data}.json"
    counted_for = {recipe: [own["model"], own["input"]] for recipe, own in settings.items()}
    found = json.loads(target.read_text()) if target.exists() else {}
    if found.get("counted_for") != counted_for:
        every = set(all_tiles(read_settings(bench.ROOT / of_data)["split"]))
        rest = sorted(every.union(val[1:]) - {*train, val[0]})  # no role may be empty
        prepare_data.main({**ours, "split": {"train": train, "val": val[:1], "test": rest}}, folder)
        found = {"counted_for": counted_for, **count_epochs(settings, SETS[data][0])}
        target.write_text(json.dumps(found))
    return found


def count_epochs(settings, minutes):
    """{recipe: epochs that fit into so many minutes}, from steps of both recipes timed in turn."""
    from imagery.tiles import open_tiles
    from learning.plans import plan_epoch
    from learning.workers import choose_strategy
    from trainer import Trainer
    seconds, updates, trainers, pixels = {recipe: [] for recipe in RECIPES}, {}, {}, {}
    for recipe, own in settings.items():
        tiles, batch_size = open_tiles(own["data"], own["split"]["train"]), own["input"]["batch_size"]
        updates[recipe] = len(plan_epoch(tiles, own, 1)) // batch_size
        trainers[recipe] = Trainer(own, 1e-4, 0.9, choose_strategy())
        pixels[recipe] = next(iter(trainers[recipe].training_batches(tiles, 1)))
    for turn in range(12):
        for recipe, trainer in trainers.items():
            started = time.perf_counter()
            float(trainer.train_step(pixels[recipe])[0])
            seconds[recipe] += [time.perf_counter() - started] if turn > 1 else []
    return {recipe: round(60 * minutes / updates[recipe] / statistics.median(seconds[recipe]))
            for recipe in RECIPES}


def train(recipe, data, seed, folder):
    import train
    folder, run = folder / "recipe", folder / f"recipe/{recipe}_{data}_{seed}"
    epochs = ready(data, folder)
    if epochs is None:
        raise ModuleNotFoundError(f"the tiles of {data}")
    settings = settings_of(recipe, data, seed, folder)
    settings["train"]["epochs"] = epochs[recipe]
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
