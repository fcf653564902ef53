"""Does a model hold for cells that it has not seen?

``python -m benchmarks.transfer`` fits 70 % of the cells of each labelled data set at hand
(`real_data.py`) and predicts the others, with several seeds. It prints the ARI of the predicted
cells with their types, beside what a fit on all cells reaches on the same cells, and the ARI of
both partitions. Then it leaves out each type with at least 100 cells in turn and prints the share
of its cells that are flagged as novel, beside the share of the other predicted cells
that are, and the share that would be at a level that exactly 5 % of the others exceed. It also
takes genes from the new cells, drawn by lot, and prints how many of them keep their cluster and are
flagged. First of all it times the prediction of 10,000 simulated cells by a fit of as many. Labels
choose what is left out and score, nothing else. It resumes; ``--fresh`` repeats all. Writes
``benchmarks/results/transfer.json`` and ``.md``.
"""

import argparse
import sys
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks import real_data
from benchmarks.records import Run, code_fingerprint, on_record, save

OUT = Path(__file__).resolve().parent / "results" / "transfer.json"
SETS = ["kidney", "cite_cbmc", "pbmc4k", "worm", "baron_mouse1"]
SEEDS = 3
SHARE = 0.7  # of the cells that are fitted
LEAST = 100  # cells of a type that is left out
MISSING = (0.1, 0.18)  # of the genes; of more than 0.2 prediction refuses
MANY = 10_000  # cells of the timed prediction, and of its fit
BARS = {"relative": 0.95, "agreement": 0.85, "flagged": 0.7, "false": 0.05, "seconds": 20}


