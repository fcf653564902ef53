"""Sparse matrices in Matrix Market's text, read line by line of numbers.

scipy's reader is a compiled one, which a file that was cut short crashes.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from scsiameseclu_jax.datasets.safety import check_rows, open_bounded
from scsiameseclu_jax.inputs import check_room

__all__ = ["read_header", "read_matrix_market"]

_FIELDS = {"integer": np.int64, "unsigned-integer": np.uint64, "real": np.float64, "pattern": None}
_HEADER = 10_000_000  # bytes of comments at most
_LINE = 100  # bytes of an entry at most
_ENTRY = 48  # bytes in memory, while they are read


class Header(NamedTuple):
    """What a Matrix Market file declares."""

    dtype: Any
    """Type of the entries, None of those that are there or not."""
    n_rows: int
    n_columns: int
    n_entries: int


def read_header(file: Path) -> Header:
    """Read what a file declares.

    Raises
    ------
    ValueError
        If it is no file of real numbers in coordinate format, general.
    """
    with open_bounded(file, _HEADER) as lines:
        return _header(lines)


def read_matrix_market(file: Path) -> sparse.coo_matrix:
    """Read the entries of a file, gzip-compressed or not.

    Raises
    ------
    ValueError
        See :func:`read_header`; if an entry is outside, or entries are missing.
    MemoryError
        If there is less memory than it needs.
    """
    dtype, n_rows, n_columns, n_entries = read_header(file)
    check_rows(file, n_entries, 4)
    check_room(_ENTRY * n_entries, f"the {n_entries} entries of {file.name!r}")
    if not n_entries:
        return sparse.coo_matrix((n_rows, n_columns), dtype=dtype or np.int64)
    kinds: dict[str, Any] = {"row": np.int64, "column": np.int64}
    kinds |= {} if dtype is None else {"value": dtype}
    options: dict[str, Any] = {"header": None, "names": list(kinds), "index_col": False}
    options["nrows"] = n_entries + 1  # one more would be one too many
    # From 3.1 on pandas reads numbers exactly, and deprecates that it is told to.
    if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1):
        options["float_precision"] = "round_trip"
    with open_bounded(file, _HEADER + _LINE * n_entries) as lines:
        _header(lines)
        table = pd.read_csv(lines, sep=r"\s+", dtype=kinds, **options)
    if len(table) != n_entries:
        more = "more" if len(table) > n_entries else str(len(table))
        raise ValueError(f"{n_entries} entries are declared, {more} are there")
    rows, columns = (table[name].to_numpy() - 1 for name in ("row", "column"))
    if min(rows.min(), columns.min()) < 0 or rows.max() >= n_rows or columns.max() >= n_columns:
        raise ValueError(f"an entry is outside of {n_rows} x {n_columns}")
    values = np.ones(n_entries) if dtype is None else table["value"].to_numpy()
    return sparse.coo_matrix((values, (rows, columns)), (n_rows, n_columns))


def _header(lines: Any) -> Header:
    """Read the lines before the entries."""
    words = lines.readline(200).decode(errors="replace").lower().split()
    if words[:3] != ["%%matrixmarket", "matrix", "coordinate"] or len(words) != 5:
        raise ValueError(f"it begins with {' '.join(words)[:60]!r}")
    field, symmetry = words[3:]
    if field not in _FIELDS or symmetry != "general":
        raise ValueError(f"its entries are {field[:20]!r} and {symmetry[:20]!r}")
    for line in lines:
        if line.strip() and not line.startswith(b"%"):
            sizes = [int(word) for word in line[:1000].split()]
            if len(sizes) != 3 or min(sizes) < 0:
                raise ValueError(f"its sizes are {line.strip()[:60]!r}")
            return Header(_FIELDS[field], *sizes)
    raise ValueError("it has no sizes")
