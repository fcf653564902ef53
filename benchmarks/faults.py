"""What becomes of a user's work when something goes wrong?

``python -m benchmarks.faults`` injects faults into the command line, each in a process of its own
on 300 simulated cells, and counts what came of them:

- *refused*: an error of one line, before the fit or where the file was read, and nothing written,
- *ended*: by a signal, with its exit code, one line, and nothing left behind,
- *survived*: the clusters of an undisturbed run were written, or taken up and written by the next;
  or they were left as a table or as a model where the output failed,
- *changed*: a damaged count was another valid one, which nobody can tell,

and what may not be: *lost* (a fit was done, and nothing is left of it), *silent* (exit code 0 and
other clusters, or something half-written), *traceback*, *crash* (by a signal that was not sent) and
*hang* (over two minutes). ``--rounds`` says how many of each kind are drawn. ``--cases DIR`` runs
the scripts of a folder as well, and counts tracebacks and crashes. Writes
``benchmarks/results/faults.json`` and ``.md``. Linux only.
"""

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import numpy as np

import scsiameseclu_jax as scs
from benchmarks.records import ROOT, Run, save

OUT = Path(__file__).resolve().parent / "results" / "faults.json"
ROUNDS = 10
SECONDS = 120
BAD = ["lost", "silent", "traceback", "crash", "hang"]
GOOD = ["refused", "ended", "survived", "changed"]
SETTINGS = "[training]\ncontrast_steps = 40\nsteps = 40\n"
VALUES = """steps = 1000000000000|steps = -1|steps = 1.5|steps = "ten"|rate = inf|rate = nan
contrast_batch = 1000000000000|feature_batch = 0|contrast_temperature = 0|contrast_dropout = 1
patience = -3|first_partition = "none"|unknown = 1|rate = -1
steps = 99999999999999999999999999999999999999"""


class Ended(NamedTuple):
    """How a process ended."""

    code: int | None
    """Exit code, negative of a signal; None if it hung."""
    text: str
    """What it wrote to standard error."""


