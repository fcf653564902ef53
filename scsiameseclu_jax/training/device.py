"""From prepared cells to padded arrays on the device, and programs that are not kept for ever."""

from __future__ import annotations

import ctypes
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from typing import ParamSpec, TypeVar

import jax
import numpy as np
import scipy.sparse as sp

import scsiameseclu_jax.functional as F
from scsiameseclu_jax.preprocessing.prepare import Prepared

logger = logging.getLogger(__name__)

_SHAPES = 3  # of data whose compiled programs are kept: each holds about 200 MiB
_kept: OrderedDict[Hashable, None] = OrderedDict()

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
    prepared: Prepared, *, n_rows: int | None = None, sizes: tuple[int, int] = (0, 0)
) -> F.CellData:
    """Pad prepared cells to their shape bucket and put them on the default device.

    Parameters
    ----------
    prepared
        The cells, from :func:`scsiameseclu_jax.preprocessing.prepare.prepare`.
    n_rows, sizes
        See :func:`scsiameseclu_jax.functional.cell_data`.
    """
    pairs = prepared.constraints
    return F.cell_data(
        prepared.features,
        prepared.counts,
        (prepared.senders, prepared.receivers, prepared.weights),
        size_factors=prepared.size_factors,
        must_link=None if pairs is None else pairs.rows[pairs.linked],
        cannot_link=None if pairs is None else pairs.rows[~pairs.linked],
        n_rows=n_rows,
        sizes=sizes,
    )


def links(graph: F.CellGraph, n_cells: int) -> sp.csr_matrix:
    """Return the weights [n, n] of a graph of n cells as a scipy matrix."""
    real = slice(int(graph.graph.n_edge[0]))
    ends = np.asarray(graph.receivers)[real], np.asarray(graph.senders)[real]
    shape = (n_cells, n_cells)
    return sp.csr_matrix((np.asarray(graph.weights, np.float64)[real], ends), shape=shape)


def bound_programs(data: F.CellData) -> None:
    """Forget the compiled programs of other data, once there are those of several shapes.

    Programs are never freed by jax, and the kernel has a limit on what they map: a process that
    fits sets of many sizes would end there.
    """
    shape = tuple(leaf.shape for leaf in jax.tree.leaves(data))
    if shape not in _kept and len(_kept) >= _SHAPES:
        logger.debug("forgetting compiled programs of %d shapes", len(_kept))
        F.clear_programs()
        _kept.clear()
    _kept[shape] = None


def give_back_memory() -> None:
    """Return freed memory to the system.

    Compilers free hundreds of MB in small pieces, which glibc would keep.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # not glibc
        logger.debug("no malloc_trim on this platform")
