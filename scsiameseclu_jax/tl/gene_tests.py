"""Tests of each gene in each group of cells against all other cells.

As scanpy's ``rank_genes_groups``, to rounding, but of sparse values as they are: zeros are neither
stored nor sorted, the ties of a gene are counted once, and nothing is compiled.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import scipy.sparse as sp

Method = Literal["wilcoxon", "t-test", "t-test_overestim_var"]

_VALUES = 2**24  # sorted at a time


class GeneTests(NamedTuple):
    """What tests say of each gene in each group; all are [k, g]."""

    scores: np.ndarray
    """z or t of the group's cells against all others; 0 where a gene does not vary."""
    pvals: np.ndarray
    """Of both sides, 0 to 1."""
    pvals_adj: np.ndarray
    """Corrected for the number of genes, by Benjamini and Hochberg."""
    logfoldchanges: np.ndarray
    """Base 2, of the means of normalised counts as means of their logarithms say."""
    share_in: np.ndarray
    """Share of the group's cells with the gene."""
    share_out: np.ndarray
    """Share of the others."""


def gene_tests(
    values: sp.csr_matrix, codes: np.ndarray, n_groups: int, method: Method
) -> GeneTests:
    """Test each gene in each group of cells against all other cells.

    Parameters
    ----------
    values
        [n, g] ``log(1 + x)`` of normalised counts, positive where stored.
    codes
        [n] group of each cell, 0 to k - 1.
    n_groups
        k, 2 or more, each of 2 cells or more.
    method
        ``"wilcoxon"`` is the rank-sum test by its normal approximation, corrected for ties;
        ``"t-test"`` is Welch's; ``"t-test_overestim_var"`` takes the others for as few as the
        group.

    References
    ----------
    Wilcoxon, F. (1945). Individual comparisons by ranking methods. Biometrics Bulletin 1, 80-83.

    Welch, B. L. (1947). The generalization of 'Student's' problem when several different population
    variances are involved. Biometrika 34, 28-35.

    Benjamini, Y. & Hochberg, Y. (1995). Controlling the false discovery rate. JRSS B 57, 289-300.
    """
    from scipy.stats import false_discovery_control, norm, ttest_ind_from_stats

    n = len(codes)
    members = sp.csr_matrix((np.ones(n), (codes, np.arange(n))), shape=(n_groups, n))
    columns = sp.csc_matrix(values)
    sizes = np.bincount(codes, minlength=n_groups)[:, None]

    def both(of_values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return means [k, g] of stored values, in each group and out of it."""
        sums = (members @ _with(columns, of_values)).toarray()
        return sums / sizes, (sums.sum(axis=0) - sums) / (n - sizes)

    share_in, share_out = both(np.ones_like(columns.data))
    mean_in, mean_out = both(columns.data)
    if method == "wilcoxon":
        scores = _rank_sums(columns, members, sizes)
        pvals = 2 * norm.sf(np.abs(scores))
    else:
        squares = both(columns.data.astype(np.float64) ** 2)
        counts = sizes, n - sizes
        spread = [
            np.sqrt(np.maximum(square - mean**2, 0) * m / (m - 1))
            for square, mean, m in zip(squares, (mean_in, mean_out), counts, strict=True)
        ]
        others = sizes if method == "t-test_overestim_var" else n - sizes
        with np.errstate(divide="ignore", invalid="ignore"):  # genes that do not vary
            scores, pvals = ttest_ind_from_stats(
                mean_in, spread[0], sizes, mean_out, spread[1], others, equal_var=False
            )
        scores, pvals = np.nan_to_num(scores, nan=0.0), np.nan_to_num(pvals, nan=1.0)
    changes = np.log2((np.expm1(mean_in) + 1e-9) / (np.expm1(mean_out) + 1e-9))
    adjusted = false_discovery_control(pvals, axis=1)
    return GeneTests(scores, pvals, adjusted, changes, share_in, share_out)


def _rank_sums(columns: sp.csc_matrix, members: sp.csr_matrix, sizes: np.ndarray) -> np.ndarray:
    """Return z [k, g] of the sums of ranks; 0 where all values of a gene are tied."""
    n, n_genes = columns.shape
    sums, tied = np.empty((len(sizes), n_genes)), np.empty(n_genes)
    starts = columns.indptr
    start = 0
    while start < n_genes:
        # As many genes as are sorted at once, one at least.
        end = max(int(np.searchsorted(starts, starts[start] + _VALUES, "right")) - 1, start + 1)
        part = columns[:, start:end]
        zeros = n - np.diff(part.indptr)
        ranks, tied[start:end] = _ranks(part, zeros)
        stored = (members @ _with(part, np.ones_like(part.data))).toarray()
        sums[:, start:end] = (members @ _with(part, ranks)).toarray()
        sums[:, start:end] += (sizes - stored) * (zeros + 1) / 2  # zeros share the lowest ranks
        start = end
    spread = np.sqrt((1 - tied / (n**3 - n)) * sizes * (n - sizes) * (n + 1) / 12)
    away = sums - sizes * (n + 1) / 2
    return np.divide(away, spread, out=np.zeros_like(away), where=spread > 0)


def _ranks(columns: sp.csc_matrix, zeros: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ranks of the stored values, the mean rank if tied, and by gene the sum of t^3 - t.

    They come after as many zeros [g], which are tied, too.
    """
    n_genes = columns.shape[1]
    genes = np.repeat(np.arange(n_genes), np.diff(columns.indptr))
    order = np.lexsort((columns.data, genes))  # within each gene: genes stay in their order
    sorted_ = columns.data[order]
    first = np.ones(len(order), bool)
    first[1:] = (sorted_[1:] != sorted_[:-1]) | (genes[1:] != genes[:-1])
    starts = np.flatnonzero(first)
    lengths = np.diff(starts, append=len(order))
    gene = genes[starts]
    mean_rank = zeros[gene] + starts - columns.indptr[gene] + (lengths + 1) / 2
    ranks = np.empty(len(order))
    ranks[order] = np.repeat(mean_rank, lengths)
    t = lengths.astype(np.float64)
    tied = np.bincount(gene, t**3 - t, minlength=n_genes)
    return ranks, tied + zeros.astype(np.float64) ** 3 - zeros


def _with(matrix: sp.csc_matrix, values: np.ndarray) -> sp.csc_matrix:
    """Return a matrix with other values at the same places."""
    return sp.csc_matrix((values, matrix.indices, matrix.indptr), shape=matrix.shape)
