"""Counts on disk, read in blocks: what they say is what they say in memory."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scsiameseclu_jax as scs
from scsiameseclu_jax.preprocessing import blocks
from scsiameseclu_jax.preprocessing.prepare import identify, prepare

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

CONFIG = scs.Config.from_dict({"preprocessing": {"n_top_genes": 120, "n_components": 10}})


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Blocks of 64 cells at least: else all of these would be one, as they are in memory."""
    monkeypatch.setattr(blocks, "_MOST_ROWS", 64)


@pytest.fixture(scope="module")
def adata():
    adata = scs.datasets.simulate(n_cells=400, n_genes=200, n_clusters=3, difficulty=0.2, rng=1)
    adata.obs["batch"] = np.random.default_rng(0).choice(["x", "y"], adata.n_obs)
    counts = adata.X.tolil()
    counts[:, 7] = 0  # a gene without counts
    adata.X = counts.tocsr()
    return adata


@pytest.fixture(scope="module")
def folder(adata, tmp_path_factory):
    folder = tmp_path_factory.mktemp("blocks")
    adata.write_zarr(folder / "csr.zarr")
    adata.write_h5ad(folder / "csr.h5ad")
    other = adata.copy()
    other.X = adata.X.tocsc()
    other.write_h5ad(folder / "csc.h5ad")
    other.X = adata.X.toarray().astype(np.uint16)
    other.write_zarr(folder / "dense.zarr", chunks=(90, 50))
    return folder


def lazy(folder, name):
    if name == "backed":
        return ad.read_h5ad(folder / "csr.h5ad", backed="r")
    if name == "anndata":
        return ad.experimental.read_lazy(folder / "csr.zarr")
    return scs.datasets.read_lazy(folder / name)


def of_zarr(folder):
    return lazy(folder, "csr.zarr")


def prepared_of(adata, **options):
    return prepare(blocks.settled(adata), config=CONFIG, **options)


def same(found, wanted):
    """Hold what was prepared in blocks to what was in memory."""
    assert found.fingerprint == wanted.fingerprint
    assert found.preprocessor.genes == wanted.preprocessor.genes
    for name in ("order", "size_factors"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    np.testing.assert_array_equal(found.preprocessor.selected, wanted.preprocessor.selected)
    features = zip([found.features, *found.others], [wanted.features, *wanted.others], strict=True)
    for one, other in features:
        assert np.abs(one - other).max() < 1e-4 * np.abs(other).max()
    for one, other in zip(
        found.preprocessor.projection, wanted.preprocessor.projection, strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    assert not (found.counts.tocsr() != wanted.counts).nnz
    assert found.counts.dtype == wanted.counts.dtype


STORES = ["csr.zarr", "csr.h5ad", "csc.h5ad", "dense.zarr", "backed", "anndata"]


@pytest.fixture(scope="module")
def in_memory(adata):
    return prepare(adata, config=CONFIG)


@pytest.mark.parametrize("name", STORES)
def test_any_store_says_what_memory_says(folder, in_memory, name):
    cells = lazy(folder, name)
    found = prepared_of(cells)
    assert len(found.counts.source) > 4
    same(found, in_memory)
    if cells.isbacked:
        cells.file.close()


def test_batches_and_given_features(folder, adata):
    same(
        prepared_of(of_zarr(folder), batch_key="batch"),
        prepare(adata, config=CONFIG, batch_key="batch"),
    )
    rep, cells = np.random.default_rng(0).normal(size=(400, 30)), of_zarr(folder)
    whole = adata.copy()
    whole.obsm["X_rep"], cells.obsm["X_rep"] = rep, da.from_array(rep, chunks=(100, 30))
    found, wanted = prepared_of(cells, use_rep="X_rep"), prepared_of(whole, use_rep="X_rep")
    np.testing.assert_array_equal(found.features, wanted.features)
    np.testing.assert_array_equal(found.order, wanted.order)


def test_a_given_graph(folder, adata):
    links = sparse.random(400, 400, 0.05, format="csr", random_state=0)
    whole, cells = adata.copy(), of_zarr(folder)
    for one in (whole, cells):
        one.uns["graph"] = {"connectivities_key": "links"}
    whole.obsp["links"] = links
    cells.obsp["links"] = da.from_array(links, chunks=(100, 400), asarray=False)
    found = prepared_of(cells, neighbors_key="graph")
    wanted = prepared_of(whole, neighbors_key="graph")
    for name in ("senders", "receivers", "weights"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


def test_cells_are_known_again(folder, adata):
    order, fingerprint = identify(adata, layer=None)
    again = identify(lazy(folder, "anndata"), layer=None)
    np.testing.assert_array_equal(again[0], order)
    assert again[1] == fingerprint


def test_one_block_is_as_in_memory_to_the_bit(folder, adata, in_memory, monkeypatch):
    monkeypatch.setattr(blocks, "_MOST_ROWS", 8192)
    found = prepared_of(of_zarr(folder))
    np.testing.assert_array_equal(found.features, in_memory.features)


def test_rows_come_in_the_order_that_is_asked_for(folder, adata):
    raw = blocks.read_counts(of_zarr(folder), layer=None)
    rows = np.array([399, 3, 200, 3, 64])
    assert not (raw[rows] != adata.X[rows]).nnz
    assert raw[np.zeros(0, int)].shape == (0, 200)
    assert raw.nnz == adata.X.nnz
    for axis in (0, 1):
        np.testing.assert_array_equal(raw.sum(axis=axis), adata.X.sum(axis=axis).A1)
        np.testing.assert_array_equal(raw.getnnz(axis=axis), adata.X.getnnz(axis=axis))


def test_what_is_read_ahead_is_what_is_asked_for(in_memory, folder):
    counts = prepared_of(of_zarr(folder)).counts
    rows, others = np.array([5, 300, 7]), np.array([1, 2])
    counts.fetch(rows)
    assert not (counts[others] != in_memory.counts[others]).nnz
    counts.fetch(rows)
    assert not (counts[rows] != in_memory.counts[rows]).nnz


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda x: x * 0.5, "fractions"),
        (lambda x: -x, "negative"),
        (lambda x: x * np.nan, "finite"),
        (lambda x: x * 0, "only zeros"),
    ],
)
def test_counts_are_checked_in_every_block(adata, change, wanted):
    values = adata.X.toarray()
    last = slice(0, 400) if wanted == "only zeros" else slice(390, 400)
    values[last] = change(values[last])
    with pytest.raises(ValueError, match=wanted):
        blocks.read_counts(ad.AnnData(da.from_array(values, chunks=(50, 200))), layer=None)


