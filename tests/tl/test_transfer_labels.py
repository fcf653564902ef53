"""tl.transfer_labels: types of new cells from a reference."""

import anndata as ad
import numpy as np
import pytest

import scsiameseclu_jax as scs
from benchmarks import real_data
from tests.labelled import Fitted, cells, without_fit

COLUMNS = [f"transferred{end}" for end in ("", "_confidence", "_second", "_novelty")]


@pytest.fixture
def together(monkeypatch):
    """A fit of all cells costs nothing; what it is given."""
    return without_fit(monkeypatch)


def pair(n_types=4):
    """A reference with types and new cells, of one kind."""
    adata = cells(400, n_types)
    old, new = adata[:250].copy(), adata[250:].copy()
    del new.obs["known"]
    return old, new


def accuracy(adata, key="transferred"):
    return (adata.obs[key].astype(str) == adata.obs["cell_type"]).mean()


def test_new_cells_get_types(together):
    old, new = pair()
    before, names = old.copy(), list(new.obs)
    scs.tl.transfer_labels(new, old, "cell_type")
    assert accuracy(new) > 0.9
    assert set(new.obs) - set(names) == {*COLUMNS, "transferred_is_novel"}
    assert new.obs["transferred_is_novel"].mean() < 0.2
    assert new.obs["transferred_confidence"].between(0, 1).all()
    assert new.obsm["X_transferred"].shape == (150, 20)
    assert new.uns["transferred"]["scores"]["accuracy"] > 0.9
    assert new.uns["transferred"]["params"]["model"] == "fitted together"
    assert old.obs.equals(before.obs) and (old.X != before.X).sum() == 0


def test_the_fit_sees_counts_of_shared_genes_and_no_types(together):
    old, new = pair()
    new = new[:, np.random.default_rng(0).permutation(new.n_vars)][:, :100].copy()
    new.var_names = new.var_names.str.upper()
    scs.tl.transfer_labels(new, old, "cell_type")
    (seen,) = together  # prepared once
    assert seen.shape == (400, 100)
    assert list(seen.obs) == []
    wanted = old[:, seen.var_names].X
    assert (seen.X[:250] != wanted).sum() == 0
    assert accuracy(new) > 0.85
    other = old.copy()
    other.obs["cell_type"] = np.random.default_rng(1).permutation(other.obs["cell_type"])
    again = scs.tl.transfer_labels(new, other, "cell_type", copy=True)
    np.testing.assert_array_equal(again.obsm["X_transferred"], new.obsm["X_transferred"])


def test_counts_of_a_gene_that_either_has_twice_are_added(together):
    old, new = pair()
    scs.tl.transfer_labels(new, old, "cell_type")
    wanted = together[-1]
    for one in (old, new):
        half = one.X.toarray() // 2
        twice = ad.AnnData(np.hstack([half, one.X.toarray() - half]), obs=one.obs)
        twice.var_names = [*one.var_names, *one.var_names]
        pieces = (new.copy(), twice) if one is old else (twice, old)
        scs.tl.transfer_labels(*pieces, "cell_type")
        assert list(together[-1].var_names) == list(wanted.var_names)
        assert (together[-1].X != wanted.X).nnz == 0


def test_batches_enter_the_fit(together):
    old, new = pair()
    old.obs["donor"], new.obs["donor"] = "a", ["a"] * 75 + ["b"] * 75
    scs.tl.transfer_labels(new, old, "cell_type", batch_key="donor")
    assert list(together[-1].obs["donor"]) == ["a"] * 325 + ["b"] * 75


def test_missing_batches_are_no_batch(together):
    old, new = pair()
    old.obs["donor"], new.obs["donor"] = "a", ["a"] * 75 + [None] * 5 + ["b"] * 70
    with pytest.raises(ValueError, match=r"a batch for every cell .* found 5 none"):
        scs.tl.transfer_labels(new, old, "cell_type", batch_key="donor")
    # integers that became floats, as they do where a value is missing elsewhere, are the same
    old.obs["donor"], new.obs["donor"] = [1] * 125 + [2] * 125, [1.0] * 75 + [2.0] * 75
    scs.tl.transfer_labels(new, old, "cell_type", batch_key="donor")
    assert sorted(together[-1].obs["donor"].unique()) == ["1", "2"]


def test_genes_without_a_name_are_not_matched(together):
    old, new = pair()
    scs.tl.transfer_labels(new, old, "cell_type")
    for one in (old, new):
        more = ad.AnnData(np.full((one.n_obs, 3), 50), obs=one.obs)
        whole = ad.concat([more, one], axis=1, merge="first")
        whole.var_names = ["nan", "", "nan-1", *one.var_names]
        if one is old:
            old = whole
        else:
            new = whole
    scs.tl.transfer_labels(new, old, "cell_type")
    assert list(together[-1].var_names) == list(together[-2].var_names)
    assert (together[-1].X != together[-2].X).nnz == 0


def test_counts_beyond_single_precision_stay_as_they_are(together):
    old, new = pair()
    for one in (old, new):
        one.X = one.X.toarray().astype(np.float64)
        one.X[0, 0] = 2**24 + 1
    scs.tl.transfer_labels(new, old, "cell_type")
    assert together[-1].X[0, 0] == together[-1].X[250, 0] == 2**24 + 1


