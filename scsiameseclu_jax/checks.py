"""What a user passes, checked in one place: seeds, names, shares; and the device to compute on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData


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


def check_key(key_added: str) -> None:
    """Check a name for results.

    Raises
    ------
    ValueError
        If it is empty or has a "/", which no file can store.
    """
    if not key_added or "/" in key_added:
        msg = f"Expected `key_added` to be a name without '/', found {key_added!r}."
        raise ValueError(msg)


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


def check_column(name: str, column: str | None, adata: AnnData) -> None:
    """Check that ``obs`` has the column that an option names.

    Raises
    ------
    KeyError
        If it has none; those that it has are named.
    """
    if column not in adata.obs:
        columns = sorted(map(str, adata.obs))
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


def default_device() -> jax.Device:
    """Return the device that computations go to, which ``jax.default_device`` may have set."""
    (device,) = jax.device_put(np.float32(0)).devices()
    return device
