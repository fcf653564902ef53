"""Plots that set one naming of the cells beside another: clusters and types."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scsiameseclu_jax.pl.cells import SHORT
from scsiameseclu_jax.pl.colors import MISSING, colors_of
from scsiameseclu_jax.pl.figures import axes
from scsiameseclu_jax.pl.flows import Flows, arrange
from scsiameseclu_jax.preprocessing.expression import groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINE = 0.16  # inches from one line of small text to the next
_CELL = 0.3  # inches, side of a cell of the heat map
_NODE = 0.045  # width of a category, where the gap between two columns is 1
_MISSING = "missing"


def sankey(
    adata: AnnData,
    left: str,
    right: str,
    *further: str,
    min_share: float = 0.05,
    ax: Axes | None = None,
) -> Axes:
    """Draw which cells of the categories of one column are in which of the next.

    Parameters
    ----------
    adata
        Cells.
    left, right, further
        Columns of ``obs`` with categories or names, from left to right; cells without one are
        a category of their own, ``missing``.
    min_share
        Flows of less than this share of each of the two categories that they link are not drawn;
        between 0 and 1.
    ax
        Where to draw; None makes a figure.

    Returns
    -------
    The axes. Heights are numbers of cells; colours are those of the categories on the left.
    Categories are in an order that lets few cells cross.

    Raises
    ------
    KeyError
        If ``obs`` has no such column.
    ValueError
        If a column holds measurements, or `min_share` is not between 0 and 1.

    Examples
    --------
    >>> import scsiameseclu_jax as scs
    >>> adata = scs.datasets.pbmc68k_reduced()
    >>> adata.obs["kind"] = [name.split("+")[0] for name in adata.obs["cell_type"]]
    >>> ax = scs.pl.sankey(adata, "cell_type", "kind")
    """
    columns = [left, right, *further]
    if not 0 <= min_share <= 1:
        msg = f"Expected `min_share` to be between 0 and 1, found {min_share}."
        raise ValueError(msg)
    named = [_whole(groups(adata, column)) for column in columns]
    tables = [_table(one, other) for one, other in pairwise(named)]
    flows = arrange(tables, min_share=min_share)
    names = [[str(n) for n in one.categories] for one in named]
    most = max(map(len, names))
    if ax is None:
        ends = 0.075 * sum(max(map(len, names[column])) for column in (0, -1))
        ax = axes((2.6 * len(tables) + 0.6 + ends, max(3.2, 1.0 + 1.15 * _LINE * most)))
    pairs = zip(names[0], colors_of(names[0]), strict=True)
    colors = [MISSING if name == _MISSING else color for name, color in pairs]
    _draw_flows(ax, flows, tables, colors)
    height = ax.figure.get_size_inches()[1] * ax.get_position().height
    for column, own in enumerate(names):
        side = "left" if column == 0 else "right" if column == len(names) - 1 else "middle"
        _name_nodes(ax, flows, column, own, side, _LINE / max(height, 1e-3))
    ax.set_xlim(-0.02, len(tables) + _NODE + 0.02)
    ax.set_ylim(1.004, -0.004)  # the lines around the outermost, too
    ax.set_xticks(np.arange(len(names)) + _NODE / 2, columns)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    if flows.hidden > 0:
        ax.set_xlabel(f"not drawn: small flows, {100 * flows.hidden:.1f} % of cells")
    return ax


def cluster_types(
    adata: AnnData,
    groupby: str = "siameseclu",
    labels: str = "cell_type",
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw the share of each cluster that each type makes up, as a heat map.

    Parameters
    ----------
    adata
        Cells.
    groupby
        Column of ``obs`` with clusters.
    labels
        Column of ``obs`` with known types, or an annotation.
    ax
        Where to draw; None makes a figure.

    Returns
    -------
    The axes: clusters downwards with their number of cells, types to the right, in an order that
    puts large shares along the diagonal; shares of 5 % or more are written in, in %. Cells that
    lack a cluster or a type are left out.

    Raises
    ------
    KeyError
        If ``obs`` has no such column.
    ValueError
        If a column holds measurements, or no cell has both.
    """
    one, other = groups(adata, groupby), groups(adata, labels)
    counts = _table(one, other)
    if not counts.any():
        msg = f"Expected cells with both obs[{groupby!r}] and obs[{labels!r}], found none."
        raise ValueError(msg)
    some = np.flatnonzero(counts.sum(axis=1))  # clusters with a cell that has a type
    shares = counts[some] / counts[some].sum(axis=1, keepdims=True)
    rows, columns = _diagonal(shares, counts.sum(axis=0))
    shares, sizes = shares[rows][:, columns], counts.sum(axis=1)
    clusters = [f"{one.categories[i]}  ({sizes[i]})" for i in some[rows]]
    types = [other.categories[j] for j in columns]
    if ax is None:
        width = 2.0 + _CELL * len(types) + 0.07 * max(map(len, clusters))
        height = 1.0 + _CELL * len(clusters) + 0.07 * max(map(len, types))
        ax = axes((max(width, 3.4), max(height, 2.6)))
    image = ax.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    ax.figure.colorbar(image, ax=ax, label="share of the cluster", shrink=0.6, aspect=25)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.05:
            color = "white" if share > 0.6 else "k"
            options: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7}
            ax.text(column, row, f"{100 * share:.0f}", color=color, **options)
    upright = max(map(len, types)) > SHORT
    places = np.arange(len(types))
    ax.set_xticks(places, types, rotation=90 if upright else 0, fontsize="small")
    ax.set_yticks(np.arange(len(clusters)), clusters, fontsize="small")
    ax.set_xticks(places[1:] - 0.5, minor=True)
    ax.set_yticks(np.arange(1, len(clusters)) - 0.5, minor=True)
    ax.grid(which="minor", color="0.85", linewidth=0.5)
    ax.tick_params(which="both", length=0)
    ax.set(xlabel=labels, ylabel=f"{groupby} (cells)")
    return ax


