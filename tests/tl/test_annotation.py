"""Cell types by markers: right on real blood, modest where evidence is thin, written safely."""

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

import scsiameseclu_jax as scs
from benchmarks import real_data
from scsiameseclu_jax.preprocessing.expression import log_expression
from scsiameseclu_jax.tl import marker_scores as annotation

KEY = "cell_type"
TYPES = {"A": ["a0", "a1", "a2"], "B": ["b0", "b1", "b2"], "C/D": ["c0", "c1", "c2"]}


def cells(n_each=30, seed=0, n_clusters=3):
    """Three types with three markers each, and fifty genes that mark nothing."""
    rng = np.random.default_rng(seed)
    names = [gene for genes in TYPES.values() for gene in genes] + [f"g{i}" for i in range(50)]
    mean = rng.gamma(2, 1, (1, len(names))).repeat(n_clusters, axis=0)
    mean[:, :9] = 1
    for i in range(3):
        mean[i, 3 * i : 3 * i + 3] += 8
    codes = np.arange(n_each * n_clusters) % n_clusters
    adata = AnnData(sparse.csr_matrix(rng.poisson(mean[codes]).astype(np.float32)))
    adata.var_names = names
    adata.obs["k"] = pd.Categorical.from_codes(codes, [str(i) for i in range(n_clusters)])
    return adata


def components(adata):
    """An embedding that has seen no labels."""
    logged = log_expression(adata).X.toarray()
    spread = logged.std(axis=0)
    variable = np.argsort(-spread)[:1000]
    values = (logged - logged.mean(axis=0))[:, variable] / np.where(spread > 0, spread, 1)[variable]
    return PCA(20, random_state=0).fit_transform(np.clip(values, -10, 10)).astype(np.float32)


def table(adata, key="k"):
    return adata.uns[f"{key}_annotation"]["table"].set_index("cluster")


def test_bundled_blood():
    adata = scs.datasets.pbmc68k_reduced()
    scs.tl.annotate_markers(adata, "blood", KEY)
    found = table(adata, KEY)
    wanted = {
        "CD19+ B": "B",
        "CD34+": "Progenitor",
        "CD4+/CD25 T Reg": "CD4 T",
        "CD4+/CD45RO+ Memory": "CD4 T",
        "CD56+ NK": "NK",
        "CD8+ Cytotoxic T": "CD8 T",
        "Dendritic": "Conventional dendritic",
    }
    assert found.loc[list(wanted), "annotation"].tolist() == list(wanted.values())
    # Naive CD8 cells are between two lists; "CD14+" of that set express CD16, the gene FCGR3A.
    assert found.loc["CD8+/CD45RA+ Naive Cytotoxic", ["annotation", "why"]].tolist() == [
        "Unassigned",
        "tied",
    ]
    assert found.loc["CD14+ Monocyte", "annotation"] == "FCGR3A+ monocyte"


@pytest.mark.parametrize(
    ("name", "names", "cells_right"),
    [
        (
            "pbmc3k",
            {
                "Naive CD4 T": "CD4 T",
                "Memory CD4 T": "CD4 T",
                "CD14+ Mono": "CD14+ monocyte",
                "FCGR3A+ Mono": "FCGR3A+ monocyte",
                "DC": "Conventional dendritic",
            },
            0.93,
        ),
        (
            "kang",
            {
                "CD14+ Monocytes": "CD14+ monocyte",
                "FCGR3A+ Monocytes": "FCGR3A+ monocyte",
                "B cells": "B",
                "CD4 T cells": "CD4 T",
                "CD8 T cells": "CD8 T",
            },
            0.85,
        ),
    ],
)
def test_known_types_of_blood_are_named(name, names, cells_right):
    if name not in real_data.available():
        pytest.skip(f"no {name}: see benchmarks/real_data.py")
    adata, labels = real_data.load(name)
    adata.obsm["X_k"] = components(adata)
    adata.obs["k"] = labels
    scs.tl.annotate_markers(adata, "blood", "k")
    found = table(adata)
    wanted = np.array([names.get(label, label) for label in labels])
    assert found["annotation"].tolist() == [names.get(label, label) for label in found.index]
    cell = adata.obs["k_annotation_cell"].astype(str)
    assert (cell == wanted)[cell != "Unassigned"].mean() > cells_right
    # Clusters that know nothing of types.
    adata.obs["k"] = KMeans(12, n_init=1, random_state=0).fit_predict(adata.obsm["X_k"]).astype(str)
    scs.tl.annotate_markers(adata, "blood", "k")
    cluster = adata.obs["k_annotation"].astype(str)
    assert (cluster == wanted)[cluster != "Unassigned"].mean() > cells_right - 0.05


