"""Cells that are larger than memory: how long does a fit take, and how much memory?

``python -m benchmarks.scale`` simulates 200,000 cells x 20,000 genes and 1,000,000 x 2,000 into
zarr stores (once: ``--folder`` keeps them), and clusters each with its counts on disk, read in
blocks by Dask, in a process of its own. ``--sizes 50000x20000`` takes others. ``--workers N`` lets
N processes of a ``dask.distributed.LocalCluster`` read, instead of threads. ``--threads`` compares
what reading with one thread, with two, and with two processes takes, for the first of the sizes.
Writes ``benchmarks/results/scale.json`` and ``.md``; ``--add`` keeps what is on record there and is
not measured now.
"""

import argparse
import contextlib
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.processes import mib, run
from benchmarks.records import save, versions

OUT = Path(__file__).resolve().parent / "results" / "scale.json"
SIZES = ["200000x20000", "1000000x2000"]
N_CLUSTERS = 10
LIMIT_MIB = 6 * 1024  # of the first

Record = dict[str, Any]


def shape_of(size: str) -> tuple[int, int]:
    n_cells, n_genes = map(int, size.split("x"))
    return n_cells, n_genes


def store_of(folder: Path, size: str) -> Path:
    return folder / f"{size}.zarr"


@contextlib.contextmanager
def cluster_of(n_workers: int) -> Iterator[None]:
    """Let so many processes read, or threads if there are none."""
    if not n_workers:
        yield
        return
    from distributed import Client, LocalCluster

    options = {"n_workers": n_workers, "threads_per_worker": 1, "dashboard_address": ":0"}
    with LocalCluster(**options) as cluster, Client(cluster):
        yield


# Each in a process of its own.


def simulate(path: Path, size: str) -> Record:
    import scsiameseclu_jax as scs

    start = time.perf_counter()
    if not path.exists():
        scs.datasets.simulate_to(path, *shape_of(size), N_CLUSTERS)
    held = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return {"simulated_s": time.perf_counter() - start, "on_disk_mib": held / 2**20}


def fit(path: Path, n_workers: int) -> Record:
    """Cluster the cells and put the results into the store."""
    import scsiameseclu_jax as scs
    from scsiameseclu_jax.datasets.stores import size_of
    from scsiameseclu_jax.files.stores import write_results

    start = time.perf_counter()
    adata, size = scs.datasets.read_lazy(path), size_of(path)
    with cluster_of(n_workers):
        scs.tl.siameseclu(adata, N_CLUSTERS, progress=False)
    taken = time.perf_counter() - start
    write_results(path, adata)
    scores = scs.metrics.scores(adata.obs["cell_type"], adata.obs["siameseclu"])
    return {
        "seconds": taken,
        "written_s": time.perf_counter() - start - taken,
        "stages": adata.uns["siameseclu"]["manifest"]["seconds"],
        "peak_mib": mib(resource.getrusage(resource.RUSAGE_SELF)),
        "in_memory_mib": size.n_bytes / 2**20,
        "estimated_mib": scs.estimate_memory(*size[:2], n_values=size.n_values).total / 2**20,
        "ARI": scores["ARI"],
    }


def reading(path: Path, how: str) -> Record:
    """Take the time of all passes over the counts."""
    import dask

    import scsiameseclu_jax as scs
    from scsiameseclu_jax.preprocessing.blocks import Blocks
    from scsiameseclu_jax.preprocessing.measures import measure

    x = scs.datasets.read_lazy(path).X
    options = {"1 thread": (1, 0), "2 threads": (2, 0), "2 processes": (1, 2)}
    n_threads, n_workers = options[how]
    with dask.config.set(num_workers=n_threads), cluster_of(n_workers):
        start = time.perf_counter()
        raw = Blocks(x, "X")
        measure(raw, None, None, config=scs.Config())
        return {"how": how, "seconds": time.perf_counter() - start, "blocks": len(raw)}


def measured(*words: object) -> Record:
    """Run one of the above in a process of its own."""
    done = run([sys.executable, "-m", "benchmarks.scale", "--child", *map(str, words)])
    if done.failure:
        return {"failure": done.failure}
    return done.records()[-1]


def table(runs: Sequence[Record]) -> str:
    lines = [
        "| cells | genes | read by | counts in memory, MiB | on disk, MiB | s | of which reading "
        "and components, s | peak, MiB | in memory it would take, MiB | ARI |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in runs:
        if "seconds" not in one or "how" in one:
            continue
        n_cells, n_genes = shape_of(one["size"])
        by = f"{one['workers']} processes" if one["workers"] else "threads"
        numbers = [one["in_memory_mib"], one["on_disk_mib"], one["seconds"]]
        numbers += [one["stages"]["preprocessing"], one["peak_mib"], one["estimated_mib"]]
        shown = " | ".join(f"{number:,.0f}" for number in numbers)
        lines.append(f"| {n_cells:,} | {n_genes:,} | {by} | {shown} | {one['ARI']:.3f} |")
    reads = [one for one in runs if "how" in one]
    if reads:
        lines += ["", "| cells | genes | read by | reading and components, s |"]
        lines += ["| --- | --- | --- | --- |"]
        for one in reads:
            n_cells, n_genes = shape_of(one["size"])
            lines.append(f"| {n_cells:,} | {n_genes:,} | {one['how']} | {one['seconds']:.1f} |")
    failed = [f"{one['size']}: {one['failure']}" for one in runs if "failure" in one]
    return "\n".join([*lines, "", *failed]).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="CELLSxGENES")
    parser.add_argument("--folder", type=Path, help="where stores are, and are kept")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", action="store_true")
    parser.add_argument("--add", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        what, path, word = args.child
        jobs = {
            "simulate": lambda: simulate(Path(path), word),
            "fit": lambda: fit(Path(path), int(word)),
            "reading": lambda: reading(Path(path), word),
        }
        print(json.dumps(jobs[what]()))
        return
    runs: list[Record] = []
    with contextlib.ExitStack() as stack:
        folder = args.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if args.threads:
            size = args.sizes[0]
            measured("simulate", store_of(folder, size), size)
            for how in ("1 thread", "2 threads", "2 processes"):
                runs.append({"size": size} | measured("reading", store_of(folder, size), how))
        for size in [] if args.threads else args.sizes:
            path = store_of(folder, size)
            record = {"size": size, "workers": args.workers} | measured("simulate", path, size)
            if "failure" not in record:
                record |= measured("fit", path, args.workers)
            runs.append(record)
            print(json.dumps(record), flush=True)
    if args.add and args.out.exists():
        old = json.loads(args.out.read_text(encoding="utf-8"))["runs"]
        done = {(one["size"], one.get("workers"), one.get("how")) for one in runs}
        mark = [(one["size"], one.get("workers"), one.get("how")) for one in old]
        runs = [one for one, key in zip(old, mark, strict=True) if key not in done] + runs
    save(args.out, table(runs), runs=runs, versions=versions("dask", "zarr"))
    print(table(runs))


if __name__ == "__main__":
    main()
