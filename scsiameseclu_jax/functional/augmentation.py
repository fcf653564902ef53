"""Dual augmentation: gene noise, edge removal, and which graph each view propagates over."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from scsiameseclu_jax.config import Config
from scsiameseclu_jax.functional.graph import normalize
from scsiameseclu_jax.functional.types import CellData, CellGraph, Views


def feature_noise(key: Array, features: Array, *, scale: float) -> Array:
    """Multiply every feature by its own draw from Normal(1, `scale`).

    Parameters
    ----------
    key
        Typed random key.
    features
        [n, p] features.
    scale
        Standard deviation of the noise; 0 draws nothing.

    References
    ----------
    Paper, gene-level augmentation.
    """
    if scale == 0:
        return features
    noise = jax.random.normal(key, features.shape, features.dtype)
    return features * (1 + scale * noise)


def kept_edges(graph: CellGraph, embedding: Array, *, fraction: float) -> Array:
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
    [e] 1 for kept edges, 0 for removed ones.

    References
    ----------
    Paper, cell-level augmentation.
    """
    g = graph.graph
    if fraction == 0:
        return jnp.ones_like(g.edges)
    length = jnp.sqrt(jnp.sum(embedding**2, axis=1, keepdims=True))
    unit = embedding / jnp.where(length > 0, length, 1)
    similarity = jnp.sum(unit[g.senders] * unit[g.receivers], axis=1)
    links = (jnp.arange(g.edges.shape[0]) < g.n_edge[0]) & (g.senders != g.receivers)
    ordered = jnp.sort(jnp.where(links, similarity, jnp.inf))
    n_removed = jnp.floor(fraction * jnp.sum(links)).astype(jnp.int32)
    return jnp.where(links & (similarity < ordered[n_removed]), 0, 1).astype(g.edges.dtype)


def augment(key: Array, data: CellData, kept: Array, *, config: Config) -> Views:
    """Draw both views of the cells.

    Parameters
    ----------
    key
        Typed random key.
    data
        The cells.
    kept
        [e] from :func:`kept_edges`.
    config
        Static settings.
    """
    key_1, key_2 = jax.random.split(key)
    scale = config.augmentation.feature_noise
    return Views(
        features_1=feature_noise(key_1, data.features, scale=scale),
        features_2=feature_noise(key_2, data.features, scale=scale),
        graph_1=normalize(data.graph, kept) if config.augmentation.edge_removal else data.graph,
        graph_2=data.graph,
    )
