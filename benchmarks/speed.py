"""How fast is a step, how much memory does it need, and how long does a whole fit take?

``python -m benchmarks.speed`` times the training step at growing sizes, beside a dense PyTorch
implementation of the same step (`benchmarks/dense_torch.py`; ``pip install torch==2.13.0``; left
out, and said so, without it), then whole fits with a cold and a warm compilation cache. Simulated
cells, one process for each measurement. Writes ``benchmarks/results/speed.json``, ``.md`` and
``.png``.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import versions

OUT = Path(__file__).resolve().parent / "results" / "speed.json"
SIZES = [1000, 2000, 4000, 6000, 8000, 12000]
LARGE = [25000, 50000, 100000]
FITS = [2000, 8617]
N_GENES, N_CLUSTERS = 2000, 10
DENSE_LIMIT_MIB = 16 * 1024

Record = dict[str, Any]


def peak_mib() -> float:
    """Peak resident memory of this process."""
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _prepared(n: int) -> Any:
    import scsiameseclu_jax as scs

    adata = scs.datasets.simulate(n_cells=n, n_genes=N_GENES, n_clusters=N_CLUSTERS, rng=0)
    return scs.pp.prepare(adata, N_CLUSTERS, config=scs.Config())


def measure_step(n: int, n_steps: int) -> Record:
    """Time our training step, five at a time as in a fit."""
    import jax

    import scsiameseclu_jax as scs
    import scsiameseclu_jax.functional as F
    from scsiameseclu_jax.device import device_data

    config = scs.Config()
    data = device_data(_prepared(n))
    state = F.init(jax.random.key(0), data, n_clusters=N_CLUSTERS, config=config)
    z = np.asarray(F.embedding(state, data, config=config))
    rows = np.random.default_rng(0).choice(n, N_CLUSTERS, replace=False)
    sizes = np.full(N_CLUSTERS, 1 / N_CLUSTERS, np.float32)
    state = F.start_clustering(state, data, z[rows], sizes, config=config)
    state = F.start_stage(state, "train", config=config)
    before = peak_mib()
    start = time.perf_counter()
    program = F.fit.lower(state, data, config=config, n_steps=5).compile()
    compilation = time.perf_counter() - start
    seconds = []
    for _ in range(1 + -(-n_steps // 5)):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(program(state, data))
        seconds.append((time.perf_counter() - start) / 5)
    return {
        "seconds": statistics.median(seconds[1:]),
        "compilation": compilation,
        "peak_before_mib": before,
        "temporary_mib": program.memory_analysis().temp_size_in_bytes / 2**20,
    }


def measure_dense(n: int, n_steps: int) -> Record:
    """Time the dense step; the target is refreshed every five steps, as in ours."""
    import scipy.sparse as sp

    import scsiameseclu_jax as scs
    from benchmarks.dense_torch import Dense

    made = _prepared(n)
    links = sp.csr_matrix((made.weights, (made.receivers, made.senders)), shape=(n, n))
    links = links.maximum(links.T) + sp.identity(n, format="csr")
    scale = sp.diags(1 / np.sqrt(np.asarray(links.sum(axis=1)).ravel()))
    adjacency = (scale @ links @ scale).astype(np.float32).toarray()
    run = Dense(
        made.features,
        made.counts.toarray().astype(np.int32),
        made.size_factors,
        adjacency,
        N_CLUSTERS,
        scs.Config(),
    )
    del adjacency
    run.step()
    start = time.perf_counter()
    rounds = max(1, n_steps // 5)
    for _ in range(5 * rounds):
        run.step()
    return {"seconds": (time.perf_counter() - start) / (5 * rounds)}


def measure_fit(n: int, cache: str | None) -> Record:
    """Time a whole fit in a fresh process, and what comes before its first step."""
    import jax

    import scsiameseclu_jax as scs

    if cache is not None:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    adata = scs.datasets.simulate(n_cells=n, n_genes=N_GENES, n_clusters=N_CLUSTERS, rng=0)
    start = time.perf_counter()
    model = scs.SiameseClu(N_CLUSTERS).fit(adata, rng=0, progress=False)
    seconds = time.perf_counter() - start
    first = model.manifest["seconds_to_first_step"]
    return {"seconds": seconds, "first_step": first}


def in_process(kind: str, n: int, *more: str) -> Record:
    """Run one measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.speed", "--one", kind, str(n), *more]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        return {"kind": kind, "n": n, "failed": last[:300]}
    return json.loads(result.stdout.splitlines()[-1])


def run_one(kind: str, n: int, n_steps: int, cache: str | None) -> Record:
    if kind == "fit":
        made = measure_fit(n, cache)
    else:
        made = {"step": measure_step, "dense": measure_dense}[kind](n, n_steps)
    return {"kind": kind, "n": n, **made, "peak_mib": peak_mib()}


def exponent(records: list[Record], key: str) -> float | None:
    """Slope of log `key` over log n."""
    if len(records) < 2:
        return None
    n, values = (np.log([r[name] for r in records]) for name in ("n", key))
    return float(np.polyfit(n, values, 1)[0])


