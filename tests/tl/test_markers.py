"""Markers of clusters, and their plot: scanpy's numbers, found safely, told apart, written."""

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import sparse

import scsiameseclu_jax as scs
from scsiameseclu_jax.preprocessing.expression import log_expression

KEY = "cell_type"


def cells(names=("a", "b", "c"), n_each=30, n_genes=40, seed=0):
    """Groups of cells with four genes each of their own."""
    rng = np.random.default_rng(seed)
    mean = rng.gamma(2, 1, (1, n_genes)).repeat(len(names), axis=0)
    for i in range(len(names)):
        mean[i, 4 * i : 4 * i + 4] += 6
    codes = np.arange(n_each * len(names)) % len(names)
    adata = AnnData(sparse.csr_matrix(rng.poisson(mean[codes]).astype(np.float32)))
    adata.var_names = [f"g{i}" for i in range(n_genes)]
    adata.obs[KEY] = pd.Categorical.from_codes(codes, list(names))
    return adata


@pytest.fixture(scope="module")
def pbmc():
    adata = scs.datasets.pbmc68k_reduced()
    scs.tl.markers(adata, KEY)
    return adata


@pytest.fixture(scope="module")
def top(pbmc):
    return pbmc.uns[f"{KEY}_top_markers"]


def test_numbers_are_those_of_scanpy(pbmc):
    other = scs.datasets.pbmc68k_reduced()
    sc.pp.normalize_total(other)
    sc.pp.log1p(other)
    sc.tl.rank_genes_groups(other, KEY, method="wilcoxon", tie_correct=True, pts=True)
    wanted = sc.get.rank_genes_groups_df(other, None)
    found = sc.get.rank_genes_groups_df(pbmc, None, key=f"{KEY}_markers")
    # Names of groups with a "/" have no columns of shares.
    assert list(found.columns) == list(wanted.columns[:6])
    np.testing.assert_allclose(found["scores"], wanted["scores"], rtol=1e-3, atol=2e-3)
    columns = ["scores", "logfoldchanges", "pvals", "pvals_adj"]
    found, wanted = (table.set_index(["group", "names"])[columns] for table in (found, wanted))
    # counts are normalised in another precision
    np.testing.assert_allclose(found, wanted.loc[found.index], rtol=5e-3, atol=5e-3)
    for column in ("names", *columns):
        kind = other.uns["rank_genes_groups"][column].dtype
        assert pbmc.uns[f"{KEY}_markers"][column].dtype == kind


def test_markers_of_blood_are_those_of_textbooks(top):
    genes = top.groupby("cluster", observed=True)["gene"].apply(list)
    assert {"CD79A", "MS4A1"} <= set(genes["CD19+ B"])
    assert {"GZMB", "PRF1"} <= set(genes["CD56+ NK"])
    assert {"CD8A", "CD8B"} <= set(genes["CD8+/CD45RA+ Naive Cytotoxic"])
    assert {"LYZ", "FCER1A"} <= set(genes["Dendritic"])


def test_each_gene_stands_where_it_scores_best(pbmc, top):
    assert top["gene"].is_unique
    assert top.groupby("cluster", observed=True).size().max() == 5
    ranked = pbmc.uns[f"{KEY}_markers"]
    groups = ranked["names"].dtype.names
    scores = pd.DataFrame(
        {g: pd.Series(ranked["scores"][g], index=ranked["names"][g]) for g in groups}
    )
    for row in top.itertuples():
        assert scores.loc[row.gene].idxmax() == row.cluster
        assert row.share_in >= 0.25
        assert row.logfoldchange >= 1
        assert row.pval_adj <= 0.05
    first = top.groupby("cluster", observed=True)["score"].first()
    best = scores.idxmax(axis=1)
    assert first["CD19+ B"] == pytest.approx(scores["CD19+ B"][best == "CD19+ B"].max())


