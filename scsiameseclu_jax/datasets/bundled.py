"""A labelled data set that needs no download."""

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

__all__ = ["pbmc68k_reduced"]

# The recovered counts of the file are all within 0.09 of an integer, 99.9 % of them within 0.03:
# what float32 logarithms lose. Anything else than counts is further away almost everywhere.
_FAR = 0.1
_FAR_SHARE = 0.01


def pbmc68k_reduced() -> AnnData:
    """700 peripheral blood cells, ten types, 765 genes: the set that scanpy carries, as counts.

    scanpy keeps ``log1p(counts / n_counts * 1e4)`` in ``raw``. This undoes it, so that the result
    can serve where raw counts are asked for. The genes are those that scanpy selected; a cell's
    counts therefore sum to a small part of what was sequenced.

    Returns
    -------
    ``X`` ``[700, 765]``: UMI counts, float32, CSR. ``obs['cell_type']``: ten types of 8 to 240
    cells, from correlation with sorted populations, so not an independent truth. ``obs_names``
    are barcodes, ``var_names`` gene symbols.

    Raises
    ------
    ValueError
        If what scanpy carries is no longer the logarithm of counts.

    References
    ----------
    Zheng, G. X. Y. et al. (2017). Massively parallel digital transcriptional profiling of single
    cells. Nature Communications 8, 14049. Subset and labels: `scanpy.datasets.pbmc68k_reduced`.

    Examples
    --------
    >>> adata = pbmc68k_reduced()
    >>> adata.shape, adata.obs["cell_type"].nunique()
    ((700, 765), 10)
    """
    import scanpy as sc

    source = sc.datasets.pbmc68k_reduced()
    totals = source.obs["n_counts"].to_numpy(np.float64)
    counts = _recover_counts(sparse.csr_matrix(source.raw.X), totals)
    labels = source.obs["bulk_labels"].astype(str).to_numpy()
    obs = pd.DataFrame({"cell_type": pd.Categorical(labels)}, index=source.obs_names.copy())
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=source.raw.var_names.copy()))


def _recover_counts(logged: sparse.csr_matrix, totals: np.ndarray) -> sparse.csr_matrix:
    """Undo ``log1p(counts / totals * 1e4)``; what is stored are counts of at least 1."""
    per_value = np.repeat(totals, np.diff(logged.indptr))
    values = np.expm1(logged.data.astype(np.float64)) * per_value / 1e4
    counts = np.round(values)
    # Written such that a missing value counts as far.
    far = float(np.mean(~(np.abs(values - counts) <= _FAR)))
    if far > _FAR_SHARE or not (counts > 0).all():
        msg = (
            "Expected scanpy's pbmc68k_reduced to hold the logarithm of counts, found "
            f"{far:.0%} of its values more than {_FAR} from a count and {values.min():.3g} as the "
            "smallest. Another version of scanpy may help; please report it."
        )
        raise ValueError(msg)
    return sparse.csr_matrix(
        (counts.astype(np.float32), logged.indices.copy(), logged.indptr.copy()), logged.shape
    )
