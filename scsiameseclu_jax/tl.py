"""Tools on AnnData, scanpy style: results are written into the object."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scsiameseclu_jax.config import Config
from scsiameseclu_jax.fitted import Predicted
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
    check_key(key_added)
    model = SiameseClu(n_clusters, config=config).fit(
        adata,
        layer=layer,
        use_rep=use_rep,
        neighbors_key=neighbors_key,
        rng=rng,
        progress=progress,
    )
    return add_clusters(adata, model, key_added=key_added, copy=copy)


def add_clusters(
    adata: AnnData, model: SiameseClu, *, key_added: str = "siameseclu", copy: bool = False
) -> AnnData | None:
    """Write what a model found into the object that it was fitted to.

    Parameters
    ----------
    adata
        The cells that `model` was fitted to, in the same order.
    model
        A fitted model.
    key_added
        Name under which results are stored.
    copy
        Return a changed copy and leave `adata` as it is.

    Returns
    -------
    None, or the copy, with what :func:`siameseclu` lists.

    Raises
    ------
    RuntimeError
        If `model` is not fitted.
    ValueError
        If it was fitted to another number of cells.
    """
    check_key(key_added)
    if adata.n_obs != len(model.labels):
        msg = (
            f"Expected the {len(model.labels)} cells that the model was fitted to, found "
            f"{adata.n_obs}; for other cells there is `predict`."
        )
        raise ValueError(msg)
    adata = _own(adata, copy=copy)
    _add(adata, key_added, model, model.get_latent_representation())
    adata.obs[key_added] = adata.obs[key_added].cat.remove_unused_categories()
    manifest = dict(model.manifest)
    adata.uns[key_added] = {
        "params": {"n_clusters": int(model.n_clusters)}
        | manifest.pop("input")
        | {"config": model.config.to_dict()},
        "history": dict(model.history),
        "manifest": _storable(manifest),
    }
    found = adata.obs[key_added].nunique()
    logger.info("found %d clusters and added %r (adata.obs, categorical)", found, key_added)
    return adata if copy else None


def predict(
    adata: AnnData,
    model: SiameseClu,
    *,
    layer: str | None = "counts",
    false_flags: float = 0.05,
    key_added: str = "siameseclu",
    copy: bool = False,
) -> AnnData | None:
    """Cluster cells that a fitted model has not seen.

    Parameters
    ----------
    adata
        New cells x genes with raw counts; genes are found by name.
    model
        A fitted or loaded model.
    layer
        Where the raw counts are, as in :func:`siameseclu`.
    false_flags
        Share of the cells like those of the fit that may be flagged as out of reference, between
        0 and 1.
    key_added
        Name under which results are stored.
    copy
        Return a changed copy and leave `adata` as it is.

    Returns
    -------
    None, or the copy. Written are

    ``adata.obs[key_added]``
        Cluster of each cell, categorical with all names of the fit, whether cells have them or not.
    ``adata.obs[f"{key_added}_confidence"]``
        Largest soft assignment, float32, not calibrated.
    ``adata.obs[f"{key_added}_novelty"]``
        Share of the fit's cells that are less surprising, float32, 0 to 1.
    ``adata.obs[f"{key_added}_out_of_reference"]``
        Whether a cell is unlike those of the fit, boolean: its cluster then says little.
    ``adata.obsm[f"X_{key_added}"]``, ``adata.obsm[f"{key_added}_proba"]``
        Embedding [n, d] and soft assignments [n, k], float32, in the space of the fit.
    ``adata.uns[key_added]``
        ``params``, the model's ``manifest``, and ``missing_genes`` if there are any.

    Raises
    ------
    RuntimeError
        If `model` is not fitted.
    TypeError, KeyError, ValueError
        See :meth:`scsiameseclu_jax.SiameseClu.predict`; `adata` is left as it was.
    """
    check_key(key_added)
    found = model.predict(adata, layer=layer, false_flags=false_flags)
    adata = _own(adata, copy=copy)
    _add(adata, key_added, found, found.embedding)
    adata.obs[f"{key_added}_novelty"] = found.novelty
    adata.obs[f"{key_added}_out_of_reference"] = found.out_of_reference
    adata.uns[key_added] = {
        "params": {
            "layer": "X" if layer is None else layer,
            "false_flags": float(false_flags),
            "config": model.config.to_dict(),
        },
        "manifest": _storable(model.manifest),
    } | ({"missing_genes": np.array(found.missing_genes)} if found.missing_genes else {})
    logger.info(
        "%d of %d cells are out of reference; added %r (adata.obs, categorical)",
        found.out_of_reference.sum(),
        adata.n_obs,
        key_added,
    )
    return adata if copy else None


def check_key(key_added: str) -> None:
    """Check a name for results.

    Raises
    ------
    ValueError
        If it is empty or has a "/", which no file can store.
    """
    if not key_added or "/" in key_added:
        msg = f"Expected `key_added` to be a name without '/', found {key_added!r}."
        raise ValueError(msg)


def _own(adata: AnnData, *, copy: bool) -> AnnData:
    if copy:
        return adata.copy()
    if adata.is_view:
        adata._init_as_actual(adata.copy())
    return adata


def _add(adata: AnnData, key: str, found: SiameseClu | Predicted, embedding: np.ndarray) -> None:
    """Write clusters, confidence, soft assignments and embedding; drop what no longer holds."""
    names = [str(i) for i in range(found.proba.shape[1])]
    values = pd.Categorical.from_codes(found.labels, categories=names)
    adata.obs[key] = pd.Series(values, index=adata.obs_names)
    adata.obs[f"{key}_confidence"] = found.confidence
    adata.obsm[f"X_{key}"] = embedding
    adata.obsm[f"{key}_proba"] = found.proba
    adata.uns.pop(f"{key}_colors", None)  # of other clusters
    adata.obsm.pop(f"X_{key}_umap", None)  # of another embedding


def _storable(manifest: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in manifest.items() if value != []}
