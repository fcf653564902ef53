"""Counts that are larger than memory: Dask reads blocks of whole rows when they are needed.

Local threads do, or the workers of the user's :class:`dask.distributed.Client` while there is one.
Each task reads a block and returns something small, so that one that is lost can be done again.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from scsiameseclu_jax.inputs import check_sparse
from scsiameseclu_jax.preprocessing.counts import (
    canonical,
    check_counts,
    check_numbers,
    counts,
    irregular,
    matrix_of,
    totals,
)

_ENTRIES = 2**25  # of a block, zeros among them, unless one chunk on disk has more
_MOST_ROWS = 8192  # of a block: some arrays for each of its rows are dense
_READER = ThreadPoolExecutor(1, "scsiameseclu-reader")  # has no thread before it is used


def is_lazy(matrix: object) -> bool:
    """Whether a matrix is on disk, or a Dask array, rather than in memory."""
    return _is_dask(matrix) or _is_backed(matrix)


def read_counts(adata: AnnData, *, layer: str | None) -> sp.csr_matrix | Blocks:
    """Return the raw counts after checking them: as they are in memory, or in blocks.

    Parameters and errors are those of :func:`scsiameseclu_jax.pp.counts`.

    Raises
    ------
    TypeError
        Also if counts are not in memory, and Dask is not installed.
    """
    matrix, name = matrix_of(adata, layer)
    if not is_lazy(matrix):
        return counts(adata, layer=layer)
    raw = Blocks(matrix, name)
    check_counts(*raw.irregular, name, adata, layer)
    if not raw.nnz:
        msg = f"Expected counts in {name}, found only zeros."
        raise ValueError(msg)
    return raw


def largest_count(raw: sp.csr_matrix | Blocks) -> float:
    """Return the largest count."""
    return raw.largest if isinstance(raw, Blocks) else raw.data.max(initial=0)


class Blocks:
    """Raw counts [n, g] of which only blocks of whole rows are in memory at a time.

    Has what is asked of a CSR matrix of counts; each of `[rows]`, `map` and `total` reads them
    once.

    Parameters
    ----------
    matrix
        Dask array of sparse or dense chunks, or what anndata's backed mode has.
    name
        What to call it in errors.

    Raises
    ------
    ValueError
        If they are no numbers, or damaged.
    TypeError
        Without Dask.
    """

    def __init__(self, matrix: Any, name: str) -> None:
        check_numbers(matrix, name)
        array = _as_dask(matrix, name)
        if isinstance(array._meta, np.ma.MaskedArray):
            msg = (
                f"Expected {name} to be of numpy arrays or scipy sparse matrices, found "
                "MaskedArray; fill what is masked (`dask.array.ma.filled(x, 0)`, if that is no "
                "counts)."
            )
            raise TypeError(msg)
        import dask

        self.shape = int(array.shape[0]), int(array.shape[1])
        self.dtype = array.dtype
        self._blocks, self._parts = _blocks_of(array)
        cells, genes, largest, irregular, marks = zip(*self.map(_measure), strict=True)
        # a store that is changed meanwhile would be another one to each pass; of zarr what is
        # gone reads as zeros
        unchanged = dask.delayed(_unchanged, pure=False)
        pairs = zip(self._blocks, marks, strict=True)
        self._blocks = [unchanged(block, mark, name) for block, mark in pairs]
        self._cells = [np.concatenate(arrays) for arrays in zip(*cells, strict=True)]
        self._genes = [np.sum(arrays, axis=0) for arrays in zip(*genes, strict=True)]
        self.nnz = int(self.getnnz(axis=1).sum())
        self.largest = max(largest)
        """Largest count."""
        self.irregular = sum(n for n, _ in irregular), next((w for _, w in irregular if w), "")
        """How many values are not finite, and what others look like; "" if they are counts."""

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self._blocks)

    def sum(self, axis: int) -> np.ndarray:
        """Return the total counts of each gene [g] (axis 0), or of each cell [n], float64."""
        return (self._cells if axis else self._genes)[0]

    def getnnz(self, axis: int) -> np.ndarray:
        """Return the number of cells with each gene [g] (axis 0), or of genes in each cell [n]."""
        return (self._cells if axis else self._genes)[1]

    def map(
        self,
        function: Callable[..., Any],
        rows: Mapping[str, np.ndarray | None] | None = None,
        **constants: Any,
    ) -> list[Any]:
        """Return ``function(block, **rows of the block, **constants)`` of each block, in order.

        Parameters
        ----------
        function
            Of a module, for workers import it. It must not change the block.
        rows
            Arrays [n, ...], of which each call gets the rows of its block; None is passed on.
        constants
            The same for all.
        """
        import dask

        return list(dask.compute(*self._tasks(function, rows or {}, constants)))

    def total(
        self, function: Callable[..., Any], rows: Mapping[str, np.ndarray | None], **constants: Any
    ) -> np.ndarray:
        """Return the sum over blocks of the arrays that :meth:`map` would return.

        Two at a time are added where they were made, always the same two.
        """
        import dask

        tasks = self._tasks(function, rows, constants)
        while len(tasks) > 1:
            pairs = [tasks[i : i + 2] for i in range(0, len(tasks), 2)]
            tasks = [pair[0] if len(pair) == 1 else dask.delayed(np.add)(*pair) for pair in pairs]
        return dask.compute(tasks[0])[0]

    def _tasks(
        self,
        function: Callable[..., Any],
        rows: Mapping[str, np.ndarray | None],
        constants: Mapping[str, Any],
    ) -> list[Any]:
        import dask

        # sent once, not with each task
        shared = {name: dask.delayed(value, traverse=False) for name, value in constants.items()}
        task = dask.delayed(function, pure=False)
        return [
            task(block, **{k: None if v is None else v[part] for k, v in rows.items()}, **shared)
            for block, part in zip(self._blocks, self._parts, strict=True)
        ]

    def __getitem__(self, rows: np.ndarray) -> sp.csr_matrix:
        """Return the counts [m, g] of cells, in the order that they are asked for."""
        return self.of_genes(rows, None)

    def of_genes(
        self, rows: np.ndarray | None, genes: np.ndarray | sp.csr_matrix | None
    ) -> sp.csr_matrix:
        """Return counts [m, h] of cells, by row, and genes, by column; None is all of them."""
        import dask

        rows = np.arange(self.shape[0]) if rows is None else np.asarray(rows)
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        ends = np.searchsorted(ordered, [part.stop for part in self._parts])
        task, tasks, start = dask.delayed(_rows, pure=False), [], 0
        for block, part, end in zip(self._blocks, self._parts, ends, strict=True):
            if end > start:
                tasks.append(task(block, ordered[start:end] - part.start, genes))
            start = int(end)
        if not tasks:
            width = self.shape[1] if genes is None else genes.shape[-1]
            return sp.csr_matrix((0, width), dtype=self.dtype)
        return sp.vstack(dask.compute(*tasks), format="csr")[np.argsort(order)]

    def array(self, function: Callable[..., Any], n_genes: int, rows: Any, **constants: Any) -> Any:
        """Return what :meth:`map` would return, sparse float32 [n, n_genes], as a Dask array."""
        import dask.array as da

        meta = sp.csr_matrix((0, 0), dtype=np.float32)
        tasks = self._tasks(function, rows, constants)
        sizes = [(part.stop - part.start, n_genes) for part in self._parts]
        parts = zip(tasks, sizes, strict=True)
        return da.concatenate([da.from_delayed(task, size, meta=meta) for task, size in parts])


class Selected:
    """Counts of some genes, cells in an order of their own; read when rows are asked for.

    Parameters
    ----------
    source
        All counts.
    genes
        [g] columns of the genes, or a matrix [G, g] of which are put together in each.
    order
        [n] row of each cell.
    """

    def __init__(
        self, source: Blocks, genes: np.ndarray | sp.csr_matrix, order: np.ndarray
    ) -> None:
        self.source, self.genes, self.order = source, genes, order
        self._coming: tuple[np.ndarray, Future[sp.csr_matrix]] | None = None
        self.shape = len(order), genes.shape[-1]
        together = genes.sum(axis=0).max() if sp.issparse(genes) else 1  # in one column
        most = int(source.largest * max(together, 1))
        self.dtype = np.promote_types(np.uint16, np.min_scalar_type(most))

    def __getitem__(self, rows: np.ndarray | slice) -> sp.csr_matrix:
        """Return the counts [m, g] of cells."""
        coming, self._coming = self._coming, None
        if coming is not None and coming[0] is rows:
            return coming[1].result()
        return self.source.of_genes(self.order[rows], self.genes).astype(self.dtype)

    def fetch(self, rows: np.ndarray) -> None:
        """Begin to read what `[rows]`, with this very array, will be asked for next."""
        read = partial(self.source.of_genes, self.order[rows], self.genes)
        self._coming = rows, _READER.submit(lambda: read().astype(self.dtype))

    def tocsr(self) -> sp.csr_matrix:
        """Return all of them, in memory."""
        return self[slice(None)]

    def sums(self, member: np.ndarray, n_groups: int) -> np.ndarray:
        """Return counts [c, g] of each group of cells [n], added up."""
        groups = np.empty(self.source.shape[0], int)
        groups[self.order] = member
        rows, options = {"groups": groups}, {"genes": self.genes, "n_groups": n_groups}
        return self.source.total(_group_sums, rows, **options)


def settled(adata: AnnData) -> AnnData:
    """Return an object of which only matrices of cells x genes, and of cells x cells, are on disk.

    What is so already, or no AnnData, is returned as it is. Backed counts become a Dask array.
    """
    if not isinstance(adata, AnnData):
        return adata
    # X of a view would be copied to look at it
    tables, backed = _lazy_tables(adata), not adata.is_view and _is_backed(adata.X)
    if not tables and not backed:
        return adata
    parts: dict[str, Any] = {name: getattr(adata, name) for name in ("obs", "var", "uns")}
    parts |= {name: dict(getattr(adata, name)) for name in ("obsm", "varm", "obsp", "layers")}
    parts["layers"].pop(None, None)  # X, of anndata 0.13
    x = _as_dask(adata.X, "X") if backed else adata.X
    return AnnData(X=x, **(parts | tables))


def settle(adata: AnnData) -> None:
    """Do what :func:`settled` does in place, so that results can be written; leave backed X."""
    for name, table in _lazy_tables(adata).items():
        setattr(adata, name, table)


def _lazy_tables(adata: AnnData) -> dict[str, Any]:
    """Return in memory what is not, of obs, var, uns, obsm and varm."""
    tables = {name: getattr(adata, name) for name in ("obs", "var")}
    tables |= {name: dict(getattr(adata, name)) for name in ("uns", "obsm", "varm")}
    read = {name: loaded(table) for name, table in tables.items()}
    return {name: read[name] for name, table in tables.items() if not _same(read[name], table)}


def _same(one: Any, other: Any) -> bool:
    """Whether two nested mappings hold the same objects."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_same(one[name], other[name]) for name in one)
    return one is other


