"""AnnData objects that are written: tried before the fit, and without a way to end the process."""

from __future__ import annotations

import io
import itertools
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import write_elem
from scipy import sparse

from scsiameseclu_jax.files.errors import message
from scsiameseclu_jax.files.places import OUTPUTS, check_space
from scsiameseclu_jax.files.whole import beside, write_whole

logger = logging.getLogger(__name__)

# What anndata can write, but does not by default: text of pandas 3, and "/" in the names of .h5ad.
_ALLOWED = {"allow_write_nullable_strings": True, "disallow_forward_slash_in_h5ad": False}
_RESERVED = "_index"  # what anndata calls the index of a table on disk
_COMPRESSION = 20  # a zarr store of counts is hardly ever smaller by more
_MAPPINGS = ("layers", "obsm", "varm", "obsp", "varp")
_FEW = 2  # cells and genes that stand for all, of what is the same for all


def write_anndata(path: Path, adata: AnnData) -> None:
    """Write an object as the suffix of the path says, whole or not at all.

    Raises
    ------
    WriteError
        If it could not be written, for whatever reason.
    """
    write_whole(path, lambda new: _write(new, adata))


def check_target(path: Path, adata: AnnData, key: str | None = None) -> None:
    """Check that an object can be written, by writing what is small of it and a corner of the rest.

    What has a name that anndata keeps for itself gets another in `adata`, and the log says so.

    Parameters
    ----------
    path
        Where it is to be written.
    adata
        What is to be written.
    key
        What results will be called in it.

    Raises
    ------
    OSError
        If the disk has too little space.
    ValueError
        If a part cannot be written; all such parts are named.
    """
    _free_names(adata)
    least, usual = _n_bytes(adata)
    check_space(path, least // _COMPRESSION if path.suffix == ".zarr" else least, usual)
    corner = adata[:_FEW, :_FEW].copy()
    whole = [corner, AnnData(obs=adata.obs.copy(), var=adata.var.copy())]
    whole += [] if adata.raw is None else [AnnData(var=adata.raw.var.copy())]
    whole += [] if key is None else [_like_results(key)]
    why = next(filter(None, (_fails(path, part) for part in whole)), None)
    if why is None:
        return
    parts = [*_parts(adata, corner), *([] if key is None else [(repr(key), _like_results(key))])]
    failed = [f"{name} ({reason})" for name, part in parts if (reason := _fails(path, part))]
    other = path.with_suffix(next(suffix for suffix in OUTPUTS if suffix != path.suffix))
    may = not any(_fails(other, part) for part in whole)
    remedy = f" write {other.name!r}, or" if may else ""
    msg = (
        f"Expected cells that can be written to {str(path)!r}, found some that cannot: "
        f"{'; '.join(failed) or why};{remedy} rename, convert or remove that in the input."
    )
    raise ValueError(msg)


def write_table_near(path: Path, table: pd.DataFrame) -> Path | None:
    """Write a table beside what could not be written, else here, else in a temporary folder.

    Parameters
    ----------
    path
        What could not be written.
    table
        A row for each cell.

    Returns
    -------
    Where the table is; None if it can be written nowhere.
    """
    names = (f"{path.name[:40]}.clusters.csv", f"{path.name[:40]}.clusters-{os.getpid()}.csv")
    for folder in (lambda: path.resolve().parent, Path.cwd, tempfile.gettempdir):
        for name in names:
            with suppress(OSError):  # one that exists is left alone
                _write_table(Path(folder(), name), table)
                return Path(folder(), name)
    return None


def _write_table(path: Path, table: pd.DataFrame) -> None:
    with path.open("x", encoding="utf-8", newline="") as file:
        try:
            table.to_csv(file, index_label="cell", chunksize=10_000)
            file.flush()
        except OSError:
            path.unlink()
            raise


def _write(path: Path, adata: AnnData) -> None:
    with allowed():
        if path.suffix == ".zarr":
            adata.write_zarr(path)
            return
        adata.strings_to_categoricals()
        if adata.raw is not None:
            adata.strings_to_categoricals(adata.raw.var)
        with path.open("w+b", buffering=0) as file, opened(file, "w") as store:
            write_elem(store, "/", adata)


@contextmanager
def opened(file: io.RawIOBase, mode: str) -> Iterator[h5py.File]:
    """Open an HDF5 file in a file that can be written, whose first error is raised at the end."""
    sink = _Sink(file)
    try:
        with h5py.File(sink, mode) as store:
            yield store
    except Exception:
        if sink.error is None:  # else of what it could not read again
            raise
    if sink.error is not None:
        raise sink.error


class _Sink(io.RawIOBase):
    """A file that takes whatever HDF5 writes and keeps the first error for later.

    Where a write fails, HDF5 ends the process when it closes the file.
    """

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file
        self.error: BaseException | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._move(view, self._file.write)
        return len(view)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        rest = self._move(view, self._file.readinto)
        view[len(view) - rest :] = bytes(rest)
        return len(view)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        if self.error is None:
            try:
                self._file.truncate(size)
            except BaseException as error:  # noqa: BLE001, raised when HDF5 is done
                self.error = error
        return size or 0

    def _move(self, view: memoryview, some: Callable[[memoryview], int | None]) -> int:
        """Write or read until nothing is left or something fails; return how much is left."""
        while len(view) and self.error is None:
            try:
                moved = some(view)
            except BaseException as error:  # noqa: BLE001, raised when HDF5 is done
                self.error = error
            else:
                if not moved:
                    break
                view = view[moved:]
        return len(view)


@contextmanager
def allowed() -> Iterator[None]:
    """Let anndata write what it can."""
    settings = {name: value for name, value in _ALLOWED.items() if hasattr(ad.settings, name)}
    with ad.settings.override(**settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Forward slashes", FutureWarning)
        yield


def _fails(path: Path, adata: AnnData) -> str | None:
    """Write beside a path, and forget; return what goes wrong, if anything does."""
    theirs = logging.getLogger("anndata")
    level = theirs.level
    theirs.setLevel(logging.ERROR)  # it says what it converts, which it will when it counts
    try:
        with beside(path.resolve()) as new, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _write(new, adata)
    except Exception as error:  # noqa: BLE001, of any kind
        return message(error).split(" Above error")[0]
    finally:
        theirs.setLevel(level)
    return None


def _like_results(key: str) -> AnnData:
    """Return an object with what results of a name may be called."""
    names = [key, f"{key}_confidence"]
    return AnnData(obs=pd.DataFrame(0.0, index=["cell"], columns=names), uns={key: {"params": 0}})


def _parts(adata: AnnData, corner: AnnData) -> Iterator[tuple[str, AnnData]]:
    """Yield each part as an object of its own, with its name: those that are large by a corner."""
    tables = {"obs": adata.obs, "var": adata.var}
    if adata.raw is not None:
        tables["raw.var"] = adata.raw.var
        yield "raw.X", AnnData(corner.raw.X)
    for name, table in tables.items():
        yield f"{name}_names", AnnData(obs=table.iloc[:, :0])
        for i, column in enumerate(table):
            yield f"{name}[{column!r}]", AnnData(obs=table.iloc[:, i : i + 1].copy())
    for key, value in adata.uns.items():
        yield f"uns[{key!r}]", AnnData(uns={key: value})
    yield "X", AnnData(corner.X)
    for name in _MAPPINGS:
        for key, value in getattr(corner, name).items():
            if key is not None:  # X, of anndata 0.13
                bare = AnnData(shape=corner.shape)
                getattr(bare, name)[key] = value
                yield f"{name}[{key!r}]", bare


def _free_names(adata: AnnData) -> None:
    """Rename what has the name that anndata reserves, and an index called like another column."""
    tables = {"obs": adata.obs, "var": adata.var}
    if adata.raw is not None:
        tables["raw.var"] = adata.raw.var
    for name, table in tables.items():
        if _RESERVED in table and table[_RESERVED].astype(str).tolist() == table.index.tolist():
            del table[_RESERVED]
            logger.info("dropped %s[%r], which repeats the names", name, _RESERVED)
        elif _RESERVED in table:
            free = next(word for i in itertools.count() if (word := f"index_{i}") not in table)
            table.columns = [free if word == _RESERVED else word for word in table]
            text = "renamed %s[%r] to %r, for files have a meaning of their own for that"
            logger.info(text, name, _RESERVED, free)
        label = table.index.name
        if label in table and table[label].astype(str).tolist() != table.index.tolist():
            table.index.name = None
            logger.info("the index of %s is no longer called %r, for a column is", name, label)


def _n_bytes(adata: AnnData) -> tuple[int, int]:
    """Return the least and the usual number of bytes of the arrays of an object in a file."""
    arrays = [adata.X] if adata.raw is None else [adata.X, adata.raw.X]
    for name in _MAPPINGS:
        # X is among the layers of anndata 0.13
        arrays += [array for key, array in getattr(adata, name).items() if key is not None]
    least = usual = 0
    for array in arrays:
        if sparse.issparse(array):
            # anndata may write indices in fewer bytes
            usual += array.data.nbytes + array.nnz * array.indices.itemsize
            least += array.data.nbytes + array.nnz
        elif isinstance(array, np.ndarray):
            usual, least = usual + array.nbytes, least + array.nbytes
    return least, usual
