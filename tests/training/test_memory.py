"""The estimate of memory, and the refusal of what does not fit."""

import numpy as np
import pytest

import scsiameseclu_jax as scs
from scsiameseclu_jax import inputs
from scsiameseclu_jax.training import memory


def test_grows_with_what_is_asked_for():
    sizes = [1000, 10_000, 100_000]
    totals = np.array([scs.estimate_memory(n, 2000).total for n in sizes], float)
    slopes = np.diff(totals) / np.diff(sizes)
    assert (slopes > 0).all()
    wide = scs.Config.from_dict({"network": {"graph_layers": [128, 256]}})
    small = scs.estimate_memory(50_000, 2000)
    assert scs.estimate_memory(50_000, 2000, wide).total > 1.5 * small.total
    assert scs.estimate_memory(50_000, 30_000).total > small.total
    assert small.device < small.total


def test_mini_batches_need_less():
    batches = scs.Config.from_dict({"scale": {"full_cells": 1000}})
    whole, parts = (scs.estimate_memory(150_000, 2000, c) for c in (None, batches))
    assert parts.device < 0.5 * whole.device
    assert parts.total < whole.total


def test_the_peak_of_a_fit_is_within_the_estimate_of_the_records():
    """The recorded peaks, as `benchmarks/steps.py` measured them."""
    from benchmarks import steps

    fits = [r for r in steps.on_record() if r["kind"] == "fit" and r["cache"] == "none"]
    assert len(fits) >= 4
    for record in fits:
        made = scs.estimate_memory(record["n"], steps.N_GENES, n_values=record["n_values"]).total
        assert made / 2**20 == pytest.approx(record["peak_mib"], rel=0.25), record["n"]


def test_bad_sizes():
    with pytest.raises(ValueError, match="found 0 and 5"):
        scs.estimate_memory(0, 5)


@pytest.mark.parametrize(
    ("scale", "remedy"),
    [
        ({}, "full_cells"),
        ({"full_cells": 50}, "batch_cells"),
    ],
)
def test_refused_before_anything_is_made(monkeypatch, scale, remedy):
    monkeypatch.setattr(memory, "free_memory", lambda: 2**20)
    adata = scs.datasets.simulate(n_cells=100, n_genes=60, n_clusters=2, rng=0)
    model = scs.SiameseClu(2, config=scs.Config.from_dict({"scale": scale}))
    monkeypatch.setattr(memory, "_resident", lambda: 0)
    with pytest.raises(
        MemoryError, match=rf"about .* GiB more .* 0.0 GiB free; lower `config.scale.{remedy}`"
    ):
        model.fit(adata, progress=False)
    assert not model.is_fitted


def test_where_nothing_is_known_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: None)
    memory.check_memory(10**9, 2000, 10**11, scs.Config())


def test_a_gpu_has_to_hold_the_arrays(monkeypatch):
    class Device:
        platform, device_kind = "gpu", "a card"

        def memory_stats(self):
            return {"bytes_limit": 2**30, "bytes_in_use": 0}

    monkeypatch.setattr(memory, "default_device", Device)
    memory.check_memory(1000, 2000, 10**5, scs.Config())
    with pytest.raises(MemoryError, match="memory of a card for 150000 cells"):
        memory.check_memory(150_000, 2000, 10**7, scs.Config())


def test_what_is_free_here():
    free = memory.free_memory()
    assert free is None or 0 < free < 2**50
    assert memory._resident() >= 0


def test_a_container_has_less(monkeypatch, tmp_path):
    files = {"/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB"}
    groups = "/sys/fs/cgroup"
    files |= {f"{groups}/memory.max": "5000000", f"{groups}/memory.stat": "anon 1000000\nfile 7"}

    def read(path):
        if str(path) not in files:
            raise FileNotFoundError
        return files[str(path)]

    monkeypatch.setattr(inputs.Path, "read_text", read)
    assert memory.free_memory() == 4_000_000
    files[f"{groups}/memory.max"] = "max"
    assert memory.free_memory() == 8_192_000
    del files["/proc/meminfo"]
    assert memory.free_memory() is None
