"""Whole files, folders with one writer, digests of bytes."""
import contextlib
import errno
import fcntl
import hashlib
import os
import re
import sys
import zipfile
import zlib
from pathlib import Path

from base.problem import Problem
from base.zips import open_zip, split_zip

# as `replacing`, GDAL and SQLite name them
TEMPORARY = re.compile(r"^\..+\.tmp[0-9]+(\.\w+)?(\.aux\.xml|-journal)?$", re.DOTALL)
PARTS = "", ".make", "checkpoints", "engine", "next", "next/checkpoints"  # of a run
OF_TILES = "figures", "predictions"  # of a run, with the folders of tiles' names
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EOPNOTSUPP)  # of file systems without flock


@contextlib.contextmanager
def replacing(path):
    """Yields a temporary path in the same folder; on leaving, flushes it and renames it to `path`.

    A reader sees the old file or the whole new one. After an exception the old file stands and nothing else
    is left. The temporary name keeps the suffix, since some libraries choose the format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp{os.getpid()}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def only_one(folder, of_tiles=OF_TILES):
    """Holds `folder` for this process; a second process gets exit code 75 at once. A crash releases it, and
    the next holder clears away the temporary files that it left, as `clear_temporaries`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Problem(f"busy folder {folder}: another process is writing there; wait for it or stop it",
                          code=75) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            print(f"warning: {folder}: its file system has no flock ({error.strerror}), so nothing keeps a "
                  "second process out of it; start one at a time", file=sys.stderr, flush=True)
        clear_temporaries(folder, of_tiles)
        yield


def clear_temporaries(folder, of_tiles=OF_TILES):
    """Removes the temporary files that killed processes left in a folder that this one holds, and in all
    folders below those of its parts that hold tiles."""
    parts = [*((folder / part).glob(".*.tmp*") for part in PARTS),
             *((folder / part).rglob(".*.tmp*") for part in of_tiles)]
    for part in parts:
        for left in part:
            if TEMPORARY.match(left.name) and left.is_file():
                left.unlink(missing_ok=True)


def sha256(path):
    """SHA-256 of the bytes of a file, or of a zip's member, as 64 hexadecimal digits."""
    archive, member = split_zip(path)
    if archive is None:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    try:
        with open_zip(archive).open(member) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (KeyError, ValueError, OSError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise Problem(f"zip member {path}: {' '.join(str(error).split())}, expected a whole file without a "
                      "password; fetch the archive again", code=3) from None
