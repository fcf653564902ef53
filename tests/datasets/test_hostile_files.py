"""Files that are damaged, lead elsewhere, or declare more than they hold: a sentence, at once."""

import gzip
import json
import os
import pickle
import time
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import io, sparse

from scsiameseclu_jax import datasets
from scsiameseclu_jax.datasets.matrix_market import read_matrix_market
from tests.files import COUNTS, annotated, checked, found, parts, text, write

SECRET = b"top secret text of another file "


def whole(seed=0):
    """An object with a sparse matrix in every place."""
    matrix = sparse.csr_matrix(np.random.default_rng(seed).poisson(1.0, (30, 20)).astype("f4"))
    adata = ad.AnnData(matrix, layers={"counts": matrix.copy(), "csc": matrix.tocsc()})
    adata.raw = adata
    square = sparse.csr_matrix(np.eye(30, dtype=np.float32))
    adata.obsp["connectivities"], adata.obsm["many"] = square, sparse.csr_matrix(matrix)
    adata.varp["more"] = sparse.csr_matrix(np.eye(20, dtype=np.float32))
    adata.varm["also"] = sparse.csr_matrix(np.eye(20, dtype=np.float32))
    adata.uns["deep"] = {"er": square.copy()}
    return adata


PLACES = ["X", "layers/counts", "layers/csc", "raw/X", "obsp/connectivities", "obsm/many"]
PLACES += ["varp/more", "varm/also", "uns/deep/er"]


def flip(part, place, bit):
    bits = np.array([part[place]])
    bits.view(f"u{bits.itemsize}")[0] ^= 1 << bit
    part[place] = bits[0]


DAMAGE = {
    "indices": lambda g: flip(g["indices"], 3, 29),
    "negative index": lambda g: flip(g["indices"], 3, 31),
    "indptr": lambda g: flip(g["indptr"], 5, 29),
    "negative pointer": lambda g: flip(g["indptr"], 5, 31),
    "first pointer": lambda g: flip(g["indptr"], 0, 0),
    "last pointer": lambda g: flip(g["indptr"], len(g["indptr"]) - 1, 0),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("place", PLACES)
def test_one_bit_of_an_h5ad(tmp_path, place, damage):
    path = tmp_path / "a.h5ad"
    whole().write_h5ad(path)
    assert (datasets.read(path).X != whole().X).nnz == 0
    with h5py.File(path, "a") as file:
        DAMAGE[damage](file[place])
    assert "damaged" in found(path, match="a whole sparse matrix, found")


@pytest.mark.parametrize("damage", DAMAGE)
def test_one_bit_of_other_files(tmp_path, damage):
    for by_gene, make in (
        (False, lambda parts: {"exprs": parts}),
        (True, lambda parts: {"matrix": parts}),
    ):
        made = parts(whole().X, by_gene=by_gene)
        if by_gene:
            names = text([f"g{i}" for i in range(20)])
            made |= {"barcodes": text([f"c{i}" for i in range(30)])}
            made["features"] = {"id": names, "name": names}
        path = write(tmp_path / f"{by_gene}.h5", **make(made))
        assert datasets.read(path).shape == (30, 20)
        with h5py.File(path, "a") as file:
            DAMAGE[damage](file["matrix" if by_gene else "exprs"])
        found(path, match="a whole sparse matrix, found")


@pytest.mark.parametrize("version", [2, 3])
def test_one_bit_of_a_zarr_store(tmp_path, version):
    import zarr

    with ad.settings.override(zarr_write_format=version):
        whole().write_zarr(tmp_path / "a.zarr")
    assert (datasets.read(tmp_path / "a.zarr").X != whole().X).nnz == 0
    for place, part, bit in (("layers/counts", "indices", 29), ("X", "indptr", 31)):
        store = zarr.open_group(str(tmp_path / "a.zarr"), mode="r+")
        before = store[place][part][...]
        flip(store[place][part], 4, bit)
        found(tmp_path / "a.zarr", match="a whole sparse matrix, found")
        store[place][part][...] = before
    assert datasets.read(tmp_path / "a.zarr").n_obs == 30


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda g: g.attrs.__setitem__("shape", [30, 21]), "AnnData file that anndata"),
        (lambda g: g.attrs.__setitem__("shape", [10**12, 20]), "a sparse matrix in '/X'"),
        (lambda g: g.attrs.__setitem__("shape", [30]), "a sparse matrix in '/X'"),
        (lambda g: g.attrs.__delitem__("shape"), "a sparse matrix in '/X'"),
        (lambda g: g.__delitem__("indices"), "a sparse matrix in '/X'"),
        (lambda g: (g.__delitem__("data"), g.create_group("data")), "a sparse matrix in '/X'"),
        (lambda g: (g.__delitem__("data"), g.__setitem__("data", [1.0])), "a sparse matrix"),
        (
            lambda g: (
                g.__setitem__("own", g["indices"][...] + 0.5)
                or g.move("indices", "old")
                or g.move("own", "indices")
            ),
            "`indices` of shape",
        ),
    ],
)
def test_parts_that_do_not_fit(tmp_path, change, match):
    path = tmp_path / "a.h5ad"
    whole().write_h5ad(path)
    with h5py.File(path, "a") as file:
        change(file["X"])
    found(path, match=match)


