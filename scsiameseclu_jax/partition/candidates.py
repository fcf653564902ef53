"""The first partition: where the cluster centres and proportions of the transport come from.

No single recipe serves balanced and unbalanced data. So a small pool of candidates is made, from
the learned embedding and from several normalisations of the counts, and they are ranked by two
label-free criteria that correct each other: modularity, which likes balance, and cosine silhouette,
which likes small islands. Each normalisation has its say in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse as sp

from scsiameseclu_jax.preprocessing.batches import balanced_neighbors
from scsiameseclu_jax.preprocessing.neighbors import nearest_neighbors, suited, unit_rows

if TYPE_CHECKING:
    from sklearn.cluster import KMeans

MICRO = 60  # groups that merging starts from
_RESOLUTION = 0.5  # of modularity; 1 favours balanced sizes more
_SMALLEST = 1e-3  # of the cells, at least 2; fewer are outliers rather than a cluster
_FEW = round(2 / _SMALLEST)  # cells; of fewer, 0.1 % is less than two
_KMEANS_CELLS = 20_000  # more do not move centres, and take minutes
_BLUR = 16 * np.finfo(np.float32).eps  # of squared lengths, that squared distances are right to


class Representation(NamedTuple):
    """One normalisation of the cells."""

    features: np.ndarray
    """[n, p] features."""
    links: sp.csr_matrix
    """[n, n] symmetric, normalised graph with self loops."""


class TooFewKindsError(ValueError):
    """Too many cells are alike for that many clusters."""


class Candidates(NamedTuple):
    """Candidate partitions and what speaks for them, the best first."""

    clusters: list[np.ndarray]
    """Each [n], cluster of each cell, 0 to k - 1, none empty."""
    scores: dict[str, tuple[float, ...]]
    """Modularity and silhouette of each by its name, in one representation after the other."""


Ties = Callable[[np.ndarray], np.ndarray]
"""For groups [n] of cells, how many constraints [2, g, g] keep two of them apart, and tie them."""


def representation(
    features: np.ndarray, n_neighbors: int, batch: np.ndarray | None = None
) -> Representation:
    """Pair features [n, p] with their cosine kNN graph, `n_neighbors` of each cell.

    Over batches [n], if there are several, the neighbours are balanced.
    """
    neighbors, cells = (
        nearest_neighbors(features, suited(n_neighbors, len(features)))
        if batch is None
        else balanced_neighbors(features, n_neighbors, batch)
    )
    n = len(features)
    links = sp.csr_matrix((np.ones(len(cells)), (cells, neighbors)), shape=(n, n))
    links = links.maximum(links.T) + sp.identity(n, format="csr")
    scale = sp.diags(1 / np.sqrt(np.asarray(links.sum(axis=1)).ravel()))
    return Representation(features, sp.csr_matrix(scale @ links @ scale))


def ranked_candidates(
    embedding: np.ndarray,
    representations: list[Representation],
    n_clusters: int,
    *,
    seed: int,
    n_starts: int = 10,
    ties: Ties | None = None,
) -> Candidates:
    """Make candidate partitions and rank them without labels.

    Parameters
    ----------
    embedding
        [n, d] learned embedding, rows of equal length.
    representations
        Normalisations of the cells, at least one.
    n_clusters
        Number of clusters.
    seed
        Seed of the random starts.
    n_starts
        Random starts of each k-means.
    ties
        Of constraints, if there are any: small groups are then also merged with regard to them.

    Returns
    -------
    Candidates in the order of the sum of ranks over both criteria in all representations: those
    without a cluster of one cell, or of less than 0.1 % of the cells, if there are any.

    Raises
    ------
    TooFewKindsError
        If no candidate has that many clusters, because too many cells are alike.
    """
    units = [unit_rows(one.features) for one in representations]
    options = n_clusters, seed, n_starts, ties
    pool = _candidates_of("embedding", embedding, *options)
    for i, (unit, one) in enumerate(zip(units, representations, strict=True)):
        near = unit_rows(smooth(one.links, unit, 4))
        far = unit_rows(smooth(one.links, near, 12))
        for name, x in (("as it is", unit), ("smoothed 4", near), ("smoothed 16", far)):
            name = f"representation {i + 1} {name}"
            pool |= _candidates_of(name, x, *options)
    candidates = {name: c for name, c in pool.items() if len(np.unique(c)) == n_clusters}
    if not candidates:
        most = max(len(np.unique(clusters)) for clusters in pool.values())
        msg = f"Expected cells distinct enough for {n_clusters} clusters, found {most} groups."
        raise TooFewKindsError(msg)
    least = max(2, _SMALLEST * len(embedding))
    whole = {name: c for name, c in candidates.items() if np.bincount(c).min() >= least}
    candidates = whole or candidates
    scores = {name: criteria(c, units, representations) for name, c in candidates.items()}
    ranked = np.array(list(scores))[np.argsort(-sum_of_ranks(scores), kind="stable")]
    return Candidates([candidates[i] for i in ranked], {str(i): scores[i] for i in ranked})


def sum_of_ranks(scores: dict[str, tuple[float, ...]]) -> np.ndarray:
    """Return the sum over criteria of the rank of each entry, the larger the better."""
    from scipy.stats import rankdata

    return rankdata(np.array(list(scores.values())), axis=0).sum(axis=1)


def criteria(
    clusters: np.ndarray, units: list[np.ndarray], representations: list[Representation]
) -> tuple[float, ...]:
    """Return modularity and cosine silhouette of clusters [n], in one representation after another.

    `units` are the representations' features, rows of length 1.
    """
    return tuple(
        value
        for unit, one in zip(units, representations, strict=True)
        for value in (modularity(one.links, clusters), silhouette(unit, clusters))
    )


def centers_of(embedding: np.ndarray, clusters: np.ndarray, n_clusters: int) -> np.ndarray:
    """Return the mean [k, d] of the cells [n, d] of each cluster."""
    return _sums(embedding, clusters, n_clusters) / np.bincount(clusters)[:, None]


def _sums(x: np.ndarray, clusters: np.ndarray, n_clusters: int) -> np.ndarray:
    n = len(x)
    members = sp.csr_matrix((np.ones(n), (clusters, np.arange(n))), shape=(n_clusters, n))
    return np.asarray(members @ x)


def modularity(
    links: sp.csr_matrix, clusters: np.ndarray, *, resolution: float = _RESOLUTION
) -> float:
    """Return the modularity of clusters [n] on a weighted graph [n, n] (default resolution 0.5).

    References
    ----------
    Reichardt and Bornholdt, Physical Review E 2006.
    """
    degree = np.asarray(links.sum(axis=1)).ravel()
    coo = links.tocoo()
    total = degree.sum()
    inside = coo.data[clusters[coo.row] == clusters[coo.col]].sum() / total
    shares = np.bincount(clusters, weights=degree) / total
    return float(inside - resolution * np.sum(shares**2))


def silhouette(unit: np.ndarray, clusters: np.ndarray) -> float:
    """Return the mean cosine silhouette of clusters [n] of rows [n, p] of length 1.

    The mean cosine distance to the cells of a cluster is that to their sum, so all pairs are
    taken account of without a distance between any.

    References
    ----------
    Rousseeuw, Journal of Computational and Applied Mathematics 1987.
    """
    k = int(clusters.max()) + 1
    sizes = np.bincount(clusters, minlength=k)
    cosines = unit @ _sums(unit, clusters, k).T
    every, itself = np.arange(len(unit)), np.einsum("ij,ij->i", unit, unit)
    alone = sizes[clusters] == 1
    within = 1 - (cosines[every, clusters] - itself) / np.where(alone, 1, sizes[clusters] - 1)
    others = np.where(sizes > 0, 1 - cosines / np.maximum(sizes, 1), np.inf)
    others[every, clusters] = np.inf
    nearest = others.min(axis=1)
    if not np.isfinite(nearest).all():
        return -1.0  # one cluster only
    widest = np.maximum(within, nearest)
    return float(np.mean(np.where(alone | (widest <= 0), 0, (nearest - within) / widest)))


def smooth(links: sp.csr_matrix, x: np.ndarray, times: int) -> np.ndarray:
    """Return features [n, p] averaged over a normalised graph [n, n], so many times."""
    for _ in range(times):
        x = links @ x
    return x


def kmeans(x: np.ndarray, n_clusters: int, seed: int, *, n_starts: int = 10) -> np.ndarray:
    """Return clusters [n] of rows [n, p] by k-means; of many rows, some make the centres.

    There are fewer clusters than asked for if there are fewer distinct rows.
    """
    x = np.asarray(x, np.float32)
    some = np.random.default_rng(seed).permutation(len(x))[:_KMEANS_CELLS]
    few = x[np.sort(some)]
    return _kmeans(few, n_clusters, seed, n_starts).fit(few).predict(x)


def _kmeans(x: np.ndarray, n_clusters: int, seed: int, n_starts: int) -> KMeans:
    """Return k-means for no more clusters than there are distinct rows, of which it would warn."""
    from sklearn.cluster import KMeans

    n_distinct = _n_distinct(x[: 4 * n_clusters], n_clusters)  # mostly, few of them tell
    if n_distinct < n_clusters:
        n_distinct = _n_distinct(x, n_clusters)
    return KMeans(n_distinct, n_init=n_starts, random_state=seed)


def _n_distinct(x: np.ndarray, most: int) -> int:
    """Return how many rows [n, p] are further apart than float32 can tell, `most` at most.

    The farthest row from those that were counted is counted next.
    """
    x = x - x.mean(axis=0)
    blur = _BLUR * np.einsum("ij,ij->i", x, x).max()
    nearest, row = np.full(len(x), np.inf), 0
    for count in range(1, most):
        rest = x - x[row]
        nearest = np.minimum(nearest, np.einsum("ij,ij->i", rest, rest))
        row = int(nearest.argmax())
        if nearest[row] <= blur:
            return count
    return most


def _without_singles(x: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return groups [n] of rows [n, p], cells alone given to the group of the nearest centre."""
    sizes = np.bincount(groups)
    if sizes.max() == 1:
        return groups
    centers = unit_rows(centers_of(x, groups, len(sizes)))
    joins, single = np.arange(len(sizes)), sizes == 1
    nearest = np.argmax(centers[single] @ centers[~single].T, axis=1)
    joins[single] = np.flatnonzero(~single)[nearest]
    return np.unique(joins[groups], return_inverse=True)[1]


