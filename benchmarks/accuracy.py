"""How well do the method and its baselines recover known cell types?

``python -m benchmarks.accuracy --quick`` for three data sets, three seeds and the main baselines;
without ``--quick`` for the main sets, with ``--all`` for every set that is found. Every run is a
process of its own, so that time and peak memory are its own too. Every method is given the number
of types, as in the paper; the labels themselves go to `scsiameseclu_jax.metrics` and nowhere else.
One configuration for all data sets, the last state of training, every seed counted.
"""

import argparse
import hashlib
import json
import math
import platform
import resource
import statistics
import subprocess
import sys
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import scsiameseclu_jax as scs
from benchmarks import real_data
from benchmarks.accuracy_plot import plot
from benchmarks.baselines import BASELINES
from benchmarks.records import FIT, ROOT, Run, code_fingerprint, versions, write
from scsiameseclu_jax import metrics

OUT = ROOT / "benchmarks" / "results" / "accuracy.json"

OURS = "siameseclu"
METHODS = [OURS, *BASELINES]
QUICK_METHODS = [OURS, "kmeans", "smoothing", "leiden_tuned"]
QUICK_SETS = ["kidney", "cite_cbmc", "pbmc4k"]
QUICK_SEEDS, FULL_SEEDS = 3, 5

# ACC / NMI / ARI in % of Table 1 in arXiv 2505.12626.
PAPER_COLUMN = "paper (graph from labels, best epoch by accuracy)"
PAPER = {"kidney": "86.08 / 80.86 / 74.23", "cite_cbmc": "74.70 / 68.71 / 67.56"}

# What --check holds the method to.
MIN_MEAN_ARI = 0.63
KMEANS_MARGIN = 0.03


# One run, in a process of its own.


def siameseclu(adata, n_clusters: int, seed: int, settings: dict[str, Any]):
    """Fit the method: the clusters ``[n]``, and a record of its configuration and manifest."""
    config = scs.Config.from_dict(settings)
    model = scs.SiameseClu(n_clusters, config=config)
    model.fit(adata, layer="counts", rng=seed, progress=False)
    record = {"config": config.to_dict(), "config_fingerprint": config.fingerprint()}
    return model.labels, record | {"manifest": model.manifest}


def measure(set_name: str, method: str, seed: int, settings: dict[str, Any]) -> Run:
    """Run one method once and score it."""
    adata, labels = real_data.load(set_name)
    n_clusters = len(set(labels))
    record: Run = {}
    start = time.perf_counter()
    if method == OURS:
        clusters, record = siameseclu(adata, n_clusters, seed, settings)
    else:
        clusters = BASELINES[method](adata, n_clusters, seed)
    seconds = time.perf_counter() - start
    recall = metrics.rare_type_recall(labels, clusters)
    unit = 1 if platform.system() == "Darwin" else 1024
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {
        "set": set_name,
        "method": method,
        "seed": seed,
        "n_cells": adata.n_obs,
        "n_types": n_clusters,
        "n_found": len(set(clusters.tolist())),
        "scores": metrics.scores(labels, clusters)
        | {"rare_type_recall": None if math.isnan(recall) else recall},
        "seconds": round(seconds, 3),
        "peak_mib": round(peak_bytes / 2**20, 1),
        "timestamp": _now(),
        **record,
    }


