"""Graphs of cells: construction, normalisation, propagation, personalised-PageRank diffusion.

Everything is linear in the number of edges. The operators are symmetric, so the reverse pass of
a propagation is the same propagation of the cotangent: gathers both ways, no scatter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jax import Array
from jax.custom_batching import sequential_vmap

from scsiameseclu_jax.functional.types import CellGraph

_TABLE_WIDTH = 24  # covers a typical cell of a symmetrised 15-neighbour graph


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
    """Build the normalised graph ``D^-1/2 (A + I) D^-1/2`` of an undirected graph.

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
    end = np.full(pad, n_nodes - 1)
    graph = jraph.GraphsTuple(
        nodes=None,
        edges=jnp.asarray(np.concatenate([values, np.zeros(pad)]), dtype=float),
        senders=jnp.asarray(np.concatenate([cols, end]), dtype=jnp.int32),
        receivers=jnp.asarray(np.concatenate([rows, end]), dtype=jnp.int32),
        n_node=jnp.asarray([n_cells, n_nodes - n_cells], dtype=jnp.int32),
        n_edge=jnp.asarray([n_edges, pad], dtype=jnp.int32),
        globals=None,
    )
    made = CellGraph(graph, jnp.asarray(neighbors), jnp.asarray(slots), jnp.asarray(owners))
    return normalize(made)


