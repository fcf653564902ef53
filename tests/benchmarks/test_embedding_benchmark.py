"""The benchmark of the embedding: what it measures, on points where that is known."""

import json

import numpy as np
import pytest

import scsiameseclu_jax as scs
from benchmarks import embedding, real_data

LABELS = np.repeat(["a", "b", "c"], [90, 60, 3])


def blobs(spread=0.05):
    """Three types in three directions."""
    rng = np.random.default_rng(0)
    return np.eye(3)[np.searchsorted(["a", "b", "c"], LABELS)] + spread * rng.normal(size=(153, 3))


def test_types_apart_are_told_apart():
    scores = embedding.score(blobs(), LABELS, 0)
    assert scores["probe_20"] == scores["kmeans"] == 1
    assert scores["purity"] == pytest.approx(1 - 3 * 13 / 15 / 153)  # the three have two others
    assert set(scores) | {"partition"} == set(embedding.SCORES)


def test_noise_tells_nothing():
    scores = embedding.score(np.random.default_rng(1).normal(size=(153, 3)), LABELS, 0)
    assert scores["balanced_20"] < 0.6
    assert abs(scores["leiden"]) < 0.15
    assert abs(scores["kmeans"]) < 0.15


def test_a_probe_leaves_half_of_a_rare_type():
    """One of the three of a type is known, two are asked for: the types count alike."""
    z = blobs()
    z[-1] = z[0]  # one of them lies among another type
    plain, balanced = zip(*(embedding.probe(z, LABELS, size) for size in (5, 20)), strict=True)
    assert max(balanced) < min(plain)


def test_leiden_comes_near_the_number_asked_for():
    near = np.argsort(((blobs()[:, None] - blobs()) ** 2).sum(axis=2), axis=1)[:, 1:16]
    for n_clusters in (3, 8):
        assert abs(len(np.unique(embedding.leiden(near, n_clusters, 0))) - n_clusters) <= 1


def test_the_table_is_paired_by_set():
    def run(name, one, seed, value, **more):
        scores = dict.fromkeys(["probe_20", *more], value)
        return {"set": one, "representation": name, "seed": seed, "scores": scores}

    runs = [run(embedding.SMOOTHED, one, 0, 0.8) for one in "abc"]
    runs += [run("default", "a", 0, 0.9), run("default", "a", 1, 0.7), run("default", "b", 0, 0.82)]
    assert embedding.cell(runs, "default", "probe_20", embedding.SMOOTHED) == "81.0 (+1.0 ± 1.0)"
    assert embedding.cell(runs, "fast", "probe_20", embedding.SMOOTHED) == "-"
    assert "| default | 2 | 3 | - | 81.0 (+1.0 ± 1.0) | - |" in embedding.table(runs)


def test_it_runs_and_resumes(monkeypatch, tmp_path):
    adata = scs.datasets.simulate(n_cells=150, n_genes=80, n_clusters=3, difficulty=0.2, rng=0)
    labels = adata.obs.pop("cell_type").to_numpy().astype(str)
    monkeypatch.setattr(real_data, "available", lambda: {"worm": None})
    monkeypatch.setattr(real_data, "load", lambda _: (adata.copy(), labels))
    out = tmp_path / "made.json"
    names = ["components", "smoothed components", "fast"]
    words = ["--representations", *names, "--out", str(out), "--sets", "worm"]
    assert embedding.main(words) == 0
    runs = json.loads(out.read_text())["runs"]
    assert [run["representation"] for run in runs] == names
    assert "partition" in runs[-1]["scores"]
    monkeypatch.setattr(embedding, "run_one", lambda *_: pytest.fail("run again"))
    assert embedding.main(words) == 0
