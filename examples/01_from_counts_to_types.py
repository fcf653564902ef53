"""From counts to a labelled, reported data set: ``python examples/01_from_counts_to_types.py``.

Give a file of your own counts, and a list of markers, as arguments; without, it takes 700 bundled
blood cells and the bundled list.
"""

import sys

import scsiameseclu_jax as scs

adata = scs.datasets.read(sys.argv[1]) if sys.argv[1:] else scs.datasets.pbmc68k_reduced()
markers = sys.argv[2] if sys.argv[2:] else "blood"

# Clusters from one half of the counts, p-values from the other: they are not inflated.
scs.pp.split_counts(adata)
scs.tl.siameseclu(adata, layer="counts_fit")
scs.tl.markers(adata, layer="counts_test")
print(adata.uns["siameseclu_top_markers"].groupby("cluster", observed=True).head(2))

scs.tl.annotate_markers(adata, markers)
print(adata.uns["siameseclu_annotation"]["table"])
print(adata.obs["siameseclu_annotation"].value_counts())

scs.pl.markers(adata, n=2).figure.savefig("markers.png")
scs.report(adata, "report.html", overwrite=True)
adata.write_h5ad("annotated.h5ad")
print("wrote markers.png, report.html and annotated.h5ad")
