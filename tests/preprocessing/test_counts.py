"""What is read of an object, whatever its format, and whether it is that of a fit."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import scsiameseclu_jax as scs
from scsiameseclu_jax.certainty import stability
from scsiameseclu_jax.preprocessing.counts import counts
from scsiameseclu_jax.preprocessing.prepare import prepare

SHORT = scs.Config.from_dict({"training": {"contrast_steps": 0, "feature_steps": 4}})


@pytest.fixture
def adata():
    return scs.datasets.simulate(n_cells=120, n_genes=80, n_clusters=3, rng=0)


@pytest.fixture(scope="module")
def fitted():
    adata = scs.datasets.simulate(n_cells=120, n_genes=80, n_clusters=3, rng=0)
    return scs.SiameseClu(3, config=SHORT).fit(adata, progress=False)


def prepared_of(adata, **options):
    return prepare(adata, config=SHORT, **options)


def unsorted(matrix):
    """Return a CSR matrix with each row's entries the other way round."""
    rows = [slice(a, b) for a, b in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)]
    data = np.concatenate([matrix.data[row][::-1] for row in rows])
    indices = np.concatenate([matrix.indices[row][::-1] for row in rows])
    return sp.csr_matrix((data, indices, matrix.indptr.copy()), matrix.shape)


def with_zeros(matrix):
    """Return a CSR matrix that stores zeros, some in a column that has nothing else."""
    coo = matrix.tocoo()
    rng = np.random.default_rng(0)
    more = rng.integers(0, matrix.shape[0], 500), rng.integers(0, matrix.shape[1], 500)
    rows, columns = np.r_[coo.row, more[0]], np.r_[coo.col, more[1]]
    data = np.r_[coo.data, np.zeros(500, coo.data.dtype)]
    made = sp.csr_matrix((data, (rows, columns)), matrix.shape)
    assert made.nnz > matrix.nnz
    return made


@pytest.mark.parametrize(
    "change",
    [
        unsorted,
        with_zeros,
        lambda m: m.toarray().astype(">f8"),
        lambda m: m.toarray().astype(np.float16),
        lambda m: sp.csc_array(m.astype(np.int64)),
    ],
    ids=["unsorted", "zeros", "big-endian", "float16", "csc"],
)
def test_formats_change_nothing(adata, change):
    adata.X = sp.csr_matrix(adata.X.toarray() * (np.arange(80) != 7))  # a gene without counts
    other = adata.copy()
    other.X = change(adata.X)
    one, two = prepared_of(adata), prepared_of(other)
    assert one.fingerprint == two.fingerprint
    assert one.preprocessor.genes == two.preprocessor.genes
    np.testing.assert_array_equal(one.order, two.order)
    np.testing.assert_array_equal(one.features, two.features)


def test_what_was_passed_is_not_changed(adata):
    adata.X = with_zeros(unsorted(adata.X))
    adata.X = unsorted(adata.X)
    held = adata.X
    before = held.data.copy(), held.indices.copy()
    for array in (held.data, held.indices, held.indptr):
        array.flags.writeable = False  # as one mapped from a file may be
    found = counts(adata)
    np.testing.assert_array_equal(found.toarray(), held.toarray())
    assert adata.X is held
    np.testing.assert_array_equal(held.data, before[0])
    np.testing.assert_array_equal(held.indices, before[1])


def test_presence_counts_as_counts(adata):
    adata.X = adata.X > 0
    assert counts(adata).dtype == np.uint8
    scs.pp.split_counts(adata)
    whole = adata.layers["counts_fit"] + adata.layers["counts_test"]
    assert (whole != adata.X.astype(np.uint8)).nnz == 0


def test_a_layer_called_x(adata):
    adata.layers["X"] = adata.X.copy()
    with pytest.raises(ValueError, match="Expected no layer called 'X'"):
        counts(adata, layer=None)
    assert counts(adata, layer="X").shape == adata.shape


