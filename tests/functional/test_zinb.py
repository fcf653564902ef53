"""The count likelihood: against an oracle, scipy, and at the edges of its range."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.test_util import check_grads

import scsiameseclu_jax.functional as F
from scsiameseclu_jax.functional.zinb import log_gamma
from tests import oracles
from tests.problems import same_value_and_gradient


def mean_zinb(*arguments):
    return jnp.mean(F.zinb_nll(*arguments))


def zinb_case(seed=0, shape=(6, 8)):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.5, 4.0, shape))
    return counts, *(jnp.asarray(rng.normal(size=shape), float) for _ in range(3))


def test_zinb(x64):
    counts, *heads = zinb_case()
    same_value_and_gradient(
        lambda *heads: mean_zinb(
            jnp.pad(counts, [(0, 0), (0, 2)]),
            *(jnp.pad(h, [(0, 0), (0, 2)], constant_values=1.0) for h in heads),
            jnp.arange(10) < 8,
        ),
        lambda *heads: oracles.zinb(counts, *heads),
        *heads,
        rtol=1e-9,
    )


def test_zinb_is_the_likelihood_that_scipy_has(x64):
    counts, log_mean, log_dispersion, logit = zinb_case()
    m, t, pi = np.exp(log_mean), np.exp(log_dispersion), 1 / (1 + np.exp(-logit))
    p = (1 - pi) * scipy.stats.nbinom.pmf(counts, t, t / (t + m)) + pi * (counts == 0)
    found = mean_zinb(counts, log_mean, log_dispersion, logit, jnp.ones(8))
    assert float(found) == pytest.approx(-np.log(p).mean(), rel=1e-9)


def test_zinb_probabilities_sum_to_one(x64):
    counts = jnp.arange(4000)[:, None]
    heads = [jnp.full((4000, 1), value) for value in (1.2, 0.3, -0.5)]
    each = jax.vmap(lambda c, *h: mean_zinb(c[None], *(v[None] for v in h), jnp.ones(1)))
    assert float(jnp.exp(-each(counts, *heads)).sum()) == pytest.approx(1, abs=1e-9)


def test_zinb_gradients_reach_all_three_heads(x64):
    counts, *heads = zinb_case()
    gradients = jax.grad(mean_zinb, (1, 2, 3))(counts, *heads, jnp.ones(8))
    for gradient in gradients:
        assert (np.abs(gradient) > 1e-8).mean() > 0.9
    check_grads(lambda *h: mean_zinb(counts, *h, jnp.ones(8)), heads, order=1, modes=["rev"])


@pytest.mark.parametrize("extreme", [-80.0, 80.0])
def test_zinb_stays_finite_at_extremes(extreme):
    counts = jnp.asarray([[0, 1, 100_000]])
    heads = [jnp.full((1, 3), extreme)] * 3
    value, gradients = jax.value_and_grad(mean_zinb, (1, 2, 3))(counts, *heads, jnp.ones(3))
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize(("dtype", "error"), [(jnp.float64, 1e-13), (jnp.float32, 5e-6)])
def test_log_gamma_and_its_derivative(x64, dtype, error):
    z = jnp.asarray(np.exp(np.linspace(-9, 13, 2001)), dtype)
    exact = np.asarray(z, np.float64)
    slopes = jax.vmap(jax.grad(log_gamma))(z)
    for found, wanted in (
        (log_gamma(z), scipy.special.gammaln(exact)),
        (slopes, scipy.special.digamma(exact)),
    ):
        assert found.dtype == dtype
        assert (np.abs(found - wanted) / np.maximum(1, np.abs(wanted))).max() < error
