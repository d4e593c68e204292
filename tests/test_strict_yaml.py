"""YAML 1.2 core, read with lines, written so that both versions read the same."""

import re

import pytest
import yaml
from conftest import problems_of, whole_demo
from hypothesis import given
from hypothesis import strategies as st

from base.keys import SECTIONS
from base.problem import Problem
from base.settings import read_settings
from base.strict_yaml import read_yaml, yaml_text


def test_scalars_are_read_as_yaml_1_2(tmp_path):
    text = whole_demo().replace("max_lr: auto", "max_lr: 1e-3").replace("seed: 1", "seed: 012")
    (tmp_path / "settings.yaml").write_text(text)
    settings = read_settings(tmp_path / "settings.yaml")
    assert settings["train"]["max_lr"] == 0.001  # PyYAML alone: the text "1e-3"
    assert settings["seed"] == 12  # PyYAML alone: 10
    assert settings["split"]["test"] == ["2_13"]  # PyYAML alone: the number 213


@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(str.encode),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(SECTIONS + ["x"]), inner, max_size=3)
            ),
            max_leaves=12,
        ).map(lambda value: yaml.safe_dump(value, allow_unicode=True).encode()),
    )
)
def test_any_bytes_end_in_settings_or_in_a_clean_refusal(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "settings.yaml"
    path.write_bytes(content)
    with pytest.raises(Problem) as caught:  # none of these can be a whole settings file
        read_settings(path)
    assert caught.value.code == 2


ODD = [
    "!!map x",
    "!!seq x",
    "!!seq {a: 1}",
    "!!str [1]",
    "!!int {}",
    "!!python/object:os.system x",
    '"\\U00110000"',
    '"\\UFFFFFFFF"',
    '"\\ud800"',
    "9" * 5000,
    "&a 1",
    "*a",
    '"2_10\\n"',
    "1e999",
    ".nan",
    "- 1",
    "{",
]


# free texts: paths and patterns of files, names, a title; and a seed, beyond all others, is a number like any
TEXT_KEYS = ("raw", "prepared", "title", "assume_crs", "extra", "area", "label_field", "label_layer")
FREE = (*TEXT_KEYS, "label", "eroded_label", "weights", "seed")


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_an_odd_value_at_any_key_of_whole_settings_is_refused_by_line(tmp_path, odd):
    lines = whole_demo().splitlines()
    path = tmp_path / "settings.yaml"
    for i, line in enumerate(lines):
        if not re.match(r"^(  )?\w+: \S", line):
            continue
        key = line.partition(":")[0]
        path.write_text("\n".join([*lines[:i], f"{key}: {odd}", *lines[i + 1 :]]) + "\n")
        try:
            found = read_settings(path)
        except Problem as problem:
            assert problem.code == 2, (key, problem.lines)
            assert all(re.search(r"line \d+", line) for line in problem.lines), (key, problem.lines)
        else:
            assert key.strip() in FREE or odd == "&a 1", key  # a YAML anchor is nothing: the default
            yaml.safe_dump(found, allow_unicode=True).encode()


def test_a_version_beyond_reason_is_refused(tmp_path):
    assert "line 1" in problems_of(tmp_path, f"%YAML 1.{'9' * 5000}\n---\na: 1\n")


def test_deep_nesting_is_refused(tmp_path):
    assert "nested too deeply" in problems_of(tmp_path, "[" * 20_000)


ODD_TEXTS = ["2_10", "1e-3", "012", "no", "null", "~", "12:30", "=", "<<", "#a"]
TEXTS = st.text(max_size=8) | st.sampled_from(ODD_TEXTS)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=3))
def test_what_is_written_is_read_back_by_both_versions(tmp_path_factory, settings):
    path = tmp_path_factory.mktemp("written") / "settings.yaml"
    path.write_text(yaml_text(settings), encoding="utf-8", newline="")
    value, _, problems = read_yaml(path)
    assert value == settings and problems == []
    assert yaml.safe_load(path.read_bytes()) == settings
