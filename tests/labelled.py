"""Cells with an embedding and some known types, without a fit."""

import numpy as np

import scsiameseclu_jax as scs
from scsiameseclu_jax.tl.classification import components_of

SHORT = {"feature_steps": 5, "graph_steps": 0, "joint_steps": 0, "steps": 0}
CONFIG = scs.Config.from_dict({"training": SHORT})


def cells(n=300, n_types=4, *, difficulty=0.65, hidden=0.4, seed=0):
    """Simulated cells; ``obs["known"]`` lacks some of ``obs["cell_type"]``."""
    made = scs.datasets.simulate(
        n_cells=n, n_genes=120, n_clusters=n_types, difficulty=difficulty, rng=seed
    )
    names = np.array([f"type {i}" for i in range(n_types)])
    made.obs["cell_type"] = names[made.obs["cell_type"].astype(int)]
    unknown = np.random.default_rng(seed).random(n) < hidden
    made.obs["known"] = np.where(unknown, "Unknown", made.obs["cell_type"])
    made.obsm["X_mine"] = embedded(made)
    return made


def embedded(adata):
    """Stand in for the embedding of a fit: leading components, rows of equal length."""
    x = components_of(adata, "counts", None, CONFIG)[0][:, :20].astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


class Embedder:
    """Stands in for SiameseClu; `seen` is what it was given."""

    seen = None
    manifest = {"seed": 0, "warnings": []}  # noqa: RUF012

    def __init__(self, n_clusters, *, config=None):
        assert n_clusters == "auto"

    def fit(self, adata, *, layer, batch_key, rng, progress):
        type(self).seen = adata.copy()
        self._embedding = embedded(adata)
        return self

    def get_latent_representation(self):
        return self._embedding
