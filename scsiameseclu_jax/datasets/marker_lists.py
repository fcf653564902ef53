"""Lists of marker genes: from files, and two small ones that come with the package."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scsiameseclu_jax.inputs import check_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MARKER_SETS", "marker_sets", "read_markers"]

MARKER_SETS = ("blood", "pancreas")
_COLUMNS = ["type", "gene"]


def marker_sets(name: str) -> dict[str, list[str]]:
    """Return a small list of canonical human marker genes.

    ``"blood"`` has 12 types of mononuclear cells, ``"pancreas"`` 14 types of islets and their
    surroundings. The file, ``datasets/marker_sets/<name>.csv``, names for each gene a paper that
    describes it as a marker. They are starting points: tissues, states and gene panels differ.

    Parameters
    ----------
    name
        ``"blood"`` or ``"pancreas"``.

    Returns
    -------
    Gene symbols of each cell type.

    Raises
    ------
    ValueError
        If there is no such list.

    References
    ----------
    Blood: Zheng, G. X. Y. et al. (2017), Nature Communications 8, 14049; Villani, A.-C. et al.
    (2017), Science 356, eaah4573; Ding, J. et al. (2020), Nature Biotechnology 38, 737-746; Hao, Y.
    et al. (2021), Cell 184, 3573-3587, with the annotated reference of Azimuth.

    Pancreas: Baron, M. et al. (2016), Cell Systems 3, 346-360; Muraro, M. J. et al. (2016), Cell
    Systems 3, 385-394; Hao et al. (2021), as above; Ding et al. (2020), as above, for T cells.

    Examples
    --------
    >>> marker_sets("pancreas")["Beta"][:3]
    ['INS', 'IAPP', 'MAFA']
    """
    if name not in MARKER_SETS:
        msg = f"Expected `name` to be one of {list(MARKER_SETS)}, found {name!r}."
        raise ValueError(msg)
    source = files("scsiameseclu_jax.datasets") / "marker_sets" / f"{name}.csv"
    with source.open(encoding="utf-8") as file:
        return _of_table(_table(file), f"{name}.csv")


def read_markers(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    r"""Read lists of marker genes.

    Parameters
    ----------
    path
        Either a table with a header and at least the columns ``type`` and ``gene``, one gene a
        row, separated by commas, semicolons or tabs; or, if it ends in ``.gmt``, gene sets as the
        field writes them: a line for each type, with its name, a description and its genes,
        separated by tabs.

    Returns
    -------
    Genes of each type, each once, in the order of the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no such table, or holds no genes.

    References
    ----------
    GMT: the gene matrix transposed format of GSEA, Subramanian, A. et al. (2005). PNAS 102,
    15545-15550.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> file = Path(folder.name) / "markers.csv"
    >>> _ = file.write_text("type,gene\nB,MS4A1\nB,CD79A\nT,CD3D\n")
    >>> read_markers(file)
    {'B': ['MS4A1', 'CD79A'], 'T': ['CD3D']}
    >>> folder.cleanup()
    """
    path = Path(path)
    check_file(path, "a file of marker genes")
    try:
        if path.suffix.lower() == ".gmt":
            return _of_gmt(path.read_text(encoding="utf-8-sig"), str(path))
        with path.open(encoding="utf-8-sig") as file:
            return _of_table(_table(file), str(path))
    except UnicodeDecodeError as error:
        msg = f"Expected {str(path)!r} to be text, found other bytes: {error}."
        raise ValueError(msg) from error


def _table(file: Any) -> pd.DataFrame:
    import pandas as pd

    header = next((line for line in file if line.strip()), "")
    separator = max(",;\t", key=header.count)
    file.seek(0)
    try:
        # A gene may be called NA.
        table = pd.read_csv(
            file, sep=separator, dtype=str, keep_default_na=False, skipinitialspace=True
        )
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        msg = f"Expected a table with the columns {_COLUMNS}, found: {error}"
        raise ValueError(msg) from error
    if not isinstance(table.index, pd.RangeIndex):
        msg = (
            f"Expected rows of {len(table.columns)} columns, as the header has, found longer ones."
        )
        raise ValueError(msg)
    return table


def _of_table(table: pd.DataFrame, name: str) -> dict[str, list[str]]:
    names = {str(column).strip().lower(): column for column in table.columns}
    if not set(_COLUMNS) <= set(names):
        found = str(list(table.columns))[:200]
        msg = (
            f"Expected {name!r} to have the columns {_COLUMNS}, found {found}; gene sets with one "
            "line a type need the ending .gmt."
        )
        raise ValueError(msg)
    # Of a row that is too short, the last are missing.
    types, genes = (table[names[column]].fillna("").str.strip() for column in _COLUMNS)
    return _lists(zip(types, genes, strict=True), name)


def _of_gmt(text: str, name: str) -> dict[str, list[str]]:
    pairs = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        kind, *rest = (field.strip() for field in line.split("\t"))
        if len(rest) < 2:
            msg = (
                f"Expected a name, a description and genes, separated by tabs, in line {number} of "
                f"{name!r}, found {line[:60]!r}."
            )
            raise ValueError(msg)
        pairs += [(kind, gene) for gene in rest[1:]]
    return _lists(pairs, name)


def _lists(pairs: Any, name: str) -> dict[str, list[str]]:
    found: dict[str, dict[str, None]] = {}
    for kind, gene in pairs:
        if kind and gene:
            found.setdefault(kind, {})[gene] = None
    if not found:
        msg = f"Expected types with marker genes in {name!r}, found none."
        raise ValueError(msg)
    return {kind: list(genes) for kind, genes in found.items()}
