"""Cells of several batches: centred within each, and linked across them.

This takes away what shifts all cells of a batch alike. Where the batches hold very different cells,
an integration method (Harmony, scVI) and its embedding as ``use_rep`` can do better.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
from anndata import AnnData

from scsiameseclu_jax.checks import check_column, names_in
from scsiameseclu_jax.preprocessing.neighbors import nearest_in, nearest_neighbors, unit_rows

logger = logging.getLogger(__name__)

_LEAST = 3  # neighbours of a cell in each batch, as in bbknn
_TIE = 1e-6  # cosines are as good as equal: a cell that is prepared anew differs by rounding


class Batches(NamedTuple):
    """Which batches the cells of a fit came from, and where each lay."""

    key: str
    """Column of ``obs``."""
    names: list[str]
    """[b] batches."""
    means: np.ndarray
    """[b, p] mean features of each, which are taken from its cells."""
    codes: np.ndarray
    """[n] batch of each cell of the fit, as a position in the names."""


def read_batches(adata: AnnData, key: str) -> tuple[np.ndarray, list[str]]:
    """Return the batch [n] of each cell, as a position in the sorted names, and the names.

    Raises
    ------
    KeyError
        If ``obs`` has no such column.
    ValueError
        If cells have none, there is one batch only, or a batch has fewer than four cells.
    """
    names = batch_names(adata, key)
    batches, codes = np.unique(names, return_inverse=True)
    if len(batches) < 2:
        msg = f"Expected obs[{key!r}] to name two batches or more, found {list(batches)}."
        raise ValueError(msg)
    _check_sizes(names, key)
    return codes, [str(name) for name in batches]


def batch_names(adata: AnnData, key: str) -> np.ndarray:
    """Return the name [n] of each cell's batch.

    Raises
    ------
    KeyError
        If ``obs`` has no such column.
    ValueError
        If cells have none.
    """
    check_column("batch_key", key, adata)
    names = names_in(adata.obs[key], f"A batch of obs[{key!r}]")
    missing = int(adata.obs[key].isna().sum())
    if missing:
        msg = f"Expected a batch for every cell in obs[{key!r}], found {missing} none."
        raise ValueError(msg)
    return names


def _check_sizes(names: np.ndarray, key: str) -> None:
    """Check that no batch is too small to be centred by its own cells."""
    batches, sizes = np.unique(names, return_counts=True)
    if sizes.size and sizes.min() <= _LEAST:
        msg = (
            f"Expected more than {_LEAST} cells in each batch of obs[{key!r}], found "
            f"{sizes.min()} in {batches[sizes.argmin()]!r}; leave it out or join it to another."
        )
        raise ValueError(msg)


def center(features: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return features [n, p] less the mean of each cell's batch, and the means [b, p]."""
    sizes = np.bincount(codes)
    means = np.zeros((len(sizes), features.shape[1]))
    np.add.at(means, codes, features)
    means /= sizes[:, None]
    return features - means[codes], means


def read_new_batches(adata: AnnData, batches: Batches) -> np.ndarray:
    """Return the batch [m] of each new cell: a position in the fit's names, or past their end.

    Batches that the fit does not know get the numbers b, b + 1 and so on.

    Raises
    ------
    KeyError, ValueError
        If ``obs`` lacks the fit's column, cells have no batch, or a batch that the fit does not
        know has fewer than four cells: less their own mean, they would all look alike.
    """
    names = batch_names(adata, batches.key)
    unknown = sorted(set(names) - set(batches.names))
    _check_sizes(names[np.isin(names, unknown)], batches.key)
    if unknown:
        logger.warning(
            "batches that the model does not know are centred by themselves, which assumes "
            "that their cells are of the same kinds: %s",
            ", ".join(unknown[:5]),
        )
    position = {name: code for code, name in enumerate([*batches.names, *unknown])}
    return np.array([position[name] for name in names])


def center_new(features: np.ndarray, codes: np.ndarray, batches: Batches) -> np.ndarray:
    """Return features [m, p] of new cells less the mean of each one's batch.

    That is the fit's mean if it knows the batch, else the mean of the new cells.

    Parameters
    ----------
    features
        [m, p] features of new cells.
    codes
        [m] their batches, from :func:`read_new_batches`.
    batches
        Those of the fit.
    """
    centered = np.array(features, np.float64)
    for code in np.unique(codes):
        rows = codes == code
        known = code < len(batches.names)
        centered[rows] -= batches.means[code] if known else centered[rows].mean(axis=0)
    return centered


