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
from scsiameseclu_jax.functional import losses, networks
from scsiameseclu_jax.functional.augmentation import augment, kept_edges
from scsiameseclu_jax.functional.fusion import (
    DENSE_ROWS,
    embed,
    embedding,
    fuse,
    landmarks,
    map_rows,
)
from scsiameseclu_jax.functional.graph import propagate
from scsiameseclu_jax.functional.likelihood import zinb
from scsiameseclu_jax.functional.networks import Params, Propagated
from scsiameseclu_jax.functional.transport import empty_plan, log_assignment, sinkhorn_plan
from scsiameseclu_jax.functional.types import CellData, Plan, StepInfo, TrainState

_COUNT_ROWS = 128  # cells x genes at a time: what fits in a cache

Stage = Literal["features", "graph", "joint", "train"]
Terms = dict[str, Array]


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
    weights = {
        name: jnp.asarray(value, data.features.dtype)
        for name, value in config.to_dict()["losses"].items()
        if value > 0
    }
    return TrainState(
        params=params,
        optimizer=_optimizer("features", config).init(params),
        key=jax.random.fold_in(key, 1),
        step=jnp.asarray(0, jnp.int32),
        weights=weights,
        kept=jnp.ones_like(data.graph.graph.edges),
        proportions=jnp.full(n_clusters, 1 / n_clusters),
        plan=empty_plan(n, n_clusters),
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
        [k] share of each cluster, positive; scaled to sum to 1 and held from here on.
    config
        Static settings.
    """
    params = {**state.params, "centers": centers}
    proportions = proportions / jnp.sum(proportions)
    log_q = log_assignment(embedding(state, data, config=config), centers)
    start = jnp.zeros_like(proportions)
    plan = sinkhorn_plan(log_q, proportions, data.mask, start, config=config.transport)
    return state._replace(params=params, proportions=proportions, plan=plan)


def _optimizer(stage: Stage, config: Config) -> optax.GradientTransformation:
    setting = config.training
    rate = setting.rate if stage == "train" else setting.pretrain_rate
    steps = optax.chain(optax.clip_by_global_norm(setting.gradient_norm), optax.adam(rate))
    return optax.flatten(steps)  # one kernel to compile and run, not a few for each array


def _on(config: Config, name: str) -> bool:
    return getattr(config.losses, name) > 0


def _draw_cells(key: Array, data: CellData, size: int) -> Array:
    """Draw cells with replacement: a mean over them is an unbiased mean over all."""
    return jax.random.randint(key, (size,), 0, data.n_cells)


def _count_term(params: Params, hidden: Array, rows: Array, data: CellData) -> Array:
    """ZINB of the cells `rows` [b], whose decoder's hidden rows are `hidden` [b, h]."""
    genes = (jnp.arange(data.counts.shape[1]) < data.n_genes).astype(hidden.dtype)

    def block(hidden: Array, rows: Array) -> Array:
        log_mean, log_dispersion, logit_dropout = networks.decode_counts(params, hidden)
        log_mean += jnp.log(data.size_factors[rows])[:, None]
        return zinb(data.counts[rows], log_mean, log_dispersion, logit_dropout, genes)

    return jnp.mean(map_rows(block, hidden, rows, size=_COUNT_ROWS))


def _feature_terms(params: Params, key: Array, data: CellData, config: Config) -> Terms:
    """Reconstruction of features and counts by the feature autoencoder, on a batch."""
    rows = _draw_cells(key, data, config.training.feature_batch)
    x = data.features[rows]
    z = networks.encode_features(params, x, config=config)
    decoded, hidden = networks.decode_features(params, z, config=config)
    terms = {}
    if _on(config, "features"):
        terms["features"] = losses.mean_squared_error(decoded, x, jnp.ones_like(x[:, 0]))
    if _on(config, "zinb"):
        few = slice(config.training.zinb_batch)
        terms["zinb"] = _count_term(params, hidden[few], rows[few], data)
    return terms


def _graph_reconstruction(params: Params, z: Array, data: CellData, config: Config) -> Terms:
    """Reconstruction of propagated features and adjacency from a latent."""

    def operator(h: Array) -> Propagated:
        return propagate(data.graph, h), None

    terms = {}
    if _on(config, "propagated_features"):
        decoded = networks.decode_graph(params, z, operator, config=config)
        wanted = propagate(data.graph, data.features)
        terms["propagated_features"] = losses.mean_squared_error(decoded, wanted, data.mask)
    if _on(config, "adjacency"):
        rows = landmarks(data.mask, config=config)
        terms["adjacency"] = losses.adjacency_error(z, data.graph, data.mask, rows)
    return terms


def _plain_graph_latent(params: Params, data: CellData, config: Config) -> Array:
    def operator(h: Array) -> Propagated:
        return propagate(data.graph, h), None

    return networks.encode_graph(params, data.features, operator, config=config)[-1][0]


def _graph_terms(params: Params, key: Array, data: CellData, config: Config) -> Terms:
    del key  # no noise in this stage
    z = _plain_graph_latent(params, data, config)
    return _graph_reconstruction(params, z, data, config)


def _reconstruction(
    params: Params, key: Array, fused: Array, data: CellData, config: Config
) -> Terms:
    """Every reconstruction term from the fused embedding."""
    terms = _graph_reconstruction(params, fused, data, config)
    decode = partial(networks.decode_features, params, config=config)
    if _on(config, "features"):
        decoded = map_rows(lambda z: decode(z)[0], fused, size=DENSE_ROWS)
        terms["features"] = losses.mean_squared_error(decoded, data.features, data.mask)
    if _on(config, "zinb"):
        rows = _draw_cells(key, data, config.training.zinb_batch)
        terms["zinb"] = _count_term(params, decode(fused[rows])[1], rows, data)
    return terms


def _joint_terms(params: Params, key: Array, data: CellData, config: Config) -> Terms:
    z_features = networks.encode_features(params, data.features, config=config)
    z_graph = _plain_graph_latent(params, data, config)
    fused = fuse(params, z_features, z_graph, data.graph, data.mask, config=config)
    return _reconstruction(params, key, fused, data, config)


def training_terms(
    params: Params, key: Array, data: CellData, state: TrainState, *, config: Config
) -> tuple[Terms, Array]:
    """Return every active loss term before its weight, and ``log q`` [n, k].

    Parameters
    ----------
    params
        The parameters to differentiate by.
    key
        Key of the step.
    data
        The cells.
    state
        Removed edges and current target.
    config
        Static settings; a term with weight 0 is not computed.
    """
    key_views, key_counts = jax.random.split(key)
    views = augment(key_views, data, state.kept, config=config)
    z = embed(params, views, data.mask, config=config)
    log_q = log_assignment(z.fused, params["centers"])
    terms = _reconstruction(params, key_counts, z.fused, data, config)
    if _on(config, "cell_correlation_features"):
        value = losses.cell_correlation(z.features_1, z.features_2, data.mask)
        terms["cell_correlation_features"] = value
    if _on(config, "cell_correlation_graph"):
        value = losses.cell_correlation(z.graph_1, z.graph_2, data.mask)
        terms["cell_correlation_graph"] = value
    if _on(config, "latent_correlation"):
        read_out = jnp.exp(log_q) * data.mask[:, None]
        terms["latent_correlation"] = losses.latent_correlation(
            z.features_1, z.features_2, read_out
        ) + losses.latent_correlation(z.graph_1, z.graph_2, read_out)
    if _on(config, "propagation"):
        terms["propagation"] = jnp.mean(
            jnp.stack(
                [
                    losses.propagation_divergence(once, twice, data.mask)
                    for once, twice in z.layers
                    if twice is not None
                ]
            )
        )
    if _on(config, "clustering"):
        value = losses.assignment_divergence(state.plan.target, log_q, data.mask)
        terms["clustering"] = value
    return terms, log_q


def _update(
    state: TrainState, loss: Callable[..., tuple[Terms, Array]], stage: Stage, config: Config
) -> tuple[TrainState, Terms, Array, Array, Array]:
    """Take one gradient step on the weighted sum of the terms."""

    def weighted(params: Params) -> tuple[Array, tuple[Terms, Array]]:
        terms, extra = loss(params)
        total = sum((state.weights[name] * value for name, value in terms.items()), jnp.zeros(()))
        return total, (terms, extra)

    (total, (terms, extra)), gradient = jax.value_and_grad(weighted, has_aux=True)(state.params)
    change, optimizer = _optimizer(stage, config).update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, change)
    new = state._replace(params=params, optimizer=optimizer, step=state.step + 1)
    return new, terms, extra, total, optax.tree.norm(gradient)


