"""Attention, gate and fusion, against dense forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scsiameseclu_jax.functional as F
from tests import oracles
from tests.problems import (
    CONFIG,
    EXACT,
    METHOD,
    STRUCTURE,
    close,
    config_with,
    method_of,
    problem,
    same_value_and_gradient,
    shaken,
    structure_with,
)

D = CONFIG.network.n_latent


def normal(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), float)


def padded(z, rows):
    return jnp.pad(z, [(0, rows), (0, 0)])


# 2000 rows are several blocks, the last of them not full
@pytest.mark.parametrize(("n", "pad"), [(45, 0), (45, 7), (1997, 3)])
def test_attention_is_the_dense_softmax(x64, n, pad):
    z, cotangent = 0.7 * normal(n, 4), normal(n, 4, seed=2)
    mask = jnp.arange(n + pad) < n

    def found(z):
        return jnp.sum(cotangent * F.attention(padded(z, pad), mask.astype(float))[:n])

    same_value_and_gradient(
        found, lambda z: jnp.sum(cotangent * oracles.attention(z)), z, rtol=1e-9
    )


def test_nobody_attends_to_padding():
    z = normal(20, 3)
    mask = (jnp.arange(20) < 15).astype(z.dtype)
    other = z.at[15:].set(100.0)
    np.testing.assert_array_equal(F.attention(z, mask), F.attention(other, mask))
    assert not np.asarray(F.attention(z, mask))[15:].any()


def test_large_logits_do_not_overflow():
    z = 100 * F.normalize_rows(normal(20, 3))
    with jax.default_matmul_precision("highest"):
        close(F.attention(z, jnp.ones(20)), z, rtol=1e-5)  # every cell attends to itself


def test_rows_get_equal_length_and_zero_stays():
    z = normal(10, 4).at[3].set(0)
    found = np.asarray(F.normalize_rows(z))
    close(np.linalg.norm(found, axis=1) ** 2, np.where(np.arange(10) == 3, 0, 4.0), rtol=1e-5)
    assert np.isfinite(jax.grad(lambda z: F.normalize_rows(z).sum())(z)).all()


@pytest.mark.parametrize("kind", ["computed", "per_cell", "fixed"])
def test_gate_starts_at_one_half(kind):
    method, made = method_of(config_with(fusion={"gate": kind})), problem()
    state = method.init(jax.random.key(0), made.data)
    f, g = normal(52, D), normal(52, D, seed=2)
    mixed = F.gate(state.params, f, g, structure=method.structure)
    close(mixed, 0.5 * (f + g), rtol=1e-6, atol=1e-6)


def test_gate_is_computed_for_any_cell():
    params = shaken({"fusion": {"kernel": jnp.zeros((2 * D, D)), "bias": jnp.zeros(D)}})
    f, g = normal(9, D), normal(9, D, seed=2)
    with jax.default_matmul_precision("highest"):
        whole = F.gate(params, f, g, structure=STRUCTURE)
        close(F.gate(params, f[4:6], g[4:6], structure=STRUCTURE), whole[4:6], rtol=1e-5)
    assert (np.minimum(f, g) - 1e-6 <= whole).all()
    assert (whole <= np.maximum(f, g) + 1e-6).all()


def test_fuse_is_its_dense_form(x64):
    made = problem()
    n = len(made.x)
    state = METHOD.init(jax.random.key(0), made.data)
    params = shaken(state.params)
    a = jnp.asarray(oracles.normalized(made.adjacency))
    graph = F.ViewGraph(F.normalize(made.data.graph), None)
    f, g = normal(n, D), normal(n, D, seed=2)
    cotangent = normal(n, D, seed=3)

    def found(f, g, own):
        z = F.fuse(
            {**params, "fusion": own},
            padded(f, 7),
            padded(g, 7),
            graph,
            made.data.mask,
            structure=STRUCTURE,
        )
        return jnp.sum(cotangent * z[:n])

    def dense(f, g, own):
        return jnp.sum(cotangent * oracles.fuse(own, f, g, a))

    own = params["fusion"]
    got = jax.value_and_grad(found, (0, 1, 2))(f, g, own)
    close(got, jax.value_and_grad(dense, (0, 1, 2))(f, g, own), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("change", [{"local": False}, {"global_attention": False}])
def test_parts_of_the_fusion_can_be_left_out(change):
    made = problem()
    params = shaken(METHOD.init(jax.random.key(0), made.data).params)
    f, g = normal(52, D), normal(52, D, seed=2)
    graph = F.ViewGraph(F.normalize(made.data.graph), None)
    without = structure_with(fusion=config_with(fusion=change).fusion)
    both = [F.fuse(params, f, g, graph, made.data.mask, structure=s) for s in (STRUCTURE, without)]
    assert np.abs(both[0] - both[1]).max() > 1e-3


def test_embedding_without_noise_can_be_repeated():
    made = problem()
    state = METHOD.init(jax.random.key(0), made.data)
    one = METHOD.embed(state, made.data)
    close(one, METHOD.embed(state, made.data), rtol=EXACT)
    n = len(made.x)
    close(jnp.sum(one[:n] ** 2, axis=1), jnp.full(n, float(D)), rtol=1e-4)
    assert not np.asarray(one)[n:].any()


def test_all_cells_as_landmarks_are_all_pairs(x64):
    made = problem()
    z, mask = jnp.asarray(np.random.default_rng(0).normal(size=(52, 4))), made.data.mask
    rows = jnp.arange(45)
    pull = jnp.asarray(np.random.default_rng(1).normal(size=(52, 4)))
    same_value_and_gradient(
        lambda z: jnp.sum(pull * F.attention_to(z, mask, rows)),
        lambda z: jnp.sum(pull * F.attention(z, mask)),
        z,
    )


def test_landmarks_are_spread_over_the_cells_and_only_where_there_are_many():
    mask = jnp.arange(640) < 600
    few = structure_with(exact_cells=600, landmarks=7)
    assert F.landmarks(mask, structure=few) is None  # 640 rows are what 600 cells are padded to
    many = structure_with(exact_cells=570, landmarks=7)
    wanted = [i * 600 // 7 for i in range(7)]
    np.testing.assert_array_equal(F.landmarks(mask, structure=many), wanted)


def test_landmarks_estimate_attention(x64):
    """Four groups: a tenth of the cells says nearly what all do."""
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.normal(size=(4, 5))[rng.integers(4, size=800)] + 0.1)
    z = F.normalize_rows(z + 0.3 * rng.normal(size=z.shape))
    mask = jnp.ones(800)
    exact = F.attention(z, mask)
    error = jnp.linalg.norm(F.attention_to(z, mask, jnp.arange(0, 800, 10)) - exact)
    assert error < 0.1 * jnp.linalg.norm(exact)
