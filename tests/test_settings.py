import re

import pytest
import yaml
from conftest import ROOT, problems_of, run_script, save_settings, whole_demo

from base.keys import BESIDE, KEYS, SECTIONS
from base.patterns import fill
from base.problem import Problem
from base.settings import all_tiles, read_settings

SHIPPED = [f"settings/{path.name}" for path in sorted((ROOT / "settings").glob("*.yaml"))]


@pytest.mark.parametrize("name", ["params.yaml", "demo.yaml", *SHIPPED])
def test_the_shipped_files_are_valid_and_have_every_key(name):
    settings = read_settings(ROOT / name)
    assert {
        f"{s}.{k}" if isinstance(v, dict) else s
        for s, v in settings.items()
        for k in (v if isinstance(v, dict) else [0])
    } == set(KEYS)
    assert list(settings) == SECTIONS


def test_the_official_split_is_whole():
    split = read_settings(ROOT / "params.yaml")["split"]
    assert (len(split["train"]), len(split["val"]), len(split["test"])) == (22, 1, 14)
    assert "7_10" not in all_tiles(split)


@pytest.mark.parametrize(
    "before, after, expected",
    [
        ("patch_size: 128", "patch_sise: 128", "key input.patch_sise: unknown, expected input.patch_size?"),
        ("epochs: 18", "epochs: no", 'key train.epochs: "no", expected a whole number'),
        ("epochs: 18", "epochs: 1.5", "key train.epochs: 1.5"),
        ("epochs: 18", "epochs: true", "key train.epochs: true"),
        ("epochs: 18", "epochs: 15\n  epochs: 16", "key train.epochs: given twice"),
        ("epochs: 18", "epochs: .nan", "key train.epochs: NaN"),
        ("max_lr: auto", "max_lr: .inf", "key train.max_lr: Infinity"),
        ("batch_size: 8\n  stride", "batch_size: 0\n  stride", "key input.batch_size: 0"),
        ("patch_size: 128", "patch_size: 1000000000", "key input.patch_size: 1000000000"),
        ("patch_size: 128", "patch_size: 100", "a multiple of 32"),
        ("test: [2_13]", "test: [2_10]", "tile 2_10, expected in one role only; it is in split.val too"),
        ("test: [2_13]", "test: [2_13, 2_13]", "key split.test"),
        ("test: [2_13]", "test: ['../2_13']", "key split.test"),
        ("leave_out: [clutter]", "leave_out: [cluter]", 'key evaluate.leave_out: "cluter"'),
        ("loss: {ce: 1}", "loss: {dise: 1}", "key train.loss"),
        ("max_lr: auto", "max_lr: 0", "key train.max_lr: 0"),
        ("max_lr: auto", "max_lr: -0.1", "key train.max_lr: -0.1"),
        ("momentum: [0.95, 0.80]", "momentum: [0.95, 1]", "key train.momentum"),
        ("momentum: [0.95, 0.80]", "momentum: [-0.1, 0.8]", "key train.momentum"),
        (
            "class_weights: 0.75",
            "class_weights: {car: 2}",
            "key train.class_weights: weights of car, expected one for",
        ),
        ("test: [2_13]", "test: [2_13, 2_13.one_view]", "key split.test: tile 2_13.one_view"),
        ("class_weights: 0.75", "class_weights: 2", "key train.class_weights: 2"),
        ("label_smoothing: 0", "label_smoothing: 0.7", "key train.label_smoothing"),
        ("mixed_precision: false", "mixed_precision: float8", "key train.mixed_precision"),
        ("ema: 0", "ema: 1", "key train.ema: 1"),
        ("stem: 2", "stem: 2.0", "key model.stem: 2.0, expected one of 1, 2, 4"),
        ("  nodata: null", "  nodata: .nan", "key data.nodata: NaN, expected null or a colour as"),
        ("  nodata: null", f"  nodata: {10**400}", "key data.nodata: 1000"),
        ("clip_norm: 0", f"clip_norm: {10**400}", "key train.clip_norm"),
        ("epochs: 18", "epochs: 100000", "key train.epochs: 100000, expected a whole number from 1 to 99999"),
        ("end: 10", "end: 5.0e-4", "key lr_find.start: 0.0001, expected at most a tenth of lr_find.end"),
        ("stem: 2", "stem: 3", "key model.stem: 3, expected one of 1, 2, 4"),
        (
            "patch_size: 128",
            "patch_size: 120",
            "a multiple of 32 (of model.stem times 2 to the power of model.depth",
        ),
        (
            "local_contrast: [8, 32]",
            "local_contrast: [24]",
            "key input.patch_size: 128, expected a multiple of 96",
        ),
        ("local_contrast: [8, 32]", "local_contrast: 8", "key model.local_contrast: 8, expected a list"),
        ("seed: 1", "seed: !!python/object/apply:os.system ['touch canary']", "tag"),
        ("seed: 1", "", "key seed: missing"),
        (
            "evaluate:\n  erode: 3\n  reach: 20\n  leave_out: [clutter]",
            "evaluate: true",
            "key evaluate: true, expected its keys",
        ),
        ("seed: 1", "seed: &a 1\nother: *a", "an alias"),
        ("seed: 1", "\tseed: 1", "expected YAML"),
        ("stride: random", "stride: 129", "key input.stride: 129, expected at most input.patch_size"),
        ("stride: random", "stride: often", "key input.stride"),
        ("aim: {}", "aim: {bus: 0.1}", 'key input.aim: "bus", expected names of data.classes'),
        ("aim: {}", "aim: {car: 0.7, tree: 0.5}", "key input.aim: shares of 1.2 together"),
        ("scale: [1, 1]", "scale: [2, 1]", "key augment.scale"),
        ("hue: 0", "hue: 0.6", "key augment.hue"),
        ("  scale: null", "  scale: [255, 0]", "key data.scale"),
        (
            "  scale: null",
            "  scale: [[0, 1], null]",
            "key data.scale: 2 entries, expected one for each of the 3 bands",
        ),
        (
            "label_values: null",
            "label_values: {car: 1}",
            "key data.label_values: values of car, expected one for each",
        ),
        ('["#000000"]', "[255]", "key data.ignore_colours: [255], expected colours"),
        ("extra: null", "extra: /height.tif", "key data.extra"),
        ("allow_overlap: []", "allow_overlap: [a//b]", "key data.allow_overlap"),
    ],
)
def test_a_wrong_setting_is_named_with_its_line(tmp_path, monkeypatch, before, after, expected):
    monkeypatch.chdir(tmp_path)
    text = whole_demo()
    assert before in text
    assert expected in problems_of(tmp_path, text.replace(before, after, 1))
    assert not (tmp_path / "canary").exists()


