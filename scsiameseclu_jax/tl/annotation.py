"""Cell types of clusters and cells by lists of marker genes."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scsiameseclu_jax.checks import as_seed, check_key, sorted_names, storable_names
from scsiameseclu_jax.datasets.marker_lists import MARKER_SETS, marker_sets, read_markers
from scsiameseclu_jax.preprocessing.expression import counts_name, groups, log_expression
from scsiameseclu_jax.preprocessing.neighbors import nearest_neighbors
from scsiameseclu_jax.tl import marker_scores
from scsiameseclu_jax.tl.record import UNASSIGNED, layer_for, writable
from scsiameseclu_jax.tl.ties import tie

logger = logging.getLogger(__name__)

Markers = Mapping[str, Sequence[str]] | str | os.PathLike[str]
_DRAWS, _CELL_DRAWS = 1000, 200
_NEIGHBORS = 15


def annotate_markers(
    adata: AnnData,
    markers: Markers,
    groupby: str = "siameseclu",
    *,
    layer: str | None = "counts",
    min_markers: int = 2,
    min_margin: float = 0.1,
    alpha: float = 0.05,
    use_rep: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Name clusters, and cells, by lists of marker genes.

    A type's score is the mean over its markers of logarithmic expression, in standard deviations
    over all cells: 0 is the mean of all cells. A type counts if some of its markers are seen in at
    least 5 % of the cells, and as many random genes of like expression do not reach its score; the
    best that counts is taken. All is relative to the other cells of `adata`: of cells of one type
    only, nothing can be said.

    Parameters
    ----------
    adata
        Cells x genes with raw counts.
    markers
        Genes of each type; or a file, see :func:`scsiameseclu_jax.datasets.read_markers`; or the
        name of a list that comes with the package, ``"blood"`` or ``"pancreas"``, see
        :func:`scsiameseclu_jax.datasets.marker_sets`. Genes are found by name, whatever the case
        and Ensembl version.
    groupby
        Column of ``obs`` with the groups.
    layer
        Where the raw counts are, as in :func:`markers`.
    min_markers
        Markers of a type that must be among the genes, and be seen in the cluster, at least.
    min_margin
        Lead, in standard deviations, that the best type needs on the next one that counts.
    alpha
        Probability that a cluster gets any type by chance, between 0 and 1.
    use_rep
        Key in ``obsm`` of an embedding: a cell is scored with its 15 nearest cells there. None is
        ``f"X_{groupby}"`` if there is one; else cells are scored alone, which is less accurate.
    rng
        Seed of the random genes, or a generator that the seed is drawn from.
    key_added
        Name under which results are stored; None for `groupby`.
    copy
        Return a changed copy and leave `adata` as it is.

    Returns
    -------
    None, or the copy. Written are

    ``adata.obs[f"{key_added}_annotation"]``
        Type of each cell's cluster, categorical; ``"Unassigned"`` where no type counts, two are
        tied, or the cell has no cluster.
    ``adata.obs[f"{key_added}_annotation_cell"]``
        Type of each cell by itself, or by itself and its neighbours, categorical.
    ``adata.obs[f"{key_added}_annotation_cell_score"]``
        Its score, float32.
    ``adata.uns[f"{key_added}_annotation"]``
        ``params``; ``table`` of each ``cluster``: ``annotation``, the best ``type``, its ``score``,
        ``margin`` to the ``second``, ``n_markers`` found, ``n_seen`` of these in the cluster,
        ``pval`` (share of draws of random genes that reach the score) and ``why`` it is unassigned
        (``"thin"`` or ``"tied"``); ``scores`` [clusters x types], and ``types``, what its columns
        stand for: there, "/" and ":" are "|", and no name is "_", which files can store;
        ``markers``, the ``gene`` names of the data that mark each ``type``.
    ``adata.obsm[f"{key_added}_annotation"]``
        Row of the table for each cell's cluster [n, 1], int32, -1 for none: so reports find the
        clusters again when they are renamed, and say so when they are others.

    Raises
    ------
    KeyError
        If there is no such column, layer or embedding.
    ValueError
        If there are no raw counts, no markers among the genes, or an option is out of range.
    TypeError
        If `markers` is of another kind than these.
    FileNotFoundError
        If `markers` is neither a file nor the name of a list.

    Examples
    --------
    >>> import scsiameseclu_jax as scs
    >>> adata = scs.datasets.pbmc68k_reduced()
    >>> genes = {"B": ["CD79A", "MS4A1"], "NK": ["GNLY", "NKG7"]}
    >>> scs.tl.annotate_markers(adata, genes, "cell_type")
    >>> table = adata.uns["cell_type_annotation"]["table"].set_index("cluster")
    >>> table.loc[["CD19+ B", "CD56+ NK", "CD34+"], "annotation"].tolist()
    ['B', 'NK', 'Unassigned']
    """
    _check(min_markers, min_margin, alpha)
    key_added = groupby if key_added is None else key_added
    check_key(key_added)
    seed = as_seed(rng)
    lists, source = _lists(markers)
    clusters = groups(adata, groupby)
    kept = [name for name in clusters.categories if name != UNASSIGNED]
    if not kept:
        msg = f"Expected clusters in obs[{groupby!r}], found only {UNASSIGNED!r}."
        raise ValueError(msg)
    codes = clusters.set_categories(kept).codes
    use_rep = f"X_{groupby}" if use_rep is None and f"X_{groupby}" in adata.obsm else use_rep
    neighbors = None if use_rep is None else _neighbors(adata, use_rep)
    layer = layer_for(adata, groupby, layer)
    expression = log_expression(adata, layer=layer)
    names = [str(name) for name in expression.var_names]
    seen = expression.X.getnnz(axis=0)
    present = marker_scores.find(lists, names, seen, min_markers=min_markers)
    thin = [kind for kind, n in present.n_markers.items() if n < min_markers]
    if thin:
        logger.info("fewer than %d markers of these types were found: %s", min_markers, thin)

    data = marker_scores.standard(expression.X.astype(np.float64))
    options: dict[str, Any] = {"alpha": float(alpha), "min_margin": float(min_margin)}
    options["min_markers"] = int(min_markers)
    of_groups = marker_scores.of_groups(data, codes, len(kept), present, n_draws=_DRAWS, seed=seed)
    chosen = marker_scores.choose(of_groups, n_draws=_DRAWS, **options)
    of_cells = marker_scores.of_cells(data, neighbors, present, n_draws=_CELL_DRAWS, seed=seed)
    cells = marker_scores.choose(of_cells, n_draws=_CELL_DRAWS, **options)

    adata = writable(adata, copy=copy)
    tie(adata, f"{key_added}_annotation", codes)
    table = _table(kept, present, of_groups, chosen)
    named = np.append(table["annotation"].to_numpy(object), UNASSIGNED)  # the last has no cluster
    name = f"{key_added}_annotation"
    _add(adata, name, named[codes], present.types)
    _add(adata, f"{name}_cell", _names(present.types, cells), present.types)
    score = of_cells.scores[np.arange(adata.n_obs), cells.best]
    adata.obs[f"{name}_cell_score"] = score.astype(np.float32)
    params = {
        "groupby": groupby,
        "layer": counts_name(adata, layer),
        "markers": source,
        "seed": seed,
    }
    params |= options
    params |= {"use_rep": use_rep, "n_neighbors": _NEIGHBORS} if use_rep is not None else {}
    adata.uns[name] = {
        "params": params,
        "table": table,
        "types": np.array(present.types),
        "scores": _scores(kept, present, of_groups),
        "markers": _markers(names, present),
    }
    logger.info(
        "named %d of %d clusters and added %r (adata.obs, categorical)",
        (table["annotation"] != UNASSIGNED).sum(),
        len(kept),
        name,
    )
    return adata if copy else None


