import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import COLOURS, ROOT, SIZES, run_script, save_settings, write_raster, write_tile
from rasterio.transform import from_origin

import prepare_data
from base.files import only_one
from base.problem import Problem
from base.settings import read_settings
from imagery.arrays import IGNORE
from imagery.tiles import CELL, count_cells, open_prepared, read_manifest


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
            == hashlib.sha256((project / f"raw/2_Ortho_RGB/top_potsdam_{tile}_RGB.tif").read_bytes()).hexdigest()
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
    }


def test_official_eroded_labels_are_kept_where_they_exist(project, settings):
    labels = write_tile(project / "raw", "2_13", SIZES["2_13"])
    painted = COLOURS[labels]
    painted[::3] = 0
    write_raster(project / "raw/5_Labels_all_noBoundary/top_potsdam_2_13_label_noBoundary.tif", painted)
    prepare_data.main(settings, project / "runs/tiny")
    labels[::3] = IGNORE
    np.testing.assert_array_equal(open_prepared(settings["data"], "2_13").eroded, labels)


def test_a_doubled_folder_is_found(project, settings):
    folder = project / "raw/2_Ortho_RGB"
    folder.rename(project / "raw/inner")
    folder.mkdir()
    (project / "raw/inner").rename(folder / "2_Ortho_RGB")
    prepare_data.main(settings, project / "runs/tiny")
    assert (project / "prepared/2_13.pixels.npy").exists()


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


def test_the_order_of_classes_counts(project, settings):
    prepare_data.main(settings, project / "runs/tiny")
    settings["data"]["classes"] = dict(reversed(settings["data"]["classes"].items()))
    with pytest.raises(Problem, match="prepared with other data settings"):
        open_prepared(settings["data"], "2_10")
    prepare_data.main(settings, project / "runs/tiny")
    open_prepared(settings["data"], "2_10")


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
    assert "1 bands, expected the classes' colours in red, green and blue" in told and "data.label_values" in told


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"tiles": 3}', '{"tiles": {"2_10": {}}}', '{"tiles": {"2_10": 5}}']
)
def test_a_damaged_manifest_is_one_line(project, settings, content):
    (project / "prepared").mkdir()
    (project / "prepared/manifest.json").write_text(content)
    with pytest.raises(Problem, match="manifest.json: damaged") as caught:
        prepare_data.main(settings, project / "runs/tiny")
    assert caught.value.code == 3


def raster_of(project, kind, tile):
    folder, name = {"image": ("2_Ortho_RGB", "RGB"), "label": ("5_Labels_all", "label")}[kind]
    return project / f"raw/{folder}/top_potsdam_{tile}_{name}.tif"


def place_of(tile):
    row, col = map(int, tile.split("_"))
    return {"crs": "EPSG:32633", "transform": from_origin(365700 + 300 * col, 5810000 - 300 * row, 0.05, 0.05)}


def pixels_of(path):
    with rasterio.open(path) as source:
        return np.moveaxis(source.read(), 0, -1)


# -- what may not be together -----------------------------------------------------------------------------------------


def test_tiles_of_two_roles_on_the_same_ground_are_refused_unless_allowed_by_name(project, settings):
    path = raster_of(project, "image", "2_13")
    write_raster(path, pixels_of(path), crs="EPSG:32633", transform=from_origin(369000 + 1, 5809400, 0.05, 0.05))
    (told,) = refused(settings, project)  # 2_13 (test) now lies a metre east of 2_11 (train)
    assert "tiles 2_11 (split.train) and 2_13 (split.test)" in told and "data.allow_overlap" in told
    settings["data"]["allow_overlap"] = ["2_13"]
    assert len(refused(settings, project)) == 1  # both must be named
    settings["data"]["allow_overlap"] = ["2_13", "2_11"]
    prepare_data.main(settings, project / "runs/tiny")


