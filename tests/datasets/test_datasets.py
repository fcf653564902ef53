"""Real data, the bundled set, and what the readers import."""

import ast
from pathlib import Path

import numpy as np
import pytest
import scanpy as sc
from scipy import sparse

from benchmarks import real_data
from scsiameseclu_jax import datasets, inputs
from scsiameseclu_jax.datasets import bundled, readers
from tests.files import (
    COUNTS,
    annotated,
)

# Real data.

SHAPES = {
    "kidney": (5685, 2000, 11),
    "cite_cbmc": (8617, 2000, 15),
    "pbmc4k": (4271, 2000, 8),
    "worm": (4186, 2000, 10),
    "baron_mouse1": (822, 14878, 13),
    "pbmc3k": (2638, 13713, 9),
    "kang": (1556, 1267, 5),
    "paul15": (2660, 3004, 7),
}


@pytest.mark.parametrize("name", list(SHAPES))
def test_real_data(name):
    if name not in real_data.available():
        pytest.skip(f"no {real_data.FILES[name]} in {real_data.folder()}")
    adata, labels = real_data.load(name)
    n_cells, n_genes, n_types = SHAPES[name]
    assert adata.shape == (n_cells, n_genes)
    assert labels.shape == (n_cells,)
    assert labels.dtype.kind == "U"
    assert len(set(labels)) == n_types
    assert list(adata.obs) == (["batch"] if name == "kang" else [])
    assert isinstance(adata.X, sparse.csr_matrix)
    assert adata.X.data.min() >= 0
    np.testing.assert_array_equal(adata.X.data, np.round(adata.X.data))


def test_where_real_data_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv(real_data.VARIABLE, str(tmp_path))
    assert real_data.available() == {}
    assert list(real_data.MAIN) == list(SHAPES)
    for name in ("paul15", "kidney"):
        (tmp_path / real_data.FILES[name]).touch()
    assert list(real_data.available()) == ["kidney", "paul15"]
    with pytest.raises(FileNotFoundError, match="10X_PBMC_top2000"):
        real_data.load("pbmc4k")
    with pytest.raises(ValueError, match=r"Expected `name` to be one of .*found 'pbmc'"):
        real_data.load("pbmc")
    monkeypatch.setenv(real_data.VARIABLE, str(tmp_path / "none"))
    with pytest.raises(NotADirectoryError, match=real_data.VARIABLE):
        real_data.available()
    monkeypatch.delenv(real_data.VARIABLE)
    monkeypatch.setattr(real_data, "BESIDE", tmp_path / "none")
    assert real_data.available() == {}


def test_real_data_come_without_labels(tmp_path, monkeypatch):
    adata = annotated()
    adata.obs["batch"], adata.obs["subtype"] = ["x", "y", "x"], ["B1", "T1", "B2"]
    adata.write_h5ad(tmp_path / real_data.FILES["kang"])
    monkeypatch.setenv(real_data.VARIABLE, str(tmp_path))
    bare, labels = real_data.load("kang")
    assert list(bare.obs) == ["batch"]
    assert labels.tolist() == ["B", "T", "B"]


# The bundled set.


def test_pbmc68k_reduced():
    adata, source = datasets.pbmc68k_reduced(), sc.datasets.pbmc68k_reduced()
    assert adata.shape == (700, 765)
    assert isinstance(adata.X, sparse.csr_matrix)
    assert adata.X.dtype == np.float32
    assert adata.X.data.min() == 1
    np.testing.assert_array_equal(adata.X.data, np.round(adata.X.data))
    # Back again.
    totals = source.obs["n_counts"].to_numpy()[:, None]
    logged = np.log1p(adata.X.toarray() / totals * 1e4)
    np.testing.assert_allclose(logged, source.raw.X.toarray(), atol=2e-3)
    assert adata.obs_names.equals(source.obs_names)
    assert adata.var_names.equals(source.raw.var_names)
    assert adata.obs["cell_type"].tolist() == source.obs["bulk_labels"].tolist()
    assert adata.obs["cell_type"].dtype == "category"


@pytest.mark.parametrize("change", [lambda x: x * 1.1, lambda x: -x, lambda x: x * np.nan])
def test_counts_that_can_not_be_recovered(change):
    totals = np.array([500.0, 300.0, 700.0])
    logged = sparse.csr_matrix(np.log1p(COUNTS / totals[:, None] * 1e4))
    np.testing.assert_array_equal(bundled._recover_counts(logged, totals).toarray(), COUNTS)
    logged.data = change(logged.data)
    with pytest.raises(ValueError, match="Expected scanpy's pbmc68k_reduced to hold"):
        bundled._recover_counts(logged, totals)


def test_imports_stay_below():
    """The readers serve tools that have no use for JAX."""
    allowed = {
        "__future__",
        "anndata",
        "collections",
        "csv",
        "dataclasses",
        "h5py",
        "numpy",
        "importlib",
        "logging",
        "os",
        "pandas",
        "pathlib",
        "scanpy",
    }
    allowed |= {
        "contextlib",
        "gzip",
        "io",
        "itertools",
        "re",
        "scipy",
        "typing",
        "warnings",
        "zarr",
        "zlib",
    }
    files = sorted(Path(readers.__file__).parent.glob("*.py"))
    assert len(files) == 10
    files.append(Path(inputs.__file__))
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                own = name.startswith(
                    tuple(f"scsiameseclu_jax.{below}" for below in ("datasets", "files", "inputs"))
                )
                assert own or name.split(".")[0] in allowed, (file.name, name)
