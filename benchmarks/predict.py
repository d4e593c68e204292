"""Class maps of whole tiles: Mpx/s per view, memory, share of the matrix product's peak, against the
notebook's.

    python benchmarks/predict.py        about 40 minutes on 2 cores
    ENCODERS=all python benchmarks/predict.py        with every encoder, an hour
    SIDE=512 python benchmarks/predict.py --only "tile int8 today"       only that, smaller

The same tile, 3000 x 3000, and the same weights, the published network's (33.8 GFLOP for a patch of 256 px,
516 for a Mpx), through the notebook's algorithm (whole tile in memory, patches of 256 px side by side,
predict, scatter_nd: what is left over at the far edges stays unpredicted) and through predict.py with every
engine, from the open raster to the closed map: reading, overlap, blending and writing included, starting and
translating not. Mpx are those that are predicted, by the notebook 2816 x 2816. `share_of_peak_*` counts 516
GFLOP for each of them, so that overlap costs, over the best product of two 4096 x 4096 matrices in the same
round. Eight views are timed on a quarter of the tile, beside one view of it.

Networks with a pretrained encoder (the environment's ENCODERS: names with commas, or all) go the same way in
float32 and 8 bit, with the windows of params.yaml; their share of the peak is that of their own operations.
And a tile of 6000 px (the environment's SIDE) with eight views in 8 bit: `seconds_tile_int8_today` with
params.yaml's network, in turn with `seconds_tile_int8_efficientnet_lite0`, whose decoder is LEAN.

The floor for a Mpx of windows, of which that tile has 411: the former takes 109 GFLOP, the latter 21. In 8
bit these two cores, without VNNI, did 2.4 times what they do in a matrix product: 0.21 and 0.04 s. The
latter writes 0.2 GB of features and reads them again: at 20 GB/s 0.02 s. By OpenVINO's counters half of its
time goes to convolutions of single pixels, whose 16 to 48 inputs leave the multipliers idle while results are
rounded and written, a quarter to depthwise ones, a seventh to those of 3 x 3, a tenth to the interpolation.

Memory is stated before the run and measured on rasters of 480 Mpx too, which stand sparse on the disk. What
windows and 8 bit cost in quality: fidelity.py.
"""
import os
import re
import shutil
import time

import bench
import numpy as np
import rasterio

SIDE, PATCH = 3000, 256
GFLOP = 516  # for a Mpx of the published network: 33.81 for a patch
WINDOWS = {"tensorflow": (768, 0.02, 1), "openvino": (768, 0.02, 2), "bfloat16": (768, 0.02, 2),
           "int8": (768, 0.02, 2)}  # side, overlap, at once
ENCODERS = ("efficientnet_lite0", "mobilenet_v3_large", "efficientnet_v2_b0", "efficientnet_v2_b3",
            "convnext_tiny")
CHOSEN = os.environ.get("ENCODERS", ENCODERS[0])
CHOSEN = ENCODERS if CHOSEN == "all" else tuple(CHOSEN.split(","))
LEAN = {"width": 32, "stem": 4, "local_contrast": []}  # of the decoder
WHOLE = int(os.environ.get("SIDE", 6000))  # of the tile with eight views in 8 bit
LARGE = {"wide": (12_000, 40_000), "tall": (40_000, 12_000)}  # height, width


