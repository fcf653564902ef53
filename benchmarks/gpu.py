"""What do a step and a whole fit cost on an accelerator, and how far is that from what it allows?

``python -m benchmarks.gpu`` fits 10,000, 100,000 and 1,000,000 simulated cells, each in a process
of its own: *cold* (imports and compilation are counted, the making of the cells is not) and then
*warm*, with another seed. It tells the seconds of each stage, the peak memory of the device and the
share of the time in which the device computes, by ``nvidia-smi`` every fifth of a second. Then it
times the training step at 8,617, 100,000 and 1,000,000 cells, all at once, with the default and
with all terms, in each matrix precision. The bound of a step is a roofline: the least bytes,
multiply-adds and exponentials over what a copy, a matrix product and ``exp`` reach on the same
device in the same run.

``--parts`` runs one of both. Writes ``benchmarks/results/gpu_fits.json`` and ``gpu.json``, and
``.md`` of each. Without an accelerator it says so and stops; ``--cpu`` runs the same on the CPU,
which says nothing about GPUs: give it another ``--out``.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pipelines import stages
from benchmarks.processes import run, uncached
from benchmarks.records import commit, save
from benchmarks.weights import weights

OUT = Path(__file__).resolve().parent / "results" / "gpu.json"
SIZES = [8617, 100_000, 1_000_000]
TARGETS = {10_000: 15, 100_000: 40, 1_000_000: 300}  # seconds of a cold fit, on one H200
SAMPLED = 0.2  # seconds between two looks at the device
N_GENES, N_CLUSTERS, N_FEATURES, NEIGHBORS = 2000, 10, 50, 15
PRECISIONS = ["highest", "high", "default"]
TERMS = ["default", "all"]
PARTS = ["fits", "steps"]

Record = dict[str, Any]


def synthetic(n: int, seed: int = 0) -> Any:
    """Cells ready to train on, without preprocessing: only shapes and sparsity matter here."""
    import scsiameseclu_jax.functional as F

    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(N_CLUSTERS, N_FEATURES)) * 2
    features = centers[rng.integers(N_CLUSTERS, size=n)] + rng.normal(size=(n, N_FEATURES))
    counts = rng.binomial(1, 0.15, (min(n, 4096), N_GENES)).astype(np.uint16)
    # neighbours are anywhere in memory, as in shuffled data
    neighbors = rng.integers(n, size=(n, NEIGHBORS))
    features = (features / features.std()).astype(np.float32)
    return F.cell_data(features, np.resize(counts, (n, N_GENES)), neighbors)


def _median(f: Any, *arguments: Any, repeats: int = 5) -> float:
    import jax

    jax.block_until_ready(f(*arguments))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(f(*arguments))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def device_rates(entries: int = 2**26) -> dict[str, float]:
    """Bytes, multiply-adds and exponentials a second that this device reaches."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones(entries)
    side = max(256, int(entries**0.5) // 2)
    a = jnp.ones((side, side))
    rates = {
        "bytes": 2 * x.nbytes / _median(jax.jit(lambda x: x + 1), x),
        # many exponentials for each number read
        "exp": 16 * entries / _median(jax.jit(_exponentials), x),
    }
    for precision in PRECISIONS:
        squared = jax.jit(lambda a, p=precision: jnp.matmul(a, a, precision=p))
        rates[f"madd_{precision}"] = side**3 / _median(squared, a)
    return rates


def _exponentials(x: Any) -> Any:
    import jax.numpy as jnp

    for _ in range(16):
        x = jnp.exp(-x)
    return x


def least_work(n: int, config: Any) -> dict[str, float]:
    """Bytes, multiply-adds and exponentials that a training step cannot do without.

    Sparse products read a row of the neighbour for each edge; activations are written and read once
    forward and once backward; pairwise parts are the attention's and the adjacency's, if they are
    on, in the forward and the reverse pass.
    """
    from scsiameseclu_jax.functional.propagation import pagerank_series

    losses = weights(config)
    network, d, p = config.network, config.network.n_latent, N_FEATURES
    series = pagerank_series(config.augmentation.alpha, config.augmentation.diffusion_tolerance)
    terms = series.shape[1]
    encoder = [width + d for width in network.graph_layers] + [d]
    decoder = [*network.graph_layers[::-1], p]
    # view 1 propagates once, and once more for the divergence, view 2 by the series; both again in
    # the reverse pass
    once = 1 + (losses["propagation"] > 0)
    columns = 2 * (once + terms) * sum(encoder) + 2 * sum(decoder) + 2 * d
    edges = 1.3 * NEIGHBORS + 1
    bytes_ = 4 * n * columns * (edges + 1)
    widths = [p, *network.feature_layers, d]
    dense = sum(a * b for a, b in pairwise(widths))
    graph = [p, *network.graph_layers, d]
    convolutions = sum(a * b for a, b in pairwise(graph))
    heads = 3 * network.feature_layers[0] * N_GENES * min(n, config.training.zinb_batch)
    bytes_ += 4 * n * 4 * 3 * (sum(widths) + sum(graph))
    madds = 3 * n * (3 * dense + 3 * convolutions) + 3 * heads
    keys = n if n <= config.scale.exact_cells else config.scale.landmarks
    pairs = float(n) * keys
    attention, adjacency = config.fusion.global_attention, losses["adjacency"] > 0
    return {
        "bytes": bytes_,
        "madd": madds + pairs * d * ((2 + 5) * attention + 2 * adjacency),
        "exp": pairs * ((1 + 2) * attention + adjacency),
    }


def _peak() -> float:
    import jax

    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**20


def measure(n: int, terms: str, precision: str, rates: dict[str, float], n_steps: int) -> Record:
    """Time steps of one size."""
    import jax

    import scsiameseclu_jax as scs
    import scsiameseclu_jax.functional as F

    config = scs.Config.paper() if terms == "all" else scs.Config()
    config = replace(config, scale=replace(config.scale, precision=precision))
    before = _peak()
    data = synthetic(n)
    method = F.siameseclu(N_CLUSTERS, config=config)
    state = method.init(jax.random.key(0), data)
    start = time.perf_counter()
    # compiled apart from the first call, so that only the compiler's time is taken
    steps = jax.jit(lambda s, d: method.fit(s, d, n_steps=n_steps, stage="train"))
    program = steps.lower(state, data).compile()
    compilation = time.perf_counter() - start
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        state, history = jax.block_until_ready(program(state, data))
        seconds.append((time.perf_counter() - start) / n_steps)
    taken = statistics.median(seconds[1:])
    work = least_work(n, config)
    parts = {
        "bytes": work["bytes"] / rates["bytes"],
        "madd": work["madd"] / rates[f"madd_{precision}"],
        "exp": work["exp"] / rates["exp"],
    }
    peak = _peak()
    compared = config.fusion.global_attention or weights(config)["adjacency"] > 0
    known = "all" if n <= config.scale.exact_cells else f"{config.scale.landmarks} landmarks"
    return {
        "n": n,
        "terms": terms,
        "precision": precision,
        "attention_over": known if compared else "none",
        "seconds": taken,
        "compilation": compilation,
        "bound": sum(parts.values()),
        "bound_parts": parts,
        "of_bound": sum(parts.values()) / taken,
        "bytes_a_second": work["bytes"] / taken,
        # the device tells its peak since the start: one that an earlier part reached says nothing
        "peak_mib": peak if peak > before else None,
        "estimate_mib": scs.estimate_memory(n, N_GENES, config).device / 2**20,
        "finite": bool(np.isfinite(np.asarray(history.loss)).all()),
        "sinkhorn_converged": bool(state.plan.converged),
    }


def measure_fit(n: int) -> Record:
    """Fit simulated cells from counts to clusters, twice in this process."""
    start = time.perf_counter()
    import scsiameseclu_jax as scs

    imports = time.perf_counter() - start
    from sklearn.metrics import adjusted_rand_score

    adata = scs.datasets.simulate(n_cells=n, n_genes=N_GENES, n_clusters=N_CLUSTERS, rng=0)
    record: Record = {"n": n, "imports": imports}
    for seed, name in enumerate(("cold", "warm")):
        start = time.perf_counter()
        with busy() as shares:
            model = scs.SiameseClu(N_CLUSTERS).fit(adata, rng=seed, progress=False)
        seconds = time.perf_counter() - start
        record[name] = {
            "seconds": seconds + (imports if name == "cold" else 0),
            "stages": stages(model.manifest["seconds"]),
            "busy": statistics.mean(shares) if shares else None,
        }
    peak, ari = _peak(), adjusted_rand_score(adata.obs["cell_type"], model.labels)
    return record | {"peak_mib": peak or None, "ari": float(ari)}


@contextmanager
def busy() -> Iterator[list[float]]:
    """Sample, 0 to 1, how much of the time the first visible GPU computes; nothing without one."""
    tool, shares, ended = shutil.which("nvidia-smi"), [], threading.Event()
    if tool is None:
        yield shares
        return
    card = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    words = [tool, f"--id={card}", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]

    def sample() -> None:
        while not ended.wait(SAMPLED):
            shown = subprocess.run(words, capture_output=True, text=True, check=False).stdout
            if shown.strip().isdigit():  # a part of a card has no such figure
                shares.append(int(shown) / 100)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield shares
    finally:
        ended.set()
        thread.join()


def fit_apart(n: int) -> Record:
    """Fit in a process of its own, with no program compiled before."""
    words = [sys.executable, "-m", "benchmarks.gpu", "--one", str(n)]
    finished = run(words, env=uncached())
    if finished.failure:
        return {"n": n, "failed": finished.failure}
    return finished.records()[-1] | {"host_peak_mib": finished.peak_mib}


def fits_table(document: Record) -> str:
    """Return whole fits as Markdown, targets beside those on a GPU."""
    lines = [f"Device: {document['device']} ({document['backend']}).", ""]
    head = "cells | cold, s | target, s | warm, s | device busy, cold / warm | peak, MiB | ARI"
    lines += [f"| {head} |", "| --- | --- | --- | --- | --- | --- | --- |"]
    fits = [r for r in document["records"] if "failed" not in r]
    for r in fits:
        cold, warm = r["cold"], r["warm"]
        target = TARGETS.get(r["n"]) if document["backend"] == "gpu" else None
        met = "met" if target and cold["seconds"] <= target else "not met"
        shares = (each["busy"] for each in (cold, warm))
        cells = [
            f"{r['n']:,}",
            f"{cold['seconds']:.1f}",
            f"{target}: {met}" if target else "-",
            f"{warm['seconds']:.1f}",
            " / ".join("-" if share is None else f"{share:.0%}" for share in shares),
            "-" if r["peak_mib"] is None else f"{r['peak_mib']:.0f}",
            f"{r['ari']:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    for r, which in product(fits, ("cold", "warm")):
        parts = ", ".join(f"{name} {s:.1f}" for name, s in r[which]["stages"].items())
        more = f", imports {r['imports']:.1f}" if which == "cold" else ""
        lines += ["", f"{r['n']:,} cells, {which}, seconds of each stage: {parts}{more}."]
    failed = [r for r in document["records"] if "failed" in r]
    lines += [line for r in failed for line in ("", f"Failed: {r['n']:,} cells: {r['failed']}")]
    return "\n".join(lines) + "\n"


def steps_table(document: Record) -> str:
    """Return steps as Markdown."""
    lines = [f"Device: {document['device']} ({document['backend']}).", ""]
    head = (
        "cells | terms | precision | attention over | step, s | bound, s | of the bound | peak, MiB"
    )
    lines += [f"| {head} |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for r in document["records"]:
        peak = "-" if r["peak_mib"] is None else f"{r['peak_mib']:.0f}"
        cells = [
            f"{r['n']:,}",
            r["terms"],
            r["precision"],
            r["attention_over"],
            f"{r['seconds']:.4f}",
        ]
        cells += [f"{r['bound']:.4f}", f"{100 * r['of_bound']:.0f} %", peak]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def device() -> Record:
    """Name the device, found by another process: this one would take the memory of a GPU."""
    code = "import jax, json; d = jax.devices()[0]; print(json.dumps([d.device_kind, d.platform]))"
    finished = run([sys.executable, "-c", code])
    if finished.failure:
        raise RuntimeError(finished.failure)
    name, platform = json.loads(finished.output.splitlines()[-1])
    return {"device": name, "backend": platform, "commit": commit()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--sizes", type=int, nargs="+", help="cells, of fits and of steps")
    parser.add_argument("--cpu", action="store_true", help="run on the CPU, to try it")
    parser.add_argument("--precisions", nargs="*", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--terms", nargs="*", choices=TERMS, default=TERMS)
    parser.add_argument("--steps", type=int, default=10, help="steps in one call")
    parser.add_argument("--entries", type=int, default=2**26, help="numbers that rates are from")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)
    if arguments.one:
        print(json.dumps(measure_fit(arguments.one)))
        return 0
    if arguments.cpu:
        os.environ["JAX_PLATFORMS"] = "cpu"
    found = device()
    if found["backend"] == "cpu" and not arguments.cpu:
        print("No GPU or TPU here: nothing is measured. `--cpu` runs the same on the CPU.")
        return 1
    # fits first: once this process has run steps, it holds the memory of the device
    if "fits" in arguments.parts:
        out = arguments.out.with_stem(f"{arguments.out.stem}_fits")
        records = (fit_apart(n) for n in arguments.sizes or TARGETS)
        keep(found, records, fits_table, out)
    if "steps" in arguments.parts:
        rates = device_rates(arguments.entries)
        print(rates, flush=True)
        each = product(arguments.sizes or SIZES, arguments.terms, arguments.precisions)
        records = (measure(*which, rates, arguments.steps) for which in each)
        keep(found | {"rates": rates}, records, steps_table, arguments.out)
    return 0


def keep(
    about: Record, records: Iterable[Record], table: Callable[[Record], str], out: Path
) -> None:
    """Write what was measured after each measurement."""
    document = about | {"records": []}
    for record in records:
        document["records"].append(record)
        print(record, flush=True)
        save(out, table(document), **document)
    print(table(document))


if __name__ == "__main__":
    sys.exit(main())
