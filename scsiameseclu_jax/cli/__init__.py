"""The command line."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; see :mod:`scsiameseclu_jax.cli.parser`.

    Parameters
    ----------
    argv
        Words after the program's name; None takes those of the process, which from then on ends at
        once on Ctrl-C, SIGTERM and SIGHUP.

    Raises
    ------
    SystemExit
        Of code 2 for wrong usage, 0 after ``--help`` and ``--version``.
    """
    from scsiameseclu_jax.cli import signals

    if argv is None:  # before all that takes long to import
        signals.install()
        _prepare_streams()
    try:
        from scsiameseclu_jax.cli import parser

        code = parser.main(argv)
        if argv is None and code in (1, 2):
            from scsiameseclu_jax.cli import devices

            devices.leave_at_once(code)
        return code
    finally:
        if argv is None:
            _flush()
            signals.finish()


def _prepare_streams() -> None:
    """Let printing not fail: for a closed stream, or a letter that the terminal cannot show."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _flush() -> None:
    """Write out what was printed; where that fails, Python must not try again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
