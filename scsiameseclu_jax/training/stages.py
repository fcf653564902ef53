"""One fit: the four stages in order, in chunks of steps with a look at the losses between them."""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import scsiameseclu_jax.functional as F
from scsiameseclu_jax.config import Config
from scsiameseclu_jax.partition.candidates import centers_of
from scsiameseclu_jax.partition.consensus import Consensus, first_partition
from scsiameseclu_jax.preprocessing.prepare import Prepared
from scsiameseclu_jax.training.device import device_data, in_float32
from scsiameseclu_jax.training.minibatches import MiniBatches
from scsiameseclu_jax.training.progress import Progress

logger = logging.getLogger(__name__)

_CHUNK = 10  # steps between two looks at the losses, at most
# Loss terms that no stage before training has.
TRAINING_TERMS = (
    *("cell_correlation_features", "cell_correlation_graph", "latent_correlation"),
    *("propagation", "clustering", "pairs"),
)


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
    findings: dict[str, Any]
    """What was decided on the way, and warnings; plain types."""
    first_step: float | None
    """When the first step was done, as ``time.perf_counter()`` has it; None without steps."""


class _Whole:
    """Steps that see all cells."""

    cells_per_step = "all"

    def __init__(self, prepared: Prepared, n_clusters: int, *, config: Config) -> None:
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


class Pretrained(NamedTuple):
    """What training starts from: pre-trained networks, and what the first partition says."""

    state: F.TrainState
    """The state after pre-training, view 1's edges chosen."""
    partition: Consensus
    """The first partition."""
    centers: np.ndarray
    """[k, d] its centres in the embedding."""
    config: Config
    """The settings it was made with."""
    seed: int
    """The seed it was made with."""


class _Run:
    """The stages of one fit, with its progress and its history."""

    def __init__(self, prepared: Prepared, n_clusters: int, *, config: Config, seed: int) -> None:
        self.source: _Whole | MiniBatches
        if len(prepared.order) <= config.scale.full_cells:
            self.source = _Whole(prepared, n_clusters, config=config)
        else:
            self.source = MiniBatches(prepared, n_clusters, config=config, seed=seed)
        self.prepared, self.n_clusters = prepared, n_clusters
        self.config, self.seed = config, seed
        self.rows: list[dict[str, np.ndarray]] = []
        self.first_step: float | None = None

    def stage(self, state: F.TrainState, stage: F.Stage, count: int, bar: Progress) -> F.TrainState:
        """Take the steps of one stage; of training fewer, if it settles."""
        state = F.start_stage(state, stage, config=self.config)
        chunks = _chunks(count)
        self.source.ready(state, stage, set(chunks))
        for size in chunks:
            begun_at = time.perf_counter()
            state, info = self.source.run(state, stage, size)
            self.rows.append(_record(info, stage))
            if self.first_step is None:
                self.first_step = begun_at + (time.perf_counter() - begun_at) / size
            bar.update(size, stage, self.rows[-1])
            if stage == "train" and _settled(self.rows, self.config.training.patience):
                logger.info("stopped early: no cell's target has changed for a while")
                break
        return state

    def embed(self, state: F.TrainState, bar: Progress) -> tuple[F.TrainState, np.ndarray]:
        """Train both autoencoders and choose view 1's edges; return also the embedding [n, d]."""
        steps, data = self.config.training, self.source.data
        state = self.stage(state, "features", steps.feature_steps, bar)
        state = self.stage(state, "graph", steps.graph_steps, bar)
        state = self.stage(state, "joint", steps.joint_steps, bar)
        state = F.remove_edges(state, data, config=self.config)
        z = np.asarray(F.predict(state, data, config=self.config).embedding)
        return state, z[: len(self.prepared.order)]

    def pretrain(self, state: F.TrainState, bar: Progress) -> Pretrained:
        """Train both autoencoders, choose view 1's edges, and find the first partition."""
        state, z = self.embed(state, bar)
        partition = first_partition(
            z,
            [self.prepared.features, *self.prepared.others],
            self.n_clusters,
            n_neighbors=self.config.preprocessing.n_neighbors,
            batch=self.prepared.batch,
            pairs=self.prepared.pairs,
            how=self.config.training.first_partition,
            seed=self.seed,
        )
        logger.info("first partition: %s", partition.name)
        centers = centers_of(z, partition.clusters, self.n_clusters)
        return Pretrained(state, partition, centers, self.config, self.seed)


@in_float32
def fit_embedding(
    prepared: Prepared, *, config: Config, seed: int, progress: bool | None = False
) -> np.ndarray:
    """Return the embedding [n, d] that pre-training makes: no partition, no number of clusters.

    Parameters
    ----------
    prepared
        From :func:`scsiameseclu_jax.preprocessing.prepare.prepare`, whose order the rows have.
    config, seed, progress
        See :func:`fit`.

    Raises
    ------
    FloatingPointError
        If a loss term is not finite; it is named.
    """
    run = _Run(prepared, 2, config=config, seed=seed)  # a state has centres; nobody uses these two
    with Progress(_steps_before_training(config), show=progress) as bar:
        _, embedding = run.embed(run.source.init(jax.random.key(seed)), bar)
    return embedding


