"""Open rasters of labels: painted in the classes' colours, also by a palette, one band of their values, or
one-hot, a band for each class; read as class indices (uint8; IGNORE where nothing is scored)."""
import shlex
from collections import Counter
from typing import NamedTuple

import numpy as np
from rasterio.enums import ColorInterp, MaskFlags

from base.problem import Problem
from base.settings import colours_of_labels
from imagery.arrays import IGNORE, strips
from imagery.grids import Nearest
from imagery.labels import IGNORED, UNKNOWN, has_texts
from imagery.rasters import reading

INDICES = "uint8", "uint16"  # of a palette's colours
PURE = "#ff0000", "#00ff00", "#0000ff"
STRAY = 0.001  # share of painted pixels that may have a pure colour of no class
OTHERS = "an image, or labels of other classes? See data.label and data.classes"


class Layout(NamedTuple):
    """How a raster holds labels: "painted", "palette" (painted, the colours in a table), "values" or
    "one-hot", in these bands (counted from 1; one-hot: in the order of the classes) and perhaps, beside them,
    an alpha band."""
    kind: str
    bands: list
    alpha: int | None

    def __str__(self):
        return self.kind + (" with alpha" if self.alpha else "")


def layouts(raster, data):
    """The Layouts that an open raster may have by its header: painted and one-hot where only the pixels tell
    (`is_one_hot`); none where it cannot be labels (`check_label` says why)."""
    classes, painted, bands = len(data["classes"]), bool(colours_of_labels(data)), list(raster.indexes)
    kinds = raster.colorinterp  # asked once: a damaged header may declare 65,535 bands
    alpha = kinds.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in kinds else None
    plain, possible = [band for band in bands if band != alpha], []
    if not all(dtype.startswith(("uint", "int", "float")) for dtype in raster.dtypes):
        return []
    if len(plain) == 1 and painted:
        indexed = kinds[plain[0] - 1] == ColorInterp.palette and raster.dtypes[plain[0] - 1] in INDICES
        return [Layout("palette", plain, alpha)] if indexed else []
    if len(plain) == 1:
        return [Layout("values", plain, alpha)]
    if painted and len(plain) == 3 and {*raster.dtypes} == {"uint8"}:
        possible.append(Layout("painted", plain, alpha))
    if len(bands) == classes:  # the last may be called alpha, as GDAL calls the fourth of four
        possible.append(Layout("one-hot", bands, None))
    elif len(plain) == classes:
        possible.append(Layout("one-hot", plain, alpha))
    return possible


def check_label(raster, data):
    """Why an open raster cannot be labels, as a line; None where it can."""
    if has_texts(data):
        return "a raster, expected polygons, as data.label_values hold texts; give the value of each class"
    if layouts(raster, data):
        return None
    count, painted, dtype = raster.count, bool(colours_of_labels(data)), raster.dtypes[0]
    alpha = ColorInterp.alpha in raster.colorinterp
    if "complex" in dtype:
        return f"{dtype} labels, expected whole numbers or colours; see data.label"
    if painted and count == 1 + alpha:
        return (f"{count} bands without a palette, expected the classes' colours in red, green and blue; for "
                "labels of one band set data.label_values to the value of each class")
    if painted and count in (3, 4) and dtype != "uint8":
        return f"{dtype} colours, expected uint8; write them in 8 bit, as data.classes names them"
    expected = "three of colours (data.classes)" if painted else "one (data.label_values)"
    advice = OTHERS if painted else "for painted labels set data.label_values: null"
    if count == (4 if painted else 2):
        advice = if_alpha(raster)
    return (f"{count} bands, expected {expected}, perhaps with alpha, or one for each of the "
            f"{len(data['classes'])} classes (one-hot); {advice}")


def if_alpha(raster):
    return ("if the last is an alpha, say so in the file: gdal_edit.py "
            f"-colorinterp_{raster.count} alpha {shlex.quote(raster.name)}")