def test_overlap_within_a_role_and_touching_neighbours_are_no_leak(project, settings):
    for tile, east in (("3_10", 0.5), ("2_13", 93 * 0.05)):  # 3_10 (train) over 2_11; 2_13 (test) just east of it
        path = raster_of(project, "image", tile)
        write_raster(path, pixels_of(path), crs="EPSG:32633", transform=from_origin(369000 + east, 5809400, 0.05, 0.05))
    told = refused(settings, project)
    assert len(told) == 1 and "tiles 3_10 (split.train) and 2_13 (split.test)" in told[0]
    settings["split"]["train"] = ["2_11"]
    prepare_data.main(settings, project / "runs/tiny")


@pytest.mark.parametrize("crs", ['LOCAL_CS["arbitrary",UNIT["metre",1]]', "EPSG:4326"])
def test_places_that_cannot_be_compared_are_no_proof_of_different_ground(project, settings, crs):
    path = raster_of(project, "image", "2_13")
    write_raster(path, pixels_of(path), crs=crs, transform=from_origin(369000, 5809400, 0.05, 0.05))
    done = run_script("prepare_data.py", "--params", "tiny.yaml", cwd=project)
    lines = done.stderr.splitlines()
    assert done.returncode == 3 and len(lines) == 3 and all("places that cannot be compared" in line for line in lines)
    settings["split"] = {"train": ["2_13"], "val": ["2_10"], "test": ["2_11"]}  # the other one comes first
    assert any("2_13" in line and "cannot be compared" in line for line in refused(settings, project))


def test_labels_that_lie_elsewhere_are_refused(project, settings):
    path = raster_of(project, "label", "2_13")
    place = {"crs": "EPSG:32633", "transform": from_origin(369600, 5809400, 0.05, 0.05)}
    write_raster(path, pixels_of(path), **place)
    write_raster(raster_of(project, "image", "2_13"), pixels_of(raster_of(project, "image", "2_13")), **place)
    prepare_data.main(settings, project / "runs/tiny")
    write_raster(path, pixels_of(path), crs="EPSG:32633", transform=from_origin(369601, 5809400, 0.05, 0.05))
    with pytest.raises(Problem, match="tile 2_13, labels .*its georeference lies elsewhere"):
        prepare_data.main(settings, project / "runs/tiny")


def test_the_same_ground_is_seen_in_another_coordinate_system(project, settings):
    from rasterio.warp import transform

    (lon,), (lat,) = transform("EPSG:32633", "EPSG:4326", [369000.5], [5809399.5])
    path = raster_of(project, "image", "2_13")
    write_raster(path, pixels_of(path), crs="EPSG:4326", transform=from_origin(lon, lat, 7e-7, 4.5e-7))
    assert "tiles 2_11 (split.train) and 2_13 (split.test)" in refused(settings, project)[0]


@pytest.mark.parametrize("other", ["2_13", "3_10"])
def test_two_tiles_with_identical_pixels_are_refused_in_any_role(project, settings, other):
    write_tile(project / "raw", other, SIZES["2_11"])
    write_raster(raster_of(project, "image", other), pixels_of(raster_of(project, "image", "2_11")), **place_of(other))
    settings["data"]["allow_overlap"] = ["2_11", other]
    (told,) = refused(settings, project)
    assert f"tiles 2_11 and {other}: the same pixels" in told


def test_a_twin_of_a_tile_prepared_before_is_noticed(project, settings):
    prepare_data.main(settings, project / "runs/tiny")
    write_tile(project / "raw", "2_10", SIZES["2_11"])
    write_raster(
        raster_of(project, "image", "2_10"), pixels_of(raster_of(project, "image", "2_11")), **place_of("2_10")
    )
    with pytest.raises(Problem, match="tiles 2_11 and 2_10: the same pixels"):
        prepare_data.main(settings, project / "runs/tiny")


