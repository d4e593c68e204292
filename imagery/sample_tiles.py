"""Made-up aerial photographs with labels, in the folders and names of ISPRS Potsdam.

    python -m imagery.sample_tiles data/raw/sample

Writes 2_Ortho_RGB/top_potsdam_<tile>_RGB.tif (+ .tfw) and 5_Labels_all/top_potsdam_<tile>_label.tif: uint8
RGB, 5 cm pixels, EPSG:32633, labels without georeference as in the original. Tile 6_7 carries the fault of
the real one: cars painted (252, 255, 0) for (255, 255, 0). Same seed, same bytes; about 2 s a tile.

Every object is drawn after the shadow that it throws in one morning's sun on what is lower. Mean colour does
not tell the classes apart (roofs and roads share greys, crowns and lawns greens); texture and shape do.
"""
import argparse
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin
from skimage.draw import polygon
from skimage.filters import gaussian
from skimage.transform import resize

from base.command import cleanly
from base.files import only_one, replacing
from imagery.rasters import without_place_allowed, writing

IMPERVIOUS, BUILDING, LOW_VEGETATION, TREE, CAR, CLUTTER = range(6)
COLOURS = np.uint8([(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)])
PIXEL = 0.05  # metres
SUN = np.array([0.55, 0.80])  # the direction shadows fall, [row, col], pixels of shadow per pixel of height
TILES = {"2_10": (1120, 1280), "2_11": (1280, 1536), "3_10": (1408, 1280), "4_11": (1280, 1472),
         "5_12": (1344, 1408), "6_7": (1280, 1408), "2_13": (1280, 1600)}  # name: rows, columns
PAINTS = [(225, 226, 228), (200, 203, 206), (40, 42, 46), (28, 30, 34), (140, 24, 26), (36, 62, 120),
          (150, 152, 155), (88, 92, 96), (196, 170, 96), (20, 70, 62)]
ROOFS = [(150, 76, 58), (128, 66, 54), (96, 92, 92), (74, 76, 82), (112, 88, 72), (140, 132, 126)]


def noise(rng, shape, scale):
    """Smooth noise (float32 [H, W], mean 0, deviation about 1) whose grain is `scale` pixels."""
    rows, cols = (int(np.ceil(n / scale)) + 2 for n in shape)
    coarse = rng.standard_normal((rows, cols), dtype=np.float32)
    if scale == 1:
        return coarse[: shape[0], : shape[1]]
    fine = resize(coarse, (int(rows * scale), int(cols * scale)), order=1, anti_aliasing=False)
    return 1.3 * fine[: shape[0], : shape[1]]


def axes_of(angle):
    """Unit vectors [row, col] along a direction and across it."""
    return np.array([np.sin(angle), np.cos(angle)]), np.array([np.cos(angle), -np.sin(angle)])


class Scene:
    """An image in the making: colour (float32 [H, W, 3], 0..255) and labels (uint8 [H, W])."""

    def __init__(self, rng, shape):
        self.rng, self.shape = rng, shape
        self.fine, self.grain, self.lumps, self.stains = (noise(rng, shape, scale) for scale in (1, 3, 9, 60))
        self.image = np.zeros((*shape, 3), np.float32)
        self.labels = np.full(shape, LOW_VEGETATION, np.uint8)

    def rectangle(self, centre, angle, length, width):
        """Pixels of a rectangle, a record for each: row, column, how far along (u) and across (v) it from its
        centre, and the four noises there."""
        along, across = axes_of(angle)
        half, side = along * length / 2, across * width / 2
        corners = [centre - half - side, centre - half + side, centre + half + side, centre + half - side]
        rows, cols = polygon(*np.transpose(corners), self.shape)
        offset = np.stack([rows - centre[0], cols - centre[1]])
        noises = [noise[rows, cols] for noise in (self.fine, self.grain, self.lumps, self.stains)]
        return np.rec.fromarrays([rows, cols, along @ offset, across @ offset, *noises],
                                 names="row, col, u, v, fine, grain, lumps, stains")

    def free(self, at, *classes):
        """True where none of these pixels leaves the tile's ground of the given classes."""
        return len(at) > 0 and np.isin(self.labels[at.row, at.col], classes).all()

    def paint(self, at, colour, light, label=None):
        """Sets pixels to a colour ([3]) times light ([N] or a number), and their class."""
        self.image[at.row, at.col] = np.asarray(colour, np.float32) * np.asarray(light, np.float32)[..., None]
        if label is not None:
            self.labels[at.row, at.col] = label

    def shade(self, at, height):
        """Darkens what lies in the shadow of a footprint `height` pixels tall; skylight leaves it bluish."""
        if len(at) == 0:
            return
        top, left = max(at.row.min() - 3, 0), max(at.col.min() - 3, 0)
        down, right = (SUN * height).astype(int) + 4
        box = np.s_[top: at.row.max() + down, left: at.col.max() + right]
        shadow = np.zeros_like(self.fine[box])
        for step in np.arange(0, height + 1, 2):
            r, c = at.row - top + int(SUN[0] * step), at.col - left + int(SUN[1] * step)
            inside = (r < shadow.shape[0]) & (c < shadow.shape[1])
            shadow[r[inside], c[inside]] = 1
        self.image[box] *= 1 - gaussian(shadow, 1.2)[..., None] * np.array([0.60, 0.56, 0.48], np.float32)


