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


OUTCOMES = ("exact", "repaired", "ignored", "unknown")  # of decoding a label pixel
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
        self.table = np.full(2**24, NOT_MET, np.uint16)  # of each colour, its kind times 256 and its label

    def _meet(self, codes):
        new = np.unique(codes)
        for part in np.array_split(new, max(1, len(new) // 2**18)):
            rgb = np.stack([part >> 16, part >> 8 & 255, part & 255], -1).astype(np.int32)
            difference = rgb[:, None] - self.colours
            within = np.abs(difference).max(-1) <= self.tolerance
            nearest = np.where(within, (difference ** 2).sum(-1), 2**20).argmin(-1)
            known, off = within.any(-1), np.abs(rgb - self.colours[nearest]).max(-1)
            kinds = np.where(~known, 3, np.where(self.index[nearest] == IGNORE, 2, (off > 0).astype(int)))
            self.table[part] = kinds << 8 | np.where(known, self.index[nearest], IGNORE)

    def decode(self, colours):
        """(labels uint8 [H, W], pixels of each of OUTCOMES int64 [4], {unknown "#rrggbb": pixels}) of uint8
        [H, W, 3]."""
        labels, counts, unknown = np.empty(colours.shape[:2], np.uint8), np.zeros(4, np.int64), []

        def decode_rows(start, stop):
            codes = colours[start:stop, :, 0].astype(np.uint32)
            for band in (1, 2):
                codes <<= 8
                codes |= colours[start:stop, :, band]
            found = self.table.take(codes)
            highest = found.max(initial=0)
            if highest == NOT_MET:
                self._meet(codes[found == NOT_MET])
                found = self.table.take(codes)
            labels[start:stop] = found  # its lower byte
            if highest < 256:  # all exact
                return [found.size, 0, 0, 0], codes[:0, 0]
            kinds = found >> 8
            return np.bincount(kinds.ravel(), minlength=4), codes[kinds == 3]

        for some, off in in_pieces(decode_rows, labels.shape[0], max(1, 2**18 // max(1, labels.shape[1]))):
            counts += some
            unknown.append(off)
        codes, often = np.unique(np.concatenate([*unknown, np.empty(0, np.uint32)]), return_counts=True)
        return labels, counts, {f"#{code:06x}": int(count) for code, count in zip(codes, often)}


class ValueDecoder:
    """Values of single-band labels to class indices, by a table: `label_values` maps each class to its value,
    values in `ignore` become IGNORE, any other is unknown. Nothing is repaired: values have no nearest
    one."""

    bands = [1]

    def __init__(self, classes, label_values, ignore):
        self.labels, self.kinds = np.full(2**16, IGNORE, np.uint8), np.full(2**16, 3, np.uint8)
        for index, name in enumerate(classes):
            self.labels[label_values[name]], self.kinds[label_values[name]] = index, 0
        self.kinds[ignore] = 2

    def decode(self, values):
        """As ColourDecoder.decode, of uint8 or uint16 [H, W, 1]; unknown values are named as text."""
        values = values[..., 0]
        kinds = self.kinds[values]
        unknown, counts = np.unique(values[kinds == 3], return_counts=True)
        return (self.labels[values], np.bincount(kinds.ravel(), minlength=4),
                {str(value): int(count) for value, count in zip(unknown, counts)})
