"""The step: every term and gradient against the dense form, stages, resumption, traces."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F
from tests import oracles
from tests.problems import CONFIG, PAIRS, close, dense_of, paired, problem, started

TERMS = list(CONFIG.to_dict()["losses"])


@pytest.fixture(scope="module")
def made():
    return paired(problem())


@pytest.fixture(scope="module")
def state(made):
    return started(made)


def config_with(**sections):
    values = CONFIG.to_dict()
    for name, settings in sections.items():
        values[name] |= settings
    return scs.Config.from_dict(values)


def copied(state):
    """Fit donates its state."""
    return jax.tree.map(lambda a: a.copy(), state)


def same(one, two):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def test_every_term_and_its_gradient_is_the_dense_one(x64):
    made = paired(problem())
    state, n = started(made), len(made.x)
    key = jax.random.key(3)
    key_views, key_counts = jax.random.split(key)
    views = F.augment(key_views, made.data, state.kept, config=CONFIG)
    rows = jax.random.randint(key_counts, (CONFIG.training.zinb_batch,), 0, n)
    fixed = (
        made.x,
        views.features_1[:n],
        views.features_2[:n],
        made.counts,
        made.size_factors,
        jnp.asarray(made.adjacency),
        jnp.asarray(dense_of(F.normalize(made.data.graph, state.kept))[:n, :n]),
        state.plan.target[:n],
        rows,
        PAIRS,
    )

    def found(params):
        return F.training_terms(params, key, made.data, state, config=CONFIG)

    def dense(params):
        return oracles.training_terms(params, *fixed, CONFIG)

    terms, z = jax.jit(found)(state.params)
    wanted, q = jax.jit(dense)(state.params)
    assert set(terms) == set(wanted) == set(TERMS)
    close(jnp.exp(F.log_assignment(z, state.params["centers"])[:n]), q, rtol=1e-9)
    close(terms, wanted, rtol=1e-9)
    got = jax.jit(jax.jacrev(lambda p: found(p)[0]))(state.params)
    right = jax.jit(jax.jacrev(lambda p: dense(p)[0]))(state.params)
    for name in TERMS:
        close(got[name], right[name], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", TERMS)
def test_a_term_that_is_off_is_not_computed(made, state, name):
    off = config_with(losses={name: 0.0})

    def traced(config):
        return jax.make_jaxpr(
            lambda p: F.training_terms(p, state.key, made.data, state, config=config)[0]
        )(state.params)

    assert name not in F.train_step.eval_shape(state, made.data, config=off)[1].terms
    assert count_equations(traced(off)) < count_equations(traced(CONFIG))
    if name == "zinb":
        fresh = F.init(jax.random.key(0), made.data, n_clusters=3, config=off)
        assert "count_heads" not in fresh.params
        assert name not in fresh.weights


def walk(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from walk(inner)


def count_equations(closed):
    return sum(1 for _ in walk(closed.jaxpr))


def test_no_array_of_a_step_is_n_by_n():
    n = 2048
    large = problem(n, n_nodes=n)
    state = jax.eval_shape(
        lambda: F.init(jax.random.key(0), large.data, n_clusters=3, config=CONFIG)
    )
    state = F.start_stage.eval_shape(state, "train", config=CONFIG)
    traced = jax.make_jaxpr(lambda s: F.train_step(s, large.data, config=CONFIG))(state)
    shapes = [
        v.aval.shape for e in walk(traced.jaxpr) for v in e.outvars if hasattr(v.aval, "shape")
    ]
    assert len(shapes) > 1000  # it did look inside
    assert not [s for s in shapes if sum(width >= n for width in s) > 1]
    assert max(int(np.prod(s)) for s in shapes) < n * n


def test_loss_is_the_weighted_sum(made, state):
    _, info = F.train_step(state, made.data, config=CONFIG)
    total = sum(float(state.weights[name] * value) for name, value in info.terms.items())
    assert float(info.loss) == pytest.approx(total, rel=1e-5)
    assert 0 <= float(info.size_entropy) <= 1
    assert -1 <= float(info.mean_cosine) <= 1
    assert 0 <= float(info.silhouette) <= 1


def test_sizes_may_be_counts_of_cells(made, state):
    centers, counts = state.params["centers"], jnp.asarray([10, 20, 30])
    shares = counts.astype(jnp.float32) / 60
    found, wanted = (
        F.start_clustering(copied(state), made.data, centers, sizes, config=CONFIG)
        for sizes in (counts, shares)
    )
    close(found.plan.target, wanted.plan.target, rtol=1e-5, atol=1e-7)
    close(found.proportions, wanted.proportions, rtol=1e-6)


def test_scan_is_the_loop(x64):
    # Two programs: the compiler may fuse them differently, so equal to rounding only.
    made = problem()
    looped, infos = started(made), []
    scanned, history = F.fit(copied(looped), made.data, config=CONFIG, n_steps=6)
    for _ in range(6):
        looped, info = F.train_step(looped, made.data, config=CONFIG)
        infos.append(info)
    close(scanned.params, looped.params, rtol=1e-9, atol=1e-10)
    close(scanned.plan.target, looped.plan.target, rtol=1e-8, atol=1e-10)
    close(history.loss, jnp.stack([info.loss for info in infos]), rtol=1e-9)


def test_resumed_is_uninterrupted_to_the_last_bit(made, state):
    whole, _ = F.fit(copied(state), made.data, config=CONFIG, n_steps=6)
    part, _ = F.fit(copied(state), made.data, config=CONFIG, n_steps=3)
    part, _ = F.fit(part, made.data, config=CONFIG, n_steps=3)
    same(part, whole)


def test_one_trace_for_steps_equal_configs_and_data_of_one_shape(made, state):
    F.train_step(state, made.data, config=CONFIG)
    before = F.train_step._cache_size()
    again = scs.Config.from_dict(CONFIG.to_dict())
    next_state, _ = F.train_step(state, made.data, config=again)
    other = made.data._replace(features=2 * made.data.features, n_cells=made.data.n_cells - 1)
    F.train_step(next_state, other, config=again)
    heavier = {name: 2 * value for name, value in state.weights.items()}
    F.train_step(state._replace(weights=heavier), made.data, config=again)
    assert F.train_step._cache_size() == before


def test_weights_and_seeds_can_be_swept(made, state):
    def loss(weight, key):
        weights = {**state.weights, "clustering": weight}
        _, info = F.train_step(state._replace(weights=weights, key=key), made.data, config=CONFIG)
        return info.loss, info.terms["clustering"]

    weights, keys = jnp.asarray([0.5, 2.0]), jax.random.split(jax.random.key(0), 2)
    swept, terms = jax.vmap(loss)(weights, keys)
    for i in range(2):
        alone, term = loss(weights[i], keys[i])
        np.testing.assert_allclose(swept[i], alone, rtol=1e-4)
        np.testing.assert_allclose(terms[i], term, rtol=1e-3, atol=1e-5)


def test_target_is_refreshed_on_schedule_and_centres_learn(made, state):
    every = CONFIG.transport.refresh_every
    targets, centers = [state.plan.target], [state.params["centers"]]
    for _ in range(2 * every):
        state, _ = F.train_step(state, made.data, config=CONFIG)
        targets.append(state.plan.target)
        centers.append(state.params["centers"])
    changed = [bool((a != b).any()) for a, b in itertools.pairwise(targets)]
    assert changed == ([False] * (every - 1) + [True]) * 2
    assert all((a != b).any() for a, b in itertools.pairwise(centers))


def moved(before, after):
    return {
        name
        for name in before
        if any(
            (a != b).any()
            for a, b in zip(
                jax.tree.leaves(before[name]), jax.tree.leaves(after[name]), strict=True
            )
        )
    }


@pytest.mark.parametrize(
    ("stage", "trained"),
    [
        ("features", {"feature_encoder", "feature_decoder", "count_heads"}),
        ("graph", {"graph_encoder", "graph_decoder"}),
        (
            "joint",
            {
                *("feature_encoder", "feature_decoder", "count_heads"),
                *("graph_encoder", "graph_decoder", "fusion"),
            },
        ),
    ],
)
def test_stages_train_what_they_say_and_learn(made, state, stage, trained):
    quick = config_with(training={"pretrain_rate": 1e-2})
    begun = F.start_stage(state, stage, config=quick)
    after, info = F.pretrain_step(begun, made.data, stage=stage, config=quick)
    assert moved(begun.params, after.params) == trained
    assert int(after.step) == int(begun.step) + 1
    _, history = F.fit(copied(begun), made.data, config=quick, n_steps=60, stage=stage)
    assert np.mean(history.loss[-10:]) < 0.9 * float(info.loss)


def test_training_lowers_the_loss(made, state):
    quick = config_with(training={"rate": 3e-3})
    _, history = F.fit(copied(state), made.data, config=quick, n_steps=60)
    assert np.mean(history.loss[-10:]) < 0.95 * np.mean(history.loss[:10])


def test_padding_changes_nothing(x64):
    slim, wide = problem(n_nodes=45, gene_pad=0), problem(n_nodes=64, gene_pad=6)
    quiet = config_with(augmentation={"feature_noise": 0.0})
    params = started(slim, quiet).params
    heads = jax.tree.map(
        lambda a: jnp.pad(a, [*[(0, 0)] * (a.ndim - 1), (0, 6)]), params["count_heads"]
    )
    results = []
    for made, its_params in ((slim, params), (wide, {**params, "count_heads": heads})):
        state = started(made, quiet, params=its_params)
        terms, z = jax.jit(F.training_terms, static_argnames="config")(
            its_params, jax.random.key(0), made.data, state, config=quiet
        )
        results.append((terms, z[:45], state.plan.target[:45]))
    close(results[0], results[1], rtol=1e-9)


def test_prediction_is_the_trained_plan(made, state):
    prediction = F.predict(state, made.data, config=CONFIG)
    n = len(made.x)
    close(prediction.proba[:n], state.plan.target[:n], rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(prediction.labels, np.argmax(prediction.proba, axis=1))
