"""Weights and seeds side by side, in one program: ``python examples/sweep.py``.

Weights, rates, thresholds and keys are values of the state, not of the program: `jax.vmap` runs
over them, and nothing is compiled anew for another value.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.cluster import KMeans
from sklearn.neighbors import kneighbors_graph

import scsiameseclu_jax.functional as F

K, N = 3, 200
rng = np.random.default_rng(0)
types = rng.integers(K, size=N)
profiles = rng.gamma(2.0, 2.0, (K, 60))
counts = rng.poisson(profiles[types])
features = np.log1p(counts) - np.log1p(counts).mean(axis=0)
features = np.linalg.svd(features, full_matrices=False)[0][:, :20] * np.sqrt(N)
data = F.cell_data(features, counts, kneighbors_graph(features, 10))

method = F.siameseclu(K)
state = method.init(jax.random.key(0), data)
z = method.embed(state, data)
first = KMeans(K, n_init=5, random_state=0).fit(np.asarray(z)[:N])
sizes = np.bincount(first.labels_)
state = method.start_clustering(state, data, z, first.cluster_centers_, sizes)
state = method.start_stage(state, "train")


@jax.jit
def run(weight, rate, seed):
    changed = state._replace(
        weights=state.weights | {"clustering": weight},
        values=state.values | {"rate": rate},
        key=jax.random.key(seed),
    )
    return method.fit(changed, data, n_steps=20)[1].terms


grid = list(itertools.product([0.1, 1.0, 10.0], [1e-4, 1e-3], [0, 1]))
weights, rates, seeds = (jnp.asarray(column) for column in zip(*grid, strict=True))
terms = jax.vmap(run)(weights, rates, seeds)
for i, (weight, rate, seed) in enumerate(grid):
    last = ", ".join(f"{name} {values[i, -1]:.3f}" for name, values in terms.items())
    print(f"clustering {weight:>4}, rate {rate:g}, seed {seed}: {last}")
