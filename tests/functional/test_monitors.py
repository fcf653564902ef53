"""Monitors against dense forms, and early stopping."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F
from scsiameseclu_jax.training import stages as fitting


def cells(seed=0, n=20, pad=5):
    z = np.random.default_rng(seed).normal(size=(n, 4)) + 0.5
    mask = (np.arange(n + pad) < n).astype(float)
    return z, jnp.asarray(np.pad(z, [(0, pad), (0, 0)], constant_values=9.0)), jnp.asarray(mask)


def test_mean_cosine_is_that_of_all_pairs(x64):
    z, padded, mask = cells()
    dense = cosine_similarity(z)
    wanted = dense[~np.eye(len(z), dtype=bool)].mean()
    assert float(F.mean_cosine(padded, mask)) == pytest.approx(wanted, rel=1e-10)
    same = jnp.ones((6, 3))
    assert float(F.mean_cosine(same, jnp.ones(6))) == pytest.approx(1)


def test_silhouette_is_that_of_sorted_distances(x64):
    z, padded, mask = cells()
    centers = np.random.default_rng(1).normal(size=(5, 4))
    distances = np.sort(euclidean_distances(z, centers), axis=1)
    wanted = (1 - distances[:, 0] / distances[:, 1]).mean()
    found = F.silhouette(padded, jnp.asarray(centers), mask)
    assert float(found) == pytest.approx(wanted, rel=1e-9)


def test_a_cell_on_two_centres_has_no_silhouette():
    found = F.silhouette(jnp.zeros((2, 3)), jnp.zeros((2, 3)), jnp.ones(2))
    assert np.isfinite(found)


@pytest.mark.parametrize(
    ("changed", "patience", "settled"),
    [
        ([0.1, 0.0, 0.0], 2, True),
        ([0.1, 0.0, 0.0], 3, False),
        ([0.0, 0.0], 3, False),
        ([0.0, 0.0], 0, False),
        ([0.0, 0.1], 1, False),
    ],
)
def test_settled(changed, patience, settled):
    rows = [
        {"stage": np.array(["joint"]), "loss": np.ones(1)},
        {"stage": np.full(len(changed), "train"), "changed": np.array(changed)},
    ]
    assert fitting._settled(rows, patience) == settled


def test_training_stops_early():
    adata = scs.datasets.simulate(n_cells=200, n_genes=80, n_clusters=3, difficulty=0.1, rng=0)
    steps = {"feature_steps": 4, "graph_steps": 2, "joint_steps": 2, "steps": 200, "patience": 20}
    model = scs.SiameseClu(3, config=scs.Config.from_dict({"training": steps}))
    model.fit(adata, progress=False)
    taken = model.manifest["training_steps"]
    assert 20 <= taken < 200
    train = model.history["stage"] == "train"
    assert train.sum() == taken
    assert not model.history["changed"][train][-20:].any()
