"""Plots of how a result came about: losses, and the number of clusters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

import scsiameseclu_jax.functional as F
from scsiameseclu_jax.checks import sorted_names
from scsiameseclu_jax.pl.colors import palette
from scsiameseclu_jax.pl.figures import axes
from scsiameseclu_jax.preprocessing.expression import groups
from scsiameseclu_jax.tl.ties import origin

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKS = "os^Dv<>PX*"
_SHORT = 3  # longer names of clusters are written upright


def history(adata: AnnData, key: str = "siameseclu", *, ax: Axes | None = None) -> Axes:
    """Draw each loss term over the steps, on a logarithmic scale, with the stages shaded.

    Parameters
    ----------
    adata
        After :func:`scsiameseclu_jax.tl.siameseclu`.
    key
        The ``key_added`` of the clustering.
    ax
        Where to draw; None makes a figure.

    Returns
    -------
    The axes: terms before their weights, and their weighted sum, ``loss``. Values that are not
    positive are left out.

    Raises
    ------
    KeyError
        If there is no such history, or nothing was trained (``Config.fast()``).
    """
    if "loss" not in _record(adata, key).get("history", {}):
        if "history" in _record(adata, key):
            msg = f"Expected losses in uns[{key!r}]['history'], found none: nothing was trained."
            raise KeyError(msg)
        msg = (
            f"Expected uns[{key!r}]['history'], found uns keys {sorted_names(adata.uns)}; run "
            f"`scs.tl.siameseclu(adata, ..., key_added={key!r})` first."
        )
        raise KeyError(msg)
    record = adata.uns[key]["history"]
    ax = axes((8.0, 4.2)) if ax is None else ax
    # Zarr gives strings of variable width, which numpy does not turn into those of a fixed one.
    stages = np.array([str(stage) for stage in record["stage"]])
    steps = np.arange(1, len(stages) + 1)
    _shade_stages(ax, stages)
    watched = {*F.StepInfo._fields, "stage"}
    terms = [name for name in record if name not in watched]
    for i, name in enumerate(terms):
        ax.plot(steps, _positive(record[name]), label=name.replace("_", " "), **_style(i, steps))
    ax.plot(steps, _positive(record["loss"]), "k", linewidth=2.4, label="loss (sum)")
    ax.set(yscale="log", xlabel="step", ylabel="loss term, before its weight")
    ax.set_xlim(0.5, max(len(stages), 1) + 0.5)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize="small")
    return ax


def n_clusters(adata: AnnData, key: str | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw each criterion, and their vote, against the number of clusters.

    Parameters
    ----------
    adata
        After :func:`scsiameseclu_jax.tl.estimate_n_clusters`, or after
        :func:`scsiameseclu_jax.tl.siameseclu` with ``n_clusters="auto"``.
    key
        Its ``key_added``; None takes ``"n_clusters"``, or else ``"siameseclu"``.
    ax
        Axes to draw on; new ones if None.

    Raises
    ------
    KeyError
        If there is no such evidence.
    """
    if key is None:
        key = "n_clusters" if "n_clusters" in adata.uns else "siameseclu"
    record = _record(adata, key)
    record = record.get("estimate", record)
    if "votes" not in record:
        remedy = "run `scs.tl.estimate_n_clusters` first"
        msg = f"Expected evidence in uns[{key!r}], found none; {remedy}."
        raise KeyError(msg)
    ax = axes((6.4, 4.0)) if ax is None else ax
    tried, chosen = np.asarray(record["candidates"]), int(record["n_clusters"])
    # files give names back in another order
    for i, (name, series) in enumerate(sorted(record["criteria"].items())):
        values = np.asarray(series)
        low, high = values.min(), values.max()
        values = (values - low) / (high - low if high > low else 1)
        ax.plot(tried, values, label=name, **_style(i, tried))
    ax.plot(tried, record["votes"], "k", linewidth=2.4, label="vote")
    ax.axvline(chosen, color="k", linestyle=":", linewidth=1)
    ax.set(
        title=f"{chosen} clusters",
        xlabel="number of clusters",
        ylabel="criterion, from its least to its largest",
    )
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize="small")
    return ax


