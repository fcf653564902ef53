"""Readers against files written here by hand, the bundled set, and the simulated cells."""

import ast
import gzip
import re
from importlib.metadata import version
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import io, sparse, stats
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.metrics import adjusted_rand_score

from benchmarks import real_data
from scsiameseclu_jax import datasets
from scsiameseclu_jax.datasets import bundled, hdf5, readers, simulation

COUNTS = np.array([[0, 3, 0, 1], [2, 0, 0, 0], [0, 0, 5, 1]])
CELLS = ["AAA-1", "CCC-1", "GGG-1"]
IDS = ["ENS1", "ENS2", "ENS3", "ENS4"]
# A symbol that repeats, and one that pandas takes for a missing value.
SYMBOLS = ["A", "NA", "A", "CD3"]
UNIQUE = ["A", "NA", "A-1", "CD3"]
KINDS = ["Gene Expression", "Gene Expression", "Gene Expression", "Antibody Capture"]


def checked(adata, counts=COUNTS, dtype=np.float32):
    assert isinstance(adata, ad.AnnData)
    assert isinstance(adata.X, sparse.csr_matrix)
    assert adata.X.dtype == dtype
    np.testing.assert_array_equal(adata.X.toarray(), counts)
    return adata


def found(path, *, match, error=ValueError):
    with pytest.raises(error, match=match) as caught:
        datasets.read(path)
    assert str(caught.value).startswith("Expected ")
    return str(caught.value)


def annotated(matrix=COUNTS):
    obs = pd.DataFrame({"cell_type": pd.Categorical(["B", "T", "B"])}, index=CELLS)
    return ad.AnnData(np.array(matrix), obs=obs, var=pd.DataFrame(index=UNIQUE))


def write(path, **items):
    """Values and, as nested dicts, groups."""

    def fill(group, items):
        for key, value in items.items():
            if isinstance(value, dict):
                fill(group.create_group(key), value)
            else:
                group[key] = value

    with h5py.File(path, "w") as file:
        fill(file, items)
    return path


def parts(matrix, *, by_gene=False):
    """The three arrays and the shape, as 10x has them or as CSR."""
    matrix = sparse.csr_matrix(matrix)
    shape = matrix.shape[::-1] if by_gene else matrix.shape
    return {
        "data": matrix.data,
        "indices": matrix.indices,
        "indptr": matrix.indptr,
        "shape": np.array(shape),
    }


def text(values):
    return np.array(values, dtype="S")


# AnnData.


@pytest.mark.parametrize("name", ["a.h5ad", "a.h5", "a.loom", "a"])
def test_h5ad_whatever_its_name(tmp_path, name):
    annotated(sparse.csc_matrix(COUNTS).astype(np.int16).toarray()).write_h5ad(tmp_path / name)
    adata = checked(datasets.read(str(tmp_path / name)), dtype=np.int16)
    assert adata.obs["cell_type"].tolist() == ["B", "T", "B"]
    assert adata.obs_names.tolist() == CELLS
    assert adata.var_names.tolist() == UNIQUE


@pytest.mark.parametrize("make", [np.array, sparse.csc_matrix, sparse.csr_matrix])
@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        (np.float64, np.float32),
        (np.float32, np.float32),
        (np.uint8, np.uint8),
        (np.int64, np.int64),
    ],
)
def test_matrix_types(tmp_path, make, dtype, result):
    adata = annotated()
    adata.X = make(COUNTS.astype(dtype))
    adata.write_h5ad(tmp_path / "a.h5ad")
    checked(datasets.read(tmp_path / "a.h5ad"), dtype=result)


@pytest.mark.parametrize("version", [2, 3])
def test_zarr(tmp_path, version):
    with ad.settings.override(zarr_write_format=version):
        annotated().write_zarr(tmp_path / "store")
    adata = checked(datasets.read(tmp_path / "store"), dtype=COUNTS.dtype)
    assert adata.obs["cell_type"].tolist() == ["B", "T", "B"]


def test_counts_in_a_layer_alone(tmp_path):
    adata = annotated()
    adata.layers["counts"] = sparse.csr_matrix(COUNTS)
    del adata.X
    adata.write_h5ad(tmp_path / "a.h5ad")
    adata = datasets.read(tmp_path / "a.h5ad")
    assert adata.X is None
    np.testing.assert_array_equal(adata.layers["counts"].toarray(), COUNTS)


