"""From prepared cells to padded arrays on the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

import scsiameseclu_jax.functional as F
from scsiameseclu_jax.preprocessing.constraints import Constraints
from scsiameseclu_jax.preprocessing.prepare import Prepared

_ROWS = 4096  # cells made dense at a time

P = ParamSpec("P")
R = TypeVar("R")


def in_float32(call: Callable[P, R]) -> Callable[P, R]:
    """Make a function compute in float32, whatever ``jax_enable_x64`` is for the rest.

    Results are then those of any other program, and take half the memory.
    """

    @wraps(call)
    def made(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.enable_x64(new_val=False):
            return call(*args, **kwargs)

    return made


def device_data(
    prepared: Prepared, *, n_rows: int | None = None, sizes: tuple[int, int] = (0, 0)
) -> F.CellData:
    """Pad prepared cells to their shape bucket and put them on the default device.

    Numbers are float32, or float64 under ``jax_enable_x64``, as jax has it.

    Parameters
    ----------
    prepared
        The cells, from :func:`scsiameseclu_jax.prepare`.
    n_rows
        Rows to pad to; the shape bucket of the number of cells, if not given.
    sizes
        See :func:`scsiameseclu_jax.functional.cell_graph`.
    """
    n, n_genes = prepared.counts.shape
    rows = F.bucket(n) if n_rows is None else n_rows
    graph = F.cell_graph(
        prepared.senders,
        prepared.receivers,
        prepared.weights,
        n_cells=n,
        n_nodes=rows,
        sizes=sizes,
    )
    size_factors = np.pad(prepared.size_factors, (0, rows - n), constant_values=1)
    return F.CellData(
        features=jnp.asarray(np.pad(prepared.features, [(0, rows - n), (0, 0)]), float),
        counts=jnp.asarray(_dense(prepared.counts, rows)),
        size_factors=jnp.asarray(size_factors, float),
        graph=graph,
        n_cells=jnp.asarray(n, jnp.int32),
        n_genes=jnp.asarray(n_genes, jnp.int32),
        pairs=None if prepared.constraints is None else _padded(prepared.constraints),
    )


def links(graph: F.CellGraph, n_cells: int) -> sp.csr_matrix:
    """Return the weights [n, n] of a graph of n cells as a scipy matrix."""
    g = graph.graph
    real = slice(int(g.n_edge[0]))
    ends = np.asarray(g.receivers)[real], np.asarray(g.senders)[real]
    shape = (n_cells, n_cells)
    return sp.csr_matrix((np.asarray(g.edges, np.float64)[real], ends), shape=shape)


def _padded(pairs: Constraints) -> F.Pairs:
    m = len(pairs.linked)
    more = F.bucket(m) - m
    return F.Pairs(
        cells=jnp.asarray(np.pad(pairs.rows, [(0, more), (0, 0)]), jnp.int32),
        linked=jnp.asarray(np.pad(pairs.linked, (0, more))),
        weights=jnp.asarray(np.pad(np.ones(m), (0, more)), float),
    )


def _dense(counts: sp.csr_matrix, n_rows: int) -> np.ndarray:
    """Return counts, padded, as a dense array of a small type."""
    n, n_genes = counts.shape
    dense = np.zeros((n_rows, F.bucket(n_genes) if n_genes else 0), counts.dtype)
    for start in range(0, n, _ROWS):
        part = counts[start : start + _ROWS]
        dense[start : start + part.shape[0], :n_genes] = part.toarray()
    return dense
