"""Prepared tiles (rasters with their labels) on disk, and the manifest that says what they were made from."""
import functools
import hashlib
import json
import os
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from base.files import sha256
from base.problem import Problem
from base.settings import all_tiles, count_bands, is_drawn, roles_of

MAPPED = 200  # tiles of a role at most that stay mapped; each is an open file, of which 1,024 may be allowed
CELL = 128  # pixels: side of the squares in which a prepared tile's classes are counted


def pixel_bytes(bands):
    """Bytes of a prepared pixel: bands, label, zeros up to 4 or a multiple of 8, which are machine words."""
    return 4 if bands < 4 else -(-(bands + 1) // 8) * 8


class Tile:
    """A prepared tile, memory-mapped: views of its pixels.

    pixels  uint8 [H, W, pixel_bytes]: the bands, then the label, then zeros
    image   uint8 [H, W, B]
    labels  uint8 [H, W]
    words   the pixels as words: uint32 [H, W, 1] or uint64 [H, W, pixel_bytes / 8]
    cells   int64 [rows, cols, C]: pixels of each class in each CELL x CELL square
    eroded  uint8 [H, W]: the official labels without class boundaries; None where there are none
    """

    def __init__(self, pixels, bands, cells=None, eroded=None):
        self.pixels, self.bands, self.cells, self.eroded = pixels, bands, cells, eroded
        self.image, self.labels = pixels[..., :bands], pixels[..., bands]
        self.words = pixels.view(np.uint32 if pixels.shape[2] == 4 else np.uint64)
        self.shape, self.nbytes = self.labels.shape, pixels.nbytes


@functools.lru_cache(maxsize=64)
def mapped(path, bands):
    """A prepared Tile without cells, one of those that were last asked for."""
    return Tile(np.asarray(open_memmap(path, mode="r")), bands)


class DistantTile:
    """A prepared tile as Tile, mapped when it is asked for: a process may have some thousand open files."""

    def __init__(self, path, tile):
        self.path, self.bands, self.cells, self.eroded = path, tile.bands, tile.cells, None
        self.shape, self.nbytes = tile.shape, tile.nbytes

    def __getattr__(self, name):
        if name not in ("pixels", "image", "labels", "words"):
            raise AttributeError(name)
        return getattr(mapped(self.path, self.bands), name)


def pack(image, labels):
    """Pixels of a Tile (uint8 [H, W, pixel_bytes]): its image (uint8 [H, W, B]) and labels (uint8 [H, W])."""
    bands = image.shape[2]
    pixels = np.zeros((*labels.shape, pixel_bytes(bands)), np.uint8)
    pixels[..., :bands], pixels[..., bands] = image, labels
    return pixels


def count_cells(labels, classes):
    """Pixels of each class in each CELL x CELL square, int64 [rows, cols, C], of labels (uint8 [H, W])."""
    rows, cols = (np.arange(0, size, CELL) for size in labels.shape)
    return np.stack([np.add.reduceat(np.add.reduceat(labels == index, rows, 0, np.int64), cols, 1)
                     for index in range(classes)], -1)


def manifest_text(tiles):
    """A manifest of {tile: row} as text: a line for each tile, and the SHA-256 of all, to notice an edit."""
    lines = ",\n".join(f"{json.dumps(tile)}: {json.dumps(row)}" for tile, row in tiles.items())
    digest = hashlib.sha256(lines.encode()).hexdigest()
    return f'{{"sha256": "{digest}", "tiles": {{\n{lines}\n}}}}\n'


def read_manifest(prepared):
    """The manifest of a prepared folder, {"tiles": {name: row}}; {"tiles": {}} where there is none yet.
    Problem (exit 3) where it is not, to the letter, what prepare_data.py wrote."""
    path = Path(prepared) / "manifest.json"
    try:
        text = path.read_text(encoding="utf-8")
        manifest = json.loads(text)
        if manifest_text(manifest["tiles"]) == text:
            return manifest
    except FileNotFoundError:
        return {"tiles": {}}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise Problem(f"manifest {path}: damaged, edited or of an earlier version, expected it as "
                  f"prepare_data.py wrote it; remove the folder {path.parent} and run prepare_data.py "
                  "again", code=3)


def made_with(data):
    """The data settings that a prepared tile depends on; one prepared with others is not used."""
    keys = ("raw", "image", "label", "eroded_label", "extra", "bands", "scale", "nodata", "label_values",
            "ignore_colours", "tolerance", "assume_crs", "label_field", "label_layer", "label_order",
            "background", "all_touched", "area")
    return {**{key: data[key] for key in keys},
            "classes": [list(pair) for pair in data["classes"].items()]}  # their order counts


def open_array(path, file, shape, checked):
    """A prepared array (uint8), memory-mapped; Problem (exit 3) where it has another shape or, if `checked`,
    other bytes than its `file` in the manifest."""
    try:
        array = np.asarray(open_memmap(path, mode="r"))
        if array.dtype != np.uint8 or array.shape != shape:
            wrong = f"{array.dtype} {array.shape}, expected uint8 {shape}"
        elif checked and sha256(path) != file["sha256"]:
            wrong = "other bytes than manifest.json names, expected those"
        else:
            return array
    except (OSError, ValueError, EOFError):
        wrong = "missing or damaged, expected a NumPy array"
    raise Problem(f"prepared tile {path}: {wrong}; run prepare_data.py again", code=3)


def prepared_rows(data, tiles, manifest=None):
    """{tile: its row of the manifest}; Problem (exit 3) that names all tiles that are not prepared."""
    rows = (manifest or read_manifest(data["prepared"]))["tiles"]
    missing = [f"tile {tile} in {data['prepared']}: not prepared, expected it in manifest.json; run "
               "prepare_data.py again" for tile in tiles if tile not in rows]
    if missing:
        raise Problem(*missing, code=3)
    return {tile: rows[tile] for tile in tiles}


def open_prepared(data, tile, manifest=None, checked=True):
    """A prepared Tile. Problem (exit 3) where it is not prepared, was prepared with other settings, or its
    files are not, to the bit, what the manifest says. `manifest`: as read already. `checked` False: its bytes
    are not read, so that a picture of a small part takes no longer than that part."""
    folder, bands = Path(data["prepared"]), count_bands(data)
    row = prepared_rows(data, [tile], manifest)[tile]
    if row["made_with"] != made_with(data):
        raise Problem(f"tile {tile} in {folder}: prepared with other data settings, expected this run's; run "
                      "prepare_data.py again, or give this run a data.prepared folder of its own", code=3)
    height, width = row["shape"][:2]
    shapes = {"pixels": (height, width, pixel_bytes(bands)), "eroded": (height, width)}
    arrays = {kind: open_array(folder / file["name"], file, shapes[kind], checked)
              for kind, file in row["files"].items()}
    return Tile(arrays["pixels"], bands, np.array(row["cells"], np.int64), arrays.get("eroded"))


def open_tiles(data, names, checked=True):
    """The prepared tiles of these names; `checked` as of `open_prepared`."""
    manifest, tiles = read_manifest(data["prepared"]), []
    for name in names:
        tile = open_prepared(data, name, manifest, checked)
        if len(names) > MAPPED:
            file = manifest["tiles"][name]["files"]["pixels"]["name"]
            tile = DistantTile(os.path.join(data["prepared"], file), tile)
        tiles.append(tile)
    return tiles


def check_roles(split, manifest):
    """Problem (exit 3) where the tiles of a role have no labelled pixel: nothing to be learned or scored."""
    pixels = {tile: sum(row["classes"].values()) for tile, row in manifest["tiles"].items()}
    empty = [f"split.{role} ({', '.join([*tiles[:5], '...'][:len(tiles)])}): no pixel of any class in its "
             "labels, expected some; see data.classes, and what their nodata value, mask or alpha hides"
             for role, tiles in roles_of(split).items() if tiles and not any(pixels[tile] for tile in tiles)]
    if empty:
        raise Problem(*empty, code=3)


def tiles_stand(settings, run):
    """True where every tile is prepared with these settings, not since then with others for another run."""
    data, folder = settings["data"], Path(settings["data"]["prepared"])
    if not is_drawn(settings["split"]):
        return False
    try:
        manifest = read_manifest(folder)["tiles"]
        rows = [manifest[tile] for tile in all_tiles(settings["split"])]
    except (Problem, KeyError):
        return False
    files = [folder / file["name"] for row in rows for file in row["files"].values()]
    return all(row["made_with"] == made_with(data) for row in rows) and all(file.exists() for file in files)
