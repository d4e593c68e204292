import html
import re
import shutil
import subprocess

import numpy as np
import pytest

import report
from base.settings import all_tiles
from reporting import charts, page
from reporting.metrics import describe

CLASSES = {"<script>alert(2)</script>": "#ff0000", "$x_$ & b": "#00ff00"}
TILE = "<script>alert(3)</script>"
LAYERS = ("image", "labels", "prediction", "errors", "one view", "what the views change")


KINDS = "labelled", "predicted", "expected"
AREAS = [dict(zip(KINDS, shares)) for shares in ((0.6, 0.7, 0.6512), (0.4, 0.3, 0.3488))]


@pytest.fixture
def text(tmp_path, settings):
    """A page of one test tile, in which nothing is trained: two classes, six pictures, one figure."""
    settings["data"]["classes"], settings["report"]["title"] = CLASSES, "<script>alert(1)</script> & title"
    settings["split"] = {"train": ["<i>3_10</i>"], "val": ["2_10"], "test": [TILE]}
    scores = describe(np.array([[5, 1], [2, 4]]), list(CLASSES), ["$x_$ & b"])
    total = {"full": scores, "eroded": scores}
    protocol = {"text": "1 test tile(s); <b>", "views": [0, 5], "leave_out": ["$x_$ & b"]}
    metrics = {
        "protocol": protocol,
        **total,
        "tiles": {TILE: total},
        "ways": {"one_view": total},
        "areas": dict(zip(CLASSES, AREAS)),
        "settings": {},
    }
    labels = {"repaired": 0, "ignored": 0, "unknown": 2, "unknown_colours": {"#123456": 2}, "hidden": {}}
    row = {
        "shape": [20, 30, 3],
        "pixels": {"labels": labels},
        "nodata": 0,
        "outside_scale": [0],
        "off_grid": {},
        "grids": {},
        "dtype": "uint8",
        "georeference": {"crs": None, "transform": None},
        "classes": dict(zip(CLASSES, (600, 0))),
        "raw": {"image": {"sha256": "0123456789abcdef"}},
    }
    with charts.style():
        charts.draw_confusion(tmp_path / "figure.png", scores, list(CLASSES))
    rng = np.random.default_rng(0)
    slider = page.build_slider({name: rng.integers(0, 256, (20, 30, 3), np.uint8) for name in LAYERS})
    tiles = all_tiles(settings["split"])
    provenance = {"settings": settings, "commit": "<u>", "model": {"epoch": 3}}
    return page.build_page(
        settings,
        metrics,
        provenance,
        (settings["split"], dict.fromkeys(tiles, row)),
        {TILE: slider},
        {"Scores": {tmp_path / "figure.png": "A <caption>"}},
    )


def test_the_page_holds_its_pictures_and_escapes_every_name(text):
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)&lt;/script&gt; &amp; title" in text
    assert not re.findall(r'(?:src|href)="(?!data:image/(?:png|jpeg);base64,)', text)
    assert text.count("<img ") == len(LAYERS) + 1 and "A &lt;caption&gt;" in text
    for name in (*CLASSES, TILE, "<i>3_10</i>", "<u>", "1 test tile(s); <b>"):
        assert name not in text and html.escape(name) in text
    assert text.count("<script>") == 1  # the page's own
    assert "0123456789" not in text and "<code>01234567</code>" in text and "#123456 (2)" in text


def test_the_page_says_the_scores(text):
    assert text.count("<b>59.82</b>") == 1 and "<b>75.00</b>" in text  # 5 of 8 and 4 of 7; 9 of 12


def test_the_page_says_the_areas_as_labelled_as_predicted_and_as_expected(text):
    first, _ = CLASSES
    assert re.search(
        rf"{re.escape(html.escape(first))}</td><td>60.00</td>\s*<td>70.00</td><td>65.12</td>", text
    )


def test_the_page_says_the_doubts_that_preparing_says(text):
    said = [html.unescape(line) for line in re.findall('<p class="warning"><b>warning:</b> (.*?)</p>', text)]
    first, second = CLASSES
    assert len(said) == 2
    assert said[0].startswith(f"labels of split.train: no pixel of {second}, expected some of every class")
    assert f"split.train ({first}), split.val ({first}), split.test ({first}), expected two" in said[1]