def stability(adata: AnnData, key: str = "siameseclu", *, ax: Axes | None = None) -> Axes:
    """Draw how often refits put cells of two clusters together, and each cluster's stability.

    Parameters
    ----------
    adata
        After :func:`scsiameseclu_jax.tl.siameseclu` with ``n_resamples``.
    key
        Its ``key_added``.
    ax
        Axes to draw on; new ones if None.

    Returns
    -------
    The axes: share of pairs of cells that refits put together, clusters by clusters; beside each
    row, the mean Jaccard index of the cluster with its match. Clusters that were renamed since have
    their names of now; if they were joined or others have taken their place, the numbers of the
    fit.

    Raises
    ------
    KeyError
        If there were no refits.
    """
    stored = _record(adata, key)
    record = stored.get("stability")
    if record is None:
        msg = (
            f"Expected uns[{key!r}]['stability'], found none; run `scs.tl.siameseclu(adata, "
            f"n_resamples=10, key_added={key!r})` first."
        )
        raise KeyError(msg)
    together, jaccard = np.asarray(record["together"]), np.asarray(record["jaccard"])
    k = len(together)
    proba = adata.obsm.get(f"{key}_proba")
    fit = None if proba is None else origin(groups(adata, key), proba, stored.get("params", {}))
    names = [str(i) for i in range(k)] if fit is None else fit.names
    upright = max(map(len, names)) > _SHORT
    longest = 0.075 * max(map(len, names)) if upright else 0
    side = 2.6 + 0.24 * k
    ax = axes((side + 1.4 + longest, side + longest)) if ax is None else ax
    image = ax.imshow(together, vmin=0, vmax=1, cmap="cividis")
    ax.figure.colorbar(image, ax=ax, label="pairs of cells together in refits", shrink=0.8)
    places = np.arange(k)
    ax.set_xticks(places, names, rotation=90 if upright else 0, fontsize="small")
    shown = zip(names, jaccard, strict=True)
    ax.set_yticks(places, [f"{name}  ({share:.2f})" for name, share in shown])
    ax.tick_params(axis="y", labelsize="small")
    what = "cluster" if fit is None or fit.kept else "cluster of the fit, not of now"
    ax.set(xlabel=what, ylabel=f"{what} (mean Jaccard index)")
    return ax


def _record(adata: AnnData, key: str) -> Mapping[str, Any]:
    """Return what ``uns`` holds under a name; nothing, if that is something else."""
    found = adata.uns.get(key, {})
    return found if isinstance(found, Mapping) else {}


def _style(i: int, steps: np.ndarray) -> dict[str, Any]:
    """Return how the i-th line is drawn: in grey, its marks tell it from others. Black is free."""
    colors = [color for color in palette(len(_MARKS) + 1) if color != "#000000"]
    every = max(len(steps) // 14, 1)
    return {
        "color": colors[i % len(colors)],
        "marker": _MARKS[i % len(_MARKS)],
        "markevery": (i * every // 4 % every, every),  # not all at the same steps
        "markersize": 4.5,
        "markeredgecolor": "0.2",
        "markeredgewidth": 0.5,
        "linewidth": 1.2,
    }


def _positive(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    return np.where(values > 0, values, np.nan)


def _shade_stages(ax: Axes, stages: np.ndarray) -> None:
    if not len(stages):
        return
    starts = [0, *(np.flatnonzero(stages[1:] != stages[:-1]) + 1)]
    for i, (start, end) in enumerate(zip(starts, [*starts[1:], len(stages)], strict=True)):
        if i % 2:
            ax.axvspan(start + 0.5, end + 0.5, color="0.93", linewidth=0, zorder=0)
        narrow = (end - start) / len(stages) < 0.1
        ax.text(
            (start + end + 1) / 2,
            1.01,
            str(stages[start]),
            transform=ax.get_xaxis_transform(),
            ha="center",
            va="bottom",
            rotation=90 if narrow else 0,
            fontsize="small",
            color="0.3",
        )
