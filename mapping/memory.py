"""How much memory a map takes, from what a window was measured to take, and how much there is.
"""
import contextlib
import os
import re
import resource
from pathlib import Path

import numpy as np

from imagery.rasters import CACHE


def resident(name):
    """Bytes of this process in memory: "VmRSS" now, "VmHWM" at most so far, since the last `growth` began.
    Where no Linux says so: the most that there ever were."""
    try:
        return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    except (OSError, TypeError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if os.uname().sysname == "Darwin" else 1024 * most


def growth(work):
    """Most bytes by which this process grows while work() is done."""
    before = resident("VmRSS")
    with contextlib.suppress(OSError):  # else an earlier peak counts: too much rather than too little
        Path("/proc/self/clear_refs").write_text("5")
    work()
    return max(0, resident("VmHWM") - before)


def needed(shape, facts, windows, engine_bytes, also):
    """About how many bytes predicting a raster of `shape` (height, width) takes: the process while the
    network answers, and what grows with the raster: GDAL's blocks, rows of pixels, sums; with polygons the
    whole map."""
    (height, width), window, classes = shape, windows.window, len(facts["classes"])
    wide, step = max(width, window), int(np.diff(windows.along(height)).min(initial=window))
    copies = [3 if limits is None else 16 for limits in facts["scale"]]  # of a band: bytes, or numbers too
    blocks = min(1e6 * CACHE, (len(copies) + 1) * height * width)
    rows = (sum(copies) + 2 + classes) * window * wide
    sums = 4 * classes * (2 * (window - step) * wide + 4 * window**2)
    return engine_bytes + blocks + rows + sums + 3 * height * width * ("polygons" in also)


def installed(root="/"):
    """Bytes that this process may have: those of the machine or, where they are fewer, of the container: the
    lowest limit of its control group, of version 1 or 2, and of those around it. `root`: the folder of proc
    and sys."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    top, own = Path(root, "sys/fs/cgroup"), Path(root, "proc/self/cgroup")
    for line in own.read_text().splitlines() if own.exists() else []:
        _, controllers, group = line.split(":", 2)
        for folder in (group, *map(str, Path(group).parents)):
            if controllers == "":
                limits += read_limit(top / folder[1:] / "memory.max")
            elif "memory" in controllers.split(","):
                limits += read_limit(top / "memory" / folder[1:] / "memory.limit_in_bytes")
    return min(limits)


def read_limit(path):
    """[the number in a file]; [] where there is none."""
    text = path.read_text().strip() if path.is_file() else "max"
    return [] if text == "max" else [int(text)]
