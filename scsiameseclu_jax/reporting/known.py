"""The section that compares clusters with known types: after training, and only if asked for."""

from __future__ import annotations

from scsiameseclu_jax.checks import check_column
from scsiameseclu_jax.metrics import scores
from scsiameseclu_jax.reporting.clusters import cells
from scsiameseclu_jax.reporting.figures import figure
from scsiameseclu_jax.reporting.markup import Column, Section, count, join, note, paragraphs, table
from scsiameseclu_jax.reporting.result import Result
from scsiameseclu_jax.reporting.types import heat_map
from scsiameseclu_jax.tl.record import UNASSIGNED

_MEANING = {
    "ACC": "Share of cells in the cluster matched to their type, one to one",
    "NMI": "Normalised mutual information",
    "ARI": "Adjusted Rand index: 0 is chance",
    "AMI": "Adjusted mutual information: 0 is chance",
    "macro_f1": "Mean F1 score over types, rare ones counted as much as common ones",
}
_MOST = 200  # types: more are no types, but names or measurements of cells


def check_labels(result: Result, labels: str | None) -> None:
    """Check a column of known types.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If it is the clustering itself, has no values, or more different ones than types have.
    """
    if labels is None:
        return
    obs = result.adata.obs
    check_column("labels", labels, result.adata)
    if labels == result.key:
        msg = f"Expected `labels` to be another column than the clustering, found {labels!r}."
        raise ValueError(msg)
    if obs[labels].isna().all():
        msg = f"Expected `labels` to name a column with values, found {labels!r} empty."
        raise ValueError(msg)
    n_types = obs[labels].nunique()
    if n_types > _MOST:
        msg = f"Expected `labels` to name at most {_MOST} types, found {n_types} in {labels!r}."
        raise ValueError(msg)


def comparison(result: Result, labels: str | None) -> Section | None:
    """Compare the clusters with known types."""
    if labels is None:
        return None
    types = result.adata.obs[labels]
    sure = (result.clusters != UNASSIGNED).to_numpy()
    there = (types.notna() & result.clusters.notna()).to_numpy() & sure
    n_types = types[there].nunique()
    text = (
        f"The column {labels} was compared with the clusters after training, for this report only: "
        "it took no part in preprocessing, training, or the choice of the number of clusters."
    )
    parts: list[object] = [note(text)]
    if not there.all():
        why = "a type" if sure.all() else "a type or a cluster"
        parts.append(paragraphs(f"{count((~there).sum())} cells without {why} are left out."))
    if not there.any():
        return Section("known", "Comparison with known types", join(parts))
    values = scores(types[there].astype(str), result.clusters[there].astype(str))
    rows = [[name, f"{100 * values[name]:.1f} %", _MEANING[name]] for name in values]
    columns = [Column("Score"), Column("Value", numbers=True), Column("What it is")]
    title = f"Agreement of {result.n_clusters} clusters with {n_types} types"
    parts.append(table(title, columns, rows))
    parts.append(heat_map(result, types, labels))
    drawn = cells(result, beside=labels)
    if drawn is not None:
        shown = f"UMAP of the cells by cluster, and beside it by the {n_types} types of {labels}"
        parts.append(figure(drawn, shown, "The same cells by cluster and by known type."))
    return Section("known", "Comparison with known types", join(parts))