def balanced_neighbors(
    features: np.ndarray, n_neighbors: int, codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the links [m] from every cell to its nearest neighbours in each batch, by cosine.

    Links across batches are kept where they are mutual: a kind of cells that one batch lacks is
    not tied to another kind there.

    Parameters
    ----------
    features
        [n, p] features.
    n_neighbors
        Neighbours of each cell in all batches together; at least three in each.
    codes
        [n] batch of each cell, 0 to b - 1.

    Returns
    -------
    Neighbours and cells, both [m].

    References
    ----------
    Polanski et al., Bioinformatics 2020 (balance); Haghverdi et al., Nature Biotechnology 2018
    (mutual neighbours).
    """
    n = len(features)
    members = _members(codes)
    each = _in_each(n_neighbors, len(members))
    within, across = [], []
    for rows in members:
        if len(rows) > 1:
            neighbors, cells = nearest_neighbors(features[rows], each)
            within.append((rows[neighbors], rows[cells]))
        others = np.setdiff1d(np.arange(n), rows)
        if not len(others):  # some of the cells, by chance of one batch only
            return within[0]
        nearest = nearest_in(features[rows], features[others], each)
        across.append((rows[nearest].ravel(), np.repeat(others, nearest.shape[1])))
    senders, receivers = (np.concatenate(ends) for ends in zip(*across, strict=True))
    mutual = np.isin(senders * n + receivers, receivers * n + senders)
    within.append((senders[mutual], receivers[mutual]))
    senders, receivers = (np.concatenate(ends) for ends in zip(*within, strict=True))
    return senders, receivers


def balanced_neighbors_in(
    features: np.ndarray,
    codes: np.ndarray,
    others: np.ndarray,
    other_codes: np.ndarray,
    n_neighbors: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest cells of a fit in each batch to new cells, and which of them are linked.

    The rule is that of :func:`balanced_neighbors`. A new cell is linked to the nearest cells of its
    own batch, and across batches where that is mutual: where it is nearer to the known cell than
    the last of that cell's neighbours in the new cell's batch. Only cells of the fit are compared
    with, so no cell's links depend on which others are new. A cell of a batch that the fit does not
    know is linked to the nearest cells of every batch: nobody can say what is mutual.

    Parameters
    ----------
    features
        [n, p] features of the cells of the fit.
    codes
        [n] their batches, 0 to b - 1.
    others
        [m, p] features of new cells.
    other_codes
        [m] their batches; b or more if the fit does not know them.
    n_neighbors
        As in :func:`balanced_neighbors`.

    Returns
    -------
    Rows [m, k] of the nearest cells, one batch after the other, and their weights [m, k]: 1 for a
    link, 0 for none.
    """
    members = _members(codes)
    each = _in_each(n_neighbors, len(members))
    nearest = [rows[nearest_in(features[rows], others, each)] for rows in members]
    neighbors = np.concatenate(nearest, axis=1)
    weights = np.ones(neighbors.shape)
    unit, unit_others = (unit_rows(np.asarray(x, np.float64)) for x in (features, others))
    for batch, rows in enumerate(members):
        new = np.flatnonzero(other_codes == batch)
        if not len(new):
            continue
        known, which = np.unique(neighbors[new], return_inverse=True)
        which = which.reshape(neighbors[new].shape)  # flat in older versions of numpy
        last = rows[nearest_in(features[rows], features[known], each)[:, -1]]
        reach = np.einsum("ij,ij->i", unit[known], unit[last])
        for place, near in enumerate(neighbors[new].T):
            cosine = np.einsum("ij,ij->i", unit[near], unit_others[new])
            mutual = cosine >= reach[which[:, place]] - _TIE
            weights[new, place] = mutual | (codes[near] == batch)
    return neighbors, weights


def _members(codes: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each batch."""
    return [np.flatnonzero(codes == batch) for batch in range(codes.max() + 1)]


def _in_each(n_neighbors: int, n_batches: int) -> int:
    """Return how many neighbours a cell has in each batch."""
    return max(_LEAST, -(-n_neighbors // n_batches))