def measure_in_subprocess(set_name: str, method: str, seed: int, config: Path | None) -> Run:
    """Run `measure` in a fresh process; raises RuntimeError with the end of its errors."""
    command = [sys.executable, "-m", "benchmarks.accuracy", "--one", set_name, method, str(seed)]
    if config is not None:
        command += ["--config", str(config.resolve())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"exit status {done.returncode}: {done.stderr.strip()[-2000:]}"
        raise RuntimeError(msg)
    return json.loads(done.stdout.strip().splitlines()[-1])


# What a run depends on, and the record of all runs.


def code_mark(method: str, settings: dict[str, Any]) -> str:
    """Return a hash of all that a run of `method` depends on but its data and seed."""
    parts = {"settings": settings if method == OURS else {}, "platform": platform.platform()}
    code = FIT if method == OURS else ("benchmarks.baselines", "scsiameseclu_jax.metrics")
    return code_fingerprint(parts, "benchmarks.real_data", *code)


def run_all(arguments: argparse.Namespace, settings: dict[str, Any]) -> tuple[list[Run], int]:
    """Do the runs that are not on record yet, recording each as it ends; say how many failed."""
    paths = real_data.available()
    hashes = {name: _sha256(path) for name, path in paths.items()}
    marks = {method: code_mark(method, settings) for method in METHODS}
    expected = {(name, m): f"{hashes[name][:16]}-{marks[m]}" for name in paths for m in METHODS}
    plan = [
        (name, method, seed)
        for name in arguments.sets
        for seed in range(arguments.seeds)
        for method in arguments.methods
        if method == OURS or seed < arguments.baseline_seeds
    ]
    done = {}
    if arguments.out.exists():
        done = {
            _key(run): run
            for run in json.loads(arguments.out.read_text())["runs"]
            if run["fingerprint"] == expected.get((run["set"], run["method"]))
        }
    if not arguments.resume:
        done = {key: run for key, run in done.items() if key not in plan}
    document = {
        "versions": versions(),
        "platform": platform.platform(),
        "settings": settings,
        "data": {name: {"file": paths[name].name, "sha256": hashes[name]} for name in paths},
        "failures": [],
    }
    for number, key in enumerate(plan, start=1):
        title = f"[{number}/{len(plan)}] {key[0]}, {key[1]}, seed {key[2]}"
        if key in done:
            print(f"{title}: on record", flush=True)
            continue
        try:
            run = measure_in_subprocess(*key, arguments.config)
        except RuntimeError as error:
            # The last line names the error; the lines above it name folders of this machine.
            document["failures"].append({"run": key, "error": str(error).splitlines()[-1]})
            print(f"{title}: failed, {error}", flush=True)
            continue
        done[key] = run | {"fingerprint": expected[key[:2]]}
        print(f"{title}: ARI {run['scores']['ARI']:.3f} in {run['seconds']:.1f} s", flush=True)
        _write_runs(arguments.out, document, done)
    _write_runs(arguments.out, document, done)
    return [done[key] for key in plan if key in done], len(document["failures"])


def _write_runs(out: Path, document: dict[str, Any], done: dict[Any, Run]) -> None:
    document = {"timestamp": _now(), **document, "runs": [done[key] for key in sorted(done)]}
    write(out, json.dumps(document, indent=1, allow_nan=False) + "\n")


def _key(run: Run) -> tuple[str, str, int]:
    return run["set"], run["method"], run["seed"]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# The tables, and the check.


def mean_ari(runs: list[Run], set_name: str, method: str) -> float | None:
    """Return the mean ARI over seeds, None without a run."""
    values = _values(runs, set_name, method, "ARI")
    return statistics.fmean(values) if values else None


def table(runs: list[Run], sets: list[str], methods: list[str]) -> str:
    """Return the results as two Markdown tables."""
    seeds = {m: len({run["seed"] for run in runs if run["method"] == m}) for m in methods}
    counts = ", ".join(f"{m} {count}" for m, count in seeds.items())
    title = f"ACC / NMI / ARI in %, mean ± standard deviation over seeds ({counts})."
    lines = [title, ""]
    lines += _row("data", *methods, PAPER_COLUMN) + _row(*["---"] * (len(methods) + 2))
    for name in sets:
        cells = [
            " / ".join(_percent(_values(runs, name, method, score)) for score in _MAIN)
            for method in methods
        ]
        lines += _row(name, *cells, PAPER.get(name, "–"))
    means = []
    for method in methods:
        values = [mean_ari(runs, name, method) for name in sets]
        means.append("–" if None in values else f"{100 * statistics.fmean(values):.2f}")
    lines += _row("mean ARI", *means, "–")
    lines += ["", "All methods are given the number of types, except leiden_default.", ""]
    lines += _row("data", "method", *_MORE, "clusters", "seconds", "peak MiB")
    lines += _row(*["---"] * (len(_MORE) + 5))
    for name in sets:
        for method in methods:
            chosen = [run for run in runs if _key(run)[:2] == (name, method)]
            if not chosen:
                continue
            cells = [_percent(_values(runs, name, method, score)) for score in _MORE]
            cells += [
                f"{statistics.fmean(run[field] for run in chosen):.1f}"
                for field in ("n_found", "seconds", "peak_mib")
            ]
            lines += _row(name, method, *cells)
    return "\n".join(lines) + "\n"


def shortfalls(runs: list[Run], sets: list[str]) -> list[str]:
    """Return what keeps the method from passing the check; nothing if it passes."""
    problems = []
    ours = [mean_ari(runs, name, OURS) for name in QUICK_SETS]
    if None in ours:
        missing = [name for name, ari in zip(QUICK_SETS, ours, strict=True) if ari is None]
        problems.append(f"Expected runs of {OURS} on {', '.join(missing)}, found none.")
    elif statistics.fmean(ours) < MIN_MEAN_ARI:
        mean = statistics.fmean(ours)
        problems.append(f"Expected a mean ARI of at least {MIN_MEAN_ARI}, found {mean:.3f}.")
    for name in sets:
        ari, kmeans = mean_ari(runs, name, OURS), mean_ari(runs, name, "kmeans")
        if ari is None or kmeans is None:
            problems.append(f"Expected runs of {OURS} and kmeans on {name}, found too few.")
        elif ari < kmeans - KMEANS_MARGIN:
            problems.append(
                f"Expected an ARI on {name} of at least {kmeans - KMEANS_MARGIN:.3f} "
                f"(k-means less {KMEANS_MARGIN}), found {ari:.3f}."
            )
    return problems


_MAIN = ("ACC", "NMI", "ARI")
_MORE = ("AMI", "macro_f1", "rare_type_recall")


def _values(runs: list[Run], set_name: str, method: str, score: str) -> list[float]:
    chosen = [run["scores"][score] for run in runs if _key(run)[:2] == (set_name, method)]
    return [value for value in chosen if value is not None]


def _percent(values: list[float]) -> str:
    if not values:
        return "–"
    text = f"{100 * statistics.fmean(values):.2f}"
    return f"{text} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else text


def _row(*cells: str) -> list[str]:
    return ["| " + " | ".join(cells) + " |"]


# The command line.


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; the exit status is 1 after a failed run or check."""
    arguments = _arguments(argv)
    settings = tomllib.loads(arguments.config.read_text()) if arguments.config else {}
    if arguments.one:
        set_name, method, seed = arguments.one
        print(json.dumps(measure(set_name, method, int(seed), settings), allow_nan=False))
        return 0
    runs, n_failed = run_all(arguments, settings)
    text = table(runs, arguments.sets, arguments.methods)
    write(arguments.out.with_suffix(".md"), text)
    part = arguments.out.with_name(arguments.out.stem + ".part.png")
    plot(runs, arguments.sets, arguments.methods, part)
    part.replace(arguments.out.with_suffix(".png"))
    print(f"\n{text}")
    problems = [f"{n_failed} runs failed."] if n_failed else []
    if arguments.check:
        problems += shortfalls(runs, arguments.sets)
        print("Check:", "passed." if not problems else "failed.")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.accuracy", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three sets, three seeds")
    parser.add_argument("--all", action="store_true", help="every set that is found")
    parser.add_argument("--sets", nargs="+", help="default: the eight main sets")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, metavar="METHOD", help=", ".join(METHODS)
    )
    parser.add_argument("--seeds", type=int, help="how many seeds, from 0")
    parser.add_argument(
        "--baseline-seeds", type=int, help="how many seeds of the baselines (default: as many)"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="JSON; the table goes beside it")
    parser.add_argument("--config", type=Path, help="TOML with settings of the method to change")
    parser.add_argument("--check", action="store_true", help="exit 1 if the method falls short")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", default=True, help="the default")
    again.add_argument("--fresh", dest="resume", action="store_false", help="redo all runs")
    parser.add_argument("--one", nargs=3, metavar=("SET", "METHOD", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        return arguments
    here = list(real_data.available())
    missing = [name for name in arguments.sets or [] if name not in here]
    if missing:
        parser.error(f"Expected `--sets` among {here}, found {missing}.")
    if arguments.sets is None:
        wanted = QUICK_SETS if arguments.quick else here if arguments.all else real_data.MAIN
        arguments.sets = [name for name in here if name in wanted]
        print("Data sets found:", ", ".join(arguments.sets) or "none")
    if not arguments.sets:
        parser.error("Expected labelled data sets; benchmarks/real_data.py says where they go.")
    arguments.methods = arguments.methods or (QUICK_METHODS if arguments.quick else METHODS)
    if arguments.seeds is None:
        arguments.seeds = QUICK_SEEDS if arguments.quick else FULL_SEEDS
    if arguments.baseline_seeds is None:
        arguments.baseline_seeds = arguments.seeds
    if min(arguments.seeds, arguments.baseline_seeds) < 1:
        parser.error("Expected `--seeds` and `--baseline-seeds` to be at least 1.")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
