"""Questions and answers: which candidates vote, what is asked next, what answers repair."""

from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from scsiameseclu_jax.partition import questions
from scsiameseclu_jax.partition.questions import Pool, ask, choose, kept, small_groups
from scsiameseclu_jax.partition.voting import majority
from scsiameseclu_jax.preprocessing.constraints import Answers, add_answer
from scsiameseclu_jax.preprocessing.neighbors import unit_rows

NONE = Answers([], [], np.zeros(0, np.int8))
SIZES = [12, 20, 9, 30, 7, 16]  # cells of six groups


def pool_of(of_groups, ranks=None, distances=None):
    """A pool whose candidates have the groups as a whole."""
    of_groups, groups = np.array(of_groups), np.repeat(np.arange(len(SIZES)), SIZES)
    m, n_groups = len(of_groups), len(SIZES)
    rng = np.random.default_rng(0)
    if distances is None:
        z = unit_rows(rng.normal(size=(n_groups, 4)))
        distances = 1 - z @ z.T
    return Pool(
        names=[f"candidate {i}" for i in range(m)],
        clusters=of_groups[:, groups].astype(np.uint8),
        ranks=np.full(m, 0.5, np.float32) if ranks is None else np.array(ranks, np.float32),
        voters=np.arange(min(3, m)),
        lead=1,
        groups=groups.astype(np.uint8),
        distances=distances.astype(np.float32),
    )


def random_pool(m=30, k=3, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    while len(rows) < m:
        row = rng.integers(0, k, len(SIZES))
        if len(set(row)) == k:
            rows.append(row)
    return pool_of(rows, rng.random(m))


def cells_of(pool, group):
    return np.flatnonzero(pool.groups == group)


def dense_shares(pool, answers):
    """Weights of the candidates alone, one at a time."""
    weights = []
    for clusters, rank in zip(pool.clusters, pool.ranks, strict=True):
        weight = np.exp(-2 * float(rank))
        for one, two, same in zip(*answers, strict=True):
            together = np.bincount(clusters[one]).argmax() == np.bincount(clusters[two]).argmax()
            if same >= 0 and together != bool(same):
                weight *= 0.25
        weights.append(weight)
    return np.array(weights) / sum(weights)


def test_without_answers_those_that_rank_high_vote():
    pool = random_pool()
    expected, votes = majority([pool.clusters[i] for i in pool.voters], 3, lead=1)
    for answers in (None, NONE, Answers([cells_of(pool, 0)], [cells_of(pool, 1)], np.array([-1]))):
        choice = choose(pool, answers)
        np.testing.assert_array_equal(choice.clusters, expected)
        np.testing.assert_array_equal(choice.votes, votes)


@pytest.mark.parametrize("seed", range(4))
def test_the_first_question_is_the_one_that_a_dense_sum_finds(seed):
    pool = random_pool(seed=seed)
    weights = dense_shares(pool, NONE)
    best, pair, share = -1.0, None, None
    for a, b in combinations(range(len(SIZES)), 2):
        one, two = cells_of(pool, a), cells_of(pool, b)
        together = [c[one[0]] == c[two[0]] for c in pool.clusters]
        p = float(np.sum(weights * together))
        value = p * (1 - p) * np.sqrt(SIZES[a] * SIZES[b])
        if value > best:
            best, pair, share = value, (a, b), p
    found = ask(pool, n=3)
    asked = [{int(pool.groups[cells[0]]) for cells in question.cells} for question in found]
    assert set(pair) in asked
    question = found[asked.index(set(pair))]
    assert question.together == pytest.approx(share, rel=1e-5)
    assert [len(cells) for cells in question.cells] == [SIZES[g] for g in pair]


def test_further_questions_leave_out_what_answers_to_the_first_would_tell():
    pool = random_pool(seed=1)
    weights = dense_shares(pool, NONE)
    pairs = list(combinations(range(len(SIZES)), 2))
    ends = {pair: [cells_of(pool, g)[0] for g in pair] for pair in pairs}
    together = np.array(
        [pool.clusters[:, ends[p][0]] == pool.clusters[:, ends[p][1]] for p in pairs]
    )
    x = (together - (together @ weights)[:, None]) * np.sqrt(weights)
    size = np.array([np.sqrt(SIZES[a] * SIZES[b]) for a, b in pairs])
    chosen = []
    for _ in range(4):
        known = x[chosen].T
        rest = x.T - known @ np.linalg.lstsq(known, x.T, rcond=None)[0] if chosen else x.T
        value = (rest**2).sum(axis=0) * size
        value[chosen] = -1
        chosen.append(int(value.argmax()))
    found = questions._Weighted(pool, NONE).informative_pairs(4)
    assert [pair[:2] for pair in found] == [pairs[i] for i in chosen]


def test_questions_that_change_nothing_by_themselves_come_last():
    found = ask(random_pool(seed=1), n=8)
    idle = [not (question.if_same != question.if_different).any() for question in found]
    assert idle == sorted(idle)
    assert not idle[0]


def test_answers_that_are_kept_already_change_nothing():
    pool = random_pool(seed=4)
    plain = choose(pool)
    one, two = cells_of(pool, 0), cells_of(pool, 1)
    same = plain.clusters[one[0]] == plain.clusters[two[0]]
    choice = choose(pool, add_answer(NONE, one, two, same=bool(same)))
    np.testing.assert_array_equal(choice.clusters, plain.clusters)
    np.testing.assert_array_equal(choice.votes, plain.votes)


def test_an_answer_brings_forward_the_candidates_that_keep_it():
    together, apart = [0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 2]
    pool = pool_of([apart] * 12 + [together] * 12, ranks=[0.2] * 12 + [0.4] * 12)
    one, two = cells_of(pool, 0), cells_of(pool, 1)
    for same, expected in ((True, together), (False, apart)):
        answers = add_answer(NONE, one, two, same=same)
        found = choose(pool, answers).clusters
        assert adjusted_rand_score(found, np.array(expected)[pool.groups]) == 1
        assert kept(found, answers).tolist() == [True]
    assert not kept(np.array(apart)[pool.groups], add_answer(NONE, one, two, same=True))[0]
    unsure = Answers([one], [two], np.array([-1], np.int8))
    assert kept(np.array(apart)[pool.groups], unsure).tolist() == [True]
    # not sure: not asked again, and of no account otherwise
    pairs = [{int(pool.groups[c[0]]) for c in q.cells} for q in ask(pool, unsure, n=20)]
    assert {0, 1} not in pairs
    assert pairs


def test_answers_that_all_candidates_contradict_repair_the_partition():
    z = unit_rows(
        np.array([[1, 0, 0], [1, 0.2, 0], [0, 1, 0], [0, 1, 0.2], [0, 0, 1], [0.2, 0, 1]])
    )
    wrong = [0, 0, 0, 0, 1, 2]  # all have 0 to 3 as one, and 4 and 5 apart
    pool = pool_of([wrong] * 24, distances=1 - z @ z.T)
    answers = NONE
    for a, b, same in ((0, 2, False), (1, 3, False), (4, 5, True)):
        answers = add_answer(answers, cells_of(pool, a), cells_of(pool, b), same=same)
    found = choose(pool, answers).clusters
    assert adjusted_rand_score(found, np.array([0, 0, 1, 1, 2, 2])[pool.groups]) == 1
    assert kept(found, answers).all()


def test_names_of_clusters_and_the_order_of_cells_do_not_matter():
    pool = random_pool(seed=3)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(pool.groups))
    renamed = np.array([rng.permutation(3)[c] for c in pool.clusters])
    other = pool._replace(clusters=renamed).of_cells(order)
    back = np.argsort(order)
    answers, moved = NONE, NONE
    for _ in range(4):
        (question,), (same_question,) = ask(pool, answers, n=1), ask(other, moved, n=1)
        for one, two in zip(question.cells, same_question.cells, strict=True):
            assert set(back[one]) == set(two)
        answers = add_answer(answers, *question.cells, same=False)
        moved = add_answer(moved, *same_question.cells, same=False)
        found, again = choose(pool, answers).clusters, choose(other, moved).clusters
        assert adjusted_rand_score(found[order], again) == 1


