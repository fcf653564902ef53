"""What do known pairs of cells give to the cells that nobody knows anything of?

``python -m benchmarks.pairs`` draws pairs at random among a tenth of the cells of each labelled
data set at hand (`real_data.py`), says of each by the labels whether both are of one type, fits
with them, with and without their loss, and scores the other nine tenths of the cells. Apart from
these pairs labels score, nothing else. It resumes: runs on record with the same code, versions and
settings are not repeated (``--fresh`` repeats all). Writes ``benchmarks/results/pairs.json`` and
``.md``.
"""

import argparse
import sys
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks import real_data
from benchmarks.records import Run, code_fingerprint, on_record, save

OUT = Path(__file__).resolve().parent / "results" / "pairs.json"
SETS = ["kang", "worm", "baron_mouse1", "kidney", "cite_cbmc"]
COUNTS = [0, 100, 1000]
SEEDS = 1
KNOWN = 0.1  # of the cells


def draw(labels: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pairs [m, 2] of a tenth of the cells, which [m] are of one type, and the rest [n]."""
    n, rng = len(labels), np.random.default_rng(seed)
    known = rng.permutation(n)[: round(KNOWN * n)]
    rows = np.array([rng.choice(known, 2, replace=False) for _ in range(count)], int).reshape(-1, 2)
    rest = np.ones(n, bool)
    rest[known] = False
    return rows, labels[rows[:, 0]] == labels[rows[:, 1]], rest


def run(set_name: str, count: int, seed: int) -> Run:
    """Fit with pairs, and with them but not their loss."""
    from sklearn.metrics import adjusted_rand_score

    import scsiameseclu_jax as scs

    adata, labels = real_data.load(set_name)
    adata.obs_names = [f"cell {i}" for i in range(adata.n_obs)]
    rows, same, rest = draw(labels, count, seed)
    names = adata.obs_names.to_numpy()[rows]
    pairs = {"must_link": names[same], "cannot_link": names[~same]}
    scores: Run = {"set": set_name, "count": count, "seed": seed}
    settings = {"": {}, "_without_loss": {"losses": {"constraints": 0.0}}}
    for suffix, setting in settings.items():
        if count == 0 and suffix:
            continue
        model = scs.SiameseClu(len(set(labels)), config=scs.Config.from_dict(setting))
        model.fit(adata, rng=seed, progress=False, **pairs)
        scores[f"ari{suffix}"] = float(adjusted_rand_score(labels[rest], model.labels[rest]))
        if count:
            told = [model.manifest[kind] for kind in pairs if kind in model.manifest]
            share = sum(part["kept"] for part in told) / sum(part["given"] for part in told)
            scores[f"kept{suffix}"] = share
    return scores


def table(runs: list[Run]) -> str:
    """Return Markdown: mean ARI of the cells that no pair names, and pairs kept by training."""
    lines = [
        f"Pairs among {KNOWN:.0%} of the cells; ARI in % of the others, mean over seeds. Kept: "
        "share of the pairs that the clusters keep.",
        "",
        "| set | seeds | pairs | ARI | without their loss | kept, % | without their loss |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(r["set"] for r in runs):
        for count in COUNTS:
            chosen = [r for r in runs if (r["set"], r["count"]) == (name, count)]
            if not chosen:
                continue
            cells = [
                f"{100 * np.mean([r[key] for r in chosen]):.1f}" if key in chosen[0] else "-"
                for key in ("ari", "ari_without_loss", "kept", "kept_without_loss")
            ]
            lines.append(f"| {name} | {len(chosen)} | {count} | {' | '.join(cells)} |")
    for count in COUNTS[1:]:
        gains = [
            r["ari"] - base["ari"]
            for r in runs
            for base in runs
            if (r["count"], base["count"]) == (count, 0)
            and (r["set"], r["seed"]) == (base["set"], base["seed"])
        ]
        if gains:
            gain = f"{100 * np.mean(gains):+.1f}"
            lines += ["", f"{count} pairs: {gain} points of ARI on average, {len(gains)} runs."]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pairs", description=__doc__)
    parser.add_argument("--sets", nargs="*", choices=list(real_data.FILES), default=SETS)
    parser.add_argument("--counts", nargs="*", type=int, default=COUNTS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--fresh", action="store_true", help="repeat runs that are on record")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)
    mark = code_fingerprint({"known": KNOWN})
    runs = on_record(arguments.out, {mark}, fresh=arguments.fresh)
    done = {(r["set"], r["count"], r["seed"]) for r in runs}
    sets = [name for name in arguments.sets if name in real_data.available()]
    for seed, name, count in product(range(arguments.seeds), sets, arguments.counts):
        if (name, count, seed) not in done:
            runs.append(run(name, count, seed) | {"fingerprint": mark})
            print(runs[-1], flush=True)
            save(arguments.out, table(runs), runs=runs)
    print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
