"""Fit some cells, keep the model, predict others: ``python examples/03_new_cells.py``."""

import tempfile
from pathlib import Path

import scsiameseclu_jax as scs
from scsiameseclu_jax.metrics import scores

adata = scs.datasets.pbmc68k_reduced()
types = adata.obs.pop("cell_type")

model = scs.SiameseClu(n_clusters=10).fit(adata[:500].copy(), rng=0)
with tempfile.TemporaryDirectory() as folder:
    model.save(Path(folder) / "model")
    model = scs.SiameseClu.load(Path(folder) / "model")

new = adata[500:].copy()
scs.tl.predict(new, model)
print(new.obs.iloc[:5, -4:])
print(f"{new.obs['siameseclu_is_novel'].mean():.1%} are unlike the cells of the fit")
print(f"ARI with the bundled types: {scores(types[500:], new.obs['siameseclu'])['ARI']:.2f}")
