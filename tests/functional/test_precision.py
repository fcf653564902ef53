"""Matrix products: float32 where correlations and Sinkhorn need it, as set elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F
from scsiameseclu_jax.preprocessing.prepare import prepare
from scsiameseclu_jax.training.device import device_data
from tests.problems import config_with, method_of, problem

HIGHEST = jax.lax.Precision.HIGHEST


def products(jaxpr):
    """Yield the precision of each matrix product, also of those in inner programs."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.params["precision"]
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from products(inner)


def exact(found):
    made = list(found)
    return made and all(p == (HIGHEST, HIGHEST) for p in made)


@pytest.mark.parametrize(
    "f",
    [
        lambda z, m: F.cell_correlation(z, z[::-1], m),
        lambda z, m: F.latent_correlation(z, z[::-1], jnp.abs(z[:, :3])),
        lambda z, m: jnp.sum(F.log_assignment(z, z[:4])),
        lambda z, m: jnp.sum(
            F.sinkhorn_target(
                F.log_assignment(z, z[:4]), jnp.full(4, 0.25), m, jnp.zeros(4), epsilon=0.2
            ).target
        ),
    ],
    ids=["cell_correlation", "latent_correlation", "assignment", "sinkhorn"],
)
def test_no_tf32_or_bf16_in_correlations_and_transport(f):
    z, m = jnp.ones((9, 5)), jnp.ones(9)
    with jax.default_matmul_precision("bfloat16"):
        assert exact(products(jax.make_jaxpr(f)(z, m).jaxpr))
        assert exact(products(jax.make_jaxpr(jax.grad(f))(z, m).jaxpr))


def test_the_check_sees_a_product_in_less():
    with jax.default_matmul_precision("bfloat16"):
        scanned = jax.make_jaxpr(lambda z: jax.lax.map(lambda row: z @ row, z))(jnp.ones((3, 3)))
    assert not exact(products(scanned.jaxpr))


def step_products(precision):
    made, method = problem(), method_of(config_with(scale={"precision": precision}))
    state = method.init(jax.random.key(0), made.data)
    return list(products(jax.make_jaxpr(method.step)(state, made.data).jaxpr))


def test_the_setting_reaches_every_other_product():
    assert exact(step_products("highest"))
    high = step_products("high")
    assert len(high) > 20
    counted = {str(p): high.count(p) for p in high}
    assert len(counted) == 2, counted  # the setting, and float32 where it has to be
    assert (HIGHEST, HIGHEST) in high


def test_a_caller_s_own_default_does_not_leak_in():
    with jax.default_matmul_precision("bfloat16"):
        assert exact(step_products("highest"))


@pytest.mark.parametrize(
    "config",
    [scs.Config(), pytest.param(scs.Config.paper(), marks=pytest.mark.slow)],
    ids=["default", "paper"],
)
def test_everything_is_float64_where_that_is_the_default(x64, config):
    """Traced only: types that do not fit together show there."""
    adata = scs.datasets.simulate(n_cells=52, n_genes=60, n_clusters=4, rng=0)
    data, method = device_data(prepare(adata, config=config)), F.siameseclu(4, config=config)

    def run(state):
        for stage in F.STAGES[:-1]:
            state = method.start_stage(state, stage)
            state, _ = method.fit(state, data, n_steps=2, stage=stage)
        state = method.prune_graph(state, data, method.embed(state, data))
        z, centers = method.embed(state, data), np.zeros((4, 20), np.float32)
        state = method.start_clustering(state, data, z, centers, np.ones(4, np.float32))
        state, _ = method.fit(method.start_stage(state, "train"), data, n_steps=2)
        return state, method.assign(state, method.embed(state, data))

    state = method.init(jax.random.key(0), data)
    for leaf in jax.tree.leaves((data, state, *jax.eval_shape(run, state))):
        assert not jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.dtype == jnp.float64


def test_precision_is_one_of_three():
    with pytest.raises(ValueError, match=r"`scale.precision` to be one of .* found 'tf32'"):
        scs.Config.from_dict({"scale": {"precision": "tf32"}})


def test_results_do_not_depend_on_it_on_a_cpu():
    if jax.default_backend() != "cpu":
        pytest.skip("says something of CPUs only")
    made, embeddings = problem(), []
    for precision in ("highest", "default"):
        method = method_of(config_with(scale={"precision": precision}))
        state = method.init(jax.random.key(0), made.data)
        embeddings.append(method.embed(state, made.data))
    np.testing.assert_array_equal(*embeddings)
