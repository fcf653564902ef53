import numpy as np
import pytest
from scipy.cluster.hierarchy import cut_tree, is_monotonic, is_valid_linkage, linkage
from sklearn.metrics import adjusted_rand_score

from scsiameseclu_jax.partition import tree as module
from scsiameseclu_jax.partition.tree import cluster_tree, cut, leaf_clusters


def cells(n=600, k=5, *, parts=2, seed=0):
    """Rows around `parts` centres for each of k clusters, and both."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.resize(np.arange(k * parts), n))
    centers = 6 * np.repeat(rng.normal(size=(k, 12)), parts, axis=0)
    centers += 2 * rng.normal(size=centers.shape)
    return centers[codes] + 0.3 * rng.normal(size=(n, 12)), codes // parts, codes


def same_partition(a, b):
    return len(np.unique(a)) == len(np.unique(b)) == len(np.unique(np.stack([a, b]), axis=1).T)


def test_tree_is_one_of_scipy_and_goes_through_the_partition():
    x, clusters, _ = cells()
    tree = cluster_tree(x, clusters, seed=0)
    assert tree.n_clusters == 5
    assert 40 <= tree.n_leaves <= 70
    assert is_valid_linkage(tree.linkage)
    assert is_monotonic(tree.linkage)
    np.testing.assert_array_equal(np.unique(tree.leaves), np.arange(tree.n_leaves))
    assert same_partition(cut(tree, 5), clusters)
    heights = tree.linkage[:, 2]
    assert heights[: tree.n_leaves - 5].max() <= 2 < 3 <= heights[tree.n_leaves - 5 :].min()


@pytest.mark.parametrize("seed", range(3))
def test_the_partition_is_a_level_whatever_it_is(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(400, 3))
    labels = rng.choice([7, 3, 900, 4, 11], p=[0.6, 0.3, 0.06, 0.03, 0.01], size=400)
    tree = cluster_tree(x, labels, seed=seed)
    assert same_partition(cut(tree, tree.n_clusters), labels)
    names = np.array([f"type {label}" for label in labels])
    assert same_partition(cut(cluster_tree(x, names, seed=seed), tree.n_clusters), names)


def test_levels_are_nested_and_of_their_number_of_clusters_by_size():
    x, clusters, _ = cells(seed=1)
    tree = cluster_tree(x, clusters, seed=0)
    finer = tree.leaves
    for k in range(tree.n_leaves, 1, -1):
        level = cut(tree, k)
        sizes = np.bincount(level)
        assert len(sizes) == k
        assert (np.diff(sizes) <= 0).all()
        assert len(np.unique(np.stack([level, finer]), axis=1).T) == len(np.unique(finer))
        np.testing.assert_array_equal(level, leaf_clusters(tree, k)[tree.leaves])
        of_scipy = cut_tree(tree.linkage, n_clusters=k).ravel()[tree.leaves]
        assert same_partition(level, of_scipy)
        finer = level


def test_parts_of_clusters_are_found_below_and_near_clusters_are_merged_above():
    x, clusters, parts = cells(n=900, k=4, seed=2)
    tree = cluster_tree(x, clusters, seed=0)
    assert adjusted_rand_score(parts, cut(tree, 8)) > 0.95
    coarse, _, fine = cells(n=900, k=4, seed=2)
    merged = cluster_tree(coarse, fine, seed=0)
    assert adjusted_rand_score(clusters, cut(merged, 4)) > 0.95


def test_average_linkage_is_that_of_scipy_over_cells():
    rng = np.random.default_rng(0)
    points, weights = rng.normal(size=(9, 4)), rng.integers(1, 6, 9)
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    merges = module._average_linkage(distances, weights)
    oracle = linkage(np.repeat(points, weights, axis=0), method="average")
    np.testing.assert_allclose(merges[:, 2], oracle[-8:, 2])
    alike = module._average_linkage(distances, np.full(9, 7))
    np.testing.assert_allclose(alike, linkage(points, method="average"))


def test_small_groups_join_one_of_their_own_cluster():
    x, clusters, _ = cells(n=300, k=3)
    x[:2] = 100 * np.eye(12)[:2]  # outliers, far from each other and from all else
    tree = cluster_tree(x, clusters, seed=0)
    assert np.bincount(tree.leaves).min() >= 3
    assert same_partition(cut(tree, 3), clusters)


def test_clusters_of_few_cells_are_a_leaf_each():
    x = np.random.default_rng(0).normal(size=(12, 3))
    labels = np.repeat(np.arange(6), 2)
    tree = cluster_tree(x, labels, seed=0)
    assert tree.n_leaves == tree.n_clusters == 6
    assert same_partition(cut(tree, 6), labels)
    assert len(np.unique(cut(tree, 2))) == 2


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_cells_that_are_alike(value):
    labels = np.repeat(np.arange(3), [50, 30, 20])
    tree = cluster_tree(np.full((100, 4), value), labels, seed=0)
    assert np.isfinite(tree.linkage).all()
    assert same_partition(cut(tree, 3), labels)


def test_a_tree_is_the_same_each_time():
    x, clusters, _ = cells()
    one, two = (cluster_tree(x, clusters, seed=3) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_labels_that_make_no_tree_are_refused():
    x = np.ones((10, 2))
    with pytest.raises(ValueError, match="two different ones"):
        cluster_tree(x, np.zeros(10, int), seed=0)
    with pytest.raises(ValueError, match="found 9 of 9 cells"):
        cluster_tree(x, np.arange(9), seed=0)


@pytest.mark.parametrize("k", [-1, 1, 1000])
def test_levels_outside_the_tree_are_refused(k):
    x, clusters, _ = cells()
    tree = cluster_tree(x, clusters, seed=0)
    with pytest.raises(ValueError, match=f"between 2 and {tree.n_leaves}"):
        cut(tree, k)