def _whole(names: pd.Categorical) -> pd.Categorical:
    """Return the names with ``missing`` where there is none."""
    if not names.isna().any():
        return names
    if _MISSING not in names.categories:
        names = names.add_categories(_MISSING)
    return names.fillna(_MISSING)


def _table(one: pd.Categorical, other: pd.Categorical) -> np.ndarray:
    """Return numbers of cells [k, l] by both names; cells that lack one do not count."""
    made = np.zeros((len(one.categories), len(other.categories)), np.int64)
    both = (one.codes >= 0) & (other.codes >= 0)
    np.add.at(made, (one.codes[both], other.codes[both]), 1)
    return made


def _diagonal(shares: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return orders of rows and columns that put the large shares of each row on the diagonal."""
    main = shares.argmax(axis=1)
    leads = np.isin(np.arange(shares.shape[1]), main)
    columns = np.lexsort((-sizes, ~leads))  # types that lead in a cluster first, large ones first
    place = np.argsort(columns)
    rows = np.lexsort((-shares.max(axis=1), place[main]))
    return rows, columns


def _draw_flows(
    ax: Axes, flows: Flows, tables: Sequence[np.ndarray], first_colors: list[str]
) -> None:
    from matplotlib.patches import PathPatch, Rectangle
    from matplotlib.path import Path

    colors = [first_colors]
    for table in tables:  # a category has the colour of the one that most of its cells came from
        colors.append([colors[-1][source] for source in table.argmax(axis=0)])
    curve = [Path.MOVETO, *3 * [Path.CURVE4], Path.LINETO, *3 * [Path.CURVE4], Path.CLOSEPOLY]
    for flow in flows.links:
        x0, x1 = flow.gap + _NODE, flow.gap + 1
        middle = (x0 + x1) / 2
        (a, b), (c, d) = flow.start, flow.end
        upper = [(x0, a), (middle, a), (middle, c), (x1, c)]
        lower = [(x1, d), (middle, d), (middle, b), (x0, b)]
        patch = PathPatch(
            Path([*upper, *lower, (x0, a)], curve),
            facecolor=colors[flow.gap][flow.source],
            edgecolor="0.3",
            linewidth=0.3,
            alpha=0.55,
        )
        ax.add_patch(patch)
    for column, spans in enumerate(flows.spans):
        for (top, bottom), color in zip(spans, colors[column], strict=True):
            options = {"facecolor": color, "edgecolor": "k", "linewidth": 0.7, "zorder": 3}
            ax.add_patch(Rectangle((column, top), _NODE, bottom - top, **options))


def _name_nodes(
    ax: Axes, flows: Flows, column: int, names: list[str], side: str, line: float
) -> None:
    """Write names beside the categories, one line apart at least, with a stroke to each."""
    from matplotlib.patheffects import withStroke

    spans = np.array(flows.spans[column])
    centers = spans.mean(axis=1)
    at = _spread(centers, line)
    edge = column if side == "left" else column + _NODE
    away = -0.05 if side == "left" else 0.05
    for name, center, y in zip(names, centers, at, strict=True):
        if abs(y - center) > line / 4:
            stroke = [edge, edge + 0.7 * away], [center, y]
            ax.plot(*stroke, color="0.3", linewidth=0.6, clip_on=False, zorder=4)
        ax.text(
            edge + away,
            y,
            name,
            ha="right" if side == "left" else "left",
            va="center",
            fontsize="small",
            zorder=5,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )


def _spread(centers: np.ndarray, line: float) -> np.ndarray:
    """Move places [k] in [0, 1] as little as can be so that they are a line apart, if they fit."""
    from scipy.optimize import isotonic_regression

    order = np.argsort(centers, kind="stable")
    line = min(line, 1 / max(len(centers), 1))
    steps = line * np.arange(len(centers))
    made = np.empty_like(centers)
    rest = 1 - line * len(centers)
    fitted = isotonic_regression(centers[order] - line / 2 - steps).x
    made[order] = np.clip(fitted, 0, rest) + line / 2 + steps
    return made
