"""From prepared cells to padded arrays on the device, and programs that are not kept for ever."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
import scipy.sparse as sp
from jax.sharding import Mesh

import scsiameseclu_jax.functional as F
from scsiameseclu_jax.preprocessing.prepare import Prepared
from scsiameseclu_jax.training.mesh import on_host, rows_over, spread_data

logger = logging.getLogger(__name__)

_KEPT = 4  # methods and shapes of data whose programs are kept: a fit's hold about 200 MiB
_kept: set[Hashable] = set()

P = ParamSpec("P")
R = TypeVar("R")


def in_float32(call: Callable[P, R]) -> Callable[P, R]:
    """Make a function compute in float32, whatever ``jax_enable_x64`` is for the rest.

    Results are then those of any other program, and take half the memory.
    """

    @wraps(call)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.enable_x64(new_val=False):
            return call(*args, **kwargs)

    return inside


def device_data(
    prepared: Prepared,
    *,
    n_rows: int | None = None,
    sizes: tuple[int, int] = (0, 0),
    mesh: Mesh | None = None,
) -> F.CellData:
    """Pad prepared cells to their shape bucket and put them on the default device.

    Parameters
    ----------
    prepared
        The cells, from :func:`scsiameseclu_jax.preprocessing.prepare.prepare`.
    n_rows, sizes
        See :func:`scsiameseclu_jax.functional.cell_data`.
    mesh
        Devices to split the cells over.
    """
    pairs = prepared.constraints
    n_rows = F.bucket(len(prepared.features)) if n_rows is None else n_rows
    # never whole on one of several devices
    place = None if mesh is None else jax.local_devices(backend="cpu")[0]
    with jax.default_device(place):
        data = F.cell_data(
            prepared.features,
            prepared.counts,
            (prepared.senders, prepared.receivers, prepared.weights),
            size_factors=prepared.size_factors,
            must_link=None if pairs is None else pairs.rows[pairs.linked],
            cannot_link=None if pairs is None else pairs.rows[~pairs.linked],
            n_rows=rows_over(mesh, n_rows),
            sizes=sizes,
        )
    return spread_data(data, mesh)


def links(graph: F.CellGraph, n_cells: int) -> sp.csr_matrix:
    """Return the weights [n, n] of a graph of n cells as a scipy matrix."""
    real = slice(int(graph.graph.n_edge[0]))
    ends = on_host(graph.receivers)[real], on_host(graph.senders)[real]
    weights = on_host(graph.weights).astype(np.float64)[real]
    return sp.csr_matrix((weights, ends), shape=(n_cells, n_cells))


def bound_programs(method: F.Method, *arrays: Any) -> None:
    """Forget compiled programs, once there are those of several methods or shapes of data.

    Programs are never freed by jax, and the kernel has a limit on what they map: a process that
    fits sets of many sizes, or many numbers of clusters, would end there.
    """
    key = method, tuple(leaf.shape for leaf in jax.tree.leaves(arrays))
    if key not in _kept and len(_kept) >= _KEPT:
        logger.debug("forgetting the compiled programs of %d fits and predictions", len(_kept))
        F.clear_programs()
        _kept.clear()
    _kept.add(key)


def give_back_memory() -> None:
    """Return freed memory to the system.

    Compilers free hundreds of MB in small pieces, which glibc would keep.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # not glibc
        logger.debug("no malloc_trim on this platform")
