"""Scores against labels: hand-computed values, invariances, and a brute-force matching."""

import doctest
import math
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from scsiameseclu_jax import metrics

SCORES = [metrics.accuracy, metrics.macro_f1, metrics.rare_type_recall, metrics.scores]

# Three types of 4, 3 and 1 cells; matching a-0, b-1, c-2 keeps 3 + 2 + 1 of 8 cells.
LABELS = ["a", "a", "a", "a", "b", "b", "b", "c"]
CLUSTERS = [0, 0, 0, 1, 1, 1, 2, 2]


def random_partitions(rng, n=60, n_types=4, n_clusters=4):
    labels = np.r_[np.arange(n_types), rng.integers(0, n_types, n - n_types)]
    noise = rng.integers(0, n_clusters, n)
    return labels, np.where(rng.random(n) < 0.5, labels % n_clusters, noise)


def test_hand_computed_values():
    assert metrics.accuracy(LABELS, CLUSTERS) == 6 / 8
    # F1 = 2 hits / (cells of the type + cells of its cluster).
    expected = np.mean([2 * 3 / (4 + 3), 2 * 2 / (3 + 3), 2 * 1 / (1 + 2)])
    assert metrics.macro_f1(LABELS, CLUSTERS) == pytest.approx(expected, abs=1e-15)
    assert metrics.rare_type_recall(LABELS, CLUSTERS, max_fraction=1 / 8) == 1.0
    assert metrics.rare_type_recall(LABELS, CLUSTERS, max_fraction=3 / 8) == pytest.approx(5 / 6)


def test_adjusted_rand_index_by_hand():
    # Pairs together in both: 3 (aaa) + 1 (bb); in types: 6 + 3; in clusters: 3 + 3 + 1; of 28.
    chance = 9 * 7 / 28
    expected = (4 - chance) / ((9 + 7) / 2 - chance)
    assert metrics.scores(LABELS, CLUSTERS)["ARI"] == pytest.approx(expected, abs=1e-12)


def test_normalised_mutual_information_by_hand():
    # Two types of two cells, one cluster holds a type, the other is split off one cell.
    h_types, h_clusters = math.log(2), -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    mutual = (
        0.5 * math.log(0.5 / (0.5 * 0.75))
        + 0.25 * math.log(0.25 / (0.5 * 0.25))
        + 0.25 * math.log(0.25 / (0.5 * 0.75))
    )
    found = metrics.scores(["B", "B", "T", "T"], [1, 1, 0, 1])["NMI"]
    assert found == pytest.approx(mutual / ((h_types + h_clusters) / 2), abs=1e-12)


def test_a_perfect_clustering_scores_one():
    result = metrics.scores(LABELS, [{"a": 7, "b": 0, "c": -1}[name] for name in LABELS])
    assert list(result) == ["ACC", "NMI", "ARI", "AMI", "macro_f1"]
    assert all(type(value) is float for value in result.values())
    assert list(result.values()) == pytest.approx([1.0] * 5, abs=1e-12)


def test_names_of_clusters_and_order_of_cells_do_not_matter():
    rng = np.random.default_rng(0)
    labels, clusters = random_partitions(rng)
    expected = metrics.scores(labels, clusters)
    renamed = np.array(["w", "x", "y", "z"])[rng.permutation(4)][clusters]
    assert metrics.scores(labels, renamed) == pytest.approx(expected, abs=1e-12)
    order = rng.permutation(len(labels))
    assert metrics.scores(labels[order], clusters[order]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n_types", "n_clusters"), [(4, 4), (3, 5), (5, 3), (2, 4), (1, 3)])
@pytest.mark.parametrize("seed", range(5))
def test_matching_is_the_best_of_all(seed, n_types, n_clusters):
    rng = np.random.default_rng(seed)
    labels, clusters = random_partitions(rng, n_types=n_types, n_clusters=n_clusters)
    # Names beyond the types stand for "no type"; enough of them that every cluster gets a name.
    names = range(max(n_types, n_clusters))
    accuracies = [
        np.mean(labels == np.array(names_of_clusters)[clusters])
        for names_of_clusters in permutations(names, n_clusters)
    ]
    assert metrics.accuracy(labels, clusters) == pytest.approx(max(accuracies), abs=1e-15)


def test_macro_f1_agrees_with_sklearn_after_matching():
    # Clusters 0, 1, 2 are far more often the types 0, 1, 2 than not, so the matching is known.
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 300)
    clusters = np.where(rng.random(300) < 0.8, labels, rng.integers(0, 3, 300))
    expected = f1_score(labels, clusters, average="macro")
    assert metrics.macro_f1(labels, (clusters + 1) % 3) == pytest.approx(expected, abs=1e-12)


