"""Does the embedding keep the order of development?

``python -m benchmarks.trajectory`` clusters the myeloid progenitors of Paul et al. (2015), several
seeds, and orders them by `tl.trajectory`; beside it, from the same cells, by the same pipeline of
scanpy on 50 principal components. It prints Spearman's rank correlation of the pseudotime with the
published order of the clusters, within each lineage, and with a pseudotime that others inferred.
Published clusters score, and say where to begin; nothing else sees them. Other ways to use the
embedding are measured too. It resumes; ``--fresh`` repeats all. Writes
``benchmarks/results/trajectory.json`` and ``.md``.

Paul, F. et al. (2015). Transcriptional heterogeneity and lineage commitment in myeloid progenitors.
Cell 163, 1663-1677.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from benchmarks import real_data
from benchmarks.records import FIT, Run, code_fingerprint, on_record, save

OUT = Path(__file__).resolve().parent / "results" / "trajectory.json"
SEEDS = 3
SET = "paul15"
START = "C07"  # common myeloid progenitors, MEP in scanpy's names
# Published names: C01 to C06 erythrocytes, the earliest last; C09, C10 GMP; C14, C15 monocytes;
# C16, C17 neutrophils.
LINEAGES = {
    "erythroid": [["C07"], ["C06"], ["C05"], ["C04"], ["C03"], ["C02"], ["C01"]],
    "granulocyte/monocyte": [["C07"], ["C09", "C10"], ["C14", "C15", "C16", "C17"]],
}
EARLIEST, LOT = 10, 30  # roots
OURS = "embedding (tl.trajectory)"
BASELINE = "PCA, scanpy's defaults"


def published() -> pd.DataFrame:
    """Return the published cluster and the pseudotime of others of each cell."""
    from scsiameseclu_jax.datasets import read

    return read(real_data.available()[SET]).obs[["paul_cluster", "Pseudotime"]]


def order_of(clusters: np.ndarray, lineage: list[list[str]]) -> np.ndarray:
    """Return the place [n] of each cell in a lineage, -1 for cells of others."""
    place = {name: i for i, names in enumerate(lineage) for name in names}
    return np.array([place.get(name, -1) for name in clusters])


def correlations(pseudotime: np.ndarray, known: pd.DataFrame) -> dict[str, float]:
    """Return rank correlations within each lineage; cells that were not reached come last."""
    from scipy.stats import spearmanr

    scores = {}
    time = np.nan_to_num(pseudotime, nan=2.0)
    for name, lineage in LINEAGES.items():
        order = order_of(known["paul_cluster"].astype(str).to_numpy(), lineage)
        rows = order >= 0
        scores[name] = float(spearmanr(time[rows], order[rows])[0])
        others = known["Pseudotime"].to_numpy()[rows]
        scores[f"{name}, others' pseudotime"] = float(spearmanr(time[rows], others)[0])
    return scores


def roots(known: pd.DataFrame) -> dict[str, list[str]]:
    """Return cells to begin with: those that others put earliest, and any by lot."""
    start = known[known["paul_cluster"].astype(str) == START]
    earliest = start.sort_values("Pseudotime", kind="stable").index[:EARLIEST]
    lot = np.random.default_rng(0).choice(start.index, min(LOT, len(start)), replace=False)
    return {"earliest": list(earliest), "by lot": list(lot)}


def components(adata: AnnData) -> dict[str, np.ndarray]:
    """Return 50 principal components after recipes in use; the first is scanpy's default."""
    import scanpy as sc

    logged = AnnData(adata.X.astype(np.float32), obs=adata.obs[[]], var=adata.var[[]])
    sc.pp.normalize_total(logged)
    sc.pp.log1p(logged)
    spaces = {}
    for name in (BASELINE, "PCA, all genes", "PCA, scaled genes"):
        cells = logged.copy()
        if name == BASELINE:
            sc.pp.highly_variable_genes(cells)
        elif name == "PCA, scaled genes":
            cells.X = cells.X.toarray()
            sc.pp.scale(cells, max_value=10)
        sc.pp.pca(cells, n_comps=min(50, min(cells.shape) - 1))
        spaces[name] = np.asarray(cells.obsm["X_pca"])
    return spaces


def by_scanpy(features: np.ndarray, starts: list[int]) -> list[np.ndarray]:
    """Return the pseudotime from each cell, all settings as scanpy has them."""
    import scanpy as sc

    cells = AnnData(np.asarray(features, np.float32))
    sc.pp.neighbors(cells, use_rep="X")
    sc.tl.diffmap(cells)
    times = []
    for start in starts:
        cells.uns["iroot"] = start
        sc.tl.dpt(cells)
        times.append(cells.obs["dpt_pseudotime"].to_numpy(copy=True))
    return times


def smoothed(values: np.ndarray, embedding: np.ndarray) -> np.ndarray:
    """Return features [n, p] averaged over each cell and its neighbours in the embedding."""
    import scanpy as sc

    cells = AnnData(np.asarray(embedding, np.float32))
    sc.pp.neighbors(cells, use_rep="X", metric="cosine")
    links = cells.obsp["connectivities"]
    return (values + links @ values) / (1 + np.asarray(links.sum(axis=1)))


def scored(way: str, seed: int, kind: str, times: list[np.ndarray], known: pd.DataFrame) -> Run:
    """Return the mean of the correlations over roots."""
    table = pd.DataFrame([correlations(time, known) for time in times])
    scores = {name: round(float(value), 5) for name, value in table.mean().items()}
    return {"way": way, "seed": seed, "roots": kind, "n_roots": len(times), "scores": scores}


