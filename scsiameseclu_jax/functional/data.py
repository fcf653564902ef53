"""From arrays to what training sees: padding, graph, size factors."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from scsiameseclu_jax.functional.graph import bucket, cell_graph
from scsiameseclu_jax.functional.types import CellData, Constraints

_ROWS = 4096  # cells made dense at a time


def cell_data(
    features: np.ndarray,
    counts: Any,
    neighbors: Any,
    *,
    size_factors: np.ndarray | None = None,
    must_link: np.ndarray | None = None,
    cannot_link: np.ndarray | None = None,
    n_rows: int | None = None,
    sizes: tuple[int, int] = (0, 0),
) -> CellData:
    """Pad arrays of cells to their shape bucket and put them on the default device.

    Numbers are float32, or float64 under ``jax_enable_x64``, as jax has it.

    Parameters
    ----------
    features
        [n, p] what the encoders see, for example principal components; at best with unit variance
        overall.
    counts
        [n, g] raw counts, non-negative whole numbers, dense or a scipy sparse matrix; None leaves
        out every loss of counts.
    neighbors
        Who is linked to whom: [n, k] rows of the nearest cells of each cell; or a scipy sparse
        matrix [n, n] of positive weights; or ends of links, ``(senders, receivers)`` or
        ``(senders, receivers, weights)``, each [m]. Links count in both directions.
    size_factors
        [n] positive; totals of `counts` over their median, if not given.
    must_link, cannot_link
        [m, 2] rows of cells known to be of one cluster, and of two.
    n_rows
        Rows to pad to; the shape bucket of the number of cells, if not given.
    sizes
        See :func:`cell_graph`.

    Raises
    ------
    ValueError
        If shapes do not fit each other, or numbers are not finite, or negative where they cannot
        be.
    """
    features = np.asarray(features)
    if features.ndim != 2 or not np.isfinite(features).all():
        msg = f"Expected `features` to be finite, [n, p], found shape {features.shape}."
        raise ValueError(msg)
    n = len(features)
    if counts is None:
        counts = np.zeros((n, 0), np.uint16)
    counts = counts.tocsr() if hasattr(counts, "tocsr") else np.asarray(counts)
    if len(counts.shape) != 2 or counts.shape[0] != n:
        msg = f"Expected `counts` of {n} cells, [n, g], found shape {counts.shape}."
        raise ValueError(msg)
    values = counts.data if hasattr(counts, "tocsr") else counts
    if values.size and not (values.min() >= 0 and (values == np.rint(values)).all()):
        msg = "Expected `counts` to be whole numbers, 0 or more, found others."
        raise ValueError(msg)
    n_genes = counts.shape[1]
    rows = bucket(n) if n_rows is None else n_rows
    if rows < n:
        msg = f"Expected `n_rows` to be at least the number of cells, {n}, found {rows}."
        raise ValueError(msg)
    pad = (0, rows - n)
    factors = _size_factors(counts, size_factors, n)
    return CellData(
        features=jnp.asarray(np.pad(features, [pad, (0, 0)]), float),
        counts=jnp.asarray(_dense(counts, rows)),
        size_factors=jnp.asarray(np.pad(factors, pad, constant_values=1), float),
        graph=cell_graph(*_links(neighbors, n), n_cells=n, n_nodes=rows, sizes=sizes),
        mask=jnp.asarray((np.arange(rows) < n), float),
        n_genes=jnp.asarray(np.int32(n_genes)),
        constraints=_constraints(must_link, cannot_link, n),
    )


def _size_factors(counts: Any, given: np.ndarray | None, n: int) -> np.ndarray:
    if given is None:
        totals = np.asarray(counts.sum(axis=1), np.float64).ravel()
        median = np.median(totals[totals > 0]) if (totals > 0).any() else 1.0
        return np.where(totals > 0, totals, median) / median
    factors = np.asarray(given, np.float64)
    if factors.shape != (n,) or not (np.isfinite(factors).all() and factors.min() > 0):
        msg = f"Expected `size_factors` of {n} cells, positive, found shape {factors.shape}."
        raise ValueError(msg)
    return factors


def _links(neighbors: Any, n: int) -> tuple[np.ndarray, ...]:
    """Return senders, receivers and perhaps weights of links given in any of the three ways."""
    if hasattr(neighbors, "tocoo"):
        links = neighbors.tocoo()
        if links.shape != (n, n):
            msg = f"Expected `neighbors` to be a matrix [{n}, {n}], found shape {links.shape}."
            raise ValueError(msg)
        return links.col, links.row, links.data
    if isinstance(neighbors, tuple):
        if len(neighbors) not in (2, 3) or len({len(ends) for ends in neighbors}) > 1:
            msg = "Expected `neighbors` as (senders, receivers) or (senders, receivers, weights)."
            raise ValueError(msg)
        return neighbors
    table = np.asarray(neighbors)
    if table.ndim != 2 or len(table) != n or table.dtype.kind not in "iu":
        msg = (
            f"Expected `neighbors` to be rows of cells, [{n}, k], found shape {table.shape} of "
            f"{table.dtype}; a matrix of weights has to be a scipy sparse matrix."
        )
        raise ValueError(msg)
    return table.ravel(), np.repeat(np.arange(n), table.shape[1])


def _constraints(
    must_link: np.ndarray | None, cannot_link: np.ndarray | None, n: int
) -> Constraints | None:
    given = {"must_link": must_link, "cannot_link": cannot_link}
    parts = [
        np.zeros((0, 2), np.int32) if pairs is None or not len(pairs) else np.asarray(pairs)
        for pairs in given.values()
    ]
    for name, rows in zip(given, parts, strict=True):
        if (
            rows.ndim != 2
            or rows.shape[1] != 2
            or (rows.size and not 0 <= rows.min() <= rows.max() < n)
        ):
            msg = f"Expected `{name}` to be rows of cells, [m, 2], 0 to {n - 1}, found others."
            raise ValueError(msg)
    cells = np.concatenate(parts).astype(np.int32)
    m = len(cells)
    if not m:
        return None
    more = bucket(m) - m
    linked = np.arange(m + more) < len(parts[0])
    return Constraints(
        cells=jnp.asarray(np.pad(cells, [(0, more), (0, 0)])),
        linked=jnp.asarray(linked),
        weights=jnp.asarray((np.arange(m + more) < m), float),
    )


def _dense(counts: Any, n_rows: int) -> np.ndarray:
    """Return counts, padded, as a dense array of their type."""
    n, n_genes = counts.shape
    dense = np.zeros((n_rows, bucket(n_genes) if n_genes else 0), counts.dtype)
    for start in range(0, n, _ROWS):
        part = counts[start : start + _ROWS]
        part = part.toarray() if hasattr(part, "toarray") else part
        dense[start : start + len(part), :n_genes] = part
    return dense