def loaded(value: Any) -> Any:
    """Return a part of an AnnData in memory, if it was read lazily; nested ones, too."""
    if type(value).__name__ == "Dataset2D":
        return value.to_memory()
    if isinstance(value, dict):
        return {name: loaded(one) for name, one in value.items()}
    return value.compute() if _is_dask(value) else value


def _is_dask(value: object) -> bool:
    return hasattr(value, "__dask_graph__") and hasattr(value, "chunks")


def _is_backed(value: object) -> bool:
    """Whether this is a matrix of an open file, as anndata's backed mode has them."""
    if hasattr(value, "backend") and hasattr(value, "group"):  # sparse
        return True
    return type(value).__module__.partition(".")[0] in ("h5py", "zarr")


def _as_dask(matrix: Any, name: str) -> Any:
    """Return a matrix as a Dask array of whole chunks of the file."""
    try:
        import dask.array  # noqa: F401
        from anndata.experimental import read_elem_lazy
    except ImportError as error:
        msg = (
            f"Expected {name} in memory, or Dask to read it in blocks, found neither: load it "
            "(`adata.to_memory()`), or `pip install 'scsiameseclu-jax[dask]'`."
        )
        raise TypeError(msg) from error
    return matrix if _is_dask(matrix) else read_elem_lazy(getattr(matrix, "group", matrix))


