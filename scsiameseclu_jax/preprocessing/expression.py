"""Groups of cells and their logarithmic expression, whatever the object holds beside counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scsiameseclu_jax.checks import check_anndata, names_in
from scsiameseclu_jax.preprocessing.counts import check_genes, counts, totals
from scsiameseclu_jax.preprocessing.normalization import logarithm


def counts_name(adata: AnnData, layer: str | None) -> str:
    """Return where :func:`scsiameseclu_jax.pp.counts` finds them: a layer's name, or ``X``."""
    return layer if layer is not None and layer in adata.layers else "X"


def log_expression(
    adata: AnnData, *, layer: str | None = "counts", genes: Sequence[str] | None = None
) -> AnnData:
    """Return the logarithm of normalised counts, in an object of its own.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; not changed.
    layer
        See :func:`scsiameseclu_jax.pp.counts`.
    genes
        Names of the g genes to return, in this order; None returns all. Cells are normalised by
        the counts of all genes in any case.

    Returns
    -------
    ``X`` [n, g]: ``log(1 + counts / size factor)``, float32, CSR, where a size factor is the cell's
    total over the median total. Genes have their names, cells are numbered.

    Raises
    ------
    ValueError, KeyError, TypeError
        Without raw counts, see :func:`scsiameseclu_jax.pp.counts`; if a gene has no name, or two
        have the same, or there is no such gene.
    """
    raw = counts(adata, layer=layer)
    check_genes(adata)
    depths = totals(raw)
    depths[depths == 0] = np.inf  # a cell without counts has none however it is normalised
    size_factors = depths / np.median(depths[np.isfinite(depths)])
    names = adata.var_names.astype(str)
    if genes is not None:
        places = names.get_indexer(list(genes))
        if (places < 0).any():
            unknown = [gene for gene, place in zip(genes, places, strict=True) if place < 0]
            msg = f"Expected genes of `var_names` such as {names[0]!r}, found {unknown}."
            raise KeyError(msg)
        raw, names = raw[:, places], names[places]
    return AnnData(
        logarithm(raw, size_factors).astype(np.float32),
        obs=pd.DataFrame(index=[str(i) for i in range(adata.n_obs)]),
        var=pd.DataFrame(index=names),
    )


def groups(adata: AnnData, groupby: str) -> pd.Categorical:
    """Return the group of each cell [n], categorical of strings without unused ones.

    Parameters
    ----------
    adata
        Cells.
    groupby
        Column of ``obs``: categories, names or whole numbers.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If it holds measurements or nothing, or groups such as 1 and "1".
    """
    check_anndata(adata)
    if groupby not in adata.obs:
        columns = [str(name) for name in adata.obs.columns]
        msg = (
            f"Expected groups in a column of obs, one of {columns}, found {groupby!r}; run "
            f"`scs.tl.siameseclu(adata, ..., key_added={groupby!r})` first."
        )
        raise KeyError(msg)
    column = adata.obs[groupby]
    names = names_in(column)
    if column.dtype.kind == "f" and not all(n.lstrip("-").isdigit() for n in set(names) - {None}):
        msg = f"Expected groups in obs[{groupby!r}], found numbers of type {column.dtype}."
        raise ValueError(msg)
    categories = column.astype("category").cat.remove_unused_categories().array
    if not len(categories.categories):
        msg = f"Expected groups in obs[{groupby!r}], found only missing values."
        raise ValueError(msg)
    some, first = np.unique(categories.codes, return_index=True)
    called = names[first[some >= 0]].tolist()
    if len(set(called)) < len(called):
        msg = (
            f"Expected groups of different names in obs[{groupby!r}], found two that are written "
            f"alike among {sorted(called)}; rename one."
        )
        raise ValueError(msg)
    return categories.rename_categories(called)


def group_means(values: sp.csr_matrix, codes: np.ndarray, n_groups: int) -> np.ndarray:
    """Return the mean [k, g] over the cells of each group.

    Parameters
    ----------
    values
        [n, g] of each cell.
    codes
        [n] group of each cell, 0 to k - 1; -1 for none.
    n_groups
        k, of which none is empty.
    """
    here = np.flatnonzero(codes >= 0)
    shape = n_groups, len(codes)
    members = sp.csr_matrix((np.ones(len(here)), (codes[here], here)), shape=shape)
    return (members @ values).toarray() / np.bincount(codes[here], minlength=n_groups)[:, None]
