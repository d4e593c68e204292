"""Pictures of pixels: tiles with their labels, maps and errors. Colours of classes are those of the settings;
what is not scored is black, errors are magenta on the greyed image.
"""
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from skimage.transform import downscale_local_mean

from base.settings import roles_of
from imagery.arrays import IGNORE
from imagery.labels import palette
from imagery.tiles import open_prepared
from mapping.maps import maps_of, read_map
from reporting.charts import add_legend, legible, percent, save, shorten_name

ERROR, GAINED, LOST = (230, 0, 126), (0, 114, 178), (213, 94, 0)  # Okabe and Ito's: for all eyes

ROLES = {"train": ("#0072b2", None), "val": ("#e69f00", "////"), "test": ("#cc79a7", "....")}


def colour_keys(colours):
    """Legend patches of {name: colour, as matplotlib takes it}."""
    return [matplotlib.patches.Patch(facecolor=colour, edgecolor="0.5", label=legible(name))
            for name, colour in colours.items()]


def show(axes, picture, title=""):
    axes.imshow(picture, interpolation="antialiased")
    axes.set(xticks=[], yticks=[], title=title)
    axes.spines[:].set(visible=True, linewidth=0.5, color="0.5")


def first_bands(image):
    """What is shown of an image [..., B]: its first three bands, or the first one alone in grey."""
    return image[..., [0, 1, 2] if image.shape[-1] > 2 else [0, 0, 0]]


def shrink(image, limit):
    """(picture uint8 [h, w, 3], step): an image, averaged over squares of `step` pixels to fit `limit`."""
    step = max(1, -(-max(image.shape[:2]) // limit))
    rest = [(0, -size % step) for size in image.shape[:2]]
    small = downscale_local_mean(np.pad(first_bands(image), (*rest, (0, 0)), "edge"), (step, step, 1))
    return np.rint(small).astype(np.uint8), step


def draw_labels(path, settings):
    """The first training tile beside its labels."""
    data, tile = settings["data"], settings["split"]["train"][0]
    prepared, name = open_prepared(data, tile, checked=False), shorten_name(tile)
    image, step = shrink(prepared.image, 1200)
    height, width = image.shape[:2]
    figure, panels = plt.subplots(1, 2, figsize=(7.4, 3.6 * height / width + 0.7))
    show(panels[0], image, f"{name}: image")
    show(panels[1], palette(data["classes"])[prepared.labels[::step, ::step]], f"{name}: labels")
    add_legend(figure, colour_keys({**data["classes"], "not scored": "#000000"}))
    return save(figure, path)


def draw_blocks(path, raster, settings, rows):
    """A raster that was cut, in grey, with its blocks in the colours of their roles, over the classes of each
    role's labelled pixels. `rows`: {tile: row of the manifest}."""
    blocks = {role: [rows[tile] for tile in tiles if rows[tile].get("cut", {}).get("raster") == raster]
              for role, tiles in roles_of(settings["split"]).items()}
    image, step = shrink(open_prepared(settings["data"], raster, checked=False).image, 1200)
    grey = (0.7 * image.mean(-1, keepdims=True) + 60).astype(np.uint8).repeat(3, -1)
    classes, (height, width) = settings["data"]["classes"], image.shape[:2]
    high = min(8, 5.9 * height / width)  # inches
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7.4, high + 2.2), height_ratios=[high, 0.9])
    show(top, grey, f"{shorten_name(raster, 60)}: {sum(map(len, blocks.values()))} blocks")
    keys = []
    for role, (colour, hatch) in ROLES.items():
        look = {"facecolor": (*matplotlib.colors.to_rgb(colour), 0.4), "edgecolor": colour, "hatch": hatch}
        for row, col, *size in (each["cut"]["window"] for each in blocks[role]):
            corner, (tall, wide) = (col / step - 0.5, row / step - 0.5), np.divide(size, step)
            top.add_patch(matplotlib.patches.Rectangle(corner, wide, tall, linewidth=0.8, **look))
        keys.append(matplotlib.patches.Patch(label=role, **look))
    draw_roles(bottom, blocks, classes)
    figure.legend(handles=keys, loc="outside upper center", ncols=len(keys))
    add_legend(figure, colour_keys(classes))
    return save(figure, path)


