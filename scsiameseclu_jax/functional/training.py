"""Initialisation, pre-training and training: one traced step each, under ``lax.scan``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax import Array

from scsiameseclu_jax.config import Config
from scsiameseclu_jax.functional import encoders as networks
from scsiameseclu_jax.functional.augmentation import kept_edges
from scsiameseclu_jax.functional.encoders import Params
from scsiameseclu_jax.functional.fusion import (
    embedding,
)
from scsiameseclu_jax.functional.monitors import mean_cosine, silhouette
from scsiameseclu_jax.functional.objective import (
    Terms,
    feature_terms,
    graph_terms,
    joint_terms,
    training_terms,
)
from scsiameseclu_jax.functional.transport import empty_plan, log_assignment, sinkhorn_plan
from scsiameseclu_jax.functional.types import CellData, Plan, StepInfo, TrainState

Stage = Literal["features", "graph", "joint", "train"]


@partial(jax.jit, static_argnames=("n_clusters", "config"))
def init(key: Array, data: CellData, *, n_clusters: int, config: Config) -> TrainState:
    """Initialise a state: networks, optimiser, an empty plan.

    Parameters
    ----------
    key
        Typed random key; the state keeps a fold of it for the noise of its steps.
    data
        The cells, for the shapes.
    n_clusters
        Number of clusters, at least 2.
    config
        Static settings.
    """
    n, n_features = data.features.shape
    params = networks.init_params(
        jax.random.fold_in(key, 0),
        n_features=n_features,
        n_genes=data.counts.shape[1],
        n_clusters=n_clusters,
        n_cells=n,
        config=config,
    )
    # of one type with the data, whatever the default is
    params = jax.tree.map(lambda p: p.astype(data.features.dtype), params)
    weights = {
        name: jnp.asarray(value, data.features.dtype)
        for name, value in config.to_dict()["losses"].items()
        if value > 0 and (name != "pairs" or data.pairs is not None)
    }
    return TrainState(
        params=params,
        optimizer=_optimizer("features", config).init(params),
        key=jax.random.fold_in(key, 1),
        step=jnp.asarray(0, jnp.int32),
        weights=weights,
        kept=jnp.ones_like(data.graph.graph.edges),
        proportions=jnp.full(n_clusters, 1 / n_clusters, data.features.dtype),
        plan=empty_plan(n, n_clusters, data.features.dtype),
    )


@partial(jax.jit, static_argnames=("stage", "config"))
def start_stage(state: TrainState, stage: Stage, *, config: Config) -> TrainState:
    """Begin a stage with a fresh optimiser."""
    return state._replace(optimizer=_optimizer(stage, config).init(state.params))


@partial(jax.jit, static_argnames="config")
def remove_edges(state: TrainState, data: CellData, *, config: Config) -> TrainState:
    """Choose view 1's edges by the similarity of the cells in the pre-trained embedding."""
    z = embedding(state, data, config=config)
    kept = kept_edges(data.graph, z, fraction=config.augmentation.edge_removal)
    return state._replace(kept=kept)


@partial(jax.jit, static_argnames="config")
def start_clustering(
    state: TrainState, data: CellData, centers: Array, proportions: Array, *, config: Config
) -> TrainState:
    """Set cluster centres and proportions, and compute the first target.

    Parameters
    ----------
    state
        Pre-trained state.
    data
        The cells.
    centers
        [k, d] centres in the fused embedding.
    proportions
        [k] share or number of cells of each cluster, positive; scaled to sum to 1 and held from
        here on.
    config
        Static settings.
    """
    dtype = data.features.dtype
    shares = (proportions / jnp.sum(proportions)).astype(dtype)
    plan = state.plan._replace(potential=jnp.zeros_like(shares))
    started = state._replace(
        params={**state.params, "centers": jnp.asarray(centers, dtype)},
        proportions=shares,
        plan=plan,
    )
    return refresh(started, data, config=config)


@partial(jax.jit, static_argnames="config")
def refresh(state: TrainState, data: CellData, *, config: Config) -> TrainState:
    """Compute the transport target anew, from the embedding of all cells without noise.

    A training step refreshes its own target; this serves where steps see some of the cells only.
    """
    log_q = log_assignment(embedding(state, data, config=config), state.params["centers"])
    plan = sinkhorn_plan(
        log_q, state.proportions, data.mask, state.plan.potential, config=config.transport
    )
    return state._replace(plan=plan)


def _optimizer(stage: Stage, config: Config) -> optax.GradientTransformation:
    setting = config.training
    rate = setting.rate if stage == "train" else setting.pretrain_rate
    steps = optax.chain(optax.clip_by_global_norm(setting.gradient_norm), optax.adam(rate))
    return optax.flatten(steps)  # one kernel to compile and run, not a few for each array