@pytest.mark.parametrize("kind", ["csc", "dense", "integer", "view", "layer"])
def test_every_kind_of_counts_gives_the_same_and_stays_as_it_was(kind):
    adata = cells()
    wanted = scs.tl.markers(adata, KEY, copy=True).uns[f"{KEY}_top_markers"]
    counts = adata.X.copy()
    if kind == "csc":
        adata.X = sparse.csc_matrix(counts)
    elif kind == "dense":
        adata.X = counts.toarray()
    elif kind == "integer":
        adata.X = counts.astype(np.int64)
    elif kind == "layer":
        adata.layers["counts"] = counts
        sc.pp.normalize_total(adata)
        sc.pp.log1p(adata)
    adata.uns["rank_genes_groups"] = {"mine": 1}
    if kind == "view":
        adata = ad.concat([adata, cells()], index_unique="-")[: len(adata)]
        assert adata.is_view
    else:
        adata.raw = AnnData(-counts)
    before = adata.X.copy()
    scs.tl.markers(adata, KEY)
    pd.testing.assert_frame_equal(adata.uns[f"{KEY}_top_markers"], wanted)
    assert not adata.is_view
    difference = before != adata.X
    assert not (difference.nnz if sparse.issparse(difference) else difference.any())
    assert kind == "view" or adata.uns["rank_genes_groups"] == {"mine": 1}
    assert adata.obs.columns.tolist() == [KEY]
    # anndata 0.13 has X among the layers, as None
    assert set(adata.layers) - {None} == ({"counts"} if kind == "layer" else set())


def test_the_layer_of_the_clustering_is_known():
    adata = cells()
    wanted = scs.tl.markers(adata, KEY, copy=True).uns[f"{KEY}_top_markers"]
    adata.layers["umi"] = adata.X.copy()
    sc.pp.normalize_total(adata)
    with pytest.raises(ValueError, match="layer='umi'"):
        scs.tl.markers(adata, KEY)
    adata.uns[KEY] = {"params": {"layer": "umi"}}
    scs.tl.markers(adata, KEY)
    pd.testing.assert_frame_equal(adata.uns[f"{KEY}_top_markers"], wanted)


def test_no_counts_is_an_error_that_says_so():
    adata = cells()
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    with pytest.raises(ValueError, match="log-normalised"):
        scs.tl.markers(adata, KEY)
    assert not adata.uns.get(f"{KEY}_markers")


def test_small_groups_and_cells_without_a_cluster_are_left_out(caplog):
    adata = cells()
    whole = adata.copy()
    adata.obs[KEY] = adata.obs[KEY].cat.add_categories(["Unassigned", "tiny"])
    adata.obs.iloc[[0, 3, 6], 0] = "Unassigned"
    adata.obs.iloc[[1, 4], 0] = "tiny"
    adata.obs.iloc[[2], 0] = np.nan
    with caplog.at_level(logging.INFO, "scsiameseclu_jax"):
        scs.tl.markers(adata, KEY)
    assert "tiny" in caplog.text
    params = adata.uns[f"{KEY}_markers"]["params"]
    assert sorted(params["left_out"]) == ["Unassigned", "tiny"]
    assert adata.uns[f"{KEY}_markers"]["names"].dtype.names == ("a", "b", "c")
    # Nor are they among the others that a group is held against.
    rest = whole[[i for i in range(len(whole)) if i not in (0, 1, 2, 3, 4, 6)]].copy()
    scs.tl.markers(rest, KEY)
    shares = (data.uns[f"{KEY}_markers"]["pts_rest"] for data in (adata, rest))
    pd.testing.assert_frame_equal(*shares)


def test_genes_without_counts_mark_nothing():
    adata = cells()
    adata.X = adata.X.toarray() * (np.arange(adata.n_vars) > 0)
    scs.tl.markers(adata, KEY)
    table = sc.get.rank_genes_groups_df(adata, None, key=f"{KEY}_markers")
    assert (table["scores"][table["names"] == "g0"] == 0).all()
    assert (table["pvals"][table["names"] == "g0"] == 1).all()
    assert "g0" not in set(adata.uns[f"{KEY}_top_markers"]["gene"])


def test_a_group_without_markers_has_no_rows():
    adata = cells()
    adata.obs["random"] = np.random.default_rng(0).permutation(adata.obs[KEY].to_numpy(copy=True))
    scs.tl.markers(adata, "random")
    assert adata.uns["random_top_markers"].empty


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
@pytest.mark.parametrize("names", [("a", "b", "c"), ("CD4/CD8", "b", "c")])
def test_files(names, suffix, tmp_path):
    adata = cells(names)
    scs.tl.markers(adata, KEY)
    path = tmp_path / f"a.{suffix}"
    getattr(adata, f"write_{suffix}")(path)
    back = getattr(ad, f"read_{suffix}")(path)
    top = back.uns[f"{KEY}_top_markers"]
    pd.testing.assert_frame_equal(top, adata.uns[f"{KEY}_top_markers"], check_dtype=False)
    table = sc.get.rank_genes_groups_df(back, None, key=f"{KEY}_markers")
    assert set(table["group"]) == set(names)
    assert ("pct_nz_group" in table) == ("CD4/CD8" not in names)
    scs.pl.markers(back, KEY).figure.canvas.draw()


