"""The consensus of draws: matching, majority, and the partition it makes."""

import re
from functools import partial

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from scsiameseclu_jax.partition import consensus, voting
from scsiameseclu_jax.partition.candidates import TooFewKindsError, ranked_candidates
from scsiameseclu_jax.partition.workers import in_workers
from scsiameseclu_jax.preprocessing.neighbors import unit_rows


@pytest.fixture(autouse=True)
def _all_draws(monkeypatch):
    """As many draws as users have: other quick tests take fewer."""
    monkeypatch.setattr(consensus, "_DRAWS", 20)


def groups(sizes, spread=0.25, seed=0):
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    centers = rng.normal(size=(len(sizes), 12))
    return centers[truth] + spread * rng.normal(size=(len(truth), 12)), truth


def first(x, k, seed=0, batch=None, how="consensus"):
    return consensus.first_partition(x, [x], k, n_neighbors=10, batch=batch, how=how, seed=seed)


@pytest.mark.parametrize("sizes", [[60, 60, 60, 60], [300, 60, 30, 15]])
def test_finds_clear_groups_of_like_and_of_unlike_size(sizes):
    x, truth = groups(sizes)
    found = first(x, len(sizes))
    assert adjusted_rand_score(truth, found.clusters) > 0.95
    assert set(found.clusters) == set(range(len(sizes)))
    assert re.fullmatch(r"consensus of \d{2,3} candidates in 20 draws", found.name)
    assert found.votes.max(axis=1).mean() > 0.95


def test_it_repeats_and_other_seeds_make_other_draws():
    x, _ = groups([90, 60, 40], spread=0.9)
    one, again, other = (first(x, 3, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.clusters, again.clusters)
    np.testing.assert_array_equal(one.votes, again.votes)
    assert not np.array_equal(one.votes, other.votes)
    np.testing.assert_allclose(one.votes.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(one.votes.argmax(axis=1), one.clusters)


@pytest.mark.parametrize("seed", [4, 6])
def test_agreement_is_less_where_groups_overlap(seed):
    # Two groups far from all others; two that are one blob with a long axis.
    x, truth = groups([80, 80, 90, 90], spread=0.25, seed=seed)
    x[truth == 3] += 0.8 * (x[truth == 2].mean(0) - x[truth == 3].mean(0))
    found = first(x, 4)
    agreement = found.votes.max(axis=1)
    apart, overlapping = (agreement[part].mean() for part in (truth < 2, truth >= 2))
    assert apart > 0.95
    assert 0.5 < overlapping < apart - 0.03


def test_a_plausible_partition_is_one_of_the_best_quarter():
    x, _ = groups([80, 80, 90, 90], spread=0.6)
    draws = consensus._Draws(x, unit_rows(x), [x, x**3], 5, 10, None, None, seed=0)
    names = set()

    def pick(seed):
        return consensus.first_partition(
            x, [x, x**3], 5, n_neighbors=10, how="candidate", seed=seed
        )

    for seed in range(8):
        found = pick(seed)
        rows, spaces, start = draws._replace(seed=seed).sample(0, draws.most)
        rank = partial(ranked_candidates, x[rows], spaces, seed=start, n_starts=2)
        (ranked,) = in_workers(rank, [5])
        at = list(ranked.scores).index(found.name)
        assert at < 0.25 * len(ranked.scores) + 0.5
        # those drawn are all cells here
        np.testing.assert_array_equal(found.clusters[rows], ranked.clusters[at])
        names.add(found.name)
    assert len(names) > 3
    np.testing.assert_array_equal(pick(7).clusters, found.clusters)


def test_a_plausible_partition_of_clear_groups_is_those_groups():
    x, truth = groups([60, 60, 60, 60])
    for seed in range(3):
        found = first(x, 4, seed, how="candidate")
        assert adjusted_rand_score(truth, found.clusters) > 0.95


def test_too_few_kinds_of_cells_is_said():
    x = np.repeat(np.eye(3, 12), 20, axis=0)
    for how in ("consensus", "candidate"):
        with pytest.raises(TooFewKindsError, match="distinct enough for 5 clusters, found 3"):
            first(x, 5, how=how)


def test_draws_with_too_few_kinds_do_not_vote():
    # the one cell of the rare kind is left out of every fifth draw
    x = np.repeat(np.eye(3, 12), [40, 40, 1], axis=0)
    draws = consensus._Draws(x, x, [x], 3, 1, None, None, seed=0)
    kinds = [len(np.unique(x[draws.sample(i, 65)[0]], axis=0)) for i in range(20)]
    votes = [bool(draws.candidates(i, size=65)) for i in range(20)]
    assert votes == [number == 3 for number in kinds]
    assert 0 < sum(votes) < 20


@pytest.mark.parametrize("how", ["consensus", "candidate"])
def test_any_other_error_in_a_draw_surfaces(monkeypatch, how):
    def broken(*args, **options):
        msg = "a matrix was singular"
        raise ValueError(msg)

    monkeypatch.setattr(consensus, "ranked_candidates", broken)
    with pytest.raises(ValueError, match="singular"):
        first(groups([60, 60])[0], 2, how=how)


def test_match_undoes_renaming():
    rng = np.random.default_rng(0)
    clusters = rng.integers(0, 5, 200)
    names = rng.permutation(5)
    np.testing.assert_array_equal(voting.match(clusters, names[clusters], 5)[names], range(5))
    table = voting.overlap(clusters, names[clusters], 5)
    assert table.sum() == 200
    assert (table > 0).sum() == 5


def test_majority_of_renamed_partitions():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 300)
    noisy = []
    for _ in range(7):
        one = truth.copy()
        moved = rng.random(300) < 0.2
        one[moved] = rng.integers(0, 4, moved.sum())
        noisy.append(rng.permutation(4)[one])
    made, votes = voting.majority(noisy, 4, lead=2)
    assert adjusted_rand_score(truth, made) > 0.97
    assert max(adjusted_rand_score(truth, one) for one in noisy) < 0.8
    assert votes.max(axis=1).mean() == pytest.approx(0.85, abs=0.03)
    np.testing.assert_array_equal(votes.argmax(axis=1), made)


def test_no_cluster_is_lost():
    # Each partition splits another group in two, so the fourth cluster wins nowhere.
    truth = np.repeat([0, 1, 2], 60)
    halves = []
    for group in range(3):
        one = truth.copy()
        one[np.flatnonzero(truth == group)[:20]] = 3
        halves.append(one)
    made, votes = voting.majority(halves, 4, lead=0)
    assert set(made) == {0, 1, 2, 3}
    # The lead decided alone, but all voted.
    np.testing.assert_allclose(votes.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(votes[made == 3, 3], 1 / 3, rtol=1e-6)


def test_the_best_partition_leads_though_others_are_more():
    # Three have the groups as they are; five split the largest, each elsewhere, and lose the least.
    truth = np.repeat([0, 1, 2, 3], [200, 30, 20, 10])
    partitions = [truth] * 3
    for start in range(0, 200, 40):
        split = truth.copy()
        split[truth == 3] = 2
        split[start : start + 40] = 3
        partitions.append(split)
    made, _ = voting.majority(partitions, 4, lead=1)
    assert adjusted_rand_score(truth, made) == 1
