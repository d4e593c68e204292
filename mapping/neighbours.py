"""Which rasters lie side by side on one grid, so that they are predicted as one."""
import json
from typing import NamedTuple

import numpy as np

from base.problem import Problem, own_fault
from imagery.ground import same_crs
from imagery.rasters import open_raster
from mapping.sources import asked_scale, ground_of, is_tile, ratios_to

TOLERANCE = 0.05  # pixels: how far off the grid a corner may lie
TWICE = 0.5  # share of the smaller of two rasters from which on the other is no neighbour: it shows the same


class Position(NamedTuple):
    """Where a raster lies, and how its values are read."""
    shape: tuple
    transform: list  # six numbers
    crs: str | None
    values: str  # the types of its bands, the scale that is asked for


def in_groups(jobs, facts, show):
    """Lists of the jobs whose rasters are predicted as one, each with its `corner`: where predict.mosaic is
    on, those on one grid that touch, at a corner too, or overlap. Says which stay alone, and why."""
    if not jobs or not jobs[0].settings["predict"]["mosaic"]:
        return [[job] for job in jobs]
    places, reasons = {}, {}
    for number, job in enumerate(jobs):
        try:
            with own_fault(job.path):
                places[number] = position_of(job, facts)
        except Problem as problem:  # a reason to stay alone: of this module, or one on which it fails alone
            reasons[number] = str(problem)
    grids, groups = sorted(grids_of(places), key=len, reverse=True), []
    for corners in grids:
        for part in parts_of(corners, places):
            top, left = np.min([corners[number] for number in part], 0).tolist()
            groups.append({number: (corners[number][0] - top, corners[number][1] - left) for number in part})
            if len(part) == 1:
                reasons[part[0]] = why_alone(part[0], corners, grids[0], places, jobs)
    groups += [{number: (0, 0)} for number in range(len(jobs)) if number not in places]
    for group in [group for group in groups if len(group) > 1]:
        show(f"predicted as one: {names_of(jobs, group)}", last=True)
    for reason in dict.fromkeys(reasons.values()):
        alone = [number for number in reasons if reasons[number] == reason]
        show(f"predicted singly: {names_of(jobs, alone)}: {reason}", last=True)
    return [[jobs[number]._replace(corner=corner) for number, corner in group.items()]
            for group in sorted(groups, key=min)]


def position_of(job, facts):
    """The Position of a job's raster; Problem where it has none on a grid of neighbours."""
    if job.window:
        raise Problem("blocks, each predicted from its own pixels alone", code=3)
    paths, raw = (job.path, job.extra or job.path), job.settings["data"]["raw"]
    with open_raster(paths[0], raw) as image, open_raster(paths[1], raw) as extra:
        ground = ground_of(job, image, lambda line, last: None)
        types = [image.dtypes[band - 1] for band in facts["bands"]] + [extra.dtypes[0]] * bool(job.extra)
        shape = image.shape
    if "control_points" in ground or "rpcs" in ground:
        raise Problem("placed by control points or RPCs; for its neighbours warp it first (gdalwarp)", code=3)
    transform = np.reshape(ground["transform"] or [0] * 6, (2, 3))
    if not np.abs(transform).max() < 1e15 or abs(np.linalg.det(transform[:, :2])) < 1e-30:  # not NaN either
        raise Problem("no georeference, so that nothing says where it lies", code=3)
    resample = job.settings["predict"]["resample"] and not is_tile(job.name, job.settings)
    if resample and ratios_to(facts["ground_sample_distance"], ground, shape, True, job.path)[0] != (1, 1):
        raise Problem("resampled (predict.resample), each to a grid of its own; for its neighbours bring all "
                      "to the training's pixel size first (gdalwarp -tr)", code=3)
    values = json.dumps([types, asked_scale(job.name, job.settings, facts)])
    return Position(shape, ground["transform"], ground["crs"], values)


