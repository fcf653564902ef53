"""New cells in the functional core, against dense matrices in which edges to them go one way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F
from tests import oracles
from tests.problems import CONFIG, close, dense_of, problem, started

N, M, NEIGHBORS = 45, 7, 4


def new_cells(seed=1):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(M, 6))
    neighbors = np.array([rng.choice(N, NEIGHBORS, replace=False) for _ in range(M)])
    return F.NewCells(jnp.asarray(x, float), jnp.asarray(neighbors))


def dense_embedding(params, made, new, kept, config):
    """Everything by matrices [n + m, n + m]; rows of known cells see known cells only."""
    known_degree = 1 / np.diag(made.adjacency)  # self loops weigh 1
    one_way = np.zeros((M, N))
    for i, row in enumerate(np.asarray(new.neighbors)):
        one_way[i, row] = 1 / np.sqrt((NEIGHBORS + 1) * known_degree[row])
    own = np.eye(M) / (NEIGHBORS + 1)
    whole = np.block([[made.adjacency, np.zeros((N, M))], [one_way, own]])
    known = made.adjacency * kept
    # degrees of what is left; new cells keep all of their links
    degree = np.concatenate([known.sum(axis=1), (one_way.sum(axis=1) + np.diag(own))])
    left = whole * np.block([[kept, np.ones((N, M))], [np.ones((M, N + M))]])
    removed = left / np.sqrt(np.outer(degree, degree))
    x = np.concatenate([made.x, new.features])
    spread = oracles.pagerank(whole, config.augmentation.alpha)
    slope = config.network.negative_slope
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
    kept = made.data.graph._replace(graph=made.data.graph.graph._replace(edges=state.kept))
    kept = np.minimum(dense_of(kept)[:N, :N], 1)
    assert (kept[made.adjacency > 0] == 0).sum() > 0
    wanted = dense_embedding(state.params, made, new, kept, CONFIG)
    found = F.extend(state, made.data, new, config=CONFIG)
    close(found.embedding, wanted, rtol=1e-8)
    log_q = F.log_assignment(wanted, state.params["centers"])
    close(found.proba, F.assign(log_q, state.plan.potential, config=CONFIG.transport), rtol=1e-7)
    np.testing.assert_array_equal(found.labels, np.argmax(found.proba, axis=1))


def test_other_new_cells_and_counts_do_not_matter(x64):
    made, new = problem(), new_cells()
    state = started(made)
    together = F.extend(state, made.data, new, config=CONFIG)
    bare = made.data._replace(counts=made.data.counts[:, :0])
    for i in range(M):
        alone = F.NewCells(new.features[i : i + 1], new.neighbors[i : i + 1])
        close(
            F.extend(state, bare, alone, config=CONFIG).embedding,
            together.embedding[i : i + 1],
            rtol=1e-9,
        )


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
    config = CONFIG.to_dict()
    for section, values in change.items():
        config[section] |= values
    config = scs.Config.from_dict(config)
    ring = np.arange(N)
    steps = [1, 2]
    senders = np.concatenate([(ring + s) % N for s in steps])
    receivers = np.tile(ring, len(steps))
    made = problem(n_nodes=N)
    graph = F.cell_graph(senders, receivers, n_cells=N, n_nodes=N)
    made = made._replace(data=made.data._replace(graph=graph))
    state = started(made, config)._replace(kept=jnp.ones_like(graph.graph.edges))
    rows = ring[:M, None] + np.array([-2, -1, 1, 2])
    new = F.NewCells(made.data.features[:M], jnp.asarray(rows % N))
    found = F.extend(state, made.data, new, config=config)
    wanted = F.predict(state, made.data, config=config)
    cosine = np.sum(found.embedding * wanted.embedding[:M], axis=1) / 4
    assert cosine.min() > 0.99, cosine  # attention sees a cell and its copy, or one of them
    np.testing.assert_array_equal(found.labels, wanted.labels[:M])


def test_free_gates_have_no_place_for_new_cells():
    config = CONFIG.to_dict()
    config["fusion"]["gate"] = "per_cell"
    config = scs.Config.from_dict(config)
    made = problem()
    state = started(made, config)
    with pytest.raises(ValueError, match=r"to be 'computed' or 'fixed' to predict new cells"):
        F.extend(state, made.data, new_cells(), config=config)


def test_self_loops_tell_degrees():
    made = problem()
    close(F.self_loops(made.data.graph)[:N], np.diag(made.adjacency), rtol=1e-6)
    assert not np.asarray(F.self_loops(made.data.graph)[N:]).any()


def test_one_trace_for_all_new_cells_of_a_bucket():
    made = problem()
    state = started(made)
    before = F.extend._cache_size()
    for seed in range(3):
        jax.block_until_ready(F.extend(state, made.data, new_cells(seed), config=CONFIG))
    assert F.extend._cache_size() == before + 1
