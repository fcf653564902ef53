"""A folder for a model: named arrays and plain settings, without pickle, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = "scsiameseclu_jax model"
FORMAT_VERSION = 2
_SETTINGS, _ARRAYS = "model.json", "arrays.safetensors"

Settings = dict[str, Any]
Arrays = dict[str, np.ndarray]
_FILES = (_SETTINGS, _ARRAYS)


def check_target(directory: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Return the folder to write to after checking that it may be written.

    Raises
    ------
    FileExistsError
        If there is something, and it may not be overwritten, is no model, or has other files.
    FileNotFoundError
        If the folder it is to be in does not exist.
    PermissionError
        If nothing can be written there.
    """
    path = Path(directory)
    if not path.parent.is_dir():
        msg = f"Expected {str(path.parent)!r} to be a folder to save a model in, found none."
        raise FileNotFoundError(msg)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        msg = f"Expected {str(path.parent)!r} to be a folder to write to, found it read-only."
        raise PermissionError(msg)
    if path.exists():
        if not overwrite:
            msg = f"Expected no {str(path)!r}, found one; choose another name, or overwrite it."
            raise FileExistsError(msg)
        if not (path / _SETTINGS).is_file():
            msg = f"Expected {str(path)!r} to be a model, or free, found something else there."
            raise FileExistsError(msg)
        more = sorted(file.name for file in path.iterdir() if file.name not in _FILES)
        if more:
            msg = f"Expected a model alone in {str(path)!r}, found {more}, which would be lost."
            raise FileExistsError(msg)
    return path


def write(
    directory: str | os.PathLike[str], settings: Settings, arrays: Arrays, *, overwrite: bool
) -> None:
    """Write to a temporary folder beside `directory`, then rename.

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
    FileExistsError, FileNotFoundError
        See :func:`check_target`.
    """
    from safetensors.numpy import save_file

    path = check_target(directory, overwrite=overwrite)
    part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        part.chmod(0o777 & ~_umask())
        save_file({k: np.asarray(a, order="C") for k, a in arrays.items()}, part / _ARRAYS)
        (part / _ARRAYS).chmod(0o666 & ~_umask())  # safetensors keeps it to its owner
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "settings": settings,
            "arrays": _digest((part / _ARRAYS).read_bytes()),
        }
        content["checksum"] = _digest(_canonical(content))
        (part / _SETTINGS).write_text(json.dumps(content, indent=1), encoding="utf-8")
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            path.rename(old / path.name)
            part.rename(path)
            shutil.rmtree(old)
        else:
            part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read(directory: str | os.PathLike[str]) -> tuple[Settings, Arrays]:
    """Read a folder that :func:`write` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no model in it.
    ValueError
        If a file is truncated, changed, or of a newer version.
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
    if not isinstance(version, int) or version > FORMAT_VERSION:
        msg = (
            f"Expected a model of format version {FORMAT_VERSION} or older, found {version}; it "
            "was saved by a newer scsiameseclu_jax: upgrade to read it."
        )
        raise ValueError(msg)
    checksum = content.pop("checksum", None)
    stored = (path / _ARRAYS).read_bytes()
    if checksum != _digest(_canonical(content)) or content["arrays"] != _digest(stored):
        msg = f"Expected the model in {str(path)!r} as it was saved, found it changed; {_AGAIN}"
        raise ValueError(msg)
    return content["settings"], load(stored)


_AGAIN = "it is truncated or was edited: copy or save it again."


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _canonical(content: Settings) -> bytes:
    return json.dumps(content, sort_keys=True).encode()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