def test_no_endocrine_cells_in_blood():
    adata = scs.datasets.pbmc68k_reduced()
    scs.tl.annotate_markers(adata, "pancreas", KEY)
    assert set(adata.obs[f"{KEY}_annotation"]) <= {"T", "Macrophage", "Unassigned"}


def test_lists_of_random_genes_name_hardly_any_cluster():
    adata = scs.datasets.pbmc68k_reduced()
    rng = np.random.default_rng(0)
    named = []
    for _ in range(4):
        lists = {f"type {i}": rng.choice(adata.var_names, 6, replace=False) for i in range(10)}
        scs.tl.annotate_markers(adata, lists, KEY)
        named += (table(adata, KEY)["annotation"] != "Unassigned").tolist()
    assert np.mean(named) < 0.15


def test_scores_are_mean_standardised_expression():
    adata = cells()
    scs.tl.annotate_markers(adata, TYPES, "k")
    logged = log_expression(adata).X.toarray().astype(float)
    z = (logged - logged.mean(axis=0)) / logged.std(axis=0)
    scores = adata.uns["k_annotation"]["scores"]
    assert scores.columns.tolist() == ["A", "B", "C|D"]
    for i, genes in enumerate(TYPES.values()):
        columns = [adata.var_names.get_loc(gene) for gene in genes]
        for cluster in scores.index:
            wanted = z[adata.obs["k"] == cluster][:, columns].mean()
            assert scores.loc[cluster].iloc[i] == pytest.approx(wanted, abs=1e-5)
    found = table(adata)
    assert found["annotation"].tolist() == list(TYPES)
    ordered = np.sort(scores.to_numpy(), axis=1)
    np.testing.assert_allclose(found["score"], ordered[:, -1])
    assert found["n_markers"].tolist() == found["n_seen"].tolist() == [3, 3, 3]
    assert adata.obs["k_annotation"].tolist() == [list(TYPES)[int(k)] for k in adata.obs["k"]]


def test_cells_alone_and_with_their_neighbours():
    adata = cells()
    truth = np.array(list(TYPES))[adata.obs["k"].astype(int)]
    scs.tl.annotate_markers(adata, TYPES, "k")
    alone = adata.obs["k_annotation_cell"].astype(str)
    data = annotation.standard(log_expression(adata).X.astype(float))
    found = annotation.Present(["A"], [np.arange(3)], {"A": 3})
    single = annotation.of_cells(data, None, found, n_draws=2, seed=0).scores
    near = np.array([[1, 2]] * adata.n_obs)
    smooth = annotation.of_cells(data, near, found, n_draws=2, seed=0).scores
    np.testing.assert_allclose(smooth, (single + single[1] + single[2]) / 3, rtol=1e-4, atol=1e-6)
    assert (alone == truth)[alone != "Unassigned"].mean() > 0.95

    adata.obsm["X_k"] = components(adata)
    adata.obsm["X_k"][:3] = np.nan  # cells that were not clustered
    scs.tl.annotate_markers(adata, TYPES, "k")
    together = adata.obs["k_annotation_cell"].astype(str)
    assert (together == truth)[3:].mean() > max(0.9, (alone == truth).mean())
    assert adata.obs["k_annotation_cell_score"].notna().all()
    assert adata.uns["k_annotation"]["params"]["use_rep"] == "X_k"


