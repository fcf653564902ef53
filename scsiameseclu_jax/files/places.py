"""Where results may be written: checked, by writing there, before anything long starts."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path

from scsiameseclu_jax.files.whole import beside

logger = logging.getLogger(__name__)

OUTPUTS = (".h5ad", ".zarr")
PLOTS = (".png", ".pdf", ".svg")
PAGES = (".html", ".htm")
TABLES = (".csv",)
_TRIAL = bytes(4096)  # a disk that is full to the last block has no room for it


def check_output(path: Path, suffixes: tuple[str, ...], *, overwrite: bool) -> None:
    """Check that a file of one of the kinds may be written there.

    Raises
    ------
    FileExistsError
        If there is something that may not be overwritten, or is of another kind.
    FileNotFoundError, PermissionError
        If its folder does not exist, or is read-only.
    OSError
        If nothing can be written there, for whatever reason.
    ValueError
        If it is called like a file of another kind.
    """
    if path.suffix not in suffixes:
        msg = f"Expected an output that ends in {' or '.join(suffixes)}, found {str(path)!r}."
        raise ValueError(msg)
    check_place(path, overwrite=overwrite)
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


def check_place(path: Path, *, overwrite: bool) -> None:
    """Check, by writing a little in its folder, that something of this name can be written.

    Raises
    ------
    FileExistsError
        If there is something already, and it may not be overwritten.
    FileNotFoundError, PermissionError
        If its folder does not exist, or is read-only.
    OSError
        If nothing can be written there, for whatever reason: a full disk, a name too long.
    """
    _check_link(path)
    target = path.resolve()
    folder = target.parent
    if not folder.is_dir():
        msg = f"Expected the folder of {str(path)!r} to exist, found none; create it first."
        raise FileNotFoundError(msg)
    if not os.access(folder, os.W_OK | os.X_OK):
        msg = f"Expected the folder of {str(path)!r} to be writable, found it read-only."
        raise PermissionError(msg)
    try:
        with beside(target) as new:
            new.write_bytes(_TRIAL)
    except OSError as error:
        msg = (
            f"Expected {str(path)!r} to be a place to write to, found: {error.strerror or error}; "
            "give another folder or name."
        )
        raise OSError(msg) from error
    if target.exists() and not overwrite:
        msg = (
            f"Expected {str(path)!r} not to exist, found it; give another name, or overwrite it "
            "(`overwrite=True`)."
        )
        raise FileExistsError(msg)
    if os.path.ismount(target):
        msg = (
            f"Expected {str(path)!r} to be a folder that can be replaced, found a mounted one; "
            "give a name inside it."
        )
        raise FileExistsError(msg)


def check_space(path: Path, least: float, usual: float) -> None:
    """Check that the disk has space; say so in the log if that may be too little.

    Parameters
    ----------
    path
        What is to be written.
    least, usual
        Bytes that it surely takes, and that it may take.

    Raises
    ------
    OSError
        If there is too little.
    """
    disk = shutil.disk_usage(path.resolve().parent)
    if not disk.total:  # of file systems that do not tell
        return
    free, where = _in_words(disk.free), str(path)
    if disk.free < least:
        needed = _in_words(least)
        msg = (
            f"Expected {needed} of space for {where!r}, found {free}; make room or write elsewhere."
        )
        raise OSError(msg)
    if disk.free < usual:
        text = "%s of space for %r may be too little: it may take %s"
        logger.warning(text, free, where, _in_words(usual))


def _in_words(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.3g} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.3g} MB"


def _check_link(path: Path) -> None:
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            msg = f"Expected {str(path)!r} to lead to a file, found links that lead in a circle."
            raise OSError(msg) from error


def check_apart(source: Path, target: Path) -> None:
    """Check that what is written does not replace what is read."""
    one, other = source.resolve(), target.resolve()
    if one == other or other in one.parents or (one.exists() and _same(one, other)):
        msg = f"Expected an output apart from the input, found {str(target)!r} for both; "
        msg += "give another name."
        raise ValueError(msg)


def check_separate(target: Path, folder: Path) -> None:
    """Check that a file is neither a folder that is written, too, nor in it."""
    one, other = target.resolve(), folder.resolve()
    if one == other or other in one.parents or one in other.parents:
        msg = f"Expected outputs apart from each other, found {str(target)!r} and {str(folder)!r}."
        raise ValueError(msg)


def _same(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)
