"""Cells over several devices and hosts: where each array lies.

Arrays of cells, edges and table rows are split over the devices of a mesh of one axis; parameters
and settings are on each. Propagation over the graph gathers all rows on each device once
(:func:`scsiameseclu_jax.functional.propagate`); the compiler puts in what else has to be exchanged:
sums of K and d x d numbers for losses, Gram matrices and Sinkhorn, blocks of rows for all pairs.
On a mesh of one device a program is what it is without.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import scsiameseclu_jax.functional as F
from scsiameseclu_jax.functional.graph import by_device


def cell_mesh(n_devices: int | None = None) -> Mesh:
    """Return a mesh that cells are split over.

    Parameters
    ----------
    n_devices
        The first so many devices; all, also those of other processes, if not given.

    Raises
    ------
    ValueError
        If there are not as many devices, or less than one is asked for.

    Examples
    --------
    >>> import scsiameseclu_jax as scs
    >>> scs.cell_mesh(1).size
    1
    """
    devices = jax.devices()
    if n_devices is not None and not 1 <= n_devices <= len(devices):
        kind = f"{devices[0].platform.upper()} device{'s' if len(devices) > 1 else ''}"
        msg = f"Expected 1 to {len(devices)} devices, found {n_devices}: jax sees "
        raise ValueError(f"{msg}{len(devices)} {kind}.")
    return Mesh(np.array(devices[:n_devices]), ("cells",))


def check_mesh(mesh: Any) -> None:
    """Check that cells can be split over a mesh.

    Raises
    ------
    TypeError, ValueError
        If it is no mesh, or has several axes; if no device of this process is in it.
    """
    if not isinstance(mesh, Mesh):
        msg = f"Expected `mesh` to be a jax.sharding.Mesh, found {type(mesh).__name__}; "
        raise TypeError(msg + "`scs.cell_mesh()` makes one.")
    if len(mesh.axis_names) != 1:
        msg = f"Expected a mesh of one axis, found {mesh.axis_names}; `scs.cell_mesh()` makes one."
        raise ValueError(msg)
    if not mesh.local_mesh.size:
        msg = "Expected a mesh with devices of this process, found none of them in it."
        raise ValueError(msg)


def on_mesh(mesh: Mesh | None) -> AbstractContextManager[Any]:
    """Return the context in which data of a mesh is worked on."""
    return nullcontext() if mesh is None else jax.set_mesh(mesh)


def rows_over(mesh: Mesh | None, n_rows: int) -> int:
    """Return how many rows to pad to, so that all arrays of cells can be split evenly."""
    if mesh is None:
        return n_rows
    step = 2 * mesh.size  # further rows of the table come in halves of the number of rows
    return -(-n_rows // step) * step


def spread_data(data: F.CellData, mesh: Mesh | None) -> F.CellData:
    """Split cells, edges and table rows over the devices; pairs and numbers go to each."""
    if mesh is None:
        return data
    split, whole = _putters(mesh)
    if mesh.size > 1:
        data = data._replace(graph=by_device(data.graph, mesh.size))
    return F.CellData(
        features=split(data.features),
        counts=split(data.counts),
        size_factors=split(data.size_factors),
        graph=F.CellGraph(
            graph=data.graph.graph._replace(
                edges=split(data.graph.weights),
                senders=split(data.graph.senders),
                receivers=split(data.graph.receivers),
                n_node=whole(data.graph.graph.n_node),
                n_edge=whole(data.graph.graph.n_edge),
            ),
            neighbors=split(data.graph.neighbors),
            slots=split(data.graph.slots),
            owners=split(data.graph.owners),
            reverse=split(data.graph.reverse),
        ),
        mask=split(data.mask),
        n_genes=whole(data.n_genes),
        constraints=jax.tree.map(whole, data.constraints),
    )


def spread_state(state: F.TrainState, mesh: Mesh | None) -> F.TrainState:
    """Put a state on every device, the arrays of its cells and edges split."""
    if mesh is None:
        return state
    split, whole = _putters(mesh)
    apart = state._replace(edge_mask=None, plan=state.plan._replace(target=None))
    everywhere = _mapped(apart, whole, split)
    return everywhere._replace(
        edge_mask=split(state.edge_mask),
        plan=everywhere.plan._replace(target=split(state.plan.target)),
    )


def cut(state: F.TrainState, data: F.CellData) -> F.TrainState:
    """Return a state on the host, without what pads its cells and edges on so many devices.

    Parameters
    ----------
    state
        Of a fit on any number of devices.
    data
        Its cells, padded alike.
    """
    n_cells, n_edges = int(on_host(data.mask).sum()), int(on_host(data.graph.graph.n_edge)[0])
    whole = jax.tree.map(_whole, state)
    found = _mapped(whole, _as_it_is, lambda leaf: leaf[:n_cells], whole.params)
    return found._replace(
        edge_mask=found.edge_mask[:n_edges],
        plan=found.plan._replace(target=found.plan.target[:n_cells]),
    )


def fitted_to(state: F.TrainState, data: F.CellData, mesh: Mesh | None) -> F.TrainState:
    """Pad a state that was :func:`cut` as its cells are, and put it where they are."""

    def padded(array: Any, size: int, value: float) -> jax.Array:
        more = [(0, size - len(array))] + [(0, 0)] * (array.ndim - 1)
        return jnp.asarray(np.pad(array, more, constant_values=value))

    rows = data.mask.shape[0]
    rest, kept = state._replace(params={}), state.params
    whole = _mapped(rest, jnp.asarray, lambda leaf: padded(leaf, rows, 0), kept)
    whole = whole._replace(
        params=_mapped(state.params, jnp.asarray, lambda leaf: padded(leaf, rows, 0.5)),
        edge_mask=padded(state.edge_mask, data.graph.weights.shape[0], 1),
        plan=whole.plan._replace(target=padded(state.plan.target, rows, 0)),
    )
    return spread_state(whole, mesh)


def _mapped(
    tree: Any, usual: Callable[[Any], Any], of_cells: Callable[[Any], Any], params: Any = None
) -> Any:
    """Change the leaves of a tree: those of parameters that each cell has in a way of their own.

    So are those that an optimiser keeps of such parameters; of all `params` in one vector, too.
    """
    parts, structure = jax.tree.flatten(params)
    size = sum(part.size for part in parts) if {"a", "b"} & _fusion(params) else 0

    def change(path: tuple[Any, ...], leaf: Any) -> Any:
        names = [getattr(key, "key", None) for key in path[-2:]]
        if names in (["fusion", "a"], ["fusion", "b"]):
            return of_cells(leaf)
        if not size or leaf.shape != (size,):
            return usual(leaf)
        ends = np.cumsum([part.size for part in parts])[:-1]
        pieces = zip(np.split(np.asarray(leaf), ends), parts, strict=True)
        each = structure.unflatten([piece.reshape(part.shape) for piece, part in pieces])
        changed = jax.tree.leaves(_mapped(each, np.asarray, of_cells))
        return usual(np.concatenate([np.ravel(piece) for piece in changed]))

    return jax.tree_util.tree_map_with_path(change, tree)


def _as_it_is(leaf: Any) -> Any:
    return leaf


def _fusion(params: Any) -> set[str]:
    return set() if params is None else set(params["fusion"])


def on_host(array: jax.Array) -> np.ndarray:
    """Return an array of all processes on the host."""
    return np.asarray(_whole(array))


def agreed(array: np.ndarray, mesh: Mesh | None) -> np.ndarray:
    """Return the first process's array: what hosts compute apart may differ in a last bit."""
    if mesh is None or jax.process_count() == 1:
        return array
    return np.asarray(multihost_utils.broadcast_one_to_all(array))


