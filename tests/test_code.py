"""Which code makes a result: derived from the imports."""

import shutil

import pytest
from conftest import ROOT

from base import code
from base.code import code_of, code_sha256

STEPS = ("prepare_data", "lr_find", "train", "predict", "evaluate", "report")


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """Calls with a file and a line to add to it; returns the steps whose digest that changes."""
    tmp_path = tmp_path_factory.mktemp("copy")
    for path in ROOT.glob("*.py"):
        shutil.copy(path, tmp_path)
    for wing in ("base", "imagery", "learning", "mapping", "reporting"):
        shutil.copytree(ROOT / wing, tmp_path / wing, ignore=shutil.ignore_patterns("__pycache__"))
    code.imported.cache_clear()

    def digests():
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(code, "ROOT", tmp_path)
            return {step: code_of(f"{step}.py") for step in STEPS}

    before = digests()

    def add(name, line):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text + line)
        code.imported.cache_clear()
        after = digests()
        (tmp_path / name).write_text(text)
        return [step for step in STEPS if after[step] != before[step]]

    yield add
    code.imported.cache_clear()


@pytest.mark.parametrize(
    "name, touched, spared",
    [
        ("imagery/labels.py", {"prepare_data"}, {"lr_find", "train"}),  # a decoder, no training
        ("learning/patches.py", {"lr_find", "train"}, {"prepare_data", "predict", "evaluate"}),  # nor maps
        ("learning/optimizers.py", {"lr_find", "train"}, {"prepare_data", "predict", "evaluate", "report"}),
        ("mapping/blending.py", {"predict"}, {"prepare_data", "lr_find", "train"}),
        ("imagery/scores.py", {"train", "evaluate"}, {"prepare_data"}),
        ("reporting/charts.py", {"report"}, {"prepare_data", "lr_find", "train", "predict", "evaluate"}),
        ("imagery/tiles.py", {"prepare_data", "lr_find", "train", "evaluate"}, set()),
        ("base/files.py", set(), set(STEPS)),
        ("model.py", {"lr_find", "train"}, {"prepare_data", "predict", "evaluate", "report"}),
    ],
)
def test_a_step_is_made_by_what_it_imports(changed, name, touched, spared):
    steps = set(changed(name, "\nADDED = 1\n"))
    assert touched <= steps and not spared & steps
    assert changed(name, "\n# a comment\n\n\n") == []


def test_comments_and_blanks_are_no_code(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("a = 1\nb = '# no comment'\n")
    plain = code_sha256(path)
    path.write_text("# said before\n\na = 1  # one\n\n\nb = '# no comment'\n")
    assert code_sha256(path) == plain
    path.write_text("a = 1\nb = '# other text'\n")
    assert code_sha256(path) != plain
