import pytest
from conftest import ROOT


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
