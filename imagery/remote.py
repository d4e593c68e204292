"""Rasters on a server, https or s3, read window by window by GDAL; only where data.remote allows them.

A path keeps the address of one, though it makes two slashes one: https:/host/a.tif.
"""
import hashlib
import json
import os
import re

import numpy as np

from base.problem import Problem, shown

ADDRESS = re.compile(r"(https?|s3):/+([^/?].*)$", re.DOTALL)
OPTIONS = {  # of GDAL ("Virtual file systems"): nothing but the file itself is asked for, nobody waits long
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_HTTP_CONNECTTIMEOUT": 5, "GDAL_HTTP_TIMEOUT": 60,
    "GDAL_HTTP_LOW_SPEED_TIME": 8, "GDAL_HTTP_LOW_SPEED_LIMIT": 1, "GDAL_HTTP_MAX_RETRY": 1}
ASK = "look at the address, the network and the sign-in (of s3 AWS_ACCESS_KEY_ID or AWS_NO_SIGN_REQUEST=YES)"
FEW = 512  # pixels: side of the picture by which a remote raster is known


def address_of(path):
    """The address of a remote raster, as text; None of a path of this machine."""
    found = ADDRESS.match(str(path).removeprefix(f"{os.getcwd()}/"))
    return f"{found[1]}://{found[2]}" if found else None


def plain(address):
    """An address without what follows its question mark, as a signature may: what is told of it."""
    return address.partition("?")[0]


def source_of(address):
    """What GDAL opens for an address."""
    scheme, _, rest = address.partition("://")
    return f"/vsis3/{rest}" if scheme == "s3" else f"/vsicurl/{address}"


def check_address(address, allowed):
    """Problem (exit 3) where remote rasters are not `allowed` (data.remote), or an address has a password."""
    if not allowed:
        raise Problem(f"TILE {shown(plain(address))}: a raster on a server, expected a file of this machine "
                      "unless data.remote is true; set it so, or fetch the raster", code=3)
    if "@" in address.partition("://")[2].partition("/")[0]:
        raise Problem("TILE: an address with a password in it, expected one without, as it would be written "
                      "into tables and tags; put it into ~/.netrc (GDAL_HTTP_NETRC)", code=3)


def fingerprint(raster):
    """SHA-256 by which an open remote raster is known again without reading all of it: its header and its
    pixels at the coarsest of its overviews or, without one, in nine windows."""
    about = [raster.shape, raster.dtypes, list(raster.transform), raster.nodatavals, raster.tags(),
             raster.block_shapes, raster.overviews(1)]
    digest = hashlib.sha256(json.dumps(about, default=str).encode())
    if levels := raster.overviews(1):
        size = tuple(max(1, -(-side // levels[-1])) for side in raster.shape)
        digest.update(raster.read(out_shape=(raster.count, *size)))
    else:
        side = min(FEW // 8, *raster.shape)
        for row in np.linspace(0, raster.height - side, 3, dtype=int).tolist():
            for col in np.linspace(0, raster.width - side, 3, dtype=int).tolist():
                digest.update(raster.read(window=((row, row + side), (col, col + side))))
    return digest.hexdigest()
