"""Do landmarks and mini-batches, which serve many cells, find the clusters of the exact run?

``python -m benchmarks.approximation`` fits each data set three times with all terms
(``Config.paper()``): exactly, with landmarks, and in mini-batches, both set for as small a
share of the cells as at 200,000. It prints the ARI between the partitions, and writes
``benchmarks/results/approximation.json`` and ``.md``. Labels score the partitions afterwards.
Simulated cells, and real data where there are any (`real_data.py`).
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import real_data
from benchmarks.records import save

OUT = Path(__file__).resolve().parent / "results" / "approximation.json"
SIMULATED = 20_000
BAR = {"simulated": 0.9, "real": 0.8}

Record = dict[str, Any]


def scales(n: int) -> dict[str, dict[str, int]]:
    """Return the settings to compare for n cells."""
    most = 10**7
    return {
        "exact": {"exact_cells": most, "full_cells": most},
        "landmarks": {"exact_cells": 1, "landmarks": n // 24, "full_cells": most},
        "mini-batches": {"exact_cells": most, "full_cells": 1, "batch_cells": max(64, n // 6)},
    }


def compare(name: str, adata: Any, labels: np.ndarray, seed: int = 0) -> list[Record]:
    """Fit one data set with each setting."""
    from sklearn.metrics import adjusted_rand_score

    import scsiameseclu_jax as scs

    records: list[Record] = []
    exact = None
    n_clusters = len(np.unique(labels))
    for setting, scale in scales(adata.n_obs).items():
        config = scs.Config.paper()
        config = replace(config, scale=replace(config.scale, **scale))
        start = time.perf_counter()
        model = scs.SiameseClu(n_clusters, config=config).fit(adata, rng=seed, progress=False)
        exact = model.labels if exact is None else exact
        records.append(
            {
                "data": name,
                "kind": "simulated" if name == "simulated" else "real",
                "n": adata.n_obs,
                "setting": setting,
                "seed": seed,
                "attention_over": model.manifest["attention_over"],
                "cells_per_step": model.manifest["cells_per_step"],
                "to_exact": float(adjusted_rand_score(exact, model.labels)),
                "to_labels": float(adjusted_rand_score(labels, model.labels)),
                "seconds": time.perf_counter() - start,
            }
        )
        print(records[-1], flush=True)
    return records


def table(records: list[Record]) -> str:
    """Return a Markdown table."""
    lines = [
        "| data | cells | setting | attention over | cells a step | ARI, exact run | ARI, labels |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in records:
        cells = [r["data"], f"{r['n']:,}", r["setting"], r["attention_over"], r["cells_per_step"]]
        lines.append(
            "| " + " | ".join([*cells, f"{r['to_exact']:.3f}", f"{r['to_labels']:.3f}"]) + " |"
        )
    for kind, bar in BAR.items():
        rows = [r for r in records if r["kind"] == kind and r["setting"] != "exact"]
        if rows:
            least = min(r["to_exact"] for r in rows)
            lines += ["", f"Least agreement with the exact run, {kind}: {least:.3f} (bar: {bar})."]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.approximation", description=__doc__)
    parser.add_argument("--simulated", type=int, default=SIMULATED, metavar="CELLS")
    parser.add_argument("--real", nargs="*", default=["kidney", "cite_cbmc", "pbmc4k"])
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)

    import scsiameseclu_jax as scs

    adata = scs.datasets.simulate(
        n_cells=arguments.simulated, n_genes=2000, n_clusters=12, difficulty=0.6, rng=0
    )
    records = compare("simulated", adata, adata.obs["cell_type"].to_numpy())
    save(arguments.out, table(records), records=records)
    for name in arguments.real:
        if real_data.folder() is None:
            print("No real data here: left out.")
            break
        records += compare(name, *real_data.load(name))
        save(arguments.out, table(records), records=records)
    print(table(records))
    return 0


if __name__ == "__main__":
    sys.exit(main())