def _up_to(size: int, step: int) -> int:
    return -(-size // step) * step


def normalize(graph: CellGraph, kept: Array | None = None) -> CellGraph:
    """Scale the weights symmetrically by the degrees: ``D^-1/2 A D^-1/2``.

    Parameters
    ----------
    graph
        Any weights, self loops included.
    kept
        [e] factors on the weights before they are scaled, for example 0 for removed edges.
        Symmetric, like the graph.
    """
    g = graph.graph
    weights = g.edges if kept is None else g.edges * kept
    n = graph.n_rows
    degree = jraph.segment_sum(weights, g.receivers, n, indices_are_sorted=True)
    scale = jnp.where(degree > 0, jax.lax.rsqrt(jnp.where(degree > 0, degree, 1)), 0)
    # the product of both scales first: the same bits in both directions of a link
    edges = weights * (scale[g.receivers] * scale[g.senders])
    return graph._replace(graph=g._replace(edges=edges))


def self_loops(graph: CellGraph) -> Array:
    """Return the weight [n] of each cell's edge to itself; 0 for padding."""
    g = graph.graph
    own = jnp.where(g.senders == g.receivers, g.edges, 0)
    return jraph.segment_sum(own, g.receivers, graph.n_rows, indices_are_sorted=True)


def propagate(graph: CellGraph, h: Array, *, path: Literal["table", "jraph"] = "table") -> Array:
    """Sum the neighbours' rows, weighted: ``Â h``.

    Gradients flow to `h`, by the same product; none flow to the weights.

    Parameters
    ----------
    graph
        Symmetric weights.
    h
        [n, c] rows to propagate.
    path
        Unrolled gathers over the neighbour table, or jraph's sorted segment sum: the same
        result up to rounding.

    Returns
    -------
    [n, c] propagated rows.
    """
    return _propagate(path, graph, h)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _propagate(path: str, graph: CellGraph, h: Array) -> Array:
    return _product(graph, path)(h)


def _propagate_forward(path: str, graph: CellGraph, h: Array) -> tuple[Array, CellGraph]:
    return _propagate(path, graph, h), graph


def _propagate_backward(path: str, graph: CellGraph, g: Array) -> tuple[CellGraph, Array]:
    return no_gradient(graph), _propagate(path, graph, g)


_propagate.defvjp(_propagate_forward, _propagate_backward)


def no_gradient(graph: CellGraph) -> CellGraph:
    """Return the cotangent of a graph that gradients stop at, for use in a ``custom_vjp``."""

    def zero(x: Array) -> Array | np.ndarray:
        if jnp.issubdtype(x.dtype, jnp.floating):
            return jnp.zeros_like(x)
        return np.zeros(x.shape, jax.dtypes.float0)

    return jax.tree.map(zero, graph)


def _product(graph: CellGraph, path: str) -> Callable[[Array], Array]:
    """Return ``h -> Â h`` with what does not depend on h computed once."""
    g = graph.graph
    n = graph.n_rows
    if path == "jraph":

        def segments(h: Array) -> Array:
            return jraph.segment_sum(
                h[g.senders] * g.edges[:, None], g.receivers, n, indices_are_sorted=True
            )

        return segments
    table = g.edges[graph.slots]

    weights, neighbors = table[:n], graph.neighbors[:n]
    # of hubs, few: a loop, for which less is compiled
    columns = table[n:].T[:, :, None], graph.neighbors[n:].T

    def gathers(h: Array) -> Array:
        # unrolled, all gathers of a row are fused into one pass
        total = weights[:, :1] * h[neighbors[:, 0]]
        for column in range(1, table.shape[1]):
            total += weights[:, column, None] * h[neighbors[:, column]]

        def more(sum_: Array, column: tuple[Array, Array]) -> tuple[Array, None]:
            return sum_ + column[0] * h[column[1]], None

        further, _ = jax.lax.scan(
            more, jnp.zeros((len(graph.owners), h.shape[1]), h.dtype), columns
        )
        return total + jraph.segment_sum(further, graph.owners, n, indices_are_sorted=True)

    return gathers


class Series(NamedTuple):
    """Chebyshev coefficients of a function of the graph and of its square."""

    once: tuple[float, ...]
    twice: tuple[float, ...]


def pagerank_series(alpha: float, tolerance: float) -> Series:
    """Return the series of ``f(x) = alpha / (1 - (1 - alpha) x)`` and of ``f(x)^2`` on [-1, 1].

    Parameters
    ----------
    alpha
        Restart probability in (0, 1).
    tolerance
        Bound on what the dropped coefficients of both series can add up to.

    References
    ----------
    Gasteiger et al., Predict then propagate, ICLR 2019, for the diffusion; Chebyshev
    interpolation for the series.
    """
    rho = 1 - alpha
    ratio = rho / (1 + math.sqrt(1 - rho * rho))  # coefficients of f fall by this factor
    degree = max(64, math.ceil(45 / -math.log(ratio)))
    fine = np.polynomial.chebyshev.chebinterpolate(lambda x: alpha / (1 - rho * x), degree)
    square = np.polynomial.chebyshev.chebinterpolate(lambda x: (alpha / (1 - rho * x)) ** 2, degree)
    tail = np.maximum(_tails(fine), _tails(square))
    enough = np.flatnonzero(tail <= tolerance)  # none, if it is below what float64 can tell
    terms = max(2, int(enough[0])) if len(enough) else len(fine)
    return Series(tuple(map(float, fine[:terms])), tuple(map(float, square[:terms])))


def _tails(coefficients: np.ndarray) -> np.ndarray:
    """Return for each i the sum of the sizes from i on."""
    return np.cumsum(np.abs(coefficients)[::-1])[::-1]


def diffuse(graph: CellGraph, h: Array, *, series: Series) -> tuple[Array, Array]:
    """Diffuse rows by personalised PageRank once and twice, in one pass over the series.

    Parameters
    ----------
    graph
        Symmetric, normalised: its spectrum must lie in [-1, 1].
    h
        [n, c] rows to diffuse.
    series
        From :func:`pagerank_series`.

    Returns
    -------
    ``f(Â) h`` and ``f(Â)^2 h``, both [n, c], with ``f(Â) = alpha (I - (1 - alpha) Â)^-1``.
    """
    return _diffuse(series, graph, h)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _diffuse(series: Series, graph: CellGraph, h: Array) -> tuple[Array, Array]:
    @sequential_vmap
    def sums(graph: CellGraph, h: Array) -> tuple[Array, Array]:
        return _chebyshev(series, graph, h)

    return sums(graph, h)


def _chebyshev(series: Series, graph: CellGraph, h: Array) -> tuple[Array, Array]:
    product = _product(graph, "table")
    once, twice = (jnp.asarray(c, h.dtype) for c in series)
    zero = jnp.zeros_like(h)

    # T_1 = x T_0, then T_k+1 = 2 x T_k - T_k-1: with the factor as an input it is one loop
    def term(carry: tuple[Array, ...], c: tuple[Array, ...]) -> tuple[tuple[Array, ...], None]:
        before, now, y1, y2 = carry
        new = c[2] * product(now) - before
        return (now, new, y1 + c[0] * new, y2 + c[1] * new), None

    factor = jnp.full_like(once[1:], 2).at[0].set(1)
    start = (zero, h, once[0] * h, twice[0] * h)
    (_, _, y1, y2), _ = jax.lax.scan(term, start, (once[1:], twice[1:], factor))
    return y1, y2


def _diffuse_forward(
    series: Series, graph: CellGraph, h: Array
) -> tuple[tuple[Array, Array], CellGraph]:
    return _diffuse(series, graph, h), graph


def _diffuse_backward(
    series: Series, graph: CellGraph, cotangents: tuple[Array, Array]
) -> tuple[CellGraph, Array]:
    # f(Â) g1 + f(Â)^2 g2 in one pass: Clenshaw's recurrence takes vector coefficients
    @sequential_vmap
    def sums(graph: CellGraph, g1: Array, g2: Array) -> Array:
        return _clenshaw(series, graph, g1, g2)

    return no_gradient(graph), sums(graph, *cotangents)


def _clenshaw(series: Series, graph: CellGraph, g1: Array, g2: Array) -> Array:
    product = _product(graph, "table")
    once, twice = (jnp.asarray(c, g1.dtype) for c in series)
    zero = jnp.zeros_like(g1)

    def term(carry: tuple[Array, Array], c: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
        b1, b2 = carry
        return (c[0] * g1 + c[1] * g2 + c[2] * product(b1) - b2, b1), None

    factor = jnp.full_like(once, 2).at[-1].set(1)
    (b1, _), _ = jax.lax.scan(term, (zero, zero), (once[::-1], twice[::-1], factor))
    return b1


_diffuse.defvjp(_diffuse_forward, _diffuse_backward)
