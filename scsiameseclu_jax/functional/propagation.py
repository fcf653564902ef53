"""Rows of cells, passed on over their graph: propagation and personalised-PageRank diffusion.

Everything is linear in the number of edges. Edges come in both directions, so the transpose of a
propagation is a propagation with the weights of the reverse edges: gathers both ways, no scatter,
whatever the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_batching import sequential_vmap
from jax.custom_derivatives import SymbolicZero
from jax.sharding import PartitionSpec

from scsiameseclu_jax.functional.graph import CellGraph, segment_sum


class ViewGraph(NamedTuple):
    """How one view propagates over its graph: one step, or a diffusion."""

    edges: CellGraph
    """The normalised graph of the view: what attention over edges works on."""
    series: Array | None
    """[2, t] coefficients of the diffusion and of its square; None for one step."""

    def propagate(self, h: Array) -> Array:
        """Propagate rows [n, c] once, as the view does."""
        return self.propagate_twice(h)[0]

    def propagate_twice(self, h: Array) -> tuple[Array, Array]:
        """Propagate rows [n, c] once and twice; what is not used costs nothing under jit."""
        if self.series is not None:
            return diffuse(self.edges, h, series=self.series)
        once = propagate(self.edges, h)
        return once, propagate(self.edges, once)


def propagate(graph: CellGraph, h: Array, *, path: Literal["table", "jraph"] = "table") -> Array:
    """Sum the neighbours' rows, weighted: ``A h``.

    Gradients are right for any weights, and flow to the rows and to the weights. Reverse mode
    only: jax refuses forward mode (``jvp``, ``jacfwd``) on this path; ``path="jraph"`` has both.

    Parameters
    ----------
    graph
        Any weights.
    h
        [n, c] rows to propagate.
    path
        Unrolled gathers over the neighbour table, or jraph's sorted segment sum: the same
        result up to rounding.

    Returns
    -------
    [n, c] propagated rows.

    Raises
    ------
    TypeError
        If `graph` is a view's, as encoders get it.
    """
    given: object = graph
    if isinstance(given, ViewGraph):
        msg = "Expected `graph` to be a CellGraph, found a ViewGraph; call `graph.propagate(h)`."
        raise TypeError(msg)
    if path == "jraph":
        edges = h[graph.senders] * graph.weights[:, None]
        return segment_sum(edges, graph.receivers, graph.n_rows)
    if graph.reverse is None:
        return _product(graph, graph.weights)(h)
    return _propagate(graph.weights, h, graph)


@jax.custom_vjp
def _propagate(weights: Array, h: Array, graph: CellGraph) -> Array:
    return _product(graph, weights)(h)


def _propagate_forward(weights: Any, h: Any, graph: Any) -> tuple[Array, tuple[Any, ...]]:
    graph = jax.tree.map(lambda leaf: leaf.value, graph, is_leaf=lambda x: hasattr(x, "perturbed"))
    out = _propagate(weights.value, h.value, graph)
    # the rows are kept for the weights' gradient only
    return out, (weights.value, h.value if weights.perturbed else None, graph)


def _propagate_backward(saved: tuple[Any, ...], g: Any) -> tuple[Any, Any, None]:
    weights, h, graph = saved
    if isinstance(g, SymbolicZero):
        return None, None, None
    pulled = None if h is None else jnp.sum(g[graph.receivers] * h[graph.senders], axis=1)
    # of padding too: what is not an edge has no weight that could change
    if pulled is not None:
        real = jnp.arange(pulled.shape[0]) < graph.graph.n_edge[0]
        pulled = jnp.where(real, pulled, 0)
    return pulled, _propagate(weights[graph.reverse], g, graph), None


_propagate.defvjp(_propagate_forward, _propagate_backward, symbolic_zeros=True)


def _product(graph: CellGraph, weights: Array) -> Callable[[Array], Array]:
    """Return ``h -> A h`` of weights [e], with what does not depend on h computed once."""
    if graph.owners.ndim == 1:
        return _sums(weights[graph.slots], graph.neighbors, graph.owners)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        msg = "Expected `jax.set_mesh(mesh)` around what is done with a graph of several devices."
        raise ValueError(msg)
    rows, everywhere = PartitionSpec(*mesh.axis_names), PartitionSpec()
    each = partial(jax.shard_map, out_specs=rows)
    look_up = each(lambda weights, slots: weights[slots], in_specs=(everywhere, rows))
    table = look_up(weights, graph.slots)

    # all that devices send each other are rows of h, which each needs; it sums for its own cells.
    # The compiler gathers them: gathers written here would share a channel, and could be mixed up
    @partial(each, in_specs=(rows, rows, rows, everywhere), check_vma=False)
    def own(table: Array, neighbors: Array, owners: Array, h: Array) -> Array:
        return _sums(table, neighbors, owners[0])(h)

    return partial(own, table, graph.neighbors, graph.owners)


def _sums(table: Array, neighbors: Array, owners: Array) -> Callable[[Array], Array]:
    """Return what sums the rows of h that the table names, with its weights, for each cell."""
    n = table.shape[0] - owners.shape[0]
    entries, first = table[:n], neighbors[:n]
    # of hubs, few: a loop, for which less is compiled
    columns = table[n:].T[:, :, None], neighbors[n:].T

    def gathers(h: Array) -> Array:
        # unrolled, all gathers of a row are fused into one pass
        total = entries[:, :1] * h[first[:, 0]]
        for column in range(1, table.shape[1]):
            total += entries[:, column, None] * h[first[:, column]]

        def more(sum_: Array, column: tuple[Array, Array]) -> tuple[Array, None]:
            return sum_ + column[0] * h[column[1]], None

        further, _ = jax.lax.scan(more, jnp.zeros((len(owners), h.shape[1]), h.dtype), columns)
        return total + segment_sum(further, owners, n)

    return gathers


def pagerank_series(alpha: float, tolerance: float) -> np.ndarray:
    """Return Chebyshev series of ``f(x) = alpha / (1 - (1 - alpha) x)`` and ``f(x)^2`` on [-1, 1].

    Parameters
    ----------
    alpha
        Restart probability in (0, 1).
    tolerance
        Bound on what the dropped coefficients of both series can add up to.

    Returns
    -------
    [2, t] coefficients of both.

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
    return np.stack([fine[:terms], square[:terms]])


