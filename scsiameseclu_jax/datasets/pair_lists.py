"""Pairs of cells, as tables of two columns."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from scsiameseclu_jax.inputs import check_file


def read_pairs(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    r"""Read pairs of names of cells, for ``must_link`` or ``cannot_link``.

    Parameters
    ----------
    path
        A table without header, two names a row, separated by commas, semicolons or tabs.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no such table, or holds no pairs.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> file = Path(folder.name) / "pairs.csv"
    >>> _ = file.write_text("AAAC-1,AAAG-1\nAAAC-1,ACGT-1\n")
    >>> read_pairs(file)
    [('AAAC-1', 'AAAG-1'), ('AAAC-1', 'ACGT-1')]
    >>> folder.cleanup()
    """
    path = Path(path)
    check_file(path, "a file of pairs of cells")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"Expected {str(path)!r} to be text, found other bytes: {error}."
        raise ValueError(msg) from error
    first = text.split("\n", 1)[0]
    separator = max("\t;,", key=first.count)
    try:
        lines = csv.reader(io.StringIO(text), delimiter=separator)
        rows = [row for row in lines if any(row)]
    except csv.Error as error:  # a quotation mark that nothing closes, say
        msg = f"Expected {str(path)!r} to be a table of two columns, found otherwise: {error}."
        raise ValueError(msg) from error
    wrong = next((i for i, row in enumerate(rows) if len(row) != 2 or not all(row)), None)
    if not rows or wrong is not None:
        found = "none" if wrong is None else f"{str(rows[wrong])[:200]} in row {wrong + 1}"
        msg = f"Expected {str(path)!r} to hold two names of cells in each row, found {found}."
        raise ValueError(msg)
    return [(one.strip(), two.strip()) for one, two in rows]
