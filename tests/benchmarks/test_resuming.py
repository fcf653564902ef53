"""Benchmarks that resume: a small run of each on simulated cells, then nothing is run again."""

import json

import numpy as np
import pytest

import scsiameseclu_jax as scs
from benchmarks import ablation, confidence, pairs, real_data, sensitivity, transfer

# one stage: there is less to compile
SHORT = {"training": {"contrast_steps": 0, "feature_steps": 5}}
COUNTED = {
    ablation: ("run_one", ["--variants", "no ZINB", "--seeds", "2"], {"ari": 0.5}),
    sensitivity: ("run_one", ["--settings", "network.n_latent", "--seeds", "2"], {"ari": 0.5}),
    pairs: ("run", ["--counts", "0", "--seeds", "2"], {"ari": 0.5}),
}
KEYS = {
    ablation: ("set", "variant", "seed"),
    sensitivity: ("set", "setting", "value", "seed"),
    pairs: ("set", "count", "seed"),
}


@pytest.fixture
def cells(monkeypatch):
    """One simulated set in place of the real ones."""
    adata = scs.datasets.simulate(n_cells=300, n_genes=100, n_clusters=3, difficulty=0.2, rng=0)
    labels = adata.obs.pop("cell_type").to_numpy().astype(str)
    monkeypatch.setattr(real_data, "available", lambda: {"worm": None})
    monkeypatch.setattr(real_data, "load", lambda _: (adata.copy(), labels))
    return labels


@pytest.mark.parametrize("benchmark", COUNTED, ids=lambda module: module.__name__)
def test_runs_on_record_are_not_repeated(benchmark, cells, tmp_path, monkeypatch):
    name, options, scores = COUNTED[benchmark]
    done = []

    def run(*key):
        done.append(key)
        return dict(zip(KEYS[benchmark], key, strict=True)) | scores

    monkeypatch.setattr(benchmark, name, run)
    words = ["--sets", "worm", *options, "--out", str(tmp_path / "made.json")]
    assert benchmark.main(words) == 0
    assert len(set(done)) == len(done) >= 2
    runs = json.loads((tmp_path / "made.json").read_text())["runs"]
    assert len(runs) == len(done)
    first = len(done)
    assert benchmark.main(words) == 0
    assert len(done) == first
    assert benchmark.main([*words, "--seeds", "3"]) == 0
    assert len(done) == 3 * first // 2
    monkeypatch.setattr(benchmark, "code_fingerprint", lambda *parts: "other")
    assert benchmark.main([*words, "--seeds", "1"]) == 0
    assert len(done) == 2 * first
    assert len(json.loads((tmp_path / "made.json").read_text())["runs"]) == first // 2


FITS = {
    ablation: ["--variants", "nothing learned", "--seeds", "1"],
    confidence: ["--resamples", "2"],
    pairs: ["--counts", "100", "--seeds", "1"],
    sensitivity: ["--settings", "network.n_latent", "--seeds", "1"],
    transfer: ["--seeds", "1"],
}


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", FITS, ids=lambda module: module.__name__)
def test_a_small_run_is_scored(benchmark, cells, tmp_path, monkeypatch, capsys):
    config, model = scs.Config.from_dict(SHORT), scs.SiameseClu
    monkeypatch.setattr(scs, "SiameseClu", lambda k, **_: model(k, config=config))
    monkeypatch.setattr(transfer, "MANY", 200)
    monkeypatch.setattr(transfer, "LEAST", max(np.unique(cells, return_counts=True)[1]))
    monkeypatch.setitem(sensitivity.SETTINGS, "network.n_latent", [10])
    out = tmp_path / "made.json"
    words = ["--sets", "worm", *FITS[benchmark], "--out", str(out)]
    assert benchmark.main(words) == 0
    assert out.with_suffix(".md").read_text() in capsys.readouterr().out
    for run in json.loads(out.read_text())["runs"]:
        scores = [run[key] for key in ("ari", "accuracy", "predicted", "same_0.1") if key in run]
        assert scores or run["kind"] in {"timed", "left out"}
        assert min(scores, default=1) > 0.8
    monkeypatch.setattr(scs, "SiameseClu", None)  # what is on record is not run again
    assert benchmark.main(words) == 0


def test_a_type_has_one_cluster_only():
    labels = np.array(["a", "a", "a", "b", "b", "c"])
    clusters = np.array([2, 2, 0, 0, 0, 0])
    np.testing.assert_array_equal(confidence.matched(labels, clusters), [1, 1, 0, 1, 1, 0])
