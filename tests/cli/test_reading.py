"""Cells that the command line leaves on disk, and how it decides to."""

from argparse import Namespace

import numpy as np
import pytest

import scsiameseclu_jax as scs
from scsiameseclu_jax.cli import main, reading
from scsiameseclu_jax.preprocessing import blocks


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    pytest.importorskip("dask.array")
    path = tmp_path_factory.mktemp("reading") / "in.zarr"
    scs.datasets.simulate_to(path, n_cells=150, n_genes=200, n_clusters=4)
    return path


def test_auto_decides_by_the_memory_that_is_free(source, tmp_path, monkeypatch):
    def decide(free, lazy="auto", path=source):
        monkeypatch.setattr(reading, "free_memory", lambda: free)
        return reading._decide(path, lazy, scs.Config())

    assert decide(2**40) == (False, "a fit takes about 1.4 GiB, 1024.0 GiB are free")
    assert decide(2**29) == (True, "a fit would take about 1.4 GiB in memory, 0.5 GiB are free")
    assert not decide(None)[0]
    assert decide(2**29, "never") == (False, "--lazy never")
    assert decide(2**40, "always") == (True, "--lazy always")
    monkeypatch.setattr(reading, "find_spec", lambda name: None)
    assert decide(2**29) == (False, "Dask is not installed")
    other = tmp_path / "table.h5"
    other.write_text("of another kind")
    assert decide(2**29, path=other) == (False, "")  # there is no choice, and nothing to say


def test_what_is_decided_is_done(source, monkeypatch):
    monkeypatch.setattr(reading, "free_memory", lambda: 2**29)
    args = Namespace(source=source, lazy="auto")
    assert blocks.is_lazy(reading.read(args).X)
    monkeypatch.setattr(reading, "free_memory", lambda: 2**40)
    found = reading.read(args).X
    assert not blocks.is_lazy(found)
    assert isinstance(found.data, np.ndarray)


def test_blocks_without_dask_are_refused_before_reading(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reading, "find_spec", lambda _: None)
    words = ["cluster", str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr"), "--lazy", "always"]
    (tmp_path / "a.zarr").mkdir()
    assert main(words) == 2
    assert "Expected Dask for --lazy always, found none; `pip install" in capsys.readouterr().err


def test_a_file_that_is_read_only_is_refused_before_anything_long(source, monkeypatch, capsys):
    access = reading.os.access
    monkeypatch.setattr(
        reading.os, "access", lambda path, mode: path != source and access(path, mode)
    )
    words = [str(source), str(source), "--lazy", "always", "--overwrite", "--no-cache"]
    assert main(["cluster", *words]) == 2
    assert "to be writable, to put results into it" in capsys.readouterr().err
