"""How many clusters: the estimate, its evidence, and where it ends up."""

import anndata as ad
import numpy as np
import pytest

import scsiameseclu_jax as scs
from scsiameseclu_jax.cli import parser as cli
from scsiameseclu_jax.partition.n_clusters import estimate, from_plain, k_range, to_plain

# one stage: there is less to compile
SHORT = {"training": {"contrast_steps": 0, "feature_steps": 4}}


def blobs(n_clusters, each=60, spread=0.12, n_features=20, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(n_clusters, n_features))
    noise = rng.normal(scale=spread * n_features**0.5 / 3, size=(n_clusters, each, n_features))
    return (centers[:, None] + noise).reshape(-1, n_features)


@pytest.mark.parametrize("k", [2, 3, 5, 8, 12])
def test_finds_how_many_blobs_there_are(k):
    found = estimate(blobs(k), 15, seed=0)
    assert found.n_clusters == k
    assert found.candidates[0] == 2
    assert found.candidates[-1] == min(30, k * 6)
    assert found.votes.argmax() == k - 2
    assert all(len(series) == len(found.candidates) for series in found.criteria.values())
    assert ((found.votes >= 0) & (found.votes <= 1)).all()
    assert f"{k} has the best" in found.why


@pytest.mark.parametrize("k", [4, 7, 10])
def test_simulated_cells_within_a_fifth(k):
    adata = scs.datasets.simulate(
        n_cells=700, n_genes=400, n_clusters=k, difficulty=0.3, size_ratio=4.0, rng=k
    )
    found = scs.tl.estimate_n_clusters(adata)
    assert abs(found - k) <= max(2, 0.2 * k)


