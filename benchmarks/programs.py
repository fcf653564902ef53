"""Does a process that fits many data sets of many sizes keep its memory?

``python -m benchmarks.programs`` fits 30 simulated data sets of 30 sizes one after another, in one
process and with the default settings. After each it reads the resident memory of the process, the
number of its memory maps (Linux allows 65,530) and the seconds that the fit took. Compiled programs
that are never freed show as a line that does not level off. ``--sets N`` takes N sizes over the
same range. ``--settings`` instead counts what two fits of one set compile, the second with another
number of steps, rate and weight: it should compile nothing. A fit that fails is a line too. Linux
only. Writes ``benchmarks/results/programs.json`` and ``.md``.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

import scsiameseclu_jax as scs
from benchmarks.records import Run, save
from scsiameseclu_jax.files import BAD_INPUT, FAILURES

OUT = Path(__file__).resolve().parent / "results" / "programs.json"
SETS = 30
CELLS = (200, 1500)  # of the smallest and the largest set
N_GENES, N_CLUSTERS = 500, 5
MIB = 2**10  # /proc counts in KiB
PROCESS = Path("/proc/self")


def resident_mib() -> float:
    """Return the resident memory of this process."""
    status = (PROCESS / "status").read_text(encoding="ascii", errors="replace")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / MIB


def n_maps() -> int:
    """Return the number of memory maps of this process."""
    return len((PROCESS / "maps").read_text(encoding="ascii", errors="replace").splitlines())


def fit(n_cells: int, n_genes: int) -> Run:
    """Fit one simulated set; say what the process holds afterwards."""
    adata = scs.datasets.simulate(
        n_cells=n_cells, n_genes=n_genes, n_clusters=N_CLUSTERS, rng=n_cells
    )
    start = time.perf_counter()
    failed = {}
    try:
        scs.SiameseClu(N_CLUSTERS).fit(adata, progress=False)
    except (*BAD_INPUT, *FAILURES) as error:
        failed = {"failed": f"{type(error).__name__}: {error}"}
    return {
        "n_cells": n_cells,
        "seconds": round(time.perf_counter() - start, 2),
        "resident_mib": round(resident_mib(), 1),
        "maps": n_maps(),
        **failed,
    }


def compiled() -> list[tuple[str, int, float]]:
    """Fit 700 cells twice, with other settings; count programs and seconds of compilation."""
    import jax

    seconds: list[float] = []

    def listen(event: str, duration: float, **_: object) -> None:
        if "backend_compile" in event:
            seconds.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    adata = scs.datasets.simulate(n_cells=700, n_genes=N_GENES, n_clusters=N_CLUSTERS, rng=0)
    other = {"training": {"steps": 30, "rate": 3e-4}, "losses": {"clustering": 2.0}}
    rows = []
    for name, settings in (("default settings", {}), ("other settings", other)):
        seconds.clear()
        config = scs.Config.from_dict(settings)
        scs.SiameseClu(N_CLUSTERS, config=config).fit(adata, progress=False)
        rows.append((name, len(seconds), sum(seconds)))
    return rows


def table(runs: list[Run], n_genes: int) -> str:
    """Return the curve as a Markdown table."""
    lines = [
        f"One process, one fit after another; {n_genes} genes, {N_CLUSTERS} clusters, default "
        "settings. Memory and maps are those of the process after each fit.",
        "",
        "| fit | cells | s | resident memory, MiB | memory maps |",
        "| --- | --- | --- | --- | --- |",
    ]
    for number, run in enumerate(runs, start=1):
        cells = [f"{number}", f"{run['n_cells']:,}", f"{run['seconds']:.1f}"]
        cells += [f"{run['resident_mib']:.0f}", f"{run['maps']:,}"]
        lines.append(f"| {' | '.join(cells)} |")
    failed = [
        f"Failed at {run['n_cells']:,} cells: {run['failed']}" for run in runs if "failed" in run
    ]
    return "\n\n".join(["\n".join(lines), *failed]) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.programs", description=__doc__)
    parser.add_argument("--sets", type=int, default=SETS, help="how many, at least 2")
    parser.add_argument("--cells", type=int, nargs=2, default=CELLS, help="smallest and largest")
    parser.add_argument("--genes", type=int, default=N_GENES, help="of each set")
    parser.add_argument("--settings", action="store_true", help="count programs of two fits")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)
    if arguments.sets < 2:
        parser.error(f"Expected `--sets` to be at least 2, found {arguments.sets}.")
    if not (PROCESS / "maps").is_file():
        parser.error(f"Expected {PROCESS / 'maps'}, found none: this benchmark needs Linux.")
    if arguments.settings:
        for name, count, seconds in compiled():
            print(f"{name}: {count} programs, {seconds:.1f} s to compile")
        return 0
    runs: list[Run] = []
    for n_cells in np.linspace(*arguments.cells, arguments.sets).round().astype(int).tolist():
        runs.append(fit(n_cells, arguments.genes))
        print(runs[-1], flush=True)
        save(arguments.out, table(runs, arguments.genes), runs=runs)
    print(table(runs, arguments.genes))
    return int(any("failed" in run for run in runs))


if __name__ == "__main__":
    sys.exit(main())
