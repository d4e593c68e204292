"""Patches per second: this pipeline, the notebook's, and a PyTorch loader, on the same four 6000 x 6000
tiles.

    python benchmarks/pipeline.py            about 6 minutes on 2 cores, 2 GB of disk under data/benchmark

All hand on 256 px patches as uint8, turned at random into one of their eight views: ours as one array of
bands and label, which the training step parts on its device, the others as image and labels.

notebook_uncached, notebook_cached: the algorithm of the notebook, written anew: read whole tiles, cut them on
a grid,
    unbatch, decode the labels' colours, turn, shuffle 600, batch 50; the second with the cut patches cached
    in memory and its first epoch, which fills the cache, not timed. It stays uint8 throughout, which the
    notebook does not: with its float32 images it is slower still.
albumentations: torch's DataLoader with two workers, tiles and class indices in memory, RandomCrop and D4,
batch 16. ours: prepared tiles as train.py reads them, batch 16; ours_coloured with what the training step
    needs to change all four colours; ours_augmented with scale too; ours_many with the four tiles opened ten
    times over, as a set of forty. colours_in_step: what changing them on the training device takes, and its
    share of a step of the network of params.yaml.

The floor is memory traffic: the 256 KB of a patch are read from the tile and written to the batch.
`copy_gb_per_second` is what np.copyto moves (read + written) on one thread of this machine.
"""
import itertools
import time

import bench
import numpy as np

PATCH, SIZE, TILES = 256, 6000, ["1_1", "1_2", "1_3", "1_4"]
COLOURS = np.array([(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)],
                   np.uint8)


def settings(folder):
    from base.settings import read_settings
    values = read_settings(bench.ROOT / "demo.yaml")
    values["data"].update(raw=str(folder / "raw"), prepared=str(folder / "prepared"))
    values["split"] = {"train": TILES, "val": [], "test": []}
    values["input"].update(patch_size=PATCH, batch_size=16)
    return values


def make(folder):
    """Four tiles in the Potsdam layout, each a made-up scene repeated in its eight views, and their prepared
    form."""
    import rasterio

    import prepare_data
    from imagery.arrays import view
    from imagery.sample_tiles import draw_scene
    for number, tile in enumerate(TILES):
        image_path = folder / f"raw/2_Ortho_RGB/top_potsdam_{tile}_RGB.tif"
        if image_path.exists():
            continue
        image, labels = draw_scene((1500, 1500), [7, number])
        rng, numbers = np.random.default_rng(number), range(16)
        views = rng.integers(8, size=16)
        for path, pixels in ((folder / f"raw/5_Labels_all/top_potsdam_{tile}_label.tif", COLOURS[labels]),
                             (image_path, image)):
            parts = [view(pixels, views[i]) for i in numbers]
            whole = np.concatenate([np.concatenate(parts[i: i + 4], 1) for i in range(0, 16, 4)], 0)
            path.parent.mkdir(parents=True, exist_ok=True)
            with rasterio.open(path, "w", driver="GTiff", height=SIZE, width=SIZE, count=3, dtype="uint8",
                               photometric="RGB") as target:
                target.write(np.moveaxis(whole, -1, 0))
    values = settings(folder)
    values["split"] = {"train": TILES}
    prepare_data.main(values, folder)


def rate(batches, seconds):
    """Patches per second of an iterator of batches, over at least `seconds` after the first batch."""
    batches = iter(batches)
    next(batches)
    started, count = time.perf_counter(), 0
    for batch in batches:
        count += len(batch[0] if isinstance(batch, (list, tuple)) else batch)
        if time.perf_counter() - started > seconds:
            break
    return count / (time.perf_counter() - started)


# -- the contenders --------------------------------------------------------------------------------

def notebook_batches(folder, cached):
    """The notebook's dataset."""
    import rasterio
    import tensorflow as tf

    def read(tile):
        tile = tile.decode()
        paths = (folder / f"raw/2_Ortho_RGB/top_potsdam_{tile}_RGB.tif",
                 folder / f"raw/5_Labels_all/top_potsdam_{tile}_label.tif")
        both = []
        for path in paths:
            with rasterio.open(path) as source:
                both.append(np.moveaxis(source.read(), 0, -1))
        return np.concatenate(both, -1)

    def patches(tile):
        whole = tf.numpy_function(read, [tile], tf.uint8)
        whole.set_shape((None, None, 6))
        square = [1, PATCH, PATCH, 1]
        cut = tf.image.extract_patches(whole[None], square, square, [1] * 4, "VALID")
        return tf.reshape(cut, (-1, PATCH, PATCH, 6))

    def decode(both):
        hits = [tf.reduce_all(both[..., 3:] == colour, -1) for colour in COLOURS]
        return both[..., :3], tf.cast(tf.argmax(tf.stack(hits, -1), -1), tf.uint8)

    def augment(image, labels):
        turns, both = tf.random.uniform((), 0, 4, tf.int32), tf.concat([image, labels[..., None]], -1)
        both = tf.image.random_flip_left_right(tf.image.rot90(both, turns))
        return both[..., :3], both[..., 3]

    auto = tf.data.AUTOTUNE
    dataset = tf.data.Dataset.from_tensor_slices(TILES).map(patches, num_parallel_calls=auto).unbatch()
    dataset = dataset.cache() if cached else dataset
    dataset = dataset.map(decode, num_parallel_calls=auto).map(augment, num_parallel_calls=auto)
    return dataset.shuffle(600).batch(50).prefetch(auto)