@pytest.mark.parametrize(("correct_shift", "kept"), [(True, 0.2), (False, 1)])
def test_a_type_that_the_reference_lacks_is_out_of_it(together, correct_shift, kept):
    adata = cells(600, 3, difficulty=0.3)
    of_kind = (adata.obs["cell_type"] == "type 0").to_numpy()
    row, few = np.arange(600), np.random.default_rng(0).random(600) < kept
    old = adata[(row < 400) & ~of_kind].copy()
    new = adata[(row >= 400) & (few | ~of_kind)].copy()
    lost = (new.obs["cell_type"] == "type 0").to_numpy()
    options = {"min_confidence": 0.6, "correct_shift": correct_shift}
    scs.tl.transfer_labels(new, old, "cell_type", open_set=True, **options)
    flagged = new.obs["transferred_is_novel"].to_numpy()
    assert flagged[lost].mean() > 0.9
    assert flagged[~lost].mean() < 0.2
    unsure = (new.obs["transferred_confidence"] < 0.6).to_numpy()
    left = (new.obs["transferred"] == "Unassigned").to_numpy()
    np.testing.assert_array_equal(left, flagged | unsure)
    closed = scs.tl.transfer_labels(new, old, "cell_type", correct_shift=correct_shift, copy=True)
    assert "Unassigned" not in closed.obs["transferred"].cat.categories
    np.testing.assert_array_equal(closed.obs["transferred_is_novel"], flagged)


def test_reference_cells_without_a_type_change_nothing_but_the_embedding(together):
    old, new = pair()
    old.obs["known"] = old.obs["cell_type"].where(np.arange(250) < 200)
    scs.tl.transfer_labels(new, old, "known")
    assert together[-1].n_obs == 400
    assert accuracy(new) > 0.9
    assert new.uns["transferred"]["report"]["n"].sum() == 200
    assert new.obs["transferred_is_novel"].mean() < 0.25


def test_a_model_of_the_reference_saves_the_fit():
    old, new = pair()
    model = Fitted().fit(old)
    scs.tl.transfer_labels(new, old, "cell_type", model=model)
    assert new.uns["transferred"]["params"]["model"] == "given"
    assert new.obsm["X_transferred"].shape == (150, 20)
    with pytest.raises(RuntimeError, match="fit"):
        scs.tl.transfer_labels(new, old, "cell_type", model=scs.SiameseClu(3))


def test_views_copies_and_files(together, tmp_path):
    old, new = pair()
    view = new[:100]
    copy = scs.tl.transfer_labels(view, old, "cell_type", copy=True)
    assert view.is_view
    scs.tl.transfer_labels(view, old, "cell_type")
    for name in COLUMNS:
        assert copy.obs[name].equals(view.obs[name])
    copy.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    assert list(again.obs["transferred"]) == list(copy.obs["transferred"])
    copy.write_zarr(tmp_path / "a.zarr")
    again = ad.read_zarr(tmp_path / "a.zarr")
    assert again.uns["transferred"]["scores"] == pytest.approx(copy.uns["transferred"]["scores"])


@pytest.mark.parametrize(
    ("options", "error", "wanted"),
    [
        ({"labels_key": "none"}, KeyError, "`labels_key` to be a column of obs"),
        ({"reference": "a.h5ad"}, TypeError, "`reference` to be an AnnData object, found str"),
        ({"batch_key": "none"}, KeyError, "`batch_key` in obs of `reference`"),
        ({"alpha": 1}, ValueError, "alpha"),
        ({"method": "tree"}, ValueError, "`method` to be one of"),
        ({"min_confidence": -1}, ValueError, "min_confidence"),
        ({"key_added": ""}, ValueError, "key_added"),
        ({"layer": "none"}, KeyError, "`layer`"),
    ],
)
def test_bad_input(options, error, wanted, together):
    old, new = pair()
    names = list(new.obs)
    with pytest.raises(error, match=wanted):
        scs.tl.transfer_labels(new, **({"reference": old, "labels_key": "cell_type"} | options))
    assert list(new.obs) == names


def test_genes_of_other_names(together):
    old, new = pair()
    new.var_names = [f"ENSG{i}" for i in range(new.n_vars)]
    with pytest.raises(ValueError, match="genes of the reference, found 0 of them among 120"):
        scs.tl.transfer_labels(new, old, "cell_type")


def test_stimulated_cells(together):
    """The components alone hold most of what the fit of all cells reaches."""
    if "kang" not in real_data.available():
        pytest.skip("no real data")
    adata, labels = real_data.load("kang")
    adata.obs["cell_type"] = labels
    stimulated = (adata.obs["batch"] == "stim").to_numpy()
    for known in (~stimulated, stimulated):
        old, new = adata[known].copy(), adata[~known].copy()
        scs.tl.transfer_labels(new, old, "cell_type")
        scores = scs.metrics.classification_scores(labels[~known], new.obs["transferred"])
        assert scores["accuracy"] > 0.9
        assert scores["macro_f1"] > 0.85
