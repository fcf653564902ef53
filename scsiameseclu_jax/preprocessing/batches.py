"""Cells of several batches: centred within each, and linked across them.

This takes away what shifts all cells of a batch alike. Where the batches hold very different cells,
an integration method (Harmony, scVI) and its embedding as ``use_rep`` can do better.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
from anndata import AnnData

from scsiameseclu_jax.preprocessing.neighbors import nearest_in, nearest_neighbors

logger = logging.getLogger(__name__)

_LEAST = 3  # neighbours of a cell in each batch, as in bbknn


class Batches(NamedTuple):
    """Which batches the cells of a fit came from, and where each lay."""

    key: str
    """Column of ``obs``."""
    names: list[str]
    """[b] batches."""
    means: np.ndarray
    """[b, p] mean features of each, which are taken from its cells."""


def read_batches(adata: AnnData, key: str) -> tuple[np.ndarray, list[str]]:
    """Return the batch [n] of each cell, as a position in the sorted names, and the names.

    Raises
    ------
    KeyError
        If ``obs`` has no such column.
    ValueError
        If cells have none, there is one batch only, or a batch has fewer than four cells.
    """
    names = _column(adata, key)
    found, codes, sizes = np.unique(names, return_inverse=True, return_counts=True)
    if len(found) < 2:
        msg = f"Expected obs[{key!r}] to name two batches or more, found {list(found)}."
        raise ValueError(msg)
    if sizes.min() <= _LEAST:
        msg = (
            f"Expected more than {_LEAST} cells in each batch of obs[{key!r}], found "
            f"{sizes.min()} in {found[sizes.argmin()]!r}; leave it out or join it to another."
        )
        raise ValueError(msg)
    return codes, [str(name) for name in found]


def center(features: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return features [n, p] less the mean of each cell's batch, and the means [b, p]."""
    sizes = np.bincount(codes)
    means = np.zeros((len(sizes), features.shape[1]))
    np.add.at(means, codes, features)
    means /= sizes[:, None]
    return features - means[codes], means


def center_new(features: np.ndarray, adata: AnnData, batches: Batches) -> np.ndarray:
    """Return features [m, p] of new cells less the mean of each one's batch.

    That is the fit's mean if it knows the batch, else the batch's own.

    Raises
    ------
    KeyError, ValueError
        If ``obs`` lacks the fit's column, or cells have no batch.
    """
    names = _column(adata, batches.key)
    made = np.asarray(features, np.float64).copy()
    known = dict(zip(batches.names, batches.means, strict=True))
    unknown = sorted(set(names) - set(known))
    for name in np.unique(names):
        rows = names == name
        made[rows] -= known[name] if name in known else made[rows].mean(axis=0)
    if unknown:
        logger.warning(
            "batches that the model does not know are centred by themselves, which assumes "
            "that their cells are of the same kinds: %s",
            ", ".join(unknown[:5]),
        )
    return made


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
    members = [np.flatnonzero(codes == batch) for batch in range(codes.max() + 1)]
    each = max(_LEAST, -(-n_neighbors // len(members)))
    own, across = [], []
    for rows in members:
        if len(rows) > 1:
            neighbors, cells = nearest_neighbors(features[rows], each)
            own.append((rows[neighbors], rows[cells]))
        others = np.setdiff1d(np.arange(n), rows)
        if not len(others):  # some of the cells, by chance of one batch only
            return own[0]
        found = nearest_in(features[rows], features[others], each)
        across.append((rows[found].ravel(), np.repeat(others, found.shape[1])))
    senders, receivers = (np.concatenate(ends) for ends in zip(*across, strict=True))
    mutual = np.isin(senders * n + receivers, receivers * n + senders)
    own.append((senders[mutual], receivers[mutual]))
    senders, receivers = (np.concatenate(ends) for ends in zip(*own, strict=True))
    return senders, receivers


def _column(adata: AnnData, key: str) -> np.ndarray:
    if key not in adata.obs:
        msg = f"Expected `batch_key` to be one of obs columns {sorted(adata.obs)}, found {key!r}."
        raise KeyError(msg)
    column = adata.obs[key]
    if column.isna().any():
        msg = f"Expected a batch for every cell in obs[{key!r}], found {column.isna().sum()} none."
        raise ValueError(msg)
    return column.astype(str).to_numpy()
