"""Two dimensions to draw an embedding in."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from scsiameseclu_jax.checks import as_seed, sorted_names
from scsiameseclu_jax.functional.graph import bucket
from scsiameseclu_jax.preprocessing.neighbors import nearest_neighbors, unit_rows
from scsiameseclu_jax.tl.record import check_writable, writable

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

_NEIGHBORS = 15
# Links that pull a cell, the strongest; those that hubs have beyond pull the other end alone.
_LINKS = 2 * _NEIGHBORS
_EPOCHS = 300
_RATE, _MOMENTUM = 0.3, 0.8
_REPULSION = 5.0  # cells that repel for each that attracts, as in umap-learn
_SAMPLE = 100  # cells, drawn anew in each epoch, that repel all others
_NEAR = 0.01  # added to squared distances, so that no two cells fling each other away
_SPREAD = 10.0  # of the start, as in umap-learn


def umap(
    adata: AnnData,
    key: str = "siameseclu",
    *,
    rng: int | np.random.Generator = 0,
    copy: bool = False,
) -> AnnData | None:
    """Project the embedding of a clustering by UMAP, for plots only.

    The graph is UMAP's, of 15 neighbours by cosine that are found for it alone, and so are the
    forces, with ``1 / (1 + d^2)`` for the similarity of cells at distance d. They act on all cells
    at once, from the first two principal components on. So nothing is compiled but one short
    program, which runs on jax's default device.

    Parameters
    ----------
    adata
        After :func:`siameseclu`.
    key
        The ``key_added`` of the clustering.
    rng
        Seed, or a generator that the seed is drawn from. One seed gives one picture, to the last
        bit on one device.
    copy
        Return a changed copy and leave `adata` as it is.

    Returns
    -------
    None, or the copy. Written is

    ``adata.obsm[f"X_{key}_umap"]``
        Coordinates [n, 2] without a unit, float32; NaN for cells that have no embedding.

    Nothing else is changed, neither ``uns["neighbors"]`` nor ``obsm["X_umap"]``.

    Raises
    ------
    KeyError
        If there is no such embedding.

    References
    ----------
    McInnes, L., Healy, J. & Melville, J. (2018). UMAP: uniform manifold approximation and
    projection for dimension reduction. arXiv 1802.03426.

    Damrich, S. & Hamprecht, F. A. (2021). On UMAP's true loss function. NeurIPS 34: the forces that
    UMAP's sampling of links and of other cells comes down to.

    Böhm, J. N., Berens, P. & Kobak, D. (2022). Attraction-repulsion spectrum in neighbor
    embeddings. JMLR 23 (95): what the similarity changes.
    """
    check_writable(adata, copy=copy)
    coordinates = layout(adata, key, rng=rng)
    adata = writable(adata, copy=copy)
    adata.obsm[f"X_{key}_umap"] = coordinates
    logger.info("added 'X_%s_umap' (adata.obsm)", key)
    return adata if copy else None


def layout(adata: AnnData, key: str, *, rng: int | np.random.Generator = 0) -> np.ndarray:
    """Return what :func:`umap` writes, for plots of an object that is not kept."""
    if f"X_{key}" not in adata.obsm:
        msg = (
            f"Expected an embedding in obsm['X_{key}'], found {sorted_names(adata.obsm)}; run "
            f"`scs.tl.siameseclu(adata, ..., key_added={key!r})` first."
        )
        raise KeyError(msg)
    seed = as_seed(rng)
    embedding = np.asarray(adata.obsm[f"X_{key}"], dtype=np.float32)
    embedded = np.isfinite(embedding).all(axis=1)  # not cells outside `restrict_to`
    coordinates = np.full((adata.n_obs, 2), np.nan, np.float32)
    coordinates[embedded] = _coordinates(embedding[embedded], seed)
    return coordinates


def _coordinates(embedding: np.ndarray, seed: int) -> np.ndarray:
    """Return the coordinates [n, 2] of an embedding [n, d]."""
    n = len(embedding)
    if n < 2:
        return np.zeros((n, 2), np.float32)
    unit = unit_rows(embedding)
    neighbors = nearest_neighbors(unit, _NEIGHBORS)[0].reshape(n, -1)
    links, weights = _strongest(_similarities(unit, neighbors), _LINKS)
    more = [(0, bucket(n) - n), (0, 0)]  # cells of no weight: data of like size share a program
    laid_out = _lay_out(
        jnp.asarray(np.pad(_start(unit, seed), more).T),
        jnp.asarray(np.pad(links, more)),
        jnp.asarray(np.pad(weights, more)),
        n,
        jax.random.key(seed),
        _EPOCHS,
    )
    return np.asarray(laid_out).T[:n]


def _similarities(unit: np.ndarray, neighbors: np.ndarray) -> sp.csr_matrix:
    """Return UMAP's graph [n, n] of rows of length 1 [n, d] and their neighbours [n, k].

    The nearest neighbour of a cell has similarity 1; how fast it declines from there is such that
    the similarities sum to log2(k). Cells are linked as strongly as either says or both.
    """
    n, k = neighbors.shape
    near = (np.einsum("nd,nd->n", unit[column], unit) for column in neighbors.T)
    distances = np.maximum(1 - np.column_stack(list(near)).astype(np.float64), 0)
    beyond = distances - distances.min(axis=1, keepdims=True)
    # A width that is too small or too large to matter bounds the search for the right one.
    mean = max(float(distances.mean()), 1e-12)
    low, high = np.full((n, 1), np.log(1e-3 * mean)), np.full((n, 1), np.log(1e3 * mean))
    for _ in range(30):
        middle = (low + high) / 2
        wide = np.exp(-beyond / np.exp(middle)).sum(axis=1, keepdims=True) > np.log2(k)
        low, high = np.where(wide, low, middle), np.where(wide, middle, high)
    similarities = np.exp(-beyond / np.exp(high))
    cells = np.repeat(np.arange(n), k)
    one_way = sp.csr_matrix((similarities.ravel(), (cells, neighbors.ravel())), shape=(n, n))
    return sp.csr_matrix(one_way + one_way.T - one_way.multiply(one_way.T))


def _strongest(graph: sp.csr_matrix, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the strongest links [n, w] of each cell in a graph [n, n], and their shares [n, w]."""
    n = graph.shape[0]
    cells = np.repeat(np.arange(n), np.diff(graph.indptr))
    order = np.lexsort((-graph.data, cells))  # within each cell: cells stay in their order
    place = np.arange(len(cells)) - graph.indptr[cells]
    kept = place < width
    links, weights = np.zeros((n, width), np.int32), np.zeros((n, width), np.float32)
    links[cells[kept], place[kept]] = graph.indices[order][kept]
    weights[cells[kept], place[kept]] = graph.data[order][kept]
    return links, weights / weights.sum(axis=1, keepdims=True)


