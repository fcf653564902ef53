"""What counts say: the order of the cells, size factors, genes, components.

Of counts in memory, or in blocks: the same functions of rows, whose sums are added up.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from scsiameseclu_jax.config import Config
from scsiameseclu_jax.preprocessing import normalization
from scsiameseclu_jax.preprocessing.blocks import Blocks, Selected, largest_count
from scsiameseclu_jax.preprocessing.counts import totals
from scsiameseclu_jax.preprocessing.normalization import Projection

logger = logging.getLogger(__name__)


class Measured(NamedTuple):
    """What counts say of n cells and G genes."""

    expressed: np.ndarray
    """Which genes have counts: G of all."""
    order: np.ndarray
    """[n] row of each cell in its canonical place; what follows is in this order."""
    fingerprint: str
    """Of all counts; see :func:`canonical_order`."""
    size_factors: np.ndarray
    """[n] total counts over their median."""
    median: float
    """That median."""
    gene_totals: np.ndarray
    """[G] counts of each gene in all cells."""
    chosen: np.ndarray
    """[G] genes that are kept, g of them."""
    components: list[np.ndarray]
    """Each [n, p], in three normalisations; none, if they are not wanted."""
    projection: Projection | None
    """What made the first."""
    counts: sp.csr_matrix | Selected
    """[n, g] counts of the kept genes, in a small type."""


def measure(
    raw: sp.csr_matrix | Blocks,
    batch: np.ndarray | None,
    features: np.ndarray | None,
    *,
    config: Config,
) -> Measured:
    """Measure checked counts.

    Parameters
    ----------
    raw
        [n, g] counts, no cell empty.
    batch
        [n] batch of each cell, if there are several.
    features
        [n, p] features to use instead of components, if there are any.
    config
        ``preprocessing`` says how many genes and components, and how they are scaled.

    Raises
    ------
    ValueError
        If components are wanted, and all cells are alike but for their depth.
    """
    if isinstance(raw, Blocks):
        if len(raw) > 1:
            return _in_blocks(raw, batch, features, config)
        raw = raw[np.arange(raw.shape[0])]  # a block of them is in memory in any case
    expressed = raw.getnnz(axis=0) > 0
    raw = raw[:, expressed]
    order, fingerprint = canonical_order(raw, batch, features)
    raw = raw[order]
    depths = totals(raw)
    median = float(np.median(depths))
    logged, chosen = normalization.log_normalize(
        raw,
        depths / median,
        config.preprocessing.n_top_genes,
        None if batch is None else batch[order],
    )
    kept = raw[:, chosen]
    components: list[np.ndarray] = []
    projection = None
    if features is None:
        _check_varied(logged)
        components, projection = normalization.representations(logged, kept, config=config)
    # 8 bits would seldom do, and be a type of its own to compile for
    small = np.promote_types(np.uint16, np.min_scalar_type(int(kept.data.max())))
    return Measured(
        expressed=expressed,
        order=order,
        fingerprint=fingerprint,
        size_factors=depths / median,
        median=median,
        gene_totals=np.bincount(raw.indices, weights=raw.data, minlength=raw.shape[1]),
        chosen=chosen,
        components=components,
        projection=projection,
        counts=kept.astype(small),
    )


def canonical_order(
    raw: sp.csr_matrix | Blocks, batch: np.ndarray | None, features: np.ndarray | None
) -> tuple[np.ndarray, str]:
    """Order cells [n] by a hash of what is known of each, and fingerprint them all."""
    parts = [part for part in (batch, features) if part is not None]
    hashes = digests(raw, np.column_stack(parts) if parts else None)
    order = np.array(sorted(range(len(hashes)), key=hashes.__getitem__))
    whole = hashlib.sha256(b"".join(hashes[i] for i in order)).hexdigest()
    return order, whole[:16]


def digests(raw: sp.csr_matrix | Blocks, known: np.ndarray | None = None) -> list[bytes]:
    """Return a hash of the counts [n, g] of each cell, and of what else is known [n, m] of it.

    Genes that have no counts are of no account.
    """
    # more than single precision holds
    kind = "<f4" if largest_count(raw) <= 2**24 else "<f8"
    expressed = raw.getnnz(axis=0) > 0
    if isinstance(raw, Blocks):
        options = {"kind": kind, "place": np.cumsum(expressed) - 1}
        parts = raw.map(_digests, {"known": known}, **options)
        return [digest for part in parts for digest in part]
    if not expressed.all():
        raw = raw[:, expressed]
    return _digests(raw, known, kind)


def _digests(
    raw: sp.csr_matrix, known: np.ndarray | None, kind: str, place: np.ndarray | None = None
) -> list[bytes]:
    """Hash each row [n, g], whose genes have such places among those with counts."""
    found, indices = [], raw.indices if place is None else place[raw.indices]
    for i in range(raw.shape[0]):
        part = slice(raw.indptr[i], raw.indptr[i + 1])
        row = hashlib.blake2b(indices[part].astype("<i4").tobytes(), digest_size=16)
        row.update(raw.data[part].astype(kind).tobytes())
        if known is not None:
            row.update(known[i].astype("<f4").tobytes())
        found.append(row.digest())
    return found


def _check_varied(logged: sp.csr_matrix) -> None:
    """Raise ValueError if all cells are alike once their depth is taken away."""
    stored = np.diff(logged.indptr)
    if (stored != stored[0]).any():
        return
    genes, values = (part.reshape(len(stored), -1) for part in (logged.indices, logged.data))
    if (genes == genes[0]).all() and np.allclose(values, values[0], rtol=1e-6, atol=0):
        raise ValueError(_alike(len(stored)))


def _alike(n: int) -> str:
    return (
        f"Expected cells that differ in the genes that are kept, found all {n} alike but for their "
        "depth: there is nothing to cluster."
    )


# The same in blocks: each function below is of one block, whose rows are in the order of the file.


class _Recipe(NamedTuple):
    """How counts of kept genes become dense rows, in three normalisations."""

    scalings: list[tuple[np.ndarray, ...]]
    """Limits, deviations and centres [g] of two."""
    shares: np.ndarray
    """[g] of each gene in all counts."""
    n_cells: int


def _in_blocks(
    raw: Blocks, batch: np.ndarray | None, features: np.ndarray | None, config: Config
) -> Measured:
    settings = config.preprocessing
    order, fingerprint = canonical_order(raw, batch, features)
    genes = np.flatnonzero(raw.getnnz(axis=0))
    depths = totals(raw)
    median = float(np.median(depths))
    rows: dict[str, Any] = {"size_factors": depths / median}
    chosen = np.ones(len(genes), bool)
    if len(genes) > settings.n_top_genes:
        logger.info("looking for variable genes in %d blocks of cells", len(raw))
        logged = raw.array(_logged, len(genes), rows, genes=genes)
        chosen = _variable_genes(logged, settings.n_top_genes, batch)
    kept = genes[chosen]
    components: list[np.ndarray] = []
    projection = None
    if features is None:
        logger.info("computing components in %d blocks of cells", len(raw))
        values, projection = _components(raw, rows, kept, config)
        components = [one[order] for one in values]
    return Measured(
        expressed=raw.getnnz(axis=0) > 0,
        order=order,
        fingerprint=fingerprint,
        size_factors=rows["size_factors"][order],
        median=median,
        gene_totals=raw.sum(axis=0)[genes],
        chosen=chosen,
        components=components,
        projection=projection,
        counts=Selected(raw, kept, order),
    )


def _variable_genes(logged: Any, n_top_genes: int, batch: np.ndarray | None) -> np.ndarray:
    import dask

    if batch is None:
        return normalization.variable_genes(logged, n_top_genes)
    # scanpy starts a computation within a task for each batch: workers would wait for themselves
    with dask.config.set(scheduler="threads"):
        return normalization.variable_genes(logged, n_top_genes, batch)


def _components(
    raw: Blocks, rows: dict[str, Any], genes: np.ndarray, config: Config
) -> tuple[list[np.ndarray], Projection]:
    """Return components [n, p] in three normalisations, and the projection to the first."""
    n, g, scale = raw.shape[0], len(genes), config.preprocessing.scale
    wanted = min(config.preprocessing.n_components, min(n, g) - 1)
    found = raw.map(_sums, rows, genes=genes)
    sums = np.sum([one for one, _ in found], axis=0)
    rows = rows | {"depths": np.concatenate([depths for _, depths in found])}
    mean, square = sums[:2] / n
    if np.allclose(square, mean**2, rtol=1e-6, atol=0):
        raise ValueError(_alike(n))
    plain = np.full(g, np.inf), np.ones(g)
    scaled = normalization.limits_of(mean, square)
    ways = [scaled, plain] if scale else [plain, scaled]
    # the centre is exact once rows have been summed; until then it need be near only
    centers = [(mean / deviations).astype(np.float32) for _, deviations in ways]
    scalings = [(*way, center) for way, center in zip(ways, centers, strict=True)]
    shares = (sums[2] / sums[2].sum()).astype(np.float32)
    recipe = _Recipe(scalings, shares, n)
    moments = raw.total(_moments, rows, genes=genes, recipe=recipe)
    axes = [normalization.leading_axes(one, n, wanted) for one in moments]
    parts = raw.map(_on_axes, rows, genes=genes, recipe=recipe, axes=axes)
    values = [np.concatenate(one) for one in zip(*parts, strict=True)]
    (offset, first), center = axes[0], centers[0].astype(np.float64)
    return values, Projection(*ways[0], center + offset, first)


def _logged(block: sp.csr_matrix, *, size_factors: np.ndarray, genes: np.ndarray) -> sp.csr_matrix:
    return normalization.logarithm(block[:, genes], size_factors).astype(np.float32)


def _sums(
    block: sp.csr_matrix, *, size_factors: np.ndarray, genes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return sums [3, g] of logarithms, their squares and counts; depths [r, 1] of the cells."""
    raw = block[:, genes]
    logged = normalization.logarithm(raw, size_factors)
    values = (logged, logged.data), (logged, logged.data**2), (raw, raw.data)
    sums = [np.bincount(m.indices, weights=data, minlength=len(genes)) for m, data in values]
    depths = np.asarray(raw.sum(axis=1), np.float64).astype(np.float32)
    return np.array(sums), depths


