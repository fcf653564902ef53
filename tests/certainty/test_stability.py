"""Agreement with refits, confidence that follows from it, and parts of the cells re-clustered."""

import anndata as ad
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

import scsiameseclu_jax as scs
from scsiameseclu_jax.certainty import calibration, stability
from scsiameseclu_jax.cli import parser as cli
from scsiameseclu_jax.partition import consensus
from scsiameseclu_jax.tl.record import UNASSIGNED
from scsiameseclu_jax.training import stages

# one stage: there is less to compile
SHORT = scs.Config.from_dict({"training": {"contrast_steps": 0, "feature_steps": 4}})


def soft(labels, k, certainty):
    made = np.full((len(labels), k), (1 - certainty) / (k - 1))
    made[np.arange(len(labels)), labels] = certainty
    return made


def test_names_of_the_refits_clusters_do_not_matter():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 300)
    refits = np.array([rng.permutation(4)[labels] for _ in range(3)])
    found, made = stability.compare(soft(labels, 4, 0.7), None, refits)
    np.testing.assert_array_equal(found.agreement, 1)
    np.testing.assert_array_equal(found.consensus, labels)
    np.testing.assert_array_equal(found.jaccard, 1)
    np.testing.assert_array_equal(found.together, np.eye(4))
    assert found.calibration_error < 0.02
    assert stability.hints(found) == ([], [])
    # All refits agree, so a stated 0.7 is far too little.
    assert calibration.confidence(made, soft(labels, 4, 0.7)).min() > 0.98


def test_clusters_that_refits_merge_and_split():
    labels = np.repeat([0, 1, 2], [100, 60, 80])
    # Cluster 1 goes with 0, cluster 2 falls into three: names 1, 2 and 0.
    other = np.r_[np.zeros(160, int), np.repeat([1, 2], 40)]
    thirds = np.r_[np.zeros(160, int), np.arange(80) % 3]
    found, made = stability.compare(soft(labels, 3, 0.8), None, np.array([other, thirds, thirds]))
    assert stability.hints(found) == ([(0, 1)], [2])
    assert found.together[0, 1] == 1
    assert found.together[2, 2] == pytest.approx(np.mean([0.5, 1 / 3, 1 / 3]), abs=1e-3)
    assert found.jaccard[0] == pytest.approx(np.mean([100 / 160, 100 / 187, 100 / 187]))
    np.testing.assert_allclose(made.transitions.sum(axis=1), 1)


@pytest.mark.parametrize("certainty", [0.6, 0.99])
def test_confidence_is_the_share_of_refits_that_agree(certainty):
    # Cells differ in how often they move; soft assignments say so, on the wrong scale.
    rng = np.random.default_rng(1)
    n, k = 6000, 3
    labels = rng.integers(0, k, n)
    logits = np.zeros((n, k))
    logits[np.arange(n), labels] = rng.uniform(0, 4, n)
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    refits = np.array([[rng.choice(k, p=row) for row in true] for _ in range(6)])
    scale = {0.6: 0.3, 0.99: 3.0}[certainty]
    stated = np.exp(scale * logits) / np.exp(scale * logits).sum(axis=1, keepdims=True)
    raw = calibration.expected_error(stated.max(axis=1), (refits == labels).mean(axis=0))
    found, learned = stability.compare(stated, None, refits)
    assert raw > 0.1
    assert found.calibration_error < 0.06 < raw
    made = calibration.confidence(learned, stated)
    assert np.corrcoef(made, true.max(axis=1))[0, 1] > 0.9


def test_votes_calibrate_as_refits_do():
    # Soft assignments that know of the second cluster's cells only that they are near its centre.
    rng = np.random.default_rng(2)
    labels, stays = rng.integers(0, 3, 3000), np.array([0.95, 0.6, 0.8])
    votes = np.full((3000, 3), 0.0)
    votes[np.arange(3000), labels] = stays[labels]
    votes[np.arange(3000), (labels + 1) % 3] = 1 - stays[labels]
    made = calibration.calibrate(soft(labels, 3, 0.99), votes)
    found = calibration.confidence(made, soft(labels, 3, 0.99))
    np.testing.assert_allclose(found, stays[labels], atol=0.01)
    moved = rng.random((5, 3000)) > stays[labels]
    refits = np.where(moved, (labels + 1) % 3, labels)
    _, both = stability.compare(soft(labels, 3, 0.99), votes, refits)
    found = calibration.confidence(both, soft(labels, 3, 0.99))
    np.testing.assert_allclose(found, stays[labels], atol=0.02)


def test_without_a_calibration_confidence_is_the_soft_assignment():
    proba = soft(np.array([0, 2, 1]), 3, 0.7)
    np.testing.assert_array_equal(calibration.confidence(None, proba), proba.max(axis=1))