def draw_lawn(scene):
    """Grass: patchy, dry in places, with the fine grain that crowns lack."""
    dry = 1 / (1 + np.exp(-1.5 * scene.stains - 0.5 * noise(scene.rng, scene.shape, 160)))[..., None]
    green, straw = np.array([78, 98, 56], np.float32), np.array([128, 124, 82], np.float32)
    light = 1 + 0.10 * scene.fine + 0.07 * scene.grain + 0.04 * scene.lumps
    scene.image[:] = (green * (1 - dry) + straw * dry) * light[..., None]


def draw_pavement(scene, rectangle, colour, joints=0):
    """Asphalt, or paving with a joint every `joints` pixels; `rectangle`: centre, angle, length, width."""
    at = scene.rectangle(*rectangle)
    light = 1 + 0.05 * at.fine + 0.05 * at.stains + 0.015 * at.grain
    if joints:
        light -= 0.13 * ((at.u % joints < 1.5) | (at.v % joints < 1.5))
    scene.paint(at, colour, light, IMPERVIOUS)
    return at


def draw_road(scene, centre, angle, length):
    """A street between its footpaths: asphalt with repairs, kerbs and a dashed middle line."""
    rng = scene.rng
    at = draw_pavement(scene, (centre, angle, length, 136), rng.uniform(84, 112) * np.array([1, 1, 1.02]))
    for _ in range(5):  # repaired squares
        u, long, v, wide = rng.uniform((-length / 2, 20, -60, 10), (length / 2, 70, 60, 30))
        patch = at[(np.abs(at.u - u) < long) & (np.abs(at.v - v) < wide)]
        scene.image[patch.row, patch.col] *= rng.uniform(0.78, 1.15)
    line, kerb = at[(np.abs(at.v) < 2) & (at.u % 120 < 60)], at[np.abs(np.abs(at.v) - 66) < 2]
    scene.paint(line, (205, 205, 200), 1 + 0.06 * line.fine)
    scene.paint(kerb, (172, 170, 165), 1 + 0.05 * kerb.fine)


def draw_car(scene, centre, angle):
    """A car about 4.3 x 1.8 m: body, windows, a lit roof; none where there is no pavement."""
    length, width = scene.rng.uniform(80, 96), scene.rng.uniform(36, 42)
    at = scene.rectangle(centre, angle, length, width)
    at.u, at.v = 2 * at.u / length, 2 * at.v / width
    at = at[at.u ** 6 + at.v ** 6 < 1]  # rounded corners
    if not scene.free(at, IMPERVIOUS):
        return
    scene.shade(at, 16)
    u, v = at.u, at.v
    glass = ((np.abs(u - 0.38) < 0.12) | (np.abs(u + 0.60) < 0.10)) & (np.abs(v) < 0.80)
    glass |= (np.abs(np.abs(v) - 0.84) < 0.07) & (u > -0.6) & (u < 0.4)
    light = 0.94 - 0.12 * v + 0.10 * np.exp(-((u + 0.1) ** 2 + v ** 2) * 3) + 0.02 * at.fine
    scene.paint(at, PAINTS[scene.rng.integers(len(PAINTS))], light, CAR)
    scene.paint(at[glass], (42, 50, 60), 1 + 0.5 * np.maximum(v[glass], 0))
    scene.paint(at[(u > 0.90) & (np.abs(np.abs(v) - 0.6) < 0.2)], (235, 230, 205), 1.0)  # lamps


