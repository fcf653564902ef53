"""The step: every term and gradient against the dense form, stages, resumption, programs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F
from tests import oracles
from tests.problems import (
    ALPHA,
    METHOD,
    PAIRS,
    PLAIN,
    STRUCTURE,
    close,
    config_with,
    forgetful,
    kept_of,
    method_of,
    problem,
    same,
    started,
)

TERMS = [term.name for term in METHOD.terms if "train" in term.stages]
# What does not ask for every term takes few, for they have to be compiled.
QUICK = F.siameseclu(3, config=PLAIN)


def changed(**sections):
    values = PLAIN.to_dict()
    for name, settings in sections.items():
        values[name] |= settings
    return scs.Config.from_dict(values)


@pytest.fixture(scope="module")
def made():
    return problem(pairs=True)


@pytest.fixture(scope="module")
def every(made):
    return started(made)


@pytest.fixture(scope="module")
def state(made):
    return started(made, QUICK)


def context_of(params, key, state, made, method=METHOD):
    return F.training._context(method, params, key, state, made.data, "train")


def rows_of(context, name="zinb"):
    """Return the cells whose counts a term draws."""
    keys = {}

    def caught(inner):
        keys[name] = inner.key
        return jnp.zeros(())

    F.evaluate([F.Term(name, caught)], context, "train")
    return F.objective.draw_cells(keys[name], context.data, STRUCTURE.zinb_batch)


def test_every_term_and_its_gradient_is_the_dense_one(x64):
    """From raw input: the dense form has its own graph, normalised once."""
    made = problem(pairs=True)
    state, n = started(made), len(made.x)
    key = jax.random.key(3)
    context = context_of(state.params, key, state, made)
    views, kept = context.views, kept_of(state, made)
    assert (kept == 0).any()
    fixed = (
        made.x,
        views.features_1[:n],
        views.features_2[:n],
        made.counts,
        made.size_factors,
        made.adjacency,
        kept,
        state.plan.target[:n],
        rows_of(context),
        PAIRS,
    )

    def found(params):
        context = context_of(params, key, state, made)
        return F.evaluate(METHOD.terms, context, "train"), context.embeddings.fused[:n]

    def dense(params):
        return oracles.training_terms(params, *fixed, STRUCTURE, ALPHA)

    terms, z = jax.jit(found)(state.params)
    wanted, dense_z = jax.jit(dense)(state.params)
    assert set(terms) == set(wanted) == set(TERMS)
    assert {*TERMS, "contrast"} == {term.name for term in F.TERMS}
    close(z, dense_z, rtol=1e-9)
    close(terms, wanted, rtol=1e-9)
    got = jax.jit(jax.jacrev(lambda p: found(p)[0]))(state.params)
    right = jax.jit(jax.jacrev(lambda p: dense(p)[0]))(state.params)
    for name in TERMS:
        close(got[name], right[name], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", TERMS)
def test_a_term_that_is_off_is_not_computed(made, every, name):
    state = every
    off = method_of(config_with(losses={name: 0.0}))

    def traced(method):
        def terms(params):
            context = context_of(params, state.key, state, made, method)
            return F.evaluate(method.terms, context, "train")

        return jax.make_jaxpr(terms)(state.params)

    assert name not in jax.eval_shape(off.step, state, made.data)[1].terms
    assert count_equations(traced(off)) < count_equations(traced(METHOD))
    if name == "zinb":
        fresh = off.init(jax.random.key(0), made.data)
        assert name not in fresh.params
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
    state = jax.eval_shape(lambda: METHOD.init(jax.random.key(0), large.data))
    state = jax.eval_shape(lambda s: METHOD.start_stage(s, "train"), state)
    traced = jax.make_jaxpr(lambda s: METHOD.step(s, large.data))(state)
    shapes = [
        v.aval.shape for e in walk(traced.jaxpr) for v in e.outvars if hasattr(v.aval, "shape")
    ]
    assert len(shapes) > 1000  # it did look inside
    assert not [s for s in shapes if sum(width >= n for width in s) > 1]
    assert max(int(np.prod(s)) for s in shapes) < n * n


def test_loss_is_the_weighted_sum(made, state):
    _, info = QUICK.step(state, made.data)
    total = sum(float(state.weights[name] * value) for name, value in info.terms.items())
    assert float(info.loss) == pytest.approx(total, rel=1e-5)
    assert 0 <= float(info.size_entropy) <= 1
    assert -1 <= float(info.mean_cosine) <= 1
    assert 0 <= float(info.silhouette) <= 1


def test_a_step_is_the_update_of_the_optimiser(x64):
    """Against optax by hand: clipped, Adam, minus the rate."""
    made = problem(pairs=True)
    state = started(made, QUICK)
    key = jax.random.fold_in(state.key, state.step)

    def loss(params):
        context = context_of(params, key, state, made, QUICK)
        terms = F.evaluate(QUICK.terms, context, "train")
        return sum(state.weights[name] * value for name, value in terms.items())

    gradient = jax.jit(jax.grad(loss))(state.params)
    training = PLAIN.training
    optimizer = optax.chain(
        optax.clip_by_global_norm(training.gradient_norm), optax.adam(training.rate)
    )
    change, _ = optimizer.update(gradient, optimizer.init(state.params))
    after, info = QUICK.step(state, made.data)
    close(after.params, optax.apply_updates(state.params, change), rtol=1e-6, atol=1e-9)
    close(info.gradient_norm, optax.tree.norm(gradient), rtol=1e-8)


def test_sizes_may_be_counts_of_cells(made, state):
    centers, z = state.params["centers"], QUICK.embed(state, made.data)
    counts, shares = np.array([10, 20, 30]), np.array([10, 20, 30]) / 60
    found, wanted = (
        QUICK.start_clustering(state, made.data, z, centers, sizes) for sizes in (counts, shares)
    )
    close(found.plan.target, wanted.plan.target, rtol=1e-5, atol=1e-7)
    close(found.proportions, wanted.proportions, rtol=1e-6)


def test_the_loop_is_single_steps(x64):
    # Two programs: the compiler may fuse them differently, so equal to rounding only.
    made = problem()
    looped, infos = started(made, QUICK), []
    fitted, history = QUICK.fit(looped, made.data, n_steps=6)
    for _ in range(6):
        looped, info = QUICK.step(looped, made.data)
        infos.append(info)
    close(fitted.params, looped.params, rtol=1e-9, atol=1e-10)
    close(fitted.plan.target, looped.plan.target, rtol=1e-8, atol=1e-10)
    close(history.loss, jnp.stack([info.loss for info in infos]), rtol=1e-9)


def test_resumed_is_uninterrupted_to_the_last_bit(made, state):
    steps = F.CHUNK + 3
    whole, history = QUICK.fit(state, made.data, n_steps=steps)
    part, first = QUICK.fit(state, made.data, n_steps=4)
    part, second = QUICK.fit(part, made.data, n_steps=steps - 4)
    same(part, whole)
    same(jax.tree.map(lambda *parts: jnp.concatenate(parts), first, second), history)


@pytest.mark.parametrize("name", ["rate", "epsilon", "zinb"])
def test_a_step_that_is_not_finite_leaves_the_state_as_it_was(made, state, name):
    """The target is refreshed with the embedding, and fails where its epsilon does."""
    group = "weights" if name == "zinb" else "values"
    values = getattr(state, group) | {name: jnp.asarray(jnp.nan, jnp.float32)}
    begun = state._replace(**{group: values})
    after, info = QUICK.fit(begun, made.data, n_steps=9)
    taken = int(after.step) - int(state.step)
    assert taken == (PLAIN.transport.refresh_every - 1 if name == "epsilon" else 0)
    if not taken:
        same(after, begun)
    for leaf in jax.tree.leaves((after.params, after.plan)):
        assert np.isfinite(leaf).all()
    np.testing.assert_array_equal(np.isfinite(info.loss), name != "zinb")
    np.testing.assert_array_equal(info.loss[taken:], info.loss[-1])  # the same step again


def test_slower_steps_are_half_as_long(made, state):
    slower = QUICK.slow_down(state, "train")
    assert float(slower.values["rate"]) == pytest.approx(PLAIN.training.rate / 2)
    assert {QUICK.rate_name(s) for s in F.STAGES} == {"contrast_rate", "pretrain_rate", "rate"}
    own = F.siameseclu(3, config=PLAIN, optimizer=optax.sgd(1.0))
    assert {own.rate_name(stage) for stage in F.STAGES} == {"update_scale"}
    begun = own.start_stage(own.init(jax.random.key(0), made.data), "graph")
    full, half = (
        own.step(one, made.data, stage="graph")[0].params["graph_decoder"]
        for one in (begun, own.slow_down(begun, "graph"))
    )
    before = begun.params["graph_decoder"]
    wanted = jax.tree.map(lambda a, b: (a + b) / 2, full, before)
    close(half, wanted, rtol=1e-5, atol=1e-7)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (full, before)), strict=True))


VALUES = {
    "losses": {"clustering": 7.0, "zinb": 0.2},
    "transport": {"epsilon": 0.5, "threshold": 1e-3, "refresh_every": 2},
    "training": {"rate": 1e-2, "pretrain_rate": 3e-3, "gradient_norm": 1.0, "patience": 30}
    | {"contrast_rate": 3e-3, "contrast_temperature": 0.2, "contrast_dropout": 0.1}
    | {"contrast_steps": 20, "feature_steps": 3, "steps": 3},
    "preprocessing": {"n_neighbors": 7, "n_top_genes": 100},
}


def test_values_compile_nothing_anew(made):
    """Weights, rates, thresholds, numbers of steps and neighbours are no part of a program."""

    def sizes():
        return [program._cache_size() for program in F.training.PROGRAMS]

    def run(method, n_steps):
        state = started(made, method)
        for stage in F.STAGES:
            begun = method.start_stage(state, stage)
            state, info = method.fit(begun, made.data, n_steps=n_steps, stage=stage)
        method.represent(state, made.data.features, None)
        method.assign(state, method.embed(state, made.data))
        return float(info.loss[-1])

    first = run(QUICK, 3)
    before = sizes()
    method = F.siameseclu(3, config=changed(**VALUES))
    assert method == QUICK
    assert hash(method) == hash(QUICK)
    assert run(method, 13) != first
    assert sizes() == before
    scaled = made.data._replace(features=2 * made.data.features, mask=made.data.mask.at[44].set(0))
    QUICK.fit(started(made, QUICK), scaled, n_steps=1)
    assert sizes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"losses": {"clustering": 0.0}},
        {"network": {"n_latent": 5}},
        {"network": {"projection_layers": [9]}},
        {"training": {"contrast_batch": 9}},
        {"augmentation": {"feature_noise": 0.0}},
        {"transport": {"refresh_every": 0}},
        {"scale": {"precision": "high"}},
    ],
)
def test_structure_does(change):
    assert method_of(config_with(**change)) != METHOD


def test_a_fit_has_one_forward_pass_and_one_loop_a_stage(made):
    """Everything between the stages is a function of the embedding."""
    method = forgetful(QUICK)
    before = {program: program._cache_size() for program in F.training.PROGRAMS}
    state = method.init(jax.random.key(0), made.data)
    for stage in F.STAGES[:-1]:
        state, _ = method.fit(method.start_stage(state, stage), made.data, n_steps=2, stage=stage)
    state = method.prune_graph(state, made.data, method.embed(state, made.data))
    z = method.embed(state, made.data)
    state = method.start_clustering(state, made.data, z, z[:3], np.ones(3))
    state, _ = method.fit(method.start_stage(state, "train"), made.data, n_steps=2)
    z = method.embed(state, made.data)
    state = method.fill_empty_clusters(state, made.data, z)
    method.assign(state, z)
    compiled = {p.__name__: p._cache_size() - n for p, n in before.items()}
    assert compiled["_embed"] == 1
    assert compiled["_loop"] == len(F.STAGES)
    assert compiled["init_params"] == 1
    assert compiled["_step"] == compiled["_embed_new"] == 0
    F.clear_programs()
    assert not any(program._cache_size() for program in F.training.PROGRAMS)


def test_weights_values_and_seeds_can_be_swept(made, state):
    def loss(weight, rate, key):
        weights = state.weights | {"clustering": weight}
        values = state.values | {"rate": rate}
        changed = state._replace(weights=weights, values=values, key=key)
        after, history = QUICK.fit(changed, made.data, n_steps=2)
        return history.loss, after.params["centers"]

    weights, rates = jnp.asarray([0.5, 2.0]), jnp.asarray([1e-4, 1e-2])
    keys = jax.random.split(jax.random.key(0), 2)
    losses, centers = jax.vmap(loss)(weights, rates, keys)
    for i in range(2):
        alone, moved = loss(weights[i], rates[i], keys[i])
        np.testing.assert_allclose(losses[i], alone, rtol=1e-4)
        np.testing.assert_allclose(centers[i], moved, rtol=1e-3, atol=1e-5)


def test_target_is_refreshed_on_schedule_and_centres_learn(made, state):
    every = PLAIN.transport.refresh_every
    targets, centers = [state.plan.target], [state.params["centers"]]
    for _ in range(2 * every):
        state, info = QUICK.step(state, made.data)
        targets.append(state.plan.target)
        centers.append(state.params["centers"])
        moved = (np.argmax(targets[-2], axis=1) != np.argmax(targets[-1], axis=1))[:45]
        assert float(info.changed) == pytest.approx(float(moved.mean()), abs=1e-6)
    changed = [bool((a != b).any()) for a, b in itertools.pairwise(targets)]
    assert changed == ([False] * (every - 1) + [True]) * 2
    assert all((a != b).any() for a, b in itertools.pairwise(centers))


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_target_is_of_the_embedding_without_noise_before_the_update(made, noise):
    method = F.siameseclu(3, config=changed(augmentation={"feature_noise": noise}))
    state = started(made, method)
    for _ in range(PLAIN.transport.refresh_every):
        before = state
        state, _ = method.step(state, made.data)
    z = jax.jit(lambda s, d: F.training._embedding(method, s, d))(before, made.data)
    wanted = method.update_target(before, made.data, z)
    close(state.plan.target, wanted.plan.target, rtol=1e-4, atol=1e-6)


def moved(before, after):
    leaves = {
        name: (jax.tree.leaves(before[name]), jax.tree.leaves(after[name])) for name in before
    }
    return {
        name
        for name, (old, new) in leaves.items()
        if any((a != b).any() for a, b in zip(old, new, strict=True))
    }


@pytest.mark.parametrize(
    ("stage", "trained"),
    [
        ("features", {"feature_encoder", "feature_decoder", "zinb"}),
        ("graph", {"graph_encoder", "graph_decoder"}),
        (
            "joint",
            {
                *("feature_encoder", "feature_decoder", "zinb"),
                *("graph_encoder", "graph_decoder", "fusion"),
            },
        ),
    ],
)
def test_stages_train_what_they_say_and_learn(made, state, stage, trained):
    quick = state._replace(values=state.values | {"pretrain_rate": jnp.asarray(1e-2)})
    begun = QUICK.start_stage(quick, stage)
    after, info = QUICK.step(begun, made.data, stage=stage)
    assert moved(begun.params, after.params) == trained
    assert int(after.step) == int(begun.step) + 1
    _, history = QUICK.fit(begun, made.data, n_steps=60, stage=stage)
    assert np.mean(history.loss[-10:]) < 0.9 * float(info.loss)


def test_training_lowers_the_loss(made, state):
    quick = state._replace(values=state.values | {"rate": jnp.asarray(3e-3)})
    _, history = QUICK.fit(quick, made.data, n_steps=60)
    assert np.mean(history.loss[-10:]) < 0.95 * np.mean(history.loss[:10])


def test_padding_changes_nothing(x64):
    slim, wide = problem(n_nodes=45), problem(n_nodes=64)
    quiet = QUICK
    params, results = started(slim, quiet).params, []
    for made in (slim, wide):
        state = started(made, quiet, params=params)
        context = jax.jit(
            lambda p, s, m=made: F.evaluate(
                quiet.terms, context_of(p, jax.random.key(0), s, m, quiet), "train"
            )
        )
        z = quiet.embed(state, made.data)
        results.append((context(params, state), z[:45], state.plan.target[:45]))
    close(results[0], results[1], rtol=1e-9)


def test_assignment_is_the_plan_that_was_trained_for(made, state):
    z = QUICK.embed(state, made.data)
    state = QUICK.update_target(state, made.data, z)
    assignment = QUICK.assign(state, z)
    n = len(made.x)
    close(assignment.proba[:n], state.plan.target[:n], rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(assignment.labels, np.argmax(assignment.proba, axis=1))
