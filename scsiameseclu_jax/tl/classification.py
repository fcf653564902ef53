"""Cell types from those of other cells in the same object."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scsiameseclu_jax.checks import (
    as_seed,
    check_anndata,
    check_key,
    check_share,
    sorted_names,
)
from scsiameseclu_jax.config import Config
from scsiameseclu_jax.manifest import manifest
from scsiameseclu_jax.metrics.classification import classification_report, classification_scores
from scsiameseclu_jax.preprocessing.prepare import Prepared, check, prepare
from scsiameseclu_jax.tl.heads import (
    Method,
    Predictions,
    check_method,
    features_of,
    known_types,
    predict_types,
)
from scsiameseclu_jax.tl.record import UNASSIGNED, storable, writable
from scsiameseclu_jax.training.memory import check_memory
from scsiameseclu_jax.training.progress import Progress
from scsiameseclu_jax.training.stages import fit_embedding

logger = logging.getLogger(__name__)

FOLDS = 5
STRENGTH = 0.03  # chosen on the data sets of benchmarks/classification.py, one for all


def classify(
    adata: AnnData,
    labels_key: str,
    *,
    layer: str | None = "counts",
    key: str | None = None,
    batch_key: str | None = None,
    unlabeled: str = "Unknown",
    method: Method = "logistic",
    min_confidence: float | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str = "classified",
    config: Config | None = None,
    copy: bool = False,
    progress: bool | None = None,
) -> AnnData | None:
    """Predict the type of cells without one from those of known type in the same object.

    All cells are embedded without labels, by pre-training alone: nothing is clustered. A head then
    learns the known types from the embedding and from the principal components of three
    normalisations, and is measured and calibrated on known cells that it was fitted without, in
    five parts.

    Parameters
    ----------
    adata
        Cells x genes with raw counts.
    labels_key
        Column of ``obs`` with the known types, two or more; missing, empty, or `unlabeled`, for the
        cells to be predicted. It is read by the head only.
    layer
        Where the raw counts are, as in :func:`siameseclu`.
    key
        The ``key_added`` of a clustering of all these cells, whose embedding to use: that saves the
        fit. None fits one.
    batch_key
        Column in ``obs`` of batches to be ignored; see
        :meth:`scsiameseclu_jax.SiameseClu.fit`. It helps where all batches hold the same types in
        the same shares, and harms where they do not.
    unlabeled
        What cells without a type are called.
    method
        Head: ``"logistic"`` regression, ``"knn"``, a vote of the 15 nearest by cosine, or
        ``"prototype"``, the nearest mean.
    min_confidence
        Confidence below which a predicted cell is written as ``"Unassigned"``.
    rng
        Seed, or a generator that the seed is drawn from: of the fit, and of the parts.
    key_added
        Name under which results are stored.
    config
        All other settings of the fit.
    copy
        Return a changed copy and leave `adata` as it is.
    progress
        See :meth:`scsiameseclu_jax.SiameseClu.fit`.

    Returns
    -------
    None, or the copy. Written are

    ``adata.obs[key_added]``
        Type of each cell, categorical of all types: the known one, else the predicted one.
    ``adata.obs[f"{key_added}_confidence"]``
        Calibrated probability of that type, float32. For a cell of known type it is what a head
        that was fitted without it says: low values are worth a look. NaN for a type's only cell.
    ``adata.obs[f"{key_added}_second"]``
        Likeliest other type, categorical.
    ``adata.obsm[f"X_{key_added}"]``
        Embedding [n, d], float32, if one was fitted here.
    ``adata.uns[key_added]``
        ``params``, ``types``, and of the known cells that were left out in turn, ``scores``
        (:func:`scsiameseclu_jax.metrics.classification_scores`), ``report`` (the same for each
        type) and ``calibration_error``; ``temperature``, what calibrates; ``manifest`` of the fit.

    Raises
    ------
    KeyError, TypeError, ValueError
        For bad input, before training starts; `adata` is left as it was.
    MemoryError
        If there is too little memory, before any of it is taken.
    FloatingPointError
        If the embedding is not finite before any training.
    """
    check_anndata(adata)
    check_key(key_added)
    check_share("min_confidence", min_confidence)
    check_method(method)
    known = known_types(adata, labels_key, unlabeled)
    seed = as_seed(rng)
    settings = Config() if config is None else config
    embedding = None if key is None else _embedding(adata, key)
    prepared = prepare_cells(adata, layer, batch_key, settings)
    record: dict[str, Any] = {}
    if embedding is None:
        source = {"layer": layer or "X"} | ({} if batch_key is None else {"batch_key": batch_key})
        embedding, record["manifest"] = embed(
            prepared, source, config=settings, seed=seed, progress=progress
        )
    predictions = predict_types(
        features_of([embedding, *components_of(prepared)]),
        known,
        method=method,
        strength=STRENGTH,
        shifted=False,
        n_folds=FOLDS,
        seed=seed,
    )
    adata = writable(adata, copy=copy)
    if key is None:
        adata.obsm[f"X_{key_added}"] = embedding
    else:
        adata.obsm.pop(f"X_{key_added}", None)  # of an earlier run
    params = {
        "labels_key": labels_key,
        "layer": "X" if layer is None else layer,
        "key": key,
        "batch_key": batch_key,
        "unlabeled": unlabeled,
        "method": method,
        "min_confidence": min_confidence,
        "seed": seed,
    }
    write_types(adata, key_added, predictions, known, min_confidence)
    adata.uns[key_added] = record_of(predictions, known, params) | record
    return adata if copy else None


def prepare_cells(
    adata: AnnData, layer: str | None, batch_key: str | None, config: Config
) -> Prepared:
    """Prepare cells if there is memory for a fit of them."""
    raw = check(adata, layer=layer, config=config)
    check_memory(adata.n_obs, adata.n_vars, raw.nnz, config)
    return prepare(adata, raw=raw, layer=layer, batch_key=batch_key, config=config)


def embed(
    prepared: Prepared,
    source: dict[str, Any],
    *,
    config: Config,
    seed: int,
    progress: bool | None,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return an embedding [n, d] made without labels, and its manifest.

    Parameters
    ----------
    prepared
        The cells; rows of the embedding are in the order that they came in.
    source
        Where they came from, for the manifest.
    config, seed, progress
        Of the fit.
    """
    with Progress("embedding", show=progress) as bar:
        embedding = fit_embedding(prepared, config=config, seed=seed, bar=bar)
    record = manifest(
        prepared,
        None,
        given=source,
        seed=seed,
        seconds=bar.seconds(),
        findings={"neighbors": prepared.search},
        config=config,
    )
    return embedding[np.argsort(prepared.order)], storable(record)