def _normalised(
    block: sp.csr_matrix,
    size_factors: np.ndarray,
    depths: np.ndarray,
    genes: np.ndarray,
    recipe: _Recipe,
) -> list[normalization.Rows]:
    raw = block[:, genes]
    logged = normalization.logarithm(raw, size_factors)
    return [
        *(normalization.scaled_rows(logged, *scaling) for scaling in recipe.scalings),
        normalization.residual_rows(raw, depths, recipe.shares, recipe.n_cells),
    ]


def _moments(
    block: sp.csr_matrix,
    *,
    size_factors: np.ndarray,
    depths: np.ndarray,
    genes: np.ndarray,
    recipe: _Recipe,
) -> np.ndarray:
    r, g = block.shape[0], len(genes)
    ways = _normalised(block, size_factors, depths, genes, recipe)
    return np.array([normalization.moments(rows, r, g) for rows in ways])


def _on_axes(
    block: sp.csr_matrix,
    *,
    size_factors: np.ndarray,
    depths: np.ndarray,
    genes: np.ndarray,
    recipe: _Recipe,
    axes: list[tuple[np.ndarray, np.ndarray]],
) -> list[np.ndarray]:
    ways = _normalised(block, size_factors, depths, genes, recipe)
    r = block.shape[0]
    return [normalization.on_axes(rows, r, *one) for rows, one in zip(ways, axes, strict=True)]
