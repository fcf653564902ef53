"""Terms, and what is watched beside them, against dense forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances

import scsiameseclu_jax.functional as F
from scsiameseclu_jax.functional.objective import draw_cells


def cells(seed=0, n=20, pad=5):
    z = np.random.default_rng(seed).normal(size=(n, 4)) + 0.5
    mask = (np.arange(n + pad) < n).astype(float)
    return z, jnp.asarray(np.pad(z, [(0, pad), (0, 0)], constant_values=9.0)), jnp.asarray(mask)


def test_mean_cosine_is_that_of_all_pairs(x64):
    z, padded, mask = cells()
    dense = cosine_similarity(z)
    wanted = dense[~np.eye(len(z), dtype=bool)].mean()
    assert float(F.mean_cosine(padded, mask)) == pytest.approx(wanted, rel=1e-10)
    same = jnp.ones((6, 3))
    assert float(F.mean_cosine(same, jnp.ones(6))) == pytest.approx(1)


def test_silhouette_is_that_of_sorted_distances(x64):
    z, padded, mask = cells()
    centers = np.random.default_rng(1).normal(size=(5, 4))
    distances = np.sort(euclidean_distances(z, centers), axis=1)
    wanted = (1 - distances[:, 0] / distances[:, 1]).mean()
    found = F.silhouette(padded, jnp.asarray(centers), mask)
    assert float(found) == pytest.approx(wanted, rel=1e-9)


def test_a_cell_on_two_centres_has_no_silhouette():
    found = F.silhouette(jnp.zeros((2, 3)), jnp.zeros((2, 3)), jnp.ones(2))
    assert np.isfinite(found)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"name": "two words"}, "identifier"),
        ({"stages": ("train", "later")}, "among"),
        ({"stages": ()}, "among"),
        ({"weight": -1.0}, "0 or more"),
        ({"weight": float("nan")}, "0 or more"),
    ],
)
def test_bad_terms_say_so(change, error):
    with pytest.raises(ValueError, match=error):
        F.Term(**{"name": "own", "value": lambda context: 0.0} | change)


def test_terms_are_named_once_and_described():
    names = [term.name for term in F.TERMS]
    assert len(set(names)) == len(names)
    assert all(term.value.__doc__ for term in F.TERMS)


@pytest.mark.parametrize(
    ("wanted", "n_rows", "drawn"),
    [(1024, 240, 1024), (4096, 240, 1024), (4096, 2000, 2000)],
)
def test_a_batch_has_no_more_cells_than_there_are(wanted, n_rows, drawn):
    """But for up to 1,024, which may be drawn twice: as ever."""
    data = F.cell_data(np.zeros((n_rows, 2)), None, np.zeros((n_rows, 1), int), n_rows=n_rows)
    rows = draw_cells(jax.random.key(0), data, wanted)
    assert rows.shape == (drawn,)
    assert 0 <= int(rows.min()) <= int(rows.max()) < n_rows
