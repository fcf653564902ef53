"""Graphs of cells: construction, layout over devices, new cells, normalisation.

Everything is linear in the number of edges.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jax import Array

_TABLE_WIDTH = 24  # covers a typical cell of a symmetrised 15-neighbour graph


class CellGraph(NamedTuple):
    """A weighted graph of cells, every edge in both directions, from :func:`cell_graph`.

    ``graph.edges`` [e] holds the weight of every directed edge, self loops included, sorted by
    receiver; edges that only pad the arrays have weight 0. The two directions of a link may have
    different weights. The table says the same as a gather: ``w`` edges of a cell to a row, and
    further rows for hubs.
    """

    graph: jraph.GraphsTuple
    """jraph's graph; ``nodes`` is None, ``edges`` [e] weights, the last graph is padding."""
    neighbors: Array
    """[n + s, w] the cell at the other end of each edge; the last s rows continue those of hubs."""
    slots: Array
    """[n + s, w] which edge that is; unused slots point to a padding edge."""
    owners: Array
    """[s] which cell each of the last s rows belongs to, ascending; :func:`by_device` differs."""
    reverse: Array | None
    """[e] the edge in the other direction; None if new cells are linked one way."""

    @property
    def n_rows(self) -> int:
        """Rows of the arrays that the graph is used with, padding included."""
        return self.neighbors.shape[0] - self.owners.size

    @property
    def weights(self) -> Array:
        """[e] weight of each edge."""
        return self.graph.edges

    @property
    def senders(self) -> Array:
        """[e] cell that each edge comes from."""
        return self.graph.senders

    @property
    def receivers(self) -> Array:
        """[e] cell that each edge goes to, ascending."""
        return self.graph.receivers

    def with_weights(self, weights: Array) -> CellGraph:
        """Return the graph with other weights [e], learned ones, say; padding has to stay 0."""
        return self._replace(graph=self.graph._replace(edges=weights))


def bucket(size: int) -> int:
    """Round a size up so that sizes within 1/8 share one compilation.

    Examples
    --------
    >>> bucket(700), bucket(8617), bucket(5)
    (704, 9216, 8)
    """
    step = max(8, 2 ** (max(size, 1).bit_length() - 4))
    return _up_to(size, step)


