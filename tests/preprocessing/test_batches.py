"""Batches: what is read, centred and linked, and that clusters come out the same in each."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from sklearn.metrics import adjusted_rand_score

import scsiameseclu_jax as scs
from benchmarks import batch_effects as benchmark
from benchmarks import real_data
from scsiameseclu_jax.cli import parser as cli
from scsiameseclu_jax.preprocessing import batches as batch_effects
from scsiameseclu_jax.preprocessing import neighbors, normalization
from scsiameseclu_jax.preprocessing.new_cells import new_cells
from scsiameseclu_jax.preprocessing.prepare import prepare

SHORT = scs.Config.from_dict(
    {
        "training": {"contrast_steps": 0, "feature_steps": 5, "steps": 4},
        "network": {"feature_layers": [16], "graph_layers": [16]},
        "augmentation": {"diffusion": False},
    }
)


@pytest.fixture(scope="module")
def adata():
    """Four types in two batches, one of which has its genes shifted more than types differ."""
    made = scs.datasets.simulate(
        n_cells=400, n_genes=200, n_clusters=4, difficulty=0.4, size_ratio=2.0, rng=0
    )
    rng = np.random.default_rng(1)
    second = rng.random(400) < 0.5
    counts = made.X.toarray()
    counts[second] = rng.poisson(counts[second] * np.exp(rng.normal(0, 1.5, 200)))
    counts[:, 0] += 1
    made.X = sp.csr_matrix(counts.astype(np.int32))
    made.obs["batch"] = pd.Categorical(np.where(second, "late", "early"))
    return made


@pytest.fixture(scope="module")
def model(adata):
    return scs.SiameseClu(4, config=SHORT).fit(adata, batch_key="batch", progress=False)


def test_clusters_are_types_not_batches(adata, model):
    types, batches = adata.obs["cell_type"], adata.obs["batch"]
    plain = scs.SiameseClu(4, config=SHORT).fit(adata, progress=False)
    assert adjusted_rand_score(batches, plain.labels) > 0.3
    assert adjusted_rand_score(batches, model.labels) < 0.05
    assert adjusted_rand_score(types, model.labels) > 0.9
    assert model.manifest["input"]["batch_key"] == "batch"
    assert "batch_key" not in plain.manifest["input"]


def test_features_are_centred_in_each_batch(adata):
    prepared = prepare(adata, batch_key="batch", config=SHORT)
    names = adata.obs["batch"].to_numpy()[prepared.order]
    for x in (prepared.features, *prepared.others):
        for name in ("early", "late"):
            np.testing.assert_allclose(x[names == name].mean(axis=0), 0, atol=1e-5)
    assert prepared.preprocessor.batches.names == ["early", "late"]
    np.testing.assert_array_equal(prepared.batch, (names == "late").astype(int))


def dense_links(x, each, codes):
    """Own-batch neighbours, and mutual ones across, from all pairs."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    n, cosine = len(x), unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    found = np.zeros((n, n), bool)
    for batch in set(codes):
        masked = np.where(codes[None, :] == batch, cosine, -np.inf)
        nearest = np.argsort(-masked, axis=1)[:, :each]
        found[np.arange(n)[:, None], nearest] = True
    same = codes[:, None] == codes[None, :]
    return (found & same) | (found & found.T & ~same)


@pytest.mark.parametrize(("n_batches", "n_neighbors", "each"), [(2, 15, 8), (3, 6, 3), (5, 15, 3)])
def test_links_are_those_of_all_pairs(n_batches, n_neighbors, each):
    rng = np.random.default_rng(0)
    x, codes = rng.normal(size=(90, 6)), np.arange(90) % n_batches
    senders, receivers = batch_effects.balanced_neighbors(x, n_neighbors, codes)
    made = np.zeros((90, 90), int)
    np.add.at(made, (receivers, senders), 1)
    np.testing.assert_array_equal(made, dense_links(x, each, codes))


