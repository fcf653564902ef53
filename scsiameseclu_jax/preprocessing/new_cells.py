"""New cells as the cells of a fit were: the same genes, normalisation, components, neighbours."""

from __future__ import annotations

import logging
import re
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from scsiameseclu_jax.preprocessing import normalization
from scsiameseclu_jax.preprocessing.batches import center_new
from scsiameseclu_jax.preprocessing.counts import counts
from scsiameseclu_jax.preprocessing.neighbors import nearest_in
from scsiameseclu_jax.preprocessing.prepare import Preprocessor

logger = logging.getLogger(__name__)

_MOST_MISSING = 0.2  # of the genes that features are made from
_NAMED = 5  # genes in a message
_VERSION = re.compile(r"^(ENS[A-Z]*\d+)\.\d+$")


class NewCells(NamedTuple):
    """Cells that a fit has not seen, as it would have seen them."""

    features: np.ndarray
    """[m, p] float32, as those of the fit."""
    counts: sp.csr_matrix
    """[m, g] raw counts of the selected genes."""
    size_factors: np.ndarray
    """[m] total counts over the median of the fit's cells; both of the genes that are there."""
    neighbors: np.ndarray
    """[m, k] rows of the nearest cells of the fit."""
    missing: list[str]
    """Selected genes that they lack."""
    present: np.ndarray
    """[g] which of the selected genes they have; the others say nothing."""


def align(names: list[str], wanted: list[str]) -> np.ndarray:
    """Find for each name the wanted gene that it names.

    As it stands, else without regard to case and to the version of an Ensembl identifier, where
    that leaves no doubt.

    Parameters
    ----------
    names
        [a] names of genes, some perhaps twice.
    wanted
        [b] names, each once.

    Returns
    -------
    [a] position in `wanted`, -1 for genes that are not wanted.
    """
    exact = {name: i for i, name in enumerate(wanted)}
    taken = set(names) & set(exact)
    loose: dict[str, int] = {}
    for i, name in enumerate(wanted):
        if name not in taken:
            key = plain(name)
            loose[key] = -1 if key in loose else i
    return np.array([exact.get(name, loose.get(plain(name), -1)) for name in names], dtype=int)


def plain(name: str) -> str:
    """Return a gene's name without regard to case and to the version of an Ensembl identifier."""
    upper = name.upper()
    match = _VERSION.match(upper)
    return match.group(1) if match else upper


def to_genes(raw: sp.csr_matrix, found: np.ndarray, n_genes: int) -> sp.csr_matrix:
    """Return counts [m, b] of other genes, those of a gene that is there twice added up.

    Parameters
    ----------
    raw
        [m, a] counts.
    found
        [a] position of each gene among the others, from :func:`align`; -1 for none.
    n_genes
        Number b of others.
    """
    here = np.flatnonzero(found >= 0)
    shape = len(found), n_genes
    where = sp.csr_matrix((np.ones(len(here)), (here, found[here])), shape=shape)
    return sp.csr_matrix(raw.astype(np.float64) @ where)


def new_cells(
    adata: AnnData,
    frame: Preprocessor,
    features: np.ndarray,
    profile: np.ndarray,
    n_neighbors: int,
    *,
    layer: str | None = "counts",
) -> NewCells:
    """Check new cells and prepare them as the fit's cells were.

    A gene that is missing is not a gene without counts: it adds nothing to any component, as if it
    were at the fit's mean, and nothing to what total counts are compared with.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; not changed. Genes are found by name, counts of genes that
        are there twice are added.
    frame
        What the fit keeps of its preparation.
    features
        [n, p] features of the fit's cells.
    profile
        [g] expected counts of the selected genes in a cell of size factor 1.
    n_neighbors
        Neighbours of each new cell among them.
    layer
        See :func:`scsiameseclu_jax.pp.counts`.

    Raises
    ------
    TypeError, KeyError
        See :func:`scsiameseclu_jax.pp.counts`; without the ``obsm``, or the column of batches,
        that the fit used.
    ValueError
        If more than 20 % of the selected genes are missing, or a cell has no counts of the fit's
        genes.
    """
    if not isinstance(adata, AnnData):
        msg = f"Expected `adata` to be an AnnData object, found {type(adata).__name__}."
        raise TypeError(msg)
    raw = counts(adata, layer=layer)
    raw, present = _of_genes(raw, [str(name) for name in adata.var_names], frame)
    totals = np.asarray(raw.sum(axis=1), np.float64).ravel()
    empty = np.flatnonzero(totals == 0)
    if empty.size:
        msg = (
            f"Expected every cell to have counts of the model's genes, found {empty.size} "
            f"without, the first {adata.obs_names[empty[0]]!r}; leave them out."
        )
        raise ValueError(msg)
    size_factors = totals / _total(frame, profile[~present])
    selected = raw[:, frame.selected]
    if frame.projection is None:
        x = _representation(adata, frame)
    else:
        logged = normalization.logarithm(selected, size_factors)
        axes = frame.projection.axes * present[:, None]
        x = normalization.project(logged, frame.projection._replace(axes=axes))
    if frame.batches is not None:
        x = center_new(x, adata, frame.batches)
    x = np.pad(x * frame.scale, [(0, 0), (0, features.shape[1] - x.shape[1])]).astype(np.float32)
    return NewCells(
        features=x,
        counts=selected,
        size_factors=size_factors.astype(np.float32),
        neighbors=nearest_in(features, x, n_neighbors),
        missing=[frame.genes[i] for i in frame.selected[~present]],
        present=present,
    )


def _of_genes(
    raw: sp.csr_matrix, names: list[str], frame: Preprocessor
) -> tuple[sp.csr_matrix, np.ndarray]:
    """Return counts [m, G] of the fit's genes, and which selected ones [g] are present."""
    found = align(names, frame.genes)
    held = np.bincount(found[found >= 0], minlength=len(frame.genes))
    if (held > 1).any():
        logger.info("added up the counts of %d genes that are there more than once", sum(held > 1))
    present = held[frame.selected] > 0
    missing = [frame.genes[i] for i in frame.selected[~present]]
    if len(missing) > _MOST_MISSING * len(frame.selected):
        some = ", ".join(missing[:_NAMED])
        msg = (
            f"Expected the genes that the model was fitted on, found {len(missing)} of "
            f"{len(frame.selected)} missing, for example {some}; here genes are named like "
            f"{', '.join(names[:_NAMED])}. Names of the same kind are needed in `var_names`."
        )
        raise ValueError(msg)
    if missing:
        logger.warning(
            "%d of %d genes are missing: they are left out", len(missing), len(frame.selected)
        )
    return to_genes(raw, found, len(frame.genes)), present


def _total(frame: Preprocessor, lost: np.ndarray) -> float:
    """Return the median total counts of the fit's cells, less what is expected of lost genes.

    At least half of it, whatever is expected: that is an estimate.
    """
    return max(frame.median_total - float(lost.sum()), 0.5 * frame.median_total)


def _representation(adata: AnnData, frame: Preprocessor) -> np.ndarray:
    key = frame.use_rep
    if key not in adata.obsm:
        msg = (
            f"Expected obsm[{key!r}], which the model was fitted on, found {sorted(adata.obsm)}; "
            "embed the new cells by the same model that made it."
        )
        raise KeyError(msg)
    x = np.asarray(adata.obsm[key], np.float64)
    if x.ndim != 2 or x.shape[1] != len(frame.mean) or not np.isfinite(x).all():
        msg = f"Expected obsm[{key!r}] finite with {len(frame.mean)} columns, found {x.shape}."
        raise ValueError(msg)
    return x - frame.mean
