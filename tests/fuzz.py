"""Thousands of damaged files through all that reads them: an answer or one clean error, soon and in little
memory.

    python tests/fuzz.py            2,000 rasters, polygons and other files, about 12 minutes (make faults)
    python tests/fuzz.py 100 7      100 of each, by seed 7

Rasters: images and labels (painted, with alpha, by a palette, one-hot, of values, masked, with nodata), their
bytes and TIFF tags changed, or beside them a damaged world file, PAM file or .prj; some with a collar, by one
data.nodata or another; prepared as prepare_data.py does. Polygons: labels in every form. Other files:
rasters in other forms and VRTs, the manifest, records, tables, checkpoints and first weights, their bytes
changed; records also as JSON, VRTs as XML, and a manifest that is whole but another's; read as the steps read
them; and lists and glob patterns of tiles' names.
Each may take 10 s and 2 GB more than this process holds.
Prints how many were answered and refused, and what was wrong with the rest, with the seed that shows it.
"""
import collections
import contextlib
import io
import json
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.update(CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="2")
ODD_NUMBERS = (0, 1, 2, 3, 7, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
ODD_VALUES = (None, True, "", "x", "<script>", -1, 0, 1, 1.5, 1e308, float("nan"), float("inf"), [], {}, [[]],
              "9" * 99)
ODD_TEXTS = ("", "-1", "0", "1e9", "2000000000", "nan", "x" * 9999, "\x85\u00e9", "Float64", "CFloat32",
             "mask", "../a.tif", "a.vrt", "/etc/passwd", "/vsicurl/http://127.0.0.1:9/a.tif", "<VRTDataset/>")
BATCH = 50  # mutations in one fork


def change_bytes(rng, content):
    """The content with a few of its bytes changed, cut out, doubled, or with its end cut off."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at, length = rng.randrange(len(content) + 1), rng.choice((1, 1, 2, 4, 16, 200))
        deed = rng.randrange(6)
        if deed == 0:
            del content[at:]
        elif deed == 1:
            del content[at: at + length]
        elif deed == 2:
            content[at:at] = content[at: at + length]
        elif deed == 3:
            content[at: at + length] = rng.randbytes(length)
        elif deed == 4:
            content[at: at + length] = bytes(min(length, len(content) - at))
        elif at < len(content):
            content[at] ^= 1 << rng.randrange(8)
    return bytes(content)


def change_tags(rng, content):
    """A TIFF (little-endian) with one field of one tag changed."""
    content = bytearray(content)
    first = struct.unpack_from("<I", content, 4)[0]
    entry = first + 2 + 12 * rng.randrange(struct.unpack_from("<H", content, first)[0])
    at, form = rng.choice(((0, "<H"), (2, "<H"), (4, "<I"), (8, "<I"), (8, "<I")))
    limit = 2 ** (8 * struct.calcsize(form))
    struct.pack_into(form, content, entry + at, rng.choice(ODD_NUMBERS) % limit)
    return bytes(content)


def change_json(rng, value):
    """A JSON value with one part of it removed, doubled, renamed or replaced by something odd."""
    value = json.loads(json.dumps(value))
    places, todo = [], [value]
    while todo:
        part = todo.pop()
        for key in (part if isinstance(part, dict) else range(len(part))):
            places.append((part, key))
            if isinstance(part[key], (dict, list)):
                todo.append(part[key])
    part, key = rng.choice(places)
    deed = rng.randrange(4)
    if deed == 0:
        del part[key]
    elif deed == 1 and isinstance(part, dict):
        part[rng.choice(("", "<b>", "x"))] = part.pop(key)
    elif deed == 1:
        part.append(part[key])
    else:
        part[key] = rng.choice(ODD_VALUES)
    return value


def finished(folder):
    """A project in which all steps have run; its settings."""
    import faults

    from base.settings import read_settings
    faults.load_libraries()
    faults.build(folder)
    for step in faults.STEPS:
        code, said, _ = faults.run(step, folder)
        assert code == 0, said
    os.chdir(folder)
    return read_settings("tiny.yaml")


def write_beside(rng, path):
    """Puts a damaged file beside a raster, of those that say where it lies and what has no data."""
    world = b"0.05\n0\n0\n-0.05\n366000.025\n5807999.975\n"
    system = b'LOCAL_CS["made up",UNIT["metre",1]]' if rng.random() < 0.2 else b"EPSG:32633"
    pam = (b"<PAMDataset><SRS>EPSG:32633</SRS><GeoTransform>366000, 0.05, 0, 5808000, 0, -0.05</GeoTransform>"
           b'<GCPList Projection="EPSG:32633"><GCP Pixel="1" Line="2" X="366000" Y="5808000"/></GCPList>'
           b'<Metadata domain="RPC"><MDI key="LAT_OFF">52</MDI></Metadata><PAMRasterBand band="1">'
           b"<NoDataValue>0</NoDataValue></PAMRasterBand></PAMDataset>")
    place, content = rng.choice(((path.with_suffix(".tfw"), world), (path.with_suffix(".prj"), system),
                                 (path.with_name(path.name + ".aux.xml"), pam)))
    place.write_bytes(change_bytes(rng, content) if rng.random() < 0.8 else content)
    if place.suffix == ".prj":
        path.with_suffix(".tfw").write_bytes(world)


def add_collar(rng, path):
    """Gives a raster a flat corner or side, as one value, and perhaps odd holes."""
    import numpy as np
    import rasterio
    with rasterio.open(path, "r+") as raster:
        pixels, value = raster.read(), rng.choice((0, 255))
        high, wide = rng.randrange(1, raster.height + 1), rng.randrange(1, raster.width + 1)
        pixels[:, :high, :wide] = value
        noise = np.random.default_rng(rng.randrange(2**32)).random(pixels.shape[1:])
        pixels[:, noise < rng.choice((0, 0.1, 0.4))] = 7
        raster.write(pixels)


def rewrite_label(rng, path, classes):
    """A painted label written otherwise, as people's programs do: True where by its classes' values."""
    import numpy as np
    import rasterio
    from rasterio.enums import ColorInterp

    from imagery.labels import palette
    with rasterio.open(path) as source:
        colours = np.moveaxis(source.read(), 0, -1)
    with rasterio.open(str(path).replace("5_Labels_all", "2_Ortho_RGB").replace("label", "RGB")) as image:
        place = image.transform
    index = (colours[..., None, :] == palette(classes)[: len(classes)]).all(-1)
    kind, dtype = (rng.choice(("alpha", "one-hot", "values", "palette")),
                   rng.choice(("uint8", "int16", "float32")))
    pixels = {"alpha": np.dstack([colours, np.full(index.shape[:2], 255, np.uint8)]),
              "one-hot": (index * rng.choice((1, 255))).astype(dtype),
              "palette": index.argmax(-1, keepdims=True).astype(np.uint8),
              "values": index.argmax(-1, keepdims=True).astype(dtype)}[kind]
    hidden = (slice(rng.randrange(20)), slice(rng.randrange(20)))
    pixels[hidden] = pixels.dtype.type(rng.choice((0, 7, 1.5))) if rng.random() < 0.3 else 0
    profile = {"driver": "GTiff", "height": pixels.shape[0], "width": pixels.shape[1],
               "count": pixels.shape[2], "dtype": pixels.dtype}
    with rasterio.open(path, "w", **profile, nodata=rng.choice((None, None, 0, 7, 255))) as target:
        if rng.random() < 0.5:
            crs, target.transform = some_grid(rng, place)
            if crs:
                target.crs = crs
        if kind == "palette":
            table = palette(classes)[: rng.choice((2, len(classes), 256))]
            target.write_colormap(1, {n: (*map(int, c), rng.choice((0, 255))) for n, c in enumerate(table)})
        if kind == "one-hot":
            target.colorinterp = [ColorInterp.undefined] * target.count
        target.write(np.moveaxis(pixels, -1, 0))
        if rng.random() < 0.3:
            target.write_mask(index.any(-1) & (index.argmax(-1) > 0))
    return kind == "values"


def some_grid(rng, transform):
    """A coordinate system and a transform near another, or nowhere."""
    from rasterio.transform import Affine
    angle, shift = rng.choice((0, 0, 30, 90)), rng.choice((0, 0.5, -7, 1e4))
    size = rng.choice((1, -1, 2, 0.01, 500))
    wild = Affine(*(rng.choice((0, 1, 1e-300, 1e300, float("nan"), float("inf"))) for _ in range(6)))
    moved = transform * Affine.translation(shift, 1) * Affine.rotation(angle) * Affine.scale(1, size)
    return (rng.choice(("EPSG:32633", "EPSG:25833", "EPSG:32632", "EPSG:4326", "EPSG:3857", None,
                        'LOCAL_CS["site",UNIT["metre",1]]', "IAU_2015:30100")),
            wild if rng.random() < 0.2 else moved)


def raster_case(rng, settings):
    """A damaged image or label, or one with a damaged file beside it or a collar, prepared with the others;
    what reads it."""
    import shutil

    import prepare_data
    shutil.rmtree("fuzz", ignore_errors=True)
    shutil.copytree("raw", "fuzz/raw")
    data = {**settings["data"], "raw": "fuzz/raw", "prepared": "fuzz/prepared"}
    target = rng.choice(sorted(Path("fuzz/raw").rglob("*.tif")))
    if rng.random() < 0.3:
        data["nodata"] = rng.choice((0, 255, -9999.5, 1e300, "#000000", "#ffffff"))
    if "label" in target.name and rng.random() < 0.7:
        seed = rng.random()
        if rewrite_label(random.Random(seed), target, data["classes"]):
            data.update(label_values={name: n for n, name in enumerate(data["classes"])}, ignore_colours=[7])
            for other in {*target.parent.glob("*.tif")} - {target}:
                rewrite_label(random.Random(seed), other, data["classes"])
    elif rng.random() < 0.3:
        add_collar(rng, target)
    if rng.random() < 0.3:
        write_beside(rng, target)
    elif rng.random() < 0.8:
        target.write_bytes((change_tags if rng.random() < 0.4 else change_bytes)(rng, target.read_bytes()))
    return lambda: prepare_data.main({**settings, "data": data}, Path("fuzz/runs"))


def spoil(rng, path):
    """Changes some of a file's bytes or, of JSON, perhaps one of its values."""
    content = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.5:
        path.write_text(json.dumps(change_json(rng, json.loads(content)), indent=1) + "\n")
    else:
        path.write_bytes(change_bytes(rng, content))


def manifest_case(rng, settings):
    """A damaged manifest, or one whose tiles are others."""
    import shutil

    from imagery.tiles import manifest_text, open_prepared, read_manifest
    shutil.copytree("prepared", "fuzz/prepared")
    path = Path("fuzz/prepared/manifest.json")
    if rng.random() < 0.5:
        tiles = json.loads(path.read_text())["tiles"]
        path.write_text(manifest_text(tiles if rng.random() < 0.1 else {"2_13": tiles["2_11"]}))
    else:
        path.write_bytes(change_bytes(rng, path.read_bytes()))
    data = {**settings["data"], "prepared": "fuzz/prepared"}
    return lambda: [open_prepared(data, tile) for tile in (*read_manifest("fuzz/prepared")["tiles"], "2_13")]


def checkpoint_case(rng, folder):
    """A damaged checkpoint, or one that is whole but says something else of itself."""
    import numpy as np

    from learning.checkpoints import load_checkpoint
    path = max(folder.glob("*.npz"))
    if rng.random() < 0.5:
        with np.load(path) as file:
            arrays = dict(file)
        state = change_json(rng, json.loads(arrays["state"].tobytes()))
        np.savez(path, **{**arrays, "state": np.frombuffer(json.dumps(state).encode(), np.uint8)})
    else:
        path.write_bytes(change_bytes(rng, path.read_bytes()))
    return lambda: load_checkpoint(folder)


def weights_case(rng):
    """A damaged file of an encoder's first weights, of PyTorch or of Keras in one of its formats; what reads
    it, as all that can be wrong with such a file is told: by ValueError."""
    import h5py
    import numpy as np

    from base.problem import Problem
    from learning.encoders import lite0_weights
    from learning.keras_files import for_keras
    from learning.weight_files import weights_file
    path, kind, head = Path("fuzz/w.h5"), rng.choice(("torch", "legacy", "current")), 2**16
    if kind == "torch":
        path.write_bytes(weights_file("efficientnet_lite0", "imagenet").read_bytes())
    else:
        how = rng.choice(({}, {"chunks": (2, 3), "compression": "gzip"}))
        with h5py.File(path, "w", libver=rng.choice(("earliest", "latest"))) as file:
            for name in ("a", "b", "c"):
                place = f"{name}/{name}/kernel:0" if kind == "legacy" else f"layers/{name}/vars/0"
                file.create_dataset(place, data=np.ones((5, 7), "float32"), **how)
                if kind == "legacy":
                    file[name].attrs["weight_names"] = [f"{name}/kernel:0"]
            if kind == "legacy":
                file.attrs["layer_names"] = rng.choice((["a", "b", "c"], np.array(["a", "b", "c"], "S1")))
    content = path.read_bytes()
    path.write_bytes(change_bytes(rng, content[:head]) + content[head:])

    def read():
        try:
            if kind == "torch":
                return lite0_weights(path)
            with for_keras(path) as (named, _), h5py.File(named) as file:
                file.visititems(lambda _, item: hasattr(item, "dtype") and np.array(item).fill(0) or None)
        except (ValueError, OSError) as error:
            raise Problem(f"weights: {' '.join(str(error).split())}", code=3) from None
    return read


def names_case(rng, settings):
    """A list file of odd lines, its bytes perhaps changed, or an odd glob pattern; what it names."""
    from base.keys import is_entry
    from base.names import Raw, expand
    parts = ("2_10", "top_potsdam_2_10_RGB", ".tif", "2_Ortho_RGB", "/", "\\", "..", "*", "**", "?", "[", "!",
             "]", "-", "#", "@", "\n", "\r", "\t", " ", "\0", "\ufeff", "\x85", "\u00e9", "9" * 5000)
    text = "".join(rng.choices(parts, k=rng.choice((1, 3, 30, 3000))))
    content = text.encode(rng.choice(("utf-8", "utf-16", "cp1252")), "replace")
    Path("fuzz/list.txt").write_bytes(change_bytes(rng, content) if rng.random() < 0.5 else content)
    entries = [entry for entry in ("@fuzz/list.txt", text[:rng.choice((9, 500))]) if is_entry(entry)]
    return lambda: expand([rng.choice(entries)], Path(), Raw(settings["data"]))


def change_xml(rng, content):
    """An XML text with one element of it removed, doubled, renamed, or with an odd text or attribute."""
    from xml.etree import ElementTree
    root = ElementTree.fromstring(content)
    parent, odd = rng.choice([element for element in root.iter() if len(element)]), rng.choice(ODD_TEXTS)
    child, deed = rng.choice(list(parent)), rng.randrange(5)
    if deed == 0:
        parent.remove(child)
    elif deed == 1:
        parent.insert(0, child)
    elif deed == 2:
        child.tag = rng.choice([element.tag for element in root.iter()])
    elif deed == 3 and child.attrib:
        child.set(rng.choice(list(child.attrib)), odd)
    else:
        child.text = odd
    return ElementTree.tostring(root)


def form_case(rng):
    """A damaged raster in another form, VRTs by their XML too; what opens it and reads its first rows."""
    import shutil

    import rasterio.shutil
    from rasterio.vrt import WarpedVRT

    from imagery.ground import georeference
    from imagery.rasters import Layers, open_raster
    shutil.copy(rng.choice(sorted(Path("raw").rglob("*RGB.tif"))), "fuzz/source.tif")
    name, driver = rng.choice((("a.jp2", "JP2OpenJPEG"), ("a.img", "HFA"), ("a.dat", "ENVI"),
                               ("a.gpkg", "GPKG"), ("a.vrt", "VRT"), ("a.vrt", "VRT")))
    path = Path("fuzz", name)
    with rasterio.open("fuzz/source.tif") as source:
        if driver == "VRT" and source.crs and rng.random() < 0.3:
            with WarpedVRT(source, crs="EPSG:25832") as warped:
                rasterio.shutil.copy(warped, path, driver="VRT")
        else:
            rasterio.shutil.copy(source, path, driver=driver)
    if driver == "VRT" and rng.random() < 0.8:
        path.write_bytes(change_xml(rng, path.read_bytes()))
    else:
        target = rng.choice(sorted(Path("fuzz").glob("a.*")))
        target.write_bytes(change_bytes(rng, target.read_bytes()))

    def read():
        with open_raster(path) as raster:
            georeference(raster, path, None)
            if raster.count >= 3 and raster.width < 10**5 and {*raster.dtypes} == {"uint8"}:
                Layers(raster, None, [1, 2, 3], [None] * 3).read(0, min(128, raster.height))
    return read


def file_case(rng, settings):
    """A damaged file of a finished run; what reads it."""
    import shutil

    import compare
    import evaluate
    from base.tables import (
        read_columns,
        read_facts,
        read_finder,
        read_record,
        read_table,
    )
    from reporting.metrics import card
    run = Path("fuzz/run")
    shutil.rmtree("fuzz", ignore_errors=True)
    shutil.copytree("runs/tiny", run)
    name = rng.choice(("manifest", "checkpoint", "model.json", "metrics.json", "run.json", "lr_find.json",
                       "history.csv", "schedule.csv", "lr_find.csv", "predict.csv", "names", "form",
                       "weights"))
    if name == "form":
        return form_case(rng)
    if name == "weights":
        return weights_case(rng)
    if name == "names":
        return names_case(rng, settings)
    if name == "manifest":
        return manifest_case(rng, settings)
    if name == "checkpoint":
        return checkpoint_case(rng, run / "checkpoints")
    spoil(rng, run / name)
    column = "loss" if name == "history.csv" else "learning_rate"
    return {
        "model.json": lambda: read_facts(run),
        "metrics.json": lambda: (card(read_record(run / name, "evaluate.py")), compare.read_run(run)),
        "run.json": lambda: read_record(run / name, "train.py"),
        "lr_find.json": lambda: read_finder(run),
        "predict.csv": lambda: (read_table(run / name), evaluate.read_seconds(settings, run)),
    }.get(name, lambda: read_columns(run / name, column))


def vector_case(rng, settings):
    """A damaged file of polygons, a vector file or annotations; what reads it as labels."""
    import shutil

    from imagery.ground import Grid
    from imagery.label_sources import check_labels, open_labels
    shutil.rmtree("fuzz", ignore_errors=True)
    Path("fuzz").mkdir()
    path = write_polygons(rng, Path("fuzz"))
    spoilt = rng.choice(sorted(Path("fuzz").iterdir()))
    if spoilt.suffix == ".json" and rng.random() < 0.5:
        spoilt.write_text(json.dumps(change_json(rng, json.loads(spoilt.read_text()))))
    else:
        spoilt.write_bytes(change_bytes(rng, spoilt.read_bytes()))
    data = {**settings["data"], "classes": {"tree": "#00ff00", "car": "#ffff00"}, "label_field": "kind"}
    if rng.random() < 0.5:
        data.update(label_field=None, background="car", all_touched=True)
    grid = Grid(40, 50, {"crs": "EPSG:32633", "transform": [1, 0, 365700, 0, -1, 5810000]}, "/raw/7.tif")

    def read():
        check_labels("labels", path, grid, data)
        with open_labels(path, grid, data, None) as reader:
            reader.read(0, 40)
    return read


def write_polygons(rng, folder):
    """Writes some polygons in a form of labels; its path."""
    import numpy as np
    import pyogrio.raw
    corners = [[(rng.uniform(-5, 55), rng.uniform(-5, 45)) for _ in range(4)] for _ in range(5)]
    form = rng.choice((".gpkg", ".shp", ".fgb", ".geojson", "coco.json", "labelme.json"))
    path = folder / f"a{form}"
    if form == "coco.json":
        masks = [[[*sum(ring, ())]] for ring in corners] + [{"size": [40, 50], "counts": [100, 700, 1200]}]
        path.write_text(json.dumps({
            "images": [{"id": 1, "file_name": "7.tif", "height": 40, "width": 50}],
            "annotations": [{"image_id": 1, "category_id": 1, "segmentation": mask} for mask in masks],
            "categories": [{"id": 1, "name": "tree"}]}))
    elif form == "labelme.json":
        shapes = [{"label": "tree", "shape_type": "polygon", "points": ring} for ring in corners]
        path.write_text(json.dumps({"shapes": shapes, "imageHeight": 40, "imageWidth": 50}))
    else:
        rings = [[(365700 + x, 5810000 - y) for x, y in ring] for ring in corners]
        heads = [struct.pack("<BIII", 1, 3, 1, len(ring) + 1) for ring in rings]
        blobs = [head + np.array([*ring, ring[0]]).tobytes() for head, ring in zip(heads, rings)]
        blobs = np.array(blobs, object)
        drivers = {".gpkg": "GPKG", ".shp": "ESRI Shapefile", ".fgb": "FlatGeobuf", ".geojson": "GeoJSON"}
        pyogrio.raw.write(path, blobs, [np.array(["tree", "car", "x", "tree", "car"])], ["kind"],
                          geometry_type="Polygon", crs="EPSG:32633", driver=drivers[form])
    return path


class Hung(BaseException):
    """A case took more than 10 s; no `except` of the readers catches it."""


def hung(*_):
    raise Hung


def run_batch(make, seeds, settings, out):
    """In a fork: every case, its outcome a line of `out`."""
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 2 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGALRM, hung)
    from base.problem import Problem
    for seed in seeds:
        read, said = make(random.Random(seed), settings), io.StringIO()
        signal.alarm(10)
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                read()
            outcome = "answered"
        except Problem as problem:
            clean = problem.code in (2, 3) and all(line and "\n" not in line for line in problem.lines)
            outcome = "refused" if clean else f"WRONG seed {seed}: {problem.code} {problem.lines}"
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            outcome = (f"WRONG seed {seed}: {type(error).__name__} {' '.join(str(error).split())[:150]} "
                       f"at {Path(last.filename).name}:{last.lineno}")
        signal.alarm(0)
        with open(out, "a") as file:
            file.write(outcome + "\n")


