"""How the command line reads cells, into memory or in blocks as they are needed; how it writes."""

from __future__ import annotations

import logging
import os
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from scsiameseclu_jax import datasets
from scsiameseclu_jax.config import Config
from scsiameseclu_jax.datasets.stores import size_of
from scsiameseclu_jax.files import write_anndata, write_whole
from scsiameseclu_jax.files.places import check_space
from scsiameseclu_jax.files.stores import copy_with_results, write_results
from scsiameseclu_jax.inputs import free_memory
from scsiameseclu_jax.training.memory import estimate_memory

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)


def read(args: Namespace, config: Config | None = None) -> AnnData:
    """Read the cells of ``args.source`` as ``args.lazy`` has it, and say how in the log.

    Raises
    ------
    ValueError, FileNotFoundError, ImportError
        See :func:`scsiameseclu_jax.datasets.read` and :func:`scsiameseclu_jax.datasets.read_lazy`.
    """
    args.lazily, why = _decide(args.source, args.lazy, config or Config())
    if why and args.source.exists():  # else an error says it all
        logger.info("counts are read %s: %s", "in blocks" if args.lazily else "into memory", why)
    return datasets.read_lazy(args.source) if args.lazily else datasets.read(args.source)


def check_writable(args: Namespace) -> None:
    """Check that results can be put into the file that is read, if they are to be.

    Raises
    ------
    PermissionError
        If not.
    """
    if in_place(args) and not os.access(args.source, os.W_OK):
        name = str(args.source)
        msg = f"Expected {name!r} to be writable, to put results into it, found it read-only; "
        raise PermissionError(msg + "give another output.")


def check_copy(args: Namespace) -> None:
    """Check that the disk has space for a copy of the file, if one is to be made."""
    if args.lazily and not in_place(args):
        parts = [args.source, *args.source.rglob("*")]
        n = sum(part.stat().st_size for part in parts if part.is_file())
        check_space(args.out, n, n)


def write(args: Namespace, adata: AnnData) -> None:
    """Write the cells and their results to ``args.out``.

    Where counts stayed on disk the file is copied as it is, if OUT is of the same kind; else block
    by block. A file that is IN and OUT gets the results put into it.
    """
    source, out = Path(args.source), Path(args.out)
    if in_place(args):
        write_results(source, adata)
    elif args.lazily and source.is_dir() == (out.suffix == ".zarr"):
        write_whole(out, lambda new: copy_with_results(source, new, adata))
    else:
        write_anndata(out, adata)


def in_place(args: Namespace) -> bool:
    """Whether results are to be put into the file that is read, if it may be overwritten."""
    there = args.source.exists() and args.out.exists()
    return args.lazy == "always" and there and args.source.samefile(args.out)


def _decide(source: Path, lazy: str, config: Config) -> tuple[bool, str]:
    """Return whether to read in blocks, and why: nothing of a file that leaves no choice."""
    if lazy == "always" and find_spec("dask") is None:
        msg = (
            "Expected Dask for --lazy always, found none; `pip install 'scsiameseclu-jax[dask]'`, "
            "or '.[dask]' in a clone."
        )
        raise ValueError(msg)
    if lazy != "auto":
        return lazy == "always", f"--lazy {lazy}"
    size = size_of(source)
    if size is None:
        return False, ""
    need = estimate_memory(size.n_cells, size.n_genes, config, n_values=size.n_values).total
    free = free_memory()
    if free is None or need <= free:
        return False, f"a fit takes about {_gib(need)}, {_gib(free)} are free"
    why = f"a fit would take about {_gib(need)} in memory, {_gib(free)} are free"
    if find_spec("dask") is None:
        logger.warning("%s; `pip install 'scsiameseclu-jax[dask]'` to read them in blocks", why)
        return False, "Dask is not installed"
    return True, why


def _gib(n_bytes: int | None) -> str:
    return "nobody knows how many" if n_bytes is None else f"{n_bytes / 2**30:.1f} GiB"
