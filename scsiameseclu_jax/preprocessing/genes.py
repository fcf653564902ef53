"""Genes by name: which gene of one list is which of another, and counts brought to it."""

from __future__ import annotations

import re

import numpy as np
import scipy.sparse as sp

_VERSION = re.compile(r"^(ENS[A-Z]*\d+)\.\d+$")


def align(names: list[str], wanted: list[str]) -> np.ndarray:
    """Find for each name the wanted gene that it names.

    As it stands, else without regard to case and to the version of an Ensembl identifier, where
    that leaves no doubt.

    Parameters
    ----------
    names
        [a] names of genes, some perhaps twice.
    wanted
        [b] names, each once.

    Returns
    -------
    [a] position in `wanted`, -1 for genes that are not wanted.
    """
    exact = {name: i for i, name in enumerate(wanted)}
    taken = set(names) & set(exact)
    loose: dict[str, int] = {}
    for i, name in enumerate(wanted):
        if name not in taken:
            key = plain(name)
            loose[key] = -1 if key in loose else i
    return np.array([exact.get(name, loose.get(plain(name), -1)) for name in names], dtype=int)


def plain(name: str) -> str:
    """Return a gene's name without regard to case and to the version of an Ensembl identifier."""
    upper = name.upper()
    match = _VERSION.match(upper)
    return match.group(1) if match else upper


def to_genes(raw: sp.csr_matrix, positions: np.ndarray, n_genes: int) -> sp.csr_matrix:
    """Return counts [m, b] of other genes, those of a gene that is there twice added up.

    Parameters
    ----------
    raw
        [m, a] counts.
    positions
        [a] position of each gene among the others, from :func:`align`; -1 for none.
    n_genes
        Number b of others.
    """
    return sp.csr_matrix(raw.astype(np.float64) @ gene_map(positions, n_genes))


def gene_map(positions: np.ndarray, n_genes: int) -> sp.csr_matrix:
    """Return 1 [a, b] where a gene is one of others; for the parameters see :func:`to_genes`."""
    here = np.flatnonzero(positions >= 0)
    shape = len(positions), n_genes
    return sp.csr_matrix((np.ones(len(here)), (here, positions[here])), shape=shape)
