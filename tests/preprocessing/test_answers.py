"""Answers of the user: found by the names of cells, checked, told apart."""

import json

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scsiameseclu_jax.preprocessing.constraints import (
    Answers,
    answers_table,
    contradictions,
    find_answers,
    joined_answers,
)

NAMES = ["AAC-1", "cell 2", "c,3", "d'4", 'e"5', "f", "é7", "h"]


@pytest.fixture
def adata():
    cells = AnnData(np.ones((8, 2), np.float32))
    cells.obs_names = NAMES
    return cells


def table(*rows):
    return pd.DataFrame(rows, columns=["cells_a", "cells_b", "answer"])


def test_words_for_answers(adata):
    words = ["yes", " Y ", "True", True, "no", "N", "unsure", "u", "", None, np.nan, pd.NA]
    given = table(*([[NAMES[i % 4]], [NAMES[4 + i // 4]], word] for i, word in enumerate(words)))
    assert find_answers(adata, given).same.tolist() == [1, 1, 1, 1, 0, 0, -1, -1]


def test_cells_as_lists_and_as_text_survive_a_table_on_disk(adata, tmp_path):
    lists = table([NAMES[:3], NAMES[3:6], "yes"], [NAMES[6:7], NAMES[7:], "no"])
    texts = lists.assign(**{c: lists[c].map(json.dumps) for c in ("cells_a", "cells_b")})
    plain = table(["cell 2", "f", "yes"])
    for i, given in enumerate((lists, texts)):
        given.to_csv(tmp_path / f"{i}.csv", index=False)
        for one in (given, pd.read_csv(tmp_path / f"{i}.csv")):
            found = find_answers(adata, one)
            assert [rows.tolist() for rows in found.first] == [[0, 1, 2], [6]]
            assert [rows.tolist() for rows in found.second] == [[3, 4, 5], [7]]
            assert found.same.tolist() == [1, 0]
    assert [rows.tolist() for rows in find_answers(adata, plain).first] == [[1]]


def test_the_last_answer_to_a_question_counts(adata):
    first = table([["f"], ["h"], "yes"], [["cell 2"], ["h"], "no"])
    again = table([["h"], ["f"], "no"])
    parts = [find_answers(adata, one) for one in (first, again)]
    both = answers_table(adata, joined_answers(parts))
    found = find_answers(adata, both)
    assert found.same.tolist() == [0, 0]
    assert [json.loads(cells) for cells in both["cells_a"]] == [["cell 2"], ["h"]]
    pd.testing.assert_frame_equal(answers_table(adata, found), both)


@pytest.mark.parametrize(
    ("rows", "error", "text"),
    [
        (
            [[["f"], ["h"], "perhaps"]],
            ValueError,
            "yes, no, unsure or empty, found 'perhaps' for question",
        ),
        ([[["f", "x"], ["h"], "yes"]], KeyError, r"1 others in question 1: \['x'\]"),
        ([[["f"], ["h"], ""], [[], ["h"], "no"]], ValueError, "found none for question 2"),
        ([[["f", "h"], ["h"], "no"]], ValueError, "found 'h' in both, question 1"),
    ],
)
def test_what_is_wrong_is_said(adata, rows, error, text):
    with pytest.raises(error, match=text):
        find_answers(adata, table(*rows))


def test_what_is_no_table_is_refused(adata):
    with pytest.raises(TypeError, match="DataFrame, found list"):
        find_answers(adata, [["f"], ["h"], "yes"])
    with pytest.raises(KeyError, match=r"found no \['answer'\]"):
        find_answers(adata, pd.DataFrame({"cells_a": [["f"]], "cells_b": [["h"]]}))


def test_a_no_between_what_yes_ties_together_is_a_contradiction():
    def answers(*triples):
        first, second, same = zip(*triples, strict=True)
        return Answers([np.array(a) for a in first], [np.array(b) for b in second], np.array(same))

    chain = [([0, 1], [2], 1), ([2], [5, 6], 1)]
    assert contradictions(answers(*chain)) == []
    assert contradictions(answers(*chain, ([1], [6], 0))) == [2]
    assert contradictions(answers(*chain, ([1], [6], -1))) == []
    assert contradictions(answers(*chain, ([1], [7], 0))) == []
    # groups with a cell in common are one
    assert contradictions(answers(([0, 1], [2], 1), ([0, 3], [2], 0))) == [1]


def test_groups_that_no_yes_ties_do_not_contradict():
    def answers(*triples):
        first, second, same = zip(*triples, strict=True)
        return Answers([np.array(a) for a in first], [np.array(b) for b in second], np.array(same))

    # coarse groups that were not sure, and a no between their parts
    assert contradictions(answers(([0, 1, 2, 3], [8, 9], -1), ([0, 1], [2, 3], 0))) == []
    assert contradictions(answers(([0, 1, 2, 3], [8, 9], 0), ([0, 1], [2, 3], 0))) == []


def test_names_have_to_be_unique(adata):
    adata.obs_names = [*NAMES[:7], NAMES[0]]
    with pytest.raises(ValueError, match="unique `obs_names` for answers"):
        find_answers(adata, table([["f"], ["cell 2"], "yes"]))
    assert not len(find_answers(adata, table()).same)