def test_an_object_without_a_matrix_says_where_counts_are(adata):
    counts_ = adata.X.copy()
    adata.X = None
    with pytest.raises(ValueError, match="no X; it holds counts nowhere"):
        counts(adata)
    adata.layers["umi"] = counts_
    with pytest.raises(ValueError, match="no X; counts are elsewhere: `layer='umi'`"):
        counts(adata)


def test_the_remedy_for_empty_cells_of_a_layer_works(adata):
    adata.layers["part"] = sp.csr_matrix(adata.X.toarray() * (np.arange(120) != 5)[:, None])
    with pytest.raises(ValueError, match="found 1 without") as raised:
        prepared_of(adata, layer="part")
    remedy = str(raised.value).split("`")[1].removeprefix("adata = ")
    left = eval(remedy, {"np": np, "adata": adata})
    assert prepared_of(left, layer="part").counts.shape[0] == 119


def test_a_representation_that_is_sparse(adata):
    adata.obsm["X_mine"] = sp.random(120, 30, density=0.5, format="csr", random_state=0)
    with pytest.raises(ValueError, match=r"obsm\['X_mine'\] to be dense"):
        prepared_of(adata, use_rep="X_mine")


# Is it the object of the fit?


def test_the_same_cells_in_another_order_are_refused(adata, fitted):
    other = adata[::-1].copy()
    for call in (lambda: scs.tl.add_clusters(other, fitted), lambda: fitted.assess(other)):
        with pytest.raises(ValueError, match="in the order that the model was fitted in"):
            call()
    assert list(other.obs) == list(adata.obs)


def test_other_counts_are_refused_where_they_are_needed(adata, fitted):
    other = scs.datasets.simulate(n_cells=120, n_genes=80, n_clusters=3, rng=5)
    with pytest.raises(ValueError, match="found as many with other counts"):
        fitted.assess(other)
    adata.X = sp.csr_matrix(np.log1p(adata.X.toarray()))  # after the fit, as analysts do
    scs.tl.add_clusters(adata, fitted)
    np.testing.assert_array_equal(adata.obs["siameseclu"].astype(int), fitted.labels)


def test_results_in_the_object_are_not_the_models_own(adata, fitted):
    proba = fitted.proba.copy()
    scs.tl.add_clusters(adata, fitted)
    adata.obsm["siameseclu_proba"][:] = 0
    adata.obsm["X_siameseclu"][:] = 0
    adata.uns["siameseclu"]["history"]["loss"][:] = 0
    np.testing.assert_array_equal(fitted.proba, proba)
    assert fitted.get_latent_representation().any()
    assert fitted.history["loss"].all()


def test_what_a_prediction_said_goes_with_its_clusters(adata, fitted):
    scs.tl.predict(adata, fitted)
    adata.obs["siameseclu_annotation"] = "mine"  # by hand: annotate_markers leaves a record
    scs.tl.add_clusters(adata, fitted)
    assert not [name for name in adata.obs if name.endswith(("_novelty", "_is_novel"))]
    assert (adata.obs["siameseclu_annotation"] == "mine").all()


# On disk.


@pytest.fixture
def on_disk(adata, tmp_path):
    adata.layers["counts"] = adata.X.copy()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")


def test_an_object_on_disk_is_copied_into_memory(on_disk, fitted):
    found = scs.tl.add_clusters(on_disk, fitted, copy=True)
    assert not found.isbacked
    assert "siameseclu" in found.obs
    assert "siameseclu" not in on_disk.obs


def test_refits_of_an_object_on_disk(on_disk):
    class Model:
        def __init__(self, part, _):
            assert not part.isbacked
            self.labels = np.zeros(part.n_obs, int)

        def predict(self, part, layer):
            return type(self)(part, layer)

    found = stability.refit(on_disk, 2, Model, layer="counts", seed=0)
    np.testing.assert_array_equal(found, 0)


def test_a_view_of_an_object_on_disk_is_refused_at_once(on_disk, monkeypatch):
    monkeypatch.setattr(scs.SiameseClu, "fit", None)
    with pytest.raises(ValueError, match="found a view of one on disk"):
        scs.tl.siameseclu(on_disk[:100], 3, config=SHORT)
