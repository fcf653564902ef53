"""Sections about what cells were taken for: annotation, transfer, classification, trajectory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scsiameseclu_jax import pl
from scsiameseclu_jax.checks import names_in
from scsiameseclu_jax.reporting.clusters import cells
from scsiameseclu_jax.reporting.figures import figure
from scsiameseclu_jax.reporting.markup import (
    Column,
    Html,
    Section,
    count,
    decimal,
    join,
    note,
    paragraphs,
    percent,
    small,
    table,
    tag,
)
from scsiameseclu_jax.reporting.result import UNASSIGNED, Result, listed, median
from scsiameseclu_jax.tl.ties import tied

_ASSIGNED = {
    "transferred": ("Types from a reference", "the cells of the reference"),
    "classified": ("Types from a classifier", "the cells of known type"),
}
_SCORES = ("accuracy", "balanced_accuracy", "macro_f1")


def annotation(result: Result) -> Section | None:
    """Show what clusters were named by lists of marker genes."""
    name = f"{result.key}_annotation"
    record, kinds = result.adata.uns.get(name), result.column("annotation")
    if not isinstance(record, Mapping) or "table" not in record or kinds is None:
        return None
    text = (
        "Types by lists of marker genes. A type's score is how much more than the mean of all "
        "cells a cluster expresses the type's markers; the margin is its lead on the next type. "
        f"Where the evidence is thin or tied, a cluster is {UNASSIGNED}. These are proposals, "
        "to be checked against the marker genes."
    )
    parts: list[object] = [paragraphs(text)]
    drawn = cells(result, beside=name)
    if drawn is not None:
        shown = f"UMAP of the cells by cluster, and beside it by {kinds.nunique()} annotations"
        parts.append(figure(drawn, shown, "The same cells by cluster and by annotation."))
    stored = pd.DataFrame(record["table"])
    tie = tied(result.adata, name, stored["cluster"], result.clusters.array)
    rows = [
        _evidence(result, row | {"cluster": tie.names[str(row["cluster"])]})
        for row in stored.to_dict("records")
        if str(row["cluster"]) in tie.names
    ]
    if tie.changed or not tie.names:
        text = "Clusters were changed since they were annotated; run scs.tl.annotate_markers again"
        parts.append(note(f"{text}: {listed(tie.changed or result.groups)}."))
    columns = [Column("Cluster"), Column("Annotation"), Column("Best type")]
    columns += [Column("Score", numbers=True), Column("Margin", numbers=True)]
    columns += [Column("Next best"), Column("Markers seen", numbers=True)]
    parts.append(table("Annotation of each cluster", columns, rows))
    alone = result.column("annotation_cell")
    if alone is not None:
        share = percent((names_in(alone) == names_in(kinds)).mean())
        parts.append(small(f"By themselves, {share} of the cells get the type of their cluster."))
    return Section("annotation", "Annotation by marker genes", join(parts))


def _evidence(result: Result, row: dict[str, Any]) -> list[object]:
    """Return a row of the table of annotations."""
    chosen = str(row.get("annotation", row["type"]))
    why = {"thin": "thin evidence", "tied": "a tie"}.get(str(row.get("why", "")))
    known = count(float(row["n_markers"]))
    seen = known if "n_seen" not in row else f"{count(float(row['n_seen']))} of {known}"
    values = [decimal(float(row[name])) for name in ("score", "margin")]
    shown = chosen if why is None else join([chosen, " ", tag("small", f"({why})")])
    return [result.chip(row["cluster"]), shown, row["type"], *values, row["second"], seen]


def assigned(result: Result) -> list[Section]:
    """Show types that cells were given from cells of known type."""
    found = [_assigned(result, name, *about) for name, about in _ASSIGNED.items()]
    return [section for section in found if section is not None]


def _assigned(result: Result, name: str, title: str, source: str) -> Section | None:
    values, record = result.adata.obs.get(name), result.adata.uns.get(name)
    if values is None or not isinstance(record, Mapping):
        return None
    parts: list[object] = []
    scores = record.get("scores", {})
    shown = [
        f"{key.replace('_', ' ')} {percent(float(scores[key]))}" for key in _SCORES if key in scores
    ]
    if shown:
        text = f"Of {source}, left out in turn: {', '.join(shown)}."
        if "calibration_error" in record:
            error = decimal(float(record["calibration_error"]), 3)
            text += f" Their confidence is off by {error} on average."
        parts.append(paragraphs(text))
    if name == "transferred":
        parts.append(
            note(
                "Both hold for the reference. Where the new cells differ from it, by treatment or "
                "technology, types are less often right than their confidence says."
            )
        )
    named = pd.Series(names_in(values), index=values.index, dtype=object)
    parts.append(_sizes(result, name, named.fillna("no type")))
    parts.append(heat_map(result, values, name))
    return Section(name, title, join(parts))


def _sizes(result: Result, name: str, kinds: pd.Series) -> Html:
    obs = result.adata.obs
    columns = [Column("Type"), Column("Cells", numbers=True), Column("Share", numbers=True)]
    confidence, unlike = obs.get(f"{name}_confidence"), obs.get(f"{name}_is_novel")
    if confidence is not None:
        columns.append(Column("Median confidence", numbers=True))
    if unlike is not None:
        columns.append(Column("Novel", numbers=True))
    rows = []
    for kind, size in kinds.value_counts().items():
        own = kinds == kind
        row: list[object] = [kind, count(size), percent(size / len(kinds))]
        if confidence is not None:
            sure = confidence[own].to_numpy(np.float64)
            row.append(decimal(median(sure[np.isfinite(sure)])))
        if unlike is not None:
            row.append(percent(unlike[own].mean()))
        rows.append(row)
    return table("Cells of each type", columns, rows)


def heat_map(result: Result, kinds: pd.Series, name: str) -> Html:
    """Return the heat map of clusters against types, in a column of that name.

    Parameters
    ----------
    result
        The clusters.
    kinds
        [n] type of each cell, missing for some.
    name
        What the types are called in the plot.
    """
    words = pd.Series(names_in(kinds), index=kinds.index, dtype=object)
    both = pd.DataFrame({result.key: result.clusters, name: words.astype("category")})
    drawn = pl.cluster_types(AnnData(obs=both), result.key, name).figure
    n_types = words.nunique()
    text = f"Share of each of {len(result.groups)} clusters that each of {n_types} types makes up"
    caption = (
        "Share of the cells of each cluster (row) that are of each type (column), in per cent; "
        "rows sum to 100."
    )
    return figure(drawn, text, caption)


def trajectory(result: Result) -> Section | None:
    """Show the trajectory, if there is one."""
    record = result.adata.uns.get(f"{result.key}_paga")
    time = result.column("pseudotime")
    if not isinstance(record, Mapping) or time is None:
        return None
    try:
        adata = result.adata if result.cells is None else result.cells
        drawn = pl.trajectory(adata, result.key).figure
    except (KeyError, ValueError) as error:
        return Section("trajectory", "Trajectory", paragraphs(str(error.args[0])))
    tie = tied(result.adata, f"{result.key}_paga", record["groups"], result.clusters.array)
    where = str(record.get("root_cluster"))
    begin = f"{record['root']}, of cluster {tie.names.get(where, where)}"
    text = (
        f"Cells are ordered by diffusion pseudotime from {begin}. That it begins there was given: "
        "it cannot be seen in the data, nor can it be seen whether the clusters are stages of "
        "one process at all."
    )
    parts: list[object] = [note(text)]
    lost = time.isna().mean()
    if lost:
        parts.append(paragraphs(f"{percent(lost)} of the cells cannot be reached from there."))
    shown = f"Clusters and their links over the cells, coloured by pseudotime from {record['root']}"
    caption = (
        "Circles are clusters, the larger the more cells; the wider a link the better the two are "
        "connected (PAGA), solid in the tree that spans them."
    )
    parts.append(figure(drawn, shown, caption))
    return Section("trajectory", "Trajectory", join(parts))
