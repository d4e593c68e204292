"""Blocks by name: each is a tile of its own, a rectangle of a raster that split.blocks cuts. Which role it
has, prepare_data.py draws, and notes it in data.prepared/blocks.json."""
from pathlib import Path

from base.keys import BLOCK
from base.problem import Problem
from base.settings import all_tiles, is_drawn, roles_of
from base.tables import read_record, write_record


def raster_of(tile, split):
    """The raster that a tile is a block of; any other tile is its own."""
    block = BLOCK.fullmatch(tile) if split.get("blocks") else None
    return block[1] if block else tile


def rasters_of(split):
    """The rasters that lie below data.raw: tiles, and in place of blocks those that they are cut from."""
    return list(dict.fromkeys(raster_of(tile, split) for tile in all_tiles(split)))


def uncut(split):
    """{role: tiles} of what is read below data.raw, where each raster that is cut counts as training's."""
    whole = {role: [tile for tile in tiles if raster_of(tile, split) == tile]
             for role, tiles in roles_of(split).items()}
    others = [tile for role, tiles in whole.items() if role != "train" for tile in tiles]
    return {**whole, "train": [raster for raster in rasters_of(split) if raster not in others]}


def record_of(settings):
    return Path(settings["data"]["prepared"]) / "blocks.json"


def note(settings, split):
    """Notes the `split`, with names of blocks, that was drawn for these settings."""
    write_record(record_of(settings), {"asked": settings["split"], "split": split})


def drawn(settings, needed=True):
    """The settings with the names of blocks in split, where split.blocks is set. Problem (exit 3) where none
    were drawn for these settings; if they are not `needed`, the settings stay as they are."""
    if is_drawn(settings["split"]):
        return settings
    try:
        record = read_record(record_of(settings), "prepare_data.py")
        if record["asked"] == settings["split"]:
            return {**settings, "split": record["split"]}
        raise Problem(f"blocks in {record_of(settings)}: of another split, expected this run's; run "
                      "prepare_data.py again, or give this run a data.prepared folder of its own", code=3)
    except Problem:
        if needed:
            raise
    return settings
