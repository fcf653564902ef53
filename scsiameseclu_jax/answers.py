"""The clusters after answers of the user: chosen among candidates, and transported anew."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

import scsiameseclu_jax.functional as F
from scsiameseclu_jax.certainty.calibration import Calibration, calibrate
from scsiameseclu_jax.partition.questions import Pool, choose, kept
from scsiameseclu_jax.partition.voting import by_size, check_sizes
from scsiameseclu_jax.preprocessing import constraints
from scsiameseclu_jax.preprocessing.constraints import Answers
from scsiameseclu_jax.training.stages import cluster_again

logger = logging.getLogger(__name__)


class Again(NamedTuple):
    """The clusters after answers."""

    state: F.TrainState
    """Holds the centres, proportions and potential of the clusters, and nothing else of use."""
    clusters: np.ndarray
    """[n] cluster of each cell, 0 the largest."""
    proba: np.ndarray
    """[n, k] soft assignments, float32, rows sum to 1."""
    rank: np.ndarray
    """[k] cluster of the state that has each name."""
    votes: np.ndarray
    """[n, k] share of the voters for each cluster, float32."""
    calibration: Calibration
    """What turns soft assignments into confidence."""
    answers: pd.DataFrame
    """All answers that count, as :func:`constraints.find_answers` reads them."""
    manifest: dict[str, Any]
    """That of the fit, with what was decided here."""


def cluster_by_answers(
    adata: AnnData,
    pool: Pool,
    embedding: np.ndarray,
    method: F.Method,
    tables: Sequence[pd.DataFrame],
    *,
    order: np.ndarray,
    manifest: dict[str, Any],
) -> Again:
    """Choose among the candidates by answers, and transport the cells anew.

    Parameters
    ----------
    adata
        The cells of the fit; only ``obs_names`` are looked at.
    pool, embedding
        Its candidates, and the embedding [n, d] that they are partitions of.
    method
        The method of the fit.
    tables
        Answers, earlier ones first; without any it is the partition of the fit.
    order
        [n] the order of the cells in which the fit saw them: results are then the same to the bit.
    manifest
        Of the fit. Candidates heed its ``must_link`` and ``cannot_link`` already, and they hold
        for these cells after the transport, as in the fit.
    """
    given = constraints.joined_answers([constraints.find_answers(adata, one) for one in tables])
    known = {name: manifest["input"].get(name) for name in constraints.OPTIONS}
    pairs = constraints.find_constraints(adata, **known)
    back = np.argsort(order)
    choice = choose(pool.of_cells(order), _moved(given, back))
    state, proba = cluster_again(method, embedding[order], choice.clusters)
    if pairs is not None:
        proba = constraints.constrain(proba, pairs._replace(rows=back[pairs.rows]))
    found, rank = by_size(proba.argmax(axis=1), method.n_clusters)
    clusters = found[back]
    proba = proba[:, rank][back].astype(np.float32)
    votes = choice.votes[:, rank][back]
    # of training, which stays as it is
    notes = [str(found["warning"]) for found in manifest.get("diverged", {}).values()]
    check_sizes(clusters, method.n_clusters, notes)
    _check_contradictions(adata, given, notes)
    old = {"answers", "n_resamples", *constraints.OPTIONS}
    record = {name: value for name, value in manifest.items() if name not in old}
    record |= {
        "first_partition": f"consensus of {choice.n_voters} candidates",
        "votes_agree": round(float(votes.max(axis=1).mean()), 4),
        "confidence": "calibrated by its votes",
        "warnings": notes,
        **constraints.kept(clusters, pairs),
    }
    if len(given.same):
        held, sure = kept(clusters, given), given.same >= 0
        record["answers"] = {"given": int(sure.sum()), "kept": int(held[sure].sum())}
        record["first_partition"] += f", {int(sure.sum())} answers"
    table, calibration = constraints.answers_table(adata, given), calibrate(proba, votes)
    return Again(state, clusters, proba, rank, votes, calibration, table, record)


def _check_contradictions(adata: AnnData, answers: Answers, notes: list[str]) -> None:
    """Warn, and add a note, if answers contradict each other."""
    torn = constraints.contradictions(answers)
    if torn:
        one, two = (adata.obs_names[side[torn[0]][0]] for side in (answers.first, answers.second))
        note = (
            f"{len(torn)} of the answers say no of two groups of cells that others, of yes, tie "
            f"together; the first such groups are those of {one!r} and {two!r}. Look at them "
            "again, or answer them with unsure."
        )
        notes.append(note)
        logger.warning(note)


def _moved(answers: Answers, back: np.ndarray) -> Answers:
    """Return answers about the same cells in other rows."""
    first, second = ([back[rows] for rows in side] for side in (answers.first, answers.second))
    return answers._replace(first=first, second=second)