@pytest.mark.parametrize(
    "shape",
    [[np.inf, 3.0], [np.nan, 3.0], [-1, 4], [1e30, 4.0], [1.5, 4.0], [1, 2, 3], text(["a", "b"])],
)
def test_shapes_that_are_none(tmp_path, shape):
    one = {"data": [1], "indices": [0], "indptr": [0, 1], "shape": np.array(shape)}
    found(write(tmp_path / "a.h5", exprs=one), match="`shape` of two numbers")


# Where data lie.


def external_storage(file, folder):
    other = [(str(folder / "secret.txt"), 0, 32)]
    file.create_dataset("X", shape=(4, 8), dtype="u1", external=other)


def external_link(file, folder):
    file["X"] = h5py.ExternalLink(str(folder / "other.h5"), "S")


def link_to_a_link(file, folder):
    file["all"] = h5py.ExternalLink(str(folder / "other.h5"), "/")
    file["X"] = h5py.SoftLink("/all/S")


def virtual(file, folder):
    layout = h5py.VirtualLayout((30, 40), "i8")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "S", (30, 40))
    file.create_virtual_dataset("X", layout)


OUTSIDE = [external_storage, external_link, link_to_a_link, virtual]


@pytest.mark.parametrize("where", ["alone", "uns", "obs"])
@pytest.mark.parametrize("make", OUTSIDE)
def test_other_files_are_not_read(tmp_path, make, where):
    (tmp_path / "secret.txt").write_bytes(SECRET)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["S"] = np.full((30, 40), 7)
    path = tmp_path / "a.h5"
    if where != "alone":
        whole().write_h5ad(path)
    with h5py.File(path, "a") as file:
        make(file if where == "alone" else file[where], tmp_path)
    message = found(path, match="all data of the file in it, found")
    assert "copy the data into one file" in message
    assert "secret text" not in message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")
def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    found(tmp_path / "pipe", match="found a pipe, socket or device")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["X"] = h5py.ExternalLink(str(tmp_path / "pipe"), "S")
    found(tmp_path / "a.h5", match="a link to another file at '/X'")
    annotated().write_zarr(tmp_path / "a.zarr")
    os.mkfifo(tmp_path / "a.zarr" / "X" / "pipe")
    found(tmp_path / "a.zarr", match="link, pipe or device at 'X/pipe'")
    (tmp_path / "tenx").mkdir()
    for name in ("matrix.mtx", "barcodes.tsv", "genes.tsv"):
        os.mkfifo(tmp_path / "tenx" / name)
    found(tmp_path / "tenx", match=r"a folder with \['barcodes.tsv'")


def test_links_within_a_file_are_fine(tmp_path):
    path = tmp_path / "a.h5ad"
    whole().write_h5ad(path)
    with h5py.File(path, "a") as file:
        file["uns/again"] = h5py.SoftLink("/uns/deep")
        file["uns/nowhere"] = h5py.SoftLink("/uns/none")
        file["uns/more"] = file["uns/deep"]
        del file["uns/nowhere"]
    assert set(datasets.read(path).uns) == {"deep", "again", "more"}
    with h5py.File(write(tmp_path / "b.h5", here=COUNTS), "a") as file:
        file["X"] = h5py.SoftLink("/here")
    checked(datasets.read(tmp_path / "b.h5"), dtype=COUNTS.dtype)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_groups_within_themselves(tmp_path, kind):
    path = tmp_path / "a.h5ad"
    whole().write_h5ad(path)
    with h5py.File(path, "a") as file:
        inside = file["uns/deep"]
        inside["again"] = h5py.SoftLink("/uns") if kind == "soft" else file["uns"]
    found(path, match="100 groups within groups, found")


def test_a_few_groups_that_would_be_read_for_ever(tmp_path):
    path = tmp_path / "a.h5ad"
    whole().write_h5ad(path)
    with h5py.File(path, "a") as file:
        below = file["uns/deep"]
        for level in range(60):
            above = file["uns"].create_group(f"level {level}")
            above["one"] = above["other"] = below
            below = above
    started = time.perf_counter()
    found(path, match="up to 1000000 groups and datasets")
    assert time.perf_counter() - started < 20


