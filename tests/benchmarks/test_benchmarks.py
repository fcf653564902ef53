"""The benchmark on simulated cells: sound baselines, resuming, tables and the check."""

import json
import types

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from benchmarks import accuracy, records
from benchmarks.baselines import BASELINES
from scsiameseclu_jax import metrics

N_TYPES = 3


def simulate(seed=0, n=150, g=60):
    rng = np.random.default_rng(seed)
    types_of_cells = rng.integers(0, N_TYPES, n)
    rates = rng.gamma(2.0, 1.0, (N_TYPES, g))[types_of_cells]
    counts = sparse.csr_matrix(rng.poisson(rates).astype(np.float32))
    adata = ad.AnnData(counts, layers={"counts": counts.copy()})
    return adata, np.array(["B", "T", "NK"])[types_of_cells]


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """Three simulated sets, runs in this process, and k-means in place of the method."""
    paths = {}
    for seed, name in enumerate(accuracy.QUICK_SETS):
        paths[name] = tmp_path / f"{name}.h5"
        paths[name].write_text(str(seed))
    calls = []

    def measure(set_name, method, seed, config):
        calls.append((set_name, method, seed))
        return json.loads(json.dumps(accuracy.measure(set_name, method, seed, {})))

    def load(name):
        return simulate(int(paths[name].read_text()))

    def ours(adata, n_clusters, seed, settings):
        return BASELINES["kmeans"](adata, n_clusters, seed), {"config": settings}

    monkeypatch.setattr(accuracy.real_data, "available", lambda: paths)
    monkeypatch.setattr(accuracy.real_data, "load", load)
    monkeypatch.setattr(accuracy, "measure_in_subprocess", measure)
    monkeypatch.setattr(accuracy, "siameseclu", ours)
    out = tmp_path / "results" / "accuracy.json"

    def run(*options):
        calls.clear()
        arguments = ["--out", str(out), "--methods", "siameseclu", "kmeans", "--seeds", "2"]
        return accuracy.main([*arguments, *options]), list(calls)

    return types.SimpleNamespace(run=run, out=out, paths=paths)


# `choice` runs most of the others.
NAMES = [pytest.param(n, marks=pytest.mark.slow) if n == "choice" else n for n in BASELINES]


# The cells of well separated types form a graph in pieces, which sklearn mentions.
@pytest.mark.filterwarnings("ignore:Graph is not fully connected:UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_baseline_finds_the_types_and_sees_counts_alone(name):
    adata, labels = simulate()
    untouched = adata.copy()
    clusters = BASELINES[name](adata, N_TYPES, 0)
    assert clusters.shape == (adata.n_obs,) and np.issubdtype(clusters.dtype, np.integer)
    assert metrics.scores(labels, clusters)["ARI"] > 0.9

    assert list(adata.obs) == [] and not adata.obsm and not adata.uns
    assert (adata.X != untouched.X).nnz == 0
    untouched.obs["cell_type"] = labels
    untouched.X = untouched.X * 0
    np.testing.assert_array_equal(clusters, BASELINES[name](untouched, N_TYPES, 0))


def test_one_run():
    adata, labels = simulate()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accuracy.real_data, "load", lambda name: (adata, labels))
        run = accuracy.measure("kidney", "kmeans", 0, {})
    assert set(run["scores"]) == {"ACC", "NMI", "ARI", "AMI", "macro_f1", "rare_type_recall"}
    assert run["scores"]["rare_type_recall"] is None  # no type is rare
    assert run["n_types"] == run["n_found"] == N_TYPES
    assert 0 < run["seconds"] < 60 and 10 < run["peak_mib"] < 1e5


def test_record_and_tables(bench):
    status, calls = bench.run("--quick", "--check")
    assert status == 0 and len(calls) == 3 * 2 * 2
    document = json.loads(bench.out.read_text())
    assert len(document["runs"]) == 12 and document["failures"] == []
    assert {"python", "jax", "scanpy", "scikit-learn"} <= set(document["versions"])
    assert all(len(entry["sha256"]) == 64 for entry in document["data"].values())
    names = sorted(path.name for path in bench.out.parent.iterdir())
    assert names == ["accuracy.json", "accuracy.md", "accuracy.png"]
    lines = bench.out.with_suffix(".md").read_text().splitlines()
    assert lines[2].endswith(f"| kmeans | {accuracy.PAPER_COLUMN} |")
    kidney = next(line for line in lines if line.startswith("| kidney"))
    assert kidney.endswith("| 86.08 / 80.86 / 74.23 |") and "±" in kidney
    mean = np.mean([run["scores"]["ARI"] for run in document["runs"] if run["method"] == "kmeans"])
    row = next(line for line in lines if line.startswith("| mean ARI"))
    assert row.split("|")[3].strip() == f"{100 * mean:.2f}"


