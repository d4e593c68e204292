"""report.html: the values that the template page.html is filled with; it escapes every name."""
import base64
import io
import json
from pathlib import Path

import jinja2

from base.settings import roles_of
from base.strict_yaml import yaml_text
from imagery.roles import doubts
from reporting.charts import FAULTS, faults, percent, plt
from reporting.metrics import card, count_classes


def data_url(kind, content):
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def embed(path):
    """(source, width in rem) of a figure: as wide as on paper at 8 rem an inch."""
    return data_url("png", path.read_bytes()), round(plt.imread(path).shape[1] / 200 * 8)


def encode(name, picture):
    """The source of a slider's picture: photographs as JPEG, flat colours as PNG."""
    file, flat = io.BytesIO(), name in ("labels", "prediction", "one view")
    kind, options = ("png", {"optimize": True}) if flat else ("jpeg", {"quality": 88})
    plt.imsave(file, picture, format=kind, pil_kwargs=options)
    return data_url(kind, file.getvalue())


def build_slider(pictures):
    """A test tile's pictures {name: uint8 [h, w, 3]} that lie on top of each other, two of them visible."""
    height, width = pictures["image"].shape[:2]
    return {"aspect": width / height, "width": width,
            "pictures": {name: encode(name, picture) for name, picture in pictures.items()}}


def abridged(value):
    """Settings or records without what follows the first three entries of a list or mapping of more than 100,
    as of thousands of tiles, and how many they are."""
    if not isinstance(value, (dict, list)):
        return value
    if len(value) > 100:
        more = f"... {len(value):,} in all; run.json and model.json have them"
        return [*map(abridged, list(value)[:3]), more]
    if isinstance(value, list):
        return list(map(abridged, value))
    return {key: abridged(part) for key, part in value.items()}


def build_page(settings, metrics, provenance, audit, sliders, groups):
    """The page as text. `provenance`: run.json, with model.json as "model"; `audit`: ({role: the tiles that
    are shown}, {tile: its row of the manifest}); `sliders`: {tile: its slider}; `groups`: {title: {figure:
    caption}}."""
    shown, rows = audit
    used = {**provenance["settings"], **metrics["settings"], "report": settings["report"]}
    others = {key: value for key, value in provenance.items() if key != "settings"}
    files = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, loader=files,
                              trim_blocks=True, lstrip_blocks=True).get_template("page.html")
    return page.render(
        title=settings["report"]["title"], classes=settings["data"]["classes"],
        split=roles_of(settings["split"]), shown=shown, metrics=metrics, card=card(metrics), rows=rows,
        sliders=sliders, groups=groups, used=yaml_text(abridged(used)),
        provenance=json.dumps(abridged(others), indent=1, ensure_ascii=False), embed=embed,
        fault_kinds=list(FAULTS),
        faults=faults, count_classes=count_classes, percent=percent,
        doubts=list(doubts(settings["split"], rows)))
