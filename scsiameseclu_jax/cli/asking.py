"""Questions in the terminal, and as a table that opens in a spreadsheet."""

from __future__ import annotations

import json
import logging
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scsiameseclu_jax.certainty.questions import consequence
from scsiameseclu_jax.cli.signals import as_exception
from scsiameseclu_jax.files import write_text
from scsiameseclu_jax.inputs import check_file
from scsiameseclu_jax.preprocessing.constraints import NO, UNSURE, YES, find_answers

if TYPE_CHECKING:
    from anndata import AnnData

    from scsiameseclu_jax.model import SiameseClu

logger = logging.getLogger(__name__)

NONE_LEFT = "No question is left: the candidates of the fit agree, or have all been asked about."

_STAYS = "The number of clusters stays: where one is divided, two others may be joined."
_RENUMBERED = "Clusters were renumbered by size."
_WIDTH = 79  # of a line; in the last column some terminals break it
_PROMPT = "same type? [y]es, [n]o, [u]nsure, [q]uit: "
_QUIT = "quit"
_CELLS = ("cells_a", "cells_b")  # are for the program, and long: last in the table
_FIRST = ("answer", "genes_a", "genes_b", "clusters_a", "clusters_b")


def check_terminal(n: int) -> None:
    """Check, before anything long starts, that so many questions can be asked.

    Raises
    ------
    ValueError
        If there is nobody to ask, or the number is negative.
    """
    if n < 0:
        raise ValueError(f"Expected --ask to be a number of questions, at least 0, found {n}.")
    if n and (sys.stdin is None or not sys.stdin.isatty()):
        msg = (
            "Expected a terminal to ask in (--ask), found none; cluster without it, write the "
            "questions to a table with `scsiameseclu questions OUT questions.csv`, fill in its "
            "column 'answer', and cluster again with `--answers questions.csv`."
        )
        raise ValueError(msg)


def ask(model: SiameseClu, adata: AnnData, n: int) -> None:
    """Ask up to n questions, one after the other; the model heeds each answer before the next.

    Ctrl-C, ``q``, or the end of the input ends it; what was answered until then is kept.

    Parameters
    ----------
    model
        Fitted to the cells.
    adata
        The cells.
    n
        How many questions, at least 1.
    """
    if model.candidates is None:
        _say("No question can be asked: the fit kept no candidates to choose from.")
        return
    answered: pd.DataFrame | None = None  # but not yet heeded
    with as_exception() as check:
        try:
            for number in range(1, n + 1):
                question = model.questions(adata, 1)
                check()
                if not len(question):
                    _say(NONE_LEFT)
                    break
                if number == 1:
                    _say(_STAYS)
                _say("", f"Question {number} of {n}", *question_lines(question.iloc[0]))
                word = _word()
                if word == _QUIT:
                    break
                answered = question.assign(answer=word)
                before = np.asarray(model.labels)
                model.answer(adata, answered)
                answered = None
                if _renumbered(before, np.asarray(model.labels)):
                    _say(_RENUMBERED)
                check()
        except (KeyboardInterrupt, EOFError):
            _say("", "No more questions; what was answered is kept.")
    if answered is not None:
        model.answer(adata, answered)


def question_lines(question: pd.Series) -> Iterator[str]:
    """Yield the lines, of up to 79 letters, that put one question.

    Parameters
    ----------
    question
        A row of a table of questions.
    """
    for side in "ab":
        clusters = question[f"clusters_{side}"]
        where = f"in clusters {clusters}" if "," in clusters else f"in cluster {clusters}"
        yield from _wrapped(f"{question[f'n_{side}']} cells, now {where}", f"  {side.upper()}  ")
        yield from _wrapped(f"higher: {question[f'genes_{side}'] or 'no gene'}", "     ")
    brackets = "(in brackets: share of its cells that express the gene, and of the other's)"
    yield from _wrapped(brackets, "  ")
    yield from _wrapped(consequence(question["if_yes"], question["if_no"]), "  ")


def _renumbered(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether most cells of a cluster are now in one of another number."""
    table = pd.crosstab(before, after)
    return bool((table.idxmax(axis=1) != table.index).any())


def _wrapped(text: str, before: str) -> list[str]:
    # a gene stays with its shares
    text = text.replace(" (", "\0(").replace("%, ", "%,\0")
    options: dict[str, Any] = {"initial_indent": before, "subsequent_indent": " " * len(before)}
    lines = textwrap.wrap(text, _WIDTH, break_on_hyphens=False, **options)
    return [line.replace("\0", " ") for line in lines]


def _word() -> str:
    """Read an answer; other keys ask again."""
    words = {word[0]: word for word in (YES, NO, UNSURE, _QUIT)}
    words |= {word: word for word in words.values()}
    while True:
        sys.stderr.write(_PROMPT)
        sys.stderr.flush()
        given = input().strip().lower()
        if given in words:
            return words[given]
        _say(f"{given!r} is no answer: type y (yes), n (no), u (unsure), or q (stop asking).")


def _say(*lines: str) -> None:
    """Print to standard error: on standard output there are results."""
    print("\n".join(lines), file=sys.stderr)


def read_answers(paths: Sequence[Path], adata: AnnData) -> pd.DataFrame:
    """Read tables of answers, one after the other, and check them against the cells.

    Parameters
    ----------
    paths
        Tables that :func:`write_questions` wrote, answered; separated by commas, semicolons or
        tabs, for spreadsheets save them so.
    adata
        The cells that are clustered.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError, KeyError
        If it is no such table, has other answers, or names cells that there are not.
    """
    tables = []
    for path in paths:
        check_file(path, "--answers to be a table of answers")
        try:
            with path.open(encoding="utf-8-sig") as file:
                first = file.readline()
            separator = max(",;\t", key=first.count)
            options: dict[str, Any] = {"sep": separator, "encoding": "utf-8-sig"}
            table = pd.read_csv(path, **options, dtype=str, keep_default_na=False)
        except ValueError as error:  # also of other bytes than text, and of what is no table
            msg = f"Expected {str(path)!r} to be a table of answers, found otherwise: {error}."
            raise ValueError(msg) from error
        try:
            answers = find_answers(adata, table)
        except (ValueError, KeyError) as error:
            raise type(error)(f"{error.args[0]} Look at {str(path)!r}.") from error
        if not len(answers.same):
            logger.warning("no answers in %r: fill in its column 'answer'", str(path))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def write_questions(path: Path, questions: pd.DataFrame) -> None:
    """Write a table of questions: what a person reads first, the names of cells last, as JSON.

    Raises
    ------
    scsiameseclu_jax.files.WriteError
        If it could not be written.
    """
    table = questions.copy()
    for name in _CELLS:
        # in ASCII, for spreadsheets that take the table for one of another encoding
        table[name] = [json.dumps(cells) for cells in table[name]]
    others = [name for name in table if name not in (*_FIRST, *_CELLS)]
    write_text(path, table[[*_FIRST, *others, *_CELLS]].to_csv(index=False, lineterminator="\n"))
