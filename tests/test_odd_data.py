"""Data that are legal and odd: a whole fit, without a warning, and what must hold of it."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import scsiameseclu_jax as scs
from scsiameseclu_jax.datasets import simulate

FAST = scs.Config.fast()


def types(sizes, n_genes=300, seed=0):
    """Draw cells of types of given sizes, each with genes of its own."""
    rng = np.random.default_rng(seed)
    member = np.repeat(np.arange(len(sizes)), sizes)
    rates = rng.gamma(0.5, 1, n_genes)[None] * np.exp(rng.normal(0, 1.2, (len(sizes), n_genes)))
    counts = rng.poisson(4 * rates[member] * rng.gamma(10, 0.1, (len(member), 1)))
    return ad.AnnData(sp.csr_matrix(counts.astype(np.float32))), member


def fitted(adata, k, **options):
    model = scs.SiameseClu(k, config=FAST).fit(adata, progress=False, **options)
    check(model, adata.n_obs, k)
    return model


def check(model, n, k):
    assert model.labels.shape == (n,)
    assert len(np.unique(model.labels)) == k
    np.testing.assert_allclose(model.proba.sum(axis=1), 1, rtol=1e-5)
    assert np.isfinite(model.get_latent_representation()).all()
    assert ((model.confidence >= 0) & (model.confidence <= 1)).all()


def test_cells_may_be_in_any_form():
    """One program for all: the values are the same, so is the result."""
    adata, _ = types([60, 50, 40])
    dense = adata.X.toarray()
    expected = fitted(adata, 3).labels
    for x in (
        dense.astype(np.int64),
        dense.astype(np.float64),
        np.asfortranarray(dense.astype(np.uint16)),
        sp.csc_matrix(dense),
        sp.csr_array(dense.astype(np.int32)),
        sp.csc_array(dense),
    ):
        np.testing.assert_array_equal(fitted(ad.AnnData(x), 3).labels, expected)
    whole = ad.concat([adata, adata[:20]], index_unique="-")
    view = whole[:150][np.arange(150)]
    np.testing.assert_array_equal(fitted(view, 3).labels, expected)


@pytest.mark.parametrize(
    ("sizes", "k"),
    [
        pytest.param([6, 6], 2, id="12"),
        pytest.param([20, 17, 13], 3, id="50", marks=pytest.mark.slow),
    ],
)
def test_few_cells(sizes, k):
    adata, member = types(sizes)
    config = scs.Config.from_dict(FAST.to_dict() | {"network": {"n_latent": 5}})
    model = scs.SiameseClu(k, config=config).fit(adata, progress=False)
    check(model, len(member), k)
    assert scs.metrics.scores(member, model.labels)["ARI"] > 0.8


@pytest.mark.slow
def test_duplicate_cells_and_graphs_of_parts():
    adata, member = types([50, 50], seed=1)
    adata = ad.concat([adata, adata, adata], index_unique="-")
    model = fitted(adata, 2)
    assert scs.metrics.scores(np.tile(member, 3), model.labels)["ARI"] > 0.95
    # twins are in one cluster
    assert (model.labels[:100] == model.labels[100:200]).mean() > 0.95


def test_a_graph_with_a_cell_that_has_no_neighbour():
    adata, member = types([60, 60])
    links = np.zeros((120, 120))
    for part in (np.arange(60), np.arange(60, 119)):
        for i, cell in enumerate(part):
            links[cell, part[(i + np.arange(1, 8)) % len(part)]] = 1
    adata.obsp["connectivities"] = sp.csr_matrix(np.maximum(links, links.T))
    adata.obsp["distances"] = adata.obsp["connectivities"].copy()
    adata.uns["neighbors"] = {
        "connectivities_key": "connectivities",
        "distances_key": "distances",
        "params": {"n_neighbors": 8, "method": "umap"},
    }
    model = fitted(adata, 2, neighbors_key="neighbors")
    assert scs.metrics.scores(member, model.labels)["ARI"] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "n_genes", "k"),
    [
        ([30] * 60, 600, 60),
        ([40, 30, 30], 30_000, 3),
        ([990, 10], 300, 2),
        ([200, 150, 3], 300, 3),
    ],
    ids=["60 clusters", "100 x 30,000", "99 % of one type", "a type of three"],
)
def test_sizes_that_are_odd(sizes, n_genes, k):
    adata, _ = types(sizes, n_genes)
    fitted(adata, k)


@pytest.mark.slow
def test_order_of_cells_does_not_matter():
    adata = simulate(n_cells=500, n_genes=200, n_clusters=4, rng=0)
    order = np.random.default_rng(0).permutation(500)
    one, other = (fitted(cells, 4).labels for cells in (adata, adata[order].copy()))
    assert scs.metrics.scores(one[order], other)["ARI"] == 1
