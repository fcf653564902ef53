"""What is read of an AnnData object: its counts, checked, and parts of it in memory."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scsiameseclu_jax.checks import check_anndata, sorted_names
from scsiameseclu_jax.inputs import check_sparse

_MOST = 2**31 - 1  # of a count: no cell has as many molecules
_EVEN = 1e-3  # totals of normalised cells differ by rounding only
_WHOLE = 0.1  # share of whole values of which fractional counts have more, logarithms less


def in_memory(adata: AnnData) -> AnnData:
    """Return a copy in memory, also of an object on disk or of a part of one.

    Raises
    ------
    ValueError
        If the sparse structure of what a part is cut from is damaged.
    """
    if adata.is_view and not adata.isbacked:
        for name in [None, *(name for name in adata.layers if name is not None)]:
            _check_whole(adata, name, "X" if name is None else f"layers[{name!r}]")
    return adata.to_memory() if adata.isbacked else adata.copy()


def layer_of(adata: AnnData, name: str) -> str | None:
    """Return the `layer` that a name stands for in a record: "X" is X, if no layer is called so."""
    return None if name == "X" and "X" not in adata.layers else name


def totals(raw: Any) -> np.ndarray:
    """Return the total counts [n] of cells, float64: in float32 a sum stands still from 2^24 on.

    Of CSR counts [n, g], or of counts in blocks, which know them.
    """
    if not sp.issparse(raw):
        return raw.sum(axis=1).copy()
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


def check_gene_names(adata: AnnData) -> None:
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


def check_cell_names(adata: AnnData) -> None:
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
        instead, and where counts may be; if its sparse structure is damaged.
    TypeError
        If the matrix is in a format that is not supported.
    """
    matrix, name = matrix_of(adata, layer)
    if not _is_matrix(matrix):
        remedy = "load it into memory first (`adata.to_memory()`)"
        if isinstance(matrix, np.ma.MaskedArray):
            remedy = "fill what is masked (`.filled(0)`, if that is no counts)"
        msg = (
            f"Expected {name} to be a numpy array or scipy sparse matrix, found "
            f"{type(matrix).__name__}; {remedy}."
        )
        raise TypeError(msg)
    check_numbers(matrix, name)
    found = canonical(matrix)
    check_counts(*irregular(found), name, adata, layer)
    if found.data.size == 0 or found.data.max() == 0:
        msg = f"Expected counts in {name}, found only zeros."
        raise ValueError(msg)
    return found


