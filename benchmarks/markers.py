"""Do marker lists name blood cells right, and do clusters' markers say what their cells say?

``python -m benchmarks.markers`` annotates labelled blood cells by the bundled list
(`tl.annotate_markers(adata, "blood")`), in clusters that are the known types and in k-means
clusters of principal components, and each cell by itself, and prints how many are named and how
many of those rightly. Then it names k-means clusters by the labels of their cells (Hungarian, one
to one) and by the overlap of their top 100 genes with those of the known types (many to one).
Labels score, and make the lists of the known types; nothing else. Takes a minute; writes
``benchmarks/results/markers.json`` and ``.md``.

The list, and the rules of `tl.annotate_markers`, were made looking at these three sets.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from benchmarks import real_data
from benchmarks.records import save

OUT = Path(__file__).resolve().parent / "results" / "markers.json"
K = (15, 30)
# What the types of each set are called in the bundled list, where that differs.
NAMES = {
    "pbmc3k": {
        "Naive CD4 T": "CD4 T",
        "Memory CD4 T": "CD4 T",
        "CD14+ Mono": "CD14+ monocyte",
        "FCGR3A+ Mono": "FCGR3A+ monocyte",
        "DC": "Conventional dendritic",
    },
    "kang": {
        "CD14+ Monocytes": "CD14+ monocyte",
        "FCGR3A+ Monocytes": "FCGR3A+ monocyte",
        "B cells": "B",
        "CD4 T cells": "CD4 T",
        "CD8 T cells": "CD8 T",
    },
    "pbmc68k_reduced": {
        "CD19+ B": "B",
        "CD34+": "Progenitor",
        "CD56+ NK": "NK",
        "CD14+ Monocyte": "Monocyte",
        "CD4+/CD25 T Reg": "CD4 T",
        "CD4+/CD45RA+/CD25- Naive T": "CD4 T",
        "CD4+/CD45RO+ Memory": "CD4 T",
        "CD8+ Cytotoxic T": "CD8 T",
        "CD8+/CD45RA+ Naive Cytotoxic": "CD8 T",
    },
}
# Types of the list that a set's labels do not tell apart.
COARSER = {
    "pbmc68k_reduced": {
        "CD14+ monocyte": "Monocyte",
        "FCGR3A+ monocyte": "Monocyte",
        "Conventional dendritic": "Dendritic",
        "Plasmacytoid dendritic": "Dendritic",
        "Plasma cell": "B",
    }
}

Row = dict[str, Any]


def load(name: str) -> tuple[AnnData, np.ndarray]:
    """Cells with principal components, and their labels apart."""
    import scanpy as sc

    import scsiameseclu_jax as scs
    from scsiameseclu_jax.preprocessing.expression import log_expression

    if name == "pbmc68k_reduced":
        adata = scs.datasets.pbmc68k_reduced()
        labels = adata.obs.pop("cell_type").astype(str).to_numpy()
    else:
        adata, labels = real_data.load(name)
    logged = log_expression(adata)
    if logged.n_vars > 2000:
        sc.pp.highly_variable_genes(logged, n_top_genes=2000)
        logged = logged[:, logged.var["highly_variable"]].copy()
    logged.X = logged.X.toarray()
    sc.pp.scale(logged, max_value=10)
    sc.pp.pca(logged, n_comps=30)
    adata.obsm["X_pca"] = logged.obsm["X_pca"]
    return adata, labels


def annotation(name: str, adata: AnnData, clusters: np.ndarray, labels: np.ndarray) -> Row:
    """Annotate any clusters by the bundled list, and compare with the labels.

    Returns
    -------
    Shares: ``named`` of the cells by their cluster, ``right`` of the named, ``cells_named``,
    ``cells_right`` of each cell by itself and its neighbours in ``obsm["X_pca"]``.
    """
    import scsiameseclu_jax as scs

    adata = adata.copy()
    adata.obs["clusters"] = np.asarray(clusters).astype(str)
    scs.tl.annotate_markers(adata, "blood", "clusters", use_rep="X_pca")
    wanted = np.array([NAMES[name].get(label, label) for label in labels])
    row: Row = {}
    for column, prefix in (("clusters_annotation", ""), ("clusters_annotation_cell", "cells_")):
        names = adata.obs[column].astype(str).replace(COARSER.get(name, {})).to_numpy()
        named = names != "Unassigned"
        row[f"{prefix}named"] = float(named.mean())
        row[f"{prefix}right"] = float((names == wanted)[named].mean()) if named.any() else None
    return row


def overlap(adata: AnnData, clusters: np.ndarray, labels: np.ndarray) -> Row:
    """Name any clusters by cells and by genes, as the paper's protocol does.

    Returns
    -------
    ``best_mapping`` and ``marker_overlap``: the accuracy of either.
    """
    import scsiameseclu_jax as scs

    adata = adata.copy()
    adata.obs["clusters"], adata.obs["types"] = np.asarray(clusters).astype(str), labels
    for key in ("clusters", "types"):
        # scanpy's default test, as the protocol says.
        scs.tl.markers(adata, key, method="t-test")
    lists = (adata.uns[f"{key}_markers"]["names"] for key in ("clusters", "types"))
    by_genes = scs.metrics.overlap_mapping(scs.metrics.marker_overlap(*lists))
    by_cells = scs.metrics.best_mapping(labels, adata.obs["clusters"])
    return {
        "best_mapping": scs.metrics.mapped_accuracy(labels, adata.obs["clusters"], by_cells),
        "marker_overlap": scs.metrics.mapped_accuracy(labels, adata.obs["clusters"], by_genes),
    }


def run(name: str) -> list[Row]:
    """Score one set."""
    from sklearn.cluster import KMeans

    adata, labels = load(name)
    rows = [{"set": name, "clusters": "types"} | annotation(name, adata, labels, labels)]
    for k in (len(set(labels)), *K):
        means = KMeans(k, n_init=3, random_state=0)
        clusters = means.fit_predict(adata.obsm["X_pca"])
        row = {"set": name, "clusters": f"k-means, {k}"}
        row |= annotation(name, adata, clusters, labels) | overlap(adata, clusters, labels)
        rows.append(row)
    return rows


def table(rows: list[Row]) -> str:
    """Return the figures in Markdown."""
    columns = {
        "named": "cells in a named cluster",
        "right": "of these right",
        "cells_named": "cells named one by one",
        "cells_right": "of these right",
        "best_mapping": "best mapping",
        "marker_overlap": "marker overlap",
    }
    lines = [
        f"| data | clusters | {' | '.join(columns.values())} |",
        f"| --- | --- |{' --- |' * len(columns)}",
    ]
    for row in rows:
        shares = [row.get(name) for name in columns]
        shown = ["" if share is None else f"{share:.1%}" for share in shares]
        lines.append(f"| {row['set']} | {row['clusters']} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.markers", description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)
    here = {*real_data.available(), "pbmc68k_reduced"}
    rows = [row for name in arguments.sets if name in here for row in run(name)]
    save(arguments.out, table(rows), rows=rows)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
