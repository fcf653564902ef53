"""Cells drawn from a known mixture: for tests, examples and measurements of speed."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scsiameseclu_jax.files import OUTPUTS, check_output, write_whole
from scsiameseclu_jax.files.stores import write_cells

__all__ = ["simulate", "simulate_to"]

# Spread (standard deviation of the natural logarithm) of mean expression over genes and of
# sequencing depth over cells, as in droplet data of the 2,000 most variable genes.
_GENE_SPREAD = 1.5
_DEPTH_SPREAD = 0.4
# Share of the genes in each programme, at least some in small panels, and their log-fold change
# at difficulty 0.
_MARKER_SHARE = 0.05
_MIN_MARKERS = 20
_FOLD_CHANGE = 3.0
# Fewer cells than this are not a cluster.
_MIN_CELLS = 2
# Entries drawn at a time: what bounds the memory on top of the result.
_BLOCK = 2**20
_WRITTEN = 64  # such blocks at a time


def simulate(
    n_cells: int = 2000,
    n_genes: int = 2000,
    n_clusters: int = 8,
    *,
    rng: int | np.random.Generator = 0,
    difficulty: float = 0.5,
    size_ratio: float = 10.0,
    dispersion: float = 0.3,
    mean_count: float = 0.5,
) -> AnnData:
    """Negative-binomial counts of cells from clusters of unequal size.

    Gene means and sequencing depths are log-normal. The clusters are the leaves of a binary tree;
    every node raises a random set of genes, its programme, in all clusters below it, so that near
    clusters share programmes.

    Parameters
    ----------
    n_cells
        Number of cells, at least two for each cluster.
    n_genes
        Number of genes, at least 2.
    n_clusters
        Number of clusters, at least 1.
    rng
        A seed, or a generator that is advanced. The same seed gives the same bits.
    difficulty
        In [0, 1]: the log-fold changes of markers shrink linearly from 0, where clusters are
        plain, to 1, where there is nothing to find.
    size_ratio
        In [1, 1e6]: cells in the largest cluster per cell in the smallest. Sizes in between are a
        geometric series; ``'0'`` is the largest.
    dispersion
        In [1e-6, 100]: a count of mean m has variance ``m + dispersion * m**2``, given its cell.
    mean_count
        In [1e-6, 1e6]: the mean over all entries.

    Returns
    -------
    ``X`` ``[n_cells, n_genes]``: counts, float32, CSR, at least one in each cell.
    ``obs['cell_type']``: the cluster of each cell, ``'0'``, ``'1'``, ..., in random order of rows.

    Raises
    ------
    TypeError
        If an argument is not a number of the right kind, or `rng` not a seed or generator.
    ValueError
        If an argument is outside its range.

    References
    ----------
    Zappia, L., Phipson, B. & Oshlack, A. (2017). Splatter: simulation of single-cell RNA
    sequencing data. Genome Biology 18, 174, for gamma-Poisson counts with log-normal depths.

    Examples
    --------
    >>> adata = simulate(n_cells=100, n_genes=50, n_clusters=3, size_ratio=4.0)
    >>> adata.obs["cell_type"].value_counts().to_dict()
    {'0': 57, '1': 29, '2': 14}
    """
    blocks, tables = _simulated(
        n_cells, n_genes, n_clusters, rng, difficulty, size_ratio, dispersion, mean_count
    )
    return AnnData(sparse.vstack(list(blocks), format="csr"), **tables)


def simulate_to(
    path: str | os.PathLike[str],
    n_cells: int = 2000,
    n_genes: int = 2000,
    n_clusters: int = 8,
    *,
    rng: int | np.random.Generator = 0,
    difficulty: float = 0.5,
    size_ratio: float = 10.0,
    dispersion: float = 0.3,
    mean_count: float = 0.5,
) -> None:
    """Write what :func:`simulate` returns to a file, block by block: of any size, in 1 GiB.

    Parameters
    ----------
    path
        ``.zarr`` or ``.h5ad``; must not exist.
    n_cells, n_genes, n_clusters, rng, difficulty, size_ratio, dispersion, mean_count
        See :func:`simulate`: the same seed gives the same counts.

    Raises
    ------
    TypeError, ValueError
        See :func:`simulate`; if the path ends otherwise.
    FileExistsError, FileNotFoundError, PermissionError
        If there is something, or nothing can be written there.
    scsiameseclu_jax.files.WriteError
        If writing fails.

    Examples
    --------
    >>> import tempfile, anndata
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     simulate_to(f"{folder}/cells.h5ad", n_cells=100, n_genes=50, n_clusters=3)
    ...     anndata.read_h5ad(f"{folder}/cells.h5ad").shape
    (100, 50)
    """
    path = Path(path)
    check_output(path, OUTPUTS, overwrite=False)
    blocks, tables = _simulated(
        n_cells, n_genes, n_clusters, rng, difficulty, size_ratio, dispersion, mean_count
    )
    write_whole(path, lambda new: write_cells(new, _grouped(blocks, _WRITTEN), **tables))


def _simulated(
    n_cells: int,
    n_genes: int,
    n_clusters: int,
    rng: int | np.random.Generator,
    difficulty: float,
    size_ratio: float,
    dispersion: float,
    mean_count: float,
) -> tuple[Iterator[sparse.csr_matrix], dict[str, pd.DataFrame]]:
    """Return blocks of counts, drawn one after the other, and the tables of obs and var."""
    _check_integer("n_clusters", n_clusters, 1)
    remedy = " Each cluster needs two cells."
    _check_integer("n_cells", n_cells, _MIN_CELLS * n_clusters, remedy)
    _check_integer("n_genes", n_genes, 2)
    _check_real("difficulty", difficulty, 0.0, 1.0)
    _check_real("size_ratio", size_ratio, 1.0, 1e6)
    _check_real("dispersion", dispersion, 1e-6, 100.0)
    _check_real("mean_count", mean_count, 1e-6, 1e6)
    generator = _generator(rng)

    profiles = _profiles(generator, n_genes, n_clusters, (1.0 - difficulty) * _FOLD_CHANGE)
    sizes = _cluster_sizes(n_cells, n_clusters, size_ratio)
    clusters = generator.permutation(np.repeat(np.arange(n_clusters), sizes))
    # Log-normal of mean 1.
    depths = generator.lognormal(-0.5 * _DEPTH_SPREAD**2, _DEPTH_SPREAD, n_cells)
    depths = (depths * n_genes * mean_count).astype(np.float32)

    def blocks() -> Iterator[sparse.csr_matrix]:
        step = max(1, _BLOCK // n_genes)
        for start in range(0, n_cells, step):
            rows = slice(start, start + step)
            means = depths[rows, None] * profiles[clusters[rows]]
            yield _negative_binomial(generator, means, dispersion)

    names = [str(cluster) for cluster in range(n_clusters)]
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical.from_codes(clusters, categories=names)},
        index=pd.Index([f"cell_{cell}" for cell in range(n_cells)]),
    )
    var = pd.DataFrame(index=pd.Index([f"gene_{gene}" for gene in range(n_genes)]))
    return blocks(), {"obs": obs, "var": var}


def _grouped(blocks: Iterator[sparse.csr_matrix], size: int) -> Iterator[sparse.csr_matrix]:
    """Yield several blocks at a time as one."""
    while several := list(itertools.islice(blocks, size)):
        yield sparse.vstack(several, format="csr")


def _profiles(
    generator: np.random.Generator, n_genes: int, n_clusters: int, fold_change: float
) -> np.ndarray:
    """Share of each gene in the counts of each cluster ``[k, g]``; rows sum to 1."""
    log_means = np.tile(generator.normal(0.0, _GENE_SPREAD, n_genes), (n_clusters, 1))
    n_markers = min(max(_MIN_MARKERS, round(_MARKER_SHARE * n_genes)), -(-n_genes // 4))
    # Shuffled leaves: else neighbours in the tree would be neighbours in size.
    nodes = generator.permutation(n_clusters)
    while nodes.max() > 0:
        for node in range(nodes.max() + 1):
            markers = generator.choice(n_genes, n_markers, replace=False)
            changes = fold_change * generator.gamma(4.0, 0.25, n_markers)
            log_means[np.ix_(nodes == node, markers)] += changes
        nodes = nodes // 2
    means = np.exp(log_means)
    return (means / means.sum(axis=1, keepdims=True)).astype(np.float32)


def _cluster_sizes(n_cells: int, n_clusters: int, size_ratio: float) -> np.ndarray:
    """Sizes ``[k]`` in a geometric series, largest first, none below the smallest allowed."""
    shares = float(size_ratio) ** -np.linspace(0.0, 1.0, n_clusters)
    edges = np.round(np.cumsum(shares) / shares.sum() * n_cells).astype(np.int64)
    sizes = np.sort(np.diff(edges, prepend=0))[::-1].copy()
    while sizes.min() < _MIN_CELLS:
        sizes[sizes.argmax()] -= 1
        sizes[sizes.argmin()] += 1
    return np.sort(sizes)[::-1]


def _negative_binomial(
    generator: np.random.Generator, means: np.ndarray, dispersion: float
) -> sparse.csr_matrix:
    """Gamma-Poisson counts ``[b, g]`` of the given means, drawn at the cost of the nonzeros.

    A count is the number of events before time 1 of a Poisson process whose rate is Gamma
    distributed, with shape 1/dispersion and scale s = dispersion * mean. Its first event comes
    after t with probability (1 + s t)^(-1/dispersion), so one exponential variate says whether
    there is any. If so, the rate given t is Gamma with shape 1/dispersion + 1 and scale
    s / (1 + s t), and the events after t are Poisson: no dense draw of either.
    """
    n_rows, n_genes = means.shape
    scale = means * np.float32(dispersion)
    # Both in units of log(1 + s t): of the first event, and of the end.
    first = generator.standard_exponential(means.shape, dtype=np.float32)
    first *= np.float32(dispersion)
    end = np.log1p(scale)
    positive = first < end
    # An empty cell gets the event that came soonest after the end.
    empty = np.flatnonzero(~positive.any(axis=1))
    with np.errstate(divide="ignore"):
        positive[empty, np.argmin(first[empty] / end[empty], axis=1)] = True

    entries = np.flatnonzero(positive)
    scale = scale.ravel()[entries].astype(np.float64)
    elapsed = np.minimum(first.ravel()[entries], end.ravel()[entries]).astype(np.float64)
    left = np.maximum(1.0 - np.expm1(elapsed) / scale, 0.0)
    rate = generator.standard_gamma(1.0 / dispersion + 1.0, entries.size) * scale
    rate *= np.exp(-elapsed)
    counts = 1 + generator.poisson(rate * left)
    indptr = np.concatenate([[0], np.cumsum(np.count_nonzero(positive, axis=1))])
    return sparse.csr_matrix(
        (counts.astype(np.float32), (entries % n_genes).astype(np.int32), indptr),
        shape=(n_rows, n_genes),
    )


def _generator(rng: int | np.random.Generator) -> np.random.Generator:
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, bool) or not isinstance(rng, int | np.integer):
        msg = f"Expected `rng` to be an integer or a numpy Generator, found {rng!r}."
        raise TypeError(msg)
    if rng < 0:
        msg = f"Expected `rng` to be 0 or more, found {rng!r}."
        raise ValueError(msg)
    return np.random.default_rng(int(rng))


def _check_integer(name: str, value: int, least: int, remedy: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        msg = f"Expected `{name}` to be an integer, found {value!r}."
        raise TypeError(msg)
    if value < least:
        msg = f"Expected `{name}` to be at least {least}, found {value!r}.{remedy}"
        raise ValueError(msg)


def _check_real(name: str, value: float, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        msg = f"Expected `{name}` to be a number, found {value!r}."
        raise TypeError(msg)
    if not least <= value <= most:
        msg = f"Expected `{name}` to be between {least:g} and {most:g}, found {value!r}."
        raise ValueError(msg)
