"""Counts in two parts: clusters from one, tests on the other."""

from __future__ import annotations

import logging

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from scsiameseclu_jax.checks import as_seed
from scsiameseclu_jax.preprocessing.counts import counts

logger = logging.getLogger(__name__)

FIT, TEST = "counts_fit", "counts_test"


def split_counts(
    adata: AnnData,
    *,
    layer: str | None = "counts",
    share: float = 0.5,
    rng: int | np.random.Generator = 0,
    copy: bool = False,
) -> AnnData | None:
    """Split counts at random in two layers, to cluster on one and to test on the other.

    Clusters of noise differ in the very counts that they were found in, so p-values of those counts
    are far too small ("double dipping"). Here each molecule goes to one part or the other, by the
    toss of a coin (binomial thinning). If counts are Poisson given the cell's expression, the
    two parts are independent, and p-values of the second are valid for clusters from the first.

    Counts more variable than Poisson (negative binomial) leave the parts positively correlated, so
    p-values stay somewhat too small: much less so than without a split, but they are no proof.
    Either part also has fewer counts than the whole, so clusters can be coarser.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; only layers and ``uns`` are written.
    layer
        Where the counts are: ``"counts"`` is that layer if there is one, else ``X``; None is
        ``X``.
    share
        Probability, between 0 and 1, that a molecule goes to the part that clusters are found in.
    rng
        Seed, or a generator that the seed is drawn from. Other seeds, or another order of the
        cells, give other splits.
    copy
        Return a changed copy and leave `adata` as it is.

    Returns
    -------
    None, or the copy. Written are

    ``adata.layers["counts_fit"]``, ``adata.layers["counts_test"]``
        The two parts [n, g], CSR, which sum to the counts; cluster with ``layer="counts_fit"``,
        test with ``layer="counts_test"``.
    ``adata.uns["counts_split"]``
        ``layer``, ``share`` and ``seed``.

    Raises
    ------
    ValueError, KeyError, TypeError
        If there are no raw counts, see :func:`scsiameseclu_jax.pp.counts`, or `share` is not
        between 0 and 1.

    References
    ----------
    Neufeld, A., Gao, L. L., Popp, J., Battle, A. & Witten, D. (2024). Inference after latent
    variable estimation for single-cell RNA sequencing data. Biostatistics 25, 270-287.

    Neufeld, A., Popp, J., Gao, L. L., Battle, A. & Witten, D. (2023). Negative binomial count
    splitting for single-cell RNA sequencing data. arXiv 2307.12985, for more variable counts.

    Examples
    --------
    >>> import scsiameseclu_jax as scs
    >>> adata = scs.datasets.simulate(n_cells=100, n_genes=50, n_clusters=2)
    >>> scs.pp.split_counts(adata)
    >>> bool((adata.layers["counts_fit"] + adata.layers["counts_test"] != adata.X).nnz)
    False
    """
    if not 0 < share < 1:
        msg = f"Expected `share` to be between 0 and 1, found {share}."
        raise ValueError(msg)
    seed = as_seed(rng)
    raw = counts(adata, layer=layer)
    source = layer if layer is not None and layer in adata.layers else "X"
    drawn = np.random.default_rng(seed).binomial(raw.data.astype(np.int64), share)
    parts = {FIT: drawn.astype(raw.dtype), TEST: raw.data - drawn.astype(raw.dtype)}
    if copy:
        adata = adata.copy()
    elif adata.is_view:
        adata._init_as_actual(adata.copy())
    for name, values in parts.items():
        part = sp.csr_matrix((values, raw.indices.copy(), raw.indptr.copy()), raw.shape)
        part.eliminate_zeros()
        adata.layers[name] = part
        empty = int((part.getnnz(axis=1) == 0).sum())
        if empty:
            logger.warning("%d cells have no counts in %r; filter them out", empty, name)
    record = {"layer": source, "share": float(share), "seed": seed}
    if adata.uns.get("counts_split", record) != record:
        logger.warning(
            "replaced another split: tests of clusters from that one are not independent"
        )
    adata.uns["counts_split"] = record
    logger.info("split the counts of %s: added %r and %r (adata.layers)", source, FIT, TEST)
    return adata if copy else None
