"""What is known of an object before a fit starts: what blocks it, what harms it, what it is."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scsiameseclu_jax.config import Config
from scsiameseclu_jax.preprocessing.batches import read_batches
from scsiameseclu_jax.preprocessing.blocks import Blocks, largest_count, settled
from scsiameseclu_jax.preprocessing.counts import other_counts
from scsiameseclu_jax.preprocessing.measures import digests
from scsiameseclu_jax.preprocessing.prepare import problems

_FEW = 10  # counts of a cell, below which it says nothing
_COPIED = 20  # genes of a cell that no two cells share, counts included, by chance
_SPARSE = 0.3  # share of values that are not zero, below which a dense matrix wastes memory
# Columns of `var` that hold names of genes, symbols first.
_NAMES = ("gene_symbols", "gene_symbol", "symbol", "feature_name", "gene_name", "gene_ids")
_LISTED = 8  # batches


class Finding(NamedTuple):
    """One thing that is known of an object before a fit."""

    severity: Literal["error", "warning", "note"]
    """``"error"`` blocks a fit, ``"warning"`` may harm it, ``"note"`` says what there is."""
    about: str
    """What it is about: ``"counts"``, ``"gene names"``, ``"depth"`` and the like."""
    found: str
    """What was found, in a sentence."""
    mend: str
    """The line that mends it, or takes what is named; empty if there is none."""

    def __str__(self) -> str:
        mend = f" Mend: {self.mend}" if self.mend else ""
        return f"{self.severity}, {self.about}: {self.found}{mend}"


def check(
    adata: AnnData,
    *,
    layer: str | None = "counts",
    use_rep: str | None = None,
    neighbors_key: str | None = None,
    batch_key: str | None = None,
    config: Config | None = None,
) -> list[Finding]:
    """Look at an object before a fit: what its matrix is, and what is wrong with it.

    What a fit would refuse is found by the code that refuses it. It takes about as long as to
    read the matrix a few times.

    Parameters
    ----------
    adata
        Cells x genes; not changed.
    layer, use_rep, neighbors_key, batch_key
        Where counts, features, links and batches would be read from, as in
        :func:`scsiameseclu_jax.tl.siameseclu`.
    config
        Settings of the fit; the defaults, if not given.

    Returns
    -------
    Findings, errors first, then warnings, then notes. A fit starts if there is no error.

    Raises
    ------
    TypeError
        If `adata` is no AnnData object.

    Examples
    --------
    >>> import numpy as np
    >>> import scsiameseclu_jax as scs
    >>> adata = scs.datasets.pbmc68k_reduced()
    >>> adata.layers["raw"] = adata.X.copy()
    >>> adata.X = np.log1p(adata.X)
    >>> blocking = scs.pp.check(adata)[0]
    >>> blocking.severity, blocking.about, blocking.mend
    ('error', 'counts', "layers['raw'] seems to hold counts: `layer='raw'`")
    """
    given = {"use_rep": use_rep, "neighbors_key": neighbors_key, "batch_key": batch_key}
    config = Config() if config is None else config
    adata = settled(adata)
    raw, errors = problems(adata, layer=layer, config=config, **given)
    found = [_blocking(about, error) for about, error in errors.items()]
    used = None if layer == "counts" and layer not in adata.layers else layer
    name = "X" if used is None else f"layers[{used!r}]"
    if raw is not None:
        found += _of_counts(adata, raw, used, name)
        found += _of_cells(adata, raw, name)
    for place, line in other_counts(adata, used).items():
        found.append(Finding("note", "counts", f"{place} holds counts; it is not used.", line))
    found += _of_names(adata)
    if batch_key is not None and "batch_key" not in errors:
        found.append(_of_batches(adata, batch_key))
    order = ("error", "warning", "note")
    return sorted(found, key=lambda finding: order.index(finding.severity))


def _blocking(about: str, error: Exception) -> Finding:
    """Return an error as a finding: what follows the semicolon is what to do."""
    found, _, mend = str(error.args[0] if error.args else error).rpartition("; ")
    return Finding("error", about, f"{found}.", mend.rstrip(".")) if found else _whole(about, mend)


def _whole(about: str, text: str) -> Finding:
    return Finding("error", about, text, "")


def _of_counts(
    adata: AnnData, raw: sp.csr_matrix | Blocks, layer: str | None, name: str
) -> list[Finding]:
    matrix = adata.X if layer is None else adata.layers[layer]
    dense, largest = isinstance(matrix, np.ndarray), largest_count(raw)
    share = raw.nnz / (raw.shape[0] * raw.shape[1])
    kind = "dense" if dense else f"sparse ({getattr(matrix, 'format', '')})"
    if isinstance(raw, Blocks):
        kind = f"on disk, read in {len(raw)} blocks"
    text = (
        f"{name} holds counts of {raw.shape[0]:,} cells x {raw.shape[1]:,} genes, {kind}, "
        f"{matrix.dtype}; {100 * share:.1f} % are not zero, the largest is {largest:,.0f}."
    )
    found = [Finding("note", "counts", text, "")]
    if largest == 1:
        text = f"{name} holds zeros and ones only: whether genes were seen, not how often."
        found.append(Finding("warning", "counts", text, ""))
    if dense and share < _SPARSE:
        line = f"adata.{name} = scipy.sparse.csr_matrix(adata.{name})"
        saved = 100 * _saved(raw, matrix)
        text = f"{name} is stored dense: sparse it would take {saved:.0f} % of that."
        found.append(Finding("note", "memory", text, f"`{line}`"))
    return found


def _saved(raw: sp.csr_matrix, matrix: Any) -> float:
    return (raw.data.nbytes + raw.indices.nbytes + raw.indptr.nbytes) / matrix.nbytes


def _of_cells(adata: AnnData, raw: sp.csr_matrix | Blocks, name: str) -> list[Finding]:
    totals, genes = np.asarray(raw.sum(axis=1), np.float64).ravel(), raw.getnnz(axis=1)
    low, middle, high = (f"{value:,.0f}" for value in np.quantile(totals, [0.01, 0.5, 0.99]))
    text = (
        f"Counts of a cell: median {middle}, 98 % of the cells from {low} to {high}; genes of a "
        f"cell: median {np.median(genes):,.0f}."
    )
    found = [Finding("note", "depth", text, "")]
    few = int(((totals > 0) & (totals < _FEW)).sum())
    if few:
        line = f"`adata = adata[np.asarray(adata.{name}.sum(axis=1)).ravel() >= {_FEW}].copy()`"
        text = f"{few} cells have fewer than {_FEW} counts, which say nothing of their type."
        found.append(Finding("warning", "depth", text, line))
    silent = int((raw.getnnz(axis=0) == 0).sum())
    if silent:
        text = f"{silent:,} of {adata.n_vars:,} genes have no counts; a fit leaves them out."
        found.append(Finding("note", "genes", text, ""))
    copies = _copies(raw)
    if copies.any():
        cell = adata.obs_names[int(copies.argmax())]
        text = (
            f"{int(copies.sum())} cells are copies of others, count by count, the first "
            f"{str(cell)!r}: was something read or joined twice?"
        )
        found.append(Finding("warning", "cells", text, ""))
    return found


def _copies(raw: sp.csr_matrix | Blocks) -> np.ndarray:
    """Return which cells [n] have all counts of a cell before, and enough of them."""
    seen: set[bytes] = set()
    copied = np.zeros(raw.shape[0], bool)
    cells = digests(raw)
    for row in np.flatnonzero(raw.getnnz(axis=1) >= _COPIED):
        copied[row] = cells[row] in seen
        seen.add(cells[row])
    return copied


def _of_names(adata: AnnData) -> list[Finding]:
    some = [str(names[0]) if len(names) else "" for names in (adata.obs_names, adata.var_names)]
    text = f"Cells have names like {some[0]!r}, genes like {some[1]!r}."
    found = [Finding("note", "names", text, "")]
    plain = pd.Series(adata.var_names.astype(str))
    line = _better_names(adata)
    if plain.tolist() in ([f"{kind}{i}" for i in range(len(plain))] for kind in ("", "gene_")):
        text = "Genes are named by position: they fit no marker list, and no other file."
        found.append(Finding("warning", "gene names", text, line))
    elif plain.str.match(r"ENS[A-Z]*\d{6,}").mean() > 0.5:
        text = "Genes are named by Ensembl identifiers; lists of marker genes have symbols."
        found.append(Finding("note", "gene names", text, line))
    return found


def _better_names(adata: AnnData) -> str:
    """Return the line that takes names of genes from ``var``, if it has any."""
    for column in _NAMES:
        if column not in adata.var:
            continue
        values = adata.var[column]
        if not values.isna().any() and not (values.astype(str) == adata.var_names).all():
            return f"`adata.var_names = adata.var[{column!r}].astype(str)`"
    return ""


def _of_batches(adata: AnnData, key: str) -> Finding:
    codes, names = read_batches(adata, key)
    sizes = np.bincount(codes)
    largest = np.argsort(-sizes, kind="stable")[:_LISTED]
    told = ", ".join(f"{names[i]!r} of {sizes[i]}" for i in largest)
    more = f" and {len(names) - _LISTED} smaller" if len(names) > _LISTED else ""
    text = f"obs[{key!r}] names {len(names)} batches: {told}{more} cells."
    return Finding("note", "batches", text, "")
