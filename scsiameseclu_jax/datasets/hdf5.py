"""Matrices, tables and labels as the field's HDF5 files lay them out."""

import logging
from typing import Any

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from scsiameseclu_jax.datasets.safety import check_size
from scsiameseclu_jax.inputs import check_compressed, check_room

__all__ = [
    "SPARSE_KEYS",
    "csr",
    "decoded",
    "holds",
    "labels",
    "matrix",
    "numbered",
    "sparse_parts",
    "table",
    "vector",
]

SPARSE_KEYS = {"data", "indices", "indptr"}
logger = logging.getLogger(__name__)

# Dense matrices are made sparse in pieces of about this many entries.
_BLOCK = 2**23
# Cells or genes of a sparse matrix, and those that a file need not name.
_LARGEST, _UNNAMED = 2**31 - 1, 10_000_000


def holds(item: Any, keys: set[str]) -> bool:
    """Whether `item` is a group with all of `keys`."""
    return isinstance(item, h5py.Group) and keys <= set(item)


def matrix(item: h5py.Dataset | h5py.Group) -> sparse.csr_matrix:
    """Read cells x genes ``[n, g]``, dense or in sparse parts, never as one dense array."""
    if isinstance(item, h5py.Dataset):
        return _dense(item)
    if holds(item, SPARSE_KEYS):
        return sparse_parts(item)
    names = sorted(item) if isinstance(item, h5py.Group) else "a type without values"
    # A group around one dense matrix.
    inside = [item[name] for name in names] if isinstance(item, h5py.Group) else []
    datasets = [value for value in inside if isinstance(value, h5py.Dataset)]
    if len(datasets) == 1:
        return _dense(datasets[0])
    msg = f"Expected a matrix or {sorted(SPARSE_KEYS)} in `{item.name}`, found {names}."
    raise ValueError(msg)


