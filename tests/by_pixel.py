"""A stand-in for the network, which answers from each pixel alone and needs no TensorFlow.

python by_pixel.py SECONDS predict.py ...   does what `python predict.py ...` does, with the stand-in, which
                                            takes so many seconds for each patch
"""

import functools
import runpy
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]


def start(*_, seconds=0):
    """As mapping.engines.start_engine: an `answer` for six classes, the sum of a pixel's bands modulo six."""

    def answer(patches):
        for patch in patches:
            time.sleep(seconds)
            yield np.eye(6, dtype=np.float32)[patch.sum(-1) % 6].transpose(2, 0, 1)

    return answer, 0


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    from mapping import one_raster

    one_raster.start_engine = functools.partial(start, seconds=float(sys.argv[1]))
    del sys.argv[:2]
    runpy.run_path(str(ROOT / sys.argv[0]), run_name="__main__")
