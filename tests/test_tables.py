"""The files of a run: JSON that carries its own digest, CSV tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.problem import Problem
from base.tables import (
    parse_record,
    read_columns,
    read_record,
    read_table,
    record_text,
    write_record,
    write_rows,
)

CONTENT = st.dictionaries(
    st.text(max_size=5).filter(lambda name: name != "digest"),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


@given(CONTENT)
def test_a_record_is_read_back_as_it_was_written(content):
    assert parse_record(record_text(content)) == content


@given(CONTENT, st.data())
def test_any_other_text_is_no_record(content, data):
    text = record_text(content)
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(exclude_categories=["Cs"]).filter(lambda sign: sign != text[place]))
    for edited in (text[:place] + other + text[place + 1 :], text[:place], text + "\n"):
        with pytest.raises(ValueError, match="damaged, edited"):
            parse_record(edited)


def test_a_record_that_was_edited_is_refused_with_the_script_to_run_again(tmp_path):
    path = tmp_path / "metrics.json"
    with pytest.raises(
        Problem, match="no such file or directory, expected it as evaluate.py writes it; run evaluate.py"
    ):
        read_record(path, "evaluate.py")
    write_record(path, {"full": {"mean_iou": 0.5}})
    assert read_record(path, "evaluate.py") == {"full": {"mean_iou": 0.5}}
    path.write_text(path.read_text().replace("0.5", "0.9"))
    with pytest.raises(Problem, match="damaged, edited or of an earlier version") as caught:
        read_record(path, "evaluate.py")
    assert caught.value.code == 3
    for bytes_ in (b"\xff", b"", b"[" * 100_000, b"[1]", b"null", b'{"digest": 1}'):
        path.write_bytes(bytes_)
        with pytest.raises(Problem, match="file .*metrics.json"):
            read_record(path, "evaluate.py")


def test_columns_are_finite_numbers(tmp_path):
    path = tmp_path / "history.csv"
    write_rows(path, ["epoch", "loss"], [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
    assert read_columns(path, "epoch", "loss")["loss"].tolist() == [0.5, 0.25]
    for text, expected in (
        ("epoch,loss\n1,nan\n", "'nan' in line 2, column loss, expected a finite number"),
        ("epoch\n1\n", "None in line 2, column loss"),
        ("epoch,loss\n", "no rows, expected some"),
        ("epoch,loss\n1\n", "a row of another length than the header"),
    ):
        path.write_text(text)
        with pytest.raises(Problem, match=expected):
            read_columns(path, "epoch", "loss")
    path.unlink()
    with pytest.raises(Problem, match="no such file"):
        read_table(path)