def slow_links(x, codes, new, new_codes, each):
    """Links [m, n] of new cells by the rule in words, one pair of cells after the other."""

    def cosine(one, two):
        return one @ two / np.sqrt((one @ one) * (two @ two))

    linked = np.zeros((len(new), len(x)), bool)
    for i, cell in enumerate(new):
        for batch in set(codes):
            members = np.flatnonzero(codes == batch)
            near = sorted(members, key=lambda j: -cosine(x[j], cell))[:each]
            for j in near:
                rivals = [r for r in np.flatnonzero(codes == new_codes[i]) if r != j]
                closer = sum(cosine(x[j], x[r]) > cosine(x[j], cell) for r in rivals)
                nobody_knows = new_codes[i] not in codes
                linked[i, j] = batch == new_codes[i] or nobody_knows or closer < each
    return linked


def linked_cells(neighbors, weights, n):
    assert set(np.unique(weights)) <= {0, 1}
    linked = np.zeros((len(neighbors), n))
    np.add.at(linked, (np.arange(len(neighbors))[:, None], neighbors), weights)
    return linked


@pytest.mark.parametrize(("n_batches", "n_neighbors", "each"), [(2, 15, 8), (3, 6, 3)])
def test_links_of_new_cells_are_those_of_all_pairs(n_batches, n_neighbors, each):
    rng = np.random.default_rng(0)
    x, codes = rng.normal(size=(90, 6)), np.arange(90) % n_batches
    new, new_codes = rng.normal(size=(40, 6)), np.arange(40) % (n_batches + 1)  # one is unknown
    found = batch_effects.balanced_neighbors_in(x, codes, new, new_codes, n_neighbors)
    wanted = slow_links(x, codes, new, new_codes, each)
    np.testing.assert_array_equal(linked_cells(*found, 90), wanted)
    across = codes[found[0]] != new_codes[:, None]
    assert 0.2 < found[1][across].mean() < 0.9
    few = [
        batch_effects.balanced_neighbors_in(x, codes, new[i:], new_codes[i:], n_neighbors)
        for i in (0, 33)
    ]
    for all_cells, last in zip(*few, strict=True):
        np.testing.assert_array_equal(all_cells[33:], last)


def test_a_copy_of_a_cell_has_its_links():
    rng = np.random.default_rng(0)
    x, codes = rng.normal(size=(90, 6)).astype(np.float32), np.arange(90) % 3
    senders, receivers = batch_effects.balanced_neighbors(x, 12, codes)
    fitted = np.zeros((90, 90))
    fitted[receivers, senders] = 1
    copies = x * rng.uniform(0.5, 2, size=(90, 1))  # as after other roundings
    found = batch_effects.balanced_neighbors_in(x, codes, copies, codes, 12)
    linked = linked_cells(*found, 90)
    across = codes[:, None] != codes
    np.testing.assert_array_equal(linked * across, fitted * across)
    # the cell itself is the nearest of its batch, so the last of its own neighbours has no place
    assert (np.diag(linked) == 1).all()
    gone = fitted > linked
    np.testing.assert_array_equal(gone.sum(axis=1), 1)
    assert not (gone & across).any()


def test_cells_of_the_fit_prepared_anew_have_their_links(adata):
    prepared = prepare(adata, batch_key="batch", config=SHORT)
    again = adata[prepared.order].copy()
    new = new_cells(again, prepared.preprocessor, prepared.features, 15)
    fitted = np.zeros((400, 400))
    fitted[prepared.receivers, prepared.senders] = 1
    across = prepared.batch[:, None] != prepared.batch
    linked = linked_cells(new.neighbors, new.weights, 400)
    np.testing.assert_array_equal(linked[across], fitted[across])
    assert new.neighbors.shape == new.weights.shape == (400, 2 * 8)
    np.testing.assert_array_equal(
        new.nearest, neighbors.nearest_in(prepared.features, new.features, 15)
    )


