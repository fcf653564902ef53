"""Every loss term, exact and in linear memory. Masks leave padding out of every mean."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_batching import sequential_vmap

from scsiameseclu_jax.functional.attention import landmark_weights, map_rows
from scsiameseclu_jax.functional.graph import CellGraph
from scsiameseclu_jax.functional.propagation import propagate
from scsiameseclu_jax.functional.types import Constraints

_HIGHEST = jax.lax.Precision.HIGHEST  # tf32 loses what the sums of squares are about


def mean_squared_error(decoded: Array, target: Array, mask: Array) -> Array:
    """Mean over cells and columns of ``(decoded - target)^2``; arrays [n, c], `mask` [n]."""
    squared = jnp.sum((decoded - target) ** 2, axis=1)
    return jnp.sum(squared * mask) / (jnp.sum(mask) * decoded.shape[1])


def cell_correlation(z_1: Array, z_2: Array, mask: Array) -> Array:
    """Cross-correlate two views of the cells: the same cell alike, different cells not.

    ``mean_i (S_ii - 1)^2 + mean_{i != j} S_ij^2`` with ``S = norm(z_1) norm(z_2)^T``, from two
    d x d Gram matrices instead of the n x n one.

    Parameters
    ----------
    z_1, z_2
        [n, d] latents of both views.
    mask
        [n] 1 for cells, 0 for padding.

    References
    ----------
    Paper, cell-level correlation refinement.
    """
    a, b = _unit_rows(z_1) * mask[:, None], _unit_rows(z_2) * mask[:, None]
    n = jnp.sum(mask)
    same = jnp.sum(a * b, axis=1)
    gram_a = jnp.matmul(a.T, a, precision=_HIGHEST)
    gram_b = jnp.matmul(b.T, b, precision=_HIGHEST)
    others = jnp.sum(gram_a * gram_b) - jnp.sum(same**2)
    return jnp.sum(mask * (same - 1) ** 2) / n + others / (n * (n - 1))


def neighbor_contrast(
    z_1: Array, z_2: Array, cells_1: Array, cells_2: Array, *, temperature: Array | float
) -> Array:
    """Contrast cells with a neighbour each: nearer to it than to the other cells of the batch.

    Cross-entropy of ``softmax_j(s_ij)`` at j = i, and of the softmax over i, the mean of both, with
    ``s = norm(z_1) norm(z_2)^T / temperature``. A pair that has a cell in common with another, or
    whose cells are one, is no negative.

    Parameters
    ----------
    z_1, z_2
        [b, d] latents of the cells, and of a neighbour of each.
    cells_1, cells_2
        [b] which cells they are.
    temperature
        Positive.

    References
    ----------
    van den Oord et al., Representation learning with contrastive predictive coding, 2018
    (InfoNCE).
    """
    logits = jnp.matmul(_unit_rows(z_1), _unit_rows(z_2).T, precision=_HIGHEST) / temperature
    drawn_twice = (cells_1[:, None] == cells_1) | (cells_2[:, None] == cells_2)
    drawn_twice |= cells_1[:, None] == cells_2
    own = jnp.eye(len(z_1), dtype=bool)
    logits = jnp.where(drawn_twice & ~own, -jnp.inf, logits)
    others = jax.nn.logsumexp(logits, axis=1) + jax.nn.logsumexp(logits, axis=0)
    return jnp.mean(others / 2 - jnp.diagonal(logits))


def latent_correlation(z_1: Array, z_2: Array, assignment: Array) -> Array:
    """Cross-correlate the latent dimensions of two views after a read-out to clusters.

    The read-out ``R = norm(Q)^T Z`` [k, d] is each cluster's mean; its columns are correlated
    between the views, d x d, with the loss of :func:`cell_correlation`.

    Parameters
    ----------
    z_1, z_2
        [n, d] latents of both views.
    assignment
        [n, k] soft assignment; rows of padding are 0.

    References
    ----------
    Paper, latent-level correlation refinement, after Liu et al., DCRN, AAAI 2022.
    """
    share = assignment / jnp.maximum(jnp.sum(assignment, axis=0), 1e-12)
    r_1 = _unit_rows(jnp.matmul(share.T, z_1, precision=_HIGHEST).T)
    r_2 = _unit_rows(jnp.matmul(share.T, z_2, precision=_HIGHEST).T)
    s = jnp.matmul(r_1, r_2.T, precision=_HIGHEST)
    d = s.shape[0]
    diagonal = jnp.diagonal(s)
    return jnp.mean((diagonal - 1) ** 2) + (jnp.sum(s**2) - jnp.sum(diagonal**2)) / (d * (d - 1))


def propagation_divergence(h: Array, propagated: Array, mask: Array) -> Array:
    """Jensen-Shannon divergence between the softmax of rows before and after propagation.

    Parameters
    ----------
    h, propagated
        [n, c] a layer, and the layer propagated once more.
    mask
        [n] 1 for cells, 0 for padding.

    Returns
    -------
    Mean over cells of both halves, in nats, between 0 and log 2.

    References
    ----------
    Paper, propagation regularisation.
    """
    return _divergence(h, propagated, mask)


@jax.custom_vjp
def _divergence(h: Array, propagated: Array, mask: Array) -> Array:
    log_p, log_q = jax.nn.log_softmax(h), jax.nn.log_softmax(propagated)
    log_m = _log_mean(log_p, log_q)
    halves = jnp.exp(log_p) * (log_p - log_m) + jnp.exp(log_q) * (log_q - log_m)
    return 0.5 * jnp.sum(mask * jnp.sum(halves, axis=1)) / jnp.sum(mask)


def _log_mean(log_p: Array, log_q: Array) -> Array:
    return jnp.logaddexp(log_p, log_q) - jnp.log(2.0).astype(log_p.dtype)


def _divergence_forward(
    h: Array, propagated: Array, mask: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    # nothing but the arguments is kept: both are n x width, and every layer of a view has them
    return _divergence(h, propagated, mask), (h, propagated, mask)


def _divergence_backward(saved: tuple[Array, Array, Array], g: Array) -> tuple[Array, Array, Array]:
    h, propagated, mask = saved
    logs = jax.nn.log_softmax(h), jax.nn.log_softmax(propagated)
    log_m = _log_mean(*logs)
    scale = 0.5 * g * mask[:, None] / jnp.sum(mask)

    def half(log_p: Array) -> Array:
        p, ratio = jnp.exp(log_p), log_p - log_m
        return scale * p * (ratio - jnp.sum(p * ratio, axis=1, keepdims=True))

    return half(logs[0]), half(logs[1]), jnp.zeros_like(mask)


_divergence.defvjp(_divergence_forward, _divergence_backward)


def constraint_nll(log_q: Array, constraints: Constraints) -> Array:
    """Mean negative log-likelihood of what is known of pairs, cells assigned independently.

    ``-log sum_c q_ic q_jc`` for two cells of one cluster, ``-log (1 - sum_c q_ic q_jc)`` of two.

    Parameters
    ----------
    log_q
        [n, k] logarithm of soft assignments.
    constraints
        The pairs.

    References
    ----------
    Tian et al., Nature Communications 2021 (scDCC).
    """
    one, two = log_q[constraints.cells[:, 0]], log_q[constraints.cells[:, 1]]
    together = jax.nn.logsumexp(one + two, axis=1)
    # 0, which two equal rows of one 1 reach, would make the other logarithm infinite
    together = jnp.minimum(together, -1e-6)
    value = jnp.where(constraints.linked, together, jnp.log(-jnp.expm1(together)))
    return -jnp.sum(constraints.weights * value) / jnp.maximum(jnp.sum(constraints.weights), 1)


def adjacency_error(z: Array, graph: CellGraph, mask: Array, rows: Array | None = None) -> Array:
    """Mean squared error of ``sigmoid(z z^T)`` against the normalised adjacency, over all pairs.

    Parameters
    ----------
    z
        [n, d] rows; the exact sum over all pairs is taken blockwise.
    graph
        The adjacency; its entries are few, so their part is a sum over edges.
    mask
        [n] 1 for cells, 0 for padding.
    rows
        [m] landmarks that stand for the other cells; if not given, all pairs are taken.

    References
    ----------
    Paper, reconstruction of the adjacency.
    """
    n = jnp.sum(mask)
    on_edges = _sum_on_edges if graph.reverse is None else _sigmoids_on_edges
    edges = jnp.sum(graph.weights**2) - 2 * on_edges(z, graph)
    pairs = _squared_sigmoids(z, mask) if rows is None else _sampled_sigmoids(z, mask, rows)
    return (pairs + edges) / n**2


def _sum_on_edges(z: Array, graph: CellGraph) -> Array:
    """Sum over edges of weight times ``sigmoid(z_i z_j)``."""
    return jnp.sum(graph.weights * _on_edges(z, graph))


_sigmoids_on_edges = jax.custom_vjp(_sum_on_edges)


def _on_edges(z: Array, graph: CellGraph) -> Array:
    return jax.nn.sigmoid(jnp.sum(z[graph.senders] * z[graph.receivers], axis=1))


def _on_edges_forward(z: Array, graph: CellGraph) -> tuple[Array, tuple[Array, Array, CellGraph]]:
    s = _on_edges(z, graph)
    return jnp.sum(graph.weights * s), (z, s, graph)


def _on_edges_backward(saved: tuple[Array, Array, CellGraph], g: Array) -> tuple[Array, CellGraph]:
    z, s, graph = saved
    # a cell is an end of what it receives and of what it sends: the reverse edges
    both = graph.weights + graph.weights[graph.reverse]
    slopes = propagate(graph.with_weights(both * s * (1 - s)), z)
    real = jnp.arange(len(s)) < graph.graph.n_edge[0]  # padding has no weight that could change
    return g * slopes, jax.tree.map(_zero, graph).with_weights(jnp.where(real, g * s, 0))


def _zero(leaf: Array) -> Array | np.ndarray:
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        return jnp.zeros_like(leaf)
    return np.zeros(leaf.shape, jax.dtypes.float0)


_sigmoids_on_edges.defvjp(_on_edges_forward, _on_edges_backward)


def _sampled_sigmoids(z: Array, mask: Array, rows: Array) -> Array:
    """Estimate :func:`_squared_sigmoids`: a cell's own entry, and the landmarks for all others."""
    keys = z[rows]

    def block(zi: Array, index: Array) -> Array:
        squared = jax.nn.sigmoid(zi @ keys.T) ** 2
        others = jnp.sum(landmark_weights(index, rows, mask) * squared, axis=1)
        return jax.nn.sigmoid(jnp.sum(zi**2, axis=1)) ** 2 + others

    values = map_rows(block, z, jnp.arange(z.shape[0]), against=rows.shape[0])
    return jnp.sum(mask * values)


