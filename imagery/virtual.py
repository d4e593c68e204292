"""VRT files, which name other rasters: which files these are, and that GDAL will open no others.

GDAL follows whatever a VRT names, into the network too, and reads zeros where a file is missing. So its XML
is read here first (GDAL, "VRT -- GDAL Virtual Format"): elements that may name files in other ways, or
compute pixels, are refused.
"""
import os
import re
from pathlib import Path
from xml.etree import ElementTree

from base.problem import Problem, shown
from base.zips import is_file, split_zip
from imagery.formats import ENVI, binary, command_to, header_of, what_is
from imagery.remote import address_of

LONGEST = 2**25  # bytes: a VRT of 30,000 members
DEEPEST = 4  # VRTs within VRTs
NAMES_A_FILE = ("SourceFilename", "SourceDataset")
HARMLESS = re.compile(  # elements that name no file
    "VRTDataset|SRS|GeoTransform|GCPList|GCP|Metadata|MDI|OverviewList|VRTRasterBand|MaskBand|NoDataValue|"
    "HideNoDataValue|ColorInterp|ColorTable|Entry|Description|UnitType|Offset|Scale|CategoryNames|Category|"
    "Histograms|HistItem|HistMin|HistMax|BucketCount|IncludeOutOfRange|Approximate|HistCounts|Overview|"
    "SimpleSource|ComplexSource|AveragedSource|NoDataFromMaskSource|KernelFilteredSource|Kernel|Size|Coefs|"
    "SourceBand|SourceProperties|SrcRect|DstRect|NODATA|UseMaskBand|RemappedValue|MaskValueThreshold|"
    "ScaleOffset|ScaleRatio|Exponent|SrcMin|SrcMax|DstMin|DstMax|LUT|ColorTableComponent|BlockXSize|"
    "BlockYSize|GDALWarpOptions|WarpMemoryLimit|ResampleAlg|WorkingDataType|Option|Transformer|"
    "ApproxTransformer|MaxError|BaseTransformer|GenImgProjTransformer|(Src|Dst)(Inv)?GeoTransform|"
    "SrcGCPTransformer|GCPTransformer|TPSTransformer|Order|Reversed|Re[pP]rojectTransformer|"
    "ReprojectionTransformer|SourceSRS|TargetSRS|SourceCRS|TargetCRS|Options|BandList|"
    "BandMapping|SrcNoDataReal|SrcNoDataImag|DstNoDataReal|DstNoDataImag|SrcAlphaBand|DstAlphaBand|"
    "Cutline|CutlineBlendDist|CoordinateEpoch|"
    "GDALRasterAttributeTable|FieldDefn|Name|Type|Usage|Row|F")
ELSEWHERE = re.compile("DEM|GEOLOC|OPERATION", re.IGNORECASE)  # options of warping that may name files
ATTRIBUTES = re.compile(  # those that GDAL writes; it takes any for an element of its name
    "raster[XY]Size|subClass|dataType|band|[bB]lock[XY]Size|dataAxisToSRSAxisMapping|coordinateEpoch|"
    "domain|format|key|name|relative[tT]oVRT|shared|shift|resampling|(x|y)(Off|Size)|Raster[XY]Size|DataType|"
    "c[1-4]|Row0Min|BinSize|tableType|index|Id|Info|Pixel|Line|X|Y|Z|Projection|normalized|src|dst")
AWAY = re.compile("GEOLOCATION|OVERVIEWS", re.IGNORECASE)  # domains of metadata that name files
SUBCLASSES = (None, "VRTWarpedDataset", "VRTSourcedRasterBand", "VRTWarpedRasterBand")


def parts_of(path, raw=None):
    """The other files (Path) that hold pixels of a raster or say how they lie: the members of a VRT, as of
    `members_of`, the header of an ENVI raster, the .ige of a large .img."""
    if address_of(path):
        return []
    path, driver = Path(path), what_is(path)[0]
    if driver == "VRT":
        members = members_of(path, raw)
        inner = [part for member in members if member.suffix.lower() != ".vrt" for part in parts_of(member)]
        return list(dict.fromkeys([*members, *inner]))
    beside = {ENVI: header_of(path), "HFA": path.with_suffix(".ige")}.get(driver)
    return [beside] if beside and beside.is_file() else []


def check_beside(path):
    """Problem (exit 3) where a mask or overviews beside a raster, which GDAL opens too, are no plain rasters
    but a VRT or another file."""
    for ending in (".msk", ".MSK", ".ovr", ".OVR"):
        beside = Path(f"{path}{ending}")
        wrong = what_is(beside)[1] if is_file(beside) else None
        if wrong:
            raise Problem(f"raster {path}: {beside.name} beside it is {wrong}, or remove that", code=3)


