"""Checks on the way in, and what preprocessing makes of counts."""

import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

import scsiameseclu_jax as scs
from scsiameseclu_jax.preprocessing import counts, neighbors, normalization
from scsiameseclu_jax.preprocessing.prepare import prepare


@pytest.fixture
def adata():
    return scs.datasets.simulate(n_cells=120, n_genes=80, n_clusters=3, rng=0)


def prepared_of(adata, **options):
    return prepare(adata, config=scs.Config(), **options)


def with_x(adata, change):
    made = adata.copy()
    dense = made.X.toarray().astype(np.float64)
    change(dense)
    made.X = dense
    return made


def scaled(x):
    x -= x.mean(axis=0)


def logged(x):
    np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4, out=x)


def normalized(x):
    x *= 1e4 / x.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.__setitem__((0, 0), np.nan), "1 values that are NaN or infinite"),
        (lambda x: x.__setitem__((0, 0), np.inf), "1 values that are NaN or infinite"),
        (lambda x: x.__setitem__((0, 0), -1), "some are negative; "),
        (scaled, "looks scaled"),
        (logged, "looks log-normalised"),
        (normalized, "normalised but not logarithmic"),
        (lambda x: x.fill(0), "only zeros"),
        (lambda x: x[3].fill(0), "every cell to have counts, found 1 without"),
    ],
)
def test_bad_counts(adata, change, message):
    with pytest.raises(ValueError, match=message):
        prepared_of(with_x(adata, change))


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (["", "-1", "a"], ["a"]),  # what making names unique leaves of two without
        ([np.nan, np.nan, "a"], ["a"]),
        ([None, "", "a"], ["a"]),
        (["nan", "nan-1", "nan-2"], []),  # as AnnData makes text of a column of symbols
        (["None", "a", "None"], ["a"]),
    ],
)
def test_genes_without_a_name(adata, names, left):
    """The remedy that is named helps; to make names unique would not."""
    kept = list(adata.var_names[3:])
    adata.var_names = pd.Index([*names, *kept], dtype=object)
    n = 3 - len(left)
    with pytest.raises(ValueError, match=f"a name for every gene .* found {n} without") as caught:
        prepared_of(adata)
    with pytest.raises(ValueError, match="a name for every gene"):
        scs.tl.markers(adata, "cell_type")
    scope = {"adata": adata}
    exec(str(caught.value).split("`")[-2], scope)
    prepared_of(scope["adata"])
    assert list(scope["adata"].var_names) == left + kept


def test_a_gene_may_be_called_nan(adata):
    adata.var_names = ["nan", "None", "NA", *adata.var_names[3:]]
    assert prepared_of(adata).preprocessor.genes[:2] == ["nan", "None"]


def test_cells_without_a_name(adata):
    adata.obs_names = pd.Index([np.nan, np.nan, *adata.obs_names[2:]], dtype=object)
    with pytest.raises(ValueError, match=r"a name for every cell .* found 2 without") as caught:
        prepared_of(adata)
    scope = {"adata": adata}
    exec(str(caught.value).split("`")[-2], scope)
    prepared_of(scope["adata"])


def test_totals_beyond_single_precision(adata):
    raw = sp.csr_matrix(np.array([[2**24, 1, 0], [0, 0, 0], [2**24, 1, 1], [1, 0, 0]], np.float32))
    np.testing.assert_array_equal(counts.totals(raw), [2**24 + 1, 0, 2**24 + 2, 1])
    np.testing.assert_array_equal(counts.totals(raw[1:2]), [0])
    adata.X = adata.X.toarray().astype(np.float64)
    adata.X[0, 0] = 2**24 + 1
    one = prepared_of(adata)
    adata.X[0, 0] += 2  # as single precision would not tell from it
    assert one.counts.max() == 2**24 + 1
    assert one.fingerprint != prepared_of(adata).fingerprint


def test_bad_shapes_and_names(adata):
    with pytest.raises(ValueError, match="cells and genes"):
        prepared_of(adata[:0])
    with pytest.raises(ValueError, match="cells and genes"):
        prepared_of(adata[:, :0])
    with pytest.raises(ValueError, match="latent"):
        prepared_of(adata[:, :10][np.asarray(adata[:, :10].X.sum(axis=1)).ravel() > 0].copy())
    twice = adata.copy()
    twice.var_names = ["a"] * 2 + list(twice.var_names[2:])
    with pytest.raises(ValueError, match="unique gene names, found 'a' twice"):
        prepared_of(twice)
    twice = adata.copy()
    twice.obs_names = ["a"] * 2 + list(twice.obs_names[2:])
    with pytest.raises(ValueError, match="unique cell names"):
        prepared_of(twice)
    with pytest.raises(TypeError, match="AnnData"):
        prepared_of(adata.X)


def test_missing_keys(adata):
    with pytest.raises(KeyError, match="layer"):
        prepared_of(adata, layer="spliced")
    with pytest.raises(KeyError, match="use_rep"):
        prepared_of(adata, use_rep="X_scVI")
    with pytest.raises(KeyError, match=r"sc\.pp\.neighbors"):
        prepared_of(adata, neighbors_key="neighbors")


def test_counts_layer_comes_before_x(adata):
    made = adata.copy()
    made.layers["counts"] = made.X
    made.X = np.log1p(made.X.toarray())
    assert prepared_of(made).fingerprint == prepared_of(adata).fingerprint
    with pytest.raises(ValueError, match="log-normalised"):
        prepared_of(made, layer=None)