def _update(
    state: TrainState, loss: Callable[..., tuple[Terms, Array]], stage: Stage, config: Config
) -> tuple[TrainState, Terms, Array, Array, Array]:
    """Take one gradient step on the weighted sum of the terms."""

    def weighted(params: Params) -> tuple[Array, tuple[Terms, Array]]:
        terms, extra = loss(params)
        total = sum((state.weights[name] * value for name, value in terms.items()), jnp.zeros(()))
        return total, (terms, extra)

    with jax.default_matmul_precision(config.scale.precision):
        (total, (terms, extra)), gradient = jax.value_and_grad(weighted, has_aux=True)(state.params)
    change, optimizer = _optimizer(stage, config).update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, change)
    new = state._replace(params=params, optimizer=optimizer, step=state.step + 1)
    return new, terms, extra, total, optax.tree.norm(gradient)


def _pretrain_step(
    state: TrainState, data: CellData, *, stage: Stage, config: Config
) -> tuple[TrainState, StepInfo]:
    stages = {"features": feature_terms, "graph": graph_terms, "joint": joint_terms}
    key = jax.random.fold_in(state.key, state.step)

    def loss(params: Params) -> tuple[Terms, Array]:
        return stages[stage](params, key, data, config), jnp.zeros(())

    new, terms, _, total, norm = _update(state, loss, stage, config)
    zero = jnp.zeros(())
    plan = state.plan
    return new, StepInfo(total, terms, norm, plan.error, plan.iterations, zero, zero, zero, zero)


def _train_step(
    state: TrainState, data: CellData, *, config: Config
) -> tuple[TrainState, StepInfo]:
    key = jax.random.fold_in(state.key, state.step)

    def loss(params: Params) -> tuple[Terms, Array]:
        return training_terms(params, key, data, state, config=config)

    new, terms, z, total, norm = _update(state, loss, "train", config)
    centers = state.params["centers"]
    log_q = log_assignment(z, centers)

    def refreshed(plan: Plan) -> Plan:
        return sinkhorn_plan(
            log_q, state.proportions, data.mask, plan.potential, config=config.transport
        )

    plan = state.plan
    if config.transport.refresh_every:
        due = new.step % config.transport.refresh_every == 0
        plan = jax.lax.cond(due, refreshed, lambda plan: plan, plan)
    mask, n = data.mask, jnp.sum(data.mask)
    moved = jnp.argmax(plan.target, axis=1) != jnp.argmax(state.plan.target, axis=1)
    sizes = jnp.sum(jnp.exp(log_q) * mask[:, None], axis=0) / n
    entropy = -jnp.sum(sizes * jnp.log(sizes)) / jnp.log(sizes.shape[0])
    info = StepInfo(
        total,
        terms,
        norm,
        plan.error,
        plan.iterations,
        changed=jnp.sum(moved * mask) / n,
        size_entropy=entropy,
        mean_cosine=mean_cosine(z, mask),
        silhouette=silhouette(z, centers, mask),
    )
    return new._replace(plan=plan), info


@partial(jax.jit, static_argnames=("stage", "config"))
def pretrain_step(
    state: TrainState, data: CellData, *, stage: Stage, config: Config
) -> tuple[TrainState, StepInfo]:
    """Take one pre-training step.

    Parameters
    ----------
    state
        From :func:`init`; call :func:`start_stage` between stages.
    data
        The cells.
    stage
        ``"features"`` and ``"graph"`` train one autoencoder each, ``"joint"`` both through the
        fusion. Only reconstruction terms, no noise.
    config
        Static settings.
    """
    return _pretrain_step(state, data, stage=stage, config=config)


@partial(jax.jit, static_argnames="config")
def train_step(state: TrainState, data: CellData, *, config: Config) -> tuple[TrainState, StepInfo]:
    """Take one training step: augment, encode, fuse, transport, update.

    Parameters
    ----------
    state
        After :func:`start_clustering`.
    data
        The cells.
    config
        Static settings.
    """
    return _train_step(state, data, config=config)


@partial(jax.jit, static_argnames=("stage", "config", "n_steps"), donate_argnums=0)
def fit(
    state: TrainState,
    data: CellData,
    *,
    config: Config,
    n_steps: int,
    stage: Stage = "train",
) -> tuple[TrainState, StepInfo]:
    """Take many steps of one stage under ``lax.scan``; `state` is donated.

    Parameters
    ----------
    state
        Where to start; to resume, pass the state that an earlier call returned.
    data
        The cells.
    config
        Static settings.
    n_steps
        Number of steps.
    stage
        Which step: :func:`train_step`, or :func:`pretrain_step` of that stage.

    Returns
    -------
    The last state, and the history: a :class:`StepInfo` of arrays [n_steps].
    """

    def step(state: TrainState, _: None) -> tuple[TrainState, StepInfo]:
        if stage == "train":
            return _train_step(state, data, config=config)
        return _pretrain_step(state, data, stage=stage, config=config)

    return jax.lax.scan(step, state, length=n_steps)