def _check(min_markers: int, min_margin: float, alpha: float) -> None:
    if isinstance(min_markers, bool) or min_markers != int(min_markers) or min_markers < 1:
        msg = f"Expected `min_markers` to be a whole number of at least 1, found {min_markers}."
        raise ValueError(msg)
    if not min_margin >= 0:
        msg = f"Expected `min_margin` to be at least 0, found {min_margin}."
        raise ValueError(msg)
    if not 0 <= alpha <= 1:
        msg = f"Expected `alpha` to be between 0 and 1, found {alpha}."
        raise ValueError(msg)


def _lists(markers: Markers) -> tuple[dict[str, list[str]], str]:
    """Return the genes of each type, and what they are called."""
    if isinstance(markers, str) and markers in MARKER_SETS:
        return marker_sets(markers), markers
    lists, source = _given(markers)
    if not any(lists.values()) or UNASSIGNED in lists:
        msg = f"Expected `markers` to be genes by type, none called {UNASSIGNED!r}, found {lists}."
        raise ValueError(msg)
    return lists, source


def _given(markers: Markers) -> tuple[dict[str, list[str]], str]:
    if isinstance(markers, str | os.PathLike):
        if not Path(markers).is_file():
            msg = (
                f"Expected `markers` to be genes by type, a file, or one of {list(MARKER_SETS)}, "
                f"found no file {os.fspath(markers)!r}."
            )
            raise FileNotFoundError(msg)
        return read_markers(markers), os.fspath(markers)
    given: object = markers
    if not isinstance(given, Mapping):
        msg = (
            "Expected `markers` to be genes by type (a dict of lists), a file, or one of "
            f"{list(MARKER_SETS)}, found {type(given).__name__}."
        )
        raise TypeError(msg)
    lists = {}
    for kind, genes in markers.items():
        if isinstance(genes, str):
            msg = f"Expected a list of genes for {kind!r}, found a single name {genes!r}."
            raise ValueError(msg)
        if pd.isna(kind) or str(kind) in lists:
            msg = f"Expected types of names that differ in `markers`, found {list(markers)}."
            raise ValueError(msg)
        lists[str(kind)] = [str(gene) for gene in genes]
    return lists, "given"


