import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import (
    COLOURS,
    ROOT,
    SIZES,
    run_script,
    save_settings,
    write_raster,
    write_tile,
)
from rasterio.transform import from_origin

import prepare_data
from base.files import only_one
from base.problem import Problem
from base.settings import read_settings
from imagery.arrays import IGNORE
from imagery.tiles import open_prepared, read_manifest


def raster_of(project, kind, tile):
    folder, name = {"image": ("2_Ortho_RGB", "RGB"), "label": ("5_Labels_all", "label")}[kind]
    return project / f"raw/{folder}/top_potsdam_{tile}_{name}.tif"


def place_of(tile):
    row, col = map(int, tile.split("_"))
    return {
        "crs": "EPSG:32633",
        "transform": from_origin(365700 + 300 * col, 5810000 - 300 * row, 0.05, 0.05),
    }


def pixels_of(path):
    with rasterio.open(path) as source:
        return np.moveaxis(source.read(), 0, -1)


def refused(settings, project):
    with pytest.raises(Problem) as caught:
        prepare_data.main(settings, project / "runs/tiny")
    assert (
        caught.value.code == 3
        and not list(project.glob("prepared/*.npy"))
        and not list(project.glob("prepared/*.json"))
    )
    return list(caught.value.lines)


def test_labels_and_images_arrive_as_they_were_painted(project, settings):
    expected = {tile: write_tile(project / "raw", tile, shape) for tile, shape in SIZES.items()}
    prepare_data.main(settings, project / "runs/tiny")
    manifest = json.loads((project / "prepared/manifest.json").read_text())["tiles"]
    assert set(manifest) == set(SIZES)
    for tile, labels in expected.items():
        prepared = open_prepared(settings["data"], tile)
        np.testing.assert_array_equal(prepared.labels, labels)
        with rasterio.open(project / f"raw/2_Ortho_RGB/top_potsdam_{tile}_RGB.tif") as source:
            np.testing.assert_array_equal(prepared.image, np.moveaxis(source.read(), 0, -1))
        assert prepared.eroded is None and (prepared.pixels.shape[2], prepared.bands) == (4, 3)
        row = manifest[tile]
        assert list(row["classes"].values()) == np.bincount(labels.ravel(), minlength=6).tolist()
        assert row["pixels"]["labels"]["exact"] == labels.size
        assert row["georeference"]["crs"] == "EPSG:32633" and row["georeference"]["transform"][0] == 0.05
        assert row["shape"] == [*SIZES[tile], 3] and row["dtype"] == "uint8" and row["nodata"] == 0
        assert (
            row["raw"]["image"]["sha256"]
            == hashlib.sha256(
                (project / f"raw/2_Ortho_RGB/top_potsdam_{tile}_RGB.tif").read_bytes()
            ).hexdigest()
        )
        np.testing.assert_array_equal(prepared.cells.sum((0, 1)), list(row["classes"].values()))


def test_faulty_colours_are_repaired_and_counted(project, settings):
    labels = write_tile(project / "raw", "2_11", SIZES["2_11"])
    colours = COLOURS.copy()
    colours[4] = (252, 255, 0)
    painted = colours[labels]
    painted[:2, :10] = (128, 128, 128)  # 20 of 6510 pixels unknown: under the limit of 0.5 %
    painted[3, :5] = 0
    write_raster(project / "raw/5_Labels_all/top_potsdam_2_11_label.tif", painted)
    prepare_data.main(settings, project / "runs/tiny")
    row = json.loads((project / "prepared/manifest.json").read_text())["tiles"]["2_11"]
    labels[:2, :10] = labels[3, :5] = IGNORE
    np.testing.assert_array_equal(open_prepared(settings["data"], "2_11").labels, labels)
    assert row["pixels"]["labels"] == {
        "exact": labels.size - 25 - int((labels == 4).sum()),
        "repaired": int((labels == 4).sum()),
        "ignored": 5,
        "unknown": 20,
        "unknown_colours": {"#808080": 20},
        "layout": "painted",
        "hidden": {},
    }