def test_ties_and_thin_evidence_are_unassigned(caplog):
    adata = cells(n_clusters=4)
    lists = TYPES | {"A too": ["a0", "a1", "a2"], "rare": ["b0", "absent"]}
    with caplog.at_level(logging.INFO, "scsiameseclu_jax"):
        scs.tl.annotate_markers(adata, lists, "k")
    assert "'rare'" in caplog.text
    found = table(adata)
    assert found["annotation"].tolist() == ["Unassigned", "B", "C/D", "Unassigned"]
    assert found["why"].tolist() == ["tied", "", "", "thin"]
    assert adata.obs["k_annotation"].cat.categories.tolist() == ["B", "C/D", "Unassigned"]
    # Of one type there is no second.
    scs.tl.annotate_markers(adata, {"B": TYPES["B"]}, "k")
    found = table(adata)
    assert found["annotation"].tolist() == ["Unassigned", "B", "Unassigned", "Unassigned"]
    assert found["margin"].isna().all()
    assert (found["second"] == "").all()


def test_cells_without_a_cluster_have_no_annotation():
    adata = cells()
    adata.obs["k"] = adata.obs["k"].cat.add_categories("Unassigned")
    adata.obs.iloc[[0, 3], 0] = "Unassigned"
    adata.obs.iloc[[1], 0] = np.nan
    scs.tl.annotate_markers(adata, TYPES, "k")
    assert adata.obs["k_annotation"].iloc[[0, 1, 3]].tolist() == ["Unassigned"] * 3
    assert table(adata).index.tolist() == ["0", "1", "2"]
    adata.obs["k"] = "Unassigned"
    with pytest.raises(ValueError, match="only 'Unassigned'"):
        scs.tl.annotate_markers(adata, TYPES, "k")


def test_genes_whatever_their_case_and_version():
    adata = cells()
    wanted = scs.tl.annotate_markers(adata, TYPES, "k", copy=True).uns["k_annotation"]
    upper = {kind: [gene.upper() for gene in genes] for kind, genes in TYPES.items()}
    found = scs.tl.annotate_markers(adata, upper, "k", copy=True).uns["k_annotation"]
    pd.testing.assert_frame_equal(found["scores"], wanted["scores"])
    adata.var_names = [f"ENSG{i:011d}.{i % 4}" for i in range(adata.n_vars)]
    versions = {kind: [f"ENSG{3 * i + j:011d}" for j in range(3)] for i, kind in enumerate(TYPES)}
    found = scs.tl.annotate_markers(adata, versions, "k", copy=True).uns["k_annotation"]
    pd.testing.assert_frame_equal(found["scores"], wanted["scores"])
    assert found["markers"]["gene"].tolist() == adata.var_names[:9].tolist()


def test_lists_that_spell_a_gene_differently():
    adata = cells()
    wanted = scs.tl.annotate_markers(adata, TYPES, "k", copy=True).uns["k_annotation"]
    mixed = {kind: [*genes, genes[0].upper()] for kind, genes in TYPES.items()}
    found = scs.tl.annotate_markers(adata, mixed, "k", copy=True).uns["k_annotation"]
    pd.testing.assert_frame_equal(found["table"], wanted["table"])
    adata.var_names = [f"{name[0].upper()}{name[1:]}x" for name in adata.var_names]
    first = next(iter(TYPES))
    shared = {kind: [f"{gene}X" for gene in genes] for kind, genes in TYPES.items()}
    shared["other"] = [gene.upper() for gene in shared[first]]
    found = scs.tl.annotate_markers(adata, shared, "k", copy=True).uns["k_annotation"]
    genes = found["markers"].groupby("type")["gene"].agg(list)
    assert genes["other"] == genes[first]


def test_a_file_with_a_type_called_unassigned(tmp_path):
    (tmp_path / "a.csv").write_text("type,gene\nUnassigned,a0\nUnassigned,a1\n")
    with pytest.raises(ValueError, match="none called 'Unassigned'"):
        scs.tl.annotate_markers(cells(), tmp_path / "a.csv", "k")


