"""Pseudotime and PAGA of a clustering: against scanpy by hand, and what is said of bad roots."""

import importlib

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy.sparse.csgraph import connected_components
from scipy.stats import spearmanr

import scsiameseclu_jax as scs
from benchmarks import real_data
from scsiameseclu_jax.reference import Predicted
from scsiameseclu_jax.tl.record import add

N = 180


def arc(n=N, *, apart=False, seed=0):
    """Cells along half a circle, in four clusters; the gene `early` falls along it.

    With `apart`, the last cluster is elsewhere.
    """
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, np.pi, n))
    z = np.stack([np.cos(angle), np.sin(angle), np.zeros(n), np.zeros(n)], axis=1)
    clusters = np.minimum((4 * angle / np.pi).astype(int), 3)
    if apart:
        z[clusters == 3] = z[clusters == 3][:, [2, 3, 0, 1]]
    z += 0.03 * rng.normal(size=z.shape)
    counts = rng.poisson(np.stack([3 + 9 * np.cos(angle / 2), np.full(n, 5.0), 4 + angle], axis=1))
    adata = ad.AnnData(counts.astype(np.float32), obs={"angle": angle})
    adata.obs_names = [f"cell{i}" for i in range(n)]
    adata.var_names = ["early", "same", "late"]
    adata.obs["siameseclu"] = pd.Categorical(clusters.astype(str))
    adata.obsm["X_siameseclu"] = (2 * z / np.linalg.norm(z, axis=1)[:, None]).astype(np.float32)
    return adata


def by_hand(adata, start):
    """The same by scanpy's functions."""
    cells = ad.AnnData(adata.obsm["X_siameseclu"], obs=adata.obs[["siameseclu"]].copy())
    sc.pp.neighbors(cells, n_neighbors=15, use_rep="X", metric="cosine", transformer="sklearn")
    cells.uns["iroot"] = start
    sc.tl.diffmap(cells, n_comps=15)
    sc.tl.dpt(cells, n_dcs=15)
    return cells


@pytest.fixture(scope="module")
def ordered():
    adata = arc()
    scs.tl.trajectory(adata, root="cell0")
    return adata


def test_pseudotime_follows_the_cells(ordered):
    time = ordered.obs["siameseclu_pseudotime"]
    assert time.dtype == np.float32
    assert time.iloc[0] == 0
    assert time.max() == 1
    assert spearmanr(time, ordered.obs["angle"])[0] > 0.98


def test_it_is_what_scanpy_finds(ordered):
    cells = by_hand(ordered, 0)
    np.testing.assert_allclose(
        ordered.obs["siameseclu_pseudotime"], cells.obs["dpt_pseudotime"], atol=1e-5
    )
    made = ordered.obsm["X_siameseclu_diffmap"]
    assert made.shape == (N, 15)
    np.testing.assert_allclose(made, cells.obsm["X_diffmap"], atol=1e-4)


def test_connectivities_are_links_over_those_expected(ordered):
    record = ordered.uns["siameseclu_paga"]
    links = by_hand(ordered, 0).obsp["distances"].toarray() > 0
    codes = ordered.obs["siameseclu"].cat.codes.to_numpy()
    sizes = np.bincount(codes)
    between = np.array(
        [[links[codes == i][:, codes == j].sum() for j in range(4)] for i in range(4)]
    )
    out = between.sum(axis=1)
    for i in range(4):
        for j in set(range(4)) - {i}:
            expected = (out[i] * sizes[j] + out[j] * sizes[i]) / (N - 1)
            wanted = min((between[i, j] + between[j, i]) / expected, 1)
            np.testing.assert_allclose(record["connectivities"][i, j], wanted, rtol=1e-5)
    assert record["groups"].tolist() == ["0", "1", "2", "3"]
    # The tree is a chain: the clusters follow one another.
    assert [tuple(map(int, pair)) for pair in np.argwhere(np.triu(record["tree"]))] == [
        *((0, 1), (1, 2), (2, 3))
    ]
    assert (np.diff(record["pseudotime"]) > 0).all()
    assert (record["root"], record["root_cluster"]) == ("cell0", "0")


def test_a_cluster_begins_with_its_middle_cell_whatever_the_order_of_rows():
    adata = arc()
    scs.tl.trajectory(adata, root_cluster="1")
    record = adata.uns["siameseclu_paga"]
    assert record["root_cluster"] == "1"
    inside = adata.obs["angle"][adata.obs["siameseclu"] == "1"]
    assert abs(adata.obs["angle"][record["root"]] - inside.median()) < 0.1
    other = arc()[np.random.default_rng(1).permutation(N)].copy()
    scs.tl.trajectory(other, root_cluster="1")
    assert other.uns["siameseclu_paga"]["root"] == record["root"]
    again = other.obs["siameseclu_pseudotime"][adata.obs_names]
    np.testing.assert_allclose(again, adata.obs["siameseclu_pseudotime"], atol=1e-3)