def components_of(prepared: Prepared) -> list[np.ndarray]:
    """Return principal components [n, p] of three normalisations, rows as the cells came in."""
    rows = np.argsort(prepared.order)
    return [block[rows] for block in (prepared.features, *prepared.others)]


def _embedding(adata: AnnData, key: str) -> np.ndarray:
    if f"X_{key}" not in adata.obsm:
        msg = (
            f"Expected an embedding in obsm['X_{key}'], found {sorted_names(adata.obsm)}; run "
            f"`scs.tl.siameseclu(adata, ..., key_added={key!r})` first, or leave `key` out."
        )
        raise KeyError(msg)
    embedding = np.asarray(adata.obsm[f"X_{key}"], np.float64)
    n = int((~np.isfinite(embedding)).any(axis=1).sum())
    if n:
        msg = f"Expected obsm['X_{key}'] of all cells, found {n} cells without; leave `key` out."
        raise ValueError(msg)
    return embedding


def write_types(
    adata: AnnData,
    key: str,
    predictions: Predictions,
    known: np.ndarray,
    min_confidence: float | None,
    rejected: np.ndarray | None = None,
) -> None:
    """Write types, confidence and second choice; `rejected` [n] are unassigned in any case."""
    types, n = predictions.types, adata.n_obs
    typed = np.array([name is not None for name in known])
    proba = np.nan_to_num(predictions.proba)
    first = proba.argmax(axis=1)
    first[typed] = np.searchsorted(types, known[typed])
    confidence = predictions.proba[np.arange(n), first].astype(np.float32)
    proba[np.arange(n), first] = -1
    values = types[first]
    unassigned = np.zeros(n, bool) if rejected is None else rejected.copy()
    if min_confidence is not None:
        unassigned |= confidence < min_confidence
    unassigned &= ~typed
    values[unassigned] = UNASSIGNED
    categories = list(types) + ([UNASSIGNED] if unassigned.any() else [])
    for name, column, names in (
        (key, values, categories),
        (f"{key}_second", types[proba.argmax(axis=1)], list(types)),
    ):
        adata.obs[name] = pd.Series(pd.Categorical(column, names), index=adata.obs_names)
        adata.uns.pop(f"{name}_colors", None)  # of other types
    adata.obs[f"{key}_confidence"] = confidence
    adata.obsm.pop(f"X_{key}_umap", None)  # of another embedding
    logger.info(
        "predicted %d cells, %d of them unassigned; added %r (adata.obs, categorical)",
        n - typed.sum(),
        unassigned.sum(),
        key,
    )


def record_of(
    predictions: Predictions, known: np.ndarray, params: dict[str, Any]
) -> dict[str, Any]:
    """Return what ``uns`` is to hold, with scores of the known cells that were left out in turn."""
    tested = np.array([name is not None for name in known]) & ~np.isnan(predictions.proba[:, 0])
    record: dict[str, Any] = {
        "params": {name: value for name, value in params.items() if value is not None},
        "types": predictions.types.astype(str),
        "temperature": predictions.temperature,
    }
    if tested.any():
        truth = known[tested].astype(str)
        predicted = predictions.types[predictions.proba[tested].argmax(axis=1)]
        cells = pd.Index(map(str, range(len(truth))))
        table = AnnData(obs=pd.DataFrame({"known": truth, "predicted": predicted}, index=cells))
        record["scores"] = classification_scores(truth, predicted)
        record["report"] = classification_report(table, "known", "predicted")
        record["calibration_error"] = predictions.calibration_error
    return record
