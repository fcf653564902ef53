"""Whatever users call a thing: what is stored can be written, and is read back equal."""

import logging
import sys
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

import scsiameseclu_jax as scs
from scsiameseclu_jax import checks
from scsiameseclu_jax.tl import transfer
from scsiameseclu_jax.tl.ties import restriction_of
from tests.cli.test_cli import FIT, trained
from tests.labelled import without_fit
from tests.stored import same

HOSTILE = ["CL:0000236", "", "_index", "cluster", "CD4/CD8", "CD4|CD8", "a\\b", "..", ".zgroup"]
HOSTILE += ["細胞 😀", "nan", "x" * 300, "type"]
N = len(HOSTILE)
CONFIG = scs.Config.from_dict({"training": {"contrast_steps": 0}})


@pytest.fixture(scope="module")
def everything():
    """Cells of types with hostile names, and what every tool stores of them."""
    rng = np.random.default_rng(0)
    codes = np.arange(12 * N) % N
    mean = np.full((N, 5 * N), 0.3)
    for i in range(N):
        mean[i, 3 * i : 3 * i + 3] = 6
    adata = ad.AnnData(sparse.csr_matrix(rng.poisson(mean[codes]).astype(np.float32)))
    adata.var_names = [f"g{i}" for i in range(5 * N)]
    adata.obs["kind"] = pd.Categorical.from_codes(codes, HOSTILE)
    adata.obsm["X_kind"] = (8 * np.eye(N)[codes] + rng.normal(size=(12 * N, N))).astype(np.float32)
    adata.obsm["X_mine"] = adata.obsm["X_kind"].copy()
    with pytest.MonkeyPatch.context() as patch:
        without_fit(patch)
        patch.setattr(transfer, "embed", lambda prepared, *_, **__: (prepared.features, {}))
        patch.setitem(sys.modules, "celltypist", SimpleNamespace(annotate=_celltypist))
        scs.tl.markers(adata, "kind")
        lists = {kind: [f"g{3 * i + j}" for j in range(3)] for i, kind in enumerate(HOSTILE)}
        scs.tl.annotate_markers(adata, lists, "kind")
        scs.tl.cluster_tree(adata, [3, N + 2], "kind", key_added="tree")
        scs.tl.classify(adata, "kind", key="mine", config=CONFIG)
        scs.tl.transfer_labels(adata, adata.copy(), "kind", config=CONFIG, unlabeled="")
        scs.tl.celltypist(adata, "a/model", groupby="kind")
        scs.tl.estimate_n_clusters(adata, k_max=4)
        patch.setattr(FIT, trained)
        scs.tl.siameseclu(adata, 3, config=CONFIG)
        scs.tl.siameseclu(adata, 2, restrict_to=("kind", HOSTILE[:3]), config=CONFIG)
    return adata


