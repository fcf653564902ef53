"""Plot of the tree through clusters: what fewer would merge, and more would split."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from scsiameseclu_jax.checks import sorted_names
from scsiameseclu_jax.partition.tree import Tree, leaf_clusters
from scsiameseclu_jax.pl.colors import colors_of
from scsiameseclu_jax.pl.figures import axes
from scsiameseclu_jax.preprocessing.expression import groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW, _LEAF = 0.2, 0.055  # inches for a cluster at least, and for each of its leaves
_ROUND = (2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000)
_ABOVE = "0.3"  # colour of what is more than one cluster, drawn thinner


def cluster_tree(adata: AnnData, key: str = "siameseclu", *, ax: Axes | None = None) -> Axes:
    """Draw the tree of the clusters, from one cluster on the left to the leaves on the right.

    Parameters
    ----------
    adata
        After :func:`scsiameseclu_jax.tl.cluster_tree`.
    key
        Its ``key_added``.
    ax
        Where to draw; None makes a figure.

    Returns
    -------
    The axes. A vertical line crosses as many branches as there are clusters where it stands on the
    axis, which is logarithmic: dashed for the clusters that there are, dotted for other levels that
    ``obs`` has a column of. Branches have the colour of their cluster, and its name and number of
    cells are beside it. Lengths are ranks of merges, no distances.

    Raises
    ------
    KeyError
        If there is no such tree.
    ValueError
        If the clusters were changed since.
    """
    from matplotlib.collections import LineCollection

    tree, clusters, palette_of, levels = _stored(adata, key)
    n, k = tree.n_leaves, tree.n_clusters
    cluster_of, names, sizes = _at_level(tree, clusters, key)
    colors = [palette_of[name] for name in names]
    y, middles, height = _rows(tree, cluster_of)
    if ax is None:
        width = 5.4 + 0.075 * max(map(len, names))
        ax = axes((width, max(2.4, 0.9 + height)))

    # Node by node: how many clusters there are when it is made, where it lies, whose it is.
    x, whose = np.full(n, 1.03 * n), cluster_of
    segments, shades = [], []
    for i, pair in enumerate(tree.linkage[:, :2].astype(int)):
        here, owners = n - i - 0.5, set(whose[pair])
        whose = np.append(whose, owners.pop() if len(owners) == 1 else -1)
        segments += [[(x[child], y[child]), (here, y[child])] for child in pair]
        segments.append([(here, y[child]) for child in pair])
        shades += [*whose[pair], whose[-1]]
        x, y = np.append(x, here), np.append(y, y[pair].mean())
    segments.append([(x[-1], y[-1]), (1.2, y[-1])])
    shades.append(-1)
    lines = LineCollection(
        segments,
        colors=[colors[i] if i >= 0 else _ABOVE for i in shades],
        linewidths=[1.4 if i >= 0 else 0.9 for i in shades],
    )
    lines.set_capstyle("projecting")
    ax.add_collection(lines)
    for level in set(levels) - {k}:
        ax.axvline(level, color="0.5", linestyle=":", linewidth=1, zorder=0)
    ax.axvline(k, color="k", linestyle="--", linewidth=1)
    ax.set(xscale="log", xlim=(1.2, 1.03 * n), ylim=(height, 0), title=f"{k} clusters")
    ticks = [tick for tick in _ROUND if tick <= n]
    ax.set_xticks(ticks, ticks)
    ax.minorticks_off()
    ax.yaxis.tick_right()
    entries = [f"{name}  ({size:,} cells)" for name, size in zip(names, sizes, strict=True)]
    ax.set_yticks(middles, entries, fontsize="small")
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel="number of clusters", ylabel="")
    ax.spines[["top", "right", "left"]].set_visible(False)
    return ax


def _stored(adata: AnnData, key: str) -> tuple[Tree, pd.Categorical, dict[str, str], list[int]]:
    """Return the tree of its cells, the cluster of each, their colours, and levels asked for."""
    name, leaf = f"{key}_tree", f"{key}_leaf"
    if name not in adata.uns or leaf not in adata.obs:
        msg = (
            f"Expected uns[{name!r}] and obs[{leaf!r}], found uns keys "
            f"{sorted_names(adata.uns)}; run `scs.tl.cluster_tree(adata, key={key!r})` first."
        )
        raise KeyError(msg)
    record, leaves = adata.uns[name], adata.obs[leaf].to_numpy()
    of = str(record["params"]["key"])
    clusters, embedding = groups(adata, of), adata.obsm.get(f"X_{of}")
    here = leaves >= 0
    # What `overview` draws, so that colours are the same: cells left unassigned have one, too.
    drawn = here if embedding is None else np.isfinite(np.asarray(embedding)).all(axis=1)
    tree = Tree(leaves[here], np.asarray(record["linkage"]), int(record["n_clusters"]))
    shown = clusters[drawn].remove_unused_categories().categories
    colors = dict(zip(map(str, shown), colors_of(shown), strict=True))
    return tree, clusters[here], colors, [int(level) for level in record["levels"]]


def _at_level(
    tree: Tree, clusters: pd.Categorical, key: str
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Return, at the level of the clusters, that of each leaf [L], and their names and sizes.

    Names are those that the cells have now.

    Raises
    ------
    ValueError
        If the cells of one are not those of a cluster.
    """
    of = leaf_clusters(tree, tree.n_clusters)
    pairs, sizes = np.unique(
        np.stack([of[tree.leaves], clusters.codes]), axis=1, return_counts=True
    )
    every = np.arange(tree.n_clusters)
    if not np.array_equal(pairs[0], every) or len(set(pairs[1]) - {-1}) < tree.n_clusters:
        msg = (
            f"Expected the {tree.n_clusters} clusters that the tree of {key!r} was made of, found "
            f"{len(set(pairs[1]))}, or other cells in them; run `scs.tl.cluster_tree` again."
        )
        raise ValueError(msg)
    return of, [str(clusters.categories[code]) for code in pairs[1]], sizes


def _rows(tree: Tree, cluster_of: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the place [L] of each leaf, of the middle [k] of each cluster, and where they end."""
    from scipy.cluster.hierarchy import leaves_list

    order = leaves_list(tree.linkage)
    y, middles, end = np.empty(tree.n_leaves), np.empty(tree.n_clusters), 0.0
    for cluster in pd.unique(cluster_of[order]):
        own = order[cluster_of[order] == cluster]
        height = max(_ROW, _LEAF * (len(own) + 1))
        y[own] = end + height * (np.arange(len(own)) + 0.5) / len(own)
        middles[cluster] = end + height / 2
        end += height
    return y, middles, end
