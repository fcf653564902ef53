"""Is a cell like those of the fit? Measures of surprise, made comparable and pooled.

How far apart a cell is from its neighbours, beside how far apart those are from theirs; how far it
lies outside every cluster; and how badly the expression of the nearest group predicts its counts.
Each becomes the share of the fit's own cells that are as surprising, and they are combined as
Fisher combines p-values. A type that the fit has not seen comes with many cells, each of which may
be a little odd only. So similar new cells are pooled, twice: their counts are averaged and compared
with the nearest group's, which makes a fourth measure, and what is combined is averaged.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from scsiameseclu_jax.preprocessing.blocks import Selected
from scsiameseclu_jax.preprocessing.neighbors import nearest_in, nearest_neighbors, unit_rows
from scsiameseclu_jax.preprocessing.normalization import Projection, components, logarithm, project

_GROUPS = 100
_GROUP_CELLS = 20  # at least, on average
_CELLS = 10_000  # of the fit that say how surprising its own are
_FOLDS = 5
_ENOUGH = 1000  # cells left out, after which no further fold is
_POOL = 10  # similar cells that share their surprise
_POOLED_CELLS = 50  # fewer new cells are judged one by one
_SHRINK = 50  # cells' worth of the common covariance in that of a cluster
_ALIKE = 1e-3  # of logarithms of size factors, that no curve could be drawn through
_PRIOR = 1e-3  # counts that any gene may have
_SAME = 1e-3  # of the distance to neighbours: nearer than that a cell is one of the fit
_BLOCK = 5000  # rows of expected counts at a time


class Novelty(NamedTuple):
    """What the cells of a fit are like."""

    groups: np.ndarray
    """[c, p] centres of small groups of cells, rows of length 1."""
    profiles: np.ndarray
    """[c, g] expected counts of each group's cells at size factor 1."""
    means: np.ndarray
    """[k, p] mean of each cluster that has cells."""
    precisions: np.ndarray
    """[k, p, p] inverse of each cluster's covariance."""
    spread: np.ndarray
    """[n] mean distance of each cell to its neighbours."""
    depth: np.ndarray
    """[2, 3] polynomials of the deviance, of single and of averaged cells, in the logarithm of the
    size factor."""
    measured: np.ndarray
    """[4, s] each measure of cells that a fit of the others does not know, ascending; the last is
    of averaged cells."""
    alone: np.ndarray
    """[s] combined surprise of those cells, ascending."""
    pooled: np.ndarray
    """[s] the same with the last measure, averaged over similar cells."""