def test_genes_point_to_where_they_are_high(caplog):
    adata = arc()
    with caplog.at_level("INFO"):
        scs.tl.trajectory(adata, root_genes=["early", "absent"])
    assert adata.obs["angle"][adata.uns["siameseclu_paga"]["root"]] < 0.6
    assert "['absent']" in caplog.text


def test_cells_out_of_reach_are_nan_and_named():
    adata = arc(apart=True)
    with pytest.warns(UserWarning, match="not linked to the root") as caught:
        scs.tl.trajectory(adata, root_cluster="0")
    last = (adata.obs["siameseclu"] == "3").to_numpy()
    told = next(one for one in caught if one.category is UserWarning)  # pandas may say more
    assert f"{last.sum()} of {N} cells" in str(told.message)
    assert f"'3': {last.sum()}" in str(told.message)
    assert told.filename == __file__
    np.testing.assert_array_equal(adata.obs["siameseclu_pseudotime"].isna(), last)
    np.testing.assert_array_equal(np.isnan(adata.obsm["X_siameseclu_diffmap"]).all(axis=1), last)
    record = adata.uns["siameseclu_paga"]
    assert not record["connectivities"][3].any()
    assert np.isnan(record["pseudotime"][3])
    with pytest.warns(UserWarning, match="not linked"):
        scs.tl.trajectory(adata, root_cluster="3")
    np.testing.assert_array_equal(adata.obs["siameseclu_pseudotime"].isna(), ~last)


def test_two_islands_have_no_links():
    adata = arc(apart=True)
    adata = adata[adata.obs["siameseclu"].isin(["2", "3"]).to_numpy()].copy()
    with pytest.warns(UserWarning, match="not linked"):
        scs.tl.trajectory(adata, root_cluster="3")
    assert not adata.uns["siameseclu_paga"]["connectivities"].any()
    assert not adata.uns["siameseclu_paga"]["tree"].any()


def test_cells_without_a_cluster_or_an_embedding():
    adata = arc()
    names = adata.obs["siameseclu"].astype(str).to_numpy(dtype=object, copy=True)
    names[:10], names[10:20] = "Unassigned", None
    adata.obs["siameseclu"] = pd.Categorical(names)
    lost = np.arange(N) % 6 == 5
    adata.obsm["X_siameseclu"][lost] = np.nan
    scs.tl.trajectory(adata, root="cell0")
    record = adata.uns["siameseclu_paga"]
    assert record["groups"].tolist() == ["0", "1", "2", "3"]
    assert record["root_cluster"] == "Unassigned"
    np.testing.assert_array_equal(adata.obs["siameseclu_pseudotime"].isna(), lost)
    with pytest.raises(ValueError, match="an embedding, found 'cell101'"):
        scs.tl.trajectory(adata, root="cell101")


def test_it_is_tied_to_the_cells_of_its_clusters(ordered):
    codes = ordered.obsm["siameseclu_paga"][:, 0]
    names = ordered.uns["siameseclu_paga"]["groups"][codes]
    np.testing.assert_array_equal(names, ordered.obs["siameseclu"].astype(str))


def test_nothing_else_changes(ordered):
    adata = arc()
    adata.uns |= {"neighbors": {"mine": 1}, "iroot": 3, "paga": {"mine": 2}}
    adata.obsm["X_diffmap"] = np.ones((N, 2))
    before, options = adata.copy(), np.get_printoptions()
    made = scs.tl.trajectory(adata, root="cell0", copy=True)
    assert "siameseclu_pseudotime" not in adata.obs
    view = adata[:]
    assert scs.tl.trajectory(view, root="cell0") is None
    assert not view.is_view
    for one in (made, view):
        assert set(one.uns) == {"neighbors", "iroot", "paga", "siameseclu_paga"}
        assert (one.uns["neighbors"], one.uns["iroot"]) == ({"mine": 1}, 3)
        np.testing.assert_array_equal(one.obsm["X_diffmap"], before.obsm["X_diffmap"])
        np.testing.assert_array_equal(one.X, before.X)
        assert len(one.obsp) == 0
        wanted = ordered.obs["siameseclu_pseudotime"]
        np.testing.assert_array_equal(one.obs["siameseclu_pseudotime"], wanted)
    assert np.get_printoptions() == options