ENCODER = {
    "stem: 2": ("stem: 1", "key model.stem: 1, expected 2 or 4 with an encoder"),
    "rgb: [1, 2, 3]": (
        "rgb: [null, 4, 1]",
        "key model.rgb: [null, 4, 1], expected places in data.bands, 1 to 3",
    ),
    "mixed_precision: false": (
        "mixed_precision: true",
        "key train.mixed_precision: true, expected false or bfloat16 with an encoder",
    ),
    "patch_size: 128": ("patch_size: 144", "key input.patch_size: 144, expected a multiple of 32"),
}


@pytest.mark.parametrize("before", ENCODER)
def test_what_an_encoder_cannot_do_is_refused_with_one_alone(tmp_path, before):
    after, expected = ENCODER[before]
    text = whole_demo().replace("depth: 4", "depth: 3").replace("[8, 32]", "[8]").replace(before, after, 1)
    (tmp_path / "fine.yaml").write_text(text)
    assert read_settings(tmp_path / "fine.yaml")["model"]["encoder"] == "none"
    told = problems_of(tmp_path, text.replace("encoder: none", "encoder: efficientnet_v2_b3"))
    assert expected in told and len(told.splitlines()) == 1


@pytest.mark.parametrize(
    "before, after, expected",
    [
        ("encoder: none", "encoder: resnet50", 'key model.encoder: "resnet50", expected one of none, effi'),
        ("weights: imagenet", "weights: null", "key model.weights: null"),
        ("rgb: [1, 2, 3]", "rgb: [1, 1, 2]", "key model.rgb: [1, 1, 2], expected three entries"),
        ("rgb: [1, 2, 3]", "rgb: [1, 2]", "key model.rgb: [1, 2], expected three entries"),
        ("rgb: [1, 2, 3]", "rgb: [0, 1, 2]", "key model.rgb: [0, 1, 2], expected three entries"),
        ("encoder_rate: 0.1", "encoder_rate: 1.5", "key train.encoder_rate: 1.5, expected"),
        ("freeze_epochs: 0", "freeze_epochs: 0.5", "key train.freeze_epochs: 0.5, expected"),
    ],
)
def test_a_wrong_setting_of_encoders_is_named(tmp_path, before, after, expected):
    text = whole_demo()
    assert before in text and expected in problems_of(tmp_path, text.replace(before, after, 1))


