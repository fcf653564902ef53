"""The tables of `classification.py`: within data sets, between two, and types left out."""

from typing import Any

import numpy as np

BARS = {"accuracy": 0.90, "macro_f1": 0.85}
SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "median_f1", "kappa")

Run = dict[str, Any]


def table(runs: list[Run]) -> str:
    """Return all tables in Markdown, and whether the bars are met."""
    parts = [within(runs), between(runs), left_out(runs)]
    return "\n\n".join(part for part in parts if part) + "\n"


def within(runs: list[Run]) -> str:
    """Return the folds: all scores, and the difference to the better baseline."""
    chosen = [run for run in runs if run["kind"] == "within"]
    if not chosen:
        return ""
    lines = [
        "Five stratified folds. Difference: of the accuracy to the better logistic regression on "
        "PCA, mean ± standard error over folds.",
        "",
        *_head("data", "way", *SCORES, "accuracy, surest 90%", "calibration error", "difference"),
    ]
    reached = []
    for name in dict.fromkeys(run["set"] for run in chosen):
        here = {run["way"]: run for run in chosen if run["set"] == name}
        baselines = [np.array(run["accuracies"]) for way, run in here.items() if "PCA" in way]
        best = max(baselines, key=np.mean)
        for way, run in here.items():
            apart = np.array(run["accuracies"]) - best
            error = apart.std(ddof=1) / np.sqrt(len(apart))
            if way == "classify":
                reached.append(bool(apart.mean() >= -error))
            lines.append(_row(name, way, *_numbers([run]), f"{apart.mean():+.4f} ± {error:.4f}"))
    lines += ["", f"At least as good, within noise or better: {_all(reached)} data sets."]
    return "\n".join(lines)


def between(runs: list[Run]) -> str:
    """Return the two ways, means over seeds."""
    chosen = [run for run in runs if run["kind"] == "between"]
    if not chosen:
        return ""
    lines = [
        "From one batch to the other, means over seeds.",
        "",
        *_head(
            "reference",
            "way",
            *SCORES,
            "accuracy, surest 90%",
            "calibration error",
            "least accuracy",
            "seeds",
        ),
    ]
    reached = []
    for reference in dict.fromkeys(run["reference"] for run in chosen):
        here = [run for run in chosen if run["reference"] == reference]
        mean = {}
        for way in dict.fromkeys(run["way"] for run in here):
            each = [run for run in here if run["way"] == way]
            accuracies = [run["scores"]["accuracy"] for run in each]
            least = f"{min(accuracies):.3f}"
            mean[way] = np.mean(accuracies), np.mean([r["scores"]["macro_f1"] for r in each])
            lines.append(_row(reference, way, *_numbers(each), least, str(len(each))))
        accuracy, f1 = mean["transfer_labels"]
        usual = max(mean[way][0] for way in mean if "PCA" in way)
        reached.append(bool(accuracy >= max(BARS["accuracy"], usual) and f1 >= BARS["macro_f1"]))
    lines += [
        "",
        f"Accuracy at least {BARS['accuracy']}, macro_f1 at least {BARS['macro_f1']}, and not "
        f"below any way that uses PCA: {_all(reached)} ways.",
    ]
    return "\n".join(lines)


def left_out(runs: list[Run]) -> str:
    """Return how many cells are flagged where the reference lacks a type."""
    chosen = [run for run in runs if run["kind"] == "left out"]
    if not chosen:
        return ""
    heads = ("data", "reference", "types left out in turn", "their cells flagged", "others flagged")
    lines = [*_head(*heads)]
    for name, reference in dict.fromkeys((run["set"], run["reference"]) for run in chosen):
        here = [r for r in chosen if (r["set"], r["reference"]) == (name, reference)]
        shares = (
            f"{np.mean([run[key] for run in here]):.1%}" for key in ("flagged", "false_flags")
        )
        lines.append(_row(name, reference, str(len(here)), *shares))
    return "\n".join(lines)


def _numbers(runs: list[Run]) -> list[str]:
    scores = [np.mean([run["scores"][name] for run in runs]) for name in SCORES]
    more = [np.mean([run[name] for run in runs]) for name in ("surest 90%", "calibration_error")]
    return [f"{value:.3f}" for value in (*scores, *more)]


def _all(reached: list[bool]) -> str:
    return f"{sum(reached)} of {len(reached)}"


def _head(*names: str) -> list[str]:
    return [_row(*names), _row(*["---"] * len(names))]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
