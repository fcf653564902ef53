"""Table and plot of what `benchmarks/speed.py` measured."""

from pathlib import Path
from typing import Any

import numpy as np

LANDMARKS = 2048  # of the linear settings
SEEDS = 8
EXACT_CELLS = 32768  # the default of config.scale.exact_cells

Record = dict[str, Any]


def exponent(records: list[Record], key: str) -> float | None:
    """Slope of log `key` over log n."""
    if len(records) < 2:
        return None
    n, values = (np.log([r[name] for r in records]) for name in ("n", key))
    return float(np.polyfit(n, values, 1)[0])


def of_kind(records: list[Record], kind: str) -> list[Record]:
    return [r for r in records if r["kind"] == kind and "failed" not in r]


def table(records: list[Record]) -> str:
    """Steps as a Markdown table, then fits."""
    dense = {r["n"]: r for r in of_kind(records, "dense")}
    lines = [
        "| cells | step with all terms, s | the same, dense PyTorch, s | ratio | peak, MiB "
        "| peak, dense, MiB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for r in of_kind(records, "step"):
        other = dense.get(r["n"])
        cells = [f"{r['n']:,}", f"{r['seconds']:.3f}"]
        if other:
            cells += [f"{other['seconds']:.3f}", f"{other['seconds'] / r['seconds']:.1f}"]
            cells += [f"{r['peak_mib']:.0f}", f"{other['peak_mib']:.0f}"]
        else:
            cells += ["-", "-", f"{r['peak_mib']:.0f}", "-"]
        lines.append("| " + " | ".join(cells) + " |")
    fits = of_kind(records, "fit")
    if fits:
        lines += [
            "",
            "| whole fit, cells | compilation cache | s | of it compilation | peak, MiB "
            "| estimated, MiB |",
        ]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        for r in fits:
            compilation = r.get("compilation", np.nan)  # of older records
            cells = [f"{r['n']:,}", r["cache"], f"{r['seconds']:.1f}", f"{compilation:.1f}"]
            cells += [f"{r['peak_mib']:.0f}", f"{r['estimate_mib']:.0f}"]
            lines.append("| " + " | ".join(cells) + " |")
    default, linear = of_kind(records, "default"), of_kind(records, "linear")
    for rows, what in ((default, "the default's step"), (linear, f"{LANDMARKS} landmarks")):
        if rows:
            lines += ["", f"| cells, {what} | step, s | peak, MiB |", "| --- | --- | --- |"]
        for r in rows:
            lines.append(f"| {r['n']:,} | {r['seconds']:.3f} | {r['peak_mib']:.0f} |")
    for r in of_kind(records, "seeds"):
        lines += [
            "",
            f"{SEEDS} seeds at {r['n']:,} cells cost {r['vmap_ratio']:.1f} times one by `vmap`, "
            f"{r['map_ratio']:.1f} times by `lax.map`.",
        ]
    steps = [r for r in of_kind(records, "step") if r["n"] >= 5000]
    exact = [r for r in steps if r["n"] <= EXACT_CELLS]
    for rows, key, name in (
        (steps, "peak_mib", "Peak memory of a step"),
        (exact, "seconds", "Time of a step over all pairs"),
        (default, "peak_mib", "Peak memory of the default's step"),
        (default, "seconds", "Time of the default's step"),
        (linear, "peak_mib", f"Peak memory with {LANDMARKS} landmarks"),
        (linear, "seconds", f"Time of a step with {LANDMARKS} landmarks"),
        ([r for r in fits if r["cache"] == "none"], "peak_mib", "Peak memory of a fit"),
    ):
        slope = exponent(rows, key)
        if slope is not None:
            first, last = rows[0]["n"], rows[-1]["n"]
            lines += ["", f"{name}, {first:,} to {last:,} cells: grows as n^{slope:.2f}."]
    failed = [r for r in records if "failed" in r]
    lines += ["", *(f"Failed: {r['kind']} at {r['n']:,}: {r['failed']}" for r in failed)]
    return "\n".join(lines).rstrip() + "\n"


def plot(records: list[Record], path: Path) -> None:
    """Draw time and memory of a step against cells."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    names = {
        "dense": "dense PyTorch, all terms",
        "step": "scsiameseclu_jax, all terms",
        "default": "scsiameseclu_jax, default",
    }
    for kind, name in names.items():
        rows = of_kind(records, kind)
        for ax, key, scale in zip(axes, ("seconds", "peak_mib"), (1, 1024), strict=True):
            ax.plot([r["n"] for r in rows], [r[key] / scale for r in rows], "o-", label=name)
    for ax, label in zip(axes, ("seconds a step", "peak memory, GiB"), strict=True):
        ax.set(xscale="log", yscale="log", xlabel="cells", ylabel=label)
        ax.grid(visible=True, which="major", alpha=0.3)
        ax.legend(frameon=False)
    axes[1].set_yticks([1, 2, 4, 8, 16], minor=False)
    axes[1].yaxis.set_major_formatter("{x:g}")
    axes[1].yaxis.set_minor_formatter("")
    figure.savefig(path, dpi=150)
    plt.close(figure)