def draw_house(scene, centre, angle, length, width):
    """A roof with ridge, courses of tiles, chimneys, skylights; or a flat one with parapet and felt seams."""
    rng, at = scene.rng, scene.rectangle(centre, angle, length, width)
    if not scene.free(at, LOW_VEGETATION):
        return
    along, across = axes_of(angle)
    flat, hipped = rng.random() < 0.35, rng.random() < 0.4
    scene.shade(at, 70 if flat else 60)
    to_end, to_side = length / 2 - np.abs(at.u), width / 2 - np.abs(at.v)
    if flat:
        light = 1 + 0.07 * at.grain + 0.05 * at.fine + 0.06 * at.stains - 0.16 * (at.u % 20 < 1.6)
        edge = np.minimum(to_end, to_side)
        light = np.select([edge < 7, (edge < 13) & (at.u * SUN[1] + at.v > 0)], [1.45, 0.7], light)
        colour = rng.uniform(88, 130) * np.array([1.0, 0.99, 0.97])
    else:
        slope = np.where(at.v * np.sign(across @ -SUN) > 0, 1.16, 0.74)  # which one faces the sun
        if hipped:
            slope = np.where(to_end < to_side, np.where(at.u > 0, 0.88, 1.02), slope)
        light = slope * (1 + 0.07 * np.sin(at.v * 2 * np.pi / 7) + 0.06 * at.fine + 0.05 * at.lumps)
        light = np.where((np.abs(at.v) < 2.5) & ((to_end > width / 2) | (not hipped)), 1.25, light)
        colour = np.array(ROOFS[rng.integers(len(ROOFS))]) * rng.uniform(0.9, 1.1)
    scene.paint(at, colour, light, BUILDING)
    for _ in range(rng.integers(2, 6)):  # chimneys, skylights, roof boxes
        spot = centre + along * rng.uniform(-0.36, 0.36) * length + across * rng.uniform(-0.34, 0.34) * width
        at = scene.rectangle(spot, angle, *rng.uniform(9, 22, 2))
        colour = (96, 112, 128)
        if rng.random() < 0.5:
            scene.shade(at, 14)
            colour = (176, 176, 174) if flat else (138, 104, 92)
        scene.paint(at, colour, 1.0)


def draw_tree(scene, centre, radius):
    """A crown: lobed outline, clustered leaves lit from one side, gaps of deep shade."""
    lobes = scene.rng.uniform(0, 2 * np.pi, 3)
    at = scene.rectangle(centre, 0.0, 3 * radius, 3 * radius)
    turn, distance = np.arctan2(at.v, at.u), np.hypot(at.u, at.v) / radius
    edge = 1 + sum(0.09 * np.sin((k + 2) * turn + lobe) for k, lobe in enumerate(lobes))
    crown = distance < edge + 0.06 * at.lumps
    at, distance = at[crown], distance[crown]
    if not crown.any() or np.isin(scene.labels[at.row, at.col], (CAR, CLUTTER, BUILDING)).mean() > 0.12:
        return
    scene.shade(at, 0.8 * radius)
    sun = (-(at.u * SUN[1] + at.v * SUN[0]) / radius) * 0.38  # u runs along columns, v along rows
    light = 0.92 + sun - 0.25 * distance ** 2 + (0.22 * at.lumps + 0.16 * at.grain + 0.06 * at.fine)
    colour = [(66, 88, 48), (84, 98, 54), (58, 78, 52), (98, 104, 60)][scene.rng.integers(4)]
    scene.paint(at, colour, np.clip(light, 0.22, 1.9), TREE)


def draw_clutter(scene, centre, angle):
    """What fits no class: containers with ribs, heaps of sand, basins of water."""
    rng = scene.rng
    length, width = rng.uniform(90, 170), rng.uniform(60, 100)
    at = scene.rectangle(centre, angle, length, width)
    if not scene.free(at, LOW_VEGETATION):
        return
    kind = rng.integers(3)
    if kind == 0:
        scene.shade(at, 26)
        colour = [(150, 70, 44), (44, 84, 128), (166, 120, 48)][rng.integers(3)]
        scene.paint(at, colour, 0.95 + 0.2 * (at.u % 9 < 4) + 0.03 * at.fine, CLUTTER)
    elif kind == 1:
        at = at[(2 * at.u / length) ** 2 + (2 * at.v / width) ** 2 < 1 + 0.15 * at.lumps]
        scene.shade(at, 10)
        light = 1 - 0.35 * at.v / width - 0.35 * at.u / length + (0.07 * at.lumps + 0.05 * at.fine)
        scene.paint(at, (172, 146, 108), light, CLUTTER)
    else:
        rim = at[np.minimum(length / 2 - np.abs(at.u), width / 2 - np.abs(at.v)) < 8]
        scene.paint(at, (62, 122, 138), 1 + 0.05 * np.sin(at.u / 7 + at.lumps), CLUTTER)
        scene.paint(rim, (188, 182, 170), 1 + 0.05 * rim.fine)


def plan_street(rng, street):
    """([(centre, angle)] of parked cars, [(centre, side of the street, length, width)] of rows of houses)."""
    middle, angle, reach = street
    along, across = axes_of(angle)
    cars, houses = [], []
    for side in (-1, 1):
        for at in np.arange(-reach / 2, reach / 2, 118):
            if rng.random() < 0.42:
                cars.append((middle + along * at + across * side * 42, angle))
            if rng.random() < 0.30:
                cars.append((middle + across * at + along * side * 42, angle + np.pi / 2))
        for row in range(4):
            for at in np.arange(-reach / 2, reach / 2, 400) + rng.uniform(-30, 30):
                distance = side * (250 + row * 390)
                spot = middle + along * (at + 200) + across * (distance + rng.uniform(-14, 14))
                houses.append((spot, side, rng.uniform(230, 300), rng.uniform(150, 190)))
    return cars, houses


