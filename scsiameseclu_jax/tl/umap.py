"""Two dimensions to draw an embedding in."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from scsiameseclu_jax.checks import as_seed
from scsiameseclu_jax.tl.record import writable

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)


def umap(
    adata: AnnData,
    key: str = "siameseclu",
    *,
    rng: int | np.random.Generator = 0,
    copy: bool = False,
) -> AnnData | None:
    """Project the embedding of a clustering by UMAP, for plots only.

    scanpy computes it, from 15 neighbours by cosine that are found for it alone.

    Parameters
    ----------
    adata
        After :func:`siameseclu`.
    key
        The ``key_added`` of the clustering.
    rng
        Seed, or a generator that the seed is drawn from.
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
    """
    if f"X_{key}" not in adata.obsm:
        msg = (
            f"Expected an embedding in obsm['X_{key}'], found {sorted(adata.obsm)}; run "
            f"`scs.tl.siameseclu(adata, ..., key_added={key!r})` first."
        )
        raise KeyError(msg)
    import scanpy as sc
    from anndata import AnnData

    seed = as_seed(rng)
    adata = writable(adata, copy=copy)
    embedding = np.asarray(adata.obsm[f"X_{key}"], dtype=np.float32)
    embedded = np.isfinite(embedding).all(axis=1)  # not cells outside `restrict_to`
    z = AnnData(embedding[embedded])
    sc.pp.neighbors(
        z,
        n_neighbors=min(15, z.n_obs - 1),
        use_rep="X",
        transformer="sklearn",
        metric="cosine",
        random_state=seed,
    )
    # The eigenvectors of a spectral start need more cells than dimensions.
    sc.tl.umap(z, init_pos="spectral" if z.n_obs > 10 else "random", random_state=seed)
    coordinates = np.full((adata.n_obs, 2), np.nan, np.float32)
    coordinates[embedded] = z.obsm["X_umap"]
    adata.obsm[f"X_{key}_umap"] = coordinates
    logger.info("added 'X_%s_umap' (adata.obsm)", key)
    return adata if copy else None
