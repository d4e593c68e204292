import re

import pytest

from base.files import sha256
from base.keys import BESIDE, KEYS
from base.problem import Problem
from base.tables import write_rows
from mapping import maps


def test_settings_and_maps_agree_on_what_stands_beside_a_map(settings, tmp_path):
    """base/ may not ask mapping/: both know the same names."""
    words, check = KEYS["predict.also"]
    assert check(list(maps.ALSO)) and words.endswith(f"one of {', '.join(maps.ALSO)}")
    settings["predict"].update(compare=True, views=[0, 1])
    names = [*maps.ALSO, *maps.ways(settings)]
    ends = [maps.beside(tmp_path / "a.tif", name).name.removeprefix("a") for name in names]
    assert sorted(BESIDE) == sorted(end.removesuffix(".tif") for end in ends if end != ".geojson")


def test_a_maps_options_are_those_that_change_its_pixels(settings):
    predict = settings["predict"]
    before = maps.options_of(predict)
    others = {
        "batch_size": 7,
        "sieve": 9,
        "also": ["colours"],
        "compare": True,
        "engine": "auto",
        "resample": True,
        "scale": "auto",
    }
    assert maps.options_of({**predict, **others}) == before
    assert set(others) | set(maps.PIXELS) == set(predict)
    for key, value in {"window": 96, "overlap": 0.5, "views": [1], "precision": "int8"}.items():
        assert maps.options_of({**predict, key: value}) != before


def test_maps_stand_where_all_their_files_do_and_their_bytes_are_those_of_the_table(settings, tmp_path):
    settings["predict"].update(compare=True, also=["confidence", "polygons"])
    expected = maps.expected_maps(settings, tmp_path)
    assert [path.name for path, _ in expected] == ["2_13.tif", "2_13.one_view.tif", "2_13.side_by_side.tif"]
    files = [part for path, also in expected for part in maps.files_of(path, also)]
    assert len(files) == 3 * 4 + 1  # a map has no polygons where there is no longitude
    assert not maps.maps_stand(settings, tmp_path)
    for part in files:
        part.parent.mkdir(exist_ok=True)
        part.write_text("a")
    assert not maps.maps_stand(settings, tmp_path)
    rows = [{"map": path.stem, "sha256": sha256(path)} for path, _ in expected]
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
