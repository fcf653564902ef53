"""Simulated cells."""

import numpy as np
import pytest
import scanpy as sc
from scipy import sparse, stats
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.metrics import adjusted_rand_score

from scsiameseclu_jax import datasets
from scsiameseclu_jax.datasets import simulation


def test_simulated_cells():
    adata = datasets.simulate(n_cells=500, n_genes=300, n_clusters=6, rng=1)
    assert adata.shape == (500, 300)
    assert isinstance(adata.X, sparse.csr_matrix)
    assert adata.X.dtype == np.float32
    assert adata.X.has_sorted_indices
    assert adata.X.nnz < 0.5 * 500 * 300
    np.testing.assert_array_equal(adata.X.data, np.round(adata.X.data))
    assert adata.X.data.min() >= 1
    assert adata.X.sum(axis=1).min() >= 1
    assert adata.X.mean() == pytest.approx(0.5, rel=0.1)
    labels = adata.obs["cell_type"]
    assert labels.cat.categories.tolist() == list("012345")
    sizes = labels.value_counts()[list("012345")].to_numpy()
    assert (np.diff(sizes) < 0).all()
    assert sizes[0] / sizes[-1] == pytest.approx(10, rel=0.1)
    # Not sorted by cluster.
    assert (labels.cat.codes.diff() < 0).sum() > 100
    assert adata.obs_names[-1] == "cell_499"
    assert adata.var_names[-1] == "gene_299"


def test_same_seed_same_bits():
    def draw(rng):
        return datasets.simulate(n_cells=90, n_genes=40, n_clusters=3, rng=rng)

    first, again = draw(3), draw(np.random.default_rng(3))
    assert (first.X != again.X).nnz == 0
    assert first.obs.equals(again.obs)
    other = draw(4)
    assert (first.X != other.X).nnz > 0
    generator = np.random.default_rng(3)
    assert (draw(generator).X != draw(generator).X).nnz > 0


@pytest.mark.parametrize(("mean", "dispersion"), [(0.02, 0.3), (0.8, 0.3), (4.0, 2.0), (3.0, 1e-6)])
def test_counts_are_negative_binomial(mean, dispersion):
    n = 200_000
    means = np.full((n // 500, 500), mean, np.float32)
    drawn = simulation._negative_binomial(np.random.default_rng(0), means, dispersion)
    counts = drawn.toarray().ravel().astype(int)
    size = 1 / dispersion
    probability = size / (size + mean)
    # Bins with at least ten expected, the last one open.
    n_bins = 1 + int(stats.nbinom.isf(20 / n, size, probability))
    expected = stats.nbinom.pmf(np.arange(n_bins), size, probability)
    expected[-1] += stats.nbinom.sf(n_bins - 1, size, probability)
    observed = np.bincount(np.minimum(counts, n_bins - 1), minlength=n_bins)
    assert stats.chisquare(observed, expected / expected.sum() * n).pvalue > 1e-3


def test_variance_exceeds_the_mean():
    adata = datasets.simulate(2000, 50, 1, dispersion=1.0, mean_count=2.0)
    counts = adata.X.toarray()
    mean = counts.mean(axis=0)
    assert (mean > 1).sum() > 10
    assert (counts.var(axis=0) > 1.5 * mean)[mean > 1].all()


def test_no_cell_is_empty():
    adata = datasets.simulate(400, 20, 2, mean_count=1e-3)
    np.testing.assert_array_equal(np.asarray(adata.X.sum(axis=1)).ravel() >= 1, True)
    assert adata.X.sum() < 420


@pytest.mark.parametrize(("n_cells", "n_clusters"), [(8, 4), (9, 4), (20, 8), (100, 1)])
def test_no_cluster_is_smaller_than_two(n_cells, n_clusters):
    adata = datasets.simulate(n_cells, 10, n_clusters, size_ratio=1000.0)
    sizes = adata.obs["cell_type"].value_counts()
    assert len(sizes) == n_clusters
    assert sizes.min() >= 2
    assert sizes.sum() == n_cells


def test_the_first_cluster_is_the_largest_whatever_the_rest_is_filled_from():
    assert simulation._cluster_sizes(11, 5, 10.0).tolist() == [3, 2, 2, 2, 2]


def test_equal_sizes():
    assert simulation._cluster_sizes(90, 3, 1.0).tolist() == [30, 30, 30]


def test_blocks_cover_all_cells(monkeypatch):
    monkeypatch.setattr(simulation, "_BLOCK", 70)
    adata = datasets.simulate(101, 30, 3)
    assert adata.shape == (101, 30)
    assert adata.X.sum(axis=1).min() >= 1


def agreement(difficulty):
    adata = datasets.simulate(600, 500, 5, difficulty=difficulty, rng=2)
    sc.pp.normalize_total(adata, target_sum=1e3)
    sc.pp.log1p(adata)
    scores = TruncatedSVD(10, random_state=0).fit_transform(adata.X)
    clusters = KMeans(5, n_init=3, random_state=0).fit_predict(scores[:, 1:])
    return adjusted_rand_score(adata.obs["cell_type"], clusters)


def test_difficulty():
    easy, middle, hard = (agreement(difficulty) for difficulty in (0.1, 0.75, 0.95))
    assert easy > 0.9
    assert easy > middle + 0.1
    assert middle > hard + 0.1
    assert hard < 0.1


def test_near_clusters_share_programmes():
    profiles = simulation._profiles(np.random.default_rng(0), 4000, 8, 3.0)
    similar = np.sort(np.corrcoef(np.log(profiles))[~np.eye(8, dtype=bool)].reshape(8, 7))
    # Each leaf has one sibling, nearer than any cluster of the other half of the tree.
    assert (similar[:, -1] > similar[:, 0] + 0.1).all()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n_clusters": 0}, ValueError, "`n_clusters` to be at least 1, found 0"),
        ({"n_cells": 15}, ValueError, "`n_cells` to be at least 16, found 15. Each cluster needs"),
        ({"n_genes": 1}, ValueError, "`n_genes` to be at least 2, found 1"),
        ({"n_cells": 1e3}, TypeError, "`n_cells` to be an integer, found 1000.0"),
        ({"n_clusters": True}, TypeError, "`n_clusters` to be an integer, found True"),
        ({"difficulty": 1.1}, ValueError, "`difficulty` to be between 0 and 1, found 1.1"),
        ({"difficulty": np.nan}, ValueError, "`difficulty` to be between 0 and 1, found nan"),
        ({"size_ratio": 0.5}, ValueError, "`size_ratio` to be between 1 and .*, found 0.5"),
        ({"dispersion": 0}, ValueError, "`dispersion` to be between 1e-06 and 100, found 0"),
        ({"mean_count": "1"}, TypeError, "`mean_count` to be a number, found '1'"),
        ({"rng": -1}, ValueError, "`rng` to be 0 or more, found -1"),
        ({"rng": None}, TypeError, "`rng` to be an integer or a numpy Generator, found None"),
    ],
)
def test_arguments(options, error, match):
    with pytest.raises(error, match=f"Expected {match}"):
        datasets.simulate(**options)