def test_resuming_does_only_what_is_new(bench, monkeypatch):
    bench.run()
    first = bench.out.read_text()
    assert bench.run() == (0, [])
    assert json.loads(bench.out.read_text())["runs"] == json.loads(first)["runs"]
    assert len(bench.run("--seeds", "3")[1]) == 3 * 2
    assert len(bench.run("--fresh", "--sets", "kidney", "--methods", "kmeans")[1]) == 2
    assert len(json.loads(bench.out.read_text())["runs"]) == 3 * 2 * 3

    # One more seed of ours, fewer of the baseline: no run of the baseline is new.
    again = bench.run("--seeds", "4", "--baseline-seeds", "1")[1]
    assert {method for _, method, _ in again} == {"siameseclu"} and len(again) == 3

    bench.paths["kidney"].write_text("7")
    assert {name for name, _, _ in bench.run()[1]} == {"kidney"}
    monkeypatch.setattr(records, "versions", lambda: {"jax": "another"})
    assert len(bench.run()[1]) == 12


def test_new_settings_redo_the_method_alone(bench, tmp_path):
    bench.run()
    config = tmp_path / "config.toml"
    config.write_text("n_steps = 7\n")
    assert {method for _, method, _ in bench.run("--config", str(config))[1]} == {"siameseclu"}
    assert json.loads(bench.out.read_text())["settings"] == {"n_steps": 7}


def test_a_failed_run_is_reported_and_not_kept(bench, monkeypatch, capsys):
    def failing(set_name, method, seed, config):
        raise RuntimeError("exit status 1: Traceback in some file\nValueError: no")

    with monkeypatch.context() as patch:
        patch.setattr(accuracy, "measure_in_subprocess", failing)
        status, _ = bench.run("--sets", "kidney")
    assert status == 1 and "4 runs failed" in capsys.readouterr().err
    document = json.loads(bench.out.read_text())
    assert document["runs"] == [] and document["failures"][0]["error"] == "ValueError: no"
    status, calls = bench.run("--sets", "kidney")
    assert status == 0 and len(calls) == 4


def runs_with(**aris):
    return [
        {"set": name, "method": method, "seed": 0, "scores": {"ARI": ari}}
        for name, pair in aris.items()
        for method, ari in zip(("siameseclu", "kmeans"), pair, strict=True)
    ]


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        (runs_with(kidney=(0.7, 0.5), cite_cbmc=(0.7, 0.5), pbmc4k=(0.7, 0.72)), []),
        (runs_with(kidney=(0.7, 0.5), cite_cbmc=(0.5, 0.5), pbmc4k=(0.6, 0.5)), ["mean ARI"]),
        (runs_with(kidney=(0.8, 0.5), cite_cbmc=(0.8, 0.84), pbmc4k=(0.8, 0.5)), ["on cite_cbmc"]),
        (runs_with(kidney=(0.8, 0.5), cite_cbmc=(0.8, 0.5)), ["on pbmc4k", "kmeans on pbmc4k"]),
    ],
)
def test_check(runs, expected):
    found = accuracy.shortfalls(runs, accuracy.QUICK_SETS)
    assert len(found) == len(expected)
    for message, words in zip(found, expected, strict=True):
        assert message.startswith("Expected") and words in message


def test_the_main_sets_are_the_default(monkeypatch):
    here = dict.fromkeys(["ipsc", "worm", "kidney"])
    monkeypatch.setattr(accuracy.real_data, "available", lambda: here)
    assert accuracy.real_data.main_sets() == ["kidney", "worm"]
    assert accuracy._arguments([]).sets == ["worm", "kidney"]
    assert accuracy._arguments(["--all"]).sets == list(here)
    assert accuracy._arguments(["--quick"]).sets == ["kidney"]


@pytest.mark.parametrize("options", [["--sets", "nowhere"], ["--seeds", "0"]])
def test_wrong_options(bench, options, capsys):
    with pytest.raises(SystemExit, match="2"):
        bench.run(*options)
    assert "Expected `--se" in capsys.readouterr().err
