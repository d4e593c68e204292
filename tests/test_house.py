"""The laws of the house: which files there are, who imports whom, how long things may be."""

import ast
import subprocess

import pytest
from conftest import ROOT

WINGS = ("base", "imagery", "learning", "mapping", "reporting")
BELOW = {
    "base": set(),
    "imagery": {"base"},
    "learning": {"base", "imagery"},
    "mapping": {"base", "imagery"},
    "reporting": {"base", "imagery", "learning", "mapping"},
}
SCRIPTS = {"prepare_data", "lr_find", "train", "predict", "evaluate", "report", "compare", "stamps"}
PARTS = {"model", "pipeline", "trainer"}  # of the root, which scripts share
WITH_KERAS = {
    *("model.py", "pipeline.py", "trainer.py"),
    *("learning/encoders.py", "learning/normalization.py"),
    *("learning/optimizers.py", "learning/workers.py"),
}
WITH_KERAS_INSIDE_FUNCTIONS = {"mapping/engines.py", "mapping/translate.py", "learning/records.py"}
FILES = sorted(
    path.relative_to(ROOT)
    for path in [*ROOT.glob("*.py"), *(p for w in WINGS for p in ROOT.glob(f"{w}/*.py"))]
)
TREES = {path: ast.parse((ROOT / path).read_text(encoding="utf-8")) for path in FILES}


def modules_of(node):
    """The modules that an import statement names."""
    if isinstance(node, ast.Import):
        return [name.name for name in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
    return []


def imports(tree):
    return [module for node in ast.walk(tree) for module in modules_of(node)]


def room(path):
    """A folder, or a file of the root: what a newcomer sees at the top."""
    return path.parts[0].removesuffix(".py")


def rooms_below(path):
    return {module.partition(".")[0] for module in imports(TREES[path])} & ({*WINGS} | SCRIPTS | PARTS)


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_the_files_of_the_root_are_few_and_none_is_long():
    assert {path.stem for path in FILES if len(path.parts) == 1} == SCRIPTS | PARTS
    lengths = {str(path): len((ROOT / path).read_text().splitlines()) for path in FILES}
    assert {name: lines for name, lines in lengths.items() if lines > 330} == {}
    assert not [path for path in FILES if "util" in path.stem or "helper" in path.stem]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_go_down(path):
    below = rooms_below(path)
    if len(path.parts) > 1:
        assert below <= BELOW[path.parts[0]] | {path.parts[0]}
    else:
        assert not below & SCRIPTS, "a script imports a script"


def test_the_arrows_between_rooms_are_few_and_form_no_circle():
    arrows = {(room(path), below) for path in FILES for below in rooms_below(path) if below != room(path)}
    assert len(arrows) <= 52
    left, gone = {name for arrow in arrows for name in arrow}, set()
    while ready := {name for name in left - gone if all(b in gone for a, b in arrows if a == name)}:
        gone |= ready
    assert gone == left


def test_no_circle_within_a_wing():
    for wing in WINGS:
        names = {path.stem for path in FILES if path.parts[0] == wing}
        arrows = {
            (path.stem, module.split(".")[1])
            for path in FILES
            if path.parts[0] == wing
            for module in imports(TREES[path])
            if module.startswith(f"{wing}.") and module.split(".")[1] in names
        }
        gone = set()
        while ready := {name for name in names - gone if all(b in gone for a, b in arrows if a == name)}:
            gone |= ready
        assert gone == names, wing


@pytest.mark.parametrize("path", FILES, ids=str)
def test_nothing_is_imported_by_name(path):
    named = {node.id for node in ast.walk(TREES[path]) if isinstance(node, ast.Name)}
    named |= {node.attr for node in ast.walk(TREES[path]) if isinstance(node, ast.Attribute)}
    assert not named & {"import_module", "__import__"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_keras_and_tensorflow_are_named_where_the_network_lives(path):
    heavy = {"keras", "tensorflow"}
    anywhere = {module.partition(".")[0] for module in imports(TREES[path])} & heavy
    inside = {module for function in functions(TREES[path]) for module in imports(function)}
    if str(path) not in WITH_KERAS | WITH_KERAS_INSIDE_FUNCTIONS:
        assert not anywhere
    if str(path) in WITH_KERAS_INSIDE_FUNCTIONS:
        assert anywhere <= {module.partition(".")[0] for module in inside}
        assert not {module for node in TREES[path].body for module in modules_of(node)} & heavy


@pytest.mark.parametrize("path", FILES, ids=str)
def test_functions_are_short_and_take_few_arguments(path):
    for node in functions(TREES[path]):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        names = [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
        assert node.end_lineno - node.lineno < 40, f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        assert len(names) <= 6 or node.name == "__init__", f"{node.name}: {len(names)} arguments"


def test_no_line_is_longer_than_110_characters():
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    paths = listed or [path.relative_to(ROOT) for path in ROOT.glob("**/*.py") if ".venv" not in path.parts]
    long = [
        f"{path}:{number}"
        for path in paths
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 110
    ]
    assert long == []


def test_a_file_of_tests_is_named_after_a_module():
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    whole = {
        "house",
        "chain",
        "faults",
        "makefile",
        "real_tiles",
    }  # the house, the steps together, make, real data
    assert tests - {path.stem for path in FILES} - whole == set()


def test_docstrings_stand_at_the_top_of_every_file():
    for path in FILES:
        assert ast.get_docstring(TREES[path]), path


@pytest.mark.parametrize("recipe, width", [("params", 32), ("demo", 16), ("notebook", 32)])
def test_benchmarks_find_the_settings_by_their_name(recipe, width, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import bench

    assert bench.settings_of(recipe)["model"]["width"] == width


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_take_settings_by_name_alone(script):
    """A file of settings may move; a path that is put together by hand then fails after half an hour."""
    if script.stem != "bench":
        assert '}.yaml"' not in script.read_text()
