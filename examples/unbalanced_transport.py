"""Clusters that may change their sizes: ``python examples/unbalanced_transport.py``.

The transport holds the clusters to the sizes of the first partition. With ``tau`` below 1 they may
depart from them, as unbalanced optimal transport has it; any function of the same signature that
returns a Plan can take its place.
"""

from functools import partial

import numpy as np
from sklearn.metrics import adjusted_rand_score

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F

adata = scs.datasets.pbmc68k_reduced()
config = scs.Config.short()
labels, sizes = {}, {}
for name, tau in (("balanced", 1.0), ("unbalanced", 0.8)):
    transport = partial(F.sinkhorn_target, tau=tau)
    model = scs.SiameseClu(8, config=config, transport=transport).fit(adata, progress=False)
    labels[name] = model.labels
    sizes[name] = np.sort(model.proba.sum(axis=0).round(1))[::-1]
    print(f"{name:<11} soft sizes {sizes[name]}")
agreement = adjusted_rand_score(labels["balanced"], labels["unbalanced"])
print(f"adjusted Rand index between both: {agreement:.2f}")
