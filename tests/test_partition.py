"""The first partition: what the candidates and criteria do."""

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.metrics import adjusted_rand_score

from scsiameseclu_jax import partition, pp


def groups(sizes, *, spread=0.25, seed=0):
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    centers = rng.normal(size=(len(sizes), 12))
    return centers[truth] + spread * rng.normal(size=(len(truth), 12)), truth


def graph(x):
    found, cells = pp.nearest_neighbors(x, 10)
    links = sp.csr_matrix((np.ones(len(found)), (cells, found)), shape=(len(x), len(x)))
    links = links.maximum(links.T) + sp.eye(len(x))
    scale = sp.diags(np.asarray(links.sum(axis=1)).ravel() ** -0.5)
    return sp.csr_matrix(scale @ links @ scale)


@pytest.mark.parametrize("sizes", [[60, 60, 60, 60], [300, 60, 20, 10]])
def test_finds_clear_groups_of_like_and_of_unlike_size(sizes):
    x, truth = groups(sizes)
    choice = partition.first_partition(x, x, graph(x), len(sizes), seed=0)
    assert adjusted_rand_score(truth, choice.clusters) > 0.95
    assert choice.name in choice.scores
    assert set(choice.clusters) == set(range(len(sizes)))


def test_choice_is_best_by_the_sum_of_ranks():
    x, _ = groups([80, 40, 20], spread=0.8)
    choice = partition.first_partition(x, x, graph(x), 3, seed=0)
    names, table = list(choice.scores), np.array(list(choice.scores.values()))
    wins = np.array([(table < row).sum() + 0.5 * (table == row).sum() for row in table])
    assert wins[names.index(choice.name)] == wins.max()


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
    choice = partition.first_partition(x, x, graph(x), 2, seed=0)
    assert len(choice.clusters) == 8


def test_cells_that_are_all_alike_are_refused():
    x = np.ones((40, 5))
    with pytest.raises(ValueError, match="distinct enough for 3 clusters, found 1"):
        partition.first_partition(x, x, sp.eye(40, format="csr"), 3, seed=0)
