"""What predicting takes of the machine, memory and open files, and whether there is so much."""
import os
import resource
from importlib.metadata import version
from pathlib import Path

import numpy as np

from base.problem import Problem
from imagery.rasters import CACHE
from mapping.mosaic import Mosaic, title


def needed(layers, facts, windows, engine_bytes, of_polygons):
    """About how many bytes predicting `layers` takes: the process while the network answers, and, by their
    size, GDAL's blocks, rows of pixels, sums, collars, and `of_polygons`, bytes a pixel of the largest map:
    measured where there is a polygon for 400 pixels."""
    (height, width), window, classes = layers.shape, windows.window, len(facts["classes"])
    wide, step = max(width, window), int(np.diff(windows.along(height)).min(initial=window))
    copies = [3 if limits is None else 16 for limits in facts["scale"]]  # of a band: bytes, or numbers too
    blocks = min(CACHE, (len(copies) + 1) * height * width)
    rows = (sum(copies) + 2 * (2 + classes)) * window * wide
    sums = 4 * classes * (2 * (window - step) * wide + 4 * window**2)
    parts = layers.parts if isinstance(layers, Mosaic) else [layers]
    collars = [part.collar for part in parts if part.collar]
    collar = sum(each.packed for each in collars) + max([each.strip for each in collars], default=0)
    areas = sum(part.area.bits.nbytes for part in parts if part.area)
    polygons = of_polygons * max(part.shape[0] * part.shape[1] for part in parts)
    return engine_bytes + blocks + rows + sums + collar + areas + polygons


def installed(root="/"):
    """Bytes that this process may have: those of the machine or, where it is lower, the lowest limit of its
    control group, of version 1 or 2, and of those around it. `root`: the folder of proc and sys."""
    top, own, paths = Path(root, "sys/fs/cgroup"), Path(root, "proc/self/cgroup"), []
    for line in own.read_text().splitlines() if own.exists() else []:
        _, controllers, group = line.split(":", 2)
        folders = [folder[1:] for folder in (group, *map(str, Path(group).parents))]
        if controllers == "":
            paths += [top / folder / "memory.max" for folder in folders]
        elif "memory" in controllers.split(","):
            paths += [top / "memory" / folder / "memory.limit_in_bytes" for folder in folders]
    limits = [path.read_text().strip() for path in paths if path.is_file()]
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *(int(limit) for limit in limits if limit != "max")])


def check_memory(outputs, layers, needed_bytes, show):
    """Says how much memory the maps take; Problem (exit 3) where that is more than there is."""
    (height, width), available, job = layers.shape, installed(), outputs[0].job
    options, among = job.settings["predict"], f"mosaic of {len(outputs)} rasters, among them "
    narrower = "lower predict.window or predict.batch_size, or "
    narrower += "set predict.mosaic to false" if len(outputs) > 1 else "cut it into narrower ones"
    show(f"{title(outputs):>12}  {height} x {width} px, windows of {job.window_side}, "
         f"views: {len(options['views'])}, {job.engine} {version(job.engine)} {options['precision']}: "
         f"about {needed_bytes / 1e9:.1f} GB of memory", last=True)
    if needed_bytes > available:
        raise Problem(f"{among if len(outputs) > 1 else 'raster '}{job.path}: {height} x {width} pixels need "
                      f"about {needed_bytes / 1e9:.1f} GB of memory, expected at most the "
                      f"{available / 1e9:.1f} GB of this machine or container; {narrower}", code=3)


def allow_open_files(jobs):
    """Lets this process have the rasters of so many jobs open, each with files beside it. Problem (exit 3)
    where the system does not."""
    wanted = 256 + 8 * len(jobs)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return
    if hard not in (resource.RLIM_INFINITY, max(hard, wanted)):
        raise Problem(f"mosaic of {len(jobs)} rasters, among them {jobs[0].path}: about {wanted} open files, "
                      f"expected at most {hard}, the limit here; raise it (ulimit -Hn), or set "
                      "predict.mosaic to false", code=3)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
