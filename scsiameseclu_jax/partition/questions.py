"""Which of the plausible partitions? The counts do not say; a few answers of the user do.

A fit keeps its candidates. A question shows two small groups of cells: are they of one type? Each
answer takes weight from the candidates that contradict it, and the best of them vote. The next
question is about the pair of groups that the candidates, by their weights, are least agreed on, and
that has most cells. Where answers contradict every candidate, partitions made of the answers come
to the front: small groups merged with regard to them, so that what is like the groups that were
asked about moves with them.

References
----------
Van Craenendonck and Blockeel, Machine Learning 2017 (choosing among clusterings by constraints).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np

from scsiameseclu_jax.partition.candidates import MICRO, centers_of, heeding, kmeans
from scsiameseclu_jax.partition.voting import majority, match
from scsiameseclu_jax.preprocessing.constraints import Answers, add_answer
from scsiameseclu_jax.preprocessing.neighbors import unit_rows

_CONTRADICTED = 0.25  # what is left of a candidate's weight after each answer it contradicts
_PRIOR = 2.0  # by how much the logarithm of the weight falls from the first to the last in rank
_SAY = 3  # votes of the partition without answers, while it ranks with those that vote
_VOTE = 12  # one in so many candidates votes, the best
_MOST_GROUPS = 150
_TIE = 3  # distances between groups that an answer counts as
_MORE = 3  # pairs that are looked at, beyond twice as many as there are questions
_FEWEST = 5  # cells that a user can judge by their genes
_NOTHING = 1e-6  # of p (1 - p): the candidates agree
_AGREED = 0.9  # weight of the candidates, beside the distance in the embedding, in merging


class Pool(NamedTuple):
    """The candidate partitions of a fit, of all its cells."""

    names: list[str]
    """How each of the m candidates was made."""
    clusters: np.ndarray
    """[m, n] cluster of each cell, unsigned integers, 0 to k - 1, none empty."""
    ranks: np.ndarray
    """[m] place of each in its draw, 0 the first, 1 the last, float32."""
    voters: np.ndarray
    """[v] candidates that vote while nothing is known."""
    lead: int
    """Which of the voters the others are matched to."""
    groups: np.ndarray
    """[n] small group of each cell, 0 to g - 1, none empty."""
    distances: np.ndarray
    """[g, g] cosine distances of their centres in the embedding, float32."""

    @property
    def n_clusters(self) -> int:
        """Number of clusters k."""
        return int(self.clusters[0].max()) + 1

    def of_cells(self, rows: np.ndarray) -> Pool:
        """Return the pool with the cells in another order, or a part of them."""
        return self._replace(clusters=self.clusters[:, rows], groups=self.groups[rows])


class Choice(NamedTuple):
    """A partition that the best candidates agree on."""

    clusters: np.ndarray
    """[n] cluster of each cell, 0 to k - 1, none empty."""
    votes: np.ndarray
    """[n, k] share of the voters that put a cell into each cluster, float32."""
    n_voters: int
    """How many voted."""


class Question(NamedTuple):
    """Whether the cells of two small groups are of one type."""

    cells: tuple[np.ndarray, np.ndarray]
    """Rows of the cells of either group."""
    together: float
    """Share of the weight of the candidates that put them together, 0 to 1."""
    if_same: np.ndarray
    """[n] the partition if they are; clusters have the numbers of the present one."""
    if_different: np.ndarray
    """[n] the partition if they are not."""


def small_groups(unit: np.ndarray, n_clusters: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return small groups [n] of cells, and the cosine distances [g, g] of their centres.

    Parameters
    ----------
    unit
        [n, d] embedding, rows of length 1.
    n_clusters
        Number of clusters; there are three times as many groups, 60 to 150, and a third of the
        cells at most.
    seed
        Of the starts.
    """
    wanted = min(max(MICRO, min(3 * n_clusters, _MOST_GROUPS)), max(2, len(unit) // 3))
    groups = np.unique(kmeans(unit, wanted, seed, n_starts=1), return_inverse=True)[1]
    centers = unit_rows(centers_of(unit, groups, int(groups.max()) + 1))
    distances = np.clip(1 - centers @ centers.T, 0, 2)
    np.fill_diagonal(distances, 0)
    small = np.min_scalar_type(int(groups.max()))
    return groups.astype(small), ((distances + distances.T) / 2).astype(np.float32)


def choose(pool: Pool, answers: Answers | None = None) -> Choice:
    """Let the best candidates vote; those that rank high, as long as that keeps all answers.

    What those vote for has three votes more while its own weight is among those of the best.

    Parameters
    ----------
    pool
        The candidates.
    answers
        What is known of groups of the cells, if anything is.
    """
    plain = _vote([pool.clusters[i] for i in pool.voters], pool.n_clusters, lead=pool.lead)
    if answers is None:
        return plain
    held = kept(plain.clusters, answers)
    if held.all():
        return plain
    voters, least = _Weighted(pool, answers).best()
    if np.log(_CONTRADICTED) * (~held).sum() >= least:
        voters = [plain.clusters] * _SAY + voters
    return _vote(voters, pool.n_clusters, lead=0)


def _vote(voters: list[np.ndarray], k: int, *, lead: int) -> Choice:
    clusters, votes = majority(voters, k, lead=lead)
    if len(np.unique(clusters)) < k:  # the lead has no empty one
        clusters = np.asarray(voters[lead], int)
        return Choice(clusters, majority([clusters], k, lead=0)[1], 1)
    return Choice(clusters, votes, len(voters))


def ask(pool: Pool, answers: Answers | None = None, *, n: int) -> list[Question]:
    """Return the n questions whose answers would say most; fewer if nothing is left to ask.

    The first is about the pair of groups with the largest ``p (1 - p) sqrt(n_a n_b)``: p is the
    share of the weight of candidates that put them together, n_a and n_b are their cells. For each
    further one, what the answers to those before it would tell of it is taken off ``p (1 - p)``.
    Questions whose answer alone changes nothing come last.
    """
    known = Answers([], [], np.zeros(0, np.int8)) if answers is None else answers
    weighted = _Weighted(pool, known)
    cells = [np.flatnonzero(pool.groups == g) for g in range(len(pool.distances))]
    now = choose(pool, known).clusters
    questions: list[Question] = []
    idle: list[Question] = []  # whatever the answer is, it alone changes nothing
    for a, b, share in weighted.informative_pairs(2 * n + _MORE):
        pair = cells[a], cells[b]
        either = [
            choose(pool, add_answer(known, *pair, same=same)).clusters for same in (True, False)
        ]
        if_same, if_different = (match(now, one, pool.n_clusters)[one] for one in either)
        hinges = (if_same != if_different).any()
        (questions if hinges else idle).append(Question(pair, share, if_same, if_different))
        if len(questions) == n:
            break
    return (questions + idle)[:n]


def kept(clusters: np.ndarray, answers: Answers) -> np.ndarray:
    """Return which answers [q] the clusters [n] of the cells keep; those not sure are kept."""
    ends = zip(answers.first, answers.second, strict=True)
    together = np.array([_most(clusters, a) == _most(clusters, b) for a, b in ends], bool)
    return (answers.same < 0) | (together == (answers.same == 1))


def _most(clusters: np.ndarray, rows: np.ndarray) -> int:
    """Return the cluster that most of some cells are in."""
    return int(np.bincount(clusters[rows]).argmax())


class _Weighted:
    """Candidates of a pool, and those made of the answers, with their weights."""

    def __init__(self, pool: Pool, answers: Answers) -> None:
        self._pool, k = pool, pool.n_clusters
        self._groups = groups = pool.groups.astype(int)
        n_groups = len(pool.distances)
        # a candidate's cluster of a group is that of most of its cells
        of_groups = np.array([_of_groups(c, groups, n_groups, k) for c in pool.clusters])
        ends = [[_most(groups, rows) for rows in side] for side in (answers.first, answers.second)]
        pairs = np.array(ends, int).reshape(2, -1)
        sure, same = answers.same >= 0, answers.same == 1
        self.asked = np.eye(n_groups, dtype=bool)
        self.asked[pairs[0], pairs[1]] = self.asked[pairs[1], pairs[0]] = True
        self.sizes = np.bincount(groups, minlength=n_groups)
        logs = -_PRIOR * pool.ranks.astype(float)
        cells = [(answers.first[i], answers.second[i], same[i]) for i in np.flatnonzero(sure)]
        for one, two, together in cells:
            said = [_most(c, one) == _most(c, two) for c in pool.clusters]
            logs += np.log(_CONTRADICTED) * (np.array(said) != together)
        self.made: list[np.ndarray] = []  # of the answers: the cluster of each group
        if sure.any() and n_groups > k:
            ties = np.zeros((2, n_groups, n_groups))
            np.add.at(ties, (same[sure].astype(int), *pairs[:, sure]), _TIE)
            ties += ties.transpose(0, 2, 1)
            agreed = _AGREED * (1 - self._together(of_groups, logs))
            for distances in (pool.distances, agreed + (1 - _AGREED) * pool.distances):
                self.made += _merged(distances.astype(float), ties, k)
        of_made = np.array(self.made, int).reshape(-1, n_groups)
        together = of_made[:, pairs[0, sure]] == of_made[:, pairs[1, sure]]
        wrong = (together != same[sure]).sum(axis=1)
        # they keep answers by their making, which is no merit: they rank last
        self._logs = np.concatenate([logs, np.log(_CONTRADICTED) * wrong - _PRIOR])
        self._of_groups = np.concatenate([of_groups, of_made])

    def best(self) -> tuple[list[np.ndarray], float]:
        """Return those [n] that vote, the best first, and the last one's logarithm of weight."""
        m = len(self._pool.clusters)
        order = np.argsort(-self._logs, kind="stable")[: max(1, round(m / _VOTE))]
        made = [one[self._groups] for one in self.made]
        voters = [self._pool.clusters[i] if i < m else made[i - m] for i in order]
        return voters, float(self._logs[order[-1]])

    def informative_pairs(self, n: int) -> list[tuple[int, int, float]]:
        """Return pairs of groups to ask about, and the share of weight that has them together."""
        large = self.sizes >= min(_FEWEST, np.median(self.sizes))
        first, second = np.nonzero(np.triu(~self.asked) & large & large[:, None])
        weights = _shares(self._logs)
        together = (self._of_groups[:, first] == self._of_groups[:, second]).astype(np.float32)
        share = weights @ together
        rest = np.sqrt(weights)[:, None] * (together - share)  # its squares add up to p (1 - p)
        size = np.sqrt(self.sizes[first] * self.sizes[second])
        pairs: list[tuple[int, int, float]] = []
        while len(pairs) < min(n, len(first)):
            unknown = np.einsum("ij,ij->j", rest, rest)
            best = int(np.argmax(unknown * size))
            if unknown[best] <= _NOTHING:
                break
            pairs.append((int(first[best]), int(second[best]), float(share[best])))
            axis = rest[:, best] / np.sqrt(unknown[best])
            rest -= np.outer(axis, axis @ rest)
            rest[:, best] = 0
        return pairs

    @staticmethod
    def _together(of_groups: np.ndarray, logs: np.ndarray) -> np.ndarray:
        """Return the share [g, g] of the weight of candidates that put two groups together."""
        together = np.zeros((of_groups.shape[1],) * 2)
        for share, clusters in zip(_shares(logs), of_groups, strict=True):
            together += share * (clusters[:, None] == clusters)
        return together


def _shares(logs: np.ndarray) -> np.ndarray:
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


def _of_groups(clusters: np.ndarray, groups: np.ndarray, n_groups: int, k: int) -> np.ndarray:
    """Return the cluster [g] that most cells of each group are in."""
    shared = np.bincount(groups * k + clusters, minlength=n_groups * k)
    return shared.reshape(n_groups, k).argmax(axis=1)


def _merged(distances: np.ndarray, ties: np.ndarray, k: int) -> list[np.ndarray]:
    """Merge groups by distances [g, g] and ties [2, g, g]; return what has k clusters."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    np.fill_diagonal(distances, 0)
    tree = linkage(squareform(distances, checks=False), method="average")
    numbered = partial(np.unique, return_inverse=True)
    merged = [numbered(cut)[1] for _, cut in heeding(distances, ties, tree, k)]
    return [one for one in merged if int(one.max()) + 1 == k]
