"""Tools of others on our clusters, their results under our names."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scsiameseclu_jax.checks import check_column, check_key, check_share
from scsiameseclu_jax.preprocessing.counts import counts, totals
from scsiameseclu_jax.preprocessing.normalization import logarithm
from scsiameseclu_jax.tl.record import UNASSIGNED, writable

if TYPE_CHECKING:
    import os

logger = logging.getLogger(__name__)

_TOTAL = 1e4  # counts of a cell that CellTypist's models expect, before log1p
_MIXED = "Heterogeneous"  # CellTypist's word for a cluster without a dominant type


def celltypist(
    adata: AnnData,
    model: str | os.PathLike[str] | Any,
    *,
    groupby: str = "siameseclu",
    layer: str | None = "counts",
    min_prop: float = 0.0,
    min_confidence: float | None = None,
    key_added: str = "celltypist",
    copy: bool = False,
) -> AnnData | None:
    """Annotate cells by CellTypist, with our clusters as its over-clustering.

    CellTypist gives each cell a type, and each cluster the type of most of its cells. It needs
    logarithmic values of 10,000 counts a cell over all genes: they are made here from the counts.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, gene symbols as names, and clusters.
    model
        A CellTypist model: its name, the path of its file, or a ``celltypist.models.Model``.
    groupby
        Column of ``obs`` with the clusters. More clusters than types are better than fewer.
    layer
        Where the raw counts are, as in :func:`siameseclu`.
    min_prop
        Share of its cells that a cluster's type must have, 0 to 1; else its cells are
        ``"Unassigned"``.
    min_confidence
        Confidence below which a cell is written as ``"Unassigned"``.
    key_added
        Name under which results are stored.
    copy
        Return a changed copy and leave `adata` as it is.

    Returns
    -------
    None, or the copy. Written are

    ``adata.obs[key_added]``
        Type of each cell's cluster, categorical.
    ``adata.obs[f"{key_added}_cell"]``
        Type of the cell by itself, categorical.
    ``adata.obs[f"{key_added}_confidence"]``
        CellTypist's probability that the cell is of its cluster's type, float32; of its own
        likeliest type where the cluster has none. It is not calibrated.
    ``adata.obs[f"{key_added}_second"]``
        The cell's likeliest type other than that, categorical.
    ``adata.uns[key_added]``
        ``params``.

    Raises
    ------
    ImportError
        If CellTypist is not installed.
    KeyError, TypeError, ValueError
        For bad input, before CellTypist starts.

    References
    ----------
    Dominguez Conde, C. et al. (2022). Cross-tissue immune cell analysis reveals tissue-specific
    features in humans. Science 376, eabl5197.
    """
    check_key(key_added)
    check_share("min_confidence", min_confidence)
    if not 0 <= min_prop <= 1:
        msg = f"Expected `min_prop` to be between 0 and 1, found {min_prop}."
        raise ValueError(msg)
    clusters = _clusters(adata, groupby)
    raw = counts(adata, layer=layer)
    depths = totals(raw)
    if not depths.all():
        msg = f"Expected every cell to have counts, found {int((depths == 0).sum())} without."
        raise ValueError(msg)
    try:
        tool = importlib.import_module("celltypist")
    except ImportError as error:
        msg = "Expected CellTypist to be installed; run `pip install celltypist`."
        raise ImportError(msg) from error
    logged = logarithm(raw, depths / _TOTAL).astype(np.float32)
    cells = AnnData(
        logged, obs=pd.DataFrame(index=adata.obs_names), var=pd.DataFrame(index=adata.var_names)
    )
    annotations = tool.annotate(
        cells, model=model, majority_voting=True, over_clustering=clusters, min_prop=min_prop
    )
    proba = annotations.probability_matrix
    types = [str(name) for name in proba.columns]
    values = proba.to_numpy(np.float64)
    of_clusters, of_cells = (
        annotations.predicted_labels[name].astype(str).to_numpy(dtype=object, copy=True)
        for name in ("majority_voting", "predicted_labels")
    )
    place = {name: i for i, name in enumerate(types)}
    rows = np.arange(adata.n_obs)
    first = np.array([place.get(name, -1) for name in of_clusters])
    first = np.where(first < 0, values.argmax(axis=1), first)
    confidence = values[rows, first].astype(np.float32)
    of_clusters[of_clusters == _MIXED] = UNASSIGNED
    if min_confidence is not None:
        of_clusters[confidence < min_confidence] = UNASSIGNED
    others = values.copy()
    others[rows, first] = -np.inf
    adata = writable(adata, copy=copy)
    second = np.array(types, dtype=object)[others.argmax(axis=1)]
    for name, column in (
        (key_added, of_clusters),
        (f"{key_added}_cell", of_cells),
        (f"{key_added}_second", second),
    ):
        adata.obs[name] = pd.Series(pd.Categorical(column), index=adata.obs_names)
        adata.uns.pop(f"{name}_colors", None)  # of other types
    adata.obs[f"{key_added}_confidence"] = confidence
    params = {
        "model": str(model) if isinstance(model, str) or hasattr(model, "__fspath__") else "given",
        "groupby": groupby,
        "layer": "X" if layer is None else layer,
        "min_prop": float(min_prop),
    }
    if min_confidence is not None:
        params["min_confidence"] = float(min_confidence)
    adata.uns[key_added] = {"params": params}
    logger.info("added %r (adata.obs, categorical)", key_added)
    return adata if copy else None


def _clusters(adata: AnnData, groupby: str) -> np.ndarray:
    check_column("groupby", groupby, adata)
    column = adata.obs[groupby]
    n = int(column.isna().sum())
    if n:
        msg = f"Expected a cluster for every cell in obs[{groupby!r}], found {n} without."
        raise ValueError(msg)
    return column.astype(str).to_numpy()