def _pretrain_step(
    state: TrainState, data: CellData, *, stage: Stage, config: Config
) -> tuple[TrainState, StepInfo]:
    stages = {"features": _feature_terms, "graph": _graph_terms, "joint": _joint_terms}
    key = jax.random.fold_in(state.key, state.step)

    def loss(params: Params) -> tuple[Terms, Array]:
        return stages[stage](params, key, data, config), jnp.zeros(())

    new, terms, _, total, norm = _update(state, loss, stage, config)
    zero = jnp.zeros(())
    plan = state.plan
    return new, StepInfo(total, terms, norm, plan.error, plan.iterations, zero, zero)


def _train_step(
    state: TrainState, data: CellData, *, config: Config
) -> tuple[TrainState, StepInfo]:
    key = jax.random.fold_in(state.key, state.step)

    def loss(params: Params) -> tuple[Terms, Array]:
        return training_terms(params, key, data, state, config=config)

    new, terms, log_q, total, norm = _update(state, loss, "train", config)

    def refresh(plan: Plan) -> Plan:
        return sinkhorn_plan(
            log_q, state.proportions, data.mask, plan.potential, config=config.transport
        )

    due = new.step % config.transport.refresh_every == 0
    plan = jax.lax.cond(due, refresh, lambda plan: plan, state.plan)
    mask, n = data.mask, jnp.sum(data.mask)
    moved = jnp.argmax(plan.target, axis=1) != jnp.argmax(state.plan.target, axis=1)
    sizes = jnp.sum(jnp.exp(log_q) * mask[:, None], axis=0) / n
    entropy = -jnp.sum(sizes * jnp.log(sizes)) / jnp.log(sizes.shape[0])
    info = StepInfo(
        total, terms, norm, plan.error, plan.iterations, jnp.sum(moved * mask) / n, entropy
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