def test_values_of_classes_and_of_what_is_ignored_differ(tmp_path):
    text = whole_demo().replace('["#000000"]', "[3]")
    names = ["impervious", "building", "low vegetation", "tree", "car", "clutter"]
    values = ", ".join(f"{name}: {value}" for value, name in enumerate(names))
    told = problems_of(tmp_path, text.replace("label_values: null", f"label_values: {{{values}}}"))
    assert "key data.label_values: a value that stands twice" in told
    path = tmp_path / "settings.yaml"
    path.write_text(path.read_text().replace("[3]", "[255]"))
    assert read_settings(path)["data"]["label_values"]["car"] == 4


def test_hue_needs_three_bands(tmp_path):
    text = whole_demo().replace("bands: [1, 2, 3]", "bands: [1, 2, 3, 4]").replace("hue: 0", "hue: 0.1")
    assert "key augment.hue: 0.1, expected 0 unless data.bands are three" in problems_of(tmp_path, text)


def test_paths_of_a_tile():
    assert fill("a/{tile}_{padded}.tif", "2_10") == "a/2_10_02_10.tif"
    assert fill("{padded}", "area7_123") == "area07_123"


def test_the_line_named_is_the_line(tmp_path):
    lines = whole_demo().replace("epochs: 18", "epochs: -1").split("\n")
    number = lines.index("  epochs: -1") + 1
    assert f"line {number}, key train.epochs: -1" in problems_of(tmp_path, "\n".join(lines))


def test_every_problem_is_listed_at_once(tmp_path):
    text = whole_demo().replace("epochs: 18", "epochs: -1").replace("width: 16", "with: 16")
    told = problems_of(tmp_path, text)
    assert "train.epochs" in told and "model.with" in told and "model.width: missing" in told


def test_a_key_with_a_dot_is_not_the_key_below_its_section(tmp_path):
    told = problems_of(tmp_path, whole_demo() + "train.epochs: 5\n")
    assert "key train.epochs: at the margin, expected epochs indented below train" in told


def test_a_script_refuses_in_ascii_and_with_exit_code_2(tmp_path, settings):
    settings["report"]["title"] = 7
    save_settings(tmp_path, settings)
    done = run_script(
        "prepare_data.py", "--params", "tiny.yaml", cwd=tmp_path, PYTHONIOENCODING="ascii", LC_ALL="C"
    )
    assert done.returncode == 2 and done.stderr.startswith("error: settings in tiny.yaml, line ")
    assert "Traceback" not in done.stderr and done.stderr.isascii()
    assert not list(tmp_path.glob("runs")) and not list(tmp_path.glob("prepared"))


