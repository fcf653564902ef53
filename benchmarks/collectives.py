"""What do several devices send each other in a step of training?

``python -m benchmarks.collectives`` compiles the step for 2, 4 and 8 devices of the host, with one
loss term at a time and with all, and adds up what the collectives of the program (HLO) move: bytes
that each device receives, as rings do it, in units of 4 n (p - 1) / p bytes for n cells on p
devices: numbers a cell. :func:`columns` is the formula that they are compared with. What all terms
move, the step that ``gpu.json`` has, and rates of links as sold, make the table for graphics cards:
nothing of it was run. Nor is anything timed here: devices of a host share its cores. Writes
``benchmarks/results/collectives.json`` and ``.md``.
"""

import argparse
import json
import os
import re
from pathlib import Path

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from benchmarks.records import Run, save

OUT = Path(__file__).resolve().parent / "results" / "collectives.json"
GPU = OUT.with_name("gpu.json")
CELLS = 2048
EDGES = 32  # of a cell, as padded
# bytes a second that a card receives: NVLink 4 and 400 Gb/s InfiniBand as sold, not measured
LINKS = {"within a host": 450e9, "between hosts": 50e9}
N_CLUSTERS, N_FEATURES, N_GENES = 10, 50, 256
BYTES = {"f32": 4, "s32": 4, "u32": 4, "pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f64": 8, "s64": 8}
KINDS = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast"

_OPERATION = re.compile(rf"= (.*?) ({KINDS})(?:-start)?\(")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


