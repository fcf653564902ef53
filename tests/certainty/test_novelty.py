"""How surprising the cells of a fit are: odd depths, few cells, few components."""

import numpy as np
import pytest

import scsiameseclu_jax as scs
from scsiameseclu_jax.certainty import novelty
from scsiameseclu_jax.preprocessing.prepare import prepare


def surprise_of(adata, n_latent):
    config = scs.Config.from_dict({"network": {"n_latent": n_latent}})
    made = prepare(adata, config=config)
    neighbors = made.senders.reshape(len(made.order), -1)
    clusters = np.arange(len(made.order)) % 2
    args = made.features, made.counts, made.size_factors, neighbors, clusters
    return novelty.fit_novelty(*args, projection=made.preprocessor.projection, scale=True)


def test_cells_of_one_depth():
    cells = scs.datasets.simulate(n_cells=300, n_genes=60, n_clusters=2, rng=0)
    dense = cells.X.toarray()
    dense[:, 0] += dense.sum(axis=1).max() - dense.sum(axis=1)
    cells.X = dense
    found = surprise_of(cells, 20)
    np.testing.assert_array_equal(found.depth[:, :2], 0)
    assert np.isfinite(found.measured).all() and np.isfinite(found.depth).all()


def test_nearly_as_many_clusters_as_cells():
    adata = scs.datasets.simulate(n_cells=25, n_genes=100, n_clusters=3, rng=0)
    scs.tl.siameseclu(adata, 24, progress=False)
    assert adata.obs["siameseclu"].nunique() == 24


@pytest.mark.parametrize("n_cells", [4, 5, 9, 11])
def test_very_few_cells(n_cells):
    found = surprise_of(
        scs.datasets.simulate(n_cells=n_cells, n_genes=60, n_clusters=2, rng=0), n_latent=2
    )
    assert np.isfinite(found.measured).all() and found.measured.shape[1] == n_cells


def test_columns_of_zeros_are_no_components():
    """A latent wider than the components pads the features; folds must not find more."""
    cells = scs.datasets.simulate(n_cells=300, n_genes=60, n_clusters=2, rng=0)
    config = scs.Config.from_dict(
        {"preprocessing": {"n_components": 10}, "network": {"n_latent": 30}}
    )
    made = prepare(cells, config=config)
    assert made.features.shape[1] == 30
    neighbors = made.senders.reshape(len(made.order), -1)
    found = [
        novelty.fit_novelty(
            x,
            made.counts,
            made.size_factors,
            neighbors,
            np.arange(300) % 2,
            projection=made.preprocessor.projection,
            scale=True,
        )
        for x in (made.features, made.features[:, :10])
    ]
    np.testing.assert_allclose(found[0].measured, found[1].measured, rtol=1e-4, atol=1e-4)


def test_cells_of_the_fit_are_not_novel_nor_make_others_so():
    """Components fitted to noise spread the cells of the fit out further than any new ones."""
    adata = scs.datasets.simulate(n_cells=700, n_genes=1000, n_clusters=3, rng=0)
    model = scs.SiameseClu(3, config=scs.Config.fast()).fit(adata[:400].copy(), progress=False)
    known, new = (model.predict(part.copy()).novelty for part in (adata[:200], adata[400:]))
    both = model.predict(adata[200:].copy()).novelty
    assert not known.any() and not both[:200].any()
    assert 0 < np.mean(new > 0.95) < 0.2
    assert np.mean(both[200:] > 0.95) <= np.mean(new > 0.95)