def test_official_eroded_labels_are_kept_where_they_exist(project, settings):
    labels = write_tile(project / "raw", "2_13", SIZES["2_13"])
    painted = COLOURS[labels]
    painted[::3] = 0
    write_raster(project / "raw/5_Labels_all_noBoundary/top_potsdam_2_13_label_noBoundary.tif", painted)
    prepare_data.main(settings, project / "runs/tiny")
    labels[::3] = IGNORE
    np.testing.assert_array_equal(open_prepared(settings["data"], "2_13").eroded, labels)


def test_a_second_run_writes_nothing_and_a_changed_tile_is_prepared_again(project, settings, capsys):
    prepare_data.main(settings, project / "runs/tiny")
    before = {path: path.stat().st_mtime_ns for path in (project / "prepared").iterdir()}
    capsys.readouterr()
    prepare_data.main(settings, project / "runs/tiny")
    assert "4 tiles were prepared already, 0 are new" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in before if p.name != ".lock"} == {
        p: t for p, t in before.items() if p.name != ".lock"
    }
    labels = write_tile(project / "raw", "2_10", SIZES["2_10"], seed=9)
    prepare_data.main(settings, project / "runs/tiny")
    assert "1 are new" in capsys.readouterr().out
    np.testing.assert_array_equal(open_prepared(settings["data"], "2_10").labels, labels)


def test_a_damaged_prepared_file_is_made_again(project, settings):
    prepare_data.main(settings, project / "runs/tiny")
    path = project / "prepared/2_10.pixels.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5] + b"abcde")
    prepare_data.main(settings, project / "runs/tiny")
    assert path.read_bytes() == whole


def test_all_problems_are_listed_before_anything_is_written(project, settings):
    (project / "raw/2_Ortho_RGB/top_potsdam_2_11_RGB.tif").unlink()
    write_raster(project / "raw/5_Labels_all/top_potsdam_3_10_label.tif", np.zeros((64, 100, 3), np.uint8))
    (project / "raw/5_Labels_all/top_potsdam_2_13_label.tif").write_bytes(b"<html>")
    told = refused(settings, project)
    assert len(told) == 3
    assert "tile 2_11, image: no file" in told[0]
    assert "64 x 100 pixels, expected 64 x 101 as its image" in told[1]
    assert "top_potsdam_2_13_label.tif" in told[2]


def test_too_many_unknown_colours_are_refused_with_the_most_frequent(project, settings):
    labels = write_tile(project / "raw", "2_13", SIZES["2_13"])
    painted = COLOURS[labels]
    painted[:10] = (128, 100, 128)
    write_raster(project / "raw/5_Labels_all/top_potsdam_2_13_label.tif", painted)
    (told,) = refused(settings, project)
    assert (
        "tile 2_13, labels" in told
        and "12.05 % of pixels have no known colour or value" in told
        and "#806480 (660)" in told
    )


def test_a_missing_data_folder_is_one_line_and_exit_code_3(tmp_path, settings):
    save_settings(tmp_path, settings)
    done = run_script("prepare_data.py", "--params", "tiny.yaml", cwd=tmp_path)
    assert done.returncode == 3 and done.stderr.startswith("error: data folder raw (data.raw): not found")
    assert done.stderr.count("\n") == 1 and [p.name for p in tmp_path.iterdir()] == ["tiny.yaml"]


def test_a_second_process_is_refused(project):
    with only_one(project / "prepared"):
        done = run_script("prepare_data.py", "--params", "tiny.yaml", cwd=project)
    assert done.returncode == 75 and "busy" in done.stderr


def test_a_disk_that_cannot_be_written_is_exit_code_4(project, settings):
    (project / "prepared").write_text("a file where a folder belongs")
    done = run_script("prepare_data.py", "--params", "tiny.yaml", cwd=project)
    assert (
        done.returncode == 4 and done.stderr.startswith("error: disk at ") and "Traceback" not in done.stderr
    )


@pytest.mark.parametrize("crs", ["UTM33", "EPSG:abc"])
def test_a_coordinate_system_that_is_none_is_refused_before_anything_runs(project, settings, crs):
    settings["data"]["assume_crs"] = crs
    with pytest.raises(Problem, match="data.assume_crs") as caught:
        prepare_data.main(settings, project / "runs/tiny")
    assert caught.value.code == 2 and not (project / "prepared").exists()


