"""How every script runs: its options, its signals, its exit codes, and what it shows on the terminal.
"""
import argparse
import contextlib
import errno
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

from base.files import replacing
from base.problem import OUT_OF_MEMORY, Problem
from base.settings import read_settings, run_folder

_shown_at = 0.0
_asked_to_stop = None  # the name of the signal that did


def progress(line, last=False):
    """Shows how far a long step has come: rewrites one line on a terminal, else prints a line every 20 s;
    `last` always stays. Ends the step where a signal asked for that and Python dropped its exception, as it
    does within a destructor."""
    global _shown_at
    if _asked_to_stop:
        raise KeyboardInterrupt(_asked_to_stop)
    now, live = time.monotonic(), sys.stdout.isatty()
    if last or now - _shown_at > (0.1 if live else 20):
        _shown_at = now
        print(("\r\x1b[K" if live else "") + visible(line), end="\n" if last or not live else "", flush=True)


def visible(line):
    """A line whose control characters, as names of files may have, are written as escapes; of an address
    what follows its question mark, as a signature may, is left out."""
    if re.search("(https?|s3):/", line):  # and GDAL tells the end of an address alone, too
        line = re.sub(r"\?\S+?(?=[,:;'\"]*(\s|$))", "", line)
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda sign: repr(sign[0])[1:-1], line)


def stop(number, _):
    """The handler of SIGINT and SIGTERM."""
    global _asked_to_stop
    _asked_to_stop = signal.Signals(number).name
    raise KeyboardInterrupt(_asked_to_stop)


def command(main, doc, texts=None, switches=None):
    """Runs a script, `cleanly`: reads --params and calls main(settings, run folder, **options). `texts` and
    `switches` are further options, {name: help}: a text or None, and True or False."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", default="params.yaml", metavar="FILE", help="settings file (params.yaml)")
    for name, text in (texts or {}).items():
        parser.add_argument(f"--{name}", help=text)
    for name, text in (switches or {}).items():
        parser.add_argument(f"--{name}", help=text, action="store_true")
    options = vars(parser.parse_args())
    path = Path(options.pop("params"))

    def work():
        settings, run = read_settings(path), run_folder(path)
        claim(run, path)
        try:
            main(settings, run, **options)
        finally:
            claim(run, path)  # of a run whose folder was made just now

    cleanly(work)


def claim(run, path):
    """Notes in the folder of a run, where it is there, to which settings file it belongs. Problem (exit 2)
    where it belongs to another file of the same name that still exists."""
    if not run.is_dir() or path.parent in (run, run / ".make"):  # its own record or make's copy of them
        return
    note, own = run / ".settings_file", os.path.relpath(os.path.realpath(path))
    owner = os.fsdecode(note.read_bytes()) if note.exists() else None
    if owner != own and owner and os.path.isfile(owner):
        raise Problem(f"settings file {path}: its run, {run}, is that of {owner}, expected a name of its "
                      "own; rename one of the two files", code=2)
    if owner != own:
        with replacing(note) as temporary:
            temporary.write_bytes(os.fsencode(own))


def cleanly(work):
    """Calls `work`, and turns every expected failure into `error:` lines on stderr and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as in the background of a shell
        signal.signal(signal.SIGINT, stop)
    try:
        work()
    except Problem as problem:
        code, lines = problem.code, problem.lines
    except KeyboardInterrupt as interrupt:
        code = 143 if interrupt.args == ("SIGTERM",) else 130
        lines = ["interrupted; the same command goes on from what is finished"]
    except BrokenPipeError:  # whoever read the output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno is None:
            raise
        hint = "; free some space and run the same command again" if error.errno == errno.ENOSPC else ""
        where = error.filename or "the file being written"
        code, lines = 4, [f"disk at {where}: {error.strerror}, expected to read and write{hint}"]
    except Exception as error:
        if type(error).__name__ not in OUT_OF_MEMORY:
            raise
        code, lines = 4, ["memory: used up, expected enough for a batch of input or predict; lower "
                          "input.batch_size, input.patch_size, predict.window or predict.batch_size"]
    else:
        return
    for line in lines:
        print("error: " + visible(line).encode("ascii", "backslashreplace").decode(), file=sys.stderr)
    sys.exit(code)


@contextlib.contextmanager
def quiet_stderr():
    """Holds back what C++ code writes to standard error while TensorFlow is imported, and shows it if that
    fails.

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
