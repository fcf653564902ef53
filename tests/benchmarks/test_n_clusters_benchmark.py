"""The benchmark of the number of clusters: its criteria, on data with one clear answer."""

import json

import numpy as np
import pytest

from benchmarks import n_clusters


@pytest.fixture(scope="module")
def found():
    rng = np.random.default_rng(0)
    centers = 3 * np.linalg.qr(rng.normal(size=(20, 20)))[0][:6]
    features = np.repeat(centers, 50, axis=0) + rng.normal(scale=0.4, size=(300, 20))
    return n_clusters.estimates(features.astype(np.float32), 10)


@pytest.mark.parametrize("criterion", n_clusters.CRITERIA)
def test_each_criterion_finds_clear_blobs(found, criterion):
    assert found[criterion] == 6


def test_table_counts_what_is_near():
    assert [n_clusters.near_enough(k, 5) for k in (2, 3, 7, 8)] == [False, True, True, False]
    assert [n_clusters.near_enough(k, 20) for k in (15, 16, 24, 25)] == [False, True, True, False]
    row = {"set": "a", "n_cells": 10, "true": 8, "simulated": False}
    runs = [
        row | {"found": dict.fromkeys(n_clusters.CRITERIA, 16)},
        row | {"simulated": True, "found": dict.fromkeys(n_clusters.CRITERIA, 8)},
    ]
    lines = n_clusters.table(runs).splitlines()
    assert "| 1 of 2 | 0 of 1 | 1 of 1 | 0.347 |" in lines[2]
    assert lines[-1] == "| a | 10 | 8 | 16 | 16 |"


def test_least_kept_is_of_the_worst_cluster():
    own, other = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 0, 1, 1])
    assert n_clusters.least_kept(own, own, 2) == 1
    assert n_clusters.least_kept(own, other, 2) == pytest.approx(1 / 3)


def test_it_runs_and_resumes(tmp_path, monkeypatch, capsys):
    words = ["--no-real", "--simulated", "1", "--out", str(tmp_path / "made.json")]
    assert n_clusters.main(words) == 0
    runs = json.loads((tmp_path / "made.json").read_text())["runs"]
    assert [run["true"] for run in runs] == [3]
    assert runs[0]["found"].keys() == n_clusters.CRITERIA.keys()
    assert (tmp_path / "made.md").read_text() in capsys.readouterr().out
    monkeypatch.setattr(n_clusters, "estimates", None)  # what is on record is not run again
    assert n_clusters.main(words) == 0
