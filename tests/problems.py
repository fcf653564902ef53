"""Small problems with every oddity: padding, a hub that spills, repeated links, a lonely cell."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F
from tests import oracles

K = 3
ALPHA = 0.2

# Small widths; the series is exact to rounding, so that everything can be held to 1e-9.
_PAPER = scs.Config.paper().to_dict()
CONFIG = scs.Config.from_dict(
    _PAPER
    | {
        "network": {
            "feature_layers": [8, 7],
            "graph_layers": [9, 6],
            "projection_layers": [8],
            "contrast_layers": [8],
            "n_latent": 4,
        },
        "augmentation": _PAPER["augmentation"] | {"diffusion_tolerance": 1e-13},
        "training": {"contrast_batch": 16, "feature_batch": 16, "zinb_batch": 8},
    }
)


def config_with(**sections):
    """Return the config with some settings changed."""
    values = CONFIG.to_dict()
    for name, settings in sections.items():
        values[name] |= settings
    return scs.Config.from_dict(values)


def method_of(config=CONFIG, k=K, **choices):
    return F.siameseclu(k, config=config, **choices)


# For tests of what can be handed in: as little to compile as there can be.
PLAIN = scs.Config.from_dict(
    {
        "network": {
            "feature_layers": [8],
            "graph_layers": [6],
            "projection_layers": [8],
            "contrast_layers": [8],
            "n_latent": 4,
        },
        "augmentation": {"diffusion": False, "edge_removal": 0.0},
        "training": {"contrast_batch": 16, "feature_batch": 16, "zinb_batch": 8},
    }
)
METHOD = method_of()
STRUCTURE = METHOD.structure


def structure_with(**changes):
    return STRUCTURE._replace(**changes)


class Problem(NamedTuple):
    data: F.CellData
    x: np.ndarray
    counts: np.ndarray
    size_factors: np.ndarray
    adjacency: np.ndarray  # dense, raw, with self loops


def links(n, seed=0):
    """Random links: repeated, both ways, with self loops, a hub, and a cell without any."""
    rng = np.random.default_rng(seed)
    senders, receivers = rng.integers(1, n - 1, (2, 4 * n))
    hub = np.arange(2, n - 1)
    senders = np.concatenate([senders, np.ones_like(hub), receivers[:5]])
    receivers = np.concatenate([receivers, hub, senders[:5]])
    return senders, receivers, rng.uniform(0.1, 2.0, len(senders))


PAIRS = [[0, 1], [2, 3], [4, 5]], [True, False, False]


def problem(n=45, *, n_nodes=None, n_features=6, n_genes=10, seed=0, pairs=False):
    """Make cells in the current default precision; rows past n and genes past n_genes pad."""
    rng = np.random.default_rng(seed)
    ends = links(n, seed)
    x = rng.normal(size=(n, n_features))
    counts = rng.poisson(rng.gamma(0.5, 2.0, (n, n_genes)))
    size_factors = rng.uniform(0.5, 2.0, n)
    known = {"must_link": PAIRS[0][:1], "cannot_link": PAIRS[0][1:]} if pairs else {}
    rows = n + 7 if n_nodes is None else n_nodes
    data = F.cell_data(x, counts, ends, size_factors=size_factors, n_rows=rows, **known)
    return Problem(data, x, counts, size_factors, oracles.adjacency(*ends, n))


def shaken(tree, seed=0, scale=0.3):
    """Add noise to every parameter: what starts at 0 or 1 would hide mistakes."""
    leaves, structure = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)
    moved = [jnp.asarray(leaf + scale * rng.normal(size=leaf.shape), float) for leaf in leaves]
    return jax.tree.unflatten(structure, moved)


def started(made, method=METHOD, *, params=None, seed=0, sizes=(1.0, 2.0, 3.0)):
    """Return a state ready to train; parameters are shaken, unless given.

    Its first target and the links that view 1 lacks are of random rows, not of its embedding: that
    would have to be compiled, and nothing here depends on it.
    """
    state = method.init(jax.random.key(seed), made.data)
    state = state._replace(params=shaken(state.params, seed) if params is None else params)
    shape = made.data.features.shape[0], method.structure.network.n_latent
    z = jnp.asarray(np.random.default_rng(seed).normal(size=shape), float)
    if method.structure.edge_removal:
        state = method.prune_graph(state, made.data, z)
    state = method.start_clustering(state, made.data, z, state.params["centers"], np.array(sizes))
    return method.start_stage(state, "train")


def forgetful(method):
    """Return an equal method that is compiled anew: with another number of Sinkhorn iterations."""
    structure = method.structure
    more = structure._replace(max_iterations=structure.max_iterations + 10)
    return dataclasses.replace(method, structure=more)


def dense_of(graph, values=None):
    """Return the n x n matrix that the edges of a graph say."""
    n = graph.n_rows
    a = np.zeros((n, n))
    values = graph.weights if values is None else values
    np.add.at(a, (np.asarray(graph.receivers), np.asarray(graph.senders)), np.asarray(values))
    return a


def kept_of(state, made):
    """Return 1 [n, n] for the links that view 1 keeps, 0 for those removed."""
    n = len(made.x)
    gone = dense_of(made.data.graph, (1 - np.asarray(state.edge_mask)))[:n, :n]
    return 1 - gone


# Sums over edges are in no fixed order on an accelerator.
EXACT = 0 if jax.default_backend() == "cpu" else 1e-5


def close(found, wanted, rtol=1e-10, atol=1e-12):
    """Compare two trees of arrays."""
    found, wanted = jax.tree.leaves(found), jax.tree.leaves(wanted)
    assert len(found) == len(wanted)
    for one, two in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, two, rtol=rtol, atol=atol)


def same(one, two):
    """Compare two trees of arrays to the last bit."""
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def same_value_and_gradient(f, oracle, *args, rtol=1e-10, atol=1e-12):
    """Hold a function to its oracle: value, and gradient by every argument."""
    everything = tuple(range(len(args)))
    assert args[0].dtype == jnp.float64, "the comparison is meant for float64"
    found = jax.value_and_grad(f, everything)(*args)
    close(found, jax.value_and_grad(oracle, everything)(*args), rtol, atol)