def test_cells_of_one_batch_are_linked_among_themselves():
    # as in a draw of the cells that happens to hold no other
    x = np.random.default_rng(0).normal(size=(30, 4))
    found = batch_effects.balanced_neighbors(x, 5, np.zeros(30, int))
    for one, two in zip(found, neighbors.nearest_neighbors(x, 5), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_kind_that_one_batch_lacks_is_not_tied_to_another():
    rng = np.random.default_rng(0)
    near, far = np.array([1.0, 0, 0]), np.array([0, 0, 1.0])
    x = np.r_[
        near + rng.normal(scale=0.05, size=(80, 3)), far + rng.normal(scale=0.05, size=(40, 3))
    ]
    codes = np.r_[np.tile([0, 1], 40), np.zeros(40, int)]
    senders, receivers = batch_effects.balanced_neighbors(x, 10, codes)
    across = codes[senders] != codes[receivers]
    lonely = (senders >= 80) | (receivers >= 80)
    assert across.sum() > 100
    assert (across & lonely).sum() <= 2
    new = x + rng.normal(scale=0.01, size=x.shape)
    near, weights = batch_effects.balanced_neighbors_in(x, codes, new, codes, 10)
    tied = (weights > 0) & (codes[near] != codes[:, None])
    assert tied[:80].sum() > 100
    assert tied[80:].sum() <= 2


def test_genes_are_selected_within_batches():
    """A gene that tells batches apart is not one that varies between cells."""
    rng = np.random.default_rng(0)
    n, late = 400, np.arange(400) % 2
    rates = np.tile(rng.uniform(1, 8, 600), (n, 1))
    rates[:, :20] *= np.exp(rng.normal(0, 0.6, size=(n, 20)))  # these vary in either batch
    rates[:, 20:40] *= np.where(late, 2.0, 0.5)[:, None]
    raw = sp.csr_matrix(rng.poisson(rates))
    _, ignored = normalization.log_normalize(raw, np.ones(n), 40)
    _, within = normalization.log_normalize(raw, np.ones(n), 40, late)
    assert ignored[20:40].sum() >= 12
    assert within[20:40].sum() <= 4
    assert within[:20].sum() >= 16


def test_batch_key_reaches_the_selection_of_genes(adata):
    few = scs.Config.from_dict({"preprocessing": {"n_top_genes": 50}})
    cells = adata.copy()
    order = np.argsort(cells.obs["batch"].astype(str).to_numpy(), kind="stable")
    cells = cells[order].copy()
    prepared = prepare(cells, batch_key="batch", config=few)
    logged = cells.copy()
    totals = np.asarray(cells.X.sum(axis=1)).ravel()
    logged.X = np.log1p(cells.X.toarray() * (np.median(totals) / totals)[:, None])
    table = sc.pp.highly_variable_genes(logged, n_top_genes=50, batch_key="batch", inplace=False)
    selected = np.array(prepared.preprocessor.genes)[prepared.preprocessor.selected]
    assert set(selected) == set(cells.var_names[table["highly_variable"]])
    assert set(selected) != {
        prepare(cells, config=few).preprocessor.genes[i]
        for i in prepare(cells, config=few).preprocessor.selected
    }


def test_order_of_cells_changes_not_one_bit(adata, model):
    shuffled = np.random.default_rng(2).permutation(adata.n_obs)
    other = scs.SiameseClu(4, config=SHORT)
    other.fit(adata[shuffled].copy(), batch_key="batch", progress=False)
    np.testing.assert_array_equal(other.labels, model.labels[shuffled])
    np.testing.assert_array_equal(other.proba, model.proba[shuffled])


def test_new_cells_of_known_and_of_new_batches(adata, model, tmp_path, caplog):
    model.save(tmp_path / "model")
    model = scs.SiameseClu.load(tmp_path / "model")
    known = model.predict(adata[:150].copy())
    assert (known.labels == model.labels[:150]).mean() > 0.95
    assert "do not know" not in caplog.text
    new = adata[adata.obs["batch"] == "late"].copy()
    new.obs["batch"] = "later still"
    found = model.predict(new)
    assert "model does not know" in caplog.text
    assert "later still" in caplog.text
    assert adjusted_rand_score(new.obs["cell_type"], found.labels) > 0.9
    del new.obs["batch"]
    with pytest.raises(KeyError, match="batch_key"):
        model.predict(new)


def test_new_batches_are_as_large_as_those_of_a_fit(adata, model):
    """Less their own mean, the cells of a batch of one are all alike, whatever they express."""
    new = adata[:9].copy()
    new.obs["batch"] = pd.Categorical([*"aaaab", *"cccc"])
    with pytest.raises(ValueError, match=r"more than 3 cells in each batch .* found 1 in 'b'"):
        model.predict(new)
    with pytest.raises(ValueError, match="found 1 in 'b'"):
        scs.tl.predict(new, model)
    assert "siameseclu" not in new.obs
    model.predict(new[np.arange(9) != 4].copy())
    known = adata[:1].copy()  # of a batch of the fit, which has a mean, one cell is enough
    one, many = model.predict(known), model.predict(adata[:9].copy())
    np.testing.assert_allclose(one.proba[0], many.proba[0], rtol=1e-3, atol=1e-5)
    new.obs["batch"] = pd.Categorical([*"aaaacccc", None])
    with pytest.raises(ValueError, match="1 none"):
        model.predict(new)


def test_batches_that_became_numbers_with_a_point(adata):
    """As integers do where a value is missing."""
    names = batch_effects.read_batches(adata, "batch")[1]
    made = adata.copy()
    made.obs["batch"] = (
        made.obs["batch"].astype(str).map({n: float(i) for i, n in enumerate(names)})
    )
    assert batch_effects.read_batches(made, "batch")[1] == [str(i) for i in range(len(names))]


@pytest.mark.slow
def test_anndata_and_command_line(adata, tmp_path, monkeypatch):
    seen = {}
    fit = scs.SiameseClu.fit

    def spy(self, *args, **options):
        seen.update(options)
        return fit(self, *args, **options)

    monkeypatch.setattr(scs.SiameseClu, "fit", spy)
    monkeypatch.chdir(tmp_path)
    adata.write_h5ad("in.h5ad")
    (tmp_path / "short.toml").write_text(
        "[training]\ncontrast_steps = 0\nfeature_steps = 2\n"
        "graph_steps = 2\njoint_steps = 2\nsteps = 2\n"
    )
    words = ["cluster", "in.h5ad", "out.h5ad", "--n-clusters", "4", "--batch-key", "batch"]
    assert cli.main([*words, "--config", "short.toml", "--quiet"]) == 0
    assert seen["batch_key"] == "batch"
    params = ad.read_h5ad("out.h5ad").uns["siameseclu"]["params"]
    assert params["batch_key"] == "batch"


def test_number_of_clusters_past_batches(adata):
    found = scs.tl.estimate_n_clusters(adata.copy(), batch_key="batch")
    assert abs(found - 4) <= 1


@pytest.mark.parametrize(
    ("change", "options", "error", "words"),
    [
        ({}, {"batch_key": "donor"}, KeyError, "donor"),
        ({"batch": "one"}, {}, ValueError, "two batches"),
        ({"batch": ["few"] * 3 + ["many"] * 397}, {}, ValueError, "3 in 'few'"),
        ({"batch": [None, *["a", "b"] * 199, "b"]}, {}, ValueError, "1 none"),
        ({}, {"neighbors_key": "neighbors"}, ValueError, "found both"),
    ],
)
def test_bad_batches(adata, change, options, error, words):
    changed = ad.AnnData(adata.X, obs=adata.obs.assign(**change), var=adata.var)
    with pytest.raises(error, match=words):
        scs.tl.siameseclu(changed, 4, **{"batch_key": "batch"} | options)
    assert "siameseclu" not in changed.obs


@pytest.mark.slow
def test_benchmark_runs_on_cells_with_batches(adata, tmp_path, monkeypatch, capsys):
    bare = ad.AnnData(adata.X, obs=adata.obs[["batch"]], var=adata.var)
    labels = adata.obs["cell_type"].to_numpy().astype(str)
    monkeypatch.setattr(real_data, "available", lambda: ["kang"])
    monkeypatch.setattr(real_data, "load", lambda _: (bare.copy(), labels))
    monkeypatch.setattr(benchmark, "harmony", lambda adata, _: adata.X.toarray()[:, :40])
    one_stage = {"contrast_steps": 0, "feature_steps": 5}
    config, model = scs.Config.from_dict({"training": one_stage}), scs.SiameseClu
    monkeypatch.setattr(scs, "SiameseClu", lambda k: model(k, config=config))
    assert benchmark.main(["--seeds", "1", "--out", str(tmp_path / "made.json")]) == 0
    runs = json.loads((tmp_path / "made.json").read_text())["runs"]
    assert [run["way"] for run in runs] == ["batches ignored", "batch_key", "use_rep, Harmony"]
    assert runs[1]["types"] > runs[0]["types"]
    assert runs[1]["batch"] < runs[0]["batch"]
    assert (tmp_path / "made.md").read_text() in capsys.readouterr().out
