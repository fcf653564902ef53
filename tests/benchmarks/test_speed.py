"""The comparison with scanpy's pipeline: what it runs, what it writes, and a small run of it."""

import json
import sys

import anndata as ad
import pytest

from benchmarks import pipelines, real_data, speed, speed_report
from benchmarks.processes import Finished

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmark is for Linux")

STATE = {
    **{"rounds": 3, "measured": "2030-01-01T00:00+00:00", "commit": "abc1234"},
    **{"cpus": 2, "load": 0.5, "versions": {"python": "3.12", "scanpy": "1.11.5"}},
}
OURS = {
    **{"fresh": [50.0, 30.0, 31.0], "steady": [6.0, 5.0, 9.0], "first": [20.0] * 3},
    **{"peak_mib": [1024.0, 7168.0, 7168.0], "steady_peak_mib": [8192.0] * 3},
    **{"stages": {"total": 5.0}, "device": "cpu", "n_found": 10},
}
SCANPY = OURS | {"fresh": [62.0] * 3, "steady": [3.0, 2.0, 2.5], "peak_mib": [2048.0] * 3}
ROW = {"row": "100000", "data": "100000", "cells": 100_000, "genes": 2000, "n_clusters": 10}
LARGE = STATE | ROW | {"sides": {"ours": OURS, "scanpy": SCANPY}}
SMALL = LARGE | {"row": "pbmc3k", "data": "pbmc3k", "cells": 2638, "genes": 13_713}


def test_bars_are_met_or_not():
    text = speed_report.table([SMALL, LARGE])
    first = "| pbmc3k, 2,638 x 13,713, K 10 | 31.0 / 62.0 | 0.50 (1: met) | 6.0 / 2.5 "
    assert first + "| 2.40 (3: met) | 7.00 / 2.00 |" in text
    second = "| simulated, 100,000 x 2,000, K 10 | 31.0 / 62.0 | 0.50 (1: met) | 6.0 / 2.5 "
    assert second + "| 2.40 (1.5: not met) | 7.00 / 2.00 (6: not met) |" in text


def test_a_number_that_is_chosen_is_judged_by_one_that_is_given():
    auto = OURS | {"steady": [7.0]}
    text = speed_report.table([SMALL | {"row": "auto", "sides": {"ours": OURS, "auto": auto}}])
    assert "K chosen | 31.0 / 31.0 | 1.00 | 7.0 / 6.0 | 1.17 (1.5: met)" in text


def test_rows_of_one_state_are_told_together():
    other = LARGE | {"commit": "def5678"}
    assert speed_report.table([SMALL, LARGE]).count("Measured:") == 1
    text = speed_report.table([SMALL, other])
    assert text.count("Measured:") == 2
    assert "pbmc3k 2030-01-01T00:00+00:00, load 0.5, rounds 3, device cpu. With: commit abc" in text
    assert "commit def5678, 2 CPUs; python 3.12, scanpy 1.11.5." in text


def test_a_side_that_failed_leaves_gaps_and_a_line(tmp_path):
    failed = {"failed": "AttributeError: no getnnz", "remedy": "another version"}
    row = LARGE | {"sides": {"ours": OURS, "scanpy": failed}}
    text = speed_report.table([row])
    assert "| 31.0 / - | - | 6.0 / - | - | 7.00 / - (6: not met) |" in text
    line = "Failed: scanpy on 100000: AttributeError: no getnnz Remedy: another version."
    assert line in text
    absent = STATE | {"row": "pbmc3k", "failed": "no data"}
    assert "Failed: pbmc3k: no data" in speed_report.table([absent])
    for rows in ([row, SMALL, absent], []):
        speed_report.plot(rows, tmp_path / "plot.png")
        assert (tmp_path / "plot.png").stat().st_size > 10_000


@pytest.fixture
def programs(monkeypatch):
    """No process is started; what would be is kept, and some of it fails."""
    started = []

    def run(words, *, env=None, cwd=None):
        started.append((words, env))
        if "make" in words:
            cells = {"cells": 300, "genes": 80, "n_clusters": 3}
            return Finished(1.0, 100.0, json.dumps(cells), None)
        if "benchmarks.programs" in words:
            out, n = (words[words.index(name) + 1] for name in ("--out", "--sets"))
            each = {"seconds": 2.0, "resident_mib": 1024.0, "maps": 7}
            runs = [each, *[each | {"maps": 9}] * (int(n) - 2), each | {"failed": "no memory"}]
            speed.save(speed.Path(out), "", runs=runs)
            return Finished(60.0, 2048.0, "", "exit code -6: no memory")
        if "scanpy" in words and run.broken:
            return Finished(1.0, 100.0, "", "exit code 1: 'csr_array' has no 'getnnz'")
        line = json.dumps({"seconds": 2, "n_found": 3})
        return Finished(4.0, 512.0, "\n".join([line] * 2), None)

    run.broken = False
    monkeypatch.setattr(speed, "run", run)
    return run, started


def rows(out):
    return {record["row"]: record for record in json.loads(out.read_text())["records"]}