def matrix_of(adata: AnnData, layer: str | None) -> tuple[Any, str]:
    """Return the matrix that counts are to be in, and its name; for the errors see :func:`counts`.

    It may be of any kind, and hold anything.
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
    _check_whole(adata, layer, name)
    matrix = _matrix(adata, layer)
    if matrix is None:
        found = [*other_counts(adata, layer).values()]
        msg = f"Expected counts in {name}, found that the object has no {name}; "
        msg += f"counts are elsewhere: {found[0]}." if found else "it holds counts nowhere."
        raise ValueError(msg)
    return matrix, name


def check_numbers(matrix: Any, name: str) -> None:
    """Raise ValueError if a matrix does not hold real numbers."""
    if matrix.dtype.kind not in "buif":
        msg = f"Expected {name} to hold numbers, found dtype {matrix.dtype}."
        raise ValueError(msg)


def _matrix(adata: AnnData, layer: str | None) -> Any:
    return adata.X if layer is None else adata.layers[layer]


def _is_matrix(matrix: Any) -> bool:
    array = isinstance(matrix, np.ndarray) and not isinstance(matrix, np.ma.MaskedArray)
    return array or sp.issparse(matrix)


def _check_whole(adata: AnnData, layer: str | None, name: str) -> None:
    """Check the sparse structure of a matrix; of a view that of its parent, before it is cut."""
    parent = getattr(adata, "_adata_ref", None)
    matrix = _matrix(adata if parent is None else parent, layer)
    if sp.issparse(matrix):
        check_sparse(matrix, name)


def canonical(matrix: np.ndarray | sp.spmatrix) -> sp.csr_matrix:
    """Return CSR of a native type, sorted, without zeros; what was passed is never changed."""
    small: dict[str, Any] = {"?": np.uint8, "e": np.float32, "g": np.float64}
    kind = small.get(matrix.dtype.char, matrix.dtype.newbyteorder("="))
    found = sp.csr_matrix(matrix.astype(kind, copy=False))
    check_sparse(found, "the matrix")  # made of a format whose parts are not checked
    if not found.has_canonical_format or not found.data.all():
        found = found.copy()  # it may share its memory with the one it was made from
        found.sum_duplicates()
        found.eliminate_zeros()
    return found


def irregular(matrix: sp.csr_matrix) -> tuple[int, str]:
    """Return how many values of a matrix are not finite; if none, what they look like."""
    n_bad = int((~np.isfinite(matrix.data)).sum())
    return n_bad, "" if n_bad else looks_like(matrix)


def check_counts(n_bad: int, looks: str, name: str, adata: AnnData, layer: str | None) -> None:
    """Raise ValueError for what :func:`irregular` has found, if it is anything."""
    if n_bad:
        msg = f"Expected finite counts in {name}, found {n_bad} values that are NaN or infinite."
        raise ValueError(msg)
    if not looks:
        return
    wanted = "non-negative" if looks.startswith("some are negative") else "whole"
    if looks.startswith("values up to"):
        wanted = "plausible"
    msg = f"Expected {wanted} counts in {name}, found {looks}; {_advice(adata, layer)}."
    raise ValueError(msg)


def looks_like(matrix: sp.csr_matrix) -> str:
    """Return what finite values look like, if they are no counts; empty if they may be.

    Parameters
    ----------
    matrix
        [n, g] finite values.
    """
    values = matrix.data
    if not values.size:
        return ""
    whole = values == np.rint(values)
    if values.min() < 0:
        return "some are negative" if whole.all() else "some are negative: it looks scaled"
    if whole.all():
        return f"values up to {values.max():.3g}" if values.max() > _MOST else ""
    largest, fractions = values.max(), "fractions: it looks"
    if _even(matrix):
        return f"{fractions} normalised but not logarithmic"
    if largest < 30:
        linear = sp.csr_matrix((np.expm1(values), matrix.indices, matrix.indptr), matrix.shape)
        if _even(linear):
            return f"{fractions} log-normalised"
    if whole.mean() > _WHOLE:
        return f"{fractions} like fractional counts, of RSEM or SoupX, say"
    return f"{fractions} {'log-normalised' if largest < 30 else 'normalised but not logarithmic'}"


def _even(matrix: sp.csr_matrix) -> bool:
    """Whether all cells have the same total, but for those that have none."""
    totals = np.asarray(matrix.sum(axis=1), np.float64).ravel()
    totals = totals[totals > 0]
    return bool(len(totals) > 1 and totals.max() - totals.min() < _EVEN * totals.max())


def _advice(adata: AnnData, layer: str | None) -> str:
    """Return where the counts may be, in words that end with the line that takes them."""
    for place, line in other_counts(adata, layer).items():
        return f"{place} seems to hold counts: {line}"
    if any(name is not None for name in adata.layers):
        return "pass the layer that holds raw counts, for example `layer='counts'`"
    return (
        "this object holds no raw counts: go back to the file as it came, Cell Ranger's "
        "filtered_feature_bc_matrix.h5, say, and keep them before you normalise, "
        "`adata.layers['counts'] = adata.X.copy()`"
    )


def other_counts(adata: AnnData, layer: str | None) -> dict[str, str]:
    """Return where else counts may be, and the line that takes them from there.

    Parameters
    ----------
    adata
        Cells x genes.
    layer
        The layer that is looked at already; None for ``X``.
    """
    found = {
        ("X" if name is None else f"layers[{name!r}]"): f"`layer={name!r}`"
        for name in [None, *(name for name in adata.layers if name is not None)]
        if name != layer and _holds_counts(_matrix(adata, name))
    }
    if adata.raw is not None and _holds_counts(adata.raw.X):
        line = "`adata.layers['counts'] = adata.raw[:, adata.var_names].X`"
        if not adata.var_names.isin(adata.raw.var_names).all():
            line = "`adata = adata.raw.to_adata()`"
        found[".raw"] = line
    return found


def _holds_counts(matrix: Any) -> bool:
    if not _is_matrix(matrix) or matrix.dtype.kind not in "buif" or matrix.ndim != 2:
        return False
    values = matrix.data if sp.issparse(matrix) else matrix
    if not isinstance(values, np.ndarray) or not values.size or not np.isfinite(values).all():
        return False
    low, high = values.min(), values.max()
    return bool(low >= 0 and 0 < high <= _MOST and (values == np.rint(values)).all())
