"""Plot of how sure the clusters are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scsiameseclu_jax.pl.figures import new_figure
from scsiameseclu_jax.preprocessing.expression import groups
from scsiameseclu_jax.tl.record import UNASSIGNED, is_calibrated
from scsiameseclu_jax.tl.ties import origin

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW = 0.2  # inches for a cluster
_BINS = 10


def confidence(adata: AnnData, key: str = "siameseclu") -> list[Axes]:
    """Draw how the confidence of cells is distributed in each cluster.

    Parameters
    ----------
    adata
        After :func:`scsiameseclu_jax.tl.siameseclu`, or any other tool of ours that writes
        ``obs[key]`` and ``obs[f"{key}_confidence"]``.
    key
        Its ``key_added``.

    Returns
    -------
    The axes, one or two, of one figure. For each cluster the median confidence, a bar from the
    first quartile to the third and a line from the 5th percentile to the 95th; beside it the number
    of cells. Cells that were left unassigned count to the cluster of their largest soft assignment
    where it is known, and their share is beside it too; else they are a row of their own.

    After a fit with ``n_resamples`` a second panel shows whether the confidence can be relied on:
    the share of refits that agree against the confidence, on the diagonal if they are equal;
    areas are numbers of cells.

    Raises
    ------
    KeyError
        If there is no such clustering or confidence.
    ValueError
        If no cell has both, or the clusters are not those any more that the confidence is of.
    """
    clusters = groups(adata, key)
    name = f"{key}_confidence"
    if name not in adata.obs:
        found = [str(column) for column in adata.obs.columns]
        msg = f"Expected obs[{name!r}], found columns {found}; run `scs.tl.siameseclu` first."
        raise KeyError(msg)
    sure = adata.obs[name].to_numpy(np.float64, na_value=np.nan)
    stored = adata.uns.get(key)
    record = stored if isinstance(stored, Mapping) else {}
    fit = origin(clusters, adata.obsm.get(f"{key}_proba"), record.get("params", {}))
    if not fit.kept and not fit.joined:
        msg = (
            f"Expected the clusters in obs[{key!r}] that obs[{name!r}] is of, found other cells in "
            "them; bring them back, by `scs.tl.add_clusters` for example."
        )
        raise ValueError(msg)
    own, left = pd.Series(fit.own, index=adata.obs_names), np.asarray(clusters == UNASSIGNED)
    here = np.isfinite(sure) & own.notna()
    if not here.any():
        msg = f"Expected cells with a cluster and a confidence, found none in obs[{name!r}]."
        raise ValueError(msg)
    names = [cluster for cluster in own.cat.categories if (here & (own == cluster)).any()]
    stability = record.get("stability")
    agreement = f"{key}_agreement"
    assessed = stability is not None and agreement in adata.obs

    height = max(2.8 if not assessed else 3.4, 1.0 + _ROW * len(names))
    width = 5.2 + 0.075 * max(map(len, names))
    figure = new_figure(figsize=(width + (3.8 if assessed else 0), height))
    figure.set_layout_engine("constrained", w_pad=0.12)
    widths = [width, 3.8] if assessed else [width]
    grid = figure.add_gridspec(1, len(widths), width_ratios=widths)
    ax = figure.add_subplot(grid[0])
    panels = [ax]
    parts = [sure[here & (own == cluster)] for cluster in names]
    columns = {"cells": [str(len(part)) for part in parts]}
    if left.any() and UNASSIGNED not in names:
        shares = [left[here & (own == cluster)].mean() for cluster in names]
        columns["unassigned"] = [f"{100 * share:.0f} %" for share in shares]
    _draw_rows(ax, parts)
    _write_columns(ax, columns)
    ax.set_yticks(np.arange(len(names)), names, fontsize="small")
    title = f"{100 * left[here].mean():.1f} % of cells unassigned" if left.any() else ""
    what = "another fit agrees" if is_calibrated(record) else "not calibrated"
    ax.set(title=title, xlabel=f"confidence ({what})", ylabel=key)
    if stability is not None and assessed:
        agrees = adata.obs[agreement].to_numpy(np.float64, na_value=np.nan)
        panels.append(figure.add_subplot(grid[1]))
        _draw_reliability(panels[1], sure, agrees, stability)
    return panels


def _draw_rows(ax: Axes, parts: list[np.ndarray]) -> None:
    for row, part in enumerate(parts):
        low, first, middle, third, high = np.quantile(part, [0.05, 0.25, 0.5, 0.75, 0.95])
        ax.plot([low, high], [row, row], color="0.35", linewidth=1)
        ax.barh(row, third - first, left=first, height=0.62, color="0.75", edgecolor="0.35")
        ax.plot([middle, middle], [row - 0.38, row + 0.38], color="k", linewidth=2.2)
    ax.set_xlim(0, 1.005)
    ax.set_ylim(len(parts) - 0.4, -0.6)
    ax.grid(visible=True, axis="x", color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _write_columns(ax: Axes, columns: dict[str, list[str]]) -> None:
    """Write figures to the right of the rows, a column under each name."""
    options: dict[str, Any] = {"textcoords": "offset points", "fontsize": "small", "ha": "right"}
    end = 4.0
    for name, texts in columns.items():
        end += 12 + 5.2 * max(map(len, [name, *texts]))  # points, at about 5 for a letter
        ax.annotate(name, (1, 1), (end, 4), xycoords="axes fraction", va="bottom", **options)
        for row, text in enumerate(texts):
            place = ax.get_yaxis_transform()
            ax.annotate(text, (1, row), (end, 0), xycoords=place, va="center", **options)


def _draw_reliability(
    ax: Axes, sure: np.ndarray, agrees: np.ndarray, stability: dict[str, Any]
) -> None:
    both = np.isfinite(sure) & np.isfinite(agrees)
    sure, agrees = sure[both], agrees[both]
    bins = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    filled = np.unique(bins)
    x, y = (np.array([values[bins == b].mean() for b in filled]) for values in (sure, agrees))
    cells = np.bincount(bins)[filled]
    ax.plot([0, 1], [0, 1], color="0.5", linestyle="--", linewidth=1)
    ax.plot(x, y, "k-", linewidth=1)
    ax.scatter(
        x, y, s=15 + 200 * cells / cells.max(), c="white", edgecolors="k", zorder=3, clip_on=False
    )
    ax.set(
        xlim=(0, 1.03),
        ylim=(0, 1.03),
        aspect="equal",
        xlabel="confidence",
        ylabel="share of refits that agree",
        title=f"calibration error {float(stability['calibration_error']):.3f}",
    )
    ax.spines[["top", "right"]].set_visible(False)
