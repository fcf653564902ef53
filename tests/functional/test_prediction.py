"""New cells in the functional core, against dense matrices in which edges to them go one way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scsiameseclu_jax.functional as F
from tests import oracles
from tests.problems import (
    ALPHA,
    METHOD,
    close,
    config_with,
    kept_of,
    method_of,
    problem,
    started,
)

N, M, NEIGHBORS = 45, 7, 4


def new_cells(seed=1):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(M, 6))
    neighbors = np.array([rng.choice(N, NEIGHBORS, replace=False) for _ in range(M)])
    weights = rng.uniform(0.5, 2.0, (M, NEIGHBORS)) * (np.arange(NEIGHBORS) != seed % NEIGHBORS)
    return F.NewCells(jnp.asarray(x, float), jnp.asarray(neighbors), jnp.asarray(weights, float))


def one_way(raw):
    """Scale raw weights [n, n], of which a row is what a cell receives, by the sums of rows."""
    scale = raw.sum(axis=1) ** -0.5
    return scale[:, None] * raw * scale


def dense_embedding(params, made, new, kept, structure):
    """Everything by matrices [n + m, n + m]; rows of known cells see known cells only."""
    whole = np.zeros((N + M, N + M))
    whole[:N, :N] = made.adjacency
    for i in range(M):
        whole[N + i, np.asarray(new.neighbors)[i]] = np.asarray(new.weights)[i]
        whole[N + i, N + i] = 1
    removed = one_way(whole * np.block([[kept, np.ones((N, M))], [np.ones((M, N + M))]]))
    x = np.concatenate([made.x, new.features])
    spread = oracles.pagerank(one_way(whole), ALPHA)
    slope = structure.network.negative_slope
    f, _ = oracles.dense_stack(params["feature_encoder"], x, 2, slope)
    g = [oracles.graph_stack(params["graph_encoder"], x, a, 2)[-1] for a in (removed, spread)]
    fusion = params["fusion"]
    f, g = oracles.equal_length(f), oracles.equal_length((g[0] + g[1]) / 2)
    logit = jnp.concatenate([f, g], axis=1) @ fusion["kernel"] + fusion["bias"]
    weight = 1 / (1 + jnp.exp(-logit))
    local = oracles.equal_length(removed @ (weight * f + (1 - weight) * g))
    attended = jnp.stack(
        [
            oracles.attention(jnp.concatenate([local[:N], local[i : i + 1]]))[-1]
            for i in range(N, N + M)
        ]
    )
    return oracles.equal_length(local[N:] + fusion["beta"] * attended)


def test_it_is_the_dense_one(x64):
    made, new = problem(), new_cells()
    state = started(made)
    kept = kept_of(state, made)
    assert (kept == 0).any()
    wanted = dense_embedding(state.params, made, new, kept, METHOD.structure)
    z = METHOD.embed_new(state, made.data, new)
    close(z, wanted, rtol=1e-8)
    assignment = METHOD.assign(state, z)
    log_q = F.log_assignment(wanted, state.params["centers"])
    epsilon = state.values["epsilon"]
    close(assignment.proba, F.assign(log_q, state.plan.potential, epsilon=epsilon), rtol=1e-7)
    np.testing.assert_array_equal(assignment.labels, np.argmax(assignment.proba, axis=1))


def test_other_new_cells_and_counts_do_not_matter(x64):
    made, new = problem(), new_cells()
    state = started(made)
    together = METHOD.embed_new(state, made.data, new)
    bare = made.data._replace(counts=made.data.counts[:, :0])
    for i in range(M):
        alone = F.NewCells(*(array[i : i + 1] for array in new))
        close(METHOD.embed_new(state, bare, alone), together[i : i + 1], rtol=1e-9)


@pytest.mark.parametrize(
    "change",
    [
        {"augmentation": {"edge_removal": 0.0}},
        {"augmentation": {"diffusion": False}},
        {"fusion": {"gate": "fixed"}},
        {"fusion": {"local": False}},
        {"fusion": {"global_attention": False}},
        {"scale": {"exact_cells": 10, "landmarks": 45}},
    ],
    ids=lambda change: "-".join(next(iter(change.values()))),
)
def test_a_copy_of_a_cell_lands_where_it_is(change):
    """With the neighbours that it has, in a regular graph, a copy is embedded like the cell."""
    small = {"network": {"feature_layers": [8], "graph_layers": [6]}}
    method = method_of(config_with(**small | change))
    ring = np.arange(N)
    around = (ring[:, None] + np.array([-2, -1, 1, 2])) % N
    made = problem(n_nodes=N)
    made = made._replace(data=F.cell_data(made.x, made.counts, around, n_rows=N))
    state = started(made, method)
    state = state._replace(edge_mask=jnp.ones_like(state.edge_mask))
    new = F.NewCells(made.data.features[:M], jnp.asarray(around[:M]), jnp.ones((M, 4)))
    z_new = method.embed_new(state, made.data, new)
    z = method.embed(state, made.data)
    cosine = np.sum(z_new * z[:M], axis=1) / 4
    assert cosine.min() > 0.99, cosine  # attention sees a cell and its copy, or one of them
    labels = [method.assign(state, each).labels for each in (z_new, z[:M])]
    np.testing.assert_array_equal(*labels)


def test_free_gates_have_no_place_for_new_cells():
    method, made = method_of(config_with(fusion={"gate": "per_cell"})), problem()
    state = method.init(jax.random.key(0), made.data)
    with pytest.raises(ValueError, match=r"to be 'computed' or 'fixed' to predict new cells"):
        method.embed_new(state, made.data, new_cells())


def test_one_program_for_all_new_cells_of_a_bucket():
    made = problem()
    state = started(made)
    before = F.training._embed_new._cache_size()
    for seed in range(3):
        jax.block_until_ready(METHOD.embed_new(state, made.data, new_cells(seed)))
    assert F.training._embed_new._cache_size() <= before + 1