def split(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that are fitted and those that are predicted, each ascending."""
    order = np.random.default_rng(seed).permutation(n)
    fitted = round(SHARE * n)
    return np.sort(order[:fitted]), np.sort(order[fitted:])


def run_timed(n: int) -> Run:
    """Time the prediction of many cells, programs compiled on the way."""
    import scsiameseclu_jax as scs

    adata = scs.datasets.simulate(n_cells=2 * n, n_genes=2000, n_clusters=10, rng=0)
    model = scs.SiameseClu(10).fit(adata[:n].copy(), rng=0, progress=False)
    new = adata[n:].copy()
    jax.clear_caches()
    start = time.perf_counter()
    model.predict(new)
    return {"seconds": round(time.perf_counter() - start, 2)}


def run_new_cells(set_name: str, seed: int) -> Run:
    """Fit part and all of the cells; compare on those that the first has not seen."""
    from sklearn.metrics import adjusted_rand_score

    import scsiameseclu_jax as scs

    adata, labels = real_data.load(set_name)
    n_clusters = len(set(labels))
    seen, unseen = split(adata.n_obs, seed)
    whole = scs.SiameseClu(n_clusters).fit(adata, rng=seed, progress=False)
    model = scs.SiameseClu(n_clusters).fit(adata[seen].copy(), rng=seed, progress=False)
    start = time.perf_counter()
    predicted = model.predict(adata[unseen].copy())
    seconds = time.perf_counter() - start
    truth, full = labels[unseen], whole.labels[unseen]
    return {
        "predicted": float(adjusted_rand_score(truth, predicted.labels)),
        "fitted": float(adjusted_rand_score(truth, full)),
        "agreement": float(adjusted_rand_score(full, predicted.labels)),
        "false_flags": float(predicted.is_novel.mean()),
        "n_cells": len(unseen),
        "seconds": round(seconds, 2),
    }


def run_missing(set_name: str) -> Run:
    """Fit part of the cells; predict the others with all genes, and without some."""
    import scsiameseclu_jax as scs

    adata, labels = real_data.load(set_name)
    seen, unseen = split(adata.n_obs, 0)
    model = scs.SiameseClu(len(set(labels))).fit(adata[seen].copy(), rng=0, progress=False)
    whole = model.predict(adata[unseen].copy())
    shares: Run = {"n_cells": len(unseen), "false_flags": float(whole.is_novel.mean())}
    order = np.random.default_rng(0).permutation(adata.n_vars)
    for share in MISSING:
        kept = np.sort(order[round(share * adata.n_vars) :])
        part = adata[unseen][:, kept]
        counted = np.asarray(part.X.sum(axis=1)).ravel() > 0  # one cell in a thousand has no more
        predicted = model.predict(part[counted].copy())
        shares[f"same_{share}"] = float((predicted.labels == whole.labels[counted]).mean())
        shares[f"false_flags_{share}"] = float(predicted.is_novel.mean())
    return shares


def run_left_out(set_name: str, kind: str) -> Run:
    """Fit without a type; predict it and cells of the others that were not fitted either."""
    import scsiameseclu_jax as scs

    adata, labels = real_data.load(set_name)
    others = np.flatnonzero(labels != kind)
    seen, unseen = (others[rows] for rows in split(len(others), 0))
    left_out = np.flatnonzero(labels == kind)
    model = scs.SiameseClu(len(set(labels)) - 1)
    model.fit(adata[seen].copy(), rng=0, progress=False)
    predicted = model.predict(adata[np.sort(np.r_[unseen, left_out])].copy())
    of_kind = labels[np.sort(np.r_[unseen, left_out])] == kind
    level = np.quantile(predicted.novelty[~of_kind], 1 - BARS["false"])
    return {
        "flagged": float(predicted.is_novel[of_kind].mean()),
        "false_flags": float(predicted.is_novel[~of_kind].mean()),
        "flagged_at_5_percent": float((predicted.novelty[of_kind] > level).mean()),
        "n_cells": int(of_kind.sum()),
    }


def measure(key: Run) -> Run:
    """Run one entry of the plan."""
    if key["kind"] == "timed":
        return run_timed(key["n_cells"])
    if key["kind"] == "new cells":
        return run_new_cells(key["set"], key["seed"])
    if key["kind"] == "missing genes":
        return run_missing(key["set"])
    return run_left_out(key["set"], key["type"])


def table(runs: list[Run]) -> str:
    """Return both tables in Markdown, means over seeds and types."""
    sets = list(dict.fromkeys(run["set"] for run in runs if "set" in run))
    new = [run for run in runs if run["kind"] == "new cells"]
    lines = [
        "| data | predicted cells, ARI with types | the same cells, all fitted | ratio | "
        "ARI of both | flagged | cells / s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]

    def row(name: str, chosen: list[Run]) -> str:
        keys = ("predicted", "fitted", "agreement")
        mean = {key: np.mean([r[key] for r in chosen]) for key in keys}
        ratio = np.mean([r["predicted"] / r["fitted"] for r in chosen])
        flags = np.mean([r["false_flags"] for r in chosen])
        speed = np.median([r["n_cells"] / r["seconds"] for r in chosen])
        return (
            f"| {name} | {mean['predicted']:.3f} | {mean['fitted']:.3f} | {ratio:.3f} | "
            f"{mean['agreement']:.3f} | {flags:.1%} | {speed:.0f} |"
        )

    lines += [row(s, [r for r in new if r["set"] == s]) for s in sets if any_of(new, s)]
    if new:
        lines.append(row("mean", new))
    out = [run for run in runs if run["kind"] == "left out"]
    lines += [
        "",
        "| data | types left out in turn | their cells flagged | other new cells flagged | "
        "their cells above the level of 5 % of the others |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in [*(s for s in sets if any_of(out, s)), "mean over types"]:
        chosen = [r for r in out if name in {r["set"], "mean over types"}]
        if chosen:
            keys = ("flagged", "false_flags", "flagged_at_5_percent")
            shares = " | ".join(f"{np.mean([r[key] for r in chosen]):.1%}" for key in keys)
            lines.append(f"| {name} | {len(chosen)} | {shares} |")
    missing = [run for run in runs if run["kind"] == "missing genes"]
    if missing:
        lines += ["", *missing_table(missing)]
    for run in runs:
        if run["kind"] == "timed":
            size = f"{run['n_cells']:,}"
            lines += ["", f"{size} simulated cells, by a fit of {size}: {run['seconds']:.1f} s."]
    return "\n".join(lines) + "\n"


def missing_table(runs: list[Run]) -> list[str]:
    """Return what missing genes change, in Markdown."""
    columns = [f"without {share:.0%}: same cluster | flagged" for share in MISSING]
    lines = [f"| data | all genes: flagged | {' | '.join(columns)} |"]
    lines.append("| --- | --- |" + " --- | --- |" * len(MISSING))
    keys = ["false_flags"]
    keys += [f"{key}_{s}" for s in MISSING for key in ("same", "false_flags")]
    for name in [*(run["set"] for run in runs), "mean"]:
        chosen = [run for run in runs if name in {run["set"], "mean"}]
        values = " | ".join(f"{np.mean([run[key] for run in chosen]):.1%}" for key in keys)
        lines.append(f"| {name} | {values} |")
    return lines


def any_of(runs: list[Run], set_name: str) -> bool:
    return any(run["set"] == set_name for run in runs)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transfer", description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=list(real_data.FILES), default=SETS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--no-left-out", action="store_true", help="new cells only")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)
    sets = [name for name in arguments.sets if name in real_data.available()]
    if not sets:
        parser.error(f"no data found; name their folder in {real_data.VARIABLE}")
    mark = code_fingerprint({})
    runs = on_record(arguments.out, {mark}, fresh=arguments.fresh)
    wanted: list[Run] = [{"kind": "timed", "n_cells": MANY}]
    for name in sets:
        wanted += [
            {"kind": "new cells", "set": name, "seed": seed} for seed in range(arguments.seeds)
        ]
        wanted.append({"kind": "missing genes", "set": name})
        if not arguments.no_left_out:
            kinds, sizes = np.unique(real_data.load(name)[1], return_counts=True)
            wanted += [
                {"kind": "left out", "set": name, "type": str(kind)}
                for kind in kinds[sizes >= LEAST]
            ]
    for key in wanted:
        if any(key.items() <= run.items() for run in runs):
            continue
        runs.append(key | measure(key) | {"fingerprint": mark})
        jax.clear_caches()  # programs of all fits together would be too many mappings of memory
        print(runs[-1], flush=True)
        save(arguments.out, table(runs), bars=BARS, runs=runs)
    print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