def test_what_would_change_is_what_an_answer_changes():
    pool = random_pool(seed=5)
    (question,) = ask(pool, n=1)
    for same, stated in ((True, question.if_same), (False, question.if_different)):
        found = choose(pool, add_answer(NONE, *question.cells, same=same)).clusters
        assert adjusted_rand_score(found, stated) == 1


def test_candidates_that_agree_leave_nothing_to_ask():
    assert ask(pool_of([[0, 0, 1, 1, 2, 2]] * 9), n=5) == []


def test_groups_of_few_cells_are_asked_about_only_if_there_are_no_others():
    pool = random_pool(seed=2)
    groups = pool.groups.copy()
    groups[cells_of(pool, 4)[2:]] = 3  # two cells are left
    few = pool._replace(groups=groups)
    asked = {int(few.groups[c[0]]) for q in ask(few, n=50) for c in q.cells}
    assert asked == {0, 1, 2, 3, 5}


def test_small_groups():
    rng = np.random.default_rng(0)
    unit = unit_rows(rng.normal(size=(500, 6)))
    groups, distances = small_groups(unit, 4, seed=0)
    assert set(groups) == set(range(60))
    assert distances.shape == (60, 60)
    assert distances.dtype == np.float32
    centers = unit_rows(np.array([unit[groups == g].mean(axis=0) for g in range(60)]))
    np.testing.assert_allclose(distances, 1 - centers @ centers.T, atol=1e-6)
    assert len(small_groups(unit, 100, seed=0)[1]) == 150
    assert len(small_groups(unit[:30], 4, seed=0)[1]) == 10


def test_one_in_so_many_candidates_votes():
    pool = random_pool(m=60)
    answers, least = NONE, round(60 / questions._VOTE)
    for a, b in combinations(range(4), 2):  # more than the partition without answers can keep
        answers = add_answer(answers, cells_of(pool, a), cells_of(pool, b), same=False)
    plain = choose(pool).clusters
    assert not kept(plain, answers).all()
    assert choose(pool, answers).n_voters in (least, least + questions._SAY)
    np.testing.assert_allclose(choose(pool, answers).votes.sum(axis=1), 1, rtol=1e-6)
