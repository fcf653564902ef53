"""Does the default sit on a plateau?

``python -m benchmarks.sensitivity`` changes one setting at a time: the weight of each loss term,
the diffusion's alpha, the share of edges removed, the neighbours of the graph, the size of the
latent space and the sharpness of the transport. It plots the mean ARI over data sets against each.
Labels score, nothing else; the default was not chosen by this. Weights are values of the training
state, so that all of them share one compilation. It resumes: runs on record with the same code,
versions and settings are not repeated (``--fresh`` repeats all). Writes
``benchmarks/results/sensitivity.json``, ``.md`` and ``.png``.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import real_data
from benchmarks.fits import fit_and_score
from benchmarks.records import code_fingerprint, versions, write

OUT = Path(__file__).resolve().parent / "results" / "sensitivity.json"
SETS = ["baron_mouse1", "worm", "pbmc4k"]
SEEDS = 1
FACTORS = [0.1, 0.3, 3.0, 10.0]  # on the weights
SETTINGS: dict[str, list[float]] = {
    "augmentation.alpha": [0.1, 0.4, 0.8],
    "augmentation.edge_removal": [0.05, 0.2, 0.4],
    "augmentation.feature_noise": [0.03, 0.3, 1.0],
    "preprocessing.n_neighbors": [5, 10, 20, 30],
    "network.n_latent": [10, 40],
    "transport.sharpness": [2.0, 10.0],
}

Run = dict[str, Any]


def weights() -> dict[str, float]:
    """Return the default's loss weights that are not 0."""
    import scsiameseclu_jax as scs

    found = scs.Config().to_dict()["losses"]
    return {name: w for name, w in found.items() if w and name != "pairs"}  # none are given


def default_of(setting: str) -> float:
    """Return the default of ``section.name``."""
    import scsiameseclu_jax as scs

    section, name = setting.split(".")
    return scs.Config().to_dict()[section][name]


def grid(settings: list[str]) -> list[tuple[str, float]]:
    """Return what is run: the default once, then each setting at its other values."""
    made: list[tuple[str, float]] = [("default", 0.0)]
    for setting in settings:
        section, name = setting.split(".")
        if section == "losses":
            made += [(setting, factor * weights()[name]) for factor in FACTORS]
        else:
            made += [(setting, value) for value in SETTINGS[setting]]
    return made


def run_one(set_name: str, setting: str, value: float, seed: int) -> Run:
    """Fit and score once."""
    import scsiameseclu_jax as scs

    changed: dict[str, Any] = {}
    weighted: dict[str, float] = {}
    if setting.startswith("losses."):
        weighted = {setting.removeprefix("losses."): value}
    elif setting != "default":
        section, name = setting.split(".")
        changed = {section: {name: value}}
    config = scs.Config.from_dict(changed)
    ari = fit_and_score(set_name, config, seed, base=scs.Config(), weights=weighted)
    return {
        "set": set_name,
        "setting": setting,
        "value": value,
        "seed": seed,
        "ari": ari,
    }


def curve(runs: list[Run], setting: str) -> list[tuple[float, float, int]]:
    """Return the values of a setting, the mean ARI over sets and seeds, and how many runs."""
    default = default_of(setting)
    points: dict[float, list[float]] = {}
    for run in runs:
        if run["setting"] in {setting, "default"}:
            value = run["value"] if run["setting"] == setting else default
            points.setdefault(value, []).append(run["ari"])
    return [(v, float(np.mean(aris)), len(aris)) for v, aris in sorted(points.items())]


def changed_settings(runs: list[Run]) -> list[str]:
    return [s for s in dict.fromkeys(run["setting"] for run in runs) if s != "default"]


def table(runs: list[Run]) -> str:
    """Return a Markdown table: mean ARI at each value, the default's in bold."""
    sets = ", ".join(dict.fromkeys(run["set"] for run in runs))
    seeds = len({run["seed"] for run in runs})
    lines = [
        f"Mean ARI in % over {sets}; {seeds} seed{'s' * (seeds > 1)}. One setting changed at a "
        "time; bold: the default.",
        "",
        "| setting | value: mean ARI |",
        "| --- | --- |",
    ]
    for setting in changed_settings(runs):
        default = default_of(setting)
        cells = []
        for value, ari, _ in curve(runs, setting):
            cell = f"{value:.3g}: {100 * ari:.1f}"
            cells.append(f"**{cell}**" if value == default else cell)
        lines.append(f"| `{setting}` | {' · '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(runs: list[Run], path: Path) -> None:
    """Draw a panel for each setting: mean ARI against its value, the default marked."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    settings = changed_settings(runs)
    columns = min(5, max(1, len(settings)))
    rows = max(1, -(-len(settings) // columns))
    size = (2.3 * columns, 2.1 * rows)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for ax, setting in zip(axes.flat, settings, strict=False):
        points = curve(runs, setting)
        values = [value for value, _, _ in points]
        aris = [100 * ari for _, ari, _ in points]
        ax.plot(values, aris, ".-", color="0.4")
        at = [(v, a) for v, a in zip(values, aris, strict=True) if v == default_of(setting)]
        ax.plot(*zip(*at, strict=True), "o", color="C3")
        smallest = min(value for value in values if value > 0)
        ax.set_xscale("symlog", linthresh=smallest)  # linear from there to 0
        ax.minorticks_off()
        ax.set_xticks(values, [f"{value:g}" for value in values])
        ax.set_title(setting.split(".")[1], fontsize=8)
        ax.tick_params(labelsize=7)
    for ax in axes.flat[len(settings) :]:
        ax.set_axis_off()
    axes[0, 0].set_ylim(0, 100)
    figure.supylabel("mean ARI, %", fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def save(runs: list[Run], out: Path) -> None:
    """Write JSON, table and plot, each under a temporary name first."""
    write(out, json.dumps({"versions": versions(), "runs": runs}, indent=1))
    write(out.with_suffix(".md"), table(runs))
    part = out.with_name(out.stem + ".part.png")
    plot(runs, part)
    part.replace(out.with_suffix(".png"))


def main(argv: list[str] | None = None) -> int:
    known = [f"losses.{name}" for name in weights()] + list(SETTINGS)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sensitivity", description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=list(real_data.FILES), default=SETS)
    parser.add_argument("--settings", nargs="+", choices=known, default=known, metavar="SETTING")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)
    sets = [name for name in arguments.sets if name in real_data.available()]
    if not sets:
        parser.error(f"no data found; name their folder in {real_data.VARIABLE}")
    runs: list[Run] = []
    if arguments.out.exists() and not arguments.fresh:
        runs = json.loads(arguments.out.read_text(encoding="utf-8"))["runs"]
    mark = code_fingerprint({})

    import jax

    for set_name in sets:
        for setting, value in grid(arguments.settings):
            for seed in range(arguments.seeds):
                key = {"set": set_name, "setting": setting, "value": value, "seed": seed}
                done = [r for r in runs if key.items() <= r.items()]
                if done and done[0]["fingerprint"] == mark:
                    continue
                made = run_one(set_name, setting, value, seed) | {"fingerprint": mark}
                runs = [r for r in runs if not key.items() <= r.items()] + [made]
                print(made, flush=True)
                save(runs, arguments.out)
            if setting in SETTINGS:
                jax.clear_caches()  # no other value has these programs
    print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
