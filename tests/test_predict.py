"""New cells from AnnData to labels: genes by name, surprise, saving and loading."""

import shutil

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

import scsiameseclu_jax as scs
from scsiameseclu_jax.certainty import calibration, novelty
from scsiameseclu_jax.preprocessing import new_cells as reference
from scsiameseclu_jax.preprocessing import normalization
from tests import stored

SHORT = {"contrast_steps": 0, "feature_steps": 10, "steps": 4}
CONFIG = scs.Config.from_dict({"training": SHORT})


@pytest.fixture(scope="module")
def cells():
    made = scs.datasets.simulate(n_cells=700, n_genes=150, n_clusters=4, difficulty=0.3, rng=0)
    made.var_names = [f"ENSG{i:011d}.{i % 3}" for i in range(made.n_vars)]
    return made


@pytest.fixture(scope="module")
def model(cells):
    return scs.SiameseClu(4, config=CONFIG).fit(cells[:500].copy(), rng=0, progress=False)


@pytest.fixture(scope="module")
def found(model, cells):
    return model.predict(cells[500:].copy())


def same(one, two):
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_new_cells_find_their_clusters(cells, model, found):
    truth = cells.obs["cell_type"]
    assert adjusted_rand_score(truth[:500], model.labels) > 0.85
    assert adjusted_rand_score(truth[500:], found.labels) > 0.85
    assert found.proba.shape == (200, 4)
    np.testing.assert_allclose(found.proba.sum(axis=1), 1, rtol=1e-5)
    learned = model._results["calibration"]
    wanted = calibration.confidence(learned, found.proba)
    np.testing.assert_array_equal(found.confidence, wanted)
    assert not np.array_equal(wanted, found.proba.max(axis=1))
    np.testing.assert_allclose((found.embedding**2).mean(axis=1), 1, rtol=1e-4)
    assert found.missing_genes == []


def test_the_cells_of_the_fit_are_predicted_as_fitted(cells, model):
    again = model.predict(cells[:500].copy())
    assert (again.labels == model.labels).mean() > 0.98


def test_labels_do_not_depend_on_the_company(cells, model, found):
    few = model.predict(cells[[600, 510]].copy())
    np.testing.assert_array_equal(few.labels, found.labels[[100, 10]])
    np.testing.assert_allclose(few.proba, found.proba[[100, 10]], rtol=1e-3, atol=1e-5)


def test_genes_by_name(cells, model, found):
    new = cells[500:].copy()
    rng = np.random.default_rng(0)
    new = new[:, rng.permutation(new.n_vars)].copy()
    more = ad.AnnData(sparse.csr_matrix(np.ones((200, 2))), obs=new.obs)
    more.var_names = ["other", "another"]
    new = ad.concat([more, new], axis=1)
    same(found, model.predict(new))
    new.var_names = [name.split(".")[0].lower() for name in new.var_names]
    same(found, model.predict(new))


def test_counts_of_a_gene_that_is_there_twice_are_added(cells, model, found):
    new = cells[500:].copy()
    half = new.X.toarray() // 2
    twice = ad.AnnData(sparse.csr_matrix(np.hstack([half, new.X.toarray() - half])))
    twice.var_names = [*new.var_names, *new.var_names]
    same(found, model.predict(twice))


def test_missing_genes_are_counted_and_too_many_named(cells, model, caplog):
    new = cells[500:, 10:].copy()
    found = model.predict(new)
    assert found.missing_genes == list(cells.var_names[:10])
    assert "10 of 148 genes are missing" in caplog.text
    with pytest.raises(
        ValueError, match=r"found 39 of 148 missing, for example ENSG00000000000\.0"
    ):
        model.predict(cells[500:, 40:].copy())


def test_missing_genes_say_nothing(cells, model, found):
    """As many genes as may be missing leave the labels, and few cells out of reference."""
    kept = np.random.default_rng(0).permutation(cells.n_vars)[29:]
    fewer = model.predict(cells[500:, kept].copy())
    assert len(fewer.missing_genes) >= 28
    assert (fewer.labels == found.labels).mean() > 0.9
    assert fewer.is_novel.mean() <= found.is_novel.mean() + 0.05


@pytest.fixture(scope="module")
def of_few(cells):
    """A model whose features are made from few of the genes, and their names."""
    options = {"training": {"contrast_steps": 0}, "preprocessing": {"n_top_genes": 40}}
    model = scs.SiameseClu(4, config=scs.Config.from_dict(options))
    model.fit(cells[:500].copy(), rng=0, progress=False)
    frame = model._reference.preprocessor
    return model, [frame.genes[i] for i in frame.selected]


