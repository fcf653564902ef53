"""Plots of predicted cell types: the confusion with known ones, and what doubt is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from scsiameseclu_jax import metrics
from scsiameseclu_jax.checks import check_column
from scsiameseclu_jax.pl.cells import SHORT
from scsiameseclu_jax.pl.colors import OKABE_ITO
from scsiameseclu_jax.pl.figures import axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CELL = 0.26  # inches of a square
_FEW = 15  # rows and columns whose counts are written
_LETTER = 0.075  # inches of a letter of a name


def confusion(
    table: pd.DataFrame | AnnData,
    labels: str | None = None,
    predicted: str | None = None,
    *,
    counts: bool | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw what the cells of each known type were predicted to be.

    Parameters
    ----------
    table
        From :func:`scsiameseclu_jax.metrics.confusion`; or an AnnData, and the columns of its
        ``obs`` to compare. Cells without a known type are left out.
    labels, predicted
        Columns of known and of predicted types, of an AnnData only.
    counts
        Write the number of cells in each square; None writes them up to 15 types.
    ax
        Where to draw; None makes a figure.

    Returns
    -------
    The axes: known types by predicted ones, the darker the larger the share of the known type.
    Columns where nothing is are left out.

    Raises
    ------
    KeyError, ValueError
        If ``obs`` has no such columns; as :func:`scsiameseclu_jax.metrics.confusion`.
    """
    from matplotlib.colors import PowerNorm

    if isinstance(table, AnnData):
        table = _compared(table, labels, predicted)
    table = table.loc[:, (table.sum(axis=0) > 0) | table.columns.isin(table.index)]
    shares = table.div(table.sum(axis=1).replace(0, 1), axis=0).to_numpy()
    n_rows, n_columns = table.shape
    rows, columns = ([str(name) for name in names] for names in (table.index, table.columns))
    if ax is None:
        names = max(map(len, [*rows, *columns])) * _LETTER
        side = _CELL if max(n_rows, n_columns) > _FEW else 2 * _CELL
        ax = axes((max(names + side * n_columns + 1.6, 3.6), max(names + side * n_rows + 0.8, 3)))
    # On a scale of squares, a few per cent are seen too.
    image = ax.imshow(shares, norm=PowerNorm(0.5, 0, 1), cmap="Greys", aspect="auto")
    marks = {"ticks": [0, 0.01, 0.05, 0.1, 0.25, 0.5, 1], "format": "{x:g}"}
    ax.figure.colorbar(image, ax=ax, label="share of the known type", shrink=0.8, **marks)
    if counts if counts is not None else max(n_rows, n_columns) <= _FEW:
        for (i, j), n in np.ndenumerate(table.to_numpy()):
            if n:
                color = "white" if shares[i, j] > 0.3 else "black"
                ax.text(j, i, f"{n:,}", ha="center", va="center", fontsize="small", color=color)
    upright = max(map(len, columns), default=0) > SHORT
    ax.set_xticks(np.arange(n_columns), columns, rotation=90 if upright else 0, fontsize="small")
    ax.set_yticks(np.arange(n_rows), rows, fontsize="small")
    # Lines between the squares: eyes lose a row among forty.
    ax.set_xticks(np.arange(n_columns + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(n_rows + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="0.85", linewidth=0.5)
    ax.tick_params(which="minor", length=0)
    ax.set(xlabel="predicted type", ylabel="known type")
    return ax


def rejection(
    curves: pd.DataFrame | dict[str, pd.DataFrame],
    *,
    min_confidence: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the accuracy of the cells that stay assigned against their share.

    Parameters
    ----------
    curves
        From :func:`scsiameseclu_jax.metrics.rejection_curve`, one or several by name.
    min_confidence
        A threshold to mark on each curve.
    ax
        Where to draw; None makes a figure.

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        If a curve has no row.
    """
    from matplotlib.ticker import PercentFormatter

    named = {"": curves} if isinstance(curves, pd.DataFrame) else curves
    empty = [name for name, curve in named.items() if curve.empty]
    if empty or not named:
        msg = f"Expected curves of assigned cells, found none in {empty}."
        raise ValueError(msg)
    ax = axes((5.2, 3.8)) if ax is None else ax
    styles = ("-", "--", ":", "-.")
    for i, (name, curve) in enumerate(named.items()):
        look = {"color": OKABE_ITO[i % len(OKABE_ITO)], "linestyle": styles[i % len(styles)]}
        kept = curve[curve["threshold"] >= (np.inf if min_confidence is None else min_confidence)]
        words = [name] if name else []
        if len(kept):
            x, y = kept.iloc[0][["coverage", "accuracy"]]
            ax.plot(x, y, "o", color=look["color"])
            words.append(f"from {min_confidence:g} on {x:.0%} assigned, {y:.1%} right")
        text = "\n".join(words)
        ax.plot(curve["coverage"], curve["accuracy"], label=text or None, linewidth=1.8, **look)
    ax.set(xlabel="cells assigned", ylabel="accuracy of these", xlim=(0, 1.02))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    ax.spines[["top", "right"]].set_visible(False)
    if ax.get_legend_handles_labels()[1]:
        above = {"loc": "lower left", "bbox_to_anchor": (0, 1.01), "borderaxespad": 0}
        ax.legend(frameon=False, fontsize="small", **above)
    return ax


def _compared(adata: AnnData, labels: str | None, predicted: str | None) -> pd.DataFrame:
    check_column("labels", labels, adata)
    check_column("predicted", predicted, adata)
    known = adata.obs[labels].notna().to_numpy()
    return metrics.confusion(adata.obs[labels][known], adata.obs[predicted][known])
