"""AnnData files larger than memory: written block by block, and results put into them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

from scsiameseclu_jax.files.objects import allowed, opened, write_anndata

_NEW = "__new__"  # where results are written before they take their places


def copy_with_results(source: Path, target: Path, adata: AnnData) -> None:
    """Copy a file as it is, then put into the copy what has changed; see :func:`write_results`."""
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
    write_results(target, adata)


def write_results(path: Path, adata: AnnData) -> None:
    """Put obs, obsm and uns of an object into its file; counts are not touched.

    They are written beside the old ones first, then take their places.

    Parameters
    ----------
    path
        The file that the object was read from, or a copy of it.
    adata
        The object.
    """
    adata.strings_to_categoricals(adata.obs)
    fresh = {"obs": adata.obs, "obsm": dict(adata.obsm), "uns": dict(adata.uns)}
    with allowed(), _to_change(path) as store:
        if _NEW in store:  # of a run that was killed
            del store[_NEW]
        for name, value in fresh.items():
            write_elem(store, f"{_NEW}/{name}", value)
        for name in fresh:
            if name in store:
                del store[name]
            if path.is_dir():  # zarr has no way to move
                (path / _NEW / name).rename(path / name)
            else:
                store.move(f"{_NEW}/{name}", name)
        del store[_NEW]
    _consolidate(path)


def write_cells(path: Path, blocks: Iterable[sparse.csr_matrix], **tables: Any) -> None:
    """Write an AnnData file block by block of its rows.

    Parameters
    ----------
    path
        ``.h5ad`` or ``.zarr``.
    blocks
        Rows of ``X``, one block after the other, at least one.
    tables
        ``obs`` and ``var``.
    """
    write_anndata(path, AnnData(**tables))
    with _to_change(path) as store:
        matrix = None
        for block in blocks:
            if matrix is not None:
                matrix.append(block)
                continue
            block.indptr = block.indptr.astype(np.int64)  # there may be more than 2^31 values
            write_elem(store, "X", block)
            matrix = sparse_dataset(store["X"])
    _consolidate(path)


@contextmanager
def _to_change(path: Path) -> Iterator[Any]:
    """Open a file to change what is in it."""
    if not path.is_dir():
        with path.open("r+b", buffering=0) as file, opened(file, "r+") as store:
            yield store
        return
    import zarr

    # a list that was made before does not say what is there
    fresh = {} if zarr.__version__ < "3" else {"use_consolidated": False}
    yield zarr.open_group(str(path), mode="r+", **fresh)


def _consolidate(path: Path) -> None:
    """List anew what a zarr store holds, if it has such a list."""
    if not path.is_dir():
        return
    import zarr

    listed = (path / ".zmetadata").exists()
    if (path / "zarr.json").exists():
        listed = "consolidated_metadata" in (path / "zarr.json").read_text(encoding="utf-8")
    if listed:
        zarr.consolidate_metadata(str(path))