@pytest.mark.parametrize("n_others", [0, 25])
def test_genes_that_no_feature_is_made_from_are_not_without_counts(
    cells, of_few, n_others, caplog, tmp_path
):
    """New cells are often cut to the variable genes: their size factors are of these."""
    model, selected = of_few
    others = [gene for gene in cells.var_names if gene not in selected]
    new = cells[500:, [*selected, *others[:n_others]]].copy()
    whole, part = model.predict(cells[500:].copy()), model.predict(new)
    assert "40 that features are made from: they are left out" in caplog.text
    assert part.missing_genes == []
    frame = model._reference.preprocessor
    assert part.n_missing == len(frame.genes) - 40 - len(set(others[:n_others]) & set(frame.genes))
    assert abs(part.is_novel.mean() - whole.is_novel.mean()) <= 0.05
    assert (part.labels == whole.labels).mean() > 0.95
    assert whole.n_missing == 0
    adata = scs.tl.predict(new, model, min_confidence=0.5, copy=True)
    assert adata.uns["siameseclu"]["n_missing_genes"] == part.n_missing
    assert "missing_genes" not in adata.uns["siameseclu"]
    adata.write_h5ad(tmp_path / "a.h5ad")
    stored.same(dict(adata.uns), dict(ad.read_h5ad(tmp_path / "a.h5ad").uns))


def test_expected_counts_are_of_all_genes_and_sum_to_the_median(cells, of_few):
    frame = of_few[0]._reference.preprocessor
    counts = cells[:500].X.toarray().astype(float)
    totals, sums = counts.sum(axis=1), counts.sum(axis=0)
    np.testing.assert_allclose(
        frame.expected, sums[sums > 0] / (totals / np.median(totals)).sum(), rtol=1e-10
    )
    assert frame.expected.sum() == pytest.approx(frame.median_total)


def test_too_few_counts_are_an_error(cells, of_few, monkeypatch):
    model, selected = of_few
    monkeypatch.setattr(reference, "_LEAST_SHARE", 0.9)
    with pytest.raises(ValueError, match="give counts of all genes, not of the selected ones"):
        model.predict(cells[500:, selected].copy())


def test_a_model_of_an_earlier_version_says_what_it_lacks(cells, of_few, tmp_path):
    model, selected = of_few
    old = model._reference
    model._reference = old._replace(preprocessor=old.preprocessor._replace(expected=None))
    model.save(tmp_path / "m")
    model._reference = old
    loaded = scs.SiameseClu.load(tmp_path / "m")
    same(loaded.predict(cells[500:].copy()), model.predict(cells[500:].copy()))
    with pytest.raises(ValueError, match=r"saved by an earlier version, .*; fit again"):
        loaded.predict(cells[500:, selected].copy())


def test_genes_without_a_name_are_no_genes_of_the_model(cells, model, found):
    new = cells[500:].copy()
    more = ad.AnnData(sparse.csr_matrix(np.full((200, 3), 9)), obs=new.obs)
    new = ad.concat([more, new], axis=1)
    new.var_names = pd.Index(["", np.nan, "-1", *new.var_names[3:]], dtype=object)
    same(found, model.predict(new))


def test_deviances_are_of_the_genes_that_are_there(cells, model):
    """A gene that is missing is not one without counts."""
    kept, frame = model._reference, model._reference.preprocessor
    features = np.asarray(kept.data.features)[:500]
    new = cells[500:, 20:].copy()
    made = reference.new_cells(new, frame, features, 15)
    # one has no counts in the fit
    assert (~made.present).sum() == len(made.missing) == made.n_missing == 19
    of_present = normalization.project(
        normalization.logarithm(made.counts, made.size_factors.astype(float)), frame.projection
    )
    of_missing = (0 - frame.projection.center * ~made.present) @ frame.projection.axes
    wanted = (of_present - of_missing) * frame.scale
    np.testing.assert_allclose(made.features, wanted, rtol=1e-3, atol=1e-3)
    counts = cells[:500].X.toarray().astype(float)
    totals = counts.sum(axis=1)
    usual = counts[:, 20:].sum() / (totals / np.median(totals)).sum()
    depths = new.X.toarray().sum(axis=1)
    np.testing.assert_allclose(made.size_factors, depths / usual, rtol=1e-5)
    surprise = [
        novelty.novelty(kept.novelty, features, *made[:4], present)
        for present in (made.present, np.ones_like(made.present))
    ]
    assert surprise[0].mean() < surprise[1].mean() - 0.02


