"""Is a fit as fast as scanpy's pipeline, and does it need as little memory?

``python -m benchmarks.speed`` times the default fit, with the number of clusters given, beside
normalisation, 2000 variable genes, scaling, PCA, neighbours and Leiden (`benchmarks/pipelines.py`),
in turns, on real and simulated cells; a fit that chooses the number of clusters beside one that is
given it; the command ``scsiameseclu demo``; and 30 sets of 30 sizes in one process. Each row is the
median of three rounds (``--rounds``).

*Fresh* is a whole process as the shell sees it, imports and reading included, without compiled
programs of an earlier one (neither jax's nor numba's). *Steady* is the second of two data sets of
like size in one process, without reading: another draw of as many simulated cells, or 98 % of the
real ones. Peak memory is that of the fresh process. Files are written beforehand, fonts are known
to matplotlib beforehand, and the kernel has read all files before.

``--only`` chooses rows, by name or as a number of simulated cells; ``--add`` keeps the other rows
on record, and each row says when and with what it was measured. Nothing else should run on the
machine. Linux only. Writes ``benchmarks/results/speed.json``, ``.md`` and ``.png``.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.processes import Finished, run, uncached
from benchmarks.records import ROOT, commit, save, save_plot, versions
from benchmarks.speed_report import AUTO_ON, SETS, SETS_CELLS, plot, table

OUT = Path(__file__).resolve().parent / "results" / "speed.json"
ROWS = ["demo", "pbmc3k", "cite_cbmc", "50000", "100000", "auto", "sizes"]
SETS_GENES = 2000
# what scanpy's pipeline runs on, beside what a fit does
THEIRS = ["numba", "pynndescent", "umap-learn"]
DEMO = "from scsiameseclu_jax.cli import main; raise SystemExit(main())"
REMEDIES = {
    "getnnz": "scanpy 1.11 needs pynndescent before 0.7 above 8,192 cells: "
    "pip install 'pynndescent<0.7', or scanpy 1.12 or later",
}

Record = dict[str, Any]


def environment(caches: Path, fonts: Path) -> dict[str, str]:
    """Return this process's environment, with `caches` as the only place for compiled programs."""
    return uncached() | {
        "NUMBA_CACHE_DIR": str(caches / "numba"),
        "XDG_CACHE_HOME": str(caches / "user"),
        "MPLCONFIGDIR": str(fonts),
        "PYTHONPATH": str(ROOT),
    }


@contextmanager
def nothing_compiled(fonts: Path) -> Iterator[dict[str, str]]:
    """Give an environment without programs that were compiled before."""
    with tempfile.TemporaryDirectory(prefix="speed-caches-") as caches:
        yield environment(Path(caches), fonts)


def measure(name: str, rounds: int, fonts: Path) -> Record:
    """Measure one row."""
    if name == "demo":
        return {"sides": {"ours": _rounds(rounds, partial(_demo, fonts))}}
    if name == "sizes":
        return {"sides": {"ours": _rounds(rounds, partial(_sizes, fonts))}}
    if name == "auto":
        return _compare(AUTO_ON, ["ours", "auto"], rounds, fonts)
    return _compare(name, ["ours", "scanpy"], rounds, fonts)


def _rounds(rounds: int, one: Callable[[], Record]) -> Record:
    """Gather what each round found; the first that fails is the last."""
    side: Record = {}
    for _ in range(rounds):
        _gather(side, one())
        if "failed" in side:
            break
    return side


def _gather(side: Record, found: Record) -> None:
    """Append figures to those of earlier rounds; what is no figure is that of the last."""
    for key, value in found.items():
        if isinstance(value, float):
            side.setdefault(key, []).append(value)
        else:
            side[key] = value


def _compare(name: str, sides: list[str], rounds: int, fonts: Path) -> Record:
    measured: dict[str, Record] = {side: {} for side in sides}
    with tempfile.TemporaryDirectory(prefix="speed-cells-") as folder:
        words = [sys.executable, "-m", "benchmarks.pipelines", "make", name, folder]
        made = run(words, env=environment(Path(folder), fonts))
        if made.failure:
            return {"failed": made.failure}
        (cells,) = made.records()
        paths = [str(Path(folder) / f"{which}.h5ad") for which in ("first", "second")]
        for _ in range(rounds):
            for side in sides:  # in turns, so that noise meets all alike
                if "failed" not in measured[side]:
                    _gather(measured[side], _side(side, cells["n_clusters"], paths, fonts))
    return {**cells, "data": name, "sides": measured}


def _side(side: str, n_clusters: int, paths: list[str], fonts: Path) -> Record:
    """Cluster one set in a fresh process, then two in another."""
    words = [sys.executable, "-m", "benchmarks.pipelines", side, str(n_clusters)]
    with nothing_compiled(fonts) as env:
        fresh = run([*words, paths[0]], env=env)
        if fresh.failure:
            return _failed(fresh)
        # numba's cache is full now, which spares the first of the two sets, not the second, that is
        # timed
        both = run([*words, *paths], env=env)
    if both.failure:
        return _failed(both)
    first, second = both.records()
    more = {key: second[key] for key in ("n_found", "stages", "device") if key in second}
    return {
        "fresh": fresh.seconds,
        "peak_mib": fresh.peak_mib,
        "first": first["seconds"],
        "steady": float(second["seconds"]),
        "steady_peak_mib": both.peak_mib,
        **more,
    }


