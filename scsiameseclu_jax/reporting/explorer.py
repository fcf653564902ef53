"""The map of the cells that can be looked into: what its script is given."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from scsiameseclu_jax.checks import names_in
from scsiameseclu_jax.pl.cells import coordinates, covered, marks_of, places
from scsiameseclu_jax.pl.colors import MISSING, colors_of
from scsiameseclu_jax.reporting.markup import (
    Html,
    count,
    details,
    script_data,
    small,
    tag,
)
from scsiameseclu_jax.reporting.result import Result

_MOST = 20_000  # cells that are drawn one by one; of more, a sample over their density
_LEAST = 50  # of each cluster in it
_GRID = 128  # squares of the density, each way
_STOPS = 32  # colours of confidence
_UNKNOWN = 255
_KINDS = {"transferred": "Type, transferred", "classified": "Type, classified"}
_HELP = (
    "Point at a cell, or tap it, to read of it; the buttons of names leave the cells of one alone "
    "in colour. Zoom by + and −, a double click, Ctrl and the wheel, or two fingers; then drag. "
    "By keyboard, on the map: arrow keys go from cell to cell, Page Up and Page Down from cluster "
    "to cluster, Shift and an arrow move the map; + and - zoom, 0 resets, Escape leaves the cell."
)


def explored(result: Result, still: Html, caption: str, labels: str | None) -> Html:
    """Return a picture of the cells with a map to look into, which takes its place on screens.

    Without a script, and on paper, there is the picture.

    Parameters
    ----------
    result
        Whose cells are drawn.
    still
        The picture.
    caption
        What is written below it, and below the map.
    labels
        Column of ``obs`` with known types, to colour by.
    """
    if result.cells is None:
        return still
    given = contents(result, labels)
    n = int(result.drawn.sum())
    what = f"Map of {count(n)} cells by cluster: arrow keys go from cell to cell"
    options = [tag("option", part["title"], value=i) for i, part in enumerate(given["fields"])]
    if given["confidence"] is not None:
        options.append(tag("option", given["confidence"]["title"], value=len(options)))
    tools = tag(
        "div",
        tag("label", "Colour ", tag("select", *options, class_="map-color")),
        _button("in", "+", "Zoom in"),
        _button("out", "−", "Zoom out"),
        _button("reset", "Reset", "Show all cells again"),
        class_="map-tools",
        role="group",
        aria_label="Map of the cells",
    )
    canvas = {"tabindex": 0, "role": "application", "aria_label": what}
    stage = tag(
        "div",
        tag("canvas", **canvas, aria_describedby="map-help", class_="map-canvas"),
        tag("div", class_="map-tip", hidden="", aria_hidden="true"),
        class_="map-stage",
    )
    scale = "" if given["confidence"] is None else ", ".join(given["confidence"]["stops"])
    parts = [
        tools,
        stage,
        tag("p", class_="map-status unseen", role="status"),
        tag("div", class_="map-legend", role="toolbar", aria_label="Show one group alone"),
        tag(
            "div",
            tag("span", "0"),
            tag("span", style=f"background:linear-gradient(90deg, {scale})", aria_hidden="true"),
            tag("span", "1"),
            class_="map-scale",
            hidden="",
        ),
    ]
    if given["density"] is not None:
        text = f"Here they are a sample of {count(given['n'])}; grey is the density of all"
        caption = f"{caption} {text} {count(n)}."
    help_ = tag("p", _HELP, class_="small", id="map-help")
    parts += [small(caption), details("The map by mouse, touch and keyboard", help_)]
    shell = tag("div", *parts, id="map", hidden="")
    given = {name: value for name, value in given.items() if name != "n"}
    # The picture is the first child, so that it is what is read where there is no script.
    whole = [tag("div", still, class_="still"), shell, script_data(given, "map-data")]
    return tag("div", *whole, class_="explored")


def contents(result: Result, labels: str | None) -> dict[str, Any]:
    """Return what the script draws: numbers as base64 of few bytes, names as they are.

    Cells are in random order, so that none of their groups hides the others.
    """
    points = coordinates(result.cells, f"{result.key}_umap")
    rows = np.flatnonzero(result.drawn & np.isfinite(points).all(axis=1))
    low = points[rows].min(axis=0)
    high = points[rows].max(axis=0)
    unit = (points - low) / np.where(high > low, high - low, 1)
    unit[:, 1] = 1 - unit[:, 1]  # of a canvas the top is 0
    density = None
    if len(rows) > _MOST:
        density = _density(unit[rows])
    rows = _some(rows, result.clusters.cat.codes.to_numpy())
    x, y = np.rint(65535 * unit[rows]).astype("<u2").T
    fields = [_field("Cluster", result.clusters.iloc[rows], unit[rows], result.colors)]
    for title, kinds in _kinds(result, labels).items():
        fields.append(_field(title, kinds.iloc[rows], unit[rows], None))
    return {
        "n": len(rows),
        "x": _packed(x),
        "y": _packed(y),
        "fields": fields,
        "confidence": _confidence(result, rows),
        "density": density,
    }


def _kinds(result: Result, labels: str | None) -> dict[str, pd.Series]:
    """Return what else is known of the cells, by title."""
    found = {"Annotation": result.column("annotation")}
    found |= {title: result.adata.obs.get(name) for name, title in _KINDS.items()}
    if labels is not None:
        found[labels] = result.adata.obs[labels]
    return {
        title: pd.Series(names_in(kinds), index=kinds.index, dtype=object)
        for title, kinds in found.items()
        if kinds is not None and kinds.notna().any()
    }


def _field(
    title: str, values: pd.Series, points: np.ndarray, colors: Mapping[str, str] | None
) -> dict[str, Any]:
    """Return the categories of cells [n], their colours, and where each is named on the map."""
    categories = values.astype("category").cat.remove_unused_categories().cat
    codes, names = categories.codes.to_numpy(), [str(name) for name in categories.categories]
    shown = colors_of(names) if colors is None else [colors[name] for name in names]
    marks = marks_of(names)
    where = places(points, codes, len(names))
    above = covered(points, codes, where).tolist()
    at = [point.round(4).tolist() for point in where]
    written = [[*point, mark, up] for point, mark, up in zip(at, marks, above, strict=True)]
    if (codes < 0).any():
        codes = np.where(codes < 0, len(names), codes)
        names, shown = [*names, "missing"], [*shown, MISSING]
    wide = len(names) > 256
    kinds = {"title": title, "names": names, "colors": shown, "marks": written, "wide": wide}
    return kinds | {"codes": _packed(codes.astype("<u2" if wide else "u1"))}


def _confidence(result: Result, rows: np.ndarray) -> dict[str, Any] | None:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    values = None if result.replaced else result.column("confidence")
    if values is None:
        return None
    shares = values.to_numpy(np.float64, na_value=np.nan)[rows]
    known = np.isfinite(shares)
    levels = np.full(len(rows), _UNKNOWN, np.uint8)
    levels[known] = np.rint(254 * np.clip(shares[known], 0, 1))
    title = "Confidence" if result.calibrated else "Confidence, not calibrated"
    stops = [to_hex(color) for color in colormaps["cividis"](np.linspace(0, 1, _STOPS))]
    return {"title": title, "values": _packed(levels), "stops": stops}


def _density(points: np.ndarray) -> dict[str, Any]:
    """Return the numbers of cells in squares, on a logarithmic scale, row by row from the top."""
    x, y = np.minimum((_GRID * points).astype(int), _GRID - 1).T
    cells = np.log1p(np.bincount(_GRID * y + x, minlength=_GRID**2))
    values = np.rint(255 * cells / cells.max()).astype(np.uint8)
    return {"columns": _GRID, "rows": _GRID, "values": _packed(values)}


def _some(rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return rows in random order: all, or a sample with some of each cluster."""
    order = np.random.default_rng(0).permutation(rows)
    if len(rows) <= _MOST:
        return order
    ranks = pd.Series(codes[order]).groupby(codes[order]).cumcount().to_numpy()
    return order[(np.arange(len(order)) < _MOST) | (ranks < _LEAST)]


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _button(name: str, text: str, title: str) -> Html:
    about = {"aria_label": title, "title": title} if len(text) == 1 else {"title": title}
    return tag("button", text, type="button", class_=f"map-{name}", **about)
