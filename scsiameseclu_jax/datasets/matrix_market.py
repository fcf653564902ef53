"""Sparse matrices in Matrix Market's text, read line by line of numbers.

scipy's reader is a compiled one, which a file that was cut short crashes.
"""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from scsiameseclu_jax.datasets.safety import StoreError
from scsiameseclu_jax.inputs import check_room

__all__ = ["read_matrix_market"]

_FIELDS = {"integer": np.int64, "unsigned-integer": np.uint64, "real": np.float64, "pattern": None}
_RATIO = 1032  # the best that gzip can do
_HEADER = 10_000  # lines of comments at most
_ENTRY = 48  # bytes in memory, while they are read


def read_matrix_market(file: Path, shape: tuple[int, int]) -> sparse.coo_matrix:
    """Read the entries of a file, compressed or not.

    Parameters
    ----------
    file
        In coordinate format, general.
    shape
        Rows and columns that it has to have.

    Raises
    ------
    ValueError
        If it is no such file, or has another shape; if an entry is outside, or entries are missing.
    MemoryError
        If there is less memory than it needs.
    """
    dtype, sizes, n_lines = _header(file)
    n_rows, n_columns, n_entries = sizes
    if (n_rows, n_columns) != shape:
        msg = (
            f"Expected a 10x matrix of {shape[1]} barcodes and {shape[0]} features, found "
            f"{n_columns} and {n_rows}."
        )
        raise StoreError(msg)
    n_bytes = file.stat().st_size
    # A digit and a space each, at least.
    if 4 * n_entries > (_RATIO if file.suffix == ".gz" else 1) * n_bytes + 1:
        name = repr(file.name)
        msg = f"Expected {n_entries} entries in {name}, as it declares, found {n_bytes} bytes."
        raise StoreError(msg)
    check_room(_ENTRY * n_entries, f"the {n_entries} entries of {file.name!r}")
    kinds: dict[str, Any] = {"row": np.int64, "column": np.int64}
    kinds |= {} if dtype is None else {"value": dtype}
    # `nrows`: one more would be one too many.
    options: dict[str, Any] = {"header": None, "names": list(kinds), "index_col": False}
    options |= {"skiprows": n_lines, "nrows": n_entries + 1, "float_precision": "round_trip"}
    table = pd.read_csv(file, sep=r"\s+", dtype=kinds, **options) if n_entries else None
    if table is None:
        return sparse.coo_matrix(shape, dtype=np.int64 if dtype is None else dtype)
    if len(table) != n_entries:
        more = "more" if len(table) > n_entries else str(len(table))
        raise ValueError(f"{n_entries} entries are declared, {more} are there")
    rows, columns = (table[name].to_numpy() - 1 for name in ("row", "column"))
    if min(rows.min(), columns.min()) < 0 or rows.max() >= n_rows or columns.max() >= n_columns:
        raise ValueError(f"an entry is outside of {n_rows} x {n_columns}")
    values = np.ones(n_entries) if dtype is None else table["value"].to_numpy()
    return sparse.coo_matrix((values, (rows, columns)), shape)


def _header(file: Path) -> tuple[Any, tuple[int, int, int], int]:
    """Return the type of the entries, rows, columns and entries, and the lines before these."""
    with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
        words = lines.readline(200).lower().split()
        if words[:3] != ["%%matrixmarket", "matrix", "coordinate"] or len(words) != 5:
            raise ValueError(f"it begins with {' '.join(words)[:60]!r}")
        field, symmetry = words[3:]
        if field not in _FIELDS or symmetry != "general":
            raise ValueError(f"its entries are {field} and {symmetry}, not real numbers in general")
        for number in range(2, _HEADER):
            line = lines.readline(10_000)
            if line.strip() and not line.startswith("%"):
                sizes = [int(word) for word in line.split()]
                if len(sizes) != 3 or min(sizes) < 0:
                    raise ValueError(f"its sizes are {line.strip()[:60]!r}")
                return _FIELDS[field], (sizes[0], sizes[1], sizes[2]), number
    raise ValueError("it has no sizes")