def test_order_of_cells_does_not_matter_and_the_seed_repeats():
    features = blobs(5)
    first, again = (estimate(features, 15, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.votes, again.votes)
    shuffled = np.random.default_rng(0).permutation(len(features))
    assert estimate(features[shuffled], 15, seed=3).n_clusters == first.n_clusters


def test_bounds_are_kept_and_the_upper_one_warned_of(caplog):
    features = blobs(8)
    found = estimate(features, 15, k_min=3, k_max=5, seed=0)
    assert list(found.candidates) == [3, 4, 5]
    assert found.n_clusters == 5
    assert "there may be more" in caplog.text


@pytest.mark.parametrize(("n", "low", "high"), [(25, 2, 30), (500, 1, 30), (500, 8, 8)])
def test_nothing_to_choose_from(n, low, high):
    with pytest.raises(ValueError, match="two numbers of clusters or more to choose from"):
        k_range(n, low, high)


def test_fewer_kinds_of_cells_than_tried(caplog):
    # Three kinds of equal cells: no partition into four exists, and none is made up.
    features = np.repeat(np.eye(3, 6) * 5, 40, axis=0) + 1
    found = estimate(features, 10, seed=0)
    assert list(found.candidates) == [2, 3]
    assert found.n_clusters == 3
    assert "there may be more" not in caplog.text


@pytest.fixture(scope="module")
def clustered():
    adata = scs.datasets.simulate(
        n_cells=240, n_genes=150, n_clusters=4, difficulty=0.2, size_ratio=2.0, rng=0
    )
    config = scs.Config.from_dict(SHORT)
    model = scs.SiameseClu("auto", config=config).fit(adata, progress=False)
    scs.tl.add_clusters(adata, model)
    return adata, model


def test_auto_is_the_estimate_and_is_kept(clustered, tmp_path):
    adata, model = clustered
    other = adata.copy()
    assert scs.tl.estimate_n_clusters(other) == model.estimate.n_clusters == 4
    assert model.proba.shape == (240, 4)
    assert model.manifest["n_clusters"] == 4
    assert list(model.manifest["seconds"])[:2] == ["preprocessing", "number_of_clusters"]
    uns = adata.uns["siameseclu"]
    assert uns["params"]["n_clusters"] == "auto"
    np.testing.assert_array_equal(uns["estimate"]["votes"], other.uns["n_clusters"]["votes"])
    adata.write_h5ad(tmp_path / "out.h5ad")
    back = ad.read_h5ad(tmp_path / "out.h5ad").uns["siameseclu"]["estimate"]
    assert back["n_clusters"] == 4
    assert back["why"] == model.estimate.why
    for name, series in model.estimate.criteria.items():
        np.testing.assert_array_equal(back["criteria"][name], series)


def test_auto_is_saved_and_loaded(clustered, tmp_path):
    _, model = clustered
    model.save(tmp_path / "model")
    loaded = scs.SiameseClu.load(tmp_path / "model")
    assert loaded.n_clusters == "auto"
    assert loaded.estimate.why == model.estimate.why
    np.testing.assert_array_equal(loaded.estimate.votes, model.estimate.votes)
    plain = from_plain(to_plain(model.estimate))
    assert plain.criteria.keys() == model.estimate.criteria.keys()


def test_a_given_number_is_kept_to(clustered):
    adata, _ = clustered
    adata = scs.tl.siameseclu(adata, 6, config=scs.Config.from_dict(SHORT), copy=True)
    assert adata.uns["siameseclu"]["params"]["n_clusters"] == 6
    assert "estimate" not in adata.uns["siameseclu"]
    assert adata.obsm["siameseclu_proba"].shape[1] == 6


def test_labels_do_not_touch_the_estimate(clustered):
    adata, _ = clustered
    bare = ad.AnnData(adata.X.copy(), var=adata.var)
    with_labels = adata.copy()
    assert scs.tl.estimate_n_clusters(bare) == scs.tl.estimate_n_clusters(with_labels)
    for name, series in bare.uns["n_clusters"]["criteria"].items():
        np.testing.assert_array_equal(series, with_labels.uns["n_clusters"]["criteria"][name])


@pytest.mark.parametrize("word", ["many", None, 2.5, True])
def test_words_that_are_no_number(clustered, word):
    adata, _ = clustered
    with pytest.raises((TypeError, ValueError), match="n_clusters"):
        scs.SiameseClu(word).fit(adata, progress=False)


def test_too_few_cells_to_choose(clustered):
    adata, _ = clustered
    few = adata[:25].copy()
    config = scs.Config.from_dict({"preprocessing": {"n_components": 5, "n_neighbors": 5}})
    with pytest.raises(ValueError, match="two numbers of clusters or more to choose from"):
        scs.SiameseClu("auto", config=config).fit(few, progress=False)


@pytest.mark.parametrize("key", ["n_clusters", "siameseclu", None])
def test_plot_shows_each_criterion_and_the_choice(clustered, key):
    adata, model = clustered
    adata = adata.copy()
    if key is not None:
        scs.tl.estimate_n_clusters(adata)
    ax = scs.pl.n_clusters(adata, key)
    labels = [line.get_label() for line in ax.get_lines()]
    criteria = sorted(model.estimate.criteria)  # as files give them back
    assert [name for name in labels if not name.startswith("_")] == [*criteria, "vote"]
    assert ax.get_title() == "4 clusters"
    with pytest.raises(KeyError, match="estimate_n_clusters"):
        scs.pl.n_clusters(adata, "other")


def test_command_line_chooses(clustered, tmp_path, capsys, monkeypatch):
    adata, model = clustered
    monkeypatch.chdir(tmp_path)
    ad.AnnData(adata.X, obs=adata.obs[["cell_type"]], var=adata.var).write_h5ad("in.h5ad")
    seen = []

    def fit(self, adata, **options):
        seen.append(self.n_clusters)
        self._results = model._results
        return self

    monkeypatch.setattr("scsiameseclu_jax.model.SiameseClu.fit", fit)
    assert cli.main(["cluster", "in.h5ad", "out.h5ad", "--labels", "cell_type"]) == 0
    assert seen == ["auto"]
    assert "K chosen without labels" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        cli.main(["cluster", "in.h5ad", "out.h5ad", "--n-clusters", "some"])
    assert stop.value.code == 2
    assert "whole number or auto" in capsys.readouterr().err
