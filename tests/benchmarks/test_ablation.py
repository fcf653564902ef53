"""The ablation benchmark: what it switches off, what it prints, that it resumes."""

import json

import numpy as np
import pytest

import scsiameseclu_jax as scs
from benchmarks import ablation

RUNS = [
    {"set": s, "variant": v, "seed": seed, "ari": ari}
    for (s, v, seed), ari in {
        ("a", "all terms", 0): 0.5,
        ("a", "all terms", 1): 0.6,
        ("b", "all terms", 0): 0.8,
        ("b", "all terms", 1): 0.8,
        ("a", "no ZINB", 0): 0.4,
        ("a", "no ZINB", 1): 0.6,
        ("b", "no ZINB", 0): 0.9,
        ("b", "no ZINB", 1): 0.5,
    }.items()
]


@pytest.mark.parametrize("variant", list(ablation.VARIANTS))
def test_every_variant_but_the_first_leaves_something_out(variant):
    config = ablation.config_of(variant)
    assert (config == scs.Config.paper()) == (variant == ablation.BASE)
    assert (config == scs.Config()) == (variant == ablation.LEAN)


def test_changes_are_paired_by_set_and_seed():
    by_seed, by_set = ablation.changes(RUNS, "no ZINB")
    np.testing.assert_allclose(by_seed, [0.0, -0.15])
    assert by_set == pytest.approx({"a": -0.05, "b": -0.1})
    assert "| no ZINB | 4 | -7.5 ± 7.5 | -5.0 | -10.0 |" in ablation.table(RUNS)


def test_runs_on_record_are_not_repeated(tmp_path, monkeypatch):
    done = []

    def run_one(set_name, variant, seed):
        done.append((set_name, variant, seed))
        return {"set": set_name, "variant": variant, "seed": seed, "ari": 0.1 * seed}

    monkeypatch.setattr(ablation, "run_one", run_one)
    out = tmp_path / "ablation.json"
    options = ["--sets", "worm", "--variants", "no ZINB", "--out", str(out), "--seeds"]
    assert ablation.main([*options, "2"]) == 0
    assert done == [("worm", v, s) for v in ("all terms", "no ZINB") for s in (0, 1)]
    del done[:]
    ablation.main([*options, "3"])
    assert done == [("worm", "all terms", 2), ("worm", "no ZINB", 2)]
    assert len(json.loads(out.read_text())["runs"]) == 6
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["ablation.json", "ablation.md", "ablation.png"]
    del done[:]
    monkeypatch.setattr(ablation, "code_fingerprint", lambda settings: "other")
    ablation.main([*options, "1"])
    assert len(done) == 2


@pytest.mark.parametrize("steps", ["no training stage", "nothing learned"])
def test_a_fit_without_steps_still_clusters(steps):
    adata = scs.datasets.simulate(n_cells=200, n_genes=80, n_clusters=3, difficulty=0.2, rng=0)
    config = ablation.config_of(steps)
    if steps == "no training stage":
        config = scs.Config.from_dict(
            {"training": {"feature_steps": 2, "graph_steps": 1, "joint_steps": 1, "steps": 0}}
        )
    model = scs.SiameseClu(3, config=config).fit(adata, progress=False)
    assert len(np.unique(model.labels)) == 3
    assert np.isfinite(model.proba).all()
