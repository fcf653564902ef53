"""One fit: the four stages in order, in chunks of steps with a look at the losses between them."""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import scsiameseclu_jax.functional as F
from scsiameseclu_jax import pp
from scsiameseclu_jax.batches import Batches
from scsiameseclu_jax.config import Config
from scsiameseclu_jax.consensus import Consensus, first_partition
from scsiameseclu_jax.device import device_data
from scsiameseclu_jax.partition import centers_of
from scsiameseclu_jax.progress import Progress

logger = logging.getLogger(__name__)

_CHUNK = 10  # steps between two looks at the losses, at most


class Fit(NamedTuple):
    """What a fit leaves."""

    state: F.TrainState
    """The trained state."""
    data: F.CellData
    """The cells, padded."""
    history: dict[str, np.ndarray]
    """Loss terms and monitors, a value for each step."""
    findings: dict[str, Any]
    """What was decided on the way, and warnings; plain types."""
    first_step: float | None
    """When the first step was done, as ``time.perf_counter()`` has it; None without steps."""


class _Whole:
    """Steps that see all cells."""

    cells_per_step = "all"

    def __init__(self, prepared: pp.Prepared, n_clusters: int, *, config: Config) -> None:
        self.data = device_data(prepared)
        self._n_clusters, self._config = n_clusters, config

    def init(self, key: jax.Array) -> F.TrainState:
        return F.init(key, self.data, n_clusters=self._n_clusters, config=self._config)

    def ready(self, state: F.TrainState, stage: F.Stage, sizes: set[int]) -> None:
        """Compile a stage ahead, and give back what that leaves.

        Compilers free hundreds of MB in small pieces, which glibc would keep through the first run.
        """
        for size in sorted(sizes):
            program = F.fit.lower(state, self.data, config=self._config, n_steps=size, stage=stage)
            program.compile()
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except (AttributeError, OSError, TypeError):  # not glibc
            logger.debug("no malloc_trim on this platform")

    def run(
        self, state: F.TrainState, stage: F.Stage, n_steps: int
    ) -> tuple[F.TrainState, F.StepInfo]:
        return F.fit(state, self.data, config=self._config, n_steps=n_steps, stage=stage)


def fit(
    prepared: pp.Prepared,
    n_clusters: int,
    *,
    config: Config,
    seed: int,
    progress: bool | None = False,
    weights: Mapping[str, float] | None = None,
) -> Fit:
    """Run all stages on prepared cells.

    Parameters
    ----------
    prepared
        From :func:`scsiameseclu_jax.pp.prepare`.
    n_clusters
        Number of clusters.
    config
        All settings.
    seed
        Of the networks, the noise and the first partition.
    progress
        See :meth:`scsiameseclu_jax.SiameseClu.fit`.
    weights
        Of loss terms, instead of those in ``config.losses``. They are values of the state, so
        that other weights, other than 0, need no other programs.

    Raises
    ------
    ValueError
        If a weight is of a term that the config leaves out, or is not positive.
    FloatingPointError
        If a loss term is not finite; it is named.
    """
    steps = config.training
    plan: list[tuple[F.Stage, int]] = [
        ("features", steps.feature_steps),
        ("graph", steps.graph_steps),
        ("joint", steps.joint_steps),
        ("train", steps.steps),
    ]
    source: _Whole | Batches
    if len(prepared.order) <= config.scale.full_cells:
        source = _Whole(prepared, n_clusters, config=config)
    else:
        source = Batches(prepared, n_clusters, config=config, seed=seed)
    state = source.init(jax.random.key(seed))
    if weights:
        state = _weighted(state, weights)
    rows: list[dict[str, np.ndarray]] = []
    notes: list[str] = []
    first: float | None = None
    with Progress(sum(count for _, count in plan), show=progress) as bar:
        for stage, count in plan:
            if stage == "train":
                state, choice = _start_clustering(state, source.data, prepared, seed, config)
            state = F.start_stage(state, stage, config=config)
            chunks = _chunks(count)
            source.ready(state, stage, set(chunks))
            for size in chunks:
                begun_at = time.perf_counter()
                state, info = source.run(state, stage, size)
                rows.append(_record(info, stage))
                if first is None:
                    first = begun_at + (time.perf_counter() - begun_at) / size
                bar.update(size, stage, rows[-1])
                if stage == "train" and _settled(rows, config.training.patience):
                    logger.info("stopped early: no cell's target has changed for a while")
                    break
    if not bool(state.plan.converged):
        notes.append(_not_converged(state.plan, config))
        logger.warning(notes[-1])
    landmarks = F.landmarks(source.data.mask, config=config)
    findings: dict[str, Any] = {
        "first_partition": choice.name,
        "draws_agree": round(float(choice.agreement.mean()), 4),
        "pairs": "all" if landmarks is None else f"{len(landmarks)} landmarks",
        "cells_per_step": source.cells_per_step,
        "neighbors": prepared.search,
        "training_steps": sum(len(row["loss"]) for row in rows if row["stage"][0] == "train"),
        "warnings": notes,
    }
    state = F.occupy(state, source.data, config=config)
    return Fit(state, source.data, _stack(rows), findings, first)


