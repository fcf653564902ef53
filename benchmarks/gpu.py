"""What does a training step cost on an accelerator, and how far is that from what the card allows?

``python -m benchmarks.gpu`` times the training step on the default device at 8,617, 100,000 and
1,000,000 cells, all at once, with the default and with all terms, in each matrix precision, and
reads the peak memory of the device. The bound is a roofline: the least bytes, multiply-adds and
exponentials of a step over what a copy, a matrix product and ``exp`` reach on the same device in
the same run.
``--fit N`` runs a whole fit of N simulated cells. Writes ``benchmarks/results/gpu.json`` and
``.md``. On a CPU it runs too; the file then names the CPU, and says nothing about GPUs.
"""

import argparse
import statistics
import sys
import time
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.records import save
from benchmarks.weights import weights

OUT = Path(__file__).resolve().parent / "results" / "gpu.json"
SIZES = [8617, 100_000, 1_000_000]
N_GENES, N_CLUSTERS, N_FEATURES, NEIGHBORS = 2000, 10, 50, 15
PRECISIONS = ["highest", "high", "default"]
TERMS = ["default", "all"]

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
    from scsiameseclu_jax.functional.graph import pagerank_series

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
        "kind": "step",
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
    """Fit simulated cells from counts to clusters."""
    from sklearn.metrics import adjusted_rand_score

    import scsiameseclu_jax as scs

    adata = scs.datasets.simulate(n_cells=n, n_genes=N_GENES, n_clusters=N_CLUSTERS, rng=0)
    before, start = _peak(), time.perf_counter()
    model = scs.SiameseClu(N_CLUSTERS).fit(adata, rng=0, progress=False)
    peak = _peak()
    return {
        "kind": "fit",
        "n": n,
        "seconds": time.perf_counter() - start,
        "cells_per_step": model.manifest["cells_per_step"],
        "peak_mib": peak if peak > before else None,
        "ari": float(adjusted_rand_score(adata.obs["cell_type"], model.labels)),
    }


def table(document: Record) -> str:
    """Return Markdown."""
    lines = [f"Device: {document['device']} ({document['backend']}).", ""]
    head = (
        "cells | terms | precision | attention over | step, s | bound, s | of the bound | peak, MiB"
    )
    lines += [f"| {head} |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for r in document["records"]:
        if r["kind"] != "step":
            continue
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
    for r in document["records"]:
        if r["kind"] == "fit":
            text = f"Whole fit of {r['n']:,} cells: {r['seconds']:.0f} s, ARI {r['ari']:.2f}."
            lines += ["", text]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--precisions", nargs="*", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--terms", nargs="*", choices=TERMS, default=TERMS)
    parser.add_argument("--steps", type=int, default=10, help="steps in one call")
    parser.add_argument("--entries", type=int, default=2**26, help="numbers that rates are from")
    parser.add_argument("--fit", type=int, nargs="*", default=[], metavar="N")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)

    import jax

    rates = device_rates(arguments.entries)
    device = jax.devices()[0]
    document: Record = {
        "device": device.device_kind,
        "backend": device.platform,
        "rates": rates,
        "records": [],
    }
    print(rates, flush=True)

    def add(record: Record) -> None:
        document["records"].append(record)
        print(record, flush=True)
        save(arguments.out, table(document), **document)

    for n in arguments.sizes:
        for terms, precision in product(arguments.terms, arguments.precisions):
            add(measure(n, terms, precision, rates, arguments.steps))
    for n in arguments.fit:
        add(measure_fit(n))
    print(table(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