def test_the_card_says_what_each_mean_is_of(text):
    rows = re.findall(r"<tr><td>2</td><td>full</td><td>(.*?)</td>\s*<td>(.*?)</td>\s*<td>(.*?)</td>", text)
    name = html.escape(list(CLASSES)[1])
    assert rows == [
        ("all 2", "75.00", "59.82"),  # 9 of 12; 5 of 8 and 4 of 7
        (f"without {name}", "recall 83.33", "62.50"),  # 5 of 6; 5 of 8
        (f"labels of {name} ignored", "83.33", "83.33"),  # 5 of 6
    ]


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHECKS = """<script>
addEventListener("load", () => setTimeout(() => {
  const said = [], ask = (what, answer) => said.push(what + ": " + answer);
  const pictures = [...document.images], swipe = document.querySelector(".swipe");
  const stage = swipe.querySelector(".stage"), range = swipe.querySelector("input");
  const [left, right] = swipe.querySelectorAll("select");
  const clip = () => getComputedStyle(stage.querySelector(".left")).clipPath;
  ask("pictures", pictures.every(picture => picture.complete && picture.naturalWidth > 0));
  const before = clip();
  range.value = 20; range.dispatchEvent(new Event("input"));
  ask("slider", before + " then " + clip());
  const box = stage.getBoundingClientRect();
  stage.setPointerCapture = () => {};
  stage.dispatchEvent(new PointerEvent("pointerdown",
    {clientX: box.left + 0.75 * box.width, clientY: box.top + 5}));
  ask("pointer", range.value);
  left.value = "errors"; left.dispatchEvent(new Event("input"));
  const shown = [...stage.children].filter(layer => getComputedStyle(layer).visibility === "visible");
  ask("shown", shown.map(layer => layer.dataset.layer).join(" and "));
  range.focus(); ask("focus", document.activeElement === range);
  ask("wide", document.documentElement.scrollWidth <= innerWidth);
  document.title = said.join("; ");
}, 100));
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="opens the page in Chromium, which is not installed")
@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_works_in_a_browser(text, tmp_path, width):
    page = tmp_path / "page.html"
    page.write_text(text.replace("</body>", CHECKS + "</body>"))
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'browser'}",
            f"--window-size={width},900",
            "--virtual-time-budget=5000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    title = re.search("<title>(.*?)</title>", done.stdout, re.S)[1]
    assert title == (
        "pictures: true; slider: inset(0px 50% 0px 0px) then inset(0px 80% 0px 0px); pointer: 75; "
        "shown: prediction and errors; focus: true; wide: true"
    )
    assert "CONSOLE" not in done.stderr, done.stderr


def test_a_hostile_name_is_text_wherever_the_page_says_it(text):
    scores = r"<td>\d+\.\d\d</td>\s*" * 8
    for name, colour in CLASSES.items():
        key = f'<i class="key" style="background:{colour}"></i>{re.escape(html.escape(name))}'
        assert re.search(f"<td>{key}</td>\\s*{scores}<td>\\d+</td>", text)
        assert re.search(f"<span>{key}</span>", text)
    name = html.escape(TILE)
    for name in map(html.escape, CLASSES):
        assert text.count(f"</i>{name}") == 3  # scores, areas, key
    name = html.escape(TILE)
    assert f"<td>{name}</td><td>test</td>" in text and f"<figcaption>Tile {name}: mean IoU 59.82 %" in text
    assert f'aria-label="border between the pictures of {name}"' in text
    assert "<span>mean IoU without $x_$ &amp; b, boundaries eroded, %</span>" in text


def test_of_many_tiles_a_sample_from_the_worst_to_the_best_is_shown():
    tiles = [str(number) for number in range(1000)]
    shown = report.sampled(tiles, lambda tile: int(tile) * 7 % 1000)
    assert len(shown) == len(set(shown)) == report.SHOWN
    values = [int(tile) * 7 % 1000 for tile in shown]
    assert values == sorted(values) and (values[0], values[-1]) == (0, 999)
    assert report.sampled(tiles[:24], lambda tile: -int(tile)) == tiles[:24]
    text = page.abridged({"split": {"train": tiles}, "tiles": dict.fromkeys(tiles, 1), "seed": [1, 2]})
    assert text["split"]["train"][:3] == text["tiles"][:3] == ["0", "1", "2"] and text["seed"] == [1, 2]
    assert len(text["tiles"]) == 4 and "1,000 in all" in text["tiles"][3]
