"""Clusters of the cells of a fit, and of new ones."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scsiameseclu_jax.certainty import stability
from scsiameseclu_jax.checks import check_key, check_share
from scsiameseclu_jax.config import CHECKPOINT_EVERY, Config
from scsiameseclu_jax.model import SiameseClu
from scsiameseclu_jax.preprocessing.blocks import settled
from scsiameseclu_jax.preprocessing.constraints import OPTIONS, ConstraintsLike, find_answers
from scsiameseclu_jax.preprocessing.counts import in_memory
from scsiameseclu_jax.tl.questions import answer, is_fitted
from scsiameseclu_jax.tl.record import (
    UNASSIGNED,
    RestrictTo,
    add,
    add_pool,
    check_writable,
    restricted,
    split_of,
    stability_of,
    storable,
    writable,
)
from scsiameseclu_jax.tl.ties import stored_restriction

if TYPE_CHECKING:
    import os

    from jax.sharding import Mesh

logger = logging.getLogger(__name__)


def siameseclu(
    adata: AnnData,
    n_clusters: int | Literal["auto"] = "auto",
    *,
    layer: str | None = "counts",
    use_rep: str | None = None,
    neighbors_key: str | None = None,
    batch_key: str | None = None,
    must_link: ConstraintsLike | None = None,
    cannot_link: ConstraintsLike | None = None,
    answers: pd.DataFrame | None = None,
    restrict_to: RestrictTo | None = None,
    n_resamples: int = 0,
    min_confidence: float | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str = "siameseclu",
    config: Config | None = None,
    mesh: Mesh | None = None,
    copy: bool = False,
    progress: bool | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    every: int = CHECKPOINT_EVERY,
) -> AnnData | None:
    """Cluster cells from raw counts.

    Parameters
    ----------
    adata
        Cells x genes; of its ``obs`` only the columns of `batch_key` and `restrict_to` are read.
        Counts may be on disk: a Dask array, as ``anndata.experimental.read_lazy`` and
        :func:`scsiameseclu_jax.datasets.read_lazy` have it, or backed. They are read in blocks.
    n_clusters
        Number of clusters, 2 to ``n_obs - 1``, or ``"auto"``: see :func:`estimate_n_clusters`.
    layer
        Where the raw counts are: ``"counts"`` is that layer if there is one, else ``X``; another
        name must exist; None is ``X``. ``.raw`` is never read.
    use_rep
        Key in ``obsm`` of features to use instead of principal components.
    neighbors_key
        Key in ``uns`` of a neighbour graph to use instead of building one.
    batch_key
        Column in ``obs`` of batches to be ignored; see
        :meth:`scsiameseclu_jax.SiameseClu.fit`.
    must_link, cannot_link
        Pairs of names in ``obs_names``, of cells that belong to one cluster, or to two: what is
        known of cells, from a lineage barcode, say. See :meth:`scsiameseclu_jax.SiameseClu.fit`.
    answers
        Answered questions, a table of :func:`questions`: the clusters are chosen by them. Where
        `adata` holds the same clustering already, it is not fitted again: then these answers
        replace earlier ones, as ``answer(adata, answers, keep=False)`` has it.
    restrict_to
        Column of ``obs`` and groups in it: only their cells are clustered, the others keep their
        group. New clusters are called ``"3-5,0"``, say; results for other cells are NaN.
    n_resamples
        Fits to compare with, 0 or at least 2 (10 say more): each sees 80 % of the cells, starts
        from another plausible partition, and takes about as long as the fit; see
        :meth:`scsiameseclu_jax.SiameseClu.assess`.
    min_confidence
        Confidence below which a cell's cluster is written as ``"Unassigned"``.
    rng
        Seed, or a generator that the seed is drawn from.
    key_added
        Name under which results are stored; with `restrict_to`, ``"siameseclu"`` stands for
        ``"siameseclu_R"``.
    config
        All other settings.
    mesh
        Devices to split the cells over, and refits, from :func:`scsiameseclu_jax.cell_mesh`; see
        :meth:`scsiameseclu_jax.SiameseClu.fit`.
    copy
        Return a changed copy and leave `adata` as it is.
    progress, checkpoint_dir, every
        See :meth:`scsiameseclu_jax.SiameseClu.fit`; checkpoints are of the fit, not of refits.

    Returns
    -------
    None, or the copy. Written are

    ``adata.obs[key_added]``
        Cluster of each cell, categorical of strings, ``'0'`` the largest.
    ``adata.obs[f"{key_added}_confidence"]``
        Chance that another plausible fit puts the cell into the same cluster, float32; see
        :class:`scsiameseclu_jax.SiameseClu`.
    ``adata.obsm[f"X_{key_added}"]``
        Embedding [n, d], float32, for neighbours, UMAP and classifiers: what contrast between
        neighbours has taught.
    ``adata.obsm[f"X_{key_added}_fused"]``
        The fused embedding [n, d] that cells are clustered in, float32, if it is another one
        (:meth:`scsiameseclu_jax.Config.fast` learns no other).
    ``adata.obsm[f"{key_added}_proba"]``
        Soft assignments [n, k], float32, rows sum to 1.
    ``adata.uns[key_added]``
        ``params``, ``history`` (one array for each loss term), ``manifest``, which counts the
        pairs and answers that are kept, ``candidates`` and ``answers``, if there are any; with
        ``"auto"``, ``estimate``, the evidence for the number of clusters.

    ``adata.obsm[f"{key_added}_candidates"]``, ``adata.obsm[f"{key_added}_groups"]``
        The candidate partitions [n, m] that the clusters were chosen from, and the small groups
        [n, 1] that :func:`questions` are about, unsigned integers; not with `restrict_to`.

    What earlier results under the same name say of other clusters is removed: colors, markers,
    annotation, pseudotime, agreement, novelty, tree and levels.

    With `n_resamples` also

    ``adata.obs[f"{key_added}_agreement"]``, ``adata.obs[f"{key_added}_consensus"]``
        Share of the refits that put a cell into its own cluster; the cluster it is most often in.
    ``adata.uns[key_added]["stability"]``
        ``jaccard`` of each cluster, ``together`` (share of pairs of cells of two clusters that
        refits put together), ``merge`` and ``split`` (hints, if there are any), and
        ``calibration_error`` of the confidence, against refits that it was not made from.

    Raises
    ------
    TypeError, ValueError, KeyError
        For bad input, before training starts; `adata` is left as it was.
    MemoryError
        If there is too little memory, before any of it is taken.
    FileExistsError, FileNotFoundError, PermissionError
        If `checkpoint_dir` has other files in it; if it cannot be made or written to.
    FloatingPointError
        If the embedding is not finite before any training.
    """
    check_key(key_added)
    check_share("min_confidence", min_confidence)
    check_writable(adata, copy=copy)
    cells = settled(adata)
    if restrict_to is not None:
        cells = in_memory(cells[restricted(cells, restrict_to)])
        key_added = "siameseclu_R" if key_added == "siameseclu" else key_added
    model = SiameseClu(n_clusters, config=config)
    if n_resamples:
        stability.check(n_resamples, cells.n_obs, n_clusters, model.config)
    options: dict[str, Any] = {"use_rep": use_rep, "neighbors_key": neighbors_key}
    options |= {"batch_key": batch_key, "must_link": must_link, "cannot_link": cannot_link}
    if answers is not None:
        find_answers(cells, answers)  # says what is wrong with them
        if restrict_to is None and not n_resamples and not isinstance(rng, np.random.Generator):
            asked = options | {"layer": layer or "X", "min_confidence": min_confidence}
            if is_fitted(cells, key_added, n_clusters, model.config, rng, asked):
                return answer(adata, answers, key=key_added, keep=False, copy=copy)
    options |= {"checkpoint_dir": checkpoint_dir, "every": every}
    model.fit(cells, layer=layer, **options, rng=rng, mesh=mesh, progress=progress)
    if answers is not None:
        model.answer(cells, answers)
    if n_resamples:
        words = {"rng": model.manifest["seed"], "mesh": mesh, "progress": progress}
        model.assess(cells, n_resamples=n_resamples, **words)
    return write_clusters(
        adata,
        model,
        restrict_to=restrict_to,
        min_confidence=min_confidence,
        key_added=key_added,
        copy=copy,
    )


def add_clusters(
    adata: AnnData,
    model: SiameseClu,
    *,
    restrict_to: RestrictTo | None = None,
    min_confidence: float | None = None,
    key_added: str = "siameseclu",
    copy: bool = False,
) -> AnnData | None:
    """Write what a model found into the object that it was fitted to.

    Parameters
    ----------
    adata
        The cells that `model` was fitted to, in the same order.
    model
        A fitted model.
    restrict_to
        Column of ``obs`` and groups in it, if the model was fitted to their cells only.
    min_confidence
        As in :func:`siameseclu`.
    key_added
        Name under which results are stored.
    copy
        Return a changed copy and leave `adata` as it is.

    Returns
    -------
    None, or the copy, with what :func:`siameseclu` lists.

    Raises
    ------
    RuntimeError
        If `model` is not fitted.
    ValueError
        If it was fitted to another number of cells, or to the same cells in another order.
    """
    check_key(key_added)
    check_share("min_confidence", min_confidence)
    cells = settled(adata)
    model.check_cells(cells if restrict_to is None else cells[restricted(cells, restrict_to)])
    return write_clusters(
        adata,
        model,
        restrict_to=restrict_to,
        min_confidence=min_confidence,
        key_added=key_added,
        copy=copy,
    )


def write_clusters(
    adata: AnnData,
    model: SiameseClu,
    *,
    restrict_to: RestrictTo | None = None,
    min_confidence: float | None = None,
    key_added: str = "siameseclu",
    copy: bool = False,
) -> AnnData | None:
    """Do what :func:`add_clusters` does, of cells that are known to be those of the fit."""
    adata = writable(adata, copy=copy)
    embedding = model.get_latent_representation()
    options: dict[str, Any] = {"restrict_to": restrict_to, "min_confidence": min_confidence}
    fused = model.get_latent_representation(fused=True)
    apart = None if np.array_equal(fused, embedding) else fused
    add(adata, key_added, model, embedding, fused=apart, **options)
    adata.obs[key_added] = adata.obs[key_added].cat.remove_unused_categories()
    manifest, asked = dict(model.manifest), model.n_clusters
    source = {k: np.array(v) if k in OPTIONS else v for k, v in manifest.pop("input").items()}
    if restrict_to is not None:
        options["restrict_to"] = stored_restriction(*restrict_to)
    adata.uns[key_added] = {
        "params": {"n_clusters": asked if asked == "auto" else int(asked)}
        | source
        | {name: value for name, value in options.items() if value is not None}
        | split_of(adata, model.manifest["input"]["layer"])
        | ({} if apart is None else {"fused": f"X_{key_added}_fused"})
        | {"config": model.config.to_dict()},
        "history": {name: values.copy() for name, values in model.history.items()},
        "manifest": storable(manifest),
    } | ({} if model.estimate is None else {"estimate": model.estimate._asdict()})
    adata.uns[key_added] |= stability_of(model)
    if model.candidates is not None and restrict_to is None:
        adata.uns[key_added]["candidates"] = add_pool(adata, key_added, model.candidates)
    if len(model.answers):
        adata.uns[key_added]["answers"] = model.answers
    n = len(adata.obs[key_added].cat.categories.drop(UNASSIGNED, errors="ignore"))
    logger.info("found %d clusters and added %r (adata.obs, categorical)", n, key_added)
    return adata if copy else None


def predict(
    adata: AnnData,
    model: SiameseClu,
    *,
    layer: str | None = "counts",
    alpha: float = 0.05,
    min_confidence: float | None = None,
    key_added: str = "siameseclu",
    copy: bool = False,
) -> AnnData | None:
    """Cluster cells that a fitted model has not seen.

    Parameters
    ----------
    adata
        New cells x genes with raw counts, on disk or not; genes are found by name.
    model
        A fitted or loaded model.
    layer
        Where the raw counts are, as in :func:`siameseclu`.
    alpha
        Share of the cells like those of the fit that may be called novel, between 0 and 1.
    min_confidence
        As in :func:`siameseclu`.
    key_added
        Name under which results are stored.
    copy
        Return a changed copy and leave `adata` as it is.

    Returns
    -------
    None, or the copy. Written are

    ``adata.obs[key_added]``
        Cluster of each cell, categorical with all names of the fit, whether cells have them or not.
    ``adata.obs[f"{key_added}_confidence"]``
        Chance that another plausible fit of the model's cells puts the cell into the same cluster,
        float32.
    ``adata.obs[f"{key_added}_novelty"]``
        Share of the fit's cells that are less surprising, float32, 0 to 1.
    ``adata.obs[f"{key_added}_is_novel"]``
        Whether a cell is unlike those of the fit, boolean: its cluster then says little.
    ``adata.obsm[f"X_{key_added}"]``, ``adata.obsm[f"{key_added}_proba"]``
        Embedding [n, d] and soft assignments [n, k], float32, in the space of the fit.
    ``adata.uns[key_added]``
        ``params``, the model's ``manifest``, and, if there are any, ``missing_genes`` that features
        are made from, and ``n_missing_genes``, the number of all genes of the fit that are missing.

    Raises
    ------
    RuntimeError
        If `model` is not fitted.
    TypeError, KeyError, ValueError
        See :meth:`scsiameseclu_jax.SiameseClu.predict`; `adata` is left as it was.
    """
    check_key(key_added)
    check_share("min_confidence", min_confidence)
    check_writable(adata, copy=copy)
    prediction = model.predict(adata, layer=layer, alpha=alpha)
    adata = writable(adata, copy=copy)
    add(adata, key_added, prediction, prediction.embedding, min_confidence=min_confidence)
    adata.obs[f"{key_added}_novelty"] = prediction.novelty
    adata.obs[f"{key_added}_is_novel"] = prediction.is_novel
    adata.uns[key_added] = {
        "params": {
            "layer": "X" if layer is None else layer,
            "alpha": float(alpha),
            "config": model.config.to_dict(),
        }
        | ({} if min_confidence is None else {"min_confidence": min_confidence})
        | split_of(adata, "X" if layer is None else layer),
        "manifest": storable(model.manifest),
    } | ({"missing_genes": np.array(prediction.missing_genes)} if prediction.missing_genes else {})
    if prediction.n_missing:
        adata.uns[key_added]["n_missing_genes"] = prediction.n_missing
    logger.info(
        "%d of %d cells are novel; added %r (adata.obs, categorical)",
        prediction.is_novel.sum(),
        adata.n_obs,
        key_added,
    )
    return adata if copy else None
