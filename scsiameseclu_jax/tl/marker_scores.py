"""How strongly groups of cells, and cells, express the markers of each type.

The score of a type is the mean, over its markers, of logarithmic expression in standard deviations
over all cells. Whether it is more than chance is asked of random genes: each marker is replaced by
one of like mean expression that marks nothing, many times over. And some markers must be there at
all: a few molecules of genes that hardly anything expresses vary a lot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from scsiameseclu_jax.preprocessing.expression import group_means
from scsiameseclu_jax.preprocessing.genes import align, plain

_SEEN_IN = 3  # cells that a gene must be seen in to count as found
_SEEN_SHARE = 0.05  # of a group's cells, or of a cell and its neighbours, to count as seen there
_LIKE = 50  # genes of like expression that one is replaced from
_BLOCK = 2**24  # numbers in memory at a time
_NAMED = 5  # genes in a message


class Present(NamedTuple):
    """Markers that the data have."""

    types: list[str]
    """Names of the t types with enough markers."""
    genes: list[np.ndarray]
    """For each, columns of its markers."""
    n_markers: dict[str, int]
    """Markers found of every type."""


class Evidence(NamedTuple):
    """Scores, and what random genes say of them."""

    scores: np.ndarray
    """[k, t] in standard deviations, 0 being the mean of all cells."""
    pvals: np.ndarray
    """[k, t] share of draws of random genes that reach as much, not corrected."""
    n_seen: np.ndarray
    """[k, t] markers that are seen in 5 % of the cells."""


class Choice(NamedTuple):
    """The best type of each group or cell."""

    best: np.ndarray
    """[k] position of the type."""
    second: np.ndarray
    """[k] position of the next, first of those with evidence; -1 without one."""
    margin: np.ndarray
    """[k] lead on the next, NaN without one; below 0 if the next has no evidence."""
    enough: np.ndarray
    """[k] whether there is evidence: markers are seen, and score above random genes."""
    tied: np.ndarray
    """[k] whether the margin is too small to tell the two apart."""


class Standard(NamedTuple):
    """Logarithmic expression, and what makes it comparable between genes."""

    logged: sp.csr_matrix
    """[n, g] logarithmic expression."""
    mean: np.ndarray
    """[g] over all cells."""
    deviation: np.ndarray
    """[g] over all cells; 1 where a gene does not vary."""


def find(
    markers: Mapping[str, Sequence[str]],
    names: Sequence[str],
    n_cells: np.ndarray,
    *,
    min_markers: int,
) -> Present:
    """Find markers among genes: by name, else whatever the case and Ensembl version.

    Parameters
    ----------
    markers
        Genes of each type.
    names
        [g] names of the genes.
    n_cells
        [g] cells that each gene is seen in; a gene seen in fewer than three does not count.
    min_markers
        Markers that a type must have at least.

    Raises
    ------
    ValueError
        If no type has as many.
    """
    wanted = list(dict.fromkeys(gene for genes in markers.values() for gene in genes))
    # lists may spell a gene differently: of each spelling that the data lack, one is looked for
    exact, one_of = set(names), {plain(gene): gene for gene in reversed(wanted)}
    spelled = {gene: gene if gene in exact else one_of[plain(gene)] for gene in wanted}
    searched = list(dict.fromkeys(spelled.values()))
    place: dict[str, int] = {}
    for i, position in enumerate(align(list(names), searched)):
        if position >= 0 and n_cells[i] >= _SEEN_IN:
            place.setdefault(searched[position], i)
    column = {gene: place[other] for gene, other in spelled.items() if other in place}
    if not column:
        msg = (
            f"Expected marker genes among those seen in at least {_SEEN_IN} cells, found none of "
            f"{len(wanted)}, for example {', '.join(wanted[:_NAMED])}; here genes are named like "
            f"{', '.join(list(names)[:_NAMED])}. Names of the same kind are needed in `var_names`."
        )
        raise ValueError(msg)
    genes = {
        kind: np.array(sorted({column[gene] for gene in own if gene in column}), int)
        for kind, own in markers.items()
    }
    types = [kind for kind, own in genes.items() if len(own) >= min_markers]
    if not types:
        most = max(map(len, genes.values()))
        msg = (
            f"Expected a type with at least {min_markers} markers among the genes, found at most "
            f"{most}; lower `min_markers`, or use data of more genes."
        )
        raise ValueError(msg)
    counts = {kind: len(own) for kind, own in genes.items()}
    return Present(types, [genes[kind] for kind in types], counts)


def standard(logged: sp.csr_matrix) -> Standard:
    """Return means and standard deviations of genes beside their values [n, g]."""
    mean = np.asarray(logged.mean(axis=0)).ravel()
    square = np.asarray(logged.multiply(logged).mean(axis=0)).ravel()
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    deviation[deviation < 1e-12] = 1
    return Standard(logged, mean, deviation)


def of_groups(
    data: Standard, codes: np.ndarray, n_groups: int, present: Present, *, n_draws: int, seed: int
) -> Evidence:
    """Score groups of cells.

    Parameters
    ----------
    data
        Expression.
    codes
        [n] group of each cell, -1 for none.
    n_groups
        k, of which none is empty.
    present
        Markers.
    n_draws
        Draws of random genes.
    seed
        Of these.
    """
    means = (group_means(data.logged, codes, n_groups) - data.mean) / data.deviation
    scores = np.column_stack([means[:, own].mean(axis=1) for own in present.genes])
    reached = np.zeros_like(scores)
    like = _like(data.mean, present)
    rng = np.random.default_rng(seed)
    for i, own in enumerate(present.genes):
        step = max(1, _BLOCK // (n_groups * len(own)))
        for start in range(0, n_draws, step):
            drawn = _draw(like, own, min(step, n_draws - start), rng)
            random = means[:, drawn].mean(axis=2)
            reached[:, i] += (random >= scores[:, [i]]).sum(axis=1)
    shares = group_means(_seen(data.logged), codes, n_groups)
    n_seen = [(shares[:, own] >= _SEEN_SHARE).sum(axis=1) for own in present.genes]
    return Evidence(scores, (1 + reached) / (1 + n_draws), np.column_stack(n_seen))


def of_cells(
    data: Standard, neighbors: np.ndarray | None, present: Present, *, n_draws: int, seed: int
) -> Evidence:
    """Score cells, each by the mean of itself and its neighbours.

    Parameters
    ----------
    data
        Expression.
    neighbors
        [n, k] rows of the nearest cells; None scores each cell by itself.
    present
        Markers.
    n_draws
        Draws of random genes.
    seed
        Of these.
    """
    columns = sp.csc_matrix(data.logged)

    def score(genes: Sequence[np.ndarray]) -> np.ndarray:
        made = np.empty((columns.shape[0], len(genes)), np.float32)
        for i, own in enumerate(genes):
            weight = 1 / (len(own) * data.deviation[own])
            made[:, i] = columns[:, own] @ weight - data.mean[own] @ weight
        return made if neighbors is None else _smooth(made, neighbors)

    scores = score(present.genes)
    reached = np.zeros(scores.shape, np.int32)
    like = _like(data.mean, present)
    rng = np.random.default_rng(seed)
    for _ in range(n_draws):
        reached += score([_draw(like, own, 1, rng)[0] for own in present.genes]) >= scores
    seen = _seen(columns)
    n_seen = np.empty(scores.shape, np.int32)
    for i, own in enumerate(present.genes):
        shares = seen[:, own].toarray()
        shares = shares if neighbors is None else _smooth(shares, neighbors)
        n_seen[:, i] = (shares >= _SEEN_SHARE).sum(axis=1)
    return Evidence(scores, (1 + reached) / (1 + n_draws), n_seen)


def choose(
    evidence: Evidence, *, n_draws: int, min_markers: int, alpha: float, min_margin: float
) -> Choice:
    """Choose the type of best score among those with markers and above random genes.

    Parameters
    ----------
    evidence
        Scores [k, t].
    n_draws
        How many draws they were held against.
    min_markers
        Markers that must be seen.
    alpha
        Probability that a group gets any type by chance (Bonferroni's correction for t types; for
        more types than the draws can tell, no draw may reach the score).
    min_margin
        Less is a tie.
    """
    scores, pvals, n_seen = evidence
    enough = pvals <= max(alpha / scores.shape[1], 1 / (1 + n_draws))
    enough &= n_seen >= min_markers
    # Types without evidence come after all others.
    order = np.lexsort((-scores, ~enough), axis=1)
    rows = np.arange(len(scores))
    best = order[:, 0]
    if scores.shape[1] == 1:
        second, margin = np.full(len(scores), -1), np.full(len(scores), np.nan)
        return Choice(best, second, margin, enough[rows, best], np.zeros(len(scores), bool))
    second = order[:, 1]
    margin = scores[rows, best] - scores[rows, second]
    tied = enough[rows, second] & (margin < min_margin)
    return Choice(best, second, margin, enough[rows, best], tied)


def _seen(values: sp.spmatrix) -> sp.spmatrix:
    """Return 1 where there is a value."""
    made = values.copy()
    made.data = (made.data > 0).astype(np.float32)
    return made


def _like(mean: np.ndarray, present: Present) -> dict[int, np.ndarray]:
    """Return for each marker the genes of like mean expression that mark nothing."""
    marked = np.unique(np.concatenate(present.genes))
    free = np.setdiff1d(np.flatnonzero(mean > 0), marked)
    if not free.size:
        msg = "Expected genes that mark no type to compare with, found only markers."
        raise ValueError(msg)
    free = free[np.argsort(mean[free], kind="stable")]
    n = min(_LIKE, len(free))
    places = np.searchsorted(mean[free], mean[marked])
    starts = np.clip(places - n // 2, 0, len(free) - n)
    return {int(gene): free[start : start + n] for gene, start in zip(marked, starts, strict=True)}


def _draw(
    like: dict[int, np.ndarray], own: np.ndarray, n_draws: int, rng: np.random.Generator
) -> np.ndarray:
    """Return [n_draws, m] genes in place of m markers."""
    return np.column_stack([rng.choice(like[int(gene)], n_draws) for gene in own])


def _smooth(values: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """Return the mean of each row [n, t] and its neighbours' rows."""
    n, k = neighbors.shape
    rows = np.repeat(np.arange(n), k)
    links = sp.csr_matrix((np.ones(n * k, np.float32), (rows, neighbors.ravel())), shape=(n, n))
    return (links @ values + values) / np.float32(k + 1)
