"""From arrays to padded data: links in three forms, size factors, what is refused."""

import numpy as np
import pytest
import scipy.sparse as sp

import scsiameseclu_jax.functional as F
from tests.problems import close, dense_of, links

N = 30


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return rng.normal(size=(N, 5)), rng.poisson(2.0, (N, 8))


def test_links_in_three_forms_are_one_graph(arrays):
    senders, receivers, weights = links(N)
    ends = senders != receivers
    matrix = sp.lil_matrix((N, N))
    for i, j, weight in zip(receivers[ends], senders[ends], weights[ends], strict=True):
        matrix[i, j] = max(matrix[i, j], weight)
    one = F.cell_data(*arrays, (senders, receivers, weights))
    other = F.cell_data(*arrays, sp.csr_matrix(matrix))
    close(one, other, rtol=1e-6)
    sparse = F.cell_data(arrays[0], sp.coo_matrix(arrays[1]), (senders, receivers, weights))
    close(one, sparse, rtol=1e-6)
    table = np.random.default_rng(1).integers(0, N, (N, 4))
    rows = F.cell_data(*arrays, table)
    pairs = F.cell_data(*arrays, (table.ravel(), np.repeat(np.arange(N), 4)))
    close(rows, pairs)


def test_rows_and_genes_are_padded(arrays):
    x, counts = arrays
    data = F.cell_data(x, sp.csr_matrix(counts), np.arange(N)[::-1, None])
    rows = F.bucket(N)
    assert data.features.shape == (rows, 5)
    close(data.features[:N], x.astype(np.float32))
    np.testing.assert_array_equal(data.counts[:N, :8], counts)
    np.testing.assert_array_equal(data.mask, np.arange(rows) < N)
    assert int(data.n_cells) == N
    assert int(data.n_genes) == 8
    totals = counts.sum(axis=1)
    close(data.size_factors[:N], totals / np.median(totals), rtol=1e-6)
    dense = dense_of(data.graph)
    assert not dense[N:].any() and not dense[:, N:].any()


def test_known_pairs(arrays):
    ring = np.arange(N)[::-1, None]
    assert F.cell_data(*arrays, ring).constraints is None
    known = F.cell_data(*arrays, ring, must_link=[[0, 1]], cannot_link=[[2, 3], [4, 5]]).constraints
    real = np.asarray(known.weights) > 0
    np.testing.assert_array_equal(np.asarray(known.cells)[real], [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(np.asarray(known.linked)[real], [True, False, False])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"features": np.ones(N)}, "`features` to be finite"),
        ({"features": np.full((N, 2), np.nan)}, "`features` to be finite"),
        ({"counts": np.ones((N - 1, 4))}, "`counts` of 30 cells"),
        ({"counts": -np.ones((N, 4))}, "whole numbers, 0 or more"),
        ({"counts": np.full((N, 4), 0.5)}, "whole numbers, 0 or more"),
        ({"counts": np.full((N, 4), np.nan)}, "whole numbers, 0 or more"),
        ({"n_rows": N - 1}, "at least the number of cells"),
        ({"must_link": [[0, 1, 2], [3, 4, 5]]}, "rows of cells"),
        ({"cannot_link": [[0, N]]}, "rows of cells"),
        ({"neighbors": np.ones((N, N))}, "rows of cells"),
        ({"neighbors": sp.identity(N + 1)}, "a matrix"),
        ({"neighbors": (np.arange(3), np.arange(4))}, "senders, receivers"),
        ({"neighbors": np.full((N, 2), N)}, "between cells 0 and 29"),
        ({"size_factors": np.zeros(N)}, "positive"),
    ],
)
def test_what_does_not_fit_is_refused(arrays, change, text):
    good = {"features": arrays[0], "counts": arrays[1], "neighbors": np.arange(N)[::-1, None]}
    with pytest.raises(ValueError, match=text):
        F.cell_data(**good | change)