def test_columns_of_names_and_numbers_and_another_name():
    adata = cells(("0", "1", "2"))
    adata.obs["number"] = adata.obs[KEY].astype(int)
    adata.obs["name"] = adata.obs[KEY].astype(str)
    for column in ("number", "name"):
        scs.tl.markers(adata, column, key_added="mine")
        pd.testing.assert_frame_equal(
            adata.uns["mine_top_markers"],
            scs.tl.markers(adata, KEY, copy=True).uns[f"{KEY}_top_markers"],
        )


def test_names_of_types_do_not_say_what_counts_the_clusters_are_from():
    """Annotation read counts, too, but made no groups."""
    adata = cells()
    scs.pp.split_counts(adata)
    adata.uns[KEY] = {"params": {"layer": "counts_fit", "split_seed": 0}}
    scs.tl.markers(adata, KEY, layer="counts_test")
    assert adata.uns[f"{KEY}_markers"]["params"]["clustered"] == "unknown"


@pytest.mark.parametrize("change", ["renamed", "others", "joined", "lost"])
def test_what_other_groups_were_found_in_is_not_known(change):
    """A record of the name of a column is not about whatever the column holds by now."""
    adata = cells()
    scs.pp.split_counts(adata)
    adata.uns[KEY] = {"params": {"layer": "counts_fit", "split_seed": 0}, "manifest": {}}
    adata.obsm[f"{KEY}_proba"] = np.eye(3)[adata.obs[KEY].cat.codes]
    if change == "renamed":
        adata.obs[KEY] = adata.obs[KEY].map({"a": "b", "b": "c", "c": "kind"})
    elif change == "others":
        adata.obs[KEY] = np.where(np.arange(adata.n_obs) < 45, "a", "b")
    elif change == "joined":
        adata.obs[KEY] = adata.obs[KEY].map({"a": "a", "b": "b", "c": "b"})
    else:
        del adata.obsm[f"{KEY}_proba"]
    scs.tl.markers(adata, KEY, layer="counts_test")
    params = adata.uns[f"{KEY}_markers"]["params"]
    assert params["clustered"] == ("counts_fit" if change == "renamed" else "unknown")
    assert params["double_dipping"] == (change != "renamed")


@pytest.mark.parametrize(
    ("params", "layer", "clustered", "wanted"),
    [
        ({"layer": "counts"}, "counts", None, ("X", "X", True)),
        ({"layer": "counts_fit"}, "counts_test", None, ("counts_fit", "counts_test", False)),
        ({"layer": "counts_test"}, "counts_test", None, ("counts_test", "counts_test", True)),
        # An embedding may have been made from all counts.
        (
            {"layer": "counts_fit", "use_rep": "X_pca"},
            "counts_test",
            None,
            ("unknown", "counts_test", True),
        ),
        (None, "counts_test", None, ("unknown", "counts_test", True)),
        # Another split shares counts with both parts of this one.
        (
            {"layer": "counts_fit", "split_seed": 1},
            "counts_test",
            None,
            ("unknown", "counts_test", True),
        ),
        # The other groups are from elsewhere.
        (
            {"layer": "counts_fit", "restrict_to": {"k": np.array(["0"])}},
            "counts_test",
            None,
            ("unknown", "counts_test", True),
        ),
        (None, "counts_test", "counts_fit", ("counts_fit", "counts_test", False)),
    ],
)
def test_double_dipping_is_recorded_and_said_once(params, layer, clustered, wanted, caplog):
    adata = cells()
    scs.pp.split_counts(adata)
    if params is not None:
        seed = {"split_seed": 0} if params["layer"] != "counts" else {}
        adata.uns[KEY] = {"params": seed | params, "manifest": {}}
        adata.obsm[f"{KEY}_proba"] = np.eye(3)[adata.obs[KEY].cat.codes]
    with caplog.at_level(logging.INFO, "scsiameseclu_jax"):
        scs.tl.markers(adata, KEY, layer=layer, clustered=clustered)
    record = adata.uns[f"{KEY}_markers"]["params"]
    assert (record["clustered"], record["tested"], record["double_dipping"]) == wanted
    assert caplog.text.count("p-values") == 1
    assert ("too small" in caplog.text) == wanted[2]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"groupby": "other"}, KeyError, "siameseclu"),
        ({"groupby": "score"}, ValueError, "groups"),
        ({"groupby": "nothing"}, ValueError, "missing"),
        ({"groupby": "one"}, ValueError, "two groups"),
        ({"key_added": "a/b"}, ValueError, "'/'"),
        ({"layer": "other"}, KeyError, "layer"),
        ({"method": "logreg"}, ValueError, "method"),
        ({"n_top": 0}, ValueError, "n_top"),
        ({"min_cells": 1}, ValueError, "min_cells"),
        ({"min_share": 2}, ValueError, "min_share"),
        ({"alpha": -1}, ValueError, "alpha"),
    ],
)
def test_bad_input(options, error, match):
    adata = cells()
    adata.obs["score"] = 0.5
    adata.obs["nothing"] = pd.Categorical([None] * adata.n_obs)
    adata.obs["one"] = "a"
    with pytest.raises(error, match=match):
        scs.tl.markers(adata, **({"groupby": KEY} | options))


