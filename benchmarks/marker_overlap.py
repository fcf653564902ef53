"""Clusters named after known types: by their cells, and by their marker genes.

The protocol of the paper's downstream comparison. Both need the labels, so they score clusters;
they do not annotate cells of unknown type.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

__all__ = ["best_mapping", "mapped_accuracy", "marker_overlap", "overlap_mapping"]


def marker_overlap(
    markers: Mapping[str, Sequence[str]] | np.ndarray,
    gold: Mapping[str, Sequence[str]] | np.ndarray,
    *,
    n_genes: int = 100,
) -> pd.DataFrame:
    """Share of the top genes of each cluster that are top genes of each type.

    Parameters
    ----------
    markers
        Genes of each cluster, the best first: a mapping, or an array with a field for each, such
        as ``uns["siameseclu_markers"]["names"]`` of :func:`scsiameseclu_jax.tl.markers`.
    gold
        Genes of each type, in the same form. The paper's lists are of scanpy's default settings:
        ``tl.markers(adata, "cell_type", method="t-test")``.
    n_genes
        How many of each list count.

    Returns
    -------
    Clusters x types: genes in both lists over `n_genes`, 0 to 1.

    Raises
    ------
    ValueError
        If there are no lists or `n_genes` is not positive.

    References
    ----------
    Xu, P. et al. (2025). scCluBench: comprehensive benchmarking of clustering algorithms for
    single-cell RNA sequencing. arXiv 2512.02471, marker-overlap annotation.

    Examples
    --------
    >>> found = {"0": ["CD3D", "IL7R"], "1": ["MS4A1", "CD79A"]}
    >>> known = {"B": ["CD79A", "CD79B"], "T": ["CD3D", "IL7R"]}
    >>> marker_overlap(found, known, n_genes=2)
         B    T
    0  0.0  1.0
    1  0.5  0.0
    """
    if n_genes < 1:
        msg = f"Expected `n_genes` to be at least 1, found {n_genes}."
        raise ValueError(msg)
    tops, golds = _tops(markers, n_genes, "markers"), _tops(gold, n_genes, "gold")
    shared = [[len(top & own) / n_genes for own in golds.values()] for top in tops.values()]
    return pd.DataFrame(shared, index=list(tops), columns=list(golds))


def overlap_mapping(overlap: pd.DataFrame) -> dict[str, str]:
    """Give each cluster the type whose marker genes it shares most (many to one).

    Parameters
    ----------
    overlap
        Clusters x types, see :func:`marker_overlap`.

    Returns
    -------
    Type of each cluster, the first of equals; clusters that share no gene with any are left out.

    Examples
    --------
    >>> overlap = pd.DataFrame({"B": [0.0, 0.5], "T": [1.0, 0.0]}, index=["0", "1"])
    >>> overlap_mapping(overlap)
    {'0': 'T', '1': 'B'}
    """
    best = overlap.columns[overlap.to_numpy().argmax(axis=1)]
    most = overlap.to_numpy().max(axis=1)
    return {
        str(cluster): str(kind)
        for cluster, kind, share in zip(overlap.index, best, most, strict=True)
        if share > 0
    }


def best_mapping(labels: Iterable[Any], clusters: Iterable[Any]) -> dict[str, str]:
    """Match clusters and types one to one such that most cells agree.

    Parameters
    ----------
    labels
        ``[n]``: the known type of each cell; names or integers.
    clusters
        ``[n]``: the cluster of each cell, in the same order; names or integers.

    Returns
    -------
    Type of each matched cluster; surplus clusters are left out.

    Raises
    ------
    ValueError
        If the two differ in length, are empty or hold missing values.

    References
    ----------
    Kuhn, H. W. (1955). The Hungarian method for the assignment problem. Naval Research Logistics
    Quarterly 2, 83-97.

    Examples
    --------
    >>> best_mapping(["B", "B", "T", "T"], [1, 1, 0, 1])
    {'0': 'T', '1': 'B'}
    """
    types, found = _names(labels, "labels"), _names(clusters, "clusters")
    _check_lengths(types, found)
    table = pd.crosstab(found, types)
    rows, columns = linear_sum_assignment(table.to_numpy(), maximize=True)
    return {str(table.index[i]): str(table.columns[j]) for i, j in zip(rows, columns, strict=True)}


def mapped_accuracy(
    labels: Iterable[Any], clusters: Iterable[Any], mapping: Mapping[str, str]
) -> float:
    """Share of cells whose cluster is mapped to their type.

    Parameters
    ----------
    labels
        ``[n]``: the known type of each cell; names or integers.
    clusters
        ``[n]``: the cluster of each cell, in the same order; names or integers.
    mapping
        Type of each cluster, see :func:`best_mapping` and :func:`overlap_mapping`; cells of other
        clusters count as wrong.

    Returns
    -------
    A fraction in [0, 1].

    Raises
    ------
    ValueError
        If the two differ in length, are empty or hold missing values.

    Examples
    --------
    >>> mapped_accuracy(["B", "B", "T", "T"], [1, 1, 0, 1], {"0": "T", "1": "B"})
    0.75
    """
    types, found = _names(labels, "labels"), _names(clusters, "clusters")
    _check_lengths(types, found)
    hits = [mapping.get(name) == kind for name, kind in zip(found, types, strict=True)]
    return float(np.mean(hits))


def _tops(lists: Any, n_genes: int, name: str) -> dict[str, set[str]]:
    keys = list(lists) if isinstance(lists, Mapping) else np.asarray(lists).dtype.names
    if not keys:
        msg = f"Expected `{name}` to be genes of clusters or types, found none."
        raise ValueError(msg)
    return {str(key): set(map(str, lists[key][:n_genes])) for key in keys}


def _names(values: Iterable[Any], name: str) -> np.ndarray:
    series = pd.Series(list(values), dtype=object)
    if series.isna().any():
        msg = (
            f"Expected `{name}` without missing values, found {int(series.isna().sum())}. Drop "
            "these cells from labels and clusters alike."
        )
        raise ValueError(msg)
    return series.astype(str).to_numpy(object)


def _check_lengths(types: np.ndarray, found: np.ndarray) -> None:
    if len(types) != len(found) or not len(types):
        msg = (
            "Expected `labels` and `clusters` of equal length and at least one cell, found "
            f"{len(types)} and {len(found)}."
        )
        raise ValueError(msg)
