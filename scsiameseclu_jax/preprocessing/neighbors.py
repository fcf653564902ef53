"""Nearest cells by cosine, exact or approximate."""

from __future__ import annotations

import numpy as np

EXACT_CELLS = 100_000  # a search through all pairs of more takes minutes


def suited(n_neighbors: int, n_cells: int) -> int:
    """Return how many neighbours to link few cells to: linked to most others, all look alike."""
    return min(n_neighbors, max((n_cells - 1) // 4, 3))


def nearest_neighbors(features: np.ndarray, n_neighbors: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the links [m] from every cell to its nearest neighbours by cosine.

    Exact up to 100,000 cells. Of more the search is approximate, by nearest-neighbour descent.

    Parameters
    ----------
    features
        [n, p] features.
    n_neighbors
        Neighbours of each cell, itself not counted; fewer if there are fewer cells.

    Returns
    -------
    Neighbours and cells, both [n * n_neighbors].

    References
    ----------
    Dong et al., WWW 2011, as implemented in pynndescent.
    """
    n = features.shape[0]
    k = min(n_neighbors, n - 1)
    unit = unit_rows(features).astype(np.float32)
    search = _exact if search_of(n) == "exact" else _approximate
    return search(unit, k).ravel(), np.repeat(np.arange(n), k)


def nearest_in(features: np.ndarray, others: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Return the rows [m, k] of features [n, p] that are nearest to others [m, p] by cosine.

    Exact up to 100,000 rows of either, else by nearest-neighbour descent.
    """
    k = min(n_neighbors, len(features))
    unit, wanted = (unit_rows(x).astype(np.float32) for x in (features, others))
    if search_of(len(features)) == "approximate":
        from pynndescent import NNDescent

        return NNDescent(unit, n_neighbors=k + 1, random_state=0).query(wanted, k=k)[0]
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(unit)
    return search.kneighbors(wanted, return_distance=False)


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Return rows [n, p] scaled to length 1; rows of zeros stay."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1)


def search_of(n_cells: int) -> str:
    """Return how neighbours among that many cells are found, ``exact`` or ``approximate``."""
    return "exact" if n_cells <= EXACT_CELLS else "approximate"


def _exact(unit: np.ndarray, k: int) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(unit)
    return search.kneighbors(return_distance=False)  # without a query, a cell is not its own


def _approximate(unit: np.ndarray, k: int) -> np.ndarray:
    from pynndescent import NNDescent

    neighbors = NNDescent(unit, n_neighbors=k + 1, random_state=0).neighbor_graph[0]
    # a cell is among its own neighbours, but for one with enough others at distance 0
    others = neighbors != np.arange(len(unit))[:, None]
    others[others.all(axis=1), -1] = False
    return neighbors[others].reshape(len(unit), k)
