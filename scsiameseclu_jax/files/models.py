"""A model on disk: a folder of named arrays and plain settings, without pickle."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from scsiameseclu_jax.files.places import check_place, check_space
from scsiameseclu_jax.files.whole import tidy, write_whole

FORMAT = "scsiameseclu_jax model"
FORMAT_VERSION = 3
_SETTINGS, _ARRAYS = "model.json", "arrays.safetensors"
_N_BYTES = ((300, 100_000), (1000, 1_000_000))  # at least, and usually: of a cell, of the networks
_AGAIN = "it is truncated or was edited: copy or save it again."

Settings = dict[str, Any]
Arrays = dict[str, np.ndarray]


def check_model_folder(path: Path, *, overwrite: bool) -> None:
    """Check that a model may be saved there.

    Raises
    ------
    FileExistsError
        If there is something, and it may not be overwritten, is no model, or has other files.
    FileNotFoundError, PermissionError, OSError
        If the folder it is to be in does not exist, or nothing can be written there.
    """
    check_place(path, overwrite=overwrite)
    if not path.exists():
        return
    if not (path / _SETTINGS).is_file():
        msg = f"Expected {str(path)!r} to be a model to replace, found something else."
        raise FileExistsError(msg)
    more = sorted({file.name for file in path.iterdir()} - {_SETTINGS, _ARRAYS})
    if more:
        msg = f"Expected a model alone in {str(path)!r}, found {more}, which would be lost."
        raise FileExistsError(msg)


def check_model_space(path: Path, n_cells: int) -> None:
    """Check that the disk has space for the model of so many cells.

    Raises
    ------
    OSError
        If there surely is too little.
    """
    check_space(path, *(per_cell * n_cells + networks for per_cell, networks in _N_BYTES))


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
    if not path.exists():
        tidy(path.resolve().parent)  # a run that was killed may have moved it aside
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
