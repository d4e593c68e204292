"""Labels of annotation tools, in pixels of the image: COCO JSON, one file of many images, and LabelMe JSON, a
file each.

Corners count from the upper left corner of the upper left pixel, as pycocotools counts them, not from its
middle: a box of 0, 0, 2, 2 covers four pixels. (https://cocodataset.org/#format-data,
https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c, https://github.com/wkentaro/labelme)
"""
import base64
import functools
import json
import os
import re
from collections import Counter

import numpy as np
from rasterio import MemoryFile

from base.problem import Problem, shown
from base.zips import written
from imagery.burning import Polygons
from imagery.formats import binary
from imagery.rasters import reading, without_place_allowed

HEAD = 4096  # bytes that tell a form
COCO = {"info", "licenses", "images", "annotations", "categories", "videos"}  # first keys of a file
LABELME = {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"}
LISTS = re.compile(rb'"(images|annotations|shapes)"\s*:\s*\[')  # where the first key is a tool's own
GEOMETRIES = re.compile(rb'"(features|geometry|coordinates)"\s*:')  # of GeoJSON
LARGEST = 0.9e9  # bytes: memory that a file's text may become
MOST = 2**21  # runs of the masks of an image
CORNERS = 72  # of the polygon of a circle
BOX = "a box without polygon"  # counts as dropped; its pixels are not scored, unless a polygon covers them
RENAMED = re.compile(r"^[0-9a-f]{8}-|_(tiff?|png|jpe?g)\.rf\.\w+$")  # by Label Studio, by Roboflow


def annotations_in(path):
    """The form of annotations in a file, "COCO" or "LabelMe", by its first keys; None where it is neither."""
    with binary(path) as file:
        head = file.read(HEAD).removeprefix(b"\xef\xbb\xbf")
    first = re.match(rb'\s*\{\s*"(\w+)"', head)
    key = first[1].decode() if first else None
    if key == "type" and re.match(rb'\s*\{\s*"type"\s*:\s*"instances"', head):  # of early COCO files
        key = "images"
    if first and key not in COCO | LABELME and not GEOMETRIES.search(head) and (one := LISTS.search(head)):
        key = one[1].decode()
    return next((form for form, keys in (("COCO", COCO), ("LabelMe", LABELME)) if key in keys), None)


def read_annotations(path, grid, codes):
    """(Polygons on a Grid, the value of each feature (object [F]), {why: features dropped}) of a file of
    annotations. `codes`: the known values as text; a category of COCO is one of them by its name or number.
    Problem (exit 3) where the file is damaged or of an image of another size."""
    form, drawn = annotations_in(path), Drawn(path, grid)
    content = content_of(path)
    try:
        add = add_coco if form == "COCO" else add_labelme
        add(drawn, content, codes)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"{type(error).__name__} {error}"
        raise Problem(f"annotations {path}: not in the form of {form} ({shown(reason)}), expected its keys "
                      "and values; export them again", code=3) from None
    return drawn.polygons(), np.array(drawn.values, object), dict(drawn.dropped)


def content_of(path):
    """The content of a JSON text; Problem (exit 3) where it is none or too large."""
    return _content(os.path.abspath(path), written(path))


@functools.lru_cache(maxsize=2)  # of labels and eroded labels in turn
def _content(path, *_):
    with binary(path) as file:
        text = file.read(2**29)
    memory = len(text) + 36 * text.count(b",") + 88 * text.count(b"[") + 232 * text.count(b"{")
    if memory > LARGEST or len(text) == 2**29:
        raise Problem(f"annotations {path}: {len(text) / 1e6:.0f} MB of JSON, {memory / 1e9:.1f} GB in "
                      f"memory, expected at most {LARGEST / 1e9:g} GB; write a file for some images each",
                      code=3)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Problem(f"annotations {path}: {' '.join(str(error).split())}, expected a whole JSON text; "
                      "export or copy it again", code=3) from None


class Drawn:
    """Polygons of features as they are gathered."""

    def __init__(self, path, grid):
        self.path, self.grid = path, grid
        self.corners, self.lengths, self.boxes = [], [], 0
        self.features, self.values, self.dropped = [], [], Counter()

    def check_size(self, height, width):
        """Problem (exit 3) where the file's image is of another size."""
        if (height, width) != (self.grid.height, self.grid.width):
            raise Problem(f"annotations {self.path}: of an image of {height} x {width} pixels, expected "
                          f"{self.grid.height} x {self.grid.width} as {self.grid.path}; take the image "
                          "that was annotated, or annotations of this one", code=3)

    def add(self, value, ring):
        """Adds a feature of a polygon without holes (corners, float64 [N, 2]), or counts why it has none."""
        self.add_parts(value, [ring])

    def add_parts(self, value, rings):
        """The same of several polygons."""
        rings = [np.concatenate([ring, ring[:1]]) for ring in rings if len(ring) > 2]
        rings = [ring for ring in rings if np.isfinite(ring).all()]
        self.add_closed(value, np.concatenate([*rings, np.empty((0, 2))]), list(map(len, rings)))

    def add_boxes(self, value, boxes):
        """The same of boxes (float64 [B, 4]: left, top, right, bottom). Problem (exit 3) where all are more
        than MOST."""
        self.boxes += len(boxes)
        if self.boxes > MOST:
            raise Problem(f"annotations {self.path}: masks of more than {MOST} runs in an image, expected "
                          "fewer; export them as polygons", code=3)
        self.add_closed(value, boxes[:, [0, 1, 2, 1, 2, 3, 0, 3, 0, 1]].reshape(-1, 2), [5] * len(boxes))

    def add_closed(self, value, corners, lengths):
        if not lengths:
            self.dropped["without three corners"] += 1
            return
        self.corners.append(corners)
        self.lengths += lengths
        self.features += [len(self.values)] * len(lengths)
        self.values.append(value)

    def polygons(self):
        starts = np.cumsum([0, *self.lengths])
        corners = np.concatenate([*self.corners, np.empty((0, 2))])
        ends = np.zeros(len(corners), bool)
        ends[starts[1:] - 1] = True
        return Polygons(*np.ascontiguousarray(corners.T), ends, starts, np.array(self.features, np.int32))


# -- COCO -------------------------------------------------------------------------------------------------

def add_coco(drawn, content, codes):
    names = {str(category["id"]): category["name"] for category in content["categories"]}
    by_name = grouped(content, "images", lambda image: plain_name(image["file_name"]))
    image = image_of(drawn.grid.path, by_name, drawn.path)
    drawn.check_size(image["height"], image["width"])
    by_image = grouped(content, "annotations", lambda annotation: str(annotation["image_id"]))
    for annotation in by_image.get(str(image["id"]), []):
        number = str(annotation["category_id"])
        value = names.get(number, number)
        value = value if value in codes or number not in codes else number
        segmentation = annotation.get("segmentation")
        if not segmentation:
            drawn.dropped[BOX] += 1
            if box := annotation.get("bbox"):
                drawn.add_boxes(BOX, np.array([[*box[:2], *np.add(box[:2], box[2:])]]))
        elif isinstance(segmentation, dict):
            drawn.add_boxes(value, boxes_of(segmentation, drawn))
        else:
            drawn.add_parts(value, [np.array(ring, float).reshape(-1, 2) for ring in segmentation])


def grouped(content, key, group):
    """{group(entry): entries} of a list in a file's content, which keeps them for the next image."""
    groups = content.get(f"{key} by group")
    if groups is None:
        groups = content[f"{key} by group"] = {}
        for entry in content[key]:
            groups.setdefault(group(entry), []).append(entry)
    return groups


def parts_of(path):
    """A path's name and its folders, upwards; a file_name may be of Windows."""
    return str(path).replace("\\", "/").split("/")[::-1]


def plain_name(path):
    """A path's name without its suffix, which is another where an image was converted to be annotated, and
    without what tools put before or after it."""
    return RENAMED.sub("", os.path.splitext(parts_of(path)[0])[0])


def image_of(path, by_name, named):
    """The entry of an image file among a COCO file's: of the same plain name and, of several, of the same
    name with most folders in common. Problem (exit 3) where there is none or more than one."""
    own, entries = parts_of(os.path.abspath(path)), []
    for image in by_name.get(plain_name(path), []):
        named_so, *folders = [one == other for one, other in zip(parts_of(image["file_name"]), own)]
        entries.append(((named_so, (folders + [False]).index(False)), image))
    most = max([common for common, _ in entries], default=0)
    entries = [image for common, image in entries if common == most]
    if len(entries) != 1:
        such = ", ".join(shown(name) for name in list(by_name)[:3])
        raise Problem(f"annotations {named}: {len(entries)} images of the name {own[0]} (there are {such}), "
                      "expected one file_name that is the image's; rename one or the other", code=3)
    return entries[0]


def boxes_of(mask, drawn):
    """A run-length encoded mask as boxes (float64 [B, 4]): column after column, runs of pixels that are not
    of it, then of it. Problem (exit 3) where its runs do not fill the image."""
    height, width = mask["size"]
    drawn.check_size(height, width)
    counts = mask["counts"]
    counts = decompressed(counts) if isinstance(counts, str) else counts
    counts = np.array(counts, np.float64)
    if (counts < 0).any() or counts.sum() != height * width:
        raise Problem(f"annotations {drawn.path}: a mask whose runs hold {counts.sum():.12g} pixels, "
                      f"expected {height} x {width} as its size says; export it again", code=3)
    ends = np.cumsum(counts).astype(np.int64)
    return boxes_of_runs(ends[:-1:2], ends[1::2], height)


def boxes_of_runs(starts, ends, height):
    """The boxes (float64 [B, 4]) that hold the pixels of runs (int64 [R] both), counted down the columns."""
    starts, ends = starts[starts < ends], ends[starts < ends]
    (left, top), (right, bottom) = divmod(starts, height), divmod(ends, height)
    one, zero = left == right, np.zeros_like(left)
    whole = left + (top > 0)  # the first column that a run fills
    boxes = [(left, top, left + 1, np.where(one, bottom, height), one | (top > 0)),
             (whole, zero, right, zero + height, whole < right),
             (right, zero, right + 1, bottom, ~one & (bottom > 0))]
    return np.concatenate([np.stack(box, 1)[there] for *box, there in boxes]).astype(float)


def decompressed(text):
    """The counts of a compressed mask (rleFrString), int64 [R]: six bits a sign, less the count before
    last."""
    if len(text) > 8 * MOST:
        raise ValueError(f"{len(text)} signs in a mask")
    bits = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(bits & 32 == 0)
    firsts = np.concatenate([[0], last + 1])
    lengths = np.diff(firsts)
    if not len(last) or firsts[-1] < len(bits) or lengths.max() > 12:
        raise ValueError("a count without end or of more than 60 bits")
    place = 5 * (np.arange(len(bits)) - np.repeat(firsts[:-1], lengths))
    counts = np.add.reduceat((bits & 31) << place, firsts[:-1])
    counts -= (bits[last] & 16 > 0) * (1 << 5 * lengths)
    counts[1::2], counts[2::2] = np.cumsum(counts[1::2]), np.cumsum(counts[2::2])
    return counts


# -- LabelMe ----------------------------------------------------------------------------------------------

def add_labelme(drawn, content, _):
    size = content.get("imageHeight"), content.get("imageWidth")
    if None not in size:
        drawn.check_size(*size)
    for shape in content["shapes"]:
        kind, points = shape.get("shape_type") or "polygon", np.array(shape["points"], float).reshape(-1, 2)
        if kind in ("polygon", "rotation"):
            drawn.add(shape["label"], points)
        elif kind == "rectangle":  # by two corners, or by four
            drawn.add_boxes(shape["label"], np.array([[*points.min(0), *points.max(0)]]))
        elif kind == "mask":
            corner = np.tile(points[0] // 1, 2)
            drawn.add_boxes(shape["label"], boxes_of_png(shape["mask"], drawn) + corner)
        elif kind == "circle":
            turns = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
            radius = np.hypot(*(points[1] - points[0]))
            drawn.add(shape["label"], points[0] + radius * np.stack([np.cos(turns), np.sin(turns)], 1))
        else:
            drawn.dropped[f"a {kind}"] += 1


def boxes_of_png(text, drawn):
    """The boxes of a mask, a PNG in base64. Problem (exit 3) where it is larger than the image."""
    with without_place_allowed(), reading(drawn.path), MemoryFile(base64.b64decode(text)) as file:
        with file.open(driver="PNG") as png:
            if png.height > drawn.grid.height or png.width > drawn.grid.width:
                drawn.check_size(*png.shape)
            pixels = png.read(1).T > 0
    changes = np.flatnonzero(np.diff(pixels.ravel(), prepend=False, append=False))
    return boxes_of_runs(changes[::2], changes[1::2], pixels.shape[1])
