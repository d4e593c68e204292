"""What a training begins with: an earlier model's weights, or those of a pretrained encoder; whether they are
there, what tells them from others, and which tiles are behind them."""
import contextlib
from pathlib import Path

from base.problem import Problem, first_of
from base.tables import read_facts, read_record
from imagery.leaks import seen_tiles
from imagery.tiles import read_manifest
from learning.weight_files import weights_digest, weights_file


def check_start(settings, run):
    """Problem (exit 2) where a run would start from its own model, which it replaces when it is finished."""
    path = settings["train"]["start_from"]
    if path and Path(path).parent.resolve() == run.resolve():
        raise Problem(f"settings, key train.start_from: {path}, the model of this run, expected another "
                      "run's; copy the settings file to a new name, and set it there", code=2)


def doubt_start(settings):
    """Yields a line where tiles of split.test are behind the weights that a training starts from."""
    path, data = settings["train"]["start_from"], settings["data"]
    if not path:
        return
    manifest, tiles = read_manifest(data["prepared"])["tiles"], settings["split"]["test"]
    rows = {tile: manifest[tile] for tile in tiles if tile in manifest}
    facts = {"started_on": tiles_behind(path), "cut": cuts_behind(path)}
    seen = [tile for tile, *_ in seen_tiles(rows, data["raw"], facts)]
    if seen:
        yield (f"test tiles: {len(seen)} of {len(tiles)} ({first_of(seen)}) trained or chose the weights of "
               f"{path}, expected none, and evaluate.py refuses these; take them out or, if they are blocks, "
               "set split.blocks as that run had it")


def start_digest(train):
    """SHA-256 of the model whose weights a training starts from; None where it starts from none, or where
    that model is not there (any more)."""
    with contextlib.suppress(Problem):
        if train.get("start_from"):
            return read_record(Path(train["start_from"]).with_name("model.json"), "train.py").get("sha256")
    return None


def tiles_behind(path):
    """{raw folder/tile: SHA-256 of its pixels} of all tiles that a model, at this path, and those that it
    started from were trained or chosen on."""
    facts = read_facts(Path(path).parent)
    own = {**facts["trained_on"], **facts["chosen_on"]}
    return {**facts.get("started_on", {}),
            **{f"{facts.get('raw')}/{tile}": digest for tile, digest in own.items()}}


def cuts_behind(path):
    """{tile as of `tiles_behind`: its "cut"} of those of them that are blocks; rasters after their folder."""
    facts, cuts = read_facts(Path(path).parent), {}
    for tile, cut in facts.get("cut", {}).items():
        if tile in {**facts["trained_on"], **facts["chosen_on"]}:
            raw = facts.get("raw")
            cuts[f"{raw}/{tile}"] = {**cut, "raster": f"{raw}/{cut['raster']}"}
        else:
            cuts[tile] = cut
    return cuts


def same_bands(settings, facts):
    """True where an earlier model, of these `facts`, saw the bands of the settings, and its encoder the same
    of them as red, green and blue."""
    data, model = settings["data"], settings["model"]
    rgb = model["rgb"] if model["encoder"] != "none" else None
    return (data["bands"], data["extra"] is not None, rgb) == (facts["bands"], facts["extra"],
                                                               facts.get("rgb"))


def wanted_weights(settings):
    """(encoder, weights): model.weights, or none where the model train.start_from knows the same bands."""
    model, start = settings["model"], settings["train"].get("start_from")
    encoder = model.get("encoder", "none")  # of an earlier version
    with contextlib.suppress(Problem):
        if start and encoder != "none" and same_bands(settings, read_facts(Path(start).parent)):
            return encoder, "none"
    return encoder, model.get("weights", "none")


def encoder_digest(settings):
    """`weights_digest` of the first weights that an encoder wants."""
    return weights_digest(*wanted_weights(settings))


def weights_at_hand(settings):
    """The path of the file that an encoder's first weights come from, as of weights_file; None where none
    do. Problem where the model train.start_from is not there (exit 3), or has another encoder (exit 2)."""
    own, start = settings["model"]["encoder"], settings["train"]["start_from"]
    if start:
        encoder = read_facts(Path(start).parent).get("encoder", "none")
        if encoder != own:
            raise Problem(f"settings, key train.start_from: {start}, of model.encoder {encoder}, expected a "
                          f"model of {own}; set model as in {Path(start).with_name('params.yaml')}", code=2)
    return weights_file(*wanted_weights(settings))


def about_encoder(settings, folder):
    """What model.json says of a network's encoder: which, where its first weights came from (with their
    SHA-256; None: drawn at random), which of the bands it sees as red, green, blue."""
    model, start = settings["model"], settings["train"]["start_from"]
    if model["encoder"] == "none":
        return {"encoder": "none", "weights": None, "rgb": None}
    weights = read_record(folder / "run.json", "train.py")["weights"]
    if start and not weights:
        weights = read_facts(Path(start).parent)["weights"]
    return {"encoder": model["encoder"], "weights": weights, "rgb": model["rgb"]}
