"""Sections about the cells and their clusters: what they are, and how many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scsiameseclu_jax import pl, tl
from scsiameseclu_jax.checks import names_in
from scsiameseclu_jax.reporting.explorer import explored
from scsiameseclu_jax.reporting.figures import figure
from scsiameseclu_jax.reporting.markup import (
    Column,
    Html,
    Section,
    bar,
    count,
    decimal,
    join,
    note,
    pairs,
    paragraphs,
    percent,
    small,
    table,
    tag,
)
from scsiameseclu_jax.reporting.result import UNASSIGNED, Result, listed, median
from scsiameseclu_jax.tl.record import fused_of
from scsiameseclu_jax.tl.ties import restriction_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def key_figures(result: Result) -> Html:
    """Return the figures to see first."""
    chosen = result.params.get("n_clusters") == "auto"
    how = "of a model" if result.predicted else "chosen" if chosen else "given"
    rows = [
        ("cells", count(result.adata.n_obs), ""),
        ("genes", count(result.adata.n_vars), ""),
        ("clusters", count(result.n_clusters), how),
    ]
    totals, confidence = result.totals, result.column("confidence")
    if totals is not None:
        rows.append(("counts per cell", count(np.median(totals)), "median"))
    calibrated = result.calibrated and not result.replaced  # else it is no probability of these
    if calibrated and confidence is not None:
        rows.append(("confidence", decimal(np.nanmean(confidence)), "mean: another fit agrees"))
    if result.stability is not None:
        jaccard = float(np.mean(result.stability["jaccard"]))
        rows.append(("Jaccard index with refits", decimal(jaccard), "mean"))
    unassigned = (result.clusters == UNASSIGNED).mean()
    if unassigned:
        rows.append(("unassigned", percent(unassigned), "of cells"))
    is_novel = result.column("is_novel")
    if is_novel is not None:
        rows.append(("novel", percent(is_novel.mean()), "of cells"))
    shown = (
        tag("div", tag("dt", name, tag("small", more)), tag("dd", value))
        for name, value, more in rows
    )
    return tag("dl", *shown, class_="figures")


def data(result: Result) -> Section:
    """Describe the cells."""
    rows = [("Cells", count(result.adata.n_obs)), ("Genes", count(result.adata.n_vars))]
    if "n_genes" in result.manifest:
        rows.append(("Genes that features are made from", count(result.manifest["n_genes"])))
    totals, text = result.totals, None
    if result.counts is None or totals is None:
        text = paragraphs(f"No raw counts were found in the file: {result.problem}")
    else:
        rows.append(("Counts per cell", _spread(totals)))
        rows.append(("Genes found per cell", _spread(result.counts.getnnz(axis=1))))
    if "batch_key" in result.params:
        column = str(result.params["batch_key"])
        known = result.adata.obs.get(column)
        n = "" if known is None else f"{known.nunique()} "
        rows.append(("Batches", f"{n}in the column {column}"))
    if "data" in result.manifest:
        name = "Fingerprint of the fit's counts" if result.predicted else "Fingerprint of counts"
        rows.append((name, str(result.manifest["data"])))
    return Section("data", "Data", join([text, pairs(rows)]))


def clusters(result: Result, labels: str | None) -> Section:
    """Show the cells by cluster, and how many there are of each."""
    parts: list[object] = []
    restriction = restriction_of(result.params)
    if restriction is not None:
        column, names = restriction
        who = f"Only the cells of {listed(names)} in the column {column}"
        parts.append(note(f"{who} were clustered anew; the others keep their group."))
    drawn = cells(result)
    if drawn is not None:
        n_groups = result.clusters[result.drawn].nunique()
        text = f"UMAP of {count(result.drawn.sum())} cells, coloured by {n_groups} groups"
        caption = (
            "Each dot is a cell. UMAP of the embedding that the cells were clustered in: "
            "neighbours are alike; distances between clusters, and their areas, mean little."
        )
        parts.append(explored(result, figure(drawn, text, caption), caption, labels))
    parts.append(_sizes(result))
    return Section("clusters", "Clusters", join(parts))


def cells(result: Result, *, beside: str | None = None) -> Figure | None:
    """Draw the cells by cluster, and by a column of ``obs``; None if they have no embedding."""
    if result.cells is None:
        return None
    return pl.overview(result.cells[result.drawn], result.key, labels=beside)[0].figure


def _sizes(result: Result) -> Html:
    """Tabulate, for each cluster, what is known of its cells."""
    columns = [Column("Cluster"), Column("Cells", numbers=True), Column("Share of all")]
    more: list[Mapping[str, str]] = []

    def add(title: str, values: Mapping[str, str], *, numbers: bool = True) -> None:
        columns.append(Column(title, numbers=numbers))
        more.append(values)

    def medians(values: np.ndarray | pd.Series, places: int) -> dict[str, str]:
        per_cluster = result.per_cluster(values).items()
        return {c: f"{median(v):,.{places}f}" if len(v) else "–" for c, v in per_cluster}

    annotation = result.column("annotation")
    if annotation is not None:
        kinds = pd.Series(names_in(annotation), index=annotation.index)
        most = {c: kinds[(result.clusters == c).to_numpy()].mode() for c in result.groups}
        add("Annotation", {c: v.iloc[0] for c, v in most.items() if len(v)}, numbers=False)
    if result.counts is not None and result.totals is not None:
        add("Counts per cell", medians(result.totals, 0))
        add("Genes per cell", medians(result.counts.getnnz(axis=1), 0))
    confidence = None if result.replaced else result.column("confidence")
    if confidence is not None:
        add("Confidence", medians(confidence, 2))
    if result.stability is not None and result.origin.kept:
        jaccard = zip(result.names, result.stability["jaccard"], strict=True)
        add("Jaccard index", {name: decimal(float(share)) for name, share in jaccard})
    is_novel = result.column("is_novel")
    if is_novel is not None:
        shares = {c: percent(v.mean()) for c, v in result.per_cluster(is_novel).items()}
        add("Novel", shares)
    sizes, rows = result.clusters.value_counts(sort=False), []
    for name, size in sizes.items():
        share = bar(size / sizes.max(), percent(size / len(result.clusters)))
        known = [values.get(str(name), "–") for values in more]
        rows.append([result.chip(name), count(size), share, *known])
    text = "Counts, genes and confidence are medians over the cells of each cluster."
    if confidence is not None and not result.calibrated:
        text += " Confidence is not calibrated."
    n = int(result.clusters.isna().sum())
    if n:
        text += f" {count(n)} cells have no cluster."
    return join([table("Clusters and their cells", columns, rows), small(text)])


def number(result: Result) -> Section:
    """Say where the number of clusters comes from."""
    k = count(result.manifest.get("n_clusters", len(result.names)))
    estimate: Any = result.record.get("estimate")
    key = result.key
    also: Any = None
    if result.predicted:
        parts = [paragraphs(f"The model has {k} clusters; the number was settled by its fit.")]
    elif result.params.get("n_clusters") == "auto":
        parts = [
            paragraphs(
                f"The number of clusters, {k}, was chosen without labels: by a vote of four "
                "criteria over partitions into ever more clusters.",
                "It is a proposal. Neighbouring numbers can be as good, and types that differ in "
                "few genes, or have few cells, are easily missed.",
            )
        ]
    else:
        parts = [paragraphs(f"The number of clusters, {k}, was given: it is not a finding.")]
        also = result.adata.uns.get("n_clusters")
    if _is_evidence(also):
        estimate, key = also, "n_clusters"
        made = "An estimate without labels was made as well"
        n = also.get("n_cells", result.adata.n_obs)
        of = "" if int(n) == result.adata.n_obs else f", of {count(int(n))} cells, not of these"
        parts.append(paragraphs(f"{made}{of}."))
    if _is_evidence(estimate):
        drawn = pl.n_clusters(result.adata, key).figure
        text = f"Criteria and their vote by number of clusters; {estimate['n_clusters']} is best"
        caption = (
            "Each criterion from its least to its largest value, and their vote: the mean of "
            "their ranks, that of modularity counted twice. Dotted: the number with the best vote."
        )
        parts.append(figure(drawn, text, caption))
        parts.append(small(f"{estimate.get('why', '')}."))
    drawn = _tree(result)
    if drawn is not None:
        text = f"Tree through the {result.n_clusters} clusters, from one to many small groups"
        caption = (
            "What fewer clusters would merge, and more would split. A vertical line crosses as "
            "many branches as there are clusters at its place; dashed: those of this page. Lengths "
            "are no distances."
        )
        parts.append(figure(drawn, text, caption))
        parts.append(small(_levels(result)))
    return Section("number", "Number of clusters", join(parts))


def _tree(result: Result) -> Figure | None:
    """Draw the tree through the clusters; made here, so that it is of those that there are now."""
    adata, key = result.adata, result.key
    name = f"X_{key}"
    here = result.clusters[result.drawn & (result.clusters != UNASSIGNED)]
    try:
        fused = fused_of(adata, key)
    except KeyError:
        return None
    if here.nunique() < 2:
        return None
    cells = AnnData(obs=adata.obs[[key]], obsm={name: fused})
    tl.cluster_tree(cells, key=key)
    return pl.cluster_tree(cells, key).figure


def _levels(result: Result) -> str:
    """Say how a level becomes a column of ``obs``."""
    key = "" if result.key == "siameseclu" else f", key={result.key!r}"
    return (
        f"scs.tl.cluster_tree(adata, [5, 20]{key}) writes the clusters at 5 and 20 as "
        f"{result.key}_5 and {result.key}_20, without a new fit."
    )


def _is_evidence(record: Any) -> bool:
    needed = {"votes", "candidates", "criteria", "n_clusters"}
    return isinstance(record, Mapping) and needed <= set(record)


def _spread(values: np.ndarray) -> str:
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return f"{count(middle)} (80 % of cells: {count(low)} to {count(high)})"