def test_a_role_without_a_labelled_pixel_is_refused(project, settings):
    write_raster(
        project / "raw/5_Labels_all/top_potsdam_2_10_label.tif", np.zeros((*SIZES["2_10"], 3), np.uint8)
    )
    with pytest.raises(Problem, match="split.val .2_10.: no pixel of any class"):
        prepare_data.main(settings, project / "runs/tiny")


def test_doubts_about_the_split_are_said_also_when_all_is_prepared_already(project, settings, capsys):
    prepare_data.main(settings, project / "runs/tiny")
    assert "warning" not in capsys.readouterr().out
    building = np.full((*SIZES["2_10"], 3), COLOURS[1])
    write_raster(raster_of(project, "label", "2_10"), building)
    image = pixels_of(raster_of(project, "image", "2_13"))
    place = place_of("2_13") | {"transform": from_origin(366800, 5809400, 0.07, 0.07)}
    write_raster(raster_of(project, "image", "2_13"), image, **place)
    for new in (2, 0):
        prepare_data.main(settings, project / "runs/tiny")
        lines = capsys.readouterr().out.splitlines()
        alone, sizes = [line for line in lines if line.startswith("warning: ")]
        assert alone.startswith("warning: labels of one class alone: split.val (building), expected two")
        assert sizes.startswith("warning: pixel sizes: 0.05 m (2_10) and 0.07 m (2_13), expected")
        assert lines[-1].startswith(f"{4 - new} tiles were prepared already, {new} are new")


def test_a_file_that_declares_more_than_it_holds_is_refused_at_once(project, settings):
    for kind in ("image", "label"):
        with rasterio.open(
            raster_of(project, kind, "2_13"),
            "w",
            driver="GTiff",
            height=300_000,
            width=300_000,
            count=3,
            dtype="uint8",
            sparse_ok=True,
            tiled=True,
            blockxsize=8192,
            blockysize=8192,
            bigtiff="yes",
        ):
            pass  # 270 GB declared in some kB
    assert raster_of(project, "image", "2_13").stat().st_size < 2**20
    done = run_script("prepare_data.py", "--params", "tiny.yaml", cwd=project)
    assert done.returncode == 4 and "450.0 GB" in done.stderr and "as large as they say" in done.stderr
    assert not list(project.glob("prepared/*.npy")) and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["a tile", 'it\'s "one"', "K\u00f6ln;$(touch canary)`x`", "x" * 200])
def test_tiles_may_have_any_name_that_is_a_file_name(project, settings, name):
    for kind in ("image", "label"):
        path = raster_of(project, kind, "2_13")
        path.rename(path.with_name(path.name.replace("2_13", name)))
    settings["split"]["test"] = [name]
    prepare_data.main(settings, project / "runs/tiny")
    assert open_prepared(settings["data"], name).shape == SIZES["2_13"] and not list(project.rglob("canary*"))
    save_settings(project, settings)
    done = run_script(
        "prepare_data.py", "--params", "tiny.yaml", cwd=project, PYTHONIOENCODING="ascii", LC_ALL="C"
    )
    assert done.returncode == 0 and "4 tiles were prepared already" in done.stdout and done.stderr == ""


@pytest.mark.parametrize("blocks", [1, 8, 16, 24])
def test_a_full_disk_is_exit_code_4_and_the_next_run_finishes(project, settings, blocks):
    """Files of more than so many kB cannot be written; whatever stands then is whole."""
    script = f"ulimit -f {blocks}; exec {sys.executable} {ROOT / 'prepare_data.py'} --params tiny.yaml"
    done = subprocess.run(["bash", "-c", script], cwd=project, capture_output=True, text=True)
    assert done.returncode == 4 and done.stderr.startswith("error: disk at ") and done.stderr.count("\n") == 1
    assert not list((project / "prepared").glob(".*tmp*"))
    prepare_data.main(settings, project / "runs/tiny")
    shutil.copytree(project / "prepared", project / "kept")
    shutil.rmtree(project / "prepared")
    prepare_data.main(settings, project / "runs/tiny")
    for path in (project / "kept").iterdir():
        assert path.read_bytes() == (project / "prepared" / path.name).read_bytes()


