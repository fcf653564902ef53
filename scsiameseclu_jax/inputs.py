"""What comes from outside: files that can be read, sparse matrices that are whole, free memory.

Of use to readers, too, that have none for JAX.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

_CGROUPS = (  # of a container: its limit, and where what cannot be given back is listed
    ("memory.max", "memory.stat", "anon"),
    ("memory/memory.limit_in_bytes", "memory/memory.stat", "total_rss"),
)


def check_file(path: Path, what: str) -> None:
    """Check that there is a file to read: a pipe or a device may never end.

    Parameters
    ----------
    path
        Where it is.
    what
        What it is to be, for the message.

    Raises
    ------
    FileNotFoundError
        If there is nothing.
    ValueError
        If it is a folder, a pipe, a socket or a device.
    """
    if not path.exists():
        msg = f"Expected {what}, found nothing at {str(path)!r}."
        raise FileNotFoundError(msg)
    if not path.is_file():
        kind = "a directory" if path.is_dir() else "a pipe, socket or device"
        msg = f"Expected {what}, found {kind} at {str(path)!r}; give a file."
        raise ValueError(msg)


def check_sparse(matrix: Any, name: str) -> None:
    """Check that the parts of a sparse matrix fit together: compiled code trusts them, and crashes.

    Parameters
    ----------
    matrix
        A scipy sparse matrix or array of two dimensions; of a format that is not compressed,
        nothing is checked.
    name
        What it is called in the message.

    Raises
    ------
    ValueError
        If pointers to rows or columns, or indices, are out of range or out of order.
    """
    if matrix.format in ("csr", "csc"):
        sizes = matrix.shape if matrix.format == "csr" else matrix.shape[::-1]
        check_compressed(matrix.data, matrix.indices, matrix.indptr, sizes, name)


def check_compressed(
    data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, sizes: tuple[int, int], name: str
) -> None:
    """Check the three parts of a compressed sparse matrix, as :func:`check_sparse` does.

    Parameters
    ----------
    data, indices, indptr
        Its parts, as scipy calls them.
    sizes
        Rows and columns of CSR, columns and rows of CSC.
    name
        What it is called in the message.
    """
    for part, values in (("indices", indices), ("indptr", indptr)):
        if values.ndim != 1 or values.dtype.kind not in "iu":
            raise _damaged(name, f"`{part}` of shape {values.shape} and type {values.dtype}")
    if len(indptr) != sizes[0] + 1:
        raise _damaged(name, f"{len(indptr)} pointers where {sizes[0] + 1} are needed")
    if indptr[0] != 0 or (indptr[1:] < indptr[:-1]).any():
        raise _damaged(name, "pointers that do not rise from 0")
    if data.ndim != 1 or not indptr[-1] == len(indices) == len(data):
        found = f"pointers to {indptr[-1]} values, {len(indices)} indices and {len(data)} values"
        raise _damaged(name, found)
    if indices.size and not 0 <= indices.min() <= indices.max() < sizes[1]:
        raise _damaged(name, f"indices from {indices.min()} to {indices.max()} of {sizes[1]}")


def _damaged(name: str, found: str) -> ValueError:
    return ValueError(
        f"Expected {name} to be a whole sparse matrix, found {found}: it is damaged; write or "
        "download it again."
    )


def check_room(n_bytes: int, what: str) -> None:
    """Check that there is memory for something, as far as that can be told.

    Raises
    ------
    MemoryError
        If there is less.
    """
    free = free_memory()
    if free is not None and n_bytes > free:
        msg = (
            f"Expected {n_bytes / 2**30:.1f} GiB of memory for {what}, found {free / 2**30:.1f} "
            "GiB free; take a part of it, or a larger machine."
        )
        raise MemoryError(msg)


def free_memory() -> int | None:
    """Return bytes that can be had on this machine, or in this container; None if not told."""
    found = []
    try:
        found.append(1024 * _value("/proc/meminfo", "MemAvailable:"))
    except (OSError, ValueError):  # not Linux
        return None
    for limit, statistics, held in _CGROUPS:
        groups = Path("/sys/fs/cgroup")
        try:
            most = int((groups / limit).read_text())
            found.append(most - _value(str(groups / statistics), held))
        except (OSError, ValueError):  # no such group, or its limit is "max"
            continue
    return max(0, min(found))


def _value(path: str, name: str) -> int:
    for line in Path(path).read_text().splitlines():
        if line.split()[0] == name:
            return int(line.split()[1])
    raise ValueError(name)
