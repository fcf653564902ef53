"""Readers of AnnData and 10x files, and of what cannot be read."""

import gzip
import re
from importlib.metadata import version

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import io, sparse

from scsiameseclu_jax import datasets
from tests.files import (
    CELLS,
    COUNTS,
    IDS,
    KINDS,
    SYMBOLS,
    UNIQUE,
    annotated,
    checked,
    found,
    parts,
    text,
    write,
)

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
    found(path, match=r"of type 'Gene Expression', found only \['Peaks'\]")


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


# What cannot be read.


def test_nothing_there(tmp_path):
    found(tmp_path / "none.h5ad", match="found nothing at '.*none.h5ad'", error=FileNotFoundError)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "an empty file"),
        (b"gene,cell\nA,1\n", "a file that is not HDF5"),
        (gzip.compress(b"anything", mtime=0), "a gzip-compressed file. Decompress it"),
        (b"%%MatrixMarket matrix coordinate", "a Matrix Market file. Give the folder"),
    ],
    ids=["empty", "csv", "gzip", "mtx"],
)
def test_not_hdf5(tmp_path, content, match):
    path = tmp_path / "a.h5ad"
    path.write_bytes(content)
    message = found(path, match=match)
    start = "to be an .h5ad, zarr, 10x .h5, 10x matrix folder, or an .h5 file with"
    assert message.startswith(f"Expected {str(path)!r} {start}")


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
    n = path.stat().st_size
    path.write_bytes(path.read_bytes()[: n // 2])
    there = f"Expected a whole file, found .*a.h5' truncated: {n // 2:,} of {n:,} bytes are there"
    assert "copy or download it again" in found(path, match=there)
    with pytest.raises(ValueError, match=there):
        datasets.read_lazy(path)


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
    found(path, match=f"an AnnData file that anndata {re.escape(version('anndata'))} cannot read")


def test_h5ad_of_a_newer_anndata(tmp_path):
    path = tmp_path / "a.h5ad"
    annotated().write_h5ad(path)
    with h5py.File(path, "a") as file:
        file["obs"].attrs["encoding-version"] = "9.0.0"
    found(path, match="an AnnData file that anndata .* cannot read")


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
        (
            {"exprs": {**parts(COUNTS), "shape": np.array([3, 2])}},
            "`/exprs`, of 3 x 2, to be",
        ),
        ({"exprs": {**parts(COUNTS), "data": np.ones(2)}}, "`/exprs`, of 3 x 4, to be"),
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
