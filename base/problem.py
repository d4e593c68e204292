"""The one kind of expected failure, and how a value is quoted in it.
"""
import functools
import json


class Problem(Exception):
    """What a person has to mend: one or more lines, and the exit code (2 settings, 3 data, 4 disk or
    environment, 5 training diverged, 75 busy)."""

    def __init__(self, *lines, code):
        super().__init__("\n".join(lines))
        self.lines, self.code = lines, code

    def __reduce__(self):  # so that another process can hand it over
        return functools.partial(Problem, code=self.code), self.lines


def shown(value):
    """A value as an error message quotes it: JSON in ASCII, at most 60 characters."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