def received(program: str, n_devices: int) -> dict[str, float]:
    """Return the bytes that each device receives in one run of a program, by kind.

    Parameters
    ----------
    program
        Compiled HLO as text. A loop whose number of rounds it does not tell counts once; of two
        branches both do.
    n_devices
        Number of devices it was compiled for.
    """
    share = (n_devices - 1) / n_devices
    factors = {"all-reduce": 2 * share, "all-gather": share, "all-to-all": share}
    lines: dict[str, list[str]] = {}
    name = entry = ""
    for line in program.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head:
            name = head[2]
            entry = name if head[1] else entry
            lines[name] = []
        elif name:
            lines[name].append(line)

    def total(computation: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for line in lines.get(computation, []):
            moved = _OPERATION.search(line)
            if moved:
                sizes = [
                    BYTES[kind] * np.prod([int(d) for d in shape.split(",") if d], initial=1)
                    for kind, shape in _SHAPE.findall(moved[1])
                ]
                n_bytes = sum(sizes) * factors.get(moved[2], 1.0)
                if moved[2] == "reduce-scatter":  # it names its output, a share of what is moved
                    n_bytes *= n_devices - 1
                found[moved[2]] = found.get(moved[2], 0) + float(n_bytes)
                continue
            trips = _TRIPS.search(line)
            called = _CALLED.findall(line)
            branches = _BRANCHES.search(line)
            called += [b.strip().lstrip("%") for b in branches[1].split(",")] if branches else []
            for one in called:
                for kind, n_bytes in total(one).items():
                    more = n_bytes * (int(trips[1]) if trips else 1)
                    found[kind] = found.get(kind, 0) + more
        return found

    return total(entry)


def step_program(names: list[str], n_devices: int, n_cells: int) -> str:
    """Return the compiled step with some of the terms, for cells over so many devices."""
    import scsiameseclu_jax as scs
    import scsiameseclu_jax.functional as F
    from scsiameseclu_jax.functional.training import _step
    from scsiameseclu_jax.training.mesh import on_mesh, spread_data, spread_state

    rng = np.random.default_rng(0)
    x = rng.normal(size=(n_cells, N_FEATURES))
    near = rng.integers(0, n_cells, (n_cells, 15))
    counts = rng.poisson(1, (n_cells, N_GENES)) if "zinb" in names else None
    terms = [term for term in F.TERMS if term.name in names]
    weights = {term.name: max(term.weight, 1.0) for term in terms}
    config = scs.Config.from_dict({"losses": weights})
    method = F.siameseclu(N_CLUSTERS, terms=terms, config=config)
    data = F.cell_data(x, counts, near)
    state = method.start_stage(method.init(jax.random.key(0), data), "train")
    mesh = scs.cell_mesh(n_devices)
    cells, state = spread_data(data, mesh), spread_state(state, mesh)
    with on_mesh(mesh):
        return _step.lower(method, state, cells, stage="train").compile().as_text()


def columns(name: str) -> int:
    """Return the numbers a cell that propagations over the graph gather in a step with one term.

    Each propagation of c columns gathers c numbers of every cell on every device, and c more for
    its gradient; looking up weights of edges gathers those of all edges.
    """
    import scsiameseclu_jax as scs
    import scsiameseclu_jax.functional as F

    config = scs.Config()
    d, hidden = config.network.n_latent, config.network.graph_layers
    # the linear path runs beside each hidden layer; then comes the output
    encoder = sum(width + d for width in hidden) + d
    diffusion = config.augmentation
    series = F.pagerank_series(diffusion.alpha, diffusion.diffusion_tolerance)
    rounds = series.shape[1]  # of the view that propagates once, and of the diffusion
    forward = encoder * rounds + d + 3 * EDGES
    if name in ("contrast", "constraints"):  # nothing to compute: a step without any term
        return forward
    if name == "cell_correlation_features":  # compares what never saw the graph
        return forward
    gradient = encoder * rounds + 7 * EDGES
    if name not in ("cell_correlation_graph", "propagation"):  # through the fusion
        gradient += d
    decoder = sum(width + N_FEATURES for width in hidden) + N_FEATURES
    more = {"propagated_features": 2 * decoder + N_FEATURES, "propagation": 2 * (encoder + EDGES)}
    return forward + gradient + more.get(name, 0)


def halo(set_name: str, n_parts: int) -> float:
    """Return the share of all cells that a part needs of others, if parts are kept together."""
    import scsiameseclu_jax as scs
    import scsiameseclu_jax.functional as F
    from benchmarks import real_data
    from scsiameseclu_jax.training.device import links
    from scsiameseclu_jax.training.minibatches import graph_parts

    adata, _ = real_data.load(set_name)
    data = scs.SiameseClu(2).prepare(adata).data
    n = adata.n_obs
    graph = links(F.normalize(data.graph), n)
    parts = graph_parts(np.asarray(data.features)[:n], graph, n_parts)
    needed = [len(np.setdiff1d(graph[part].indices, part)) for part in parts]
    return max(needed) / n


def exchange(n_cells: int, n_devices: int, per_cell: float) -> dict[str, float]:
    """Return what a step takes and sends on graphics cards, as far as it can be computed."""
    one = json.loads(GPU.read_text(encoding="utf-8"))["records"]
    step = max((r for r in one if r["precision"] == "highest"), key=lambda r: r["n"])
    n_bytes = 4 * n_cells * per_cell * (n_devices - 1) / n_devices
    rate = LINKS["within a host" if n_devices <= 8 else "between hosts"]
    return {
        "cells": n_cells,
        "devices": n_devices,
        "step_s": step["seconds"] / step["n"] * n_cells / n_devices,
        "received_gb": n_bytes / 1e9,
        "exchange_s": n_bytes / rate,
    }


def table(runs: list[Run], cards: list[Run], halos: dict[str, float]) -> str:
    lines = ["| terms | devices | propagations, numbers a cell | measured | ratio |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for one in runs:
        formula = one["formula"]
        told = ["-", "-"] if formula is None else [f"{formula:,}", f"{one['ratio']:.2f}"]
        shown = [one["terms"], str(one["devices"]), told[0], f"{one['per_cell']:,.0f}", told[1]]
        lines.append(f"| {' | '.join(shown)} |")
    lines += ["", "| cells | devices | computing, s a step | received, GB | sending, s |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for one in cards:
        shown = [f"{one['cells']:,}", str(one["devices"]), f"{one['step_s']:.3f}"]
        shown += [f"{one['received_gb']:.0f}", f"{one['exchange_s']:.3f}"]
        lines.append(f"| {' | '.join(shown)} |")
    lines.append("")
    lines += [
        f"- {name}: in 8 parts of the graph, a part needs {share:.0%} of all cells from others."
        for name, share in halos.items()
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    import scsiameseclu_jax.functional as F
    from benchmarks import real_data

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--cells", type=int, default=CELLS)
    args = parser.parse_args()
    every = [term.name for term in F.TERMS]
    jobs: list[tuple[str, list[str], int]] = [(name, [name], 8) for name in every]
    jobs += [("all", every, n_devices) for n_devices in (2, 4, 8)]
    runs: list[Run] = []
    for name, terms, p in jobs:
        # of two sizes, so that what does not grow with cells falls out
        sizes = args.cells, 2 * args.cells
        small, large = (sum(received(step_program(terms, p, n), p).values()) for n in sizes)
        per_cell = (large - small) / args.cells / 4 * p / (p - 1)
        formula = None if name == "all" else columns(name)
        ratio = None if formula is None else per_cell / formula
        runs.append(
            {"terms": name, "devices": p, "per_cell": per_cell, "formula": formula, "ratio": ratio}
        )
        print(runs[-1], flush=True)
    whole = runs[-1]["per_cell"]
    cards = [exchange(n, p, whole) for n in (10**6, 10**7) for p in (8, 64)]
    sets = [name for name in ("kidney", "cite_cbmc") if name in real_data.available()]
    halos = {name: halo(name, 8) for name in sets}
    save(args.out, table(runs, cards, halos), runs=runs, cards=cards, halos=halos, links=LINKS)
    print(table(runs, cards, halos))


if __name__ == "__main__":
    main()
