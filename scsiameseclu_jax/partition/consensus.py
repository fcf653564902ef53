"""The first partition from candidates of several random draws of the cells.

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
from scsiameseclu_jax.partition.questions import Pool, choose, small_groups
from scsiameseclu_jax.partition.workers import in_workers
from scsiameseclu_jax.preprocessing.constraints import Constraints, broken
from scsiameseclu_jax.preprocessing.neighbors import unit_rows

_DRAWS = 3  # more do not raise the accuracy
_PLAUSIBLE = 0.25  # of the candidates, best first: those that might as well be chosen
_SHARE = 0.8  # of the cells in a draw, at most
_STARTS = 2  # of k-means; the draws make up for more


class Consensus(NamedTuple):
    """A partition that several agree on."""

    clusters: np.ndarray
    """[n] cluster of each cell, 0 to k - 1, none empty."""
    votes: np.ndarray | None
    """[n, k] share of the candidates that put a cell into each cluster; None if one decided."""
    name: str
    """How it was found."""
    pool: Pool | None = None
    """All candidates, of which some voted; None if one decided."""


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


class _Candidate(NamedTuple):
    """A candidate partition of a draw."""

    name: str
    clusters: np.ndarray
    """[n] cluster of each cell, none empty."""
    plausible: bool
    """Whether it might as well be chosen."""


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

    def candidates(self, draw: int, *, size: int) -> list[_Candidate]:
        """Return a draw's candidates, the best first, with all cells in them.

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
        few = max(1, round(_PLAUSIBLE * len(ranked.scores)))
        if constraints is not None:
            few = max(1, few // 2)  # constraints double the candidates, not the good ones
        small, found = np.min_scalar_type(k - 1), []
        for name, drawn in zip(ranked.scores, ranked.clusters, strict=True):
            centers = unit_rows(centers_of(z[rows], drawn, k))
            clusters = np.argmax(self.unit @ centers.T, axis=1).astype(small)
            clusters[rows] = drawn
            found.append((name, clusters))
        found.sort(key=lambda one: self.broken(one[1]))  # any of them may break the fewest
        return [_Candidate(*one, i < few) for i, one in enumerate(found)]

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
        """Let the best candidates of all draws vote; None if there are none."""
        size = min(round(_SHARE * len(self.embedding)), self.most)
        calls: list[Callable[[], Any]] = [
            *(partial(self.candidates, draw, size=size) for draw in range(_DRAWS)),
            partial(self.sample, _DRAWS, self.most),
            partial(small_groups, self.unit, self.n_clusters, self.seed),
        ]
        *every, (rows, spaces, _), (groups, distances) = in_workers(lambda call: call(), calls)
        draws = [candidates for candidates in every if candidates]
        if not draws:
            return None
        firsts = [candidates[0].clusters for candidates in draws]
        wrong = np.array([self.broken(first) for first in firsts])
        least = np.flatnonzero(wrong == wrong.min())
        best = int(least[_best([firsts[i] for i in least], rows, spaces)])
        candidates = [one for draw in draws for one in draw]
        voters = np.flatnonzero([one.plausible for one in candidates])
        pool = Pool(
            names=[f"{one.name}, draw {i + 1}" for i, draw in enumerate(draws) for one in draw],
            clusters=np.array([one.clusters for one in candidates]),
            ranks=np.concatenate([(np.arange(len(d)) + 0.5) / len(d) for d in draws], dtype="f4"),
            voters=voters,
            lead=sum(one.plausible for draw in draws[:best] for one in draw),
            groups=groups,
            distances=distances,
        )
        clusters, votes, _ = choose(pool)
        name = f"consensus of {len(voters)} candidates in {len(draws)} draws"
        return Consensus(clusters, votes, name, pool)

    def candidate(self) -> Consensus | None:
        """Pick one of the best candidates of one draw; None if there are none."""
        (found,) = in_workers(partial(self.candidates, size=self.most), [0])
        plausible = [one for one in found if one.plausible]
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