# -- what people have -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "compression, options",
    [
        ("none", {}),
        ("lzw", {"predictor": 2}),
        ("deflate", {"tiled": True, "blockxsize": 32, "blockysize": 16}),
        ("jpeg", {"photometric": "YCBCR", "jpeg_quality": 95}),
    ],
)
def test_tiff_of_every_compression(project, settings, compression, options):
    for tile in SIZES:
        path = raster_of(project, "image", tile)
        before = pixels_of(path)
        write_raster(path, before, **place_of(tile), compress=compression, **options)
        kept = pixels_of(path)
        assert (kept == before).all() or compression == "jpeg"
    prepare_data.main(settings, project / "runs/tiny")
    np.testing.assert_array_equal(open_prepared(settings["data"], tile).image, kept)


@pytest.mark.parametrize(
    "driver, suffix, world", [("PNG", "png", "pgw"), ("JPEG", "jpg", "jgw"), ("JPEG", "jpeg", "wld")]
)
def test_png_and_jpeg_with_world_files(project, settings, driver, suffix, world):
    settings["data"].update(image=f"images/{{tile}}.{suffix}", label="labels/{tile}.png")
    for tile in SIZES:
        for kind, target, its_driver in (
            ("image", f"images/{tile}.{suffix}", driver),
            ("label", f"labels/{tile}.png", "PNG"),
        ):
            write_raster(project / "raw" / target, pixels_of(raster_of(project, kind, tile)), driver=its_driver)
        (project / f"raw/images/{tile}.{world}").write_text("0.05\n0\n0\n-0.05\n366000.025\n5807999.975\n")
    settings["data"]["allow_overlap"] = list(SIZES)
    prepare_data.main(settings, project / "runs/tiny")
    place = read_manifest(project / "prepared")["tiles"]["2_13"]["georeference"]
    assert place["crs"] == "EPSG:32633" and place["transform"] == pytest.approx([0.05, 0, 366000, 0, -0.05, 5808000])
    np.testing.assert_array_equal(
        open_prepared(settings["data"], "2_13").labels, write_tile(project / "again", "2_13", SIZES["2_13"])
    )


def test_labels_of_one_band_by_value_with_a_palette_or_none(project, settings):
    names = list(settings["data"]["classes"])
    settings["data"].update(
        label_values=dict(zip(names, [10, 20, 30, 40, 50, 300])), ignore_colours=[0], label="index/{tile}.tif"
    )
    values = np.array([10, 20, 30, 40, 50, 300], np.uint16)
    for tile, shape in SIZES.items():
        labels = write_tile(project / "raw", tile, shape)
        painted = values[labels]
        painted[:3] = 0
        painted[3, :4] = 77
        write_raster(project / f"raw/index/{tile}.tif", painted)
    prepare_data.main(settings, project / "runs/tiny")
    labels[:3] = labels[3, :4] = IGNORE
    np.testing.assert_array_equal(open_prepared(settings["data"], "2_13").labels, labels)
    pixels = read_manifest(project / "prepared")["tiles"]["2_13"]["pixels"]["labels"]
    assert pixels["ignored"] == 3 * 66 and pixels["unknown"] == 4 and pixels["unknown_colours"] == {"77": 4}
    settings["data"]["label_values"] = dict(zip(names, range(6)))
    settings["data"]["ignore_colours"] = [255]
    for tile, shape in SIZES.items():
        labels = write_tile(project / "raw", tile, shape)
        with rasterio.open(
            project / f"raw/index/{tile}.tif",
            "w",
            driver="GTiff",
            height=shape[0],
            width=shape[1],
            count=1,
            dtype="uint8",
        ) as target:
            target.write(labels, 1)
            target.write_colormap(1, {i: (*map(int, c), 255) for i, c in enumerate(COLOURS)})
    prepare_data.main(settings, project / "runs/tiny")
    np.testing.assert_array_equal(open_prepared(settings["data"], "2_13").labels, labels)
    settings["data"].update(label_values=None, ignore_colours=[])
    told = "\n".join(pytest.raises(Problem, prepare_data.main, settings, project / "runs/tiny").value.lines)
    assert "a palette image" in told and "data.label_values" in told


