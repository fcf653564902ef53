"""A question as `tl.questions` puts it, and a clustering that has more of them."""

import functools

import scsiameseclu_jax as scs

QUESTION = {
    "cells_a": ["a1", "a2"],
    "cells_b": ["b1"],
    "n_a": 35,
    "n_b": 29,
    "clusters_a": "5",
    "clusters_b": "2 (60%), 7 (40%)",
    "genes_a": "IRF8 (100%, 14%), CPVL (100%, 93%), HLA-DPA1 (100%, 100%), RGS10 (97%, 69%)",
    "genes_b": "",
    "together": 0.363,
    "n_hinge": 40,
    "if_yes": 43,
    "if_no": 1,
    "answer": "",
}


def unclear():
    """Return counts of cells whose clusters are hard to tell, so that there is much to ask."""
    return scs.datasets.simulate(n_cells=150, n_genes=200, n_clusters=5, difficulty=0.6)


@functools.cache
def _asked():
    adata = unclear()
    scs.tl.siameseclu(adata, 4, progress=False)
    # for what is not about UMAP, which takes longer than the fit
    adata.obsm["X_siameseclu_umap"] = adata.obsm["X_siameseclu"][:, :2].copy()
    return adata


def asked_about():
    """Return cells in four clusters, with candidates and coordinates; a copy of its own."""
    return _asked().copy()