@pytest.mark.parametrize(
    ("names", "wanted", "expected"),
    [
        (["b", "a", "x"], ["a", "b"], [1, 0, -1]),
        (["B", "b"], ["a", "b"], [-1, 1]),
        (["Gapdh", "ACTB"], ["GAPDH", "actb"], [0, 1]),
        (["ensg01.7"], ["ENSG01.2"], [0]),
        (["ENSMUSG01"], ["ENSMUSG01.2", "ENSMUSG01.3"], [-1]),
        (["AC1.2"], ["AC1.1"], [-1]),
        (["a"], ["A", "a"], [1]),
    ],
    ids=["order", "case", "species", "version", "doubt", "clone", "exact"],
)
def test_alignment(names, wanted, expected):
    assert reference.align(names, wanted).tolist() == expected


def test_bad_new_cells(cells, model):
    with pytest.raises(TypeError, match="Expected `adata` to be an AnnData object, found list"):
        model.predict([1])
    new = cells[500:503].copy()
    new.X = new.X.toarray()
    new.X[1] = 0
    with pytest.raises(ValueError, match="to have counts of the model's genes, found 1 without"):
        model.predict(new)
    with pytest.raises(ValueError, match="log-normalised"):
        model.predict(ad.AnnData(np.log1p(cells[:5].X.toarray())))
    with pytest.raises(ValueError, match="Expected `alpha` to be between 0 and 1, found 2"):
        model.predict(new, alpha=2)
    with pytest.raises(RuntimeError, match="Expected a fitted model to `predict` with"):
        scs.SiameseClu(3).predict(new)


def test_features_of_the_user(cells):
    work = cells.copy()
    counts = work.X.toarray()
    logged = np.log1p(500 * counts / counts.sum(axis=1, keepdims=True))
    axes = np.linalg.svd(logged - logged.mean(axis=0), full_matrices=False)[2][:30]
    work.obsm["X_mine"] = logged @ axes.T
    model = scs.SiameseClu(4, config=CONFIG)
    model.fit(work[:500].copy(), use_rep="X_mine", rng=0, progress=False)
    found = model.predict(work[500:].copy())
    assert adjusted_rand_score(work.obs["cell_type"][500:], found.labels) > 0.8
    with pytest.raises(KeyError, match=r"Expected obsm\['X_mine'\], which the model was fitted on"):
        model.predict(cells[500:].copy())
    work.obsm["X_mine"] = work.obsm["X_mine"][:, :20]
    with pytest.raises(ValueError, match="finite with 30 columns"):
        model.predict(work[500:].copy())


# Surprise.


def test_a_type_that_was_left_out_is_flagged(cells):
    kinds = cells.obs["cell_type"].to_numpy()
    left_out = np.flatnonzero(kinds == kinds[0])
    others = np.flatnonzero(kinds != kinds[0])
    seen, unseen = others[::2], others[1::2]
    model = scs.SiameseClu(3, config=CONFIG).fit(cells[seen].copy(), rng=0, progress=False)
    flags = model.predict(cells[np.r_[unseen, left_out]].copy()).is_novel
    assert flags[len(unseen) :].mean() > 0.9
    # 5 % are wanted; pooled cells vary together, so a few hundred come near that only
    assert model.predict(cells[unseen].copy()).is_novel.mean() <= 0.12
    odd = cells[unseen[:20]].copy()  # too few to be pooled
    odd.X = odd.X[:, np.random.default_rng(0).permutation(odd.n_vars)]
    assert model.predict(odd).is_novel.mean() > 0.4


def test_deviance_is_that_of_poisson():
    rng = np.random.default_rng(0)
    x, mean = rng.poisson(0.7, (9, 6)), rng.uniform(0.1, 2.0, (9, 6))
    terms = np.where(x > 0, x * np.log(np.where(x > 0, x, 1) / mean), 0) - (x - mean)
    found = novelty._deviance(sparse.csr_matrix(x), mean)
    np.testing.assert_allclose(np.exp(found), 2 * terms.sum(axis=1))


def test_outside_is_mahalanobis():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 3)) * [1.0, 5.0, 0.2]
    means, precisions = novelty._gaussians(x, np.zeros(4000, int))
    far = np.array([[3.0, 0, 0], [0, 15.0, 0], [0, 0, 0.6]])
    found = novelty._outside(far, means, precisions)
    np.testing.assert_allclose(found, 9, rtol=0.1)


