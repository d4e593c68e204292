"""The temperatures of a trained network, fitted on the tiles that chose it."""
import numpy as np

from imagery.arrays import IGNORE, unview, view
from imagery.calibration import fit_temperature
from learning.patches import cut_batch
from learning.plans import validation_plan

WINDOWS = 64  # patches of the validation tiles, evenly spread
ACROSS = 64  # pixels of each along a side, evenly spread, at about so many at most
VIEWS = {"one_view": [0], "eight_views": list(range(8))}  # in which maps are predicted


def middles(tiles, patch_size):
    """Yields patches (uint8 [P, P, B]) and the labels (uint8 [S, S]) of their middles, evenly from all of the
    tiles: what maps are made of, since their windows overlap and count most in the middle."""
    plan, bands, middle = validation_plan(tiles, patch_size, 1), tiles[0].bands, middle_of(patch_size)
    for number in np.unique(np.linspace(0, len(plan) - 1, WINDOWS).round().astype(int)):
        one = plan[number: number + 1].copy()
        one["rows"] = one["cols"] = 0  # of what overlaps all is seen
        pixels = cut_batch(tiles, one, patch_size)[0]
        yield pixels[..., :bands], pixels[middle, middle, bands]


def middle_of(patch_size):
    """The pixels of a patch, along a side, that a temperature is fitted on."""
    quarter = patch_size // 4
    return slice(quarter, patch_size - quarter, max(1, patch_size // 2 // ACROSS))


def fit_temperatures(answer, tiles, patch_size):
    """{"one_view", "eight_views": temperature, "pixels": labelled ones that they were fitted on}. `answer`:
    probabilities (float32 [8, P, P, C]) of patches (uint8 [8, P, P, B])."""
    found, labels = {name: [] for name in VIEWS}, []
    pixels = (middle_of(patch_size),) * 2
    for patch, truth in middles(tiles, patch_size):
        if (truth == IGNORE).all():
            continue
        turned = answer(np.stack([view(patch, number) for number in range(8)]))
        turned = [unview(planes, number) for number, planes in enumerate(turned)]
        for name, numbers in VIEWS.items():
            mean = sum(turned[number] for number in numbers) / len(numbers)
            found[name].append(mean[pixels][truth != IGNORE])
        labels.append(truth[truth != IGNORE])
    every = np.concatenate([np.empty(0, np.uint8), *labels])
    fitted = {name: fit_temperature(np.concatenate(parts), every) if labels else 1.0
              for name, parts in found.items()}
    return {**fitted, "pixels": len(every)}