def notebook(folder, cached):
    dataset = notebook_batches(folder, cached)
    if cached:
        for _ in dataset:
            pass
    started, count = time.perf_counter(), 0
    for images, _ in dataset:
        count += len(images)
    return {"patches_per_second": count / (time.perf_counter() - started), "peak_mb": bench.resident()[1]}


def albumentations(folder):
    import albumentations as A
    import torch

    from imagery.tiles import open_tiles
    tiles = [(np.ascontiguousarray(t.image), np.ascontiguousarray(t.labels))
             for t in open_tiles(settings(folder)["data"], TILES)]
    change = A.Compose([A.RandomCrop(PATCH, PATCH), A.D4(p=1)])

    class Patches(torch.utils.data.Dataset):
        def __len__(self):
            return 100_000

        def __getitem__(self, index):
            image, labels = tiles[index % len(tiles)]
            done = change(image=image, mask=labels)
            return torch.from_numpy(np.ascontiguousarray(done["image"])), torch.from_numpy(
                np.ascontiguousarray(done["mask"]))

    options = {"batch_size": 16, "shuffle": True, "num_workers": 2, "drop_last": True}
    loader = torch.utils.data.DataLoader(Patches(), **options)
    return {"patches_per_second": rate(loader, 8)}


def ours(folder, copies=1, **augment):
    import tensorflow as tf

    from imagery.tiles import open_tiles
    from learning.patches import colours_of
    from learning.plans import plan_epoch, shard
    from pipeline import batches
    values = settings(folder)
    values["augment"].update(augment)
    for _ in tf.data.Dataset.range(4).map(lambda i: tf.zeros((16, PATCH, PATCH, 4), tf.uint8)).prefetch(4):
        pass
    before = bench.resident()[0]
    tiles = open_tiles(values["data"], TILES * copies)
    epochs = (batches(tiles, shard(plan_epoch(tiles, values, epoch), 16), PATCH, colours_of(values))
              for epoch in itertools.count())  # planned as they are asked for: that is part of the time
    speed = rate(itertools.chain.from_iterable(epochs), 8)
    return {"patches_per_second": speed, "resident_mb": bench.resident()[1] - before}


def copy(folder):
    source = np.ones(2**28, np.uint8)
    target, best = np.empty_like(source), []
    for _ in range(9):
        started = time.perf_counter()
        np.copyto(target, source)
        best.append(2 * source.nbytes / (time.perf_counter() - started) / 1e9)
    return {"gb_per_second": float(np.median(best))}


def colours_in_step(folder):
    """Microseconds a patch of the change of colours alone and of a whole step with it, in turn."""
    import tensorflow as tf

    from learning.workers import choose_strategy
    from pipeline import repaint
    from trainer import Trainer
    values, rng = bench.settings_of("params"), np.random.default_rng(0)
    values["train"].update(class_weights=0)  # no prepared tiles of six classes here
    pixels = tf.constant(rng.integers(0, 6, (8, PATCH, PATCH, 4)).astype(np.uint8))
    matrices = tf.constant(rng.uniform(0, 0.4, (8, 3, 3)).astype(np.float32))
    batch = pixels, matrices, tf.constant(rng.uniform(0, 9, (8, 3)).astype(np.float32))
    trainer, times = Trainer(values, 1e-3, 0.9, choose_strategy()), {"repaint": [], "step": []}
    for turn in range(7):
        for name, work in (("repaint", lambda: repaint(*batch).numpy()),
                           ("step", lambda: trainer.train_step(batch)[0].numpy())):
            started = time.perf_counter()
            work()
            times[name] += [1e6 * (time.perf_counter() - started) / 8] if turn > 1 else []
    alone, step = (float(np.median(each)) for each in times.values())
    return {"repaint_us": alone, "step_us": step, "share": alone / step}


CONTENDERS = {
    "notebook_uncached": lambda folder: notebook(folder, cached=False),
    "notebook_cached": lambda folder: notebook(folder, cached=True),
    "albumentations": albumentations,
    "ours": ours,
    "ours_coloured": lambda folder: ours(folder, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05),
    "ours_augmented": lambda folder: ours(folder, scale=[0.75, 1.5], brightness=0.2, contrast=0.2,
                                          saturation=0.2, hue=0.05),
    "ours_many": lambda folder: ours(folder, copies=10),
    "colours_in_step": colours_in_step,
    "copy": copy}


def summarise(medians):
    speed = {name: figures.get("patches_per_second") for name, figures in medians.items()}
    figures = {"patches_per_second": speed["ours"],
               "vs_notebook_uncached": speed["ours"] / speed["notebook_uncached"],
               "vs_notebook_cached": speed["ours"] / speed["notebook_cached"]}
    if "albumentations" in speed:
        figures["vs_albumentations"] = speed["ours"] / speed["albumentations"]
    copied = medians["copy"]["gb_per_second"]
    resident = [each["resident_mb"] for each in medians.values() if "resident_mb" in each]
    return {**figures, "resident_mb": max(resident),
            "colours_share_of_step": medians["colours_in_step"]["share"],
            "augmented_vs_notebook_uncached": speed["ours_augmented"] / speed["notebook_uncached"],
            **{f"{name}_patches_per_second": value for name, value in speed.items()
               if value and name != "ours"},
            "notebook_cached_peak_mb": medians["notebook_cached"]["peak_mb"], "copy_gb_per_second": copied,
            "share_of_copy": speed["ours"] * 2 * PATCH**2 * 4 / 1e9 / copied}


if __name__ == "__main__":
    bench.main(__file__, __doc__, CONTENDERS, make, summarise)
