"""report.html, from page.html: every name in it is escaped.
"""
import base64
import html
import io
import json
import string
from pathlib import Path

from base.strict_yaml import yaml_text
from reporting.charts import FAULTS, faults, percent, plt
from reporting.metrics import card, count_classes


def embed(path, caption):
    """A figure as HTML, as wide as on paper at 8 rem an inch, the page's width at most."""
    picture = base64.b64encode(path.read_bytes()).decode()
    inches = plt.imread(path).shape[1] / 200
    text = html.escape(caption)
    return (f'<figure><img src="data:image/png;base64,{picture}" alt="{text}" '
            f'style="width:{inches * 8:.0f}rem"><figcaption>{text}</figcaption></figure>')


def embed_picture(name, picture):
    """A layer of a slider as HTML: photographs as JPEG, flat colours as PNG."""
    file, name = io.BytesIO(), html.escape(name)
    if name in ("labels", "prediction", "one view"):
        kind, options = "png", {"optimize": True}
    else:
        kind, options = "jpeg", {"quality": 88}
    plt.imsave(file, picture, format=kind, pil_kwargs=options)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img data-layer="{name}" alt="{name}" src="data:image/{kind};base64,{data}">'


def build_choice(side, names, chosen):
    """A list of names, one of them chosen."""
    options = "".join(f"<option{' selected' if name == chosen else ''}>{html.escape(name)}</option>"
                      for name in names)
    return f'<select aria-label="{side} picture">{options}</select>'


def build_slider(tile, layers, scores):
    """A test tile's pictures on top of each other, two of them visible, and what moves their border."""
    height, width = layers["image"].shape[:2]
    name, full, eroded = html.escape(tile), scores["full"], scores["eroded"]
    stack = "".join(embed_picture(layer, picture) for layer, picture in layers.items())
    return (f'<figure class="swipe"><div class="stage" style="aspect-ratio: {width} / {height}; '
            f'max-width: calc(90vh * {width / height:.4f})">{stack}</div>'
            f'<div class="controls">{build_choice("left", layers, "image")}<input type="range" min="0" '
            f'max="100" step="0.5" value="50" aria-label="border between the pictures of {name}">'
            f'{build_choice("right", layers, "prediction")}</div>'
            f"<figcaption>Tile {name}: mean IoU {percent(full['mean_iou'])} %, accuracy "
            f"{percent(full['accuracy'])} %; without class boundaries {percent(eroded['mean_iou'])} % and "
            f"{percent(eroded['accuracy'])} %.</figcaption></figure>")


def build_table(header, rows):
    """A table; its cells are HTML."""
    lines = ["".join(f"<th>{cell}</th>" for cell in header)]
    lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def build_headline(metrics):
    """The four scores that are asked for most."""
    left_out, full, eroded = metrics["protocol"]["leave_out"], metrics["full"], metrics["eroded"]["left_out"]
    without = f" without {', '.join(left_out)}" if left_out else ""
    scores = {f"mean IoU, {count_classes(full['classes'])} classes": full["mean_iou"],
              f"mean IoU{without}, boundaries eroded": eroded["mean_iou"],
              f"mean F1{without}, boundaries eroded": eroded["mean_f1"], "accuracy": full["accuracy"]}
    return "".join(f"<div><b>{percent(value)}</b><span>{html.escape(name)}, %</span></div>"
                   for name, value in scores.items())


def build_card(metrics):
    """The protocol card: every common meaning of "the score"."""
    return build_table(["views", "labels", "classes", "accuracy, %", "mean IoU, %", "mean F1, %"],
                       [[views, labels, html.escape(counted), *map(percent, values)]
                        for views, labels, counted, *values in card(metrics)])


def build_key(name, colour):
    return f'<i class="key" style="background:{html.escape(colour)}"></i>{html.escape(name)}'


def build_classes(metrics, classes):
    """The scores of every class, on all labelled pixels and without class boundaries."""
    names, rows = ("IoU", "F1", "precision", "recall"), []
    for name, colour in classes.items():
        full, eroded = (metrics[kind]["classes"][name] for kind in ("full", "eroded"))
        scores = [percent(each[score.lower()]) for each in (full, eroded) for score in names]
        rows.append([build_key(name, colour), *scores, f"{full['pixels']:,}"])
    return build_table(["class, %", *names, *(f"eroded {name}" for name in names), "pixels"], rows)


def build_audit(split, metrics, rows):
    """Every tile with its role, its scores where it has any, and the counts of its row of the manifest."""
    header = ["tile", "role", "mean IoU", "eroded", *(f"{kind} %" for kind in FAULTS), "pixels", "type",
              "place", "sha256", "most frequent unknown colours"]
    return build_table(header, [audit_tile(tile, role, rows[tile], metrics["tiles"].get(tile))
                                for role, tiles in split.items() for tile in tiles])


def audit_tile(tile, role, row, scores):
    """The cells of a tile in the audit; `scores` is None where it was not scored."""
    height, width, bands = row["shape"]
    means = [percent(scores[kind]["mean_iou"]) if scores else "" for kind in ("full", "eroded")]
    shares = ["&lt;0.01" if 0 < share < 5e-5 else percent(share) for share in faults(row).values()]
    unknown = row["pixels"]["labels"]["unknown_colours"]
    colours = ", ".join(f"{colour} ({count:,})" for colour, count in unknown.items())
    return [html.escape(tile), role, *means, *shares, f"{height} x {width} x {bands}", row["dtype"],
            html.escape(row["georeference"]["crs"] or "none"),
            f"<code>{html.escape(row['raw']['image']['sha256'][:8])}</code>", html.escape(colours) or "-"]


def build_page(settings, metrics, provenance, rows, sliders, groups):
    """The page as text, from page.html. `provenance`: run.json, with model.json as "model"; `rows`: {tile:
    its row of the manifest}; `groups`: {title: {figure: caption}}."""
    classes, title = settings["data"]["classes"], settings["report"]["title"]
    used = {**provenance["settings"], **metrics["settings"], "report": settings["report"]}
    others = {key: value for key, value in provenance.items() if key != "settings"}
    figures = [f"<h2>{html.escape(group)}</h2>" + "".join(embed(*picture) for picture in captions.items())
               for group, captions in groups.items()]
    page = string.Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    return page.substitute(
        title=html.escape(title), protocol=html.escape(metrics["protocol"]["text"]),
        headline=build_headline(metrics), card=build_card(metrics), classes=build_classes(metrics, classes),
        keys="".join(f"<span>{build_key(name, colour)}</span>" for name, colour in classes.items()),
        tiles="".join(sliders), figures="".join(figures), audit=build_audit(settings["split"], metrics, rows),
        settings=html.escape(yaml_text(used)),
        provenance=html.escape(json.dumps(others, indent=1, ensure_ascii=False)))