def test_the_calibration_of_a_cluster_without_cells():
    labels = np.repeat([0, 1], 50)
    votes = np.repeat([[0.8, 0.2, 0.0], [0.0, 1.0, 0.0]], 50, axis=0)
    made = calibration.calibrate(soft(labels, 3, 0.9), votes)
    np.testing.assert_allclose(made.transitions.sum(axis=1), 1)
    found = calibration.confidence(made, soft(labels, 3, 0.9))
    np.testing.assert_allclose(found, np.repeat([0.8, 1.0], 50), atol=0.02)


def test_error_is_that_of_bins():
    stated = np.array([0.05, 0.05, 0.95, 1.0])
    agrees = np.array([0.0, 1.0, 1.0, 1.0])
    wanted = (2 * 0.45 + 2 * 0.025) / 4
    assert calibration.expected_error(stated, agrees) == pytest.approx(wanted)


def test_refits_see_four_fifths_and_predict_the_rest():
    adata = ad.AnnData(np.arange(50, dtype=float)[:, None])
    sizes = []

    class Model:
        def __init__(self, part, seed):
            sizes.append((part.n_obs, seed))
            self.labels = part.X[:, 0].astype(int) % 3

        def predict(self, part, layer):
            assert layer == "raw"
            return type(self)(part, None)

    found = stability.refit(adata, 3, Model, layer="raw", seed=5)
    np.testing.assert_array_equal(found, np.tile(np.arange(50) % 3, (3, 1)))
    assert [n for n, _ in sizes] == [40, 10] * 3
    assert len({seed for _, seed in sizes}) == 4


def test_refits_see_four_fifths_of_each_batch():
    batch = np.repeat([0, 1, 2], [31, 4, 15])
    adata = ad.AnnData(np.arange(50, dtype=float)[:, None])
    seen = []

    class Model:
        def __init__(self, part, seed):
            rows = part.X[:, 0].astype(int)
            self.labels = rows % 3
            if seed is not None:
                seen.append(np.bincount(batch[rows]).tolist())

        def predict(self, part, layer):
            return type(self)(part, None)

    found = stability.refit(adata, 2, Model, layer=None, batch=batch, seed=5)
    np.testing.assert_array_equal(found, np.tile(np.arange(50) % 3, (2, 1)))
    assert seen == [[25, 4, 12]] * 2


@pytest.fixture(scope="module")
def adata():
    made = scs.datasets.simulate(
        n_cells=250, n_genes=150, n_clusters=4, difficulty=0.4, size_ratio=2.0, rng=0
    )
    made.obs["part"] = np.where(made.obs["cell_type"].isin(made.obs["cell_type"][:1]), "a", "b")
    return made


@pytest.fixture(scope="module")
def assessed(adata):
    model = scs.SiameseClu(4, config=SHORT).fit(adata, progress=False)
    starts = []

    def seen(*given, **options):
        found = consensus.first_partition(*given, **options)
        starts.append(found.name)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "first_partition", seen)
        model.assess(adata, n_resamples=2, progress=False)
    # refits start from a candidate each; the model's own settings stay
    assert len(starts) == 2
    assert not any("consensus" in name for name in starts)
    assert model.config == SHORT
    assert model.manifest["first_partition"].startswith("consensus of ")
    return model


def test_what_is_written(adata, assessed, tmp_path):
    made = scs.tl.add_clusters(adata, assessed, min_confidence=0.9, copy=True)
    made.write_h5ad(tmp_path / "out.h5ad")
    made = ad.read_h5ad(tmp_path / "out.h5ad")
    confidence = made.obs["siameseclu_confidence"]
    np.testing.assert_array_equal(made.obs["siameseclu"] == UNASSIGNED, confidence < 0.9)
    assert made.obs["siameseclu_agreement"].isin([0, 0.5, 1]).all()
    assert adjusted_rand_score(made.obs["siameseclu_consensus"], assessed.labels) > 0.9
    kept = made.uns["siameseclu"]["stability"]
    assert kept["jaccard"].shape == (4,)
    assert made.uns["siameseclu"]["params"]["min_confidence"] == 0.9
    assert made.uns["siameseclu"]["manifest"]["n_resamples"] == 2
    assert made.uns["siameseclu"]["manifest"]["confidence"] == "calibrated by refits, too"
    made.obs["siameseclu_annotation"] = made.uns["siameseclu_annotation"] = "old"
    # A new result without refits leaves nothing of the old one behind.
    plain = scs.SiameseClu(4, config=SHORT).fit(adata, progress=False)
    scs.tl.add_clusters(made, plain)
    assert not {"siameseclu_agreement", "siameseclu_annotation"} & {*made.obs, *made.uns}
    assert "stability" not in made.uns["siameseclu"]
    # Its confidence comes from the votes for its first partition.
    assert made.uns["siameseclu"]["manifest"]["confidence"] == "calibrated by its votes"
    votes = plain._results["votes"]
    np.testing.assert_allclose(votes.sum(axis=1), 1, rtol=1e-5)
    wanted = calibration.confidence(calibration.calibrate(plain.proba, votes), plain.proba)
    np.testing.assert_array_equal(made.obs["siameseclu_confidence"], wanted)
    own = votes[np.arange(len(votes)), plain.labels]
    assert abs(wanted.mean() - own.mean()) < 0.02


