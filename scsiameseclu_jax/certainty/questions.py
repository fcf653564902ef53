"""Questions to the user about small groups of cells, as a table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scsiameseclu_jax.partition.questions import Pool, ask, choose
from scsiameseclu_jax.preprocessing import constraints
from scsiameseclu_jax.preprocessing.blocks import read_counts
from scsiameseclu_jax.preprocessing.counts import totals
from scsiameseclu_jax.preprocessing.neighbors import unit_rows
from scsiameseclu_jax.preprocessing.normalization import logarithm

_CELLS = 100  # of a group that are named: those nearest to its centre
_GENES = 5  # that tell a group from the other
_APART = 0.1  # difference of shares, of genes that are named if there are such
_LEAST = 0.05  # share of a cluster in a group from which it is named


def question_table(
    adata: AnnData,
    pool: Pool,
    embedding: np.ndarray,
    names: np.ndarray,
    answers: pd.DataFrame,
    *,
    layer: str | None,
    n: int,
) -> pd.DataFrame:
    """Return the next questions, a row each, the one that says most first.

    Parameters
    ----------
    adata
        The cells of the fit, with raw counts.
    pool
        Its candidates, cells in the same order.
    embedding
        [n, d] their embedding.
    names
        [n] name of the present cluster of each cell.
    answers
        Those that were given before, as :func:`constraints.find_answers` reads them.
    layer
        Where the counts are.
    n
        How many questions, at least 1.

    Returns
    -------
    ``cells_a`` and ``cells_b``, names of the cells of each group, of more than 100 those nearest to
    its centre; ``n_a`` and ``n_b``, how many it has; ``clusters_a`` and ``clusters_b``, where they
    are now; ``genes_a`` and ``genes_b``, genes that are higher in that group, with the share of its
    cells that express it and that of the other's, in %; ``together``, the share of the weight of
    the candidates that put both together; ``n_hinge``, cells whose cluster depends on the answer;
    ``if_yes`` and ``if_no``, cells that would move; ``answer``, empty.
    """
    number: object = n
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or n < 1:
        msg = f"Expected `n` to be a number of questions, at least 1, found {n!r}."
        raise ValueError(msg)
    known = constraints.find_answers(adata, answers)
    raw, unit = read_counts(adata, layer=layer), unit_rows(embedding)
    present = choose(pool, known).clusters
    rows = []
    for question in ask(pool, known, n=n):
        one, two = (_typical(unit, cells) for cells in question.cells)
        genes = _telling_apart(raw[np.r_[one, two]], len(one), adata.var_names)
        if_yes, if_no = question.if_same, question.if_different
        rows.append(
            {
                "cells_a": adata.obs_names[one].tolist(),
                "cells_b": adata.obs_names[two].tolist(),
                "n_a": len(question.cells[0]),
                "n_b": len(question.cells[1]),
                "clusters_a": _where(names[question.cells[0]]),
                "clusters_b": _where(names[question.cells[1]]),
                "genes_a": genes[0],
                "genes_b": genes[1],
                "together": round(question.together, 3),
                "n_hinge": int((if_yes != if_no).sum()),
                "if_yes": int((if_yes != present).sum()),
                "if_no": int((if_no != present).sum()),
                "answer": "",
            }
        )
    return pd.DataFrame(rows, columns=_COLUMNS)


def consequence(if_yes: int, if_no: int) -> str:
    """Return a sentence on how many cells an answer would move.

    Examples
    --------
    >>> consequence(43, 0)
    'If yes, 43 cells change cluster; if no, none.'
    >>> consequence(0, 1)
    'If yes, no cell changes cluster; if no, 1.'
    """
    many = {0: "no cell changes", 1: "1 cell changes"}.get(if_yes, f"{if_yes:,} cells change")
    return f"If yes, {many} cluster; if no, {f'{if_no:,}' if if_no else 'none'}."


# First what is read, last what is not.
_COLUMNS = ["genes_a", "genes_b", "answer", "n_a", "n_b", "clusters_a", "clusters_b"]
_COLUMNS += ["if_yes", "if_no", "n_hinge", "together", "cells_a", "cells_b"]


def _typical(unit: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Return the rows of a group's cells that are nearest to its centre, ascending."""
    near = unit[cells] @ unit[cells].mean(axis=0)
    return np.sort(cells[np.argsort(-near, kind="stable")[:_CELLS]])


def _where(names: np.ndarray) -> str:
    """Return the clusters that cells are in, with shares if there are several."""
    clusters, sizes = np.unique(names.astype(str), return_counts=True)
    shares = sizes / sizes.sum()
    few = [i for i in np.argsort(-shares, kind="stable") if shares[i] >= _LEAST]
    if len(few) == 1:
        return str(clusters[few[0]])
    return ", ".join(f"{clusters[i]} ({shares[i]:.0%})" for i in few)


def _telling_apart(raw: Any, n_first: int, genes: pd.Index) -> tuple[str, str]:
    """Name the genes that differ most between the first cells and the others, by Welch's t.

    Each with the share of cells, in %, that express it in its own and in the other group.
    """
    depths = np.maximum(totals(raw), 1)
    logged = logarithm(raw, depths / np.median(depths))
    parts = logged[:n_first], logged[n_first:]
    means = [np.asarray(part.mean(axis=0)).ravel() for part in parts]
    squares = [np.asarray(part.multiply(part).mean(axis=0)).ravel() for part in parts]
    shares = [part.getnnz(axis=0) / part.shape[0] for part in parts]
    errors = [
        np.maximum(square - mean**2, 0) / max(part.shape[0] - 1, 1)
        for part, mean, square in zip(parts, means, squares, strict=True)
    ]
    # a little variance for genes that do not vary among few cells
    t = (means[0] - means[1]) / np.sqrt(errors[0] + errors[1] + 1e-2 / len(depths))
    texts = []
    for sign, own, other in ((1, *shares), (-1, *shares[::-1])):
        order = [i for i in np.argsort(-sign * t, kind="stable") if sign * t[i] > 0]
        # a gene that all cells express says little to who reads the shares
        best = [i for i in order if own[i] - other[i] >= _APART][:_GENES] or order[:_GENES]
        texts.append(", ".join(f"{genes[i]} ({own[i]:.0%}, {other[i]:.0%})" for i in best))
    return texts[0], texts[1]
