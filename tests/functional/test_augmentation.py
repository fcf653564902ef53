"""Gene noise, edge removal, and the two views."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F
from tests import oracles
from tests.problems import CONFIG, close, dense_of, problem


def test_noise_has_mean_one_and_the_given_spread():
    factors = np.asarray(F.feature_noise(jax.random.key(0), jnp.ones((400, 500)), scale=0.1))
    assert abs(factors.mean() - 1) < 1e-3
    assert abs(factors.std() - 0.1) < 1e-3
    rows = np.corrcoef(factors[:50])
    assert np.abs(rows - np.eye(50)).max() < 0.25  # every entry has its own draw


def test_noise_of_scale_zero_draws_nothing():
    x = jnp.ones((3, 2))
    assert F.feature_noise(jax.random.key(0), x, scale=0.0) is x


def removed(graph, kept):
    g = graph.graph
    gone = np.flatnonzero(np.asarray(kept) == 0)
    return {(int(g.senders[e]), int(g.receivers[e])) for e in gone}


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
    found = removed(graph, F.kept_edges(graph, jnp.asarray(z), fraction=fraction))
    assert found == {*wanted, *((j, i) for i, j in wanted)}


def test_nothing_is_removed_at_zero():
    graph = problem().data.graph
    assert np.asarray(F.kept_edges(graph, jnp.ones((52, 2)), fraction=0.0)).all()


def test_alike_cells_keep_their_links():
    graph = problem().data.graph
    # every similarity is equal: none is among the least similar
    assert np.asarray(F.kept_edges(graph, jnp.ones((52, 2)), fraction=0.5)).all()


def test_views_differ_in_noise_and_graph(x64):
    made = problem()
    kept = F.kept_edges(made.data.graph, made.data.features, fraction=0.3)
    views = F.augment(jax.random.key(1), made.data, kept, config=CONFIG)
    assert not np.allclose(views.features_1, views.features_2)
    assert not np.asarray(views.features_1)[len(made.x) :].any()
    close(dense_of(views.graph_2), dense_of(made.data.graph))
    one = dense_of(views.graph_1)
    for i, j in removed(made.data.graph, kept):
        assert one[i, j] == 0
    np.testing.assert_array_equal(one, one.T)
    again = F.augment(jax.random.key(1), made.data, kept, config=CONFIG)
    close(again.features_1, views.features_1, rtol=0)


def test_without_removal_both_views_have_the_whole_graph():
    made = problem()
    config = scs.Config.from_dict({"augmentation": {"edge_removal": 0.0, "feature_noise": 0.0}})
    kept = jnp.ones_like(made.data.graph.graph.edges)
    views = F.augment(jax.random.key(1), made.data, kept, config=config)
    assert views.graph_1 is made.data.graph
    assert views.features_1 is made.data.features
