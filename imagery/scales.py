"""Which values of a band become 0 and 255: those that a raster's own values ask for, and whether data.scale
suits them."""
import math

import numpy as np

from imagery.arrays import IGNORE, starts
from imagery.rasters import is_for_each, scales

PERCENTILES = 2, 98
STRIPS, ROWS, COLUMNS = 32, 16, 8192  # of a raster that `values` reads at most
LEAST = 16  # of 256 levels: the fewest that percentiles 2 and 98 of the image's bands lie apart
MARGIN = 0.1  # of a scale: so little beyond it a value still looks as it should, as heights around 0


def values(layers):
    """The valid, finite values of each band of Layers, a list of arrays [N]: from strips of rows spread over
    the height and columns over the width, the same every time."""
    height, width = layers.shape
    step, kept = -(-width // COLUMNS), []
    for start in starts(height, ROWS, max(ROWS, height // STRIPS)) if height > ROWS else [0]:
        stop = min(start + ROWS, height)
        valid = layers.valid(start, stop)[:, ::step]
        kept.append([plane[:, ::step][valid] for plane in layers.planes(start, stop)])
    bands = [np.concatenate(band) for band in zip(*kept)]
    return [band[np.isfinite(band)] for band in bands]


def percentiles_of(band):
    """[low, high]: percentiles 2 and 98 of values [N], one apart where they are the same; [0, 1] of none."""
    low, high = np.percentile(band, PERCENTILES).tolist() if len(band) else (0, 1)
    return [low, high if high > low else low + 1]


def settled(asked, layers, trained, learned):
    """A scale, an entry for each band, in which "auto" is replaced: by None where the band is of bytes and
    the network was `trained` on bytes, else by limits that make percentiles 2 and 98 of the band those of
    the training tiles (`learned`: `learned_levels`)."""
    if "auto" not in asked:
        return asked
    scale = list(asked)
    for band, own in enumerate(values(layers)):
        if asked[band] == "auto":
            stays = layers.dtypes[band] == "uint8" and trained[band] is None
            scale[band] = None if stays else limits_between(percentiles_of(own), learned[band])
    return scale


def limits_between(own, learned):
    """The values that become 0 and 255 where the values `own`, [low, high], become the bytes `learned`."""
    dark, bright = learned if learned[1] > learned[0] else (0, 255)
    step = (own[1] - own[0]) / (bright - dark)
    return [own[0] - dark * step, own[0] + (255 - dark) * step]


def learned_levels(tiles):
    """[low, high] of each band: percentiles 2 and 98 of the bytes of prepared Tiles, in all together, of the
    labelled pixels of every eighth row and column."""
    histograms = np.zeros((tiles[0].bands, 256), np.int64)
    for tile in tiles:
        labelled = tile.labels[::8, ::8] != IGNORE
        for band, histogram in enumerate(histograms):
            histogram += np.bincount(tile.image[::8, ::8, band][labelled], minlength=256)
    return [levels_of(histogram) or [0, 255] for histogram in histograms]


def levels_of(histogram):
    """[low, high]: percentiles 2 and 98 of bytes, of their histogram (int [256]); None of none."""
    total = histogram.cumsum()
    return np.searchsorted(total, np.array(PERCENTILES) / 100 * total[-1]).tolist() if total[-1] else None


def joined(pairs):
    """[least low, greatest high] of [low, high] each or None; None of none."""
    pairs = [pair for pair in pairs if pair]
    return [min(low for low, _ in pairs), max(high for _, high in pairs)] if pairs else None


def is_squeezed(levels):
    """True where bands, of which these are the `levels_of` each, all use few of the 256."""
    widths = [high - low for low, high in filter(None, levels)]
    return widths != [] and max(widths) < LEAST


# -- does data.scale suit the tiles -------------------------------------------------------------------------

def check_scale(data, rows, opened):
    """Lines that say where data.scale clips most of a band of a tile, or squeezes all tiles together, and
    which would fit. One dark tile or one flat band is no reason, nor are heights under a scale of their own,
    which may be low. `rows`: {tile: row of the manifest}; `opened(tile)`: a context of rasters and Layers,
    which are read again only where there is a doubt."""
    scale, bands, percentiles, lines = scales(data), len(data["bands"]), {}, []
    suspects = {tile: outside_scale(row, scale) for tile, row in rows.items()}
    levels = list(map(joined, zip(*(row["levels"] for row in rows.values()))))
    parts = {"all tiles": levels[:bands]}
    if not is_for_each(data["scale"]):
        parts["their extra rasters"] = levels[bands:]
    squeezed = [name for name, levels in parts.items() if is_squeezed(levels)]
    if not squeezed and not any(suspects.values()):
        return []
    for tile, suspected in suspects.items():
        with opened(tile) as (_, layers):
            own = values(layers)
        percentiles[tile] = list(map(percentiles_of, own))
        for band in suspected:
            if is_clipped(own[band], scale[band]):
                low, high = percentiles[tile][band]
                lines.append(f"tile {tile}, band {band + 1}: most of it outside data.scale {scale[band]}, "
                             f"expected it inside, as percentiles 2 and 98: {low:.6g} to {high:.6g}")
    if squeezed and not lines:
        lines.append(f"data.scale {data['scale']}: squeezes {' and '.join(squeezed)} into less than {LEAST} "
                     "of 256 levels, expected limits close to percentiles 2 and 98")
    fit = fitting(data, rows, percentiles)
    return [f"{line}; set data.scale to {fit}, which holds those of all tiles" for line in lines]


def outside_scale(row, scale):
    """Bands of a tile's row of the manifest of which more than half of the valid pixels lie outside."""
    valid = row["shape"][0] * row["shape"][1] - row["nodata"]
    return [band for band, limits in enumerate(scale) if limits and 2 * row["outside_scale"][band] > valid]


def is_clipped(band, limits):
    """True where more than half of a band's values lie well outside the limits."""
    margin = MARGIN * (limits[1] - limits[0])
    return 2 * np.count_nonzero((band < limits[0] - margin) | (band > limits[1] + margin)) > len(band)


def fitting(data, rows, percentiles):
    """data.scale, as text, that holds the `percentiles` of every band in every tile ({tile: [low, high] of
    each band}): one for all bands, or null where they are bytes; with an extra raster, or a list before, a
    list of these."""
    each, bands = [rounded(*joined(band)) for band in zip(*percentiles.values())], len(data["bands"])
    if all(row["dtype"] == "uint8" for row in rows.values()):
        each[:bands] = [None] * bands
    elif not is_for_each(data["scale"]):
        each[:bands] = [joined(each[:bands])] * bands
    each = [own if before else None for before, own in zip(scales(data), each)]  # bytes stay as they are
    alone = not is_for_each(data["scale"]) and not data["extra"]
    return str(each[0] if alone else each).replace("None", "null")


def rounded(low, high):
    """[low, high] rounded outwards, to two digits of their distance, as whole numbers where they can be."""
    step = 10.0 ** (math.floor(math.log10(high - low)) - 1)
    both = [float(f"{number * step:.10g}") for number in (math.floor(low / step), math.ceil(high / step))]
    return [int(number) if number.is_integer() else number for number in both]
