"""tl.cluster_tree: which levels are written, of which cells, and what is left alone."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from sklearn.metrics import adjusted_rand_score

import scsiameseclu_jax as scs
from scsiameseclu_jax.reference import Predicted
from scsiameseclu_jax.tl.record import add

KEY = "siameseclu"
N, K = 240, 4


def clustered(key=KEY):
    """Cells as `tl.siameseclu` leaves them, in four clusters of two parts each."""
    rng = np.random.default_rng(0)
    parts = np.sort(rng.integers(0, 2 * K, N))
    centers = 6 * np.repeat(rng.normal(size=(K, 8)), 2, axis=0) + 2 * rng.normal(size=(2 * K, 8))
    adata = AnnData(np.ones((N, 2), np.float32))
    adata.obs["part"] = parts
    adata.obs[key] = pd.Categorical([str(part // 2) for part in parts])
    z = centers[parts] + 0.3 * rng.normal(size=(N, 8))
    adata.obsm[f"X_{key}"] = z.astype(np.float32)
    adata.uns[key] = {"params": {}}
    return adata


def clustered_anew(adata):
    proba = np.eye(3, dtype=np.float32)[np.arange(adata.n_obs) % 3]
    nothing = np.zeros(adata.n_obs, np.float32)
    z = adata.obsm[f"X_{KEY}"]
    found = Predicted(proba.argmax(axis=1), proba, nothing, z, nothing, nothing > 0, [])
    add(adata, KEY, found, z, min_confidence=None)


def same_partition(a, b):
    return adjusted_rand_score(np.asarray(a), np.asarray(b)) == 1


def test_levels_are_columns_and_that_of_the_clusters_is_theirs():
    adata = clustered()
    assert scs.tl.cluster_tree(adata, (2, np.int64(4), 8)) is None
    for k in (2, 4, 8):
        column = adata.obs[f"{KEY}_{k}"]
        assert list(column.cat.categories) == [str(i) for i in range(k)]
        sizes = column.value_counts()[column.cat.categories]
        assert (np.diff(sizes) <= 0).all()
        assert sizes.min() > 0
    assert same_partition(adata.obs[f"{KEY}_4"], adata.obs[KEY])
    assert same_partition(adata.obs[f"{KEY}_8"], adata.obs["part"])
    record = adata.uns[f"{KEY}_tree"]
    assert record["n_clusters"] == K
    assert list(record["levels"]) == [2, 4, 8]
    assert record["linkage"].shape == (adata.obs[f"{KEY}_leaf"].max(), 4)


def test_no_level_one_level_and_a_copy():
    adata = clustered()
    before = adata.copy()
    copy = scs.tl.cluster_tree(adata, 3, copy=True)
    assert copy.obs[f"{KEY}_3"].nunique() == 3
    assert list(adata.obs) == list(before.obs)
    assert set(adata.uns) == set(before.uns)
    scs.tl.cluster_tree(adata)
    assert list(adata.obs) == [*before.obs, f"{KEY}_leaf"]
    assert len(adata.uns[f"{KEY}_tree"]["levels"]) == 0


def test_another_name():
    adata = clustered("mine")
    scs.tl.cluster_tree(adata, 3, "mine", key_added="coarse")
    assert {"coarse_3", "coarse_leaf"} <= set(adata.obs)
    assert adata.uns["coarse_tree"]["params"] == {"key": "mine"}


def test_cells_left_unassigned_stay_so():
    adata, whole = clustered(), clustered()
    left = np.arange(N) % 7 == 0
    adata.obs[KEY] = adata.obs[KEY].cat.add_categories("Unassigned")
    adata.obs.loc[left, KEY] = "Unassigned"
    scs.tl.cluster_tree(adata, [2, 4])
    scs.tl.cluster_tree(whole, 2)
    column = adata.obs[f"{KEY}_2"]
    assert list(column.cat.categories) == ["0", "1", "Unassigned"]
    np.testing.assert_array_equal(column == "Unassigned", left)
    np.testing.assert_array_equal(adata.obs[f"{KEY}_leaf"] == -1, left)
    assert same_partition(column[~left], whole.obs[f"{KEY}_2"][~left])
    assert same_partition(adata.obs[f"{KEY}_4"], adata.obs[KEY])


def test_cells_outside_a_restricted_clustering_are_missing():
    adata = clustered()
    outside = (adata.obs[KEY] == "3").to_numpy()
    adata.obsm[f"X_{KEY}"][outside] = np.nan
    scs.tl.cluster_tree(adata, [3, 5])
    for k in (3, 5):
        np.testing.assert_array_equal(adata.obs[f"{KEY}_{k}"].isna(), outside)
    inside = adata.obs[~outside]
    assert same_partition(inside[f"{KEY}_3"], inside[KEY])
    assert adata.uns[f"{KEY}_tree"]["n_clusters"] == 3


def test_levels_stay_with_the_same_tree_and_go_with_another():
    adata = clustered()
    scs.tl.cluster_tree(adata, [2, 3])
    adata.obs[f"{KEY}_2"] = adata.obs[f"{KEY}_2"].cat.rename_categories({"0": "lymphoid"})
    scs.tl.cluster_tree(adata, 5)
    assert "lymphoid" in adata.obs[f"{KEY}_2"].cat.categories
    assert list(adata.uns[f"{KEY}_tree"]["levels"]) == [2, 3, 5]
    adata.obs[KEY] = pd.Categorical((np.arange(N) % 5).astype(str))
    scs.tl.cluster_tree(adata, 3)
    assert {f"{KEY}_2", f"{KEY}_5"}.isdisjoint(adata.obs)
    assert list(adata.uns[f"{KEY}_tree"]["levels"]) == [3]


def test_new_clusters_drop_the_tree_of_old_ones_and_nothing_of_the_user():
    adata = clustered()
    adata.obs[f"{KEY}_7"] = "mine"
    scs.tl.cluster_tree(adata, [2, 5])
    adata.uns[f"{KEY}_5_colors"] = np.array(["#000000"] * 5)
    clustered_anew(adata)
    assert {f"{KEY}_2", f"{KEY}_5", f"{KEY}_leaf"}.isdisjoint(adata.obs)
    assert {f"{KEY}_tree", f"{KEY}_5_colors"}.isdisjoint(adata.uns)
    assert f"{KEY}_7" in adata.obs
    adata.obs[f"{KEY}_leaf"] = 1.0
    clustered_anew(adata)
    assert f"{KEY}_leaf" in adata.obs


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
@pytest.mark.parametrize("levels", [None, [2, 6]])
def test_round_trip(kind, levels, tmp_path):
    adata, path = clustered(), tmp_path / f"a.{kind}"
    scs.tl.cluster_tree(adata, levels)
    (adata.write_zarr if kind == "zarr" else adata.write_h5ad)(path)
    back = (ad.read_zarr if kind == "zarr" else ad.read_h5ad)(path)
    scs.pl.cluster_tree(back).figure.canvas.draw()
    scs.tl.cluster_tree(back, 3)  # knows that it is the same tree
    assert list(back.uns[f"{KEY}_tree"]["levels"]) == sorted({3, *(levels or [])})
    clustered_anew(back)
    assert not [name for name in back.obs if name.startswith(f"{KEY}_") and name[-1].isdigit()]


def test_a_view_becomes_an_object_of_its_own():
    adata = clustered()
    view = adata[adata.obs[KEY] != "0"]
    scs.tl.cluster_tree(view, 2)
    assert view.obs[f"{KEY}_2"].nunique() == 2
    assert f"{KEY}_2" not in adata.obs


@pytest.mark.parametrize(
    ("levels", "error", "match"),
    [
        (1, ValueError, "at least 2, found 1"),
        ([3, 0], ValueError, "at least 2, found 0"),
        (999, ValueError, "the number of leaves of the tree, found 999; more need a fit"),
        (2.5, TypeError, "integer, or several, found 2.5"),
        (True, TypeError, "integer, or several"),
        ("5", TypeError, "integer, or several, found '5'"),
        (["5"], TypeError, "integer, or several"),
        (6, ValueError, f"no column obs\\['{KEY}_6'\\], found one that is not of a tree"),
    ],
)
def test_wrong_levels_change_nothing(levels, error, match):
    adata = clustered()
    adata.obs[f"{KEY}_6"] = "mine"
    before = adata.copy()
    with pytest.raises(error, match=match):
        scs.tl.cluster_tree(adata, levels)
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert set(adata.uns) == set(before.uns)


def test_what_is_missing_is_named():
    adata = clustered()
    with pytest.raises(KeyError, match="key_added='other'"):
        scs.tl.cluster_tree(adata, key="other")
    with pytest.raises(ValueError, match="without '/'"):
        scs.tl.cluster_tree(adata, key_added="a/b")
    adata.obs[KEY] = pd.Categorical(["Unassigned"] * 9 + ["0"] * (N - 9))
    with pytest.raises(ValueError, match=r"two clusters or more .*found \['0'\]"):
        scs.tl.cluster_tree(adata)
    del adata.obs[KEY]
    with pytest.raises(KeyError, match=KEY):
        scs.tl.cluster_tree(adata)
