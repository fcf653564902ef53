"""The first partition: what the candidates and criteria do."""

from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.metrics import adjusted_rand_score

from scsiameseclu_jax.partition import candidates as partition
from scsiameseclu_jax.partition.workers import in_workers
from scsiameseclu_jax.preprocessing import neighbors


def groups(sizes, *, spread=0.25, seed=0):
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    centers = rng.normal(size=(len(sizes), 12))
    return centers[truth] + spread * rng.normal(size=(len(truth), 12)), truth


def ranked(x, n_clusters, *others):
    spaces = [partition.representation(features, 10) for features in (x, *others)]
    rank = partial(partition.ranked_candidates, x, spaces, seed=0)
    return in_workers(rank, [n_clusters])[0]


def choose(x, n_clusters, *others):
    """Return the clusters of the best candidate."""
    return ranked(x, n_clusters, *others).clusters[0]


def test_representation_has_the_normalised_graph():
    x, _ = groups([20, 20])
    links = partition.representation(x, 5).links
    assert abs(links - links.T).max() < 1e-15
    assert np.linalg.eigvalsh(links.toarray()).max() == pytest.approx(1)
    found, cells = neighbors.nearest_neighbors(x, 5)
    assert (np.asarray(links[cells, found]) > 0).all()


@pytest.mark.parametrize("sizes", [[60, 60, 60, 60], [300, 60, 20, 10]])
def test_finds_clear_groups_of_like_and_of_unlike_size(sizes):
    x, truth = groups(sizes)
    found = choose(x, len(sizes))
    assert adjusted_rand_score(truth, found) > 0.95
    assert set(found) == set(range(len(sizes)))


def test_candidates_come_with_their_own_scores():
    x, _ = groups([60, 60, 60, 60], spread=1.0)
    made = ranked(x, 4)
    assert len(made.clusters) == len(made.scores) > 8
    one = partition.representation(x, 10)
    units = [neighbors.unit_rows(x)]
    for clusters, scores in zip(made.clusters, made.scores.values(), strict=True):
        assert partition.criteria(clusters, units, [one]) == scores


def test_outliers_are_not_a_cluster():
    x, truth = groups([80, 60, 40])
    x = np.concatenate([x, x[:1] + 40])  # a cell far from all others
    found = choose(x, 3)
    assert adjusted_rand_score(truth, found[:-1]) > 0.95
    assert np.bincount(found).min() >= 40


@pytest.mark.parametrize("seed", range(3))
def test_outliers_do_not_hide_a_rare_group(seed):
    """Each outlier would be a cluster by distance; without those, k-means splits the large one."""
    x, truth = groups([300, 60, 20, 4], seed=seed)
    alone = np.random.default_rng(seed).normal(size=(6, 12)) * 3
    found = choose(np.concatenate([x, alone]), 4)
    assert adjusted_rand_score(truth, found[: len(x)]) > 0.95
    assert np.bincount(found).min() >= 2


def test_cells_alone_join_the_nearest_group():
    x = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [0.3, 1.0], [1, -0.2]])
    merged = partition._without_singles(x, np.array([0, 0, 1, 1, 2, 3]))
    np.testing.assert_array_equal(merged, [0, 0, 1, 1, 1, 0])
    np.testing.assert_array_equal(partition._without_singles(x, np.arange(6)), np.arange(6))


def test_order_is_by_the_sum_of_ranks():
    x, _ = groups([80, 40, 20], spread=0.8)
    table = np.array(list(ranked(x, 3).scores.values()))
    wins = np.array([(table < row).sum() + 0.5 * (table == row).sum() for row in table])
    assert (np.diff(wins) <= 0).all()
    assert wins[0] > wins[-1]


def test_every_representation_has_its_say():
    """Groups that blur in the first representation are clear in the second."""
    x, truth = groups([80, 80, 40], spread=0.4)
    clear, _ = groups([80, 80, 40], spread=0.1, seed=1)
    assert {len(scores) for scores in ranked(x, 3, clear).scores.values()} == {4}
    assert adjusted_rand_score(truth, choose(x, 3, clear)) > 0.95


def test_modularity_matches_its_definition():
    rng = np.random.default_rng(0)
    a = rng.random((30, 30))
    a = a + a.T
    clusters = rng.integers(3, size=30)
    degree, total = a.sum(axis=1), a.sum()
    wanted = sum(
        a[i, j] / total - 0.5 * degree[i] * degree[j] / total**2
        for i in range(30)
        for j in range(30)
        if clusters[i] == clusters[j]
    )
    assert partition.modularity(sp.csr_matrix(a), clusters) == pytest.approx(wanted, rel=1e-12)


def test_centers_are_means():
    x, truth = groups([5, 9])
    found = partition.centers_of(x, truth, 2)
    np.testing.assert_allclose(found, [x[truth == 0].mean(axis=0), x[truth == 1].mean(axis=0)])


def test_few_cells_need_no_merging():
    x, _ = groups([4, 4])
    assert len(choose(x, 2)) == 8


def test_cells_without_a_direction():
    x, truth = groups([60, 60])
    found = choose(np.concatenate([x, np.zeros((30, x.shape[1]))]), 3)
    assert adjusted_rand_score([*truth, *30 * [2]], found) == 1


def test_kmeans_of_few_kinds_finds_those_and_warns_of_nothing():
    x = np.repeat(np.eye(3, 5), 10, axis=0)
    x[x == 0] = np.tile([0.0, -0.0], 60)
    for k, wanted in ((2, 2), (3, 3), (7, 3)):
        assert len(np.unique(partition.kmeans(x, k, seed=0))) == wanted


def test_cells_that_are_all_alike_are_refused():
    with pytest.raises(ValueError, match="distinct enough for 3 clusters, found 1"):
        choose(np.ones((40, 5)), 3)
