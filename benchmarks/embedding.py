"""What is the embedding worth, apart from the clusters?

``python -m benchmarks.embedding`` takes every labelled data set at hand (`real_data.py`) and
compares representations of its cells: the principal components that a fit starts from, the same
smoothed twice over its graph, the embedding without learning (``Config.fast()``), the default's,
which learns by contrast between neighbours, and the paper's (``Config.paper()``, if asked for); and
that of scVI with its defaults, where scvi-tools is installed. It prints

- a linear probe: accuracy of logistic regression that saw 5, 20 and 100 cells of each type (half of
  those of a rarer type), of all other cells, and of the mean type; mean of three draws,
- purity: the share of a cell's 15 nearest others, by cosine, that are of its type,
- the ARI of Leiden at the resolution that gives the number of types, and of k-means on rows of
  length 1,
- the ARI of the fit's own clusters, where there is a fit,

as means over sets, with the paired difference from smoothed components and its standard error. The
embedding never sees types. It resumes; ``--fresh`` repeats all. Writes
``benchmarks/results/embedding.json`` and ``.md``.
"""

import argparse
import importlib.util
import random
import sys
from itertools import product
from pathlib import Path
from typing import Any

import igraph
import jax
import numpy as np
from anndata import AnnData
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

import scsiameseclu_jax as scs
import scsiameseclu_jax.functional as F
from benchmarks import real_data
from benchmarks.records import Run, code_fingerprint, on_record, save
from scsiameseclu_jax.preprocessing.neighbors import unit_rows
from scsiameseclu_jax.preprocessing.prepare import prepare
from scsiameseclu_jax.training.device import device_data, links

OUT = Path(__file__).resolve().parent / "results" / "embedding.json"
SEEDS = 1
PROBED = (5, 20, 100)
DRAWS = 3
N_NEIGHBORS = 15
N_INIT = 5
RESOLUTIONS = (1e-3, 10.0)
N_BISECTIONS = 14

PLAIN, SMOOTHED, SCVI = "components", "smoothed components", "scVI"
FITS = {"fast": scs.Config.fast, "default": scs.Config, "paper": scs.Config.paper}
USUAL = [PLAIN, SMOOTHED, "fast", "default"]
SCORES = {
    **{f"probe_{size}": f"probe, {size} a type" for size in PROBED},
    **{f"balanced_{size}": f"mean type, {size}" for size in PROBED},
    "purity": "purity",
    "leiden": "Leiden at K",
    "kmeans": "k-means",
    "partition": "own clusters",
}


# Representations.


def components(adata: AnnData, *, times: int) -> np.ndarray:
    """Return the components [n, p] that a fit starts from, smoothed over its graph `times`."""
    prepared = prepare(adata, config=scs.Config())
    x = prepared.features
    graph = links(F.normalize(device_data(prepared).graph), len(x))
    for _ in range(times):
        x = graph @ x
    return x[np.argsort(prepared.order)]


def scvi_latent(adata: AnnData, seed: int) -> np.ndarray:
    """Return the latent [n, 10] of scVI with its defaults, of all genes given."""
    import scvi

    scvi.settings.seed = seed
    cells = adata.copy()
    scvi.model.SCVI.setup_anndata(cells)
    model = scvi.model.SCVI(cells)
    model.train(enable_progress_bar=False)
    return model.get_latent_representation()


