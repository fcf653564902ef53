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


def test_edges_say_the_raw_adjacency(x64):
    made = problem()
    n, graph = len(made.x), made.data.graph
    dense = dense_of(graph)
    close(dense[:n, :n], made.adjacency)
    assert not dense[n:].any()
    np.testing.assert_array_equal(dense_of(graph, graph.weights[graph.reverse]), dense.T)
    np.testing.assert_array_equal(graph.senders[graph.reverse], graph.receivers)
    assert (np.diff(graph.receivers) >= 0).all()  # jraph's sorted segment sum relies on it
    assert made.data.graph.owners[0] == 1
    lonely = dense[0]
    assert lonely[0] == 1
    assert lonely.sum() == 1


def test_it_is_normalised_once(x64):
    made = problem()
    n = len(made.x)
    dense = dense_of(F.normalize(made.data.graph))
    close(dense[:n, :n], oracles.normalized(made.adjacency))
    np.testing.assert_array_equal(dense, dense.T)
    assert np.abs(np.linalg.eigvalsh(dense)).max() <= 1 + 1e-12
    kept = np.ones((n, n))
    kept[1, 2:20] = kept[2:20, 1] = 0  # most links of the hub
    gone = (np.asarray(made.data.graph.senders) == 1) & (np.asarray(made.data.graph.receivers) < 20)
    gone &= np.asarray(made.data.graph.receivers) > 1
    mask = jnp.asarray(~(gone | gone[np.asarray(made.data.graph.reverse)]), float)
    pruned = dense_of(F.normalize(made.data.graph, mask))
    close(pruned[:n, :n], oracles.normalized(made.adjacency * kept))


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


def learned(graph, seed=7):
    """Return the graph with weights that differ in both directions, and its dense matrix."""
    weights = normal(*graph.weights.shape, seed=seed) * (graph.weights > 0)
    graph = graph.with_weights(weights)
    return graph, jnp.asarray(dense_of(graph))


def dense_with(graph, weights):
    n = graph.n_rows
    return jnp.zeros((n, n)).at[graph.receivers, graph.senders].add(weights)


@pytest.mark.parametrize("path", ["table", "jraph"])
def test_propagate_is_the_dense_product(x64, path):
    graph, h = F.normalize(problem().data.graph), normal(52, 5)
    dense = jnp.asarray(dense_of(graph))
    cotangent = normal(52, 5, seed=2)
    found = jax.vjp(lambda h: F.propagate(graph, h, path=path), h)
    wanted = jax.vjp(lambda h: dense @ h, h)
    close(found[0], wanted[0])
    close(found[1](cotangent), wanted[1](cotangent))


@pytest.mark.parametrize("path", ["table", "jraph"])
def test_gradients_are_right_for_weights_that_differ_in_both_directions(x64, path):
    graph, _ = learned(problem().data.graph)
    real = np.asarray(graph.weights) != 0
    h, cotangent = normal(52, 5), normal(52, 5, seed=2)

    def found(weights, h):
        return jnp.sum(cotangent * F.propagate(graph.with_weights(weights), h, path=path) ** 2)

    def dense(weights, h):
        return jnp.sum(cotangent * (dense_with(graph, weights) @ h) ** 2)

    got = jax.grad(found, (0, 1))(graph.weights, h)
    wanted = jax.grad(dense, (0, 1))(graph.weights, h)
    close(got[1], wanted[1])
    close(got[0][real], wanted[0][real])
    assert np.abs(got[0][real]).max() > 0.1


