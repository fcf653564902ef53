"""Student-t assignment and Sinkhorn targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F
from tests import oracles
from tests.problems import close, same_value_and_gradient

_TRANSPORT = scs.Config().transport
EPSILON = _TRANSPORT.epsilon
DEFAULT = {
    "epsilon": EPSILON,
    "threshold": _TRANSPORT.threshold,
    "max_iterations": _TRANSPORT.max_iterations,
}
EXACT = DEFAULT | {"threshold": 1e-10, "max_iterations": 20_000}
SIZES = np.array([0.6, 0.3, 0.09, 0.01])


def normal(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), float)


def case(n=60, k=4):
    return F.log_assignment(normal(n, 3), normal(k, 3, seed=2))


def plan_of(log_q, sizes=SIZES, start=None, config=EXACT, pad=0):
    rows = jnp.pad(log_q, [(0, pad), (0, 0)], constant_values=-1.0)
    mask = (jnp.arange(len(rows)) < len(log_q)).astype(rows.dtype)
    start = jnp.zeros(len(sizes), rows.dtype) if start is None else start
    return F.sinkhorn_target(rows, jnp.asarray(sizes, rows.dtype), mask, start, **config)


def test_assignment_is_its_dense_form(x64):
    weights = normal(20, 4, seed=5)
    same_value_and_gradient(
        lambda z, c: jnp.sum(weights * jnp.exp(F.log_assignment(z, c))),
        lambda z, c: jnp.sum(weights * oracles.student_t(z, c)),
        normal(20, 3),
        normal(4, 3, seed=2),
        rtol=1e-9,
    )


def test_a_cell_on_its_centre_is_finite():
    z = normal(4, 3)
    value, gradient = jax.value_and_grad(lambda z: F.log_assignment(z, z).sum())(z)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("pad", [0, 5])
def test_plan_is_the_dense_sinkhorn(x64, pad):
    log_q = case()
    plan = plan_of(log_q, pad=pad)
    assert bool(plan.converged)
    wanted = oracles.sinkhorn(np.asarray(log_q), SIZES, EPSILON)
    close(plan.target[:60], wanted, rtol=1e-6, atol=1e-9)
    assert not np.asarray(plan.target)[60:].any()


def test_marginals_are_kept_in_float32():
    log_q = case(500)
    plan = plan_of(log_q, config=DEFAULT)
    assert plan.target.dtype == jnp.float32
    assert bool(plan.converged)
    close(plan.target.sum(axis=1), np.ones(500), rtol=1e-5)
    close(plan.target.sum(axis=0) / 500, SIZES, rtol=0, atol=1e-4)
    assert float(plan.error) < 1e-4


def test_even_sizes_balance_what_one_cluster_would_take():
    log_q = case() + jnp.asarray([3.0, 0.0, 0.0, 0.0])
    log_q = jax.nn.log_softmax(log_q)
    sizes = np.bincount(np.argmax(log_q, axis=1), minlength=4)
    plan = plan_of(log_q, np.full(4, 0.25))
    assert sizes.max() > 40
    assert np.bincount(np.argmax(plan.target, axis=1), minlength=4).max() < 30


def test_warm_start_is_shorter_and_the_same(x64):
    log_q = case()
    cold = plan_of(log_q)
    warm = plan_of(log_q, start=cold.potential)
    assert int(warm.iterations) < int(cold.iterations)
    close(warm.target, cold.target, rtol=1e-6, atol=1e-9)


def test_plan_follows_permutations(x64):
    log_q = case()
    cells, clusters = np.random.default_rng(0).permutation(60), np.array([2, 0, 3, 1])
    plan = plan_of(log_q)
    moved = plan_of(log_q[cells][:, clusters], SIZES[clusters])
    close(moved.target, plan.target[cells][:, clusters], rtol=1e-6, atol=1e-9)


def test_too_few_iterations_are_reported():
    plan = plan_of(case(), config=DEFAULT | {"max_iterations": 10})
    assert not bool(plan.converged)
    assert float(plan.error) > DEFAULT["threshold"]
    assert int(plan.iterations) == 10


def test_assigning_the_cells_again_gives_the_plan(x64):
    log_q = case()
    plan = plan_of(log_q)
    close(F.assign(log_q, plan.potential, epsilon=EPSILON), plan.target)
    # any cell can be assigned, and one that nobody saw gets a distribution
    log_q = F.log_assignment(normal(1, 3, seed=9), normal(4, 3))
    other = F.assign(log_q, plan.potential, epsilon=EPSILON)
    assert float(other.sum()) == pytest.approx(1)


def test_no_gradient_flows_through_the_plan():
    log_q = case()
    gradient = jax.grad(lambda q: (plan_of(q, config=DEFAULT).target ** 2).sum())(log_q)
    assert not np.asarray(gradient).any()


def test_no_cluster_is_left_without_cells():
    log_q, sizes = case(200), np.array([0.6, 0.38, 0.01, 0.01])
    plan = plan_of(log_q, sizes, pad=9)
    rows = jnp.pad(log_q, [(0, 9), (0, 0)], constant_values=-1.0)
    mask = (jnp.arange(209) < 200).astype(rows.dtype)
    low = plan.potential - jnp.array([0.0, 0.0, 9.0, 9.0])  # now they are nowhere the largest
    before = np.asarray(jnp.argmax(log_q + low, axis=1))
    assert set(before) == {0, 1}
    potential = F.fill_empty_clusters(rows, low, jnp.asarray(sizes, rows.dtype), mask)
    after = np.asarray(jnp.argmax(log_q + potential, axis=1))
    np.testing.assert_array_equal(np.bincount(after)[2:], [2, 2])
    assert (after[after < 2] == before[after < 2]).all()
    np.testing.assert_array_equal(potential[:2], low[:2])


def test_of_two_clusters_with_one_centre_the_others_do_not_suffer():
    z = jnp.concatenate([normal(100, 3), normal(4, 3) + 8, normal(2, 3) - 8])
    small, other = z[100:104].mean(axis=0), z[104:].mean(axis=0)
    log_q = F.log_assignment(z, jnp.stack([z[0], z[1], small, small, other]))
    low, sizes = jnp.array([0.0, 0.0, 0.0, 0.0, -9.0]), jnp.array([50, 50, 2, 2, 2]) / 106
    potential = F.fill_empty_clusters(log_q, low, sizes, jnp.ones(106))
    after = np.bincount(jnp.argmax(log_q + potential, axis=1), minlength=5)
    assert sorted(after[2:4]) == [0, 4]
    assert after[4] == 2


def test_cells_that_lack_the_same_leave_no_cluster_empty():
    """Of the four cells that it should get, the last two lack as much as a fifth."""
    lack = jnp.array([0.1, 0.2, 0.3, 0.3, 0.3, 0.5, 0.6, 0.7])
    log_q = jnp.stack([jnp.zeros(8), -lack], axis=1)
    potential = F.fill_empty_clusters(log_q, jnp.zeros(2), jnp.array([0.5, 0.5]), jnp.ones(8))
    after = np.asarray(jnp.argmax(log_q + potential, axis=1))
    np.testing.assert_array_equal(after, [1, 1, 0, 0, 0, 0, 0, 0])


def test_potential_stays_where_every_cluster_has_cells():
    log_q = case(200)
    plan = plan_of(log_q, np.full(4, 0.25))
    again = F.fill_empty_clusters(log_q, plan.potential, jnp.full(4, 0.25), jnp.ones(200))
    np.testing.assert_array_equal(again, plan.potential)


def test_as_many_clusters_as_cells_ends():
    log_q = case(3, 4)  # one more cluster than cells: one stays empty, and nothing hangs
    potential = F.fill_empty_clusters(log_q, jnp.zeros(4), jnp.full(4, 0.25), jnp.ones(3))
    assert np.isfinite(potential).all()


def test_unbalanced_transport_is_its_dense_form(x64):
    """Every cell is assigned; proportions give way, by the scaling of Chizat et al."""
    log_q, tau = case(), 0.8
    plan = plan_of(log_q, config=EXACT | {"tau": tau})
    kernel = np.exp(np.asarray(log_q) / EPSILON)
    u, v = np.ones(60), np.ones(4)
    for _ in range(5000):
        u = 1 / 60 / (kernel @ v)
        v = (SIZES / (kernel.T @ u)) ** tau
    u = 1 / 60 / (kernel @ v)
    close(plan.target, 60 * u[:, None] * kernel * v, rtol=1e-5, atol=1e-8)
    sizes = np.asarray(plan.target).mean(axis=0)
    assert np.abs(sizes - SIZES).max() > 1e-2
    assert bool(plan.converged)
