"""Fusion of the latents, and the forward pass that everything else is a function of."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from scsiameseclu_jax.functional.attention import (
    DENSE_ROWS,
    attention,
    attention_of_new,
    attention_to,
    landmarks,
    map_rows,
)
from scsiameseclu_jax.functional.encoders import Encoder, encode_features
from scsiameseclu_jax.functional.propagation import ViewGraph
from scsiameseclu_jax.functional.settings import Structure
from scsiameseclu_jax.functional.types import Embeddings, Params, Views


def normalize_rows(z: Array) -> Array:
    """Scale rows [n, d] to length sqrt(d), so that entries have unit mean square; 0 stays 0."""
    mean = jnp.mean(z**2, axis=1, keepdims=True)
    return z * jax.lax.rsqrt(mean + 1e-12)


def gate(params: Params, z_features: Array, z_graph: Array, *, structure: Structure) -> Array:
    """Mix both latents: ``a * z_features + b * z_graph``, a and b from 0.5.

    Parameters
    ----------
    params
        All parameters.
    z_features, z_graph
        [n, d] latents of the feature and the graph encoder.
    structure
        ``fusion.gate`` says where a and b come from. Computed from the latents, ``b = 1 - a``,
        it can serve unseen cells; free for each cell is the paper's way.
    """
    if structure.fusion.gate == "fixed":
        return 0.5 * (z_features + z_graph)
    own = params["fusion"]
    if structure.fusion.gate == "per_cell":
        return own["a"] * z_features + own["b"] * z_graph
    both = jnp.concatenate([z_features, z_graph], axis=1)
    a = jax.nn.sigmoid(both @ own["kernel"] + own["bias"])
    return a * z_features + (1 - a) * z_graph


def fuse(
    params: Params,
    z_features: Array,
    z_graph: Array,
    graph: ViewGraph,
    mask: Array,
    *,
    structure: Structure,
    n_new: int = 0,
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
    structure
        Static settings.
    n_new
        How many of the last rows are new cells, which the others do not see. Where there are any,
        only they attend.

    Returns
    -------
    [n, d] rows of length sqrt(d); padding rows are 0.

    References
    ----------
    Paper, adaptive fusion.
    """
    z = gate(params, normalize_rows(z_features), normalize_rows(z_graph), structure=structure)
    z = z * mask[:, None]
    if structure.fusion.local:
        z = graph.propagate(z)
    z = normalize_rows(z)
    if not structure.fusion.global_attention:
        return z
    n = z.shape[0] - n_new
    rows = landmarks(mask[:n], structure=structure)
    if n_new:
        known, z = z[:n], z[n:]
        attended = attention_of_new(z, known, mask[:n], rows)
    else:
        attended = attention(z, mask) if rows is None else attention_to(z, mask, rows)
    z = normalize_rows(z + params["fusion"]["beta"] * attended)
    return jnp.concatenate([known, z]) if n_new else z


def embed(
    params: Params,
    views: Views,
    mask: Array,
    *,
    encoder: Encoder,
    structure: Structure,
    n_new: int = 0,
) -> Embeddings:
    """Encode both views with the same weights and fuse them.

    Parameters
    ----------
    params
        All parameters.
    views
        Two augmentations, [n, p] features and graphs.
    mask
        [n] 1 for cells, 0 for padding.
    encoder
        The graph encoder.
    structure
        Static settings.
    n_new
        See :func:`fuse`.
    """

    def encode(x: Array) -> Array:
        return map_rows(partial(encode_features, params, structure=structure), x, size=DENSE_ROWS)

    f_1 = encode(views.features_1)
    same = views.features_1 is views.features_2  # no noise: both views of the features are one
    f_2 = f_1 if same else encode(views.features_2)
    layers_1 = encoder(params["graph_encoder"], views.features_1, views.graph_1)
    layers_2 = encoder(params["graph_encoder"], views.features_2, views.graph_2)
    g_1, g_2 = layers_1[-1][0], layers_2[-1][0]
    if g_1.shape != f_1.shape:
        msg = (
            f"Expected the last layer of the encoder to be [n, n_latent], {f_1.shape}, found "
            f"{g_1.shape}; `init` is given the width, `network.n_latent`."
        )
        raise ValueError(msg)
    latents = (f_1 + f_2) / 2, (g_1 + g_2) / 2
    fused = fuse(params, *latents, views.graph_1, mask, structure=structure, n_new=n_new)
    return Embeddings(fused, f_1, f_2, g_1, g_2, (*layers_1, *layers_2))
