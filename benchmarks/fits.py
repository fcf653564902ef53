"""Fits that differ in a setting: what they share is done once for each data set and seed."""

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import real_data

if TYPE_CHECKING:
    from scsiameseclu_jax import Config
    from scsiameseclu_jax.training.stages import Pretrained


@lru_cache(maxsize=8)
def pretrained(set_name: str, config: "Config", seed: int) -> "Pretrained":
    """Return what a fit has before training."""
    from scsiameseclu_jax.preprocessing.prepare import prepare
    from scsiameseclu_jax.training import stages as fitting

    adata, labels = real_data.load(set_name)
    k = len(set(labels))
    prepared = prepare(adata, config=config)
    return fitting.pretrain(prepared, k, config=config, seed=seed, progress=False)


def fit_and_score(
    set_name: str,
    config: "Config",
    seed: int,
    *,
    base: "Config",
    weights: Mapping[str, float] | None = None,
) -> float:
    """Return the ARI of one fit; pre-training is that of `base` where it would be the same."""
    from sklearn.metrics import adjusted_rand_score

    import scsiameseclu_jax.functional as F
    from scsiameseclu_jax.preprocessing.prepare import prepare
    from scsiameseclu_jax.training import stages as fitting

    adata, labels = real_data.load(set_name)
    k = len(set(labels))
    prepared = prepare(adata, config=config)
    shared = fitting.same_pretraining(config, base)
    shared &= set(weights or {}) <= set(fitting.TRAINING_TERMS)
    start = pretrained(set_name, base, seed) if shared else None
    made = fitting.fit(prepared, k, config=config, seed=seed, weights=weights, pretrained=start)
    found = np.asarray(F.predict(made.state, made.data, config=config).labels)
    return float(adjusted_rand_score(labels[prepared.order], found[: len(labels)]))
