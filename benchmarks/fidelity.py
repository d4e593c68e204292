"""What windows and 8 bit cost in quality, on networks that recipe.py trained.

    python benchmarks/fidelity.py       about 10 minutes on 2 cores; writes docs/seams.png too

`points_lost_*`: validation mean IoU in float32 less that in 8 bit or bfloat16, in points, whole tiles, one
view. `same_*`: share of the pixels to which another engine gives the class that TensorFlow gives. The seam
meter compares maps made of windows of 512 px with one made at once: the share of pixels whose class differs,
by their distance to the nearest border of a window, on nine windows of each validation tile of Dubai.
"""
import bench
import numpy as np
import rasterio


def trained(folder, data):
    """(run, facts, settings) of the first training of recipe.py on a data set."""
    import recipe

    from base.tables import read_facts
    run = folder / f"recipe/ours_{data}_1"
    if not (run / "model.json").exists():
        raise ModuleNotFoundError(f"the training {run}, which recipe.py makes")
    return run, read_facts(run), recipe.settings_of("ours", data, 1, folder / "recipe")


WAYS = {"tensorflow": ("tensorflow", "float32"), "openvino": ("openvino", "float32"),
        "bfloat16": ("openvino", "bfloat16"), "int8": ("openvino", "int8")}


def measure(folder, data):
    """Mean IoU of the validation tiles with every engine, and the share of pixels of TensorFlow's class."""
    import nncf  # noqa: F401  passed over where it is missing

    from imagery.arrays import IGNORE
    from imagery.raw_tiles import find_rasters
    from imagery.scores import confusion_matrix, mean_iou
    from imagery.tiles import open_prepared
    from mapping import one_raster, translate
    run, facts, settings = trained(folder, data)
    options = settings["predict"]
    options.update(views=[0], force=True, window=512 if data == "dubai" else 256, overlap=0.25, batch_size=2)
    confusions, maps = {way: 0 for way in WAYS}, {way: [] for way in WAYS}
    for way, (engine, precision) in WAYS.items():
        options.update(engine=engine, precision=precision)
        if engine == "openvino":
            translate.ensure_engine(run, facts, settings)
        for tile in settings["split"]["val"]:
            job = one_raster.Job(tile, find_rasters(tile, settings)[0][1], None, settings, run, engine)
            one_raster.predict_group([job], 0, lambda line, last=False: None)
            with rasterio.open(run / f"predictions/{tile}.tif") as source:
                predicted = source.read(1)
            labels = np.where(predicted == IGNORE, IGNORE, open_prepared(settings["data"], tile).labels)
            confusions[way] += confusion_matrix(labels, predicted, len(facts["classes"]))
            maps[way].append(predicted.ravel())
    scores = {way: mean_iou(confusion) for way, confusion in confusions.items()}
    whole = {way: np.concatenate(parts) for way, parts in maps.items()}
    return {"mean_iou": scores["openvino"], "mean_iou_int8": scores["int8"],
            "points_lost": 100 * (scores["openvino"] - scores["int8"]),
            "points_lost_bfloat16": 100 * (scores["openvino"] - scores["bfloat16"]),
            **{f"same_{way}": float(np.mean(whole[way] == whole["tensorflow"])) for way in WAYS}}


OVERLAPS = (0, 1 / 16, 1 / 8, 1 / 4)  # of 512: multiples of the network's grid of 32 px
NEAR = 4  # pixels: what the seam meter's figures call the border of a window


def predict_whole(answer, image, windows, facts):
    """Class indices (uint8 [H, W]) of an image (uint8 [H, W, B])."""
    from mapping import blending
    rows = blending.predict_rows(answer, lambda start, stop: image[start:stop], image.shape[:2],
                                 len(facts["classes"]), windows)
    return np.concatenate([part[0] for _, part in rows])


def seams(folder):
    """The share of pixels whose class differs from that of a map made at once, by distance to a window's
    border."""
    from imagery.tiles import open_prepared
    from mapping import blending, engines
    run, facts, settings = trained(folder, "dubai")
    window, multiple, figures, curves = 512, facts["multiple"], {}, {}
    answer = engines.tensorflow_engine(engines.load_network(run, facts), 1)
    edges = np.array([0, 4, 8, 16, 32, 64, 128, 256])
    for overlap in OVERLAPS:
        wrong, pixels, all_wrong, all_pixels = np.zeros(len(edges)), np.zeros(len(edges)), 0, 0
        for tile in settings["split"]["val"]:
            side = window + 2 * int(window * (1 - overlap))  # three windows that overlap by just so much
            image = np.ascontiguousarray(open_prepared(settings["data"], tile).image[:side, :side])
            apart = blending.Windows(window, overlap, [0], multiple)
            whole, cut_up = (predict_whole(answer, image, windows, facts)
                             for windows in (blending.Windows(side, 0, [0], multiple), apart))
            away = []
            for length in image.shape[:2]:
                first = apart.along(length)
                borders = np.unique([*first[1:], *(first[:-1] + window)])
                away.append(np.abs(np.arange(length)[:, None] + 0.5 - borders).min(1))
            bins = np.digitize(np.minimum(*np.meshgrid(*away, indexing="ij")), edges) - 1
            wrong += np.bincount(bins[whole != cut_up], minlength=len(edges))
            pixels += np.bincount(bins.ravel(), minlength=len(edges))
            all_wrong, all_pixels = all_wrong + (whole != cut_up).sum(), all_pixels + whole.size
        curves[overlap] = 100 * wrong / np.maximum(pixels, 1)
        figures[f"percent_at_border_{overlap:g}"] = curves[overlap][0]
        figures[f"percent_{overlap:g}"] = 100 * all_wrong / all_pixels
    draw_seams(edges, curves)
    return figures


def draw_seams(edges, curves):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(curves)))
    middles = np.sqrt(np.maximum(edges, 2) * np.append(edges[1:], 512))
    for (overlap, curve), colour in zip(curves.items(), colours):
        seen = curve > 0
        axes.plot(middles[seen], curve[seen], "o-", color=colour, markersize=3.5,
                  label=f"{512 * overlap:g} px")
    axes.set(xscale="log", yscale="log", xlabel="distance to the nearest border of a window (pixels)",
             ylabel="pixels of another class (%)")
    axes.set_xticks([3, 10, 30, 100, 300], ["3", "10", "30", "100", "300"])
    axes.grid(alpha=0.3)
    axes.legend(title="overlap of windows of 512 px", fontsize=8, title_fontsize=8)
    figure.savefig(bench.ROOT / "docs/seams.png", dpi=160)


def summarise(medians):
    return {f"{key}_{name.replace(' ', '_')}": value
            for name, found in medians.items() for key, value in found.items()}


if __name__ == "__main__":
    bench.main(__file__, __doc__, {**{data: lambda folder, data=data: measure(folder, data)
                                      for data in ("dubai", "sample")}, "seams": seams},
               lambda folder: None, summarise, rounds=1)
