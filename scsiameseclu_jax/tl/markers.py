"""Genes that mark clusters."""

from __future__ import annotations

import logging
from typing import Any, get_args

import numpy as np
import pandas as pd
from anndata import AnnData

from scsiameseclu_jax.checks import check_key, storable_names
from scsiameseclu_jax.preprocessing.count_splitting import FIT, TEST
from scsiameseclu_jax.preprocessing.expression import counts_name, groups, log_expression
from scsiameseclu_jax.tl.gene_tests import GeneTests, Method, gene_tests
from scsiameseclu_jax.tl.record import UNASSIGNED, layer_for, split_of, writable
from scsiameseclu_jax.tl.ties import origin, tie

logger = logging.getLogger(__name__)

_METHODS = get_args(Method)
_PARTNERS = {FIT, TEST}
# What scanpy's functions for its own results look up in ours.
_AS_SCANPY = {"reference": "rest", "corr_method": "benjamini-hochberg", "use_raw": False}


def markers(
    adata: AnnData,
    groupby: str = "siameseclu",
    *,
    layer: str | None = "counts",
    method: Method = "wilcoxon",
    n_top: int = 5,
    min_share: float = 0.25,
    min_logfoldchange: float = 1.0,
    alpha: float = 0.05,
    min_cells: int = 3,
    clustered: str | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Rank the genes of each cluster against all other cells, and list the top ones.

    The statistics are those of :func:`scanpy.tl.rank_genes_groups`, of the logarithm of normalised
    counts: these are found in `adata` and normalised in a temporary object, whatever ``X`` holds.

    p-values of clusters that were found in the same counts are far too small ("double dipping"):
    clustering makes clusters differ, where there are none too. They rank genes; they do not prove
    that clusters are real. :func:`scsiameseclu_jax.pp.split_counts` is a way out: cluster with
    ``layer="counts_fit"``, test with ``layer="counts_test"``.

    Parameters
    ----------
    adata
        Cells x genes with raw counts.
    groupby
        Column of ``obs`` with the groups: clusters, or any other categories.
    layer
        Where the counts to be tested are: ``"counts"`` is that layer if there is one, else the one
        that the clusters were made of, else ``X``; another name must exist; None is ``X``. ``.raw``
        is never read.
    method
        ``"wilcoxon"``, corrected for ties; ``"t-test"``, Welch's; or ``"t-test_overestim_var"``,
        which takes the other cells for as few as the group's.
    n_top
        Genes to list for each cluster, at most.
    min_share
        Share of the cluster's cells, 0 to 1, that a listed gene must be seen in.
    min_logfoldchange
        Least change, base 2, of a listed gene; without one, ribosomal genes come first in many
        clusters.
    alpha
        Largest adjusted p-value of a listed gene.
    min_cells
        Groups of fewer cells are left out, 2 at least; so are cells without a group, or
        ``"Unassigned"``.
    clustered
        Layer that the groups were found in, if ``uns[groupby]`` does not record it.
    key_added
        Name under which results are stored; None for `groupby`.
    copy
        Return a changed copy and leave `adata` as it is.

    Returns
    -------
    None, or the copy. Written are

    ``adata.uns[f"{key_added}_markers"]``
        As scanpy's ``uns["rank_genes_groups"]``: ``sc.get.rank_genes_groups_df(adata, None,
        key=...)`` reads it. A name that files cannot store as a field's is replaced there: ":" by
        "|", say, and no name by "_"; ``params["groups"]`` has the names as they are. Shares of
        cells (``pts``, ``pts_rest``) are absent where a group has a "/" in its name, which files
        cannot store as a column. ``params`` has also ``tested`` and ``clustered``, the counts,
        ``double_dipping`` (False only if they are known to be the two parts of a split), and
        ``left_out``, if groups were.
    ``adata.uns[f"{key_added}_top_markers"]``
        Table of ``cluster``, ``gene``, ``score``, ``logfoldchange`` (base 2), ``pval_adj``,
        ``share_in`` and ``share_out`` (of cells with the gene, in the cluster and out of it). A
        gene stands only under the cluster where it scores best.
    ``adata.obsm[f"{key_added}_markers"]``
        Group of each cell [n, 1], a position in ``params["groups"]``, int32, -1 for none: so plots
        and reports find the groups again when they are renamed, and say so when they are others.

    Raises
    ------
    KeyError
        If there is no such column or layer.
    ValueError
        If there are no raw counts, fewer than two groups to compare, or an option is out of range.

    References
    ----------
    Wilcoxon, F. (1945). Individual comparisons by ranking methods. Biometrics Bulletin 1, 80-83.

    Neufeld, A., Gao, L. L., Popp, J., Battle, A. & Witten, D. (2024). Inference after latent
    variable estimation for single-cell RNA sequencing data. Biostatistics 25, 270-287.

    Examples
    --------
    >>> import scsiameseclu_jax as scs
    >>> adata = scs.datasets.pbmc68k_reduced()
    >>> scs.tl.markers(adata, "cell_type", n_top=3)
    >>> top = adata.uns["cell_type_top_markers"]
    >>> top.gene[top.cluster == "CD19+ B"].tolist()
    ['CD79A', 'IGJ', 'MS4A1']
    """
    _check_options(method, n_top, min_share, alpha, min_cells)
    key_added = groupby if key_added is None else key_added
    check_key(key_added)
    labels = groups(adata, groupby)
    layer = layer_for(adata, groupby, layer)
    expression = log_expression(adata, layer=layer)
    sizes = pd.Series(labels).value_counts()
    kept = [name for name in labels.categories if name != UNASSIGNED and sizes[name] >= min_cells]
    if len(kept) < 2:
        msg = (
            f"Expected two groups of obs[{groupby!r}] or more with at least {min_cells} cells, "
            f"found {kept}."
        )
        raise ValueError(msg)
    left_out = [str(name) for name in labels.categories if name not in kept]
    if left_out:
        logger.info("left out groups without a cluster or with too few cells: %s", left_out)
    codes = labels.set_categories(kept).codes
    grouped = codes >= 0
    values = expression.X if grouped.all() else expression.X[grouped]
    tests = gene_tests(values, codes[grouped], len(kept), method)
    fields = storable_names(kept, allowed="/")
    ranked, shares = _records(tests, expression.var_names, fields)
    limits = {"min_share": min_share, "min_logfoldchange": min_logfoldchange, "alpha": alpha}
    top = _top(ranked, shares, kept, n_top=n_top, **limits)

    record = _dipping(adata, groupby, layer, clustered)
    params: dict[str, Any] = {"groupby": groupby, "method": method, **_AS_SCANPY} | record
    params["groups"] = np.array(kept)
    params |= {"min_cells": int(min_cells), "n_top": int(n_top)}
    params |= {name: float(value) for name, value in limits.items()}
    if left_out:
        params["left_out"] = np.array(left_out)
    if storable_names(kept) != fields:  # columns cannot be called as fields are
        del ranked["pts"], ranked["pts_rest"]
    adata = writable(adata, copy=copy)
    tie(adata, f"{key_added}_markers", codes)
    adata.uns[f"{key_added}_markers"] = ranked | {"params": params}
    adata.uns[f"{key_added}_top_markers"] = top
    bare = [name for name in kept if not (top["cluster"] == name).any()]
    if bare:
        logger.info("no gene marks these groups above all others: %s", bare)
    logger.info(
        "ranked %d genes in %d groups and added '%s_markers' and '%s_top_markers' (adata.uns)",
        expression.n_vars,
        len(kept),
        key_added,
        key_added,
    )
    return adata if copy else None


def _check_options(method: str, n_top: int, min_share: float, alpha: float, min_cells: int) -> None:
    if method not in _METHODS:
        msg = f"Expected `method` to be one of {list(_METHODS)}, found {method!r}."
        raise ValueError(msg)
    for name, number, least in (("n_top", n_top, 1), ("min_cells", min_cells, 2)):
        if isinstance(number, bool) or number != int(number) or number < least:
            msg = f"Expected `{name}` to be a whole number of at least {least}, found {number}."
            raise ValueError(msg)
    for name, share in (("min_share", min_share), ("alpha", alpha)):
        if not 0 <= share <= 1:
            msg = f"Expected `{name}` to be between 0 and 1, found {share}."
            raise ValueError(msg)


def _records(
    tests: GeneTests, genes: pd.Index, fields: list[str]
) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """Return the tests as scanpy keeps them, genes in the order of their scores, and shares.

    The shares [g, k] are of cells with each gene, in each group and out of it.
    """
    order = np.argsort(-tests.scores, axis=1, kind="stable")
    columns = {"scores": np.float32, "pvals": float, "pvals_adj": float}
    columns |= {"logfoldchanges": np.float32}
    values = {
        column: np.take_along_axis(getattr(tests, column), order, axis=1).astype(kind)
        for column, kind in columns.items()
    }
    ranked: dict[str, Any] = {
        column: pd.DataFrame(rows.T, columns=fields).to_records(index=False)
        for column, rows in {"names": genes.to_numpy(object)[order], **values}.items()
    }
    shares = {
        name: pd.DataFrame(getattr(tests, name).T, index=genes, columns=fields)
        for name in ("share_in", "share_out")
    }
    return ranked | {"pts": shares["share_in"], "pts_rest": shares["share_out"]}, shares


def _top(
    ranked: dict[str, Any],
    shares: dict[str, pd.DataFrame],
    names: list[str],
    *,
    n_top: int,
    min_share: float,
    min_logfoldchange: float,
    alpha: float,
) -> pd.DataFrame:
    """Return the top genes of each group, of these names, each gene where it scores best."""
    columns = {"gene": "names", "score": "scores", "logfoldchange": "logfoldchanges"}
    columns["pval_adj"] = "pvals_adj"
    tables = []
    for name, field in zip(names, ranked["names"].dtype.names, strict=True):
        table = pd.DataFrame({new: ranked[old][field] for new, old in columns.items()})
        for share, values in shares.items():
            table[share] = values[field].reindex(table["gene"]).to_numpy(np.float32)
        tables.append(table.assign(cluster=name))
    whole = pd.concat(tables, ignore_index=True)
    best = whole["score"] == whole.groupby("gene", observed=True)["score"].transform("max")
    good = best & (whole["score"] > 0) & (whole["logfoldchange"] >= min_logfoldchange)
    good &= (whole["pval_adj"] <= alpha) & (whole["share_in"] >= min_share)
    # A gene that scores the same in two groups stands under the first.
    listed = whole[good].drop_duplicates("gene").groupby("cluster", sort=False).head(n_top)
    listed = listed.reset_index(drop=True)
    listed["cluster"] = pd.Categorical(listed["cluster"], categories=names)
    return listed[["cluster", "gene", "score", "logfoldchange", "pval_adj", *shares]]


def _dipping(
    adata: AnnData, groupby: str, layer: str | None, clustered: str | None
) -> dict[str, str | bool]:
    """Return which counts were tested and which clustered, and whether p-values suffer."""
    tested = counts_name(adata, layer)
    clustered = _clustered(adata, groupby) if clustered is None else counts_name(adata, clustered)
    dipping = {tested, clustered} != _PARTNERS
    if not dipping:
        logger.info("groups are from %s, p-values from %s", clustered, tested)
    else:
        logger.info(
            "p-values of %s are too small if the groups of %r were found in the same counts "
            "(%s): they rank genes, they prove nothing; see `scs.pp.split_counts`",
            tested,
            groupby,
            "they were" if clustered == tested else f"found in: {clustered}",
        )
    return {"tested": tested, "clustered": clustered, "double_dipping": dipping}


def _clustered(adata: AnnData, groupby: str) -> str:
    """Return the counts that groups were found in, as their record says, or ``unknown``."""
    record = adata.uns.get(groupby)
    params = record.get("params", {}) if isinstance(record, dict) else {}
    # Features, neighbours, other groups and types from elsewhere may have seen all counts.
    elsewhere = {"use_rep", "neighbors_key", "restrict_to", "labels_key"} & set(params)
    if "layer" not in params or "manifest" not in record or elsewhere:
        return "unknown"
    proba = adata.obsm.get(f"{groupby}_proba")
    if proba is None or not origin(groups(adata, groupby), proba, params).kept:
        return "unknown"  # these groups are not, as far as can be told, those of the record
    layer = str(params["layer"])
    if split_of(adata, layer) != {k: int(v) for k, v in params.items() if k == "split_seed"}:
        return "unknown"  # the counts were split again since
    return counts_name(adata, layer)