# 10x.


def tenx_v3(path, symbols=SYMBOLS, kinds=KINDS):
    features = {"id": text(IDS), "name": text(symbols), "genome": text(["GRCh38"] * 4)}
    features["feature_type"] = text(kinds)
    features["_all_tag_keys"] = text(["genome"])
    matrix = parts(COUNTS.astype(np.int32), by_gene=True)
    return write(path, matrix={**matrix, "barcodes": text(CELLS), "features": features})


def tenx_v2(path, *genomes):
    matrix = parts(COUNTS.astype(np.int32), by_gene=True)
    group = {"barcodes": text(CELLS), "genes": text(IDS), "gene_names": text(SYMBOLS), **matrix}
    return write(path, **dict.fromkeys(genomes, group))


def test_10x_v3(tmp_path):
    path = tenx_v3(tmp_path / "filtered.h5ad")
    adata = checked(datasets.read(path), COUNTS[:, :3], np.int32)
    assert adata.var_names.tolist() == UNIQUE[:3]
    assert adata.obs_names.tolist() == CELLS
    assert adata.var["gene_ids"].tolist() == IDS[:3]
    with pytest.warns(UserWarning, match="Variable names are not unique"):
        scanpys = sc.read_10x_h5(path)
    np.testing.assert_array_equal(adata.X.toarray(), scanpys.X.toarray())
    assert adata.var["feature_types"].tolist() == scanpys.var["feature_types"].tolist()
    assert adata.var["genome"].tolist() == scanpys.var["genome"].tolist()


def test_10x_v2(tmp_path):
    path = tenx_v2(tmp_path / "raw.h5", "hg19")
    adata = checked(datasets.read(path), dtype=np.int32)
    assert adata.var_names.tolist() == UNIQUE
    assert adata.var["gene_ids"].tolist() == IDS
    assert adata.obs_names.tolist() == CELLS
    message = found(tenx_v2(tmp_path / "two.h5", "hg19", "mm10"), match=r"\['hg19', 'mm10'\]")
    assert "genome=" in message


def test_10x_without_genes(tmp_path):
    path = tenx_v3(tmp_path / "atac.h5", kinds=["Peaks"] * 4)
    found(path, match=r"without 'Gene Expression', only \['Peaks'\]")


def tenx_folder(path, *, features="features.tsv", zipped=True, columns=3):
    path.mkdir()
    io.mmwrite(path / "matrix.mtx", sparse.coo_matrix(COUNTS.T))
    rows = zip(IDS, SYMBOLS, KINDS, strict=True)
    table = "".join("\t".join(row[:columns]) + "\n" for row in rows)
    (path / features).write_text(table)
    (path / "barcodes.tsv").write_text("\n".join(CELLS) + "\n")
    for file in list(path.iterdir()) if zipped else ():
        (path / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_10x_folder(tmp_path, zipped):
    adata = datasets.read(tenx_folder(tmp_path / "filtered", zipped=zipped))
    checked(adata, COUNTS[:, :3], np.int32)
    assert adata.var_names.tolist() == UNIQUE[:3]
    assert adata.var["gene_ids"].tolist() == IDS[:3]
    assert adata.obs_names.tolist() == CELLS


def test_10x_folder_is_read_as_scanpy_reads_it(tmp_path):
    path = tenx_folder(tmp_path / "filtered")
    features = path / "features.tsv.gz"
    # scanpy does not know a gene called NA.
    features.write_bytes(gzip.compress(gzip.decompress(features.read_bytes()).replace(b"NA", b"B")))
    adata, scanpys = datasets.read(path), sc.read_10x_mtx(path)
    np.testing.assert_array_equal(adata.X.toarray(), scanpys.X.toarray())
    pd.testing.assert_frame_equal(adata.var, scanpys.var, check_names=False)
    pd.testing.assert_frame_equal(adata.obs, scanpys.obs, check_names=False)


@pytest.mark.parametrize("columns", [1, 2])
def test_10x_folder_of_version_2(tmp_path, columns):
    path = tenx_folder(tmp_path / "hg19", features="genes.tsv", zipped=False, columns=columns)
    adata = checked(datasets.read(path), dtype=np.int32)
    assert adata.var_names.tolist() == (IDS if columns == 1 else UNIQUE)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("matrix.mtx", "matrix.mtx"),
        ("barcodes.tsv", "barcodes.tsv"),
        ("features.tsv", "features.tsv or genes.tsv"),
    ],
)
def test_10x_folder_with_a_file_missing(tmp_path, name, wanted):
    path = tenx_folder(tmp_path / "half")
    (path / f"{name}.gz").unlink()
    found(path, match=re.escape(f"a 10x matrix folder without {wanted} (or .gz)."))


