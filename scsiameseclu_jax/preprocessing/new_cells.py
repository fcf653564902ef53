"""New cells as the cells of a fit were: the same genes, normalisation, components, neighbours."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from scsiameseclu_jax.checks import sorted_names
from scsiameseclu_jax.preprocessing import normalization
from scsiameseclu_jax.preprocessing.batches import (
    balanced_neighbors_in,
    center_new,
    read_new_batches,
)
from scsiameseclu_jax.preprocessing.counts import counts, gene_names, totals
from scsiameseclu_jax.preprocessing.genes import align, to_genes
from scsiameseclu_jax.preprocessing.neighbors import nearest_in
from scsiameseclu_jax.preprocessing.prepare import Preprocessor, as_numbers

logger = logging.getLogger(__name__)

_MOST_MISSING = 0.2  # of the genes that features are made from
_LEAST_SHARE = 0.05  # of the counts, that the genes present had in the fit
_NAMED = 5  # genes in a message
_LARGEST = 1e15  # of a feature; its square fits into float32


class NewCells(NamedTuple):
    """Cells that a fit has not seen, as it would have seen them."""

    features: np.ndarray
    """[m, p] float32, as those of the fit."""
    counts: sp.csr_matrix
    """[m, g] raw counts of the selected genes."""
    size_factors: np.ndarray
    """[m] total counts over the median of the fit's cells; both of the genes that are there."""
    nearest: np.ndarray
    """[m, n_neighbors] rows of the nearest cells of the fit, of whatever batch."""
    neighbors: np.ndarray
    """[m, k] rows of cells of the fit that may be linked; with batches, the nearest of each."""
    weights: np.ndarray
    """[m, k] 1 for a link, 0 for none; without batches all are 1."""
    missing: list[str]
    """Selected genes that they lack."""
    n_missing: int
    """How many of all genes of the fit they lack."""
    present: np.ndarray
    """[g] which of the selected genes they have; the others say nothing."""


def new_cells(
    adata: AnnData,
    preprocessor: Preprocessor,
    features: np.ndarray,
    n_neighbors: int,
    *,
    layer: str | None = "counts",
) -> NewCells:
    """Check new cells and prepare them as the fit's cells were.

    A gene that is missing is not a gene without counts: it adds nothing to any component, as if it
    were at the fit's mean, and nothing to what total counts are compared with, whether features are
    made from it or not.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; not changed. Genes are found by name, counts of genes that
        are there twice are added.
    preprocessor
        What the fit keeps of its preparation.
    features
        [n, p] features of the fit's cells.
    n_neighbors
        Neighbours of each new cell among them; with batches balanced as those of the fit.
    layer
        See :func:`scsiameseclu_jax.pp.counts`.

    Raises
    ------
    TypeError, KeyError
        See :func:`scsiameseclu_jax.pp.counts`; without the ``obsm``, or the column of batches,
        that the fit used.
    ValueError
        If more than 20 % of the selected genes are missing, or genes that had more than 95 % of
        the fit's counts, or a cell has no counts of the fit's genes; if genes are missing, and the
        model was saved by a version that did not keep what that means for the others.
    """
    raw = counts(adata, layer=layer)
    raw, held = _of_genes(raw, gene_names(adata), preprocessor)
    present = held[preprocessor.selected]
    usual = _usual_total(preprocessor, held)
    depths = totals(raw)
    empty = np.flatnonzero(depths == 0)
    if empty.size:
        msg = (
            f"Expected every cell to have counts of the model's genes, found {empty.size} "
            f"without, the first {adata.obs_names[empty[0]]!r}; leave them out."
        )
        raise ValueError(msg)
    size_factors = depths / usual
    selected = raw[:, preprocessor.selected]
    if preprocessor.projection is None:
        x = _representation(adata, preprocessor)
    else:
        logged = normalization.logarithm(selected, size_factors)
        axes = preprocessor.projection.axes * present[:, None]
        x = normalization.project(logged, preprocessor.projection._replace(axes=axes))
    batches = preprocessor.batches
    codes = None if batches is None else read_new_batches(adata, batches)
    if batches is not None and codes is not None:
        x = center_new(x, codes, batches)
    missing_columns = features.shape[1] - x.shape[1]
    x = np.pad(x * preprocessor.scale, [(0, 0), (0, missing_columns)])
    if np.abs(x).max() > _LARGEST:
        cell = int(np.abs(x).max(axis=1).argmax())
        msg = (
            "Expected features like those of the fit, which vary by about 1 once they are scaled, "
            f"found {np.abs(x).max():.3g} for cell {adata.obs_names[cell]!r}; leave it out."
        )
        raise ValueError(msg)
    x = x.astype(np.float32)
    nearest = nearest_in(features, x, n_neighbors)
    neighbors, weights = nearest, np.ones(nearest.shape)
    if batches is not None and codes is not None:
        neighbors, weights = balanced_neighbors_in(features, batches.codes, x, codes, n_neighbors)
    return NewCells(
        features=x,
        counts=selected,
        size_factors=size_factors.astype(np.float32),
        nearest=nearest,
        neighbors=neighbors,
        weights=weights.astype(np.float32),
        missing=[preprocessor.genes[i] for i in preprocessor.selected[~present]],
        n_missing=int((~held).sum()),
        present=present,
    )