def represent(
    adata: AnnData, name: str, n_types: int, seed: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a representation [n, d], and the clusters [n] of the fit that it is from, if any."""
    if name in FITS:
        model = scs.SiameseClu(n_types, config=FITS[name]())
        model.fit(adata, rng=seed, progress=False)
        return model.get_latent_representation(), model.labels
    if name == SCVI:
        return scvi_latent(adata, seed), None
    return components(adata, times=2 if name == SMOOTHED else 0), None


# Scores.


def probe(z: np.ndarray, labels: np.ndarray, size: int) -> tuple[float, float]:
    """Return the accuracy of a linear classifier on other cells: of all, and of the mean type."""
    z = (z - z.mean(axis=0)) / z.std()
    types, found = np.unique(labels), []
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        cells = [rng.permutation(np.flatnonzero(labels == one)) for one in types]
        known = np.concatenate([rows[: max(1, min(size, len(rows) // 2))] for rows in cells])
        rest = np.setdiff1d(np.arange(len(z)), known)
        model = LogisticRegression(max_iter=300).fit(z[known], labels[known])
        right = model.predict(z[rest]) == labels[rest]
        by_type = [right[labels[rest] == one].mean() for one in np.unique(labels[rest])]
        found.append((right.mean(), np.mean(by_type)))
    plain, balanced = np.mean(found, axis=0)
    return float(plain), float(balanced)


def leiden(near: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    """Cluster the graph of neighbours [n, k] at the resolution whose number is nearest."""
    ends = np.stack([np.repeat(np.arange(len(near)), near.shape[1]), near.ravel()], axis=1)
    graph = igraph.Graph(n=len(near), edges=ends).simplify()
    igraph.set_random_number_generator(random.Random(seed))
    best, least = np.zeros(len(near), int), np.inf
    low, high = np.log(RESOLUTIONS)
    for _ in range(N_BISECTIONS):
        middle = (low + high) / 2
        made = graph.community_leiden("modularity", resolution=np.exp(middle), n_iterations=2)
        gap = len(made) - n_clusters
        if abs(gap) < least:
            best, least = np.array(made.membership), abs(gap)
        if gap == 0:
            break
        low, high = (middle, high) if gap < 0 else (low, middle)
    return best


def score(z: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, float]:
    """Return every score of a representation [n, d] but that of a fit's own clusters."""
    scores: dict[str, float] = {}
    for size in PROBED:
        scores[f"probe_{size}"], scores[f"balanced_{size}"] = probe(z, labels, size)
    unit, n_types = unit_rows(np.asarray(z, np.float32)), len(np.unique(labels))
    search = NearestNeighbors(n_neighbors=min(N_NEIGHBORS, len(z) - 1), algorithm="brute")
    near = search.fit(unit).kneighbors(return_distance=False)
    clusters = KMeans(n_types, n_init=N_INIT, random_state=seed).fit_predict(unit)
    return scores | {
        "purity": float((labels[near] == labels[:, None]).mean()),
        "leiden": float(adjusted_rand_score(labels, leiden(near, n_types, seed))),
        "kmeans": float(adjusted_rand_score(labels, clusters)),
    }


def run_one(set_name: str, name: str, seed: int) -> Run:
    """Represent and score once."""
    adata, labels = real_data.load(set_name)
    z, clusters = represent(adata, name, len(np.unique(labels)), seed)
    scores = score(z, labels, seed)
    if clusters is not None:
        scores["partition"] = float(adjusted_rand_score(labels, clusters))
    return {"set": set_name, "representation": name, "seed": seed, "scores": scores}


# Table.


def means(runs: list[Run], name: str, score: str) -> dict[str, float]:
    """Return the mean over seeds of a score, in %, by set."""
    values: dict[str, list[float]] = {}
    for run in runs:
        if run["representation"] == name and score in run["scores"]:
            values.setdefault(run["set"], []).append(100 * run["scores"][score])
    return {one: float(np.mean(found)) for one, found in values.items()}


def cell(runs: list[Run], name: str, score: str, than: str) -> str:
    """Return the mean over sets, and the difference from another's on the same sets."""
    own, reference = means(runs, name, score), means(runs, than, score)
    if not own:
        return "-"
    text = f"{np.mean(list(own.values())):.1f}"
    changes = np.array([own[one] - reference[one] for one in own.keys() & reference.keys()])
    if len(changes) < 2 or not changes.any():
        return text
    return f"{text} ({changes.mean():+.1f} ± {changes.std(ddof=1) / len(changes) ** 0.5:.1f})"


def table(runs: list[Run]) -> str:
    """Return a Markdown table, a row for each representation."""
    names = list(dict.fromkeys(run["representation"] for run in runs))
    lines = [
        "Means over sets, in %; in brackets the difference from the smoothed components (of the "
        "fit's own clusters: from `fast`) on the same sets, ± its paired standard error.",
        "",
        f"| representation | sets | runs | {' | '.join(SCORES.values())} |",
        "| --- | --- | --- |" + " --- |" * len(SCORES),
    ]
    for name in names:
        own = [run for run in runs if run["representation"] == name]
        cells = " | ".join(
            cell(runs, name, score, "fast" if score == "partition" else SMOOTHED)
            for score in SCORES
        )
        lines.append(f"| {name} | {len({run['set'] for run in own})} | {len(own)} | {cells} |")
    return "\n".join(lines) + "\n"


def marks() -> dict[str, str]:
    """Return the fingerprint of each representation: its code and settings."""
    settings: dict[str, dict[str, Any]] = {name: make().to_dict() for name, make in FITS.items()}
    names = [*USUAL, "paper", SCVI]
    found = {name: settings.get(name, {}) | {"representation": name} for name in names}
    return {name: code_fingerprint(setting) for name, setting in found.items()}


def main(argv: list[str] | None = None) -> int:
    """Run what is not on record, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedding", description=__doc__)
    sets = list(real_data.available())
    parser.add_argument("--sets", nargs="+", choices=list(real_data.FILES), default=sets)
    options = [*USUAL, "paper", SCVI]
    usual = [*USUAL, SCVI] if importlib.util.find_spec("scvi") else USUAL
    parser.add_argument("--representations", nargs="+", choices=options, default=usual)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)
    if not arguments.sets:
        parser.error(f"no data found; name their folder in {real_data.VARIABLE}")
    fingerprints = marks()
    runs = on_record(arguments.out, set(fingerprints.values()), fresh=arguments.fresh)
    done = {(run["set"], run["representation"], run["seed"]) for run in runs}
    for set_name in arguments.sets:
        for name, seed in product(arguments.representations, range(arguments.seeds)):
            fixed = name in (PLAIN, SMOOTHED) and seed  # components have no seed
            if fixed or (set_name, name, seed) in done:
                continue
            runs.append(run_one(set_name, name, seed) | {"fingerprint": fingerprints[name]})
            print(runs[-1], flush=True)
            save(arguments.out, table(runs), runs=runs)
        jax.clear_caches()  # the next set compiles its own programs
    print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
