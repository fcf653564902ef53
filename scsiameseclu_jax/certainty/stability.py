"""How sure is a partition? Fits of parts of the cells, compared with the fit of all.

Which of the plausible candidates a fit starts from decides which groups are joined and split, and
other cells hardly change that. So each refit starts from another one: what differs between them is
what the data leave open.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from anndata import AnnData

from scsiameseclu_jax.certainty.calibration import (
    Calibration,
    calibrate,
    confidence,
    expected_error,
)
from scsiameseclu_jax.config import Config
from scsiameseclu_jax.partition.voting import match, overlap
from scsiameseclu_jax.preprocessing.counts import in_memory

logger = logging.getLogger(__name__)

_SHARE = 0.8  # of the cells that a refit sees
_MOST = 1000  # refits: each takes as long as a fit
_TOGETHER = 0.5  # share of pairs of cells in one cluster, from which two clusters are as one
_VOTES = 3.0  # refits that the votes for the first partition count for


class Stability(NamedTuple):
    """Agreement of a partition with refits."""

    agreement: np.ndarray
    """[n] share of the refits that put a cell into its own cluster, float32."""
    consensus: np.ndarray
    """[n] cluster that the fit and its refits put a cell into most often."""
    jaccard: np.ndarray
    """[k] mean over refits of each cluster's Jaccard index with its match; 0 if it has no cells."""
    together: np.ndarray
    """[k, k] share of pairs of cells, one of each cluster, that a refit puts together; 0 for a
    cluster without cells."""
    calibration_error: float
    """Expected calibration error of the confidence, against refits that it was not made from."""


_KINDS: dict[str, Any] = {"calibration": Calibration, "stability": Stability}


class Model(Protocol):
    """What a refit has to offer."""

    @property
    def labels(self) -> np.ndarray:
        """[m] clusters of its cells."""
        ...

    def predict(self, adata: AnnData, *, layer: str | None) -> Any:
        """Return an object with the ``labels`` [m] of other cells."""
        ...


def refit(
    adata: AnnData,
    n_resamples: int,
    fit: Callable[[AnnData, int], Model],
    *,
    layer: str | None,
    batch: np.ndarray | None = None,
    seed: int,
    devices: Sequence[jax.Device] = (),
) -> np.ndarray:
    """Fit 80 % of the cells at a time and predict the others; return clusters [r, n].

    Parameters
    ----------
    adata
        Cells x genes.
    n_resamples
        How many.
    fit
        Fits the cells it is given, with the seed it is given.
    layer
        Where the counts are.
    batch
        [n] batch of each cell, if there are several: at least 80 % of each are fitted.
    seed
        Of which cells are left out, and of the fits.
    devices
        Each has a fit of its own at a time; jax's default device, if there are none.
    """
    n = adata.n_obs

    def one(i: int) -> np.ndarray:
        rng = np.random.default_rng([seed, i])
        order = rng.permutation(n)
        kept = np.zeros(n, bool)
        if batch is None:
            kept[order[: round(_SHARE * n)]] = True
        else:
            for name in np.unique(batch):
                members = order[batch[order] == name]
                kept[members[: math.ceil(_SHARE * len(members))]] = True
        seen, unseen = np.flatnonzero(kept), np.flatnonzero(~kept)
        model = fit(in_memory(adata[seen]), int(rng.integers(2**31)))
        clusters = np.empty(n, int)
        clusters[seen] = model.labels
        if len(unseen):
            clusters[unseen] = model.predict(in_memory(adata[unseen]), layer=layer).labels
        logger.info("refit %d of %d done", i + 1, n_resamples)
        return clusters

    if len(devices) < 2:
        return np.stack([one(i) for i in range(n_resamples)])
    free = SimpleQueue[jax.Device]()
    for device in devices:
        free.put(device)

    def on_a_free_device(i: int) -> np.ndarray:
        device = free.get()
        try:
            with jax.default_device(device):
                return one(i)
        finally:
            free.put(device)

    with ThreadPoolExecutor(len(devices)) as pool:
        return np.stack(list(pool.map(on_a_free_device, range(n_resamples))))


def refit_config(config: Config) -> Config:
    """Return the settings of refits: each starts from a plausible candidate of its own."""
    return replace(config, training=replace(config.training, first_partition="candidate"))


