"""What a user passes, checked in one place: seeds, names, shares; device, and who looks on."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Hashable, Iterable

import jax
import numpy as np
import pandas as pd
from anndata import AnnData

logger = logging.getLogger(__name__)

# Names that HDF5, zarr or anndata keep for themselves, and characters that they take for more than
# a letter: slashes lead into a folder, and numpy's buffers end the name of a field at a ":".
_TAKEN = re.compile(r"|_index|\.+|zarr\.json|\.z(array|attrs|group|metadata)")
_SPECIAL = "/\\:\0"
_LONGEST = 200  # bytes of a name that a file system takes
# What missing values are called once somebody has made text of them.
_MISSING_WORDS = {"nan", "none", "<na>", "nat", "null"}


def as_seed(rng: int | np.random.Generator) -> int:
    """Return the seed that was given, or one drawn from the generator.

    Raises
    ------
    ValueError
        If it is neither a generator nor an integer in [0, 2^32).
    """
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**31))
    if isinstance(rng, bool) or not isinstance(rng, int | np.integer) or not 0 <= rng < 2**32:
        msg = f"Expected `rng` to be a numpy Generator or an integer in [0, 2^32), found {rng!r}."
        raise ValueError(msg)
    return int(rng)


def check_key(key_added: str, name: str = "key_added") -> None:
    """Check a name for results, given by the option of that name.

    Raises
    ------
    ValueError
        If it is no text, empty, has a "/", or is one that no file can store for another reason.
    """
    given: object = key_added
    if not isinstance(given, str) or set(given) & set("/\\\0") or _TAKEN.fullmatch(given):
        msg = (
            f"Expected `{name}` to be a name without '/' that files can store, found {given!r}; "
            "results are called after it."
        )
        raise ValueError(msg)


def is_storable(name: object) -> bool:
    """Whether every format can store something under a name."""
    return (
        isinstance(name, str)
        and not set(name) & set(_SPECIAL)
        and not _TAKEN.fullmatch(name)
        and len(name.encode(errors="replace")) <= _LONGEST
    )


def storable_names(names: Iterable[str], *, allowed: str = "") -> list[str]:
    """Return names that columns or fields can have in every format, each once.

    Most stay as they are. Slashes and ":" become "|", names that are empty or taken get an
    underscore behind them, overlong ones end early, and what is then there twice is numbered.

    Parameters
    ----------
    names
        As users call things; each once.
    allowed
        Characters that may stay all the same.

    Examples
    --------
    >>> storable_names(["B", "CD4/CD8", "CL:0000236", "", "_index"])
    ['B', 'CD4|CD8', 'CL|0000236', '_', '_index_']
    """
    replaced = re.escape("".join(set(_SPECIAL) - set(allowed)))
    found: list[str] = []
    names = list(names)
    kept = set(names)  # a name that can stay is not given to another
    for name in names:
        new = re.sub(f"[{replaced}]", "|", name)
        new = new.encode()[:_LONGEST].decode(errors="ignore")
        new = f"{new}_" if _TAKEN.fullmatch(new) else new
        base, number = new, 1
        while new in found or (new != name and new in kept):
            number += 1
            new = f"{base}_{number}"
        found.append(new)
    return found


def sorted_names(names: Iterable[Hashable]) -> list[str]:
    """Return names as text, sorted, whatever they are: for a message.

    Examples
    --------
    >>> sorted_names([10, "b", None, "a"])
    ['10', 'None', 'a', 'b']
    """
    return sorted(map(str, names))


def names_in(column: pd.Series, what: str | None = None) -> np.ndarray:
    """Return the names [n] in a column as text, None where a value is missing.

    Whole numbers are written without a point, whatever their type: a column of integers becomes one
    of floats as soon as a value is missing.

    Parameters
    ----------
    column
        [n] names, categories or numbers.
    what
        What it is called in a warning about names such as "nan", which were probably missing before
        somebody made text of them; None warns of none.
    """
    codes, found = pd.factorize(column)
    values = pd.Index(np.asarray(found))
    if values.dtype.kind == "f" and np.isfinite(values).all() and not (values % 1).any():
        values = values.astype(np.int64)
    names = np.array([*values.astype(str), None], dtype=object)[codes]
    words = {name for name in set(names) - {None} if name.strip().lower() in _MISSING_WORDS}
    if words and what is not None:
        logger.warning(
            "%s is called %s in %d cells, and counts as a name; if they have none, make the values "
            "missing",
            what,
            " or ".join(map(repr, sorted(words))),
            sum(name in words for name in names),
        )
    return names


def check_share(name: str, value: float | None) -> None:
    """Check a share, if one is given.

    Raises
    ------
    ValueError
        If it is not between 0 and 1.
    """
    if value is not None and not 0 <= value <= 1:
        msg = f"Expected `{name}` to be between 0 and 1, found {value}."
        raise ValueError(msg)


def check_anndata(adata: object, name: str = "adata") -> None:
    """Check that what was passed is an AnnData object.

    Raises
    ------
    TypeError
        If it is none.
    """
    if not isinstance(adata, AnnData):
        msg = f"Expected `{name}` to be an AnnData object, found {type(adata).__name__}."
        raise TypeError(msg)


def check_column(name: str, column: str | None, adata: AnnData) -> None:
    """Check that ``obs`` has the column that an option names.

    Raises
    ------
    KeyError
        If it has none; those that it has are named.
    """
    if column not in adata.obs:
        columns = sorted_names(adata.obs)
        msg = f"Expected `{name}` to be a column of obs, one of {columns}, found {column!r}."
        raise KeyError(msg)


def check_n_clusters(n_clusters: int | str, n_obs: int) -> None:
    """Check a number of clusters against the number of cells.

    Raises
    ------
    TypeError
        If it is neither an integer nor "auto".
    ValueError
        If it is not between 2 and ``n_obs - 1``.
    """
    if isinstance(n_clusters, str) and n_clusters == "auto":
        return
    if isinstance(n_clusters, bool) or not isinstance(n_clusters, int | np.integer):
        msg = f"Expected `n_clusters` to be an integer or 'auto', found {n_clusters!r}."
        raise TypeError(msg)
    if not 2 <= n_clusters < n_obs:
        msg = (
            f"Expected `n_clusters` to be between 2 and n_obs - 1 ({n_obs - 1}), "
            f"found {n_clusters}."
        )
        raise ValueError(msg)


def in_ipython() -> bool:
    """Whether this is a notebook, or another session of IPython."""
    shell = sys.modules.get("IPython")
    return shell is not None and shell.get_ipython() is not None


def default_device() -> jax.Device:
    """Return the device that computations go to, which ``jax.default_device`` may have set."""
    (device,) = jax.device_put(np.float32(0)).devices()
    return device
