"""Plots of cells: their embedding, coloured by cluster or label."""

from __future__ import annotations

import string
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scsiameseclu_jax.checks import check_column, sorted_names
from scsiameseclu_jax.pl.colors import MISSING, colors_beside, colors_of
from scsiameseclu_jax.pl.figures import axes, new_figure
from scsiameseclu_jax.tl.record import UNASSIGNED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Names up to this length are written on the plot as they are, longer ones as letters.
SHORT = 3
LEGEND_ROWS = 20
# Distance between two such marks, as a share of the plot.
_APART = 0.05
# Half the size of a mark, as a share of the plot.
_MARK = 0.018
# More categories than this are written smaller.
MANY = 15


def embedding(
    adata: AnnData, basis: str, *, color: str | None = None, ax: Axes | None = None
) -> Axes:
    """Scatter the cells in two dimensions, coloured by a column of ``obs``.

    Parameters
    ----------
    adata
        Cells.
    basis
        Key in ``obsm`` [n, 2 or more], with or without ``X_``, the first two columns of which are
        drawn: ``"siameseclu_umap"`` after :func:`scsiameseclu_jax.tl.umap`. Cells without
        coordinates are left out.
    color
        Column of ``obs``: categories get a colour each, and a name or letter on the plot; numbers
        a colour scale. None draws all cells alike.
    ax
        Where to draw; None makes a figure.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        If ``obs`` or ``obsm`` has no such key.
    ValueError
        If `basis` has fewer than two columns.
    """
    if color is not None:
        check_column("color", color, adata)
    return _embedding(adata, basis, color, ax)


def _embedding(
    adata: AnnData, basis: str, color: str | None, ax: Axes | None, colors: list[str] | None = None
) -> Axes:
    points = coordinates(adata, basis)
    numbers = color is None or _is_measured(adata.obs[color])
    if ax is None:
        beside = 1.0 if numbers else legend_width(adata.obs[color].dropna())
        ax = axes((max(6.4, 5.2 + beside), 4.8))
    here = np.isfinite(points).all(axis=1)
    points, values = points[here], None if color is None else adata.obs[color][here]
    # In random order, so that no category hides the others.
    order = np.random.default_rng(0).permutation(len(points))
    options = {"s": float(np.clip(2e4 / adata.n_obs, 2, 30)), "linewidths": 0, "rasterized": True}
    if values is None:
        ax.scatter(*points.T, c=MISSING, **options)
    elif numbers:
        shown = values.to_numpy(np.float64, na_value=np.nan)
        dots = ax.scatter(*points[order].T, c=shown[order], cmap="cividis", **options)
        ax.figure.colorbar(dots, ax=ax, shrink=0.7)
    else:
        _scatter_categories(ax, points, values, order, options, colors)
    short = "UMAP" if basis.endswith("umap") else basis
    ax.set(title=color or "", xlabel=f"{short} 1", ylabel=f"{short} 2", xticks=[], yticks=[])
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def overview(adata: AnnData, key: str = "siameseclu", *, labels: str | None = None) -> list[Axes]:
    """Draw the clusters and, beside them, known labels.

    A label has the colour of the cluster that it shares most cells with, as far as each can have
    its own.

    Parameters
    ----------
    adata
        After :func:`scsiameseclu_jax.tl.siameseclu` and :func:`scsiameseclu_jax.tl.umap`.
    key
        The ``key_added`` of the clustering.
    labels
        Column of ``obs`` to draw beside the clusters; used for nothing else.

    Returns
    -------
    The axes, one or two, of one figure.

    Raises
    ------
    KeyError
        If ``obs`` or ``obsm`` has no such key.
    """
    wanted = {"key": key} if labels is None else {"key": key, "labels": labels}
    for name, column in wanted.items():
        check_column(name, column, adata)
    columns = list(wanted.values())
    width = sum(4.6 + legend_width(adata.obs[column].dropna()) for column in columns)
    figure = new_figure(figsize=(width, 4.6), layout="constrained")
    panels = list(figure.subplots(1, len(columns), squeeze=False)[0])
    clusters = adata.obs[key]
    _embedding(adata, f"{key}_umap", key, panels[0])
    panels[0].set_title(f"{clusters[clusters != UNASSIGNED].nunique()} clusters")
    if labels is not None:
        colors = None
        if not _is_measured(adata.obs[labels]):
            colors = colors_beside(*_categories(adata.obs[labels]), *_categories(clusters))
        _embedding(adata, f"{key}_umap", labels, panels[1], colors)
        panels[1].set_title(f"{labels}, {adata.obs[labels].nunique()} labels")
    return panels


def coordinates(adata: AnnData, basis: str) -> np.ndarray:
    """Return the first two columns [n, 2] of ``obsm[basis]``, or ``obsm[f"X_{basis}"]``."""
    name = basis if basis in adata.obsm else f"X_{basis}"
    if name not in adata.obsm:
        found = sorted_names(adata.obsm)
        msg = f"Expected `basis` to be a key of obsm, one of {found}, found {basis!r}"
        if basis.endswith("_umap"):
            key = basis.removeprefix("X_").removesuffix("_umap")
            msg += f"; run `scs.tl.umap(adata, key={key!r})` first"
        raise KeyError(f"{msg}.")
    points = np.asarray(adata.obsm[name], dtype=np.float32)
    if points.ndim != 2 or points.shape[1] < 2:
        msg = f"Expected obsm[{name!r}] to have two columns or more, found shape {points.shape}."
        raise ValueError(msg)
    return points[:, :2]


