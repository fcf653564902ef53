"""The first partition: where the cluster centres and proportions of the transport come from.

No single recipe serves balanced and unbalanced data. So a small pool of candidates is made, from
the learned embedding and from several normalisations of the counts, and one is chosen by two
label-free criteria that correct each other: modularity, which likes balance, and cosine silhouette,
which likes small islands. Each normalisation has its say in both.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from scsiameseclu_jax.neighbors import nearest_neighbors

_MICRO = 60  # groups that merging starts from
_RESOLUTION = 0.5  # of modularity; 1 favours balanced sizes more
_SILHOUETTE_CELLS = 2000
_KMEANS_CELLS = 20_000  # more do not move centres, and take minutes


class Representation(NamedTuple):
    """One normalisation of the cells."""

    features: np.ndarray
    """[n, p] features."""
    links: sp.csr_matrix
    """[n, n] symmetric, normalised graph with self loops."""


class Choice(NamedTuple):
    """The chosen partition and the evidence for it."""

    clusters: np.ndarray
    """[n] cluster of each cell, 0 to k - 1, none empty."""
    name: str
    """Which candidate was chosen."""
    scores: dict[str, tuple[float, ...]]
    """Modularity and silhouette of each candidate, in one representation after the other."""


def representation(features: np.ndarray, n_neighbors: int) -> Representation:
    """Pair features [n, p] with their cosine kNN graph, `n_neighbors` of each cell."""
    neighbors, cells = nearest_neighbors(features, n_neighbors)
    n = len(features)
    links = sp.csr_matrix((np.ones(len(cells)), (cells, neighbors)), shape=(n, n))
    links = links.maximum(links.T) + sp.identity(n, format="csr")
    scale = sp.diags(1 / np.sqrt(np.asarray(links.sum(axis=1)).ravel()))
    return Representation(features, sp.csr_matrix(scale @ links @ scale))


def first_partition(
    embedding: np.ndarray, representations: list[Representation], n_clusters: int, *, seed: int
) -> Choice:
    """Make candidate partitions and choose one without labels.

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

    Returns
    -------
    The candidate with the best sum of ranks over both criteria in all representations.

    Raises
    ------
    ValueError
        If no candidate has that many clusters, because too many cells are alike.
    """
    from scipy.stats import rankdata
    from threadpoolctl import threadpool_limits

    units = [_unit(one.features) for one in representations]
    # many small problems: threads would wait for each other, and for those of other processes
    with threadpool_limits(limits=1):
        made = _candidates("embedding", embedding, n_clusters, seed)
        for i, (unit, one) in enumerate(zip(units, representations, strict=True)):
            near = _unit(_smooth(one.links, unit, 4))
            far = _unit(_smooth(one.links, near, 12))
            for name, x in (("as it is", unit), ("smoothed 4", near), ("smoothed 16", far)):
                made |= _candidates(f"representation {i + 1} {name}", x, n_clusters, seed)
        candidates = {name: c for name, c in made.items() if len(np.unique(c)) == n_clusters}
        if not candidates:
            found = max(len(np.unique(clusters)) for clusters in made.values())
            msg = f"Expected cells distinct enough for {n_clusters} clusters, found {found} groups."
            raise ValueError(msg)
        scores = {
            name: _criteria(c, units, representations, seed) for name, c in candidates.items()
        }
    ranks = rankdata(np.array(list(scores.values())), axis=0).sum(axis=1)
    best = list(scores)[int(np.argmax(ranks))]
    return Choice(candidates[best], best, scores)


def _criteria(
    clusters: np.ndarray, units: list[np.ndarray], representations: list[Representation], seed: int
) -> tuple[float, ...]:
    return tuple(
        value
        for unit, one in zip(units, representations, strict=True)
        for value in (modularity(one.links, clusters), _silhouette(unit, clusters, seed))
    )


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
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    x = np.asarray(x, np.float32)
    few = np.random.default_rng(seed).permutation(len(x))[:_KMEANS_CELLS]
    made = KMeans(n_clusters, n_init=10, random_state=seed)
    with warnings.catch_warnings():
        # a candidate that found too few clusters just does not win
        warnings.simplefilter("ignore", ConvergenceWarning)
        return made.fit(x[np.sort(few)]).predict(x)


def _candidates(name: str, x: np.ndarray, n_clusters: int, seed: int) -> dict[str, np.ndarray]:
    """Cluster directly, and by merging many small groups: by distance, by weighted centres."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from sklearn.cluster import KMeans

    made = {f"k-means, {name}": _kmeans(x, n_clusters, seed)}
    n_groups = min(max(_MICRO, 3 * n_clusters), len(x) // 3)
    if n_groups <= n_clusters:
        return made
    groups = np.unique(_kmeans(x, n_groups, seed), return_inverse=True)[1]
    n_groups = int(groups.max()) + 1  # fewer if cells are alike
    if n_groups <= n_clusters:
        return made
    centers = centers_of(x, groups, n_groups)
    tree = linkage(_unit(centers), method="average", metric="cosine")
    # between one centre for each group, and one for each cell
    weights = np.sqrt(np.bincount(groups))
    merged = KMeans(n_clusters, n_init=20, random_state=seed)
    made[f"merged by distance, {name}"] = fcluster(tree, n_clusters, criterion="maxclust")[groups]
    made[f"merged centres, {name}"] = merged.fit_predict(centers, sample_weight=weights)[groups]
    return {key: np.unique(c, return_inverse=True)[1] for key, c in made.items()}
