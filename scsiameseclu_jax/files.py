"""Files that are written: checked before anything long starts, then whole or not at all.

A model is a folder of named arrays and plain settings, without pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData

OUTPUTS = (".h5ad", ".zarr")
PLOTS = (".png", ".pdf", ".svg")
PAGES = (".html", ".htm")
TABLES = (".csv",)
# RuntimeError is what jax raises where memory runs out.
FAILURES = (FloatingPointError, MemoryError, RuntimeError)
BAD_INPUT = (ValueError, KeyError, TypeError, OSError)

FORMAT = "scsiameseclu_jax model"
FORMAT_VERSION = 3
_SETTINGS, _ARRAYS = "model.json", "arrays.safetensors"
_AGAIN = "it is truncated or was edited: copy or save it again."

Settings = dict[str, Any]
Arrays = dict[str, np.ndarray]


class WriteError(OSError):
    """A result could not be written."""


def message(error: BaseException) -> str:
    """Return what an error says, on one line."""
    # The text of a KeyError is the repr of its message.
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(text).split()) or type(error).__name__


def check_output(path: Path, suffixes: tuple[str, ...], *, overwrite: bool) -> None:
    """Check that a file of one of the kinds may be written there.

    Raises
    ------
    FileExistsError
        If there is something that may not be overwritten, or is of another kind.
    FileNotFoundError, PermissionError
        If its folder does not exist, or nothing can be written there.
    ValueError
        If it is called like a file of another kind.
    """
    if path.suffix not in suffixes:
        msg = f"Expected an output that ends in {' or '.join(suffixes)}, found {str(path)!r}."
        raise ValueError(msg)
    _check_place(path, overwrite=overwrite)
    if not path.exists():
        return
    # What is replaced has to be of the same kind: not a folder of anything else.
    marks = (".zgroup", ".zattrs", "zarr.json")
    if path.suffix == ".zarr" and not any((path / mark).is_file() for mark in marks):
        msg = f"Expected {str(path)!r} to be a zarr store to replace, found something else."
        raise FileExistsError(msg)
    if path.suffix != ".zarr" and not path.is_file():
        msg = f"Expected {str(path)!r} to be a file to replace, found something else."
        raise FileExistsError(msg)


def check_model_folder(path: Path, *, overwrite: bool) -> None:
    """Check that a model may be saved there.

    Raises
    ------
    FileExistsError
        If there is something, and it may not be overwritten, is no model, or has other files.
    FileNotFoundError, PermissionError
        If the folder it is to be in does not exist, or nothing can be written there.
    """
    _check_place(path, overwrite=overwrite)
    if not path.exists():
        return
    if not (path / _SETTINGS).is_file():
        msg = f"Expected {str(path)!r} to be a model to replace, found something else."
        raise FileExistsError(msg)
    more = sorted({file.name for file in path.iterdir()} - {_SETTINGS, _ARRAYS})
    if more:
        msg = f"Expected a model alone in {str(path)!r}, found {more}, which would be lost."
        raise FileExistsError(msg)


def _check_place(path: Path, *, overwrite: bool) -> None:
    folder = path.resolve().parent
    if not folder.is_dir():
        msg = f"Expected the folder of {str(path)!r} to exist, found none; create it first."
        raise FileNotFoundError(msg)
    if not os.access(folder, os.W_OK | os.X_OK):
        msg = f"Expected the folder of {str(path)!r} to be writable, found it read-only."
        raise PermissionError(msg)
    if path.exists() and not overwrite:
        msg = (
            f"Expected {str(path)!r} not to exist, found it; give another name, or overwrite it "
            "(`overwrite=True`, or --overwrite)."
        )
        raise FileExistsError(msg)


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


def write_whole(path: Path, writer: Callable[[Path], None]) -> None:
    """Write a file or folder under a temporary name beside `path`, then replace it.

    Parameters
    ----------
    path
        Where it is to be; what is there is replaced, or stays if anything fails.
    writer
        Makes it, where it is told to.

    Raises
    ------
    WriteError
        If it could not be written.
    """
    target = path.resolve()
    try:
        beside = Path(tempfile.mkdtemp(prefix=f".{target.stem[:80]}.", dir=target.parent))
        new, old = beside / f"new{target.suffix}", beside / f"old{target.suffix}"
        try:
            writer(new)
            _to_disk(new)
            _replace(new, target, old)
        finally:
            # What was there stays, even where it could not be put back.
            if target.exists() or not old.exists():
                shutil.rmtree(beside, ignore_errors=True)
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


def _to_disk(path: Path) -> None:
    """Wait until a file, or all of a folder, is on the disk, where its new name must come last."""
    for part in [path, *path.rglob("*")]:
        if part.is_dir() and os.name == "nt":  # there a folder cannot be opened
            continue
        file = os.open(part, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def write_anndata(path: Path, adata: AnnData) -> None:
    """Write an object as the suffix of the path says, whole or not at all."""
    write_whole(path, adata.write_zarr if path.suffix == ".zarr" else adata.write_h5ad)


def write_text(path: Path, text: str) -> None:
    """Write text, whole or not at all."""

    def writer(new: Path) -> None:
        new.write_text(text, encoding="utf-8")

    write_whole(path, writer)


def write_model(
    directory: str | os.PathLike[str], settings: Settings, arrays: Arrays, *, overwrite: bool
) -> None:
    """Write a model, whole or not at all.

    Parameters
    ----------
    directory
        Folder of the model; must not exist, unless `overwrite`.
    settings
        Plain types only.
    arrays
        Named arrays of numbers.
    overwrite
        Replace a model that is there.

    Raises
    ------
    FileExistsError, FileNotFoundError, PermissionError
        See :func:`check_model_folder`.
    WriteError
        If it could not be written.
    """
    from safetensors.numpy import save

    path = Path(directory)
    check_model_folder(path, overwrite=overwrite)

    def writer(new: Path) -> None:
        stored = save({name: np.asarray(a, order="C") for name, a in arrays.items()})
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "settings": settings,
            "arrays": _digest(stored),
        }
        content["checksum"] = _digest(_canonical(content))
        new.mkdir()
        (new / _ARRAYS).write_bytes(stored)
        (new / _SETTINGS).write_text(json.dumps(content, indent=1), encoding="utf-8")

    write_whole(path, writer)


def read_model(directory: str | os.PathLike[str]) -> tuple[Settings, Arrays]:
    """Read the settings and arrays that :func:`write_model` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no model in it.
    ValueError
        If a file is truncated, changed, or of another version.
    """
    from safetensors.numpy import load

    path = Path(directory)
    for file in (path / _SETTINGS, path / _ARRAYS):
        if not file.is_file():
            msg = f"Expected a model in {str(path)!r}, found no {file.name} there."
            raise FileNotFoundError(msg)
    try:
        content = json.loads((path / _SETTINGS).read_text(encoding="utf-8"))
    except ValueError:
        msg = f"Expected settings in {str(path / _SETTINGS)!r}, found no whole JSON; {_AGAIN}"
        raise ValueError(msg) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        msg = f"Expected {str(path / _SETTINGS)!r} to be of a {FORMAT}, found something else."
        raise ValueError(msg)
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        earlier = isinstance(version, int) and version < FORMAT_VERSION
        remedy = (
            "it was saved by an earlier development version: fit again"
            if earlier
            else "it was saved by a newer scsiameseclu_jax: upgrade to read it"
        )
        msg = f"Expected a model of format version {FORMAT_VERSION}, found {version}; {remedy}."
        raise ValueError(msg)
    checksum = content.pop("checksum", None)
    stored = (path / _ARRAYS).read_bytes()
    if checksum != _digest(_canonical(content)) or content["arrays"] != _digest(stored):
        msg = f"Expected the model in {str(path)!r} as it was saved, found it changed; {_AGAIN}"
        raise ValueError(msg)
    return content["settings"], load(stored)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _canonical(content: Settings) -> bytes:
    return json.dumps(content, sort_keys=True).encode()
