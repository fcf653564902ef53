"""The sensitivity benchmark, and weights as values of the state."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F
from benchmarks import sensitivity
from scsiameseclu_jax.preprocessing.prepare import prepare
from scsiameseclu_jax.training import stages as fitting

STEPS = {"feature_steps": 2, "graph_steps": 0, "joint_steps": 0, "steps": 0}


@pytest.fixture(scope="module")
def prepared():
    adata = scs.datasets.simulate(n_cells=150, n_genes=60, n_clusters=3, rng=0)
    return prepare(adata, config=scs.Config())


def test_weights_are_those_of_a_config_without_another_compilation(prepared):
    config = scs.Config.from_dict({"training": STEPS})
    plain = fitting.fit(prepared, 3, config=config, seed=0)
    programs = F.fit._cache_size()
    weighted = fitting.fit(prepared, 3, config=config, seed=0, weights={"zinb": 0.25})
    assert F.fit._cache_size() == programs
    wanted = replace(config, losses=replace(config.losses, zinb=0.25))
    same = fitting.fit(prepared, 3, config=wanted, seed=0)
    np.testing.assert_allclose(weighted.history["loss"], same.history["loss"], rtol=1e-5)
    assert not np.allclose(weighted.history["loss"], plain.history["loss"], rtol=1e-3)


def test_shared_pretraining_is_pretraining(prepared):
    small = {"feature_steps": 2, "graph_steps": 1, "joint_steps": 1, "steps": 2}
    config = scs.Config.from_dict({"training": small})
    changed = scs.Config.from_dict(
        {"training": small | {"steps": 3}, "losses": {"propagation": 0.0, "clustering": 3.0}}
    )
    start = fitting.pretrain(prepared, 3, config=config, seed=0, progress=False)
    before = jax.tree.map(np.array, jax.tree.leaves(start.state.params))
    for wanted in (changed, config):  # the same start twice: the first fit has not changed it
        shared = fitting.fit(prepared, 3, config=wanted, seed=0, pretrained=start)
        alone = fitting.fit(prepared, 3, config=wanted, seed=0)
        jax.tree.map(np.testing.assert_array_equal, shared.state.params, alone.state.params)
        steps = alone.history["stage"] == "train"
        np.testing.assert_array_equal(shared.history["loss"], alone.history["loss"][steps])
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.leaves(start.state.params))
    for section, value in (
        ("network", {"n_latent": 10}),
        ("losses", {"zinb": 0.0}),
        ("augmentation", {"edge_removal": 0.0}),
        ("training", {"joint_steps": 2}),
    ):
        other = scs.Config.from_dict({"training": small} | {section: value})
        with pytest.raises(ValueError, match=r"differ in training only, found another \['config"):
            fitting.fit(prepared, 3, config=other, seed=0, pretrained=start)
    with pytest.raises(ValueError, match="'zinb', 'seed'"):
        fitting.fit(prepared, 3, config=config, seed=1, weights={"zinb": 2.0}, pretrained=start)


@pytest.mark.parametrize("weights", [{"zinb": 0.0}, {"zinb": np.nan}, {"zimb": 1.0}])
def test_only_weights_of_terms_that_are_on(prepared, weights):
    with pytest.raises(ValueError, match="Expected positive weights of"):
        fitting.fit(prepared, 3, config=scs.Config(), seed=0, weights=weights)


def test_the_grid_changes_one_setting_at_a_time():
    known = [f"losses.{name}" for name in sensitivity.weights()] + list(sensitivity.SETTINGS)
    made = sensitivity.grid(known)
    assert made[0] == ("default", 0.0)
    assert len(set(made)) == len(made)
    for setting, value in made[1:]:
        section, name = setting.split(".")
        config = scs.Config.from_dict({section: {name: value}})
        assert config != scs.Config()


@pytest.mark.slow
def test_a_run_is_scored_and_on_record(tmp_path, monkeypatch, capsys):
    adata = scs.datasets.simulate(n_cells=200, n_genes=150, n_clusters=3, difficulty=0.1, rng=0)
    labels = adata.obs["cell_type"].to_numpy().astype(str)
    monkeypatch.setattr(sensitivity.real_data, "load", lambda name: (adata, labels))
    monkeypatch.setattr(sensitivity.real_data, "available", lambda: {"worm": None})
    small = scs.Config.from_dict
    monkeypatch.setattr(scs.Config, "from_dict", lambda made: small({"training": STEPS} | made))
    monkeypatch.setattr(sensitivity, "SETTINGS", {"network.n_latent": [10]})
    monkeypatch.setattr(sensitivity, "FACTORS", [0.1])
    out = tmp_path / "s.json"
    options = ["--settings", "losses.zinb", "network.n_latent", "--sets", "worm", "--out", str(out)]
    assert sensitivity.main(options) == 0
    runs = json.loads(out.read_text())["runs"]
    assert [run["setting"] for run in runs] == ["default", "losses.zinb", "network.n_latent"]
    assert min(run["ari"] for run in runs) > 0.9
    assert sensitivity.curve(runs, "losses.zinb")[1][0] == 1.0
    assert "**20: " in capsys.readouterr().out
    assert (tmp_path / "s.png").stat().st_size > 1000
    monkeypatch.setattr(sensitivity, "run_one", None)  # nothing is run again
    assert sensitivity.main(options) == 0
