"""One partition from several: matched by their overlap, cells by the majority."""

from __future__ import annotations

import logging

import numpy as np

logger = logging.getLogger(__name__)

_ROUNDS = 3
FEWER = "a smaller `n_clusters` may fit these data better"


def match(clusters: np.ndarray, other: np.ndarray, n_clusters: int) -> np.ndarray:
    """Return for each cluster [k] of `other` [n] the one of `clusters` [n] it overlaps most.

    One to one, by the largest sum of overlaps.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(overlap(clusters, other, n_clusters), maximize=True)
    matched = np.empty(n_clusters, int)
    matched[columns] = rows
    return matched


def overlap(clusters: np.ndarray, other: np.ndarray, n_clusters: int) -> np.ndarray:
    """Return the number of cells [k, k] that each cluster shares with each of another partition."""
    pairs = np.bincount(clusters.astype(int) * n_clusters + other, minlength=n_clusters**2)
    return pairs.reshape(n_clusters, n_clusters).astype(float)


def majority(
    partitions: list[np.ndarray], n_clusters: int, *, lead: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cluster [n] that most of the partitions, each [n], put a cell into; all shares.

    They are matched to the leading one, then to the majority itself, which breaks ties. Where they
    differ so much that a cluster is lost (its majority has less than half the cells it has in most
    of them), the half that agrees best with the leading one decides. The shares [n, k] of the
    clusters, float32, are of all partitions, whether they decided or not.
    """
    reference = partitions[lead]
    agreement = [_shared(reference, other, n_clusters) for other in partitions]
    voters = [partitions[i] for i in np.argsort(agreement, kind="stable")[::-1]]
    cells = np.arange(len(reference))
    while True:
        clusters = reference
        for _ in range(_ROUNDS):
            votes, sizes = _count(clusters, voters, n_clusters)
            votes[cells, clusters] += 0.5
            clusters = np.argmax(votes, axis=1)
        usual = np.median(sizes, axis=0)
        if len(voters) == 1 or np.all(np.bincount(clusters, minlength=n_clusters) >= usual / 2):
            votes, _ = _count(clusters, partitions, n_clusters)
            return clusters, votes / len(partitions)
        voters = voters[: len(voters) // 2]


def _count(
    clusters: np.ndarray, partitions: list[np.ndarray], n_clusters: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Match partitions to clusters [n]; return votes for each [n, k], and sizes [k] in each."""
    votes, sizes = np.zeros((len(clusters), n_clusters), np.float32), []
    for other in partitions:
        named = match(clusters, other, n_clusters)[other]
        votes[np.arange(len(clusters)), named] += 1
        sizes.append(np.bincount(named, minlength=n_clusters))
    return votes, sizes


def _shared(clusters: np.ndarray, other: np.ndarray, n_clusters: int) -> int:
    return int((match(clusters, other, n_clusters)[other] == clusters).sum())


def by_size(clusters: np.ndarray, n_clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Rename clusters so that 0 is the largest; return them and the old names in new order."""
    sizes = np.bincount(clusters, minlength=n_clusters)
    rank = np.argsort(-sizes, kind="stable")
    new = np.empty(n_clusters, int)
    new[rank] = np.arange(n_clusters)
    return new[clusters], rank


def check_sizes(
    clusters: np.ndarray, n_clusters: int, notes: list[str], remedy: str = FEWER
) -> None:
    """Warn, and add a note with what to do, if a cluster has no cells."""
    n_filled = len(np.unique(clusters))
    if n_filled < n_clusters:
        note = (
            f"{n_filled} of {n_clusters} clusters have cells: the others are no cell's most likely "
            f"one; {remedy}."
        )
        notes.append(note)
        logger.warning(note)