def test_formats_agree(adata):
    wanted = prepared_of(adata)
    forms = [sp.csc_matrix, sp.csr_matrix, lambda x: x.toarray(), lambda x: x.astype(np.int64)]
    for form in forms:
        made = adata.copy()
        made.X = form(adata.X)
        found = prepared_of(made)
        assert found.fingerprint == wanted.fingerprint
        np.testing.assert_array_equal(found.features, wanted.features)
        np.testing.assert_array_equal(found.counts.toarray(), wanted.counts.toarray())


def test_order_of_cells_does_not_matter(adata):
    rows = np.random.default_rng(1).permutation(adata.n_obs)
    one, two = prepared_of(adata), prepared_of(adata[rows])
    np.testing.assert_array_equal(one.features, two.features)
    np.testing.assert_array_equal(one.order, rows[two.order])
    assert one.fingerprint == two.fingerprint


def test_features_have_unit_variance_and_scanpys_values(adata):
    import scanpy as sc

    found = prepared_of(adata)
    assert found.features.std() == pytest.approx(1, rel=1e-5)
    other = adata.copy()
    sc.pp.filter_genes(other, min_counts=1)
    sc.pp.normalize_total(other)
    sc.pp.log1p(other)
    other.X = other.X.toarray()
    sc.pp.scale(other, max_value=10)
    sc.pp.pca(other, n_comps=10)
    wanted = other.obsm["X_pca"][found.order]
    # scanpy divides by n - 1 in `scale`, and the sign of a component is free
    for j in range(10):
        assert abs(np.corrcoef(wanted[:, j], found.features[:, j])[0, 1]) > 0.999


def test_counts_are_raw_and_selected(adata):
    found = prepared_of(adata)
    names = [
        list(adata.var_names).index(name)
        for name in np.array(found.preprocessor.genes)[found.preprocessor.selected]
    ]
    np.testing.assert_array_equal(found.counts.toarray(), adata.X.toarray()[found.order][:, names])
    totals = np.asarray(adata.X.sum(axis=1)).ravel()[found.order]
    np.testing.assert_allclose(found.size_factors, totals / np.median(totals), rtol=1e-6)


def test_genes_without_counts_are_left_out(adata):
    made = with_x(adata, lambda x: x[:, 5].fill(0))
    assert adata.var_names[5] not in prepared_of(made).preprocessor.genes


def test_representation_and_neighbors_of_the_user(adata):
    import scanpy as sc

    made = adata.copy()
    made.obsm["X_mine"] = np.random.default_rng(0).normal(size=(120, 5))
    found = prepared_of(made, use_rep="X_mine")
    assert found.features.shape == (120, scs.Config().network.n_latent)
    wanted = made.obsm["X_mine"] - made.obsm["X_mine"].mean(axis=0)
    ratio = found.features[:, :5] / wanted[found.order]
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-3)
    sc.pp.neighbors(made, n_neighbors=5, use_rep="X_mine", transformer="sklearn")
    links = prepared_of(made, neighbors_key="neighbors")
    dense = np.zeros((120, 120))
    dense[links.receivers, links.senders] = links.weights
    reference = made.obsp["connectivities"].toarray()[np.ix_(links.order, links.order)]
    np.testing.assert_allclose(dense, reference)


def test_nearest_neighbors_are_exact():
    x = np.random.default_rng(0).normal(size=(60, 4))
    found, cells = neighbors.nearest_neighbors(x, 7)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    for i in range(60):
        assert set(found[cells == i]) == set(np.argsort(-similarity[i])[:7])


def test_backed_data_without_dask_is_refused_with_a_remedy(adata, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask.array", None)
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    with pytest.raises(TypeError, match="to_memory"):
        prepared_of(backed)
    backed.file.close()


def test_residual_components_are_those_of_dense_residuals(monkeypatch):
    adata = scs.datasets.simulate(n_cells=90, n_genes=40, n_clusters=3, rng=0)
    raw = adata.X[:, adata.X.getnnz(axis=0) > 0]
    dense = ad.AnnData(raw.astype(np.float64))
    sc.experimental.pp.normalize_pearson_residuals(dense)
    centred = dense.X - dense.X.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    monkeypatch.setattr(normalization, "_ROWS", 32)
    found = normalization.residual_components(raw, 5)
    signs = np.sign(np.sum(found * u[:, :5], axis=0))
    np.testing.assert_allclose(found * signs, u[:, :5] * s[:5], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [True, False])
def test_components_are_those_of_scanpy(scale):
    adata = scs.datasets.simulate(n_cells=90, n_genes=40, n_clusters=3, rng=0)
    logged = adata.X.astype(np.float64).log1p()
    dense = ad.AnnData(logged.toarray())
    if scale:
        sc.pp.scale(dense, max_value=10)
    sc.pp.pca(dense, n_comps=5, svd_solver="arpack")
    found, projection = normalization.components(logged, 5, scale=scale)
    # scanpy divides by the deviation of a sample, which is larger
    factor = np.sqrt(90 / 89) if scale else 1
    np.testing.assert_allclose(np.abs(found), np.abs(dense.obsm["X_pca"]) * factor, 1e-3, 1e-5)
    again = normalization.project(logged, projection)
    np.testing.assert_allclose(again, found, rtol=1e-4, atol=1e-5)
