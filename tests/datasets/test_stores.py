"""Files that stay on disk: their size, what is read of them, results put into them."""

import errno

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scsiameseclu_jax as scs
from scsiameseclu_jax.datasets import simulation, stores
from scsiameseclu_jax.files import stores as writing

KINDS = [".h5ad", ".zarr"]


def cells(n=30):
    adata = scs.datasets.simulate(n_cells=n, n_genes=20, n_clusters=2, rng=0)
    adata.layers["dense"] = adata.X.toarray()
    adata.obsm["X_old"], adata.obsm["X_gone"] = np.ones((n, 2)), np.zeros((n, 3))
    adata.obsp["links"] = sparse.identity(n, format="csr")
    adata.raw = adata.copy()
    adata.uns["kept"] = {"a": np.arange(3), "table": pd.DataFrame({"x": [1, 2]})}
    return adata


def written(path, adata):
    (adata.write_zarr if path.suffix == ".zarr" else adata.write_h5ad)(path)
    return path


def bytes_of(path, part):
    """The raw content of the arrays of a matrix in a file."""
    with stores._opened(path) as store:
        return [store[f"{part}/{name}"][...].tobytes() for name in ("data", "indices", "indptr")]


@pytest.mark.parametrize("suffix", KINDS)
def test_a_simulation_is_written_in_blocks_to_the_same_bit(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(simulation, "_BLOCK", 2**10)
    monkeypatch.setattr(simulation, "_WRITTEN", 3)
    options = {"n_cells": 130, "n_genes": 50, "n_clusters": 3, "rng": 5, "difficulty": 0.3}
    wanted, path = scs.datasets.simulate(**options), tmp_path / f"cells{suffix}"
    scs.datasets.simulate_to(path, **options)
    found = scs.datasets.read(path)
    assert (found.X != wanted.X).nnz == 0
    assert found.X.dtype == wanted.X.dtype
    pd.testing.assert_frame_equal(found.obs, wanted.obs)
    assert list(found.var_names) == list(wanted.var_names)
    with stores._opened(path) as store:
        assert store["X/indptr"].dtype == np.int64
    with pytest.raises(FileExistsError, match="not to exist"):
        scs.datasets.simulate_to(path, **options)
    with pytest.raises(ValueError, match="at least 1, found 0"):
        scs.datasets.simulate_to(tmp_path / f"none{suffix}", n_clusters=0)
    assert not (tmp_path / f"none{suffix}").exists()


@pytest.mark.parametrize("suffix", KINDS)
def test_size_is_told_without_reading(tmp_path, suffix):
    adata = cells()
    size = stores.size_of(written(tmp_path / f"cells{suffix}", adata))
    n = adata.X.nnz
    assert size == (30, 20, n + 600, 8 * n + 4 * 600)


def test_size_of_what_cannot_be_read_in_blocks(tmp_path):
    (tmp_path / "cells.txt").write_text("no file of cells")
    (tmp_path / "folder").mkdir()
    for name in ("cells.txt", "folder", "none"):
        assert stores.size_of(tmp_path / name) is None
    written(tmp_path / "empty.h5ad", ad.AnnData(obs=pd.DataFrame(index=["a", "b"])))
    assert stores.size_of(tmp_path / "empty.h5ad") is None


@pytest.mark.parametrize("suffix", KINDS)
def test_what_is_read_and_what_is_not(tmp_path, suffix):
    pytest.importorskip("dask.array")
    wanted = cells()
    found = scs.datasets.read_lazy(written(tmp_path / f"cells{suffix}", wanted))
    for one, other in (
        (found.X, wanted.X),
        (found.layers["dense"], wanted.layers["dense"]),
        (found.obsp["links"], wanted.obsp["links"]),
        (found.raw.X, wanted.raw.X),
    ):
        assert hasattr(one, "dask")
        assert (one.compute() != other).sum() == 0
    pd.testing.assert_frame_equal(found.obs, wanted.obs)
    assert isinstance(found.obsm["X_old"], np.ndarray)
    assert isinstance(found.uns["kept"]["a"], np.ndarray)


def test_files_that_cannot_be_read_in_blocks(tmp_path):
    pytest.importorskip("dask.array")
    with pytest.raises(FileNotFoundError, match="found nothing"):
        scs.datasets.read_lazy(tmp_path / "none")
    (tmp_path / "cells.h5ad").write_text("not HDF5")
    with pytest.raises(ValueError, match="something else; read it into memory"):
        scs.datasets.read_lazy(tmp_path / "cells.h5ad")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("suffix", KINDS)
def test_results_are_put_into_a_file(tmp_path, suffix, version):
    pytest.importorskip("dask.array")
    if suffix == ".h5ad" and version == 3:
        pytest.skip("no such format")
    with ad.settings.override(zarr_write_format=version):
        path = written(tmp_path / f"cells{suffix}", cells())
    before = bytes_of(path, "X")
    adata = scs.datasets.read_lazy(path)
    adata.obs["new"] = pd.Categorical(["a", "b"] * 15)
    adata.obsm["X_new"] = np.full((30, 2), 7.0)
    del adata.obsm["X_gone"], adata.uns["kept"]
    adata.uns["result"] = {"params": {"k": 2}}
    if suffix == ".h5ad":
        with writing._to_change(path) as store:
            store.create_group("__new__")  # of a run that was killed
    for _ in range(2):  # and again
        writing.write_results(path, adata)
        found = (ad.read_zarr if suffix == ".zarr" else ad.read_h5ad)(path)
        pd.testing.assert_frame_equal(found.obs, adata.obs)
        assert set(found.obsm) == {"X_old", "X_new"}
        assert found.uns["result"]["params"]["k"] == 2
        assert "kept" not in found.uns
        assert bytes_of(path, "X") == before
        assert (found.raw.X != cells().raw.X).nnz == 0
        with stores._opened(path) as store:
            assert "__new__" not in store
    assert set(ad.experimental.read_lazy(path).obsm) == {"X_old", "X_new"}  # by the list of parts


@pytest.mark.parametrize("suffix", KINDS)
def test_a_copy_has_the_same_counts_and_the_source_is_as_it_was(tmp_path, suffix):
    pytest.importorskip("dask.array")
    source, target = written(tmp_path / f"in{suffix}", cells()), tmp_path / f"out{suffix}"
    adata = scs.datasets.read_lazy(source)
    adata.obs["new"] = 1
    writing.copy_with_results(source, target, adata)
    assert bytes_of(target, "X") == bytes_of(source, "X")
    assert "new" in scs.datasets.read(target).obs
    assert "new" not in scs.datasets.read(source).obs


def changed(path):
    """Results to put into a file, larger than what is there."""
    adata = scs.datasets.read_lazy(path)
    adata.obs["new"] = pd.Categorical(["a", "b"] * 15)
    adata.obsm["X_new"] = np.random.default_rng(0).normal(size=(30, 500))
    return adata


def read_again(path):
    return (ad.read_zarr if path.suffix == ".zarr" else ad.read_h5ad)(path)


@pytest.mark.parametrize("room", [0, 5_000, 60_000])
def test_a_disk_that_fills_leaves_the_file_as_it_was(tmp_path, monkeypatch, room):
    pytest.importorskip("dask.array")
    path = written(tmp_path / "cells.h5ad", cells())
    before, adata, write = path.read_bytes(), changed(path), writing._Held.write

    def full(self, data):
        if self._place > len(before) + room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(writing._Held, "write", full)
    with pytest.raises(OSError, match="No space"):
        writing.write_results(path, adata)
    assert path.read_bytes() == before


def test_a_file_is_whole_until_all_that_is_new_is_on_the_disk(tmp_path, monkeypatch):
    pytest.importorskip("dask.array")
    path = written(tmp_path / "cells.h5ad", cells())
    adata, settle = changed(path), writing._Held.settle
    monkeypatch.setattr(writing._Held, "settle", lambda self: None)  # killed before
    writing.write_results(path, adata)
    assert set(read_again(path).obsm) == {"X_old", "X_gone"}
    monkeypatch.setattr(writing._Held, "settle", settle)
    writing.write_results(path, adata)
    found = read_again(path)
    np.testing.assert_array_equal(found.obsm["X_new"], adata.obsm["X_new"])
    assert (found.X != cells().X).nnz == 0


@pytest.mark.parametrize(
    ("version", "at", "atomic"), [(2, "obs", True), (3, "uns", True), (3, "obsm", False)]
)
def test_a_store_is_whole_at_every_moment(tmp_path, monkeypatch, version, at, atomic):
    pytest.importorskip("dask.array")
    with ad.settings.override(zarr_write_format=version):
        path = written(tmp_path / "cells.zarr", cells())
    adata, take_place = changed(path), writing._take_place
    if not atomic:
        monkeypatch.setattr(writing, "exchange", lambda one, other: False)

    def cut_off(new, target):
        if target.name == at:
            raise OSError("cut off")
        take_place(new, target)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "_take_place", cut_off)
        with pytest.raises(OSError, match="cut off"):
            writing.write_results(path, adata)
    found = read_again(path)
    assert ("new" in found.obs) == (at != "obs")
    assert ("X_new" in found.obsm) == (at == "uns")
    writing.write_results(path, adata)
    assert {"X_old", "X_new"} <= set(read_again(path).obsm)
    assert [part.name for part in tmp_path.iterdir()] == ["cells.zarr"]


