"""The benchmark of confidence: what counts as right, and what is printed."""

import json

import numpy as np
import pytest

import scsiameseclu_jax as scs
from benchmarks import confidence, real_data

# one stage: there is less to compile
SHORT = {"training": {"feature_steps": 5, "graph_steps": 0, "joint_steps": 0, "steps": 0}}


def test_a_type_has_one_cluster_only():
    labels = np.array(["a", "a", "a", "b", "b", "c"])
    clusters = np.array([2, 2, 0, 0, 0, 0])
    np.testing.assert_array_equal(confidence.matched(labels, clusters), [1, 1, 0, 1, 1, 0])


@pytest.mark.slow
def test_it_runs_and_resumes(tmp_path, monkeypatch, capsys):
    adata = scs.datasets.simulate(n_cells=200, n_genes=100, n_clusters=3, difficulty=0.4, rng=0)
    labels = adata.obs.pop("cell_type").to_numpy().astype(str)
    config, model = scs.Config.from_dict(SHORT), scs.SiameseClu
    monkeypatch.setattr(real_data, "available", lambda: ["worm"])
    monkeypatch.setattr(real_data, "load", lambda _: (adata, labels))
    monkeypatch.setattr(scs, "SiameseClu", lambda k: model(k, config=config))
    words = ["--sets", "worm", "--resamples", "2", "--out", str(tmp_path / "made.json")]
    assert confidence.main(words) == 0
    run = json.loads((tmp_path / "made.json").read_text())["runs"][0]
    assert run["accuracy"] > 0.8
    assert 0 <= run["error"] < 0.5
    assert (tmp_path / "made.md").read_text() in capsys.readouterr().out
    monkeypatch.setattr(confidence, "run", None)  # what is on record is not run again
    assert confidence.main(words) == 0