def is_one_hot(raster, layout, decoder):
    """True where a raster that could be painted is one-hot by this Layout: no pixel has two bands set, all
    that are set are 1 or 255, and, as paint, coloured ones would be transparent or more than STRAY of no
    class while none is of a class that is black."""
    of_band, unset, highest = 0, 0, 0
    for start, stop in strips(*raster.shape):
        window = ((start, stop), (0, raster.width))
        with reading(raster.name):
            pixels = raster.read(layout.bands, window=window)
            seen = raster.read(layout.alpha, window=window) > 0 if layout.alpha else True
            seen = seen & raster.inside(window) if isinstance(raster, Nearest) else seen
        pixels *= seen
        on = pixels > 0
        if on.sum(0, dtype=np.uint8).max() > 1 or (on & (pixels > 1) & (pixels < 255)).any():
            return False
        of_band = of_band + np.count_nonzero(on, (1, 2))
        unset += np.count_nonzero(~on.any(0) & seen)
        highest = max(highest, pixels.max())
    if highest < 255 or len(layout.bands) == 4:
        return bool(highest == 1 or of_band[:3].any())
    (black, *_), _, unknown = decoder.decode(np.array([[0] * 3, *255 * np.eye(3)], np.uint8)[:, None])
    stray = sum(of_band[code] for code, colour in enumerate(PURE) if colour in unknown)
    return bool(stray > STRAY * raster.height * raster.width and (black == IGNORE or not unset))


def colour_table(raster, band):
    """(uint8 [256 or 65536, 3], bool [the same]) of a palette: the colour of each value, and whether that is
    transparent. A table whose colours are all transparent says nothing by that. A value past its end is
    black."""
    entries = np.zeros((np.iinfo(raster.dtypes[band - 1]).max + 1, 4), np.uint8)
    entries[:, 3] = 255
    with reading(raster.name):
        table = raster.colormap(band)
    entries[list(table)] = list(table.values())
    clear = entries[:, 3] == 0
    return entries[:, :3], clear & ~clear[list(table)].all()


