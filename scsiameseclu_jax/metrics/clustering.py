"""Scores of a clustering against known cell types.

Normalised mutual information and the Rand indices are scikit-learn's.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["accuracy", "macro_f1", "rare_type_recall", "scores"]


def accuracy(labels: Iterable[Any], clusters: Iterable[Any]) -> float:
    """Share of cells in the cluster that stands for their type.

    Clusters and types are matched one to one such that this share is largest. Where their numbers
    differ, the cells of the surplus clusters, or types, count as wrong.

    Parameters
    ----------
    labels
        ``[n]``: the known type of each cell; names or integers.
    clusters
        ``[n]``: the cluster of each cell, in the same order; names or integers.

    Returns
    -------
    A fraction in [0, 1].

    Raises
    ------
    ValueError
        If the two differ in length, are empty, are not one-dimensional or hold missing values.

    References
    ----------
    Kuhn, H. W. (1955). The Hungarian method for the assignment problem. Naval Research Logistics
    Quarterly 2, 83-97. Also ACC in the paper's Table 1.

    Examples
    --------
    >>> accuracy(["B", "B", "T", "T"], [1, 1, 0, 1])
    0.75
    """
    table = _contingency(labels, clusters)
    return float(_matched(table)[0].sum() / table.sum())


def macro_f1(labels: Iterable[Any], clusters: Iterable[Any]) -> float:
    """Mean over types of the F1 score of the cluster matched to each.

    The matching is that of :func:`accuracy`. Every type has the same weight, whatever its size; a
    type that no cluster is matched to scores 0.

    Parameters
    ----------
    labels
        ``[n]``: the known type of each cell; names or integers.
    clusters
        ``[n]``: the cluster of each cell, in the same order; names or integers.

    Returns
    -------
    A fraction in [0, 1].

    Raises
    ------
    ValueError
        If the two differ in length, are empty, are not one-dimensional or hold missing values.

    References
    ----------
    van Rijsbergen, C. J. (1979). Information Retrieval, 2nd edition, for the F measure.

    Examples
    --------
    >>> round(macro_f1(["B", "B", "T", "T"], [1, 1, 0, 1]), 4)
    0.7333
    """
    table = _contingency(labels, clusters)
    hits, cluster_size = _matched(table)
    return float(np.mean(2 * hits / (table.sum(axis=1) + cluster_size)))


def rare_type_recall(
    labels: Iterable[Any], clusters: Iterable[Any], *, max_fraction: float = 0.03
) -> float:
    """Mean recall of the rare types.

    The matching is that of :func:`accuracy`; the recall of a type is the share of its cells that
    are in the cluster matched to it. Scores dominated by large types hide whether small ones were
    found at all.

    Parameters
    ----------
    labels
        ``[n]``: the known type of each cell; names or integers.
    clusters
        ``[n]``: the cluster of each cell, in the same order; names or integers.
    max_fraction
        A type is rare if it holds at most this share of the cells; in (0, 1].

    Returns
    -------
    A fraction in [0, 1]; nan if no type is rare.

    Raises
    ------
    ValueError
        If the two differ in length, are empty, are not one-dimensional or hold missing values, or
        if `max_fraction` is out of range.

    Examples
    --------
    >>> labels = ["B"] * 50 + ["T"] * 48 + ["dendritic"] * 2
    >>> clusters = [0] * 50 + [1] * 48 + [2, 1]
    >>> rare_type_recall(labels, clusters)
    0.5
    """
    if not 0 < max_fraction <= 1:
        msg = f"Expected `max_fraction` to be in (0, 1], found {max_fraction}."
        raise ValueError(msg)
    table = _contingency(labels, clusters)
    type_size = table.sum(axis=1)
    rare = type_size <= np.floor(max_fraction * table.sum() + 1e-9)  # 0.29 * 100 is 28.999...
    if not rare.any():
        return float("nan")
    hits, _ = _matched(table)
    return float(np.mean(hits[rare] / type_size[rare]))


def scores(labels: Iterable[Any], clusters: Iterable[Any]) -> dict[str, float]:
    """Compute the usual clustering scores in one call.

    Parameters
    ----------
    labels
        ``[n]``: the known type of each cell; names or integers.
    clusters
        ``[n]``: the cluster of each cell, in the same order; names or integers.

    Returns
    -------
    Fractions, 1 being a perfect clustering: ``ACC`` (:func:`accuracy`), ``NMI`` (normalised mutual
    information, arithmetic mean), ``ARI`` (adjusted Rand index), ``AMI`` (adjusted mutual
    information) and ``macro_f1`` (:func:`macro_f1`). The adjusted two are 0 on average for a random
    partition, so they can fall a little below 0.

    Raises
    ------
    ValueError
        If the two differ in length, are empty, are not one-dimensional or hold missing values.

    References
    ----------
    Hubert, L. and Arabie, P. (1985). Comparing partitions. Journal of Classification 2, 193-218.
    Vinh, N. X., Epps, J. and Bailey, J. (2010). Information theoretic measures for clusterings
    comparison. Journal of Machine Learning Research 11, 2837-2854.

    Examples
    --------
    >>> result = scores(["B", "B", "T", "T"], [1, 1, 0, 1])
    >>> {name: round(value, 2) for name, value in result.items()}
    {'ACC': 0.75, 'NMI': 0.34, 'ARI': 0.0, 'AMI': 0.0, 'macro_f1': 0.73}
    """
    from sklearn import metrics

    labels, clusters = _codes(labels, "labels"), _codes(clusters, "clusters")
    return {
        "ACC": accuracy(labels, clusters),
        "NMI": float(metrics.normalized_mutual_info_score(labels, clusters)),
        "ARI": float(metrics.adjusted_rand_score(labels, clusters)),
        "AMI": float(metrics.adjusted_mutual_info_score(labels, clusters)),
        "macro_f1": macro_f1(labels, clusters),
    }


def _codes(values: Iterable[Any], name: str) -> np.ndarray:
    """Return ``[n]``: integer codes from 0 of one-dimensional `values` without missing ones."""
    # A list goes in as it is: numpy would turn the nan of ["B", nan] into the word "nan".
    array = np.asarray(values) if hasattr(values, "__array__") else values
    if np.ndim(array) > 1:
        msg = f"Expected `{name}` to be one-dimensional, found the shape {np.shape(array)}."
        raise ValueError(msg)
    codes, _ = pd.factorize(pd.Series(array, dtype=object))
    n_missing = int(np.sum(codes < 0))
    if n_missing:
        msg = (
            f"Expected `{name}` without missing values, found {n_missing} among {len(codes)} "
            "cells. Drop these cells from labels and clusters alike."
        )
        raise ValueError(msg)
    return codes


def _contingency(labels: Iterable[Any], clusters: Iterable[Any]) -> np.ndarray:
    """Return ``[types, clusters]``: the number of cells of each type in each cluster."""
    type_codes, cluster_codes = _codes(labels, "labels"), _codes(clusters, "clusters")
    if len(type_codes) != len(cluster_codes):
        msg = (
            "Expected `labels` and `clusters` to be of equal length, "
            f"found {len(type_codes)} and {len(cluster_codes)}."
        )
        raise ValueError(msg)
    if not len(type_codes):
        msg = "Expected `labels` and `clusters` of at least one cell, found none."
        raise ValueError(msg)
    table = np.zeros((type_codes.max() + 1, cluster_codes.max() + 1), dtype=np.int64)
    np.add.at(table, (type_codes, cluster_codes), 1)
    return table


def _matched(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each type, its cells in the cluster matched to it, and that cluster's size.

    Both are 0 for a type that is matched to no cluster.
    """
    from scipy.optimize import linear_sum_assignment

    types, clusters = linear_sum_assignment(table, maximize=True)
    hits = np.zeros(len(table), dtype=np.int64)
    cluster_size = np.zeros(len(table), dtype=np.int64)
    hits[types] = table[types, clusters]
    cluster_size[types] = table.sum(axis=0)[clusters]
    return hits, cluster_size
