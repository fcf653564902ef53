"""What is left to do when a fit has ended: all of it, whichever part fails."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pandas as pd

from scsiameseclu_jax.files import WriteError, message, write_table_near

logger = logging.getLogger(__name__)


class Rest:
    """A context of parts: at its end it prints what was written, then raises the first failure.

    Parameters
    ----------
    as_json
        Print for programs: one object, of the facts and the files that were written.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.facts: dict[str, Any] = {}
        self._failures: list[Exception] = []
        self._written: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.as_json:
            facts = self.facts | {"wrote": [str(path) for path in self._written]}
            print(json.dumps(facts, indent=1))
        for path in [] if self.as_json else self._written:
            print(f"wrote {path}")
        raised = self._failures[0] if self._failures and error is None else None
        for failure in self._failures:
            if failure is not raised:
                logger.error("%s", message(failure))
        if raised is not None:
            raise raised

    @contextmanager
    def part(
        self, path: Path | None = None, table: Callable[[], pd.DataFrame] | None = None
    ) -> Iterator[None]:
        """Do a part, and go on if it fails.

        Parameters
        ----------
        path
            What it writes.
        table
            Makes a table of the clusters, which is written near `path` if that cannot be written.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001, of any kind: raised at the end
            self._failures.append(error if path is None else _unwritten(path, error, table))
        else:
            if path is not None:
                self._written.append(path)


def _unwritten(
    path: Path, error: Exception, table: Callable[[], pd.DataFrame] | None
) -> WriteError:
    """Return an error that names what could not be written, and where its clusters are instead."""
    known = isinstance(error, WriteError)
    text = message(error) if known else f"Could not write {str(path)!r}: {message(error)}"
    if table is not None:
        place = write_table_near(path, table())
        where = "cannot be written anywhere" if place is None else f"are in {str(place)!r}"
        text = f"{text}; the clusters of the cells {where}"
    failure = WriteError(text)
    failure.__cause__ = error.__cause__ if known else error
    return failure
