"""Dual augmentation: feature noise, edge removal, and how each view propagates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from scsiameseclu_jax.functional.graph import CellGraph, normalize
from scsiameseclu_jax.functional.propagation import ViewGraph
from scsiameseclu_jax.functional.settings import Structure
from scsiameseclu_jax.functional.types import CellData, TrainState, Views


def feature_noise(key: Array, features: Array, *, scale: Array | float) -> Array:
    """Multiply every feature [n, p] by its own draw from Normal(1, `scale`).

    References
    ----------
    Paper, gene-level augmentation.
    """
    noise = jax.random.normal(key, features.shape, features.dtype)
    return features * (1 + scale * noise)


def feature_dropout(key: Array, features: Array, *, rate: Array | float) -> Array:
    """Set a share `rate` of the features [n, p] to 0, in [0, 1), and scale up the others."""
    kept = jax.random.bernoulli(key, 1 - rate, features.shape)
    return jnp.where(kept, features / (1 - rate), 0)


def edge_mask(graph: CellGraph, embedding: Array, *, fraction: Array | float) -> Array:
    """Say which edges stay when the least similar links are removed.

    Similarity is the cosine of the two ends, computed on existing edges only. Both directions
    of a link stay or go together; self loops always stay.

    Parameters
    ----------
    graph
        The whole graph.
    embedding
        [n, d] rows to compare, from pre-training.
    fraction
        Share of the links to remove, in [0, 1).

    Returns
    -------
    [e] 1 for edges that stay, 0 for those removed.

    References
    ----------
    Paper, cell-level augmentation.
    """
    length = jnp.sqrt(jnp.sum(embedding**2, axis=1, keepdims=True))
    unit = embedding / jnp.where(length > 0, length, 1)
    similarity = jnp.sum(unit[graph.senders] * unit[graph.receivers], axis=1)
    n_edges = graph.weights.shape[0]
    links = (jnp.arange(n_edges) < graph.graph.n_edge[0]) & (graph.senders != graph.receivers)
    ordered = jnp.sort(jnp.where(links, similarity, jnp.inf))
    n_removed = jnp.floor(fraction * jnp.sum(links)).astype(jnp.int32)
    return jnp.where(links & (similarity < ordered[n_removed]), 0, 1).astype(graph.weights.dtype)


def dual_views(
    key: Array | None, state: TrainState, data: CellData, *, structure: Structure
) -> Views:
    """Draw both views of the cells.

    An own augmentation has this signature; ``views._replace(...)`` of this one is a way to make it.

    Parameters
    ----------
    key
        Typed random key; None for the embedding, which nothing random may change.
    state
        ``params``, ``values``, ``edge_mask``, ``key`` and ``step`` can be used: the rest is not
        there for the embedding.
    data
        The cells; also those of a fit with new ones behind them.
    structure
        Static settings.
    """
    whole = normalize(data.graph)
    pruned = normalize(data.graph, state.edge_mask) if structure.edge_removal else whole
    first = second = data.features
    if key is not None and structure.feature_noise:
        key_1, key_2 = jax.random.split(key)
        scale = state.values["feature_noise"]
        first = feature_noise(key_1, first, scale=scale)
        second = feature_noise(key_2, second, scale=scale)
    series = state.values["series"] if structure.diffusion else None
    return Views(first, second, ViewGraph(pruned, None), ViewGraph(whole, series))
