"""Whole files, folders with one writer, digests of bytes and of code, and files inside zip archives.
"""
import ast
import contextlib
import errno
import fcntl
import functools
import hashlib
import io
import os
import re
import tokenize
import zipfile
import zlib
from pathlib import Path

from base.problem import Problem

TEMPORARY = re.compile(r"^\..+\.tmp[0-9]+(\.\w+)?$", re.DOTALL)  # the names that `replacing` gives


@contextlib.contextmanager
def replacing(path):
    """Yields a temporary path in the same folder; on leaving, flushes it and renames it to `path`.

    A reader sees the old file or the whole new one. After an exception the old file stands and nothing else is left.
    The temporary name keeps the suffix, since some libraries choose the format by it.
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
def only_one(folder):
    """Holds `folder` for this process; a second process gets exit code 75 at once. A crash releases it, and the next
    holder clears away the temporary files that it left."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Problem(f"busy folder {folder}: another process is writing there; wait for it or stop it",
                          code=75) from None
        clear_temporaries(folder)
        yield


def clear_temporaries(folder):
    """Removes the temporary files that killed processes left in a folder that this one holds."""
    names = (".make", "checkpoints", "next", "next/checkpoints", "engine", "predictions", "figures")
    for place in (folder, *(folder / name for name in names)):
        for left in place.glob(".*.tmp*"):
            if TEMPORARY.match(left.name) and left.is_file():
                left.unlink(missing_ok=True)


def sha256(path):
    """SHA-256 of a file's bytes, as 64 hexadecimal digits; of a zip's member where the path leads through a zip."""
    archive, member = split_zip(path)
    if archive is None:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    try:
        with zipfile.ZipFile(archive) as whole, whole.open(member) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (KeyError, ValueError, OSError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise Problem(f"zip member {path}: {' '.join(str(error).split())}, expected a whole file without a password; "
                      "fetch the archive again", code=3) from None


def code_sha256(path):
    """SHA-256 of a file's text, of a script's without comments and blank lines, so that editing these changes
    nothing."""
    text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    lines = text.splitlines()
    if str(path).endswith(".py"):
        with contextlib.suppress(tokenize.TokenError, SyntaxError):  # which Python tells who runs it
            for token in tokenize.generate_tokens(io.StringIO(text).readline):
                row, col = token.start
                if token.type == tokenize.COMMENT:
                    lines[row - 1] = lines[row - 1][:col].rstrip() or None
                elif token.type == tokenize.NL and not (lines[row - 1] or "").strip():  # blank, in no string
                    lines[row - 1] = None
    kept = "\n".join(line for line in lines if line is not None)
    return hashlib.sha256(kept.encode(errors="surrogateescape")).hexdigest()


ROOT = Path(__file__).parents[1]


@functools.cache
def imported(path):
    """The project's files that a script imports at its top, not counting base, which makes nothing itself. What is
    imported inside a function does not count either: pictures, say, which change no number."""
    found = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = [node.module] if isinstance(node, ast.ImportFrom) else (
            [name.name for name in node.names] if isinstance(node, ast.Import) else [])
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{name.name}" for name in node.names]
        found += [ROOT / f"{name.replace('.', '/')}.py" for name in names if not name.startswith("base.")]
    return [path for path in found if path.is_file()]


def code_of(*scripts):
    """Digest of scripts (paths from the project's folder) and of all that they import, comments and blanks apart."""
    found, new = set(), {ROOT / script for script in scripts}
    while new:
        found |= new
        new = {path for script in new for path in imported(script)} - found
    text = "".join(f"{path.relative_to(ROOT)} {code_sha256(path)}\n" for path in sorted(found))
    return hashlib.sha256(text.encode()).hexdigest()


# -- files inside zip archives, which are read in place: a path may lead through a .zip file as if it were a folder ----

def split_zip(path):
    """(archive, member) of a path that leads through a .zip file, such as a.zip/folder/b.tif; else (None, None)."""
    path = Path(path)
    for parent in path.parents:
        if parent.suffix.lower() == ".zip" and parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    return None, None


def members(archive):
    """{name: its entry} of an archive's files; Problem (exit 3) where it is no zip."""
    about = os.stat(archive)
    return _members(os.path.abspath(archive), about.st_mtime_ns, about.st_size)


@functools.lru_cache(maxsize=64)
def _members(archive, *_):
    try:
        with zipfile.ZipFile(archive) as whole:
            return {entry.filename: entry for entry in whole.infolist() if not entry.is_dir()}
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        # NotImplementedError is what zipfile says of a format that it does not know
        raise Problem(f"zip archive {archive}: {' '.join(str(error).split())}, expected a whole zip file; fetch it "
                      "again", code=3) from None


def check_member(path):
    """Problem (exit 3) where a path leads into a zip and its member has a password or a rare compression."""
    archive, member = split_zip(path)
    entry = members(archive).get(member) if archive else None
    if entry and entry.flag_bits & 1:
        raise Problem(f"zip member {path}: has a password, expected none; unzip the archive", code=3)
    if entry and entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Problem(f"zip member {path}: compression {entry.compress_type}, expected DEFLATE or none; unzip the "
                      "archive", code=3)


def is_file(path):
    """True where a file, or the member of a zip, is there."""
    try:
        archive, member = split_zip(path)
        return member in members(archive) if archive else Path(path).is_file()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False  # no file has such a name
