import numpy as np
from conftest import COLOURS
from hypothesis import given
from hypothesis import strategies as st

from imagery.arrays import IGNORE
from imagery.labels import OUTCOMES, ColourDecoder, build_decoder, has_texts, palette

CLASSES = {
    "impervious": "#ffffff",
    "building": "#0000ff",
    "low vegetation": "#00ffff",
    "tree": "#00ff00",
    "car": "#ffff00",
    "clutter": "#ff0000",
}


@given(st.lists(st.integers(0, 5), min_size=1, max_size=50))
def test_palette_there_and_back(indices):
    labels = np.array([indices], np.uint8)
    decoded, counts, unknown = ColourDecoder(CLASSES, ["#000000"], 0).decode(palette(CLASSES)[labels])
    np.testing.assert_array_equal(decoded, labels)
    assert counts.tolist() == [len(indices), 0, 0, 0] and not unknown


def test_known_colours_repaired_ignored_and_unknown():
    colours = np.array(
        [
            [
                (255, 255, 0),
                (252, 255, 0),
                (207, 255, 0),
                (206, 255, 0),
                (0, 0, 0),
                (10, 9, 8),
                (128, 128, 128),
            ]
        ],
        np.uint8,
    )
    decoded, counts, unknown = ColourDecoder(CLASSES, ["#000000"], 48).decode(colours)
    assert decoded.tolist() == [[4, 4, 4, IGNORE, IGNORE, IGNORE, IGNORE]]
    assert dict(zip(OUTCOMES, counts)) == {"exact": 1, "repaired": 2, "ignored": 2, "unknown": 2}
    assert unknown == {"#ceff00": 1, "#808080": 1}


def test_decoding_by_table_equals_the_nearest_colour_computed_directly():
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    decoded, _, _ = ColourDecoder(CLASSES, [], 60).decode(colours)
    for colour, label in zip(colours.reshape(-1, 3).astype(int), decoded.ravel()):
        within = [i for i, c in enumerate(COLOURS.astype(int)) if np.abs(colour - c).max() <= 60]
        assert label == min(within, key=lambda i: ((colour - COLOURS[i]) ** 2).sum(), default=IGNORE)


def test_a_colour_within_the_tolerance_of_one_class_only_is_that_class():
    decoded, _, _ = ColourDecoder({"a": "#000000", "b": "#613030"}, [], 48).decode(
        np.full((1, 1, 3), 0x30, np.uint8)
    )
    assert decoded.item() == 0  # b is nearer, but off by 49 in red


def data_of(values, ignored, classes=None):
    keys = {
        "classes": classes or {"urban": "#112233", "water": "#0000ff"},
        "tolerance": 8,
        "label_field": None,
    }
    return {**keys, "label_values": values, "ignore_colours": ignored}


def test_several_values_are_one_class():
    texts = {"urban": [111, 112, 122, "town"], "water": ["sea", 5]}  # of polygons; a raster has numbers alone
    decoder = build_decoder(data_of(texts, [0, 999, "cloud"]))
    assert not has_texts(data_of(texts, [])) and has_texts(data_of({**texts, "water": "sea"}, []))
    values = np.array([[111, 112, 122, 5, 0, 999, 113]], np.uint16)
    labels, counts, unknown = decoder.decode(values[..., None])
    assert labels.tolist() == [[0, 0, 0, 1, IGNORE, IGNORE, IGNORE]]
    assert counts.tolist() == [4, 0, 2, 1] and unknown == {"113": 1}


def test_several_colours_are_one_class_whatever_its_colour_on_maps():
    decoder = build_decoder(data_of({"urban": ["#ff0000", "#800000"], "water": "#0000ff"}, ["#000000"]))
    colours = np.array(
        [[(255, 0, 0), (128, 0, 0), (132, 3, 0), (0, 0, 255), (0, 0, 0), (17, 34, 51)]], np.uint8
    )
    labels, counts, unknown = decoder.decode(colours)
    assert labels.tolist() == [[0, 0, 0, 1, IGNORE, IGNORE]]
    assert counts.tolist() == [3, 1, 1, 1] and unknown == {"#112233": 1}
