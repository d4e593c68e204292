"""Pictures of pixels: tiles with their labels, maps and errors.

Colours of classes are those of the settings; what is not scored is black, errors are magenta on the greyed image.
"""
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from skimage.transform import downscale_local_mean

from base.problem import Problem
from imagery.arrays import IGNORE
from imagery.labels import palette
from imagery.rasters import open_raster, reading
from imagery.tiles import open_prepared
from mapping.maps import beside
from reporting.charts import add_legend, legible, percent, save, shorten_name

ERROR, GAINED, LOST = (230, 0, 126), (0, 114, 178), (213, 94, 0)  # Okabe and Ito's blue and vermilion: for all eyes


def colour_keys(colours):
    """Legend patches of {name: colour}."""
    return [matplotlib.patches.Patch(facecolor=colour if isinstance(colour, str) else np.array(colour) / 255,
                                     edgecolor="0.5", label=legible(name)) for name, colour in colours.items()]


def show(axes, picture, title=None):
    axes.imshow(picture, interpolation="antialiased")
    axes.set(xticks=[], yticks=[], **({"title": title} if title else {}))
    axes.spines[:].set(visible=True, linewidth=0.5, color="0.5")


def first_bands(image):
    """What is shown of an image [..., B]: its first three bands, or the first one alone in grey."""
    return image[..., [0, 1, 2] if image.shape[-1] > 2 else [0, 0, 0]]


# -- tiles ------------------------------------------------------------------------------------------------------------

def shrink(image, limit):
    """(picture uint8 [h, w, 3], step): an image uint8 [H, W, B] averaged over squares of `step` pixels, so that it is
    at most `limit` long."""
    step = max(1, -(-max(image.shape[:2]) // limit))
    rest = [(0, -size % step) for size in image.shape[:2]]
    small = downscale_local_mean(np.pad(first_bands(image), (*rest, (0, 0)), "edge"), (step, step, 1))
    return np.rint(small).astype(np.uint8), step


def draw_labels(path, settings):
    """The first training tile beside its labels."""
    data, tile = settings["data"], settings["split"]["train"][0]
    prepared = open_prepared(data, tile)
    image, step = shrink(prepared.image, 1200)
    height, width = image.shape[:2]
    figure, panels = plt.subplots(1, 2, figsize=(7.4, 3.6 * height / width + 0.7))
    show(panels[0], image, f"{shorten_name(tile)}: image")
    show(panels[1], palette(data["classes"])[prepared.labels[::step, ::step]], f"{shorten_name(tile)}: labels")
    add_legend(figure, colour_keys({**data["classes"], "not scored": "#000000"}))
    save(figure, path)


def read_small(path, shape, step):
    """A class map as it is shown, uint8 [h, w]; Problem (exit 3) where it has not the shape of its labels."""
    if not path.exists():
        raise Problem(f"class map {path}: no such file, expected it of predict.py; run predict.py again", code=3)
    with open_raster(path) as source:
        if source.shape != tuple(shape) or source.dtypes[0] != "uint8":
            raise Problem(f"class map {path}: {source.dtypes[0]} {source.shape}, expected uint8 {tuple(shape)}; run "
                          "predict.py and evaluate.py again", code=3)
        with reading(path):
            return source.read(1)[::step, ::step]


def tile_pictures(tile, settings, run, alone):
    """{"image", "labels", "prediction", "errors", and with the map in one view, `alone`, "one view", "what the views
    change"}: uint8 [h, w, 3] pictures of a test tile, at most report.max_pixels long."""
    data, path = settings["data"], run / "predictions" / f"{tile}.tif"
    prepared, colours = open_prepared(data, tile), palette(data["classes"])
    image, step = shrink(prepared.image, settings["report"]["max_pixels"])
    labels = np.asarray(prepared.labels[::step, ::step])
    predicted = read_small(path, prepared.labels.shape, step)
    grey = (0.55 * image.mean(-1, keepdims=True) + 95).astype(np.uint8).repeat(3, -1)
    scored = (labels != IGNORE) & (predicted != IGNORE)
    grey[~scored] = 0
    errors, right = grey.copy(), labels == predicted
    errors[scored & ~right] = ERROR
    pictures = {"image": image, "labels": colours[labels], "prediction": colours[predicted], "errors": errors}
    if alone:
        single = read_small(beside(path, "one_view"), prepared.labels.shape, step)
        change = grey.copy()
        change[scored & right & (single != labels)] = GAINED
        change[scored & ~right & (single == labels)] = LOST
        pictures.update({"one view": colours[single], "what the views change": change})
    return pictures


def draw_tile(path, tile, pictures, classes, score, alone=None):
    """A test tile: image, labels and errors, and the prediction; where `alone`, its scores in one view, is given, also
    the prediction in one view and what the views change."""
    height, width = pictures["image"].shape[:2]
    shown = ["image", "labels", "errors", "prediction"] if alone is None else [
        "image", "labels", "errors", "one view", "prediction", "what the views change"]
    columns = len(shown) // 2
    figure, panels = plt.subplots(2, columns, figsize=(7.4, 14.4 / columns * height / width + 1))
    scores = {"prediction": score, **({"one view": alone} if alone else {})}
    for axes, name in zip(panels.flat, shown):
        title = f"image ({shorten_name(tile)})" if name == "image" else name
        if name in scores:
            title = "all views" if name == "prediction" and alone else name
            title += f": mean IoU {percent(scores[name]['mean_iou'])} %"
        show(axes, pictures[name], title)
    colours = {**classes, "error": ERROR}
    if alone:
        colours.update({"mended by the views": GAINED, "spoilt by them": LOST})
    if (pictures["errors"] == 0).all(-1).any():
        colours["not scored"] = "#000000"
    add_legend(figure, colour_keys(colours))
    save(figure, path)