def check_agreed(mesh: Mesh | None, **parts: Any) -> None:
    """Check that all processes are about to do the same.

    Raises
    ------
    ValueError
        If they are not, naming the parts.
    """
    if mesh is None or jax.process_count() == 1:
        return
    marks = [zlib.crc32(repr(part).encode()) for part in parts.values()]
    found = multihost_utils.process_allgather(np.array(marks, np.uint32))
    differ = [
        name for name, same in zip(parts, (found == found[0]).all(axis=0), strict=True) if not same
    ]
    if differ:
        msg = (
            f"Expected the same {', '.join(differ)} in all {jax.process_count()} processes, found "
            "others; start each with the same file, options and checkpoint."
        )
        raise ValueError(msg)


def _whole(array: Any) -> Any:
    """Return an array on the host, a random key on this process's default device."""
    if not isinstance(array, jax.Array):
        return array
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(_whole(jax.random.key_data(array))))
    if array.is_fully_addressable:
        return np.asarray(array)
    if array.is_fully_replicated:
        return np.asarray(array.addressable_data(0))
    return multihost_utils.process_allgather(array, tiled=True)


def _putters(mesh: Mesh) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return functions that split an array by its first axis, and that put it on each device."""
    by_cell = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    everywhere = NamedSharding(mesh, PartitionSpec())

    def put(array: Any, sharding: NamedSharding) -> Any:
        if array is None:
            return None
        if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
            data = put(jax.random.key_data(array), sharding)
            return jax.random.wrap_key_data(data)
        host = on_host(array)
        return jax.make_array_from_callback(host.shape, sharding, host.__getitem__)

    return lambda array: put(array, by_cell), lambda array: put(array, everywhere)
