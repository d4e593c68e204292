import re

import pytest

from base.files import sha256
from base.keys import BESIDE, KEYS
from base.problem import Problem
from base.tables import write_rows
from mapping import maps
from mapping.journal import journal_of, record, recorded, write_recorded


def test_settings_and_maps_agree_on_what_stands_beside_a_map(settings, tmp_path):
    """base/ may not ask mapping/: both know the same names."""
    words, check = KEYS["predict.also"]
    assert check(list(maps.ALSO)) and words.endswith(f"one of {', '.join(maps.ALSO)}")
    settings["predict"].update(compare=True, views=[0, 1])
    names = [*maps.ALSO, "uncalibrated", *maps.ways(settings)]  # no raster's map has the name of the table
    ends = [maps.beside(tmp_path / "a.tif", name).name.removeprefix("a") for name in names]
    assert set(BESIDE) == {re.sub(r"\.(tif|geojson|gpkg|csv)$", "", end) for end in ends}


def test_a_maps_options_are_those_that_change_its_pixels(settings):
    predict = settings["predict"]
    before = maps.options_of(predict)
    others = {
        "batch_size": 7,
        "sieve": 9,
        "simplify": 0.5,
        "also": ["colours"],
        "compare": True,
        "engine": "auto",
        "force": True,
        "resample": True,
        "scale": "auto",
    }
    assert maps.options_of({**predict, **others}) == before
    assert set(others) | set(maps.PIXELS) == set(predict)
    for key, value in {"window": 96, "overlap": 0.5, "views": [1], "precision": "int8"}.items():
        assert maps.options_of({**predict, key: value}) != before


@pytest.mark.parametrize("tile", ["2_13", "Train/Urban/13"])
def test_maps_stand_where_all_their_files_do_and_their_bytes_are_those_of_the_table(settings, tmp_path, tile):
    settings["split"]["test"], name = [tile], tile.rpartition("/")[2]
    settings["predict"].update(compare=True, also=["confidence", "polygons"])
    expected = maps.expected_maps(settings, tmp_path)
    assert [path.name for path, _ in expected] == [
        f"{name}{way}.tif" for way in ("", ".one_view", ".side_by_side")
    ]
    assert all(path.parent == (tmp_path / "predictions" / tile).parent for path, _ in expected)
    files = [part for path, also in expected for part in maps.files_of(path, also)]
    beside = [maps.beside(expected[0][0], way) for way in ("confidence", "uncalibrated", "areas")]
    assert set(beside) < set(files) and len(files) == 3 * 4 + 3  # no polygons where there is no longitude
    assert not maps.maps_stand(settings, tmp_path)
    for part in files:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text("a")
    assert not maps.maps_stand(settings, tmp_path)
    names = [tile, f"{tile}.one_view", f"{tile}.side_by_side"]
    rows = [{"map": name, "sha256": sha256(path)} for name, (path, _) in zip(names, expected)]
    write_rows(tmp_path / "predict.csv", ["map", "sha256"], rows)
    assert maps.maps_stand(settings, tmp_path)
    for part in files:
        part.rename(tmp_path / "away")
        assert not maps.maps_stand(settings, tmp_path)
        (tmp_path / "away").rename(part)
    expected[1][0].write_text("b")
    assert not maps.maps_stand(settings, tmp_path)


def test_a_name_too_long_for_what_goes_beside_a_map_is_refused(tmp_path):
    maps.check_length_of_name(tmp_path, "a" * 150, "a.tif")
    with pytest.raises(Problem, match=re.escape("raster a.tif: its name is too long")) as caught:
        maps.check_length_of_name(tmp_path, "a" * 230, "a.tif")
    assert caught.value.code == 3


def test_what_is_noted_of_a_map_does_not_grow_with_their_number_and_survives_a_kill(tmp_path):
    """A row for each map, and predict.csv once; a journal that a killed process left is read to its last
    whole line."""
    sizes, rows = [], {}
    for number in range(400):
        row = {"map": f"m{number:03d}", "raster": "a", "seconds": "1.00", "sha256": "x"}
        before = journal_of(tmp_path).stat().st_size if rows else 0
        record(tmp_path, row, rows)
        sizes.append(journal_of(tmp_path).stat().st_size - before)
    assert set(sizes) == {sizes[0]} and not (tmp_path / "predict.csv").exists()
    with open(journal_of(tmp_path), "ab") as journal:
        journal.write(b'{"map": "cut off", "ras')
    assert recorded(tmp_path) == rows
    write_recorded(tmp_path, recorded(tmp_path))
    assert recorded(tmp_path) == rows and not journal_of(tmp_path).exists()
    record(tmp_path, {**rows["m000"], "seconds": None}, rows)  # it stood
    assert not journal_of(tmp_path).exists() and rows["m000"]["seconds"] == "1.00"