def _blocks_of(array: Any) -> tuple[list[Any], list[slice]]:
    """Return tasks that read blocks of whole rows, and the rows of each."""
    import dask

    n, n_genes = array.shape
    wanted = int(np.clip(_ENTRIES // n_genes, 1, _MOST_ROWS))
    if max(array.chunks[0]) > 2 * wanted:
        checked = array.map_blocks(_checked, dtype=array.dtype, meta=array._meta)
        array = checked.rechunk({0: wanted, 1: -1})
    chunks = array.to_delayed()
    task, tasks, parts = dask.delayed(_read, pure=False), [], []
    start, end, held = 0, 0, []
    for row, size in zip(chunks, array.chunks[0], strict=True):
        held.append(list(row))
        end += size
        if end > start and (end - start >= wanted or end == n):
            tasks.append(task(held))
            parts.append(slice(start, end))
            start, held = end, []
    return tasks, parts


# What tasks do, each with a block of counts [r, g].


def _read(chunks: list[list[Any]]) -> sp.csr_matrix:
    """Return chunks, beside and below each other, as one matrix as it has to be."""
    checked = [[_checked(chunk) for chunk in row] for row in chunks]
    rows = [canonical(row[0] if len(row) == 1 else _beside(row)) for row in checked]
    return rows[0] if len(rows) == 1 else sp.vstack(rows, format="csr")


def _checked(chunk: Any) -> Any:
    """Return a chunk whose parts fit together, before compiled code that trusts them cuts it."""
    if sp.issparse(chunk):
        check_sparse(chunk, "the matrix")
    return chunk


def _beside(chunks: list[Any]) -> sp.csr_matrix:
    return sp.hstack([sp.csr_matrix(chunk) for chunk in chunks], format="csr")


def _measure(block: sp.csr_matrix) -> tuple[Any, ...]:
    """Return totals and entries of rows, those of columns, the largest, the irregular, a mark."""
    cells = totals(block), block.getnnz(axis=1)
    columns = np.bincount(block.indices, weights=block.data, minlength=block.shape[1])
    genes, largest = (columns, block.getnnz(axis=0)), block.data.max(initial=0)
    return cells, genes, largest, irregular(block), _mark(block)


def _mark(block: sp.csr_matrix) -> tuple[int, ...]:
    """Return what tells a block from others."""
    parts = block.data, block.indices, block.indptr
    return (*block.shape, *(zlib.crc32(part) for part in parts))


def _unchanged(block: sp.csr_matrix, mark: tuple[int, ...], name: str) -> sp.csr_matrix:
    """Return a block that is as it was when it was first read."""
    if _mark(block) != mark:
        msg = (
            f"Expected {name} to be as it was when it was first read, found other counts: the file "
            "was changed or removed meanwhile; begin anew."
        )
        raise ValueError(msg)
    return block


def _rows(block: sp.csr_matrix, rows: np.ndarray, genes: np.ndarray | None) -> sp.csr_matrix:
    return _of_genes(block[rows], genes)


def _of_genes(block: sp.csr_matrix, genes: np.ndarray | sp.csr_matrix | None) -> sp.csr_matrix:
    if genes is None:
        return block
    return sp.csr_matrix(block @ genes) if sp.issparse(genes) else block[:, genes]


def _group_sums(
    block: sp.csr_matrix, *, groups: np.ndarray, genes: np.ndarray, n_groups: int
) -> np.ndarray:
    ends = groups, np.arange(len(groups))
    where = sp.csr_matrix((np.ones(len(groups)), ends), shape=(n_groups, len(groups)))
    return (where @ _of_genes(block, genes).astype(np.float64)).toarray()
