"""What do this library and others cost before they compute: ``python -m benchmarks.peers``.

Each is installed alone, by pip, into a fresh environment that is removed afterwards: bytes of all
that came with it, and the CPU seconds of its import in a new process, the least of some: other work
on the machine changes these less than the time on the clock. What pip cannot install where this is
run is said to be so. Needs a package index.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import records

OUT = records.ROOT / "benchmarks" / "results" / "peers.json"
# What to install, and to import: ours imports the rest of itself when it is first used.
TOOLS = {
    "scsiameseclu-jax": (str(records.ROOT), "import scsiameseclu_jax.tl"),
    "scanpy": ("scanpy[leiden]", "import scanpy"),
    "celltypist": ("celltypist", "import celltypist"),
    "moscot": ("moscot", "import moscot"),
    "scvi-tools": ("scvi-tools", "import scvi"),
}


def size(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def cpu_seconds() -> float:
    """Return what processes that this one started, and that have ended, took of a CPU."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Install one, and import it."""
    wanted, statement = TOOLS[name]
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python, empty = Path(folder) / "bin" / "python", size(Path(folder))
        install = [str(python), "-m", "pip", "install", "--quiet", "--no-cache-dir", wanted]
        clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run(install, env=clean, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"tool": name, "error": (done.stderr.strip().splitlines() or ["?"])[-1]}
        show = [
            str(python),
            "-c",
            f"from importlib.metadata import version as v; print(v({name!r}))",
        ]
        # Outside of this folder, whose packages would be found first.
        options: dict[str, Any] = {"cwd": folder, "env": clean, "capture_output": True}
        version = subprocess.run(show, **options, text=True, check=True).stdout.strip()
        freeze = [str(python), "-m", "pip", "list", "--format=freeze"]
        packages = subprocess.run(freeze, **options, text=True, check=True).stdout.split()
        found = {"tool": name, "version": version, "packages": len(packages)}
        found["bytes"] = size(Path(folder)) - empty
        seconds = []
        for _ in range(rounds):
            start = cpu_seconds()
            done = subprocess.run([str(python), "-c", statement], **options, text=True, check=False)
            seconds.append(cpu_seconds() - start)
            if done.returncode:
                return found | {"error": (done.stderr.strip().splitlines() or ["?"])[-1]}
        return found | {"import": min(seconds), "load": os.getloadavg()[0]}


def table(runs: list[dict[str, Any]]) -> str:
    """Return a row for each tool."""
    lines = ["| tool | version | packages | installed, MiB | import, CPU s | load |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for run in runs:
        if "error" in run:
            lines.append(
                f"| {run['tool']} | {run.get('version', '-')} | {run['error'][:80]} | | | |"
            )
            continue
        numbers = f"{run['packages']} | {run['bytes'] / 2**20:,.0f} | {run['import']:.1f}"
        lines.append(f"| {run['tool']} | {run['version']} | {numbers} | {run['load']:.1f} |")
    lines += ["", "Each alone in a fresh environment, with all that it depends on by default; pip"]
    lines += [
        "itself is not counted. Import: user and system, the least of some. Load: what else ran."
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    runs: list[dict[str, Any]] = []
    for name in args.tools:
        runs.append(measure(name, args.rounds))
        print(runs[-1], flush=True)
        document = {"date": time.strftime("%Y-%m-%d"), "commit": records.commit(), "runs": runs}
        records.save(args.out, table(runs), **document)


if __name__ == "__main__":
    main()