def test_links_out_of_a_zarr_store(tmp_path):
    annotated().write_zarr(tmp_path / "a.zarr")
    annotated().write_zarr(tmp_path / "b.zarr")
    (tmp_path / "link.zarr").symlink_to(tmp_path / "a.zarr")
    checked(datasets.read(tmp_path / "link.zarr"), dtype=COUNTS.dtype)
    (tmp_path / "a.zarr" / "uns" / "mine").symlink_to(tmp_path / "b.zarr" / "X")
    found(tmp_path / "a.zarr", match="a link, pipe or device at 'uns/mine'")


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "run")


@pytest.mark.parametrize("place", ["filters", "compressor"])
def test_a_zarr_store_cannot_run_anything(tmp_path, place):
    with ad.settings.override(zarr_write_format=2):
        annotated().write_zarr(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / ".zmetadata").unlink()
    array = tmp_path / "a.zarr" / "X"
    (array / "0.0").write_bytes(pickle.dumps(Payload(tmp_path / "made")))
    metadata = json.loads((array / ".zarray").read_text())
    changed = {"filters": [{"id": "pickle"}], "compressor": {"id": "pickle"}}
    metadata |= {"compressor": None, "filters": None, place: changed[place]}
    (array / ".zarray").write_text(json.dumps(metadata))
    found(tmp_path / "a.zarr", match="found 'X' stored by pickle|No Zarr data type found")
    assert not (tmp_path / "made").exists()


# How large they are.


def huge(file):
    file.create_dataset("X", shape=(10**9, 10**5), chunks=(100, 1000), dtype="i4")


def unwritten(file):
    file.create_dataset("X", shape=(10**6, 10**5), dtype="i4")


def many_genes(file):
    file["exprs/data"], file["exprs/indices"], file["exprs/indptr"] = [1], [0], [0, 1]
    file["exprs/shape"] = np.array([1, 10**18])


def many_cells(file):
    many_genes(file)
    file["exprs/shape"][...] = [10**18, 1]
    file["exprs"].attrs["encoding-type"] = "csc_matrix"


def some_genes(file):
    many_genes(file)
    file["exprs/shape"][...] = [1, 10**8]


def long_names(file):
    file["exprs"] = COUNTS
    file.create_dataset("obs_names", shape=(10**12,), chunks=(10**6,), dtype="S10")


def named_type(file):
    file["X"] = np.dtype("f8")


@pytest.mark.parametrize(
    ("make", "match", "error"),
    [
        (huge, "bytes of them declared and 0 stored", ValueError),
        (unwritten, "bytes of them declared and 0 stored", ValueError),
        (many_genes, "cells and genes, found a shape of 1 x 1000000000000000000", ValueError),
        (many_cells, "cells and genes, found a shape of 1000000000000000000 x 1", ValueError),
        (some_genes, "names of more than 10000000 genes in the file", ValueError),
        (long_names, "the values of '/obs_names' in the file", ValueError),
        (named_type, "found a type without values", ValueError),
    ],
)
def test_declared_sizes(tmp_path, make, match, error):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        make(file)
    started = time.perf_counter()
    found(path, match=match, error=error)
    assert time.perf_counter() - started < 20


@pytest.mark.parametrize("place", ["X", "obsm/x", "uns/x", "obs/x"])
def test_declared_sizes_of_an_h5ad(tmp_path, place):
    path = tmp_path / "a.h5ad"
    annotated().write_h5ad(path)
    with h5py.File(path, "a") as file:
        if place == "X":
            del file["X"]
        dataset = file.create_dataset(place, shape=(10**9, 10**5), chunks=(9, 9), dtype="f4")
        dataset.attrs["encoding-type"], dataset.attrs["encoding-version"] = "array", "0.2.0"
    found(path, match=f"the values of '/{place}' in the file, found")


def test_one_array_by_many_names(tmp_path, monkeypatch):
    """A file of 8 MB that takes 8 GB of memory."""
    monkeypatch.setattr("scsiameseclu_jax.inputs.free_memory", lambda: 2**30)
    path = tmp_path / "a.h5ad"
    annotated().write_h5ad(path)
    with h5py.File(path, "a") as file:
        file["uns/one"] = np.zeros(10**6)
        for number in range(1000):
            file[f"uns/{number}"] = file["uns/one"]
    found(path, match="GiB of memory for what is in the file, found 1.0", error=MemoryError)


@pytest.mark.parametrize("version", [2, 3])
def test_declared_sizes_of_a_zarr_store(tmp_path, version):
    import zarr

    with ad.settings.override(zarr_write_format=version):
        annotated().write_zarr(tmp_path / "a.zarr")
    store = zarr.open_group(str(tmp_path / "a.zarr"), mode="r+")
    make = store.create_array if hasattr(store, "create_array") else store.create_dataset
    make("uns/x", shape=(10**9, 10**5), chunks=(100, 100), dtype="f4")
    zarr.consolidate_metadata(store.store)
    found(tmp_path / "a.zarr", match="the values of 'uns/x' in the file, found")


