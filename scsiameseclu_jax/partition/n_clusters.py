"""How many clusters? A vote of label-free criteria over partitions into two, three, and so on."""

from __future__ import annotations

import logging
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np

from scsiameseclu_jax.partition.candidates import (
    kmeans,
    modularity,
    representation,
    silhouette,
    smooth,
)
from scsiameseclu_jax.partition.workers import in_workers
from scsiameseclu_jax.preprocessing.neighbors import unit_rows

logger = logging.getLogger(__name__)

K_MAX = 30
_CELLS = 20_000  # of more, that many are drawn: curves do not change, minutes are saved
_SMOOTHING = 4
_STARTS = 3
_CRITERIA = (
    "modularity",
    "silhouette",
    "silhouette, smoothed",
    "Calinski-Harabasz, smoothed",
)
_WEIGHTS = (2, 1, 1, 1)  # one criterion is of the graph, three are of distances
_LEAST = 10  # cells for each cluster of the largest number that is tried


class Estimate(NamedTuple):
    """A number of clusters and the evidence for it."""

    n_clusters: int
    """The chosen number."""
    candidates: np.ndarray
    """[m] numbers that were tried, ascending."""
    criteria: dict[str, np.ndarray]
    """Value [m] of each criterion, larger is better."""
    votes: np.ndarray
    """[m] mean over criteria of the rank of each number, 1 the best of all, 0 the worst; that of
    modularity counts twice."""
    why: str
    """The choice in words."""


def k_range(n_cells: int, k_min: int, k_max: int) -> np.ndarray:
    """Return the numbers of clusters to try: to `k_max`, or a tenth of the cells if that is less.

    Raises
    ------
    ValueError
        If there are fewer than two.
    """
    top = min(k_max, n_cells // _LEAST)
    if not 2 <= k_min < top:
        msg = (
            f"Expected two numbers of clusters or more to choose from, found {k_min} (`k_min`, at "
            f"least 2) to {top}: `k_max` is {k_max}, and no more than a tenth of the {n_cells} "
            f"cells, {n_cells // _LEAST}, are tried; with so few, give the number."
        )
        raise ValueError(msg)
    return np.arange(k_min, top + 1)


def estimate(
    features: np.ndarray,
    n_neighbors: int,
    *,
    batch: np.ndarray | None = None,
    k_min: int = 2,
    k_max: int = K_MAX,
    seed: int,
) -> Estimate:
    """Choose the number of clusters by the sum of ranks of four criteria.

    Cells are smoothed four times over their cosine kNN graph and clustered by k-means for each
    number. Each partition is judged by its modularity on the graph (resolution 1), the cosine
    silhouette of the features and of the smoothed features, and the Calinski-Harabasz index of
    the smoothed features. Modularity likes many balanced clusters, silhouettes few that lie far
    apart: they correct each other. Modularity, the one criterion of the graph, counts twice.

    Parameters
    ----------
    features
        [n, p] features; of more than 20,000 cells, that many are drawn.
    n_neighbors
        Neighbours of each cell.
    batch
        [n] batch of each cell to balance neighbours over, if there are several.
    k_min, k_max
        Least and largest number to try; see :func:`k_range`.
    seed
        Seed of the random starts.

    Raises
    ------
    ValueError
        If there are fewer than two numbers to choose from, or fewer than two kinds of cells.
    """
    from scipy.stats import rankdata
    from sklearn.metrics import calinski_harabasz_score

    wanted = k_range(len(features), k_min, k_max)
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(features))[:_CELLS])
    sampled = None if batch is None else np.unique(batch[rows], return_inverse=True)[1]
    graph = representation(np.asarray(features)[rows], n_neighbors, sampled)
    unit = unit_rows(graph.features)
    near = unit_rows(smooth(graph.links, unit, _SMOOTHING))

    def judge(k: int) -> tuple[float, ...] | None:
        clusters = kmeans(near, k, seed, n_starts=_STARTS)
        if len(np.unique(clusters)) < k:
            return None
        return (
            modularity(graph.links, clusters, resolution=1.0),
            silhouette(unit, clusters),
            silhouette(near, clusters),
            float(calinski_harabasz_score(near, clusters)),
        )

    values = list(takewhile(lambda one: one is not None, in_workers(judge, wanted.tolist())))
    if not values:
        msg = f"Expected cells of at least {k_min} kinds, found fewer."
        raise ValueError(msg)
    tried = wanted[: len(values)]  # too many cells are alike for more
    criteria = dict(zip(_CRITERIA, np.array(values, np.float64).T, strict=True))
    ranks = np.array([rankdata(series) for series in criteria.values()])
    votes = (np.average(ranks, axis=0, weights=_WEIGHTS) - 1) / max(len(tried) - 1, 1)
    best = int(np.argmax(votes))
    favoured = ", ".join(f"{name} {tried[np.argmax(one)]}" for name, one in criteria.items())
    why = f"{tried[best]} has the best sum of ranks; alone, the criteria favour: {favoured}"
    if best == len(wanted) - 1:
        logger.warning(
            "chose %d clusters, the largest number that was tried: there may be more", tried[best]
        )
    return Estimate(int(tried[best]), tried, criteria, votes, why)


def to_plain(estimate: Estimate) -> dict[str, Any]:
    """Return an estimate in types that JSON has."""
    return {
        "n_clusters": estimate.n_clusters,
        "candidates": estimate.candidates.tolist(),
        "criteria": {name: series.tolist() for name, series in estimate.criteria.items()},
        "votes": estimate.votes.tolist(),
        "why": estimate.why,
    }


def from_plain(plain: dict[str, Any]) -> Estimate:
    """Return what :func:`to_plain` was given."""
    return Estimate(
        n_clusters=plain["n_clusters"],
        candidates=np.array(plain["candidates"]),
        criteria={name: np.array(series) for name, series in plain["criteria"].items()},
        votes=np.array(plain["votes"]),
        why=plain["why"],
    )
