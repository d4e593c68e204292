import itertools

import numpy as np
import pytest
from conftest import COLOURS, SIZES, run_script, write_raster, write_tile
from rasterio.transform import from_origin
from test_prepare_data import pixels_of, place_of, raster_of, refused

import prepare_data
from base.problem import Problem
from imagery import leaks
from imagery.leaks import check_pixels, check_places, common_blocks, digest_blocks
from imagery.tiles import CELL


def test_tiles_of_two_roles_on_the_same_ground_are_refused_unless_allowed_by_name(project, settings):
    path = raster_of(project, "image", "2_13")
    write_raster(
        path, pixels_of(path), crs="EPSG:32633", transform=from_origin(369000 + 1, 5809400, 0.05, 0.05)
    )
    (told,) = refused(settings, project)  # 2_13 (test) now lies a metre east of 2_11 (train)
    assert "tiles 2_11 (split.train) and 2_13 (split.test)" in told and "data.allow_overlap" in told
    settings["data"]["allow_overlap"] = ["2_13"]
    assert len(refused(settings, project)) == 1  # both must be named
    settings["data"]["allow_overlap"] = ["2_13", "2_11"]
    prepare_data.main(settings, project / "runs/tiny")


def test_overlap_within_a_role_and_touching_neighbours_are_no_leak(project, settings):
    for tile, east in (
        ("3_10", 0.5),
        ("2_13", 93 * 0.05),
    ):  # 3_10 (train) over 2_11; 2_13 (test) just east of it
        path = raster_of(project, "image", tile)
        write_raster(
            path, pixels_of(path), crs="EPSG:32633", transform=from_origin(369000 + east, 5809400, 0.05, 0.05)
        )
    told = refused(settings, project)
    assert len(told) == 1 and "tiles 3_10 (split.train) and 2_13 (split.test)" in told[0]
    settings["split"]["train"] = ["2_11"]
    prepare_data.main(settings, project / "runs/tiny")


@pytest.mark.parametrize("crs", ['LOCAL_CS["arbitrary",UNIT["metre",1]]', "EPSG:4326"])
def test_places_that_cannot_be_compared_are_no_proof_of_different_ground(project, settings, crs):
    path = raster_of(project, "image", "2_13")
    write_raster(path, pixels_of(path), crs=crs, transform=from_origin(369000, 5809400, 0.05, 0.05))
    done = run_script("prepare_data.py", "--params", "tiny.yaml", cwd=project)
    lines = done.stderr.splitlines()
    assert (
        done.returncode == 3
        and len(lines) == 3
        and all("places that cannot be compared" in line for line in lines)
    )
    settings["split"] = {"train": ["2_13"], "val": ["2_10"], "test": ["2_11"]}  # the other one comes first
    assert any("2_13" in line and "cannot be compared" in line for line in refused(settings, project))


def test_the_same_ground_is_seen_in_another_coordinate_system(project, settings):
    from rasterio.warp import transform

    (lon,), (lat,) = transform("EPSG:32633", "EPSG:4326", [369000.5], [5809399.5])
    path = raster_of(project, "image", "2_13")
    write_raster(path, pixels_of(path), crs="EPSG:4326", transform=from_origin(lon, lat, 7e-7, 4.5e-7))
    assert "tiles 2_11 (split.train) and 2_13 (split.test)" in refused(settings, project)[0]


@pytest.mark.parametrize("other", ["2_13", "3_10"])
def test_two_tiles_with_identical_pixels_are_refused_in_any_role(project, settings, other):
    write_tile(project / "raw", other, SIZES["2_11"])
    write_raster(
        raster_of(project, "image", other), pixels_of(raster_of(project, "image", "2_11")), **place_of(other)
    )
    settings["data"]["allow_overlap"] = ["2_11", other]
    (told,) = refused(settings, project)
    assert f"tiles 2_11 and {other}: the same pixels" in told


def test_a_twin_of_a_tile_prepared_before_is_noticed(project, settings):
    prepare_data.main(settings, project / "runs/tiny")
    write_tile(project / "raw", "2_10", SIZES["2_11"])
    write_raster(
        raster_of(project, "image", "2_10"),
        pixels_of(raster_of(project, "image", "2_11")),
        **place_of("2_10"),
    )
    with pytest.raises(Problem, match="tiles 2_11 and 2_10: the same pixels"):
        prepare_data.main(settings, project / "runs/tiny")


def header(east, north, size=(100, 100), crs="EPSG:32633", pixel=0.5):
    return {
        "shape": [*size, 3],
        "georeference": {"crs": crs, "transform": [pixel, 0, east, 0, -pixel, north]},
    }


UNPLACED = {"shape": [300, 300, 3], "georeference": {"crs": None, "transform": None}}


def test_overlaps_are_those_of_the_boxes_computed_one_by_one():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 400, (40, 2)) / 2
    headers = {str(number): header(*corner) for number, corner in enumerate(corners)}
    split = {
        "train": [str(number) for number in range(25)],
        "test": [str(number) for number in range(25, 40)],
    }
    expected = []
    for one in range(25):
        for other in range(25, 40):
            wide, high = 50 - np.abs(corners[one] - corners[other])
            if wide >= 0.5 and high >= 0.5:
                expected.append(
                    f"tiles {one} (split.train) and {other} (split.test): {100 * (wide * high / 2500):.1f} % "
                    "of"
                )
    lines = list(check_places(split, headers, []))
    assert len(lines) == len(expected) > 20
    assert all(line.startswith(start) for line, start in zip(lines, expected))


