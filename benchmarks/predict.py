"""Class maps of whole tiles: Mpx/s per view, memory, share of the matrix product's peak, against the notebook's.

    python benchmarks/predict.py        about 40 minutes on 2 cores; writes docs/seams.png too

The same tile, 3000 x 3000, and the same weights, the published network's (33.8 GFLOP for a patch of 256 px, 516 for a
Mpx), through the notebook's algorithm (whole tile in memory, patches of 256 px side by side, predict, scatter_nd: what
is left over at the far edges stays unpredicted) and through predict.py with every engine, from the open raster to the
closed map: reading, overlap, blending and writing included, starting and translating not. `share_of_peak_*` counts
516 GFLOP for every Mpx of the map, so that overlap costs, over the best product of two 4096 x 4096 matrices in the same
round. Eight views are timed on a quarter of the tile, beside one view of it.

Where recipe.py's trainings are at hand (data/benchmark/recipe), `int8_loss_*` are the points of validation mean IoU
that 8 bit costs them, and the seam meter compares maps made of windows with one made at once: the share of pixels whose
class differs, by their distance to the nearest border of a window.
"""
import json
import shutil
import time
from pathlib import Path

import bench
import numpy as np
import rasterio

SIDE, PATCH = 3000, 256
GFLOP = 516  # for a Mpx of the published network: 33.81 for a patch
WINDOWS = {"tensorflow": (1056, 0.06, 1), "openvino": (1056, 0.06, 2), "int8": (1056, 0.06, 2)}
LARGE = {"wide": (12_000, 40_000), "tall": (40_000, 12_000)}  # height, width


