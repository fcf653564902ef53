"""How sure is a partition? Fits of parts of the cells, compared with the fit of all.

Which of the plausible candidates a fit starts from decides which groups are joined and split, and
other cells hardly change that. So each refit starts from another one: what differs between them is
what the data leave open.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np
from anndata import AnnData

from scsiameseclu_jax.cells import in_memory
from scsiameseclu_jax.config import Config
from scsiameseclu_jax.consensus import match, overlap
from scsiameseclu_jax.fitted import Predicted

logger = logging.getLogger(__name__)

_SHARE = 0.8  # of the cells that a refit sees
_TOGETHER = 0.5  # share of pairs of cells in one cluster, from which two clusters are as one
_BINS = 10
_EM_STEPS = 30
_TINY = 1e-12


class Stability(NamedTuple):
    """Agreement of a partition with refits, and what confidence follows from it."""

    agreement: np.ndarray
    """[n] share of the refits that put a cell into its own cluster, float32."""
    consensus: np.ndarray
    """[n] cluster that the fit and its refits put a cell into most often."""
    jaccard: np.ndarray
    """[k] mean over refits of each cluster's Jaccard index with its match; 0 if it has no cells."""
    together: np.ndarray
    """[k, k] share of pairs of cells, one of each cluster, that a refit puts together; 0 for a
    cluster without cells."""
    temperature: float
    """What the logarithms of soft assignments are divided by."""
    transitions: np.ndarray
    """[k, k] how refits move whole clusters: probability of each, for a cell sure of its own."""
    calibration_error: float
    """Expected calibration error of the confidence, against refits that it was not made from."""


class Model(Protocol):
    """What a refit has to offer."""

    @property
    def labels(self) -> np.ndarray:
        """[m] clusters of its cells."""
        ...

    def predict(self, adata: AnnData, *, layer: str | None) -> Predicted:
        """Cluster other cells."""
        ...


def refit(
    adata: AnnData,
    n_refits: int,
    fit: Callable[[AnnData, int], Model],
    *,
    layer: str | None,
    batch: np.ndarray | None = None,
    seed: int,
) -> np.ndarray:
    """Fit 80 % of the cells at a time and predict the others; return clusters [r, n].

    Parameters
    ----------
    adata
        Cells x genes.
    n_refits
        How many.
    fit
        Fits the cells it is given, with the seed it is given.
    layer
        Where the counts are.
    batch
        [n] batch of each cell, if there are several: at least 80 % of each are fitted.
    seed
        Of which cells are left out, and of the fits.
    """
    n = adata.n_obs
    found = np.empty((n_refits, n), int)
    for i in range(n_refits):
        rng = np.random.default_rng([seed, i])
        order = rng.permutation(n)
        kept = np.zeros(n, bool)
        if batch is None:
            kept[order[: round(_SHARE * n)]] = True
        else:
            for name in np.unique(batch):
                own = order[batch[order] == name]
                kept[own[: math.ceil(_SHARE * len(own))]] = True
        seen, unseen = np.flatnonzero(kept), np.flatnonzero(~kept)
        model = fit(in_memory(adata[seen]), int(rng.integers(2**31)))
        found[i, seen] = model.labels
        if len(unseen):
            found[i, unseen] = model.predict(in_memory(adata[unseen]), layer=layer).labels
        logger.info("refit %d of %d done", i + 1, n_refits)
    return found


def refit_config(config: Config) -> Config:
    """Return the settings of refits: each starts from a plausible candidate of its own."""
    return replace(config, training=replace(config.training, first_partition="candidate"))


def check(n_refits: int, n_cells: int, n_clusters: int | str, config: Config) -> None:
    """Check, before any fit, that refits can be made.

    Raises
    ------
    TypeError
        If their number is no integer.
    ValueError
        If it is less than two; if four fifths of the cells are too few; if nothing predicts the
        others.
    """
    if isinstance(n_refits, bool) or not isinstance(n_refits, int | np.integer):
        msg = f"Expected `n_refits` to be an integer, found {n_refits!r}."
        raise TypeError(msg)
    if n_refits < 2:
        msg = f"Expected `n_refits` to be at least 2, found {n_refits}."
        raise ValueError(msg)
    if config.fusion.gate == "per_cell":
        msg = (
            "Expected a `config.fusion.gate` that serves cells a refit has not seen, found "
            "'per_cell'; set it to 'computed' or 'fixed', or do without refits."
        )
        raise ValueError(msg)
    seen = round(_SHARE * n_cells)
    least = config.network.n_latent + 1
    if not isinstance(n_clusters, str):
        least = max(least, int(n_clusters) + 1)
    if seen < least:
        msg = (
            f"Expected cells enough for refits of 80 % of them, which need {least}, found "
            f"{n_cells}; do without refits."
        )
        raise ValueError(msg)


