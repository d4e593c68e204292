"""Open rasters of labels: painted in the classes' colours, one band of their values, or one-hot, a band for
each class; read as class indices (uint8; IGNORE where nothing is scored)."""
import math
import shlex
from collections import Counter
from typing import NamedTuple

import numpy as np
from rasterio.enums import ColorInterp, MaskFlags

from base.problem import Problem
from imagery.arrays import IGNORE
from imagery.labels import IGNORED, UNKNOWN
from imagery.rasters import reading

PIXELS_AT_ONCE = 2**22  # of a band, where a kind shows in the pixels alone
PURE = "#ff0000", "#00ff00", "#0000ff"
STRAY = 0.001  # share of painted pixels that may have a pure colour of no class


class Layout(NamedTuple):
    """How a raster holds labels: "painted", "values" or "one-hot", in these bands (counted from 1; one-hot:
    in the order of the classes) and perhaps, beside them, an alpha band."""
    kind: str
    bands: list
    alpha: int | None

    def __str__(self):
        return self.kind + (" with alpha" if self.alpha else "")


def layout_of(raster, data):
    """The Layout of an open raster by its header, None where it cannot be labels (`check_label` says why).
    One that is called painted may be one-hot: see `is_one_hot`."""
    classes, painted, bands = len(data["classes"]), data["label_values"] is None, list(raster.indexes)
    kinds = raster.colorinterp  # asked once: a damaged header may declare 65,535 bands
    alpha = kinds.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in kinds else None
    plain = [band for band in bands if band != alpha]
    if not all(dtype.startswith(("uint", "int", "float")) for dtype in raster.dtypes):
        return None
    if painted and len(plain) == 3 and {*raster.dtypes} == {"uint8"}:
        return Layout("painted", plain, alpha)
    if len(plain) == 1:
        return None if painted else Layout("values", plain, alpha)
    if len(bands) == classes:  # the last may be called alpha, as GDAL calls the fourth of four
        return Layout("one-hot", bands, None)
    return Layout("one-hot", plain, alpha) if len(plain) == classes else None


def check_label(raster, data):
    """Why an open raster cannot be labels, as a line; None where it can."""
    count, painted, dtype = raster.count, data["label_values"] is None, raster.dtypes[0]
    if layout_of(raster, data):
        return None
    if "complex" in dtype:
        return f"{dtype} labels, expected whole numbers or colours; see data.label"
    palette, alpha = (kind in raster.colorinterp for kind in (ColorInterp.palette, ColorInterp.alpha))
    if palette or (painted and count == 1 + alpha):
        got = "a palette image" if palette else f"{count} bands"
        return (f"{got}, expected the classes' colours in red, green and blue; for labels of one band set "
                "data.label_values to the value of each class")
    stack = f"one for each of the {len(data['classes'])} classes (one-hot)"
    if painted and count in (3, 4) and dtype != "uint8":
        return f"{dtype} colours, expected uint8; write them in 8 bit, as data.classes names them"
    expected = "three of colours (data.classes)" if painted else "one (data.label_values)"
    if count == (4 if painted else 2):
        return (f"{count} bands, the last no alpha, expected {expected}, perhaps with alpha, or {stack}; "
                f"{if_alpha(raster)}")
    advice = ("an image, or labels of other classes? See data.label and data.classes" if painted else
              "for painted labels set data.label_values: null")
    return f"{count} bands, expected {expected}, perhaps with alpha, or {stack}; {advice}"


def if_alpha(raster):
    return ("if the last is an alpha, say so in the file: gdal_edit.py "
            f"-colorinterp_{raster.count} alpha {shlex.quote(raster.name)}")


