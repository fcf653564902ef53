"""The loss terms of each stage, put together."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from scsiameseclu_jax.config import Config
from scsiameseclu_jax.functional import encoders as networks
from scsiameseclu_jax.functional import losses
from scsiameseclu_jax.functional.augmentation import augment
from scsiameseclu_jax.functional.encoders import Params, Propagated
from scsiameseclu_jax.functional.fusion import DENSE_ROWS, embed, fuse, landmarks, map_rows
from scsiameseclu_jax.functional.graph import propagate
from scsiameseclu_jax.functional.transport import log_assignment
from scsiameseclu_jax.functional.types import CellData, TrainState
from scsiameseclu_jax.functional.zinb import zinb

_COUNT_ROWS = 128  # cells x genes at a time: what fits in a cache

Terms = dict[str, Array]


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


def feature_terms(params: Params, key: Array, data: CellData, config: Config) -> Terms:
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


def graph_terms(params: Params, key: Array, data: CellData, config: Config) -> Terms:
    """Reconstruction by the graph autoencoder."""
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


def joint_terms(params: Params, key: Array, data: CellData, config: Config) -> Terms:
    """Reconstruction of everything from the fusion of both autoencoders' latents."""
    z_features = networks.encode_features(params, data.features, config=config)
    z_graph = _plain_graph_latent(params, data, config)
    fused = fuse(params, z_features, z_graph, data.graph, data.mask, config=config)
    return _reconstruction(params, key, fused, data, config)


def training_terms(
    params: Params, key: Array, data: CellData, state: TrainState, *, config: Config
) -> tuple[Terms, Array]:
    """Return every active loss term before its weight, and the fused embedding [n, d].

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
    if _on(config, "pairs") and data.pairs is not None:
        terms["pairs"] = losses.pair_likelihood(log_q, data.pairs)
    return terms, z.fused
