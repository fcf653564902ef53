"""Readers of the two HDF5 layouts of the field's papers."""

import h5py
import numpy as np
import pytest
from scipy import sparse

from scsiameseclu_jax import datasets
from scsiameseclu_jax.datasets import hdf5
from tests.files import CELLS, COUNTS, IDS, SYMBOLS, UNIQUE, checked, parts, text, write

# X and Y.


@pytest.mark.parametrize(
    ("labels", "expected", "categories"),
    [
        (np.array([10, 2, 10]), ["10", "2", "10"], ["2", "10"]),
        (np.array([10.0, 2.0, 10.0]), ["10", "2", "10"], ["2", "10"]),
        (np.array([[10], [2], [10]], dtype=np.int8), ["10", "2", "10"], ["2", "10"]),
        (np.array([1.5, 1.0, 1.5]), ["1.5", "1.0", "1.5"], ["1.0", "1.5"]),
        (text(["T", "B", "T"]), ["T", "B", "T"], ["B", "T"]),
        (np.array(["T", "β", "T"], dtype=object), ["T", "β", "T"], ["T", "β"]),
    ],
)
def test_labels(tmp_path, labels, expected, categories):
    path = write(tmp_path / "a.h5", X=COUNTS.astype(np.float32), Y=labels, ADT_X=np.ones((3, 2)))
    adata = checked(datasets.read(path))
    assert list(adata.obs) == ["cell_type"]
    assert adata.obs["cell_type"].tolist() == expected
    assert adata.obs["cell_type"].cat.categories.tolist() == categories
    assert adata.obs_names.tolist() == ["cell_0", "cell_1", "cell_2"]
    assert adata.var_names.tolist() == ["gene_0", "gene_1", "gene_2", "gene_3"]
    adata.write_h5ad(tmp_path / "again.h5ad")
    assert datasets.read(tmp_path / "again.h5ad").obs["cell_type"].tolist() == expected


def test_missing_labels_stay_missing(tmp_path):
    adata = datasets.read(write(tmp_path / "a.h5", X=COUNTS, Y=np.array([1.0, np.nan, 2.0])))
    assert adata.obs["cell_type"].cat.categories.tolist() == ["1", "2"]
    assert adata.obs["cell_type"].isna().tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [">f4", ">i2", "f2", "f8", "u1", "?"])
def test_plain_matrix_types(tmp_path, dtype):
    dtype = np.dtype(dtype)
    adata = datasets.read(write(tmp_path / "a.h5", X=COUNTS.astype(dtype)))
    result = dtype.newbyteorder("=") if dtype.kind in "iu" else np.float32
    checked(adata, COUNTS.astype(dtype), result)
    assert list(adata.obs) == []


@pytest.mark.parametrize("chunks", [None, (2, 3), (3, 1)])
def test_dense_matrix_in_blocks(tmp_path, monkeypatch, chunks):
    counts = np.random.default_rng(0).poisson(1.0, (11, 6))
    monkeypatch.setattr(hdf5, "_BLOCK", 20)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("X", data=counts, chunks=chunks)
    checked(datasets.read(tmp_path / "a.h5"), counts, counts.dtype)


# exprs.


@pytest.mark.parametrize(
    "exprs",
    [parts(COUNTS.astype(float)), COUNTS.astype(float), {"matrix": COUNTS.astype(float)}],
    ids=["sparse", "dense", "group"],
)
def test_exprs(tmp_path, exprs):
    path = write(
        tmp_path / "quake.h5",
        exprs=exprs,
        obs_names=text(CELLS),
        var_names=text(UNIQUE),
        obs={
            "cell_type1": text(["B", "T", "B"]),
            "depth": np.array([4.0, 2.0, 6.0]),
            "stage": np.array([1, 0, -1], dtype=np.int8),
            "organ": {"codes": np.array([0, 1, 0]), "categories": text(["lung", "heart"])},
            "__categories": {"stage": text(["early", "late"])},
        },
        var={"length": np.arange(4)},
        uns={"note": text(["ignored"])},
    )
    adata = checked(datasets.read(path))
    assert adata.obs_names.tolist() == CELLS
    assert adata.var_names.tolist() == UNIQUE
    assert set(adata.obs) == {"cell_type1", "depth", "stage", "organ"}
    assert adata.obs["cell_type1"].tolist() == ["B", "T", "B"]
    assert adata.obs["depth"].tolist() == [4.0, 2.0, 6.0]
    assert adata.obs["stage"].cat.categories.tolist() == ["early", "late"]
    assert adata.obs["stage"].tolist()[:2] == ["late", "early"]
    assert adata.obs["stage"].isna().tolist() == [False, False, True]
    assert adata.obs["organ"].tolist() == ["lung", "heart", "lung"]
    assert adata.var["length"].tolist() == [0, 1, 2, 3]


def test_exprs_with_compound_tables(tmp_path):
    obs = np.array(
        list(zip(CELLS, [7, 8, 9], strict=True)), dtype=[("obs_names", "S8"), ("n", int)]
    )
    var = np.array([(name,) for name in IDS], dtype=[("var_names", "S8")])
    adata = checked(
        datasets.read(write(tmp_path / "a.h5", exprs=COUNTS, obs=obs, var=var)), dtype=int
    )
    assert adata.obs_names.tolist() == CELLS
    assert adata.obs["n"].tolist() == [7, 8, 9]
    assert adata.var_names.tolist() == IDS


def test_exprs_alone(tmp_path):
    adata = checked(
        datasets.read(write(tmp_path / "a.h5", exprs=parts(COUNTS))), dtype=COUNTS.dtype
    )
    assert adata.obs_names.tolist() == ["cell_0", "cell_1", "cell_2"]
    assert adata.var_names[-1] == "gene_3"


def test_repeated_names_are_left_to_the_check(tmp_path):
    path = write(tmp_path / "a.h5", exprs=COUNTS, var_names=text(SYMBOLS))
    with pytest.warns(UserWarning, match="Variable names are not unique"):
        adata = datasets.read(path)
    assert adata.var_names.tolist() == SYMBOLS


def test_column_by_column_sparse_matrix(tmp_path):
    matrix = sparse.csc_matrix(COUNTS)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("X")
        group.attrs["encoding-type"] = "csc_matrix"
        group.attrs["shape"] = matrix.shape
        for key in ("data", "indices", "indptr"):
            group[key] = getattr(matrix, key)
    checked(datasets.read(tmp_path / "a.h5"), dtype=COUNTS.dtype)
