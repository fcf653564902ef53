"""Feature noise, edge removal, and the two views."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scsiameseclu_jax.functional as F
from tests import oracles
from tests.problems import (
    METHOD,
    STRUCTURE,
    close,
    dense_of,
    kept_of,
    problem,
    started,
    structure_with,
)


def test_noise_has_mean_one_and_the_given_spread():
    factors = np.asarray(F.feature_noise(jax.random.key(0), jnp.ones((400, 500)), scale=0.1))
    assert abs(factors.mean() - 1) < 1e-3
    assert abs(factors.std() - 0.1) < 1e-3
    rows = np.corrcoef(factors[:50])
    assert np.abs(rows - np.eye(50)).max() < 0.25  # every entry has its own draw


def removed(graph, kept):
    gone = np.flatnonzero(np.asarray(kept) == 0)
    return {(int(graph.senders[e]), int(graph.receivers[e])) for e in gone}


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_the_least_similar_links_go(x64, fraction):
    made = problem()
    graph, n = made.data.graph, len(made.x)
    z = np.random.default_rng(2).normal(size=(52, 4))
    unit = oracles.unit(z[:n])
    pairs = [(i, j) for i, j in zip(*np.nonzero(made.adjacency), strict=True) if i < j]
    ordered = sorted(pairs, key=lambda pair: unit[pair[0]] @ unit[pair[1]])
    # a link counts twice, once in each direction
    wanted = ordered[: int(fraction * 2 * len(pairs)) // 2]
    found = removed(graph, F.edge_mask(graph, jnp.asarray(z), fraction=fraction))
    assert found == {*wanted, *((j, i) for i, j in wanted)}


def test_nothing_is_removed_at_zero():
    graph = problem().data.graph
    assert np.asarray(F.edge_mask(graph, jnp.ones((52, 2)), fraction=0.0)).all()


def test_alike_cells_keep_their_links():
    graph = problem().data.graph
    # every similarity is equal: none is among the least similar
    assert np.asarray(F.edge_mask(graph, jnp.ones((52, 2)), fraction=0.5)).all()


def test_views_differ_in_noise_and_graph(x64):
    made = problem()
    state, n = started(made), len(made.x)
    views = F.dual_views(jax.random.key(1), state, made.data, structure=STRUCTURE)
    assert not np.allclose(views.features_1, views.features_2)
    assert not np.asarray(views.features_1)[n:].any()
    close(dense_of(views.graph_2.edges)[:n, :n], oracles.normalized(made.adjacency))
    kept = kept_of(state, made)
    assert (kept == 0).any()
    pruned = dense_of(views.graph_1.edges)
    close(pruned[:n, :n], oracles.normalized(made.adjacency * kept))
    np.testing.assert_array_equal(pruned, pruned.T)
    again = F.dual_views(jax.random.key(1), state, made.data, structure=STRUCTURE)
    close(again.features_1, views.features_1, rtol=0)


def test_without_a_key_nothing_is_random():
    made = problem()
    views = F.dual_views(None, started(made), made.data, structure=STRUCTURE)
    assert views.features_1 is made.data.features is views.features_2


def test_without_removal_and_diffusion_both_views_are_the_same():
    made = problem()
    structure = structure_with(edge_removal=False, feature_noise=False, diffusion=False)
    state = METHOD.init(jax.random.key(0), made.data)
    views = F.dual_views(jax.random.key(1), state, made.data, structure=structure)
    assert views.graph_1.edges is views.graph_2.edges
    assert views.graph_2.series is None
    assert views.features_1 is made.data.features
