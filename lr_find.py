"""The learning-rate range test: loss against an exponentially rising learning rate.

    python lr_find.py --params demo.yaml

Trains the run's network from its first weights for lr_find.steps updates and stops where the loss diverges.
Writes lr_find.csv, lr_find.json and lr_find.png under runs/<run>. The suggestion, which train.max_lr: auto
takes, is the lowest rate at which the smoothed loss has made 70 % of its fall, and at most a tenth of the
rate at which it is lowest. The valley beyond is often flat and noisy, its lowest point chance: over six seeds
of demo.yaml it moves by a factor of 13, the suggestion by 3. The rate of the steepest descent, usually lower,
is drawn beside it (Smith 2017). Takes as long as so many updates of the training."""
import itertools
import math

import numpy as np

from base.blocks import drawn
from base.command import command, progress
from base.problem import Problem
from base.tables import write_record, write_rows
from learning.beginnings import check_start, weights_at_hand
from learning.optimizers import Exponential
from learning.records import finder_inputs, finder_stands, fingerprint
from learning.workers import choose_strategy, first_says, working_in
from trainer import Trainer, open_roles

SMOOTHING = 0.03  # standard deviation of the Gaussian that smooths the losses, as a share of lr_find.steps
FALLEN = 0.7  # share of its whole fall that the smoothed loss has made at the suggested rate
LEAST_FALL = 0.05  # share of the first losses by which the smoothed loss must fall, or the curve says nothing
DIVERGED = 4  # times the lowest smoothed loss


def smooth(losses, width):
    """Gaussian running mean of losses (float64 [N]), `width` updates its standard deviation; centred, so it
    does not lag, and at both ends taken over what is there."""
    reach = math.ceil(4 * width)
    kernel = np.exp(-(np.arange(-reach, reach + 1) / width) ** 2 / 2)
    sums, weights = (np.convolve(values, kernel)[reach: -reach] for values in (losses, np.ones(len(losses))))
    return sums / weights


def suggest(rates, smoothed):
    """(steepest, suggestion): the rate where the smoothed loss falls fastest per decade on its way to the
    minimum, and the lowest rate at which it has made FALLEN of its fall, at most a tenth of that at the
    minimum. Problem (exit 5) where it hardly falls."""
    lowest, first = int(np.argmin(smoothed)), np.median(smoothed[: max(1, len(smoothed) // 10)])
    fall = first - smoothed[lowest]
    if lowest < 2 or fall < LEAST_FALL * first:
        raise Problem(f"lr_find: the loss hardly fell (from {first:.3g} to {smoothed[lowest]:.3g}), "
                      "expected it to; lower lr_find.start, raise lr_find.end or lr_find.steps, or check the "
                      "labels", code=5)
    fallen = np.flatnonzero(smoothed <= first - FALLEN * fall)[0]
    slope = np.gradient(smoothed, np.log10(rates))[: lowest + 1]
    return float(rates[int(np.argmin(slope))]), float(min(rates[fallen], rates[lowest] / 10))


def range_test(settings, strategy):
    """(rates, losses), float64 [N] each, of up to lr_find.steps updates, ended where the loss diverges."""
    find, tiles = settings["lr_find"], open_roles(settings, "train")["train"]
    schedule = Exponential(**find)
    trainer = Trainer(settings, schedule, settings["train"]["momentum"][0], strategy)
    for line in trainer.begun:
        print(line, flush=True)
    epochs = (trainer.training_batches(tiles, epoch) for epoch in itertools.count())
    width, lowest = SMOOTHING * find["steps"], math.inf
    rates, losses = [], []
    for step, batch in enumerate(itertools.islice(itertools.chain.from_iterable(epochs), find["steps"])):
        loss = float(trainer.train_step(batch)[0])
        if not math.isfinite(loss):
            break
        rates.append(float(schedule(step)))
        losses.append(loss)
        smoothed = smooth(losses[-math.ceil(4 * width):], width)[-1]
        lowest = min(lowest, smoothed)
        progress(f"lr_find {step + 1:4d}/{find['steps']}  learning rate {rates[-1]:.2e}  loss {smoothed:.3f}")
        if step > find["steps"] // 10 and smoothed > DIVERGED * lowest:
            break
    progress(f"lr_find stopped after {len(rates)} of {find['steps']} updates", last=True)
    return np.array(rates), np.array(losses)


def save(run, curve, steepest, suggestion, made_from):
    """Writes the curve (rates, losses, smoothed losses: float64 [N] each), its picture and, last, the
    suggestion: lr_find.json says that all is there."""
    from reporting.charts import draw_finder, style  # here: another look makes no other test
    with style():
        draw_finder(run / "lr_find.png", *curve, steepest, suggestion)
    columns = ["learning_rate", "loss", "smoothed"]
    rows = [dict(zip(columns, row)) for row in np.transpose(curve).tolist()]
    write_rows(run / "lr_find.csv", columns, rows)
    write_record(run / "lr_find.json", {
        "suggestion": suggestion, "steepest_descent": steepest, "made_from": made_from,
        "rule": "the lowest rate at which the smoothed loss has made 70 % of its fall, at most a tenth of "
                "that at its minimum"})


def main(settings, run):
    settings = drawn(settings)
    check_start(settings, run)
    strategy = choose_strategy()
    with working_in(run, strategy) as run:
        made_from = fingerprint(finder_inputs(settings, run), "lr_find.py")
        if first_says(strategy, lambda: finder_stands(settings, run, made_from)):
            (run / "lr_find.json").touch()  # for make
            print(f"stands already, from the same settings, tiles and code  {run / 'lr_find.json'}")
            return
        weights_at_hand(settings)  # before any tile is read
        rates, losses = range_test(settings, strategy)
        if len(rates) < 10:
            raise Problem(f"lr_find: the loss diverged after {len(rates)} updates, expected at least 10 "
                          "before that; lower lr_find.start", code=5)
        smoothed = smooth(losses, SMOOTHING * settings["lr_find"]["steps"])
        steepest, suggestion = suggest(rates, smoothed)
        save(run, (rates, losses, smoothed), steepest, suggestion, made_from)
        if smoothed.argmin() == settings["lr_find"]["steps"] - 1:
            print("the loss was still falling at the last rate: raise lr_find.end for a surer suggestion")
        picture = run / "lr_find.png"
        print(f"suggested max_lr {suggestion:.3g} (steepest descent at {steepest:.3g})  {picture}")


if __name__ == "__main__":
    command(main, __doc__)
