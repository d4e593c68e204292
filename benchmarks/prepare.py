"""Time and memory of prepare_data.py on one tile of 6000 x 6000 and one of 30,000 x 30,000 px.

    python benchmarks/prepare.py --rounds 1     about 4 minutes on 2 cores, 8 GB of disk under data/benchmark

Images and labels are LZW-compressed, tiled GeoTIFFs of made-up scenes, repeated. The floor of the time is
decoding them once; of the memory, one band of rows and GDAL's cache of 128 MB.
"""
import functools
import shutil
import time

import bench
import numpy as np

SIZES = {"6000": 6_000, "30000": 30_000}


def make(folder):
    """One large tile of each size, and tiny ones of other scenes for the other roles."""
    import rasterio
    from rasterio.windows import Window

    from imagery.sample_tiles import COLOURS, draw_scene
    scenes = {"large": draw_scene((1000, 1024), [7, 0]), "val": draw_scene((200, 200), [7, 1]),
              "test": draw_scene((300, 300), [7, 2])}
    for name, size in {**SIZES, "val": 200, "test": 300}.items():
        image, labels = scenes.get(name, scenes["large"])
        for kind, pixels in (("image", image), ("label", COLOURS[labels])):
            path = folder / f"scenes/{kind}_{name}.tif"
            if path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            row = np.tile(pixels, (1, -(-size // pixels.shape[1]), 1))[:, :size]
            with rasterio.open(path, "w", driver="GTiff", height=size, width=size, count=3, dtype="uint8",
                               photometric="RGB", compress="lzw", tiled=True, blockxsize=512, blockysize=512,
                               bigtiff="yes") as target:
                for start in range(0, size, 1000):
                    part = row[: min(1000, size - start)]
                    target.write(np.moveaxis(part, -1, 0), window=Window(0, start, size, len(part)))


def prepare(folder, name):
    import prepare_data
    from base.settings import read_settings
    values = read_settings(bench.ROOT / "demo.yaml")
    target = folder / "scenes/prepared"
    shutil.rmtree(target, ignore_errors=True)
    values["data"].update(raw=str(folder / "scenes"), prepared=str(target), image="image_{tile}.tif",
                          label="label_{tile}.tif", eroded_label=None)
    values["split"] = {"train": [name], "val": ["val"], "test": ["test"]}
    started = time.perf_counter()
    prepare_data.main(values, folder)
    seconds = time.perf_counter() - started
    shutil.rmtree(target)
    return {"seconds": seconds, "resident_mb": bench.resident()[1]}


def summarise(medians):
    return {f"{key}_{name}": value for name, figures in medians.items() for key, value in figures.items()}


if __name__ == "__main__":
    contenders = {name: functools.partial(prepare, name=name) for name in SIZES}
    bench.main(__file__, __doc__, contenders, make, summarise)
