"""The feature and the graph autoencoder, with one set of weights for both views.

Each is a linear path plus a learned residual whose last layer starts at 0: an untrained encoder
returns the leading components of its input, smoothed by the graph in the graph encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from scsiameseclu_jax.config import Network
from scsiameseclu_jax.functional.graph import CellGraph
from scsiameseclu_jax.functional.propagation import ViewGraph, propagate
from scsiameseclu_jax.functional.settings import Structure
from scsiameseclu_jax.functional.types import Params

_ZERO = nn.initializers.zeros_init()


class Encoder(NamedTuple):
    """A graph encoder: how its parameters begin, and what it does with them.

    Both views, and new cells, are encoded by the same call with the same parameters.
    """

    init: Callable[[Array, int, Network], Params]
    """``init(key, n_features, network)`` returns a nested dict of arrays."""
    apply: Callable[[Params, Array, ViewGraph], list[Any]]
    """``apply(params, x, graph)`` encodes features [n, p]; it returns a list of layers, the last
    the latent [n, n_latent]. A layer is an array, or a pair: itself, and itself propagated
    once more where that is a by-product."""

    def __call__(self, params: Params, x: Array, graph: ViewGraph) -> list[tuple[Array, Array]]:
        """Return each layer [n, width], the latent last, and each propagated once more."""
        layers = self.apply(params, x, graph)
        found: object = layers
        if not isinstance(found, list) or not found:
            kind = "an array" if isinstance(found, Array) else type(found).__name__
            msg = f"Expected an encoder to return a list of layers, latent last, found {kind}."
            raise TypeError(msg)
        return [
            layer if isinstance(layer, tuple) else (layer, graph.propagate(layer))
            for layer in layers
        ]


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
    """Graph convolutions ``H <- A act(H W)``, and optionally a linear path beside them."""

    hidden: tuple[int, ...]
    width: int
    linear_path: bool

    @nn.compact
    def __call__(
        self, x: Array, operator: Callable[[Array], tuple[Array, Array]]
    ) -> list[tuple[Array, Array]]:
        """Return each layer, the output last, and each propagated once more."""
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
            layers.append((h, twice[:, :width]))
        init = nn.initializers.lecun_normal() if path is None else _ZERO
        y = nn.Dense(self.width, use_bias=False, kernel_init=init, name="output")(h)
        return [*layers, operator(y if path is None else y + path)]


def _init_convolutions(key: Array, n_features: int, network: Network) -> Params:
    module = _GraphConvolutions(network.graph_layers, network.n_latent, network.linear_path)
    return module.init(key, jnp.zeros((1, n_features)), lambda h: (h, h))["params"]


def _convolve(
    params: Params, x: Array, operator: Callable[[Array], tuple[Array, Array]]
) -> list[tuple[Array, Array]]:
    """Apply graph convolutions, whose widths the parameters tell."""
    hidden = [
        params[f"layer_{i}"]["kernel"].shape[1]
        for i in range(len(params))
        if f"layer_{i}" in params
    ]
    width = params["output"]["kernel"].shape[1]
    module = _GraphConvolutions(tuple(hidden), width, "linear" in params)
    return module.apply({"params": params}, x, operator)


def _encode_by_convolutions(
    params: Params, x: Array, graph: ViewGraph
) -> list[tuple[Array, Array]]:
    return _convolve(params, x, graph.propagate_twice)


graph_convolutions = Encoder(_init_convolutions, _encode_by_convolutions)
"""The paper's graph encoder: tanh layers of ``config.network.graph_layers``."""


def _feature_encoder(network: Network) -> _Dense:
    slope, path = network.negative_slope, network.linear_path
    return _Dense(network.feature_layers, network.n_latent, slope, path)


def _projection(network: Network) -> _Dense:
    slope, path = network.negative_slope, network.linear_path
    return _Dense(network.projection_layers, network.n_latent, slope, path)


def _contrast_head(network: Network) -> _Dense:
    slope, path = network.negative_slope, network.linear_path
    return _Dense(network.contrast_layers, network.n_latent, slope, path)


def _feature_decoder(network: Network, n_features: int) -> _Dense:
    slope, path = network.negative_slope, network.linear_path
    return _Dense(network.feature_layers[::-1], n_features, slope, path)