def members_of(path, raw=None, above=()):
    """The files (Path) that a VRT and the VRTs among them name, each once, and their masks. A link to a VRT
    is that VRT, as to GDAL. Problem (exit 3) where one is missing, no raster that is read here, or lies
    elsewhere than in or below the VRT's folder or `raw`, or where an element could name others."""
    if split_zip(path)[0]:
        raise Problem(f"raster {path}: a VRT in a zip archive, expected one beside the files that it names; "
                      "unzip all of it", code=3)
    path = Path(os.path.realpath(path))
    if path in above or len(above) == DEEPEST:
        raise Problem(f"raster {path}: a VRT within VRTs within itself or more than {DEEPEST} deep, expected "
                      "rasters; name these", code=3)
    folders = [os.path.realpath(folder) for folder in (path.parent, raw) if folder is not None]
    found = {}
    for name in names_in(path):
        member = Path(os.path.realpath(path.parent / name))
        check_member(path, member, folders)
        found |= dict.fromkeys([member, *filter(Path.is_file, [member.with_name(f"{member.name}.msk")])])
        if what_is(member)[0] == "VRT":
            found.update(dict.fromkeys(members_of(member, raw, (*above, path))))
    return list(found)


def names_in(path):
    """The files that a VRT itself names, as text, seen from its folder. Problem (exit 3) where it is no XML,
    or has an element that could name files otherwise."""
    with binary(path) as file:
        text = file.read(LONGEST + 1)
    wrong = "no VRT's XML (with <! in it)" if b"<!" in text else None  # of comments GDAL makes other names
    wrong = f"more than {LONGEST >> 20} MB" if len(text) > LONGEST else wrong
    try:
        elements = [] if wrong else list(ElementTree.fromstring(text.decode("utf-8-sig")).iter())
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        wrong = f"no XML ({error})"
    if wrong:
        raise Problem(f"raster {path}: {wrong}, expected a VRT as GDAL and QGIS write it", code=3)
    odd = next((element for element in elements if not is_harmless(element)), None)
    if odd is not None:
        what = shown(" ".join([odd.tag, *odd.attrib.values(), (odd.text or "").strip()]).strip()).strip('"')
        raise Problem(f"raster {path}: a VRT with {what}, expected one that puts rasters together or warps "
                      f"one; make a GeoTIFF of it: {command_to('gdal_translate', path)}", code=3)
    return list(dict.fromkeys(name_of(element) for element in elements if element.tag in NAMES_A_FILE))


def is_harmless(element):
    """True of an element that names its file where it is looked for, or none at all."""
    if element.tag == "Option" and ELSEWHERE.search(element.get("name", element.get("key", ""))):
        return False
    named = element.tag in NAMES_A_FILE
    known = is_plain(element) if named else HARMLESS.fullmatch(element.tag)
    return (bool(known) and all(map(ATTRIBUTES.fullmatch, element.keys()))
            and element.get("subClass") in SUBCLASSES and not AWAY.fullmatch(element.get("domain", "")))


def is_plain(element):
    """True where the name of a file is a path to GDAL, to the letter: without a driver's prefix or spaces at
    its ends, and plainly relative or not."""
    name, near = element.text or "", element.get("relativeToVRT", element.get("relativetoVRT", "0"))
    return near in ("0", "1") and name == name.strip() != "" and not re.match(r"<|\w+:", name)


def name_of(element):
    """The file that an element names: seen from the VRT's folder or, as GDAL has it, from this one."""
    name = element.text
    near = element.get("relativeToVRT", element.get("relativetoVRT")) == "1"
    return name if near else os.path.abspath(name)


def check_member(path, member, folders):
    """Problem (exit 3) where a VRT's member is no file, lies outside of these folders, or is
    no raster that is read here."""
    if not any(os.path.commonpath([folder, member]) == folder for folder in folders):
        raise Problem(f"raster {path}: names {member}, expected files in or below its own folder or "
                      "data.raw; move them there, or make a GeoTIFF of it (gdal_translate)", code=3)
    if not member.is_file():
        raise Problem(f"raster {path}: names {member}, no such file, expected all that it names; put it "
                      "there, or build it anew (gdalbuildvrt)", code=3)
    driver, wrong = what_is(member)
    with open(member, "rb") as file:
        hidden = driver != "VRT" and b"<VRTDataset" in file.read(2**12)  # GDAL would take it for a VRT
    if wrong or hidden:
        raise Problem(f"raster {path}: names {member}: {wrong or 'no raster but a VRT in disguise'}", code=3)
    check_beside(member)
