"""The clusters at other numbers of clusters, from one fit: a tree through them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scsiameseclu_jax.checks import check_key, sorted_names
from scsiameseclu_jax.partition import tree
from scsiameseclu_jax.preprocessing.expression import groups
from scsiameseclu_jax.tl.record import UNASSIGNED, drop_tree, fused_of, tree_columns, writable

logger = logging.getLogger(__name__)


def cluster_tree(
    adata: AnnData,
    n_clusters: int | Sequence[int] | None = None,
    key: str = "siameseclu",
    *,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Merge and split the clusters of a fit: one tree, and a column for each level asked for.

    Small groups of cells, found inside each cluster, are merged within it, and clusters with each
    other, by average linkage of cosine distances in the embedding. So the clusters are one level of
    the tree, exactly; with fewer, some are merged, and with more, some are split. No cell is
    clustered anew, which takes seconds for 100,000 cells.

    Parameters
    ----------
    adata
        After :func:`siameseclu` or :func:`predict`.
    n_clusters
        A number of clusters, or several: a column of ``obs`` is written for each, from 2 to the
        number of leaves, about 60 or three a cluster. None writes the tree alone.
    key
        The ``key_added`` of the clustering.
    key_added
        Name under which results are stored; None for `key`.
    copy
        Return a changed copy and leave `adata` as it is.

    Returns
    -------
    None, or the copy. Written are

    ``adata.obs[f"{key_added}_{k}"]``
        For each number asked for, the cluster of each cell, categorical of strings, ``'0'`` the
        largest. Cells that are ``"Unassigned"`` stay so; those that were not clustered, because
        the clustering is one of a part of the cells, are missing.
    ``adata.obs[f"{key_added}_leaf"]``
        Leaf of the tree, the small group that a cell is in, int32; -1 for those cells.
    ``adata.uns[f"{key_added}_tree"]``
        ``linkage`` [L - 1, 4] in scipy's format, ``n_clusters`` of the clustering, ``levels``, the
        numbers for which there are columns, and ``params``. The height of a merge is the mean
        cosine distance; 3 more between clusters, so that merges within them come first.

    Columns of earlier levels stay if the tree is the same, and are removed if it is another.

    Raises
    ------
    KeyError
        If there is no such clustering or embedding.
    TypeError, ValueError
        If a number is out of range or its column taken, or there are fewer than two clusters;
        `adata` is left as it was.

    See Also
    --------
    scsiameseclu_jax.pl.cluster_tree : draws the tree.
    """
    name = key if key_added is None else key_added
    check_key(name)
    levels = _levels(n_clusters)
    embedding, clusters = _embedding(adata, key), groups(adata, key)
    embedded = np.isfinite(embedding).all(axis=1)
    unassigned = np.asarray(clusters == UNASSIGNED)
    cells = embedded & ~unassigned & (clusters.codes >= 0)
    found = clusters.codes[cells]
    if len(np.unique(found)) < 2:
        names = list(clusters.categories[np.unique(found)])
        msg = f"Expected two clusters or more in obs[{key!r}] to make a tree of, found {names}."
        raise ValueError(msg)
    made = tree.cluster_tree(embedding[cells], found, seed=0)
    if levels and levels[-1] > made.n_leaves:
        msg = (
            f"Expected `n_clusters` to be between 2 and {made.n_leaves}, the number of leaves of "
            f"the tree, found {levels[-1]}; more need a fit with more clusters."
        )
        raise ValueError(msg)
    leaves = np.full(adata.n_obs, -1, np.int32)
    leaves[cells] = made.leaves
    earlier = tree_columns(adata, name)
    columns = [f"{name}_{k}" for k in ("leaf", *levels)]
    taken = [column for column in columns if column in adata.obs and column not in earlier]
    if taken:
        msg = (
            f"Expected no column obs[{taken[0]!r}], found one that is not of a tree; rename it, or "
            "use another `key_added`."
        )
        raise ValueError(msg)

    adata = writable(adata, copy=copy)
    stored = adata.uns[f"{name}_tree"] if earlier else {"levels": []}
    same = np.array_equal(leaves, adata.obs.get(f"{name}_leaf")) and np.array_equal(
        made.linkage, stored.get("linkage")
    )
    if not same:
        drop_tree(adata, name)
    kept = set(map(int, stored["levels"])) if same else set()
    for k in levels:
        values = np.full(adata.n_obs, -1)
        values[cells] = tree.cut(made, k)
        values[unassigned & embedded] = k
        names = [*map(str, range(k)), UNASSIGNED]
        column = pd.Categorical.from_codes(values, names if (values == k).any() else names[:-1])
        adata.obs[f"{name}_{k}"] = pd.Series(column, index=adata.obs_names)
    adata.obs[f"{name}_leaf"] = leaves
    adata.uns[f"{name}_tree"] = {
        "linkage": made.linkage,
        "n_clusters": made.n_clusters,
        "levels": np.array(sorted(kept | set(levels)), int),
        "params": {"key": key},
    }
    logger.info("tree of %d leaves; added '%s_tree' (adata.uns)", made.n_leaves, name)
    return adata if copy else None


def _levels(n_clusters: int | Sequence[int] | None) -> list[int]:
    """Return the numbers of clusters asked for, ascending, each once."""
    if n_clusters is None:
        return []
    several = isinstance(n_clusters, Sequence | np.ndarray) and not isinstance(n_clusters, str)
    asked: list[Any] = list(n_clusters) if several else [n_clusters]  # type: ignore[arg-type]
    for k in asked:
        if isinstance(k, bool) or not isinstance(k, int | np.integer):
            msg = f"Expected `n_clusters` to be an integer, or several, found {n_clusters!r}."
            raise TypeError(msg)
        if k < 2:
            msg = f"Expected `n_clusters` to be at least 2, found {k}."
            raise ValueError(msg)
    return sorted({int(k) for k in asked})


def _embedding(adata: AnnData, key: str) -> np.ndarray:
    if f"X_{key}" not in adata.obsm:
        msg = (
            f"Expected an embedding in obsm['X_{key}'], found {sorted_names(adata.obsm)}; run "
            f"`scs.tl.siameseclu(adata, ..., key_added={key!r})` first."
        )
        raise KeyError(msg)
    return fused_of(adata, key).astype(np.float32)