def die_after(steps, original, left):
    """`original`, but the process dies instead of the step that follows `left` more of them."""

    def step(*arguments, **named):
        if left[0] == steps:
            os._exit(9)
        left[0] += 1
        return original(*arguments, **named)

    return step


def kill_everywhere(settings, expected):
    """Prepares the current folder's tiles again and again in a process that dies at its n-th step of writing,
    n = 0, 1, ... until it ends unharmed; returns how often it died. After each death it is started again."""
    from base import files
    from imagery import audits

    points, code = 0, 9
    while code == 9:
        child = os.fork()
        if child == 0:
            try:
                done = [0]
                files.os.replace, files.os.fsync = (
                    die_after(points, f, done) for f in (os.replace, os.fsync)
                )
                audits.pack = die_after(points, audits.pack, done)
                prepare_data.main(settings, None)
                os._exit(0)
            finally:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9)
        for path in Path("prepared").iterdir():  # whatever has a final name is whole
            assert (
                path.name.startswith(".")
                or path.name == "manifest.json"
                or path.read_bytes() == expected[path.name]
            )
        read_manifest("prepared")
        prepare_data.main(settings, None)
        assert {p.name: p.read_bytes() for p in Path("prepared").iterdir()} == expected
        shutil.rmtree("prepared")
        points += 1
    return points - 1


def test_killed_at_any_write_and_started_again_it_leaves_the_same_bytes(project, settings):
    write_raster(
        project / "raw/5_Labels_all_noBoundary/top_potsdam_2_13_label_noBoundary.tif",
        pixels_of(raster_of(project, "label", "2_13")),
    )
    code = (  # in a process without other threads, which a fork would leave behind
        f"import sys, shutil; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
        "from test_prepare_data import *\n"
        "settings = read_settings('tiny.yaml')\n"
        "prepare_data.main(settings, None)\n"
        "expected = {p.name: p.read_bytes() for p in Path('prepared').iterdir()}\n"
        "shutil.rmtree('prepared')\n"
        "print(kill_everywhere(settings, expected))"
    )
    points = int(run_code(code, project).splitlines()[-1])
    assert points == 4 + 2 * (5 + 1)  # bands packed; 5 arrays and the manifest, each flushed and renamed


