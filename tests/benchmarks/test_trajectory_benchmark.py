"""The benchmark of trajectories: what is compared with what, and what is printed."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmarks import real_data, trajectory

CLUSTERS = ["C07", "C06", "C05", "C04", "C03", "C02", "C01", "C09", "C10", "C14", "C16", "C08"]


def known(n=20):
    """Clusters of n cells each, and the time that others put them at."""
    clusters = np.repeat(CLUSTERS, n)
    time = np.array([trajectory.order_of(clusters, own) for own in trajectory.LINEAGES.values()])
    names = [f"cell{i}" for i in range(len(clusters))]
    columns = {"paul_cluster": pd.Categorical(clusters), "Pseudotime": time.max(axis=0) + 0.0}
    return pd.DataFrame(columns, index=names)


def test_order_is_that_of_the_lineage():
    lineage = trajectory.LINEAGES["erythroid"]
    found = trajectory.order_of(np.array(["C07", "C01", "C06", "C14"]), lineage)
    np.testing.assert_array_equal(found, [0, 6, 1, -1])


def test_correlations_reach_what_ties_allow_and_lost_cells_come_last():
    cells = known()
    order = cells["Pseudotime"].to_numpy()
    # In the published order and without ties: nothing correlates better.
    best = trajectory.correlations(order + 1e-4 * np.arange(len(order)), cells)
    limits = trajectory.ceilings(cells)
    for name in trajectory.LINEAGES:
        assert best[name] == pytest.approx(limits[name], abs=1e-3)
        assert trajectory.correlations(order, cells)[name] == pytest.approx(1)
        assert trajectory.correlations(-order, cells)[name] == pytest.approx(-1)
    lost = np.where(cells["paul_cluster"] == "C07", np.nan, order / 10)
    assert trajectory.correlations(lost, cells)["erythroid"] < 0.5


def test_roots_are_cells_of_the_start():
    cells = known()
    cells["Pseudotime"] = np.arange(len(cells))[::-1]
    found = trajectory.roots(cells)
    assert found["earliest"] == [f"cell{i}" for i in range(19, 9, -1)]
    assert len(set(found["by lot"])) == 20
    assert set(cells["paul_cluster"][found["by lot"]]) == {"C07"}


def run(way, seed, values):
    names = [n for name in trajectory.LINEAGES for n in (name, f"{name}, others' pseudotime")]
    scores = dict(zip(names, values, strict=True))
    return {"way": way, "seed": seed, "roots": "earliest", "n_roots": 1, "scores": scores}


def test_it_prints_the_bar_and_resumes(tmp_path, monkeypatch, capsys):
    done = []

    def runs_of(seed):
        done.append(seed)
        ours = run(trajectory.OURS, seed, [0.8 + 0.1 * seed, 0.9, 0.6, 0.7])
        return [ours, run(trajectory.BASELINE, seed, [0.8, 0.9, 0.7, 0.7])]

    monkeypatch.setattr(real_data, "available", lambda: ["paul15"])
    monkeypatch.setattr(trajectory, "published", known)
    monkeypatch.setattr(trajectory, "runs_of", runs_of)
    words = ["--out", str(tmp_path / "made.json"), "--seeds"]
    assert trajectory.main([*words, "2"]) == 0
    assert done == [0, 1]
    told = capsys.readouterr().out
    assert "| earliest | embedding (tl.trajectory) | 0.850 ± 0.050 | 0.900 ± 0.000 |" in told
    assert "erythroid: 0.850, to be at least 0.800 (PCA, scanpy's defaults): met" in told
    assert "granulocyte/monocyte: 0.600, to be at least 0.700 (PCA, scanpy's defaults): NOT" in told
    assert (tmp_path / "made.md").read_text() in told
    assert len(json.loads((tmp_path / "made.json").read_text())["runs"]) == 4
    trajectory.main([*words, "3"])
    assert done == [0, 1, 2]
    monkeypatch.setattr(trajectory, "code_fingerprint", lambda *parts: "other")
    trajectory.main([*words, "1"])
    assert done == [0, 1, 2, 0]
