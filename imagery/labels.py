"""Painted or numbered labels to class indices (uint8; IGNORE where nothing is scored) and back."""
import numpy as np

from base.keys import is_colour
from base.settings import as_list, colours_of_labels
from imagery.arrays import IGNORE, in_pieces

OUTCOMES = ("exact", "repaired", "ignored", "unknown")  # of decoding a pixel of a label
EXACT, REPAIRED, IGNORED, UNKNOWN = range(4)
NOT_MET = 0xFFFF


def parse_colour(text):
    """(red, green, blue), 0..255, of "#rrggbb"."""
    return tuple(bytes.fromhex(text[1:]))


def palette(classes):
    """The classes' colours (uint8 [256, 3]); IGNORE and unused indices are black."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(classes)] = [parse_colour(colour) for colour in classes.values()]
    return colours


class Decoder:
    """Pixels of raw labels to class indices by one look-up each: `table` (uint16) holds, for each code that
    the bands of a pixel make together, its outcome times 256 and its label; `named` shows a code."""

    def __init__(self, table, named):
        self.table, self.named = table, named

    def decode(self, pixels, unlabelled=None):
        """Of uint8 or uint16 [H, W, B]: labels (uint8 [H, W]), pixels of each outcome (int64 [4]) and of each
        unknown code, {text: count}. `unlabelled`: True where the file has no label (bool [H, W])."""
        labels, outcomes, unknown = np.empty(pixels.shape[:2], np.uint8), np.zeros(4, np.int64), []

        def decode_rows(start, stop):
            codes = pixels[start:stop, :, 0].astype(np.uint32)
            for band in range(1, pixels.shape[2]):
                codes <<= 8
                codes |= pixels[start:stop, :, band]
            entries = self.table.take(codes)
            if entries.max(initial=0) == NOT_MET:
                self.meet(codes[entries == NOT_MET])
                entries = self.table.take(codes)
            if unlabelled is not None:
                entries[unlabelled[start:stop]] = IGNORED << 8 | IGNORE
            labels[start:stop] = entries  # its lower byte
            if entries.max(initial=0) < 256:  # all exact
                return [entries.size, 0, 0, 0], codes[:0, 0]
            entries >>= 8
            return np.bincount(entries.ravel(), minlength=4), codes[entries == UNKNOWN]

        rows = max(1, 2**18 // max(1, labels.shape[1]))
        for counts, off in in_pieces(decode_rows, labels.shape[0], rows):
            outcomes += counts
            unknown.append(off)
        codes, counts = np.unique(np.concatenate([*unknown, np.empty(0, np.uint32)]), return_counts=True)
        return labels, outcomes, {self.named.format(code): int(count) for code, count in zip(codes, counts)}


class ColourDecoder(Decoder):
    """By the nearest palette colour (Euclidean) among those that differ by at most `tolerance` (0..255) in
    every channel; where there is none, the colour is unknown.

    `classes` maps names to "#rrggbb", or to several of these, class index in that order; `ignore_colours`
    become IGNORE. Of all 2**24 colours each is compared when it is first met.
    """

    def __init__(self, classes, ignore_colours, tolerance):
        super().__init__(np.full(2**24, NOT_MET, np.uint16), "#{:06x}")
        several = [*map(as_list, classes.values()), ignore_colours]
        self.colours = np.array([parse_colour(colour) for each in several for colour in each], np.int32)
        self.index = np.repeat([*range(len(classes)), IGNORE], list(map(len, several))).astype(np.uint8)
        self.tolerance = tolerance

    def meet(self, codes):
        """Fills the table for these colours, red << 16 | green << 8 | blue."""
        new = np.unique(codes)
        for part in np.array_split(new, max(1, len(new) // 2**18)):
            rgb = np.stack([part >> 16, part >> 8 & 255, part & 255], -1).astype(np.int32)
            difference = rgb[:, None] - self.colours
            within = np.abs(difference).max(-1) <= self.tolerance
            nearest = np.where(within, (difference ** 2).sum(-1), 2**20).argmin(-1)
            outcomes = np.where((rgb == self.colours[nearest]).all(-1), EXACT, REPAIRED)
            outcomes[self.index[nearest] == IGNORE] = IGNORED
            labels, unknown = self.index[nearest], ~within.any(-1)
            outcomes[unknown], labels[unknown] = UNKNOWN, IGNORE
            self.table[part] = outcomes << 8 | labels


def has_texts(data):
    """True where a class has no other data.label_values than texts that are no colours: those of polygons."""
    several = map(as_list, (data["label_values"] or {}).values())
    return colours_of_labels(data) is None and any(values and not numbers(values) for values in several)


def numbers(values):
    """Those of data.label_values that a pixel can have; the others are texts of polygons."""
    return [value for value in as_list(values) if not isinstance(value, str)]


def build_decoder(data):
    """The Decoder of these data settings: by colour or, where each class has its value or values, by value.
    None where values are texts."""
    classes, values, ignored = data["classes"], data["label_values"], data["ignore_colours"]
    if colours := colours_of_labels(data):
        several = {name: colours.get(name, []) for name in classes}
        return ColourDecoder(several, list(filter(is_colour, ignored)), data["tolerance"])
    if has_texts(data):
        return None  # of polygons; no pixel of a raster has such a value
    table = np.full(2**16, UNKNOWN << 8 | IGNORE, np.uint16)
    table[numbers(ignored)] = IGNORED << 8 | IGNORE
    for label, name in enumerate(classes):
        table[numbers(values.get(name, []))] = label  # exact
    return Decoder(table, "{}")