def _start(unit: np.ndarray, seed: int) -> np.ndarray:
    """Return the first two principal components [n, 2] of rows [n, d], a little shaken."""
    centered = unit - unit.mean(axis=0)
    axes = np.linalg.eigh(centered.T @ centered)[1][:, ::-1][:, :2]
    start = np.zeros((len(unit), 2), np.float32)
    start[:, : axes.shape[1]] = centered @ axes
    start *= _SPREAD / max(float(np.abs(start).max()), 1e-12)
    # Cells of the same embedding would stay in the same place.
    noise = np.random.default_rng(seed).normal(scale=1e-4 * _SPREAD, size=start.shape)
    return start + noise.astype(np.float32)


@jax.jit
def _lay_out(
    start: jax.Array,
    links: jax.Array,
    weights: jax.Array,
    n_cells: int,
    key: jax.Array,
    n_epochs: int,
) -> jax.Array:
    """Move cells [2, n] to where attraction and repulsion balance.

    Each cell is attracted by its links [n, w], in proportion to their weights [n, w], and repelled
    by cells drawn from the first `n_cells`. By gathers only: sums are in the same order each time.
    """

    def epoch(i: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        x, y, speed_x, speed_y = state
        # Coordinates apart: an inner axis of length 2 leaves vector units idle.
        to_x, to_y = x[links] - x[:, None], y[links] - y[:, None]
        attraction = 4 * weights / (1 + to_x**2 + to_y**2)
        drawn = jax.random.randint(jax.random.fold_in(key, i), (_SAMPLE,), 0, n_cells)
        from_x, from_y = x[:, None] - x[drawn], y[:, None] - y[drawn]
        squared = from_x**2 + from_y**2
        repulsion = 2 * _REPULSION / _SAMPLE / ((_NEAR + squared) * (1 + squared))
        rate = _RATE * (1 - i.astype(x.dtype) / n_epochs)
        force_x = (attraction * to_x).sum(axis=1) + (repulsion * from_x).sum(axis=1)
        force_y = (attraction * to_y).sum(axis=1) + (repulsion * from_y).sum(axis=1)
        speed_x = _MOMENTUM * speed_x + rate * force_x
        speed_y = _MOMENTUM * speed_y + rate * force_y
        return x + speed_x, y + speed_y, speed_x, speed_y

    x, y = start
    still = jnp.zeros_like(x)
    x, y, *_ = jax.lax.fori_loop(0, n_epochs, epoch, (x, y, still, still))
    return jnp.stack([x, y])