def test_an_extra_raster_of_metres_asks_for_a_scale_of_its_own(project, settings):
    settings["data"]["extra"] = "dsm/{tile}.tif"
    for tile, shape in SIZES.items():
        write_raster(project / f"raw/dsm/{tile}.tif", np.zeros(shape, np.float32))
    told = refused(settings, project)
    assert len(told) == 4 and "(data.extra)" in told[0] and "[null, null, null, [low, high]]" in told[0]


def test_deep_and_real_pixels_need_a_scale_and_take_it(project, settings):
    for tile, shape in SIZES.items():
        image = pixels_of(raster_of(project, "image", tile)).astype(np.uint16) * 10 + 100
        write_raster(raster_of(project, "image", tile), image, **place_of(tile))
    told = refused(settings, project)
    assert len(told) == 4 and "uint16 pixels in band 1" in told[0] and "data.scale to [low, high]" in told[0]
    settings["data"]["scale"] = [100, 2140]  # 204 steps of 10
    prepare_data.main(settings, project / "runs/tiny")
    expected = np.clip(np.rint((image.astype(float) - 100) / 8), 0, 255)
    assert np.abs(open_prepared(settings["data"], "2_13").image - expected).max() <= 1
    row = read_manifest(project / "prepared")["tiles"]["2_13"]
    assert row["dtype"] == "uint16" and row["outside_scale"] == (image > 2140).sum((0, 1)).tolist()


def test_an_extra_raster_is_the_last_band(project, settings):
    settings["data"].update(extra="dsm/height_{padded}.tif", scale=[None, None, None, [0, 20]])
    heights = {}
    for tile, shape in SIZES.items():
        heights[tile] = np.linspace(-1, 25, shape[0] * shape[1], dtype=np.float32).reshape(shape)
        row, col = tile.split("_")
        write_raster(project / f"raw/dsm/height_{int(row):02d}_{int(col):02d}.tif", heights[tile])
    prepare_data.main(settings, project / "runs/tiny")
    prepared = open_prepared(settings["data"], "2_13")
    assert prepared.image.shape == (*SIZES["2_13"], 4) and prepared.pixels.shape[2] == 8
    np.testing.assert_array_equal(
        prepared.image[..., 3], np.rint(np.clip(heights["2_13"], 0, 20) * np.float32(255 / 20)).astype(np.uint8)
    )
    write_raster(project / "raw/dsm/height_02_13.tif", heights["2_13"][:, :-1])  # the fault of the real 03_13
    with pytest.raises(Problem, match="83 x 65 pixels, expected 83 x 66 as its image"):
        prepare_data.main(settings, project / "runs/tiny")
    (project / "raw/dsm/height_02_13.tif").unlink()
    with pytest.raises(Problem, match="tile 2_13, extra: no file, expected raw/dsm/height_02_13.tif"):
        prepare_data.main(settings, project / "runs/tiny")


def test_pixels_without_data_are_not_scored_and_counted(project, settings):
    path = raster_of(project, "image", "2_13")
    image = np.maximum(pixels_of(path), 1)
    image[:7] = 0
    write_raster(path, image, **place_of("2_13"), nodata=0)
    alpha = pixels_of(raster_of(project, "image", "2_10"))
    opaque = np.full((*alpha.shape[:2], 1), 255, np.uint8)
    opaque[5:9, 10:20] = 0
    write_raster(
        raster_of(project, "image", "2_10"),
        np.concatenate([alpha, opaque], -1),
        **place_of("2_10"),
        photometric="RGB",
        alpha="yes",
    )
    prepare_data.main(settings, project / "runs/tiny")
    rows = read_manifest(project / "prepared")["tiles"]
    assert rows["2_13"]["nodata"] == 7 * 66 and rows["2_10"]["nodata"] == 40 and rows["2_11"]["nodata"] == 0
    labels = open_prepared(settings["data"], "2_13").labels
    assert (labels[:7] == IGNORE).all() and (labels[7:] != IGNORE).all()
    assert (open_prepared(settings["data"], "2_10").labels[5:9, 10:20] == IGNORE).all()


