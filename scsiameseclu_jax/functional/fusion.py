"""Fusion of the latents: gate, local propagation, blockwise attention over all cells.

The pairwise parts never hold more than a block of rows against all cells. The matrix of inner
products is symmetric, so their reverse passes need sums over rows only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_batching import sequential_vmap

from scsiameseclu_jax.config import Config
from scsiameseclu_jax.functional.encoders import (
    Operator,
    Params,
    Propagated,
    encode_features,
    encode_graph,
)
from scsiameseclu_jax.functional.graph import (
    Series,
    bucket,
    diffuse,
    normalize,
    pagerank_series,
    propagate,
)
from scsiameseclu_jax.functional.types import CellData, CellGraph, Embeddings, TrainState, Views

DENSE_ROWS = 1024  # that go through the feature autoencoder at a time
_BLOCK_ENTRIES = 2**21  # of a pairwise block, of which a reverse pass holds about seven


def normalize_rows(z: Array) -> Array:
    """Scale rows [n, d] to length sqrt(d), so that entries have unit mean square; 0 stays 0."""
    mean = jnp.mean(z**2, axis=1, keepdims=True)
    return z * jax.lax.rsqrt(mean + 1e-12)


def map_rows(
    f: Callable[..., Any], *rows: Array, size: int | None = None, against: int | None = None
) -> Any:
    """Apply a function to blocks of rows, one block at a time.

    Differentiated, it keeps no more than its arguments: blocks are computed anew.

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


def landmarks(mask: Array, *, config: Config) -> Array | None:
    """Return the rows [m] that stand for all cells, or None where all pairs are taken.

    Parameters
    ----------
    mask
        [n] 1 for cells, which come first, 0 for padding.
    config
        ``scale.exact_cells`` and ``scale.landmarks``.
    """
    if mask.shape[0] <= bucket(config.scale.exact_cells):  # there are rows of padding
        return None
    wanted = config.scale.landmarks
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
        logits = zi @ keys.T + jnp.log(landmark_weights(index, rows, mask))
        own = jnp.sum(zi**2, axis=1, keepdims=True)
        top = jax.lax.stop_gradient(jnp.maximum(own, jnp.max(logits, axis=1, keepdims=True)))
        shares, own_share = jnp.exp(logits - top), jnp.exp(own - top)
        total = own_share + jnp.sum(shares, axis=1, keepdims=True)
        return (own_share * zi + shares @ keys) / total

    return map_rows(block, z, jnp.arange(z.shape[0]), against=rows.shape[0]) * mask[:, None]


def gate(params: Params, z_features: Array, z_graph: Array, *, config: Config) -> Array:
    """Mix both latents: ``a * z_features + b * z_graph``, a and b from 0.5.

    Parameters
    ----------
    params
        All parameters.
    z_features, z_graph
        [n, d] latents of the feature and the graph encoder.
    config
        ``fusion.gate`` says where a and b come from. Computed from the latents, ``b = 1 - a``,
        it can serve unseen cells; free for each cell is the paper's way.
    """
    if config.fusion.gate == "fixed":
        return 0.5 * (z_features + z_graph)
    own = params["fusion"]
    if config.fusion.gate == "per_cell":
        return own["a"] * z_features + own["b"] * z_graph
    both = jnp.concatenate([z_features, z_graph], axis=1)
    a = jax.nn.sigmoid(both @ own["kernel"] + own["bias"])
    return a * z_features + (1 - a) * z_graph


def fuse(
    params: Params,
    z_features: Array,
    z_graph: Array,
    graph: CellGraph,
    mask: Array,
    *,
    config: Config,
) -> Array:
    """Fuse both latents into the embedding that is clustered.

    Parameters
    ----------
    params
        All parameters.
    z_features, z_graph
        [n, d] latents, means over the views; their rows are scaled alike before they are mixed.
    graph
        Graph of the local part.
    mask
        [n] 1 for cells, 0 for padding.
    config
        Static settings.

    Returns
    -------
    [n, d] rows of length sqrt(d); padding rows are 0.

    References
    ----------
    Paper, adaptive fusion.
    """
    z = gate(params, normalize_rows(z_features), normalize_rows(z_graph), config=config)
    z = z * mask[:, None]
    if config.fusion.local:
        z = propagate(graph, z)
    z = normalize_rows(z)
    if config.fusion.global_attention:
        rows = landmarks(mask, config=config)
        attended = attention(z, mask) if rows is None else attention_to(z, mask, rows)
        z = normalize_rows(z + params["fusion"]["beta"] * attended)
    return z


def view_operators(views: Views, *, config: Config) -> tuple[Operator, Operator]:
    """Return how each view propagates: view 1 one step over its graph, view 2 by diffusion.

    Each returns rows propagated once, and twice if the propagation divergence is on.
    """
    again = config.losses.propagation > 0

    def step(graph: CellGraph, h: Array) -> Propagated:
        once = propagate(graph, h)
        return once, propagate(graph, once) if again else None

    def spread(series: Series, graph: CellGraph, h: Array) -> Propagated:
        once, twice = diffuse(graph, h, series=series)
        return once, twice if again else None

    first = partial(step, views.graph_1)
    if not config.augmentation.diffusion:
        return first, partial(step, views.graph_2)
    setting = config.augmentation
    series = pagerank_series(setting.alpha, setting.diffusion_tolerance)
    return first, partial(spread, series, views.graph_2)


def embed(params: Params, views: Views, mask: Array, *, config: Config) -> Embeddings:
    """Encode both views with the same weights and fuse them.

    Parameters
    ----------
    params
        All parameters.
    views
        Two augmentations, [n, p] features and graphs.
    mask
        [n] 1 for cells, 0 for padding.
    config
        Static settings.
    """

    def encode(x: Array) -> Array:
        return map_rows(partial(encode_features, params, config=config), x, size=DENSE_ROWS)

    f_1 = encode(views.features_1)
    same = views.features_1 is views.features_2  # no noise: both views of the features are one
    f_2 = f_1 if same else encode(views.features_2)
    operators = view_operators(views, config=config)
    layers_1 = encode_graph(params, views.features_1, operators[0], config=config)
    layers_2 = encode_graph(params, views.features_2, operators[1], config=config)
    g_1, g_2 = layers_1[-1][0], layers_2[-1][0]
    fused = fuse(params, (f_1 + f_2) / 2, (g_1 + g_2) / 2, views.graph_1, mask, config=config)
    return Embeddings(f_1, f_2, g_1, g_2, fused, tuple(layers_1 + layers_2))


def embedding(state: TrainState, data: CellData, *, config: Config) -> Array:
    """Return the fused embedding [n, d] of the cells without noise."""
    removal = config.augmentation.edge_removal
    views = Views(
        features_1=data.features,
        features_2=data.features,
        graph_1=normalize(data.graph, state.kept) if removal else data.graph,
        graph_2=data.graph,
    )
    with jax.default_matmul_precision(config.scale.precision):
        return embed(state.params, views, data.mask, config=config).fused