def of_kind(records: list[Record], kind: str) -> list[Record]:
    return [r for r in records if r["kind"] == kind and "failed" not in r]


def table(records: list[Record]) -> str:
    """Steps as a Markdown table, then fits."""
    dense = {r["n"]: r for r in of_kind(records, "dense")}
    lines = [
        "| cells | step, s | step, dense PyTorch, s | ratio | peak, MiB | peak, dense, MiB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for r in of_kind(records, "step"):
        other = dense.get(r["n"])
        cells = [f"{r['n']:,}", f"{r['seconds']:.3f}"]
        if other:
            cells += [f"{other['seconds']:.3f}", f"{other['seconds'] / r['seconds']:.1f}"]
            cells += [f"{r['peak_mib']:.0f}", f"{other['peak_mib']:.0f}"]
        else:
            cells += ["-", "-", f"{r['peak_mib']:.0f}", "-"]
        lines.append("| " + " | ".join(cells) + " |")
    fits = of_kind(records, "fit")
    if fits:
        lines += [
            "",
            "| whole fit, cells | compilation cache | s | s to the first step | peak, MiB |",
        ]
        lines += ["| --- | --- | --- | --- | --- |"]
        for r in fits:
            cells = [f"{r['n']:,}", r["cache"], f"{r['seconds']:.1f}", f"{r['first_step']:.1f}"]
            lines.append("| " + " | ".join([*cells, f"{r['peak_mib']:.0f}"]) + " |")
    large = [r for r in of_kind(records, "step") if r["n"] >= 5000]
    for key, name in (("peak_mib", "Peak memory"), ("seconds", "Time of a step")):
        slope = exponent(large, key)
        if slope is not None:
            lines += ["", f"{name} from {large[0]['n']:,} cells on grows as n^{slope:.2f}."]
    failed = [r for r in records if "failed" in r]
    lines += ["", *(f"Failed: {r['kind']} at {r['n']:,}: {r['failed']}" for r in failed)]
    return "\n".join(lines).rstrip() + "\n"


def plot(records: list[Record], path: Path) -> None:
    """Draw time and memory of a step against cells."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    names = {"step": "scsiameseclu_jax", "dense": "dense PyTorch, same step"}
    for kind, name in names.items():
        rows = of_kind(records, kind)
        for ax, key, scale in zip(axes, ("seconds", "peak_mib"), (1, 1024), strict=True):
            ax.plot([r["n"] for r in rows], [r[key] / scale for r in rows], "o-", label=name)
    for ax, label in zip(axes, ("seconds a step", "peak memory, GiB"), strict=True):
        ax.set(xscale="log", yscale="log", xlabel="cells", ylabel=label)
        ax.grid(visible=True, which="major", alpha=0.3)
        ax.legend(frameon=False)
    axes[1].set_yticks([1, 2, 4, 8, 16], minor=False)
    axes[1].yaxis.set_major_formatter("{x:g}")
    axes[1].yaxis.set_minor_formatter("")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def save(records: list[Record], out: Path) -> None:
    """Write JSON, Markdown and plot, each under a temporary name first."""
    out.parent.mkdir(parents=True, exist_ok=True)
    document = {"versions": versions(), "cpus": os.cpu_count(), "records": records}
    for path, text in (
        (out, json.dumps(document, indent=1)),
        (out.with_suffix(".md"), table(records)),
    ):
        part = path.with_name(path.name + ".part")
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    part = out.with_name(out.stem + ".part.png")
    plot(records, part)
    part.replace(out.with_suffix(".png"))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("KIND", "N"), help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--large", type=int, nargs="*", default=LARGE, help="sizes without dense")
    parser.add_argument("--fits", type=int, nargs="*", default=FITS)
    parser.add_argument("--steps", type=int, default=10, help="steps timed")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)
    if arguments.one:
        kind, n = arguments.one
        print(json.dumps(run_one(kind, int(n), arguments.steps, arguments.cache)))
        return 0
    records: list[Record] = []

    def add(record: Record, **more: Any) -> None:
        records.append(record | more)
        print(records[-1], flush=True)
        save(records, arguments.out)

    dense = find_spec("torch") is not None
    if not dense:
        print("No torch here: the dense step is left out.")
    steps = ["--steps", str(arguments.steps)]
    for n in arguments.sizes:
        add(in_process("step", n, *steps))
        if dense:
            add(in_process("dense", n, *steps))
            dense = "failed" not in records[-1] and records[-1]["peak_mib"] < DENSE_LIMIT_MIB
    for n in arguments.large:
        add(in_process("step", n, "--steps", "5"))
    for n in arguments.fits:
        with tempfile.TemporaryDirectory() as cache:
            add(in_process("fit", n), cache="none")
            in_process("fit", n, "--cache", cache)
            add(in_process("fit", n, "--cache", cache), cache="warm")
    print(table(records))
    return 0


if __name__ == "__main__":
    sys.exit(main())
