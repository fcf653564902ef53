"""What can be handed in: losses, encoder, augmentation, transport, optimiser."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F
from tests.problems import PLAIN, close, problem, started

METHOD = F.siameseclu(3, config=PLAIN)


def method_of(**choices):
    return F.siameseclu(3, **{"config": PLAIN} | choices)


@pytest.fixture(scope="module")
def made():
    return problem()


def size(context):
    return jnp.mean(context.embeddings.fused**2 * jnp.arange(4.0))


def test_an_own_loss_is_a_term_like_any_other(made):
    method = method_of(terms=(*F.TERMS, F.Term("size", size, weight=3.0)))
    state = started(made, method)
    _, info = method.step(state, made.data)
    total = sum(float(state.weights[name] * value) for name, value in info.terms.items())
    assert float(info.loss) == pytest.approx(total, rel=1e-5)
    assert float(state.weights["size"]) == 3
    _, without = METHOD.step(started(made, METHOD), made.data)
    assert set(info.terms) - set(without.terms) == {"size"}
    # the draws of the other terms are what they were
    close(info.terms["zinb"], without.terms["zinb"], rtol=1e-5)


def test_config_overrides_the_weight_of_an_own_loss(made):
    terms = (*F.TERMS, F.Term("size", size, weight=3.0))
    for weight, names in ((0.5, {"size"}), (0.0, set())):
        config = scs.Config.from_dict(PLAIN.to_dict() | {"losses": {"size": weight}})
        method = method_of(config=config, terms=terms)
        assert {term.name for term in method.terms} - {t.name for t in METHOD.terms} == names
    assert (
        float(F.siameseclu(3, terms=terms).init(jax.random.key(0), made.data).weights["size"]) == 3
    )


def test_an_own_loss_may_have_parameters_and_stages(made):
    def init(key, data, structure):
        return {"scale": jnp.ones(structure.network.n_latent)}

    def value(context):
        assert context.views is None
        return jnp.mean((context.embeddings.fused * context.params["scaled"]["scale"]) ** 2)

    terms = (*F.TERMS, F.Term("scaled", value, 1.0, ("joint",), init))
    method = method_of(terms=terms)
    state = method.start_stage(method.init(jax.random.key(0), made.data), "joint")
    after, info = method.step(state, made.data, stage="joint")
    assert "scaled" in info.terms
    assert (after.params["scaled"]["scale"] != state.params["scaled"]["scale"]).any()


def test_a_loss_that_is_no_scalar_says_so(made):
    method = method_of(terms=(F.Term("rows", lambda c: c.embeddings.fused[:, 0]),))
    with pytest.raises(ValueError, match=r"'rows' to return a scalar, found \(52,\)"):
        method.step(method.init(jax.random.key(0), made.data), made.data)


def dense_layer(params, x, graph):
    return [graph.propagate(x @ params["kernel"])]


def init_layer(key, n_features, network):
    return {"kernel": jax.random.normal(key, (n_features, network.n_latent))}


def test_an_own_encoder_trains_embeds_and_predicts(made):
    method = method_of(encoder=F.Encoder(init_layer, dense_layer))
    state = started(made, method)
    after, info = method.step(state, made.data)
    kernels = [s.params["graph_encoder"]["kernel"] for s in (state, after)]
    assert (kernels[0] != kernels[1]).any()
    assert np.isfinite(float(info.loss))
    rows = np.arange(3)
    around = np.arange(45)[:12].reshape(3, 4)
    new = F.NewCells(made.data.features[rows], jnp.asarray(around), jnp.ones((3, 4)))
    assert method.embed_new(after, made.data, new).shape == (3, PLAIN.network.n_latent)


def test_an_own_augmentation(made):
    def mirrored(key, state, data, *, structure):
        views = F.dual_views(key, state, data, structure=structure)
        return views if key is None else views._replace(features_2=-views.features_1)

    method = method_of(augment=mirrored)
    state = started(made, method)
    views = [
        method.augment(k, state, made.data, structure=method.structure) for k in (state.key, None)
    ]
    close(views[0].features_2, -views[0].features_1, rtol=1e-6)
    assert views[1].features_2 is made.data.features
    before, plain = method.step(state, made.data)[1], METHOD.step(state, made.data)[1]
    assert abs(float(before.loss) - float(plain.loss)) > 1e-4


def test_unbalanced_transport_gives_way(made):
    loose = method_of(transport=partial(F.sinkhorn_target, tau=0.5))
    again = method_of(transport=partial(F.sinkhorn_target, tau=0.5))
    assert loose == again and hash(loose) == hash(again)
    assert loose != method_of(transport=partial(F.sinkhorn_target, tau=0.9))
    sizes = np.array([0.98, 0.01, 0.01])
    held, moved = (
        np.asarray(started(made, m, sizes=sizes).plan.target)[:45].mean(axis=0)
        for m in (METHOD, loose)
    )
    assert np.abs(held - sizes).max() < 1e-3
    assert np.abs(moved - sizes).max() > 0.05


def test_an_own_optimiser_takes_the_steps(made):
    method = method_of(optimizer=optax.sgd(0.5))
    state = started(made, method)
    after, _ = method.step(state, made.data)
    still = method_of(optimizer=optax.sgd(0.0))
    kept, _ = still.step(started(made, still), made.data)
    close(kept.params, state.params, rtol=1e-6)
    assert (after.params["centers"] != state.params["centers"]).any()


def test_without_counts_there_is_no_loss_of_them(made):
    data = F.cell_data(made.x, None, np.arange(45)[::-1, None])
    state = METHOD.init(jax.random.key(0), data)
    _, info = METHOD.step(METHOD.start_stage(state, "joint"), data, stage="joint")
    assert "zinb" not in info.terms
    assert np.isfinite(float(info.loss))


@pytest.mark.parametrize(
    ("choices", "error", "text"),
    [
        ({"terms": (size,)}, TypeError, "made of F.Term, found function"),
        ({"terms": F.TERMS[0]}, TypeError, "made of F.Term, found Term"),
        ({"terms": (*F.TERMS, F.TERMS[0])}, ValueError, "different names"),
        ({"terms": (F.Term("centers", size),)}, ValueError, "none of"),
        ({"terms": (F.Term("silhouette", size),)}, ValueError, "none of"),
        ({"encoder": dense_layer}, TypeError, "F.Encoder"),
        ({"transport": None}, TypeError, "`transport` to be a function"),
        ({"transport": partial(F.sinkhorn_target, epsilon=0.1)}, ValueError, "config.transport"),
        ({"optimizer": 1e-3}, TypeError, "from optax"),
        ({"config": scs.Config(losses={"sparse": 1.0})}, ValueError, r"found \['sparse'\]"),
        ({"n_clusters": 1}, ValueError, "at least 2"),
        ({"n_clusters": 2.5}, TypeError, "an integer"),
    ],
)
def test_what_does_not_fit_is_refused(choices, error, text):
    with pytest.raises(error, match=text):
        F.siameseclu(**{"n_clusters": 3} | choices)


def test_a_partial_with_an_array_is_equal_to_itself():
    loose = partial(F.sinkhorn_target, tau=np.asarray(0.9))
    assert method_of(transport=loose) == method_of(transport=loose)
    assert hash(method_of(transport=loose)) == hash(method_of(transport=loose))


@pytest.mark.parametrize(
    ("centers", "sizes", "text"),
    [
        (np.zeros((4, 4)), np.ones(3), "of shapes"),
        (np.zeros((3, 4)), np.ones(1), "of shapes"),
        (np.zeros((3, 4)), np.array([1, 2, 0]), "positive proportions"),
        (np.full((3, 4), np.nan), np.ones(3), "finite centers"),
    ],
)
def test_centres_and_sizes_are_checked(made, centers, sizes, text):
    state, z = METHOD.init(jax.random.key(0), made.data), jnp.zeros((52, 4))
    with pytest.raises(ValueError, match=text):
        METHOD.start_clustering(state, made.data, z, centers, sizes)


@pytest.mark.parametrize("layers", [lambda x: x, lambda x: (x, x), lambda x: []])
def test_an_encoder_returns_a_list_of_layers(made, layers):
    own = F.Encoder(lambda key, p, network: {}, lambda params, x, graph: layers(x[:, :4]))
    method = method_of(encoder=own)
    with pytest.raises(TypeError, match="a list of layers"):
        method.embed(method.init(jax.random.key(0), made.data), made.data)


def test_what_an_encoder_may_get_wrong_is_said(made):
    def embed(apply):
        method = method_of(encoder=F.Encoder(lambda key, p, network: {}, apply))
        method.embed(method.init(jax.random.key(0), made.data), made.data)

    with pytest.raises(ValueError, match=r"encoder to be \[n, n_latent\].*, 5\); `init` is given"):
        embed(lambda params, x, graph: [x[:, :5]])
    with pytest.raises(TypeError, match=r"found a ViewGraph; call `graph\.propagate\(h\)`"):
        embed(lambda params, x, graph: [F.propagate(graph, x[:, :4])])
    with pytest.raises(TypeError, match="latent last, found an array"):
        embed(lambda params, x, graph: x[:, :4])


@pytest.mark.parametrize("params", [{"a/b": 1.0}, [1.0], {"a": {2: 1.0}}])
def test_parameters_have_names_that_files_can_hold(made, params):
    own = F.Encoder(lambda key, p, network: params, dense_layer)
    with pytest.raises(ValueError, match="nested dicts"):
        method_of(encoder=own).init(jax.random.key(0), made.data)


def test_single_precision_where_double_is_the_default(made):
    rows = jax.nn.log_softmax(
        jnp.asarray(np.random.default_rng(0).normal(size=(30, 3)), jnp.float32)
    )
    shares, ones, zero = jnp.full(3, 1 / 3), jnp.ones(30), jnp.zeros(3)
    with jax.enable_x64(True):
        plan = F.sinkhorn_target(rows, shares, ones, zero, epsilon=0.2)
    assert plan.target.dtype == jnp.float32
    close(plan, F.sinkhorn_target(rows, shares, ones, zero, epsilon=0.2), rtol=1e-5)


def test_unknown_stages_and_no_steps_are_refused(made):
    state = METHOD.init(jax.random.key(0), made.data)
    with pytest.raises(ValueError, match="`stage` to be one of"):
        METHOD.step(state, made.data, stage="later")
    with pytest.raises(ValueError, match="`n_steps` to be at least 1"):
        METHOD.fit(state, made.data, n_steps=0)
