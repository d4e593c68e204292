"""Patches as augmentation leaves them: what each setting of `augment` does to them."""
import matplotlib.pyplot as plt
import numpy as np

from imagery.labels import palette
from imagery.tiles import open_tiles
from learning.patches import colours_of, cut_batch, draw_colours
from learning.plans import plan_epoch, views_of
from reporting.charts import add_legend, save
from reporting.pictures import colour_keys, first_bands, show


def with_only(settings, keys):
    """The settings with every augmentation off but those of `keys`."""
    chosen = {key: settings["augment"][key] for key in keys}
    return {**settings, "augment": {**dict.fromkeys(settings["augment"], 0), "scale": [1, 1], **chosen}}


def recolour(pixels, matrices, offsets):
    """Patches (uint8 [N, P, P, bytes]) with their first B bands as matrix @ bands + offset, rounded, clipped:
    what the pipeline does in one compiled pass."""
    bands, changed = offsets.shape[1], pixels.copy()
    turned = np.einsum("nhwi,nji->nhwj", pixels[..., :bands].astype(np.float32), matrices)
    changed[..., :bands] = np.clip(np.rint(turned + offsets[:, None, None]), 0, 255)
    return changed


def augmented(tiles, settings, plan, keys):
    """A plan's patches (uint8 [N, P, P, bytes]) with only these augmentations, as training cuts them."""
    plan, size = plan.copy(), settings["input"]["patch_size"]
    if "views" in keys:
        views = views_of(settings["augment"])
        plan["view"] = np.resize(views, len(plan))  # one of each, to be seen
    if "scale" in keys:
        plan["side"] = np.rint(size / np.geomspace(*settings["augment"]["scale"], len(plan)))
        shapes = np.array([tile.shape for tile in tiles])[plan["tile"]]
        for name, length in zip(("row", "col"), shapes.T):
            middle = plan[name] + (size - plan["side"]) // 2
            plan[name] = np.clip(middle, 0, np.maximum(length - plan["side"], 0))
    pixels, colours = cut_batch(tiles, plan, size), colours_of(with_only(settings, keys))
    return recolour(pixels, *draw_colours(pixels, plan["seed"], colours)) if colours else pixels


def draw_augmentation(path, settings):
    """Draws the first patches of an epoch under each augmentation; returns the augmentations that are off."""
    data, augment, classes = settings["data"], settings["augment"], settings["data"]["classes"]
    tiles = open_tiles(data, settings["split"]["train"], checked=False)
    plan = plan_epoch(tiles, with_only(settings, ()), epoch=1)[:8]
    on = [key for key in augment if augment[key] not in (0, False, [0], [1, 1])]
    rows = [("as cut", ()), *((key, (key,)) for key in on), *([("all together", on)] if len(on) > 1 else [])]
    strips = []
    for name, keys in rows:
        pixels, bands = augmented(tiles, settings, plan, keys), tiles[0].bands
        strips.append((name, first_bands(pixels[..., :bands])))
        if not keys or "views" in keys or "scale" in keys:  # else the labels are those above
            strips.append(("labels", palette(classes)[pixels[..., bands]]))
    size = (7.4, 0.9 * len(strips) + 0.4)
    figure, panels = plt.subplots(len(strips), len(plan), figsize=size, squeeze=False)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    for panel, (name, pictures) in zip(panels, strips):
        for axes, picture in zip(panel, pictures):
            show(axes, picture)
        panel[0].set_ylabel(name, fontsize=7)
    add_legend(figure, colour_keys({**classes, "not scored": "#000000"}))
    save(figure, path)
    return [key for key in augment if key not in on]
