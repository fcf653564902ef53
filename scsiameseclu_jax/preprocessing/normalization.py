"""Principal components of counts, in three normalisations.

The encoders see one of them. The others are second opinions for the first partition: what is
large in one normalisation only is as likely its artefact as a cell type.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scsiameseclu_jax.config import Config

_THETA = 100.0  # inverse dispersion of the Pearson residuals, the custom of the field
_ROWS = 2048  # cells whose residuals are in memory at a time


class Projection(NamedTuple):
    """How logarithmic values become principal components: what new cells need of the old ones."""

    limits: np.ndarray
    """[g] largest value kept of each gene."""
    deviations: np.ndarray
    """[g] what each gene is divided by."""
    center: np.ndarray
    """[g] mean of each gene after that."""
    axes: np.ndarray
    """[g, p] components."""


def log_normalize(
    raw: sp.csr_matrix,
    size_factors: np.ndarray,
    n_top_genes: int,
    batch: np.ndarray | None = None,
) -> tuple[sp.csr_matrix, np.ndarray]:
    """Divide by size factors, take log1p, keep highly variable genes.

    Parameters
    ----------
    raw
        [n, g] counts.
    size_factors
        [n] positive.
    n_top_genes
        Genes to keep; all, if there are no more.
    batch
        [n] batch of each cell, if there are several: genes are then kept that are highly variable
        within many of them, rather than between them.

    Returns
    -------
    [n, h] logarithmic values, and which genes [g] they are of.
    """
    import scanpy as sc

    logged = logarithm(raw, size_factors)
    chosen = np.ones(raw.shape[1], bool)
    if raw.shape[1] > n_top_genes:
        cells = AnnData(logged.astype(np.float32))
        if batch is not None:
            cells.obs["batch"] = pd.Categorical(batch)
        table = sc.pp.highly_variable_genes(
            cells,
            n_top_genes=n_top_genes,
            batch_key=None if batch is None else "batch",
            inplace=False,
        )
        chosen = np.asarray(table["highly_variable"], dtype=bool)
    return logged[:, chosen], chosen


def logarithm(raw: sp.csr_matrix, size_factors: np.ndarray) -> sp.csr_matrix:
    """Return ``log(1 + counts / size factor)`` of counts [n, g] and size factors [n]."""
    logged = sp.csr_matrix(sp.diags(1 / size_factors) @ raw.astype(np.float64))
    logged.data = np.log1p(logged.data)
    return logged


def representations(
    logged: sp.csr_matrix, raw: sp.csr_matrix, *, config: Config
) -> tuple[list[np.ndarray], Projection]:
    """Return components [n, p] of the cells in three normalisations, the encoders' first.

    The projection leads to the first.

    Parameters
    ----------
    logged
        [n, g] logarithmic values.
    raw
        [n, g] counts of the same genes.
    config
        ``preprocessing`` says how many components, and whether the first are of scaled genes;
        the second are of the other kind, the third of Pearson residuals.
    """
    scale = config.preprocessing.scale
    wanted = min(config.preprocessing.n_components, min(logged.shape) - 1)
    first, projection = components(logged, wanted, scale=scale)
    second, _ = components(logged, wanted, scale=not scale)
    return [first, second, residual_components(raw, wanted)], projection


def components(
    logged: sp.csr_matrix, n_components: int, *, scale: bool
) -> tuple[np.ndarray, Projection]:
    """Return principal components [n, p], centred without leaving the sparse format, and how.

    Parameters
    ----------
    logged
        [n, g] logarithmic values.
    n_components
        Less than n and g.
    scale
        Scale every gene to unit variance first, and clip at 10 standard deviations.
    """
    from sklearn.decomposition import PCA

    n_genes = logged.shape[1]
    limits, deviation = np.full(n_genes, np.inf), np.ones(n_genes)
    if scale:
        mean = np.asarray(logged.mean(axis=0)).ravel()
        square = np.asarray(logged.multiply(logged).mean(axis=0)).ravel()
        deviation = np.sqrt(np.maximum(square - mean**2, 0))
        deviation[deviation == 0] = 1
        limits = mean + 10 * deviation  # scanpy's scale(max_value=10), for uncentred values
    pca = PCA(n_components=n_components, svd_solver="arpack", random_state=0)
    # arpack starts from a random vector of fixed seed and centres a sparse matrix implicitly
    values = pca.fit_transform(_scaled(logged, limits, deviation))
    return values, Projection(limits, deviation, pca.mean_, pca.components_.T)


def project(logged: sp.csr_matrix, projection: Projection) -> np.ndarray:
    """Return components [n, p] of logarithmic values [n, g] of other cells, same genes."""
    scaled = _scaled(logged, projection.limits, projection.deviations)
    return np.asarray(scaled @ projection.axes) - projection.center @ projection.axes


def _scaled(logged: sp.csr_matrix, limits: np.ndarray, deviations: np.ndarray) -> sp.csr_matrix:
    scaled = sp.csc_matrix(logged, copy=True)
    per_value = np.repeat(np.arange(scaled.shape[1]), np.diff(scaled.indptr))
    scaled.data = np.minimum(scaled.data, limits[per_value])
    scaled.data /= deviations[per_value]
    return sp.csr_matrix(scaled)


def residual_components(raw: sp.csr_matrix, n_components: int) -> np.ndarray:
    """Return principal components [n, p] of analytic Pearson residuals.

    The residuals are dense, so they are made for a block of cells at a time.

    Parameters
    ----------
    raw
        [n, g] counts, no cell and no gene empty.
    n_components
        Less than n and g.

    References
    ----------
    Lause et al., Genome Biology 2021.
    """
    from scipy.linalg import eigh

    n, n_genes = raw.shape
    totals = np.asarray(raw.sum(axis=1), np.float64)
    # in float32 a sum stands still from 2^24 on
    shares = np.bincount(raw.indices, weights=raw.data, minlength=n_genes) / totals.sum()
    limit = np.sqrt(n)

    def residuals(start: int) -> np.ndarray:
        rows = slice(start, start + _ROWS)
        mean = np.maximum(totals[rows] * shares, 1e-12)  # a cell may have none of these genes
        residual = (raw[rows].toarray() - mean) / np.sqrt(mean + mean**2 / _THETA)
        return np.clip(residual, -limit, limit)

    starts = range(0, n, _ROWS)
    total, gram = np.zeros(n_genes), np.zeros((n_genes, n_genes))
    for start in starts:
        block = residuals(start)
        total += block.sum(axis=0)
        gram += block.T @ block
    mean = total / n
    gram -= n * np.outer(mean, mean)
    last = n_genes - 1
    _, axes = eigh(gram, subset_by_index=[last - n_components + 1, last])
    return np.concatenate([(residuals(start) - mean) @ axes[:, ::-1] for start in starts])