def test_memory_does_not_depend_on_the_height_of_a_tile(tmp_path):
    """The peak of a whole run on tiles 600 px wide, of 2,000 and of 40,000 rows (72 MB of raw pixels
    each)."""
    peaks = []
    for height in (2_000, 40_000):
        folder = tmp_path / str(height)
        settings = read_settings(ROOT / "demo.yaml")
        settings["data"].update(raw="raw", prepared="prepared")
        settings["split"] = {"train": ["2_11"], "val": ["2_10"], "test": ["2_13"]}
        for tile, rows in (("2_11", 2_000), ("2_10", 64), ("2_13", 66)):
            write_tile(folder / "raw", tile, (rows, 600))
        for kind in ("image", "label"):
            path = raster_of(folder, kind, "2_11")
            write_raster(path, np.tile(pixels_of(path), (height // 2_000, 1, 1)))
        save_settings(folder, settings)
        code = (
            f"import sys, runpy; sys.path.insert(0, {str(ROOT)!r}); sys.argv[1:] = ['--params', 'tiny.yaml'];"
            f"runpy.run_path({str(ROOT / 'prepare_data.py')!r}, run_name='__main__');"
            "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
        )
        peaks.append(int(run_code(code, folder).splitlines()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 170, peaks  # MB: bands of rows (4 Mpx), not 24 Mpx and their copies


def run_code(code, folder):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- decoded once ------------------------------------------------------------------------------------------


def test_every_tile_is_read_once_and_all_take_their_names_together(project, settings, monkeypatch):
    read, replaced = [], []
    original, replace = prepare_data.read_tile, os.replace

    def counted(source, *rest):
        read.append(source.files["image"].name)
        assert not replaced
        return original(source, *rest)

    monkeypatch.setattr(prepare_data, "read_tile", counted)
    monkeypatch.setattr(os, "replace", lambda *paths: (replaced.append(paths), replace(*paths)))
    prepare_data.main(settings, project / "runs/tiny")
    assert sorted(read) == sorted(raster_of(project, "image", tile).name for tile in SIZES)
    assert len(replaced) == 5 and replaced[-1][1].name == "manifest.json"  # written once


def test_problems_in_the_pixels_of_all_tiles_are_listed_and_nothing_is_left(project, settings):
    for tile in ("2_11", "2_13"):
        write_raster(raster_of(project, "label", tile), np.full((*SIZES[tile], 3), 100, np.uint8))
    image = raster_of(project, "image", "3_10")
    write_raster(image, pixels_of(image), **place_of("3_10"), compress="lzw")
    image.write_bytes(image.read_bytes()[:-3000])
    told = refused(settings, project)
    assert len(told) == 3 and "2_11, labels" in told[0] and "3_10" in told[1] and "2_13, labels" in told[2]
    assert [path.name for path in (project / "prepared").iterdir()] == [".lock"]


def test_an_interrupted_run_leaves_earlier_tiles_as_they_were(project, settings, monkeypatch):
    prepare_data.main(settings, project / "runs/tiny")
    before = {path: path.read_bytes() for path in (project / "prepared").iterdir()}
    settings["data"]["bands"] = [3, 2, 1]

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_data, "check_roles", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_data.main(settings, project / "runs/tiny")
    assert {path: path.read_bytes() for path in (project / "prepared").iterdir()} == before


def say_nodata(path, text):
    path.with_name(path.name + ".aux.xml").write_text(
        f'<PAMDataset><PAMRasterBand band="1">{text}</PAMRasterBand></PAMDataset>'
    )


STATISTICS = '<Metadata><MDI key="STATISTICS_MEAN">7</MDI></Metadata>'


@pytest.mark.parametrize("kind", ["image", "extra", "labels"])
def test_nodata_set_beside_a_raster_after_preparing_is_noticed(project, settings, capsys, kind):
    settings["data"].update(extra="dsm/{tile}.tif", scale=[None, None, None, [0, 9]])
    for tile, shape in SIZES.items():
        write_raster(
            project / f"raw/dsm/{tile}.tif", np.linspace(0, 9, shape[1], dtype=np.int16) + np.zeros(shape)
        )
    prepare_data.main(settings, project / "runs/tiny")
    paths = {key: raster_of(project, key, "2_13") for key in ("image", "label")}
    path = {"image": paths["image"], "labels": paths["label"]}.get(kind, project / "raw/dsm/2_13.tif")
    say_nodata(path, STATISTICS)
    prepare_data.main(settings, project / "runs/tiny")
    assert "4 tiles were prepared already, 0 are new" in capsys.readouterr().out
    value = pixels_of(path)[0, 0, 0]
    say_nodata(path, f"<NoDataValue>{value}</NoDataValue>" + STATISTICS)
    prepare_data.main(settings, project / "runs/tiny")
    assert "3 tiles were prepared already, 1 are new" in capsys.readouterr().out
    assert f"[{float(value)}" in read_manifest(project / "prepared")["tiles"]["2_13"]["validity"][kind]
    prepare_data.main(settings, project / "runs/tiny")
    assert "4 tiles were prepared already, 0 are new" in capsys.readouterr().out


def test_tiles_prepared_by_other_code_are_prepared_again(project, settings, monkeypatch, capsys):
    prepare_data.main(settings, project / "runs/tiny")
    prepare_data.main(settings, project / "runs/tiny")
    assert "4 tiles were prepared already, 0 are new" in capsys.readouterr().out
    monkeypatch.setattr(prepare_data, "code_of", lambda script: f"another {script}")
    prepare_data.main(settings, project / "runs/tiny")
    assert "0 tiles were prepared already, 4 are new" in capsys.readouterr().out
