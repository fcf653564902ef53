"""Sections about how sure and how stable the clusters are."""

from __future__ import annotations

from typing import Any

import numpy as np

from scsiameseclu_jax import pl
from scsiameseclu_jax.reporting.figures import figure
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
from scsiameseclu_jax.reporting.result import UNASSIGNED, Result, listed

_UNSURE = 0.5
_REPEATABLE = "It says how repeatable a cell's cluster is, not whether the cluster is a cell type."
# Hennig, C. (2007). Cluster-wise assessment of cluster stability. CSDA 52, 258-271.
_STABLE, _PATTERN = 0.75, 0.6
_VERDICTS = {"good": "stable", "fair": "weak", "poor": "unstable"}


def confidence(result: Result) -> Section | None:
    """Say how sure the cluster of a cell is."""
    values = result.column("confidence")
    if values is None:
        return None
    if result.replaced:
        text = f"That in the file is of the clusters of the fit, not of the groups in {result.key}."
        return Section("confidence", "Confidence", note(text))
    parts: list[object] = [_meaning(result)]
    threshold = result.params.get("min_confidence")
    if threshold is not None:
        text = f"Cells with a confidence below {float(threshold):g} are {UNASSIGNED}."
        parts.append(paragraphs(text))
    numbers = values.to_numpy(np.float64)
    if (np.isfinite(numbers) & result.clusters.notna()).any():
        drawn = pl.confidence(result.adata, result.key)[0].figure
        text = f"Confidence of the cells in each of {result.n_clusters} clusters"
        caption = (
            "For each cluster the median, a bar from the first to the third quartile, and a line "
            "from the 5th to the 95th percentile of the cells."
        )
        if result.stability is not None:
            caption += (
                " Beside it, whether confidence can be relied on: how often refits agree with it; "
                "on the dashed line both are equal."
            )
        parts.append(figure(drawn, text, caption))
    parts.append(details("The same in numbers", _by_cluster(result, numbers)))
    return Section("confidence", "Confidence", join(parts))


def _meaning(result: Result) -> Html:
    if result.stability is not None:
        error = float(result.stability.get("calibration_error", np.nan))
        return paragraphs(
            "Confidence is the probability that another fit puts a cell into the same cluster: "
            "one that sees other cells and starts from another plausible partition. Against refits "
            f"left out of the calibration it is off by {decimal(error, 3)} on average.",
            _REPEATABLE,
        )
    if result.calibrated and result.predicted:
        return paragraphs(
            "Confidence is the probability that another fit of the model's cells puts a cell into "
            "the same cluster. It says nothing of cells unlike those of the fit."
        )
    if result.calibrated:
        return paragraphs(
            "Confidence is the probability that another fit puts a cell into the same cluster, as "
            "the candidates say that voted for the first partition. Refits check that, and say how "
            "stable each cluster is (--resamples 10, n_resamples=10).",
            _REPEATABLE,
        )
    return note(
        "Confidence is not calibrated here. It is a cell's largest soft assignment: of the cells "
        "at 0.9, more or fewer than nine in ten may stay where they are in another fit. Read it as "
        "an order, from sure to unsure."
    )


def _by_cluster(result: Result, values: np.ndarray) -> Html:
    unassigned = (result.clusters == UNASSIGNED).to_numpy()
    titles = ["Cells", "Lowest tenth up to", "Median", f"Share below {_UNSURE}"]
    rows = []
    known = np.isfinite(values)
    for name in result.own.categories:
        cells = np.asarray(result.own == name) & known
        if not cells.any():
            continue
        tenth, middle = np.quantile(values[cells], [0.1, 0.5])
        below = percent((values[cells] < _UNSURE).mean())
        row = [result.chip(name), count(cells.sum()), decimal(tenth), decimal(middle), below]
        rows.append(row + ([percent(unassigned[cells].mean())] if unassigned.any() else []))
    texts = []
    if unassigned.any():
        titles.append("Share unassigned")
        texts.append(f"Cells that are {UNASSIGNED} count with their most likely cluster here.")
    left = int((~known | result.clusters.isna().to_numpy()).sum())
    if left:
        texts.append(f"{count(left)} cells without a cluster or confidence are left out.")
    columns = [Column("Cluster"), *(Column(title, numbers=True) for title in titles)]
    text = small(" ".join(texts)) if texts else None
    return join([table("Confidence by cluster", columns, rows), text])


def stability(result: Result) -> Section | None:
    """Compare the clusters with those of refits."""
    stability = result.stability
    if stability is None:
        return None
    n = "again" if result.n_resamples is None else f"again {result.n_resamples} times"
    parts: list[object] = [
        paragraphs(
            f"The cells were clustered {n}, each time from 80 % of them, the others predicted, and "
            "from another of the plausible first partitions. The Jaccard index of a cluster is the "
            "share of cells that it has in common with its match in a refit, the mean over refits. "
            f"As a rule of thumb (Hennig 2007), a cluster is stable from {_STABLE} on, and below "
            f"{_PATTERN} should not be relied on."
        ),
        *_hints(result, stability),
    ]
    if not result.origin.kept:
        text = "Clusters are called here by the numbers that they had in the fit."
        parts.append(note(f"{text} Those that the groups of this page have stand for others."))
    k = len(result.names)
    drawn = pl.stability(result.adata, result.key).figure
    text = f"Share of pairs of cells that refits put together, {k} by {k} clusters"
    caption = (
        "Share of the pairs of cells, one of each cluster, that refits put together. The diagonal "
        "says how well a cluster holds together; a bright field off it, which two are confused."
    )
    parts += [figure(drawn, text, caption), _jaccard(result, stability)]
    return Section("stability", "Stability", join(parts))


def _hints(result: Result, stability: dict[str, Any]) -> list[object]:
    pairs = [str(pair).split(" + ") for pair in np.atleast_1d(stability.get("merge", []))]
    merge = [f"{result.names[int(a)]} + {result.names[int(b)]}" for a, b in pairs]
    split = [result.names[int(i)] for i in np.atleast_1d(stability.get("split", []))]
    said: list[object] = []
    if merge:
        said.append(note(f"May be one cluster, for refits mostly join them: {listed(merge)}."))
    if split:
        said.append(note(f"May be several, for refits mostly take them apart: {listed(split)}."))
    if not said:
        said.append(paragraphs("Refits suggest neither to merge nor to split any cluster."))
    return said


def _jaccard(result: Result, stability: dict[str, Any]) -> Html:
    jaccard, together = np.asarray(stability["jaccard"]), np.asarray(stability["together"])
    others = together - 2 * np.eye(len(together))
    rows = []
    for i, name in enumerate(result.names):
        j, value = int(others[i].argmax()), float(jaccard[i])
        kind = "good" if value >= _STABLE else "fair" if value >= _PATTERN else "poor"
        verdict = tag("span", _VERDICTS[kind], class_=f"badge {kind}")
        nearest = f"{result.names[j]} ({decimal(others[i, j])})" if others[i, j] > 0 else "–"
        called = result.chip(name) if result.origin.kept else name
        row = [called, decimal(value), verdict, decimal(together[i, i]), nearest]
        rows.append(row)
    columns = [
        Column("Cluster"),
        Column("Jaccard index", numbers=True),
        Column("Verdict"),
        Column("Own pairs together", numbers=True),
        Column("Most often joined to", numbers=True),
    ]
    return table("Stability by cluster", columns, rows)