def compare(proba: np.ndarray, refits: np.ndarray) -> Stability:
    """Compare a partition with refits and calibrate its confidence.

    Clusters of refits are matched to those of the partition by the largest overlap. Confidence is
    the probability of a cell's own cluster in a refit, modelled as ``softmax(log q / t) M``: soft
    assignments q, sharpened or softened, and M, how refits move whole clusters. Both maximise the
    likelihood of the refits; M also of one more refit, in which all clusters move alike.

    Parameters
    ----------
    proba
        [n, k] soft assignments.
    refits
        [r, n] clusters of the same cells, 0 to k - 1, two or more rows.
    """
    k = proba.shape[1]
    clusters = proba.argmax(axis=1)
    matched = np.array([match(clusters, other, k)[other] for other in refits])
    # ties go to the fit of all cells
    counts = 1.5 * np.eye(k)[clusters] + sum(np.eye(k)[row] for row in matched)
    temperature, transitions = _calibrate(proba, clusters, matched)
    return Stability(
        agreement=(matched == clusters).mean(axis=0).astype(np.float32),
        consensus=counts.argmax(axis=1),
        jaccard=np.mean([_jaccard(clusters, row, k) for row in matched], axis=0),
        together=_together(clusters, refits, k),
        temperature=temperature,
        transitions=transitions,
        calibration_error=_left_out_error(proba, clusters, matched),
    )


def from_arrays(arrays: dict[str, np.ndarray]) -> Stability:
    """Return what was saved as arrays; numbers may have come back as arrays of one."""
    numbers = {name: float(arrays[name].item()) for name in ("temperature", "calibration_error")}
    return Stability(**(arrays | numbers))


def confidence(stability: Stability, proba: np.ndarray) -> np.ndarray:
    """Return the probability [n] that a refit agrees with the largest of each row of [n, k]."""
    return _confidence(proba, stability.temperature, stability.transitions)


def hints(stability: Stability) -> tuple[list[tuple[int, int]], list[int]]:
    """Return pairs of clusters that refits tend to merge, and clusters that they tend to split."""
    together = stability.together
    cohesion = np.diag(together)  # 0 of a cluster without cells
    merge = np.argwhere(np.triu(together > _TOGETHER, k=1))
    split = np.flatnonzero((cohesion > 0) & (cohesion < _TOGETHER))
    return [(int(a), int(b)) for a, b in merge], [int(a) for a in split]


def expected_error(stated: np.ndarray, agrees: np.ndarray) -> float:
    """Return the expected calibration error of confidences in ten bins of equal width.

    References
    ----------
    Guo et al., ICML 2017.
    """
    bins = np.minimum((stated * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, stated - agrees, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(stated))


def _jaccard(clusters: np.ndarray, other: np.ndarray, k: int) -> np.ndarray:
    both = overlap(clusters, other, k)
    shared = np.diag(both)
    return shared / np.maximum(both.sum(axis=0) + both.sum(axis=1) - shared, 1)


def _together(clusters: np.ndarray, refits: np.ndarray, k: int) -> np.ndarray:
    found = np.zeros((k, k))
    for other in refits:
        both = overlap(clusters, other, k)
        shares = both / np.maximum(both.sum(axis=1, keepdims=True), 1)
        found += shares @ shares.T
    return found / len(refits)


def _calibrate(
    proba: np.ndarray, clusters: np.ndarray, matched: np.ndarray
) -> tuple[float, np.ndarray]:
    """Maximise the likelihood of the refits: the temperature by search, the transitions by EM.

    Whole clusters move together in a refit, so a few refits say little of how often each does. One
    more, in which the cells of every cluster move as all do on average, speaks for what is usual.
    """
    from scipy.optimize import minimize_scalar

    n, k = proba.shape
    counts = sum(np.eye(k)[row] for row in matched)
    sizes, stay = np.bincount(clusters, minlength=k), (matched == clusters).mean()
    usual = stay * np.diag(sizes) + (1 - stay) * np.outer(sizes, sizes / n)
    moved = sum(overlap(clusters, row, k) for row in matched) + usual + 0.1
    start = moved / moved.sum(axis=1, keepdims=True)

    def transitions(soft: np.ndarray) -> np.ndarray:
        made = start
        for _ in range(_EM_STEPS):
            made = made * (soft.T @ (counts / (soft @ made + _TINY))) + usual
            made = made / made.sum(axis=1, keepdims=True)
        return made

    def loss(log_temperature: float) -> float:
        soft = _tempered(proba, np.exp(log_temperature))
        return -float((counts * np.log(soft @ transitions(soft) + _TINY)).sum() / n)

    best = minimize_scalar(loss, bounds=(-3.0, 4.0), method="bounded", options={"xatol": 0.01})
    temperature = float(np.exp(best.x))
    return temperature, transitions(_tempered(proba, temperature))


def _tempered(proba: np.ndarray, temperature: float) -> np.ndarray:
    logits = np.log(np.maximum(proba.astype(np.float64), 1e-30)) / temperature
    made = np.exp(logits - logits.max(axis=1, keepdims=True))
    return made / made.sum(axis=1, keepdims=True)


def _confidence(proba: np.ndarray, temperature: float, transitions: np.ndarray) -> np.ndarray:
    stated = _tempered(proba, temperature) @ transitions
    return stated[np.arange(len(proba)), proba.argmax(axis=1)].astype(np.float32)


def _left_out_error(proba: np.ndarray, clusters: np.ndarray, matched: np.ndarray) -> float:
    """Calibrate on all refits but one, compare with that one, in turn."""
    stated, agrees = [], []
    for i, row in enumerate(matched):
        others = np.delete(matched, i, axis=0)
        stated.append(_confidence(proba, *_calibrate(proba, clusters, others)))
        agrees.append(row == clusters)
    return expected_error(np.concatenate(stated), np.concatenate(agrees))
