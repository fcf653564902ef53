"""Which criterion finds the number of clusters?

``python -m benchmarks.n_clusters`` estimates the number of clusters of the main labelled data sets
(`real_data.py`; with ``--all`` of every one at hand), of the bundled PBMC, and of 20 simulated sets
of 3 to 25 clusters of unequal size and random difficulty, by the vote that ``n_clusters="auto"``
takes and by each criterion of ``CRITERIA`` alone, over 2 to 30 clusters and over the same
partitions (k-means of features smoothed four times). Labels score, nothing else. It resumes;
``--fresh`` repeats all. Writes ``benchmarks/results/n_clusters.json`` and ``.md``.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from benchmarks import real_data
from benchmarks.records import Run, code_fingerprint, on_record, save
from scsiameseclu_jax.preprocessing.prepare import prepare

OUT = Path(__file__).resolve().parent / "results" / "n_clusters.json"
BARS = {"near": 0.7}
SIMULATED = 20
STRONG = 0.8  # Tibshirani & Walther's threshold
HALVES = 4
REFERENCES = 5
CELLS = 2000  # of the gap statistic

VOTE = "vote (n_clusters='auto')"
CRITERIA = {
    VOTE: "sum of ranks of the first four below, modularity twice",
    "modularity": "largest, at resolution 1, on the kNN graph",
    "silhouette": "largest, cosine",
    "silhouette, smoothed": "largest, cosine, of the smoothed features",
    "Calinski-Harabasz, smoothed": "largest, of the smoothed features",
    "Leiden": "its number of clusters at resolution 1, on the same graph",
    "eigengap": "largest gap of the spectrum of the normalised graph",
    "stability": "largest mean ARI of k-means of four random halves",
    "prediction strength": "largest number with 0.8, of random halves (Tibshirani & Walther 2005)",
    "gap": "first within one error of the next (Tibshirani, Walther & Hastie 2001)",
    "BIC": "least, spherical Gaussians (Pelleg & Moore 2000)",
}


def simulated(i: int) -> tuple[AnnData, np.ndarray]:
    """Return simulated set `i`: 3 to 25 clusters, 1000 to 5000 cells."""
    import scsiameseclu_jax as scs

    rng = np.random.default_rng([5, i])
    adata = scs.datasets.simulate(
        n_cells=int(rng.integers(1000, 5001)),
        n_genes=1000,
        n_clusters=round(3 + 22 * i / (SIMULATED - 1)),
        difficulty=float(rng.uniform(0.2, 0.6)),
        rng=i,
    )
    return adata, adata.obs.pop("cell_type").to_numpy().astype(str)


def bundled() -> tuple[AnnData, np.ndarray]:
    import scsiameseclu_jax as scs

    adata = scs.datasets.pbmc68k_reduced()
    return adata, adata.obs.pop("cell_type").to_numpy().astype(str)


def estimates(features: np.ndarray, n_neighbors: int) -> dict[str, int]:
    """Return the number of clusters by each criterion."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    from scsiameseclu_jax.partition.candidates import representation, smooth, unit_rows
    from scsiameseclu_jax.partition.n_clusters import estimate

    vote = estimate(features, n_neighbors, seed=0)
    graph = representation(features, n_neighbors)
    unit = unit_rows(features)
    near = unit_rows(smooth(graph.links, unit, 4))
    ks = [int(k) for k in vote.candidates]
    numbers = {VOTE: vote.n_clusters}
    for name, series in vote.criteria.items():
        numbers[name] = ks[int(np.argmax(series))]
    with threadpool_limits(limits=1):
        partitions = {k: KMeans(k, n_init=3, random_state=0).fit(near) for k in ks}
        numbers["Leiden"] = leiden(graph.links)
        numbers["eigengap"] = eigengap(graph.links, ks)
        numbers |= halves(near, ks)
        numbers["gap"] = gap(near, ks)
        numbers["BIC"] = bic(unit, {k: fit.labels_ for k, fit in partitions.items()})
    return numbers


def leiden(links: Any) -> int:
    import igraph
    import scipy.sparse as sp

    upper = sp.triu(links > 0, k=1).tocoo()
    pairs = list(zip(upper.row.tolist(), upper.col.tolist(), strict=True))
    graph = igraph.Graph(n=links.shape[0], edges=pairs)
    igraph.set_random_number_generator(random.Random(0))
    return len(graph.community_leiden("modularity", resolution=1.0, n_iterations=5))


def eigengap(links: Any, ks: list[int]) -> int:
    from scipy.sparse.linalg import eigsh

    start = np.random.default_rng(0).normal(size=links.shape[0])
    values = np.sort(eigsh(links, k=max(ks) + 1, return_eigenvectors=False, v0=start))[::-1]
    gaps = values[:-1] - values[1:]
    return max(ks, key=lambda k: gaps[k - 1])


