"""One partition from several: matched by their overlap, cells by the majority.

A single choice among candidates is noisy: which groups it merges and splits turns on a few cells,
and the first of the ranking is not better than those just behind it. So candidates are ranked on
several random draws of the cells, and those that rank high are put together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from scsiameseclu_jax.partition.candidates import (
    Representation,
    TooFewKindsError,
    centers_of,
    criteria,
    ranked_candidates,
    representation,
    sum_of_ranks,
)
from scsiameseclu_jax.partition.workers import in_workers
from scsiameseclu_jax.preprocessing.constraints import Constraints, broken
from scsiameseclu_jax.preprocessing.neighbors import unit_rows

_DRAWS = 3  # more do not raise the accuracy
_PLAUSIBLE = 0.25  # of the candidates, best first: those that might as well be chosen
_SHARE = 0.8  # of the cells in a draw, at most
_STARTS = 2  # of k-means; the draws make up for more
_ROUNDS = 3


class Consensus(NamedTuple):
    """A partition that several agree on."""

    clusters: np.ndarray
    """[n] cluster of each cell, 0 to k - 1, none empty."""
    votes: np.ndarray | None
    """[n, k] share of the candidates that put a cell into each cluster; None if one decided."""
    name: str
    """How it was found."""


def first_partition(
    embedding: np.ndarray,
    features: list[np.ndarray],
    n_clusters: int,
    *,
    n_neighbors: int,
    batch: np.ndarray | None = None,
    constraints: Constraints | None = None,
    how: Literal["consensus", "candidate"] = "consensus",
    seed: int,
) -> Consensus:
    """Rank candidate partitions on draws of the cells, and combine those that rank high.

    Each of three draws has 3000 cells (20 sqrt(n) if that is more, 80 % at most), its own
    neighbour graphs and its own candidates. The other cells join the cluster with the nearest
    centre in the embedding. The best quarter of each draw's candidates votes, matched to the one
    that leads: of the best of each draw, the one that is best on one more draw. Where there are
    constraints, some candidates heed them, and those that break fewer come first.

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
    constraints
        Pairs of cells known to be of one cluster, or of two, if there are any.
    how
        ``"candidate"`` picks one of those that would vote, of one draw.
    seed
        Seed of draws and starts.

    Raises
    ------
    TooFewKindsError
        If no candidate has that many clusters, because too many cells are alike.
    """
    unit = unit_rows(embedding)
    draws = _Draws(embedding, unit, features, n_clusters, n_neighbors, batch, constraints, seed)
    partition = (draws.candidate() if how == "candidate" else None) or draws.consensus()
    return partition or draws.of_all_cells()


class _Plausible(NamedTuple):
    """A candidate that might as well be chosen."""

    name: str
    clusters: np.ndarray
    """[n] cluster of each cell, int32, none empty."""


class _Draws(NamedTuple):
    """Random draws of the cells, and candidates of each; see `first_partition`."""

    embedding: np.ndarray
    unit: np.ndarray
    features: list[np.ndarray]
    n_clusters: int
    n_neighbors: int
    batch: np.ndarray | None
    constraints: Constraints | None
    seed: int

    @property
    def most(self) -> int:
        """Cells in a draw, at most."""
        return min(len(self.embedding), max(3000, round(20 * len(self.embedding) ** 0.5)))

    def sample(self, draw: int, size: int) -> tuple[np.ndarray, list[Representation], int]:
        """Return rows, their representations, and a seed."""
        rng = np.random.default_rng([self.seed, draw])
        rows = np.sort(rng.permutation(len(self.embedding))[:size])
        batch = self.batch
        codes = None if batch is None else np.unique(batch[rows], return_inverse=True)[1]
        spaces = [representation(x[rows], self.n_neighbors, codes) for x in self.features]
        return rows, spaces, int(rng.integers(2**31))

    def plausible(self, draw: int, *, size: int) -> list[_Plausible]:
        """Return the best quarter of a draw's candidates, the best first, with all cells in them.

        Empty if there are too few kinds of cells among those drawn.
        """
        rows, spaces, seed = self.sample(draw, size)
        z, k = self.embedding, self.n_clusters
        constraints = self.constraints
        ties = None if constraints is None else partial(self.ties, rows, constraints)
        try:
            ranked = ranked_candidates(z[rows], spaces, k, seed=seed, n_starts=_STARTS, ties=ties)
        except TooFewKindsError:
            return []
        few = tried = max(1, round(_PLAUSIBLE * len(ranked.scores)))
        if constraints is not None:
            tried = len(ranked.scores)  # any of them may break the fewest constraints
            few = max(1, few // 2)  # constraints double the candidates, not the good ones
        plausible = []
        for name, drawn in zip(list(ranked.scores)[:tried], ranked.clusters, strict=False):
            centers = unit_rows(centers_of(z[rows], drawn, k))
            clusters = np.argmax(self.unit @ centers.T, axis=1).astype(np.int32)
            clusters[rows] = drawn
            plausible.append(_Plausible(name, clusters))
        return sorted(plausible, key=lambda one: self.broken(one.clusters))[:few]

    def ties(self, rows: np.ndarray, constraints: Constraints, groups: np.ndarray) -> np.ndarray:
        """Count the constraints [2, g, g] that keep groups of drawn cells apart, and that tie them.

        Cells that are not drawn count for the group with the nearest centre in the embedding.
        """
        n_groups = int(groups.max()) + 1
        centers = unit_rows(centers_of(self.embedding[rows], groups, n_groups))
        named = np.unique(constraints.rows)
        of = np.empty(len(self.embedding), int)
        of[named] = np.argmax(self.unit[named] @ centers.T, axis=1)
        of[rows] = groups
        counts = np.zeros((2, n_groups, n_groups))
        np.add.at(counts, (constraints.linked.astype(int), *of[constraints.rows].T), 1)
        return counts + counts.transpose(0, 2, 1)

    def broken(self, clusters: np.ndarray) -> int:
        """Return how many constraints the clusters [n] of all cells break."""
        return 0 if self.constraints is None else int(broken(clusters, self.constraints).sum())

    def consensus(self) -> Consensus | None:
        """Let the best candidates of all draws vote; None if that leaves too few clusters."""
        size = min(round(_SHARE * len(self.embedding)), self.most)
        calls: list[Callable[[], Any]] = [
            *(partial(self.plausible, draw, size=size) for draw in range(_DRAWS)),
            partial(self.sample, _DRAWS, self.most),
        ]
        *every, (rows, spaces, _) = in_workers(lambda call: call(), calls)
        draws = [plausible for plausible in every if plausible]
        if not draws:
            return None
        firsts = [plausible[0].clusters for plausible in draws]
        wrong = np.array([self.broken(first) for first in firsts])
        least = np.flatnonzero(wrong == wrong.min())
        best = int(least[_best([firsts[i] for i in least], rows, spaces)])
        lead = sum(len(plausible) for plausible in draws[:best])
        voters = [one.clusters for plausible in draws for one in plausible]
        clusters, votes = majority(voters, self.n_clusters, lead=lead)
        if len(np.unique(clusters)) < self.n_clusters:  # the lead has an empty one
            return None
        name = f"consensus of {len(voters)} candidates in {len(draws)} draws"
        return Consensus(clusters, votes, name)

    def candidate(self) -> Consensus | None:
        """Pick one of the best candidates of one draw; None if there are none."""
        (plausible,) = in_workers(partial(self.plausible, size=self.most), [0])
        if not plausible:
            return None
        one = plausible[np.random.default_rng([self.seed, _DRAWS]).integers(len(plausible))]
        return Consensus(one.clusters, None, one.name)

    def of_all_cells(self) -> Consensus:
        """Return the best candidate of all cells, where their draws have too few kinds."""
        spaces = [representation(x, self.n_neighbors, self.batch) for x in self.features]
        rank = partial(ranked_candidates, self.embedding, spaces, seed=self.seed)
        (ranked,) = in_workers(rank, [self.n_clusters])
        return Consensus(ranked.clusters[0], None, next(iter(ranked.scores)))


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
    matched = np.empty(n_clusters, int)
    matched[columns] = rows
    return matched


def overlap(clusters: np.ndarray, other: np.ndarray, n_clusters: int) -> np.ndarray:
    """Return the number of cells [k, k] that each cluster shares with each of another partition."""
    pairs = np.bincount(clusters * n_clusters + other, minlength=n_clusters**2)
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