def test_only_the_chosen_bands_say_what_has_no_data(project, settings):
    path = raster_of(project, "image", "2_13")
    black = np.maximum(pixels_of(path), 1)
    black[:5] = 0
    black[10, :, 0] = 0  # black in one band alone is a colour
    infrared = np.full((*black.shape[:2], 1), 90, np.uint8)
    write_raster(path, np.concatenate([black, infrared], -1), **place_of("2_13"), nodata=0, photometric="minisblack")
    prepare_data.main(settings, project / "runs/tiny")
    assert read_manifest(project / "prepared")["tiles"]["2_13"]["nodata"] == 5 * 66
    real = black.astype(np.float32)
    real[20, :7, 1] = -9999  # of measured values one is enough
    real[21, :3, 2] = np.nan
    write_raster(path, real, **place_of("2_13"), nodata=-9999)
    real[22, :4, 1] = 300
    write_raster(path, real, **place_of("2_13"), nodata=-9999)
    settings["data"]["scale"] = [0, 255]
    prepare_data.main(settings, project / "runs/tiny")
    row = read_manifest(project / "prepared")["tiles"]["2_13"]
    assert row["nodata"] == 10 and row["outside_scale"] == [0, 4, 0]  # what has no data is not outside


def test_alpha_hides_pixels_even_where_a_value_says_nodata_too(project, settings):
    path = raster_of(project, "image", "2_13")
    image = np.maximum(pixels_of(path), 1)
    opaque = np.full((*image.shape[:2], 1), 255, np.uint8)
    opaque[:6] = 0
    profile = {**place_of("2_13"), "photometric": "RGB", "alpha": "yes"}
    write_raster(path, np.concatenate([image, opaque], -1), **profile, nodata=0)
    prepare_data.main(settings, project / "runs/tiny")
    assert read_manifest(project / "prepared")["tiles"]["2_13"]["nodata"] == 6 * 66


def zip_raw(project, members):
    """Archives of the raw folders, {name of the archive: (folder on disk, folder in the archive)}; the folders go."""
    for archive, (folder, inside) in members.items():
        with zipfile.ZipFile(project / "raw" / archive, "w", zipfile.ZIP_DEFLATED) as target:
            for path in sorted((project / "raw" / folder).iterdir()):
                target.write(path, inside + path.name)
    for folder, _ in members.values():
        shutil.rmtree(project / "raw" / folder)


@pytest.mark.parametrize("inside", ["2_Ortho_RGB/", "2_Ortho_RGB/2_Ortho_RGB/", ""])
def test_the_official_archives_are_read_in_place(project, settings, inside):
    prepare_data.main(settings, project / "runs/tiny")
    expected = {p.name: p.read_bytes() for p in (project / "prepared").glob("*.npy")}
    shutil.rmtree(project / "prepared")
    zip_raw(project, {"2_Ortho_RGB.zip": ("2_Ortho_RGB", inside), "5_Labels_all.zip": ("5_Labels_all", "")})
    before = {path.relative_to(project) for path in project.rglob("*")}
    prepare_data.main(settings, project / "runs/tiny")
    after = {path.relative_to(project) for path in project.rglob("*")} - before
    assert {p.name: p.read_bytes() for p in (project / "prepared").glob("*.npy")} == expected
    assert all(path.parts[0] == "prepared" for path in after)
    row = read_manifest(project / "prepared")["tiles"]["2_13"]
    assert row["raw"]["image"]["path"] == f"raw/2_Ortho_RGB.zip/{inside}top_potsdam_2_13_RGB.tif"
    prepare_data.main(settings, project / "runs/tiny")  # and a second run finds them prepared
    assert {p.name: p.read_bytes() for p in (project / "prepared").glob("*.npy")} == expected


