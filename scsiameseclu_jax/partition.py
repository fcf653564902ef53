"""The first partition: where the cluster centres and proportions of the transport come from.

No single recipe serves balanced and unbalanced data. So a small pool of candidates is made, from
the learned embedding and from the features it was learned from, and one is chosen by two label-free
criteria that correct each other: modularity, which likes balance, and cosine silhouette, which
likes small islands.
"""

from __future__ import annotations

import warnings
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

    Raises
    ------
    ValueError
        If no candidate has that many clusters, because too many cells are alike.
    """
    from scipy.stats import rankdata
    from sklearn.exceptions import ConvergenceWarning

    unit = _unit(features)
    near = _unit(_smooth(links, unit, 4))
    far = _unit(_smooth(links, near, 12))
    with warnings.catch_warnings():
        # a candidate that did not converge, or found too few clusters, just does not win
        warnings.simplefilter("ignore", ConvergenceWarning)
        made = {
            "k-means, embedding": _kmeans(embedding, n_clusters, seed),
            "k-means, features": _kmeans(unit, n_clusters, seed),
            "k-means, smoothed 4": _kmeans(near, n_clusters, seed),
            "k-means, smoothed 16": _kmeans(far, n_clusters, seed),
            "mixture, embedding": _mixture(embedding, n_clusters, seed),
            "mixture, features": _mixture(features, n_clusters, seed),
            "mixture, smoothed 4": _mixture(near, n_clusters, seed),
        }
        for name, values in (("embedding", embedding), ("features", unit), ("smoothed 4", near)):
            made |= _merges(name, values, links, n_clusters, seed)
    candidates = {name: c for name, c in made.items() if len(np.unique(c)) == n_clusters}
    if not candidates:
        found = max(len(np.unique(clusters)) for clusters in made.values())
        msg = f"Expected cells distinct enough for {n_clusters} clusters, found {found} groups."
        raise ValueError(msg)
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

    start = _kmeans(x, n_clusters, seed)
    if len(np.unique(start)) < n_clusters:
        return start
    means = centers_of(x, start, n_clusters)
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
) -> dict[str, np.ndarray]:
    """Merge many small groups into clusters: by distance, by links, by weighted centres."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from sklearn.cluster import AgglomerativeClustering, KMeans

    n_groups = min(max(_MICRO, 3 * n_clusters), len(x) // 3)
    if n_groups <= n_clusters:
        return {}
    groups = np.unique(_kmeans(x, n_groups, seed), return_inverse=True)[1]
    n_groups = int(groups.max()) + 1  # fewer if cells are alike
    if n_groups <= n_clusters:
        return {}
    centers = centers_of(x, groups, n_groups)
    member = sp.csr_matrix((np.ones(len(x)), (groups, np.arange(len(x)))))

    tree = linkage(_unit(centers), method="average", metric="cosine")
    between = np.asarray((member @ links @ member.T).todense())
    degree = between.sum(axis=1)
    nearness = between / np.sqrt(np.outer(degree, degree))
    by_links = AgglomerativeClustering(n_clusters, metric="precomputed", linkage="average")
    sizes = np.asarray(member.sum(axis=1)).ravel()
    by_centers = KMeans(n_clusters, n_init=20, random_state=seed)
    merged = {
        "merged by distance": fcluster(tree, n_clusters, criterion="maxclust") - 1,
        "merged by links": by_links.fit_predict(1 - nearness),
        "merged centres": by_centers.fit_predict(centers, sample_weight=np.sqrt(sizes)),
    }
    return {f"{method}, {name}": clusters[groups] for method, clusters in merged.items()}
