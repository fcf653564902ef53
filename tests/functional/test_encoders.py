"""The autoencoders: what they are before training, and what their switches do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scsiameseclu_jax.functional as F
from tests import oracles
from tests.problems import (
    CONFIG,
    STRUCTURE,
    close,
    config_with,
    method_of,
    problem,
    shaken,
    structure_with,
)

D = CONFIG.network.n_latent


def params_of(made, config=CONFIG, k=3):
    return method_of(config, k).init(jax.random.key(0), made.data).params


def view_of(made):
    return F.ViewGraph(F.normalize(made.data.graph), None)


def dense_of(made):
    """Return the normalised matrix with rows of padding, from the raw links."""
    return jnp.pad(jnp.asarray(oracles.normalized(made.adjacency)), (0, 7))


@pytest.fixture
def made(x64):
    return problem()


def test_untrained_feature_encoder_returns_the_leading_features(made):
    params = params_of(made)
    z = F.encode_features(params, made.data.features, structure=STRUCTURE)
    np.testing.assert_array_equal(z, made.data.features[:, :D])
    decoded, hidden = F.decode_features(params, z, structure=STRUCTURE)
    np.testing.assert_array_equal(decoded[:, :D], z)
    assert not decoded[:, D:].any()
    assert hidden.shape == (52, CONFIG.network.feature_layers[0])


def test_untrained_graph_encoder_smooths_the_leading_features(made):
    params, matrix = params_of(made)["graph_encoder"], dense_of(made)
    layers = F.graph_convolutions(params, made.data.features, view_of(made))
    assert len(layers) == len(CONFIG.network.graph_layers) + 1
    smoothed = made.data.features[:, :D]
    for _ in layers:
        smoothed = matrix @ smoothed
    close(layers[-1], (smoothed, matrix @ smoothed))


@pytest.mark.parametrize("path", [True, False])
def test_graph_encoder_is_the_written_formula(made, path):
    params = shaken(params_of(made, config_with(network={"linear_path": path})))
    matrix, weights = dense_of(made), params["graph_encoder"]
    assert ("linear" in weights) is path
    h, straight = made.data.features, None
    if path:
        straight = h @ weights["linear"]["kernel"]
    for i in range(len(CONFIG.network.graph_layers)):
        h = matrix @ jnp.tanh(h @ weights[f"layer_{i}"]["kernel"])
        straight = matrix @ straight if path else None
    y = h @ weights["output"]["kernel"]
    wanted = matrix @ (y + straight if path else y)
    close(F.graph_convolutions(weights, made.data.features, view_of(made))[-1][0], wanted)


def test_layers_of_an_own_encoder_are_propagated_once_more(made):
    own = F.Encoder(lambda key, p, network: {}, lambda params, x, graph: [2 * x, 3 * x])
    layers, x = own({}, made.data.features, view_of(made)), made.data.features
    close(layers, [(2 * x, dense_of(made) @ (2 * x)), (3 * x, dense_of(made) @ (3 * x))])


@pytest.mark.parametrize("path", [True, False])
def test_last_layers_are_linear(made, path):
    """A tanh at the end, as in the published code, could not reach features beyond 1."""
    config = config_with(network={"linear_path": path})
    params, graph = shaken(params_of(made, config)), F.normalize(made.data.graph)
    structure = structure_with(network=config.network)
    z = made.data.features[:, :D]

    def outputs(scale):
        grown = dict(params)
        for part in ("feature_decoder", "graph_decoder"):
            layers = ("output", "linear") if path else ("output",)
            scaled = {n: jax.tree.map(lambda a: scale * a, params[part][n]) for n in layers}
            grown[part] = params[part] | scaled
        return (
            F.decode_features(grown, z, structure=structure)[0],
            F.decode_graph(grown, z, graph),
        )

    close(outputs(100.0), jax.tree.map(lambda a: 100.0 * a, outputs(1.0)))


def test_without_the_linear_path_latents_still_differ(made):
    config = config_with(network={"linear_path": False})
    structure = structure_with(network=config.network)
    z = F.encode_features(params_of(made, config), made.data.features[:45], structure=structure)
    assert np.isfinite(z).all()
    assert np.linalg.matrix_rank(np.asarray(z)) == D


def test_count_heads_come_with_the_zinb_term_only(made):
    assert set(params_of(made)["zinb"]) == {"mean", "dispersion", "dropout"}
    assert "zinb" not in params_of(made, config_with(losses={"zinb": 0.0}))


def test_widths_are_those_asked_for():
    made = problem(n_features=5, n_genes=7)
    params = params_of(made, k=4)
    assert params["centers"].shape == (4, D)
    assert params["feature_decoder"]["output"]["kernel"].shape[1] == 5
    assert params["graph_decoder"]["output"]["kernel"].shape[1] == 5
    assert {h["kernel"].shape[1] for h in params["zinb"].values()} == {made.data.counts.shape[1]}
    again = params_of(made, k=4)
    assert all((a == b).all() for a, b in zip(*map(jax.tree.leaves, (params, again)), strict=True))
