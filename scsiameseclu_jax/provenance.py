"""What was run: the record that goes with every result."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from scsiameseclu_jax import pp
from scsiameseclu_jax.config import Config

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "ott-jax", "jraph", "numpy", "scanpy", "anndata")


def manifest(
    prepared: pp.Prepared,
    n_clusters: int,
    *,
    given: dict[str, str],
    seed: int,
    seconds: float,
    findings: dict[str, Any],
    config: Config,
) -> dict[str, Any]:
    """Return, in plain types, what a fit was given, ran on and found on the way.

    Parameters
    ----------
    prepared
        The cells.
    n_clusters
        Number of clusters, given or chosen.
    given
        Where counts, features, links and batches came from.
    seed
        The seed.
    seconds
        How long it took.
    findings
        What was decided on the way, and warnings.
    config
        All settings.
    """
    return {
        "input": given,
        "seed": seed,
        "config": config.fingerprint(),
        "data": prepared.fingerprint,
        "n_clusters": int(n_clusters),
        "n_cells": len(prepared.order),
        "n_genes": len(prepared.frame.selected),
        "device": str(jax.devices()[0].device_kind),
        "backend": jax.default_backend(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("scsiameseclu-jax", *_PACKAGES)},
        "seconds": round(seconds, 3),
        **findings,
    }


def as_seed(rng: int | np.random.Generator) -> int:
    """Return the seed that was given, or one drawn from the generator.

    Raises
    ------
    ValueError
        If it is neither a generator nor an integer in [0, 2^32).
    """
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**31))
    if isinstance(rng, bool) or not isinstance(rng, int | np.integer) or not 0 <= rng < 2**32:
        msg = f"Expected `rng` to be a numpy Generator or an integer in [0, 2^32), found {rng!r}."
        raise ValueError(msg)
    return int(rng)
