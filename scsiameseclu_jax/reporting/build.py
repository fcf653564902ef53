"""The report: one page about one clustering."""

from __future__ import annotations

import logging
import os
from datetime import date
from importlib.metadata import version
from pathlib import Path

from anndata import AnnData

from scsiameseclu_jax.files import PAGES, check_output, write_text
from scsiameseclu_jax.reporting import (
    certainty,
    clusters,
    genes,
    known,
    questions,
    repeat,
    run,
    types,
)
from scsiameseclu_jax.reporting.markup import page
from scsiameseclu_jax.reporting.result import find

logger = logging.getLogger(__name__)


def report(
    adata: AnnData,
    path: str | os.PathLike[str],
    key: str = "siameseclu",
    *,
    labels: str | None = None,
    title: str | None = None,
    markers: bool = True,
    overwrite: bool = False,
) -> None:
    """Write one web page about a clustering: what was run, what came out, how sure it is.

    The page is one file that loads nothing else, with plots inside. It shows what `adata` holds:
    the clusters, how their number was found, confidence, stability, questions to the user and what
    answers would change, marker genes, annotation, training, settings, and code to repeat the run.

    Parameters
    ----------
    adata
        After :func:`scsiameseclu_jax.tl.siameseclu` or :func:`scsiameseclu_jax.tl.predict`; not
        changed. Counts may be on disk. Without the coordinates of
        :func:`scsiameseclu_jax.tl.umap` they are computed here.
    path
        Where to write, ``.html``; whole or not at all.
    key
        The ``key_added`` of the clustering.
    labels
        Column of ``obs`` with known types to compare the clusters with; used for nothing else.
    title
        Main heading.
    markers
        Find marker genes, if :func:`scsiameseclu_jax.tl.markers` has not and there are raw counts.
    overwrite
        Replace a file that is there.

    Raises
    ------
    KeyError
        If there is no such clustering, or no such column; those that there are are named.
    ValueError, OSError
        If nothing can be written there, or a file is there already.
    scsiameseclu_jax.files.WriteError
        If writing fails.
    """
    path = Path(path)
    check_output(path, PAGES, overwrite=overwrite)
    result = find(adata, key)
    known.check_labels(result, labels)
    logger.info("report of %d clusters of %d cells", result.n_clusters, adata.n_obs)
    sections = [
        run.warnings(result),
        clusters.clusters(result, labels),
        clusters.number(result),
        certainty.confidence(result),
        certainty.stability(result),
        questions.questions(result),
        genes.markers(result, find_them=markers),
        types.annotation(result),
        *types.assigned(result),
        types.trajectory(result),
        known.comparison(result, labels),
        clusters.data(result),
        run.training(result),
        repeat.settings(result),
        run.versions(result),
    ]
    made_by = f"scsiameseclu-jax {version('scsiameseclu-jax')}"
    day = date.today()
    text = page(
        title or "Clusters of single cells",
        f"scSiameseClu clustering {key!r}, reported on {day.day} {day:%B %Y}",
        clusters.key_figures(result),
        [section for section in sections if section is not None],
        f"Made by {made_by}. One file, complete: it loads nothing from anywhere.",
    )
    write_text(path, text)
