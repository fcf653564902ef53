"""Sections about the run: warnings, training, versions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scsiameseclu_jax import pl
from scsiameseclu_jax.reporting.figures import curve, figure
from scsiameseclu_jax.reporting.markup import (
    Column,
    Section,
    count,
    decimal,
    join,
    pairs,
    paragraphs,
    percent,
    small,
    table,
    tag,
)
from scsiameseclu_jax.reporting.result import Result

_MONITORS = {
    "changed": "Share of cells whose target moved at the last refresh; 0 is settled",
    "size_entropy": "Evenness of the clusters' sizes: 1 is all alike, 0 a single cluster",
    "mean_cosine": "Mean cosine between cells; near 1 the embedding has collapsed",
    "silhouette": "How far cells are from the next cluster, 0 to 1, larger is clearer",
    "sinkhorn_error": "Error of the transport plan's cluster sizes, as a share of the cells",
    "sinkhorn_iterations": "Iterations until the transport plan converged",
    "gradient_norm": "Norm of the gradient before clipping",
}
_FINDINGS = {
    "first_partition": "First partition",
    "pairs": "Pairs of cells compared",
    "cells_per_step": "Cells of a step",
    "neighbors": "Search for neighbours",
}


def warnings(result: Result) -> Section | None:
    """List what should be known before anything is read from the result."""
    texts = [str(text) for text in np.atleast_1d(result.manifest.get("warnings", []))]
    n, fitted = result.adata.n_obs, result.manifest.get("n_cells")
    whole = not result.predicted and "restrict_to" not in result.params
    if whole and fitted is not None and int(fitted) != n:
        texts.append(f"The file has {count(n)} cells, but {count(int(fitted))} were clustered.")
    if result.origin.joined:
        texts.append(
            f"Clusters were joined since the fit: what is said of one group in {result.key} is of "
            "several clusters of the fit."
        )
    if result.replaced:
        texts.append(
            f"The groups in {result.key} are not the clusters of the fit: cells were moved since. "
            "What the fit says of its clusters does not hold for these; scs.tl.add_clusters brings "
            "them back, and a clustering of another tool needs another name."
        )
    missing = [str(gene) for gene in np.atleast_1d(result.record.get("missing_genes", []))]
    if missing:
        some = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
        texts.append(f"{len(missing)} genes of the model are missing and left out: {some}.")
    lost = int(result.record.get("n_missing_genes", 0))
    if lost > len(missing):
        texts.append(
            f"{count(lost)} genes of the cells of the fit are missing, most of which no features "
            "are made from: counts per cell are compared over the others."
        )
    if not texts:
        return None
    items = tag("ul", *(tag("li", text) for text in texts))
    return Section("warnings", "Warnings", tag("div", items, class_="warning"))


def training(result: Result) -> Section | None:
    """Show the losses, and what was watched."""
    history = result.record.get("history")
    if history is None or "loss" not in history or not len(history["loss"]):
        return None
    drawn = pl.history(result.adata, result.key).figure
    text = f"Loss terms over {len(history['loss'])} steps of training"
    caption = (
        "Loss terms before their weights, and their weighted sum, by stage; a logarithmic scale. "
        "A term starts with the stage that it belongs to."
    )
    parts: list[object] = [figure(drawn, text, caption)]
    rows = []
    for name, meaning in _MONITORS.items():
        values = np.asarray(history.get(name, []), dtype=np.float64)
        values = values[np.isfinite(values)]
        if len(values):
            title = name.replace("_", " ")
            first, last = _digits(values[0]), _digits(values[-1])
            course = curve(values, f"{title} over {len(values)} steps, from {first} to {last}")
            rows.append([title, first, course, last, meaning])
    if rows:
        columns = [Column("Monitor"), Column("First", numbers=True), Column("Course")]
        columns += [Column("Last", numbers=True), Column("What it says")]
        parts.append(table("Monitors of training", columns, rows))
        parts.append(small("The course of each is drawn from its least to its largest value."))
    found = [(t, str(result.manifest[n])) for n, t in _FINDINGS.items() if n in result.manifest]
    if "votes_agree" in result.manifest:
        agree = percent(float(result.manifest["votes_agree"]))
        found.append(("Agreement of its votes", agree))
    parts.append(pairs(found))
    return Section("training", "Training", join(parts))


def versions(result: Result) -> Section:
    """List versions, device, seed and time, of which the stages are in a table."""
    manifest = result.manifest
    names = {"seed": "Seed", "device": "Device", "python": "Python"}
    rows = [(title, str(manifest[name])) for name, title in names.items() if name in manifest]
    seconds = manifest.get("seconds", {})
    if not isinstance(seconds, Mapping):  # of a model saved before stages were measured
        seconds = {"total": float(seconds)}
    if "total" in seconds:
        rows.append(("Time of the fit", f"{seconds['total']:.1f} s"))
    if "config" in manifest:
        rows.append(("Fingerprint of the settings", str(manifest["config"])))
    rows += sorted((str(name), str(found)) for name, found in manifest.get("versions", {}).items())
    content = pairs(rows) if rows else paragraphs("They are not on record.")
    stages = sorted(seconds.keys() - {"total"}, key=lambda name: (-seconds[name], name))
    if stages:
        columns = [Column("Stage of the fit"), Column("Seconds", numbers=True)]
        times = [[name.replace("_", " "), decimal(seconds[name], 1)] for name in stages]
        text = "The longest first. Compilation is that of all stages, which are without it."
        content = join([content, table("Time of the stages", columns, times), small(text)])
    return Section("versions", "Versions", content)


def _digits(value: float) -> str:
    return count(value) if abs(value) >= 1000 else f"{value:.3g}"
