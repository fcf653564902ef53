"""What is read of an AnnData object: its counts, checked, and parts of it in memory."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scsiameseclu_jax.checks import check_anndata, sorted_names


def in_memory(adata: AnnData) -> AnnData:
    """Return a copy in memory, also of an object on disk or of a part of one."""
    return adata.to_memory() if adata.isbacked else adata.copy()


def layer_of(adata: AnnData, name: str) -> str | None:
    """Return the `layer` that a name stands for in a record: "X" is X, if no layer is called so."""
    return None if name == "X" and "X" not in adata.layers else name


def totals(raw: sp.csr_matrix) -> np.ndarray:
    """Return the total counts [n] of cells, float64: in float32 a sum stands still from 2^24 on."""
    found = np.zeros(raw.shape[0])
    some = np.flatnonzero(np.diff(raw.indptr))
    if some.size:
        values = raw.data[: raw.indptr[-1]]
        found[some] = np.add.reduceat(values, raw.indptr[some], dtype=np.float64)
    return found


# What is left of no name once AnnData has made text of it, and names unique: numbers by place,
# which mean another gene in each object.
_NAMELESS = r"(nan|None|<NA>)?([-_.]\d+)?"
_NO_NAME = ("nan", "None", "<NA>")


def gene_names(adata: AnnData) -> list[str]:
    """Return the names of the genes, "" of those without: they are no genes that others know.

    A single gene may be called "nan", as one of the fruit fly is.
    """
    names = ["" if pd.isna(name) else str(name) for name in adata.var_names]
    nameless = {name for name in names if re.fullmatch(_NAMELESS, name)}
    for word in _NO_NAME:
        if not any(name.startswith(word) for name in nameless - {word}) and names.count(word) < 2:
            nameless.discard(word)
    return ["" if name in nameless else name for name in names]


def check_genes(adata: AnnData) -> None:
    """Check that every gene has a name, and each its own.

    Raises
    ------
    ValueError
        If not.
    """
    n = gene_names(adata).count("")
    if n:
        msg = (
            f"Expected a name for every gene in `var_names`, found {n} without (or with a number "
            "in place of one); give them names there, their identifiers for example, or leave them "
            f"out: `adata = adata[:, ~adata.var_names.fillna('').str.fullmatch(r'{_NAMELESS}')]"
            ".copy()`."
        )
        raise ValueError(msg)
    _check_unique(adata.var_names, "gene", "var_names_make_unique")


def check_cells(adata: AnnData) -> None:
    """Check that every cell has a name, and each its own.

    Raises
    ------
    ValueError
        If not.
    """
    n = int(adata.obs_names.isna().sum())
    if n:
        msg = (
            f"Expected a name for every cell in `obs_names`, found {n} without; give them names, "
            "numbers for example: `adata.obs_names = [str(i) for i in range(adata.n_obs)]`."
        )
        raise ValueError(msg)
    _check_unique(adata.obs_names, "cell", "obs_names_make_unique")


def _check_unique(names: pd.Index, kind: str, remedy: str) -> None:
    if not names.is_unique:
        example = names[names.duplicated()][0]
        msg = f"Expected unique {kind} names, found {example!r} twice; call `adata.{remedy}()`."
        raise ValueError(msg)


def counts(adata: AnnData, *, layer: str | None = "counts") -> sp.csr_matrix:
    """Return the raw counts after checking that they are raw counts.

    Parameters
    ----------
    adata
        Cells x genes.
    layer
        ``"counts"`` is ``layers["counts"]`` if there is one, else ``X``; another name must
        exist; None is ``X``. ``.raw`` is never read.

    Returns
    -------
    [n, g] of any type of number, non-negative whole numbers.

    Raises
    ------
    KeyError
        If there is no such layer.
    ValueError
        If X is asked for and there is a layer of that name; if the matrix is empty, has negative,
        infinite or missing values, or does not hold counts: the message says what it looks like
        instead.
    TypeError
        If the matrix is in a format that is not supported.
    """
    check_anndata(adata)
    if layer is None and "X" in adata.layers:
        msg = (
            "Expected no layer called 'X', which results could not tell from X itself; name "
            "that layer otherwise, or give it as `layer`."
        )
        raise ValueError(msg)
    if layer == "counts" and layer not in adata.layers:
        layer = None
    if layer is not None and layer not in adata.layers:
        found = sorted_names(name for name in adata.layers if name is not None)
        msg = f"Expected `layer` to be one of {found}, found {layer!r}."
        raise KeyError(msg)
    name = "X" if layer is None else f"layers[{layer!r}]"
    if min(adata.shape) == 0:
        msg = f"Expected cells and genes, found a matrix of shape {adata.shape}."
        raise ValueError(msg)
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        msg = f"Expected counts in {name}, found None; name the layer that holds them."
        raise ValueError(msg)
    if not (sp.issparse(matrix) or isinstance(matrix, np.ndarray)):
        msg = (
            f"Expected {name} to be a numpy array or scipy sparse matrix, found "
            f"{type(matrix).__name__}; load it into memory first (`adata.to_memory()`)."
        )
        raise TypeError(msg)
    if matrix.dtype.kind not in "buif":
        msg = f"Expected {name} to hold numbers, found dtype {matrix.dtype}."
        raise ValueError(msg)
    canonical = _canonical(matrix)
    _check_counts(canonical.data, name)
    if canonical.data.size == 0 or canonical.data.max() == 0:
        msg = f"Expected counts in {name}, found only zeros."
        raise ValueError(msg)
    return canonical


def _canonical(matrix: np.ndarray | sp.spmatrix) -> sp.csr_matrix:
    """Return CSR of a native type, sorted, without zeros; what was passed is never changed."""
    small = {"?": np.uint8, "e": np.float32}.get(matrix.dtype.char, matrix.dtype.newbyteorder("="))
    canonical = sp.csr_matrix(matrix.astype(small, copy=False))
    if not canonical.has_canonical_format or not canonical.data.all():
        canonical = canonical.copy()  # it may share its memory with the one it was made from
        canonical.sum_duplicates()
        canonical.eliminate_zeros()
    return canonical


def _check_counts(values: np.ndarray, name: str) -> None:
    advice = "pass the layer that holds raw counts, for example `layer='counts'`"
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        msg = f"Expected finite counts in {name}, found {bad} values that are NaN or infinite."
        raise ValueError(msg)
    whole = bool((values == np.rint(values)).all())
    if values.size and values.min() < 0:
        looks = "some are negative" if whole else "some are negative: it looks scaled"
        msg = f"Expected non-negative counts in {name}, found {looks}; {advice}."
        raise ValueError(msg)
    if not whole:
        looks = "log-normalised" if values.max() < 30 else "normalised but not logarithmic"
        msg = f"Expected whole counts in {name}, found fractions: it looks {looks}; {advice}."
        raise ValueError(msg)