def test_a_world_file_inside_an_archive_is_read(project, settings):
    for tile, shape in SIZES.items():
        path = raster_of(project, "image", tile)
        write_raster(path, pixels_of(path))
        east = 366000.025 + 300 * int(tile.split("_")[1])
        path.with_suffix(".tfw").write_text(f"0.05\n0\n0\n-0.05\n{east}\n{5807999.975 - 300 * int(tile[0])}\n")
    zip_raw(project, {"2_Ortho_RGB.zip": ("2_Ortho_RGB", "2_Ortho_RGB/")})
    prepare_data.main(settings, project / "runs/tiny")
    place = read_manifest(project / "prepared")["tiles"]["2_13"]["georeference"]
    assert place["transform"] == pytest.approx([0.05, 0, 366000 + 3900, 0, -0.05, 5808000 - 600])


@pytest.mark.parametrize("damage", ["truncated", "no zip", "flipped", "hostile"])
def test_a_damaged_or_hostile_archive_is_refused(project, settings, damage):
    zip_raw(project, {"2_Ortho_RGB.zip": ("2_Ortho_RGB", "2_Ortho_RGB/")})
    path = project / "raw/2_Ortho_RGB.zip"
    whole = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "no zip":
        path.write_bytes(b"<html>")
    elif damage == "flipped":
        whole[2000] ^= 0x55
        path.write_bytes(whole)
    else:
        with zipfile.ZipFile(path, "w") as target:
            target.writestr("../canary", "x")
            target.writestr(str(project / "canary2"), "x")
    told = "\n".join(refused(settings, project))
    assert ("zip" in told) if damage != "hostile" else ("2_11, image: no file" in told)
    assert not list(project.rglob("canary*"))


def test_archives_that_have_no_part_in_it_do_no_harm(project, settings):
    (project / "raw/folder.zip").mkdir()
    (project / "raw/1_DSM.zip").write_bytes(b"half a download")
    (project / "raw/gone.zip").symlink_to("nowhere")
    prepare_data.main(settings, project / "runs/tiny")


def test_a_password_is_named(project, settings):
    zip_raw(project, {"2_Ortho_RGB.zip": ("2_Ortho_RGB", "2_Ortho_RGB/")})
    path = project / "raw/2_Ortho_RGB.zip"
    whole = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = whole.find(signature)
        while start >= 0:
            whole[start + flags] |= 1
            start = whole.find(signature, start + 4)
    path.write_bytes(whole)
    told = refused(settings, project)
    assert all("has a password, expected none; unzip the archive" in line for line in told[:1])


# -- faults -----------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", b"II*\0\x08\0\0\0", b'<VRTDataset rasterXSize="9" rasterYSize="9"/>']
)
def test_what_is_no_raster_is_refused_by_name(project, settings, content):
    raster_of(project, "image", "2_13").write_bytes(content)
    told = refused(settings, project)
    assert any("top_potsdam_2_13_RGB.tif" in line for line in told)


def test_a_truncated_image_is_refused_though_its_header_is_whole(project, settings):
    path = raster_of(project, "image", "2_13")
    write_raster(path, pixels_of(path), **place_of("2_13"), compress="lzw")
    path.write_bytes(path.read_bytes()[:-3000])
    assert "top_potsdam_2_13_RGB.tif" in refused(settings, project)[0]