def _is_measured(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _scatter_categories(
    ax: Axes,
    points: np.ndarray,
    values: pd.Series,
    order: np.ndarray,
    options: dict,
    colors: list[str] | None,
) -> None:
    codes, names = _categories(values)
    colors = colors_of(names) if colors is None else colors
    ax.scatter(*points[order].T, c=[(*colors, MISSING)[code] for code in codes[order]], **options)

    marks = marks_of(names)
    size = 10 if len(names) <= MANY else 7
    where = places(points, codes, len(names))
    small = covered(points, codes, where)
    for point, mark, above in zip(where, marks, small, strict=True):
        if mark:
            write(ax, point, mark, size, above=above)
    pairs = zip(marks, names, strict=True)
    entries = [name if mark in ("", name) else f"{mark}  {name}" for mark, name in pairs]
    if (codes < 0).any():
        colors, entries = [*colors, MISSING], [*entries, "missing"]
    dots = [ax.scatter([], [], c=color, s=30, linewidths=0) for color in colors]
    ax.legend(
        dots,
        entries,
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        ncols=-(-len(entries) // LEGEND_ROWS),
        frameon=False,
        fontsize="small",
        handletextpad=0.2,
        columnspacing=0.8,
    )


def _categories(values: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Return the category [n] of each value, -1 for none, and their names."""
    found = values.astype("category").cat.remove_unused_categories().cat
    return found.codes.to_numpy(), [str(name) for name in found.categories]


def span_of(points: np.ndarray) -> np.ndarray:
    """Return the width and height [2] of points [n, 2], 1 where there is none; NaN are ignored."""
    span = np.nanmax(points, axis=0) - np.nanmin(points, axis=0)
    return np.where(span > 0, span, 1)


def places(points: np.ndarray, codes: np.ndarray, n: int) -> list[np.ndarray]:
    """Return where to write the mark of each category: on one of its own cells.

    It is the cell next to the median, for of a category in two parts the median is in neither,
    and among those that keep a distance from the other marks if there are any. Categories of few
    cells choose first.
    """
    scale = span_of(points)
    found: dict[int, np.ndarray] = {}
    for code in np.argsort(np.bincount(codes[codes >= 0], minlength=n), kind="stable"):
        own = points[codes == code]
        far = np.linalg.norm((own - np.median(own, axis=0)) / scale, axis=1)
        for other in found.values():
            near = np.linalg.norm((own - other) / scale, axis=1) / _APART
            far += 10 * np.maximum(1 - near, 0)
        found[int(code)] = own[np.argmin(far)]
    return [found[code] for code in range(n)]


def covered(points: np.ndarray, codes: np.ndarray, where: list[np.ndarray]) -> np.ndarray:
    """Return of which categories [n] a mark on them would hide most cells."""
    scale = span_of(points)
    found = []
    for code, place in enumerate(where):
        far = np.abs((points[codes == code] - place) / scale).max(axis=1)
        found.append(float(np.quantile(far, 0.75)) < _MARK)
    return np.array(found, bool)


def legend_width(values: Iterable[str]) -> float:
    """Return the width in inches of a legend of names, counted once each, with its dots."""
    names = set(map(str, values))
    longest = max((text_width(name) for name in names), default=0.0)
    return -(-(len(names) + 1) // LEGEND_ROWS) * (0.55 + longest)


def text_width(text: str) -> float:
    """Return the width in inches of a text in the small size."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    with warnings.catch_warnings():
        # Of letters that the font does not have: it is said where they are drawn.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        width, _, _ = text_to_path.get_text_width_height_descent(
            text, FontProperties(size="small"), ismath=False
        )
    return width / 72


def write(ax: Axes, point: np.ndarray, text: str, size: float, *, above: bool = False) -> None:
    """Write a mark that can be read on dots of any colour: on a point, or just above it."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import offset_copy

    halo = [withStroke(linewidth=size / 4, foreground="white")]
    options: dict[str, Any] = {"ha": "center", "fontsize": size, "fontweight": "bold"}
    options["va"] = "bottom" if above else "center"
    if above:
        shift = {"y": 0.25 * size, "units": "points"}
        options["transform"] = offset_copy(ax.transData, ax.get_figure(), **shift)
    ax.text(*point, text, path_effects=halo, **options)


def marks_of(names: list[str]) -> list[str]:
    """Return what is written on each category: its name if all are short, a letter otherwise.

    Nothing is where cells are left unassigned: they are everywhere.
    """
    own = [name for name in names if name != UNASSIGNED]
    marks = iter(own if max(map(len, own), default=0) <= SHORT else letters(len(own)))
    return ["" if name == UNASSIGNED else next(marks) for name in names]


def letters(n: int) -> list[str]:
    """Return A, B, ..., Z, AA, AB, ...: not to be taken for cluster numbers."""
    single = string.ascii_uppercase
    double = [a + b for a in single for b in single]
    return [*single, *double, *map(str, range(n))][:n]
