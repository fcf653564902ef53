"""The benchmark of what a process keeps: it reads this process, and prints a curve."""

import json
import mmap
import subprocess
import sys

import pytest

from benchmarks import programs
from benchmarks.records import ROOT

pytestmark = pytest.mark.skipif(
    not (programs.PROCESS / "maps").is_file(), reason="reads /proc, which is Linux's"
)


def test_it_reads_memory_and_maps_of_this_process():
    before, maps = programs.resident_mib(), programs.n_maps()
    held = [mmap.mmap(-1, 2**22, prot=mmap.PROT_READ)]
    held += [mmap.mmap(-1, 2**25)]
    held[1].write(b"x" * 2**25)
    assert 25 < programs.resident_mib() - before < 100
    assert programs.n_maps() > maps


def test_it_prints_the_curve(tmp_path, monkeypatch, capsys):
    def fit(n_cells, n_genes):
        return {"n_cells": n_cells, "seconds": 1.5, "resident_mib": 600.4, "maps": 1234}

    monkeypatch.setattr(programs, "fit", fit)
    out = tmp_path / "programs.json"
    assert programs.main(["--sets", "3", "--out", str(out)]) == 0
    assert "500 genes" in out.with_suffix(".md").read_text()
    assert "| 2 | 850 | 1.5 | 600 | 1,234 |" in capsys.readouterr().out
    assert [run["n_cells"] for run in json.loads(out.read_text())["runs"]] == [200, 850, 1500]
    with pytest.raises(SystemExit):
        programs.main(["--sets", "1"])


def test_a_fit_that_fails_is_a_line(tmp_path, monkeypatch, capsys):
    def fail(self, adata, progress):
        msg = f"{adata.n_obs} x {adata.n_vars} cells are too many"
        raise MemoryError(msg)

    monkeypatch.setattr(programs.scs.SiameseClu, "fit", fail)
    options = ["--sets", "2", "--cells", "60", "70", "--genes", "80"]
    out = tmp_path / "programs.json"
    assert programs.main([*options, "--out", str(out)]) == 1
    assert "Failed at 70 cells: MemoryError: 70 x 80 cells are too many" in capsys.readouterr().out
    assert len(json.loads(out.read_text())["runs"]) == 2


@pytest.mark.slow
def test_a_process_that_fits_thirty_sizes_ends_well(tmp_path):
    """Compiled programs of each size hold maps, of which the kernel has 65,530."""
    out = tmp_path / "programs.json"
    words = [sys.executable, "-m", "benchmarks.programs", "--out", str(out)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    runs = json.loads(out.read_text())["runs"]
    assert len(runs) == 30
    assert max(run["resident_mib"] for run in runs) < 2048
    assert max(run["maps"] for run in runs) < 40_000
