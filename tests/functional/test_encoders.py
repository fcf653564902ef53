"""The autoencoders: what they are before training, and what their switches do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F
from tests.problems import CONFIG, K, close, dense_of, problem, shaken

D = CONFIG.network.n_latent


def params_of(config=CONFIG, **widths):
    widths = {"n_features": 6, "n_genes": 10, "n_clusters": K, "n_cells": 52} | widths
    return F.init_params(jax.random.key(0), config=config, **widths)


def config_with(section, **settings):
    values = CONFIG.to_dict()
    values[section] |= settings
    return scs.Config.from_dict(values)


def operator(matrix):
    return lambda h: (matrix @ h, matrix @ (matrix @ h))


@pytest.fixture
def made(x64):
    return problem()


def test_untrained_feature_encoder_returns_the_leading_features(made):
    params = params_of()
    z = F.encode_features(params, made.data.features, config=CONFIG)
    np.testing.assert_array_equal(z, made.data.features[:, :D])
    decoded, hidden = F.decode_features(params, z, config=CONFIG)
    np.testing.assert_array_equal(decoded[:, :D], z)
    assert not decoded[:, D:].any()
    assert hidden.shape == (52, CONFIG.network.feature_layers[0])


def test_untrained_graph_encoder_smooths_the_leading_features(made):
    matrix = jnp.asarray(dense_of(F.normalize(made.data.graph)))
    layers = F.encode_graph(params_of(), made.data.features, operator(matrix), config=CONFIG)
    assert len(layers) == len(CONFIG.network.graph_layers) + 1
    smoothed = made.data.features[:, :D]
    for _ in layers:
        smoothed = matrix @ smoothed
    close(layers[-1], (smoothed, matrix @ smoothed))


@pytest.mark.parametrize("path", [True, False])
def test_graph_encoder_is_the_written_formula(made, path):
    config = config_with("network", linear_path=path)
    params = shaken(params_of(config))
    matrix = jnp.asarray(dense_of(F.normalize(made.data.graph)))
    weights = params["graph_encoder"]
    assert ("linear" in weights) is path
    h, straight = made.data.features, None
    if path:
        straight = h @ weights["linear"]["kernel"]
    for i in range(len(CONFIG.network.graph_layers)):
        h = matrix @ jnp.tanh(h @ weights[f"layer_{i}"]["kernel"])
        straight = matrix @ straight if path else None
    y = h @ weights["output"]["kernel"]
    wanted = matrix @ (y + straight if path else y)
    found = F.encode_graph(params, made.data.features, operator(matrix), config=config)
    close(found[-1][0], wanted)


@pytest.mark.parametrize("path", [True, False])
def test_last_layers_are_linear(made, path):
    """A tanh at the end, as in the published code, could not reach features beyond 1."""
    config = config_with("network", linear_path=path)
    params = shaken(params_of(config))
    matrix = jnp.asarray(dense_of(F.normalize(made.data.graph)))
    z = made.data.features[:, :D]

    def outputs(scale):
        grown = dict(params)
        for part in ("feature_decoder", "graph_decoder"):
            layers = ("output", "linear") if path else ("output",)
            scaled = {n: jax.tree.map(lambda a: scale * a, params[part][n]) for n in layers}
            grown[part] = params[part] | scaled
        return (
            F.decode_features(grown, z, config=config)[0],
            F.decode_graph(grown, z, operator(matrix), config=config),
        )

    close(outputs(100.0), jax.tree.map(lambda a: 100.0 * a, outputs(1.0)))


def test_without_the_linear_path_latents_still_differ(made):
    config = config_with("network", linear_path=False)
    z = F.encode_features(params_of(config), made.data.features[:45], config=config)
    assert np.isfinite(z).all()
    assert np.linalg.matrix_rank(np.asarray(z)) == D


def test_count_heads_come_with_the_zinb_term_only():
    assert set(params_of()["count_heads"]) == {"mean", "dispersion", "dropout"}
    assert "count_heads" not in params_of(config_with("losses", zinb=0.0))


@pytest.mark.parametrize("gate", ["computed", "per_cell"])
def test_fusion_starts_from_the_mean_of_both_latents(made, gate):
    config = config_with("fusion", gate=gate)
    params = params_of(config)
    z_f, z_g = made.data.features[:, :D], made.data.features[:, -D:]
    close(F.gate(params, z_f, z_g, config=config), (z_f + z_g) / 2)


def test_widths_are_those_asked_for():
    params = params_of(n_features=5, n_genes=7, n_clusters=4)
    assert params["centers"].shape == (4, D)
    assert params["feature_decoder"]["output"]["kernel"].shape[1] == 5
    assert params["graph_decoder"]["output"]["kernel"].shape[1] == 5
    assert {h["kernel"].shape[1] for h in params["count_heads"].values()} == {7}
    same = params_of(n_features=5, n_genes=7, n_clusters=4)
    assert all((a == b).all() for a, b in zip(*map(jax.tree.leaves, (params, same)), strict=True))
