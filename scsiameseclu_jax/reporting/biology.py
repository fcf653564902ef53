"""Sections about what the clusters are: marker genes, annotation, transferred types."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scsiameseclu_jax import tl
from scsiameseclu_jax.count_splitting import FIT, TEST
from scsiameseclu_jax.reporting.markup import (
    Column,
    Html,
    Section,
    count,
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
from scsiameseclu_jax.reporting.result import UNASSIGNED, Result, median

logger = logging.getLogger(__name__)

_GENES = 10  # of each cluster in the short table
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
    if f"{result.key}_top_markers" not in source.uns:
        if not find_them or result.counts is None:
            return None
        try:
            source = _found(result)
        except ValueError as error:
            return Section(name, title, paragraphs(f"None were looked for: {error}"))
        about = small("Found for this report by scs.tl.markers; the file does not hold them.")
    top = pd.DataFrame(source.uns[f"{result.key}_top_markers"])
    params = source.uns.get(f"{result.key}_markers", {}).get("params", {})
    return Section(name, title, join([_dipping(params), *_tables(result, top), about]))


def _found(result: Result) -> AnnData:
    """Find marker genes in an object of its own, so that the user's stays as it is."""
    adata, layer = result.adata, str(result.params.get("layer", "counts"))
    cells = AnnData(
        adata.X,
        obs=pd.DataFrame({result.key: result.clusters}),
        var=pd.DataFrame(index=adata.var_names),
        layers={name: adata.layers[name] for name in adata.layers if name is not None},
        uns={result.key: {"params": result.params}},
    )
    tested = TEST if layer == FIT and TEST in cells.layers else layer
    logger.info("looking for marker genes")
    in_x = tested == "X" and "X" not in cells.layers
    tl.markers(cells, result.key, layer=None if in_x else tested)
    return cells


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


def _tables(result: Result, top: pd.DataFrame) -> list[Html]:
    rows, values = [], []
    for name in result.groups:
        own = top[top["cluster"].astype(str) == name]
        genes = tag("span", ", ".join(map(str, own["gene"][:_GENES])), class_="genes")
        if name != UNASSIGNED:
            rows.append([result.chip(name), genes if len(own) else "none above all others"])
        for _, row in own.iterrows():
            known = [form(row[c]) for c, (_, _, form) in _COLUMNS.items() if c in own]
            values.append([result.chip(name), *known])
    titles = [Column(t, numbers=n) for c, (t, n, _) in _COLUMNS.items() if c in top]
    whole = table("Marker genes with their values", [Column("Cluster"), *titles], values)
    columns = [Column("Cluster"), Column("Genes, the best first")]
    return [
        table("Marker genes of each cluster", columns, rows),
        small("A gene stands only under the cluster where it scores best."),
        details("Scores, fold changes and shares of cells", whole),
    ]


def types(result: Result) -> list[Section]:
    """Show what clusters and cells were taken for."""
    found = [_annotation(result)]
    found += [_assigned(result, name, title) for name, title in _ASSIGNED.items()]
    return [section for section in found if section is not None]


_ASSIGNED = {
    "transferred": "Types transferred from a reference",
    "classified": "Types by a classifier",
}


def _annotation(result: Result) -> Section | None:
    record = result.adata.uns.get(f"{result.key}_annotation")
    if not isinstance(record, Mapping) or "table" not in record:
        return None
    known = pd.DataFrame(record["table"])
    rows = []
    for _, row in known.iterrows():
        values = [decimal(float(row[name])) for name in ("score", "margin")]
        shown = [row["type"], *values, row["second"], count(row["n_markers"])]
        rows.append([result.chip(row["cluster"]), *shown])
    columns = [Column("Cluster"), Column("Type"), Column("Score", numbers=True)]
    columns += [Column("Margin", numbers=True), Column("Next best")]
    columns.append(Column("Markers found", numbers=True))
    parts = [
        paragraphs(
            "Types by lists of marker genes. The margin is how far the best type is ahead of the "
            f"next; a cluster with little evidence, or a tie, is {UNASSIGNED}. These are "
            "proposals, to be checked against the marker genes."
        ),
        table("Annotation of each cluster", columns, rows),
    ]
    return Section("annotation", "Annotation by marker genes", join(parts))


def _assigned(result: Result, name: str, title: str) -> Section | None:
    """Show a column of types that each cell was given, and how sure."""
    values = result.adata.obs.get(name)
    if values is None or name not in result.adata.uns:
        return None
    given = values.astype(str)
    confidence = result.adata.obs.get(f"{name}_confidence")
    columns = [Column("Type"), Column("Cells", numbers=True), Column("Share", numbers=True)]
    if confidence is not None:
        columns.append(Column("Median confidence", numbers=True))
    rows = []
    for kind, size in given.value_counts().items():
        row: list[Any] = [kind, count(size), percent(size / len(given))]
        if confidence is not None:
            row.append(decimal(median(confidence[given == kind].to_numpy(np.float64))))
        rows.append(row)
    text = f"{percent((given == UNASSIGNED).mean())} of the cells are {UNASSIGNED}."
    return Section(name, title, join([paragraphs(text), table(title, columns, rows)]))
