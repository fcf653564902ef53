"""Files that the command line writes: checked before anything long starts, then whole or not."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData

OUTPUTS = (".h5ad", ".zarr")
PLOTS = (".png", ".pdf", ".svg")
PAGES = (".html", ".htm")
# RuntimeError is what jax raises where memory runs out.
FAILURES = (FloatingPointError, MemoryError, RuntimeError)
BAD_INPUT = (ValueError, KeyError, TypeError, OSError)


class WriteError(Exception):
    """A result could not be written."""


def message(error: BaseException) -> str:
    """Return what an error says, on one line."""
    # The text of a KeyError is the repr of its message.
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(text).split()) or type(error).__name__


def check_target(path: Path, suffixes: tuple[str, ...], *, overwrite: bool) -> None:
    """Check that a file of one of the kinds may be written there."""
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


def check_apart(source: Path, target: Path) -> None:
    """Check that what is written does not replace what is read."""
    one, other = source.resolve(), target.resolve()
    if one == other or other in one.parents or (one.exists() and _same(one, other)):
        msg = f"Expected an output apart from the input, found {str(target)!r} for both."
        raise ValueError(msg)


def check_separate(target: Path, folder: Path) -> None:
    """Check that a file is neither a folder that is written, too, nor in it."""
    one, other = target.resolve(), folder.resolve()
    if one == other or other in one.parents or one in other.parents:
        msg = f"Expected outputs apart from each other, found {str(target)!r} and {str(folder)!r}."
        raise ValueError(msg)


def _same(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)


def save(adata: AnnData, path: Path) -> None:
    """Write an object as the suffix of the path says."""
    with warnings.catch_warnings():
        # What anndata says of the formats of its next releases.
        warnings.simplefilter("ignore", UserWarning)
        (adata.write_zarr if path.suffix == ".zarr" else adata.write_h5ad)(path)


def write(path: Path, saver: Callable[[Path], None]) -> None:
    """Write under a temporary name beside `path`, then replace it: all of it, or nothing."""
    target = path.resolve()
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.stem[:80]}.", dir=target.parent))
        new, old = folder / f"new{target.suffix}", folder / f"old{target.suffix}"
        try:
            saver(new)
            _replace(new, target, old)
        finally:
            # What was there stays, even where it could not be put back.
            if target.exists() or not old.exists():
                shutil.rmtree(folder, ignore_errors=True)
    except (*BAD_INPUT, *FAILURES) as error:
        msg = f"Could not write {str(path)!r}: {message(error)}"
        raise WriteError(msg) from error


def _replace(new: Path, target: Path, old: Path) -> None:
    try:
        if target.is_dir():  # A folder can only be replaced by moving it out of the way.
            target.rename(old)
        new.replace(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
