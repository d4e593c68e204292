"""Scoring one 6000 x 6000 tile: colour-coded labels and a class map to confusion matrices, full and
boundary-eroded.

    python benchmarks/evaluate.py     about 2 minutes on 2 cores, 5 GB of memory

What is read from files beforehand is the same for all: labels as colours (uint8, bands first, as GDAL reads
them) and the map's class indices. The notebook compares every pixel with each colour and counts with
tf.math.confusion_matrix; scikit-learn counts what is decoded already. The floor: 36 Mpx times 3 bytes of
colours and one of the map are 0.15 GB, 0.02 s at 8 GB/s; a look-up for each pixel and a count for each pair
come to about 0.1 s on one core.
"""
import time

import bench
import numpy as np

SIZE, RADIUS = 6000, 3


def make(folder):
    """Labels as colours, and a map that is wrong along class boundaries and in a twentieth of all pixels."""
    from imagery.sample_tiles import COLOURS, draw_scene
    folder = folder / "evaluate"
    if (folder / "map.npy").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng, repeats = np.random.default_rng(0), (-(-SIZE // 1000), -(-SIZE // 1024))
    labels = np.tile(draw_scene((1000, 1024), [7, 0])[1], repeats)[:SIZE, :SIZE]
    predicted = np.roll(labels, (2, -1), (0, 1)).copy()
    wrong = rng.random(labels.shape) < 0.05
    predicted[wrong] = rng.integers(0, len(COLOURS), np.count_nonzero(wrong))
    np.save(folder / "colours.npy", np.ascontiguousarray(np.moveaxis(COLOURS[labels], -1, 0)))
    np.save(folder / "labels.npy", labels)
    np.save(folder / "map.npy", predicted)


def load(folder, *names):
    return [np.load(folder / f"evaluate/{name}.npy") for name in names]


def ours(folder):
    from base.settings import read_settings
    from imagery.labels import build_decoder
    from imagery.scores import boundary_distance, confusion_matrix
    data = read_settings(bench.ROOT / "params.yaml")["data"]
    colours, predicted = load(folder, "colours", "map")
    held = bench.resident()[0]
    started = time.perf_counter()
    labels, counts, _ = build_decoder(data).decode(np.moveaxis(colours, 0, -1))
    decoded = time.perf_counter()
    distance = boundary_distance(labels, RADIUS)
    eroded = time.perf_counter()
    matrices = confusion_matrix(labels, predicted, len(data["classes"]), distance, RADIUS + 2)
    done = time.perf_counter()
    assert matrices.sum() == counts[0] == SIZE**2
    return {"seconds": done - started, "decode": decoded - started, "erode": eroded - decoded,
            "count": done - eroded, "mpx_per_second": SIZE**2 / 1e6 / (done - started - (eroded - decoded)),
            "resident_mb": bench.resident()[1], "beyond_input_mb": bench.resident()[1] - held,
            "trace": float(np.trace(matrices.sum(0)))}


def notebook(folder):
    import tensorflow as tf

    from imagery.sample_tiles import COLOURS
    colours, predicted = load(folder, "colours", "map")
    colours = np.ascontiguousarray(np.moveaxis(colours, 0, -1))  # not timed
    started = time.perf_counter()
    labels = np.zeros(colours.shape[:2], np.int64)
    for index, colour in enumerate(COLOURS):
        labels[(colours == colour).all(-1)] = index
    matrix = tf.math.confusion_matrix(labels.ravel(), predicted.ravel(), num_classes=len(COLOURS)).numpy()
    seconds = time.perf_counter() - started
    return {"mpx_per_second": SIZE**2 / 1e6 / seconds, "resident_mb": bench.resident()[1],
            "trace": float(np.trace(matrix))}


def scikit_learn(folder):
    from sklearn.metrics import confusion_matrix
    labels, predicted = load(folder, "labels", "map")
    started = time.perf_counter()
    matrix = confusion_matrix(labels.ravel(), predicted.ravel())
    return {"mpx_per_second": SIZE**2 / 1e6 / (time.perf_counter() - started),
            "resident_mb": bench.resident()[1], "trace": float(np.trace(matrix))}


def summarise(medians):
    mine, theirs = medians["ours"], medians["notebook"]
    assert all(figures["trace"] == mine["trace"] for figures in medians.values())  # they count alike
    figures = {"vs_notebook": mine["mpx_per_second"] / theirs["mpx_per_second"], **mine,
               "notebook_mpx_per_second": theirs["mpx_per_second"],
               "notebook_resident_mb": theirs["resident_mb"]}
    if "scikit_learn" in medians:
        figures["scikit_learn_count_mpx_per_second"] = medians["scikit_learn"]["mpx_per_second"]
    del figures["trace"]
    return figures


if __name__ == "__main__":
    bench.main(__file__, __doc__, {"ours": ours, "notebook": notebook, "scikit_learn": scikit_learn}, make,
               summarise, rounds=5)