class LabelReader:
    """Labels of an open raster by strips of rows. What its alpha band or mask hides, what has its nodata
    value in all bands, and what is NaN in any, is unlabelled: outcome IGNORED.

    layout   its Layout
    hidden   {class: pixels so far that are unlabelled because the nodata value is that of the class}
    outside  how many pixels so far lie outside of a raster on another grid (`Nearest`)
    """

    counts = {}  # what else the manifest says: nothing

    def __init__(self, raster, data, decoder):
        self.raster, self.decoder = raster, decoder
        self.layout, *others = layouts(raster, data)
        if others and is_one_hot(raster, others[0], decoder):
            self.layout = others[0]
        if self.layout.kind == "palette":
            self.colours, self.clear = colour_table(raster, self.layout.bands[0])
        self.nodata = [raster.nodatavals[band - 1] for band in self.layout.bands]
        flags = raster.mask_flag_enums[0]
        self.masked = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
        self.outside, self.hidden = 0, Counter()
        self.class_of_nodata = self.find_class_of_nodata([*data["classes"]])

    def find_class_of_nodata(self, classes):
        """The class whose value or colour is the nodata value; None where there is none."""
        codes = range(256 if self.layout.kind == "painted" else 2**16)
        if self.layout.kind == "one-hot" or not all(value in codes for value in self.nodata):
            return None
        pixel = np.array([[self.nodata]]).astype(np.uint16)
        if self.layout.kind == "palette":
            pixel = self.colours[np.minimum(pixel[..., 0], len(self.colours) - 1)]
        label = self.decoder.decode(pixel)[0].item()
        return None if label == IGNORE else classes[label]

    def read(self, start, stop):
        """Labels, outcomes and unknown values of rows start..stop, as of `Decoder.decode`. Problem (exit 3)
        where a pixel has a fraction or, in one-hot labels, not one band set."""
        window = ((start, stop), (0, self.raster.width))
        with reading(self.raster.name):
            pixels = self.raster.read(self.layout.bands, window=window)  # [B, rows, W]
            unlabelled = self.unlabelled(pixels, window)
        if self.layout.kind == "one-hot":
            return self.decode_one_hot(pixels, unlabelled, start)
        if self.layout.kind == "palette":
            clear = self.clear[pixels[0]]
            unlabelled = clear if unlabelled is None else clear | unlabelled
            return self.decoder.decode(self.colours[pixels[0]], unlabelled)
        if pixels.dtype in (np.uint8, np.uint16):
            return self.decoder.decode(np.moveaxis(pixels, 0, -1), unlabelled)
        return self.decode_numbers(pixels, unlabelled, start)

    def unlabelled(self, pixels, window):
        """Which pixels [B, rows, W] are unlabelled (bool [rows, W]), counting `hidden`; None where the file
        hides none."""
        parts, inside = [], True
        if isinstance(self.raster, Nearest):
            inside = self.raster.inside(window)
            self.outside += int(np.count_nonzero(~inside))
            parts.append(~inside)
        if self.masked:
            parts.append(self.raster.read_masks(1, window=window) == 0)
        if self.layout.alpha:
            parts.append(self.raster.read(self.layout.alpha, window=window) == 0)
        if pixels.dtype.kind == "f":
            parts.append(np.isnan(pixels).any(0))
        if None not in self.nodata:  # beside a mask or an alpha band GDAL does not look at it
            with np.errstate(over="ignore"):
                same = [plane == value for plane, value in zip(pixels, self.nodata)]
            parts.append(np.logical_and.reduce(same))
            if self.class_of_nodata:
                self.hidden[self.class_of_nodata] += int(np.count_nonzero(parts[-1] & inside))
        return np.logical_or.reduce(parts) if parts else None

    def decode_numbers(self, pixels, unlabelled, start):
        """As `read`, of one band [1, rows, W] of any type; whole numbers that no value of a class can be are
        unknown by their own names."""
        values = pixels[0]
        unlabelled = np.zeros(values.shape, bool) if unlabelled is None else unlabelled
        self.check((values != np.rint(values)) & ~unlabelled, pixels, start)
        far = ~((values >= 0) & (values <= 0xFFFF))
        codes = np.where(far, 0, values).astype(np.uint16)
        labels, outcomes, unknown = self.decoder.decode(codes[..., None], far | unlabelled)
        numbers, counts = np.unique(values[far & ~unlabelled], return_counts=True)
        outcomes[[IGNORED, UNKNOWN]] += -counts.sum(), counts.sum()
        return labels, outcomes, {**unknown, **{f"{n:.12g}": int(c) for n, c in zip(numbers, counts)}}

    def decode_one_hot(self, pixels, unlabelled, start):
        """As `read`: the class is the band that is set; where none is, the pixel is unlabelled."""
        on = pixels != 0
        bands_set = on.sum(0)
        unlabelled = (bands_set == 0) | (False if unlabelled is None else unlabelled)
        wrong = (bands_set > 1) | (on & (pixels != 1) & (pixels != 255)).any(0)
        self.check(wrong & ~unlabelled, pixels, start)
        labels = np.where(unlabelled, IGNORE, on.argmax(0)).astype(np.uint8)
        ignored = np.count_nonzero(unlabelled)
        return labels, np.array([labels.size - ignored, 0, ignored, 0]), {}

    def check(self, wrong, pixels, start):
        """Problem (exit 3) that quotes the first pixel [B, rows, W] that is wrong (bool [rows, W])."""
        if not wrong.any():
            return
        row, col = np.argwhere(wrong)[0].tolist()
        values = pixels[:, row, col]
        got = ", ".join(f"{value:.6g}" for value in values.tolist())
        expected = "one of the classes' bands set to 1 or 255, the others 0 (one-hot)"
        if self.layout.kind == "values":
            expected = "whole numbers"
            advice = "write the classes' own values (of resampled labels: gdalwarp -r near)"
        elif (values != np.rint(values)).any():
            advice = "of probabilities, write the most probable class"
        elif self.raster.count in (2, 4) and ColorInterp.alpha not in self.raster.colorinterp:
            advice = if_alpha(self.raster)
        else:
            advice = OTHERS
        raise Problem(f"labels {self.raster.name}: {got} in row {start + row}, column {col} (from 0), "
                      f"expected {expected}; {advice}", code=3)