def test_fewer_clusters_than_types():
    # One cluster: matched to the larger type; the other type is not found.
    assert metrics.accuracy(["a", "a", "b"], [0, 0, 0]) == pytest.approx(2 / 3)
    assert metrics.macro_f1(["a", "a", "b"], [0, 0, 0]) == pytest.approx((4 / 5 + 0) / 2)
    assert metrics.rare_type_recall(["a", "a", "b"], [0, 0, 0], max_fraction=0.4) == 0.0


def test_more_clusters_than_types():
    # Cells of a surplus cluster are right for no type.
    assert metrics.accuracy(["a"] * 4, [0, 0, 0, 1]) == 0.75
    assert metrics.macro_f1(["a"] * 4, [0, 0, 0, 1]) == pytest.approx(2 * 3 / (4 + 3))


def test_no_rare_type_gives_nan():
    assert math.isnan(metrics.rare_type_recall(["a", "b"], [0, 1]))


def test_a_type_of_just_so_many_cells_is_rare():
    labels = ["a"] * 29 + ["b"] * 71
    assert metrics.rare_type_recall(labels, labels, max_fraction=0.29) == 1


def test_containers_and_types_of_names():
    expected = metrics.scores(LABELS, CLUSTERS)
    categorical = pd.Categorical(LABELS, categories=["c", "b", "unused", "a"])
    for labels in (categorical, pd.Series(LABELS, index=range(8, 16)), np.array(LABELS)):
        for clusters in (np.array(CLUSTERS), pd.Series(CLUSTERS), list(map(str, CLUSTERS))):
            assert metrics.scores(labels, clusters) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("score", SCORES)
class TestErrors:
    def test_unequal_length(self, score):
        with pytest.raises(ValueError, match=r"Expected .*equal length, found 3 and 2"):
            score(["a", "b", "b"], [0, 1])

    def test_empty(self, score):
        with pytest.raises(ValueError, match=r"Expected .*at least one cell, found none"):
            score([], [])

    @pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
    def test_missing_label(self, score, missing):
        with pytest.raises(ValueError, match=r"Expected `labels` without missing values, found 1"):
            score(["a", missing, "b"], [0, 1, 1])

    def test_missing_category(self, score):
        labels = pd.Series(pd.Categorical.from_codes([0, 1, -1], ["a", "b"]))
        with pytest.raises(ValueError, match=r"`labels` without missing values, found 1 among 3"):
            score(labels, [0, 1, 1])

    def test_missing_cluster(self, score):
        with pytest.raises(ValueError, match=r"`clusters` without missing values, found 2"):
            score(["a", "a", "b"], np.array([0, np.nan, np.nan]))

    def test_soft_assignments(self, score):
        with pytest.raises(ValueError, match=r"`clusters` to be one-dimensional, .*\(3, 2\)"):
            score(["a", "a", "b"], np.ones((3, 2)))


@pytest.mark.parametrize("max_fraction", [0, -0.1, 1.1, float("nan")])
def test_max_fraction_out_of_range(max_fraction):
    with pytest.raises(ValueError, match=r"Expected `max_fraction` to be in \(0, 1\], found"):
        metrics.rare_type_recall(["a"], [0], max_fraction=max_fraction)


def test_examples_of_the_docstrings():
    failed, attempted = doctest.testmod(metrics.clustering)
    assert attempted >= 4 and failed == 0