@jax.custom_vjp
def _squared_sigmoids(z: Array, mask: Array) -> Array:
    """Sum over all pairs of cells of ``sigmoid(z_i z_j)^2``."""

    def block(rows: Array, own: Array) -> Array:
        return own * (jax.nn.sigmoid(rows @ z.T) ** 2 @ mask)

    return jnp.sum(map_rows(block, z, mask))


def _squared_sigmoids_forward(z: Array, mask: Array) -> tuple[Array, tuple[Array, Array]]:
    value, gradient = _squared_sigmoids_and_slopes(z, mask)
    return value, (gradient, jnp.zeros_like(mask))


@sequential_vmap
def _squared_sigmoids_and_slopes(z: Array, mask: Array) -> tuple[Array, Array]:
    def block(rows: Array, own: Array) -> tuple[Array, Array]:
        s = jax.nn.sigmoid(rows @ z.T)
        squared = s**2 * mask
        # twice, for the pair seen from either end, the derivative 2 s^2 (1 - s)
        slope = 4 * own[:, None] * squared * (1 - s)
        return own * jnp.sum(squared, axis=1), slope @ z

    value, gradient = map_rows(block, z, mask)
    return jnp.sum(value), gradient


def _squared_sigmoids_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    return g * saved[0], saved[1]


_squared_sigmoids.defvjp(_squared_sigmoids_forward, _squared_sigmoids_backward)


def assignment_divergence(target: Array, log_assignment: Array, mask: Array) -> Array:
    """``KL(P || Q)``, the mean over cells; `target` and `log_assignment` [n, k], `mask` [n].

    References
    ----------
    Paper, clustering loss.
    """
    log_target = jnp.log(jnp.where(target > 0, target, 1.0))
    rows = jnp.sum(target * (log_target - log_assignment), axis=1)
    return jnp.sum(rows * mask) / jnp.sum(mask)


def _unit_rows(z: Array) -> Array:
    return z * jax.lax.rsqrt(jnp.sum(z**2, axis=1, keepdims=True) + 1e-12)
