"""Cells with an embedding and some known types, without a fit."""

import numpy as np

import scsiameseclu_jax as scs
from scsiameseclu_jax.preprocessing.prepare import prepare
from scsiameseclu_jax.tl import classification

SHORT = {"contrast_steps": 0, "feature_steps": 5}
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
    prepared = prepare(adata, config=CONFIG)
    return _leading(prepared)[np.argsort(prepared.order)]


def _leading(prepared):
    x = prepared.features[:, :20].astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def without_fit(monkeypatch):
    """Make the fit of an embedding cost nothing; return the list of objects that it is given."""
    seen = []

    def watched(adata, **options):
        seen.append(adata.copy())
        return prepare(adata, **options)

    monkeypatch.setattr(classification, "prepare", watched)
    monkeypatch.setattr(classification, "fit_embedding", lambda prepared, **_: _leading(prepared))
    return seen


class Fitted:
    """Stands in for a fitted model."""

    config = scs.Config()
    manifest = {"seed": 0, "warnings": []}  # noqa: RUF012

    def __init__(self, n_clusters="auto", *, config=None):
        pass

    def fit(self, adata, **_):
        self._embedding = embedded(adata)
        return self

    def get_latent_representation(self):
        return self._embedding

    def check_cells(self, adata):
        assert adata.n_obs == len(self._embedding)

    def predict(self, adata, *, layer):
        return type("Predicted", (), {"embedding": embedded(adata)})
