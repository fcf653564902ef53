"""Tests of genes, held against scipy's tests of one gene at a time, dense."""

import numpy as np
import pytest
from scipy import sparse, stats

from scsiameseclu_jax.tl import gene_tests as module
from scsiameseclu_jax.tl.gene_tests import gene_tests

SIZES = (40, 25, 5, 2)


@pytest.fixture(scope="module")
def cells():
    """Values with many ties and zeros, a gene without any, one that all cells share, and groups."""
    rng = np.random.default_rng(0)
    dense = np.log1p(rng.poisson(rng.gamma(1, 1, 30), (sum(SIZES), 30)) / 2.0)
    dense[:, 3], dense[:, 4] = 0, np.log(2)
    dense[:, 5] += rng.random(len(dense))  # no zeros, no ties
    codes = rng.permutation(np.repeat(np.arange(len(SIZES)), SIZES))
    return dense, codes


def found(cells, method):
    dense, codes = cells
    return gene_tests(sparse.csr_matrix(dense.astype(np.float32)), codes, len(SIZES), method)


def parts(cells):
    """Of each group and gene, the values in it and out of it, in the precision that they have."""
    dense, codes = cells
    for i in range(len(SIZES)):
        for j, values in enumerate(dense.T.astype(np.float32).astype(float)):
            yield i, j, values[codes == i], values[codes != i]


@pytest.mark.parametrize("at_once", [2**24, 100, 1])
def test_rank_sums_are_those_of_scipy(cells, at_once, monkeypatch):
    monkeypatch.setattr(module, "_VALUES", at_once)
    tests = found(cells, "wilcoxon")
    for i, j, inside, outside in parts(cells):
        if np.ptp(np.r_[inside, outside]) == 0:
            assert (tests.scores[i, j], tests.pvals[i, j]) == (0, 1)
            continue
        wanted = stats.mannwhitneyu(inside, outside, use_continuity=False, method="asymptotic")
        assert tests.pvals[i, j] == pytest.approx(wanted.pvalue, rel=1e-9)
        more = wanted.statistic > len(inside) * len(outside) / 2
        assert (tests.scores[i, j] > 0) == more
        assert abs(tests.scores[i, j]) == pytest.approx(stats.norm.isf(wanted.pvalue / 2), rel=1e-6)


@pytest.mark.parametrize("method", ["t-test", "t-test_overestim_var"])
def test_t_tests_are_those_of_scipy(cells, method):
    tests = found(cells, method)
    for i, j, inside, outside in parts(cells):
        if np.ptp(np.r_[inside, outside]) == 0:
            assert (tests.scores[i, j], tests.pvals[i, j]) == (0, 1)
            continue
        n = len(outside) if method == "t-test" else len(inside)
        spread = (values.std(ddof=1) for values in (inside, outside))
        own, others = zip((inside.mean(), outside.mean()), spread, (len(inside), n), strict=True)
        wanted = stats.ttest_ind_from_stats(*own, *others, equal_var=False)
        assert tests.scores[i, j] == pytest.approx(wanted.statistic, rel=1e-6)
        assert tests.pvals[i, j] == pytest.approx(wanted.pvalue, rel=1e-6)


def test_shares_changes_and_correction(cells):
    tests = found(cells, "wilcoxon")
    for i, j, inside, outside in parts(cells):
        assert tests.share_in[i, j] == pytest.approx((inside > 0).mean())
        assert tests.share_out[i, j] == pytest.approx((outside > 0).mean())
        means = [np.expm1(values.mean()) + 1e-9 for values in (inside, outside)]
        assert tests.logfoldchanges[i, j] == pytest.approx(np.log2(means[0] / means[1]), abs=1e-9)
    for pvals, adjusted in zip(tests.pvals, tests.pvals_adj, strict=True):
        order = np.argsort(pvals)
        steps = pvals[order] * len(pvals) / np.arange(1, len(pvals) + 1)
        wanted = np.minimum.accumulate(steps[::-1])[::-1]
        np.testing.assert_allclose(adjusted[order], np.minimum(wanted, 1), rtol=1e-12)
