"""What to watch while training, without labels: collapse of the embedding, clusters apart."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from scsiameseclu_jax.functional.transport import squared_distances


def mean_cosine(z: Array, mask: Array) -> Array:
    """Return the mean cosine between different cells: near 1, the embedding has collapsed.

    Parameters
    ----------
    z
        [n, d] embedding.
    mask
        [n] 1 for cells, 0 for padding.
    """
    length = jnp.sqrt(jnp.sum(z**2, axis=1, keepdims=True))
    unit = mask[:, None] * z / jnp.where(length > 0, length, 1)
    n = jnp.sum(mask)
    return (jnp.sum(jnp.sum(unit, axis=0) ** 2) - jnp.sum(unit**2)) / (n * (n - 1))


def silhouette(z: Array, centers: Array, mask: Array) -> Array:
    """Return the mean simplified silhouette of the cells, between 0 and 1.

    ``1 - a / b`` with the distances a and b from a cell to its nearest and next nearest centre.

    Parameters
    ----------
    z
        [n, d] embedding.
    centers
        [k, d] cluster centres, k at least 2.
    mask
        [n] 1 for cells, 0 for padding.

    References
    ----------
    Hruschka et al., Evolutionary algorithms for clustering gene-expression data, ICDM 2004.
    """
    distances = jnp.sqrt(squared_distances(z, centers))
    nearest = jnp.min(distances, axis=1)
    own = jnp.argmin(distances, axis=1)[:, None] == jnp.arange(len(centers))
    second = jnp.min(jnp.where(own, jnp.inf, distances), axis=1)
    return jnp.sum(mask * (1 - nearest / jnp.maximum(second, 1e-12))) / jnp.sum(mask)