def pretrain(
    prepared: Prepared, n_clusters: int, *, config: Config, seed: int, progress: bool | None
) -> Pretrained:
    """Run what comes before training, for several fits that differ in training only.

    For the parameters see :func:`fit`.
    """
    run = _Run(prepared, n_clusters, config=config, seed=seed)
    with Progress(_steps_before_training(config), show=progress) as bar:
        return run.pretrain(run.source.init(jax.random.key(seed)), bar)


def fit(
    prepared: Prepared,
    n_clusters: int,
    *,
    config: Config,
    seed: int,
    progress: bool | None = False,
    weights: Mapping[str, float] | None = None,
    pretrained: Pretrained | None = None,
) -> Fit:
    """Run all stages on prepared cells.

    Parameters
    ----------
    prepared
        From :func:`scsiameseclu_jax.prepare`.
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
    pretrained
        From :func:`pretrain` of the same cells and seed, instead of doing that again. Not changed.

    Raises
    ------
    ValueError
        If a weight is of a term that the config leaves out, or is not positive; if pre-training
        would have differed from what `pretrained` is of.
    FloatingPointError
        If a loss term is not finite; it is named.
    """
    if pretrained is not None:
        _expect_same_pretraining(pretrained, config, seed, weights or {})
    steps = config.training.steps
    total = steps if pretrained is not None else steps + _steps_before_training(config)
    run = _Run(prepared, n_clusters, config=config, seed=seed)
    state = _weighted(run.source.init(jax.random.key(seed)), weights or {})
    with Progress(total, show=progress) as bar:
        if pretrained is None:
            start = run.pretrain(state, bar)
            state = start.state
        else:
            start = pretrained  # steps donate their state, so they get a copy
            state = jax.tree.map(jnp.copy, start.state)._replace(weights=state.weights)
        sizes = jnp.asarray(np.bincount(start.partition.clusters), jnp.float32)
        centers = jnp.asarray(start.centers, jnp.float32)
        data = run.source.data
        state = F.start_clustering(state, data, centers, sizes, config=config)
        state = run.stage(state, "train", steps, bar)
    notes: list[str] = []
    if not bool(state.plan.converged):
        notes.append(_not_converged(state.plan, config))
        logger.warning(notes[-1])
    votes = start.partition.votes
    findings: dict[str, Any] = {
        "first_partition": start.partition.name,
        "confidence": "not calibrated" if votes is None else "calibrated by its votes",
        "pairs": _pairs(data, config),
        "cells_per_step": run.source.cells_per_step,
        "neighbors": prepared.search,
        "training_steps": sum(len(r["loss"]) for r in run.rows if r["stage"][0] == "train"),
        "warnings": notes,
    }
    if votes is not None:
        findings["votes_agree"] = round(float(votes.max(axis=1).mean()), 4)
    state = F.occupy(state, data, config=config)
    return Fit(state, data, _stack(run.rows), votes, findings, run.first_step)


def _pairs(data: F.CellData, config: Config) -> str:
    """Say which pairs of cells are compared."""
    if not config.fusion.global_attention and config.losses.adjacency == 0:
        return "none"
    landmarks = F.landmarks(data.mask, config=config)
    return "all" if landmarks is None else f"{len(landmarks)} landmarks"


def same_pretraining(config: Config, other: Config) -> bool:
    """Whether two settings differ only in what nothing before training depends on."""
    return _before_training(config) == _before_training(other)


def _before_training(config: Config) -> Config:
    """Return the settings with all that only training has at its default."""
    usual = Config()
    terms = {name: getattr(usual.losses, name) for name in TRAINING_TERMS}
    noise, own = usual.augmentation.feature_noise, usual.training
    training = replace(config.training, steps=own.steps, rate=own.rate, patience=own.patience)
    return replace(
        config,
        transport=usual.transport,
        losses=replace(config.losses, **terms),
        augmentation=replace(config.augmentation, feature_noise=noise),
        training=training,
    )


def _expect_same_pretraining(
    pretrained: Pretrained, config: Config, seed: int, weights: Mapping[str, float]
) -> None:
    found = [name for name in weights if name not in TRAINING_TERMS]
    if not same_pretraining(config, pretrained.config):
        found.append("config")
    if seed != pretrained.seed:
        found.append("seed")
    if found:
        msg = (
            f"Expected `pretrained` to differ in training only, found another {found}; "
            "pre-train with it."
        )
        raise ValueError(msg)


def _steps_before_training(config: Config) -> int:
    steps = config.training
    return steps.feature_steps + steps.graph_steps + steps.joint_steps


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
        "config.transport.max_iterations or lower config.transport.sharpness."
    )
