"""One fit: the stages in order, in chunks of steps with a look at the losses between them."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

import scsiameseclu_jax.functional as F
from scsiameseclu_jax.config import Config, Weights
from scsiameseclu_jax.partition.candidates import centers_of
from scsiameseclu_jax.partition.consensus import first_partition
from scsiameseclu_jax.partition.questions import Pool
from scsiameseclu_jax.preprocessing.prepare import Prepared
from scsiameseclu_jax.training.device import (
    bound_programs,
    device_data,
    give_back_memory,
    in_float32,
)
from scsiameseclu_jax.training.mesh import agreed, fitted_to, on_host, spread_state
from scsiameseclu_jax.training.minibatches import MiniBatches
from scsiameseclu_jax.training.progress import Progress

logger = logging.getLogger(__name__)


class Fit(NamedTuple):
    """What a fit leaves."""

    state: F.TrainState
    """The trained state."""
    data: F.CellData
    """The cells, padded."""
    history: dict[str, np.ndarray]
    """Loss terms and monitors, a value for each step."""
    votes: np.ndarray | None
    """[n, k] share of the votes for each cluster that the first partition came from, if it did."""
    pool: Pool | None
    """The candidates that it was chosen from, if there were several."""
    findings: dict[str, Any]
    """What was decided on the way, and warnings; plain types."""


class _Whole:
    """Steps that see all cells."""

    cells_per_step = "all"

    def __init__(self, prepared: Prepared, method: F.Method, *, mesh: Mesh | None = None) -> None:
        self.data, self._method = device_data(prepared, mesh=mesh), method

    def init(self, key: jax.Array) -> F.TrainState:
        return self._method.init(key, self.data)

    def begin(self, state: F.TrainState, stage: F.Stage) -> None:
        """Nothing to look up before a stage."""

    def run(
        self, state: F.TrainState, stage: F.Stage, n_steps: int
    ) -> tuple[F.TrainState, F.StepInfo]:
        return self._method.fit(state, self.data, n_steps=n_steps, stage=stage)


class _Run:
    """The stages of one fit, with its progress and its history."""

    def __init__(
        self, prepared: Prepared, method: F.Method, *, seed: int, mesh: Mesh | None = None
    ) -> None:
        self.source: _Whole | MiniBatches
        if len(prepared.order) <= method.config.scale.full_cells:
            self.source = _Whole(prepared, method, mesh=mesh)
        else:
            self.source = MiniBatches(prepared, method, seed=seed, mesh=mesh)
        bound_programs(method, self.source.data)
        self.method, self.config, self._mesh = method, method.config, mesh
        self.rows: list[dict[str, np.ndarray]] = []

    def stage(self, state: F.TrainState, stage: F.Stage, count: int, bar: Progress) -> F.TrainState:
        """Take the steps of one stage; of training fewer, if it settles."""
        if not count or not any(stage in term.stages for term in self.method.terms):
            return state
        bar.stage(stage, count)
        state = self.method.start_stage(state, stage)
        self.source.begin(state, stage)
        for start in range(0, count, F.CHUNK):
            size = min(F.CHUNK, count - start)
            state, info = self.source.run(state, stage, size)
            self.rows.append(_record(info, stage))
            if not start:
                give_back_memory()
            bar.update(size, self.rows[-1])
            if stage == "train" and _settled(self.rows, self.config.training.patience):
                logger.info("stopped early: no cell's target has changed for a while")
                break
        return state

    def pretrain(self, seed: int, bar: Progress) -> tuple[F.TrainState, jax.Array]:
        """Take the stages before clusters and choose view 1's edges; return state and embedding."""
        steps, data, method = self.config.training.steps_of(), self.source.data, self.method
        state = spread_state(self.source.init(jax.random.key(seed)), self._mesh)
        for stage in F.STAGES[:-1]:
            state = self.stage(state, stage, steps[stage], bar)
        bar.stage("embedding")
        if method.structure.edge_removal:
            state = method.prune_graph(state, data, method.embed(state, data))
        return state, method.embed(state, data)


def fit(
    prepared: Prepared, method: F.Method, *, seed: int, bar: Progress, mesh: Mesh | None = None
) -> Fit:
    """Run all stages on prepared cells.

    Parameters
    ----------
    prepared
        From :func:`scsiameseclu_jax.preprocessing.prepare.prepare`.
    method
        The method, with all settings.
    seed
        Of the networks, the noise and the first partition.
    bar
        Is told of the stages.
    mesh
        Devices that training and transport are split over; what is returned is whole, on one.

    Raises
    ------
    FloatingPointError
        If a loss term is not finite; it is named.
    """
    config, n, k = method.config, len(prepared.order), method.n_clusters
    bar.stage("embedding")
    run = _Run(prepared, method, seed=seed, mesh=mesh)
    data = run.source.data
    state, z = run.pretrain(seed, bar)
    embedding = on_host(z)[:n]
    bar.stage("first_partition")
    partition = first_partition(
        embedding,
        [prepared.features, *prepared.others],
        k,
        n_neighbors=config.preprocessing.n_neighbors,
        batch=prepared.batch,
        constraints=prepared.constraints,
        how=config.training.first_partition,
        seed=seed,
    )
    logger.info("first partition: %s", partition.name)
    clusters = agreed(partition.clusters, mesh)
    centers = centers_of(embedding, clusters, k).astype(np.float32)
    sizes = np.bincount(clusters, minlength=k).astype(np.float32)
    state = method.start_clustering(state, data, z, centers, sizes)
    state = run.stage(state, "train", config.training.steps, bar)
    notes: list[str] = []
    if not bool(state.plan.converged):
        notes.append(_not_converged(state.plan, config))
        logger.warning(notes[-1])
    votes = partition.votes
    findings: dict[str, Any] = {
        "first_partition": partition.name,
        "confidence": "not calibrated" if votes is None else "calibrated by its votes",
        "attention_over": _attention_over(data, method),
        "cells_per_step": run.source.cells_per_step,
        "neighbors": prepared.search,
        "training_steps": sum(len(r["loss"]) for r in run.rows if r["stage"][0] == "train"),
        "warnings": notes,
    }
    if votes is not None:
        findings["votes_agree"] = round(float(votes.max(axis=1).mean()), 4)
    if mesh is not None:
        findings["devices"] = {"mesh": mesh.size, "processes": jax.process_count()}
        data = device_data(prepared._replace(counts=prepared.counts[:, :0]))
        state = fitted_to(state, data)
    return Fit(state, data, _stack(run.rows), votes, partition.pool, findings)


