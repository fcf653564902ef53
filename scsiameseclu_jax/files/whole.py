"""Files and folders that are written whole or not at all.

Each is written in a temporary folder beside its place, ``.scsiameseclu-HOST-PID-...``, which holds
the new one in ``new`` and, where two folders cannot change places at one moment, the old one in
``old`` until the new one has its name. What a process that was killed has left is known by its
number, and the next one to write there puts it right.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from scsiameseclu_jax.files.errors import WriteError, message
from scsiameseclu_jax.files.exchange import exchange

logger = logging.getLogger(__name__)

_NAME = re.compile(r"\.scsiameseclu-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}")
_THREADS = 16  # wait for the disk together: a zarr store is many small files
_TRIES, _MOMENT = 50, 0.02  # seconds between two tries to remove what another thread writes into

_unfinished: set[Path] = set()  # temporary folders of this process
_naming = threading.Lock()  # held while something gets its name
_names = False


def write_whole(path: Path, writer: Callable[[Path], object]) -> None:
    """Write a file or folder beside `path`, then replace what is there; a link is followed.

    Parameters
    ----------
    path
        Where it is to be; what is there is replaced, or stays if anything fails.
    writer
        Makes it, where it is told to.

    Raises
    ------
    WriteError
        If it could not be written, for whatever reason.
    """
    try:
        target = path.resolve()
        with beside(target) as new:
            writer(new)
            to_disk(new)
            _give_name(new, target)
    except Exception as error:
        msg = f"Could not write {str(path)!r}: {message(error)}"
        raise WriteError(msg) from error


def write_text(path: Path, text: str) -> None:
    """Write text, whole or not at all."""

    def writer(new: Path) -> None:
        new.write_text(text, encoding="utf-8")

    write_whole(path, writer)


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """Yield a place of the same name in a temporary folder beside a target, which goes at the end.

    Before, what runs that were killed have left there is removed.
    """
    tidy(target.parent)
    folder = target.parent / f".scsiameseclu-{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    _unfinished.add(folder)
    try:
        new = folder / "new"
        folder.mkdir(mode=0o700)
        new.mkdir()
        yield new / target.name
    finally:
        try:
            # What was there stays, even where it could not be put back.
            if not (folder / "old").exists() or target.exists():
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            _unfinished.discard(folder)


def _give_name(new: Path, target: Path) -> None:
    """Put the new one in its place: old or new is there at every moment, if the system can."""
    with naming():
        if not target.is_dir():
            new.replace(target)
        elif not exchange(new, target):
            _replace_folder(new, target)
    if os.name != "nt":
        _sync(target.parent)


@contextmanager
def naming() -> Iterator[None]:
    """Let what takes a moment be done before a signal ends the process."""
    global _names
    _names = True
    try:
        with _naming:
            yield
    finally:
        _names = False


def _replace_folder(new: Path, target: Path) -> None:
    """Move the old folder aside and the new one into its place; a failure puts the old one back."""
    old = new.parents[1] / "old" / target.name
    old.parent.mkdir()
    try:
        target.rename(old)
        new.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise


def to_disk(path: Path) -> None:
    """Wait until a file, or all of a folder, is on the disk, where its new name must come last."""
    parts = [path, *path.rglob("*")]
    if os.name == "nt":  # there a folder cannot be opened
        parts = [part for part in parts if not part.is_dir()]
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(_sync, parts))


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of file systems that have nothing to wait for
            raise
    finally:
        os.close(file)


def is_naming() -> bool:
    """Whether something that is written gets its name just now."""
    return _names


def discard_unfinished() -> None:
    """Remove all that is being written, for a process that ends now: nothing gets its name after.

    Waits for what gets its name just now.
    """
    _naming.acquire()
    for _ in range(_TRIES):
        # what is in an old place may not be in its own again: that is for the next run to see
        left = [path for path in list(_unfinished) if path.exists() and not (path / "old").exists()]
        if not left:
            return
        for folder in left:
            shutil.rmtree(folder, ignore_errors=True)
        time.sleep(_MOMENT)


def tidy(folder: Path) -> None:
    """Remove what killed runs have left in a folder, and put back what they had moved aside.

    What was left on another machine, which may still write, is only named in the log.
    """
    try:
        found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    except OSError:
        return
    for path in found:
        if path in _unfinished or path.is_symlink():
            continue
        host, process = re.findall(_NAME, path.name)[0]
        if host != _host():
            text = "%s is of a run on another machine, or in a container; delete it if that is over"
            logger.info(text, path)
        elif _is_over(int(process)):
            _put_right(path)


def _put_right(left: Path) -> None:
    """Remove what a killed run has left; first put back what it had moved aside."""
    try:
        for old in (left / "old").glob("*"):
            target = left.parent / old.name
            if not target.exists():
                old.rename(target)
                logger.warning("put back %s, which a run that was killed had moved aside", target)
        shutil.rmtree(left)
        logger.info("removed %s, which a run that was killed had left", left)
    except OSError as error:
        logger.info("could not remove %s, which a run that was killed had left: %s", left, error)


def _is_over(process: int) -> bool:
    """Whether a process of this machine has ended; one of our number was before us."""
    if process == os.getpid():
        return True
    if os.name == "nt":  # there is no way to ask
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # of another user
        return False
    return False


def _host() -> str:
    """Return what tells apart machines, and containers on one, which number processes anew."""
    name = socket.gethostname()
    with suppress(OSError):
        name += str(Path("/proc/self/ns/pid").readlink())
    return hashlib.sha256(name.encode()).hexdigest()[:8]
