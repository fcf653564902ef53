"""The paper's seven data sets, read from where the user has put them."""

import numpy as np
import pytest

from benchmarks import paper_datasets, real_data
from tests.files import text, write


def named(key):
    return next(d for d in paper_datasets.paper() if d.key == key)


def test_seven_and_each_says_where_it_comes_from():
    all_of_them = paper_datasets.paper()
    assert len({d.key for d in all_of_them}) == len({d.name for d in all_of_them}) == 7
    for d in all_of_them:
        assert d.n_cells > d.n_clusters > 1
        assert d.n_genes > 1000
        assert d.source.startswith("https://")
        assert d.accession
        assert d.citation


@pytest.mark.parametrize("layout", ["plain", "exprs"])
def test_both_layouts(tmp_path, layout):
    lung = named("qs_lung")
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.0, (lung.n_cells, 12))
    labels = np.arange(lung.n_cells) % lung.n_clusters
    path = tmp_path / lung.files[0]
    if layout == "plain":
        write(path, X=counts, Y=labels)
    else:
        names = text([f"type {i}" for i in labels])
        cells = {"cell_type1": names, "name": text([f"c{i}" for i in range(lung.n_cells)])}
        genes = {"name": text([f"g{i}" for i in range(12)])}
        write(path, exprs=counts, obs=cells, var=genes, uns={})
    adata = lung.read(tmp_path)
    assert adata.shape == counts.shape
    assert adata.obs["cell_type"].nunique() == lung.n_clusters
    np.testing.assert_array_equal(adata.X.toarray(), counts)
    codes = adata.obs["cell_type"].astype(str).str.removeprefix("type ").astype(int)
    np.testing.assert_array_equal(codes, labels)


def test_other_sizes_are_told(tmp_path):
    cite = named("cite_cbmc")
    write(tmp_path / cite.files[0], X=np.ones((4, 3)), Y=np.array([0, 1, 0, 1]))
    with pytest.warns(UserWarning, match="to have 8617 cells of 15 types, found 4 of 2"):
        cite.read(tmp_path)


def test_no_labels(tmp_path):
    cite = named("cite_cbmc")
    write(tmp_path / cite.files[0], X=np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"Expected labels in .*, as `Y`"):
        cite.read(tmp_path)


def test_a_missing_file_says_where_to_get_it(tmp_path):
    liver = named("human_liver")
    assert liver.find(tmp_path) is None
    message = r"Expected Human liver as one of Sonya_\S+ in .* Get it from https://\S+ .*GSE115469"
    with pytest.raises(FileNotFoundError, match=message):
        liver.read(tmp_path)


@pytest.mark.parametrize("key", ["cite_cbmc", "human_kidney"])
def test_the_real_ones(key):
    folder = real_data.folder()
    if folder is None or named(key).find(folder) is None:
        pytest.skip("no real data here")
    adata = named(key).read(folder)
    assert adata.n_obs == named(key).n_cells