def _neighbors(adata: AnnData, use_rep: str) -> np.ndarray:
    """Return the nearest cells [n, 15] of each; cells without an embedding are their own."""
    if use_rep not in adata.obsm:
        msg = f"Expected `use_rep` to be one of {sorted_names(adata.obsm)}, found {use_rep!r}."
        raise KeyError(msg)
    x = np.asarray(adata.obsm[use_rep], np.float32)
    here = np.flatnonzero(np.isfinite(x).all(axis=1))
    near = np.repeat(np.arange(adata.n_obs)[:, None], min(_NEIGHBORS, max(len(here) - 1, 1)), 1)
    if len(here) > 1:
        found, _ = nearest_neighbors(x[here], _NEIGHBORS)
        near[here] = here[found.reshape(len(here), -1)]
    return near


def _names(types: list[str], chosen: marker_scores.Choice) -> np.ndarray:
    names = np.array(types, object)[chosen.best]
    names[~chosen.enough | chosen.tied] = UNASSIGNED
    return names


def _add(adata: AnnData, name: str, values: np.ndarray, types: list[str]) -> None:
    present = set(values)
    categories = [kind for kind in [*types, UNASSIGNED] if kind in present]
    adata.obs[name] = pd.Series(pd.Categorical(values, categories), index=adata.obs_names)
    adata.uns.pop(f"{name}_colors", None)  # of other types


def _table(
    kept: list[str],
    present: marker_scores.Present,
    evidence: marker_scores.Evidence,
    chosen: marker_scores.Choice,
) -> pd.DataFrame:
    rows, types = np.arange(len(kept)), np.array([*present.types, ""], object)
    best = types[chosen.best]
    why = np.where(chosen.tied, "tied", "")
    return pd.DataFrame(
        {
            "cluster": kept,
            "annotation": _names(present.types, chosen),
            "type": best,
            "score": evidence.scores[rows, chosen.best].astype(np.float32),
            "margin": chosen.margin.astype(np.float32),
            "second": types[chosen.second],
            "n_markers": [present.n_markers[kind] for kind in best],
            "n_seen": evidence.n_seen[rows, chosen.best].astype(int),
            "pval": evidence.pvals[rows, chosen.best].astype(np.float32),
            "why": np.where(chosen.enough, why, "thin").astype(object),
        }
    )


def _scores(
    kept: list[str], present: marker_scores.Present, evidence: marker_scores.Evidence
) -> pd.DataFrame:
    scores = evidence.scores.astype(np.float32)
    return pd.DataFrame(scores, index=kept, columns=storable_names(present.types))


def _markers(names: list[str], present: marker_scores.Present) -> pd.DataFrame:
    pairs = [
        (kind, names[i])
        for kind, own in zip(present.types, present.genes, strict=True)
        for i in own
    ]
    return pd.DataFrame(pairs, columns=["type", "gene"])
