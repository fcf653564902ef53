"""How many clusters, how stable, how sure: ``python examples/02_confidence.py``."""

import scsiameseclu_jax as scs

adata = scs.datasets.pbmc68k_reduced()

k = scs.tl.estimate_n_clusters(adata)
print(f"{k} clusters: {adata.uns['n_clusters']['why']}")
scs.pl.n_clusters(adata).figure.savefig("n_clusters.png")

# Two fits of 80 % of the cells each are compared with the fit of all; take ten in earnest.
scs.tl.siameseclu(adata, k, n_resamples=2, min_confidence=0.5)
print(adata.obs["siameseclu"].value_counts())
stability = adata.uns["siameseclu"]["stability"]
print("Jaccard index of each cluster with its match:", stability["jaccard"].round(2))
print("merged by refits:", list(stability.get("merge", [])))
scs.pl.stability(adata).figure.savefig("stability.png")

# The largest cluster alone, in two; the others keep their names.
scs.tl.siameseclu(adata, 2, restrict_to=("siameseclu", ["0"]))
print(adata.obs["siameseclu_R"].value_counts())
