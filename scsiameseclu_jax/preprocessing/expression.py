"""Groups of cells and their logarithmic expression, whatever the object holds beside counts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scsiameseclu_jax.preprocessing.counts import counts
from scsiameseclu_jax.preprocessing.normalization import logarithm


def counts_name(adata: AnnData, layer: str | None) -> str:
    """Return where :func:`scsiameseclu_jax.pp.counts` finds them: a layer's name, or ``X``."""
    return layer if layer is not None and layer in adata.layers else "X"


def log_expression(adata: AnnData, *, layer: str | None = "counts") -> AnnData:
    """Return the logarithm of normalised counts, in an object of its own.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; not changed.
    layer
        See :func:`scsiameseclu_jax.pp.counts`.

    Returns
    -------
    ``X`` [n, g]: ``log(1 + counts / size factor)``, float32, CSR, where a size factor is the cell's
    total over the median total. Genes have their names, cells are numbered.

    Raises
    ------
    ValueError, KeyError, TypeError
        Without raw counts, see :func:`scsiameseclu_jax.pp.counts`, or if two genes have one name.
    """
    raw = counts(adata, layer=layer)
    if not adata.var_names.is_unique:
        example = adata.var_names[adata.var_names.duplicated()][0]
        msg = (
            f"Expected unique gene names, found {example!r} twice; call "
            "`adata.var_names_make_unique()`."
        )
        raise ValueError(msg)
    totals = np.asarray(raw.sum(axis=1), np.float64).ravel()
    totals[totals == 0] = np.inf  # a cell without counts has none however it is normalised
    size_factors = totals / np.median(totals[np.isfinite(totals)])
    return AnnData(
        logarithm(raw, size_factors).astype(np.float32),
        obs=pd.DataFrame(index=[str(i) for i in range(adata.n_obs)]),
        var=pd.DataFrame(index=adata.var_names.astype(str)),
    )


def groups(adata: AnnData, key: str) -> pd.Categorical:
    """Return the group of each cell [n], categorical of strings without unused ones.

    Parameters
    ----------
    adata
        Cells.
    key
        Column of ``obs``: categories, names or whole numbers.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If it holds measurements or nothing.
    """
    if key not in adata.obs:
        found = [str(name) for name in adata.obs.columns]
        msg = (
            f"Expected `key` to be a column of obs, one of {found}, found {key!r}; run "
            f"`scs.tl.siameseclu(adata, ..., key_added={key!r})` first."
        )
        raise KeyError(msg)
    column = adata.obs[key]
    if pd.api.types.is_float_dtype(column):
        msg = f"Expected groups in obs[{key!r}], found numbers of type {column.dtype}."
        raise ValueError(msg)
    groups = column.astype("category").cat.remove_unused_categories().array
    if not len(groups.categories):
        msg = f"Expected groups in obs[{key!r}], found only missing values."
        raise ValueError(msg)
    return groups.rename_categories([str(name) for name in groups.categories])


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