def test_what_compresses_well_is_read(tmp_path):
    """One constant in 2 million values takes 2 kB, and is whole."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("X", data=np.ones((1000, 2000), "i1"), compression="gzip")
        file["Y"] = np.arange(1000) % 2
    assert datasets.read(tmp_path / "a.h5").X.sum() == 2_000_000


def tenx(path, header, zipped=False):
    path.mkdir()
    (path / "barcodes.tsv").write_text("a\nb\nc\n")
    (path / "genes.tsv").write_text("g\th\n" * 4)
    content = f"%%MatrixMarket matrix {header}\n1 1 1\n".encode()
    if zipped:
        (path / "matrix.mtx.gz").write_bytes(gzip.compress(content))
    else:
        (path / "matrix.mtx").write_bytes(content)
    return path


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("header", "match"),
    [
        ("coordinate integer general\n4 3 1000000000000", "Expected 1000000000000 entries in"),
        ("coordinate integer general\n4 1000000000000000 1", "3 barcodes and 4 features, found"),
        ("coordinate integer general\n4 3 -1", "Expected 'matrix.mtx"),
        ("coordinate integer general\n4 3 99999999999999999999999", "entries in 'matrix.mtx"),
        ("array real general\n100000000 100000000", "begins with '%%matrixmarket matrix array"),
        ("nonsense", "Expected 'matrix.mtx"),
    ],
)
def test_declared_sizes_of_matrix_market(tmp_path, header, match, zipped):
    found(tenx(tmp_path / "a", header, zipped), match=match)


def test_numbers_of_matrix_market_that_do_not_fit(tmp_path):
    head = "%%MatrixMarket matrix coordinate"
    path = tenx(tmp_path / "a", "coordinate integer general\n4 3 1")
    for body in ("9 1 1", "0 1 1", "-1 1 1", f"1 1 {10**30}", "1 1", "a b c"):
        (path / "matrix.mtx").write_text(f"{head} integer general\n4 3 1\n{body}\n")
        found(path, match="Expected 'matrix.mtx' to be a text file of 10x")
    for kind in ("complex general", "integer symmetric", "integer"):
        (path / "matrix.mtx").write_text(f"{head} {kind}\n4 3 1\n1 1 1 1\n")
        found(path, match="Expected 'matrix.mtx' to be a text file of 10x")


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n", " \n", "\n%"])
@pytest.mark.parametrize("field", ["integer", "real", "pattern", "unsigned-integer"])
def test_matrix_market_as_scipy_reads_it(tmp_path, field, end):
    path = tenx(tmp_path / "a", "coordinate integer general\n4 3 1")
    values = [""] * 3 if field == "pattern" else [" 5", " 0", " 123456789"]
    if field == "real":
        values = [" 0.1", " 2e3", " 1.7976931348623157e308"]
    lines = [f"{place}{value}" for place, value in zip(["1 1", "4 3", "2\t2"], values, strict=True)]
    head = f"%%MatrixMarket matrix coordinate {field} general\n% made by hand\n\n%\n4 3 3\n"
    (path / "matrix.mtx").write_text(head + "\n".join(lines) + "\n")
    wanted = io.mmread(str(path / "matrix.mtx")).toarray()
    (path / "matrix.mtx").write_text(head + "\n".join(lines) + end)
    if end == "\n%":
        found(path, match="Expected 'matrix.mtx' to be a text file of 10x")
        return
    counts = read_matrix_market(path / "matrix.mtx", (4, 3))
    assert counts.dtype == wanted.dtype
    np.testing.assert_array_equal(counts.toarray(), wanted)


@pytest.mark.parametrize("end", ["B", "\n1", "\n1 1", "\n1 1 1", "\n\x00\x00"])
def test_matrix_market_that_ends_with_something_else(tmp_path, end):
    """At the first of these scipy's reader crashes."""
    path = tenx(tmp_path / "a", "coordinate integer general\n4 3 1")
    with (path / "matrix.mtx").open("a") as file:
        file.truncate(file.tell() - 1)
        file.write(end)
    found(path, match="Expected 'matrix.mtx' to be a text file of 10x")


def test_what_is_whole_stays_as_it_is(tmp_path):
    """Checks change nothing: every place, every format of sparse matrices."""
    adata = whole()
    adata.obs["batch"] = pd.Categorical(np.arange(30) % 3)
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = datasets.read(tmp_path / "a.h5ad")
    for place in ("layers", "obsp", "obsm", "varm", "varp"):
        for key, value in getattr(adata, place).items():
            assert (getattr(back, place)[key] != value).nnz == 0
