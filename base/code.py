"""Which code makes a result: a script and all that it imports, as one digest."""
import ast
import contextlib
import functools
import hashlib
import io
import tokenize
from pathlib import Path

ROOT = Path(__file__).parents[1]  # of the project


def code_sha256(path):
    """SHA-256 of a file's text, of a script's without comments and blank lines."""
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


@functools.cache
def imported(path):
    """The project's files that a script imports at its top, not counting base, which makes nothing itself.
    What is imported inside a function does not count either: pictures, say, which change no number."""
    names = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names += [name.name for name in node.names]
        if isinstance(node, ast.ImportFrom):
            names += [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
    paths = [ROOT / f"{name.replace('.', '/')}.py" for name in names if not name.startswith("base.")]
    return [path for path in paths if path.is_file()]


def code_of(script):
    """Digest of a script (a path from the project's folder) and of all that it imports, without comments."""
    found, new = set(), {ROOT / script}
    while new:
        found |= new
        new = {path for script in new for path in imported(script)} - found
    about = [(path, path.stat()) for path in sorted(found)]
    digests = [(path, _digest(path, stat.st_size, stat.st_mtime_ns)) for path, stat in about]
    text = "".join(f"{path.relative_to(ROOT)} {digest}\n" for path, digest in digests)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _digest(path, *_):
    """`code_sha256` of a file that several scripts import, taken once for its size and time: its tokens cost
    milliseconds."""
    return code_sha256(path)
