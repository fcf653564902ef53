"""A tree through a partition: fewer clusters above it, more below, each level inside the last.

Which number of clusters is right, counts alone rarely say. A tree answers for every number: the
partition that was found is one of its levels, exactly, and the others merge or split its clusters.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scsiameseclu_jax.partition.candidates import centers_of, kmeans
from scsiameseclu_jax.preprocessing.neighbors import unit_rows

_LEAVES = 60  # at least, where there are cells for them
_PER_CLUSTER = 3  # leaves, on average at least
_SMALLEST = 1e-3  # of the cells, at least 3; fewer are outliers rather than a group
_STARTS = 2  # of k-means
_APART = 3.0  # added between clusters; no cosine distance is larger than 2


class Tree(NamedTuple):
    """Small groups of cells, merged one by one until all are one."""

    leaves: np.ndarray
    """[n] leaf of each cell, 0 to L - 1, none empty."""
    linkage: np.ndarray
    """[L - 1, 4] merges in scipy's format: two nodes, height, number of leaves. The height is the
    mean cosine distance of the leaves' centres, 0 to 2; between clusters it is 3 more, so that all
    merges within them come first."""
    n_clusters: int
    """Number of clusters of the partition that the tree was made through."""

    @property
    def n_leaves(self) -> int:
        """Number of leaves L, the most clusters that the tree can be cut into."""
        return len(self.linkage) + 1


def cluster_tree(embedding: np.ndarray, clusters: np.ndarray, *, seed: int) -> Tree:
    """Make the tree of a partition.

    Leaves are found by k-means inside each cluster: about ``max(60, 3 k)`` in all, a third of the
    cells at most, more of them in large clusters, in proportion to the root of the size. Groups of
    less than 0.1 % of the cells, or of fewer than three, join the nearest of their cluster. Leaves
    are merged within their cluster, and then clusters with each other, by average linkage: cosine
    distance of the leaves' centres, weighted by cells.

    Parameters
    ----------
    embedding
        [n, d] embedding of the cells, finite.
    clusters
        [n] cluster of each cell, integers or names, at least two of them.
    seed
        Seed of k-means.

    Returns
    -------
    The tree; ``cut(tree, k)`` for the number of `clusters` is `clusters`, but for names.

    Raises
    ------
    ValueError
        If there are fewer than two clusters, or not one for each cell.

    References
    ----------
    Sokal and Michener, University of Kansas Science Bulletin 1958 (average linkage).
    """
    names, codes = np.unique(clusters, return_inverse=True)
    if codes.shape != (len(embedding),) or len(names) < 2:
        msg = (
            f"Expected `clusters` of {len(embedding)} cells, two different ones or more, found "
            f"{len(names)} of {codes.size} cells."
        )
        raise ValueError(msg)
    leaves, cluster_of = _leaves(embedding, codes, seed)
    unit = unit_rows(centers_of(embedding, leaves, len(cluster_of)))
    distances = np.clip(1 - unit @ unit.T, 0, 2) + _APART * (cluster_of[:, None] != cluster_of)
    return Tree(leaves, _average_linkage(distances, np.bincount(leaves)), len(names))


def cut(tree: Tree, n_clusters: int) -> np.ndarray:
    """Return the cluster [n] of each cell at a level of the tree, 0 the largest.

    Raises
    ------
    ValueError
        If `n_clusters` is not between 2 and the number of leaves.
    """
    return leaf_clusters(tree, n_clusters)[tree.leaves]


def leaf_clusters(tree: Tree, n_clusters: int) -> np.ndarray:
    """Return the cluster [L] of each leaf at a level of the tree, 0 the one of most cells.

    Raises
    ------
    ValueError
        If `n_clusters` is not between 2 and the number of leaves.
    """
    if not 2 <= n_clusters <= tree.n_leaves:
        msg = (
            f"Expected `n_clusters` to be between 2 and {tree.n_leaves}, the number of leaves of "
            f"the tree, found {n_clusters}."
        )
        raise ValueError(msg)
    nodes = np.arange(tree.n_leaves)
    merges = tree.linkage[: tree.n_leaves - n_clusters, :2]
    for i, pair in enumerate(merges):
        nodes[np.isin(nodes, pair)] = tree.n_leaves + i
    clusters = np.unique(nodes, return_inverse=True)[1]
    cells = np.bincount(tree.leaves, minlength=tree.n_leaves)
    sizes = np.bincount(clusters, weights=cells)
    rank = np.empty(n_clusters, int)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(n_clusters)
    return rank[clusters]


def _leaves(x: np.ndarray, clusters: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return leaves [n] of rows [n, d] in clusters [n], and the cluster [L] of each leaf."""
    n, sizes = len(x), np.bincount(clusters)
    wanted = min(max(_LEAVES, _PER_CLUSTER * len(sizes)), n // 3)
    shares = np.sqrt(sizes) / np.sqrt(sizes).sum()  # a small cluster can be split as well
    least = max(3, _SMALLEST * n)
    numbers = np.minimum(np.rint(wanted * shares), sizes // least).astype(int)
    leaves = np.empty(n, int)
    cluster_of: list[int] = []
    for cluster, number in enumerate(numbers):
        cells = np.flatnonzero(clusters == cluster)
        groups = np.zeros(len(cells), int)
        if number > 1:
            groups = _joined(x[cells], kmeans(x[cells], number, seed, n_starts=_STARTS), least)
        leaves[cells] = len(cluster_of) + groups
        cluster_of += [cluster] * (int(groups.max()) + 1)
    return leaves, np.array(cluster_of)


def _joined(x: np.ndarray, groups: np.ndarray, least: float) -> np.ndarray:
    """Return groups [n] of rows [n, d], those of fewer than `least` joined to the nearest other."""
    groups = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(groups)
    large = sizes >= least
    if not large.any():
        return np.zeros_like(groups)
    centers = unit_rows(centers_of(x, groups, len(sizes)))
    joins = np.arange(len(sizes))
    nearest = np.argmax(centers[~large] @ centers[large].T, axis=1)
    joins[~large] = np.flatnonzero(large)[nearest]
    return np.unique(joins[groups], return_inverse=True)[1]


def _average_linkage(distances: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the merges [g - 1, 4] of groups by their distances [g, g], each of a weight [g].

    scipy's average linkage counts all groups alike.
    """
    distances, weights = distances.astype(float), weights.astype(float)
    np.fill_diagonal(distances, np.inf)
    n = len(distances)
    nodes, counts, merges = np.arange(n), np.ones(n, int), np.empty((n - 1, 4))
    for i in range(n - 1):
        a, b = np.unravel_index(distances.argmin(), distances.shape)
        merges[i] = *sorted((nodes[a], nodes[b])), distances[a, b], counts[a] + counts[b]
        mean = np.average(distances[[a, b]], axis=0, weights=weights[[a, b]])
        distances[a], distances[:, a] = mean, mean
        distances[b], distances[:, b], distances[a, a] = np.inf, np.inf, np.inf
        nodes[a], counts[a], weights[a] = n + i, counts[a] + counts[b], weights[a] + weights[b]
    merges[:, 2] = np.maximum.accumulate(merges[:, 2])  # of rounding alone
    return merges