def runs_of(seed: int) -> list[Run]:
    """Cluster once, and order the cells in each way."""
    import scsiameseclu_jax as scs
    from scsiameseclu_jax.preprocessing.neighbors import unit_rows

    adata, _ = real_data.load(SET)
    known = published()
    places = {name: i for i, name in enumerate(adata.obs_names)}
    pca = components(adata)
    scs.tl.siameseclu(adata, rng=seed, progress=False)
    cells = adata.copy()
    options = {"rng": seed, "config": scs.Config.fast(), "key_added": "untrained"}
    scs.tl.siameseclu(cells, progress=False, **options)
    z, other = adata.obsm["X_siameseclu"], pca["PCA, all genes"]
    cells.obsm["smoothed"] = smoothed(other, z)
    cells.obsm["both"] = np.hstack([unit_rows(z), unit_rows(other)])

    def times(names: list[str], key: str = "siameseclu", **options: Any) -> list[np.ndarray]:
        orders = []
        for name in names:
            scs.tl.trajectory(cells, key, root=name, **options)
            orders.append(cells.obs[f"{key}_pseudotime"].to_numpy(copy=True))
        return orders

    chosen = roots(known)
    runs = [scored(OURS, seed, kind, times(names), known) for kind, names in chosen.items()]
    first = chosen["earliest"]
    runs += [
        scored(way, seed, "earliest", times(first, **options), known)
        for way, options in {
            "10 neighbours": {"n_neighbors": 10},
            "30 neighbours": {"n_neighbors": 30},
            "Euclidean distance": {"use_rep": "X_siameseclu"},
            "nothing learned": {"key": "untrained"},
            "components smoothed over its graph": {"use_rep": "smoothed"},
            "embedding and components": {"use_rep": "both"},
        }.items()
    ]
    # The cell that `root_cluster` takes, in the cluster that has most of the published start.
    most = cells.obs["siameseclu"][known["paul_cluster"].to_numpy() == START].mode()[0]
    scs.tl.trajectory(cells, root_cluster=str(most))
    root = [cells.uns["siameseclu_paga"]["root"]]
    chosen["root_cluster"] = root
    runs.append(scored(OURS, seed, "root_cluster", times(root), known))
    for way, features in pca.items():
        for kind, names in chosen.items():
            starts = [places[name] for name in names]
            runs.append(scored(way, seed, kind, by_scanpy(features, starts), known))
    return runs


def ceilings(known: pd.DataFrame) -> dict[str, float]:
    """Return the largest correlation that ties in the published order allow."""
    from scipy.stats import spearmanr

    orders = {
        name: np.sort([o for o in order_of(known["paul_cluster"].astype(str), lineage) if o >= 0])
        for name, lineage in LINEAGES.items()
    }
    return {name: float(spearmanr(o, np.arange(len(o)))[0]) for name, o in orders.items()}


def mean_of(runs: list[Run], way: str, kind: str, score: str) -> np.ndarray:
    """Return a score of each seed."""
    return np.array(
        [r["scores"][score] for r in runs if r["way"] == way and r["roots"] == kind], np.float64
    )


def table(runs: list[Run], limits: dict[str, float]) -> str:
    """Return means over seeds in Markdown, and whether the bar is met."""
    names = list(runs[0]["scores"])
    most = " and ".join(f"{value:.3f} ({name})" for name, value in limits.items())
    lines = [
        f"Spearman's correlation of pseudotime, mean over roots; ± over {_seeds(runs)} seeds. "
        f"Roots are cells of {START}: the {EARLIEST} that others put earliest, {LOT} by lot, or "
        "the cell that `root_cluster` takes in the cluster with most of them. Ties in the "
        f"published order allow {most} at most.",
        "",
        f"| roots | on | {' | '.join(names)} |",
        "| --- | --- |" + " --- |" * len(names),
    ]
    for kind, way in dict.fromkeys((r["roots"], r["way"]) for r in runs):
        values = [mean_of(runs, way, kind, name) for name in names]
        texts = [f"{v.mean():.3f} ± {v.std():.3f}" for v in values]
        lines.append(f"| {kind} | {way} | {' | '.join(texts)} |")
    return "\n".join([*lines, "", *verdict(runs)]) + "\n"


def verdict(runs: list[Run]) -> list[str]:
    """Return a line for each lineage: at least as good as components, from the same roots?"""
    lines = []
    for kind in dict.fromkeys(r["roots"] for r in runs if r["way"] == BASELINE):
        for name in LINEAGES:
            ours, theirs = (mean_of(runs, w, kind, name).mean() for w in (OURS, BASELINE))
            what = "bar" if kind == "earliest" else "beside it"
            met = "met" if ours >= theirs else "NOT met"
            lines.append(
                f"- {what}, roots {kind}, {name}: {ours:.3f}, to be at least {theirs:.3f} "
                f"({BASELINE}): {met}"
            )
    return lines


def _seeds(runs: list[Run]) -> int:
    return len({r["seed"] for r in runs})


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trajectory", description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)
    if SET not in real_data.available():
        parser.error(f"no {SET} found; name its folder in {real_data.VARIABLE}")
    mark = code_fingerprint({}, *FIT, "scsiameseclu_jax.tl.trajectory", "benchmarks.trajectory")
    runs = on_record(arguments.out, {mark}, fresh=arguments.fresh)
    limits = ceilings(published())
    for seed in range(arguments.seeds):
        if not any(run["seed"] == seed for run in runs):
            runs += [run | {"fingerprint": mark} for run in runs_of(seed)]
            save(arguments.out, table(runs, limits), ceilings=limits, runs=runs)
            print(f"seed {seed} done", flush=True)
    print(table(runs, limits))
    return 0


if __name__ == "__main__":
    sys.exit(main())
