import shutil
import zipfile

import numpy as np
import pytest
import rasterio
from conftest import COLOURS, SIZES, write_raster, write_tile
from rasterio.transform import from_origin
from test_prepare_data import pixels_of, raster_of, refused

import prepare_data
from base.problem import Problem
from imagery.arrays import IGNORE
from imagery.raw_tiles import find_files, find_raw, watched_files
from imagery.tiles import open_prepared, read_manifest


def patterns(raw, **keys):
    """Data settings of these file patterns."""
    return {"raw": raw, "extra": None, "eroded_label": None, "area": None, **keys}


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def zip_up(folder, archive, *names):
    with zipfile.ZipFile(folder / archive, "w") as target:
        for name in names:
            target.writestr(name, "x")


def test_raw_files_are_found_as_the_archives_unzip(tmp_path):
    touch(tmp_path, "2_Ortho_RGB/2_Ortho_RGB/2_13.tif", "2_14.tif", "2_Ortho_RGB/3_13.tif")
    data = patterns(tmp_path, image="2_Ortho_RGB/{tile}.tif", label="labels/{tile}_label.tif")
    assert [len(find_raw(data, "image", tile)) for tile in ("2_13", "2_14", "3_13", "4_13")] == [1, 1, 1, 0]


@pytest.mark.parametrize("key, kind", [("label", "labels"), ("eroded_label", "eroded"), ("extra", "extra")])
def test_images_at_the_root_are_not_taken_for_another_file_of_their_tile(tmp_path, key, kind):
    data = patterns(tmp_path, image="{tile}.tif", **{"label": "painted/{tile}.png", key: "other/{tile}.tif"})
    touch(tmp_path, "1.tif", "painted/1.png")
    files, problems = find_files("1", data)
    assert kind not in files and files["image"] == tmp_path / "1.tif"
    assert len(problems) == (kind != "eroded") and all(
        f"tile 1, {kind}: no file" in line for line in problems
    )
    touch(tmp_path, "other/1.tif")
    files, problems = find_files("1", data)
    assert not problems and files["image"] == tmp_path / "1.tif" and files[kind] == tmp_path / "other/1.tif"


def test_labels_at_the_root_are_not_taken_for_the_image(tmp_path):
    data = patterns(tmp_path, image="images/{tile}.tif", label="{tile}.tif")
    touch(tmp_path, "1.tif")
    files, (told,) = find_files("1", data)
    assert files == {"labels": tmp_path / "1.tif"} and "tile 1, image: no file" in told
    assert not find_raw(data, "image", "1")  # nor by who predicts it


def test_a_file_that_two_patterns_name_only_by_its_name_is_neither(tmp_path):
    data = patterns(tmp_path, image="images/{tile}.tif", label="labels/{tile}.tif")
    touch(tmp_path, "1.tif")
    assert find_files("1", data)[0] == {}
    touch(tmp_path, "images/1.tif", "labels/1.tif")  # and does no harm where both are where they belong
    assert find_files("1", data) == (
        {"image": tmp_path / "images/1.tif", "labels": tmp_path / "labels/1.tif"},
        [],
    )


def test_one_file_as_image_and_labels_is_refused(tmp_path):
    touch(tmp_path, "a/10_11.tif")
    for label in ("a/{tile}.tif", "a/{padded}.tif"):
        files, (told,) = find_files("10_11", patterns(tmp_path, image="a/{tile}.tif", label=label))
        assert "labels" not in files and f"{tmp_path / 'a/10_11.tif'} is its image, expected another" in told
    eroded = patterns(tmp_path, image="b/{tile}.tif", label="a/{tile}.tif", eroded_label="a/{tile}.tif")
    touch(tmp_path, "b/10_11.tif")
    assert len(find_files("10_11", eroded)[0]) == 3  # labels without boundaries may be both


def test_files_at_the_roots_of_archives_are_told_apart_by_the_archives_names(tmp_path):
    data = patterns(tmp_path, image="{tile}.tif", label="labels/{tile}.tif")
    zip_up(tmp_path, "photographs.zip", "1.tif")
    zip_up(tmp_path, "labels.zip", "1.tif")
    files, problems = find_files("1", data)
    assert not problems and files["image"] == tmp_path / "photographs.zip/1.tif"
    assert files["labels"] == tmp_path / "labels.zip/1.tif"
    (tmp_path / "photographs.zip").unlink()
    files, (told,) = find_files("1", data)
    assert list(files) == ["labels"] and "tile 1, image: no file" in told
    (tmp_path / "labels.zip").unlink()
    touch(tmp_path, "1.tif")
    zip_up(tmp_path, "all.zip", "labels/1.tif")
    assert find_files("1", data)[0] == {
        "image": tmp_path / "1.tif",
        "labels": tmp_path / "all.zip/labels/1.tif",
    }