def test_genes_of_one_name():
    adata = cells()
    adata.var_names = ["g0", *adata.var_names[:-1]]
    with pytest.raises(ValueError, match="var_names_make_unique"):
        scs.tl.markers(adata, KEY)


def test_plot_has_the_largest_cluster_first(pbmc, top):
    ax = scs.pl.markers(pbmc, KEY, n=2)
    ax.figure.canvas.draw()
    assert isinstance(ax, Axes)
    clusters = [label.get_text() for label in ax.get_xticklabels()]
    assert clusters == pbmc.obs[KEY].value_counts().index.tolist()
    genes = [label.get_text() for label in ax.get_yticklabels()]
    assert genes[:2] == top["gene"][top["cluster"] == "Dendritic"].tolist()[:2]
    assert len(genes) == 2 * len(clusters)
    counts = pbmc[pbmc.obs[KEY] == "Dendritic", genes[0]].X.toarray()
    sizes = ax.collections[0].get_sizes()
    assert sizes[0] / sizes.max() == pytest.approx((counts > 0).mean(), abs=0.02)
    assert ax.collections[0].get_array().max() == 1


def test_plot_of_forty_clusters_on_given_axes(tmp_path):
    adata = cells([f"cluster {i}" for i in range(40)], n_each=8, n_genes=170)
    scs.tl.markers(adata, KEY)
    ax = Figure().add_subplot()
    assert scs.pl.markers(adata, KEY, ax=ax) is ax
    figure = scs.pl.markers(adata, KEY).figure
    figure.savefig(tmp_path / "markers.png")
    assert len(figure.axes[0].get_xticks()) == 40
    assert len(figure.axes[0].get_yticks()) == 120


def test_plot_without_markers():
    adata = cells()
    with pytest.raises(KeyError, match=r"scs\.tl\.markers"):
        scs.pl.markers(adata, KEY)
    scs.tl.markers(adata, KEY)
    with pytest.raises(ValueError, match="`n`"):
        scs.pl.markers(adata, KEY, n=0)
    adata.uns[f"{KEY}_top_markers"] = adata.uns[f"{KEY}_top_markers"].iloc[:0]
    with pytest.raises(ValueError, match="marks"):
        scs.pl.markers(adata, KEY)


def test_expression_of_some_genes_is_that_of_all():
    adata = scs.datasets.simulate(n_cells=30, n_genes=20, n_clusters=2)
    genes = [adata.var_names[i] for i in (7, 2)]
    some, whole = log_expression(adata, genes=genes), log_expression(adata)
    assert list(some.var_names) == genes
    np.testing.assert_array_equal(some.X.toarray(), whole[:, genes].X.toarray())
    with pytest.raises(KeyError, match=r"found \['none'\]"):
        log_expression(adata, genes=[genes[0], "none"])