def test_an_empty_cell_is_named(adata):
    values = adata.X.toarray()
    values[350] = 0
    cells = ad.AnnData(da.from_array(values, chunks=(50, 200)), obs=adata.obs)
    with pytest.raises(ValueError, match="cell_350"):
        prepared_of(cells)


def test_repeated_entries_and_zeros_on_disk_are_put_together(adata):
    coo = adata.X.tocoo()
    rows, columns = np.r_[coo.row, coo.row, [0]], np.r_[coo.col, coo.col, [7]]
    parts = np.r_[coo.data - 1, np.ones(coo.nnz), [0]]
    order = np.argsort(rows, kind="stable")
    indptr = np.r_[0, np.cumsum(np.bincount(rows, minlength=400))]
    twice = sparse.csr_matrix((parts[order], columns[order], indptr), adata.shape)
    cells = ad.AnnData(da.from_array(twice, chunks=(50, 200), asarray=False))
    assert not (blocks.read_counts(cells, layer=None)[np.arange(400)] != adata.X).nnz


def test_chunks_of_no_cells_do_not_matter(adata):
    chunks = da.from_array(adata.X.toarray(), chunks=((0, 100, 0, 300, 0), 200))
    raw = blocks.read_counts(ad.AnnData(chunks), layer=None)
    assert not (raw[np.arange(400)] != adata.X).nnz
    assert min(part.stop - part.start for part in raw._parts) > 0


def test_tables_that_are_read_lazily_come_into_memory(folder):
    cells = lazy(folder, "anndata")
    found = blocks.settled(cells)
    assert isinstance(found.obs, pd.DataFrame)
    assert found.obs["batch"].isin(["x", "y"]).all()
    assert blocks.is_lazy(found.X)
    assert blocks.settled(found) is found
    assert not isinstance(cells.obs, pd.DataFrame)
    blocks.settle(cells)
    assert cells.obs.equals(found.obs)


def test_what_is_known_of_them_before_a_fit(folder, adata):
    found, wanted = (scs.pp.check(cells) for cells in (of_zarr(folder), adata))
    assert [f.about for f in found] == [f.about for f in wanted]
    text = next(f.found for f in found if f.about == "counts")
    assert "400 cells x 200 genes, on disk, read in 7 blocks, float32" in text
    assert [f for f in found if f.about != "counts"] == [f for f in wanted if f.about != "counts"]


def test_cells_that_are_all_alike_are_refused():
    values = np.tile(np.arange(30.0), (200, 1)) * (1 + np.arange(200)[:, None])
    cells = ad.AnnData(da.from_array(values, chunks=(50, 30)))
    with pytest.raises(ValueError, match="all 200 alike"):
        prepared_of(cells)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("part", ["indptr", "indices"])
def test_damaged_chunks_end_in_a_sentence(adata, part, turned):
    def damage(block):
        block = (block.tocsc() if turned else block).copy()
        getattr(block, part)[3] = 10**6
        return block

    meta = sparse.csr_matrix((0, 0), dtype=adata.X.dtype)
    for size in (50, 400):  # as they are, and cut
        whole = da.from_array(adata.X, chunks=(size, 200), asarray=False)
        cells = ad.AnnData(whole.map_blocks(damage, dtype=whole.dtype, meta=meta))
        with pytest.raises(ValueError, match="to be a whole sparse matrix"):
            blocks.read_counts(cells, layer=None)


def test_masked_counts_are_refused_as_in_memory(adata):
    masked = np.ma.masked_array(adata.X.toarray(), adata.X.toarray() == 3)
    for x in (masked, da.from_array(masked, chunks=(50, 200), asarray=False)):
        with pytest.raises(TypeError, match="found MaskedArray; fill what is masked"):
            blocks.read_counts(ad.AnnData(x), layer=None)


def test_a_file_that_changes_meanwhile_is_noticed(adata):
    values = adata.X.toarray()
    raw = blocks.read_counts(ad.AnnData(da.from_delayed(*later(values))), layer=None)
    assert raw[np.arange(3)].shape == (3, 200)
    values[5, 3] += 1
    with pytest.raises(ValueError, match="found other counts: the file was changed"):
        raw[np.arange(3)]


def later(values):
    return dask.delayed(lambda: values.copy(), pure=False)(), values.shape, values.dtype


def test_counts_of_a_gene_that_is_there_twice_are_added_in_a_type_that_holds_them():
    values = np.full((200, 4), 60_000, np.uint16)
    raw = blocks.read_counts(ad.AnnData(da.from_array(values, chunks=(50, 4))), layer=None)
    where = sparse.csr_matrix((np.ones(4), (np.arange(4), [0, 0, 1, 1])))
    found = blocks.Selected(raw, where, np.arange(200))
    assert (found.tocsr().toarray() == 120_000).all()