def fuzz(name, make, seeds, settings):
    """Prints what became of the cases; the number that were wrong."""
    counts, out = collections.Counter(), Path("fuzz.txt")
    while seeds:
        out.write_text("")
        process = os.fork()
        if process == 0:
            run_batch(make, seeds[:BATCH], settings, out)
            os._exit(0)
        written = time.monotonic(), 0
        while (done := os.waitpid(process, os.WNOHANG))[0] == 0:
            if out.stat().st_size > written[1]:
                written = time.monotonic(), out.stat().st_size
            elif time.monotonic() - written[0] > 30:  # in code that no signal interrupts
                os.kill(process, signal.SIGKILL)
            time.sleep(0.02)
        code = os.waitstatus_to_exitcode(done[1])
        lines = out.read_text().splitlines()
        if code:
            lines.append(f"WRONG seed {seeds[len(lines)]}: the process ended with {code}")
        for line in lines:
            counts[line.split()[0]] += 1
            if line.startswith("WRONG"):
                print(f"{name}: {line}", flush=True)
        seeds = seeds[len(lines):]
    print(f"{name}: {counts.total()} tried, {counts['answered']} answered, {counts['refused']} refused, "
          f"{counts['WRONG']} wrong", flush=True)
    return counts["WRONG"]


def main(count=2000, seed=1):
    import warnings
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        settings = finished(Path(folder).resolve() / "project")
        seeds = range(seed * 1_000_000, seed * 1_000_000 + count)
        wrong = fuzz("other files", file_case, seeds, settings)
        wrong += fuzz("rasters", raster_case, seeds, settings)
        wrong += fuzz("polygons", vector_case, seeds, settings)
        os.chdir("/")
    print(f"{3 * count - wrong} passed, {wrong} failed")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
