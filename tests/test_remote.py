# ruff: noqa: F811  a test takes the fixture that it imports
"""Rasters on a server of this machine; no other network is asked."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from untrained import ortho, read_map, run  # noqa: F401  a fixture among them

import predict
from base.command import visible
from base.problem import Problem
from base.tables import read_table
from imagery.rasters import open_raster
from imagery.remote import address_of, source_of

SERVER = """
import http.server, os, re, sys
class Ranges(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        print(self.path, self.headers.get("Range"), flush=True)
        path = self.translate_path(self.path)
        if not os.path.isfile(path):
            return self.send_error(404)
        content = open(path, "rb").read()
        first, last = re.match(r"bytes=(\\d+)-(\\d*)", self.headers.get("Range", "bytes=0-")).groups()
        part = content[int(first): int(last or len(content)) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ranges)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def server(tmp_path):
    """(address, the requests so far as a function) of a server of the folder served."""
    folder = tmp_path / "served"
    folder.mkdir()
    log = open(tmp_path / "log", "w+")
    with subprocess.Popen([sys.executable, "-c", SERVER], cwd=folder, stdout=log) as process, log:
        while not (text := Path(log.name).read_text()).endswith("\n"):
            time.sleep(0.02)
        yield f"http://127.0.0.1:{text.split()[0]}", lambda: Path(log.name).read_text().splitlines()[1:]
        process.kill()


def test_a_raster_on_a_server_is_predicted_as_one_of_this_machine(run, settings, server, tmp_path, capsys):
    address, requests = server
    ortho(tmp_path / "here.tif", crs="EPSG:32633")
    (tmp_path / "served/far.tif").write_bytes((tmp_path / "here.tif").read_bytes())
    predict.main(settings, run, "here.tif")
    with pytest.raises(Problem, match="a raster on a server, .* data.remote is true") as caught:
        predict.main(settings, run, f"{address}/far.tif?sig=secret")
    assert caught.value.code == 3 and "secret" not in str(caught.value) and not requests()
    settings["data"]["remote"] = True
    predict.main(settings, run, f"{address}/far.tif?sig=secret")
    np.testing.assert_array_equal(read_map(run, "far"), read_map(run, "here"))
    with rasterio.open(run / "predictions/far.tif") as far, rasterio.open("here.tif") as here:
        assert (far.crs, far.transform) == (here.crs, here.transform)
        assert "secret" not in str(far.tags())
    assert {line.split("?")[0].split()[0] for line in requests()} == {"/far.tif"}  # nothing beside it
    assert [row["raster"] for row in read_table(run / "predict.csv")] == ["here.tif", f"{address}/far.tif"]
    capsys.readouterr()
    predict.main(settings, run, f"{address}/far.tif?sig=other")
    assert "stands already" in capsys.readouterr().out
    with rasterio.open(tmp_path / "served/far.tif", "r+") as raster:
        raster.write(255 - raster.read())
    predict.main(settings, run, f"{address}/far.tif?sig=third")
    assert (read_map(run, "far") != read_map(run, "here")).any()


def test_what_is_not_there_is_one_line_and_soon(server):
    started = time.monotonic()
    for path in (f"{server[0]}/none.tif?sig=secret", "http://127.0.0.1:9/a.tif", "http://none.invalid/a.tif"):
        with pytest.raises(Problem) as caught, open_raster(path):
            pass
        assert caught.value.code == 3 and len(caught.value.lines) == 1
        assert "secret" not in visible(caught.value.lines[0])
    assert time.monotonic() - started < 25


def test_an_address_is_known_in_a_path_and_told_without_its_signature():
    for path in (
        "https://h/a b.tif?x=1",
        Path("https://h/a b.tif?x=1"),
        Path("https://h/a b.tif?x=1").absolute(),
    ):
        assert address_of(path) == "https://h/a b.tif?x=1"
    assert address_of("s3://bucket/a.tif") == "s3://bucket/a.tif"
    assert source_of("s3://bucket/a.tif") == "/vsis3/bucket/a.tif"
    assert source_of("https://h/a.tif") == "/vsicurl/https://h/a.tif"
    assert not any(
        map(
            address_of,
            (
                "a.tif",
                "/https/a.tif",
                "/vsicurl/https://h/a.tif",
                "raw/https:/h/a.tif",
                "C:/a.tif",
                "ftp://h/a.tif",
                "https:///",
                "x/s3.tif",
            ),
        )
    )
    assert visible("error: raster https:/h/a.tif?sig=x y") == "error: raster https:/h/a.tif y"
    assert visible("raster s3:/h/a.tif?s=x: a.tif?s=x, band 1") == "raster s3:/h/a.tif: a.tif, band 1"
