"""Does `batch_key` find types that a treatment hides?

``python -m benchmarks.batch_effects`` clusters Kang et al.'s PBMC, control and stimulated, without
and with ``batch_key="batch"`` and, where harmonypy is installed, with its embedding as ``use_rep``,
several seeds each. It prints the ARI with the types and with the batches; and of the embedding that
users get, which is learned, and of the one that is clustered, the purity (share of a cell's 15
nearest that are of its type) and the mixing (share of them that are of another batch, over what lot
would give). Labels score, nothing else. A check that nothing is lost where there is nothing to
correct: the Baron cells, with batches drawn by lot. Writes
``benchmarks/results/batch_effects.json``
and ``.md``.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from sklearn.neighbors import NearestNeighbors

from benchmarks import real_data
from benchmarks.embedding import N_NEIGHBORS
from benchmarks.records import Run, save
from scsiameseclu_jax.preprocessing.neighbors import unit_rows

OUT = Path(__file__).resolve().parent / "results" / "batch_effects.json"
SEEDS = 3
BARS = {"gain": 0.15, "batch": 0.05}
SETS = {"kang": "batch", "baron_mouse1": "drawn by lot"}


def harmony(adata: AnnData, key: str) -> np.ndarray | None:
    """Return harmonised components [n, p], or None without harmonypy."""
    import scanpy as sc

    try:
        import harmonypy
    except ImportError:
        return None
    work = adata.copy()
    sc.pp.normalize_total(work)
    sc.pp.log1p(work)
    sc.pp.scale(work, max_value=10)
    sc.pp.pca(work, n_comps=50)
    corrected = np.asarray(harmonypy.run_harmony(work.obsm["X_pca"], work.obs, [key]).Z_corr)
    return corrected if len(corrected) == adata.n_obs else corrected.T


def near(model: Any, labels: np.ndarray, batch: np.ndarray) -> dict[str, float]:
    """Return purity and mixing of both embeddings of a fit, 0 to 1, mixed by lot 1."""
    _, numbers = np.unique(batch, return_inverse=True)
    shares = np.bincount(numbers) / len(batch)
    by_lot = 1 - float((shares**2).sum())
    found = {}
    for name, fused in (("learned", False), ("clustered", True)):
        unit = unit_rows(model.get_latent_representation(fused=fused))
        search = NearestNeighbors(n_neighbors=N_NEIGHBORS, algorithm="brute").fit(unit)
        rows = search.kneighbors(return_distance=False)
        found[f"purity_{name}"] = float((labels[rows] == labels[:, None]).mean())
        found[f"mixing_{name}"] = float((batch[rows] != batch[:, None]).mean()) / by_lot
    return found


def runs_of(name: str, seed: int) -> list[Run]:
    """Cluster one data set in each way."""
    from sklearn.metrics import adjusted_rand_score

    import scsiameseclu_jax as scs

    adata, labels = real_data.load(name)
    key = SETS[name]
    if key not in adata.obs:
        adata.obs[key] = np.random.default_rng(seed).choice(["a", "b"], adata.n_obs)
    ways: dict[str, dict[str, str]] = {"batches ignored": {}, "batch_key": {"batch_key": key}}
    corrected = harmony(adata, key)
    if corrected is not None:
        adata.obsm["X_harmony"] = corrected
        ways["use_rep, Harmony"] = {"use_rep": "X_harmony"}
    runs = []
    for way, options in ways.items():
        model = scs.SiameseClu(len(set(labels)))
        model.fit(adata, rng=seed, progress=False, **options)
        runs.append(
            {
                "set": name,
                "way": way,
                "seed": seed,
                "types": float(adjusted_rand_score(labels, model.labels)),
                "batch": float(adjusted_rand_score(adata.obs[key], model.labels)),
                **near(model, labels, adata.obs[key].astype(str).to_numpy()),
            }
        )
        print(runs[-1], flush=True)
    return runs


def table(runs: list[Run]) -> str:
    """Return means over seeds in Markdown."""
    names = ["purity_learned", "purity_clustered", "mixing_learned", "mixing_clustered"]
    told = " | ".join(name.replace("_", ", ") for name in names)
    lines = [f"| data | how | ARI with types | ARI with batches | {told} |", "| --- " * 8 + "|"]
    for name, way in dict.fromkeys((run["set"], run["way"]) for run in runs):
        chosen = [run for run in runs if (run["set"], run["way"]) == (name, way)]
        types, batch = ([run[key] for run in chosen] for key in ("types", "batch"))
        of_types = f"{np.mean(types):.3f} ± {np.std(types):.3f}"
        more = " | ".join(f"{np.mean([run[key] for run in chosen]):.3f}" for key in names)
        lines.append(f"| {name} | {way} | {of_types} | {np.mean(batch):.3f} | {more} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch_effects", description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)
    sets = [name for name in SETS if name in real_data.available()]
    if not sets:
        parser.error(f"no data found; name their folder in {real_data.VARIABLE}")
    runs: list[Run] = []
    for name in sets:
        for seed in range(arguments.seeds):
            runs += runs_of(name, seed)
            save(arguments.out, table(runs), bars=BARS, runs=runs)
    print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
