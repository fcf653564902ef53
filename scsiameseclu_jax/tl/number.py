"""How many clusters there are."""

from __future__ import annotations

import logging

import numpy as np
from anndata import AnnData

from scsiameseclu_jax.checks import as_seed, check_key
from scsiameseclu_jax.config import Config
from scsiameseclu_jax.partition.n_clusters import K_MAX, estimate, k_range
from scsiameseclu_jax.preprocessing.prepare import prepare
from scsiameseclu_jax.tl.record import writable

logger = logging.getLogger(__name__)


def estimate_n_clusters(
    adata: AnnData,
    *,
    layer: str | None = "counts",
    use_rep: str | None = None,
    batch_key: str | None = None,
    k_min: int = 2,
    k_max: int = K_MAX,
    rng: int | np.random.Generator = 0,
    key_added: str = "n_clusters",
    config: Config | None = None,
) -> int:
    """Choose the number of clusters without labels, in seconds and without training.

    The cells are partitioned into ever more clusters, and four criteria vote: modularity,
    silhouette of the features and of smoothed features, and the Calinski-Harabasz index.
    ``benchmarks/n_clusters.py`` compares the vote with others.

    Parameters
    ----------
    adata
        Cells x genes with raw counts.
    layer, use_rep, batch_key
        As in :func:`siameseclu`.
    k_min, k_max
        Least and largest number to try; a tenth of the cells at most.
    rng
        Seed, or a generator that the seed is drawn from.
    key_added
        Where in ``uns`` the evidence is stored: ``n_clusters``, ``candidates``, ``criteria``,
        ``votes``, ``why`` and ``n_cells``. :func:`scsiameseclu_jax.pl.n_clusters` draws it.
    config
        All other settings.

    Returns
    -------
    The number of clusters.

    Raises
    ------
    TypeError, ValueError, KeyError
        For bad input, before anything long starts.

    Examples
    --------
    >>> import scsiameseclu_jax as scs
    >>> adata = scs.datasets.simulate(n_cells=400, n_genes=200, n_clusters=5, difficulty=0.2)
    >>> scs.tl.estimate_n_clusters(adata)
    5
    """
    check_key(key_added)
    adata = writable(adata, copy=False)
    settings = Config() if config is None else config
    seed = as_seed(rng)
    k_range(adata.n_obs, k_min, k_max)
    prepared = prepare(adata, layer=layer, use_rep=use_rep, batch_key=batch_key, config=settings)
    evidence = estimate(
        prepared.features,
        settings.preprocessing.n_neighbors,
        batch=prepared.batch,
        k_min=k_min,
        k_max=k_max,
        seed=seed,
    )
    adata.uns[key_added] = evidence._asdict() | {"n_cells": adata.n_obs}
    logger.info("%s; added %r (adata.uns)", evidence.why, key_added)
    return evidence.n_clusters
