"""AnnData files whose counts stay on disk: their size, and what Dask reads of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
from anndata import AnnData

from scsiameseclu_jax.datasets.safety import check_hdf5, check_links, check_whole, check_zarr

__all__ = ["Size", "read_lazy", "size_of"]

_SMALL = ("obs", "var", "uns", "obsm", "varm")
_LARGE = ("layers", "obsp", "varp")
_KINDS = {"array", "csr_matrix", "csc_matrix"}


class Size(NamedTuple):
    """How much an AnnData file holds."""

    n_cells: int
    n_genes: int
    n_values: int
    """Stored values of X and the layers together; of dense ones, all."""
    n_bytes: int
    """What X and the layers take in memory."""


def size_of(path: str | os.PathLike[str]) -> Size | None:
    """Return the size of an AnnData file without reading a matrix; None of any other file."""
    try:
        return _size_of(Path(path))
    except (OSError, KeyError, TypeError, ValueError):  # damaged: who reads it says how
        return None


def _size_of(path: Path) -> Size | None:
    if not _is_store(path):
        return None
    with _opened(path) as store:
        matrices = [store["X"]] if "X" in store else []
        matrices += [store["layers"][name] for name in store.get("layers", {})]
        matrices = [matrix for matrix in matrices if _kind(matrix) != "null"]
        if not matrices or any(_kind(matrix) not in _KINDS for matrix in matrices):
            return None
        sizes = [_size(matrix) for matrix in matrices]
    shape = sizes[0][0]
    return Size(*shape, *(sum(one) for one in list(zip(*sizes, strict=True))[1:]))


def read_lazy(path: str | os.PathLike[str]) -> AnnData:
    """Read an ``.h5ad`` file or zarr store, but for its counts, of which Dask reads blocks.

    Parameters
    ----------
    path
        The file or store; it must stay where it is as long as the object is used.

    Returns
    -------
    ``X``, layers and what is of pairs (obsp) are Dask arrays; all else is in memory.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    ValueError
        If it is no AnnData file, or one of before anndata 0.8; if parts of it lie elsewhere, or it
        declares much more than it holds.
    ImportError
        Without Dask: ``pip install 'scsiameseclu-jax[dask]'``.
    """
    from anndata.experimental import read_elem_lazy
    from anndata.io import read_elem

    path = Path(path)
    if not path.exists():
        msg = f"Expected a file or folder of cells, found nothing at {str(path)!r}."
        raise FileNotFoundError(msg)
    if path.is_file() and h5py.is_hdf5(path):
        check_whole(path)
    if not _is_store(path):
        msg = (
            f"Expected {str(path)!r} to be an .h5ad or zarr file of anndata 0.8 or later to read "
            "it in blocks, found something else; read it into memory and write it anew."
        )
        raise ValueError(msg)
    if path.is_dir():
        check_zarr(path, to_memory=False)
    else:
        with h5py.File(path, "r") as file:
            check_links(file)
            check_hdf5(file, to_memory=False)

    def matrix(item: Any) -> Any:
        return read_elem_lazy(item) if _kind(item) in _KINDS else read_elem(item)

    with _opened(path) as store:
        parts = {name: read_elem(store[name]) for name in _SMALL if name in store}
        for group in _LARGE:
            parts[group] = {name: matrix(store[group][name]) for name in store.get(group, {})}
        raw = store.get("raw")
        if raw is not None and _kind(raw) == "raw":  # else it says that there is none
            parts["raw"] = {"X": matrix(raw["X"]), "var": read_elem(raw["var"])}
        return AnnData(X=matrix(store["X"]) if "X" in store else None, **parts)


def _is_store(path: Path) -> bool:
    """Whether this is an AnnData file, of anndata 0.8 or later."""
    if path.is_dir():
        if not any((path / mark).exists() for mark in (".zgroup", "zarr.json")):
            return False
    elif not (path.is_file() and h5py.is_hdf5(path)):
        return False
    with _opened(path) as store:
        return store.attrs.get("encoding-type") == "anndata"


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if path.is_dir():
        import zarr

        yield zarr.open_group(str(path), mode="r")
        return
    with h5py.File(path, "r") as store:
        yield store


def _kind(item: Any) -> str:
    return str(item.attrs.get("encoding-type", ""))


def _size(item: Any) -> tuple[tuple[int, int], int, int]:
    """Return shape, number of stored values and bytes in memory."""
    sparse_ = not hasattr(item, "shape")
    n_cells, n_genes = map(int, item.attrs["shape"] if sparse_ else item.shape)
    if not sparse_:
        return (n_cells, n_genes), n_cells * n_genes, n_cells * n_genes * item.dtype.itemsize
    n, each = int(item["data"].shape[0]), item["data"].dtype.itemsize
    return (n_cells, n_genes), n, n * (each + item["indices"].dtype.itemsize)
