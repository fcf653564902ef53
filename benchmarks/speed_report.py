"""Table and plot of what `benchmarks/speed.py` measured."""

import statistics
from pathlib import Path
from typing import Any

AUTO_ON = "cite_cbmc"  # the data of the row of a chosen number of clusters
SETS, SETS_CELLS = 30, (200, 3000)

# The most that each figure should be: seconds of the demo, times the other side, GiB, fits.
BARS: dict[str, dict[str, float]] = {
    "demo": {"fresh": 30, "cached": 15},
    "pbmc3k": {"fresh": 1, "steady": 3},
    "cite_cbmc": {"fresh": 0.6, "steady": 3},
    "50000": {"fresh": 1, "steady": 1.5},
    "100000": {"fresh": 1, "steady": 1.5, "peak_gib": 6},
    "auto": {"steady": 1.5},
    "sizes": {"mean": 8, "failures": 0},
}

Record = dict[str, Any]


def verdict(row: str, key: str, value: float) -> str:
    """Say whether a figure is within its bar, if it has one."""
    bar = BARS.get(row, {}).get(key)
    if bar is None:
        return ""
    return f" ({bar:g}: {'met' if value <= bar else 'not met'})"


def median(side: Record, key: str) -> float | None:
    """Return the median of the rounds; None where there is none, or the side failed."""
    return None if "failed" in side or key not in side else statistics.median(side[key])


def compared(records: list[Record]) -> list[Record]:
    """Return the rows of two sides."""
    return [r for r in records if len(r.get("sides", {})) > 1]


def table(records: list[Record]) -> str:
    """Return all rows as Markdown; behind each figure with a bar, the bar and whether it is met."""
    parts = []
    if rows := compared(records):
        parts += ["\n".join([*_HEAD, *map(_line, rows)]), _LEGEND]
    for r in records:
        if "sides" in r and len(r["sides"]) == 1 and "failed" not in r["sides"]["ours"]:
            parts.append(_demo(r) if r["row"] == "demo" else _sizes(r))
    parts += [line for r in records for line in _failures(r)]
    parts += _measured(records)
    return "\n\n".join(parts) + "\n"


_HEAD = [
    "| cells | fresh, s | ratio (bar) | steady, s | ratio (bar) | peak, GiB |",
    "| --- | --- | --- | --- | --- | --- |",
]
_LEGEND = (
    "Ours / scanpy's; in the row of a chosen number of clusters, chosen / given. Fresh: a whole "
    "process, nothing compiled before. Steady: the second data set of like size in a process."
)


def _sides(r: Record) -> tuple[Record, Record]:
    """Return the side that is judged, and that which it is judged by."""
    sides = r["sides"]
    return (sides["auto"], sides["ours"]) if "auto" in sides else (sides["ours"], sides["scanpy"])


def _line(r: Record) -> str:
    judged, by = _sides(r)
    name = "simulated" if r["data"].isdigit() else r["data"]
    k = "chosen" if r["row"] == "auto" else f"{r['n_clusters']}"
    cells = [f"{name}, {r['cells']:,} x {r['genes']:,}, K {k}"]
    for key in ("fresh", "steady"):
        pair = median(judged, key), median(by, key)
        cells.append(_pair(pair, ".1f"))
        ratio = None if None in pair else pair[0] / pair[1]
        cells.append("-" if ratio is None else f"{ratio:.2f}{verdict(r['row'], key, ratio)}")
    peaks = tuple(None if v is None else v / 1024 for v in (_peak(judged), _peak(by)))
    more = "" if peaks[0] is None else verdict(r["row"], "peak_gib", peaks[0])
    cells.append(_pair(peaks, ".2f") + more)
    return f"| {' | '.join(cells)} |"


def _peak(side: Record) -> float | None:
    return median(side, "peak_mib")


def _pair(values: tuple[float | None, ...], form: str) -> str:
    return " / ".join("-" if value is None else format(value, form) for value in values)


