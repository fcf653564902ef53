"""The feature and the graph autoencoder, with one set of weights for both views.

Each is a linear path plus a learned residual whose last layer starts at 0: an untrained encoder
returns the leading components of its input, smoothed by the graph in the graph encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from scsiameseclu_jax.config import Config, Network

Params = dict[str, Any]
Propagated = tuple[Array, Array | None]
Operator = Callable[[Array], Propagated]
"""Propagation of a view: ``[n, c]`` to itself propagated once, and twice if that is wanted."""

_ZERO = nn.initializers.zeros_init()


def _leading(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Initialise a linear map that keeps the leading coordinates."""
    del key
    return jnp.eye(*shape, dtype=dtype)


class _Dense(nn.Module):
    """A stack of dense layers with LeakyReLU, and optionally a linear path beside it."""

    hidden: tuple[int, ...]
    width: int
    slope: float
    linear_path: bool

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Return the output and the last hidden layer."""
        h = x
        for i, width in enumerate(self.hidden):
            h = nn.leaky_relu(nn.Dense(width, name=f"layer_{i}")(h), self.slope)
        init = _ZERO if self.linear_path else nn.initializers.lecun_normal()
        y = nn.Dense(self.width, kernel_init=init, name="output")(h)
        if self.linear_path:
            y += nn.Dense(self.width, use_bias=False, kernel_init=_leading, name="linear")(x)
        return y, h


class _CountHeads(nn.Module):
    """Mean, dispersion and dropout of the counts from the decoder's last hidden layer."""

    n_genes: int

    @nn.compact
    def __call__(self, h: Array) -> tuple[Array, Array, Array]:
        mean = nn.Dense(self.n_genes, name="mean")(h)
        dispersion = nn.Dense(self.n_genes, name="dispersion")(h)
        dropout = nn.Dense(self.n_genes, name="dropout")(h)
        return mean, dispersion, dropout


class _GraphConvolutions(nn.Module):
    """Graph convolutions ``H <- P act(H W)``, and optionally a linear path beside them."""

    hidden: tuple[int, ...]
    width: int
    linear_path: bool

    @nn.compact
    def __call__(self, x: Array, operator: Operator) -> list[Propagated]:
        """Return each layer, the output last."""
        h, path = x, None
        if self.linear_path:
            path = nn.Dense(self.width, use_bias=False, kernel_init=_leading, name="linear")(x)
        layers = []
        for i, width in enumerate(self.hidden):
            h = jnp.tanh(nn.Dense(width, use_bias=False, name=f"layer_{i}")(h))
            # layer and path share one pass over the graph
            joined = h if path is None else jnp.concatenate([h, path], axis=1)
            once, twice = operator(joined)
            h, path = once[:, :width], None if path is None else once[:, width:]
            layers.append((h, None if twice is None else twice[:, :width]))
        init = nn.initializers.lecun_normal() if path is None else _ZERO
        y = nn.Dense(self.width, use_bias=False, kernel_init=init, name="output")(h)
        return [*layers, operator(y if path is None else y + path)]


def _feature_encoder(network: Network) -> _Dense:
    slope, path = network.negative_slope, network.linear_path
    return _Dense(network.feature_layers, network.n_latent, slope, path)


def _feature_decoder(network: Network, n_features: int) -> _Dense:
    slope, path = network.negative_slope, network.linear_path
    return _Dense(network.feature_layers[::-1], n_features, slope, path)


def _graph_encoder(network: Network) -> _GraphConvolutions:
    return _GraphConvolutions(network.graph_layers, network.n_latent, network.linear_path)


def _graph_decoder(network: Network, n_features: int) -> _GraphConvolutions:
    return _GraphConvolutions(network.graph_layers[::-1], n_features, network.linear_path)


def _no_graph(h: Array) -> Propagated:
    return h, None


