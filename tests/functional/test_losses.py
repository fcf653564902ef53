"""Every loss term against its dense form, and what the published code got wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import scsiameseclu_jax.functional as F
from tests import oracles
from tests.problems import close, problem, same_value_and_gradient


def normal(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), float)


def extended(z, rows=7, value=3.0):
    """Add rows of padding that must not matter."""
    return jnp.pad(z, [(0, rows), (0, 0)], constant_values=value)


def mask(n, rows=7):
    return (jnp.arange(n + rows) < n).astype(float)


def test_squared_error(x64):
    a, b = normal(9, 3), normal(9, 3, seed=2)
    same_value_and_gradient(
        lambda a, b: F.mean_squared_error(extended(a), extended(b, value=0.0), mask(9)),
        lambda a, b: ((a - b) ** 2).mean(),
        a,
        b,
    )


def test_cell_correlation(x64):
    same_value_and_gradient(
        lambda a, b: F.cell_correlation(extended(a), extended(b), mask(30)),
        oracles.cell_correlation,
        normal(30, 4),
        normal(30, 4, seed=2),
        rtol=1e-9,
    )


def test_cell_correlation_is_least_for_equal_distinct_views():
    z = jnp.eye(6)
    assert float(F.cell_correlation(z, z, jnp.ones(6))) < 1e-9
    assert float(F.cell_correlation(z, jnp.roll(z, 1, axis=0), jnp.ones(6))) > 1
    assert float(F.cell_correlation(jnp.ones((6, 2)), jnp.ones((6, 2)), jnp.ones(6))) > 0.9


def test_latent_correlation(x64):
    q = jnp.asarray(np.random.default_rng(3).dirichlet(np.ones(5), size=30))
    same_value_and_gradient(
        lambda a, b, q: F.latent_correlation(extended(a), extended(b), extended(q, value=0.0)),
        oracles.latent_correlation,
        normal(30, 4),
        normal(30, 4, seed=2),
        q,
        rtol=1e-9,
        atol=1e-10,  # lengths have a floor of 1e-6, which the dense form lacks
    )


def test_latent_correlation_is_no_constant_and_ignores_the_order_of_cells(x64):
    a, b = normal(30, 4), normal(30, 4, seed=2)
    q = jnp.asarray(np.random.default_rng(3).dirichlet(np.ones(5), size=30))
    order = np.random.default_rng(4).permutation(30)
    value = F.latent_correlation(a, b, q)
    close(F.latent_correlation(a[order], b[order], q[order]), value)
    assert abs(float(F.latent_correlation(a, a, q) - value)) > 0.01
    gradient = jax.grad(F.latent_correlation)(a, b, q)
    assert np.abs(gradient).max() > 1e-4


def test_propagation_divergence(x64):
    same_value_and_gradient(
        lambda a, b: F.propagation_divergence(extended(a), extended(b, value=-1.0), mask(30)),
        oracles.propagation_divergence,
        normal(30, 5),
        normal(30, 5, seed=2),
        rtol=1e-9,
    )


def test_propagation_divergence_has_both_halves(x64):
    a, b, ones = normal(8, 5), 3 * normal(8, 5, seed=2), jnp.ones(8)
    value = float(F.propagation_divergence(a, b, ones))
    distances = [
        scipy.stats.entropy(p, m) / 2 + scipy.stats.entropy(q, m) / 2
        for p, q in zip(oracles.softmax(a), oracles.softmax(b), strict=True)
        for m in [(p + q) / 2]
    ]
    assert value == pytest.approx(np.mean(distances))
    assert value == pytest.approx(float(F.propagation_divergence(b, a, ones)))
    assert float(F.propagation_divergence(a, a, ones)) == pytest.approx(0, abs=1e-12)
    apart = 100 * jnp.eye(2)
    far = F.propagation_divergence(apart, apart[::-1], jnp.ones(2))
    assert float(far) == pytest.approx(np.log(2))


# 2000 rows are several blocks, the last of them not full
@pytest.mark.parametrize(("n", "pad"), [(45, 7), (1990, 10)])
def test_adjacency_error(x64, n, pad):
    made = problem(n, n_nodes=n + pad)
    same_value_and_gradient(
        lambda z: F.adjacency_error(extended(z, pad), F.normalize(made.data.graph), mask(n, pad)),
        lambda z: oracles.adjacency_error(z, jnp.asarray(oracles.normalized(made.adjacency))),
        0.5 * normal(n, 4),
        rtol=1e-9,
    )


def test_assignment_divergence_is_kl_of_probabilities(x64):
    rng = np.random.default_rng(0)
    target = rng.dirichlet(np.ones(4), size=9)
    target[0] = [0, 1, 0, 0]
    q = rng.dirichlet(np.ones(4), size=9)
    wanted = np.mean([scipy.stats.entropy(p, r) for p, r in zip(target, q, strict=True)])
    log_q = jnp.pad(jnp.log(jnp.asarray(q)), [(0, 2), (0, 0)])
    found = F.assignment_divergence(
        jnp.pad(jnp.asarray(target), [(0, 2), (0, 0)]), log_q, mask(9, 2)
    )
    assert float(found) == pytest.approx(wanted)
    gradient = jax.grad(F.assignment_divergence)(jnp.asarray(target), jnp.log(q), jnp.ones(9))
    assert np.isfinite(gradient).all()


def test_adjacency_error_with_landmarks(x64):
    made = problem()
    z = jnp.asarray(np.random.default_rng(0).normal(size=(52, 4)))
    graph, mask = F.normalize(made.data.graph), made.data.mask
    same_value_and_gradient(
        lambda z: F.adjacency_error(z, graph, mask, jnp.arange(45)),
        lambda z: F.adjacency_error(z, graph, mask),
        z,
    )
    sampled = [float(F.adjacency_error(z, graph, mask, jnp.arange(i, 45, 5))) for i in range(5)]
    assert np.mean(sampled) == pytest.approx(float(F.adjacency_error(z, graph, mask)), rel=1e-2)


def test_adjacency_error_of_learned_weights(x64):
    """Of weights that differ in both directions: the gradient of z and of the weights."""
    made = problem()
    raw = made.data.graph
    weights = jnp.abs(normal(*raw.weights.shape, seed=3)) * (raw.weights > 0)
    real, z, ones = np.asarray(raw.weights) > 0, 0.5 * normal(52, 4), jnp.ones(52)

    def found(z, weights):
        return F.adjacency_error(z, raw.with_weights(weights), ones)

    def dense(z, weights):
        a = jnp.zeros((52, 52)).at[raw.receivers, raw.senders].add(weights)
        return oracles.adjacency_error(z, a)

    got, wanted = (jax.grad(f, (0, 1))(z, weights) for f in (found, dense))
    close(got[0], wanted[0], rtol=1e-9)
    close(got[1][real], wanted[1][real], rtol=1e-9)
    assert not np.asarray(got[1])[~real].any()