def check(n_resamples: int, n_cells: int, n_clusters: int | str, config: Config) -> None:
    """Check, before any fit, that refits can be made.

    Raises
    ------
    TypeError
        If their number is no integer.
    ValueError
        If it is not between 2 and 1000; if four fifths of the cells are too few; if nothing
        predicts the others.
    """
    if isinstance(n_resamples, bool) or not isinstance(n_resamples, int | np.integer):
        msg = f"Expected `n_resamples` to be an integer, found {n_resamples!r}."
        raise TypeError(msg)
    if not 2 <= n_resamples <= _MOST:
        msg = f"Expected `n_resamples` to be between 2 and {_MOST}, found {n_resamples}."
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


def compare(
    proba: np.ndarray, votes: np.ndarray | None, refits: np.ndarray
) -> tuple[Stability, Calibration]:
    """Compare a partition with refits, and calibrate its confidence.

    Clusters of refits are matched to those of the partition by the largest overlap. Whole clusters
    move together in a refit, so a few refits say little of how often each does: the votes for the
    first partition count as three more.

    Parameters
    ----------
    proba
        [n, k] soft assignments.
    votes
        [n, k] share of the votes for each cluster; None if there are none.
    refits
        [r, n] clusters of the same cells, 0 to k - 1, two or more rows.
    """
    k = proba.shape[1]
    clusters, each = proba.argmax(axis=1), np.eye(k)
    matched = np.array([match(clusters, other, k)[other] for other in refits])
    went = sum(each[row] for row in matched)
    usual = each[clusters] if votes is None else _VOTES * votes
    # each refit in turn is left out, and compared with what the others say
    stated = [confidence(calibrate(proba, went + usual - each[row]), proba) for row in matched]
    stability = Stability(
        agreement=(matched == clusters).mean(axis=0).astype(np.float32),
        # ties go to the fit of all cells
        consensus=(went + 1.5 * each[clusters]).argmax(axis=1),
        jaccard=np.mean([_jaccard(clusters, row, k) for row in matched], axis=0),
        together=_together(clusters, refits, k),
        calibration_error=expected_error(np.concatenate(stated), (matched == clusters).ravel()),
    )
    return stability, calibrate(proba, went + usual)


def to_arrays(results: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return what a model knows of its confidence as named arrays; nothing of what it does not."""
    arrays = {} if results["votes"] is None else {"results/votes": results["votes"]}
    for name in _KINDS:
        fields = {} if results[name] is None else results[name]._asdict()
        arrays |= {f"{name}/{field}": np.asarray(value) for field, value in fields.items()}
    return arrays


def from_arrays(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return what was saved as arrays; numbers may have come back as arrays of one."""
    results: dict[str, Any] = {"votes": arrays.get("results/votes")}
    for name, kind in _KINDS.items():
        fields = {field: arrays.get(f"{name}/{field}") for field in kind._fields}
        plain = {f: a.item() if a is not None and a.size == 1 else a for f, a in fields.items()}
        results[name] = None if plain[kind._fields[0]] is None else kind(**plain)
    return results


def hints(stability: Stability) -> tuple[list[tuple[int, int]], list[int]]:
    """Return pairs of clusters that refits tend to merge, and clusters that they tend to split."""
    together = stability.together
    cohesion = np.diag(together)  # 0 of a cluster without cells
    merge = np.argwhere(np.triu(together > _TOGETHER, k=1))
    split = np.flatnonzero((cohesion > 0) & (cohesion < _TOGETHER))
    return [(int(a), int(b)) for a, b in merge], [int(a) for a in split]


def _jaccard(clusters: np.ndarray, other: np.ndarray, k: int) -> np.ndarray:
    both = overlap(clusters, other, k)
    shared = np.diag(both)
    return shared / np.maximum(both.sum(axis=0) + both.sum(axis=1) - shared, 1)


def _together(clusters: np.ndarray, refits: np.ndarray, k: int) -> np.ndarray:
    together = np.zeros((k, k))
    for other in refits:
        both = overlap(clusters, other, k)
        shares = both / np.maximum(both.sum(axis=1, keepdims=True), 1)
        together += shares @ shares.T
    return together / len(refits)
