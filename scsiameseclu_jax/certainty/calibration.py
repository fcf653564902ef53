"""Confidence: the chance that another plausible fit puts a cell into the same cluster.

A soft assignment says how near a cell is to its cluster, not whether the cluster would be found
again. That is seen from where cells went otherwise: in the candidates that voted for the first
partition, and in refits, if there are any.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_BINS = 10
_CELLS = 20_000  # more do not change two numbers for each cluster
_EM_STEPS = 30
_LEAST = 1e-3  # probability of going to another cluster that EM starts from
_TINY = 1e-12


class Calibration(NamedTuple):
    """What turns soft assignments into the chance of agreement."""

    temperature: float
    """What the logarithms of soft assignments are divided by."""
    transitions: np.ndarray
    """[k, k] where a cell that is sure of its cluster goes: the probability of each."""


def calibrate(proba: np.ndarray, went: np.ndarray) -> Calibration:
    """Learn from where cells went how sure soft assignments are.

    The probability of each cluster is modelled as ``softmax(log q / t) M``: soft assignments q,
    sharpened or softened by the temperature t, and M, how whole clusters move. Both maximise the
    likelihood: t by search, M by EM.

    Parameters
    ----------
    proba
        [n, k] soft assignments.
    went
        [n, k] how often each cell went to each cluster, or shares of that.
    """
    from scipy.optimize import minimize_scalar

    n, k = proba.shape
    rows = np.sort(np.random.default_rng(0).permutation(n)[:_CELLS])
    proba, went = proba[rows], went[rows].astype(np.float64)
    moved = np.eye(k)[proba.argmax(axis=1)].T @ went
    start = _normalised(moved) + _LEAST

    def transitions(soft: np.ndarray) -> np.ndarray:
        moves = start
        for _ in range(_EM_STEPS):
            moves = _normalised(moves * (soft.T @ (went / (soft @ moves + _TINY))))
        return moves

    def loss(log_temperature: float) -> float:
        soft = _tempered(proba, np.exp(log_temperature))
        return -float((went * np.log(soft @ transitions(soft) + _TINY)).sum() / len(rows))

    best = minimize_scalar(loss, bounds=(-3.0, 4.0), method="bounded", options={"xatol": 0.01})
    temperature = float(np.exp(best.x))
    return Calibration(temperature, transitions(_tempered(proba, temperature)))


def confidence(calibration: Calibration | None, proba: np.ndarray) -> np.ndarray:
    """Return the chance [n] that the largest of each row of [n, k] is found again, float32.

    Without a calibration it is the largest itself.
    """
    if calibration is None:
        return proba.max(axis=1)
    stated = _tempered(proba, calibration.temperature) @ calibration.transitions
    return stated[np.arange(len(proba)), proba.argmax(axis=1)].astype(np.float32)


def expected_error(stated: np.ndarray, agrees: np.ndarray) -> float:
    """Return the expected calibration error of confidences in ten bins of equal width.

    References
    ----------
    Guo et al., ICML 2017.
    """
    bins = np.minimum((stated * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, stated - agrees, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(stated))


def _tempered(proba: np.ndarray, temperature: float) -> np.ndarray:
    logits = np.log(np.maximum(proba.astype(np.float64), 1e-30)) / temperature
    tempered = np.exp(logits - logits.max(axis=1, keepdims=True))
    return tempered / tempered.sum(axis=1, keepdims=True)


def _normalised(rows: np.ndarray) -> np.ndarray:
    """Return rows that sum to 1; where there is nothing, all alike."""
    return (rows + _TINY) / (rows + _TINY).sum(axis=1, keepdims=True)