def test_the_settings_are_shown_as_resolved_with_what_differs_from_the_default():
    done = run_script("compare.py", "--show", "--params", str(ROOT / "demo.yaml"))
    assert yaml.safe_load(done.stdout) == read_settings(ROOT / "demo.yaml")
    assert "\n# train.epochs: 18, there 60\n" in done.stdout and "augment.hue" not in done.stdout
    done = run_script("compare.py", "--show", "--params", str(ROOT / "params.yaml"))
    assert "\n# 0 keys differ from params.yaml\n" in done.stdout


def test_every_key_is_explained_in_place_and_every_section_names_its_steps():
    section, lines = None, (ROOT / "params.yaml").read_text().splitlines()
    keys = {}
    for line in lines:
        if found := re.match(r"^(\w+):(.*)$", line):
            section = found[1]
            keys[section] = found[2]
        elif found := re.match(r"^  ([a-z_]+):(.*)$", line):
            keys[f"{section}.{found[1]}"] = found[2]
    assert set(KEYS) <= set(keys)
    unexplained = [key for key in KEYS if "#" not in keys[key] and key != "data.classes"]
    assert unexplained == []
    steps = {"prepare_data", "lr_find", "train", "predict", "evaluate", "report"}
    for name in SECTIONS:
        assert steps & set(re.findall(r"\w+", keys[name].partition("#")[2])), name


def test_a_file_with_a_base_holds_what_differs_and_is_checked_as_a_whole(tmp_path):
    (tmp_path / "whole.yaml").write_text(whole_demo())
    (tmp_path / "settings").mkdir()
    path = tmp_path / "settings/wide.yaml"
    path.write_text("base: ../whole.yaml\ndata:\n  classes:\n    a: '#000001'\n    b: '#000002'\n")
    told = refusal(path)  # classes are replaced, not mixed: other keys of the base name classes that are gone
    assert (
        f"settings in {path.parent}/../whole.yaml, line " in told and 'evaluate.leave_out: "clutter"' in told
    )
    path.write_text("base: ../whole.yaml\nmodel:\n  width: 64\n")
    settings, whole = read_settings(path), read_settings(tmp_path / "whole.yaml")
    assert settings["model"] == {**whole["model"], "width": 64}
    assert {**settings, "model": whole["model"]} == whole


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            "base: whole.yaml\nmodel:\n  with: 3\n",
            "settings.yaml, line 3, key model.with: unknown, expected model.width?",
        ),
        ("base: whole.yaml\ntrain:\n  epochs: -1\n", "settings.yaml, line 3, key train.epochs: -1, expected"),
        (
            "base: whole.yaml\nsplit:\n  test: [2_10]\n",
            "settings.yaml, line 3, key split.test: tile 2_10, expected in one",
        ),
        ("base: whole.yaml\ntrain.epochs: 3\n", "line 2, key train.epochs: at the margin"),
        (
            "base: nosuch.yaml\n",
            'settings.yaml, line 1, key base: "nosuch.yaml", expected the path of a settings file',
        ),
        ("base: [1]\n", "line 1, key base: [1], expected the path of a settings file"),
        ("base: settings.yaml\n", 'key base: "settings.yaml", expected none in a file that is a base itself'),
        ("basis: whole.yaml\n", "line 1, key basis: unknown, expected base?"),
        ("base: broken.yaml\n", "broken.yaml, line 1, key train.epochs: missing"),
    ],
)
def test_what_is_wrong_with_a_base_or_above_it_is_named_where_it_stands(tmp_path, text, expected):
    (tmp_path / "whole.yaml").write_text(whole_demo())
    (tmp_path / "broken.yaml").write_text(whole_demo().replace("  epochs: 18\n", ""))
    (tmp_path / "settings.yaml").write_text(text)
    assert expected.replace("broken.yaml, line 1", "settings.yaml, line 1") in refusal(
        tmp_path / "settings.yaml"
    )