def grids_of(places):
    """Yields {number: (row, col)} of each grid that some of `places`, {number: Position}, share: their first
    pixels, counted from the first of them."""
    numbers = np.array(list(places))
    transforms = np.array([np.reshape(place.transform, (2, 3)) for place in places.values()])
    shapes = np.array([place.shape for place in places.values()])
    kinds = kinds_of(list(places.values()))
    while len(numbers):
        steps, origin = transforms[0, :, :2], transforms[0, :, 2]
        ends = np.stack([0 * shapes, shapes * [1, 0], shapes * [0, 1]], 1)[..., ::-1]  # [N, 3, (col, row)]
        points = ends @ transforms[:, :, :2].swapaxes(1, 2) + (transforms[:, :, 2] - origin)[:, None]
        cells = points @ np.linalg.inv(steps).T
        corners = np.rint(cells[:, :1])
        off = np.abs(cells - corners - ends).max((1, 2))
        same = (kinds == kinds[0]) & (off <= TOLERANCE)
        same[0] = True
        yield dict(zip(numbers[same].tolist(), map(tuple, corners[same, 0, ::-1].astype(int).tolist())))
        numbers, transforms, shapes, kinds = (part[~same] for part in (numbers, transforms, shapes, kinds))


def kinds_of(places):
    """For each of `places` (int64 [N]) a number, the same where coordinate system and values are."""
    systems = {}
    for crs in dict.fromkeys(place.crs for place in places):
        systems[crs] = next((other for other in systems if same_crs(crs, other)), crs)
    keys = [(systems[place.crs], place.values) for place in places]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys])


def parts_of(corners, places):
    """Yields lists of the numbers of rasters on one grid that hang together: that touch or overlap. One that
    shows the same as an earlier one (TWICE) goes with others of its kind, as the flights of two years do."""
    numbers = list(corners)
    low = np.array(list(corners.values()))
    sizes = np.array([places[number].shape for number in numbers])
    flights, touching = np.zeros(len(numbers), int), []
    order, tops, tallest = np.argsort(low[:, 0]), np.sort(low[:, 0]), sizes[:, 0].max()
    for i in range(len(numbers)):
        rows = low[i, 0] - tallest, low[i, 0] + sizes[i, 0] + 1
        near = order[slice(*np.searchsorted(tops, rows))]
        sides = np.minimum(low[near] + sizes[near], low[i] + sizes[i]) - np.maximum(low[near], low[i])
        touch = (sides >= 0).all(1)
        near, shared = near[touch], sides[touch].prod(1)
        touching.append(near)
        twice = shared > TWICE * np.minimum(sizes[near].prod(1), sizes[i].prod())
        taken = set(flights[near[twice & (near < i)]].tolist())
        flights[i] = min(set(range(len(taken) + 1)) - taken)
    left = set(range(len(numbers)))
    while left:
        part, new = set(), {min(left)}
        while new:
            part |= new
            ahead = {j for i in new for j in touching[i].tolist() if flights[j] == flights[i]}
            new = ahead - part
        left -= part
        yield [numbers[i] for i in sorted(part)]


def why_alone(number, corners, largest, places, jobs):
    """Why a raster, one of the grid `corners`, is predicted singly: it touches none or, where most lie on the
    grid `largest`, in which way its own is another."""
    own, first = places[number], min(largest)
    other, path = places[first], jobs[first].path
    steps = np.array([np.reshape(place.transform, (2, 3))[:, :2] for place in (own, other)])
    if len(jobs) == 1:
        return "no other raster is given; for its neighbours give their folder as TILE"
    if corners is largest:
        return "touches no other, or shows the ground of one again"
    if own.values != other.values:
        return f"pixels of another type or scale than those of {path}"
    if not same_crs(own.crs, other.crs):
        return f"another coordinate system ({own.crs}) than {path} ({other.crs})"
    if np.abs((steps[0] - steps[1]) * own.shape[::-1]).max() > TOLERANCE * np.abs(steps[1]).max():
        return f"pixels of another size or direction than those of {path}"
    return f"lies between the pixels of {path}'s grid; for its neighbours warp it there (gdalwarp -te -tr)"


def names_of(jobs, numbers):
    """Names of the files of some of the jobs, in short."""
    more = f", ... ({len(numbers)} of them)" if len(numbers) > 3 else ""
    return ", ".join(jobs[number].path.name for number in sorted(numbers)[:3]) + more