def _demo(r: Record) -> str:
    side = r["sides"]["ours"]
    figures = {key: statistics.median(side[key]) for key in ("fresh", "cached", "peak_mib")}
    fresh, cached = (
        f"{figures[key]:.1f} s{verdict('demo', key, figures[key])}" for key in ("fresh", "cached")
    )
    return (
        f"`scsiameseclu demo`, number of clusters chosen, clusters named, report written: {fresh}, "
        f"with the compiled programs of an earlier run {cached}; peak "
        f"{figures['peak_mib'] / 1024:.2f} GiB."
    )


def _sizes(r: Record) -> str:
    side = r["sides"]["ours"]
    f = {key: statistics.median(values) for key, values in side.items() if key != "complaint"}
    low, high = SETS_CELLS
    text = (
        f"{SETS} sets of {SETS} sizes, {low:,} to {high:,} cells, in one process: "
        f"{f['mean']:.1f} s each on average{verdict('sizes', 'mean', f['mean'])}; "
        f"{f['failures']:.0f} failed{verdict('sizes', 'failures', f['failures'])}; peak "
        f"{f['peak_mib'] / 1024:.2f} GiB, {f['half_mib'] / 1024:.2f} after half of them, "
        f"{f['end_mib'] / 1024:.2f} at the end; memory maps {f['half_maps']:,.0f} after half of "
        f"them, {f['end_maps']:,.0f} at the end, {f['maps']:,.0f} at most."
    )
    return text + (f" The last complaint: {side['complaint']}" if "complaint" in side else "")


def _failures(r: Record) -> list[str]:
    failed = {"": r} if "failed" in r else r.get("sides", {})
    return [
        f"Failed: {f'{name} on ' if name else ''}{r['row']}: {side['failed']}"
        + (f" Remedy: {side['remedy']}." if "remedy" in side else "")
        for name, side in failed.items()
        if "failed" in side
    ]


def _measured(records: list[Record]) -> list[str]:
    """Say when and with what rows were measured, those of one state together."""
    lines = []
    together: dict[str, list[str]] = {}
    for r in records:
        numbers = ", ".join(f"{name} {number}" for name, number in r["versions"].items())
        state = f"commit {r['commit']}, {r['cpus']} CPUs"
        device = {side["device"] for side in r.get("sides", {}).values() if "device" in side}
        when = f"{r['row']} {r['measured']}, load {r['load']:g}, rounds {r['rounds']}"
        when += "".join(f", device {name}" for name in device)
        together.setdefault(f"{state}; {numbers}", []).append(when)
    for state, rows in together.items():
        lines.append(f"Measured: {'; '.join(rows)}. With: {state}.")
    return lines


_STYLES = {"fresh": "-", "steady": "--"}
_COLOURS = {"ours": "tab:blue", "scanpy": "tab:orange"}
_NAMES = {"ours": "scsiameseclu_jax", "scanpy": "scanpy"}


def plot(records: list[Record], path: Path) -> None:
    """Draw seconds and memory against cells."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = sorted((r for r in compared(records) if "scanpy" in r["sides"]), key=_cells)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for side, colour in _COLOURS.items():
        for which, style in _STYLES.items():
            keys = (which, "peak_mib" if which == "fresh" else "steady_peak_mib")
            for ax, key, scale in zip(axes, keys, (1, 1024), strict=True):
                values = [(_cells(r), median(r["sides"][side], key)) for r in rows]
                points = [(n, value / scale) for n, value in values if value is not None]
                if points:
                    label = f"{_NAMES[side]}, {which}"
                    ax.plot(*zip(*points, strict=True), f"o{style}", color=colour, label=label)
    for ax, label in zip(axes, ("seconds", "peak memory, GiB"), strict=True):
        ax.set(xscale="log", yscale="log", xlabel="cells", ylabel=label)
        ax.grid(visible=True, which="major", alpha=0.3)
        for axis, form in ((ax.xaxis, "{x:,.0f}"), (ax.yaxis, "{x:g}")):
            axis.set_major_formatter(form)
        ax.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_minor_formatter("")
        ax.xaxis.set_minor_formatter("")
    if axes[0].lines:
        axes[0].legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _cells(r: Record) -> int:
    return r["cells"]