def test_rounds_are_gathered_and_rows_kept(tmp_path, programs, capsys):
    out = tmp_path / "speed.json"
    only = ["--out", str(out), "--only"]
    assert speed.main([*only, "300", "auto", "--rounds", "2"]) == 0
    assert speed.main([*only, "demo", "--add", "--rounds", "1"]) == 0
    assert list(rows(out)) == ["demo", "auto", "300"]
    ours = rows(out)["300"]["sides"]["ours"]
    assert ours["fresh"] == [4.0, 4.0]
    assert ours["steady"] == [2.0, 2.0]
    assert "4.0 s (30: met), with the compiled" in capsys.readouterr().out
    assert {"ours", "auto"} == set(rows(out)["auto"]["sides"])
    assert out.with_suffix(".png").exists()
    assert speed.main([*only, "300", "--rounds", "1"]) == 0
    assert list(rows(out)) == ["300"]
    for words in (["nonsense"], ["300", "--rounds", "0"]):
        with pytest.raises(SystemExit):
            speed.main([*only, *words])


def test_nothing_is_compiled_before_a_fresh_process(tmp_path, programs):
    _, started = programs
    speed.main(["--out", str(tmp_path / "speed.json"), "--only", "300", "demo", "--rounds", "2"])
    timed = [(words, env) for words, env in started if "ours" in words or "scanpy" in words]
    fresh = [env for words, env in timed if words[-1].endswith("first.h5ad")]
    folders = [(env["NUMBA_CACHE_DIR"], env["XDG_CACHE_HOME"]) for env in fresh]
    assert len(set(folders)) == len(folders) == 4
    demos = [env for words, env in started if "demo" in words]
    assert len({env["NUMBA_CACHE_DIR"] for env in demos}) == 4
    assert len({env["XDG_CACHE_HOME"] for env in demos}) == 2  # of a round the same
    assert not any("JAX_COMPILATION_CACHE_DIR" in env for _, env in started)


def test_scanpy_may_fail(tmp_path, programs, capsys):
    run, started = programs
    run.broken = True
    out = tmp_path / "speed.json"
    assert speed.main(["--out", str(out), "--only", "300", "--rounds", "2"]) == 0
    sides = rows(out)["300"]["sides"]
    assert sides["ours"]["fresh"] == [4.0, 4.0]
    assert "pip install 'pynndescent<0.7'" in sides["scanpy"]["remedy"]
    assert sum("scanpy" in words for words, _ in started) == 1
    assert "| 4.0 / - |" in capsys.readouterr().out


def test_sets_that_failed_are_counted(tmp_path, programs, capsys):
    out = tmp_path / "speed.json"
    assert speed.main(["--out", str(out), "--only", "sizes", "--rounds", "1"]) == 0
    side = rows(out)["sizes"]["sides"]["ours"]
    assert side["failures"] == [1.0]
    assert side["mean"] == [2.0]
    assert side["maps"] == [9.0]
    text = capsys.readouterr().out
    assert "2.0 s each on average (8: met); 1 failed (0: not met); peak 2.00 GiB" in text
    assert "The last complaint: exit code -6: no memory" in text


def test_the_second_set_is_of_like_size(tmp_path):
    made = pipelines.make("120", tmp_path)
    assert made == {"cells": 120, "genes": 2000, "n_clusters": 10}
    first, second = (ad.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("first", "second"))
    assert first.shape == second.shape == (120, 2000)
    assert (first.X != second.X).nnz > 0
    assert not len(first.obs.columns)


def test_real_cells_come_without_their_types(tmp_path):
    if "pbmc3k" not in real_data.available():
        pytest.skip("needs pbmc3k")
    made = pipelines.make("pbmc3k", tmp_path)
    assert made == {"cells": 2638, "genes": 13_713, "n_clusters": 9}
    second = ad.read_h5ad(tmp_path / "second.h5ad")
    assert second.n_obs == round(0.98 * 2638)
    assert not len(second.obs.columns)


@pytest.mark.filterwarnings("ignore:`n_top_genes` > number of normalized dispersions")
@pytest.mark.filterwarnings("ignore:zero-centering a sparse array/matrix densifies it")
@pytest.mark.filterwarnings("ignore:.*number of normalized dispersions:UserWarning")
def test_scanpys_pipeline_runs(tmp_path, capsys):
    pipelines.make("300", tmp_path)
    pipelines.main(["scanpy", "10", str(tmp_path / "first.h5ad")])
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["n_found"] > 1


def test_stages_are_those_of_the_manifest():
    assert pipelines.stages(3) == {"total": 3.0}
    assert pipelines.stages({"neighbors": 1, "total": 2.5}) == {"neighbors": 1.0, "total": 2.5}


@pytest.mark.slow
def test_a_small_run(tmp_path, capsys):
    out = tmp_path / "speed.json"
    assert speed.main(["--out", str(out), "--only", "300", "--rounds", "1"]) == 0
    sides = rows(out)["300"]["sides"]
    for side in sides.values():
        assert 0 < side["steady"][0] < side["fresh"][0]
        assert side["peak_mib"][0] > 200
    assert sides["ours"]["n_found"] == 10
    assert "| simulated, 300 x 2,000, K 10 |" in capsys.readouterr().out
