"""Does the default sit on a plateau?

``python -m benchmarks.sensitivity`` changes one setting at a time: the weight of each loss term,
the diffusion's alpha, the share of edges removed, the neighbours of the graph, the size of the
latent space and the regularisation of the transport. It plots the mean ARI over data sets against
each. Labels score, nothing else; the default was not chosen by this. It resumes: runs on record
with the same code and versions are not repeated (``--fresh`` repeats all). Writes
``benchmarks/results/sensitivity.json``, ``.md`` and ``.png``.
"""

import argparse
import sys
from functools import partial
from itertools import product
from pathlib import Path

import jax
import numpy as np

from benchmarks import real_data
from benchmarks.records import Run, code_fingerprint, on_record, save, save_plot
from benchmarks.weights import weights

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
    "transport.epsilon": [0.1, 0.5],
}


def defaults() -> dict[str, float]:
    """Return the default of each setting that is changed: ``section.name`` and value."""
    import scsiameseclu_jax as scs

    config = scs.Config()
    sections = config.to_dict()
    # a term of weight 0 has no scale to vary, and no constraints are handed in here
    losses = {name: w for name, w in weights(config).items() if w and name != "constraints"}
    values = {f"losses.{name}": weight for name, weight in losses.items()}
    for setting in SETTINGS:
        section, name = setting.split(".")
        values[setting] = sections[section][name]
    return values


def grid(settings: list[str]) -> list[tuple[str, float]]:
    """Return what is run: the default once, then each setting at its other values."""
    points: list[tuple[str, float]] = [("default", 0.0)]
    for setting in settings:
        values = SETTINGS.get(setting) or [factor * defaults()[setting] for factor in FACTORS]
        points += [(setting, value) for value in values]
    return points


def run_one(set_name: str, setting: str, value: float, seed: int) -> Run:
    """Fit and score once."""
    from sklearn.metrics import adjusted_rand_score

    import scsiameseclu_jax as scs

    section, _, name = setting.partition(".")
    config = scs.Config.from_dict({section: {name: value}} if name else {})
    adata, labels = real_data.load(set_name)
    model = scs.SiameseClu(len(set(labels)), config=config)
    model.fit(adata, rng=seed, progress=False)
    ari = float(adjusted_rand_score(labels, model.labels))
    return {"set": set_name, "setting": setting, "value": value, "seed": seed, "ari": ari}


def curve(runs: list[Run], setting: str) -> list[tuple[float, float, int]]:
    """Return the values of a setting, the mean ARI over sets and seeds, and how many runs."""
    default = defaults()[setting]
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
        default = defaults()[setting]
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
        at = [(v, a) for v, a in zip(values, aris, strict=True) if v == defaults()[setting]]
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


def main(argv: list[str] | None = None) -> int:
    known = list(defaults())
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
    mark = code_fingerprint({})
    runs = on_record(arguments.out, {mark}, fresh=arguments.fresh)
    done = {(run["set"], run["setting"], run["value"], run["seed"]) for run in runs}
    for set_name, (setting, value) in product(sets, grid(arguments.settings)):
        for seed in range(arguments.seeds):
            if (set_name, setting, value, seed) in done:
                continue
            runs.append(run_one(set_name, setting, value, seed) | {"fingerprint": mark})
            print(runs[-1], flush=True)
            save(arguments.out, table(runs), runs=runs)
            save_plot(arguments.out, partial(plot, runs))
        jax.clear_caches()  # the next setting may compile its own programs
    print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
