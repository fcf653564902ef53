"""Contrast between neighbours: the loss, whom it compares, its stage, and what it teaches."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.linear_model import LogisticRegression

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F
from scsiameseclu_jax.preprocessing.prepare import prepare
from scsiameseclu_jax.training import stages
from scsiameseclu_jax.training.device import device_data
from scsiameseclu_jax.training.progress import Progress
from tests import oracles
from tests.problems import PLAIN, close, problem, same, same_value_and_gradient, shaken

METHOD = F.siameseclu(3, config=PLAIN)
BATCH = PLAIN.training.contrast_batch


@pytest.fixture(scope="module")
def made():
    return problem()


@pytest.fixture(scope="module")
def state(made):
    return METHOD.start_stage(METHOD.init(jax.random.key(0), made.data), "contrast")


def values(state, **changed):
    return state._replace(values=state.values | {k: jnp.asarray(v) for k, v in changed.items()})


def context_of(params, state, data, method=METHOD):
    return F.training._context(method, params, jax.random.key(5), state, data, "contrast")


def dense(params, x):
    return np.asarray(oracles.dense_stack(params, x, 1, PLAIN.network.negative_slope)[0])


# Cells twice, a neighbour twice, a pair the other way round, a cell that is its own neighbour.
CELLS = np.array([0, 1, 1, 2, 5, 6, 7, 8, 9, 3])
NEIGHBORS = np.array([1, 2, 3, 4, 4, 6, 8, 7, 10, 11])


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_the_loss_and_its_gradient_are_the_dense_ones(x64, temperature):
    rng = np.random.default_rng(0)
    z_1, z_2 = (jnp.asarray(rng.normal(size=(10, 4))) for _ in range(2))
    cells = jnp.asarray(CELLS), jnp.asarray(NEIGHBORS)
    same_value_and_gradient(
        lambda a, b: F.neighbor_contrast(a, b, *cells, temperature=temperature),
        lambda a, b: oracles.neighbor_contrast(a, b, CELLS, NEIGHBORS, temperature),
        z_1,
        z_2,
        rtol=1e-9,
    )


def test_a_batch_of_one_cell_says_nothing():
    z, cells = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3))), jnp.zeros(4, int)
    value, slopes = jax.value_and_grad(F.neighbor_contrast)(z, -z, cells, cells, temperature=0.5)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(slopes, 0, atol=1e-6)


@pytest.mark.parametrize("n_nodes", [45, 52])
def test_neighbours_are_drawn_with_the_same_chance(n_nodes):
    made = problem(n_nodes=n_nodes)
    cells = jnp.asarray(np.repeat(np.arange(45), 2000))
    draw = jax.jit(F.draw_neighbors)
    drawn = np.asarray(draw(jax.random.key(0), made.data.graph, cells)).reshape(45, 2000)
    linked = made.adjacency > 0
    lonely = linked.sum(axis=1) == 1  # they have but themselves
    assert lonely[[0, 44]].all()
    np.fill_diagonal(linked, lonely)
    for cell in range(45):
        found, counts = np.unique(drawn[cell], return_counts=True)
        np.testing.assert_array_equal(found, np.flatnonzero(linked[cell]))
        expected = 2000 / len(found)
        assert np.abs(counts - expected).max() < 6 * np.sqrt(expected)


def test_dropout_keeps_the_mean():
    x = np.asarray(F.feature_dropout(jax.random.key(0), jnp.ones((300, 400)), rate=0.2))
    np.testing.assert_allclose(np.unique(x), [0, 1.25])
    assert abs(x.mean() - 1) < 5e-3
    np.testing.assert_array_equal(F.feature_dropout(jax.random.key(0), x, rate=0.0), x)


def test_an_untrained_projection_keeps_the_leading_features(made, state):
    width = PLAIN.network.n_latent
    np.testing.assert_array_equal(
        METHOD.represent(state, made.data.features, None), made.data.features[:, :width]
    )


def test_without_a_projection_users_get_the_fused_embedding(made):
    state = METHOD.init(jax.random.key(0), made.data)
    z = METHOD.embed(state, made.data)
    assert METHOD.represent(state, made.data.features, z) is z
    with pytest.raises(ValueError, match="Expected a state with a projection"):
        METHOD.fit(state, made.data, n_steps=1, stage="contrast")


def test_a_context_holds_cells_and_then_their_neighbours(made, state):
    state = state._replace(params=shaken(state.params))
    context = context_of(state.params, state, made.data)
    cells, near = np.split(np.asarray(context.rows), 2)
    assert len(cells) == len(near) == BATCH
    assert (made.adjacency > 0)[cells, near].all()
    kept = 1 - float(state.values["contrast_dropout"])
    whole = np.asarray(made.data.features)[context.rows] / kept
    found = np.asarray(context.data.features)
    np.testing.assert_allclose(found[found != 0], whole[found != 0], rtol=1e-6)
    assert 0 < (found == 0).mean() < 0.4
    z = np.asarray(context.embeddings.fused)
    close(z, dense(state.params["projection"], found), rtol=1e-4, atol=1e-5)
    z_1, z_2 = np.split(dense(state.params["contrast"], z), 2)
    wanted = oracles.neighbor_contrast(z_1, z_2, cells, near, PLAIN.training.contrast_temperature)
    terms = F.evaluate(METHOD.terms, context, "contrast")
    assert set(terms) == {"contrast"}
    np.testing.assert_allclose(terms["contrast"], wanted, rtol=1e-4)


def test_it_changes_the_projection_and_its_head_alone(made, state):
    """Also with an optimiser that would change parameters without a gradient."""
    method = F.siameseclu(3, config=PLAIN, optimizer=optax.adamw(1e-2, weight_decay=0.5))
    begun = method.start_stage(state._replace(params=shaken(state.params)), "contrast")
    after, _ = method.fit(begun, made.data, n_steps=3, stage="contrast")
    changed = {"projection", "contrast"}
    one, two = ({k: v for k, v in s.params.items() if k not in changed} for s in (begun, after))
    same(one, two)
    for name in changed:
        moved = zip(*(jax.tree.leaves(s.params[name]) for s in (begun, after)), strict=True)
        assert all((a != b).any() for a, b in moved)
    later, _ = method.fit(method.start_stage(after, "features"), made.data, n_steps=1)
    same(later.params["projection"], after.params["projection"])
    same(METHOD.embed(begun, made.data), METHOD.embed(after, made.data))


def test_the_rate_rises_and_falls(made, state):
    rates = [
        float(F.training._contrast_rate(values(state, contrast_steps=100.0).values, jnp.asarray(i)))
        for i in range(110)
    ]
    largest = PLAIN.training.contrast_rate
    assert np.argmax(rates) in range(3, 7)
    assert 0.95 * largest < max(rates) <= largest
    assert 0 < rates[0] < largest / 2
    assert (np.diff(rates[6:]) <= 0).all()
    np.testing.assert_allclose(rates[100:], 0, atol=1e-9)
    # without a length, as an own loop may have it, it stays
    endless = values(state, contrast_steps=0.0).values
    late = [float(F.training._contrast_rate(endless, jnp.asarray(i))) for i in (0, 5, 500)]
    np.testing.assert_allclose(late, largest)


def test_an_own_term_joins_the_stage_with_parameters_of_its_own(made):
    def value(context):
        assert context.views is None
        assert context.log_assignment is None
        z = context.embeddings.fused * context.params["scaled"]["scale"]
        return jnp.mean(z**2) * context.values["contrast_temperature"]

    def init(key, data, structure):
        return {"scale": jnp.ones(structure.network.n_latent)}

    term = F.Term("scaled", value, 1.0, ("contrast",), init)
    method = F.siameseclu(3, config=PLAIN, terms=(*F.TERMS, term))
    begun = method.start_stage(method.init(jax.random.key(0), made.data), "contrast")
    after, info = method.step(begun, made.data, stage="contrast")
    assert set(info.terms) == {"contrast", "scaled"}
    assert (after.params["scaled"]["scale"] != 1).any()


def test_resumed_is_uninterrupted_to_the_last_bit(made, state):
    whole, history = METHOD.fit(state, made.data, n_steps=13, stage="contrast")
    part, first = METHOD.fit(state, made.data, n_steps=4, stage="contrast")
    part, second = METHOD.fit(part, made.data, n_steps=9, stage="contrast")
    same(part, whole)
    close(jnp.concatenate([first.loss, second.loss]), history.loss, rtol=0, atol=0)


# What it teaches.

CONFIG = scs.Config.from_dict({"training": {"contrast_steps": 150, "contrast_batch": 128}})


@pytest.fixture(scope="module")
def simulated():
    adata = scs.datasets.simulate(n_cells=600, n_genes=150, n_clusters=6, difficulty=0.75, rng=0)
    return adata, prepare(adata, config=CONFIG)


def probe(z, labels):
    """Accuracy of a linear classifier that sees ten cells of each type."""
    rows = np.random.default_rng(0).permutation(len(z))
    known = np.concatenate([rows[labels[rows] == one][:10] for one in np.unique(labels)])
    rest = np.setdiff1d(rows, known)
    z = (z - z.mean(axis=0)) / z.std()
    model = LogisticRegression(max_iter=1000).fit(z[known], labels[known])
    return model.score(z[rest], labels[rest])


def embedding_of(prepared, config):
    with Progress("embedding", show=False) as bar:
        return stages.fit_embedding(prepared, config=config, seed=0, bar=bar)


def test_it_learns(simulated):
    adata, prepared = simulated
    labels = adata.obs["cell_type"].to_numpy().astype(str)[prepared.order]
    scores = {
        "learned": probe(embedding_of(prepared, CONFIG), labels),
        "not learned": probe(embedding_of(prepared, scs.Config.fast()), labels),
        "components": probe(prepared.features[:, :20], labels),
    }
    assert scores["learned"] > max(scores["not learned"], scores["components"]) + 0.01, scores


def test_it_lowers_its_loss(simulated):
    """On one batch, the same before and after."""
    _, prepared = simulated
    method = F.siameseclu(6, config=CONFIG)
    data = device_data(prepared)
    begun = method.start_stage(method.init(jax.random.key(0), data), "contrast")
    steps = CONFIG.training.contrast_steps
    after, history = method.fit(begun, data, n_steps=steps, stage="contrast")
    assert history.terms["contrast"].shape == (steps,)

    @jax.jit
    def loss(state):
        context = context_of(state.params, state, data, method)
        return F.evaluate(method.terms, context, "contrast")["contrast"]

    assert float(loss(after)) < float(loss(begun)) - 0.03


def test_mini_batches_learn_the_same(simulated):
    """The stage draws its own batches from all cells, however many there are."""
    _, prepared = simulated
    values = CONFIG.to_dict()
    values["training"]["contrast_steps"] = 12
    whole = scs.Config.from_dict(values)
    parts = scs.Config.from_dict(values | {"scale": {"full_cells": 100, "batch_cells": 160}})
    close(embedding_of(prepared, parts), embedding_of(prepared, whole), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def models(simulated):
    adata, _ = simulated
    configs = CONFIG, scs.Config.fast()
    return [scs.SiameseClu(6, config=one).fit(adata, progress=False) for one in configs]


def test_clusters_are_those_without_it(models):
    learned, fast = models
    np.testing.assert_array_equal(learned.labels, fast.labels)
    np.testing.assert_array_equal(learned.proba, fast.proba)
    one, two = (model.get_latent_representation() for model in models)
    assert one.shape == two.shape
    assert (one != two).all()
    np.testing.assert_allclose(np.linalg.norm(two, axis=1), np.sqrt(two.shape[1]), rtol=1e-4)


def test_new_cells_get_it_too(simulated, models, tmp_path):
    adata, _ = simulated
    learned, _ = models
    found = learned.predict(adata[:50].copy())
    np.testing.assert_allclose(
        found.embedding, learned.get_latent_representation()[:50], rtol=1e-3, atol=1e-4
    )
    learned.save(tmp_path / "model")
    loaded = scs.SiameseClu.load(tmp_path / "model").predict(adata[:50].copy())
    np.testing.assert_array_equal(loaded.embedding, found.embedding)


def test_the_order_of_the_cells_does_not_matter(simulated, models):
    adata, _ = simulated
    rows = np.random.default_rng(0).permutation(adata.n_obs)
    other = scs.SiameseClu(6, config=CONFIG).fit(adata[rows], progress=False)
    np.testing.assert_array_equal(
        other.get_latent_representation(), models[0].get_latent_representation()[rows]
    )


def test_other_numbers_of_steps_and_cells_compile_nothing(simulated, models):
    adata, _ = simulated
    sizes = [program._cache_size() for program in F.training.PROGRAMS]
    values = CONFIG.to_dict()
    values["training"] |= {"contrast_steps": 7, "contrast_rate": 1e-2, "contrast_dropout": 0.3}
    values["training"] |= {"contrast_temperature": 0.2}
    model = scs.SiameseClu(6, config=scs.Config.from_dict(values))
    model.fit(adata[:598].copy(), progress=False)
    assert (model.history["stage"] == "contrast").sum() == 7
    assert [program._cache_size() for program in F.training.PROGRAMS] == sizes


def test_a_projection_that_learns_nothing_is_left_out(simulated, models):
    """Its embedding would be worse than the one that nothing was learned for."""
    adata, _ = simulated
    training = CONFIG.to_dict()["training"] | {"contrast_steps": 30, "contrast_rate": 1e3}
    model = scs.SiameseClu(6, config=scs.Config.from_dict({"training": training}))
    model.fit(adata, progress=False)
    (note,) = model.manifest["warnings"]
    assert note.startswith("Stage 'contrast' diverged by step 31: the loss, ")
    assert note.endswith("as if it had not begun; lower `config.training.contrast_rate` (1000).")
    wanted = models[1].get_latent_representation()
    np.testing.assert_array_equal(model.get_latent_representation(), wanted)
    assert "projection" not in model._reference.state.params


class Cut(BaseException):
    """What ends a fit at any place."""


def test_it_is_taken_up_again_to_the_last_bit(simulated, models, tmp_path, monkeypatch):
    adata, _ = simulated
    fit = partial(scs.SiameseClu(6, config=CONFIG).fit, adata, progress=False)
    update, steps = Progress.update, []

    def heard(self, n_steps, losses):
        steps.append(n_steps)
        if len(steps) == 9:
            raise Cut
        update(self, n_steps, losses)

    monkeypatch.setattr(Progress, "update", heard)
    with pytest.raises(Cut):
        fit(checkpoint_dir=tmp_path, every=20)
    found = fit(checkpoint_dir=tmp_path)
    assert steps[9:] == [60, *[10] * 9]
    for fused in (False, True):
        np.testing.assert_array_equal(
            found.get_latent_representation(fused=fused),
            models[0].get_latent_representation(fused=fused),
        )
    np.testing.assert_array_equal(found.history["loss"], models[0].history["loss"])
