"""The section on marker genes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from anndata import AnnData

from scsiameseclu_jax import pl, tl
from scsiameseclu_jax.preprocessing.count_splitting import FIT, TEST
from scsiameseclu_jax.preprocessing.counts import layer_of
from scsiameseclu_jax.reporting.figures import figure
from scsiameseclu_jax.reporting.markup import (
    Column,
    Html,
    Section,
    decimal,
    details,
    join,
    note,
    paragraphs,
    percent,
    small,
    table,
    tag,
)
from scsiameseclu_jax.reporting.result import UNASSIGNED, Result, listed
from scsiameseclu_jax.tl.ties import Tie, markers_tied

logger = logging.getLogger(__name__)

_GENES = 10  # of each cluster in the short table
# Of each cluster in the plot, by the number of clusters: more could not be read.
_DOTS = {12: 4, 25: 3, 50: 2, 10**9: 1}
_COLUMNS: dict[str, tuple[str, bool, Callable[[Any], str]]] = {
    "gene": ("Gene", False, str),
    "score": ("Score", True, decimal),
    "logfoldchange": ("Log2 fold change", True, decimal),
    "pval_adj": ("Adjusted p", True, lambda p: f"{p:.1e}"),
    "share_in": ("Share of its cells", True, percent),
    "share_out": ("Of the others", True, percent),
}


def markers(result: Result, *, find_them: bool) -> Section | None:
    """List marker genes; find them first if that is asked for, and they are not there."""
    name, title = "markers", "Marker genes"
    source, about = result.adata, None
    stored = _stored(result, source)
    if stored is None or stored.changed or not stored.names:
        lacking = "the file does not hold them."
        if stored is not None:
            whose = listed(stored.changed) if stored.names else "these groups"
            lacking = f"the file holds some of other groups of cells, and none of {whose}."
        if find_them and result.counts is not None:
            try:
                source = _found(result)
            except ValueError as error:
                return Section(name, title, paragraphs(f"None were looked for: {error}"))
            about = small(f"Found for this report by scs.tl.markers; {lacking}")
            stored = _stored(result, source)
        elif stored is not None:
            about = note(f"Find them anew by scs.tl.markers: {lacking}")
    if stored is None:
        return None
    if not stored.names:
        return Section(name, title, join([about]))
    top = pd.DataFrame(source.uns[f"{result.key}_top_markers"])
    params = source.uns[f"{result.key}_markers"]["params"]
    short, whole = _tables(result, top, stored)
    parts = [_dipping(params), short, _dots(source, result), whole, about]
    return Section(name, title, join(parts))


def _stored(result: Result, source: AnnData) -> Tie | None:
    """Return whose markers an object holds, if it holds any."""
    if not {f"{result.key}_top_markers", f"{result.key}_markers"} <= set(source.uns):
        return None
    return markers_tied(source, result.key, result.clusters.array)


def _found(result: Result) -> AnnData:
    """Find marker genes in an object of its own, so that the user's stays as it is."""
    adata, layer = result.adata, str(result.params.get("layer", "counts"))
    part = AnnData(
        adata.X,
        obs=pd.DataFrame({result.key: result.clusters}),
        var=pd.DataFrame(index=adata.var_names),
        obsm={name: adata.obsm[name] for name in (f"{result.key}_proba",) if name in adata.obsm},
        layers={name: adata.layers[name] for name in adata.layers if name is not None},
        uns={name: adata.uns[name] for name in (result.key, "counts_split") if name in adata.uns},
    )
    tested = TEST if layer == FIT and TEST in part.layers else layer
    logger.info("looking for marker genes")
    tl.markers(part, result.key, layer=layer_of(part, tested))
    return part


def _dots(source: AnnData, result: Result) -> Html | None:
    """Draw markers in all clusters, if there are any and their counts are there."""
    n = next(n for most, n in _DOTS.items() if result.n_clusters <= most)
    try:
        drawn = pl.markers(source, result.key, n).figure
    except (KeyError, TypeError, ValueError) as error:
        logger.info("no plot of marker genes: %s", error.args[0])
        return None
    text = f"Marker genes of each cluster in all {result.n_clusters} clusters"
    caption = (
        "The larger a dot, the more cells of the cluster have the gene; the darker, the nearer its "
        "mean is to the largest of all clusters. A good marker has one dark dot in its row."
    )
    return figure(drawn, text, caption)


def _dipping(params: Mapping[str, Any]) -> Html:
    if not params.get("double_dipping", True):
        return paragraphs(
            f"The counts were split: clusters are from {params.get('clustered')}, p-values from "
            f"{params.get('tested')}, which no cluster was made from."
        )
    return note(
        "P-values after clustering are inflated: the groups that are compared were made from the "
        "same counts, so that genes differ between them by construction. They put genes in order; "
        "they do not show that a cluster is real. scs.pp.split_counts makes counts to test on that "
        "no cluster was made from."
    )


def _tables(result: Result, top: pd.DataFrame, stored: Tie) -> tuple[Html, Html]:
    rows, values = [], []
    compared = {now: group for group, now in stored.names.items()}
    for name in result.groups:
        own = top[top["cluster"].astype(str) == compared.get(name)]
        genes = tag("span", ", ".join(map(str, own["gene"][:_GENES])), class_="genes")
        if name in compared:
            rows.append([result.chip(name), genes if len(own) else "none above all others"])
        elif name != UNASSIGNED:
            rows.append([result.chip(name), "not looked for"])
        for _, row in own.iterrows():
            known = [form(row[c]) for c, (_, _, form) in _COLUMNS.items() if c in own]
            values.append([result.chip(name), *known])
    titles = [Column(t, numbers=n) for c, (t, n, _) in _COLUMNS.items() if c in top]
    whole = table("Marker genes with their values", [Column("Cluster"), *titles], values)
    columns = [Column("Cluster"), Column("Genes, the best first")]
    short = table("Marker genes of each cluster", columns, rows)
    text = small("A gene stands only under the cluster where it scores best.")
    return join([short, text]), details("Scores, fold changes and shares of cells", whole)
