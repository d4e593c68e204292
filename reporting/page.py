"""report.html, from page.html: every name in it is escaped.
"""
import base64
import html
import io
import json
import string
from pathlib import Path

import yaml

from reporting import charts
from reporting.charts import percent, plt
from reporting.metrics import card, count_classes


def embed(path, caption):
    """A figure as HTML, as wide as on paper at 8 rem an inch, the page's width at most."""
    picture = base64.b64encode(path.read_bytes()).decode()
    inches = plt.imread(path).shape[1] / 200
    text = html.escape(caption)
    return (f'<figure><img src="data:image/png;base64,{picture}" alt="{text}" style="width:{inches * 8:.0f}rem">'
            f"<figcaption>{text}</figcaption></figure>")


def embed_picture(name, picture):
    """A layer of a slider as HTML: photographs as JPEG, flat colours as PNG."""
    kind = "png" if name in ("labels", "prediction", "one view") else "jpeg"
    file = io.BytesIO()
    plt.imsave(file, picture, format=kind, pil_kwargs={"quality": 88} if kind == "jpeg" else {"optimize": True})
    return (f'<img data-layer="{html.escape(name)}" alt="{html.escape(name)}" '
            f'src="data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}">')


def build_slider(tile, layers, score):
    """A test tile's pictures on top of each other, two of them shown, with what moves the border between them."""
    height, width = layers["image"].shape[:2]
    stack = "".join(embed_picture(name, picture) for name, picture in layers.items())

    def choice(side, chosen):
        options = "".join(f"<option{' selected' if name == chosen else ''}>{html.escape(name)}</option>"
                          for name in layers)
        return f'<select aria-label="{side} picture">{options}</select>'

    name = html.escape(tile)
    return (f'<figure class="swipe"><div class="stage" style="aspect-ratio: {width} / {height}; '
            f'max-width: calc(90vh * {width / height:.4f})">{stack}</div>'
            f'<div class="controls">{choice("left", "image")}<input type="range" min="0" max="100" step="0.5" '
            f'value="50" aria-label="border between the pictures of {name}">{choice("right", "prediction")}</div>'
            f"<figcaption>Tile {name}: mean IoU {percent(score['full']['mean_iou'])} %, accuracy "
            f"{percent(score['full']['accuracy'])} %; without class boundaries "
            f"{percent(score['eroded']['mean_iou'])} % and {percent(score['eroded']['accuracy'])} %.</figcaption>"
            "</figure>")


def build_table(header, rows):
    """A table; its cells are HTML."""
    cells = [("th", header), *(("td", row) for row in rows)]
    return "<table>" + "".join("<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in row) + "</tr>"
                               for tag, row in cells) + "</table>"


def build_headline(metrics):
    """The four scores that are asked for most."""
    left_out, full, eroded = metrics["protocol"]["leave_out"], metrics["full"], metrics["eroded"]
    without = f" without {', '.join(left_out)}" if left_out else ""
    return "".join(f"<div><b>{percent(value)}</b><span>{html.escape(name)}, %</span></div>" for name, value in (
        (f"mean IoU, {count_classes(full['classes'])} classes", full["mean_iou"]),
        (f"mean IoU{without}, boundaries eroded", eroded["left_out"]["mean_iou"]),
        (f"mean F1{without}, boundaries eroded", eroded["left_out"]["mean_f1"]), ("accuracy", full["accuracy"])))


def build_key(name, colour):
    return f'<i class="key" style="background:{html.escape(colour)}"></i>{html.escape(name)}'


def build_classes(metrics, classes):
    """The scores of every class, on all labelled pixels and without class boundaries."""
    each = ("IoU", "F1", "precision", "recall")
    return build_table(["class, %", *each, *(f"eroded {name}" for name in each), "pixels"], [
        [build_key(name, colour), *(percent(metrics[kind]["classes"][name][score.lower()])
                                    for kind in ("full", "eroded") for score in each),
         f'{metrics["full"]["classes"][name]["pixels"]:,}'] for name, colour in classes.items()])


def build_audit(settings, metrics, manifest):
    """Every tile with its role, its scores where it has any, and what is known of its files."""
    rows = []
    for tile, role in ((tile, role) for role, names in settings["split"].items() for tile in names):
        row, scores = manifest[tile], metrics["tiles"].get(tile)
        height, width, bands = row["shape"]
        unknown = row["pixels"]["labels"]["unknown_colours"]
        often = ", ".join(f"{colour} ({count:,})" for colour, count in unknown.items())
        rows.append([html.escape(tile), role,
                     *(percent(scores[kind]["mean_iou"]) if scores else "" for kind in ("full", "eroded")),
                     *("&lt;0.01" if 0 < share < 5e-5 else percent(share) for share in charts.faults(row).values()),
                     f"{height} x {width} x {bands}", row["dtype"],
                     html.escape(row["georeference"]["crs"] or "none"),
                     f"<code>{html.escape(row['raw']['image']['sha256'][:8])}</code>", html.escape(often) or "-"])
    return build_table(["tile", "role", "mean IoU", "eroded", *(f"{kind} %" for kind in charts.FAULTS), "pixels",
                        "type", "place", "sha256", "most frequent unknown colours"], rows)


def build_page(settings, metrics, facts, provenance, manifest, sliders, groups):
    """The page as text, from page.html. Every name in it is escaped."""
    classes = settings["data"]["classes"]
    described = {key: value for key, value in provenance.items() if key != "settings"}
    used = {**provenance.get("settings", settings), **metrics["settings"], "report": settings["report"]}
    page = string.Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    return page.substitute(
        title=html.escape(settings["report"]["title"]), protocol=html.escape(metrics["protocol"]["text"]),
        headline=build_headline(metrics), classes=build_classes(metrics, classes),
        card=build_table(["views", "labels", "classes", "accuracy, %", "mean IoU, %", "mean F1, %"],
                         [[views, labels, html.escape(counted), *map(percent, values)]
                          for views, labels, counted, *values in card(metrics)]),
        keys="".join(f"<span>{build_key(name, colour)}</span>" for name, colour in classes.items()),
        tiles="".join(sliders), audit=build_audit(settings, metrics, manifest),
        figures="".join(f"<h2>{html.escape(title)}</h2>" + "".join(embed(*picture) for picture in group)
                        for title, group in groups.items()),
        settings=html.escape(yaml.safe_dump(used, sort_keys=False, allow_unicode=True)),
        provenance=html.escape(json.dumps({**described, "model": facts}, indent=1, ensure_ascii=False)))
