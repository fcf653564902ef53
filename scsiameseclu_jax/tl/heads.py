"""From cells of known type to the types of others, on features that were made without labels.

Labels enter here. The head is scikit-learn's; what is added is its calibration on cells that it was
fitted without, a correction of what shifts all new cells alike, and how far a cell is from all
known ones.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, Self

import numpy as np
from scipy.special import softmax

from scsiameseclu_jax.certainty.stability import expected_error
from scsiameseclu_jax.checks import check_column, names_in
from scsiameseclu_jax.preprocessing.neighbors import nearest_neighbors, unit_rows

if TYPE_CHECKING:
    from anndata import AnnData

Method = Literal["logistic", "knn", "prototype"]
METHODS = ("logistic", "knn", "prototype")

_NEIGHBORS = 15
_POOL = 10  # similar new cells that share their novelty
_POOLED_CELLS = 50  # fewer new cells are judged one by one
_SHIFT_STEPS = 5
_LEAST_PROBA = 1e-4  # no type is impossible


class Head(Protocol):
    """What a classifier can do."""

    classes_: np.ndarray

    def fit(self, features: np.ndarray, types: np.ndarray) -> Self:
        """Learn the types [n] of features [n, p]."""

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Return the probability [m, t] of each type."""


class Predictions(NamedTuple):
    """Types of all cells, known or predicted."""

    types: np.ndarray
    """[t] names of the types, sorted."""
    proba: np.ndarray
    """[n, t] calibrated probability of each; for a cell of known type, by a head fitted without
    it. NaN for the only cell of its type."""
    moved: np.ndarray
    """[n, p] features, those of the cells to be predicted less the shift."""
    temperature: float
    """What calibrates: above 1, the head by itself is too sure."""
    calibration_error: float
    """Expected error of the confidence in left-out cells."""


def known_types(adata: AnnData, labels_key: str, unlabeled: str) -> np.ndarray:
    """Return the type [n] of each cell, None where it is missing, empty or called `unlabeled`.

    Raises
    ------
    KeyError
        If ``obs`` has no such column.
    ValueError
        If there are fewer than two types, or one is called ``"Unassigned"``.
    """
    check_column("labels_key", labels_key, adata)
    names = names_in(adata.obs[labels_key], f"A type of obs[{labels_key!r}]")
    names[np.isin(names, ["", unlabeled])] = None
    types = sorted({name for name in names if name is not None})
    if len(types) < 2 or "Unassigned" in types:
        msg = (
            f"Expected two types or more in obs[{labels_key!r}], none of them 'Unassigned', found "
            f"{types}; cells without a type are missing, empty or {unlabeled!r} there."
        )
        raise ValueError(msg)
    return names


def check_method(method: str) -> None:
    """Check the name of a head.

    Raises
    ------
    ValueError
        If there is no such head.
    """
    if method not in METHODS:
        msg = f"Expected `method` to be one of {METHODS}, found {method!r}."
        raise ValueError(msg)


