"""What a reader must not do in silence: name genes by place, drop features, change numbers."""

import logging

import numpy as np
import pytest
from scipy import io, sparse

from scsiameseclu_jax import datasets
from tests.files import CELLS, COUNTS, IDS, KINDS, annotated, checked, found, parts, text, write

LOG = "scsiameseclu_jax.datasets.readers"


def folder(path, symbols, kinds=("Gene Expression",) * 4, ids=IDS):
    path.mkdir()
    io.mmwrite(path / "matrix.mtx", sparse.coo_matrix(COUNTS.T))
    rows = zip(ids, symbols, kinds, strict=True)
    (path / "features.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    (path / "barcodes.tsv").write_text("\n".join(CELLS) + "\n")
    return path


@pytest.mark.parametrize(
    ("symbols", "names"),
    [
        (["", "A", "", "B"], ["ENS1", "A", "ENS3", "B"]),
        (["A", " ", "A", "B"], ["A", "ENS2", "A-1", "B"]),
        (["NA", "A", "NA", "B"], ["ENS1", "A", "ENS3", "B"]),
        (["NA", "A", "-", "B"], ["NA", "A", "-", "B"]),  # a gene may be called so
        (["", "", "", ""], IDS),
    ],
)
def test_genes_without_a_symbol_have_their_identifier(tmp_path, symbols, names, caplog):
    with caplog.at_level(logging.INFO, LOG):
        adata = checked(datasets.read(folder(tmp_path / "m", symbols)), dtype=np.int32)
    assert adata.var_names.tolist() == names
    assert adata.var["gene_ids"].tolist() == IDS
    n = len(set(names) & set(IDS))
    assert (f"{n} genes have no symbol" in caplog.text) == (n > 0)


@pytest.mark.parametrize("version", [2, 3])
def test_nor_have_they_in_hdf5(tmp_path, version):
    matrix = parts(COUNTS.astype(np.int32), by_gene=True)
    symbols, ids, cells = text(["", "A", "", "B"]), text(IDS), text(CELLS)
    if version == 3:
        features = {"id": ids, "name": symbols, "feature_type": text(["Gene Expression"] * 4)}
        path = write(tmp_path / "a.h5", matrix={**matrix, "barcodes": cells, "features": features})
    else:
        group = {"barcodes": cells, "genes": ids, "gene_names": symbols, **matrix}
        path = write(tmp_path / "a.h5", hg19=group)
    assert datasets.read(path).var_names.tolist() == ["ENS1", "A", "ENS3", "B"]


def test_features_that_are_left_out_are_told(tmp_path, caplog):
    with caplog.at_level(logging.INFO, LOG):
        assert datasets.read(folder(tmp_path / "a", IDS, KINDS)).n_vars == 3
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "1 'Antibody Capture'" in caplog.text
    caplog.clear()
    damaged = ["Gene Expression", "Gene Expressiom", "Gene Expression", "Peaks"]
    assert datasets.read(folder(tmp_path / "b", IDS, damaged)).n_vars == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "some of a type that 10x does not know: 1 'Gene Expressiom', 1 'Peaks'" in caplog.text


def test_which_of_two_files_is_read_is_told(tmp_path, caplog):
    path = folder(tmp_path / "m", IDS)
    datasets.read(path)
    assert not caplog.text
    (path / "matrix.mtx.gz").write_bytes(b"something else")
    (path / "genes.tsv").write_text("something else")
    checked(datasets.read(path), dtype=np.int32)
    assert "found matrix.mtx, matrix.mtx.gz in" in caplog.text
    assert "found features.tsv, genes.tsv in" in caplog.text


LARGE = [2**24 - 1, 2**24 + 1, -(2**24) - 1]


@pytest.mark.parametrize("kind", ["csr", "dense", "anndata", "mtx"])
@pytest.mark.parametrize("value", LARGE)
def test_counts_that_single_precision_skips(tmp_path, kind, value):
    counts = COUNTS.astype(np.float64)
    counts[1, 1] = value
    if kind == "csr":
        path = write(tmp_path / "a.h5", exprs=parts(counts))
    elif kind == "dense":
        path = write(tmp_path / "a.h5", X=counts)
    elif kind == "anndata":
        path = tmp_path / "a.h5ad"
        annotated(counts).write_h5ad(path)
    else:
        path = folder(tmp_path / "m", IDS)
        io.mmwrite(path / "matrix.mtx", sparse.coo_matrix(counts.T), field="real")
    single = abs(value) < 2**24
    adata = datasets.read(path)
    checked(adata, counts, np.float32 if single else np.float64)


@pytest.mark.parametrize("key", ["indices", "indptr"])
def test_places_between_columns(tmp_path, key):
    stored = parts(COUNTS)
    stored[key] = stored[key] + np.where(np.arange(len(stored[key])) == 1, 0.5, 0)
    found(write(tmp_path / "b.h5", exprs=stored), match=key)


def test_what_cannot_be_read_of_a_table_is_told(tmp_path, caplog):
    obs = {"kind": text(["B", "T", "B"]), "odd": {"values": [1, 2, 3]}}
    names = np.array([b"A", b"\xff\xfeB", b"C"])
    adata = datasets.read(write(tmp_path / "a.h5", exprs=COUNTS, obs=obs, obs_names=names))
    assert list(adata.obs) == ["kind"]
    assert "left out 'odd' of /obs: it is no column" in caplog.text
    assert "1 values in /obs_names are no UTF-8" in caplog.text