def test_lists_from_files(tmp_path):
    adata = cells()
    wanted = scs.tl.annotate_markers(adata, TYPES, "k", copy=True).uns["k_annotation"]
    rows = [f"{kind},{gene}" for kind, genes in TYPES.items() for gene in genes]
    (tmp_path / "a.csv").write_text("\n".join(["type,gene", *rows]))
    sets = ["\t".join([kind, "what it is", *genes]) for kind, genes in TYPES.items()]
    (tmp_path / "a.gmt").write_text("\n".join(sets))
    for name in ("a.csv", "a.gmt"):
        found = scs.tl.annotate_markers(adata, tmp_path / name, "k", copy=True)
        pd.testing.assert_frame_equal(found.uns["k_annotation"]["table"], wanted["table"])
        assert found.uns["k_annotation"]["params"]["markers"].endswith(name)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_files(suffix, tmp_path):
    adata = cells()
    adata.uns["mine_annotation_colors"] = ["red"]
    adata = adata[:60]
    assert scs.tl.annotate_markers(adata, TYPES, "k", key_added="mine") is None
    assert not adata.is_view
    assert "mine_annotation_colors" not in adata.uns
    path = tmp_path / f"a.{suffix}"
    getattr(adata, f"write_{suffix}")(path)
    back = getattr(ad, f"read_{suffix}")(path)
    assert back.obs["mine_annotation"].tolist() == adata.obs["mine_annotation"].tolist()
    assert back.obs["mine_annotation_cell_score"].dtype == np.float32
    for part in ("table", "scores", "markers"):
        one, other = (data.uns["mine_annotation"][part] for data in (back, adata))
        pd.testing.assert_frame_equal(one, other, check_dtype=False)


def test_the_object_stays_as_it_was_and_the_seed_decides():
    adata = cells()
    counts = adata.X.copy()
    one = scs.tl.annotate_markers(adata, TYPES, "k", copy=True)
    two = scs.tl.annotate_markers(adata, TYPES, "k", copy=True)
    assert adata.obs.columns.tolist() == ["k"]
    assert (adata.X - counts).nnz == (one.X - counts).nnz == 0
    pd.testing.assert_frame_equal(one.obs, two.obs)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"markers": {"A": ["x", "y"]}}, ValueError, "named like a0"),
        ({"markers": {"A": ["a0", "y"]}}, ValueError, "min_markers"),
        ({"markers": {"A": "a0"}}, ValueError, "list of genes"),
        ({"markers": {}}, ValueError, "genes by type"),
        ({"markers": {"Unassigned": ["a0", "a1"]}}, ValueError, "Unassigned"),
        ({"markers": {1: ["a0"], "1": ["a1"]}}, ValueError, "names that differ"),
        ({"markers": {np.nan: ["a0"]}}, ValueError, "names that differ"),
        ({"markers": ["a0", "a1"]}, TypeError, "found list"),
        ({"markers": "brain"}, FileNotFoundError, "'blood', 'pancreas'"),
        ({"groupby": "other"}, KeyError, "other"),
        ({"use_rep": "other"}, KeyError, "use_rep"),
        ({"layer": "other"}, KeyError, "layer"),
        ({"key_added": "a/b"}, ValueError, "'/'"),
        ({"min_markers": 0}, ValueError, "min_markers"),
        ({"min_margin": -1}, ValueError, "min_margin"),
        ({"alpha": 2}, ValueError, "alpha"),
        ({"rng": -1}, ValueError, "rng"),
    ],
)
def test_bad_input(options, error, match):
    with pytest.raises(error, match=match):
        scs.tl.annotate_markers(cells(), **({"markers": TYPES, "groupby": "k"} | options))


def test_only_markers_and_logarithms():
    adata = cells()[:, :9].copy()
    with pytest.raises(ValueError, match="only markers"):
        scs.tl.annotate_markers(adata, TYPES, "k")
    adata.X = adata.X.log1p()
    with pytest.raises(ValueError, match="log-normalised"):
        scs.tl.annotate_markers(adata, TYPES, "k")