def draw_roles(axes, blocks, classes):
    """A bar for each role: the classes of its labelled pixels, those of its `blocks` ({role: rows})."""
    pixels = np.array([[sum(row["classes"][name] for row in rows) for name in classes]
                       for rows in blocks.values()], float)
    shares = 100 * pixels / np.maximum(pixels.sum(1, keepdims=True), 1)
    parts = 100 * pixels.sum(1) / max(1, pixels.sum())
    names = [f"{role}: {len(rows)} blocks, {part:.0f} %" for (role, rows), part in zip(blocks.items(), parts)]
    for number, colour in enumerate(classes.values()):
        axes.barh(names, shares[:, number], 0.8, shares[:, :number].sum(1), color=colour, edgecolor="0.45",
                  linewidth=0.3)
    axes.set(xlim=(0, 100), xlabel="share of the role's labelled pixels, %")
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def tile_pictures(tile, settings, run):
    """{name: uint8 [h, w, 3]}, pictures of a test tile, at most report.max_pixels long: "image", "labels",
    "prediction", "errors"; where its map was made in one view too, "one view" and "what the views change"."""
    colours = palette(settings["data"]["classes"])
    prepared = open_prepared(settings["data"], tile, checked=False)
    image, step = shrink(prepared.image, settings["report"]["max_pixels"])
    labels, shape = np.asarray(prepared.labels[::step, ::step]), prepared.labels.shape
    maps = {way: read_map(path, shape)[0][::step, ::step]
            for way, path in maps_of(tile, settings, run).items() if way != "side_by_side"}
    predicted = maps["map"]
    scored, right = (labels != IGNORE) & (predicted != IGNORE), labels == predicted
    grey = (0.55 * image.mean(-1, keepdims=True) + 95).astype(np.uint8).repeat(3, -1)
    grey[~scored] = 0
    errors = grey.copy()
    errors[scored & ~right] = ERROR
    pictures = {"image": image, "labels": colours[labels], "prediction": colours[predicted], "errors": errors}
    if "one_view" in maps:
        right_alone = labels == maps["one_view"]
        change = grey.copy()
        change[scored & right & ~right_alone] = GAINED
        change[scored & ~right & right_alone] = LOST
        pictures.update({"one view": colours[maps["one_view"]], "what the views change": change})
    return pictures


def draw_tile(path, tile, pictures, classes, scores, alone=None):
    """The `tile_pictures` of a test tile, with the prediction's scores and those in one view, `alone`."""
    titles = {"image": f"image ({shorten_name(tile)})", "labels": "labels", "errors": "errors"}
    colours, mean_iou = {**classes, "error": np.divide(ERROR, 255)}, percent(scores["mean_iou"])
    if alone:
        titles |= {"one view": f"one view: mean IoU {percent(alone['mean_iou'])} %",
                   "prediction": f"all views: mean IoU {mean_iou} %",
                   "what the views change": "what the views change"}
        colours |= {"mended by the views": np.divide(GAINED, 255), "spoilt by them": np.divide(LOST, 255)}
    else:
        titles["prediction"] = f"prediction: mean IoU {mean_iou} %"
    if (pictures["errors"] == 0).all(-1).any():
        colours["not scored"] = "#000000"
    columns, (height, width) = len(titles) // 2, pictures["image"].shape[:2]
    figure, panels = plt.subplots(2, columns, figsize=(7.4, 14.4 / columns * height / width + 1))
    for axes, (name, title) in zip(panels.flat, titles.items()):
        show(axes, pictures[name], title)
    add_legend(figure, colour_keys(colours))
    return save(figure, path)