def init_params(
    key: Array, *, n_features: int, n_genes: int, n_clusters: int, n_cells: int, config: Config
) -> Params:
    """Initialise all parameters.

    Parameters
    ----------
    key
        Typed random key.
    n_features, n_genes, n_clusters, n_cells
        Widths of the arrays (padding included). `n_cells` matters for ``gate="per_cell"`` only.
    config
        Static settings.

    Returns
    -------
    Nested dict: ``feature_encoder``, ``feature_decoder``, ``count_heads``, ``graph_encoder``,
    ``graph_decoder``, ``fusion`` and ``centers`` [k, d].
    """
    network = config.network
    keys = jax.random.split(key, 5)
    x = jnp.zeros((1, n_features))
    z = jnp.zeros((1, network.n_latent))
    h = jnp.zeros((1, network.feature_layers[0]))
    params: Params = {
        "feature_encoder": _feature_encoder(network).init(keys[0], x)["params"],
        "feature_decoder": _feature_decoder(network, n_features).init(keys[1], z)["params"],
        "graph_encoder": _graph_encoder(network).init(keys[3], x, _no_graph)["params"],
        "graph_decoder": _graph_decoder(network, n_features).init(keys[4], z, _no_graph)["params"],
        "fusion": init_fusion(n_cells, network.n_latent, config=config),
        "centers": jnp.zeros((n_clusters, network.n_latent)),
    }
    if config.losses.zinb:
        params["count_heads"] = _CountHeads(n_genes).init(keys[2], h)["params"]
    return params


def init_fusion(n_cells: int, n_latent: int, *, config: Config) -> Params:
    """Return the fusion's parameters: both latents weigh 0.5, attention weighs 0."""
    params: Params = {}
    if config.fusion.gate == "computed":
        params["kernel"] = jnp.zeros((2 * n_latent, n_latent))
        params["bias"] = jnp.zeros(n_latent)
    elif config.fusion.gate == "per_cell":
        params["a"] = jnp.full((n_cells, n_latent), 0.5)
        params["b"] = jnp.full((n_cells, n_latent), 0.5)
    if config.fusion.global_attention:
        params["beta"] = jnp.zeros(())
    return params


def encode_features(params: Params, x: Array, *, config: Config) -> Array:
    """Return the feature encoder's latent [n, d] of features [n, p]."""
    return _feature_encoder(config.network).apply({"params": params["feature_encoder"]}, x)[0]


def decode_features(params: Params, z: Array, *, config: Config) -> tuple[Array, Array]:
    """Return decoded features [n, p] of latents [n, d], and the last hidden layer."""
    n_features = params["feature_decoder"]["output"]["kernel"].shape[1]
    decoder = _feature_decoder(config.network, n_features)
    return decoder.apply({"params": params["feature_decoder"]}, z)


def decode_counts(params: Params, h: Array) -> tuple[Array, Array, Array]:
    """Return the raw outputs of the three count heads, each [b, g].

    ``log mean`` (before the size factor), ``log dispersion`` and the logit of the dropout
    probability, of hidden rows [b, h] from :func:`decode_features`.
    """
    n_genes = params["count_heads"]["mean"]["kernel"].shape[1]
    return _CountHeads(n_genes).apply({"params": params["count_heads"]}, h)


def encode_graph(
    params: Params, x: Array, operator: Operator, *, config: Config
) -> list[Propagated]:
    """Encode features over a graph.

    Parameters
    ----------
    params
        All parameters.
    x
        [n, p] features.
    operator
        Propagation of the view.
    config
        Static settings.

    Returns
    -------
    For each layer, the latent [n, d] last: the layer, and the layer propagated once more (None
    if the operator leaves that out).
    """
    return _graph_encoder(config.network).apply({"params": params["graph_encoder"]}, x, operator)


def decode_graph(params: Params, z: Array, operator: Operator, *, config: Config) -> Array:
    """Return the graph decoder's features [n, p] of latents [n, d]."""
    n_features = params["graph_decoder"]["output"]["kernel"].shape[1]
    decoder = _graph_decoder(config.network, n_features)
    return decoder.apply({"params": params["graph_decoder"]}, z, operator)[-1][0]
