"""The clusters after answers of the user: chosen among candidates, and transported anew."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

import scsiameseclu_jax.functional as F
from scsiameseclu_jax.certainty.calibration import Calibration, calibrate
from scsiameseclu_jax.partition.questions import Pool, choose, kept
from scsiameseclu_jax.partition.voting import by_size
from scsiameseclu_jax.preprocessing import constraints
from scsiameseclu_jax.preprocessing.constraints import Answers
from scsiameseclu_jax.training.stages import cluster_again


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
    findings: dict[str, Any]
    """What was decided, in plain types."""


def cluster_by_answers(
    adata: AnnData,
    pool: Pool,
    embedding: np.ndarray,
    answers: pd.DataFrame,
    method: F.Method,
    *,
    order: np.ndarray,
    known: dict[str, Any],
) -> Again:
    """Choose among the candidates by answers, and transport the cells anew.

    Parameters
    ----------
    adata
        The cells of the fit; only ``obs_names`` are looked at.
    pool, embedding
        Its candidates and embedding [n, d].
    answers
        All that count; none is the partition without any.
    method
        The method of the fit.
    order
        [n] the order of the cells in which the fit saw them: results are then the same to the bit.
    known
        ``must_link`` and ``cannot_link`` of the fit: candidates heed them already, and they hold
        for these cells after the transport, as in the fit.
    """
    given = constraints.find_answers(adata, answers)
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
    findings: dict[str, Any] = {
        "first_partition": f"consensus of {choice.n_voters} candidates",
        "votes_agree": round(float(votes.max(axis=1).mean()), 4),
        **constraints.kept(clusters, pairs),
    }
    if len(given.same):
        held, sure = kept(clusters, given), given.same >= 0
        findings["answers"] = {"given": int(sure.sum()), "kept": int(held[sure].sum())}
        findings["first_partition"] += f", {int(sure.sum())} answers"
    return Again(state, clusters, proba, rank, votes, calibrate(proba, votes), findings)


def _moved(answers: Answers, back: np.ndarray) -> Answers:
    """Return answers about the same cells in other rows."""
    first, second = ([back[rows] for rows in side] for side in (answers.first, answers.second))
    return answers._replace(first=first, second=second)
