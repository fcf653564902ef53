"""Principal components of counts, in three normalisations.

The encoders see one of them. The others are second opinions for the first partition: what is
large in one normalisation only is as likely its artefact as a cell type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scsiameseclu_jax.config import Config

_THETA = 100.0  # inverse dispersion of the Pearson residuals, the custom of the field
_ROWS = 2048  # cells that are made dense at a time

Rows = Callable[[slice], np.ndarray]
"""Makes some rows dense."""


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
    logged = logarithm(raw, size_factors)
    chosen = np.ones(raw.shape[1], bool)
    if raw.shape[1] > n_top_genes:
        chosen = variable_genes(logged.astype(np.float32), n_top_genes, batch)
    return logged[:, chosen], chosen


def variable_genes(logged: Any, n_top_genes: int, batch: np.ndarray | None = None) -> np.ndarray:
    """Return which genes [g] vary most, by logarithmic values [n, g], sparse or a Dask array.

    For the other parameters see :func:`log_normalize`.
    """
    import scanpy as sc

    cells = AnnData(logged)
    if batch is not None:
        cells.obs["batch"] = pd.Categorical(batch)
    table = sc.pp.highly_variable_genes(
        cells,
        n_top_genes=n_top_genes,
        batch_key=None if batch is None else "batch",
        inplace=False,
    )
    return np.asarray(table["highly_variable"], dtype=bool)


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
    """Return principal components [n, p], of a few dense rows at a time, and how.

    Parameters
    ----------
    logged
        [n, g] logarithmic values.
    n_components
        Less than n and g.
    scale
        Scale every gene to unit variance first, and clip at 10 standard deviations.
    """
    n, n_genes = logged.shape
    limits, deviations = np.full(n_genes, np.inf), np.ones(n_genes)
    if scale:
        mean = np.asarray(logged.mean(axis=0)).ravel()
        square = np.asarray(logged.multiply(logged).mean(axis=0)).ravel()
        limits, deviations = limits_of(mean, square)
    scaled = _scaled(logged, limits, deviations)
    center = np.asarray(scaled.mean(axis=0)).ravel()
    values, axes = _principal(_centered(scaled, center), n, n_genes, n_components)
    return values, Projection(limits, deviations, center, axes)


def limits_of(mean: np.ndarray, square: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest value to keep of each gene [g], and its standard deviation or 1.

    By the means [g] of logarithmic values and of their squares.
    """
    deviations = np.sqrt(np.maximum(square - mean**2, 0))
    deviations[deviations == 0] = 1
    return mean + 10 * deviations, deviations  # scanpy's scale(max_value=10), uncentred


def scaled_rows(
    logged: sp.csr_matrix, limits: np.ndarray, deviations: np.ndarray, center: np.ndarray
) -> Rows:
    """Return what makes rows of logarithmic values [n, g] dense: clipped, scaled, centred."""
    return _centered(_scaled(logged, limits, deviations), center)


def _centered(scaled: sp.csr_matrix, center: np.ndarray) -> Rows:
    def rows(part: slice) -> np.ndarray:
        return scaled[part].toarray() - center.astype(np.float32)

    return rows


def _principal(
    rows: Rows, n: int, n_genes: int, n_components: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return principal components [n, p] and their axes [g, p] of rows that are made in blocks.

    By the eigenvectors of the covariance of the genes, or of the cells where they are fewer: dense
    products of blocks are several times faster than an iteration that goes over all values again
    and again.
    """
    if n < n_genes and n <= _ROWS:
        x = rows(slice(0, n))
        x -= x.mean(axis=0)
        axes = x.T @ _leading(x @ x.T, n_components)
        axes /= np.linalg.norm(axes, axis=0)
        return x @ axes, axes
    mean, axes = leading_axes(moments(rows, n, n_genes), n, n_components)
    return on_axes(rows, n, mean, axes), axes


def moments(rows: Rows, n: int, n_genes: int) -> np.ndarray:
    """Return sums [1 + g, g] over n rows: of each gene, then of products of two.

    `rows` are float32, nearly centred; products are added up in float64.
    """
    sums = np.zeros((1 + n_genes, n_genes))
    total, gram = sums[0], sums[1:]
    for part in _parts(n):
        x = rows(part)
        total += x.sum(axis=0, dtype=np.float64)
        gram += x.T @ x
    return sums


def leading_axes(sums: np.ndarray, n: int, n_components: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the means [g] and leading principal axes [g, p] of n rows with such moments."""
    mean = sums[0] / n
    return mean, _leading(sums[1:] - n * np.outer(mean, mean), n_components)


def on_axes(rows: Rows, n: int, mean: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Return components [n, p], float32, of n rows on axes [g, p], less those of the mean [g]."""
    offset = (mean @ axes).astype(np.float32)
    single = axes.astype(np.float32)
    return np.concatenate([rows(part) @ single - offset for part in _parts(n)])


def _parts(n: int) -> list[slice]:
    return [slice(start, min(start + _ROWS, n)) for start in range(0, n, _ROWS)]


def _leading(gram: np.ndarray, n_components: int) -> np.ndarray:
    """Return eigenvectors [g, p] of a symmetric matrix [g, g], the largest eigenvalue first.

    The largest entry of each is positive.
    """
    from scipy.sparse.linalg import eigsh

    start = np.random.default_rng(0).standard_normal(len(gram))
    values, vectors = eigsh(gram, n_components, v0=start)
    vectors = vectors[:, np.argsort(-values)]
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(n_components)]
    return vectors * np.where(largest < 0, -1, 1)


def project(logged: sp.csr_matrix, projection: Projection) -> np.ndarray:
    """Return components [n, p] of logarithmic values [n, g] of other cells, same genes."""
    scaled = _scaled(logged, projection.limits, projection.deviations)
    return np.asarray(scaled @ projection.axes) - projection.center @ projection.axes


def _scaled(logged: sp.csr_matrix, limits: np.ndarray, deviations: np.ndarray) -> sp.csr_matrix:
    scaled = sp.csc_matrix(logged, copy=True)
    per_value = np.repeat(np.arange(scaled.shape[1]), np.diff(scaled.indptr))
    scaled.data = np.minimum(scaled.data, limits[per_value])
    scaled.data /= deviations[per_value]
    return sp.csr_matrix(scaled, dtype=np.float32)


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
    n, n_genes = raw.shape
    totals = np.asarray(raw.sum(axis=1), np.float64).astype(np.float32)
    # in float32 a sum stands still from 2^24 on
    shares = np.bincount(raw.indices, weights=raw.data, minlength=n_genes)
    shares = (shares / totals.sum(dtype=np.float64)).astype(np.float32)
    return _principal(residual_rows(raw, totals, shares, n), n, n_genes, n_components)[0]


def residual_rows(raw: sp.csr_matrix, totals: np.ndarray, shares: np.ndarray, n_cells: int) -> Rows:
    """Return what makes Pearson residuals of rows of counts [n, g], clipped at sqrt(n_cells).

    Both float32: total counts [n, 1] of the cells, and the share [g] of each gene in those of all.
    """
    limit = np.float32(np.sqrt(n_cells))

    def rows(part: slice) -> np.ndarray:
        mean = np.maximum(totals[part] * shares, np.float32(1e-12))  # a cell may have none of these
        residual = raw[part].toarray() - mean
        residual /= np.sqrt(mean + mean**2 / np.float32(_THETA))
        return np.clip(residual, -limit, limit, out=residual)

    return rows
