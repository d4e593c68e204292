"""Labels as they are painted or numbered, to class indices (uint8; IGNORE where nothing is scored) and back.
"""
import numpy as np

from imagery.arrays import IGNORE, in_pieces


def parse_colour(text):
    """(red, green, blue), 0..255, of "#rrggbb"."""
    return tuple(bytes.fromhex(text[1:]))


def palette(classes):
    """The classes' colours (uint8 [256, 3]); IGNORE and unused indices are black."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(classes)] = [parse_colour(colour) for colour in classes.values()]
    return colours


OUTCOMES = ("exact", "repaired", "ignored", "unknown")  # of decoding a pixel of a label
EXACT, REPAIRED, IGNORED, UNKNOWN = range(4)
NOT_MET = 0xFFFF


def build_decoder(data):
    """What turns the raw labels of these data settings into class indices."""
    if data["label_values"] is None:
        return ColourDecoder(data["classes"], data["ignore_colours"], data["tolerance"])
    return ValueDecoder(data["classes"], data["label_values"], data["ignore_colours"])


class ColourDecoder:
    """Colours to class indices by the nearest palette colour, within a tolerance, over all 2**24 colours.

    Every colour is looked at once, when it is first met; a pixel then costs one table look-up. `classes` maps
    names to "#rrggbb", class index in that order; `ignore_colours` become IGNORE; so does a colour that
    differs from every palette colour by more than `tolerance` (0..255) in some channel: it is counted as
    unknown. Of several colours within the tolerance the nearest by Euclidean distance is taken.
    """

    bands = [1, 2, 3]

    def __init__(self, classes, ignore_colours, tolerance):
        self.colours = np.array([parse_colour(c) for c in [*classes.values(), *ignore_colours]], np.int32)
        self.index = np.array([*range(len(classes)), *[IGNORE] * len(ignore_colours)], np.uint8)
        self.tolerance = tolerance
        self.table = np.full(2**24, NOT_MET, np.uint16)  # of each colour, its outcome times 256 and its label

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

    def decode(self, colours):
        """Of uint8 [H, W, 3]: labels (uint8 [H, W]), pixels of each outcome (int64 [4]), {unknown: count}."""
        labels, outcomes, unknown = np.empty(colours.shape[:2], np.uint8), np.zeros(4, np.int64), []

        def decode_rows(start, stop):
            codes = colours[start:stop, :, 0].astype(np.uint32)
            for band in (1, 2):
                codes <<= 8
                codes |= colours[start:stop, :, band]
            entries = self.table.take(codes)
            highest = entries.max(initial=0)
            if highest == NOT_MET:
                self.meet(codes[entries == NOT_MET])
                entries = self.table.take(codes)
            labels[start:stop] = entries  # its lower byte
            if highest < 256:  # all exact
                return [entries.size, 0, 0, 0], codes[:0, 0]
            entries >>= 8
            return np.bincount(entries.ravel(), minlength=4), codes[entries == UNKNOWN]

        rows = max(1, 2**18 // max(1, labels.shape[1]))
        for counts, off in in_pieces(decode_rows, labels.shape[0], rows):
            outcomes += counts
            unknown.append(off)
        codes, counts = np.unique(np.concatenate([*unknown, np.empty(0, np.uint32)]), return_counts=True)
        return labels, outcomes, {f"#{code:06x}": int(count) for code, count in zip(codes, counts)}


class ValueDecoder:
    """Values of single-band labels to class indices, by a table: `label_values` maps each class to its value,
    values in `ignore` become IGNORE, any other is unknown. Nothing is repaired."""

    bands = [1]

    def __init__(self, classes, label_values, ignore):
        self.labels = np.full(2**16, IGNORE, np.uint8)
        self.outcomes = np.full(2**16, UNKNOWN, np.uint8)
        self.outcomes[ignore] = IGNORED
        for index, name in enumerate(classes):
            self.labels[label_values[name]], self.outcomes[label_values[name]] = index, EXACT

    def decode(self, values):
        """As ColourDecoder.decode, of uint8 or uint16 [H, W, 1]; unknown values are named as text."""
        values = values[..., 0]
        outcomes = self.outcomes[values]
        unknown, counts = np.unique(values[outcomes == UNKNOWN], return_counts=True)
        return (self.labels[values], np.bincount(outcomes.ravel(), minlength=4),
                {str(value): int(count) for value, count in zip(unknown, counts)})
