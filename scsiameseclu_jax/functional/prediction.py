"""Embed and assign cells, seen or unseen."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from scsiameseclu_jax.config import Config
from scsiameseclu_jax.functional.encoders import Propagated, encode_features, encode_graph
from scsiameseclu_jax.functional.fusion import (
    DENSE_ROWS,
    embedding,
    gate,
    landmarks,
    map_rows,
    normalize_rows,
)
from scsiameseclu_jax.functional.graph import (
    diffuse,
    normalize,
    pagerank_series,
    propagate,
    self_loops,
)
from scsiameseclu_jax.functional.transport import assign, log_assignment, occupied
from scsiameseclu_jax.functional.types import (
    CellData,
    CellGraph,
    NewCells,
    Prediction,
    TrainState,
)


@partial(jax.jit, static_argnames="config")
def predict(state: TrainState, data: CellData, *, config: Config) -> Prediction:
    """Cluster the cells of `data` with a trained state.

    Parameters
    ----------
    state
        Trained state: parameters, removed edges and transport potential.
    data
        The cells, padded like those the state was made with.
    config
        Static settings.

    Returns
    -------
    Labels [n], soft assignments [n, k] and embedding [n, d], padding rows included.
    """
    return _assigned(state, embedding(state, data, config=config), config)


@partial(jax.jit, static_argnames="config")
def occupy(state: TrainState, data: CellData, *, config: Config) -> TrainState:
    """Return the state with a potential that leaves no cluster without cells, if there is one.

    Parameters
    ----------
    state
        Trained state.
    data
        Its cells.
    config
        Static settings.
    """
    log_q = log_assignment(embedding(state, data, config=config), state.params["centers"])
    potential = occupied(log_q, state.plan.potential, state.proportions, data.mask)
    return state._replace(plan=state.plan._replace(potential=potential))


@partial(jax.jit, static_argnames="config")
def extend(state: TrainState, data: CellData, new: NewCells, *, config: Config) -> Prediction:
    """Cluster cells that training has not seen.

    Each sees its neighbours among the cells of the fit, which do not see it: no cell's result
    depends on which others are new. Diffusion of a new cell i with neighbours j is solved for it,
    ``y_i = (alpha x_i + (1 - alpha) sum_j P_ij y_j) / (1 - (1 - alpha) P_ii)``.

    Parameters
    ----------
    state
        Trained state.
    data
        The cells of the fit; ``counts`` are not looked at.
    new
        The new cells.
    config
        Static settings, the fit's.

    Returns
    -------
    Labels [m], soft assignments [m, k] and embedding [m, d].

    Raises
    ------
    ValueError
        If the fit learned weights of each cell (``fusion.gate = "per_cell"``), which new cells
        have not.
    """
    if config.fusion.gate == "per_cell":
        msg = (
            "Expected `config.fusion.gate` to be 'computed' or 'fixed' to predict new cells, "
            "found 'per_cell'; fit with another."
        )
        raise ValueError(msg)
    with jax.default_matmul_precision(config.scale.precision):
        return _assigned(state, _extended(state, data, new, config), config)


def _assigned(state: TrainState, z: Array, config: Config) -> Prediction:
    log_q = log_assignment(z, state.params["centers"])
    proba = assign(log_q, state.plan.potential, config=config.transport)
    return Prediction(jnp.argmax(proba, axis=1), proba, z)


def _extended(state: TrainState, data: CellData, new: NewCells, config: Config) -> Array:
    """Return the fused embedding [m, d] of new cells."""
    n = data.features.shape[0]
    x = jnp.concatenate([data.features, new.features])
    links, own = _one_way(data.graph, new.neighbors, new.weights)
    step = partial(_step, data.graph, new.neighbors, links, own)
    first = step
    if config.augmentation.edge_removal:
        kept = normalize(data.graph, state.kept)
        left = self_loops(kept)
        degrees = self_loops(data.graph) / jnp.where(left > 0, left, 1)  # normalize() divided by
        degree = own + jnp.sum(links, axis=1)
        scale = jnp.sqrt(degree[:, None] * degrees[new.neighbors])
        first = partial(_step, kept, new.neighbors, links / scale, own / degree)
    second = step
    if config.augmentation.diffusion:
        second = partial(_spread, data.graph, new.neighbors, links, own, config)
    z_features = map_rows(partial(encode_features, state.params, config=config), x, size=DENSE_ROWS)
    g_1 = encode_graph(state.params, x, first, config=config)[-1][0]
    g_2 = encode_graph(state.params, x, second, config=config)[-1][0]
    mixed = gate(
        state.params, normalize_rows(z_features), normalize_rows((g_1 + g_2) / 2), config=config
    )
    z = mixed * jnp.concatenate([data.mask, jnp.ones(len(new.features), mixed.dtype)])[:, None]
    if config.fusion.local:
        z = first(z)[0]
    z = normalize_rows(z)
    known, z = z[:n], z[n:]
    if config.fusion.global_attention:
        attended = _attention_to_known(z, known, data.mask, config)
        z = normalize_rows(z + state.params["fusion"]["beta"] * attended)
    return z


def _one_way(graph: CellGraph, neighbors: Array, weights: Array | float) -> tuple[Array, Array]:
    """Return normalised weights [m, k] of links to known cells, and [m] to oneself.

    The self loop of a known cell, 1 before it was normalised, tells its degree.
    """
    weights = jnp.broadcast_to(jnp.asarray(weights, graph.graph.edges.dtype), neighbors.shape)
    own = 1 / (1 + jnp.sum(weights, axis=1))
    return weights * jnp.sqrt(own[:, None] * self_loops(graph)[neighbors]), own


def _gathered(h: Array, neighbors: Array, links: Array) -> Array:
    """Return ``sum_j links_ij h_j``, [m, c], a neighbour at a time."""
    total = jnp.zeros((neighbors.shape[0], h.shape[1]), h.dtype)
    for column in range(neighbors.shape[1]):
        total += links[:, column, None] * h[neighbors[:, column]]
    return total


def _step(graph: CellGraph, neighbors: Array, links: Array, own: Array, h: Array) -> Propagated:
    known, new = h[: graph.n_rows], h[graph.n_rows :]
    reached = _gathered(known, neighbors, links) + own[:, None] * new
    return jnp.concatenate([propagate(graph, known), reached]), None


def _spread(
    graph: CellGraph, neighbors: Array, links: Array, own: Array, config: Config, h: Array
) -> Propagated:
    setting = config.augmentation
    alpha, rest = setting.alpha, 1 - setting.alpha
    series = pagerank_series(alpha, setting.diffusion_tolerance)
    known = diffuse(graph, h[: graph.n_rows], series=series)[0]
    flow = alpha * h[graph.n_rows :] + rest * _gathered(known, neighbors, links)
    return jnp.concatenate([known, flow / (1 - rest * own)[:, None]]), None


def _attention_to_known(z: Array, known: Array, mask: Array, config: Config) -> Array:
    """Attend to oneself and to all known cells, or to the landmarks that stand for them."""
    rows = landmarks(mask, config=config)
    keys = known if rows is None else known[rows]
    weights = jnp.log(mask) if rows is None else jnp.log(jnp.sum(mask) / len(rows))

    def block(zi: Array) -> Array:
        logits = zi @ keys.T + weights
        own = jnp.sum(zi**2, axis=1, keepdims=True)
        top = jnp.maximum(own, jnp.max(logits, axis=1, keepdims=True))
        shares, own_share = jnp.exp(logits - top), jnp.exp(own - top)
        total = own_share + jnp.sum(shares, axis=1, keepdims=True)
        return (own_share * zi + shares @ keys) / total

    return map_rows(block, z, against=keys.shape[0])
