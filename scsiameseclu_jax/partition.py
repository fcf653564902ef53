"""The first partition: where the cluster centres and proportions of the transport come from.

No single recipe serves balanced and unbalanced data. So a small pool of candidates is made, from
the learned embedding and from the features it was learned from, and one is chosen by two label-free
criteria that correct each other: modularity, which likes balance, and cosine silhouette, which
likes small islands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

_MICRO = 60  # groups that merging starts from
_RESOLUTION = 0.5  # of modularity; 1 favours balanced sizes more
_SILHOUETTE_CELLS = 2000


class Choice(NamedTuple):
    """The chosen partition and the evidence for it."""

    clusters: np.ndarray
    """[n] cluster of each cell, 0 to k - 1, none empty."""
    name: str
    """Which candidate was chosen."""
    scores: dict[str, tuple[float, float]]
    """Modularity and silhouette of each candidate."""


def first_partition(
    embedding: np.ndarray,
    features: np.ndarray,
    links: sp.csr_matrix,
    n_clusters: int,
    *,
    seed: int,
) -> Choice:
    """Make candidate partitions and choose one without labels.

    Parameters
    ----------
    embedding
        [n, d] learned embedding, rows of equal length.
    features
        [n, p] features that the encoders see.
    links
        [n, n] symmetric, normalised graph with self loops.
    n_clusters
        Number of clusters.
    seed
        Seed of the random starts.

    Returns
    -------
    The candidate with the best sum of ranks over both criteria.
    """
    from scipy.stats import rankdata

    unit = _unit(features)
    near = _unit(_smooth(links, unit, 4))
    far = _unit(_smooth(links, near, 12))
    makers: dict[str, Callable[[], np.ndarray]] = {
        "k-means, embedding": lambda: _kmeans(embedding, n_clusters, seed),
        "k-means, features": lambda: _kmeans(unit, n_clusters, seed),
        "k-means, smoothed 4": lambda: _kmeans(near, n_clusters, seed),
        "k-means, smoothed 16": lambda: _kmeans(far, n_clusters, seed),
        "mixture, embedding": lambda: _mixture(embedding, n_clusters, seed),
        "mixture, features": lambda: _mixture(features, n_clusters, seed),
        "mixture, smoothed 4": lambda: _mixture(near, n_clusters, seed),
    }
    for name, values in (("embedding", embedding), ("features", unit), ("smoothed 4", near)):
        makers |= _merges(name, values, links, n_clusters, seed)
    candidates = {name: make() for name, make in makers.items()}
    candidates = {
        name: clusters
        for name, clusters in candidates.items()
        if len(np.unique(clusters)) == n_clusters
    }
    scores = {
        name: (modularity(links, clusters), _silhouette(unit, clusters, seed))
        for name, clusters in candidates.items()
    }
    table = np.array(list(scores.values()))
    ranks = rankdata(table, axis=0).sum(axis=1)
    best = list(scores)[int(np.argmax(ranks))]
    return Choice(candidates[best], best, scores)


def centers_of(embedding: np.ndarray, clusters: np.ndarray, n_clusters: int) -> np.ndarray:
    """Return the mean [k, d] of the cells [n, d] of each cluster."""
    sums = np.zeros((n_clusters, embedding.shape[1]))
    np.add.at(sums, clusters, embedding)
    return sums / np.bincount(clusters, minlength=n_clusters)[:, None]


def modularity(links: sp.csr_matrix, clusters: np.ndarray) -> float:
    """Return the modularity at resolution 0.5 of clusters [n] on a weighted graph [n, n].

    References
    ----------
    Reichardt and Bornholdt, Physical Review E 2006.
    """
    degree = np.asarray(links.sum(axis=1)).ravel()
    coo = links.tocoo()
    total = degree.sum()
    inside = coo.data[clusters[coo.row] == clusters[coo.col]].sum() / total
    shares = np.bincount(clusters, weights=degree) / total
    return float(inside - _RESOLUTION * np.sum(shares**2))


def _silhouette(unit: np.ndarray, clusters: np.ndarray, seed: int) -> float:
    from sklearn.metrics import silhouette_score

    size = min(_SILHOUETTE_CELLS, len(unit))
    rows = np.random.default_rng(seed).choice(len(unit), size, replace=False)
    found = len(np.unique(clusters[rows]))
    if not 2 <= found < size:
        return -1.0
    return float(silhouette_score(unit[rows], clusters[rows], metric="cosine"))


def _unit(x: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1)


def _smooth(links: sp.csr_matrix, x: np.ndarray, times: int) -> np.ndarray:
    for _ in range(times):
        x = links @ x
    return x


def _kmeans(x: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    return KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(np.asarray(x, np.float32))


def _mixture(x: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    """Cluster by a Gaussian mixture with one covariance for all components."""
    from sklearn.mixture import GaussianMixture

    means = centers_of(x, _kmeans(x, n_clusters, seed), n_clusters)
    made = GaussianMixture(
        n_clusters,
        covariance_type="tied",
        means_init=means,
        reg_covar=1e-3 * float(x.var()),
        max_iter=50,
        tol=1e-2,
        random_state=seed,
    )
    return made.fit(x).predict(x)


def _merges(
    name: str, x: np.ndarray, links: sp.csr_matrix, n_clusters: int, seed: int
) -> dict[str, Callable[[], np.ndarray]]:
    """Merge many small groups into clusters: by distance, by links, by weighted centres."""
    n_groups = min(max(_MICRO, 3 * n_clusters), len(x) // 3)
    if n_groups <= n_clusters:
        return {}
    groups = _kmeans(x, n_groups, seed)
    centers = centers_of(x, groups, n_groups)
    member = sp.csr_matrix((np.ones(len(x)), (groups, np.arange(len(x)))))

    def by_distance() -> np.ndarray:
        from scipy.cluster.hierarchy import fcluster, linkage

        tree = linkage(_unit(centers), method="average", metric="cosine")
        return fcluster(tree, n_clusters, criterion="maxclust")[groups] - 1

    def by_links() -> np.ndarray:
        from sklearn.cluster import AgglomerativeClustering

        between = np.asarray((member @ links @ member.T).todense())
        degree = between.sum(axis=1)
        scale = 1 / np.sqrt(np.outer(degree, degree))
        merge = AgglomerativeClustering(n_clusters, metric="precomputed", linkage="average")
        return merge.fit_predict(1 - between * scale)[groups]

    def by_centers() -> np.ndarray:
        from sklearn.cluster import KMeans

        sizes = np.sqrt(np.asarray(member.sum(axis=1)).ravel())
        search = KMeans(n_clusters, n_init=20, random_state=seed)
        return search.fit_predict(centers, sample_weight=sizes)[groups]

    return {
        f"merged by distance, {name}": by_distance,
        f"merged by links, {name}": by_links,
        f"merged centres, {name}": by_centers,
    }