def test_10x_folder_that_does_not_fit_together(tmp_path):
    path = tenx_folder(tmp_path / "short", zipped=False)
    (path / "barcodes.tsv").write_text("AAA-1\n")
    found(path, match="1 barcodes and 4 features, found 3 and 4")


@pytest.mark.parametrize("name", ["matrix.mtx.gz", "barcodes.tsv.gz"])
def test_10x_folder_with_a_damaged_file(tmp_path, name):
    path = tenx_folder(tmp_path / "damaged")
    (path / name).write_bytes((path / name).read_bytes()[:-12])
    found(path, match=f"'{re.escape(name)}' to be a text file of 10x, found it unreadable")


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


# What can not be read.


def test_nothing_there(tmp_path):
    found(tmp_path / "none.h5ad", match="found nothing at '.*none.h5ad'", error=FileNotFoundError)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "an empty file"),
        (b"gene,cell\nA,1\n", "a file that is not HDF5"),
        (gzip.compress(b"anything"), "a gzip-compressed file. Decompress it"),
        (b"%%MatrixMarket matrix coordinate", "a Matrix Market file. Give the folder"),
    ],
)
def test_not_hdf5(tmp_path, content, match):
    path = tmp_path / "a.h5ad"
    path.write_bytes(content)
    message = found(path, match=match)
    start = "Expected `path` to be an .h5ad, zarr, 10x .h5, 10x matrix folder, or an .h5 file with"
    assert message.startswith(start)


def test_unknown_hdf5(tmp_path):
    path = write(tmp_path / "a.h5", b=np.ones(3), a=np.ones(2))
    found(path, match=r"an HDF5 file with top-level keys \['a', 'b'\]\.$")


@pytest.mark.parametrize("kind", ["h5ad", "plain"])
def test_truncated(tmp_path, kind):
    path = tmp_path / "a.h5"
    if kind == "h5ad":
        annotated().write_h5ad(path)
    else:
        write(path, X=COUNTS)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "again" in found(path, match="truncated, corrupt or incomplete HDF5 file")


def test_corrupt(tmp_path):
    path, counts = tmp_path / "a.h5", np.random.default_rng(0).poisson(1.0, (50, 40))
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("X", data=counts, compression="gzip", chunks=counts.shape)
        chunk = dataset.id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    middle = chunk.byte_offset + chunk.size // 2
    content[middle : middle + 8] = b"\xff" * 8
    path.write_bytes(content)
    found(path, match="truncated, corrupt or incomplete HDF5 file")


def test_damaged_h5ad(tmp_path):
    path = tmp_path / "a.h5ad"
    annotated().write_h5ad(path)
    with h5py.File(path, "a") as file:
        del file["obs"]["cell_type"]["codes"]
    found(path, match=f"an AnnData file that anndata {re.escape(version('anndata'))} can not read")


def test_h5ad_of_a_newer_anndata(tmp_path):
    path = tmp_path / "a.h5ad"
    annotated().write_h5ad(path)
    with h5py.File(path, "a") as file:
        file["obs"].attrs["encoding-version"] = "9.0.0"
    found(path, match="an AnnData file that anndata .* can not read")


def test_folders_of_something_else(tmp_path):
    found(tmp_path, match="an empty folder")
    (tmp_path / "outs").mkdir()
    found(tmp_path, match=r"a folder with \['outs'\]. Give the file or folder inside it")
    (tmp_path / ".zgroup").write_text('{"zarr_format": 2}')
    found(tmp_path, match="a zarr store of another kind")