def test_a_copy_of_a_read_only_store_can_be_written(tmp_path):
    pytest.importorskip("dask.array")
    source, target = written(tmp_path / "in.zarr", cells()), tmp_path / "out.zarr"
    adata = changed(source)
    for part in [source, *source.rglob("*")]:
        part.chmod(0o555 if part.is_dir() else 0o444)
    try:
        writing.copy_with_results(source, target, adata)
        assert all(part.stat().st_mode & 0o200 for part in [target, *target.rglob("*")])
    finally:
        for part in [source, *source.rglob("*")]:
            part.chmod(0o755 if part.is_dir() else 0o644)
    assert "X_new" in read_again(target).obsm


def test_a_file_that_leads_elsewhere_is_not_read_in_blocks(tmp_path):
    pytest.importorskip("dask.array")
    path, other = (written(tmp_path / f"{name}.h5ad", cells()) for name in ("a", "b"))
    with h5py.File(path, "r+") as file:
        del file["X"]
        file["X"] = h5py.ExternalLink(str(other), "/X")
    with pytest.raises(ValueError, match="a link to another file at '/X'"):
        scs.datasets.read_lazy(path)
    store = written(tmp_path / "c.zarr", cells())
    (store / "uns").rename(tmp_path / "elsewhere")
    (store / "uns").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="found a link, pipe or device at 'uns'"):
        scs.datasets.read_lazy(store)


def test_a_damaged_file_has_no_size(tmp_path):
    path = written(tmp_path / "cells.h5ad", cells())
    with h5py.File(path, "r+") as file:
        del file["X/data"]
    assert stores.size_of(path) is None
    path.write_bytes(path.read_bytes()[:3000])
    assert stores.size_of(path) is None
