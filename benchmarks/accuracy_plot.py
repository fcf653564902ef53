"""Picture of what `benchmarks/accuracy.py` measured."""

from pathlib import Path
from typing import Any

import numpy as np

_MARKERS = "osD^v<>PX"


def plot(runs: list[dict[str, Any]], sets: list[str], methods: list[str], path: Path) -> None:
    """Draw the ARI of each method on each set, mean and standard deviation over seeds."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(1.5 * len(sets) + 3, 3.8), layout="constrained")
    shifts = np.linspace(-0.3, 0.3, len(methods))
    for i, (method, shift) in enumerate(zip(methods, shifts, strict=True)):
        values = [
            [r["scores"]["ARI"] for r in runs if r["set"] == name and r["method"] == method]
            for name in sets
        ]
        rows = [j for j, scores in enumerate(values) if scores]
        ax.errorbar(
            [j + shift for j in rows],
            [np.mean(values[j]) for j in rows],
            yerr=[np.std(values[j], ddof=1) if len(values[j]) > 1 else 0 for j in rows],
            fmt=_MARKERS[i % len(_MARKERS)],
            color="k" if i == 0 else f"C{i}",
            markersize=8 if i == 0 else 5,
            label=method,
        )
    ax.set_xticks(range(len(sets)), sets)
    ax.set(ylabel="ARI", ylim=(0, 1))
    ax.grid(visible=True, axis="y", alpha=0.3)
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=150)
    plt.close(figure)
