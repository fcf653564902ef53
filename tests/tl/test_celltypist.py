"""CellTypist on our clusters: what it is given, and how its answer is stored."""

import sys
from types import ModuleType, SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scsiameseclu_jax as scs

TYPES = ["B", "NK", "T"]
# Per cell: probabilities of the types. The votes of cluster 0 are T, T, B; of cluster 1, NK and B.
PROBA = np.array(
    [[0.1, 0.2, 0.7], [0.2, 0.1, 0.6], [0.8, 0.3, 0.4], [0.1, 0.9, 0.3], [0.5, 0.4, 0.1]]
)


@pytest.fixture
def given(monkeypatch):
    """Stand in for CellTypist, and keep what it was given."""
    kept = {}

    def annotate(filename, *, model, majority_voting, over_clustering, min_prop):
        kept.update(cells=filename, model=model, clusters=over_clustering, voting=majority_voting)
        alone = np.array(TYPES)[PROBA.argmax(axis=1)]
        votes = pd.crosstab(alone, over_clustering)
        majority = votes.idxmax(axis=0).astype(str)
        majority[votes.max(axis=0) / votes.sum(axis=0) < min_prop] = "Heterogeneous"
        labels = {
            "predicted_labels": alone,
            "majority_voting": majority[over_clustering].to_numpy(),
        }
        return SimpleNamespace(
            predicted_labels=pd.DataFrame(labels, index=filename.obs_names, dtype="category"),
            probability_matrix=pd.DataFrame(PROBA, index=filename.obs_names, columns=TYPES),
        )

    module = ModuleType("celltypist")
    module.annotate = annotate
    monkeypatch.setitem(sys.modules, "celltypist", module)
    return kept


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    made = ad.AnnData(np.full((5, 4), 0.5, np.float32))  # X is something else
    made.layers["counts"] = sparse.csr_matrix(rng.poisson(3, (5, 4)) + 1)
    made.obs["siameseclu"] = pd.Categorical(list("00011"))
    return made


def test_it_is_given_log_counts_of_ten_thousand_and_our_clusters(given, adata):
    before = adata.copy()
    scs.tl.celltypist(adata, "Immune_All_Low.pkl")
    np.testing.assert_allclose(np.expm1(given["cells"].X.toarray()).sum(axis=1), 1e4, rtol=1e-5)
    assert list(given["cells"].var_names) == list(adata.var_names)
    assert given["cells"].raw is None
    assert list(given["clusters"]) == list("00011")
    assert given["voting"] is True and given["model"] == "Immune_All_Low.pkl"
    np.testing.assert_array_equal(adata.X, before.X)
    assert (adata.layers["counts"] != before.layers["counts"]).nnz == 0


def test_its_answer_gets_our_names(given, adata):
    adata.uns["celltypist_colors"] = ["red"]
    scs.tl.celltypist(adata, SimpleNamespace())
    obs = adata.obs
    assert list(obs["celltypist"]) == ["T", "T", "T", "B", "B"]
    assert list(obs["celltypist_cell"]) == ["T", "T", "B", "NK", "B"]
    np.testing.assert_allclose(obs["celltypist_confidence"], [0.7, 0.6, 0.4, 0.1, 0.5])
    assert list(obs["celltypist_second"]) == ["NK", "B", "B", "NK", "NK"]
    assert obs["celltypist_confidence"].dtype == np.float32
    assert adata.uns["celltypist"]["params"]["model"] == "given"
    assert "celltypist_colors" not in adata.uns


def test_mixed_clusters_and_unsure_cells_are_unassigned(given, adata):
    scs.tl.celltypist(adata, "model.pkl", min_prop=0.6, key_added="type")
    assert list(adata.obs["type"]) == ["T"] * 3 + ["Unassigned"] * 2
    np.testing.assert_allclose(adata.obs["type_confidence"], [0.7, 0.6, 0.4, 0.9, 0.5])
    scs.tl.celltypist(adata, "model.pkl", min_confidence=0.6)
    assert list(adata.obs["celltypist"]) == ["T", "T"] + ["Unassigned"] * 3


def test_views_copies_and_files(given, adata, tmp_path):
    view = adata[:]
    copy = scs.tl.celltypist(view, "model.pkl", copy=True)
    assert "celltypist" not in adata.obs
    copy.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    assert list(again.obs["celltypist"]) == list(copy.obs["celltypist"])
    assert again.uns["celltypist"]["params"]["min_prop"] == 0


def test_not_installed(monkeypatch, adata):
    monkeypatch.setitem(sys.modules, "celltypist", None)
    with pytest.raises(ImportError, match="run `pip install celltypist`"):
        scs.tl.celltypist(adata, "model.pkl")
    assert list(adata.obs) == ["siameseclu"]


@pytest.mark.parametrize(
    ("options", "error", "wanted"),
    [
        ({"groupby": "none"}, KeyError, "`groupby` to be a column of obs"),
        (
            {"groupby": "part"},
            ValueError,
            r"cluster for every cell in obs.'part'., found 1 without",
        ),
        ({"layer": None}, ValueError, "whole counts in X, found fractions"),
        ({"min_prop": 2}, ValueError, "min_prop"),
        ({"min_confidence": 2}, ValueError, "min_confidence"),
        ({"key_added": "a/b"}, ValueError, "key_added"),
    ],
)
def test_bad_input(given, adata, options, error, wanted):
    adata.obs["part"] = pd.Categorical(["0", "0", "1", "1", None])
    with pytest.raises(error, match=wanted):
        scs.tl.celltypist(adata, "model.pkl", **options)
    assert not given
