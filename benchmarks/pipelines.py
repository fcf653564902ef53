"""The programs that `benchmarks/speed.py` times, each as a user would write it.

``python -m benchmarks.pipelines ours|auto|scanpy N_CLUSTERS FILE ...`` clusters one file after
another in one process, and prints a line of JSON after each. ``make NAME FOLDER`` writes the files.
A program imports what it needs and no more: imports are part of what is timed.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

N_GENES, N_CLUSTERS = 2000, 10  # of simulated cells
N_VARIABLE, MAX_VALUE, N_ITERATIONS = 2000, 10, 2  # of scanpy's pipeline
SHARE = 0.98  # of the cells of a real data set that are the second one


def ours(n_clusters: int, paths: list[str]) -> None:
    """Cluster with the default configuration."""
    _ours(n_clusters, paths)


def auto(n_clusters: int, paths: list[str]) -> None:
    """Cluster with the default configuration, and choose the number of clusters."""
    del n_clusters
    _ours("auto", paths)


def _ours(n_clusters: Any, paths: list[str]) -> None:
    import scsiameseclu_jax as scs

    for path in paths:
        adata = scs.read(path)
        start = time.perf_counter()
        scs.tl.siameseclu(adata, n_clusters)
        seconds = time.perf_counter() - start
        manifest = adata.uns["siameseclu"]["manifest"]
        found = int(adata.obs["siameseclu"].nunique())
        _tell(seconds, found, device=manifest["device"], stages=stages(manifest["seconds"]))


def scanpy(n_clusters: int, paths: list[str]) -> None:
    """Cluster with scanpy's pipeline, which finds its own number of clusters."""
    del n_clusters
    import scanpy as sc

    for path in paths:
        adata = sc.read_h5ad(path)
        start = time.perf_counter()
        sc.pp.normalize_total(adata)
        sc.pp.log1p(adata)
        sc.pp.highly_variable_genes(adata, n_top_genes=N_VARIABLE, subset=True)
        sc.pp.scale(adata, max_value=MAX_VALUE)
        sc.pp.pca(adata)
        sc.pp.neighbors(adata)
        sc.tl.leiden(adata, flavor="igraph", n_iterations=N_ITERATIONS, directed=False)
        _tell(time.perf_counter() - start, int(adata.obs["leiden"].nunique()))


def _tell(seconds: float, n_found: int, **more: Any) -> None:
    print(json.dumps({"seconds": seconds, "n_found": n_found, **more}), flush=True)


def stages(seconds: float | dict[str, float]) -> dict[str, float]:
    """Return the seconds of each stage of a manifest, ``total`` among them."""
    if isinstance(seconds, dict):
        return {name: float(value) for name, value in seconds.items()}
    return {"total": float(seconds)}


def make(name: str, folder: Path) -> dict[str, Any]:
    """Write ``first.h5ad`` and ``second.h5ad``, of counts only; say what they hold.

    A number is a number of simulated cells, and the second file another draw of as many. Any other
    name is a data set of `benchmarks/real_data.py`: the second file has 98 % of its cells, drawn by
    lot. That is another size; whether shapes, which the package rounds up, are the same is left to
    chance, as it is between two data sets of like size.
    """
    import numpy as np
    from anndata import AnnData

    from benchmarks import real_data
    from scsiameseclu_jax.datasets import simulate

    if name.isdigit():
        options = {"n_cells": int(name), "n_genes": N_GENES, "n_clusters": N_CLUSTERS}
        first, k = simulate(**options, rng=0), N_CLUSTERS
    else:
        first, labels = real_data.load(name)
        k = len(set(labels))
    _write(AnnData(first.X, var=first.var[[]]), folder / "first.h5ad")
    described = {"cells": first.n_obs, "genes": first.n_vars, "n_clusters": k}
    if name.isdigit():
        second = simulate(**options, rng=1)
    else:
        n = round(SHARE * first.n_obs)
        second = first[np.sort(np.random.default_rng(0).permutation(first.n_obs)[:n])]
    _write(AnnData(second.X, var=second.var[[]]), folder / "second.h5ad")
    return described


def _write(adata: Any, path: Path) -> None:
    adata.obs_names = [f"cell{i}" for i in range(adata.n_obs)]
    adata.write_h5ad(path)


PIPELINES: dict[str, Callable[[int, list[str]], None]] = {
    "ours": ours,
    "auto": auto,
    "scanpy": scanpy,
}


def main(argv: list[str] | None = None) -> int:
    what, argument, *rest = sys.argv[1:] if argv is None else argv
    if what == "make":
        print(json.dumps(make(argument, Path(rest[0]))))
    else:
        PIPELINES[what](int(argument), rest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