def _celltypist(cells, *, over_clustering, **_):
    types = pd.DataFrame(0.0, cells.obs_names, HOSTILE)
    for name in HOSTILE:
        types.loc[over_clustering == name, name] = 1.0
    labels = pd.DataFrame({"majority_voting": over_clustering, "predicted_labels": over_clustering})
    return SimpleNamespace(probability_matrix=types, predicted_labels=labels)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_everything_is_read_back_equal(everything, suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    getattr(everything, f"write_{suffix}")(path)
    back = getattr(ad, f"read_{suffix}")(path)
    same(dict(everything.uns), dict(back.uns))
    assert list(back.obs) == list(everything.obs)
    for name in back.obs:
        one, other = everything.obs[name], back.obs[name]
        same(one.to_numpy(), other.to_numpy())
        if isinstance(one.dtype, pd.CategoricalDtype):
            assert one.cat.categories.tolist() == other.cat.categories.tolist()
    same(dict(everything.obsm), dict(back.obsm))
    for key in ("siameseclu", "siameseclu_R"):
        assert scs.Config.from_dict(back.uns[key]["params"]["config"]) == CONFIG
    assert restriction_of(back.uns["siameseclu_R"]["params"]) == ("kind", HOSTILE[:3])
    scs.pl.markers(back, "kind").figure.canvas.draw()


def test_names_stay_as_they_are_where_they_are_values(everything):
    ranked = everything.uns["kind_markers"]
    assert ranked["params"]["groups"].tolist() == HOSTILE
    top = everything.uns["kind_top_markers"]
    for i, name in enumerate(HOSTILE):
        assert {f"g{3 * i + j}" for j in range(3)} <= set(top["gene"][top["cluster"] == name])
    record = everything.uns["kind_annotation"]
    assert record["types"].tolist() == HOSTILE
    assert record["table"]["cluster"].tolist() == record["table"]["annotation"].tolist() == HOSTILE
    assert everything.obs["kind_annotation"].tolist() == everything.obs["kind"].tolist()
    columns = dict(zip(record["types"], record["scores"], strict=True))
    assert columns["CL:0000236"] == "CL|0000236"
    assert columns["CD4|CD8"] == "CD4|CD8"
    assert columns["CD4/CD8"] == "CD4|CD8_2"
    best = [record["scores"].loc[name].idxmax() for name in HOSTILE]
    assert best == [columns[name] for name in HOSTILE]
    # cells without a type are none: empty names are no types here
    assert everything.uns["classified"]["types"].tolist() == sorted(set(HOSTILE) - {""})
    assert everything.obs["celltypist"].tolist() == everything.obs["kind"].tolist()


def test_scanpy_reads_markers_of_usual_names_as_they_are():
    adata = scs.datasets.simulate(n_cells=90, n_genes=40, n_clusters=3, difficulty=0.2)
    names = {"0": "B cell", "1": "CD4+/CD45RA+", "2": "CL:1"}
    adata.obs["k"] = adata.obs["cell_type"].astype(str).map(names)
    scs.tl.markers(adata, "k")
    table = sc.get.rank_genes_groups_df(adata, None, key="k_markers")
    assert set(table["group"]) == {"B cell", "CD4+/CD45RA+", "CL|1"}
    assert "pct_nz_group" not in table  # a column cannot be called as the field is
    adata.obs["k"] = adata.obs["k"].replace("CD4+/CD45RA+", "T")
    scs.tl.markers(adata, "k")
    table = sc.get.rank_genes_groups_df(adata, "CL|1", key="k_markers")
    shares = adata.X[(adata.obs["k"] == "CL:1").to_numpy()].getnnz(axis=0)
    found = table.set_index("names")["pct_nz_group"].loc[adata.var_names]
    np.testing.assert_allclose(found, shares / (adata.obs["k"] == "CL:1").sum())


@pytest.mark.parametrize("column", ["leiden/0.5", "_index"])
def test_a_column_that_no_file_can_hold_as_a_key(column, tmp_path, monkeypatch):
    monkeypatch.setattr(FIT, trained)
    adata = scs.datasets.simulate(n_cells=60, n_genes=40, n_clusters=3)
    adata.obs[column] = np.where(np.arange(60) < 40, "a/b", "c:d")
    scs.tl.siameseclu(adata, 3, restrict_to=(column, ["a/b"]))
    del adata.obs[column]  # which a file may not hold, either
    for suffix in ("h5ad", "zarr"):
        getattr(adata, f"write_{suffix}")(tmp_path / f"a.{suffix}")
        back = getattr(ad, f"read_{suffix}")(tmp_path / f"a.{suffix}").uns["siameseclu_R"]
        same(adata.uns["siameseclu_R"], back)
        assert restriction_of(back["params"]) == (column, ["a/b"])


def test_new_clusters_are_not_mixed_with_groups_of_their_names():
    adata = scs.datasets.simulate(n_cells=60, n_genes=40, n_clusters=3)
    adata.obs["k"] = np.resize(["3", "3,0", "5"], 60)
    with pytest.raises(ValueError, match=r"as new clusters of '3' are, found \['3,0'\]"):
        scs.tl.siameseclu(adata, 2, restrict_to=("k", ["3"]))
    assert list(adata.obs) == ["cell_type", "k"]


@pytest.mark.parametrize("name", ["", "a/b", "_index", "..", 5, None, ".zgroup", "a\\b"])
def test_keys_that_no_file_can_hold_are_refused_before_anything_starts(name):
    adata = scs.datasets.simulate(n_cells=60, n_genes=40, n_clusters=3)
    model = scs.SiameseClu(3)
    adata.obs[name] = adata.obs["cell_type"].copy()
    calls = [
        lambda: scs.tl.siameseclu(adata, 3, key_added=name),
        lambda: scs.tl.add_clusters(adata, model, key_added=name),
        lambda: scs.tl.predict(adata, model, key_added=name),
        lambda: scs.tl.classify(adata, "cell_type", key_added=name),
        lambda: scs.tl.transfer_labels(adata, adata, "cell_type", key_added=name),
        lambda: scs.tl.estimate_n_clusters(adata, key_added=name),
        lambda: scs.tl.markers(adata, name),
        lambda: scs.tl.annotate_markers(adata, {"a": ["b"]}, name),
        lambda: scs.tl.trajectory(adata, name),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="to be a name without '/' that files can store"):
            call()


def test_names_of_a_column():
    def names(*values, **options):
        return checks.names_in(pd.Series(values, **options)).tolist()

    assert names("b", None, "a", np.nan) == ["b", None, "a", None]
    assert names(2.0, np.nan, 10.0) == names(2, None, 10, dtype="Int64") == ["2", None, "10"]
    assert names(2.5, np.nan) == ["2.5", None]
    assert names(1, 2) == ["1", "2"]
    assert names(True, False) == ["True", "False"]
    assert names(1.0, np.nan, dtype="category") == ["1", None]
    assert names("a", None, dtype="category") == ["a", None]
    assert names("a", None, dtype="string") == ["a", None]
    assert names(*pd.to_datetime(["2024-01-02", None])) == ["2024-01-02", None]
    assert names(np.nan, None) == [None, None]
    assert names(dtype=object) == []


def test_storable_names_are_storable_and_differ():
    names = [*HOSTILE, "_", "__", "CL|0000236", "CD4|CD8_2", "é" * 150]
    found = checks.storable_names(names)
    assert len(set(found)) == len(names)
    assert all(map(checks.is_storable, found))
    kept = [name for name in names if checks.is_storable(name)]
    assert [new for name, new in zip(names, found, strict=True) if checks.is_storable(name)] == kept


def test_text_of_missing_values_is_said(caplog):
    column = pd.Series(["a", "nan", "None", "nan", "Nanni"])
    with caplog.at_level(logging.WARNING, "scsiameseclu_jax"):
        assert checks.names_in(column, "A batch").tolist() == column.tolist()
    assert "A batch is called 'None' or 'nan' in 3 cells, and counts as a name" in caplog.text
    caplog.clear()
    checks.names_in(column)
    assert not caplog.text


def test_groups_that_are_written_alike():
    adata = ad.AnnData(np.ones((4, 2)))
    adata.obs["k"] = pd.Categorical.from_codes([0, 1, 0, 1], [1, "1"])
    with pytest.raises(ValueError, match="two that are written alike among"):
        scs.tl.markers(adata, "k")


def test_errors_name_keys_that_are_no_text():
    adata = scs.datasets.simulate(n_cells=60, n_genes=40, n_clusters=4)
    model = scs.SiameseClu(3)
    adata.obs[0], adata.uns[5], adata.uns["more"], adata.uns["k"] = 1, 1, 1, {}
    adata.obs["k"] = adata.obs["cell_type"]
    calls = {
        "restrict_to": lambda: scs.tl.siameseclu(adata, 4, restrict_to=("nope", ["x"])),
        "batch_key": lambda: model.fit(adata, batch_key="nope", progress=False),
        "labels_key": lambda: scs.tl.classify(adata, "nope"),
        "groupby` to be": lambda: scs.tl.celltypist(adata, "m", groupby="nope"),
        "column of obs": lambda: scs.tl.markers(adata, "nope"),
        "one of": lambda: scs.tl.transfer_labels(adata, adata, "k", batch_key="nope"),
        "uns keys": lambda: scs.pl.markers(adata, "nope"),
        "'history'": lambda: scs.pl.history(adata, "nope"),
        "uns\\['nope_tree'\\]": lambda: scs.pl.cluster_tree(adata, "nope"),
        "trajectory": lambda: scs.pl.trajectory(adata, "nope"),
        "embedding": lambda: scs.tl.cluster_tree(adata, 2, "k"),
        "`color`": lambda: scs.pl.embedding(adata, "X_pca", color="nope"),
        "`labels`": lambda: scs.pl.confusion(adata, "nope", "k"),
    }
    for words, call in calls.items():
        with pytest.raises(KeyError, match=words):
            call()
