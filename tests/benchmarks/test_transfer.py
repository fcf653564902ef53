"""The benchmark of new cells: what is split, run and averaged."""

import json

import numpy as np
import pytest

import scsiameseclu_jax as scs
from benchmarks import real_data, transfer

# one stage: there is less to compile
SHORT = {"feature_steps": 5, "graph_steps": 0, "joint_steps": 0, "steps": 0}


def test_split_has_every_cell_once():
    seen, unseen = transfer.split(100, 3)
    assert len(seen) == 70
    np.testing.assert_array_equal(np.sort(np.r_[seen, unseen]), np.arange(100))
    assert not np.array_equal(seen, transfer.split(100, 4)[0])


def test_table_averages_over_seeds_and_types():
    new = {"kind": "new cells", "set": "a", "n_cells": 10, "seconds": 2.0, "false_flags": 0.1}
    out = {"kind": "left out", "n_cells": 100, "false_flags": 0.06, "flagged_at_5_percent": 0.4}
    lines = transfer.table(
        [
            new | {"seed": 0, "predicted": 0.6, "fitted": 0.8, "agreement": 0.9},
            new | {"seed": 1, "predicted": 0.8, "fitted": 0.8, "agreement": 0.7},
            out | {"set": "a", "type": "x", "flagged": 1.0},
            out | {"set": "b", "type": "y", "flagged": 0.5},
        ]
    ).splitlines()
    assert lines[2] == "| a | 0.700 | 0.800 | 0.875 | 0.800 | 10.0% | 5 |"
    assert lines[3].startswith("| mean | 0.700")
    assert lines[-2] == "| b | 1 | 50.0% | 6.0% | 40.0% |"
    assert lines[-1] == "| mean over types | 2 | 75.0% | 6.0% | 40.0% |"


def test_table_of_missing_genes():
    without = {"same_0.1": 0.98, "same_0.18": 0.9, "false_flags_0.1": 0.04, "false_flags_0.18": 0.0}
    runs = [
        {"kind": "missing genes", "set": "a", "false_flags": 0.05} | without,
        {"kind": "missing genes", "set": "b", "false_flags": 0.07} | without,
    ]
    head, _, *rows = transfer.missing_table(runs)
    assert head.count("|") == rows[0].count("|") == 7
    assert rows[0] == "| a | 5.0% | 98.0% | 4.0% | 90.0% | 0.0% |"
    assert rows[-1] == "| mean | 6.0% | 98.0% | 4.0% | 90.0% | 0.0% |"


@pytest.mark.slow
def test_it_runs_and_resumes(tmp_path, monkeypatch, capsys):
    adata = scs.datasets.simulate(n_cells=400, n_genes=100, n_clusters=3, difficulty=0.2, rng=0)
    labels = adata.obs.pop("cell_type").to_numpy().astype(str)
    config = scs.Config.from_dict({"training": SHORT})
    model = scs.SiameseClu
    monkeypatch.setattr(scs, "SiameseClu", lambda k: model(k, config=config))
    monkeypatch.setattr(real_data, "available", lambda: ["worm"])
    monkeypatch.setattr(real_data, "load", lambda _: (adata, labels))
    monkeypatch.setattr(transfer, "MANY", 200)
    monkeypatch.setattr(transfer, "LEAST", max(np.unique(labels, return_counts=True)[1]))
    words = ["--sets", "worm", "--seeds", "1", "--out", str(tmp_path / "made.json")]
    assert transfer.main(words) == 0
    runs = json.loads((tmp_path / "made.json").read_text())["runs"]
    assert [run["kind"] for run in runs] == ["timed", "new cells", "missing genes", "left out"]
    assert runs[1]["predicted"] > 0.9
    assert runs[2]["same_0.1"] > 0.9
    assert runs[3]["flagged"] > 0.9
    assert "200 simulated cells, by a fit of 200: " in (tmp_path / "made.md").read_text()
    assert (tmp_path / "made.md").read_text() in capsys.readouterr().out
    monkeypatch.setattr(scs, "SiameseClu", None)  # what is on record is not run again
    assert transfer.main(words) == 0