def _weighted(state: F.TrainState, weights: Mapping[str, float]) -> F.TrainState:
    for name, value in weights.items():
        if name not in state.weights or not 0 < value < np.inf:
            msg = (
                f"Expected positive weights of {sorted(state.weights)}, found {name!r}: {value}. "
                "A term is left out, or taken in, by `config.losses`."
            )
            raise ValueError(msg)
    changed = {n: jnp.full_like(state.weights[n], value) for n, value in weights.items()}
    return state._replace(weights=state.weights | changed)


def _start_clustering(
    state: F.TrainState, data: F.CellData, prepared: pp.Prepared, seed: int, config: Config
) -> tuple[F.TrainState, Consensus]:
    """Remove edges, and take centres and proportions from a first partition."""
    state = F.remove_edges(state, data, config=config)
    n, n_neighbors = len(prepared.order), config.preprocessing.n_neighbors
    n_clusters = len(state.proportions)
    z = np.asarray(F.predict(state, data, config=config).embedding)[:n]
    views = [prepared.features, *prepared.others]
    choice = first_partition(
        z, views, n_clusters, n_neighbors=n_neighbors, batch=prepared.batch, seed=seed
    )
    logger.info("first partition: %s", choice.name)
    centers = jnp.asarray(centers_of(z, choice.clusters, n_clusters), jnp.float32)
    sizes = jnp.asarray(np.bincount(choice.clusters), jnp.float32)
    return F.start_clustering(state, data, centers, sizes, config=config), choice


def _chunks(count: int) -> list[int]:
    """Split steps into equal chunks, so that one compilation serves them all."""
    size = next((s for s in range(min(_CHUNK, count), 0, -1) if count % s == 0), 1)
    return [size] * (count // size)


def _settled(rows: list[dict[str, np.ndarray]], patience: int) -> bool:
    """Whether no target's largest entry moved in the last `patience` training steps."""
    changed = np.concatenate([row["changed"] for row in rows if row["stage"][0] == "train"])
    return 0 < patience <= len(changed) and not changed[-patience:].any()


def _record(info: F.StepInfo, stage: F.Stage) -> dict[str, np.ndarray]:
    """Turn a chunk of steps into named arrays, and stop at the first that is not finite."""
    made = {"loss": info.loss, **info.terms, "gradient_norm": info.gradient_norm}
    if stage == "train":
        made |= {
            "sinkhorn_error": info.sinkhorn_error,
            "sinkhorn_iterations": info.sinkhorn_iterations,
            "changed": info.changed,
            "size_entropy": info.size_entropy,
            "mean_cosine": info.mean_cosine,
            "silhouette": info.silhouette,
        }
    values = {name: np.asarray(value, np.float64) for name, value in made.items()}
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
    return {
        name: np.concatenate([row.get(name, np.full(len(row["stage"]), np.nan)) for row in rows])
        for name in names
    }


def _not_converged(plan: F.Plan, config: Config) -> str:
    return (
        f"Sinkhorn did not converge in {int(plan.iterations)} iterations (error "
        f"{float(plan.error):.2g}, threshold {config.transport.threshold:.2g}); raise "
        "config.transport.max_iterations or lower config.transport.sharpness."
    )