def test_it_is_saved_and_serves_new_cells(adata, assessed, tmp_path):
    assessed.save(tmp_path / "model")
    loaded = scs.SiameseClu.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.confidence, assessed.confidence)
    np.testing.assert_array_equal(loaded._results["votes"], assessed._results["votes"])
    assert isinstance(loaded.stability.calibration_error, float)
    assert loaded.stability.calibration_error == assessed.stability.calibration_error
    new = adata[:40].copy()
    found = loaded.predict(new)
    np.testing.assert_array_equal(found.confidence, assessed.predict(new).confidence)
    assert not np.array_equal(found.confidence, found.proba.max(axis=1))
    scs.tl.predict(new, loaded, min_confidence=1.0)
    assert (new.obs["siameseclu"] == UNASSIGNED).any()


def test_refits_from_the_tool_and_the_command_line(adata, assessed, tmp_path, monkeypatch):
    seen = []

    def assess(self, adata, **options):
        seen.append(options)
        self._results["stability"] = assessed.stability
        return self

    monkeypatch.setattr(scs.SiameseClu, "assess", assess)
    monkeypatch.setattr(scs.SiameseClu, "fit", lambda self, *_, **__: copy_of(assessed, self))
    made = scs.tl.siameseclu(adata, 4, n_resamples=3, rng=7, copy=True)
    assert "stability" in made.uns["siameseclu"]
    monkeypatch.chdir(tmp_path)
    adata.write_h5ad("in.h5ad")
    words = ["cluster", "in.h5ad", "out.h5ad", "--resamples", "4", "--min-confidence", "0.5"]
    assert cli.main([*words, "--quiet"]) == 0
    assert [options["n_resamples"] for options in seen] == [3, 4]
    assert "siameseclu_agreement" in ad.read_h5ad("out.h5ad").obs


def copy_of(model, other):
    other._results, other._reference = dict(model._results), model._reference
    return other


PER_CELL = scs.Config.from_dict({"fusion": {"gate": "per_cell"}})


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"n_resamples": 1}, ValueError, "between 2 and 1000, found 1"),
        ({"n_resamples": 2.5}, TypeError, "to be an integer, found 2.5"),
        ({"n_resamples": 2, "n_clusters": 200}, ValueError, "which need 201, found 250"),
        ({"n_resamples": 2, "config": PER_CELL}, ValueError, "found 'per_cell'"),
        ({"min_confidence": 1.5}, ValueError, "between 0 and 1"),
        ({"restrict_to": "part"}, TypeError, r"to be \(column, \[groups\]\), found 'part'"),
    ],
)
def test_bad_options(adata, options, error, words, monkeypatch):
    monkeypatch.setattr(scs.SiameseClu, "fit", None)  # before anything starts
    with pytest.raises(error, match=words):
        scs.tl.siameseclu(adata, **{"n_clusters": 4} | options)


def test_assess_needs_a_fit_and_its_cells(adata, assessed):
    with pytest.raises(RuntimeError, match="fitted model"):
        scs.SiameseClu(4).assess(adata)
    with pytest.raises(ValueError, match="250 cells"):
        assessed.assess(adata[:100])


def test_cells_without_a_group_are_in_none(adata):
    made = adata.copy()
    made.obs["part"] = made.obs["part"].where(np.arange(made.n_obs) >= 50)
    with pytest.raises(ValueError, match=r"Expected groups of obs\['part'\]"):
        scs.tl.siameseclu(made, 3, restrict_to=("part", ["nan"]), config=SHORT)


def test_part_of_the_cells_again(adata, tmp_path):
    made = scs.tl.siameseclu(adata, 3, restrict_to=("part", ["b"]), config=SHORT, copy=True)
    again = made.obs["part"] == "b"
    found = made.obs["siameseclu_R"]
    assert list(found.cat.categories) == ["a", "b,0", "b,1", "b,2"]
    assert (found[~again] == "a").all()
    assert adjusted_rand_score(made.obs["cell_type"][again], found[again]) > 0.7
    for values in (made.obs["siameseclu_R_confidence"], made.obsm["X_siameseclu_R"][:, 0]):
        np.testing.assert_array_equal(np.isnan(values), ~again)
    made.write_h5ad(tmp_path / "out.h5ad")
    kept = ad.read_h5ad(tmp_path / "out.h5ad").uns["siameseclu_R"]["params"]["restrict_to"]
    assert list(kept["part"]) == ["b"]
    model = scs.SiameseClu(3, config=SHORT).fit(adata[again].copy(), progress=False)
    np.testing.assert_array_equal(found[again].str.removeprefix("b,").astype(int), model.labels)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (("donor", ["b"]), KeyError, "donor"),
        (("part", ["c"]), ValueError, "found \\['c'\\]"),
        (("part", []), ValueError, "Expected groups"),
        (("part", "b"), TypeError, "single group"),
    ],
)
def test_bad_parts(adata, given, error, words):
    with pytest.raises(error, match=words):
        scs.tl.siameseclu(adata, 3, restrict_to=given, config=SHORT)