def _of_genes(
    raw: sp.csr_matrix, names: list[str], preprocessor: Preprocessor
) -> tuple[sp.csr_matrix, np.ndarray]:
    """Return counts [m, G] of the fit's genes, and which of them [G] are present."""
    positions = align(names, preprocessor.genes)
    held = np.bincount(positions[positions >= 0], minlength=len(preprocessor.genes))
    if (held > 1).any():
        logger.info("added up the counts of %d genes that are there more than once", sum(held > 1))
    present = held[preprocessor.selected] > 0
    missing = [preprocessor.genes[i] for i in preprocessor.selected[~present]]
    if len(missing) > _MOST_MISSING * len(preprocessor.selected):
        some = ", ".join(missing[:_NAMED])
        msg = (
            f"Expected the genes that the model was fitted on, found {len(missing)} of "
            f"{len(preprocessor.selected)} missing, for example {some}; here genes are named like "
            f"{', '.join(names[:_NAMED])}. Names of the same kind are needed in `var_names`."
        )
        raise ValueError(msg)
    return to_genes(raw, positions, len(preprocessor.genes)), held > 0


def _usual_total(preprocessor: Preprocessor, held: np.ndarray) -> float:
    """Return the total counts, of the genes [G] that are held, of a cell of size factor 1."""
    n, lost = len(held), int((~held).sum())
    if not lost:
        return preprocessor.median_total
    if preprocessor.expected is None:
        msg = (
            f"Expected all {n} genes of the model, found {lost} missing: it was saved by an "
            "earlier version, which did not keep what that means for the others; fit again."
        )
        raise ValueError(msg)
    usual = float(preprocessor.expected[held].sum())
    share = usual / preprocessor.median_total
    if share < _LEAST_SHARE:
        msg = (
            f"Expected genes with at least {_LEAST_SHARE:.0%} of the counts of the cells that the "
            f"model was fitted on, found {n - lost} of {n}, which had {share:.1%}; give counts of "
            "all genes, not of the selected ones alone."
        )
        raise ValueError(msg)
    selected = int((~held[preprocessor.selected]).sum())
    logger.warning(
        "%d of %d genes are missing, %d of them of the %d that features are made from: they are "
        "left out, and size factors are of the others, which had %.0f %% of the fit's counts",
        lost,
        n,
        selected,
        len(preprocessor.selected),
        100 * share,
    )
    return usual


def _representation(adata: AnnData, preprocessor: Preprocessor) -> np.ndarray:
    key = preprocessor.use_rep
    if key not in adata.obsm:
        msg = (
            f"Expected obsm[{key!r}], which the model was fitted on, found "
            f"{sorted_names(adata.obsm)}; embed the new cells by the same model that made it."
        )
        raise KeyError(msg)
    x = as_numbers(adata.obsm[key], f"obsm[{key!r}]")
    if x.ndim != 2 or x.shape[1] != len(preprocessor.mean) or not np.isfinite(x).all():
        msg = (
            f"Expected obsm[{key!r}] finite with {len(preprocessor.mean)} columns, found {x.shape}."
        )
        raise ValueError(msg)
    return x - preprocessor.mean
