"""Cell types of new cells from those of a reference."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scsiameseclu_jax.checks import (
    as_seed,
    check_anndata,
    check_key,
    check_share,
    sorted_names,
)
from scsiameseclu_jax.config import Config
from scsiameseclu_jax.preprocessing.batches import batch_names
from scsiameseclu_jax.preprocessing.counts import counts, gene_names
from scsiameseclu_jax.preprocessing.genes import align, to_genes
from scsiameseclu_jax.tl.classification import (
    FOLDS,
    components_of,
    embed,
    prepare_cells,
    record_of,
    write_types,
)
from scsiameseclu_jax.tl.heads import (
    Method,
    check_method,
    features_of,
    known_types,
    novelty,
    predict_types,
)
from scsiameseclu_jax.tl.record import storable, writable

if TYPE_CHECKING:
    from scsiameseclu_jax.model import SiameseClu

logger = logging.getLogger(__name__)

_STRENGTH = 0.01  # between experiments, a simpler head than within one
_SHARED = 0.5  # of the genes of the smaller object, at least


def transfer_labels(
    adata: AnnData,
    reference: AnnData,
    labels_key: str,
    *,
    layer: str | None = "counts",
    model: SiameseClu | None = None,
    batch_key: str | None = None,
    unlabeled: str = "Unknown",
    method: Method = "logistic",
    correct_shift: bool = True,
    min_confidence: float | None = None,
    open_set: bool = False,
    alpha: float = 0.05,
    rng: int | np.random.Generator = 0,
    key_added: str = "transferred",
    config: Config | None = None,
    copy: bool = False,
    progress: bool | None = None,
) -> AnnData | None:
    """Predict the types of new cells from a reference of known types.

    Cells of both are embedded together, without labels, unless a model of the reference is given.
    A head then learns the known types as in :func:`classify`. What shifts all new cells alike, such
    as a treatment, is taken away: what sets most of them apart from reference cells of the types
    that they seem to be of.

    Parameters
    ----------
    adata
        New cells x genes with raw counts.
    reference
        Cells x genes with raw counts and known types; not changed. Genes are matched by name,
        whatever their order, case, or Ensembl version.
    labels_key
        Column of ``reference.obs`` with two types or more. It is read by the head only.
    layer
        Where the raw counts of both are, as in :func:`siameseclu`.
    model
        A model that was fitted to the cells of `reference`, in the same order: it embeds the new
        ones without another fit, in seconds. None fits all cells together.
    batch_key
        Column in ``obs`` of both of batches to be ignored in the fit. It harms where batches
        hold other shares of the types, so it is seldom worth it; see :func:`classify`.
    unlabeled
        What reference cells without a type are called.
    method
        As in :func:`classify`.
    correct_shift
        Take away what shifts all new cells alike. Better not where the new cells are of the same
        experiment, or a quarter of them or more of types that the reference lacks.
    min_confidence
        Confidence below which a cell is written as ``"Unassigned"``. The confidence is calibrated
        on the reference; where the new cells differ from it, it is too high.
    open_set
        Write novel cells, which are unlike all of the reference, as ``"Unassigned"``.
    alpha
        Share of cells like those of the reference that may be called novel, between 0 and 1. If
        the new cells are of another treatment or technology, more of them are.
    rng
        Seed, or a generator that the seed is drawn from.
    key_added
        Name under which results are stored.
    config
        All other settings of the fit; with `model`, they are the model's.
    copy
        Return a changed copy and leave `adata` as it is.
    progress
        See :meth:`scsiameseclu_jax.SiameseClu.fit`.

    Returns
    -------
    None, or the copy. Written are ``obs`` and ``uns`` as by :func:`classify`, the scores being of
    the reference, ``adata.obsm[f"X_{key_added}"]``, the embedding [m, d] of the new cells, and

    ``adata.obs[f"{key_added}_novelty"]``
        Share of the reference cells that are less far from others of them, float32, 0 to 1.
    ``adata.obs[f"{key_added}_is_novel"]``
        Whether a cell is unlike all of the reference, boolean.

    Raises
    ------
    KeyError, TypeError, ValueError
        For bad input, before training starts; if fewer than half of the genes of the smaller
        object are in the other. `adata` is left as it was.
    RuntimeError
        If `model` is not fitted.
    MemoryError
        If there is too little memory, before any of it is taken.
    FloatingPointError
        If the embedding is not finite before any training.
    """
    check_key(key_added)
    check_share("min_confidence", min_confidence)
    check_method(method)
    if not 0 < alpha < 1:
        msg = f"Expected `alpha` to be between 0 and 1, found {alpha}."
        raise ValueError(msg)
    check_anndata(adata)
    check_anndata(reference, "reference")
    known = known_types(reference, labels_key, unlabeled)
    seed = as_seed(rng)
    settings = Config() if config is None else config
    if model is not None:
        model.check_cells(reference)
        settings = model.config
    both = _joined(reference, adata, layer, batch_key)
    prepared = prepare_cells(both, None, batch_key, settings)
    if model is None:
        source = {"layer": "X"} | ({} if batch_key is None else {"batch_key": batch_key})
        embedding, manifest = embed(prepared, source, config=settings, seed=seed, progress=progress)
    else:
        new = model.predict(adata, layer=layer).embedding
        embedding = np.concatenate([model.get_latent_representation(), new])
        manifest = storable(model.manifest)
    # Reference cells without a type have served: they are neither known nor to be predicted.
    typed = np.array([name is not None for name in known])
    rows = np.concatenate([np.flatnonzero(typed), np.arange(len(typed), both.n_obs)])
    n_old, n_known = len(typed), int(typed.sum())
    known = np.concatenate([known[typed], np.full(adata.n_obs, None)])
    predictions = predict_types(
        features_of([embedding, *components_of(prepared)])[rows],
        known,
        method=method,
        strength=_STRENGTH,
        shifted=correct_shift,
        n_folds=FOLDS,
        seed=seed,
    )
    surprise = novelty(predictions.moved, np.arange(len(rows)) < n_known).astype(np.float32)
    is_novel = surprise > 1 - alpha
    record = record_of(
        predictions,
        known,
        {
            "labels_key": labels_key,
            "layer": "X" if layer is None else layer,
            "model": "fitted together" if model is None else "given",
            "batch_key": batch_key,
            "unlabeled": unlabeled,
            "method": method,
            "correct_shift": correct_shift,
            "min_confidence": min_confidence,
            "open_set": open_set,
            "alpha": float(alpha),
            "seed": seed,
        },
    )
    adata = writable(adata, copy=copy)
    predictions = predictions._replace(proba=predictions.proba[n_known:])
    rejected = is_novel if open_set else None
    write_types(adata, key_added, predictions, known[n_known:], min_confidence, rejected)
    adata.obs[f"{key_added}_novelty"] = surprise
    adata.obs[f"{key_added}_is_novel"] = is_novel
    adata.obsm[f"X_{key_added}"] = embedding[n_old:]
    adata.uns[key_added] = record | {"manifest": manifest}
    return adata if copy else None


def _joined(
    reference: AnnData, adata: AnnData, layer: str | None, batch_key: str | None
) -> AnnData:
    """Return the counts of both, of the genes that both have; of ``obs``, batches only."""
    for name, one in (("reference", reference), ("adata", adata)):
        if batch_key is not None and batch_key not in one.obs:
            found = sorted_names(one.obs)
            msg = f"Expected `batch_key` in obs of `{name}`, one of {found}, found {batch_key!r}."
            raise KeyError(msg)
    old, new = (counts(one, layer=layer) for one in (reference, adata))
    named = gene_names(reference)
    genes = [name for name in dict.fromkeys(named) if name]
    where = align(gene_names(adata), genes)
    shape = len(where), len(genes)
    # Counts of a gene that is there twice, in either, are added.
    old = to_genes(old, align(named, genes), len(genes))
    new = to_genes(new, where, len(genes))
    shared = np.unique(where[where >= 0])
    if len(shared) < _SHARED * min(shape):
        msg = (
            f"Expected the genes of the reference, found {len(shared)} of them among {shape[0]}: "
            f"there they are named like {', '.join(genes[:3])}, here like "
            f"{', '.join(map(str, adata.var_names[:3]))}. Names of the same kind are needed."
        )
        raise ValueError(msg)
    logger.info("%d genes are shared", len(shared))
    names = [*("reference " + reference.obs_names), *("new " + adata.obs_names)]
    obs = pd.DataFrame(index=pd.Index(names, dtype=object))
    if batch_key is not None:
        obs[batch_key] = np.concatenate([batch_names(one, batch_key) for one in (reference, adata)])
    matrix = sp.vstack([old[:, shared], new[:, shared]], format="csr")
    exact = np.float32 if matrix.data.max(initial=0) <= 2**24 else np.float64
    var = pd.DataFrame(index=pd.Index([genes[i] for i in shared], dtype=object))
    return AnnData(sp.csr_matrix(matrix, dtype=exact), obs=obs, var=var)
