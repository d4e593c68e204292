"""Where a tile's files lie by its name, and back."""

import zipfile

import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st

from base.keys import is_pattern, is_tile
from base.patterns import PATTERNS, fill, find_raw, tile_of, tiles_below
from base.problem import Problem

SETS = {  # how the sets lay out their files: (image, its path, labels' pattern, their path, tile)
    "LoveDA": (
        "{folder}/images_png/{name}.png",
        "Train/Urban/images_png/1366.png",
        "{folder}/masks_png/{name}.png",
        "Train/Urban/masks_png/1366.png",
        "Train/Urban/1366",
    ),
    "OpenEarthMap": (
        "{folder}/images/{name}.tif",
        "aachen/images/aachen_12.tif",
        "{folder}/labels/{name}.tif",
        "aachen/labels/aachen_12.tif",
        "aachen/aachen_12",
    ),
    "FLAIR": (
        "{folder}/img/IMG_{name}.tif",
        "D004_2021/Z14_AU/img/IMG_000571.tif",
        "{folder}/msk/MSK_{name}.tif",
        "D004_2021/Z14_AU/msk/MSK_000571.tif",
        "D004_2021/Z14_AU/000571",
    ),
    "WHU": (
        "{folder}/image/{name}.tif",
        "val/image/7.tif",
        "{folder}/label/{name}.tif",
        "val/label/7.tif",
        "val/7",
    ),
    "FloodNet": (
        "{folder}/{folder}-org-img/{name}.jpg",
        "train/train-org-img/6336.jpg",
        "{folder}/{folder}-label-img/{name}_lab.png",
        "train/train-label-img/6336_lab.png",
        "train/6336",
    ),
    "Massachusetts": (
        "tiff/{folder}/{name}.tiff",
        "tiff/test/10378780_15.tiff",
        "tiff/{folder}_labels/{name}.tif",
        "tiff/test_labels/10378780_15.tif",
        "test/10378780_15",
    ),
    "UAVid": (
        "{folder}/Images/{name}.png",
        "uavid_train/seq1/Images/000000.png",
        "{folder}/Labels/{name}.png",
        "uavid_train/seq1/Labels/000000.png",
        "uavid_train/seq1/000000",
    ),
    "Potsdam": (
        "2_Ortho_RGB/top_potsdam_{tile}_RGB.tif",
        "2_Ortho_RGB/top_potsdam_2_10_RGB.tif",
        "1_DSM/dsm_potsdam_{padded}.tif",
        "1_DSM/dsm_potsdam_02_10.tif",
        "2_10",
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_the_layouts_of_known_sets_can_be_written(name):
    image, path, labels, labels_path, tile = SETS[name]
    assert is_pattern(image) and is_tile(tile)
    assert fill(image, tile) == path and fill(labels, tile) == labels_path
    assert tile_of(image, path) == tile and tile_of(labels, labels_path) == tile


def test_an_empty_folder_leaves_no_slash():
    assert fill("{folder}/img/{name}.tif", "5") == "img/5.tif"
    assert tile_of("{folder}/img/{name}.tif", "img/5.tif") == "5"
    assert tile_of("{folder}/img/{name}.tif", "labels/5.tif") is None


PARTS = st.text("ab01_.{}-", min_size=1, max_size=6)


@given(
    st.sampled_from([s[0] for s in SETS.values()] + ["{tile}.tif", "a/{padded}.tif", "{tile}/{name}.png"]),
    st.lists(PARTS, min_size=1, max_size=3).map("/".join).filter(is_tile),
)
def test_a_path_leads_back_to_a_name_of_the_same_path(pattern, tile):
    path = fill(pattern, tile)
    assert fill(pattern, tile_of(pattern, path)) == path


def below(folder, *paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


def data_of(raw, image, label, **more):
    return {**dict.fromkeys(PATTERNS.values()), "raw": str(raw), "image": image, "label": label, **more}


def test_tiles_are_images_and_no_other_files(tmp_path):
    below(
        tmp_path,
        "1.tif",
        "1_mask.tif",
        "2.tif",
        "a/3.tif",
        ".hidden/4.tif",
        "._1.tif",
        "notes.txt",
        "1.tif.aux.xml",
    )
    (tmp_path / "a/circle").symlink_to(tmp_path)
    data = data_of(tmp_path, "{tile}.tif", "{tile}_mask.tif")
    assert tiles_below(data) == {"1": "1.tif", "2": "2.tif", "a/3": "a/3.tif"}


def test_chips_of_one_name_in_two_folders_are_two_tiles(tmp_path):
    below(tmp_path, "train/img/1.png", "val/img/1.png", "1.png")
    data = data_of(tmp_path, "{folder}/img/{name}.png", "{folder}/msk/{name}.png")
    assert list(map(str, find_raw(data, "image", "val/1"))) == [f"{tmp_path}/val/img/1.png"]
    assert find_raw(data, "image", "test/1") == []  # that at the root is no folder's
    assert sorted(tiles_below(data)) == ["train/1", "val/1"]


def test_tiles_in_archives_and_doubled_folders_are_found_as_they_are_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "Train.zip", "w") as archive:
        for name in ("Train/Urban/images_png/5.png", "Urban/images_png/6.png", "Urban/masks_png/6.png"):
            archive.writestr(name, "x")
    data = data_of(tmp_path, "{folder}/images_png/{name}.png", "{folder}/masks_png/{name}.png")
    tiles = {"Train/Urban/5": "Train.zip/Train/Urban/images_png/5.png"}
    tiles["Urban/6"] = "Train.zip/Urban/images_png/6.png"
    assert tiles_below(data) == tiles
    for tile, path in [*tiles.items(), ("Train/Urban/6", tiles["Urban/6"])]:  # an archive is a folder, too
        assert find_raw(data, "image", tile) == [tmp_path / path]
    below(tmp_path, "flat/flat/img_7.png", "flat/flat/lab_7.png", "img_8.png")
    data = data_of(tmp_path, "flat/img_{tile}.png", "flat/lab_{tile}.png")
    assert tiles_below(data) == {"7": "flat/flat/img_7.png", "8": "img_8.png"}


def test_a_damaged_archive_is_named_where_all_tiles_are_looked_for(tmp_path):
    (tmp_path / "Val.zip").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(Problem, match="Val.zip: .*, expected a whole zip file"):
        tiles_below(data_of(tmp_path, "{folder}/a/{name}.png", "b/{tile}.png"))


@pytest.mark.skipif(
    not SHARED.is_dir(),
    reason="looks for real Potsdam tiles, which lie beside this project only where it is developed",
)
def test_real_tiles_are_found():
    label = "5_Labels_all/top_potsdam_{tile}_label.tif"
    data = data_of(SHARED / "potsdam", "2_Ortho_RGB/top_potsdam_{tile}_RGB.tif", label)
    assert sorted(tiles_below(data)) == ["2_10", "3_12", "7_7"]