def refusal(path):
    with pytest.raises(Problem) as caught:
        read_settings(path)
    return "\n".join(caught.value.lines)


def test_a_tile_name_that_is_a_number_gets_the_hint_to_put_quotes(tmp_path):
    told = problems_of(tmp_path, whole_demo().replace("test: [2_13]", "test: [213]"))
    assert "key split.test: [213], expected a list" in told and 'a number in quotes: "12"' in told
    assert "quotes" not in problems_of(tmp_path, whole_demo().replace("bands: [1, 2, 3]", "bands: [0]"))


def test_the_ranges_that_params_yaml_tells_are_those_of_the_keys():
    section, ranges = None, {}
    for line in (ROOT / "params.yaml").read_text().splitlines():
        section = line.partition(":")[0] if re.match(r"\w", line) else section
        found = re.match(r"  (\w+):[^#]*# ([\d.]+)\.\.([\d.]+)\b", line)
        if found:
            ranges[f"{section}.{found[1]}"] = found[2], found[3]
    assert len(ranges) >= 8
    for key, (low, high) in ranges.items():
        assert f"from {low} to {high}" in KEYS[key][0], key


def test_what_may_lie_beside_a_map_is_what_maps_know():
    from mapping.maps import ALSO

    assert f"one of {', '.join(ALSO)}" in KEYS["predict.also"][0]
    ends = {ending.removeprefix(".") for ending in BESIDE}
    assert ends == {*ALSO, "uncalibrated", "one_view", "side_by_side"} - {"geopackage"}


OTHERS = "building: {}, low vegetation: {}, tree: {}, car: {}, clutter: %s}}"
VALUED = "{impervious: [1, 11], " + OTHERS.format(2, 3, 4, 5)
PAINTED = "{impervious: ['#ffffff', '#eeeeee'], " + OTHERS.format(*(f"'#{n * 6}'" for n in "2345"))


@pytest.mark.parametrize(
    "values, ignored, expected",
    [
        (VALUED % "[6, 11]", "[0]", "key data.label_values: a value that stands twice"),
        (VALUED % "[6, 0]", "[0]", "key data.label_values: a value that stands twice"),
        (VALUED % "[]", "[0]", "key data.label_values"),
        (VALUED % "[6, 70000]", "[0]", "key data.label_values"),
        (VALUED % "'#00ff00'", "[0]", "key data.label_values: colours beside other values"),
        (PAINTED % "['#666666', '#EEEEEE']", "[]", "key data.label_values: a value that stands twice"),
        (
            PAINTED % "'#666666'",
            "[7]",
            "key data.ignore_colours: [7], expected colours, as data.label_values are",
        ),
    ],
)
def test_values_and_colours_of_a_class_are_different_ones_of_one_kind(tmp_path, values, ignored, expected):
    text = whole_demo().replace("label_values: null", f"label_values: {values}")
    text = re.sub("ignore_colours: .*", f"ignore_colours: {ignored}", text)
    assert expected in problems_of(tmp_path, text)


def test_what_a_wrong_base_leaves_missing_is_not_told_of_and_the_way_out_once(tmp_path):
    (tmp_path / "a.yaml").write_text("base: b.yaml\nseed: 2\n")
    (tmp_path / "b.yaml").write_text("base: c.yaml\n")
    with pytest.raises(Problem, match="a file that is a base itself") as caught:
        read_settings(tmp_path / "a.yaml")
    assert len(caught.value.lines) == 1
    (tmp_path / "b.yaml").write_text("seed: 1\n")
    with pytest.raises(Problem) as caught:
        read_settings(tmp_path / "a.yaml")
    told = [line for line in caught.value.lines if "by a first line, base: " in line]
    assert len(caught.value.lines) > 60 and told == [caught.value.lines[0]]