@pytest.mark.parametrize(
    ("items", "match"),
    [
        ({"X": np.ones(3)}, r"`/X` to be \[cells x genes\], found shape \(3,\)"),
        ({"X": np.full((2, 2), b"a")}, "numbers in the matrix"),
        ({"X": COUNTS, "Y": {"a": np.ones(3)}}, "`/Y` to hold values, found an HDF5 group"),
        ({"exprs": COUNTS, "obs_names": {}}, "`/obs_names` to hold values, found an HDF5 group"),
        ({"X": COUNTS, "Y": np.ones(4)}, r"`/Y` to hold 3 values.*found shape \(4,\)"),
        ({"exprs": COUNTS, "obs_names": text(["A", "B"])}, "`/obs_names` to hold 3 values"),
        ({"exprs": COUNTS, "obs": {"n": np.ones(2)}}, "`/obs/n` to hold 3 values"),
        ({"exprs": {"a": COUNTS, "b": COUNTS}}, r"in `/exprs`, found \['a', 'b'\]"),
        ({"exprs": {**parts(COUNTS), "shape": np.array([3])}}, "a `shape` of two numbers"),
        ({"exprs": {**parts(COUNTS), "shape": np.array([3, 2])}}, "a sparse matrix of 3 x 2"),
        ({"exprs": {**parts(COUNTS), "data": np.ones(2)}}, "a sparse matrix of 3 x 4"),
        (
            {
                "exprs": COUNTS,
                "obs": {"t": {"codes": np.array([0, 1, 2]), "categories": text(["A", "B"])}},
            },
            "`/obs/t/codes` to hold codes of its 2 categories",
        ),
    ],
)
def test_content_that_does_not_fit_together(tmp_path, items, match):
    found(write(tmp_path / "a.h5", **items), match=match)


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
    assert list(real_data.FILES) == list(SHAPES)
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


# Simulated cells.


def test_simulated_cells():
    adata = datasets.simulate(n_cells=500, n_genes=300, n_clusters=6, rng=1)
    assert adata.shape == (500, 300)
    assert isinstance(adata.X, sparse.csr_matrix)
    assert adata.X.dtype == np.float32
    assert adata.X.has_sorted_indices
    assert adata.X.nnz < 0.5 * 500 * 300
    np.testing.assert_array_equal(adata.X.data, np.round(adata.X.data))
    assert adata.X.data.min() >= 1
    assert adata.X.sum(axis=1).min() >= 1
    assert adata.X.mean() == pytest.approx(0.5, rel=0.1)
    labels = adata.obs["cell_type"]
    assert labels.cat.categories.tolist() == list("012345")
    sizes = labels.value_counts()[list("012345")].to_numpy()
    assert (np.diff(sizes) < 0).all()
    assert sizes[0] / sizes[-1] == pytest.approx(10, rel=0.1)
    # Not sorted by cluster.
    assert (labels.cat.codes.diff() < 0).sum() > 100
    assert adata.obs_names[-1] == "cell_499"
    assert adata.var_names[-1] == "gene_299"


def test_same_seed_same_bits():
    def draw(rng):
        return datasets.simulate(n_cells=90, n_genes=40, n_clusters=3, rng=rng)

    first, again = draw(3), draw(np.random.default_rng(3))
    assert (first.X != again.X).nnz == 0
    assert first.obs.equals(again.obs)
    other = draw(4)
    assert (first.X != other.X).nnz > 0
    generator = np.random.default_rng(3)
    assert (draw(generator).X != draw(generator).X).nnz > 0


