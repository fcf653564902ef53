"""What a fit depends on to the last bit: its cells, its settings, what was handed in, versions."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator
from importlib.metadata import version
from types import CodeType, FunctionType, ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import scsiameseclu_jax.functional as F
from scsiameseclu_jax.checks import default_device
from scsiameseclu_jax.preprocessing.prepare import Prepared

_PACKAGES = ("scsiameseclu-jax", "jax", "jaxlib", "optax", "flax", "ott-jax")
_CHOICES = ("terms", "encoder", "augment", "transport", "optimizer")
_CALLED = ("func", "args", "keywords", "__func__", "__self__", "__name__")  # partials, methods


def fingerprint(
    prepared: Prepared, method: F.Method, n_clusters: int | str, seed: int
) -> dict[str, str]:
    """Return text for each thing that a fit depends on, equal where fits agree in it.

    Functions are told apart by their code and by what they enclose, as far as that is numbers,
    text, arrays or functions again: not by what they look up in their module.

    Parameters
    ----------
    prepared
        The cells.
    method
        Its choices and settings; its number of clusters is of no account.
    n_clusters
        The number of clusters that was asked for.
    seed
        The seed.
    """
    counts = prepared.counts
    cells = [prepared.features, *prepared.others, prepared.size_factors]
    parts = {
        "cells": [*cells, counts.data, counts.indices, counts.indptr, prepared.batch],
        "links": [prepared.senders, prepared.receivers, prepared.weights],
        "known pairs": prepared.constraints,
        "config": method.config.fingerprint(),
        "n_clusters": str(n_clusters),
        "seed": seed,
        "versions": [platform.python_version(), *map(version, _PACKAGES)],
    }
    parts |= {name: getattr(method, name) for name in _CHOICES}
    return {name: _digest(part) for name, part in parts.items()} | {
        "device": str(default_device().device_kind)
    }


def plain(array: Any) -> np.ndarray:
    """Return an array of jax, of typed keys as well, as one of numpy."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return np.asarray(array)


def _digest(choice: Any) -> str:
    whole = hashlib.sha256()
    for part in _parts(choice, {}):
        whole.update(part + b"\0")
    return whole.hexdigest()[:16]


def _parts(choice: Any, seen: dict[int, Any]) -> Iterator[bytes]:
    """Yield what tells a choice from others; `seen` keeps what was, so that ids stay its own."""
    if choice is None or isinstance(choice, int | float | complex | str | bytes | np.generic):
        yield repr(choice).encode()
        return
    kind = type(choice)
    yield f"{kind.__module__}.{kind.__qualname__}".encode()
    if id(choice) in seen:
        return
    seen[id(choice)] = choice
    inner: Any = ()
    if isinstance(choice, np.ndarray | jax.Array):
        inner = str(choice.dtype), choice.shape, np.ascontiguousarray(plain(choice)).tobytes()
    elif isinstance(choice, FunctionType):
        enclosed = [cell.cell_contents for cell in choice.__closure__ or () if _is_full(cell)]
        defaults = choice.__defaults__, choice.__kwdefaults__
        inner = choice.__module__, choice.__qualname__, choice.__code__, defaults, enclosed
    elif isinstance(choice, CodeType):
        inner = choice.co_code, choice.co_names, choice.co_consts
    elif isinstance(choice, set | frozenset):
        inner = sorted(map(repr, choice))
    elif isinstance(choice, dict):
        inner = [part for pair in choice.items() for part in pair]
    elif isinstance(choice, tuple | list):
        inner = choice
    elif isinstance(choice, type | ModuleType):
        inner = [choice.__name__]
    elif isinstance(choice, np.dtype):
        inner = [str(choice)]
    elif hasattr(choice, "__wrapped__"):  # compiled functions, which keep what they have compiled
        inner = [choice.__wrapped__]
    else:
        inner = [getattr(choice, name, None) for name in _CALLED]
        inner.append(getattr(choice, "__dict__", None))
    for part in inner:
        yield from _parts(part, seen)


def _is_full(cell: Any) -> bool:
    """Whether a cell of a closure holds something yet."""
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
