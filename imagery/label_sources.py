"""A tile's labels on the pixels of its image, whatever file they come from and whatever grid they lie on."""
import contextlib

from imagery.annotations import annotations_in, read_annotations
from imagery.grids import Nearest, described, find_place
from imagery.label_rasters import LabelReader, check_label
from imagery.rasters import open_raster, validity
from imagery.vector_labels import PolygonReader, codes_by_text, only_class
from imagery.vectors import check_vectors, driver_of, on_grid, read_near


def check_labels(kind, path, grid, data):
    """(validity as of `validity`, how they lie as of `described` or None, why they cannot be its labels) of a
    file of labels of this kind ("labels", "eroded") on a Grid, None where the image cannot be read; without
    reading pixels."""
    if annotations_in(path):
        if grid:
            read_annotations(path, grid, codes_by_text(data))
        return "", None, []
    if driver_of(path):
        check_vectors(path, grid, data)
        if data["label_field"] is None:
            only_class(data, path)
        return "", None, []
    with open_raster(path, data["raw"]) as raster:
        wrong = check_label(raster, data)
        place, off = find_place(raster, path, grid, data["assume_crs"]) if grid else (None, None)
        problems = [line for line in (wrong, off) if line]
        return validity(raster), described(place, grid, kind) if place else None, problems


@contextlib.contextmanager
def open_labels(path, grid, data, decoder):
    """A reader of a file's labels on a Grid, that of a tile's image. As LabelReader, it has `layout`,
    `hidden` and `outside`; `read(start, stop)` returns labels (uint8 [rows, W]), outcomes and unknown values
    of rows."""
    drawn = read_drawn(path, grid, data)
    if drawn:
        yield PolygonReader(drawn, grid.shape, data, path)
        return
    with open_raster(path, data["raw"]) as raster:
        place, _ = find_place(raster, path, grid, data["assume_crs"])
        yield LabelReader(Nearest(raster, place, grid) if place else raster, data, decoder)


def read_drawn(path, grid, data):
    """(Polygons on a Grid, the value of each feature or None, {why: features dropped}) of a file of polygons;
    None of a raster."""
    if annotations_in(path):
        return read_annotations(path, grid, codes_by_text(data))
    if not driver_of(path):
        return None
    vectors = read_near(path, data["label_field"], data["label_layer"], grid, data["assume_crs"])
    return on_grid(vectors, grid, path, data["assume_crs"]), vectors.values, vectors.dropped