class Bench:
    """A folder with the cells, and the clusters of an undisturbed run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cells = folder, folder / "cells.h5ad"
        self.last = Ended(None, "")
        self.settings = folder / "short.toml"
        self.settings.write_text(SETTINGS)
        scs.datasets.simulate(n_cells=300, n_genes=150, n_clusters=4, rng=0).write_h5ad(self.cells)
        self.env = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "programs")}
        self.env |= {"PYTHONPATH": str(ROOT), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        start = time.perf_counter()
        ended = self.run("cluster", self.cells, folder / "usual.h5ad", "--save", folder / "model")
        if ended.code:
            raise RuntimeError(ended.text)
        self.usual = self.clusters(folder / "usual.h5ad")
        self.run("cluster", self.cells, folder / "usual.h5ad", "--overwrite")
        self.seconds = (time.perf_counter() - start) / 2

    def words(self, command: str, *words: object) -> list[str]:
        given = [str(word) for word in words]
        if command in {"cluster", "fit"}:
            if "--config" not in given:
                given += ["--config", str(self.settings)]
            given += ["--n-clusters", "4"]
        return [sys.executable, "-m", "scsiameseclu_jax", command, *given, "--quiet"]

    def run(
        self,
        command: str,
        *words: object,
        after: float | None = None,
        sent: int = signal.SIGKILL,
        limit: int | None = None,
        cwd: Path | None = None,
    ) -> Ended:
        """Run a command; send it a signal after some seconds, or let its files grow so far only."""

        def before() -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if limit is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        with tempfile.TemporaryFile() as err:
            process = subprocess.Popen(
                self.words(command, *words),
                stdout=subprocess.DEVNULL,
                stderr=err,
                env=self.env,
                cwd=cwd,
                preexec_fn=before,
            )
            code: int | None
            try:
                code = process.wait(SECONDS if after is None else after)
            except subprocess.TimeoutExpired:
                if after is not None:
                    process.send_signal(sent)
                try:
                    code = process.wait(SECONDS if after is not None else 0.1)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    code = None
            err.seek(0)
            self.last = Ended(code, err.read().decode(errors="replace"))
            return self.last

    def clusters(self, path: Path) -> list[str]:
        return list(ad.read_h5ad(path).obs["siameseclu"].astype(str))

    def result(self, path: Path) -> str | None:
        """Return what an output says: "same", "other" or "broken"; None if there is none."""
        if not path.exists():
            return None
        try:
            return "same" if self.clusters(path) == self.usual else "other"
        except (OSError, KeyError, ValueError):
            return "broken"


def plain(ended: Ended) -> str | None:
    """Return what may not be of how a process ended, or None."""
    if ended.code is None:
        return "hang"
    if "Traceback (most recent call last)" in ended.text:
        return "traceback"
    if ended.code < 0 or ended.code in {128 + signal.SIGSEGV, 128 + signal.SIGABRT}:
        return "crash"
    return None


def judge(bench: Bench, ended: Ended, out: Path, *, damaged: bool = False) -> str:
    """Return what became of a run that should write clusters."""
    bad = plain(ended)
    if bad is not None:
        return bad
    found = bench.result(out)
    if ended.code == 0:
        if damaged and found == "other":
            return "changed"
        return "survived" if found == "same" else "silent"
    if found is not None:
        return "silent"
    return "refused" if ended.code in {1, 2} and ended.text.strip() else "lost"


# Faults. Each yields what became of one injection.


def flipped_bits(bench: Bench, folder: Path, rng: np.random.Generator) -> str:
    """A bit of the file is turned."""
    content = bytearray(bench.cells.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    (folder / "in.h5ad").write_bytes(content)
    ended = bench.run("cluster", folder / "in.h5ad", folder / "out.h5ad")
    return judge(bench, ended, folder / "out.h5ad", damaged=True)


def flipped_structure(bench: Bench, folder: Path, rng: np.random.Generator) -> str:
    """A bit of the pointers or indices is turned."""
    import h5py

    path = folder / "in.h5ad"
    shutil.copy(bench.cells, path)
    with h5py.File(path, "a") as file:
        part = file["X"][rng.choice(["indptr", "indices"])]
        place = int(rng.integers(len(part)))
        part[place] = np.int64(part[place]) ^ np.int64(1 << rng.integers(31))
    ended = bench.run("cluster", path, folder / "out.h5ad")
    return judge(bench, ended, folder / "out.h5ad", damaged=True)


def cut_files(bench: Bench, folder: Path, rng: np.random.Generator) -> str:
    """The file ends early."""
    content = bench.cells.read_bytes()
    (folder / "in.h5ad").write_bytes(content[: rng.integers(len(content))])
    ended = bench.run("cluster", folder / "in.h5ad", folder / "out.h5ad")
    return judge(bench, ended, folder / "out.h5ad")


def damaged_models(bench: Bench, folder: Path, rng: np.random.Generator) -> str:
    """A byte of the model is another, or its file ends early."""
    shutil.copytree(bench.folder / "model", folder / "model")
    file = folder / "model" / rng.choice(["model.json", "arrays.safetensors"])
    content = bytearray(file.read_bytes())
    place = rng.integers(len(content))
    if rng.random() < 0.5:
        content = content[:place]
    else:
        content[place] ^= 1 << rng.integers(8)
    file.write_bytes(content)
    out = folder / "out.h5ad"
    ended = bench.run("predict", folder / "model", bench.cells, out)
    bad = plain(ended)
    if bad is not None:
        return bad
    return "refused" if ended.code == 2 and not out.exists() else "silent"


def signals(bench: Bench, folder: Path, rng: np.random.Generator) -> str:
    """Ctrl-C, or the end of a job."""
    sent = int(rng.choice([signal.SIGINT, signal.SIGTERM]))
    out = folder / "out.h5ad"
    after = rng.uniform(0.1, bench.seconds)
    ended = bench.run("cluster", bench.cells, out, after=after, sent=sent)
    bad = plain(ended)
    if bad is not None:
        # a process that Python has not begun to run has no handler yet
        return "ended" if bad == "crash" and ended.code == -sent and after < 0.3 else bad
    left = [path.name for path in folder.iterdir() if path != out]
    if left or bench.result(out) in {"other", "broken"}:
        return "silent"
    if ended.code == 0:
        return "survived" if out.exists() else "lost"
    return "ended" if ended.code == 128 + sent else "lost"


def kills(bench: Bench, folder: Path, rng: np.random.Generator) -> str:
    """Killed at any moment, and started again with the same checkpoint."""
    out = folder / "out.h5ad"
    words = ["cluster", bench.cells, out, "--checkpoint", folder / "kept", "--checkpoint-every", 10]
    bench.run(*words, after=rng.uniform(0.5, bench.seconds))
    if out.exists():
        return "survived" if bench.result(out) == "same" else "silent"
    found = judge(bench, bench.run(*words), out)
    left = [path.name for path in folder.iterdir() if path.name not in {"kept", "out.h5ad"}]
    return "silent" if left else found


def full_disks(bench: Bench, folder: Path, rng: np.random.Generator) -> str:
    """No file may grow beyond some size; the model is to be kept, too."""
    out, model = folder / "out.h5ad", folder / "model"
    limit = int(rng.uniform(1e3, 1.2 * (bench.folder / "usual.h5ad").stat().st_size))
    words = ["cluster", bench.cells, out, "--save", model, "--no-cache"]
    ended = bench.run(*words, limit=limit, cwd=folder)
    bad = plain(ended)
    if bad is not None:
        return bad
    if ended.code == 0:
        return "survived" if bench.result(out) == "same" else "silent"
    tables = list(folder.glob("*.csv"))
    if bench.result(out) is not None and bench.result(out) != "same":
        return "silent"
    if tables or model.exists() or out.exists():
        return "survived"
    return "refused" if "free" in ended.text or "space" in ended.text else "lost"


def bad_places(bench: Bench, folder: Path, rng: np.random.Generator) -> str:
    """An output that cannot be there: found out before the fit."""
    (folder / "file").write_text("")
    (folder / "taken.h5ad").mkdir()
    (folder / "dangling.h5ad").symlink_to(folder / "nowhere" / "file.h5ad")
    (folder / "loop.h5ad").symlink_to(folder / "loop.h5ad")
    places = ["/proc/out.h5ad", "/dev/full.h5ad", f"{'x' * 300}.h5ad", "none/out.h5ad", "out.txt"]
    places += ["file/out.h5ad", "taken.h5ad", "dangling.h5ad", "loop.h5ad", f"{'é' * 126}.h5ad"]
    place = rng.choice(places)
    start = time.perf_counter()
    ended = bench.run("cluster", bench.cells, folder / place, "--overwrite", cwd=folder)
    bad = plain(ended)
    if bad is not None:
        return bad
    soon = time.perf_counter() - start < max(2 * bench.seconds, 20)
    return "refused" if ended.code in {1, 2} and soon else "lost"


def bad_settings(bench: Bench, folder: Path, rng: np.random.Generator) -> str:
    """A setting that no fit can have."""
    lines = VALUES.replace("\n", "|").split("|")
    (folder / "bad.toml").write_text(f"[training]\n{rng.choice(lines)}\n")
    out = folder / "out.h5ad"
    ended = bench.run("cluster", bench.cells, out, "--config", folder / "bad.toml")
    return judge(bench, ended, out)


def divergence(bench: Bench, folder: Path, rng: np.random.Generator) -> str:
    """A rate that ruins training: said so, with the clusters of before."""
    from sklearn.metrics import adjusted_rand_score

    rate = 10.0 ** rng.integers(1, 9)
    (folder / "bad.toml").write_text(f"{SETTINGS}rate = {rate}\n")
    out = folder / "out.h5ad"
    ended = bench.run("cluster", bench.cells, out, "--config", folder / "bad.toml")
    bad = plain(ended)
    if bad is not None:
        return bad
    if not out.exists():
        return "lost"
    ari = adjusted_rand_score(bench.usual, bench.clusters(out))
    return "survived" if ari > 0.9 else ("silent" if ended.code == 0 else "lost")


FAULTS: list[Callable[[Bench, Path, np.random.Generator], str]] = [
    flipped_bits,
    flipped_structure,
    cut_files,
    damaged_models,
    signals,
    kills,
    full_disks,
    bad_places,
    bad_settings,
    divergence,
]


def inject(bench: Bench, rounds: int, chosen: list[str]) -> Iterator[Run]:
    """Inject every kind of fault so many times."""
    for number, fault in enumerate(FAULTS):
        if fault.__name__ not in chosen:
            continue
        for round_ in range(rounds):
            rng = np.random.default_rng([number, round_])
            with tempfile.TemporaryDirectory(prefix="faults-", dir=bench.folder) as folder:
                found = fault(bench, Path(folder), rng)
            run = {"fault": fault.__name__, "round": round_, "found": found}
            if found in BAD:
                run |= {"code": bench.last.code, "text": bench.last.text[-500:]}
            yield run


def cases(folder: Path) -> Iterator[Run]:
    """Run the scripts of a folder; a process that crashed, or an error of ours, is bad."""
    for script in sorted([*folder.glob("*.py"), *folder.glob("*.sh")]):
        program = sys.executable if script.suffix == ".py" else "bash"
        words = [program, str(script)]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        try:
            done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=600)
        except subprocess.TimeoutExpired:
            yield {"fault": script.name, "round": 0, "found": "hang"}
            continue
        found = plain(Ended(done.returncode, done.stderr)) or "refused"
        print(f"{script.name}\n{done.stdout}")
        yield {"fault": script.name, "round": 0, "found": found}


def table(runs: list[Run]) -> str:
    """Return a Markdown table, a row for each kind of fault."""
    what = {fault.__name__: (fault.__doc__ or "").rstrip(".") for fault in FAULTS}
    lines = [f"| fault | injected | {' | '.join([*GOOD, *BAD])} |"]
    lines.append("|---" * (2 + len(GOOD) + len(BAD)) + "|")
    for name in [*dict.fromkeys(run["fault"] for run in runs), None]:
        found = Counter(run["found"] for run in runs if name in {None, run["fault"]})
        cells = " | ".join(str(found[word]) if found[word] else "" for word in [*GOOD, *BAD])
        title = "all" if name is None else what.get(name, name)
        lines.append(f"| {title} | {found.total()} | {cells} |")
    bad = sum(run["found"] in BAD for run in runs)
    return "\n".join([*lines, "", f"What may not be: {bad} of {len(runs)}."]) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    names = [fault.__name__ for fault in FAULTS]
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--cases", type=Path, metavar="DIR", help="scripts to run as well")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="faults-bench-") as folder:
        bench = Bench(Path(folder))
        for run in inject(bench, arguments.rounds, arguments.only):
            print(run, flush=True)
            runs.append(run)
            save(arguments.out, table(runs), runs=runs, rounds=arguments.rounds)
    if arguments.cases is not None:
        runs += cases(arguments.cases)
    print(table(runs))
    return int(any(run["found"] in BAD for run in runs))


if __name__ == "__main__":
    sys.exit(main())