def write_raster(path, height, width, blocks):
    """A tiled GeoTIFF of coloured blocks; without `blocks` an empty, sparse one."""
    options = {"driver": "GTiff", "height": height, "width": width, "count": 3, "dtype": "uint8", "tiled": True,
               "compress": "deflate", "sparse_ok": True, "crs": "EPSG:32633",
               "transform": rasterio.Affine(0.05, 0, 366976, 0, -0.05, 5808000)}
    with rasterio.open(path, "w", **options) as target:
        if blocks:
            colours = np.random.default_rng(0).integers(0, 256, (3, -(-height // 24), -(-width // 24)), dtype=np.uint8)
            target.write(colours.repeat(24, 1).repeat(24, 2)[:, :height, :width])


def write_run(folder, recipe):
    """A run with that recipe's network, untrained but for moving statistics that are not all alike."""
    import keras

    from files import sha256
    from model import build_network
    from params import coarsest, read_settings
    settings = read_settings(bench.ROOT / f"{recipe}.yaml")
    keras.utils.set_random_seed(1)
    folder.mkdir(parents=True, exist_ok=True)
    build_network(3, len(settings["data"]["classes"]), **settings["model"]).save(folder / "model.keras")
    facts = {"classes": settings["data"]["classes"], "bands": [1, 2, 3], "extra": False, "scale": [None] * 3,
             "ground_sample_distance": 0.05, "multiple": coarsest(settings["model"]),
             "sha256": sha256(folder / "model.keras")}
    (folder / "model.json").write_text(json.dumps(facts))


def make(folder):
    folder = folder / "predict"
    for recipe in ("notebook", "params", "demo"):
        if not (folder / recipe / "model.json").exists():
            write_run(folder / recipe, recipe)
    for name, size in {"tile": (SIDE, SIDE), "quarter": (SIDE // 2, SIDE // 2)}.items():
        if not (folder / f"{name}.tif").exists():
            write_raster(folder / f"{name}.tif", *size, blocks=True)
    for name, size in LARGE.items():
        if not (folder / f"{name}.tif").exists():
            write_raster(folder / f"{name}.tif", *size, blocks=False)


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

    from engines import load_network, read_facts
    from tiles import unview, view
    run = folder / "predict/notebook"
    network = load_network(run, read_facts(run))
    network.predict(np.zeros((32, PATCH, PATCH, 3), np.uint8), batch_size=32, verbose=0)  # traced before the clock runs
    started = time.perf_counter()
    with rasterio.open(folder / f"predict/{tile}.tif") as source:
        image = np.moveaxis(source.read(), 0, -1)
    total = 0
    for number in views:
        turned = view(image, number)[None]
        patches = tf.image.extract_patches(turned, (1, PATCH, PATCH, 1), (1, PATCH, PATCH, 1), (1, 1, 1, 1), "VALID")
        rows, columns = patches.shape[1:3]
        answers = network.predict(tf.reshape(patches, (-1, PATCH, PATCH, 3)), batch_size=32, verbose=0)
        corners = [(row * PATCH, col * PATCH) for row in range(rows) for col in range(columns)]
        places = np.stack([np.stack(np.meshgrid(np.arange(row, row + PATCH), np.arange(col, col + PATCH),
                                                indexing="ij"), -1) for row, col in corners])
        whole = tf.scatter_nd(places, answers, (*image.shape[:2], answers.shape[-1])).numpy()
        total = total + unview(whole, number)
    predicted = total.argmax(-1).astype(np.uint8)
    with rasterio.open(folder / "predict/notebook.tif", "w", driver="GTiff", height=image.shape[0],
                       width=image.shape[1], count=1, dtype="uint8", compress="deflate") as target:
        target.write(predicted, 1)
    seconds = time.perf_counter() - started
    return {"mpx_per_second": image.shape[0] * image.shape[1] * len(views) / seconds / 1e6,
            "resident_mb": bench.resident()[1], "seconds": seconds}


def settings_for(recipe, engine, views):
    from params import read_settings
    settings = read_settings(bench.ROOT / f"{recipe}.yaml")
    window, overlap, batch_size = WINDOWS[engine]
    settings["predict"].update(window=window, overlap=overlap, batch_size=batch_size, views=list(views), also=[],
                               engine="tensorflow" if engine == "tensorflow" else "openvino",
                               precision="int8" if engine == "int8" else "float32")
    return settings


def ours(folder, engine, tile, *every, recipe="notebook"):
    """predict.py's way, for each of the lists of views in `every`; memory is that of the whole process."""
    import engines
    import predict
    from files import Problem
    run, seconds = folder / f"predict/{recipe}", []
    for views in every:
        settings = settings_for(recipe, engine, views)
        options = settings["predict"]
        try:
            chosen = engines.choose_engine(options)
        except Problem as problem:
            raise ModuleNotFoundError(str(problem)) from None
        facts = engines.read_facts(run)
        if chosen == "openvino":
            calibrate_on_made_up(settings, folder)
            engines.ensure_engine(run, facts, settings)
        answer, activations = engines.engine_of(run, facts["sha256"], chosen, options["precision"], options["window"],
                                                options["batch_size"], 0)
        for _ in answer(iter([np.zeros((options["window"], options["window"], 3), np.uint8)])):
            pass  # traced before the clock runs
        shutil.rmtree(run / "predictions", ignore_errors=True)
        started = time.perf_counter()
        predict.predict_raster("map", folder / f"predict/{tile}.tif", None, settings, run, chosen, show=False)
        seconds.append(time.perf_counter() - started)
    with rasterio.open(folder / f"predict/{tile}.tif") as source:
        height, width = source.shape
    stated = predict.memory((height, width), 3, 6, options, chosen, activations)
    return {"mpx_per_second": height * width * len(every[0]) / seconds[0] / 1e6, "resident_mb": bench.resident()[1],
            "stated_mb": stated / 1e6, "seconds": seconds[0],
            **({"eight_over_one": seconds[1] / seconds[0]} if len(seconds) > 1 else {})}


def calibrate_on_made_up(settings, folder):
    """Makes the demo's tiles the settings' own, for 8 bit to calibrate on."""
    import prepare_data
    import sample_tiles
    from params import read_settings
    demo = read_settings(bench.ROOT / "demo.yaml")
    demo["data"].update(raw=str(folder / "predict/raw"), prepared=str(folder / "predict/prepared"))
    if not Path(demo["data"]["prepared"], "manifest.json").exists():
        sample_tiles.main(folder / "predict/raw", seed=1)
        prepare_data.main(demo, folder / "predict")
    settings.update(data=demo["data"], split=demo["split"])
