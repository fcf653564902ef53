"""What stored results are about: cells, not names, which users change.

A result about groups of cells keeps, beside it in ``obsm``, the group of each cell when it was
made: that is cut, ordered and copied with the cells, whatever they and their groups are called.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from scsiameseclu_jax.checks import is_storable
from scsiameseclu_jax.tl.record import UNASSIGNED


class Tie(NamedTuple):
    """Groups of a stored result beside those of now."""

    names: dict[str, str]
    """What each stored group whose cells are a group still, or what is left of one, is called."""
    changed: list[str]
    """Groups of now that the result is not about, though it is about some of their cells."""


def tie(adata: AnnData, name: str, codes: np.ndarray) -> None:
    """Keep the group [n] of each cell beside the result of that name; -1 for none."""
    adata.obsm[name] = np.asarray(codes, np.int32)[:, None]


def tied(
    adata: AnnData,
    name: str,
    stored: Iterable[object],
    clusters: pd.Categorical,
    *,
    left_out: Iterable[object] = (),
) -> Tie:
    """Find the groups of a stored result among those of now.

    A result that was not tied to its cells, by an earlier version, is taken for one about the
    groups of the same names.

    Parameters
    ----------
    adata
        The cells.
    name
        Of the result.
    stored
        Its groups, in the order of their numbers.
    clusters
        [n] the groups of now.
    left_out
        Groups that the result was never about.
    """
    names = [str(group) for group in stored]
    now = [str(group) for group in clusters.categories]
    free = {UNASSIGNED, *map(str, left_out)}
    if name not in adata.obsm:
        present = [now[code] for code in np.unique(clusters.codes[clusters.codes >= 0])]
        same = {group: group for group in names if group in present}
        return Tie(same, [group for group in present if group not in same and group not in free])
    before = np.asarray(adata.obsm[name]).ravel().astype(int)
    table = crossed(before + 1, clusters.codes, len(names) + 1, len(now))
    table[:, [group == UNASSIGNED for group in now]] = 0  # cells that are left out since
    alone = (table > 0).sum(axis=0) == 1
    whole = (table > 0).sum(axis=1) == 1
    found = {
        group: now[table[i + 1].argmax()]
        for i, group in enumerate(names)
        if whole[i + 1] and alone[table[i + 1].argmax()]
    }
    about = table[1:].any(axis=0)
    fit = set(found.values())
    return Tie(found, [group for j, group in enumerate(now) if about[j] and group not in fit])


def markers_tied(adata: AnnData, key: str, clusters: pd.Categorical) -> Tie:
    """Find the groups that :func:`markers` compared among those of now [n]."""
    record = adata.uns[f"{key}_markers"]
    params = record["params"]
    # earlier versions had no other names than those of the fields
    stored = params.get("groups", record["names"].dtype.names)
    left_out = np.atleast_1d(params.get("left_out", []))
    return tied(adata, f"{key}_markers", stored, clusters, left_out=left_out)


def crossed(one: np.ndarray, other: np.ndarray, k: int, m: int) -> np.ndarray:
    """Return how many cells [k, m] are in each pair of groups; negative numbers are none."""
    both = (one >= 0) & (other >= 0)
    return np.bincount(one[both] * m + other[both], minlength=k * m).reshape(k, m)


class Origin(NamedTuple):
    """The groups of now beside the clusters of the fit, which soft assignments tell."""

    names: list[str]
    """[k] what the cluster of each column is called: by its number, unless it was renamed."""
    own: pd.Categorical
    """[n] the group of each cell; of one that is unassigned, the likeliest, if that is known."""
    kept: bool
    """Whether the groups are the clusters, renamed perhaps."""
    joined: bool
    """Whether some of them are several clusters."""


def origin(clusters: pd.Categorical, proba: np.ndarray | None, params: Mapping[str, Any]) -> Origin:
    """Find the clusters of a fit among the groups of now.

    Parameters
    ----------
    clusters
        [n] the groups of now.
    proba
        [n, k] soft assignments; None if they are lost, which tells nothing.
    params
        Of the clustering.
    """
    now = [str(group) for group in clusters.categories]
    if proba is None:
        names = [group for group in now if group != UNASSIGNED]
        return Origin(names, clusters, kept=True, joined=False)
    proba = np.asarray(proba)
    k, restriction = proba.shape[1], restriction_of(params)
    above = "" if restriction is None else f"{'-'.join(restriction[1])},"
    usual = [f"{above}{i}" for i in range(k)]
    embedded = np.isfinite(proba).all(axis=1)
    assigned = embedded & (clusters.codes >= 0) & np.asarray(clusters != UNASSIGNED)
    best = np.where(embedded, np.where(embedded[:, None], proba, 0).argmax(axis=1), -1)
    table = crossed(np.where(assigned, best, -1), clusters.codes, k, len(now))
    # a cluster without a cell that is assigned keeps its name, if no other has taken it
    group_of = np.where(table.any(axis=1), table.argmax(axis=1), -1)
    names = [
        now[j] if j >= 0 else name if name not in now else f"{name} of the fit"
        for name, j in zip(usual, group_of, strict=True)
    ]
    # of equal largest entries, any may be that of the cell's cluster
    largest = proba[assigned] == proba[assigned].max(axis=1, keepdims=True)
    right = largest & (group_of == clusters.codes[assigned][:, None])
    if not right.any(axis=1).all():
        return Origin(usual, clusters, kept=False, joined=False)
    own = clusters.astype(object)
    left = embedded & np.asarray(clusters == UNASSIGNED)
    own[left] = np.array(names, dtype=object)[best[left]]
    order = [*now, *(name for name in names if name not in now)]
    categories = pd.Categorical(own, order).remove_unused_categories()
    joined = len(set(names)) < k
    return Origin(usual if joined else names, categories, kept=not joined, joined=joined)


def stored_restriction(column: object, groups: Sequence[object]) -> dict[str, Any]:
    """Return what ``params["restrict_to"]`` holds of a column and groups in it.

    The groups under the name of the column; both by name, if no file can store that as a key.
    """
    names = np.array([str(group) for group in groups])
    if is_storable(column):
        return {str(column): names}
    return {"column": str(column), "groups": names}


def restriction_of(params: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """Return the column and the groups in it that a clustering was restricted to, if it was."""
    stored = params.get("restrict_to")
    if stored is None:
        return None
    if set(stored) == {"column", "groups"}:
        column, groups = stored["column"], stored["groups"]
    else:
        ((column, groups),) = stored.items()
    return str(column), [str(group) for group in groups]
