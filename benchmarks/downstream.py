"""What are the clusters good for, downstream?

``python -m benchmarks.downstream`` clusters labelled cells (the number of types given), names the
clusters as the paper's protocol does, by their cells (Hungarian, one to one) and by the overlap of
their top 100 genes with those of the known types (many to one), and blood cells by the bundled
marker list too. Then it runs the benchmarks of annotation by markers, of classification and label
transfer, and of trajectories, and prints their tables, which say whether each bar is met. Labels
name and score, nothing else. It resumes; ``--fresh`` repeats the clusterings; ``--no-others``
leaves the other benchmarks out. Writes ``benchmarks/results/downstream.json``, ``.md`` and
``.png``.
"""

import argparse
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import markers, real_data
from benchmarks.records import ROOT, Run, code_fingerprint, on_record, save, save_plot

OUT = ROOT / "benchmarks" / "results" / "downstream.json"
SETS = ["pbmc68k_reduced", "pbmc3k", "kang", "baron_mouse1", "worm", "pbmc4k"]
OTHERS = ["markers", "classification", "trajectory"]


def run(name: str) -> Run:
    """Cluster one set, and name the clusters in each way."""
    import scsiameseclu_jax as scs

    adata, labels = markers.load(name) if name in markers.NAMES else real_data.load(name)
    model = scs.SiameseClu(len(set(labels))).fit(adata, progress=False)
    clusters = model.labels.astype(str)
    row = {"set": name, "clusters": f"siameseclu, {len(set(clusters))}"}
    row |= markers.overlap(adata, clusters, labels)
    if name in markers.NAMES:
        row |= markers.annotation(name, adata, clusters, labels)
    pairs = Counter(zip(clusters.tolist(), labels.tolist(), strict=True))
    return row | {"pairs": sorted(pairs), "counts": [pairs[pair] for pair in sorted(pairs)]}


def picture(runs: list[Run], path: Path) -> None:
    """Draw each set's clusters against its types."""
    import pandas as pd
    from anndata import AnnData
    from matplotlib.figure import Figure

    import scsiameseclu_jax as scs

    columns = 3
    figure = Figure(figsize=(6.4 * columns, 5.2 * -(-len(runs) // columns)), layout="constrained")
    for i, one in enumerate(runs):
        ax = figure.add_subplot(-(-len(runs) // columns), columns, i + 1)
        pairs = pd.DataFrame(one["pairs"], columns=["cluster", "type"], dtype="category")
        cells = pairs.loc[pairs.index.repeat(one["counts"])].reset_index(drop=True)
        table = AnnData(obs=cells.set_index(cells.index.astype(str)))
        scs.pl.cluster_types(table, "cluster", "type", ax=ax)
        ax.set_title(one["set"])
    figure.savefig(path, dpi=80)


def others() -> list[str]:
    """Run the other benchmarks, each in a process of its own; return what they print."""
    printed = []
    for name in OTHERS:
        print(f"benchmarks.{name} ...", flush=True)
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=ROOT, check=False)
        table = OUT.with_name(f"{name}.md")
        failed = f"failed with exit status {done.returncode}\n" if done.returncode else ""
        figures = table.read_text(encoding="utf-8") if table.exists() else "no figures\n"
        printed.append(f"## {name}\n\n{failed}{figures}")
    return printed


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.downstream", description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--no-others", action="store_true", help="clusters only")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args(argv)
    here = {*real_data.available(), "pbmc68k_reduced"}
    mark = code_fingerprint({})
    runs = on_record(arguments.out, {mark}, fresh=arguments.fresh)
    for name in arguments.sets:
        if name not in here or any(one["set"] == name for one in runs):
            continue
        runs.append(run(name) | {"fingerprint": mark})
        save(arguments.out, markers.table(runs), runs=runs)
    runs.sort(key=lambda one: SETS.index(one["set"]))
    text = markers.table(runs)
    share = np.mean([one["marker_overlap"] - one["best_mapping"] for one in runs])
    text += f"\nMarker overlap less best mapping, mean: {100 * share:+.1f} points.\n"
    save(arguments.out, text, runs=runs)
    save_plot(arguments.out, partial(picture, runs))
    tables = [] if arguments.no_others else others()
    print("\n\n".join([f"## clusters\n\n{text}", *tables]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
