"""Cells of two batches, ignored in two ways: ``python examples/04_batches.py``."""

import numpy as np
import scipy.sparse as sp
from sklearn.metrics import adjusted_rand_score

import scsiameseclu_jax as scs

rng = np.random.default_rng(0)
adata = scs.datasets.simulate(n_cells=500, n_genes=300, n_clusters=4, difficulty=0.4, rng=0)
treated = rng.random(adata.n_obs) < 0.5
counts = adata.X.toarray()
counts[treated] = rng.poisson(counts[treated] * np.exp(rng.normal(0, 1.5, adata.n_vars)))
adata.X = sp.csr_matrix(counts)
adata.obs["batch"] = np.where(treated, "treated", "control")

scs.tl.siameseclu(adata, 4, key_added="plain")
scs.tl.siameseclu(adata, 4, batch_key="batch", key_added="batches_ignored")
# An embedding of Harmony or scVI in obsm serves as well: use_rep="X_pca_harmony".
for key in ("plain", "batches_ignored"):
    of_types, of_batches = (
        adjusted_rand_score(adata.obs[column], adata.obs[key]) for column in ("cell_type", "batch")
    )
    print(f"{key}: ARI {of_types:.2f} with the types, {of_batches:.2f} with the batches")
