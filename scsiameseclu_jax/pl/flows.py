"""Where the categories of a Sankey diagram stand, and where its flows begin and end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_SWEEPS = 12
_GAPS = 0.35  # share of the height left free between categories, at most
_GAP = 0.02  # of the height, between two categories


class Flow(NamedTuple):
    """Cells of one category that are in one of the next column."""

    gap: int
    """Number of the column that it starts from."""
    source: int
    """Category there."""
    target: int
    """Category in the next column."""
    start: tuple[float, float]
    """Top and bottom where it starts, from 0 (top of the plot) to 1."""
    end: tuple[float, float]
    """Top and bottom where it ends."""


class Flows(NamedTuple):
    """A Sankey diagram, but for the drawing."""

    spans: list[list[tuple[float, float]]]
    """Top and bottom of each category of each column."""
    links: list[Flow]
    """Flows that are to be drawn."""
    hidden: float
    """Largest share of the cells, between two columns, whose flows are not among them."""


def arrange(tables: Sequence[np.ndarray], *, min_share: float) -> Flows:
    """Arrange categories so that few cells cross, and stack their flows.

    Parameters
    ----------
    tables
        For each two neighbouring columns the numbers of cells [k, l] by category.
    min_share
        Flows of less than this share of both their categories are left out.

    References
    ----------
    Sugiyama, K., Tagawa, S. & Toda, M. (1981). Methods for visual understanding of hierarchical
    system structures. IEEE Transactions on Systems, Man, and Cybernetics 11, 109-125: ordering by
    barycentres.
    """
    orders = order(tables)
    sizes = [tables[0].sum(axis=1), *(table.sum(axis=0) for table in tables)]
    spans = [_stack(own, places) for own, places in zip(sizes, orders, strict=True)]
    height = [1 - _free(len(own)) for own in sizes]
    total = sizes[0].sum()
    links, hidden = [], 0.0
    for gap, table in enumerate(tables):
        least = min_share * np.minimum(sizes[gap][:, None], sizes[gap + 1])
        drawn = (table > 0) & (table >= least)
        hidden = max(hidden, float(table[~drawn].sum() / total))
        tops = [np.array(spans[column])[:, 0] for column in (gap, gap + 1)]
        starts = _shifts(table, orders[gap + 1]) * height[gap] / total + tops[0][:, None]
        ends = _shifts(table.T, orders[gap]).T * height[gap + 1] / total + tops[1]
        for i, j in zip(*np.nonzero(drawn), strict=True):
            wide = [table[i, j] * height[column] / total for column in (gap, gap + 1)]
            start, end = float(starts[i, j]), float(ends[i, j])
            links.append(Flow(gap, i, j, (start, start + wide[0]), (end, end + wide[1])))
    return Flows(spans, links, hidden)


def order(tables: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the categories of each column from top to bottom, with few cells crossing.

    Sweeps to and fro put each category at the mean place of the cells in the column beside it;
    then neighbours change places as long as that helps.
    """
    sizes = [tables[0].sum(axis=1), *(table.sum(axis=0) for table in tables)]
    found = [np.argsort(-own, kind="stable") for own in sizes]
    best, least = found, crossings(tables, found)
    for sweep in range(_SWEEPS):
        columns = range(1, len(found)) if sweep % 2 == 0 else range(len(found) - 2, -1, -1)
        for column in columns:
            beside = column - 1 if sweep % 2 == 0 else column + 1
            table = tables[min(column, beside)]
            found = list(found)
            found[column] = _by_mean_place(table if beside > column else table.T, found[beside])
        now = crossings(tables, found)
        if now < least:
            best, least = found, now
    return _swap(tables, best)


def crossings(tables: Sequence[np.ndarray], orders: Sequence[np.ndarray]) -> int:
    """Return how many pairs of cells cross."""
    return sum(
        _crossing(table[orders[gap]][:, orders[gap + 1]]) for gap, table in enumerate(tables)
    )


def _crossing(table: np.ndarray) -> int:
    """Pairs of cells of which one is further down on the left and further up on the right."""
    below = table[::-1].cumsum(axis=0)[::-1]
    before = below.cumsum(axis=1)
    return int((table[:-1, 1:] * before[1:, :-1]).sum())


def _by_mean_place(table: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """Return the order of the rows of a table by the mean place of their cells in its columns."""
    sizes = table.sum(axis=0)[beside]
    centers = np.empty(len(beside))
    centers[beside] = np.cumsum(sizes) - sizes / 2
    return np.argsort(table @ centers / np.maximum(table.sum(axis=1), 1), kind="stable")


def _swap(tables: Sequence[np.ndarray], orders: list[np.ndarray]) -> list[np.ndarray]:
    """Let neighbours change places as long as fewer cells cross then."""
    made = [own.copy() for own in orders]
    for _ in range(_SWEEPS):
        before = crossings(tables, made)
        for column, own in enumerate(made):
            for place in range(len(own) - 1):
                if _gain(tables, made, column, own[place], own[place + 1]) > 0:
                    own[[place, place + 1]] = own[[place + 1, place]]
        if crossings(tables, made) >= before:
            break
    return made


def _gain(
    tables: Sequence[np.ndarray], orders: list[np.ndarray], column: int, upper: int, lower: int
) -> int:
    """Return how many fewer pairs of cells cross if two neighbours change places."""
    gain = 0
    for table, beside in ((column - 1, column - 1), (column, column + 1)):
        if 0 <= table < len(tables):
            rows = tables[table] if beside > column else tables[table].T
            one, two = rows[upper][orders[beside]], rows[lower][orders[beside]]
            # Cells of the upper that are further down beside than cells of the lower cross.
            gain += int(one[1:] @ two.cumsum()[:-1] - two[1:] @ one.cumsum()[:-1])
    return gain


def _free(k: int) -> float:
    return min(_GAPS, _GAP * (k - 1))


def _stack(sizes: np.ndarray, places: np.ndarray) -> list[tuple[float, float]]:
    """Return top and bottom of each category, stacked in an order with equal gaps."""
    free, k = _free(len(sizes)), len(sizes)
    heights = sizes[places] * (1 - free) / sizes.sum()
    tops = np.cumsum(heights) - heights + np.arange(k) * (free / max(k - 1, 1))
    spans: list[tuple[float, float]] = [(0.0, 0.0)] * k
    for category, top, height in zip(places, tops, heights, strict=True):
        spans[category] = float(top), float(top + height)
    return spans


def _shifts(table: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return how many cells [k, l] of a category leave above those of each flow."""
    made = np.empty(table.shape)
    ordered = table[:, places]
    made[:, places] = ordered.cumsum(axis=1) - ordered
    return made
