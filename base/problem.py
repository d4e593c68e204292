"""The one kind of expected failure, and how a value is quoted in it.
"""
import contextlib
import functools
import json
import os
import traceback

OUT_OF_MEMORY = ("ResourceExhaustedError", "MemoryError", "_ArrayMemoryError")  # TensorFlow's, which is not
# imported here, Python's, NumPy's


class Problem(Exception):
    """What a person has to mend: one or more lines, and the exit code (2 settings, 3 data, 4 disk or
    environment, 5 training diverged, 75 busy)."""

    def __init__(self, *lines, code):
        super().__init__("\n".join(lines))
        self.lines, self.code = lines, code

    def __reduce__(self):  # so that another process can hand it over
        return functools.partial(Problem, code=self.code), self.lines


@contextlib.contextmanager
def own_fault(*paths):
    """Turns whatever goes wrong with a raster, the first of `paths`, into a Problem (exit 3) that names it,
    and stops no other; not a failure of memory or of the disk, unless at these files."""
    try:
        yield
    except Exception as error:
        own = isinstance(error, OSError) and error.filename in (str(path) for path in paths)
        of_disk = isinstance(error, OSError) and error.errno and not own
        if isinstance(error, Problem) or of_disk or type(error).__name__ in OUT_OF_MEMORY:
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join([type(error).__name__, *str(error).split()])
        raise Problem(f"raster {paths[0]}: {reason} ({os.path.basename(last.filename)}, line {last.lineno}), "
                      "expected a raster whose map can be made; look at it (gdalinfo) and, if it is whole, "
                      "report this line", code=3) from error


def shown(value):
    """A value as an error message quotes it: JSON in ASCII, at most 60 characters."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def first_of(texts):
    """The first three of some texts, and how many more there are, as text."""
    return ", ".join(texts[:3]) + (f", and {len(texts) - 3} more" if len(texts) > 3 else "")
