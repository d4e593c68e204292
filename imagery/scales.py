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


def limits_of(band):
    """[low, high]: percentiles 2 and 98 of values, one apart where they are the same; [0, 1] of none."""
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
            scale[band] = None if stays else stretched(limits_of(own), learned[band])
    return scale


def stretched(limits, levels):
    """The values that become 0 and 255 where `limits` become these levels."""
    dark, bright = levels if levels[1] > levels[0] else (0, 255)
    step = (limits[1] - limits[0]) / (bright - dark)
    return [limits[0] - dark * step, limits[0] + (255 - dark) * step]


def learned_levels(tiles):
    """[low, high] of each band: percentiles 2 and 98 of the bytes of prepared Tiles, in all together, of the
    labelled pixels of every eighth row and column."""
    counts = np.zeros((tiles[0].bands, 256), np.int64)
    for tile in tiles:
        labelled = tile.labels[::8, ::8] != IGNORE
        for band, levels in enumerate(counts):
            levels += np.bincount(tile.image[::8, ::8, band][labelled], minlength=256)
    return [filled(levels) or [0, 255] for levels in counts]


def filled(levels):
    """[low, high]: percentiles 2 and 98 of bytes of which `levels` (int [256]) are counted; None of none."""
    total = levels.cumsum()
    return np.searchsorted(total, np.array(PERCENTILES) / 100 * total[-1]).tolist() if total[-1] else None


def is_squeezed(levels):
    """True where the bands whose `filled` levels these are, [low, high] or None each, all use few of them."""
    levels = [pair for pair in levels if pair]
    return levels != [] and max(high - low for low, high in levels) < LEAST


# -- does data.scale suit the tiles -------------------------------------------------------------------------

def suspects(row, scale):
    """Bands of a tile's row of the manifest of which more than half of the valid pixels lie outside."""
    valid = row["shape"][0] * row["shape"][1] - row["nodata"]
    return [band for band, limits in enumerate(scale) if limits and 2 * row["outside_scale"][band] > valid]


def are_squeezed(rows, bands):
    """True where data.scale leaves these `bands` (a slice) few levels in all tiles together. One dark tile or
    one flat band is no reason."""
    together = []
    for of_tiles in zip(*(row["levels"][bands] for row in rows)):
        pairs = [pair for pair in of_tiles if pair]
        together += [[min(low for low, _ in pairs), max(high for _, high in pairs)]] if pairs else []
    return is_squeezed(together)


def check_scale(data, rows, open_layers):
    """Lines that say where data.scale clips most of a band of a tile, or squeezes all tiles, and which would
    fit. `rows`: {tile: row of the manifest}; `open_layers(tile)`: a context of its Layers, which are read
    again only where there is a doubt. An extra raster with a scale of its own may be flat."""
    scale, bands, of_tiles, lines = scales(data), len(data["bands"]), {}, []
    doubts = {tile: suspects(row, scale) for tile, row in rows.items()}
    parts = [slice(bands)] if is_for_each(data["scale"]) else [slice(bands), slice(bands, None)]
    squeezed = [part for part in parts if are_squeezed(rows.values(), part)]
    if not squeezed and not any(doubts.values()):
        return []
    for tile in rows:
        with open_layers(tile) as layers:
            of_tiles[tile] = values(layers)
    limits = {tile: list(map(limits_of, of_bands)) for tile, of_bands in of_tiles.items()}
    for tile, suspected in doubts.items():
        for band in suspected:
            if is_clipped(of_tiles[tile][band], scale[band]):
                lines.append(f"tile {tile}, band {band + 1}: most of it outside data.scale {scale[band]}, "
                             f"expected it inside, as percentiles 2 and 98: {spelt(limits[tile][band])}")
    for part in squeezed if not lines else []:
        if any(varies(of_bands[part]) for of_bands in of_tiles.values()):
            what = "its extra raster squeezed, as all tiles'" if part.start else "squeezed, as all tiles"
            lines += [f"tile {tile}: {what} are, into less than {LEAST} of 256 levels by data.scale "
                      f"{data['scale']}, expected a closer one; percentiles 2 and 98: "
                      + ", ".join(map(spelt, limits[tile][part])) for tile in rows]
    advice = f"set data.scale to {fitting(data, rows, limits)}, which holds those of all tiles"
    return [f"{line}; {advice}" for line in lines]


def varies(of_bands):
    """True where a band has different values: one of a single value looks squeezed by any scale."""
    return any(np.ptp(band) > 0 for band in of_bands if len(band))


def is_clipped(band, limits):
    """True where more than half of a band's values lie well outside the limits."""
    margin = MARGIN * (limits[1] - limits[0])
    return 2 * np.count_nonzero((band < limits[0] - margin) | (band > limits[1] + margin)) > len(band)


def spelt(limits):
    return f"{limits[0]:.6g} to {limits[1]:.6g}"


def fitting(data, rows, limits):
    """data.scale, as text, that holds the `limits_of` every band in every tile ({tile: a list of them}): one
    for all bands, or null where they are bytes; with an extra raster, or a list before, a list of these."""
    bands, listed = len(data["bands"]), is_for_each(data["scale"])
    each = [rounded(min(low for low, _ in band), max(high for _, high in band))
            for band in zip(*limits.values())]
    each = [pair and own for pair, own in zip(scales(data), each)]
    if all(row["dtype"] == "uint8" for row in rows.values()):
        each[:bands] = [None] * bands
    elif not listed:
        each[:bands] = [[min(low for low, _ in each[:bands]), max(high for _, high in each[:bands])]] * bands
    return str(each if listed or data["extra"] else each[0]).replace("None", "null")


def rounded(low, high):
    """[low, high] rounded outwards, to two digits of their distance, as whole numbers where they can be."""
    step = 10.0 ** (math.floor(math.log10(high - low)) - 1)
    both = [float(f"{number * step:.10g}") for number in (math.floor(low / step), math.ceil(high / step))]
    return [int(number) if number.is_integer() else number for number in both]
