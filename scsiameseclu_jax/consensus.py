"""One partition from several: matched by their overlap, cells by the majority.

A single choice among candidates is noisy: which groups it merges and splits turns on a few cells.
So the choice is made on several random draws of the cells, and the partitions are put together.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np

from scsiameseclu_jax.partition import (
    Representation,
    best_candidate,
    centers_of,
    criteria,
    representation,
    small_problems,
    sum_of_ranks,
    unit_rows,
)

_DRAWS = 20
_SHARE = 0.8  # of the cells in a draw, at most
_STARTS = 2  # of k-means; the draws make up for more
_ROUNDS = 3
_THREADS = 8  # draws at once, at most: each has its copy of the features of its cells


class Consensus(NamedTuple):
    """A partition that several agree on."""

    clusters: np.ndarray
    """[n] cluster of each cell, 0 to k - 1, none empty."""
    agreement: np.ndarray
    """[n] share of the draws that have a cell there."""
    name: str
    """How it was found."""


def first_partition(
    embedding: np.ndarray,
    features: list[np.ndarray],
    n_clusters: int,
    *,
    n_neighbors: int,
    batch: np.ndarray | None = None,
    seed: int,
) -> Consensus:
    """Choose among candidate partitions on draws of the cells, and combine the choices.

    Each of twenty draws has 3000 cells (20 sqrt(n) if that is more, 80 % at most), its own
    neighbour graphs and its own best candidate. The other cells join the cluster with the nearest
    centre in the embedding. The best of the twenty on one more draw leads; the others are matched
    to it and vote.

    Parameters
    ----------
    embedding
        [n, d] learned embedding, rows of equal length.
    features
        Normalisations of the cells, each [n, p], at least one.
    n_clusters
        Number of clusters.
    n_neighbors
        Neighbours of each cell in a draw.
    batch
        [n] batch of each cell, if there are several.
    seed
        Seed of draws and starts.

    Raises
    ------
    ValueError
        If no candidate has that many clusters, because too many cells are alike.
    """
    from threadpoolctl import threadpool_limits

    n = len(embedding)
    unit = unit_rows(embedding)
    most = max(3000, round(20 * n**0.5))

    def sample(draw: int, size: int) -> tuple[np.ndarray, list[Representation], int]:
        rng = np.random.default_rng([seed, draw])
        rows = np.sort(rng.permutation(n)[:size])
        codes = None if batch is None else np.unique(batch[rows], return_inverse=True)[1]
        spaces = [representation(x[rows], n_neighbors, codes) for x in features]
        return rows, spaces, int(rng.integers(2**31))

    def choose(draw: int) -> np.ndarray | None:
        rows, spaces, start = sample(draw, min(round(_SHARE * n), most))
        try:
            choice = best_candidate(
                embedding[rows], spaces, n_clusters, seed=start, n_starts=_STARTS
            )
        except ValueError:
            return None  # too few kinds of cells among them
        centers = unit_rows(centers_of(embedding[rows], choice.clusters, n_clusters))
        clusters = np.argmax(unit @ centers.T, axis=1)
        clusters[rows] = choice.clusters
        return clusters

    # OpenMP has a limit for each thread, so it is set in those too.
    limit = partial(threadpool_limits, limits=1)
    with small_problems():
        with ThreadPoolExecutor(_workers(), initializer=limit) as pool:
            found = [made for made in pool.map(choose, range(_DRAWS)) if made is not None]
        if found:
            rows, spaces, _ = sample(_DRAWS, min(n, most))
            made, agreement = majority(found, n_clusters, lead=_best(found, rows, spaces))
            if len(np.unique(made)) == n_clusters:  # not if the lead has an empty one
                return Consensus(made, agreement, f"consensus of {len(found)} draws")
        spaces = [representation(x, n_neighbors, batch) for x in features]
        choice = best_candidate(embedding, spaces, n_clusters, seed=seed)
    return Consensus(choice.clusters, np.ones(n), choice.name)


def _workers() -> int:
    """Return how many draws are worth making at once."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(count or 1, _THREADS)


def _best(partitions: list[np.ndarray], rows: np.ndarray, spaces: list[Representation]) -> int:
    """Return which partition [n] is best on some cells, by the criteria that candidates had."""
    units = [unit_rows(one.features) for one in spaces]
    parts = [np.unique(clusters[rows], return_inverse=True)[1] for clusters in partitions]
    scores = {str(i): criteria(part, units, spaces) for i, part in enumerate(parts)}
    return int(np.argmax(sum_of_ranks(scores)))


def match(clusters: np.ndarray, other: np.ndarray, n_clusters: int) -> np.ndarray:
    """Return for each cluster [k] of `other` [n] the one of `clusters` [n] it overlaps most.

    One to one, by the largest sum of overlaps.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(overlap(clusters, other, n_clusters), maximize=True)
    found = np.empty(n_clusters, int)
    found[columns] = rows
    return found


def overlap(clusters: np.ndarray, other: np.ndarray, n_clusters: int) -> np.ndarray:
    """Return the number of cells [k, k] that each cluster shares with each of another partition."""
    pairs = np.bincount(clusters * n_clusters + other, minlength=n_clusters**2)
    return pairs.reshape(n_clusters, n_clusters).astype(float)


def majority(
    partitions: list[np.ndarray], n_clusters: int, *, lead: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cluster [n] that most of the partitions, each [n], put a cell into; their share.

    They are matched to the leading one, then to the majority itself, which breaks ties. Where they
    differ so much that a cluster is lost (its majority has less than half the cells it has in most
    of them), the half that agrees best with the leading one decides.
    """
    reference = partitions[lead]
    agreement = [_shared(reference, other, n_clusters) for other in partitions]
    voters = [partitions[i] for i in np.argsort(agreement, kind="stable")[::-1]]
    each = np.eye(n_clusters)
    while True:
        made = reference
        for _ in range(_ROUNDS):
            named = [match(made, other, n_clusters)[other] for other in voters]
            votes = sum(each[clusters] for clusters in named)
            made = np.argmax(votes + 0.5 * each[made], axis=1)
        sizes = np.median([np.bincount(x, minlength=n_clusters) for x in named], axis=0)
        if len(voters) == 1 or np.all(np.bincount(made, minlength=n_clusters) >= sizes / 2):
            return made, votes[np.arange(len(made)), made] / len(voters)
        voters = voters[: len(voters) // 2]


def _shared(clusters: np.ndarray, other: np.ndarray, n_clusters: int) -> int:
    return int((match(clusters, other, n_clusters)[other] == clusters).sum())