def cell_graph(
    senders: np.ndarray,
    receivers: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    n_cells: int,
    n_nodes: int | None = None,
    sizes: tuple[int, int] = (0, 0),
) -> CellGraph:
    """Build the graph ``A + I`` of undirected links, with raw weights.

    Parameters
    ----------
    senders, receivers
        [m] ends of the links, 0 to ``n_cells - 1``. Direction and repetition do not matter: the
        graph is made symmetric by the larger weight. Self loops are replaced by ones of weight 1.
    weights
        [m] positive weights; 1 if not given.
    n_cells
        Number of cells.
    n_nodes
        Rows of the arrays the graph is used with, the rest is padding; `n_cells` if not given.
    sizes
        Least number of edges and of further table rows to pad to, so that graphs share a
        compilation.

    Raises
    ------
    ValueError
        If an end is out of range, or a weight is not positive and finite.
    """
    n_nodes = n_cells if n_nodes is None else n_nodes
    senders, receivers = np.asarray(senders, np.int64), np.asarray(receivers, np.int64)
    weights = np.ones(len(senders)) if weights is None else np.asarray(weights, np.float64)
    ends = np.concatenate([senders, receivers])
    if ends.size and (ends.min() < 0 or ends.max() >= n_cells):
        msg = f"Expected edges between cells 0 and {n_cells - 1}, found {ends.min()}, {ends.max()}."
        raise ValueError(msg)
    if weights.size and not (np.isfinite(weights).all() and weights.min() > 0):
        msg = "Expected positive, finite edge weights, found others."
        raise ValueError(msg)
    links = senders != receivers
    loops = np.arange(n_cells)
    rows = np.concatenate([receivers[links], senders[links], loops])
    cols = np.concatenate([senders[links], receivers[links], loops])
    values = np.concatenate([weights[links], weights[links], np.ones(n_cells)])
    # by receiver, then sender, then weight: the last of each run of equal links is the largest
    order = np.lexsort((values, cols, rows))
    rows, cols, values = rows[order], cols[order], values[order]
    last = np.ones(len(rows), bool)
    last[:-1] = (rows[1:] != rows[:-1]) | (cols[1:] != cols[:-1])
    rows, cols, values = rows[last], cols[last], values[last]

    n_edges = len(rows)
    # coarse, so that graphs of one size seldom differ in shape; at least one padding edge, which
    # unused table slots point to
    size = _up_to(max(n_edges + 1, sizes[0]), 8 * n_nodes)
    pad = size - n_edges
    rank = np.arange(n_edges) - np.searchsorted(rows, rows, side="left")
    # what a cell's own row of the table has no room for goes to further rows behind all cells
    further = rank >= _TABLE_WIDTH
    starts = further & (rank % _TABLE_WIDTH == 0)
    n_further = _up_to(max(int(starts.sum()), sizes[1]), -(-n_nodes // 2))
    owners = np.full(n_further, n_nodes - 1, np.int32)
    owners[: starts.sum()] = rows[starts]
    place = np.where(further, n_nodes + np.cumsum(starts) - 1, rows), rank % _TABLE_WIDTH
    neighbors = np.zeros((n_nodes + len(owners), _TABLE_WIDTH), np.int32)
    slots = np.full(neighbors.shape, size - 1, np.int32)
    neighbors[place], slots[place] = cols, np.arange(n_edges)
    # the links are symmetric, so sorting by the other end first lists each edge's reverse
    reverse = np.concatenate([np.lexsort((rows, cols)), np.arange(n_edges, size)])
    end = np.full(pad, n_nodes - 1)
    graph = jraph.GraphsTuple(
        nodes=None,
        edges=jnp.asarray(np.concatenate([values, np.zeros(pad)]), dtype=float),
        senders=jnp.asarray(np.concatenate([cols, end]).astype(np.int32)),
        receivers=jnp.asarray(np.concatenate([rows, end]).astype(np.int32)),
        n_node=jnp.asarray(np.array([n_cells, n_nodes - n_cells], np.int32)),
        n_edge=jnp.asarray(np.array([n_edges, pad], np.int32)),
        globals=None,
    )
    return CellGraph(
        graph,
        jnp.asarray(neighbors),
        jnp.asarray(slots),
        jnp.asarray(owners),
        jnp.asarray(reverse.astype(np.int32)),
    )


def _up_to(size: int, step: int) -> int:
    return -(-size // step) * step


def by_device(graph: CellGraph, n_devices: int) -> CellGraph:
    """Lay out the table so that each device has the rows of its own cells, those of hubs, too.

    Parameters
    ----------
    graph
        From :func:`cell_graph`, on the host; its rows divide evenly.
    n_devices
        Devices, each with a block of cells.

    Returns
    -------
    The table as [devices x (n / devices + s)] rows, and owners [devices, s], counted from each
    device's first cell. Works inside ``jax.set_mesh`` of a mesh of one axis with as many devices.
    """
    n, unused = graph.n_rows, graph.weights.shape[0] - 1
    n_own = n // n_devices
    neighbors, slots, owners = map(np.asarray, (graph.neighbors, graph.slots, graph.owners))
    used = np.flatnonzero((slots[n:] != unused).any(axis=1))
    device = owners[used] // n_own
    rank = np.arange(len(used)) - np.searchsorted(device, device, side="left")
    step = -(-len(owners) // n_devices)
    n_further = _up_to(max(step, int(rank.max(initial=-1)) + 1), step)

    def blocks(table: np.ndarray, unused: int) -> Array:
        further = np.full((n_devices, n_further, table.shape[1]), unused, table.dtype)
        further[device, rank] = table[n:][used]
        own = table[:n].reshape(n_devices, n_own, -1)
        return jnp.asarray(np.concatenate([own, further], axis=1).reshape(-1, table.shape[1]))

    local = np.full((n_devices, n_further), n_own - 1, owners.dtype)
    local[device, rank] = owners[used] - n_own * device
    return graph._replace(
        neighbors=blocks(neighbors, 0), slots=blocks(slots, unused), owners=jnp.asarray(local)
    )


def link_new_cells(graph: CellGraph, neighbors: Array, weights: Array) -> CellGraph:
    """Add cells that see their neighbours, and themselves with weight 1, but are not seen.

    Parameters
    ----------
    graph
        Raw weights, n rows.
    neighbors
        [m, k] rows of the neighbours of each new cell.
    weights
        [m, k] weights of these links, 0 for none.

    Returns
    -------
    A graph of n + m rows, whose rows of known cells are as they were. Edges of weight 0 are no
    edges; jraph's counts are still those of the known cells.

    Raises
    ------
    ValueError
        If it has new cells already.
    """
    if graph.reverse is None:
        msg = "Expected a graph of known cells, found one with new cells; add all of them at once."
        raise ValueError(msg)
    n, (m, k) = graph.n_rows, neighbors.shape
    last = graph.weights.shape[0] - 1  # a padding edge
    new = n + jnp.arange(m, dtype=graph.senders.dtype)
    senders = jnp.concatenate([neighbors.astype(new.dtype), new[:, None]], axis=1)
    values = jnp.concatenate([weights, jnp.ones((m, 1))], axis=1).astype(graph.weights.dtype)
    width = graph.neighbors.shape[1]
    n_rows = -(-(k + 1) // width)  # of the table, for each new cell
    pad = [(0, 0), (0, n_rows * width - k - 1)]
    slots = last + 1 + jnp.arange(m * (k + 1), dtype=graph.slots.dtype).reshape(m, k + 1)
    slots = jnp.pad(slots, pad, constant_values=last).reshape(m, n_rows, width)
    cells = jnp.pad(senders, pad).reshape(m, n_rows, width)

    def joined(table: Array, rows: Array) -> Array:
        parts = [table[:n], rows[:, 0], table[n:], rows[:, 1:].reshape(-1, width)]
        return jnp.concatenate(parts)

    return CellGraph(
        graph.graph._replace(
            edges=jnp.concatenate([graph.weights, values.ravel()]),
            senders=jnp.concatenate([graph.senders, senders.ravel()]),
            receivers=jnp.concatenate([graph.receivers, jnp.repeat(new, k + 1)]),
        ),
        neighbors=joined(graph.neighbors, cells),
        slots=joined(graph.slots, slots),
        owners=jnp.concatenate(
            [graph.owners, jnp.repeat(new, n_rows - 1).astype(graph.owners.dtype)]
        ),
        reverse=None,
    )


def draw_neighbors(key: Array, graph: CellGraph, cells: Array) -> Array:
    """Draw a neighbour of each of some cells, all with the same chance.

    Parameters
    ----------
    key
        Typed random key.
    graph
        Links in both directions and self loops, as :func:`cell_graph` makes it.
    cells
        [b] rows of cells.

    Returns
    -------
    [b] rows; the cell itself where it has no neighbour.
    """
    ends = jnp.searchsorted(graph.receivers, jnp.stack([cells, cells + 1]))
    start, n_links = ends[0], jnp.minimum(ends[1], graph.graph.n_edge[0]) - ends[0]
    place = start + jax.random.randint(key, cells.shape, 0, jnp.maximum(n_links - 1, 1))
    # edges are ascending by their other end: behind the self loop, all move up by one
    place += (graph.senders[place] >= cells) & (n_links > 1)
    return graph.senders[place]


def segment_sum(values: Array, cells: Array, n_cells: int) -> Array:
    """Return the sum [n, ...] of values [m, ...] of each cell; `cells` [m] ascend."""
    return jraph.segment_sum(values, cells, n_cells, indices_are_sorted=True)


def normalize(graph: CellGraph, edge_mask: Array | None = None) -> CellGraph:
    """Scale raw weights by the degrees of both ends: ``D^-1/2 A D^-1/2``.

    Parameters
    ----------
    graph
        Raw weights, self loops included. A graph is normalised once: the degrees of a normalised
        one are not those of the cells.
    edge_mask
        [e] factors on the weights before they are scaled, for example 0 for removed edges.
    """
    weights = graph.weights if edge_mask is None else graph.weights * edge_mask
    n, senders, receivers = graph.n_rows, graph.senders, graph.receivers
    degree = segment_sum(weights, receivers, n)
    scale = jnp.where(degree > 0, jax.lax.rsqrt(jnp.where(degree > 0, degree, 1)), 0)
    # the product of both scales first: the same bits in both directions of a link
    return graph.with_weights(weights * (scale[receivers] * scale[senders]))
