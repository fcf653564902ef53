"""What are a few answers of the user worth?

``python -m benchmarks.questions`` fits every labelled set at hand (K given, default configuration,
three seeds; ``--auto`` lets K be chosen) and answers questions from the labels: two groups are of
one type if most cells of both are. Answers of other kinds are simulated beside: one in ten of them
wrong, and to questions about random groups. Mean ARI after 0, 3, 5, 10, 20 and 50 answers, the gain
with its paired standard error over sets, and the best candidate by label. Labels answer and score;
they reach nothing else. It resumes; ``--fresh`` repeats all. Writes
``benchmarks/results/questions.json`` and ``.md``.
"""

import argparse
import statistics
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

import scsiameseclu_jax as scs
from benchmarks import real_data
from benchmarks.records import ROOT, Run, code_fingerprint, on_record, save
from scsiameseclu_jax import metrics
from scsiameseclu_jax.partition.questions import Pool, ask, choose
from scsiameseclu_jax.preprocessing.constraints import Answers, add_answer
from scsiameseclu_jax.training.stages import cluster_again

OUT = ROOT / "benchmarks" / "results" / "questions.json"
AFTER = (0, 3, 5, 10, 20, 50)
ROWS = {
    "right": "answers from the labels",
    "one in ten wrong": "the same, one answer in ten turned round",
    "random": "answers from the labels, to questions about random pairs of groups",
}


def simulate(
    kind: str, pool: Pool, types: np.ndarray, rng: np.random.Generator, after: tuple[int, ...]
) -> dict[int, np.ndarray]:
    """Return the partition [n] after so many answers of a kind.

    Parameters
    ----------
    kind
        A key of ``ROWS``.
    pool
        Candidates of a fit.
    types
        [n] type of each cell, 0 to t - 1: answers are read from it.
    rng
        Draws wrong answers, and pairs of groups.
    after
        Numbers of answers.
    """
    answers, asked, found = Answers([], [], np.zeros(0, np.int8)), set(), {}
    shares = np.bincount(pool.groups) / len(pool.groups)
    for count in range(max(after) + 1):
        if count in after:
            found[count] = choose(pool, answers).clusters
        if kind == "random":
            ends = tuple(sorted(rng.choice(len(shares), 2, replace=False, p=shares)))
            pair = None if ends in asked else [np.flatnonzero(pool.groups == g) for g in ends]
            asked.add(ends)
        else:
            questions = ask(pool, answers, n=1)
            pair = questions[0].cells if questions else None
        if pair is None:
            continue
        one, two = (int(np.bincount(types[cells]).argmax()) for cells in pair)
        wrong = kind == "one in ten wrong" and rng.random() < 0.1
        answers = add_answer(answers, *pair, same=(one == two) != wrong)
    return found


def measure(name: str, seed: int, *, auto: bool) -> Run:
    """Fit one set, and answer in every way."""
    adata, labels = real_data.load(name)
    types = np.unique(labels, return_inverse=True)[1]
    k: Any = "auto" if auto else len(set(labels))
    model = scs.SiameseClu(k).fit(adata, layer="counts", rng=seed, progress=False)
    pool, z = model.candidates, model.get_latent_representation(fused=True)
    if pool is None:
        msg = f"Expected candidates of a fit of {name}, found none."
        raise RuntimeError(msg)

    def score(clusters: np.ndarray) -> float:
        _, proba = cluster_again(model.method(), z, clusters)
        return metrics.scores(labels, proba.argmax(axis=1))["ARI"]

    start = time.perf_counter()
    rows = {}
    for i, kind in enumerate(ROWS):
        rng = np.random.default_rng([seed, i, zlib.crc32(name.encode())])
        partitions = simulate(kind, pool, types, rng, AFTER)
        rows[kind] = {str(count): score(clusters) for count, clusters in partitions.items()}
    best = max(metrics.scores(labels, clusters)["ARI"] for clusters in pool.clusters)
    return {
        "set": name,
        "seed": seed,
        "n_clusters": pool.n_clusters,
        "n_types": len(set(labels)),
        "n_candidates": len(pool.clusters),
        "ARI": rows,
        "best_candidate": best,
        "seconds": round(time.perf_counter() - start, 1),
    }


def table(runs: list[Run]) -> str:
    """Return means over sets, gains with their errors, and what each set has."""
    sets = list(dict.fromkeys(run["set"] for run in runs))

    def means(kind: str, count: int) -> list[float]:
        return [
            100 * statistics.fmean(run["ARI"][kind][str(count)] for run in runs if run["set"] == s)
            for s in sets
        ]

    start = means("right", 0)
    n_seeds = len({run["seed"] for run in runs})
    lines = [
        f"Mean ARI in % over {len(sets)} sets, mean of {n_seeds} seeds each; in brackets the gain "
        "over no answers and its paired standard error over sets.",
        "",
        "| answers | " + " | ".join(map(str, AFTER)) + " |",
        "|---" * (len(AFTER) + 1) + "|",
    ]
    for kind in ROWS:
        cells = []
        for count in AFTER:
            gains = [b - a for a, b in zip(start, means(kind, count), strict=True)]
            mean = f"{statistics.fmean(means(kind, count)):.1f}"
            if count and len(sets) > 1:
                error = statistics.stdev(gains) / len(gains) ** 0.5
                mean += f" ({statistics.fmean(gains):+.1f} ± {error:.1f})"
            cells.append(mean)
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    best = statistics.fmean(
        statistics.fmean(run["best_candidate"] for run in runs if run["set"] == s) for s in sets
    )
    lines += ["", f"The best candidate of each fit, by label: {100 * best:.1f}.", ""]
    lines += ["| data | " + " | ".join(map(str, AFTER)) + " | best candidate |"]
    lines += ["|---" * (len(AFTER) + 2) + "|"]
    for i, name in enumerate(sets):
        best = statistics.fmean(run["best_candidate"] for run in runs if run["set"] == name)
        cells = [f"{means('right', count)[i]:.1f}" for count in AFTER]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {100 * best:.1f} |")
    lines += ["", *(f"- {kind}: {what}." for kind, what in ROWS.items())]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Measure what is not on record, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.questions", description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=sorted(real_data.available()), metavar="SET")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--auto", action="store_true", help="let K be chosen")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--fresh", action="store_true", help="repeat what is on record")
    arguments = parser.parse_args(argv)
    sets = arguments.sets or sorted(real_data.available())
    mark = code_fingerprint(
        {"auto": arguments.auto}, "benchmarks.questions", "benchmarks.real_data"
    )
    runs = on_record(arguments.out, {mark}, fresh=arguments.fresh)
    done = {(run["set"], run["seed"]) for run in runs}
    for seed in range(arguments.seeds):
        for name in sets:
            if (name, seed) in done:
                continue
            run = measure(name, seed, auto=arguments.auto)
            runs.append(run | {"fingerprint": mark})
            right = " ".join(f"{100 * value:.1f}" for value in run["ARI"]["right"].values())
            print(f"{name:<20} seed {seed}: {right} ({run['seconds']} s)", flush=True)
            save(arguments.out, table(runs), runs=runs)
    print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
