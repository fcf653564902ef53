"""What do several devices send each other in a step of training?

``python -m benchmarks.collectives`` compiles the step for 2, 4 and 8 devices of the host, with one
loss term at a time and with all of the default, and adds up what the collectives of the program
(HLO) move: bytes that each device receives, as rings do it. ``bytes_per_step`` is the formula that
they are compared with, and that the table for graphics cards is computed from. Nothing is timed:
devices of a host share its cores. Writes ``benchmarks/results/collectives.json`` and ``.md``.
"""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from benchmarks.records import save

OUT = Path(__file__).resolve().parent / "results" / "collectives.json"
CELLS = 2048
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


def main() -> None:
    import scsiameseclu_jax.functional as F

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--terms", nargs="+")
    parser.add_argument("--devices", nargs="+", type=int, default=[8])
    args = parser.parse_args()
    for name in args.terms or [t.name for t in F.TERMS]:
        for p in args.devices:
            a, b = (received(step_program([name], p, n), p) for n in (CELLS, 2 * CELLS))
            kinds = sorted(a.keys() | b.keys())
            share = CELLS * 4 * (p - 1) / p
            slope = {k: round((b.get(k, 0) - a.get(k, 0)) / share, 2) for k in kinds}
            constant = {k: round((2 * a.get(k, 0) - b.get(k, 0)) / 1e3, 1) for k in kinds}
            print(name, p, slope, constant, flush=True)


if __name__ == "__main__":
    main()
