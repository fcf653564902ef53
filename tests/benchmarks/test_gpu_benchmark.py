"""The benchmark for accelerators, at a small size on whatever device is there."""

import json

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


@pytest.mark.slow
def test_a_small_run(tmp_path, capsys):
    out = tmp_path / "gpu.json"
    options = ["--sizes", "300", "--terms", "all", "--precisions", "highest", "--steps", "2"]
    options += ["--entries", "8388608"]
    assert gpu.main([*options, "--out", str(out)]) == 0
    document = json.loads(out.read_text())
    (record,) = document["records"]
    assert record["finite"]
    assert 0 < record["of_bound"] < 1
    assert document["backend"] in out.with_suffix(".md").read_text()
    assert "| 300 | all | highest | all |" in capsys.readouterr().out