def test_similar_cells_are_compared_with_the_nearest_group_together():
    rng = np.random.default_rng(0)
    x, counts = rng.normal(size=(80, 5)), rng.poisson(1.5, (80, 6))
    factors = rng.uniform(0.5, 2.0, 80)
    known = novelty._describe(
        x, sparse.csr_matrix(counts), factors, np.arange(80)[:, None], x[:, 0] > 0
    )
    pool = novelty._similar(x)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    near = np.argsort(-(unit @ unit.T), axis=1)[:, :11]
    found = novelty._misfit(known, x, sparse.csr_matrix(counts), factors, pool)
    for cell, rows in enumerate(near):
        assert set(pool[cell].indices) == set(rows)
        center = x[rows].mean(axis=0)
        group = np.argmax(known.groups @ center / np.linalg.norm(known.groups, axis=1))
        mean, seen = known.profiles[group] * factors[rows].mean(), counts[rows].mean(axis=0)
        terms = np.where(seen > 0, seen * np.log(np.where(seen > 0, seen, 1) / mean), 0)
        np.testing.assert_allclose(np.exp(found[cell]), 2 * (terms - seen + mean).sum())


# Saving and loading.


def test_a_loaded_model_is_the_same(tmp_path, cells, model, found):
    model.save(tmp_path / "m")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]
    loaded = scs.SiameseClu.load(tmp_path / "m")
    same(found, loaded.predict(cells[500:].copy()))
    for name in ("labels", "proba", "confidence"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(model, name))
    np.testing.assert_array_equal(
        loaded.get_latent_representation(), model.get_latent_representation()
    )
    assert loaded.manifest == model.manifest
    assert loaded.config == model.config
    assert loaded.history.keys() == model.history.keys()
    for name, values in model.history.items():
        np.testing.assert_array_equal(loaded.history[name], values)
    loaded.save(tmp_path / "again")
    names = ["arrays.safetensors", "model.json"]
    for name in names:
        assert (tmp_path / "m" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == names


def test_mini_batches_and_given_neighbors_are_kept(tmp_path, cells):
    import scanpy as sc

    work = cells[:500].copy()
    logged = work.copy()
    sc.pp.log1p(logged)
    sc.pp.neighbors(logged, n_neighbors=8, use_rep="X", transformer="sklearn")
    work.uns["neighbors"], work.obsp = logged.uns["neighbors"], logged.obsp
    config = {"training": SHORT, "scale": {"full_cells": 300, "batch_cells": 250}}
    model = scs.SiameseClu(4, config=scs.Config.from_dict(config))
    model.fit(work, neighbors_key="neighbors", rng=0, progress=False)
    found = model.predict(cells[500:].copy())
    assert adjusted_rand_score(cells.obs["cell_type"][500:], found.labels) > 0.8
    model.save(tmp_path / "m")
    same(found, scs.SiameseClu.load(tmp_path / "m").predict(cells[500:].copy()))


def test_nothing_is_overwritten_unless_told(tmp_path, model):
    model.save(tmp_path / "m")
    with pytest.raises(FileExistsError, match="give another name, or overwrite it"):
        model.save(tmp_path / "m")
    model.save(tmp_path / "m", overwrite=True)
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="found something else"):
        model.save(tmp_path / "mine", overwrite=True)
    with pytest.raises(FileNotFoundError, match="to exist, found none"):
        model.save(tmp_path / "no" / "m")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "mine"]
    with pytest.raises(RuntimeError, match="Expected a fitted model to `save`"):
        scs.SiameseClu(3).save(tmp_path / "n")


def test_a_failed_save_leaves_what_was_there(tmp_path, model, monkeypatch):
    model.save(tmp_path / "m")
    before = {p.name: p.read_bytes() for p in (tmp_path / "m").iterdir()}

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.numpy.save", fail)
    with pytest.raises(OSError, match="disk full"):
        model.save(tmp_path / "m", overwrite=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "m").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("file", ["model.json", "arrays.safetensors"])
@pytest.mark.parametrize("how", ["truncated", "changed", "gone"])
def test_a_damaged_model_is_told(tmp_path, model, file, how):
    model.save(tmp_path / "m")
    path = tmp_path / "m" / file
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
        with pytest.raises(FileNotFoundError, match=f"Expected a model in .*, found no {file}"):
            scs.SiameseClu.load(tmp_path / "m")
        return
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif file == "model.json":
        path.write_text(path.read_text().replace('"n_clusters": 4', '"n_clusters": 5'))
    else:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match="it is truncated or was edited"):
        scs.SiameseClu.load(tmp_path / "m")


def test_other_files(tmp_path, model):
    model.save(tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="to be of a scsiameseclu_jax model"):
        scs.SiameseClu.load(tmp_path / "m")
    shutil.rmtree(tmp_path / "m")
    with pytest.raises(FileNotFoundError, match="Expected a model in"):
        scs.SiameseClu.load(tmp_path / "m")
