import numpy as np
import pytest
import rasterio
from conftest import write_raster
from rasterio.control import GroundControlPoint
from rasterio.transform import from_origin

from mapping.neighbours import in_groups
from mapping.one_raster import Job

FACTS = {"bands": [1, 2, 3], "extra": False, "scale": [None] * 3, "ground_sample_distance": 0.05}
ZERO = from_origin(366976, 5808000, 0.05, 0.05)


@pytest.fixture
def grouped(tmp_path, settings):
    """Writes rasters of these places, {name: (first row, first column, height, width, profile)}, and returns
    ([{name: corner} of each group], the lines that were shown)."""
    settings["predict"]["mosaic"] = True

    def work(**places):
        jobs, lines = [], []
        for name, (row, col, height, width, *profile) in places.items():
            about = {"crs": "EPSG:32633", "transform": ZERO @ ZERO.translation(col, row)}
            about.update(*profile)
            path = tmp_path / f"{name}.tif"
            write_raster(path, np.ones((height, width, 3), about.get("dtype", "uint8")), **about)
            jobs.append(Job(name, path, None, settings, tmp_path, "tensorflow"))
        groups = in_groups(jobs, FACTS, lambda line, last: lines.append(line))
        return [{job.name: job.corner for job in group} for group in groups], lines

    return work


def test_those_that_touch_or_overlap_are_one_group_and_others_are_groups_of_their_own(grouped):
    groups, lines = grouped(
        a=(0, 0, 10, 20), far=(300, 0, 10, 10), b=(10, 20, 5, 5), c=(-8, 15, 9, 9), z=(309, 10, 4, 4),
        lone=(0, 40, 10, 10),
    )  # fmt: skip
    assert groups == [
        {"a": (8, 0), "b": (18, 20), "c": (0, 15)},
        {"far": (0, 0), "z": (9, 10)},
        {"lone": (0, 0)},
    ]
    assert lines == [
        "predicted as one: a.tif, b.tif, c.tif",
        "predicted as one: far.tif, z.tif",
        "predicted singly: lone.tif: touches no other, or shows the ground of one again",
    ]


def test_two_flights_over_one_ground_are_two_mosaics(grouped):
    groups, _ = grouped(
        a_2020=(0, 0, 10, 10), a_2021=(0, 0, 10, 10), b_2020=(0, 10, 10, 10), b_2021=(1, 9, 10, 10),
        c_2020=(0, 18, 10, 10),
    )  # fmt: skip
    assert [list(group) for group in groups] == [["a_2020", "b_2020", "c_2020"], ["a_2021", "b_2021"]]


def test_what_does_not_fit_the_grid_is_said_with_the_reason(grouped, settings):
    point = [GroundControlPoint(row, col, 13 + col, 52 - row) for row, col in ((0, 0), (0, 9), (9, 0))]
    coarse, half = (ZERO @ ZERO.scale(1.01), ZERO @ ZERO.translation(10.4, 0))
    _, lines = grouped(
        a=(0, 0, 10, 10),
        b=(0, 10, 10, 10, {"transform": ZERO @ ZERO.translation(10.01, 0)}),  # as rounded in a world file
        crs=(10, 0, 10, 10, {"crs": "EPSG:32632"}),
        size=(10, 0, 10, 10, {"transform": coarse}),
        between=(10, 0, 10, 10, {"transform": half}),
        deep=(10, 0, 10, 10, {"dtype": "uint16"}),
        nowhere=(0, 0, 10, 10, {"transform": None, "crs": None}),
        points=(0, 0, 10, 10, {"transform": None, "gcps": point, "crs": "EPSG:4326"}),
        flat=(0, 0, 10, 10, {"transform": rasterio.Affine(0, 0, 5, 0, 0, 5)}),
    )
    assert lines[0] == "predicted as one: a.tif, b.tif"
    reasons = dict(line.split(": ", 2)[1:] for line in lines[1:])
    for name, text in {
        "crs": "another coordinate system (EPSG:32632) than",
        "size": "pixels of another size",
        "between": "lies between the pixels",
        "deep": "pixels of another type",
        "points": "placed by control points or RPCs",
    }.items():
        assert text in reasons[f"{name}.tif"]
    assert "no georeference" in reasons["nowhere.tif, flat.tif"]


def test_without_the_setting_or_resampled_each_is_alone(grouped, settings):
    settings["predict"]["resample"] = True
    wide = {"transform": ZERO @ ZERO.scale(3)}
    groups, lines = grouped(
        a=(0, 0, 10, 20, wide), b=(0, 20, 10, 20, {"transform": wide["transform"] @ ZERO.translation(20, 0)})
    )
    assert len(groups) == 2 and "resampled (predict.resample)" in lines[0]
    settings["predict"].update(mosaic=False)
    assert grouped(a=(0, 0, 10, 20), b=(0, 20, 10, 10)) == ([{"a": (0, 0)}, {"b": (0, 0)}], [])


def test_neighbours_of_south_up_and_turned_grids_fit_too(grouped):
    for own in (rasterio.Affine(0.05, 0, 366976, 0, 0.05, 5808000), ZERO @ ZERO.rotation(30)):
        places = {name: {"transform": own @ own.translation(col, row)} for name, row, col in
                  (("a", 0, 0), ("b", 0, 20), ("c", 10, 20))}  # fmt: skip
        groups, _ = grouped(**{name: (0, 0, 10, 20, profile) for name, profile in places.items()})
        assert groups == [{"a": (0, 0), "b": (0, 20), "c": (10, 20)}]