def is_one_hot(raster, bands, alpha, decoder):
    """True where a raster that could be painted, of as many bands as classes, is one-hot: no pixel has two
    bands set, all that are set are 1 or 255, and, as paint, coloured ones would be transparent or more than
    STRAY of no class while none is of a class that is black."""
    rows, of_band, unset, highest = max(1, PIXELS_AT_ONCE // raster.width), 0, 0, 0
    for start in range(0, raster.height, rows):
        window = ((start, min(start + rows, raster.height)), (0, raster.width))
        with reading(raster.name):
            pixels = raster.read(bands, window=window)
            seen = raster.read(alpha, window=window) > 0 if alpha else np.ones(pixels.shape[1:], bool)
        pixels *= seen
        on = pixels > 0
        if on.sum(0, dtype=np.uint8).max() > 1 or (on & (pixels > 1) & (pixels < 255)).any():
            return False
        of_band = of_band + np.count_nonzero(on, (1, 2))
        unset += np.count_nonzero(seen) - np.count_nonzero(on)
        highest = max(highest, pixels.max())
    if highest < 255 or len(bands) == 4:
        return bool(highest == 1 or of_band[:3].any())
    (black, *_), _, unknown = decoder.decode(np.array([[0] * 3, *255 * np.eye(3)], np.uint8)[:, None])
    stray = sum(of_band[code] for code, colour in enumerate(PURE) if colour in unknown)
    return bool(stray > STRAY * raster.height * raster.width and (black == IGNORE or not unset))


def has_value(plane, value):
    """True where a band's pixels are this nodata value (bool, of the shape of the band's)."""
    if plane.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return plane == plane.dtype.type(value)
    return plane == (int(value) if math.isfinite(value) and value == int(value) else -math.inf)


class LabelReader:
    """Labels of an open raster by bands of rows. What its alpha band or mask hides, what has its nodata value
    in all bands, and what is NaN in any, is unlabelled: outcome IGNORED.

    layout  its Layout
    hidden  {class: pixels so far that are unlabelled because the nodata value is that of the class}
    """

    def __init__(self, raster, data, decoder):
        self.raster, self.decoder, self.layout = raster, decoder, layout_of(raster, data)
        classes = len(data["classes"])
        if self.layout.kind == "painted" and classes in (3, raster.count):
            bands, alpha = (self.layout.bands, self.layout.alpha) if classes == 3 else (raster.indexes, None)
            if is_one_hot(raster, list(bands), alpha, decoder):
                self.layout = Layout("one-hot", list(bands), alpha)
        self.nodata = [raster.nodatavals[band - 1] for band in self.layout.bands]
        of_value = MaskFlags.alpha, *([] if None in self.nodata else [MaskFlags.nodata])
        flags = raster.mask_flag_enums[0]
        self.masked = MaskFlags.per_dataset in flags and not {*of_value} & {*flags}
        self.hidden, self.shadowed = Counter(), self.class_of_nodata([*data["classes"]])

    def class_of_nodata(self, classes):
        """The class whose value or colour is the nodata value; None where there is none."""
        limit = 255 if self.layout.kind == "painted" else 0xFFFF
        if None in self.nodata or self.layout.kind == "one-hot":
            return None
        if not all(0 <= value <= limit and value == int(value) for value in self.nodata):
            return None
        label = self.decoder.decode(np.array([[self.nodata]]).astype(np.uint16))[0].item()
        return None if label == IGNORE else classes[label]

    def read(self, start, stop):
        """Labels, outcomes and unknown values of rows start..stop, as of `Decoder.decode`. Problem (exit 3)
        where a pixel has a fraction or, in one-hot labels, not one band set."""
        window = ((start, stop), (0, self.raster.width))
        with reading(self.raster.name):
            unseen = self.unseen(window)
            if self.layout.kind == "one-hot":
                return self.read_one_hot(window, unseen)
            pixels = self.raster.read(self.layout.bands, window=window)
        unlabelled = self.without_value(pixels, unseen)
        if pixels.dtype in (np.uint8, np.uint16):
            return self.decoder.decode(np.moveaxis(pixels, 0, -1), unlabelled)
        return self.decode_numbers(pixels[0], unlabelled, start)

    def unseen(self, window):
        """True where mask or alpha band hide a pixel (bool [rows, W]); None where there are none."""
        seen = self.raster.read_masks(1, window=window) > 0 if self.masked else None
        if self.layout.alpha is None:
            return None if seen is None else ~seen
        opaque = self.raster.read(self.layout.alpha, window=window) > 0
        return ~opaque if seen is None else ~(opaque & seen)

    def without_value(self, pixels, unseen):
        """`unseen`, or the pixels [B, rows, W] that have the nodata value or are NaN, counting `hidden`."""
        empty = np.isnan(pixels).any(0) if pixels.dtype.kind == "f" else None
        if None not in self.nodata:
            same = np.logical_and.reduce([has_value(*each) for each in zip(pixels, self.nodata)])
            if self.shadowed:
                hidden = same if unseen is None else same & ~unseen
                self.hidden[self.shadowed] += int(np.count_nonzero(hidden))
            empty = same if empty is None else empty | same
        masks = [mask for mask in (unseen, empty) if mask is not None]
        return np.logical_or.reduce(masks) if masks else None

    def decode_numbers(self, values, unlabelled, start):
        """As `read`, of one band [rows, W] of any type; whole numbers that no value of a class can be are
        unknown by their own names."""
        unlabelled = np.zeros(values.shape, bool) if unlabelled is None else unlabelled
        self.check((values != np.rint(values)) & ~unlabelled, start)
        far = ~((values >= 0) & (values <= 0xFFFF))
        codes = np.where(far, 0, values).astype(np.uint16)
        labels, outcomes, unknown = self.decoder.decode(codes[..., None], far | unlabelled)
        numbers, counts = np.unique(values[far & ~unlabelled], return_counts=True)
        outcomes[[IGNORED, UNKNOWN]] += -counts.sum(), counts.sum()
        return labels, outcomes, {**unknown, **{f"{n:.12g}": int(c) for n, c in zip(numbers, counts)}}

    def read_one_hot(self, window, unseen):
        """As `read`, a band at a time: the class is the band that is set. Where none is, none is labelled."""
        labels, bands_set, wrong, empty, same = 0, 0, False, False, None not in self.nodata
        for index, band in enumerate(self.layout.bands):
            plane = self.raster.read(band, window=window)
            on = plane != 0
            labels, bands_set = labels + on * np.uint8(index), bands_set + on.astype(np.uint8)
            wrong = wrong | (on & (plane != 1) & (plane != 255))
            if plane.dtype.kind == "f":
                empty = empty | np.isnan(plane)
            if None not in self.nodata:
                same = same & has_value(plane, self.nodata[index])
        unlabelled = (bands_set == 0) | empty | same | (False if unseen is None else unseen)
        self.check((wrong | (bands_set > 1)) & ~unlabelled, window[0][0])
        labels[unlabelled] = IGNORE
        ignored = np.count_nonzero(unlabelled)
        return labels, np.array([labels.size - ignored, 0, ignored, 0]), {}

    def check(self, wrong, start):
        """Problem (exit 3) that quotes the first pixel of these rows that is wrong (bool [rows, W])."""
        if not wrong.any():
            return
        row, col = (int(number) for number in np.unravel_index(wrong.argmax(), wrong.shape))
        at = ((start + row, start + row + 1), (col, col + 1))
        with reading(self.raster.name):
            values = self.raster.read(self.layout.bands, window=at).ravel().tolist()
        got = ", ".join(f"{value:.6g}" for value in values)
        expected = "one of the classes' bands set to 1 or 255, the others 0 (one-hot)"
        if self.layout.kind == "values":
            expected = ("whole numbers; write the classes' own values (of resampled labels: "
                        "gdalwarp -r near)")
        elif not all(value.is_integer() for value in map(float, values)):
            expected += "; of probabilities, write the most probable class"
        elif self.raster.count in (2, 4) and ColorInterp.alpha not in self.raster.colorinterp:
            expected += f"; {if_alpha(self.raster)}"
        else:
            expected += "; an image, or labels of other classes? See data.label and data.classes"
        raise Problem(f"labels {self.raster.name}: {got} in row {start + row}, column {col} (from 0), "
                      f"expected {expected}", code=3)
