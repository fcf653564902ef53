"""tl.classify: types of cells from those of others in the same object."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scsiameseclu_jax as scs
from scsiameseclu_jax.tl import classification
from tests.labelled import CONFIG, cells, embedded, without_fit

COLUMNS = ["classified", "classified_confidence", "classified_second"]


@pytest.fixture(scope="module")
def made():
    adata = cells()
    scs.tl.classify(adata, "known", key="mine")
    return adata


def test_unknown_cells_get_their_type_and_known_ones_keep_theirs(made):
    unknown = (made.obs["known"] == "Unknown").to_numpy()
    found, truth = made.obs["classified"].astype(str), made.obs["cell_type"]
    assert (found == truth)[unknown].mean() > 0.95
    np.testing.assert_array_equal(found[~unknown], truth[~unknown])
    assert list(made.obs["classified"].cat.categories) == [f"type {i}" for i in range(4)]
    assert (made.obs["classified_second"].astype(str) != found).all()


def test_confidence_is_a_calibrated_probability(made):
    sure = made.obs["classified_confidence"]
    assert sure.dtype == np.float32
    assert sure.between(0, 1).all()
    right = (made.obs["classified"].astype(str) == made.obs["cell_type"]).to_numpy()
    unknown = (made.obs["known"] == "Unknown").to_numpy()
    assert abs(sure[unknown].mean() - right[unknown].mean()) < 0.05
    assert made.uns["classified"]["calibration_error"] < 0.05


def test_scores_are_of_cells_that_were_left_out(made):
    record = made.uns["classified"]
    assert record["scores"]["accuracy"] > 0.95
    assert record["report"]["n"].sum() == (made.obs["known"] != "Unknown").sum()
    assert list(record["types"]) == [f"type {i}" for i in range(4)]
    assert record["params"] == {
        "labels_key": "known",
        "layer": "counts",
        "key": "mine",
        "unlabeled": "Unknown",
        "method": "logistic",
        "seed": 0,
    }
    # A wrong label is not believed: the head that judges it was fitted without it.
    adata = cells()
    row = int(np.flatnonzero(adata.obs["known"] == "type 0")[0])
    adata.obs.iloc[row, adata.obs.columns.get_loc("known")] = "type 1"
    scs.tl.classify(adata, "known", key="mine")
    told = adata.obs.iloc[row]
    assert told["classified"] == "type 1"
    assert told["classified_confidence"] < 0.2
    assert told["classified_second"] == "type 0"


@pytest.mark.parametrize("method", ["knn", "prototype"])
def test_other_heads(method):
    adata = cells()
    scs.tl.classify(adata, "known", key="mine", method=method)
    assert (adata.obs["classified"].astype(str) == adata.obs["cell_type"]).mean() > 0.95
    assert adata.uns["classified"]["calibration_error"] < 0.06


def test_missing_types_and_unassigned(made):
    adata = cells()
    adata.obs["known"] = adata.obs["known"].replace("Unknown", None).astype("category")
    adata.uns["classified_colors"] = ["red"]
    given = adata.obs["known"].copy()
    unknown = given.isna().to_numpy()
    least = float(made.obs["classified_confidence"][unknown].quantile(0.3))
    scs.tl.classify(adata, "known", key="mine", min_confidence=least)
    sure = adata.obs["classified_confidence"]
    np.testing.assert_array_equal(sure, made.obs["classified_confidence"])
    left = adata.obs["classified"] == "Unassigned"
    np.testing.assert_array_equal(left, (sure < np.float32(least)) & unknown)
    assert 0 < left.sum() < unknown.sum()
    assert "classified_colors" not in adata.uns
    assert adata.obs["known"].equals(given)


@pytest.mark.parametrize("none", [np.nan, None, "", "Unknown"])
def test_cells_without_a_type_are_of_no_type_however_that_is_written(made, none):
    adata = cells()
    adata.obs["known"] = adata.obs["known"].astype(object).replace("Unknown", none)
    scs.tl.classify(adata, "known", key="mine")
    assert adata.uns["classified"]["types"].tolist() == [f"type {i}" for i in range(4)]
    pd.testing.assert_series_equal(adata.obs["classified"], made.obs["classified"])


def test_types_that_look_like_missing_values_are_told(caplog):
    adata = cells()
    adata.obs["known"] = adata.obs["known"].replace("Unknown", "nan")
    scs.tl.classify(adata, "known", key="mine")
    assert "A type of obs['known'] is called 'nan' in" in caplog.text


def test_a_fit_of_all_cells_that_sees_no_types(monkeypatch):
    adata = cells()
    del adata.obsm["X_mine"]
    seen = without_fit(monkeypatch)
    scs.tl.classify(adata, "known", batch_key=None)
    assert [one.n_obs for one in seen] == [adata.n_obs]  # prepared once
    other = cells()
    other.obs["known"] = np.random.default_rng(1).permutation(other.obs["known"])
    scs.tl.classify(other, "known")
    np.testing.assert_array_equal(adata.obsm["X_classified"], other.obsm["X_classified"])
    record = adata.uns["classified"]["manifest"]
    assert record["input"] == {"layer": "counts"}
    assert record["seed"] == 0
    assert "n_clusters" not in record
    again = adata.copy()
    scs.tl.classify(again, "known", key="classified")
    for name in COLUMNS:
        assert again.obs[name].equals(adata.obs[name])


@pytest.mark.slow
def test_a_real_fit():
    adata = cells(n=120, n_types=2, difficulty=0.1)
    scs.tl.classify(adata, "known", config=CONFIG, progress=False)
    assert adata.obsm["X_classified"].shape == (120, 20)
    assert (adata.obs["classified"].astype(str) == adata.obs["cell_type"]).mean() > 0.95
    again = cells(n=120, n_types=2, difficulty=0.1)[::-1].copy()
    scs.tl.classify(again, "known", config=CONFIG, progress=False)
    np.testing.assert_allclose(
        again.obsm["X_classified"][::-1], adata.obsm["X_classified"], atol=1e-5
    )


def test_views_copies_formats_and_files(made, tmp_path):
    adata = cells()
    view = adata[:250]
    copy = scs.tl.classify(view, "known", key="mine", copy=True)
    assert view.is_view and "classified" not in adata.obs
    scs.tl.classify(view, "known", key="mine")
    assert not view.is_view
    assert copy.obs["classified"].equals(view.obs["classified"])
    before = adata.X.copy()
    adata.X = sparse.csc_matrix(adata.X)
    scs.tl.classify(adata, "known", key="mine")
    for name in COLUMNS:
        assert adata.obs[name].equals(made.obs[name])
    assert abs(adata.X - before).sum() == 0
    for name, write, read in (
        ("a.h5ad", ad.AnnData.write_h5ad, ad.read_h5ad),
        ("a.zarr", ad.AnnData.write_zarr, ad.read_zarr),
    ):
        write(made, tmp_path / name)
        again = read(tmp_path / name)
        assert list(again.obs["classified"]) == list(made.obs["classified"])
        np.testing.assert_allclose(
            again.uns["classified"]["report"]["f1"], made.uns["classified"]["report"]["f1"]
        )


def test_rare_types_and_few_known_cells():
    adata = cells()
    known = adata.obs["known"].to_numpy(dtype=object, copy=True)
    rows = np.flatnonzero(known == "type 3")
    known[rows[1:]] = "Unknown"  # one cell is all that is known of its type
    adata.obs["known"] = known
    scs.tl.classify(adata, "known", key="mine")
    assert adata.obs["classified"].iloc[rows[0]] == "type 3"
    assert np.isnan(adata.obs["classified_confidence"].iloc[rows[0]])
    assert "type 3" not in adata.uns["classified"]["report"].index
    # One known cell of each: nothing can be left out.
    first = [np.flatnonzero(adata.obs["cell_type"] == name)[0] for name in ("type 0", "type 1")]
    adata.obs["known"] = None
    adata.obs.iloc[first, adata.obs.columns.get_loc("known")] = ["type 0", "type 1"]
    scs.tl.classify(adata, "known", key="mine", key_added="few")
    assert "scores" not in adata.uns["few"]
    assert adata.uns["few"]["temperature"] == 1
    everything = cells(hidden=0)
    scs.tl.classify(everything, "known", key="mine")
    assert everything.uns["classified"]["scores"]["coverage"] == 1


@pytest.mark.parametrize(
    ("options", "error", "wanted"),
    [
        ({"labels_key": "none"}, KeyError, "`labels_key` to be a column of obs, .* 'none'"),
        ({"labels_key": "one"}, ValueError, r"two types or more in obs\['one'\]"),
        ({"labels_key": "odd"}, ValueError, "none of them 'Unassigned'"),
        ({"key": "none"}, KeyError, r"embedding in obsm\['X_none'\].* leave `key` out"),
        ({"key": "part"}, ValueError, "found 3 cells without"),
        ({"method": "tree"}, ValueError, "`method` to be one of"),
        ({"min_confidence": 2}, ValueError, "min_confidence"),
        ({"key_added": "a/b"}, ValueError, "key_added"),
        ({"layer": "none"}, KeyError, "`layer`"),
        ({"batch_key": "none"}, KeyError, "batch_key"),
    ],
)
def test_bad_input(options, error, wanted):
    adata = cells()
    adata.obs["one"] = "only"
    adata.obs["odd"] = np.where(adata.obs["known"] == "type 0", "Unassigned", "x")
    adata.obsm["X_part"] = adata.obsm["X_mine"].copy()
    adata.obsm["X_part"][:3, 0] = np.nan
    columns = list(adata.obs)
    with pytest.raises(error, match=wanted):
        scs.tl.classify(adata, **({"labels_key": "known", "key": "mine"} | options))
    assert list(adata.obs) == columns
    assert not adata.uns


def test_real_cells():
    adata = scs.datasets.pbmc68k_reduced()
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    adata.obsm["X_mine"] = embedded(adata)
    unknown = np.random.default_rng(0).random(len(labels)) < 0.2
    adata.obs["known"] = np.where(unknown, "Unknown", labels)
    scs.tl.classify(adata, "known", key="mine")
    found = adata.obs["classified"].astype(str).to_numpy()
    scores = scs.metrics.classification_scores(labels[unknown], found[unknown])
    assert scores["accuracy"] > 0.75  # about what its own left-out cells reach
    assert abs(scores["accuracy"] - adata.uns["classified"]["scores"]["accuracy"]) < 0.1


def test_memory_is_looked_at_before_anything_is_prepared(monkeypatch):
    monkeypatch.setattr("scsiameseclu_jax.training.memory.free_memory", lambda: -(2**40))
    monkeypatch.setattr(classification, "prepare", None)
    with pytest.raises(MemoryError, match="GiB"):
        scs.tl.classify(cells(), "known")
