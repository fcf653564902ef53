"""How fast is a step, how much memory does it need, and how long does a whole fit take?

``python -m benchmarks.speed`` times the training step with all terms at growing sizes, beside a
dense PyTorch implementation of the same step (`benchmarks/dense_torch.py`; ``pip install
torch==2.13.0``; left out, and said so, without it), the step of the default, which compares no
pairs of cells, the step with all terms and landmarks at every size, eight seeds at once, then
whole fits with a cold and a warm compilation cache, their peak beside ``scs.estimate_memory``.
Simulated cells, one process for each measurement. Writes ``benchmarks/results/speed.json``, ``.md``
and ``.png``; ``--add`` keeps what is on record there and is not measured now.
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
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.records import save, save_plot, versions
from benchmarks.speed_report import LANDMARKS, SEEDS, of_kind, plot, table
from scsiameseclu_jax.preprocessing.prepare import prepare
from scsiameseclu_jax.training.device import device_data

OUT = Path(__file__).resolve().parent / "results" / "speed.json"
SIZES = [1000, 2000, 4000, 6000, 8000, 12000, 18000]
LARGE = [25000, 50000, 100000]
LINEAR = [6000, 12000, 25000, 50000, 100000]
SEEDS_CELLS = 2000
FITS = [2000, 8617]  # and, in an hour more, 25000 50000 100000
COLD_ONLY = 10_000  # cells beyond which compilation is a small part of a fit
N_GENES, N_CLUSTERS = 2000, 10
DENSE_LIMIT_MIB, SLOW_DENSE = 16 * 1024, 15_000

Record = dict[str, Any]


def peak_mib() -> float:
    """Peak resident memory of this process."""
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _prepared(n: int) -> Any:
    import scsiameseclu_jax as scs

    adata = scs.datasets.simulate(n_cells=n, n_genes=N_GENES, n_clusters=N_CLUSTERS, rng=0)
    return prepare(adata, config=scs.Config())


def _all_terms(**scale: int) -> Any:
    import scsiameseclu_jax as scs

    config = scs.Config.paper()
    return replace(config, scale=replace(config.scale, **scale))


def measure_step(n: int, n_steps: int, config: Any = None) -> Record:
    """Time our training step, five at a time as in a fit; with all terms, if not told."""
    import jax

    import scsiameseclu_jax.functional as F

    method = F.siameseclu(N_CLUSTERS, config=config or _all_terms())
    data = device_data(_prepared(n))
    state = method.init(jax.random.key(0), data)
    before = peak_mib()
    start = time.perf_counter()
    # compiled apart from the first call, so that only the compiler's time is taken
    steps = jax.jit(lambda s, d: method.fit(s, d, n_steps=5, stage="train"))
    program = steps.lower(state, data).compile()
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


def measure_linear(n: int, n_steps: int) -> Record:
    """Time the step with landmarks instead of all pairs."""
    return measure_step(n, n_steps, _all_terms(exact_cells=1, landmarks=LANDMARKS))


def measure_default(n: int, n_steps: int) -> Record:
    """Time the step of the default."""
    import scsiameseclu_jax as scs

    return measure_step(n, n_steps, scs.Config())


def measure_seeds(n: int, n_steps: int) -> Record:
    """Time a step of several seeds, by ``vmap`` and by ``lax.map``, beside that of one."""
    import jax
    import jax.numpy as jnp

    import scsiameseclu_jax.functional as F

    method = F.siameseclu(N_CLUSTERS, config=_all_terms())
    data = device_data(_prepared(n))
    states = [method.init(jax.random.key(seed), data) for seed in range(SEEDS)]
    one = states[0]
    many = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    # the number of steps is one for all seeds, so that all refresh their target together
    axes = jax.tree.map(lambda _: 0, many)._replace(step=None)
    step = method.step
    every = jax.vmap(step, in_axes=(axes, None), out_axes=(axes, 0))
    programs: dict[str, tuple[Any, Any]] = {
        "one": (lambda s, d: _scanned(step, s, d), one),
        "map": (lambda s, d: jax.lax.map(lambda each: _scanned(step, each, d), s), many),
        "vmap": (lambda s, d: _scanned(every, s, d), many._replace(step=one.step)),
    }
    compiled = {name: (jax.jit(f), state) for name, (f, state) in programs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in compiled}
    for _ in range(2 + n_steps // 5):  # in turns, so that noise meets all alike
        for name, (f, state) in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(f(state, data))
            seconds[name].append((time.perf_counter() - start) / 5)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return {
        "seconds": medians["one"],
        "map_ratio": medians["map"] / medians["one"],
        "vmap_ratio": medians["vmap"] / medians["one"],
    }


def _scanned(step: Any, state: Any, data: Any) -> Any:
    import jax

    return jax.lax.scan(lambda s, _: step(s, data), state, length=5)


def measure_dense(n: int, n_steps: int) -> Record:
    """Time the dense step; the target is refreshed every five steps, as in ours."""
    import scipy.sparse as sp

    from benchmarks.dense_torch import Dense

    cells = _prepared(n)
    links = sp.csr_matrix((cells.weights, (cells.receivers, cells.senders)), shape=(n, n))
    links = links.maximum(links.T) + sp.identity(n, format="csr")
    scale = sp.diags(1 / np.sqrt(np.asarray(links.sum(axis=1)).ravel()))
    adjacency = (scale @ links @ scale).astype(np.float32).toarray()
    run = Dense(
        cells.features,
        cells.counts.toarray().astype(np.int32),
        cells.size_factors,
        adjacency,
        N_CLUSTERS,
        _all_terms(),
    )
    del adjacency
    run.step()
    start = time.perf_counter()
    rounds = max(1, n_steps // 5)
    for _ in range(5 * rounds):
        run.step()
    return {"seconds": (time.perf_counter() - start) / (5 * rounds)}


def measure_fit(n: int, cache: str | None) -> Record:
    """Time a whole fit in a fresh process, and its compilation."""
    import jax

    import scsiameseclu_jax as scs

    if cache is not None:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    adata = scs.datasets.simulate(n_cells=n, n_genes=N_GENES, n_clusters=N_CLUSTERS, rng=0)
    start = time.perf_counter()
    model = scs.SiameseClu(N_CLUSTERS).fit(adata, rng=0, progress=False)
    manifest = model.manifest
    estimate = scs.estimate_memory(n, N_GENES, n_values=adata.X.nnz).total
    return {
        "seconds": time.perf_counter() - start,
        "compilation": manifest["seconds"]["compilation"],
        "attention_over": manifest["attention_over"],
        "n_values": int(adata.X.nnz),
        "estimate_mib": estimate / 2**20,
    }


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
        figures = measure_fit(n, cache)
    else:
        measure = {
            "step": measure_step,
            "dense": measure_dense,
            "default": measure_default,
            "linear": measure_linear,
            "seeds": measure_seeds,
        }
        figures = measure[kind](n, n_steps)
    return {"kind": kind, "n": n, **figures, "peak_mib": peak_mib()}


def on_record(out: Path = OUT) -> list[Record]:
    """Return what was measured before."""
    return json.loads(out.read_text(encoding="utf-8"))["records"] if out.exists() else []


def _same_versions(out: Path) -> bool:
    return not out.exists() or json.loads(out.read_text(encoding="utf-8"))["versions"] == versions()


def _what(record: Record) -> tuple[str, int, str]:
    return record["kind"], record["n"], record.get("cache", "")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("KIND", "N"), help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--large", type=int, nargs="*", default=LARGE, help="sizes without dense")
    parser.add_argument("--default", type=int, nargs="*", default=LINEAR, help="default's step")
    parser.add_argument("--linear", type=int, nargs="*", default=LINEAR, help="with landmarks")
    parser.add_argument("--seeds", type=int, nargs="*", default=[SEEDS_CELLS])
    parser.add_argument("--fits", type=int, nargs="*", default=FITS)
    parser.add_argument("--add", action="store_true", help="keep other records of the output")
    parser.add_argument("--steps", type=int, default=10, help="steps timed")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)
    if arguments.one:
        kind, n = arguments.one
        print(json.dumps(run_one(kind, int(n), arguments.steps, arguments.cache)))
        return 0
    if arguments.add and not _same_versions(arguments.out):
        parser.error(f"--add: {arguments.out} was measured with other versions; run all anew")
    records = on_record(arguments.out) if arguments.add else []

    def add(record: Record, **more: Any) -> None:
        measured = record | more
        others = [r for r in records if _what(r) != _what(measured)]
        records[:] = sorted([*others, measured], key=_what)
        print(measured, flush=True)
        save(arguments.out, table(records), cpus=os.cpu_count(), records=records)
        save_plot(arguments.out, partial(plot, records))

    dense = find_spec("torch") is not None
    if not dense:
        print("No torch here: the dense step is left out.")
    steps = ["--steps", str(arguments.steps)]
    for n in arguments.sizes:
        add(in_process("step", n, *steps))
        if dense:
            add(in_process("dense", n, *(steps if n < SLOW_DENSE else ["--steps", "5"])))
            last = of_kind([r for r in records if r["n"] == n], "dense")
            dense = bool(last) and last[0]["peak_mib"] < DENSE_LIMIT_MIB
    for n in arguments.large:
        add(in_process("step", n, "--steps", "5"))
    for n in arguments.default:
        add(in_process("default", n, *steps))
    for n in arguments.linear:
        add(in_process("linear", n, "--steps", "5"))
    for n in arguments.seeds:
        add(in_process("seeds", n, "--steps", "25"))
    for n in arguments.fits:
        with tempfile.TemporaryDirectory() as cache:
            if n > COLD_ONLY:
                add(in_process("fit", n), cache="none")  # compilation is a small part
                continue
            in_process("fit", n, "--cache", cache)
            add(in_process("fit", n, "--cache", cache), cache="warm")
            add(in_process("fit", n), cache="none")
    print(table(records))
    return 0


if __name__ == "__main__":
    sys.exit(main())