def test_new_clusters_drop_the_order_of_old_ones():
    adata = arc()
    scs.tl.trajectory(adata, root="cell0")
    proba = np.eye(4, dtype=np.float32)[np.arange(N) % 4]
    nothing = np.zeros(N, np.float32)
    embedding = adata.obsm["X_siameseclu"]
    found = Predicted(proba.argmax(axis=1), proba, nothing, embedding, nothing, nothing > 0, [])
    add(adata, "siameseclu", found, embedding, min_confidence=None)
    assert "siameseclu_pseudotime" not in adata.obs
    assert "X_siameseclu_diffmap" not in adata.obsm
    assert "siameseclu_paga" not in adata.uns


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_round_trip(ordered, kind, tmp_path):
    path = tmp_path / f"a.{kind}"
    (ordered.write_zarr if kind == "zarr" else ordered.write_h5ad)(path)
    back = (ad.read_zarr if kind == "zarr" else ad.read_h5ad)(path)
    record, wanted = back.uns["siameseclu_paga"], ordered.uns["siameseclu_paga"]
    assert set(record) == set(wanted)
    np.testing.assert_array_equal(record["tree"], wanted["tree"])
    assert [str(name) for name in record["groups"]] == wanted["groups"].tolist()
    assert str(record["root"]) == "cell0"


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({}, ValueError, "one of `root`.*found none"),
        ({"root": "cell0", "root_cluster": "0"}, ValueError, r"found \['root', 'root_cluster'\]"),
        ({"root": "none"}, ValueError, "'none', the name of 0"),
        ({"root_cluster": "9"}, ValueError, r"\['0', '1', '2', '3'\], found '9'"),
        ({"root_genes": "early"}, TypeError, "a single name 'early'"),
        ({"root_genes": ["x"]}, ValueError, r"found none of \['x'\]"),
        ({"root": "cell0", "n_neighbors": 1}, ValueError, "`n_neighbors` to be between 2 and 179"),
        ({"root": "cell0", "n_components": 2}, ValueError, "`n_components` to be between 3"),
        ({"root": "cell0", "use_rep": "X_none"}, KeyError, "Expected 'X_none' in obsm"),
        ({"root": "cell0", "groupby": "none"}, KeyError, "groups in a column of obs"),
    ],
)
def test_bad_input_is_named_and_leaves_the_object_alone(options, error, match):
    adata = arc()
    with pytest.raises(error, match=match):
        scs.tl.trajectory(adata, **options)
    assert set(adata.obs) == {"angle", "siameseclu"}
    assert not adata.uns


def test_roots_that_lead_nowhere_and_objects_that_lack_something(monkeypatch):
    adata = arc()
    adata.obs_names = ["twice", "twice", *adata.obs_names[2:]]
    with pytest.raises(ValueError, match="'twice', the name of 2"):
        scs.tl.trajectory(adata, root="twice")
    one = arc()
    one.obs["siameseclu"] = "0"
    with pytest.raises(ValueError, match="two clusters or more"):
        scs.tl.trajectory(one, root="cell0")
    with pytest.raises(ValueError, match="five cells or more"):
        scs.tl.trajectory(arc()[:4].copy(), root="cell0")
    flat = arc()
    flat.X[:, 1] = 0
    with pytest.raises(ValueError, match="that differ between cells"):
        scs.tl.trajectory(flat, root_genes=["same"])
    del one.obsm["X_siameseclu"]
    with pytest.raises(KeyError, match=r"Run `scs.tl.siameseclu"):
        scs.tl.trajectory(one, root="cell0")
    lonely = arc()
    rng = np.random.default_rng(0)
    lonely.obsm["X_siameseclu"] = np.eye(4, dtype=np.float32)[np.repeat([0, 3], [N - 3, 3])]
    lonely.obsm["X_siameseclu"] += 0.01 * rng.random((N, 4), np.float32)
    lonely.obs["siameseclu"] = np.repeat(["0", "1"], [N - 3, 3])
    with pytest.raises(ValueError, match="linked to 2 of 180"):
        scs.tl.trajectory(lonely, root_cluster="1", n_neighbors=3)
    module = importlib.import_module("scsiameseclu_jax.tl.trajectory")
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match="pip install igraph"):
        scs.tl.trajectory(arc(), root="cell0")


def test_real_cells_in_the_order_that_is_published():
    if "paul15" not in real_data.available():
        pytest.skip("paul15 is not at hand")
    from benchmarks.trajectory import correlations, published, roots

    adata, _ = real_data.load("paul15")
    known = published()
    logged = ad.AnnData(adata.X.astype(np.float32))
    sc.pp.normalize_total(logged)
    sc.pp.log1p(logged)
    adata.obs["cluster"] = known["paul_cluster"]
    adata.obsm["X_cluster"] = sc.pp.pca(logged.X, n_comps=20)
    scs.tl.trajectory(adata, "cluster", root=roots(known)["earliest"][0])
    found = correlations(adata.obs["cluster_pseudotime"].to_numpy(), known)
    assert found["erythroid"] > 0.8
    assert found["granulocyte/monocyte"] > 0.7
    links = adata.uns["cluster_paga"]["tree"]
    assert connected_components(links, directed=False)[0] == 1
