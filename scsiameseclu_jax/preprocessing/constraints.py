"""Constraints: cells that the user knows to be of one cluster, or of two.

Pairs of cells, and answers to questions about groups of cells. The only door through which such
knowledge enters; nothing is drawn from labels.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from scipy.sparse.csgraph import connected_components
from scipy.special import softmax

from scsiameseclu_jax.config import shown

ConstraintsLike: TypeAlias = Sequence[Sequence[str]] | np.ndarray | pd.DataFrame
"""Pairs of names in ``obs_names``, [m, 2]."""

OPTIONS = {"must_link": True, "cannot_link": False}


class Constraints(NamedTuple):
    """Pairs of cells, and whether they belong together."""

    rows: np.ndarray
    """[m, 2] rows of the two cells."""
    linked: np.ndarray
    """[m] True for cells of one cluster, False for cells of two."""


YES, NO, UNSURE = "yes", "no", "unsure"
_ANSWERS = {YES: 1, "y": 1, "true": 1, NO: 0, "n": 0, "false": 0, UNSURE: -1, "u": -1}
_OPEN = ("", "nan", "none", "<na>")


class Answers(NamedTuple):
    """What the user said of pairs of groups of cells: whether they are of one type."""

    first: list[np.ndarray]
    """Rows of the cells of the one group of each question."""
    second: list[np.ndarray]
    """Those of the other."""
    same: np.ndarray
    """[q] 1 if they are of one type, 0 if not, -1 if the user was not sure; int8."""


def find_constraints(
    adata: AnnData,
    must_link: ConstraintsLike | None = None,
    cannot_link: ConstraintsLike | None = None,
) -> Constraints | None:
    """Find the cells of constraints by their names; each pair once, None if there are none.

    Parameters
    ----------
    adata
        The cells; only ``obs_names`` are looked at.
    must_link, cannot_link
        [m, 2] names of cells that belong to one cluster, and to different ones.

    Raises
    ------
    KeyError
        If there are no such cells.
    ValueError
        If these are not pairs of different cells; if names in ``obs_names`` are not unique; if two
        cells that must not be in one cluster have to be, by one pair or a chain of them.
    """
    options = {"must_link": must_link, "cannot_link": cannot_link}
    parts = {
        name: _rows(adata, name, value) for name, value in options.items() if value is not None
    }
    must, cannot = (parts.get(name, np.zeros((0, 2), int)) for name in OPTIONS)
    if not len(must) + len(cannot):
        return None
    group = _tied(must, adata.n_obs)
    torn = cannot[group[cannot[:, 0]] == group[cannot[:, 1]]]
    if len(torn):
        one, two = adata.obs_names[torn[0]]
        msg = (
            f"Expected constraints that do not contradict each other, found {one!r} and {two!r} in "
            f"`cannot_link`, but tied by `must_link` ({len(torn)} such constraints); drop either."
        )
        raise ValueError(msg)
    linked = np.repeat([True, False], [len(must), len(cannot)])
    return Constraints(np.concatenate([must, cannot]), linked)


def _tied(rows: np.ndarray, n_cells: int) -> np.ndarray:
    """Return a number [n] for each cell, the same for those that pairs [m, 2] tie together."""
    links = sp.coo_matrix((np.ones(len(rows)), rows.T), shape=(n_cells, n_cells))
    return connected_components(links, directed=False)[1]


def _rows(adata: AnnData, name: str, value: Any) -> np.ndarray:
    """Return the rows [m, 2] of named cells, the lesser first, each pair once."""
    names = np.asarray(value, dtype=object)
    if not names.size:
        return np.zeros((0, 2), int)
    if names.ndim != 2 or names.shape[1] != 2:
        msg = f"Expected `{name}` to be pairs of cell names, [m, 2], found shape {names.shape}."
        raise ValueError(msg)
    if not adata.obs_names.is_unique:
        msg = f"Expected unique `obs_names` for `{name}`; call `adata.obs_names_make_unique()`."
        raise ValueError(msg)
    rows = adata.obs_names.get_indexer(names.astype(str).ravel()).reshape(names.shape)
    if (rows < 0).any():
        missing = sorted(set(map(str, names[rows < 0])))
        msg = (
            f"Expected `{name}` to name cells in obs_names of those that are clustered, found "
            f"{len(missing)} others: {shown(missing[:5])}."
        )
        raise KeyError(msg)
    if (rows[:, 0] == rows[:, 1]).any():
        alone = names[np.argmax(rows[:, 0] == rows[:, 1])][0]
        msg = f"Expected `{name}` to be pairs of different cells, found {alone!r} with itself."
        raise ValueError(msg)
    return np.unique(np.sort(rows, axis=1), axis=0)


def plain(must_link: ConstraintsLike | None, cannot_link: ConstraintsLike | None) -> dict[str, Any]:
    """Return what was given as lists of names, for the record of a fit."""
    options = zip(OPTIONS, (must_link, cannot_link), strict=True)
    lists = {
        k: np.asarray(v, dtype=object).astype(str).tolist() for k, v in options if v is not None
    }
    return {name: value for name, value in lists.items() if value}


def among(recorded: dict[str, Any], part: AnnData) -> dict[str, Any]:
    """Return the recorded constraints of which both cells are in a part, as options of its fit."""
    names = set(part.obs_names)
    return {
        name: [p for p in pairs or [] if names.issuperset(p)] for name, pairs in recorded.items()
    }


def broken(clusters: np.ndarray, constraints: Constraints) -> np.ndarray:
    """Return which constraints [m] the clusters [n] of the cells break."""
    one, two = clusters[constraints.rows].T
    return (one == two) != constraints.linked


def constrain(proba: np.ndarray, constraints: Constraints | None) -> np.ndarray:
    """Return soft assignments [n, k] whose largest entries keep the constraints.

    Cells that are tied together get the geometric mean of their assignments. Then, the surest
    first, each group loses the clusters that those it must not be with have taken; if none is left,
    it keeps its own, and a constraint stays broken. Cells without constraints stay as they are.

    References
    ----------
    Wagstaff et al., ICML 2001 (COP-KMeans).
    """
    if constraints is None:
        return proba
    tied = _tied(constraints.rows[constraints.linked], len(proba))
    cells = np.unique(constraints.rows)
    groups, group_of = np.unique(tied[cells], return_inverse=True)
    logs = np.zeros((len(groups), proba.shape[1]))
    np.add.at(logs, group_of, np.log(np.maximum(proba[cells], np.finfo(np.float32).tiny)))
    shares = softmax(logs / np.bincount(group_of)[:, None], axis=1)
    apart = np.searchsorted(groups, tied[constraints.rows[~constraints.linked]])
    rivals: list[list[int]] = [[] for _ in groups]
    for one, two in apart:
        rivals[one].append(two)
        rivals[two].append(one)
    taken = np.full(len(groups), -1)
    for group in np.argsort(-shares.max(axis=1), kind="stable"):
        gone = taken[rivals[group]]
        left = shares[group].copy()
        left[gone[gone >= 0]] = 0
        if left.any():
            shares[group] = left / left.sum()
        taken[group] = shares[group].argmax()
    constrained = proba.copy()
    constrained[cells] = shares[group_of]
    return constrained


def kept(clusters: np.ndarray, constraints: Constraints | None) -> dict[str, dict[str, int]]:
    """Say how many constraints were given and how many the clusters [n] keep; empty without any."""
    if constraints is None:
        return {}
    held = ~broken(clusters, constraints)
    kinds = {name: constraints.linked == linked for name, linked in OPTIONS.items()}
    return {
        name: {"given": int(these.sum()), "kept": int(held[these].sum())}
        for name, these in kinds.items()
        if these.any()
    }


def find_answers(adata: AnnData, table: pd.DataFrame) -> Answers:
    """Find the cells of answered questions by their names; the last answer to a question counts.

    Parameters
    ----------
    adata
        The cells; only ``obs_names`` are looked at.
    table
        A row for each question, with the columns ``cells_a`` and ``cells_b`` (names of the cells of
        either group, a list or JSON text of one) and ``answer``: yes, no, unsure, or nothing, as
        long as it is not answered.

    Raises
    ------
    TypeError
        If it is no table.
    KeyError
        If columns are missing, or cells are named that there are not.
    ValueError
        If an answer is none of these; if a group has no cells, or both have one in common.
    """
    given: object = table
    if not isinstance(given, pd.DataFrame):
        msg = f"Expected answers as a pandas DataFrame, found {type(given).__name__}."
        raise TypeError(msg)
    missing = [name for name in ("cells_a", "cells_b", "answer") if name not in table]
    if missing:
        msg = (
            f"Expected the columns 'cells_a', 'cells_b' and 'answer' in the answers, found no "
            f"{missing}; `scs.tl.questions` makes such a table."
        )
        raise KeyError(msg)
    if len(table) and not adata.obs_names.is_unique:
        msg = "Expected unique `obs_names` for answers; call `adata.obs_names_make_unique()`."
        raise ValueError(msg)
    found = Answers([], [], np.zeros(0, np.int8))
    columns = [table[name] for name in ("answer", "cells_a", "cells_b")]
    for number, (answer, *sides) in enumerate(zip(*columns, strict=True), start=1):
        word = str(answer).strip().lower()
        if word in _OPEN:
            continue
        if word not in _ANSWERS:
            msg = (
                f"Expected answers to be yes, no, unsure or empty, found {shown(answer)} for "
                f"question {number}."
            )
            raise ValueError(msg)
        groups = [_group(adata, cells, number) for cells in sides]
        if np.intersect1d(*groups).size:
            name = adata.obs_names[np.intersect1d(*groups)[0]]
            msg = (
                f"Expected groups without common cells, found {name!r} in both, question {number}."
            )
            raise ValueError(msg)
        found = add_answer(found, *groups, same=_ANSWERS[word])
    return joined_answers([found])


def _group(adata: AnnData, cells: Any, number: int) -> np.ndarray:
    """Return the rows of named cells, ascending."""
    if isinstance(cells, str):
        cells = _listed(cells)
    names = [] if cells is None else [str(name) for name in np.atleast_1d(cells)]
    if not names:
        msg = f"Expected names of cells in both groups, found none for question {number}."
        raise ValueError(msg)
    rows = adata.obs_names.get_indexer(names)
    if (rows < 0).any():
        unknown = sorted({name for name, at in zip(names, rows, strict=True) if at < 0})
        msg = (
            f"Expected the answers to name cells in obs_names of those that are clustered, found "
            f"{len(unknown)} others in question {number}: {shown(unknown[:5])}; answers that were "
            "stored under other names are dropped by `answer(adata, None, keep=False)`."
        )
        raise KeyError(msg)
    return np.unique(rows)


def _listed(text: str) -> Any:
    """Return the names that a text lists, as JSON or as Python prints lists; else it is a name."""
    for read in (json.loads, ast.literal_eval):
        try:
            names = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # brackets without end
            continue
        if isinstance(names, list):
            return names
    return [text]


def answers_table(adata: AnnData, answers: Answers) -> pd.DataFrame:
    """Return answers as the table that :func:`find_answers` reads, cells as JSON text."""
    sides = [[_as_text(adata, rows) for rows in side] for side in (answers.first, answers.second)]
    words = {1: YES, 0: NO, -1: UNSURE}
    said = [words[int(same)] for same in answers.same]
    return pd.DataFrame({"cells_a": sides[0], "cells_b": sides[1], "answer": said}, dtype=object)


def joined_answers(parts: Sequence[Answers]) -> Answers:
    """Return all answers; of a question that was answered twice, the last."""
    found: dict[tuple[tuple[int, ...], ...], tuple[np.ndarray, np.ndarray, int]] = {}
    for part in parts:
        for one, two, same in zip(*part, strict=True):
            question = tuple(sorted((tuple(one), tuple(two))))
            found.pop(question, None)
            found[question] = one, two, same
    first, second, same = zip(*found.values(), strict=True) if found else ([], [], [])
    return Answers(list(first), list(second), np.array(same, np.int8))


def _as_text(adata: AnnData, rows: np.ndarray) -> str:
    return json.dumps([str(name) for name in adata.obs_names[rows]], ensure_ascii=False)


def add_answer(answers: Answers, first: np.ndarray, second: np.ndarray, *, same: int) -> Answers:
    """Return answers with one more, as `same` of :class:`Answers` has it."""
    more = np.append(answers.same, np.int8(same))
    return Answers([*answers.first, first], [*answers.second, second], more)


def contradictions(answers: Answers) -> list[int]:
    """Return which answers say no of two groups that others, of yes, tie together.

    Groups of yes with cells in common count as one.
    """
    n = 1 + max((int(rows.max()) for rows in (*answers.first, *answers.second)), default=0)
    chains = [np.r_[a, b] for a, b, same in zip(*answers, strict=True) if same == 1]
    ends = [np.column_stack([rows[:-1], rows[1:]]) for rows in chains]
    tied = _tied(np.concatenate([*ends, np.zeros((0, 2), int)]), n)
    return [
        i
        for i, (a, b, same) in enumerate(zip(*answers, strict=True))
        if same == 0 and set(tied[a]) & set(tied[b])
    ]
