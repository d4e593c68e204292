"""Glob patterns and list files of a split become plain names."""

import time

import pytest
import yaml
from conftest import problems_of, run_script, whole_demo
from hypothesis import given
from hypothesis import strategies as st

from base.names import LONGEST, fits, natural, read_list
from base.problem import Problem
from base.settings import read_settings

LAYOUT = {"image": "{folder}/images_png/{name}.png", "label": "{folder}/masks_png/{name}.png", "raw": "raw"}
NAMES = ["Train/Urban/1", "Train/Urban/2", "Train/Urban/10", "Train/Rural/3", "Val/Urban/10", "Val/Urban/21"]


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """Images and labels of NAMES; the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        folder, _, last = name.rpartition("/")
        for kind in ("images_png", "masks_png"):
            (tmp_path / "raw" / folder / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / "raw" / folder / kind / f"{last}.png").touch()
    (tmp_path / "whole.yaml").write_text(whole_demo())
    return tmp_path


def split_of(folder, train, val=("Val/Urban/10",), test=("Val/Urban/21",)):
    roles = {"train": train, "val": list(val), "test": list(test)}
    (folder / "own.yaml").write_text(yaml.safe_dump({"base": "whole.yaml", "data": LAYOUT, "split": roles}))
    return read_settings(folder / "own.yaml")["split"]


def refusal(*arguments):
    with pytest.raises(Problem) as caught:
        split_of(*arguments)
    assert caught.value.code == 2
    return "\n".join(caught.value.lines)


@pytest.mark.parametrize(
    "glob, names",
    [
        ("Train/**", ["Train/Rural/3", "Train/Urban/1", "Train/Urban/2", "Train/Urban/10"]),
        ("Train/*/[1-2]*", ["Train/Urban/1", "Train/Urban/2", "Train/Urban/10"]),
        ("**/Urban/?", ["Train/Urban/1", "Train/Urban/2"]),
        ("Train/Urban/[!1]", ["Train/Urban/2"]),
    ],
)
def test_a_pattern_names_tiles_in_natural_order(raw, glob, names):
    assert split_of(raw, [glob])["train"] == names


def test_a_tile_that_two_entries_of_a_role_name_is_in_it_once(raw):
    assert split_of(raw, ["Train/Urban/2", "Train/Urban/*"])["train"] == [
        "Train/Urban/2",
        "Train/Urban/1",
        "Train/Urban/10",
    ]


@pytest.mark.parametrize(
    "train, expected",
    [
        (["train/*"], 'key split.train: "train/*": fits no tile, expected names of images in raw (data.raw)'),
        (["*"], "Train/Rural/3, Train/Urban/1, Train/Urban/2, ... (6 tiles)"),
        (
            ["**"],
            'split.val: tile Val/Urban/10, expected in one role only; it is in split.train too, by "**"',
        ),
        (["@no.txt"], '"@no.txt": no such file, expected {}/no.txt (beside the settings file) or raw/no.txt'),
        (["a//b"], '["a//b"], expected a list'),
        (["Train/Urban/1", 12], "[12], expected a list"),
    ],
)
def test_what_a_split_cannot_mean_is_refused(raw, train, expected):
    assert expected.format(raw) in refusal(raw, train)


def test_where_no_file_is_a_tile_the_files_are_named(raw):
    for image in list((raw / "raw").rglob("*.png")):
        image.rename(image.with_suffix(".PNG"))
    assert 'no tile, of files "Train/Rural/images_png/3.PNG", ' in refusal(raw, ["Train/**"])


def test_a_name_that_no_tile_may_have_is_told_where_a_pattern_fits_it(raw):
    (raw / "raw/Train/Urban/images_png/a[1].png").touch()
    assert 'fits "Train/Urban/images_png/a[1].png" in raw, expected names without' in refusal(
        raw, ["Train/**"]
    )
    assert len(split_of(raw, ["Train/Urban/[0-9]*"])["train"]) == 3


LINES = "\ufeff# a comment\r\n\r\n{}\r\n"


@pytest.mark.parametrize(
    "line",
    [
        "Train/Urban/2",
        "2",
        "2.png",
        "2.tif",
        "./Urban/images_png/2.png",
        "Urban\\images_png\\2.png",
        "/home/somebody/LoveDA/Train/Urban/images_png/2.png",
        "  Train/Urban/images_png/2 ",
    ],
)
def test_a_line_names_a_tile_by_its_name_or_its_image(raw, line):
    (raw / "train.txt").write_text(LINES.format(line), newline="")
    assert split_of(raw, ["@train.txt"])["train"] == ["Train/Urban/2"]


def test_a_list_lies_beside_the_settings_or_below_the_raw_tiles(raw):
    (raw / "raw/train.txt").write_text("1\n")
    assert split_of(raw, ["@train.txt"])["train"] == ["Train/Urban/1"]
    (raw / "train.txt").write_text("Train/Urban/10\n2\n", encoding="utf-16")  # as PowerShell writes
    assert split_of(raw, ["@train.txt"])["train"] == ["Train/Urban/10", "Train/Urban/2"]


@pytest.mark.parametrize(
    "content, expected",
    [
        ("1\n10\n", '1 of 2 lines name several tiles (line 2: "10" (Train/Urban/10, Val/Urban/10))'),
        (
            "1\n77\n\n78\n79\n80\n",
            '4 of 5 lines name no tile (line 2: "77", line 4: "78", line 5: "79", ...)',
        ),
        ("# none\n", "no name in it, expected a name a line"),
        (b"\xff\x00\x80", "train.txt: not in UTF-8, expected a text file"),
        (b"PK\x03\x04", "control characters, as of a binary file"),
        ("/" * 5000, "name no tile"),
        ("x/" * 2000 + "1", "name no tile"),
    ],
)
def test_a_list_that_names_no_tiles_is_refused(raw, content, expected):
    (raw / "train.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert expected in refusal(raw, ["@train.txt"])


def test_lists_beyond_reason_are_refused_at_once(raw):
    started = time.process_time()
    (raw / "train.txt").write_text("chip\n" * 50_000)
    assert "50000 of 50000 lines name no tile" in refusal(raw, ["@train.txt"])
    with open(raw / "train.txt", "w") as file:
        file.truncate(LONGEST + 1)
    with pytest.raises(Problem, match="MB, expected at most 67 MB"):
        read_list(raw / "train.txt")
    for odd in ("/dev/zero", "raw"):
        assert "no file, expected a text file" in refusal(raw, [f"@{odd}"])
    assert time.process_time() - started < 10


@pytest.mark.parametrize("value", ["[*]", "[**/1]", "[@train.txt]", "*", "@train.txt"])
def test_a_pattern_without_quotes_is_told_to_need_them(tmp_path, value):
    told = problems_of(tmp_path, whole_demo().replace("test: [2_13]", f"test: {value}"))
    assert "line " in told and "put a value that begins with * or @ in quotes" in told


def test_the_settings_are_shown_with_plain_names_which_are_read_again(raw):
    names = split_of(raw, ["Train/**"])
    shown = run_script("compare.py", "--show", "--params", "own.yaml", cwd=raw)
    (raw / "plain.yaml").write_text(shown.stdout)
    (raw / "raw").rename(raw / "away")
    assert read_settings(raw / "plain.yaml")["split"] == names


def test_many_names_are_read_in_little_time(raw):
    names = [f"D{i % 77}/Z1_UU/{i:06}" for i in range(5_000)]
    split_of(raw, names)
    started = time.process_time()
    assert read_settings(raw / "own.yaml")["split"]["train"] == names
    assert time.process_time() - started < 5


PART = st.text("ab1*?", min_size=1, max_size=3)


@given(
    st.lists(PART | st.just("**"), min_size=1, max_size=4), st.lists(st.text("ab1", min_size=1), min_size=1)
)
def test_patterns_fit_as_paths_do(parts, name):
    from pathlib import PurePosixPath

    name = "/".join(name)
    if "**" not in "".join(part for part in parts if part != "**"):
        expected = "**" in parts or PurePosixPath("/" + name).match("/" + "/".join(parts))
        assert not fits("/".join(parts), name) or expected
        assert fits(name, name) and fits("**", name) and fits("**/" + name, name)


def test_numbers_in_names_are_ordered_as_numbers():
    names = ["a/2", "a/10", "a2/1", "a10/1", "b", "b1", "b01"]
    assert sorted(reversed(names), key=natural) == ["a/2", "a/10", "a2/1", "a10/1", "b", "b01", "b1"]
