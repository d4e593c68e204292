import json

import numpy as np
import pytest
from conftest import COLOURS, SIZES, run_script, save_settings, write_raster, write_tile

import prepare_data
from files import Problem, only_one
from tiles import IGNORE, open_prepared


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
        image, found, eroded = open_prepared(settings["data"], tile, "image", "labels", "eroded")
        np.testing.assert_array_equal(found, labels)
        assert image.shape == (*SIZES[tile], 3) and eroded is None
        row = manifest[tile]
        assert list(row["classes"].values()) == np.bincount(labels.ravel(), minlength=6).tolist()
        assert row["pixels"]["labels"]["exact"] == labels.size
        assert row["georeference"]["crs"] == "EPSG:32633" and row["georeference"]["transform"][0] == 0.05


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
    np.testing.assert_array_equal(open_prepared(settings["data"], "2_11", "labels")[0], labels)
    assert row["pixels"]["labels"] == {
        "exact": labels.size - 25 - int((labels == 4).sum()),
        "repaired": int((labels == 4).sum()),
        "ignored": 5,
        "unknown": 20,
        "unknown_colours": {"#808080": 20},
    }


def test_official_eroded_labels_are_kept_where_they_exist(project, settings):
    labels = write_tile(project / "raw", "2_13", SIZES["2_13"])
    painted = COLOURS[labels]
    painted[::3] = 0
    write_raster(project / "raw/5_Labels_all_noBoundary/top_potsdam_2_13_label_noBoundary.tif", painted)
    prepare_data.main(settings, project / "runs/tiny")
    labels[::3] = IGNORE
    np.testing.assert_array_equal(open_prepared(settings["data"], "2_13", "eroded")[0], labels)


def test_a_doubled_folder_is_found(project, settings):
    folder = project / "raw/2_Ortho_RGB"
    folder.rename(project / "raw/inner")
    folder.mkdir()
    (project / "raw/inner").rename(folder / "2_Ortho_RGB")
    prepare_data.main(settings, project / "runs/tiny")
    assert (project / "prepared/2_13.image.npy").exists()


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
    np.testing.assert_array_equal(open_prepared(settings["data"], "2_10", "labels")[0], labels)


def test_a_damaged_prepared_file_is_made_again(project, settings):
    prepare_data.main(settings, project / "runs/tiny")
    path = project / "prepared/2_10.labels.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5] + b"abcde")
    prepare_data.main(settings, project / "runs/tiny")
    assert path.read_bytes() == whole


def test_the_order_of_classes_counts(project, settings):
    prepare_data.main(settings, project / "runs/tiny")
    settings["data"]["classes"] = dict(reversed(settings["data"]["classes"].items()))
    with pytest.raises(Problem, match="prepared with other data settings"):
        open_prepared(settings["data"], "2_10", "labels")
    prepare_data.main(settings, project / "runs/tiny")
    open_prepared(settings["data"], "2_10", "labels")


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
    assert "tile 2_13, labels" in told and "12.05 % of pixels have no known colour" in told and "#806480 (660)" in told


def test_a_file_found_twice_is_refused(project, settings):
    doubled = project / "raw/2_Ortho_RGB/2_Ortho_RGB"
    doubled.mkdir()
    name = "top_potsdam_2_13_RGB.tif"
    (doubled / name).write_bytes((project / "raw/2_Ortho_RGB" / name).read_bytes())
    assert "expected one" in refused(settings, project)[0]


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
    assert done.returncode == 4 and done.stderr.startswith("error: disk at ") and "Traceback" not in done.stderr


@pytest.mark.parametrize("crs", ["UTM33", "EPSG:abc"])
def test_a_coordinate_system_that_is_none_is_refused_before_anything_runs(project, settings, crs):
    settings["data"]["assume_crs"] = crs
    with pytest.raises(Problem, match="data.assume_crs") as caught:
        prepare_data.main(settings, project / "runs/tiny")
    assert caught.value.code == 2 and not (project / "prepared").exists()


def test_a_role_without_a_labelled_pixel_is_refused(project, settings):
    write_raster(project / "raw/5_Labels_all/top_potsdam_2_10_label.tif", np.zeros((*SIZES["2_10"], 3), np.uint8))
    with pytest.raises(Problem, match="split.val .2_10.: no pixel of any class"):
        prepare_data.main(settings, project / "runs/tiny")


def test_a_label_of_one_band_is_named_as_a_label(project, settings):
    write_raster(project / "raw/5_Labels_all/top_potsdam_2_10_label.tif", np.zeros(SIZES["2_10"], np.uint8))
    (told,) = refused(settings, project)
    assert "1 bands, expected at least 3 (labels are painted in red, green and blue)" in told


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"tiles": 3}', '{"tiles": {"2_10": {}}}', '{"tiles": {"2_10": 5}}']
)
def test_a_damaged_manifest_is_one_line(project, settings, content):
    (project / "prepared").mkdir()
    (project / "prepared/manifest.json").write_text(content)
    with pytest.raises(Problem, match="manifest.json: damaged") as caught:
        prepare_data.main(settings, project / "runs/tiny")
    assert caught.value.code == 3