def test_what_make_watches(tmp_path):
    data = patterns(tmp_path, image="images/{tile}.tif", label="labels/{tile}.png")
    names = [
        "images/1.tif",
        "images/1.tfw",
        "images/1.PRJ",
        "images/1_RPC.TXT",
        "images/1.tif.msk",
        "images/1.tif.aux.xml",
        "labels/1.png",
        "1.zip",
    ]
    touch(tmp_path, *names, "images/2.tif", "images/1.txt", "labels/1.png.aux.xml")
    (tmp_path / "labels/1.png-wal").touch()  # of a GeoPackage without changes
    (tmp_path / "images/1.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><NoDataValue>0</NoDataValue></PAMRasterBand></PAMDataset>'
    )
    (tmp_path / "labels/1.png.aux.xml").write_text('<MDI key="STATISTICS_MEAN">7</MDI>')
    settings = {"data": data, "split": {"train": ["1"], "val": ["3"], "test": []}}
    texts = dict.fromkeys(tmp_path / name for name in names)
    texts[tmp_path / "images/1.tif.aux.xml"] = "<NoDataValue>0</NoDataValue>"
    assert watched_files(settings) == texts
    (tmp_path / "labels/1.png-wal").write_bytes(b"changes")
    (tmp_path / "labels/1.png.aux.xml").write_text("<NoDataValue>7</NoDataValue>")
    texts[tmp_path / "labels/1.png-wal"] = None
    texts[tmp_path / "labels/1.png.aux.xml"] = "<NoDataValue>7</NoDataValue>"
    assert watched_files(settings) == texts


def test_a_doubled_folder_is_found(project, settings):
    folder = project / "raw/2_Ortho_RGB"
    folder.rename(project / "raw/inner")
    folder.mkdir()
    (project / "raw/inner").rename(folder / "2_Ortho_RGB")
    prepare_data.main(settings, project / "runs/tiny")
    assert (project / "prepared/2_13.pixels.npy").exists()


def test_a_file_found_twice_is_refused(project, settings):
    doubled = project / "raw/2_Ortho_RGB/2_Ortho_RGB"
    doubled.mkdir()
    name = "top_potsdam_2_13_RGB.tif"
    (doubled / name).write_bytes((project / "raw/2_Ortho_RGB" / name).read_bytes())
    assert "expected one" in refused(settings, project)[0]


def test_a_label_of_one_band_is_named_as_a_label(project, settings):
    write_raster(project / "raw/5_Labels_all/top_potsdam_2_10_label.tif", np.zeros(SIZES["2_10"], np.uint8))
    (told,) = refused(settings, project)
    assert (
        "1 bands without a palette, expected the classes' colours in red, green and blue" in told
        and "data.label_values" in told
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
    settings["data"].update(label_values=None, ignore_colours=[])  # by the palette's colours
    prepare_data.main(settings, project / "runs/tiny")
    np.testing.assert_array_equal(open_prepared(settings["data"], "2_13").labels, labels)


def test_labels_that_lie_elsewhere_are_refused(project, settings):
    path = raster_of(project, "label", "2_13")
    place = {"crs": "EPSG:32633", "transform": from_origin(369600, 5809400, 0.05, 0.05)}
    write_raster(path, pixels_of(path), **place)
    write_raster(raster_of(project, "image", "2_13"), pixels_of(raster_of(project, "image", "2_13")), **place)
    prepare_data.main(settings, project / "runs/tiny")
    write_raster(path, pixels_of(path), crs="EPSG:32633", transform=from_origin(369610, 5809400, 0.05, 0.05))
    with pytest.raises(Problem, match="tile 2_13, labels .*its georeference lies elsewhere"):
        prepare_data.main(settings, project / "runs/tiny")


# -- in archives -------------------------------------------------------------------------------------------


def zip_raw(project, members):
    """Archives of the raw folders, {name of the archive: (folder on disk, folder in the archive)}; the
    folders go."""
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
        path.with_suffix(".tfw").write_text(
            f"0.05\n0\n0\n-0.05\n{east}\n{5807999.975 - 300 * int(tile[0])}\n"
        )
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
