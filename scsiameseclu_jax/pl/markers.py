"""Plot of the genes that mark each cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from scsiameseclu_jax.checks import sorted_names
from scsiameseclu_jax.pl.figures import axes
from scsiameseclu_jax.preprocessing.expression import group_means, groups, log_expression
from scsiameseclu_jax.tl.ties import markers_tied

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW, _COLUMN = 0.19, 0.27  # inches
_LARGEST = 0.16  # inches, diameter of a dot
_SHORT = 3  # longer names of clusters are written upright
_BAR = 2.7  # inches, length of the colour bar, at most
_TALL = 45  # with more genes, clusters are named at either end


def markers(adata: AnnData, key: str = "siameseclu", n: int = 3, *, ax: Axes | None = None) -> Axes:
    """Draw the top marker genes of each cluster, in all clusters.

    The larger a dot, the more cells of the cluster have the gene; the darker, the nearer the mean
    is to the largest of all clusters.

    Parameters
    ----------
    adata
        After :func:`scsiameseclu_jax.tl.markers`.
    key
        The ``key_added`` of the markers.
    n
        Genes of each cluster, at most.
    ax
        Where to draw; None makes a figure.

    Returns
    -------
    The axes: clusters from left to right, the largest first, and their genes downwards in the same
    order. Groups that were left out of the test are left out here; those that were renamed since
    have their names of now.

    Raises
    ------
    KeyError
        If there are no markers, or their groups or counts are gone.
    ValueError
        If `n` is not positive, no gene marks any cluster, or the markers are of other groups of
        cells than there are now.
    """
    name = f"{key}_top_markers"
    if name not in adata.uns or f"{key}_markers" not in adata.uns:
        msg = (
            f"Expected uns[{name!r}], found uns keys {sorted_names(adata.uns)}; run "
            f"`scs.tl.markers(adata, {key!r})` first."
        )
        raise KeyError(msg)
    if n < 1:
        msg = f"Expected `n` to be at least 1, found {n}."
        raise ValueError(msg)
    params, top = adata.uns[f"{key}_markers"]["params"], adata.uns[name]
    groupby = str(params["groupby"])
    found = groups(adata, groupby)
    tie = markers_tied(adata, key, found)
    if tie.changed or not tie.names:
        msg = (
            f"Expected the groups of cells that the markers of {key!r} are of, found others in "
            f"{tie.changed or groupby!r}; run `scs.tl.markers(adata, {groupby!r})` again."
        )
        raise ValueError(msg)
    stored = {now: group for group, now in tie.names.items()}
    clusters = [str(group) for group in pd.Series(found).value_counts().index if group in stored]
    genes = [
        str(gene)
        for cluster in clusters
        for gene in top["gene"][top["cluster"].astype(str) == stored[cluster]].iloc[:n]
    ]
    if not genes:
        msg = f"Expected genes in uns[{name!r}], found none that marks a cluster."
        raise ValueError(msg)
    codes = found.set_categories(clusters).codes
    layer = None if params["tested"] == "X" else str(params["tested"])
    mean, share = _summaries(adata, layer, genes, codes, len(clusters))

    upright = max(map(len, clusters)) > _SHORT
    if ax is None:
        names = 0.08 * max(map(len, clusters)) if upright else 0.2
        ax = axes((2.4 + _COLUMN * len(clusters), 1.5 + names + _ROW * len(genes)))
    _draw(ax, mean, share)
    ax.tick_params(length=0, labeltop=len(genes) > _TALL)
    ax.set_xticks(
        np.arange(len(clusters)),
        clusters,
        rotation=90 if upright else 0,
        fontsize="small",
    )
    ax.set_yticks(np.arange(len(genes)), genes, fontsize="small", fontstyle="italic")
    ax.set(xlabel="cluster, the largest first", ylabel="marker gene")
    return ax


def _summaries(
    adata: AnnData, layer: str | None, genes: list[str], codes: np.ndarray, n_groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return [genes, clusters] mean, of the largest of the gene, and share of cells with it."""
    values = log_expression(adata, layer=layer, genes=genes).X
    mean = group_means(values, codes, n_groups).T
    largest = mean.max(axis=1, keepdims=True)
    share = group_means((values > 0).astype(np.float32), codes, n_groups).T
    return mean / np.where(largest > 0, largest, 1), share


def _draw(ax: Axes, mean: np.ndarray, share: np.ndarray) -> None:
    rows, columns = np.indices(mean.shape)
    largest = (72 * _LARGEST) ** 2
    dots = ax.scatter(
        columns.ravel(),
        rows.ravel(),
        s=largest * share.ravel(),
        c=mean.ravel(),
        cmap="cividis_r",
        vmin=0,
        vmax=1,
        edgecolors="0.4",
        linewidths=0.3,
    )
    ax.set_xlim(-0.7, mean.shape[1] - 0.3)
    ax.set_ylim(mean.shape[0] - 0.3, -0.7)
    ax.set_axisbelow(True)
    ax.grid(color="0.92", linewidth=0.6)
    ax.spines[:].set_color("0.8")
    label = "mean log expression, of the gene's largest"
    shrink = min(1.0, _BAR / (_COLUMN * mean.shape[1]))
    place = {"location": "top", "shrink": shrink, "aspect": 25, "pad": 0.01, "anchor": (0, 0)}
    bar = ax.figure.colorbar(dots, ax=ax, label=label, **place)
    bar.ax.tick_params(labelsize="small")
    bar.ax.xaxis.label.set_size("small")
    sizes = [0.1, 0.5, 1.0]
    handles = [
        ax.scatter([], [], s=largest * size, c="0.5", edgecolors="0.4", linewidths=0.3)
        for size in sizes
    ]
    ax.legend(
        handles,
        [f"{size:.0%}" for size in sizes],
        title="cells with it",
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        fontsize="small",
        title_fontsize="small",
    )
