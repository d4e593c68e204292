"""Labels drawn as polygons: of which class each is, which class covers which, what no polygon covers."""
import math
import sys
from collections import Counter

import numpy as np

from base.problem import Problem
from base.settings import as_list
from imagery.annotations import BOX
from imagery.arrays import IGNORE
from imagery.burning import Burner

UNSCORED = 254  # the code of polygons whose value stands in data.ignore_colours
SEVERAL = 253  # so many unknown values of a strip are counted one by one, the rest together


def plain_text(value):
    """An attribute's value as text: 111, 111.0 and "111 " are one, so are true and True; null of none."""
    if value is None or isinstance(value, float) and math.isnan(value):
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(value).strip()


def codes_by_text(data):
    """{value as text: class index, or UNSCORED} by data.label_values, else by the names of data.classes."""
    values = data["label_values"] or {name: name for name in data["classes"]}
    codes = {plain_text(value): UNSCORED for value in data["ignore_colours"]}
    for code, name in enumerate(data["classes"]):
        several = as_list(values.get(name, []))  # of a background perhaps none
        codes |= {plain_text(value): code for value in several}
    return codes


def only_class(data, named):
    """The class of all polygons where no attribute tells it: the one beside data.background. Problem (exit 3)
    where there are several."""
    others = [name for name in data["classes"] if name != data["background"]]
    if len(others) > 1:
        raise Problem(f"labels {named}: no attribute tells whether a polygon is {' or '.join(others[:3])}, "
                      "expected its name in data.label_field (null only where all polygons are of the one "
                      "class beside data.background)", code=3)
    return others[0]


def ranks_of(data):
    """The rank of each code (int64 [256]): of two polygons the one of higher rank covers the other."""
    ranks, names = np.full(256, 256), [*data["classes"]]
    order = data["label_order"] if isinstance(data["label_order"], list) else names
    ranks[[names.index(name) for name in order]] = range(len(order))
    return ranks


class PolygonReader:
    """Labels of polygons on a grid by strips of rows, as imagery.label_rasters.LabelReader. What no polygon
    covers is data.background or unlabelled; a polygon of an unknown value counts where no other covers it.

    `drawn`: (Polygons on the grid, value of each feature or None, {why: features dropped}) of a file
    """
    layout, hidden, outside = "polygons", Counter(), 0

    def __init__(self, drawn, shape, data, named):
        polygons, values, self.dropped = drawn
        names, self.overlaps = [*data["classes"]], 0
        self.background = names.index(data["background"]) if data["background"] else IGNORE
        if values is None:
            values, by_text = np.full(len(polygons.features), ""), {"": names.index(only_class(data, named))}
        else:
            values, by_text = values[polygons.features], codes_by_text(data)
        texts = np.array([sys.intern(plain_text(value)) for value in values.tolist()], object)
        codes = np.array([by_text.get(text, IGNORE) for text in texts], np.uint8)
        known, self.unknown = codes != IGNORE, Counter(texts[codes == IGNORE].tolist())
        del self.unknown[BOX]
        number = {text: min(count, SEVERAL) for count, text in enumerate(self.unknown)} | {BOX: UNSCORED}
        self.strange_codes = np.array([number[text] for text in texts[~known]], np.uint8)
        self.codes, rows = codes[known], polygons.features[known]
        self.ranks = rows if data["label_order"] == "file" else ranks_of(data)[self.codes]
        self.burner, self.strange = (Burner(polygons.take(chosen), shape, data["all_touched"], named)
                                     for chosen in (known, ~known))

    def read(self, start, stop):
        """Labels (uint8 [rows, W]), pixels of each outcome (int64 [4]) and of each unknown value, {text:
        count}, of rows start..stop."""
        labels, shared = self.burner.paint(self.ranks, self.codes, start, stop)
        self.overlaps += int(np.count_nonzero(shared))
        unknown, strange = self.read_unknown(labels == IGNORE, start, stop)
        labels[(labels == IGNORE) & ~strange] = self.background
        labels[labels == UNSCORED] = IGNORE
        exact, missed = np.count_nonzero(labels != IGNORE), sum(unknown.values())
        return labels, np.array([exact, 0, labels.size - exact - missed, missed]), unknown

    def read_unknown(self, free, start, stop):
        """({unknown value as text: pixels}, which pixels these are, bool [rows, W]) among those that are
        free."""
        ranks = np.arange(len(self.strange_codes))
        painted, _ = self.strange.paint(ranks, self.strange_codes, start, stop)
        strange = free & (painted != IGNORE)
        counts = np.bincount(painted[strange], minlength=256)[: SEVERAL + 1].tolist()
        return {text: count for text, count in zip(self.unknown, counts) if count}, strange

    @property
    def counts(self):
        """What the manifest says of the polygons: how many reach the image's surroundings, why features were
        dropped, how many cross themselves, pixels that several classes cover, {unknown value: polygons}."""
        crossed = sum(len(burner.crossed()) for burner in (self.burner, self.strange))
        return {"polygons": len(self.codes) + self.unknown.total(), "dropped": self.dropped,
                "crossed": crossed, "overlaps": self.overlaps,
                "unknown_values": dict(self.unknown.most_common(20))}
