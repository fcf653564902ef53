"""The command line: ``scsiameseclu demo`` and ``scsiameseclu cluster IN OUT``.

Exit codes: 0 done, 1 failed while running, 2 bad input or usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from matplotlib.figure import Figure

_BAD_INPUT = (ValueError, KeyError, TypeError, OSError)
_FAILED = (FloatingPointError, RuntimeError, MemoryError)


def main(argv: list[str] | None = None) -> int:
    """Run the command line on `argv` (of the process if None) and return the exit code."""
    arguments = _parser().parse_args(argv)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("scsiameseclu_jax")
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if arguments.quiet else logging.INFO)
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:
        print("scsiameseclu: interrupted, nothing was written", file=sys.stderr)
        return 130
    except _FAILED as error:
        print(f"scsiameseclu: failed: {error}", file=sys.stderr)
        return 1
    except _BAD_INPUT as error:
        # str() of a KeyError is the repr of its message
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"scsiameseclu: error: {text}", file=sys.stderr)
        return 2
    finally:
        logger.removeHandler(handler)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scsiameseclu", description="Cluster single cells from raw counts, without labels."
    )
    parser.add_argument("--version", action="version", version=version("scsiameseclu-jax"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="cluster 700 real blood cells that scanpy bundles")
    demo.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="default: here")
    demo.add_argument("--n-clusters", type=int, metavar="K", help="default: as many as cell types")
    demo.set_defaults(run=_demo)

    cluster = commands.add_parser("cluster", help="cluster the cells of a file")
    cluster.add_argument("source", type=Path, metavar="IN", help="counts: .h5ad, zarr, 10x, .h5")
    cluster.add_argument("target", type=Path, metavar="OUT", help="ends in .h5ad or .zarr")
    cluster.add_argument("--n-clusters", type=int, required=True, metavar="K")
    cluster.add_argument("--layer", default="counts", help="default: counts if there, else X")
    cluster.add_argument("--use-rep", metavar="KEY", help="features in obsm, instead of PCA")
    cluster.add_argument("--key-added", default="siameseclu", metavar="NAME")
    cluster.add_argument("--config", type=Path, metavar="TOML", help="settings to change")
    cluster.add_argument("--labels", metavar="COLUMN", help="for scoring, after training only")
    cluster.add_argument("--plot", type=Path, metavar="PNG", help="picture of the clusters")
    cluster.add_argument("--overwrite", action="store_true", help="replace OUT if it is there")
    cluster.set_defaults(run=_cluster)
    for command in (demo, cluster):
        command.add_argument("--seed", type=int, default=0, help="default: 0")
        command.add_argument("--quiet", action="store_true", help="warnings and results only")
    return parser


def _demo(arguments: argparse.Namespace) -> None:
    target, picture = arguments.out / "demo.h5ad", arguments.out / "demo.png"
    _check_folder(target)
    from scsiameseclu_jax import datasets, pl, tl

    adata = datasets.pbmc68k_reduced()
    truth = adata.obs.pop("cell_type")
    k = truth.nunique() if arguments.n_clusters is None else arguments.n_clusters
    started = time.perf_counter()
    tl.siameseclu(adata, k, rng=arguments.seed, progress=_progress(arguments))
    seconds = time.perf_counter() - started
    adata.obs["cell_type"] = truth
    figure = pl.overview(adata, labels="cell_type")
    _report(adata, "siameseclu", truth.to_numpy(), seconds)
    _write(adata, target)
    _save(figure, picture)
    print(f"written: {target}, {picture}")


def _cluster(arguments: argparse.Namespace) -> None:
    source, target, key = arguments.source, arguments.target, arguments.key_added
    if target.suffix not in {".h5ad", ".zarr"}:
        msg = f"Expected OUT to end in .h5ad or .zarr, found {str(target)!r}."
        raise ValueError(msg)
    if target.exists() and not arguments.overwrite:
        msg = f"Expected OUT not to exist, found {str(target)!r}; pass --overwrite to replace it."
        raise FileExistsError(msg)
    for path in (target, arguments.plot):
        if path is not None:
            _check_folder(path)
    if target.exists() and source.exists() and target.samefile(source):
        msg = f"Expected OUT to differ from IN, found {str(source)!r} twice."
        raise ValueError(msg)
    from scsiameseclu_jax import datasets, pl, tl
    from scsiameseclu_jax.config import Config

    config = Config.from_toml(arguments.config) if arguments.config else Config()
    adata = datasets.read(source)
    columns, truth = list(adata.obs), None
    if arguments.labels is not None:
        if arguments.labels not in adata.obs:
            msg = f"Expected --labels to be one of {columns}, found {arguments.labels!r}."
            raise KeyError(msg)
        truth = adata.obs.pop(arguments.labels)
    started = time.perf_counter()
    tl.siameseclu(
        adata,
        arguments.n_clusters,
        layer=arguments.layer,
        use_rep=arguments.use_rep,
        rng=arguments.seed,
        key_added=key,
        config=config,
        progress=_progress(arguments),
    )
    seconds = time.perf_counter() - started
    if truth is not None and arguments.labels not in adata.obs:
        adata.obs[arguments.labels] = truth
        adata.obs = adata.obs[[*columns, *(name for name in adata.obs if name not in columns)]]
    figure = pl.overview(adata, key, labels=arguments.labels) if arguments.plot else None
    _write(adata, target)
    if figure is not None:
        _save(figure, arguments.plot)
    _report(adata, key, None if truth is None else truth.to_numpy(), seconds)
    print(f"written: {', '.join(str(p) for p in (target, arguments.plot) if p is not None)}")


def _progress(arguments: argparse.Namespace) -> bool | None:
    return False if arguments.quiet else None


def _report(adata: AnnData, key: str, truth: np.ndarray | None, seconds: float) -> None:
    rows = [
        ("cells", f"{adata.n_obs}"),
        ("genes", f"{adata.n_vars}"),
        ("clusters", f"{adata.obs[key].nunique()} (K was given)"),
    ]
    if truth is not None:
        from scsiameseclu_jax import metrics

        scores = metrics.scores(truth, adata.obs[key].to_numpy())
        rows += [(name, f"{100 * scores[name]:.1f} %") for name in ("ACC", "NMI", "ARI")]
    rows.append(("seconds", f"{seconds:.1f}"))
    print("\n".join(f"{name:>10}  {value}" for name, value in rows))


def _check_folder(path: Path) -> None:
    """Find out before training whether a file can be written."""
    folder = path.parent
    if not folder.is_dir():
        msg = f"Expected an existing folder for {path.name!r}, found no {str(folder)!r}."
        raise FileNotFoundError(msg)
    if not os.access(folder, os.W_OK | os.X_OK):
        msg = f"Expected a folder that can be written to, found {str(folder)!r}."
        raise PermissionError(msg)


def _write(adata: AnnData, target: Path) -> None:
    """Write under a temporary name beside the target, then rename: all or nothing."""
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as name:
        made = Path(name) / target.name
        if target.suffix == ".zarr":
            adata.write_zarr(made)
        else:
            adata.write_h5ad(made)
        if target.is_dir():  # a folder can not be replaced in one step: move the old one aside
            target.rename(Path(name) / "old")
        elif made.is_dir() and target.exists():
            target.unlink()
        made.replace(target)


def _save(figure: Figure, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as name:
        made = Path(name) / "picture.png"
        figure.savefig(made, dpi=150, bbox_inches="tight")
        shutil.move(made, target)
