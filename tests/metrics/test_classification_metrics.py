"""Scores of predicted types: small tables worked out by hand, and bad input."""

import math

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scsiameseclu_jax import metrics

# Of a: 3 right, 1 called b. Of b: 1 right, 1 called c. Of c: 1 right, 1 unassigned. Of 8 cells, 5
# are right and 7 assigned.
LABELS = list("aaaabbcc")
PREDICTED = [*"aaab", *"bc", "c", "Unassigned"]
F1 = [2 * 3 / (4 + 3), 2 * 1 / (2 + 2), 2 * 1 / (2 + 2)]  # 2 hits / (known + predicted)


def test_scores_by_hand():
    made = metrics.classification_scores(LABELS, PREDICTED)
    by_chance = (4 * 3 + 2 * 2 + 2 * 2) / 64
    wanted = {
        "accuracy": 5 / 8,
        "assigned_accuracy": 5 / 7,
        "coverage": 7 / 8,
        "balanced_accuracy": (3 / 4 + 1 / 2 + 1 / 2) / 3,
        "macro_f1": sum(F1) / 3,
        "weighted_f1": (4 * F1[0] + 2 * F1[1] + 2 * F1[2]) / 8,
        "median_f1": F1[1],
        "kappa": (5 / 8 - by_chance) / (1 - by_chance),
    }
    assert list(made) == list(wanted)
    assert made == pytest.approx(wanted, abs=1e-12)


def test_a_predicted_type_that_no_cell_is_of_lowers_recall_only():
    made = metrics.classification_scores(["a", "a", "b"], ["a", "x", "b"])
    assert made["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert made["balanced_accuracy"] == pytest.approx(0.75)
    assert made["coverage"] == 1


def test_nothing_assigned_and_one_type():
    made = metrics.classification_scores(["a", "b"], ["Unassigned"] * 2)
    assert made["accuracy"] == made["coverage"] == made["macro_f1"] == 0
    assert math.isnan(made["assigned_accuracy"])
    assert math.isnan(metrics.classification_scores(["a", "a"], ["a", "a"])["kappa"])


def test_names_numbers_and_categories_are_the_same():
    expected = metrics.classification_scores(LABELS, PREDICTED)
    for labels in (pd.Categorical(LABELS, [*"cab", "unused"]), pd.Series(LABELS, index=range(8))):
        for found in (np.array(PREDICTED), pd.Series(PREDICTED, dtype="category")):
            assert metrics.classification_scores(labels, found) == pytest.approx(expected)
    numbers = metrics.classification_scores([1, 2, 2], ["1", "2", "none"], unassigned="none")
    assert numbers["accuracy"] == pytest.approx(2 / 3)
    assert numbers["assigned_accuracy"] == 1


def test_report_of_each_type():
    obs = {"known": [*LABELS, None], "found": [*PREDICTED, "a"]}
    adata = AnnData(obs=pd.DataFrame(obs, index=[f"cell {i}" for i in range(9)]))
    table = metrics.classification_report(adata, "known", "found")
    assert list(table.index) == ["a", "b", "c"]
    assert list(table.columns) == ["n", "precision", "recall", "f1", "unassigned"]
    np.testing.assert_array_equal(table["n"], [4, 2, 2])  # without the cell of no known type
    np.testing.assert_allclose(table["precision"], [1, 1 / 2, 1 / 2])
    np.testing.assert_allclose(table["recall"], [3 / 4, 1 / 2, 1 / 2])
    np.testing.assert_allclose(table["f1"], F1)
    np.testing.assert_allclose(table["unassigned"], [0, 0, 1 / 2])
    with pytest.raises(KeyError, match="found 'other'"):
        metrics.classification_report(adata, "known", "other")


def test_confusion_by_hand():
    table = metrics.confusion([*LABELS, "a"], [*PREDICTED, "x"])
    assert list(table.index) == ["a", "b", "c"]
    assert list(table.columns) == ["a", "b", "c", "x", "Unassigned"]
    wanted = [[3, 1, 0, 1, 0], [0, 1, 1, 0, 0], [0, 0, 1, 0, 1]]
    np.testing.assert_array_equal(table, wanted)
    assert metrics.confusion(["a"], ["a"])["Unassigned"].tolist() == [0]


def test_rejection_curve_by_hand():
    found = ["a", "b", "a", "Unassigned", "b"]
    curve = metrics.rejection_curve(list("aaabb"), found, [0.9, 0.5, 0.5, 0.99, 0.7])
    assert list(curve.columns) == ["threshold", "coverage", "accuracy"]
    np.testing.assert_allclose(curve["threshold"], [0.5, 0.7, 0.9])
    np.testing.assert_allclose(curve["coverage"], [4 / 5, 2 / 5, 1 / 5])
    np.testing.assert_allclose(curve["accuracy"], [3 / 4, 1, 1])
    assert metrics.rejection_curve(["a"], ["Unassigned"], [1.0]).empty


def test_rejection_curve_agrees_with_leaving_cells_unassigned():
    rng = np.random.default_rng(0)
    labels, found = rng.choice(list("abc"), (2, 200))
    sure = rng.random(200).round(2)
    for row in metrics.rejection_curve(labels, found, sure).itertuples():
        left = np.where(sure < row.threshold, "Unassigned", found)
        scores = metrics.classification_scores(labels, left)
        assert scores["coverage"] == pytest.approx(row.coverage)
        assert scores["assigned_accuracy"] == pytest.approx(row.accuracy)


@pytest.mark.parametrize("score", [metrics.classification_scores, metrics.confusion])
class TestErrors:
    def test_unequal_length(self, score):
        with pytest.raises(ValueError, match="equal length, found 3 and 2"):
            score(list("abb"), list("ab"))

    def test_empty(self, score):
        with pytest.raises(ValueError, match="at least one cell, found none"):
            score([], [])

    @pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
    def test_missing(self, score, missing):
        with pytest.raises(ValueError, match="`labels` without missing values, found 1"):
            score(["a", missing], ["a", "b"])
        with pytest.raises(ValueError, match="`predicted` without missing values, found 1"):
            score(["a", "b"], ["a", missing])

    def test_unassigned_truth(self, score):
        with pytest.raises(ValueError, match="known type for every cell in `labels`, found 1"):
            score(["a", "Unassigned"], ["a", "b"])

    def test_probabilities(self, score):
        with pytest.raises(ValueError, match=r"`predicted` to be one-dimensional, .*\(2, 3\)"):
            score(["a", "b"], np.ones((2, 3)))


@pytest.mark.parametrize("confidence", [[0.5], [0.5, np.nan]])
def test_confidence_of_each_cell(confidence):
    with pytest.raises(ValueError, match="Expected `confidence` as a number for each of 2 cells"):
        metrics.rejection_curve(["a", "b"], ["a", "b"], confidence)