def write_raster(path, height, width, picture=None):
    """A tiled GeoTIFF of a picture, repeated; without one, empty and sparse."""
    options = {"driver": "GTiff", "height": height, "width": width, "count": 3, "dtype": "uint8",
               "tiled": True, "compress": "deflate", "sparse_ok": True, "crs": "EPSG:32633",
               "transform": rasterio.Affine(0.05, 0, 366976, 0, -0.05, 5808000)}
    with rasterio.open(path, "w", **options) as target:
        if picture is not None:
            times = [1, *(-(-size // own) for size, own in zip((height, width), picture.shape[1:]))]
            target.write(np.tile(picture, times)[:, :height, :width])


def model_of(recipe):
    """(settings of that recipe, of params.yaml with an encoder where it is the name of one; its model's)."""
    settings = bench.settings_of("params" if recipe in ENCODERS else recipe)
    if recipe in ENCODERS:
        settings["model"].update(LEAN, encoder=recipe, weights="none")
    return settings, settings["model"]


def write_run(folder, recipe):
    """A run with that recipe's network, untrained."""
    import keras

    from base.files import sha256
    from base.settings import coarsest
    from base.tables import write_record
    from model import build_network
    settings, _ = model_of(recipe)
    keras.utils.set_random_seed(1)
    folder.mkdir(parents=True, exist_ok=True)
    build_network(3, len(settings["data"]["classes"]), **settings["model"]).save(folder / "model.keras")
    facts = {"classes": settings["data"]["classes"], "bands": [1, 2, 3], "extra": False, "scale": [None] * 3,
             "ground_sample_distance": 0.05, "multiple": coarsest(settings["model"]), "epoch": 0,
             "chosen_by": "nobody", "trained_on": {}, "chosen_on": {},
             "sha256": sha256(folder / "model.keras")}
    write_record(folder / "model.json", facts)


def made_up(folder):
    """The settings of the demo, its tiles drawn and prepared in a folder: what the benchmark's tile is made
    of, and what 8 bit calibrates on."""
    import prepare_data
    from imagery import sample_tiles
    demo = bench.settings_of("demo")
    demo["data"].update(raw=str(folder / "raw"), prepared=str(folder / "prepared"))
    if not (folder / "prepared/manifest.json").exists():
        sample_tiles.main(folder / "raw", seed=1)
        prepare_data.main(demo, folder)
    return demo


def make(folder):
    from imagery.raw_tiles import find_rasters
    folder = folder / "predict"
    for recipe in ("notebook", "params", "demo", *dict.fromkeys((*CHOSEN, ENCODERS[0]))):
        if not (folder / recipe / "model.json").exists():
            write_run(folder / recipe, recipe)
    demo = made_up(folder)
    with rasterio.open(find_rasters(demo["split"]["test"][0], demo)[0][1]) as source:
        picture = source.read()
    sizes = {"tile": (SIDE, SIDE), "quarter": (SIDE // 2, SIDE // 2), f"whole{WHOLE}": (WHOLE, WHOLE),
             **LARGE}
    for name in (name for name in sizes if not (folder / f"{name}.tif").exists()):
        write_raster(folder / f"{name}.tif", *sizes[name], None if name in LARGE else picture)


def peak(folder):
    """GFLOP/s of the best of ten matrix products in float32."""
    import tensorflow as tf
    left, right = tf.random.normal((4096, 4096), seed=1), tf.random.normal((4096, 4096), seed=2)
    times = []
    for _ in range(10):
        started = time.perf_counter()
        float(tf.matmul(left, right)[0, 0])
        times.append(time.perf_counter() - started)
    return {"gflops": 2 * 4096**3 / min(times) / 1e9}


def notebook(folder, tile, views):
    """The notebook's way, with one view or all eight."""
    import tensorflow as tf

    from base.tables import read_facts
    from imagery.arrays import unview, view
    from mapping.engines import load_network
    run = folder / "predict/notebook"
    network = load_network(run, read_facts(run))
    empty = np.zeros((32, PATCH, PATCH, 3), np.uint8)
    network.predict(empty, batch_size=32, verbose=0)  # traced before the clock runs
    started = time.perf_counter()
    with rasterio.open(folder / f"predict/{tile}.tif") as source:
        image = np.moveaxis(source.read(), 0, -1)
    total = 0
    for number in views:
        turned = view(image, number)[None]
        side = (1, PATCH, PATCH, 1)
        patches = tf.image.extract_patches(turned, side, side, (1, 1, 1, 1), "VALID")
        rows, columns = patches.shape[1:3]
        answers = network.predict(tf.reshape(patches, (-1, PATCH, PATCH, 3)), batch_size=32, verbose=0)
        corners = [(row * PATCH, col * PATCH) for row in range(rows) for col in range(columns)]
        places = np.stack([np.stack(np.meshgrid(np.arange(row, row + PATCH), np.arange(col, col + PATCH),
                                                indexing="ij"), -1) for row, col in corners])
        whole = tf.scatter_nd(places, answers, (*image.shape[:2], answers.shape[-1])).numpy()
        total = total + unview(whole, number)
    classes = total.argmax(-1).astype(np.uint8)
    with rasterio.open(folder / "predict/notebook.tif", "w", driver="GTiff", height=image.shape[0],
                       width=image.shape[1], count=1, dtype="uint8", compress="deflate") as target:
        target.write(classes, 1)
    seconds, predicted = time.perf_counter() - started, rows * columns * PATCH**2  # fewer than the tile has
    return {"mpx_per_second": predicted * len(views) / seconds / 1e6,
            "resident_mb": bench.resident()[1], "seconds": seconds}


def settings_for(recipe, engine, views):
    """Settings with the windows of this benchmark; params.yaml, which measures memory, keeps its own."""
    settings, _ = model_of(recipe)
    if recipe not in ("params", *ENCODERS):
        settings["predict"].update(zip(("window", "overlap", "batch_size"), WINDOWS[engine]))
    settings["predict"].update(views=list(views), also=[], force=True,  # untrained, 8 bit has no price
                               engine="tensorflow" if engine == "tensorflow" else "openvino",
                               precision=engine if engine in ("bfloat16", "int8") else "float32")
    return settings


def ours(folder, engine, tile, *every, recipe="notebook"):
    """predict.py's way, for each of the lists of views in `every`; memory is that of the whole process."""
    from base.problem import Problem
    from base.tables import read_facts
    from mapping import engines, one_raster, translate
    run, seconds, stated = folder / f"predict/{recipe}", [], []
    for views in every:
        settings = settings_for(recipe, engine, views)
        options, facts = settings["predict"], read_facts(run)
        try:
            name = engines.choose_engine(options)
        except Problem as problem:
            raise ModuleNotFoundError(str(problem)) from None
        if name == "openvino":
            demo = made_up(folder / "predict")
            settings.update(data=demo["data"], split=demo["split"])
            translate.ensure_engine(run, facts, settings)
        chosen = engines.Engine(name, options["precision"], options["window"], options["batch_size"], 0)
        answer, _ = engines.start_engine(run, facts["sha256"], chosen)
        engines.answer_one(answer, options["window"], 3)  # traced before the clock runs
        shutil.rmtree(run / "predictions", ignore_errors=True)

        def show(line, last=False):
            if found := re.search("about ([0-9.]+) GB of memory", line):
                stated.append(1000 * float(found[1]))

        started = time.perf_counter()
        job = one_raster.Job("map", folder / f"predict/{tile}.tif", None, settings, run, name)
        one_raster.predict_group([job], 0, show)
        seconds.append(time.perf_counter() - started)
    with rasterio.open(folder / f"predict/{tile}.tif") as source:
        height, width = source.shape
    return {"mpx_per_second": height * width * len(every[0]) / seconds[0] / 1e6,
            "resident_mb": bench.resident()[1], "stated_mb": stated[-1], "seconds": seconds[0],
            **({"eight_over_one": seconds[1] / seconds[0]} if len(seconds) > 1 else {})}


def of_encoder(folder, recipe, engine):
    """One view of the tile, with an encoder: beside `ours`, operations for a Mpx."""
    from model import count_operations
    settings, model = model_of(recipe)
    _, operations = count_operations(PATCH, bands=3, classes=len(settings["data"]["classes"]), **model)
    return {**ours(folder, engine, "tile", ONE, recipe=recipe), "gflop": operations / PATCH**2 / 1e3}


def whole(folder, recipe):
    """Seconds of a tile with eight views in 8 bit; its input is made, too, where it is the only contender."""
    make(folder)
    return {"seconds": ours(folder, "int8", f"whole{WHOLE}", EIGHT, recipe=recipe)["seconds"]}


def large(folder, name, recipe, engine):
    """Memory on a raster of 480 Mpx, which stands sparse on the disk."""
    found = ours(folder, engine, name, [0], recipe=recipe)
    return {key: found[key] for key in ("resident_mb", "stated_mb", "seconds")}


def summarise(medians):
    best = medians["matrix product"]["gflops"]
    figures = {"peak_gflops": best}
    base = medians["notebook"]
    for engine in WINDOWS:
        found = medians.get(engine)
        if found:
            figures.update({f"mpx_per_second_{engine}": found["mpx_per_second"],
                            f"share_of_peak_{engine}": found["mpx_per_second"] * GFLOP / best,
                            f"resident_mb_{engine}": found["resident_mb"],
                            f"stated_mb_{engine}": found["stated_mb"],
                            f"vs_notebook_{engine}": found["mpx_per_second"] / base["mpx_per_second"],
                            f"memory_share_of_notebook_{engine}": found["resident_mb"] / base["resident_mb"]})
    exact = max((engine for engine in ("tensorflow", "openvino") if engine in medians),
                key=lambda engine: medians[engine]["mpx_per_second"])
    figures.update({"vs_notebook": figures[f"vs_notebook_{exact}"],
                    "resident_mb": figures[f"resident_mb_{exact}"],
                    "memory_share_of_notebook": figures[f"memory_share_of_notebook_{exact}"],
                    "mpx_per_second_notebook": base["mpx_per_second"],
                    "resident_mb_notebook": base["resident_mb"],
                    "share_of_peak_notebook": base["mpx_per_second"] * GFLOP / best})
    for name, found in medians.items():
        if "gflop" in found:
            share = found["mpx_per_second"] * found["gflop"] / best
            figures[f"share_of_peak_{name.replace(' ', '_')}"] = share
        if name.startswith("tile int8"):
            figures[f"seconds_{name.replace(' ', '_')}"] = found["seconds"]
        elif name not in (*WINDOWS, "notebook", "matrix product"):
            figures.update({f"{key}_{name.replace(' ', '_')}": value for key, value in found.items()})
    return figures


ONE, EIGHT = [0], list(range(8))
TILES = {"today": "params", ENCODERS[0]: ENCODERS[0]}
CONTENDERS = {
    "matrix product": peak,
    "notebook": lambda folder: notebook(folder, "tile", ONE),
    **{engine: lambda folder, engine=engine: ours(folder, engine, "tile", ONE) for engine in WINDOWS},
    **{f"tile int8 {name}": lambda folder, recipe=recipe: whole(folder, recipe)
       for name, recipe in TILES.items()}}
ONCE = {
    "notebook eight views": lambda folder: notebook(folder, "quarter", EIGHT),
    **{f"{engine} eight views": lambda folder, engine=engine: ours(folder, engine, "quarter", ONE, EIGHT)
       for engine in ("tensorflow", "openvino", "int8")},
    **{f"{recipe} {engine}": lambda folder, a=(recipe, engine): of_encoder(folder, *a)
       for recipe in CHOSEN for engine in ("openvino", "int8")},
    **{f"{name} {recipe} {engine}": lambda folder, a=(name, recipe, engine): large(folder, *a)
       for name, recipe, engine in (("wide", "demo", "openvino"), ("tall", "demo", "openvino"),
                                    ("wide", "demo", "tensorflow"), ("wide", "params", "openvino"))}}


if __name__ == "__main__":
    bench.main(__file__, __doc__, {**CONTENDERS, **ONCE}, make, summarise, once=ONCE)