def init_params(
    key: Array,
    *,
    n_features: int,
    n_clusters: int,
    n_cells: int,
    encoder: Encoder,
    structure: Structure,
) -> Params:
    """Initialise the parameters of both autoencoders, the fusion and the centres.

    Parameters
    ----------
    key
        Typed random key.
    n_features, n_clusters, n_cells
        Widths of the arrays (padding included). `n_cells` matters for ``gate="per_cell"`` only.
    encoder
        The graph encoder.
    structure
        Static settings.

    Returns
    -------
    Nested dict: ``feature_encoder``, ``feature_decoder``, ``graph_encoder``, ``graph_decoder``,
    ``fusion`` and ``centers`` [k, d].
    """
    network = structure.network
    keys = jax.random.split(key, 5)
    x = jnp.zeros((1, n_features))
    z = jnp.zeros((1, network.n_latent))
    mirrored = network.graph_layers[::-1]
    decoder = _GraphConvolutions(mirrored, n_features, network.linear_path)
    return {
        "feature_encoder": _feature_encoder(network).init(keys[0], x)["params"],
        "feature_decoder": _feature_decoder(network, n_features).init(keys[1], z)["params"],
        "graph_encoder": encoder.init(keys[3], n_features, network),
        "graph_decoder": decoder.init(keys[4], z, lambda h: (h, h))["params"],
        "fusion": init_fusion(n_cells, structure=structure),
        "centers": jnp.zeros((n_clusters, network.n_latent)),
    }


def init_projection(key: Array, *, n_features: int, structure: Structure) -> Params:
    """Initialise the projection of features [n, p] to what contrast learns [n, d]."""
    x = jnp.zeros((1, n_features))
    return _projection(structure.network).init(key, x)["params"]


@partial(jax.jit, static_argnames="structure")  # one program, not one for each operation
def init_contrast_head(key: Array, *, structure: Structure) -> Params:
    """Initialise the network between the projection and its contrast."""
    z = jnp.zeros((1, structure.network.n_latent))
    return _contrast_head(structure.network).init(key, z)["params"]


def init_count_heads(key: Array, n_genes: int, structure: Structure) -> Params:
    """Initialise the heads of mean, dispersion and dropout of `n_genes` counts."""
    hidden = jnp.zeros((1, structure.network.feature_layers[0]))
    return _CountHeads(n_genes).init(key, hidden)["params"]


def init_fusion(n_cells: int, *, structure: Structure) -> Params:
    """Return the fusion's parameters: both latents weigh 0.5, attention weighs 0."""
    n_latent = structure.network.n_latent
    params: Params = {}
    if structure.fusion.gate == "computed":
        params["kernel"] = jnp.zeros((2 * n_latent, n_latent))
        params["bias"] = jnp.zeros(n_latent)
    elif structure.fusion.gate == "per_cell":
        params["a"] = jnp.full((n_cells, n_latent), 0.5)
        params["b"] = jnp.full((n_cells, n_latent), 0.5)
    if structure.fusion.global_attention:
        params["beta"] = jnp.zeros(())
    return params


def encode_features(params: Params, x: Array, *, structure: Structure) -> Array:
    """Return the feature encoder's latent [n, d] of features [n, p]."""
    encoder = _feature_encoder(structure.network)
    return encoder.apply({"params": params["feature_encoder"]}, x)[0]


def project(params: Params, x: Array, *, structure: Structure) -> Array:
    """Return the projection's output [n, d] of features [n, p], each cell by itself.

    It begins as the leading components, and learns in the stage ``"contrast"``.
    """
    return _projection(structure.network).apply({"params": params["projection"]}, x)[0]


def contrast_head(head: Params, z: Array, *, structure: Structure) -> Array:
    """Return what is contrasted [b, d] of projections [b, d].

    What contrast asks for is learned best just before its loss; the layer before keeps more of
    what tells cells apart.

    References
    ----------
    Chen et al., A simple framework for contrastive learning of visual representations, ICML 2020.
    """
    return _contrast_head(structure.network).apply({"params": head}, z)[0]


def decode_features(params: Params, z: Array, *, structure: Structure) -> tuple[Array, Array]:
    """Return decoded features [n, p] of latents [n, d], and the last hidden layer."""
    n_features = params["feature_decoder"]["output"]["kernel"].shape[1]
    decoder = _feature_decoder(structure.network, n_features)
    return decoder.apply({"params": params["feature_decoder"]}, z)


def decode_counts(heads: Params, h: Array) -> tuple[Array, Array, Array]:
    """Return the raw outputs of the three count heads, each [b, g].

    ``log mean`` (before the size factor), ``log dispersion`` and the logit of the dropout
    probability, of hidden rows [b, h] from :func:`decode_features`.
    """
    n_genes = heads["mean"]["kernel"].shape[1]
    return _CountHeads(n_genes).apply({"params": heads}, h)


def decode_graph(params: Params, z: Array, graph: CellGraph) -> Array:
    """Return the graph decoder's features [n, p] of latents [n, d], over a normalised graph."""

    def operator(h: Array) -> tuple[Array, Array]:
        once = propagate(graph, h)
        return once, once

    return _convolve(params["graph_decoder"], z, operator)[-1][0]
