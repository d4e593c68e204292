"""Whole files, folders with one writer, and the one kind of expected failure: what every step relies on."""
import contextlib
import errno
import fcntl
import functools
import hashlib
import io
import os
import re
import sys
import tempfile
import tokenize
import zipfile
import zlib
from pathlib import Path

TEMPORARY = re.compile(r"^\..+\.tmp[0-9]+(\.\w+)?$", re.DOTALL)  # the names that `replacing` gives


class Problem(Exception):
    """What a person has to mend: one or more lines, and the exit code (2 settings, 3 data, 4 disk or environment,
    5 training diverged, 75 busy)."""

    def __init__(self, *lines, code):
        super().__init__("\n".join(lines))
        self.lines, self.code = lines, code

    def __reduce__(self):  # so that another process can hand it over
        return functools.partial(Problem, code=self.code), self.lines


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
    for place in (folder, *(folder / name for name in (".make", "checkpoints", "engine", "predictions", "figures"))):
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


@contextlib.contextmanager
def quiet_stderr():
    """Holds back what C++ code writes to standard error while TensorFlow is imported, and shows it if that fails.

    TF_CPP_MIN_LOG_LEVEL alone does not silence the first lines, which come before the level is read.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
            tensorflow = sys.modules.get("tensorflow")
            if tensorflow is not None:
                tensorflow.config.list_physical_devices()  # the drivers' messages come with the first look
        except KeyboardInterrupt:
            os.write(kept, b"error: interrupted while starting; the same command starts again\n")
            sys.exit(130)
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
