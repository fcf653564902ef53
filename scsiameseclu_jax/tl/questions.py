"""Ask the user which of the plausible partitions is right, and choose by the answers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

import scsiameseclu_jax.functional as F
from scsiameseclu_jax.answers import cluster_by_answers
from scsiameseclu_jax.certainty.calibration import confidence
from scsiameseclu_jax.certainty.questions import question_table
from scsiameseclu_jax.config import Config
from scsiameseclu_jax.manifest import check_cells
from scsiameseclu_jax.partition.questions import Pool
from scsiameseclu_jax.preprocessing import constraints
from scsiameseclu_jax.preprocessing.counts import layer_of
from scsiameseclu_jax.preprocessing.expression import groups
from scsiameseclu_jax.tl.record import (
    add,
    answers_of,
    check_writable,
    fused_of,
    of_embedding,
    pool_of,
    storable,
    writable,
)
from scsiameseclu_jax.tl.ties import origin

logger = logging.getLogger(__name__)

_INPUTS = ("layer", "use_rep", "neighbors_key", "batch_key", *constraints.OPTIONS)


class _Clusters(NamedTuple):
    """What is written of clusters."""

    labels: np.ndarray
    proba: np.ndarray
    confidence: np.ndarray


def questions(adata: AnnData, n: int = 5, *, key: str = "siameseclu") -> pd.DataFrame:
    """Return the questions whose answers would say most about which clusters are right.

    Several partitions are plausible, and the counts do not say which is right; whoever knows the
    tissue may. Each question is whether two small groups of cells are of one type. Fill in the
    column ``answer`` with yes, no or unsure, and hand the table to :func:`answer`. Asked one at a
    time, each question heeds the answers before.

    Parameters
    ----------
    adata
        After :func:`siameseclu`, with its raw counts; not changed.
    n
        How many questions. There are fewer, or none, if the candidates agree.
    key
        The ``key_added`` of the clustering.

    Returns
    -------
    A row for each question; for the columns see :meth:`scsiameseclu_jax.SiameseClu.questions`.

    Raises
    ------
    KeyError
        If there is no such clustering, or it has no candidates to ask about.
    ValueError, TypeError
        If the cells or their counts are not those of the fit, or `n` is no number of questions.

    Examples
    --------
    >>> import scsiameseclu_jax as scs
    >>> adata = scs.datasets.pbmc68k_reduced()
    >>> scs.tl.siameseclu(adata, 8, progress=False)
    >>> table = scs.tl.questions(adata, 3)
    >>> table["answer"] = ["yes", "no", "unsure"]  # by what genes_a and genes_b say
    >>> scs.tl.answer(adata, table)
    """
    record, pool, fit = _record(adata, key)
    check_cells(adata, fit, counts=True)
    own = origin(groups(adata, key), adata.obsm.get(f"{key}_proba"), record["params"]).own
    names = pd.Series(own).astype(object).fillna("no cluster").to_numpy()
    embedding, layer = fused_of(adata, key), layer_of(adata, fit["input"]["layer"])
    answers = answers_of(record)
    return question_table(adata, pool, embedding, names, answers, layer=layer, n=n)


def answer(
    adata: AnnData,
    answers: pd.DataFrame | None,
    *,
    key: str = "siameseclu",
    keep: bool = True,
    copy: bool = False,
) -> AnnData | None:
    """Choose again among the candidates of a clustering, by what the user knows.

    Takes about a second: nothing is trained or searched anew. Centres start from the chosen
    partition; those that training has moved (``config.training.steps``, none by default) come back
    by another fit only.

    Parameters
    ----------
    adata
        After :func:`siameseclu`.
    answers
        A table of :func:`questions`, answered; rows without an answer do not count.
    key
        The ``key_added`` of the clustering.
    keep
        Whether earlier answers count as well; of a question that is answered again, the last does.
        ``answer(adata, None, keep=False)`` takes all of them back.
    copy
        Return a changed copy and leave `adata` as it is.

    Returns
    -------
    None, or the copy. Written anew are the clusters, their confidence and soft assignments, by size
    as always; ``uns[key]["answers"]`` and ``uns[key]["manifest"]`` say what was answered and how
    many answers are kept. What earlier results say of other clusters is removed.

    Raises
    ------
    KeyError
        If there is no such clustering, it has no candidates, or cells are named that there are not.
    TypeError, ValueError
        If this is no table of answers, or the cells are not those of the fit.
    """
    check_writable(adata, copy=copy)
    record, pool, fit = _record(adata, key)
    order = check_cells(adata, fit, counts=False)
    tables = [answers_of(record)] if keep else []
    tables += [] if answers is None else [answers]
    if "transport" in fit.get("choices", {}):
        msg = (
            f"Expected a clustering with the usual transport in uns[{key!r}], found one with "
            f"{fit['choices']['transport']!r}; call `model.answer` and `scs.tl.add_clusters`."
        )
        raise ValueError(msg)
    embedding = fused_of(adata, key)
    transport = record["params"]["config"]["transport"]
    settings = {"transport": transport, "network": {"n_latent": embedding.shape[1]}}
    method = F.siameseclu(pool.n_clusters, config=Config.from_dict(settings))
    options: dict[str, Any] = {"order": order, "manifest": fit}
    again = cluster_by_answers(adata, pool, embedding, method, tables, **options)

    adata = writable(adata, copy=copy)
    before = _names(adata)
    sure = confidence(again.calibration, again.proba)
    result, least = _Clusters(again.clusters, again.proba, sure), record["params"]
    kept = {name: adata.obsm[name] for name in of_embedding(key) if name in adata.obsm}
    add(adata, key, result, adata.obsm[f"X_{key}"], min_confidence=least.get("min_confidence"))
    adata.obsm.update(kept)
    adata.obs[key] = adata.obs[key].cat.remove_unused_categories()
    manifest = {name: value for name, value in again.manifest.items() if name != "input"}
    record = {name: v for name, v in record.items() if name not in ("stability", "answers")}
    table = again.answers
    heeded = {"answers": table} if len(table) else {}
    adata.uns[key] = record | {"manifest": storable(manifest)} | heeded
    logger.info("chose among %d candidates by %d answers", len(pool.clusters), len(table))
    gone = sorted(before - _names(adata))
    if gone:
        logger.info("removed what was of the clusters before: %s", ", ".join(map(repr, gone)))
    return adata if copy else None


def _names(adata: AnnData) -> set[str]:
    """Return the names of all results, but for colours, that an object holds."""
    names = {str(name) for part in (adata.obs, adata.obsm, adata.uns) for name in part}
    return {name for name in names if not name.endswith("_colors")}


def is_fitted(
    adata: AnnData,
    key: str,
    n_clusters: int | str,
    config: Config,
    seed: int,
    asked: dict[str, Any],
) -> bool:
    """Whether an object holds the clustering that a fit with these options would find."""
    try:
        record, _, fit = _record(adata, key)
        check_cells(adata, fit, counts=True)
    except (KeyError, ValueError, TypeError):
        return False
    if "choices" in fit or asked["neighbors_key"] is not None:  # a graph may have changed since
        return False
    params = record["params"]
    links = constraints.plain(*(asked.pop(name) for name in constraints.OPTIONS))
    same = fit["config"] == config.fingerprint() and int(fit["seed"]) == seed
    same = same and str(params["n_clusters"]) == str(n_clusters) and "stability" not in record
    same = same and all(params.get(name) == value for name, value in asked.items())
    return same and all(
        np.array_equal(np.array(links.get(name, [])), np.asarray(params.get(name, [])))
        for name in constraints.OPTIONS
    )


def _record(adata: AnnData, key: str) -> tuple[dict[str, Any], Pool, dict[str, Any]]:
    """Return what ``uns`` holds of a clustering, its candidates, and the manifest of its fit."""
    record = adata.uns.get(key)
    if not isinstance(record, Mapping) or "manifest" not in record:
        msg = f"Expected a clustering in uns[{key!r}], found none; run "
        msg += f"`scs.tl.siameseclu(adata, key_added={key!r})` first."
        raise KeyError(msg)
    pool = pool_of(adata, key)
    params = record["params"]
    given = {name: params[name] for name in _INPUTS if name in params}
    return dict(record), pool, dict(record["manifest"]) | {"input": given}
