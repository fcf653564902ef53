"""Scores of predicted cell types against known ones.

A cell that was left ``"Unassigned"`` is never right: it lowers accuracy and recall, not precision.
Coverage says how many cells were assigned. The scores themselves are scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scsiameseclu_jax.checks import check_column

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["classification_report", "classification_scores", "confusion", "rejection_curve"]

_UNASSIGNED = "Unassigned"


def classification_scores(
    labels: Iterable[Any], predicted: Iterable[Any], *, unassigned: str = _UNASSIGNED
) -> dict[str, float]:
    """Compute the usual scores of predicted types in one call.

    Parameters
    ----------
    labels
        ``[n]``: the known type of each cell; names or integers.
    predicted
        ``[n]``: the predicted type of each cell, in the same order, or `unassigned`.
    unassigned
        What stands for no type in `predicted`.

    Returns
    -------
    Fractions, 1 being perfect:

    ``accuracy``, ``assigned_accuracy``, ``coverage``
        Share of all cells whose type is right; of the assigned cells (nan if there are none); and
        the share that is assigned.
    ``balanced_accuracy``
        Mean recall of the types.
    ``macro_f1``, ``weighted_f1``, ``median_f1``
        F1 over the types in `labels`: mean, mean weighted by size, median. A predicted type that no
        cell is of has no F1 of its own; its cells count as missed.
    ``kappa``
        Cohen's: agreement beyond chance, 0 by chance; nan if there is one type only.

    Raises
    ------
    ValueError
        If the two differ in length, are empty, are not one-dimensional or hold missing values; if
        `labels` has cells that are `unassigned`.

    References
    ----------
    Cohen, J. (1960). A coefficient of agreement for nominal scales. Educational and Psychological
    Measurement 20, 37-46. Abdelaal, T. et al. (2019). A comparison of automatic cell identification
    methods for single-cell RNA sequencing data. Genome Biology 20, 194, for the median F1.

    Examples
    --------
    >>> result = classification_scores(["B", "B", "T", "T"], ["B", "T", "T", "Unassigned"])
    >>> {name: round(value, 2) for name, value in list(result.items())[:4]}
    {'accuracy': 0.5, 'assigned_accuracy': 0.67, 'coverage': 0.75, 'balanced_accuracy': 0.5}
    """
    from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score

    truth, prediction = _pair(labels, predicted, unassigned)
    types, sizes = np.unique(truth, return_counts=True)
    assigned = prediction != unassigned
    each = f1_score(truth, prediction, labels=types, average=None, zero_division=0)
    several = len(np.unique(np.concatenate([truth, prediction]))) > 1
    return {
        "accuracy": float(accuracy_score(truth, prediction)),
        "assigned_accuracy": _share(truth[assigned] == prediction[assigned]),
        "coverage": float(assigned.mean()),
        "balanced_accuracy": float(_recall(truth, prediction, types).mean()),
        "macro_f1": float(each.mean()),
        "weighted_f1": float(np.average(each, weights=sizes)),
        "median_f1": float(np.median(each)),
        "kappa": float(cohen_kappa_score(truth, prediction)) if several else float("nan"),
    }


def classification_report(
    adata: AnnData, labels: str, predicted: str, *, unassigned: str = _UNASSIGNED
) -> pd.DataFrame:
    """Score each type by itself.

    Parameters
    ----------
    adata
        With both columns in ``obs``; cells without a known type are left out.
    labels
        Column of the known types.
    predicted
        Column of the predicted types, for example ``"classified"``.
    unassigned
        What stands for no type in `predicted`.

    Returns
    -------
    A row for each known type, sorted: ``n`` cells, ``precision`` (0 where nothing was predicted to
    be of it), ``recall``, ``f1``, and ``unassigned``, the share of its cells that is left so.

    Raises
    ------
    KeyError
        If ``obs`` has no such column.
    ValueError
        As in :func:`classification_scores`.
    """
    from sklearn.metrics import precision_recall_fscore_support

    check_column("labels", labels, adata)
    check_column("predicted", predicted, adata)
    known = adata.obs[labels].notna().to_numpy()
    truth, prediction = _pair(adata.obs[labels][known], adata.obs[predicted][known], unassigned)
    types = np.unique(truth)
    precision, recall, f1, n = precision_recall_fscore_support(
        truth, prediction, labels=types, average=None, zero_division=0
    )
    left = [float(np.mean(prediction[truth == name] == unassigned)) for name in types]
    scores = {"n": n, "precision": precision, "recall": recall, "f1": f1, "unassigned": left}
    return pd.DataFrame(scores, index=pd.Index(types.astype(object), name="type"))


def confusion(
    labels: Iterable[Any], predicted: Iterable[Any], *, unassigned: str = _UNASSIGNED
) -> pd.DataFrame:
    """Count the cells of each known type by what they were predicted to be.

    Parameters
    ----------
    labels, predicted, unassigned
        As in :func:`classification_scores`.

    Returns
    -------
    Known types by predicted types: first the known ones, sorted alike, then predicted types that no
    cell is of, and last `unassigned`.

    Raises
    ------
    ValueError
        As in :func:`classification_scores`.

    Examples
    --------
    >>> confusion(["B", "B", "T"], ["B", "Unassigned", "NK"]).to_numpy().tolist()
    [[1, 0, 0, 1], [0, 0, 1, 0]]
    """
    truth, prediction = _pair(labels, predicted, unassigned)
    types = sorted(set(truth))
    others = sorted(set(prediction) - set(types) - {unassigned})
    table = pd.crosstab(truth, prediction).reindex(
        index=types, columns=[*types, *others, unassigned], fill_value=0
    )
    return table.rename_axis(index="type", columns="predicted")


def rejection_curve(
    labels: Iterable[Any],
    predicted: Iterable[Any],
    confidence: Iterable[float],
    *,
    unassigned: str = _UNASSIGNED,
) -> pd.DataFrame:
    """Tell how accuracy grows as less confident cells are left unassigned.

    Parameters
    ----------
    labels, predicted, unassigned
        As in :func:`classification_scores`.
    confidence
        ``[n]``: how sure each prediction is; the larger the surer.

    Returns
    -------
    A row for each confidence, ascending: ``threshold``, ``coverage`` (share of all cells at least
    as confident, and assigned) and ``accuracy`` (of those). Cells that are unassigned already stay
    so; without any other cell there is no row.

    Raises
    ------
    ValueError
        As in :func:`classification_scores`; if `confidence` differs in length or is missing.

    Examples
    --------
    >>> curve = rejection_curve(["B", "B", "T", "T"], ["B", "T", "T", "T"], [0.9, 0.4, 0.8, 0.9])
    >>> curve.round(2).to_numpy().tolist()
    [[0.4, 1.0, 0.75], [0.8, 0.75, 1.0], [0.9, 0.5, 1.0]]
    """
    truth, prediction = _pair(labels, predicted, unassigned)
    sure = np.asarray(list(confidence), np.float64)
    if sure.shape != truth.shape or np.isnan(sure).any():
        msg = (
            f"Expected `confidence` as a number for each of {len(truth)} cells, found the shape "
            f"{sure.shape} and {int(np.isnan(sure).sum())} missing values."
        )
        raise ValueError(msg)
    assigned = prediction != unassigned
    right = (truth == prediction)[assigned]
    thresholds, place = np.unique(sure[assigned], return_inverse=True)
    cells, hits = (
        np.cumsum(np.bincount(place, weights, minlength=len(thresholds))[::-1])[::-1]
        for weights in (np.ones(len(right)), right.astype(float))
    )
    table = {"threshold": thresholds, "coverage": cells / len(truth), "accuracy": hits / cells}
    return pd.DataFrame(table)


def _recall(truth: np.ndarray, prediction: np.ndarray, types: np.ndarray) -> np.ndarray:
    from sklearn.metrics import recall_score

    return recall_score(truth, prediction, labels=types, average=None, zero_division=0)


def _share(right: np.ndarray) -> float:
    return float(right.mean()) if len(right) else float("nan")


def _pair(
    labels: Iterable[Any], predicted: Iterable[Any], unassigned: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return both [n] as strings, after checks."""
    truth, prediction = _names(labels, "labels"), _names(predicted, "predicted")
    if len(truth) != len(prediction):
        msg = (
            "Expected `labels` and `predicted` to be of equal length, "
            f"found {len(truth)} and {len(prediction)}."
        )
        raise ValueError(msg)
    if not len(truth):
        msg = "Expected `labels` and `predicted` of at least one cell, found none."
        raise ValueError(msg)
    n = int(np.sum(truth == unassigned))
    if n:
        msg = (
            f"Expected a known type for every cell in `labels`, found {n} {unassigned!r}; leave "
            "them out, or name another word in `unassigned`."
        )
        raise ValueError(msg)
    return truth, prediction


def _names(values: Iterable[Any], name: str) -> np.ndarray:
    # A list goes in as it is: numpy would turn the nan of ["B", nan] into the word "nan".
    array = np.asarray(values) if hasattr(values, "__array__") else list(values)
    if np.ndim(array) > 1:
        msg = f"Expected `{name}` to be one-dimensional, found the shape {np.shape(array)}."
        raise ValueError(msg)
    series = pd.Series(array, dtype=object)
    n_missing = int(series.isna().sum())
    if n_missing:
        msg = (
            f"Expected `{name}` without missing values, found {n_missing} among {len(series)} "
            "cells. Drop these cells from labels and predictions alike."
        )
        raise ValueError(msg)
    return series.astype(str).to_numpy(dtype=object)