def scene(seed, shape=(400, 520)):
    return np.random.default_rng(seed).integers(1, 200, (*shape, 3)).astype(np.uint8)


def digests(image, valid=True):
    return digest_blocks(image, np.broadcast_to(valid, image.shape[:2]))


def test_blocks_of_one_colour_or_without_data_are_passed_over():
    image = scene(0, (3 * CELL + 50, 2 * CELL + 7))
    assert len(set(digests(image))) == 6  # whole ones only
    image[:CELL, :CELL] = (3, 7, 200)
    valid = np.ones(image.shape[:2], bool)
    valid[CELL : 2 * CELL] = False
    assert len(digests(image)) == 5 and len(digests(image, valid)) == 3
    np.testing.assert_array_equal(digests(image, valid), digests(image)[[0, 3, 4]])
    assert len(digests(np.full((500, 500, 1), 9, np.uint8))) == 0


def test_common_blocks_are_counted_once_for_every_two():
    one, other, third = (np.unique(digests(scene(seed))) for seed in (1, 2, 3))
    blocks = [one, np.unique([*one[:4], *other]), third, np.unique([*third, *one[:2]])]
    assert len(one) == 12
    assert common_blocks(blocks) == {(0, 1): 4 / 12, (0, 3): 2 / 12, (1, 3): 2 / 14, (2, 3): 1}


@pytest.mark.parametrize("place, lines", [(UNPLACED, 1), (header(0, 0), 0), (header(0, 0, crs=None), 1)])
def test_pixels_tell_only_where_places_cannot(place, lines):
    blocks = np.unique(digests(scene(0))).tobytes().hex()
    rows = {
        "a": {**place, "blocks": blocks, "pixels_sha256": "1"},
        "b": {**header(10_000, 0), "blocks": blocks, "pixels_sha256": "2"},
    }
    assert len(list(check_pixels({"train": ["a"], "test": ["b"]}, rows, []))) == lines
    assert not list(check_pixels({"train": ["a", "b"]}, rows, []))
    assert not list(check_pixels({"train": ["a"], "test": ["b"]}, rows, ["a", "b"]))


def write_unplaced(project, tile, image):
    write_raster(raster_of(project, "image", tile), image)
    write_raster(
        raster_of(project, "label", tile), COLOURS[np.arange(image[..., 0].size).reshape(image.shape[:2]) % 6]
    )


def test_crops_without_a_place_that_share_ground_are_refused(project, settings, capsys):
    whole = scene(0, (400, 900))
    whole[:, 400:420] = 0  # both have a border without data, and a wall of one colour
    crops = {"2_11": whole[:, :520], "3_10": scene(1), "2_10": scene(2), "2_13": whole[:, 256:]}
    for tile, image in crops.items():
        write_unplaced(project, tile, image)
    (told,) = refused(settings, project)
    assert told.startswith(
        "tiles 2_11 (split.train) and 2_13 (split.test): 50.0 % of the smaller one's squares of"
    )
    assert told.endswith("give both one role, or name both in data.allow_overlap")
    assert "4 tiles have no place on the ground (2_11, 3_10, 2_10, ...)" in capsys.readouterr().out
    settings["data"]["allow_overlap"] = ["2_11", "2_13"]
    prepare_data.main(settings, project / "runs/tiny")
    settings["data"]["allow_overlap"] = []
    with pytest.raises(
        Problem, match="squares of 128 px have the same pixels"
    ):  # of tiles prepared before, too
        prepare_data.main(settings, project / "runs/tiny")


def test_what_many_images_have_in_common_is_no_leak(project, settings):
    for tile in SIZES:
        image = scene(int(tile.replace("_", "")), (400, 520))
        image[:130] = 0
        image[:, :140] = (255, 0, 9)
        write_unplaced(project, tile, image)
    prepare_data.main(settings, project / "runs/tiny")


def test_chips_are_compared_with_those_nearby_alone(monkeypatch):
    """Four times the chips, four times the comparisons; of chips that all lie in one place some are named."""

    def compared(count):
        calls = []
        real = leaks.common_shares
        monkeypatch.setattr(
            leaks, "common_shares", lambda *boxes: calls.append(len(boxes[1])) or real(*boxes)
        )
        headers = {str(number): header(60 * (number % 5), 60 * (number // 5)) for number in range(count)}
        names = list(headers)
        assert not list(check_places({"train": names[::2], "test": names[1::2]}, headers, []))
        monkeypatch.undo()
        return sum(calls)

    few, many = compared(100), compared(400)
    assert 0 < few and many < 4.5 * few
    headers = {str(number): header(0, 0) for number in range(300)}
    lines = list(check_places({"train": list(headers)[:150], "test": list(headers)[150:]}, headers, []))
    assert len(lines) == leaks.MOST + 1 and "more than 100 pairs" in lines[-1]


def test_a_block_that_all_chips_have_makes_no_pairs_of_all():
    blocks = [np.array([number, 2**40], np.uint64) for number in range(200)]
    assert set(common_blocks(blocks)) == set(itertools.pairwise(range(200)))
