"""Self-attention over all cells, blockwise: exact, or to landmarks that stand for all cells.

The pairwise parts never hold more than a block of rows against all cells. The matrix of inner
products is symmetric, so their reverse passes need sums over rows only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_batching import sequential_vmap

from scsiameseclu_jax.functional.graph import bucket
from scsiameseclu_jax.functional.settings import Structure

DENSE_ROWS = 1024  # that go through the feature autoencoder at a time
_BLOCK_ENTRIES = 2**21  # of a pairwise block, of which a reverse pass holds about seven


def map_rows(
    f: Callable[..., Any], *rows: Array, size: int | None = None, against: int | None = None
) -> Any:
    """Apply a function to blocks of rows, one block at a time.

    Differentiated, it keeps no more than its arguments and one block: blocks are computed anew.

    Parameters
    ----------
    f
        Takes blocks [b, ...] of every argument, returns arrays [b, ...].
    rows
        Arrays with the same first axis.
    size
        Rows of a block at most; if not given, so many that a pairwise block is small.
    against
        Rows that each row of a pairwise block is paired with; all of them, if not given.
    """
    n = rows[0].shape[0]
    blocks = -(-n // size) if size else -(-n * (against or n) // _BLOCK_ENTRIES)
    size = -(-n // blocks)
    if blocks == 1:
        return f(*rows)

    def split(a: Array) -> Array:
        padded = jnp.pad(a, [(0, blocks * size - n)] + [(0, 0)] * (a.ndim - 1))
        return padded.reshape(blocks, size, *a.shape[1:])

    again = jax.checkpoint(lambda block: f(*block))
    out = jax.lax.map(again, tuple(split(a) for a in rows))
    return jax.tree.map(lambda a: a.reshape(blocks * size, *a.shape[2:])[:n], out)


@jax.custom_vjp
def attention(z: Array, mask: Array) -> Array:
    """Attend over all cells: ``softmax(z z^T) z``, exact, without an n x n array.

    Parameters
    ----------
    z
        [n, d] rows.
    mask
        [n] 1 for cells, 0 for padding, which nobody attends to.

    Returns
    -------
    [n, d]; rows of padding are 0.

    References
    ----------
    Paper, adaptive fusion, global part. Blockwise softmax after Rabe and Staats,
    arXiv 2112.05682.
    """
    return _attend(z, mask)[0]


@sequential_vmap
def _attend(z: Array, mask: Array) -> tuple[Array, Array]:
    hidden = jnp.where(mask > 0, 0.0, -jnp.inf).astype(z.dtype)

    def block(rows: Array) -> tuple[Array, Array]:
        logits = rows @ z.T + hidden
        total = jax.nn.logsumexp(logits, axis=1)
        return jnp.exp(logits - total[:, None]) @ z, total

    out, total = map_rows(block, z)
    return out * mask[:, None], total


def _attention_forward(z: Array, mask: Array) -> tuple[Array, tuple[Array, ...]]:
    out, total = _attend(z, mask)
    return out, (z, mask, out, total)


def _attention_backward(saved: tuple[Array, ...], g: Array) -> tuple[Array, Array]:
    return _attention_gradient(*saved, g), jnp.zeros_like(saved[1])


@sequential_vmap
def _attention_gradient(z: Array, mask: Array, out: Array, total: Array, g: Array) -> Array:
    g = g * mask[:, None]
    offset = jnp.sum(g * out, axis=1)

    def block(zi: Array, gi: Array, ti: Array, oi: Array, mi: Array) -> Array:
        logits = zi @ z.T
        own = jnp.exp(logits - ti[:, None]) * (mask * mi[:, None])  # P_ij
        other = jnp.exp(logits - total) * (mask * mi[:, None])  # P_ji
        pull = own * (gi @ z.T - oi[:, None]) + other * (zi @ g.T - offset)
        return pull @ z + other @ g

    return map_rows(block, z, g, total, offset, mask)


attention.defvjp(_attention_forward, _attention_backward)


def landmarks(mask: Array, *, structure: Structure) -> Array | None:
    """Return the rows [m] that stand for all cells, or None where all pairs are taken.

    Parameters
    ----------
    mask
        [n] 1 for cells, which come first, 0 for padding.
    structure
        ``exact_cells`` and ``landmarks``.
    """
    if mask.shape[0] <= bucket(structure.exact_cells):  # there are rows of padding
        return None
    wanted = structure.landmarks
    n_cells = jnp.sum(mask > 0)
    # i * n_cells // wanted, without a product beyond 32 bits
    steps = jnp.arange(wanted)
    return steps * (n_cells // wanted) + steps * (n_cells % wanted) // wanted


def landmark_weights(index: Array, rows: Array, mask: Array) -> Array:
    """Return how many cells each landmark stands for, for each cell of a block.

    Parameters
    ----------
    index
        [b] rows of the cells.
    rows
        [m] landmarks, from :func:`landmarks`.
    mask
        [n] 1 for cells, 0 for padding.

    Returns
    -------
    [b, m] weights, of a row equal and in sum the number of other cells; 0 for oneself.
    """
    different = (index[:, None] != rows).astype(mask.dtype)
    total = jnp.sum(different, axis=1, keepdims=True)
    return different * (jnp.sum(mask) - 1) / jnp.maximum(total, 1)


def attention_to(z: Array, mask: Array, rows: Array) -> Array:
    """Attend to oneself and to landmarks that stand for all other cells.

    Each landmark weighs as many cells as there are others for each: with all cells as landmarks
    this is :func:`attention`.

    Parameters
    ----------
    z
        [n, d] rows.
    mask
        [n] 1 for cells, 0 for padding.
    rows
        [m] landmarks, from :func:`landmarks`.

    Returns
    -------
    [n, d]; rows of padding are 0.
    """
    keys = z[rows]

    def block(zi: Array, index: Array) -> Array:
        return _with_oneself(zi, keys, jnp.log(landmark_weights(index, rows, mask)))

    return map_rows(block, z, jnp.arange(z.shape[0]), against=rows.shape[0]) * mask[:, None]


def attention_of_new(z: Array, known: Array, mask: Array, rows: Array | None) -> Array:
    """Attend to oneself and to all known cells, or to the landmarks that stand for them.

    Parameters
    ----------
    z
        [m, d] new cells, which do not see each other.
    known
        [n, d] known cells.
    mask
        [n] 1 for cells, 0 for padding.
    rows
        Landmarks among the known cells, or None; see :func:`landmarks`.
    """
    keys = known if rows is None else known[rows]
    weights = jnp.log(mask) if rows is None else jnp.log(jnp.sum(mask) / len(rows))

    def block(zi: Array) -> Array:
        return _with_oneself(zi, keys, weights)

    return map_rows(block, z, against=keys.shape[0])


def _with_oneself(z: Array, keys: Array, log_weights: Array) -> Array:
    """Attend from rows [b, d] to themselves and to keys [m, d] that weigh as given."""
    logits = z @ keys.T + log_weights
    own = jnp.sum(z**2, axis=1, keepdims=True)
    top = jax.lax.stop_gradient(jnp.maximum(own, jnp.max(logits, axis=1, keepdims=True)))
    shares, own_share = jnp.exp(logits - top), jnp.exp(own - top)
    total = own_share + jnp.sum(shares, axis=1, keepdims=True)
    return (own_share * z + shares @ keys) / total