def halves(near: np.ndarray, ks: list[int]) -> dict[str, int]:
    """Return the numbers by stability and by prediction strength of random halves."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    rng = np.random.default_rng(0)
    parts = [rng.permutation(len(near))[: len(near) // 2] for _ in range(HALVES)]
    stability, strength = {}, {}
    for k in ks:
        fits = [KMeans(k, n_init=1, random_state=i).fit(near[p]) for i, p in enumerate(parts)]
        labels = [fit.predict(near) for fit in fits]
        stability[k] = np.mean([adjusted_rand_score(a, b) for a, b in combinations(labels, 2)])
        strength[k] = np.mean(
            [least_kept(fits[i].labels_, labels[j][parts[i]], k) for i, j in ((0, 1), (2, 3))]
        )
    strong = [k for k in ks if strength[k] >= STRONG]
    return {
        "stability": max(ks, key=lambda k: stability[k]),
        "prediction strength": max(strong) if strong else max(ks, key=lambda k: strength[k]),
    }


def least_kept(one: np.ndarray, another: np.ndarray, k: int) -> float:
    """Return the share of pairs of a cluster that stay together, of the cluster with the least."""
    kept = []
    for cluster in range(k):
        sizes = np.bincount(another[one == cluster], minlength=k)
        total = sizes.sum()
        kept.append((sizes * (sizes - 1)).sum() / (total * (total - 1)) if total > 1 else 1.0)
    return float(min(kept))


def gap(near: np.ndarray, ks: list[int]) -> int:
    from sklearn.cluster import KMeans

    rng = np.random.default_rng(0)
    rows = near[rng.permutation(len(near))[:CELLS]]
    _, _, axes = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    turned = rows @ axes.T
    low, high = turned.min(0), turned.max(0)
    boxes = [rng.uniform(low, high, turned.shape) for _ in range(REFERENCES)]

    def spread(cells: np.ndarray, k: int, starts: int) -> float:
        return float(np.log(KMeans(k, n_init=starts, random_state=0).fit(cells).inertia_))

    curve, error = {}, {}
    for k in ks:
        null = [spread(box, k, 1) for box in boxes]
        curve[k] = np.mean(null) - spread(turned, k, 3)
        error[k] = np.std(null) * np.sqrt(1 + 1 / REFERENCES)
    for k, after in pairwise(ks):
        if curve[k] >= curve[after] - error[after]:
            return k
    return ks[-1]


def bic(unit: np.ndarray, partitions: dict[int, np.ndarray]) -> int:
    n, p = unit.shape

    def value(k: int) -> float:
        labels = partitions[k]
        sizes = np.bincount(labels, minlength=k)
        sums = np.zeros((k, p))
        np.add.at(sums, labels, unit)
        within = ((unit - (sums / sizes[:, None])[labels]) ** 2).sum() / (n * p)
        fit = (sizes * np.log(sizes / n)).sum() - n * p / 2 * np.log(within)
        return (k * (p + 1)) * np.log(n) - 2 * fit

    return min(partitions, key=value)


def run(name: str, load: Callable[[], tuple[AnnData, np.ndarray]]) -> Run:
    """Estimate the number of clusters of one data set."""
    import scsiameseclu_jax as scs

    adata, labels = load()
    config = scs.Config()
    start = time.perf_counter()
    features = prepare(adata, config=config).features
    numbers = estimates(features, config.preprocessing.n_neighbors)
    return {
        "set": name,
        "simulated": name.startswith("simulated"),
        "n_cells": adata.n_obs,
        "true": len(set(labels)),
        "found": numbers,
        "seconds": round(time.perf_counter() - start, 1),
    }


def near_enough(estimate: int, true: int) -> bool:
    """Within 2, or within 20 %."""
    return abs(estimate - true) <= max(2, 0.2 * true)


def table(runs: list[Run]) -> str:
    """Return the criteria and their hits, then each real set, in Markdown."""
    lines = [
        "| criterion | near the truth | real | simulated | mean abs. log ratio | rule |",
        "| --- | --- | --- | --- | --- | --- |",
    ]

    def near(criterion: str, chosen: list[Run]) -> str:
        hits = [near_enough(run["found"][criterion], run["true"]) for run in chosen]
        return f"{sum(hits)} of {len(hits)}"

    real = [run for run in runs if not run["simulated"]]
    drawn = [run for run in runs if run["simulated"]]
    for criterion, rule in CRITERIA.items():
        ratios = [abs(np.log(run["found"][criterion] / run["true"])) for run in runs]
        counts = " | ".join(near(criterion, chosen) for chosen in (runs, real, drawn))
        lines.append(f"| {criterion} | {counts} | {np.mean(ratios):.3f} | {rule} |")
    lines += ["", "| data | cells | types | vote | Leiden |", "| --- | --- | --- | --- | --- |"]
    for one in real:
        numbers = one["found"]
        lines.append(
            f"| {one['set']} | {one['n_cells']} | {one['true']} | {numbers[VOTE]} | "
            f"{numbers['Leiden']} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.n_clusters", description=__doc__)
    parser.add_argument("--simulated", type=int, default=SIMULATED, help="how many of the 20")
    parser.add_argument("--no-real", action="store_true")
    parser.add_argument("--all", action="store_true", help="every labelled set at hand")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)
    jobs: dict[str, Callable[[], tuple[AnnData, np.ndarray]]] = {}
    if not arguments.no_real:
        jobs["pbmc68k_reduced"] = bundled
        real = real_data.available() if arguments.all else real_data.main_sets()
        jobs |= {name: lambda name=name: real_data.load(name) for name in real}
    indices = np.linspace(0, SIMULATED - 1, arguments.simulated).round().astype(int)
    jobs |= {f"simulated {i}": lambda i=i: simulated(int(i)) for i in indices}
    mark = code_fingerprint({})
    runs = on_record(arguments.out, {mark}, fresh=arguments.fresh)
    for name, load in jobs.items():
        if any(done["set"] == name for done in runs):
            continue
        runs.append(run(name, load) | {"fingerprint": mark})
        print(name, runs[-1]["true"], runs[-1]["found"], flush=True)
        save(arguments.out, table(runs), bars=BARS, runs=runs)
    print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