def test_a_bit_flipped_after_preparation_is_noticed_by_who_opens_it(project, settings):
    prepare_data.main(settings, project / "runs/tiny")
    path = project / "prepared/2_11.pixels.npy"
    whole = bytearray(path.read_bytes())
    whole[-100] ^= 1
    path.write_bytes(whole)
    with pytest.raises(Problem, match="2_11.pixels.npy: other bytes than manifest.json names") as caught:
        open_prepared(settings["data"], "2_11")
    assert caught.value.code == 3
    done = run_script("lr_find.py", "--params", "tiny.yaml", cwd=project)
    assert done.returncode == 3 and "other bytes" in done.stderr and done.stderr.count("\n") == 1
    prepare_data.main(settings, project / "runs/tiny")
    open_prepared(settings["data"], "2_11")


@pytest.mark.parametrize(
    "change",
    [{"tolerance": 40}, {"bands": [3, 2, 1]}, {"assume_crs": None}, {"scale": [0, 200]}, {"ignore_colours": []}],
)
def test_tiles_prepared_with_other_settings_are_not_used(project, settings, change):
    prepare_data.main(settings, project / "runs/tiny")
    settings["data"].update(change)
    with pytest.raises(Problem, match="prepared with other data settings"):
        open_prepared(settings["data"], "2_11")
    prepare_data.main(settings, project / "runs/tiny")
    open_prepared(settings["data"], "2_11")


@pytest.mark.parametrize(
    "key, value", [("image", "3_Ortho_IRRG/{tile}.tif"), ("eroded_label", None), ("raw", "elsewhere")]
)
def test_a_run_of_other_rasters_does_not_use_the_prepared_tiles_of_this_one(project, settings, key, value):
    prepare_data.main(settings, project / "runs/tiny")
    settings["data"][key] = value
    with pytest.raises(Problem, match="prepared with other data settings"):
        open_prepared(settings["data"], "2_11")


@pytest.mark.parametrize(
    "before, after", [('"car": ', '"car": 1'), ("[[[", "[[[1"), ('"nodata": 0', '"nodata": 1'), ('"pixels"', '"pixel"')]
)
def test_an_edited_manifest_is_refused(project, settings, before, after):
    prepare_data.main(settings, project / "runs/tiny")
    path = project / "prepared/manifest.json"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(Problem, match="manifest.json: damaged, edited") as caught:
        open_prepared(settings["data"], "2_11")
    assert caught.value.code == 3


def test_every_kind_of_wrong_image_is_named(project, settings):
    image = pixels_of(raster_of(project, "image", "2_13"))
    cases = {
        "1 bands, expected at least 3": (image[..., :1], {}),
        "uint16 pixels": (image.astype(np.uint16), {}),
        "float32 pixels": (image.astype(np.float32), {}),
        "complex64 pixels": (image.astype(np.complex64), {}),
        "an alpha band among [1, 2, 4]": (
            np.concatenate([image] * 2, -1)[..., :4],
            {"photometric": "RGB", "alpha": "yes"},
        ),
    }
    for expected, (pixels, options) in cases.items():
        if "alpha" in expected:
            settings["data"]["bands"] = [1, 2, 4]
            for tile in ("2_11", "3_10", "2_10"):
                write_raster(
                    raster_of(project, "image", tile),
                    np.concatenate([pixels_of(raster_of(project, "image", tile))] * 2, -1)[..., :4],
                    **place_of(tile),
                )
        write_raster(raster_of(project, "image", "2_13"), pixels, **place_of("2_13"), **options)
        told = refused(settings, project)
        assert len([line for line in told if "2_13" in line and expected in line]) == 1, (expected, told)


