"""The section on questions: what an answer would change, and what was answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scsiameseclu_jax import tl
from scsiameseclu_jax.certainty.questions import consequence
from scsiameseclu_jax.partition.questions import Question, ask, choose, kept
from scsiameseclu_jax.pl.cells import coordinates
from scsiameseclu_jax.pl.colors import MISSING, OKABE_ITO
from scsiameseclu_jax.preprocessing.constraints import (
    NO,
    UNSURE,
    YES,
    Answers,
    contradictions,
    find_answers,
)
from scsiameseclu_jax.reporting.figures import figure
from scsiameseclu_jax.reporting.markup import (
    Column,
    Html,
    Section,
    code,
    count,
    join,
    note,
    paragraphs,
    percent,
    small,
    table,
    tag,
)
from scsiameseclu_jax.reporting.result import Result
from scsiameseclu_jax.tl.record import answers_of, pool_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_N = 5
_LEAST = 0.05  # share of a group that is in a cluster, from which the cluster is named
_WORDS = {1: YES, 0: NO, -1: UNSURE}
_A, _B = OKABE_ITO[0], OKABE_ITO[3]
_IF_YES, _IF_NO, _OTHER, _ANYWAY = OKABE_ITO[2], OKABE_ITO[5], OKABE_ITO[6], "#888888"


def questions(result: Result) -> Section | None:
    """List the answers that the clusters heed, and put the next questions."""
    parts: list[object] = []
    given = answers_of(result.record)
    try:
        pool = pool_of(result.adata, result.key)
        answers = find_answers(result.adata, given)
        if len(answers.same):
            parts.append(_answered(result, answers))
        asked = tl.questions(result.adata, _N, key=result.key)
    except (KeyError, TypeError, ValueError) as error:  # no candidates or counts, or other cells
        if len(given) and not parts:
            text = f"The clusters heed {len(given)} answers, which cannot be shown"
            parts.append(note(f"{text}: {error.args[0]}"))
        return Section("questions", "Questions", join(parts)) if parts else None
    parts.append(
        paragraphs(
            "Several partitions of these cells are plausible, and the counts do not say which is "
            "right. Who knows the tissue may: are two small groups of cells of one type? These "
            "questions say most; each answer changes which come next. The number of clusters "
            "stays: where one is divided two others become one, so that cells may move that were "
            "not asked about."
            if len(asked)
            else "No question is left: the candidate partitions agree, or were all asked about."
        )
    )
    if len(asked):
        now = choose(pool, answers).clusters
        for i, question in enumerate(ask(pool, answers, n=_N)):
            parts.append(tag("h3", f"Question {i + 1}: are A and B of one type?"))
            parts.append(_groups(result, asked.iloc[i], question))
            if result.cells is not None:  # which has the map
                parts.append(_figure(result, question, now))
        parts.append(_how(result))
    return Section("questions", "Questions", join(parts))


def _answered(result: Result, answers: Answers) -> Html:
    """List what was answered, whether the clusters keep it, and what contradicts the others."""
    # what users renamed or joined since is not what the answers chose
    clusters = np.asarray(result.adata.obsm[f"{result.key}_proba"]).argmax(axis=1)
    held, torn = kept(clusters, answers), contradictions(answers)
    rows = []
    for i, (first, second, same) in enumerate(zip(*answers, strict=True)):
        kind = ("good", "kept") if held[i] else ("poor", "not kept")
        verdict = "–" if same < 0 else tag("span", kind[1], class_=f"badge {kind[0]}")
        groups = [join([f"{count(len(c))} in ", _where(result, c)]) for c in (first, second)]
        rows.append([f"{i + 1}", *groups, _WORDS[int(same)], verdict])
    titles = ("Answer", "Cells of A", "Cells of B", "Of one type?", "By the clusters")
    columns = [Column(title) for title in titles]
    parts: list[object] = [table("Answers that the clusters were chosen by", columns, rows)]
    if torn:
        numbers = ", ".join(str(i + 1) for i in torn)
        text = "Some answers contradict each other. No was said of groups that others, of yes, tie"
        parts.append(note(f"{text} together: answer {numbers}."))
    keep = f'adata.uns[{result.key!r}]["answers"].to_csv("answers.csv", index=False)'
    parts.append(small(f"To keep them, for another fit: {keep}"))
    return join(parts)


def _where(result: Result, rows: np.ndarray) -> Html:
    """Return the clusters that cells are in, with shares if there are several."""
    shares = pd.Series(result.own[rows]).value_counts(normalize=True)
    shares = shares[shares >= _LEAST]
    if len(shares) == 1:
        return result.chip(shares.index[0])
    named = [join([result.chip(name), f" ({percent(s)}) "]) for name, s in shares.items()]
    return join(named)


def _groups(result: Result, asked: pd.Series, question: Question) -> Html:
    """Tabulate both groups of a question."""
    rows = []
    for i, (side, color) in enumerate((("a", _A), ("b", _B))):
        mark = tag("span", class_="chip", style=f"background:{color}", aria_hidden="true")
        genes = asked[f"genes_{side}"] or "–"
        where = _where(result, question.cells[i])
        rows.append([join([mark, side.upper()]), count(asked[f"n_{side}"]), where, genes])
    columns = [Column("Group"), Column("Cells", numbers=True), Column("In cluster")]
    columns.append(Column("Genes higher there (share of its cells, of the other's)"))
    return table("The two groups", columns, rows)


def _figure(result: Result, question: Question, now: np.ndarray) -> Html:
    """Draw where both groups are and, beside that, which cells an answer would move."""
    moved = question.if_same != now, question.if_different != now
    hinge = question.if_same != question.if_different
    moves_of = consequence(*(int(cells.sum()) for cells in moved))
    text = f"Two maps of the cells: groups A and B, and the cells that would move. {moves_of}"
    anyway = moved[0] & ~hinge
    torn = moved[0] & moved[1] & hinge
    caption = "".join(
        [
            f"{moves_of} ",
            "Either way: both answers move them to one cluster. " if anyway.any() else "",
            "Two ways: the answers move them to different clusters. " if torn.any() else "",
            "UMAP of the embedding.",
        ]
    )
    moves = {
        "either way": (anyway, _ANYWAY, "s"),
        "if no": (moved[1] & ~moved[0], _IF_NO, "^"),
        "if yes": (moved[0] & ~moved[1], _IF_YES, "o"),
        "two ways": (torn, _OTHER, "D"),
    }
    return figure(_drawn(result, question.cells, moves), text, caption, pixels=True)


def _drawn(
    result: Result,
    groups: tuple[np.ndarray, np.ndarray],
    moves: dict[str, tuple[np.ndarray, str, str]],
) -> Figure:
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(6.4, 3.2), layout="constrained")
    left, right = drawn.subplots(1, 2)
    points = coordinates(result.cells, f"{result.key}_umap")
    _scatter(left, points, {"A": (groups[0], _A, "o"), "B": (groups[1], _B, "^")})
    _scatter(right, points, {k: (np.flatnonzero(v[0]), *v[1:]) for k, v in moves.items()})
    left.set_title("the groups", fontsize="medium")
    right.set_title("cells that would move", fontsize="medium")
    return drawn


def _scatter(ax: Axes, points: np.ndarray, shown: dict[str, tuple[np.ndarray, str, str]]) -> None:
    """Draw some of the cells in colours, and with marks of their own, over all in grey."""
    size = float(np.clip(4e3 / len(points), 1, 8))
    options: dict[str, Any] = {"linewidths": 0, "rasterized": True}
    ax.scatter(*points.T, c=MISSING, s=size, **options)
    shown = {name: what for name, what in shown.items() if len(what[0])}
    for name, (rows, color, mark) in shown.items():
        options |= {"label": f"{name} ({count(len(rows))})", "marker": mark}
        s = float(np.clip(3e3 / len(rows), 1.5 * size, 16))  # few cells have to be seen, too
        ax.scatter(*points[rows].T, c=color, s=s, **options)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    if shown:
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "ncols": 2}
        style = {"frameon": False, "fontsize": "small", "handletextpad": 0.1, "columnspacing": 0.8}
        for mark in ax.legend(**place, **style).legend_handles:
            mark.set_sizes([30])


def _how(result: Result) -> Html:
    """Say how to answer."""
    named = "" if result.key == "siameseclu" else f", key={result.key!r}"
    lines = [
        f"table = scs.tl.questions(adata, {_N}{named})",
        'table.loc[0, "answer"] = "yes"  # or "no", "unsure"; what is left empty does not count',
        f"scs.tl.answer(adata, table{named})",
    ]
    shell = small(
        "From the shell: scsiameseclu questions writes such a table, scsiameseclu cluster takes it "
        "(--answers), or asks in the terminal (--ask)."
    )
    return join([tag("h3", "How to answer"), code("\n".join(lines), "How to answer"), shell])