@pytest.mark.parametrize(("mean", "dispersion"), [(0.02, 0.3), (0.8, 0.3), (4.0, 2.0), (3.0, 1e-6)])
def test_counts_are_negative_binomial(mean, dispersion):
    n = 200_000
    means = np.full((n // 500, 500), mean, np.float32)
    drawn = simulation._negative_binomial(np.random.default_rng(0), means, dispersion)
    counts = drawn.toarray().ravel().astype(int)
    size = 1 / dispersion
    probability = size / (size + mean)
    # Bins with at least ten expected, the last one open.
    n_bins = 1 + int(stats.nbinom.isf(20 / n, size, probability))
    expected = stats.nbinom.pmf(np.arange(n_bins), size, probability)
    expected[-1] += stats.nbinom.sf(n_bins - 1, size, probability)
    observed = np.bincount(np.minimum(counts, n_bins - 1), minlength=n_bins)
    assert stats.chisquare(observed, expected / expected.sum() * n).pvalue > 1e-3


def test_variance_exceeds_the_mean():
    adata = datasets.simulate(2000, 50, 1, dispersion=1.0, mean_count=2.0)
    counts = adata.X.toarray()
    mean = counts.mean(axis=0)
    assert (mean > 1).sum() > 10
    assert (counts.var(axis=0) > 1.5 * mean)[mean > 1].all()


def test_no_cell_is_empty():
    adata = datasets.simulate(400, 20, 2, mean_count=1e-3)
    np.testing.assert_array_equal(np.asarray(adata.X.sum(axis=1)).ravel() >= 1, True)
    assert adata.X.sum() < 420


@pytest.mark.parametrize(("n_cells", "n_clusters"), [(8, 4), (9, 4), (20, 8), (100, 1)])
def test_no_cluster_is_smaller_than_two(n_cells, n_clusters):
    adata = datasets.simulate(n_cells, 10, n_clusters, size_ratio=1000.0)
    sizes = adata.obs["cell_type"].value_counts()
    assert len(sizes) == n_clusters
    assert sizes.min() >= 2
    assert sizes.sum() == n_cells


def test_equal_sizes():
    assert simulation._cluster_sizes(90, 3, 1.0).tolist() == [30, 30, 30]


def test_blocks_cover_all_cells(monkeypatch):
    monkeypatch.setattr(simulation, "_BLOCK", 70)
    adata = datasets.simulate(101, 30, 3)
    assert adata.shape == (101, 30)
    assert adata.X.sum(axis=1).min() >= 1


def agreement(difficulty):
    adata = datasets.simulate(600, 500, 5, difficulty=difficulty, rng=2)
    sc.pp.normalize_total(adata, target_sum=1e3)
    sc.pp.log1p(adata)
    scores = TruncatedSVD(10, random_state=0).fit_transform(adata.X)
    clusters = KMeans(5, n_init=3, random_state=0).fit_predict(scores[:, 1:])
    return adjusted_rand_score(adata.obs["cell_type"], clusters)


def test_difficulty():
    easy, middle, hard = (agreement(difficulty) for difficulty in (0.1, 0.75, 0.95))
    assert easy > 0.9
    assert easy > middle + 0.1
    assert middle > hard + 0.1
    assert hard < 0.1


def test_near_clusters_share_programmes():
    profiles = simulation._profiles(np.random.default_rng(0), 4000, 8, 3.0)
    similar = np.sort(np.corrcoef(np.log(profiles))[~np.eye(8, dtype=bool)].reshape(8, 7))
    # Each leaf has one sibling, nearer than any cluster of the other half of the tree.
    assert (similar[:, -1] > similar[:, 0] + 0.1).all()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n_clusters": 0}, ValueError, "`n_clusters` to be at least 1, found 0"),
        ({"n_cells": 15}, ValueError, "`n_cells` to be at least 16, found 15. Each cluster needs"),
        ({"n_genes": 1}, ValueError, "`n_genes` to be at least 2, found 1"),
        ({"n_cells": 1e3}, TypeError, "`n_cells` to be an integer, found 1000.0"),
        ({"n_clusters": True}, TypeError, "`n_clusters` to be an integer, found True"),
        ({"difficulty": 1.1}, ValueError, "`difficulty` to be between 0 and 1, found 1.1"),
        ({"difficulty": np.nan}, ValueError, "`difficulty` to be between 0 and 1, found nan"),
        ({"size_ratio": 0.5}, ValueError, "`size_ratio` to be between 1 and .*, found 0.5"),
        ({"dispersion": 0}, ValueError, "`dispersion` to be between 1e-06 and 100, found 0"),
        ({"mean_count": "1"}, TypeError, "`mean_count` to be a number, found '1'"),
        ({"rng": -1}, ValueError, "`rng` to be 0 or more, found -1"),
        ({"rng": None}, TypeError, "`rng` to be an integer or a numpy Generator, found None"),
    ],
)
def test_arguments(options, error, match):
    with pytest.raises(error, match=f"Expected {match}"):
        datasets.simulate(**options)


def test_imports_stay_below():
    """The readers serve tools that have no use for JAX."""
    allowed = {
        "anndata",
        "collections",
        "h5py",
        "numpy",
        "importlib",
        "os",
        "pandas",
        "pathlib",
        "scanpy",
    }
    allowed |= {"scipy", "typing", "zlib"}
    files = sorted(Path(readers.__file__).parent.glob("*.py"))
    assert len(files) == 5
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                own = name.startswith("scsiameseclu_jax.datasets")
                assert own or name.split(".")[0] in allowed, (file.name, name)
