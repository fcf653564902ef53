"""How results are written into an AnnData object."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from anndata import AnnData

from scsiameseclu_jax.certainty.stability import hints
from scsiameseclu_jax.checks import check_column
from scsiameseclu_jax.model import SiameseClu
from scsiameseclu_jax.partition.questions import Pool
from scsiameseclu_jax.preprocessing.blocks import settle
from scsiameseclu_jax.preprocessing.count_splitting import FIT, TEST
from scsiameseclu_jax.preprocessing.counts import in_memory
from scsiameseclu_jax.preprocessing.expression import groups as groups_of

UNASSIGNED = "Unassigned"
# Columns that a clustering or a prediction writes beside the clusters, named after them.
RESULTS = ("confidence", "agreement", "consensus", "novelty", "is_novel")
# Columns, named after a clustering, that say something of its clusters or embedding.
_DERIVED = (*RESULTS[1:], "pseudotime")  # confidence is always written anew
_ANNOTATED = ("annotation", "annotation_cell", "annotation_cell_score")
RestrictTo = tuple[str, Sequence[str]]


def layer_for(adata: AnnData, key: str, layer: str | None) -> str | None:
    """Return the layer of counts to read: that of the clustering where the usual one is missing."""
    record = adata.uns.get(key)
    if layer == "counts" and layer not in adata.layers and isinstance(record, Mapping):
        fitted = record.get("params", {}).get("layer")
        # None among the layers is X, of anndata 0.13
        return str(fitted) if fitted is not None and fitted in adata.layers else layer
    return layer


class Clusters(Protocol):
    """Clusters of cells, from a model, a prediction, or answers."""

    @property
    def labels(self) -> np.ndarray:
        """[n] cluster of each cell."""
        ...

    @property
    def proba(self) -> np.ndarray:
        """[n, k] soft assignment."""
        ...

    @property
    def confidence(self) -> np.ndarray:
        """[n] chance that another plausible fit agrees."""
        ...


def restricted(adata: AnnData, restrict_to: RestrictTo) -> np.ndarray:
    """Return which cells [n] are in the named groups of a column.

    Raises
    ------
    KeyError
        If ``obs`` has no such column.
    TypeError
        If it is no pair, or the groups are no list.
    ValueError
        If the column has no such groups.
    """
    given: object = restrict_to
    if not isinstance(given, tuple | list) or len(given) != 2:
        msg = f"Expected `restrict_to` to be (column, [groups]), found {given!r}."
        raise TypeError(msg)
    column, groups = restrict_to
    check_column("restrict_to", column, adata)
    if isinstance(groups, str):
        msg = f"Expected `restrict_to` to be (column, [groups]), found a single group {groups!r}."
        raise TypeError(msg)
    names, wanted = groups_of(adata, column), list(map(str, groups))
    known = list(names.categories)
    unknown = sorted(set(wanted) - set(known))
    if unknown or not wanted:
        msg = f"Expected groups of obs[{column!r}], {sorted(known)}, found {unknown}."
        raise ValueError(msg)
    above = "-".join(wanted)
    taken = [name for name in known if re.fullmatch(rf"{re.escape(above)},\d+", name)]
    if set(taken) - set(wanted):
        msg = (
            f"Expected no group of obs[{column!r}] to be called as new clusters of {above!r} are, "
            f"found {taken}; rename it first."
        )
        raise ValueError(msg)
    return np.asarray(names.isin(wanted))


def check_writable(adata: AnnData, *, copy: bool) -> None:
    """Check that results can be written into an object.

    Raises
    ------
    ValueError
        If it is a view of one on disk, which cannot be written to without a copy.
    """
    if isinstance(adata, AnnData) and adata.isbacked and adata.is_view and not copy:
        msg = (
            "Expected an object in memory, found a view of one on disk; use "
            "`adata = adata.to_memory()`, or `copy=True`."
        )
        raise ValueError(msg)


def writable(adata: AnnData, *, copy: bool) -> AnnData:
    """Return an object that can be written to: a copy, in memory, or itself, no view."""
    check_writable(adata, copy=copy)
    if copy:
        adata = in_memory(adata)
        settle(adata)
        return adata
    if adata.is_view:
        adata._init_as_actual(adata.copy())
    settle(adata)
    return adata


def add(
    adata: AnnData,
    key: str,
    result: Clusters,
    embedding: np.ndarray,
    *,
    fused: np.ndarray | None = None,
    min_confidence: float | None,
    restrict_to: RestrictTo | None = None,
) -> None:
    """Write clusters, confidence, soft assignments and embedding; drop what no longer holds."""
    names = np.array([str(i) for i in range(result.proba.shape[1])])
    part = np.ones(adata.n_obs, bool)
    if restrict_to is not None:
        part = restricted(adata, restrict_to)
        names = np.array([f"{'-'.join(map(str, restrict_to[1]))},{name}" for name in names])
    confidence = np.asarray(result.confidence)
    clusters = names.astype(object)[result.labels]
    categories = names.tolist()
    if min_confidence is not None:
        clusters[confidence < min_confidence] = UNASSIGNED
        categories.append(UNASSIGNED)
    if restrict_to is not None:
        others = groups_of(adata, restrict_to[0])
        kept = others[~part].remove_unused_categories().categories
        categories = [*kept, *categories]
        whole = others.astype(object)
        whole[part] = clusters
        clusters = whole
    values = pd.Categorical(clusters, categories=list(dict.fromkeys(categories)))
    adata.obs[key] = pd.Series(values, index=adata.obs_names)
    adata.obs[f"{key}_confidence"] = _spread(confidence, part)
    adata.obsm[f"X_{key}"] = _spread(embedding, part)
    adata.obsm[f"{key}_proba"] = _spread(result.proba, part)
    old = [f"{key}_{name}" for name in _DERIVED]
    if f"{key}_annotation" in adata.uns:  # else columns of these names are the user's own
        old += [f"{key}_{name}" for name in _ANNOTATED]
        adata.uns.pop(f"{key}_annotation_colors", None)
    adata.obs = adata.obs.drop(columns=[name for name in old if name in adata.obs])
    drop_tree(adata, key)
    for name in ("colors", "markers", "top_markers", "annotation", "paga"):  # of other clusters
        if adata.uns.pop(f"{key}_{name}", None) is not None:
            adata.obsm.pop(f"{key}_{name}", None)  # which cells it was of
    for name in of_embedding(key):
        adata.obsm.pop(name, None)  # of another embedding
    if fused is not None:
        adata.obsm[f"X_{key}_fused"] = _spread(fused, part)
    if isinstance(result, SiameseClu) and result.stability is not None:
        adata.obs[f"{key}_agreement"] = _spread(result.stability.agreement, part)
        consensus = np.full(adata.n_obs, None, object)
        consensus[part] = names[result.stability.consensus]
        adata.obs[f"{key}_consensus"] = pd.Categorical(consensus, categories=list(names))


def of_embedding(key: str) -> list[str]:
    """Return the names in ``obsm`` of what belongs to the embedding of a clustering."""
    names = [f"X_{key}_{name}" for name in ("umap", "diffmap", "fused")]
    return [*names, f"{key}_candidates", f"{key}_groups"]


def fused_of(adata: AnnData, key: str) -> np.ndarray:
    """Return the embedding [n, d] that cells were clustered in.

    Raises
    ------
    KeyError
        If the object has lost it.
    """
    record = adata.uns.get(key, {})
    apart = isinstance(record, Mapping) and "fused" in record.get("params", {})
    name = str(record["params"]["fused"]) if apart else f"X_{key}"
    if name not in adata.obsm:
        msg = f"Expected the embedding that cells were clustered in, obsm[{name!r}], found none."
        raise KeyError(msg)
    return np.asarray(adata.obsm[name])


def add_pool(adata: AnnData, key: str, pool: Pool) -> dict[str, Any]:
    """Write the candidates of a fit, and return what ``uns`` holds of them."""
    adata.obsm[f"{key}_candidates"] = pool.clusters.T.copy()
    adata.obsm[f"{key}_groups"] = pool.groups[:, None].copy()
    return {
        "names": np.array(pool.names),
        "ranks": pool.ranks,
        "voters": pool.voters,
        "lead": pool.lead,
        "distances": pool.distances,
    }


def pool_of(adata: AnnData, key: str) -> Pool:
    """Return the candidates of a clustering.

    Raises
    ------
    KeyError
        If the object has none.
    """
    kept = adata.uns[key].get("candidates")
    clusters, groups = (adata.obsm.get(f"{key}_{name}") for name in ("candidates", "groups"))
    if kept is None or clusters is None or groups is None:
        msg = (
            f"Expected the candidates of clustering {key!r} in obsm and uns, found none; they are "
            "there after `scs.tl.siameseclu` without `restrict_to`."
        )
        raise KeyError(msg)
    return Pool(
        names=[str(name) for name in kept["names"]],
        clusters=np.asarray(clusters).T,
        ranks=np.asarray(kept["ranks"]),
        voters=np.asarray(kept["voters"]),
        lead=int(kept["lead"]),
        groups=np.asarray(groups)[:, 0],
        distances=np.asarray(kept["distances"]),
    )


def answers_of(record: Mapping[str, Any]) -> pd.DataFrame:
    """Return the answers that a clustering heeds; an empty table of none."""
    columns = ["cells_a", "cells_b", "answer"]
    return pd.DataFrame(record.get("answers", {}), columns=columns, dtype=object)


def drop_tree(adata: AnnData, key: str) -> None:
    """Remove a tree of clusters and the columns of its levels, if there is one."""
    old = tree_columns(adata, key)
    if old:  # else what has this name is the user's own
        adata.obs = adata.obs.drop(columns=[name for name in old if name in adata.obs])
        for name in (f"{key}_tree", *(f"{name}_colors" for name in old)):
            adata.uns.pop(name, None)


def tree_columns(adata: AnnData, key: str) -> list[str]:
    """Return the columns of a tree of clusters: its leaves and levels; none without a tree."""
    tree = adata.uns.get(f"{key}_tree")
    if not isinstance(tree, Mapping) or "levels" not in tree:
        return []
    return [f"{key}_{name}" for name in ("leaf", *map(int, tree["levels"]))]


def split_of(adata: AnnData, layer: str) -> dict[str, int]:
    """Return the seed of the split that a layer is a part of; nothing if it is none."""
    split = adata.uns.get("counts_split")
    if layer not in (FIT, TEST) or not isinstance(split, Mapping) or "seed" not in split:
        return {}
    return {"split_seed": int(split["seed"])}


def stability_of(model: SiameseClu) -> dict[str, Any]:
    """Return what ``uns`` holds of a model's stability; nothing if it was not assessed."""
    stability = model.stability
    if stability is None:
        return {}
    merge, split = hints(stability)
    return {
        "stability": {
            "jaccard": stability.jaccard,
            "together": stability.together,
            "calibration_error": stability.calibration_error,
        }
        | ({"merge": np.array([f"{a} + {b}" for a, b in merge])} if merge else {})
        | ({"split": np.array([str(a) for a in split])} if split else {})
    }


def is_calibrated(record: Mapping[str, Any]) -> bool:
    """Whether the confidence of a clustering is, by what ``uns`` holds of it."""
    manifest = record.get("manifest", {})
    return str(manifest.get("confidence", "")).startswith("calibrated")


def storable(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest without empty lists, which no file can store."""
    return {name: value for name, value in manifest.items() if value != []}


def _spread(values: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Return values of the cells in `part`, NaN for the others."""
    if part.all():
        return values.copy()  # what the user does with it must not reach the model
    whole = np.full((len(part), *values.shape[1:]), np.nan, np.float32)
    whole[part] = values
    return whole
