"""How much memory a map takes, from what a window was measured to take, and how much there is.
"""
import os
import re
import resource
from pathlib import Path

import numpy as np

from imagery.rasters import CACHE


def resident(name):
    """Bytes of this process in memory: "VmRSS" now, "VmHWM" at most since `growth` began. Where there is no
    Linux to say so: the most that there ever were."""
    try:
        return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    except (OSError, TypeError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if os.uname().sysname == "Darwin" else 1024 * most


def growth(work):
    """Most bytes by which this process grows while work() is done."""
    before = resident("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is forgotten
    except OSError:
        pass  # then an earlier peak counts: too much rather than too little
    work()
    return max(0, resident("VmHWM") - before)


def needed(shape, facts, windows, engine_bytes, also):
    """About how many bytes predicting a raster of `shape` (height, width) takes: the process while the
    network answers, and what grows with the raster: GDAL's blocks, rows of pixels, sums; with polygons the
    whole map."""
    (height, width), window, classes = shape, windows.window, len(facts["classes"])
    wide = max(width, window)
    shared = window - int(np.diff(windows.along(height)).min(initial=window))  # rows that two windows cover
    copies = [3 if limits is None else 16 for limits in facts["scale"]]  # of a band's pixel: bytes, or numbers too
    blocks = min(1e6 * CACHE, (len(copies) + 1) * height * width)
    rows = (sum(copies) + 2 + classes) * window * wide
    sums = 4 * classes * (2 * shared * wide + 4 * window**2)
    return engine_bytes + blocks + rows + sums + 3 * height * width * ("polygons" in also)


def installed(root="/"):
    """Bytes that this process may have: those of the machine or, where they are fewer, of the container, the
    lowest limit of its control group and of those around it. `root`: the folder of proc and sys."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    try:
        groups = Path(root, "proc/self/cgroup").read_text().splitlines()
    except OSError:
        groups = []
    for line in groups:
        _, controllers, group = line.split(":", 2)
        if controllers == "":  # version 2
            folder, name = Path(root, "sys/fs/cgroup"), "memory.max"
        elif "memory" in controllers.split(","):
            folder, name = Path(root, "sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        else:
            continue
        inner = folder / group.lstrip("/")
        for each in [inner, *inner.parents][: len(inner.parts) - len(folder.parts) + 1]:
            if (each / name).is_file() and (text := (each / name).read_text().strip()) != "max":
                limits.append(int(text))
    return min(limits)