def fit_novelty(
    features: np.ndarray,
    counts: sp.csr_matrix | Selected,
    size_factors: np.ndarray,
    neighbors: np.ndarray,
    clusters: np.ndarray,
    *,
    projection: Projection | None,
    scale: bool,
) -> Novelty:
    """Describe the cells of a fit, and measure how surprising such cells are when they are new.

    For that, a fifth of the cells (of at most 10,000) at a time is left out and measured beside
    the others, principal components included: those of all cells fit each of them a little too
    well, so that no new cell would look as near.

    Parameters
    ----------
    features
        [n, p] features.
    counts
        [n, g] raw counts, in memory or on disk.
    size_factors
        [n] positive.
    neighbors
        [n, k] rows of the nearest other cells.
    clusters
        [n] cluster of each cell.
    projection
        That made the features of the fit, but for columns of zeros; None if they were given.
    scale
        Whether it is of scaled genes.
    """
    known = _describe(features, counts, size_factors, neighbors, clusters)
    some = np.random.default_rng(0).permutation(len(features))[:_CELLS]
    folds = min(_FOLDS, len(some))
    fold = np.arange(len(some)) % folds
    wanted = min(folds, -(-_ENOUGH * folds // len(some)))
    sample = np.sort(some)
    drawn = counts[sample]  # read once, where they are on disk
    measured, pools, depths = [], [], []
    for i in range(wanted):
        rest, out = np.sort(some[fold != i]), np.sort(some[fold == i])
        x, new = features[rest], features[out]
        counts_rest, counts_out = (drawn[np.searchsorted(sample, rows)] for rows in (rest, out))
        if projection is not None:
            logged = logarithm(counts_rest, size_factors[rest])
            most = min(projection.axes.shape[1], min(logged.shape) - 1)
            x, without = components(logged, most, scale=scale)
            new = project(logarithm(counts_out, size_factors[out]), without)
        near = nearest_neighbors(x, neighbors.shape[1])[0].reshape(len(x), -1)
        part = _describe(x, counts_rest, size_factors[rest], near, clusters[rest])
        links = nearest_in(x, new, neighbors.shape[1])
        pool = _similar(new)
        measured.append(_measure(part, x, new, counts_out, size_factors[out], links, pool))
        pools.append(pool)
        depths.append(_depths(size_factors[out], pool))
    every, deep = np.concatenate(measured, axis=1), np.concatenate(depths, axis=1)
    depth = np.array([_trend(deep[i], every[2 + i]) for i in range(2)])
    measured = [_same_depth(m, d, depth) for m, d in zip(measured, depths, strict=True)]
    known = known._replace(depth=depth, measured=np.sort(np.concatenate(measured, axis=1), axis=1))
    alone = np.concatenate([_combined(measures[:3], known) for measures in measured])
    pooled = [p @ _combined(measures, known) for p, measures in zip(pools, measured, strict=True)]
    return known._replace(alone=np.sort(alone), pooled=np.sort(np.concatenate(pooled)))


def novelty(
    fitted: Novelty,
    reference: np.ndarray,
    features: np.ndarray,
    counts: sp.csr_matrix,
    size_factors: np.ndarray,
    neighbors: np.ndarray,
    present: np.ndarray,
) -> np.ndarray:
    """Return the share [m] of the fit's cells that are less surprising than each new cell.

    From 50 new cells on, each is judged together with the 10 most similar new ones. Cells of the
    fit themselves get 0: components fitted to them spread them out further than any new cell.

    Parameters
    ----------
    fitted
        Of the cells of the fit.
    reference
        [n, p] features of the cells of the fit.
    features, counts, size_factors
        [m, p], [m, g] and [m] of the new cells.
    neighbors
        [m, k] rows of the nearest cells of the fit.
    present
        [g] genes that the new cells have. Deviances are of these.
    """
    if not present.all():
        fitted, counts = fitted._replace(profiles=fitted.profiles[:, present]), counts[:, present]
    pool = _similar(features) if len(features) >= _POOLED_CELLS else None
    measures = _measure(fitted, reference, features, counts, size_factors, neighbors, pool)
    measures = _same_depth(measures, _depths(size_factors, pool), fitted.depth)
    surprise, expected = (
        _combined(measures, fitted),
        fitted.alone if pool is None else fitted.pooled,
    )
    apart = _distances(features, reference, neighbors[:, :1])
    known = apart <= _SAME * fitted.spread[neighbors[:, 0]]
    surprise[known] = np.median(expected)
    if pool is not None:
        surprise = pool @ surprise
    return np.where(known, 0, np.searchsorted(expected, surprise) / len(expected))


def _describe(
    features: np.ndarray,
    counts: sp.csr_matrix | Selected,
    size_factors: np.ndarray,
    neighbors: np.ndarray,
    clusters: np.ndarray,
) -> Novelty:
    """Describe cells, without how surprising they are."""
    from sklearn.cluster import KMeans

    n = len(features)
    unit = unit_rows(features)
    wanted = max(1, min(_GROUPS, n // _GROUP_CELLS))
    some = np.sort(np.random.default_rng(0).permutation(n)[:_BLOCK])
    groups = KMeans(wanted, n_init=1, random_state=0).fit(unit[some])
    sums, sizes = _sums(counts, size_factors, groups.predict(unit), wanted)
    overall = _PRIOR + sums.sum(axis=0) / sizes.sum()  # weighs as one cell
    means, precisions = _gaussians(features, clusters)
    return Novelty(
        groups=groups.cluster_centers_,
        profiles=(sums + overall) / (sizes[:, None] + 1),
        means=means,
        precisions=precisions,
        spread=_distances(features, features, neighbors),
        depth=np.zeros((2, 3)),
        measured=np.zeros((4, 0)),
        alone=np.zeros(0),
        pooled=np.zeros(0),
    )


def _measure(
    fitted: Novelty,
    reference: np.ndarray,
    features: np.ndarray,
    counts: sp.csr_matrix,
    size_factors: np.ndarray,
    neighbors: np.ndarray,
    pool: sp.csr_matrix | None,
) -> np.ndarray:
    """Return the measures [3 or 4, m] of new cells, the deviances not yet adjusted for depth."""
    near = fitted.spread[neighbors].mean(axis=1)
    every = sp.identity(len(features), format="csr")
    measures = [
        _distances(features, reference, neighbors) / np.maximum(near, 1e-12),
        _outside(features, fitted.means, fitted.precisions),
        _misfit(fitted, features, counts, size_factors, every),
    ]
    if pool is not None:
        measures.append(_misfit(fitted, features, counts, size_factors, pool))
    return np.array(measures)


def _misfit(
    fitted: Novelty,
    features: np.ndarray,
    counts: sp.csr_matrix,
    size_factors: np.ndarray,
    pool: sp.csr_matrix,
) -> np.ndarray:
    """Return the deviance [m] of averages of counts, by weights [m, m], from the nearest group."""
    nearest = nearest_in(fitted.groups, np.asarray(pool @ features), 1)[:, 0]
    factors = pool @ size_factors
    deviance = np.empty(len(features))
    for start in range(0, len(features), _BLOCK):
        rows = slice(start, start + _BLOCK)
        expected = fitted.profiles[nearest[rows]] * factors[rows, None]
        deviance[rows] = _deviance(sp.csr_matrix(pool[rows] @ counts), expected)
    return deviance


def _depths(size_factors: np.ndarray, pool: sp.csr_matrix | None) -> np.ndarray:
    """Return the logarithm [1 or 2, m] of the size factor of single and of averaged cells."""
    factors = [size_factors] if pool is None else [size_factors, pool @ size_factors]
    return np.log(np.array(factors, np.float64))


def _trend(depths: np.ndarray, deviances: np.ndarray) -> np.ndarray:
    """Return the polynomial [3] of deviances [s] in depths [s]; constant if those are all alike."""
    if np.ptp(depths) < _ALIKE:
        return np.array([0.0, 0.0, deviances.mean()])
    return np.polyfit(depths, deviances, 2)


def _same_depth(measures: np.ndarray, depths: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return measures [3 or 4, m], the deviances beside what is usual at a cell's depth."""
    # cells judged one by one have no deviance of averaged cells
    usual = [np.polyval(one, d) for one, d in zip(depth, depths, strict=False)]
    return np.concatenate([measures[:2], measures[2:] - np.array(usual)])


def _sums(
    counts: sp.csr_matrix | Selected, size_factors: np.ndarray, member: np.ndarray, n_groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return counts [c, g] and size factors [c] of each group, added up."""
    ends = member, np.arange(len(member))
    where = sp.csr_matrix((np.ones(len(member)), ends), shape=(n_groups, len(member)))
    sizes = np.asarray(where @ size_factors)
    if isinstance(counts, Selected):
        return counts.sums(member, n_groups), sizes
    return (where @ counts.astype(np.float64)).toarray(), sizes


def _gaussians(features: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and inverse covariance of each cluster, drawn to what all have in common."""
    found, member = np.unique(clusters, return_inverse=True)
    x = np.asarray(features, np.float64)
    means = np.array([x[member == c].mean(axis=0) for c in range(len(found))])
    rest = x - means[member]
    # clusters of a cell each vary not at all
    spread = max(np.sum(rest**2), 1e-6 * np.sum((x - x.mean(axis=0)) ** 2))
    ridge = 1e-6 * spread / len(x) * np.eye(x.shape[1])
    common = rest.T @ rest / len(x) + ridge
    precisions = []
    for c in range(len(found)):
        own = rest[member == c]
        covariance = (own.T @ own + _SHRINK * common) / (len(own) + _SHRINK)
        precisions.append(np.linalg.inv(covariance))
    return means, np.array(precisions)


def _distances(x: np.ndarray, reference: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """Return the mean distance [m] of rows [m, p] to their neighbours [m, k]."""
    total = np.zeros(len(x))
    for column in neighbors.T:
        total += np.linalg.norm(x - reference[column], axis=1)
    return total / neighbors.shape[1]


def _outside(features: np.ndarray, means: np.ndarray, precisions: np.ndarray) -> np.ndarray:
    """Return the squared Mahalanobis distance [m] to the nearest cluster."""
    x = np.asarray(features, np.float64)
    least = np.full(len(x), np.inf)
    for mean, precision in zip(means, precisions, strict=True):
        apart = x - mean
        least = np.minimum(least, np.einsum("ij,ij->i", apart @ precision, apart))
    return least


def _deviance(counts: sp.csr_matrix, expected: np.ndarray) -> np.ndarray:
    """Return the logarithm [m] of the Poisson deviance of counts [m, g] from what is expected."""
    coo = counts.tocoo()
    x = coo.data.astype(np.float64)
    present = x * np.log(x / expected[coo.row, coo.col]) - x
    sums = np.bincount(coo.row, weights=present, minlength=counts.shape[0])
    return np.log(np.maximum(2 * (sums + expected.sum(axis=1)), 1e-6))


def _combined(measures: np.ndarray, fitted: Novelty) -> np.ndarray:
    """Return Fisher's statistic [m] of measures [3 or 4, m]."""
    size = fitted.measured.shape[1]
    # cells judged one by one have three measures, whatever the fit has
    shares = [
        1 - np.searchsorted(known, found) / (size + 1)
        for known, found in zip(fitted.measured, measures, strict=False)
    ]
    return -np.log(np.maximum(shares, 0.5 / (size + 1))).sum(axis=0)


def _similar(features: np.ndarray) -> sp.csr_matrix:
    """Return weights [m, m], rows of sum 1, of each cell and its most similar ones."""
    n = len(features)
    if n == 1:
        return sp.identity(1, format="csr")
    similar, cells = nearest_neighbors(features, _POOL)
    ends = np.r_[np.arange(n), cells], np.r_[np.arange(n), similar]
    share = 1 / (1 + len(similar) / n)
    return sp.csr_matrix((np.full(len(ends[0]), share), ends), shape=(n, n))