def _failed(finished: Finished) -> Record:
    text = str(finished.failure)
    remedies = [remedy for sign, remedy in REMEDIES.items() if sign in text]
    return {"failed": text} | ({"remedy": remedies[0]} if remedies else {})


def _demo(fonts: Path) -> Record:
    """Run the command without compiled programs, then with jax's of that run, not numba's."""
    with nothing_compiled(fonts) as env, nothing_compiled(fonts) as other:
        words = [sys.executable, "-c", DEMO, "demo"]
        found: dict[str, Finished] = {}
        for which, numba in (("fresh", env), ("cached", other)):
            with tempfile.TemporaryDirectory(prefix="speed-demo-") as folder:
                more = {"NUMBA_CACHE_DIR": numba["NUMBA_CACHE_DIR"]}
                found[which] = run(words, env=env | more, cwd=Path(folder))
            if found[which].failure:
                return _failed(found[which])
    fresh, cached = found["fresh"], found["cached"]
    return {
        "fresh": fresh.seconds,
        "cached": cached.seconds,
        "peak_mib": fresh.peak_mib,
        "cached_peak_mib": cached.peak_mib,
    }


def _sizes(fonts: Path) -> Record:
    """Fit sets of many sizes in one process, which may die on the way."""
    with nothing_compiled(fonts) as env, tempfile.TemporaryDirectory(prefix="speed-") as folder:
        out = Path(folder) / "programs.json"
        words = [sys.executable, "-m", "benchmarks.programs", "--out", str(out)]
        words += ["--cells", *map(str, SETS_CELLS), "--sets", str(SETS), "--genes", str(SETS_GENES)]
        finished = run(words, env=env)
        runs = json.loads(out.read_text(encoding="utf-8"))["runs"] if out.exists() else []
    ended = [each for each in runs if "failed" not in each]
    if not ended:
        return _failed(finished._replace(failure=finished.failure or "no fit ended"))
    half = ended[: -(-len(ended) // 2)]
    figures = {
        "mean": sum(each["seconds"] for each in ended) / len(ended),
        "failures": SETS - len(ended),
        "peak_mib": finished.peak_mib,
        "half_mib": half[-1]["resident_mib"],
        "end_mib": ended[-1]["resident_mib"],
        "half_maps": half[-1]["maps"],
        "end_maps": ended[-1]["maps"],
        "maps": max(each["maps"] for each in runs),
    }
    found: Record = {name: float(value) for name, value in figures.items()}
    if len(ended) < SETS:
        found["complaint"] = finished.failure or "no complaint"
    return found


def on_record(out: Path) -> list[Record]:
    """Return what was measured before."""
    return json.loads(out.read_text(encoding="utf-8"))["records"] if out.exists() else []


def in_order(records: Mapping[str, Record]) -> list[Record]:
    """Return rows in the order of the table, other numbers of cells last."""
    place = {name: i for i, name in enumerate(ROWS)}
    return sorted(records.values(), key=lambda r: (place.get(r["row"], len(ROWS)), r["row"]))


def _row(name: str) -> str:
    if name not in ROWS and not name.isdigit():
        msg = f"Expected one of {ROWS}, or a number of cells, found {name!r}."
        raise argparse.ArgumentTypeError(msg)
    return name


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--only", type=_row, nargs="+", default=ROWS, metavar="ROW", help="rows")
    parser.add_argument("--rounds", type=int, default=3, help="at least 1")
    parser.add_argument("--add", action="store_true", help="keep other rows of the output")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1:
        parser.error(f"Expected `--rounds` to be at least 1, found {arguments.rounds}.")
    if sys.platform != "linux":
        parser.error(
            f"Expected Linux, whose caches and memory are read here, found {sys.platform}."
        )
    kept = on_record(arguments.out) if arguments.add else []
    records = {record["row"]: record for record in kept}
    with tempfile.TemporaryDirectory(prefix="speed-fonts-") as folder:
        fonts = Path(folder)
        with nothing_compiled(fonts) as env:
            run([sys.executable, "-c", "import matplotlib.pyplot"], env=env)
        for name in arguments.only:
            before = {
                "row": name,
                "rounds": arguments.rounds,
                "measured": datetime.now(UTC).isoformat(timespec="minutes"),
                "commit": commit(),
                "cpus": os.cpu_count(),
                "load": round(os.getloadavg()[0], 2),
                "versions": versions(*THEIRS),
            }
            records[name] = before | measure(name, arguments.rounds, fonts)
            rows = in_order(records)
            print(json.dumps(records[name]), flush=True)
            save(arguments.out, table(rows), records=rows)
            save_plot(arguments.out, partial(plot, rows))
    print(table(in_order(records)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