def _tails(coefficients: np.ndarray) -> np.ndarray:
    """Return for each i the sum of the sizes from i on."""
    return np.cumsum(np.abs(coefficients)[::-1])[::-1]


def diffuse(graph: CellGraph, h: Array, *, series: Array | np.ndarray) -> tuple[Array, Array]:
    """Diffuse rows by personalised PageRank once and twice, in one pass over the series.

    Gradients are right for any weights; see :func:`propagate`. Those of the weights keep every
    term of the series. Gradients of gradients with respect to rows are refused by jax.

    Parameters
    ----------
    graph
        Normalised: its spectrum must lie in [-1, 1], as that of :func:`normalize` does.
    h
        [n, c] rows to diffuse.
    series
        [2, t] from :func:`pagerank_series`.

    Returns
    -------
    ``f(A) h`` and ``f(A)^2 h``, both [n, c], with ``f(A) = alpha (I - (1 - alpha) A)^-1``.
    """
    series = jnp.asarray(series, h.dtype)
    if graph.reverse is None:
        return _chebyshev(series, _product(graph, graph.weights), h)
    return _diffuse(graph.weights, h, series, graph)


@jax.custom_vjp
def _diffuse(weights: Array, h: Array, series: Array, graph: CellGraph) -> tuple[Array, Array]:
    @sequential_vmap
    def sums(weights: Array, h: Array, series: Array, graph: CellGraph) -> tuple[Array, Array]:
        return _chebyshev(series, _product(graph, weights), h)

    return sums(weights, h, series, graph)


def _chebyshev(series: Array, product: Callable[[Array], Array], h: Array) -> tuple[Array, Array]:
    once, twice = series

    # T_1 = x T_0, then T_k+1 = 2 x T_k - T_k-1: with the factor as an input it is one loop
    def term(carry: tuple[Array, ...], c: tuple[Array, ...]) -> tuple[tuple[Array, ...], None]:
        before, now, y1, y2 = carry
        new = c[2] * product(now) - before
        return (now, new, y1 + c[0] * new, y2 + c[1] * new), None

    factor = jnp.full_like(once[1:], 2).at[0].set(1)
    start = (jnp.zeros_like(h), h, once[0] * h, twice[0] * h)
    (_, _, y1, y2), _ = jax.lax.scan(term, start, (once[1:], twice[1:], factor))
    return y1, y2


def _diffuse_forward(
    weights: Any, h: Any, series: Any, graph: Any
) -> tuple[tuple[Array, Array], tuple[Any, ...]]:
    graph = jax.tree.map(lambda leaf: leaf.value, graph, is_leaf=lambda x: hasattr(x, "perturbed"))
    values = weights.value, h.value, series.value
    if not (weights.perturbed or series.perturbed):
        return _diffuse(*values, graph), (None, values[0], values[2], graph)

    def plain(weights: Array, h: Array, series: Array) -> tuple[Array, Array]:
        product = graph.with_weights(weights)
        return _chebyshev(series, lambda x: propagate(product, x), h)

    out, pull = jax.vjp(plain, *values)
    return out, (pull, *values[::2], graph)


def _diffuse_backward(saved: tuple[Any, ...], cotangents: Any) -> tuple[Any, ...]:
    pull, weights, series, graph = saved
    zeros = [isinstance(g, SymbolicZero) for g in cotangents]
    if all(zeros):
        return None, None, None, None
    g1, g2 = (
        jnp.zeros(g.shape, g.dtype) if zero else g
        for g, zero in zip(cotangents, zeros, strict=True)
    )
    if pull is not None:
        return (*pull((g1, g2)), None)

    # f(A)' g1 + f(A)^2' g2 in one pass: Clenshaw's recurrence takes vector coefficients
    @sequential_vmap
    def sums(weights: Array, g1: Array, g2: Array, series: Array, graph: CellGraph) -> Array:
        return _clenshaw(series, _product(graph, weights[graph.reverse]), g1, g2)

    return None, sums(weights, g1, g2, series, graph), None, None


def _clenshaw(series: Array, product: Callable[[Array], Array], g1: Array, g2: Array) -> Array:
    once, twice = series
    zero = jnp.zeros_like(g1)

    def term(carry: tuple[Array, Array], c: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
        b1, b2 = carry
        return (c[0] * g1 + c[1] * g2 + c[2] * product(b1) - b2, b1), None

    factor = jnp.full_like(once, 2).at[-1].set(1)
    (b1, _), _ = jax.lax.scan(term, (zero, zero), (once[::-1], twice[::-1], factor))
    return b1


_diffuse.defvjp(_diffuse_forward, _diffuse_backward, symbolic_zeros=True)
