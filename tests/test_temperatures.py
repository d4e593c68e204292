import numpy as np
import pytest

from imagery.arrays import IGNORE
from imagery.tiles import Tile, pixel_bytes
from learning.temperatures import WINDOWS, fit_temperatures, middles

SIDE = 32


def tile(shape, seed=0, ignored=False):
    """A tile whose label is its first band's value modulo 3."""
    image = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
    pixels = np.zeros((*shape, pixel_bytes(3)), np.uint8)
    pixels[..., :3], pixels[..., 3] = image, IGNORE if ignored else image[..., 0] % 3
    return Tile(pixels, 3)


def test_middles_are_the_middles_of_patches_from_all_of_the_tiles():
    found = list(middles([tile((640, 640)), tile((320, 40), 1)], SIDE))
    assert len(found) == WINDOWS
    for patch, labels in found:
        assert patch.shape == (SIDE, SIDE, 3)
        np.testing.assert_array_equal(labels, patch[8:24, 8:24, 0] % 3)
    assert len(list(middles([tile((40, 40))], SIDE))) == 4  # windows that overlap, each once
    ((patch, labels),) = middles([tile((20, 20))], SIDE)  # a tile smaller than a patch is mirrored
    assert (labels[12:] == IGNORE).all() and (labels[:12, :12] != IGNORE).all()


def test_large_patches_have_no_more_pixels_each_than_small_ones():
    small, large = (next(middles([tile((600, 600))], side))[1] for side in (128, 512))
    assert small.shape == large.shape == (64, 64)


def test_views_are_turned_back_before_they_are_compared_with_the_labels():
    """An answer from each pixel alone, right with .9 where the network says .6, knows its labels in any
    view; one that is off in all views but the first makes the mean of eight the hotter."""

    def answer(patches, faults=0.0):
        right = np.eye(3, dtype=np.float32)[patches[..., 0] % 3]
        wrong = np.eye(3, dtype=np.float32)[(patches[..., 0] + 1) % 3]
        probabilities = 0.1 + 0.7 * np.where(patches[..., 1:2] < 230, right, wrong)
        probabilities[1:] = np.where(np.random.default_rng(0).random((*patches[1:].shape[:3], 1)) < faults,
                                     wrong[1:], probabilities[1:])
        return probabilities / probabilities.sum(-1, keepdims=True)

    fitted = fit_temperatures(answer, [tile((200, 200))], SIDE)
    assert fitted["one_view"] == pytest.approx(fitted["eight_views"]) and 0.7 < fitted["one_view"] < 1.1
    assert fitted["pixels"] == 49 * 16 * 16
    worse = fit_temperatures(lambda patches: answer(patches, 0.3), [tile((200, 200))], SIDE)
    assert worse["one_view"] == fitted["one_view"] != worse["eight_views"]


@pytest.mark.parametrize("tiles", [[tile((100, 100), ignored=True)], [tile((33, 33))]])
def test_few_labelled_pixels_leave_probabilities_as_they_are(tiles):
    uniform = np.full((8, SIDE, SIDE, 3), 1 / 3, np.float32)
    fitted = fit_temperatures(lambda patches: uniform, tiles, SIDE)
    assert (fitted["one_view"], fitted["eight_views"]) == (1, 1) or fitted["pixels"] == 4 * 256
    assert fitted["pixels"] in (0, 4 * 256)
