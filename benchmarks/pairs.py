"""What do known pairs of cells give to the cells that nobody knows anything of?

``python -m benchmarks.pairs`` draws pairs at random among a tenth of the cells of each labelled
data set at hand (`real_data.py`), says of each by the labels whether both are of one type, fits
with them, with and without their loss, and scores the other nine tenths of the cells. Apart from
these pairs labels score, nothing else. It resumes: runs on record with the same code, versions and
settings are not repeated (``--fresh`` repeats all). Writes ``benchmarks/results/pairs.json`` and
``.md``.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import real_data
from benchmarks.records import code_fingerprint, versions, write

OUT = Path(__file__).resolve().parent / "results" / "pairs.json"
SETS = ["kang", "worm", "baron_mouse1", "kidney", "cite_cbmc"]
COUNTS = [0, 100, 1000]
SEEDS = 1
KNOWN = 0.1  # of the cells

Run = dict[str, Any]


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
    from dataclasses import replace

    from sklearn.metrics import adjusted_rand_score

    import scsiameseclu_jax as scs
    import scsiameseclu_jax.functional as F
    from scsiameseclu_jax.preprocessing import constraints as pairs
    from scsiameseclu_jax.preprocessing.prepare import prepare
    from scsiameseclu_jax.training import stages as fitting

    adata, labels = real_data.load(set_name)
    adata.obs_names = [f"cell {i}" for i in range(adata.n_obs)]
    rows, same, rest = draw(labels, count, seed)
    names, k = adata.obs_names.to_numpy()[rows], len(set(labels))
    config = scs.Config()
    without = replace(config, losses=replace(config.losses, pairs=0.0))
    prepared = prepare(adata, must_link=names[same], cannot_link=names[~same], config=config)
    given = prepared.pairs
    start = fitting.pretrain(prepared, k, config=config, seed=seed, progress=False)
    found: Run = {"set": set_name, "count": count, "seed": seed, "fingerprint": fingerprint()}
    for name, setting in {"ari": config, "ari_without_loss": without}.items():
        if count == 0 and setting is without:
            continue
        made = fitting.fit(prepared, k, config=setting, seed=seed, pretrained=start)
        proba = F.predict(made.state, made.data, config=setting).proba
        clusters = np.asarray(proba).argmax(axis=1)[: len(labels)]
        free = rest[prepared.order]
        found[name] = float(adjusted_rand_score(labels[prepared.order][free], clusters[free]))
        if given is not None:
            kept = f"kept_{name.removeprefix('ari_')}" if setting is without else "kept"
            found[kept] = float(1 - pairs.broken(clusters, given).mean())
    return found


def fingerprint() -> str:
    """Return a hash of all that a run depends on but its data, count and seed."""
    import scsiameseclu_jax as scs

    return code_fingerprint(scs.Config().to_dict() | {"known": KNOWN})


def table(runs: list[Run]) -> str:
    """Return Markdown: mean ARI of the cells that no pair names, and pairs kept by training."""
    lines = [
        f"Pairs among {KNOWN:.0%} of the cells; ARI in % of the others, mean over seeds. Kept: "
        "share of the pairs that clusters keep before those of the named cells are made to.",
        "",
        "| set | seeds | pairs | ARI | without their loss | kept, % | without their loss |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(r["set"] for r in runs):
        for count in COUNTS:
            own = [r for r in runs if (r["set"], r["count"]) == (name, count)]
            if not own:
                continue
            cells = [
                f"{100 * np.mean([r[key] for r in own]):.1f}" if key in own[0] else "-"
                for key in ("ari", "ari_without_loss", "kept", "kept_without_loss")
            ]
            lines.append(f"| {name} | {len(own)} | {count} | {' | '.join(cells)} |")
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


def save(runs: list[Run], out: Path) -> None:
    """Write runs and table."""
    write(out, json.dumps({"versions": versions(), "runs": runs}, indent=1))
    write(out.with_suffix(".md"), table(runs))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pairs", description=__doc__)
    parser.add_argument("--sets", nargs="*", choices=list(real_data.FILES), default=SETS)
    parser.add_argument("--counts", nargs="*", type=int, default=COUNTS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--fresh", action="store_true", help="repeat runs that are on record")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)
    runs: list[Run] = []
    if arguments.out.is_file() and not arguments.fresh:
        runs = json.loads(arguments.out.read_text())["runs"]
    current = fingerprint()
    there = {(r["set"], r["count"], r["seed"]) for r in runs if r["fingerprint"] == current}
    for seed in range(arguments.seeds):
        for name in arguments.sets:
            for count in arguments.counts:
                if name not in real_data.available() or (name, count, seed) in there:
                    continue
                runs = [r for r in runs if (r["set"], r["count"], r["seed"]) != (name, count, seed)]
                runs.append(run(name, count, seed))
                print(runs[-1], flush=True)
                save(runs, arguments.out)
    print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
