"""Several rasters as one: their pixels seen together, and predicted rows given to the map of each."""
import contextlib

import numpy as np

from base.problem import Problem, own_fault
from imagery.rasters import Layers
from mapping.map_writer import open_map


class Mosaic(Layers):
    """Layers of several rasters, seen as those of one: where rasters overlap, the first that has data; where
    there is none, the value for nodata of the first that names one, else 0."""

    def __init__(self, parts, corners):
        """`parts`: Layers of each raster; `corners`: the first pixel, (row, col), of each."""
        self.parts, self.corners, self.collar, self.area = parts, np.array(corners), None, None
        self.asked = set(range(len(parts)))  # numbers of those whose maps are to be made
        self.ends = self.corners + [part.shape for part in parts]
        self.shape, self.scale = tuple(self.ends.max(0).tolist()), None
        self.dtypes = [np.result_type(*types).name for types in zip(*(part.dtypes for part in parts))]
        self.counted, self.outside = 0, np.zeros(len(self.dtypes), np.int64)
        self.histograms = np.zeros((len(self.dtypes), 256), np.int64)
        sides = [np.minimum(self.ends, end) - np.maximum(self.corners, corner)
                 for corner, end in zip(self.corners, self.ends)]
        self.overlapping = [np.count_nonzero((side > 0).all(1)) > 1 for side in sides]
        self.gaps = [gap(parts, band, dtype) for band, dtype in enumerate(self.dtypes)]

    def meeting(self, start, stop):
        """(number, its rows from and to, its place in rows start..stop) of each raster that these meet."""
        first, last = self.corners[:, 0].clip(start), self.ends[:, 0].clip(None, stop)
        for number in np.flatnonzero(first < last).tolist():
            (top, left), right = self.corners[number], self.ends[number, 1]
            rows = int(first[number] - top), int(last[number] - top)
            yield number, rows, (slice(first[number] - start, last[number] - start), slice(left, right))

    def planes(self, start, stop):
        """The values of rows start..stop, an array [rows, W] of each band."""
        size = stop - start, self.shape[1]
        planes = [np.full(size, value, dtype) for value, dtype in zip(self.gaps, self.dtypes)]
        seen = np.zeros(size, bool)
        for number, rows, place in reversed(list(self.meeting(start, stop))):
            valid = not self.overlapping[number] or self.parts[number].valid(*rows)
            shown = valid | ~seen[place]
            for plane, values in zip(planes, self.parts[number].planes(*rows)):
                np.copyto(plane[place], values, where=shown)
            seen[place] |= valid
        return planes

    def inside(self, start, stop):
        """True where one of the rasters that are `asked` for is asked for, in rows start..stop."""
        inside = np.zeros((stop - start, self.shape[1]), bool)
        for number, rows, place in self.meeting(start, stop):
            inside[place] |= number in self.asked and self.parts[number].inside(*rows)
        return inside

    def valid(self, start, stop):
        """True where one of the rasters has data, in rows start..stop (bool [rows, W])."""
        valid = np.zeros((stop - start, self.shape[1]), bool)
        for number, rows, place in self.meeting(start, stop):
            valid[place] |= self.parts[number].valid(*rows)
        return valid


def gap(parts, band, dtype):
    """What a band of Layers, `parts`, has where no raster lies: the first value for nodata that one of them
    names and its type can hold, else 0."""
    kind = np.dtype(dtype)
    limits = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
    named = [[raster.nodatavals[number - 1] for raster, bands in part.sources for number in bands][band]
             for part in parts]
    return next((value for value in named if value is not None and limits.min <= value <= limits.max), 0)


class Output:
    """A job's map as it is written: opened at its first row, closed at its last, so that few are open."""

    def __init__(self, job, source, wanted, stands):
        self.job, self.source, self.wanted, self.stands = job, source, wanted, stands
        self.opened, self.write, self.seconds = contextlib.ExitStack(), None, None

    def __exit__(self, *error):
        return self.opened.__exit__(*error)

    def take(self, row, pixels):
        """Writes its part of the rows of all (uint16 [1 or 2 + C, rows, W]) from `row` on."""
        (top, left), (height, width) = self.job.corner, self.source.layers.shape
        start, stop = max(row, top), min(row + pixels.shape[1], top + height)
        if start >= stop:
            return
        with self.opened as opened:
            if self.write is None:
                self.write = opened.enter_context(open_map(self.job.map, self.source.layers, self.wanted))
            self.write(start - top, pixels[:, start - row: stop - row, left: left + width])
            if stop < top + height:
                self.opened = opened.pop_all()


def title(outputs):
    """What the lines about one raster, or about several that are predicted as one, begin with."""
    more = f" and {len(outputs) - 1} more" if len(outputs) > 1 else ""
    return outputs[0].job.name + more


@contextlib.contextmanager
def noting(job, faults):
    """Adds the fault of a job's raster to `faults`, {name of the job: Problem (exit 3)}."""
    try:
        with own_fault(job.path, job.extra):
            yield
    except Problem as problem:
        if problem.code != 3:
            raise
        faults[job.name] = problem


def write_maps(outputs, rows):
    """Writes the maps of `outputs` from predicted rows of all, from the top down. Returns {name: Problem} of
    those that could not be written."""
    faults = {}
    with contextlib.ExitStack() as opened:
        for output in outputs:
            opened.push(output)
        for row, pixels in rows:
            for output in [output for output in outputs if output.job.name not in faults]:
                with noting(output.job, faults):
                    output.take(row, pixels)
            if len(faults) == len(outputs):
                break
    return faults
