"""The first partition of an embedding: where cluster centres and proportions come from."""

from __future__ import annotations

import numpy as np

_STARTS = 10  # of k-means; the best by its own objective is taken


def first_partition(embedding: np.ndarray, n_clusters: int, *, seed: int) -> np.ndarray:
    """Partition cells by k-means on rows of equal length, that is, by angle.

    Parameters
    ----------
    embedding
        [n, d] rows of equal length.
    n_clusters
        Number of clusters, all of which get cells.
    seed
        Seed of the starts.

    Returns
    -------
    [n] cluster of each cell, 0 to ``n_clusters - 1``.
    """
    from sklearn.cluster import KMeans

    search = KMeans(n_clusters, n_init=_STARTS, random_state=seed)
    return search.fit_predict(np.asarray(embedding, np.float64))


def centers_of(embedding: np.ndarray, clusters: np.ndarray, n_clusters: int) -> np.ndarray:
    """Return the mean [k, d] of the cells [n, d] of each cluster."""
    sums = np.zeros((n_clusters, embedding.shape[1]))
    np.add.at(sums, clusters, embedding)
    return sums / np.bincount(clusters, minlength=n_clusters)[:, None]
