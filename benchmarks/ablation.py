"""Does each part of the method earn its place?

``python -m benchmarks.ablation`` fits every labelled data set at hand (`real_data.py`) with all
terms (``Config.paper()``), then with each part left out in turn, with several seeds, and
compares the ARI on the same set and seed. The first of them are the paper's own ablations. The
defaults leave out what does not help. What contrast is made of, the last rows, is compared with the
default, by its embedding (``benchmarks.embedding``): clusters do not depend on it. Labels score,
nothing else. It resumes: runs on record with
the same code, versions and settings are not repeated (``--fresh`` repeats all). Writes
``benchmarks/results/ablation.json``, ``.md`` and ``.png``.
"""

import argparse
import sys
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from benchmarks import embedding, real_data
from benchmarks.records import Run, code_fingerprint, on_record, save, save_plot

if TYPE_CHECKING:
    from scsiameseclu_jax import Config

OUT = Path(__file__).resolve().parent / "results" / "ablation.json"
SEEDS = 3
BASE, LEAN = "all terms", "all that the default leaves out"
LEANER = "that, and local propagation"

_NO_C = {"cell_correlation_features": 0.0, "cell_correlation_graph": 0.0}
_NO_REC = {"features": 0.0, "propagated_features": 0.0, "adjacency": 0.0}
_PLAIN = {"gate": "fixed", "local": False, "global_attention": False}
_NARROW = {"feature_layers": [128], "graph_layers": [64]}
_NO_STEPS = {"feature_steps": 0, "graph_steps": 0, "joint_steps": 0, "steps": 0}

VARIANTS: dict[str, dict[str, Any]] = {
    BASE: {},
    LEAN: {},  # the default itself
    LEANER: {"fusion": {"local": False}},
    "no siamese fusion": {"fusion": _PLAIN, "losses": {**_NO_C, "latent_correlation": 0.0}},
    "no ZINB": {"losses": {"zinb": 0.0}},
    "no clustering loss": {"losses": {"clustering": 0.0}},
    "no cell correlation (C)": {"losses": _NO_C},
    "no latent correlation (G)": {"losses": {"latent_correlation": 0.0}},
    "no propagation divergence (R)": {"losses": {"propagation": 0.0}},
    "no reconstruction (REC)": {"losses": _NO_REC},
    "no adjacency reconstruction": {"losses": {"adjacency": 0.0}},
    "no gene noise": {"augmentation": {"feature_noise": 0.0}},
    "no edge removal": {"augmentation": {"edge_removal": 0.0}},
    "no diffusion": {"augmentation": {"diffusion": False}},
    "no attention": {"fusion": {"global_attention": False}},
    "no linear path": {"network": {"linear_path": False}},
    "the default's widths": {"network": _NARROW},
    "no training stage": {"training": {"steps": 0}},
    "nothing learned": {"training": _NO_STEPS},
}
CONTRAST: dict[str, dict[str, Any]] = {
    "no contrast": {"training": {"contrast_steps": 0}},
    "contrast: 200 steps": {"training": {"contrast_steps": 200}},
    "contrast: 2000 steps": {"training": {"contrast_steps": 2000}},
    "contrast: temperature 0.2": {"training": {"contrast_temperature": 0.2}},
    "contrast: temperature 1": {"training": {"contrast_temperature": 1.0}},
    "contrast: no dropout": {"training": {"contrast_dropout": 0.0}},
    "contrast: dropout 0.4": {"training": {"contrast_dropout": 0.4}},
    "contrast: two hidden layers": {"network": {"projection_layers": [256, 256]}},
    "contrast: 50 latent dimensions": {"network": {"n_latent": 50}},
    "contrast: no linear path": {"network": {"linear_path": False}},
}
VARIANTS |= CONTRAST
EMBEDDING = ["probe_20", "balanced_20", "purity", "leiden", "kmeans"]


def config_of(variant: str) -> "Config":
    """Return all terms but what the variant leaves out, or the default with what it changes."""
    import scsiameseclu_jax as scs

    start = scs.Config() if variant in {LEAN, LEANER, *CONTRAST} else scs.Config.paper()
    values = start.to_dict()
    for section, settings in VARIANTS[variant].items():
        values[section] |= settings
    return scs.Config.from_dict(values)


def run_one(set_name: str, variant: str, seed: int) -> Run:
    """Fit and score once."""
    from sklearn.metrics import adjusted_rand_score

    import scsiameseclu_jax as scs

    adata, labels = real_data.load(set_name)
    model = scs.SiameseClu(len(set(labels)), config=config_of(variant))
    model.fit(adata, rng=seed, progress=False)
    ari = float(adjusted_rand_score(labels, model.labels))
    scores = embedding.score(model.get_latent_representation(), labels, seed)
    return {"set": set_name, "variant": variant, "seed": seed, "ari": ari, "embedding": scores}


