"""The command line: ``scsiameseclu demo`` and ``scsiameseclu cluster``.

Results go to standard output, everything else to standard error. Exit codes: 0 for success, 1 for a
failure while running, 2 for wrong usage or input, 130 if interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scsiameseclu_jax.config import Config

__all__ = ["main"]

_NAME = "scsiameseclu"
_OUTPUTS = (".h5ad", ".zarr")
_PLOTS = (".png", ".pdf", ".svg")
_BAD_INPUT = (ValueError, KeyError, TypeError, OSError)
# RuntimeError is what jax raises where memory runs out.
_FAILURES = (FloatingPointError, MemoryError, RuntimeError)


class _WriteError(Exception):
    """A result could not be written."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    argv
        Words after the program's name; None takes those of the process.

    Raises
    ------
    SystemExit
        Of code 2 for wrong usage, 0 after ``--help`` and ``--version``.
    """
    args = _parser().parse_args(argv)
    try:
        with _logging(quiet=getattr(args, "quiet", False)), warnings.catch_warnings():
            # What dependencies tell developers is not for those who run a program.
            for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            args.command(args)
            sys.stdout.flush()
    except KeyboardInterrupt:
        code = _complain("interrupted", 130)
        if argv is None:
            # Not through Python's own end, which crashes under a computation of jax's threads.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        return code
    except BrokenPipeError:  # Who read the results has gone, for example `head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (_WriteError, *_FAILURES) as error:
        return _complain(f"error: {_message(error)}", 1)
    except _BAD_INPUT as error:
        return _complain(f"error: {_message(error)}", 2)
    return 0


def _complain(text: str, code: int) -> int:
    print(f"{_NAME}: {text}", file=sys.stderr)
    return code


def _message(error: BaseException) -> str:
    # The text of a KeyError is the repr of its message.
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(text).split()) or type(error).__name__


# Usage.

_CACHE_HELP = "keep compiled programs there: later runs on data of like size start sooner"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_NAME, description="Cluster single cells from raw counts, without labels."
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {version('scsiameseclu-jax')}"
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_cluster(commands)
    return parser


def _add_demo(commands: Any) -> None:
    text = "Cluster 700 bundled blood cells; needs no download."
    demo = commands.add_parser("demo", help=text, description=text)
    demo.set_defaults(command=_demo)
    demo.add_argument(
        "--out",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="folder for demo.h5ad and demo.png, which are replaced (default: the current one)",
    )
    demo.add_argument(
        "--n-clusters", type=int, metavar="K", help="default: number of bundled cell types"
    )
    demo.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    demo.add_argument("--cache", type=Path, metavar="DIR", help=_CACHE_HELP)


def _add_cluster(commands: Any) -> None:
    text = "Cluster the cells of a file of raw counts and write them with their clusters."
    cluster = commands.add_parser("cluster", help=text, description=text)
    cluster.set_defaults(command=_cluster)
    add = cluster.add_argument
    formats = ".h5ad, zarr, 10x .h5 or matrix folder, or .h5 with X or exprs"
    add("source", type=Path, metavar="IN", help=formats)
    add("out", type=Path, metavar="OUT", help=".h5ad or .zarr")
    add("--n-clusters", type=int, required=True, metavar="K", help="number of clusters, at least 2")
    add("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    add(
        "--layer",
        default="counts",
        metavar="NAME",
        help="layer of raw counts, or X (default: the layer 'counts' if there is one, else X)",
    )
    add("--use-rep", metavar="KEY", help="features in obsm to use instead of principal components")
    add("--key-added", default="siameseclu", metavar="NAME", help="default: %(default)s")
    add("--config", type=Path, metavar="FILE.toml", help="all other settings, a table per section")
    add(
        "--labels",
        metavar="COLUMN",
        help="known types in obs: kept away from training, then used to print scores",
    )
    add("--cache", type=Path, metavar="DIR", help=_CACHE_HELP)
    add("--plot", type=Path, metavar="FILE", help="draw the clusters: .png, .pdf or .svg")
    add("--overwrite", action="store_true", help="replace OUT, and the plot, if there already")
    add("--quiet", action="store_true", help="neither progress nor log, only warnings and results")


# Commands.


def _demo(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    out, plot = args.out / "demo.h5ad", args.out / "demo.png"
    _check_target(out, _OUTPUTS, overwrite=True)
    _check_target(plot, _PLOTS, overwrite=True)

    import scsiameseclu_jax as scs

    _use_cache(args.cache)
    adata = scs.datasets.pbmc68k_reduced()
    n_types = adata.obs["cell_type"].nunique()
    k = n_types if args.n_clusters is None else args.n_clusters
    why = "K given: the number of bundled types" if args.n_clusters is None else "K given"
    started = time.perf_counter()
    with _put_aside(adata, "cell_type") as labels:
        scs.tl.siameseclu(adata, k, rng=args.seed)
    seconds = time.perf_counter() - started
    figure = scs.pl.overview(adata, labels="cell_type")
    _write(out, lambda path: _save(adata, path))
    _write(plot, lambda path: figure.savefig(path, dpi=150))
    _print_table(adata, "siameseclu", why, labels, seconds)
    print(f"wrote {out}\nwrote {plot}")


def _cluster(args: argparse.Namespace) -> None:
    targets = [(args.out, _OUTPUTS)] + ([] if args.plot is None else [(args.plot, _PLOTS)])
    for target, suffixes in targets:
        _check_target(target, suffixes, overwrite=args.overwrite)
        _check_apart(args.source, target)

    import scsiameseclu_jax as scs

    _use_cache(args.cache)
    config: Config | None = None if args.config is None else scs.Config.from_toml(args.config)
    adata = scs.datasets.read(args.source)
    key = args.key_added
    if args.labels is not None:
        _check_labels(adata, args.labels, key)
    started = time.perf_counter()
    with _put_aside(adata, args.labels) as labels:
        scs.tl.siameseclu(
            adata,
            args.n_clusters,
            layer=None if args.layer == "X" and "X" not in adata.layers else args.layer,
            use_rep=args.use_rep,
            rng=args.seed,
            key_added=key,
            config=config,
            progress=False if args.quiet else None,
        )
    seconds = time.perf_counter() - started
    _write(args.out, lambda path: _save(adata, path))
    _print_table(adata, key, "K given", labels, seconds)
    print(f"wrote {args.out}")
    if args.plot is not None:
        figure = scs.pl.overview(adata, key, labels=args.labels)
        _write(args.plot, lambda path: figure.savefig(path, dpi=150))
        print(f"wrote {args.plot}")


def _use_cache(folder: Path | None) -> None:
    if folder is None:
        return
    import jax

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"Expected `--cache` to be a folder to write to, found {str(folder)!r}: {error}."
        raise ValueError(msg) from error
    jax.config.update("jax_compilation_cache_dir", str(folder.resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@contextmanager
def _put_aside(adata: AnnData, column: str | None) -> Iterator[pd.Series | None]:
    """Take a column out of ``obs`` for as long as the context lasts, so that nothing can see it."""
    if column is None:
        yield None
        return
    place = adata.obs.columns.get_loc(column)
    labels = adata.obs.pop(column)
    yield labels
    adata.obs.insert(place, column, labels)


def _print_table(
    adata: AnnData, key: str, why: str, labels: pd.Series | None, seconds: float
) -> None:
    rows = [
        ("cells", f"{adata.n_obs}"),
        ("genes", f"{adata.n_vars}"),
        ("clusters", f"{adata.obs[key].nunique()} ({why})"),
    ]
    if labels is not None:
        from scsiameseclu_jax.metrics import scores

        known = labels.notna().to_numpy()
        values = scores(labels[known], adata.obs[key][known])
        rows += [(name, f"{100 * values[name]:.2f} %") for name in ("ACC", "NMI", "ARI")]
        note = f"after training, against the {labels.nunique()} types of {labels.name!r}"
        if not known.all():
            note += f", without {int((~known).sum())} cells that have none"
        rows.append(("scored", note))
    rows.append(("seconds", f"{seconds:.1f}"))
    print("\n".join(f"{name:<10}{value}" for name, value in rows))


# Checks that come before training.


def _check_target(path: Path, suffixes: tuple[str, ...], *, overwrite: bool) -> None:
    if path.suffix not in suffixes:
        msg = f"Expected an output that ends in {' or '.join(suffixes)}, found {str(path)!r}."
        raise ValueError(msg)
    folder = path.resolve().parent
    if not folder.is_dir():
        msg = f"Expected the folder of {str(path)!r} to exist; create it first."
        raise FileNotFoundError(msg)
    if not os.access(folder, os.W_OK | os.X_OK):
        msg = f"Expected the folder of {str(path)!r} to be writable."
        raise PermissionError(msg)
    if not path.exists():
        return
    if not overwrite:
        msg = f"Expected {str(path)!r} not to exist; give another name, or --overwrite."
        raise ValueError(msg)
    # What is replaced has to be of the same kind: not a folder of anything else.
    marks = (".zgroup", ".zattrs", "zarr.json")
    if path.suffix == ".zarr" and not any((path / mark).is_file() for mark in marks):
        msg = f"Expected {str(path)!r} to be a zarr store to replace, found something else."
        raise ValueError(msg)
    if path.suffix != ".zarr" and not path.is_file():
        msg = f"Expected {str(path)!r} to be a file to replace, found something else."
        raise ValueError(msg)


def _check_apart(source: Path, target: Path) -> None:
    one, other = source.resolve(), target.resolve()
    if one == other or other in one.parents or (one.exists() and _same(one, other)):
        msg = f"Expected an output apart from the input, found {str(target)!r} for both."
        raise ValueError(msg)


def _same(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)


def _check_labels(adata: AnnData, column: str, key: str) -> None:
    if column not in adata.obs:
        found = [str(name) for name in adata.obs.columns]
        msg = f"Expected --labels to be a column of obs, one of {found}, found {column!r}."
        raise KeyError(msg)
    if column in (key, f"{key}_confidence"):
        msg = f"Expected --labels to be another column than the result, found {column!r} for both."
        raise ValueError(msg)
    if adata.obs[column].isna().all():
        msg = f"Expected --labels to name a column with values, found {column!r} empty."
        raise ValueError(msg)


# Output.


def _save(adata: AnnData, path: Path) -> None:
    with warnings.catch_warnings():
        # What anndata says of the formats of its next releases.
        warnings.simplefilter("ignore", UserWarning)
        (adata.write_zarr if path.suffix == ".zarr" else adata.write_h5ad)(path)


def _write(path: Path, save: Callable[[Path], None]) -> None:
    """Write under a temporary name beside `path`, then replace it: all of it, or nothing."""
    target = path.resolve()
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.stem}.", dir=target.parent))
        new, old = folder / f"new{target.suffix}", folder / f"old{target.suffix}"
        try:
            save(new)
            _replace(new, target, old)
        finally:
            # What was there stays, even where it could not be put back.
            if target.exists() or not old.exists():
                shutil.rmtree(folder, ignore_errors=True)
    except (*_BAD_INPUT, *_FAILURES) as error:
        msg = f"Could not write {str(path)!r}: {_message(error)}"
        raise _WriteError(msg) from error


def _replace(new: Path, target: Path, old: Path) -> None:
    try:
        if target.is_dir():  # A folder can only be replaced by moving it out of the way.
            target.rename(old)
        new.replace(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise


# Logging.


@contextmanager
def _logging(*, quiet: bool) -> Iterator[None]:
    """Send the package's log to standard error, above a progress bar if there is one."""
    from tqdm import tqdm

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tqdm.write(self.format(record), file=sys.stderr)

    handler = Handler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("scsiameseclu_jax")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
