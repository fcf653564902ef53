"""Heads on features: calibration, shift, novelty, against what they were made from."""

import numpy as np
import pytest

from scsiameseclu_jax.tl import heads

OPTIONS = {"method": "logistic", "strength": 0.01, "n_folds": 5, "seed": 0}


def blobs(sizes, *, seed=0, spread=1.0, far=3.0, n_features=10):
    """Gaussian types around axes; features [n, p] and the type [n] of each cell."""
    rng = np.random.default_rng(seed)
    types = np.repeat(np.arange(len(sizes)), sizes)
    x = far * np.eye(len(sizes), n_features)[types]
    return x + spread * rng.normal(size=x.shape), np.array([f"t{i}" for i in types], dtype=object)


def test_features_of_have_equal_say():
    rng = np.random.default_rng(0)
    one, two = 100 * rng.random((50, 3)), rng.normal(size=(50, 8))
    two[0] = 0  # a cell without counts of these genes, say
    made = heads.features_of([one, two])
    assert made.shape == (50, 11)
    for block in (made[:, :3], made[:, 3:]):
        assert block.std() == pytest.approx(1)
        np.testing.assert_allclose(block.mean(axis=0), 0, atol=1e-12)
    deep = heads.features_of([one * rng.uniform(1, 9, (50, 1)), two])  # depth does not matter
    np.testing.assert_allclose(deep, made, atol=1e-12)


def test_folds_leave_cells_of_every_type_outside():
    codes = np.repeat([0, 1, 2, 3], [20, 7, 2, 1])
    fold = heads._folds(codes, 5, 0)
    assert fold[-1] == -1  # the only cell of its type is never left out
    assert set(fold[:-1]) == set(range(5))
    for i in range(5):
        assert set(codes[fold != i]) == {0, 1, 2, 3}
    assert np.ptp(np.bincount(fold[:20])) == 0
    assert np.ptp(np.bincount(fold[20:27], minlength=5)) == 1
    np.testing.assert_array_equal(fold, heads._folds(codes, 5, 0))
    assert (fold != heads._folds(codes, 5, 1)).any()


@pytest.mark.parametrize("power", [0.3, 1.0, 3.0])
def test_temperature_undoes_what_was_done_to_probabilities(power):
    rng = np.random.default_rng(0)
    true = rng.dirichlet(np.ones(4), 20_000)
    codes = (rng.random((len(true), 1)) > true.cumsum(axis=1)).sum(axis=1)
    stated = true**power / (true**power).sum(axis=1, keepdims=True)
    assert heads._temperature(stated, codes) == pytest.approx(power, rel=0.08)


@pytest.mark.parametrize("method", heads.METHODS)
def test_left_out_cells_calibrate(method):
    x, types = blobs([150] * 4, spread=1.6)
    made = heads.predict_types(x, types, **(OPTIONS | {"method": method}), shifted=False)
    sure, right = made.proba.max(axis=1), made.types[made.proba.argmax(axis=1)] == types
    assert 0.7 < right.mean() < 0.99
    assert sure.mean() == pytest.approx(right.mean(), abs=0.03)
    assert made.calibration_error < 0.06
    np.testing.assert_allclose(made.proba.sum(axis=1), 1)


def test_shift_is_found_whatever_the_shares_of_types():
    known, types = blobs([100, 100, 100])
    new, truth = blobs([190, 10, 0], seed=1)
    shift = np.zeros(10)
    shift[[0, 5]] = -1.0, 2.0
    x = np.concatenate([known, new + shift])
    names = np.concatenate([types, np.full(len(new), None)])
    made = heads.predict_types(x, names, **OPTIONS, shifted=True)
    np.testing.assert_array_equal(made.moved[:300], known)
    found = (x - made.moved)[300:]
    assert np.ptp(found, axis=0).max() < 1e-12  # the same for all of them
    assert np.abs(found[0] - shift).max() < 0.3
    by_means = new.mean(axis=0) + shift - known.mean(axis=0)
    assert np.abs(by_means - shift).max() > 1  # shares of types mislead it
    assert (made.types[made.proba[300:].argmax(axis=1)] == truth).mean() > 0.93


def test_nothing_moves_unless_asked():
    x, types = blobs([50, 50])
    names = np.where(np.arange(100) % 2, types, None)
    made = heads.predict_types(x, names, **OPTIONS, shifted=False)
    np.testing.assert_array_equal(made.moved, x)
    assert made.proba.shape == (100, 2)


@pytest.mark.parametrize("size", [100, 10])  # pooled over similar cells, or not
def test_novelty_is_uniform_for_like_cells_and_large_for_others(size):
    x, _ = blobs([300, 300, size, size], far=8)
    known = np.arange(len(x)) < 500
    found = heads.novelty(x, known)
    like, unlike = found[:100], found[100 + size :]
    assert 0.3 < like.mean() < 0.7
    assert (unlike > 0.95).mean() > 0.9
    assert len(heads.novelty(x, np.ones(len(x), bool))) == 0


def test_prototypes_are_nearest_means():
    x, types = blobs([80, 30, 5])
    codes = np.unique(types, return_inverse=True)[1]
    means = np.array([x[codes == i].mean(axis=0) for i in range(3)])
    distance = ((x[:, None] - means) ** 2).sum(axis=2)
    head = heads._Prototypes().fit(x, codes)
    variance = distance[np.arange(115), codes].mean() / 10
    wanted = np.exp(-distance / (2 * variance))
    np.testing.assert_allclose(head.predict_proba(x), wanted / wanted.sum(axis=1, keepdims=True))