def changes(runs: list[Run], variant: str) -> tuple[np.ndarray, dict[str, float]]:
    """Return the change in ARI against all terms: mean over sets for each seed, and by set."""
    base = {(r["set"], r["seed"]): r["ari"] for r in runs if r["variant"] == BASE}
    pairs = [
        (r["set"], r["seed"], r["ari"] - base[r["set"], r["seed"]])
        for r in runs
        if r["variant"] == variant and (r["set"], r["seed"]) in base
    ]
    seeds = sorted({seed for _, seed, _ in pairs})
    sets = dict.fromkeys(name for name, _, _ in pairs)
    by_seed = np.array([np.mean([d for _, s, d in pairs if s == seed]) for seed in seeds])
    return by_seed, {name: float(np.mean([d for n, _, d in pairs if n == name])) for name in sets}


def learned(runs: list[Run]) -> list[str]:
    """Return a Markdown table: what the embedding is worth, and its change from the default's."""
    rows = [run | {"representation": run["variant"]} for run in runs if "embedding" in run]
    rows = [run | {"scores": run["embedding"]} for run in rows]
    names = [LEAN, *(name for name in CONTRAST if any(r["variant"] == name for r in rows))]
    if len(names) == 1:
        return []
    return [
        "",
        "The embedding, means over sets in %; in brackets the change from the default, ± its "
        "paired standard error over sets.",
        "",
        f"| changed | runs | {' | '.join(embedding.SCORES[score] for score in EMBEDDING)} |",
        "| --- | --- |" + " --- |" * len(EMBEDDING),
        *(
            f"| {'the default' if name == LEAN else name} | {count(rows, name)} | "
            + " | ".join(embedding.cell(rows, name, score, LEAN) for score in EMBEDDING)
            + " |"
            for name in names
        ),
    ]


def count(runs: list[Run], variant: str) -> int:
    return sum(run["variant"] == variant for run in runs)


def table(runs: list[Run]) -> str:
    """Return a Markdown table: points of ARI lost or won by leaving a part out."""
    sets = list(dict.fromkeys(r["set"] for r in runs))
    base = [r["ari"] for r in runs if r["variant"] == BASE]
    if not base:  # variants of contrast alone
        return "\n".join(learned(runs)).lstrip() + "\n"
    lines = [
        f"All terms: mean ARI {100 * np.mean(base):.1f} over {len(sets)} sets. Below, the change "
        "in points of ARI when a part is left out (below 0: the part helps), ± its standard "
        "deviation over seeds, if there are several. Means are over the runs there are.",
        "",
        f"| left out | runs | mean | {' | '.join(sets)} |",
        "| --- | --- | --- |" + " --- |" * len(sets),
    ]
    for variant in VARIANTS:
        by_seed, by_set = changes(runs, variant)
        if variant == BASE or variant in CONTRAST or not by_seed.size:
            continue
        cells = [f"{100 * by_set[name]:+.1f}" if name in by_set else "-" for name in sets]
        spread = f" ± {100 * by_seed.std():.1f}" if len(by_seed) > 1 else ""
        mean = f"{100 * by_seed.mean():+.1f}{spread}"
        lines.append(f"| {variant} | {count(runs, variant)} | {mean} | {' | '.join(cells)} |")
    return "\n".join([*lines, *learned(runs)]) + "\n"


def plot(runs: list[Run], path: Path) -> None:
    """Draw the mean change of each variant, with its seeds."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    points = {v: 100 * changes(runs, v)[0] for v in VARIANTS if v not in {BASE, *CONTRAST}}
    points = {name: values for name, values in points.items() if values.size}
    figure, ax = plt.subplots(figsize=(7, 0.35 * len(points) + 1.2), layout="constrained")
    for i, (name, values) in enumerate(points.items()):
        ax.barh(i, values.mean(), color="0.75")
        marks = {"markersize": 5, "markeredgecolor": "k", "markerfacecolor": "white"}
        ax.plot(values, np.full(len(values), i), "o", markeredgewidth=0.9, **marks)
        place = ax.get_yaxis_transform()
        told = f"{values.mean():+.1f}, {count(runs, name)} runs"
        ax.text(1.02, i, told, transform=place, va="center", fontsize="small")
    ax.axvline(0, color="k", linewidth=0.8)
    ax.set_yticks(range(len(points)), list(points))
    ax.set_ylim(len(points) - 0.4, -0.6)
    ax.grid(visible=True, axis="x", alpha=0.3)
    ax.set_xlabel("change in ARI when left out, points; left of 0: the part helps\n(dots: seeds)")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=list(real_data.FILES))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)
    sets = arguments.sets or real_data.main_sets()
    if not sets:
        parser.error(f"no data found; name their folder in {real_data.VARIABLE}")
    bases = [LEAN] if set(arguments.variants) <= {LEAN, *CONTRAST} else [BASE]
    variants = [*bases, *(v for v in arguments.variants if v not in bases)]
    marks = {variant: code_fingerprint(config_of(variant).to_dict()) for variant in VARIANTS}
    runs = on_record(arguments.out, set(marks.values()), fresh=arguments.fresh)
    done = {(run["set"], run["variant"], run["seed"]) for run in runs}
    for set_name, variant in product(sets, variants):
        for seed in range(arguments.seeds):
            if (set_name, variant, seed) in done:
                continue
            runs.append(run_one(set_name, variant, seed) | {"fingerprint": marks[variant]})
            print(runs[-1], flush=True)
            save(arguments.out, table(runs), runs=runs)
            save_plot(arguments.out, partial(plot, runs))
        jax.clear_caches()  # the next variant compiles its own programs
    print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
