"""What was run: the record that goes with every result."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from typing import Any

import numpy as np
from anndata import AnnData

from scsiameseclu_jax.checks import default_device
from scsiameseclu_jax.config import Config
from scsiameseclu_jax.preprocessing.constraints import OPTIONS
from scsiameseclu_jax.preprocessing.counts import layer_of
from scsiameseclu_jax.preprocessing.prepare import Prepared, identify

PACKAGES = ("jax", "jaxlib", "flax", "optax", "ott-jax", "jraph", "numpy", "scanpy", "anndata")


def manifest(
    prepared: Prepared,
    n_clusters: int | None,
    *,
    given: dict[str, Any],
    seed: int,
    seconds: dict[str, float],
    findings: dict[str, Any],
    config: Config,
) -> dict[str, Any]:
    """Return, in plain types, what a fit was given, ran on and found on the way.

    Parameters
    ----------
    prepared
        The cells.
    n_clusters
        Number of clusters, given or chosen; None of a fit without any.
    given
        Where counts, features, links and batches came from, and constraints.
    seed
        The seed.
    seconds
        How long each stage took, and all: see
        :meth:`scsiameseclu_jax.training.progress.Progress.seconds`.
    findings
        What was decided on the way, and warnings.
    config
        All settings.
    """
    device = default_device()
    return {
        "input": given,
        "seed": seed,
        "config": config.fingerprint(),
        "data": prepared.fingerprint,
        "rows": _rows(prepared.order),
        **({} if n_clusters is None else {"n_clusters": int(n_clusters)}),
        "n_cells": len(prepared.order),
        "n_genes": len(prepared.preprocessor.selected),
        "device": str(device.device_kind),
        "backend": device.platform,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("scsiameseclu-jax", *PACKAGES)},
        "seconds": seconds,
        **findings,
    }


def check_cells(adata: AnnData, fit: dict[str, Any], *, counts: bool) -> np.ndarray:
    """Check that an object holds the cells of a fit, in their order, as far as its counts tell.

    Parameters
    ----------
    adata
        The object.
    fit
        The manifest of the fit.
    counts
        Whether the counts have to be those of the fit; else only cells with the same counts in
        another order are refused, and those whose counts have since changed or gone are not.

    Returns
    -------
    [n] the order of the cells in which the fit saw them; of other counts, that of the object.

    Raises
    ------
    ValueError
        If the cells are others, or in another order.
    """
    if adata.n_obs != fit["n_cells"]:
        msg = (
            f"Expected the {fit['n_cells']} cells that the model was fitted to, found "
            f"{adata.n_obs}; for other cells there is `predict`."
        )
        raise ValueError(msg)
    try:
        order, fingerprint = identify(adata, **as_given(fit, adata))
    except (TypeError, KeyError, ValueError):
        if counts:
            raise
        return np.arange(adata.n_obs)
    if fingerprint != fit["data"]:
        if counts:
            msg = (
                "Expected the cells that the model was fitted to, found as many with other "
                "counts; for other cells there is `predict`."
            )
            raise ValueError(msg)
        return np.arange(adata.n_obs)
    if _rows(order) != fit["rows"]:
        msg = (
            "Expected the cells in the order that the model was fitted in, found them in "
            "another; bring them into that order, or use `predict`."
        )
        raise ValueError(msg)
    return order


def as_given(fit: dict[str, Any], adata: AnnData) -> dict[str, Any]:
    """Return where a fit read its input from, of its manifest, as options; not the constraints."""
    given = {key: name for key, name in fit["input"].items() if key not in OPTIONS}
    return given | {"layer": layer_of(adata, given["layer"])}


def _rows(order: np.ndarray) -> str:
    return hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()[:16]
