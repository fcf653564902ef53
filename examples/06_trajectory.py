"""Cells in order from a root, and genes along it: ``python examples/06_trajectory.py``."""

import scsiameseclu_jax as scs

adata = scs.datasets.pbmc68k_reduced()
# T and NK cells, from naive to cytotoxic ones; cells of other kinds would be no part of that.
adata = adata[adata.obs["cell_type"].str.contains("CD4|CD8|CD56")].copy()
scs.tl.siameseclu(adata, 4)

# Where to begin is for you to say: a cell (root="..."), a cluster (root_cluster="3"), or genes.
scs.tl.trajectory(adata, root_genes=["CCR7", "MAL"])
graph = adata.uns["siameseclu_paga"]
print(f"root: {graph['root']} of cluster {graph['root_cluster']}")
time = adata.obs["siameseclu_pseudotime"]
print(time.groupby(adata.obs["cell_type"], observed=True).median().sort_values())

scs.tl.umap(adata)
scs.pl.trajectory(adata).figure.savefig("trajectory.png")
scs.pl.expression_along(adata, ["CCR7", "GZMK", "NKG7"])[0].figure.savefig("expression.png")
scs.pl.sankey(adata, "siameseclu", "cell_type").figure.savefig("clusters_and_types.png")