def features_of(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Join representations [n, p] of the same cells, so that each has the same say.

    Rows have length 1 in each, so that deeply sequenced cells do not stand out; then columns have
    mean 0, and all values together variance 1.
    """
    columns = []
    for block in blocks:
        x = unit_rows(np.asarray(block, np.float64))
        x = x - x.mean(axis=0)
        columns.append(x / (x.std() or 1.0))
    return np.concatenate(columns, axis=1)


def predict_types(
    features: np.ndarray,
    known: np.ndarray,
    *,
    method: Method,
    strength: float,
    shifted: bool,
    n_folds: int,
    seed: int,
) -> Predictions:
    """Predict the types of the cells that have none.

    Parameters
    ----------
    features
        [n, p], made without labels.
    known
        [n] type of each cell, or None.
    method
        Which head.
    strength
        ``C`` of the logistic head: the smaller, the simpler.
    shifted
        Whether the cells without a type are of other experiments. If so, what shifts all of them
        alike is taken away: what sets most of them apart from known cells of the types that they
        seem to be of.
    n_folds
        How many parts the known cells are split into, to measure and calibrate the head.
    seed
        Of that split.
    """
    rows = np.flatnonzero([name is not None for name in known])
    truth = known[rows].astype(str)
    types, codes = np.unique(truth, return_inverse=True)
    head = functools.partial(_head, method, strength, len(rows))
    left_out = np.full((len(rows), len(types)), np.nan)
    fold = _folds(codes, n_folds, seed)
    for i in range(n_folds):
        rest, out = fold != i, fold == i
        if out.any():
            without = head().fit(features[rows[rest]], codes[rest])
            left_out[out] = without.predict_proba(features[rows[out]])
    tested = fold >= 0
    temperature = _temperature(left_out[tested], codes[tested])
    whole = head().fit(features[rows], codes)
    others = np.setdiff1d(np.arange(len(features)), rows)
    moved = features.copy()
    if shifted and len(others):
        means = _means(features[rows], codes)
        moved[others] -= _shift(features[others], whole, means, temperature)
    proba = np.full((len(features), len(types)), np.nan)
    proba[rows] = _tempered(left_out, temperature)
    if len(others):
        proba[others] = _tempered(whole.predict_proba(moved[others]), temperature)
    stated = _tempered(left_out[tested], temperature)
    return Predictions(
        types=types.astype(object),
        proba=proba,
        moved=moved,
        temperature=temperature,
        calibration_error=_error(stated, codes[tested]),
    )


def novelty(features: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the share [m] of the known cells that are less far from known cells than each other.

    Far is the mean distance to the 15 nearest. From 50 cells on, each shares it with the 10 that
    are most similar, known cells with known ones: a type that no known cell is of comes with many
    cells, each of which may be a little odd only.

    Parameters
    ----------
    features
        [n, p] features, after the shift was taken away.
    known
        [n] whether the type of a cell is known.
    """
    from sklearn.neighbors import NearestNeighbors

    reference, others = features[known], features[~known]
    if not len(others):
        return np.zeros(0)
    search = NearestNeighbors(n_neighbors=min(_NEIGHBORS, len(reference) - 1)).fit(reference)
    # without a query, a cell is not its own neighbour
    expected, far = (search.kneighbors(x)[0].mean(axis=1) for x in (None, others))
    if min(len(reference), len(others)) >= _POOLED_CELLS:
        expected, far = _pooled(expected, reference), _pooled(far, others)
    return np.searchsorted(np.sort(expected), far) / len(expected)


class _Prototypes:
    """The nearest mean of a type, as if all types were spread alike around theirs.

    scikit-learn's ``NearestCentroid`` has probabilities from 1.6 on, of features that it scales.
    """

    def fit(self, features: np.ndarray, types: np.ndarray) -> Self:
        self.classes_, codes = np.unique(types, return_inverse=True)
        self._means = _means(features, codes)
        self._variance = float(((features - self._means[codes]) ** 2).mean()) or 1.0
        return self

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        closeness = features @ self._means.T - (self._means**2).sum(axis=1) / 2
        return softmax(closeness / self._variance, axis=1)


class _Votes:
    """The types of the nearest cells, by cosine; each type has half a vote more."""

    def __init__(self, n_neighbors: int) -> None:
        from sklearn.neighbors import KNeighborsClassifier

        self._n, self._search = n_neighbors, KNeighborsClassifier(n_neighbors, metric="cosine")

    def fit(self, features: np.ndarray, types: np.ndarray) -> Self:
        self.classes_ = self._search.fit(features, types).classes_
        return self

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        votes = self._n * self._search.predict_proba(features) + 0.5
        return votes / votes.sum(axis=1, keepdims=True)


def _means(features: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return the mean [t, p] of each type."""
    return np.array([features[codes == code].mean(axis=0) for code in range(codes.max() + 1)])


def _head(method: Method, strength: float, n: int) -> Head:
    from sklearn.linear_model import LogisticRegression

    if method == "prototype":
        return _Prototypes()
    if method == "knn":
        # A fold may leave a fifth of the cells out, or half of a handful.
        return _Votes(max(1, min(_NEIGHBORS, n // 2)))
    return LogisticRegression(C=strength, max_iter=1000)


def _folds(codes: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Return the fold [n] of each cell, stratified by type; -1 for the only cell of its type.

    So every type has cells outside of each fold. scikit-learn's ``StratifiedKFold`` shares cells
    out alike, but warns of types of fewer cells than folds, and refuses if all are so.
    """
    fold = np.empty(len(codes), int)
    shuffled = np.lexsort((np.random.default_rng(seed).random(len(codes)), codes))
    fold[shuffled] = np.arange(len(codes)) % n_folds
    fold[np.bincount(codes)[codes] == 1] = -1
    return fold


def _temperature(proba: np.ndarray, codes: np.ndarray) -> float:
    """Return the temperature at which left-out cells are most likely; 1 without any.

    References
    ----------
    Guo et al., ICML 2017.
    """
    from scipy.optimize import minimize_scalar

    if not len(codes):
        return 1.0

    def loss(log_temperature: float) -> float:
        stated = _tempered(proba, float(np.exp(log_temperature)))
        return -float(np.log(np.maximum(stated[np.arange(len(codes)), codes], 1e-12)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x))


def _tempered(proba: np.ndarray, temperature: float) -> np.ndarray:
    return softmax(np.log(np.maximum(proba, _LEAST_PROBA)) / temperature, axis=1)


def _shift(features: np.ndarray, head: Head, means: np.ndarray, temperature: float) -> np.ndarray:
    """Return what [p] sets cells apart from the means [t, p] of the types they seem to be of.

    It is the mean of the middle half of the cells, feature by feature. Unlike the difference of
    both means, it is not misled where there are other shares of the types, or a new one.
    """
    from scipy.stats import trim_mean

    shift = np.zeros(features.shape[1])
    for _ in range(_SHIFT_STEPS):
        proba = _tempered(head.predict_proba(features - shift), temperature)
        shift = trim_mean(features - proba @ means, 0.25, axis=0)
    return shift


def _error(stated: np.ndarray, codes: np.ndarray) -> float:
    if not len(codes):
        return float("nan")
    return expected_error(stated.max(axis=1), stated.argmax(axis=1) == codes)


def _pooled(values: np.ndarray, features: np.ndarray) -> np.ndarray:
    similar, cells = nearest_neighbors(features, _POOL)
    totals = np.bincount(cells, weights=values[similar], minlength=len(values))
    return (values + totals) / (1 + len(similar) / len(values))
