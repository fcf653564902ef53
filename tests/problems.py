"""Small problems with every oddity: padding, a hub that spills, repeated links, a lonely cell."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F
from tests import oracles

K = 3

# Small widths; the series is exact to rounding, so that everything can be held to 1e-9.
_ALL = scs.Config.paper().to_dict()
CONFIG = scs.Config.from_dict(
    _ALL
    | {
        "network": {"feature_layers": [8, 7], "graph_layers": [9, 6], "n_latent": 4},
        "augmentation": _ALL["augmentation"] | {"diffusion_tolerance": 1e-13},
        "training": {"feature_batch": 16, "zinb_batch": 8},
    }
)


class Problem(NamedTuple):
    data: F.CellData
    x: np.ndarray
    counts: np.ndarray
    size_factors: np.ndarray
    adjacency: np.ndarray  # dense, normalised


def links(n, seed=0):
    """Random links: repeated, both ways, with self loops, a hub, and a cell without any."""
    rng = np.random.default_rng(seed)
    senders, receivers = rng.integers(1, n - 1, (2, 4 * n))
    hub = np.arange(2, n - 1)
    senders = np.concatenate([senders, np.ones_like(hub), receivers[:5]])
    receivers = np.concatenate([receivers, hub, senders[:5]])
    return senders, receivers, rng.uniform(0.1, 2.0, len(senders))


def problem(n=45, *, n_nodes=None, n_features=6, n_genes=10, gene_pad=3, seed=0):
    """Make cells in the current default precision; rows past n and genes past n_genes pad."""
    rng = np.random.default_rng(seed)
    n_nodes = n + 7 if n_nodes is None else n_nodes
    senders, receivers, weights = links(n, seed)
    x = rng.normal(size=(n, n_features))
    counts = rng.poisson(rng.gamma(0.5, 2.0, (n, n_genes)))
    size_factors = rng.uniform(0.5, 2.0, n)
    rows = (0, n_nodes - n)
    data = F.CellData(
        features=jnp.asarray(np.pad(x, [rows, (0, 0)]), float),
        counts=jnp.asarray(np.pad(counts, [rows, (0, gene_pad)]), jnp.int32),
        size_factors=jnp.asarray(np.pad(size_factors, [rows], constant_values=1), float),
        graph=F.cell_graph(senders, receivers, weights, n_cells=n, n_nodes=n_nodes),
        n_cells=jnp.asarray(n, jnp.int32),
        n_genes=jnp.asarray(n_genes, jnp.int32),
    )
    dense = oracles.adjacency(senders, receivers, weights, n)
    return Problem(data, x, counts, size_factors, dense)


PAIRS = [[0, 1], [2, 3], [4, 5]], [True, False, False]


def known_pairs(rows, linked, padding=0):
    """Return pairs as training sees them."""
    m = len(rows)
    return F.Pairs(
        jnp.pad(jnp.asarray(rows, jnp.int32), [(0, padding), (0, 0)]),
        jnp.pad(jnp.asarray(linked), (0, padding)),
        jnp.pad(jnp.ones(m), (0, padding)),
    )


def paired(made):
    """Return the problem with known pairs of cells, padded."""
    return made._replace(data=made.data._replace(pairs=known_pairs(*PAIRS, padding=2)))


def shaken(tree, seed=0, scale=0.3):
    """Add noise to every parameter: what starts at 0 or 1 would hide mistakes."""
    leaves, structure = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)
    moved = [jnp.asarray(leaf + scale * rng.normal(size=leaf.shape), float) for leaf in leaves]
    return jax.tree.unflatten(structure, moved)


def started(made, config=CONFIG, *, params=None, seed=0, sizes=(1.0, 2.0, 3.0)):
    """Return a state ready to train; its parameters are shaken, unless given."""
    state = F.init(jax.random.key(seed), made.data, n_clusters=len(sizes), config=config)
    state = state._replace(params=shaken(state.params, seed) if params is None else params)
    state = F.remove_edges(state, made.data, config=config)
    centers, sizes = state.params["centers"], jnp.asarray(sizes, made.data.features.dtype)
    state = F.start_clustering(state, made.data, centers, sizes, config=config)
    return F.start_stage(state, "train", config=config)


def dense_of(graph):
    """Return the n x n matrix that the edges of a graph say."""
    n, g = graph.n_rows, graph.graph
    a = np.zeros((n, n))
    np.add.at(a, (np.asarray(g.receivers), np.asarray(g.senders)), np.asarray(g.edges))
    return a


# Sums over edges are in no fixed order on an accelerator.
EXACT = 0 if jax.default_backend() == "cpu" else 1e-5


def close(found, wanted, rtol=1e-10, atol=1e-12):
    """Compare two trees of arrays."""
    found, wanted = jax.tree.leaves(found), jax.tree.leaves(wanted)
    assert len(found) == len(wanted)
    for one, two in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, two, rtol=rtol, atol=atol)


def same_value_and_gradient(f, oracle, *args, rtol=1e-10, atol=1e-12):
    """Hold a function to its oracle: value, and gradient by every argument."""
    everything = tuple(range(len(args)))
    assert args[0].dtype == jnp.float64, "the comparison is meant for float64"
    found = jax.value_and_grad(f, everything)(*args)
    close(found, jax.value_and_grad(oracle, everything)(*args), rtol, atol)
