"""The benchmark for accelerators, at a small size on whatever device is there."""

import json
import os
import time

import pytest

import scsiameseclu_jax as scs
from benchmarks import gpu


def test_the_least_work_grows_with_pairs_up_to_landmarks():
    config = scs.Config.paper()
    small, large = (gpu.least_work(n, config) for n in (8000, 16_000))
    assert large["exp"] == 4 * small["exp"]
    assert 1.9 < large["bytes"] / small["bytes"] < 2.1
    beyond, twice = (gpu.least_work(n, config) for n in (50_000, 100_000))
    assert twice["exp"] == 2 * beyond["exp"]


def test_without_pairwise_terms_there_is_no_work_on_pairs():
    work = gpu.least_work(8000, scs.Config())
    assert work["exp"] == 0
    assert work["bytes"] < gpu.least_work(8000, scs.Config.paper())["bytes"]


FIT = {"seconds": 12.0, "stages": {"neighbors": 2.0, "total": 9.0}, "busy": 0.25}
FITS = [
    {
        **{"n": 10_000, "imports": 3.0, "cold": FIT, "warm": FIT | {"seconds": 4.0, "busy": None}},
        **{"peak_mib": 512.0, "ari": 0.98, "host_peak_mib": 900.0},
    },
    {"n": 1_000_000, "failed": "out of memory"},
]


def test_targets_are_of_gpus():
    card = gpu.fits_table({"device": "some card", "backend": "gpu", "records": FITS})
    assert "| 10,000 | 12.0 | 15: met | 4.0 | 25% / - | 512 | 0.98 |" in card
    assert (
        "10,000 cells, cold, seconds of each stage: neighbors 2.0, total 9.0, imports 3.0" in card
    )
    assert "Failed: 1,000,000 cells: out of memory" in card
    cpu = gpu.fits_table({"device": "cpu", "backend": "cpu", "records": FITS})
    assert "| 10,000 | 12.0 | - | 4.0 |" in cpu
    slow = [FITS[0] | {"cold": FIT | {"seconds": 15.1}}]
    text = gpu.fits_table({"device": "some card", "backend": "gpu", "records": slow})
    assert "15: not met" in text


@pytest.mark.parametrize(("shown", "share"), [("50", 0.5), ("[N/A]", None)])
def test_the_share_of_time_is_what_nvidia_smi_shows(tmp_path, monkeypatch, shown, share):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{shown}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with gpu.busy() as shares:
        end = time.monotonic() + 30
        while share and not shares and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.3)
    assert set(shares) == ({share} if share else set())


def test_without_nvidia_smi_no_share_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with gpu.busy() as shares:
        pass
    assert shares == []


def test_without_a_gpu_it_says_so_and_stops(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    out = tmp_path / "gpu.json"
    assert gpu.main(["--out", str(out)]) == 1
    assert "No GPU or TPU here: nothing is measured." in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_small_run(tmp_path, monkeypatch, capsys):
    out = tmp_path / "gpu.json"
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    options = [
        "--cpu",
        "--sizes",
        "300",
        "--terms",
        "all",
        "--precisions",
        "highest",
        "--steps",
        "2",
    ]
    options += ["--entries", "8388608"]
    assert gpu.main([*options, "--out", str(out)]) == 0
    document = json.loads(out.read_text())
    (record,) = document["records"]
    assert record["finite"]
    assert 0 < record["of_bound"] < 1
    assert document["backend"] in out.with_suffix(".md").read_text()
    assert "| 300 | all | highest | all |" in capsys.readouterr().out
    document = json.loads((tmp_path / "gpu_fits.json").read_text())
    (fit,) = document["records"]
    assert fit["cold"]["seconds"] > fit["warm"]["seconds"] > 0
    assert fit["cold"]["stages"]["total"] > 0
    assert fit["ari"] > 0.5