@pytest.mark.parametrize("square", [False, True])
def test_diffusion_has_right_gradients_for_any_weights(x64, square):
    graph = F.normalize(problem().data.graph)
    bent = graph.weights * jnp.exp(0.1 * normal(*graph.weights.shape))
    real, series = np.asarray(bent) != 0, F.pagerank_series(0.5, 1e-6)
    h, cotangent = normal(52, 3), normal(52, 3, seed=2)

    def dense_series(a):
        before, now, total = jnp.eye(52), a, series[int(square), 0] * jnp.eye(52)
        for c in series[int(square), 1:]:
            total, before, now = total + c * now, now, 2 * a @ now - before
        return total

    def found(weights, h):
        return jnp.sum(cotangent * F.diffuse(graph.with_weights(weights), h, series=series)[square])

    def dense(weights, h):
        return jnp.sum(cotangent * (dense_series(dense_with(graph, weights)) @ h))

    got, wanted = (jax.grad(f, (0, 1))(bent, h) for f in (found, dense))
    close(got[1], wanted[1], rtol=1e-8)
    close(got[0][real], wanted[0][real], rtol=1e-8)
    # the rows alone, as in training
    close(jax.grad(found, 1)(bent, h), wanted[1], rtol=1e-8)


def test_gradients_of_gradients(x64):
    graph, _ = learned(problem().data.graph)
    h, v = normal(52, 2), normal(52, 2, seed=3)

    def value(h):
        return jnp.sum(jnp.sin(F.propagate(graph, h)))

    def dense(h):
        return jnp.sum(jnp.sin(dense_with(graph, graph.weights) @ h))

    second = [jax.grad(lambda h, f=f: jnp.sum(v * jax.grad(f)(h)))(h) for f in (value, dense)]
    close(*second)


def test_forward_mode_is_refused_or_right(x64):
    graph, dense = learned(problem().data.graph)
    h, t = normal(52, 2), normal(52, 2, seed=3)
    close(jax.jvp(lambda h: F.propagate(graph, h, path="jraph"), (h,), (t,))[1], dense @ t)
    series = F.pagerank_series(0.2, 1e-4)
    for f in (F.propagate, lambda g, h: F.diffuse(g, h, series=series)[0]):
        with pytest.raises(TypeError, match="forward-mode"):
            jax.jvp(lambda h, f=f: f(graph, h), (h,), (t,))


def test_new_cells_see_and_are_not_seen(x64):
    made = problem()
    n, m, k = 52, 4, 30  # more neighbours than the table is wide
    rng = np.random.default_rng(0)
    neighbors = np.array([rng.choice(45, k, replace=False) for _ in range(m)])
    weights = rng.uniform(0, 1, (m, k)) * (rng.random((m, k)) > 0.3)
    graph = F.graph.link_new_cells(made.data.graph, jnp.asarray(neighbors), jnp.asarray(weights))
    dense = np.zeros((n + m, n + m))
    dense[:n, :n] = dense_of(made.data.graph)
    for i in range(m):
        dense[n + i, neighbors[i]] = weights[i]
        dense[n + i, n + i] = 1
    close(dense_of(graph), dense)
    h = normal(n + m, 3)
    for path in ("table", "jraph"):
        close(F.propagate(graph, h, path=path), dense @ h)
    close(jax.grad(lambda h: jnp.sum(F.propagate(graph, h) ** 2))(h), 2 * dense.T @ (dense @ h))


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
    graph, n = F.normalize(made.data.graph), len(made.x)
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
    graph = F.normalize(problem().data.graph)
    series = F.pagerank_series(0.2, tolerance)
    dense = oracles.pagerank(jnp.asarray(dense_of(graph)), 0.2)
    found = F.diffuse(graph, jnp.eye(52), series=series)
    for got, wanted in zip(found, (dense, dense @ dense), strict=True):
        assert np.linalg.norm(got - wanted, 2) <= tolerance
    shorter = F.pagerank_series(0.2, 10 * tolerance)
    assert shorter.shape[1] < series.shape[1]


@pytest.mark.parametrize(("alpha", "tolerance"), [(0.2, 0.0), (0.2, 1e-17), (1 - 1e-12, 1e-6)])
def test_series_at_the_ends_of_what_there_is(alpha, tolerance):
    series = F.pagerank_series(alpha, tolerance)
    x = np.linspace(-1, 1, 9)
    wanted = alpha / (1 - (1 - alpha) * x)
    chebyshev = np.polynomial.chebyshev.chebval
    np.testing.assert_allclose(chebyshev(x, series[0]), wanted, atol=max(tolerance, 1e-12))
    np.testing.assert_allclose(chebyshev(x, series[1]), wanted**2, atol=max(tolerance, 1e-12))


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
