"""Tools on AnnData, scanpy style: results are written into the object."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from anndata import AnnData

from scsiameseclu_jax.config import Config
from scsiameseclu_jax.model import SiameseClu

logger = logging.getLogger(__name__)


def siameseclu(
    adata: AnnData,
    n_clusters: int,
    *,
    layer: str | None = "counts",
    use_rep: str | None = None,
    neighbors_key: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str = "siameseclu",
    config: Config | None = None,
    copy: bool = False,
    progress: bool | None = None,
) -> AnnData | None:
    """Cluster cells from raw counts.

    Parameters
    ----------
    adata
        Cells x genes; its ``obs`` is not read.
    n_clusters
        Number of clusters, 2 to ``n_obs - 1``.
    layer
        Where the raw counts are: ``"counts"`` is that layer if there is one, else ``X``; another
        name must exist; None is ``X``. ``.raw`` is never read.
    use_rep
        Key in ``obsm`` of features to use instead of principal components.
    neighbors_key
        Key in ``uns`` of a neighbour graph to use instead of building one.
    rng
        Seed, or a generator that the seed is drawn from.
    key_added
        Name under which results are stored.
    config
        All other settings.
    copy
        Return a changed copy and leave `adata` as it is.
    progress
        See :meth:`scsiameseclu_jax.SiameseClu.fit`.

    Returns
    -------
    None, or the copy. Written are

    ``adata.obs[key_added]``
        Cluster of each cell, categorical of strings, ``'0'`` the largest.
    ``adata.obs[f"{key_added}_confidence"]``
        Largest soft assignment, float32, not calibrated.
    ``adata.obsm[f"X_{key_added}"]``
        Embedding [n, d], float32; rows have length sqrt(d).
    ``adata.obsm[f"{key_added}_proba"]``
        Soft assignments [n, k], float32, rows sum to 1.
    ``adata.uns[key_added]``
        ``params``, ``history`` (one array for each loss term) and ``manifest``.

    Raises
    ------
    TypeError, ValueError, KeyError
        For bad input, before training starts; `adata` is left as it was.
    MemoryError
        If there is too little memory, before any of it is taken.
    FloatingPointError
        If a loss term is not finite.
    """
    if not key_added or "/" in key_added:
        msg = f"Expected `key_added` to be a name without '/', found {key_added!r}."
        raise ValueError(msg)
    model = SiameseClu(n_clusters, config=config).fit(
        adata,
        layer=layer,
        use_rep=use_rep,
        neighbors_key=neighbors_key,
        rng=rng,
        progress=progress,
    )
    adata = adata.copy() if copy else adata
    if adata.is_view:
        adata._init_as_actual(adata.copy())
    names = [str(i) for i in range(n_clusters)]
    values = pd.Categorical.from_codes(model.labels, categories=names)
    adata.obs[key_added] = pd.Series(values, index=adata.obs_names).cat.remove_unused_categories()
    adata.obs[f"{key_added}_confidence"] = model.confidence
    adata.obsm[f"X_{key_added}"] = model.get_latent_representation()
    adata.obsm[f"{key_added}_proba"] = model.proba
    adata.uns.pop(f"{key_added}_colors", None)  # of other clusters
    adata.obsm.pop(f"X_{key_added}_umap", None)  # of another embedding
    params = {
        "n_clusters": int(n_clusters),
        "layer": "X" if layer is None else layer,
        "config": model.config.to_dict(),
    }
    given = {"use_rep": use_rep, "neighbors_key": neighbors_key}
    params |= {name: value for name, value in given.items() if value is not None}
    manifest = {name: value for name, value in model.manifest.items() if value != []}
    adata.uns[key_added] = {
        "params": params,
        "history": dict(model.history),
        "manifest": manifest,
    }
    found = adata.obs[key_added].nunique()
    logger.info("found %d clusters and added %r (adata.obs, categorical)", found, key_added)
    return adata if copy else None
