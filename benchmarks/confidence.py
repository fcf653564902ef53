"""Does a model know how sure it is?

``python -m benchmarks.confidence`` fits each labelled data set at hand (`real_data.py`), assesses
it by refits (`SiameseClu.assess`), and prints the expected calibration error against refits of the
plain soft assignment, of the confidence that a fit has, and of that with refits (against others
than those it was made from); and the accuracy of all cells and of those with a confidence of 0.9 or
more. Labels score, nothing else. It resumes; ``--fresh`` repeats all. Writes
``benchmarks/results/confidence.json`` and ``.md``.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

import jax
import numpy as np

from benchmarks import real_data
from benchmarks.records import Run, code_fingerprint, on_record, save

if TYPE_CHECKING:
    from scsiameseclu_jax.certainty.stability import Stability

OUT = Path(__file__).resolve().parent / "results" / "confidence.json"
SETS = ["kidney", "cite_cbmc", "pbmc4k", "worm", "baron_mouse1"]
RESAMPLES = 10
BARS = {"error": 0.05, "gain": 0.05}
SURE = 0.9


def matched(labels: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Return which cells [n] are in the cluster that best matches their type, one to one."""
    from scipy.optimize import linear_sum_assignment

    types = np.unique(labels, return_inverse=True)[1]
    overlap = np.zeros((types.max() + 1, clusters.max() + 1), int)
    np.add.at(overlap, (types, clusters), 1)
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    of_type = dict(zip(rows, columns, strict=True))
    return clusters == np.array([of_type.get(t, -1) for t in types])


def run(set_name: str, n_resamples: int) -> Run:
    """Fit, assess, and compare with the labels."""
    import scsiameseclu_jax as scs
    from scsiameseclu_jax.certainty.calibration import expected_error
    from scsiameseclu_jax.certainty.stability import hints

    adata, labels = real_data.load(set_name)
    start = time.perf_counter()
    model = scs.SiameseClu(len(set(labels))).fit(adata, progress=False)
    fitted = time.perf_counter()
    alone = model.confidence
    model.assess(adata, n_resamples=n_resamples, progress=False)
    done = time.perf_counter()
    stability = cast("Stability", model.stability)
    right = matched(labels, model.labels)
    sure, sure_alone = (values >= SURE for values in (model.confidence, alone))
    merge, split = hints(stability)
    return {
        "set": set_name,
        "n_resamples": n_resamples,
        "error_plain": expected_error(model.proba.max(axis=1), stability.agreement),
        "error_alone": expected_error(alone, stability.agreement),
        "error": stability.calibration_error,
        "accuracy": float(right.mean()),
        "share_sure_alone": float(sure_alone.mean()),
        "accuracy_sure_alone": float(right[sure_alone].mean()) if sure_alone.any() else None,
        "share_sure": float(sure.mean()),
        "accuracy_sure": float(right[sure].mean()) if sure.any() else None,
        "mean_jaccard": float(stability.jaccard.mean()),
        "merge": merge,
        "split": split,
        "seconds_fit": round(fitted - start, 1),
        "seconds_assess": round(done - fitted, 1),
    }


def table(runs: list[Run]) -> str:
    """Return the figures in Markdown."""
    lines = [
        "| data | calibration error, plain soft assignment | confidence of a fit | with refits | "
        f"accuracy, all cells | confidence of a fit >= {SURE} | share of cells | with refits >= "
        f"{SURE} | share of cells | mean Jaccard of clusters |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]

    def row(name: str, chosen: list[Run]) -> str:
        keys = ["accuracy", "accuracy_sure_alone", "share_sure_alone"]
        keys += ["accuracy_sure", "share_sure"]
        numbers = [[r[key] for r in chosen if r[key] is not None] for key in keys]
        shares = " | ".join(f"{np.mean(values):.1%}" if values else "-" for values in numbers)
        keys = ["error_plain", "error_alone", "error"]
        errors = " | ".join(f"{np.mean([r[key] for r in chosen]):.3f}" for key in keys)
        jaccard = np.mean([r["mean_jaccard"] for r in chosen])
        return f"| {name} | {errors} | {shares} | {jaccard:.2f} |"

    lines += [row(r["set"], [r]) for r in runs]
    return "\n".join([*lines, row("mean", runs)]) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.confidence", description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=list(real_data.FILES), default=SETS)
    parser.add_argument("--resamples", type=int, default=RESAMPLES)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)
    sets = [name for name in arguments.sets if name in real_data.available()]
    if not sets:
        parser.error(f"no data found; name their folder in {real_data.VARIABLE}")
    mark = code_fingerprint({"n_resamples": arguments.resamples})
    runs = on_record(arguments.out, {mark}, fresh=arguments.fresh)
    for name in sets:
        if any(r["set"] == name for r in runs):
            continue
        runs.append(run(name, arguments.resamples) | {"fingerprint": mark})
        print(runs[-1], flush=True)
        jax.clear_caches()  # programs of all fits together would be too many mappings of memory
        save(arguments.out, table(runs), bars=BARS, runs=runs)
    print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
