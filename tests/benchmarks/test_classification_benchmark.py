"""The benchmark of classification: its plan, its tables, one run."""

import json

import numpy as np
import pytest

from benchmarks import classification, classification_table, real_data
from tests.labelled import Fitted, cells, without_fit


def scored(accuracy, f1=0.9):
    scores = dict.fromkeys(classification_table.SCORES, 0.5) | {"accuracy": accuracy}
    return {
        "scores": scores | {"macro_f1": f1},
        "surest 90%": 0.9,
        "calibration_error": 0.01,
    }


def test_bars_are_judged():
    within = {"kind": "within", "set": "a"}
    runs = [
        within | {"way": "classify", "accuracies": [0.9, 0.92]} | scored(0.91),
        within | {"way": "logistic, PCA", "accuracies": [0.9, 0.9]} | scored(0.9),
        within | {"way": "logistic, tuned, PCA", "accuracies": [0.89, 0.9]} | scored(0.895),
    ]
    text = classification_table.table(runs)
    assert "+0.0100 ± 0.0100" in text
    assert "noise or better: 1 of 1 data sets." in text
    between = {"kind": "between", "set": "kang", "reference": "ctrl", "way": "transfer_labels"}
    runs = [between | {"seed": seed} | scored(0.9 + seed / 50) for seed in range(2)]
    runs.append(between | {"way": "k-nearest, PCA of all cells"} | scored(0.905))
    assert "uses PCA: 1 of 1 ways." in classification_table.table(runs)
    runs.append(between | {"way": "logistic, PCA of all cells"} | scored(0.92))
    assert "uses PCA: 0 of 1 ways." in classification_table.table(runs)
    left = {"kind": "left out", "set": "kang", "reference": "ctrl", "false_flags": 0.1}
    runs = [left | {"type": "B", "flagged": 1.0}, left | {"type": "T", "flagged": 0.5}]
    assert "| kang | ctrl | 2 | 75.0% | 10.0% |" in classification_table.table(runs)


def test_components_of_some_cells_do_not_depend_on_the_others():
    adata = cells(200)
    part = np.arange(200) < 120
    x = classification.components(adata, part)
    assert x.shape == (200, 50)
    other = adata.copy()
    other.X[150:] = 2 * adata.X[150:]  # the same shares
    np.testing.assert_allclose(np.abs(classification.components(other, part)), np.abs(x), atol=1e-6)


@pytest.fixture
def small(monkeypatch):
    """Simulated cells in place of the real ones, and an embedding that costs nothing."""
    adata = cells(300, 3, difficulty=0.4)
    labels = adata.obs["cell_type"].to_numpy().astype(str)
    adata.obs = adata.obs[[]].assign(batch=np.where(np.arange(300) < 150, "ctrl", "stim"))
    del adata.obsm["X_mine"]

    without_fit(monkeypatch)
    monkeypatch.setattr(classification.scs, "SiameseClu", Fitted)
    monkeypatch.setattr(real_data, "available", lambda: {"kang": None})
    monkeypatch.setattr(real_data, "load", lambda _: (adata.copy(), labels))


def test_it_runs_and_resumes(small, tmp_path, capsys, monkeypatch):
    out = tmp_path / "made.json"
    monkeypatch.setattr(classification, "STRENGTHS", [0.1, 1.0])
    words = ["--sets", "kang", "--quick", "--out", str(out)]
    assert classification.main(words) == 0
    runs = json.loads(out.read_text())["runs"]
    kinds = [run["kind"] for run in runs]
    assert kinds.count("within") == 5 and kinds.count("between") == 2 * (5 + 12)
    assert all(run["scores"]["accuracy"] > 0.7 for run in runs)
    assert out.with_suffix(".md").read_text() in capsys.readouterr().out
    monkeypatch.setattr(classification, "measure", None)  # what is on record is not run again
    assert classification.main(words) == 0
