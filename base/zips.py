"""Files inside zip archives, read in place: a path may lead through a .zip file as if it were a folder."""
import errno
import functools
import os
import zipfile
from pathlib import Path

from base.problem import Problem


def split_zip(path):
    """(archive, member) of a path through a .zip file, such as a.zip/folder/b.tif; else (None, None)."""
    if ".zip" not in os.fspath(path).lower():  # as most
        return None, None
    path = Path(path)
    for parent in path.parents:
        if parent.suffix.lower() == ".zip" and parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    return None, None


def gdal_name(path):
    """A path as GDAL opens it, as text."""
    archive, member = split_zip(path)
    return f"/vsizip/{{{archive}}}/{member}" if archive else os.fspath(path)


def written(path):
    """When a file, or the archive around it, was last written, in nanoseconds, and its size in bytes: where
    both are the same, so is its content."""
    about = os.stat(split_zip(path)[0] or path)
    return about.st_mtime_ns, about.st_size


def members(archive):
    """{name: its entry} of an archive's files; Problem (exit 3) where it is no zip."""
    return _members(os.path.abspath(archive), written(archive))


@functools.lru_cache(maxsize=1024)
def _members(archive, *_):
    try:
        with zipfile.ZipFile(archive) as whole:
            return {entry.filename: entry for entry in whole.infolist() if not entry.is_dir()}
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        # zipfile raises NotImplementedError where an archive is of a newer version than it reads
        raise Problem(f"zip archive {archive}: {' '.join(str(error).split())}, expected a whole zip file; "
                      "fetch it again", code=3) from None


def open_zip(archive):
    """An archive, open for reading and left open for its next member: to open it takes as long as it has
    members. OSError or BadZipFile where it is no zip."""
    about = os.stat(archive)
    return _open_zip(os.path.abspath(archive), about.st_mtime_ns, about.st_size)


@functools.lru_cache(maxsize=4)
def _open_zip(archive, *_):
    return zipfile.ZipFile(archive)


def check_member(path):
    """Problem (exit 3) where a path leads into a zip and its member has a password or a rare compression."""
    archive, member = split_zip(path)
    entry = members(archive).get(member) if archive else None
    if entry and entry.flag_bits & 1:
        raise Problem(f"zip member {path}: has a password, expected none; unzip the archive", code=3)
    if entry and entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Problem(f"zip member {path}: compression {entry.compress_type}, expected DEFLATE or none; "
                      "unzip the archive", code=3)


def is_file(path):
    """True where a file, or the member of a zip, is there."""
    try:
        archive, member = split_zip(path)
        return member in members(archive) if archive else Path(path).is_file()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False  # no file has such a name