@pytest.mark.parametrize("name", ["a tile", 'it\'s "one"', "K\u00f6ln;$(touch canary)`x`", "x" * 200])
def test_tiles_may_have_any_name_that_is_a_file_name(project, settings, name):
    for kind in ("image", "label"):
        path = raster_of(project, kind, "2_13")
        path.rename(path.with_name(path.name.replace("2_13", name)))
    settings["split"]["test"] = [name]
    prepare_data.main(settings, project / "runs/tiny")
    assert open_prepared(settings["data"], name).shape == SIZES["2_13"] and not list(project.rglob("canary*"))
    save_settings(project, settings)
    done = run_script("prepare_data.py", "--params", "tiny.yaml", cwd=project, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 0 and "4 tiles were prepared already" in done.stdout and done.stderr == ""


def test_a_tile_of_one_pixel_and_one_without_any_place(project, settings):
    write_raster(raster_of(project, "image", "3_10"), np.full((1, 1, 3), 7, np.uint8))
    write_raster(raster_of(project, "label", "3_10"), COLOURS[np.full((1, 1), 2)])
    prepare_data.main(settings, project / "runs/tiny")
    tile = open_prepared(settings["data"], "3_10")
    assert tile.pixels.tolist() == [[[7, 7, 7, 2]]]
    assert read_manifest(project / "prepared")["tiles"]["3_10"]["georeference"] == {"crs": None, "transform": None}


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


# -- killed, and how much memory ---------------------------------------------------------------------------------------


def die_after(steps, original, left):
    """`original`, but the process dies instead of the step that follows `left` more of them."""

    def step(*arguments, **named):
        if left[0] == steps:
            os._exit(9)
        left[0] += 1
        return original(*arguments, **named)

    return step


def kill_everywhere(settings, expected):
    """Prepares the current folder's tiles again and again in a process that dies at its n-th step of writing, n = 0,
    1, ... until it ends unharmed; returns how often it died. After each death it is started again."""
    from base import files

    points, code = 0, 9
    while code == 9:
        child = os.fork()
        if child == 0:
            try:
                done = [0]
                files.os.replace, files.os.fsync = (die_after(points, f, done) for f in (os.replace, os.fsync))
                prepare_data.pack = die_after(points, prepare_data.pack, done)
                prepare_data.main(settings, None)
                os._exit(0)
            finally:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9)
        for path in Path("prepared").iterdir():  # whatever has a final name is whole
            assert path.name.startswith(".") or path.name == "manifest.json" or path.read_bytes() == expected[path.name]
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
    assert points == 8 + 2 * (5 + 4)  # bands packed, twice; 5 arrays and 4 manifests, each flushed and renamed


def test_memory_does_not_depend_on_the_height_of_a_tile(tmp_path):
    """The peak of a whole run on tiles 600 px wide, of 2,000 and of 40,000 rows (72 MB of raw pixels each)."""
    peaks = []
    for height in (2_000, 40_000):
        folder = tmp_path / str(height)
        settings = read_settings(ROOT / "demo.yaml")
        settings["data"].update(raw="raw", prepared="prepared")
        settings["split"] = {"train": ["2_11"], "val": ["2_10"], "test": ["2_13"]}
        for tile, rows in (("2_11", height), ("2_10", 64), ("2_13", 66)):
            write_tile(folder / "raw", tile, (rows, 600))
        save_settings(folder, settings)
        code = (
            f"import sys, runpy; sys.path.insert(0, {str(ROOT)!r}); sys.argv[1:] = ['--params', 'tiny.yaml'];"
            f"runpy.run_path({str(ROOT / 'prepare_data.py')!r}, run_name='__main__');"
            "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
        )
        peaks.append(int(run_code(code, folder).splitlines()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 170, peaks  # MB: bands of rows (4 Mpx), not 24 Mpx and their copies


def run_code(code, folder):
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("shape", [(1, 1), (CELL, CELL), (CELL + 1, 3 * CELL - 1)])
def test_cells_count_each_class(shape):
    labels = np.random.default_rng(0).integers(0, 7, shape).astype(np.uint8)
    labels[labels == 6] = IGNORE
    cells = count_cells(labels, 6)
    assert cells.shape == (-(-shape[0] // CELL), -(-shape[1] // CELL), 6)
    for (row, col, index), count in np.ndenumerate(cells):
        part = labels[row * CELL : (row + 1) * CELL, col * CELL : (col + 1) * CELL]
        assert count == (part == index).sum()