def draw_plot(scene, angle, house):
    """A house and a paved drive towards the street; returns the cars in the drive, [(centre, angle)]."""
    rng, cars, (spot, side, length, width) = scene.rng, [], house
    along, across = axes_of(angle)
    turned = angle + (np.pi / 2 if rng.random() < 0.3 else 0)
    if not scene.free(scene.rectangle(spot, turned, length + 40, width + 40), LOW_VEGETATION):
        return cars
    drive = spot - across * side * 80 + along * (length / 2 + 36)
    if scene.free(scene.rectangle(drive, angle, 60, 170), LOW_VEGETATION, IMPERVIOUS):
        colour = rng.uniform(110, 150) * np.array([1, 0.97, 0.94])
        draw_pavement(scene, (drive, angle, 62, 190), colour, joints=12)
        cars += [(drive + across * rng.uniform(-30, 30), angle + np.pi / 2)] * (rng.random() < 0.6)
    draw_house(scene, spot, turned, length, width)
    return cars


def draw_scene(shape, seed):
    """One tile, both sides of a street: image (uint8 [H, W, 3]) and labels (uint8 [H, W])."""
    rng = np.random.default_rng(seed)
    scene = Scene(rng, shape)
    draw_lawn(scene)
    angle = rng.uniform(-0.22, 0.22)
    street = middle, angle, reach = np.array(shape) * rng.uniform(0.42, 0.58, 2), angle, 2.5 * max(shape)
    for turned in (angle + np.pi / 2, angle):
        draw_pavement(scene, (middle, turned, reach, 208), (150, 145, 138), joints=16)
    for turned in (angle + np.pi / 2, angle):  # the asphalt of both streets over the footpaths of both
        draw_road(scene, middle, turned, reach)
    cars, houses = plan_street(rng, street)
    for house in houses:
        cars += draw_plot(scene, angle, house)
    for spot, heading in cars:
        draw_car(scene, spot + rng.uniform(-3, 3, 2), heading + rng.normal(0, 0.03) + np.pi * rng.integers(2))
    for label, share in ((CLUTTER, 0.045), (TREE, 0.16)):
        for _ in range(400):
            if (scene.labels == label).mean() > share:
                break
            spot = rng.uniform(0, 1, 2) * np.array(shape)
            if label == CLUTTER:
                draw_clutter(scene, spot, angle + rng.normal(0, 0.2))
            elif scene.labels[tuple(spot.astype(int))] in (LOW_VEGETATION, TREE):
                draw_tree(scene, spot, rng.uniform(34, 84))
    seen = gaussian(scene.image, 0.7, channel_axis=-1) * 1.04 + 6 + rng.normal(0, 2.2, scene.image.shape)
    return np.clip(seen, 0, 255).astype(np.uint8), scene.labels


def write_tile(folder, tile, shape, seed):
    """Writes one image (.tif and .tfw) and its colour-coded label."""
    row, col = map(int, tile.split("_"))
    image, labels = draw_scene(shape, [seed, row, col])
    colours = COLOURS.copy()
    if tile == "6_7":
        colours[CAR] = (252, 255, 0)
    transform = from_origin(365700 + 300 * col, 5810000 - 300 * row, PIXEL, PIXEL)
    photo, label = f"2_Ortho_RGB/top_potsdam_{tile}_RGB", f"5_Labels_all/top_potsdam_{tile}_label"
    georeference = {"crs": "EPSG:32633", "transform": transform}
    for name, pixels, options in ((photo, image, georeference), (label, colours[labels], {})):
        path = folder / f"{name}.tif"
        options |= {"height": shape[0], "width": shape[1], "count": 3, "dtype": "uint8", "photometric": "RGB"}
        with only_one(path.parent), replacing(path) as temporary, writing(f"tile {path}"):
            with without_place_allowed(), rasterio.open(temporary, "w", "GTiff", **options) as target:
                target.write(np.moveaxis(pixels, -1, 0))
    world = [PIXEL, 0, 0, -PIXEL, transform.c + PIXEL / 2, transform.f - PIXEL / 2]
    with replacing(folder / f"{photo}.tfw") as temporary:
        temporary.write_text("".join(f"{value:.10g}\n" for value in world))


def main(folder, seed):
    for tile, shape in TILES.items():
        write_tile(Path(folder), tile, shape, seed)
        print(f"{tile:>5}  {shape[0]} x {shape[1]} px  {folder}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", nargs="?", default="data/raw/sample")
    cleanly(lambda: main(parser.parse_args().folder, seed=1))
