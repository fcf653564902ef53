"""Graphs: construction, both message-passing paths, diffusion, against dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scsiameseclu_jax.functional as F
from tests import oracles
from tests.problems import EXACT, close, dense_of, links, problem


def normal(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), float)


def test_edges_say_the_normalised_adjacency(x64):
    made = problem()
    n, g = len(made.x), made.data.graph.graph
    dense = dense_of(made.data.graph)
    close(dense[:n, :n], made.adjacency)
    assert not dense[n:].any()
    np.testing.assert_array_equal(dense, dense.T)
    assert np.abs(np.linalg.eigvalsh(dense)).max() <= 1 + 1e-12
    assert (np.diff(g.receivers) >= 0).all()  # jraph's sorted segment sum relies on it
    assert made.data.graph.owners[0] == 1
    lonely = dense[0]
    assert lonely[0] == 1
    assert lonely.sum() == 1


def test_direction_and_repetition_do_not_matter():
    senders, receivers, weights = links(30)
    one = F.cell_graph(senders, receivers, weights, n_cells=30)
    twice = np.tile(weights, 2)
    other = F.cell_graph(np.r_[receivers, senders], np.r_[senders, receivers], twice, n_cells=30)
    close(one, other, rtol=EXACT, atol=0)


def test_weights_are_one_if_not_given(x64):
    senders, receivers, _ = links(30)
    made = F.cell_graph(senders, receivers, n_cells=30)
    close(dense_of(made), oracles.adjacency(senders, receivers, np.ones(len(senders)), 30))


def test_graph_without_links_propagates_nothing(x64):
    made = F.cell_graph(np.array([]), np.array([]), n_cells=5)
    h = normal(5, 2)
    close(F.propagate(made, h), h)


@pytest.mark.parametrize("path", ["table", "jraph"])
def test_propagate_is_the_dense_product(x64, path):
    graph, h = problem().data.graph, normal(52, 5)
    dense = jnp.asarray(dense_of(graph))
    cotangent = normal(52, 5, seed=2)
    found = jax.vjp(lambda h: F.propagate(graph, h, path=path), h)
    wanted = jax.vjp(lambda h: dense @ h, h)
    close(found[0], wanted[0])
    close(found[1](cotangent), wanted[1](cotangent))


def test_no_gradient_flows_to_the_weights():
    graph = problem().data.graph
    gradient = jax.grad(lambda g: F.propagate(g, normal(52, 2)).sum(), allow_int=True)(graph)
    assert not np.asarray(gradient.graph.edges).any()


def test_propagate_follows_a_permutation(x64):
    senders, receivers, weights = links(30)
    h, order = normal(30, 3), np.random.default_rng(4).permutation(30)
    place = np.argsort(order)
    one = F.propagate(F.cell_graph(senders, receivers, weights, n_cells=30), h)
    moved = F.cell_graph(place[senders], place[receivers], weights, n_cells=30)
    close(F.propagate(moved, h[order]), one[order])


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.7])
def test_diffusion_is_the_dense_inverse(x64, alpha):
    made = problem()
    graph, n = made.data.graph, len(made.x)
    dense = oracles.pagerank(jnp.asarray(dense_of(graph)), alpha)
    series = F.pagerank_series(alpha, 1e-13)
    h, g1, g2 = normal(52, 4), normal(52, 4, seed=2), normal(52, 4, seed=3)
    found, back = jax.vjp(lambda h: F.diffuse(graph, h, series=series), h)
    wanted, dense_back = jax.vjp(lambda h: (dense @ h, dense @ (dense @ h)), h)
    close(found, wanted, atol=1e-11)
    close(back((g1, g2)), dense_back((g1, g2)), atol=1e-11)
    ones = jnp.ones((52, 1)).at[n:].set(0)
    assert float(F.diffuse(graph, ones, series=series)[0][n:].sum()) == 0


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-6])
def test_series_keeps_its_tolerance(x64, tolerance):
    graph = problem().data.graph
    series = F.pagerank_series(0.2, tolerance)
    dense = oracles.pagerank(jnp.asarray(dense_of(graph)), 0.2)
    found = F.diffuse(graph, jnp.eye(52), series=series)
    for got, wanted in zip(found, (dense, dense @ dense), strict=True):
        assert np.linalg.norm(got - wanted, 2) <= tolerance
    shorter = F.pagerank_series(0.2, 10 * tolerance)
    assert len(shorter.once) < len(series.once)


@pytest.mark.parametrize(("alpha", "tolerance"), [(0.2, 0.0), (0.2, 1e-17), (1 - 1e-12, 1e-6)])
def test_series_at_the_ends_of_what_there_is(alpha, tolerance):
    series = F.pagerank_series(alpha, tolerance)
    x = np.linspace(-1, 1, 9)
    wanted = alpha / (1 - (1 - alpha) * x)
    chebyshev = np.polynomial.chebyshev.chebval
    np.testing.assert_allclose(chebyshev(x, series.once), wanted, atol=max(tolerance, 1e-12))
    np.testing.assert_allclose(chebyshev(x, series.twice), wanted**2, atol=max(tolerance, 1e-12))


def test_removed_edges_change_the_degrees(x64):
    graph = problem().data.graph
    dense = dense_of(graph)
    kept = np.ones(graph.graph.edges.shape)
    pick = (np.asarray(graph.graph.senders) == 1) != (np.asarray(graph.graph.receivers) == 1)
    kept[pick] = 0
    dense[1, 2:] = dense[2:, 1] = dense[0, 1] = dense[1, 0] = 0
    degree = dense.sum(axis=1)
    scale = np.where(degree > 0, np.maximum(degree, 1e-300) ** -0.5, 0)
    close(dense_of(F.normalize(graph, jnp.asarray(kept))), scale[:, None] * dense * scale)


@pytest.mark.parametrize("bad", [[5], [-1]])
def test_ends_out_of_range(bad):
    with pytest.raises(ValueError, match="between cells 0 and 4"):
        F.cell_graph(np.array(bad), np.array([1]), n_cells=5)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_bad_weights(bad):
    with pytest.raises(ValueError, match="positive, finite"):
        F.cell_graph(np.array([0]), np.array([1]), np.array([bad]), n_cells=5)


def test_buckets_hold_and_waste_little():
    sizes = np.arange(1, 20_000)
    buckets = np.array([F.bucket(int(size)) for size in sizes])
    assert (buckets >= sizes).all()
    assert (np.diff(buckets) >= 0).all()
    assert ((buckets - sizes)[sizes > 64] / sizes[sizes > 64]).max() < 0.13
    assert len(np.unique(buckets)) < 100
