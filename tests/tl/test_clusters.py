"""tl.siameseclu and tl.add_clusters: what is checked, and what is not checked twice."""

import pytest

import scsiameseclu_jax as scs
from tests.cli.test_cli import FIT, trained


@pytest.fixture
def adata(monkeypatch):
    monkeypatch.setattr(FIT, trained)
    return scs.datasets.simulate(n_cells=60, n_genes=40, n_clusters=3)


def test_counts_of_its_own_argument_are_not_hashed_again(adata, monkeypatch):
    def identify(*_, **__):
        raise AssertionError

    monkeypatch.setattr("scsiameseclu_jax.manifest.identify", identify)
    scs.tl.siameseclu(adata, 3)
    assert adata.obs["siameseclu"].nunique() == 3
    with pytest.raises(AssertionError):  # a model from elsewhere is checked
        scs.tl.add_clusters(adata, trained(scs.SiameseClu(3), adata))


def test_other_cells_than_those_of_the_model_are_refused(adata):
    model = trained(scs.SiameseClu(3), adata)
    with pytest.raises(ValueError, match="the 60 cells that the model was fitted to, found 50"):
        scs.tl.add_clusters(adata[:50].copy(), model)
    assert "siameseclu" not in adata.obs
