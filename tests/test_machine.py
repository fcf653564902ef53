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


def test_says_what_to_install(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(machine, "_sees_nvidia", lambda: True)
    monkeypatch.setattr(machine, "_cuda_build", lambda: None)
    cpu = {"platform": "cpu"}
    assert any("no CUDA build of jax: install" in text for text in machine._advice([cpu]))
    assert not any("CUDA build" in text for text in machine._advice([{"platform": "gpu"}]))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert any("JAX_PLATFORMS=cpu keeps jax" in text for text in machine._advice([cpu]))
    monkeypatch.setattr(machine, "_sees_nvidia", lambda: False)
    assert not any("JAX_PLATFORMS" in text for text in machine._advice([cpu]))
    monkeypatch.setattr(machine, "free_memory", lambda: 2**30)
    assert any("Only 1.0 GiB of memory are free" in text for text in machine._advice([cpu]))
    monkeypatch.setattr(machine, "_version", lambda name: {"jax": "0.11"}.get(name, "0.10"))
    assert any("install the same version" in text for text in machine._advice([cpu]))


def test_says_in_words_what_is_there(monkeypatch, capsys):
    monkeypatch.setattr(machine, "_sees_nvidia", lambda: False)
    monkeypatch.setattr(machine, "_cuda_build", lambda: None)
    monkeypatch.setattr(machine, "_advice", lambda _: [])
    assert main(["doctor", "--no-test"]) == 0
    lines = capsys.readouterr().out.splitlines()
    if jax.default_backend() == "cpu":
        assert "device    No GPU was found: fits run on the CPU, which is fine." in lines
    assert "CUDA      no CUDA build of jax is installed, no NVIDIA card was seen" in lines
    assert "advice    none: this machine is ready" in lines


@pytest.mark.parametrize(
    ("asked", "remedy"),
    [
        ("cuda", "install '.[cuda12]' or '.[cuda13]' on a machine with an NVIDIA driver, or unset"),
        ("gpu", "install '.[cuda12]' or '.[cuda13]' on a machine with an NVIDIA driver, or unset"),
        ("tpu", "install '.[tpu]' on a machine with a TPU, or unset it"),
        ("toaster", "which jax cannot start here: unset it"),
    ],
)
def test_devices_that_jax_cannot_start(asked, remedy, monkeypatch, tmp_path, capsys):
    def refuse():
        raise AssertionError if asked == "cuda" else RuntimeError("no such backend")

    monkeypatch.setattr(jax, "devices", refuse)
    monkeypatch.setattr(machine, "_cuda_build", lambda: None)
    before = jax.config.jax_platforms
    try:
        jax.config.update("jax_platforms", asked)
        found = scs.doctor()
        assert main(["doctor"]) == 1
        assert f"JAX_PLATFORMS asks for {asked!r}" in capsys.readouterr().out
        assert main(["demo", "--out", str(tmp_path / "demo")]) == 2
        assert main(["cluster", "in.h5ad", "out.h5ad"]) == 2
        assert main(["report", "in.h5ad", "out.html"]) == 2
        assert main(["questions", "in.h5ad", "out.csv"]) == 2
        assert main(["predict", "model", "in.h5ad", "out.h5ad"]) == 2
    finally:
        jax.config.update("jax_platforms", before)
    assert not found["ok"] and found["devices"] == [] and found["stages"] == {}
    assert f"JAX_PLATFORMS asks for {asked!r}" in found["advice"][0]
    assert remedy in found["advice"][0]
    said = capsys.readouterr().err
    assert said.count("error: Expected a device to compute on, found none: JAX_PL") == 5
    assert not (tmp_path / "demo").exists()


def test_a_cuda_build_that_does_not_start_says_why(monkeypatch):
    def refuse():
        raise RuntimeError("driver too old")

    monkeypatch.setattr(jax, "devices", refuse)
    monkeypatch.setattr(machine, "_cuda_build", lambda: "jax-cuda13-plugin 0.10.2")
    before = jax.config.jax_platforms
    try:
        jax.config.update("jax_platforms", "cuda")
        assert "(driver too old): see what `nvidia-smi` says" in machine.device_trouble()
    finally:
        jax.config.update("jax_platforms", before)


def test_the_precision_is_that_of_the_caller():
    for wide in (False, True):
        with jax.enable_x64(new_val=wide):
            assert scs.doctor(test=False)["precision"]["64_bits_by_default"] == wide