def heeding(
    distances: np.ndarray, ties: np.ndarray, tree: np.ndarray, n_clusters: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Merge groups by distances [g, g] and constraints [2, g, g]; yield levels, and clusters [g].

    Each constraint counts as one more distance between its groups: 0 if it ties them, else 2, the
    largest. A few say little of many groups, so coarser ones, cut from the plain `tree`, are tried
    as well.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    for level in (len(distances), 3 * n_clusters, 2 * n_clusters):
        of = np.unique(fcluster(tree, level, criterion="maxclust"), return_inverse=True)[1]
        member = np.eye(of.max() + 1)[of]
        sizes = member.sum(axis=0)
        apart, tied = member.T @ ties @ member
        mean = member.T @ distances @ member / np.outer(sizes, sizes)
        heeded = (mean + 2 * apart) / (1 + apart + tied)
        merged = linkage(squareform(heeded, checks=False), method="average")
        yield level, fcluster(merged, n_clusters, criterion="maxclust")[of]


def _candidates_of(
    name: str, x: np.ndarray, n_clusters: int, seed: int, n_starts: int, ties: Ties | None
) -> dict[str, np.ndarray]:
    """Cluster directly, and by merging many small groups: by distance, by weighted centres.

    Of few cells, groups of one join another first. Otherwise most partitions by distance would have
    a cluster of one cell and be passed over, though those are the ones that find rare types.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import pdist, squareform

    candidates = {f"k-means, {name}": kmeans(x, n_clusters, seed, n_starts=n_starts)}
    n_groups = min(max(MICRO, 3 * n_clusters), len(x) // 3)
    if n_groups <= n_clusters:
        return candidates
    groups = np.unique(kmeans(x, n_groups, seed, n_starts=n_starts), return_inverse=True)[1]
    if len(x) < _FEW:
        groups = _without_singles(x, groups)
    n_groups = int(groups.max()) + 1  # fewer if cells are alike
    if n_groups <= n_clusters:
        return candidates
    centers = centers_of(x, groups, n_groups)
    # between one centre for each group, and one for each cell
    weights = np.sqrt(np.bincount(groups))
    merged = _kmeans(centers, n_clusters, seed, 2 * n_starts)
    if centers.any(axis=1).all():  # a centre at the origin has no direction
        distances = pdist(unit_rows(centers), "cosine")
        tree = linkage(distances, method="average")
        cut = fcluster(tree, n_clusters, criterion="maxclust")
        candidates[f"merged by distance, {name}"] = cut[groups]
        if ties is not None:
            for size, cut in heeding(squareform(distances), ties(groups), tree, n_clusters):
                candidates[f"merged by constraints of {size} groups, {name}"] = cut[groups]
    candidates[f"merged centres, {name}"] = merged.fit_predict(centers, sample_weight=weights)[
        groups
    ]
    return {key: np.unique(c, return_inverse=True)[1] for key, c in candidates.items()}