def _dense(dataset: h5py.Dataset) -> sparse.csr_matrix:
    if dataset.ndim != 2:
        msg = f"Expected `{dataset.name}` to be [cells x genes], found shape {dataset.shape}."
        raise ValueError(msg)
    check_size(dataset)
    n_rows, n_columns = dataset.shape
    step = max(1, _BLOCK // max(1, n_columns))
    if dataset.chunks:
        # Whole chunks, so that each is decompressed once.
        step = -(-step // dataset.chunks[0]) * dataset.chunks[0]
    blocks = [csr(dataset[start : start + step]) for start in range(0, max(n_rows, 1), step)]
    return sparse.vstack(blocks, format="csr")


def sparse_parts(group: h5py.Group, *, by_gene: bool = False) -> sparse.csr_matrix:
    """Assemble CSR parts; `by_gene`: 10x's CSC of genes x cells, the same parts transposed."""
    shape = _shape(group)
    n_rows, n_columns = shape[::-1] if by_gene else shape
    data, indices, indptr = (vector(group[key]) for key in ("data", "indices", "indptr"))
    columnwise = decoded(group.attrs.get("encoding-type")) == "csc_matrix"
    n_major, n_minor = (n_columns, n_rows) if columnwise else (n_rows, n_columns)
    name = f"`{group.name}`, of {n_rows} x {n_columns},"
    check_compressed(data, indices, indptr, (n_major, n_minor), name)
    if n_minor > _LARGEST:  # nothing that is stored tells how many there are
        msg = f"Expected up to {_LARGEST} cells and genes, found a shape of {n_rows} x {n_columns}."
        raise ValueError(msg)
    check_room(8 * n_minor, f"a matrix of {n_rows} x {n_columns}")  # of the other pointers
    kind = sparse.csc_matrix if columnwise else sparse.csr_matrix
    data = data.astype(_count_type(data), copy=False)
    return sparse.csr_matrix(kind((data, indices, indptr), shape=(n_rows, n_columns)))


def _shape(group: h5py.Group) -> tuple[int, int]:
    """Return the shape that a group of sparse parts has, as a dataset or an attribute."""
    shape = vector(group["shape"]) if "shape" in group else group.attrs.get("shape")
    sizes = np.ravel(shape) if shape is not None else np.zeros(0)
    known = sizes.size == 2 and sizes.dtype.kind in "iuf" and bool(np.isfinite(sizes).all())
    if not known or sizes.min() < 0 or sizes.max() >= 2**63 or (sizes % 1).any():
        msg = f"Expected `{group.name}` to hold a `shape` of two numbers, found {shape}."
        raise ValueError(msg)
    return int(sizes[0]), int(sizes[1])


def csr(values: Any, name: str = "the matrix") -> sparse.csr_matrix:
    """CSR of any matrix of numbers: integers as they are, anything else float32."""
    if not (sparse.issparse(values) or isinstance(values, np.ndarray)) or values.ndim != 2:
        msg = f"Expected {name} to be dense or sparse, [cells x genes], found {type(values)}."
        raise ValueError(msg)
    return sparse.csr_matrix(values.astype(_count_type(values), copy=False))


def _count_type(values: Any) -> np.dtype:
    dtype = values.dtype
    if dtype.kind in "iu":
        return dtype.newbyteorder("=")
    if dtype.kind in "bf":
        # beyond, single precision skips whole numbers
        large = dtype.itemsize > 4 and values.size and abs(values).max() > 2**24
        return np.dtype(np.float64 if large else np.float32)
    msg = f"Expected numbers in the matrix, found {dtype}."
    raise ValueError(msg)


def table(file: h5py.File, key: str, kind: str, n: int) -> pd.DataFrame:
    """Columns and names of the n cells or genes, as far as the file has them."""
    columns = _columns(file[key], n) if key in file else {}
    index = columns.pop("_index", None)  # a name that AnnData keeps for itself
    names = columns.pop(f"{key}_names", index)
    if f"{key}_names" in file:
        names = vector(file[f"{key}_names"], n)
    index = numbered(kind, n) if names is None else pd.Index(names).astype(str)
    return pd.DataFrame(columns, index=index)


def vector(dataset: Any, n: int | None = None, name: str = "") -> np.ndarray:
    """Read one dimension, of length `n` where given, with bytes as text."""
    if isinstance(dataset, h5py.Group | h5py.Datatype):
        msg = f"Expected `{dataset.name}` to hold values, found an HDF5 group or type."
        raise ValueError(msg)
    if isinstance(dataset, h5py.Dataset):  # else fields of one, which is checked before
        check_size(dataset)
    values = np.ravel(dataset[...])
    if n is not None and values.size != n:
        msg = (
            f"Expected `{name or dataset.name}` to hold {n} values, as many as the matrix has "
            f"rows or columns, found shape {np.shape(dataset)}."
        )
        raise ValueError(msg)
    if values.dtype.kind in "OS":
        texts = np.array([decoded(value) for value in values], dtype=object)
        damaged = sum("\ufffd" in text for text in texts if isinstance(text, str))
        if damaged:
            where = name or dataset.name
            logger.warning("%d values in %s are no UTF-8: letters are lost", damaged, where)
        return texts
    return values.astype(values.dtype.newbyteorder("="))


def labels(values: np.ndarray) -> pd.Categorical:
    """Categorical of strings, in the order of the numbers where they are numbers."""
    result = pd.Categorical(values)
    names = result.categories
    if names.dtype.kind == "f" and np.isfinite(names).all() and not (names % 1).any():
        names = names.astype(int)
    return result.rename_categories([str(name) for name in names])


def numbered(kind: str, n: int) -> pd.Index:
    """Names for what the file does not name."""
    if n > _UNNAMED:
        msg = f"Expected names of more than {_UNNAMED} {kind}s in the file, found none for {n}."
        raise ValueError(msg)
    return pd.Index([f"{kind}_{number}" for number in range(n)], dtype=object)


def decoded(value: Any) -> Any:
    """Text where `value` is bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _columns(item: h5py.Dataset | h5py.Group, n: int) -> dict[str, Any]:
    if isinstance(item, h5py.Dataset):
        # Compound: a field is read by its name.
        check_size(item)
        return {name: vector(item.fields(name), n, name) for name in item.dtype.names or ()}
    if not isinstance(item, h5py.Group):
        msg = f"Expected `{item.name}` to hold columns, found a type without values."
        raise ValueError(msg)
    columns: dict[str, Any] = {}
    outside = item["__categories"] if holds(item.get("__categories"), set()) else {}
    for name, column in item.items():
        if holds(column, {"categories", "codes"}):
            columns[name] = _categorical(column["codes"], column["categories"], n)
        elif isinstance(column, h5py.Dataset) and name in outside:
            columns[name] = _categorical(column, outside[name], n)
        elif isinstance(column, h5py.Dataset):
            columns[name] = vector(column, n)
        elif name != "__categories":
            logger.warning("left out %r of %s: it is no column", name, item.name)
    return columns


def _categorical(codes: h5py.Dataset, categories: h5py.Dataset, n: int) -> pd.Categorical:
    """Categories by code; -1 is missing."""
    numbers, names = vector(codes, n), vector(categories)
    try:
        return pd.Categorical.from_codes(numbers, categories=names)
    except ValueError as error:
        msg = f"Expected `{codes.name}` to hold codes of its {names.size} categories: {error}."
        raise ValueError(msg) from error
