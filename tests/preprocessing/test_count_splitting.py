"""Counts in two parts: that they are what they should be, and that they help."""

import logging

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse
from scipy.stats import kstest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

import scsiameseclu_jax as scs


def noise(n_cells=500, n_genes=150, seed=2):
    """Cells of one type, Poisson counts."""
    rng = np.random.default_rng(seed)
    means = rng.gamma(2, 1.5, n_genes)
    return AnnData(sparse.csr_matrix(rng.poisson(means, (n_cells, n_genes)).astype(np.float32)))


def halves(counts):
    """Cut cells in two where there is nothing to cut."""
    dense = counts.toarray().astype(float)
    logged = np.log1p(dense / dense.sum(axis=1, keepdims=True) * dense.sum(axis=1).mean())
    components = PCA(5, random_state=0).fit_transform(logged)
    return KMeans(2, n_init=3, random_state=0).fit_predict(components).astype(str)


def test_p_values_of_noise_are_far_too_small_but_for_a_split():
    adata = noise()
    scs.pp.split_counts(adata)
    adata.obs["same"] = halves(adata.X)
    adata.obs["fit"] = halves(adata.layers["counts_fit"])
    scs.tl.markers(adata, "same", clustered="X")
    scs.tl.markers(adata, "fit", layer="counts_test", clustered="counts_fit")
    same, split = (adata.uns[f"{key}_markers"]["pvals"]["0"] for key in ("same", "fit"))
    assert (same < 0.05).mean() > 0.3
    assert same.min() < 1e-6
    assert (split < 0.05).mean() < 0.1
    assert split.min() > 1e-5
    assert kstest(same, "uniform").pvalue < 1e-6
    assert kstest(split, "uniform").pvalue > 0.01


def test_parts_sum_to_the_counts_in_their_share_and_do_not_correlate():
    adata = noise()
    scs.pp.split_counts(adata, share=0.3)
    fit, test = adata.layers["counts_fit"], adata.layers["counts_test"]
    assert ((fit + test) != adata.X).nnz == 0
    assert fit.sum() / adata.X.sum() == pytest.approx(0.3, abs=0.005)
    assert all(sparse.issparse(part) and part.min() == 0 for part in (fit, test))
    pairs = zip(fit.toarray().T, test.toarray().T, strict=True)
    assert abs(np.mean([np.corrcoef(pair)[0, 1] for pair in pairs])) < 0.01
    assert adata.uns["counts_split"] == {"layer": "X", "share": 0.3, "seed": 0}


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, np.float64])
def test_types_layers_views_and_copies(dtype):
    whole = noise(40, 20)
    whole.X = whole.X.toarray().astype(dtype)
    view = whole[:30]
    made = scs.pp.split_counts(view, copy=True)
    assert view.is_view
    assert "counts_fit" not in whole.layers
    assert scs.pp.split_counts(view) is None
    assert not view.is_view
    layered = view.copy()
    layered.layers["counts"], layered.X = layered.X.copy(), np.log1p(layered.X.astype(float))
    scs.pp.split_counts(layered)
    for adata in (made, layered):
        for name in ("counts_fit", "counts_test"):
            assert adata.layers[name].dtype == dtype
            assert (adata.layers[name] != view.layers[name]).nnz == 0
    assert layered.uns["counts_split"]["layer"] == "counts"


def test_the_seed_decides():
    parts = []
    for rng in (0, 0, 1, np.random.default_rng(1)):
        adata = noise(30, 20)
        scs.pp.split_counts(adata, rng=rng)
        parts.append(adata.layers["counts_fit"].toarray())
    np.testing.assert_array_equal(parts[0], parts[1])
    assert (parts[0] != parts[2]).any()
    assert (parts[2] != parts[3]).any()


def test_a_split_that_replaces_another_says_so(caplog):
    adata = noise(30, 20)
    with caplog.at_level(logging.WARNING, "scsiameseclu_jax"):
        scs.pp.split_counts(adata)
        scs.pp.split_counts(adata)
        assert not caplog.text
        scs.pp.split_counts(adata, rng=1)
    assert "not independent" in caplog.text


def test_cells_that_lose_all_counts_are_named(caplog):
    adata = noise(30, 20)
    counts = adata.X.toarray()
    counts[0] = np.arange(20) == 0
    adata.X = counts
    with caplog.at_level(logging.WARNING, "scsiameseclu_jax"):
        scs.pp.split_counts(adata)
    assert "1 cells have no counts" in caplog.text


def test_bad_input():
    adata = noise(30, 20)
    for share in (0, 1, -0.1, np.nan):
        with pytest.raises(ValueError, match="share"):
            scs.pp.split_counts(adata, share=share)
    with pytest.raises(ValueError, match="rng"):
        scs.pp.split_counts(adata, rng=-1)
    adata.X = adata.X.log1p()
    with pytest.raises(ValueError, match="log-normalised"):
        scs.pp.split_counts(adata)
