"""The doctor: what it says of this machine, and whether it sees a stage that computes wrongly."""

import itertools
import json

import jax
import pytest

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F
from scsiameseclu_jax import machine
from scsiameseclu_jax.cli import main

STAGES = [
    "propagation over the graph",
    "diffusion",
    "gradient of the diffusion",
    "attention",
    "cross-correlation",
    "reconstruction of the adjacency",
    "count likelihood",
    "soft assignment",
    "optimal transport",
    "training step",
]


@pytest.fixture
def only_propagation(monkeypatch):
    stages = machine._stages
    monkeypatch.setattr(machine, "_stages", lambda: itertools.islice(stages(), 1))


def test_every_stage_is_tested_and_right():
    found = scs.doctor()
    assert list(found["stages"]) == STAGES
    assert found["ok"] and all(one["right"] for one in found["stages"].values())
    assert found["versions"]["jax"] == jax.__version__
    assert [one["platform"] for one in found["devices"]] == [d.platform for d in jax.devices()]
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(("factor", "shown"), [(1.001, "1e-03"), (float("nan"), "not finite")])
def test_a_stage_that_is_wrong_is_named(factor, shown, only_propagation, monkeypatch, capsys):
    propagate = F.propagate
    monkeypatch.setattr(F, "propagate", lambda *words: factor * propagate(*words))
    found = scs.doctor()
    assert not found["ok"] and not found["stages"]["propagation over the graph"]["right"]
    assert "propagation over the graph differ" in found["advice"][-1]
    assert main(["doctor"]) == 1
    assert f"WRONG     propagation over the graph: error {shown}" in capsys.readouterr().out
    json.dumps(found, allow_nan=False)


def test_command_prints_what_it_found(only_propagation, capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"jax {jax.__version__}" in " ".join(out.split())
    assert "ok        propagation over the graph: error" in out
    assert main(["doctor", "--json", "--no-test"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["stages"] == {} and found["ok"]


def test_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(machine, "default_device", lambda: None)
    smi = tmp_path / "nvidia-smi"
    monkeypatch.setattr(machine.shutil, "which", lambda _: smi)
    cpu = {"platform": "cpu"}
    assert any("jax sees no GPU: install" in text for text in machine._advice([cpu]))
    assert not any("jax sees no GPU" in text for text in machine._advice([{"platform": "gpu"}]))
    monkeypatch.setattr(machine, "free_memory", lambda: 2**30)
    assert any("Only 1.0 GiB of memory are free" in text for text in machine._advice([cpu]))
    monkeypatch.setattr(machine, "_version", lambda name: {"jax": "0.11"}.get(name, "0.10"))
    assert any("install the same version" in text for text in machine._advice([cpu]))


def test_the_precision_is_that_of_the_caller():
    for wide in (False, True):
        with jax.enable_x64(new_val=wide):
            assert scs.doctor(test=False)["precision"]["64_bits_by_default"] == wide
