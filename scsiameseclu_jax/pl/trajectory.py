"""Plots of a trajectory: clusters linked over the cells, and expression along them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from scsiameseclu_jax.checks import sorted_names
from scsiameseclu_jax.pl.cells import (
    LEGEND_ROWS,
    MANY,
    SHORT,
    coordinates,
    legend_width,
    letters,
    places,
    span_of,
)
from scsiameseclu_jax.pl.colors import MISSING
from scsiameseclu_jax.pl.figures import axes, new_figure
from scsiameseclu_jax.preprocessing.expression import groups, log_expression
from scsiameseclu_jax.tl.record import layer_for
from scsiameseclu_jax.tl.ties import tied

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NODE = (140.0, 500.0)  # areas of the smallest and the largest cluster, square points
_APART = 0.04  # of the plot, between two clusters
_PUSHES = 30
_LINE = 2.6  # width of a link of connectivity 1, points


def trajectory(
    adata: AnnData,
    key: str = "siameseclu",
    *,
    basis: str | None = None,
    min_connectivity: float = 0.3,
    ax: Axes | None = None,
) -> Axes:
    """Draw the graph of clusters over the cells, which are coloured by pseudotime.

    Parameters
    ----------
    adata
        After :func:`scsiameseclu_jax.tl.trajectory` and :func:`scsiameseclu_jax.tl.umap`.
    key
        The `groupby` of the trajectory.
    basis
        Key in ``obsm`` [n, 2 or more], with or without ``X_``, the first two columns of which are
        drawn; None draws ``f"X_{key}_umap"``.
    min_connectivity
        Links below this connectivity, between 0 and 1, are not drawn, except those of the tree.
    ax
        Where to draw; None makes a figure.

    Returns
    -------
    The axes. Circles are clusters, the larger the more cells; the wider a link the larger its
    connectivity, solid in the tree that spans the clusters, dashed elsewhere. Cells that cannot
    be reached from the root are grey. Long names are letters, explained beside.

    Raises
    ------
    KeyError
        If there is no such trajectory or basis.
    ValueError
        If `min_connectivity` is not between 0 and 1, or the clusters are not those of the
        trajectory.
    """
    record, time = _found(adata, key)
    if not 0 <= min_connectivity <= 1:
        msg = f"Expected `min_connectivity` to be between 0 and 1, found {min_connectivity}."
        raise ValueError(msg)
    names = record["groups"]
    codes = groups(adata, key).set_categories(names).codes
    points = coordinates(adata, f"{key}_umap" if basis is None else basis)
    short = max(map(len, names)) <= SHORT
    beside = 0 if short else legend_width(names)
    ax = axes((6.6 + beside, 5.2)) if ax is None else ax

    size = float(np.clip(2e4 / adata.n_obs, 2, 30))
    options: dict[str, Any] = {"s": size, "linewidths": 0, "rasterized": True}
    lost = np.isnan(time)
    ax.scatter(*points[lost].T, c=MISSING, **options)
    order = np.random.default_rng(0).permutation(np.flatnonzero(~lost))
    dots = ax.scatter(*points[order].T, c=time[order], cmap="cividis", **options)
    ax.figure.colorbar(dots, ax=ax, label="pseudotime", shrink=0.6, aspect=25)
    nodes = _apart(np.array(places(points, codes, len(names))), span_of(points))
    tree, links = np.asarray(record["tree"]) > 0, np.asarray(record["connectivities"])
    _draw_links(ax, nodes, np.triu(np.where(tree | (links >= min_connectivity), links, 0)), tree)
    _draw_nodes(ax, nodes, np.bincount(codes[codes >= 0], minlength=len(names)), names)
    if not short:
        _explain(ax, names)
    for root in points[np.flatnonzero(adata.obs_names == str(record["root"]))]:
        _point_out(ax, root, nodes, points)
    ax.set(title=f"pseudotime from {record['root']}", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def expression_along(
    adata: AnnData,
    genes: Sequence[str],
    key: str = "siameseclu",
    *,
    clusters: Sequence[str] | None = None,
    layer: str | None = "counts",
) -> list[Axes]:
    """Draw the expression of genes along the clusters, in the order of their pseudotime.

    Parameters
    ----------
    adata
        After :func:`scsiameseclu_jax.tl.trajectory`.
    genes
        Names of genes; one panel each.
    key
        The `groupby` of the trajectory.
    clusters
        Clusters to draw, one branch say; None draws all that the root reaches. They are put in
        the order of their mean pseudotime in any case.
    layer
        Where the raw counts are, as in :func:`scsiameseclu_jax.tl.markers`.

    Returns
    -------
    The axes of one figure, one for each gene: the mean of the logarithm of normalised counts in
    each cluster, and as a band the half of its cells in the middle, from the first quartile to the
    third.

    Raises
    ------
    KeyError
        If there is no such trajectory, gene or layer.
    ValueError
        Without genes or clusters, or for clusters that the root does not reach.
    TypeError
        If `genes` or `clusters` is a single name.
    """
    record, _ = _found(adata, key, whole=clusters is None)
    for name, given in (("genes", genes), ("clusters", clusters)):
        if isinstance(given, str):
            msg = f"Expected `{name}` to be a list of names, found a single name {given!r}."
            raise TypeError(msg)
    chosen = _in_order(record, clusters)
    unknown = [gene for gene in genes if gene not in adata.var_names]
    if unknown or not len(genes):
        msg = (
            f"Expected `genes` to be names of genes such as {adata.var_names[0]!r}, found "
            f"{unknown or 'none'}."
        )
        raise KeyError(msg) if unknown else ValueError(msg)
    codes = groups(adata, key).set_categories(chosen).codes
    values = log_expression(adata, layer=layer_for(adata, key, layer), genes=genes).X.toarray()

    longest = max(map(len, chosen))
    size = 2.4 + max(0.3 * len(chosen), 2.0), max(1.0 + 1.15 * len(genes), 3.2) + 0.08 * longest
    figure = new_figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(genes), 1, sharex=True, squeeze=False)[:, 0]
    at = np.arange(len(chosen))
    for ax, gene, of_gene in zip(panels, genes, values.T, strict=True):
        parts = [of_gene[codes == code] for code in at]
        low, high = (np.array([np.quantile(part, q) for part in parts]) for q in (0.25, 0.75))
        ax.fill_between(at, low, high, color="0.85", linewidth=0)
        ax.plot(at, [part.mean() for part in parts], "k-o", markersize=4, linewidth=1.4)
        ax.set_title(gene, fontsize="medium", fontstyle="italic", loc="left", pad=2)
        ax.set_ylim(bottom=0)
        ax.spines[["top", "right"]].set_visible(False)
    upright = 90 if longest > SHORT else 0
    panels[-1].set_xticks(at, chosen, rotation=upright, fontsize="small")
    panels[-1].set_xlim(-0.5, len(chosen) - 0.5)
    panels[-1].set_xlabel("cluster, by pseudotime")
    figure.supylabel("log expression: mean, and quartiles", fontsize="medium")
    return list(panels)


def _found(adata: AnnData, key: str, *, whole: bool = True) -> tuple[dict[str, Any], np.ndarray]:
    """Return what is stored of a trajectory, its clusters called as they are now, and the times.

    Cells of all of them have to be there, if it is the `whole` that is drawn.
    """
    name, column = f"{key}_paga", f"{key}_pseudotime"
    if name not in adata.uns or column not in adata.obs:
        msg = (
            f"Expected a trajectory in uns[{name!r}] and obs[{column!r}], found uns keys "
            f"{sorted_names(adata.uns)}; run `scs.tl.trajectory(adata, "
            f"{key!r}, root_cluster=...)` first."
        )
        raise KeyError(msg)
    record = adata.uns[name]
    stored = [str(group) for group in record["groups"]]
    tie = tied(adata, name, stored, groups(adata, key))
    gone = [group for group in stored if group not in tie.names]
    if tie.changed or (gone and whole):
        others = f", and other cells in {tie.changed}" if tie.changed else ""
        msg = (
            f"Expected cells in all clusters of the trajectory, found none in {gone}{others}; run "
            f"`scs.tl.trajectory(adata, {key!r}, ...)` again for these clusters."
        )
        raise ValueError(msg)
    here = [i for i, group in enumerate(stored) if group in tie.names]
    record = dict(record) | {"groups": [tie.names[stored[i]] for i in here]}
    record["pseudotime"] = np.asarray(record["pseudotime"])[here]
    return record, adata.obs[column].to_numpy(np.float32)


def _in_order(record: dict[str, Any], clusters: Sequence[str] | None) -> list[str]:
    """Return the clusters that were asked for in the order of their mean pseudotime."""
    time = dict(zip(map(str, record["groups"]), np.asarray(record["pseudotime"]), strict=True))
    reached = {name: value for name, value in time.items() if np.isfinite(value)}
    wanted = list(reached) if clusters is None else list(dict.fromkeys(map(str, clusters)))
    unknown = [name for name in wanted if name not in reached]
    if unknown or not wanted:
        msg = (
            f"Expected `clusters` to be some of those that the root reaches, {list(reached)}, "
            f"found {unknown or 'none'}."
        )
        raise ValueError(msg)
    return sorted(wanted, key=lambda name: reached[name])


def _apart(nodes: np.ndarray, span: np.ndarray) -> np.ndarray:
    """Move clusters [k, 2] that cover one another apart."""
    span = np.where(span > 0, span, 1)
    made = nodes / span
    for _ in range(_PUSHES):
        between = made[:, None] - made
        far = np.linalg.norm(between, axis=2)
        push = np.where(far < _APART, _APART - far, 0) / np.maximum(far, 1e-6) / 2
        np.fill_diagonal(push, 0)
        made = made + (push[:, :, None] * between).sum(axis=1)
    return made * span


def _draw_links(ax: Axes, nodes: np.ndarray, links: np.ndarray, tree: np.ndarray) -> None:
    from matplotlib.patheffects import Normal, Stroke

    for i, j in zip(*np.nonzero(links), strict=True):
        width = max(_LINE * float(links[i, j]), 0.9)
        effects = [Stroke(linewidth=width + 1.6, foreground="white"), Normal()]
        ax.plot(
            *nodes[[i, j]].T,
            color="k" if tree[i, j] else "0.25",
            linestyle="-" if tree[i, j] else (0, (2.5, 1.2)),
            linewidth=width,
            path_effects=effects if tree[i, j] else None,
            solid_capstyle="round",
            zorder=3 if tree[i, j] else 2,
        )


def _draw_nodes(ax: Axes, nodes: np.ndarray, sizes: np.ndarray, names: list[str]) -> None:
    marks = names if max(map(len, names)) <= SHORT else letters(len(names))
    crowded = len(names) > MANY
    least, most = np.array(_NODE) * (0.9 if crowded else 1)
    areas = np.maximum(least, most * sizes / sizes.max())
    for point, area, mark in zip(nodes, areas, marks, strict=True):
        # One by one, so that no circle hides the name in another that it covers.
        ax.scatter(*point, s=area, c="white", edgecolors="k", linewidths=1.1, zorder=4)
        options = {"ha": "center", "va": "center_baseline", "fontweight": "bold", "zorder": 4}
        ax.text(*point, mark, fontsize=6.5 if crowded else 8, **options)


def _explain(ax: Axes, names: list[str]) -> None:
    """Write what letters stand for to the left of the axes."""
    handles = [ax.plot([], [], linestyle="none")[0] for _ in names]
    ax.legend(
        handles,
        [f"{mark}  {name}" for mark, name in zip(letters(len(names)), names, strict=True)],
        loc="center right",
        bbox_to_anchor=(-0.01, 0.5),
        ncols=-(-len(names) // LEGEND_ROWS),
        frameon=False,
        fontsize="small",
        handlelength=0,
        handletextpad=0,
        columnspacing=1.2,
    )


def _point_out(ax: Axes, root: np.ndarray, nodes: np.ndarray, points: np.ndarray) -> None:
    """Write "root" near the cell where there is room, with an arrow to the cell."""
    span, points = span_of(points), points[np.isfinite(points).all(axis=1)]
    angles = np.arange(8) * np.pi / 4
    around = 0.14 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # The arrow and the word keep away from clusters first, then from cells.
    spots = root + around * span
    halfway = root + around / 2 * span
    gaps = [
        np.linalg.norm((where[:, None] - nodes) / span, axis=2).min(axis=1)
        for where in (spots, halfway)
    ]
    near = (np.linalg.norm((spots[:, None] - points) / span, axis=2) < 0.06).mean(axis=1)
    best = np.argmax(np.minimum(gaps[0], 0.1) + np.minimum(gaps[1], 0.05) - near)
    ax.annotate(
        "root",
        root,
        xytext=tuple(spots[best]),
        ha="center",
        va="center",
        fontweight="bold",
        arrowprops={"arrowstyle": "-|>", "color": "k", "linewidth": 1.2, "shrinkB": 2},
        bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "k"},
        zorder=6,
    )
