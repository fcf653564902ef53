"""AnnData files larger than memory: written block by block, and results put into them."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

from scsiameseclu_jax.files.exchange import exchange
from scsiameseclu_jax.files.objects import allowed, opened, write_anndata
from scsiameseclu_jax.files.whole import beside, naming, to_disk

_NEW = "__new__"  # where results are written before they take their places
_PAGE = 4096  # bytes of a file that are held together


def copy_with_results(source: Path, target: Path, adata: AnnData) -> None:
    """Copy a file as it is, then put into the copy what has changed; see :func:`write_results`."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile)
        for folder, _, _ in os.walk(target):  # which may be read-only in the source
            Path(folder).chmod(0o777 & Path(folder).stat().st_mode | 0o700)
    else:
        shutil.copyfile(source, target)
    write_results(target, adata)


def write_results(path: Path, adata: AnnData) -> None:
    """Put obs, obsm and uns of an object into its file; counts are not touched.

    They are written beside the old ones first, then take their places: what fails before leaves
    the file as it was.

    Parameters
    ----------
    path
        The file that the object was read from, or a copy of it.
    adata
        The object.
    """
    adata.strings_to_categoricals(adata.obs)
    fresh = {"obs": adata.obs, "obsm": dict(adata.obsm), "uns": dict(adata.uns)}
    with allowed():
        if path.is_dir():
            _replace_groups(path, fresh)
            return
        with _to_change(path) as store:
            if _NEW in store:  # of a run that was killed
                del store[_NEW]
            for name, value in fresh.items():
                write_elem(store, f"{_NEW}/{name}", value)
            for name in fresh:
                if name in store:
                    del store[name]
                store.move(f"{_NEW}/{name}", name)
            del store[_NEW]


def _replace_groups(path: Path, fresh: dict[str, Any]) -> None:
    """Write groups of a zarr store beside it, then put them in."""
    import zarr

    with _to_change(path) as store, beside(path.resolve()) as new:
        group = zarr.open_group(str(new), mode="w", zarr_format=store.metadata.zarr_format)
        for name, value in fresh.items():
            write_elem(group, name, value)
        to_disk(new)
        with naming():
            listed = _unlist(path)
            try:
                for name in fresh:
                    _take_place(new / name, path / name)
            finally:
                _consolidate(path, listed=listed)


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
    listed = path.is_dir() and _unlist(path)
    with _to_change(path) as store:
        matrix = None
        for block in blocks:
            if matrix is not None:
                matrix.append(block)
                continue
            block.indptr = block.indptr.astype(np.int64)  # there may be more than 2^31 values
            write_elem(store, "X", block)
            matrix = sparse_dataset(store["X"])
    _consolidate(path, listed=listed)


@contextmanager
def _to_change(path: Path) -> Iterator[Any]:
    """Open a file to change what is in it; of HDF5 it stays as it was if anything fails."""
    if path.is_dir():
        import zarr

        # a list that was made before does not say what is there
        yield zarr.open_group(str(path), mode="r+", use_consolidated=False)
        return
    with path.open("r+b", buffering=0) as file:
        held = _Held(file)
        try:
            with opened(held, "r+") as store:
                yield store
        except BaseException:
            held.undo()
            raise
        with naming():
            held.settle()


class _Held(io.RawIOBase):
    """A file that is added to, and whose old part is changed last, when all else is on the disk.

    HDF5 changes a few pages of it. Until then they are held in memory, so that what was there is
    whole: on a full disk, or when the process is killed.
    """

    def __init__(self, file: io.RawIOBase) -> None:
        self._file, self._place = file, 0
        self._old = self._size = file.seek(0, os.SEEK_END)
        self._pages: dict[int, bytearray] = {}

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self._place < self._old:
            page, start = divmod(self._place, _PAGE)
            n = min(len(view), _PAGE - start, self._old - self._place)
            if page not in self._pages:
                self._file.seek(page * _PAGE)
                most = min(_PAGE, self._old - page * _PAGE)
                self._pages[page] = bytearray(self._file.read(most) or b"")
            self._pages[page][start : start + n] = view[:n]
        else:
            self._file.seek(self._place)
            n = self._file.write(view) or 0
        self._place += n
        self._size = max(self._size, self._place)
        return n

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        page, start = divmod(self._place, _PAGE)
        if page in self._pages and self._place < self._old:
            part = self._pages[page][start : start + len(view)]
            n = len(part)
            view[:n] = part
        else:
            # up to the next page that may be held
            most = _PAGE - start if self._place < self._old else len(view)
            self._file.seek(self._place)
            n = self._file.readinto(view[:most]) or 0
        self._place += n
        return n

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def truncate(self, size: int | None = None) -> int:
        self._size = self._place if size is None else size
        self._file.truncate(max(self._size, self._old))
        return self._size

    def settle(self) -> None:
        """Change the old part."""
        os.fsync(self._file.fileno())
        for page, content in sorted(self._pages.items()):
            self._file.seek(page * _PAGE)
            while content:
                content = content[self._file.write(content) or 0 :]
        self._file.truncate(self._size)
        os.fsync(self._file.fileno())

    def undo(self) -> None:
        """Take away what was added."""
        self._file.truncate(self._old)


def _take_place(new: Path, target: Path) -> None:
    """Put a folder in the place of another, at one moment if the system can; else one is back."""
    if target.exists() and exchange(new, target):
        return
    # where the next run finds it, should this one be killed here
    old = new.parents[2] / "old" / f"{target.parent.name}.{target.name}"
    if target.exists():
        old.parent.mkdir(exist_ok=True)
        target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise


def _unlist(path: Path) -> bool:
    """Remove the list of what a zarr store holds, which is about to change; return if it had one.

    It would say of arrays what is no longer so.
    """
    old, new = path / ".zmetadata", path / "zarr.json"
    listed = old.exists()
    old.unlink(missing_ok=True)
    if new.exists():
        content = json.loads(new.read_text(encoding="utf-8"))
        listed |= content.pop("consolidated_metadata", None) is not None
        other = path / "zarr.json.new"
        other.write_text(json.dumps(content, indent=2), encoding="utf-8")
        other.replace(new)
    return listed


def _consolidate(path: Path, *, listed: bool) -> None:
    """List anew what a zarr store holds, if it had such a list."""
    if not listed:
        return
    import zarr

    zarr.consolidate_metadata(str(path))