@in_float32
def cluster_again(
    method: F.Method, embedding: np.ndarray, clusters: np.ndarray
) -> tuple[F.TrainState, np.ndarray]:
    """Transport cells to clusters that start elsewhere; the networks are not touched.

    Parameters
    ----------
    method
        The method; its networks are of no account.
    embedding
        [n, d] fused embedding.
    clusters
        [n] the partition to start from, 0 to k - 1, none empty.

    Returns
    -------
    A state, whose centres, proportions and potential are those of the clusters, and the soft
    assignments [n, k].
    """
    k, n = method.n_clusters, len(embedding)
    data = F.cell_data(embedding, None, np.arange(n)[:, None])
    z = data.features
    centers = centers_of(embedding, clusters, k).astype(np.float32)
    sizes = np.bincount(clusters, minlength=k).astype(np.float32)
    config = replace(method.config, losses=Weights())  # may name terms that are not here
    plain = F.siameseclu(k, config=config, transport=method.transport)
    state = plain.init(jax.random.key(0), data)
    state = plain.start_clustering(state, data, z, centers, sizes)
    state = plain.fill_empty_clusters(state, data, z)
    return state, np.asarray(plain.assign(state, z).proba)[:n]


@in_float32
def fit_embedding(prepared: Prepared, *, config: Config, seed: int, bar: Progress) -> np.ndarray:
    """Return the embedding [n, d] that users get: without clusters, or their number.

    For the parameters see :func:`fit`; the rows are in the order of `prepared`.
    """
    method = F.siameseclu(2, config=config)  # centres that nothing uses
    run = _Run(prepared, method, seed=seed)
    state, z = run.pretrain(seed, bar)
    z = method.represent(state, run.source.data.features, z)
    return np.asarray(z)[: len(prepared.order)]


def _attention_over(data: F.CellData, method: F.Method) -> str:
    """Say which pairs of cells are compared."""
    names = {term.name for term in method.terms}
    if not method.structure.fusion.global_attention and "adjacency" not in names:
        return "none"
    landmarks = F.landmarks(data.mask, structure=method.structure)
    return "all" if landmarks is None else f"{len(landmarks)} landmarks"


def _settled(rows: list[dict[str, np.ndarray]], patience: int) -> bool:
    """Whether no target's largest entry moved in the last `patience` training steps."""
    changed = np.concatenate([row["changed"] for row in rows if row["stage"][0] == "train"])
    return 0 < patience <= len(changed) and not changed[-patience:].any()


def _record(info: F.StepInfo, stage: F.Stage) -> dict[str, np.ndarray]:
    """Turn a chunk of steps into named arrays, and stop at the first that is not finite."""
    columns = {"loss": info.loss, **info.terms, "gradient_norm": info.gradient_norm}
    if stage == "train":
        columns |= {
            "sinkhorn_error": info.sinkhorn_error,
            "sinkhorn_iterations": info.sinkhorn_iterations,
            "changed": info.changed,
            "size_entropy": info.size_entropy,
            "mean_cosine": info.mean_cosine,
            "silhouette": info.silhouette,
        }
    values = {name: np.asarray(value, np.float64) for name, value in columns.items()}
    for name in (*info.terms, "gradient_norm"):
        if not np.isfinite(values[name]).all():
            step = int(np.argmin(np.isfinite(values[name])))
            msg = (
                f"Expected finite losses, found `{name}` = {values[name][step]} in stage "
                f"{stage!r}; lower `config.training` learning rates or leave the term out."
            )
            raise FloatingPointError(msg)
    values["stage"] = np.full(len(values["loss"]), stage)
    return values


def _stack(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not rows:
        return {"stage": np.zeros(0, str)}
    return {
        name: np.concatenate([row.get(name, np.full(len(row["stage"]), np.nan)) for row in rows])
        for name in names
    }


def _not_converged(plan: F.Plan, config: Config) -> str:
    return (
        f"Sinkhorn did not converge in {int(plan.iterations)} iterations (error "
        f"{float(plan.error):.2g}, threshold {config.transport.threshold:.2g}); raise "
        "config.transport.max_iterations or config.transport.epsilon."
    )
